"""The pytest plugin, in pytest runs of its own: what it collects, what it leaves alone, and what a failure says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trampoline_dsl.emulate import Machine
from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.testing import verify_any

pytest_plugins = ["pytester"]

GOOD = """
extern notify(a: ptr, b: uptr) using c

trampoline bridge(a: ptr, b: uptr) using c {
    call notify(a, b)
}
"""

# The check asks for more than the trampoline does.
FORGETS = """
struct box { value: uptr }
extern notify(a: ptr<box>) using c

trampoline bridge(a: ptr<box>) using c {
    call notify(a)
}

check bridge "puts the value back" {
    new b: box
    var before: uptr = any
    given {
        a = b
        b.value = before
    }
    on notify(p) { p.value = before + 1 }
    finally { expect b.value == before }
}
"""


ON_S390X = "--trampoline-target=linux/s390x"


def run(pytester: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    """Run pytest without Hypothesis's plugin, which would be imported anew each time."""
    return pytester.runpytest("-p", "no:hypothesispytest", *arguments)


def test_a_named_file_becomes_one_item_for_each_trampoline_target_and_obligation(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bridge.tramp").write_text(GOOD)
    result = run(pytester, "bridge.tramp", "--trampoline-target=s390x", "--trampoline-target=linux/386", "-v")
    result.assert_outcomes(passed=24, skipped=2)
    result.stdout.fnmatch_lines(
        ["bridge.tramp::bridge::linux/s390x::preserve PASSED*", "bridge.tramp::bridge::linux/386::effect PASSED*"]
    )


def test_a_trampoline_for_other_targets_is_no_item(pytester: pytest.Pytester) -> None:
    text = "when 386 { trampoline one() using c { } } else { trampoline two() using c { } }"
    pytester.path.joinpath("some.tramp").write_text(text)
    result = run(pytester, "some.tramp", "--trampoline-target=linux/386", "--trampoline-target=s390x", "-v")
    result.stdout.fnmatch_lines(
        ["some.tramp::one::linux/386::flow PASSED*", "some.tramp::two::linux/s390x::flow PASSED*"]
    )
    result.stdout.no_fnmatch_line("some.tramp::one::linux/s390x*")


def test_items_can_be_chosen_by_their_names(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bridge.tramp").write_text(GOOD)
    run(pytester, "bridge.tramp::bridge::linux/arm64::sp").assert_outcomes(passed=1)
    run(pytester, "bridge.tramp::bridge::linux/arm64").assert_outcomes(passed=12, skipped=1)
    run(pytester, "bridge.tramp", "-k", "arm64 and below").assert_outcomes(passed=2)


def test_files_that_nobody_asked_for_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bridge.tramp").write_text("this is no trampoline {")
    pytester.makepyfile("def test_nothing(): pass")
    run(pytester).assert_outcomes(passed=1)
    run(pytester, pytester.path).assert_outcomes(passed=1)


@pytest.mark.parametrize("way", ["option", "configuration"])
def test_a_project_can_ask_for_all_of_its_files(pytester: pytest.Pytester, way: str) -> None:
    pytester.path.joinpath("bridge.tramp").write_text('import "shared.tramp"\n' + GOOD)
    pytester.path.joinpath("shared.tramp").write_text("struct pair { first: uptr  second: uptr }\n")
    arguments = [ON_S390X]
    if way == "option":
        arguments.append("--trampoline")
    else:
        pytester.makeini("[pytest]\ntrampoline = true\n")
    run(pytester, *arguments).assert_outcomes(passed=12, skipped=1)


def test_headers_are_taken_from_the_folders_that_are_named(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("header.tramp").write_text(
        'struct s from "offsets.h" { a: u32 }\n'
        "trampoline get(p: ptr<s>) -> u32 using c { return p.a }\n"
        "check get { new o: s  given { p = o } }\n"
    )
    pytester.mkdir("headers").joinpath("offsets.h").write_text("#define s_a 8\n")
    run(pytester, "header.tramp", ON_S390X).assert_outcomes(errors=1)
    run(pytester, "header.tramp", ON_S390X, "--trampoline-include=headers").assert_outcomes(passed=10, skipped=3)


def test_a_violation_reads_as_the_command_prints_it(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bridge.tramp").write_text(FORGETS)
    result = run(pytester, "bridge.tramp", ON_S390X, "--trampoline-seed=7", "--trampoline-runs=4")
    result.assert_outcomes(passed=11, failed=1, skipped=1)
    output = result.stdout.str()
    assert "bridge.tramp:17:22: violated[effect]: bridge on linux/s390x: the source itself does not meet" in output
    assert "  = at bridge+" in output
    assert '  = in the check "puts the value back"\n' in output
    assert "  = seed 7, " in output
    assert "Traceback" not in output
    assert "pytest_plugin.py" not in output


def test_what_was_not_run_is_a_failure_and_says_why(pytester: pytest.Pytester) -> None:
    never = "trampoline pick(a: u8) -> u32 using c { if (a as u32) > 300 { return 1 } return 2 }"
    pytester.path.joinpath("never.tramp").write_text(never)
    result = run(pytester, "never.tramp::pick::linux/s390x::sp")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["never.tramp: pick on linux/s390x: sp: not run (*paths never ran*)"])


def test_wrong_input_is_a_collection_error_with_the_diagnostics(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("wrong.tramp").write_text("trampoline f(a: ptr) using c { call nobody(a) }\n")
    result = run(pytester, "wrong.tramp")
    result.assert_outcomes(errors=1)
    output = result.stdout.str()
    assert "wrong.tramp:1:37: error[" in output
    assert "1 | trampoline f(a: ptr) using c { call nobody(a) }" in output
    assert "Traceback" not in output


def test_text_that_does_not_assemble_is_a_collection_error(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("wrong.tramp").write_text('trampoline f() using c { asm arm { "frobnicate r1" } }\n')
    result = run(pytester, "wrong.tramp")
    result.assert_outcomes(errors=1)
    assert "wrong.tramp:1:36: error[A001]: " in result.stdout.str()


def test_a_misspelt_target_is_refused_with_the_right_one(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--trampoline-target=linux/s360x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no target `linux/s360x`", "*did you mean `linux/s390x`?"])


def test_the_plugin_costs_nothing_when_it_is_not_used() -> None:
    script = (
        "import pytest, sys; before = set(sys.modules); import trampoline_dsl.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["trampoline_dsl", "trampoline_dsl.pytest_plugin"]


# ------------------------------------------------------------------------------------------------------------ fixtures


def test_the_machine_fixture_gives_a_machine(trampoline_machine: type[Machine]) -> None:
    machine = trampoline_machine("linux/s390x")  # type: ignore[arg-type]  # it is given a target's name
    assert machine.architecture.name == "s390x"


def test_the_compile_fixture_takes_text_and_files(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bridge.tramp").write_text(GOOD)
    pytester.makepyfile(
        f"""
        from pathlib import Path

        def test_both(trampoline_compile):
            text = trampoline_compile({GOOD!r}, "linux/arm")
            file = trampoline_compile(Path("bridge.tramp"), "linux/arm")
            assert text["bridge"].code == file["bridge"].code
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_the_verify_fixture_asserts_with_the_commands_words(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        def test_good(trampoline_verify):
            trampoline_verify({GOOD!r}).holds()

        def test_bad(trampoline_verify):
            trampoline_verify({FORGETS!r}).holds()

        def test_other_obligations(trampoline_verify):
            trampoline_verify({FORGETS!r}).holds("sp", "align")
        """
    )
    result = run(pytester, ON_S390X)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*<text>:17:22: violated[[]effect]: bridge on linux/s390x: *"])
    assert "testing.py" not in result.stdout.str()


def test_what_is_compiled_can_be_judged_without_pytest() -> None:
    from trampoline_dsl.testing import compile_any

    compiled: Compiled = compile_any(GOOD, "linux/ppc64le")
    verify_any(compiled, runs=2).holds()
    with pytest.raises(TypeError, match="already has its target"):
        verify_any(compiled, "linux/arm")


def test_a_file_is_told_from_a_source(tmp_path: Path) -> None:
    path = tmp_path / "bridge.tramp"
    path.write_text(GOOD)
    (verdict,) = verify_any(path, "linux/mips", runs=2).verdicts
    assert verdict.file == str(path)
