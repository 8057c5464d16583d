"""386 and amd64: what each operation computes when it is run, frames under fire, the shortest encodings, conventions.

That Keystone and GNU as agree on every byte is tested for all architectures at once elsewhere.
"""

from __future__ import annotations

import itertools
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest
from tools import need
from trampoline_dsl.arches import amd64, i386
from trampoline_dsl.arches.x86 import DIRECTION, FPCW_CONTROL, MXCSR_CONTROL, X86, eflags, fpcw, mxcsr
from unicorn import UC_HOOK_CODE, Uc, unicorn_const, x86_const

from trampoline_dsl.assemble import assemble
from trampoline_dsl.target import (
    BinaryOp,
    Condition,
    Convention,
    Fixed,
    FrameRequest,
    InRegister,
    Insn,
    OnStack,
    Part,
    Register,
    ValueType,
)

I386: X86 = i386.TARGETS[0].architecture
AMD64: X86 = amd64.TARGETS[0].architecture
each_machine = pytest.mark.parametrize("machine", [I386, AMD64], ids=lambda machine: machine.name)

CODE, STACK, TOP = 0x10000, 0x200000, 0x240000
SP = 0x230000  # where the tests enter: far from both ends


class Processor:
    """One emulated processor, for code that ends by falling off its end."""

    def __init__(self, machine: X86) -> None:
        self.machine = machine
        self.engine = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64 if machine.word == 8 else 4)
        self.engine.mem_map(CODE, 0x10000)
        self.engine.mem_map(STACK, TOP - STACK)
        self.observe: Callable[[], None] | None = None
        self.engine.hook_add(UC_HOOK_CODE, self._before)
        self.write({machine.sp: SP, mxcsr: 0x1F80, fpcw: 0x37F, eflags: 2})

    def _before(self, *_: object) -> None:
        if self.observe is not None:
            self.observe()

    def number(self, register: Register) -> int:
        return int(getattr(x86_const, f"UC_X86_REG_{register.name.upper()}"))

    def read(self, register: Register) -> int:
        return int(self.engine.reg_read(self.number(register)))

    def write(self, values: Mapping[Register, int]) -> None:
        for register, value in values.items():
            self.engine.reg_write(self.number(register), value)

    def all(self) -> dict[Register, int]:
        return {register: self.read(register) for register in self.machine.integers}

    def run(self, code: Iterable[Insn]) -> None:
        made = assemble(self.machine, list(code)).code
        self.engine.mem_write(CODE, made)
        self.engine.ctl_remove_cache(CODE, CODE + 0x1000)
        self.engine.emu_start(CODE, CODE + len(made), count=1000)
        end = self.engine.reg_read(x86_const.UC_X86_REG_RIP if self.machine.word == 8 else x86_const.UC_X86_REG_EIP)
        assert end == CODE + len(made)


def garbage(machine: X86, seed: object) -> dict[Register, int]:
    source = random.Random(str(seed))
    return {r: source.getrandbits(machine.bits) for r in machine.integers if r != machine.sp}


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def compute(op: BinaryOp, a: int, b: int, bits: int) -> int:
    count = b & bits - 1
    result = {
        "add": a + b,
        "sub": a - b,
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "mul": a * b,
        "shl": a << count,
        "shr": a >> count,
        "sar": signed(a, bits) >> count,
    }[op]
    return result & (1 << bits) - 1


def holds(condition: Condition, a: int, b: int, bits: int) -> bool:
    mask = (1 << bits) - 1
    x, y = (a & mask, b & mask) if condition.startswith("u") else (signed(a, bits), signed(b, bits))
    return {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}[condition[-2:]]


def constants(machine: X86) -> list[int]:
    edges = {(1 << n) + d for n in (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63) for d in (-1, 0, 1)} | {5, 9, 10, 0x12345678}
    edges |= {-edge for edge in edges} | {0x123456789ABCDEF0}
    return sorted(edge for edge in edges if -(1 << machine.bits - 1) <= edge < 1 << machine.bits)


def some(machine: X86) -> list[Register]:
    """Registers that differ in how they are encoded."""
    if machine.word == 4:
        return [i386.eax, i386.ecx, i386.ebp, i386.esi]
    return [amd64.rax, amd64.rcx, amd64.rbp, amd64.rsi, amd64.r12, amd64.r13]


# --------------------------------------------------------------------------------------------------------- operations


@each_machine
def test_binary_operations_compute_what_they_say_and_change_nothing_else(machine: X86) -> None:
    processor = Processor(machine)
    for op, d, a, b in itertools.product(get_args(BinaryOp), some(machine), some(machine), some(machine)):
        if d == b != a:  # never asked for on a two-address machine
            continue
        before = garbage(machine, (op, d, a, b)) | {machine.sp: SP}
        processor.write(before)
        processor.run(machine.binary(op, d, a, b))
        expected = before | {d: compute(op, before[a], before[b], machine.bits)}
        assert processor.all() == expected, f"{op} {d}, {a}, {b}"


@each_machine
def test_binary_operations_with_constants_compute_what_they_say(machine: X86) -> None:
    processor = Processor(machine)
    for op, d, a in itertools.product(get_args(BinaryOp), some(machine), some(machine)):
        shift = op in ("shl", "shr", "sar")
        for b in [0, 1, 2, 3, 8, machine.bits - 1] if shift else constants(machine):
            before = garbage(machine, (op, d, a, b)) | {machine.sp: SP}
            processor.write(before)
            processor.run(machine.binary(op, d, a, b))
            expected = before | {d: compute(op, before[a], b, machine.bits)}
            assert processor.all() == expected, f"{op} {d}, {a}, {b:#x}"


@each_machine
def test_sp_can_be_computed_with(machine: X86) -> None:
    processor = Processor(machine)
    d, a = some(machine)[0], some(machine)[2]
    for op, x, b, expected in (
        ("add", machine.sp, 0x128, SP + 0x128),
        ("add", machine.sp, a, SP + 0x40),
        ("add", a, machine.sp, SP + 0x40),
        ("sub", machine.sp, a, SP - 0x40),
        ("and", machine.sp, -0x100, SP & -0x100),
    ):
        processor.write({a: 0x40, machine.sp: SP})
        processor.run(machine.binary(op, d, x, b))
        assert (processor.read(d), processor.read(machine.sp)) == (expected, SP)
    processor.run(machine.binary("and", machine.sp, machine.sp, -0x1000))
    assert processor.read(machine.sp) == SP & -0x1000
    with pytest.raises(ValueError, match="cannot leave the stack"):
        list(machine.binary("shl", d, a, machine.sp))


@each_machine
def test_comparisons_branch_as_their_condition_says(machine: X86) -> None:
    processor = Processor(machine)
    result, a, b = machine.integers[7], machine.accumulator, machine.frame_pointer

    def taken(condition: Condition, x: int, y: int, operand: Register | int) -> bool:
        processor.write(garbage(machine, x) | {a: x & mask, b: y & mask, machine.sp: SP})
        before = processor.all()
        processor.run(
            [
                *machine.compare_branch(condition, a, operand, ".Lyes"),
                Insn("", label=".Lno"),
                *machine.constant(result, 0),
                *machine.jump(".Lend"),
                Insn("", label=".Lyes"),
                *machine.constant(result, 1),
                Insn("", label=".Lend"),
            ]
        )
        value = processor.read(result)
        assert processor.all() == before | {result: value}
        return bool(value)

    mask = (1 << machine.bits) - 1
    values = [v for v in constants(machine) if v.bit_count() < 3]
    for condition, y in itertools.product(get_args(Condition), values):
        for x in {y - 1, y, y + 1, 0, -1, 1 << machine.bits - 1}:
            expected = holds(condition, x, y, machine.bits)
            assert taken(condition, x, y, b) == expected, f"{x:#x} {condition} {y:#x} in registers"
            assert taken(condition, x, 0x5555, y) == expected, f"{x:#x} {condition} constant {y:#x}"


@each_machine
def test_moves_constants_and_extensions(machine: X86) -> None:
    processor = Processor(machine)
    mask = (1 << machine.bits) - 1
    for d, value in itertools.product(some(machine), constants(machine)):
        processor.write(garbage(machine, value) | {machine.sp: SP})
        before = processor.all()
        processor.run(machine.constant(d, value))
        assert processor.all() == before | {d: value & mask}
    widths = (8, 16, 32)[: 2 + (machine.word == 8)]
    for d, s, bits, sign in itertools.product(some(machine), some(machine), widths, (False, True)):
        for value in (0x8182_8384_8586_8788 & mask, 0x0102_0304_0506_0708 & mask):
            processor.write(garbage(machine, d) | {s: value, machine.sp: SP})
            before = processor.all()
            processor.run(machine.extend(d, s, bits, sign))
            expected = signed(value, bits) & mask if sign else value & (1 << bits) - 1
            assert processor.all() == before | {d: expected}, f"{d} = {s}, {bits} {sign}"


@each_machine
def test_loads_and_stores_of_every_width(machine: X86) -> None:
    processor = Processor(machine)
    mask = (1 << machine.bits) - 1
    for d, base, bits, offset in itertools.product(
        some(machine), (*some(machine), machine.sp), (8, 16, 32, 64)[: 3 + (machine.word == 8)], (0, -8, 0x7C, 0x1000)
    ):
        where = f"{d} {offset:#x}({base}) {bits}"
        processor.engine.mem_write(SP + offset - 8, bytes(range(0x80, 0xA0)))
        memory = int.from_bytes(bytes(range(0x88, 0x88 + bits // 8)), "little")
        for sign in (False, True):
            processor.write(garbage(machine, where) | {base: SP, machine.sp: SP})
            before = processor.all()
            processor.run(machine.load(d, base, offset, bits, sign))
            expected = signed(memory, bits) & mask if sign else memory
            assert processor.all() == before | {d: expected}, where
        processor.write(garbage(machine, where) | {base: SP, machine.sp: SP})
        before = processor.all()
        processor.run(machine.store(d, base, offset, bits))
        stored = (before[d] & (1 << bits) - 1).to_bytes(bits // 8, "little")
        found = bytes(processor.engine.mem_read(SP + offset - 8, 32))
        assert found == bytes(range(0x80, 0x88)) + stored + bytes(range(0x88 + bits // 8, 0xA0)), where
        assert processor.all() == before, where


@each_machine
def test_floating_point_moves_loads_and_stores_are_bit_for_bit(machine: X86) -> None:
    processor = Processor(machine)
    first, last = machine.registers["xmm0"], machine.float_allocatable(machine.conventions["c"])[-1]
    for bits in (32, 64):
        value = random.Random(bits).getrandbits(bits)
        processor.engine.mem_write(SP, value.to_bytes(8, "little") + b"\xee" * 16)
        processor.run(
            [
                *machine.float_load(last, machine.sp, 0, bits),
                *machine.float_move(first, last, bits),
                *machine.float_store(first, machine.sp, 8, bits),
            ]
        )
        assert bytes(processor.engine.mem_read(SP + 8, 16)) == value.to_bytes(bits // 8, "little").ljust(16, b"\xee")


def test_386_results_on_the_x87_stack_go_in_and_come_out() -> None:
    processor = Processor(I386)
    first, second = I386.registers["xmm0"], I386.registers["xmm5"]
    for bits, value in ((64, 0x400921FB54442D18), (32, 0x40490FDB), (64, 0x8000000000000001), (32, 0x80000001)):
        processor.write({first: value, second: 0})
        processor.engine.mem_write(SP, b"\xee" * 8)
        # Nine times, which overflows the stack of eight unless every move out pops.
        for _ in range(9):
            processor.run([*I386.float_move(i386.st0, first, bits), *I386.float_move(second, i386.st0, bits)])
        assert processor.read(second) & (1 << bits) - 1 == value
        processor.run(I386.float_store(second, i386.esp, 8, bits))
        processor.run([*I386.float_load(i386.st0, i386.esp, 8, bits), *I386.float_store(i386.st0, i386.esp, 16, bits)])
        assert bytes(processor.engine.mem_read(SP + 16, bits // 8)) == value.to_bytes(bits // 8, "little")
        assert bytes(processor.engine.mem_read(SP, 8)) == b"\xee" * 8
        assert processor.read(i386.esp) == SP


@each_machine
def test_fixed_values_are_established(machine: X86) -> None:
    processor = Processor(machine)
    processor.write({eflags: 2 | DIRECTION})
    for fixed in machine.conventions["c"].fixed:
        processor.run(machine.establish(fixed))
    assert not processor.read(eflags) & DIRECTION
    zero = machine.registers["xmm7"]
    processor.write({zero: 1 << 127 | 1})
    processor.run(machine.establish(Fixed(zero, (1 << 128) - 1, 0, "Go's register convention has such a one")))
    assert processor.read(zero) == 0
    with pytest.raises(ValueError, match="mxcsr"):
        list(machine.establish(Fixed(mxcsr, MXCSR_CONTROL, 0x1F80, "")))


@each_machine
def test_what_cannot_be_encoded_is_refused_and_not_truncated(machine: X86) -> None:
    register = machine.accumulator
    for make in (
        lambda: machine.binary("shl", register, register, machine.bits),
        lambda: machine.constant(register, 1 << machine.bits),
        lambda: machine.load(register, machine.sp, 1 << machine.bits, 32, False),
        lambda: machine.binary("sub", register, machine.counter, register),
    ):
        with pytest.raises(ValueError, match=r"shift|word|overwrite"):
            list(make())
    with pytest.raises(ValueError, match="cannot pop"):
        list(machine.leave(machine.layout(FrameRequest(machine.conventions["c"], 0, (), False, 1)), 0x10000))
    if machine.word == 8:
        with pytest.raises(ValueError, match="reach"):
            list(machine.load(register, machine.sp, 1 << 31, 32, False))
        with pytest.raises(ValueError, match="64 bits"):
            list(machine.binary("add", machine.sp, machine.sp, 1 << 40))


# ----------------------------------------------------------------------------------------------------- texts and names


def texts(code: Iterable[Insn]) -> str:
    return "; ".join(insn.text for insn in code)


def test_the_shortest_encodings_are_chosen() -> None:
    a, rax, rcx, rbp, rsi, r9 = AMD64, amd64.rax, amd64.rcx, amd64.rbp, amd64.rsi, amd64.r9
    eax, esi = i386.eax, i386.esi
    for code, expected in (
        (a.constant(r9, 0), "xor r9d, r9d"),
        (a.constant(rax, -1), "or rax, -1"),
        (a.constant(rax, 0xFFFFFFFF), "mov eax, 0xffffffff"),
        (a.constant(rax, -2), "mov rax, -2"),
        (a.constant(rax, 1 << 32), "movabs rax, 0x100000000"),
        (a.binary("add", rax, rax, 0x80), "sub rax, -0x80"),
        (a.binary("sub", rax, rax, 0x80), "add rax, -0x80"),
        (a.binary("sub", rax, rax, 1), "dec rax"),
        (a.binary("add", rax, rcx, -0x10), "lea rax, [rcx-0x10]"),
        (a.binary("add", rax, rbp, rcx), "lea rax, [rcx+rbp]"),
        (a.binary("and", rax, rcx, 0xFF), "movzx eax, cl"),
        (a.binary("and", rax, rcx, 0xFFFFFFFF), "mov eax, ecx"),
        (a.binary("and", rax, rcx, 0xFFFFFFF0), "mov eax, ecx; and eax, 0xfffffff0"),
        (a.binary("and", rax, rax, -0x10), "and rax, -0x10"),
        (a.binary("mul", rax, rcx, 8), "mov rax, rcx; shl rax, 3"),
        (a.binary("mul", rax, rcx, 5), "lea rax, [rcx+rcx*4]"),
        (a.binary("mul", rax, rcx, 24), "imul rax, rcx, 0x18"),
        (a.binary("shl", rax, rcx, 1), "lea rax, [rcx+rcx]"),
        (a.binary("shr", rax, rax, rcx), "shr rax, cl"),
        (a.binary("shr", rax, rax, rsi), "xchg rcx, rsi; shr rax, cl; xchg rcx, rsi"),
        (a.binary("or", rax, rax, 1 << 40), "push rcx; movabs rcx, 0x10000000000; or rax, rcx; pop rcx"),
        (a.extend(rax, rax, 32, True), "cdqe"),
        (a.extend(rax, rsi, 8, False), "movzx eax, sil"),
        (a.load(rax, rsi, 8, 32, False), "mov eax, dword ptr [rsi+8]"),
        (a.compare_branch("ult", rax, 0x80, ".L1"), "cmp rax, 0x7f; jbe .L1"),
        (a.compare_branch("lt", rax, 1, ".L1"), "test rax, rax; jle .L1"),
        (I386.extend(eax, esi, 8, False), "mov eax, esi; movzx eax, al"),
        (I386.extend(esi, esi, 8, True), "shl esi, 0x18; sar esi, 0x18"),
        (I386.extend(eax, eax, 16, True), "cwde"),
        (I386.store(esi, esi, 4, 8), "xchg eax, esi; mov byte ptr [eax+4], al; xchg eax, esi"),
    ):
        assert texts(code) == expected


def test_thread_slots_are_at_absolute_offsets() -> None:
    thread = amd64.GO0.thread
    assert thread is not None
    assert not isinstance(thread, Register)
    for register, code in ((amd64.rax, "6448 8b0425 f8ffffff"), (amd64.r9, "644c 8b0c25 f8ffffff")):
        assert assemble(AMD64, list(AMD64.thread_load(register, thread))).code == bytes.fromhex(code)
        stored = code.replace("8b", "89")
        assert assemble(AMD64, list(AMD64.thread_store(register, thread))).code == bytes.fromhex(stored)


NAMES = re.findall(
    r"\S+",
    """offset mod BYTE not rax r12d Eax st xmm3 cs cr0 k1 dr7 eip eiz g a-b x·y
    xmmword tbyte fword oword mmword near far flat short ptr shr ge""",
)


@each_machine
def test_symbols_may_have_any_name(machine: X86, tmp_path: Path) -> None:
    convention = machine.conventions["c"]
    lines = [*machine.header]
    for name in NAMES:
        code = [*machine.call(name, convention), *machine.tail_call(name, convention)]
        lines += [insn.text for insn in (*code, *machine.symbol_address(machine.accumulator, name))]
    for name in NAMES:
        defined = f"{name}2" if name == "x·y" else name.upper() + "f"
        lines += [*machine.function_header(defined, convention), "ret", *machine.function_footer(defined, convention)]
    assembled = tmp_path / "names.o"
    need(machine.gnu_as[0])
    command = [*machine.gnu_as, "-o", str(assembled), "-"]
    done = subprocess.run(command, input="\n".join([*lines, ""]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dump = subprocess.run(
        [need("x86_64-linux-gnu-objdump"), "-r", str(assembled)], capture_output=True, text=True, check=True
    )
    found = re.findall(r"([0-9a-f]+) R_\w+ +(\S+?)(?:-0x0*4)?$", dump.stdout, re.MULTILINE)
    # GNU as lists jumps after all others.
    assert [symbol for _, symbol in sorted(found)] == [name for name in NAMES for _ in range(3)]


@pytest.mark.parametrize("name", ["mod", "byte", "offset", "rax", "st", "near"])
def test_functions_may_have_any_name(name: str, tmp_path: Path) -> None:
    convention = amd64.C
    lines = [
        *AMD64.header,
        *AMD64.function_header(name, convention),
        "ret",
        *AMD64.function_footer(name, convention),
        "",
    ]
    assembled = tmp_path / "name.o"
    need(AMD64.gnu_as[0])
    command = [*AMD64.gnu_as, "-o", str(assembled), "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)
    symbols = subprocess.run(
        [need("x86_64-linux-gnu-nm"), "-S", str(assembled)], capture_output=True, text=True, check=True
    )
    assert symbols.stdout.split() == ["0" * 16, "0" * 15 + "1", "T", name]


def test_moves_to_themselves_and_jumps_to_the_next_instruction_are_dropped() -> None:
    rax = amd64.rax
    idle = Insn("mov rax, rax", frozenset({rax}), frozenset({rax}))
    clears = Insn("mov eax, eax", frozenset({rax}), frozenset({rax}))
    jump, far = Insn("jmp .L1", transfer="jump", target=".L1"), Insn("jmp .L3", transfer="jump", target=".L3")
    labels = [Insn("", label=".L2"), Insn("", label=".L1")]
    after = [clears, Insn("", label=".L3")]
    assert list(AMD64.improve([idle, far, jump, *labels, idle, *after])) == [far, *labels, *after]


# -------------------------------------------------------------------------------------------------------------- frames


def test_a_frame_reads_as_an_expert_writes_it() -> None:
    def written(machine: X86, body: int, saves: Sequence[Register]) -> str:
        request = FrameRequest(machine.conventions["c"], body, tuple((r, (1 << r.bits) - 1) for r in saves), True, 16)
        frame = machine.layout(request)
        return texts([*machine.prologue(frame), *machine.epilogue(frame), *machine.leave(frame, 0)])

    rbx, r12, r13, r14, r15 = amd64.rbx, amd64.r12, amd64.r13, amd64.r14, amd64.r15
    assert written(AMD64, 24, [rbx, r12, r13, r14, r15]) == (
        "push rbx; push r12; push r13; push r14; push r15; sub rsp, 0x20; "
        "add rsp, 0x20; pop r15; pop r14; pop r13; pop r12; pop rbx; ret"
    )
    assert written(I386, 12, [i386.ebx, i386.esi, i386.edi, i386.ebp]) == (
        "push ebp; push ebx; push esi; push edi; sub esp, 0xc; add esp, 0xc; pop edi; pop esi; pop ebx; pop ebp; ret"
    )
    assert written(AMD64, 0, []) == "push rax; add rsp, 8; ret"
    assert written(AMD64, 0, [rbx]) == "push rbx; pop rbx; ret"
    assert written(AMD64, 8, [rbx, r12]) == "push rbx; push r12; push rax; pop r12; pop r12; pop rbx; ret"
    assert written(AMD64, 0, [mxcsr, fpcw]) == (
        "push rax; stmxcsr dword ptr [rsp]; fnstcw word ptr [rsp+4]; "
        "ldmxcsr dword ptr [rsp]; fldcw word ptr [rsp+4]; add rsp, 8; ret"
    )
    assert written(AMD64, 0x78 + 8, [rbx, r12]) == (
        "push rbx; push r12; sub rsp, 0x88; add rsp, 0x88; pop r12; pop rbx; ret"
    )
    leaf = AMD64.layout(FrameRequest(amd64.C, 0, (), False, 1))
    assert (leaf.size, texts([*AMD64.prologue(leaf), *AMD64.epilogue(leaf)])) == (8, "")


def bits_kept(machine: X86) -> list[tuple[tuple[Register, int], ...]]:
    """Sets of saves: none, what conventions keep, and what a user's own might."""
    kept = tuple(machine.conventions["c"].kept.items())
    xmm = [machine.registers[f"xmm{n}"] for n in range(8)]
    vectors = ((xmm[6], (1 << 128) - 1), (xmm[7], (1 << 64) - 1), (xmm[3], (1 << 32) - 1))
    integers = tuple((r, m) for r, m in kept if r in machine.integers)
    return [
        (),
        integers[:1],
        integers,
        ((mxcsr, MXCSR_CONTROL),),
        ((eflags, DIRECTION),),
        kept,
        (*vectors, *kept, (eflags, DIRECTION)),
        vectors,
    ]


@each_machine
@pytest.mark.parametrize("calls", [True, False])
def test_frames_keep_what_they_say_whatever_a_signal_and_the_body_do(machine: X86, calls: bool) -> None:
    """A signal overwrites all below sp before every instruction, the body everything that is not a slot."""
    returned = CODE + 0x8000
    for saves, body, name in itertools.product(
        bits_kept(machine), (0, 4, 8, 12, 16, 24, 40, 0x78, 0x80, 40960), ("c", "go0")
    ):
        convention = machine.conventions[name]
        body = body // machine.word * machine.word
        alignment = convention.alignment if calls else 1
        frame = machine.layout(FrameRequest(convention, body, saves, False, alignment))
        processor = Processor(machine)
        engine, sp = processor.engine, machine.sp
        source = random.Random(f"{saves} {body}")
        before = garbage(machine, frame.size)
        vectors = {machine.registers[f"xmm{n}"]: source.getrandbits(128) for n in range(8)}
        control = {mxcsr: 0xFFC0, fpcw: 0x0F7F, eflags: 0x402}
        entry = SP - machine.word  # the CFA is a multiple of 16; the call pushed
        processor.write(before | vectors | control | {sp: entry})
        above = source.randbytes(256)
        engine.mem_write(SP, above)
        engine.mem_write(entry, returned.to_bytes(machine.word, "little"))
        lowest = SP - frame.size

        def signal(
            engine: Uc = engine, processor: Processor = processor, lowest: int = lowest, sp: Register = sp
        ) -> None:
            now = processor.read(sp)
            assert lowest <= now < SP
            engine.mem_write(now - 256, b"\xa5" * 256)

        processor.observe = signal
        processor.run(machine.prologue(frame))
        assert processor.all() == before | {sp: lowest}
        assert processor.read(sp) % alignment == 0
        assert {r: processor.read(r) for r in vectors} == vectors

        covered: set[int] = set(range(body))
        for slot in frame.slots:
            place = set(range(slot.offset, slot.offset + slot.size))
            assert not covered & place, "slots overlap"
            covered |= place
            if slot.register in machine.integers:
                assert slot.register is not None
                memory = bytes(engine.mem_read(lowest + slot.offset, slot.size))
                assert memory == before[slot.register].to_bytes(machine.word, "little")
        assert frame.slots[-1].owner == "return address"
        assert frame.slots[-1].offset == frame.size - machine.word

        kept = {slot.register for slot in frame.slots}
        engine.mem_write(lowest, source.randbytes(body))
        after = {r: v ^ 0x5A5A if r in kept else source.getrandbits(machine.bits) for r, v in before.items()}
        changed = {r: v ^ ((1 << 128) - 1) for r, v in vectors.items()}
        processor.write(after | changed | {mxcsr: 0x1F80, fpcw: 0x37F, eflags: 2})
        processor.run(machine.epilogue(frame))
        assert processor.read(sp) == entry
        now = processor.all()
        for register, value in after.items():
            assert now[register] == (before[register] if register in kept else value), f"{register} {frame}"
        masks = dict(saves)
        for register, value in (vectors | control).items():
            mask = masks.get(register, 0)
            assert processor.read(register) & mask == value & mask, f"{register} {frame}"
        for register, value in changed.items():
            if register not in masks:
                assert processor.read(register) == value
        assert bytes(engine.mem_read(SP, 256)) == above
        processor.observe = None
        pop = 12
        made = assemble(machine, list(machine.leave(frame, pop))).code
        engine.mem_write(CODE, made)
        engine.ctl_remove_cache(CODE, CODE + 0x1000)
        engine.emu_start(CODE, returned, count=2)
        assert processor.read(sp) == SP + pop


def test_frames_refuse_what_cannot_be_kept() -> None:
    request = FrameRequest(i386.C, 0, ((i386.st0, 1),), True, 16)
    with pytest.raises(ValueError, match="st0 cannot be kept"):
        I386.layout(request)


# --------------------------------------------------------------------------------------------------------- conventions

I8, I16, I32, I64 = (ValueType("int", bits, True) for bits in (8, 16, 32, 64))
U8 = ValueType("int", 8)
F32, F64 = ValueType("float", 32), ValueType("float", 64)


def shown(part: Part) -> str:
    if isinstance(part.place, OnStack):
        place = f"+{part.place.offset}"
    else:
        assert isinstance(part.place, InRegister)
        place = part.place.register.name
    widened = f" to {'i' if part.extend_signed else 'u'}{part.extend_to}" if part.extend_to else ""
    return f"{place}{widened}"


def placed(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> tuple[str, str, int]:
    assignment = convention.place(arguments, result)
    places = " ".join("/".join(shown(part) for part in location) for location in assignment.arguments)
    return places, "/".join(shown(part) for part in assignment.result), assignment.stack_bytes


def test_conventions_place_values_where_their_documents_say() -> None:
    for convention, arguments, result, expected in (
        (i386.C, [I32, I64, F64, F32, I8, I32], I64, ("+0 +4/+8 +12 +20 +24 +28", "eax/edx", 32)),
        (i386.C, [], F64, ("", "st0", 0)),
        (i386.C, [I16], I8, ("+0", "eax", 4)),
        (i386.GO0, [I8, I16, I8, I64, F64, I8], I8, ("+0 +2 +4 +8/+12 +16 +24", "+28", 32)),
        (i386.GO0, [], F64, ("", "+0", 8)),
        (amd64.C, [I64] * 7 + [F64] * 9 + [F32, I32], None, (
            "rdi rsi rdx rcx r8 r9 +0 xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 +8 +16 +24", "", 32)),
        (amd64.C, [F32, I8, F64, U8, I16, I32], F32, ("xmm0 rdi to i32 xmm1 rsi to u32 rdx to i32 rcx", "xmm0", 0)),
        (amd64.C, [I64] * 6 + [I8, U8], I8, ("rdi rsi rdx rcx r8 r9 +0 to i32 +8 to u32", "rax", 16)),
        (amd64.GO0, [I64, I8, I32, I16, F64], I8, ("+0 +8 +12 +16 +24", "+32", 40)),
        (amd64.GO0, [I64, I64, I64], None, ("+0 +8 +16", "", 24)),
    ):  # fmt: skip
        assert placed(convention, arguments, result) == expected
    [part] = i386.C.place([], F32).result
    assert part.as_double


def test_what_calls_keep() -> None:
    assert {r.name for r in i386.C.kept} == {"ebx", "esi", "edi", "ebp", "mxcsr", "fpcw"}
    assert {r.name for r in amd64.C.kept} == {"rbx", "rbp", "r12", "r13", "r14", "r15", "mxcsr", "fpcw"}
    assert {r.name for r in i386.GO0.kept} == {"mxcsr", "fpcw"}
    assert {r.name for r in amd64.GO0.kept} == {"rbp", "mxcsr", "fpcw"}
    for convention in (i386.C, i386.GO0, amd64.C, amd64.GO0):
        assert (convention.kept[mxcsr], convention.kept[fpcw]) == (MXCSR_CONTROL, FPCW_CONTROL)
        assert [(fixed.register, fixed.mask, fixed.value) for fixed in convention.fixed] == [(eflags, DIRECTION, 0)]


@each_machine
def test_values_may_live_in_every_register_but_sp_and_a_frame_pointer(machine: X86) -> None:
    for convention in machine.conventions.values():
        elsewhere = {machine.sp, convention.frame_pointer, *convention.reserved}
        assert set(machine.allocatable(convention)) == set(machine.integers) - elsewhere
        kept = [r in convention.kept for r in machine.allocatable(convention)]
        assert kept == sorted(kept), "a register that costs a save comes before one that does not"
    assert machine.accumulator is machine.registers[machine.accumulator.name]
