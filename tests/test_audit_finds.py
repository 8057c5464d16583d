"""Mistakes in assembly written by hand, found by a declaration alone: each under the obligation that it breaks."""

from __future__ import annotations

from textwrap import dedent

import pytest

from trampoline_dsl import compile_text, find_target
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import read_image
from trampoline_dsl.image import definitions
from trampoline_dsl.objects import make_object
from trampoline_dsl.verify import Verdict

CONTRACT = """
struct box { value: uptr  next: uptr }
extern helper(x: uptr, y: i32) -> uptr using c
extern total: uptr
trampoline f(p: ptr<box>, x: i32) -> uptr using c writes p
"""
HEADERS = {"amd64": ".intel_syntax noprefix\n", "386": ".intel_syntax noprefix\n", "arm": ".syntax unified\n.arm\n"}
HEADERS |= dict.fromkeys(
    ("mips", "mipsle", "mips64", "mips64le"), ".set noreorder\n.set noat\n.abicalls\n.option pic0\n"
)

RIGHT = {
    "amd64": """
        push rbx
        mov rbx, rdi
        call helper
        mov [rbx], rax
        pop rbx
        ret
    """,
    "386": """
        sub esp, 12
        mov eax, [esp + 16]
        mov edx, [esp + 20]
        mov [esp], eax
        mov [esp + 4], edx
        call helper
        mov edx, [esp + 16]
        mov [edx], eax
        add esp, 12
        ret
    """,
    "arm": """
        push {r4, lr}
        mov r4, r0
        bl helper
        str r0, [r4]
        pop {r4, pc}
    """,
    "arm64": """
        stp x29, x30, [sp, -32]!
        mov x29, sp
        str x19, [sp, 16]
        mov x19, x0
        bl helper
        str x0, [x19]
        ldr x19, [sp, 16]
        ldp x29, x30, [sp], 32
        ret
    """,
    "mips": """
        addiu $sp, $sp, -32
        sw $ra, 28($sp)
        sw $s0, 24($sp)
        jal helper
        move $s0, $a0
        sw $v0, 0($s0)
        lw $s0, 24($sp)
        lw $ra, 28($sp)
        jr $ra
        addiu $sp, $sp, 32
    """,
    "ppc64le": """
        mflr 0
        std 0, 16(1)
        std 31, -8(1)
        stdu 1, -48(1)
        mr 31, 3
        bl helper
        nop
        std 3, 0(31)
        addi 1, 1, 48
        ld 31, -8(1)
        ld 0, 16(1)
        mtlr 0
        blr
    """,
    "s390x": """
        stmg %r12, %r15, 96(%r15)
        lgr %r1, %r15
        aghi %r15, -160
        stg %r1, 0(%r15)
        lgr %r12, %r2
        brasl %r14, helper
        stg %r2, 0(%r12)
        lmg %r12, %r15, 256(%r15)
        br %r14
    """,
}

# Machine, what is written instead of what, and what that breaks.
MISTAKES = [
    ("amd64", "push rbx", "push rbp", "pop rbx", "pop rbp", "preserve"),
    ("amd64", "pop rbx", "pop rbx\nadd rsp, 8", "", "", "sp"),
    ("amd64", "push rbx", "push rbx\nsub rsp, 8", "pop rbx", "add rsp, 8\npop rbx", "align"),
    ("amd64", "call helper", "mov rdi, r10\ncall helper", "", "", "reads"),
    ("amd64", "mov [rbx], rax", "mov [rbx + 16], rax", "", "", "writes"),
    ("amd64", "mov [rbx], rax", "mov total[rip], rax", "", "", "writes"),
    ("amd64", "call helper", "mov [rsp - 16], rbx\ncall helper\nmov rbx, [rsp - 16]", "", "", "below"),
    ("amd64", "call helper", "call other", "", "", "flow"),
    ("amd64", "call helper", "mov rsp, rbx\ncall helper", "", "", "bounds"),
    ("amd64", "mov [rbx], rax", "std", "", "", "preserve"),
    ("386", "mov [edx], eax", "fld1", "", "", "preserve"),
    ("386", "sub esp, 12", "sub esp, 16", "add esp, 12", "add esp, 16", "align"),
    ("386", "mov edx, [esp + 16]", "mov ebx, [esp + 16]", "mov [edx], eax", "mov [ebx], eax", "preserve"),
    ("386", "\n        ret", "\n        ret 8", "", "", "sp"),
    ("arm", "push {r4, lr}", "push {r5, lr}", "pop {r4, pc}", "pop {r5, pc}", "preserve"),
    ("arm", "push {r4, lr}", "push {r4, r5, lr}", "pop {r4, pc}", "pop {r4, r5, pc}", "align"),
    ("arm", "bl helper", "vmov d8, r0, r1\nbl helper", "", "", "preserve"),
    ("arm64", "ldr x19, [sp, 16]", "nop", "", "", "preserve"),
    ("arm64", "bl helper", "fmov d8, xzr\nbl helper", "", "", "preserve"),
    ("arm64", "bl helper", "str x19, [sp, -16]\nbl helper\nldr x19, [sp, -16]", "", "", "below"),
    ("arm64", "[sp], 32", "[sp], 48", "", "", "sp"),
    ("mips", "addiu $sp, $sp, -32", "addiu $sp, $sp, -8", "addiu $sp, $sp, 32", "addiu $sp, $sp, 8", "area"),
    ("mips", "lw $s0, 24($sp)", "nop", "", "", "preserve"),
    ("mips", "jal helper", "mtc1 $a0, $f20\njal helper", "", "", "preserve"),
    ("ppc64le", "ld 31, -8(1)", "nop", "", "", "preserve"),
    ("ppc64le", "mr 31, 3", "mr 31, 3\nmtcrf 0x20, 3", "", "", "preserve"),
    ("ppc64le", "mr 31, 3", "mr 31, 3\nli 2, 0", "", "", "args"),
    ("ppc64le", "mr 31, 3", "mr 31, 3\nrldimi 4, 3, 32, 0", "", "", "args"),
    ("ppc64le", "stdu 1, -48(1)", "addi 1, 1, -48", "", "", "area"),
    ("s390x", "lmg %r12, %r15, 256(%r15)", "lmg %r13, %r15, 264(%r15)", "", "", "preserve"),
    ("s390x", "brasl %r14, helper", "llgfr %r3, %r3\nbrasl %r14, helper", "", "", "args"),
    ("s390x", "aghi %r15, -160", "aghi %r15, -152", "256(%r15)", "248(%r15)", "area"),
    ("s390x", "brasl %r14, helper", "ldgr %f8, %r2\nbrasl %r14, helper", "", "", "preserve"),
]


def judged(machine: str, body: str, contract: str = CONTRACT, seed: int = 1) -> Verdict:
    target = find_target(f"linux/{machine}")
    text = f"{HEADERS.get(machine, '')}.globl f\n.type f, %function\nf:\n{dedent(body)}\n.size f, .-f\n"
    image = read_image(make_object(target, text), "by_hand.o")
    compiled = compile_text(contract, target)
    [verdict] = audit(image, definitions(image, ["f"]), compiled, seed=seed, runs=16)
    return verdict


@pytest.mark.parametrize("machine", RIGHT)
def test_what_is_right_holds(machine: str) -> None:
    verdict = judged(machine, RIGHT[machine])
    assert verdict.good, (verdict.violations, verdict.obligations)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m[0]}-{m[5]}-{m[2]}")
def test_what_is_wrong_is_found(mistake: tuple[str, str, str, str, str, str]) -> None:
    machine, old, new, other_old, other_new, obligation = mistake
    body = RIGHT[machine]
    assert old in body
    body = body.replace(old, new)
    if other_old:
        assert other_old in body
        body = body.replace(other_old, other_new)
    verdict = judged(machine, body)
    found = {v.obligation for v in verdict.violations}
    assert obligation in found, verdict.violations
    assert verdict.obligations[obligation].state == "violated"


def test_what_a_finding_says() -> None:
    body = RIGHT["amd64"].replace("push rbx", "push rbp").replace("pop rbx", "pop rbp")
    [found] = judged("amd64", body).violations
    assert (found.register, found.instruction, found.address) == ("rbx", "mov rbx, rdi", 1)
    assert found.expected != found.found
    assert found.advice == "save rbx before this, and give it back before every return"
    body = RIGHT["amd64"].replace("push rbx", "push rbx\nsub rsp, 8").replace("pop rbx", "add rsp, 8\npop rbx")
    [found] = judged("amd64", body).violations
    assert found.advice == "lower the stack pointer by 8 bytes more, or by 8 fewer"
    [found] = judged("amd64", RIGHT["amd64"].replace("call helper", "call other")).violations
    assert "`extern other(...) using CONVENTION`" in found.message


WHERE = """
extern note(x: uptr) using c
trampoline f(top: uptr, x: uptr) using c {{
    on stack top {{ {} }}
    call note(x)
}}
check f {{ stack other  given {{ top = other.top }} }}
"""
MOVED = "push rbp; push rbx; push r12; mov rbp, rsp; mov rbx, rsi; "
BACK = "mov rsp, rbp; mov rdi, rbx; call note; pop r12; pop rbx; pop rbp; ret"


@pytest.mark.parametrize(
    ("source", "code", "what"),
    [
        ("syscall (7)(x)", "mov rdi, rsi; mov eax, 7; syscall; ", "makes a system call"),
        ("trap", "ud2; ", "traps"),
        ("call note(x)", "mov rdi, rsi; call note; ", "calls note"),
    ],
)
def test_what_is_to_be_done_on_another_stack_is_done_there(source: str, code: str, what: str) -> None:
    contract = WHERE.format(source)
    for move, state in (("mov rsp, rdi; ", "held"), ("mov r12, rdi; ", "violated")):
        verdict = judged("amd64", MOVED + move + code + BACK, contract)
        assert verdict.obligations["sp"].state == state, verdict.violations
        assert verdict.good == (state == "held"), verdict.violations
        assert all(v.message.startswith(f"{what} with the stack pointer") for v in verdict.violations)


SIGNALS = """
extern note(info: ptr, context: ptr) using c
trampoline handler(signal: u32, info: ptr, context: ptr) using c { call note(info, context) }
trampoline restorer() using c {
    syscall 15()
    trap
}
check f {
    on note(info, context) { expect info MEANT context }
    when amd64 { signals handler return through restorer }
    when not amd64 { signals handler }
}
"""


@pytest.mark.parametrize("machine", RIGHT)
def test_signals_of_a_check_are_delivered(machine: str) -> None:
    verdict = judged(machine, RIGHT[machine], CONTRACT + SIGNALS.replace("MEANT", "!="))
    assert verdict.good, verdict.violations
    assert verdict.deliveries > 4
    wrong = judged(machine, RIGHT[machine], CONTRACT + SIGNALS.replace("MEANT", "=="))
    assert wrong.violations
    for violation in wrong.violations:
        assert violation.obligation == "effect"
        assert violation.message.startswith("handling a signal that came before")


def test_lines_of_debug_information() -> None:
    body = '.file 1 "hand.s"\n.loc 1 7\n' + RIGHT["amd64"].replace("pop rbx", "nop\n.loc 1 9\nadd rsp, 8")
    [found] = judged("amd64", body).violations
    assert found.source == "hand.s:7"
    assert found.instruction == "mov rbx, rdi"


SWITCHING = """
struct context { top: uptr }
extern helper() using c
trampoline f(c: ptr<context>) using c CLAUSE
check f { new x: context  stack other  given { c = x  x.top = other.top } }
"""
SWITCHES = "push rbp\nmov rbp, rsp\nmov rsp, [rdi]\ncall helper\nmov rsp, rbp\npop rbp\nret"


@pytest.mark.parametrize(
    ("clause", "behind", "obligation"),
    [
        ("switches", "", ""),
        ("", "", "bounds"),
        ("switches", "add rsp, 16", "bounds"),
        ("switches", "sub rsp, 8", "align"),
        ("switches", "mov qword ptr [rsp + 8], 1", "writes"),
    ],
)
def test_moves_to_another_stack(clause: str, behind: str, obligation: str) -> None:
    body = SWITCHES.replace("mov rsp, [rdi]", f"mov rsp, [rdi]\n{behind}")
    verdict = judged("amd64", body, SWITCHING.replace("CLAUSE", clause))
    assert {v.obligation for v in verdict.violations} == ({obligation} if obligation else set())
    assert verdict.good == (not obligation)
