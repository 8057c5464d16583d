"""s390x for Go's assembler: cmd/internal/obj/s390x, asmz.go (which instruction each form becomes) and objz.go (what
moves the stack pointer). Sources come first, destinations last, but for comparisons; g is what Go calls r13.

There are no words for lfpc, stfpc, lam and stam, which save and restore the FPC register and access registers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from trampoline_dsl.target import Insn

from . import Operands, Spelling, added, offset, words

_LOADS = {
    "lg": "MOVD",
    "lgf": "MOVW",
    "llgf": "MOVWZ",
    "lgh": "MOVH",
    "llgh": "MOVHZ",
    "lgb": "MOVB",
    "llgc": "MOVBZ",
    "ld": "FMOVD",
    "ldy": "FMOVD",
    "le": "FMOVS",
    "ley": "FMOVS",
    "la": "LA",
    "lay": "LAY",
    "vl": "VL",
}
_STORES = {
    "stg": "MOVD",
    "st": "MOVW",
    "sty": "MOVW",
    "sth": "MOVH",
    "sthy": "MOVH",
    "stc": "MOVB",
    "stcy": "MOVB",
    "std": "FMOVD",
    "stdy": "FMOVD",
    "ste": "FMOVS",
    "stey": "FMOVS",
    "vst": "VST",
}
_ZERO_STORES = {"mvghi": "MOVD", "mvhi": "MOVW", "mvhhi": "MOVH", "mvi": "MOVB"}
_MOVES = {
    "lgr": "MOVD",
    "lgfr": "MOVW",
    "llgfr": "MOVWZ",
    "lghr": "MOVH",
    "llghr": "MOVHZ",
    "lgbr": "MOVB",
    "llgcr": "MOVBZ",
    "ldr": "FMOVD",
    "ear": "MOVW",
    "sar": "MOVW",
}
# By how far the value is to the left in the register.
_CONSTANTS = {"lghi": 0, "lgfi": 0, "llill": 0, "llilh": 16, "llihl": 32, "llihh": 48, "llilf": 0, "llihf": 32}
_TWO = {"sgr": "SUB", "msgr": "MULLD", "ngr": "AND", "ogr": "OR", "xgr": "XOR"}
_THREE = {"agrk": "ADD", "sgrk": "SUB", "ngrk": "AND", "ogrk": "OR", "xgrk": "XOR"}
_IMMEDIATES = {"mghi": "MULLD", "msgfi": "MULLD", "oill": "OR", "oilf": "OR", "xilf": "XOR"}
_SHIFTS = {"sllg": "SLD", "srlg": "SRD", "srag": "SRAD"}
_COMPARES = {"cghi": "CMP", "cgfi": "CMP", "clgfi": "CMPU", "cgr": "CMP", "clgr": "CMPU"}
_CONDITIONS = {"e": "EQ", "ne": "NE", "l": "LT", "le": "LE", "h": "GT", "he": "GE"}
_COMPARE_BRANCH = re.compile(r"c(l?)g[ri]j(\w+)")
_REGISTER = re.compile(r"%([rfva])(\d+)")
_LETTERS = {"r": "R", "f": "F", "v": "V", "a": "AR"}
_MEMORY = re.compile(r"(-?\w+)\((?:(%\w+),)?(%\w+)\)")


def _register(name: str) -> str:
    match = _REGISTER.fullmatch(name)
    if match is None:
        raise KeyError(name)
    return "g" if name == "%r13" else _LETTERS[match[1]] + match[2]


def _value(text: str) -> int:
    return int(text, 0)


def _immediate(value: int) -> str:
    return f"${value}" if abs(value) < 0x10000 else f"${value:#x}"


def _memory(text: str) -> str:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise KeyError(text)
    index = f"({_register(match[2])}*1)" if match[2] else ""
    return f"{offset(_value(match[1]))}({_register(match[3])}){index}"


class S390xSpelling(Spelling):
    addresses: Mapping[str, tuple[str, int]] = {"larl": ("MOVD", 1)}

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if mnemonic == "br":
            return "RET" if one.transfer == "return" else f"JMP ({_register(rest[0])})"
        return _SPELL[mnemonic](mnemonic, rest)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if mnemonic == "j":
            return f"JMP {self.label(one)}"
        if mnemonic[1:] in _CONDITIONS:
            return f"B{_CONDITIONS[mnemonic[1:]]} {self.label(one)}"
        if rest[2] == "7":
            mnemonic += "ne"
        match = _COMPARE_BRANCH.fullmatch(mnemonic)
        if match is None or match[2] not in _CONDITIONS:
            return None
        word = f"CMP{'U' if match[1] else ''}B{_CONDITIONS[match[2]]}"
        second = _register(rest[1]) if rest[1].startswith("%") else _immediate(_value(rest[1]))
        return f"{word} {_register(rest[0])}, {second}, {self.label(one)}"

    def register(self, name: str) -> str:
        return _register(name)

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/s390x/objz.go, progedit and preprocess: ADD and SUB of a constant to R15.
        return added(text, "R15")

    def data(self, code: bytes) -> Iterable[str]:
        whole = len(code) - len(code) % 4
        yield from words(code[:whole], "big")
        for byte in code[whole:]:
            yield f"BYTE ${byte:#04x}"

    def lowered(self, size: int) -> str:
        return f"SUB ${size}, R15" if size >= 0 else f"ADD ${-size}, R15"


def _load(mnemonic: str, rest: Operands) -> str:
    return f"{_LOADS[mnemonic]} {_memory(rest[1])}, {_register(rest[0])}"


def _store(mnemonic: str, rest: Operands) -> str:
    return f"{_STORES[mnemonic]} {_register(rest[0])}, {_memory(rest[1])}"


def _zero_store(mnemonic: str, rest: Operands) -> str:
    return f"{_ZERO_STORES[mnemonic]} ${_value(rest[1])}, {_memory(rest[0])}"


def _move(mnemonic: str, rest: Operands) -> str:
    return f"{_MOVES[mnemonic]} {_register(rest[1])}, {_register(rest[0])}"


def _constant(mnemonic: str, rest: Operands) -> str:
    return f"MOVD {_immediate(_value(rest[1]) << _CONSTANTS[mnemonic])}, {_register(rest[0])}"


def _two(mnemonic: str, rest: Operands) -> str:
    return f"{_TWO[mnemonic]} {_register(rest[1])}, {_register(rest[0])}"


def _three(mnemonic: str, rest: Operands) -> str:
    d, a, b = map(_register, rest)
    match mnemonic:
        case "agrk":
            return f"ADD {b}, {d}" if a == d else f"ADD {b}, {a}, {d}"
        case "sgrk":
            return f"SUB {b}, {a}, {d}"
    # The logical ones have their sources the other way round in the instruction.
    return f"{_THREE[mnemonic]} {a}, {b}, {d}"


def _add(mnemonic: str, rest: Operands) -> str:
    value, d = _value(rest[1]), _register(rest[0])
    # Sizes of frames are read in decimal.
    return f"ADD ${value}, {d}" if value >= 0 else f"SUB ${-value}, {d}"


def _with_immediate(mnemonic: str, rest: Operands) -> str:
    return f"{_IMMEDIATES[mnemonic]} {_immediate(_value(rest[1]))}, {_register(rest[0])}"


def _and(mnemonic: str, rest: Operands) -> str:
    """AND takes a mask for one of 64 bits with its sign, ANDW for the lower half; neither changes the other half."""
    value = _value(rest[1])
    match mnemonic:
        case "nill" if value >= 0x8000:
            return f"AND $-{0x10000 - value}, {_register(rest[0])}"
        case "nilf" if value >= 0x80000000:
            return f"AND $-{0x100000000 - value:#x}, {_register(rest[0])}"
        case "nill":
            value |= 0xFFFF0000
        case "nilh":
            value = value << 16 | 0xFFFF
    return f"ANDW {_immediate(value)}, {_register(rest[0])}"


def _or_high(mnemonic: str, rest: Operands) -> str:
    return f"ORW {_immediate(_value(rest[1]) << 16)}, {_register(rest[0])}"


def _insert(mnemonic: str, rest: Operands) -> str:
    d, s, first, last, turn = rest
    word = "RISBGZ" if _value(last) & 0x80 else "RISBG"
    return f"{word} ${_value(first)}, ${_value(last) & 0x7F}, ${_value(turn)}, {_register(s)}, {_register(d)}"


def _shift(mnemonic: str, rest: Operands) -> str:
    d, a, by = rest
    match = _MEMORY.fullmatch(by)
    amount = _register(match[3]) if match else f"${_value(by)}"
    between = "" if d == a else f"{_register(a)}, "
    return f"{_SHIFTS[mnemonic]} {amount}, {between}{_register(d)}"


def _compare(mnemonic: str, rest: Operands) -> str:
    second = _register(rest[1]) if rest[1].startswith("%") else _immediate(_value(rest[1]))
    return f"{_COMPARES[mnemonic]} {_register(rest[0])}, {second}"


def _load_multiple(mnemonic: str, rest: Operands) -> str:
    return f"LMG {_memory(rest[2])}, {_register(rest[0])}, {_register(rest[1])}"


def _store_multiple(mnemonic: str, rest: Operands) -> str:
    return f"STMG {_register(rest[0])}, {_register(rest[1])}, {_memory(rest[2])}"


def _system_call(mnemonic: str, rest: Operands) -> str:
    number = _value(rest[0])
    return f"SYSCALL ${number}" if number else "SYSCALL"


_SPELL: dict[str, Callable[[str, Operands], str]] = {
    **dict.fromkeys(_LOADS, _load),
    **dict.fromkeys(_STORES, _store),
    **dict.fromkeys(_ZERO_STORES, _zero_store),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_CONSTANTS, _constant),
    **dict.fromkeys(_TWO, _two),
    **dict.fromkeys(_THREE, _three),
    **dict.fromkeys(("aghi", "agfi"), _add),
    **dict.fromkeys(_IMMEDIATES, _with_immediate),
    **dict.fromkeys(("nill", "nilh", "nilf"), _and),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(_COMPARES, _compare),
    "oilh": _or_high,
    "risbg": _insert,
    "lmg": _load_multiple,
    "stmg": _store_multiple,
    "svc": _system_call,
    "basr": lambda _, rest: f"CALL ({_register(rest[1])})",
    "ipm": lambda _, rest: f"IPM {_register(rest[0])}",
    "spm": lambda _, rest: f"SPM {_register(rest[0])}",
    ".long": lambda _, rest: {0: "UNDEF"}[_value(rest[0])],
}
