"""386 and amd64: System V psABI i386, table 2.14, and x86-64 psABI, figure 3.36. On Windows amd64 has numbers of its
own: Microsoft Learn, "x64 exception handling"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from trampoline_dsl.target import Bank, Insn, Motion, Register, WindowsUnwinding

from . import ByText, number

_I386 = {"eax": 0, "ecx": 1, "edx": 2, "ebx": 3, "esp": 4, "ebp": 5, "esi": 6, "edi": 7}
_AMD64 = {"rax": 0, "rdx": 1, "rcx": 2, "rbx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7}
_PLACE = r"(?:\w+ ptr )?\[(\w+)(?:([+-]\d\w*))?\]"


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
                (re.compile(f"mov {two}"), self.move),
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

    def _store(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("store", self.by_text[m[3]], self.by_text[m[1]], number(m[2]), self.word)

    def _load(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("load", self.by_text[m[1]], self.by_text[m[2]], number(m[3]), self.word)


class X64Unwinding(X86Unwinding, WindowsUnwinding):
    """Windows on amd64: registers are numbered as in instructions, xmm0 is 16. Microsoft Learn, "x64 exception
    handling", "Operation info"."""

    tables = "x64"

    def __init__(self, registers: Mapping[str, Register], sp: Register) -> None:
        super().__init__(registers, sp, 8)
        whole = set(registers.values())
        vectors = [r for r in whole if r.bank is Bank.FLOAT]
        self.numbers = {r: r.number for r in whole if r.bank is Bank.INTEGER} | {r: 16 + r.number for r in vectors}
        self.sp, self.return_column = self.numbers[sp], 32
        self.names = {r.name: n for r, n in self.numbers.items()}
        self.raised = re.compile(rf"add {self.pointer}, \d\w*")
        moves = (
            (re.compile(rf"mov(?:up|ap)[sd] {_PLACE}, (xmm\d+)"), self._store_vector),
            (re.compile(rf"mov(?:up|ap)[sd] (xmm\d+), {_PLACE}"), self._load_vector),
        )
        self.forms = {**self.forms, **dict.fromkeys(("movups", "movaps", "movupd", "movapd"), moves)}

    def directive(self, step: int, saves: Sequence[tuple[Register, int]]) -> str | None:
        if step and saves:
            return f".seh_pushreg {saves[0][0]}" if step == 8 and len(saves) == 1 else None
        if step:
            return f".seh_stackalloc {step}" if step % 8 == 0 else None
        [(register, offset)] = saves
        if register.bank is Bank.INTEGER:
            return f".seh_savereg {register}, {offset}" if offset % 8 == 0 else None
        return f".seh_savexmm {register}, {offset}" if offset % 16 == 0 else None

    def leaving(self, insn: Insn) -> Literal["step", "pop", "leave"] | None:
        if insn.user_text:
            return None
        if insn.transfer == "none":
            return "step" if self.raised.fullmatch(insn.text) else "pop" if _POP.fullmatch(insn.text) else None
        # A jump to where a register says is none of those that are looked for.
        if insn.transfer == "return" or (insn.transfer == "jump" and insn.relocation is not None):
            return "leave"
        return None

    def _store_vector(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("store", self.by_text[m[3]], self.by_text[m[1]], number(m[2]), 16)

    def _load_vector(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("load", self.by_text[m[1]], self.by_text[m[2]], number(m[3]), 16)


_WORD = r"[a-z]\w+"
_POP = re.compile(rf"pop {_WORD}")
