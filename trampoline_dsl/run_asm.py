"""What an `asm` block does, by running its machine code alone: all that the reference interpreter cannot know.

The block gets its inputs in their registers and the world's memory, and nothing else: what it reads without having said
so differs from what it finds in a trampoline, and so does the outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import ir
from .assemble import AssemblyError, assemble
from .emulate import Machine
from .extended import double_of_single, single_of_double
from .interpret import Trouble
from .target import Bank, InRegister, Insn, Register, ThreadSlot, ValueType
from .world import Build, Bytes, thread_base

BUDGET = 20_000  # instructions of one block; an iteration of a string instruction is one


@dataclass(frozen=True, slots=True)
class Outcome:
    """Values of the outputs by register, the bytes that were written, by address, and what is in the register of the
    thread's g, where it has one."""

    outputs: Mapping[Register, int]
    writes: Mapping[int, int]
    thread: int | None


class AsmMachine:
    """A machine for the blocks of one program. What is below the stack pointer when a block ends does not count."""

    def __init__(self, build: Build) -> None:
        self.architecture = build.architecture
        self.plan = build.plan
        self.machine = Machine(self.architecture)
        for region in self.plan.regions:
            self.machine.map(region.base, region.size)
        for convention in self.architecture.conventions.values():
            if isinstance(convention.thread, ThreadSlot):
                self.machine.set_segment_base(convention.thread.segment, thread_base(self.plan))
        threads = [c.thread for c in self.architecture.conventions.values() if isinstance(c.thread, Register)]
        self.thread = threads[0] if threads else None
        self.initial = self.machine.save()
        self.written: set[int] = set()
        self.machine.on_write(lambda address, size, _value, _pc: self.written.update(range(address, address + size)))
        self.code: dict[tuple[str, ...], bytes] = {}
        single = self.architecture.conventions["c"].place([ValueType("float", 32)], None).arguments[0][0]
        self.as_double = single.as_double
        self.singles_left = isinstance(single.place, InRegister) and self.architecture.singles_left

    def run(self, node: ir.Asm, inputs: Mapping[Register, int], memory: Bytes, sp: int, thread: int) -> Outcome:
        """Raises Trouble where the block fails."""
        machine, start = self.machine, self.plan.code.base
        code = self._assembled(node)
        machine.restore(self.initial)
        machine.write(start, code)
        for base, image in memory.images.items():
            machine.write(base, bytes(image))
        machine.sp = sp
        if self.thread is not None:
            machine.set(self.thread, thread)
        for register, value in node.inputs:
            for piece, bits in self._pieces(register, inputs[register], value.type):
                machine.set(piece, bits)
        self.written.clear()
        stop = machine.run(start, BUDGET, start + len(code))
        if stop.reason != "reached":
            raise Trouble(f"the `asm` does not come to its end: {stop.detail or stop.reason}", node.span)
        outputs = {register: self._value(register, variable.type) for register, variable in node.outputs}
        after = machine.get(self.thread) if self.thread is not None else None
        return Outcome(outputs, dict(self._changed(memory, sp)), after)

    def _assembled(self, node: ir.Asm) -> bytes:
        texts = tuple(text for text, _ in node.lines)
        if texts not in self.code:
            try:
                made = assemble(self.architecture, [Insn(text, user_text=True) for text in texts])
            except AssemblyError as error:
                raise Trouble(f"this `asm` cannot be assembled: {error}", node.span) from None
            self.code[texts] = made.code
        return self.code[texts]

    def _pieces(self, register: Register, value: int, type_: ir.Type) -> Iterator[tuple[Register, int]]:
        """What is in which register when it holds a value."""
        value &= (1 << max(type_.bits, register.bits if type_.kind != "float" else 0)) - 1
        if type_.kind != "float":
            yield register, value
        elif type_.bits > register.bits:
            # Two registers of half the size: the lower half is in the first one.
            yield register, value & ((1 << register.bits) - 1)
            yield self._partner(register), value >> register.bits
        elif type_.bits == 32 and self.as_double:
            yield register, double_of_single(value)
        else:
            yield register, value << 32 if type_.bits == 32 and self.singles_left else value

    def _value(self, register: Register, type_: ir.Type) -> int:
        found = self.machine.get(register)
        if type_.kind != "float":
            return found
        if type_.bits > register.bits:
            return found | self.machine.get(self._partner(register)) << register.bits
        if type_.bits == 32 and self.as_double:
            return single_of_double(found)
        return (found >> 32 if type_.bits == 32 and self.singles_left else found) & ((1 << type_.bits) - 1)

    def _partner(self, register: Register) -> Register:
        return next(
            r for r in self.architecture.registers.values() if r.bank is Bank.FLOAT and r.number == register.number + 1
        )

    def _changed(self, memory: Bytes, sp: int) -> Iterator[tuple[int, int]]:
        """What differs, since a machine does not tell of every store; and what was stored, though it be equal."""
        for base, image in memory.images.items():
            now = self.machine.read(base, len(image))
            stored = {address - base for address in self.written if base <= address < base + len(image)}
            if now != image:
                stored |= {offset for offset in range(len(image)) if now[offset] != image[offset]}
            on_it = any(base == stack.base and sp in stack for stack in self.plan.stacks)
            for offset in sorted(stored):
                if not on_it or base + offset >= sp:
                    yield base + offset, now[offset]
