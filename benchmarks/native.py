"""What our code costs on this machine's processor, against assembly written by hand: callbacks and a change of stacks.

The code of examples is loaded into this process. A loop in C calls it by its address, and then the code that is
written below, with the same callees, in batches by turns; the numbers are medians of batches. Python takes no part
in what is measured. The time is the thread's processor time, and includes the loop's call and the C callees.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import ROOT

from trampoline_dsl import LoadError, compile_text, host_target

BATCHES = 301  # of each
BATCH = 200_000  # nanoseconds, about

C = """
#include <stdint.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define TIMED(NAME, TYPE, CALL)                                             \\
    EXPORT int64_t NAME(TYPE f, long n) {                                   \\
        struct timespec from, to;                                           \\
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);                              \\
        for (long i = 0; i < n; i++) CALL;                                  \\
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);                                \\
        return (to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec; \\
    }

EXPORT uint64_t outcome;
static int context = 3;
static char stack[1 << 16];

EXPORT void *current_context(void) { return &context; }
EXPORT int compare_in(const void *a, const void *b, void *c) {
    return ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b) + *(int *)c;
}
EXPORT double integers_first(uintptr_t n, int8_t i, uint16_t j, int32_t k, uint64_t l, float s, double a, double b,
                             double c, double d, double e, double f, double g, double h) {
    return n + i + j + k + l + s + a + b + c + d + e + f + g + h;
}
EXPORT uintptr_t work(void *argument) { return (uintptr_t)argument + 1; }

typedef int compare_type(const void *, const void *);
typedef double floats_type(double, double, double, double, double, double, double, double, float, uintptr_t, int8_t,
                           uint16_t, int32_t, uint64_t);
typedef uintptr_t stack_type(uintptr_t, void *, void *);

TIMED(time_compare, compare_type *, outcome += f((void *)i, (void *)9))
TIMED(time_floats_first, floats_type *, outcome += (uint64_t)f(i, 1, 2, 3, 4, 5, 6, 7, 8, i, -3, 4, 5, 6))
TIMED(time_call_on_stack, stack_type *, outcome += f((uintptr_t)(stack + sizeof stack), (void *)work, (void *)i))
"""

ASSEMBLY = {
    "linux/amd64": """
        .intel_syntax noprefix
        .text
        .globl by_hand_compare, by_hand_compare_jumping, by_hand_floats_first, by_hand_call_on_stack
        .balign 16
by_hand_compare:
        push rbx
        push r12
        sub rsp, 8
        mov rbx, rdi
        mov r12, rsi
        call current_context
        mov rdi, rbx
        mov rsi, r12
        mov rdx, rax
        call compare_in
        add rsp, 8
        pop r12
        pop rbx
        ret
        .balign 16
by_hand_compare_jumping:
        push rbx
        push r12
        sub rsp, 8
        mov rbx, rdi
        mov r12, rsi
        call current_context
        mov rdi, rbx
        mov rsi, r12
        mov rdx, rax
        add rsp, 8
        pop r12
        pop rbx
        jmp compare_in
        .balign 16
by_hand_floats_first:
        sub rsp, 8
        movsd [rsp], xmm7
        movss xmm8, [rsp+16]
        movaps xmm7, xmm6
        movaps xmm6, xmm5
        movaps xmm5, xmm4
        movaps xmm4, xmm3
        movaps xmm3, xmm2
        movaps xmm2, xmm1
        movaps xmm1, xmm0
        movaps xmm0, xmm8
        call integers_first
        add rsp, 8
        ret
        .balign 16
by_hand_call_on_stack:
        push rbp
        mov rbp, rsp
        and rdi, -16
        mov rsp, rdi
        mov rdi, rdx
        call rsi
        leave
        ret
        .section .note.GNU-stack,"",%progbits
""",
    "linux/arm64": """
        .text
        .globl by_hand_compare, by_hand_compare_jumping, by_hand_floats_first, by_hand_call_on_stack
        .balign 16
by_hand_compare:
        stp x29, x30, [sp, #-32]!
        mov x29, sp
        stp x0, x1, [sp, #16]
        bl current_context
        mov x2, x0
        ldp x0, x1, [sp, #16]
        bl compare_in
        ldp x29, x30, [sp], #32
        ret
        .balign 16
by_hand_compare_jumping:
        stp x29, x30, [sp, #-32]!
        mov x29, sp
        stp x0, x1, [sp, #16]
        bl current_context
        mov x2, x0
        ldp x0, x1, [sp, #16]
        ldp x29, x30, [sp], #32
        b compare_in
        .balign 16
by_hand_floats_first:
        sub sp, sp, #32
        stp x29, x30, [sp, #16]
        add x29, sp, #16
        ldr s16, [sp, #32]
        str d7, [sp]
        fmov d7, d6
        fmov d6, d5
        fmov d5, d4
        fmov d4, d3
        fmov d3, d2
        fmov d2, d1
        fmov d1, d0
        fmov s0, s16
        bl integers_first
        ldp x29, x30, [sp, #16]
        add sp, sp, #32
        ret
        .balign 16
by_hand_call_on_stack:
        stp x29, x30, [sp, #-16]!
        mov x29, sp
        and x9, x0, #-16
        mov sp, x9
        mov x0, x2
        blr x1
        mov sp, x29
        ldp x29, x30, [sp], #16
        ret
        .section .note.GNU-stack,"",%progbits
""",
}

# Code by hand; example, trampoline; text of it and what stands there instead; what it is.
CASES = (
    ("compare", "callback_with_context", "compare", "", "", "a callback: two calls"),
    (
        "compare_jumping",
        "callback_with_context",
        "compare",
        "return call compare_in",
        "jump compare_in",
        "a callback: a call and a jump",
    ),
    ("floats_first", "float_arguments", "floats_first", "", "", "a callback: fourteen arguments moved"),
    ("call_on_stack", "call_on_stack", "call_on_stack", "", "", "a call on another stack, and back"),
)


def main() -> None:
    try:
        host = host_target()
    except LoadError as error:
        print(f"skipped, {error}")
        return
    if host.name not in ASSEMBLY:
        print(f"skipped, there is no code by hand for {host.name}")
        return
    with tempfile.TemporaryDirectory() as folder:
        library = built(Path(folder), ASSEMBLY[host.name])
    print(f"{'':38} {'ours, ns':>9} {'by hand, ns':>12} {'ratio':>6}")
    callees = {name: getattr(library, name) for name in ("current_context", "compare_in", "integers_first")}
    for by_hand, example, name, old, new, what in CASES:
        text = (ROOT / "examples" / "c" / f"{example}.tramp").read_text("utf-8")
        assert old in text
        artifact = compile_text(text.replace(old, new) if old else text, host)[name]
        wanted = {relocation.symbol for relocation in artifact.relocations}
        theirs = ctypes.cast(getattr(library, f"by_hand_{by_hand}"), ctypes.c_void_p).value
        assert theirs is not None
        with artifact.load({callee: callees[callee] for callee in wanted}) as loaded:
            ours, other = measured(library, getattr(library, f"time_{name}"), loaded.address, theirs)
        print(f"{what:38} {ours:9.2f} {other:12.2f} {ours / other:6.2f}")


def built(folder: Path, assembly: str) -> ctypes.CDLL:
    """The driver and the code by hand as a shared library. Between the two there is no table of addresses."""
    (folder / "driver.c").write_text(C)
    (folder / "by_hand.s").write_text(assembly)
    command = ["gcc", "-O2", "-shared", "-fPIC", "-Wl,-Bsymbolic", "-o", "native.so", "driver.c", "by_hand.s"]
    subprocess.run(command, check=True, cwd=folder, timeout=120)
    return ctypes.CDLL(str(folder / "native.so"))


def measured(
    library: ctypes.CDLL, driver: Callable[[ctypes.c_void_p, ctypes.c_long], int], ours: int, theirs: int
) -> tuple[float, float]:
    """Nanoseconds of a call, of ours and of theirs. Both have to do the same."""
    driver.restype = ctypes.c_int64  # type: ignore[attr-defined]  # a ctypes function
    outcome = ctypes.c_uint64.in_dll(library, "outcome")
    outcomes = []
    for address in (ours, theirs):
        outcome.value = 0
        driver(ctypes.c_void_p(address), ctypes.c_long(1000))
        outcomes.append(outcome.value)
    assert outcomes[0] == outcomes[1], outcomes
    count = 1000
    while driver(ctypes.c_void_p(theirs), ctypes.c_long(count)) < BATCH:
        count *= 2
    times: dict[int, list[float]] = {ours: [], theirs: []}
    for _ in range(BATCHES):
        for address, measurements in times.items():
            measurements.append(driver(ctypes.c_void_p(address), ctypes.c_long(count)) / count)
    return statistics.median(times[ours]), statistics.median(times[theirs])


if __name__ == "__main__":
    main()
