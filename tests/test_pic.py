"""Position-independent code: what GNU as makes of it, what the judge says of it, and what cannot be done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import broken
import gnu
import pytest
from tools import need_host

from trampoline_dsl.assemble import assemble
from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import InputError, read_source
from trampoline_dsl.load import LoadError, host_target
from trampoline_dsl.mutate import mutate
from trampoline_dsl.pipeline import Compiled, compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Insn, Target
from trampoline_dsl.targets import all_targets
from trampoline_dsl.verify import verify

VARIABLES = broken.ROOT / "tests" / "cases" / "variables.tramp"
EXAMPLES = sorted((broken.ROOT / "examples" / "c").glob("*.tramp"))
TARGETS = [name for name, target in all_targets().items() if "pic" in target.architecture.linkages]
# Of one relocation that the linker would have to leave to the loader, inside the code.
ABSOLUTE = re.compile(r"R_386_(32|PC32)|R_X86_64_(64|PC32)|R_ARM_(ABS32|MOV.*)|R_AARCH64_(ABS|ADR_PREL|ADD_ABS|LDST).*")
ABSOLUTE_TOO = re.compile(r"R_MIPS_(26|32|64|HIGHE.*)|R_PPC64_(ADDR|TOC16).*|R_390_(32|64|PC32DBL)")


def pic(name: str) -> Target:
    return all_targets()[name].linked("pic")


@cache
def compiled(target: str, file: Path) -> Compiled:
    return compile_module(load_module(read_source(file)), pic(target))


def possible(target: str, file: Path) -> bool:
    return file.stem != "tail" or "ppc64" not in target


def test_every_target_on_linux_has_it_and_no_other() -> None:
    assert set(TARGETS) == {name for name, target in all_targets().items() if target.os == "linux"}


def pieces(target: Target) -> Iterator[tuple[Insn, ...]]:
    """Whatever differs from code for a fixed place, with every register."""
    a = target.architecture
    for convention in a.conventions.values():
        for register in a.allocatable(convention):
            for symbol in ("symbol", "runtime·symbol"):
                yield tuple(a.symbol_address(register, symbol))
            for bits, signed in ((8, False), (16, True), (32, True), (8 * a.word, False)):
                yield tuple(a.load_symbol(register, "symbol", bits, signed))
        for make in (a.call, a.tail_call):
            if a.toc is None or (make == a.call and convention.toc_slot is not None):
                yield tuple(make("symbol", convention))


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_and_relocations_are_those_of_gnu_as(target: str) -> None:
    architecture = pic(target).architecture
    cases = list(dict.fromkeys(pieces(pic(target))))
    texts = ["\n".join(insn.text for insn in case) for case in cases]
    for case, text, expected in zip(cases, texts, gnu.assemble_each(architecture, texts), strict=True):
        found = assemble(architecture, case)
        assert found.code == expected.code, text
        in_field = any(addend is None for *_, addend in expected.relocations)
        relocations = tuple((r.offset, r.type, r.symbol, None if in_field else r.addend) for r in found.relocations)
        assert relocations == expected.relocations, text
    assert len(cases) > 30


@pytest.mark.parametrize("file", [VARIABLES, *EXAMPLES], ids=lambda path: path.stem)
@pytest.mark.parametrize("target", TARGETS)
def test_whole_functions_are_those_of_gnu_as_and_refer_to_no_fixed_place(target: str, file: Path) -> None:
    if not possible(target, file):
        with pytest.raises(InputError, match="a jump to another module would leave its r2"):
            compiled(target, file)
        return
    for artifact in compiled(target, file).own:
        code, relocations = gnu.assemble(artifact.target.architecture, artifact.text)
        assert code == artifact.code, artifact.text
        assert [(r.offset, r.type, r.symbol) for r in artifact.relocations] == [r[:3] for r in relocations]
        for relocation in artifact.relocations:
            assert not ABSOLUTE.fullmatch(relocation.type), relocation
            assert not ABSOLUTE_TOO.fullmatch(relocation.type), relocation


@pytest.mark.parametrize("file", [VARIABLES, *EXAMPLES], ids=lambda path: path.stem)
@pytest.mark.parametrize("target", [name for name in TARGETS if not all_targets()[name].variant])
def test_every_obligation_is_held(target: str, file: Path) -> None:
    if possible(target, file):
        for verdict in verify(compiled(target, file), runs=3):
            assert verdict.good, (verdict, verdict.violations)


@pytest.mark.parametrize("target", ["linux/386", "linux/mips", "linux/mips64le", "linux/ppc64le"])
def test_no_small_mistake_goes_unseen(target: str) -> None:
    for name in ("callback_with_context", "call_on_stack"):
        [found] = mutate(compiled(target, broken.ROOT / "examples" / "c" / f"{name}.tramp"), worlds=4)
        assert found.survivors == ()


def test_the_global_pointer_is_brought_back_behind_a_call() -> None:
    """A callee may leave another module's gp: the judge's do."""
    program = compiled("linux/mips", VARIABLES)
    artifact = program["touch"]
    restores = [i for i, insn in enumerate(artifact.instructions) if re.match(r"(move|lw) \$gp, \$?\w+", insn.text)]
    assert restores
    instructions = [insn for i, insn in enumerate(artifact.instructions) if i not in restores]
    assert not broken.judge(program, "touch", instructions).good


@pytest.mark.parametrize(
    ("target", "file", "reason"),
    [
        ("linux/ppc64le", "crosscall2", "go0 has no place to keep it in"),
        ("linux/mips64", "cgocallback", "finds no global offset table"),
    ],
)
def test_what_cannot_be_done_says_why(target: str, file: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = broken.ROOT / "examples" / "go" / f"{file}.tramp"
    assert main(["build", str(path), "--pic", "--target", target]) == 2
    assert reason in capsys.readouterr().err


def test_no_such_code_is_loaded_into_this_process() -> None:
    try:
        target = host_target()
    except LoadError as error:
        need_host("a machine that code is loaded on", str(error))
    with pytest.raises(LoadError, match="no global offset table here"):
        compiled(target.name, VARIABLES).load({})


def test_tables_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.tramp").write_text("table many[3] enters f\ntrampoline f() -> uptr using c { return table index }\n")
    assert main(["build", str(tmp_path / "t.tramp"), "--pic", "--target", "linux/amd64"]) == 2
    assert "may be of another module in position-independent code" in capsys.readouterr().err


def test_a_file_without_anything_for_linux_is_not_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    path = broken.ROOT / "examples" / "go" / "callbackasm.tramp"
    assert main(["verify", str(path), "--pic"]) == 2
    assert "it has some for windows/386 windows/amd64" in capsys.readouterr().err
