"""arm64: AAPCS64 (Arm, 2026Q1, "the AAPCS64" below); instructions and system registers: Arm DDI 0487.

How this machine differs from the others:

* The stack pointer is a multiple of 16 whenever it is a base: every step of it is.
* A pair of registers goes to memory in one instruction, and that instruction can lower the stack too. So prologues
  and bodies here store single registers; `improve` makes the pairs, whoever stored their halves.
* d8 to d15 are kept, which is only the lower half of v8 to v15.
* sp and the number zero share an encoding: sp can be added to and compared, and little else. Whatever else is
  asked of it goes through x16 or x17.
* Go keeps the return address at 0(sp), and C's rules do not say where. Where nothing else of a C frame is there, it is
  put at 0(sp) as well: the store that lowers the stack then has something to store.

    CFA, the caller's sp ->  +---------------------------+
                             | padding to 16             |
                             | whole vector registers    |
                             | control registers         |
                             | d registers               |
                             | x registers               |
                             | return address, if not    |
                             |   at the bottom           |
                             | body                      |
                             | return address            |
    sp                   ->  +---------------------------+
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from trampoline_dsl.target import (
    IMAGE_BASE,
    STRAIGHT_ON,
    Access,
    Architecture,
    Arrival,
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
    SystemCalls,
    Target,
    ThreadSlot,
    Unwinding,
    ValueType,
    aligned,
    continues,
    in_part,
    insn,
    kept_by_run,
    property_note,
    signed,
    signed_field,
    spelled,
    system_calls,
)

from .baselines.arm64 import ARM64
from .go import REGISTERS, REGISTERS_SOURCE, assign_go0, assign_goregs

WORD = 8
ENTRY = 8  # bytes of an entry of a table
WHOLE = (1 << 64) - 1

# ----------------------------------------------------------------------------------------------------------- registers

_ROLES = {16: ("ip0",), 17: ("ip1",), 29: ("fp",), 30: ("lr",)}
X = tuple(Register(f"x{n}", Bank.INTEGER, 64, f"x{n}", n, (f"w{n}", *_ROLES.get(n, ()))) for n in range(31))
SP = Register("sp", Bank.INTEGER, 64, "sp", 31)
ZERO = Register("xzr", Bank.INTEGER, 64, "xzr", 31)  # as the operand of a store, what sp is as a base
V = tuple(Register(f"v{n}", Bank.FLOAT, 128, f"v{n}", n, (f"q{n}", f"d{n}", f"s{n}")) for n in range(32))
NZCV = Register("nzcv", Bank.CONTROL, 32, "nzcv", 0)
FPCR = Register("fpcr", Bank.CONTROL, 64, "fpcr", 0)
FPSR = Register("fpsr", Bank.CONTROL, 64, "fpsr", 0)
THREAD_POINTER = Register("tpidr_el0", Bank.CONTROL, 64, "tpidr_el0", 0)

IP0, IP1, PLATFORM, FRAME_POINTER, LINK = X[16], X[17], X[18], X[29], X[30]

_REGISTERS: Mapping[str, Register] = {
    name: register
    for register in (*X, SP, *V, NZCV, FPCR, FPSR, THREAD_POINTER)
    for name in (register.name, *register.aliases)
}

# DDI 0487, "FPCR, Floating-point Control Register": AHP 26, DN 25, FZ 24, RMode 23:22, FZ16 19, the trap enables
# IDE 15, IXE 12, UFE 11, OFE 10, DZE 9, IOE 8, and NEP 2, AH 1, FIZ 0. Stride and Len mean nothing in AArch64 state.
FPCR_CONTROL = 0x07C8_9F07

# ---------------------------------------------------------------------------------------------------------- conventions


def assign_c(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """AAPCS64, "Parameter passing rules" and "Result return": two independent sequences, then slots of 8 bytes.

    Nobody but the one who uses it widens a value: above its own bits, register and slot are undefined.
    """
    integers = iter(convention.integer_arguments)
    floats = iter(convention.float_arguments)
    top = convention.first_stack_argument
    places: list[Location] = []
    for value in arguments:
        register = next(floats if value.kind == "float" else integers, None)
        if register is not None:
            places.append((Part(InRegister(register), 0, value.bits),))
            continue
        places.append((Part(OnStack(top), 0, value.bits),))
        top += convention.slot
    if result is None:
        return Assignment(tuple(places), (), top)
    registers = convention.float_results if result.kind == "float" else convention.integer_results
    return Assignment(tuple(places), (Part(InRegister(registers[0]), 0, result.bits),), top)


_EVERYWHERE_KEPT = {FPCR: FPCR_CONTROL, PLATFORM: WHOLE, THREAD_POINTER: WHOLE}
_EVERYWHERE_RESERVED = {
    SP: "the stack pointer",
    PLATFORM: "the platform register",
    THREAD_POINTER: "the thread pointer",
}
_PLATFORM_NOTE = (
    "scratch by the letter, but a shadow call stack may live in it: nobody touches it, so it counts as kept "
    '(AAPCS64, "General-purpose registers", note on the platform register)'
)

C = Convention(
    name="c",
    title="AAPCS64",
    source="Procedure Call Standard for the Arm 64-bit Architecture, 2026Q1",
    integer_arguments=X[0:8],
    float_arguments=V[0:8],
    integer_results=X[0:2],
    float_results=V[0:4],
    assign=assign_c,
    first_stack_argument=0,
    slot=WORD,
    kept=dict.fromkeys((*X[19:30], *V[8:16]), WHOLE) | _EVERYWHERE_KEPT,
    fixed=(),
    reserved=_EVERYWHERE_RESERVED,
    alignment=16,
    red_zone=0,
    area=0,
    save_area={},
    back_chain=False,
    callee_pops=False,
    return_address=LINK,
    return_slot="none",
    call_through=None,
    descriptors=False,
    toc_slot=None,
    thread=None,
    scratch=(IP0, IP1),
    linker_may_write=(IP0, IP1),
    frame_pointer=X[29],
    notes={
        "x16": 'x16 and x17 belong to PLTs and veneers at every call (AAPCS64, "Use of IP0 and IP1 by the linker")',
        "x18": _PLATFORM_NOTE,
        "x29": 'the frame pointer: kept like x19 to x28, and left alone so that the chain holds (AAPCS64, "The frame '
        'pointer")',
        "v8": 'v8 to v15 are kept in their lower 64 bits only (AAPCS64, "SIMD and floating-point registers")',
        "fpcr": 'modes and trap enables are the process\'s (AAPCS64, "SIMD and floating-point registers"); bits: DDI '
        '0487, "FPCR"',
        "fpsr": "its cumulative flags are results",
        "nzcv": "undefined at entry and return",
        "alignment": 'AAPCS64, "Stack constraints at a public interface"; the hardware checks it too',
        "red zone": 'none: data lives at sp and above (AAPCS64, "Universal stack constraints")',
        "SME": "PSTATE.SM is 0 and ZA off or dormant at both ends: code for the baseline cannot change them",
    },
)

GO0 = Convention(
    name="go0",
    title="Go's stack convention, ABI0",
    source="cmd/internal/obj/arm64/a.out.go; cmd/compile/abi-internal.md, section on arm64",
    integer_arguments=(),
    float_arguments=(),
    integer_results=(),
    float_results=(),
    assign=partial(assign_go0, word=WORD),
    first_stack_argument=8,
    slot=1,
    kept={FRAME_POINTER: WHOLE} | _EVERYWHERE_KEPT,
    fixed=(),
    reserved={**_EVERYWHERE_RESERVED, X[27]: "the temporary of Go's assembler", FRAME_POINTER: "the frame pointer"},
    alignment=16,
    red_zone=0,
    area=0,
    save_area={},
    back_chain=False,
    callee_pops=False,
    return_address=LINK,
    return_slot="bottom",
    call_through=None,
    descriptors=False,
    toc_slot=None,
    thread=X[28],
    scratch=(IP0, IP1),
    linker_may_write=(IP0, IP1),
    frame_pointer=X[29],
    notes={
        "return address": "a function that calls keeps it at 0(sp), where Go's traceback looks",
        "x18": _PLATFORM_NOTE,
        "x27": "REGTMP: Go's assembler writes it for large offsets and constants",
        "x29": "Go's functions keep it, in the word below their sp",
        "fpcr": "Go never changes modes",
    },
)

GOREGS = GO0.derive(
    name="goregs",
    go_abi="ABIInternal",
    title=REGISTERS,
    source=REGISTERS_SOURCE,
    integer_arguments=X[0:16],
    float_arguments=V[0:16],
    integer_results=X[0:16],
    float_results=V[0:16],
    assign=assign_goregs,
    notes=dict(GO0.notes) | {"x26": "the closure's context, in calls of closures"},
)

_CONVENTIONS: Mapping[str, Convention] = {"c": C, "go0": GO0, "goregs": GOREGS}

_WINDOWS_NOTES = {
    "x18": 'the address of the thread\'s TEB: reserved (Microsoft Learn, "Overview of ARM64 ABI conventions", "Integer '
    'registers")',
    "red zone": 'the 16 bytes below sp are not overwritten by exceptions (Microsoft Learn, "Overview of ARM64 ABI '
    'conventions", "Red zone"). Code from here never uses them',
}
_WINDOWS_RESERVED = {PLATFORM: "the thread's TEB"}
WINDOWS_C = C.derive(
    title="Microsoft ARM64",
    source='Microsoft Learn, "Overview of ARM64 ABI conventions", which is AAPCS64 but for variadic functions',
    reserved={**C.reserved, **_WINDOWS_RESERVED},
    red_zone=16,
    notes={
        **{topic: note for topic, note in C.notes.items() if topic != "SME"},
        **_WINDOWS_NOTES,
        "variadic": "a variadic function takes all its arguments in x0 to x7 and in memory, none in v registers",
    },
)


def _same(name: str) -> Convention:
    """What the compilers make of a 386 convention's name: they take it, and mean the one convention that there is."""
    return WINDOWS_C.derive(name=name, title=f"Microsoft ARM64, which {name} means here")


WINDOWS_GO0 = GO0.derive(
    reserved={**GO0.reserved, **_WINDOWS_RESERVED}, red_zone=16, notes={**GO0.notes, **_WINDOWS_NOTES}
)
WINDOWS_GOREGS = GOREGS.derive(
    reserved={**GOREGS.reserved, **_WINDOWS_RESERVED}, red_zone=16, notes={**GOREGS.notes, **_WINDOWS_NOTES}
)
_WINDOWS = (WINDOWS_C, *map(_same, ("stdcall", "fastcall", "thiscall")), WINDOWS_GO0, WINDOWS_GOREGS)

# winnt.h of the Windows SDK, struct _ARM64_NT_CONTEXT.
CONTEXT = ContextRecord(
    size=912,
    alignment=16,
    registers={
        NZCV: (0x4, 4),
        **{register: (0x8 + 8 * n, 8) for n, register in enumerate(X)},
        SP: (0x100, 8),
        **{register: (0x110 + 16 * n, 16) for n, register in enumerate(V)},
        FPCR: (0x310, 4),
        FPSR: (0x314, 4),
    },
    pc=0x108,
    flags=0,
    full=0x400007,  # CONTEXT_ARM64: control, integer, floating point
    source="winnt.h, struct _ARM64_NT_CONTEXT",
)

# -------------------------------------------------------------------------------------------------- instruction pieces

# ELF for the Arm 64-bit Architecture, "Static AArch64 relocations".
_FIXUPS: Mapping[str, Fixup] = {
    "R_AARCH64_CALL26": Fixup(4, 0x03FFFFFF, shift=2, pc_relative=True),
    "R_AARCH64_JUMP26": Fixup(4, 0x03FFFFFF, shift=2, pc_relative=True),
    # The two low bits of a page number lie apart from the rest.
    "R_AARCH64_ADR_PREL_PG_HI21": Fixup(
        4, 0x60FFFFE0, shift=12, pc_relative=True, scatter=((0x60000000, 0), (0x00FFFFE0, 2))
    ),
    "R_AARCH64_ADD_ABS_LO12_NC": Fixup(4, 0x003FFC00),
    "R_AARCH64_LDST8_ABS_LO12_NC": Fixup(4, 0x003FFC00),
    "R_AARCH64_LDST16_ABS_LO12_NC": Fixup(4, 0x001FFC00, shift=1),
    "R_AARCH64_LDST32_ABS_LO12_NC": Fixup(4, 0x000FFC00, shift=2),
    "R_AARCH64_LDST64_ABS_LO12_NC": Fixup(4, 0x0007FC00, shift=3),
    # ELF for the Arm 64-bit Architecture, 5.7.9: G(GDAT(S + A)).
    "R_AARCH64_ADR_GOT_PAGE": Fixup(
        4, 0x60FFFFE0, shift=12, pc_relative=True, scatter=((0x60000000, 0), (0x00FFFFE0, 2)), got=True
    ),
    "R_AARCH64_LD64_GOT_LO12_NC": Fixup(4, 0x0007FC00, shift=3, got=True),
    "R_AARCH64_ABS64": Fixup(8, WHOLE),
    "R_AARCH64_ABS32": Fixup(4, 0xFFFFFFFF),
    "R_AARCH64_PREL64": Fixup(8, WHOLE, pc_relative=True),
    "R_AARCH64_PREL32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
    # What is not of our own making.
    "R_AARCH64_TSTBR14": Fixup(4, 0x0007FFE0, shift=2, pc_relative=True),
    "R_AARCH64_CONDBR19": Fixup(4, 0x00FFFFE0, shift=2, pc_relative=True),
    "R_AARCH64_LD_PREL_LO19": Fixup(4, 0x00FFFFE0, shift=2, pc_relative=True),
    "R_AARCH64_ADR_PREL_LO21": Fixup(4, 0x60FFFFE0, pc_relative=True, scatter=((0x60000000, 0), (0x00FFFFE0, 2))),
    "R_AARCH64_ADR_PREL_PG_HI21_NC": Fixup(
        4, 0x60FFFFE0, shift=12, pc_relative=True, scatter=((0x60000000, 0), (0x00FFFFE0, 2))
    ),
    "R_AARCH64_LDST128_ABS_LO12_NC": Fixup(4, 0x0003FC00, shift=4),
    **{f"R_AARCH64_MOVW_UABS_G{n}": Fixup(4, 0x001FFFE0, shift=16 * n) for n in range(4)},
    **{f"R_AARCH64_MOVW_UABS_G{n}_NC": Fixup(4, 0x001FFFE0, shift=16 * n) for n in range(3)},
    "R_AARCH64_ABS16": Fixup(2, 0xFFFF),
    "R_AARCH64_PREL16": Fixup(2, 0xFFFF, pc_relative=True),
}

# PE Format, "Type Indicators", ARM64 Processors.
_COFF_FIXUPS: Mapping[str, Fixup] = {
    "IMAGE_REL_ARM64_BRANCH26": Fixup(4, 0x03FFFFFF, shift=2, pc_relative=True, in_place=True),
    "IMAGE_REL_ARM64_PAGEBASE_REL21": Fixup(
        4, 0x60FFFFE0, shift=12, pc_relative=True, scatter=((0x60000000, 0), (0x00FFFFE0, 2)), in_place=True
    ),
    "IMAGE_REL_ARM64_PAGEOFFSET_12A": Fixup(4, 0x003FFC00, in_place=True),
    "IMAGE_REL_ARM64_PAGEOFFSET_12L": Fixup(4, 0x003FFC00, in_place=True, scaled=True),
    "IMAGE_REL_ARM64_ADDR64": Fixup(8, WHOLE, in_place=True),
    "IMAGE_REL_ARM64_ADDR32": Fixup(4, 0xFFFFFFFF, in_place=True),
    "IMAGE_REL_ARM64_ADDR32NB": Fixup(4, 0xFFFFFFFF, in_place=True, base=IMAGE_BASE),
    "IMAGE_REL_ARM64_BRANCH19": Fixup(4, 0x00FFFFE0, shift=2, pc_relative=True, in_place=True),
    "IMAGE_REL_ARM64_BRANCH14": Fixup(4, 0x0007FFE0, shift=2, pc_relative=True, in_place=True),
}
_COFF_NAMES: Mapping[str, str] = {
    "R_AARCH64_CALL26": "IMAGE_REL_ARM64_BRANCH26",
    "R_AARCH64_JUMP26": "IMAGE_REL_ARM64_BRANCH26",
    "R_AARCH64_ADR_PREL_PG_HI21": "IMAGE_REL_ARM64_PAGEBASE_REL21",
    "R_AARCH64_ADD_ABS_LO12_NC": "IMAGE_REL_ARM64_PAGEOFFSET_12A",
    **{f"R_AARCH64_LDST{bits}_ABS_LO12_NC": "IMAGE_REL_ARM64_PAGEOFFSET_12L" for bits in (8, 16, 32, 64)},
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

# (bits, signed): mnemonic behind "ld" and the letter of the target register
_LOADS: Mapping[tuple[int, bool], tuple[str, str]] = {
    (8, False): ("rb", "w"),
    (8, True): ("rsb", "x"),
    (16, False): ("rh", "w"),
    (16, True): ("rsh", "x"),
    (32, False): ("r", "w"),
    (32, True): ("rsw", "x"),
    (64, False): ("r", "x"),
    (64, True): ("r", "x"),
}
_STORES: Mapping[int, tuple[str, str]] = {8: ("rb", "w"), 16: ("rh", "w"), 32: ("r", "w"), 64: ("r", "x")}
_SCALARS: Mapping[int, str] = {32: "s", 64: "d", 128: "q"}


def number(value: int) -> str:
    """Hexadecimal from 10 on: Keystone may take a bare 16 for 0x16."""
    return str(value) if abs(value) < 10 else f"{value:#x}"


def _control_bits(register: Register) -> int:
    """How many bits of a control register there are to save: the upper half of FPCR and FPSR is 0 (DDI 0487)."""
    return 64 if register == THREAD_POINTER else 32


def narrow(register: Register, letter: str) -> str:
    """The register under the name that its use at this width has: w5, d8, q8, xzr."""
    return f"{letter}zr" if register is ZERO else f"{letter}{register.number}"


def is_pattern(value: int, bits: int = 64) -> bool:
    """Whether a logical instruction can hold `value`: DDI 0487, "DecodeBitMasks", a rotated run of ones, repeated."""
    if value in (0, (1 << bits) - 1):
        return False
    size = bits
    while size > 2 and value & ((1 << size // 2) - 1) == value >> size // 2 & ((1 << size // 2) - 1):
        size //= 2
        value &= (1 << size) - 1
    # A rotated run has one step up and one down on the way around.
    rotated = value >> 1 | (value & 1) << (size - 1)
    return (value ^ rotated).bit_count() == 2


def _in_one(value: int) -> bool:
    """Whether one instruction makes this constant, as `mov` or, for a 32-bit one, as `mov` of a w register."""
    halves = [value >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    few = sum(half != 0 for half in halves) <= 1 or sum(half != 0xFFFF for half in halves) <= 1
    return few or is_pattern(value) or _in_one_word(value)


def _in_one_word(value: int) -> bool:
    return value >> 32 == 0 and (0xFFFF in (value >> 16, value & 0xFFFF) or is_pattern(value, 32))


def _temporary(*taken: Register | int) -> Register:
    return IP1 if IP0 in taken else IP0


# -------------------------------------------------------------------------------------------------------- the machine

# What an `ldp` or `stp` of d or x registers reaches.
_PAIR_REACH = 504
# What an `ldr` or `str` of a d or x register reaches, less than a page of it.
_SINGLE_REACH = 0x7000


# arch/arm64/kernel/signal.c: struct rt_sigframe is siginfo (128 bytes) and ucontext (4560); a frame record is above it,
# which x29 points to.
SIGNALS = SignalFrame(
    "arch/arm64/kernel/signal.c, setup_rt_frame and sys_rt_sigreturn",
    size=128 + 4560,
    info=0,
    context=128,
    alignment=16,
    number=139,
    restorer="taken",
    record=(X[29], X[30]),
)


_FEATURES = 0xC0000000  # GNU_PROPERTY_AARCH64_FEATURE_1_AND
# DDI 0487, "BTI", "PACIASP", "PACIBSP": what lands each way in. (Linux has SCTLR_EL1.BT0 set: no PACIASP for a jump.)
_BTI_C, _BTI_J, _BTI_JC, _PACIASP, _PACIBSP = 0xD503245F, 0xD503249F, 0xD50324DF, 0xD503233F, 0xD503237F
_CALLED = frozenset((_BTI_C, _BTI_JC, _PACIASP, _PACIBSP))
_PADS: dict[Arrival, frozenset[int]] = {
    "call": _CALLED,
    "jump": frozenset((_BTI_J, _BTI_JC)),
    "either": _CALLED | {_BTI_J},
}


class Arm64(Architecture):
    """AArch64 state, little-endian."""

    name = "arm64"
    extensions = ARM64
    family = "arm64"
    machines: Mapping[str, int] = {"elf": 183, "macho": 0x0100000C}
    linkages: tuple[Linkage, ...] = ("static", "pic", "go")
    word = WORD
    order = "little"
    engines = Engines(
        keystone_arch="KS_ARCH_ARM64",
        keystone_mode=("KS_MODE_LITTLE_ENDIAN",),
        unicorn_arch="UC_ARCH_ARM64",
        unicorn_mode=("UC_MODE_ARM",),
        unicorn_cpu="UC_CPU_ARM64_A72",
        capstone_arch="CS_ARCH_ARM64",
        capstone_mode=("CS_MODE_ARM",),
    )
    registers = _REGISTERS
    sp = SP
    zero = ZERO
    flags = NZCV
    signals: SignalFrame | None = SIGNALS
    system_calls: SystemCalls | None = system_calls(
        C,
        _REGISTERS.values(),
        (X[8], *X[0:6]),
        X[0],
        (),
        "Linux, arch/arm64/kernel/entry.S, el0t_64_sync; syscall(2)",
    )
    two_address = False
    header = (".arch armv8-a",)
    hosts = ("aarch64",)
    comment = "//"

    def __init__(self, system: Literal["linux", "windows"] = "linux") -> None:
        if system == "linux":
            self.conventions = _CONVENTIONS
            self.fixups = _FIXUPS
            self.gnu_as = ("aarch64-linux-gnu-as", "-march=armv8-a")
            self.clang = ("--target=aarch64-linux-gnu", "-march=armv8-a")
            return
        self.conventions = {convention.name: convention for convention in _WINDOWS}
        self.fixups = _COFF_FIXUPS
        self.object_format = "coff"
        self.machines = {"pe": 0xAA64}
        self.linkages = ("static", "go")
        self.signals, self.system_calls, self.context_record = None, None, CONTEXT
        # GNU as has no COFF for this machine; LLVM reads the same text.
        self.clang = ("--target=aarch64-windows-gnu",)
        self.gnu_as = ("clang-14", *self.clang, "-c", "-x", "assembler")

    def relocation(self, kind: str, symbol: str) -> Relocation:
        """A relocation, by its name in ELF."""
        return Relocation(_COFF_NAMES[kind] if self.object_format == "coff" else kind, symbol)

    # -- foreign machine code

    def control(self, code: bytes, text: str, address: int) -> Control:
        """Arm Architecture Reference Manual for A-profile (DDI 0487), C4.1.66, "Branches, Exception Generating and
        System instructions"."""
        word = int.from_bytes(code, "little")
        if word & 0x7C000000 == 0x14000000:
            return Control("call" if word >> 31 else "jump", address + 4 * signed_field(word, 0, 26))
        if word & 0xFF000000 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, bc.cond; cbz, cbnz
            return Control("branch", address + 4 * signed_field(word, 5, 19))
        if word & 0x7E000000 == 0x36000000:  # tbz, tbnz
            return Control("branch", address + 4 * signed_field(word, 5, 14))
        if word & 0xFE1F0000 == 0xD61F0000:
            # Bit 24 is set in those with pointer authentication and a modifier.
            kind = word >> 21 & 7
            if kind == 0:
                return Control("return" if word >> 5 & 31 == LINK.number else "jump")
            return Control("call") if kind == 1 else Control("return")
        if word & 0xFFE0001F in (0xD4000001, 0xD4000002, 0xD4000003):
            return Control("system")
        if word & 0xFFE0001F in (0xD4200000, 0xD4400000) or word >> 16 == 0:  # brk, hlt, udf
            return Control("trap")
        return STRAIGHT_ON

    # -- which registers values may live in

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        # Those first that carry no argument and need no save. x29 never: whoever walks the frames relies on it.
        order = (*X[9:16], X[8], *reversed(X[0:8]), *X[19:29])
        return convention.leaves(order)

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        order = (*V[16:32], *reversed(V[0:8]), *V[8:16])
        return convention.leaves(order)

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        yield insn(f"mov {d}, {s}", (s,), (d,))

    def constant(self, d: Register, value: int) -> Code:
        value &= WHOLE
        if d == SP:
            yield from self.constant(IP0, value)
            yield from self.move(SP, IP0)
            return
        if _in_one(value):
            of_word = _in_one_word(value)
            name = narrow(d, "w") if of_word else d
            yield insn(f"mov {name}, #{number(value if of_word else _readable(value))}", (), (d,))
            return
        halves = [(shift, value >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
        idle = 0xFFFF if sum(half == 0xFFFF for _, half in halves) > sum(half == 0 for _, half in halves) else 0
        (shift, first), *rest = [(shift, half) for shift, half in halves if half != idle]
        lead = "movn" if idle else "movz"
        yield insn(f"{lead} {d}, #{number(first ^ idle)}{_shifted(shift)}", (), (d,))
        for shift, half in rest:
            yield insn(f"movk {d}, #{number(half)}{_shifted(shift)}", (d,), (d,))

    def symbol_address(self, d: Register, symbol: str) -> Code:
        name = spelled(symbol)
        if self.linkage == "pic":
            yield replace(
                insn(f"adrp {d}, :got:{name}", (), (d,)),
                relocation=Relocation("R_AARCH64_ADR_GOT_PAGE", symbol),
                keystone=f"adrp {d}, 0x0",
            )
            yield replace(
                insn(f"ldr {d}, [{d}, :got_lo12:{name}]", (d,), (d,), memory="read"),
                relocation=Relocation("R_AARCH64_LD64_GOT_LO12_NC", symbol),
                keystone=f"ldr {d}, [{d}]",
            )
            return
        yield replace(
            insn(f"adrp {d}, {name}", (), (d,)),
            relocation=self.relocation("R_AARCH64_ADR_PREL_PG_HI21", symbol),
            keystone=f"adrp {d}, 0x0",
        )
        yield replace(
            insn(f"add {d}, {d}, :lo12:{name}", (d,), (d,)),
            relocation=self.relocation("R_AARCH64_ADD_ABS_LO12_NC", symbol),
            keystone=f"add {d}, {d}, #0",
        )

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if self.linkage != "static":  # one word for the address, which is split where it is linked
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        page, _ = self.symbol_address(d, symbol)
        yield page
        name, letter = _LOADS[bits, signed]
        text = f"ld{name} {narrow(d, letter)}, [{d}"
        yield replace(
            insn(f"{text}, :lo12:{spelled(symbol)}]", (d,), (d,), memory="read"),
            relocation=self.relocation(f"R_AARCH64_LDST{bits}_ABS_LO12_NC", symbol),
            keystone=f"{text}]",
        )

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        if d == SP:
            yield from self.load(IP0, base, offset, bits, signed)
            yield from self.move(SP, IP0)
            return
        name, letter = _LOADS[bits, signed]
        yield from self._transfer("load", name, letter, d, base, offset, bits // 8)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        if s == SP:
            s = _temporary(base)
            yield from self.move(s, SP)
        name, letter = _STORES[bits]
        yield from self._transfer("store", name, letter, s, base, offset, bits // 8)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if bits == 128:
            yield insn(f"mov {d}.16b, {s}.16b", (s,), (d,))
            return
        letter = _SCALARS[bits]
        yield insn(f"fmov {narrow(d, letter)}, {narrow(s, letter)}", (s,), (d,))

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._transfer("load", "r", _SCALARS[bits], d, base, offset, bits // 8)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._transfer("store", "r", _SCALARS[bits], s, base, offset, bits // 8)

    def _transfer(
        self,
        kind: Literal["load", "store"],
        name: str,
        letter: str,
        register: Register,
        base: Register,
        offset: int,
        size: int,
    ) -> Code:
        """One load or store: `name` is the mnemonic behind "ld" or "st"."""
        place = yield from self._place(base, offset, size, register if kind == "store" else base)
        mnemonic = f"{'ld' if kind == 'load' else 'st'}{'u' if place.unscaled else ''}{name}"
        reads = place.reads if kind == "load" else (*place.reads, register)
        yield insn(
            f"{mnemonic} {narrow(register, letter)}, {place.text}",
            reads,
            (register,) if kind == "load" else (),
            "read" if kind == "load" else "write",
            Access(kind, register, base, offset, size) if place.reads == (base,) else None,
        )

    def _place(self, base: Register, offset: int, size: int, busy: Register) -> Generator[Insn, None, _Place]:
        """The operand for `offset` from `base`, after what it takes to reach it. `busy` is about to be stored."""
        if 0 <= offset < 0x1000 * size and offset % size == 0:
            return _Place(_operand(base, offset), (base,))
        if -0x100 <= offset < 0x100:
            return _Place(_operand(base, offset), (base,), unscaled=True)
        temporary = _temporary(base, busy)
        low = offset & 0xFFF
        high = offset - low
        if not _in_one(offset & WHOLE) and abs(high) < 0x1000000 and low % size == 0:
            yield from self._add(temporary, base, high)
            return _Place(_operand(temporary, low), (temporary,))
        yield from self.constant(temporary, offset)
        return _Place(f"[{base}, {temporary}]", (base, temporary))

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        if op in ("add", "sub"):
            if isinstance(b, int):
                yield from self._add(d, a, signed(b if op == "add" else -b, 64))
            elif b == SP and op == "add" and a != SP:
                yield insn(f"add {d}, {SP}, {a}", (a, SP), (d,))
            else:
                b = yield from self._not_sp(b, IP1)
                yield insn(f"{op} {d}, {a}, {b}", (a, b), (d,))
            return
        a = yield from self._not_sp(a, IP0)
        if isinstance(b, Register):
            b = yield from self._not_sp(b, IP1)
        if d == SP and not (op == "and" and isinstance(b, int) and is_pattern(b & WHOLE)):
            yield from self.binary(op, IP0, a, b)
            yield from self.move(SP, IP0)
            return
        match op:
            case "and" | "or" | "xor":
                yield from self._logic({"and": "and", "or": "orr", "xor": "eor"}[op], d, a, b)
            case "shl" | "shr" | "sar":
                name = {"shl": "lsl", "shr": "lsr", "sar": "asr"}[op]
                if isinstance(b, Register):
                    yield insn(f"{name} {d}, {a}, {b}", (a, b), (d,))
                elif b % 64:
                    yield insn(f"{name} {d}, {a}, #{number(b % 64)}", (a,), (d,))
                else:
                    yield from self.move(d, a)
            case "mul":
                if isinstance(b, int):
                    value, b = b, _temporary(a)
                    yield from self.constant(b, value)
                yield insn(f"mul {d}, {a}, {b}", (a, b), (d,))

    def _not_sp(self, register: Register, instead: Register) -> Generator[Insn, None, Register]:
        if register != SP:
            return register
        yield from self.move(instead, SP)
        return instead

    def _add(self, d: Register, a: Register, value: int) -> Code:
        """`d = a + value`, `value` signed."""
        name, size = ("add", value) if value >= 0 else ("sub", -value)
        if self.linkage == "go" and d == SP != a:
            # Go's assembler takes any addition to the stack pointer for a step of it, whatever it is added to.
            yield from self._add(IP0, a, value)
            yield from self.move(SP, IP0)
        elif size == 0:
            yield from self.move(d, a)
        elif size < 0x1000:
            yield insn(f"{name} {d}, {a}, #{number(size)}", (a,), (d,))
        elif size < 0x1000000 and size & 0xFFF == 0:
            yield insn(f"{name} {d}, {a}, #{number(size >> 12)}, lsl #0xc", (a,), (d,))
        elif size < 0x1000000:
            yield from self._add(d, a, size & 0xFFF000 if name == "add" else -(size & 0xFFF000))
            yield from self._add(d, d, size & 0xFFF if name == "add" else -(size & 0xFFF))
        else:
            temporary = _temporary(a)
            yield from self.constant(temporary, size)
            yield insn(f"{name} {d}, {a}, {temporary}", (a, temporary), (d,))

    def _logic(self, name: str, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, int):
            b &= WHOLE
            if b == (0 if name != "and" else WHOLE):
                yield from self.move(d, a)
            elif b == 0:
                yield from self.constant(d, 0)
            elif b == WHOLE and name == "orr":
                yield from self.constant(d, WHOLE)
            elif b == WHOLE:
                yield insn(f"mvn {d}, {a}", (a,), (d,))
            elif is_pattern(b):
                yield insn(f"{name} {d}, {a}, #{number(b)}", (a,), (d,))
            else:
                temporary = _temporary(a)
                yield from self.constant(temporary, b)
                yield from self._logic(name, d, a, temporary)
            return
        yield insn(f"{name} {d}, {a}, {b}", (a, b), (d,))

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if signed:
            name = {8: "sxtb", 16: "sxth", 32: "sxtw"}[bits]
            yield insn(f"{name} {d}, {narrow(s, 'w')}", (s,), (d,))
        else:
            name = {8: "uxtb", 16: "uxth", 32: "mov"}[bits]
            yield insn(f"{name} {narrow(d, 'w')}, {narrow(s, 'w')}", (s,), (d,))

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        if isinstance(b, int):
            value = signed(b, 64)
            zero: str | None = None
            if value == 0 and a != SP:
                # Unsigned, nothing is below zero.
                zero = {"eq": "cbz", "ule": "cbz", "ne": "cbnz", "ugt": "cbnz"}.get(condition)
            if zero is not None:
                yield Insn(f"{zero} {a}, {label}", frozenset((a,)), transfer="branch", target=label)
                return
            yield from self._compare(a, value)
        else:
            b = yield from self._not_sp(b, _temporary(a))
            yield insn(f"cmp {a}, {b}", (a, b), (NZCV,))
        yield Insn(f"b.{_CONDITIONS[condition]} {label}", frozenset((NZCV,)), transfer="branch", target=label)

    def _compare(self, a: Register, value: int) -> Code:
        name, size = ("cmp", value) if value >= 0 else ("cmn", -value)
        if size < 0x1000:
            yield insn(f"{name} {a}, #{number(size)}", (a,), (NZCV,))
        elif size < 0x1000000 and size & 0xFFF == 0:
            yield insn(f"{name} {a}, #{number(size >> 12)}, lsl #0xc", (a,), (NZCV,))
        else:
            temporary = _temporary(a)
            yield from self.constant(temporary, value)
            yield insn(f"cmp {a}, {temporary}", (a, temporary), (NZCV,))

    def jump(self, label: str) -> Code:
        yield Insn(f"b {label}", transfer="jump", target=label)

    def call(self, symbol: str, callee: Convention) -> Code:
        yield Insn(
            f"bl {spelled(symbol)}",
            writes=frozenset((LINK,)),
            transfer="call",
            relocation=self.relocation("R_AARCH64_CALL26", symbol),
            keystone="bl 0x0",
        )

    def call_register(self, address: Register, callee: Convention) -> Code:
        yield Insn(f"blr {address}", frozenset((address,)), frozenset((LINK,)), transfer="call")

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        yield Insn(
            f"b {spelled(symbol)}",
            transfer="jump",
            relocation=self.relocation("R_AARCH64_JUMP26", symbol),
            keystone="b 0x0",
        )

    def jump_register(self, address: Register, callee: Convention) -> Code:
        yield Insn(f"br {address}", frozenset((address,)), transfer="jump")

    def tail_call_register(self, address: Register, callee: Convention) -> Code:
        if self.protect and address not in (IP0, IP1):
            # What is called by its address is entered by a jump through these two only: DDI 0487, "BR" and "BTI".
            way = _temporary(*callee.integer_arguments)
            yield from self.move(way, address)
            address = way
        yield from self.jump_register(address, callee)

    # -- protection of control flow

    why_no_protection = ""

    def landing_pad(self) -> Code:
        """DDI 0487, "BTI": an instruction of Armv8.5, and one that does nothing before."""
        yield Insn("bti c", keystone="hint #34")

    def arrival(self, insn: Insn) -> Arrival | None:
        """DDI 0487, D8.4.5 "PSTATE.BTYPE": it is set by BLR and BR, and not by RET."""
        if insn.text.startswith("blr "):
            return "call"
        if insn.text.startswith("br "):
            return "either" if insn.text in (f"br {IP0}", f"br {IP1}") else "jump"
        return None

    def lands(self, code: bytes, arrival: Arrival) -> bool:
        return int.from_bytes(code[:4], "little") in _PADS[arrival]

    def property_note(self, paired: bool) -> Iterable[str]:
        """AAELF64, "Program Property": bit 0 is BTI. COFF has no such note."""
        return property_note(_FEATURES, 1, WORD) if self.object_format == "elf" else ()

    def promises(self, properties: Mapping[int, int]) -> tuple[bool, bool]:
        """Bit 2 is GCS, shadow stacks."""
        value = properties.get(_FEATURES, 0)
        return bool(value & 1), bool(value & 4)

    def far_jump(self, symbol: str) -> Code:
        # Through the doubleword behind it, by way of IP0. DDI 0487, "LDR (literal)", 64 bits: imm19 is 2 words.
        yield replace(
            insn(f"ldr {IP0}, .+8", (), (IP0,)), memory="read", keystone=f".long {0x58000040 | IP0.number:#x}"
        )
        yield from self.jump_register(IP0, self.conventions["c"])
        address = self.relocation("R_AARCH64_ABS64", symbol)
        yield Insn(f".xword {spelled(symbol)}", relocation=address, keystone=".quad 0")

    def trap(self) -> Code:
        """DDI 0487, "BRK": a Breakpoint Instruction exception, with the number that GCC gives it."""
        yield Insn("brk #0x3e8", memory="both", transfer="trap")

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(X[8], number)
        yield self.kernel_entry("svc #0")

    # -- tables of entries

    homes_below = True

    def table_register(self, convention: Convention) -> Register:
        return X[12]

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        # Spelt out, for to assemble thousands of them one by one takes longer than all the rest of a build.
        # DDI 0487, "MOVZ", 32 bits: imm16 in bits 5-20.
        code = 0x52800000 | index << 5 | X[12].number
        yield Insn(f"mov w12, #{number(index)}", writes=frozenset((X[12],)), keystone=f".long {code:#x}")
        yield from self.tail_call(symbol, convention)

    def table(self, count: int, symbol: str, convention: Convention) -> tuple[list[tuple[Insn, ...]], tuple[Insn, ...]]:
        entries, behind = super().table(count, symbol, convention)
        if not self.protect:
            return entries, behind
        # A landing pad leaves room for a jump, to what would be the entry, as far away for each of them.
        distance = ENTRY * count - 4
        away = Insn(f"b .+{number(distance)}", transfer="jump", keystone=f".long {0x14000000 | distance // 4:#x}")
        return [(*self.landing_pad(), away)] * count, tuple(insn for entry in entries for insn in entry)

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        convention = request.convention
        at_bottom = request.link and (convention.return_slot == "bottom" or request.bottom_free)
        top = aligned(max(request.body, WORD if at_bottom else 0), WORD)
        slots: list[Slot] = []
        if request.link:
            reason = "the calls in the body overwrite x30"
            if convention.return_slot == "bottom":
                reason += f", and {convention.name} looks for it at 0(sp)"
            slots.append(Slot(0 if at_bottom else top, WORD, "return address", reason, LINK))
            top += 0 if at_bottom else WORD
        kept = [(r, mask) for r, mask in request.saves if not (request.link and r == LINK)]
        for register, mask in sorted(kept, key=_frame_order):
            size = 16 if register.bank is Bank.FLOAT and mask >> 64 else WORD
            top = aligned(top, size)
            slots.append(Slot(top, size, register.name, f"{convention.name} keeps it for its caller", register))
            top += size
        homed = WORD * len(request.homed)
        size = aligned(top + homed, max(request.alignment, convention.alignment))
        if homed:
            reason = "those that arrive in registers, below those in memory"
            slots.append(Slot(size - homed, homed, "argument words", reason))
        return Frame(size, tuple(slots), request)

    def prologue(self, frame: Frame) -> Code:
        yield from in_part("prologue", self._enter(frame))

    def epilogue(self, frame: Frame) -> Code:
        yield from in_part("epilogue", self._exit(frame))

    def leave(self, frame: Frame, pop: int) -> Code:
        if pop:
            yield from in_part("epilogue", self._add(SP, SP, pop))
        yield Insn("ret", frozenset((LINK,)), transfer="return", part="epilogue")

    def _enter(self, frame: Frame) -> Code:
        bottom, others, above = _steps(frame)
        body = frame.size - above
        if above:
            yield from self._lower(above, None)
            for slot in others:
                yield from self._save(slot, slot.offset - body)
        yield from self._lower(body, bottom)
        if not above:
            for slot in others:
                yield from self._save(slot, slot.offset)
        homed = frame.request.homed
        for index, register in enumerate(homed):
            yield from self.store(register, SP, frame.size - WORD * (len(homed) - index), 64)

    def _exit(self, frame: Frame) -> Code:
        bottom, others, above = _steps(frame)
        body = frame.size - above
        if not above:
            for slot in others:
                yield from self._restore(slot, slot.offset)
        yield from self._raise(body, bottom)
        if above:
            for slot in others:
                yield from self._restore(slot, slot.offset - body)
            yield from self._raise(above, None)

    def _lower(self, size: int, bottom: Register | None) -> Code:
        """Lower the stack and store what belongs at its bottom: at once where one instruction can."""
        if size == 0:
            return
        if bottom is not None and size <= 0x100:
            text = f"str {bottom}, [{SP}, #{number(-size)}]!"
            yield insn(text, (bottom, SP), (SP,), "write")
            return
        yield from self._add(SP, SP, -size)
        if bottom is not None:
            yield from self.store(bottom, SP, 0, 64)

    def _raise(self, size: int, bottom: Register | None) -> Code:
        if size == 0:
            return
        if bottom is not None and size < 0x100:
            yield insn(f"ldr {bottom}, [{SP}], #{number(size)}", (SP,), (bottom, SP), "read")
            return
        if bottom is not None:
            yield from self.load(bottom, SP, 0, 64, signed=False)
        yield from self._add(SP, SP, size)

    def _save(self, slot: Slot, offset: int) -> Code:
        register = _kept_in(slot)
        match register.bank:
            case Bank.INTEGER:
                yield from self.store(register, SP, offset, 64)
            case Bank.CONTROL:
                yield insn(f"mrs {IP0}, {register}", (register,), (IP0,))
                yield from self.store(IP0, SP, offset, _control_bits(register))
            case _:
                yield from self.float_store(register, SP, offset, 8 * slot.size)

    def _restore(self, slot: Slot, offset: int) -> Code:
        register = _kept_in(slot)
        match register.bank:
            case Bank.INTEGER:
                yield from self.load(register, SP, offset, 64, signed=False)
            case Bank.CONTROL:
                yield from self.load(IP0, SP, offset, _control_bits(register), signed=False)
                yield insn(f"msr {register}, {IP0}", (IP0,), (register,))
            case _:
                yield from self.float_load(register, SP, offset, 8 * slot.size)

    # -- fixed values, the thread

    def establish(self, fixed: Fixed) -> Code:
        if fixed.code_mask:
            raise ValueError("no register of arm64 is fixed to a code address")
        register, mask = fixed.register, fixed.mask
        whole = (1 << min(register.bits, 64)) - 1
        value = fixed.value & mask
        if register.bank is Bank.INTEGER and mask == whole:
            yield from self.constant(register, value)
            return
        if register.bank is Bank.FLOAT:
            raise ValueError(f"{register.name} cannot be fixed to a value")
        work = IP1 if register.bank is Bank.CONTROL else register
        if work == IP1:
            yield insn(f"mrs {work}, {register}", (register,), (work,))
        yield from self.binary("and", work, work, ~mask & whole)
        if value:
            yield from self.binary("or", work, work, value)
        if work == IP1:
            yield insn(f"msr {register}, {work}", (work,), (register,))

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        base = yield from self._thread_base(slot, IP0 if d == SP else d)
        yield from self.load(d, base, slot.offset, 64, signed=False)

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        base = yield from self._thread_base(slot, _temporary(s))
        yield from self.store(s, base, slot.offset, 64)

    def _thread_base(self, slot: ThreadSlot, base: Register) -> Generator[Insn, None, Register]:
        if slot.segment != THREAD_POINTER.name:
            raise ValueError(f"thread-local words of arm64 are found from tpidr_el0, not from {slot.segment}")
        yield insn(f"mrs {base}, {THREAD_POINTER}", (THREAD_POINTER,), (base,))
        return base

    # -- the pass at the end

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Pairs, and pairs that move the stack pointer.

        A store that lowers the stack is taken apart first, so that its register can find a partner among the stores
        that follow; then one store at 0(sp) and the step of sp become one instruction.
        """
        apart: list[Placed] = []
        for item in code:
            one = item[0]
            if one.user_text:
                apart.append(item)
            elif one.text.endswith("!") or "[sp], #" in one.text:
                apart += _APART([item])
            elif one.text not in _IDLE:
                apart.append(item)
        tables = self.object_format == "coff"
        pairs = _with_pairs(apart, tables)
        # Go's assembler does not follow the stack pointer through stores that move it.
        return pairs if self.linkage == "go" else _with_steps(pairs, tables)

    def unwinding(self) -> Unwinding:
        from .unwinding.arm64 import Arm64Unwinding, WindowsArm64Unwinding

        return (WindowsArm64Unwinding if self.object_format == "coff" else Arm64Unwinding)(self.registers)

    def plan9(self) -> Plan9:
        from .plan9.arm64 import Arm64Spelling

        return Arm64Spelling()


def _readable(value: int) -> int:
    """A constant as people would write it: small negative numbers as such."""
    return signed(value, 64) if value >> 16 == (1 << 48) - 1 else value


def _shifted(shift: int) -> str:
    return f", lsl #{number(shift)}" if shift else ""


def _operand(base: Register, offset: int) -> str:
    return f"[{base}, #{number(offset)}]" if offset else f"[{base}]"


@dataclass(frozen=True, slots=True)
class _Place:
    """A memory operand. `unscaled`: for the forms whose offset counts bytes ("ldur")."""

    text: str
    reads: tuple[Register, ...]
    unscaled: bool = False


def _frame_order(save: tuple[Register, int]) -> tuple[int, int]:
    """Like with like, so that neighbours pair; what has to be aligned to 16 comes last."""
    register, mask = save
    rank = {Bank.INTEGER: 0, Bank.FLOAT: 1, Bank.CONTROL: 2, Bank.VECTOR: 3}[register.bank]
    return (3 if register.bank is Bank.FLOAT and mask >> 64 else rank), register.number


def _kept_in(slot: Slot) -> Register:
    assert slot.register is not None, "only registers have slots here"
    return slot.register


def _steps(frame: Frame) -> tuple[Register | None, tuple[Slot, ...], int]:
    """What is stored at sp, the other slots, and how far the stack is lowered before these are stored: 0 if the
    whole frame is made at once."""
    bottom = next((slot.register for slot in frame.slots if slot.offset == 0 and slot.register == LINK), None)
    saved = [slot for slot in frame.slots if slot.register is not None]
    others = tuple(slot for slot in saved if slot.offset or slot.register != bottom)
    # Where pairs do not reach from the final sp, two more steps of sp cost less than single loads and stores.
    far = sum(slot.offset > _PAIR_REACH - WORD for slot in others)
    if far <= 3 and all(slot.offset < _SINGLE_REACH for slot in others):
        return bottom, others, 0
    body = min(slot.offset for slot in others) // 16 * 16
    return bottom, others, frame.size - body


# ----------------------------------------------------------------------------------------------------------- peephole

# Moves to themselves. Not of w registers: those clear the upper half.
_IDLE = frozenset(
    [f"mov {r}, {r}" for r in (*X, SP)] + [f"fmov {letter}{n}, {letter}{n}" for letter in "sd" for n in range(32)]
)
_STEP = re.compile(r"(sub|add) sp, sp, #(\w+)")
_STORE_AND_LOWER = re.compile(r"str (x\d+), \[sp, #-(\w+)\]!")
_LOAD_AND_RAISE = re.compile(r"ldr (x\d+), \[sp\], #(\w+)")
_PAIRABLE = re.compile(r"(ld|st)u?r ([xwdsq])(\d+|zr), \[")
_AT_SP = re.compile(r"(ld|st)[rp] (([xwdsq])(?:\d+|zr)(?:, [xwdsq](?:\d+|zr))?), \[sp(?:, #(\w+))?\]")
_SIZES = {"x": 8, "w": 4, "d": 8, "s": 4, "q": 16}


def _apart(run: Sequence[Placed]) -> Iterable[Placed]:
    """A store that lowers the stack as two instructions, and a load that raises it likewise."""
    [(one, place)] = run
    nothing: frozenset[Register] = frozenset()
    if match := _STORE_AND_LOWER.fullmatch(one.text):
        register = _REGISTERS[match[1]]
        lower = replace(one, text=f"sub sp, sp, #{match[2]}", reads=frozenset((SP,)), memory="none")
        access = Access("store", register, SP, 0, WORD)
        store = replace(one, text=f"str {register}, [sp]", writes=nothing, access=access)
        return (lower, place), (store, place)
    if match := _LOAD_AND_RAISE.fullmatch(one.text):
        register = _REGISTERS[match[1]]
        access = Access("load", register, SP, 0, WORD)
        load = replace(one, text=f"ldr {register}, [sp]", writes=frozenset((register,)), access=access)
        step = frozenset((SP,))
        upper = replace(one, text=f"add sp, sp, #{match[2]}", reads=step, writes=step, memory="none")
        return (load, place), (upper, place)
    return run


def _with_pairs(code: Sequence[Placed], tables: bool = False) -> list[Placed]:
    """`tables`: those of Windows have to describe what prologues save."""
    result: list[Placed] = []
    run: list[Placed] = []
    for item in code:
        one = item[0]
        if run and not continues(run, one):
            result += _PAIRED[tables](run) if len(run) > 1 else run
            run = []
        if one.access is not None and not one.user_text and _PAIRABLE.match(one.text):
            run.append(item)
        else:
            if run:
                result += _PAIRED[tables](run) if len(run) > 1 else run
                run = []
            result.append(item)
    return result + _PAIRED[tables](run)


def _paired(run: Sequence[Placed], tables: bool) -> list[Placed]:
    """A run with its neighbours in pairs.

    What lies in the frame is put in order first: nobody else looks there. Elsewhere the order of the source stays,
    for a signal handler or another thread may see it; two that follow each other may become one.
    """
    if run and _access(run[0]).base == SP and _disjoint(run):
        run = sorted(run, key=lambda item: _access(item).offset)
    result: list[Placed] = []
    index = 0
    while index < len(run):
        pair = _pair(run[index], run[index + 1], tables) if index + 1 < len(run) else None
        result.append(pair or run[index])
        index += 2 if pair else 1
    return result


def _access(item: Placed) -> Access:
    assert item[0].access is not None
    return item[0].access


def _disjoint(run: Sequence[Placed]) -> bool:
    ordered = sorted((_access(item).offset, _access(item).bytes) for item in run)
    return all(a + size <= b for (a, size), (b, _) in pairwise(ordered))


def _pair(one: Placed, other: Placed, tables: bool) -> Placed | None:
    """Both, which are independent of each other, in one instruction, if there is one for them."""
    low, high = sorted((one, other), key=lambda item: _access(item).offset)
    a, b = _access(low), _access(high)
    if a.offset + a.bytes != b.offset:
        return None
    spelling, others = _PAIRABLE.match(low[0].text), _PAIRABLE.match(high[0].text)
    if spelling is None or others is None or spelling[2] != others[2]:
        return None
    (first, place), (second, _) = one, other
    if a.offset % a.bytes or not -64 * a.bytes <= a.offset < 64 * a.bytes:
        return None
    in_frame = a.base == SP and (first.part, second.part) != ("body", "body")
    if tables and in_frame and not _described(a.register, b.register):
        return None
    letter = spelling[2]
    registers = f"{narrow(a.register, letter)}, {narrow(b.register, letter)}"
    pair = replace(
        first,
        text=f"{spelling[1]}p {registers}, {_operand(a.base, a.offset)}",
        reads=first.reads | second.reads,
        writes=first.writes | second.writes,
        access=None,
        comment=first.comment or second.comment,
    )
    return pair, place


def _told(register: Register) -> bool:
    """Whether Windows' tables can say where a register is saved: x19 to x30, d8 to d15."""
    return 8 <= register.number <= 15 if register.bank is Bank.FLOAT else 19 <= register.number <= 30


def _described(low: Register, high: Register, step: bool = False) -> bool:
    """Whether an unwind code stands for a pair that is saved, or (`step`) for one that moves sp too. Microsoft Learn,
    "ARM64 exception handling", "Unwind codes"."""
    if not _told(high):
        return True
    if not _told(low):
        return not step
    if high == LINK and low.number != 29:
        return not step and low.number % 2 == 1
    return high.number == low.number + 1


def _with_steps(code: Sequence[Placed], tables: bool = False) -> list[Placed]:
    """The steps of sp taken together with the store or load at 0(sp) beside them."""
    result: list[Placed] = []
    index = 0
    while index < len(code):
        item = code[index]
        one = item[0]
        step = None if one.user_text or " sp, sp" not in one.text else _STEP.fullmatch(one.text)
        if step is None:
            result.append(item)
            index += 1
        elif step[1] == "sub":
            end = index + 1
            while end < len(code) and _at_sp(code[end], "st"):
                end += 1
            result += _LOWERED[tables](code[index:end])
            index = end
        else:
            start = len(result)
            while start and _at_sp(result[start - 1], "ld"):
                start -= 1
            result[start:] = _RAISED[tables]([*result[start:], item])
            index += 1
    return result


def _at_sp(item: Placed, kind: str) -> re.Match[str] | None:
    one = item[0]
    match = None if one.user_text else _AT_SP.fullmatch(one.text)
    return match if match is not None and match[1] == kind else None


def _size(step: Placed) -> int:
    match = _STEP.fullmatch(step[0].text)
    assert match is not None
    return int(match[2], 0)


def _lowered(run: Sequence[Placed], tables: bool) -> list[Placed]:
    """A step downwards, and the stores behind it."""
    step, *stores = run
    size = _size(step)
    for index, item in enumerate(stores):
        match = _at_sp(item, "st")
        if match is None or match[4] is not None:
            continue
        # No store before this one may have written the same bytes.
        if any(_reach(before, match) for before in stores[:index]) or not _steps_with(
            match, size, tables, lowering=True
        ):
            break
        mnemonic = "stp" if "," in match[2] else "str"
        one, place = item
        merged = replace(
            one,
            text=f"{mnemonic} {match[2]}, [sp, #{number(-size)}]!",
            writes=frozenset((SP,)),
            access=None,
            part=step[0].part,
            comment=one.comment or step[0].comment,
        )
        return [(merged, place), *stores[:index], *stores[index + 1 :]]
    return [step, *stores]


def _raised(run: Sequence[Placed], tables: bool) -> list[Placed]:
    """Loads, and the step upwards behind them."""
    *loads, step = run
    size = _size(step)
    for index, item in enumerate(loads):
        match = _at_sp(item, "ld")
        if match is None or match[4] is not None or not _steps_with(match, size, tables, lowering=False):
            continue
        one, place = item
        if any(one.writes & after.writes for after, _ in loads[index + 1 :]):
            break
        mnemonic = "ldp" if "," in match[2] else "ldr"
        merged = replace(
            one,
            text=f"{mnemonic} {match[2]}, [sp], #{number(size)}",
            writes=one.writes | {SP},
            access=None,
            part=step[0].part,
            comment=one.comment or step[0].comment,
        )
        return [*loads[:index], *loads[index + 1 :], (merged, place)]
    return [*loads, step]


def _steps_with(match: re.Match[str], size: int, tables: bool, *, lowering: bool) -> bool:
    """Whether the instruction of this match can move sp by `size`: DDI 0487, "LDR", "LDP" and their like."""
    unit = _SIZES[match[3]]
    if tables and "," in match[2]:
        low, high = (_REGISTERS.get(name) for name in match[2].split(", "))
        if low is not None and high is not None and not _described(low, high, step=True):
            return False
        if low is not None and _told(low) and (high is None or not _told(high)) and size > 256:
            return False  # the code is that for a single register
    if "," in match[2]:
        return size % unit == 0 and size <= (64 if lowering else 63) * unit
    return size <= (256 if lowering else 255)


def _reach(before: Placed, match: re.Match[str]) -> bool:
    """Whether a store before it touches the bytes that this one, at 0(sp), writes."""
    earlier = _at_sp(before, "st")
    return earlier is None or int(earlier[4] or "0", 0) < _SIZES[match[3]] * (2 if "," in match[2] else 1)


_APART = kept_by_run(_apart)
_PAIRED, _LOWERED, _RAISED = (
    [kept_by_run(partial(merge, tables=tables)) for tables in (False, True)] for merge in (_paired, _lowered, _raised)
)


TARGETS = (
    Target("linux/arm64", "linux", Arm64(), "Armv8.0-A"),
    Target("windows/arm64", "windows", Arm64("windows"), "Armv8.0-A"),
)
