"""Files of machine code: what is read from them is what was put there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import broken
import pytest
from tools import need

from trampoline_dsl.binary import Image, ImageError, find_symbol, read_image
from trampoline_dsl.objects import has_objects, make_object
from trampoline_dsl.target import Target
from trampoline_dsl.targets import all_targets

CASES = [broken.ROOT / "tests" / "cases" / "variables.tramp", broken.ROOT / "examples" / "c" / "float_arguments.tramp"]
ELF = [t for t in all_targets().values() if has_objects(t) and t.architecture.object_format == "elf"]


def code(image: Image, name: str) -> bytes:
    symbol = find_symbol(image, name)
    assert symbol.code is not None
    return image.bytes_at(symbol.code, image.end(symbol) - symbol.code)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("target", ELF, ids=lambda target: target.name)
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
