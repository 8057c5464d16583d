"""The MIPS module: what two assemblers make of its text, what the code does when run, and the conventions' data."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import unicorn
from elftools.elf.elffile import ELFFile
from tools import need
from trampoline_dsl.arches.mips import FCSR_CONTROL, TARGETS, Mips
from unicorn import mips_const

from trampoline_dsl.assemble import assemble
from trampoline_dsl.target import (
    Bank,
    BinaryOp,
    Condition,
    Convention,
    Fixed,
    FrameRequest,
    InRegister,
    Insn,
    Location,
    Register,
    ThreadSlot,
    ValueType,
)

HARD = [target.architecture for target in TARGETS if not target.variant]
SOFT = [target.architecture for target in TARGETS if target.variant]
MACHINES = {target.name.removeprefix("linux/"): target.architecture for target in TARGETS}
CODE, STACK, STACK_SIZE, DATA = 0x10_0000, 0x20_0000, 0x4_0000, 0x30_0000

hard = pytest.mark.parametrize("machine", HARD, ids=lambda machine: machine.name)


# ------------------------------------------------------------------------------------------------- assembling, running


def gnu(machine: Mips, code: Iterable[Insn], folder: Path) -> tuple[bytes, list[tuple[str, str, int]]]:
    """What GNU as makes of it: bytes, and relocations as (type, symbol, offset)."""
    lines = [*machine.header, *(f"{insn.label}:" if insn.label else insn.text for insn in code)]
    result = folder / "out.o"
    need(machine.gnu_as[0])
    run = subprocess.run(
        [*machine.gnu_as, "-o", str(result), "-"], input="\n".join(lines) + "\n", text=True, capture_output=True
    )
    assert not run.stderr, run.stderr
    elf = ELFFile(io.BytesIO(result.read_bytes()))
    relocations = []
    names = {value: name for name, value in RELOCATIONS.items()}
    for section in (elf.get_section_by_name(".rel.text"), elf.get_section_by_name(".rela.text")):
        for entry in section.iter_relocations() if section else ():
            kind = entry["r_info_type"]
            symbol = elf.get_section_by_name(".symtab").get_symbol(entry["r_info_sym"]).name
            relocations.append((names[kind], symbol, entry["r_offset"]))
    return elf.get_section_by_name(".text").data(), relocations


RELOCATIONS = {"R_MIPS_26": 4, "R_MIPS_HI16": 5, "R_MIPS_LO16": 6, "R_MIPS_HIGHER": 28, "R_MIPS_HIGHEST": 29}


def flags(module: object, names: Iterable[str]) -> int:
    return sum(getattr(module, name) for name in names)


class Emulator:
    """A machine with code, a stack and data. sp starts in the middle of the stack."""

    def __init__(self, machine: Mips, above_2_gib: bool = False) -> None:
        self.machine = machine
        self.engine = unicorn.Uc(unicorn.UC_ARCH_MIPS, flags(unicorn, machine.engines.unicorn_mode))
        if machine.engines.unicorn_cpu:
            self.engine.ctl_set_cpu_model(getattr(mips_const, machine.engines.unicorn_cpu))
        if above_2_gib:
            # Not for all: with it, the first access to a page out of the delay slot of a taken branch makes Unicorn
            # take the next branch for one in a delay slot, and call it illegal.
            self.engine.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        # 64-bit addressing, coprocessor 1, and 64-bit floating point registers on n64 alone.
        status = 0x2040_0004 if machine.word == 4 else 0x2440_00E4
        self.engine.reg_write(mips_const.UC_MIPS_REG_CP0_STATUS, status)
        for start, size in ((CODE, 0x1_0000), (STACK, STACK_SIZE), (DATA, 0x1_0000)):
            self.engine.mem_map(start, size)
        # Unicorn leaves pc behind when it stops at `until` on MIPS, so the end is seen by a hook.
        self.end = self.reached = 0
        self.engine.hook_add(unicorn.UC_HOOK_CODE, self._step)
        self[machine.sp] = STACK + STACK_SIZE // 2

    def number(self, register: Register) -> int:
        start = {Bank.INTEGER: mips_const.UC_MIPS_REG_0, Bank.FLOAT: mips_const.UC_MIPS_REG_F0}
        if register.bank is Bank.CONTROL:
            return int(getattr(mips_const, f"UC_MIPS_REG_{register.name.upper()}"))
        return int(start[register.bank] + register.number)

    def __getitem__(self, register: Register) -> int:
        return self.engine.reg_read(self.number(register)) & (1 << register.bits) - 1

    def __setitem__(self, register: Register, value: int) -> None:
        self.engine.reg_write(self.number(register), value & (1 << register.bits) - 1)

    def _step(self, engine: unicorn.Uc, address: int, size: int, data: object) -> None:
        if address == self.end:
            self.reached = address
            engine.emu_stop()

    def run(self, code: Sequence[Insn], end: int | None = None) -> None:
        """Runs until it gets to `end`, which is behind the code unless given."""
        data = assemble(self.machine, code).code
        self.engine.mem_write(CODE, data + bytes(8))
        self.engine.ctl_remove_cache(CODE, CODE + len(data) + 8)
        self.run_at(CODE, CODE + len(data) if end is None else end)

    def run_at(self, start: int, end: int) -> None:
        self.end, self.reached = end, 0
        self.engine.emu_start(start, 0, count=4000)
        assert self.reached == end

    def memory(self) -> bytes:
        return bytes(self.engine.mem_read(STACK, STACK_SIZE) + self.engine.mem_read(DATA, 0x1_0000))


def named(machine: Mips, names: str) -> tuple[Register, ...]:
    return tuple(machine.registers[name] for name in names.split())


def texts(code: Iterable[Insn]) -> list[str]:
    return [f"{insn.label}:" if insn.label else insn.text for insn in code]


# ------------------------------------------------------------------------------------------------------------ encoding


def everything(machine: Mips) -> list[Insn]:
    """Every method over registers, offsets and immediates that use every form it has."""
    c, go0 = machine.conventions["c"], machine.conventions["go0"]
    integers = named(machine, "v0 a3 t1 s7 fp")
    immediates = (0, 1, 9, 10, 16, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x1234_5678, 0x7FFF_FFFF, 0xFFFF_FFFF)
    immediates += tuple(-n for n in immediates[1:])
    if machine.word == 8:
        immediates += (1 << 32, 0x7FFF_0000_0000, 0x1234_5678_9ABC_DEF0, -(1 << 63), (1 << 48) - 1, 0x1_0000_8001)
    offsets = (0, 8, 0x10, -8, 0x7FF8, 0x8000, -0x8000, -0x8008, 0x7FFC, 0x12_3458)
    code: list[Insn] = []
    for d, a in itertools.product(integers, repeat=2):
        code += machine.move(d, a)
        for bits, signed in itertools.product((8, 16, 32), (False, True)):
            code += machine.extend(d, a, bits, signed)
        for op in BINARY:
            code += machine.binary(op, d, a, integers[1])
    d, a = integers[:2]
    for op, value in itertools.product(BINARY, immediates):
        code += machine.binary(op, d, a, value)
        code += machine.binary(op, d, d, value)
    for value in immediates:
        code += machine.constant(a, value)
    for base, offset, bits in itertools.product((machine.sp, a), offsets, (8, 16, 32, 64)[: 3 + (machine.word == 8)]):
        for signed in (False, True):
            code += machine.load(d, base, offset, bits, signed)
        code += machine.store(d, base, offset, bits)
    if not machine.soft:
        for base, offset, bits in itertools.product((machine.sp, a), offsets, (32, 64)):
            for f in (machine.floats[0], machine.floats[30]):
                code += machine.float_load(f, base, offset, bits)
                code += machine.float_store(f, base, offset, bits)
                code += machine.float_move(f, machine.floats[12], bits)
    for condition in CONDITIONS:
        for b in (*immediates, *integers):
            code += machine.compare_branch(condition, a, b, ".L1")
    code += [*machine.jump(".L1"), Insn("", label=".L1")]
    for convention in (c, go0):
        code += [*machine.call("callee", convention), *machine.tail_call("runtime.callee", convention)]
        for address in (a, machine.t9):
            code += [*machine.call_register(address, convention), *machine.jump_register(address, convention)]
        for fixed in convention.fixed:
            code += machine.establish(fixed)
    code += machine.symbol_address(d, "symbol")
    code += machine.establish(Fixed(d, 1, 1, "for the test"))
    code += machine.thread_load(d, ThreadSlot("tp", -0x7008))
    code += machine.thread_store(d, ThreadSlot("tp", -0x7008))
    for convention, body, all_of_it in itertools.product((c, go0), (0, 24, 0x7FF8, 0x8000, 0xA000), (False, True)):
        saves = tuple((r, (1 << r.bits) - 1) for r in c.kept) if all_of_it else ()
        saves += ((machine.hi, 1), (machine.lo, 1)) if all_of_it else ()
        frame = machine.layout(FrameRequest(convention, body, saves, all_of_it, convention.alignment))
        code += [*machine.prologue(frame), *machine.epilogue(frame), *machine.leave(frame, 8)]
    return code


BINARY: tuple[BinaryOp, ...] = ("add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul")
CONDITIONS: tuple[Condition, ...] = ("eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge")


@pytest.mark.parametrize("name", MACHINES)
def test_gnu_as_and_keystone_agree_on_every_instruction(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    code = machine.improve(everything(machine))
    data = assemble(machine, code).code
    expected, relocations = gnu(machine, code, tmp_path)
    plain = [insn for insn in code if not insn.label]
    for index, insn in enumerate(plain):
        assert data[4 * index :][:4] == expected[4 * index :][:4], insn
    assert not expected[len(data) :].strip(b"\0")
    ours = [(r.type, r.symbol, 4 * i + r.offset) for i, insn in enumerate(plain) if (r := insn.relocation)]
    assert relocations == ours
    assert {kind for kind, _, _ in ours} <= set(machine.fixups)


@pytest.mark.parametrize("name", MACHINES)
def test_numbers_in_the_text_read_the_same_in_any_radix(name: str) -> None:
    for insn in MACHINES[name].improve(everything(MACHINES[name])):
        for word in (insn.keystone or insn.text).replace("(", " ").replace(",", " ").split():
            assert not word.lstrip("-$").isdigit() or len(word.lstrip("-")) == 1, insn


# ------------------------------------------------------------------------------------------------------------ running


def edges(machine: Mips, rng: random.Random) -> list[int]:
    bits = 8 * machine.word
    some = [0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << bits) - 1]
    some += [(1 << n) - 1 for n in range(1, bits, 7)] + [(1 << bits) - (1 << n) for n in range(1, bits, 7)]
    some += [1 << bits - 1, (1 << bits - 1) - 1, (1 << bits) - 0x8000, (1 << bits) - 0x8001]
    some += [rng.getrandbits(rng.randint(1, bits)) << rng.randint(0, bits // 2) for _ in range(40)]
    return [value & (1 << bits) - 1 for value in some]


@hard
def test_constants_arrive(machine: Mips) -> None:
    emulator = Emulator(machine)
    for value in edges(machine, random.Random(1)):
        for spelling in (value, value - (1 << 8 * machine.word)):
            code = list(machine.constant(machine.t9, spelling))
            emulator.run(code)
            assert emulator[machine.t9] == value
            assert len(code) <= 6


def computed(op: BinaryOp, a: int, b: int, bits: int) -> int:
    signed = a - (1 << bits) if a >> bits - 1 else a
    by = b % bits
    results = {"add": a + b, "sub": a - b, "and": a & b, "or": a | b, "xor": a ^ b, "mul": a * b}
    results |= {"shl": a << by, "shr": a >> by, "sar": signed >> by}
    return results[op] & (1 << bits) - 1


@hard
@pytest.mark.parametrize("op", BINARY)
def test_operations_compute(machine: Mips, op: BinaryOp) -> None:
    emulator = Emulator(machine)
    bits = 8 * machine.word
    rng = random.Random(op)
    d, a, b = named(machine, "t1 v0 a1")
    values = edges(machine, rng)
    for y in rng.sample(values, 30):
        x = rng.choice(values)
        right = y % bits if op in ("shl", "shr", "sar") else y
        for target, operand in itertools.product(
            (d, a), (b, right, right - (1 << bits) if right >> bits - 1 else right)
        ):
            emulator[a], emulator[b], emulator[d] = x, right, rng.getrandbits(bits)
            emulator.run(machine.improve(list(machine.binary(op, target, a, operand))))
            assert emulator[target] == computed(op, x, right, bits), (op, hex(x), hex(right))


@hard
def test_narrow_values_are_extended(machine: Mips) -> None:
    emulator = Emulator(machine)
    a, d = named(machine, "v0 t1")
    width = 8 * machine.word
    for value, bits, signed in itertools.product(edges(machine, random.Random(2)), (8, 16, 32), (False, True)):
        emulator[a] = value
        emulator.run([*machine.extend(d, a, bits, signed), Insn("nop")])
        low = value & (1 << bits) - 1
        assert emulator[d] == (low - (1 << bits) if signed and low >> bits - 1 else low) & (1 << width) - 1


@hard
@pytest.mark.parametrize("condition", CONDITIONS)
def test_branches_are_taken_when_the_condition_holds(machine: Mips, condition: Condition) -> None:
    emulator = Emulator(machine)
    bits = 8 * machine.word
    rng = random.Random(condition)
    a, b, d = named(machine, "v0 a1 t1")
    values = edges(machine, rng)
    top = 1 << bits - 1
    corners = (0, 1, 0x7FFF, 0x8000, 0xFFFF, top - 1, top, 2 * top - 0x8001, 2 * top - 0x8000, 2 * top - 1)
    for y in (*corners, *rng.sample(values, 6)):
        for x in (y, y + 1 & (1 << bits) - 1, y - 1 & (1 << bits) - 1, rng.choice(values)):
            left, right = (
                (x, y) if condition.startswith("u") else (v - (1 << bits) if v >> bits - 1 else v for v in (x, y))
            )
            holds = {
                "eq": left == right,
                "ne": left != right,
                "lt": left < right,
                "le": left <= right,
                "gt": left > right,
                "ge": left >= right,
            }[condition.removeprefix("u")]
            for operand in (b, y, y - (1 << bits) if y >> bits - 1 else y):
                emulator[a], emulator[b] = x, y
                code = [
                    *machine.constant(d, 1),
                    *machine.compare_branch(condition, a, operand, ".Lout"),
                    *machine.constant(d, 0),
                    Insn("", label=".Lout"),
                    Insn("nop"),
                ]
                emulator.run(machine.improve(code))
                assert emulator[d] == holds, (condition, hex(x), hex(y))


@hard
@pytest.mark.parametrize("offset", [0, 0x7FF8, 0x8000, -0x8000, -0x8008, 0x1_7FF8])
def test_memory_is_reached_at_any_offset(machine: Mips, offset: int) -> None:
    emulator = Emulator(machine)
    base, s, d = named(machine, "a0 t1 v0")
    width = 8 * machine.word
    for bits, signed in itertools.product((8, 16, 32, 64)[: 3 + (machine.word == 8)], (False, True)):
        value = random.Random(bits).getrandbits(width) | 1 << bits - 1
        low = value & (1 << bits) - 1
        where = STACK + 0x2_0000
        emulator[base], emulator[s] = where - offset, value
        emulator.run([*machine.store(s, base, offset, bits), *machine.load(d, base, offset, bits, signed), Insn("nop")])
        assert emulator.engine.mem_read(where, bits // 8) == low.to_bytes(bits // 8, machine.order)
        assert emulator[d] == (low - (1 << bits) if signed else low) & (1 << width) - 1
    for bits in (32, 64):
        # Go aligns a double to a word only.
        where = STACK + 0x2_0000 + machine.word
        value = random.Random(bits).getrandbits(bits)
        emulator[base] = where - offset
        emulator.engine.mem_write(where, value.to_bytes(bits // 8, machine.order))
        f, g = machine.floats[20], machine.floats[2]
        code = [*machine.float_load(f, base, offset, bits), *machine.float_move(g, f, bits)]
        emulator.run([*code, *machine.float_store(g, base, offset + 8, bits), Insn("nop")])
        assert emulator.engine.mem_read(where + 8, bits // 8) == value.to_bytes(bits // 8, machine.order)
        if machine.word == 4 and bits == 64:
            assert emulator[f] == value & 0xFFFF_FFFF
            assert emulator[machine.floats[21]] == value >> 32


def test_gp_is_the_upper_half_of_the_code_address() -> None:
    for name in ("mips64", "mips64le"):
        machine = MACHINES[name]
        high = 0x0000_0012_0000_0000
        emulator = Emulator(machine, above_2_gib=True)
        emulator.engine.mem_map(high, 0x1000)
        code = machine.improve([*machine.establish(machine.conventions["go0"].fixed[0]), Insn("nop")])
        data = assemble(machine, code).code
        emulator.engine.mem_write(high + 0x100, data)
        emulator.run_at(high + 0x100, high + 0x100 + len(data))
        assert emulator[machine.gp] == high
        assert code[0].writes == {machine.ra}


# ------------------------------------------------------------------------------------------------------------- frames

BODIES = (0, 4, 16, 24, 0x7F00, 0x7FF0, 0x7FF8, 0x8000, 0xA000, 0xA00C)


def saves_of(machine: Mips, which: str) -> tuple[tuple[Register, int], ...]:
    kept = tuple(machine.conventions["c"].kept.items())
    every = {
        "none": (),
        "one": kept[:1],
        "three": kept[:3],
        "floats": tuple((r, mask) for r, mask in kept if r.bank is Bank.FLOAT),
        "odd": tuple((r, mask) for r, mask in kept if r.name in ("s0", "f25", "fcsr")),
        "all": (*kept, (machine.hi, (1 << machine.hi.bits) - 1), (machine.lo, (1 << machine.lo.bits) - 1)),
    }
    return every[which]


@hard
@pytest.mark.parametrize("which", ["none", "one", "three", "floats", "odd", "all"])
@pytest.mark.parametrize("convention", ["c", "go0"])
def test_a_frame_gives_back_what_it_saved(machine: Mips, convention: str, which: str) -> None:
    own = machine.conventions[convention]
    saves = saves_of(machine, which)
    for body, link in itertools.product(BODIES, (False, True)):
        request = FrameRequest(own, body, saves, link, own.alignment)
        run_frame(machine, request)


def run_frame(machine: Mips, request: FrameRequest) -> None:
    rng = random.Random(request.body)
    own = request.convention
    at_bottom = request.link and (own.return_slot == "bottom" or request.bottom_free)
    emulator = Emulator(machine)
    frame = machine.layout(request)
    prologue, epilogue = list(machine.prologue(frame)), list(machine.epilogue(frame))
    assert {insn.part for insn in prologue} <= {"prologue"}
    assert {insn.part for insn in epilogue} <= {"epilogue"}
    slots = sorted(frame.slots, key=lambda slot: slot.offset)
    for slot, following in itertools.pairwise(slots):
        assert slot.offset + slot.size <= following.offset
    for slot in slots:
        in_body = at_bottom and slot.register == machine.ra
        assert slot.offset % slot.size == 0 or slot.size > own.alignment
        assert slot.offset >= request.body or (in_body and slot.offset == 0)
        assert slot.offset + slot.size <= frame.size + own.area

    cfa = STACK + STACK_SIZE - 0x1000 - (own.alignment if own.alignment < 16 else 0)
    sp = cfa - frame.size
    registers = set(machine.registers.values()) - {machine.sp}
    for register in registers:
        emulator[register] = FCSR_CONTROL & 0x0100_0F81 if register.name == "fcsr" else rng.getrandbits(register.bits)
    emulator[machine.sp], emulator[machine.ra] = cfa, DATA
    before = {register: emulator[register] for register in registers}
    emulator.engine.mem_write(STACK, rng.randbytes(STACK_SIZE))
    memory = emulator.memory()

    # Nothing is stored below sp, at any instruction; nothing is read there.
    def watch(engine: unicorn.Uc, access: int, address: int, size: int, value: int, data: object) -> None:
        assert emulator[machine.sp] <= address
        assert address + size <= cfa + own.area

    emulator.engine.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, watch)
    emulator.run([*prologue, Insn("nop")])
    assert emulator[machine.sp] == sp
    if at_bottom:
        assert emulator.engine.mem_read(sp, machine.word) == DATA.to_bytes(machine.word, machine.order)
    scratch = {*own.scratch}
    assert {r for r in registers if emulator[r] != before[r]} <= scratch

    saved = {register for register, _ in request.saves}
    for register in {*saved, *scratch} | ({machine.ra} if request.link else set()):
        emulator[register] = 0 if register.name == "fcsr" else rng.getrandbits(register.bits)
    start = machine.word if at_bottom else 0
    emulator.engine.mem_write(sp + start, rng.randbytes(max(0, request.body - start)))
    emulator.run(machine.improve([*epilogue, *machine.leave(frame, 0)]), end=DATA)
    assert emulator[machine.sp] == cfa
    assert {r for r in registers if emulator[r] != before[r]} <= scratch
    after = emulator.memory()
    top = cfa + own.area - STACK
    assert after[top:] == memory[top:]
    assert after[: sp - STACK] == memory[: sp - STACK]


@hard
def test_an_empty_frame_is_no_code(machine: Mips) -> None:
    for convention in machine.conventions.values():
        frame = machine.layout(FrameRequest(convention, 0, (), False, convention.alignment))
        assert (frame.size, frame.slots) == (0, ())
        assert not [*machine.prologue(frame), *machine.epilogue(frame)]
        assert texts(machine.improve(list(machine.leave(frame, 0)))) == ["jr $ra", "nop"]


def test_o32_saves_reach_into_the_area_of_the_caller() -> None:
    machine = MACHINES["mips"]
    c = machine.conventions["c"]
    # What Go's crosscall2 saves, over three outgoing words and a link: 88 bytes there too.
    saves = tuple((r, mask) for r, mask in c.kept.items() if r.name != "fcsr")
    frame = machine.layout(FrameRequest(c, 16, saves, True, 8))
    assert frame.size == 88
    assert max(slot.offset + slot.size for slot in frame.slots) == 104
    assert [slot.owner for slot in frame.slots][-6:] == [f"f{n}, f{n + 1}" for n in range(20, 32, 2)]
    # A leaf with few registers to keep needs no frame.
    assert machine.layout(FrameRequest(c, 0, saves[:4], False, 8)).size == 0


@hard
def test_the_return_address_goes_to_a_free_bottom(machine: Mips) -> None:
    c = machine.conventions["c"]
    for body in (4 * machine.word, 0xA000):
        request = FrameRequest(c, body, saves_of(machine, "three"), True, c.alignment, bottom_free=True)
        assert machine.layout(request).slots[0].offset == 0
        run_frame(machine, request)


def test_an_8_byte_store_needs_an_8_aligned_stack() -> None:
    machine = MACHINES["mipsle"]
    saves = saves_of(machine, "floats")
    own = replace(machine.conventions["go0"], kept=dict(saves))
    frame = machine.layout(FrameRequest(own, 4, saves, False, 4))
    assert {slot.size for slot in frame.slots} == {4}


# ------------------------------------------------------------------------------------------------------- delay slots


@hard
def test_the_return_carries_the_frame_away(machine: Mips) -> None:
    c = machine.conventions["c"]
    frame = machine.layout(FrameRequest(c, 32, saves_of(machine, "three"), True, c.alignment))
    code = machine.improve([*machine.epilogue(frame), *machine.leave(frame, 0)])
    assert code[-2].text == "jr $ra"
    assert code[-1].writes == {machine.sp}


def test_crosscall2_reads_like_one_written_by_hand() -> None:
    machine = MACHINES["mips"]
    c, go0 = machine.conventions["c"], machine.conventions["go0"]
    saves = tuple((r, m) for r, m in c.kept.items() if r.name in ("s0", "fp", "f20", "f21"))
    frame = machine.layout(FrameRequest(c, 16, saves, True, 8))
    a0, a1, a3 = named(machine, "a0 a1 a3")
    code = [
        *machine.prologue(frame),
        *machine.store(a0, machine.sp, 4, 32),
        *machine.store(a1, machine.sp, 8, 32),
        *machine.store(a3, machine.sp, 12, 32),
        *machine.call("load_g", go0),
        *machine.call("cgocallback", go0),
        *machine.epilogue(frame),
        *machine.leave(frame, 0),
    ]
    assert texts(machine.improve(code)) == [
        "addiu $sp, $sp, -0x18",
        "sw $s0, 0x10($sp)",
        "sw $fp, 0x14($sp)",
        "sw $ra, 0x18($sp)",
        "sdc1 $f20, 0x20($sp)",
        "sw $a0, 4($sp)",
        "sw $a1, 8($sp)",
        "jal load_g",
        "sw $a3, 0xc($sp)",
        "jal cgocallback",
        "nop",
        "lw $ra, 0x18($sp)",
        "lw $s0, 0x10($sp)",
        "lw $fp, 0x14($sp)",
        "ldc1 $f20, 0x20($sp)",
        "jr $ra",
        "addiu $sp, $sp, 0x18",
    ]


def test_what_must_not_move_stays() -> None:
    machine = MACHINES["mips"]
    c, go0 = machine.conventions["c"], machine.conventions["go0"]
    t0, t1, v0 = named(machine, "t0 t1 v0")

    def after(*code: Insn) -> str:
        return texts(machine.improve(code))[-1]

    (save_link,) = machine.store(machine.ra, machine.sp, 4, 32)
    (call,) = machine.call("f", go0)
    (indirect,) = machine.call_register(machine.t9, c)
    (target,) = machine.move(machine.t9, t0)
    (copy,) = machine.move(v0, t0)
    (branch,) = machine.compare_branch("eq", v0, 0, ".L")
    (other,) = machine.compare_branch("eq", t1, 0, ".L")
    (lower,) = machine.binary("add", machine.sp, machine.sp, -16)
    (store,) = machine.store(t0, t1, 0, 32)
    label, user = Insn("", label=".L"), Insn("beqz $t0, .L", user_text=True)
    assert after(save_link, call) == "nop"  # ra is the call's already in its slot
    assert after(target, indirect) == "nop"
    assert after(copy, branch) == "nop"
    assert after(copy, other) == copy.text
    assert after(copy, label, other) == "nop"
    assert after(user, call) == "nop"
    assert after(user, copy, call) == "nop"  # copy is in the slot of the user's branch
    assert after(lower, call) == "nop"
    assert after(store, target, indirect) == store.text  # from before one that has to stay
    assert after(store, replace(save_link, access=None), call) == "nop"  # it may be the same memory
    # A call's reads and writes as its convention has them come after the slot, and are no obstacle.
    assert after(copy, replace(call, reads=frozenset({v0}), writes=frozenset({v0, machine.ra}))) == copy.text
    first, second = machine.improve([copy, copy, call, other])[-2:]
    assert (first.text, second.text) == (other.text, "nop")  # what is in a slot stays in it


@hard
def test_filling_slots_changes_nothing(machine: Mips) -> None:
    """Random code, with every slot empty and with every slot filled, does the same."""
    rng = random.Random(machine.name)
    for _ in range(100):
        code = random_code(machine, rng)
        state = [rng.getrandbits(8 * machine.word) for _ in machine.integers]
        plain = [piece for insn in code for piece in ((insn, Insn("nop")) if insn.delay_slot else (insn,))]
        results = []
        for version in (plain, machine.improve(code)):
            emulator = Emulator(machine)
            for register, value in zip(machine.integers[2:26], state, strict=False):
                emulator[register] = value
            for name in ("a0", "a1"):
                emulator[machine.registers[name]] = DATA + 0x100
            emulator.run([*version, Insn("", label=".Lend"), Insn("nop")])
            # Return addresses differ with the code's size, and nothing but the call's slot reads them here.
            integers = tuple(emulator[register] for register in machine.integers[2:31])
            results.append((integers, emulator.memory()))
        assert results[0] == results[1], texts(code)


def random_code(machine: Mips, rng: random.Random) -> list[Insn]:
    work = named(machine, "v0 v1 t0 t1 t2")
    pointers = named(machine, "a0 a1")
    code: list[Insn] = []
    for number in range(rng.randint(2, 5)):
        for _ in range(rng.randint(0, 5)):
            d, a, b = (rng.choice(work) for _ in range(3))
            base, offset = rng.choice(pointers), 4 * machine.word * rng.randint(0, 2)
            code += rng.choice(
                (
                    lambda d=d, a=a, b=b: machine.binary(rng.choice(("add", "xor", "mul")), d, a, b),
                    lambda d=d, a=a: machine.binary("add", d, a, rng.randint(-9, 9)),
                    lambda d=d, a=a: machine.move(d, a),
                    lambda d=d, base=base, offset=offset: machine.load(d, base, offset, 32, True),
                    lambda d=d, base=base, offset=offset: machine.store(d, base, offset, 32),
                    lambda d=d, base=base, offset=offset: machine.store(d, base, offset + 2, 8),
                    lambda base=base: machine.binary("add", base, base, 8),
                )
            )()
        label = f".L{number}"
        condition = rng.choice(CONDITIONS)
        operand = rng.choice((rng.choice(work), 0, 1, 0x12345))
        code += rng.choice(
            (
                lambda c=condition, o=operand, t=label: machine.compare_branch(c, rng.choice(work), o, t),
                lambda t=label: machine.jump(t),
            )
        )()
        code += machine.constant(rng.choice(work), number)
        code.append(Insn("", label=label))
    return code


def test_mips3_hazards_are_kept_apart() -> None:
    machine = MACHINES["mips64"]
    t0, t1, v0 = named(machine, "t0 t1 v0")
    twice = [*machine.binary("mul", t0, t0, t1), *machine.binary("mul", v0, v0, t1)]
    assert texts(machine.improve(twice)) == [
        "dmultu $t0, $t1",
        "mflo $t0",
        "nop",
        "nop",
        "dmultu $v0, $t1",
        "mflo $v0",
    ]
    c = machine.conventions["c"]
    frame = machine.layout(FrameRequest(c, 0, saves_of(machine, "odd"), False, 16))
    assert texts(machine.improve(list(machine.prologue(frame)))) == [
        "daddiu $sp, $sp, -0x20",
        "sd $s0, 0($sp)",
        "sdc1 $f25, 8($sp)",
        "cfc1 $at, $31",
        "nop",
        "sw $at, 0x10($sp)",
    ]
    assert len(MACHINES["mips"].improve([*MACHINES["mips"].prologue(frame)])) == 5


# --------------------------------------------------------------------------------------------------------- conventions


def value(name: str) -> ValueType:
    return ValueType("float" if name[0] == "f" else "int", int(name[1:]), name[0] == "i")


def place(convention: Convention, signature: str) -> str:
    """The places of "i32,f64->i8" as words: "a0 a2:a3", halves of a value in the order of memory."""
    arguments, _, result = signature.partition("->")
    types = [value(name) for name in arguments.split(",") if name]
    assignment = convention.place(types, value(result) if result else None)
    shown = " ".join(locate(location) for location in assignment.arguments)
    return f"{shown} -> {locate(assignment.result)}" if result else shown


def locate(location: Location) -> str:
    return ":".join(
        p.place.register.name if isinstance(p.place, InRegister) else f"+{p.place.offset}" for p in location
    )


@pytest.mark.parametrize(
    ("signature", "places"),
    [
        ("i32,i32,i32,i64,i32", "a0 a1 a2 +16:+20 +24"),
        ("i32,i64", "a0 a2:a3"),
        ("f32,i32", "f12 a1"),
        ("f64,i32", "f12:f13 a2"),
        ("f32,f32,f32,f32", "f12 f14 a2 a3"),
        ("f32,f64", "f12 f14:f15"),
        ("i32,f64", "a0 a2:a3"),
        ("f64,f64,f64,f32", "f12:f13 f14:f15 +16 +24"),
        ("i32,i32,i32,i32,f64,i8", "a0 a1 a2 a3 +16 +24"),
        ("->i64", " -> v0:v1"),
        ("->f64", " -> f0:f1"),
        ("->f32", " -> f0"),
    ],
)
def test_o32_arguments(signature: str, places: str) -> None:
    for name in ("mips", "mipsle"):
        assert place(MACHINES[name].conventions["c"], signature) == places


def test_o32_words_are_in_the_order_of_memory() -> None:
    for name, low in (("mips", (32, 0)), ("mipsle", (0, 32))):
        c = MACHINES[name].conventions["c"]
        for signature in ("i64", "i32,i32,i32,i32,u64", "i32,f64"):
            location = c.place([value(v) for v in signature.split(",")], value("i64")).arguments[-1]
            assert tuple(part.low for part in location) == low
        assert tuple(part.low for part in c.place([], value("u64")).result) == low
        assert tuple(part.low for part in c.place([value("f64")], None).arguments[0]) == (0, 32)


def test_o32_narrow_values_are_widened_and_the_home_area_is_always_there() -> None:
    c = MACHINES["mips"].conventions["c"]
    assignment = c.place([value(v) for v in ("i8", "u16", "i32", "i32", "u8")], value("i16"))
    for location, signed in zip((*assignment.arguments, assignment.result), (1, 0, None, None, 0, 1), strict=True):
        assert (location[0].extend_to, location[0].extend_signed) == ((0, False) if signed is None else (32, signed))
    assert assignment.stack_bytes == 20
    assert c.place([], None).stack_bytes == c.place([value("u8")], None).stack_bytes == 16


def test_soft_float_arguments() -> None:
    for name in ("mips-soft", "mipsle-soft"):
        c = MACHINES[name].conventions["c"]
        assert place(c, "f32,f64,f32->f64") == "a0 a2:a3 +16 -> v0:v1"
    for name in ("mips64-soft", "mips64le-soft"):
        c = MACHINES[name].conventions["c"]
        assert place(c, "i32,f64,f32->f64") == "a0 a1 a2 -> v0"
        # What gcc does: by sign in a register, 4 bytes at the start of the slot in memory.
        *_, register, slot = c.place([value("f32")] * 9, None).arguments
        assert (register[0].extend_to, register[0].extend_signed) == (64, True)
        assert (slot[0].extend_to, slot[0].bits) == (0, 32)


@pytest.mark.parametrize(
    ("signature", "places"),
    [
        ("i32,f64,i64,f32", "a0 f13 a2 f15"),
        ("f32," * 8 + "f32,i32,i64,f64", "f12 f13 f14 f15 f16 f17 f18 f19 +0 +8 +16 +24"),
        ("->f32", " -> f0"),
        ("->u32", " -> v0"),
    ],
)
def test_n64_arguments(signature: str, places: str) -> None:
    for name in ("mips64", "mips64le"):
        assert place(MACHINES[name].conventions["c"], signature) == places


def test_n64_sign_extends_32_bits_whatever_their_type() -> None:
    c = MACHINES["mips64"].conventions["c"]
    kinds = ("i8", "u8", "u16", "i32", "u32", "u64", "f32", "u64", "u32", "u8", "f32")
    arguments = c.place([value(kind) for kind in kinds], value("u32"))
    expected = [(64, True), (64, False), (64, False), (64, True), (64, True), (0, False), (0, False), (0, False)]
    expected += [(64, True), (64, False), (0, False), (64, True)]
    found = [(part.extend_to, part.extend_signed) for (part,) in (*arguments.arguments, arguments.result)]
    assert found == expected
    assert arguments.stack_bytes == 24


@pytest.mark.parametrize(
    ("name", "signature", "places", "size"),
    [
        ("mips", "ptr,ptr,ptr", "+4 +8 +12", 16),
        ("mips", "i8,i64,f64->i8", "+4 +8:+12 +16 -> +24", 28),
        ("mips", "u8,u8,u16,u8->u8", "+4 +5 +6 +8 -> +12", 16),
        ("mips64", "i8,i64,f32->i8", "+8 +16 +24 -> +32", 40),
        ("mips64le", "u8,u32,u16->f64", "+8 +12 +16 -> +24", 32),
        ("mips", "", "", 4),
    ],
)
def test_go0_arguments(name: str, signature: str, places: str, size: int) -> None:
    machine = MACHINES[name]
    signature = signature.replace("ptr", f"u{8 * machine.word}")
    go0 = machine.conventions["go0"]
    assert place(go0, signature) == places
    arguments, _, result = signature.partition("->")
    types = [value(v) for v in arguments.split(",") if v]
    assert go0.place(types, value(result) if result else None).stack_bytes == size


def test_what_c_keeps() -> None:
    def kept(machine: Mips) -> str:
        return " ".join(r.name for r in machine.conventions["c"].kept if r.bank is not Bank.FLOAT)

    def kept_floats(machine: Mips) -> set[tuple[str, int]]:
        c = machine.conventions["c"]
        return {(r.name, mask.bit_length()) for r, mask in c.kept.items() if r.bank is Bank.FLOAT}

    for machine in HARD:
        names = "s0 s1 s2 s3 s4 s5 s6 s7 " + ("fp fcsr" if machine.word == 4 else "gp fp fcsr")
        assert kept(machine) == names
        first = 20 if machine.word == 4 else 24
        assert kept_floats(machine) == {(f"f{n}", 8 * machine.word) for n in range(first, 32)}
        assert machine.conventions["go0"].kept == {machine.registers["fcsr"]: FCSR_CONTROL}
    for machine in SOFT:
        assert "fcsr" not in kept(machine)
        assert not kept_floats(machine)
        assert not machine.conventions["go0"].kept
        assert not any(r.bank is Bank.FLOAT for r in machine.registers.values())


@pytest.mark.parametrize("name", MACHINES)
def test_registers_for_values_are_free(name: str) -> None:
    machine = MACHINES[name]
    for convention in machine.conventions.values():
        usable = machine.allocatable(convention)
        taken = {*convention.scratch, *convention.reserved, convention.thread, machine.sp, machine.ra, machine.zero}
        assert not taken & set(usable)
        assert len(set(usable)) == len(usable) > 20 - (convention.name == "c")
        floats = machine.float_allocatable(convention)
        assert all(r.number % 2 == 0 for r in floats) or machine.word == 8
        assert bool(floats) == (not machine.soft)
        for group in (usable, floats):
            saved = [r in convention.kept for r in group]
            assert saved == sorted(saved)
