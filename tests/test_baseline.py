"""What is beyond a baseline is what GNU as refuses that is told the baseline, and takes when it is told more."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import broken
import gnu
import pytest
from baseline_words import words
from tools import need

from trampoline_dsl.audit import audit
from trampoline_dsl.baseline import beyond_baseline, feature_beyond
from trampoline_dsl.binary import read_image
from trampoline_dsl.diagnostics import InputError, Source, read_source
from trampoline_dsl.disassemble import disassemble_one
from trampoline_dsl.image import definitions
from trampoline_dsl.machine_code import Code
from trampoline_dsl.pipeline import compile_module, compile_source
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Architecture, Insn, Target
from trampoline_dsl.targets import all_targets, find_target
from trampoline_dsl.verify import baseline_violations, code_of, verify


@dataclass(frozen=True)
class Case:
    """A target, words for it, and GNU as told of far more than the baseline. `differs`: texts of which GNU as thinks
    otherwise, with reasons beside them."""

    family: str
    wide: tuple[str, ...]
    more: tuple[str, ...] = ()  # directives
    differs: str = r"\0"
    count: int = 40_000


_X86 = Case(
    "x86",
    ("x86_64-linux-gnu-as", "--64"),
    differs=r"endbr"  # does nothing on older machines
    r"|tzcnt "  # is BSF there, for which compilers write it
    r"|bnd |rep|lock"  # prefixes that other instructions do not heed
    r"|(maskmovq|movq|movd|pextrw|cvt\w+) ",  # GNU as prefers another encoding
)
_ARM_WIDE = ("arm-linux-gnueabihf-as", "-march=armv8-a+crc+crypto", "-mfpu=crypto-neon-fp-armv8")
_ARM_MORE = (".arch_extension sec", ".arch_extension virt")
_MIPS_MORE = (".set noreorder", ".set nomacro", ".set noat")
CASES: Mapping[str, Case] = {
    "linux/386": Case("x86", ("i686-linux-gnu-as", "--32"), differs=_X86.differs),
    "linux/amd64": _X86,
    "linux/arm": Case("arm", _ARM_WIDE, _ARM_MORE, differs=r"v(ld|st)[1-4]\."),  # taken for VFPv3's, although SIMD's
    "linux/arm-soft": Case("arm", _ARM_WIDE, _ARM_MORE),
    "linux/arm64": Case(
        "arm64",
        (
            "aarch64-linux-gnu-as",
            "-march=armv8.6-a+sha3+sm4+aes+memtag+rng+bf16+i8mm+fp16fml+dotprod+crc+lse+flagm+tme+profile+predres+ssbs"
            "+sve2+sve2-aes+sve2-sha3+sve2-sm4+sve2-bitperm",
        ),
        differs=r"bfc |m(rs|sr) (\w+, )?am",  # another name of BFM; a register that is not known before
        count=150_000,
    ),
    "linux/mips": Case("mips", ("mips-linux-gnu-as", "-march=mips32r2", "-mabi=32", "-mdsp", "-mdspr2"), _MIPS_MORE),
    "linux/mips-soft": Case(
        "mips",
        ("mips-linux-gnu-as", "-march=mips32r2", "-mabi=32", "-mdsp", "-mdspr2"),
        _MIPS_MORE,
        differs=r"c[tf]c1 ",  # taken without floating point
    ),
    "linux/mips64": Case(
        "mips",
        ("mips64-linux-gnuabi64-as", "-march=mips64r2", "-mabi=64", "-mdsp", "-mdspr2"),
        _MIPS_MORE,
        differs=r"(d?mul|seq|sne) ",  # macros of other instructions
    ),
    "linux/ppc64": Case(
        "ppc",
        ("powerpc64-linux-gnu-as", "-a64", "-mbig", "-mpower10", "-many", "-mregnames"),
        differs=r"(l|st)xvx "  # a name of lxvd2x and stxvd2x too
        r"|vabsdu",  # version 3.0 in the Power ISA's own table, and AltiVec's to GNU as
    ),
    "linux/s390x": Case(
        "sysz",
        ("s390x-linux-gnu-as", "-m64", "-march=z16"),
        differs=r"vfk\w+db",  # z14's, with vector-enhancements facility 1
    ),
}


def accepted(command: Iterable[str], head: Iterable[str], lines: list[str]) -> list[bool]:
    """Which of the lines an assembler takes."""
    before = list(head)
    text = "\n".join([*before, *lines, ""])
    done = subprocess.run([*command, "-o", "/dev/null", "-"], input=text, capture_output=True, text=True, check=False)
    wrong = {int(line) - len(before) - 1 for line in re.findall(r":(\d+): (?:Error|Fatal)", done.stderr)}
    return [index not in wrong for index in range(len(lines))]


@cache
def drawn(target: str) -> dict[str, bytes]:
    """Instructions by their text, one for each name and shape of operands."""
    architecture, case = find_target(target).architecture, CASES[target]
    shapes: dict[str, tuple[str, bytes]] = {}
    for word in words(case.family, 1, case.count):
        found = disassemble_one(architecture, word, 0)
        if not found.text.startswith("."):
            code = word[: found.size]
            shapes.setdefault(re.sub(r"(?<!\w)-?(0x)?[0-9a-f]+|\d+", "", found.text), (found.text, code))
    return dict(shapes.values())


def baseline_assembler(architecture: Architecture) -> list[str]:
    return list(architecture.gnu_as) + (["-mregnames"] if "power" in architecture.gnu_as[0] else [])


@pytest.mark.parametrize("target", CASES)
def test_gnu_as_agrees(target: str) -> None:
    architecture, case = find_target(target).architecture, CASES[target]
    need(case.wide[0])
    need(architecture.gnu_as[0])
    code = drawn(target)
    texts = [text for text in code if not re.match(case.differs, text)]
    narrowing = (".arch", ".fpu", ".machine", ".module", ".eabi")
    head = [line for line in architecture.header if not line.startswith(narrowing)]
    wide = accepted(case.wide, [*head, *case.more], texts)
    narrow = accepted(baseline_assembler(architecture), architecture.header, texts)
    wrong, beyond = [], 0
    for text, far, near in zip(texts, wide, narrow, strict=True):
        if far:
            _, feature = feature_beyond(architecture, code[text])
            beyond += feature is not None
            if (feature is None) != near:
                wrong.append((text, feature))
    assert not wrong
    assert beyond > 20
    assert sum(narrow) > 100


# --------------------------------------------------------------------------------- one by one, on every target there is

# By variant, or by machine: the case that GNU as is told of more by, instructions of the baseline, and instructions
# beyond it with the extension.
POWER10 = (
    *("brd %r3, %r4", "brw %r3, %r4", "brh %r3, %r4", "pdepd %r3, %r4, %r5", "pextd %r3, %r4, %r5"),
    *("cfuged %r3, %r4, %r5", "cntlzdm %r3, %r4, %r5", "cnttzdm %r3, %r4, %r5", "lxvp %vs0, 16(%r3)"),
    *("setbc %r3, 1", "setbcr %r3, 1", "setnbc %r3, 1", "setnbcr %r3, 1", "lxvpx %vs0, %r3, %r4"),
    *("stxvpx %vs0, %r3, %r4", "xxmfacc 0"),
)
PICKED: Mapping[str, tuple[str, tuple[str, ...], Mapping[str, str]]] = {
    "linux/386": (
        "linux/386",
        ("cmovne eax, ecx", "addsd xmm0, xmm1", "fld qword ptr [esp]", "cpuid", "rdtsc", "pause", "endbr32"),
        {"popcnt eax, ecx": "POPCNT", "haddps xmm0, xmm1": "SSE3", "vaddps ymm0, ymm1, ymm2": "AVX"},
    ),
    "linux/amd64": (
        "linux/amd64",
        ("cmovne rax, rcx", "movups xmm0, [rsp]", "fxsave64 [rsp]", "cmpxchg8b [rsp]", "syscall", "lahf", "endbr64"),
        {
            "rdtscp": "RDTSCP",
            "cmpxchg16b [rsp]": "CMPXCHG16B",
            "lzcnt rax, rcx": "LZCNT",
            "shlx eax, ecx, edx": "BMI2",
            "vfmadd231ps xmm0, xmm1, xmm2": "AVX or later",
            "vpaddd zmm0, zmm1, zmm2": "AVX-512",
            "incsspq rax": "CET shadow stacks",
            "vaddph zmm0, zmm1, zmm2": "AVX-512",
        },
    ),
    "linux/arm-soft": (
        "linux/arm",
        ("ldrd r0, r1, [r2]", "clz r0, r1", "umull r0, r1, r2, r3", "blx r0", "smulbb r0, r1, r2"),
        {
            "movw r0, #1": "ARMv6T2",
            "ldrex r0, [r1]": "ARMv6K",
            "uxtb r0, r1": "ARMv6",
            "dmb sy": "ARMv7 barriers",
            "vadd.f64 d0, d1, d2": "floating point",
            "vldmia r0, {d8}": "floating point",
        },
    ),
    "linux/arm": (
        "linux/arm",
        ("movw r0, #1", "ldrexd r0, r1, [r2]", "dmb sy", "vadd.f64 d16, d17, d18", "vmov.f64 d0, #1.0", "rbit r0, r1"),
        {
            "sdiv r0, r1, r2": "ARMv7 division",
            "vadd.i32 q0, q1, q2": "Advanced SIMD",
            "vfma.f64 d0, d1, d2": "VFPv4",
            "lda r0, [r1]": "Armv8",
            "crc32cw r0, r1, r2": "CRC32",
        },
    ),
    "linux/arm64": (
        "linux/arm64",
        ("ldxr x0, [x1]", "fadd d0, d1, d2", "add v0.4s, v1.4s, v2.4s", "paciasp", "bti c", "mrs x0, fpcr"),
        {
            "ldadd x0, x1, [x2]": "LSE",
            "crc32b w0, w1, w2": "CRC32",
            "aese v0.16b, v1.16b": "cryptographic extension",
            "fadd h0, h1, h2": "FP16",
            "add z0.s, z1.s, z2.s": "SVE",
            "retaa": "pointer authentication",
            "ldapr x0, [x1]": "LRCPC",
        },
    ),
    "linux/mips64": (
        "linux/mips64",
        ("daddu $2, $3, $4", "lld $2, 0($3)", "ld $2, 0($3)", "sync", "rdhwr $3, $29"),
        {"movn $2, $3, $4": "MIPS IV", "clz $2, $3": "MIPS32", "dext $2, $3, 1, 2": "MIPS32 release 2"},
    ),
    "linux/mips": (
        "linux/mips",
        ("addu $2, $3, $4", "movn $2, $3, $4", "clz $2, $3", "ll $2, 0($3)", "rdhwr $3, $29"),
        {"ext $2, $3, 1, 2": "MIPS32 release 2", "seb $2, $3": "MIPS32 release 2", "addu.qb $2, $3, $4": "DSP"},
    ),
    "linux/ppc64": (
        "linux/ppc64",
        ("isel %r3, %r4, %r5, 1", "mtvsrd %vs0, %r3", "lxvd2x %vs0, %r3, %r4", "vaddudm %v0, %v1, %v2", "tend. 0"),
        {
            "modsd %r3, %r4, %r5": "POWER9",
            "lxv %vs0, 16(%r3)": "POWER9",
            "addex %r3, %r4, %r5, 0": "POWER9",
            "scv 0": "POWER9",
            **dict.fromkeys(POWER10, "POWER10"),
        },
    ),
    "linux/s390x": (
        "linux/s390x",
        ("vl %v0, 0(%r2)", "lochi %r2, 1, 8", "llzrgf %r2, 0(%r3)", "risbgn %r2, %r3, 0, 63, 0", "tbegin 0(%r2), 1"),
        {
            "mgrk %r2, %r3, %r4": "miscellaneous-instruction-extensions facility 2 (z14)",
            "vfasb %v0, %v1, %v2": "vector-enhancements facility 1 (z14)",
            **dict.fromkeys(
                ("selgr %r2, %r3, %r4, 8", "ncrk %r2, %r3, %r4", "popcnt %r2, %r3, 8", "mvcrl 0(%r2), 0(%r3)"),
                "miscellaneous-instruction-extensions facility 3 (z15)",
            ),
            "vlbr %v0, 0(%r2), 1": "vector-enhancements facility 2 (z15)",
            "vstrs %v0, %v1, %v2, %v3, 0": "vector-enhancements facility 2 (z15)",
            "dfltcc %r2, %r4, %r6": "DEFLATE-conversion facility (z15)",
            "nnpa": "neural-network-processing-assist facility (z16)",
            "rdp %r2, %r4, %r6, 0": "z16",
        },
    ),
}


def picked(target: Target) -> tuple[str, tuple[str, ...], Mapping[str, str]]:
    name = f"linux/{target.name.partition('/')[2]}"
    machine = name.partition("-")[0].removesuffix("le")
    return PICKED[name] if name in PICKED else PICKED[machine]


def listed(architecture: Architecture, texts: Iterable[str], from_: str) -> Code:
    """Code of these instructions, as GNU as makes them that is told of more."""
    case = CASES[from_]
    head = tuple(line for line in architecture.header if line.startswith((".syntax", ".intel", ".set")))
    swapped = "ppc64le" in architecture.name or architecture.name in ("mipsle", "mips64le")
    told = copy.copy(architecture)
    told.header, told.gnu_as, told.object_format = head + case.more, case.wide, "elf"
    made = [snippet.code for snippet in gnu.assemble_each(told, list(texts))]
    made = [b"".join(code[i : i + 4][::-1] for i in range(0, len(code), 4)) if swapped else code for code in made]
    offsets = tuple(sum(map(len, made[:index])) for index in range(len(made)))
    return Code("t", b"".join(made), (), tuple(map(Insn, texts)), offsets, 0, "t.s")


@pytest.mark.parametrize("name", list(all_targets()))
def test_each_target_knows_its_baseline(name: str) -> None:
    target = find_target(name)
    from_, within, beyond = picked(target)
    assert not beyond_baseline(target, listed(target.architecture, within, from_))
    found = beyond_baseline(target, listed(target.architecture, beyond, from_))
    assert [one.feature for one in found] == list(beyond.values())
    assert {one.baseline for one in found} == {target.baseline}


@pytest.mark.parametrize("name", [name for name in all_targets() if "mips" in name and "soft" in name])
def test_floating_point_is_beyond_machines_without(name: str) -> None:
    texts = ("add.d $f0, $f2, $f4", "lwc1 $f0, 0($2)", "bc1t .", "ctc1 $2, $31")
    target, hard = find_target(name), find_target(name.removesuffix("-soft"))
    code = listed(target.architecture, texts, "linux/mips")
    assert [one.feature for one in beyond_baseline(target, code)] == ["floating point"] * len(texts)
    assert not beyond_baseline(hard, code)


@pytest.mark.parametrize("name", list(all_targets()))
def test_what_is_compiled_keeps_to_it(name: str) -> None:
    examples = broken.ROOT / "examples"
    files = [*sorted((examples / "c").glob("*.tramp")), *sorted((examples / "go").glob("*.tramp"))]
    count = 0
    for file in (*files, broken.ROOT / "tests" / "cases" / "judge.tramp"):
        target = find_target(name)
        try:
            program = compile_module(load_module(read_source(file)), target)
        except InputError:
            continue  # it is not for this target
        for artifact in program.own:
            assert beyond_baseline(target, code_of(artifact)) == ()
            count += artifact.instruction_count
    assert count > 100


def test_data_are_not_taken_for_instructions() -> None:
    """What control does not come by, and is not known; it is told where control comes by."""
    target = find_target("linux/arm64")
    reached = Code("t", bytes(8) + b"\xff" * 4, (), (Insn("nop"), Insn("nop"), Insn(".long")), (0, 4, 8), 0, "t.s")
    nop = bytes.fromhex("1f2003d5")
    reached = replace(reached, code=nop * 2 + b"\xff" * 4)
    [found] = beyond_baseline(target, reached)
    assert str(found) == "`ff ff ff ff` is no instruction that is known, beyond the baseline Armv8.0-A"
    left = replace(reached.instructions[1], text="ret", transfer="return")
    assert not beyond_baseline(target, replace(reached, instructions=(reached.instructions[0], left, Insn(".long"))))


def test_a_way_in_behind_a_prefix() -> None:
    """Over LOCK, as malloc of the GNU C library does it: one instruction, and another one within it."""
    code = Code("t", bytes.fromhex("f00fb10f"), (), (Insn("lock cmpxchg [edi], ecx"), Insn("cmpxchg")), (0, 1), 0, "t")
    assert not beyond_baseline(find_target("linux/386"), code)


def test_what_the_disassembler_lacks_of_a_baseline_is_not_beyond_it() -> None:
    target = find_target("linux/ppc64le")
    lswx = Code("t", bytes.fromhex("2a7ca27d"), (), (Insn(".long 0x7da27c2a"),), (0,), 0, "t.s")
    assert feature_beyond(target.architecture, lswx.code) == ("2a 7c a2 7d", None)
    assert not beyond_baseline(target, lswx)


# ---------------------------------------------------------------------------------------------------------- obligations

ASM = """
trampoline count(x: uptr) -> uptr using c {
    let bits: uptr = 0
    asm amd64 { in rcx = x  out rax = bits  "TEXT" }
    return bits
}
"""


def test_an_asm_block_beyond_it_violates_flow() -> None:
    def verdict(text: str) -> tuple[str, list[str]]:
        program = compile_source(Source("t.tramp", ASM.replace("TEXT", text)), [find_target("linux/amd64")])
        [found] = verify(program["linux/amd64"], runs=2)
        return found.obligations["flow"].state, [v.message for v in found.violations]

    message = "`popcnt rax, rcx` is of POPCNT, beyond the baseline x86-64-v1 (GOAMD64=v1)"
    assert verdict("popcnt rax, rcx") == ("violated", [message])
    assert verdict("lea rax, [rcx+rcx]") == ("held", [])


def test_a_finding_names_the_place() -> None:
    target = find_target("linux/arm64")
    code = listed(target.architecture, ("add x0, x1, x2", "ldadd x0, x1, [x2]"), "linux/arm64")
    [violation] = baseline_violations(target, code)
    assert (violation.obligation, violation.address, violation.instruction) == ("flow", 4, "ldadd x0, x1, [x2]")


def test_code_from_elsewhere_is_audited_by_it(tmp_path: Path) -> None:
    """What never runs is judged where it is in the function, and what runs of others that it calls."""
    target = find_target("linux/amd64")
    text = "trampoline t(x: uptr) -> uptr using c"
    program = compile_source(Source("t.tramp", text), [target])["linux/amd64"]
    code = """
        .intel_syntax noprefix
        .globl t
        .type t, @function
        t: cmp rdi, 0x1234567
           je 1f
           call helper
           ret
        1: mov eax, 5
           jmp 2f
        2: BEYOND
           ret
        .size t, .-t
        .type helper, @function
        helper: mov rax, rdi
           INSIDE
           ret
        .size helper, .-helper
    """

    def findings(inside: str, beyond: str) -> set[tuple[str, str, int | None, str]]:
        source = code.replace("INSIDE", inside).replace("BEYOND", beyond)
        command = [need("x86_64-linux-gnu-as"), "--64", "-o", str(tmp_path / "t.o"), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        image = read_image((tmp_path / "t.o").read_bytes(), "t.o")
        [verdict] = audit(image, definitions(image, ["t"]), program, runs=4)
        return {(v.obligation, v.function, v.address, v.message) for v in verdict.violations}

    assert findings("nop", "nop") == set()
    message = "`popcnt rax, rax` is of POPCNT, beyond the baseline x86-64-v1 (GOAMD64=v1)"
    assert findings("popcnt rax, rax", "nop") == {("flow", "helper", 3, message)}
    assert findings("nop", "lzcnt eax, eax") == {
        ("flow", "t", 0x16, "`lzcnt eax, eax` is of LZCNT, beyond the baseline x86-64-v1 (GOAMD64=v1)")
    }
