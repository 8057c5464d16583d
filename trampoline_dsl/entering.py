"""How a trampoline is entered: as its convention says, with garbage in all that the convention leaves open."""

from __future__ import annotations

from collections.abc import Mapping

from . import ir
from .activations import Activation, Waiting
from .oracle import return_place
from .own_memory import why_misplaced
from .passing import Passing
from .target import Convention, Register
from .world import entry_of


class Entering(Passing):
    """Calls trampolines, and sees whether they may be entered and left where they are: the obligation `landing`."""

    def random_registers(self, convention: Convention) -> dict[Register, int]:
        """Something different in each register that the caller wants back, garbage in the others."""
        random_bits, garbage_bits = self.random.getrandbits, self._drawn
        return {
            r: (random_bits(bits) if kept else garbage_bits(bits)) & mask
            for r, bits, mask, kept in self.bench.at_entry(convention)
        }

    def _registers_at_entry(self, convention: Convention, keep: Mapping[Register, int] | None) -> None:
        values = self.random_registers(convention)
        sp = self.architecture.sp
        values.pop(sp, None)
        for register, value in (keep or {}).items():
            values[register] = value
        self._fix(values, convention, 0)
        if self.bench.stacks:
            self.machine.empty_x87()
        self.machine.set_many(values)

    def _begin(
        self,
        function: ir.Function,
        arguments: tuple[int, ...],
        cfa: int,
        thread: int | None,
        resume: Waiting | None,
    ) -> int:
        """Call a trampoline as its convention says, with garbage in all that the convention leaves open. Returns the
        address of its first instruction, or of the entry of a table that it is entered through."""
        machine, convention = self.machine, function.convention
        if self.witness is not None:
            self.witness.begins(function, arguments)
        entry = self.build.symbols[function.name]
        local = self.bench.locals[function.name]
        own_module = local == entry or (self.number + self.started) % 2 == 0
        if own_module:
            entry = local
        if function.table is not None:
            number = entry_of(function.table, self.world.seed, self.started)
            entry = self.build.symbols[function.table.name] + self.bench.strides[function.table.name] * number
        return_address = return_place(self.build, self.started)
        self.started += 1
        values: dict[Register, int] = {}
        types = [p.type.value_type for p in function.parameters]
        assignment = convention.place(types, function.result.value_type if function.result else None)
        for parameter, value, location in zip(function.parameters, arguments, assignment.arguments, strict=True):
            for part in location:
                self._put(part, value, parameter.type, cfa, values)
        if function.variadic:
            word = ir.Type("uptr", "int", 8 * self.word)
            for value, location in zip(
                self.world.words, convention.place(self._taken(function), None).arguments, strict=True
            ):
                for part in location:
                    self._put(part, value, word, cfa, values)
        sp = cfa
        if convention.return_address is None:
            sp -= self.word
            machine.write(sp, return_address.to_bytes(self.word, self.order))
        else:
            values[convention.return_address] = return_address
        if convention.call_through is not None:
            values[convention.call_through] = entry
        toc = self._toc()
        if toc is not None and toc in convention.kept and own_module:
            values[toc] = self.build.symbols[".TOC."]
        if self.thread_register is not None and thread is not None:
            values[self.thread_register] = thread
        if convention.back_chain:
            machine.write(cfa, (cfa + 0x100).to_bytes(self.word, self.order))
        self._fix(values, convention, entry)
        self._copy_thread(values, convention)
        machine.set_many(values)
        machine.sp = sp
        self._activate(function, cfa, sp, return_address, resume)
        if toc is not None and not own_module:
            self.activations[-1].registers.pop(toc, None)  # such a caller brings its own back
        self.enters(entry, return_address)
        return entry

    def _activate(self, function: ir.Function, cfa: int, sp: int, return_address: int, resume: Waiting | None) -> None:
        convention = function.convention
        outside = {}
        if convention.back_chain:
            outside[cfa] = self.machine.read(cfa, self.word)
        if convention.toc_slot is not None:
            place = cfa + convention.toc_slot
            outside[place] = self.machine.read(place, self.word)
        registers = self.machine.get_many(self.bench.observable)
        types = self._taken(function)
        stack_bytes = convention.place(types, function.result.value_type if function.result else None).stack_bytes
        self.activations.append(
            Activation(function, cfa, sp, return_address, registers, outside, stack_bytes, self.begun, resume)
        )
        self.begun += 1
        if self.begun > 1:
            self.machine.ignore_stores(0, 0)  # for a while, another stack is its own
        slots = self.build.slots.get(function.name, {})
        misplaced = why_misplaced(function, slots, self.bench.codes[function.name].frame, cfa)
        if misplaced:
            self._violate("bounds", misplaced, memory=cfa)
        if self.watcher is not None:
            self.watcher.entered(self.activations[-1])

    def enters(self, entry: int, return_address: int) -> None:
        """Somebody calls a trampoline, or an entry of a table, by its address."""
        if self.landings is not None and (wrong := self.landings.called(entry, return_address)):
            self._violate("landing", f"{self.activations[-1].function.name} {wrong}", pc=entry, memory=entry)

    def _land(self, address: int, callee: str = "") -> None:
        """Where control flow is protected: the code has led to an address by itself, or to a callee."""
        place = None if self.moved or not self.executed else self._locate(self.executed[-1])
        if self.landings is None or place is None:
            return
        code, index = place
        insn = code.instructions[index]
        behind = self.bench.behind(self.executed[-1])
        if callee:
            wrong = self.landings.reaches_callee(insn, behind, callee)
        else:
            wrong = self.landings.arrives(insn, behind, address)
        if wrong:
            self._violate("landing", wrong, memory=address)
