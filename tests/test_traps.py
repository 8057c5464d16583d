"""`trap`: the machine has to run into that very instruction, with everything as the source has it there."""

from __future__ import annotations

import broken
import pytest
from broken import found, judge

from trampoline_dsl.api import compile_text
from trampoline_dsl.mutate import mutate
from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.target import Insn
from trampoline_dsl.targets import default_targets
from trampoline_dsl.verify import verify

CASES = broken.ROOT / "tests" / "cases" / "traps.tramp"
TARGETS = [target.name for target in default_targets()]


def compiled(target: str) -> Compiled:
    return broken.compiled(target, CASES)


def trapping(insn: Insn) -> bool:
    return insn.transfer == "trap"


@pytest.mark.parametrize("target", TARGETS)
def test_a_trap_ends_a_run_as_it_should(target: str) -> None:
    verdicts = verify(compiled(target))
    assert [verdict.trampoline for verdict in verdicts if not verdict.good] == []
    assert len(verdicts) == 3


@pytest.mark.parametrize("target", TARGETS)
def test_a_trap_takes_one_instruction_and_no_frame(target: str) -> None:
    nothing = compiled(target)["nothing"]
    assert nothing.instruction_count == 1
    assert nothing.frame.size == (nothing.target.architecture.word if "86" in target or "amd64" in target else 0)


@pytest.mark.parametrize("target", TARGETS)
def test_no_small_mistake_before_a_trap_goes_unseen(target: str) -> None:
    mutations = {one.trampoline: one for one in mutate(compiled(target), worlds=4)}
    assert mutations["nothing"].survivors == ()
    assert sum(mutations["nothing"].killed.values()) >= 1
    assert mutations["fail"].survivors == ()


@pytest.mark.parametrize("target", TARGETS)
def test_a_return_in_the_place_of_a_trap_is_seen(target: str) -> None:
    program = compiled(target)
    artifact = program["nothing"]
    leave = [*program.target.architecture.improve(list(program.target.architecture.leave(artifact.frame, 0)))]
    assert "where the source traps" in found(judge(program, "nothing", leave), "effect").message


@pytest.mark.parametrize("target", TARGETS)
def test_a_trap_in_the_place_of_a_call_is_seen(target: str) -> None:
    program = compiled(target)
    code = program["fail"].instructions
    index = broken.first(code, broken.calling)
    early = [*code[:index], *program.target.architecture.trap(), *code[index:]]
    assert "traps, where the source calls report" in found(judge(program, "fail", early), "effect").message


@pytest.mark.parametrize("target", TARGETS)
def test_a_trap_that_the_source_has_not_is_seen(target: str) -> None:
    program = compiled(target)
    code = program["fail"].instructions
    index = broken.first(code, broken.leaving)
    early = [*code[:index], *program.target.architecture.trap(), *code[index:]]
    assert found(judge(program, "fail", early), "flow").instruction == code[broken.first(code, trapping)].text


@pytest.mark.parametrize("target", TARGETS)
def test_a_stack_pointer_that_is_elsewhere_at_a_trap_is_seen(target: str) -> None:
    program = compiled(target)
    architecture = program.target.architecture
    step = architecture.binary("sub", architecture.sp, architecture.sp, 16)
    assert found(judge(program, "nothing", [*step, *program["nothing"].instructions]), "sp").message


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_said_of_what_is_never_given_back(target: str) -> None:
    """Only what has a known value at every call and return is looked at where control leaves by `resume`."""
    program = compile_text(
        """
trampoline stops() using c { trap }
trampoline leaves(stack: uptr, pc: uptr, way: uptr) using c { if way & 16 == 0 { trap } else { resume stack, pc } }
trampoline may_return(stack: uptr, pc: uptr, way: uptr) using c { if way & 16 != 0 { resume stack, pc } }
""",
        target,
    )
    found = {verdict.trampoline: verdict.obligations["preserve"] for verdict in verify(program)}
    fixed = bool(program.target.conventions["c"].fixed)
    assert (found["stops"].state, found["stops"].reason) == ("not applicable", "it never returns")
    assert found["leaves"].state == ("held" if fixed else "not applicable")
    assert found["leaves"].reason == (
        "" if fixed else "it leaves by `resume` alone, and c has no registers of known values"
    )
    assert found["may_return"].state == "held"


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_no_code_behind_ways_that_all_leave(target: str) -> None:
    """It would never run, and nothing be called held."""
    verdicts = verify(broken.compiled(target, broken.ROOT / "tests" / "fixedbugs" / "ways_that_all_leave.tramp"))
    assert [verdict.trampoline for verdict in verdicts if not verdict.good] == []
    assert len(verdicts) == 4
