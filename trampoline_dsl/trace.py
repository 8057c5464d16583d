"""One run, instruction by instruction: what each changed, on which stack, what callees did, and where it went wrong.

Values are shown by what they are wherever that is known: arguments, objects and fields, places in the frame, what a
register held at entry. The run is one of those that `verify` makes: the first that violates an obligation, or the
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from . import ir
from .activations import Activation, Arrival
from .continuations import kind_of_run
from .diagnostics import Diagnostic, InputError, Source, Span, suggestion
from .interpret import Trouble
from .judge import Execute
from .machine_code import Code
from .pipeline import Artifact, Compiled
from .render import violation_lines
from .target import InRegister, OnStack, Part, Register, Slot, ValueType
from .verify import DEFAULT_RUNS, Session, Verdict
from .violation import Violation
from .watchers import Watcher
from .world import Region, World, name_of_variable

_PLAIN = 0x10000  # what is smaller is a number, whatever else has the same value
_AT_ENTRY = " at entry"
_DEEPEST = 3  # pointers followed from an object to name what it leads to


@dataclass(frozen=True, slots=True)
class Change:
    """A register or a place in memory, by name, and what it holds now: the value, and what that is, if known."""

    place: str
    value: int
    meaning: str = ""
    address: int | None = None  # of memory
    size: int = 0  # in bytes, of memory

    def __str__(self) -> str:
        return f"{self.place} = {self.meaning or number(self.value)}"

    def as_json(self) -> dict[str, Any]:
        where = {} if self.address is None else {"address": f"{self.address:#x}", "size": self.size}
        return {"place": self.place, "value": f"{self.value:#x}", "meaning": self.meaning or None, **where}


@dataclass(slots=True)
class Step:
    """Something that happened in a run. `depth`: how many calls of trampolines it is inside of."""

    depth: int
    violations: list[Violation] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)  # what turned out later to have gone wrong here


@dataclass(slots=True)
class Executed(Step):
    """An instruction. `offset` and `size` are bytes from its function's start; `stack` is the one it begins on."""

    function: str = ""
    offset: int = 0
    text: str = ""
    line: int = 0
    part: str = "body"
    stack: str = ""
    sp: str = ""
    changes: list[Change] = field(default_factory=list)
    taken: bool | None = None  # of a conditional branch
    address: int = 0


@dataclass(slots=True)
class Called(Step):
    """A callee that the judge plays is entered."""

    callee: str = ""
    convention: str = ""
    arguments: list[Change] = field(default_factory=list)
    jumped: bool = False


@dataclass(slots=True)
class Scripted(Step):
    """What a check's script for a callee has changed: up to a call of a trampoline, or its end."""

    callee: str = ""
    changes: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class Answered(Step):
    """A callee returns. `overwritten`: the registers that it has changed, and the addresses of memory."""

    callee: str = ""
    convention: str = ""
    result: Change | None = None
    overwritten: frozenset[str | int] = frozenset()


@dataclass(slots=True)
class Entered(Step):
    """A trampoline begins."""

    function: str = ""
    convention: str = ""
    arguments: list[Change] = field(default_factory=list)
    sp: str = ""


@dataclass(slots=True)
class Left(Step):
    """A trampoline has returned."""

    function: str = ""
    result: Change | None = None


@dataclass(frozen=True)
class TracedRun:
    """A run that was followed. `violations` are those of this run, by the obligation at the root of each."""

    artifact: Artifact
    seed: int
    check: str
    number: int
    hostile: bool  # memory below the stack pointer was overwritten before every instruction
    steps: tuple[Step, ...]
    violations: tuple[Violation, ...]
    verdict: Verdict
    sources: Mapping[str, Source]

    @property
    def good(self) -> bool:
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "trampoline": self.artifact.name,
            "file": self.artifact.source.name,
            "target": self.artifact.target.name,
            "seed": self.seed,
            "check": self.check or None,
            "run": self.number,
            "steps": [_step_json(step) for step in self.steps],
            "violations": [v.as_json() for v in self.violations],
        }

    def __str__(self) -> str:
        return "\n".join(lines(self))


def number(value: int) -> str:
    """As people write it: small ones in decimal."""
    return str(value) if -10 < value < 10 else f"{value:#x}"


# ------------------------------------------------------------------------------------------------------ which run it is


def trace(
    compiled: Compiled,
    name: str | None = None,
    *,
    check: str | None = None,
    seed: int = 1,
    runs: int = DEFAULT_RUNS,
    codes: Mapping[str, Code] | None = None,
) -> TracedRun:
    """Follow a run of a trampoline. `codes` replaces the machine code of some. Raises InputError if there is no such
    trampoline or check, or if it cannot run."""
    artifact = _chosen(compiled, name)
    scenarios = [s for s in compiled.program.scenarios if s.trampoline == artifact.name]
    wanted = _wanted(scenarios, check, artifact)
    session = Session(compiled, codes)
    verdict = session.judge(artifact, seed, runs)
    titles = {s.title for s in wanted}
    guilty = next((v for v in verdict.violations if not titles or v.check in titles), None)
    scenario = wanted[0] if wanted else None
    run_number = 0
    if guilty is not None:
        scenario = next((s for s in wanted if s.title == guilty.check), scenario)
        run_number = guilty.seed - _world_seed(seed, 0) if guilty.seed else 0
    found: tuple[Violation, ...] = ()
    if guilty is not None:
        found = tuple(v for v in verdict.violations if (v.check, v.seed) == (guilty.check, guilty.seed))
    run, tracer = _follow(session, artifact, scenario, seed, 2 * run_number, hostile=False)
    hostile = bool(found) and not run.violations and 2 * run_number + 1 < runs and bool(guilty and guilty.seed)
    if hostile:
        run, tracer = _follow(session, artifact, scenario, seed, 2 * run_number + 1, hostile=True)
    found = found or tuple(run.violations)
    _mark(tracer.steps, found)
    return TracedRun(
        artifact,
        seed,
        scenario.title if scenario else "",
        2 * run_number + int(hostile),
        hostile,
        tuple(tracer.steps),
        found,
        verdict,
        {f.name: f.span.source for f in compiled.program.functions.values()},
    )


def _chosen(compiled: Compiled, name: str | None) -> Artifact:
    known = [a.name for a in compiled.own]
    if name is None and len(known) == 1:
        return compiled.own[0]
    notes = (*suggestion(name or "", known), "there are: " + " ".join(known))
    if name is None:
        message = "this file has several trampolines; a trace is of one of them"
        notes = (f"name it: {compiled.program.file}:{known[0]}", *notes)
    elif name in known:
        return compiled[name]
    else:
        message = f"there is no trampoline `{name}` in this file"
    raise InputError([Diagnostic("R022", message, None, notes=notes, file=compiled.program.file)])


def _wanted(scenarios: Sequence[ir.Scenario], check: str | None, artifact: Artifact) -> list[ir.Scenario]:
    """The check called `check`, by its title or a part of it that no other title has; all of them if none is named."""
    if check is None:
        return list(scenarios)
    exact = [s for s in scenarios if s.title == check]
    near = exact or [s for s in scenarios if check.lower() in s.title.lower()]
    if len(near) == 1:
        return near
    titles = [s.title for s in scenarios]
    how_many = "several checks" if near else "no check"
    message = f"{artifact.name} has {how_many} called `{check}`"
    notes = [*([] if near else suggestion(check, titles)), *(f"there is `{title}`" for title in titles)]
    notes = notes or ["it is run without a check: with any arguments"]
    raise InputError([Diagnostic("U005", message, None, notes=tuple(notes), file=artifact.source.name)])


def _world_seed(seed: int, run_number: int) -> int:
    return seed * 1_000_003 + run_number  # as verify.Session numbers its worlds


def _follow(
    session: Session, artifact: Artifact, scenario: ir.Scenario | None, seed: int, garbage: int, *, hostile: bool
) -> tuple[Execute, _Tracer]:
    function = artifact.function
    try:
        world, expected = session.expected(function, scenario, _world_seed(seed, garbage // 2))
    except Trouble as trouble:
        where = trouble.span if isinstance(trouble.span, Span) else function.span
        raise InputError([Diagnostic("J001", f"this cannot be run: {trouble.message}", where)]) from None
    run = kind_of_run(function)(session.bench, world, expected, function, scenario, session.anonymous, garbage, hostile)
    tracer = _Tracer(run, session, world)
    run.watcher = tracer
    run.run()
    tracer.finish()
    return run, tracer


def _mark(steps: Sequence[Step], violations: Iterable[Violation]) -> None:
    """What is only seen on return, or at a call, is told where the register or the memory was changed last."""
    for violation in violations:
        place = violation.register or violation.memory
        if place is None:
            continue
        seen = next((i for i, step in enumerate(steps) if _has(step.violations, violation)), len(steps))
        for step in reversed(steps[:seen]):
            if _changes(step, place):
                what = place if isinstance(place, str) else f"memory at {place:#x}"
                step.marks.append(f"the last change of {what}: violated[{violation.obligation}]")
                break


def _has(own: Iterable[Violation], violation: Violation) -> bool:
    def subject(v: Violation) -> tuple[object, ...]:
        return v.register, v.memory, v.expected, v.found

    return any(subject(v) == subject(violation) for v in own)


def _changes(step: Step, place: str | int) -> bool:
    match step, place:
        case Answered(), _:
            return place in step.overwritten
        case ((Executed() | Scripted()), str()):
            return any(change.place == place for change in step.changes)
        case ((Executed() | Scripted()), int()):
            return any(c.address is not None and c.address <= place < c.address + c.size for c in step.changes)
        case _:
            return False


# ---------------------------------------------------------------------------------------------------- following it


class _Tracer(Watcher):
    """Compares registers and memory before and after every instruction."""

    def __init__(self, run: Execute, session: Session, world: World) -> None:
        self.run = run
        self.session = session
        self.names = _Names(run, session, world)
        self.steps: list[Step] = []
        self.current: Executed | None = None
        self.told = 0  # violations that a step has already
        self.registers: Mapping[Register, int] = {}
        self.memory: dict[int, bytes] = {}
        self.stores: list[tuple[int, int]] = []
        self.answer: Answered | None = None  # the callee that is returning
        self.before_answer: tuple[Mapping[Register, int], dict[int, bytes]] = ({}, {})
        self.scripts: list[_Before] = []  # one for each callee that has been entered and has not returned
        architecture = run.architecture
        self.watched = [*run.bench.observable]
        if architecture.sp not in self.watched:
            self.watched.append(architecture.sp)
        plan = run.build.plan
        self.regions = [plan.data, plan.thread, plan.variables, *plan.stacks]

    @property
    def depth(self) -> int:
        return max(len(self.run.activations) - 1, 0)

    # -- what the judge tells

    def settled(self) -> None:
        step, self.current = self.current, None
        if step is None:
            return
        now = self.run.machine.get_many(self.watched)
        flags = self.run.architecture.flags
        step.changes += self._stored()
        for register in self.watched:
            if now[register] != self.registers[register] and register is not flags:
                value = now[register]
                step.changes.append(Change(register.name, value, self.names.meaning(value)))
        self.stores.clear()
        self._claim(step)

    def instruction(self, address: int) -> None:
        if self.steps:
            self._claim(self.steps[-1])
        code, index = self.run.bench.listing.get(address, (None, 0))
        if code is None:
            return
        insn = code.instructions[index]
        self._decide(address)
        sp = self.run.machine.sp
        self.current = Executed(
            self.depth,
            function=code.name,
            offset=code.offsets[index],
            text=insn.text,
            line=insn.line,
            part=insn.part if insn.part in ("prologue", "epilogue") else "body",
            stack=self.names.stack(sp),
            sp=self.names.stack_place(sp),
            address=address,
        )
        self.registers = self.run.machine.get_many(self.watched)
        self.memory = self._image()
        if self.answer is not None:
            self.answer.overwritten = self._overwritten()
            self.answer = None
        self.steps.append(self.current)

    def wrote(self, address: int, size: int) -> None:
        self.stores.append((address, size))

    def entered(self, activation: Activation) -> None:
        if self.steps:
            self._claim(self.steps[-1])
        if activation.resume is not None:
            self._scripted(calling=True)
        values = self._argument_values(activation)
        self.names.begin(activation, values)
        arguments = [
            Change(variable.name, value, self.names.meaning(value, but=variable.name))
            for variable, value in zip(activation.function.parameters, values, strict=True)
            if value is not None
        ]
        function = activation.function
        sp = self.names.stack(activation.sp)
        self.steps.append(
            Entered(self.depth, function=function.name, convention=function.convention.name, arguments=arguments, sp=sp)
        )

    def arrived(self, arrival: Arrival) -> None:
        arguments = [
            Change(name, value, self.names.meaning(value & _mask(type_.bits)))
            for (name, type_), value in zip(arrival.signature.parameters, arrival.event.arguments, strict=True)
        ]
        step = Called(
            self.depth,
            callee=_callee(arrival.name),
            convention=arrival.signature.convention.name,
            arguments=arguments,
            jumped=arrival.jumped,
        )
        self.steps.append(step)
        self._claim(step)
        self.scripts.append(
            _Before(_callee(arrival.name), self.depth, self._image(), self._variables(), self._thread())
        )

    def answered(self, arrival: Arrival, result: int | None) -> None:
        self._scripted()
        depth = self.scripts.pop().depth if self.scripts else self.depth
        change = None
        if result is not None:
            change = Change("result", result, self.names.meaning(result))
            self.names.result(_callee(arrival.name), result)
        convention = arrival.signature.convention.name
        step = Answered(depth, callee=_callee(arrival.name), convention=convention, result=change)
        self.steps.append(step)
        self._claim(step)
        self.answer = step
        self.before_answer = (self.run.machine.get_many(self.watched), self._image())

    def left(self, activation: Activation, result: int | None) -> None:
        change = Change("result", result, self.names.meaning(result)) if result is not None else None
        step = Left(self.depth, function=activation.function.name, result=change)
        self.steps.append(step)
        self._claim(step)
        self.names.end()
        if self.scripts:
            self.scripts[-1].renew(self._image(), self._variables(), self._thread())

    def finish(self) -> None:
        """The run is over."""
        self.settled()
        if self.steps:
            self._claim(self.steps[-1])

    # -- what has changed

    def _claim(self, step: Step) -> None:
        """Violations that nobody has been told of belong to what has just happened."""
        step.violations += self.run.violations[self.told :]
        self.told = len(self.run.violations)

    def _decide(self, following: int) -> None:
        """Whether the conditional branch that has been executed last was taken, now that it is seen what followed."""
        executed = [step for step in self.steps[-2:] if isinstance(step, Executed)]
        for back, step in enumerate(reversed(executed)):
            code, index = self.run.bench.listing[step.address]
            insn = code.instructions[index]
            if insn.transfer != "branch" or step.taken is not None or back != int(insn.delay_slot):
                continue
            follower = index + 1 + int(insn.delay_slot)
            while follower < len(code.instructions) and code.instructions[follower].label is not None:
                follower += 1
            end = code.offsets[follower] if follower < len(code.offsets) else len(code.code)
            step.taken = following != step.address - step.offset + end

    def _image(self) -> dict[int, bytes]:
        machine = self.run.machine
        return {region.base: machine.read(region.base, region.size) for region in self.regions}

    def _stored(self) -> list[Change]:
        """Stores that the emulator told of, and what changed without its telling."""
        machine, order = self.run.machine, self.run.order
        changes = []
        covered: set[int] = set()
        for address, size in dict.fromkeys(self.stores):
            value = int.from_bytes(machine.read(address, size), order)
            changes.append(self._memory_change(address, size, value))
            covered.update(range(address, address + size))
        changes += self._differences(self.memory, self._image(), covered)
        return changes

    def _memory_change(self, address: int, size: int, value: int) -> Change:
        return Change(f"[{self.names.place(address)}]", value, self.names.meaning(value), address, size)

    def _differences(
        self, before: Mapping[int, bytes], now: Mapping[int, bytes], covered: set[int] | frozenset[int] = frozenset()
    ) -> list[Change]:
        word, order = self.run.word, self.run.order
        changes = []
        for base, image in before.items():
            if now[base] == image:
                continue
            for offset in range(0, len(image), word):
                piece = now[base][offset : offset + word]
                if piece == image[offset : offset + word]:
                    continue
                different = [
                    i for i in range(word) if piece[i] != image[offset + i] and base + offset + i not in covered
                ]
                if different:
                    changes.append(self._memory_change(base + offset, word, int.from_bytes(piece, order)))
        return changes

    def _overwritten(self) -> frozenset[str | int]:
        registers, memory = self.before_answer
        found: set[str | int] = {r.name for r, value in self.registers.items() if registers[r] != value}
        if not self.run.scramble:  # or everything below the stack pointer is
            for change in self._differences(memory, self.memory):
                assert change.address is not None
                found.update(range(change.address, change.address + change.size))
        return frozenset(found)

    def _variables(self) -> dict[ir.Variable, int]:
        shared = [v for v, _ in self.run.scenario.variables] if self.run.scenario is not None else []
        return {v: self.run.variables[v] for v in shared if v in self.run.variables}

    def _thread(self) -> int | None:
        register = self.run.thread_register
        return None if register is None else self.run.machine.get(register)

    def _scripted(self, *, calling: bool = False) -> None:
        """Note what the innermost script has changed since it was last looked at: objects, g, the check's variables.
        `calling`: it is about to call a trampoline, and g's register is already as that one finds it."""
        if not self.scripts:
            return
        before = self.scripts[-1]
        plan = self.run.build.plan
        shared = {plan.data.base, plan.thread.base, plan.variables.base}
        image, variables, thread = self._image(), self._variables(), self._thread()
        changes = self._differences({b: d for b, d in before.memory.items() if b in shared}, image)
        changes = [Change(c.place.strip("[]"), c.value, c.meaning, c.address, c.size) for c in changes]
        if thread is not None and thread != before.thread and not calling:
            changes.append(Change("g", thread, self.names.meaning(thread)))
        for variable, value in variables.items():
            if value != before.variables.get(variable):
                changes.append(Change(variable.name, value, self.names.meaning(value, but=variable.name)))
        if changes:
            self.steps.append(Scripted(before.depth, callee=before.callee, changes=changes))
        before.renew(image, variables, thread)

    def _argument_values(self, activation: Activation) -> list[int | None]:
        """What a trampoline is called with."""
        if len(self.run.activations) == 1 and activation.resume is None:
            return list(self.run.world.arguments)
        if activation.resume is not None:
            return list(activation.resume.request.arguments)
        function = activation.function
        types = [p.type.value_type for p in function.parameters]
        result = function.result.value_type if function.result else None
        values: list[int | None] = []
        for type_, location in zip(types, function.convention.place(types, result).arguments, strict=True):
            pieces = [self._piece(part, type_, activation) for part in location]
            known = [
                (piece & _mask(part.bits)) << part.low
                for piece, part in zip(pieces, location, strict=True)
                if piece is not None
            ]
            values.append(sum(known) if len(known) == len(location) else None)
        return values

    def _piece(self, part: Part, type_: ValueType, activation: Activation) -> int | None:
        match part.place:
            case InRegister(register, _):
                return activation.registers[register] if type_.kind == "int" else None
            case OnStack(offset):
                size = max(part.extend_to, part.bits) // 8
                return int.from_bytes(self.run.machine.read(activation.cfa + offset, size), self.run.order)


@dataclass(slots=True)
class _Before:
    """How things were when a script began, or went on."""

    callee: str
    depth: int
    memory: dict[int, bytes]
    variables: dict[ir.Variable, int]
    thread: int | None

    def renew(self, memory: dict[int, bytes], variables: dict[ir.Variable, int], thread: int | None) -> None:
        self.memory, self.variables, self.thread = memory, variables, thread


def _callee(name: str) -> str:
    """A callee's name; of one that is called through a parameter, `*PARAMETER`."""
    return "*" + name.rpartition(":")[0].rpartition(".")[2] if name.startswith("*") else name


def _mask(bits: int) -> int:
    return (1 << bits) - 1


# ------------------------------------------------------------------------------------------------------ naming things


class _Names:
    """What a value is, and what is at an address."""

    def __init__(self, run: Execute, session: Session, world: World) -> None:
        self.run = run
        self.world = world
        self.word = run.word
        self.program = session.compiled.program
        self.frames = {name: artifact.frame for name, artifact in session.compiled.artifacts.items()}
        self.labels: list[dict[int, str]] = []
        self.results: dict[int, str] = {}
        self.objects: dict[int, tuple[str, ir.StructLayout]] = {}
        self.symbols = {address: name for name, address in world.symbols.items()}
        self.symbols |= {address: name for name, address in world.pointers.items()}
        for variable, base in world.variables.items():
            if variable.kind == "object":
                self._object(base, variable.name, variable.type.struct, 0)
        for parameter, value in zip(run.function.parameters, world.arguments, strict=True):
            if parameter.type.kind == "pointer":
                self._object(value, parameter.name, parameter.type.struct, _DEEPEST)
        for global_ in self.program.variables.values():
            self._extern_variable(global_)
        if world.own_thread and run.scenario is None:
            self._object(self._thread_at_start(), "g", "g", _DEEPEST)

    def _extern_variable(self, variable: ir.ExternVariable) -> None:
        address = self.world.symbols[variable.name]
        layout = self.program.structs.get(variable.type) if isinstance(variable.type, str) else None
        if layout is not None and variable.count is None:
            self.objects[address] = (variable.name, layout)
            self._follow(layout, address, variable.name, _DEEPEST)
        elif isinstance(variable.type, ir.Type) and variable.count is None and variable.type.struct:
            self._object(self._word_at(address), variable.name, variable.type.struct, _DEEPEST)

    def _thread_at_start(self) -> int:
        slot = self.world.thread_slot
        return self.world.thread if slot is None else self._word_at(slot)

    def _word_at(self, address: int) -> int:
        """A word of the memory that the run begins with."""
        for base, image in self.world.images.items():
            if base <= address and address + self.word <= base + len(image):
                return int.from_bytes(image[address - base : address - base + self.word], self.run.order)
        return 0

    def _object(self, base: int, name: str, struct: str | None, depth: int) -> None:
        """Name an object, and what its pointers lead to, `depth` levels down."""
        layout = self.program.structs.get(struct or "")
        if layout is None or base in self.objects or base not in self.run.build.plan.data:
            return
        self.objects[base] = (name, layout)
        if depth:
            self._follow(layout, base, name, depth)

    def _follow(self, layout: ir.StructLayout, address: int, name: str, depth: int) -> None:
        for field_ in layout.fields.values():
            place, title = address + field_.offset, f"{name}.{field_.name}"
            if isinstance(field_.type, str):
                self._follow(self.program.structs[field_.type], place, title, depth)
            elif field_.type.struct and field_.count is None:
                self._object(self._word_at(place), title, field_.type.struct, depth - 1)

    # -- what a run adds

    def begin(self, activation: Activation, arguments: Sequence[int | None]) -> None:
        """A trampoline begins: its arguments have names, and what its registers hold is known."""
        labels: dict[int, str] = {}
        for register, held in activation.registers.items():
            if register is not self.run.architecture.sp:
                labels.setdefault(held, f"{register.name}{_AT_ENTRY}")
        labels[activation.return_address] = "return address"
        for variable, value in zip(activation.function.parameters, arguments, strict=True):
            if value is None:
                continue
            bits = variable.type.bits
            wide = value & _mask(bits)
            signed = wide - (1 << bits) if wide >> (bits - 1) else wide
            for form in (wide, signed & _mask(8 * self.word), signed & _mask(max(bits, 32))):
                labels[form] = variable.name
        self.labels.append(labels)

    def end(self) -> None:
        if len(self.labels) > 1:
            self.labels.pop()

    def result(self, callee: str, value: int) -> None:
        self.results[value] = f"result of {callee}"

    # -- values

    def meaning(self, value: int, *, but: str = "") -> str:
        """What a value is, or "" if it is only a number. `but`: a name that would say nothing here."""
        if value < _PLAIN:
            return ""
        for known in (self._known(value), self._pointed_to(value)):
            if known and known != but:
                return known
        return ""

    def _known(self, value: int) -> str:
        found = self.objects.get(value)
        if found is not None:
            return found[0]
        for variable, own in self.run.variables.items():
            if own == value and variable.kind == "local" and self._shared(variable):
                return variable.name
        labels = self.labels[-1] if self.labels else {}
        label = labels.get(value, "")
        if label and not label.endswith(_AT_ENTRY):
            return label
        return self.results.get(value) or self.symbols.get(value) or label

    def _shared(self, variable: ir.Variable) -> bool:
        scenario = self.run.scenario
        return scenario is not None and any(variable is v for v, _ in scenario.variables)

    def _pointed_to(self, value: int) -> str:
        plan = self.run.build.plan
        if value in plan.code:
            return self._code(value)
        if value in plan.returns:
            return "return address of its caller"
        if self._region(value) is not None:
            return self.stack_place(value)
        if value in plan.data:
            inside = self._field(value)
            return f"&{inside}" if inside else ""
        return ""

    def _code(self, address: int) -> str:
        for name, code in self.run.bench.codes.items():
            start = self.run.build.symbols[name]
            if start <= address <= start + len(code.code):
                return f"{name}+{address - start:#x}"
        return ""

    # -- places

    def place(self, address: int) -> str:
        """What is at an address: a slot of the frame, a field of an object."""
        if self._region(address) is not None:
            return self._frame_place(address)
        if self.world.thread_slot is not None and 0 <= address - self.world.thread_slot < self.word:
            return "g"
        return self._field(address) or f"{address:#x}"

    def _field(self, address: int) -> str:
        for base, (name, layout) in self.objects.items():
            if base <= address < base + layout.size:
                return f"{name}.{self._path(layout, address - base)}"
        return name_of_variable(self.program, self.world.symbols, address)

    def _path(self, layout: ir.StructLayout, offset: int) -> str:
        for field_ in layout.fields.values():
            if field_.offset <= offset < field_.offset + field_.size:
                inside = offset - field_.offset
                if isinstance(field_.type, str) and field_.count is None:
                    return f"{field_.name}.{self._path(self.program.structs[field_.type], inside)}"
                return f"{field_.name}+{inside}" if inside else field_.name
        return f"+{offset}"

    def _region(self, address: int) -> Region | None:
        return next((r for r in self.run.stack_of if r.base <= address <= r.end), None)

    def stack(self, sp: int) -> str:
        """Which stack an address is on."""
        region = self._region(sp)
        if region is None:
            return "no stack"
        if self.run.activations and self.run.activations[-1].cfa in region:
            return "the caller's stack"
        return next((name for name, top in self.world.stack_tops.items() if top in region and name), region.name)

    def stack_place(self, address: int) -> str:
        """An address on a stack, from the CFA of the trampoline that runs, or from the top of another stack."""
        region = self._region(address)
        if region is None:
            return f"{address:#x}"
        if self.run.activations and self.run.activations[-1].cfa in region:
            return _offset("CFA", address - self.run.activations[-1].cfa)
        for name, top in self.world.stack_tops.items():
            if top in region and name:
                return _offset(f"{name}.top", address - top)
        for activation in self.run.activations[:1]:
            if activation.cfa in region:
                return _offset("the first CFA", address - activation.cfa)
        tops = sorted(top for top in self.run.trace.entered if top in region)
        return _offset("entry sp", address - tops[-1]) if tops else f"{address:#x}"

    def _frame_place(self, address: int) -> str:
        sp = self.run.machine.sp
        region = self._region(address)
        if region is None or not self.run.activations or self._region(sp) is not region:
            return self.stack_place(address)
        activation = self.run.activations[-1]
        if activation.cfa not in region or address >= activation.cfa:
            return self.stack_place(address)
        owner = ""
        frame = self.frames[activation.function.name]
        if sp == activation.cfa - frame.size:
            owner = self._owner((*frame.slots, *frame.body_slots), address - sp)
        return _offset("sp", address - sp) + (f" {owner}" if owner else "")

    def _owner(self, slots: Iterable[Slot], offset: int) -> str:
        """Whose slot it is, where the name says more than the value that is stored: not of a saved register."""
        for slot in slots:
            if not slot.stack and slot.register is None and slot.offset <= offset < slot.offset + slot.size:
                inside = offset - slot.offset if " " not in slot.owner else 0  # an area, and not a value in parts
                return f"({slot.owner}+{inside})" if inside else f"({slot.owner})"
        return ""


def _offset(base: str, distance: int) -> str:
    if not distance:
        return base
    return f"{base} {'+' if distance > 0 else '-'} {abs(distance)}"


# ---------------------------------------------------------------------------------------------------------- showing it

_INDENT = "    "
_WIDTH = 120  # columns
_TEXT = 34  # columns for an instruction, before what it changed


def lines(run: TracedRun) -> Iterator[str]:
    """The run as a page."""
    artifact = run.artifact
    check = f', check "{run.check}"' if run.check else ", without a check"
    yield f"{artifact.name} on {artifact.target.name}{check}, seed {run.seed}, run {run.number}"
    if run.hostile:
        red_zone = artifact.function.convention.red_zone
        spared = f", but for a red zone of {red_zone} bytes" if red_zone else ""
        yield f"memory below the stack pointer is overwritten before every instruction{spared}"
    yield ""
    line: tuple[str, int, str] = ("", 0, "")
    stack = ""
    for step in run.steps:
        indent = _INDENT * step.depth
        if isinstance(step, Executed):
            if step.stack != stack:
                yield f"{indent}    -- on {_stack_title(step.stack)}, sp = {step.sp}"
                stack = step.stack
            here = (step.function, step.line, step.part)
            if here != line and step.line:
                yield indent + _source_line(run.sources[step.function], step)
                line = here
        else:
            line = ("", 0, "")
            if isinstance(step, (Entered, Left)):
                stack = step.sp if isinstance(step, Entered) else ""
        for text in _step_lines(step):
            yield indent + text
        for mark in (*step.marks, *(f"violated[{v.obligation}]: {v.message}" for v in step.violations)):
            yield f"{indent}          ^ {mark}"
    yield ""
    if run.good:
        yield "every obligation held in this run"
    for index, violation in enumerate(run.violations):
        yield from ([""] if index else [])
        yield from violation_lines(violation, run.verdict)


def _stack_title(stack: str) -> str:
    return stack if " " in stack else f"the stack {stack}"


def _source_line(source: Source, step: Executed) -> str:
    what = {"prologue": "entry", "epilogue": "return"}.get(step.part)
    text = what or source.statement(step.line)
    return f"{source.name.rpartition('/')[2]}:{step.line}: {text}"


def _step_lines(step: Step) -> Iterator[str]:
    match step:
        case Executed():
            what = list(_said(step.changes))
            if step.taken is not None:
                what.append("taken" if step.taken else "not taken")
            start = f"  {step.offset:>5x}  {step.text}"
            if not what:
                yield start
                return
            if len(start) >= 9 + _TEXT:
                start += "  "
            start = f"{start:<{9 + _TEXT}}"
            room = max(_WIDTH - _INDENT_OF_CHANGES - len(_INDENT) * step.depth, 40)
            wrapped = _wrapped(what, room)
            yield start + wrapped[0]
            for more in wrapped[1:]:
                yield " " * _INDENT_OF_CHANGES + more
        case Called():
            verb = "jumps to" if step.jumped else "calls"
            yield f"        {verb} {step.callee}({', '.join(str(a) for a in step.arguments)})"
        case Scripted():
            first, *rest = _wrapped([str(c) for c in step.changes], 90)
            yield f"          the check: {first}"
            for more in rest:
                yield f"                     {more}"
        case Answered():
            result = f" {step.result.meaning or number(step.result.value)}" if step.result is not None else ""
            yield f"        {step.callee} returns{result}, with all overwritten that {step.convention} lets it"
        case Entered():
            yield f"{step.function}({', '.join(str(a) for a in step.arguments)}) is called as {step.convention} says"
        case Left():
            result = f" {step.result.meaning or number(step.result.value)}" if step.result is not None else ""
            yield f"{step.function} returns{result}"


def _said(changes: Sequence[Change]) -> Iterator[str]:
    """The changes in words; registers that are back to what they were are named together."""
    back = [c.place for c in changes if c.meaning == c.place + _AT_ENTRY]
    for change in changes:
        if change.place not in back:
            yield str(change)
    if back:
        yield " ".join(back) + " as at entry"


_INDENT_OF_CHANGES = 9 + _TEXT


def _wrapped(pieces: Sequence[str], room: int) -> list[str]:
    """Pieces with commas between them, as many on a line as there is room for."""
    result = [""]
    for index, piece in enumerate(pieces):
        text = piece + ("," if index + 1 < len(pieces) else "")
        joined = f"{result[-1]} {text}".strip()
        if len(joined) > room and result[-1]:
            result.append(text)
        else:
            result[-1] = joined
    return result


def _step_json(step: Step) -> dict[str, Any]:
    def changes(found: Iterable[Change]) -> list[dict[str, Any]]:
        return [change.as_json() for change in found]

    kind: Literal["instruction", "call", "script", "answer", "enter", "return"]
    match step:
        case Executed():
            kind = "instruction"
            facts: dict[str, Any] = {
                "function": step.function,
                "offset": step.offset,
                "instruction": step.text,
                "line": step.line or None,
                "part": step.part,
                "stack": step.stack,
                "sp": step.sp,
                "changes": changes(step.changes),
                "taken": step.taken,
            }
        case Called():
            kind = "call"
            facts = {"callee": step.callee, "jumped": step.jumped, "arguments": changes(step.arguments)}
        case Scripted():
            kind = "script"
            facts = {"callee": step.callee, "changes": changes(step.changes)}
        case Answered():
            kind = "answer"
            facts = {"callee": step.callee, "result": step.result.as_json() if step.result else None}
        case Entered():
            kind = "enter"
            facts = {"function": step.function, "arguments": changes(step.arguments), "stack": step.sp}
        case Left():
            kind = "return"
            facts = {"function": step.function, "result": step.result.as_json() if step.result else None}
        case _:
            raise TypeError(type(step).__name__)
    violations = [v.as_json() for v in step.violations]
    return {"kind": kind, "depth": step.depth, **facts, "marks": step.marks, "violations": violations}
