"""Struct layout against gcc on every target: offsets, sizes and alignments, read out of what the compiler made of
`offsetof`, `sizeof` and `_Alignof`."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import pytest
from cross import compiler
from measure import Image, build, targets
from tools import need

from trampoline_dsl import compile_text
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.ir import StructLayout
from trampoline_dsl.resolve import load_module, resolve
from trampoline_dsl.target import Target
from trampoline_dsl.targets import find_target

# A field: its type, and the elements of an array or 0. A type is a scalar or an earlier struct.
Field = tuple[str, int]

C_TYPES: Mapping[str, str] = {
    "i8": "signed char",
    "u8": "unsigned char",
    "i16": "short",
    "u16": "unsigned short",
    "i32": "int",
    "u32": "unsigned",
    "i64": "long long",
    "u64": "unsigned long long",
    "iptr": "long",
    "uptr": "unsigned long",
    "ptr": "void *",
    "f32": "float",
    "f64": "double",
}

WRITTEN: tuple[tuple[Field, ...], ...] = (
    *(((name, 0),) for name in C_TYPES),
    # what i386 alone aligns to 4
    *((("u8", 0), (name, 0), ("u8", 0)) for name in C_TYPES),
    (("i32", 0), ("i64", 0)),
    (("u8", 0), ("f64", 0), ("i16", 0), ("u64", 3)),
    # a tail that has to be padded, and an array of such structs
    (("f64", 0), ("u8", 0)),
    (("u8", 0), ("s28", 3), ("u8", 0)),
    (("u8", 5), ("u16", 0), ("u8", 1), ("i32", 2), ("u8", 7)),
    (("s26", 0), ("u8", 0), ("s29", 0)),
)


def _structs() -> tuple[tuple[Field, ...], ...]:
    """Struct number n is called `s{n}`."""
    draw = random.Random(11)
    structs = list(WRITTEN)
    for _ in range(60):
        names = [*C_TYPES] * 2 + [f"s{n}" for n in draw.sample(range(len(structs)), 6)]
        structs.append(
            tuple((draw.choice(names), draw.choice((0, 0, 0, 1, 2, 3, 7))) for _ in range(draw.randint(1, 9)))
        )
    return tuple(structs)


STRUCTS = _structs()


def _ours(target: Target) -> Mapping[str, StructLayout]:
    lines = []
    for number, fields in enumerate(STRUCTS):
        inside = "  ".join(f"m{n}: {kind}{f'[{count}]' if count else ''}" for n, (kind, count) in enumerate(fields))
        lines.append(f"struct s{number} {{ {inside} }}")
    lines.append("trampoline nothing() using c { return }")
    return resolve(load_module(Source("measured.tramp", "\n".join(lines))), target).structs


def _c_text() -> str:
    lines, table = [], []
    for number, fields in enumerate(STRUCTS):
        inside = " ".join(
            f"{C_TYPES.get(kind, f'struct {kind}')} m{n}{f'[{count}]' if count else ''};"
            for n, (kind, count) in enumerate(fields)
        )
        lines.append(f"struct s{number} {{ {inside} }};")
        table += [f"__builtin_offsetof(struct s{number}, m{n})" for n in range(len(fields))]
        table += [f"sizeof(struct s{number})", f"_Alignof(struct s{number})"]
    return "\n".join([*lines, f"unsigned table[] = {{ {', '.join(table)} }};", ""])


def _measured(target: Target, image: Image) -> Iterator[int]:
    address = image.symbols["table"]
    for base, data, _ in image.segments:
        if base <= address < base + len(data):
            for at in range(address - base, len(data) - 3, 4):
                yield int.from_bytes(data[at : at + 4], target.architecture.order)


def _facts(layout: StructLayout, fields: Sequence[Field]) -> list[int]:
    return [*(layout.fields[f"m{n}"].offset for n in range(len(fields))), layout.size, layout.alignment]


@pytest.mark.parametrize("name", targets())
def test_structs_are_laid_out_as_gcc_does(name: str) -> None:
    target = find_target(name)
    measured = _measured(target, build(target, _c_text()))
    ours = _ours(target)
    differing = []
    for number, fields in enumerate(STRUCTS):
        gcc = [next(measured) for _ in range(len(fields) + 2)]
        if _facts(ours[f"s{number}"], fields) != gcc:
            differing.append(f"s{number} {fields}: {_facts(ours[f's{number}'], fields)}, gcc {gcc}")
    assert not differing, "offsets, size, alignment\n" + "\n".join(differing)


def test_windows_aligns_8_bytes_to_8() -> None:
    text = "struct s { char a; long long b; char c; double d; }; int offsets[] = { __builtin_offsetof(struct s, b), "
    text += "__builtin_offsetof(struct s, d), sizeof(struct s) };"
    gcc = need(compiler("windows/386"))
    done = subprocess.run(
        [gcc, "-S", "-x", "c", "-o", "-", "-"], input=text, capture_output=True, text=True, check=True
    )
    found = [int(number) for number in re.findall(r"^\t\.long\t(\d+)", done.stdout, re.MULTILINE)]
    source = "struct s { a: i8 b: i64 c: i8 d: f64 }\ntrampoline f() using c { }"
    layout = compile_text(source, "windows/386").program.structs["s"]
    assert [layout.fields["b"].offset, layout.fields["d"].offset, layout.size] == found == [8, 24, 32]
