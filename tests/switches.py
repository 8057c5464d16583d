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


SWITCHES: dict[str, dict[str, str]] = {
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
