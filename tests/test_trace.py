"""A run, followed: what it names, which stack it says, what callees do, and where it says that something went wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from trampoline_dsl.api import compile_file, compile_text
from trampoline_dsl.assemble import assemble
from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import InputError
from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.targets import default_targets
from trampoline_dsl.trace import Answered, Called, Entered, Executed, Left, TracedRun, trace
from trampoline_dsl.verify import Code, code_of

GO = Path(__file__).parent.parent / "examples" / "go"
TARGETS = [target.name for target in default_targets()]
STACKS = "three callbacks deep, through C and back"

SUM = """
extern notify(a: ptr, b: uptr) -> uptr using c

trampoline bridge(a: ptr, b: uptr) -> uptr using c {
    let first = call notify(a, b)
    return first
}
"""


def executed(run: TracedRun) -> list[Executed]:
    return [step for step in run.steps if isinstance(step, Executed)]


def without(compiled: Compiled, name: str, dropped: Sequence[int]) -> dict[str, Code]:
    """The code without some of its instructions, by their number."""
    artifact = compiled[name]
    kept = tuple(insn for i, insn in enumerate(artifact.instructions) if i not in dropped)
    made = assemble(artifact.target.architecture, kept)
    return {
        name: replace(
            code_of(artifact),
            code=made.code,
            relocations=made.relocations,
            instructions=kept,
            offsets=made.offsets,
        )
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_instruction_of_a_straight_run_is_there_once_and_in_order(target: str) -> None:
    compiled = compile_file(GO / "crosscall2.tramp", target)
    run = trace(compiled)
    assert run.good
    artifact = compiled["crosscall2"]
    own = [
        (offset, insn.text)
        for insn, offset in zip(artifact.instructions, artifact.offsets, strict=True)
        if insn.label is None
    ]
    assert [(step.offset, step.text) for step in executed(run)] == own


@pytest.mark.parametrize("target", TARGETS)
def test_arguments_saved_registers_and_the_stack_are_named(target: str) -> None:
    text = str(trace(compile_file(GO / "crosscall2.tramp", target)))
    assert re.search(r"calls runtime\.cgocallback\(fn = (fn|0), frame = (a|0), ctxt = (ctxt|[01])\)", text)
    assert " at entry" in text
    assert " = CFA - " in text
    assert "return address" in text or "esp = CFA" in text or "rsp = CFA" in text
    assert text.endswith("every obligation held in this run")


@pytest.mark.parametrize("target", TARGETS)
def test_nested_activations_are_indented_and_stacks_told(target: str) -> None:
    run = trace(compile_file(GO / "cgocallback.tramp", target), check=STACKS, runs=2)
    assert run.good
    depths = [step.depth for step in run.steps if isinstance(step, Entered)]
    assert depths == [0, 1, 2, 3, 4]
    assert {step.stack for step in executed(run)} == {"the caller's stack", "goroutine"}
    text = str(run)
    assert "-- on the stack goroutine, sp = goroutine.top - " in text
    assert "the check: gp.sched.sp = goroutine.top - " in text
    assert "(savedm)] = thread" in text
    assert "[g0.sched.sp] = CFA - " in text
    assert "    crosscall2(fn = " in text


def test_branches_say_whether_they_were_taken() -> None:
    for target in ("linux/386", "linux/arm64", "linux/mips64", "linux/s390x"):
        for check, taken in (("a thread that has", True), ("did not create", False)):
            run = trace(compile_file(GO / "cgocallback.tramp", target), check=check, runs=2)
            (first, *_) = [step for step in executed(run) if step.taken is not None]
            assert first.taken is taken, target


def test_a_result_is_followed_to_the_return() -> None:
    run = trace(compile_text(SUM, "linux/arm64"))
    (answered,) = [step for step in run.steps if isinstance(step, Answered)]
    last = run.steps[-1]
    assert isinstance(last, Left)
    assert answered.result is not None
    assert last.result is not None
    assert last.result.value == answered.result.value
    assert last.result.meaning == "result of notify"


def test_a_lost_register_is_marked_where_it_changed_last() -> None:
    compiled = compile_file(GO / "crosscall2.tramp", "linux/s390x")
    number = next(i for i, insn in enumerate(compiled["crosscall2"].instructions) if insn.text.startswith("ld %f9"))
    run = trace(compiled, codes=without(compiled, "crosscall2", [number]))
    (violation,) = run.violations
    assert (violation.obligation, violation.register) == ("preserve", "f9")
    lost = next(step for step in run.steps if step.marks)
    assert isinstance(lost, Answered)
    assert lost.callee == "runtime.cgocallback"
    assert lost.marks == ["the last change of f9: violated[preserve]"]
    assert [v.register for v in run.steps[-1].violations] == ["f9"]
    text = str(run)
    assert "crosscall2 returns\n          ^ violated[preserve]: f9 was " in text
    assert re.search(r"\n  = at crosscall2\+0x\w+: brasl %r14, runtime\.cgocallback\n", text)


def test_a_wrong_argument_is_told_at_the_call() -> None:
    name = "runtime.cgocallback"
    compiled = compile_file(GO / "cgocallback.tramp", "linux/amd64")
    instructions = compiled[name].instructions
    call = next(i for i, insn in enumerate(instructions) if insn.text == "call runtime.cgocallbackg")
    number = max(i for i in range(call) if instructions[i].access is not None and instructions[i].memory == "write")
    run = trace(compiled, codes=without(compiled, name, [number]))
    called = next(step for step in run.steps if step.violations)
    assert isinstance(called, Called)
    assert called.callee == "runtime.cgocallbackg"
    assert called.violations[0].obligation == "args"


def test_a_store_to_the_wrong_place_is_told_at_the_instruction() -> None:
    compiled = compile_file(GO / "crosscall2.tramp", "linux/s390x")
    artifact = compiled["crosscall2"]
    number = next(i for i, insn in enumerate(artifact.instructions) if insn.text.startswith("aghi"))
    run = trace(compiled, codes=without(compiled, "crosscall2", [number]))
    first = next(step for step in run.steps if step.violations or step.marks)
    assert isinstance(first, (Executed, Called))
    assert not run.good


@pytest.mark.parametrize("target", ["linux/mips", "linux/amd64"])
def test_json_has_every_step(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(GO / "cgocallback.tramp"), "--target", target, "--check", STACKS, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["trampoline"] == "runtime.cgocallback"
    assert document["check"] == STACKS
    kinds = {step["kind"] for step in document["steps"]}
    assert kinds == {"instruction", "call", "script", "answer", "enter", "return"}


def test_a_trace_is_of_one_trampoline_on_one_target(capsys: pytest.CaptureFixture[str]) -> None:
    two = "trampoline first() using c { }\ntrampoline second() using c { }\n"
    compiled = compile_text(two, "linux/386")
    with pytest.raises(InputError, match="several trampolines"):
        trace(compiled)
    with pytest.raises(InputError, match="did you mean `second`"):
        trace(compiled, "secnd")
    assert trace(compiled, "second").good
    assert main(["trace", str(GO / "crosscall2.tramp")]) == 2
    assert "name one --target: linux/386 " in capsys.readouterr().err
    assert main(["trace", str(GO / "crosscall2.tramp"), "--target", "arm", "--target", "386"]) == 2
    assert "a trace is of one target, not of 2" in capsys.readouterr().err


def test_a_check_is_found_by_a_part_of_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["trace", str(GO / "cgocallback.tramp"), "--target", "386", "--check"]
    assert main([*command, "DEEP"]) == 0
    assert 'check "three callbacks deep, through C and back"' in capsys.readouterr().out
    assert main([*command, "thread"]) == 2
    assert "several checks called `thread`" in capsys.readouterr().err
    assert main([*command, "nothing like it"]) == 2
    assert "there is `a thread that has a g`" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_trace() -> None:
    compiled = compile_file(GO / "cgocallback.tramp", "linux/ppc64")
    assert str(trace(compiled, seed=3, runs=2)) == str(trace(compiled, seed=3, runs=2))
    assert str(trace(compiled, seed=3, runs=2)) != str(trace(compiled, seed=4, runs=2))
