"""Files of machine code: what is read from them is what was put there."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import time
from pathlib import Path

import broken
import cross
import go_tools
import pytest
from tools import need

from trampoline_dsl.binary import Image, ImageError, find_symbol, read_file, read_image, read_raw
from trampoline_dsl.decode import code_of_function
from trampoline_dsl.objects import has_objects, make_object
from trampoline_dsl.target import Target
from trampoline_dsl.targets import all_targets, find_target

CASES = [broken.ROOT / "tests" / "cases" / "variables.tramp", broken.ROOT / "examples" / "c" / "float_arguments.tramp"]
TARGETS = [t for t in all_targets().values() if has_objects(t)]
C = """
extern int outside(int); extern int variable; static int own; int table[10];
__attribute__((noinline)) static int helper(int x) { return x * own; }
int f(int x) { own = x; return outside(x) + variable + helper(x) + table[3]; }
"""


def code(image: Image, name: str) -> bytes:
    symbol = find_symbol(image, name)
    assert symbol.code is not None
    return image.bytes_at(symbol.code, image.end(symbol) - symbol.code)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_object_of_ours_has_the_bytes_and_relocations_of_its_artifacts(target: Target, case: Path) -> None:
    need(target.architecture.gnu_as[0])
    compiled = broken.compiled(target.name, case)
    image = read_image(make_object(target, compiled.text), "object.o")
    assert image.relocatable
    assert not image.movable
    # An object says no more of floating point than that it is for the machine.
    assert target.name in image.targets or (target.variant and not image.targets[0].startswith("windows"))
    c_names = dict(re.findall(r"^\.set (\S+), (\S+)$", compiled.text, re.MULTILINE))
    for artifact in compiled.own:
        symbol = find_symbol(image, artifact.name)
        assert symbol.kind == "function"
        assert code(image, artifact.name)[: len(artifact.code)] == artifact.code
        start = symbol.code or 0
        inside = [r for r in image.relocations if start <= r.offset < start + len(artifact.code)]
        assert [(r.offset - start, r.type, r.symbol, r.addend) for r in inside] == [
            (r.offset, r.type, c_names.get(r.symbol, r.symbol), r.addend) for r in artifact.relocations
        ]


def build(go: go_tools.Go, folder: Path, environment: dict[str, str], *options: str) -> None:
    """Build made.go of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = go.run("build", *options, "-o", "made", "made.go", cwd=folder)
    assert done.returncode == 0, done.stderr


def assembled(prefix: str, text: str, folder: Path, *options: str) -> bytes:
    """An object of text that GNU as takes."""
    program = need(f"{prefix}-as")
    made = folder / "made.o"
    subprocess.run([program, *options, "-o", str(made), "-"], input=text.encode(), check=True, timeout=60)
    return made.read_bytes()


def test_symbols_are_found_as_people_write_them(tmp_path: Path) -> None:
    text = """.text
    .globl a, _b, runtime.c.abi0, "d·e"
    a: nop
    1: nop
    _b: ret
    runtime.c.abi0: ret
    "d·e": ret
    local: ret
    .type function, %function
    function: ret
    .globl undefined
    call undefined
    """
    image = read_image(assembled("x86_64-linux-gnu", text, tmp_path), "made.o")
    for name, exact in (("a", "a"), ("b", "_b"), ("runtime.c", "runtime.c.abi0"), ("d.e", "d·e"), ("local", "local")):
        assert find_symbol(image, name).name == exact
    assert image.end(find_symbol(image, "a")) == find_symbol(image, "_b").code
    assert find_symbol(image, hex(find_symbol(image, "_b").address or 0)).name == "_b"
    with pytest.raises(ImageError, match="no symbol `functoin`") as refused:
        find_symbol(image, "functoin")
    assert refused.value.notes == ("there is `function`",)
    with pytest.raises(ImageError, match="`undefined` is not defined in"):
        find_symbol(image, "undefined")
    with pytest.raises(ImageError, match=r"nothing of made\.o is at 0x900000"):
        find_symbol(image, "0x900000")


def test_local_symbols_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one.o", tmp_path / "two.o"
    text = ".data\nplace: .quad {0}\n.text\n.type same, %function\nsame: mov $place, %rax\nret\n"
    for path, number in ((one, 1), (two, 2)):
        path.write_bytes(assembled("x86_64-linux-gnu", text.format(number), tmp_path))
    both = tmp_path / "both.o"
    subprocess.run([need("x86_64-linux-gnu-ld"), "-r", "-o", str(both), str(one), str(two)], check=True, timeout=60)
    image = read_image(both.read_bytes(), "both.o")
    with pytest.raises(ImageError, match=r"`same` is several symbols in both\.o") as refused:
        find_symbol(image, "same")
    first, second = (note.rpartition(" ")[2] for note in refused.value.notes[:2])
    assert find_symbol(image, first).code != find_symbol(image, second).code
    values = [image.addresses[r.symbol] + r.addend for r in image.relocations if r.type == "R_X86_64_32S"]
    assert [int.from_bytes(image.bytes_at(value, 8), "little") for value in values] == [1, 2]


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "not machine code"), (b"\x7fELF", "cut off"), (b"x" * 99, "not mach")]
)
def test_what_is_no_machine_code_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_image(data, "made")


def test_a_descriptor_among_the_code_leads_to_it(tmp_path: Path) -> None:
    """As Go's linker writes them for ELFv1, without a section of their own."""
    text = ".text\n.globl f\n.type f, %function\nf: .quad code, 0, 0\ncode: blr\n.globl _start\n_start: trap\n"
    (tmp_path / "object.o").write_bytes(assembled("powerpc64-linux-gnu", text, tmp_path, "-a64", "-mbig"))
    made = tmp_path / "made"
    command = [need("powerpc64-linux-gnu-ld"), "-static", "-o", str(made), str(tmp_path / "object.o")]
    subprocess.run(command, check=True, timeout=60)
    image = read_file(made)
    found = code_of_function(image, find_symbol(image, "f"), find_target("linux/ppc64"))
    assert [insn.text for insn in found.instructions][:1] == ["blr"]


def compiled_c(command: str, folder: Path, *options: str) -> bytes:
    """An object of C's compiler, with debug information."""
    program, *rest = command.split()
    source, made = folder / "made.c", folder / "made.o"
    source.write_text(C)
    subprocess.run(
        [need(program), *rest, "-g", "-O1", *options, "-c", "-o", str(made), str(source)], check=True, timeout=60
    )
    return made.read_bytes()


OBJECTS = {
    **{name: cross.compiler(name) for name in (*cross.MACHINES, "windows/386", "windows/amd64")},
    "linux/arm": f"{cross.compiler('linux/arm')} -marm",
    "windows/arm64": "clang-14 --target=aarch64-windows-gnu",
    "Mach-O, linux/amd64": "clang-14 --target=x86_64-apple-macos",
    "Mach-O, linux/arm64": "clang-14 --target=arm64-apple-macos",
    "MSVC, windows/amd64": "clang-14 --target=x86_64-pc-windows-msvc -gdwarf",
    "MSVC, windows/386": "clang-14 --target=i686-pc-windows-msvc -gdwarf",
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_of_a_c_compiler(name: str, tmp_path: Path) -> None:
    """Its functions, what they call, the lines that they come from, and the places of its variables."""
    target = find_target(name.rpartition(" ")[2])
    image = read_image(compiled_c(OBJECTS[name], tmp_path), "made.o")
    assert image.targets[0] == target.name
    assert image.relocatable
    f, helper = find_symbol(image, "f"), find_symbol(image, "helper")
    assert not f.local
    assert helper.local
    assert f.code is not None
    assert (image.line(f.code) or ("", 0))[0].endswith("made.c")
    assert (image.line(f.code) or ("", 0))[1] == 4
    assert (image.line(helper.code or 0) or ("", 0))[1] == 3
    code = code_of_function(image, f, target)
    named = {r.symbol.lstrip("_.") for r in code.relocations}
    assert "outside" in named
    if target.architecture.family != "ppc64":  # there variables are found by words of the table of contents
        assert "variable" in named | {s.removeprefix("refptr.") for s in named}
    calls = [insn.text for insn in code.instructions if insn.transfer in ("call", "jump")]
    texts = " ".join(calls)
    if target.architecture.family != "mips":  # there calls go through a register
        assert "outside" in texts
        assert "helper" in texts
    # What is not of the code itself is filled with whole addends: the variable is where a section has it.
    for relocation in code.relocations:
        if relocation.symbol in image.addresses:
            place = image.addresses[relocation.symbol] + relocation.addend
            assert any(section.address - 8 <= place <= section.end + 8 for section in image.sections)


def test_members_of_archives(tmp_path: Path) -> None:
    ar = need("llvm-ar-14")
    for name in ("one", "a_member_whose_name_is_long"):
        (tmp_path / f"{name}.o").write_bytes(assembled("x86_64-linux-gnu", f".globl {name}\n{name}: ret\n", tmp_path))
    (tmp_path / "made.o").unlink()
    objects = sorted(str(path) for path in tmp_path.glob("*.o"))
    for options in (["--format=gnu", "rc"], ["--format=bsd", "rc"], ["--format=gnu", "--thin", "rc"]):
        library = tmp_path / f"{'_'.join(options)}.a"
        subprocess.run([ar, *options, str(library), *objects], check=True, timeout=60, cwd=tmp_path)
        for name in ("one", "a_member_whose_name_is_long"):
            image = read_file(library, f"{name}.o")
            assert find_symbol(image, name).code
        with pytest.raises(ImageError, match="say which of its members") as refused:
            read_file(library)
        assert "one.o" in refused.value.notes[0]
        with pytest.raises(ImageError, match=r"has no member `two\.o`"):
            read_file(library, "two.o")


def test_mach_o_for_several_machines(tmp_path: Path) -> None:
    parts = []
    for machine in ("x86_64", "arm64"):
        parts.append(tmp_path / machine)
        parts[-1].write_bytes(compiled_c(f"clang-14 --target={machine}-apple-macos", tmp_path))
    fat = tmp_path / "fat.o"
    command = [need("llvm-lipo-14"), "-create", *map(str, parts), "-output", str(fat)]
    subprocess.run(command, check=True, timeout=60)
    assert read_file(fat, "arm64").targets == ("linux/arm64",)
    assert read_file(fat, "amd64").targets == ("linux/amd64",)
    with pytest.raises(ImageError, match="several machines") as refused:
        read_file(fat)
    assert refused.value.notes == ("it has amd64, arm64",)


LINKED = (
    *("linux/amd64", "linux/386", "linux/arm64", "linux/mips", "linux/ppc64", "linux/ppc64le", "linux/s390x"),
    *("windows/amd64", "windows/386"),
)


@pytest.mark.parametrize("name", LINKED)
def test_a_shared_library_says_what_its_loader_fills(name: str, tmp_path: Path) -> None:
    source, made = tmp_path / "made.c", tmp_path / "made.so"
    source.write_text('#include <stdio.h>\nint f(int x) { return puts("") + x; }\nvoid *place = &f;\n')
    command = [
        need(cross.compiler(name)),
        "-O1",
        "-shared",
        *(["-fPIC"] if "linux" in name else []),
        "-o",
        str(made),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=60)
    strip = need(f"{cross.prefix(name)}strip")
    for stripped in (False, True):
        if stripped:
            subprocess.run([strip, str(made)], check=True, timeout=60)
        image = read_file(made)
        assert image.targets[0] == name
        assert image.movable
        assert not image.relocatable
        f = find_symbol(image, "f")
        assert f.kind == "function"
        assert image.section(f.code or 0)
        assert any(r.symbol == "puts" for r in image.relocations)
        place = find_symbol(image, "place").address
        [filled] = [r for r in image.relocations if r.offset == place]
        assert image.addresses[filled.symbol] + filled.addend == f.address


GO = ("windows/arm", "darwin/arm64")


@pytest.mark.parametrize("name", GO)
def test_a_binary_of_go(name: str, tmp_path: Path) -> None:
    """Its functions by the names of their sources; the code is in the machine's first instruction set."""
    go = go_tools.before((1, 24))  # the last that has windows/arm
    (tmp_path / "made.go").write_text("package main\nfunc main() {}\n")
    system, machine = name.split("/")
    build(go, tmp_path, {"GOOS": system, "GOARCH": machine})
    started = time.process_time()
    image = read_file(tmp_path / "made")
    assert time.process_time() - started < 1.5
    symbol = find_symbol(image, "runtime·memmove")
    code = code_of_function(image, symbol, find_target(name.replace("darwin", "linux")))
    assert any(insn.transfer == "return" for insn in code.instructions)
    assert not any(insn.text.startswith(".") for insn in code.instructions[:8])
    found = image.line(symbol.code or 0)
    assert found is not None
    assert found[0].endswith(".s")
    build(go, tmp_path, {"GOOS": system, "GOARCH": machine}, "-ldflags=-s -w")
    stripped = read_file(tmp_path / "made")
    assert find_symbol(stripped, "runtime·memmove").code == symbol.code
    assert stripped.line(symbol.code or 0) is None


def test_bytes_alone() -> None:
    target = find_target("linux/s390x")
    image = read_raw(bytes.fromhex("07fe"), "made.bin", target, 0x4000)
    code = code_of_function(image, find_symbol(image, "0x4000"), target)
    assert [insn.transfer for insn in code.instructions] == ["return"]
    assert code_of_function(image, find_symbol(image, "made"), target) == code
    with pytest.raises(ImageError, match="does not fit at"):
        read_raw(b"\0" * 8, "made.bin", find_target("linux/arm"), 0xFFFFFFFC)


FUZZED = ("linux/amd64", "linux/mips64", "linux/ppc64", "windows/amd64", "Mach-O, linux/arm64")


@pytest.mark.parametrize("name", FUZZED)
def test_a_damaged_file_is_refused_in_words(name: str, tmp_path: Path) -> None:
    """Cut off, or with bytes changed: it is read, or ImageError says what is wrong with it."""
    whole = compiled_c(OBJECTS[name], tmp_path)
    random_ = random.Random(name)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random_.choice((0, 1, 4))):
            data[random_.randrange(random_.choice((64, 512, len(data))))] = random_.randrange(256)
        if random_.random() < 0.5:
            del data[random_.randrange(len(data)) :]
        with contextlib.suppress(ImageError):
            image = read_image(bytes(data), "made")
            for symbol in image.symbols:
                if symbol.kind == "function" and symbol.code is not None:
                    code_of_function(image, symbol, find_target(image.targets[0]))
                    image.line(symbol.code)
