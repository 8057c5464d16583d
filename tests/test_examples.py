"""The examples, on every target: the same bytes as GNU as makes, every obligation held, the same output every time."""

from __future__ import annotations

import itertools
from pathlib import Path

import gnu
import pytest

from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.pipeline import Compiled, compile_source
from trampoline_dsl.targets import all_targets, default_targets
from trampoline_dsl.verify import verify

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [
    path for path in sorted((ROOT / "examples").glob("**/*.tramp")) if "\ntrampoline " in path.read_text("utf-8")
]
CASES = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path, name in itertools.product(EXAMPLES, [t.name for t in default_targets()])
]


def compiled(path: Path, target: str, include: tuple[Path, ...] = ()) -> Compiled:
    chosen = all_targets()[target]
    return compile_source(read_source(path), [chosen], include)[target]


@pytest.mark.parametrize(("path", "target"), CASES)
def test_bytes_are_those_of_gnu_as(path: Path, target: str) -> None:
    program = compiled(path, target)
    for artifact in (*program.own, *program.own_tables):
        code, relocations = gnu.assemble(artifact.target.architecture, artifact.text)
        assert code == artifact.code, artifact.text
        # A REL object keeps the addend in the field, where the bytes have been compared.
        ours = [
            (r.offset, r.type, r.symbol, None if theirs[3] is None else r.addend)
            for r, theirs in zip(artifact.relocations, relocations, strict=True)
        ]
        assert ours == relocations


@pytest.mark.parametrize(("path", "target"), CASES)
def test_every_obligation_is_held(path: Path, target: str) -> None:
    for verdict in verify(compiled(path, target), runs=4):
        assert verdict.violations == ()
        states = {name: finding.state for name, finding in verdict.obligations.items()}
        assert set(states.values()) <= {"held", "not applicable"}, verdict.obligations
        assert states["effect"] == states["flow"] == "held"
        never_returns = verdict.trampoline in ("runtime.sigreturn", "runtime.sigresume")
        assert states["preserve"] == ("not applicable" if never_returns else "held")
        assert verdict.paths_run == verdict.paths_total


@pytest.mark.parametrize("variant", [t.name for t in all_targets().values() if t.variant])
def test_variants_hold_as_well(variant: str) -> None:
    for path in (ROOT / "examples" / "go").glob("c*.tramp"):
        for verdict in verify(compiled(path, variant), runs=2):
            assert verdict.good, (verdict, verdict.violations)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_same_input_gives_the_same_output(path: Path) -> None:
    for target in default_targets():
        once, again = compiled(path, target.name), compiled(path, target.name)
        assert once.text == again.text
        assert [a.code for a in once.own] == [a.code for a in again.own]


def test_another_header_moves_the_offsets(tmp_path: Path) -> None:
    path = ROOT / "examples" / "go" / "cgocallback.tramp"
    header = (path.parent / "go1.19" / "go_asm_linux_amd64.h").read_text("utf-8")
    (tmp_path / "go_asm_linux_amd64.h").write_text(header.replace("m_curg 192", "m_curg 4096"), "utf-8")
    before = compiled(path, "linux/amd64")["runtime.cgocallback"]
    after = compiled(path, "linux/amd64", (tmp_path,))["runtime.cgocallback"]
    assert "+0xc0]" in before.text
    assert "+0x1000]" in after.text
    assert all(v.good for v in verify(compiled(path, "linux/amd64", (tmp_path,)), runs=2))


def test_what_the_caller_has_widened_is_passed_on_as_it_is() -> None:
    """x86-64's callers widen to 32 bits, and as far its callees look."""
    code = compiled(ROOT / "examples" / "c" / "float_arguments.tramp", "linux/amd64")["floats_first"]
    assert [insn.text for insn in code.instructions if insn.text.startswith(("movsx", "movzx"))] == []
