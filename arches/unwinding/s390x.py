"""s390x: zSeries ELF ABI, "DWARF definition". The CFA is 160 bytes above the caller's stack pointer, as in what all
compilers emit: where the caller's register save area ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trampoline_dsl.target import Motion, Register

from . import ByText, kind, number

_R, _F = r"%r(\d+)", r"%f(\d+)"
_PLACE = rf"(-?\w+)\((?:{_R}, ?)?{_R}\)"
_FLOATS = (0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)  # in the order of their numbers, from 16 on


class S390xUnwinding(ByText):
    return_column = 14
    sp = 15
    bias = 160

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        self.integers = {n: registers[f"r{n}"] for n in range(16)}
        self.floats = {n: registers[f"f{n}"] for n in range(16)}
        self.by_text |= {str(n): r for n, r in self.integers.items()}  # GNU text has numbers alone
        self.numbers = {r: n for n, r in self.integers.items()}
        self.numbers |= {self.floats[n]: 16 + place for place, n in enumerate(_FLOATS)}
        single = ((re.compile(rf"(st|l)gy? {_R}, {_PLACE}"), self._single),)
        multiple = ((re.compile(rf"(st|l)mg {_R}, {_R}, (-?\w+)\({_R}\)"), self._multiple),)
        float_ = ((re.compile(rf"(st|l)dy? {_F}, {_PLACE}"), self._float),)
        address = ((re.compile(rf"lay? {_R}, {_PLACE}"), self._address),)
        add = ((re.compile(rf"ag[hf]i {_R}, (-?\w+)"), self._add),)
        self.forms = {
            **dict.fromkeys(("stg", "lg"), single),
            **dict.fromkeys(("stmg", "lmg"), multiple),
            **dict.fromkeys(("std", "stdy", "ld", "ldy"), float_),
            **dict.fromkeys(("la", "lay"), address),
            **dict.fromkeys(("aghi", "agfi"), add),
            "lgr": ((re.compile(rf"lgr {_R}, {_R}"), self.move),),
            "lghi": ((re.compile(rf"lghi {_R}, (-?\w+)"), self.constant),),
            "lgfi": ((re.compile(rf"lgfi {_R}, (-?\w+)"), self.constant),),
            "agr": ((re.compile(rf"agr {_R}, {_R}"), self._index),),
        }

    def _index_of(self, text: str | None) -> Register | None:
        return None if text is None else self.by_text[text]

    def _single(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion(kind(m[1]), self.by_text[m[2]], self.by_text[m[5]], number(m[3]), 8, self._index_of(m[4]))

    def _float(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion(kind(m[1]), self.floats[int(m[2])], self.by_text[m[5]], number(m[3]), 8, self._index_of(m[4]))

    def _multiple(self, m: re.Match[str]) -> Iterable[Motion]:
        first, last, at = int(m[2]), int(m[3]), number(m[4])
        for step in range((last - first) % 16 + 1):
            yield Motion(kind(m[1]), self.integers[(first + step) % 16], self.by_text[m[5]], at + 8 * step, 8)

    def _address(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[4]], number(m[2]), index=self._index_of(m[3]))

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], number(m[2]))

    def _index(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], index=self.by_text[m[2]])
