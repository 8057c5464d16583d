"""Signals before every instruction: all of them are delivered, and what only they find is found.

The code that they interrupt is right but for one edit, or the handler is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import broken
import pytest
from broken import around_call, before, code_from, first, leaving
from cross import MACHINES, compiler
from programs import program
from test_real_compilers import execute
from tools import need

from trampoline_dsl import ir
from trampoline_dsl.deliver import Deliveries
from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.interpret import Trouble
from trampoline_dsl.judge import Execute
from trampoline_dsl.machine_code import Code
from trampoline_dsl.pipeline import Compiled, compile_source
from trampoline_dsl.target import Bank, Insn
from trampoline_dsl.targets import all_targets, default_targets, find_target
from trampoline_dsl.verify import Session, verify
from trampoline_dsl.violation import Violation

CASES = Path(__file__).parent / "cases" / "signals.tramp"
TARGETS = [t.name for t in all_targets().values() if t.os == "linux"]
WITH_RESTORER = ["linux/386", "linux/amd64", "linux/arm", "linux/arm64", "linux/s390x"]
HANDLER = "runtime.sigtramp"


def program_for(target: str) -> Compiled:
    return broken.compiled(target, CASES)


def delivered(
    program: Compiled, name: str, codes: Iterable[Code] = (), *, turn: int = 0, seed: int = 1
) -> tuple[Execute, Deliveries]:
    """One run of a trampoline's check with signals, delivered in its first way or another; nothing else is hostile."""
    session = Session(program, {code.name: code for code in codes})
    function = program.program.functions[name]
    scenario = next(s for s in program.program.scenarios if s.trampoline == name)
    world, trace = session.expected(function, scenario, seed)
    deliveries = Deliveries(session.players, scenario.signals[turn])
    return session.execute(function, scenario, world, trace, 1, scramble=False, interruptions=deliveries), deliveries


def edited(program: Compiled, name: str, edit: Callable[[Sequence[Insn]], Iterable[Insn]]) -> Code:
    return code_from(program[name], edit(program[name].instructions))


def texts(run: Execute) -> str:
    return "\n".join(f"{v.obligation} {v.register} {v.function} {v.message}" for v in run.violations)


def interruptible(program: Compiled, name: str) -> int:
    """Instructions, but for those in delay slots."""
    code = [insn for insn in program[name].instructions if insn.label is None]
    return len(code) - sum(insn.delay_slot for insn in code)


def test_every_instruction_of_every_target_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for target in TARGETS:
        program = program_for(target)
        scenario = next(s for s in program.program.scenarios if s.trampoline == "interrupted")
        for turn in range(len(scenario.signals)):
            run, deliveries = delivered(program, "interrupted", turn=turn)
            assert run.finished, target
            assert not run.violations, (target, texts(run))
            assert deliveries.count == interruptible(program, "interrupted"), target
            counts[target] = counts.get(target, 0) + deliveries.count
    with capsys.disabled():
        print(f"\n{sum(counts.values())} signals on {len(counts)} targets: {counts}")


@pytest.mark.parametrize("target", TARGETS)
def test_what_waits_below_the_stack_pointer_is_lost(target: str) -> None:
    """The result is kept below the stack pointer, beyond what the kernel leaves alone, for two instructions."""
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    kernel = architecture.signals
    assert kernel is not None
    result, s, bits = convention.integer_results[0], architecture.sp, 8 * architecture.word
    offset = -kernel.untouched - 4 * architecture.word

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [
            *architecture.store(result, s, offset, bits),
            *architecture.constant(result, 0),
            *architecture.load(result, s, offset, bits, False),
            *(Insn("nop") for _ in range(architecture.flags is None)),  # mips: the last one may go into a delay slot
        ]
        return before(code, first(code, leaving), detour)

    code = edited(program, "leaf", edit)
    run, _ = delivered(program, "leaf", [code])
    assert [v.obligation for v in run.violations] == ["args"], texts(run)
    verdict = next(v for v in verify(program, codes={"leaf": code}, only=["leaf"], runs=8))
    assert verdict.obligations["below"].state == "violated"


@pytest.mark.parametrize("target", TARGETS)
def test_a_store_before_the_stack_pointer_has_moved(target: str) -> None:
    """The result is stored where the stack is about to grow to."""
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    kernel = architecture.signals
    assert kernel is not None
    s, word = architecture.sp, architecture.word
    step = -(-(kernel.untouched + 8 * word) // 64) * 64
    result = convention.integer_results[0]

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [
            *architecture.store(result, s, 4 * word - step, 8 * word),
            *architecture.binary("sub", s, s, step),
            *architecture.constant(result, 0),
            *architecture.load(result, s, 4 * word, 8 * word, False),
            *architecture.binary("add", s, s, step),
        ]
        return before(code, first(code, leaving), detour)

    run, deliveries = delivered(program, "leaf", [edited(program, "leaf", edit)])
    assert [v.obligation for v in run.violations] == ["args"], texts(run)
    assert not deliveries.found


@pytest.mark.parametrize("target", TARGETS)
def test_a_handler_that_loses_a_register(target: str) -> None:
    program = program_for(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    free = architecture.allocatable(program.target.conventions["go0"])  # not the register of g
    kept = next(r for r in free if r in convention.kept and r.bank is Bank.INTEGER)

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        return before(code, 0, architecture.constant(kept, 0x5EED))

    for turn in (0, 1):
        run, deliveries = delivered(program, "interrupted", [edited(program, HANDLER, edit)], turn=turn)
        assert [(v.obligation, v.register, v.function) for v in run.violations] == [("preserve", kept.name, HANDLER)]
        assert "handling a signal that came before" in run.violations[0].message
        assert deliveries.count == 1  # the first one tells


@pytest.mark.parametrize("target", TARGETS)
def test_a_handler_that_passes_something_else(target: str) -> None:
    program = program_for(target)
    architecture = program.target.architecture
    [information] = (
        program.target.conventions["go0"]
        .place([t.value_type for _, t in program.program.externs["runtime.sigtrampgo"].parameters], None)
        .arguments[1]
    )
    offset = information.place.offset  # type: ignore[union-attr]  # go0 has all arguments in memory
    scratch = broken.volatile(program, "leaf")

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        wrong = architecture.store(scratch, architecture.sp, offset, 8 * architecture.word)
        return around_call(code, [*architecture.constant(scratch, 0x5EED), *wrong], [])

    run, _ = delivered(program, "interrupted", [edited(program, HANDLER, edit)])
    assert [(v.obligation, v.function) for v in run.violations] == [("args", HANDLER)], texts(run)
    assert "sigtrampgo's info" in texts(run)


def test_a_verdict_names_the_instruction_that_was_interrupted() -> None:
    program = program_for("linux/s390x")
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    result, s = convention.integer_results[0], architecture.sp

    def edit(code: Sequence[Insn]) -> Iterable[Insn]:
        detour = [*architecture.store(result, s, -64, 64), *architecture.load(result, s, -64, 64, False)]
        return before(code, first(code, leaving), detour)

    session = Session(program, {"leaf": edited(program, "leaf", edit)})
    function = program.program.functions["leaf"]
    scenario = next(s for s in program.program.scenarios if s.trampoline == "leaf")
    world, trace = session.expected(function, scenario, 1)
    _, found = session.with_signals(function, scenario, world, trace, 1, scenario.signals[0])
    assert {v.obligation for v in found} == {"below"}
    assert 'with a signal before "lg %r2, -0x40(%r15)" at leaf+' in found[0].message


def test_json_has_the_number_of_deliveries() -> None:
    program = program_for("linux/arm64")
    by_name = {v.trampoline: v.as_json() for v in verify(program, runs=2)}
    assert by_name["interrupted"]["deliveries"] == 3 * interruptible(program, "interrupted")
    assert "deliveries" not in by_name[HANDLER]


def test_signals_are_resolved() -> None:
    ways = next(s for s in program_for("linux/arm").program.scenarios if s.trampoline == "interrupted").signals
    assert [way.handler for way in ways] == [HANDLER] * 3
    assert [way.restorer for way in ways] == ["restorer", "restorer", None]
    assert [way.stack and way.stack.name for way in ways] == [None, "alternate", None]
    ways = next(s for s in program_for("linux/mips").program.scenarios if s.trampoline == "interrupted").signals
    assert [way.restorer for way in ways] == [None, None]  # that kernel looks at none


# ------------------------------------------------------------------------------------------------------- restorers


def restored(target: str, edit: Callable[[Sequence[Insn]], Iterable[Insn]]) -> list[Violation]:
    """What is found with a restorer that is edited."""
    program = program_for(target)
    run, deliveries = delivered(program, "leaf", [edited(program, "restorer", edit)])
    assert deliveries.found == run.violations
    assert {v.function for v in run.violations} <= {"restorer"}
    return run.violations


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_with_the_wrong_number(target: str) -> None:
    text = CASES.read_text().replace("syscall SYS_rt_sigreturn()", "syscall SYS_rt_sigreturn + 1()")
    program = compile_source(Source("wrong.tramp", text), [find_target(target)])[target]
    run, _ = delivered(program, "leaf")
    [violation] = run.violations
    kernel = program.target.architecture.signals
    assert kernel is not None
    assert (violation.obligation, violation.function) == ("args", "restorer")
    assert (violation.expected, violation.found) == (kernel.number, kernel.number + 1)


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_moves_the_stack_pointer(target: str) -> None:
    architecture = program_for(target).target.architecture
    s = architecture.sp
    step = architecture.binary("sub", s, s, 16)
    [violation] = restored(target, lambda code: before(code, 0, step))
    assert (violation.obligation, violation.register) == ("sp", s.name)
    assert (violation.expected or 0) - (violation.found or 0) == 16


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_stores(target: str) -> None:
    architecture = program_for(target).target.architecture
    store = architecture.store(
        architecture.allocatable(program_for(target).target.conventions["c"])[0], architecture.sp, 0, 32
    )
    [violation] = restored(target, lambda code: before(code, 0, store))
    assert violation.obligation == "writes"


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_never_calls_the_kernel(target: str) -> None:
    violations = restored(target, lambda code: [insn for insn in code if insn.transfer != "system"])
    assert [v.obligation for v in violations] == ["flow"]


@pytest.mark.parametrize("target", WITH_RESTORER)
def test_a_restorer_that_returns(target: str) -> None:
    """As a function would: there is nobody to return to."""
    leaf = program_for(target)["leaf"].instructions
    violations = restored(target, lambda _code: leaf[first(leaf, leaving) :])
    assert [v.obligation for v in violations] == ["flow"]


# ------------------------------------------------------------------------------------------------------ exceptions

EXCEPTIONS = Path(__file__).parent / "cases" / "exceptions.tramp"
WINDOWS = [t.name for t in all_targets().values() if t.os == "windows"]


def excepted(target: str, edits: Mapping[str, Callable[[Sequence[Insn]], Iterable[Insn]]], **changes: str) -> Execute:
    """A run that exceptions interrupt, with some of the trampolines edited, or the source."""
    if not changes:
        program = broken.compiled(target, EXCEPTIONS)
    else:
        text = EXCEPTIONS.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        program = compile_source(Source("changed.tramp", text), [find_target(target)])[target]
    codes = [edited(program, name, edit) for name, edit in edits.items()]
    run, _ = delivered(program, "interrupted", codes)
    return run


@pytest.mark.parametrize("target", WINDOWS)
def test_every_instruction_is_interrupted_by_an_exception(target: str) -> None:
    program = broken.compiled(target, EXCEPTIONS)
    for seed in range(4):
        run, deliveries = delivered(program, "interrupted", seed=seed)
        assert not run.violations, texts(run)
        assert deliveries.count == interruptible(program, "interrupted")


@pytest.mark.parametrize("target", WINDOWS)
def test_a_handler_of_exceptions_that_loses_a_register(target: str) -> None:
    target_ = find_target(target)
    convention = target_.conventions["c"]
    free = target_.architecture.allocatable(target_.conventions["go0"])
    kept = next(r for r in free if r in convention.kept and r.bank is Bank.INTEGER)
    spoil = target_.architecture.constant(kept, 0x5EED)
    run = excepted(target, {"runtime.exceptiontramp": lambda code: before(code, 0, spoil)})
    assert [(v.obligation, v.register) for v in run.violations] == [("preserve", kept.name)], texts(run)


@pytest.mark.parametrize("target", WINDOWS)
def test_a_way_back_that_loses_a_register(target: str) -> None:
    """No register means nothing there: one that C's callees may change, and the return address."""
    architecture = find_target(target).architecture
    convention = architecture.conventions["c"]
    carriers = ("edx", "ecx", "r8", "r9", "r0", "r1", "x0", "x1")
    lost = next(r for r in architecture.allocatable(convention) if r not in convention.kept and r.name not in carriers)
    for register in (lost, *([convention.return_address] if convention.return_address is not None else [])):
        spoil = architecture.constant(register, 0x5EED)
        run = excepted(target, {"runtime.sigresume": lambda code, spoil=tuple(spoil): before(code, 0, spoil)})
        assert [(v.obligation, v.register) for v in run.violations] == [("preserve", register.name)], texts(run)
        assert run.violations[0].function == "runtime.sigresume"


@pytest.mark.parametrize("target", WINDOWS)
def test_a_way_back_that_stores(target: str) -> None:
    architecture = find_target(target).architecture
    register = architecture.allocatable(architecture.conventions["c"])[0]
    store = architecture.store(register, architecture.sp, -16, 32)
    run = excepted(target, {"runtime.sigresume": lambda code: before(code, 0, store)})
    assert [v.obligation for v in run.violations] == ["writes"], texts(run)


@pytest.mark.parametrize("target", WINDOWS)
def test_a_way_back_to_somewhere_else(target: str) -> None:
    run = excepted(target, {}, **{"resume stack, pc": "resume stack + 16, pc"})
    assert ("sp", find_target(target).architecture.sp.name) in [(v.obligation, v.register) for v in run.violations]
    run = excepted(target, {}, **{"resume stack, pc": "resume pc, stack"})
    assert [v.obligation for v in run.violations] == ["flow"], texts(run)
    run = excepted(target, {}, **{"&runtime.sigresume as uptr": "&work as uptr"})
    assert [v.obligation for v in run.violations] == ["flow"], texts(run)


def test_a_handler_on_386_pops_its_argument() -> None:
    architecture = find_target("windows/386").architecture
    plain = tuple(architecture.leave(broken.compiled("windows/386", EXCEPTIONS)["interrupted"].frame, 0))
    run = excepted(
        "windows/386",
        {"runtime.exceptiontramp": lambda code: [*code[: first(code, leaving)], *plain]},
    )
    [violation] = run.violations
    assert violation.obligation == "sp"
    assert (violation.expected or 0) - (violation.found or 0) == 4


# ----------------------------------------------------------------------------------------------------- any programs

HANDLERS = """
extern runtime.sigtrampgo(signal: u32, info: ptr, context: ptr) using go0
extern runtime.vectored(pointers: ptr) -> i32 using go0
convention vectored like c { when windows/386 { like stdcall } }
trampoline runtime.sigtramp(signal: u32, info: ptr, context: ptr) using c {
    call runtime.sigtrampgo(signal, info, context)
    return
}
trampoline runtime.exceptiontramp(pointers: ptr) -> i32 using vectored {
    let answer = call runtime.vectored(pointers)
    return answer & 0x7fffffff              # nothing that CONTEXT has to say
}
"""


@pytest.mark.parametrize("target", [t.name for t in default_targets()])
@pytest.mark.parametrize("seed", range(1, 5))
def test_random_programs_stand_it(seed: int, target: str) -> None:
    """Every trampoline of a random program goes on as if nothing had happened."""
    source = Source("random.tramp", program(seed) + HANDLERS)
    try:
        compiled = compile_source(source, [find_target(target)])[target]
    except InputError as error:
        if {d.code for d in error.diagnostics} <= {
            "L004",
            "R072",
        }:  # see test_fuzz_programs; Windows has no system calls
            return
        raise
    handler = "runtime.exceptiontramp" if target.startswith("windows") else HANDLER
    session = Session(compiled)
    span = compiled.program.functions[handler].span
    count = 0
    for name in compiled.program.own:
        function = compiled.program.functions[name]
        scenario = next((s for s in compiled.program.scenarios if s.trampoline == name), None)
        try:
            world, trace = session.expected(function, scenario, seed)
        except Trouble:
            continue
        deliveries = Deliveries(session.players, ir.Signals(handler, None, None, span))
        run = session.execute(function, scenario, world, trace, 1, scramble=False, interruptions=deliveries)
        assert not run.violations, (name, texts(run))
        count += deliveries.count
    assert count > 20


# ---------------------------------------------------------------------------------------------- the kernels' headers

SIZES = {
    "linux/amd64": "8 + sizeof(struct ucontext) + sizeof(siginfo_t)",
    "linux/arm64": "sizeof(siginfo_t) + sizeof(struct ucontext)",
    "linux/mips": "24 + sizeof(siginfo_t) + sizeof(struct ucontext)",
    "linux/mips64": "24 + sizeof(siginfo_t) + sizeof(struct ucontext)",
    "linux/ppc64": "2 * sizeof(struct ucontext) + 16 + 24 + 16 + sizeof(siginfo_t) + 8",
    "linux/s390x": "168 + sizeof(siginfo_t) + sizeof(struct ucontext) + 512",
}


@pytest.mark.parametrize("target", SIZES)
def test_frames_add_up_to_what_the_kernels_headers_say(target: str, tmp_path: Path) -> None:
    kernel = find_target(target).architecture.signals
    assert kernel is not None
    headers = ("signal", "siginfo", "sigcontext", "ucontext")
    source = tmp_path / "sizes.c"
    source.write_text(
        "".join(f"#include <asm/{header}.h>\n" for header in headers)
        + f'_Static_assert({SIZES[target]} == {kernel.size}, "size");\n'
    )
    made = subprocess.run(
        [need(compiler(target)), "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


PROGRAM = """
#include <signal.h>
#include <stdio.h>
#include <string.h>
static long information, environment, rest;
static void handler(int number, siginfo_t *info, void *context)
{
    char *cfa = __builtin_dwarf_cfa();
    information = (char *)info - cfa;
    environment = (char *)context - cfa;
    rest = (unsigned long)cfa % 16;
}
int main(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    printf("%ld %ld %ld\\n", information, environment, rest);
    return 0;
}
"""


@pytest.mark.parametrize("target", [t for t in MACHINES if "ppc64" not in t])
def test_handlers_find_their_arguments_where_they_run(target: str, tmp_path: Path) -> None:
    """By the kernel that these tests run on (amd64, 386), and by qemu-user's of the others. That of ppc64 leaves 16
    bytes more than Linux does."""
    run = execute(target, tmp_path, PROGRAM, options=["-O1", "-w"])
    assert run.returncode == 0
    found = [int(word) for word in run.stdout.split()]
    architecture = find_target(target).architecture
    kernel, word = architecture.signals, architecture.word
    assert kernel is not None
    # What the compilers call the CFA at a function's start: above what the call pushed, or the register save area.
    convention = architecture.conventions["c"]
    above = {None: word}.get(convention.return_address, 0) + (convention.area if convention.save_area else 0)
    assert found[:2] == [kernel.info - kernel.entry - above, kernel.context - kernel.entry - above]
    assert (found[2] + kernel.misalignment - above) % kernel.alignment == 0
