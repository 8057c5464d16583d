"""Machine code to instructions: what they do to the flow of control, and what is code at all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import broken
import pytest
from tools import need

from trampoline_dsl.binary import Image, ImageError, Section, Symbol, find_symbol, read_image
from trampoline_dsl.decode import code_of_function
from trampoline_dsl.diagnostics import InputError
from trampoline_dsl.pipeline import Artifact
from trampoline_dsl.target import Insn, Target
from trampoline_dsl.targets import all_targets, find_target

BASE = 0x10000
EXAMPLES = sorted((broken.ROOT / "examples").rglob("*.tramp"))


def image_of(artifact: Artifact) -> Image:
    symbol = Symbol(artifact.name, BASE, len(artifact.code), "function", False, BASE)
    section = Section(".text", BASE, artifact.code, True, False)
    relocations = tuple(replace(r, offset=r.offset + BASE) for r in artifact.relocations)
    return Image("made", "elf", (artifact.target.name,), True, False, (section,), (symbol,), relocations, {})


def flow(instructions: Iterable[Insn], offsets: Iterable[int]) -> dict[int, tuple[str, bool, int | None]]:
    """What each instruction does to the flow of control, with the offset that it goes to."""
    listing = list(zip(instructions, offsets, strict=True))
    labels = {insn.label: offset for insn, offset in listing if insn.label is not None}
    return {
        # In our code for arm, an addition to the program counter passes over a word of data.
        offset: ("jump", False, offset + 8)
        if insn.text == "add pc, pc, #0"
        else (insn.transfer, insn.delay_slot, labels[insn.target] if insn.target is not None else None)
        for insn, offset in listing
        if insn.label is None
    }


@pytest.mark.parametrize("target", all_targets().values(), ids=lambda target: target.name)
def test_our_own_code_is_decoded_to_what_the_compiler_said(target: Target) -> None:
    count = 0
    for path in EXAMPLES:
        try:
            compiled = broken.compiled(target.name, path)
        except InputError:
            continue
        for artifact in compiled.own:
            [symbol] = image_of(artifact).symbols
            decoded = code_of_function(image_of(artifact), symbol, target)
            assert decoded.code == artifact.code
            assert decoded.relocations == artifact.relocations
            assert flow(decoded.instructions, decoded.offsets) == flow(artifact.instructions, artifact.offsets)
            count += 1
    assert count > 10


# What compilers and people write, and our own compiler does not: text for GNU as, and what each line is.
SPELLINGS = {
    "linux/386": "ret $8:return; jmp *%eax:jump; jmp *4(%eax):jump; call *(%eax):call; int $0x80:system; int3:trap; "
    "rep ret:return; jecxz .:branch; loop .:branch; jmp far:jump; hlt:trap; call .+5:none; nop:none; push $1:none",
    "linux/amd64": "ret:return; jmp *%rax:jump; jmp *far(%rip):jump; call *%r11:call; syscall:system; ud2:trap; "
    "notrack jmp *%rax:jump; bnd ret:return; jrcxz .:branch; js .:branch; call far:call; endbr64:none",
    "linux/arm": "bx lr:return; bxeq lr:return; bx r3:jump; blx r3:call; bl far:call; bleq far:call; b far:jump; "
    "beq far:branch; blt far:branch; pop {r4, pc}:return; ldmfd sp!, {r4, pc}:return; ldr pc, [sp], #4:return; "
    "ldmdb r11, {r11, sp, pc}:return; ldr pc, [r3]:jump; mov pc, lr:return; mov pc, r3:jump; movs pc, lr:return; "
    "add pc, pc, r3, lsl #2:jump; svc 0:system; udf #0:trap; bkpt:trap; mul r0, r1, r2:none; strh r0, [r1]:none; "
    "ldrd r2, [r4]:none; cmp r0, r15:none; clz r0, r1:none; ldr r0, [pc, #4]:none",
    "linux/arm64": "ret:return; ret x3:return; br x30:return; br x16:jump; blr x8:call; bl far:call; b far:jump; "
    "b.eq far:branch; cbz x0, .:branch; tbnz w0, #3, .:branch; svc #0:system; brk #1:trap; udf #0:trap; hlt #1:trap; "
    "hint #34:none; adr x0, .:none",
    "linux/mips": "jr $ra:return; jr $t9:jump; jalr $t9:call; jal far:call; j far:jump; b .:jump; bal far:call; "
    "beqz $a0, .:branch; bnel $a0, $a1, .:branch; bgezal $a0, .:call; bc1t .:branch; syscall:system; break:trap; "
    "teq $0, $0:trap; teq $a0, $0:none; bltz $a0, .:branch; blezl $a0, .:branch",
    "linux/ppc64": "blr:return; beqlr:return; bnelr cr7:return; bctr:jump; bctrl:call; blrl:call; bl far:call; "
    "beq cr7, .:branch; bdnz .:branch; bc 20, 0, .:jump; bcl 20, 31, .+4:none; sc:system; trap:trap; "
    "tdeqi 3, 0:none; beqctr:branch; .long 0:trap; mtctr 12:none",
    "linux/s390x": "br %r14:return; ber %r14:return; br %r1:jump; bnor %r0:none; bcr 0, %r5:none; basr %r14, %r1:call; "
    "basr %r13, %r0:none; brasl %r14, far:call; bras %r14, .:call; jg far:jump; jge far:branch; j .:jump; "
    "brct %r1, .:branch; brctg %r1, .:branch; cgrje %r1, %r2, .:branch; cij %r1, 3, 8, .:branch; svc 1:system; "
    "bct %r1, 0(%r2):branch; "
    "b 0(%r1):jump; bxle %r1, %r2, 0(%r3):branch; brcl 0, far:none; cgrbe %r1,%r2,0(%r3):branch",
}
BIG = {"linux/mips": "linux/mipsle", "linux/ppc64": "linux/ppc64le"}


@pytest.mark.parametrize("name", [*SPELLINGS, *BIG.values()])
def test_the_spellings_of_others_are_told_apart(name: str, tmp_path: Path) -> None:
    target = find_target(name)
    written = SPELLINGS.get(name) or SPELLINGS[{little: big for big, little in BIG.items()}[name]]
    lines = [line.rpartition(":")[::2] for line in written.split("; ")]
    mips = target.architecture.family == "mips"
    # A function for each: what stands behind a jump is not reached.
    text = "".join(
        f".globl f{number}\nf{number}: {line}\n{'nop' if mips else ''}\n" for number, (line, _) in enumerate(lines)
    )
    need(target.architecture.gnu_as[0])
    made = tmp_path / "made.o"
    options = {"linux/386": ["--32"], "linux/amd64": ["--64"], "linux/arm": ["-march=armv7-a"]}
    command = [target.architecture.gnu_as[0], *options.get(name, target.architecture.gnu_as[1:])]
    head = "\t.set noreorder\n.set noat\n" if mips else ""
    subprocess.run([*command, "-o", str(made), "-"], input=(head + text).encode(), check=True, timeout=60)
    image = read_image(made.read_bytes(), "made.o")
    found = []
    for number, (line, _) in enumerate(lines):
        decoded = code_of_function(image, find_symbol(image, f"f{number}"), target)
        first = next(insn for insn in decoded.instructions if insn.label is None)
        found.append((line, first.transfer))
        assert first.delay_slot == (mips and first.transfer in ("call", "jump", "return", "branch"))
    assert found == lines


def decoded(text: str, target: str, folder: Path, name: str = "f") -> list[tuple[int, str]]:
    """The offsets and texts of a function that GNU as has assembled."""
    command = find_target(target).architecture.gnu_as
    need(command[0])
    made = folder / "made.o"
    subprocess.run([*command, "-o", str(made), "-"], input=text.encode(), check=True, timeout=60)
    image = read_image(made.read_bytes(), "made.o")
    code = code_of_function(image, find_symbol(image, name), find_target(target))
    return [(o, i.text) for i, o in zip(code.instructions, code.offsets, strict=True) if i.label is None]


def test_data_and_padding_need_not_run(tmp_path: Path) -> None:
    pool = "f: ldr r0, 1f\nbx lr\nnop\n1: .word 0xe1a00000\n.globl f\n"
    assert decoded(pool, "linux/arm", tmp_path)[2:] == [(8, ".long 0xe320f000"), (12, ".long 0xe1a00000")]
    behind = "f: jmp *%rax\n.balign 16\n.globl g\ng: ret\n"
    [first, *others] = decoded(behind, "linux/amd64", tmp_path)
    assert first == (0, "jmp rax")
    assert [offset for offset, _ in others] == [2, 4, 8, 12]
    assert all(text.startswith((".byte", ".long")) for _, text in others)


def test_the_cases_of_a_jump_table_are_code(tmp_path: Path) -> None:
    text = ".text\nf: jmp *table(,%rdi,8)\none: mov $1, %eax\nret\ntwo: mov $2, %eax\nret\n"
    table = ".section .rodata\ntable: .quad one, two\n"
    found = [text for _, text in decoded(text + table, "linux/amd64", tmp_path)]
    assert found[1:] == ["mov eax, 1", "ret", "mov eax, 2", "ret"]


def test_what_is_called_has_its_name(tmp_path: Path) -> None:
    text = ".text\n.globl f\nf: bl there\nbl helper\nret\n.globl helper\nhelper: ret\n"
    found = [text for _, text in decoded(text, "linux/arm64", tmp_path)]
    assert found == ["bl there", "bl #0x100c <helper>", "ret"]


def test_other_instruction_sets_are_refused_by_name(tmp_path: Path) -> None:
    text = ".thumb\n.globl f\n.type f, %function\n.thumb_func\nf: bx lr\n"
    with pytest.raises(ImageError, match=r"`f` in made\.o is Thumb code, which is not supported"):
        decoded(text, "linux/arm", tmp_path)
