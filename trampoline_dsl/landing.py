"""Protection of control flow: whether what is entered by an address is a landing pad, and whether returns are in pairs
with calls. How a machine's landing pads look, and what has to lead to one, its architecture says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from . import ir
from .target import Architecture, Arrival, Insn


@dataclass(frozen=True, slots=True)
class Protection:
    """What a file says of its code, for a linker and a loader to rely on. `landing`: what is entered by an address is a
    landing pad (IBT, BTI). `paired`: every return is to where the last call left off that has not been returned from,
    as shadow stacks (SHSTK, GCS) want it."""

    landing: bool = True
    paired: bool = False


def unpaired(function: ir.Function, architecture: Architecture) -> str:
    """Why not every return of a trampoline is to where the last call left off that has not been returned from, if
    so. (`on stack` changes nothing in that: what is called there has returned when the block ends.)"""
    if any(isinstance(node, ir.Resume) for node in ir.walk(function.body)):
        return f"{function.name} leaves by `resume` for calls that were made before"
    if function.suspension is not None:
        return f"{function.name} returns to others than its caller"
    if function.table is not None and architecture.table_pushes:
        return f"{function.name} is entered by calls of {function.table.name} that nothing returns from"
    return ""


def promised(architecture: Architecture, properties: Mapping[int, int]) -> Protection | None:
    """What a file's note of properties promises, if anything."""
    landing, paired = architecture.promises(properties)
    return Protection(landing, paired) if landing or paired else None


@dataclass(slots=True)
class Landings:
    """Follows one run as a machine that sees to it would. `read` gives bytes at an address."""

    architecture: Architecture
    protection: Protection
    read: Callable[[int, int], bytes]
    calls: list[int] = field(default_factory=list)  # where those left off that have not been returned from

    def _lands(self, address: int, arrival: Arrival) -> bool:
        return self.architecture.lands(self.read(address, _LONGEST), arrival)

    def called(self, entry: int, return_address: int) -> str:
        """Somebody else has called `entry` by its address: what is wrong with that, if anything."""
        self.calls.append(return_address)
        if self.protection.landing and not self._lands(entry, "call"):
            return "is called by its address, and does not begin with a landing pad"
        return ""

    def left(self, return_address: int) -> None:
        """A callee that somebody else plays has returned to `return_address`."""
        if self.calls and self.calls[-1] == return_address:
            self.calls.pop()

    def arrives(self, insn: Insn, behind: int, address: int) -> str:
        """`insn`, which ends before `behind`, has led to `address`: what is wrong with that, if anything."""
        arrival = self.architecture.arrival(insn)
        if self.protection.landing and arrival is not None and not self._lands(address, arrival):
            return f"`{insn.text}` leads to {address:#x}, where no landing pad for it is"
        if not self.protection.paired:
            return ""
        if insn.transfer == "call":
            self.calls.append(behind)
        elif insn.transfer == "return":
            last = self.calls.pop() if self.calls else None
            if last != address:
                where = "no call has left off" if last is None else f"the last call left off at {last:#x}"
                return f"`{insn.text}` returns to {address:#x}, and {where}"
        return ""

    def reaches_callee(self, insn: Insn, behind: int, name: str) -> str:
        """`insn`, which ends before `behind`, has led to a function of another file, which begins as functions do
        there."""
        if insn.transfer == "call":
            self.calls.append(behind)
        if self.protection.landing and self.architecture.arrival(insn) == "jump":
            return f"`{insn.text}` enters {name}, and the landing pads of functions are not for such a jump"
        return ""


_LONGEST = 4  # bytes of a landing pad on any machine


def marks_pairs(architecture: Architecture) -> bool:
    """Whether files say of their returns that they are in pairs with calls."""
    return [*architecture.property_note(True)] != [*architecture.property_note(False)]


def bare(architecture: Architecture, functions: Iterable[tuple[str, bytes]]) -> tuple[str, ...]:
    """The names of those functions, given with their code, that do not begin with a landing pad for a call."""
    return tuple(name for name, code in functions if not architecture.lands(code, "call"))
