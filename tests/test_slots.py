"""Structs in the frame: memory that callees are given, wherever the compiler puts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import broken
import pytest

from trampoline_dsl.diagnostics import Source
from trampoline_dsl.mutate import mutate
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import default_targets, find_target
from trampoline_dsl.verify import Session, Verdict, verify

CASES = broken.ROOT / "tests" / "cases" / "slots.tramp"
TARGETS = [target.name for target in default_targets()]


@pytest.mark.parametrize("target", TARGETS)
def test_callees_find_and_change_what_is_in_the_frame(target: str) -> None:
    assert all(verdict.good for verdict in verify(broken.compiled(target, CASES)))


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64", "linux/arm", "linux/mips64", "linux/s390x"])
def test_no_small_mistake_with_a_struct_in_the_frame_goes_unseen(target: str) -> None:
    [found] = mutate(broken.compiled(target, CASES), worlds=4)
    assert found.survivors == ()
    assert {"effect", "args"} <= found.killed.keys()


def judged(places: Mapping[str, int]) -> Verdict:
    """The verdict on code whose compiler says that its structs are elsewhere."""
    program = broken.compiled("linux/amd64", CASES)
    session = Session(program)
    said = {**session.build.slots["ask"], **places}
    session.build = replace(session.build, slots={"ask": said})
    session.bench.build = session.build
    return session.judge(program["ask"], 1, 2)


def test_it_is_the_judge_that_believes_no_place() -> None:
    program = broken.compiled("linux/amd64", CASES)
    places, frame = program["ask"].slots, program["ask"].frame.size
    assert judged({}).good
    wrong = {-8: "not within the frame", frame - 8: "not within the frame", places["first"]: "is where"}
    for where, why in wrong.items():
        assert why in broken.found(judged({"second": where}), "bounds").message
    assert "aligned" in broken.found(judged({"second": places["second"] + 4}), "bounds").message
    assert {v.obligation for v in judged({"second": places["second"] + 8}).violations} >= {"args"}


def test_a_field_that_nobody_has_set_is_not_read() -> None:
    text = """
    struct pair { a: uptr  b: uptr }
    extern fill(p: ptr<pair>) using c
    trampoline t() -> uptr using c { frame { p: pair }  p.a = 1  call fill(&p)  return p.b }
    """
    target = find_target("linux/amd64")
    program = compile_source(Source("t.tramp", text), [target])[target.name]
    [verdict] = verify(program)
    assert verdict.obligations["effect"].state == "not run"
    assert "`p.b` is read, and nobody has set it" in verdict.obligations["effect"].reason
    filled = text + "check t { on fill(p) { p.b = any } }"
    assert verify(compile_source(Source("t.tramp", filled), [target])[target.name])[0].good
