"""Context switches written by hand, as libraries have them. All are right; the tests break them.

`jump`: what is saved is on the old stack, and the context is the stack pointer (as in Boost.Context). `swap`: it is in
an object. `set`, `long`: setjmp and longjmp. `RETURN` is explained in broken.written.
"""

from __future__ import annotations

SOURCE = """
struct context { words: uptr[96] }
struct fiber { context: ptr }

trampoline jump(from: ptr<fiber>, to: ptr, value: iptr) -> iptr using c
    suspends from.context resumes to giving value
{ return value }

trampoline swap(from: ptr<context>, to: ptr<context>) using c suspends from resumes to { }

trampoline set(env: ptr<context>) -> i32 using c suspends env { return 0 }

trampoline long(env: ptr<context>, value: i32) using c resumes env of set giving value or 1 { }
"""


def _lines(*parts: str) -> str:
    return "\n".join(parts)


def _each(form: str, numbers: range, start: int, step: int) -> str:
    """One line for each number `n`, with the place `at`, in hexadecimal, of its slot."""
    return "\n".join(form.format(n=n, m=n + 1, at=f"{start + step * i:#x}") for i, n in enumerate(numbers))


_AMD64 = ("rbx", "rbp", "r12", "r13", "r14", "r15")


def _amd64_stored(base: str) -> str:
    return _lines(
        *(f"mov qword ptr [{base}+{8 * i:#x}], {r}" for i, r in enumerate(_AMD64)),
        f"stmxcsr dword ptr [{base}+0x30]; fnstcw word ptr [{base}+0x34]",
        f"mov rax, qword ptr [rsp]; mov qword ptr [{base}+0x38], rax",
        f"lea rcx, [rsp+8]; mov qword ptr [{base}+0x40], rcx",
    )


def _amd64_loaded(base: str) -> str:
    return _lines(
        *(f"mov {r}, qword ptr [{base}+{8 * i:#x}]" for i, r in enumerate(_AMD64)),
        f"ldmxcsr dword ptr [{base}+0x30]; fldcw word ptr [{base}+0x34]",
        f"mov rsp, qword ptr [{base}+0x40]; jmp qword ptr [{base}+0x38]",
    )


def _arm64_moved(base: str, load: bool) -> str:
    pair, one = ("ldp", "ldr") if load else ("stp", "str")
    stack = f"ldr x9, [{base}, #0x60]; mov sp, x9" if load else f"mov x9, sp; str x9, [{base}, #0x60]"
    modes = f"ldr x9, [{base}, #0x68]; msr fpcr, x9" if load else f"mrs x9, fpcr; str x9, [{base}, #0x68]"
    return _lines(
        _each(f"{pair} x{{n}}, x{{m}}, [{base}, #{{at}}]", range(19, 31, 2), 0, 16),
        stack,
        modes,
        _each(f"{one} d{{n}}, [{base}, #{{at}}]", range(8, 16), 0x70, 8),
    )


_386 = ("ebx", "ebp", "esi", "edi")


def _386_stored(base: str) -> str:
    return _lines(
        *(f"mov dword ptr [{base}+{4 * i:#x}], {r}" for i, r in enumerate(_386)),
        f"stmxcsr dword ptr [{base}+0x10]; fnstcw word ptr [{base}+0x14]",
        f"mov ecx, dword ptr [esp]; mov dword ptr [{base}+0x18], ecx",
        f"lea ecx, [esp+4]; mov dword ptr [{base}+0x1c], ecx",
    )


def _386_loaded(base: str) -> str:
    return _lines(
        *(f"mov {r}, dword ptr [{base}+{4 * i:#x}]" for i, r in enumerate(_386)),
        f"ldmxcsr dword ptr [{base}+0x10]; fldcw word ptr [{base}+0x14]",
        f"mov esp, dword ptr [{base}+0x1c]; jmp dword ptr [{base}+0x18]",
    )


def _arm_moved(base: str, load: bool) -> str:
    many, one, vector = ("ldm", "ldr", "vldr") if load else ("stm", "str", "vstr")
    status = f"ldr r12, [{base}, #0x60]; vmsr fpscr, r12" if load else f"vmrs r12, fpscr; str r12, [{base}, #0x60]"
    return _lines(
        f"{many} {base}, {{r4-r11}}",
        _each(f"{vector} d{{n}}, [{base}, #{{at}}]", range(8, 16), 0x20, 8),
        status,
        f"{one} lr, [{base}, #0x64]",
    )


def _mips_moved(base: str, load: bool) -> str:
    word, double = ("lw", "ldc1") if load else ("sw", "sdc1")
    status = f"lw $t0, 0x60({base}); ctc1 $t0, $31" if load else f"cfc1 $t0, $31; sw $t0, 0x60({base})"
    return _lines(
        _each(f"{word} $s{{n}}, {{at}}({base})", range(8), 0, 4),
        f"{word} $fp, 0x20({base}); {word} $ra, 0x24({base})",
        _each(f"{double} $f{{n}}, {{at}}({base})", range(20, 32, 2), 0x30, 8),
        status,
    )


def _mips64_moved(base: str, load: bool) -> str:
    word, double = ("ld", "ldc1") if load else ("sd", "sdc1")
    status = f"lw $t0, 0xa0({base}); ctc1 $t0, $31" if load else f"cfc1 $t0, $31; sw $t0, 0xa0({base})"
    return _lines(
        _each(f"{word} $s{{n}}, {{at}}({base})", range(8), 0, 8),
        f"{word} $gp, 0x40({base}); {word} $fp, 0x48({base}); {word} $ra, 0x50({base})",
        _each(f"{double} $f{{n}}, {{at}}({base})", range(24, 32), 0x60, 8),
        status,
    )


def _ppc_moved(base: str, load: bool) -> str:
    word, double, vector = ("ld", "lfd", "lvx") if load else ("std", "stfd", "stvx")
    vectors = _lines(*(f"li %r12, {0x150 + 16 * i:#x}; {vector} %v{20 + i}, %r12, {base}" for i in range(12)))
    modes = f"mffs %f0; stfd %f0, 0x210({base}); mfvscr %v0; li %r12, 0x220; stvx %v0, %r12, {base}"
    link = f"mflr %r0; std %r0, 0x20({base}); mfcr %r0; stw %r0, 0x28({base})"
    if load:
        modes = f"lfd %f0, 0x210({base}); mtfsf 0xff, %f0, 0x1, 0x0; li %r12, 0x220; lvx %v0, %r12, {base}; mtvscr %v0"
        link = f"ld %r0, 0x20({base}); mtlr %r0; lwz %r0, 0x28({base}); mtcrf 0x38, %r0"
    return _lines(
        link,
        f"{word} %r2, 0x18({base})",
        _each(f"{word} %r{{n}}, {{at}}({base})", range(14, 32), 0x30, 8),
        _each(f"{double} %f{{n}}, {{at}}({base})", range(14, 32), 0xC0, 8),
        vectors,
        modes,
    )


def _s390x_moved(base: int, load: bool) -> str:
    """Keystone has no words for the last four instructions: stfpc and lfpc, and ipm and spm, of the program mask."""
    word, double = ("lmg", "ld") if load else ("stmg", "std")
    fpc = f".byte 0xb2, {0x9D if load else 0x9C:#x}, {base << 4:#x}, 0x90"
    mask = (
        f"l %r1, 0x94(%r{base}); .byte 0x04, 0x10" if load else f".byte 0xb2, 0x22, 0x0, 0x10; st %r1, 0x94(%r{base})"
    )
    return _lines(
        _each(f"{double} %f{{n}}, {{at}}(%r{base})", range(8, 16), 0x50, 8),
        fpc,
        mask,
        f"{word} %r6, %r15, 0x0(%r{base})",
    )


SWITCHES: dict[str, dict[str, str]] = {
    "linux/386": {
        "jump": """
            push ebp; push ebx; push esi; push edi
            sub esp, 8
            stmxcsr dword ptr [esp]; fnstcw word ptr [esp+4]
            mov eax, dword ptr [esp+0x1c]; mov ecx, dword ptr [esp+0x20]; mov edx, dword ptr [esp+0x24]
            mov dword ptr [eax], esp
            mov esp, ecx
            ldmxcsr dword ptr [esp]; fldcw word ptr [esp+4]
            add esp, 8
            pop edi; pop esi; pop ebx; pop ebp
            mov eax, edx
            RETURN ret
        """,
        "swap": _lines(
            "mov eax, dword ptr [esp+4]; mov edx, dword ptr [esp+8]", _386_stored("eax"), _386_loaded("edx")
        ),
        "set": _lines("mov eax, dword ptr [esp+4]", _386_stored("eax"), "xor eax, eax", "RETURN ret"),
        "long": _lines(
            "mov edx, dword ptr [esp+4]; mov eax, dword ptr [esp+8]; mov ecx, 1; test eax, eax; cmove eax, ecx",
            _386_loaded("edx"),
        ),
    },
    "linux/arm": {
        "jump": _lines(
            "sub sp, sp, #0x68",
            _arm_moved("sp", False),
            "str sp, [r0]; mov sp, r1",
            _arm_moved("sp", True),
            "add sp, sp, #0x68; mov r0, r2",
            "RETURN bx lr",
        ),
        "swap": _lines(
            _arm_moved("r0", False),
            "str sp, [r0, #0x68]",
            _arm_moved("r1", True),
            "ldr sp, [r1, #0x68]",
            "RETURN bx lr",
        ),
        "set": _lines(_arm_moved("r0", False), "str sp, [r0, #0x68]; mov r0, #0", "RETURN bx lr"),
        "long": _lines(
            "cmp r1, #0; moveq r1, #1",
            _arm_moved("r0", True),
            "ldr sp, [r0, #0x68]; mov r0, r1",
            "RETURN bx lr",
        ),
    },
    "linux/mips": {
        "jump": _lines(
            "addiu $sp, $sp, -0x68",
            _mips_moved("$sp", False),
            "sw $sp, 0x0($a0); move $sp, $a1",
            _mips_moved("$sp", True),
            "move $v0, $a2",
            "RETURN",
            "addiu $sp, $sp, 0x68",
        ),
        "swap": _lines(
            _mips_moved("$a0", False),
            "sw $sp, 0x28($a0)",
            _mips_moved("$a1", True),
            "RETURN",
            "lw $sp, 0x28($a1)",
        ),
        "set": _lines(_mips_moved("$a0", False), "sw $sp, 0x28($a0)", "RETURN", "move $v0, $zero"),
        "long": _lines(
            _mips_moved("$a0", True),
            "sltiu $t1, $a1, 1; or $v0, $a1, $t1",
            "RETURN",
            "lw $sp, 0x28($a0)",
        ),
    },
    "linux/mips64le": {
        "jump": _lines(
            "daddiu $sp, $sp, -0xb0",
            _mips64_moved("$sp", False),
            "sd $sp, 0x0($a0); move $sp, $a1",
            _mips64_moved("$sp", True),
            "move $v0, $a2",
            "RETURN",
            "daddiu $sp, $sp, 0xb0",
        ),
        "swap": _lines(
            _mips64_moved("$a0", False),
            "sd $sp, 0x58($a0)",
            _mips64_moved("$a1", True),
            "RETURN",
            "ld $sp, 0x58($a1)",
        ),
    },
    "linux/ppc64le": {
        "jump": _lines(
            "stdu %r1, -0x230(%r1)",
            _ppc_moved("%r1", False),
            "std %r1, 0x0(%r3); mr %r1, %r4",
            _ppc_moved("%r1", True),
            "addi %r1, %r1, 0x230; mr %r3, %r5",
            "RETURN",
        ),
        "swap": _lines(
            _ppc_moved("%r3", False),
            "std %r1, 0x8(%r3)",
            _ppc_moved("%r4", True),
            "ld %r1, 0x8(%r4)",
            "RETURN",
        ),
        "set": _lines(_ppc_moved("%r3", False), "std %r1, 0x8(%r3); li %r3, 0", "RETURN"),
        "long": _lines(
            _ppc_moved("%r3", True),
            "ld %r1, 0x8(%r3); cntlzw %r5, %r4; srwi %r5, %r5, 5; or %r3, %r4, %r5; extsw %r3, %r3",
            "RETURN",
        ),
    },
    "linux/s390x": {
        "jump": _lines(
            "aghi %r15, -0xa0",
            _s390x_moved(15, False),
            "stg %r15, 0x0(%r2); lgr %r15, %r3",
            _s390x_moved(15, True),
            "aghi %r15, 0xa0; lgr %r2, %r4",
            "RETURN",
        ),
        "swap": _lines(_s390x_moved(2, False), _s390x_moved(3, True), "RETURN"),
        "set": _lines(_s390x_moved(2, False), "lghi %r2, 0", "RETURN"),
        "long": _lines(
            "lgfr %r4, %r3; lpgr %r5, %r4; aghi %r5, -1; srlg %r5, %r5, 63; ogr %r4, %r5",
            _s390x_moved(2, True),
            "lgr %r2, %r4",
            "RETURN",
        ),
    },
    "linux/amd64": {
        "jump": """
            push rbp; push rbx; push r15; push r14; push r13; push r12
            sub rsp, 8
            stmxcsr dword ptr [rsp]; fnstcw word ptr [rsp+4]
            mov qword ptr [rdi], rsp
            mov rsp, rsi
            ldmxcsr dword ptr [rsp]; fldcw word ptr [rsp+4]
            add rsp, 8
            pop r12; pop r13; pop r14; pop r15; pop rbx; pop rbp
            mov rax, rdx
            RETURN ret
        """,
        "swap": _lines(_amd64_stored("rdi"), _amd64_loaded("rsi")),
        "set": _lines(_amd64_stored("rdi"), "xor eax, eax", "RETURN ret"),
        "long": _lines("mov eax, esi; mov edx, 1; test eax, eax; cmove eax, edx", _amd64_loaded("rdi")),
    },
    "linux/arm64": {
        "jump": _lines(
            "sub sp, sp, #0xb0",
            _each("stp x{n}, x{m}, [sp, #{at}]", range(19, 31, 2), 0, 16),
            _each("stp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x60, 16),
            "mrs x9, fpcr; str x9, [sp, #0xa0]",
            "mov x9, sp; str x9, [x0]",
            "mov sp, x1",
            _each("ldp x{n}, x{m}, [sp, #{at}]", range(19, 31, 2), 0, 16),
            _each("ldp d{n}, d{m}, [sp, #{at}]", range(8, 16, 2), 0x60, 16),
            "ldr x9, [sp, #0xa0]; msr fpcr, x9",
            "add sp, sp, #0xb0",
            "mov x0, x2",
            "RETURN",
        ),
        "swap": _lines(_arm64_moved("x0", False), _arm64_moved("x1", True), "RETURN"),
        "set": _lines(_arm64_moved("x0", False), "mov w0, #0", "RETURN"),
        "long": _lines(
            "cmp w1, #0; mov w2, w1; csinc w1, w1, wzr, ne", _arm64_moved("x0", True), "mov w0, w1", "RETURN"
        ),
    },
}
