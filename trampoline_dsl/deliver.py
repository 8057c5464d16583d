"""Signals, delivered before every instruction of a run: the emulator's user plays the kernel.

A run is interrupted, the kernel's frame is built where that kernel builds it, the handler (a trampoline of the program)
is entered as the kernel enters it and judged like any other, its callees are played, and what it returns to makes the
system call that ends it. Then everything is put back, and the interrupted code goes on. What the handler and its
callees' scripts did to memory and to a check's variables is taken back too, so that the source knows nothing of it:
if the run ends otherwise than without signals, then because of what they overwrote below the stack pointer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import ir
from .interpret import Trouble
from .judge import Execute, Interruptions, Violation
from .oracle import AsmRunner, Oracle, Trace
from .target import InRegister, Register, SignalFrame
from .world import Bytes, Region, World

AT_ONE = 1  # deliveries before one instruction in one run, however often it is executed
MOST = 1_000  # deliveries in one run
HANDLER_BUDGET = 5_000  # instructions of a handler
SIGNALS = 64  # numbers of signals: 1 to this
HANDLER_ROOM = 0x1000  # bytes below the kernel's frame that a handler and its callees may use
STATE_ALIGNMENT = 64  # of floating point state, where the kernel stores it outside of its frame (xsave)


@dataclass(frozen=True)
class Players:
    """What plays everybody in the runs of one program: see `verify.Session`."""

    frames: Mapping[str, int]
    anonymous: Mapping[str, ir.Signature]
    asm: AsmRunner | None


class Deliveries(Interruptions):
    """Signals in one run. `only`: the one that is delivered, counted from 0; all if it is None. `count`: how many were;
    `places`: before which instruction each of them would have been."""

    def __init__(self, players: Players, signals: ir.Signals, only: int | None = None) -> None:
        self.players = players
        self.signals = signals
        self.only = only
        self.count = 0
        self.places: list[int] = []
        self.found: list[Violation] = []  # what handlers did wrong

    def due(self, run: Execute, address: int) -> bool:
        if len(self.places) >= MOST or self.places.count(address) >= AT_ONE:
            return False
        self.places.append(address)
        return self.only is None or len(self.places) - 1 == self.only

    def happen(self, run: Execute, address: int) -> None:
        delivery = _Delivery(run, self.players, self.signals, len(self.places))
        place = delivery.stack()
        if place is None:
            return
        self.count += 1
        where = interrupted_at(run, address)
        for violation in delivery.play(place):
            message = f"handling a signal that came before {where}: {violation.message}"
            self.found.append(replace(violation, message=message, seed=run.world.seed))
        run.violations += self.found


def interrupted_at(run: Execute, address: int) -> str:
    """An instruction, for people."""
    place = run.bench.listing.get(address)
    if place is None:
        return f"{address:#x}"
    code, index = place
    return f'"{code.instructions[index].text}" at {code.name}+{code.offsets[index]:#x}'


@dataclass(frozen=True, slots=True)
class _Place:
    """Addresses: the kernel's frame starts at `start`, what it writes ends at `top`, the handler's stack pointer is
    `entry`, a frame record is at `record`; `interrupted` is the stack pointer that was interrupted."""

    start: int
    entry: int
    top: int
    record: int
    interrupted: int


class _Delivery:
    """One signal."""

    def __init__(self, run: Execute, players: Players, signals: ir.Signals, number: int) -> None:
        self.run = run
        self.players = players
        self.signals = signals
        self.machine = run.machine
        self.number = number
        self.random = random.Random(f"{run.world.seed} signal {number}")
        self.handler = run.build.program.functions[signals.handler]
        kernel = run.architecture.signals
        assert kernel is not None, "the resolver knows that there is a kernel"
        self.kernel: SignalFrame = kernel

    def stack(self) -> _Place | None:
        """Where the kernel builds its frame; None if there is no room, as when the stack pointer is astray."""
        kernel, interrupted = self.kernel, self.machine.sp
        top = interrupted - kernel.untouched
        region = self._region(interrupted)
        if self.signals.stack is not None:
            alternate = self.run.world.stack_tops[self.signals.stack.name]
            on_it = self._region(alternate)
            if region is not on_it:  # a signal that comes while another is handled there does not begin at the top
                top, region = alternate, on_it
        record = (top - self.run.word * len(kernel.record)) // kernel.alignment * kernel.alignment
        state = (record - self.random.choice(kernel.state)) // STATE_ALIGNMENT * STATE_ALIGNMENT
        start = (state if any(kernel.state) else record) - kernel.size
        start = start // kernel.alignment * kernel.alignment - kernel.misalignment
        if region is None or start + kernel.entry - HANDLER_ROOM < region.base:
            return None
        return _Place(start, start + kernel.entry, top, record, interrupted)

    def _region(self, address: int) -> Region | None:
        return next((r for r in self.run.stack_of if r.base <= address <= r.end), None)

    def play(self, place: _Place) -> list[Violation]:
        """The signal comes, is handled, and is over."""
        run, machine, kernel, handler = self.run, self.machine, self.kernel, self.handler
        machine.write(place.entry, self._frame(place))
        convention = handler.convention
        cfa = place.entry + (run.word if convention.return_address is None else 0)
        arguments = (self.random.randrange(1, SIGNALS + 1), place.start + kernel.info, place.start + kernel.context)
        memory = _Seen(run)
        plan = run.build.plan
        # The kernel's own code: where no call of the judge's returns to.
        back = plan.returns.base + plan.returns.size // 4 * 3
        if self.signals.restorer is not None:
            back = run.build.symbols[self.signals.restorer]
        world = replace(
            run.world,
            arguments=list(arguments),
            variables=dict(run.variables),
            thread=machine.get(run.thread_register) if run.thread_register is not None else run.world.thread,
            sp=cfa,
            seed=run.world.seed * MOST + self.number,
        )
        trace, trouble = self._meant(world, memory, cfa, back)
        if trouble is not None:
            return [Violation("effect", trouble, function=handler.name)]
        handling = _Handling(self, world, trace, cfa, back)
        handling.expected |= {a: b[0] for a in trace.permitted if (b := memory.before.get(a)) is not None}
        handling.enter(place, arguments)
        memory.take_back()
        return handling.violations

    def _frame(self, place: _Place) -> bytes:
        """Everything from the handler's stack pointer up: whatever was there is gone."""
        kernel, word = self.kernel, self.run.word
        words = {place.record + i * word: self.machine.get(r) for i, r in enumerate(kernel.record)}
        if kernel.chain is not None:
            words[place.start + kernel.chain] = place.interrupted
        data = bytearray(self.random.randbytes(place.top - place.entry))
        for address, value in words.items():
            offset = address - place.entry
            data[offset : offset + word] = value.to_bytes(word, self.run.order)
        return bytes(data)

    def _meant(self, world: World, memory: _Seen, cfa: int, back: int) -> tuple[Trace, str | None]:
        """What the handler's source does now."""
        oracle = Oracle(
            self.run.build, world, self.players.frames, self.run.scenario, self.players.anonymous, self.players.asm
        )
        oracle.memory = memory
        try:
            oracle.function(self.handler, tuple(world.arguments), cfa, back)
        except Trouble as trouble:
            return oracle.trace, trouble.message
        for node in oracle.trace.unmet:
            return oracle.trace, f"an expectation does not hold: {' '.join(node.span.text.split())} ({node.span})"
        return oracle.trace, None


class _Seen(Bytes):
    """The machine's memory as it is, under what is stored here. `before`: what was there."""

    def __init__(self, run: Execute) -> None:
        super().__init__({})
        self.run = run
        self.regions = run.build.plan.regions
        self.stored: dict[int, int] = {}
        self.before: dict[int, bytes] = {}

    def _require(self, address: int, size: int) -> None:
        if not any(r.base <= address and address + size <= r.end for r in self.regions):
            raise LookupError(address)

    def load(self, address: int, size: int) -> bytes:
        self._require(address, size)
        data = self.run.machine.read(address, size)
        if not self.stored:
            return data
        return bytes(self.stored.get(address + i, byte) for i, byte in enumerate(data))

    def store(self, address: int, data: bytes) -> None:
        self._require(address, len(data))
        before = self.run.machine.read(address, len(data))
        for index, byte in enumerate(data):
            self.before.setdefault(address + index, before[index : index + 1])
            self.stored[address + index] = byte

    def take_back(self) -> None:
        for address, byte in self.before.items():
            self.run.machine.write(address, byte)


class _Handling(Execute):
    """The run of a handler, in the midst of another."""

    def __init__(self, delivery: _Delivery, world: World, trace: Trace, cfa: int, back: int) -> None:
        run = delivery.run
        super().__init__(
            run.bench,
            world,
            trace,
            delivery.handler,
            run.scenario,
            run.anonymous,
            delivery.number,
            False,
            budget=HANDLER_BUDGET,
        )
        self.delivery = delivery
        self.cfa = cfa
        self.back = back
        self.restoring = False

    def enter(self, place: _Place, arguments: tuple[int, ...]) -> None:
        """As the kernel does it; to the end of the handler."""
        machine, kernel, handler = self.machine, self.delivery.kernel, self.function
        convention = handler.convention
        entry = self.build.symbols[handler.name]
        values: dict[Register, int] = {r: v for r, v in kernel.values.items() if r in self.bench.masks}
        for register in kernel.entered_in:
            values[register] = entry
        if kernel.record:
            values[kernel.record[0]] = place.record
        places = convention.place([p.type.value_type for p in handler.parameters], None).arguments
        for parameter, value, location in zip(handler.parameters, arguments, places, strict=True):
            for part in location:
                if isinstance(part.place, InRegister):
                    values[part.place.register] = 0  # the kernel widens what it passes in registers
                self._put(part, value, parameter.type, self.cfa, values)
        if convention.return_address is None:
            machine.write(place.start, self.back.to_bytes(self.word, self.order))
        else:
            values[convention.return_address] = self.back
        toc = self._toc()
        if convention.descriptors and toc is not None:
            values[toc] = self.build.symbols[".TOC."]
        fixed = {f.register: machine.get(f.register) for f in convention.fixed if f.register in self.bench.masks}
        self._fix(fixed, convention, entry)
        values |= fixed
        if self.bench.stacks:
            machine.empty_x87()
        machine.set_many(values)
        machine.sp = place.entry
        self._activate(handler, self.cfa, machine.sp, self.back, None)
        self._go_through(entry)


__all__ = ["Deliveries", "Players", "interrupted_at"]
