"""Context switches are judged, by hand and our own: right ones hold, mistakes are found where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from broken import Change, both, change, code_from, drop, found, insert, written
from switches import SOURCE, SWITCHES

from trampoline_dsl.audit import audit
from trampoline_dsl.binary import read_raw
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.image import find_symbol
from trampoline_dsl.pipeline import Compiled, compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Insn
from trampoline_dsl.targets import all_targets, find_target
from trampoline_dsl.verify import Session, Verdict, verify

RIGHT = [(target, name) for target, switches in SWITCHES.items() for name in switches]


@cache
def program(target: str) -> Compiled:
    return compile_module(load_module(Source(str(Path("switches.tramp")), SOURCE)), find_target(target))


def instructions(target: str, name: str) -> list[Insn]:
    return written(program(target)[name], SWITCHES[target][name])


def judge(target: str, name: str, changes: Callable[[list[Insn]], Sequence[Insn]] = list, *, runs: int = 4) -> Verdict:
    """The verdict on a switch; what it works together with is right."""
    compiled = program(target)
    codes = {other: code_from(compiled[other], instructions(target, other), 0) for other in SWITCHES[target]}
    codes[name] = code_from(compiled[name], changes(instructions(target, name)), 0)
    return Session(compiled, codes).judge(compiled[name], 1, runs)


@pytest.mark.parametrize(("target", "name"), RIGHT, ids=["-".join(case) for case in RIGHT])
def test_right_ones_hold(target: str, name: str) -> None:
    verdict = judge(target, name)
    assert verdict.good, (str(verdict), verdict.violations, verdict.obligations)


# target, which, what is wrong, how, the obligation, the register
WRONG: list[tuple[str, str, str, Change, str, str | None]] = [
    ("linux/386", "jump", "ebx is left out", change("p(ush|op) ebx", r"p\1 ecx"), "preserve", "ebx"),
    ("linux/386", "jump", "mxcsr is not restored", drop("ldmxcsr"), "preserve", "mxcsr"),
    ("linux/386", "swap", "the x87 control word is not restored", drop("fldcw"), "preserve", "fpcw"),
    (
        "linux/386",
        "swap",
        "the stack pointer is a word too low",
        change(r"lea ecx, \[esp\+4\]", "mov ecx, esp"),
        "sp",
        "esp",
    ),
    ("linux/386", "long", "0 stays 0", drop("cmove"), "effect", "eax"),
    ("linux/arm", "jump", "half of d8", change(r"(vstr|vldr) d8", r"\1 s16"), "preserve", "d8"),
    ("linux/arm", "jump", "d15 is left out", drop("d15"), "preserve", "d15"),
    ("linux/arm", "jump", "lr is not restored", drop("ldr lr"), "effect", None),
    ("linux/arm", "swap", "fpscr is not restored", drop("vmsr"), "preserve", "fpscr"),
    ("linux/arm", "swap", "r9 is left out", change("r4-r11", "r4-r8, r10, r11"), "preserve", "r9"),
    ("linux/arm", "set", "the stack pointer is a word too low", insert("str sp", "sub sp, sp, #4"), "sp", "sp"),
    ("linux/mips", "jump", "s3 is left out", drop(r"\$s3"), "preserve", "s3"),
    ("linux/mips", "jump", "the odd half of f22", change("(s|l)dc1 [$]f22", r"\1wc1 $f22"), "preserve", "f23"),
    ("linux/mips", "swap", "ra is not restored", drop(r"lw \$ra"), "effect", None),
    ("linux/mips", "swap", "fcsr is not restored", drop("ctc1"), "preserve", "fcsr"),
    ("linux/mips", "long", "0 stays 0", change(r"or \$v0, \$a1, \$t1", "move $v0, $a1"), "effect", "v0"),
    ("linux/mips64le", "jump", "gp is left out", drop(r"\$gp"), "preserve", "gp"),
    ("linux/mips64le", "swap", "f24 is left out", drop(r"\$f24"), "preserve", "f24"),
    ("linux/ppc64le", "jump", "f14 is left out", drop("%f14"), "preserve", "f14"),
    ("linux/ppc64le", "jump", "v31 is left out", drop("%v31"), "preserve", "v31"),
    ("linux/ppc64le", "jump", "the condition register is not restored", drop("mtcrf"), "preserve", "cr2"),
    ("linux/ppc64le", "swap", "cr4 is not restored", change("mtcrf 0x38", "mtcrf 0x30"), "preserve", "cr4"),
    ("linux/ppc64le", "swap", "the table of contents is left out", drop("%r2, 0x18"), "preserve", "r2"),
    ("linux/ppc64le", "jump", "there is no back chain", change("stdu .*", "addi %r1, %r1, -0x230"), "area", None),
    ("linux/ppc64le", "set", "lr is not saved", drop("mflr"), "sp", None),
    ("linux/ppc64le", "long", "fpscr is not restored", drop("mtfsf"), "preserve", "fpscr"),
    ("linux/ppc64le", "long", "vscr is not restored", drop("mtvscr"), "preserve", "vscr"),
    ("linux/s390x", "jump", "f8 is left out", drop("%f8"), "preserve", "f8"),
    ("linux/s390x", "jump", "fpc is not restored", drop("0x9d"), "preserve", "fpc"),
    (
        "linux/mips",
        "jump",
        "saves below the stack pointer",
        both(
            change("addiu .*0x68", "nop"),
            change(r"0x([0-9a-f]+)\(\$sp", lambda m: f"{int(m[1], 16) - 0x68}($sp"),
        ),
        "below",
        None,
    ),
    ("linux/s390x", "swap", "the program mask is not restored", drop("0x04, 0x10"), "preserve", "pm"),
    ("linux/s390x", "swap", "r6 is left out", change("lmg %r6, %r15, 0x0", "lmg %r7, %r15, 0x8"), "preserve", "r6"),
    ("linux/s390x", "long", "restored from a word higher", change("ld %f9, 0x58", "ld %f9, 0x60"), "preserve", "f9"),
    ("linux/amd64", "jump", "r15 is left out", change("p(ush|op) r15", r"p\1 r11"), "preserve", "r15"),
    ("linux/amd64", "jump", "mxcsr is not restored", drop("ldmxcsr"), "preserve", "mxcsr"),
    ("linux/amd64", "jump", "the x87 control word is not saved", drop("fnstcw"), "preserve", "fpcw"),
    (
        "linux/amd64",
        "jump",
        "pops in another order",
        change("pop r1([23])", lambda m: f"pop r1{5 - int(m[1])}"),
        "preserve",
        "r12",
    ),
    ("linux/amd64", "jump", "the value is another one", change("mov rax, rdx", "mov rax, rsi"), "effect", "rax"),
    ("linux/amd64", "jump", "mxcsr is saved over r12", change("sub rsp, 8|add rsp, 8", "nop"), "preserve", "r12"),
    (
        "linux/amd64",
        "swap",
        "the stack pointer is a word too low",
        change(r"lea rcx, \[rsp\+8\]", "mov rcx, rsp"),
        "sp",
        "rsp",
    ),
    (
        "linux/amd64",
        "swap",
        "goes back to its own caller",
        change(r"jmp qword ptr \[rsi\+0x38\]", "jmp rax"),
        "effect",
        None,
    ),
    ("linux/amd64", "set", "returns what was there", drop("xor eax"), "effect", "rax"),
    ("linux/amd64", "set", "rbx is not saved", drop("rbx"), "preserve", "rbx"),
    ("linux/amd64", "long", "0 stays 0", drop("cmove"), "effect", "rax"),
    ("linux/amd64", "long", "mxcsr is not restored", drop("ldmxcsr"), "preserve", "mxcsr"),
    ("linux/arm64", "jump", "half of d9", change(r"(st|ld)p d8, d9, (.*)", r"\1p s8, s9, \2"), "preserve", "v8"),
    ("linux/arm64", "jump", "d14 and d15 are left out", drop("d14"), "preserve", "v14"),
    ("linux/arm64", "jump", "x30 is not restored", change("ldp x29, x30,", "ldp x29, x9,"), "effect", None),
    ("linux/arm64", "jump", "fpcr is not restored", drop("msr fpcr"), "preserve", "fpcr"),
    (
        "linux/arm64",
        "jump",
        "saves below the stack pointer",
        both(drop(", #0xb0"), change(r"sp, #0x([0-9a-f]+)", lambda m: f"sp, #{int(m[1], 16) - 0xB0}")),
        "below",
        None,
    ),
    (
        "linux/arm64",
        "swap",
        "x19 is saved in the place of x20",
        change("stp x19, x20", "stp x20, x19"),
        "preserve",
        "x19",
    ),
    ("linux/arm64", "long", "the stack pointer stays", drop("mov sp, x9"), "sp", "sp"),
]


@pytest.mark.parametrize(
    ("target", "name", "changes", "obligation", "register"),
    [(case[0], case[1], *case[3:]) for case in WRONG],
    ids=["-".join(case[:3]).replace(" ", "_") for case in WRONG],
)
def test_wrong_ones_are_found(target: str, name: str, changes: Change, obligation: str, register: str | None) -> None:
    found(judge(target, name, changes, runs=2), obligation, register)


VALUES = """
struct fiber { context: ptr }

trampoline narrow(from: ptr<fiber>, to: ptr, value: u8) -> u8 using c
    suspends from.context resumes to giving value
{
    from.context = sp as ptr
    switch stack to
    return value
}

trampoline wide(from: ptr<fiber>, value: u64, to: ptr) -> u64 using c
    suspends from.context resumes to giving value or 7
{
    from.context = sp as ptr
    switch stack to
    if value == 0 { return 7 }
    return value
}

trampoline floating(from: ptr<fiber>, to: ptr, value: f64) -> f64 using c
    suspends from.context resumes to giving value
{
    from.context = sp as ptr
    switch stack to
    return value
}
"""


@pytest.mark.parametrize("target", [target.name for target in all_targets().values()])
def test_values_of_every_kind_travel_along(target: str) -> None:
    compiled = compile_module(load_module(Source("values.tramp", VALUES)), find_target(target))
    for verdict in verify(compiled, runs=8):
        assert verdict.good, (str(verdict), verdict.violations, verdict.obligations)


def test_checks_set_the_other_parameters() -> None:
    """Both ways of a condition run only if a check takes each of them."""
    text = """
    struct fiber { context: ptr }
    trampoline jump(from: ptr<fiber>, to: ptr, value: uptr, twice: u32) -> uptr using c
        suspends from.context resumes to giving value
    {
        from.context = sp as ptr
        switch stack to
        if twice == 12345 { return value + value }
        return value
    }
    check jump { given { twice = 1 } }
    """
    [verdict] = verify(compile_module(load_module(Source("jump.tramp", text)), find_target("linux/amd64")))
    assert not verdict.violations
    assert "1 of 2 paths never ran" in verdict.obligations["effect"].reason
    text = text.replace("twice = 1 }", "twice = 12345 }")
    [verdict] = verify(compile_module(load_module(Source("jump.tramp", text)), find_target("linux/amd64")))
    found(verdict, "effect", "rax")


CONTRACT = """
struct context { words: uptr[96] }
struct fiber { context: ptr }

trampoline jump(from: ptr<fiber>, to: ptr, value: iptr) -> iptr using c
    suspends from.context resumes to giving value
trampoline swap(from: ptr<context>, to: ptr<context>) using c suspends from resumes to
"""


def audited(target: str, name: str, changes: Change = list) -> Verdict:
    """The verdict on the bytes of a switch, of which nothing is known but its declaration."""
    made = code_from(program(target)[name], changes(instructions(target, name)), 0)
    assert not made.relocations
    image = read_raw(made.code, f"{name}.bin", find_target(target))
    contract = compile_module(load_module(Source("contract.tramp", CONTRACT)), find_target(target))
    [verdict] = audit(image, {name: find_symbol(image, name)}, contract, runs=4)
    return verdict


@pytest.mark.parametrize("name", ["jump", "swap"])
@pytest.mark.parametrize("target", SWITCHES)
def test_right_bytes_hold_by_their_declaration(target: str, name: str) -> None:
    verdict = audited(target, name)
    assert verdict.good, (str(verdict), verdict.violations, verdict.obligations)


AUDITED = [case for case in WRONG if case[0] in ("linux/amd64", "linux/s390x") and case[1] in ("jump", "swap")]


@pytest.mark.parametrize(
    ("target", "name", "changes", "obligation", "register"),
    [(case[0], case[1], *case[3:]) for case in AUDITED],
    ids=["-".join(case[:3]).replace(" ", "_") for case in AUDITED],
)
def test_wrong_bytes_are_found_by_their_declaration(
    target: str, name: str, changes: Change, obligation: str, register: str | None
) -> None:
    found(audited(target, name, changes), obligation, register)
