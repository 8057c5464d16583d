"""arm: AAPCS32 (Arm, 2025Q1, "the AAPCS32" below), ARM state; instructions and FPSCR: Arm DDI 0406C.

Three variants share this module. `linux/arm` passes floats in VFP registers (armhf) on ARMv7-A with VFPv3, as GOARM=7;
`linux/arm-softfp` has the same machine and passes floats in core registers; `linux/arm-soft` has no VFP and runs on
ARMv5TE, as GOARM=5: no `movw`, no `sxtb`, and a `mul` whose first two registers differ.

`windows/arm` is the machine of `linux/arm`. Windows' own code is Thumb code; this is ARM state, as Go's is there. It is
entered from Thumb code by `blx`, returns there by `bx lr` or a load of pc, and calls pointers by `blx`: all of these
obey bit 0 of an address. A direct `bl` to a symbol stays in ARM state, unless a linker puts a veneer between.

How this machine differs from the others:

* One instruction pushes or pops any set of registers, the lowest number to the lowest address. What pops the link
  register into the program counter returns: `improve` makes that of a pop and the `bx lr` behind it.
* A single is half of a d register, and conventions count in singles: s1 is the upper half of d0. It has no record of
  its own; `InRegister(d0, left=True)` means bits 32 to 63 of d0, which is s1.
* An immediate is 8 bits, rotated by an even number. Offsets reach 4095 bytes for words and bytes, 255 for the rest,
  1020 for VFP.
* r12 belongs to the linker at every call and to this module between calls.

    C                                             Go (go0)

    |  arguments after r3             |  +0       |  arguments, results             |  +4
    +---------------------------------+  CFA      |  the caller's return address    |  +0
    |  lr                             |           +---------------------------------+  CFA
    |  r4 to r11, those that are kept |           |  registers to keep, if any      |
    |  d8 to d15                      |           |  body                           |
    |  fpscr                          |           |  return address                 |  +0
    |  padding to 8                   |           +---------------------------------+  sp
    |  body                           |
    +---------------------------------+  sp
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from trampoline_dsl.target import (
    GOT_SYMBOL,
    STRAIGHT_ON,
    Access,
    Architecture,
    Assignment,
    Bank,
    BinaryOp,
    Code,
    Condition,
    ContextRecord,
    Control,
    Convention,
    Engines,
    Fixed,
    Fixup,
    Frame,
    FrameRequest,
    InRegister,
    Insn,
    Linkage,
    Location,
    OnStack,
    Part,
    Placed,
    Plan9,
    Register,
    Relocation,
    SignalFrame,
    Slot,
    Target,
    ThreadSlot,
    Unwinding,
    ValueType,
    aligned,
    continues,
    in_part,
    insn,
    kept_by_run,
    signed,
    signed_field,
    spelled,
    system_calls,
    widened,
)

from .baselines.arm import ARM5, ARM7
from .go import NO_REGISTERS, assign_go0

WORD = 4
WHOLE = (1 << 32) - 1
Variant = Literal["", "softfp", "soft"]

# ----------------------------------------------------------------------------------------------------------- registers

_ROLES = {9: ("sb",), 10: ("sl",), 11: ("fp",), 12: ("ip",)}
R = tuple(Register(f"r{n}", Bank.INTEGER, 32, f"r{n}", n, _ROLES.get(n, ())) for n in range(13))
SP = Register("sp", Bank.INTEGER, 32, "sp", 13, ("r13",))
LR = Register("lr", Bank.INTEGER, 32, "lr", 14, ("r14",))
D = tuple(Register(f"d{n}", Bank.FLOAT, 64, f"d{n}", n) for n in range(32))
# DDI 0406C A2.4: what an application sees of the CPSR: N Z C V Q in bits 31 to 27 and GE in 19 to 16.
APSR = Register("apsr", Bank.CONTROL, 32, "apsr", 0, ("cpsr",))
FPSCR = Register("fpscr", Bank.CONTROL, 32, "fpscr", 0)

R12 = R[12]
_CORE = (*R, SP, LR, APSR)
_VFP = (*D, FPSCR)

# DDI 0406C B4.1.58, FPSCR: AHP 26, DN 25, FZ 24, RMode 23:22, Stride 21:20, Len 18:16, and the trap enables IDE 15, IXE
# 12, UFE 11, OFE 10, DZE 9, IOE 8. The rest is condition flags and cumulative flags.
FPSCR_CONTROL = 0x07F7_9F00

# ---------------------------------------------------------------------------------------------------------- conventions


class _Core:
    """AAPCS32, "Parameter passing", stage C: the next core register number (NCRN) and the next stacked argument
    address (NSAA), while arguments are placed."""

    def __init__(self, convention: Convention) -> None:
        self.registers = convention.integer_arguments
        self.next = 0
        self.top = convention.first_stack_argument

    def place(self, value: ValueType) -> Location:
        words = -(-value.bits // 32)
        # C.3: what has an alignment of 8 starts at an even register. A skipped one is not used later on.
        first = aligned(self.next, words)
        if first + words > len(self.registers):
            self.next = len(self.registers)
            return self.in_memory(value)
        self.next = first + words
        return _in_core(self.registers[first : first + words], value)

    def in_memory(self, value: ValueType) -> Location:
        # C.6 to C.8, and B.2: less than a word is widened by its type in memory too.
        size = aligned(value.bits, 32) // 8
        offset = aligned(self.top, size)
        self.top = offset + size
        return (widened(OnStack(offset), value, 32),)


def _in_core(registers: Sequence[Register], value: ValueType) -> Location:
    """A value in one core register, or in two: "as if it had been loaded with one LDM", so the low word first."""
    if len(registers) == 1:
        return (widened(InRegister(registers[0]), value, 32),)
    return tuple(Part(InRegister(register), 32 * index, 32) for index, register in enumerate(registers))


def assign_base(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """AAPCS32, the base standard: floats travel like integers of their size."""
    core = _Core(convention)
    places = tuple(core.place(value) for value in arguments)
    found: Location = ()
    if result is not None:
        found = _in_core(convention.integer_results[: -(-result.bits // 32)], result)
    return Assignment(places, found, core.top)


def assign_vfp(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """AAPCS32, "VFP and SIMD vector register arguments": singles fill the gaps that doubles have left, until a
    float does not fit; from then on all floats are in memory."""
    core = _Core(convention)
    free = [True] * (2 * len(convention.float_arguments))
    places: list[Location] = []
    for value in arguments:
        if value.kind == "int":
            places.append(core.place(value))
            continue
        singles = value.bits // 32
        fitting = (n for n in range(0, len(free), singles) if all(free[n : n + singles]))
        first = next(fitting, None)
        if first is None:
            free = [False] * len(free)
            places.append(core.in_memory(value))
            continue
        free[first : first + singles] = [False] * singles
        register = convention.float_arguments[first // 2]
        places.append((Part(InRegister(register, left=first % 2 == 1), 0, value.bits),))
    found: Location = ()
    if result is not None and result.kind == "float":
        found = (Part(InRegister(convention.float_results[0]), 0, result.bits),)
    elif result is not None:
        found = _in_core(convention.integer_results[: -(-result.bits // 32)], result)
    return Assignment(tuple(places), found, core.top)


_TITLES: Mapping[Variant, str] = {
    "": "AAPCS32, VFP variant (hard float)",
    "softfp": "AAPCS32, base standard, VFP present (softfp)",
    "soft": "AAPCS32, base standard, no VFP (soft float)",
}


def _c(variant: Variant) -> Convention:
    hard = variant == ""
    vfp = variant != "soft"
    kept = dict.fromkeys(R[4:12], WHOLE)
    notes = {
        "r9": 'the platform may give it a role; Linux does not, so it is v6, kept (AAPCS32, "Core registers")',
        "r11": "kept; gcc and clang point it at different words of a frame, so it chains nothing here",
        "r12": 'PLTs and veneers may write it at every call (AAPCS32, "Use of IP by the linker")',
        "apsr": "undefined at entry and return. The E bit of the CPSR is the application's at both, and no instruction "
        'made here changes it (AAPCS32, "Core registers")',
        "alignment": '8 at every call, 4 always (AAPCS32, "Stack constraints at a public interface")',
        "code pointers": "bit 0 says Thumb state: blx, bx and pop into pc obey it",
        "widening": 'the caller widens arguments to a word and the callee results (AAPCS32, "Parameter passing", B.2)',
    }
    if vfp:
        kept |= dict.fromkeys(D[8:16], (1 << 64) - 1) | {FPSCR: FPSCR_CONTROL}
        notes |= {
            "d8": 'd8 to d15 are kept, d16 to d31 are not (AAPCS32, "VFP register usage conventions")',
            "fpscr": "modes and trap enables are the process's, length and stride are 0 at both ends; flags are "
            'scratch (AAPCS32, "VFP register usage conventions")',
        }
    if hard:
        notes["variadic"] = "a variadic function uses the base standard for all its arguments"
    return Convention(
        name="c",
        title=_TITLES[variant],
        source="Procedure Call Standard for the Arm Architecture, 2025Q1",
        integer_arguments=R[0:4],
        float_arguments=D[0:8] if hard else (),
        integer_results=R[0:2],
        float_results=D[0:4] if hard else (),
        assign=assign_vfp if hard else assign_base,
        first_stack_argument=0,
        slot=WORD,
        kept=kept,
        fixed=(),
        reserved={SP: "the stack pointer"},
        alignment=8,
        red_zone=0,
        area=0,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=LR,
        return_slot="none",
        call_through=None,
        descriptors=False,
        toc_slot=None,
        thread=None,
        scratch=(R12,),
        linker_may_write=(R12,),
        notes=notes,
    )


def _go0(variant: Variant) -> Convention:
    return Convention(
        name="go0",
        title="Go's stack convention, ABI0",
        source="cmd/internal/obj/arm/a.out.go; internal/abi (Go has no register convention on arm)",
        integer_arguments=(),
        float_arguments=(),
        integer_results=(),
        float_results=(),
        assign=partial(assign_go0, word=WORD),
        first_stack_argument=4,
        slot=1,
        kept={} if variant == "soft" else {FPSCR: FPSCR_CONTROL},
        fixed=(),
        reserved={SP: "the stack pointer"},
        alignment=4,
        red_zone=0,
        area=0,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=LR,
        return_slot="bottom",
        call_through=None,
        descriptors=False,
        toc_slot=None,
        thread=R[10],
        # r11 first: sequences of this module need r12.
        scratch=(R[11], R12),
        linker_may_write=(R12,),
        notes={
            "return address": "a function that calls keeps it at 0(sp), where Go's traceback looks",
            "r11": "the temporary of Go's assembler",
            "d15": "F15, the floating-point temporary of Go's assembler",
            "fpscr": "Go never changes modes",
            "alignment": "a word; C wants 8",
        },
    )


GO_UNDEFINED = 0xF7FABCFD  # what Go's assembler makes of UNDEF: undefined, and to stay so
_RED_ZONE = (
    'the 8 bytes below sp are not overwritten by exceptions (Microsoft Learn, "Overview of ARM32 ABI conventions", '
    '"Red zone"). Code from here never uses them'
)


def _windows() -> tuple[Convention, ...]:
    """Microsoft's convention is AAPCS32's VFP variant; the 386 conventions' names mean the same here."""
    base, go0 = _c(""), _go0("")
    c = base.derive(
        title="Microsoft ARM32",
        source='Microsoft Learn, "Overview of ARM32 ABI conventions", which is the VFP variant of AAPCS32',
        red_zone=8,
        notes={
            **base.notes,
            "r9": 'kept (Microsoft Learn, "Overview of ARM32 ABI conventions", "Integer registers")',
            "r11": "the frame pointer of Windows' own code; here a kept register like others",
            "code pointers": "bit 0 says Thumb state, as all code has it but this: blx, bx and loads of pc obey it",
            "red zone": _RED_ZONE,
        },
    )
    same = (
        c.derive(name=n, title=f"Microsoft ARM32, which {n} means here") for n in ("stdcall", "fastcall", "thiscall")
    )
    go0 = go0.derive(red_zone=8, notes={**go0.notes, "red zone": _RED_ZONE})
    return (c, *same, go0, go0.derive(name="goregs", title=NO_REGISTERS))


# winnt.h of the Windows SDK, struct _CONTEXT of ARM.
CONTEXT = ContextRecord(
    size=416,
    alignment=8,
    registers={
        **{register: (0x4 + 4 * n, 4) for n, register in enumerate((*R, SP, LR))},
        APSR: (0x44, 4),
        FPSCR: (0x48, 4),
        **{register: (0x50 + 8 * n, 8) for n, register in enumerate(D)},
    },
    pc=0x40,
    flags=0,
    full=0x200007,  # CONTEXT_ARM: control, integer, floating point
    source="winnt.h, struct _CONTEXT (_ARM_)",
)

# -------------------------------------------------------------------------------------------------- instruction pieces

_BRANCH = Fixup(4, 0x00FFFFFF, shift=2, pc_relative=True, in_place=True)
# imm4 in bits 19:16, imm12 in bits 11:0
_HALFWORD = ((0x000F0000, 12), (0x00000FFF, 0))

# ELF for the Arm Architecture, "Relocation codes table"; REL, so addends are in the fields.
_FIXUPS: Mapping[str, Fixup] = {
    "R_ARM_CALL": _BRANCH,
    "R_ARM_JUMP24": _BRANCH,
    "R_ARM_MOVW_ABS_NC": Fixup(4, 0x000F0FFF, scatter=_HALFWORD, in_place=True),
    "R_ARM_MOVT_ABS": Fixup(4, 0x000F0FFF, shift=16, scatter=_HALFWORD, in_place=True),
    "R_ARM_ABS32": Fixup(4, WHOLE, in_place=True),
    "R_ARM_GOT_PREL": Fixup(4, WHOLE, pc_relative=True, in_place=True, got=True),
    "R_ARM_REL32": Fixup(4, WHOLE, pc_relative=True, in_place=True),
    # What is not of our own making. On Linux, TARGET1 is ABS32 (ELF for the Arm Architecture, 4.6.1.8).
    "R_ARM_PC24": _BRANCH,
    "R_ARM_PLT32": _BRANCH,
    "R_ARM_TARGET1": Fixup(4, WHOLE, in_place=True),
    "R_ARM_PREL31": Fixup(4, 0x7FFFFFFF, pc_relative=True, in_place=True),
    "R_ARM_MOVW_PREL_NC": Fixup(4, 0x000F0FFF, pc_relative=True, scatter=_HALFWORD, in_place=True),
    "R_ARM_MOVT_PREL": Fixup(4, 0x000F0FFF, shift=16, pc_relative=True, scatter=_HALFWORD, in_place=True),
    "R_ARM_BASE_PREL": Fixup(4, WHOLE, pc_relative=True, in_place=True),
    "R_ARM_GOTOFF32": Fixup(4, WHOLE, in_place=True, base=GOT_SYMBOL),
    "R_ARM_GOT_BREL": Fixup(4, WHOLE, in_place=True, base=GOT_SYMBOL, got=True),
}

_CONDITIONS: Mapping[Condition, str] = {
    "eq": "eq",
    "ne": "ne",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "ult": "lo",
    "ule": "ls",
    "ugt": "hi",
    "uge": "hs",
}
_LOADS: Mapping[tuple[int, bool], str] = {
    (8, False): "ldrb",
    (8, True): "ldrsb",
    (16, False): "ldrh",
    (16, True): "ldrsh",
    (32, False): "ldr",
    (32, True): "ldr",
}
_STORES: Mapping[int, str] = {8: "strb", 16: "strh", 32: "str"}
# How far an offset reaches, in bytes, up and down: all ones. DDI 0406C A8.8, the encodings A1 of each.
_REACH: Mapping[str, int] = dict.fromkeys(("ldrsb", "ldrh", "ldrsh", "strh"), 0xFF) | dict.fromkeys(
    ("ldr", "ldrb", "str", "strb"), 0xFFF
)
_VFP_REACH = 0x3FC


def number(value: int) -> str:
    """Hexadecimal from 10 on: Keystone may take a bare 16 for 0x16."""
    return str(value) if abs(value) < 10 else f"{value:#x}"


def encodable(value: int) -> bool:
    """Whether an immediate operand can be `value`: DDI 0406C A5.2.4, 8 bits rotated right by an even number."""
    value &= WHOLE
    return any((value << turn | value >> (32 - turn)) & WHOLE < 0x100 for turn in range(0, 32, 2))


def pieces(value: int) -> list[int]:
    """`value` as the sum of immediates that have no bit in common: none for 0, four at most, the highest first."""
    value &= WHOLE
    found: list[int] = []
    while value:
        low = ((value & -value).bit_length() - 1) // 2 * 2
        found.insert(0, value & 0xFF << low)
        value &= ~found[0]
    return found


def half(register: Register) -> str:
    """The lower half of a d register under its own name."""
    if register.number > 15:
        raise ValueError(f"{register.name} has no halves: singles are in d0 to d15")
    return f"s{2 * register.number}"


def _near(name: str, offset: int) -> bool:
    return -_REACH[name] <= offset <= _REACH[name]


def _operand(base: Register, offset: int) -> str:
    return f"[{base}, #{number(offset)}]" if offset else f"[{base}]"


def _control(word: int, address: int) -> Control:
    """Of an instruction, whatever its condition."""
    if word & 0x0E000000 == 0x0A000000:
        target = address + 8 + 4 * signed_field(word, 0, 24)
        if word >> 24 & 1:
            return Control("call", target)
        return Control("jump" if word >> 28 == 14 else "branch", target)
    if word & 0x0FFFFFF0 in (0x012FFF10, 0x012FFF20):  # bx, bxj
        return Control("return" if word & 15 == LR.number else "jump")
    if word & 0x0FFFFFF0 == 0x012FFF30:
        return Control("call")
    if word & 0x0F000000 == 0x0F000000:
        return Control("system")
    if word & 0x0FF000F0 in (0x01200070, 0x07F000F0):  # bkpt, udf
        return Control("trap")
    base, to = word >> 16 & 15, word >> 12 & 15
    if word & 0x0E108000 == 0x08108000:  # a load of several registers, the program counter among them
        return Control("return")
    if to != 15:
        return STRAIGHT_ON
    if word & 0x0C100000 == 0x04100000 and word & 0x02000010 != 0x02000010:  # ldr
        return Control("return" if base == SP.number else "jump")
    if word & 0x0C000000 == 0 and word & 0x02000090 != 0x00000090:
        operation, sets_flags = word >> 21 & 15, word >> 20 & 1
        if operation in (8, 9, 10, 11):
            return STRAIGHT_ON  # comparisons have no destination; without the bit S, others
        if operation in (2, 4) and base == 15 and word & 0x02000F00 == 0x02000000:
            distance = word & 0xFF
            return Control("jump", address + 8 + (distance if operation == 4 else -distance))
        moved = operation == 13 and word & 0x02000FFF == LR.number
        stepped = operation in (2, 4) and base == LR.number and (sets_flags or word & 0x02000FFF == 0x02000000)
        return Control("return" if moved or stepped or sets_flags else "jump")
    return STRAIGHT_ON


# --------------------------------------------------------------------------------------------------------- the machine


# arch/arm/kernel/signal.c: struct rt_sigframe is siginfo (128 bytes), ucontext (744) and four words of code.
SIGNALS = SignalFrame(
    "arch/arm/kernel/signal.c, setup_rt_frame and sys_rt_sigreturn",
    size=128 + 744 + 16,
    info=0,
    context=128,
    alignment=8,
    number=173,
    restorer="taken",
)


class Arm(Architecture):
    """ARM state, little-endian."""

    name = "arm"
    family = "arm"
    machines: Mapping[str, int] = {"elf": 40}
    word = WORD
    order = "little"
    sp = SP
    flags = APSR
    fixups = _FIXUPS
    linkages: tuple[Linkage, ...] = ("static", "pic", "go")
    two_address = False
    comment = "@"
    function_alignment = 4
    signals: SignalFrame | None = SIGNALS

    def __init__(self, variant: Variant, system: Literal["linux", "windows"] = "linux") -> None:
        vfp = variant != "soft"
        # ARMv7 has 16-bit immediates, extensions, and pairs that need no more alignment than words.
        self.v7 = vfp
        self.extensions = ARM7 if vfp else ARM5
        self.vfp = vfp
        self.indexed = system == "linux"
        if system == "windows":
            self.machines = {"elf": 40, "pe": 0x1C4}
        self.engines = Engines(
            keystone_arch="KS_ARCH_ARM",
            keystone_mode=("KS_MODE_ARM",),
            unicorn_arch="UC_ARCH_ARM",
            unicorn_mode=("UC_MODE_ARM",),
            unicorn_cpu="UC_CPU_ARM_CORTEX_A8" if self.v7 else "UC_CPU_ARM_926",
            capstone_arch="CS_ARCH_ARM",
            capstone_mode=("CS_MODE_ARM",),
        )
        self.registers = {
            name: register
            for register in (*_CORE, *(_VFP if vfp else ()))
            for name in (register.name, *register.aliases)
        }
        go0 = _go0(variant)
        self.conventions = {"c": _c(variant), "go0": go0, "goregs": go0.derive(name="goregs", title=NO_REGISTERS)}
        # Linux, arch/arm/kernel/entry-common.S, vector_swi: all but r0 comes back, the flags too.
        source = "Linux, arch/arm/kernel/entry-common.S, vector_swi (EABI); syscall(2)"
        passed = (R[7], *R[0:6])
        self.system_calls = system_calls(self.conventions["c"], self.registers.values(), passed, R[0], (), source)
        if system == "windows":
            self.conventions = {convention.name: convention for convention in _windows()}
            self.signals, self.system_calls, self.context_record = None, None, CONTEXT
        machine = ("armv7-a", "vfpv3") if self.v7 else ("armv5te", "softvfp")
        abi = variant or "hard"
        self.gnu_as = (
            "arm-linux-gnueabihf-as",
            f"-march={machine[0]}",
            f"-mfpu={machine[1]}",
            f"-mfloat-abi={abi}",
        )
        self.clang = ("--target=arm-linux-gnueabihf", f"-march={machine[0]}", f"-mfloat-abi={abi}")
        if system == "windows":
            self.linkages = ("static", "go")
            self.why_no_object = "no assembler writes COFF objects with A32 code, which is what windows/arm has here"
        # The linker refuses to mix objects whose floats travel differently: Addenda to the ABI for the Arm
        # Architecture, "ABI-related tags". The stack's alignment is told there too.
        tags = ["Tag_ABI_align_needed, 1", "Tag_ABI_align_preserved, 1"]
        if abi == "hard":
            tags.append("Tag_ABI_VFP_args, 1")
        self.header = (
            ".syntax unified",
            f".arch {machine[0]}",
            f".fpu {machine[1]}",
            ".arm",
            *(f".eabi_attribute {tag}" for tag in tags),
        )

    # -- which registers values may live in

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        # Those first that need no save, and upwards: multiples want ascending numbers at ascending addresses.
        order = (*R[0:9], R[10], R[9], R[11])
        return convention.leaves(order)

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        # d16 to d31 have no singles, and VFPv3-D16 has none of them. d15 is Go's assembler's.
        last = 15 if convention.thread is not None else 16
        order = (*reversed(D[0:8]), *D[8:last]) if self.vfp else ()
        return convention.leaves(order)

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        yield insn(f"mov {d}, {s}", (s,), (d,))

    def constant(self, d: Register, value: int) -> Code:
        value &= WHOLE
        if d == SP:
            yield from self.constant(R12, value)
            yield from self.move(SP, R12)
        elif encodable(value):
            yield insn(f"mov {d}, #{number(value)}", (), (d,))
        elif encodable(~value):
            yield insn(f"mvn {d}, #{number(~value & WHOLE)}", (), (d,))
        elif self.v7 and (self.linkage != "go" or value >> 16 == 0):
            yield insn(f"movw {d}, #{number(value & 0xFFFF)}", (), (d,))
            if value >> 16:
                yield insn(f"movt {d}, #{number(value >> 16)}", (d,), (d,))
        else:
            # Go's assembler has no movt.
            ones, zeros = pieces(value), pieces(~value)
            if self.v7 and 1 + len(pieces(value & 0xFFFF0000)) < min(len(ones), len(zeros)):
                yield from self.constant(d, value & 0xFFFF)
                yield from self._logic("orr", d, d, value & 0xFFFF0000)
                return
            first, rest, name = ("mov", ones, "orr") if len(ones) <= len(zeros) else ("mvn", zeros, "bic")
            yield insn(f"{first} {d}, #{number(rest[0])}", (), (d,))
            for piece in rest[1:]:
                yield insn(f"{name} {d}, {d}, #{number(piece)}", (d,), (d,))

    def symbol_address(self, d: Register, symbol: str) -> Code:
        name = spelled(symbol)
        if self.linkage == "pic":
            # The word is the distance from itself, where pc points in the second load, to the symbol's entry.
            # ELF for the Arm Architecture, 5.6.1: GOT(S) + A - P.
            yield insn(f"ldr {d}, [pc, #4]", (), (d,), "read")
            yield insn(f"ldr {d}, [pc, {d}]", (d,), (d,), "read")
            yield insn("add pc, pc, #0")
            yield Insn(f".word {name}(GOT_PREL)", relocation=Relocation("R_ARM_GOT_PREL", symbol), keystone=".long 0x0")
            return
        if self.v7:
            yield replace(
                insn(f"movw {d}, #:lower16:{name}", (), (d,)),
                relocation=Relocation("R_ARM_MOVW_ABS_NC", symbol),
                keystone=f"movw {d}, #0",
            )
            yield replace(
                insn(f"movt {d}, #:upper16:{name}", (d,), (d,)),
                relocation=Relocation("R_ARM_MOVT_ABS", symbol),
                keystone=f"movt {d}, #0",
            )
            return
        # The program counter reads as two instructions ahead: the load finds the word, the addition passes over it.
        yield insn(f"ldr {d}, [pc]", (), (d,), "read")
        yield insn("add pc, pc, #0")
        yield Insn(f".word {name}", relocation=Relocation("R_ARM_ABS32", symbol), keystone=".long 0x0")

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        name = _LOADS[bits, signed]
        # The target itself can hold what it takes to reach the word.
        temporary = d if d not in (base, SP) else R12
        place, reads = yield from self._place(name, base, offset, temporary)
        access = Access("load", d, base, offset, bits // 8) if _near(name, offset) else None
        yield insn(f"{name} {d}, {place}", reads, (d,), "read", access)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        name = _STORES[bits]
        place, reads = yield from self._place(name, base, offset, R12, s)
        access = Access("store", s, base, offset, bits // 8) if _near(name, offset) else None
        yield insn(f"{name} {s}, {place}", (*reads, s), (), "write", access)

    def _place(
        self, name: str, base: Register, offset: int, temporary: Register, busy: Register | None = None
    ) -> Generator[Insn, None, tuple[str, tuple[Register, ...]]]:
        """The operand for `offset` from `base` and the registers in it, after what it takes to have them."""
        if _near(name, offset):
            return _operand(base, offset), (base,)
        if temporary == busy:
            raise ValueError(f"{temporary.name} is needed to reach {offset:#x}({base.name})")
        reach = _REACH[name]
        low = offset & reach if offset > 0 else -(-offset & reach)
        by_offset = encodable(offset) or encodable(~offset) or not encodable(abs(offset - low))
        if by_offset and temporary != base:
            yield from self.constant(temporary, offset)
            return f"[{base}, {temporary}]", (base, temporary)
        yield from self._add(temporary, base, offset - low)
        return _operand(temporary, low), (temporary,)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if bits == 64:
            yield insn(f"vmov.f64 {d}, {s}", (s,), (d,))
        else:
            # The upper half of the target stays.
            yield insn(f"vmov.f32 {half(d)}, {half(s)}", (s, d), (d,))

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        place, reached, near = yield from self._float_place(base, offset)
        access = Access("load", d, base, offset, bits // 8) if near else None
        reads = (reached,) if bits == 64 else (reached, d)
        yield insn(f"vldr {d if bits == 64 else half(d)}, {place}", reads, (d,), "read", access)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        place, reached, near = yield from self._float_place(base, offset)
        access = Access("store", s, base, offset, bits // 8) if near else None
        yield insn(f"vstr {s if bits == 64 else half(s)}, {place}", (reached, s), (), "write", access)

    def _float_place(self, base: Register, offset: int) -> Generator[Insn, None, tuple[str, Register, bool]]:
        if offset % 4 == 0 and -_VFP_REACH <= offset <= _VFP_REACH:
            return _operand(base, offset), base, True
        low = offset & _VFP_REACH if offset > 0 else -(-offset & _VFP_REACH)
        yield from self._add(R12, base, offset - low)
        return _operand(R12, low), R12, False

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        match op:
            case "add" | "sub":
                if isinstance(b, int):
                    yield from self._add(d, a, signed(b if op == "add" else -b, 32))
                else:
                    yield insn(f"{op} {d}, {a}, {b}", (a, b), (d,))
            case "and" | "or" | "xor":
                yield from self._logic({"and": "and", "or": "orr", "xor": "eor"}[op], d, a, b)
            case "shl" | "shr" | "sar":
                name = {"shl": "lsl", "shr": "lsr", "sar": "asr"}[op]
                if isinstance(b, Register):
                    yield insn(f"{name} {d}, {a}, {b}", (a, b), (d,))
                elif b % 32:
                    yield insn(f"{name} {d}, {a}, #{number(b % 32)}", (a,), (d,))
                else:
                    yield from self.move(d, a)
            case "mul":
                if isinstance(b, int):
                    value, b = b, self._free(d, a)
                    yield from self.constant(b, value)
                yield from self._multiply(d, a, b)

    @staticmethod
    def _free(d: Register, *busy: Register) -> Register:
        """A register for an operand: the target, if it is not read, else r12."""
        if d not in (*busy, SP):
            return d
        if R12 in busy:
            raise ValueError("r12 is needed for an operand that is no immediate")
        return R12

    def _add(self, d: Register, a: Register, value: int) -> Code:
        """`d = a + value`, `value` signed."""
        name, size = ("add", value) if value >= 0 else ("sub", -value)
        steps = pieces(size)
        go = self.linkage == "go" and d == SP
        if go and a != SP:
            # Go's assembler takes any addition to the stack pointer for a step of it, whatever it is added to.
            yield from self._add(R12, a, value)
            yield from self.move(SP, R12)
        elif not steps:
            yield from self.move(d, a)
        elif encodable(size):
            yield insn(f"{name} {d}, {a}, #{number(size)}", (a,), (d,))
        elif len(steps) == 2 or a == R12 or go:
            for step in steps:
                yield insn(f"{name} {d}, {a}, #{number(step)}", (a,), (d,))
                a = d
        else:
            temporary = self._free(d, a)
            yield from self.constant(temporary, size)
            yield insn(f"{name} {d}, {a}, {temporary}", (a, temporary), (d,))

    def _logic(self, name: str, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield insn(f"{name} {d}, {a}, {b}", (a, b), (d,))
            return
        b &= WHOLE
        if name == "and" and encodable(b):
            yield insn(f"and {d}, {a}, #{number(b)}", (a,), (d,))
            return
        if name == "eor" and b == WHOLE:
            yield insn(f"mvn {d}, {a}", (a,), (d,))
            return
        if name == "and" and b == 0xFFFF and self.v7:
            yield insn(f"uxth {d}, {a}", (a,), (d,))
            return
        by_step, steps = ("bic", pieces(~b)) if name == "and" else (name, pieces(b))
        if encodable(~b if name == "and" else b):
            steps = [~b & WHOLE if name == "and" else b] if steps else []
        if not steps:
            yield from self.move(d, a)
        elif len(steps) <= 2 or a == R12:
            for step in steps:
                yield insn(f"{by_step} {d}, {a}, #{number(step)}", (a,), (d,))
                a = d
        else:
            temporary = self._free(d, a)
            yield from self.constant(temporary, b)
            yield insn(f"{name} {d}, {a}, {temporary}", (a, temporary), (d,))

    def _multiply(self, d: Register, a: Register, b: Register) -> Code:
        # DDI 0406C A8.8.114: before ARMv6, the target must not be the first factor.
        if d == a and not self.v7:
            a, b = b, a
        if d == a and not self.v7:
            yield from self.move(R12, a)
            a = R12
        yield insn(f"mul {d}, {a}, {b}", (a, b), (d,))

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits == 32:
            yield from self.move(d, s)
        elif self.v7:
            name = {(8, True): "sxtb", (8, False): "uxtb", (16, True): "sxth", (16, False): "uxth"}[bits, signed]
            yield insn(f"{name} {d}, {s}", (s,), (d,))
        elif (bits, signed) == (8, False):
            yield insn(f"and {d}, {s}, #0xff", (s,), (d,))
        else:
            yield from self.binary("shl", d, s, 32 - bits)
            yield from self.binary("sar" if signed else "shr", d, d, 32 - bits)

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        if isinstance(b, Register):
            yield insn(f"cmp {a}, {b}", (a, b), (APSR,))
        elif encodable(b):
            yield insn(f"cmp {a}, #{number(b & WHOLE)}", (a,), (APSR,))
        elif encodable(-b):
            yield insn(f"cmn {a}, #{number(-b & WHOLE)}", (a,), (APSR,))
        else:
            if a == R12:
                raise ValueError(f"r12 is needed to compare with {b:#x}")
            yield from self.constant(R12, b)
            yield insn(f"cmp {a}, {R12}", (a, R12), (APSR,))
        yield Insn(f"b{_CONDITIONS[condition]} {label}", frozenset((APSR,)), transfer="branch", target=label)

    def control(self, code: bytes, text: str, address: int) -> Control:
        """ARM Architecture Reference Manual, ARMv7-A (DDI 0406C), A5: "ARM Instruction Set Encoding"."""
        word = int.from_bytes(code, "little")
        condition = word >> 28
        if condition == 15:
            if word & 0x0E000000 == 0x0A000000:  # blx to Thumb code
                return Control("call", address + 8 + 4 * signed_field(word, 0, 24) + (word >> 23 & 2))
            return Control("trap") if word == GO_UNDEFINED else STRAIGHT_ON
        found = _control(word, address)
        return replace(found, conditional=True) if condition != 14 and found.transfer != "none" else found

    def jump(self, label: str) -> Code:
        yield Insn(f"b {label}", transfer="jump", target=label)

    def call(self, symbol: str, callee: Convention) -> Code:
        # The program counter reads as 8 bytes ahead, hence the addend.
        yield Insn(
            f"bl {spelled(symbol)}",
            writes=frozenset((LR,)),
            transfer="call",
            relocation=Relocation("R_ARM_CALL", symbol, addend=-8),
            keystone="bl 0x0",
        )

    def call_register(self, address: Register, callee: Convention) -> Code:
        yield Insn(f"blx {address}", frozenset((address,)), frozenset((LR,)), transfer="call")

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        yield Insn(
            f"b {spelled(symbol)}",
            transfer="jump",
            relocation=Relocation("R_ARM_JUMP24", symbol, addend=-8),
            keystone="b 0x0",
        )

    def jump_register(self, address: Register, callee: Convention) -> Code:
        yield Insn(self._branch_to(address, callee), frozenset((address,)), transfer="jump")

    def _branch_to(self, address: Register, convention: Convention) -> str:
        """To an address in a register. Go's assembler has no bx, but what it has obeys bit 0 in ARMv7 (DDI 0406C,
        ALUWritePC), and nothing of Go's is in Thumb state."""
        if self.linkage == "go" and (self.v7 or convention.thread is not None):
            return f"add pc, {address}, #0"
        return f"bx {address}"

    def trap(self) -> Code:
        """DDI 0406, "UDF": permanently undefined. What Go's assembler makes of UNDEF has no meaning either (DDI 0406C
        A5.7)."""
        if self.linkage == "go":
            keystone = ".byte 0xfd, 0xbc, 0xfa, 0xf7"
            yield Insn(".inst 0xf7fabcfd", memory="both", transfer="trap", keystone=keystone)
            return
        yield Insn("udf #0", memory="both", transfer="trap", keystone=".byte 0xf0, 0x00, 0xf0, 0xe7")

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(R[7], number)
        yield self.kernel_entry("svc #0")

    # -- tables of entries

    homes_below = True

    def table_register(self, convention: Convention) -> Register:
        # The one that is neither an argument's nor kept. A linker may use it between modules (AAPCS32 6.1.1), and a
        # table is in the same one as what it enters.
        return R12

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        if self.v7 and self.linkage == "go" and encodable(index):
            yield insn(f"mov {R12}, #{number(index)}", (), (R12,))
        elif self.v7:
            # Spelt out, for to assemble thousands of them one by one takes longer than all the rest of a build.
            # DDI 0406C A8.8.102, encoding A2: imm4 in bits 16-19, imm12 in bits 0-11.
            code = 0xE3000000 | index >> 12 << 16 | R12.number << 12 | index & 0xFFF
            yield Insn(f"movw {R12}, #{number(index)}", writes=frozenset((R12,)), keystone=f".long {code:#x}")
        else:
            yield insn(f"mov {R12}, #{number(index & 0xFF)}", (), (R12,))
            yield insn(f"orr {R12}, {R12}, #{number(index & 0xFF00)}", (R12,), (R12,))
        yield from self.tail_call(symbol, convention)

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        convention = request.convention
        why = f"{convention.name} keeps it for its caller"
        saves = {register: why for register, _ in request.saves if not (request.link and register == LR)}
        at_bottom = _link_at_bottom(request)
        if request.link and not at_bottom:
            saves[LR] = "the calls in the body overwrite lr"
        body = aligned(max(request.body, WORD if at_bottom else 0), WORD)
        alignment = max(request.alignment, convention.alignment)
        homed = WORD * len(request.homed)
        used = body + homed + sum(r.bits // 8 for r in saves)
        if body == 0 and (used + WORD) % alignment == 0 and any(r.bank is Bank.INTEGER for r in saves):
            spare = next((r for r in R[4:12] if convention.keeps(r) == WHOLE and r not in saves), None)
            if spare is not None:
                saves[spare] = f"nobody needs it: it keeps sp a multiple of {alignment}"
                used += WORD
        size = aligned(used, alignment)
        slots: list[Slot] = []
        if at_bottom:
            reason = "the calls in the body overwrite lr"
            if convention.return_slot == "bottom":
                reason += f", and {convention.name} looks for it at 0(sp)"
            slots.append(Slot(0, WORD, "return address", reason, LR))
        top = size - homed
        if homed:
            slots.append(Slot(top, homed, "argument words", "those that arrive in registers, below those in memory"))
        for register in sorted(saves, key=_push_order):
            top -= register.bits // 8
            owner = "return address" if register == LR and request.link else register.name
            slots.append(Slot(top, register.bits // 8, owner, saves[register], register))
        return Frame(size, tuple(sorted(slots, key=lambda slot: slot.offset)), request)

    def prologue(self, frame: Frame) -> Code:
        yield from in_part("prologue", self._enter(frame))

    def epilogue(self, frame: Frame) -> Code:
        yield from in_part("epilogue", self._exit(frame))

    def leave(self, frame: Frame, pop: int) -> Code:
        if pop:
            yield from in_part("epilogue", self._add(SP, SP, pop))
        back = self._branch_to(LR, frame.request.convention)
        yield Insn(back, frozenset((LR,)), transfer="return", part="epilogue")

    def _enter(self, frame: Frame) -> Code:
        integers, floats, controls = _pushed(frame)
        if frame.request.homed:
            yield from self._push(frame.request.homed)
        if integers:
            yield from self._push(integers)
        below = self._below_floats(frame)
        for run in reversed(floats):
            yield from self._push_floats(run, below)
        for register in reversed(controls):
            yield insn(f"{'vmrs' if register == FPSCR else 'mrs'} {R12}, {register}", (register,), (R12,))
            yield from self._push([R12])
        rest = _rest(frame) - below
        if _link_at_bottom(frame.request) and rest <= 0xFFF:
            yield insn(f"str {LR}, [{SP}, #{number(-rest)}]!", (LR, SP), (SP,), "write")
        elif rest:
            yield from self._add(SP, SP, -rest)
            if _link_at_bottom(frame.request):
                yield from self.store(LR, SP, 0, 32)

    def _exit(self, frame: Frame) -> Code:
        integers, floats, controls = _pushed(frame)
        below = self._below_floats(frame)
        rest = _rest(frame) - below
        if _link_at_bottom(frame.request) and rest <= 0xFFF:
            yield insn(f"ldr {LR}, [{SP}], #{number(rest)}", (SP,), (LR, SP), "read")
        elif rest:
            if _link_at_bottom(frame.request):
                yield from self.load(LR, SP, 0, 32, signed=False)
            yield from self._add(SP, SP, rest)
        for register in controls:
            yield from self._pop([R12])
            if register == FPSCR:
                yield insn(f"vmsr {register}, {R12}", (R12,), (register,))
            else:
                # GE came with ARMv6.
                fields = "apsr_nzcvqg" if self.v7 else "apsr_nzcvq"
                yield insn(f"msr {fields}, {R12}", (R12,), (register,))
        for run in floats:
            yield from self._pop_floats(run, below)
        if integers:
            yield from self._pop(integers)
        yield from self._add(SP, SP, WORD * len(frame.request.homed))

    # Go's assembler follows the stack pointer through additions, and through loads and stores of one register.

    def _push(self, registers: Sequence[Register]) -> Code:
        if len(registers) == 1:
            yield insn(f"str {registers[0]}, [{SP}, #-4]!", (SP, *registers), (SP,), "write")
        elif self.linkage == "go":
            yield from self._add(SP, SP, -WORD * len(registers))
            yield insn(f"stm {SP}, {_cores(registers)}", (SP, *registers), (), "write")
        else:
            yield insn(f"push {_cores(registers)}", (SP, *registers), (SP,), "write")

    def _pop(self, registers: Sequence[Register]) -> Code:
        if len(registers) == 1:
            yield insn(f"ldr {registers[0]}, [{SP}], #4", (SP,), (SP, *registers), "read")
        elif self.linkage == "go":
            yield insn(f"ldm {SP}, {_cores(registers)}", (SP,), registers, "read")
            yield from self._add(SP, SP, WORD * len(registers))
        else:
            yield insn(f"pop {_cores(registers)}", (SP,), (SP, *registers), "read")

    def _below_floats(self, frame: Frame) -> int:
        """What is left of the frame, if the step to it can be that for d registers: nothing is pushed in between, and
        offsets reach over it."""
        _, floats, controls = _pushed(frame)
        rest = _rest(frame)
        one = self.linkage == "go" and len(floats) == 1 and not controls and not _link_at_bottom(frame.request)
        return rest if one and rest + 8 * len(floats[0]) <= _VFP_REACH else 0

    def _push_floats(self, run: Sequence[Register], below: int) -> Code:
        if self.linkage == "go":
            yield from self._add(SP, SP, -8 * len(run) - below)
            for index, register in enumerate(run):
                yield from self.float_store(register, SP, 8 * index + below, 64)
        else:
            yield insn(f"vpush {_floats(run)}", (SP, *run), (SP,), "write")

    def _pop_floats(self, run: Sequence[Register], below: int) -> Code:
        if self.linkage == "go":
            for index, register in enumerate(run):
                yield from self.float_load(register, SP, 8 * index + below, 64)
            yield from self._add(SP, SP, 8 * len(run) + below)
        else:
            yield insn(f"vpop {_floats(run)}", (SP,), (SP, *run), "read")

    # -- fixed values, the thread

    def establish(self, fixed: Fixed) -> Code:
        if fixed.code_mask:
            raise ValueError("no register of arm is fixed to a code address")
        register, value = fixed.register, fixed.value & fixed.mask
        if register.bank is Bank.INTEGER and fixed.mask == WHOLE:
            yield from self.constant(register, value)
        elif register.bank is Bank.INTEGER:
            yield from self._logic("and", register, register, ~fixed.mask)
            yield from self._logic("orr", register, register, value)
        elif register == FPSCR:
            yield insn(f"vmrs {R12}, {register}", (register,), (R12,))
            yield from self._logic("and", R12, R12, ~fixed.mask)
            yield from self._logic("orr", R12, R12, value)
            yield insn(f"vmsr {register}, {R12}", (R12,), (register,))
        else:
            raise ValueError(f"{register.name} cannot be fixed to a value")

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        base = R12 if d == SP else d
        yield self._thread_pointer(base, slot)
        yield from self.load(d, base, slot.offset, 32, signed=False)

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        yield self._thread_pointer(R12, slot)
        yield from self.store(s, R12, slot.offset, 32)

    def _thread_pointer(self, d: Register, slot: ThreadSlot) -> Insn:
        if slot.segment != "tpidruro" or not self.v7:
            raise ValueError(f"{slot.segment}: thread-local words are found from tpidruro, which came with ARMv6K")
        return insn(f"mrc p15, 0, {d}, c13, c0, 3", (), (d,))

    # -- the pass at the end

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Multiples and pairs of words, and returns that pop the program counter. Go's assembler has no pairs."""
        pairs = self.v7 and self.linkage != "go"
        return _with_returns(_with_multiples([item for item in code if not _is_idle(item[0])], pairs=pairs))

    def unwinding(self) -> Unwinding:
        from .unwinding.arm import ArmUnwinding, IndexedArmUnwinding

        return (IndexedArmUnwinding if self.indexed else ArmUnwinding)(self.registers)

    def plan9(self) -> Plan9:
        from .plan9.arm import ArmSpelling

        return ArmSpelling()


def _link_at_bottom(request: FrameRequest) -> bool:
    """Where the convention does not say, a pop of lr with others is shorter than a load of its own."""
    alone = not any(register != LR for register, _ in request.saves)
    return request.link and (request.convention.return_slot == "bottom" or (request.bottom_free and alone))


def _push_order(register: Register) -> tuple[int, int]:
    """What is pushed first comes first: core registers from lr down, then d registers, then control registers."""
    return {Bank.INTEGER: 0, Bank.FLOAT: 1}.get(register.bank, 2), -register.number


def _pushed(frame: Frame) -> tuple[list[Register], list[list[Register]], list[Register]]:
    """Core registers, runs of d registers, and control registers, each from the lowest address up."""
    at_bottom = _link_at_bottom(frame.request)
    slots = [slot for slot in frame.slots if not (at_bottom and slot.offset == 0)]
    registers = [slot.register for slot in slots if slot.register is not None]
    runs: list[list[Register]] = []
    for register in (r for r in registers if r.bank is Bank.FLOAT):
        # DDI 0406C A8.8.367: 16 at most.
        if runs and runs[-1][-1].number + 1 == register.number and len(runs[-1]) < 16:
            runs[-1].append(register)
        else:
            runs.append([register])
    integers = [r for r in registers if r.bank is Bank.INTEGER]
    return integers, runs, [r for r in registers if r.bank is Bank.CONTROL]


def _rest(frame: Frame) -> int:
    """What is left of the frame below all that is pushed."""
    at_bottom = _link_at_bottom(frame.request)
    return frame.size - sum(slot.size for slot in frame.slots if not (at_bottom and slot.offset == 0))


def _cores(registers: Sequence[Register]) -> str:
    """A list of core registers, runs of three and more as ranges."""
    runs: list[list[Register]] = []
    for register in sorted(registers, key=lambda r: r.number):
        if runs and runs[-1][-1].number + 1 == register.number:
            runs[-1].append(register)
        else:
            runs.append([register])
    names = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return "{" + ", ".join(names) + "}"


def _floats(run: Sequence[Register]) -> str:
    return f"{{{run[0]}-{run[-1]}}}" if len(run) > 1 else f"{{{run[0]}}}"


# ----------------------------------------------------------------------------------------------------------- peephole

_IDLE = re.compile(r"mov (\w+), \1|vmov\.f(?:32|64) (\w+), \2")
_POP_WITH_LINK = re.compile(r"pop \{(.*)lr\}")
_LOAD_WITH_LINK = re.compile(r"ldm sp, \{(.*)lr\}")
_RETURNS = ("bx lr", "add pc, lr, #0")
_LOAD_LINK = re.compile(r"ldr lr, (\[sp\], #\w+)")
_WORD_ACCESS = re.compile(r"(ld|st)r \w+, \[")


def _is_idle(one: Insn) -> bool:
    return one.text.startswith(("mov ", "vmov.")) and not one.user_text and _IDLE.fullmatch(one.text) is not None


def _with_returns(code: Sequence[Placed]) -> list[Placed]:
    """A pop of lr and the return behind it in one. Since ARMv5T a load of pc obeys bit 0, as bx does."""
    result: list[Placed] = []
    for item in code:
        one = item[0]
        before, place = result[-1] if result and one.transfer == "return" else (None, 0)
        if one.text in _RETURNS and before is not None and not before.user_text:
            if (loaded := _loaded(result)) is not None:
                result[-2:] = [(loaded, result[-2][1])]
                continue
            text = before.text
            if match := _POP_WITH_LINK.fullmatch(text):
                text = f"pop {{{match[1]}pc}}"
            elif match := _LOAD_LINK.fullmatch(text):
                text = f"ldr pc, {match[1]}"
            if text != before.text:
                result[-1] = replace(before, text=text, writes=before.writes - {LR}, transfer="return"), place
                continue
        result.append(item)
    return result


def _loaded(code: Sequence[Placed]) -> Insn | None:
    """A load of lr with others, and the step of the stack pointer that goes with it, as a pop of pc."""
    if len(code) < 2:
        return None
    (load, _), (step, _) = code[-2:]
    if (match := _LOAD_WITH_LINK.fullmatch(load.text)) is None or load.user_text:
        return None
    if step.text != f"add sp, sp, #{number(WORD * len(load.writes))}":
        return None
    text, writes = f"pop {{{match[1]}pc}}", load.writes - {LR} | {SP}
    return replace(load, text=text, writes=writes, transfer="return")


def _with_multiples(code: Sequence[Placed], *, pairs: bool) -> list[Placed]:
    result: list[Placed] = []
    run: list[Placed] = []
    for item in code:
        one = item[0]
        if run and not continues(run, one):
            result += _MERGED[pairs](run) if len(run) > 1 else run
            run = []
        access = None if one.user_text else one.access
        if access is not None and _WORD_ACCESS.match(one.text) and access.register != SP and access.offset % 4 == 0:
            run.append(item)
        else:
            if run:
                result += _MERGED[pairs](run) if len(run) > 1 else run
                run = []
            result.append(item)
    return result + _MERGED[pairs](run)


def _access(item: Placed) -> Access:
    assert item[0].access is not None
    return item[0].access


def _merged(run: Sequence[Placed], pairs: bool) -> list[Placed]:
    """A run with its neighbours in multiples, or in pairs.

    What lies in the frame is put in order first: nobody else looks there. Elsewhere the order of the source stays,
    for a signal handler or another thread may see it; what follows each other upwards may become one.
    """
    if run and _access(run[0]).base == SP:
        # All are whole words, so two either do not overlap or stay in their order.
        run = sorted(run, key=lambda item: _access(item).offset)
    groups: list[list[Placed]] = []
    for item in run:
        if groups and _follows(groups[-1][-1], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    result: list[Placed] = []
    for group in groups:
        multiple = _multiple(group)
        if multiple is not None:
            result.append(multiple)
        else:
            result += _in_pairs(group) if pairs else group
    return result


def _follows(first: Placed, second: Placed) -> bool:
    a, b = _access(first), _access(second)
    return a.offset + WORD == b.offset and a.register.number < b.register.number


def _multiple(group: Sequence[Placed]) -> Placed | None:
    if len(group) < 2:
        return None
    lowest, highest = _access(group[0]), _access(group[-1])
    mode = {0: "", 4: "ib"}.get(lowest.offset)
    if mode is None:
        mode = {0: "da", -4: "db"}.get(highest.offset)
    if mode is None:
        return None
    name = "ldm" if lowest.kind == "load" else "stm"
    registers = [_access(item).register for item in group]
    return _one_for(group, f"{name}{mode} {lowest.base}, {_cores(registers)}")


def _in_pairs(group: Sequence[Placed]) -> list[Placed]:
    result: list[Placed] = []
    index = 0
    while index < len(group):
        a = _access(group[index])
        b = _access(group[index + 1]) if index + 1 < len(group) else None
        even = a.register.number % 2 == 0 and a.register.number < 12
        if b is not None and even and b.register.number == a.register.number + 1 and abs(a.offset) <= 0xFF:
            name = "ldrd" if a.kind == "load" else "strd"
            text = f"{name} {a.register}, {b.register}, {_operand(a.base, a.offset)}"
            result.append(_one_for(group[index : index + 2], text))
            index += 2
        else:
            result.append(group[index])
            index += 1
    return result


def _one_for(group: Sequence[Placed], text: str) -> Placed:
    first, place = group[0]
    one = replace(
        first,
        text=text,
        reads=frozenset().union(*(insn.reads for insn, _ in group)),
        writes=frozenset().union(*(insn.writes for insn, _ in group)),
        access=None,
        comment=next((insn.comment for insn, _ in group if insn.comment), ""),
    )
    return one, place


_MERGED = [kept_by_run(partial(_merged, pairs=pairs)) for pairs in (False, True)]

TARGETS = (
    Target("linux/arm", "linux", Arm(""), "ARMv7-A, VFPv3"),
    Target("linux/arm-softfp", "linux", Arm("softfp"), "ARMv7-A, VFPv3", variant="softfp"),
    Target("linux/arm-soft", "linux", Arm("soft"), "ARMv5TE", variant="soft"),
    Target("windows/arm", "windows", Arm("", "windows"), "ARMv7-A, VFPv3"),
)
