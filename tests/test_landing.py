"""Landing pads: who has them, that assemblers, linkers and an emulated machine that sees to them agree, and what the
judge says where one is not there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import broken
import gnu
import pytest
import switches
from cross import compiler, prefix
from tools import need

from trampoline_dsl.audit import audit
from trampoline_dsl.binary import read_image
from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import InputError, Source, read_source
from trampoline_dsl.disassemble import disassemble
from trampoline_dsl.image import definitions
from trampoline_dsl.landing import bare
from trampoline_dsl.mutate import mutate
from trampoline_dsl.objects import make_object
from trampoline_dsl.pipeline import Compiled, compile_module, compile_source
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Insn
from trampoline_dsl.targets import all_targets, find_target
from trampoline_dsl.verify import Session, Verdict, verify

EXAMPLES = broken.ROOT / "examples"
PADS = {
    "linux/386": ("endbr32", "f30f1efb"),
    "linux/amd64": ("endbr64", "f30f1efa"),
    "linux/arm64": ("bti c", "5f2403d5"),
    "windows/arm64": ("bti c", "5f2403d5"),
}
THROUGH = "trampoline through(f: ptr, x: uptr) -> uptr using c { jump f(x) using c }"
CALLS = "extern f() using c\ntrampoline calls() using c { call f() }"


@cache
def compiled(target: str, file: Path) -> Compiled:
    return compile_module(load_module(read_source(file)), find_target(target).protected())


@cache
def of_text(target: str, text: str) -> Compiled:
    chosen = find_target(target).protected()
    return compile_source(Source("t.tramp", text), [chosen])[chosen.name]


def test_these_targets_have_them_and_the_others_say_why_not() -> None:
    assert [name for name, target in all_targets().items() if not target.why_not_protected] == list(PADS)
    with pytest.raises(ValueError, match="linux/s390x has no landing pads: its instruction set has none"):
        find_target("linux/s390x").protected()
    with pytest.raises(ValueError, match="Windows knows where calls may lead by a table of functions"):
        find_target("windows/amd64").protected()
    with pytest.raises(ValueError, match="Go's assembler makes no landing pads"):
        find_target("linux/amd64").linked("go").protected()


@pytest.mark.parametrize("target", PADS)
def test_every_function_begins_with_one(target: str) -> None:
    text, code = PADS[target]
    for file in ("c/indirect.tramp", "c/tail.tramp", "go/crosscall2.tramp"):
        program = compiled(target, EXAMPLES / file)
        assert not bare(program.target.architecture, [(a.name, a.code) for a in program.own])
        for artifact in program.own:
            assert artifact.code.hex().startswith(code)
            assert artifact.instructions[0].text == text
            without = broken.compiled(target, EXAMPLES / file)[artifact.name]
            assert len(artifact.code) > len(without.code)
            assert bare(program.target.architecture, [(artifact.name, without.code)]) == (artifact.name,)


@pytest.mark.parametrize("target", PADS)
def test_assemblers_and_disassemblers_agree(target: str) -> None:
    text, code = PADS[target]
    architecture = find_target(target).protected().architecture
    assert gnu.assemble(architecture, text)[0].hex() == code
    [(_, size, read)] = disassemble(architecture, bytes.fromhex(code), 0)
    assert (size, read.strip()) == (4, text)


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64", "linux/arm64"])
def test_position_independent_code_has_them_too(target: str) -> None:
    chosen = find_target(target).linked("pic").protected()
    assert chosen is find_target(target).linked("pic").protected()
    program = compile_module(load_module(read_source(EXAMPLES / "c" / "indirect.tramp")), chosen)
    assert all(a.code.hex().startswith(PADS[target][1]) for a in program.own)
    assert all(verdict.good for verdict in verify(program))


# ------------------------------------------------------------------------------------------------------------- linkers

LINKERS = {
    "linux/386": ("-fcf-protection", ("-z", "cet-report=error")),
    "linux/amd64": ("-fcf-protection", ("-z", "cet-report=error")),
    "linux/arm64": ("-mbranch-protection=bti", ("-z", "force-bti", "--fatal-warnings")),
}
FEATURES = {"linux/386": "x86 feature: IBT, SHSTK", "linux/amd64": "x86 feature: IBT, SHSTK", "linux/arm64": "BTI"}


def linked(target: str, program: Compiled, folder: Path) -> subprocess.CompletedProcess[str]:
    """An executable of a C file and the program's object, by a linker that is to refuse what is not protected."""
    protection, options = LINKERS[target]
    gcc = need(compiler(target))
    Path(folder, "caller.c").write_text("void f(void) {}\nvoid calls(void);\nvoid start(void) { calls(); }\n")
    Path(folder, "t.o").write_bytes(make_object(program.target, program.text))
    subprocess.run([gcc, protection, "-c", "caller.c"], cwd=folder, check=True)
    command = [need(f"{prefix(target)}ld"), *options, "-e", "start", "-o", "program", "caller.o", "t.o"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def notes(target: str, file: Path) -> str:
    command = [need(f"{prefix(target)}readelf"), "-n", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("target", LINKERS)
def test_linkers_take_the_note(target: str, tmp_path: Path) -> None:
    done = linked(target, of_text(target, CALLS), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("t.o", "program"):
        assert re.search(rf"Properties: .*{FEATURES[target]}$", notes(target, tmp_path / name), re.MULTILINE)


@pytest.mark.parametrize("target", LINKERS)
def test_linkers_refuse_what_has_no_note(target: str, tmp_path: Path) -> None:
    plain = compile_source(Source("t.tramp", CALLS), [find_target(target)])[target]
    done = linked(target, plain, tmp_path)
    assert done.returncode
    assert re.search(r"t\.o: .*(IBT|BTI)", done.stderr)


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64"])
def test_what_returns_out_of_turn_is_not_marked_for_shadow_stacks(target: str, tmp_path: Path) -> None:
    program = of_text(target, f"{CALLS}\ntrampoline leave(sp_: uptr, pc: uptr) using c {{ resume sp_, pc }}")
    Path(tmp_path, "t.o").write_bytes(make_object(program.target, program.text))
    assert re.search(r"Properties: x86 feature: IBT$", notes(target, tmp_path / "t.o"), re.MULTILINE)
    assert "# Not for shadow stacks: leave leaves by `resume` for calls that were made before.\n" in program.text
    reasons = {verdict.obligations["landing"].reason for verdict in verify(program)}
    assert reasons == {"not for shadow stacks: leave leaves by `resume` for calls that were made before"}
    assert {verdict.obligations["landing"].reason for verdict in verify(of_text(target, CALLS))} == {""}


# ------------------------------------------------------------------------------- a machine that sees to landing pads

MAIN = """
typedef long (*function)(long (*)(long), long);
long through(long (*)(long), long);
long answer(long x) { return x + 1; }
function volatile entry = through;
static void leave(long status) {
    register long x0 __asm__("x0") = status, x8 __asm__("x8") = 93;
    __asm__ volatile("svc #0" :: "r"(x0), "r"(x8));
}
void _start(void) { leave(entry(answer, 41)); }
"""
CHANGES: dict[str, tuple[Callable[[str], str], int]] = {
    "as it is": (lambda text: text, 42),
    "without the pad": (lambda text: text.replace("\tbti c\n", ""), -4),
    "a jump by another register": (lambda text: text.replace("br x16", "br x9"), -4),
}


@pytest.mark.parametrize("change", CHANGES)
def test_qemu_takes_the_jumps_and_sees_what_is_wrong(change: str, tmp_path: Path) -> None:
    """SIGILL, 4, is what a jump to anything else gives."""
    edit, status = CHANGES[change]
    gcc, qemu = need("aarch64-linux-gnu-gcc"), need("qemu-aarch64")
    Path(tmp_path, "main.c").write_text(MAIN)
    Path(tmp_path, "through.s").write_text(edit(of_text("linux/arm64", THROUGH).text))
    options = ["-mbranch-protection=bti", "-O1", "-nostdlib", "-static", "-ffreestanding", "-Wl,-z,force-bti"]
    command = [gcc, *options, "-Wl,--fatal-warnings", "-o", "main", "main.c", "through.s"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([qemu, "-cpu", "max", "./main"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == status


# ----------------------------------------------------------------------------------------------------------- the judge


@pytest.mark.parametrize("target", PADS)
def test_it_holds_where_nothing_is_changed(target: str) -> None:
    files = ["c/indirect.tramp", "c/tail.tramp", "go/crosscall2.tramp", "go/cgocallback.tramp"]
    for verdict in (v for file in files for v in verify(compiled(target, EXAMPLES / file))):
        assert verdict.good
        assert verdict.obligations["landing"].state == "held"


def judged(program: Compiled, name: str, code: Sequence[Insn]) -> set[str]:
    return {v.message for v in broken.judge(program, name, code).violations if v.obligation == "landing"}


@pytest.mark.parametrize("target", PADS)
def test_a_function_without_one_is_seen(target: str) -> None:
    program = of_text(target, CALLS)
    code = program["calls"].instructions
    assert judged(program, "calls", code[1:]) == {
        "calls is called by its address, and does not begin with a landing pad"
    }
    assert not judged(program, "calls", code)


@pytest.mark.parametrize("target", ["linux/arm64", "windows/arm64"])
def test_a_tail_call_by_another_register_is_seen(target: str) -> None:
    program = of_text(target, THROUGH)
    code = [
        *program["through"].instructions[:-1],
        Insn("mov x9, x16"),
        Insn("br x9", transfer="jump"),
    ]
    [message] = judged(program, "through", code)
    assert re.fullmatch(r"`br x9` enters \S+, and the landing pads of functions are not for such a jump", message)


@pytest.mark.parametrize(
    ("target", "text"),
    [("linux/amd64", "pop rcx; jmp rcx"), ("linux/386", "pop ecx; jmp ecx"), ("linux/arm64", "br x30")],
)
def test_a_return_by_a_jump_is_seen(target: str, text: str) -> None:
    """Calls return to no landing pad."""
    program = of_text(target, "trampoline nothing() using c { }")
    pad = program["nothing"].instructions[0]
    lines = [Insn(line.strip()) for line in text.split(";")]
    [message] = judged(program, "nothing", [pad, *lines[:-1], replace(lines[-1], transfer="jump")])
    assert re.fullmatch(rf"`{lines[-1].text}` leads to \w+, where no landing pad for it is", message)


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64"])
def test_a_return_that_no_call_is_for_is_seen(target: str) -> None:
    """A call whose return address is taken off the stack, in a file that says that it has none such."""
    program = of_text(target, "trampoline nothing() using c { }")
    pad, *rest = program["nothing"].instructions
    a = program.target.architecture
    register = a.allocatable(program["nothing"].function.convention)[1]
    over = [Insn("call .Lover", transfer="call", target=".Lover"), Insn("nop"), Insn("", label=".Lover")]
    [message] = judged(program, "nothing", [pad, *over, Insn(f"pop {register}"), *rest])
    assert re.fullmatch(r"`ret` returns to \w+, and the last call left off at \w+", message)
    unmarked = of_text(
        target, "trampoline nothing() using c { }\ntrampoline x(s: uptr, p: uptr) using c { resume s, p }"
    )
    assert not judged(unmarked, "nothing", [pad, *over, Insn(f"pop {register}"), *rest])


@pytest.mark.parametrize("target", ["linux/amd64", "linux/arm64"])
def test_no_mutant_without_one_survives(target: str) -> None:
    mutations = mutate(compiled(target, EXAMPLES / "c" / "indirect.tramp"), worlds=2)
    assert sum(mutation.killed["landing"] for mutation in mutations) >= 2 * len(mutations)
    assert not [survivor for mutation in mutations for survivor in mutation.survivors]


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("target", ["linux/arm64", "windows/arm64"])
def test_entries_of_a_table_are_where_they_were(target: str) -> None:
    program = compiled(target, broken.ROOT / "tests" / "cases" / "table.tramp")
    plain = broken.compiled(target, broken.ROOT / "tests" / "cases" / "table.tramp")
    for table, before in zip(program.own_tables, plain.own_tables, strict=True):
        assert table.stride == before.stride == 8
        entries = [table.code[start : start + 8] for start in range(0, 8 * table.table.count, 8)]
        assert not bare(program.target.architecture, [(table.name, entry) for entry in entries])
        made, relocations = gnu.assemble(program.target.architecture, table.text)
        assert table.code == made[: len(table.code)]
        assert [(r.offset, r.type, r.symbol) for r in table.relocations] == [r[:3] for r in relocations]
    assert all(verdict.good for verdict in verify(program))


@pytest.mark.parametrize("target", ["linux/386", "linux/amd64"])
def test_entries_that_have_no_room_are_refused(target: str) -> None:
    text = "table t[2] enters f\ntrampoline f() using c { return }"
    with pytest.raises(InputError, match="5 bytes apart, and with a landing pad each would take 9"):
        of_text(target, text)


# ------------------------------------------------------------------------------------------------------------ commands


def test_commands_take_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.tramp"
    file.write_text(CALLS)
    assert main(["build", str(file), "--protect"]) == 0
    text = capsys.readouterr().out
    assert text.count("\tendbr64\n") == text.count("\tendbr32\n") == 1
    assert text.count("\tbti c\n") == 2
    assert text.count(".note.gnu.property") == 3
    assert main(["verify", str(file), "--protect", "--target", "arm64"]) == 0
    assert "landing" in capsys.readouterr().out
    assert main(["show", str(file), "--protect", "--target", "amd64"]) == 0
    assert re.search(r"f3 0f 1e fa +endbr64\n", capsys.readouterr().out)
    assert main(["trace", str(file), "--protect", "--target", "386"]) == 0
    assert "endbr32" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ switches


@pytest.mark.parametrize(
    ("target", "name", "state"),
    [
        ("linux/amd64", "jump", "held"),
        ("linux/amd64", "swap", "violated"),  # by a jump to behind the call, where no compiler puts a landing pad
        ("linux/amd64", "long", "held"),  # but for setjmp, which is known to return twice
        ("linux/arm64", "swap", "held"),  # by `ret`
    ],
)
def test_what_goes_on_behind_another_call(target: str, name: str, state: str) -> None:
    program = of_text(target, switches.SOURCE)
    codes = {}
    for one, text in switches.SWITCHES[target].items():
        pad = program[one].instructions[0]
        codes[one] = broken.code_from(program[one], [pad, *broken.written(program[one], text)], 0)
    verdict = Session(program, codes).judge(program[name], 1, 4)
    assert verdict.obligations["landing"].state == state
    assert {v.obligation for v in verdict.violations} == ({"landing"} if state == "violated" else set())


# --------------------------------------------------------------------------------------------------------------- audits

BOTH = """
extern f(x: uptr) -> uptr using c
trampoline calls(x: uptr) -> uptr using c { return call f(x) }
"""


def audited(program: Compiled, data: bytes) -> Verdict:
    image = read_image(data, "t")
    [verdict] = audit(image, definitions(image, ["calls"]), program, runs=4)
    return verdict


def shared(target: str, folder: Path, text: str, *options: str) -> bytes:
    """A shared library of assembly, by gcc."""
    gcc = need(compiler(target))
    Path(folder, "t.s").write_text(text)
    command = [gcc, *options, "-shared", "-nostdlib", "-o", "t.so", "t.s"]
    subprocess.run(command, cwd=folder, check=True)
    return Path(folder, "t.so").read_bytes()


@pytest.mark.parametrize("target", LINKERS)
def test_what_a_file_says_of_itself_is_audited(target: str, tmp_path: Path) -> None:
    program = of_text(target, BOTH)
    text = program.text
    pad = f"\t{PADS[target][0]}\n"
    paired = "arm64" not in target
    assert read_image(make_object(program.target, text), "t").properties == {
        0xC0000002 if paired else 0xC0000000: 3 if paired else 1
    }
    verdict = audited(program, make_object(program.target, text))
    assert verdict.good
    assert verdict.obligations["landing"].state == "held"
    verdict = audited(program, make_object(program.target, text.replace(pad, "", 1)))
    assert {(v.obligation, v.message) for v in verdict.violations} == {
        ("landing", "calls is called by its address, and does not begin with a landing pad")
    }
    plain = compile_source(Source("t.tramp", BOTH), [find_target(target)])[target]
    verdict = audited(plain, make_object(plain.target, plain.text))
    assert verdict.obligations["landing"].reason == "the file does not say that it has landing pads"


@pytest.mark.parametrize("target", LINKERS)
def test_calls_through_a_linkers_tables_pair_with_returns(target: str, tmp_path: Path) -> None:
    chosen = find_target(target).linked("pic").protected()
    program = compile_source(Source("t.tramp", BOTH), [chosen])[chosen.name]
    option = "-Wl,-z,force-bti" if "arm64" in target else "-Wl,-z,ibtplt"
    verdict = audited(program, shared(target, tmp_path, program.text, option))
    assert verdict.good
    assert verdict.obligations["landing"].state == "held"


def test_a_file_without_a_table_of_sections_says_it_too(tmp_path: Path) -> None:
    chosen = find_target("linux/amd64").linked("pic").protected()
    program = compile_source(Source("t.tramp", BOTH), [chosen])[chosen.name]
    data = bytearray(shared("linux/amd64", tmp_path, program.text))
    assert read_image(bytes(data), "t").properties == {0xC0000002: 3}
    data[0x28:0x30] = bytes(8)  # e_shoff
    data[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
    assert read_image(bytes(data), "t").properties == {0xC0000002: 3}


def test_a_helper_that_takes_its_return_address_is_seen(tmp_path: Path) -> None:
    """In a file that is marked for shadow stacks."""
    program = of_text("linux/amd64", BOTH)
    text = program.text.replace("\tcall f\n", "\tcall helper\n\tcall f\n")
    helper = "\n.text\nhelper:\n\tpop rcx\n\tpush rcx\n\tjmp out\nout: {}\n"
    assert audited(program, make_object(program.target, text + helper.format("ret"))).good
    verdict = audited(program, make_object(program.target, text + helper.format("pop rcx; jmp rcx")))
    assert {v.obligation for v in verdict.violations} == {"landing"}
