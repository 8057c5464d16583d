"""Text for Go's assembler, against that assembler: it takes the text, its bytes are ours, its table of stack depths is
true, `go vet` has nothing to say, and the code in its object is judged like Keystone's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import go_tools
import pytest
from gos_assembler import ROOT, TARGETS, assembled, compiled, judged, vetted, with_slots, written
from test_assemble import matrix

from trampoline_dsl import plan9
from trampoline_dsl.assemble import Assembled, assemble
from trampoline_dsl.cli import main
from trampoline_dsl.disassemble import disassemble
from trampoline_dsl.target import Architecture, Insn, Target, plan9_label
from trampoline_dsl.targets import all_targets

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
each_go = pytest.mark.parametrize("go", go_tools.distributions() or [None], ids=lambda go: go.name if go else "none")

HEAD = '#include "textflag.h"\n#include "funcdata.h"\n'


def present(go: go_tools.Go | None) -> go_tools.Go:
    return go if go is not None else go_tools.newest()


def symbol(name: str) -> str:
    return plan9.spelled(name)


# ------------------------------------------------------------------------------------------------------------ the bytes


def function(name: str, code: Sequence[Insn], target: Target) -> list[str]:
    """A TEXT of its own for some instructions. It returns at the end, so that a label stands in front of something, and
    so that the end can be told from the padding."""
    plan9_ = target.architecture.plan9()
    lines = [f"TEXT ·{name}(SB), NOSPLIT|NOFRAME, $0-0"]
    index = 0
    for statement in plan9_.statements(code, symbol):
        covered = code[index : index + statement.instructions]
        index += statement.instructions
        if covered[0].label is not None:
            lines.append(f"{plan9_label(covered[0].label)}:")
        elif statement.text is None:
            lines.append("\t" + "; ".join(plan9_.data(assemble(target.architecture, covered).code)))
        else:
            lines += [f"\t{line}" for line in statement.text.split("\n")]
    return [*lines, "\tRET"]


def alike(architecture: Architecture, code: bytes) -> list[str]:
    """The instructions as text, with what several encodings have in common said in one way."""
    rules = OTHER_WORDS.get(architecture.family, ())
    texts = []
    for one in disassemble(architecture, code, 0x1000):
        text = one.text
        for rule in rules:
            text = rule(text)
        if text:
            texts.append(text)
    return texts


def _arm64_constant(text: str) -> str:
    """Go's assembler makes constants of a bit pattern, of zero or of their complement, where several would do."""
    match = re.fullmatch(r"(mov|movz|movn|orr) ([xw])(\d+), (?:[xw]zr, )?#?(-?\w+)", text)
    if match is None:
        return text
    if match[4] in ("xzr", "wzr"):
        return f"x{match[3]} = 0x0" if match[1] == "mov" else text
    if not re.fullmatch(r"-?(0x)?[0-9a-f]+", match[4]):
        return text
    value = int(match[4], 0) & (0xFFFFFFFF if match[2] == "w" else 0xFFFFFFFFFFFFFFFF)
    if match[1] == "movn":
        value ^= 0xFFFFFFFF if match[2] == "w" else 0xFFFFFFFFFFFFFFFF
    return f"x{match[3]} = {value:#x}"


# Where Go's assembler chooses another encoding of what is the same: texts in which they are alike, by family.
OTHER_WORDS: dict[str, tuple[Callable[[str], str], ...]] = {
    "arm64": (_arm64_constant, lambda text: re.sub(r"^cmp (x\d+), xzr$", r"cmp \1, #0", text)),
}


def same(architecture: Architecture, ours: bytes, theirs: bytes) -> bool:
    return ours == theirs or alike(architecture, ours) == alike(architecture, theirs)


@cache
def ours(target: Target) -> dict[str, tuple[str, Sequence[Insn], Assembled]]:
    """Every case of a machine once, by a name for Go's assembler: what it is, our instructions, and our bytes."""
    known: set[tuple[Insn, ...]] = set()
    if target.os != "linux":  # the same machine has most of it there
        linux = all_targets()[f"linux/{target.architecture.name}"].linked("go")
        known |= {tuple(code) for _, code, _ in ours(linux).values()}
    cases: dict[str, tuple[str, Sequence[Insn], Assembled]] = {}
    for case in matrix(target.architecture):
        code = tuple(target.architecture.improve(case.code))  # with what is in delay slots
        if code and code not in known:
            known.add(code)
            cases[f"f{len(cases)}"] = case.what, code, assemble(target.architecture, code)
    return cases


@each_go
@each_target
def test_gos_assembler_makes_the_same_instructions(target: Target, go: go_tools.Go | None, tmp_path: Path) -> None:
    go = present(go)
    architecture = target.architecture
    lines: list[str] = [HEAD]
    cases = ours(target)
    for name, (_, code, _) in cases.items():
        lines += function(name, code, target)
    lines += ["TEXT ·last(SB), NOSPLIT|NOFRAME, $0-0", "\tRET"]
    source = tmp_path / f"matrix_{target.os}_{architecture.name}.s"
    source.write_text("\n".join(lines) + "\n")
    found = go_tools.read_object(go_tools.assemble(go, source, target), target)
    last = found["p.last"].code.rstrip(b"\0")
    wrong = []
    for name, (what, code, made) in cases.items():
        if made.relocations:
            continue  # what the linker fills is compared where it is linked, below
        theirs = with_slots(found[f"p.{name}"], target).rstrip(b"\0")
        if not theirs.endswith(last) or not same(architecture, made.code, theirs[: -len(last)]):
            texts = "; ".join(one.text for one in code)
            wrong.append(f"{what}: {texts}\n    ours {made.code.hex()}\n    Go   {theirs.hex()}")
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:40])


# --------------------------------------------------------------------------------------------------------- the examples


@each_go
@each_target
def test_gos_assembler_takes_every_example(target: Target, go: go_tools.Go | None, tmp_path: Path) -> None:
    assert assembled(target, present(go), tmp_path)


@each_go
@pytest.mark.parametrize("name", ["linux/386", "linux/amd64"])
def test_gos_assembler_takes_thread_slots_for_position_independent_code(
    name: str, go: go_tools.Go | None, tmp_path: Path
) -> None:
    """There they take an instruction more, and a register."""
    target = all_targets()[name].linked("go")
    file = written(ROOT / "examples" / "go" / "cgocallback.tramp", target, tmp_path)
    assert "TLS, " in file.read_text()
    go_tools.assemble(present(go), file, target, "runtime", "-shared")


@each_go
@each_target
def test_go_vet_has_nothing_to_say(target: Target, go: go_tools.Go | None, tmp_path: Path) -> None:
    assert vetted(target, present(go), tmp_path)


@each_go
@each_target
def test_the_code_in_gos_object_keeps_the_obligations(target: Target, go: go_tools.Go | None, tmp_path: Path) -> None:
    assert judged(target, present(go), tmp_path)


def test_go_vet_would_say_something(tmp_path: Path) -> None:
    """What the test above relies on: a wrong size of arguments is found."""
    target = next(target for target in TARGETS if target.os == "linux")
    path = ROOT / "examples" / "go" / "cgocallback.tramp"
    (tmp_path / "go.mod").write_text("module example\n\ngo 1.19\n")
    (tmp_path / "decl.go").write_text(
        re.sub(r"(?m)^package .*", "package p", compiled(path, target).go_declarations()["runtime"])
    )
    text = compiled(path, target).plan9_text.replace("runtime·cgocallback(SB)", "·cgocallback(SB)")
    text = re.sub(r"\$0-(\d+)", lambda match: f"$0-{int(match[1]) + 8}", text)
    (tmp_path / f"a_{target.os}_{target.architecture.name}.s").write_text(text)
    done = go_tools.newest().run("vet", "-asmdecl", ".", target=target, cwd=tmp_path)
    assert done.returncode != 0
    assert "wrong argument size" in done.stderr


# What Go's assembler has no word for, by mnemonic: the bytes are written.
WITHOUT_A_WORD: dict[str, set[str]] = {
    "386": {"ret"},
    "arm64": {"movk"},
    "ppc64": {"mfvscr", "mtvscr", "mtfsf"},
    "ppc64le": {"mfvscr", "mtvscr", "mtfsf"},
    "s390x": {"lam", "stam", "lfpc", "stfpc"},
}


@each_target
def test_bytes_are_written_for_what_has_no_word_alone(target: Target) -> None:
    spelling = target.architecture.plan9()
    found = set()
    for _, code, _ in ours(target).values():
        index = 0
        for statement in spelling.statements(code, symbol):
            covered = code[index : index + statement.instructions]
            index += statement.instructions
            if statement.text is None:
                found |= {one.text.split()[0] for one in covered}
    expected = WITHOUT_A_WORD.get(target.architecture.name, set())
    # What Windows shares with Linux has been seen there.
    assert found == expected or (target.os == "windows" and found < expected)


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_text_and_declarations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "examples" / "go" / "cgocallback.tramp"
    arguments = ["build", str(source), "--target", "linux/arm64", "--syntax", "plan9"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    text = (tmp_path / "cgocallback_linux_arm64.s").read_text()
    assert "TEXT runtime·cgocallback(SB), NOSPLIT|NOFRAME, $0-24\n\tGO_ARGS\n\tNO_LOCAL_POINTERS\n" in text
    declarations = (tmp_path / "cgocallback_linux_arm64_decl.go").read_text()
    assert "func cgocallback(fn unsafe.Pointer, frame unsafe.Pointer, ctxt uintptr)\n" in declarations
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cgocallback_linux_arm64.s",
        "cgocallback_linux_arm64_decl.go",
    ]
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == text


def test_what_go_cannot_name_is_not_declared(tmp_path: Path) -> None:
    source = ROOT / "examples" / "go" / "crosscall2.tramp"
    assert main(["build", str(source), "--target", "linux/arm64", "--syntax", "plan9", "-o", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["crosscall2_linux_arm64.s"]
    assert "TEXT crosscall2(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-0\n" in next(tmp_path.iterdir()).read_text()


SIGNATURES = """\
trampoline pkg.a(func: ptr, x: i8, y: f32) -> u16 using go0 { return 7 }
trampoline pkg.b(x: u64, a: iptr) -> ptr using goregs { return null }
trampoline pkg.c(a: u8, b: i64, c: u8) -> u8 using go0 { return 7 }
trampoline pkg.d(a: u8, b: i64, c: u16) using go0 { return }
"""


def test_go_types_and_words(tmp_path: Path) -> None:
    source = tmp_path / "a.tramp"
    source.write_text(SIGNATURES)
    assert main(["build", str(source), "--target", "linux/amd64", "--syntax", "plan9", "-o", str(tmp_path)]) == 0
    declarations = (tmp_path / "a_linux_amd64_decl.go").read_text()
    assert "package pkg\n" in declarations
    assert "func a(func_ unsafe.Pointer, x int8, y float32) (result uint16)\n" in declarations
    assert "func b(x uint64, a int64) (result unsafe.Pointer)\n" in declarations
    text = (tmp_path / "a_linux_amd64.s").read_text()
    assert "TEXT pkg·a(SB), NOSPLIT|NOFRAME, $0-18\n" in text
    assert "TEXT pkg·b<ABIInternal>(SB), NOSPLIT|NOFRAME, $0-24\n" in text


@each_target
def test_go_vet_agrees_on_the_sizes_of_arguments(target: Target, tmp_path: Path) -> None:
    source = tmp_path / "a.tramp"
    source.write_text(SIGNATURES)
    assert vetted(target, go_tools.newest(), tmp_path / "vet", [source]) == 4


def test_bytes_stand_for_what_has_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.tramp"
    source.write_text('trampoline f() using c { asm arm64 { "yield" } return }\n')
    assert main(["build", str(source), "--target", "linux/arm64", "--syntax", "plan9"]) == 0
    assert "\tWORD $0xd503203f // yield\n" in capsys.readouterr().out


def test_json_has_the_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "examples" / "go" / "crosscall2.tramp"
    arguments = ["build", str(source), "--target", "linux/s390x", "--syntax", "plan9"]
    assert main([*arguments, "--emit", "json"]) == 0
    [item] = json.loads(capsys.readouterr().out)["artifacts"]
    assert main(arguments) == 0
    assert item["text"] in capsys.readouterr().out
    assert "TEXT crosscall2(SB)" in item["text"]
