"""The callees that the judge plays: each runs its script, overwrites every register and every byte that its convention
gives it, and returns. The kernel is one of them."""

from __future__ import annotations

from collections.abc import Mapping

from . import ir
from .activations import Arrival, Waiting
from .at_calls import AtCalls
from .effects import MachineHost
from .interpret import Execution, Request
from .oracle import (
    draw,
    enters_without_thread,
    handed_over,
    kernel_answer,
    leaves_other_thread,
    local_variables,
    restore,
)
from .run_state import away
from .target import HIGHEST_ERRNO, Register


class Callees(AtCalls):
    """Plays whatever a trampoline calls."""

    def stub(self, address: int) -> None:
        """A callee that the judge plays has been reached."""
        if self.watcher is not None:
            self.watcher.settled()
        name = self.bench.stubs.get(address)
        if name is None:
            self._violate("flow", f"runs into {address:#x}, which is no function's start", memory=address)
            self._end()
            return
        program = self.build.program
        signature = program.externs.get(name) or self.anonymous[name]
        self._land(address, name)
        arrival = self._check_call(name, signature, ("call", "jump"))
        self._play(arrival)

    def system_call(self, address: int) -> None:
        """The instruction at an address calls the kernel."""
        if self.watcher is not None:
            self.watcher.settled()
        kernel = self.architecture.system_calls
        if kernel is None:
            self._violate("flow", "makes a system call, on a system that lets nobody make one", pc=address)
            self._end()
            return
        event = self._next(("call",), "makes a system call")
        if event.callee != ir.SYSTEM_CALL or event.node is None:
            self._violate("effect", f"makes a system call, where the source calls {event.callee}")
            self._end()
            return
        signature = ir.kernel_signature(event.node)
        activation, sp = self.activations[-1], self.machine.sp
        wrong = f"makes a system call with the stack pointer {away(sp - event.sp)} where the source has it"
        self._check_sp(wrong, sp, event)
        types = [type_.value_type for _, type_ in signature.parameters]
        places = kernel.convention.place(types, None)
        top = self._frame_top(event, activation, sp)
        if places.stack_bytes and sp + places.stack_bytes > top:
            message = "makes a system call with arguments in memory that is not its own"
            self._violate("area", message, memory=sp, expected=places.stack_bytes, found=max(top - sp, 0))
        number = 0 if kernel.number_at is None else self.machine.read(address + kernel.number_at, 1)[0]
        if number and number != event.arguments[0]:
            message = "the number in the system call's instruction is not what the source says"
            self._violate("args", message, expected=event.arguments[0], found=number)
        passed = list(zip(signature.parameters, event.arguments, places.arguments, strict=True))
        for (name, type_), value, location in passed[1:] if number else passed:
            self._check_value(f"the system call's {name}", value, type_, location, sp)
        self._compare_memory(event)
        self._compare_pinned(ir.SYSTEM_CALL, event)
        self.calls += 1
        self._play(Arrival(ir.SYSTEM_CALL, signature, event, sp, address + kernel.size, self.calls, False))

    def _play(self, arrival: Arrival) -> None:
        """The callee's script runs, if it has one, and answers."""
        name, signature = arrival.name, arrival.signature
        if self.watcher is not None:
            self.watcher.arrived(arrival)
        registers = self.machine.get_many(self.bench.observable)
        handler = self.scenario.handlers.get(name) if self.scenario else None
        if arrival.jumped:
            left = self.activations.pop()
            if left.resume is not None or not self.activations:
                self.activations.append(left)
        if handler is None:
            self._answer(arrival, registers, None)
            return
        before = {v: self.variables.get(v) for v in local_variables(handler, self.scenario)}
        for variable, value in handed_over(handler, arrival.event.arguments, self.word):
            self.variables[variable] = value
        pushes = signature.convention.return_address is None and name != ir.SYSTEM_CALL
        execution = self._script(arrival.cfa - (self.word if pushes else 0))
        request = Request("", (), arrival.event.node or ir.TailCall("", (), signature.convention, handler.span))
        waiting = Waiting(execution.run(handler.body), execution, handler, before, arrival, registers, request, None)
        self._go_on(waiting, None, first=True)

    def _go_on(self, waiting: Waiting, answer: int | None, *, first: bool = False) -> None:
        """Run a callee's script until it calls a trampoline or ends."""
        try:
            request = next(waiting.script) if first else waiting.script.send(answer)
        except StopIteration:
            restore(self.variables, waiting.before)
            self._answer(waiting.call, waiting.registers, waiting.execution.result)
            return
        name = request.callee if isinstance(request.callee, str) else ""
        function = self.build.program.functions[name]
        convention = function.convention
        thread: int | None = None
        if self.thread_register is not None:
            if enters_without_thread(self.build, convention):
                # Numbered as the oracle numbers its own: `started` counts the outermost one too.
                thread = draw(self.world.seed, f"thread {self.started}", 8 * self.word)
            else:
                thread = self.machine.get(self.thread_register)
        waiting.request, waiting.thread = request, thread
        alignment = max(convention.alignment, 1)
        cfa = (request.at or 0) // alignment * alignment
        self._registers_at_entry(convention, None)
        entry = self._begin(function, request.arguments, cfa, thread, waiting)
        self.entering = True
        self._go(entry)

    def _script(self, sp: int) -> Execution:
        return Execution(
            MachineHost(self),
            self.variables,
            sp,
            0,
            specials=self._special,
            failed=self._expectation_failed,
            given=self.world.given,
        )

    def _special(self, what: str) -> int:
        activation = self.activations[-1]
        event_sp = self.machine.sp + (self.word if self._pushes(activation) else 0)
        told = self.last_call.caller_sp if self.last_call is not None else None
        if what == "caller pc":
            return self._caller_pc(activation, event_sp, told)
        return self._one_up(activation, event_sp, told)

    def _expectation_failed(self, node: ir.Expect) -> None:
        self._violate("effect", f"an expectation does not hold: {' '.join(node.span.text.split())} ({node.span})")

    def _answer(self, arrival: Arrival, registers: Mapping[Register, int], result: int | None) -> None:
        """Overwrite all that the callee may, deliver the result, and return."""
        if arrival.name == ir.SYSTEM_CALL:
            self._answer_as_kernel(arrival, registers, result)
            return
        signature = arrival.signature
        convention = signature.convention
        machine = self.machine
        if result is None and signature.result is not None:
            result = draw(self.world.seed, f"result {arrival.number}", signature.result.bits)
        if self.watcher is not None:
            self.watcher.answered(arrival, result)
        types = [t.value_type for _, t in signature.parameters]
        value_type = signature.result.value_type if signature.result else None
        assignment = convention.place(types, value_type)
        values = self._clobbered(signature, registers)
        if self.thread_register is not None:
            values.pop(self.thread_register, None)
            scripted = self.scenario is not None and arrival.name in self.scenario.handlers
            caller = self.activations[-1].function.convention
            if not scripted and leaves_other_thread(self.build, caller, signature):
                what = f"thread after call {arrival.number}"
                values[self.thread_register] = draw(self.world.seed, what, 8 * self.word)
        toc = self._toc()
        if toc is not None and convention.toc_slot is not None and arrival.event.indirect and not arrival.jumped:
            # It may be of another module: the caller puts its own table of contents back.
            values[toc] = self._garbage_bits(toc.bits) & self.bench.masks[toc]
        pushed = self.word if convention.return_address is None else 0
        self._scribble(arrival, assignment.stack_bytes, pushed)
        if signature.result is not None and result is not None:
            for part in assignment.result:
                self._put(part, result, signature.result, arrival.cfa, values)
        if convention.return_address is not None and not signature.clobbers:
            values[convention.return_address] = self.random.getrandbits(8 * self.word) & self.bench.masks.get(
                convention.return_address, 0
            )
        self._fix(values, convention, self.build.symbols[arrival.name])
        self._copy_thread(values, convention)
        if self.bench.stacks:
            machine.empty_x87()
        machine.set_many(values)
        pop = assignment.stack_bytes - convention.first_stack_argument if convention.callee_pops else 0
        machine.sp = arrival.cfa + pop
        if self.witness is not None:
            self.witness.answered(self)
        if self.landings is not None:
            self.landings.left(arrival.return_address)
        if arrival.jumped:
            # The callee returns to the trampoline's own caller.
            activation = self.activations[-1]
            home = arrival.return_address == activation.return_address and activation.resume is None
            if home and len(self.activations) == 1:
                self.finished = True
                self._end()
            self._go(arrival.return_address)
            return
        self._go(arrival.return_address)

    def _answer_as_kernel(self, arrival: Arrival, registers: Mapping[Register, int], result: int | None) -> None:
        """Overwrite what the kernel may, and go on behind the system call."""
        kernel = self.architecture.system_calls
        assert kernel is not None
        if result is None:
            result = kernel_answer(self.world.seed, arrival.number, 8 * self.word)
        if self.watcher is not None:
            self.watcher.answered(arrival, result)
        values = self._clobbered(arrival.signature, registers)
        if self.spare != "below":
            for region in self.stack_of:
                if arrival.cfa in region:
                    floor = arrival.cfa - self.activations[-1].function.convention.red_zone
                    start = max(region.base, floor - 2048)
                    self.machine.write(start, self._garbage(max(floor - start, 0)))
        value = result & self.word_mask
        failed = -value & self.word_mask
        if kernel.failed is not None:
            register, mask, told = kernel.failed
            values[register] = values.get(register, 0) & ~mask
            if 0 < failed <= HIGHEST_ERRNO:
                value = failed
                values[register] |= told
        values[kernel.convention.integer_results[0]] = value
        self._fix(values, kernel.convention, 0)
        if self.bench.stacks:
            values = {r: v for r, v in values.items() if r not in self.bench.stacks}
        self.machine.set_many(values)
        self._go(arrival.return_address)

    def _clobbered(self, signature: ir.Signature, registers: Mapping[Register, int]) -> dict[Register, int]:
        """New values for what the callee does not keep; what it keeps is as it was, bit by bit."""
        values: dict[Register, int] = {}
        garbage_bits = self._drawn
        for register, bits, keep in self.bench.after_call(signature.convention, signature.clobbers):
            if keep == 0:
                values[register] = garbage_bits(bits)
            elif keep is None:
                values[register] = registers[register]
            else:
                values[register] = garbage_bits(bits) & ~keep | registers[register] & keep
        return values

    def _scribble(self, arrival: Arrival, stack_bytes: int, pushed: int) -> None:
        """Write over the memory that a callee owns: its areas, its arguments, and what is below the stack pointer."""
        convention = arrival.signature.convention
        machine, cfa = self.machine, arrival.cfa
        owned = [(cfa, cfa + convention.area), (cfa + convention.first_stack_argument, cfa + stack_bytes)]
        activation = self.activations[-1]
        keep = []
        if convention.back_chain:
            keep.append(cfa)
        if convention.toc_slot is not None:
            keep.append(cfa + convention.toc_slot)
        saved = [(place, machine.read(place, self.word)) for place in keep]
        top = self._frame_top(arrival.event, activation, cfa) if not arrival.left else cfa + stack_bytes
        for start, end in owned:
            end = min(end, max(top, start))
            if end > start and self.spare != "area":
                machine.write(start, self._garbage(end - start))
        for place, data in saved:
            machine.write(place, data)
        for region in self.stack_of:
            if cfa in region and self.spare != "below":
                start = max(region.base, cfa - pushed - 2048)
                machine.write(start, self._garbage(cfa - start))
