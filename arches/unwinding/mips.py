"""mips, o32 and n64: gcc's numbers (gcc/config/mips/mips.h, DWARF_FRAME_RETURN_COLUMN), which no document has: 0 to 31
the integer registers, 32 to 63 the floating point ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trampoline_dsl.target import Bank, ByteOrder, Motion, Register

from . import ByText, kind, number

_R = r"(\$\w+)"
_PLACE = rf"(-?\w+)\({_R}\)"
_SIZES = {"w": 4, "d": 8}


class MipsUnwinding(ByText):
    return_column = 31
    sp = 29

    def __init__(self, registers: Mapping[str, Register], word: int, order: ByteOrder) -> None:
        super().__init__(registers)
        self.word, self.order = word, order
        whole = tuple(dict.fromkeys(registers.values()))  # in an order, on which directives may depend
        self.numbers = {r: r.number for r in whole if r.bank is Bank.INTEGER}
        self.floats = {r.number: r for r in whole if r.bank is Bank.FLOAT}
        self.numbers |= {r: 32 + n for n, r in self.floats.items()}
        memory = ((re.compile(rf"(l|s)([wd]) {_R}, {_PLACE}"), self._integer),)
        float_ = ((re.compile(rf"(l|s)([wd])c1 {_R}, {_PLACE}"), self._float),)
        add = ((re.compile(rf"d?addiu {_R}, {_R}, (-?\w+)"), self._add),)
        index = ((re.compile(rf"d?(add|sub)u {_R}, {_R}, {_R}"), self.indexed),)
        self.forms = {
            **dict.fromkeys(("lw", "sw", "ld", "sd"), memory),
            **dict.fromkeys(("lwc1", "swc1", "ldc1", "sdc1"), float_),
            **dict.fromkeys(("addiu", "daddiu"), add),
            **dict.fromkeys(("addu", "daddu", "subu", "dsubu"), index),
            "move": ((re.compile(rf"move {_R}, {_R}"), self.move),),
            "li": ((re.compile(rf"li {_R}, (-?\w+)"), self.constant),),
            "lui": ((re.compile(rf"lui {_R}, (-?\w+)"), self._upper),),
            "ori": ((re.compile(rf"ori {_R}, {_R}, (\w+)"), self._add),),
        }

    def _integer(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion(kind(m[1]), self.by_text[m[3]], self.by_text[m[5]], number(m[4]), _SIZES[m[2]])

    def _float(self, m: re.Match[str]) -> Iterable[Motion]:
        size = _SIZES[m[2]]
        first, base, at = self.by_text[m[3]], self.by_text[m[5]], number(m[4])
        if size <= first.bits // 8:
            yield Motion(kind(m[1]), first, base, at, size)
            return
        # A double in a pair of registers, whose even one has its low half.
        low, high = (at, at + 4) if self.order == "little" else (at + 4, at)
        yield Motion(kind(m[1]), first, base, low, 4)
        yield Motion(kind(m[1]), self.floats[first.number + 1], base, high, 4)

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        if m[2] == "$zero":
            yield Motion("set", self.by_text[m[1]], None, number(m[3]))
        else:
            yield Motion("set", self.by_text[m[1]], self.by_text[m[2]], number(m[3]))

    def _upper(self, m: re.Match[str]) -> Iterable[Motion]:
        value = (number(m[2]) & 0xFFFF) << 16
        yield Motion("set", self.by_text[m[1]], None, value - (1 << 32) if value >> 31 else value)
