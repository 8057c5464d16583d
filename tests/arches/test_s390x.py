"""s390x: what its instructions compute, its frames by execution, and its bytes against GNU as."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import unicorn
import unicorn.s390x_const as names
from elftools.elf.elffile import ELFFile
from tools import need
from trampoline_dsl.arches.s390x import A0, FPC, GO0, LINK, PROGRAM_MASK, SP, TARGETS, C, F, R, V

from trampoline_dsl.assemble import assemble
from trampoline_dsl.target import (
    Bank,
    BinaryOp,
    Condition,
    Convention,
    FrameRequest,
    InRegister,
    Insn,
    OnStack,
    Register,
    ThreadSlot,
    ValueType,
)

[TARGET] = TARGETS
ARCH = TARGET.architecture
STACK, STACK_END, CODE, CODE_END = 0x200000, 0x300000, 0x400000, 0xC00000
WHOLE = (1 << 64) - 1
PSW_MASK = 0x180000000

Values = Mapping[Register, int]


def number_of(register: Register) -> int:
    if register.bank is Bank.INTEGER:
        return getattr(names, f"UC_S390X_REG_R{register.number}")
    if register.bank is Bank.FLOAT:
        return getattr(names, f"UC_S390X_REG_F{register.number}")
    return {FPC: names.UC_S390X_REG_FPC, A0: names.UC_S390X_REG_A0}[register]


class Machine:
    """Runs code that ends by running off its end, or by returning to `RETURN`."""

    RETURN = 0x1000

    def __init__(self) -> None:
        self.engine = unicorn.Uc(unicorn.UC_ARCH_S390X, unicorn.UC_MODE_BIG_ENDIAN)
        self.engine.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self.engine.mem_map(0x1000, 0x1000)
        self.engine.mem_map(CODE, CODE_END - CODE)
        self.engine.mem_map(STACK, STACK_END - STACK)
        self.engine.reg_write(names.UC_S390X_REG_CR0, 0x60000)
        self.engine.reg_write(names.UC_S390X_REG_PSWM, PSW_MASK)
        self.next = CODE

    def run(self, code: Sequence[Insn], values: Values, *, until: int | None = None) -> None:
        # Every run at an address of its own: Unicorn keeps its translation of what ended elsewhere.
        start = self.next
        assembled = assemble(ARCH, code).code
        self.engine.mem_write(start, assembled)
        self.next += len(assembled) + 16 & -16
        for register, value in values.items():
            self.engine.reg_write(number_of(register), value)
        end = start + len(assembled) if until is None else until
        if start != end:
            self.engine.emu_start(start, end, count=1000)
        else:
            self.engine.reg_write(names.UC_S390X_REG_PC, end)
        assert self.engine.reg_read(names.UC_S390X_REG_PC) == end

    def read(self, register: Register) -> int:
        return int(self.engine.reg_read(number_of(register)))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


def gnu_bytes(code: Sequence[Insn], folder: Path) -> bytes:
    text = "\n".join(f"{item.label}:" if item.label else item.text for item in code)
    source = "\n".join([*ARCH.header, ".text", text, "end:", ""])
    need(ARCH.gnu_as[0])
    subprocess.run([*ARCH.gnu_as, "-o", str(folder / "out.o"), "-"], input=source, text=True, check=True)
    with (folder / "out.o").open("rb") as stream:
        elf = ELFFile(stream)
        size = next(s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name == "end")
        return bytes(elf.get_section_by_name(".text").data()[:size])


def integer(bits: int, *, is_signed: bool = False) -> ValueType:
    return ValueType("int", bits, is_signed)


def places(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None = None) -> list[object]:
    assignment = convention.place(arguments, result)
    found: list[object] = []
    for location in (*assignment.arguments, assignment.result):
        for part in location:
            found.append(part.place.register.name if isinstance(part.place, InRegister) else part.place.offset)
    return [*found, assignment.stack_bytes]


I32, I64, F32, F64 = integer(32, is_signed=True), integer(64), ValueType("float", 32), ValueType("float", 64)


@pytest.mark.parametrize(
    ("convention", "arguments", "result", "expected"),
    [
        (C, [], None, [160]),
        (C, [I64] * 7, I32, ["r2", "r3", "r4", "r5", "r6", 160, 168, "r2", 176]),
        (C, [F32] * 6, F32, ["f0", "f2", "f4", "f6", 164, 172, "f0", 176]),
        (C, [F64, I32, F64, I64], F64, ["f0", "r2", "f2", "r3", "f0", 160]),
        (GO0, [], None, [8]),
        (GO0, [I64, I64, I64], None, [8, 16, 24, 32]),
        (GO0, [integer(8), integer(16), I32, integer(8), F32], integer(8), [8, 10, 12, 16, 20, 24, 32]),
    ],
)
def test_arguments_travel_where_the_documents_say(
    convention: Convention, arguments: list[ValueType], result: ValueType | None, expected: list[object]
) -> None:
    assert places(convention, arguments, result) == expected


def test_c_widens_integers_by_their_type_and_keeps_singles_to_the_left() -> None:
    [signed_, unsigned, single, *_, in_memory] = C.place([I32, integer(16), F32, *[I64] * 3, I32], None).arguments
    assert [(p.extend_to, p.extend_signed) for p in (signed_[0], unsigned[0])] == [(64, True), (64, False)]
    assert single[0].place == InRegister(F[0], left=True)
    assert in_memory[0].place == OnStack(160)
    assert in_memory[0].extend_to == 64


NUMBERS = (0, 1, -1, 5, -5, 0x7F, 0x80, 0xFF, -0x80, -0x81, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF, -0x8000, -0x8001,
           0x7FFFF, 0x80000, -0x80000, -0x80001, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -0x80000000,
           -0x80000001, 0x100000000, 0x1234567890ABCDEF, 0xFFFF00000000, 0xFFFF000000000000, 0x1234FFFFFFFF,
           0x12345678FFFF8000, 0xFFFFFFF0, -0x10, 0xFF00, 0xFF0FF, 0x8000000000000000, 0x7FFFFFFFFFFFFFFF)  # fmt: skip


def test_constants_are_what_they_say(machine: Machine) -> None:
    for value in NUMBERS:
        machine.run(list(ARCH.constant(R[3], value)), {R[3]: 0x5A5A5A5A5A5A5A5A})
        assert machine.read(R[3]) == value & WHOLE, hex(value)


def compute(op: BinaryOp, a: int, b: int) -> int:
    signed_a = a - (1 << 64) if a >> 63 else a
    match op:
        case "add":
            return (a + b) & WHOLE
        case "sub":
            return (a - b) & WHOLE
        case "and":
            return a & b
        case "or":
            return a | b
        case "xor":
            return a ^ b
        case "mul":
            return a * b & WHOLE
        case "shl":
            return a << b % 64 & WHOLE
        case "shr":
            return a >> b % 64
        case "sar":
            return signed_a >> b % 64 & WHOLE


OPERATIONS: tuple[BinaryOp, ...] = ("add", "sub", "and", "or", "xor", "mul", "shl", "shr", "sar")


@pytest.mark.parametrize("op", OPERATIONS)
def test_arithmetic_computes(machine: Machine, op: BinaryOp) -> None:
    left = 0x8123456789ABCDEF
    amounts = (0, 1, 5, 31, 32, 63) if op in ("shl", "shr", "sar") else NUMBERS
    for value, (d, a) in itertools.product(amounts, ((R[3], R[3]), (R[3], R[4]), (R[4], R[12]))):
        machine.run(list(ARCH.binary(op, d, a, value)), {a: left})
        assert machine.read(d) == compute(op, left, value & WHOLE), (op, d.name, a.name, hex(value))
        b = R[5]
        for target in (d, b):
            machine.run(list(ARCH.binary(op, target, a, b)), {a: left, b: value & WHOLE})
            assert machine.read(target) == compute(op, left, value & WHOLE), (op, target.name, a.name, hex(value))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("signed", [False, True])
def test_loads_stores_and_extensions_widen(machine: Machine, bits: int, signed: bool) -> None:
    value = 0x81828384F5868788
    low = value & ((1 << bits) - 1)
    widened = (low - (1 << bits) if signed and low >> (bits - 1) else low) & WHOLE
    machine.run(list(ARCH.extend(R[2], R[3], bits, signed)), {R[3]: value})
    assert machine.read(R[2]) == widened
    for offset in (0, 8, 0xFF8, 0x1000, -8, 0x7FFF8, 0x80000, -0x80000, -0x80008):
        base = 0x280000 - offset
        code = [*ARCH.store(R[3], R[4], offset, bits), *ARCH.load(R[2], R[4], offset, bits, signed)]
        machine.engine.mem_write(0x280000, bytes(16))
        machine.run(code, {R[3]: value, R[4]: base & WHOLE})
        assert machine.read(R[2]) == widened
        assert machine.read(R[3]) == value
        stored = bytes(machine.engine.mem_read(0x280000, 16))
        assert stored == low.to_bytes(bits // 8, "big") + bytes(16 - bits // 8)


def test_singles_move_through_the_left_half(machine: Machine) -> None:
    for bits, offset in itertools.product((32, 64), (0, 0xFFC, 0x1000, -4, 0x80000)):
        code = [*ARCH.float_store(F[9], R[4], offset, bits), *ARCH.float_load(F[1], R[4], offset, bits)]
        machine.run(code, {F[9]: 0x1122334455667788, F[1]: 0, R[4]: 0x210000})
        assert machine.read(F[1]) == (0x1122334400000000 if bits == 32 else 0x1122334455667788)
    machine.run(list(ARCH.float_move(F[1], F[9], 64)), {F[9]: 0x99, F[1]: 0})
    assert machine.read(F[1]) == 0x99


CONDITIONS: dict[Condition, str] = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "ult": "<", "ule": "<=", "ugt": ">",
    "uge": ">=",
}  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_comparisons_branch_when_they_should(machine: Machine, condition: Condition) -> None:
    def holds(a: int, b: int) -> bool:
        if condition not in ("ult", "ule", "ugt", "uge"):
            a, b = ((x ^ 1 << 63) - (1 << 63) for x in (a & WHOLE, b & WHOLE))
        return bool(eval(f"{a & WHOLE if condition[0] == 'u' else a} {CONDITIONS[condition]} {b}"))

    for bound in NUMBERS:
        right = bound & WHOLE
        for left in {(right + step) & WHOLE for step in (-1, 0, 1)} | {0, WHOLE}:
            for b in (bound, R[3]):
                code = [
                    *ARCH.constant(R[4], 1),
                    *ARCH.compare_branch(condition, R[2], b, ".L1"),
                    *ARCH.constant(R[4], 0),
                    Insn("", label=".L1"),
                ]
                machine.run(code, {R[2]: left, R[3]: right})
                assert machine.read(R[4]) == holds(left, right), (condition, hex(left), hex(right), b)


REQUESTS = {
    "nothing": FrameRequest(C, 0, (), False, 8),
    "locals": FrameRequest(C, 24, (), False, 8),
    "leaf with saves": FrameRequest(C, 0, ((R[7], WHOLE), (R[9], WHOLE), (F[8], WHOLE)), False, 8),
    "link": FrameRequest(C, 160, (), True, 8),
    "one float": FrameRequest(C, 160, ((F[11], WHOLE),), False, 8),
    "all": FrameRequest(C, 160, tuple(C.kept.items()), True, 8),
    "all, 5000 bytes": FrameRequest(C, 5000, tuple(C.kept.items()), True, 8),
    "all, 40 KiB": FrameRequest(C, 40960, tuple(C.kept.items()), True, 8),
    "all, 400 KiB": FrameRequest(C, 409600, tuple(C.kept.items()), True, 8),
    "Go": FrameRequest(GO0, 32, (), True, 8),
    "Go without calls": FrameRequest(GO0, 16, (), False, 8),
    "Go, control, 40 KiB": FrameRequest(GO0, 40960, ((FPC, 0xFC000077), (PROGRAM_MASK, 15)), True, 8),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_frame_brings_everything_back(machine: Machine, name: str) -> None:
    """The body overwrites what was saved, its own bytes, and everything below the stack pointer."""
    request = REQUESTS[name]
    frame = ARCH.layout(request)
    generator = random.Random(name)
    saved = [register for register, _ in request.saves if register.name not in ("a0", "a1", "pm")]
    saved += [LINK] if request.link else []
    before = {register: generator.getrandbits(64) for register in saved}
    if FPC in before:
        before[FPC] = 0x70000003
    arguments = {R[n]: generator.getrandbits(64) for n in range(2, 6)}
    entry = STACK_END - 0x1000
    before |= arguments | {LINK: Machine.RETURN, SP: entry}
    if request.convention is C:
        machine.engine.mem_write(entry, bytes(160))
    mask = (PSW_MASK | 0xA << 40) if (PROGRAM_MASK, 15) in request.saves else PSW_MASK
    machine.engine.reg_write(names.UC_S390X_REG_PSWM, mask)

    machine.run(list(ARCH.prologue(frame)), before)
    assert machine.read(SP) == entry - frame.size
    assert frame.size % 8 == 0
    assert frame.size >= request.body
    assert all(machine.read(register) == value for register, value in arguments.items())
    assert all(slot.offset >= request.body or slot.owner == "return address" for slot in frame.slots)
    lowest = min((slot.offset for slot in frame.slots if slot.owner != "return address"), default=request.body)
    first = 8 if request.link and request.convention is GO0 else 0
    for address in range(entry - frame.size + first, entry - frame.size + min(request.body, lowest), 8):
        machine.engine.mem_write(address, b"\xee" * 8)
    machine.engine.mem_write(entry - frame.size - 0x800, b"\xdd" * 0x800)
    for register in saved:
        machine.engine.reg_write(number_of(register), 0 if register == FPC else 0xBAD)
    machine.engine.reg_write(names.UC_S390X_REG_PSWM, PSW_MASK)

    machine.run([*ARCH.epilogue(frame), *ARCH.leave(frame, 0)], arguments, until=Machine.RETURN)
    assert {register: machine.read(register) for register in before} == before
    assert machine.engine.reg_read(names.UC_S390X_REG_PSWM) & 0xF << 40 == mask & 0xF << 40


def test_vectors_and_access_registers_can_be_kept(machine: Machine) -> None:
    convention = GO0.derive(kept={V[17]: (1 << 128) - 1, A0: 0xFFFFFFFF})
    for body in (16, 0x2000):
        frame = ARCH.layout(FrameRequest(convention, body, ((V[17], (1 << 128) - 1), (A0, 0xFFFFFFFF)), False, 8))
        fill = Insn("vl", keystone=".byte 0xe7, 0x10, 0x20, 0x00, 0x08, 0x06")
        spill = Insn("vst", keystone=".byte 0xe7, 0x10, 0x20, 0x00, 0x08, 0x0e")
        clear = Insn("vzero", keystone=".byte 0xe7, 0x10, 0x00, 0x00, 0x08, 0x44")
        machine.engine.mem_write(0x210000, bytes(range(16)))
        machine.run([fill, *ARCH.prologue(frame), clear], {R[2]: 0x210000, SP: 0x280000, A0: 0x1234})
        machine.run([*ARCH.epilogue(frame), spill], {R[2]: 0x210100, A0: 0})
        assert machine.engine.mem_read(0x210100, 16) == bytes(range(16))
        assert machine.read(A0) == 0x1234


@pytest.mark.parametrize("name", REQUESTS)
def test_no_store_goes_below_the_stack_pointer(machine: Machine, name: str) -> None:
    frame = ARCH.layout(REQUESTS[name])
    below: list[int] = []

    def written(engine: unicorn.Uc, kind: int, address: int, size: int, value: int, data: object) -> None:
        if address < engine.reg_read(names.UC_S390X_REG_R15):
            below.append(address)

    hook = machine.engine.hook_add(unicorn.UC_HOOK_MEM_WRITE | unicorn.UC_HOOK_MEM_READ, written)
    machine.run([*ARCH.prologue(frame), *ARCH.epilogue(frame)], {SP: STACK_END - 0x1000})
    machine.engine.hook_del(hook)
    assert below == []


def test_keeping_all_for_go_takes_an_experts_code() -> None:
    saves = tuple((register, mask) for register, mask in C.kept.items() if register.bank is not Bank.CONTROL)
    frame = ARCH.layout(FrameRequest(C, 32, saves, True, 8))
    assert [item.text for item in ARCH.prologue(frame)] == [
        "stmg %r6, %r15, 0x30(%r15)",
        *(f"std {F[8 + n]}, {offset:#x}(%r15)" for n, offset in enumerate((128, 136, 144, 152, 16, 24, 32, 40))),
        "aghi %r15, -0x20",
    ]
    assert frame.size == 32
    assert [item.text for item in ARCH.epilogue(frame)][-1] == "lmg %r6, %r15, 0x50(%r15)"


def test_a_go_frame_has_its_return_address_at_the_bottom() -> None:
    frame = ARCH.layout(FrameRequest(GO0, 32, (), True, 8))
    assert [i.text for i in ARCH.prologue(frame)] == ["aghi %r15, -0x20", "stg %r14, 0x0(%r15)"]
    assert [i.text for i in ARCH.epilogue(frame)] == ["lg %r14, 0x0(%r15)", "aghi %r15, 0x20"]


def improved(*parts: object) -> list[str]:
    return [i.text or f"{i.label}:" for i in ARCH.improve([i for part in parts for i in part])]  # type: ignore[attr-defined]


def test_neighbours_are_merged_where_nothing_is_in_the_way() -> None:
    stores = [ARCH.store(R[n], SP, 8 * n, 64) for n in (4, 2, 3)]
    assert improved(*stores) == ["stmg %r2, %r4, 0x10(%r15)"]
    loads = [ARCH.load(R[n], R[6], 8 * n, 64, False) for n in (2, 3)]
    assert improved(*loads) == ["lmg %r2, %r3, 0x10(%r6)"]


def test_neighbours_are_left_alone_otherwise() -> None:
    store = [list(ARCH.store(R[n], SP, 8 * n, 64)) for n in range(6)]
    label = [Insn("", label=".L1")]
    assert len(improved(store[2], label, store[3])) == 3
    assert len(improved(store[2], ARCH.load(R[7], SP, 24, 64, False), store[3])) == 3
    assert len(improved(store[2], ARCH.store(R[3], SP, 20, 64))) == 2
    through_itself = [*ARCH.load(R[2], R[2], 16, 64, False), *ARCH.load(R[3], R[2], 24, 64, False)]
    assert len(improved(through_itself)) == 2
    assert len(improved(ARCH.store(R[2], SP, 16, 32), ARCH.store(R[3], SP, 20, 32))) == 2
    assert improved([Insn("lgr %r2, %r2", frozenset({R[2]}), frozenset({R[2]}))]) == []


def test_every_form_has_the_bytes_of_gnu_as(tmp_path: Path) -> None:
    code: list[Insn] = [Insn("", label=".L1")]
    for d, a, b in itertools.product((R[1], R[2], R[14]), (R[2], R[9]), (R[3], R[13], *NUMBERS)):
        for op in OPERATIONS:
            if isinstance(b, Register) or op not in ("shl", "shr", "sar") or 0 <= b < 64:
                code += ARCH.binary(op, d, a, b)
        if a != d:
            for condition in CONDITIONS:
                code += ARCH.compare_branch(condition, a, b, f".L{len(code)}")
                code.append(Insn("", label=code[-1].target))
    for value in NUMBERS:
        code += ARCH.constant(R[8], value)
    for name in REQUESTS:
        frame = ARCH.layout(REQUESTS[name])
        code += [*ARCH.prologue(frame), *ARCH.epilogue(frame), *ARCH.leave(frame, 0)]
    slot = ThreadSlot("a0", -8)
    code += [*ARCH.thread_load(R[2], slot), *ARCH.thread_store(R[2], slot), *ARCH.jump(".Lend")]
    code += [*ARCH.jump_register(R[7], C), *ARCH.call_register(R[1], C), Insn("", label=".Lend")]
    assert assemble(ARCH, code).code == gnu_bytes(code, tmp_path)


def test_functions_stand_in_their_directives(tmp_path: Path) -> None:
    lines = [*ARCH.header]
    for name in ("crosscall2", "runtime.cgocallback", "a name"):
        lines += [*ARCH.function_header(name, C), "br %r14", *ARCH.function_footer(name, C)]
    lines += [*ARCH.trailer(), ""]
    need(ARCH.gnu_as[0])
    subprocess.run([*ARCH.gnu_as, "-o", str(tmp_path / "o"), "-"], input="\n".join(lines), text=True, check=True)
    with (tmp_path / "o").open("rb") as stream:
        symbols = {s.name: s for s in ELFFile(stream).get_section_by_name(".symtab").iter_symbols()}
    for name in ("crosscall2", "runtime.cgocallback", "a name"):
        assert symbols[name]["st_size"] == 2
        assert symbols[name]["st_info"] == {"bind": "STB_GLOBAL", "type": "STT_FUNC"}
