"""Can the judge fail? Every small mistake in emitted code is made, and the judge has to find it.

A mutant is *killed* when some run violates an obligation. Otherwise it has to be *equivalent*, with the reason shown:
from the instructions alone (see `mutants`), because its bytes are the original's, or because it was watched to do the
same: at every call and return it has stored the same, and each register that means anything is the same. What is left
*survives*: the judge is blind there, or the instruction is not needed.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from . import ir
from .activations import Activation, Arrival
from .assemble import AssemblyError, assemble
from .continuations import kind_of_run
from .emulate import MachineError
from .interpret import Trouble
from .judge import Execute
from .machine_code import Code
from .mutants import Footprint, Mutant, mutants
from .oracle import Trace
from .pipeline import Artifact, Compiled, TableArtifact
from .target import Convention, InRegister, Register
from .verify import Session
from .violation import Violation
from .watchers import Watcher
from .world import SEED_STEP, World

DEFAULT_WORLDS = 6  # of each check; in each, one run as it is and one with signals at every instruction
# Comparisons with zero, on all the machines there are. What is none is only not recognized: its mutants then survive.
_NULL = re.compile(r"\btest\b|\bcbn?z\b|\bb(eq|ne)z\b|[ #](0x0|0)\b")
_ROOM = 64  # bytes that a mutant may be longer than the original


@dataclass(frozen=True)
class Survivor:
    """A mutant that no run told from the original. `address` in bytes from the function's start."""

    operator: str
    change: str
    instruction: str
    address: int
    source: str

    def as_json(self) -> dict[str, Any]:
        return {
            "operator": self.operator,
            "change": self.change,
            "instruction": self.instruction,
            "address": f"{self.address:#x}",
            "source": self.source,
        }


@dataclass(frozen=True)
class Mutation:
    """What became of the mutants of one trampoline on one target. `killed` counts by obligation, `equivalent` by the
    reason, `impossible` those that are no code of the machine."""

    trampoline: str
    file: str
    target: str
    killed: Mapping[str, int]
    equivalent: Mapping[str, int]
    impossible: int
    survivors: tuple[Survivor, ...]
    problem: str = ""  # why nothing could be said

    @property
    def good(self) -> bool:
        return not self.survivors and not self.problem

    @property
    def total(self) -> int:
        return sum(self.killed.values()) + sum(self.equivalent.values()) + len(self.survivors)

    def as_json(self) -> dict[str, Any]:
        return {
            "trampoline": self.trampoline,
            "file": self.file,
            "target": self.target,
            "mutants": self.total,
            "killed": dict(self.killed),
            "equivalent": dict(self.equivalent),
            "impossible": self.impossible,
            "survivors": [s.as_json() for s in self.survivors],
            "problem": self.problem,
        }


@dataclass(frozen=True)
class MutationReport:
    """All of one command, and the seed that repeats it."""

    seed: int
    mutations: tuple[Mutation, ...]

    @property
    def good(self) -> bool:
        return all(m.good for m in self.mutations)

    def as_json(self) -> dict[str, Any]:
        return {"format": 1, "seed": self.seed, "results": [m.as_json() for m in self.mutations]}


def mutate(compiled: Compiled, *, seed: int = 1, worlds: int = DEFAULT_WORLDS) -> tuple[Mutation, ...]:
    """All mutants of the trampolines of a compiled file, and of those entries of its tables that are entered."""
    with _silent():
        own = tuple(_Hunt(compiled, artifact, seed, worlds).run() for artifact in compiled.own)
        return own + tuple(_Hunt(compiled, table, seed, worlds).run() for table in compiled.own_tables)


@contextmanager
def _silent() -> Iterator[None]:
    """Keystone complains to the process's standard error about text that is no instruction."""
    with open(os.devnull, "wb") as nothing:
        kept = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@dataclass(frozen=True, slots=True)
class _World:
    """A world of one check, what the source does in it, and how many instructions the original takes."""

    scenario: ir.Scenario | None
    world: World
    trace: Trace
    garbage: int
    budget: int


class _Hunt:
    """One trampoline, or one table, on one target."""

    def __init__(self, compiled: Compiled, artifact: Artifact | TableArtifact, seed: int, worlds: int) -> None:
        self.artifact = artifact
        self.session = Session(compiled, room=_ROOM)
        self.original = self.session.loaded(artifact.name)
        self.program = compiled.program
        self.seed = seed
        self.count = worlds
        self.worlds: list[_World] = []
        self.records: dict[int, _Record] = {}  # what the original does in each world, by its index
        self.killed: Counter[str] = Counter()
        self.equivalent: Counter[str] = Counter()
        self.impossible = 0
        self.survivors: list[Survivor] = []

    def run(self) -> Mutation:
        problem = self._prepare()
        if not problem:
            for mutant in mutants(self.artifact, self.program, self._footprints(), self._entered()):
                self._decide(mutant)
        return Mutation(
            self.artifact.name,
            self.artifact.source.name,
            self.artifact.target.name,
            dict(self.killed.most_common()),
            dict(self.equivalent.most_common()),
            self.impossible,
            tuple(self.survivors),
            problem,
        )

    def _prepare(self) -> str:
        """Draw the worlds, and see that the original is right in them; says what is wrong."""
        function = self.artifact.function
        scenarios: Sequence[ir.Scenario | None] = [s for s in self.program.scenarios if s.trampoline == function.name]
        for number in range(self.count):
            for scenario in scenarios or [None]:
                try:
                    world, trace = self.session.expected(function, scenario, self.seed * SEED_STEP + number)
                except Trouble as trouble:
                    return trouble.message
                run = self._execute(_World(scenario, world, trace, 2 * number, 1 << 20), scramble=False)
                if run.violations:
                    return f"the original is wrong: {run.violations[0].message}"
                self.worlds.append(_World(scenario, world, trace, 2 * number, 2 * len(run.executed) + 100))
        return ""

    def _entered(self) -> frozenset[int] | None:
        """By index, the instructions of a table that are run; None for all of a trampoline's."""
        if not isinstance(self.artifact, TableArtifact):
            return None
        numbers = {world.world.given["table index"] for world in self.worlds}
        count, behind = len(self.artifact.entries), len(self.artifact.behind)
        parts = [(0, len(self.artifact.entries[0])), (len(self.artifact.instructions) - behind, behind // count)]
        return frozenset(
            start + number * length + step for number in numbers for start, length in parts for step in range(length)
        )

    def _footprints(self) -> Mapping[int, Sequence[Sequence[Footprint]]]:
        base = self.session.build.symbols[self.artifact.name]
        found: dict[int, list[Sequence[Footprint]]] = {}
        indices = {
            base + offset: index
            for index, (insn, offset) in enumerate(zip(self.original.instructions, self.original.offsets, strict=True))
            if insn.label is None
        }
        for number in range(min(len(self.worlds), 4)):
            for address, touched in self._recorded(number).steps:
                if address in indices:
                    found.setdefault(indices[address], []).append(touched)
        return found

    # ------------------------------------------------------------------------------------------------------ deciding

    def _decide(self, mutant: Mutant) -> None:
        code = self._assembled(mutant)
        if code is None:
            self.impossible += 1
        elif code.code == self.original.code and code.relocations == self.original.relocations:
            self.equivalent["its bytes are the same"] += 1
        elif mutant.same:
            self.equivalent[mutant.same] += 1
        else:
            self.session.replace(code)
            violation = self._violation()
            same = "" if violation is not None else self._same(mutant)
            self.session.replace(self.original)
            if violation is not None:
                self.killed[violation.obligation] += 1
            elif same:
                self.equivalent[same] += 1
            else:
                self._survived(mutant)

    def _assembled(self, mutant: Mutant) -> Code | None:
        original = self.original
        try:
            made = assemble(self.artifact.target.architecture, mutant.instructions)
        except AssemblyError:
            return None
        if len(made.code) > len(original.code) + _ROOM:
            return None
        return Code(
            original.name, made.code, made.relocations, mutant.instructions, made.offsets, original.frame, original.file
        )

    def _violation(self) -> Violation | None:
        """The first one found: in the order of the worlds, first as they are, then with signals."""
        for world in self.worlds:
            for scramble in (False, True):
                run = self._execute(world, scramble=scramble)
                if run.violations:
                    found = run.violations[0]
                    return found if not scramble else Violation("below", found.message)
        return None

    def _execute(self, world: _World, *, scramble: bool, watcher: Watcher | None = None) -> Execute:
        run = kind_of_run(self.artifact.function)(
            self.session.bench,
            world.world,
            world.trace,
            self.artifact.function,
            world.scenario,
            self.session.anonymous,
            world.garbage + int(scramble),
            scramble,
            budget=world.budget,
        )
        run.watcher = watcher
        try:
            run.run()
        except MachineError as error:
            run.violations.append(Violation("flow", str(error)))
        return run

    def _survived(self, mutant: Mutant) -> None:
        insn = self.original.instructions[mutant.index]
        where = f"{PurePath(self.artifact.source.name).name}:{insn.line}:{insn.column}"
        address = self.original.offsets[mutant.index]
        self.survivors.append(Survivor(mutant.operator, mutant.change, insn.text, address, where))

    # ------------------------------------------------------------------------------------------------------ watching

    def _same(self, mutant: Mutant) -> str:
        """Why a mutant that no run could tell is the same program, as far as it was watched."""
        insn = self.original.instructions[mutant.index]
        if mutant.operator == "drop" and (insn.reads or insn.writes):
            if insn.memory in ("none", "read") and insn.writes and self._finds_what_it_sets(mutant.index):
                return _HELD[insn.memory]
            return ""  # the instruction is not needed, and somebody should know
        unread = tested = False
        for number in range(len(self.worlds)):
            original, other = self._recorded(number), self._record(self.worlds[number])
            if original.story == other.story:
                continue
            if original.same_but_for_unread(other, self._dead_loads()):
                unread = True
            elif original.same_but_for_unread(other, self._dead_loads() | self._tests(), null=True):
                tested = True
            else:
                return ""
        if tested:
            return "what it stores is no more null than before, and only compared with null"
        if unread:
            return "it stores something else in words of its frame that nobody reads"
        return "it leaves the same memory, and the same in all registers that mean anything, at every call and return"

    def _dead_loads(self) -> frozenset[int]:
        """The addresses of loads whose registers nobody reads any more, in the original: pops that only move sp."""
        code = self.original.instructions
        base = self.session.build.symbols[self.artifact.name]
        convention = self.artifact.function.convention
        wanted = {*convention.kept, *convention.integer_results, *convention.float_results}
        found = set()
        if self.artifact.function.table is not None and isinstance(self.artifact, Artifact):
            found.add(base)  # takes the entry's address, where there is one: that has been stored before all else
        for index, insn in enumerate(code):
            dead = insn.writes - {self.artifact.target.architecture.sp}
            if insn.memory != "read" or not dead:
                continue
            for later in code[index + 1 :]:
                if later.label is not None or later.reads & dead or later.transfer not in ("none", "return"):
                    break
                dead -= later.writes
                if later.transfer == "return" and not dead & wanted:
                    found.add(base + self.original.offsets[index])
        return frozenset(found)

    def _tests(self) -> frozenset[int]:
        """The addresses of loads whose registers are compared with null by what comes next, and read by nothing else up
        to where they are set anew."""
        code = self.original.instructions
        base = self.session.build.symbols[self.artifact.name]
        flags = {self.artifact.target.architecture.flags}
        found = set()
        for index, insn in enumerate(code[:-1]):
            test = code[index + 1]
            if insn.memory != "read" or not insn.writes or not insn.writes & test.reads or test.writes - flags:
                continue
            if _NULL.search(test.text) is None:
                continue
            rest = (later for later in code[index + 2 :] if later.writes & insn.writes or later.reads & insn.writes)
            if all(not later.reads & insn.writes for later in itertools.islice(rest, 1)):
                found.add(base + self.original.offsets[index])
        return frozenset(found)

    def _finds_what_it_sets(self, index: int) -> bool:
        insn = self.original.instructions[index]
        flags = self.artifact.target.architecture.flags
        place = self.session.build.symbols[self.artifact.name] + self.original.offsets[index]
        self.session.replace(self.original)
        for world in self.worlds:
            wanted = [r for r in insn.writes if r is not flags]
            watcher = _Unchanged(self.session, place, wanted, insn.memory == "none")
            self._execute(world, scramble=False, watcher=watcher)
            if not watcher.unchanged:
                return False
        return True

    def _recorded(self, number: int) -> _Record:
        """What the original does, whatever is loaded now."""
        if number not in self.records:
            loaded = self.session.loaded(self.artifact.name)
            self.session.replace(self.original)
            self.records[number] = self._record(self.worlds[number])
            self.session.replace(loaded)
        return self.records[number]

    def _record(self, world: _World) -> _Record:
        """What the code that is loaded now does in a world."""
        bench = self.session.bench
        record = _Record(self.session)
        hooks = (bench.machine.on_read(record.read), bench.machine.on_write(record.write))
        try:
            self._execute(world, scramble=False, watcher=record)
        finally:
            for hook in hooks:
                hook.remove()
        return record


_HELD = {
    "none": "in every run its register held that value already",
    "read": "in every run its registers held those values still: no callee had run",
}


class _Unchanged(Watcher):
    """Whether the instruction at an address leaves some registers as it finds them, every time: even `behind_calls`, or
    before any callee has run. (What a callee leaves alone by chance proves nothing of a restore.)"""

    def __init__(self, session: Session, place: int, registers: Sequence[Register], behind_calls: bool) -> None:
        self.behind_calls = behind_calls
        self.called = False
        self.machine = session.bench.machine
        self.place = place
        self.registers = [r for r in registers if r in self.machine.observable]
        self.unchanged = len(self.registers) == len(registers)
        self.before: dict[Register, int] | None = None

    def instruction(self, address: int) -> None:
        if self.before is not None:
            self.unchanged = self.unchanged and self.machine.get_many(self.registers) == self.before
        self.before = None
        if address == self.place:
            self.unchanged = self.unchanged and (self.behind_calls or not self.called)
            self.before = self.machine.get_many(self.registers)

    def arrived(self, arrival: Arrival) -> None:
        kept_by_kernel = arrival.signature.convention.keeps if arrival.name == ir.SYSTEM_CALL else None
        self.called |= kept_by_kernel is None or not all(map(kept_by_kernel, self.registers))


@dataclass
class _Record(Watcher):
    """`steps`: the memory that each executed instruction touched; `story`: calls and returns in order, with the bytes
    stored since the one before and the registers that mean something. Addresses of code are all alike: a mutant's code
    may be longer."""

    session: Session
    steps: list[tuple[int, list[Footprint]]] = field(default_factory=list)
    story: list[tuple[object, ...]] = field(default_factory=list)
    stored: dict[int, object] = field(default_factory=dict)
    loaded: dict[int, set[int]] = field(default_factory=dict)  # bytes, by the address of the instruction

    def same_but_for_unread(self, other: _Record, dead: frozenset[int], *, null: bool = False) -> bool:
        """Whether the stories differ in nothing but bytes of stacks that neither run ever loads; what is loaded by
        `dead` instructions does not count. `null`: and in no word that is null in one of them alone."""
        if len(self.story) != len(other.story):
            return False
        for (*mine, here), (*theirs, there) in zip(self.story, other.story, strict=True):
            if mine != theirs or not isinstance(here, dict) or not isinstance(there, dict):
                return False
            differing = {a for a in here.keys() | there.keys() if here.get(a) != there.get(a)}
            if any(differing & bytes_ for run in (self, other) for pc, bytes_ in run.loaded.items() if pc not in dead):
                return False
            if null and any(self._null(here, a) != self._null(there, a) for a in differing):
                return False
            stacks = self.session.build.plan.stacks
            if not all(any(address in stack for stack in stacks) for address in differing):
                return False
        return True

    def _null(self, memory: Mapping[int, object], address: int) -> bool:
        word = self.session.build.architecture.word
        start = address // word * word
        return not any(memory.get(start + offset) for offset in range(word))

    def instruction(self, address: int) -> None:
        self.steps.append((address, []))

    def read(self, address: int, size: int, pc: int) -> None:
        self.steps[-1][1].append(Footprint(address, size, False))
        self.loaded.setdefault(pc, set()).update(range(address, address + size))

    def write(self, address: int, size: int, value: int, _pc: int) -> None:
        if self.steps:
            self.steps[-1][1].append(Footprint(address, size, True))
        plain = self._plain(value)
        for place in range(size):
            self.stored[address + place] = plain if isinstance(plain, str) else value >> 8 * place & 0xFF

    def _plain(self, value: int) -> object:
        return "code" if value in self.session.build.plan.code else value

    def arrived(self, arrival: Arrival) -> None:
        convention = arrival.signature.convention
        types = [t.value_type for _, t in arrival.signature.parameters]
        result = arrival.signature.result.value_type if arrival.signature.result else None
        places = convention.place(types, result).arguments
        wanted = {p.place.register for location in places for p in location if isinstance(p.place, InRegister)}
        if arrival.name == ir.SYSTEM_CALL:
            # To the kernel nothing else means anything.
            convention = self.session.compiled.program.functions[arrival.event.function].convention
        self._tell("call", arrival.name, convention, wanted)

    def left(self, activation: Activation, result: int | None) -> None:
        convention = activation.function.convention
        own = activation.function.result
        types = [p.type.value_type for p in activation.function.parameters]
        places = convention.place(types, own.value_type if own is not None else None).result
        wanted = {p.place.register for p in places if isinstance(p.place, InRegister)}
        self._tell("return", activation.function.name, convention, wanted)

    def _tell(self, what: str, name: str, convention: Convention, wanted: set[Register]) -> None:
        values = self.session.bench.machine.get_many(self.session.bench.observable)
        kept = dict(convention.kept)
        for fixed in convention.fixed:
            kept[fixed.register] = kept.get(fixed.register, 0) | fixed.mask
        whole = {*wanted, self.session.bench.architecture.sp, *convention.reserved}
        if isinstance(convention.thread, Register):
            whole.add(convention.thread)
        seen = tuple(
            (register.name, self._plain(value if register in whole else value & kept[register]))
            for register, value in values.items()
            if register in whole or register in kept
        )
        self.story.append((what, name, seen, self.stored))
        self.stored = {}
