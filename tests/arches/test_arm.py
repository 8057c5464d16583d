"""arm and its variants: where conventions put things, what instructions compute, and frames, by execution."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from tools import need
from trampoline_dsl.arches.arm import APSR, FPSCR, FPSCR_CONTROL, LR, SP, TARGETS, Arm, D, R, encodable, pieces

from trampoline_dsl.assemble import assemble
from trampoline_dsl.emulate import Machine
from trampoline_dsl.link import link
from trampoline_dsl.target import (
    Bank,
    BinaryOp,
    Condition,
    Convention,
    Fixed,
    Frame,
    FrameRequest,
    InRegister,
    Insn,
    Register,
    ThreadSlot,
    ValueType,
)

HARD, SOFTFP, SOFT, _ = (target.architecture for target in TARGETS)
CODE, STACK, STACK_END, RETURN = 0x400000, 0x200000, 0x240000, 0x100000
WHOLE = (1 << 32) - 1
Values = Mapping[Register, int]


class Board:
    """A machine with a stack, and code that is put where nothing ran before."""

    def __init__(self, arch: Arm) -> None:
        self.arch = arch
        self.machine = Machine(arch)
        self.machine.map(CODE, 0x400000)
        self.machine.map(STACK, STACK_END - STACK)
        self.machine.map(RETURN, 0x1000)
        self.next = CODE

    def place(self, code: Sequence[Insn]) -> tuple[int, tuple[int, ...], int]:
        """Where the code starts, where each instruction is, and where it ends."""
        start = self.next
        assembled = assemble(self.arch, code)
        linked = link(self.arch, assembled.code, assembled.relocations, start, {"symbol": 0x89ABCDEF})
        self.machine.write(start, linked)
        self.next += len(linked) + 0x40 & -0x40
        return start, tuple(start + offset for offset in assembled.offsets), start + len(linked)

    def run(self, code: Iterable[Insn], values: Values, *, until: int | None = None) -> None:
        instructions = list(code)
        start, _, end = self.place(instructions)
        self.machine.set_many(values)
        if instructions:
            self.go(start, end if until is None else until)

    def go(self, start: int, until: int) -> None:
        stop = self.machine.run(start, 10_000, until)
        assert stop.reason == "reached", stop


@pytest.fixture(scope="module", params=[HARD, SOFT], ids=["armv7", "armv5"])
def board(request: pytest.FixtureRequest) -> Board:
    return Board(request.param)


# --------------------------------------------------------------------------------------------------------- conventions


def integer(bits: int, *, signed: bool = False) -> ValueType:
    return ValueType("int", bits, signed)


I8, I32, I64, F32, F64 = integer(8), integer(32), integer(64), ValueType("float", 32), ValueType("float", 64)


def places(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None = None) -> list[object]:
    """Registers (singles by their own names) and offsets, and the bytes of stack."""
    assignment = convention.place(arguments, result)
    found: list[object] = []
    locations = [*zip(arguments, assignment.arguments, strict=True)]
    if result is not None:
        locations.append((result, assignment.result))
    for value, location in locations:
        for part in location:
            place = part.place
            if not isinstance(place, InRegister):
                found.append(place.offset)
            elif value == F32 and place.register.bank is Bank.FLOAT:
                found.append(f"s{2 * place.register.number + place.left}")
            else:
                found.append(place.register.name)
    return [*found, assignment.stack_bytes]


@pytest.mark.parametrize(
    ("arch", "arguments", "result", "expected"),
    [
        (HARD, [I32, I32, I32, I64, I32], None, ["r0", "r1", "r2", 0, 8, 12]),
        (HARD, [I32, I64, I32], I64, ["r0", "r2", "r3", 0, "r0", "r1", 4]),
        (HARD, [I64, I8, I32, I32, I64], I8, ["r0", "r1", "r2", "r3", 0, 8, "r0", 16]),
        (HARD, [F32, F64, F32], F32, ["s0", "d1", "s1", "s0", 0]),
        (HARD, [F32, I32, F64, F32, F32], F64, ["s0", "r0", "d1", "s1", "s4", "d0", 0]),
        (HARD, [F32, *[F64] * 8, F32], None, ["s0", *(f"d{n}" for n in range(1, 8)), 0, 8, 12]),
        (HARD, [*[F32] * 15, F64, F32], None, [*(f"s{n}" for n in range(15)), 0, 8, 12]),
        (HARD, [*[F64] * 9, I32, F32, *[I32] * 4], I32, [*(f"d{n}" for n in range(8)), 0, "r0", 8,
         "r1", "r2", "r3", 12, "r0", 16]),
        (SOFTFP, [I32, F64, F32, F64], F64, ["r0", "r2", "r3", 0, 8, "r0", "r1", 16]),
        (SOFT, [F32, F32, F64, F32], F32, ["r0", "r1", "r2", "r3", 0, "r0", 4]),
    ],
)  # fmt: skip
def test_c_arguments_travel_where_the_documents_say(
    arch: Arm, arguments: list[ValueType], result: ValueType | None, expected: list[object]
) -> None:
    assert places(arch.conventions["c"], arguments, result) == expected


@pytest.mark.parametrize("arch", [HARD, SOFTFP, SOFT])
def test_go_lays_arguments_out_like_a_struct_of_words(arch: Arm) -> None:
    go0 = arch.conventions["go0"]
    assert places(go0, []) == [4]
    assert places(go0, [I32, I32, I32]) == [4, 8, 12, 16]
    assert places(go0, [I8, I8, I64, I8, F64], I8) == [4, 5, 8, 16, 20, 28, 32]


def test_a_call_widens_what_is_narrower_than_a_word() -> None:
    convention = HARD.conventions["c"]
    assignment = convention.place([integer(8, signed=True)] * 5, integer(16))
    parts = [location[0] for location in (*assignment.arguments, assignment.result)]
    assert [(p.extend_to, p.extend_signed) for p in parts] == [(32, True)] * 5 + [(32, False)]


@pytest.mark.parametrize("arch", [HARD, SOFTFP, SOFT])
def test_allocatable_registers_are_nobody_elses(arch: Arm) -> None:
    for convention in arch.conventions.values():
        usable = arch.allocatable(convention)
        assert len(set(usable)) == len(usable)
        assert not {*convention.reserved, *convention.scratch, convention.thread, LR} & set(usable)
    assert bool(arch.float_allocatable(arch.conventions["c"])) == arch.vfp
    assert (D[8] in arch.conventions["c"].kept) == arch.vfp


# -------------------------------------------------------------------------------------------------------- computations

EDGES = sorted(
    {0, 1, 0xFF, 0x100, 0xFF0, 0xFFF, 0x1000, 0xFFFF, 0x10000, 0x55555555, 0xFF00FF00, 0xF000000F, 0x12345678}
    | {(1 << bit) + step & WHOLE for bit in (7, 8, 15, 16, 31) for step in (-1, 0, 1)}
    | {-n & WHOLE for n in (1, 8, 0x100, 0x101, 0x1000, 0x12345, 0x1234567)}
)


def test_immediates_are_eight_bits_turned_by_an_even_number() -> None:
    good = {(byte << turn | byte << turn >> 32) & WHOLE for byte in range(0x100) for turn in range(0, 32, 2)}
    source = random.Random(4)
    for value in (*good, *EDGES, *(source.getrandbits(32) for _ in range(2000))):
        assert encodable(value) == (value in good)
        assert sum(pieces(value)) == value
        assert all(encodable(piece) for piece in pieces(value))
        assert len(pieces(value)) <= 4


def test_constants_have_their_value_in_few_instructions(board: Board) -> None:
    source = random.Random(1)
    for value in (*EDGES, *(source.getrandbits(32) for _ in range(60))):
        code = list(board.arch.constant(R[3], value))
        board.run(code, {R[3]: ~value & WHOLE})
        assert board.machine.get(R[3]) == value, [one.text for one in code]
        assert len(code) <= (2 if board.arch.v7 else 4)
    for value in (5, -1, 0xFF000000, 0xF000000F, -0x100, 0xFFFFFF):
        assert len(list(board.arch.constant(R[3], value))) == 1, hex(value)


def test_symbols_have_their_address(board: Board) -> None:
    board.run(board.arch.symbol_address(R[7], "symbol"), {R[7]: 0})
    assert board.machine.get(R[7]) == 0x89ABCDEF


def model(op: BinaryOp, a: int, b: int) -> int:
    signed_a = a - (1 << 32) if a >> 31 else a
    match op:
        case "add":
            result = a + b
        case "sub":
            result = a - b
        case "and":
            result = a & b
        case "or":
            result = a | b
        case "xor":
            result = a ^ b
        case "shl":
            result = a << b % 32
        case "shr":
            result = a >> b % 32
        case "sar":
            result = signed_a >> b % 32
        case "mul":
            result = a * b
    return result & WHOLE


OPERATIONS: tuple[BinaryOp, ...] = ("add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul")


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_compute(board: Board, op: BinaryOp) -> None:
    a, b = 0xFEDCBA98, 0x80000123
    shift = op in ("shl", "shr", "sar")
    for d, first, second in ((R[0], R[1], R[2]), (R[1], R[1], R[2]), (R[2], R[1], R[2]), (R[1], R[1], R[1])):
        values = {R[1]: 3 if shift and second == R[1] else a, R[2]: 7 if shift else b}
        board.run(board.arch.binary(op, d, first, second), values)
        assert board.machine.get(d) == model(op, values[first], values[second])
    for value, d in itertools.product(range(32) if shift else EDGES, (R[0], R[1])):
        code = list(board.arch.binary(op, d, R[1], value))
        board.run(code, {R[1]: a})
        assert board.machine.get(d) == model(op, a, value), [one.text for one in code]
    if op in ("add", "sub", "and", "or", "xor"):
        for value, d in itertools.product(EDGES, (R[0], R[12], SP)):
            code = list(board.arch.binary(op, d, R[12], value))
            board.run(code, {R[12]: a})
            assert board.machine.get(d) == model(op, a, value), [one.text for one in code]
        board.run(board.arch.binary(op, SP, SP, 0x10), {SP: STACK + 0x1238})
        assert board.machine.sp == model(op, STACK + 0x1238, 0x10)


def test_before_armv6_a_product_is_not_written_over_its_first_factor() -> None:
    for d, a, b in itertools.product(R[0:3], repeat=3):
        *_, last = SOFT.binary("mul", d, a, b)
        target, first = last.text.removeprefix("mul ").split(", ")[:2]
        assert target != first


@pytest.mark.parametrize(("bits", "signed"), [*itertools.product((8, 16, 32), (False, True))])
def test_extension_loads_and_stores_agree(board: Board, bits: int, signed: bool) -> None:
    arch, address = board.arch, STACK + 0x18000
    for value in (0x85868788, 0x75767778):
        low = value & (1 << bits) - 1
        expected = (low - (1 << bits) if signed and low >> (bits - 1) else low) & WHOLE
        board.run(arch.extend(R[0], R[1], bits, signed), {R[1]: value})
        assert board.machine.get(R[0]) == expected
        board.machine.write(address, value.to_bytes(8, "little"))
        for base, offset in itertools.product((R[2], R[12]), (4, 0x12344, -0x12344, 0x1FF00)):
            board.run(arch.load(R[12], base, offset, bits, signed), {base: address - offset})
            assert board.machine.get(R[12]) == expected
        for offset in (0, 4, -4, 0xFC, -0xFC, 0x100, -0x100, 0xFFC, -0xFFC, 0x1000, -0x1004, 0x12344, -0x12344):
            start = address - offset
            board.machine.write(address - 8, bytes(24))
            board.run(arch.store(R[1], R[2], offset, bits), {R[1]: value, R[2]: start})
            assert int.from_bytes(board.machine.read(address, 8), "little") == low
            board.run(arch.load(R[0], R[2], offset, bits, signed), {R[0]: 0x55, R[2]: start})
            assert board.machine.get(R[0]) == expected
            board.run(arch.load(R[2], R[2], offset, bits, signed), {R[2]: start})
            assert board.machine.get(R[2]) == expected


def test_the_stack_pointer_is_stored_and_loaded(board: Board) -> None:
    for offset in (8, 0x12340):
        board.run(board.arch.store(SP, R[1], offset, 32), {SP: STACK + 0x120, R[1]: STACK + 0x1000})
        assert int.from_bytes(board.machine.read(STACK + 0x1000 + offset, 4), "little") == STACK + 0x120
        board.run(board.arch.load(SP, R[1], offset, 32, False), {SP: STACK + 0x3450})
        assert board.machine.sp == STACK + 0x120
    board.machine.write(STACK + 0x148, (STACK + 0x5000).to_bytes(4, "little"))
    board.run(board.arch.load(SP, SP, 0x28, 32, False), {SP: STACK + 0x120})
    assert board.machine.sp == STACK + 0x5000
    board.run(board.arch.constant(SP, STACK + 0x1234), {})
    assert board.machine.sp == STACK + 0x1234


def test_singles_are_lower_halves_and_leave_the_upper_ones() -> None:
    board = Board(HARD)
    value, other = 0x123456789ABCDEF0, 0xAAAAAAAABBBBBBBB
    for bits, expected in ((64, value), (32, other >> 32 << 32 | value & WHOLE)):
        board.run(HARD.float_move(D[9], D[2], bits), {D[2]: value, D[9]: other})
        assert board.machine.get(D[9]) == expected
        for offset in (0, 4, -4, 0x3FC, 0x400, -0x3FC, -0x400, 0x12344, 0x12345670 & 0x1FFFC):
            base = STACK + 0x10000
            board.run(HARD.float_store(D[2], R[1], offset, bits), {R[1]: base})
            board.run(HARD.float_load(D[9], R[1], offset, bits), {D[9]: other})
            assert board.machine.get(D[9]) == expected
    with pytest.raises(ValueError, match="d16 has no halves"):
        list(HARD.float_load(D[16], SP, 0, 32))


CONDITIONS: tuple[Condition, ...] = ("eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_comparisons_branch_when_they_hold(board: Board, condition: Condition) -> None:
    def holds(a: int, b: int) -> bool:
        if not condition.startswith("u") and condition not in ("eq", "ne"):
            a, b = ((n - (1 << 32) if n >> 31 else n) for n in (a, b))
        return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[
            condition.removeprefix("u")
        ]

    arch, end = board.arch, Insn("", label=".Lend")
    numbers = (0, 1, 5, 0xFFF, 0x1000, 0x12345, 1 << 31, (1 << 31) - 1, WHOLE, -5 & WHOLE, -0x1000 & WHOLE)
    for b in numbers:
        for form in (b, R[2]):
            branch = list(arch.compare_branch(condition, R[1], form, ".Lend"))
            code = [*arch.constant(R[0], 1), *branch, *arch.constant(R[0], 0), end]
            start, _, last = board.place(code)
            for a in numbers:
                board.machine.set_many({R[1]: a, R[2]: b})
                board.go(start, last)
                assert board.machine.get(R[0]) == holds(a, b), (hex(a), [one.text for one in branch])


def test_fixed_values_and_thread_local_words() -> None:
    board = Board(HARD)
    board.run(HARD.establish(Fixed(R[5], WHOLE, 0x1234, "")), {R[5]: 1})
    assert board.machine.get(R[5]) == 0x1234
    board.run(HARD.establish(Fixed(R[5], 0xFF00, 0x1200, "")), {R[5]: 0xABCDEF})
    assert board.machine.get(R[5]) == 0xAB12EF
    board.run(HARD.establish(Fixed(FPSCR, 0x00C00000, 0x00400000, "")), {FPSCR: 0x02800010})
    assert board.machine.get(FPSCR) == 0x02400010
    board.machine.set_thread_pointer(STACK + 0x2000)
    slot = ThreadSlot("tpidruro", -0x10)
    board.run(HARD.thread_store(R[3], slot), {R[3]: 0x77})
    board.run(HARD.thread_load(R[4], slot), {R[4]: 0})
    assert board.machine.get(R[4]) == 0x77
    for arch, segment in ((HARD, "fs"), (SOFT, "tpidruro")):
        with pytest.raises(ValueError, match="tpidruro"):
            list(arch.thread_load(R[4], ThreadSlot(segment, 0)))


# -------------------------------------------------------------------------------------------------------------- frames


def kept_by_c(arch: Arm) -> tuple[tuple[Register, int], ...]:
    return tuple(arch.conventions["c"].kept.items())


def choices(arch: Arm) -> list[tuple[tuple[Register, int], ...]]:
    kept = kept_by_c(arch)
    everything = (*((r, WHOLE) for r in R[4:12]), (APSR, 0xF8000000))
    if arch.vfp:
        gaps = ((D[8], 1), (D[9], 1), (D[11], 1), (D[14], 1))
        everything = (*everything, *((d, (1 << 64) - 1) for d in D[8:32]), (FPSCR, FPSCR_CONTROL))
        return [(), kept[:1], kept[:2], kept[:8], kept[6:11], gaps, kept, kept[-1:], everything]
    return [(), kept[:1], kept[:2], kept, everything]


def noting(touched: list[int]) -> Callable[..., None]:
    return lambda address, *_: touched.append(address)


@pytest.mark.parametrize("name", ["c", "go0"])
def test_frames_give_back_what_they_were_given(board: Board, name: str) -> None:
    source = random.Random(2)
    arch, machine = board.arch, board.machine
    convention = arch.conventions[name]
    bodies = (0, 4, 8, 12, 16, 0x3C, 0x104, 0xFF8, 0x1000, 0x1234, 0xA000)
    for saves, body, link_kept, free, improved in itertools.product(
        choices(arch), bodies, (False, True), (False, True), (False, True)
    ):
        if name == "go0" and link_kept and body == 0:
            continue  # the word of the return address is part of the body
        frame = arch.layout(FrameRequest(convention, body, saves, link_kept, 8, free))
        code: Sequence[Insn] = [*arch.prologue(frame), Insn("nop"), *arch.epilogue(frame), *arch.leave(frame, 0)]
        if not arch.v7:
            code = [Insn("mov r0, r0") if one.text == "nop" else one for one in code]
        marker = next(one for one in code if one.part == "body")
        if improved and arch.v7:
            code = arch.improve(code)
        start, addresses, _ = board.place(code)
        middle = addresses[list(code).index(marker)]
        cfa = STACK_END - 0x1000
        everything = [*R, LR, *(D if arch.vfp else ()), *(r for r, _ in saves if r.bank is Bank.CONTROL)]
        before = {r: source.getrandbits(r.bits) & machine.writable_mask(r) for r in everything}
        before[LR] = RETURN
        machine.set_many({**before, SP: cfa})
        touched: list[int] = []
        hooks = [machine.on_write(noting(touched)), machine.on_read(noting(touched))]
        board.go(start, middle)
        assert machine.sp == cfa - frame.size
        assert frame.size % 8 == 0
        for register in everything:
            assert register == R[12] or machine.get(register) == before[register], f"{register} in the prologue"
        at_bottom = any(slot.offset == 0 and slot.register == LR for slot in frame.slots) and (
            name == "go0" or (free and not saves)
        )
        bottom = 4 if at_bottom and link_kept else 0
        used = sorted((slot.offset, slot.offset + slot.size) for slot in frame.slots)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(used))
        assert all(low >= body or (low, high) == (0, bottom) for low, high in used)
        if body > bottom:
            machine.write(machine.sp + bottom, source.randbytes(body - bottom))
        machine.write(machine.sp - 0x800, source.randbytes(0x800))
        rubbish = {r: source.getrandbits(r.bits) & machine.writable_mask(r) for r, _ in saves}
        result = {R[0]: source.getrandbits(32), R[1]: source.getrandbits(32)}
        machine.set_many({**rubbish, **result, **({LR: 0x55} if link_kept else {})})
        board.go(middle, RETURN)
        for hook in hooks:
            hook.remove()
        assert machine.sp == cfa
        assert all(cfa - frame.size <= address < cfa for address in touched)
        for register, mask in saves:
            assert (machine.get(register) ^ before[register]) & mask == 0, f"{register} of {frame}"
        for register, value in result.items():
            assert machine.get(register) == value
        unsaved = [r for r in R[4:12] if r not in rubbish]
        assert all(machine.get(r) == before[r] for r in unsaved)


def test_nothing_lies_below_the_stack_pointer(board: Board) -> None:
    """Before every instruction, all below sp is overwritten, as a signal would."""
    arch, machine = board.arch, board.machine
    kept = kept_by_c(arch)
    for convention, body, free in itertools.product(arch.conventions.values(), (4, 0x104, 0xA000), (False, True)):
        frame = arch.layout(FrameRequest(convention, body, kept, True, 8, free))
        code = arch.improve([*arch.prologue(frame), *arch.epilogue(frame), *arch.leave(frame, 0)])
        start, _, end = board.place(code)
        changing = [r for r, _ in kept if r.bank is not Bank.CONTROL]
        machine.set_many({**{r: r.number + 1 for r in changing}, LR: RETURN, SP: STACK_END - 0x1000})
        before = machine.get_many(changing)

        def signal(address: int, _size: int) -> None:
            machine.write(machine.sp - 0x400, bytes([0xA5]) * 0x400)

        hook = machine.on_instruction(signal, start, end)
        middle = start + 4 * sum(one.part == "prologue" for one in code)
        board.go(start, middle)
        machine.set_many(dict.fromkeys(changing, 0))
        board.go(middle, RETURN)
        hook.remove()
        assert machine.get_many(changing) == before
        assert machine.sp == STACK_END - 0x1000


# ---------------------------------------------------------------------------------------------------------- improvement


def texts(code: Sequence[Insn]) -> list[str]:
    return [one.label or one.text for one in code]


def crosscall(arch: Arm) -> list[str]:
    """The trampoline from C to Go: three of four arguments go on in memory, and Go keeps nothing."""
    c, go0 = arch.conventions["c"], arch.conventions["go0"]
    saves = tuple((r, m) for r, m in kept_by_c(arch) if r != FPSCR)
    frame = arch.layout(FrameRequest(c, 16, saves, True, 8, True))
    arguments = [one for n, r in enumerate((R[0], R[1], R[3])) for one in arch.store(r, SP, 4 + 4 * n, 32)]
    calls = [*arch.call("runtime.load_g", go0), *arch.call("runtime.cgocallback", go0)]
    return texts(
        arch.improve([*arch.prologue(frame), *arguments, *calls, *arch.epilogue(frame), *arch.leave(frame, 0)])
    )


def test_a_whole_trampoline_is_as_short_as_by_hand() -> None:
    middle = ["sub sp, sp, #0x14", "stmib sp, {r0, r1, r3}", "bl runtime.load_g", "bl runtime.cgocallback"]
    assert crosscall(HARD) == [
        "push {r4-r11, lr}",
        "vpush {d8-d15}",
        *middle,
        "add sp, sp, #0x14",
        "vpop {d8-d15}",
        "pop {r4-r11, pc}",
    ]
    assert crosscall(SOFT) == ["push {r4-r11, lr}", *middle, "add sp, sp, #0x14", "pop {r4-r11, pc}"]


@pytest.mark.parametrize(
    ("name", "body", "count", "free", "expected"),
    [
        ("c", 0, 0, False, ["push {r4, lr}", "pop {r4, pc}"]),
        ("c", 8, 0, True, ["str lr, [sp, #-8]!", "ldr pc, [sp], #8"]),
        ("c", 0, 1, False, ["push {r4, lr}", "pop {r4, pc}"]),
        ("c", 0, 2, False, ["push {r4-r6, lr}", "pop {r4-r6, pc}"]),
        ("go0", 16, 0, False, ["str lr, [sp, #-0x10]!", "ldr pc, [sp], #0x10"]),
        (
            "go0",
            0x1000,
            0,
            False,
            ["sub sp, sp, #0x1000", "str lr, [sp]", "ldr lr, [sp]", "add sp, sp, #0x1000", "bx lr"],
        ),
    ],
)
def test_frames_are_made_as_by_hand(name: str, body: int, count: int, free: bool, expected: list[str]) -> None:
    convention = HARD.conventions[name]
    saves = tuple((r, WHOLE) for r in R[4 : 4 + count])
    frame = HARD.layout(FrameRequest(convention, body, saves, True, convention.alignment, free))
    whole = [*HARD.prologue(frame), *HARD.epilogue(frame), *HARD.leave(frame, 0)]
    assert texts(HARD.improve(whole)) == expected


def test_multiples_and_pairs_are_made_only_where_an_instruction_can_hold_them() -> None:
    def stores(*where: tuple[int, int], base: Register = R[0]) -> list[Insn]:
        return [one for n, offset in where for one in HARD.store(R[n], base, offset, 32)]

    def improved(code: Sequence[Insn], arch: Arm = HARD) -> list[str]:
        return texts(arch.improve(code))

    assert improved(stores((1, 0), (2, 4), (5, 8))) == ["stm r0, {r1, r2, r5}"]
    assert improved(stores((1, 4), (2, 8))) == ["stmib r0, {r1, r2}"]
    assert improved(stores((1, -8), (2, -4))) == ["stmdb r0, {r1, r2}"]
    assert improved(stores((1, -4), (2, 0))) == ["stmda r0, {r1, r2}"]
    assert improved(stores((2, 8), (3, 12), (5, 16))) == ["strd r2, r3, [r0, #8]", "str r5, [r0, #0x10]"]
    assert improved(stores((2, 8), (3, 12)), SOFT) == ["str r2, [r0, #8]", "str r3, [r0, #0xc]"]
    assert improved(stores((3, 8), (1, 4), (2, 0), base=SP)) == ["str r2, [sp]", "stmib sp, {r1, r3}"]
    loads = [*HARD.load(R[1], R[0], 0, 32, False), *HARD.load(R[0], R[0], 4, 32, False)]
    assert improved(loads[::-1]) == texts(loads[::-1])
    assert improved([*HARD.load(R[0], R[1], 0, 32, False), *HARD.load(R[1], R[1], 4, 32, False)]) == [
        "ldm r1, {r0, r1}"
    ]
    for code in (
        stores((2, 0), (1, 4)),
        stores((1, 4), (2, 0)),
        stores((1, 2), (2, 6)),
        stores((1, 0), (2, 8)),
        [*stores((1, 0)), *HARD.store(R[2], R[0], 4, 16)],
        [*stores((1, 0)), Insn("", label=".L1"), *stores((2, 4))],
        [*stores((1, 0)), *stores((2, 4), base=R[3])],
        [Insn("str r1, [r0]", user_text=True), Insn("str r2, [r0, #4]", user_text=True)],
        [*HARD.store(R[1], SP, 0, 32), *HARD.store(SP, SP, 4, 32)],
        [*HARD.load(R[0], R[0], 0, 32, False), *HARD.load(R[1], R[0], 4, 32, False)],
        stores((2, 0x100), (3, 0x104)),
    ):
        assert improved(code) == texts(code)


def test_improved_code_does_the_same(board: Board) -> None:
    source = random.Random(3)
    arch, machine = board.arch, board.machine
    shorter = 0
    for _ in range(400):
        code: list[Insn] = []
        for _ in range(source.randint(1, 5)):
            base = source.choice((SP, SP, R[1]))
            is_store, spread = source.random() < 0.5, source.choice((4, 4, 4, 2))
            start = source.choice((0, 4, 8, -4, -12)) if base != SP else source.choice((0, 4, 8))
            chosen = source.sample(range(2, 10), source.randint(1, 6))
            offsets = source.sample(range(start, start + 28, spread), len(chosen))
            if source.random() < 0.7:
                chosen, offsets = sorted(chosen), sorted(offsets)
            for n, offset in zip(chosen, offsets, strict=True):
                register = R[1] if not is_store and source.random() < 0.05 else R[n]
                if is_store:
                    code += arch.store(register, base, offset, 32)
                else:
                    code += arch.load(register, base, offset, 32, False)
                if register == R[1]:
                    code += arch.constant(R[1], STACK + 0x2000)
        if not arch.v7:
            # Before ARMv6 a word at an odd place is turned about: nothing here makes such accesses.
            code = [one for one in code if one.access is None or one.access.offset % 4 == 0]
        improved = arch.improve(code)
        shorter += len(improved) < len(code)
        values = {register: source.getrandbits(32) for register in R[2:10]}
        values |= {SP: STACK + 0x8000, R[1]: STACK + 0x2000}
        memory = source.randbytes(0x8000)
        outcomes = []
        for version in (code, improved):
            machine.write(STACK + 0x1000, memory)
            board.run(version, values)
            outcomes.append((machine.get_many(values), machine.read(STACK + 0x1000, 0x8000)))
        assert outcomes[0] == outcomes[1], (texts(code), texts(improved))
    assert shorter > 100


def test_what_instructions_say_of_themselves_is_exact() -> None:
    [popped] = HARD.improve(
        [Insn("pop {r4, lr}", writes=frozenset((R[4], LR, SP))), *HARD.leave(frame_of_nothing(), 0)]
    )
    assert (popped.text, popped.writes, popped.transfer) == ("pop {r4, pc}", {R[4], SP}, "return")
    # A single is put beside another one.
    assert [one.reads for one in HARD.float_load(D[3], SP, 4, 32)] == [{SP, D[3]}]
    assert [one.reads for one in HARD.float_load(D[3], SP, 8, 64)] == [{SP}]
    [far] = [one for one in HARD.load(R[3], R[2], 0x1F00, 32, False) if one.memory == "read"]
    assert far.access is None
    with pytest.raises(ValueError, match="r12 is needed"):
        list(HARD.store(R[12], SP, 0x1000, 32))


def frame_of_nothing() -> Frame:
    return HARD.layout(FrameRequest(HARD.conventions["c"], 0, (), False, 8))


# --------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("arch", [HARD, SOFTFP, SOFT], ids=["hard", "softfp", "soft"])
def test_rare_forms_equal_those_of_gnu_as(arch: Arm, tmp_path: Path) -> None:
    """What the matrix over conventions does not reach: sp and r12 as operands, register lists, control registers."""
    code: list[Insn] = []
    for op in ("add", "sub", "and", "or", "xor"):
        for d, a, b in itertools.product((R[0], R[12], SP), (R[9], R[12]), (R[10], 0x10, 0x12345678)):
            code += arch.binary(op, d, a, b)  # type: ignore[arg-type]  # the tuple holds operations
    for value in EDGES:
        code += arch.constant(SP, value)
    for saves, body in itertools.product(choices(arch), (0, 0x1234, 0xA000)):
        frame = arch.layout(FrameRequest(arch.conventions["c"], body, saves, True, 8))
        code += arch.improve([*arch.prologue(frame), *arch.epilogue(frame), *arch.leave(frame, 0)])
    for base, kind in itertools.product((SP, R[0]), ("load", "store")):
        for start, width in itertools.product((0, 4, 8, -4, -8), range(1, 8)):
            run: list[Insn] = []
            for n in range(width):
                register, offset = R[4 + n], start + 4 * n
                run += (
                    arch.load(register, base, offset, 32, False)
                    if kind == "load"
                    else arch.store(register, base, offset, 32)
                )
            code += arch.improve(run)
    if arch.v7:
        slot = ThreadSlot("tpidruro", 0x1234)
        code += [*arch.thread_load(R[3], slot), *arch.thread_load(SP, slot), *arch.thread_store(R[9], slot)]
        code += arch.establish(Fixed(FPSCR, 0x370000, 0, ""))
    source = "\n".join([*arch.header, ".text", *texts(code), ""])
    need(arch.gnu_as[0])
    subprocess.run([*arch.gnu_as, "-o", str(tmp_path / "out.o"), "-"], input=source, text=True, check=True)
    with (tmp_path / "out.o").open("rb") as stream:
        expected = ELFFile(stream).get_section_by_name(".text").data()
    found = assemble(arch, code).code
    wrong = [one.text for n, one in enumerate(code) if found[4 * n : 4 * n + 4] != expected[4 * n : 4 * n + 4]]
    assert not wrong
    assert len(found) == len(expected)
