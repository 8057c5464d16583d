"""`trampoline mutate`: the operators, what kills, what is equivalent, and that a blind judge is found out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import broken
import pytest

from trampoline_dsl import cli
from trampoline_dsl.assemble import AssemblyError, assemble
from trampoline_dsl.judge import Execute
from trampoline_dsl.mutants import Mutant, mutants
from trampoline_dsl.mutate import Mutation, mutate
from trampoline_dsl.pipeline import compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Convention
from trampoline_dsl.targets import default_targets

GO = broken.ROOT / "examples" / "go"
TARGETS = [target.name for target in default_targets()]


def mutation(target: str, file: Path, worlds: int = 4) -> Mutation:
    [found] = mutate(broken.compiled(target, file), worlds=worlds)
    return found


def all_mutants(target: str, file: Path = GO / "crosscall2.tramp") -> Iterator[Mutant]:
    program = broken.compiled(target, file)
    [artifact] = program.own
    return mutants(artifact, program.program, {})


@pytest.mark.parametrize("target", TARGETS)
def test_no_small_mistake_in_crosscall2_goes_unseen(target: str) -> None:
    found = mutation(target, GO / "crosscall2.tramp")
    assert found.survivors == ()
    assert found.problem == ""
    assert sum(found.killed.values()) > 3 * sum(found.equivalent.values())
    assert found.killed["preserve"] >= 2


@pytest.mark.parametrize("target", ["linux/arm64", "linux/386"])
def test_no_small_mistake_in_cgocallback_goes_unseen(target: str) -> None:
    found = mutation(target, GO / "cgocallback.tramp")
    assert found.survivors == ()
    assert {"effect", "args", "sp", "bounds", "writes"} <= found.killed.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_every_instruction_is_dropped_and_gets_other_registers(target: str) -> None:
    [artifact] = broken.compiled(target, GO / "crosscall2.tramp").own
    made = list(all_mutants(target))
    by_operator = Counter(m.operator for m in made)
    assert by_operator["drop"] == artifact.instruction_count
    assert by_operator["frame size"] >= 4
    assert by_operator["register"] > artifact.instruction_count // 2
    assert by_operator["transfer"] >= 1
    assert all(m.instructions != artifact.instructions for m in made)


@pytest.mark.parametrize("target", ["linux/mips64", "linux/ppc64le", "linux/s390x"])
def test_saves_are_narrowed_moved_and_put_into_the_wrong_bank(target: str) -> None:
    operators = {m.operator for m in all_mutants(target)}
    assert {"narrow", "number", "bank", "swap"} <= operators


@pytest.mark.parametrize("target", TARGETS)
def test_branches_go_the_other_way(target: str) -> None:
    program = broken.compiled(target, GO / "cgocallback.tramp")
    [artifact] = program.own
    found = [m for m in mutants(artifact, program.program, {}) if m.operator == "branch"]
    branches = sum(insn.transfer == "branch" for insn in artifact.instructions)
    assert len(found) == 2 * branches > 0
    for mutant in found:
        assert assemble(program.target.architecture, mutant.instructions).code != artifact.code


def test_most_mutants_are_code() -> None:
    for target in ("linux/amd64", "linux/arm", "linux/mips"):
        architecture = broken.compiled(target).target.architecture
        wrong = total = 0
        for mutant in all_mutants(target):
            total += 1
            try:
                assemble(architecture, mutant.instructions)
            except AssemblyError:
                wrong += 1
        assert wrong < total // 10


def test_a_judge_that_does_not_look_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison of kept registers, restores can be left out; the report names them."""
    monkeypatch.setattr(Execute, "_check_preserved", lambda *_, **__: None)
    found = mutation("linux/s390x", GO / "crosscall2.tramp")
    assert "preserve" not in found.killed
    dropped = [s for s in found.survivors if s.operator == "drop"]
    assert any(s.instruction.startswith("ld %f8") for s in dropped)
    assert all(s.source.startswith("crosscall2.tramp:") for s in dropped)
    assert not found.good


def test_callees_that_are_too_kind_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where callees leave a floating point register alone, its restore looks needless."""
    kind = Convention.keeps
    monkeypatch.setattr(Convention, "keeps", lambda self, r: kind(self, r) or (r.name == "f8" and (1 << r.bits) - 1))
    found = mutation("linux/s390x", GO / "crosscall2.tramp")
    assert {s.instruction.split(",")[0] for s in found.survivors} == {"ld %f8"}


def test_an_instruction_that_is_not_needed_survives(tmp_path: Path) -> None:
    file = tmp_path / "needless.tramp"
    file.write_text(
        'trampoline needless(a: uptr) -> uptr using c {\n    asm amd64 { clobbers rcx "mov ecx, 5" }\n    return a\n}\n'
    )
    found = mutation("linux/amd64", file)
    assert [(s.operator, s.instruction) for s in found.survivors if s.operator == "drop"] == [("drop", "mov ecx, 5")]


def test_the_command_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(GO / "crosscall2.tramp")
    assert cli.main(["mutate", file, "--target", "linux/386", "--worlds", "2"]) == 0
    text = capsys.readouterr().out
    assert "crosscall2" in text
    assert " 0 survive, seed 1" in text.splitlines()[-1]
    assert cli.main(["mutate", file, "--target", "linux/386", "--worlds", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [result] = document["results"]
    assert document["format"] == 1
    assert result["target"] == "linux/386"
    assert result["mutants"] == sum(result["killed"].values()) + sum(result["equivalent"].values())
    assert result["survivors"] == []


def test_the_same_seed_finds_the_same() -> None:
    assert mutation("linux/arm", GO / "crosscall2.tramp") == mutation("linux/arm", GO / "crosscall2.tramp")


def test_code_that_is_wrong_already_is_not_mutated(tmp_path: Path) -> None:
    file = tmp_path / "wrong.tramp"
    file.write_text('trampoline wrong(a: uptr) using c { asm amd64 { "mov ebx, 5" } }\n')
    program = compile_module(load_module(broken.read_source(file)), broken.find_target("linux/amd64"))
    [found] = mutate(program, worlds=1)
    assert "original is wrong" in found.problem
    assert not found.good
