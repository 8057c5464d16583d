"""`asm` blocks on every target: operands, clobbers, and what they do, which the interpreter has to run them for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from test_fuzz_programs import TARGETS, problems

from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import find_target


@dataclass(frozen=True)
class Machine:
    """Texts for one target. `words`: two that take inputs and one that gives the output; `add`: all in registers of
    these, and registers that are kept besides; `modes`: what changes control registers, from `mode` in the first word's
    register, or, where that is 0, from the memory that the word points to."""

    words: tuple[str, str, str]
    add: tuple[str, ...]
    kept: str
    modes: tuple[str, ...]
    control: tuple[str, ...]
    mode: int
    store: tuple[str, ...]  # the second word to where the first one points
    doubles: tuple[str, str] | None = None
    move: tuple[str, ...] = ()
    vector: tuple[str, str] | None = None  # a register that is kept, as a clobber, and text that changes it


X86 = Machine(
    words=("eax", "ecx", "edx"),
    add=("lea edx, [eax+ecx]", "mov ebx, edx", "mov esi, edx", "mov ebp, edx"),
    kept="ebx esi ebp edx",
    modes=("ldmxcsr dword ptr [eax]", "fldcw word ptr [eax+4]", "std"),
    control=("mxcsr", "fpcw", "eflags"),
    mode=0,
    store=("mov dword ptr [eax], ecx",),
    doubles=("xmm3", "xmm5"),
    move=("movaps xmm5, xmm3",),
)
AMD64 = Machine(
    words=("rax", "rcx", "rdx"),
    add=("lea rdx, [rax+rcx]", "mov rbx, rdx", "mov r15, rdx", "mov rbp, rdx"),
    kept="rbx r15 rbp",
    modes=("ldmxcsr dword ptr [rax]", "fldcw word ptr [rax+4]", "std"),
    control=("mxcsr", "fpcw", "eflags"),
    mode=0,
    store=("mov qword ptr [rax], rcx",),
    doubles=("xmm3", "xmm12"),
    move=("movaps xmm12, xmm3",),
)
ARM = Machine(
    words=("r0", "r4", "r2"),
    add=("add r2, r0, r4", "mov r5, r2", "mov r11, r2", "mov lr, r2"),
    kept="r5 r11 lr",
    modes=("vmsr fpscr, r0",),
    control=("fpscr",),
    mode=0x00C00000,
    store=("str r4, [r0]",),
    doubles=("d3", "d9"),
    move=("vmov.f64 d9, d3",),
    vector=("d14", "vmov.f64 d14, d0"),
)
ARM64 = Machine(
    words=("x0", "x19", "x2"),
    add=("add x2, x0, x19", "mov x20, x2", "mov x28, x2", "mov x30, x2"),
    kept="x20 x28 x30",
    modes=("msr fpcr, x0",),
    control=("fpcr",),
    mode=0x00C00000,
    store=("str x19, [x0]",),
    doubles=("v3", "v9"),
    move=("fmov d9, d3",),
    vector=("v14", "fmov d14, d0"),
)
MIPS = Machine(
    words=("t0", "s1", "v0"),
    add=("addu $v0, $t0, $s1", "move $s2, $v0", "move $s7, $v0", "move $ra, $v0"),
    kept="s2 s7 ra",
    modes=(".word 0x44c8f800",),  # ctc1 $t0, $31
    control=("fcsr",),
    mode=3,
    store=("sw $s1, 0($t0)",),
    doubles=("f2", "f20"),
    move=("mov.d $f20, $f2",),
    vector=("f23", "mov.s $f23, $f0"),
)
MIPS64 = Machine(
    words=("t0", "s1", "v0"),
    add=("daddu $v0, $t0, $s1", "move $s2, $v0", "move $s7, $v0", "move $ra, $v0"),
    kept="s2 s7 ra",
    modes=(".word 0x44ccf800",),  # ctc1 $t0, $31: t0 is register 12 in n64
    control=("fcsr",),
    mode=3,
    store=("sd $s1, 0($t0)",),
    doubles=("f2", "f24"),
    move=("mov.d $f24, $f2",),
    vector=("f29", "mov.d $f29, $f0"),
)
PPC64 = Machine(
    words=("r3", "r14", "r5"),
    add=("add %r5, %r3, %r14", "mr %r15, %r5", "mr %r31, %r5", "mtlr %r5", "mtctr %r5"),
    kept="r15 r31 lr ctr",
    modes=("mtcrf 0x38, %r3", "mtfsfi 0x7, 0x3"),
    control=("cr2", "cr3", "cr4", "fpscr"),
    mode=0x0FFF0000,
    store=("std %r14, 0(%r3)",),
    doubles=("f3", "f14"),
    move=("fmr %f14, %f3",),
    vector=("v20", "vspltisb %v20, 0x5"),
)
S390X = Machine(
    words=("r2", "r6", "r5"),
    add=("lgr %r5, %r2", "agr %r5, %r6", "lgr %r7, %r5", "lgr %r13, %r5", "lgr %r14, %r5"),
    kept="r7 r13 r14",
    modes=(".long 0xb3840020",),  # sfpc %r2
    control=("fpc",),
    mode=3,
    store=("stg %r6, 0(%r2)",),
    doubles=("f1", "f8"),
    move=("ldr %f8, %f1",),
    vector=("f15", "ldr %f15, %f0"),
)
MACHINES = {
    "linux/386": X86,
    "linux/amd64": AMD64,
    "linux/arm": ARM,
    "linux/arm64": ARM64,
    "linux/mips": MIPS,
    "linux/mipsle": MIPS,
    "linux/mips64": MIPS64,
    "linux/mips64le": MIPS64,
    "linux/ppc64": PPC64,
    "linux/ppc64le": PPC64,
    "linux/s390x": S390X,
    "windows/386": X86,
    "windows/amd64": AMD64,
    "windows/arm": ARM,
    "windows/arm64": ARM64,
}


def block(target: str, lines: tuple[str, ...], operands: str, clobbers: str = "") -> str:
    texts = " ".join(f'"{line}"' for line in lines)
    return f"asm {target} {{ {operands} {f'clobbers {clobbers}' if clobbers else ''} {texts} }}"


def judged(target: str, text: str) -> list[str]:
    return problems(Source("asm.tramp", text), find_target(target), 8)


@pytest.mark.parametrize("target", TARGETS)
def test_words_go_in_and_come_out(target: str) -> None:
    machine = MACHINES[target]
    one, two, three = machine.words
    operands = f"in {one} = a  in {two} = b + 1  out {three} = sum"
    body = block(target, machine.add, operands, machine.kept)
    text = f"""
extern after(a: uptr, b: uptr, c: uptr) using c
trampoline f(a: uptr, b: uptr, c: uptr, d: uptr) -> uptr using c {{
    let e = c ^ d
    {body}
    call after(sum, a, e)
    return sum + b + d
}}
"""
    assert judged(target, text) == []


@pytest.mark.parametrize("target", TARGETS)
def test_narrow_outputs_are_cut_to_their_type(target: str) -> None:
    machine = MACHINES[target]
    one, two, three = machine.words
    body = block(target, machine.add, f"in {one} = a  in {two} = a  out {three} = n", machine.kept)
    text = f"trampoline f(a: uptr, n: i8) -> i32 using c {{\n    {body}\n    return n as i32\n}}\n"
    assert judged(target, text) == []


@pytest.mark.parametrize("convention", ["c", "go0"])
@pytest.mark.parametrize("target", TARGETS)
def test_control_registers_come_back(target: str, convention: str) -> None:
    machine = MACHINES[target]
    first = machine.words[0]
    operand = f"in {first} = {machine.mode:#x}" if machine.mode else f"in {first} = p"
    body = block(target, machine.modes, operand, " ".join(machine.control))
    text = f"""
struct box {{ mxcsr: u32  fpcw: u16 }}
extern out() using {convention}
trampoline f(p: ptr<box>) using {convention} {{
    p.mxcsr = 0x7f80
    p.fpcw = 0xf7f
    {body}
    call out()
}}
"""
    assert judged(target, text) == []


@pytest.mark.parametrize("target", TARGETS)
def test_memory_that_a_block_writes_is_the_sources_doing(target: str) -> None:
    machine = MACHINES[target]
    body = block(target, machine.store, f"in {machine.words[0]} = p  in {machine.words[1]} = a")
    text = f"""
struct box {{ a: uptr  b: uptr }}
extern out(a: uptr) using c
trampoline f(p: ptr<box>, a: uptr) -> uptr using c {{
    {body}
    call out(p.a)
    return p.a - a
}}
"""
    assert judged(target, text) == []


@pytest.mark.parametrize("kind", ["f64", "f32"])
@pytest.mark.parametrize("target", TARGETS)
def test_floats_go_in_and_come_out(target: str, kind: str) -> None:
    machine = MACHINES[target]
    assert machine.doubles is not None
    one, two = machine.doubles
    move = machine.move
    if kind == "f32" and find_target(target).architecture.name in ("mips", "mipsle"):
        move = ("mov.s $f20, $f2",)
    operands = f"in {one} = x  out {two} = y"
    body = block(target, move, operands)
    clobbered = ""
    if machine.vector is not None:
        clobbered = block(target, (machine.vector[1],), "", machine.vector[0])
    text = f"""
extern out(a: {kind}, b: {kind}) using c
trampoline f(w: {kind}, x: {kind}, y: {kind}) -> {kind} using c {{
    {body}
    {clobbered}
    call out(w, y)
    return y
}}
"""
    assert judged(target, text) == []


def test_a_block_that_fails_is_told() -> None:
    text = 'trampoline f() using c { asm amd64 { "ud2" } }\n'
    [first, *_] = judged("linux/amd64", text)
    assert "does not come to its end" in first


def test_undeclared_inputs_are_found() -> None:
    text = 'trampoline f() -> uptr using c {\n    asm amd64 { out rax = x "mov rax, rcx" }\n    return x\n}\n'
    assert any("args" in problem or "reads" in problem for problem in judged("linux/amd64", text))


@pytest.mark.parametrize(
    ("operand", "code"),
    [("in rax = x", "R065"), ("in xmm1 = n", "R065"), ("out rax = x", "R065"), ("out xmm1 = n", "R065")],
)
def test_registers_hold_their_kind(operand: str, code: str) -> None:
    text = f'trampoline f(x: f64, n: u32) using c {{ asm amd64 {{ {operand} "nop" }} }}\n'
    with pytest.raises(InputError) as raised:
        compile_source(Source("asm.tramp", text), [find_target("linux/amd64")])
    assert [d.code for d in raised.value.diagnostics] == [code]
