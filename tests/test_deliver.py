"""Signals before every instruction: all of them are delivered, and what only they find is found.

The code that they interrupt is right but for one edit, or the handler is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import broken
import pytest
from broken import around_call, before, code_from, first, leaving

from trampoline_dsl.deliver import Deliveries
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.judge import Code, Execute, Violation
from trampoline_dsl.pipeline import Compiled, compile_source
from trampoline_dsl.target import Bank, Insn
from trampoline_dsl.targets import all_targets, find_target
from trampoline_dsl.verify import Session, verify

CASES = Path(__file__).parent / "cases" / "signals.tramp"
TARGETS = [t.name for t in all_targets().values() if t.os == "linux"]
WITH_RESTORER = ["linux/386", "linux/amd64", "linux/arm", "linux/arm64", "linux/s390x"]
HANDLER = "runtime.sigtramp"


def program_for(target: str) -> Compiled:
    return broken.compiled(target, CASES)


def delivered(
    program: Compiled, name: str, codes: Iterable[Code] = (), *, turn: int = 0, seed: int = 1
) -> tuple[Execute, Deliveries]:
    """One run of a trampoline's check with signals, delivered in its first way or another; nothing else is hostile."""
    session = Session(program, {code.name: code for code in codes})
    function = program.program.functions[name]
    scenario = next(s for s in program.program.scenarios if s.trampoline == name)
    world, trace = session.expected(function, scenario, seed)
    deliveries = Deliveries(session.players, scenario.signals[turn])
    return session.execute(function, scenario, world, trace, 1, scramble=False, interruptions=deliveries), deliveries


def edited(program: Compiled, name: str, edit: Callable[[Sequence[Insn]], Iterable[Insn]]) -> Code:
    return code_from(program[name], edit(program[name].instructions))


def texts(run: Execute) -> str:
    return "\n".join(f"{v.obligation} {v.register} {v.function} {v.message}" for v in run.violations)


def interruptible(program: Compiled, name: str) -> int:
    """Instructions, but for those in delay slots."""
    code = [insn for insn in program[name].instructions if insn.label is None]
    return len(code) - sum(insn.delay_slot for insn in code)


def test_every_instruction_of_every_target_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for target in TARGETS:
        program = program_for(target)
        scenario = next(s for s in program.program.scenarios if s.trampoline == "interrupted")
        for turn in range(len(scenario.signals)):
            run, deliveries = delivered(program, "interrupted", turn=turn)
            assert run.finished, target
            assert not run.violations, (target, texts(run))
            assert deliveries.count == interruptible(program, "interrupted"), target
            counts[target] = counts.get(target, 0) + deliveries.count
    with capsys.disabled():
        print(f"\n{sum(counts.values())} signals on {len(counts)} targets: {counts}")


@pytest.mark.parametrize("target", TARGETS)
def test_what_waits_below_the_stack_pointer_is_lost(target: str) -> None:
    """The result is kept below the stack pointer, beyond what the kernel leaves alone, for two instructions."""
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    kernel = architecture.signals
    assert kernel is not None
    result, s, bits = convention.integer_results[0], architecture.sp, 8 * architecture.word
    offset = -kernel.untouched - 4 * architecture.word

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [
            *architecture.store(result, s, offset, bits),
            *architecture.constant(result, 0),
            *architecture.load(result, s, offset, bits, False),
            *(Insn("nop") for _ in range(architecture.flags is None)),  # mips: the last one may go into a delay slot
        ]
        return before(code, first(code, leaving), detour)

    code = edited(program, "leaf", edit)
    run, _ = delivered(program, "leaf", [code])
    assert [v.obligation for v in run.violations] == ["args"], texts(run)
    verdict = next(v for v in verify(program, codes={"leaf": code}, only=["leaf"], runs=2))
    assert verdict.obligations["below"].state == "violated"


@pytest.mark.parametrize("target", TARGETS)
def test_a_store_before_the_stack_pointer_has_moved(target: str) -> None:
    """The result is stored where the stack is about to grow to."""
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    kernel = architecture.signals
    assert kernel is not None
    s, word = architecture.sp, architecture.word
    step = -(-(kernel.untouched + 8 * word) // 64) * 64
    result = convention.integer_results[0]

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [
            *architecture.store(result, s, 4 * word - step, 8 * word),
            *architecture.binary("sub", s, s, step),
            *architecture.constant(result, 0),
            *architecture.load(result, s, 4 * word, 8 * word, False),
            *architecture.binary("add", s, s, step),
        ]
        return before(code, first(code, leaving), detour)

    run, deliveries = delivered(program, "leaf", [edited(program, "leaf", edit)])
    assert [v.obligation for v in run.violations] == ["args"], texts(run)
    assert not deliveries.found


@pytest.mark.parametrize("target", TARGETS)
def test_a_handler_that_loses_a_register(target: str) -> None:
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    free = architecture.allocatable(program.target.conventions["go0"])  # not the register of g
    kept = next(r for r in free if r in convention.kept and r.bank is Bank.INTEGER)

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        return before(code, 0, architecture.constant(kept, 0x5EED))

    for turn in (0, 1):
        run, deliveries = delivered(program, "interrupted", [edited(program, HANDLER, edit)], turn=turn)
        assert [(v.obligation, v.register, v.function) for v in run.violations] == [("preserve", kept.name, HANDLER)]
        assert "handling a signal that came before" in run.violations[0].message
        assert deliveries.count == 1  # the first one tells


@pytest.mark.parametrize("target", TARGETS)
def test_a_handler_that_passes_something_else(target: str) -> None:
    program = program_for(target)
    architecture = program.target.architecture
    [information] = (
        program.target.conventions["go0"]
        .place([t.value_type for _, t in program.program.externs["runtime.sigtrampgo"].parameters], None)
        .arguments[1]
    )
    offset = information.place.offset  # type: ignore[union-attr]  # go0 has all arguments in memory
    scratch = broken.volatile(program, "leaf")

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        wrong = architecture.store(scratch, architecture.sp, offset, 8 * architecture.word)
        return around_call(code, [*architecture.constant(scratch, 0x5EED), *wrong], [])

    run, _ = delivered(program, "interrupted", [edited(program, HANDLER, edit)])
    assert [(v.obligation, v.function) for v in run.violations] == [("args", HANDLER)], texts(run)
    assert "sigtrampgo's info" in texts(run)


def test_a_verdict_names_the_instruction_that_was_interrupted() -> None:
    program = program_for("linux/s390x")
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    result, s = convention.integer_results[0], architecture.sp

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [*architecture.store(result, s, -64, 64), *architecture.load(result, s, -64, 64, False)]
        return before(code, first(code, leaving), detour)

    session = Session(program, {"leaf": edited(program, "leaf", edit)})
    function = program.program.functions["leaf"]
    scenario = next(s for s in program.program.scenarios if s.trampoline == "leaf")
    world, trace = session.expected(function, scenario, 1)
    _, found = session.with_signals(function, scenario, world, trace, 1, scenario.signals[0])
    assert {v.obligation for v in found} == {"below"}
    assert 'with a signal before "lg %r2, -0x40(%r15)" at leaf+' in found[0].message


def test_json_has_the_number_of_deliveries() -> None:
    program = program_for("linux/arm64")
    by_name = {v.trampoline: v.as_json() for v in verify(program, runs=2)}
    assert by_name["interrupted"]["deliveries"] == 3 * interruptible(program, "interrupted")
    assert "deliveries" not in by_name[HANDLER]


def test_signals_are_resolved() -> None:
    ways = next(s for s in program_for("linux/arm").program.scenarios if s.trampoline == "interrupted").signals
    assert [way.handler for way in ways] == [HANDLER] * 3
    assert [way.restorer for way in ways] == ["restorer", "restorer", None]
    assert [way.stack and way.stack.name for way in ways] == [None, "alternate", None]
    ways = next(s for s in program_for("linux/mips").program.scenarios if s.trampoline == "interrupted").signals
    assert [way.restorer for way in ways] == [None, None]  # that kernel looks at none


# ------------------------------------------------------------------------------------------------------- restorers


def restored(target: str, edit: Callable[[Sequence[Insn]], Iterable[Insn]]) -> list[Violation]:
    """What is found with a restorer that is edited."""
    program = program_for(target)
    run, deliveries = delivered(program, "leaf", [edited(program, "restorer", edit)])
    assert deliveries.found == run.violations
    assert {v.function for v in run.violations} <= {"restorer"}
    return run.violations


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_with_the_wrong_number(target: str) -> None:
    text = CASES.read_text().replace("syscall SYS_rt_sigreturn()", "syscall SYS_rt_sigreturn + 1()")
    program = compile_source(Source("wrong.tramp", text), [find_target(target)])[target]
    run, _ = delivered(program, "leaf")
    [violation] = run.violations
    kernel = program.target.architecture.signals
    assert kernel is not None
    assert (violation.obligation, violation.function) == ("args", "restorer")
    assert (violation.expected, violation.found) == (kernel.number, kernel.number + 1)


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_moves_the_stack_pointer(target: str) -> None:
    architecture = program_for(target).target.architecture
    s = architecture.sp
    step = architecture.binary("sub", s, s, 16)
    [violation] = restored(target, lambda code: before(code, 0, step))
    assert (violation.obligation, violation.register) == ("sp", s.name)
    assert (violation.expected or 0) - (violation.found or 0) == 16


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_stores(target: str) -> None:
    architecture = program_for(target).target.architecture
    store = architecture.store(
        architecture.allocatable(program_for(target).target.conventions["c"])[0], architecture.sp, 0, 32
    )
    [violation] = restored(target, lambda code: before(code, 0, store))
    assert violation.obligation == "writes"


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_never_calls_the_kernel(target: str) -> None:
    violations = restored(target, lambda code: [insn for insn in code if insn.transfer != "system"])
    assert [v.obligation for v in violations] == ["flow"]


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_returns(target: str) -> None:
    """As a function would: there is nobody to return to."""
    leaf = program_for(target)["leaf"].instructions
    violations = restored(target, lambda _code: leaf[first(leaf, leaving) :])
    assert [v.obligation for v in violations] == ["flow"]
