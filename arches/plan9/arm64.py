"""arm64 for Go's assembler: cmd/internal/obj/arm64/doc.go. Sources come first, destinations last; w registers are in
the mnemonic; g, R18_PLATFORM and R29 are what Go calls x28, x18 and x29."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from trampoline_dsl.target import Insn

from . import Operands, Spelling, added, offset, words

_LOADS = {
    "ldr": "MOVD",
    "ldur": "MOVD",
    "ldrb": "MOVBU",
    "ldurb": "MOVBU",
    "ldrh": "MOVHU",
    "ldurh": "MOVHU",
    "ldrsb": "MOVB",
    "ldursb": "MOVB",
    "ldrsh": "MOVH",
    "ldursh": "MOVH",
    "ldrsw": "MOVW",
    "ldursw": "MOVW",
}
_STORES = {
    "str": "MOVD",
    "stur": "MOVD",
    "strb": "MOVB",
    "sturb": "MOVB",
    "strh": "MOVH",
    "sturh": "MOVH",
}
_THREE = {
    "add": "ADD",
    "sub": "SUB",
    "and": "AND",
    "orr": "ORR",
    "eor": "EOR",
    "lsl": "LSL",
    "lsr": "LSR",
    "asr": "ASR",
    "mul": "MUL",
}
_EXTENDS = {"sxtb": "SXTB", "sxth": "SXTH", "sxtw": "SXTW", "uxtb": "UXTB", "uxth": "UXTH"}
_COMPARES = {"cmp": "CMP", "cmn": "CMN", "tst": "TST"}
_PAIRS = {"x": "P", "w": "PW", "d": "PD", "s": "PS", "q": "PQ"}
_FLOAT = {"d": "FMOVD", "s": "FMOVS", "q": "FMOVQ"}
_SPECIAL = {"sp": "RSP", "x28": "g", "x18": "R18_PLATFORM", "xzr": "ZR", "wzr": "ZR"}
_SYSTEM = {"fpcr": "FPCR", "fpsr": "FPSR", "tpidr_el0": "TPIDR_EL0", "nzcv": "NZCV"}
_REGISTER = re.compile(r"([xwdsqbh])(\d+)")
_MEMORY = re.compile(r"\[(\w+)(?:, (?:#(-?\w+)|(\w+)))?\]")
_SHIFTED = re.compile(r"lsl #(\w+)")


def _register(name: str) -> str:
    if name in _SPECIAL:
        return _SPECIAL[name]
    match = _REGISTER.fullmatch(name)
    if match is None:
        raise KeyError(name)
    if match[1] in "xw":
        return _SPECIAL.get("x" + match[2], "R" + match[2])
    return "F" + match[2]


def _value(text: str) -> int:
    return int(text.removeprefix("#"), 0)


def _operand(text: str) -> str:
    return f"${_value(text)}" if text.startswith("#") else _register(text)


def _memory(text: str) -> str:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise KeyError(text)
    if match[3]:
        return f"({_register(match[1])})({_register(match[3])})"
    return f"{offset(int(match[2] or '0', 0))}({_register(match[1])})"


class Arm64Spelling(Spelling):
    addresses: Mapping[str, tuple[str, int]] = {"adrp": ("MOVD", 2)}

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        return _SPELL[mnemonic](mnemonic, rest)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if mnemonic == "b":
            return f"JMP {self.label(one)}"
        if mnemonic in ("cbz", "cbnz"):
            wide = "W" if rest[0].startswith("w") else ""
            return f"{mnemonic.upper()}{wide} {_register(rest[0])}, {self.label(one)}"
        if mnemonic.startswith("b."):
            return f"B{mnemonic[2:].upper()} {self.label(one)}"
        return None

    def register(self, name: str) -> str:
        return _register(name)

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/arm64/obj7.go, preprocess: ADD and SUB of a constant to RSP.
        return added(text, "RSP")

    def data(self, code: bytes) -> Iterable[str]:
        return words(code, "little")

    def lowered(self, size: int) -> str:
        return f"SUB ${size}, RSP" if size >= 0 else f"ADD ${-size}, RSP"


def _load(mnemonic: str, rest: Operands) -> str:
    register = rest[0]
    word = _LOADS[mnemonic]
    if register[0] in _FLOAT:
        word = _FLOAT[register[0]]
    elif word == "MOVD" and register.startswith("w"):
        word = "MOVWU"
    if len(rest) == 3:
        return f"{word}.P {_value(rest[2])}{_memory(rest[1])}, {_register(register)}"
    return f"{word} {_memory(rest[1])}, {_register(register)}"


def _store(mnemonic: str, rest: Operands) -> str:
    register = rest[0]
    word = _STORES[mnemonic]
    if register[0] in _FLOAT:
        word = _FLOAT[register[0]]
    elif word == "MOVD" and register.startswith("w"):
        word = "MOVW"
    if rest[1].endswith("!"):
        return f"{word}.W {_register(register)}, {_memory(rest[1][:-1])}"
    return f"{word} {_register(register)}, {_memory(rest[1])}"


def _pair(mnemonic: str, rest: Operands) -> str:
    kind = rest[0][0]
    kind = "x" if rest[0] == "xzr" else kind
    word = ("F" if kind in _FLOAT else "") + ("LD" if mnemonic == "ldp" else "ST") + _PAIRS[kind]
    registers = f"({_register(rest[0])}, {_register(rest[1])})"
    if mnemonic == "ldp":
        return f"{word} {_memory(rest[2])}, {registers}"
    return f"{word} {registers}, {_memory(rest[2])}"


def _move(mnemonic: str, rest: Operands) -> str:
    d, s = rest
    if ".16b" in d:
        return f"VMOV V{s[1:-4]}.B16, V{d[1:-4]}.B16"
    if s.startswith("#"):
        value = _value(s)
        if d.startswith("w"):
            value &= 0xFFFFFFFF
            if value & 0xFFFF and value >> 16 and value >> 16 != 0xFFFF and value & 0xFFFF != 0xFFFF:
                return f"ORRW ${value}, ZR, {_register(d)}"  # a pattern of bits of the lower half alone
        return f"MOVD ${value}, {_register(d)}"
    if d.startswith("w"):
        return f"MOVWU {_register(s)}, {_register(d)}"
    return f"MOVD {_register(s)}, {_register(d)}"


def _wide(mnemonic: str, rest: Operands) -> str:
    shift = 0
    if len(rest) == 3:
        match = _SHIFTED.fullmatch(rest[2])
        shift = int(match[1], 0) if match else 0
    if mnemonic == "movk" and _value(rest[1]) == 0:
        raise ValueError("Go's assembler refuses this one")
    value = f"$({_value(rest[1])}<<{shift})" if shift else f"${_value(rest[1])}"
    return f"{mnemonic.upper()} {value}, {_register(rest[0])}"


def _float_move(mnemonic: str, rest: Operands) -> str:
    kind = next(name[0] for name in rest if name[0] in "ds")
    return f"{_FLOAT[kind]} {_register(rest[1])}, {_register(rest[0])}"


def _three(mnemonic: str, rest: Operands) -> str:
    d, a, b, *shift = rest
    value = _operand(b)
    if shift:
        match = _SHIFTED.fullmatch(shift[0])
        if match is None:
            raise KeyError(shift[0])
        value = f"${_value(b) << int(match[1], 0)}"
    word = _THREE[mnemonic] + ("W" if d.startswith("w") else "")
    between = "" if d == a else f"{_register(a)}, "
    return f"{word} {value}, {between}{_register(d)}"


def _compare(mnemonic: str, rest: Operands) -> str:
    a, b, *shift = rest
    value = _operand(b)
    if shift:
        match = _SHIFTED.fullmatch(shift[0])
        if match is None:
            raise KeyError(shift[0])
        value = f"${_value(b) << int(match[1], 0)}"
    return f"{_COMPARES[mnemonic]}{'W' if a.startswith('w') else ''} {value}, {_register(a)}"


def _spell_two(words: dict[str, str]) -> Callable[[str, Operands], str]:
    def spell(mnemonic: str, rest: Operands) -> str:
        word = words[mnemonic] + ("W" if rest[0].startswith("w") else "")
        return f"{word} {_register(rest[1])}, {_register(rest[0])}"

    return spell


def _from_system(mnemonic: str, rest: Operands) -> str:
    return f"MRS {_SYSTEM[rest[1]]}, {_register(rest[0])}"


def _to_system(mnemonic: str, rest: Operands) -> str:
    return f"MSR {_register(rest[1])}, {_SYSTEM[rest[0]]}"


def _constant(mnemonic: str, rest: Operands) -> str:
    return f"{mnemonic.upper()} ${_value(rest[0])}"


_SPELL: dict[str, Callable[[str, Operands], str]] = {
    **dict.fromkeys(_LOADS, _load),
    **dict.fromkeys(_STORES, _store),
    **dict.fromkeys(("ldp", "stp"), _pair),
    **dict.fromkeys(("movz", "movn", "movk"), _wide),
    **dict.fromkeys(_THREE, _three),
    **dict.fromkeys(_COMPARES, _compare),
    **dict.fromkeys(_EXTENDS, _spell_two(_EXTENDS)),
    "mov": _move,
    "fmov": _float_move,
    "mvn": _spell_two({"mvn": "MVN"}),
    "mrs": _from_system,
    "msr": _to_system,
    "svc": _constant,
    "brk": _constant,
    "blr": lambda _, rest: f"CALL ({_register(rest[0])})",
    "br": lambda _, rest: f"JMP ({_register(rest[0])})",
    "ret": lambda _, rest: "RET" if not rest else f"JMP ({_register(rest[0])})",
    "nop": lambda _, rest: "NOOP",
}
