"""Windows' unwind information: what assemblers make of the directives, what mistakes in them do, and what wine finds by
it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import broken
import pytest
from cross import compiler
from tools import need

from trampoline_dsl import compile_text, pdata, seh
from trampoline_dsl.binary import read_image
from trampoline_dsl.machine_code import Code
from trampoline_dsl.pipeline import Artifact, Compiled
from trampoline_dsl.target import WindowsUnwinding
from trampoline_dsl.targets import find_target
from trampoline_dsl.unwind import UnwindError
from trampoline_dsl.verify import Session, code_of, verify

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.outside.wine import PROGRAMS, Wine

TARGETS = ("windows/amd64", "windows/arm64")
EXAMPLES = [
    *(broken.ROOT / "examples" / "c" / f"{name}.tramp" for name in ("callback_with_context", "custom_convention")),
    *(broken.ROOT / "examples" / "c" / f"{name}.tramp" for name in ("float_arguments", "indirect", "tail")),
    *(broken.ROOT / "examples" / "go" / f"{name}.tramp" for name in ("crosscall2", "exceptiontramp")),
    *(broken.ROOT / "tests" / "cases" / f"{name}.tramp" for name in ("judge", "table")),
]
ASSEMBLERS = {
    "gnu amd64": ("windows/amd64", ("x86_64-w64-mingw32-as",)),
    "llvm amd64": ("windows/amd64", ("clang-14", "--target=x86_64-windows-gnu", "-c", "-x", "assembler")),
    "llvm arm64": ("windows/arm64", ("clang-14", "--target=aarch64-windows-gnu", "-c", "-x", "assembler")),
}
CROSSCALL = broken.ROOT / "examples" / "go" / "crosscall2.tramp"
Said = tuple[tuple[int, str], ...]


def unwinding(target: str) -> WindowsUnwinding:
    described = find_target(target).architecture.unwinding()
    assert isinstance(described, WindowsUnwinding)
    return described


def read(target: str, code: Code, said: Said) -> pdata.Entries:
    described = unwinding(target)
    return pdata.read_directives(said, len(code.code), described.tables, described.names)


def described(compiled: Compiled) -> Iterator[tuple[Artifact, Code, Said]]:
    """The functions that have directives, and these."""
    for artifact in compiled.own:
        code = code_of(artifact)
        if code.unwinding is not None:
            assert isinstance(code.unwinding, tuple)
            yield artifact, code, code.unwinding


def undone(entry: pdata.Function, offset: int) -> Mapping[int, int]:
    """What a walk from an offset finds on arm64 with registers and memory that all differ."""

    def memory(address: int, size: int) -> bytes:
        return (address * 0x9E3779B97F4A7C15 & (1 << 8 * size) - 1).to_bytes(size, "little")

    context = pdata.Context(entry.begin + offset, lambda number: number << 32, memory)
    made = pdata.unwound(entry, context, "arm64")
    return {**made.known, -1: made.pc}


@pytest.mark.parametrize("assembler", ASSEMBLERS)
def test_objects_have_the_frames_of_the_directives(assembler: str, tmp_path: Path) -> None:
    target, command = ASSEMBLERS[assembler]
    need(command[0])
    compared = 0
    for path in EXAMPLES:
        compiled = broken.compiled(target, path)
        (tmp_path / "text.s").write_text(compiled.text, "utf-8")
        subprocess.run([*command, "-o", str(tmp_path / "out.o"), str(tmp_path / "text.s")], check=True, timeout=60)
        image = read_image((tmp_path / "out.o").read_bytes(), "out.o")
        assert image.unwindings is not None
        for artifact, code, said in described(compiled):
            start = image.addresses[artifact.name]
            found = image.unwindings.of(start, start + len(code.code))
            expected = read(target, code, said)
            assert isinstance(found, pdata.Entries)
            if target == "windows/amd64":
                assert found == expected, artifact.name
            else:  # prologues may be packed, and codes shared
                [one], [other] = found.functions, expected.functions
                assert (one.begin, one.end) == (other.begin, other.end)
                for offset in range(0, len(code.code), 4):
                    assert undone(one, offset) == undone(other, offset), (artifact.name, offset)
            compared += 1
        for artifact in compiled.own:
            if artifact.unwinding is None:
                assert image.unwindings.of(image.addresses[artifact.name], image.addresses[artifact.name] + 4) is None
    assert compared > 15


def mistakes(said: Said) -> Iterator[tuple[str, Said]]:
    """Directives one of which is left out, or has a number that is 8 too big or too small."""
    for index, (offset, text) in enumerate(said):
        yield f"without {text}", (*said[:index], *said[index + 1 :])
        found = re.fullmatch(r"(.*[ ,])(\d+)", text)
        for number in (int(found[2]) + 8, int(found[2]) - 8) if found else ():
            if found and number >= 0:
                yield f"{text}: {number}", (*said[:index], (offset, f"{found[1]}{number}"), *said[index + 1 :])


@pytest.mark.parametrize("target", TARGETS)
def test_mistakes_in_directives_are_found(target: str) -> None:
    made = 0
    for path in (CROSSCALL, broken.ROOT / "examples" / "c" / "indirect.tramp"):
        compiled = broken.compiled(target, path)
        session = Session(compiled)
        for artifact, code, said in described(compiled):
            assert session.judge(artifact, 1, 1).obligations["unwind"].state == "held"
            for name, wrong in mistakes(said):
                session.replace(replace(code, unwinding=wrong))
                found = {violation.obligation for violation in session.judge(artifact, 1, 1).violations}
                assert found == {"unwind"}, name
                made += 1
    assert made > 50


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_left_unmarked_is_no_table(target: str) -> None:
    code = Code("f", bytes(16), (), (), (), 0, "f")
    for said in ((), ((0, ".seh_nothing"),), ((0, ".seh_endprologue"), (4, ".seh_stackalloc 8")), ((0, "nop"),)):
        with pytest.raises(UnwindError):
            read(target, code, said)
    with pytest.raises(UnwindError):
        read(target, code, ((0, ".seh_savereg eax, 8"), (4, ".seh_endprologue")))


SWITCHES = """
extern g(x: uptr) using c
trampoline t(x: uptr, top: uptr) using c {
    on stack top & -16 { call g(x) }
}
"""


@pytest.mark.parametrize("target", TARGETS)
def test_a_frame_on_another_stack_is_not_described(target: str) -> None:
    compiled = compile_text(SWITCHES, target)
    artifact = compiled["t"]
    assert artifact.unwinding is None
    assert ".seh_" not in compiled.text
    [verdict] = verify(compiled, runs=2)
    finding = verdict.obligations["unwind"]
    assert (finding.state, finding.reason) == ("not applicable", seh.MOVES)


def test_a_long_prologue_has_several_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is a byte."""
    monkeypatch.setattr(seh, "_LONGEST_PROLOGUE", 40)
    compiled = compile_text((PROGRAMS / "walk.tramp").read_text("utf-8"), "windows/amd64")
    artifact = compiled["through"]
    assert artifact.unwinding is not None
    assert sum(".seh_endproc" in directives for directives in artifact.unwinding) > 4
    for verdict in verify(compiled, runs=4):
        assert verdict.obligations["unwind"].state != "violated", verdict.violations


PARTS = """
extern f(x: uptr) -> uptr using go0
trampoline t(x: uptr) -> uptr using c {
    let r: uptr = 0
    if x == 1 {
        r = call f(x)
    } else {
        if x == 2 { return 7 }
        r = call f(x + 1)
    }
    return r + x
}
"""


def test_a_jump_past_a_way_out_of_several_entries_is_not_described() -> None:
    """On amd64 a jump out of an entry is taken for the function's end. On arm64 there is one entry."""
    assert compile_text(PARTS, "windows/amd64")["t"].why_no_unwinding == seh.CROSSES
    assert compile_text(PARTS, "windows/arm64")["t"].why_no_unwinding == ""


NAMES = """
extern g(x: uptr) using c
trampoline NAME(x: uptr) using c { call g(x) }
"""


@pytest.mark.parametrize("name", ["rax", "and", "runtime·note", "a.b"])
@pytest.mark.parametrize("assembler", ASSEMBLERS)
def test_assemblers_take_functions_of_any_name(assembler: str, name: str, tmp_path: Path) -> None:
    target, command = ASSEMBLERS[assembler]
    need(command[0])
    compiled = compile_text(NAMES.replace("NAME", name), target)
    assert ".seh_proc" in compiled.text
    (tmp_path / "text.s").write_text(compiled.text, "utf-8")
    subprocess.run([*command, "-o", str(tmp_path / "out.o"), str(tmp_path / "text.s")], check=True, timeout=60)
    image = read_image((tmp_path / "out.o").read_bytes(), "out.o")
    assert image.unwindings is not None
    assert image.unwindings.of(image.addresses[name], image.addresses[name] + 4) is not None


def test_windows_walks_from_every_instruction(tmp_path: Path) -> None:
    """wine's RtlVirtualUnwind, with the trampolines executed step by step."""
    gcc = need(compiler("windows/amd64"))
    need("/usr/lib/wine/wine64")
    compiled = compile_text((PROGRAMS / "walk.tramp").read_text("utf-8"), "windows/amd64")
    assert (
        sum(len(list(filter(".seh_proc through".__eq__, lines))) for lines in compiled["through"].unwinding or ()) == 3
    )
    begin, end = (f".text\n.globl {name}\n{name}:\n" for name in ("trampolines_begin", "trampolines_end"))
    (tmp_path / "trampolines.s").write_text(begin + compiled.text + end, "utf-8")
    program = tmp_path / "walk.exe"
    sources = [str(PROGRAMS / "walk.c"), str(tmp_path / "trampolines.s")]
    subprocess.run([gcc, "-O1", "-o", str(program), *sources], check=True, timeout=60)
    with Wine("amd64", gcc, tmp_path) as wine:
        ran = wine.run(program, timeout=60, cwd=tmp_path)
    assert ran.status == 0, ran.output
