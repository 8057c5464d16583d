"""The obligation `unwind` in files from elsewhere: what compilers say of their functions holds, and what is wrong is
found. So DWARF's numbers and the CFA are those that compilers mean."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tools import need

from trampoline_dsl import audit_file, compile_text
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import find_symbol, read_image
from trampoline_dsl.target import Bank, Register, Target
from trampoline_dsl.targets import default_targets, find_target

# gcc for MinGW has call frame information on 386 alone.
TARGETS = [target.name for target in default_targets() if target.os == "linux" or target.name == "windows/386"]

# f saves whatever its convention keeps; v has a frame whose size nobody knows beforehand.
FUNCTIONS = """
void g(void), h(int *);
int f(int x) { {clobbers} g(); return x; }
int v(int x) { int a[x & 63]; h(a); return a[0]; }
"""
CONTRACT = """
extern g() using c
extern h(x: ptr) using c
trampoline f(x: i32) -> i32 using c
trampoline v(x: i32) -> i32 using c
"""
# Position-dependent code that calls directly; without traceback tables behind functions, which are no code.
PLAIN = ("-fno-pic", "-fno-stack-protector", "-fasynchronous-unwind-tables", "-g", "-c")
OPTIONS = {
    "linux/arm": ("-marm",),
    "linux/mips": ("-mno-abicalls",),
    "linux/mipsle": ("-mno-abicalls",),
    "linux/ppc64": ("-maltivec", "-mtraceback=no"),
    "linux/ppc64le": ("-maltivec", "-mtraceback=no"),
    "windows/386": ("-mno-stack-arg-probe",),
}
LEVELS = {"optimized": ("-O2",), "frame pointer": ("-O0", "-fno-omit-frame-pointer")}
FRAME_POINTERS = ("ebp", "rbp", "x29", "fp")


def saved_by_gcc(target: Target, level: str) -> dict[Register, str]:
    """The registers that a C function can be made to save, and what gcc calls them."""
    architecture, found = target.architecture, dict[Register, str]()
    for register in architecture.conventions["c"].kept:
        name, family = register.name, architecture.family
        if register not in architecture.unwinding().numbers or register in (architecture.sp, architecture.toc):
            continue
        if name in ("gp", "x18") or (name == "r13" and family == "ppc64"):
            continue  # of position-independent code, of the platform, of threads
        others = {"arm": "r11", "ppc64": "r31", "s390x": "r11"}
        if level == "frame pointer" and (name in FRAME_POINTERS or name == others.get(family)):
            continue
        if family == "mips":
            name = f"${name}"
        elif family == "ppc64" and register.bank is Bank.FLOAT:
            name = f"fr{register.number}"
        found[register] = name
    return found


def gcc(target: Target, text: str, folder: Path, *options: str) -> bytes:
    made, source = folder / "made.o", folder / "made.c"
    source.write_text(text, "utf-8")
    program = need(target.architecture.gnu_as[0].removesuffix("as") + "gcc")
    more = (*PLAIN, *OPTIONS.get(target.name, ()), *options)
    subprocess.run([program, *more, "-o", str(made), str(source)], check=True, timeout=60)
    return made.read_bytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_gcc_says_of_its_functions_holds(target: str, level: str, tmp_path: Path) -> None:
    chosen = find_target(target)
    numbers = chosen.architecture.unwinding()
    registers = saved_by_gcc(chosen, level)
    clobbers = " ".join(f'__asm__ volatile("" ::: "{name}");' for name in registers.values())
    image = read_image(gcc(chosen, FUNCTIONS.replace("{clobbers}", clobbers), tmp_path, *LEVELS[level]), "made.o")
    symbols = {name: find_symbol(image, name) for name in "fv"}
    start = symbols["f"].code
    assert image.unwindings is not None
    assert start is not None
    table = image.unwindings.of(start, image.end(symbols["f"]))
    assert table is not None
    rules = {number for frame in table.frames if frame is not None for number in frame.places}
    for register in registers:
        assert rules & {numbers.numbers[register], *numbers.also.get(register, ())}, register
    for verdict in audit(image, symbols, compile_text(CONTRACT, target), runs=2):
        assert verdict.obligations["unwind"].state == "held", verdict.violations


WALKED = """
.globl right, wrong, silent
.type right, %function
right: .cfi_startproc
push %rbx; .cfi_adjust_cfa_offset 8; .cfi_rel_offset rbx, 0
mov %edi, %ebx; call g@PLT; mov %ebx, %eax
pop %rbx; .cfi_adjust_cfa_offset -8
ret; .cfi_endproc; .size right, . - right
.type wrong, %function
wrong: .cfi_startproc
push %rbx; .cfi_adjust_cfa_offset 8
mov %edi, %ebx; call g@PLT; mov %ebx, %eax
pop %rbx; .cfi_adjust_cfa_offset -8
ret; .cfi_endproc; .size wrong, . - wrong
.type silent, %function
silent: push %rbx; mov %edi, %ebx; call g@PLT; mov %ebx, %eax; pop %rbx; ret; .size silent, . - silent
"""


@pytest.mark.parametrize("linked", [False, True], ids=["object", "shared library"])
def test_an_audit_walks_by_what_the_file_says(linked: bool, tmp_path: Path) -> None:
    made, library = tmp_path / "made.o", tmp_path / "made.so"
    assembler = [need("x86_64-linux-gnu-as"), "-o", str(made), "-"]
    subprocess.run(assembler, input=WALKED.encode(), check=True, timeout=60)
    linker = [need("x86_64-linux-gnu-ld"), "-shared", "-o", str(library), str(made)]
    subprocess.run(linker, check=True, timeout=60)
    image = read_image((library if linked else made).read_bytes(), "made")
    names = ("right", "wrong", "silent")
    source = "extern g() using c\n" + "\n".join(f"trampoline {name}(x: i32) -> i32 using c" for name in names)
    symbols = {name: find_symbol(image, name) for name in names}
    verdicts = audit(image, symbols, compile_text(source, "linux/amd64"), runs=2)
    assert [v.obligations["unwind"].state for v in verdicts] == ["held", "violated", "not applicable"]
    assert verdicts[2].obligations["unwind"].reason == "there is no unwind information for it"
    assert [(v.obligation, v.register, v.address) for v in verdicts[1].violations] == [("unwind", "rbx", 3)]


MINGW = """
.globl _right, _wrong
_right: .cfi_startproc
push %ebx; .cfi_adjust_cfa_offset 4; .cfi_rel_offset ebx, 0
mov 8(%esp), %ebx; call _g; mov %ebx, %eax
pop %ebx; .cfi_adjust_cfa_offset -4
ret; .cfi_endproc
.p2align 4
_wrong: .cfi_startproc
push %ebx; .cfi_adjust_cfa_offset 4
mov 8(%esp), %ebx; call _g; mov %ebx, %eax
pop %ebx; .cfi_adjust_cfa_offset -4
ret; .cfi_endproc
"""


@pytest.mark.parametrize("linked", [False, True], ids=["object", "library"])
def test_call_frame_information_in_windows_files(linked: bool, tmp_path: Path) -> None:
    made, library = tmp_path / "made.o", tmp_path / "made.dll"
    text = MINGW + (".globl _g\n_g: ret\n" if linked else "")
    subprocess.run([need("i686-w64-mingw32-as"), "-o", str(made), "-"], input=text.encode(), check=True, timeout=60)
    linker = [need("i686-w64-mingw32-ld"), "-shared", "-e", "0", "-o", str(library), str(made)]
    if linked:
        subprocess.run(linker, check=True, timeout=60)
    image = read_image((library if linked else made).read_bytes(), "made")
    names = ("right", "wrong")
    source = "extern g() using c\n" + "\n".join(f"trampoline {name}(x: i32) -> i32 using c" for name in names)
    symbols = {name: find_symbol(image, name) for name in names}
    verdicts = audit(image, symbols, compile_text(source, "windows/386"), runs=2)
    assert [v.obligations["unwind"].state for v in verdicts] == ["held", "violated"]
    assert {(v.obligation, v.register) for v in verdicts[1].violations} == {("unwind", "ebx")}


GENERAL = """\
    .text
    .globl f
    .type f, %function
f:
    .cfi_startproc
    stp x29, x30, [sp, #-16]!
    .cfi_def_cfa_offset 16
    .cfi_offset 29, -16
    .cfi_offset 30, -8
    mov x29, {value}
    bl g
    ldp x29, x30, [sp], #16
    .cfi_restore 29
    .cfi_restore 30
    .cfi_def_cfa_offset 0
    ret
    .cfi_endproc
    .size f, .-f
"""


@pytest.mark.parametrize(("value", "state"), [("x0", "violated"), ("sp", "held")])
def test_a_frame_pointer_is_for_nothing_else(value: str, state: str, tmp_path: Path) -> None:
    """arm64: AAPCS64, "The frame pointer"."""
    (tmp_path / "f.tramp").write_text("extern g(a: uptr) using c\ntrampoline f(a: uptr) using c\n")
    (tmp_path / "f.s").write_text(GENERAL.format(value=value))
    command = [need("aarch64-linux-gnu-as"), "f.s", "-o", "f.o"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    [verdict] = audit_file(tmp_path / "f.o", "f", tmp_path / "f.tramp", runs=2).verdicts
    assert verdict.obligations["unwind"].state == state
    assert {v.obligation for v in verdict.violations} == ({"unwind"} if state == "violated" else set())
