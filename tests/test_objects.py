"""Relocatable objects and static libraries: what lies in them, and that linkers take them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import broken
import gnu
import pytest
from tools import need

from trampoline_dsl.cli import main
from trampoline_dsl.link import explicit_addends
from trampoline_dsl.objects import has_objects, make_object
from trampoline_dsl.target import Relocation, Target
from trampoline_dsl.targets import all_targets

CASES = [broken.ROOT / "tests" / "cases" / "variables.tramp", broken.ROOT / "examples" / "c" / "float_arguments.tramp"]
TARGETS = [target for target in all_targets().values() if has_objects(target)]


def prefix(target: Target) -> str:
    """Of the GNU tools that take the target's objects."""
    return "aarch64-linux-gnu-" if target.name == "windows/arm64" else target.architecture.gnu_as[0].removesuffix("as")


def test_all_targets_but_one_have_objects() -> None:
    assert [name for name, target in all_targets().items() if not has_objects(target)] == ["windows/arm"]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_object_has_the_bytes_symbols_and_relocations_of_its_artifacts(target: Target, case: Path) -> None:
    need(target.architecture.gnu_as[0])
    compiled = broken.compiled(target.name, case)
    image = make_object(target, compiled.text)
    assert image == make_object(target, compiled.text)
    read = gnu.read_object(image)
    found = [Relocation(kind, symbol, addend or 0, at) for at, kind, symbol, addend in read.relocations]
    c_names = dict(re.findall(r"^\.set (\S+), (\S+)$", compiled.text, re.MULTILINE))
    expected = {artifact.name for artifact in compiled.own}
    assert expected <= read.functions.keys()
    for artifact in compiled.own:
        start, size = read.functions[artifact.name], len(artifact.code)
        assert read.code[start : start + size] == artifact.code
        own = [r for r in found if start <= r.offset < start + size]
        told = explicit_addends(target.architecture, read.code, own)
        assert [(r.offset - start, r.type, r.symbol, r.addend) for r in told] == [
            (r.offset, r.type, c_names.get(r.symbol, r.symbol), r.addend) for r in artifact.relocations
        ]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_library_of_several_files_is_one_that_the_archiver_reads(target: Target, tmp_path: Path) -> None:
    need(target.architecture.gnu_as[0])
    library = tmp_path / "new" / "lib.a"
    command = ["build", *map(str, CASES), "--emit", "obj", "--target", target.name, "-o", str(library)]
    assert main(command) == 0
    once = library.read_bytes()
    assert main(command) == 0
    assert library.read_bytes() == once
    nm = need("llvm-nm-14" if target.name == "windows/arm64" else prefix(target) + "nm")
    listed = subprocess.run([nm, "-A", str(library)], capture_output=True, text=True, check=True, timeout=60).stdout
    for case in CASES:
        member = f"{case.stem}_{target.name.replace('/', '_')}.o:"
        for artifact in broken.compiled(target.name, case).own:
            of_it = [line.split() for line in listed.splitlines() if member in line]
            assert any(words[-1] == artifact.name and words[-2] in "TD" for words in of_it), listed


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if t.architecture.object_format == "elf"], ids=lambda target: target.name
)
def test_clang_writes_the_object_where_gnu_as_is_not(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same functions, byte for byte."""
    clang = need("clang-14")
    compiled = broken.compiled(target.name, CASES[0])
    (tmp_path / "clang").symlink_to(clang)
    monkeypatch.setenv("PATH", str(tmp_path))
    read = gnu.read_object(make_object(target, compiled.text))
    [artifact] = compiled.own
    start = read.functions[artifact.name]
    assert read.code[start : start + len(artifact.code)] == artifact.code
    assert [r[:3] for r in read.relocations] == [(start + r.offset, r.type, r.symbol) for r in artifact.relocations]


def test_an_object_goes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    need("s390x-linux-gnu-as")
    assert main(["build", str(CASES[0]), "--emit", "obj", "--target", "linux/s390x"]) == 0
    out = capfdbinary.readouterr().out
    assert out == make_object(all_targets()["linux/s390x"], broken.compiled("linux/s390x", CASES[0]).text)


def test_without_an_assembler_nothing_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    command = ["build", str(CASES[0]), "--emit", "obj", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    for package in ("binutils-s390x-linux-gnu", "binutils-x86-64-linux-gnu", "binutils-mingw-w64-i686", "clang-14"):
        assert f"it is in Debian's package {package}" in said
    assert "windows/arm," not in said
    assert not (tmp_path / "out").exists()
