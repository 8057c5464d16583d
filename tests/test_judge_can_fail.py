"""The judge can fail: each obligation is broken on each target, and the verdict says where, by how much and by whom.

The code is right but for one edit. The tests further down go through the defects that shipped in hand-written
trampolines, by class, each on a machine where it happened; and through code that is right and looks wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import broken
import pytest
from broken import (
    Change,
    around_call,
    before,
    both,
    calling,
    change,
    drop,
    first,
    insert,
    judge,
    leaving,
    matching,
    move_up,
    replaced,
    without,
    written,
)
from hand_written import FRAMES, THROUGH

from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.target import Bank, InRegister, Insn, OnStack, Register
from trampoline_dsl.targets import default_targets
from trampoline_dsl.verify import Verdict

TARGETS = [target.name for target in default_targets()]


def broken_on(target: str) -> Compiled:
    return broken.compiled(target)


# ----------------------------------------------------------------------------------- each obligation on each target


def preserve(program: Compiled) -> tuple[Verdict, str | None]:
    """A register that the caller wants back is used as scratch."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    kept = next(r for r in architecture.allocatable(convention) if r in convention.kept)
    code = program["leaf"].instructions
    verdict = judge(program, "leaf", before(code, first(code, leaving), architecture.constant(kept, 0x5EED)))
    return verdict, kept.name


def sp(program: Compiled) -> tuple[Verdict, str | None]:
    """A word of the frame is still there at the return."""
    architecture = program.target.architecture
    code = program["leaf"].instructions
    step = architecture.binary("sub", architecture.sp, architecture.sp, architecture.word)
    return judge(program, "leaf", before(code, first(code, leaving), step)), architecture.sp.name


def align(program: Compiled) -> tuple[Verdict, str | None]:
    """The stack pointer is half an alignment too low at a call."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    s, half = architecture.sp, convention.alignment // 2
    code = around_call(
        program["many"].instructions,
        architecture.binary("sub", s, s, half),
        architecture.binary("add", s, s, half),
    )
    return judge(program, "many", code), s.name


def area(program: Compiled) -> tuple[Verdict, str | None]:
    """What the callee is given above its stack pointer reaches into the caller's frame."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    s, frame = architecture.sp, program["many"].frame.size
    most = frame // convention.alignment * convention.alignment
    code = around_call(
        program["many"].instructions,
        architecture.binary("add", s, s, most),
        architecture.binary("sub", s, s, most),
    )
    return judge(program, "many", code), None


def args(program: Compiled) -> tuple[Verdict, str | None]:
    """The first argument is overwritten right before the call."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    types = [t.value_type for _, t in program.program.externs["ten"].parameters]
    place = convention.place(types, None).arguments[0][0].place
    code = program["many"].instructions
    index = first(code, calling)
    match place:
        case InRegister(register):
            spoiled = judge(program, "many", before(code, index, architecture.constant(register, 0x5EED)))
            return spoiled, register.name
        case OnStack(offset):
            scratch = broken.volatile(program, "many")
            store = [*architecture.constant(scratch, 0x5EED)]
            store += architecture.store(scratch, architecture.sp, offset, 8 * architecture.word)
            return judge(program, "many", before(code, index, store)), None


def below(program: Compiled) -> tuple[Verdict, str | None]:
    """The result waits under the stack pointer, beyond the red zone."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    result, bits = convention.integer_results[0], 8 * architecture.word
    offset = -convention.red_zone - 2 * architecture.word
    detour = [
        *_with_result(program),
        *architecture.store(result, architecture.sp, offset, bits),
        *architecture.constant(result, 0),
        *architecture.load(result, architecture.sp, offset, bits, False),
    ]
    return judge(program, "leaf", detour + _end(program)), result.name


def bounds(program: Compiled) -> tuple[Verdict, str | None]:
    """The stack pointer leaves the stack for a moment."""
    architecture = program.target.architecture
    s = architecture.sp
    code = program["leaf"].instructions
    trip = [*architecture.binary("sub", s, s, 0x10_0000), *architecture.binary("add", s, s, 0x10_0000)]
    return judge(program, "leaf", before(code, first(code, leaving), trip)), s.name


def writes(program: Compiled) -> tuple[Verdict, str | None]:
    """A store reaches the caller's frame."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    code = program["leaf"].instructions
    offset = convention.area + 24 * architecture.word
    store = architecture.store(broken.volatile(program, "leaf"), architecture.sp, offset, 8 * architecture.word)
    return judge(program, "leaf", before(code, first(code, leaving), store)), None


def reads(program: Compiled) -> tuple[Verdict, str | None]:
    """The result comes from a register that nobody has set."""
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    result = convention.integer_results[0]
    code = [*architecture.move(result, broken.volatile(program, "leaf"))]
    return judge(program, "leaf", code + _end(program)), result.name


def flow(program: Compiled) -> tuple[Verdict, str | None]:
    """It never ends."""
    architecture = program.target.architecture
    loop = architecture.improve([Insn("", label=".Lagain"), *architecture.jump(".Lagain")])
    code = program["leaf"].instructions
    return judge(program, "leaf", before(code, first(code, leaving), loop)), None


def effect(program: Compiled) -> tuple[Verdict, str | None]:
    """The store that the source asks for does not happen."""
    architecture = program.target.architecture
    code = list(program["put"].instructions)
    index = first(code, lambda insn: insn.access is not None and insn.access.kind == "store")
    code[index : index + 1] = architecture.constant(broken.volatile(program, "put"), 1)
    return judge(program, "put", code), None


def _with_result(program: Compiled) -> Iterable[Insn]:
    """The body of `leaf`, without its return."""
    code = program["leaf"].instructions
    return [insn for insn in code if not leaving(insn)]


def _end(program: Compiled) -> list[Insn]:
    architecture, artifact = program.target.architecture, program["leaf"]
    return list(architecture.improve([*architecture.leave(artifact.frame, 0)]))


BREAKS: dict[str, Callable[[Compiled], tuple[Verdict, str | None]]] = {
    f.__name__: f for f in (preserve, sp, align, area, args, below, bounds, writes, reads, flow, effect)
}


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_broken_here_holds_as_it_was_compiled(target: str) -> None:
    program = broken_on(target)
    for artifact in program.own:
        verdict = judge(program, artifact.name, artifact.instructions)
        assert verdict.good, verdict.violations


@pytest.mark.parametrize("obligation", BREAKS)
@pytest.mark.parametrize("target", TARGETS)
def test_each_obligation_can_be_violated_and_is_named(target: str, obligation: str) -> None:
    verdict, register = BREAKS[obligation](broken_on(target))
    assert verdict.obligations[obligation].state == "violated", verdict.violations
    violation = broken.found(verdict, obligation)
    assert violation.instruction is not None
    assert violation.address is not None
    assert violation.function == verdict.trampoline
    if obligation == "flow":
        return
    pushed = program_pushes(target) and obligation == "sp"  # the return address is looked for in another place
    if register is not None and not pushed:
        assert violation.register == register
    else:
        assert violation.memory is not None
    assert violation.expected is not None
    assert violation.found is not None
    assert violation.expected != violation.found


def program_pushes(target: str) -> bool:
    return broken_on(target).target.conventions["c"].return_address is None


# -------------------------------------------------------------------------------- the classes of defects that shipped

# target, what is wrong, how, the obligation, the register (None: a place in memory)
SHIPPED: list[tuple[str, str, Change, str, str | None]] = [
    # M1, M2: a save or a restore is missing: integer, floating point, vector, condition register, control words.
    ("linux/386", "ebx is not restored", change("pop ebx", "pop ecx"), "preserve", "ebx"),
    ("linux/amd64", "r15 is not restored", change("pop r15", "pop r11"), "preserve", "r15"),
    ("linux/amd64", "r12 is not saved", change("push r12", "push r11"), "preserve", "r12"),
    ("linux/arm", "vfp registers are forgotten", both(drop("vpush"), drop("vpop")), "preserve", "d8"),
    ("linux/arm", "r9 counts as volatile", change(r"r4-r11", "r4-r8, r10, r11"), "preserve", "r9"),
    ("linux/arm64", "d14 and d15 are not restored", drop("ldp d14"), "preserve", "v15"),
    ("linux/arm64", "d8 and d9 are not saved", drop("stp d8"), "preserve", "v8"),
    ("linux/mips", "f22 is not restored", drop(r"ldc1 \$f22"), "preserve", "f22"),
    (
        "linux/mips",
        "the odd halves are forgotten",
        both(change(r"sdc1 \$f20", "swc1 $f20"), change(r"ldc1 \$f20", "lwc1 $f20")),
        "preserve",
        "f21",
    ),
    ("linux/mips64", "f31 is not restored", drop(r"ldc1 \$f31"), "preserve", "f31"),
    ("linux/mips64", "gp is not restored", drop(r"ld \$gp"), "preserve", "gp"),
    ("linux/ppc64le", "f31 is not restored", drop("lfd %f31"), "preserve", "f31"),
    ("linux/ppc64le", "v20 is not restored", drop("lvx %v20"), "preserve", "v20"),
    ("linux/ppc64le", "the condition register is not restored", drop("mtcrf"), "preserve", "cr2"),
    ("linux/ppc64le", "cr4 is not restored", change("mtcrf 0x38", "mtcrf 0x30"), "preserve", "cr4"),
    ("linux/s390x", "f8 is not restored", drop("ld %f8"), "preserve", "f8"),
    ("linux/s390x", "volatile f0 is saved in place of f8", change("d %f8,", "d %f0,"), "preserve", "f8"),
    ("linux/s390x", "r6 is left out", change("^lmg %r6, %r15, 0x90", "lmg %r7, %r15, 0x98"), "preserve", "r6"),
    # M3: one side is off by a word; two neighbours change places.
    (
        "linux/386",
        "pops in another order",
        both(change("pop edi", "pop eax"), change("pop esi", "pop edi"), change("pop eax", "pop esi")),
        "preserve",
        "esi",
    ),
    (
        "linux/arm64",
        "restored from a word higher",
        change(r"ldp x21, x22, \[sp, #0x30\]", "ldp x21, x22, [sp, #0x38]"),
        "preserve",
        "x21",
    ),
    ("linux/mips64", "restored from a word higher", change(r"ld \$s3, 0x40", "ld $s3, 0x48"), "preserve", "s3"),
    ("linux/ppc64le", "restored from a word lower", change("ld %r20, 0x130", "ld %r20, 0x128"), "preserve", "r20"),
    ("linux/s390x", "restored from a word higher", change("ld %f9, 0x28", "ld %f9, 0x30"), "preserve", "f9"),
    # M4: two values share a slot; an argument is stored over a save.
    ("linux/s390x", "f8 and f9 share a slot", change("d %f9, 0x28", "d %f9, 0x20"), "preserve", "f8"),
    ("linux/ppc64le", "all vectors go to one slot", change("li %r12, 0x[0-9a-f]+", "li %r12, 0x40"), "preserve", "v20"),
    (
        "linux/mips",
        "an argument lies on a save",
        change(r"sw \$s0, 0x10|lw \$s0, 0x10", lambda m: m[0].replace("0x10", "0xc")),
        "preserve",
        "s0",
    ),
    # M5: a save is too narrow.
    (
        "linux/386",
        "half of ebx",
        both(change("pop ebx", "pop ecx"), insert("pop ebp", "mov bx, cx")),
        "preserve",
        "ebx",
    ),
    (
        "linux/arm64",
        "32 bits of d8",
        both(
            change(r"stp d8, d9, \[sp, #0x70\]", "stp s8, s9, [sp, #0x70]"),
            change(r"ldp d8, d9, \[sp, #0x70\]", "ldp s8, s9, [sp, #0x70]"),
        ),
        "preserve",
        "v8",
    ),
    (
        "linux/mips64",
        "32 bits of s0",
        both(change(r"sd \$s0", "sw $s0"), change(r"ld \$s0", "lw $s0")),
        "preserve",
        "s0",
    ),
    (
        "linux/ppc64le",
        "64 bits of v31",
        both(change("stvx %v31, %r1, %r12", "stfd %f31, 0xf0(%r1)"), drop("lvx %v31")),
        "preserve",
        "v31",
    ),
    (
        "linux/ppc64le",
        "32 bits of r14",
        both(change("std %r14", "stw %r14"), change("ld %r14", "lwz %r14")),
        "preserve",
        "r14",
    ),
    (
        "linux/s390x",
        "32 bits of f15",
        both(change("std %f15", "ste %f15"), change("ld %f15", "le %f15")),
        "preserve",
        "f15",
    ),
    # M6: the wrong bank.
    ("linux/arm64", "x8 in place of d8", change(r"(st|ld)p d8, d9", r"\1p x8, x9"), "preserve", "v8"),
    # M7: the frame is larger on one side.
    ("linux/386", "a word too few is given back", change("add esp, 0xc", "add esp, 0x8"), "sp", None),
    ("linux/amd64", "16 bytes too many are given back", change("add rsp, 0x18", "add rsp, 0x28"), "sp", None),
    ("linux/arm64", "a word too much is given back", change("add sp, sp, #0xb0", "add sp, sp, #0xb8"), "sp", "sp"),
    ("linux/mips", "a word too few is given back", change(r"sp, 0x58", "sp, 0x54"), "sp", "sp"),
    (
        "linux/ppc64le",
        "16 bytes too many are given back",
        change("addi %r1, %r1, 0x230", "addi %r1, %r1, 0x240"),
        "sp",
        "lr",
    ),
    # M8: a store before sp moves (a load after it has), no red zone below.
    (
        "linux/386",
        "an argument below sp",
        move_up(r"mov dword ptr \[esp\+4\], eax", "sub esp", "mov dword ptr [esp-8], eax"),
        "args",
        None,
    ),
    (
        "linux/arm64",
        "saved below sp",
        move_up(r"stp x19, x20, \[sp, #0x20\]", "sub sp", "stp x19, x20, [sp, #-0x90]"),
        "below",
        "x19",
    ),
    ("linux/mips64", "saved below sp", move_up(r"sd \$s0, 0x28", "daddiu", "sd $s0, -0x98"), "below", "s0"),
    (
        "linux/s390x",
        "restored below sp",
        both(drop("ld %f8"), insert("br %r14", "ldy %f8, -0x40(%r15)")),
        "below",
        "f8",
    ),
    (
        "linux/ppc64le",
        "below the red zone",
        both(drop("ld %r14"), insert("lwz %r0", "ld %r14, -0x130(%r1)")),
        "below",
        "r14",
    ),
    # M11: the return address is lost.
    ("linux/arm64", "x30 is not restored", drop("ldr x30"), "sp", "x30"),
    ("linux/mips", "ra is not restored", drop(r"lw \$ra"), "sp", "ra"),
    ("linux/ppc64le", "lr is not restored", drop("mtlr"), "sp", "lr"),
    (
        "linux/ppc64le",
        "lr is saved in the callee's area",
        both(change("std %r0, 0x10", "std %r0, -0x220"), change("ld %r0, 0x10", "ld %r0, -0x220")),
        "below",
        "lr",
    ),
    (
        "linux/s390x",
        "r14 is restored from another word",
        change("lmg %r6, %r15, 0x90", "lmg %r6, %r15, 0x88"),
        "bounds",
        "r15",
    ),
    # M12: an argument is read after its register was overwritten.
    ("linux/amd64", "rsi is read too late", insert(r"mov qword ptr \[rsp\+8\]", "mov rsi, rdi"), "args", None),
    ("linux/s390x", "r3 is read too late", insert("stg %r3", "lgr %r3, %r2"), "args", None),
    # M13, M14: the TOC in the caller's slot (Go issue 43228); gp, r0 and the direction flag not set up.
    ("linux/ppc64le", "the TOC in the caller's slot", change("%r2, 0x18", "%r2, 0x248"), "writes", None),
    ("linux/ppc64le", "the TOC is not restored", drop("ld %r2"), "preserve", "r2"),
    ("linux/ppc64le", "r0 is not zero", drop("li %r0, 0$"), "args", "r0"),
    ("linux/s390x", "r0 is not zero", drop("lghi %r0"), "args", "r0"),
    ("linux/mips64", "gp is the caller's", drop(r"dsll32 \$gp|dsrl32 \$gp"), "args", "gp"),
    ("linux/386", "strings go downwards in the callee", insert("call", "std"), "args", "eflags"),
    ("linux/amd64", "strings go downwards in the caller", insert("^ret", "std"), "preserve", "eflags"),
    (
        "linux/amd64",
        "another rounding mode",
        insert("^ret", "mov dword ptr [rsp-0x10], 0x7f80", "ldmxcsr dword ptr [rsp-0x10]"),
        "preserve",
        "mxcsr",
    ),
    (
        "linux/386",
        "another precision",
        insert("pop edi", "mov dword ptr [esp-4], 0x27f", "sub esp, 4", "fldcw word ptr [esp]", "add esp, 4"),
        "preserve",
        "fpcw",
    ),
    ("linux/arm64", "another rounding mode", insert("^ret", "mov x9, #0xc00000", "msr fpcr, x9"), "preserve", "fpcr"),
    ("linux/arm", "another rounding mode", insert("pop", "mov r1, #0xc00000", "vmsr fpscr, r1"), "preserve", "fpscr"),
]


@pytest.mark.parametrize(
    ("target", "how", "obligation", "place"),
    [(target, how, obligation, place) for target, _, how, obligation, place in SHIPPED],
    ids=[f"{target.removeprefix('linux/')}: {what}" for target, what, _, _, _ in SHIPPED],
)
def test_defects_that_shipped_are_caught(target: str, how: Change, obligation: str, place: str | None) -> None:
    program = broken_on(target)
    code = how(written(program["through"], THROUGH[target]))
    verdict = judge(program, "through", code, frame=FRAMES[target])
    violation = broken.found(verdict, obligation, place)
    assert violation.instruction is not None
    assert violation.expected != violation.found


@pytest.mark.parametrize("target", THROUGH)
def test_code_written_by_hand_is_held_to_be_right(target: str) -> None:
    """Among it what reviewers asked for in vain: mips reuses the home area that its caller gives it; o32's gp, arm's
    r12 and the xmm registers of System V are not kept; s390x has no back chain before Go; 386 calls Go unaligned."""
    program = broken_on(target)
    verdict = judge(program, "through", written(program["through"], THROUGH[target]), frame=FRAMES[target], runs=8)
    assert verdict.good, verdict.violations


@pytest.mark.parametrize("target", TARGETS)
def test_a_stack_that_is_not_aligned_around_a_call_is_noticed(target: str) -> None:
    program = broken_on(target)
    if program.target.conventions["go0"].alignment >= program.target.conventions["c"].alignment:
        return  # then all Go code is aligned enough already
    verdict = judge(program, "from_go", without(program["from_go"].instructions, r"^(and|bic|clrrdi)\w* "))
    assert broken.found(verdict, "align").found is not None


@pytest.mark.parametrize("target", ["linux/mips", "linux/mipsle"])
def test_a_save_in_the_callees_home_area_is_not_safe(target: str) -> None:
    program = broken_on(target)
    verdict = judge(program, "many", replaced(program["many"].instructions, r"\$ra, \w+\(\$sp\)", "$ra, 8($sp)"))
    assert {v.obligation for v in verdict.violations} == {"area"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_call_in_place_of_a_jump_is_noticed(target: str) -> None:
    program = broken_on(target)
    architecture, artifact = program.target.architecture, program["pass"]
    convention = program.target.conventions["c"]
    own = artifact.instructions
    jump = first(own, lambda insn: insn.transfer == "jump")
    calls = [*architecture.call("notice", convention), *architecture.leave(artifact.frame, 0)]
    verdict = judge(program, "pass", [*own[:jump], *architecture.improve(calls)])
    violation = broken.found(verdict, "sp")
    assert "jumps" in violation.message
    assert violation.expected != violation.found


@pytest.mark.parametrize("target", ["linux/386"])
def test_a_wrong_pop_count_is_noticed(target: str) -> None:
    program = broken.compiled(target, broken.CASES.parent / "popping.tramp")
    assert judge(program, "taking", program["taking"].instructions).good
    for pops in ("ret", "ret 0x1c", "ret 0x24"):
        verdict = judge(program, "taking", replaced(program["taking"].instructions, "ret 0x20", pops))
        assert broken.found(verdict, "sp", "esp").expected is not None
    assert judge(program, "giving", program["giving"].instructions).good
    call = matching(program["giving"].instructions, "call")[0]
    more = before(program["giving"].instructions, call + 1, [Insn("add esp, 0x20")])
    assert broken.found(judge(program, "giving", more), "sp", "esp").found is not None


@pytest.mark.parametrize("target", [t for t in TARGETS if broken_on(t).target.conventions["c"].red_zone])
def test_the_red_zone_may_be_used(target: str) -> None:
    program = broken_on(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    result, bits = convention.integer_results[0], 8 * architecture.word
    detour = [
        *_with_result(program),
        *architecture.store(result, architecture.sp, -convention.red_zone, bits),
        *architecture.constant(result, 0),
        *architecture.load(result, architecture.sp, -convention.red_zone, bits, False),
    ]
    verdict = judge(program, "leaf", detour + _end(program), runs=8)
    assert verdict.good, verdict.violations


@pytest.mark.parametrize("target", TARGETS)
def test_every_register_that_c_keeps_is_watched(target: str) -> None:
    """One after the other is overwritten in a function that does nothing else, all of its bits that count."""
    program = broken_on(target)
    architecture, convention = program.target.architecture, program.target.conventions["c"]
    code = program["leaf"].instructions
    watched = []
    for usable in (architecture.allocatable(convention), architecture.float_allocatable(convention)):
        for register in usable:
            if register not in convention.kept:
                continue
            source = next(r for r in usable if r is not register)
            move = architecture.move if register.bank is Bank.INTEGER else _moved_float(program)
            verdict = judge(program, "leaf", before(code, first(code, leaving), move(register, source)))
            assert broken.found(verdict, "preserve", register.name).found is not None
            watched.append(register)
    assert len(watched) >= 4


def _moved_float(program: Compiled) -> Callable[[Register, Register], Iterable[Insn]]:
    return lambda d, s: program.target.architecture.float_move(d, s, 64)


@pytest.mark.parametrize("target", TARGETS)
def test_a_pinned_slot_is_where_it_was_declared(target: str) -> None:
    program = broken.compiled(target, broken.CASES.parent / "pinned.tramp")
    architecture = program.target.architecture
    code: list[Insn] = []
    for insn in program["pinned"].instructions:
        access = insn.access
        if access is None or access.base is not architecture.sp or access.offset != 256:
            code.append(insn)
        elif access.kind == "store":
            code += architecture.store(access.register, access.base, 264, 8 * architecture.word)
        else:
            code += architecture.load(access.register, access.base, 264, 8 * architecture.word, False)
    assert judge(program, "pinned", program["pinned"].instructions).good
    violation = broken.found(judge(program, "pinned", code), "effect")
    assert violation.memory is not None
    assert violation.expected != violation.found
