"""The command as a person's shell runs it, on input that is wrong, huge, deep, odd, or not there at all.

Whatever it is: exit status 2 and a diagnostic, no traceback, in bounded time and memory, and nothing half-written.
"""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_diagnostics import run

from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import default_targets, find_target

GOOD = "trampoline good(a: uptr) using c {\n    return\n}\n"
PATIENCE = 60  # seconds; none of these takes one on an idle machine
MEMORY = 2 << 30  # bytes of address space
DEEP = 10_000


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def trampoline(
    *arguments: str | os.PathLike[str], folder: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trampoline_dsl", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        preexec_fn=limited,
        env={**os.environ, "NO_COLOR": "1", **environment},
        check=False,
    )


def here(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """The same without a process of its own, which takes the most time."""
    status, out, err = run(list(arguments), folder)
    return subprocess.CompletedProcess(arguments, status, out.encode(), err.encode("utf-8", "surrogateescape"))


def refused(result: subprocess.CompletedProcess[bytes]) -> str:
    """What was said: of wrong input, and in the way that is promised."""
    text = result.stderr.decode("utf-8", "backslashreplace")
    assert result.returncode == 2, text
    assert result.stdout == b""
    assert "Traceback" not in text
    assert "internal error" not in text
    assert ": error[" in text
    return text


def build(text: str | bytes, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / "input.tramp").write_bytes(data)
    return here("build", "input.tramp", "--target", "linux/386", *options, folder=tmp_path)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "S002"),
        (b"\n\n  \t\n", "S002"),
        (b"\xef\xbb\xbf", "S002"),
        (b"\0" * 100, "F003"),
        (bytes(range(256)) * 16, "F003"),
        (b"\xff\xfe" + GOOD.encode("utf-16-le"), "F003"),
        (b"\x7fELF\x02\x01\x01" + b"\x80" * 100, "F003"),
        (GOOD.encode() + b"\x1a", "S001"),
    ],
    ids=["empty", "blank", "mark", "zeros", "binary", "utf-16", "elf", "end-of-file character"],
)
def test_a_file_that_is_no_source(data: bytes, code: str, tmp_path: Path) -> None:
    assert f"error[{code}]" in refused(build(data, tmp_path))


def test_a_file_of_50_megabytes(tmp_path: Path) -> None:
    with open(tmp_path / "input.tramp", "wb") as file:
        for _ in range(50):
            file.write(b"# a comment\n" * ((1 << 20) // 12))
    assert "error[F002]" in refused(trampoline("build", "input.tramp", folder=tmp_path))
    data = (tmp_path / "input.tramp").read_bytes()
    assert "error[F002]" in refused(trampoline("verify", "-", folder=tmp_path, stdin=data))


def test_a_file_without_end(tmp_path: Path) -> None:
    assert "error[F002]" in refused(trampoline("build", "/dev/zero", folder=tmp_path))
    assert "error[F001]" in refused(build('import "/dev/zero"\n' + GOOD, tmp_path))


@pytest.mark.parametrize("name", ["nothing.tramp", "", "no/such/x.tramp", "x" * 300, "/proc/self/mem", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    for command in ("build", "verify", "show"):
        assert "error[F00" in refused(here(command, name, folder=tmp_path))


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.tramp"
    path.write_text(GOOD)
    path.chmod(0)
    result = trampoline("build", path, "--target", "linux/386", folder=tmp_path)
    if os.geteuid() == 0:  # who may read everything
        assert result.returncode == 0
    else:
        assert "Permission denied" in refused(result)


def test_names_that_are_odd(tmp_path: Path) -> None:
    for name in (
        b"a b.tramp",
        "größe.tramp".encode(),
        b"new\nline.tramp",
        b"\xff\xfe.tramp",
        b"a:b.tramp",
        b"%s{0}.tramp",
    ):
        (tmp_path / os.fsdecode(name)).write_bytes(b"trampoline f() using c { misspelt = 1 }")
        text = refused(here("build", os.fsdecode(name), folder=tmp_path))
        assert "error[R041]" in text
    (tmp_path / "-x.tramp").write_text(GOOD)
    assert refused(here("build", "-x.tramp", folder=tmp_path))
    assert trampoline("build", "--", "-x.tramp", folder=tmp_path).returncode == 0


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a.tramp").symlink_to("b.tramp")
    (tmp_path / "b.tramp").symlink_to("a.tramp")
    assert "error[F001]" in refused(here("build", "a.tramp", folder=tmp_path))
    assert "error[F001]" in refused(build('import "a.tramp"\n' + GOOD, tmp_path))


def test_imports_that_go_round_or_on_and_on(tmp_path: Path) -> None:
    (tmp_path / "self.tramp").write_text('import "self.tramp"\nimport "other.tramp"\n' + GOOD)
    (tmp_path / "other.tramp").write_text('import "./self.tramp"\nextern f() using c\n')
    assert trampoline("build", "self.tramp", "--target", "linux/386", folder=tmp_path).returncode == 0
    for number in range(200):
        (tmp_path / f"file{number}.tramp").write_text(f'import "file{number + 1}.tramp"\n{GOOD}')
    text = refused(here("build", "file0.tramp", folder=tmp_path))
    assert "file40.tramp:1:8: error[S003]" in text


# ------------------------------------------------------------------------------------------------------ huge and deep


def nested(before: str, inside: str, after: str) -> str:
    return before * DEEP + inside + after * DEEP


def body(text: str) -> str:
    return f"struct s {{ n: ptr<s> }}\ntrampoline f(a: uptr, p: ptr<s>) using c {{\n{text}\nreturn\n}}\n"


DEEPLY_NESTED = {
    "if": body(nested("if a == 1 {", "", "}")),
    "if on lines": body(nested("if a == 1 {\n", "", "\n}")),
    "else": body(nested("if a == 1 { } else {", "", "}")),
    "else if": body("if a == 0 { }" + " else if a == 1 { }" * DEEP),
    "while": body(nested("while a == 1 {", "break", "}")),
    "on stack": body(nested("on stack a {", "", "}")),
    "when": body(nested("when 386 {", "", "}")),
    "else when": body("when 386 { }" + " else when arm { }" * DEEP),
    "brackets": body(f"let b = {nested('(', 'a', ')')}"),
    "open brackets": body(f"let b = {'(' * DEEP}"),
    "closing brackets": body(f"let b = {')' * DEEP}"),
    "closing braces": body("}" * DEEP),
    "minus": body(f"let b = {'-' * DEEP} a"),
    "complement": body(f"let b = {'~' * DEEP} a"),
    "not": body(f"if {'not ' * DEEP} a == 1 {{ }}"),
    "memory": body(f"let b = {nested('mem<uptr>(', 'a', ')')}"),
    "casts": body(f"let b = a{' as u8' * DEEP}"),
    "sum": body("let b = " + "a + " * 10 * DEEP + "a"),
    "product": body("let b = " + "a * " * DEEP + "a"),
    "or": body(f"if {'a == 1 or ' * DEEP} a == 1 {{ }}"),
    "and": body(f"if {'a == 1 and ' * DEEP} a == 1 {{ }}"),
    "fields": body(f"let b = p{'.n' * DEEP}"),
    "calls": body(f"let b = {nested('call f(', 'a', ')')}"),
    "arguments": body(f"call f({'a, ' * DEEP})"),
    "constant": "const A = " + "1+" * 10 * DEEP + "1\n" + GOOD,
    "structs": "".join(f"struct s{i} {{ f: s{i + 1} }}\n" for i in range(DEEP))
    + f"struct s{DEEP} {{ a: u8 }}\n"
    + GOOD,
    "constants": "".join(f"const c{i} = c{i + 1}\n" for i in range(DEEP)) + f"const c{DEEP} = 1\n" + GOOD,
    "growing constants": "const c0 = 3\n" + "".join(f"const c{i + 1} = c{i} * c{i}\n" for i in range(99)) + GOOD,
    "growing structs": "struct s0 { a: u8 }\n"
    + "".join(f"struct s{i + 1} {{ a: s{i}[1000] }}\n" for i in range(99))
    + GOOD,
    "conventions": "convention mine like c {" + nested("when 386 {", "", "}") + "}\n" + GOOD,
    "checks": GOOD + "check good {" + nested("when 386 {", "", "}") + "}\n",
}


@pytest.mark.parametrize("name", DEEPLY_NESTED)
def test_what_is_nested_ten_thousand_deep(name: str) -> None:
    """Through the library, which is where a person's own program would fall over."""
    with pytest.raises(InputError) as caught:
        compile_source(Source("deep.tramp", DEEPLY_NESTED[name]), [find_target("linux/386")])
    assert all(len(diagnostic.message) < 500 for diagnostic in caught.value.diagnostics)
    assert len(str(caught.value)) < 1_000_000


@pytest.mark.parametrize("name", ["if", "sum", "structs"])
def test_the_command_says_where_it_is_nested_too_deeply(name: str, tmp_path: Path) -> None:
    (tmp_path / "input.tramp").write_text(DEEPLY_NESTED[name])
    assert "input.tramp:" in refused(trampoline("build", "input.tramp", folder=tmp_path))


# What is as deep as it may be goes through every pass, from the bottom of a deep stack too.
DEEPEST = {
    "if": body("if a == 1 {" * 95 + "a = 2" + "}" * 95),
    "else if": body("if a == 0 { }" + " else if a == 1 { a = 3 }" * 60),
    "on stack": body("on stack a {" * 20 + "}" * 20),
    "sum": body("let b = " + "a + " * 180 + "a  a = b"),
    "not": body("if " + "not " * 180 + "a == 1 { a = 1 }"),
    "or": body("if " + "a == 1 or " * 90 + "a == 2 { a = 3 }"),
    "memory": body("a = " + "mem<uptr>(" * 150 + "a" + ")" * 150),
    "casts": body("a = a" + " as u8 as uptr" * 90),
    "brackets": body("a = " + "(" * 190 + "a" + ")" * 190),
    "constants": "".join(f"const c{i} = c{i + 1}\n" for i in range(38)) + "const c38 = 1\n" + GOOD,
    "structs": "".join(f"struct s{i} {{ f: s{i + 1} }}\n" for i in range(38)) + "struct s38 { a: u8 }\n" + GOOD,
}


@pytest.mark.parametrize("name", DEEPEST)
def test_what_is_as_deep_as_may_be(name: str) -> None:
    compiled = compile_source(
        Source("deep.tramp", DEEPEST[name]), [find_target("linux/386"), find_target("linux/s390x")]
    )
    for program in compiled.values():
        program.assemble()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (body("let " + "x" * 1_000_000 + " = 1"), "S006"),
        (body("let b = " + "x" * 60_000), "R041"),
        (body("call " + "x" * 30_000 + "()\nlet " + "x" * 29_999 + " = 1"), "R022"),
        (body("let b = " + "9" * 50_000), "S004"),
        (body("let b = 0x" + "f" * 50_000), "S004"),
        (body("let b = 0b" + "1" * 50_000), "S004"),
        ("convention mine like c { align " + "9" * 50_000 + " }\n" + GOOD, "S004"),
        (body('asm 386 { "' + "n" * 50_000 + '" }'), "A001"),
        ('import "' + "x" * 50_000 + '"\n' + GOOD, "F001"),
        ('struct s from "' + "x" * 50_000 + '" { a: u8 }\n' + GOOD, "H001"),
        ("x" * 1_000_000, "S006"),
        ("trampoline f() using c { return } " * 20_000, "S006"),
        (body("a = a ? 1 " * 5_000), "S001"),
        ("}\n" * 50_000 + GOOD, "S00"),
        ("check\n" * 50_000, "S00"),
    ],
    ids=range(15),
)
def test_what_is_long(text: str, code: str, tmp_path: Path) -> None:
    text = refused(build(text, tmp_path))
    assert f"error[{code}" in text
    # A thing may be named in full, but no line of the source is shown to its end.
    assert all(len(line) < 400 for line in text.splitlines() if " | " in line)


def test_many_long_names_that_are_nearly_the_same(tmp_path: Path) -> None:
    """Looking for the nearest name takes time for each."""
    names = [f"{'name' * 12}_{i:05}" for i in range(600)]
    text = "".join(f"extern {name}() using c\n" for name in names)
    text += "".join(f"trampoline t{i}() using c {{ call {name}x() }}\n" for i, name in enumerate(names))
    started = time.monotonic()
    assert refused(build(text, tmp_path)).endswith("500 errors, and perhaps more\n")
    assert time.monotonic() - started < PATIENCE


# -------------------------------------------------------------------------------------------------------- the command


def test_targets_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    for name in ("", "vax", "linux/", "/", "linux/386 ", "LINUX/386", "*", "linux/386,linux/arm"):
        for command in ("build", "verify", "show"):
            assert "error[T001]" in refused(here(command, "good.tramp", "--target", name, folder=tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        ["--runs", "0"],
        ["--runs", "-1"],
        ["--runs", "1.5"],
        ["--runs", "99999999999"],
        ["--seed", ""],
        ["--seed", "1e3"],
        ["--seed", "9" * 5000],
        ["--jobs", "0"],
        ["--jobs", "many"],
        ["--target"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_options_that_mean_nothing(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    assert "error[U001]" in refused(here("verify", "good.tramp", *options, folder=tmp_path))


@pytest.mark.parametrize("seed", ["-1", "0x10", "123456789012345678901234567890"])
def test_seeds_may_be_any_number(seed: str, tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    arguments = ["good.tramp", "--seed", seed, "--runs", "1", "--target", "linux/386"]
    assert here("verify", *arguments, folder=tmp_path).returncode == 0


def test_output_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    (tmp_path / "file").write_text("mine")
    assert "error[F005]" in refused(here("build", "good.tramp", "-o", "file", folder=tmp_path))
    assert "error[F005]" in refused(here("build", "good.tramp", "-o", "file/inner", folder=tmp_path))
    assert "error[F005]" in refused(here("build", "good.tramp", "-o", "/dev/null/x", folder=tmp_path))
    assert "error[F005]" in refused(here("build", "good.tramp", "-o", "/proc/x", folder=tmp_path))
    assert (tmp_path / "file").read_text() == "mine"
    # One of the files cannot be put where it belongs: then none of them is.
    (tmp_path / "out" / "good_linux_s390x.s").mkdir(parents=True)
    assert "error[F005]" in refused(here("build", "good.tramp", "-o", "out", folder=tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_linux_s390x.s"]
    # Nor where one input is wrong.
    (tmp_path / "wrong.tramp").write_text("trampoline f() using c { misspelt = 1 }")
    refused(here("build", "good.tramp", "wrong.tramp", "-o", "new", folder=tmp_path))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        result = trampoline("build", "good.tramp", "-o", "out", folder=tmp_path)
        if os.geteuid() != 0:  # who may write everywhere
            assert "error[F005]" in refused(result)
            assert not list(folder.iterdir())
    finally:
        folder.chmod(stat.S_IRWXU)


def piped(arguments: str, tmp_path: Path) -> str:
    """Run by a shell, for its redirections."""
    command = f"{sys.executable} -m trampoline_dsl {arguments}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}; echo status $? >&2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert "internal error" not in result.stderr
    return result.stderr


def test_streams_that_are_closed_or_full(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    (tmp_path / "wrong.tramp").write_text("trampoline f() using c { misspelt = 1 }")
    assert "error[S002]" in piped("build - <&-", tmp_path)
    assert "error[S002]" in piped("build - </dev/null", tmp_path)
    assert "error[F005]: cannot write there: No space left" in piped("build good.tramp >/dev/full", tmp_path)
    assert piped("build good.tramp >&-", tmp_path) == "status 0\n"
    assert piped("build good.tramp | head -c 10 >/dev/null", tmp_path).endswith("status 0\n")
    assert piped("verify good.tramp --target linux/386 | true", tmp_path).endswith("status 0\n")
    assert piped("targets | true", tmp_path).endswith("status 0\n")
    assert piped("build wrong.tramp 2>&-", tmp_path) == "status 2\n"
    assert piped("build wrong.tramp 2>/dev/full", tmp_path) == "status 2\n"
    assert piped("build --emit json wrong.tramp >/dev/full", tmp_path) == "status 2\n"
    assert piped("verify --json wrong.tramp >&-", tmp_path) == "status 2\n"


def test_what_is_not_held_is_not_hidden_by_a_reader_that_leaves(tmp_path: Path) -> None:
    bad = 'trampoline f() using c {\n    asm 386 { "xor ebx, ebx" }\n    return\n}\n'
    (tmp_path / "bad.tramp").write_text(bad)
    assert piped("verify bad.tramp --target linux/386 | true", tmp_path).endswith("status 1\n")


def test_a_terminal_that_lacks_the_characters(tmp_path: Path) -> None:
    (tmp_path / "größe.tramp").write_text("# Größe\ntrampoline f() using c { größe = 1 }\n")
    for encoding in ("ascii", "latin-1", "utf-8"):
        text = trampoline("build", "größe.tramp", folder=tmp_path, PYTHONIOENCODING=encoding)
        assert b"error[S001]" in text.stderr
        assert text.returncode == 2
    (tmp_path / "good.tramp").write_text("# Größe\n" + GOOD.replace("return", "return  # 日本"))
    result = trampoline("show", "good.tramp", "--target", "linux/386", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert b"\\u65e5\\u672c" in result.stdout


# --------------------------------------------------------------------------------------- what is odd, and is no mistake


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", " "),
        lambda text: text.replace(" ", "\t"),
        lambda text: text + "# " + "x" * 100_000 + " 日本語 \u2028 \x0c\n",
        lambda text: text + "\n" * 100_000,
    ],
    ids=["windows", "byte order mark", "no end of line", "one line", "tabs", "long comment", "empty lines"],
)
def test_a_file_that_looks_odd_and_is_right(change: Callable[[str], str]) -> None:
    target = find_target("linux/386")
    plain = compile_source(Source("x.tramp", GOOD), [target])[target.name]["good"]
    text = change(GOOD).encode().decode("utf-8-sig")
    assert compile_source(Source("x.tramp", text), [target])[target.name]["good"].code == plain.code


def test_what_a_convention_reserves_is_left_alone() -> None:
    text = """
    convention mine like c {
        when 386 { reserves ecx, ebx, esi, xmm0, xmm1 }
        when amd64 { reserves r10, rbx, xmm8 }
        when arm { reserves r4, r5, d8 }
        when arm64 { reserves x9, x10, x19, v16 }
        when mips, mipsle, mips64, mips64le { reserves t0, t1, s0, f20 }
        when ppc64, ppc64le { reserves r14, r31, f14 }
        when s390x { reserves r7, r8, f1, f3 }
    }
    extern g(a: uptr) -> uptr using c
    trampoline f(a: uptr, b: uptr, d: uptr) -> uptr using mine {
        let e = call g(a)
        let h = call g(b)
        return e + h + d + (a & b)
    }
    """
    for name, compiled in compile_source(Source("x.tramp", text), default_targets()).items():
        artifact = compiled["f"]
        convention = artifact.function.convention
        own = set(convention.reserved) - set(compiled.target.conventions["c"].reserved)
        assert own, name
        body = [insn for insn in artifact.instructions if insn.part == "body" and insn.transfer != "call"]
        written = {register for insn in body for register in insn.writes}
        assert not own & written, name
