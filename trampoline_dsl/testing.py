"""For tests that people write themselves: compile and judge in one call, and say what is wrong as the command does.

The fixtures of the pytest plugin are these functions; they work as well without pytest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .api import compile_file, compile_text, verify_file, verify_text
from .emulate import Machine
from .pipeline import Compiled
from .render import finding_line, summary, violation_lines
from .targets import find_target
from .verify import DEFAULT_RUNS, Finding, Report, Verdict, verify
from .violation import Violation

Text = str | os.PathLike[str]


@dataclass(frozen=True)
class Judged(Report):
    """A report with an assertion in it."""

    def holds(self, *obligations: str) -> None:
        """Assert that every obligation that applies was seen to hold (or those that are named)."""
        __tracebackhide__ = True
        if not self.verdicts:
            raise AssertionError("there is no trampoline in this file")
        lines: list[str] = []
        for verdict in self.verdicts:
            for name in obligations or verdict.obligations:
                lines += failure_lines(verdict, name)
        if lines:
            raise AssertionError("\n".join([*lines, summary(self)]))


def failure_lines(verdict: Verdict, obligation: str) -> list[str]:
    """What the command prints of an obligation that was violated or not run; nothing if it holds or does not apply."""
    finding: Finding = verdict.obligations[obligation]
    if finding.state in ("held", "not applicable"):
        return []
    shown: list[Violation] = [v for v in verdict.violations if v.obligation == obligation]
    if not shown:
        return [f"{verdict.file}: {verdict.trampoline} on {verdict.target}: {finding_line(obligation, finding)}"]
    lines: list[str] = []
    for violation in shown:
        lines += [*([""] if lines else []), *violation_lines(violation, verdict)]
    return lines


def machine(target: str) -> Machine:
    """An emulator of a target's machine, with no memory mapped yet. Raises InputError if there is no such target."""
    return Machine(find_target(target).architecture)


def compile_any(source: Text, target: str) -> Compiled:
    """Compile a source for a target: a `str` is the source itself, a path names a file. Raises InputError."""
    return compile_text(source, target) if isinstance(source, str) else compile_file(Path(source), target)


def verify_any(
    source: Text | Compiled,
    target: str | Sequence[str] | None = None,
    *,
    seed: int = 1,
    runs: int = DEFAULT_RUNS,
    only: Iterable[str] | None = None,
) -> Judged:
    """Judge the trampolines of a source (or `only` those) on a target, on several, or on all. Raises InputError."""
    if isinstance(source, Compiled):
        if target is not None:
            raise TypeError("what is compiled already has its target")
        return Judged(seed, verify(source, seed=seed, runs=runs, only=only))
    if isinstance(source, str):
        report = verify_text(source, target, seed=seed, runs=runs)
    else:
        report = verify_file(Path(source), target, seed=seed, runs=runs)
    wanted = set(only) if only is not None else None
    return Judged(seed, tuple(v for v in report.verdicts if wanted is None or v.trampoline in wanted))
