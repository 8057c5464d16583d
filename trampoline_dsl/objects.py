"""Assembly text to relocatable objects and static libraries, by the assemblers and archivers of others: GNU's for the
target, or LLVM's. Only this module runs them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .diagnostics import Diagnostic, InputError
from .target import Target

_TIMEOUT = 60.0  # seconds for one file
_CLANGS = ("clang", *(f"clang-{version}" for version in range(30, 13, -1)))  # what Debian and others call it
_WHERE = "--emit obj"

# Debian's names of packages, where they are not those of the programs' prefixes.
_PACKAGES = {
    "x86_64-linux-gnu": "binutils-x86-64-linux-gnu",
    "i686-w64-mingw32": "binutils-mingw-w64-i686",
    "x86_64-w64-mingw32": "binutils-mingw-w64-x86-64",
}


def has_objects(target: Target) -> bool:
    """Whether some assembler writes relocatable objects of the target's text."""
    return not target.architecture.why_no_object


def make_object(target: Target, text: str) -> bytes:
    """The relocatable object (ELF, or COFF on Windows) of a file's text in GNU syntax; the same text gives the same
    bytes. Raises InputError where no assembler is there that writes it, or the one that is refuses the text."""
    command = _assembler(target)
    with tempfile.TemporaryDirectory(prefix="trampoline-") as folder:
        _run([*command, "-o", "object.o", "-"], folder, text)
        return Path(folder, "object.o").read_bytes()


def make_library(target: Target, objects: Mapping[str, bytes]) -> bytes:
    """A static library of objects, which are given by the members' names; the same objects give the same bytes. Raises
    InputError where the archiver that belongs to the target's assembler is not there or fails."""
    archiver = _archiver(_assembler(target)[0])
    if shutil.which(archiver) is None:
        raise _missing(target, f"{archiver}, which writes static libraries,", _package(archiver))
    with tempfile.TemporaryDirectory(prefix="trampoline-") as folder:
        for name, data in objects.items():
            Path(folder, name).write_bytes(data)
        # D: no times, owners and modes, so that the bytes follow from the members alone.
        _run([archiver, "rcsD", "library.a", *(f"./{name}" for name in objects)], folder, "")
        return Path(folder, "library.a").read_bytes()


def _assembler(target: Target) -> Sequence[str]:
    """The first of the target's assemblers that is there, with its options. Raises InputError without any."""
    if not has_objects(target):
        raise InputError([Diagnostic("A003", target.architecture.why_no_object, None, file=_WHERE)])
    for command in _assemblers(target):
        if shutil.which(command[0]) is not None:
            return command
    gnu = target.architecture.gnu_as[0]
    raise _missing(target, f"{gnu}, which writes objects for {target.name},", _package(gnu))


def _assemblers(target: Target) -> Iterator[Sequence[str]]:
    yield target.architecture.gnu_as
    if target.architecture.clang:
        for clang in _CLANGS:
            yield (clang, *target.architecture.clang, "-c", "-x", "assembler")


def _archiver(assembler: str) -> str:
    if assembler.startswith("clang"):
        return assembler.replace("clang", "llvm-ar", 1)
    return assembler.removesuffix("as") + "ar"


def _package(program: str) -> str:
    """The Debian package of an assembler or an archiver."""
    if program.startswith("llvm-ar"):
        return program.replace("llvm-ar", "llvm", 1)
    prefix = program.rpartition("-")[0]
    return program if program.startswith("clang") else _PACKAGES.get(prefix, f"binutils-{prefix}")


def _missing(target: Target, what: str, package: str) -> InputError:
    either = ", or clang" if target.architecture.clang and not package.startswith(("clang", "llvm")) else ""
    notes = (f"it is in Debian's package {package}{either}",)
    return InputError([Diagnostic("A003", f"{what} is not installed", None, notes=notes, file=_WHERE)])


def _run(command: Sequence[str], folder: str, text: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, input=text.encode(), capture_output=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError([Diagnostic("A004", f"{command[0]} fails: {error}", None, file=_WHERE)]) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        message = f"{command[0]} fails with exit status {done.returncode}"
        raise InputError([Diagnostic("A004", message, None, notes=tuple(said[:5]), file=_WHERE)])
