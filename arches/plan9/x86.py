"""386 and amd64 for Go's assembler: cmd/internal/obj/x86. Sources come first, destinations last, but a comparison's
operands are in the manuals' order; a register has one name, and its width is in the mnemonic.

Go's assembler has no word for a return that pops arguments (`ret n`), and none for a word at a place in a segment that
is not the one of Go's own g: these are data. A segment's prefix is a byte in front of the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from trampoline_dsl.target import Insn

from . import Operands, Spelling, Symbol, offset

_WIDTHS = {8: "B", 16: "W", 32: "L", 64: "Q"}
_SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64, "xmmword": 128}
_BRANCHES = {
    "je": "JEQ",
    "jne": "JNE",
    "jl": "JLT",
    "jle": "JLE",
    "jg": "JGT",
    "jge": "JGE",
    "jb": "JCS",
    "jbe": "JLS",
    "ja": "JHI",
    "jae": "JCC",
    "jmp": "JMP",
}
_ALONE = {
    "cdqe": "CDQE",
    "cwde": "CWDE",
    "cld": "CLD",
    "std": "STD",
    "pushfq": "PUSHFQ",
    "popfq": "POPFQ",
    "pushfd": "PUSHFL",
    "popfd": "POPFL",
    "syscall": "SYSCALL",
    "ud2": "UD2",
    "ret": "RET",
    "nop": "NOP",
}
_ONE_PLACE = {"stmxcsr": "STMXCSR", "ldmxcsr": "LDMXCSR", "fnstcw": "FSTCW", "fldcw": "FLDCW"}
_VECTORS = frozenset({"movss", "movsd", "movaps", "movups", "xorps"})
_TWO = {"add": "ADD", "sub": "SUB", "and": "AND", "or": "OR", "xor": "XOR", "imul": "IMUL", "xchg": "XCHG"}
_ONE = {"not": "NOT", "neg": "NEG", "inc": "INC", "dec": "DEC", "push": "PUSH", "pop": "POP"}
_SHIFTS = {"shl": "SHL", "shr": "SHR", "sar": "SAR"}
_COMPARES = {"cmp": "CMP", "test": "TEST"}
_ROOTS = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")


def _names() -> dict[str, tuple[str, int]]:
    """Go's name of each register, and the bits that ours stands for."""
    known = {f"xmm{n}": (f"X{n}", 128) for n in range(16)}
    for root in _ROOTS:
        name = root.upper()
        known |= {"r" + root: (name, 64), "e" + root: (name, 32), root: (name, 16)}
        known[(root[0] if root.endswith("x") else root) + "l"] = (name, 8)
    for n in range(8, 16):
        known |= {f"r{n}{letter}": (f"R{n}", bits) for letter, bits in (("", 64), ("d", 32), ("w", 16), ("b", 8))}
    return known


_REGISTERS = _names()
# The prefixes of segments: SDM volume 2A, 2.1.1. Go 1.19 has no operand for an address in a register within one.
_SEGMENTS = {"fs": 0x64, "gs": 0x65}
_MEMORY = re.compile(r"(?:(\w+) ptr )?(?:([fg]s):)?\[(.*)\]")
_THREAD_WORD = re.compile(r"dword ptr \[(\w+)-4\]")  # on 386, with no `access`
_ADDRESS = re.compile(r"([a-z]\w*)?(?:\+([a-z]\w*)(?:\*(\d))?)?(?:([+-]?)(0x[0-9a-f]+|\d+))?")


def _register(name: str) -> str:
    return _REGISTERS[name][0]


def _bits(rest: Sequence[str]) -> int:
    """The width of an operation, by its operands."""
    for text in rest:
        if text in _REGISTERS:
            return _REGISTERS[text][1]
        if match := _MEMORY.fullmatch(text):
            return _SIZES[match[1]]
    raise KeyError(rest)


def _constant(text: str, bits: int) -> str:
    """The number that is as wide as the operation: only then does Go's assembler see whether a byte holds it."""
    value = int(text, 0) & (1 << bits) - 1
    return f"${value - (1 << bits) if value >> bits - 1 else value}"


def _place(text: str) -> str:
    match = _MEMORY.fullmatch(text)
    address = _ADDRESS.fullmatch(match[3]) if match else None
    if match is None or address is None or address[1] is None:
        raise KeyError(text)
    base, index, scale, sign, distance = address.groups()
    value = int((sign or "") + (distance or "0"), 0)
    indexed = f"({_register(index)}*{scale or 1})" if index is not None else ""
    return f"{offset(value)}({_register(base)}){indexed}"


def _operand(text: str, bits: int) -> str:
    if text in _REGISTERS:
        return _register(text)
    return _place(text) if text.endswith("]") else _constant(text, bits)


class X86Spelling(Spelling):
    """`bits` of a word; `slot` is the operand that stands for the word of g in memory, where Go's linker knows it, or
    for the base of the segment that the word is in, on 386."""

    def __init__(self, bits: int, slot: str = "") -> None:
        self.bits = bits
        self.word = bits // 8
        self.slot = slot

    def register(self, name: str) -> str:
        return _register(name)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        return f"{_BRANCHES[mnemonic]} {self.label(one)}"

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        if not rest:
            return _ALONE[mnemonic]
        spell = _SPELL[mnemonic]
        if self.slot and mnemonic == "mov" and (text := self.thread(one, rest)):
            return text
        text = spell(mnemonic, rest)
        match = _STEP.fullmatch(text)
        if match is None:
            return text
        value = int(match[2]) if match[1] == "SUB" else -int(match[2])
        return f"ADJSP ${value}"

    def thread(self, one: Insn, rest: Sequence[str]) -> str:
        """A move of the word of g, or of what it is counted from, as go_tls.h has them; else nothing."""
        move = "MOV" + _WIDTHS[self.bits]
        before, known = "", ""
        for text in rest:
            base = _THREAD_WORD.fullmatch(text)
            if text == self.slot and self.word == 8:
                known = "(TLS)"
                if one.memory == "write" and one.writes:
                    # Position-independent code needs the first of two lines. Other code loses it.
                    [lost] = one.writes
                    before, known = f"{move} TLS, {_register(lost.name)}\n", f"({_register(lost.name)})(TLS*1)"
            elif text == self.slot:
                known = "TLS"
            elif base is not None and one.access is None and self.word == 4:
                known = f"({_register(base[1])})(TLS*1)"
        if not known:
            return ""
        d, s = (_register(text) if text in _REGISTERS else known for text in rest)
        return f"{before}{move} {s}, {d}"

    def with_symbol(self, code: Sequence[Insn], symbol: Symbol) -> tuple[str | None, int]:
        one = code[0]
        assert one.relocation is not None
        name = symbol(one.relocation.symbol)
        if one.transfer in ("call", "jump"):
            return f"{one.transfer.upper().replace('JUMP', 'JMP')} {name}", 1
        if len(one.writes) != 1:
            return None, 1
        [register] = one.writes
        d = _register(register.name)
        letter = _WIDTHS[self.bits]
        if one.memory == "read":
            return f"MOV{letter} {name}, {d}", 1
        return (f"LEAQ {name}, {d}" if self.word == 8 else f"MOVL ${name}, {d}"), 1

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/x86/obj6.go, preprocess: pushes, pops and ADJSP, and nothing else.
        mnemonic, _, rest = text.partition(" ")
        match mnemonic:
            case "ADJSP":
                return int(rest.removeprefix("$"))
            case "PUSHQ" | "PUSHL" | "PUSHFQ" | "PUSHFL":
                return self.word
            case "POPQ" | "POPL" | "POPFQ" | "POPFL":
                return -self.word
        return 0

    def data(self, code: bytes) -> Iterable[str]:
        return [f"BYTE ${byte:#x}" for byte in code]

    def lowered(self, size: int) -> str:
        return f"ADJSP ${size}"


# Steps of the stack pointer within a frame are made by ADD and SUB. What else changes it, which is no step, is LEA.
_STEP = re.compile(r"(ADD|SUB)[LQ] \$(-?\d+), SP")


def _move(mnemonic: str, rest: Sequence[str]) -> str:
    bits = _bits(rest)
    text = f"MOV{_WIDTHS[bits]} {_operand(rest[1], bits)}, {_operand(rest[0], bits)}"
    for segment, prefix in _SEGMENTS.items():
        if any(f" {segment}:[" in one for one in rest):
            return f"BYTE ${prefix:#x}; {text} // {segment.upper()}"
    return text


def _extend(mnemonic: str, rest: Sequence[str]) -> str:
    d, s = rest
    sign = "ZX" if mnemonic == "movzx" else "SX"
    return f"MOV{_WIDTHS[_bits([s])]}{_WIDTHS[_bits([d])]}{sign} {_operand(s, 0)}, {_register(d)}"


def _two(mnemonic: str, rest: Sequence[str]) -> str:
    bits = _bits(rest)
    values = [_operand(text, bits) for text in rest]
    if len(rest) == 3:
        return f"IMUL3{_WIDTHS[bits]} {values[2]}, {values[1]}, {values[0]}"
    return f"{_TWO[mnemonic]}{_WIDTHS[bits]} {values[1]}, {values[0]}"


def _one(mnemonic: str, rest: Sequence[str]) -> str:
    bits = _bits(rest)
    return f"{_ONE[mnemonic]}{_WIDTHS[bits]} {_operand(rest[0], bits)}"


def _shift(mnemonic: str, rest: Sequence[str]) -> str:
    d, count = rest
    return f"{_SHIFTS[mnemonic]}{_WIDTHS[_bits([d])]} {_operand(count, 32)}, {_operand(d, 0)}"


def _compare(mnemonic: str, rest: Sequence[str]) -> str:
    bits = _bits(rest)
    a, b = (_operand(text, bits) for text in rest)
    return f"{_COMPARES[mnemonic]}{_WIDTHS[bits]} {a}, {b}"


def _address(mnemonic: str, rest: Sequence[str]) -> str:
    return f"LEA{_WIDTHS[_bits(rest)]} {_place(rest[1])}, {_register(rest[0])}"


def _vector(mnemonic: str, rest: Sequence[str]) -> str:
    return f"{mnemonic.upper()} {_operand(rest[1], 0)}, {_operand(rest[0], 0)}"


def _x87(mnemonic: str, rest: Sequence[str]) -> str:
    letter = {32: "F", 64: "D"}[_bits(rest)]
    return f"FMOV{letter} {_place(rest[0])}, F0" if mnemonic == "fld" else f"FMOV{letter}P F0, {_place(rest[0])}"


def _through(word: str) -> Callable[[str, Sequence[str]], str]:
    return lambda _, rest: f"{word} {_register(rest[0])}"


_SPELL: dict[str, Callable[[str, Sequence[str]], str]] = {
    "mov": _move,
    "movabs": _move,
    **dict.fromkeys(("movzx", "movsx", "movsxd"), _extend),
    **dict.fromkeys(_TWO, _two),
    **dict.fromkeys(_ONE, _one),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(_COMPARES, _compare),
    **dict.fromkeys(_VECTORS, _vector),
    **dict.fromkeys(_ONE_PLACE, lambda mnemonic, rest: f"{_ONE_PLACE[mnemonic]} {_place(rest[0])}"),
    "lea": _address,
    "fld": _x87,
    "fstp": _x87,
    "int": lambda _, rest: f"INT {_constant(rest[0], 32)}",
    "call": _through("CALL"),
    "jmp": _through("JMP"),
}
