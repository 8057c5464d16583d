"""The judge over what Go's linker made: crosscall2, cgocallback, sigtramp and what Windows calls, in binaries of an
unchanged Go, by the contracts that our own trampolines of these names are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.outside.options import add_go, add_targets, with_go
from tests.outside.records import Cell
from tests.outside.toolchain import MACHINES, Go, Machine, Missing, Toolchain
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import Image, read_file
from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.image import ImageError, find_symbol
from trampoline_dsl.pipeline import compile_module
from trampoline_dsl.resolve import load_module, own_trampolines
from trampoline_dsl.targets import find_target
from trampoline_dsl.verify import DEFAULT_RUNS, Verdict

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "go"
PROGRAMS = Path(__file__).resolve().parent / "programs"
# What has no C in it has no crosscall2. Windows' tables and exception handlers are there all the same.
PLAIN = {
    target: Machine(target.partition("/")[2], "", goos=target.partition("/")[0])
    for target in ("linux/ppc64", "windows/386", "windows/amd64", "windows/arm", "windows/arm64")
}
# The source that is the contract, and what is audited by it.
FUNCTIONS = (
    ("crosscall2.tramp", "crosscall2"),
    ("cgocallback.tramp", "runtime.cgocallback"),
    ("sigtramp.tramp", "runtime.sigtramp"),
    ("exceptiontramp.tramp", "runtime.exceptiontramp"),
    ("exceptiontramp.tramp", "runtime.sigresume"),
    ("callbackasm.tramp", "runtime.callbackasm1"),
)
# Before 1.21 Go kept g elsewhere on Windows, and its exception handlers were others than there are contracts for.
WINDOWS_SINCE = (1, 21)
# On linux/ppc64 that name is a descriptor's; the code is local to its file.
LOCAL = {("linux/ppc64", "runtime.sigtramp"): "sigtramp"}


def options(parser: argparse.ArgumentParser) -> None:
    add_go(parser)
    add_targets(parser, [*MACHINES, *PLAIN])
    parser.add_argument("--verbose", action="store_true", help="print every finding")


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    with with_go(chosen) as (distributions, work):
        for distribution in distributions:
            for target in chosen.target or [*MACHINES, *PLAIN]:
                yield from _target(distribution, target, work, verbose=chosen.verbose)


def _target(distribution: Go, target: str, work: Path, *, verbose: bool) -> Iterator[Cell]:
    functions = [(source, name) for source, name in FUNCTIONS if _declares(source, name, target)]
    if target.startswith("windows/") and distribution.release < WINDOWS_SINCE:
        return
    try:
        image = _built(distribution, target, work)
    except Missing as error:
        for _, name in functions:
            yield Cell(target, f"{distribution.title}: {_short(name)}", "failed", str(error))
        return
    for source, name in functions:
        if target in PLAIN and name == "crosscall2":
            continue
        if target == "linux/ppc64" and name == "runtime.cgocallback":
            continue  # the linker leaves out what nothing calls
        column = f"{distribution.title}: {_short(name)}"
        try:
            verdict = audited(image, source, name, target, distribution.release)
        except ImageError as error:
            yield Cell(target, column, "failed", str(error))
            continue
        if verbose:
            for violation in verdict.violations:
                place = f"+{violation.address:#x} {violation.instruction}" if violation.address is not None else ""
                print(f"{target} {name}: {violation.obligation}: {violation.message} {place}")
        yield Cell(target, column, "found", said(verdict))


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _source(source: str, release: tuple[int, int]) -> Path:
    if source == "cgocallback.tramp" and release >= (1, 21):
        source = "cgocallback_go1.21.tramp"
    return EXAMPLES / source


def _declares(source: str, name: str, target: str) -> bool:
    return name in own_trampolines(load_module(read_source(EXAMPLES / source)), find_target(target))


def _built(distribution: Go, target: str, work: Path) -> Image:
    """A program of an unchanged Go, linked."""
    machine = MACHINES.get(target) or replace(PLAIN[target], environment={"CGO_ENABLED": "0"})
    toolchain = Toolchain(distribution, machine, work)
    if target in MACHINES:
        toolchain.check()
    program = work / f"{distribution.version}-{target.replace('/', '-')}"
    folder = work / ("callback" if target in MACHINES else "plain")
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text("module example\n\ngo 1.19\n", encoding="utf-8")
    text = (PROGRAMS / "callback" / "main.go").read_text(encoding="utf-8")
    if target in PLAIN:
        text = 'package main\n\nfunc main() { println("called") }\n'
    (folder / "main.go").write_text(text, encoding="utf-8")
    done = toolchain.go("build", "-o", program, ".", cwd=folder)
    if done.status:
        raise Missing(f"go build: {done.output.strip().splitlines()[-1] if done.output.strip() else done.status}")
    return read_file(program)


def audited(image: Image, source: str, name: str, target: str, release: tuple[int, int]) -> Verdict:
    """The verdict on one function. Raises ImageError."""
    compiled = compile_module(load_module(read_source(_source(source, release))), find_target(target))
    symbol = find_symbol(image, LOCAL.get((target, name), name))
    return audit(image, {name: symbol}, compiled, runs=DEFAULT_RUNS)[0]


def said(verdict: Verdict) -> str:
    """What is in the table: the obligations that are violated, and what did not run."""
    violated = [name for name, finding in verdict.obligations.items() if finding.state == "violated"]
    text = "violates " + ", ".join(violated) if violated else ""
    rest = [name for name, finding in verdict.obligations.items() if finding.state == "not run"]
    if verdict.paths_run < verdict.paths_total:
        text += f"{'; ' if text else ''}{verdict.paths_run} of {verdict.paths_total} paths"
    elif rest:
        text += f"{'; ' if text else ''}not run: {', '.join(rest)}"
    return text or "held"
