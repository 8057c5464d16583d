"""The verdict: machine code is executed in a hostile world and compared with what the source means.

The judge knows conventions, and what it observes. It plays every callee: checks what arrives, runs the check's script,
then overwrites every register and every byte that the convention gives a callee, and returns. It never looks at how
the code was made; of the artifact it takes the bytes, the frame's size (as a traceback would) and, to name
instructions, the listing.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from . import ir
from .emulate import Machine, MachineError, Stop
from .extended import double_of_single
from .interpret import Execution, Request, Run, Trouble
from .landing import Landings, Protection, marks_pairs, unpaired
from .link import link
from .oracle import (
    Event,
    Trace,
    draw,
    enters_without_thread,
    handed_over,
    kernel_answer,
    leaves_other_thread,
    local_variables,
    restore,
    return_place,
    thread_base,
    thread_register,
)
from .pdata import Entries
from .target import (
    HIGHEST_ERRNO,
    Architecture,
    Bank,
    Convention,
    InRegister,
    Insn,
    Location,
    OnStack,
    Part,
    Register,
    ThreadSlot,
    ValueType,
)
from .unwind import Table
from .world import (
    GARBAGE,
    RETURN_SPACING,
    STUB_SPACING,
    Build,
    Region,
    World,
    entry_of,
    garbage,
    name_of_variable,
    thread_in_memory,
    thread_place,
)

BUDGET = 20_000  # instructions of one run, callees not counted
_LONGEST_STORE = 64  # bytes, at least what any instruction stores in one piece

OBLIGATIONS = (
    "preserve",
    "sp",
    "align",
    "area",
    "args",
    "below",
    "bounds",
    "writes",
    "reads",
    "flow",
    "effect",
    "unwind",
    "landing",
)


@dataclass(frozen=True)
class Violation:
    """One way in which code breaks an obligation. `register` or `memory` says where it shows; values are whole."""

    obligation: str
    message: str
    register: str | None = None
    memory: int | None = None
    expected: int | None = None
    found: int | None = None
    address: int | None = None  # of the instruction, from the start of its function
    instruction: str | None = None
    source: str | None = None
    function: str = ""
    seed: int = 0
    check: str = ""
    advice: str = ""  # what to write instead, where that is clear

    def as_json(self) -> dict[str, Any]:
        def number(value: int | None) -> str | None:
            return None if value is None else f"{value:#x}"

        return {
            "obligation": self.obligation,
            "register": self.register,
            "memory": number(self.memory),
            "expected": number(self.expected),
            "found": number(self.found),
            "address": number(self.address),
            "instruction": self.instruction,
            "source": self.source,
            "function": self.function,
            "seed": self.seed,
            "check": self.check,
            "message": self.message,
            **({"advice": self.advice} if self.advice else {}),
        }


@dataclass(frozen=True)
class Code:
    """Machine code to be judged: one trampoline's bytes, its listing, and the size of its frame; or a table's, and the
    bytes from an entry to the next."""

    name: str
    code: bytes
    relocations: tuple[Any, ...]
    instructions: tuple[Insn, ...]
    offsets: tuple[int, ...]
    frame: int
    file: str
    stride: int = 0
    # Directives, each with the offset that it stands at, or what a file has.
    unwinding: tuple[tuple[int, str], ...] | Table | Entries | None = None
    index: tuple[tuple[int, str], ...] | None = None  # directives of another table, which is read at run time
    sources: Mapping[int, str] = field(default_factory=dict, compare=False)  # by offset: where else a line is from

    def source(self, index: int) -> str:
        """The line that an instruction comes from."""
        insn = self.instructions[index]
        if insn.line:
            return f"{self.file}:{insn.line}:{insn.column}"
        return self.sources.get(self.offsets[index], self.file)

    @property
    def local_entry(self) -> int:
        """Where callers of the same module enter: bytes from the start, behind what sets the table of contents up."""
        for insn, offset in zip(self.instructions, self.offsets, strict=True):
            if insn.label is not None and insn.text:
                return offset
        return 0


@dataclass(slots=True)
class Activation:
    """A trampoline that is running. `sp`: at its first instruction; `cfa`: of its caller's call."""

    function: ir.Function
    cfa: int
    sp: int
    return_address: int
    registers: dict[Register, int]
    outside: dict[int, bytes]  # the caller's words that nobody may touch, by address
    stack_bytes: int  # above the CFA: what its arguments and its result take there, and what lies below them
    number: int = 0  # how many have begun before it
    resume: Waiting | None = None  # what goes on when it returns


@dataclass(slots=True)
class Waiting:
    """A callee's script that has called a trampoline and waits for it."""

    script: Run
    execution: Execution
    handler: ir.Handler | None
    before: dict[ir.Variable, int | None]
    call: Arrival
    registers: Mapping[Register, int]
    request: Request
    thread: int | None


@dataclass(slots=True)
class Arrival:
    """A call that has reached a callee which the judge plays."""

    name: str
    signature: ir.Signature
    event: Event
    cfa: int
    return_address: int
    number: int
    jumped: bool
    left: bool = (
        False  # the trampoline's frame is gone: it has jumped, or code from elsewhere does so where its source calls
    )


class Watcher:
    """Is told of a run as it goes on, and changes nothing in it. `trampoline trace` is one."""

    def settled(self) -> None:
        """The instruction executed last has had its effect; the judge has done nothing yet."""

    def instruction(self, address: int) -> None:
        """An instruction is about to be executed."""

    def wrote(self, address: int, size: int) -> None:
        """The code stores."""

    def entered(self, activation: Activation) -> None:
        """A trampoline is about to begin: registers and memory are as its caller leaves them."""

    def arrived(self, arrival: Arrival) -> None:
        """A callee that the judge plays has been entered, and its script is about to run."""

    def answered(self, arrival: Arrival, result: int | None) -> None:
        """A callee's script has ended, and all that its convention gives it is about to be overwritten."""

    def left(self, activation: Activation, result: int | None) -> None:
        """A trampoline has returned."""


class Interruptions(ABC):
    """What comes between two instructions of a run, and leaves everything as it was. `deliver` has those there are."""

    @abstractmethod
    def due(self, run: Execute, address: int) -> bool:
        """Whether to interrupt the run before the instruction at `address`, which is no delay slot's."""

    @abstractmethod
    def happen(self, run: Execute, address: int) -> None:
        """The machine is at rest before that instruction. Violations go to the run."""


class Witness(Trace, ABC):
    """A trace that is made as the code runs, where no source says what it does: what the code calls is taken for what
    it should. `recorded`: it has been made, by a run of the same world, and others are compared with that one."""

    recorded: bool = False

    @abstractmethod
    def start(self, run: Execute) -> None:
        """A run begins."""

    @abstractmethod
    def begins(self, function: ir.Function, arguments: Sequence[int]) -> None:
        """A trampoline is entered with these arguments."""

    @abstractmethod
    def event(self, run: Execute, kinds: tuple[str, ...], signature: ir.Signature | None) -> Event | None:
        """What the code does at this moment, one of `kinds`: a call by a signature, of the kernel if there is none, or
        a return. None where it cannot be."""

    @abstractmethod
    def answered(self, run: Execute) -> None:
        """A callee that the judge plays is about to return; registers are as it leaves them."""

    @abstractmethod
    def permits(self, address: int, size: int) -> bool:
        """Whether the code may store there, besides its stack."""


class _End(Exception):
    """The run is over: it was wrong beyond repair, or it has ended as it should."""


class Bench:
    """A machine with one program's code and its tables loaded, used for many runs."""

    foreign = False  # the code was not made here, and its frames are as they are

    def __init__(self, build: Build, codes: Mapping[str, Code], tables: Mapping[str, Code]) -> None:
        self.build = build
        self.codes = codes
        self.strides = {name: code.stride for name, code in tables.items()}
        self.architecture = build.architecture
        self.machine = Machine(self.architecture)
        self.run: Execute | None = None
        # What the code's file says of its landing pads, if anything.
        self.protection = _protection(build) if self.architecture.protect else None
        plan = build.plan
        for region in plan.regions:
            self.machine.map(region.base, region.size)
        self.entries: dict[int, str] = {}
        self.listing: dict[int, tuple[Code, int]] = {}
        self.leaving: set[int] = set()  # what is executed behind these has been returned to
        self.placed: dict[str, Code] = {}
        self.locals = {name: build.symbols[name] + code.local_entry for name, code in codes.items()}
        for name, code in codes.items():
            self.entries[build.symbols[name]] = self.entries[self.locals[name]] = name
            self._place(code)
        for code in tables.values():
            self._place(code)
        self.stubs = {address: name for name, address in build.symbols.items() if address in plan.stubs}
        self._fill_with_moves(plan.stubs, STUB_SPACING)
        self._fill_with_moves(plan.returns, RETURN_SPACING)
        observable = self.machine.observable
        self.observable = tuple(r for r in dict.fromkeys(self.architecture.registers.values()) if r in observable)
        self.stacks = self.machine.stacks
        self.masks = {r: self._garbage_mask(r) for r in self.observable if r not in self.stacks}
        self._at_entry: dict[Convention, list[tuple[Register, int, int, int]]] = {}
        self._after_call: dict[
            tuple[Convention, frozenset[Register] | None], list[tuple[Register, int, int | None]]
        ] = {}
        # What no convention of the machine lets anybody use (the platform's, the kernel's) is nobody's to change.
        common = [set(c.reserved) for c in self.architecture.conventions.values()]
        self.reserved = (
            frozenset(set.intersection(*common) - {self.architecture.sp, self.architecture.got})
            if common
            else frozenset()
        )
        self.machine.on_instruction(self._step, plan.code.base, plan.code.end - 1)
        self.machine.on_instruction(self._stub, plan.stubs.base, plan.stubs.end - 1)
        self.machine.on_instruction(self._returned, plan.returns.base, plan.returns.end - 1)
        for region in plan.regions:
            if not region.executable:
                self.machine.on_instruction(self._astray, region.base, region.end - 1)
        self.machine.on_write(self._wrote)
        self.machine.on_system_call(self._called_kernel)
        self._set_segments()
        self._at_return: dict[Convention, tuple[tuple[Register, ...], tuple[int, ...]]] = {}
        self.initial = self.machine.save()
        self.clean = self._executable()

    def _set_segments(self) -> None:
        """Where threads have a segment of memory, it is the same one in each world."""
        for convention in self.architecture.conventions.values():
            if isinstance(convention.thread, ThreadSlot):
                self.machine.set_segment_base(convention.thread.segment, thread_base(self.build.plan))

    @contextmanager
    def lent(self, region: Region, entered: Callable[[int], None]) -> Iterator[None]:
        """Memory that is there for a while; `entered` is called before any instruction of it."""
        self.machine.map(region.base, region.size)
        hook = self.machine.on_instruction(lambda address, _: entered(address), region.base, region.end - 1)
        try:
            yield
        finally:
            hook.remove()
            self.machine.unmap(region.base, region.size)

    def behind(self, address: int) -> int:
        """Where the instruction at an address of the listing ends."""
        code, index = self.listing[address]
        return address + (*code.offsets, len(code.code))[index + 1] - code.offsets[index]

    def replace(self, code: Code) -> None:
        """Put other machine code in the place of a function's or a table's, and mend what a run of the old may have
        overwritten."""
        for base, image in self.clean.items():
            if self.machine.read(base, len(image)) != image:
                self.machine.write(base, image)
        old = self.placed[code.name]
        base = self.build.symbols[code.name]
        for offset in old.offsets:
            self.listing.pop(base + offset, None)
            self.leaving.discard(base + offset)
        self.machine.write(base, bytes(len(old.code)))
        self._place(code)
        self.clean = self._executable()

    def _executable(self) -> dict[int, bytes]:
        return {r.base: self.machine.read(r.base, r.size) for r in self.build.plan.regions if r.executable}

    def _place(self, code: Code) -> None:
        self.placed[code.name] = code
        base = self.build.symbols[code.name]
        # Where function pointers point to descriptors, so does a function's symbol; a branch to it leads to the code.
        self.locals[code.name] = base + code.local_entry
        branches = {
            offset + insn.relocation.offset
            for insn, offset in zip(code.instructions, code.offsets, strict=True)
            if insn.relocation is not None and insn.transfer != "none"
        }
        to_code = [r for r in code.relocations if r.offset in branches]
        to_data = [r for r in code.relocations if r.offset not in branches]
        linked = link(self.architecture, code.code, to_code, base, {**self.build.symbols, **self.locals})
        linked = link(self.architecture, linked, to_data, base, {**self.build.pointers, **self.build.for_linker})
        self.machine.write(base, linked)
        self._list(code, base)

    def _list(self, code: Code, base: int) -> None:
        for index, (insn, offset) in enumerate(zip(code.instructions, code.offsets, strict=True)):
            if insn.label is None:
                self.listing[base + offset] = (code, index)
                if insn.transfer == "return":
                    last = index + 1 if insn.delay_slot else index
                    self.leaving.add(base + code.offsets[min(last, len(code.offsets) - 1)])

    def is_code(self, address: int) -> bool:
        """Whether a call may return there."""
        return address in self.build.plan.code

    def by_linker(self, executed: Sequence[int]) -> bool:
        """Whether a stub of the linker's has entered what was entered just now: it leaves the environment out."""
        return False

    def why(self, address: int | None) -> str:
        """What is behind an access to this address that failed; empty where nothing is known."""
        return ""

    def enters_through_pointer(self, executed: Sequence[int]) -> bool:
        """Whether what was entered just now was entered through a pointer, by the instructions executed so far."""
        return False

    def goes_on(self, before: int, address: int) -> bool:
        """Whether what looked like a return has led to a place where the code goes on."""
        return False

    def _garbage_mask(self, register: Register) -> int:
        """The bits that may hold anything. Of a floating point mode register only the modes are varied: a pending
        exception in its status bits would be raised by the emulator as soon as it is set."""
        mask = self.machine.writable_mask(register)
        if register.bank is Bank.CONTROL and register is not self.architecture.flags:
            kept = [c.kept[register] for c in self.architecture.conventions.values() if register in c.kept]
            for some in kept:
                mask &= some
        return mask

    def at_entry(self, convention: Convention) -> list[tuple[Register, int, int, int]]:
        """The registers that a caller fills: their bits, those of them that may hold anything, those that are kept."""
        found = self._at_entry.get(convention)
        if found is None:
            masks = self.masks.items()
            found = [(r, r.bits, mask, convention.keeps(r)) for r, mask in masks if mask]
            self._at_entry[convention] = found
        return found

    def after_call(
        self, convention: Convention, clobbers: frozenset[Register] | None
    ) -> list[tuple[Register, int, int | None]]:
        """What a callee leaves in each register: its bits, and those of them that stay; None where all do."""
        found = self._after_call.get((convention, clobbers))
        if found is not None:
            return found
        always = set(convention.linker_may_write)
        if self.architecture.flags is not None:
            always.add(self.architecture.flags)
        if convention.return_address is not None:
            always.add(convention.return_address)
        found = []
        for register, mask in self.masks.items():
            if register is self.architecture.sp:
                continue
            spared = clobbers is not None and register not in clobbers and register not in always
            if register in self.reserved or spared:
                found.append((register, register.bits, None))
            else:
                keep = convention.keeps(register) if clobbers is None else 0
                found.append((register, register.bits, (keep | ~mask) & (1 << register.bits) - 1))
        self._after_call[convention, clobbers] = found
        return found

    def at_return(self, convention: Convention) -> tuple[tuple[Register, ...], tuple[int, ...]]:
        """The registers that a caller wants back, and which bits of each; nobody's to change are among them."""
        found = self._at_return.get(convention)
        if found is None:
            masks = dict(convention.kept)
            for register in self.reserved:
                masks.setdefault(register, (1 << register.bits) - 1)
            masks = {register: mask for register, mask in masks.items() if register in self.observable}
            found = self._at_return[convention] = tuple(masks), tuple(masks.values())
        return found

    def _fill_with_moves(self, region: Region, spacing: int) -> None:
        """Something decodable where the judge answers: it is never executed."""
        from .assemble import assemble

        usable = self.architecture.allocatable(next(iter(self.architecture.conventions.values())))
        code = assemble(self.architecture, list(self.architecture.move(usable[0], usable[1]))).code
        for address in range(region.base, region.end - spacing + 1, spacing):
            self.machine.write(address, code)

    def _step(self, address: int, _size: int) -> None:
        run = self.run
        if run is not None:
            run.step(address)

    def _stub(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.stub(address)

    def _returned(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.returned(address)

    def _astray(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.astray(address)

    def _called_kernel(self, address: int) -> None:
        if self.run is not None:
            self.run.system_call(address)

    def _wrote(self, address: int, size: int, value: int, pc: int) -> None:
        if self.run is not None:
            self.run.wrote(address, size, value, pc)


def _protection(build: Build) -> Protection:
    """What is said of a file that we have compiled."""
    functions = (build.program.functions[name] for name in build.program.own)
    paired = marks_pairs(build.architecture) and not any(unpaired(f, build.architecture) for f in functions)
    return Protection(landing=True, paired=paired)


class Execute:
    """One run of one world by the machine code. `violations` has what was found, `executed` the addresses in order.

    `scramble`: memory below the stack pointer is overwritten before every instruction, as signals may. `spare`: what
    callees leave alone in this run, although it is theirs: what is "below" the stack pointer, or the "area" above it.
    It tells a symptom from its cause.
    """

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

    # ------------------------------------------------------------------------------------------------------- running

    def run(self) -> None:
        """Run the world to its end."""
        machine = self.machine
        bench = self.bench
        if self.witness is not None:
            self.witness.start(self)
        machine.restore(bench.initial)
        stacks = {region.base: region for region in self.build.plan.stacks}
        permitted = self.trace.permitted
        lowest, highest = min(permitted, default=0), max(permitted, default=-1)
        for base, image in self.world.images.items():
            if base in stacks:
                machine.write(base, image)
                machine.write(base, self._litter(stacks[base]))
                continue
            machine.write(base, image)
            end = base + len(image)
            if base <= highest and lowest < end:
                self.expected |= {a: image[a - base] for a in permitted if base <= a < end}
        thread: int | None = self.world.thread
        if enters_without_thread(self.build, self.function.convention) and self.thread_register is not None:
            thread = draw(self.world.seed, "thread at entry", 8 * self.word)
        self._registers_at_entry(self.function.convention, None)
        entry = self._begin(self.function, tuple(self.world.arguments), self.world.sp, thread, None)
        self._go_through(entry)
        if self.finished:
            self._compare_everything()

    def _go_through(self, entry: int) -> None:
        """Execute from here to the end, as it may be."""
        bench, machine = self.bench, self.machine
        bench.run = self
        try:
            machine.ignore_stores(*self._own_stack())
            stop = machine.run(entry, self.budget, 0)
            while self.interrupted is not None and self.interruptions is not None:
                state = machine.save()
                self.interruptions.happen(self, self.interrupted)
                if self.violations:
                    return
                bench.run = self
                machine.restore(state)
                machine.ignore_stores(*self._own_stack())
                stop = machine.run(self.interrupted, self.budget, 0)
            if not self.finished:
                self._stopped(stop)
        except _End:
            pass
        except Trouble as trouble:
            self._violate("effect", trouble.message)
        finally:
            bench.run = None

    def _own_stack(self) -> tuple[int, int]:
        """From where on and up to where it may begin to store as it likes, and nobody has to be told."""
        if self.watcher is not None or self.begun != 1 or not self.activations:
            return 0, 0
        cfa = self.activations[0].cfa
        region = next((region for region in self.stack_of if cfa in region), None)
        return (region.base, max(cfa - _LONGEST_STORE, region.base)) if region is not None else (0, 0)

    @cached_property
    def any_random(self) -> random.Random:
        return random.Random(f"{self.world.seed} any")

    def _litter(self, region: Region) -> bytes | memoryview:
        """Whatever lies below the callers' part of a stack differs from run to run."""
        top = self.world.sp - self.push if self.world.sp in region else None
        for name, stack in self.world.stack_tops.items():
            if stack in region and name:
                top = stack
        return b"" if top is None else self._garbage(top - region.base)

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

    def _stopped(self, stop: Stop) -> None:
        if self._resumes(stop.pc):
            return
        if stop.trapped and self._locate(stop.pc) is not None and self._traps(stop.pc):
            return
        if stop.reason == "budget":
            self._violate("flow", f"does not end within {self.budget} instructions", pc=stop.pc)
        elif stop.reason == "fault" and stop.address in (None, stop.pc) and self._has_returned():
            link = self.activations[-1].function.convention.return_address
            stays = link is not None and self.bench.is_code(stop.pc)  # the jump itself failed
            self._returns_astray(self.machine.get(link) if stays and link is not None else stop.pc)
        elif stop.reason == "fault":
            self._violate(
                "flow",
                self.bench.why(stop.address) or stop.detail,
                pc=self.executed[-1] if self.executed else stop.pc,
                memory=stop.address,
            )
        elif not self.violations:
            self._violate("flow", f"stops at {stop.pc:#x} without returning", pc=stop.pc)

    def _traps(self, pc: int) -> bool:
        """Whether the source wants this run to end by a trap: then that is compared."""
        if not self.trace.events or self.trace.events[-1].kind != "trap":
            return False
        event = self._take(("trap",), "traps")
        if event is None:
            return True
        activation = self.activations[-1]
        sp = self.machine.sp
        self._check_sp(f"traps with the stack pointer {_away(sp - event.sp)} where the source has it", sp, event, pc)
        self._compare_memory(event)
        if activation.function.convention.thread is not None:
            self._check_thread(event)
        self.finished = True
        return True

    def _has_returned(self) -> bool:
        """Whether the code itself has just left a function by its return, and not by the judge's hand."""
        return not self.moved and bool(self.executed) and self.executed[-1] in self.bench.leaving

    def _returns_elsewhere(self, address: int) -> bool:
        """Whether what looked like a return, just now, has led to where nothing goes on."""
        return not self.moved and not self.bench.goes_on(self.executed[-1], address)

    def _returns_astray(self, address: int) -> None:
        activation = self.activations[-1]
        link = activation.function.convention.return_address
        self._violate(
            "sp",
            f"returns to {address:#x}, and not to the return address that it was given",
            register=link.name if link is not None else self.architecture.sp.name,
            memory=None if link is not None else activation.sp,
            expected=activation.return_address,
            found=address,
        )

    def astray(self, address: int) -> None:
        """Before every instruction that is in nobody's code."""
        if self.watcher is not None:
            self.watcher.settled()
        if self._resumes(address):
            self._end()
        elif self._has_returned():
            self._returns_astray(address)
        else:
            region = next(r for r in self.build.plan.regions if address in r)
            self._violate("flow", f"runs into {address:#x} ({region.name}), which is no code", memory=address)
        self._end()

    def _end(self) -> None:
        self.machine.stop()
        raise _End

    # -------------------------------------------------------------------------------------------------- what is named

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

    # ------------------------------------------------------------------------------------------------- whom walks find

    def innermost(self) -> Activation | None:
        """Whose frame the stack pointer is in; None if in nobody's."""
        return self.activations[-1] if self.activations else None

    def leaves_for_good(self) -> bool:
        """Whether the stack pointer is the one that the source resumes with."""
        resumed = self.trace.events[-1].resumed if self.trace.events else None
        return resumed is not None and resumed.sp == self.machine.sp

    # ------------------------------------------------------------------------------------------------ entering a body

    def random_registers(self, convention: Convention) -> dict[Register, int]:
        """Something different in each register that the caller wants back, garbage in the others."""
        random_bits, garbage_bits = self.random.getrandbits, self._drawn
        return {
            r: (random_bits(bits) if kept else garbage_bits(bits)) & mask
            for r, bits, mask, kept in self.bench.at_entry(convention)
        }

    @property
    def _drawn(self) -> Callable[[int], int]:
        """What `_garbage_bits` does, without asking for the kind each time."""
        return self.random.getrandbits if self.kind == "random" else self._garbage_bits

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

    def _fix(self, values: dict[Register, int], convention: Convention, code: int) -> None:
        for fixed in convention.fixed:
            value = code & fixed.code_mask if fixed.code_mask else fixed.value
            values[fixed.register] = values.get(fixed.register, 0) & ~fixed.mask | value & fixed.mask

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

    def _taken(self, function: ir.Function) -> list[ValueType]:
        """The types of what a trampoline is called with."""
        if function.variadic:
            return [ValueType("int", 8 * self.word)] * len(self.world.words)
        return [p.type.value_type for p in function.parameters]

    def _toc(self) -> Register | None:
        """The register that a caller keeps its table of contents in, where there is one."""
        return self.architecture.toc

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
        misplaced = _misplaced(function, slots, self.bench.codes[function.name].frame, cfa)
        if misplaced:
            self._violate("bounds", misplaced, memory=cfa)
        if self.watcher is not None:
            self.watcher.entered(self.activations[-1])

    def _put(self, part: Part, value: int, type_: ir.Type, cfa: int, values: dict[Register, int]) -> None:
        """Place a part of an argument, with garbage wherever the convention promises nothing."""
        piece = (value >> part.low) & ((1 << part.bits) - 1)
        piece = self._represent(part, piece)
        match part.place:
            case InRegister(register, left):
                if part.extend_to:
                    piece = _extended(piece, part)
                    width = part.extend_to
                else:
                    width = 64 if part.as_double else part.bits
                garbage = values.get(register, self.random.getrandbits(register.bits))
                shift = self._left_shift(register, left, width)
                mask = ((1 << width) - 1) << shift
                values[register] = garbage & ~mask | (piece << shift) & mask
            case OnStack(offset):
                width = part.extend_to or part.bits
                if part.extend_to:
                    piece = _extended(piece, part)
                data = (piece & ((1 << width) - 1)).to_bytes(width // 8, self.order)
                self.machine.write(cfa + offset, data)

    def _left_shift(self, register: Register, left: bool, width: int) -> int:
        """Singles on the left are in the upper half of 64 bits, whatever lies beside those."""
        return 64 - width if left else 0

    def _represent(self, part: Part, piece: int) -> int:
        return double_of_single(piece) if part.as_double else piece

    # ------------------------------------------------------------------------------------------------------- each step

    def step(self, address: int) -> None:
        """Before every instruction of the code."""
        if self.interrupted is not None:
            self.interrupted = None  # it goes on
            return
        watcher, executed, activation = self.watcher, self.executed, self.activations[-1]
        if watcher is not None:
            watcher.settled()
        if self.landings is not None:
            self._land(address)
        if address in self.entries and self._called(address):
            self._enter_from_code(address)
            activation = self.activations[-1]
        elif address == activation.return_address and len(self.activations) > 1 and activation.resume is None:
            self._leave(address)
            activation = self.activations[-1]
        elif executed and executed[-1] in self.leaving and self._returns_elsewhere(address):
            self._returns_astray(address)
            self._end()
        self.moved = False
        executed.append(address)
        if self.follow is not None:
            self.last_values.append((address, self.machine.get(self.follow)))
        sp = self.machine.sp
        place = self.last_place
        if place is None or place[0] != sp or place[1] is not activation:
            place = self.last_place = (sp, activation, self._stack_at(sp, activation))
        region = place[2]
        if region is None and not self.out_of_bounds:
            self._violate(
                "bounds",
                f"the stack pointer is {sp:#x}, outside of the stack",
                register=self.architecture.sp.name,
                expected=self._nearest(sp, activation),
                found=sp,
                pc=executed[-2] if len(executed) > 1 else address,
            )
            if not any(activation.cfa in r and sp in r for r in self.stack_of):
                self._end()
            self.out_of_bounds = True  # said once: what comes of it is to be seen
        elif self.scramble and region is not None:
            self._scramble_below(region, sp - activation.function.convention.red_zone)
        if watcher is not None:
            watcher.instruction(address)
        if self.interruptions is not None and not self.in_delay_slot() and self.interruptions.due(self, address):
            self.interrupted = address
            self.machine.stop()

    def _scramble_below(self, region: Region, floor: int) -> None:
        """Overwrite a stack up to `floor`, as signals may."""
        size = floor - region.base
        if size > 0:
            offset = self._drawn_below(1 << 8)
            data = self.garbage[offset : offset + size]
            if len(data) < size:
                data = memoryview(bytes(data) * (size // len(data) + 1))[:size]
            self.machine.write(region.base, data)

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

    def in_delay_slot(self) -> bool:
        """Whether the instruction that is about to be executed stands behind one that takes it along."""
        place = self._locate(self.executed[-2]) if len(self.executed) > 1 else None
        return place is not None and place[0].instructions[place[1]].delay_slot

    def _stack_at(self, sp: int, activation: Activation) -> Region | None:
        """The stack that sp is on, if it is one that the trampoline may be on, and below what belongs to others."""
        for region in self.stack_of:
            if region.base <= sp <= region.end:
                if activation.cfa in region and sp <= activation.cfa + self._popped(activation):
                    return region
                for top in self.trace.entered:
                    if top in region and sp <= top:
                        return region
                for event in self.trace.events:
                    if event.resumed is not None and event.resumed.sp == sp:
                        return region
                return None
        resumed = self.trace.events[-1].resumed if self.trace.events else None
        if resumed is not None and resumed.sp == sp:
            return self.stack_of[0]
        return None

    def _nearest(self, sp: int, activation: Activation) -> int:
        """The last stack pointer that would have been on the stack."""
        region = next((r for r in self.stack_of if activation.cfa in r), self.stack_of[0])
        return min(max(sp, region.base), activation.cfa + self._popped(activation))

    def _popped(self, activation: Activation) -> int:
        """By how many bytes it leaves the stack pointer above its CFA, at most."""
        function, convention = activation.function, activation.function.convention
        if not convention.callee_pops and not (function.variadic and self.architecture.pop_register):
            return 0
        return convention.place(self._taken(function), None).stack_bytes - convention.first_stack_argument

    def _called(self, address: int) -> bool:
        """Whether this entry was reached by a call or a jump out of another trampoline, not by a loop."""
        if self.entering:
            self.entering = False
            return False
        if not self.executed:
            return False
        for past in self.executed[-2:]:
            place = self._locate(past)
            if place is None:
                continue
            if place[0].name in self.bench.strides:
                return False  # the way in from a table is not a call of its own
            insn = place[0].instructions[place[1]]
            if insn.transfer == "call" or (insn.transfer == "jump" and insn.target is None):
                return True
        return False

    def wrote(self, address: int, size: int, value: int, pc: int) -> None:
        """Each store of the code."""
        if self.watcher is not None:
            self.watcher.wrote(address, size)
        if not self.activations or self._may_write(address, size):
            return
        where = self._describe(address)
        self._violate(
            "writes",
            f"writes {size} bytes at {address:#x}, {where}",
            pc=pc,
            memory=address,
            expected=self._what_is_at(address, size),
            found=value & ((1 << 8 * size) - 1),
        )

    def _what_is_at(self, address: int, size: int) -> int | None:
        try:
            return int.from_bytes(self.machine.read(address, size), self.order)
        except MachineError:
            return None

    def _may_write(self, address: int, size: int) -> bool:
        activation = self.activations[-1]
        if self.own is None or self.own[0] is not activation:
            own = next((region.base for region in self.stack_of if activation.cfa in region), activation.cfa)
            self.own = activation, own
        if self.own[1] <= address and address + size <= activation.cfa:
            return True
        for region in self.stack_of:
            if address in region:
                if activation.cfa in region:
                    if address + size <= activation.cfa:
                        return True
                elif any(top in region and address + size <= top for top in self.trace.entered):
                    return True
                break
        if all(address + i in self.trace.permitted for i in range(size)):
            return True
        if self.witness is not None and self.witness.permits(address, size):
            return True
        return all(self._given(address + i, activation) for i in range(size))

    def _given(self, address: int, activation: Activation) -> bool:
        """Whether a byte above the CFA is the callee's: its arguments in memory, and the areas of its convention."""
        convention = activation.function.convention
        offset = address - activation.cfa
        if offset < 0:
            return False
        for place in activation.outside:
            if place <= address < place + self.word:
                return False
        if convention.first_stack_argument <= offset < activation.stack_bytes:
            return True
        return offset < convention.area

    def _describe(self, address: int) -> str:
        activation = self.activations[-1]
        for region in self.build.plan.regions:
            if address in region:
                if activation.cfa in region:
                    return f"{address - activation.cfa} bytes above the caller's stack pointer: not its own"
                return f"in {region.name}, where the source writes nothing"
        return "outside of all memory"

    # ----------------------------------------------------------------------------------------------------------- calls

    def _next(self, kinds: tuple[str, ...], what: str, signature: ir.Signature | None = None) -> Event:
        event = self._take(kinds, what, signature)
        if event is None:
            self._end()
            raise _End
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
        found, want = self.machine.get(register), _MachineHost(self).get_thread()
        if found != want:
            message = f"{what} with {register.name} not the g that is in the thread's slot"
            self._violate("args", message, register=register.name, expected=want, found=found)

    def _copy_thread(self, values: dict[Register, int], convention: Convention) -> None:
        if convention.thread_copy is not None:
            values[convention.thread_copy] = _MachineHost(self).get_thread()

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

    def _leads_home(self, return_address: int, activation: Activation) -> bool:
        """Whether it is the one that the trampoline was given, so that what is called returns to its caller."""
        return return_address == activation.return_address and not self.bench.is_code(return_address)

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

    def _return_address(self, convention: Convention, sp: int) -> int:
        if convention.return_address is None:
            return int.from_bytes(self.machine.read(sp, self.word), self.order)
        return self.machine.get(convention.return_address) & self.word_mask

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

    def _check_arguments(self, name: str, signature: ir.Signature, event: Event, cfa: int) -> None:
        convention = signature.convention
        types = [t.value_type for _, t in signature.parameters]
        assignment = convention.place(types, signature.result.value_type if signature.result else None)
        for (parameter, type_), value, location in zip(
            signature.parameters, event.arguments, assignment.arguments, strict=True
        ):
            self._check_value(f"{name}'s {parameter}", value, type_, location, cfa)
        for fixed in convention.fixed:
            if fixed.register not in self.bench.masks:
                continue
            want = self.build.symbols[name] & fixed.code_mask if fixed.code_mask else fixed.value
            found = self.machine.get(fixed.register)
            if (found ^ want) & fixed.mask:
                self._violate(
                    "args",
                    f"calls {name} with {fixed.register.name} not as {convention.name} wants it: {fixed.why}",
                    register=fixed.register.name,
                    expected=want & fixed.mask,
                    found=found & fixed.mask,
                )
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

    def _check_value(self, what: str, value: int, type_: ir.Type, location: Location, cfa: int) -> None:
        for part in location:
            piece = self._represent(part, (value >> part.low) & ((1 << part.bits) - 1))
            if part.extend_to:
                piece = _extended(piece, part)
            width = part.extend_to or (64 if part.as_double else part.bits)
            register = memory = None
            match part.place:
                case InRegister(place, left):
                    register = place.name
                    found = self.machine.get(place) >> self._left_shift(place, left, width)
                case OnStack(offset):
                    memory = cfa + offset
                    found = int.from_bytes(self.machine.read(memory, width // 8), self.order)
            found &= (1 << width) - 1
            piece &= (1 << width) - 1
            if found != piece:
                where = register or f"memory at sp + {memory - cfa if memory is not None else 0}"
                recording = self.witness is not None and not self.witness.recorded
                wrong = "not extended as its convention wants it" if recording else "not what the source says"
                self._violate(
                    "args",
                    f"{what} ({type_}) in {where} is {wrong}",
                    register=register,
                    memory=memory,
                    expected=piece,
                    found=found,
                )

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
        request = Request("", (), arrival.event.node or ir.TailCall("", (), signature.convention, signature.span))
        waiting = Waiting(execution.run(handler.body), execution, handler, before, arrival, registers, request, None)
        self._go_on(waiting, None, first=True)

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
        wrong = f"makes a system call with the stack pointer {_away(sp - event.sp)} where the source has it"
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

    def _script(self, sp: int) -> Execution:
        return Execution(
            _MachineHost(self),
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

    def _pushes(self, activation: Activation) -> bool:
        return activation.function.convention.return_address is None

    def _expectation_failed(self, node: ir.Expect) -> None:
        self._violate("effect", f"an expectation does not hold: {' '.join(node.span.text.split())} ({node.span})")

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

    def _go(self, address: int) -> None:
        self.moved = True
        self.machine.go(address)

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

    # ------------------------------------------------------------------------------------- one trampoline calls another

    def _enter_from_code(self, address: int) -> None:
        name = self.bench.entries[address]
        function = self.build.program.functions[name]
        arrival = self._check_call(name, function.signature, ("call", "jump"))
        if arrival.jumped:
            self.activations.pop()
        sp = self.machine.sp
        self._activate(function, arrival.cfa, sp, arrival.return_address, None)

    def _leave(self, address: int) -> None:
        """A trampoline that another one called has returned."""
        activation = self.activations[-1]
        self._check_returned(activation)
        self.activations.pop()

    # --------------------------------------------------------------------------------------------------- returning

    def returned(self, address: int) -> None:
        """A trampoline has returned to where the judge called it from, or gone astray into there."""
        if self.watcher is not None:
            self.watcher.settled()
        if self._resumes(address):
            self._end()
            return
        self._land(address)
        activation = self.activations[-1]
        if address != activation.return_address:
            self._violate(
                "sp",
                "returns to another address than it was given",
                expected=activation.return_address,
                found=address,
            )
            self._end()
            return
        result = self._check_returned(activation)
        if activation.resume is None:
            self.finished = True
            self._end()
            return
        self.activations.pop()
        waiting = activation.resume
        self._go_on(waiting, result)

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
        self._check_fixed(self.activations[-1], "resumes")
        self.finished = True
        return True

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
                f"returns with the stack pointer {_away(machine.sp - want)} where {who} leaves it",
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
            self._check_fixed(activation, "returns")

    def _check_stacks(self, what: str, convention: Convention, results: Location) -> None:
        """x86: nothing is on the x87 stack at calls and returns but a result."""
        if not self.bench.stacks:
            return
        wanted = sum(isinstance(p.place, InRegister) and p.place.register in self.bench.stacks for p in results)
        found = self.machine.x87_depth
        if found != wanted:
            message = f"{what} with {found} values on the x87 stack, where {convention.name} has {wanted}"
            self._violate("args" if found < wanted else "preserve", message, expected=wanted, found=found)

    def _check_fixed(self, activation: Activation, leaves: str) -> None:
        convention = activation.function.convention
        for fixed in convention.fixed:
            if fixed.register not in self.bench.masks:
                continue
            entry = self.build.symbols[activation.function.name]
            want = entry & fixed.code_mask if fixed.code_mask else fixed.value
            found = self.machine.get(fixed.register)
            if (found ^ want) & fixed.mask:
                self._violate(
                    "preserve",
                    f"{leaves} with {fixed.register.name} not as {convention.name} wants it: {fixed.why}",
                    register=fixed.register.name,
                    expected=want & fixed.mask,
                    found=found & fixed.mask,
                )

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

    # -------------------------------------------------------------------------------------------------- the end of it

    def _compare_everything(self) -> None:
        """All memory, byte by byte: write hooks do not see every store, and the source may have written elsewhere."""
        assert self.trace.memory is not None
        recording = self.witness is not None and not self.witness.recorded
        last = None if recording else next(self.events, None)
        if last is not None and last.kind in ("call", "jump"):
            self._violate("effect", f"ends without the call of {last.callee} that the source makes")
        if self.scenario is not None and not self.violations:
            execution = self._script(self.world.sp)
            for _ in execution.run(self.scenario.finally_):
                break
        resumed = [event.resumed.sp for event in self.trace.events[-1:] if event.resumed is not None]
        tops = (*self.world.stack_tops.values(), *self.trace.entered, *resumed)
        regions = {region.base: region for region in reversed(self.build.plan.regions)}
        for base, image in self.trace.memory.images.items():
            region = regions.get(base) or next(r for r in regions.values() if base in r)
            start = max(self._compared_from(region, tops), base)
            want = image[start - base :]
            found = self.machine.read(start, len(want))
            if want == found:
                continue
            compared = bytearray(found)
            for low, high in self._free():
                low, high = max(low - start, 0), max(high - start, 0)
                compared[low:high] = want[low:high]
            for offset in _differing(want, compared):
                address = start + offset
                if self.witness is None or not self.witness.permits(address, 1):
                    word = address // self.word * self.word
                    at = max(word - start, 0)
                    self._violate(
                        "writes",
                        f"memory at {word:#x} ({self._name(word)}) has changed, and the source does not write there",
                        memory=word,
                        expected=int.from_bytes(want[at : at + self.word], self.order),
                        found=int.from_bytes(found[at : at + self.word], self.order),
                    )
                    break

    def _free(self) -> Iterator[tuple[int, int]]:
        """Where the bytes begin and end that the outermost call was given, or that were compared when it returned."""
        if not self.activations:
            return
        outermost = self.activations[0]
        convention, cfa = outermost.function.convention, outermost.cfa
        for place in outermost.outside:
            yield place, place + self.word
        yield cfa, cfa + convention.area
        yield cfa + max(convention.first_stack_argument, 0), cfa + outermost.stack_bytes

    def _compared_from(self, region: Region, tops: Sequence[int]) -> int:
        """Below its callers' part, a stack holds frames that are gone."""
        base, end = region.base, region.end
        if base <= self.world.sp < end:
            return self.world.sp
        return max([top for top in tops if base <= top < end], default=base) if tops else base


def _differing(want: bytes | bytearray, found: bytes | bytearray) -> Iterator[int]:
    """Where two pieces of memory of one size differ. Most of it does not, and is passed over whole or in blocks."""
    if want == found:
        return
    for start in range(0, len(want), 256):
        if want[start : start + 256] != found[start : start + 256]:
            for offset in range(start, min(start + 256, len(want))):
                if want[offset] != found[offset]:
                    yield offset


class _MachineHost:
    """What a script sees while machine code waits."""

    def __init__(self, run: Execute) -> None:
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


def _misplaced(function: ir.Function, slots: Mapping[str, int], frame: int, cfa: int) -> str:
    """Why the structs in a frame cannot be where the compiler says that they are."""
    taken: list[tuple[int, int]] = []
    for slot in function.slots:
        if slot.name not in slots:
            continue
        start, end = slots[slot.name], slots[slot.name] + slot.size
        if start < 0 or end > frame:
            return f"`{slot.name}` is not within the frame, which has {frame} bytes: {start} to {end}"
        if any(start < other_end and other < end for other, other_end in taken):
            return f"`{slot.name}` at {start} is where another slot is"
        if (cfa - frame + start) % min(slot.alignment, function.convention.alignment):
            return f"`{slot.name}` at {start} is not aligned to {slot.alignment}"
        taken.append((start, end))
    return ""


def _extended(piece: int, part: Part) -> int:
    if part.extend_signed and piece >> (part.bits - 1):
        piece -= 1 << part.bits
    return piece & ((1 << part.extend_to) - 1)


def _away(distance: int) -> str:
    return f"{abs(distance)} bytes {'above' if distance > 0 else 'below'}"


def _field_at(program: ir.Program, layout: ir.StructLayout, offset: int) -> str:
    for field_ in layout.fields.values():
        if field_.offset <= offset < field_.offset + field_.size:
            if isinstance(field_.type, str) and field_.count is None:
                return f"{field_.name}.{_field_at(program, program.structs[field_.type], offset - field_.offset)}"
            return field_.name
    return f"+{offset}"


__all__ = ["BUDGET", "OBLIGATIONS", "Activation", "Arrival", "Bench", "Code", "Execute", "Violation", "Watcher"]
