"""Functions for the contracts of examples/contracts, written by hand: right ones, and mistakes in them."""

from __future__ import annotations

from dataclasses import dataclass

from .right import each, lines
from .wrong import Edit, before, both, change, drop


@dataclass(frozen=True)
class Ready:
    """A function for a contract (FILE:TRAMPOLINE) on one target, and mistakes: what is done to it, what that violates,
    and the register, if it is one."""

    target: str
    contract: str
    text: str
    mistakes: tuple[tuple[Edit, str, str], ...] = ()


AMD64 = [
    Ready(
        "linux/amd64",
        "closures:closure_entry",
        "mov rdx, [r10+16]; sub rsp, 8; call [r10+8]; add rsp, 8; ret",
        (
            (drop("rsp, 8"), "align", "rsp"),
            (change("mov rdx", "mov rcx"), "args", "rdx"),
        ),
    ),
    Ready("linux/amd64", "closures:closure_entry", "mov rdx, [r10+16]; jmp [r10+8]"),
    Ready(
        "linux/amd64",
        "closures:call_closure",
        "mov r10, rdi; mov rdi, rsi; jmp [r10]",
        ((change("r10", "rax"), "args", "r10"),),
    ),
    Ready(
        "linux/amd64",
        "adaptors:sysv_to_ms",
        "sub rsp, 0x28; mov [rsp+32], r8; mov r9, rcx; mov r8, rdx; mov rdx, rsi; mov rcx, rdi; call target_ms; "
        "add rsp, 0x28; ret",
        (
            (change(r"rsp, 0x28|rsp\+32", lambda m: {"rsp, 0x28": "rsp, 8", "rsp+32": "rsp"}[m[0]]), "area", ""),
            (change("mov r9, rcx", "mov rcx, r9"), "args", "r9"),
        ),
    ),
    Ready(
        "linux/amd64",
        "adaptors:ms_to_sysv",
        lines(
            "push rdi; push rsi; sub rsp, 0xa8",
            each("movups [rsp+{at}], xmm{n}", range(6, 16), 0, 16),
            "mov rdi, rcx; mov rsi, rdx; mov rdx, r8; mov rcx, r9; mov r8, [rsp+0xe0]",
            "call target_sysv",
            each("movups xmm{n}, [rsp+{at}]", range(6, 16), 0, 16),
            "add rsp, 0xa8; pop rsi; pop rdi; ret",
        ),
        (
            (drop("xmm8"), "preserve", "xmm8"),
            (change("movups (.*xmm15.*)", r"movsd \1"), "preserve", "xmm15"),
            (change("(push|pop) rsi", r"\1 rax"), "preserve", "rsi"),
            (change("0xe0", "0xc0"), "args", "r8"),
        ),
    ),
    Ready(
        "linux/amd64",
        "thunks:covariant_thunk",
        "sub rdi, 16; sub rsp, 8; call clone; add rsp, 8; test rax, rax; je 1f; add rax, 16; 1: ret",
        ((drop("je 1f"), "args", "rax"),),
    ),
    Ready(
        "linux/amd64",
        "thunks:forward",
        "mov rdi, [rdi+8]; mov rax, [rdi]; jmp [rax+8]",
        ((both(change("mov rdi, ", "mov rax, "), change(r"\[rdi\]", "[rax]")), "args", "rdi"),),
    ),
    Ready(
        "linux/amd64",
        "call_with_words:call_with_words",
        """
        push rbx; mov rbx, rcx; mov rax, rdi; mov r10, rsi
        mov rdi, [r10]; mov rsi, [r10+8]; mov rcx, [r10+24]
        cmp edx, 4
        mov rdx, [r10+16]
        ja 1f
        call rax
        jmp 2f
        1: mov r8, [r10+32]; mov r9, [r10+40]
        push [r10+72]; push [r10+64]; push [r10+56]; push [r10+48]
        call rax
        add rsp, 32
        2: mov [rbx], rax
        pop rbx
        ret
        """,
        (
            (drop("^(push|pop) rbx"), "preserve", "rbx"),
            (change(r"push \[r10\+56\]", "push [r10+64]"), "args", ""),
            (change("add rsp, 32", "add rsp, 24"), "sp", ""),
        ),
    ),
    Ready(
        "linux/amd64",
        "hooks:entry_hook",
        lines(
            "push rax; push rcx; push rdx; push rsi; push rdi; push r8; push r9; push r10; sub rsp, 0x88",
            each("movups [rsp+{at}], xmm{n}", range(8), 0, 16),
            "mov rdi, r11",
            "call observe",
            each("movups xmm{n}, [rsp+{at}]", range(8), 0, 16),
            "add rsp, 0x88; pop r10; pop r9; pop r8; pop rdi; pop rsi; pop rdx; pop rcx; pop rax; ret",
        ),
        (
            (drop("xmm5"), "preserve", "xmm5"),
            (change("movups (.*xmm0.*)", r"movsd \1"), "preserve", "xmm0"),
            (change("rsp, 0x88", "rsp, 0x80"), "align", "rsp"),
            (change("(push|pop) r10", r"\1 r11"), "preserve", "r10"),
        ),
    ),
    Ready(
        "linux/amd64",
        "restorers:__restore_rt",
        "mov eax, 15; syscall; ud2",
        ((change("15", "13"), "args", "rax"),),
    ),
]

I386 = [
    Ready(
        "linux/386",
        "adaptors:cdecl_to_stdcall",
        "push [esp+12]; push [esp+12]; push [esp+12]; call target_stdcall; ret",
        (
            (before("ret", "add esp, 12"), "sp", ""),
            (before("push", "push eax"), "align", "esp"),
        ),
    ),
    Ready(
        "linux/386",
        "adaptors:stdcall_to_cdecl",
        "push [esp+12]; push [esp+12]; push [esp+12]; call target_cdecl; add esp, 12; ret 12",
        (
            (change("ret 12", "ret"), "sp", ""),
            (drop("add esp"), "sp", ""),
        ),
    ),
    Ready(
        "linux/386",
        "adaptors:cdecl_to_fastcall",
        "sub esp, 8; push [esp+20]; mov ecx, [esp+16]; mov edx, [esp+20]; call target_fastcall; add esp, 8; ret",
        ((change("mov edx.*", "mov ebx, [esp+20]"), "args", "edx"),),
    ),
    Ready(
        "linux/386",
        "adaptors:fastcall_to_cdecl",
        "push [esp+4]; push edx; push ecx; call target_cdecl; add esp, 12; ret 4",
        ((change("ret 4", "ret 12"), "sp", ""),),
    ),
    Ready(
        "linux/386",
        "adaptors:thiscall_to_cdecl",
        "push [esp+8]; push [esp+8]; push ecx; call target_cdecl; add esp, 12; ret 8",
        ((change("push ecx", "push edx"), "args", ""),),
    ),
    Ready(
        "linux/386",
        "adaptors:call_stdcall",
        "sub esp, 4; push [esp+16]; push [esp+16]; call [esp+16]; add esp, 4; ret",
        ((change("add esp, 4", "add esp, 12"), "sp", ""),),
    ),
    Ready(
        "linux/386",
        "closures:call_closure",
        "mov ecx, [esp+4]; sub esp, 8; push [esp+16]; call [ecx]; add esp, 12; ret",
    ),
]

ARM64 = [
    Ready(
        "linux/arm64",
        "closures:closure_entry",
        "ldr x2, [x15, #16]; ldr x16, [x15, #8]; br x16",
        ((change("#8", "#0"), "flow", ""),),
    ),
    Ready(
        "linux/arm64",
        "thunks:covariant_thunk",
        "stp x29, x30, [sp, #-16]!; sub x0, x0, #16; bl clone; cbz x0, 1f; add x0, x0, #16; "
        "1: ldp x29, x30, [sp], #16; ret",
        (
            (drop("cbz"), "args", "x0"),
            (change("ldp x29, x30", "ldp x30, x29"), "sp", ""),
        ),
    ),
    Ready(
        "linux/arm64",
        "hooks:entry_hook",
        lines(
            "sub sp, sp, #0xe0; str x30, [sp]",
            each("stp x{n}, x{m}, [sp, #{at}]", range(0, 8, 2), 0x10, 16),
            "str x8, [sp, #0x50]",
            each("stp q{n}, q{m}, [sp, #{at}]", range(0, 8, 2), 0x60, 32),
            "mov x0, x9",
            "bl observe",
            each("ldp q{n}, q{m}, [sp, #{at}]", range(0, 8, 2), 0x60, 32),
            "ldr x8, [sp, #0x50]",
            each("ldp x{n}, x{m}, [sp, #{at}]", range(0, 8, 2), 0x10, 16),
            "ldr x30, [sp]; add sp, sp, #0xe0; ret",
        ),
        (
            (drop("x8, "), "preserve", "x8"),
            (change("q2, q3", "d2, d3"), "preserve", "v2"),
        ),
    ),
    Ready(
        "linux/arm64",
        "restorers:__restore_rt",
        "mov x8, #139; svc #0; brk #0",
        ((change("#139", "#15"), "args", "x8"),),
    ),
]

OTHERS = [
    Ready(
        "linux/s390x",
        "thunks:forward",
        "lg %r2, 8(%r2); lg %r1, 0(%r2); lg %r1, 8(%r1); br %r1",
        ((change(r"8\(%r1\)", "16(%r1)"), "flow", ""),),
    ),
    Ready("linux/s390x", "restorers:__restore_rt", "svc 173; .word 0", ((change("173", "119"), "args", ""),)),
    Ready("linux/arm", "restorers:__restore_rt", "mov r7, #173; svc #0; udf #0"),
    Ready(
        "linux/arm",
        "thunks:forward",
        "ldr r0, [r0, #4]; ldr r3, [r0]; ldr pc, [r3, #4]",
        ((change(r"ldr r3, \[r0\]", "mov r3, r0"), "flow", ""),),
    ),
    Ready("linux/ppc64le", "restorers:__restore_rt", "li 0, 172; sc; trap"),
    Ready(
        "linux/ppc64le",
        "thunks:forward",
        "mflr 0; std 0, 16(1); stdu 1, -32(1); std 2, 24(1); ld 3, 8(3); ld 12, 0(3); ld 12, 8(12); mtctr 12; bctrl; "
        "ld 2, 24(1); addi 1, 1, 32; ld 0, 16(1); mtlr 0; blr",
        (
            (change("12", "11"), "args", "r12"),
            (drop("ld 2,"), "preserve", "r2"),
        ),
    ),
    Ready("linux/mips", "restorers:__restore_rt", "li $v0, 4193; syscall; break"),
    Ready(
        "linux/mips",
        "thunks:forward",
        "lw $a0, 4($a0); lw $t9, 0($a0); lw $t9, 4($t9); jr $t9; nop",
        ((change("t9", "t1"), "args", "t9"),),
    ),
    Ready("linux/mips64", "restorers:__restore_rt", "li $v0, 5211; syscall; break"),
    Ready(
        "linux/mips64",
        "closures:closure_entry",
        "ld $t9, 8($15); jr $t9; ld $a2, 16($15)",
        ((change(r"16\(", "0("), "args", "a2"),),
    ),
]

READY = [*AMD64, *I386, *ARM64, *OTHERS]
