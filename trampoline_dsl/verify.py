"""Runs the judge over a file: every trampoline, every check, many seeds, and what was and was not reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

from . import ir
from .baseline import beyond_baseline
from .bench import Bench
from .body import ends
from .continuations import kind_of_run
from .deliver import Deliveries, Players, interrupted_at
from .diagnostics import Span
from .interpret import Trouble
from .judge import Execute
from .landing import marks_pairs, unpaired
from .machine_code import Code
from .oracle import Oracle, Trace, return_place
from .pipeline import Artifact, Compiled, TableArtifact
from .run_asm import AsmMachine
from .target import Architecture, Insn, Register, Target
from .unwind import Table
from .violation import OBLIGATIONS, Violation
from .walk import Walker
from .watchers import Interruptions
from .world import SEED_STEP, Build, Bytes, World, anonymous_callees, make_world, prepare

DEFAULT_RUNS = 16
_WORLDS_WITH_SIGNALS = 1  # of each check that delivers signals; in each, one run for each way of delivering
NOT_UNWOUND = "there is no unwind information for it"
MOST_VIOLATIONS = 12  # of one trampoline on one target; more of them say nothing new

State = Literal["held", "violated", "not run", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What is known of one obligation."""

    state: State
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One trampoline on one target. `paths_total` counts the ways out of every conditional branch (1 if there is
    none), `paths_run` those that were taken; `runs` counts executions, `deliveries` the signals in further ones."""

    trampoline: str
    file: str
    target: str
    obligations: Mapping[str, Finding]
    paths_total: int
    paths_run: int
    runs: int
    violations: tuple[Violation, ...]
    frame: int = 0
    bytes: int = 0
    instructions: int = 0
    deliveries: int = 0
    helpers: tuple[str, ...] = ()  # other code that ran as a part of it: linkers' stubs, save and restore routines
    object: str = ""  # the file that the code comes from, where it was not made here
    symbol: str = ""  # and what it is called there
    listing: tuple[tuple[int, str], ...] = field(default=(), compare=False, repr=False)  # of such code, by offset

    @property
    def good(self) -> bool:
        """Whether every obligation that applies was seen to hold."""
        return all(f.state in ("held", "not applicable") for f in self.obligations.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "trampoline": self.trampoline,
            "file": self.file,
            **({"object": self.object, "symbol": self.symbol} if self.object else {}),
            "target": self.target,
            "obligations": {name: finding.state for name, finding in self.obligations.items()},
            "reasons": {name: finding.reason for name, finding in self.obligations.items() if finding.reason},
            "paths": {"total": self.paths_total, "run": self.paths_run},
            "runs": self.runs,
            **({"deliveries": self.deliveries} if self.deliveries else {}),
            **({"helpers": list(self.helpers)} if self.helpers else {}),
            "violations": [v.as_json() for v in self.violations],
        }

    def __str__(self) -> str:
        bad = [name for name, finding in self.obligations.items() if finding.state in ("violated", "not run")]
        held = sum(f.state == "held" for f in self.obligations.values())
        text = f"{self.trampoline} on {self.target}: {held} obligations held in {self.runs} runs"
        return text + (f"; not: {', '.join(bad)}" if bad else "")


@dataclass(frozen=True)
class Report:
    """The verdicts of one command, and the seed that repeats it."""

    seed: int
    verdicts: tuple[Verdict, ...]

    @property
    def good(self) -> bool:
        return all(v.good for v in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        return {"format": 1, "seed": self.seed, "results": [v.as_json() for v in self.verdicts]}

    def __str__(self) -> str:
        return "\n".join(str(v) for v in self.verdicts)


def code_of(artifact: Artifact) -> Code:
    """What the judge is given of a compiled trampoline."""
    return Code(
        artifact.name,
        artifact.code,
        artifact.relocations,
        artifact.instructions,
        artifact.offsets,
        artifact.frame.size,
        PurePath(artifact.source.name).name,
        unwinding=_placed(artifact, artifact.unwinding),
        index=_placed(artifact, artifact.index),
    )


def _placed(artifact: Artifact, directives: tuple[tuple[str, ...], ...] | None) -> tuple[tuple[int, str], ...] | None:
    """The directives that stand before an artifact's instructions, by offset."""
    if directives is None:
        return None
    return tuple(
        (offset, directive)
        for offset, several in zip(artifact.offsets, directives, strict=True)
        for directive in several
    )


def code_of_table(table: TableArtifact) -> Code:
    """What the judge is given of a table."""
    file = PurePath(table.source.name).name
    return Code(table.name, table.code, table.relocations, table.instructions, table.offsets, 0, file, table.stride, ())


def verify(
    compiled: Compiled,
    *,
    seed: int = 1,
    runs: int = DEFAULT_RUNS,
    only: Iterable[str] | None = None,
    codes: Mapping[str, Code] | None = None,
) -> tuple[Verdict, ...]:
    """Judge the trampolines of a compiled file (or `only` those). `codes` replaces the machine code of some."""
    wanted = set(only) if only is not None else None
    session = Session(compiled, codes)
    return tuple(
        session.judge(artifact, seed, runs) for artifact in compiled.own if wanted is None or artifact.name in wanted
    )


@dataclass(frozen=True)
class Subject:
    """What is judged, for those who read the verdict. `frame` in bytes; `why_not_unwound`: why there is no unwind
    information, if so."""

    function: ir.Function
    file: str
    target: str
    frame: int
    instructions: tuple[Insn, ...]
    architecture: Architecture
    why_not_unwound: str = ""


class Session:
    """One program's machine code loaded once, and judged as often as wanted. `room`: bytes behind each function, for
    code that `replace` puts there to be longer."""

    def __init__(self, compiled: Compiled, codes: Mapping[str, Code] | None = None, *, room: int = 0) -> None:
        self.compiled = compiled
        own = {a.name: code_of(a) for a in compiled.artifacts.values()}
        self.codes = {**own, **(codes or {})}
        self.tables = {table.name: code_of_table(table) for table in compiled.tables.values()}
        offsets: dict[str, int] = {}
        end = 0x100
        for name, code in (*self.codes.items(), *self.tables.items()):
            offsets[name] = end
            end = (end + len(code.code) + room + 0x3F) // 0x40 * 0x40
        self.anonymous = anonymous_callees(compiled.program)
        deepest = max((c.frame for c in self.codes.values()), default=0)
        slots = {a.name: a.slots for a in compiled.artifacts.values()}
        self.build: Build = prepare(compiled.program, offsets, end, deepest, self.anonymous, slots)
        self.bench = Bench(self.build, self.codes, self.tables)
        self.frames = {name: code.frame for name, code in self.codes.items()}
        has_asm = any(isinstance(n, ir.Asm) for f in compiled.program.functions.values() for n in ir.walk(f.body))
        self.asm = AsmMachine(self.build) if has_asm else None
        self.players = Players(self.frames, self.anonymous, self.asm)

    @property
    def helpers(self) -> tuple[str, ...]:
        """Other code that has run."""
        return ()

    def loaded(self, name: str) -> Code:
        """The machine code that a function or a table has now."""
        return self.tables[name] if name in self.tables else self.codes[name]

    def replace(self, code: Code) -> None:
        """Other machine code for one of the functions, with a frame of the same size, or of the tables."""
        (self.tables if code.name in self.tables else self.codes)[code.name] = code
        self.bench.replace(code)

    def judge(self, artifact: Artifact, seed: int, runs: int) -> Verdict:
        """The verdict on one trampoline, from `runs` executions of each of its checks."""
        subject = Subject(
            artifact.function,
            artifact.source.name,
            artifact.target.name,
            artifact.frame.size,
            artifact.instructions,
            artifact.target.architecture,
            "" if self.codes[artifact.name].unwinding is not None else artifact.why_no_unwinding or NOT_UNWOUND,
        )
        return self.judge_subject(subject, self.compiled.program.scenarios, seed, runs)

    def judge_subject(self, subject: Subject, scenarios: Iterable[ir.Scenario], seed: int, runs: int) -> Verdict:
        """The verdict on one trampoline, by those of the checks that are its own."""
        function = subject.function
        own: Sequence[ir.Scenario | None] = [s for s in scenarios if s.trampoline == function.name]
        record = _Record(self, function)
        # Code of our own that no user wrote keeps to the baseline: tests see to it.
        code, target = self.codes[function.name], self.compiled.target
        record.violate(baseline_violations(target, code, user_text=not self.bench.foreign))
        for scenario in own or [None]:
            self._judge_scenario(record, function, scenario, seed, runs)
        record.violate(self.elsewhere(record.visited))
        record.problem = record.problem or self.problem(record.visited)
        return record.verdict(subject)

    def elsewhere(self, visited: Iterable[int]) -> Iterable[Violation]:
        """What is wrong with other code among these instructions, which have been executed."""
        return ()

    @property
    def unprotected(self) -> str:
        """Why nobody relies on landing pads, if so."""
        return "" if self.bench.protection is not None else "the target is not built with control-flow protection"

    def unread(self, name: str) -> str:
        """Why the unwind information of a function cannot be followed, if so."""
        said = self.codes[name].unwinding
        return said.unread if isinstance(said, Table) else ""

    def problem(self, visited: Iterable[int]) -> str:
        """Why runs that executed these instructions do not show what they should; empty if they do."""
        return ""

    def _judge_scenario(
        self, record: _Record, function: ir.Function, scenario: ir.Scenario | None, seed: int, runs: int
    ) -> None:
        for number in range(max(1, (runs + 1) // 2)):
            world_seed = seed * SEED_STEP + number
            try:
                world, trace = self.expected(function, scenario, world_seed)
            except Trouble as trouble:
                record.trouble(trouble, scenario)
                return
            plain = self.execute(function, scenario, world, trace, 2 * number, scramble=False)
            news = record.note(plain)
            for node in trace.unmet:
                record.unmet(node, scenario)
            if plain.violations:
                record.violate(self._caused(plain, function, scenario, world, trace, 2 * number))
                continue
            walkable = self.codes[function.name].unwinding is not None and not self.unread(function.name)
            if news and walkable:
                record.violate(self.walked(function, scenario, world, trace, 2 * number))
            if 2 * number + 1 >= runs:
                continue
            hostile = self.execute(function, scenario, world, trace, 2 * number + 1, scramble=True)
            record.note(hostile)
            if hostile.violations:
                again = self.execute(function, scenario, world, trace, 2 * number + 1, scramble=False)
                obligation = "reads" if again.violations else "below"
                found = self._explained(hostile, function, scenario, world, trace, 2 * number + 1, True)
                record.violate([_attributed(v, obligation) for v in found])
            elif scenario is not None and number < _WORLDS_WITH_SIGNALS:
                for signals in scenario.signals:
                    count, found = self.with_signals(function, scenario, world, trace, 2 * number + 1, signals)
                    record.deliveries += count
                    record.violate(found)
            if len(record.violations) >= MOST_VIOLATIONS:
                return

    def walked(
        self, function: ir.Function, scenario: ir.Scenario | None, world: World, trace: Trace, garbage: int
    ) -> list[Violation]:
        """A run that is right, once more, with a walk to the caller from before every instruction."""
        kind = kind_of_run(function)
        run = kind(self.bench, world, trace, function, scenario, self.anonymous, garbage, False)
        run.watcher = walker = Walker(run)
        run.run()
        return walker.found

    def with_signals(
        self,
        function: ir.Function,
        scenario: ir.Scenario,
        world: World,
        trace: Trace,
        garbage: int,
        signals: ir.Signals,
    ) -> tuple[int, list[Violation]]:
        """A run that is right without signals, with one before every instruction: how many there were, and what they
        show. What a handler does wrong is its own; where the run itself goes wrong, one instruction needed what was
        below the stack pointer."""

        def execute(deliveries: Deliveries) -> Execute:
            return self.execute(function, scenario, world, trace, garbage, scramble=False, interruptions=deliveries)

        deliveries = Deliveries(self.players, signals)
        run = execute(deliveries)
        if deliveries.found or not run.violations:
            return deliveries.count, run.violations[:MOST_VIOLATIONS]
        where = "every instruction"
        for number, address in enumerate(deliveries.places):
            alone = execute(Deliveries(self.players, signals, number))
            if alone.violations:
                run, where = alone, interrupted_at(alone, address)
                break
        return deliveries.count, [
            replace(v, obligation="below", message=f"with {deliveries.what} before {where}: {v.message}")
            for v in run.violations
        ]

    def expected(self, function: ir.Function, scenario: ir.Scenario | None, world_seed: int) -> tuple[World, Trace]:
        """A world, and what the source does in it. Raises Trouble."""
        world = make_world(self.build, function, scenario, world_seed)
        if function.suspension is not None:
            return world, Trace(memory=Bytes(world.images))
        oracle = Oracle(self.build, world, self.frames, scenario, self.anonymous, self.asm)
        return world, oracle.run(function, return_place(self.build, 0))

    def execute(
        self,
        function: ir.Function,
        scenario: ir.Scenario | None,
        world: World,
        trace: Trace,
        garbage: int,
        *,
        scramble: bool,
        follow: Register | None = None,
        spare: Literal["", "below", "area"] = "",
        interruptions: Interruptions | None = None,
    ) -> Execute:
        kind = kind_of_run(function)
        run = kind(self.bench, world, trace, function, scenario, self.anonymous, garbage, scramble, follow, spare)
        run.interruptions = interruptions
        run.run()
        self.observed(run)
        return run

    def observed(self, run: Execute) -> None:
        """A run has ended; what it shows may be of use to others."""

    def _caused(
        self,
        run: Execute,
        function: ir.Function,
        scenario: ir.Scenario | None,
        world: World,
        trace: Trace,
        garbage: int,
    ) -> list[Violation]:
        """The violations of a run by the obligation that is at the root of them: where a callee that leaves some memory
        alone makes all well, that memory was not to be relied on; where other garbage makes a difference, neither."""
        found = self._explained(run, function, scenario, world, trace, garbage, False)
        for obligation in ("below", "area"):
            spared = self.execute(function, scenario, world, trace, garbage, scramble=False, spare=obligation)
            if not spared.violations:
                return [_attributed(v, obligation) for v in found]
        if not all(v.obligation in ("args", "effect") for v in found):
            return found
        other = self.execute(function, scenario, world, trace, garbage + _OTHER_GARBAGE, scramble=False)
        if not other.violations:
            return [_attributed(v, "reads") for v in found]
        values = {_subject(v): v.found for v in other.violations}
        differing = [v for v in found if values.get(_subject(v), v.found) != v.found]
        return found + [_attributed(v, "reads") for v in differing[:1]]

    def _explained(
        self,
        run: Execute,
        function: ir.Function,
        scenario: ir.Scenario | None,
        world: World,
        trace: Trace,
        garbage: int,
        scramble: bool,
    ) -> list[Violation]:
        """The violations of a run; where a register came back wrong, the instruction that wrote it last."""
        explained = []
        for violation in run.violations[:MOST_VIOLATIONS]:
            register = self.bench.architecture.registers.get(violation.register or "")
            if violation.obligation != "preserve" or register is None:
                explained.append(violation)
                continue
            again = self.execute(function, scenario, world, trace, garbage, scramble=scramble, follow=register)
            kept = function.convention.keeps(register) or (1 << register.bits) - 1
            explained.append(_with_last_writer(violation, again, self.bench, kept))
        return explained


def baseline_violations(target: Target, code: Code, *, user_text: bool = False) -> Iterator[Violation]:
    """What machine code (or what a user wrote of it) has that is beyond its target's baseline, run or not."""
    if not user_text:
        # What others have put between their instructions is data, where nothing leads to it.
        listed = (replace(i, label=i.text) if not i.label and i.text.startswith(".") else i for i in code.instructions)
        code = replace(code, instructions=tuple(listed))
    indices = {offset: index for index, offset in enumerate(code.offsets)}
    for beyond in beyond_baseline(target, code, user_text=user_text):
        source = code.source(indices[beyond.offset])
        yield Violation(
            "flow",
            str(beyond),
            address=beyond.offset,
            instruction=beyond.instruction,
            source=source,
            function=code.name,
        )


_OTHER_GARBAGE = 6 << 20  # no run of a campaign has this number; of the same kind as the first (see GARBAGE)


def _subject(violation: Violation) -> tuple[object, ...]:
    return violation.obligation, violation.register, violation.memory, violation.address, violation.message


def _attributed(violation: Violation, obligation: str) -> Violation:
    what = {
        "below": "with memory below the stack pointer overwritten, as callees and signal handlers may",
        "area": "with the memory overwritten that a callee is given above the stack pointer",
        "reads": "with other garbage in registers and memory",
    }[obligation]
    return replace(violation, obligation=obligation, message=f"{what}: {violation.message}")


def _with_last_writer(violation: Violation, run: Execute, bench: Bench, kept: int) -> Violation:
    """`kept`: the bits that matter."""
    values = [(address, value & kept) for address, value in run.last_values]
    for (address, before), (_, after) in zip(reversed(values[:-1]), reversed(values[1:]), strict=True):
        if before != after and address in bench.listing:
            code, index = bench.listing[address]
            insn = code.instructions[index]
            if insn.text == "nop" and index and code.instructions[index - 1].delay_slot:
                index, insn = index - 1, code.instructions[index - 1]  # it was lost in the call
            source = code.source(index)
            message = f'{violation.message}; last written by "{insn.text}" at +{code.offsets[index]:#x}'
            return replace(
                violation,
                address=code.offsets[index],
                instruction=insn.text,
                source=source,
                function=code.name,
                message=message,
            )
    return violation


@dataclass
class _Record:
    """What the runs of one trampoline have shown so far."""

    session: Session
    function: ir.Function
    runs: int = 0
    deliveries: int = 0
    outcomes: set[tuple[int, int]] = field(default_factory=set)
    visited: set[int] = field(default_factory=set)
    violations: dict[tuple[object, ...], Violation] = field(default_factory=dict)
    problem: str = ""

    def note(self, run: Execute) -> bool:
        """Whether the run went where none had gone before."""
        self.runs += 1
        executed = run.executed
        before = len(self.visited) + len(self.outcomes)
        self.visited.update(executed)
        branches = self._branches
        for index, address in enumerate(executed):
            if address in branches:
                following = index + (2 if branches[address] else 1)
                if following < len(executed):
                    self.outcomes.add((address, executed[following]))
        return len(self.visited) + len(self.outcomes) > before

    @cached_property
    def _branches(self) -> dict[int, bool]:
        """Addresses of this trampoline's conditional branches, and whether they have a delay slot."""
        code = self.session.codes[self.function.name]
        base = self.session.build.symbols[self.function.name]
        return {
            base + offset: insn.delay_slot
            for insn, offset in zip(code.instructions, code.offsets, strict=True)
            if insn.label is None and insn.transfer == "branch"
        }

    def trouble(self, trouble: Trouble, scenario: ir.Scenario | None) -> None:
        where = f" ({trouble.span})" if isinstance(trouble.span, Span) else ""
        title = f'check "{scenario.title}": ' if scenario is not None else ""
        self.problem = self.problem or f"{title}{trouble.message}{where}"

    def unmet(self, node: ir.Expect, scenario: ir.Scenario | None) -> None:
        text = " ".join(node.span.text.split())
        message = f"the source itself does not meet an expectation: {text} ({node.span})"
        title = scenario.title if scenario else ""
        violation = Violation("effect", message, source=str(node.span), function=self.function.name, check=title)
        self.violate([violation])

    def violate(self, found: Iterable[Violation]) -> None:
        for violation in found:
            key = (violation.obligation, violation.register, violation.address, violation.function)
            if key not in self.violations and len(self.violations) < MOST_VIOLATIONS:
                self.violations[key] = violation

    def verdict(self, subject: Subject) -> Verdict:
        code = self.session.codes[self.function.name]
        base = self.session.build.symbols[self.function.name]
        branches = self._branches
        total = 2 * len(branches) or 1
        never = [
            insn.text
            for insn, offset in zip(code.instructions, code.offsets, strict=True)
            if insn.label is None and not insn.text.startswith(".") and base + offset not in self.visited
        ]
        run = len(self.outcomes) if branches else int(not never)
        reason = ""
        if run < total:
            one_way = [a for a in branches if len({o for o in self.outcomes if o[0] == a}) < 2]
            text = self._text_at(one_way[0]) if one_way else never[0]
            reason = f"{total - run} of {total} paths never ran; a check is missing that takes both ways of `{text}`"
        elif never:
            reason = f"`{never[0]}` never ran"
        violated = {v.obligation for v in self.violations.values()}
        findings = {}
        for name in OBLIGATIONS:
            inapplicable = self.session.unprotected if name == "landing" else _why_not_applicable(name, subject)
            if name in violated:
                findings[name] = Finding("violated")
            elif inapplicable:
                findings[name] = Finding("not applicable", inapplicable)
            elif self.problem:
                findings[name] = Finding("not run", self.problem)
            elif reason:
                findings[name] = Finding("not run", reason)
            else:
                blind = self._blind(name)
                findings[name] = Finding("not run", blind) if blind else Finding("held", self._remark(name))
        return Verdict(
            self.function.name,
            subject.file,
            subject.target,
            findings,
            total,
            run,
            self.runs,
            tuple(self.violations.values()),
            subject.frame,
            len(code.code),
            sum(insn.label is None for insn in subject.instructions),
            self.deliveries,
            self.session.helpers,
        )

    def _text_at(self, address: int) -> str:
        code, index = self.session.bench.listing[address]
        return code.instructions[index].text

    def _remark(self, obligation: str) -> str:
        """What is to be known of an obligation that holds."""
        bench = self.session.bench
        protection = bench.protection
        if obligation != "landing" or protection is None or protection.paired or not marks_pairs(bench.architecture):
            return ""
        if not bench.foreign:
            functions = (bench.build.program.functions[name] for name in bench.build.program.own)
            reason = next(filter(None, (unpaired(function, bench.architecture) for function in functions)), "")
            return f"not for shadow stacks: {reason}"
        return "the file is not marked for shadow stacks"

    def _blind(self, obligation: str) -> str:
        """Why the engine cannot see what an obligation is about."""
        if obligation == "unwind":
            return self.session.unread(self.function.name)
        if obligation != "preserve":
            return ""
        machine = self.session.bench.machine
        observable = machine.observable
        unseen = [r for r in self.function.convention.kept if r not in observable]
        if not unseen:
            return ""
        return "; ".join(f"{r.name}: {machine.why_not_observable(r)}" for r in unseen)


def _why_not_applicable(name: str, subject: Subject) -> str:
    function = subject.function
    if name == "unwind" and function.suspension is not None and function.suspension.suspends is None:
        return "it brings another call's frame back, and is not walked meanwhile"
    if name == "effect" and function.contract is not None and function.suspension is None:
        return "it has no body, and no check of it expects anything that fails"
    if name == "unwind":
        return subject.why_not_unwound
    if name in ("align", "area") and not any(insn.transfer == "call" for insn in subject.instructions):
        if name == "area" and function.suspension is not None and function.convention.back_chain:
            return ""  # the stack that is left has a chain too
        return "it makes no call"
    if name == "preserve" and function.suspension is None:
        left_by = {type(node) for node in ir.walk(function.body)}
        if ends(function.body) and not left_by & {ir.Return, ir.TailCall}:
            if ir.Resume not in left_by:
                return "it never returns"
            if not function.convention.fixed:
                return f"it leaves by `resume` alone, and {function.convention.name} has no registers of known values"
    return ""
