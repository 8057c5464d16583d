"""What the source does, event by event, against what is in memory and in the register of g: the obligation `effect`."""

from __future__ import annotations

from . import ir
from .interpret import Trouble
from .oracle import Event
from .own_memory import OwnMemory
from .run_state import End, RunState
from .target import Convention, Register
from .world import name_of_variable, thread_in_memory, thread_place


class Effects(OwnMemory):
    """Takes the source's events one after the other, and compares what is there with what it has written."""

    def _next(self, kinds: tuple[str, ...], what: str, signature: ir.Signature | None = None) -> Event:
        event = self._take(kinds, what, signature)
        if event is None:
            self._end()
            raise End
        return event

    def _take(self, kinds: tuple[str, ...], what: str, signature: ir.Signature | None = None) -> Event | None:
        """The next event of the source, if it is one of these; a violation if not."""
        if self.witness is not None and not self.witness.recorded:
            event = self.witness.event(self, kinds, signature)
        else:
            event = next(self.events, None)
        if event is None or event.kind not in kinds:
            if event is None:
                message = f"{what}, where the source is done"
            elif event.kind in ("call", "jump"):
                message = f"{what}, where the source calls {event.callee}"
            else:
                does = {"return": "returns", "resume": "resumes", "trap": "traps"}[event.kind]
                message = f"{what}, where the source {does}"
            self._violate("effect", message)
            return None
        self.taken += 1
        for address, byte in event.writes.items():
            if byte is None:
                self.expected.pop(address, None)
            else:
                self.expected[address] = byte
        return event

    def _compare_memory(self, event: Event) -> None:
        """Everything that the source has written by now is there."""
        addresses = sorted(self.expected)
        index = 0
        while index < len(addresses):
            start = addresses[index]
            end = index
            while end + 1 < len(addresses) and addresses[end + 1] == addresses[end] + 1:
                end += 1
            size = addresses[end] - start + 1
            found = self.machine.read(start, size)
            for offset in range(size):
                if found[offset] != self.expected[start + offset]:
                    word = start + offset // self.word * self.word
                    self._wrong_word(word, found, start, size)
                    break
            index = end + 1

    def _wrong_word(self, address: int, found: bytes, start: int, size: int) -> None:
        length = min(self.word, start + size - address)
        have = found[address - start : address - start + length]
        want = bytes(self.expected[address + i] for i in range(length))
        self._violate(
            "effect",
            f"memory at {address:#x} ({self._name(address)}) is not what the source has written",
            memory=address,
            expected=int.from_bytes(want, self.order),
            found=int.from_bytes(have, self.order),
        )
        for i in range(length):  # told once
            self.expected.pop(address + i, None)

    def _name(self, address: int) -> str:
        """An object and a field, where the check named one."""
        for variable, base in self.world.variables.items():
            if variable.kind == "object" and variable.type.struct:
                layout = self.build.program.structs.get(variable.type.struct)
                if layout is not None and base <= address < base + max(layout.size, 1):
                    return f"{variable.name}.{_field_at(self.build.program, layout, address - base)}"
        elsewhere = name_of_variable(self.build.program, self.world.symbols, address)
        if elsewhere:
            return elsewhere
        for region in self.build.plan.regions:
            if address in region:
                return f"in {region.name}"
        return "nowhere"

    def _compare_pinned(self, name: str, event: Event) -> None:
        for place, data in event.pinned.items():
            found = self.machine.read(place, len(data))
            if found != data:
                self._violate(
                    "effect",
                    f"calls {name} with something else in a slot of the frame that others know by its place",
                    memory=place,
                    expected=int.from_bytes(data, self.order),
                    found=int.from_bytes(found, self.order),
                )

    def _check_thread(self, event: Event) -> None:
        if self.thread_register is None or event.thread is None:
            return
        found = self.machine.get(self.thread_register)
        if found != event.thread:
            self._violate(
                "effect",
                f"g in {self.thread_register.name} is not what the source says",
                register=self.thread_register.name,
                expected=event.thread,
                found=found,
            )

    def _check_thread_copy(self, what: str, convention: Convention) -> None:
        register = convention.thread_copy
        if register is None:
            return
        found, want = self.machine.get(register), MachineHost(self).get_thread()
        if found != want:
            message = f"{what} with {register.name} not the g that is in the thread's slot"
            self._violate("args", message, register=register.name, expected=want, found=found)

    def _copy_thread(self, values: dict[Register, int], convention: Convention) -> None:
        if convention.thread_copy is not None:
            values[convention.thread_copy] = MachineHost(self).get_thread()


class MachineHost:
    """What a script sees while machine code waits."""

    def __init__(self, run: RunState) -> None:
        self.run = run
        self.order = run.order
        self.word = run.word

    def load(self, address: int, size: int) -> bytes:
        if not any(r.base <= address and address + size <= r.end for r in self.run.build.plan.regions):
            raise LookupError(address)
        return self.run.machine.read(address, size)

    def store(self, address: int, data: bytes) -> None:
        if not any(r.base <= address and address + len(data) <= r.end for r in self.run.build.plan.regions):
            raise Trouble(f"the check writes to {address:#x}, where there is no memory", None)
        self.run.machine.write(address, data)
        if self.run.witness is not None and self.run.trace.memory is not None:
            self.run.trace.memory.store(address, data)

    def get_thread(self) -> int:
        if self.run.thread_register is not None:
            return self.run.machine.get(self.run.thread_register)
        world = self.run.world
        return 0 if world.thread_slot is None else thread_in_memory(world, self.run.machine.read)

    def set_thread(self, value: int) -> None:
        if self.run.thread_register is not None:
            self.run.machine.set(self.run.thread_register, value)
        elif self.run.world.thread_slot is not None:
            place = thread_place(self.run.world, self.run.machine.read)
            self.store(place, value.to_bytes(self.word, self.order))

    def thread_slot(self) -> int:
        assert self.run.world.thread_slot is not None
        return self.run.world.thread_slot

    def symbol(self, name: str) -> int:
        return self.run.world.pointers[name]

    def stack_top(self, name: str) -> int:
        return self.run.world.stack_tops[name]

    def any(self, bits: int) -> int:
        return self.run.any_random.getrandbits(bits)


def _field_at(program: ir.Program, layout: ir.StructLayout, offset: int) -> str:
    for field_ in layout.fields.values():
        if field_.offset <= offset < field_.offset + field_.size:
            if isinstance(field_.type, str) and field_.count is None:
                return f"{field_.name}.{_field_at(program, program.structs[field_.type], offset - field_.offset)}"
            return field_.name
    return f"+{offset}"
