"""The functions of right.py with one mistake each, as they have shipped in runtimes and coroutine libraries, with the
obligation that is violated and, where it is one, the register."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Edit = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Mistake:
    kind: str
    function: str
    edit: Edit
    obligation: str  # "": it is none, and nothing may be found
    register: str = ""
    checked: bool = True  # whether the check is there, and says what has to arrive


def lines_of(text: str) -> list[str]:
    """The statements of a function; `;` ends one, but not within `.localentry` and its like."""
    return [line.strip() for line in text.replace(";", "\n").splitlines() if line.strip()]


def matching(lines: Sequence[str], pattern: str) -> list[int]:
    found = [index for index, line in enumerate(lines) if re.search(pattern, line)]
    assert found, f"{pattern} is in none of {lines}"
    return found


def drop(pattern: str) -> Edit:
    return lambda lines: [line for index, line in enumerate(lines) if index not in matching(lines, pattern)]


def change(pattern: str, by: str | Callable[[re.Match[str]], str]) -> Edit:
    def apply(lines: list[str]) -> list[str]:
        found = matching(lines, pattern)
        return [re.sub(pattern, by, line) if index in found else line for index, line in enumerate(lines)]

    return apply


def before(pattern: str, *texts: str) -> Edit:
    """New statements before the first one that matches."""

    def apply(lines: list[str]) -> list[str]:
        index = matching(lines, pattern)[0]
        return [*lines[:index], *texts, *lines[index:]]

    return apply


def behind(pattern: str, *texts: str) -> Edit:
    """New statements behind the last one that matches."""

    def apply(lines: list[str]) -> list[str]:
        index = matching(lines, pattern)[-1] + 1
        return [*lines[:index], *texts, *lines[index:]]

    return apply


def both(*edits: Edit) -> Edit:
    def apply(lines: list[str]) -> list[str]:
        for edit in edits:
            lines = edit(lines)
        return lines

    return apply


def replaced(old: str, *new: str) -> Edit:
    """New statements in the place of each one that matches."""

    def apply(lines: list[str]) -> list[str]:
        found = matching(lines, old)
        return [text for index, line in enumerate(lines) for text in (new if index in found else [line])]

    return apply


def exchanged(one: str, other: str) -> Edit:
    """Two statements in each other's places."""

    def apply(lines: list[str]) -> list[str]:
        [first], [second] = matching(lines, one), matching(lines, other)
        lines = list(lines)
        lines[first], lines[second] = lines[second], lines[first]
        return lines

    return apply


I386 = [
    Mistake("a register is left out", "bridge", change(r"^(push|pop) esi", r"\1 eax"), "preserve", "esi"),
    Mistake("restored from each other's slots", "bridge", exchanged("pop edi", "pop esi"), "preserve", "edi"),
    Mistake("sp is off by a word", "bridge", change("add esp, 0xc", "add esp, 8"), "sp"),
    Mistake("sp is off by a word", "thunk", before("jmp", "push eax"), "flow"),
    Mistake("a misaligned call", "callback", both(before("mov ebx", "push eax"), behind("call", "pop ecx")), "align"),
    Mistake(
        "below the stack pointer",
        "thunk",
        before("sub", "mov eax, [esp+4]", "mov [esp-8], eax", "mov eax, [esp-8]", "mov [esp+4], eax"),
        "below",
    ),
    Mistake("an argument elsewhere", "callback", change(r"\[esp\+12\], eax", "[esp+20], eax"), "effect"),
    Mistake("the return address is lost", "callback", behind("call", "mov [esp+28], eax"), "sp"),
    Mistake("the direction flag is set", "callback", behind("call", "std"), "preserve", "eflags"),
    Mistake("MXCSR", "callback", behind("call", "push 0x1fc0", "ldmxcsr [esp]", "pop ecx"), "preserve", "mxcsr"),
    Mistake("x87 control word", "callback", behind("call", "push 0x27f", "fldcw [esp]", "pop ecx"), "preserve", "fpcw"),
    Mistake("to where no memory is", "callback", behind("call", "mov [ecx], eax"), "flow"),
    Mistake("above its frame", "callback", behind("call", "mov [esp+0x80], eax"), "writes"),
    Mistake("ecx was not given", "callback", change(r"mov eax, \[esp\+60\]", "mov eax, ecx"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("call", "call other"), "flow"),
    Mistake("nothing is promised above 16 bits", "callback", change("movsx eax, word ptr", "mov eax,"), ""),
]


def _amd64(this: str) -> list[Mistake]:
    """`this`: the register of the first argument."""
    return [
        Mistake("a register is left out", "bridge", change(r"^(push|pop) r13", r"\1 rax"), "preserve", "r13"),
        Mistake(
            "a narrow save",
            "callback",
            both(change("push rbx", "sub rsp, 8; mov [rsp], ebx"), change("pop rbx", "mov ebx, [rsp]; add rsp, 8")),
            "preserve",
            "rbx",
        ),
        Mistake("restored from each other's slots", "bridge", exchanged("pop r15", "pop r14"), "preserve", "r14"),
        Mistake("sp is off by a word", "bridge", before("ret", "pop rcx"), "sp"),
        Mistake("sp is off by a word", "thunk", before("jmp", "push rax"), "flow"),
        Mistake(
            "a misaligned call",
            "callback",
            both(before("push rbx", "push rax"), change(r"\[rsp\+(.*)\]", r"[rsp+\1+8]"), before("ret", "pop rcx")),
            "align",
        ),
        Mistake(
            "below the red zone",
            "thunk",
            before("sub", f"mov [rsp-0x100], {this}", f"mov {this}, [rsp-0x100]"),
            "below",
        ),
        Mistake("the return address is lost", "callback", behind("push rbx", "mov [rsp+8], rax"), "sp"),
        Mistake("the direction flag is set", "callback", behind("call", "std"), "preserve", "eflags"),
        Mistake("MXCSR", "callback", behind("call", "push 0x1fc0", "ldmxcsr [rsp]", "pop rcx"), "preserve", "mxcsr"),
        Mistake(
            "x87 control word", "callback", behind("call", "push 0x27f", "fldcw [rsp]", "pop rcx"), "preserve", "fpcw"
        ),
        Mistake("above its frame", "callback", behind("call", "mov [rsp+0x100], rax"), "writes"),
        Mistake(
            "r11 was not given", "callback", change(f"mov {this}, rbx", f"mov {this}, r11"), "reads", checked=False
        ),
        Mistake("an undeclared call", "callback", before("call", "call other"), "flow"),
    ]


SYSV_AMD64 = [
    *_amd64("rdi"),
    Mistake("an argument elsewhere", "callback", change("mov r9,", "mov r8,"), "effect"),
    Mistake("garbage above a narrow argument", "callback", change("movsx r8d, dx", "mov r8d, edx"), "args"),
    Mistake("the red zone may be used", "thunk", before("sub", "mov [rsp-8], rdi", "mov rdi, [rsp-8]"), ""),
    Mistake("xmm6 need not be kept", "callback", behind("call", "pxor xmm6, xmm6"), ""),
]

WINDOWS_AMD64_MISTAKES = [
    *_amd64("rcx"),
    Mistake("a vector register is left out", "bridge", drop("xmm9"), "preserve", "xmm9"),
    Mistake("half of a vector register", "bridge", change("movups (.*xmm7.*)", r"movsd \1"), "preserve", "xmm7"),
    Mistake("a register of System V's", "callback", behind("call", "xor edi, edi"), "preserve", "rdi"),
    Mistake("no home space", "bridge", change("sub rsp, 0xd0", "sub rsp, 0xd8"), "sp"),
    Mistake("an argument elsewhere", "callback", change("mov r9, rdx", "mov [rsp+0x20], rdx"), "effect"),
    Mistake(
        "home space is missing",
        "callback",
        both(
            change("sub rsp, 0x30", "sub rsp, 0x10"),
            change("add rsp, 0x30", "add rsp, 0x10"),
            change(r"\[rsp\+(0x[0-9a-f]+)\]", r"[rsp+\1-0x20]"),
        ),
        "area",
    ),
    Mistake("the direction flag is not cleared", "bridge", drop("^cld"), "reads", "eflags"),
]

WINDOWS_I386_MISTAKES = [
    *(m for m in I386 if m.obligation != "align" and not (m.function == "bridge" and "esp" in m.kind)),
    Mistake("the direction flag is not cleared", "bridge", drop("^cld"), "reads", "eflags"),
]

ARM_MISTAKES = [
    Mistake("a register is left out", "bridge", change(r"\{r4-r11, (lr|pc)\}", r"{r3, r5-r11, \1}"), "preserve", "r4"),
    Mistake(
        "a float register is left out",
        "bridge",
        both(change(r"\{d8-d15\}", "{d9-d15}"), change("#28", "#36")),
        "preserve",
        "d8",
    ),
    Mistake(
        "restored from each other's slots",
        "bridge",
        change(r"pop \{r4-r11, pc\}", "ldr r5, [sp]; ldr r4, [sp, #4]; add sp, sp, #8; pop {r6-r11, pc}"),
        "preserve",
        "r4",
    ),
    Mistake("sp is off by a word", "callback", change(r"pop \{r4, pc\}", "pop {r4, lr}; add sp, sp, #4; bx lr"), "sp"),
    Mistake(
        "a misaligned call", "callback", both(before("^bl", "sub sp, sp, #4"), behind("^bl", "add sp, sp, #4")), "align"
    ),
    Mistake("below the stack pointer", "thunk", before("sub", "str r0, [sp, #-64]", "ldr r0, [sp, #-64]"), "below"),
    Mistake("an argument elsewhere", "callback", change("mov r3, r1", "mov r2, r1"), "effect"),
    Mistake("the return address is lost", "callback", both(change(r"push \{r4, lr\}", "push {r4, r12}")), "sp"),
    Mistake("FPSCR", "callback", behind("^bl", "mov r1, #0x400000; vmsr fpscr, r1"), "preserve", "fpscr"),
    Mistake("above its frame", "callback", behind("^bl", "str r0, [sp, #0x80]"), "writes"),
    Mistake("garbage above a narrow argument", "callback", drop("sxth"), "args"),
    Mistake("r12 was not given", "callback", drop("ldr r12"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("^bl", "bl other"), "flow"),
    Mistake("r12 need not be kept", "callback", behind("^bl", "mov r12, #0"), ""),
]

ARM64_MISTAKES = [
    Mistake("a register is left out", "bridge", change("stp x23, x24", "stp x23, xzr"), "preserve", "x24"),
    Mistake("a float register is left out", "bridge", drop("d10, d11"), "preserve", "v10"),
    Mistake("a narrow save", "callback", change("(str|ldr) x19, .sp, #16.", r"\1 w19, [sp, #16]"), "preserve", "x19"),
    Mistake("half of a float register", "bridge", change("stp d8, d9", "stp s8, s9"), "preserve", "v8"),
    Mistake("restored from each other's slots", "bridge", change("ldp x19, x20", "ldp x20, x19"), "preserve", "x19"),
    Mistake("sp is off by a word", "callback", change(r"\[sp\], #32", "[sp], #24"), "sp"),
    Mistake(
        "a misaligned call", "callback", both(before("^bl", "sub sp, sp, #8"), behind("^bl", "add sp, sp, #8")), "align"
    ),
    Mistake("below the stack pointer", "thunk", before("sub", "str x0, [sp, #-64]", "ldr x0, [sp, #-64]"), "below"),
    Mistake("an argument elsewhere", "callback", change("mov x5, x7", "mov x6, x7"), "effect"),
    Mistake("the return address is lost", "callback", change("ldp x29, x30", "ldp x29, x9"), "sp"),
    Mistake("FPCR", "callback", behind("^bl", "mov x1, #0x400000; msr fpcr, x1"), "preserve", "fpcr"),
    Mistake("above its frame", "callback", behind("^bl", "str x0, [sp, #0x100]"), "writes"),
    Mistake("x9 was not given", "callback", drop("ldr x9"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("^bl", "bl other"), "flow"),
    Mistake("the frame pointer is left out", "callback", change("ldp x29, x30", "ldp x9, x30"), "preserve", "x29"),
    Mistake("nothing is promised above 16 bits", "callback", change("sxth w4, w2", "mov x4, x2"), ""),
]

MIPS_MISTAKES = [
    Mistake("a register is left out", "bridge", drop(r"\$s3"), "preserve", "s3"),
    Mistake("a float register is left out", "bridge", drop(r"\$f22"), "preserve", "f22"),
    Mistake("restored from another slot", "bridge", change(r"lw \$s1, 0x14", "lw $s1, 0x10"), "preserve", "s1"),
    Mistake("sp is off by a word", "callback", change("sp, 40$", "sp, 36"), "sp"),
    Mistake(
        "a misaligned call",
        "callback",
        both(before("^jal", "addiu $sp, $sp, -4"), before(r"^sw \$v0", "addiu $sp, $sp, 4")),
        "align",
    ),
    Mistake("below the stack pointer", "thunk", before("^j", "sw $a0, -64($sp)", "lw $a0, -64($sp)"), "below"),
    Mistake("an argument elsewhere", "callback", change(r"sw \$t1, 20", "sw $t1, 16"), "effect"),
    Mistake("the return address is lost", "callback", drop(r"lw \$ra"), "sp"),
    Mistake(
        "no room for arguments in registers",
        "callback",
        both(
            change("sp, (-?)40$", r"sp, \g<1>8"),
            change(r"lw (\$\w+), (\d\d)\(\$sp\)", r"lw \1, \2-32($sp)"),
            change(r"sw (\$ra|\$s0), (\d\d)\(\$sp\)", r"sw \1, \2-32($sp)"),
        ),
        "sp",
    ),
    Mistake("FCSR", "callback", behind(r"sw \$v0", "li $t0, 1", "ctc1 $t0, $31"), "preserve", "fcsr"),
    Mistake("above its frame", "callback", behind(r"sw \$v0", "sw $v0, 0x80($sp)"), "writes"),
    Mistake("garbage above a narrow argument", "callback", replaced("^sll|^sra", "move $t0, $a2"), "args"),
    Mistake("t3 was not given", "callback", change(r"sw \$t1, 20", "sw $t3, 20"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("^sw .t0, 16", "jal other", "nop"), "flow"),
    Mistake("gp need not be kept", "callback", behind(r"sw \$v0", "move $gp, $0"), ""),
]

MIPS64_MISTAKES = [
    Mistake("a register is left out", "bridge", drop(r"\$s3"), "preserve", "s3"),
    Mistake("gp is left out", "bridge", drop(r"ld \$gp"), "preserve", "gp"),
    Mistake("a float register is left out", "bridge", drop(r"\$f25"), "preserve", "f25"),
    Mistake(
        "a narrow save",
        "callback",
        both(change(r"sd (\$s0, 16)", r"sw \1"), change(r"ld (\$s0, 16)", r"lw \1")),
        "preserve",
        "s0",
    ),
    Mistake("restored from another slot", "bridge", change(r"ld \$s1, 0x30", "ld $s1, 0x28"), "preserve", "s1"),
    Mistake("sp is off by a word", "callback", change("sp, 32$", "sp, 24"), "sp"),
    Mistake(
        "a misaligned call",
        "callback",
        both(before("^jal", "daddiu $sp, $sp, -8"), before(r"^sw \$v0", "daddiu $sp, $sp, 8")),
        "align",
    ),
    Mistake("below the stack pointer", "thunk", before("^j", "sd $a0, -64($sp)", "ld $a0, -64($sp)"), "below"),
    Mistake("an argument elsewhere", "callback", change(r"move \$9, \$11", "move $10, $11"), "effect"),
    Mistake("the return address is lost", "callback", drop(r"ld \$ra"), "sp"),
    Mistake("FCSR", "callback", behind(r"sw \$v0", "li $12, 1", "ctc1 $12, $31"), "preserve", "fcsr"),
    Mistake("above its frame", "callback", behind(r"sw \$v0", "sd $v0, 0x80($sp)"), "writes"),
    Mistake("garbage above a narrow argument", "callback", replaced("^sll|^sra", "move $8, $a2"), "args"),
    Mistake("$14 was not given", "callback", change(r"move \$9, \$11", "move $9, $14"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before(r"^ld \$s0, 40", "jal other", "nop"), "flow"),
    Mistake("gp is not as Go wants it", "bridge", drop("^dsll32"), "args", "gp"),
]

PPC64_MISTAKES = [
    Mistake("a register is left out", "bridge", drop("d 17,"), "preserve", "r17"),
    Mistake("a float register is left out", "bridge", drop("fd 20,"), "preserve", "f20"),
    Mistake("a vector register is left out", "bridge", drop("vx 22,"), "preserve", "v22"),
    Mistake(
        "half of a vector register", "bridge", change("(l|st)vx 21, 1, 12", r"\1xsdx 53, 1, 12"), "preserve", "v21"
    ),
    Mistake("condition fields are left out", "bridge", drop("mtcrf"), "preserve", "cr3"),
    Mistake("the table of contents is left out", "bridge", drop("ld 2,"), "preserve", "r2"),
    Mistake(
        "a narrow save",
        "callback",
        both(change("std 31", "stw 31"), change("ld 31, -8", "lwz 31, -8")),
        "preserve",
        "r31",
    ),
    Mistake("restored from another slot", "bridge", change("ld 15, 0x108", "ld 15, 0x100"), "preserve", "r15"),
    Mistake("sp is off by a word", "callback", change("addi 1, 1, (.*)", r"addi 1, 1, \1 + 8"), "sp"),
    Mistake(
        "a misaligned call",
        "callback",
        both(
            change("stdu 1, -(.*)\\(1\\)", r"stdu 1, -\1-8(1)"),
            change(r"ld (31|5), (\d+)\(1\)", r"ld \1, \2+8(1)"),
            change("addi 1, 1, (.*)", r"addi 1, 1, \1 + 8"),
        ),
        "align",
    ),
    Mistake("below the red zone", "thunk", before("addi 3", "std 3, -600(1)", "ld 3, -600(1)"), "below"),
    Mistake("an argument elsewhere", "callback", change("mr 8, 10", "mr 9, 10"), "effect"),
    Mistake("the return address is lost", "callback", drop("mtlr"), "sp"),
    Mistake("no back chain", "callback", change("stdu 1, -(.*)\\(1\\)", r"addi 1, 1, -\1"), "area"),
    Mistake("above its frame", "callback", behind("stw 3", "std 3, 0x200(1)"), "writes"),
    Mistake("garbage above a narrow argument", "callback", change("extsh 7, 5", "mr 7, 5"), "args"),
    Mistake("r11 was not given", "callback", change("mr 8, 10", "mr 8, 11"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("^mr 8", "bl other", "nop"), "flow"),
    Mistake("r0 is not as Go wants it", "bridge", drop("li 0, 0"), "args", "r0"),
    Mistake("the red zone may be used", "thunk", before("addi 3", "std 3, -16(1)", "ld 3, -16(1)"), ""),
]

S390X_MISTAKES = [
    Mistake(
        "a register is left out", "bridge", both(change("stmg %r6, %r15, 48", "stmg %r7, %r15, 56")), "preserve", "r6"
    ),
    Mistake("a float register is left out", "bridge", drop("%f11"), "preserve", "f11"),
    Mistake("half of a float register", "bridge", change("^(l|st)d (%f9.*)", r"\1e \2"), "preserve", "f9"),
    Mistake(
        "a narrow save",
        "callback",
        change("^lmg %r6, %r15, 216(.*)", r"lmg %r8, %r15, 232\1; l %r7, 228\1"),
        "preserve",
        "r7",
    ),
    Mistake("restored from another slot", "bridge", change("ld %f8, 0x20", "ld %f8, 0x28"), "preserve", "f8"),
    Mistake("sp is off by a word", "callback", behind("^lmg", "aghi %r15, 8"), "sp"),
    Mistake(
        "a misaligned call",
        "callback",
        both(before("^brasl", "aghi %r15, -4"), behind("^brasl", "aghi %r15, 4")),
        "align",
    ),
    Mistake("below the stack pointer", "thunk", before("^aghi", "stg %r2, -64(%r15)", "lg %r2, -64(%r15)"), "below"),
    Mistake("an argument elsewhere", "callback", change("lgr %r5, %r3", "lgr %r6, %r3"), "effect"),
    Mistake(
        "the return address is lost",
        "callback",
        change("^lmg %r6, %r15, 216(.*)", r"lmg %r6, %r13, 216\1; lg %r15, 288\1"),
        "sp",
    ),
    Mistake("FPC", "callback", behind("^brasl", "lghi %r1, 1; sfpc %r1"), "preserve", "fpc"),
    Mistake(
        "no save area",
        "callback",
        change(
            "-168|216|(?<= )3..(?=.%r15)|160",
            lambda m: {"-168": "-8", "216": "56", "160": "0"}.get(m[0]) or str(int(m[0]) - 160),
        ),
        "area",
    ),
    Mistake("above its frame", "callback", behind("^st ", "stg %r2, 800(%r15)"), "writes"),
    Mistake("garbage above a narrow argument", "callback", change("lghr", "lgr"), "args"),
    Mistake("r1 was not given", "callback", drop("lg %r1"), "reads", checked=False),
    Mistake("an undeclared call", "callback", before("^lg %r7", "brasl %r14, other"), "flow"),
    Mistake("r0 is not as Go wants it", "bridge", drop("lghi %r0"), "args", "r0"),
]

MISTAKES: dict[str, list[Mistake]] = {
    "linux/386": I386,
    "linux/amd64": SYSV_AMD64,
    "linux/arm": ARM_MISTAKES,
    "linux/arm64": ARM64_MISTAKES,
    "linux/mips": MIPS_MISTAKES,
    "linux/mipsle": MIPS_MISTAKES,
    "linux/mips64": MIPS64_MISTAKES,
    "linux/mips64le": MIPS64_MISTAKES,
    "linux/ppc64": PPC64_MISTAKES,
    "linux/ppc64le": PPC64_MISTAKES,
    "linux/s390x": S390X_MISTAKES,
    "windows/386": WINDOWS_I386_MISTAKES,
    "windows/amd64": WINDOWS_AMD64_MISTAKES,
    "windows/arm": ARM_MISTAKES,
    "windows/arm64": ARM64_MISTAKES,
}
