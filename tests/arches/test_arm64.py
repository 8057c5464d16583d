"""arm64: where its conventions put things, what its instructions compute, and its frames, by execution."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from tools import need
from trampoline_dsl.arches.arm64 import (
    FPCR,
    FPCR_CONTROL,
    FPSR,
    GO0,
    LINK,
    NZCV,
    SP,
    TARGETS,
    C,
    V,
    X,
)

from trampoline_dsl.assemble import assemble
from trampoline_dsl.emulate import Machine
from trampoline_dsl.target import (
    Bank,
    BinaryOp,
    Condition,
    Convention,
    Fixed,
    FrameRequest,
    InRegister,
    Insn,
    Register,
    ThreadSlot,
    ValueType,
)

TARGET, _ = TARGETS
ARCH = TARGET.architecture
CODE, STACK, STACK_END, RETURN = 0x400000, 0x200000, 0x240000, 0x100000
WHOLE = (1 << 64) - 1
Values = Mapping[Register, int]


class Board:
    """A machine with a stack, and code that is put where nothing ran before."""

    def __init__(self) -> None:
        self.machine = Machine(ARCH)
        self.machine.map(CODE, 0x400000)
        self.machine.map(STACK, STACK_END - STACK)
        self.machine.map(RETURN, 0x1000)
        self.next = CODE

    def place(self, code: Sequence[Insn]) -> tuple[int, tuple[int, ...], int]:
        """Where the code starts, where each instruction is, and where it ends."""
        start = self.next
        assembled = assemble(ARCH, code)
        self.machine.write(start, assembled.code)
        self.next += len(assembled.code) + 0x40 & -0x40
        return start, tuple(start + offset for offset in assembled.offsets), start + len(assembled.code)

    def run(self, code: Iterable[Insn], values: Values, *, until: int | None = None) -> None:
        instructions = list(code)
        start, _, end = self.place(instructions)
        self.machine.set_many(values)
        if instructions:
            self.go(start, end if until is None else until)

    def go(self, start: int, until: int) -> None:
        stop = self.machine.run(start, 10_000, until)
        assert stop.reason == "reached", stop


@pytest.fixture(scope="module")
def board() -> Board:
    return Board()


# --------------------------------------------------------------------------------------------------------- conventions


def integer(bits: int, *, signed: bool = False) -> ValueType:
    return ValueType("int", bits, signed)


I8, I32, I64, F32, F64 = integer(8), integer(32), integer(64), ValueType("float", 32), ValueType("float", 64)


def places(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None = None) -> list[object]:
    assignment = convention.place(arguments, result)
    parts = [part for location in (*assignment.arguments, assignment.result) for part in location]
    found = [part.place.register.name if isinstance(part.place, InRegister) else part.place.offset for part in parts]
    return [*found, assignment.stack_bytes]


@pytest.mark.parametrize(
    ("convention", "arguments", "result", "expected"),
    [
        (C, [], None, [0]),
        (C, [I64, I8, I32], I32, ["x0", "x1", "x2", "x0", 0]),
        (C, [I32] * 10, F64, [*(f"x{n}" for n in range(8)), 0, 8, "v0", 16]),
        (C, [F32, I64, F64, I8], F32, ["v0", "x0", "v1", "x1", "v0", 0]),
        (C, [F64] * 9 + [I64, F32], I64, [*(f"v{n}" for n in range(8)), 0, "x0", 8, "x0", 16]),
        (GO0, [I64, I64, I64], None, [8, 16, 24, 32]),
        (GO0, [I8, I8, I32, I8, I64], I8, [8, 9, 12, 16, 24, 32, 40]),
        (GO0, [F32, F64], F32, [8, 16, 24, 32]),
        (GO0, [], None, [8]),
    ],
)
def test_arguments_travel_where_the_documents_say(
    convention: Convention, arguments: list[ValueType], result: ValueType | None, expected: list[object]
) -> None:
    assert places(convention, arguments, result) == expected


def test_nobody_may_rely_on_bits_above_a_value() -> None:
    for convention in (C, GO0):
        assignment = convention.place([integer(8, signed=True)] * 10, integer(16))
        assert all(p.extend_to == 0 for location in (*assignment.arguments, assignment.result) for p in location)


def test_allocatable_registers_are_nobody_elses() -> None:
    for convention in (C, GO0):
        usable = ARCH.allocatable(convention)
        taken = {*convention.reserved, *convention.scratch, convention.thread, LINK, SP, X[18], X[29]}
        assert len(set(usable)) == len(usable)
        assert not taken & set(usable)
    assert X[27] not in ARCH.allocatable(GO0)
    assert X[28] not in ARCH.allocatable(GO0)


# -------------------------------------------------------------------------------------------------------- computations

EDGES = sorted(
    {0, 1, 0xFFF, 0x1000, 0xFFFFFF, 0x1000000, 0x5555555555555555, 0xFFFF0000FFFF, 0xFFF000, 0xFFFFFFFF, 0xFFFF1234}
    | {(1 << bit) + step & WHOLE for bit in (7, 8, 15, 16, 31, 32, 63) for step in (-1, 0, 1)}
    | {-n & WHOLE for n in (1, 8, 0x100, 0x101, 0x1000, 0x12345, 0x123456789)}
)


def test_constants_have_their_value_in_few_instructions(board: Board) -> None:
    source = random.Random(1)
    values = [*EDGES, *(source.getrandbits(64) for _ in range(60)), *(source.getrandbits(32) for _ in range(20))]
    for value in values:
        code = list(ARCH.constant(X[3], value))
        board.run(code, {X[3]: ~value & WHOLE})
        assert board.machine.get(X[3]) == value, [one.text for one in code]
        assert len(code) <= 4
    for value in (5, -1, 0xFFFF0000, -0x10000, 0xFF00FF00FF00FF00, 0xFFFFFFF0, 0xFFFF1234, 0x0F0F0F0F, -0x1235):
        assert len(list(ARCH.constant(X[3], value))) == 1, hex(value)


def model(op: BinaryOp, a: int, b: int) -> int:
    signed_a = a - (1 << 64) if a >> 63 else a
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
            result = a << b % 64
        case "shr":
            result = a >> b % 64
        case "sar":
            result = signed_a >> b % 64
        case "mul":
            result = a * b
    return result & WHOLE


OPERATIONS: tuple[BinaryOp, ...] = ("add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul")


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_compute(board: Board, op: BinaryOp) -> None:
    a, b = 0xFEDCBA9876543210, 0x8000000000000123
    shift = op in ("shl", "shr", "sar")
    for d, first, second in ((X[0], X[1], X[2]), (X[1], X[1], X[2]), (X[2], X[1], X[2]), (X[1], X[1], X[1])):
        board.run(ARCH.binary(op, d, first, second), {X[1]: a, X[2]: 7 if shift else b})
        right = {X[1]: a, X[2]: 7 if shift else b}[second]
        assert board.machine.get(d) == model(op, a, right)
    for value, d in itertools.product(range(64) if shift else EDGES, (X[0], X[1])):
        code = list(ARCH.binary(op, d, X[1], value))
        board.run(code, {X[1]: a})
        assert board.machine.get(d) == model(op, a, value), [one.text for one in code]


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_take_the_stack_pointer_too(board: Board, op: BinaryOp) -> None:
    if op == "mul":
        pairs = [(X[0], SP, 3)]
    elif op in ("shl", "shr", "sar"):
        pairs = [(X[0], SP, 3), (SP, X[1], 4)]
    else:
        pairs = [(X[0], SP, 0x10), (SP, SP, 0x10), (SP, X[1], 0x7FFFFFFF0), (SP, SP, -0x10 & WHOLE), (SP, SP, 0x12340)]
    for d, a, value in pairs:
        values = {SP: STACK + 0x1230, X[1]: STACK + 0x4560}
        board.run(ARCH.binary(op, d, a, value), values)
        assert board.machine.get(d) == model(op, values[a], value)
    registers = [(X[0], SP, X[1]), (X[0], X[1], SP), (SP, SP, X[1]), (SP, X[1], SP), (X[0], SP, SP), (SP, SP, SP)]
    for d, a, b in registers:
        values = {SP: STACK + 0x1230, X[1]: 0x10}
        board.run(ARCH.binary(op, d, a, b), values)
        assert board.machine.get(d) == model(op, values[a], values[b])


@pytest.mark.parametrize(("bits", "signed"), [*itertools.product((8, 16, 32), (False, True))])
def test_extension_loads_and_stores_agree(board: Board, bits: int, signed: bool) -> None:
    address = STACK + 0x1000
    for value in (0x8182838485868788, 0x7172737475767778):
        low = value & (1 << bits) - 1
        expected = (low - (1 << bits) if signed and low >> (bits - 1) else low) & WHOLE
        board.run(ARCH.extend(X[0], X[1], bits, signed), {X[1]: value})
        assert board.machine.get(X[0]) == expected
        for offset in (0, 1, -1, 0xFF, -0x100, 0x100, 0xFF8, 0x7FF8, 0x8001, 0x12340, -0x1010):
            start = address - offset
            board.machine.write(address - 8, bytes(24))
            board.run(ARCH.store(X[1], X[2], offset, bits), {X[1]: value, X[2]: start})
            assert int.from_bytes(board.machine.read(address, 16), "little") == low
            board.run(ARCH.load(X[0], X[2], offset, bits, signed), {X[0]: 0x55, X[2]: start})
            assert board.machine.get(X[0]) == expected
            board.run(ARCH.load(X[2], X[2], offset, bits, signed), {X[2]: start})
            assert board.machine.get(X[2]) == expected


def test_the_stack_pointer_is_stored_and_loaded(board: Board) -> None:
    for offset in (8, 0x12340):
        board.run(ARCH.store(SP, X[1], offset, 64), {SP: STACK + 0x120, X[1]: STACK + 0x1000})
        assert int.from_bytes(board.machine.read(STACK + 0x1000 + offset, 8), "little") == STACK + 0x120
        board.run(ARCH.load(SP, X[1], offset, 64, False), {SP: STACK + 0x3450})
        assert board.machine.sp == STACK + 0x120
    board.machine.write(STACK + 0x148, (STACK + 0x5000).to_bytes(8, "little"))
    board.run(ARCH.load(SP, SP, 0x28, 64, False), {SP: STACK + 0x120})
    assert board.machine.sp == STACK + 0x5000


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_travel_whole(board: Board, bits: int) -> None:
    value = 0x123456789ABCDEF0FEDCBA9876543210
    low = value & (1 << bits) - 1
    board.run(ARCH.float_move(V[9], V[20], bits), {V[20]: value})
    assert board.machine.get(V[9]) == low
    for offset in (0, 4, 0xFF8, 0x7FF8, 0x8004, -0x100, -0x104, 0x12344):
        board.run(ARCH.float_store(V[20], X[1], offset, bits), {X[1]: STACK + 0x8000, V[20]: value})
        board.run(ARCH.float_load(V[7], X[1], offset, bits), {V[7]: 0})
        assert board.machine.get(V[7]) == low


CONDITIONS: tuple[Condition, ...] = ("eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_comparisons_branch_when_they_hold(board: Board, condition: Condition) -> None:
    def holds(a: int, b: int) -> bool:
        if not condition.startswith("u") and condition not in ("eq", "ne"):
            a, b = ((n - (1 << 64) if n >> 63 else n) for n in (a, b))
        return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[
            condition.removeprefix("u")
        ]

    end = Insn("", label=".Lend")
    numbers = (0, 1, 5, 0xFFF, 0x1000, 0x12345, 1 << 63, (1 << 63) - 1, WHOLE, -5 & WHOLE, -0x1000 & WHOLE)
    for b in numbers:
        for form in (b, X[2]):
            branch = list(ARCH.compare_branch(condition, X[1], form, ".Lend"))
            code = [*ARCH.constant(X[0], 1), *branch, *ARCH.constant(X[0], 0), end]
            start, _, last = board.place(code)
            for a in numbers:
                board.machine.set_many({X[1]: a, X[2]: b})
                board.go(start, last)
                assert board.machine.get(X[0]) == holds(a, b), (hex(a), [one.text for one in branch])


def test_fixed_values_and_thread_local_words(board: Board) -> None:
    board.run(ARCH.establish(Fixed(X[5], WHOLE, 0x1234, "")), {X[5]: 1})
    assert board.machine.get(X[5]) == 0x1234
    board.run(ARCH.establish(Fixed(X[5], 0xFF00, 0x1200, "")), {X[5]: 0xABCDEF})
    assert board.machine.get(X[5]) == 0xAB12EF
    board.run(ARCH.establish(Fixed(FPCR, 0x00C00000, 0x00400000, "")), {FPCR: 0x02800000})
    assert board.machine.get(FPCR) == 0x02400000
    board.machine.set(FPCR, 0)
    board.machine.set_thread_pointer(STACK + 0x2000)
    slot = ThreadSlot("tpidr_el0", -0x10)
    board.run(ARCH.thread_store(X[3], slot), {X[3]: 0x77})
    board.run(ARCH.thread_load(X[4], slot), {X[4]: 0})
    assert board.machine.get(X[4]) == 0x77
    with pytest.raises(ValueError, match="tpidr_el0"):
        list(ARCH.thread_load(X[4], ThreadSlot("fs", 0)))


# -------------------------------------------------------------------------------------------------------------- frames

KEPT = {convention.name: tuple((r, m) for r, m in convention.kept.items() if m) for convention in (C, GO0)}
EVERYTHING = (
    *((x, WHOLE) for x in X[19:29]),
    (X[29], WHOLE),
    *((v, WHOLE) for v in V[8:12]),
    *((v, (1 << 128) - 1) for v in V[12:32]),
    (FPCR, FPCR_CONTROL),
    (FPSR, 0x0800009F),
    (NZCV, 0xF0000000),
)
SAVES = [(), KEPT["c"][:1], KEPT["c"][:5], KEPT["c"][9:15], KEPT["c"], ((FPCR, FPCR_CONTROL),), EVERYTHING]


def noting(touched: list[int]) -> Callable[..., None]:
    return lambda address, *_: touched.append(address)


@pytest.mark.parametrize("convention", [C, GO0], ids=lambda convention: convention.name)
@pytest.mark.parametrize("saves", SAVES, ids=lambda saves: f"{len(saves)} saves")
def test_frames_give_back_what_they_were_given(
    board: Board, convention: Convention, saves: tuple[tuple[Register, int], ...]
) -> None:
    source = random.Random(2)
    machine = board.machine
    bodies = (0, 8, 16, 24, 0x38, 0xF0, 0x100, 0x1E8, 0x208, 0x1000, 0x7FF8, 0xA000)
    for body, link, free, improved in itertools.product(bodies, (False, True), (False, True), (False, True)):
        if convention is GO0 and link and body == 0:
            continue  # the word of the return address is part of the body
        frame = ARCH.layout(FrameRequest(convention, body, saves, link, 16, free))
        code: Sequence[Insn] = [*ARCH.prologue(frame), Insn("nop"), *ARCH.epilogue(frame), *ARCH.leave(frame, 0)]
        if improved:
            code = ARCH.improve(code)
        start, addresses, _ = board.place(code)
        middle = addresses[next(i for i, one in enumerate(code) if one.text == "nop")]
        cfa = STACK_END - 0x1000
        everything = [*X, *V, *(r for r, _ in saves if r.bank is Bank.CONTROL)]
        before = {r: source.getrandbits(r.bits) & machine.writable_mask(r) for r in everything}
        before[LINK] = RETURN
        machine.set_many({**before, SP: cfa})
        touched: list[int] = []
        hooks = [machine.on_write(noting(touched)), machine.on_read(noting(touched))]
        board.go(start, middle)
        assert machine.sp == cfa - frame.size
        for register in everything:
            if register not in (X[16], X[17]):
                assert machine.get(register) == before[register], f"{register} in the prologue"
        bottom = 8 if any(slot.offset == 0 and slot.register == LINK for slot in frame.slots) else 0
        used = sorted((slot.offset, slot.offset + slot.size) for slot in frame.slots)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(used))
        assert all(slot.offset % slot.size == 0 for slot in frame.slots)
        assert all(start >= body or (start, end) == (0, 8) for start, end in used)
        if body > bottom:
            machine.write(machine.sp + bottom, source.randbytes(body - bottom))
        machine.write(machine.sp - 0x800, source.randbytes(0x800))
        rubbish = {r: source.getrandbits(r.bits) & machine.writable_mask(r) for r, _ in saves}
        result = {X[0]: source.getrandbits(64), X[1]: source.getrandbits(64), V[0]: source.getrandbits(128)}
        machine.set_many({**rubbish, **result, **({LINK: 0x55} if link else {})})
        board.go(middle, RETURN)
        for hook in hooks:
            hook.remove()
        assert machine.sp == cfa
        assert all(cfa - frame.size <= address < cfa for address in touched)
        for register, mask in saves:
            assert (machine.get(register) ^ before[register]) & mask == 0, f"{register} of {frame}"
        for register, value in result.items():
            if not any(register == saved for saved, _ in saves):
                assert machine.get(register) == value


def test_nothing_lies_below_the_stack_pointer(board: Board) -> None:
    """After every instruction, all below sp is overwritten, as a signal would."""
    machine = board.machine
    for convention, body, free in itertools.product((C, GO0), (8, 0x1E8, 0x2008, 0xA000), (False, True)):
        frame = ARCH.layout(FrameRequest(convention, body, KEPT["c"], True, 16, free))
        code = ARCH.improve([*ARCH.prologue(frame), *ARCH.epilogue(frame), *ARCH.leave(frame, 0)])
        start, _, end = board.place(code)
        machine.set_many({**{r: r.number + 1 for r, _ in KEPT["c"]}, LINK: RETURN, SP: STACK_END - 0x1000, FPCR: 0})
        before = {r: machine.get(r) for r, _ in KEPT["c"]}
        changing = [r for r, _ in KEPT["c"] if r.bank is not Bank.CONTROL]

        def signal(address: int, _size: int) -> None:
            machine.write(machine.sp - 0x400, bytes([0xA5]) * 0x400)

        hook = machine.on_instruction(signal, start, end)
        middle = start + 4 * sum(one.part == "prologue" for one in code)
        board.go(start, middle)
        machine.set_many(dict.fromkeys(changing, 0))
        board.go(middle, RETURN)
        hook.remove()
        assert {r: machine.get(r) for r, _ in KEPT["c"]} == before
        assert machine.sp == STACK_END - 0x1000


# ---------------------------------------------------------------------------------------------------------- improvement


def texts(code: Sequence[Insn]) -> list[str]:
    return [one.label or one.text for one in code]


def crosscall(*, bottom_free: bool) -> list[str]:
    """The trampoline from C to Go: three of four arguments go on in memory, and Go keeps nothing."""
    saves = tuple((r, m) for r, m in KEPT["c"] if r in (*X[19:29], *V))
    frame = ARCH.layout(FrameRequest(C, 32, saves, True, 16, bottom_free))
    arguments = [one for n, x in enumerate((X[0], X[1], X[3])) for one in ARCH.store(x, SP, 8 + 8 * n, 64)]
    calls = [*ARCH.call("runtime.load_g", GO0), *ARCH.call("runtime.cgocallback", GO0)]
    return texts(
        ARCH.improve([*ARCH.prologue(frame), *arguments, *calls, *ARCH.epilogue(frame), *ARCH.leave(frame, 0)])
    )


def test_a_whole_trampoline_is_as_short_as_by_hand() -> None:
    pairs = ["x19, x20", "x21, x22", "x23, x24", "x25, x26", "x27, x28", "d8, d9", "d10, d11", "d12, d13", "d14, d15"]
    at = [f"{pair}, [sp, #{0x20 + 0x10 * n:#x}]" for n, pair in enumerate(pairs)]
    assert crosscall(bottom_free=True) == [
        "stp x30, x0, [sp, #-0xb0]!",
        "stp x1, x3, [sp, #0x10]",
        *(f"stp {pair}" for pair in at),
        "bl runtime.load_g",
        "bl runtime.cgocallback",
        *(f"ldp {pair}" for pair in at),
        "ldr x30, [sp], #0xb0",
        "ret",
    ]
    # Go's own has 27 instructions.
    assert len(crosscall(bottom_free=False)) == 26


def test_pairs_are_made_only_of_neighbours_that_one_instruction_can_hold() -> None:
    def improved(*code: Iterable[Insn]) -> list[str]:
        return texts(ARCH.improve([one for piece in code for one in piece]))

    store, load = ARCH.store, ARCH.load
    assert improved(store(X[1], X[0], 8, 64), store(X[2], X[0], 0, 64)) == ["stp x2, x1, [x0]"]
    assert improved(store(X[1], X[0], 0, 32), store(X[2], X[0], 4, 32)) == ["stp w1, w2, [x0]"]
    assert improved(store(X[1], X[0], -8, 64), store(X[2], X[0], 0, 64)) == ["stp x1, x2, [x0, #-8]"]
    assert improved(load(X[1], X[0], 0, 64, False), load(X[0], X[0], 8, 64, False)) == ["ldp x1, x0, [x0]"]
    kept_apart = [
        (store(X[1], X[0], 0, 64), ARCH.float_store(V[1], X[0], 8, 64)),
        (store(X[1], X[0], 0, 32), store(X[2], X[0], 8, 64)),
        (store(X[1], X[0], 0, 64), store(X[2], X[3], 8, 64)),
        (store(X[1], X[0], 0, 64), load(X[2], X[0], 8, 64, False)),
        (store(X[1], X[0], 4, 64), store(X[2], X[0], 12, 64)),
        (store(X[1], X[0], 0x200, 64), store(X[2], X[0], 0x208, 64)),
        (store(X[1], X[0], 0, 64), [Insn("", label=".L1")], store(X[2], X[0], 8, 64)),
        (store(X[1], X[0], 0, 64), [Insn("nop")], store(X[2], X[0], 8, 64)),
        (store(X[1], X[0], 0, 64), store(X[2], X[0], 16, 64), store(X[3], X[0], 8, 64)),
        (load(X[1], X[0], 0, 64, False), load(X[1], X[0], 8, 64, False)),
        (load(X[0], X[0], 0, 64, False), load(X[1], X[0], 8, 64, False)),
        (load(X[1], X[0], 0, 32, True), load(X[2], X[0], 4, 32, True)),
        (load(X[1], X[0], 0, 32, True), load(X[2], X[0], 4, 32, False)),
        (store(X[1], X[0], 0, 8), store(X[2], X[0], 1, 8)),
    ]
    for pieces in kept_apart:
        code = [one for piece in pieces for one in piece]
        # The third-last would be a pair of the last two, were it not for the order that others can see.
        expected = ["str x1, [x0]", "stp x3, x2, [x0, #8]"] if len(code) == 3 and code[1].access else texts(code)
        assert texts(ARCH.improve(code)) == expected
    users = [Insn("str x1, [x0]", user_text=True), Insn("str x2, [x0, #8]", user_text=True)]
    assert list(ARCH.improve(users)) == users


def test_a_step_of_the_stack_joins_an_access_as_far_as_it_reaches() -> None:
    def steps(size: int, count: int) -> list[str]:
        registers = X[1 : 1 + count]
        stores = [one for n, x in enumerate(registers) for one in ARCH.store(x, SP, 8 * n, 64)]
        loads = [one for n, x in enumerate(registers) for one in ARCH.load(x, SP, 8 * n, 64, False)]
        down, up = ARCH.binary("sub", SP, SP, size), ARCH.binary("add", SP, SP, size)
        return texts(ARCH.improve([*down, *stores, Insn("nop"), *loads, *up]))

    assert steps(0xF0, 1) == ["str x1, [sp, #-0xf0]!", "nop", "ldr x1, [sp], #0xf0"]
    assert steps(0x100, 1) == ["str x1, [sp, #-0x100]!", "nop", "ldr x1, [sp]", "add sp, sp, #0x100"]
    assert steps(0x110, 1)[:2] == ["sub sp, sp, #0x110", "str x1, [sp]"]
    assert steps(0x1F0, 2) == ["stp x1, x2, [sp, #-0x1f0]!", "nop", "ldp x1, x2, [sp], #0x1f0"]
    assert steps(0x200, 2) == ["stp x1, x2, [sp, #-0x200]!", "nop", "ldp x1, x2, [sp]", "add sp, sp, #0x200"]
    assert steps(0x210, 2)[:2] == ["sub sp, sp, #0x210", "stp x1, x2, [sp]"]


def test_moves_that_do_nothing_go() -> None:
    code = [*ARCH.move(X[1], X[1]), *ARCH.extend(X[1], X[1], 32, False), *ARCH.move(X[1], X[11])]
    assert texts(ARCH.improve(code)) == ["mov w1, w1", "mov x1, x11"]


def test_improved_code_does_the_same(board: Board) -> None:
    source = random.Random(3)
    machine = board.machine
    shorter = 0
    for _ in range(500):
        code: list[Insn] = []
        depth = 0
        for _ in range(source.randint(1, 5)):
            size = 16 * source.choice((1, 2, 3, 15, 16, 17, 31, 32, 33))
            base = source.choice((SP, SP, X[1]))
            bits, mixed = source.choice((64, 64, 32)), source.random() < 0.2
            stores, floats = source.random() < 0.5, source.random() < 0.2
            if stores and source.random() < 0.5:
                depth += size
                code += ARCH.binary("sub", SP, SP, size)
            for offset in source.sample(range(0, 48, 8 if source.random() < 0.8 else 4), source.randint(1, 5)):
                register = (V if floats else X)[source.randint(2, 6)]
                bits = source.choice((32, 64)) if mixed else bits
                if floats:
                    code += (ARCH.float_store if stores else ARCH.float_load)(register, base, offset, bits)
                elif stores:
                    code += ARCH.store(register, base, offset, bits)
                else:
                    code += ARCH.load(register, base, offset, bits, source.random() < 0.1)
            if depth and not stores and source.random() < 0.5:
                code += ARCH.binary("add", SP, SP, min(size, depth))
                depth -= min(size, depth)
        improved = ARCH.improve(code)
        shorter += len(improved) < len(code)
        values = {register: source.getrandbits(64) for register in (*X[2:7], *V[2:7])}
        values |= {SP: STACK + 0x8000, X[1]: STACK + 0x2000}
        memory = source.randbytes(0x8000)
        outcomes = []
        for version in (code, improved):
            machine.write(STACK + 0x1000, memory)
            board.run(version, values)
            elsewhere, live = machine.read(STACK + 0x1000, 0x1100), machine.read(machine.sp, 0x1000)
            outcomes.append((machine.get_many(values), elsewhere, live))
        assert outcomes[0] == outcomes[1], (texts(code), texts(improved))
    assert shorter > 100


# --------------------------------------------------------------------------------------------------------------- bytes


def test_rare_forms_equal_those_of_gnu_as(tmp_path: Path) -> None:
    """What the matrix over conventions does not reach: sp as an operand, whole vectors, control registers."""
    code: list[Insn] = []
    for op in OPERATIONS:
        for d, a, b in itertools.product((X[0], SP), (X[9], SP), (X[10], SP, 0x10, 0x12345670)):
            code += ARCH.binary(op, d, a, b)
    for value in EDGES:
        code += ARCH.constant(SP, value)
    for register, bits in itertools.product((V[0], V[31]), (32, 64, 128)):
        code += ARCH.float_move(register, V[17], bits)
        for offset in (0, 16, -16, 0xFFF0, 0x10000, 0x123450):
            code += [*ARCH.float_store(register, SP, offset, bits), *ARCH.float_load(register, X[30], offset, bits)]
    for offset in (0, 8, 0x12340):
        code += [*ARCH.store(SP, SP, offset, 64), *ARCH.load(SP, X[3], offset, 64, False)]
    for body, saves in itertools.product((0, 0x1008, 0xA000), SAVES):
        frame = ARCH.layout(FrameRequest(C, body, saves, True, 16))
        code += ARCH.improve([*ARCH.prologue(frame), *ARCH.epilogue(frame), *ARCH.leave(frame, 0)])
    slot = ThreadSlot("tpidr_el0", 0x10)
    code += [*ARCH.thread_load(X[3], slot), *ARCH.thread_load(SP, slot), *ARCH.thread_store(X[16], slot)]
    source = "\n".join([*ARCH.header, ".text", *texts(code), ""])
    need(ARCH.gnu_as[0])
    subprocess.run([*ARCH.gnu_as, "-o", str(tmp_path / "out.o"), "-"], input=source, text=True, check=True)
    with (tmp_path / "out.o").open("rb") as stream:
        expected = ELFFile(stream).get_section_by_name(".text").data()
    found = assemble(ARCH, code).code
    wrong = [one.text for n, one in enumerate(code) if found[4 * n : 4 * n + 4] != expected[4 * n : 4 * n + 4]]
    assert not wrong
    assert len(found) == len(expected)
