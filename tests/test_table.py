"""Tables of entries: every entry leads to its trampoline, which knows by which one it was entered."""

from __future__ import annotations

from dataclasses import replace

import broken
import gnu
import pytest

from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.machine_code import Code
from trampoline_dsl.mutate import mutate
from trampoline_dsl.pipeline import TableArtifact, compile_source
from trampoline_dsl.targets import all_targets, find_target
from trampoline_dsl.verify import Session, verify
from trampoline_dsl.world import entry_of

CASES = broken.ROOT / "tests" / "cases" / "table.tramp"
TARGETS = [name for name, target in all_targets().items() if target.architecture.family != "ppc64"]
MOST = 32768


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_table_enters_knows_the_entry(target: str) -> None:
    assert all(verdict.good for verdict in verify(broken.compiled(target, CASES)))


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64", "linux/arm-soft", "linux/arm64", "linux/mips"])
def test_no_small_mistake_with_a_table_goes_unseen(target: str) -> None:
    for found in mutate(broken.compiled(target, CASES), worlds=4):
        assert found.survivors == ()
        assert not found.problem
        assert found.killed


def whole(table: TableArtifact) -> str:
    return "\n".join(line for line in table.text.splitlines() if not line.startswith(".text"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_has_the_bytes_that_gnu_as_makes_of_it(target: str) -> None:
    program = broken.compiled(target, CASES)
    largest = f"table t[{MOST}] enters f\ntrampoline f() -> uptr using c {{ return table index }}"
    most = compile_source(Source("most.tramp", largest), [find_target(target)])[target]
    for table in (*program.own_tables, *most.own_tables):
        made, relocations = gnu.assemble(find_target(target).architecture, whole(table))
        assert table.code == made[: len(table.code)]
        assert [(r.offset, r.type, r.symbol) for r in table.relocations] == [r[:3] for r in relocations]
        assert len(table.code) == table.stride * table.table.count


# As documented in docs/language.md.
STRIDES = {"386": 5, "amd64": 5, "arm": 8, "arm64": 8, "mips": 8, "mips64": 8, "s390x": 10}


@pytest.mark.parametrize("target", TARGETS)
def test_entries_lie_one_stride_apart(target: str) -> None:
    stride = STRIDES[find_target(target).architecture.name.removesuffix("le")]
    if find_target(target).variant == "soft" and "arm" in target:
        stride = 12  # without movw
    assert {table.stride for table in broken.compiled(target, CASES).own_tables} == {stride}


def test_worlds_enter_by_the_first_the_second_the_last_and_others() -> None:
    table = broken.compiled("linux/amd64", CASES).program.tables["many"]
    entries = [entry_of(table, 1_000_003 + number, 0) for number in range(40)]
    assert entries[:3] == [0, 1, 1999]
    assert len(set(entries[3:])) > 30
    assert all(0 <= entry < 2000 for entry in entries)
    assert {entry_of(replace(table, count=1), 1_000_003 + number, 0) for number in range(9)} == {0}


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64", "linux/arm", "linux/arm64", "linux/mips64le"])
def test_all_entries_lead_there(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred of the two thousand, one after the other."""
    program = broken.compiled(target, CASES)
    session = Session(program)
    function = program["twice"].function
    for number in (*range(0, 2000, 29), 1998, 1999):
        for module in ("world", "entering", "oracle"):
            monkeypatch.setattr(f"trampoline_dsl.{module}.entry_of", lambda *_, entry=number: entry)
        world, trace = session.expected(function, None, 1)
        assert trace.events[0].result is not None
        run = session.execute(function, None, world, trace, 0, scramble=False)
        assert run.violations == []


def test_an_entry_that_leads_elsewhere_is_seen() -> None:
    program = broken.compiled("linux/arm64", CASES)
    session = Session(program)
    table = session.tables["few"]
    wrong = bytearray(table.code)
    wrong[16:20] = wrong[8:12]  # the last entry says what the one before it says
    session.replace(Code(table.name, bytes(wrong), table.relocations, table.instructions, table.offsets, 0, table.file))
    verdict = session.judge(program["dispatch"], 1, 8)
    assert {v.obligation for v in verdict.violations} >= {"args"}


def test_tables_are_built_with_their_trampolines() -> None:
    program = broken.compiled("linux/amd64", CASES)
    assert ".rept 2000\n\tcall twice\n.endr" in program.text
    text = broken.compiled("linux/arm64", CASES).text
    assert "\tmov w12, #0x7cf\n\tb twice\n" in text


def test_there_is_a_reason_where_there_is_no_table() -> None:
    text = "table t[2] enters f\ntrampoline f() using c { return }"
    with pytest.raises(InputError, match="R082"):
        compile_source(Source("t.tramp", text), [find_target("linux/ppc64le")])
