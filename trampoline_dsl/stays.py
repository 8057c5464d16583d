"""On which stack the code of a trampoline is, before each instruction, and whom a walk from there may find."""

from __future__ import annotations

from collections.abc import Sequence

from .activations import Activation
from .judge import Execute
from .oracle import Stay


class Stays:
    """Where the code of a trampoline is in its source, as far as that moves between stacks: told by the stack pointer
    before every instruction, and by the calls so far."""

    def __init__(self, run: Execute) -> None:
        self.run = run
        # Of each trampoline that runs, by its number: the stays that it may be in. More than one only where frames have
        # hardly any size, or are not ours.
        self.at: dict[int, list[int]] = {}

    def follow(self, activation: Activation) -> None:
        """Before an instruction. Once more makes no difference."""
        stays = self._stays(activation)
        if len(stays) == 1:
            return
        before = self.at.get(activation.number, [0])
        reached = {p for p in before if self._passes(activation, p)}
        reached |= {p + 1 for p in before if self._rests(activation, p + 1)}
        if not reached:  # on the way, or further than seen
            later = range(before[0] + 1, len(stays))
            reached = set([p for p in later if self._rests(activation, p)][:1] or before)
        for p in sorted(reached):
            # Of a frame without a size nothing shows when it is made or given up.
            while self._rests(activation, p) and self._rests(activation, p + 1):
                p += 1
                reached.add(p)
        self.at[activation.number] = sorted(reached)

    def callers(self, activation: Activation) -> list[tuple[int, int, bool]]:
        """Whom a walk from here may find: the caller's stack pointer, where it goes on, and whether it wants registers
        back. On the stack of a block that has pushed a PC that is whoever this seems to have called."""
        own = (activation.cfa, activation.return_address, True)
        stays, at = self._stays(activation), self.at.get(activation.number, [0])
        if len(stays) > 1 and not any(self._rests(activation, p) for p in at):  # on the way to the next, perhaps
            at = [*at, *(p + 1 for p in at if self._passes(activation, p + 1))]
        callers = dict.fromkeys(stays[p].caller for p in at)
        found = [own if caller is None else (*caller, False) for caller in callers]
        if activation.function.variadic and found == [own]:
            # Arguments have been taken off the stack: what is behind the return address is the caller's again.
            behind = self.run.machine.sp + self._pushed(activation)
            if activation.cfa < behind <= activation.cfa + self.run._popped(activation):
                found.append((behind, activation.return_address, True))
        return found

    def _pushed(self, activation: Activation) -> int:
        """How many bytes calls push: and so code pushes a value of its own for a moment, of a word or two."""
        return self.run.word if activation.function.convention.return_address is None else 0

    def _stays(self, activation: Activation) -> Sequence[Stay]:
        stays = self.run.trace.stays
        return stays[activation.number] if activation.number < len(stays) else _AT_HOME

    def _frame(self, activation: Activation, place: int) -> tuple[int, int] | None:
        """Where a stay's frame begins and ends; None if the calls so far do not belong to it."""
        stays, run = self._stays(activation), self.run
        if place >= len(stays) or stays[place].after > run.taken:
            return None
        if place + 1 < len(stays) and stays[place + 1].after < run.taken + stays[place + 1].changed:
            return None
        top = stays[place].top
        end = activation.cfa if top is None else top
        return end - run.bench.codes[activation.function.name].frame, end

    def _rests(self, activation: Activation, place: int) -> bool:
        """Whether the stack pointer is where it is throughout a stay."""
        if self.run.bench.foreign:  # whose frames are as they are
            return self._passes(activation, place)
        frame = self._frame(activation, place)
        return frame is not None and frame[0] == self.run.machine.sp

    def _passes(self, activation: Activation, place: int) -> bool:
        """Whether the stack pointer may be what it is in a stay, if only for a moment."""
        frame, run, sp = self._frame(activation, place), self.run, self.run.machine.sp
        if frame is None:
            return False
        start, end = frame
        if self._stays(activation)[place].top is None:
            end += run._popped(activation)
        if run.bench.foreign:
            return sp <= end and any(end in region and region.base <= sp for region in run.stack_of)
        if self._stays(activation)[place].top is not None and start < end:
            end -= 1  # there it is lowered at once
        return start - 2 * self._pushed(activation) <= sp <= end


_AT_HOME = (Stay(0),)


__all__ = ["Stays"]
