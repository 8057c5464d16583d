"""Unwinding: libgcc's unwinder and gdb find their way through frames of trampolines, natively or under qemu-user.

A C function that is called through trampolines asks `_Unwind_Backtrace`, by which C++ throws and which glibc's
`backtrace` calls, who called it: each caller is compared by its name, across switches of stacks as well. It reads call
frame information, and on arm .ARM.exidx. gdb looks for the way to main before every instruction of the trampolines.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cross import MACHINES

from tests.outside.c import NO_PIE, PIE, SHARED, Build, Failure, Way, compiled_text
from tests.outside.options import add_targets
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

# Each call has another way to the caller.
trampoline stacks(x: uptr, top: ptr) -> uptr using c {
    let r = call inner(x + 5)
    on stack sp & -64 {
        r = call inner(r + 1)
        on stack top & -16 {
            r = call inner(r + 1)
        }
        r = call inner(r + 1)
    }
    r = call inner(r + 1)
    return r + 1
}

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
word stacks(word, char *), through(word (*)(word), word), inner(word);
int main(void);

#if defined __powerpc64__ && _CALL_ELF != 2
#define CODE(function) (*(void **)(void *)(function)) /* a function's address is that of its descriptor */
#else
#define CODE(function) ((void *)((word)(function) & FUNCTION))
#endif
#define FUNCTION (~(word)0)

static void *found[32];
static int count, calls;
static char stack[1 << 16] __attribute__((aligned(16)));

#ifdef __ARM_EABI_UNWINDER__
#undef FUNCTION
#define FUNCTION (~(word)1) /* without the bit of Thumb code */
static word again(word);
static void *_Unwind_FindEnclosingFunction(void *pc) /* which is not there: of those that may call inner */
{
    void *known[] = {CODE(direct), CODE(on_another_stack), CODE(large), CODE(stacks), CODE(through), CODE(again),
#ifdef GO
                     CODE(saves_all), CODE(changes_all),
#endif
                     CODE(inner), CODE(main)};
    void *nearest = 0;
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] <= pc && known[i] > nearest) nearest = known[i];
    return nearest;
}
#endif

static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *unused)
{
    void *pc = (void *)(_Unwind_GetIP(context) - 1);
    if (count < 32) found[count++] = _Unwind_FindEnclosingFunction(pc);
    return _URC_NO_REASON;
}

word __attribute__((noinline)) inner(word x)
{
    if (calls-- == 0) {
        count = 0;
        _Unwind_Backtrace(note, 0);
    }
    return x;
}

static word __attribute__((noinline)) again(word x) { return direct(x) + 1; }

#define EXPECT(call, result, ...)                                                                   \
    do {                                                                                            \
        void *expected[] = {CODE(inner), __VA_ARGS__, CODE(main)};                                  \
        if (calls < 0) calls = 0;                                                                   \
        count = 0;                                                                                  \
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
    for (int i = 0; i < 5; i++) {
        calls = i;
        EXPECT(stacks(1, stack + sizeof stack), 11, CODE(stacks));
    }
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

# For gdb's own Python. Where control enters behind a function's beginning, $entry says how far.
WALK = r"""
import gdb

CHAINS = [["saves_all", "main"], ["changes_all", "saves_all", "main"]]
CHAINS += [[name, "main"] for name in ("direct", "on_another_stack", "large")]

def chain():
    frame, names = gdb.newest_frame(), []
    while frame is not None:
        names.append((frame.name() or "?").lstrip("."))
        frame = frame.older()
    return names

def walk():
    steps = 0
    for name in ("direct", "saves_all", "on_another_stack", "large"):
        gdb.Breakpoint(f"*({name} + $entry)", temporary=True)
        gdb.execute("continue", to_string=True)
        names = chain()
        while names[0] != "main":
            if names[0] in {chain[0] for chain in CHAINS}:
                steps += 1
                if names not in CHAINS:
                    place = gdb.execute("x/i $pc", to_string=True).strip()
                    print("wrong: at", place, "the callers are", *names)
                    return
                gdb.execute("stepi", to_string=True)
            else:
                gdb.execute("finish", to_string=True)
            names = chain()
    print("walked:", steps)

walk()
"""
GDB = "gdb-multiarch"
# The directives of what libgcc's unwinder reads, but on arm, and there.
READ = (r"\t\.cfi_", r"\t\.(fnstart|fnend|save|vsave|pad|unwind_raw|cantunwind)\b")


def options(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, MACHINES)


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    for target in chosen.target or MACHINES:
        yield cell(target)
        yield by_gdb(target)


def cell(target: str) -> Cell:
    column = "libgcc's unwinder"
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


def by_gdb(target: str) -> Cell:
    """gdb walks from before every instruction of trampolines that call, natively or through qemu-user's gdb server."""
    column = "gdb"
    try:
        with tempfile.TemporaryDirectory(prefix="trampoline-unwind-") as name:
            folder = Path(name)
            made(target, NO_PIE, folder, clang=False)
            (folder / "walk.py").write_text(WALK, "utf-8")
            said = _debugged(target, folder)
    except Failure as failure:
        return Cell(target, column, "failed", str(failure))
    walked = re.search(r"^walked: (\d+)$", said, re.MULTILINE)
    if walked is None:
        wrong = re.search(r"^wrong: (.*)$", said, re.MULTILINE)
        return Cell(target, column, "failed", wrong[1] if wrong else said.strip()[-300:])
    return Cell(target, column, "held", f"{walked[1]} instructions")


def _debugged(target: str, folder: Path) -> str:
    """What gdb prints. Raises Failure."""
    runner = MACHINES[target].runner
    if shutil.which(GDB) is None:
        raise Failure(f"{GDB} is not installed")
    program, socket = str(folder / "program"), folder / "socket"
    begin = ["break main", "run"]
    server = None
    if runner:
        command = [runner[0], "-g", str(socket), *runner[1:], program]
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        begin = [f"set sysroot {runner[-1]}", f"target remote {socket}"]
    # 64-Bit ELF V2 ABI, 3.4.1: callers of the same module enter behind what sets the table of contents up.
    entry = 8 if target == "linux/ppc64le" else 0
    commands = ["set confirm off", "set pagination off", *begin, f"set $entry = {entry}", f"source {folder}/walk.py"]
    words = [word for command in (*commands, "kill") for word in ("-ex", command)]
    try:
        for _ in range(100):
            if server is None or socket.exists():
                break
            time.sleep(0.1)
        done = subprocess.run(
            [GDB, "-q", "-nx", "-batch", *words, program], capture_output=True, text=True, check=False, timeout=120
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{GDB} does not end within 120 seconds") from None
    finally:
        if server is not None:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    return done.stdout + done.stderr


def run(target: str, way: Way, folder: Path, *, clang: bool, without: bool = False) -> None:
    """Build and run the program, without unwind information if so wanted. Raises Failure."""
    made(target, way, folder, clang=clang, without=without).run()


def made(target: str, way: Way, folder: Path, *, clang: bool, without: bool = False) -> Build:
    """The program, built. Raises Failure."""
    build = Build(target, way, folder, clang)
    go = way.linkage == "static"
    text = compiled_text(SOURCE + GO * go, target, way.linkage)
    if without:
        text = "\n".join(line for line in text.splitlines() if not re.match(READ[target == "linux/arm"], line))
    build.assemble("trampolines.o", text, clang=clang)
    build.compile(
        "program.c", PROGRAM, "-O2", "-fasynchronous-unwind-tables", "-fno-optimize-sibling-calls", *["-DGO"] * go
    )
    build.link({"library": ["trampolines.o"], "callee": [], "program": ["program.o"]})
    return build
