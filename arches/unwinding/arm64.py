"""arm64: DWARF for the Arm 64-bit Architecture (AADWARF64), 4.1. On Windows: Microsoft Learn, "ARM64 exception
handling"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from trampoline_dsl.target import Bank, Insn, Motion, Register, WindowsUnwinding

from . import ByText, number

_SIZES = {"x": 8, "d": 8, "q": 16}
_ONE = r"([xdq]\d+|sp|xzr)"
_PLACE = r"\[(x\d+|sp)(?:, #(-?\w+))?\](!)?(?:, #(-?\w+))?"


class Arm64Unwinding(ByText):
    return_column = 30
    sp = 31

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        whole = tuple(dict.fromkeys(registers.values()))  # in an order, on which directives may depend
        self.numbers = {r: r.number for r in whole if r.bank is Bank.INTEGER and r.number <= 31 and r.name != "xzr"}
        floats = [r for r in whole if r.bank in (Bank.FLOAT, Bank.VECTOR)]
        self.numbers |= {r: 64 + r.number for r in floats}
        self.by_text |= {f"{letter}{r.number}": r for r in floats for letter in "dq"}
        part = ((re.compile(rf"(?:ld|st)r(?:s?[bhw])? [bhswx]\d+, {_PLACE}"), self._part),)
        single = ((re.compile(rf"(ld|st)u?r {_ONE}, {_PLACE}"), self.single), *part)
        pair = ((re.compile(rf"(ld|st)p {_ONE}, {_ONE}, {_PLACE}"), self.pair),)
        add = (
            (re.compile(r"(add|sub) (x\d+|sp), (x\d+|sp), #(\w+)(, lsl #0xc)?"), self._add),
            (re.compile(r"(add|sub) (x\d+|sp), (x\d+|sp), (x\d+)"), self.indexed),
        )
        self.forms = {
            **dict.fromkeys(("str", "ldr", "stur", "ldur"), single),
            **dict.fromkeys(("stp", "ldp"), pair),
            **dict.fromkeys(("strb", "ldrb", "ldrsb", "strh", "ldrh", "ldrsh", "ldrsw"), part),
            "add": add,
            "sub": add,
            "mov": (
                (re.compile(r"mov (x\d+|sp), (x\d+|sp)"), self.move),
                (re.compile(r"mov (x\d+), #(-?\w+)"), self.constant),
            ),
            "movk": ((re.compile(r"movk (x\d+), #(\w+), lsl #(\w+)"), self._keep),),
        }

    def moved(self, name: str) -> tuple[Register | None, int]:
        """Of v0 to v31 a part, by the letter."""
        return None if name == "xzr" else self.by_text[name], _SIZES[name[0]]

    def _part(self, m: re.Match[str]) -> Iterable[Motion]:
        """A walk wants no part of a register, but the base may move. Groups: those of a place."""
        if m[3] or m[4]:
            yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], number(m[2] if m[3] else m[4]))

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        size = number(m[4]) << (12 if m[5] else 0)
        yield Motion("set", self.by_text[m[2]], self.by_text[m[3]], size if m[1] == "add" else -size)

    def _keep(self, m: re.Match[str]) -> Iterable[Motion]:
        """The halfword was zero before: constants are made so."""
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], number(m[2]) << number(m[3]))


class WindowsArm64Unwinding(Arm64Unwinding, WindowsUnwinding):
    """Windows: the tables know x19 to x30, and the lower halves of v8 to v15, here 64 + 8 to 64 + 15. The directives
    are LLVM's. Microsoft Learn, "ARM64 exception handling", "Unwind codes"."""

    tables = "arm64"
    no_code = ".seh_nop"

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        self.numbers = {r: n for r, n in self.numbers.items() if 19 <= n <= 31 or 72 <= n <= 79}
        self.names = {name: self.numbers[r] for name, r in self.by_text.items() if r in self.numbers}

    def saved_bytes(self, register: Register, mask: int) -> int:
        return 8

    def directive(self, step: int, saves: Sequence[tuple[Register, int]]) -> str | None:
        if not saves:
            return f".seh_stackalloc {step}" if step % 16 == 0 and step < 1 << 28 else None
        ordered = sorted(saves, key=lambda save: save[1])
        numbers, offset = [self.numbers[register] for register, _ in ordered], ordered[0][1]
        if len(numbers) > 1 and ordered[1][1] != offset + 8:
            return None
        if step and offset:
            return None
        name = f"x{numbers[0]}" if numbers[0] < 64 else f"d{numbers[0] - 64}"
        letter = "" if numbers[0] < 64 else "f"
        suffix, distance = ("_x", step) if step else ("", offset)
        furthest = 504
        match numbers:
            case [_]:
                what, furthest = f"save_{letter}reg", 256 if step else 504
            case [29, 30]:
                what, name, furthest = "save_fplr", "", 512 if step else 504
            case [first, 30] if first % 2 and not step:
                what = "save_lrpair"
            case [first, second] if second == first + 1 and second != 30:
                what, furthest = f"save_{letter}regp", 512 if step else 504
            case _:
                return None
        if distance % 8 or distance > furthest:
            return None
        return f".seh_{what}{suffix} {name}{', ' if name else ''}{distance}"

    def leaving(self, insn: Insn) -> Literal["step", "pop", "leave"] | None:
        return "leave" if insn.transfer in ("return", "jump") else None
