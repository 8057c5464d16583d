"""ppc64 for Go's assembler: cmd/internal/obj/ppc64/{doc,asm9,obj9}.go.

Sources come first, destinations last; what is subtracted comes before what it is subtracted from. r30 is g. An address
that is the sum of two registers has the second one first: `(R4)(R3)` is `0(r3, r4)`. ADDIS of R0 makes the upper half
of a constant: for MOVD the assembler may take r0 for the number zero, which it is not in C's functions.

It has no words for `mtfsf` with 64 bits, nor for `mfvscr` and `mtvscr`.

The stack pointer is not followed into a frame of 32 KiB or more, whose size is in a register. Under ELFv1 a TEXT is the
code of a C function: a pointer to it takes a descriptor beside it, as DEFINE_PPC64X_FUNCDESC (asm_ppc64x.h) makes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from trampoline_dsl.target import ByteOrder, Insn

from . import Operands, Spelling, offset, words

_LOADS = {
    "ld": "MOVD",
    "lwz": "MOVWZ",
    "lwa": "MOVW",
    "lhz": "MOVHZ",
    "lha": "MOVH",
    "lbz": "MOVBZ",
    "lfd": "FMOVD",
    "lfs": "FMOVS",
}
_STORES = {
    "std": "MOVD",
    "stw": "MOVW",
    "sth": "MOVH",
    "stb": "MOVB",
    "stfd": "FMOVD",
    "stfs": "FMOVS",
    "stdu": "MOVDU",
}
_INDEXED_LOADS = {f"{name}x": word for name, word in _LOADS.items()} | {"lvx": "LVX"}
_INDEXED_STORES = {f"{name}x": word for name, word in _STORES.items()} | {"stvx": "STVX"}
_THREE = {
    "add": "ADD",
    "and": "AND",
    "or": "OR",
    "xor": "XOR",
    "mulld": "MULLD",
    "sld": "SLD",
    "srd": "SRD",
    "srad": "SRAD",
}
_IMMEDIATE = {
    "addi": "ADD",
    "addis": "ADDIS",
    "ori": "OR",
    "oris": "ORIS",
    "xori": "XOR",
    "xoris": "XORIS",
    "andi.": "ANDCC",
    "andis.": "ANDISCC",
    "mulli": "MULLD",
    "sldi": "SLD",
    "srdi": "SRD",
    "sradi": "SRAD",
}
_TWO = {"mr": "MOVD", "extsb": "MOVB", "extsh": "MOVH", "extsw": "MOVW", "fmr": "FMOVD", "neg": "NEG"}
_COMPARES = {"cmpd": "CMP", "cmpdi": "CMP", "cmpld": "CMPU", "cmpldi": "CMPU"}
_BRANCHES = {
    "b": "JMP",
    "beq": "BEQ",
    "bne": "BNE",
    "blt": "BLT",
    "ble": "BLE",
    "bgt": "BGT",
    "bge": "BGE",
    "bns": "BVC",
}
_ACCESS = re.compile(r"(-?\w+)\((%\w+)\)")
_STEP = re.compile(r"ADD \$(-?\d+), R1|MOVDU \w+, (-?\d+)\(R1\)")
_XER = 1  # its number among the special purpose registers


def _register(name: str) -> str:
    if name == "%r30":
        return "g"
    if not re.fullmatch(r"%(r|f|v|cr)\d+", name):
        raise KeyError(name)
    return name[1:].upper()


def _memory(text: str) -> str:
    match = _ACCESS.fullmatch(text)
    if match is None:
        raise KeyError(text)
    return f"{offset(int(match[1], 0))}({_register(match[2])})"


def _sum(a: str, b: str) -> str:
    return f"({_register(b)})" if a == "0" else f"({_register(b)})({_register(a)})"


class Ppc64Spelling(Spelling):
    addresses: Mapping[str, tuple[str, int]] = {"lis": ("MOVD", 2)}

    def __init__(self, order: ByteOrder) -> None:
        self.order = order

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        return _plain(mnemonic, rest)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        return f"{_BRANCHES[mnemonic]} {self.label(one)}"

    def register(self, name: str) -> str:
        return _register(name)

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/ppc64/obj9.go, preprocess: ADD of a constant to R1, and MOVDU at an offset from it.
        match = _STEP.fullmatch(text)
        return -int(match[1] or match[2]) if match is not None else 0

    def data(self, code: bytes) -> Iterable[str]:
        return words(code, self.order)

    def lowered(self, size: int) -> str:
        return f"ADD ${-size}, R1"


def _plain(mnemonic: str, rest: Operands) -> str | None:
    if mnemonic in _LOADS:
        return f"{_LOADS[mnemonic]} {_memory(rest[1])}, {_register(rest[0])}"
    if mnemonic in _STORES:
        return f"{_STORES[mnemonic]} {_register(rest[0])}, {_memory(rest[1])}"
    if mnemonic in _INDEXED_LOADS:
        return f"{_INDEXED_LOADS[mnemonic]} {_sum(rest[1], rest[2])}, {_register(rest[0])}"
    if mnemonic in _INDEXED_STORES:
        return f"{_INDEXED_STORES[mnemonic]} {_register(rest[0])}, {_sum(rest[1], rest[2])}"
    if mnemonic in _THREE:
        d, a, b = (_register(name) for name in rest)
        return f"{_THREE[mnemonic]} {b}, {d}" if a == d else f"{_THREE[mnemonic]} {b}, {a}, {d}"
    if mnemonic in _IMMEDIATE:
        d, a, value = _register(rest[0]), _register(rest[1]), int(rest[2], 0)
        return f"{_IMMEDIATE[mnemonic]} ${value}, {d}" if a == d else f"{_IMMEDIATE[mnemonic]} ${value}, {a}, {d}"
    if mnemonic in _TWO:
        return f"{_TWO[mnemonic]} {_register(rest[1])}, {_register(rest[0])}"
    if mnemonic in _COMPARES:
        second = f"${int(rest[1], 0)}" if mnemonic.endswith("i") else _register(rest[1])
        return f"{_COMPARES[mnemonic]} {_register(rest[0])}, {second}"
    spell = _SPELL.get(mnemonic)
    return spell(rest) if spell is not None else None


def _upper(rest: Operands) -> str:
    return f"ADDIS ${int(rest[1], 0)}, R0, {_register(rest[0])}"


def _subtract(rest: Operands) -> str:
    d, b, a = (_register(name) for name in rest)
    return f"SUB {b}, {d}" if a == d else f"SUB {b}, {a}, {d}"


def _clear_left(rest: Operands) -> str:
    return f"RLDICL $0, {_register(rest[1])}, ${int(rest[2], 0)}, {_register(rest[0])}"


def _clear_right(rest: Operands) -> str:
    return f"RLDICR $0, {_register(rest[1])}, ${63 - int(rest[2], 0)}, {_register(rest[0])}"


def _rotate_and_mask(rest: Operands) -> str:
    """The low bits of a register, by what the assembler makes of a move."""
    word = {(0, 24, 31): "MOVBZ", (0, 16, 31): "MOVHZ", (0, 32): "MOVWZ"}[tuple(int(text, 0) for text in rest[2:])]
    return f"{word} {_register(rest[1])}, {_register(rest[0])}"


def _invert(rest: Operands) -> str:
    return f"NOR {_register(rest[1])}, {_register(rest[1])}, {_register(rest[0])}"


def _special(text: str) -> str:
    number = int(text, 0)
    return "XER" if number == _XER else f"SPR({number})"


def _one_operand(form: str) -> Callable[[Operands], str]:
    return lambda rest: form.format(_register(rest[0]))


def _fixed(text: str) -> Callable[[Operands], str]:
    return lambda rest: text


_SPELL: dict[str, Callable[[Operands], str]] = {
    "li": lambda rest: f"MOVD ${int(rest[1], 0)}, {_register(rest[0])}",
    "lis": _upper,
    "subf": _subtract,
    "clrldi": _clear_left,
    "clrrdi": _clear_right,
    "rlwinm": _rotate_and_mask,
    "rldic": _rotate_and_mask,
    "not": _invert,
    "mflr": _one_operand("MOVD LR, {}"),
    "mtlr": _one_operand("MOVD {}, LR"),
    "mtctr": _one_operand("MOVD {}, CTR"),
    "mfcr": _one_operand("MOVW CR, {}"),
    "mffs": _one_operand("MOVFL FPSCR, {}"),
    "mfspr": lambda rest: f"MOVD {_special(rest[1])}, {_register(rest[0])}",
    "mtspr": lambda rest: f"MOVD {_register(rest[1])}, {_special(rest[0])}",
    "mtcrf": lambda rest: f"MOVFL {_register(rest[1])}, ${int(rest[0], 0)}",
    "mtocrf": lambda rest: f"MOVFL {_register(rest[1])}, ${int(rest[0], 0)}",
    "bctrl": _fixed("CALL (CTR)"),
    "bctr": _fixed("JMP (CTR)"),
    "blr": _fixed("RET"),
    "trap": _fixed("TW $31, R0, R0"),
    "sc": _fixed("SYSCALL"),
}
