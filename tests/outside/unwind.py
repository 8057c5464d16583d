"""Unwinding: libgcc's unwinder finds its way through frames of trampolines, natively or under qemu-user.

A C function that is called through trampolines asks `_Unwind_Backtrace`, by which C++ throws and which glibc's
`backtrace` calls, who called it: each caller is compared by its name, across a switch to another stack as well. On
arm this unwinder reads tables of another kind, which are not made.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.outside.c import MACHINES, NO_PIE, PIE, SHARED, Failure, Way, _Build, compiled_text
from tests.outside.records import Cell

SOURCE = """
extern inner(x: uptr) -> uptr using c

trampoline direct(x: uptr) -> uptr using c {
    let r = call inner(x + 1)
    return r + 1
}

trampoline on_another_stack(x: uptr, top: ptr) -> uptr using c {
    let r: uptr = 0
    on stack top & -16 {
        r = call inner(x + 3)
    }
    return r + 1
}

trampoline large(x: uptr) -> uptr using c {
    frame { room: small at 65000 }
    room.a = x
    let r = call inner(x + 4)
    return r + room.a - x + 1
}
struct small { a: uptr }

trampoline through(f: ptr, x: uptr) -> uptr using c {
    let r = call f(x) using c -> uptr
    return r + 1
}
"""

# In position-dependent code alone: Go's functions have no global offset table.
GO = """
# What its callee keeps is nothing: all that a caller wants back is saved.
trampoline saves_all(x: uptr) -> uptr using c {
    let r = call changes_all(x + 2)
    return r + 1
}

trampoline changes_all(x: uptr) -> uptr using go0 {
    let r: uptr = 0
    on stack sp & -16 {
        r = call inner(x)
    }
    return r
}
"""

PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <unwind.h>

typedef uintptr_t word;
word direct(word), saves_all(word), changes_all(word), on_another_stack(word, char *), large(word);
word through(word (*)(word), word), inner(word);
int main(void);

#if defined __powerpc64__ && _CALL_ELF != 2
#define CODE(function) (*(void **)(void *)(function)) /* a function's address is that of its descriptor */
#else
#define CODE(function) ((void *)(function))
#endif

static void *found[32];
static int count;
static char stack[1 << 16] __attribute__((aligned(16)));

static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *unused)
{
    void *pc = (void *)(_Unwind_GetIP(context) - 1);
    if (count < 32) found[count++] = _Unwind_FindEnclosingFunction(pc);
    return _URC_NO_REASON;
}

word __attribute__((noinline)) inner(word x)
{
    count = 0;
    _Unwind_Backtrace(note, 0);
    return x;
}

static word __attribute__((noinline)) again(word x) { return direct(x) + 1; }

#define EXPECT(call, result, ...)                                                                   \
    do {                                                                                            \
        void *expected[] = {CODE(inner), __VA_ARGS__, CODE(main)};                                  \
        word got = call;                                                                            \
        int n = sizeof expected / sizeof *expected;                                                 \
        if (got != (result)) printf("%s gives %lu\n", #call, (unsigned long)got), wrong = 1;         \
        for (int i = 0; i < n; i++)                                                                 \
            if (i >= count || found[i] != expected[i]) {                                            \
                printf("%s: of %d callers, number %d is %p and not %p\n", #call, count, i,          \
                       i < count ? found[i] : 0, expected[i]);                                      \
                wrong = 1;                                                                          \
                break;                                                                              \
            }                                                                                       \
    } while (0)

int __attribute__((noinline)) main(void)
{
    int wrong = 0;
    EXPECT(direct(1), 3, CODE(direct));
#ifdef GO
    EXPECT(saves_all(1), 4, (void *)changes_all, CODE(saves_all)); /* Go has no descriptors */
#endif
    EXPECT(on_another_stack(1, stack + sizeof stack), 5, CODE(on_another_stack));
    EXPECT(on_another_stack(1, stack + sizeof stack - 8), 5, CODE(on_another_stack));
    EXPECT(large(1), 6, CODE(large));
    EXPECT(through(again, 1), 5, CODE(direct), CODE(again), CODE(through));
    return wrong;
}
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", action="append", choices=list(MACHINES), help="may be repeated (default: all)")


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    for target in chosen.target or MACHINES:
        yield cell(target)


def cell(target: str) -> Cell:
    column = "libgcc's unwinder"
    if target == "linux/arm":
        return Cell(target, column, "not applicable", "it reads .ARM.exidx, which is not made")
    ways = [(NO_PIE, False), (NO_PIE, True), (PIE, False), (SHARED, False)]
    try:
        for way, clang in ways:
            with tempfile.TemporaryDirectory(prefix="trampoline-unwind-") as name:
                run(target, way, Path(name), clang=clang)
    except Failure as failure:
        return Cell(target, column, "failed", str(failure))
    try:
        with tempfile.TemporaryDirectory(prefix="trampoline-unwind-") as name:
            run(target, NO_PIE, Path(name), clang=False, without=True)
    except Failure:
        return Cell(target, column, "held", f"{len(ways)} programs")
    return Cell(target, column, "failed", "it finds its way without the directives as well")


def run(target: str, way: Way, folder: Path, *, clang: bool, without: bool = False) -> None:
    """Build and run the program, without unwind information if so wanted. Raises Failure."""
    build = _Build(target, way, folder, clang)
    go = way.linkage == "static"
    text = compiled_text(SOURCE + GO * go, target, way.linkage)
    if without:
        text = "\n".join(line for line in text.splitlines() if ".cfi_" not in line)
    build.assemble("trampolines.o", text, clang=clang)
    build.compile(
        "program.c", PROGRAM, "-O2", "-fasynchronous-unwind-tables", "-fno-optimize-sibling-calls", *["-DGO"] * go
    )
    build.link({"library": ["trampolines.o"], "callee": [], "program": ["program.o"]})
    build.run(MACHINES[target])
