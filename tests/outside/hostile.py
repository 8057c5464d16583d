"""Assembly on both sides of a trampoline, for each machine: a caller that has a sentinel in every register that it may
expect back, and a callee that overwrites every register, and all memory, that it may. Written from the psABIs alone:
nothing of the project's own records of the conventions is used but how a function is begun for the linker.

Both work on a record of words, whose address they are given: see `WORDS` for what is where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trampoline_dsl.target import Architecture

# What is in the record, counted in words.
WORDS = {
    "function": 0,
    "sp_before": 1,
    "sp_after": 2,
    "result": 3,
    "arguments": 4,
    "seen_x": 7,  # what the callee was given besides the record, and its stack pointer
    "seen_y": 8,
    "seen_sp": 9,
    "integers_in": 16,
    "integers_out": 40,
    "end": 64,
}
FLOATS_IN, FLOATS_OUT, SIZE = 512, 768, 1024  # bytes; every float has 8
RESULT = 0x5A5A1234


@dataclass(frozen=True)
class Side:
    """How one machine is told all this. In the texts {r} is a register, {o} a number of bytes, {b} a base register.

    `kept`: what a caller expects back, integers and floats. `special`: what it expects back besides, as an instruction
    that sets it from `scratch`, one that brings it there, and the mask of the bits that count. `lost`: instructions of
    the callee that overwrite the rest; {v} is a number that is nobody's. `modules`: more of them, of a callee of
    another module. `areas`: bytes above the callee's stack pointer that are its own. `alignment`: of the sum of the
    stack pointer and `pushed`, where a function is entered. `first`: where the caller's own words are, bytes above sp.
    """

    word: int
    sp: str
    record: str  # holds the record's address, and is neither kept nor a result
    scratch: str
    kept: Sequence[str]
    kept_floats: Sequence[str]
    load: str
    store: str
    load_float: str
    store_float: str
    arguments: Sequence[str]
    result: str
    enter: str  # makes a frame of {frame} bytes whose word at {link} may hold the return address
    leave: str
    call: str  # through {r}; the return address is where the machine puts it
    through: str
    frame: int
    first: int
    copy_sp: str
    back: str
    lost: Sequence[str]
    areas: Sequence[int]
    alignment: int
    pushed: int = 0
    modules: Sequence[str] = ()  # what only a callee of another module may overwrite
    special: Sequence[tuple[str, str, int]] = ()  # load from scratch, store to scratch, mask of what counts
    stack_arguments: bool = False
    constant: str = ""


def _o32(gp: Sequence[str]) -> Side:
    integers = ["$v1", *(f"$t{n}" for n in range(10)), *(f"$a{n}" for n in range(4)), *gp]
    return Side(
        4, "$sp", "$t8", "$t7",
        [*(f"$s{n}" for n in range(8)), "$fp"], [f"$f{n}" for n in range(20, 32, 2)],
        "lw {r}, {o}({b})", "sw {r}, {o}({b})", "ldc1 {r}, {o}({b})", "sdc1 {r}, {o}({b})",
        ["$a0", "$a1", "$a2"], "$v0",
        "addiu $sp, $sp, -{frame}\nsw $ra, {link}($sp)", "lw $ra, {link}($sp)\naddiu $sp, $sp, {frame}",
        "move $t9, {r}\njalr $t9\nnop", "$t9", 256, 16, "move {r}, $sp", "jr $ra\nnop",
        ["lui $at, {v}", *(f"lui {r}, {{v}}" for r in integers), "mtlo $a0", "mthi $a0",
         *(f"mtc1 $a0, $f{n}" for n in range(20))],
        [0, 4, 8, 12], 8, constant="lui {r}, {high}\nori {r}, {r}, {low}",
    )  # fmt: skip


def _n64() -> Side:
    integers = ["$v1", *(f"${n}" for n in range(4, 16)), "$24", "$25"]
    return Side(
        8, "$sp", "$t3", "$t2",
        [*(f"$s{n}" for n in range(8)), "$gp", "$fp"], [f"$f{n}" for n in range(24, 32)],
        "ld {r}, {o}({b})", "sd {r}, {o}({b})", "ldc1 {r}, {o}({b})", "sdc1 {r}, {o}({b})",
        ["$a0", "$a1", "$a2"], "$v0",
        "daddiu $sp, $sp, -{frame}\nsd $ra, {link}($sp)", "ld $ra, {link}($sp)\ndaddiu $sp, $sp, {frame}",
        "move $t9, {r}\njalr $t9\nnop", "$t9", 512, 0, "move {r}, $sp", "jr $ra\nnop",
        ["lui $at, {v}", *(f"lui {r}, {{v}}" for r in integers), "mtlo $4", "mthi $4",
         *(f"dmtc1 $4, $f{n}" for n in range(24))],
        [], 16, constant="lui {r}, {high}\nori {r}, {r}, {low}",
    )  # fmt: skip


def _ppc64(version: int) -> Side:
    toc = 40 if version == 1 else 24
    indirect = "ld 0, 0({r})\nmtctr 0\nld 2, 8({r})\nbctrl" if version == 1 else "mr 12, {r}\nmtctr 12\nbctrl"
    return Side(
        8, "1", "9", "10",
        [f"{n}" for n in range(14, 32)], [f"{n}" for n in range(14, 32)],
        "ld {r}, {o}({b})", "std {r}, {o}({b})", "lfd {r}, {o}({b})", "stfd {r}, {o}({b})",
        ["3", "4", "5"], "3",
        "mflr 0\nstd 0, 16(1)\nmfcr 0\nstw 0, 8(1)\nstdu 1, -{frame}(1)",
        "addi 1, 1, {frame}\nld 0, 16(1)\nmtlr 0\nlwz 0, 8(1)\nmtcrf 0x38, 0",
        f"std 2, {toc}(1)\n{indirect}\nld 2, {toc}(1)", "11", 640, 112, "mr {r}, 1", "blr",
        [*(f"lis {n}, {{v}}" for n in (0, *range(4, 13))), "mtcrf 0xc7, 4", "mtctr 4", "mtxer 4", "std 4, 8(1)",
         "std 4, 16(1)", *(f"mtfprd {n}, 4" for n in range(14)),
         *(f"vspltisw {n}, -3" for n in range(20))],
        [48 + 8 * n for n in range(8)] if version == 1 else [], 16, modules=["lis 2, {v}"],
        special=[("mtcrf 0x38, {r}", "mfcr {r}", 0x00FF_F000)], constant="lis {r}, {high}\nori {r}, {r}, {low}",
    )  # fmt: skip


def _arm() -> Side:
    return Side(
        4, "sp", "r12", "lr",
        [f"r{n}" for n in range(4, 12)], [f"d{n}" for n in range(8, 16)],
        "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]", "vldr {r}, [{b}, #{o}]", "vstr {r}, [{b}, #{o}]",
        ["r0", "r1", "r2"], "r0",
        "sub sp, sp, #{frame}\nstr lr, [sp, #{link}]", "ldr lr, [sp, #{link}]\nadd sp, sp, #{frame}",
        "blx {r}", "r3", 256, 0, "mov {r}, sp", "bx lr",
        [*(f"movw {r}, #{{v}}" for r in ("r1", "r2", "r3", "r12")), "cmp r1, #0",
         *(f"vmov d{n}, r1, r1" for n in (*range(8), *range(16, 32)))],
        [], 8, constant="movw {r}, #{low}\nmovt {r}, #{high}",
    )  # fmt: skip


def _arm64() -> Side:
    integers = list(range(1, 18))
    return Side(
        8, "sp", "x9", "x10",
        [f"x{n}" for n in range(19, 30)], [f"d{n}" for n in range(8, 16)],
        "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]", "ldr {r}, [{b}, #{o}]", "str {r}, [{b}, #{o}]",
        ["x0", "x1", "x2"], "x0",
        "sub sp, sp, #{frame}\nstr x30, [sp, #{link}]", "ldr x30, [sp, #{link}]\nadd sp, sp, #{frame}",
        "blr {r}", "x11", 512, 0, "mov {r}, sp", "ret",
        [*(f"mov x{n}, #{{v}}" for n in integers), "cmp x1, #0",
         *(f"dup v{n}.2d, x1" for n in (*range(8), *range(16, 32))), *(f"mov v{n}.d[1], x1" for n in range(8, 16))],
        [], 16, constant="movz {r}, #{low}\nmovk {r}, #{high}, lsl #16",
    )  # fmt: skip


def _s390x() -> Side:
    return Side(
        8, "%r15", "%r1", "%r2",
        [f"%r{n}" for n in range(6, 14)], [f"%f{n}" for n in range(8, 16)],
        "lg {r}, {o}({b})", "stg {r}, {o}({b})", "ld {r}, {o}({b})", "std {r}, {o}({b})",
        ["%r2", "%r3", "%r4"], "%r2",
        "aghi %r15, -{frame}\nstg %r14, {link}(%r15)", "lg %r14, {link}(%r15)\naghi %r15, {frame}",
        "basr %r14, {r}", "%r5", 640, 160, "lgr {r}, %r15", "br %r14",
        [*(f"llilh %r{n}, {{v}}" for n in (0, 1, 3, 4, 5)), *(f"ldgr %f{n}, %r1" for n in range(8)), "cghi %r1, 0"],
        [16 + 8 * n for n in range(18)], 8, constant="llilh {r}, {high}\noill {r}, {low}",
    )  # fmt: skip


def _amd64() -> Side:
    return Side(
        8, "rsp", "r10", "r11",
        ["rbx", "rbp", "r12", "r13", "r14", "r15"], [],
        "mov {r}, [{b}+{o}]", "mov [{b}+{o}], {r}", "", "",
        ["rdi", "rsi", "rdx"], "rax",
        "sub rsp, {frame}-8", "add rsp, {frame}-8", "call {r}", "r11", 256, 0, "lea {r}, [rsp]", "ret",
        [*(f"mov {r}, {{v}}" for r in ("rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")), "cmp rcx, 0",
         *(f"movq xmm{n}, rcx" for n in range(16))],
        [], 16, 8, constant="mov {r}, {value}",
    )  # fmt: skip


def _386() -> Side:
    return Side(
        4, "esp", "ecx", "edx",
        ["ebx", "ebp", "esi", "edi"], [],
        "mov {r}, [{b}+{o}]", "mov [{b}+{o}], {r}", "", "",
        ["eax", "edx", "ecx"], "eax",
        "sub esp, {frame}-4", "add esp, {frame}-4", "call {r}", "eax", 256, 12, "lea {r}, [esp]", "ret",
        [*(f"mov {r}, {{v}}" for r in ("ecx", "edx")), "cmp ecx, 0", *(f"movd xmm{n}, ecx" for n in range(8))],
        [4, 8, 12], 16, 4, stack_arguments=True, constant="mov {r}, {value}",
    )  # fmt: skip


SIDES = {
    "linux/386": _386(),
    "linux/amd64": _amd64(),
    "linux/arm": _arm(),
    "linux/arm64": _arm64(),
    "linux/mips": _o32(["$gp"]),
    "linux/mipsle": _o32(["$gp"]),
    "linux/mips64": _n64(),
    "linux/mips64le": _n64(),
    "linux/ppc64": _ppc64(1),
    "linux/ppc64le": _ppc64(2),
    "linux/s390x": _s390x(),
}


def caller(target: str, architecture: Architecture, *, thumb: bool = False) -> str:
    """`probe(record)`: calls the record's function with its arguments."""
    return _file(architecture, "probe", _caller(SIDES[target]), thumb)


def callee(target: str, architecture: Architecture, *, other_module: bool, thumb: bool = False) -> str:
    """`hostile(record, x, y)`: returns RESULT."""
    return _file(architecture, "hostile", _callee(SIDES[target], other_module), thumb)


def _file(architecture: Architecture, name: str, body: Iterator[str], thumb: bool) -> str:
    convention = architecture.conventions["c"]
    header = [".thumb" if thumb and line == ".arm" else line for line in architecture.header]
    lines = [*header, *architecture.function_header(name, convention), *body]
    lines += [*architecture.function_footer(name, convention), *architecture.trailer(), ""]
    return "\n".join(lines)


def _caller(s: Side) -> Iterator[str]:
    word, sp, record, scratch = s.word, s.sp, s.record, s.scratch
    at = {name: index * word for name, index in WORDS.items()}
    own = {"record": s.first, "link": s.first + word}
    saved = {r: s.first + (2 + n) * word for n, r in enumerate(s.kept)}
    start = (s.first + (2 + len(s.kept)) * word + 7) // 8 * 8
    saved_floats = {r: start + 8 * n for n, r in enumerate(s.kept_floats)}

    def move(text: str, r: str, o: int, b: str) -> str:
        return text.format(r=r, o=o, b=b)

    yield s.enter.format(frame=s.frame, link=own["link"])
    if s.stack_arguments:
        yield move(s.load, record, s.frame, sp)  # behind the return address
    else:
        yield move(s.store, s.arguments[0], own["record"], sp)
        yield move(s.load, record, own["record"], sp)
    yield move(s.store, record, own["record"], sp)
    for r, o in saved.items():
        yield move(s.store, r, o, sp)
    for r, o in saved_floats.items():
        yield move(s.store_float, r, o, sp)
    yield s.copy_sp.format(r=scratch)
    yield move(s.store, scratch, at["sp_before"], record)
    for n, (load, _, _) in enumerate(s.special):
        yield move(s.load, scratch, at["integers_in"] + (len(s.kept) + n) * word, record)
        yield load.format(r=scratch)
    for n, r in enumerate(s.kept_floats):
        yield move(s.load_float, r, FLOATS_IN + 8 * n, record)
    for n, r in enumerate(s.kept):
        yield move(s.load, r, at["integers_in"] + n * word, record)
    for n, r in enumerate(s.arguments):
        if s.stack_arguments:
            yield move(s.load, scratch, at["arguments"] + n * word, record)
            yield move(s.store, scratch, n * word, sp)
        else:
            yield move(s.load, r, at["arguments"] + n * word, record)
    yield move(s.load, s.through, at["function"], record)
    yield s.call.format(r=s.through)
    yield move(s.load, record, own["record"], sp)
    yield move(s.store, s.result, at["result"], record)
    yield s.copy_sp.format(r=scratch)
    yield move(s.store, scratch, at["sp_after"], record)
    for n, r in enumerate(s.kept):
        yield move(s.store, r, at["integers_out"] + n * word, record)
    for n, (_, store, _) in enumerate(s.special):
        yield store.format(r=scratch)
        yield move(s.store, scratch, at["integers_out"] + (len(s.kept) + n) * word, record)
    for n, r in enumerate(s.kept_floats):
        yield move(s.store_float, r, FLOATS_OUT + 8 * n, record)
    for r, o in saved.items():
        yield move(s.load, r, o, sp)
    for r, o in saved_floats.items():
        yield move(s.load_float, r, o, sp)
    yield s.leave.format(frame=s.frame, link=own["link"])
    yield s.back


def _callee(s: Side, other_module: bool) -> Iterator[str]:
    word, sp = s.word, s.sp
    at = {name: index * word for name, index in WORDS.items()}
    record, x, y = s.arguments
    if s.stack_arguments:
        record, x, y = "ecx", "eax", "edx"
        for n, r in enumerate((record, x, y)):
            yield s.load.format(r=r, o=word * (n + 1), b=sp)
    yield s.store.format(r=x, o=at["seen_x"], b=record)
    yield s.store.format(r=y, o=at["seen_y"], b=record)
    yield s.copy_sp.format(r=x)
    yield s.store.format(r=x, o=at["seen_sp"], b=record)
    for number, text in enumerate(s.lost):
        yield text.format(v=0x5101 + 3 * number)
    for offset in s.areas:
        yield s.store.format(r=x if x != s.result else y, o=offset, b=sp)
    if other_module:
        for text in s.modules:
            yield text.format(v=0x1234)
    yield s.constant.format(r=s.result, value=RESULT, low=RESULT & 0xFFFF, high=RESULT >> 16)
    yield s.back
