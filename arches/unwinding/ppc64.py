"""ppc64: 64-bit PowerPC ELF ABI, "DWARF definition"; the columns in which gcc saves lr (65), CR2 to CR4 (68 + n) and
vector registers (77 + n) are those of gcc/config/rs6000/rs6000.h."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trampoline_dsl.target import Bank, Motion, Register

from . import ByText, kind, number

_R = r"%?r(\d+)"
_SIZES = {"stw": 4, "lwz": 4, "std": 8, "ld": 8, "stfd": 8, "lfd": 8, "stdu": 8}


class Ppc64Unwinding(ByText):
    return_column = 65
    sp = 1

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        self.integers = {n: registers[f"r{n}"] for n in range(32)}
        self.fields = {n: registers[f"cr{n}"] for n in range(8)}
        whole = tuple(dict.fromkeys(registers.values()))  # in an order, on which directives may depend
        self.by_text |= {str(n): r for n, r in self.integers.items()}  # GNU text has numbers alone
        self.numbers = {r: n for n, r in self.integers.items()}
        self.numbers |= {r: 32 + r.number for r in whole if r.bank is Bank.FLOAT}
        self.numbers |= {r: 77 + r.number for r in whole if r.bank is Bank.VECTOR}
        self.numbers |= {self.fields[n]: 68 + n for n in (2, 3, 4)}
        self.kept_with = {self.fields[n]: self.fields[2] for n in (3, 4)}
        # For ELFv1 gcc lets the column of CR2 stand for the whole word; for ELFv2 each field has its own.
        self.also = dict.fromkeys(self.kept_with, (70,))
        self.link = registers["lr"]
        self.numbers[self.link] = 65
        place = rf"(-?\w+)\({_R}\)"
        whole_ = ((re.compile(rf"(stw|lwz|std|ld|stdu) {_R}, {place}"), self._integer),)
        float_ = ((re.compile(rf"(stfd|lfd) (%?f\d+), {place}"), self._float),)
        vector = ((re.compile(rf"(st|l)vx (%?v\d+), (?:%?r)?(\d+), {_R}"), self._vector),)
        self.forms = {
            **dict.fromkeys(("stw", "lwz", "std", "ld", "stdu"), whole_),
            **dict.fromkeys(("stfd", "lfd"), float_),
            **dict.fromkeys(("stvx", "lvx"), vector),
            "stdux": ((re.compile(rf"stdux {_R}, {_R}, {_R}"), self._store_and_lower),),
            "mflr": ((re.compile(rf"mflr {_R}"), self._from_link),),
            "mtlr": ((re.compile(rf"mtlr {_R}"), self._to_link),),
            "mfcr": ((re.compile(rf"mfcr {_R}"), self._from_fields),),
            "mtcrf": ((re.compile(rf"mtcrf (\w+), {_R}"), self._to_fields),),
            "mr": ((re.compile(rf"mr {_R}, {_R}"), self.move),),
            "li": ((re.compile(rf"li {_R}, (-?\w+)"), self.constant),),
            "lis": ((re.compile(rf"lis {_R}, (-?\w+)"), self._upper),),
            "ori": ((re.compile(rf"ori {_R}, {_R}, (\w+)"), self.added),),  # of bits that were zero
            "addi": ((re.compile(rf"addi {_R}, {_R}, (-?\w+)"), self._add),),
            "addis": ((re.compile(rf"addis {_R}, {_R}, (-?\w+)"), self._add_upper),),
            "add": ((re.compile(rf"add {_R}, {_R}, {_R}"), self._index),),
        }

    def saved_bytes(self, register: Register, mask: int) -> int:
        return 4 if register.bank is Bank.CONTROL and register is not self.link else super().saved_bytes(register, mask)

    def of_saved(self, register: Register, value: int) -> int:
        """The word has all fields, the first one leftmost."""
        if register.bank is Bank.CONTROL and register is not self.link:
            return value >> 4 * (7 - register.number) & 15
        return value

    def _integer(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion(kind(m[1]), self.by_text[m[2]], self.by_text[m[4]], number(m[3]), _SIZES[m[1]])
        if m[1] == "stdu":
            yield Motion("set", self.by_text[m[4]], self.by_text[m[4]], number(m[3]))

    def _float(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion(kind(m[1]), self.by_text[m[2]], self.by_text[m[4]], number(m[3]), 8)

    def _vector(self, m: re.Match[str]) -> Iterable[Motion]:
        index = None if m[3] == "0" else self.by_text[m[3]]
        yield Motion(kind(m[1]), self.by_text[m[2]], self.by_text[m[4]], 0, 16, index)

    def _store_and_lower(self, m: re.Match[str]) -> Iterable[Motion]:
        base, index = self.by_text[m[2]], self.by_text[m[3]]
        yield Motion("store", self.by_text[m[1]], base, 0, 8, index)
        yield Motion("set", base, base, index=index)

    def _from_link(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.link)

    def _to_link(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.link, self.by_text[m[1]])

    def _from_fields(self, m: re.Match[str]) -> Iterable[Motion]:
        """All fields come along; where the first one of those that are kept is, the others are."""
        yield Motion("set", self.by_text[m[1]], self.fields[2])

    def _to_fields(self, m: re.Match[str]) -> Iterable[Motion]:
        for n, field in self.fields.items():
            if number(m[1]) >> (7 - n) & 1:
                yield Motion("set", field, self.by_text[m[2]])

    def _upper(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], None, _signed(number(m[2])) << 16)

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        base = None if m[2] == "0" else self.by_text[m[2]]
        yield Motion("set", self.by_text[m[1]], base, number(m[3]))

    def _add_upper(self, m: re.Match[str]) -> Iterable[Motion]:
        base = None if m[2] == "0" else self.by_text[m[2]]
        yield Motion("set", self.by_text[m[1]], base, _signed(number(m[3])) << 16)

    def _index(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[2]], index=self.by_text[m[3]])


def _signed(value: int) -> int:
    return value - (1 << 16) if value >> 15 == 1 else value
