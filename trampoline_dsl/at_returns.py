"""What holds when a trampoline returns, or leaves for good: the obligations `preserve` and `sp`."""

from __future__ import annotations

from .activations import Activation
from .entering import Entering
from .oracle import enters_without_thread
from .run_state import away
from .target import Convention


class AtReturns(Entering):
    """Compares what a trampoline leaves with what its caller wants back."""

    def _check_returned(self, activation: Activation) -> int | None:
        event = self._next(("return",), "returns")
        convention = activation.function.convention
        machine = self.machine
        popped = event.popped or 0 if activation.function.variadic else self._popped(activation)
        want = activation.cfa + popped
        if machine.sp != want:
            who = convention.name if event.popped is None else "the source"
            self._violate(
                "sp",
                f"returns with the stack pointer {away(machine.sp - want)} where {who} leaves it",
                register=self.architecture.sp.name,
                expected=want,
                found=machine.sp,
            )
        self._check_preserved(activation)
        self._compare_memory(event)
        types = [p.type.value_type for p in activation.function.parameters]
        result_type = activation.function.result
        location = convention.place(types, result_type.value_type).result if result_type is not None else ()
        self._check_stacks("returns", convention, location)
        if result_type is not None and event.result is not None:
            self._check_value("the result", event.result, result_type, location, activation.cfa)
        if not enters_without_thread(self.build, convention):
            self._check_thread(event)
        self._check_thread_copy("returns", convention)
        for place, data in activation.outside.items():
            found = machine.read(place, self.word)
            if found != data:
                self._violate(
                    "writes",
                    f"the caller's own word at {place - activation.cfa} above its stack pointer has changed",
                    memory=place,
                    expected=int.from_bytes(data, self.order),
                    found=int.from_bytes(found, self.order),
                )
        if self.watcher is not None:
            self.watcher.left(activation, event.result)
        return event.result

    def _check_preserved(self, activation: Activation, *, jumped: bool = False) -> None:
        convention = activation.function.convention
        registers, masks = self.bench.at_return(convention)
        for register, mask, now in zip(registers, masks, self.machine.read_registers(registers), strict=True):
            if register not in activation.registers:
                continue
            before, found = activation.registers[register] & mask, now & mask
            if before != found:
                self._violate(
                    "preserve",
                    f"{register.name} was {before:#x} and is {found:#x}: {convention.name} keeps it for the caller",
                    register=register.name,
                    expected=before,
                    found=found,
                )
        if not jumped:
            self._check_own_fixed(activation, "returns")

    def _check_own_fixed(self, activation: Activation, leaves: str) -> None:
        function = activation.function
        self._check_fixed("preserve", leaves, function.convention, self.build.symbols[function.name])

    def _check_left(self, activation: Activation, sp: int, convention: Convention) -> None:
        """A jump: the frame is gone, and everything is as the caller of the trampoline left it."""
        if sp != activation.sp:
            self._violate(
                "sp",
                "jumps with its frame still on the stack",
                register=self.architecture.sp.name,
                expected=activation.sp,
                found=sp,
            )
        self._check_preserved(activation, jumped=True)

    def _resumes(self, address: int) -> bool:
        """Whether the source has left for this address by `resume`: then the run has ended, and is compared."""
        event = self.trace.events[-1] if self.trace.events else None
        if event is None or event.resumed is None or event.resumed.pc != address:
            return False
        event = self._next(("resume",), "resumes")
        assert event.resumed is not None
        if self.machine.sp != event.resumed.sp:
            self._violate(
                "sp",
                "resumes with another stack pointer than the source gives",
                register=self.architecture.sp.name,
                expected=event.resumed.sp,
                found=self.machine.sp,
            )
        self._compare_memory(event)
        self._check_own_fixed(self.activations[-1], "resumes")
        self.finished = True
        return True
