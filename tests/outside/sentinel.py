"""Does crosscall2 give back every register that C's convention keeps?

A Go program with two assembly functions: `probe`, for the C compiler, fills every register that a C function gives
back with a value of its own, calls crosscall2 and stores what is there afterwards; `Overwrite`, for Go's assembler, is
called by the Go function at the other end and puts rubbish into every register that a Go function may change.

Beside the crosscall2 that is linked, texts of it that lack one line each can be called, to see whether the loss is
noticed.

The registers are those of the conventions' documents, written down here once more on purpose: i386 and AMD64 psABI,
AAPCS32, AAPCS64, MIPS o32 and n64, ELFv2, the ELF ABI supplement for s390x.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.outside import go_overlay
from tests.outside.toolchain import Toolchain

SLOT = 16  # bytes between two registers in memory


@dataclass(frozen=True)
class Kind:
    """Registers that are loaded and stored alike: {r} the register, {o} an offset, {b} a base register."""

    registers: tuple[str, ...]
    load: str
    store: str
    bytes: int


@dataclass(frozen=True)
class Probe:
    """One machine's. {words} in the texts are filled in by `source`."""

    kinds: tuple[Kind, ...]
    enter: str  # makes a frame of {frame} bytes; keeps the return address
    arguments: str  # the third (values) to base {values}, the fourth (results) into the frame at {results}
    call: str  # crosscall2(fn, 0x5a, 0x33, 0x77), through the pointer that is the first argument
    after: str  # base {after} := what is in the frame at {results}
    leave: str
    sp: str
    values: str  # base register for loads before the call
    after_base: str
    head: str = ""
    area: int = 0  # bytes at sp that are the callee's
    # For Go's assembler: rubbish into what a Go function may change. `noise` is 16 bytes of it.
    rubbish: str = ""


def _numbered(prefix: str, first: int, last: int, step: int = 1) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(first, last + 1, step))


def _each(line: str, registers: Sequence[str]) -> str:
    return "\n".join(line.format(r=register) for register in registers)


_INTEL = ".intel_syntax noprefix"
_X = _numbered("X", 0, 15)

_MIPS_RUBBISH = _numbered("R", 2, 22) + _numbered("R", 24, 25)

PROBES = {
    "amd64": Probe(
        (Kind(("rbx", "rbp", "r12", "r13", "r14", "r15"), "mov {r}, [{b}+{o}]", "mov [{b}+{o}], {r}", 8),),
        "sub rsp, {frame}+8",
        "mov [rsp+{results}], rcx",
        "mov rax, rdi\nmov rdi, rsi\nmov esi, 0x5a\nmov edx, 0x33\nmov ecx, 0x77\ncall rax",
        "mov rcx, [rsp+{results}]",
        "add rsp, {frame}+8\nret",
        "rsp",
        "rdx",
        "rcx",
        head=_INTEL,
        rubbish="MOVQ $0xa5a5a5a5a5a5a5a5, AX\n"
        + _each("MOVQ AX, {r}", ["BX", "CX", "DX", "SI", "DI", *_numbered("R", 8, 15), *_X]),
    ),
    "386": Probe(
        (Kind(("ebx", "ebp", "esi", "edi"), "mov {r}, [{b}+{o}]", "mov [{b}+{o}], {r}", 4),),
        "sub esp, {frame}+12",
        "mov edx, [esp+{frame}+12+12]\nmov ecx, [esp+{frame}+12+16]\nmov [esp+{results}], ecx",
        "mov eax, [esp+{frame}+12+8]\nmov [esp], eax\nmov dword ptr [esp+4], 0x5a\nmov dword ptr [esp+8], 0x33\n"
        "mov dword ptr [esp+12], 0x77\nmov eax, [esp+{frame}+12+4]\ncall eax",
        "mov ecx, [esp+{results}]",
        "add esp, {frame}+12\nret",
        "esp",
        "edx",
        "ecx",
        head=_INTEL,
        area=16,
        rubbish="MOVL $0xa5a5a5a5, AX\n"
        + _each("MOVL AX, {r}", ["BX", "CX", "DX", "SI", "DI", "BP"])
        + "\n"
        + _each("MOVL AX, {r}", _X[:8]),
    ),
    "arm": Probe(
        (
            Kind(_numbered("r", 4, 11), "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]", 4),
            Kind(_numbered("d", 8, 15), "vldr {r}, [{b}, #{o}]", "vstr {r}, [{b}, #{o}]", 8),
        ),
        "push {{r3, lr}}\nsub sp, sp, #{frame}",
        "str r3, [sp, #{results}]",
        "mov r12, r0\nmov r0, r1\nmov r1, #0x5a\nmov r2, #0x33\nmov r3, #0x77\nblx r12",
        "ldr r3, [sp, #{results}]",
        "add sp, sp, #{frame}\npop {{r3, pc}}",
        "sp",
        "r2",
        "r3",
        head=".arch armv7-a\n.fpu vfpv3\n.arm",
        rubbish="MOVW $noise<>(SB), R12\n"
        + _each("MOVD (R12), {r}", _numbered("F", 0, 15))
        + "\nMOVW $0xa5a5a5a5, R0\n"
        + _each("MOVW R0, {r}", [*_numbered("R", 1, 9), "R11", "R12"]),
    ),
    "arm64": Probe(
        (
            Kind(_numbered("x", 19, 29), "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]", 8),
            Kind(_numbered("d", 8, 15), "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]", 8),
        ),
        "sub sp, sp, #{frame}\nstr x30, [sp]",
        "str x3, [sp, #{results}]",
        "mov x16, x0\nmov x0, x1\nmov x1, #0x5a\nmov x2, #0x33\nmov x3, #0x77\nblr x16",
        "ldr x3, [sp, #{results}]",
        "ldr x30, [sp]\nadd sp, sp, #{frame}\nret",
        "sp",
        "x2",
        "x3",
        area=16,
        rubbish="MOVD $0xa5a5a5a5a5a5a5a5, R0\n"
        + _each("MOVD R0, {r}", [*_numbered("R", 1, 17), *_numbered("R", 19, 26)])
        + "\n"
        + _each("FMOVD R0, {r}", _numbered("F", 0, 31)),
    ),
    "ppc64le": Probe(
        (
            Kind(("2", *_numbered("", 14, 31)), "ld {r}, {o}({b})", "std {r}, {o}({b})", 8),
            Kind(_numbered("", 14, 31), "lfd {r}, {o}({b})", "stfd {r}, {o}({b})", 8),
            Kind(_numbered("", 20, 31), "li 11, {o}\nlvx {r}, {b}, 11", "li 11, {o}\nstvx {r}, {b}, 11", 16),
            # cr2 to cr4; the other fields are nobody's.
            Kind(
                ("cr",),
                "lwz 11, {o}({b})\nmtcrf 0x38, 11",
                "mfcr 11\nrlwinm 11, 11, 0, 8, 19\nstw 11, {o}({b})",
                4,
            ),
        ),
        "mflr 0\nstd 0, 16(1)\nstdu 1, -{frame}(1)",
        "std 6, {results}(1)",
        "mr 12, 3\nmr 3, 4\nli 4, 0x5a\nmr 8, 5\nli 5, 0x33\nli 6, 0x77\nli 0, 0x66\nmtctr 12\nbctrl",
        "ld 6, {results}(1)",
        "addi 1, 1, {frame}\nld 0, 16(1)\nmtlr 0\nblr",
        "1",
        "5",
        "6",
        area=96,
        head=".abiversion 2",
        rubbish="MOVD $noise<>(SB), R3\n"
        + _each("FMOVD (R3), {r}", _numbered("F", 0, 31))
        + "\n"
        + _each("LXVD2X (R3)(R0), {r}", _numbered("VS", 32, 63))
        + "\nMOVD $-0x5a5a5a5a5a5a5a5b, R3\nMOVD R3, CTR\nMOVFL R3, $0xff\n"
        + _each("MOVD R3, {r}", ["R2", *_numbered("R", 4, 12), *_numbered("R", 14, 29), "R31"]),
    ),
    "s390x": Probe(
        (
            Kind(_numbered("%r", 6, 13), "lg {r}, {o}({b})", "stg {r}, {o}({b})", 8),
            Kind(_numbered("%f", 8, 15), "ld {r}, {o}({b})", "std {r}, {o}({b})", 8),
        ),
        "stg %r14, 112(%r15)\naghi %r15, -{frame}",
        "stg %r5, {results}(%r15)",
        "lgr %r1, %r2\nlgr %r2, %r3\nlghi %r3, 0x5a\nlghi %r4, 0x33\nlghi %r5, 0x77\nlghi %r0, 0x66\nbasr %r14, %r1",
        "lg %r5, {results}(%r15)",
        "aghi %r15, {frame}\nlg %r14, 112(%r15)\nbr %r14",
        "%r15",
        "%r4",
        "%r5",
        area=160,
        rubbish="MOVD $noise<>(SB), R1\n"
        + _each("FMOVD (R1), {r}", _numbered("F", 0, 15))
        + "\nMOVD $-0x5a5a5a5a5a5a5a5b, R1\n"
        + _each("MOVD R1, {r}", _numbered("R", 2, 12)),
    ),
}
_MIPS = Probe(
    (
        Kind((*_numbered("$", 16, 23), "$30"), "lw {r}, {o}({b})", "sw {r}, {o}({b})", 4),
        Kind(_numbered("$f", 20, 30, 2), "ldc1 {r}, {o}({b})", "sdc1 {r}, {o}({b})", 8),
    ),
    "addiu $29, $29, -{frame}\nsw $31, {link}($29)",
    "sw $7, {results}($29)",
    "move $25, $4\nmove $4, $5\nli $5, 0x5a\nli $6, 0x33\nli $7, 0x77\njalr $25",
    "lw $7, {results}($29)",
    "lw $31, {link}($29)\naddiu $29, $29, {frame}\njr $31",
    "$29",
    "$6",
    "$7",
    area=16,
    head=".set noat",
    rubbish="MOVW $noise<>(SB), R1\n"
    + _each("MOVD (R1), {r}", _numbered("F", 0, 30, 2))
    + "\nMOVW $0xa5a5a5a5, R1\n"
    + _each("MOVW R1, {r}", _MIPS_RUBBISH),
)
_MIPS64 = Probe(
    (
        Kind((*_numbered("$", 16, 23), "$28", "$30"), "ld {r}, {o}({b})", "sd {r}, {o}({b})", 8),
        Kind(_numbered("$f", 24, 31), "ldc1 {r}, {o}({b})", "sdc1 {r}, {o}({b})", 8),
    ),
    "daddiu $29, $29, -{frame}\nsd $31, {link}($29)",
    "sd $7, {results}($29)",
    "move $25, $4\nmove $4, $5\nli $5, 0x5a\nli $6, 0x33\nli $7, 0x77\njalr $25",
    "ld $7, {results}($29)",
    "ld $31, {link}($29)\ndaddiu $29, $29, {frame}\njr $31",
    "$29",
    "$6",
    "$7",
    head=".set noat",
    rubbish="MOVV $noise<>(SB), R1\n"
    + _each("MOVD (R1), {r}", _numbered("F", 0, 31))
    + "\nMOVV $-0x5a5a5a5a5a5a5a5b, R1\n"
    + _each("MOVV R1, {r}", _MIPS_RUBBISH),
)
PROBES.update({"mips": _MIPS, "mipsle": _MIPS, "mips64": _MIPS64, "mips64le": _MIPS64})


def registers(goarch: str) -> list[tuple[str, int]]:
    """What is looked at, by its number in the program's output, and its bytes."""
    names = []
    for place, kind in enumerate(PROBES[goarch].kinds):
        prefix = {"2": "r", "14": "f", "20": "v"}.get(kind.registers[0], "") if goarch == "ppc64le" else ""
        names += [(f"{prefix}{name}".replace("$", "").replace("%", ""), kind.bytes) for name in kind.registers]
        assert place < 4
    return names


def source(goarch: str) -> str:
    """The C compiler's assembly: void probe(crosscall2, fn, values, results)."""
    probe = PROBES[goarch]
    every = [(kind, register) for kind in probe.kinds for register in kind.registers]
    saves = -(-probe.area // SLOT) * SLOT
    results = saves + SLOT * len(every)
    words = {"results": results, "link": results + 8, "frame": -(-(results + 16) // SLOT) * SLOT}

    def all_of(what: str, base: str, begin: int) -> list[str]:
        lines = []
        for number, (kind, register) in enumerate(every):
            line = kind.load if what == "load" else kind.store
            lines.append(line.format(r=register, b=base, o=begin + SLOT * number))
        return lines

    lines = [
        probe.head,
        ".text",
        ".globl probe",
        ".balign 16",
        f".type probe, {'%' if goarch == 'arm' else '@'}function",
        "probe:",
        probe.enter.format(**words),
        *all_of("store", probe.sp, saves),
        probe.arguments.format(**words),
        *all_of("load", probe.values, 0),
        probe.call.format(**words),
        probe.after.format(**words),
        *all_of("store", probe.after_base, 0),
        *all_of("load", probe.sp, saves),
        probe.leave.format(**words),
        ".size probe, .-probe",
        f'.section .note.GNU-stack,"",{"%" if goarch == "arm" else "@"}progbits',
    ]
    return "\n".join(lines) + "\n"


_MAIN = """\
package main

/*
#include <stdint.h>
#include <stdlib.h>
void probe(uintptr_t crosscall2, uintptr_t fn, void *values, void *results);
void crosscall2(void);
static uintptr_t linked(void) { return (uintptr_t)&crosscall2; }

// Asked for the C part of a traceback: the context is what crosscall2 was called with.
struct question { uintptr_t context, signal, *pcs, room; };
static uintptr_t context;
static void traceback(struct question *asked) {
	if (asked->context) context = asked->context;
	if (asked->room) asked->pcs[0] = 0;
}
static void *traceback_address(void) { return traceback; }
static uintptr_t context_seen(void) { return context; }
"""
_MAIN_GO = """\
*/
import "C"

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"sentinel/hostile"
)

type register struct {
	name  string
	bytes int
}

var called int

//go:noinline
func deep(n int) int {
	var room [256]byte
	room[n%256] = 1
	if n == 0 {
		return int(room[0])
	}
	return deep(n-1) + int(room[n%256])
}

// callback is what crosscall2 calls: the stack grows and moves, it is scanned, and registers are overwritten.
func callback(a unsafe.Pointer) {
	zero := hostile.Zero()
	called++
	if zero != 0 {
		fmt.Printf("the register that is zero in Go is %#x\\n", zero)
		os.Exit(3)
	}
	if uintptr(a) != 0x5a {
		fmt.Printf("the argument is %#x\\n", uintptr(a))
		os.Exit(3)
	}
	if deep(100) == 0 {
		os.Exit(3)
	}
	runtime.Callers(0, make([]uintptr, 64))
	runtime.GC()
	hostile.Overwrite()
}

var fn = callback

func main() {
	runtime.SetCgoTraceback(0, C.traceback_address(), nil, nil)
	chosen, _ := strconv.Atoi(os.Args[1])
	crosscall2 := uintptr(C.linked())
	if chosen >= 0 {
		crosscall2 = (*[1 << 10]uintptr)(unsafe.Pointer(hostile.Variants()))[chosen]
	}
	values := (*[2048]byte)(C.calloc(1, 2048))
	results := (*[2048]byte)(C.calloc(1, 2048))
	for i := range values {
		values[i] = byte(i*37 + i/256 + 0x11)
	}
	for i, r := range registers {
		if r.name == "cr" { // cr2, cr3, cr4
			*(*uint32)(unsafe.Pointer(&values[16*i])) = 0x00936000
		}
	}
	code := **(**uintptr)(unsafe.Pointer(&fn))
	C.probe(C.uintptr_t(crosscall2), C.uintptr_t(code), unsafe.Pointer(values), unsafe.Pointer(results))
	lost := called != 1
	if lost {
		fmt.Printf("the Go function was called %d times\\n", called)
	}
	if seen := uintptr(C.context_seen()); seen != 0x77 {
		fmt.Printf("the context is %#x\\n", seen)
		lost = true
	}
	for i, r := range registers {
		before, after := values[16*i:16*i+r.bytes], results[16*i:16*i+r.bytes]
		if !bytes.Equal(before, after) {
			fmt.Printf("%s was %x and is %x\\n", r.name, before, after)
			lost = true
		}
	}
	if lost {
		os.Exit(3)
	}
	fmt.Printf("%d registers held\\n", len(registers))
}

"""

HELD, LOST = 0, 3  # the program's exit statuses; others are crashes


def lines_of(text: str, symbol: str) -> tuple[list[str], list[int]]:
    """The lines of one TEXT block, and which of them are instructions."""
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines) if re.match(rf"TEXT\s+{re.escape(symbol)}\(SB\)", line))
    end = next((at for at in range(begin + 1, len(lines)) if lines[at].startswith("TEXT")), len(lines))
    block = lines[begin:end]
    return block, [
        at
        for at, line in enumerate(block)
        if line.startswith("\t") and not line.strip().startswith(("//", "NO_LOCAL_POINTERS", "GO_ARGS"))
    ]


_PUSHES = re.compile(r"\t(PUSH|POP)([LQ]) \w+$")


def without(block: Sequence[str], at: int, symbol: str) -> list[str]:
    """A TEXT block under another name, without one of its instructions. A push still lowers the stack and a pop still
    raises it: Go's assembler would not take anything else. Whoever runs over the end meets an undefined instruction."""
    head = block[0].replace("crosscall2(SB)", f"{symbol}(SB)", 1)
    pushes = _PUSHES.match(block[at])
    instead = []
    if pushes:
        size = 8 if pushes[2] == "Q" else 4
        instead = [f"\tADJSP ${size if pushes[1] == 'PUSH' else -size}"]
    return [head, *block[1:at], *instead, *block[at + 1 :], "\tUNDEF"]


def refused(toolchain: Toolchain, folder: Path, text: str) -> bool:
    """Whether Go's assembler notices by itself that something is missing."""
    folder = folder / "refused"
    folder.mkdir(exist_ok=True)
    file = folder / "variant.s"
    file.write_text(text, encoding="utf-8")
    root = toolchain.distribution.root
    words = ["tool", "asm", "-p", "main", "-I", root / "pkg" / "include", "-o", folder / "variant.o", file]
    return toolchain.go(*words, cwd=folder, timeout=60).status != 0


# What may be left out of crosscall2 without a loss.
EQUIVALENT = {
    r"MOVD \$0, R0": "Go's compiler uses r0 for anything on s390x, and Go's own crosscall2 does not set it",
    r"CALL runtime·load_g\(SB\)": "cgocallback loads g itself before it uses it",
    r"BGEZAL R0, 1\(PC\)": "all code has the same upper half of its address, that of the return address included",
}


def write(folder: Path, toolchain: Toolchain, text: str) -> tuple[list[str], list[str]]:
    """The program's sources, with a variant for each instruction of crosscall2 in `text` that it lacks. Returns the
    instructions, and those that Go's assembler misses by itself."""
    goarch = toolchain.machine.goarch
    word = 4 if goarch in ("386", "arm", "mips", "mipsle") else 8
    (folder / "hostile").mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module sentinel\n\ngo 1.18\n", encoding="utf-8")
    table = ", ".join(f'{{"{name}", {size}}}' for name, size in registers(goarch))
    (folder / "main.go").write_text(_MAIN + _MAIN_GO + f"var registers = []register{{{table}}}\n", encoding="utf-8")
    (folder / f"probe_{goarch}.S").write_text(source(goarch), encoding="utf-8")
    block, instructions = lines_of(text, "crosscall2")
    heads = [line for line in text.splitlines() if line.startswith("#include")]
    missed = []
    if goarch in ("386", "amd64"):  # it counts pushes and pops there
        for at in list(instructions):
            if refused(toolchain, folder, "\n".join([*heads, *without(block, at, "variant"), ""])):
                instructions.remove(at)
                missed.append(block[at].strip())
    variants = [*heads]
    for number, at in enumerate(instructions):
        variants += [*without(block, at, f"·variant{number}"), ""]
    for number in range(len(instructions)):
        variants.append(f"DATA table<>+{word * number}(SB)/{word}, $·variant{number}(SB)")
    variants.append(f"GLOBL table<>(SB), RODATA, ${word * len(instructions)}")
    move, scratch = _MOVES[goarch]
    variants += [
        f"TEXT ·Variants(SB), NOSPLIT, $0-{word}",
        f"\t{move} $table<>(SB), {scratch}",
        f"\t{move} {scratch}, ret+0(FP)",
        "\tRET",
    ]
    zero = "R0" if goarch == "ppc64le" else "$0"
    variants += [f"TEXT ·Zero(SB), NOSPLIT, $0-{word}"]
    variants += [f"\t{move} {zero}, {scratch}", f"\t{move} {scratch}, ret+0(FP)", "\tRET"]
    (folder / "hostile" / f"variants_{goarch}.s").write_text("\n".join(variants) + "\n", encoding="utf-8")
    rubbish = ['#include "textflag.h"', "TEXT ·Overwrite(SB), NOSPLIT, $16-0"]
    rubbish += [f"\t{line}" for line in PROBES[goarch].rubbish.splitlines()]
    rubbish += ["\tRET", *(f"DATA noise<>+{at}(SB)/4, $0x5aa55aa5" for at in range(0, 16, 4))]
    rubbish.append("GLOBL noise<>(SB), RODATA, $16")
    (folder / "hostile" / f"overwrite_{goarch}.s").write_text("\n".join(rubbish) + "\n", encoding="utf-8")
    declared = ["Overwrite()", "Variants() uintptr", "Zero() uintptr"]
    declared += [f"variant{number}()" for number in range(len(instructions))]
    text = "package hostile\n" + "".join(f"\nfunc {one}\n" for one in declared)
    (folder / "hostile" / "hostile.go").write_text(text, encoding="utf-8")
    return [block[at].strip() for at in instructions], missed


_MOVES = {
    "386": ("MOVL", "AX"),
    "amd64": ("MOVQ", "AX"),
    "arm": ("MOVW", "R0"),
    "arm64": ("MOVD", "R0"),
    "mips": ("MOVW", "R1"),
    "mipsle": ("MOVW", "R1"),
    "mips64": ("MOVV", "R1"),
    "mips64le": ("MOVV", "R1"),
    "ppc64le": ("MOVD", "R3"),
    "s390x": ("MOVD", "R1"),
}


@dataclass
class Found:
    registers: int = 0
    trouble: str = ""  # what is wrong with crosscall2 as it is
    noticed: list[str] = field(default_factory=list)  # instructions that are missed when they are left out
    equivalent: dict[str, str] = field(default_factory=dict)  # those that are not, and why
    survives: list[str] = field(default_factory=list)  # those that nobody misses, and nobody knows why

    @property
    def text(self) -> str:
        every = len(self.noticed) + len(self.equivalent) + len(self.survives)
        words = f"{self.registers} registers; {len(self.noticed)} of {every} lines missed"
        return words + (f", {len(self.equivalent)} equivalent" if self.equivalent else "")


def _build(toolchain: Toolchain, folder: Path, overlay: Path, program: str) -> str:
    built = toolchain.go("build", f"-overlay={overlay}", "-o", program, ".", cwd=folder)
    return "" if built.status == 0 else f"go build: status {built.status}\n{built.output}"


def perform(toolchain: Toolchain, folder: Path, overlay: Path, text: str) -> Found:
    """Build the program with the overlay and run it: crosscall2 as it is in `text`, and without each of its lines."""
    found = Found(len(registers(toolchain.machine.goarch)))
    sources = folder / "sentinel"
    instructions, missed = write(sources, toolchain, text)
    found.noticed += missed
    found.trouble = _build(toolchain, sources, overlay, "sentinel")
    if found.trouble:
        return found
    ran = toolchain.execute(sources / "sentinel", "-1", timeout=60)
    if ran.status is None:  # qemu-user hangs once in some hundred runs
        ran = toolchain.execute(sources / "sentinel", "-1", timeout=60)
    if ran.status != HELD:
        found.trouble = f"status {ran.status}\n{ran.output[:3000]}"
        return found

    def status(number: int) -> int | None:
        return toolchain.execute(sources / "sentinel", str(number), timeout=30).status

    lost: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        statuses = list(threads.map(status, range(len(instructions))))
    for number, line in enumerate(instructions):
        if statuses[number] != HELD:
            found.noticed.append(line)
            if statuses[number] == LOST and not line.startswith("POP"):
                lost.append(number)
            continue
        reasons = (why for pattern, why in EQUIVALENT.items() if re.fullmatch(pattern, line))
        why = next(reasons, None)
        if why is None:
            found.survives.append(line)
        else:
            found.equivalent[line] = why
    found.trouble = _spoilt(toolchain, folder, instructions, lost)
    return found


def _spoilt(toolchain: Toolchain, folder: Path, instructions: Sequence[str], lost: Sequence[int]) -> str:
    """The overlay with one line missing that loses a register: it has to be lost, for it is the overlay that runs."""
    if not lost:
        return "no line is a save"
    line = instructions[lost[0]]

    def spoil(part: go_overlay.Part, text: str) -> str:
        if "crosscall2" not in part.functions:
            return text
        block, places = lines_of(text, "crosscall2")
        at = next(place for place in places if block[place].strip() == line)
        return text.replace("\n".join(block), "\n".join(without(block, at, "crosscall2")))

    overlay = go_overlay.overlay(toolchain, folder, name="spoilt", change=spoil)
    trouble = _build(toolchain, folder / "sentinel", overlay, "spoilt")
    if trouble:
        return trouble
    status = toolchain.execute(folder / "sentinel" / "spoilt", "-1", timeout=60).status
    return "" if status == LOST else f"`{line}` is left out in the overlay, and nothing is lost: status {status}"
