"""arm: DWARF for the Arm Architecture (AADWARF32), 4.1. The CFI goes to .debug_frame: what unwinds at run time on this
machine reads tables of another kind, .ARM.exidx and .ARM.extab (Exception Handling ABI for the Arm Architecture)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from trampoline_dsl.target import Bank, IndexedUnwinding, Motion, Register

from . import ByText, kind, number

_R = r"(r\d+|sp|lr|ip|fp|pc)"
_PLACE = rf"\[{_R}(?:, #(-?\w+))?\](!)?(?:, #(-?\w+))?"


class ArmUnwinding(ByText):
    return_column = 14
    sp = 13
    header = (".cfi_sections .debug_frame",)

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        whole = tuple(dict.fromkeys(registers.values()))  # in an order, on which directives may depend
        self.numbers = {r: r.number for r in whole if r.bank is Bank.INTEGER and r.number < 15}
        self.numbers |= {r: 256 + r.number for r in whole if r.bank in (Bank.FLOAT, Bank.VECTOR) and r.bits == 64}
        # gcc describes a register of 64 bits by its halves, s0 to s31 (AADWARF32, 4.1, note 4: obsolete, and in use).
        self.also = {r: (64 + 2 * n, 65 + 2 * n) for r, number in self.numbers.items() if 0 <= (n := number - 256) < 16}
        self.by_text |= dict(registers)
        self.pointer = next(r for r, n in self.numbers.items() if n == 13)
        one = ((re.compile(rf"(ld|st)r {_R}, {_PLACE}"), self.single),)
        two = ((re.compile(rf"(ld|st)rd {_R}, {_R}, {_PLACE}"), self.pair),)
        float_ = ((re.compile(rf"v(ld|st)r (d\d+), {_PLACE}"), self.single),)
        add = (
            (re.compile(rf"(add|sub) {_R}, {_R}, #(\w+)"), self._add),
            (re.compile(rf"(add|sub) {_R}, {_R}, {_R}"), self.indexed),
        )
        self.forms = {
            "str": one,
            "ldr": one,
            "strd": two,
            "ldrd": two,
            "vstr": float_,
            "vldr": float_,
            "add": add,
            "sub": add,
            "mov": (
                (re.compile(rf"mov {_R}, {_R}"), self.move),
                (re.compile(rf"mov {_R}, #(-?\w+)"), self.constant),
            ),
            "movw": ((re.compile(rf"movw {_R}, #(\w+)"), self.constant),),
            "movt": ((re.compile(rf"movt {_R}, #(\w+)"), self._upper),),
            "orr": ((re.compile(rf"orr {_R}, {_R}, #(\w+)"), self.added),),  # of bits that were zero
            "push": ((re.compile(r"push \{(.*)\}"), self._push),),
            "pop": ((re.compile(r"pop \{(.*)\}"), self._pop),),
            "vpush": ((re.compile(r"vpush \{(.*)\}"), self._push),),
            "vpop": ((re.compile(r"vpop \{(.*)\}"), self._pop),),
            "stm": ((re.compile(rf"stm {_R}(), \{{(.*)\}}"), self._multiple),),
            "stmib": ((re.compile(rf"stmib {_R}(), \{{(.*)\}}"), self._above),),
            "ldm": ((re.compile(rf"ldm {_R}(), \{{(.*)\}}"), self._multiple),),
        }

    def _listed(self, text: str) -> list[Register]:
        found: list[Register] = []
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            low, high = self.by_text[first], self.by_text[last or first]
            bank = [r for r in self.by_text.values() if r.bank is low.bank and r.bits == low.bits]
            found += sorted({r for r in bank if low.number <= r.number <= high.number}, key=lambda r: r.number)
        return found

    def _many(self, way: str, registers: list[Register], base: Register, at: int) -> Iterable[Motion]:
        for register in registers:
            yield Motion(kind(way), register, base, at, register.bits // 8)
            at += register.bits // 8

    def _push(self, m: re.Match[str]) -> Iterable[Motion]:
        registers = self._listed(m[1])
        size = sum(r.bits // 8 for r in registers)
        yield from self._many("st", registers, self.pointer, -size)
        yield Motion("set", self.pointer, self.pointer, -size)

    def _pop(self, m: re.Match[str]) -> Iterable[Motion]:
        registers = self._listed(m[1])
        yield from self._many("ld", [r for r in registers if r in self.numbers], self.pointer, 0)
        yield Motion("set", self.pointer, self.pointer, sum(r.bits // 8 for r in registers))

    def _multiple(self, m: re.Match[str]) -> Iterable[Motion]:
        yield from self._many(m[0][:2], self._listed(m[3]), self.by_text[m[1]], 0)

    def _above(self, m: re.Match[str]) -> Iterable[Motion]:
        yield from self._many("st", self._listed(m[3]), self.by_text[m[1]], 4)

    def _add(self, m: re.Match[str]) -> Iterable[Motion]:
        size = number(m[4]) if m[1] == "add" else -number(m[4])
        yield Motion("set", self.by_text[m[2]], self.by_text[m[3]], size)

    def _upper(self, m: re.Match[str]) -> Iterable[Motion]:
        yield Motion("set", self.by_text[m[1]], self.by_text[m[1]], number(m[2]) << 16)


class IndexedArmUnwinding(ArmUnwinding, IndexedUnwinding):
    """Linux: the directives are GNU as's and LLVM's. Those that have no name of their own are bytes: Exception Handling
    ABI for the Arm Architecture, "Frame unwinding instructions"."""

    # Assemblers refer to these, which whoever unwinds has. Weakly, so that a program that nobody unwinds links too;
    # GNU as takes that of symbols alone that something else refers to as well.
    trailer = tuple(
        line
        for routine in ("__aeabi_unwind_cpp_pr0", "__aeabi_unwind_cpp_pr1")
        for line in (f".weak {routine}", f".reloc ., R_ARM_NONE, {routine}")
    )
    brackets = (".fnstart", ".fnend")
    cannot = ".cantunwind"
    followed = ".unwind_raw 4, 0x82, 0x00 @ pop {sp}"  # the word is loaded, and no writeback follows

    def __init__(self, registers: Mapping[str, Register]) -> None:
        super().__init__(registers)
        self.registers = {number: register for register, number in self.numbers.items()}

    def passed(self, size: int) -> str:
        return f".pad #{size}"

    def popped(self, registers: Sequence[Register]) -> str:
        kind = "save" if registers[0].bank is Bank.INTEGER else "vsave"
        return f".{kind} {{{', '.join(_ranges(registers))}}}"

    def taken_from(self, register: Register) -> str:
        return f".unwind_raw 0, {0x90 | register.number:#x} @ sp = {register.gnu}"

    def together(self, below: Register, above: Register) -> bool:
        """Core registers lie in the order of their numbers; of the others one directive has a range."""
        if (below.bank is Bank.INTEGER) != (above.bank is Bank.INTEGER):
            return False
        return below.number < above.number if below.bank is Bank.INTEGER else below.number + 1 == above.number


def _ranges(registers: Sequence[Register]) -> Iterable[str]:
    """A list as `push` has it: of three and more in a row the first and the last one."""
    start = 0
    for end, register in enumerate(registers, 1):
        following = registers[end] if end < len(registers) else None
        # lr and sp are not in a row with others.
        if following is not None and following.number == register.number + 1 and following.gnu[0] == register.gnu[0]:
            continue
        if end - start > 2:
            yield f"{registers[start].gnu}-{register.gnu}"
        else:
            yield from (one.gnu for one in registers[start:end])
        start = end
