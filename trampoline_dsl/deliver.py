"""Signals and exceptions, delivered before every instruction of a run: the judge plays the operating system.

A run is interrupted, the system's frame is built where it builds it, the handler (a trampoline of the program) is
entered as the system enters it and judged like any other, and its callees are played. Linux: what it returns to makes
the system call that ends it. Windows: it says whether it has handled the exception; if so, execution goes on as the
CONTEXT says, which it may have changed. Then everything is put back, and the interrupted code goes on. What the handler
and its callees' scripts did to memory and to a check's variables is taken back too, so that the source knows nothing of
it: if the run ends otherwise than without signals, then because of what they overwrote below the stack pointer.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from . import ir
from .activations import Activation
from .emulate import Stop
from .interpret import Trouble
from .judge import Execute
from .oracle import AsmRunner, Oracle, Trace
from .target import TOC_SYMBOL, ContextRecord, InRegister, Register, SignalFrame
from .violation import Violation
from .watchers import Interruptions
from .world import Bytes, Region, World

AT_ONE = 1  # deliveries before one instruction in one run, however often it is executed
MOST = 1_000  # deliveries in one run
HANDLER_BUDGET = 5_000  # instructions of a handler
SIGNALS = 64  # numbers of signals: 1 to this
HANDLER_ROOM = 0x1000  # bytes below the kernel's frame that a handler and its callees may use
ACCESS_VIOLATION = 0xC0000005  # ntstatus.h
CONTINUE_EXECUTION = -1  # excpt.h: what a handler answers if execution is to go on; 0: search on
RECORD_ALIGNMENT = 16  # of what the kernel puts on the stack on Windows
DISPATCHER_WORDS = 256  # of ntdll's own frames, at most
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

    what = "a signal"

    def due(self, run: Execute, address: int) -> bool:
        if len(self.places) >= MOST or self.places.count(address) >= AT_ONE:
            return False
        self.places.append(address)
        return self.only is None or len(self.places) - 1 == self.only

    def happen(self, run: Execute, address: int) -> None:
        kind = _Exception if run.build.program.target.os == "windows" else _Signal
        self.what = kind.what
        delivery = kind(run, self.players, self.signals, len(self.places), address)
        if not delivery.has_room():
            return
        self.count += 1
        where = interrupted_at(run, address)
        for violation in delivery.play():
            message = f"handling {delivery.what} that came before {where}: {violation.message}"
            self.found.append(replace(violation, message=message, seed=run.world.seed))
        run.violations += self.found


def interrupted_at(run: Execute, address: int) -> str:
    """An instruction, for people."""
    place = run.bench.listing.get(address)
    if place is None:
        return f"{address:#x}"
    code, index = place
    return f'"{code.instructions[index].text}" at {code.name}+{code.offsets[index]:#x}'


class _Delivery(ABC):
    """One interruption. `top`: below it the system builds its frames; `region`: the stack that it does that on; None
    if the stack pointer is astray. `address`: of the instruction that waits."""

    what: str

    def __init__(self, run: Execute, players: Players, signals: ir.Signals, number: int, address: int) -> None:
        self.run = run
        self.players = players
        self.signals = signals
        self.machine = run.machine
        self.number = number
        self.address = address
        self.random = random.Random(f"{run.world.seed} signal {number}")
        self.handler = run.build.program.functions[signals.handler]
        self.interrupted = self.machine.sp
        self.top = self.interrupted - self.untouched()
        self.region = self._region(self.interrupted)
        if signals.stack is not None:
            alternate = run.world.stack_tops[signals.stack.name]
            on_it = self._region(alternate)
            if self.region is not on_it:  # a signal that comes while another is handled there does not begin at the top
                self.top, self.region = alternate, on_it
        self.lay_out()

    @abstractmethod
    def untouched(self) -> int:
        """Bytes below the interrupted stack pointer that stay as they are."""

    @abstractmethod
    def lay_out(self) -> None:
        """Decide where everything goes."""

    @abstractmethod
    def bottom(self) -> int:
        """The handler's stack pointer."""

    def has_room(self) -> bool:
        return self.region is not None and self.bottom() - HANDLER_ROOM >= self.region.base

    @abstractmethod
    def play(self) -> list[Violation]:
        """It comes, is handled, and is over. What was done wrong."""

    def _region(self, address: int) -> Region | None:
        return next((r for r in self.run.stack_of if r.base <= address <= r.end), None)

    def back(self) -> int:
        """Where the system's own code is that the handler returns to: no call of the judge's does."""
        plan = self.run.build.plan
        return plan.returns.base + plan.returns.size // 4 * 3

    def write_words(self, data: bytearray, base: int, words: Mapping[int, int]) -> None:
        """Put words at their addresses into what will be at `base`."""
        size = self.run.word
        for address, value in words.items():
            data[address - base : address - base + size] = (value & self.run.word_mask).to_bytes(size, self.run.order)

    def handle(self, arguments: tuple[int, ...], cfa: int, back: int, values: dict[Register, int]) -> _Handling:
        """Let the handler run, called by what has `cfa` for a stack pointer, with registers as in `values`. What its
        source stores is taken back by the caller, from `memory`."""
        run, handler = self.run, self.handler
        memory = _Seen(run)
        thread, holder = run.world.thread, run.thread_register
        if holder is not None:
            thread = values.get(holder, self.machine.get(holder))
        world = replace(
            run.world,
            arguments=list(arguments),
            variables=dict(run.variables),
            thread=thread,
            sp=cfa,
            seed=run.world.seed * MOST + self.number,
        )
        players = self.players
        oracle = Oracle(run.build, world, players.frames, run.scenario, players.anonymous, players.asm)
        oracle.memory = memory
        trouble = ""
        try:
            oracle.trace.result = oracle.function(handler, arguments, cfa, back)
        except Trouble as caught:
            trouble = caught.message
        for node in oracle.trace.unmet:
            trouble = f"an expectation does not hold: {' '.join(node.span.text.split())} ({node.span})"
        handling = _Handling(self, world, oracle.trace, cfa, back, memory)
        if trouble:
            handling.violations.append(Violation("effect", trouble, function=handler.name))
        else:
            handling.enter(arguments, values)
        return handling


class _Signal(_Delivery):
    """Linux. `start`: where the kernel's frame starts; `record`: where its frame record is."""

    what = "a signal"

    @property
    def kernel(self) -> SignalFrame:
        kernel = self.run.architecture.signals
        assert kernel is not None, "the resolver knows that there is a kernel"
        return kernel

    def untouched(self) -> int:
        return self.kernel.untouched

    def lay_out(self) -> None:
        kernel = self.kernel
        self.record = (self.top - self.run.word * len(kernel.record)) // kernel.alignment * kernel.alignment
        state = (self.record - self.random.choice(kernel.state)) // STATE_ALIGNMENT * STATE_ALIGNMENT
        start = (state if any(kernel.state) else self.record) - kernel.size
        self.start = start // kernel.alignment * kernel.alignment - kernel.misalignment

    def bottom(self) -> int:
        return self.start + self.kernel.entry

    def play(self) -> list[Violation]:
        run, kernel = self.run, self.kernel
        words = {self.record + i * run.word: self.machine.get(r) for i, r in enumerate(kernel.record)}
        if kernel.chain is not None:
            words[self.start + kernel.chain] = self.interrupted
        frame = bytearray(self.random.randbytes(self.top - self.bottom()))
        self.write_words(frame, self.bottom(), words)
        self.machine.write(self.bottom(), bytes(frame))
        convention = self.handler.convention
        back = self.back()
        if self.signals.restorer is not None:
            back = run.build.symbols[self.signals.restorer]
        values: dict[Register, int] = {r: v for r, v in kernel.values.items() if r in run.bench.masks}
        for register in kernel.entered_in:
            values[register] = run.build.symbols[self.handler.name]
        if kernel.record:
            values[kernel.record[0]] = self.record
        toc = run.architecture.toc
        if convention.descriptors and toc is not None:
            values[toc] = run.build.symbols[TOC_SYMBOL]
        # What the conventions fix is as it was, where the kernel does not set it: DF is clear.
        values |= {f.register: self.machine.get(f.register) for f in convention.fixed if f.register in run.bench.masks}
        arguments = (
            self.random.randrange(1, SIGNALS + 1),
            self.start + kernel.info,
            self.start + kernel.context,
        )
        cfa = self.bottom() + (run.word if convention.return_address is None else 0)
        handling = self.handle(arguments, cfa, back, values)
        found = handling.violations
        if not found and self.signals.restorer is not None:
            restoring = _Restoring(self, run.build.program.functions[self.signals.restorer])
            restoring.enter()
            found = restoring.violations
        handling.memory.take_back()
        return found


class _Exception(_Delivery):
    """Windows: what KiUserExceptionDispatcher is given, and a vectored handler, that ntdll calls. `context`, `record`,
    `pointers`: where CONTEXT, EXCEPTION_RECORD and EXCEPTION_POINTERS are."""

    what = "an exception"

    @property
    def layout(self) -> ContextRecord:
        layout = self.run.architecture.context_record
        assert layout is not None, "the resolver knows that there is one"
        return layout

    def untouched(self) -> int:
        return self.run.build.program.target.conventions["c"].red_zone

    def lay_out(self) -> None:
        word = self.run.word
        self.record_size = 152 if word == 8 else 80  # winnt.h, EXCEPTION_RECORD
        self.record = (self.top - self.record_size) // RECORD_ALIGNMENT * RECORD_ALIGNMENT
        self.context = (self.record - self.layout.size) // RECORD_ALIGNMENT * RECORD_ALIGNMENT
        self.pointers = self.context - 2 * word
        convention = self.handler.convention
        types = [p.type.value_type for p in self.handler.parameters]
        above = max(convention.area, convention.place(types, None).stack_bytes)
        cfa = self.pointers - above - word * self.random.randrange(DISPATCHER_WORDS)
        cfa = cfa // convention.alignment * convention.alignment
        if cfa % (2 * convention.alignment) == 0:
            cfa -= convention.alignment  # aligned to what the convention says, and to no more
        self.cfa = cfa

    def bottom(self) -> int:
        return self.cfa - self.run.word

    def play(self) -> list[Violation]:
        run, machine, layout, word = self.run, self.machine, self.layout, self.run.word
        before = machine.get_many(run.bench.observable)
        frame = bytearray(self.random.randbytes(self.top - self.bottom()))
        context = self.random.randbytes(layout.size)
        self._place(frame, self.context, context)
        for register, value in before.items():
            for offset, size in self._fields(register):
                value &= (1 << 8 * size) - 1
                self._place(frame, self.context + offset, value.to_bytes(size, run.order))
        self._place(frame, self.context + layout.flags, layout.full.to_bytes(4, run.order))
        self._place(frame, self.record, ACCESS_VIOLATION.to_bytes(4, run.order) + bytes(4))
        words = {self.record + 8: 0, self.record + 8 + word: self.address, self.context + layout.pc: self.address}
        self.write_words(frame, self.bottom(), words)
        self.write_words(frame, self.bottom(), {self.pointers: self.record, self.pointers + word: self.context})
        machine.write(self.bottom(), bytes(frame))
        convention = self.handler.convention
        values = run.random_registers(convention)
        values.pop(run.architecture.sp, None)
        handling = self.handle((self.pointers,), self.cfa, self.back(), values)
        found = handling.violations
        if not found and handling.trace.result == CONTINUE_EXECUTION:
            found = self._continue(before)
        handling.memory.take_back()
        return found

    def _place(self, frame: bytearray, address: int, data: bytes) -> None:
        start = address - self.bottom()
        frame[start : start + len(data)] = data

    def _fields(self, register: Register) -> Iterator[tuple[int, int]]:
        """Where CONTEXT has a register: offsets and sizes, in bytes."""
        if register in self.layout.registers:
            yield self.layout.registers[register]
        for copied, offset, size in self.layout.copies:
            if copied is register:
                yield offset, size

    def _continue(self, before: Mapping[Register, int]) -> list[Violation]:
        """Go on as CONTEXT says; where that is not what was interrupted, code of the program leads back to it."""
        run, machine, layout = self.run, self.machine, self.layout
        image = machine.read(self.context, layout.size)
        values = dict(before)
        for register, (offset, size) in layout.registers.items():
            if register in values:
                mask = (1 << 8 * size) - 1
                values[register] = values[register] & ~mask | int.from_bytes(image[offset : offset + size], run.order)
        pc = int.from_bytes(image[layout.pc : layout.pc + run.word], run.order)
        machine.set_many(values)
        if pc != self.address:
            if pc not in run.bench.entries:
                message = f"goes on at {pc:#x}, which is no trampoline's start"
                return [Violation("flow", message, expected=self.address, found=pc, function=self.handler.name)]
            resuming = _Resuming(self, run.build.program.functions[run.bench.entries[pc]])
            resuming.enter()
            if resuming.violations:
                return resuming.violations
        sp, name = run.architecture.sp, run.bench.entries.get(pc, self.handler.name)
        now = machine.get_many(run.bench.observable)
        found = []
        for register, value in values.items():
            if register is not sp and value != before[register]:
                continue  # it carries what the code behind pc is to have
            want = self.interrupted if register is sp else value
            if now[register] != want:
                message = f"goes on with another {register.name} than " + (
                    "was interrupted" if register is sp else "CONTEXT has"
                )
                obligation = "sp" if register is sp else "preserve"
                found.append(Violation(obligation, message, register.name, None, want, now[register], function=name))
        return found


class _Passage(Execute):
    """Code of the program between the system and the interrupted code: it calls nobody, and stores nothing. `goal`:
    where it is to lead, for people."""

    goal: str

    def __init__(self, delivery: _Delivery, function: ir.Function) -> None:
        run = delivery.run
        super().__init__(
            run.bench, run.world, Trace(), function, None, run.anonymous, delivery.number, False, budget=HANDLER_BUDGET
        )
        self.delivery = delivery

    def enter(self) -> None:
        """From its first instruction, with registers and memory as they are."""
        self._go_through(self.build.symbols[self.function.name])

    def step(self, address: int) -> None:
        self.executed.append(address)
        place = self._locate(address)
        if place is None or place[0].name != self.function.name:
            self.returned(address)

    def _own_stack(self) -> tuple[int, int]:
        return 0, 0

    def wrote(self, address: int, size: int, value: int, pc: int) -> None:
        self._violate("writes", f"writes {size} bytes at {address:#x}: no memory is its own", memory=address, pc=pc)

    def returned(self, address: int) -> None:
        self._violate("flow", f"leads to {address:#x}, and not to {self.goal}", found=address)
        self._end()

    stub = astray = system_call = returned

    def _stopped(self, stop: Stop) -> None:
        self._violate("flow", stop.detail or f"stops at {stop.pc:#x}", pc=self.executed[-1] if self.executed else None)


class _Restoring(_Passage):
    """What a handler returns to on Linux."""

    goal = "the system call that ends a handler"

    def system_call(self, address: int) -> None:
        """The kernel takes everything from its frame, if it finds that."""
        assert isinstance(self.delivery, _Signal)
        calls, kernel, sp = self.architecture.system_calls, self.delivery.kernel, self.machine.sp
        assert calls is not None, "there are system calls where there are signals"
        register = calls.convention.integer_arguments[0]
        number = 0 if calls.number_at is None else self.machine.read(address + calls.number_at, 1)[0]
        number = number or self.machine.get(register) & 0xFFFFFFFF
        if number != kernel.number:
            message = f"makes the system call {number}, and not rt_sigreturn, {kernel.number}"
            self._violate("args", message, register=register.name, expected=kernel.number, found=number)
        want = self.delivery.start + kernel.restored
        if sp != want:
            message = "calls rt_sigreturn with another stack pointer than the handler returned with"
            self._violate("sp", message, register=self.architecture.sp.name, expected=want, found=sp)
        self.finished = True
        self._end()


class _Resuming(_Passage):
    """Where CONTEXT has led, on Windows."""

    goal = "the interrupted instruction"

    def step(self, address: int) -> None:
        if address == self.delivery.address:
            self.finished = True
            self._end()
        super().step(address)


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
        piece, start = b"", 0
        for address, byte in sorted(self.before.items()):
            if piece and address == start + len(piece):
                piece += byte
                continue
            self.run.machine.write(start, piece)  # which does nothing with no bytes
            piece, start = byte, address
        self.run.machine.write(start, piece)


class _Handling(Execute):
    """The run of a handler, in the midst of another."""

    def __init__(self, delivery: _Delivery, world: World, trace: Trace, cfa: int, back: int, memory: _Seen) -> None:
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
        self.cfa = cfa
        self.back = back
        self.memory = memory
        # What is still as it was where the source will write.
        self.expected |= {a: b[0] for a in trace.permitted if (b := memory.before.get(a)) is not None}

    def enter(self, arguments: tuple[int, ...], values: dict[Register, int]) -> None:
        """As the system does it; to the end of the handler."""
        machine, handler = self.machine, self.function
        convention = handler.convention
        entry = self.build.symbols[handler.name]
        result = handler.result.value_type if handler.result is not None else None
        places = convention.place([p.type.value_type for p in handler.parameters], result).arguments
        for parameter, value, location in zip(handler.parameters, arguments, places, strict=True):
            for part in location:
                if isinstance(part.place, InRegister):
                    values[part.place.register] = 0  # systems widen what they pass in registers
                self._put(part, value, parameter.type, self.cfa, values)
        sp = self.cfa
        if convention.return_address is None:
            sp -= self.word
            machine.write(sp, self.back.to_bytes(self.word, self.order))
        else:
            values[convention.return_address] = self.back
        self._fix(values, convention, entry)
        if self.bench.stacks:
            machine.empty_x87()
        machine.set_many(values)
        machine.sp = sp
        self._activate(handler, self.cfa, sp, self.back, None)
        self.enters(entry, self.back)
        self._go_through(entry)

    def step(self, address: int) -> None:
        if address == self.back and len(self.activations) == 1 and self._has_returned():
            self.returned(address)
            return
        super().step(address)

    def _check_returned(self, activation: Activation) -> int | None:
        toc = self._toc()
        if toc is not None and activation is self.activations[0]:
            # Who enters a function from another module puts its own table of contents back; the kernel puts all back.
            activation.registers = {**activation.registers, toc: self.machine.get(toc)}
        return super()._check_returned(activation)


__all__ = ["Deliveries", "Players", "interrupted_at"]
