"""Which memory belongs to a trampoline that runs: the obligations `bounds` and `writes`, as far as a step or a store
shows them."""

from __future__ import annotations

from collections.abc import Mapping

from . import ir
from .activations import Activation
from .emulate import MachineError
from .run_state import RunState
from .world import Region

_LONGEST_STORE = 64  # bytes, at least what any instruction stores in one piece


class OwnMemory(RunState):
    """The stacks that the code may be on, and where it may store."""

    def _own_stack(self) -> tuple[int, int]:
        """From where on and up to where it may begin to store as it likes, and nobody has to be told."""
        if self.watcher is not None or self.begun != 1 or not self.activations:
            return 0, 0
        cfa = self.activations[0].cfa
        region = next((region for region in self.stack_of if cfa in region), None)
        return (region.base, max(cfa - _LONGEST_STORE, region.base)) if region is not None else (0, 0)

    def _stack_at(self, sp: int, activation: Activation) -> Region | None:
        """The stack that sp is on, if it is one that the trampoline may be on, and below what belongs to others."""
        for region in self.stack_of:
            if region.base <= sp <= region.end:
                if activation.cfa in region and sp <= activation.cfa + self._popped(activation):
                    return region
                for top in self.trace.entered:
                    if top in region and sp <= top:
                        return region
                for event in self.trace.events:
                    if event.resumed is not None and event.resumed.sp == sp:
                        return region
                return None
        resumed = self.trace.events[-1].resumed if self.trace.events else None
        if resumed is not None and resumed.sp == sp:
            return self.stack_of[0]
        return None

    def _nearest(self, sp: int, activation: Activation) -> int:
        """The last stack pointer that would have been on the stack."""
        region = next((r for r in self.stack_of if activation.cfa in r), self.stack_of[0])
        return min(max(sp, region.base), activation.cfa + self._popped(activation))

    def wrote(self, address: int, size: int, value: int, pc: int) -> None:
        """Each store of the code."""
        if self.watcher is not None:
            self.watcher.wrote(address, size)
        if not self.activations or self._may_write(address, size):
            return
        where = self._describe(address)
        self._violate(
            "writes",
            f"writes {size} bytes at {address:#x}, {where}",
            pc=pc,
            memory=address,
            expected=self._what_is_at(address, size),
            found=value & ((1 << 8 * size) - 1),
        )

    def _what_is_at(self, address: int, size: int) -> int | None:
        try:
            return int.from_bytes(self.machine.read(address, size), self.order)
        except MachineError:
            return None

    def _may_write(self, address: int, size: int) -> bool:
        activation = self.activations[-1]
        if self.own is None or self.own[0] is not activation:
            own = next((region.base for region in self.stack_of if activation.cfa in region), activation.cfa)
            self.own = activation, own
        if self.own[1] <= address and address + size <= activation.cfa:
            return True
        for region in self.stack_of:
            if address in region:
                if activation.cfa in region:
                    if address + size <= activation.cfa:
                        return True
                elif any(top in region and address + size <= top for top in self.trace.entered):
                    return True
                break
        if all(address + i in self.trace.permitted for i in range(size)):
            return True
        if self.witness is not None and self.witness.permits(address, size):
            return True
        return all(self._given(address + i, activation) for i in range(size))

    def _given(self, address: int, activation: Activation) -> bool:
        """Whether a byte above the CFA is the callee's: its arguments in memory, and the areas of its convention."""
        convention = activation.function.convention
        offset = address - activation.cfa
        if offset < 0:
            return False
        for place in activation.outside:
            if place <= address < place + self.word:
                return False
        if convention.first_stack_argument <= offset < activation.stack_bytes:
            return True
        return offset < convention.area

    def _describe(self, address: int) -> str:
        activation = self.activations[-1]
        for region in self.build.plan.regions:
            if address in region:
                if activation.cfa in region:
                    return f"{address - activation.cfa} bytes above the caller's stack pointer: not its own"
                return f"in {region.name}, where the source writes nothing"
        return "outside of all memory"


def why_misplaced(function: ir.Function, slots: Mapping[str, int], frame: int, cfa: int) -> str:
    """Why the structs in a frame cannot be where the compiler says that they are."""
    taken: list[tuple[int, int]] = []
    for slot in function.slots:
        if slot.name not in slots:
            continue
        start, end = slots[slot.name], slots[slot.name] + slot.size
        if start < 0 or end > frame:
            return f"`{slot.name}` is not within the frame, which has {frame} bytes: {start} to {end}"
        if any(start < other_end and other < end for other, other_end in taken):
            return f"`{slot.name}` at {start} is where another slot is"
        if (cfa - frame + start) % min(slot.alignment, function.convention.alignment):
            return f"`{slot.name}` at {start} is not aligned to {slot.alignment}"
        taken.append((start, end))
    return ""
