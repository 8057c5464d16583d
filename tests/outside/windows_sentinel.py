"""Do callbackasm1 and sigtramp give back every register that Windows's conventions keep, and the direction flag?

A Go program without C. `probe`, an assembly function that is called like one of Windows's, fills every register that
such a function gives back with a value of its own, sets the direction flag, calls the entry of a callback (or what
Windows calls for an exception), and stores what is there afterwards. The Go function at the other end overwrites every
register that it may; so does what stands for sigtrampgo.

Beside the functions that are linked, texts of them that lack one line each are called, to see whether that is noticed.
They are in the runtime's package, which alone may refer to functions by Go's register convention.

The registers are those of Microsoft's documents, "x64 calling convention" and "Argument passing and naming
conventions", written down here once more on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.outside import go_overlay
from tests.outside.sentinel import HELD, LOST, PROBES, lines_of, refused, without
from tests.outside.toolchain import Ran, Toolchain
from tests.outside.wine import Wine

Change = Callable[[go_overlay.Part, str], str]

CALLBACK, HANDLER = "runtime·callbackasm1", "runtime·sigtramp"

# What may be left out without a loss.
_RESULT = "callbackWrap sets the result, and what is popped, whatever the function"
_CONTEXT = "the context is for a traceback through C, which nobody asks for here"
EQUIVALENT = {
    "callback": {
        r"XORL AX, AX": _RESULT,
        r"MOVQ AX, 40\(SP\)|MOVL AX, 2[04]\(SP\)": _RESULT,
        r"XORL DX, DX": _CONTEXT,
        r"MOVQ DX, 16\(SP\)|MOVL DX, 8\(SP\)": _CONTEXT,
    },
    "handler": {},
}


@dataclass(frozen=True)
class Machine:
    """One architecture's assembly."""

    word: int
    integers: tuple[str, ...]
    floats: tuple[str, ...]
    probe: str
    handler: str  # stands for sigtrampgo: stores what it is given, and overwrites registers
    move: str
    data: str


def _lines(*parts: str | Sequence[str]) -> str:
    lines: list[str] = []
    for part in parts:
        lines += [part] if isinstance(part, str) else part
    return "\n".join(lines)


_PUSHED = ("BX", "BP", "SI", "DI", "R12", "R13", "R14", "R15")
_X = tuple(f"X{number}" for number in range(6, 16))

_AMD64 = Machine(
    8,
    _PUSHED,
    _X,
    # CX: *call. Its fields: target 0, above 8, values 16, results 24, arguments from 32 on.
    _lines(
        [f"PUSHQ {r}" for r in _PUSHED],
        "PUSHFQ",
        "ADJSP $240",
        [f"MOVUPS {r}, {64 + 16 * n}(SP)" for n, r in enumerate(_X)],
        "MOVQ CX, 56(SP)",
        [f"MOVQ {64 + 8 * n}(CX), AX\nMOVQ AX, {32 + 8 * n}(SP)" for n in range(3)],
        "MOVQ 0(CX), R10\nMOVQ 8(CX), R11\nMOVQ 16(CX), AX",
        [f"MOVQ {8 * n}(AX), {r}" for n, r in enumerate(_PUSHED)],
        [f"MOVUPS {64 + 16 * n}(AX), {r}" for n, r in enumerate(_X)],
        "MOVQ 48(CX), R8\nMOVQ 56(CX), R9\nMOVQ 40(CX), DX\nMOVQ 32(CX), CX",
        "STD\nCALL thunk<>(SB)\nPUSHFQ\nPOPQ R10\nCLD",
        "MOVQ 56(SP), CX\nMOVQ 24(CX), CX",
        [f"MOVQ {r}, {8 * n}(CX)" for n, r in enumerate(_PUSHED)],
        [f"MOVUPS {r}, {64 + 16 * n}(CX)" for n, r in enumerate(_X)],
        "MOVQ AX, 224(CX)\nMOVQ R10, 232(CX)\nMOVQ $0, 240(CX)",
        [f"MOVUPS {64 + 16 * n}(SP), {r}" for n, r in enumerate(_X)],
        "ADJSP $-240\nPOPFQ",
        [f"POPQ {r}" for r in reversed(_PUSHED)],
        "RET",
        "TEXT thunk<>(SB), NOSPLIT|NOFRAME, $0-0",
        "TESTQ R11, R11\nJEQ go\nLEAQ -8(SP), SP\nMOVQ R11, (SP)\ngo: JMP R10",
    ),
    _lines(
        "MOVQ AX, runtime·sentinel+0(SB)\nMOVQ BX, runtime·sentinel+8(SB)",
        "PUSHFQ\nPOPQ CX\nMOVQ CX, runtime·sentinel+16(SB)\nMOVUPS X15, runtime·sentinel+24(SB)",
        "MOVQ R14, runtime·sentinel+40(SB)\nMOVQ $0xa5a5a5a5a5a5a5a5, AX",
        [f"MOVQ AX, {r}" for r in ("BX", "CX", "DX", "SI", "DI", "R8", "R9", "R10", "R11", "R12", "R13", "R15")],
        [f"MOVQ AX, X{n}" for n in range(15)],
        "MOVL $0x12345678, AX\nRET",
    ),
    "MOVQ",
    "LEAQ",
)

_386_PUSHED = ("BX", "BP", "SI", "DI")
_386 = Machine(
    4,
    _386_PUSHED,
    (),
    # 4(SP): *call. Its fields: target 0, above 4, values 8, results 12, arguments from 16 on, what is in CX 44.
    _lines(
        "MOVL 4(SP), AX",
        [f"PUSHL {r}" for r in _386_PUSHED],
        "PUSHFL",
        "ADJSP $64",
        "MOVL AX, 60(SP)",
        [f"MOVL {16 + 4 * n}(AX), CX\nMOVL CX, {4 * n}(SP)" for n in range(7)],
        "MOVL SP, saved<>(SB)",
        "MOVL 44(AX), CX\nMOVL 4(AX), DX\nMOVL 8(AX), BX\nMOVL 0(AX), AX",
        [f"MOVL {4 * n}(BX), {r}" for n, r in reversed(list(enumerate(_386_PUSHED)))],
        "STD\nCALL thunk<>(SB)\nPUSHFL\nPOPL CX\nCLD",
        "MOVL SP, DX\nMOVL saved<>(SB), SP\nSUBL SP, DX\nMOVL DX, popped<>(SB)",
        "MOVL 60(SP), DX\nMOVL 12(DX), DX",
        [f"MOVL {r}, {4 * n}(DX)" for n, r in enumerate(_386_PUSHED)],
        "MOVL AX, 16(DX)\nMOVL CX, 20(DX)\nMOVL popped<>(SB), AX\nMOVL AX, 24(DX)",
        "ADJSP $-64\nPOPFL",
        [f"POPL {r}" for r in reversed(_386_PUSHED)],
        "RET",
        "TEXT thunk<>(SB), NOSPLIT|NOFRAME, $0-0",
        "TESTL DX, DX\nJEQ go\nLEAL -4(SP), SP\nMOVL DX, (SP)\ngo: JMP AX",
        "GLOBL saved<>(SB), NOPTR, $4\nGLOBL popped<>(SB), NOPTR, $4",
    ),
    _lines(
        "MOVL 4(SP), AX\nMOVL AX, runtime·sentinel+0(SB)\nMOVL 8(SP), AX\nMOVL AX, runtime·sentinel+4(SB)",
        "PUSHFL\nPOPL AX\nMOVL AX, runtime·sentinel+8(SB)\nMOVL $0x12345678, 12(SP)\nMOVL $0xa5a5a5a5, AX",
        [f"MOVL AX, {r}" for r in ("BX", "CX", "DX", "SI", "DI", "BP")],
        [f"MOVL AX, X{n}" for n in range(8)],
        "RET",
    ),
    "MOVL",
    "MOVL $",
)

MACHINES = {"amd64": _AMD64, "386": _386}

_MAIN = """\
package main

import (
	"runtime"
	"syscall"
	"unsafe"
)

type call struct {
	target, above, values, results uintptr
	arguments                      [7]uintptr
	cx                             uintptr
}

func probe()
func probeAddress() uintptr
func flags() uintptr
func overwrite()
func callbacks() unsafe.Pointer
func handlers() unsafe.Pointer
func seen() unsafe.Pointer
func exceptiontramp() uintptr

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

func fail(what string) {
	println(what)
	syscall.Exit(3)
}

const direction = 1 << 10

// callback is what the entry leads to: the stack grows and moves, it is scanned, and registers are overwritten.
func callback(a, b, c, d, e, f, g uintptr) uintptr {
	if flags()&direction != 0 {
		fail("the direction flag is set in Go")
	}
	called++
	if a != 101 || b != 102 || c != 103 || d != 104 || e != 105 || f != 106 || g != 107 {
		fail("the arguments are others")
	}
	if deep(100) == 0 {
		fail("the stack")
	}
	runtime.GC()
	overwrite()
	return 0x12345678
}

func number(text string) int {
	n, sign := 0, 1
	for _, digit := range text {
		if digit == '-' {
			sign = -1
			continue
		}
		n = 10*n + int(digit-'0')
	}
	return sign * n
}

var nothing *int

func fault() (said string) {
	defer func() { said = recover().(error).Error() }()
	*nothing = 1
	return "nothing happened"
}

var values, results [512]byte
var record, context [2048]byte
var pointers [2]unsafe.Pointer

// onItsOwnThread has Windows make a thread for a function.
func onItsOwnThread(function, argument uintptr) {
	kernel32 := syscall.MustLoadDLL("kernel32.dll")
	thread, _, _ := kernel32.MustFindProc("CreateThread").Call(0, 0, function, argument, 0, 0)
	if thread == 0 {
		fail("no thread")
	}
	kernel32.MustFindProc("WaitForSingleObject").Call(thread, 0xffffffff)
}

var foreign bool

var current call

// perform calls and compares. popped: the bytes that the callee takes off the stack.
func perform(what string, c call, result, popped uintptr) {
	const word = unsafe.Sizeof(uintptr(0))
	for i := range values {
		values[i] = byte(i*37 + i/256 + 0x11)
		results[i] = 0
	}
	c.values, c.results = uintptr(unsafe.Pointer(&values)), uintptr(unsafe.Pointer(&results))
	current = c // the stack, and what is on it, moves in the callback
	if foreign {
		onItsOwnThread(probeAddress(), uintptr(unsafe.Pointer(&current)))
	} else {
		syscall.SyscallN(probeAddress(), uintptr(unsafe.Pointer(&current)))
	}
	lost := false
	at := 0
	for _, r := range registers {
		for i := at; i < at+r.bytes; i++ {
			if values[i] != results[i] {
				println(what, r.name, "is lost")
				lost = true
				break
			}
		}
		at += r.bytes
	}
	got := (*[3]uintptr)(unsafe.Pointer(&results[at]))
	if uint32(got[0]) != uint32(result) {
		println(what, "result", got[0])
		lost = true
	}
	if got[1]&direction == 0 {
		println(what, "the direction flag is lost")
		lost = true
	}
	if got[2] != popped {
		println(what, "popped", got[2])
		lost = true
	}
	if lost {
		syscall.Exit(3)
	}
}

func main() {
	const word = unsafe.Sizeof(uintptr(0))
	what, _ := syscall.Getenv("WHAT")
	which, _ := syscall.Getenv("WHICH")
	chosen := number(which)
	arguments := [7]uintptr{101, 102, 103, 104, 105, 106, 107}
	switch what {
	case "callback":
		entry := syscall.NewCallback(callback)
		pops := uintptr(0)
		if word == 4 {
			pops = 28
		}
		c := call{target: entry, arguments: arguments}
		if chosen >= 0 {
			c.target = (*[1 << 10]uintptr)(callbacks())[chosen]
			c.above = entry + 5
		}
		perform("stdcall", c, 0x12345678, pops)
		if chosen < 0 {
			c.target = syscall.NewCallbackCDecl(callback)
			perform("cdecl", c, 0x12345678, 0)
			called--
		}
		if called != 1 {
			fail("the Go function was not called")
		}
	case "handler", "foreign":
		foreign = what == "foreign"
		c := call{target: (*[1 << 10]uintptr)(handlers())[chosen], cx: 2}
		c.arguments = [7]uintptr{0x5a5a, 2}
		pops := uintptr(0)
		if word == 4 {
			pops = 4
		}
		perform("handler", c, 0x12345678, pops)
		given := (*[8]uintptr)(seen())
		if given[0] != 0x5a5a || uint32(given[1]) != 2 {
			fail("sigtrampgo is given something else")
		}
		if given[2]&direction != 0 {
			fail("the direction flag is set in Go")
		}
		if word == 8 && (given[3] != 0 || given[4] != 0) {
			fail("X15 is not zero")
		}
		if word == 8 && (given[5] == 0) != foreign {
			fail("R14 is not g")
		}
	case "exception":
		// An exception that is nobody's in Go: the search goes on.
		pointers = [2]unsafe.Pointer{unsafe.Pointer(&record), unsafe.Pointer(&context)}
		c := call{target: exceptiontramp()}
		c.arguments[0] = uintptr(unsafe.Pointer(&pointers))
		pops := uintptr(0)
		if word == 4 {
			pops = 4
		}
		perform("exceptiontramp", c, 0, pops)
	case "fault":
		if said := fault(); said != "runtime error: invalid memory address or nil pointer dereference" {
			fail(said)
		}
	default:
		fail("WHAT?")
	}
	println("held")
}

"""


def variants(
    toolchain: Toolchain, folder: Path, text: str, symbol: str
) -> tuple[list[str], list[list[str]], list[str]]:
    """The instructions of a function; the function as it is, and without each of them; and those instructions that Go's
    assembler misses by itself, since it counts pushes and pops."""
    block, instructions = lines_of(text, symbol)
    heads = [line for line in text.splitlines() if line.startswith("#include")]
    missed, kept, made = [], [], [list(block)]
    for at in instructions:
        spoilt = [block[0], *without(block, at, "")[1:]]
        if refused(toolchain, folder, "\n".join([*heads, *spoilt, ""]).replace("<ABIInternal>", "")):
            missed.append(block[at].strip())
            continue
        kept.append(block[at].strip())
        made.append(spoilt)
    return kept, made, missed


def _named(block: Sequence[str], what: str, number: int) -> list[str]:
    return [re.sub(r"TEXT\s+\S+\(SB\)", f"TEXT runtime·sentinel_{what}{number}(SB)", block[0]), *block[1:], ""]


def _table(machine: Machine, what: str, count: int) -> list[str]:
    lines = [
        f"DATA runtime·sentinel_{what}s+{machine.word * number}(SB)/{machine.word}, "
        f"$runtime·sentinel_{what}{number}(SB)"
        for number in range(count)
    ]
    return [*lines, f"GLOBL runtime·sentinel_{what}s(SB), RODATA, ${machine.word * max(count, 1)}", ""]


def write(folder: Path, machine: Machine, goarch: str) -> None:
    """The program's sources."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module sentinel\n\ngo 1.18\n", encoding="utf-8")
    names = [(r, machine.word) for r in machine.integers] + [(r, 16) for r in machine.floats]
    table = ", ".join(f'{{"{name}", {size}}}' for name, size in names)
    registers = f"var registers = []struct {{\n\tname  string\n\tbytes int\n}}{{{table}}}\n"
    (folder / "main.go").write_text(_MAIN + registers, encoding="utf-8")
    lines = ['#include "textflag.h"', "TEXT ·probe(SB), NOSPLIT|NOFRAME, $0-0", *machine.probe.splitlines()]
    lines += ["TEXT ·overwrite(SB), NOSPLIT, $16-0", *PROBES[goarch].rubbish.splitlines(), "RET"]
    flags = ["PUSHFQ", "POPQ AX"] if machine.word == 8 else ["PUSHFL", "POPL AX"]
    lines += [f"TEXT ·flags(SB), NOSPLIT, $0-{machine.word}", *flags, f"{machine.move} AX, ret+0(FP)", "RET"]
    for name, symbol in (
        ("probeAddress", "·probe"),
        ("callbacks", "runtime·sentinel_callbacks"),
        ("handlers", "runtime·sentinel_handlers"),
        ("seen", "runtime·sentinel"),
        ("exceptiontramp", "runtime·exceptiontramp"),
    ):
        address = f"LEAQ {symbol}(SB), AX" if machine.word == 8 else f"MOVL ${symbol}(SB), AX"
        lines += [f"TEXT ·{name}(SB), NOSPLIT, $0-{machine.word}", address, f"{machine.move} AX, ret+0(FP)", "RET"]
    (folder / f"probe_{goarch}.s").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Found:
    noticed: int = 0
    every: int = 0
    equivalent: tuple[tuple[str, str], ...] = ()
    survives: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def text(self) -> str:
        return f"{self.noticed} of {self.every} lines missed, {len(self.equivalent)} equivalent"


def perform(toolchain: Toolchain, wine: Wine, folder: Path) -> Found:
    """Build and run: Go's callbacks and, since Go 1.21, its exception handlers."""
    goarch = toolchain.machine.goarch
    machine = MACHINES[goarch]
    sources = folder / "sentinel"
    write(sources, machine, goarch)
    texts = {part.source: path.read_text(encoding="utf-8") for part, path in go_overlay.generated(toolchain, folder)}
    subjects = [("callback", CALLBACK, texts["callbackasm.tramp"])]
    if "exceptiontramp.tramp" in texts:
        subjects.append(("handler", HANDLER, texts["exceptiontramp.tramp"]))
    lines: dict[str, list[str]] = {"callback": [], "handler": []}
    missed: list[str] = []
    added = [""]
    for what, symbol, text in subjects:
        kept, blocks, more = variants(toolchain, folder, text, symbol)
        lines[what] = kept
        missed += more
        for number, block in enumerate(blocks):
            added += [_HANDLED.sub("CALL runtime·sentinelHandler(SB)", line) for line in _named(block, what, number)]
    for what in lines:
        added += _table(machine, what, len(lines[what]) + 1 if what in [one for one, _, _ in subjects] else 0)
    added += ["TEXT runtime·sentinelHandler(SB), NOSPLIT|NOFRAME, $0-0", *machine.handler.splitlines()]
    added.append("GLOBL runtime·sentinel(SB), NOPTR, $64\n")

    def append(part: go_overlay.Part, text: str) -> str:
        return text + "\n".join(added) if CALLBACK in part.functions else text

    overlay = go_overlay.overlay(toolchain, folder, name="sentinel", change=append)
    trouble = _build(toolchain, sources, overlay, "sentinel.exe")
    if trouble:
        return Found(trouble=trouble)

    def run(what: str, which: int, program: str = "sentinel.exe") -> Ran:
        environment = {"WHAT": what, "WHICH": str(which)}
        return wine.run(sources / program, timeout=10, cwd=sources, environment=environment)

    # The functions that are linked, and copies of them with nothing left out.
    whole = [("callback", -1), ("fault", -1), *((what, 0) for what, _, _ in subjects)]
    whole += [("exception", -1), ("foreign", 0)] if len(subjects) > 1 else []
    for what, which in whole:
        ran = run(what, which)
        if ran.status != HELD:
            return Found(trouble=f"{what} {which}: status {ran.status}\n{ran.output[:2000]}")
    survives: list[str] = []
    equivalent: list[tuple[str, str]] = []
    lost = ""
    for what, _, _ in subjects:
        for number, line in enumerate(lines[what], start=1):
            status = run(what, number).status
            if status == HELD and what == "handler":
                status = run("foreign", number).status
            if status == HELD:
                why = next((why for text, why in EQUIVALENT[what].items() if re.fullmatch(text, line)), None)
                if why is None:
                    survives.append(line)
                else:
                    equivalent.append((line, why))
            elif status == LOST and what == "callback" and _SAVE.match(line):
                lost = lost or line
    every = sum(map(len, lines.values())) + len(missed)
    found = Found(every - len(survives) - len(equivalent), every, tuple(equivalent), tuple(survives))
    if not lost:
        found.trouble = "no line is a save"
        return found

    # Mistakes in the functions that are linked: they have to be noticed, for it is the overlay that runs.
    def save(part: go_overlay.Part, text: str) -> str:
        return _left_out(text, CALLBACK, lost) if CALLBACK in part.functions else text

    def kind(part: go_overlay.Part, text: str) -> str:
        if HANDLER not in part.functions:
            return text
        block, _ = lines_of(text, "runtime·exceptiontramp")
        wrong = [_FIRST_KIND.sub(r"\tMOVL $1, \1", line) for line in block]
        return text.replace("\n".join(block), "\n".join(wrong))

    for name, what, change in (("save", "callback", save), *([("kind", "fault", kind)] if len(subjects) > 1 else [])):
        overlay = go_overlay.overlay(toolchain, folder, name=f"spoilt_{name}", change=_both(append, change))
        found.trouble = _build(toolchain, sources, overlay, "spoilt.exe")
        if not found.trouble and run(what, -1, "spoilt.exe").status == HELD:
            found.trouble = f"the {name} is spoilt in the overlay, and nobody notices"
        if found.trouble:
            break
    return found


_HANDLED = re.compile(r"CALL runtime·sigtrampgo(<ABIInternal>)?\(SB\)")
_SAVE = re.compile(r"PUSH|MOVUPS X\d+, ")
_FIRST_KIND = re.compile(r"^\tXORL (CX|DX), (?:CX|DX)$")


def _left_out(text: str, symbol: str, line: str) -> str:
    block, places = lines_of(text, symbol)
    at = next(place for place in places if block[place].strip() == line)
    spoilt = without(block, at, "")
    return text.replace("\n".join(block), "\n".join([block[0], *spoilt[1:]]))


def _both(first: Change, second: Change) -> Change:
    return lambda part, text: first(part, second(part, text))


def _build(toolchain: Toolchain, folder: Path, overlay: Path, program: str) -> str:
    built = toolchain.go("build", f"-overlay={overlay}", "-o", program, ".", cwd=folder)
    return "" if built.status == 0 else f"go build: status {built.status}\n{built.output[:3000]}"
