"""Signals, tracebacks and threads in a Go program with C in it: programs/signals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.outside.toolchain import Ran, Toolchain

SOURCES = Path(__file__).parent / "programs" / "signals"


@dataclass(frozen=True)
class Expected:
    status: int
    output: str  # a regular expression


_DONE = Expected(0, r"^done$")

EXPECTED = {
    "callers": _DONE,
    "dereference": _DONE,
    "notify Go": _DONE,
    "notify C": _DONE,
    "notify thread": _DONE,
    "threads": _DONE,
    "fault in Go": Expected(
        2, r"panic: runtime error: invalid memory address or nil pointer dereference\n(.*\n)*.*main\.main"
    ),
    "fault in C": Expected(2, r"(?s)SIGSEGV: segmentation violation.*main\._Cfunc_fault.*main\.main"),
    "forward": Expected(42, r"^forwarded$"),
}


def build(toolchain: Toolchain, program: Path, *, overlay: Path | None = None) -> str:
    options = [f"-overlay={overlay}"] if overlay else []
    built = toolchain.go("build", *options, "-o", program, ".", cwd=SOURCES)
    return "" if built.status == 0 else f"go build: status {built.status}\n{built.output}"


def why_wrong(ran: Ran, expected: Expected) -> str | None:
    if ran.status is None:
        return f"did not end in {ran.seconds:.0f} s"
    if ran.status != expected.status:
        return f"status {ran.status} instead of {expected.status}\n{ran.output[:3000]}"
    if not re.search(expected.output, ran.output, re.MULTILINE):
        return f"the output has no {expected.output!r}\n{ran.output[:3000]}"
    return None


def perform(toolchain: Toolchain, program: Path) -> tuple[list[str], list[str]]:
    """Run every mode, a second time if it fails. Returns what went wrong, and what went right at the second time."""
    wrong, again = [], []
    for mode, expected in EXPECTED.items():
        environment = {**toolchain.environment, **({"SIGNALS_FORWARD": "1"} if mode == "forward" else {})}
        for attempt in (1, 2):
            ran = toolchain.execute(program, mode, timeout=60, environment=environment)
            reason = why_wrong(ran, expected)
            if reason is None:
                break
            if attempt == 1:
                again.append(mode)
            else:
                again.remove(mode)
                wrong.append(f"{mode}: {reason}")
    return wrong, again
