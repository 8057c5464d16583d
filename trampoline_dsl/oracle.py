"""What should happen: the reference interpreter drives a whole run and notes every call, in order.

The events are what machine code is compared with. Nothing here has seen an instruction.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, Protocol

from . import ir
from .diagnostics import Span
from .interpret import Execution, Request, Resumed, Run, Trouble, Unset
from .records import dataclass
from .target import HIGHEST_ERRNO, ByteOrder, Convention, Register
from .world import RETURN_SPACING, Build, Bytes, World, entry_of, thread_base, thread_in_memory, thread_place


@dataclass(frozen=True, slots=True)
class Event:
    """A moment at which machine code and source are compared.

    `sp`: the stack pointer at the call (in the caller's frame). `writes`: bytes of memory changed since the event
    before, by address; None where a byte no longer means anything. `caller_pc`, `caller_sp`: what a walk of the frames
    finds one frame up from here. `top`: where the frame of the stack ends that a call is made on. `thread`: g,
    where the convention has it in a register. `chain`: where the word at sp points to at a call, in conventions
    that have a back chain: the caller's sp, or that of the stack that was left.
    """

    kind: Literal["call", "jump", "return", "resume", "trap"]
    function: str
    callee: str
    arguments: tuple[int, ...]
    node: ir.Call | ir.TailCall | None
    sp: int
    writes: Mapping[int, int | None]
    thread: int | None
    caller_pc: int | None
    caller_sp: int | None
    result: int | None = None
    resumed: Resumed | None = None
    popped: int | None = None  # bytes of arguments, where the return itself says how many
    span: Span | None = None
    chain: int = 0
    top: int = 0
    pinned: Mapping[int, bytes] = field(default_factory=dict)  # what is in slots that others know by their place

    @property
    def indirect(self) -> bool:
        """Whether the callee is entered through a pointer."""
        return self.node is not None and not isinstance(self.node.callee, str)


class Stay(NamedTuple):
    """A trampoline's stay on one stack, until it enters or leaves an `on stack` block. `after`: how many events there
    are before it. `top`: the stack pointer that the block was entered with; None in none. `caller`: whom a walk finds
    from there, by stack pointer and PC; None: who has called. `changed`: it is where the last one was, and a callee has
    put another PC there."""

    after: int
    top: int | None = None
    caller: tuple[int, int] | None = None
    changed: bool = False


@dataclass(slots=True)
class Trace:
    """All that the source does in one world. `permitted`: addresses that its statements write. `entered`: the stack
    pointers that `on stack` blocks start from. `stays`: of each trampoline that runs, in the order in which they begin.
    `unmet`: expectations that the source itself does not meet."""

    events: list[Event] = field(default_factory=list)
    permitted: set[int] = field(default_factory=set)
    entered: list[int] = field(default_factory=list)
    stays: list[list[Stay]] = field(default_factory=list)
    unmet: list[ir.Expect] = field(default_factory=list)
    memory: Bytes | None = None
    result: int | None = None


@lru_cache(maxsize=1024)
def draw(seed: int, what: str, bits: int) -> int:
    """A value that both worlds agree on, by its name."""
    return random.Random(f"{seed} {what}").getrandbits(bits)


def kernel_answer(seed: int, call: int, bits: int) -> int:
    """What a system call returns of which no check says it: one in three fails."""
    value = draw(seed, f"result {call}", bits)
    return value if value % 3 else -(1 + value // 3 % HIGHEST_ERRNO) & ((1 << bits) - 1)


def thread_register(build: Build) -> Register | None:
    for convention in build.architecture.conventions.values():
        if isinstance(convention.thread, Register):
            return convention.thread
    return None


def enters_without_thread(build: Build, convention: Convention) -> bool:
    """Whether callers by this convention may have anything in the thread's register."""
    register = thread_register(build)
    return register is not None and convention.thread is None


def leaves_other_thread(build: Build, caller: Convention, callee: ir.Signature) -> bool:
    """Whether a callee without a script changes g: where the caller has no g in its register, to find one there is what
    it was called for."""
    return enters_without_thread(build, caller) and isinstance(callee.convention.thread, Register)


def return_place(build: Build, activation: int) -> int:
    """The return address that the judge gives to its n-th call of a trampoline, 0 for the outermost."""
    return build.plan.returns.base + RETURN_SPACING * (activation % (build.plan.returns.size // RETURN_SPACING))


@lru_cache(maxsize=256)
def local_variables(handler: ir.Handler, scenario: ir.Scenario | None) -> tuple[ir.Variable, ...]:
    """What belongs to one run of a handler: its parameters and its `let`s, but not the check's own variables."""
    shared = {v for v, _ in scenario.variables} | set(scenario.arguments) if scenario is not None else set()
    found = list(handler.parameters)
    for node in ir.walk(handler.body):
        if isinstance(node, (ir.Assign, ir.Call)) and node.variable is not None and node.variable not in shared:
            found.append(node.variable)
    return tuple(dict.fromkeys(found))


def handed_over(handler: ir.Handler, arguments: Sequence[int], word: int) -> Iterable[tuple[ir.Variable, int]]:
    """The parameters of a handler and their values. The kernel's may be more or fewer than a system call has: all are
    words, and 0 where nothing is passed."""
    if handler.callee != ir.SYSTEM_CALL:
        return zip(handler.parameters, arguments, strict=True)
    words = [value & ((1 << 8 * word) - 1) for value in arguments] + [0] * len(handler.parameters)
    return zip(handler.parameters, words, strict=False)


def restore(variables: dict[ir.Variable, int], before: Mapping[ir.Variable, int | None]) -> None:
    """A handler may have run inside itself; the outer run goes on with its own values."""
    for variable, value in before.items():
        if value is None:
            variables.pop(variable, None)
        else:
            variables[variable] = value


class AsmOutcome(Protocol):
    @property
    def outputs(self) -> Mapping[Register, int]: ...

    @property
    def writes(self) -> Mapping[int, int]: ...

    @property
    def thread(self) -> int | None: ...


class AsmRunner(Protocol):
    """Runs an `asm` block: inputs by register, the memory, the stack pointer, g. Raises Trouble."""

    def run(self, node: ir.Asm, inputs: Mapping[Register, int], memory: Bytes, sp: int, thread: int) -> AsmOutcome: ...


class _Trapped(Exception):
    """The source has come to a `trap`, which ends the whole run."""


class Oracle:
    """Runs one world by the source alone."""

    def __init__(
        self,
        build: Build,
        world: World,
        frames: Mapping[str, int],
        scenario: ir.Scenario | None,
        anonymous: Mapping[str, ir.Signature],
        asm: AsmRunner | None,
        switched_frames: Mapping[str, int] | None = None,
        returning: Collection[str] = (),
    ) -> None:
        self.returning = returning  # the trampolines whose `jump` may be a call and a return in their code
        self.build = build
        self.world = world
        self.frames = frames
        self.switched_frames = switched_frames or {}  # on other stacks, where they are of another size there
        self.scenario = scenario
        self.anonymous = anonymous
        self.asm = asm
        self.order: ByteOrder = build.architecture.order
        self.word = build.architecture.word
        self.memory = Bytes(world.images)
        self.trace = Trace(memory=self.memory)
        self.delta: dict[int, int | None] = {}
        self.unset: set[int] = set()  # bytes of frames that nobody has set yet
        self.scripting = 0
        self.calls = 0
        self.activations = 0
        self.thread = world.thread
        self.variables = dict(world.variables)
        self.executions: list[tuple[Execution, str, int]] = []  # with the return address of each
        self.stays: list[list[Stay]] = []  # of each of these

    @cached_property
    def any_random(self) -> random.Random:
        return random.Random(f"{self.world.seed} any")

    # -------------------------------------------------------------------------------------------------- the host

    def load(self, address: int, size: int) -> bytes:
        if self.unset and any(place in self.unset for place in range(address, address + size)):
            raise Unset(address)
        return self.memory.load(address, size)

    def store(self, address: int, data: bytes) -> None:
        try:
            self.memory.store(address, data)
        except LookupError:
            raise Trouble(f"the source writes to {address:#x}, where there is no memory", None) from None
        for index, byte in enumerate(data):
            self.delta[address + index] = byte
            self.unset.discard(address + index)
            if not self.scripting:
                self.trace.permitted.add(address + index)
        if not self.scripting and self.executions and self.executions[-1][0].switches:
            self.stay(entered=False)  # a pushed PC may have been overwritten

    def get_thread(self) -> int:
        if self.world.thread_slot is not None:
            return thread_in_memory(self.world, self.memory.load)
        return self.thread

    def set_thread(self, value: int) -> None:
        if self.world.thread_slot is not None:
            self.store(thread_place(self.world, self.memory.load), value.to_bytes(self.word, self.order))
        self.thread = value

    def thread_slot(self) -> int:
        assert self.world.thread_slot is not None
        return self.world.thread_slot

    def symbol(self, name: str) -> int:
        return self.world.pointers[name]

    def stack_top(self, name: str) -> int:
        return self.world.stack_tops[name]

    def any(self, bits: int) -> int:
        return self.any_random.getrandbits(bits)

    # -------------------------------------------------------------------------------------------------- running

    def run(self, function: ir.Function, return_address: int) -> Trace:
        """The whole run of one world. Raises Trouble where the source itself goes wrong."""
        world = self.world
        if enters_without_thread(self.build, function.convention) and world.thread_slot is None:
            self.thread = draw(world.seed, "thread at entry", 8 * self.word)
        try:
            self.trace.result = self.function(function, tuple(world.arguments), world.sp, return_address)
        except _Trapped:
            self.scripting = 0
        if self.scenario is not None:
            self.scripting += 1
            execution = self.script(self.variables, world.sp)
            self.drive(execution.run(self.scenario.finally_), world.sp)
            self.scripting -= 1
        return self.trace

    def function(
        self, function: ir.Function, arguments: tuple[int, ...], cfa: int, return_address: int, number: int = 0
    ) -> int | None:
        variables: dict[ir.Variable, int] = {}
        given = {}
        if function.table is not None:
            given["table index"] = entry_of(function.table, self.world.seed, number)
        if function.variadic:
            given |= self.world.given
        execution = Execution(
            self,
            variables,
            cfa,
            self.frames[function.name],
            function.convention.return_slot == "bottom",
            on_push=self.switched,
            slots=self.build.slots.get(function.name, {}),
            given=given,
            switched_frame=self.switched_frames.get(function.name),
        )
        self.unset |= self.structs(execution, function)
        if function.variadic:
            self.take_words(function, cfa)
        if self.asm is not None:
            execution.asm = lambda node, inputs: self.run_asm(execution, node, inputs)
        for variable, value in zip(function.parameters, arguments, strict=True):
            variables[variable] = execution.normal(value, variable.type)
        self.executions.append((execution, function.name, return_address))
        self.stays.append([Stay(len(self.trace.events))])
        self.trace.stays.append(self.stays[-1])
        if len(self.executions) > 64:
            raise Trouble("the source calls itself without end", function.span)
        scripting, self.scripting = self.scripting, 0
        thread = self.thread
        result = self.drive_function(execution, function, cfa, thread)
        self.give_back_thread(function, thread)
        self.scripting = scripting
        self.executions.pop()
        self.stays.pop()
        return result

    def take_words(self, function: ir.Function, cfa: int) -> None:
        """All words that it was called with lie side by side, wherever they arrive."""
        start, registers = function.convention.words(self.build.architecture.homes_below)
        self.unset |= self.homes(function, cfa)
        for index, value in enumerate(self.world.words):
            data = value.to_bytes(self.word, self.order)
            if index < len(registers):
                self.store(cfa + start + index * self.word, data)
            else:
                self.memory.store(cfa + start + index * self.word, data)

    def homes(self, function: ir.Function, cfa: int) -> set[int]:
        """The bytes where words that arrive in registers are put."""
        if not function.variadic:
            return set()
        start, registers = function.convention.words(self.build.architecture.homes_below)
        return set(range(cfa + start, cfa + start + len(registers) * self.word))

    def structs(self, execution: Execution, function: ir.Function) -> set[int]:
        """The bytes of the structs in a frame. One that nothing is done with is not there."""
        found: set[int] = set()
        for slot in function.slots:
            if slot.name in execution.slots:
                start = execution.cfa - execution.frame + execution.slots[slot.name]
                found |= set(range(start, start + slot.size))
        return found

    def give_up_frame(self, execution: Execution, function: ir.Function) -> None:
        """What is in a frame is dead once that is gone."""
        gone = self.structs(execution, function) | self.homes(function, execution.cfa)
        self.unset -= gone
        self.delta.update(dict.fromkeys(gone))

    def give_back_thread(self, function: ir.Function, thread: int) -> None:
        """To a convention without a thread its register is one of those that come back as they were."""
        if enters_without_thread(self.build, function.convention) and self.world.thread_slot is None:
            self.thread = thread

    def run_asm(self, execution: Execution, node: ir.Asm, inputs: Mapping[Register, int]) -> Mapping[Register, int]:
        assert self.asm is not None
        outcome = self.asm.run(node, inputs, self.memory, execution.sp, self.thread)
        if outcome.thread is not None and self.world.thread_slot is None:
            self.thread = outcome.thread
        for address, byte in outcome.writes.items():
            self.store(address, bytes((byte,)))
        return outcome.outputs

    def switched(self, address: int, entering: bool) -> None:
        self.stay()
        if entering:
            self.trace.entered.append(address)
        elif address:
            # The pushed word is dead once its frame is gone.
            for byte in range(self.word):
                self.delta[address + byte] = None

    def stay(self, *, entered: bool = True, called: bool = False) -> None:
        """Note where the trampoline that runs is from now on, if a stack has been `entered` or left, or another caller
        is there; `called`: by what a callee has done."""
        top = caller = None
        for switch in self.executions[-1][0].switches:
            top = switch.entry
            if switch.pushed is not None:
                caller = top, int.from_bytes(self.memory.load(switch.pushed, self.word), self.order)
        stays = self.stays[-1]
        if entered or caller != stays[-1].caller:
            stays.append(Stay(len(self.trace.events), top, caller, called))

    def drive_function(self, execution: Execution, function: ir.Function, cfa: int, thread: int) -> int | None:
        generator = execution.run(function.body)
        answer: int | None = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration:
                break
            if isinstance(request.node, ir.TailCall):
                name = self.name_of(request.callee, request)
                self.give_back_thread(function, thread)
                self.give_up_frame(execution, function)
                if function.name in self.returning and name not in self.build.program.functions:
                    self.note("call", function.name, name, request, cfa)
                    result = self.outcome(name, request, cfa, 0)
                    self.event("return", function, cfa, result, None)
                    return result
                self.note("jump", function.name, name, request, cfa)
                return self.outcome(name, request, cfa, self.executions[-1][2])
            name = self.name_of(request.callee, request)
            self.note("call", function.name, name, request, execution.sp)
            answer = self.outcome(name, request, execution.sp, 0)
            if execution.switches:
                self.stay(entered=False, called=True)
        if execution.trapped is not None:
            self.event("trap", function, execution.sp, None, None, execution.trapped.span)
            raise _Trapped
        self.give_up_frame(execution, function)
        if execution.resumed is not None:
            self.event("resume", function, cfa, None, execution.resumed)
            return None
        if execution.popped is not None:
            self.check_popped(function, execution.popped)
        self.event("return", function, cfa, execution.result, None, popped=execution.popped)
        return execution.result

    def check_popped(self, function: ir.Function, popped: int) -> None:
        passed = len(self.world.words) * self.word
        if popped % self.word or popped > passed:
            raise Trouble(f"the source pops {popped} bytes of arguments, and was passed {passed}", function.span)

    def name_of(self, callee: str | int, request: Request) -> str:
        if isinstance(callee, str):
            return callee
        for name, address in self.world.pointers.items():
            if address == callee and name not in self.build.program.variables:
                return name
        raise Trouble(f"the source calls {callee:#x}, where nothing is", request.node.span)

    def signature(self, name: str) -> ir.Signature:
        program = self.build.program
        if name in program.functions:
            return program.functions[name].signature
        return program.externs.get(name) or self.anonymous[name]

    def check_call(self, name: str, request: Request) -> None:
        """A call through a pointer says itself what it passes, and by which convention; what is there has its own
        mind. Raises Trouble if they differ."""
        node = request.node
        if isinstance(node.callee, str) or name in self.anonymous:
            return
        signature = self.signature(name)
        passed = [(a.type.kind == "float", a.type.bits) for a in node.arguments]
        taken = [(type_.kind == "float", type_.bits) for _, type_ in signature.parameters]
        if passed != taken:
            types = ", ".join(str(a.type) for a in node.arguments)
            wanted = ", ".join(str(type_) for _, type_ in signature.parameters)
            raise Trouble(f"the source calls {name}({wanted}) with ({types})", node.span)
        if node.convention is not signature.convention:
            message = f"the source calls {name} using {node.convention.name}, which is {signature.convention.name}"
            raise Trouble(message, node.span)

    def outcome(self, name: str, request: Request, sp: int, return_address: int) -> int | None:
        """What a callee does, and its result."""
        self.calls += 1
        call = self.calls
        program = self.build.program
        self.check_call(name, request)
        if name in program.functions:
            # The return address of a compiled caller is the machine's affair: a walk there is not compared.
            return self.function(program.functions[name], request.arguments, sp, return_address)
        signature = ir.kernel_signature(request.node) if name == ir.SYSTEM_CALL else self.signature(name)
        handler = self.scenario.handlers.get(name) if self.scenario else None
        result: int | None = None
        if handler is not None:
            variables = self.variables
            before = {v: variables.get(v) for v in local_variables(handler, self.scenario)}
            for variable, value in handed_over(handler, request.arguments, self.word):
                variables[variable] = value
            pushes = signature.convention.return_address is None and name != ir.SYSTEM_CALL
            push = self.word if pushes else 0
            self.scripting += 1
            execution = self.script(variables, sp - push)
            self.drive(execution.run(handler.body), sp)
            result = execution.result
            self.scripting -= 1
            restore(variables, before)
        elif leaves_other_thread(self.build, program.functions[self.executions[-1][1]].convention, signature):
            self.thread = draw(self.world.seed, f"thread after call {call}", 8 * self.word)
        if result is None and name == ir.SYSTEM_CALL:
            result = kernel_answer(self.world.seed, call, 8 * self.word)
        if result is None and signature.result is not None:
            result = draw(self.world.seed, f"result {call}", signature.result.bits)
        return result

    def script(self, variables: dict[ir.Variable, int], sp: int) -> Execution:
        return Execution(
            self,
            variables,
            sp,
            0,
            specials=self.caller,
            failed=self.trace.unmet.append,
            given=self.world.given,
        )

    def caller(self, what: str) -> int:
        """One frame up from the trampoline that runs."""
        execution, _, return_address = self.executions[-1]
        if execution.switches:
            switch = execution.switches[-1]
            if what == "caller sp":
                return switch.entry
            if switch.pushed is None:
                raise Trouble("no PC was pushed on this stack", None)
            return int.from_bytes(self.memory.load(switch.pushed, self.word), self.order)
        return execution.cfa if what == "caller sp" else return_address

    def drive(self, generator: Run, sp: int) -> None:
        """Run a script; it may call trampolines."""
        answer: int | None = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration:
                return
            name = self.name_of(request.callee, request)
            if name not in self.build.program.functions:
                raise Trouble(f"a check calls trampolines; {name} is none", request.node.span)
            function = self.build.program.functions[name]
            self.activations += 1
            saved = self.thread
            foreign = enters_without_thread(self.build, function.convention) and self.world.thread_slot is None
            if foreign:
                self.thread = draw(self.world.seed, f"thread {self.activations}", 8 * self.word)
                saved = self.thread
            alignment = max(function.convention.alignment, 1)
            cfa = (request.at or 0) // alignment * alignment
            place = return_place(self.build, self.activations)
            answer = self.function(function, request.arguments, cfa, place, self.activations)
            if foreign:
                self.thread = saved  # the register is the caller's, and kept for it

    # -------------------------------------------------------------------------------------------------- events

    def note(self, kind: Literal["call", "jump"], function: str, callee: str, request: Request, sp: int) -> None:
        execution, _, return_address = self.executions[-1]
        caller_pc = caller_sp = None
        if kind == "call" and self.build.program.functions[function].convention.return_slot != "none":
            if execution.switches:
                switch = execution.switches[-1]
                if switch.pushed is not None:
                    caller_pc, caller_sp = self.caller("caller pc"), switch.entry
            elif return_address:
                caller_pc, caller_sp = return_address, execution.cfa
        self.trace.events.append(
            Event(
                kind,
                function,
                callee,
                request.arguments,
                request.node,
                sp,
                self.take(),
                self.thread if self.world.thread_slot is None else None,
                caller_pc,
                caller_sp,
                span=request.node.span,
                chain=self.chain(execution),
                top=execution.switches[-1].entry if execution.switches else execution.cfa,
                pinned=self.pinned(execution, self.build.program.functions[function]) if kind == "call" else {},
            )
        )

    def pinned(self, execution: Execution, function: ir.Function) -> dict[int, bytes]:
        convention = function.convention
        alignment = max(convention.alignment, 1)
        bottom = (convention.first_stack_argument + alignment - 1) // alignment * alignment
        found = {}
        for slot in function.slots:
            if slot.pin is not None and slot in execution.variables:
                place = execution.cfa - execution.frame + (bottom if slot.pin == "bottom" else slot.pin)
                value = execution.variables[slot] & ((1 << slot.type.bits) - 1)
                found[place] = value.to_bytes(slot.type.bits // 8, self.order)
        return found

    def chain(self, execution: Execution) -> int:
        if not execution.switches:
            return execution.cfa
        around = execution.switches[-2].entry if len(execution.switches) > 1 else execution.cfa
        return around - execution.frame

    def event(
        self,
        kind: Literal["return", "resume", "trap"],
        function: ir.Function,
        sp: int,
        result: int | None,
        resumed: Resumed | None,
        span: Span | None = None,
        popped: int | None = None,
    ) -> None:
        thread = self.thread if self.world.thread_slot is None else None
        self.trace.events.append(
            Event(
                kind,
                function.name,
                "",
                (),
                None,
                sp,
                self.take(),
                thread,
                None,
                None,
                result,
                resumed,
                popped,
                span or function.span,
            )
        )

    def take(self) -> Mapping[int, int | None]:
        delta, self.delta = self.delta, {}
        return delta


__all__ = [
    "Event",
    "Oracle",
    "Stay",
    "Trace",
    "Trouble",
    "draw",
    "enters_without_thread",
    "thread_base",
    "thread_register",
]
