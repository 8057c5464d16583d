"""Go's own tests of cgo, run with the runtime as it is or with functions replaced."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.outside.toolchain import Ran, Toolchain

# Those that go through crosscall2, cgocallback or a signal handler.
CALLBACKS = "Callback|ZeroArg|Sigaltstack|Sigprocmask|1560|3741|7234|5337|NamedEnum"

# What fails under qemu-user with the runtime as it is, too. It is run all the same, and has to fail.
FAILS_UNDER_QEMU = {"Test18146": "it starts the test program again, which the kernel does not know (exec format error)"}


@dataclass
class Result:
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    trouble: str = ""  # the program did not come to its end
    again: str = ""  # why it was run a second time

    @property
    def counts(self) -> str:
        words = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        return words + (f" (second run; the first {self.again})" if self.again else "")


def folder(toolchain: Toolchain) -> Path:
    """Where the tests are. In Go 1.19 they are no part of the standard library."""
    root = toolchain.distribution.root
    old, new = root / "misc" / "cgo" / "test", root / "src" / "cmd" / "cgo" / "internal" / "test"
    return new if new.is_dir() else old


def build(toolchain: Toolchain, program: Path, *, overlay: Path | None = None) -> str:
    """Build Go's test program. Returns what went wrong, or nothing."""
    options = [f"-overlay={overlay}"] if overlay else []
    built = toolchain.go("test", "-c", *options, "-o", program, ".", cwd=folder(toolchain))
    return "" if built.status == 0 else f"go test -c: status {built.status}\n{built.output}"


def perform(
    toolchain: Toolchain, program: Path, *, everything: bool, overlay: Path | None = None, timeout: float = 300
) -> Result:
    """Run it, and a second time if it fails: qemu-user hangs once in some hundred runs."""
    result = _perform(toolchain, program, everything=everything, overlay=overlay, timeout=timeout)
    if result.trouble or unexpected(toolchain, result, everything=everything):
        first = result.trouble or "failed " + ", ".join(sorted(result.failed))
        result = _perform(toolchain, program, everything=everything, overlay=overlay, timeout=timeout)
        result.again = first.splitlines()[0]
    return result


def _perform(toolchain: Toolchain, program: Path, *, everything: bool, overlay: Path | None, timeout: float) -> Result:
    words = ["-test.v", f"-test.timeout={timeout - 10:.0f}s"]
    if not everything:
        words.append(f"-test.run={CALLBACKS}")
    # TestCrossPackageTests of Go 1.19 builds and runs another program, with the go command, which looks for
    # go_linux_$GOARCH_exec to run it by.
    environment = toolchain.environment
    commands = toolchain.distribution.root / "bin", toolchain.wrappers(), environment["PATH"]
    environment["PATH"] = os.pathsep.join(map(str, commands))
    if overlay:
        environment["GOFLAGS"] += f" -overlay={overlay}"
    ran = toolchain.execute(program, *words, timeout=timeout, cwd=folder(toolchain), environment=environment)
    return results(ran, timeout)


def results(ran: Ran, timeout: float) -> Result:
    """What `-test.v` printed."""
    result = Result()
    for state, name in re.findall(r"^\s*--- (PASS|FAIL|SKIP): (\S+) \(", ran.output, re.MULTILINE):
        {"PASS": result.passed, "FAIL": result.failed, "SKIP": result.skipped}[state].add(name)
    started = set(re.findall(r"^=== RUN\s+(\S+)$", ran.output, re.MULTILINE))
    unfinished = started - result.passed - result.failed - result.skipped
    if ran.status is None:
        result.trouble = f"did not end in {timeout:.0f} s, in {', '.join(sorted(unfinished)) or 'no test'}"
    elif unfinished or ran.status not in (0, 1) or not started:
        said = [line for line in ran.output.splitlines() if not re.match(r"\s*(=== |--- )", line)]
        report = "\n".join(said[:40])
        result.trouble = f"ended with status {ran.status} in {', '.join(sorted(unfinished)) or 'no test'}\n{report}"
    elif (ran.status == 1) != bool(result.failed):
        result.trouble = f"ended with status {ran.status} and {len(result.failed)} failures"
    return result


def expected_failures(toolchain: Toolchain, *, everything: bool) -> dict[str, str]:
    expected = FAILS_UNDER_QEMU if toolchain.machine.runner else {}
    return {name: why for name, why in expected.items() if everything or re.search(CALLBACKS, name)}


def unexpected(toolchain: Toolchain, result: Result, *, everything: bool) -> list[str]:
    """What did not go as it does with Go as it is, in sentences."""
    expected = expected_failures(toolchain, everything=everything)
    said = [f"{name} failed" for name in sorted(result.failed - set(expected))]
    if result.trouble:
        said.insert(0, result.trouble)
    return said
