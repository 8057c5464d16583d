"""C compilers for Windows as `measure` has those for Linux: one COFF object per target and convention, placed and
linked here: MinGW's gcc for 386 and amd64, clang for arm64. Nothing here makes ARM code for windows/arm."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import gnu
from cross import compiler
from measure import Image
from tools import need

from trampoline_dsl.link import explicit_addends, link
from trampoline_dsl.target import Relocation, Target

BASE = 0x1000_0000
_CLANG = ("-O2", "-std=gnu11", "-w", "-ffreestanding", "-fno-optimize-sibling-calls")
_GCC = (*_CLANG, "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-fno-common")
COMMANDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("windows/386", "c"): (compiler("windows/386"), *_GCC, "-march=pentium4"),
    ("windows/386", "stdcall"): (compiler("windows/386"), *_GCC, "-march=pentium4"),
    ("windows/386", "fastcall"): (compiler("windows/386"), *_GCC, "-march=pentium4"),
    ("windows/386", "thiscall"): (compiler("windows/386"), *_GCC, "-march=pentium4"),
    ("windows/amd64", "c"): (compiler("windows/amd64"), *_GCC),
    ("windows/arm64", "c"): ("clang-14", "--target=aarch64-windows-msvc", *_CLANG),
}


def plain(name: str, target: Target) -> str:
    """A C name without what windows/386 adds to it."""
    if target.architecture.name != "386":
        return name
    return name.removeprefix("_").removeprefix("@").partition("@")[0]


def build(target: Target, convention: str, source: str) -> Image:
    command = COMMANDS[target.name, convention]
    need(command[0])
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "out.o")
        done = subprocess.run(
            [*command, "-c", "-o", str(result), "-x", "c", "-"],
            input=source,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[:4000]
        return _placed(target, result.read_bytes())


def _placed(target: Target, image: bytes) -> Image:
    """The object's sections, one after the other from BASE on, with their relocated fields filled."""
    machine, count, _, _, _, optional, _ = struct.unpack_from("<HHIIIHH", image, 0)
    table = gnu.coff_symbols(image)
    headers = [struct.unpack_from("<8sIIIIIIHHI", image, 20 + optional + 40 * n) for n in range(count)]
    addresses: list[int] = []
    end = BASE
    for header in headers:
        addresses.append(end)
        end = (end + header[3] + 0x10FF) // 0x1000 * 0x1000
    values: dict[str, int] = {}
    names: list[str] = []
    for index, (name, value, section, _, storage) in enumerate(table):
        unique = name if storage == 2 else f"{index} {name}"  # the same label may be in several functions
        names.append(unique)
        if section > 0:
            values[unique] = addresses[section - 1] + value
            values.setdefault(name, values[unique])
    segments = []
    for header, address in zip(headers, addresses, strict=True):
        size, data, relocations, entries, flags = header[3], header[4], header[5], header[7], header[9]
        contents = bytes(size) if flags & 0x80 else image[data : data + size]  # uninitialised data
        found = []
        for entry in range(entries):
            offset, symbol, kind = struct.unpack_from("<IIH", image, relocations + 10 * entry)
            name = gnu.COFF_TYPES[machine].get(kind)
            if name is not None and not header[0].startswith((b".debug", b".pdata", b".xdata")):
                found.append(Relocation(name, names[symbol], 0, offset))
        found = list(explicit_addends(target.architecture, contents, found))
        segments.append((address, link(target.architecture, contents, found, address, values), size))
    return Image(tuple(s for s in segments if s[2]), {plain(name, target): value for name, value in values.items()})
