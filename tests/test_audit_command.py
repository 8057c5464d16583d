"""The command `trampoline audit`: from objects and manifests to verdicts."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from tools import need

from trampoline_dsl import InputError, audit_file, audit_manifest
from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.objects import make_object
from trampoline_dsl.pipeline import compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.targets import find_target

CONTRACT = """\
extern ext(a: i32) -> i32 using c

trampoline f(a: i32) -> i32 using c
"""
RIGHT = """\
.text
.globl f
.type f, %function
f: push %rbx
mov %edi, %ebx
call ext@PLT
add %ebx, %eax
pop %rbx
ret
.size f, .-f
"""
WRONG = RIGHT.replace("push %rbx", "sub $8, %rsp").replace("pop %rbx", "add $8, %rsp")
S390X = {
    "right.o": "stmg %r14,%r15,112(%r15)\nlay %r15,-160(%r15)\nbrasl %r14,ext@PLT\nlmg %r14,%r15,272(%r15)\nbr %r14\n",
    "wrong.o": "stmg %r14,%r15,112(%r15)\nlay %r15,-160(%r15)\nbrasl %r14,ext@PLT\nlmg %r14,%r15,272(%r15)\n"
    "lghi %r6,1\nbr %r14\n",
}


def assemble(prefix: str, text: str, path: Path, *options: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    command = [need(f"{prefix}-as"), *options, "-o", str(path), "-"]
    subprocess.run(command, input=text.encode(), check=True, timeout=60, cwd=path.parent)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f.tramp").write_text(CONTRACT)
    assemble("x86_64-linux-gnu", RIGHT, tmp_path / "objects" / "right.o")
    (tmp_path / "objects" / "wrong.s").write_text(WRONG)
    assemble("x86_64-linux-gnu", WRONG, tmp_path / "objects" / "wrong.o", "-g")
    return tmp_path


def test_what_holds_has_status_0_and_what_does_not_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--source", str(folder / "f.tramp"), "--runs", "4"]
    assert main(["audit", str(folder / "objects" / "right.o"), "--symbol", "f", *source]) == 0
    assert "1 of 1 hold: 1 function on 1 target" in capsys.readouterr().out
    assert main(["audit", str(folder / "objects" / "wrong.o"), "--symbol", "f", *source]) == 1
    out = capsys.readouterr().out
    assert "violated[preserve]: f on linux/amd64: rbx was" in out
    assert ":5: violated" in out  # the line of the source, by the debug information
    assert "  >    0x4  mov ebx, edi" in out
    assert "       0x0  sub rsp, 8" in out


def test_json_is_the_document_of_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = str(folder / "objects" / "wrong.o")
    command = ["audit", made, "--symbol", "f", "--source", str(folder / "f.tramp"), "--json", "--runs", "2"]
    assert main(command) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    [result] = document["results"]
    assert (result["trampoline"], result["symbol"], result["object"]) == ("f", "f", made)
    assert result["target"] == "linux/amd64"
    assert result["obligations"]["preserve"] == "violated"
    assert result["obligations"]["align"] == "held"
    assert {"register": "rbx", "instruction": "mov ebx, edi"}.items() <= result["violations"][0].items()


def test_a_manifest_names_what_is_to_be_audited(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in S390X.items():
        assemble("s390x-linux-gnu", f".globl f\nf: {text}", folder / "zseries" / name)
    ar = need("x86_64-linux-gnu-ar")
    objects = [str(path) for path in sorted((folder / "objects").glob("*.o"))]
    subprocess.run([ar, "rc", str(folder / "lib.a"), *objects], check=True, timeout=60)
    (folder / "audits.toml").write_text(
        '[[audit]]\nobject = "*.o"\ndirectory = "zseries"\nsymbol = "f"\nsource = "f.tramp"\n\n'
        '[[audit]]\nobject = "lib.a"\nmember = "right.o"\nsymbol = ["f"]\nsource = "f.tramp:f"\n'
    )
    assert main(["audit", "--manifest", str(folder / "audits.toml"), "--runs", "2"]) == 1
    out = capsys.readouterr().out
    assert "2 of 3 hold: 3 functions on 2 targets" in out
    assert out.count("violated[preserve]: f on linux/s390x: r6") == 1
    report = audit_manifest(folder / "audits.toml", runs=2)
    assert [Path(v.object).name for v in report.verdicts] == ["right.o", "wrong.o", "lib.a(right.o)"]
    assert [v.good for v in report.verdicts] == [True, False, True]


def test_what_a_table_enters_is_refused_without_the_table(folder: Path) -> None:
    (folder / "table.tramp").write_text(
        "table entries[4] enters f\nextern ext(a: uptr) using c\n"
        "trampoline f(a: i32) -> i32 using c { call ext(table index) return a }\n"
    )
    with pytest.raises(InputError, match="is entered through the table `entries`"):
        audit_file(folder / "objects" / "right.o", "f", folder / "table.tramp")


def test_bytes_alone(folder: Path) -> None:
    (folder / "leaf.tramp").write_text("trampoline leaf(a: u64, b: u64) -> u64 using c { return a + b }\n")
    right, wrong = folder / "right.bin", folder / "wrong.bin"
    right.write_bytes(bytes.fromhex("488d0437c3"))  # lea (%rdi,%rsi,1),%rax; ret
    wrong.write_bytes(bytes.fromhex("4889f8c3"))  # mov %rdi,%rax; ret
    source = folder / "leaf.tramp"
    assert audit_file(right, (), source, "linux/amd64", base=0x40_0000, runs=2).good
    report = audit_file(wrong, (), source, "linux/amd64", base=0x40_0000, runs=2)
    assert {v.obligation for v in report.verdicts[0].violations} & {"effect", "args"}


def test_a_store_where_there_is_no_memory(folder: Path) -> None:
    (folder / "leaf.tramp").write_text("trampoline leaf(a: u64) using c\n")
    made = folder / "wild.bin"
    made.write_bytes(bytes.fromhex("48893c2590010000c3"))  # mov %rdi,0x190; ret
    report = audit_file(made, (), folder / "leaf.tramp", "linux/amd64", base=0x40_0000, runs=2)
    assert {("writes", 0x190, None)} <= {(v.obligation, v.memory, v.expected) for v in report.verdicts[0].violations}


def test_an_object_that_has_changed_is_read_again(folder: Path) -> None:
    made, source = folder / "objects" / "wrong.o", folder / "f.tramp"
    assert not audit_file(made, "f", source, runs=2).good
    assemble("x86_64-linux-gnu", RIGHT, made)
    assert audit_file(made, "f", source, runs=2).good


def test_a_body_says_what_the_code_does(folder: Path) -> None:
    body = CONTRACT.rstrip() + " {\n    let b = call ext(a)\n    return a + b\n}\n"
    (folder / "f.tramp").write_text(body)
    made = folder / "objects" / "right.o"
    assert audit_file(made, "f", folder / "f.tramp", runs=4).good
    (folder / "f.tramp").write_text(body.replace("a + b", "a - b"))
    [verdict] = audit_file(made, "f", folder / "f.tramp", runs=4).verdicts
    assert not verdict.good


def test_wrong_input_is_told(folder: Path) -> None:
    made, source = folder / "objects" / "right.o", folder / "f.tramp"
    (folder / "two.tramp").write_text(f"{CONTRACT}\ntrampoline g() using c\n")
    (folder / "s390x.tramp").write_text("when s390x { trampoline f(a: i32) -> i32 using c }\n")
    (folder / "broken.tramp").write_text("trampoline f(\n")
    for arguments, code in (
        ((made, "f", source, "linux/arm64"), "O003"),
        ((made, "f", source, "linux/amd46"), "T001"),
        ((made, "g", source), "O002"),
        ((made, "ext", source), "O002"),
        ((made, "f", folder / "no.tramp"), "F001"),
        ((made, "f", folder / "broken.tramp"), "S005"),
        ((made, "f", folder / "s390x.tramp"), "O004"),
        ((made, "f", f"{folder / 'two.tramp'}:h"), "O004"),
        ((made, "0x1004", folder / "two.tramp"), "O004"),
        ((folder, "f", source), "O001"),
    ):
        with pytest.raises(InputError) as caught:
            audit_file(*arguments)  # type: ignore[arg-type]
        assert [d.code for d in caught.value.diagnostics] == [code], arguments
    with pytest.raises(InputError) as caught:
        audit_file(made, "f", source, member="f.o")
    assert [d.code for d in caught.value.diagnostics] == ["O001"]


def test_a_manifest_is_told_where_it_is_wrong(folder: Path) -> None:
    manifest = folder / "audits.toml"
    for change, code, line in (
        ('target = "linux/amd46"', "T001", 1),
        ('target = "linux/arm"', "O003", 1),
        ('member = "x.o"', "O001", 1),
        ('base = -1\ntarget = "linux/amd64"', "O001", 1),
        ("base = 1", "O003", 1),
        ('base = "1"', "O005", 5),
        ("include = [3]", "O005", 5),
        ('trampoline = "g"', "O004", 1),
        ('directory = "\\u0000"', "O001", 1),
    ):
        manifest.write_text(f'[[audit]]\nobject = "objects/right.o"\nsymbol = "f"\nsource = "f.tramp"\n{change}\n')
        with pytest.raises(InputError) as caught:
            audit_manifest(manifest)
        [found] = caught.value.diagnostics
        assert (found.code, found.span and found.span.line) == (code, line), change


def test_mach_o_needs_a_target(tmp_path: Path) -> None:
    (tmp_path / "f.tramp").write_text(CONTRACT)
    (tmp_path / "f.c").write_text("int ext(int); int f(int a) { return a + ext(a); }\n")
    made = tmp_path / "f.o"
    command = [need("clang-14"), "--target=x86_64-apple-macos", "-O1", "-c", "-o", str(made), str(tmp_path / "f.c")]
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(InputError, match="Darwin, which is no target"):
        audit_file(made, "f", tmp_path / "f.tramp")
    assert audit_file(made, "_f", tmp_path / "f.tramp", "linux/amd64", runs=4).good


def test_damaged_objects_never_make_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "objects" / "wrong.o").read_bytes()
    random_ = random.Random(3)
    made = folder / "damaged.o"
    seen = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(random_.choice((1, 2, 8))):
            data[random_.randrange(len(data))] = random_.randrange(256)
        made.write_bytes(data if random_.random() < 0.7 else data[: random_.randrange(len(data))])
        command = ["audit", str(made), "--symbol", "f", "--source", str(folder / "f.tramp"), "--runs", "1"]
        seen.add(main(command))
        capsys.readouterr()
    assert seen <= {0, 1, 2}
    assert 2 in seen


def test_a_table_that_the_object_has_is_gone_through(folder: Path) -> None:
    (folder / "entered.tramp").write_text(
        "table entries[4] enters f\nextern ext(a: uptr) using c\n"
        "trampoline f(a: i32) -> i32 using c { call ext(table index) return a }\n"
    )
    target = find_target("linux/amd64")
    program = compile_module(load_module(read_source(folder / "entered.tramp")), target)
    need(target.architecture.gnu_as[0])
    (folder / "entered.o").write_bytes(make_object(target, program.text))
    assert audit_file(folder / "entered.o", "f", folder / "entered.tramp", runs=2).good
