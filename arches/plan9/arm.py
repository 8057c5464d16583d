"""arm for Go's assembler: cmd/internal/obj/arm, asm5.go (which instruction each form becomes) and obj5.go (what moves
the stack pointer). Sources come first, destinations last; g is what Go calls r10, and F8 is d8 or its lower half.

The text is for GOARM=7; linux/arm-soft has text for GOARM=5. There are no words for mrc of the thread pointer into any
register (the one for R0 becomes a call where GOARM is less than 7), for bx (of ARMv5 and C's convention: in ARMv7 any
addition to pc obeys bit 0 of an address), nor for an msr that leaves GE alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from trampoline_dsl.target import Insn

from . import Operands, Spelling, Symbol, added, offset, words

_LOADS = {"ldr": "MOVW", "ldrb": "MOVBU", "ldrsb": "MOVB", "ldrh": "MOVHU", "ldrsh": "MOVH", "vldr": "MOV"}
_STORES = {"str": "MOVW", "strb": "MOVB", "strh": "MOVH", "vstr": "MOV"}
_THREE = {
    "add": "ADD",
    "sub": "SUB",
    "and": "AND",
    "bic": "BIC",
    "orr": "ORR",
    "eor": "EOR",
    "lsl": "SLL",
    "lsr": "SRL",
    "asr": "SRA",
    "mul": "MUL",
}
_COMPARES = {"cmp": "CMP", "cmn": "CMN"}
_EXTENDS = {"sxtb": "MOVBS", "uxtb": "MOVBU", "sxth": "MOVHS", "uxth": "MOVHU"}
_FLOAT = {"d": "D", "s": "F"}
_CONDITIONS = ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")
_REGISTERS = {f"r{n}": f"R{n}" for n in range(13)} | {
    "r10": "g",
    "sp": "R13",
    "lr": "R14",
    "pc": "R15",
    "fpscr": "FPCR",
    "apsr": "CPSR",
    "apsr_nzcvqg": "CPSR",
    **{f"d{n}": f"F{n}" for n in range(16)},
    **{f"s{2 * n}": f"F{n}" for n in range(16)},
}
_MEMORY = re.compile(r"\[(\w+)(?:, (?:#(-?\w+)|(\w+)))?\]")
_MULTIPLE = re.compile(r"(ld|st)m(ia|ib|da|db|)")
_MOVE_STEP = re.compile(r"MOVW\.(?:W \w+, (-?\d+)\(R13\)|P (-?\d+)\(R13\), (\w+))")


def _register(name: str) -> str:
    return _REGISTERS[name]


def _value(text: str) -> int:
    return int(text.removeprefix("#"), 0)


def _immediate(value: int) -> str:
    return f"${value}" if abs(value) < 0x10000 else f"${value:#x}"


def _operand(text: str) -> str:
    return _immediate(_value(text)) if text.startswith("#") else _register(text)


def _memory(text: str) -> str:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise KeyError(text)
    if match[3]:
        return f"{_register(match[3])}<<0({_register(match[1])})"
    return f"{offset(int(match[2] or '0', 0))}({_register(match[1])})"


def _list(text: str) -> str:
    """A list of registers. Ranges go as far as they are numbered, and g stands alone."""
    names: list[str] = []
    for one in text[1:-1].split(", "):
        first, _, last = one.partition("-")
        if not last:
            names.append(_register(first))
            continue
        low, high = int(first[1:]), int(last[1:])
        for a, b in ((low, min(high, 9)), (max(low, 11), high)) if low <= 10 <= high else ((low, high),):
            if a <= b:
                names.append(f"R{a}-R{b}" if a < b else f"R{a}")
            if b == 9 and high > 9:
                names.append("g")
    return f"[{', '.join(names)}]"


class ArmSpelling(Spelling):
    addresses: Mapping[str, tuple[str, int]] = {"movw": ("MOVW", 2)}  # with the movt behind it

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if mnemonic == "add" and rest[0] == "pc" and one.transfer != "none":
            return "RET" if one.transfer == "return" else f"JMP ({_register(rest[1])})"
        return _SPELL[mnemonic](mnemonic, rest)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if mnemonic == "b":
            return f"JMP {self.label(one)}"
        if mnemonic[1:] in _CONDITIONS:
            return f"{mnemonic.upper()} {self.label(one)}"
        return None

    def register(self, name: str) -> str:
        return _register(name)

    def with_symbol(self, code: Sequence[Insn], symbol: Symbol) -> tuple[str | None, int]:
        if code[0].relocation is not None and code[0].text.startswith(".word"):
            return f"WORD ${symbol(code[0].relocation.symbol)}", 1
        return super().with_symbol(code, symbol)

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/arm/obj5.go, preprocess: ADD and SUB of a constant to R13, MOVW.W to 0(R13) and MOVW.P from
        # there, but for those that load the program counter.
        if (match := _MOVE_STEP.fullmatch(text)) and match[3] != "R15":
            return -int(match[1] or match[2])
        return added(text, "R13")

    def data(self, code: bytes) -> Iterable[str]:
        return words(code, "little")

    def lowered(self, size: int) -> str:
        return f"SUB ${size}, R13" if size >= 0 else f"ADD ${-size}, R13"


def _load(mnemonic: str, rest: Operands) -> str:
    word = _LOADS[mnemonic] + (_FLOAT[rest[0][0]] if mnemonic == "vldr" else "")
    if len(rest) == 3:
        return f"{word}.P {_value(rest[2])}{_memory(rest[1])}, {_register(rest[0])}"
    return f"{word} {_memory(rest[1])}, {_register(rest[0])}"


def _store(mnemonic: str, rest: Operands) -> str:
    word = _STORES[mnemonic] + (_FLOAT[rest[0][0]] if mnemonic == "vstr" else "")
    if rest[1].endswith("!"):
        return f"{word}.W {_register(rest[0])}, {_memory(rest[1][:-1])}"
    return f"{word} {_register(rest[0])}, {_memory(rest[1])}"


def _multiple(mnemonic: str, rest: Operands) -> str:
    match = _MULTIPLE.fullmatch(mnemonic)
    if match is None:
        raise KeyError(mnemonic)
    word, base, registers = f"MOVM.{(match[2] or 'ia').upper()}", f"({_register(rest[0])})", _list(rest[1])
    return f"{word} {base}, {registers}" if match[1] == "ld" else f"{word} {registers}, {base}"


def _pop(mnemonic: str, rest: Operands) -> str:
    return f"MOVM.IA.W (R13), {_list(rest[0])}"


def _move(mnemonic: str, rest: Operands) -> str:
    if not rest[1].startswith("#"):
        return f"{'MVN' if mnemonic == 'mvn' else 'MOVW'} {_register(rest[1])}, {_register(rest[0])}"
    value = _value(rest[1])
    return f"MOVW {_immediate(~value if mnemonic == 'mvn' else value)}, {_register(rest[0])}"


def _float_move(mnemonic: str, rest: Operands) -> str:
    return f"MOV{_FLOAT[rest[0][0]]} {_register(rest[1])}, {_register(rest[0])}"


def _three(mnemonic: str, rest: Operands) -> str:
    d, a, b = rest
    between = "" if d == a else f"{_register(a)}, "
    return f"{_THREE[mnemonic]} {_operand(b)}, {between}{_register(d)}"


def _compare(mnemonic: str, rest: Operands) -> str:
    return f"{_COMPARES[mnemonic]} {_operand(rest[1])}, {_register(rest[0])}"


def _extend(mnemonic: str, rest: Operands) -> str:
    # With a rotation by 0 it is one instruction; without, it would be two shifts.
    return f"{_EXTENDS[mnemonic]} {_register(rest[1])}@>0, {_register(rest[0])}"


def _special(mnemonic: str, rest: Operands) -> str:
    return f"MOVW {_register(rest[1])}, {_register(rest[0])}"


_SPELL: dict[str, Callable[[str, Operands], str]] = {
    **dict.fromkeys(_LOADS, _load),
    **dict.fromkeys(_STORES, _store),
    **dict.fromkeys((f"{kind}m{mode}" for kind in ("ld", "st") for mode in ("", "ia", "ib", "da", "db")), _multiple),
    "pop": _pop,
    **dict.fromkeys(("mov", "mvn", "movw"), _move),
    **dict.fromkeys(("vmov.f64", "vmov.f32"), _float_move),
    **dict.fromkeys(_THREE, _three),
    **dict.fromkeys(_COMPARES, _compare),
    **dict.fromkeys(_EXTENDS, _extend),
    **dict.fromkeys(("vmrs", "vmsr", "mrs", "msr"), _special),
    "blx": lambda _, rest: f"CALL ({_register(rest[0])})",
    "svc": lambda _, rest: f"SWI ${_value(rest[0])}",
    ".inst": lambda _, rest: {0xF7FABCFD: "UNDEF"}[_value(rest[0])],
}
