"""Functions written by hand, as libraries and runtimes have them, in GNU syntax, and all of them right: `bridge`,
`callback` and `thunk` of contracts.tramp for each target. One instruction a line, or several with `;`."""

from __future__ import annotations


def lines(*parts: str) -> str:
    return "\n".join(parts)


def each(form: str, numbers: range, start: int, step: int) -> str:
    """One line for each number `n`, with the place `at`, in hexadecimal, of its slot."""
    return "\n".join(form.format(n=n, m=n + 1, at=f"{start + step * i:#x}") for i, n in enumerate(numbers))


I386 = {
    "bridge": """
        push ebp; push ebx; push esi; push edi
        sub esp, 0xc
        mov eax, [esp+0x24]; mov [esp], eax
        call go_prepare
        mov eax, [esp+0x20]; mov [esp], eax
        mov eax, [esp+0x24]; mov [esp+4], eax
        mov eax, [esp+0x2c]; mov [esp+8], eax
        call go_enter
        add esp, 0xc
        pop edi; pop esi; pop ebx; pop ebp
        ret
    """,
    "callback": """
        push ebx
        sub esp, 24
        mov ebx, [esp+68]; mov [esp], ebx
        mov eax, [esp+32]; mov [esp+4], eax
        mov eax, [esp+64]; mov [esp+8], eax
        mov eax, [esp+36]; mov [esp+12], eax
        movsx eax, word ptr [esp+40]; mov [esp+16], eax
        mov eax, [esp+60]; mov [esp+20], eax
        call work
        mov [ebx], eax
        add esp, 24
        pop ebx
        ret
    """,
    "thunk": "sub dword ptr [esp+4], 16; jmp method",
}

# C on Windows promises nothing of the direction flag, and Go wants it clear.
WINDOWS_I386 = {
    **I386,
    "bridge": """
        push ebp; push ebx; push esi; push edi
        pushfd
        cld
        sub esp, 0xc
        mov eax, [esp+0x28]; mov [esp], eax
        call go_prepare
        mov eax, [esp+0x24]; mov [esp], eax
        mov eax, [esp+0x28]; mov [esp+4], eax
        mov eax, [esp+0x30]; mov [esp+8], eax
        call go_enter
        add esp, 0xc
        popfd
        pop edi; pop esi; pop ebx; pop ebp
        ret
    """,
}

AMD64 = {
    "bridge": """
        push rbp; push rbx; push r12; push r13; push r14; push r15
        sub rsp, 0x38
        mov [rsp+0x18], rdi; mov [rsp+0x20], rsi; mov [rsp+0x28], rcx
        mov [rsp], rsi
        call go_prepare
        mov rax, [rsp+0x18]; mov [rsp], rax
        mov rax, [rsp+0x20]; mov [rsp+8], rax
        mov rax, [rsp+0x28]; mov [rsp+16], rax
        call go_enter
        add rsp, 0x38
        pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp
        ret
    """,
    "callback": """
        push rbx
        mov rbx, [rsp+40]
        mov rcx, rsi
        movsx r8d, dx
        mov rsi, rdi
        mov rdx, [rsp+32]
        mov r9, [rsp+24]
        mov rdi, rbx
        call work
        mov [rbx], eax
        pop rbx
        ret
    """,
    "thunk": "sub rdi, 16; jmp method",
}

WINDOWS_AMD64 = {
    "bridge": lines(
        "push rbp; push rbx; push rsi; push rdi; push r12; push r13; push r14; push r15",
        "pushfq",
        "cld",
        "sub rsp, 0xd0",
        each("movups [rsp+{at}], xmm{n}", range(6, 16), 0x30, 16),
        "mov [rsp+0x18], rcx; mov [rsp+0x20], rdx; mov [rsp+0x28], r9",
        "mov [rsp], rdx",
        "call go_prepare",
        "mov rax, [rsp+0x18]; mov [rsp], rax",
        "mov rax, [rsp+0x20]; mov [rsp+8], rax",
        "mov rax, [rsp+0x28]; mov [rsp+16], rax",
        "call go_enter",
        each("movups xmm{n}, [rsp+{at}]", range(6, 16), 0x30, 16),
        "add rsp, 0xd0",
        "popfq",
        "pop r15; pop r14; pop r13; pop r12; pop rdi; pop rsi; pop rbx; pop rbp",
        "ret",
    ),
    "callback": """
        push rbx
        sub rsp, 0x30
        mov rbx, [rsp+0x88]
        movsx eax, r8w; mov [rsp+0x20], eax
        mov rax, [rsp+0x78]; mov [rsp+0x28], rax
        mov r9, rdx
        mov r8, [rsp+0x80]
        mov rdx, rcx
        mov rcx, rbx
        call work
        mov [rbx], eax
        add rsp, 0x30
        pop rbx
        ret
    """,
    "thunk": "sub rcx, 16; jmp method",
}

ARM = {
    "bridge": """
        push {r4-r11, lr}
        vpush {d8-d15}
        sub sp, sp, #28
        str r0, [sp, #16]; str r1, [sp, #20]; str r3, [sp, #24]
        str r1, [sp, #4]
        bl go_prepare
        ldr r0, [sp, #16]; ldr r1, [sp, #20]; ldr r3, [sp, #24]
        str r0, [sp, #4]; str r1, [sp, #8]; str r3, [sp, #12]
        bl go_enter
        add sp, sp, #28
        vpop {d8-d15}
        pop {r4-r11, pc}
    """,
    "callback": """
        push {r4, lr}
        sub sp, sp, #8
        ldr r4, [sp, #36]
        sxth r2, r2; str r2, [sp]
        ldr r12, [sp, #28]; str r12, [sp, #4]
        mov r3, r1
        ldr r2, [sp, #32]
        mov r1, r0
        mov r0, r4
        bl work
        str r0, [r4]
        add sp, sp, #8
        pop {r4, pc}
    """,
    "thunk": "sub r0, r0, #16; b method",
}

ARM64 = {
    "bridge": lines(
        "sub sp, sp, #0xe0",
        "stp x29, x30, [sp, #0xd0]",
        "add x29, sp, #0xd0",
        each("stp x{n}, x{m}, [sp, #{at}]", range(19, 29, 2), 0x40, 16),
        each("stp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x90, 16),
        "stp x0, x1, [sp, #0x20]; str x3, [sp, #0x30]",
        "str x1, [sp, #8]",
        "bl go_prepare",
        "ldp x0, x1, [sp, #0x20]; ldr x3, [sp, #0x30]",
        "str x0, [sp, #8]; str x1, [sp, #0x10]; str x3, [sp, #0x18]",
        "bl go_enter",
        each("ldp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x90, 16),
        each("ldp x{n}, x{m}, [sp, #{at}]", range(19, 29, 2), 0x40, 16),
        "ldp x29, x30, [sp, #0xd0]",
        "add sp, sp, #0xe0",
        "ret",
    ),
    "callback": """
        stp x29, x30, [sp, #-32]!
        mov x29, sp
        str x19, [sp, #16]
        ldr x19, [sp, #40]
        ldr x9, [sp, #32]
        mov x5, x7
        sxth w4, w2
        mov x3, x1
        mov x2, x9
        mov x1, x0
        mov x0, x19
        bl work
        str w0, [x19]
        ldr x19, [sp, #16]
        ldp x29, x30, [sp], #32
        ret
    """,
    "thunk": "sub x0, x0, #16; b method",
}

MIPS = {
    "bridge": lines(
        "addiu $sp, $sp, -0x68",
        "sw $ra, 0x34($sp)",
        each("sw $s{n}, {at}($sp)", range(8), 0x10, 4),
        "sw $fp, 0x30($sp)",
        each("sdc1 $f{n}, {at}($sp)", range(20, 32, 2), 0x38, 8),
        "sw $a0, 0x68($sp); sw $a1, 0x6c($sp); sw $a3, 0x74($sp)",
        "jal go_prepare",
        "sw $a1, 4($sp)",
        "lw $t0, 0x68($sp); lw $t1, 0x6c($sp); lw $t2, 0x74($sp)",
        "sw $t0, 4($sp); sw $t1, 8($sp)",
        "jal go_enter",
        "sw $t2, 0xc($sp)",
        each("ldc1 $f{n}, {at}($sp)", range(20, 32, 2), 0x38, 8),
        "lw $fp, 0x30($sp)",
        each("lw $s{n}, {at}($sp)", range(8), 0x10, 4),
        "lw $ra, 0x34($sp)",
        "jr $ra",
        "addiu $sp, $sp, 0x68",
    ),
    "callback": """
        addiu $sp, $sp, -40
        sw $ra, 28($sp)
        sw $s0, 32($sp)
        lw $s0, 76($sp)
        sll $t0, $a2, 16; sra $t0, $t0, 16
        sw $t0, 16($sp)
        lw $t1, 68($sp)
        sw $t1, 20($sp)
        move $a3, $a1
        lw $a2, 72($sp)
        move $a1, $a0
        jal work
        move $a0, $s0
        sw $v0, 0($s0)
        lw $ra, 28($sp)
        lw $s0, 32($sp)
        jr $ra
        addiu $sp, $sp, 40
    """,
    "thunk": "j method; addiu $a0, $a0, -16",
}

MIPS64 = {
    "bridge": lines(
        "daddiu $sp, $sp, -0xe0",
        "sd $ra, 0x20($sp)",
        each("sd $s{n}, {at}($sp)", range(8), 0x28, 8),
        "sd $gp, 0x68($sp); sd $fp, 0x70($sp)",
        each("sdc1 $f{n}, {at}($sp)", range(24, 32), 0x78, 8),
        "sd $a0, 0xb8($sp); sd $a1, 0xc0($sp); sd $a3, 0xc8($sp)",
        # Go wants the upper half of its code's address in gp.
        "bal .+8; nop; dsrl32 $gp, $ra, 0; dsll32 $gp, $gp, 0",
        "jal go_prepare",
        "sd $a1, 8($sp)",
        "ld $12, 0xb8($sp); ld $13, 0xc0($sp); ld $14, 0xc8($sp)",
        "sd $12, 8($sp); sd $13, 0x10($sp)",
        "jal go_enter",
        "sd $14, 0x18($sp)",
        each("ldc1 $f{n}, {at}($sp)", range(24, 32), 0x78, 8),
        "ld $gp, 0x68($sp); ld $fp, 0x70($sp)",
        each("ld $s{n}, {at}($sp)", range(8), 0x28, 8),
        "ld $ra, 0x20($sp)",
        "jr $ra",
        "daddiu $sp, $sp, 0xe0",
    ),
    "callback": """
        daddiu $sp, $sp, -32
        sd $ra, 24($sp)
        sd $s0, 16($sp)
        ld $s0, 40($sp)
        move $9, $11
        sll $8, $a2, 16; sra $8, $8, 16
        move $a3, $a1
        ld $a2, 32($sp)
        move $a1, $a0
        jal work
        move $a0, $s0
        sw $v0, 0($s0)
        ld $ra, 24($sp)
        ld $s0, 16($sp)
        jr $ra
        daddiu $sp, $sp, 32
    """,
    "thunk": "j method; daddiu $a0, $a0, -16",
}


def _vectors(operation: str) -> str:
    return "\n".join(f"li 12, {0x40 + 0x10 * i:#x}; {operation} {20 + i}, 1, 12" for i in range(12))


def _ppc64(toc_entry: str, words: int) -> dict[str, str]:
    """`words`: where the words of arguments begin that callees may store, from their caller's stack pointer."""
    frame = words + 16
    return {
        "bridge": lines(
            toc_entry,
            "mflr 0; std 0, 16(1); mfcr 0; stw 0, 8(1)",
            "stdu 1, -0x240(1)",
            "std 2, 0x238(1)",
            each("std {n}, {at}(1)", range(14, 32), 0x100, 8),
            each("stfd {n}, {at}(1)", range(14, 32), 0x190, 8),
            _vectors("stvx"),
            "std 3, 0x220(1); std 4, 0x228(1); std 6, 0x230(1)",
            "std 4, 32(1)",
            "li 0, 0",
            "bl go_prepare",
            "ld 3, 0x220(1); ld 4, 0x228(1); ld 5, 0x230(1)",
            "std 3, 32(1); std 4, 40(1); std 5, 48(1)",
            "bl go_enter",
            "ld 2, 0x238(1)",
            _vectors("lvx"),
            each("lfd {n}, {at}(1)", range(14, 32), 0x190, 8),
            each("ld {n}, {at}(1)", range(14, 32), 0x100, 8),
            "addi 1, 1, 0x240",
            "lwz 0, 8(1); mtcrf 0x38, 0",
            "ld 0, 16(1); mtlr 0",
            "blr",
        ),
        "callback": lines(
            toc_entry,
            "mflr 0; std 0, 16(1)",
            "std 31, -8(1)",
            f"stdu 1, -{frame + 64}(1)",
            f"ld 31, {frame + 64 + words + 72}(1)",
            "mr 8, 10",
            "extsh 7, 5",
            "mr 6, 4",
            f"ld 5, {frame + 64 + words + 64}(1)",
            "mr 4, 3",
            "mr 3, 31",
            "bl work",
            "nop",
            "stw 3, 0(31)",
            f"addi 1, 1, {frame + 64}",
            "ld 0, 16(1); mtlr 0",
            "ld 31, -8(1)",
            "blr",
        ),
        "thunk": lines(toc_entry, "addi 3, 3, -16; b method"),
    }


S390X = {
    "bridge": lines(
        "stmg %r6, %r15, 48(%r15)",
        "aghi %r15, -0x80",
        each("std %f{n}, {at}(%r15)", range(8, 16), 0x20, 8),
        "stg %r2, 0x60(%r15); stg %r3, 0x68(%r15); stg %r5, 0x70(%r15)",
        "stg %r3, 8(%r15)",
        "lghi %r0, 0",
        "brasl %r14, go_prepare",
        "mvc 8(16, %r15), 0x60(%r15)",
        "lg %r3, 0x70(%r15); stg %r3, 0x18(%r15)",
        "brasl %r14, go_enter",
        each("ld %f{n}, {at}(%r15)", range(8, 16), 0x20, 8),
        "lmg %r6, %r15, 0xb0(%r15)",
        "br %r14",
    ),
    "callback": """
        stmg %r6, %r15, 48(%r15)
        aghi %r15, -168
        lg %r7, 360(%r15)
        lg %r1, 344(%r15)
        stg %r1, 160(%r15)
        lghr %r6, %r4
        lgr %r5, %r3
        lg %r4, 352(%r15)
        lgr %r3, %r2
        lgr %r2, %r7
        brasl %r14, work
        st %r2, 0(%r7)
        lmg %r6, %r15, 216(%r15)
        br %r14
    """,
    "thunk": "aghi %r2, -16; jg method",
}

# 64-Bit ELF V2 ABI, 3.4.1: the global entry makes r2 of r12, the local one finds it made.
_GLOBAL_ENTRY = "addis 2, 12, .TOC.-NAME@ha; addi 2, 2, .TOC.-NAME@l; .localentry NAME, .-NAME"

RIGHT: dict[str, dict[str, str]] = {
    "linux/386": I386,
    "linux/amd64": AMD64,
    "linux/arm": ARM,
    "linux/arm64": ARM64,
    "linux/mips": MIPS,
    "linux/mipsle": MIPS,
    "linux/mips64": MIPS64,
    "linux/mips64le": MIPS64,
    "linux/ppc64": _ppc64("", 48),
    "linux/ppc64le": _ppc64(_GLOBAL_ENTRY, 32),
    "linux/s390x": S390X,
    "windows/386": WINDOWS_I386,
    "windows/amd64": WINDOWS_AMD64,
    "windows/arm": ARM,
    "windows/arm64": ARM64,
}


def text_of(target: str, functions: dict[str, str]) -> str:
    """The source of an object for GNU as, or clang where it stands in for it: each function under its own name."""
    system, machine = target.split("/")
    parts = []
    if machine in ("386", "amd64"):
        parts.append(".intel_syntax noprefix")
    if machine.startswith("mips"):
        parts.append(".set noreorder; .set noat; .set nomacro")
    if machine == "arm":
        parts.append(".arm; .fpu neon")
    parts.append(".text")
    for name, text in functions.items():
        symbol = f"_{name}" if target == "windows/386" else name
        body = text.replace("NAME", symbol)
        if target == "windows/386":
            body = body.replace(" work", " _work").replace(" method", " _method")
        parts += [".balign 16", f".globl {symbol}", *_head(target, symbol), body.replace(";", "\n")]
        if system == "linux" or machine == "arm":
            parts.append(f".size {symbol}, .-{'.L.' if target == 'linux/ppc64' else ''}{symbol}")
    return "\n".join(parts) + "\n"


def _head(target: str, symbol: str) -> list[str]:
    if target == "linux/ppc64":  # a descriptor (64-bit PowerPC ELF ABI Supplement, 3.2.4)
        descriptor = f"{symbol}: .quad .L.{symbol}, .TOC.@tocbase, 0"
        return ['.section .opd, "aw"', ".balign 8", descriptor, ".text", f".type {symbol}, @function", f".L.{symbol}:"]
    if target.startswith("windows") and target != "windows/arm":
        return [f".def {symbol}; .scl 2; .type 32; .endef".replace(";", "\n"), f"{symbol}:"]
    return [f".type {symbol}, %function", f"{symbol}:"]
