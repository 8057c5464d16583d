"""What the benchmarks share. Every number is a ratio of two things measured in the same run."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trampoline_dsl.diagnostics import Source, read_source
from trampoline_dsl.target import Target

ROOT = Path(__file__).resolve().parent.parent
BEGINNING = re.compile(r"^ *trampoline [^{]*\{", re.MULTILINE)  # of a trampoline, `when` around it or not


def processor_seconds() -> float:
    """What this process, and those that it has started and that have ended, have used of the processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def seconds(work: Callable[[], object], runs: int = 10, clock: Callable[[], float] = processor_seconds) -> float:
    """The shortest of some runs, in processor time: what others do on the machine adds to it, but not much."""
    best = float("inf")
    for _ in range(runs):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


EXAMPLES = (ROOT / "examples" / "c", ROOT / "examples" / "go")


def examples() -> list[Source]:
    """The example files that have trampolines; examples/contracts is for audits, and mostly of declarations."""
    sources = [read_source(path) for folder in EXAMPLES for path in sorted(folder.glob("*.tramp"))]
    return [source for source in sources if BEGINNING.search(source.text)]


def assembler(target: Target) -> Sequence[str] | None:
    """GNU as for a target; None, said once, where there is none or it is not installed."""
    command = target.architecture.gnu_as
    if not command[0].endswith("as"):
        print(f"{target.name}: skipped, its assembler is {command[0]}")
        return None
    if shutil.which(command[0]) is None:
        print(f"{target.name}: skipped, there is no {command[0]} here")
        return None
    return command


def run(command: Sequence[str | Path], **environment: str) -> None:
    """A process that has to succeed. Python may keep its bytecode, as it does for everybody."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**inherited, **environment})


def trampoline(*arguments: str | Path) -> list[str | Path]:
    """The command, as a process of this Python."""
    return [sys.executable, "-m", "trampoline_dsl", *arguments]


def verdict(what: str, ratio: float, most: float) -> None:
    """One line: a ratio and what it should not exceed."""
    word = "within" if ratio <= most else "ABOVE"
    print(f"{what}: {ratio:.2f} ({word} the target of {most:g})")
