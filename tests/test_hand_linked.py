"""The same functions written by hand, and those that compilers make of C, after a linker: in executables, libraries and
archives, whose callees are elsewhere or beside them. And no instruction of them is there for nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hand.right import RIGHT, text_of
from test_hand import contracts, judged, right, states
from tools import need

from trampoline_dsl.binary import read_image
from trampoline_dsl.decode import code_of_function
from trampoline_dsl.image import Image, Symbol, find_symbol
from trampoline_dsl.target import Architecture
from trampoline_dsl.targets import find_target

LINUX = [name for name in RIGHT if name.startswith("linux")]

CALLEES = """
#include <stdint.h>
#include <stddef.h>
struct state { int32_t last; uint32_t calls; };
void go_prepare(void) {}
void go_enter(void) {}
int32_t work(struct state *s, uintptr_t a, uintptr_t i, uintptr_t b, int16_t code, uintptr_t h) { return code; }
uintptr_t method(void *self, int32_t count, double scale) { return count; }
"""
IN_C = """
#include <stdint.h>
struct state { int32_t last; uint32_t calls; };
int32_t work(struct state *s, uintptr_t a, uintptr_t i, uintptr_t b, int16_t code, uintptr_t h);
uintptr_t method(void *self, int32_t count, double scale);
int32_t callback(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f, uintptr_t g, uintptr_t h,
                 uintptr_t i, struct state *state)
{
    return state->last = work(state, a, i, b, (int16_t)c, h);
}
uintptr_t thunk(char *self, int32_t count, double scale) { return method(self - 16, count, scale); }
"""
MODES = {  # to the baselines of the targets
    "386": ("-march=pentium4",),
    "arm": ("-marm", "-mfpu=vfpv3-d16"),
    "mips": ("-march=mips32",),
    "mipsle": ("-march=mips32",),
    "ppc64": ("-mcpu=power8",),
    "s390x": ("-march=z13",),
}
CLANG = {"windows/arm64": ("clang-14", "--target=aarch64-windows-gnu")}


def tool(target: str, name: str) -> str:
    return find_target(target).architecture.gnu_as[0].removesuffix("as") + name


def run(*command: str, folder: Path) -> None:
    need(command[0])
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    assert not done.returncode, done.stderr.decode()


def compiled(target: str, text: str, name: str, *options: str, folder: Path) -> str:
    """An object or a linked file of C text, by the target's gcc, or clang where there is none."""
    (folder / f"{name}.c").write_text(text)
    gcc = CLANG.get(target, (tool(target, "gcc"),))
    modes = MODES.get(target.partition("/")[2], ())
    run(*gcc, *modes, "-O2", "-ffreestanding", "-o", name, f"{name}.c", *options, folder=folder)
    return name


def hold(target: str, image: Image, functions: Sequence[str]) -> None:
    for function in functions:
        verdict = judged(target, image, function, function, contracts(target, "contracts.tramp"))
        assert not verdict.violations
        assert not any(finding.state == "not run" for finding in verdict.obligations.values()), states(verdict)


def assembled(target: str, folder: Path) -> str:
    (folder / "hand.s").write_text(text_of(target, RIGHT[target]))
    run(*find_target(target).architecture.gnu_as, "-o", "hand.o", "hand.s", folder=folder)
    return "hand.o"


@pytest.mark.parametrize("target", [*LINUX, "windows/386", "windows/amd64"])
def test_static_executables_and_archives_hold(target: str, tmp_path: Path) -> None:
    """The callees are in the same file, and the judge plays them there."""
    mine = assembled(target, tmp_path)
    theirs = compiled(target, CALLEES, "callees.o", "-c", "-fno-pic", "-w", folder=tmp_path)
    entry = "_bridge" if target == "windows/386" else "bridge"
    modes = {"linux/386": ["-m", "elf_i386"]}.get(target, [])
    if target == "windows/386":  # the functions that are Go's have no underscore
        modes = ["--defsym", "go_prepare=_go_prepare", "--defsym", "go_enter=_go_enter"]
    run(tool(target, "ld"), *modes, "-e", entry, "-o", "static", mine, theirs, folder=tmp_path)
    hold(target, read_image((tmp_path / "static").read_bytes(), "static"), ("bridge", "callback", "thunk"))
    run(tool(target, "ar"), "rcs", "hand.a", theirs, mine, folder=tmp_path)
    image = read_image((tmp_path / "hand.a").read_bytes(), "hand.a", "hand.o")
    hold(target, image, ("callback", "thunk"))


@pytest.mark.parametrize("target", LINUX)
def test_c_in_libraries_and_movable_executables_holds(target: str, tmp_path: Path) -> None:
    """The callees are in another library: calls go through PLTs, global offset tables, descriptors."""
    theirs = compiled(target, CALLEES, "libcallees.so", "-shared", "-fPIC", "-nostdlib", "-w", folder=tmp_path)
    shared = compiled(target, IN_C, "shared", "-shared", "-fPIC", "-nostdlib", theirs, folder=tmp_path)
    movable = compiled(
        target, IN_C, "movable", "-pie", "-fPIE", "-nostdlib", "-Wl,-e,callback", "-rdynamic", theirs, folder=tmp_path
    )
    for name in (shared, movable):
        image = read_image((tmp_path / name).read_bytes(), name)
        assert image.movable
        hold(target, image, ("callback", "thunk"))


@pytest.mark.parametrize("target", ["windows/386", "windows/amd64"])
def test_c_that_calls_libraries_of_windows_holds(target: str, tmp_path: Path) -> None:
    """Calls go through the import address table."""
    theirs = compiled(target, CALLEES, "callees.dll", "-shared", "-nostdlib", "-w", folder=tmp_path)
    linked = compiled(target, IN_C, "program.exe", "-nostdlib", "-Wl,-e,0", theirs, folder=tmp_path)
    hold(target, read_image((tmp_path / linked).read_bytes(), linked), ("callback", "thunk"))


def test_c_for_windows_on_arm64_holds(tmp_path: Path) -> None:
    made = compiled("windows/arm64", IN_C, "program.o", "-c", folder=tmp_path)
    hold("windows/arm64", read_image((tmp_path / made).read_bytes(), made), ("callback", "thunk"))


# ------------------------------------------------------------------------------------ instructions that are left out

NOPS = {"arm": 0xE1A00000, "arm64": 0xD503201F, "mips": 0, "ppc64": 0x60000000}

# What may be missing, and why.
EXPLAINED = [
    ("386", "callback", r"ret", "control falls into thunk, which leaves by a jump to a declared function"),
    ("arm64", "callback", r"mov x29, sp", "nobody walks the stack by the frame pointer"),
]
LONG = ("linux/386", "linux/arm", "linux/s390x", "windows/386")  # whose bridges are short


def nop(architecture: Architecture, size: int) -> bytes:
    """An instruction, or several, of that many bytes that does nothing."""
    if architecture.name in ("386", "amd64"):
        return b"\x90" * size
    if architecture.family == "s390x":
        return {2: b"\x07\0", 4: b"\x47\0\0\0", 6: b"\xc0\x04\0\0\0\0"}[size]
    assert size == 4
    return NOPS[architecture.family].to_bytes(4, architecture.order)


@cache
def symbol(target: str, function: str) -> Symbol:
    return find_symbol(right(target), function)


def left_out(target: str, function: str) -> Iterator[tuple[str, Image]]:
    """The image with one instruction of a function replaced by a nop, each in turn, and the instruction's text."""
    architecture, image = find_target(target).architecture, right(target)
    code = code_of_function(image, symbol(target, function), find_target(target))
    start = symbol(target, function).code
    assert start is not None
    section = image.section(start)
    assert section is not None
    for insn, offset, following in zip(
        code.instructions, code.offsets, (*code.offsets[1:], len(code.code)), strict=True
    ):
        at, size = start + offset - section.address, following - offset
        if insn.label is not None or insn.text.startswith(".") or insn.text == "nop":
            continue
        data = section.data[:at] + nop(architecture, size) + section.data[at + size :]
        sections = tuple(replace(s, data=data) if s is section else s for s in image.sections)
        inside = range(start + offset, start + following)
        relocations = tuple(r for r in image.relocations if r.offset not in inside)
        yield insn.text, replace(image, sections=sections, relocations=relocations)


@pytest.mark.parametrize("target", RIGHT)
def test_no_instruction_is_there_for_nothing(target: str) -> None:
    machine = target.partition("/")[2]
    for function in RIGHT[target] if target in LONG else ("callback", "thunk"):
        expected = [text for m, f, text, _ in EXPLAINED if re.fullmatch(m, machine) and re.fullmatch(f, function)]
        survivors = []
        for text, image in left_out(target, function):
            verdict = judged(target, image, function, function, contracts(target, "contracts.tramp"))
            if not verdict.violations:
                survivors.append(text)
        unexplained = [text for text in survivors if not any(re.fullmatch(e, text) for e in expected)]
        assert not unexplained, function
        assert len(survivors) >= len(expected), f"{function}: something that is explained is found: {survivors}"
