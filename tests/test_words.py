"""Any number of arguments: side by side in memory, wherever they arrive, and taken off the stack by those who know."""

from __future__ import annotations

import runpy

import broken
import gnu
import pytest

from trampoline_dsl.api import compile_text
from trampoline_dsl.diagnostics import InputError
from trampoline_dsl.mutate import mutate
from trampoline_dsl.targets import all_targets
from trampoline_dsl.verify import Session, verify
from trampoline_dsl.world import MOST_WORDS

CASES = broken.ROOT / "tests" / "cases" / "words.tramp"
CALLBACKS = broken.ROOT / "examples" / "go" / "callbackasm.tramp"
WITH_WORDS = {"386", "arm", "arm64", "mips", "mipsle", "ppc64"}
TARGETS = [n for n, t in all_targets().items() if t.os == "windows" or t.architecture.name in WITH_WORDS]
TARGETS.remove("linux/ppc64-elfv2")
WINDOWS = [name for name in TARGETS if name.startswith("windows/")]


@pytest.mark.parametrize("target", TARGETS)
def test_all_words_are_found(target: str) -> None:
    verdicts = verify(broken.compiled(target, CASES))
    assert len(verdicts) == 3
    assert all(verdict.good for verdict in verdicts), [v.violations or v.obligations for v in verdicts]


@pytest.mark.parametrize("target", TARGETS)
def test_the_code_has_the_bytes_that_gnu_as_makes_of_it(target: str) -> None:
    for artifact in broken.compiled(target, CASES).own:
        assert gnu.assemble(artifact.target.architecture, artifact.text)[0] == artifact.code


@pytest.mark.parametrize("target", ["linux/386", "linux/arm", "linux/arm64", "linux/mips", *WINDOWS])
def test_no_small_mistake_goes_unseen(target: str) -> None:
    for found in mutate(broken.compiled(target, CASES), worlds=4):
        assert (found.survivors, found.problem) == ((), "")


@pytest.mark.parametrize("target", WINDOWS)
def test_no_small_mistake_in_callbacks_goes_unseen(target: str) -> None:
    """In callbackasm1, nor in the entries that lead there."""
    one, table = mutate(broken.compiled(target, CALLBACKS), worlds=4)
    assert (one.survivors, one.problem, table.survivors, table.problem) == ((), "", (), "")
    assert one.killed["preserve"]
    assert table.killed


def test_as_many_words_as_that_are_passed() -> None:
    program = broken.compiled("windows/amd64", CASES)
    session = Session(program)
    counts = {len(session.expected(program["receive"].function, None, 1_000_003 + n)[0].words) for n in range(60)}
    assert counts == set(range(MOST_WORDS + 1))


WRONG_POP = """
extern bytes() -> uptr using c
trampoline t(...) -> uptr using c { let n = call bytes()  return 1 popping n }
check t { on bytes() { return %s } }
"""


@pytest.mark.parametrize("amount", ["2", "4 * argument count + 4"])
def test_who_pops_more_than_was_passed_is_told(amount: str) -> None:
    [verdict] = verify(compile_text(WRONG_POP % amount, "linux/386"))
    assert "the source pops" in verdict.obligations["sp"].reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("linux/amd64", "the return address"),
        ("linux/mips64", "no place below"),
        ("linux/ppc64le", "leaves no room"),
        ("linux/s390x", "leaves no room"),
    ],
)
def test_there_is_a_reason_where_words_cannot_lie_side_by_side(target: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"R084.*{reason}"):
        compile_text("trampoline t(...) using c { return }", target)


def test_the_table_of_sizes_has_callbackasm1() -> None:
    sizes = runpy.run_path(str(broken.ROOT / "benchmarks" / "sizes.py"))
    assert set(sizes["GO"]["runtime.callbackasm1"]) == set(WINDOWS)
