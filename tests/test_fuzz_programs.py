"""Random trampolines and those that once went wrong, compiled for every target and judged: every obligation holds.

`python tests/test_fuzz_programs.py START COUNT [TARGET...]` runs more of them, and prints those that fail.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import pytest
from programs import program

from trampoline_dsl.diagnostics import InputError, Source, read_source
from trampoline_dsl.pipeline import compile_module
from trampoline_dsl.resolve import check_module, load_module
from trampoline_dsl.target import Target
from trampoline_dsl.targets import all_targets, default_targets, find_target
from trampoline_dsl.verify import verify

FIXED = sorted((Path(__file__).parent / "fixedbugs").glob("*.tramp"))
TARGETS = [target.name for target in default_targets()]
FIRST = int(os.environ.get("TRAMPOLINE_FUZZ_SEED", "1"))
COUNT = int(os.environ.get("TRAMPOLINE_FUZZ_COUNT", "8"))

# What a well-formed program may be refused for on a machine: a register that jumps cannot take an argument in.
REFUSALS = {"L004"}


def problems(source: Source, target: Target, runs: int) -> list[str]:
    """What is wrong with a program on a target, in words. A path that never ran is not."""
    module = load_module(source)
    check_module(module)
    try:
        compiled = compile_module(module, target)
    except InputError as error:
        return [str(d) for d in error.diagnostics if d.code not in REFUSALS]
    found = []
    for verdict in verify(compiled, runs=runs):
        found += [f"{v.function}: {v.obligation}: {v.message} at {v.instruction}" for v in verdict.violations]
        for name, finding in verdict.obligations.items():
            if finding.state == "not run" and "never ran" not in finding.reason:
                found.append(f"{verdict.trampoline}: {name} was not run: {finding.reason}")
    return found


@pytest.mark.parametrize(
    ("path", "target"),
    [pytest.param(p, t, id=f"{p.stem}-{t}") for p, t in itertools.product(FIXED, all_targets())],
)
def test_fixed_bugs_stay_fixed(path: Path, target: str) -> None:
    assert problems(read_source(path), find_target(target), 6) == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_random_programs_keep_every_obligation(seed: int, target: str) -> None:
    text = program(seed)
    assert problems(Source(f"seed{seed}.tramp", text), find_target(target), 4) == [], text


def main(first: int, count: int, names: list[str]) -> int:
    failed = 0
    for seed, name in itertools.product(range(first, first + count), names or TARGETS):
        try:
            found = problems(Source(f"seed{seed}.tramp", program(seed)), find_target(name), 4)
        except Exception as error:  # whatever it is, it is a defect, and the next seed is to be tried
            found = [f"{type(error).__name__}: {error}"]
        if found:
            failed += 1
            print(seed, name, len(found), found[0][:300], flush=True)
    print(f"{count} programs from {first}: {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
