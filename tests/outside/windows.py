"""Go's own Windows tests under wine, with callbackasm1, cgocallback, crosscall2 and the exception handlers replaced."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cross import compiler

from tests.outside import go_overlay, go_own, windows_sentinel
from tests.outside.options import add_go, add_targets, with_go
from tests.outside.records import Cell
from tests.outside.toolchain import Machine, Missing, Ran, Toolchain
from tests.outside.wine import PROGRAMS, Forward, Wine

MACHINES = {
    machine.target: machine
    for machine in (
        Machine("386", compiler("windows/386"), goos="windows"),
        Machine("amd64", compiler("windows/amd64"), goos="windows"),
    )
}

NOT_RUN = {
    "windows/arm": "no wine for it here: runs in the emulator only",
    "windows/arm64": "no wine for it here: runs in the emulator only",
}

TIMEOUT = 400  # seconds, for all of them: they have programs built

# Of runtime's tests, those that go through a callback or an exception handler.
TESTS = (
    "TestCallback",
    "TestCallbackGC",
    "TestCallbackPanicLocked",
    "TestCallbackPanic",
    "TestCallbackPanicLoop",
    "TestBlockingCallback",
    "TestCallbackInAnotherThread",
    "TestStdcallAndCDeclCallbacks",
    "TestRegisterClass",
    "TestZeroDivisionException",
    "TestReturnAfterStackGrowInCallback",
    "TestBigStackCallbackSyscall",
    "TestStackGrowthCallback",
    "TestIssue59213",
    "TestSehUnwind",
    "TestSehUnwindPanic",
    "TestSehUnwindDoublePanic",
    "TestSehUnwindNilPointerPanic",
    "TestSehLookupFunctionEntry",
    "TestCrashHandler",
    "TestCgoCrashHandler",
    "TestCgoExternalThreadPanic",
    "TestWERDialogue",
)

# What may fail under wine 8 with Go's runtime as it is: on amd64 all of these, on 386 those that are said to.
_NO_CONTINUE = "wine calls vectored continue handlers for nothing but an exception that a handler has continued"
_NO_CONSOLE = "without a screen there is no console that events come from"
FAIL_UNDER_WINE = {
    "TestRaiseException": (_NO_CONTINUE, False),
    "TestVectoredHandlerExceptionInNonGoThread": (_NO_CONTINUE, False),
    "TestVectoredHandlerDontCrashOnLibrary": (_NO_CONTINUE, True),
    "TestCtrlHandler": (_NO_CONSOLE, True),
    "TestLibraryCtrlHandler": (_NO_CONSOLE, False),
}
NEWER = {"TestVectoredHandlerExceptionInNonGoThread"}  # than Go 1.19


def fail(toolchain: Toolchain) -> set[str]:
    """The tests that fail under wine. They are run with `--unmodified` alone, and have to fail there."""
    old, wide = toolchain.distribution.release < (1, 20), toolchain.machine.goarch == "amd64"
    names = {name for name, (_, both) in FAIL_UNDER_WINE.items() if both or wide}
    if old:
        # On 386 this one is skipped there.
        names -= NEWER if wide else {"TestVectoredHandlerDontCrashOnLibrary"}
    return names


def options(parser: argparse.ArgumentParser) -> None:
    add_go(parser)
    add_targets(parser, [*MACHINES, *NOT_RUN])
    parser.add_argument("--unmodified", action="store_true", help="Go's own runtime, with nothing replaced")


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    with with_go(chosen) as (distributions, work):
        for target in chosen.target or [*MACHINES, *NOT_RUN]:
            if target in NOT_RUN:
                yield from (
                    Cell(target, f"{one.title}: own tests", "not applicable", NOT_RUN[target]) for one in distributions
                )
                continue
            machine = MACHINES[target]
            try:
                with (
                    tempfile.TemporaryDirectory(prefix="wine-") as folder,
                    Wine(machine.goarch, machine.compiler, Path(folder)) as wine,
                ):
                    for distribution in distributions:
                        toolchain = Toolchain(distribution, machine, work)
                        yield _own(toolchain, wine, unmodified=chosen.unmodified)
                        if not chosen.unmodified:
                            yield _registers(toolchain, wine)
            except Missing as error:
                yield Cell(target, "wine", "failed", str(error))


def _own(toolchain: Toolchain, wine: Wine, *, unmodified: bool) -> Cell:
    distribution, target = toolchain.distribution, toolchain.machine.target
    column = f"{distribution.title}: own tests" + (" (unmodified)" if unmodified else "")
    folder = toolchain.work / distribution.version / f"windows_{toolchain.machine.goarch}"
    try:
        toolchain.check()
        overlay = None if unmodified else go_overlay.overlay(toolchain, folder)
        folder.mkdir(parents=True, exist_ok=True)
        ran = own_tests(toolchain, wine, folder, overlay=overlay)
    except (Missing, go_overlay.Refused) as error:
        return Cell(target, column, "failed", str(error))
    result = go_own.results(ran, TIMEOUT)
    expected = fail(toolchain) if unmodified else set()
    if result.trouble or result.failed != expected:
        said = [f"{name} failed" for name in sorted(result.failed - expected)]
        said += [f"{name} did not fail" for name in sorted(expected - result.failed)]
        return Cell(target, column, "failed", "; ".join([result.counts, *said, result.trouble]) + "\n" + ran.output)
    return Cell(target, column, "held", result.counts)


def _registers(toolchain: Toolchain, wine: Wine) -> Cell:
    target = toolchain.machine.target
    column = f"{toolchain.distribution.title}: registers"
    folder = toolchain.work / toolchain.distribution.version / f"windows_{toolchain.machine.goarch}"
    try:
        found = windows_sentinel.perform(toolchain, wine, folder)
    except (Missing, go_overlay.Refused) as error:
        return Cell(target, column, "failed", str(error))
    trouble = [found.trouble] if found.trouble else []
    trouble += [f"nobody misses `{line}`" for line in found.survives]
    return Cell(target, column, "failed" if trouble else "held", "; ".join(trouble) or found.text)


def own_tests(toolchain: Toolchain, wine: Wine, folder: Path, *, overlay: Path | None) -> Ran:
    """Build the runtime's tests and run those of TESTS. What they want built besides, the host's go and gcc build."""
    changed = [f"-overlay={overlay}"] if overlay else []
    runtime = toolchain.distribution.root / "src" / "runtime"
    program = folder / "runtime.test.exe"
    built = toolchain.go("test", "-vet=off", "-c", *changed, "-o", program, "runtime", cwd=runtime)
    if built.status != 0:
        raise go_overlay.Refused(f"go test -c runtime: status {built.status}\n{built.output}")
    environment = toolchain.environment
    for part in go_overlay.parts(toolchain) if overlay else []:
        file = f"zz_trampoline_{Path(part.source).stem}".encode()
        if part.package == "runtime" and file not in program.read_bytes():
            raise go_overlay.Refused(f"go test -c -overlay has left {part.source} out")
    if overlay:
        environment["GOFLAGS"] += f" -overlay={overlay}"
    forward = folder / "forward.exe"
    if not forward.exists():
        built = toolchain.go("build", "-o", forward, PROGRAMS / "forward.go", cwd=folder)
        if built.status != 0:
            raise go_overlay.Refused(f"go build forward.go: status {built.status}\n{built.output}")
    commands = wine.prefix / "forward"
    shutil.rmtree(commands, ignore_errors=True)
    failing = fail(toolchain)
    tests = [*TESTS, *(name for name in FAIL_UNDER_WINE if not overlay or name not in failing)]
    named = {"go": str(toolchain.distribution.command), "gcc": toolchain.machine.compiler}
    with Forward(wine, forward, commands, named, environment):
        return wine.run(
            program,
            "-test.v",
            "-test.short",
            f"-test.timeout={TIMEOUT - 10}s",
            f"-test.run=^({'|'.join(tests)})$",
            timeout=TIMEOUT,
            cwd=runtime,
            environment={
                "FORWARD": wine.windows(commands),
                "GOROOT": wine.windows(toolchain.distribution.root),
                "WINEPATH": wine.windows(commands),
            },
        )
