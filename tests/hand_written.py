"""`through` of tests/cases/judge.tramp written by hand, as runtimes have it: C calls Go, and nothing that C wants back
is lost. Right on each machine; the tests break them. `CALL`, `RETURN` and `SLOT` are explained in broken.written.

FRAMES: the distance from the caller's stack pointer to the one at the call, in bytes.
"""

from __future__ import annotations

FRAMES = {
    "linux/386": 0x20,
    "linux/amd64": 0x50,
    "linux/arm": 0x74,
    "linux/arm64": 0xB0,
    "linux/mips": 0x58,
    "linux/mips64": 0xC0,
    "linux/ppc64le": 0x230,
    "linux/s390x": 0x60,
}


def _lines(*parts: str) -> str:
    return "\n".join(parts)


def _each(form: str, numbers: range, start: int, step: int) -> str:
    """One line for each number `n`, with the place `at`, in hexadecimal, of its slot."""
    return "\n".join(form.format(n=n, m=n + 1, at=f"{start + step * i:#x}") for i, n in enumerate(numbers))


def _ppc_vectors(operation: str) -> str:
    return "\n".join(f"li %r12, {0x40 + 0x10 * i:#x}\n{operation} %v{20 + i}, %r1, %r12" for i in range(12))


THROUGH = {
    "linux/386": """
        push ebp; push ebx; push esi; push edi
        sub esp, 0xc
        mov eax, dword ptr [esp+0x20]; mov dword ptr [esp], eax
        mov eax, dword ptr [esp+0x24]; mov dword ptr [esp+4], eax
        mov eax, dword ptr [esp+0x2c]; mov dword ptr [esp+8], eax
        CALL
        add esp, 0xc
        pop edi; pop esi; pop ebx; pop ebp
        RETURN ret
    """,
    "linux/amd64": """
        push rbp; push rbx; push r12; push r13; push r14; push r15
        sub rsp, 0x18
        mov qword ptr [rsp], rdi; mov qword ptr [rsp+8], rsi; mov qword ptr [rsp+0x10], rcx
        CALL
        add rsp, 0x18
        pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp
        RETURN ret
    """,
    "linux/arm": """
        push {r4-r11, lr}
        vpush {d8-d15}
        sub sp, sp, #0x10
        str r0, [sp, #4]; str r1, [sp, #8]; str r3, [sp, #0xc]
        CALL
        add sp, sp, #0x10
        vpop {d8-d15}
        RETURN pop {r4-r11, pc}
    """,
    "linux/arm64": _lines(
        "sub sp, sp, #0xb0; str x30, [sp]",
        "str x0, [sp, #8]; str x1, [sp, #0x10]; str x3, [sp, #0x18]",
        _each("stp x{n}, x{m}, [sp, #{at}]", range(19, 29, 2), 0x20, 16),
        _each("stp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x70, 16),
        "CALL",
        _each("ldp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x70, 16),
        _each("ldp x{n}, x{m}, [sp, #{at}]", range(19, 29, 2), 0x20, 16),
        "ldr x30, [sp]; add sp, sp, #0xb0",
        "RETURN",
    ),
    "linux/mips": _lines(
        "addiu $sp, $sp, -0x58; sw $ra, 0x34($sp)",
        _each("sw $s{n}, {at}($sp)", range(8), 0x10, 4),
        "sw $fp, 0x30($sp)",
        _each("sdc1 $f{n}, {at}($sp)", range(20, 32, 2), 0x38, 8),
        "sw $a0, 4($sp); sw $a1, 8($sp)",
        "CALL",
        "sw $a3, 0xc($sp)",
        "lw $ra, 0x34($sp)",
        _each("lw $s{n}, {at}($sp)", range(8), 0x10, 4),
        "lw $fp, 0x30($sp)",
        _each("ldc1 $f{n}, {at}($sp)", range(20, 32, 2), 0x38, 8),
        "RETURN",
        "addiu $sp, $sp, 0x58",
    ),
    "linux/mips64": _lines(
        "daddiu $sp, $sp, -0xc0; sd $ra, 0x20($sp)",
        _each("sd $s{n}, {at}($sp)", range(8), 0x28, 8),
        "sd $gp, 0x68($sp); sd $fp, 0x70($sp)",
        _each("sdc1 $f{n}, {at}($sp)", range(24, 32), 0x78, 8),
        "sd $a0, 8($sp); sd $a1, 0x10($sp); sd $a3, 0x18($sp)",
        # Go wants the upper half of its code's address in gp.
        "SLOT bal .+8; nop; dsrl32 $gp, $ra, 0; dsll32 $gp, $gp, 0",
        "CALL",
        "nop",
        _each("ldc1 $f{n}, {at}($sp)", range(24, 32), 0x78, 8),
        "ld $gp, 0x68($sp); ld $fp, 0x70($sp)",
        _each("ld $s{n}, {at}($sp)", range(8), 0x28, 8),
        "ld $ra, 0x20($sp)",
        "RETURN",
        "daddiu $sp, $sp, 0xc0",
    ),
    "linux/ppc64le": _lines(
        "mflr %r0; std %r0, 0x10(%r1); mfcr %r0; stw %r0, 0x8(%r1)",
        "stdu %r1, -0x230(%r1)",
        "std %r2, 0x18(%r1)",
        _each("std %r{n}, {at}(%r1)", range(14, 32), 0x100, 8),
        _each("stfd %f{n}, {at}(%r1)", range(14, 32), 0x190, 8),
        _ppc_vectors("stvx"),
        "std %r3, 0x20(%r1); std %r4, 0x28(%r1); std %r6, 0x30(%r1)",
        "li %r0, 0",
        "CALL",
        "ld %r2, 0x18(%r1)",
        _each("ld %r{n}, {at}(%r1)", range(14, 32), 0x100, 8),
        _each("lfd %f{n}, {at}(%r1)", range(14, 32), 0x190, 8),
        _ppc_vectors("lvx"),
        "addi %r1, %r1, 0x230",
        "lwz %r0, 0x8(%r1); mtcrf 0x38, %r0; ld %r0, 0x10(%r1); mtlr %r0",
        "RETURN",
    ),
    "linux/s390x": _lines(
        "stmg %r6, %r15, 0x30(%r15)",
        "aghi %r15, -0x60",
        _each("std %f{n}, {at}(%r15)", range(8, 16), 0x20, 8),
        "stg %r2, 0x8(%r15); stg %r3, 0x10(%r15); stg %r5, 0x18(%r15)",
        "lghi %r0, 0x0",
        "CALL",
        _each("ld %f{n}, {at}(%r15)", range(8, 16), 0x20, 8),
        "lmg %r6, %r15, 0x90(%r15)",
        "RETURN",
    ),
}
