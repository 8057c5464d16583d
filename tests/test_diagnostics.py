"""What a person is told about wrong input, to the letter, for every diagnostic there is.

`tests/cases/wrong/NAME.tramp` is the input and `NAME.expected` what the command prints for it. A first line
`#: COMMAND OPTIONS` says which command, if not `build`. `python tests/test_diagnostics.py --update` writes the
expected texts, and the examples in docs/diagnostics.md, anew; what changed is then to be read with care.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import MAXIMUM_DIAGNOSTICS, InputError, Source, Span, render
from trampoline_dsl.objects import make_object
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.select import Selected
from trampoline_dsl.target import Insn
from trampoline_dsl.targets import default_targets, find_target

ROOT = Path(__file__).resolve().parent.parent
WRONG = ROOT / "tests" / "cases" / "wrong"
DOCUMENT = ROOT / "docs" / "diagnostics.md"
FILES = sorted(path.stem for path in WRONG.glob("*.tramp"))
GOOD = 'trampoline good(a: uptr) using c {\n    return\n}\ncheck good "a check" { }\n'
# The header of a COFF object for ARMNT, whose code is in another instruction set, with nothing in it.
THUMB = bytes.fromhex("c401000000000000140000000000000000000000") + (4).to_bytes(4, "little")
MANIFEST = """\
[[audit]]
object = "code.bin"
symbl = "code"
source = "good.tramp"

[[audit]]
object = 3
symbol = "code"
base = "0x1000"

[[audit]]
object = "*.so"
symbol = "code"
source = "good.tramp:good"

[other]
"""

# Wrong command lines, in a folder with good.tramp, other/good.tramp, a big, a binary and an empty file.
COMMANDS = {
    "F001_no_file": "build no_such_file.tramp neither.tramp",
    "F002_big_file": "build big.tramp",
    "F003_binary_file": "verify binary.tramp latin1.tramp zero.tramp",
    "F004_folder": "build nothing_here",
    "F005_output": "build good.tramp -o good.tramp/out",
    "R021_command": "convention cc --target linux/386",
    "R022_command": "show good.tramp:god --target linux/386",
    "S006_long": "build long.tramp",
    "T003_linkage": "verify good.tramp --pic --target windows/386",
    "T003_protect": "verify good.tramp --protect --target linux/s390x --target windows/amd64",
    "U001_protect": "build good.tramp --protect=pac-ret",
    "U008_protect": "build good.tramp --protect --syntax plan9",
    "U008_pic": "build good.tramp --pic --syntax plan9",
    "T001_command": "build good.tramp --target linux/armm --target s930x",
    "U001_usage": "verify good.tramp --runs 0",
    "U001_number": "verify good.tramp --seed soon",
    "U001_command": "biuld good.tramp",
    "U001_file": "build",
    "U001_option": "build good.tramp --emitt asm",
    "U001_choice": "build good.tramp --emit assembly",
    "U002_bytes": "build good.tramp --emit bin",
    "U003_same_name": "build good.tramp other/good.tramp -o out",
    "U004_folder": "build good.tramp -I nowhere -I neither",
    "U005_check": "trace good.tramp --target linux/386 --check chek",
    "A003_machine": "build good.tramp --emit obj --target windows/arm -o out",
    "U002_objects": "build good.tramp --emit obj --target linux/386 --target linux/amd64",
    "U006_targets": "trace good.tramp --target linux/386 --target linux/arm",
    "U007_library": "build good.tramp --emit obj -o lib.a --target linux/386 --target linux/amd64",
    "U011_folder": "show two --target linux/386",
    "U010_library": "build good.tramp other/good.tramp --emit obj -o lib.a --target linux/386",
    "F005_no_folder": "build good.tramp -o good.tramp",
    "O001_no_object": "audit good.tramp --symbol good --source good.tramp",
    "O001_no_file": "audit no_such.o --symbol good --source good.tramp",
    "O002_symbol": "audit code.bin --base 0x1000 --target linux/amd64 --symbol cod --symbol 0x2000 --source good.tramp",
    "O003_no_target": "audit code.bin --base 0x1000 --symbol code --source good.tramp",
    "O003_target": "audit thumb.o --target linux/arm --symbol f --source good.tramp",
    "O004_trampoline": "audit code.bin --base 0 --target linux/amd64 --source good.tramp:god",
    "O005_keys": "audit --manifest wrong.toml",
    "O005_syntax": "audit --manifest syntax.toml",
    "O005_nothing": "audit --manifest good.tramp",
    "U009_symbol": "audit good.tramp --source good.tramp",
    "U009_manifest": "audit thumb.o --manifest wrong.toml",
    "U008_syntax": "build good.tramp --emit obj --syntax plan9 -o out",
}


def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
    return status, out.getvalue(), err.getvalue()


def arguments_of(name: str) -> list[str]:
    first = (WRONG / f"{name}.tramp").read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
    command, *options = first[2:].split() if first.startswith("#:") else ["build"]
    return [command, f"{name}.tramp", *options]


def in_folder(arguments: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "other").mkdir()
        (folder / "nothing_here").mkdir()
        (folder / "two").mkdir()
        (folder / "two" / "one.tramp").write_text(GOOD)
        (folder / "two" / "other.tramp").write_text(GOOD)
        (folder / "good.tramp").write_text(GOOD)
        (folder / "other" / "good.tramp").write_text(GOOD)
        (folder / "big.tramp").write_bytes(b"\n" * (5 << 20))
        (folder / "long.tramp").write_text(
            "trampoline f(a: uptr) using c {\n" + "    a = a + 1\n" * 9000 + "    return\n}\n"
        )
        (folder / "binary.tramp").write_bytes(bytes(range(256)))
        (folder / "latin1.tramp").write_bytes("# Größe\n".encode("latin-1"))
        (folder / "code.bin").write_bytes(b"\xc3")
        (folder / "thumb.o").write_bytes(THUMB)
        (folder / "wrong.toml").write_text(MANIFEST)
        (folder / "syntax.toml").write_text('[[audit]]\nobject = "f.o\n')
        (folder / "zero.tramp").write_bytes(b"trampoline\0f() using c { }\n")
        return run(arguments, folder)


def no_thread() -> None:
    """No target is without a convention that has a `g`, yet."""
    target = find_target("linux/amd64")
    only_c = {"c": target.conventions["c"]}
    bare = replace(target, architecture=_with_conventions(target.architecture, only_c))
    compile_source(Source("R042.tramp", "trampoline f() using c {\n    g = null\n    return\n}\n"), [bare])


def _with_conventions(architecture: object, conventions: object) -> object:
    changed = copy(architecture)
    changed.conventions = conventions  # type: ignore[attr-defined]
    return changed


def no_system_calls() -> None:
    """Linux has them on every machine."""
    target = find_target("linux/arm64")
    architecture = copy(target.architecture)
    architecture.system_calls = None
    text = "trampoline f() using c {\n    syscall 1()\n}\n"
    compile_source(Source("R072.tramp", text), [replace(target, architecture=architecture)])


def no_assembler() -> None:
    """A machine for which nothing is installed."""
    target = find_target("linux/s390x")
    architecture = copy(target.architecture)
    architecture.gnu_as, architecture.clang = ("s390x-none-as",), ("--target=s390x-linux-gnu",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        make_object(replace(target, architecture=architecture), "")


def refused_text() -> None:
    """An assembler that takes nothing."""
    target = find_target("linux/s390x")
    architecture = copy(target.architecture)
    architecture.gnu_as = ("false",)
    make_object(replace(target, architecture=architecture), "")


def no_instruction() -> None:
    """What a machine lacks for a statement: code so far away takes 64 KiB of source."""
    target = find_target("linux/amd64")
    source = Source("A002.tramp", "trampoline f() using c {\n    return\n}\n")
    artifact = compile_source(source, [target])[target.name]["f"]
    start = source.text.index("return")
    selected = Selected((Insn("jmp nowhere"),), (1,), (None, Span(source, start, start + 1)))
    _ = replace(artifact, selected=selected).code


MADE: dict[str, Callable[[], None]] = {
    "R042_thread": no_thread,
    "R072_no_system_calls": no_system_calls,
    "A002_no_instruction": no_instruction,
    "A003_no_assembler": no_assembler,
    "A004_refused": refused_text,
}


def found_for(name: str) -> str:
    """What is printed on standard error; the rest of what must hold is checked here."""
    if name in MADE:
        with pytest.raises(InputError) as caught:
            MADE[name]()
        return "\n\n".join(render(diagnostic) for diagnostic in caught.value.diagnostics) + "\n"
    status, out, err = in_folder(COMMANDS[name].split()) if name in COMMANDS else run(arguments_of(name), WRONG)
    assert status == 2, name
    assert out == ""
    assert "\033" not in err
    return err


ALL = sorted([*FILES, *COMMANDS, *MADE])


@pytest.mark.parametrize("name", ALL)
def test_what_is_said_is_what_is_expected(name: str) -> None:
    assert found_for(name) == (WRONG / f"{name}.expected").read_bytes().decode()


def test_every_expected_text_has_its_input() -> None:
    assert sorted(path.stem for path in WRONG.glob("*.expected")) == ALL


# ------------------------------------------------------------------------------------------------------------ all codes


@cache
def codes_in_source() -> tuple[str, ...]:
    found: set[str] = set()
    for folder in ("trampoline_dsl", "arches"):
        for path in (ROOT / folder).glob("*.py"):
            found |= set(re.findall(r'"([A-Z]\d{3})"', path.read_text("utf-8")))
    return tuple(sorted(found))


@cache
def examples() -> dict[str, str]:
    """The first diagnostic of each code, from the file that is called after it if there is one."""
    found: dict[str, str] = {}
    for name in sorted(ALL, key=lambda name: (not re.match(r"[A-Z]\d{3}_", name), name)):
        for diagnostic in split((WRONG / f"{name}.expected").read_bytes().decode()):
            match = re.search(r": error\[([A-Z]\d{3})\]: ", diagnostic)
            if match and (
                match[1] not in found or (name.startswith(match[1]) and not found[match[1]].startswith(match[1]))
            ):
                found[match[1]] = diagnostic
    return found


def split(text: str) -> Iterator[str]:
    for part in text.rstrip("\n").split("\n\n"):
        if not re.fullmatch(r"\d+ errors.*", part):
            yield part


@pytest.mark.parametrize("code", codes_in_source())
def test_every_code_has_a_text_that_is_tested(code: str) -> None:
    assert code in examples(), f"make a file tests/cases/wrong/{code}_WHAT.tramp"


@pytest.mark.parametrize("code", codes_in_source())
def test_every_code_is_documented_with_its_example(code: str) -> None:
    section = sections().get(code)
    assert section is not None, f"docs/diagnostics.md has no section `### {code} ...`"
    assert block(section) == shown(examples()[code])


def test_no_code_is_documented_that_is_not_there() -> None:
    assert sorted(sections()) == list(codes_in_source())


def sections() -> dict[str, str]:
    parts = re.split(r"^### ([A-Z]\d{3}) ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def block(section: str) -> str:
    match = re.search(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def shown(diagnostic: str) -> str:
    """As the document has it: lines no longer than a page."""
    lines = (line if len(line) <= 118 else line[:115] + "..." for line in diagnostic.splitlines())
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("name", ["S001_statements", "R002_twice", "R047_wide", "S002_empty"])
def test_json_says_the_same(name: str) -> None:
    command, *rest = arguments_of(name)
    status, out, err = run([command, *rest, "--emit", "json"], WRONG)
    assert (status, err) == (2, "")
    document = json.loads(out)
    assert document["format"] == 1
    text = (WRONG / f"{name}.expected").read_text("utf-8")
    lines = (WRONG / f"{name}.tramp").read_text("utf-8").split("\n")
    heads = [line for line in text.splitlines() if ": error[" in line]
    assert len(heads) == len(document["diagnostics"])
    for head, entry in zip(heads, document["diagnostics"], strict=True):
        where = entry["file"] + (f":{entry['line']}:{entry['column']}" if entry["line"] else "")
        assert head == f"{where}: error[{entry['code']}]: {entry['message']}"
        if entry["line"] and entry["line"] == entry["end_line"]:
            assert lines[entry["line"] - 1][entry["column"] - 1 : entry["end_column"] - 1]
        assert all(f"  = {note}" in text for note in entry["notes"])
        assert all(f"  = {r['message']}: {r['file']}:{r['line']}:{r['column']}" in text for r in entry["related"])


def test_a_mistake_is_told_once_for_all_targets() -> None:
    source = Source("x.tramp", "trampoline f() using c { nothing = 1 }")
    with pytest.raises(InputError) as caught:
        compile_source(source, default_targets())
    assert len(caught.value.diagnostics) == 1


def test_mistakes_of_all_files_are_told(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.tramp").write_text(f"trampoline {name}() using c {{ {name} = 1 }}\n")
    for command in ("build", "verify"):
        status, _, err = run([command, "one.tramp", "two.tramp", "three.tramp"], tmp_path)
        assert status == 2
        assert err.count("error[R041]") == 3


def test_a_file_given_twice_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    status, out, err = run(["build", "good.tramp", "./good.tramp", "good.tramp", "-o", "out"], tmp_path)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == len(default_targets())


def test_far_too_many_mistakes_are_not_listed_to_the_end(tmp_path: Path) -> None:
    count = 2 * MAXIMUM_DIAGNOSTICS
    text = "".join(f"trampoline f{i}() using c {{ misspelt{i} = 1 }}\n" for i in range(count))
    (tmp_path / "many.tramp").write_text(text)
    status, _, err = run(["build", "many.tramp", "--target", "linux/386"], tmp_path)
    assert status == 2
    assert err.endswith(f"\n{MAXIMUM_DIAGNOSTICS} errors, and perhaps more\n")


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrong.tramp").write_text("trampoline f() using c { nothing = 1 }")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def printed() -> str:
        terminal = Terminal()
        with contextlib.chdir(tmp_path), contextlib.redirect_stderr(terminal):
            assert main(["build", "wrong.tramp"]) == 2
        return terminal.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[1;31merror[R041]\033[0m: " in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in printed()


def update() -> None:
    examples.cache_clear()
    for path in WRONG.glob("*.expected"):
        path.unlink()
    for name in ALL:
        (WRONG / f"{name}.expected").write_bytes(found_for(name).encode())
    text = DOCUMENT.read_text("utf-8")
    for code, section in sections().items():
        if code in examples():
            renewed = re.sub(
                r"^```text\n.*?^```$",
                lambda _, code=code: f"```text\n{shown(examples()[code])}```",  # type: ignore[misc]
                section,
                count=1,
                flags=re.MULTILINE | re.DOTALL,
            )
            text = text.replace(section, renewed)
    DOCUMENT.write_text(text, "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(f"usage: {sys.argv[0]} --update")
    os.environ["NO_COLOR"] = "1"
    update()
