"""Into C: trampolines in programs of the cross gcc, linked in each way there is, run natively or under qemu-user.

Two programs are run in each way. In one, C is on both sides and moves arguments of every kind (that of
tests/test_real_compilers.py). In the other, assembly calls each trampoline with sentinels in every register that it
may expect back, and the callee overwrites all that it may (`hostile`); a variable belongs to the callee's module. On
arm, both are written in A32 and again in Thumb. The objects are written by GNU as, and again by clang. Linkers'
warnings are errors, and so are text relocations.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import test_real_compilers as arguments_of_every_kind
from cross import MACHINES

from tests.outside.hostile import FLOATS_IN, FLOATS_OUT, RESULT, SIDES, SIZE, WORDS, callee, caller
from tests.outside.options import add_targets
from tests.outside.records import Cell
from trampoline_dsl import find_target
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.target import Linkage

TIMEOUT = 120.0  # seconds, of one program; machines that are emulated on a busy host are slow
CLANG = "clang-14"

SOURCE = """
extern hostile(where: ptr, x: uptr, y: uptr) -> uptr using c
extern counter: uptr

trampoline direct(where: ptr, a: uptr, b: uptr) -> uptr using c {
    counter = counter + 1
    let r = call hostile(where, b, a)
    counter = counter + a
    return r + b
}

trampoline through(f: ptr, where: ptr, a: uptr) -> uptr using c {
    let r = call f(where, a, a + 1) using c -> uptr
    counter = counter + a
    return r + a
}

trampoline on_another_stack(where: ptr, a: uptr, top: ptr) -> uptr using c {
    let result = a
    on stack top {
        let r = call hostile(where, a, result + 5)
        result = r
    }
    counter = counter + a
    return result + a
}

trampoline twice(where: ptr, a: uptr, b: uptr) -> uptr using c {
    let first = call direct(where, a + 1, b)
    let second = call direct(where, a, first)
    counter = counter - a
    return second - b
}

# Where a jump out of a module would leave its table of contents behind, there is none in position-independent code.
when not ppc64, ppc64le {
    trampoline leave(where: ptr, a: uptr, b: uptr) -> uptr using c { jump hostile(where, b, a) }
}
"""

PROGRAM = f"""
#include <stdio.h>
#include <string.h>
typedef unsigned long word;
typedef word function(void *, word, word);
enum {{ {", ".join(f"at_{name} = {index}" for name, index in WORDS.items())} }};
static union {{ word w[{SIZE} / sizeof(word)]; unsigned char bytes[{SIZE}]; }} record __attribute__((aligned(64)));
static char stack[65536] __attribute__((aligned(64)));
extern word counter;
extern void probe(void *);
extern word hostile(void *, word, word);
extern function direct, on_another_stack, twice, leave;
extern word through(void *, void *, word);
static const word masks[] = {{ MASKS }};
#define INTEGERS (sizeof masks / sizeof *masks)
#define R ((word) {RESULT:#x})
static int wrong;
#define CHECK(x) do {{ if (!(x)) {{ printf("%s, pattern %d: %s\\n", name, pattern, #x); wrong = 1; }} }} while (0)

static void run(const char *name, int pattern, void *f, word a0, word a1, word a2, word result, word x, word y,
                word count)
{{
    static unsigned state = 1;
    memset(&record, 0, sizeof record);
    for (unsigned i = 0; i < INTEGERS; i++) {{
        state = state * 1103515245 + 12345;
        record.w[at_integers_in + i] = pattern == 0 ? ~(word) 0 : pattern == 1 ? 0 : (word) state * (word) 2654435769u;
    }}
    for (unsigned i = 0; i < 8 * FLOATS; i++) {{
        state = state * 1103515245 + 12345;
        record.bytes[{FLOATS_IN} + i] = pattern == 0 ? 0x3f : pattern == 1 ? 0 : state >> 16;
    }}
    record.w[at_function] = (word) f;
    record.w[at_arguments] = a0, record.w[at_arguments + 1] = a1, record.w[at_arguments + 2] = a2;
    word before = counter;
    probe(&record);
    CHECK(record.w[at_result] == result);
    CHECK(record.w[at_seen_x] == x);
    CHECK(record.w[at_seen_y] == y);
    CHECK((record.w[at_seen_sp] + PUSHED) % ALIGNMENT == 0);
    CHECK((record.w[at_seen_sp] - (word) stack < sizeof stack) == (f == (void *) on_another_stack));
    CHECK(record.w[at_sp_before] == record.w[at_sp_after]);
    CHECK(counter - before == count);
    for (unsigned i = 0; i < INTEGERS; i++)
        if ((record.w[at_integers_in + i] ^ record.w[at_integers_out + i]) & masks[i]) {{
            printf("%s, pattern %d: register %u of those kept is lost\\n", name, pattern, i);
            wrong = 1;
        }}
    for (unsigned i = 0; i < FLOATS; i++)
        CHECK(memcmp(record.bytes + {FLOATS_IN} + 8 * i, record.bytes + {FLOATS_OUT} + 8 * i, 8) == 0);
}}

int main(void)
{{
    word where = (word) &record, top = (word) (stack + sizeof stack - 64);
    for (int i = 0; i < 3; i++) {{
        word a = 1000 + i, b = 77 - i;
        run("direct", i, (void *) direct, where, a, b, R + b, b, a, 1 + a);
        run("through", i, (void *) through, (word) (void *) hostile, where, a, R + a, a, a + 1, a);
        run("on_another_stack", i, (void *) on_another_stack, where, a, top, R + a, a, a + 5, a);
        run("twice", i, (void *) twice, where, a, b, R + (R + b) - b, R + b, a, 3 + a);
#ifdef LEAVE
        run("leave", i, (void *) leave, where, a, b, R, b, a, 0);
#endif
    }}
    return wrong;
}}
"""

VARIABLE = "unsigned long counter = 7;\n"


@dataclass(frozen=True)
class Way:
    """How a program is linked: what the trampolines are part of, and what the callee is part of."""

    name: str
    linkage: Linkage
    options: Sequence[str]  # of the C compiler
    trampolines: str = "program"
    callee: str = "program"


NO_PIE = Way("no-PIE", "static", ("-no-pie", "-fno-pie"))
PIE = Way("PIE", "pic", ("-pie", "-fPIE"))
SHARED = Way("shared library", "pic", ("-pie", "-fPIE"), "library")
SHARED_TWICE = Way("callee in another shared library", "pic", ("-pie", "-fPIE"), "library", "callee")
WAYS = (NO_PIE, PIE, SHARED, SHARED_TWICE)


class Failure(Exception):
    """Something was refused, or the program found something wrong; says what."""


def run(target: str, way: Way, folder: Path, *, clang: bool = False, thumb: bool = False, text: str = "") -> None:
    """Build and run the program with the hostile callee. Raises Failure. `text`: what is assembled for the
    trampolines, if not what they are compiled to."""
    side = SIDES[target]
    architecture = find_target(target).linked(way.linkage).architecture
    build = Build(target, way, folder, clang)
    build.assemble("trampolines.o", text or compiled_text(SOURCE, target, way.linkage), clang=clang)
    build.assemble("probe.o", caller(target, architecture, thumb=thumb))
    other = way.trampolines != way.callee or way.callee != "program"
    build.assemble("hostile.o", callee(target, architecture, other_module=other, thumb=thumb))
    masks = [f"~({side.special[n - len(side.kept)][2]:#x}ul ^ ~0ul)" if n >= len(side.kept) else "~0ul"
             for n in range(len(side.kept) + len(side.special))]  # fmt: skip
    facts = {
        "MASKS": ", ".join(masks),
        "FLOATS": len(side.kept_floats),
        "PUSHED": side.pushed,
        "ALIGNMENT": side.alignment,
    }
    defined = [f"-D{name}={value}" for name, value in facts.items()]
    defined += [] if "ppc64" in target else ["-DLEAVE"]
    thumbs = ["-mthumb"] if thumb else ["-marm"] if target == "linux/arm" else []
    build.compile("program.c", PROGRAM, *defined, *thumbs)
    build.compile("variable.c", VARIABLE)
    build.link(
        {"library": ["trampolines.o"], "callee": ["hostile.o", "variable.o"], "program": ["program.o", "probe.o"]}
    )
    build.run()


def run_arguments(target: str, way: Way, folder: Path, *, clang: bool = False, level: str = "-O2") -> None:
    """Build and run the program whose C code is on both sides. Raises Failure."""
    build = Build(target, way, folder, clang)
    text = compiled_text(arguments_of_every_kind.SOURCE, target, way.linkage)
    build.assemble("trampolines.o", text, clang=clang)
    expected = repr(arguments_of_every_kind.expected())
    build.compile("program.c", arguments_of_every_kind.PROGRAM.replace("EXPECTED", expected), level)
    build.link({"library": ["trampolines.o"], "callee": [], "program": ["program.o"]})
    build.run()


def compiled_text(source: str, target: str, linkage: Linkage) -> str:
    """Trampolines as GNU as takes them."""
    chosen = find_target(target).linked(linkage)
    return compile_source(Source("trampolines.tramp", source), [chosen])[chosen.name].text


@dataclass(frozen=True)
class Build:
    """A program for a target, made and run in a folder. All of it raises Failure."""

    target: str
    way: Way
    folder: Path
    clang: bool

    def assemble(self, name: str, text: str, *, clang: bool = False) -> None:
        architecture = find_target(self.target).architecture
        command = list(architecture.gnu_as)
        if clang:
            command = [CLANG, *architecture.clang, "-c", "-x", "assembler"]
        self.command([*command, "-o", name, "-"], text)

    def compile(self, name: str, text: str, *options: str) -> None:
        (self.folder / name).write_text(text, "utf-8")
        compiler = MACHINES[self.target].compiler
        pic = ["-fPIC"] if name == "variable.c" and self.way.callee != "program" else self.way.options[1:]
        level = [] if any(option.startswith("-O") for option in options) else ["-O2"]
        self.command([compiler, "-w", *level, *pic, *options, "-c", name])

    def link(self, parts: dict[str, list[str]]) -> None:
        """`parts`: the objects of each part; those that are no library's are the program's."""
        machine = MACHINES[self.target]
        compiler = [machine.compiler, *machine.linking]
        strict = ["-Wl,--fatal-warnings", "-Wl,-z,text", "-Wl,-z,noexecstack", f"-Wl,-rpath,{self.folder}"]
        libraries: list[str] = []
        program: list[str] = []
        for part, objects in parts.items():
            if part == "program" or part not in (self.way.trampolines, self.way.callee):
                program += objects
            elif objects:
                name = f"lib{part}.so"
                self.command([*compiler, "-shared", *strict, "-o", name, *objects])
                libraries.append(name)
        exported = ["-Wl,--export-dynamic"] if libraries else []
        unresolved = ["-Wl,--no-as-needed"]
        self.command(
            [*compiler, self.way.options[0], *strict, *exported, *unresolved, "-o", "program", *program, *libraries]
        )

    def run(self) -> None:
        done = self._run([*MACHINES[self.target].runner, str(self.folder / "program")])
        if done.returncode:
            said = (done.stdout + done.stderr).strip() or f"exit status {done.returncode}"
            raise Failure(f"{self.way.name}: {said}")

    def command(self, command: Sequence[str], text: str = "") -> None:
        done = self._run(command, text)
        if done.returncode:
            raise Failure(f"{self.way.name}: {command[0]}: {done.stderr.strip()}")

    def _run(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        if shutil.which(command[0]) is None:
            raise Failure(f"{command[0]} is not installed")
        try:
            return subprocess.run(
                command, cwd=self.folder, input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.way.name}: {command[0]} does not end within {TIMEOUT:g} seconds") from None


# ------------------------------------------------------------------------------------------------------------- the part


def options(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, MACHINES)


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    for target in chosen.target or MACHINES:
        yield _cell(target, "C (no-PIE)", [NO_PIE], clang=False)
        yield _cell(target, "C (PIE, shared)", [PIE, SHARED, SHARED_TWICE], clang=False)
        yield _cell(target, "clang", WAYS, clang=True)


def _cell(target: str, column: str, ways: Iterable[Way], *, clang: bool) -> Cell:
    count = 0
    for way in ways:
        for thumb in (False, True) if target == "linux/arm" else (False,):
            try:
                with tempfile.TemporaryDirectory(prefix="trampoline-c-") as name:
                    run(target, way, Path(name), clang=clang, thumb=thumb)
                count += 1
            except Failure as failure:
                return Cell(target, column, "failed", f"{'Thumb, ' if thumb else ''}{failure}")
        try:
            with tempfile.TemporaryDirectory(prefix="trampoline-c-") as name:
                if way is not SHARED_TWICE:
                    run_arguments(target, way, Path(name), clang=clang)
                    count += 1
        except Failure as failure:
            return Cell(target, column, "failed", str(failure))
    return Cell(target, column, "held", f"{count} programs")
