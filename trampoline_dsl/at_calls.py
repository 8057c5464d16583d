"""What holds at the moment when a callee is entered: the obligations `align`, `area`, `args` and `sp`."""

from __future__ import annotations

from . import ir
from .activations import Activation, Arrival
from .at_returns import AtReturns
from .emulate import MachineError
from .oracle import Event


class AtCalls(AtReturns):
    """Compares what arrives at a callee with what the source passes, and what is around it with its convention."""

    def _check_call(self, name: str, signature: ir.Signature, kinds: tuple[str, ...]) -> Arrival:
        """Everything that holds at the moment when a callee is entered."""
        convention = signature.convention
        event = self._next(kinds, f"calls {name}", signature)
        self.last_call = event
        if event.callee != name:
            self._violate("effect", f"calls {name}, where the source calls {event.callee}")
            self._end()
        activation = self.activations[-1]
        sp = self.machine.sp
        pushed = self.word if convention.return_address is None else 0
        cfa = sp + pushed
        jumped = event.kind == "jump"
        return_address = self._return_address(convention, sp)
        left = jumped or (self.bench.foreign and self._leads_home(return_address, activation))
        if left:
            self._check_left(activation, sp, convention)
        else:
            wrong = f"calls {name} with the stack pointer at {cfa:#x}, not at the bottom of its frame"
            self._check_sp(wrong, cfa, event)
            self._check_area(name, signature, event, activation, cfa, pushed)
            self._check_walk(name, event, activation, cfa)
        if cfa % convention.alignment:
            self._violate(
                "align",
                f"calls {name} with the stack pointer at {cfa:#x}: {convention.name} wants a multiple of"
                f" {convention.alignment}",
                register=self.architecture.sp.name,
                expected=cfa // convention.alignment * convention.alignment,
                found=cfa,
            )
        self._check_return_address(name, return_address, activation, left)
        self._check_arguments(name, signature, event, cfa)
        self._check_stacks(f"calls {name}", convention, ())
        if convention.thread is not None:
            self._check_thread(event)
        self._check_thread_copy(f"calls {name}", convention)
        self._compare_memory(event)
        self._compare_pinned(name, event)
        self.calls += 1
        return Arrival(name, signature, event, cfa, return_address, self.calls, jumped, left)

    def _check_sp(self, wrong: str, sp: int, event: Event, pc: int | None = None) -> None:
        """The stack pointer is where the source has it; of code from elsewhere, whose frames are as they are, on the
        same stack."""
        if sp == event.sp:
            return
        if self.bench.foreign and any(
            region.base <= sp <= region.end and region.base <= event.sp <= region.end for region in self.stack_of
        ):
            return
        name = self.architecture.sp.name
        self._violate("sp", wrong, register=name, expected=event.sp, found=sp, pc=pc)

    def _check_return_address(self, name: str, found: int, activation: Activation, jumped: bool) -> None:
        if jumped:
            if found != activation.return_address:
                self._violate(
                    "sp",
                    f"jumps to {name} with another return address than it was given",
                    expected=activation.return_address,
                    found=found,
                )
        elif not self.bench.is_code(found):
            self._violate("flow", f"calls {name} with a return address outside of its code", found=found)

    def _check_arguments(self, name: str, signature: ir.Signature, event: Event, cfa: int) -> None:
        convention = signature.convention
        types = [t.value_type for _, t in signature.parameters]
        assignment = convention.place(types, signature.result.value_type if signature.result else None)
        for (parameter, type_), value, location in zip(
            signature.parameters, event.arguments, assignment.arguments, strict=True
        ):
            self._check_value(f"{name}'s {parameter}", value, type_, location, cfa)
        self._check_fixed("args", f"calls {name}", convention, self.build.symbols[name])
        toc, want = self._toc(), self.build.symbols[".TOC."]
        pointer = self.build.pointers[name]
        if event.indirect and pointer != self.build.symbols[name]:
            _, want, environment = self._words(pointer, 3)
            place = None if self.bench.by_linker(self.executed) else convention.environment
            if place is not None and self.machine.get(place) != environment:
                message = f"enters {name} through a pointer without the environment of its descriptor in {place.name}"
                found = self.machine.get(place)
                self._violate("args", message, register=place.name, expected=environment, found=found)
        finds_its_own = event.indirect and pointer == self.build.symbols[name]
        if toc is not None and convention.keeps(toc) and not finds_its_own:
            found = self.machine.get(toc)
            if found != want:
                message = f"calls {name} without the address of the table of contents in {toc.name}"
                self._violate("args", message, register=toc.name, expected=want, found=found)
        through = convention.call_through
        if through is not None and event.indirect:
            found = self.machine.get(through)
            if found != self.build.symbols[name]:
                self._violate(
                    "args",
                    f"enters {name} through a pointer without its address in {through.name}",
                    register=through.name,
                    expected=self.build.symbols[name],
                    found=found,
                )

    def _words(self, address: int, count: int) -> list[int]:
        data = self.machine.read(address, count * self.word)
        return [int.from_bytes(data[i : i + self.word], self.order) for i in range(0, len(data), self.word)]

    def _check_area(
        self, name: str, signature: ir.Signature, event: Event, activation: Activation, cfa: int, pushed: int
    ) -> None:
        convention = signature.convention
        types = [t.value_type for _, t in signature.parameters]
        result = signature.result.value_type if signature.result else None
        needed = max(convention.area, convention.place(types, result).stack_bytes)
        top = self._frame_top(event, activation, cfa)
        if cfa + needed > top:
            self._violate(
                "area",
                f"calls {name} with {max(top - cfa, 0)} bytes of frame above the stack pointer:"
                f" {convention.name} gives the callee {needed}",
                memory=cfa,
                expected=needed,
                found=max(top - cfa, 0),
            )
        if convention.back_chain or activation.function.convention.back_chain:
            chain = int.from_bytes(self.machine.read(cfa, self.word), self.order)
            if chain != event.chain and not self.bench.foreign:
                self._violate(
                    "area", f"calls {name} with a broken back chain", memory=cfa, expected=event.chain, found=chain
                )
            elif activation.function.convention.back_chain:
                self._check_chain(name, chain, activation)

    def _check_chain(self, name: str, chain: int, activation: Activation) -> None:
        """Over the frames of the stacks that were left, the back chain leads to the caller."""
        place = chain
        for _ in range(16):
            if chain == activation.cfa:
                return
            place = chain
            if not any(place in region for region in self.stack_of):
                break
            chain = int.from_bytes(self.machine.read(place, self.word), self.order)
        message = f"calls {name} with a back chain that does not lead to the caller's frame"
        self._violate("area", message, memory=place, expected=activation.cfa, found=chain)

    def _frame_top(self, event: Event, activation: Activation, cfa: int) -> int:
        if self.bench.foreign:
            # Where it leaves a stack that it has moved to is its own affair.
            region = next((region for region in self.stack_of if cfa in region), None)
            if region is not None and activation.cfa not in region:
                return region.end
            return activation.cfa - (self.word if self._pushes(activation) else 0)
        # Where the call pushed the return address, that word is in the frame but not the body's to give away.
        pushed = event.top == activation.cfa and activation.function.convention.return_address is None
        return event.top - (self.word if pushed else 0)

    def _check_walk(self, name: str, event: Event, activation: Activation, cfa: int) -> None:
        """A traceback from here, by return PC and frame size, has to find the caller that the source says."""
        if event.caller_pc is None or event.caller_sp is None:
            return
        if self.bench.foreign and not any(cfa in region and event.caller_sp in region for region in self.stack_of):
            return
        found = self._caller_pc(activation, cfa, event.caller_sp)
        if found != event.caller_pc:
            self._violate(
                "effect",
                f"a walk of the frames from {name} finds another return PC one frame up",
                memory=self._caller_place(activation, cfa, event.caller_sp),
                expected=event.caller_pc,
                found=found,
            )

    def _one_up(self, activation: Activation, cfa: int, told: int | None) -> int:
        """The stack pointer one frame up from a call: by the size of the frame, as a traceback finds it; or, of code
        from elsewhere, as it is `told`."""
        if self.bench.foreign:
            return activation.cfa if told is None else told
        return cfa + self.bench.codes[activation.function.name].frame

    def _caller_place(self, activation: Activation, cfa: int, told: int | None) -> int:
        if activation.function.convention.return_slot == "bottom":
            return cfa
        return self._one_up(activation, cfa, told) - self.word

    def _caller_pc(self, activation: Activation, cfa: int, told: int | None) -> int:
        place = self._caller_place(activation, cfa, told)
        try:
            return int.from_bytes(self.machine.read(place, self.word), self.order)
        except MachineError:
            return 0
