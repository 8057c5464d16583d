"""Into Go itself: crosscall2, cgocallback, sigtramp, sigfwd and cgoSigtramp of Go's runtime replaced by ours."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tests.outside import go_overlay, go_own, go_signals, sentinel
from tests.outside.options import add_go, add_targets, with_go
from tests.outside.records import Cell
from tests.outside.toolchain import MACHINES, NO_CGO, Missing, Toolchain


def options(parser: argparse.ArgumentParser) -> None:
    add_go(parser)
    add_targets(parser, [*MACHINES, *NO_CGO])
    parser.add_argument(
        "--everything", action="store_true", help="all of Go's tests of cgo, under qemu-user too (natively always)"
    )


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    targets = chosen.target or [*MACHINES, *NO_CGO]
    with with_go(chosen) as (distributions, work):
        for distribution in distributions:
            for target in targets:
                if target in NO_CGO:
                    yield Cell(target, f"{distribution.title}: own tests", "not applicable", NO_CGO[target])
                    continue
                toolchain = Toolchain(distribution, MACHINES[target], work)
                yield from _target(toolchain, everything=chosen.everything)


def _target(toolchain: Toolchain, *, everything: bool) -> Iterator[Cell]:
    target, distribution = toolchain.machine.target, toolchain.distribution
    folder = toolchain.work / distribution.version / toolchain.machine.goarch
    own, registers, signals = (f"{distribution.title}: {what}" for what in ("own tests", "registers", "signals"))
    try:
        toolchain.check()
        overlay = go_overlay.overlay(toolchain, folder)
    except (Missing, go_overlay.Refused) as error:
        yield Cell(target, own, "failed", str(error))
        return
    yield _own(toolchain, folder, overlay, own, everything=everything or not toolchain.machine.runner)
    yield _registers(toolchain, folder, overlay, registers)
    yield _signals(toolchain, folder, overlay, signals)


def _own(toolchain: Toolchain, folder: Path, overlay: Path, column: str, *, everything: bool) -> Cell:
    target = toolchain.machine.target
    program = folder / "own.test"
    if trouble := go_own.build(toolchain, program, overlay=overlay):
        return Cell(target, column, "failed", trouble)
    result = go_own.perform(toolchain, program, everything=everything, overlay=overlay)
    wrong = go_own.unexpected(toolchain, result, everything=everything)
    if not wrong and result.failed:
        # What is known to fail has to fail with the runtime as it is.
        if trouble := go_own.build(toolchain, folder / "unmodified.test"):
            return Cell(target, column, "failed", trouble)
        unmodified = go_own.perform(toolchain, folder / "unmodified.test", everything=everything)
        wrong = [f"{name} fails with our code alone" for name in sorted(result.failed - unmodified.failed)]
    if wrong:
        return Cell(target, column, "failed", f"{result.counts}: {'; '.join(wrong)}")
    return Cell(target, column, "held", result.counts)


def _registers(toolchain: Toolchain, folder: Path, overlay: Path, column: str) -> Cell:
    text = (folder / "text" / f"crosscall2_linux_{toolchain.machine.goarch}.s").read_text(encoding="utf-8")
    found = sentinel.perform(toolchain, folder, overlay, text)
    trouble = [found.trouble] if found.trouble else []
    trouble += [f"nobody misses `{line}`" for line in found.survives]
    if trouble:
        return Cell(toolchain.machine.target, column, "failed", "; ".join(trouble))
    return Cell(toolchain.machine.target, column, "held", found.text)


def _signals(toolchain: Toolchain, folder: Path, overlay: Path, column: str) -> Cell:
    target = toolchain.machine.target
    program = folder / "signals"
    if trouble := go_signals.build(toolchain, program, overlay=overlay):
        return Cell(target, column, "failed", trouble)
    wrong, again = go_signals.perform(toolchain, program)
    if wrong:
        return Cell(target, column, "failed", "; ".join(wrong))
    text = f"{len(go_signals.EXPECTED)} held"
    return Cell(target, column, "held", text + (f" (second run: {', '.join(again)})" if again else ""))
