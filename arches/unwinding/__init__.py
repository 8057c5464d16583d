"""What each family's call frame information is made of: DWARF's numbers of its registers, and what its instructions do
with the words that a walk of the stack looks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal

from trampoline_dsl.target import Insn, Motion, Register, Unwinding

Form = tuple[re.Pattern[str], Callable[[re.Match[str]], Iterable[Motion]]]


class ByText(Unwinding):
    """Motions by the text of an instruction: `forms` has the first words of instructions, and what they may look
    like. What has no form has no motions."""

    forms: Mapping[str, tuple[Form, ...]]

    def __init__(self, registers: Mapping[str, Register]) -> None:
        self.by_text = {name: register for r in registers.values() for name, register in ((r.gnu, r), (r.name, r))}
        self._kept = lru_cache(maxsize=4096)(self._read)

    def motions(self, insn: Insn) -> tuple[Motion, ...]:
        return () if insn.user_text else self._kept(insn.text)

    def _read(self, text: str) -> tuple[Motion, ...]:
        for pattern, made in self.forms.get(text.split(None, 1)[0], ()):
            match = pattern.fullmatch(text)
            if match is not None:
                try:
                    return tuple(made(match))
                except KeyError:
                    return ()  # a part of a register, or a symbol
        return ()

    def move(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: destination, source."""
        yield Motion("set", self.by_text[m[1]], self.by_text[m[2]])

    def constant(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: destination, number."""
        yield Motion("set", self.by_text[m[1]], None, number(m[2]))

    def added(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: destination, source, number. So are bits that were zero before."""
        yield Motion("set", self.by_text[m[1]], self.by_text[m[2]], number(m[3]))

    def indexed(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: "add" or "sub", destination, base, index."""
        yield Motion("set", self.by_text[m[2]], self.by_text[m[3]], index=self.by_text[m[4]], minus=m[1] == "sub")

    def single(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: "ld" or "st", the register, and the place as in `_transfer`."""
        return self._transfer(m[1], [m[2]], m[3], m[4], m[5], m[6])

    def pair(self, m: re.Match[str]) -> Iterable[Motion]:
        """Groups: "ld" or "st", the registers from the lower address on, and the place as in `_transfer`."""
        return self._transfer(m[1], [m[2], m[3]], m[4], m[5], m[6], m[7])

    def moved(self, name: str) -> tuple[Register | None, int]:
        """What is loaded or stored by a name, and how many bytes; nothing for one that is always zero."""
        register = self.by_text[name]
        return register, register.bits // 8

    def _transfer(
        self, way: str, names: Iterable[str], base: str, offset: str | None, before: str | None, after: str | None
    ) -> Iterable[Motion]:
        """`before`: there if the base becomes the place; `after`: what is added to the base behind the access."""
        pointer, at = self.by_text[base], number(offset)
        for name in names:
            register, size = self.moved(name)
            if register is not None:
                yield Motion(kind(way), register, pointer, at, size)
            at += size
        if before:
            yield Motion("set", pointer, pointer, number(offset))
        elif after:
            yield Motion("set", pointer, pointer, number(after))


def kind(mnemonic: str) -> Literal["load", "store"]:
    return "load" if mnemonic.startswith("l") else "store"


def number(text: str | None) -> int:
    return int(text, 0) if text else 0
