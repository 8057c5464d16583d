"""386 and amd64: System V psABI i386, table 2.14, and x86-64 psABI, figure 3.36."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trampoline_dsl.target import Motion, Register

from . import ByText, number

_I386 = {"eax": 0, "ecx": 1, "edx": 2, "ebx": 3, "esp": 4, "ebp": 5, "esi": 6, "edi": 7}
_AMD64 = {"rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7}
_PLACE = r"(?:\w+ ptr )?\[(\w+)(?:([+-]\w+))?\]"


class X86Unwinding(ByText):
    def __init__(self, registers: Mapping[str, Register], sp: Register, word: int) -> None:
        super().__init__(registers)
        names = _I386 if word == 4 else _AMD64 | {f"r{n}": n for n in range(8, 16)}
        self.numbers = {registers[name]: n for name, n in names.items()}
        self.return_column = 8 if word == 4 else 16
        self.pointer, self.word = sp, word
        self.sp = self.numbers[sp]
        two = rf"({_WORD}), (\w+)"
        self.forms = {
            "push": ((re.compile(rf"push ({_WORD})"), self._push), (re.compile(r"push .+"), self._lower)),
            "pushfd": ((re.compile("pushfd"), self._lower),),
            "pushfq": ((re.compile("pushfq"), self._lower),),
            ".att_syntax": ((re.compile(r".*call .*"), self._lower),),
            "pop": ((re.compile(rf"pop ({_WORD})"), self._pop),),
            "popfd": ((re.compile("popfd"), self._raise),),
            "popfq": ((re.compile("popfq"), self._raise),),
            "add": ((re.compile(rf"add ({_WORD}), (-?\d\w*)"), self._add), (re.compile(f"add {two}"), self._index)),
            "sub": ((re.compile(rf"sub ({_WORD}), (-?\d\w*)"), self._subtract),),
            "lea": ((re.compile(rf"lea ({_WORD}), {_PLACE}"), self._address),),
            "mov": (
                (re.compile(f"mov {two}"), self._move),
                (re.compile(rf"mov {_PLACE}, ({_WORD})"), self._store),
                (re.compile(rf"mov ({_WORD}), {_PLACE}"), self._load),
            ),
        }

    def _push(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("store", self.by_text[m[1]], self.pointer, -self.word, self.word)
        yield Motion("set", self.pointer, self.pointer, -self.word)

    def _pop(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("load", self.by_text[m[1]], self.pointer, 0, self.word)
        yield Motion("set", self.pointer, self.pointer, self.word)

    def _lower(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.pointer, self.pointer, -self.word)

    def _raise(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.pointer, self.pointer, self.word)

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], number(m[2]))

    def _subtract(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], -number(m[2]))

    def _index(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], index=self.by_text[m[2]])

    def _address(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[2]], number(m[3]))

    def _move(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[2]])

    def _store(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("store", self.by_text[m[3]], self.by_text[m[1]], number(m[2]), self.word)

    def _load(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("load", self.by_text[m[1]], self.by_text[m[2]], number(m[3]), self.word)


_WORD = r"[a-z]\w+"
