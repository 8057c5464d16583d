"""Unwind information: what assemblers make of the directives says what the directives say, and a directive that is
missing or wrong is found by the walk."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import gnu
import programs as random_programs
import pytest
from test_examples import EXAMPLES
from tools import need

from trampoline_dsl import cfi, ir, transitions, unwind
from trampoline_dsl.api import compile_text
from trampoline_dsl.binary import find_symbol, read_image
from trampoline_dsl.continuations import kind_of_run
from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.dwarf import CallFrames
from trampoline_dsl.judge import Execute
from trampoline_dsl.oracle import Trace
from trampoline_dsl.pipeline import Artifact, Compiled, compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.stays import Stays
from trampoline_dsl.target import Insn, Motion, Target, WindowsUnwinding
from trampoline_dsl.targets import all_targets, default_targets, find_target
from trampoline_dsl.verify import Session, code_of
from trampoline_dsl.violation import Violation
from trampoline_dsl.walk import Walker, at_entry
from trampoline_dsl.watchers import Watcher
from trampoline_dsl.world import World


def described(target: Target) -> bool:
    """Whether functions of a target have call frame information."""
    return not isinstance(target.architecture.unwinding(), WindowsUnwinding)


TARGETS = [target.name for target in all_targets().values() if described(target)]
CLANG = "clang-14"
FIXED = Path(__file__).parent / "fixedbugs"


@cache
def compiled(path: Path, target: str) -> Compiled:
    return compile_module(load_module(read_source(path)), find_target(target))


def programs(target: str, names: Collection[str] = ()) -> Iterator[Compiled]:
    for path in EXAMPLES:
        if path.parent.name == "contracts":
            continue  # of others' code
        if (path.stem in names or not names) and (program := compiled(path, target)).own:
            yield program


@pytest.mark.parametrize("most_kept", [transitions._MOST_KEPT, 3])
@pytest.mark.parametrize("target", [target.name for target in default_targets()])
def test_kept_steps_lead_to_the_rows_that_following_finds(
    target: str, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "_MOST_KEPT", most_kept)
    architecture, compared = find_target(target).architecture, 0
    described = cfi.made_of(architecture)
    modules = [*programs(target), *(compile_text(random_programs.program(seed), target) for seed in range(7000, 7008))]
    for artifact in (artifact for module in modules for artifact in module.own):
        function = artifact._described
        effects = cfi.effects_of(described).of(function.code)
        table = transitions._table(architecture, function.convention)
        table.learns = True
        rows = table.rows_of(function, effects)
        if rows is not None:
            compared += 1
            assert rows == cfi.Follower(function, architecture, described, effects).rows(), artifact.name
    assert compared > 5


def test_steps_are_kept_once_many_functions_have_a_prologue() -> None:
    transitions._table.cache_clear()
    artifact = next(programs("linux/s390x", ["crosscall2"])).own[0]
    architecture, function = artifact.target.architecture, artifact._described
    table = transitions._table(architecture, function.convention)
    effects = cfi.effects_of(table.described).of(function.code)
    first = transitions.followed(function, architecture)
    assert table.rows_of(function, effects) is None
    for _ in range(transitions._FIRST):
        assert transitions.followed(function, architecture) == first
    assert table.rows_of(function, effects) == first


def directives(artifact: Artifact) -> tuple[tuple[int, str], ...]:
    found = code_of(artifact).unwinding
    assert isinstance(found, tuple)
    return found


# --------------------------------------------------------------------------------------------------- what is in objects


def tables(data: bytes, compiled: Compiled) -> Iterator[tuple[Artifact, unwind.Table | None]]:
    """What an object says of each trampoline."""
    if data[:4] == b"\x7fELF":
        image = read_image(data, "made.o")
        assert image.unwindings is not None
        for artifact in compiled.own:
            start = find_symbol(image, artifact.name).code
            assert start is not None
            yield artifact, image.unwindings.of(start, start + len(artifact.code))
        return
    frames, values = gnu.coff_section(data, ".eh_frame"), gnu.read_object(data).functions
    architecture = compiled.target.architecture
    unwindings = CallFrames(architecture.word, True, lambda: {"eh_frame": frames})
    for artifact in compiled.own:
        start = values[f"_{artifact.name}"] if f"_{artifact.name}" in values else values[artifact.name]
        yield artifact, unwindings.of(start, start + len(artifact.code))


def said(frame: unwind.Frame) -> tuple[object, Mapping[int, unwind.Place]]:
    places = {number: place for number, place in frame.places.items() if place.kind != "same"}
    return frame.expression or (frame.register, frame.offset), places


@pytest.mark.parametrize("assembler", ["gnu", "clang"])
@pytest.mark.parametrize("target", TARGETS)
def test_objects_say_what_the_directives_say(target: str, assembler: str, tmp_path: Path) -> None:
    architecture = find_target(target).architecture
    command = [*architecture.gnu_as]
    if assembler == "clang":
        command = [CLANG, *architecture.clang, "-c", "-x", "assembler"]
    need(command[0])
    made = tmp_path / "made.o"
    seen = 0
    for program in programs(target):
        subprocess.run([*command, "-o", str(made), "-"], input=program.text.encode(), check=True, timeout=60)
        for artifact, theirs in tables(made.read_bytes(), program):
            assert theirs is not None, artifact.name
            ours = unwind.read_directives(directives(artifact), at_entry(architecture, artifact.function.convention))
            for offset in {*ours.starts, *theirs.starts} & set(artifact.offsets):
                assert said(theirs.at(offset)) == said(ours.at(offset)), (artifact.name, offset)
                seen += 1
    assert seen > 20


# -------------------------------------------------------------------------------------------------------------- mutants


class Several(Watcher):
    """Walks by several tables for one function, where they say something else than the right one."""

    def __init__(self, run: Execute, name: str, right: unwind.Table, tables: Mapping[str, unwind.Table]) -> None:
        self.run, self.name, self.right, self.tables = run, name, right, tables
        self.asked: set[str] = set()  # those that say something else of an instruction from which was walked
        self.stays = Stays(run)
        self.walkers = {mutant: Walker(run, self.stays) for mutant in tables}
        for mutant, walker in self.walkers.items():
            walker.tables[name] = tables[mutant]

    def instruction(self, address: int) -> None:
        code, index = self.run.bench.listing.get(address, (None, 0))
        if (activation := self.run.innermost()) is not None:
            self.stays.follow(activation)
        if code is None or code.name != self.name:
            return
        offset = code.offsets[index]
        frame = self.right.at(offset)
        for mutant, walker in self.walkers.items():
            if not walker.found and self.tables[mutant].at(offset) != frame:
                walker.instruction(address)
                if walker.walked:
                    self.asked.add(mutant)


class Mutating(Session):
    """Walks by wrong directives for one function, each set under a name, beside the right ones."""

    def __init__(
        self, compiled: Compiled, artifact: Artifact, mutants: Mapping[str, tuple[tuple[int, str], ...]]
    ) -> None:
        super().__init__(compiled)
        self.artifact = artifact
        start = at_entry(compiled.target.architecture, artifact.function.convention)
        self.right = unwind.read_directives(directives(artifact), start)
        self.unseen: dict[str, unwind.Table] = {}
        self.asked: set[str] = set()
        for name, changed in mutants.items():
            try:
                self.unseen[name] = unwind.read_directives(changed, start)
            except unwind.UnwindError:
                continue  # the walk fails at the first instruction

    def walked(
        self, function: ir.Function, scenario: ir.Scenario | None, world: World, trace: Trace, garbage: int
    ) -> list[Violation]:
        run = kind_of_run(function)(self.bench, world, trace, function, scenario, self.anonymous, garbage, False)
        run.watcher = several = Several(run, self.artifact.name, self.right, self.unseen)
        run.run()
        self.asked |= several.asked
        self.unseen = {name: table for name, table in self.unseen.items() if not several.walkers[name].found}
        return super().walked(function, scenario, world, trace, garbage)


NEAR = """
struct place {{ word: uptr }}
trampoline near(where: ptr<place>, a: uptr, b: uptr) -> uptr using goregs {{
    on stack sp & -16 pushing pc {} {{ where.word = 1 }}
    on stack sp & -16 pushing pc {} {{
        where.word = 2
        on stack sp & -16 pushing pc {} {{ where.word = 3 }}
        where.word = 4
    }}
    on stack sp & -16 {{ where.word = 5 }}
    return a + b
}}
check near {{ given {{ a = 0x1000  b = 0x2000 }} }}
"""


@pytest.mark.parametrize("pushed", ["bab", "aab", "abb", "aba"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_pc_that_belongs_to_another_block_nearby_is_found(target: str, pushed: str) -> None:
    right, other = compile_text(NEAR.format(*"bab"), target), compile_text(NEAR.format(*pushed), target)
    verdict = Session(right, {"near": code_of(other["near"])}).judge(right["near"], 1, 2)
    assert verdict.good == (pushed == "bab")
    assert {v.obligation for v in verdict.violations} <= {"unwind"}
    for violation in verdict.violations:
        assert violation.message.endswith("the walk finds another return address")
        assert None not in (violation.expected, violation.found)


# Examples of which each has something in its frame, or on its way, that the others have not.
SHAPES = ("call_on_stack", "callback_with_context", "tail", "crosscall2", "cgocallback", "callbackasm", "set_jump")

NUMBER = re.compile(r"(?<![\w$%])-?(0x[0-9a-f]+|\d+)\b")


def mutants(artifact: Artifact) -> Iterator[tuple[str, tuple[tuple[int, str], ...]]]:
    """Each directive left out; each distance in one off by a word, and each byte of an expression by one."""
    right = directives(artifact)
    architecture = artifact.target.architecture
    for index, (offset, directive) in enumerate(right):
        plain = directive.split(architecture.comment)[0].rstrip()
        before, behind = right[:index], right[index + 1 :]
        yield f"+{offset:#x} without {directive}", (*before, *behind)
        escape = ".cfi_escape" in plain
        numbers = list(NUMBER.finditer(plain))
        if re.match(r"\.cfi_(restore|undefined|same_value) ", plain):
            continue  # a register's, whose own row is missing then
        for match in numbers[1:] if escape or len(numbers) > 1 else numbers:
            other = int(match[0], 0) + (1 if escape else architecture.word)
            text = f"{plain[: match.start()]}{other & 0xFF if escape else other}{plain[match.end() :]}"
            yield f"+{offset:#x} {text} for {directive}", (*before, (offset, text), *behind)


# What a missing directive makes no difference to, by the start of the machine's name.
EQUIVALENT = {
    "linux/ppc64": {".cfi_restore 65": "the caller's frame has lr, and keeps it until the return"},
    "linux/s390x": {".cfi_restore 15": "CFA - 160 is r15 itself by then"},
}
# Two places have the caller's stack pointer on the other stack: ebx, and the word that it was saved to.
BOTH = ("windows/386 call_on_stack +0x1b without .cfi_escape", "linux/386 call_on_stack +0x1b without .cfi_escape")


def equivalent(artifact: Artifact, mutant: str) -> bool:
    """Whether a walk finds the same without a directive."""
    target = artifact.target
    if f"{target.name} {artifact.name} {mutant}".startswith(BOTH):
        return True
    dropped = mutant.partition(" without ")[2]
    for name, reasons in EQUIVALENT.items():
        if target.name.startswith(name) and dropped.startswith(tuple(reasons)):
            return True
    saved = re.match(r"\.cfi_offset (\d+),", dropped)
    if saved is None:
        return False
    # A register that is saved because its neighbours are, and changed by nobody.
    numbers = {number: register for register, number in target.architecture.unwinding().numbers.items()}
    register = numbers[int(saved[1])]
    return not any(register in insn.writes for insn in artifact.instructions if insn.part != "epilogue")


@pytest.mark.parametrize("target", [t.name for t in default_targets() if described(t)])
def test_what_is_wrong_with_a_directive_is_found(target: str) -> None:
    unseen: list[str] = []
    count = 0
    for program in programs(target, SHAPES):
        for artifact in program.own:
            made = dict(mutants(artifact))
            session = Mutating(program, artifact, made)
            count += len(made)
            verdict = session.judge(artifact, 1, 4)
            suspension = artifact.function.suspension
            alone = suspension is not None and suspension.suspends is None  # brings back a frame that another call left
            assert verdict.obligations["unwind"].state == ("not applicable" if alone else "held")
            for name in session.unseen:
                # While a frame that was left for good is brought back, nobody walks.
                if name in session.asked and not equivalent(artifact, name):
                    unseen.append(f"{artifact.name} {name}")
    assert unseen == []
    assert count > 50


# ----------------------------------------------------------------------------------------------- what outlives calls

NESTED = ("nested_stacks", "nested_stacks_unwind", "symbols_after_go", "home_at_back_chain", "value_across_stacks")


@pytest.mark.parametrize("target", TARGETS)
def test_ways_from_calls_begin_where_callees_change_nothing(target: str) -> None:
    """A walk from a callee looks at what is said of the last byte before the place that the call returns to, and finds
    there what the callee has left in registers."""
    architecture = find_target(target).architecture
    stacks = 0
    for name in NESTED:
        for artifact in compiled(FIXED / f"{name}.tramp", target).own:
            code = artifact.instructions
            table = unwind.read_directives(directives(artifact), at_entry(architecture, artifact.function.convention))
            for index, insn in enumerate(code):
                if insn.transfer != "call":
                    continue
                frame = table.at(artifact.offsets[index + insn.delay_slot])
                asked: list[int] = []
                machine = unwind.Machine(
                    lambda number, asked=asked: asked.append(number) or 0,  # type: ignore[misc]
                    lambda _, size: bytes(size),
                    architecture.word,
                    architecture.order,
                )
                unwind.cfa(frame, machine)
                assert asked == [architecture.unwinding().sp], (artifact.name, insn.text)
                stacks += bool(frame.expression)
    assert stacks > 10


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("ldr w0, [sp], #0x10", 16),
        ("str s0, [sp, #-0xe0]!", -0xE0),
        ("ldrsw x0, [sp], #0x20", 32),
        ("strb w3, [sp, #-0x10]!", -16),
        ("ldr w0, [sp, #0x10]", 0),
    ],
)
def test_part_of_a_register_moves_the_stack_pointer_too(text: str, step: int) -> None:
    architecture = find_target("linux/arm64").architecture
    motions = cfi.made_of(architecture).motions(Insn(text))
    assert motions == ((Motion("set", architecture.sp, architecture.sp, step),) if step else ())
