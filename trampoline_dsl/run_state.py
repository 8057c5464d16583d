"""What one run of machine code in a world has at any moment, and how what is wrong in it is named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Literal

from . import ir
from .activations import Activation, Waiting
from .bench import Bench
from .extended import double_of_single
from .interpret import Execution
from .landing import Landings
from .machine_code import Code
from .oracle import Event, Trace, thread_register
from .target import Architecture, Convention, Part, Register, ValueType
from .violation import Violation
from .watchers import Interruptions, Watcher, Witness
from .world import GARBAGE, Region, World, garbage

BUDGET = 20_000  # instructions of one run, callees not counted


class End(Exception):
    """The run is over: it was wrong beyond repair, or it has ended as it should."""


class RunState:
    """A run, from its beginning to its end. Each of the classes that follow adds what is checked, or done, at one
    kind of moment; `judge` has the last one."""

    def __init__(
        self,
        bench: Bench,
        world: World,
        trace: Trace,
        function: ir.Function,
        scenario: ir.Scenario | None,
        anonymous: Mapping[str, ir.Signature],
        number: int,
        scramble: bool,
        follow: Register | None = None,
        spare: Literal["", "below", "area"] = "",
        budget: int = BUDGET,
    ) -> None:
        self.bench = bench
        self.build = bench.build
        self.machine = bench.machine
        self.architecture: Architecture = bench.architecture
        self.world = world
        self.trace = trace
        self.function = function
        self.scenario = scenario
        self.anonymous = anonymous
        self.number = number
        self.random = random.Random(f"{world.seed} garbage {number}")
        self.scramble = scramble
        self.follow = follow
        self.spare = spare
        self.budget = budget
        self.order = self.architecture.order
        self.word = self.architecture.word
        self.word_mask = (1 << 8 * self.word) - 1
        self.violations: list[Violation] = []
        # What the source has written by now, and what is still as it was where it will write later.
        self.expected: dict[int, int] = {}
        self.executed: list[int] = []
        self.witness = trace if isinstance(trace, Witness) else None
        self.events: Iterator[Event] = iter(trace.events)
        self.activations: list[Activation] = []
        self.calls = 0
        self.started = 0
        self.variables = dict(world.variables)
        self.thread_register = thread_register(self.build) if world.thread_slot is None else None
        self.begun = 0  # trampolines
        self.taken = 0  # events of the source
        self.finished = False
        self.entering = False
        self.out_of_bounds = False
        self.moved = False  # the judge has set the program counter since the last instruction
        self.pending: list[Waiting] = []
        self.last_values: list[tuple[int, int]] = []
        self.entries, self.leaving = bench.entries, bench.leaving
        self.own: tuple[Activation, int] | None = None  # who runs, and where its stack begins
        self.last_place: tuple[int, Activation, Region | None] | None = None  # sp, who runs, on which stack
        self.executions: list[Execution] = []
        self.push = self.word if function.convention.return_address is None else 0
        self.kind = GARBAGE[number // 2 % len(GARBAGE)]
        self.garbage = self._garbage(1 << 16) if scramble else memoryview(b"")
        self.stack_of = sorted(self.build.plan.stacks, key=lambda r: r.base)
        self.watcher: Watcher | None = None
        self.interruptions: Interruptions | None = None
        self.last_call: Event | None = None
        self.interrupted: int | None = None  # the instruction that waits for what comes before it
        protection = bench.protection
        self.landings = Landings(self.architecture, protection, self.machine.read) if protection is not None else None

    @cached_property
    def any_random(self) -> random.Random:
        return random.Random(f"{self.world.seed} any")

    def _garbage(self, size: int) -> memoryview:
        return garbage(self.random, size, self.word, self.kind)

    def _garbage_bits(self, bits: int) -> int:
        """What an undefined register may hold, of this run's kind."""
        kind = self.kind
        if kind == "zeros":
            return 0
        value = self.random.getrandbits(bits)
        if kind == "random":
            return value
        turn = self._drawn_below(3)
        return value if turn == 2 else -turn & (1 << bits) - 1

    def _drawn_below(self, limit: int) -> int:
        """What `randrange` draws, at a third of what that takes."""
        bits, draw = limit.bit_length(), self.random.getrandbits
        drawn = draw(bits)
        while drawn >= limit:
            drawn = draw(bits)
        return drawn

    @property
    def _drawn(self) -> Callable[[int], int]:
        """What `_garbage_bits` does, without asking for the kind each time."""
        return self.random.getrandbits if self.kind == "random" else self._garbage_bits

    def _end(self) -> None:
        self.machine.stop()
        raise End

    def _go(self, address: int) -> None:
        self.moved = True
        self.machine.go(address)

    def _locate(self, pc: int | None) -> tuple[Code, int] | None:
        if pc is None:
            return None
        return self.bench.listing.get(pc)

    def _violate(
        self,
        obligation: str,
        message: str,
        *,
        pc: int | None = None,
        register: str | None = None,
        memory: int | None = None,
        expected: int | None = None,
        found: int | None = None,
    ) -> None:
        if pc is None and self.executed:
            pc = self.executed[-1]
        self.violations.append(
            self.violation(obligation, message, pc=pc, register=register, memory=memory, expected=expected, found=found)
        )

    def violation(
        self,
        obligation: str,
        message: str,
        *,
        pc: int | None,
        register: str | None = None,
        memory: int | None = None,
        expected: int | None = None,
        found: int | None = None,
    ) -> Violation:
        """What is wrong at an instruction, named."""
        place = self._locate(pc)
        instruction = source = None
        address = None
        name = self.activations[-1].function.name if self.activations else self.function.name
        if place is not None:
            code, index = place
            insn = code.instructions[index]
            instruction, address, name = insn.text, code.offsets[index], code.name
            source = code.source(index)
        return Violation(
            obligation,
            message,
            register,
            memory,
            expected,
            found,
            address,
            instruction,
            source,
            name,
            self.world.seed,
            self.scenario.title if self.scenario else "",
        )

    def _taken(self, function: ir.Function) -> list[ValueType]:
        """The types of what a trampoline is called with."""
        if function.variadic:
            return [ValueType("int", 8 * self.word)] * len(self.world.words)
        return [p.type.value_type for p in function.parameters]

    def _toc(self) -> Register | None:
        """The register that a caller keeps its table of contents in, where there is one."""
        return self.architecture.toc

    def _popped(self, activation: Activation) -> int:
        """By how many bytes it leaves the stack pointer above its CFA, at most."""
        function, convention = activation.function, activation.function.convention
        if not convention.callee_pops and not (function.variadic and self.architecture.pop_register):
            return 0
        return convention.place(self._taken(function), None).stack_bytes - convention.first_stack_argument

    def _pushes(self, activation: Activation) -> bool:
        return activation.function.convention.return_address is None

    def _return_address(self, convention: Convention, sp: int) -> int:
        if convention.return_address is None:
            return int.from_bytes(self.machine.read(sp, self.word), self.order)
        return self.machine.get(convention.return_address) & self.word_mask

    def _leads_home(self, return_address: int, activation: Activation) -> bool:
        """Whether it is the one that the trampoline was given, so that what is called returns to its caller."""
        return return_address == activation.return_address and not self.bench.is_code(return_address)

    def _left_shift(self, register: Register, left: bool, width: int) -> int:
        """Singles on the left are in the upper half of 64 bits, whatever lies beside those."""
        return 64 - width if left else 0

    def _represent(self, part: Part, piece: int) -> int:
        return double_of_single(piece) if part.as_double else piece


def away(distance: int) -> str:
    return f"{abs(distance)} bytes {'above' if distance > 0 else 'below'}"
