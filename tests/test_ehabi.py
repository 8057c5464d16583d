"""The index table that unwinders read on linux/arm: what assemblers make of the directives leads from every call to
where the rows of the code say that the caller is, and audits walk by what is in files of others."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_examples import EXAMPLES
from tools import need

from trampoline_dsl import compile_text
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import find_symbol, read_image
from trampoline_dsl.cfi import Row
from trampoline_dsl.diagnostics import Source, read_source
from trampoline_dsl.elf import Several
from trampoline_dsl.exidx import IndexTable, read_directives, unwound
from trampoline_dsl.image import Image
from trampoline_dsl.pipeline import Artifact, Compiled, compile_source
from trampoline_dsl.targets import find_target
from trampoline_dsl.transitions import followed
from trampoline_dsl.unwind import Frame, Place, Table, UnwindError
from trampoline_dsl.verify import Session, code_of

ROOT = Path(__file__).parent
FIXED = sorted((ROOT / "fixedbugs").glob("*.tramp"))
CLANG = "clang-14"


def assembled(text: str, target: str, assembler: str, folder: Path) -> Image:
    architecture = find_target(target).architecture
    command = [*architecture.gnu_as]
    if assembler == "clang":
        command = [CLANG, *architecture.clang, "-c", "-x", "assembler"]
    made = folder / "made.o"
    need(command[0])
    subprocess.run([*command, "-o", str(made), "-"], input=text.encode(), check=True, timeout=60)
    return read_image(made.read_bytes(), "made.o")


def index_of(image: Image) -> IndexTable:
    found = image.unwindings
    if isinstance(found, Several):
        found = found.kinds[-1]
    assert isinstance(found, IndexTable)
    return found


def said(image: Image, name: str, size: int) -> Table:
    start = find_symbol(image, name).code
    assert start is not None
    table = index_of(image).of(start, start + size)
    assert isinstance(table, Table)
    return table


def wanted(row: Row) -> tuple[object, dict[int, Place]]:
    """What a row says, in terms of the reader."""
    kinds = {"offset": "offset", "expression": "expression", "undefined": "undefined"}
    places = {
        number: Place(kinds[rule.kind], rule.offset, rule.expression.code)  # type: ignore[arg-type]
        for number, rule in row.rules.items()
        if rule.kind != "same"
    }
    return row.expression.code or (row.register, row.offset), places


def told(frame: Frame) -> tuple[object, dict[int, Place]]:
    return frame.expression or (frame.register, frame.offset), dict(frame.places)


def calls(artifact: Artifact) -> Iterator[tuple[int, Row]]:
    """Where an unwinder looks for each call, in bytes, and what holds while the callee runs: what does behind it."""
    rows = followed(artifact._described, artifact.target.architecture)
    for index, insn in enumerate(artifact.instructions):
        if insn.transfer == "call":
            behind = next(i for i in range(index + 1, len(rows)) if artifact.instructions[i].label is None)
            row = rows[behind]
            assert row is not None
            yield artifact.offsets[behind] - 2, row


def compare(compiled: Compiled, image: Image) -> int:
    seen = 0
    for artifact in compiled.own:
        table = said(image, artifact.name, len(artifact.code))
        for place, row in calls(artifact):
            frame, right = table.at(place), wanted(row)
            if Place("undefined") == right[1].get(14):
                assert frame.place(14).kind == "undefined"
            else:
                known = {number: rule for number, rule in right[1].items() if rule.kind != "undefined"}
                assert told(frame) == (right[0], known), (artifact.name, place)
            seen += 1
    return seen


@pytest.mark.parametrize(
    ("target", "assembler"), [("linux/arm", "gnu"), ("linux/arm", "clang"), ("linux/arm-soft", "gnu")]
)
def test_the_index_leads_from_calls_to_callers(target: str, assembler: str, tmp_path: Path) -> None:
    seen = 0
    for path in (*EXAMPLES, *FIXED):
        if path.parent.name != "contracts":
            compiled = compile_source(read_source(path), [find_target(target)])[target]
            if compiled.own:
                seen += compare(compiled, assembled(compiled.text, target, assembler, tmp_path))
    assert seen > 100


STACKS = """
extern f(x: uptr) -> uptr using c
trampoline stacks(x: uptr, top: ptr) -> uptr using c {
    let r = call f(x)
    on stack top & -16 {
        r = call f(r)
    }
    r = call f(r)
    return r
}
check stacks { stack other given { top = other.top } }
"""
DESCRIBES = re.compile(r"\t\.(save|vsave|pad|unwind_raw) ")


def test_a_directive_that_is_missing_is_found(tmp_path: Path) -> None:
    """So the comparison sees each of them; and what is said of one call is not taken for another one."""
    compiled = compile_text(STACKS, "linux/arm")
    lines = compiled.text.splitlines(keepends=True)
    assert compare(compiled, assembled(compiled.text, "linux/arm", "gnu", tmp_path)) == 3
    assert sum(line == "\t.fnstart\n" for line in lines) == 3
    places = [index for index, line in enumerate(lines) if DESCRIBES.match(line)]
    assert len(places) > 5
    for place in places:
        text = "".join((*lines[:place], *lines[place + 1 :]))
        with pytest.raises(AssertionError):
            compare(compiled, assembled(text, "linux/arm", "gnu", tmp_path))


def spoiled(index: Sequence[tuple[int, str]]) -> Iterator[tuple[tuple[int, str], ...]]:
    """Each directive left out (`.fnend` and `.fnstart` together), changed, or in the place of its whole range."""
    for place, (offset, text) in enumerate(index):
        before, behind = (*index[:place],), (*index[place + 1 :],)
        if text == ".fnend":
            yield (*before, *behind[1:])
        elif text != ".fnstart":
            yield (*before, *behind)
            yield (*before, (offset, ".cantunwind"), *behind)
            if ".pad" in text:
                yield (*before, (offset, ".pad #2000"), *behind)


def test_verify_walks_by_what_is_said_of_calls() -> None:
    """Each mistake is found, and told apart from one of the call frame information."""
    count = 0
    shapes = [path for path in EXAMPLES if path.stem in ("call_on_stack", "callback_with_context", "crosscall2")]
    sources = [
        Source("stacks.tramp", STACKS),
        *map(read_source, (*shapes, ROOT / "fixedbugs" / "pushed_overwritten.tramp")),
    ]
    for source in sources:
        compiled = compile_source(source, [find_target("linux/arm")])["linux/arm"]
        for artifact in compiled.own:
            code = code_of(artifact)
            assert code.index is not None
            assert Session(compiled).judge(artifact, 1, 2).obligations["unwind"].state != "violated"
            for wrong in spoiled(code.index):
                session = Session(compiled, {code.name: replace(code, index=wrong)})
                found = session.judge(artifact, 1, 2).violations
                assert found, (artifact.name, wrong)
                assert {v.obligation for v in found} == {"unwind"}
                assert all("by .ARM.exidx, " in v.message for v in found), (artifact.name, wrong)
                count += 1
    assert count > 50


def test_verify_says_when_the_call_frame_information_is_wrong() -> None:
    compiled = compile_text(STACKS, "linux/arm")
    code = code_of(compiled["stacks"])
    wrong = tuple(one for one in code.unwinding or () if isinstance(one, tuple) and "lr" not in one[1])
    found = Session(compiled, {code.name: replace(code, unwinding=wrong)}).judge(compiled["stacks"], 1, 2).violations
    assert found
    assert all("by call frame information, " in violation.message for violation in found)


def test_system_calls_and_text_of_users_are_walked_from() -> None:
    source = """
    trampoline asks(x: uptr) -> uptr using c {
        let r: uptr = 0
        asm arm { in r4 = x  out r5 = r  "mov r5, r4" }
        return r
    }
    trampoline kernel(x: uptr) -> uptr using c { return syscall 20(x) }
    """
    compiled = compile_text(source, "linux/arm")
    for artifact in compiled.own:
        code = code_of(artifact)
        wrong = (*(code.index or ()), (0, ".pad #4"))
        found = Session(compiled, {code.name: replace(code, index=wrong)}).judge(artifact, 1, 2).violations
        assert any("by .ARM.exidx, the walk" in violation.message for violation in found), artifact.name


@pytest.mark.parametrize("text", [".save {r99}", ".vsave {}", ".pad four", ".setfp", "nothing", ".unwind_raw 0, 0xb4"])
def test_directives_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UnwindError):
        read_directives([(0, text)], {"r4": 4})


def test_a_table_of_entries_has_no_frame(tmp_path: Path) -> None:
    source = """
extern f(x: uptr) using c
table entries[4] enters enter
trampoline enter(x: uptr) using c {
    call f(x + table index)
}
"""
    compiled = compile_text(source, "linux/arm")
    table = compiled.tables["entries"]
    found = said(assembled(compiled.text, "linux/arm", "gnu", tmp_path), "entries", len(table.code))
    assert list(found.frames) == [Frame(13, 0)]


def test_what_never_comes_back_ends_the_walk(tmp_path: Path) -> None:
    path = next(path for path in EXAMPLES if path.stem == "set_jump")
    compiled = compile_source(read_source(path), [find_target("linux/arm")])["linux/arm"]
    table = said(assembled(compiled.text, "linux/arm", "gnu", tmp_path), "long_jump", len(compiled["long_jump"].code))
    assert [frame and frame.place(14) for frame in table.frames] == [Place("undefined")]


@pytest.mark.parametrize("assembler", ["gnu", "clang"])
def test_a_program_that_nobody_unwinds_links(assembler: str, tmp_path: Path) -> None:
    """Assemblers refer to what reads the index; nothing here has it."""
    source = """
    trampoline plain(f: ptr) -> i32 using c { return call f() using c -> i32 }
    trampoline elsewhere(f: ptr, top: ptr) using c { on stack top { call f() using c } }
    """
    text = compile_text(source, "linux/arm").text
    assembled(text, "linux/arm", assembler, tmp_path)
    command = [need("arm-linux-gnueabihf-ld"), "-e", "plain", "--fatal-warnings", "-o", "linked", "made.o"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


def test_windows_has_none() -> None:
    compiled = compile_text(STACKS, "windows/arm")
    assert compiled["stacks"].index is None
    assert ".fnstart" not in compiled.text


# --------------------------------------------------------------------------------------------------------- instructions


def doubles(first: int, count: int, start: int) -> dict[int, Place]:
    return {256 + first + n: Place("offset", start + 8 * n) for n in range(count)}


# After the table of frame unwinding instructions.
@pytest.mark.parametrize(
    ("code", "frame"),
    [
        ("b0", Frame(13, 0)),
        ("", Frame(13, 0)),
        ("00 3f b0", Frame(13, 4 + 256)),
        ("41 02", Frame(13, -8 + 12)),
        ("b2 04 b0", Frame(13, 0x204 + 16)),
        ("b2 8f 4d", Frame(13, 40000)),
        ("80 01", Frame(13, 4, places={4: Place("offset", -4)})),
        ("84 00", Frame(13, 4, places={14: Place("offset", -4)})),
        ("88 08", Frame(13, 8, places={7: Place("offset", -8), 14: Place("offset", -4)})),  # pc
        ("a1", Frame(13, 8, places={4: Place("offset", -8), 5: Place("offset", -4)})),
        ("a8", Frame(13, 8, places={4: Place("offset", -8), 14: Place("offset", -4)})),
        ("b1 09", Frame(13, 8, places={0: Place("offset", -8), 3: Place("offset", -4)})),
        ("9b 00", Frame(11, 4)),
        ("c9 83", Frame(13, 32, places=doubles(8, 4, -32))),
        ("c8 01", Frame(13, 16, places=doubles(16, 2, -16))),
        ("d1", Frame(13, 16, places=doubles(8, 2, -16))),
        ("b9", Frame(13, 20, places=doubles(8, 2, -20))),
        ("b3 80", Frame(13, 12, places=doubles(8, 1, -12))),
        ("01 82 00 00", Frame(13, 0, bytes.fromhex("7d 08 06 23 04"))),
        ("80 01 94 40", Frame(13, 0, bytes.fromhex("7d 00 06 11 7c 22"), {4: Place("expression", 0, b"\x7d\x00")})),
    ],
)
def test_frame_unwinding_instructions(code: str, frame: Frame) -> None:
    assert unwound(bytes.fromhex(code)) == frame


@pytest.mark.parametrize("code", ["80 00", "9d", "9f", "b1 00", "b1 10", "b4", "c0", "ff", "80", "b2 80", "c9"])
def test_what_is_no_instruction_is_refused(code: str) -> None:
    with pytest.raises(UnwindError):
        unwound(bytes.fromhex(code))


# -------------------------------------------------------------------------------------------------- code from elsewhere

C = """
void g(void), h(int *);
int f(int x) { __asm__ volatile("" ::: "r4", "r7", "r8", "r9"%s); g(); return x; }
int v(int x) { int a[x & 63]; h(a); return a[0]; }
int w(int x) { int a[5]; h(a); return a[x & 3]; }
int leaf(int x) { return x + 1; }
"""
CONTRACT = """
extern g() using c
extern h(x: ptr) using c
trampoline f(x: i32) -> i32 using c
trampoline v(x: i32) -> i32 using c
trampoline w(x: i32) -> i32 using c
trampoline leaf(x: i32) -> i32 using c
"""


def by_gcc(folder: Path, *options: str, drop: str = "") -> Image:
    """C code with an index table and no call frame information, without the directives that begin with `drop`."""
    source, text = folder / "made.c", folder / "made.s"
    source.write_text(C % ', "d8", "d9", "d10"', "utf-8")
    compiler = need("arm-linux-gnueabihf-gcc")
    plain = ("-marm", "-fno-pic", "-fno-stack-protector", "-funwind-tables")
    subprocess.run([compiler, *plain, *options, "-S", "-o", str(text), str(source)], check=True, timeout=60)
    lines = text.read_text("utf-8").splitlines()
    kept = "\n".join(line for line in lines if not drop or not line.strip().startswith(drop))
    return assembled(kept + "\n", "linux/arm", "gnu", folder)


def audited(image: Image, *names: str) -> list[str]:
    symbols = {name: find_symbol(image, name) for name in names}
    verdicts = audit(image, symbols, compile_text(CONTRACT, "linux/arm"), runs=2)
    return [verdict.obligations["unwind"].state for verdict in verdicts]


@pytest.mark.parametrize("level", [("-O2",), ("-O0", "-fno-omit-frame-pointer"), ("-O2", "-fexceptions")], ids=" ".join)
def test_what_gcc_says_of_its_calls_holds(level: tuple[str, ...], tmp_path: Path) -> None:
    image = by_gcc(tmp_path, *level)
    assert isinstance(image.unwindings, IndexTable)
    assert audited(image, "f", "v", "w", "leaf") == ["held", "held", "held", "not applicable"]


@pytest.mark.parametrize("drop", [".save", ".vsave", ".pad", ".setfp"])
def test_what_is_wrong_with_an_index_is_found(drop: str, tmp_path: Path) -> None:
    states = audited(by_gcc(tmp_path, "-O2", drop=drop), "f", "v", "w")
    assert "violated" in states
