"""The emulator: what is set is what the guest sees, and every way in which a run can end is told apart."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import gnu
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trampoline_dsl.emulate import Machine, MachineError, Stop
from trampoline_dsl.extended import from_double, to_double
from trampoline_dsl.target import Architecture, Bank, Register
from trampoline_dsl.targets import all_targets, find_target

ARCHITECTURES = {target.name: target.architecture for target in all_targets().values()}

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())

CODE, DATA, STACK, END, STUB = 0x10000, 0x40000, 0x50000, 0x60000, 0x70000
SIZE = 0x4000
BAD = 0x9000000  # nothing is mapped there
BUDGET = 1000


# --------------------------------------------------------------------------------- what each family is told to do


@dataclass(frozen=True)
class Move:
    """How one register gets to memory and back; `{at}` is the address operand's place in the text."""

    register: str
    store: str
    load: str
    bytes: int


@dataclass(frozen=True)
class Guest:
    """Texts for GNU as. `base` holds DATA while moves run, and is not tested itself."""

    base: str
    moves: tuple[Move, ...]
    call: str  # to STUB, then on behind
    back: str  # to the return address, from STUB
    store_word: str  # the word in `base` to DATA + 0x20
    load_bad: str  # something from BAD, by the second of two instructions
    illegal: str
    privileged: str
    system_call: str
    spin: str
    nop: str
    jump: Callable[[int], str]


def _x86(long: bool) -> Guest:
    a = "rax" if long else "eax"
    c = "rcx" if long else "ecx"
    word = 8 if long else 4
    names = "rcx rdx rbx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15" if long else "ecx edx ebx esi edi ebp"
    moves = [Move(n, f"mov [{a}+@], {n}", f"mov {n}, [{a}+@]", word) for n in names.split()]
    moves += [
        Move(f"xmm{n}", f"movups [{a}+@], xmm{n}", f"movups xmm{n}, [{a}+@]", 16) for n in range(16 if long else 8)
    ]
    moves += [
        Move("mxcsr", f"stmxcsr [{a}+@]", f"ldmxcsr [{a}+@]", 4),
        Move("fpcw", f"fnstcw [{a}+@]", f"fldcw [{a}+@]", 2),
        Move("eflags", f"pushf; pop {c}; mov [{a}+@], ecx", f"mov ecx, [{a}+@]; push {c}; popf", 4),
    ]
    if not long:
        moves.append(Move("st0", f"fstp qword ptr [{a}+@]", f"fld qword ptr [{a}+@]", 8))
    return Guest(
        base=a,
        moves=tuple(moves),
        call=f"mov {c}, {STUB:#x}; call {c}",
        back="ret",
        store_word=f"mov [{a}+0x20], {a}",
        load_bad=f"mov {c}, {BAD:#x}; mov {c}, [{c}]",
        illegal="ud2",
        privileged="hlt",
        system_call="syscall" if long else "int 0x80",
        spin="1: jmp 1b",
        nop="nop",
        jump=lambda address: f"mov {c}, {address:#x}; jmp {c}",
    )


def _arm() -> Guest:
    moves = [Move(f"r{n}", f"str r{n}, [r0, #@]", f"ldr r{n}, [r0, #@]", 4) for n in range(1, 13)]
    moves.append(Move("lr", "str lr, [r0, #@]", "ldr lr, [r0, #@]", 4))
    moves += [Move(f"d{n}", f"vstr d{n}, [r0, #@]", f"vldr d{n}, [r0, #@]", 8) for n in range(32)]
    moves.append(Move("fpscr", "vmrs r1, fpscr; str r1, [r0, #@]", "ldr r1, [r0, #@]; vmsr fpscr, r1", 4))
    for name in ("cpsr", "apsr", "nzcv", "flags"):
        moves.append(Move(name, "mrs r1, apsr; str r1, [r0, #@]", "ldr r1, [r0, #@]; msr apsr_nzcvqg, r1", 4))
    return Guest(
        base="r0",
        moves=tuple(moves),
        call=f"mov r4, lr; mov r1, #{STUB:#x}; blx r1; mov lr, r4",
        back="bx lr",
        store_word="str r0, [r0, #0x20]",
        load_bad=f"mov r1, #{BAD:#x}; ldr r1, [r1]",
        illegal="udf #0",
        privileged="mcr p15, 0, r1, c1, c0, 0",
        system_call="svc #0",
        spin="1: b 1b",
        nop="nop",
        jump=lambda a: f"mov r1, #{a & 0xFF:#x}; orr r1, #{a & 0xFF00:#x}; orr r1, #{a & ~0xFFFF:#x}; bx r1",
    )


def _arm64() -> Guest:
    moves = [Move(f"x{n}", f"str x{n}, [x0, #@]", f"ldr x{n}, [x0, #@]", 8) for n in range(1, 31)]
    moves += [Move(f"v{n}", f"str q{n}, [x0, #@]", f"ldr q{n}, [x0, #@]", 16) for n in range(32)]
    moves += [
        Move(name, f"mrs x1, {name}; str x1, [x0, #@]", f"ldr x1, [x0, #@]; msr {name}, x1", 8)
        for name in ("fpcr", "fpsr", "nzcv")
    ]
    return Guest(
        base="x0",
        moves=tuple(moves),
        call=f"mov x4, x30; mov x1, #{STUB:#x}; blr x1; mov x30, x4",
        back="ret",
        store_word="str x0, [x0, #0x20]",
        load_bad=f"mov x1, #{BAD:#x}; ldr x1, [x1]",
        illegal=".long 0",
        privileged="mrs x1, sctlr_el1",
        system_call="svc #0",
        spin="1: b 1b",
        nop="nop",
        jump=lambda address: f"movz x1, #{address >> 16:#x}, lsl #16; movk x1, #{address & 0xFFFF:#x}; br x1",
    )


def _mips(long: bool) -> Guest:
    names = (
        "at v0 v1 a1 a2 a3 a4 a5 a6 a7 t0 t1 t2 t3 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra"
        if long
        else "at v0 v1 a1 a2 a3 t0 t1 t2 t3 t4 t5 t6 t7 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra"
    )
    d, word = ("d", 8) if long else ("w", 4)
    moves = [Move(n, f"s{d} ${n}, @($a0)", f"l{d} ${n}, @($a0)", word) for n in names.split()]
    c = "dc1" if long else "wc1"
    moves += [Move(f"f{n}", f"s{c} $f{n}, @($a0)", f"l{c} $f{n}, @($a0)", word) for n in range(32)]
    moves += [
        Move("fcsr", "cfc1 $v0, $31; nop; sw $v0, @($a0)", "lw $v0, @($a0); ctc1 $v0, $31; nop", 4),
        Move("hi", f"mfhi $v0; s{d} $v0, @($a0)", f"l{d} $v0, @($a0); mthi $v0", word),
        Move("lo", f"mflo $v0; s{d} $v0, @($a0)", f"l{d} $v0, @($a0); mtlo $v0", word),
    ]
    return Guest(
        base="a0",
        moves=tuple(moves),
        call=f"move $s0, $ra; lui $t9, {STUB >> 16:#x}; ori $t9, {STUB & 0xFFFF:#x}; jalr $t9; nop; move $ra, $s0",
        back="jr $ra; nop",
        store_word=f"s{d} $a0, 0x20($a0)",
        load_bad=f"lui $v0, {BAD >> 16:#x}; lw $v0, 0($v0)",
        illegal=".word 0x7c00003f",
        privileged="mfc0 $v0, $12",
        system_call="syscall",
        spin="1: b 1b; nop",
        nop="nop",
        jump=lambda address: f"lui $t9, {address >> 16:#x}; ori $t9, {address & 0xFFFF:#x}; jr $t9; nop",
    )


def _ppc(little: bool) -> Guest:
    moves = [Move(f"r{n}", f"std %r{n}, @(%r3)", f"ld %r{n}, @(%r3)", 8) for n in (*range(3), *range(4, 32))]
    moves += [Move(f"f{n}", f"stfd %f{n}, @(%r3)", f"lfd %f{n}, @(%r3)", 8) for n in range(32)]
    moves += [
        Move(f"v{n}", f"li %r4, @; stvx %v{n}, %r3, %r4", f"li %r4, @; lvx %v{n}, %r3, %r4", 16) for n in range(32)
    ]
    moves += [
        Move("lr", "mflr %r4; std %r4, @(%r3)", "ld %r4, @(%r3); mtlr %r4", 8),
        Move("ctr", "mfctr %r4; std %r4, @(%r3)", "ld %r4, @(%r3); mtctr %r4", 8),
        Move("vrsave", "mfspr %r4, 256; stw %r4, @(%r3)", "lwz %r4, @(%r3); mtspr 256, %r4", 4),
        Move("fpscr", "mffs %f0; stfd %f0, @(%r3)", "lfd %f0, @(%r3); mtfsf 255, %f0", 8),
        # At a multiple of 16, stvewx and lvewx move the first word, which is the last on a little-endian machine.
        Move(
            "vscr",
            "mfvscr %v0; vspltw %v0, %v0, 3; li %r4, @; stvewx %v0, %r3, %r4",
            f"li %r4, @; lvewx %v0, %r3, %r4; vspltw %v0, %v0, {3 * little}; mtvscr %v0",
            4,
        ),
    ]
    for n in range(8):
        right, left = 28 - 4 * n, 4 * n + 4
        moves.append(
            Move(
                f"cr{n}",
                f"mfcr %r4; rlwinm %r4, %r4, {left % 32}, 28, 31; stw %r4, @(%r3)",
                f"lwz %r4, @(%r3); slwi %r4, %r4, {right}; mtcrf {1 << 7 - n}, %r4",
                4,
            )
        )
    return Guest(
        base="r3",
        moves=tuple(moves),
        call=f"mflr %r14; lis %r12, {STUB >> 16:#x}; ori %r12, %r12, {STUB & 0xFFFF:#x}; mtctr %r12; bctrl; mtlr %r14",
        back="blr",
        store_word="std %r3, 0x20(%r3)",
        load_bad=f"lis %r4, {BAD >> 16:#x}; ld %r4, 0(%r4)",
        illegal=".long 0",
        privileged="mfmsr %r4",
        system_call="sc",
        spin="1: b 1b",
        nop="nop",
        jump=lambda a: f"lis %r12, {a >> 16:#x}; ori %r12, %r12, {a & 0xFFFF:#x}; mtctr %r12; bctr",
    )


def _s390x() -> Guest:
    moves = [Move(f"r{n}", f"stg %r{n}, @(%r1)", f"lg %r{n}, @(%r1)", 8) for n in (0, *range(2, 16))]
    moves += [Move(f"f{n}", f"std %f{n}, @(%r1)", f"ld %f{n}, @(%r1)", 8) for n in range(16)]
    moves += [Move(f"v{n}", f"vst %v{n}, @(%r1)", f"vl %v{n}, @(%r1)", 16) for n in range(16, 32)]
    moves += [
        Move("fpc", "stfpc @(%r1)", "lfpc @(%r1)", 4),
        Move("a0", "stam %a0, %a0, @(%r1)", "lam %a0, %a0, @(%r1)", 4),
        Move("a1", "stam %a1, %a1, @(%r1)", "lam %a1, %a1, @(%r1)", 4),
        Move("cc", "ipm %r2; srl %r2, 28; st %r2, @(%r1)", "l %r2, @(%r1); sll %r2, 28; spm %r2", 4),
        Move(
            "pm",
            "ipm %r2; srl %r2, 24; nilf %r2, 0xf; st %r2, @(%r1)",
            "l %r2, @(%r1); sll %r2, 24; spm %r2",
            4,
        ),
    ]
    return Guest(
        base="r1",
        moves=tuple(moves),
        call=f"lgr %r4, %r14; llilf %r2, {STUB:#x}; basr %r14, %r2; lgr %r14, %r4",
        back="br %r14",
        store_word="stg %r1, 0x20(%r1)",
        load_bad=f"llilf %r2, {BAD:#x}; lg %r2, 0(%r2)",
        illegal=".short 0",
        privileged="stctg %c0, %c0, 0(%r1)",
        system_call="svc 1",
        spin="1: j 1b",
        nop="nopr",
        jump=lambda address: f"llilf %r2, {address:#x}; br %r2",
    )


def guest(architecture: Architecture) -> Guest:
    long = architecture.word == 8
    match architecture.engines.unicorn_arch:
        case "UC_ARCH_X86":
            return _x86(long)
        case "UC_ARCH_ARM":
            return _arm()
        case "UC_ARCH_ARM64":
            return _arm64()
        case "UC_ARCH_MIPS":
            return _mips(long)
        case "UC_ARCH_PPC":
            return _ppc(architecture.order == "little")
        case _:
            return _s390x()


# The newest instructions that the tests use, where the baseline's assembler refuses them.
NEWER = {"UC_ARCH_ARM": (".arch armv7-a", ".fpu neon-vfpv4"), "UC_ARCH_MIPS": (".set hardfloat",)}


def assemble(architecture: Architecture, text: str) -> bytes:
    newer = NEWER.get(architecture.engines.unicorn_arch, ())
    lines = [*newer, *(line.strip() for line in text.split(";"))]
    code, relocations = gnu.assemble(architecture, "\n".join(lines))
    assert not relocations
    return code


def machine_for(architecture: Architecture) -> Machine:
    machine = Machine(architecture)
    for base in (CODE, DATA, STACK, END, STUB):
        machine.map(base, SIZE)
    ready(machine)
    return machine


def ready(machine: Machine) -> None:
    machine.sp = STACK + SIZE // 2
    machine.set(machine.architecture.registers[guest(machine.architecture).base], DATA)


def load(machine: Machine, text: str, at: int = CODE) -> int:
    """Put code there and say where it ends."""
    code = assemble(machine.architecture, text)
    machine.write(at, code)
    return at + len(code)


def run(machine: Machine, text: str, budget: int = BUDGET) -> Stop:
    end = load(machine, text)
    return machine.run(CODE, budget, end)


def numbers(architecture: Architecture, registers: Iterable[Register], seed: int = 1) -> dict[Register, int]:
    source = random.Random(f"{architecture.name} {seed}")
    return {register: source.getrandbits(128) for register in sorted(registers, key=lambda r: r.name)}


# ------------------------------------------------------------------------------------------------------- registers


@each_architecture
def test_every_register_of_every_machine_can_be_observed(architecture: Architecture) -> None:
    machine = Machine(architecture)
    hidden = set(architecture.registers.values()) - machine.observable
    assert {register.name for register in hidden} <= {"xer"}
    for register in hidden:
        assert register.name in machine.why_not_observable(register)
        with pytest.raises(MachineError, match=register.name):
            machine.get(register)


@each_architecture
def test_what_is_set_is_read_back_one_by_one_and_together(architecture: Architecture) -> None:
    machine = Machine(architecture)
    values = numbers(architecture, machine.observable)
    masks = {register: machine.writable_mask(register) for register in values}
    machine.set_many(values)
    together = machine.get_many(values)
    assert {r: together[r] & masks[r] for r in values} == {r: values[r] & masks[r] for r in values}
    assert all(value >> register.bits == 0 for register, value in together.items())
    machine.reset()
    for register, value in values.items():
        machine.set(register, value)
        assert machine.get(register) == together[register], register.name
    assert machine.get_many(values) == together


@each_architecture
def test_the_guest_sees_what_was_set_and_what_it_loads_is_seen(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    by_name = {register.name: register for register in machine.observable}
    moves = [move for move in texts.moves if move.register in by_name]
    assert len(moves) >= len(by_name) - 5  # the base, sp, zero, and what has no instruction of its own
    end = load(machine, "; ".join(move.store.replace("@", hex(16 * n)) for n, move in enumerate(moves)))

    for register, value in numbers(architecture, (by_name[move.register] for move in moves)).items():
        if register != architecture.sp:
            machine.set(register, value)
    # A register that shares an instruction's work with others, as the flags do with sp, is set first; read all late.
    expected = machine.get_many([by_name[move.register] for move in moves])
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    for n, move in enumerate(moves):
        register = by_name[move.register]
        found = int.from_bytes(machine.read(DATA + 16 * n, move.bytes), architecture.order)
        mask = machine.writable_mask(register)
        assert seen(register, found) & mask == expected[register] & mask, move.register

    patterns = numbers(architecture, expected, 2)
    for n, move in enumerate(moves):
        register = by_name[move.register]
        patterns[register] = STACK + 0x100 if register == architecture.sp else patterns[register]
        pattern = patterns[register] & machine.writable_mask(register)
        memory = pattern << 28 if register.name in FLAG_FIELDS and register.bits == 4 else pattern
        machine.write(DATA + 16 * n, memory.to_bytes(move.bytes, architecture.order))
    # Control and vector registers come first: most need an integer register for their work.
    banks = [Bank.CONTROL, Bank.VECTOR, Bank.FLOAT, Bank.INTEGER]
    order = sorted(enumerate(moves), key=lambda pair: (banks.index(by_name[pair[1].register].bank), pair[0]))
    end = load(machine, "; ".join(move.load.replace("@", hex(16 * n)) for n, move in order))
    machine.reset()
    ready(machine)
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    for register, found in machine.get_many(patterns).items():
        mask = machine.writable_mask(register)
        assert found & mask == patterns[register] & mask, register.name


FLAG_FIELDS = ("nzcv", "cpsr", "apsr", "flags")


def seen(register: Register, stored: int) -> int:
    """The register's value in what the guest stored of it."""
    if register.name in FLAG_FIELDS and register.bits == 4:
        return stored >> 28
    return stored & (1 << register.bits) - 1


@each_architecture
def test_set_leaves_bits_that_cannot_be_written_as_after_a_reset(architecture: Architecture) -> None:
    machine = Machine(architecture)
    registers = list(machine.observable)
    fresh = machine.get_many(registers)
    machine.set_many(dict.fromkeys(registers, (1 << 128) - 1))
    for register, value in machine.get_many(registers).items():
        unwritable = (1 << register.bits) - 1 & ~machine.writable_mask(register)
        if register.name != "fpscr" or "ppc" not in architecture.name:  # FEX and VX are made from other bits
            assert value & unwritable == fresh[register] & unwritable, register.name
    machine.reset()
    assert machine.get_many(registers) == fresh


@each_architecture
def test_registers_can_be_set_and_read_while_code_runs(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    registers = [r for r in machine.observable if r not in (architecture.sp, architecture.registers[texts.base])]
    values = numbers(architecture, registers)
    seen: list[dict[Register, int]] = []

    def scramble(_address: int, _size: int) -> None:
        if not seen:
            machine.set_many(values)
        seen.append(machine.get_many(registers))

    end = load(machine, f"{texts.nop}; {texts.nop}; {texts.nop}")
    hook = machine.on_instruction(scramble)
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    hook.remove()
    assert seen[0] == seen[-1] == machine.get_many(registers)
    assert len(seen) == 3
    for register, value in values.items():
        mask = machine.writable_mask(register)
        assert seen[0][register] & mask == value & mask, register.name


@each_architecture
def test_a_snapshot_brings_every_register_back(architecture: Architecture) -> None:
    machine = Machine(architecture)
    registers = list(machine.observable)
    machine.set_many(numbers(architecture, registers))
    before = machine.get_many(registers)
    snapshot = machine.save()
    machine.set_many(numbers(architecture, registers, 2))
    assert machine.get_many(registers) != before
    machine.restore(snapshot)
    assert machine.get_many(registers) == before
    with pytest.raises(MachineError, match="taken from"):
        Machine(architecture).restore(snapshot)


# -------------------------------------------------------------------------------------------------- how runs end


@each_architecture
def test_a_run_reaches_its_end_in_sequence_and_by_a_jump(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    end = load(machine, f"{texts.nop}; {texts.nop}; {texts.nop}")
    assert machine.run(CODE, BUDGET, end) == Stop("reached", end, f"reached {end:#x}", 3)
    assert machine.pc == end
    assert machine.run(CODE, 3, end).reason == "reached"
    load(machine, texts.jump(END))
    assert machine.run(CODE, BUDGET, END).reason == "reached"
    assert machine.pc == END


@each_architecture
def test_the_end_of_one_run_is_no_end_for_another(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    size = len(assemble(architecture, texts.nop))
    load(machine, "; ".join([texts.nop] * 9))
    for count in (4, 8, 2, 6, 4):
        stop = machine.run(CODE, BUDGET, CODE + count * size)
        assert (stop.reason, stop.executed) == ("reached", count)
    load(machine, texts.jump(END))
    assert machine.run(CODE, BUDGET, END).reason == "reached"
    load(machine, texts.jump(STUB), END)
    assert machine.run(CODE, BUDGET, STUB).reason == "reached"
    assert machine.run(CODE, BUDGET, END).reason == "reached"
    # The address need not be mapped when it is named for the first time.
    assert machine.run(CODE, BUDGET, BAD).detail != ""
    machine.map(BAD, SIZE)
    load(machine, texts.jump(BAD))
    machine.reset()
    assert machine.run(CODE, BUDGET, BAD).reason == "reached"


@each_architecture
def test_a_budget_is_exact(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    load(machine, texts.spin)
    stop = machine.run(CODE, 77, END)
    assert (stop.reason, stop.executed) == ("budget", 77)
    size = len(assemble(architecture, texts.nop))
    load(machine, "; ".join([texts.nop] * 10))
    assert machine.run(CODE, 4, END) == Stop("budget", CODE + 4 * size, f"4 instructions and not at {END:#x}", 4)
    with pytest.raises(ValueError, match="budget"):
        machine.run(CODE, 0, END)


@each_architecture
def test_faults_say_what_happened_and_where(architecture: Architecture) -> None:
    texts = guest(architecture)
    size = len(assemble(architecture, texts.nop))
    for text, words in (
        (texts.illegal, "illegal"),
        (texts.privileged, "privileged|illegal"),
        (texts.system_call, "system call"),
    ):
        for behind in ("", f"; {texts.nop}"):
            machine = machine_for(architecture)
            stop = run(machine, f"{texts.nop}; {text}{behind}")
            assert stop.reason == "fault", text
            assert stop.pc == CODE + size == machine.pc, text
            assert stop.executed == 2
            assert any(word in stop.detail for word in words.split("|")), stop.detail
            machine.reset()
            ready(machine)
            assert run(machine, texts.nop).reason == "reached"


@each_architecture
def test_memory_that_is_not_there_is_named(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    first = len(assemble(architecture, texts.load_bad.split(";")[0]))
    stop = run(machine, texts.load_bad)
    assert (stop.reason, stop.address, stop.pc) == ("fault", BAD, CODE + first)
    assert f"read of unmapped {BAD:#x} (" in stop.detail

    machine.reset()
    ready(machine)
    load(machine, texts.jump(BAD))
    stop = machine.run(CODE, BUDGET, END)
    assert (stop.reason, stop.address, stop.pc) == ("fault", BAD, BAD)
    assert stop.detail == f"execution of unmapped {BAD:#x}"
    with pytest.raises(MachineError):
        machine.read(BAD, 1)

    machine.reset()
    ready(machine)
    machine.unmap(DATA, SIZE)
    assert run(machine, texts.store_word).detail == f"write to unmapped {DATA + 0x20:#x} ({architecture.word} bytes)"
    machine.map(DATA, SIZE, writable=False)
    machine.reset()
    ready(machine)
    assert run(machine, texts.store_word).detail == f"write to read-only {DATA + 0x20:#x} ({architecture.word} bytes)"

    for access in (lambda: machine.read(0x900000, 4), lambda: machine.write(0x900000, b"1234")):
        with pytest.raises(MachineError, match="0x900000: not all of them are mapped"):
            access()
    with pytest.raises(MachineError, match="cannot map"):
        machine.map(0x900001, 0x1000)


@each_architecture
def test_code_that_changes_is_executed_as_it_is(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    for target in (END, END + 0x100, END + 0x200):
        load(machine, texts.jump(target))
        for _ in range(3):
            assert machine.run(CODE, BUDGET, target).reason == "reached"
        patched = assemble(architecture, texts.jump(target + 0x80))
        old = machine.read(CODE, len(patched))
        changed = next(n for n, pair in enumerate(zip(old, patched, strict=True)) if pair[0] != pair[1])
        machine.write(CODE + changed, patched[changed : changed + 1])
        assert machine.run(CODE, BUDGET, target + 0x80).reason == "reached"


@each_architecture
def test_code_runs_anywhere_in_the_address_space(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    high = 0xF_1234_5000 if architecture.word == 8 else 0x7FFF_0000
    machine.map(high, SIZE)
    end = load(machine, f"{texts.store_word}; {texts.nop}", high)
    assert machine.run(high, BUDGET, end).reason == "reached"
    assert int.from_bytes(machine.read(DATA + 0x20, architecture.word), architecture.order) == DATA
    end = load(machine, texts.illegal, high)
    assert machine.run(high, BUDGET, end).pc == high


@pytest.mark.parametrize("name", ["linux/mips", "linux/mipsle", "linux/mips64", "linux/mips64le"])
def test_a_jump_to_a_misaligned_address_does_not_crash_the_next_run(name: str) -> None:
    """Unicorn 2.1.4 dies of a null pointer at the next translation."""
    architecture = ARCHITECTURES[name]
    machine = machine_for(architecture)
    texts = guest(architecture)
    registers = list(machine.observable)
    machine.set_many(numbers(architecture, registers))
    ready(machine)
    values = machine.get_many(registers)
    snapshot = machine.save()
    writes: list[int] = []
    machine.on_write(lambda address, *_: writes.append(address))
    machine.unmap(STUB, SIZE)
    machine.map(STUB, SIZE, writable=False)
    machine.write(STUB, b"kept")
    for runs in range(1, 4):
        load(machine, texts.jump(END + 2))
        assert "misaligned" in machine.run(CODE, BUDGET, END).detail
        machine.restore(snapshot)
        assert run(machine, texts.store_word).reason == "reached"
        assert writes == [DATA + 0x20] * runs
        assert machine.get_many(registers) == values
    assert machine.read(STUB, 4) == b"kept"
    machine.set(architecture.registers["a0"], STUB)
    assert "read-only" in run(machine, texts.store_word).detail


# -------------------------------------------------------------------------------------------------------- callbacks


@each_architecture
def test_a_callee_is_played_by_a_callback_that_goes_back(architecture: Architecture) -> None:
    """Nothing but zeros lies at the stub: on most machines those are no instruction."""
    machine = machine_for(architecture)
    texts = guest(architecture)
    trace: list[int] = []
    calls: list[int] = []
    link = next(iter(c.return_address for c in architecture.conventions.values()))

    def callee(address: int, _size: int) -> None:
        calls.append(address)
        if link is not None:
            back = machine.get(link)
        else:
            back = int.from_bytes(machine.read(machine.sp, architecture.word), "little")
            machine.sp += architecture.word
        machine.go(back)

    machine.on_instruction(lambda address, _size: trace.append(address))
    machine.on_instruction(callee, STUB, STUB)
    end = load(machine, f"{texts.call}; {texts.call}; {texts.nop}")
    before = machine.sp
    for runs in range(1, 4):
        calls.clear()
        trace.clear()
        stop = machine.run(CODE, BUDGET, end)
        assert stop.reason == "reached", (runs, stop)
        assert calls == [STUB, STUB]
        assert trace.count(STUB) == 2
        assert trace[0] == CODE
        assert stop.executed == len(trace)
        assert machine.sp == before
    machine.on_instruction(lambda _address, _size: machine.go(END), CODE, CODE)
    assert machine.run(CODE, BUDGET, END).reason == "reached"
    with pytest.raises(MachineError, match="nothing runs"):
        machine.go(END)


@each_architecture
def test_endless_redirection_ends_with_the_budget(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    machine.on_instruction(lambda _address, _size: machine.go(CODE), CODE, CODE)
    load(machine, guest(architecture).nop)
    assert machine.run(CODE, 50, END).reason == "budget"


@each_architecture
def test_stop_leaves_the_instruction_unexecuted_and_the_run_can_go_on(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    size = len(assemble(architecture, texts.nop))
    end = load(machine, f"{texts.nop}; {texts.store_word}; {texts.nop}")
    hook = machine.on_instruction(lambda _address, _size: machine.stop(), CODE + size, CODE + size)
    stop = machine.run(CODE, BUDGET, end)
    assert (stop.reason, stop.pc) == ("stopped", CODE + size)
    assert machine.read(DATA + 0x20, 8) == bytes(8)
    hook.remove()
    hook.remove()
    assert machine.run(stop.pc, BUDGET, end).reason == "reached"
    assert machine.read(DATA + 0x20, 8) != bytes(8)
    with pytest.raises(MachineError, match="nothing runs"):
        machine.stop()


@each_architecture
def test_stores_and_loads_are_reported(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    size = len(assemble(architecture, texts.nop))
    end = load(machine, f"{texts.nop}; {texts.store_word}")
    assert machine.run(CODE, BUDGET, end).reason == "reached"  # translated before there is a hook
    writes: list[tuple[int, ...]] = []
    reads: list[tuple[int, ...]] = []
    written = machine.on_write(lambda *event: writes.append(event))
    read = machine.on_read(lambda *event: reads.append(event))
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    assert writes == [(DATA + 0x20, architecture.word, DATA, CODE + size)]
    assert reads == []
    written.remove()
    machine.map(BAD, SIZE)
    end = load(machine, texts.load_bad)
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    assert [(address, pc > CODE) for address, _, pc in reads] == [(BAD, True)]
    assert len(writes) == 1
    read.remove()
    assert machine.run(CODE, BUDGET, end).reason == "reached"
    assert len(reads) == 1


@each_architecture
def test_stores_that_are_ignored_are_not_reported(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    texts = guest(architecture)
    end = load(machine, f"{texts.nop}; {texts.store_word}")
    heard: list[int] = []
    machine.on_write(lambda address, *_: heard.append(address))
    place = DATA + 0x20

    def reported() -> bool:
        heard.clear()
        assert machine.run(CODE, BUDGET, end).reason == "reached"
        assert machine.read(place, architecture.word) == DATA.to_bytes(architecture.word, architecture.order)
        return heard == [place]

    assert reported()
    for begin, stop, told in (
        (place, place + 1, False),
        (place - 8, place, True),
        (place + 1, place + 8, True),
        (0, place, True),
        (0, place + 1, False),
        (0, 0, True),
    ):
        machine.ignore_stores(begin, stop)
        assert reported() is told, (begin, stop)
    # From a callback, in code that has been translated.
    machine.ignore_stores(DATA, DATA + SIZE)
    hook = machine.on_instruction(lambda _address, _size: machine.ignore_stores(0, 0), CODE, CODE)
    assert reported()
    hook.remove()
    # Whoever comes to listen hears all.
    machine.ignore_stores(DATA, DATA + SIZE)
    assert not reported()
    machine.on_write(lambda *_: None).remove()
    assert reported()


@each_architecture
def test_registers_read_again_are_as_they_are(architecture: Architecture) -> None:
    """What has not changed is not decoded again."""
    machine = machine_for(architecture)
    registers = [r for r in architecture.registers.values() if r in machine.observable and machine.writable_mask(r)]
    values = numbers(architecture, registers)
    machine.set_many(values)
    first = machine.read_registers(registers)
    assert list(first) == list(machine.read_registers(registers)) == [machine.get(r) for r in registers]
    for index, register in enumerate(registers):
        mask = machine.writable_mask(register)
        if register.bank is Bank.CONTROL or register is architecture.flags:
            continue
        machine.set(register, ~values[register] & mask)
        again = machine.read_registers(registers)
        assert again[index] == machine.get(register) != first[index], register.name
        machine.set(register, values[register])
        assert machine.read_registers(registers)[index] == first[index]


@each_architecture
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), AssertionError("no")])
def test_what_a_callback_raises_comes_out_of_run(architecture: Architecture, error: BaseException) -> None:
    def fail(*_event: int) -> None:
        raise error

    machine = machine_for(architecture)
    texts = guest(architecture)
    end = load(machine, f"{texts.store_word}; {texts.nop}; {texts.load_bad}; {texts.illegal}")
    hook = machine.on_instruction(fail)
    with pytest.raises(type(error)) as caught:
        machine.run(CODE, BUDGET, end)
    assert caught.value is error
    hook.remove()
    machine.on_write(fail)
    with pytest.raises(type(error)) as caught:
        machine.run(CODE, BUDGET, end)
    assert caught.value is error


@each_architecture
def test_while_code_runs_some_things_are_refused(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    snapshot = machine.save()
    texts = guest(architecture)
    end = load(machine, texts.nop)
    for forbidden in (
        lambda: machine.run(CODE, 1, end),
        machine.reset,
        lambda: machine.restore(snapshot),
        lambda: machine.on_write(print),
    ):
        hook = machine.on_instruction(lambda _address, _size, act=forbidden: act())
        with pytest.raises(MachineError, match="while code runs"):
            machine.run(CODE, BUDGET, end)
        hook.remove()
    assert machine.run(CODE, BUDGET, end).reason == "reached"


# ---------------------------------------------------------------------------------------- threads, segments, x87

THREAD = {
    "386": "mov ecx, gs:[4]; mov [eax], ecx",
    "amd64": "mov rcx, fs:[8]; mov [rax], rcx",
    "arm": "mrc p15, 0, r1, c13, c0, 3; str r1, [r0]",
    "arm64": "mrs x1, tpidr_el0; str x1, [x0]",
    "ppc64": "std %r13, 0(%r3)",
    "s390x": "ear %r2, %a0; sllg %r2, %r2, 32; ear %r2, %a1; stg %r2, 0(%r1)",
}


@pytest.mark.parametrize(
    "architecture", [a for a in ARCHITECTURES.values() if a.engines.unicorn_cpu != "UC_CPU_ARM_926"]
)
def test_the_thread_pointer_is_what_the_guest_reads(architecture: Architecture) -> None:
    machine = machine_for(architecture)
    pointer = STUB + 0x40
    word = architecture.word
    machine.write(pointer + word, pointer.to_bytes(word, architecture.order))  # where it is a segment's base
    machine.set_thread_pointer(pointer)
    rdhwr = ".word 0x7c02e83b; " + ("sd" if word == 8 else "sw") + " $v0, 0($a0)"  # rdhwr $v0, $29
    assert run(machine, THREAD.get(architecture.name.removesuffix("le"), rdhwr)).reason == "reached"
    assert int.from_bytes(machine.read(DATA, word), architecture.order) == pointer


@pytest.mark.parametrize("name", ["linux/386", "linux/amd64"])
def test_both_segments_have_bases(name: str) -> None:
    architecture = ARCHITECTURES[name]
    machine = machine_for(architecture)
    machine.write(STUB, struct.pack("<II", 0x11111111, 0x22222222))
    machine.set_segment_base("fs", STUB)
    machine.set_segment_base("gs", STUB + 8)
    base = guest(architecture).base
    assert (
        run(machine, f"mov ecx, fs:[0]; mov [{base}], ecx; mov ecx, gs:[-4]; mov [{base}+4], ecx").reason == "reached"
    )
    assert machine.read(DATA, 8) == machine.read(STUB, 8)
    with pytest.raises(MachineError, match="fs and gs"):
        machine.set_segment_base("ds", 0)


def test_the_x87_stack_is_empty_until_st0_is_set() -> None:
    architecture = ARCHITECTURES["linux/386"]
    machine = machine_for(architecture)
    assert machine.x87_depth == 0
    machine.set(architecture.registers["st0"], int.from_bytes(struct.pack("<d", 1.5), "little"))
    assert machine.x87_depth == 1
    assert run(machine, "fld1; faddp; fstp qword ptr [eax]").reason == "reached"
    assert struct.unpack("<d", machine.read(DATA, 8)) == (2.5,)
    assert machine.x87_depth == 0
    assert machine.get(architecture.registers["st0"]) == 0
    assert run(machine, "fldpi; fld1").reason == "reached"
    assert machine.x87_depth == 2
    assert machine.get(architecture.registers["st0"]) == int.from_bytes(struct.pack("<d", 1.0), "little")


@given(st.integers(0, (1 << 64) - 1))
def test_a_double_survives_extended_precision(bits: int) -> None:
    assert to_double(*from_double(bits)) == bits


@pytest.mark.parametrize(
    ("extended", "double"),
    [
        ((0, 16383, 1 << 63 | 1 << 10), 1.0),  # a tie goes to even
        ((0, 16383, 1 << 63 | 3 << 10), 1.0 + 2**-51),
        ((0, 16383, (1 << 64) - 1), 2.0),
        ((1, 16383 + 1024, 1 << 63), -float("inf")),
        ((0, 16383 - 1074, 1 << 63), 5e-324),
        ((0, 16383 - 1075, 1 << 63), 0.0),
        ((0, 16383 - 1022, 1 << 63), 2.0**-1022),
    ],
)
def test_extended_numbers_are_rounded_to_the_nearest_double(extended: tuple[int, int, int], double: float) -> None:
    assert to_double(*extended) == int.from_bytes(struct.pack("<d", double), "little")


def test_scrambling_is_cheap() -> None:
    """A machine's registers are set for every run; this took 30 us when it was written."""
    for architecture in ARCHITECTURES.values():
        machine = Machine(architecture)
        registers = list(machine.observable)
        values = [numbers(architecture, registers)[register] for register in registers]
        machine.write_registers(registers, values)
        start = time.perf_counter()
        for _ in range(50):
            machine.write_registers(registers, values)
        assert (time.perf_counter() - start) / 50 < 1e-3, architecture.name


@pytest.mark.parametrize("name", ["linux/mips", "linux/mipsle", "linux/mips64", "linux/mips64le"])
def test_a_store_in_a_delay_slot_does_not_undo_a_redirection(name: str) -> None:
    """With Unicorn's own hook for stores, the first change of pc behind one in the slot of a jump is forgotten."""
    architecture = find_target(name).architecture
    registers = architecture.registers
    high = 1 << 32 if architecture.word == 8 else 0
    code, stub, data = high + 0x1000_0000, high + 0x1020_0000, 0x2000_0000
    machine = Machine(architecture)
    for base in (code, stub, data):
        machine.map(base, 0x1000)
    machine.write(code, assemble(architecture, "jalr $t9; sw $a3, 0xc($sp); addiu $v0, $zero, 1; nop"))
    seen: list[int] = []
    machine.on_write(lambda address, size, value, pc: seen.append(address))

    def answer(address: int, _size: int) -> None:
        seen.append(address)
        machine.go(machine.get(registers["ra"]))

    machine.on_instruction(answer, stub, stub + 0xFFF)
    machine.set_many({registers["t9"]: stub, architecture.sp: data + 0x100})
    assert machine.run(code, 100, code + 12).reason == "reached"
    assert seen == [data + 0x10C, stub]
    assert machine.get(registers["v0"]) == 1


@pytest.mark.parametrize("name", ["linux/mips", "linux/mipsle", "linux/mips64", "linux/mips64le"])
@pytest.mark.parametrize("access", ["lw $a3, 0x8($sp)", "sw $a3, 0x8($sp)"])
@pytest.mark.parametrize("then", ["addiu $v0, $v0, 1", "b 2f"])
def test_what_follows_a_watched_access_in_a_taken_slot_runs_once(name: str, access: str, then: str) -> None:
    """With Unicorn's own hooks for memory, the target of the branch runs twice, or is refused if it is a branch."""
    architecture = find_target(name).architecture
    code, data = 0x1000_0000, 0x2000_0000
    machine = Machine(architecture)
    machine.map(code, 0x1000)
    machine.map(data, 0x1000)
    machine.write(code, assemble(architecture, f"b 1f; {access}; 1: {then}; nop; 2: addiu $v1, $zero, 5"))
    seen: list[int] = []
    machine.on_write(lambda address, *_: seen.append(address))
    machine.on_read(lambda address, *_: seen.append(address))
    machine.set_many({architecture.sp: data + 0x100, architecture.registers["v0"]: 7})
    stop = machine.run(code, 100, code + 20)
    assert (stop.reason, stop.executed) == ("reached", 5)
    assert machine.get(architecture.registers["v1"]) == 5
    assert seen == [data + 0x108]
    if then.startswith("addiu"):
        assert machine.get(architecture.registers["v0"]) == 8


MIPS_ACCESSES = [
    # text, kind, offset from sp (which is a multiple of 16), bytes
    *[
        (f"{op} $a3, -0x8($sp)", "read", -8, size)
        for op, size in (("lb", 1), ("lbu", 1), ("lh", 2), ("lhu", 2), ("lw", 4))
    ],
    *[(f"{op} $a3, 0x8($sp)", "write", 8, size) for op, size in (("sb", 1), ("sh", 2), ("sw", 4))],
    ("lwc1 $f20, 0x8($sp)", "read", 8, 4),
    ("ldc1 $f20, 0x8($sp)", "read", 8, 8),
    ("swc1 $f20, 0x8($sp)", "write", 8, 4),
    ("sdc1 $f20, 0x8($sp)", "write", 8, 8),
]
MIPS64_ACCESSES = [
    ("ld $a3, -0x8($sp)", "read", -8, 8),
    ("lwu $a3, 0x8($sp)", "read", 8, 4),
    ("sd $a3, 0x8($sp)", "write", 8, 8),
]


@pytest.mark.parametrize("name", ["linux/mips", "linux/mipsle", "linux/mips64", "linux/mips64le"])
def test_decoded_accesses_are_those_that_happen(name: str) -> None:
    """mips: what is read out of the code agrees with memory afterwards, for unaligned pieces of words too."""
    architecture = find_target(name).architecture
    code, data = 0x1000_0000, 0x2000_0000
    machine = Machine(architecture)
    machine.map(code, 0x1000)
    machine.map(data, 0x1000)
    wide = architecture.word == 8
    pieces = [(op, n, 4) for op in ("swl", "swr") for n in range(8)]
    pieces += [(op, n, 8) for op in ("sdl", "sdr") for n in range(8)] if wide else []
    cases: list[tuple[str, str, int | None, int | None]] = [*MIPS_ACCESSES, *(MIPS64_ACCESSES if wide else [])]
    cases += [(f"{op} $a3, {n:#x}($sp)", "write", None, None) for op, n, _ in pieces]
    seen: list[tuple[str, int, int, int]] = []
    machine.on_write(lambda address, size, value, pc: seen.append(("write", address, size, value)))
    machine.on_read(lambda address, size, pc: seen.append(("read", address, size, 0)))
    for text, kind, offset, size in cases:
        seen.clear()
        machine.reset()
        before = bytes(range(0x80, 0xA0))
        machine.write(data + 0xF0, before)
        machine.write(code, assemble(architecture, text))
        values = numbers(architecture, machine.observable)
        machine.set_many({r: values[r] for r in machine.observable if r.bank is not Bank.CONTROL})
        machine.sp = data + 0x100
        assert machine.run(code, 100, code + 4).reason == "reached", text
        [(what, address, count, value)] = seen
        assert what == kind, text
        if offset is not None:
            assert (address, count) == (data + 0x100 + offset, size), text
        wanted = bytearray(before)
        if kind == "write":
            start = address - data - 0xF0
            wanted[start : start + count] = value.to_bytes(count, architecture.order)
        assert machine.read(data + 0xF0, 32) == bytes(wanted), text


def test_code_that_code_has_changed_is_decoded_anew() -> None:
    architecture = find_target("linux/mips64").architecture
    code, data = 0x1000_0000, 0x2000_0000
    machine = Machine(architecture)
    machine.map(code, 0x1000)
    machine.map(data, 0x1000)
    heard: list[int] = []
    machine.on_write(lambda address, size, value, pc: heard.append(address))
    changing = assemble(architecture, "sw $a3, 0x100($a2)")
    machine.write(code, changing)
    a2, a3 = architecture.registers["a2"], architecture.registers["a3"]
    for store, wanted in ((False, []), (True, [data + 8])):
        machine.set_many({a2: code, a3: int.from_bytes(changing[:2] + b"\0\x08", "big") if store else 0})
        assert machine.run(code, 10, code + 4).reason == "reached"
        assert heard.pop() == code + 0x100
        machine.set(a2, data)
        assert machine.run(code + 0x100, 10, code + 0x104).reason == "reached"
        assert heard == wanted
