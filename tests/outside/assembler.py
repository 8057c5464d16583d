"""Go's assembler and `go vet` over the examples as `--syntax plan9` writes them, and the judge over Go's objects."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import go_tools
import gos_assembler

from tests.outside.options import add_targets
from tests.outside.records import Cell
from trampoline_dsl.target import Target

_COLUMNS: tuple[tuple[str, str, Callable[[Target, go_tools.Go, Path], int]], ...] = (
    ("go asm", "{} files", gos_assembler.assembled),
    ("go vet", "{} functions", gos_assembler.vetted),
    ("Go's object judged", "{} trampolines", gos_assembler.judged),
)


def options(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, [target.name for target in gos_assembler.TARGETS])


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    known = go_tools.distributions()
    for target in gos_assembler.TARGETS:
        if chosen.target and target.name not in chosen.target:
            continue
        if not known:
            yield Cell(target.name, "go asm", "failed", "no Go distribution is installed")
        for title, text, check in _COLUMNS:
            yield from _asked(target, known, title, text, check)


def _asked(
    target: Target,
    known: tuple[go_tools.Go, ...],
    title: str,
    text: str,
    check: Callable[[Target, go_tools.Go, Path], int],
) -> Iterator[Cell]:
    """One cell for all distributions."""
    versions = " ".join(go.name for go in known)
    counts = set()
    for go in known:
        with tempfile.TemporaryDirectory(prefix="outside-") as folder:
            try:
                counts.add(check(target, go, Path(folder)))
            except (AssertionError, subprocess.TimeoutExpired) as error:
                yield Cell(target.name, title, "failed", f"{go.name}: {error}")
                return
    if known:
        yield Cell(target.name, title, "held", f"{text.format(max(counts))} ({versions})")
