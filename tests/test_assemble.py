"""Keystone's bytes against GNU as's over what every architecture can emit, linking against GNU ld, hostile text."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import gnu
import pytest

from trampoline_dsl import assemble as assemble_module
from trampoline_dsl.assemble import AssemblyError, assemble
from trampoline_dsl.disassemble import disassemble
from trampoline_dsl.engine import Refused
from trampoline_dsl.link import LinkError, explicit_addends, link
from trampoline_dsl.target import (
    Architecture,
    BinaryOp,
    Code,
    Condition,
    Convention,
    Engines,
    FrameRequest,
    Insn,
    Register,
    Relocation,
    Target,
    ThreadSlot,
)
from trampoline_dsl.targets import all_targets

TARGETS = list(all_targets().values())
ARCHITECTURES = {target.architecture.name: target.architecture for target in TARGETS}

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())

OPERATIONS: tuple[BinaryOp, ...] = ("add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul")
CONDITIONS: tuple[Condition, ...] = ("eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge")
BITS = (1, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20, 21, 31, 32, 33, 47, 48, 63)
OFFSETS = tuple(
    offset * sign
    for offset in (0, 8, 0x78, 0xF8, 0x100, 0x108, 0x3F8, 0x400, 0xFF8, 0x1000, 0x7FF8, 0x8000, 0x12340, 0x7FFF8, 0x80000)
    for sign in (1, -1)
)


@dataclass(frozen=True)
class Case:
    what: str
    code: tuple[Insn, ...]

    def text(self) -> str:
        return "\n".join(f"{insn.label}:" if insn.label else insn.text for insn in self.code)


def constants(architecture: Architecture) -> list[int]:
    """Around every power of two that bounds an immediate of some machine, and some patterns."""
    word = 8 * architecture.word
    values = {0, 0x12345678, 0xFFFF0000, 0x00FF00FF, 0x123456789ABCDEF0, 0xFFFF00000000FFFF, 0x7FFF8000, 0xFF00}
    for bits in BITS:
        values |= {(1 << bits) + d for d in (-1, 0, 1)} | {-(1 << bits) + d for d in (-1, 0, 1)}
    return sorted(value for value in values if -(1 << (word - 1)) <= value < 1 << word)


def sample(registers: tuple[Register, ...], count: int) -> list[Register]:
    """The first ones and the last ones."""
    ends = [*registers[: (count + 1) // 2], *registers[len(registers) - count // 2 :]]
    return list(dict.fromkeys(ends))


def matrix(architecture: Architecture) -> Iterator[Case]:
    for convention in architecture.conventions.values():
        for case in (
            *data_cases(architecture, convention),
            *arithmetic_cases(architecture, convention),
            *control_cases(architecture, convention),
            *frame_cases(architecture, convention),
        ):
            yield Case(f"{convention.name}: {case.what}", case.code)


def case(what: str, code: Iterable[Insn]) -> Case:
    return Case(what, tuple(code))


def data_cases(a: Architecture, convention: Convention) -> Iterator[Case]:
    registers = sample(a.allocatable(convention), 5)
    for d, s in itertools.product(registers, registers):
        yield case(f"move {d}, {s}", a.move(d, s))
    for d, value in itertools.product((registers[0], registers[-1]), constants(a)):
        yield case(f"constant {d}, {value:#x}", a.constant(d, value))
    for d in registers:
        yield case(f"symbol_address {d}", a.symbol_address(d, "symbol"))
    widths = (8, 16, 32, 64)[: 3 + (a.word == 8)]
    for base, bits, offset in itertools.product((a.sp, registers[1]), widths, OFFSETS):
        for d, signed in itertools.product((registers[0], registers[-1]), (False, True)):
            yield case(f"load {d}, {offset:#x}({base}) {bits} {signed}", a.load(d, base, offset, bits, signed))
            if not signed and (bits > 8 or a.byte_registers is None or d in a.byte_registers):
                yield case(f"store {d}, {offset:#x}({base}) {bits}", a.store(d, base, offset, bits))
    floats = sample(a.float_allocatable(convention), 3)
    for d, bits in itertools.product(floats, (32, 64)):
        for s in floats:
            yield case(f"float_move {d}, {s} {bits}", a.float_move(d, s, bits))
        for base, offset in itertools.product((a.sp, registers[0]), OFFSETS):
            yield case(f"float_load {d}, {offset:#x}({base}) {bits}", a.float_load(d, base, offset, bits))
            yield case(f"float_store {d}, {offset:#x}({base}) {bits}", a.float_store(d, base, offset, bits))
    if isinstance(convention.thread, ThreadSlot):
        for register in registers:
            yield case(f"thread_load {register}", a.thread_load(register, convention.thread))
            yield case(f"thread_store {register}", a.thread_store(register, convention.thread))
    for fixed in convention.fixed:
        yield case(f"establish {fixed.register}", a.establish(fixed))


def arithmetic_cases(a: Architecture, convention: Convention) -> Iterator[Case]:
    registers = sample(a.allocatable(convention), 4)
    first, second, last = registers[0], registers[1], registers[-1]
    for op in OPERATIONS:
        for d, x, y in ((first, first, second), (first, second, last), (last, last, last), (last, first, second)):
            yield case(f"{op} {d}, {x}, {y}", a.binary(op, d, x, y))
        shift = op in ("shl", "shr", "sar")
        values = [0, 1, 2, 7, 8, 31, 8 * a.word - 1] if shift else constants(a)
        for value, (d, x) in itertools.product(values, ((first, first), (last, second))):
            yield case(f"{op} {d}, {x}, {value:#x}", a.binary(op, d, x, value))
    for bits in (8, 16, 32)[: 2 + (a.word == 8)]:
        for d, s, signed in itertools.product(registers, registers, (False, True)):
            if bits > 8 or a.byte_registers is None or s in a.byte_registers:
                yield case(f"extend {d}, {s}, {bits} {signed}", a.extend(d, s, bits, signed))


def control_cases(a: Architecture, convention: Convention) -> Iterator[Case]:
    registers = sample(a.allocatable(convention), 4)
    here = Insn("", label=".Lhere")
    for condition in CONDITIONS:
        for x, y in itertools.product(registers[:2], registers[1:]):
            yield case(f"{condition} {x}, {y} back", [here, *a.compare_branch(condition, x, y, ".Lhere")])
        for value in constants(a):
            branch = a.compare_branch(condition, registers[-1], value, ".Lhere")
            yield case(f"{condition} {registers[-1]}, {value:#x} ahead", [*branch, here])
    for distance in (0, 1, 10, 24, 25, 26, 27, 28, 29, 30, 31, 40):
        filler = [insn for _ in range(distance) for insn in a.constant(registers[0], 0x1234)]
        branch = list(a.compare_branch("eq", registers[0], registers[1], ".Lhere"))
        yield case(f"jump over {distance}", [*a.jump(".Lhere"), *filler, here])
        yield case(f"jump back over {distance}", [here, *filler, *a.jump(".Lhere")])
        yield case(f"branches over {distance}", [*branch, *branch, *filler, here, *filler, *branch])
    yield case("call", a.call("symbol", convention))
    yield case("tail_call", a.tail_call("symbol", convention))
    for register in registers:
        yield case(f"call_register {register}", a.call_register(register, convention))
        yield case(f"jump_register {register}", a.jump_register(register, convention))


def frame_cases(a: Architecture, convention: Convention) -> Iterator[Case]:
    kept = tuple(convention.kept.items())
    kept = tuple((register, mask) for register, mask in kept if register != a.sp)
    choices = [(), kept[:1], kept[:2], kept[:3], kept[1:8], kept[-3:], kept]
    for body, saves, links in itertools.product((0, 8, 16, 24, 0x78, 0x208, 0x1008, 0xA000), choices, (False, True)):
        frame = a.layout(FrameRequest(convention, body, saves, links, convention.alignment))
        pop = 12 if convention.callee_pops else 0
        code = [*a.prologue(frame), *a.epilogue(frame), *a.leave(frame, pop)]
        what = f"frame {body:#x} {' '.join(str(register) for register, _ in saves)} link={links}"
        yield case(what, code)
        stores = [insn for n in range(4) for insn in a.store(a.allocatable(convention)[n], a.sp, n * a.word, 8 * a.word)]
        loads = [insn for n in range(4) for insn in a.load(a.allocatable(convention)[n], a.sp, n * a.word, 8 * a.word, False)]
        whole = [*a.prologue(frame), *stores, *a.call("symbol", convention), *loads, *a.epilogue(frame), *a.leave(frame, pop)]
        yield case(f"improved {what}", a.improve(whole))


@each_target
def test_bytes_and_relocations_equal_those_of_gnu_as(target: Target) -> None:
    architecture = target.architecture
    cases = list({case.text(): case for case in matrix(architecture)}.values())
    snippets = gnu.assemble_each(architecture, [renamed(case.text(), n) for n, case in enumerate(cases)])
    wrong: list[str] = []
    for one, expected in zip(cases, snippets, strict=True):
        try:
            found = assemble(architecture, one.code)
        except AssemblyError as error:
            wrong.append(f"{one.what}: {error}; GNU as: {expected.code.hex()}")
            continue
        in_field = any(addend is None for *_, addend in expected.relocations)
        relocations = tuple((r.offset, r.type, r.symbol, None if in_field else r.addend) for r in found.relocations)
        if found.code != expected.code or relocations != expected.relocations:
            text = one.text().replace("\n", "; ")[:300]
            wrong.append(
                f"{one.what}: {text}\n    Keystone {found.code.hex()[:200]} {relocations}"
                f"\n    GNU as   {expected.code.hex()[:200]} {expected.relocations}"
            )
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n".join(wrong[:25])
    assert len(cases) > 1000


def renamed(text: str, number: int) -> str:
    return text.replace(".Lhere", f".Lhere{number}")
