"""ppc64: every frame points to its caller's, r2 belongs to the module, and vectors have no displacement.

Sources: "64-bit PowerPC ELF ABI Supplement 1.9" (ELFv1), "Power Architecture 64-Bit ELF V2 ABI Specification,
OpenPOWER ABI for Linux Supplement 1.5" (ELFv2), "Power ISA 2.07". Sections of ELFv2 are named by their titles, because
their numbers moved between its revisions.

How this machine differs from the others:

* A callee writes into its caller's frame: the return address at 16 and the condition register at 8 above the CFA.
* `stdu` stores the caller's stack pointer at the new one and moves there in the same instruction: the back chain is
  whole at every instruction. The word at r1 is its place and never the body's.
* r2, the TOC pointer, is the module's. In ELFv1 a function pointer points to a descriptor with the code's address,
  its TOC and an environment for r11; in ELFv2 to the code, which is entered with its own address in r12.
* As the base of an address and as the source of `addi`, r0 is the number zero. Nothing here computes in it, for Go
  wants 0 in it; C's prologues pass the return address through it, as is the custom.
* Vectors move through `stvx` and `lvx`, whose address is the sum of two registers.
* A single in a register has the format of a double.

    C                                           Go (go0)

    |  parameter save area             |  +48/+32    |  arguments, results              |  +32
    |  TOC pointer                     |  +40/+24    |  its caller's, three words       |   +8
    |  return address                  |  +16        |  the caller's return address     |   +0
    |  condition register              |   +8        +----------------------------------+ CFA = the caller's r1
    |  back chain                      |   +0        |  control registers               |
    +----------------------------------+ CFA         |  body                            |
    |  vrsave, fpscr                   |             |  return address                  |   +0
    |  f14 to f31                      |             +----------------------------------+ r1
    |  r2, r14 to r31                  |
    |  v20 to v31 (aligned to 16)      |
    |  body                            |
    |  back chain                      |   +0
    +----------------------------------+ r1

(ELFv1 / ELFv2 where two offsets are given.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from trampoline_dsl.target import (
    STRAIGHT_ON,
    TOC_SYMBOL,
    Access,
    Architecture,
    Assignment,
    Bank,
    BinaryOp,
    ByteOrder,
    Code,
    Condition,
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
    in_part,
    insn,
    signed,
    signed_field,
    spelled,
    system_calls,
    widened,
)

from .baselines.ppc64 import POWER8
from .go import REGISTERS, REGISTERS_SOURCE, assign_go0, assign_goregs

WORD = 8
WHOLE = (1 << 64) - 1

# ----------------------------------------------------------------------------------------------------------- registers

R = tuple(Register(f"r{n}", Bank.INTEGER, 64, f"%r{n}", n, ("sp",) if n == 1 else ()) for n in range(32))
F = tuple(Register(f"f{n}", Bank.FLOAT, 64, f"%f{n}", n) for n in range(32))
V = tuple(Register(f"v{n}", Bank.VECTOR, 128, f"%v{n}", n) for n in range(32))
CR = tuple(Register(f"cr{n}", Bank.CONTROL, 4, f"%cr{n}", n) for n in range(8))
# The numbers of special purpose registers: Power ISA 2.07, I 3.3.17, "Move To/From System Register Instructions".
XER = Register("xer", Bank.CONTROL, 64, "xer", 1)
LR = Register("lr", Bank.CONTROL, 64, "lr", 8)
CTR = Register("ctr", Bank.CONTROL, 64, "ctr", 9)
VRSAVE = Register("vrsave", Bank.CONTROL, 32, "vrsave", 256)
FPSCR = Register("fpscr", Bank.CONTROL, 64, "fpscr", 0)
VSCR = Register("vscr", Bank.CONTROL, 32, "vscr", 0)

_REGISTERS: Mapping[str, Register] = {
    name: register
    for register in (*R, *F, *V, *CR, XER, LR, CTR, VRSAVE, FPSCR, VSCR)
    for name in (register.name, *register.aliases)
}
R0, SP, TOC, R11, R12, THREAD_POINTER, G, R31 = R[0], R[1], R[2], R[11], R[12], R[13], R[30], R[31]

# Power ISA 2.07, I 4.2.2, "Floating-Point Status and Control Register": DRN (bits 29-31 of 64 from the left), the
# exception enables VE OE UE ZE XE (56-60), NI (61) and RN (62-63). The rest is status.
FPSCR_CONTROL = 0x7_0000_00FF
# Power ISA 2.07, I 6.3.2, "Vector Status and Control Register": NJ is bit 15 of the 32; SAT, bit 31, is status.
VSCR_CONTROL = 0x10000

# ---------------------------------------------------------------------------------------------------------- conventions


def assign_c(
    convention: Convention,
    arguments: Sequence[ValueType],
    result: ValueType | None,
    *,
    parameters: int,
    always: bool,
    order: ByteOrder,
) -> Assignment:
    """ELFv1 3.2.3, "Parameter Passing", and ELFv2, "Parameter Passing in Registers".

    Each argument uses up one doubleword of an image in memory, which starts `parameters` bytes above the CFA; r3 to r10
    hold its first eight, f1 to f13 the floating point values.

    Integers are widened to 64 bits by their type. A single has the format of a double in a register and is
    right-justified in memory on a big-endian machine. The caller has room for the image `always`, or if any argument
    is in memory; eight doublewords at least.
    """
    floats = iter(convention.float_arguments)
    places: list[Location] = []
    in_memory = False
    for index, value in enumerate(arguments):
        register: Register | None
        if value.kind == "float":
            register = next(floats, None)
        else:
            register = dict(enumerate(convention.integer_arguments)).get(index)
        if register is not None:
            places.append(_in_register(register, value))
            continue
        in_memory = True
        pad = WORD - value.bits // 8 if value.kind == "float" and order == "big" else 0
        places.append((widened(OnStack(parameters + WORD * index + pad), value, 8 * WORD),))
    room = WORD * max(8, len(arguments)) if always or in_memory else 0
    registers = convention.float_results if result and result.kind == "float" else convention.integer_results
    return Assignment(tuple(places), _in_register(registers[0], result) if result else (), parameters + room)


def _in_register(register: Register, value: ValueType) -> Location:
    single = value.kind == "float" and value.bits == 32
    return (replace(widened(InRegister(register), value, 8 * WORD), as_double=single),)


HERE = "bcl 20, 31, .+4"  # the address of the next instruction, in lr
LOCAL_ENTRY = ".Llocal"  # never printed: `.localentry` stands in its place

_NEVER_CHANGED = {THREAD_POINTER: WHOLE, FPSCR: FPSCR_CONTROL, VSCR: VSCR_CONTROL, VRSAVE: 0xFFFFFFFF}


def c_convention(version: Literal[1, 2], order: ByteOrder) -> Convention:
    """The C convention of ELFv1 or ELFv2."""
    parameters = {1: 48, 2: 32}[version]
    registers = "ELFv1 3.2.1" if version == 1 else 'ELFv2, "Registers"'
    frame = "ELFv1 3.2.2" if version == 1 else 'ELFv2, "The Stack Frame"'
    reserved = {SP: "the stack pointer", TOC: "the module's TOC pointer", THREAD_POINTER: "the thread pointer"}
    notes = {
        "r2": f"the module's TOC pointer: a caller in the same module finds it as it was ({registers})",
        "cr2": f"the fields cr2, cr3 and cr4 are kept, in the word at 8 above the CFA ({frame})",
        "f14": f"64 bits: the other halves of vs14 to vs31 are scratch ({registers})",
        "fpscr": "enables and rounding modes change only by functions that exist to do it "
        f"({registers}; bits: Power ISA 2.07, I 4.2.2)",
        "vscr": f"NJ only ({registers}; bits: Power ISA 2.07, I 6.3.2)",
        "linker": "stubs between modules write r0, r11, r12 and ctr, and r2, which the instruction behind the call "
        "restores: that is what the nop is for",
    }
    if version == 1:
        notes["vrsave"] = "callee-saved (ELFv1 3.2.1)"
        notes["descriptors"] = "a function pointer points to entry, TOC and environment (ELFv1 3.2.5)"
        notes["area"] = "back chain 0, CR 8, LR 16, 24 and 32 reserved, TOC 40, parameters 48 to 111 (ELFv1 3.2.2)"
    else:
        reserved[VRSAVE] = "reserved by the ABI: neither read nor written"
        notes["vrsave"] = f"reserved ({registers}): nobody may touch it, so everybody finds it as it was"
        notes["r12"] = 'the function\'s own address when it is entered through a pointer (ELFv2, "Register Roles")'
        notes["area"] = (
            "back chain 0, CR 8, LR 16, TOC 24; a parameter save area of 64 bytes or more from 32 on only if an "
            f"argument is in memory, or without a prototype ({frame})"
        )
    return Convention(
        name="c",
        title="64-bit PowerPC ELF ABI, version 1" if version == 1 else "OpenPOWER ELF ABI, version 2",
        source="64-bit PowerPC ELF ABI Supplement 1.9, 3.2"
        if version == 1
        else 'OpenPOWER ELFv2 ABI 1.5, "Function Calling Sequence"',
        integer_arguments=R[3:11],
        float_arguments=F[1:14],
        integer_results=(R[3],),
        float_results=(F[1],),
        assign=partial(assign_c, parameters=parameters, always=version == 1, order=order),
        first_stack_argument=parameters + 64,
        slot=WORD,
        kept=dict.fromkeys((TOC, *R[14:], *F[14:]), WHOLE)
        | dict.fromkeys(V[20:], (1 << 128) - 1)
        | dict.fromkeys(CR[2:5], 0xF)
        | _NEVER_CHANGED,
        fixed=(),
        reserved=reserved,
        alignment=16,
        red_zone=288,
        area=112 if version == 1 else 32,
        save_area={LR: 16} | dict.fromkeys(CR[2:5], 8),
        back_chain=True,
        callee_pops=False,
        return_address=LR,
        return_slot="none",
        call_through=None if version == 1 else R12,
        descriptors=version == 1,
        toc_slot={1: 40, 2: 24}[version],
        thread=None,
        # Large constants take r12 before r11, and r0 cannot be a base.
        scratch=(R11, R12, R0),
        linker_may_write=(R0, R11, R12, CTR),
        notes=notes,
        environment=R11 if version == 1 else None,
    )


GO0 = Convention(
    name="go0",
    title="Go's stack convention, ABI0",
    source="cmd/internal/obj/ppc64/a.out.go; cmd/compile/abi-internal.md, section on ppc64",
    integer_arguments=(),
    float_arguments=(),
    integer_results=(),
    float_results=(),
    assign=partial(assign_go0, word=WORD),
    first_stack_argument=32,
    slot=1,
    kept=_NEVER_CHANGED,
    fixed=(Fixed(R0, WHOLE, 0, "Go's compiler and assembler use r0 as the number zero"),),
    reserved={
        R0: "holds zero",
        SP: "the stack pointer",
        THREAD_POINTER: "the thread pointer",
        VRSAVE: "reserved by ELFv2, unused by Go",
    },
    alignment=8,
    red_zone=0,
    area=0,
    save_area={},
    back_chain=False,
    callee_pops=False,
    return_address=LR,
    return_slot="bottom",
    call_through=R12,
    descriptors=False,
    toc_slot=None,
    thread=G,
    # r31 is the temporary of Go's assembler.
    scratch=(R31, R11, R12),
    linker_may_write=(),
    notes={
        "return address": "a function that calls keeps it at 0(r1), where Go's traceback looks",
        "alignment": "8, and 16 where C is called: cmd/compile/abi-internal.md, section on ppc64, Stack layout",
        "r2": "the TOC pointer under -shared and -dynlink; not kept by hand-written code",
        "cr2": "no field of the condition register is kept",
        "kept": "nothing but the thread pointer and the control registers, which Go never changes",
    },
)

_GO_INTEGERS = (*R[3:11], *R[14:18])
GOREGS = GO0.derive(
    name="goregs",
    go_abi="ABIInternal",
    title=REGISTERS,
    source=REGISTERS_SOURCE,
    integer_arguments=_GO_INTEGERS,
    float_arguments=F[1:13],
    integer_results=_GO_INTEGERS,
    float_results=F[1:13],
    assign=partial(assign_goregs, as_double=True),
    notes=dict(GO0.notes) | {"r11": "the closure's context, in calls of closures"},
)

# --------------------------------------------------------------------------------------------------- instruction pieces


def number(value: int) -> str:
    """Hexadecimal, which Keystone cannot misread."""
    return f"{value:#x}"


def fits(value: int, bits: int) -> bool:
    return -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def high_adjusted(value: int) -> int:
    """What `addis` has to add so that a signed low half makes up the rest (`@ha`)."""
    return (value - signed(value, 16)) >> 16


# stvx and lvx pass over the low bits of an address: Power ISA 2.07, I, "Vector Storage Access Instructions".
_SAVE_ALIGNMENT = {Bank.VECTOR: 16}


@dataclass(frozen=True, slots=True)
class Form:
    """A storage access by displacement and by index. `ds`: its displacement is a multiple of 4."""

    displaced: str
    indexed: str
    bytes: int
    ds: bool = False


LOADS = {
    (64, False): Form("ld", "ldx", 8, ds=True),
    (64, True): Form("ld", "ldx", 8, ds=True),
    (32, False): Form("lwz", "lwzx", 4),
    (32, True): Form("lwa", "lwax", 4, ds=True),
    (16, False): Form("lhz", "lhzx", 2),
    (16, True): Form("lha", "lhax", 2),
    (8, False): Form("lbz", "lbzx", 1),
}
STORES = {
    64: Form("std", "stdx", 8, ds=True),
    32: Form("stw", "stwx", 4),
    16: Form("sth", "sthx", 2),
    8: Form("stb", "stbx", 1),
}
FLOAT_LOADS = {64: Form("lfd", "lfdx", 8), 32: Form("lfs", "lfsx", 4)}
FLOAT_STORES = {64: Form("stfd", "stfdx", 8), 32: Form("stfs", "stfsx", 4)}

BRANCHES: dict[Condition, str] = {
    "eq": "beq", "ne": "bne", "lt": "blt", "le": "ble", "gt": "bgt", "ge": "bge", "ult": "blt", "ule": "ble",
    "ugt": "bgt", "uge": "bge",
}  # fmt: skip
REGISTER_OPERATIONS: dict[BinaryOp, str] = {
    "add": "add", "and": "and", "or": "or", "xor": "xor", "mul": "mulld", "shl": "sld", "shr": "srd", "sar": "srad",
}  # fmt: skip
IMMEDIATE_SHIFTS: dict[BinaryOp, str] = {"shl": "sldi", "shr": "srdi", "sar": "sradi"}

# Comparisons with 0, as comparisons with its neighbours.
_BESIDE_ZERO: dict[Condition, tuple[Condition, int]] = {
    "eq": ("ult", 1), "ne": ("uge", 1), "ule": ("ult", 1), "ugt": ("uge", 1), "lt": ("le", -1), "ge": ("gt", -1),
    "le": ("lt", 1), "gt": ("ge", 1),
}  # fmt: skip

LINKAGE = 32  # bytes from r1 up in every frame that calls: what a callee and the linker's stubs write in ELFv2
CR_PLACE, LR_PLACE = 8, 16  # above the CFA
GO_BIG = 0x7FF8  # displacements from -GO_BIG to GO_BIG - 1 are those of one instruction for Go's assembler (a.out.go)
NEAR_FRAME = 0x7FE0  # the largest frame whose every place is within a displacement of r1

# ELFv1 and ELFv2, "Relocation Types". The fields of TOC16 are the second halves of instructions.
_FIXUPS: Mapping[str, Fixup] = {
    "R_PPC64_REL24": Fixup(4, 0x03FFFFFC, shift=2, pc_relative=True),
    "R_PPC64_REL16_HA": Fixup(2, 0xFFFF, shift=16, pc_relative=True, bias=0x8000),
    "R_PPC64_REL16_LO": Fixup(2, 0xFFFF, pc_relative=True),
    "R_PPC64_TOC16_HA": Fixup(2, 0xFFFF, shift=16, bias=0x8000, base=".TOC."),
    "R_PPC64_TOC16_LO": Fixup(2, 0xFFFF, base=".TOC."),
    "R_PPC64_TOC16_LO_DS": Fixup(2, 0xFFFC, shift=2, base=".TOC."),
    "R_PPC64_GOT16_HA": Fixup(2, 0xFFFF, shift=16, bias=0x8000, base=".TOC.", got=True),
    "R_PPC64_GOT16_LO_DS": Fixup(2, 0xFFFC, shift=2, base=".TOC.", got=True),
    "R_PPC64_ADDR16_HA": Fixup(2, 0xFFFF, shift=16, bias=0x8000),
    "R_PPC64_ADDR16_LO": Fixup(2, 0xFFFF),
    # What is not of our own making.
    "R_PPC64_REL24_NOTOC": Fixup(4, 0x03FFFFFC, shift=2, pc_relative=True),
    "R_PPC64_REL14": Fixup(4, 0x0000FFFC, shift=2, pc_relative=True),
    "R_PPC64_REL32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
    "R_PPC64_REL64": Fixup(8, 0xFFFFFFFFFFFFFFFF, pc_relative=True),
    "R_PPC64_ADDR32": Fixup(4, 0xFFFFFFFF),
    "R_PPC64_ADDR64": Fixup(8, 0xFFFFFFFFFFFFFFFF),
    "R_PPC64_TOC": Fixup(8, 0xFFFFFFFFFFFFFFFF),  # against TOC_SYMBOL
    "R_PPC64_TOC16": Fixup(2, 0xFFFF, base=".TOC."),
    "R_PPC64_TOC16_DS": Fixup(2, 0xFFFC, shift=2, base=".TOC."),
    "R_PPC64_TOC16_HI": Fixup(2, 0xFFFF, shift=16, base=".TOC."),
    "R_PPC64_GOT16": Fixup(2, 0xFFFF, base=".TOC.", got=True),
    "R_PPC64_GOT16_DS": Fixup(2, 0xFFFC, shift=2, base=".TOC.", got=True),
    "R_PPC64_ADDR16_LO_DS": Fixup(2, 0xFFFC, shift=2),
    "R_PPC64_ADDR16_HI": Fixup(2, 0xFFFF, shift=16),
    "R_PPC64_ADDR16_HIGHER": Fixup(2, 0xFFFF, shift=32),
    "R_PPC64_ADDR16_HIGHERA": Fixup(2, 0xFFFF, shift=32, bias=0x8000_8000),
    "R_PPC64_ADDR16_HIGHEST": Fixup(2, 0xFFFF, shift=48),
    "R_PPC64_ADDR16_HIGHESTA": Fixup(2, 0xFFFF, shift=48, bias=0x8000_8000_8000),
}


def _signals(version: Literal[1, 2]) -> SignalFrame:
    """arch/powerpc/kernel/signal_64.c: struct rt_sigframe is two ucontexts of 1696 bytes (the second for transactional
    memory), 16 unused bytes, 24 of code, two pointers, siginfo (128) and, at its top, the 512 bytes that are left to
    the interrupted function; rounded up to 16. The handler gets a frame of 128 bytes below it, which the kernel's own
    code takes down again. Under ELFv1 the handler's address is that of a descriptor, and r2 comes from there."""
    return SignalFrame(
        "arch/powerpc/kernel/signal_64.c, handle_rt_signal64 and sys_rt_sigreturn",
        size=4096 - 512,
        info=2 * 1696 + 16 + 24 + 16,
        context=0,
        alignment=16,
        untouched=512,
        entry=-128,
        chain=-128,
        number=172,
        restorer="none",
        values={FPSCR: 0},
        entered_in=() if version == 1 else (R12,),
    )


class Ppc64(Architecture):
    """Power ISA, 64-bit mode, in one byte order and under one version of the ELF ABI."""

    family = "ppc64"
    extensions = POWER8
    machines: Mapping[str, int] = {"elf": 21}
    word = WORD
    registers = _REGISTERS
    sp = SP
    save_alignment = _SAVE_ALIGNMENT
    flags = CR[0]
    fixups = _FIXUPS
    linkages = ("static", "pic", "go")
    two_address = False
    toc: Register | None = _REGISTERS["r2"]
    comment = "#"

    def __init__(self, name: str, order: ByteOrder, version: Literal[1, 2]) -> None:
        self.name = name
        self.order = order
        self.version = version
        # 64-Bit ELF V2 ABI, 4.1: EF_PPC64_ABI; 0 where an object does not say.
        self.elf_flags = (3, (version,) if order == "big" and version == 2 else (0, version))
        letters = "LITTLE" if order == "little" else "BIG"
        self.engines = Engines(
            "KS_ARCH_PPC",
            ("KS_MODE_PPC64", f"KS_MODE_{letters}_ENDIAN"),
            # Unicorn knows one kind of machine; a bit of the MSR makes it little-endian.
            "UC_ARCH_PPC",
            ("UC_MODE_PPC64", "UC_MODE_BIG_ENDIAN"),
            None,
            "CS_ARCH_PPC",
            ("CS_MODE_64", f"CS_MODE_{letters}_ENDIAN"),
        )
        self.conventions: Mapping[str, Convention] = {"c": c_convention(version, order), "go0": GO0, "goregs": GOREGS}
        self.system_calls = system_calls(
            self.conventions["c"],
            _REGISTERS.values(),
            (R0, *R[3:9]),
            R[3],
            (R0, *R[4:13], CTR, XER),
            "Linux, Documentation/arch/powerpc/syscall64-abi.rst",
            failed=(CR[0], 1, 1),  # summary overflow
        )
        self.signals = _signals(version)
        assembler = "powerpc64le-linux-gnu-as" if order == "little" else "powerpc64-linux-gnu-as"
        self.gnu_as = (assembler, "-a64", f"-m{order}", "-mpower8")
        self.clang = (f"--target={assembler.removesuffix('-as')}", "-mcpu=pwr8")
        self.header = (".machine power8", f".abiversion {version}")

    def link_for(self, linkage: Linkage) -> None:
        super().link_for(linkage)
        if linkage == "go":
            self.toc = None

    def symbol_bits(self) -> int:
        """Go's assembler makes addresses from two halves of 16 bits, the upper one with a sign (asm9.go,
        symbolAccess)."""
        return 31 if self.linkage == "go" else super().symbol_bits()

    def unwinding(self) -> Unwinding:
        from .unwinding.ppc64 import Ppc64Unwinding

        return Ppc64Unwinding(self.registers)

    def plan9(self) -> Plan9:
        from .plan9.ppc64 import Ppc64Spelling

        return Ppc64Spelling(self.order)

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        order = (*R[3:11], *R[31:13:-1])
        return convention.leaves(order)

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        order = (F[0], *F[13:0:-1], *F[31:13:-1])
        return convention.leaves(order)

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        if d != s:
            yield insn(f"mr {d}, {s}", (s,), (d,))

    def constant(self, d: Register, value: int) -> Code:
        yield from _build(d, signed(value, 64))

    def symbol_address(self, d: Register, symbol: str) -> Code:
        if d == R0:
            raise ValueError("r0 cannot be built from the TOC pointer in two steps: it would count as zero")
        # The field is the right half of the instruction, wherever that lies in memory.
        field = 2 if self.order == "big" else 0
        if symbol == TOC_SYMBOL:
            yield from self._toc_address(d, field)
            return
        name = spelled(symbol)
        if self.linkage == "pic":
            yield replace(
                insn(f"addis {d}, {TOC}, {name}@got@ha", (TOC,), (d,)),
                keystone=f"addis {d}, {TOC}, 0x0",
                relocation=Relocation("R_PPC64_GOT16_HA", symbol, offset=field),
            )
            yield replace(
                insn(f"ld {d}, {name}@got@l({d})", (d,), (d,), memory="read"),
                keystone=f"ld {d}, 0x0({d})",
                relocation=Relocation("R_PPC64_GOT16_LO_DS", symbol, offset=field),
            )
            return
        if self.linkage == "go":
            yield replace(
                insn(f"lis {d}, {name}@ha", (), (d,)),
                keystone=f"lis {d}, 0x0",
                relocation=Relocation("R_PPC64_ADDR16_HA", symbol, offset=field),
            )
            yield replace(
                insn(f"addi {d}, {d}, {name}@l", (d,), (d,)),
                keystone=f"addi {d}, {d}, 0x0",
                relocation=Relocation("R_PPC64_ADDR16_LO", symbol, offset=field),
            )
            return
        yield replace(
            insn(f"addis {d}, {TOC}, {name}@toc@ha", (TOC,), (d,)),
            keystone=f"addis {d}, {TOC}, 0x0",
            relocation=Relocation("R_PPC64_TOC16_HA", symbol, offset=field),
        )
        yield replace(
            insn(f"addi {d}, {d}, {name}@toc@l", (d,), (d,)),
            keystone=f"addi {d}, {d}, 0x0",
            relocation=Relocation("R_PPC64_TOC16_LO", symbol, offset=field),
        )

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if (bits, signed) not in LOADS or self.linkage != "static":
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        high, _ = self.symbol_address(d, symbol)
        yield high
        form = LOADS[bits, signed]
        assert high.relocation is not None
        yield replace(
            insn(f"{form.displaced} {d}, {spelled(symbol)}@toc@l({d})", (d,), (d,), memory="read"),
            keystone=f"{form.displaced} {d}, 0x0({d})",
            relocation=Relocation(f"R_PPC64_TOC16_LO{'_DS' * form.ds}", symbol, offset=high.relocation.offset),
        )

    def _toc_address(self, d: Register, field: int) -> Code:
        """From the place of the code itself, wherever it is loaded. This form of `bcl` is no call for the processor's
        prediction of returns (Power ISA 2.07, I 2.4)."""
        yield insn(f"mflr {R12}", (LR,), (R12,))
        yield Insn(HERE, writes=frozenset((LR,)), keystone=".long 0x429f0005")
        yield insn(f"mflr {d}", (LR,), (d,))  # the address of this instruction
        yield replace(
            insn(f"addis {d}, {d}, {TOC_SYMBOL}-.+0x4@ha", (d,), (d,)),
            keystone=f"addis {d}, {d}, 0x0",
            relocation=Relocation("R_PPC64_REL16_HA", TOC_SYMBOL, 4 + field, field),
        )
        yield replace(
            insn(f"addi {d}, {d}, {TOC_SYMBOL}-.+0x8@l", (d,), (d,)),
            keystone=f"addi {d}, {d}, 0x0",
            relocation=Relocation("R_PPC64_REL16_LO", TOC_SYMBOL, 8 + field, field),
        )
        yield insn(f"mtlr {R12}", (R12,), (LR,))

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        # No instruction loads a byte with its sign.
        yield from self._storage("load", LOADS[bits, signed and bits != 8], d, base, offset)
        if signed and bits == 8:
            yield from self.extend(d, d, 8, signed=True)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._storage("store", STORES[bits], s, base, offset)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if d != s:
            yield insn(f"fmr {d}, {s}", (s,), (d,))

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._storage("load", FLOAT_LOADS[bits], d, base, offset)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._storage("store", FLOAT_STORES[bits], s, base, offset)

    def _near(self, offset: int) -> bool:
        """Whether a displacement is one."""
        return -GO_BIG <= offset < GO_BIG if self.linkage == "go" else fits(offset, 16)

    def _storage(
        self, kind: Literal["load", "store"], form: Form, register: Register, base: Register, offset: int
    ) -> Code:
        if base == R0:
            raise ValueError("r0 cannot be a base: it would be taken for zero")
        memory: Literal["read", "write"] = "read" if kind == "load" else "write"
        stored = () if kind == "load" else (register,)
        loaded = (register,) if kind == "load" else ()
        low = signed(offset, 16)
        reachable = not (form.ds and low % 4)
        if reachable and self._near(offset):
            access = Access(kind, register, base, offset, form.bytes)
            text = f"{form.displaced} {register}, {number(offset)}({base})"
            yield insn(text, (base, *stored), loaded, memory=memory, access=access)
            return
        own = kind == "load" and register.bank is Bank.INTEGER and register not in (R0, base)
        temporary = register if own else _free(base, register)
        if reachable and self._near(low) and fits(high_adjusted(offset), 16):
            yield insn(f"addis {temporary}, {base}, {number(high_adjusted(offset))}", (base,), (temporary,))
            text = f"{form.displaced} {register}, {number(low)}({temporary})"
            yield insn(text, (temporary, *stored), loaded, memory=memory)
        else:
            yield from self.constant(temporary, offset)
            text = f"{form.indexed} {register}, {base}, {temporary}"
            yield insn(text, (base, temporary, *stored), loaded, memory=memory)

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            if op == "sub":
                yield insn(f"subf {d}, {b}, {a}", (a, b), (d,))
            elif a == b and op in ("and", "or"):
                # `or` of three times the same register is a hint that gives way to other threads.
                yield from self.move(d, a)
            else:
                writes = (d, XER) if op == "sar" else (d,)
                yield insn(f"{REGISTER_OPERATIONS[op]} {d}, {a}, {b}", (a, b), writes)
            return
        match op:
            case "add":
                yield from self._add(d, a, signed(b, 64))
            case "sub":
                yield from self._add(d, a, signed(-b, 64))
            case "and":
                yield from self._and(d, a, b & WHOLE)
            case "or" | "xor":
                yield from self._or(op, d, a, b & WHOLE)
            case "mul":
                yield from self._multiply(d, a, signed(b, 64))
            case "shl" | "shr" | "sar":
                yield from self._shift(op, d, a, b)

    def _add(self, d: Register, a: Register, value: int) -> Code:
        high, low = high_adjusted(value), signed(value, 16)
        if value == 0:
            yield from self.move(d, a)
        elif self.linkage == "go" and d == SP != a:
            # Go's assembler takes any addition of a constant to the stack pointer for a step of it, whatever it is
            # added to.
            middle = _free(a)
            yield from self._add(middle, a, value)
            yield from self.move(SP, middle)
        elif a != R0 and fits(value, 16):
            yield insn(f"addi {d}, {a}, {number(value)}", (a,), (d,))
        elif a != R0 and fits(high, 16) and (low == 0 or d != R0):
            # The stack pointer may not go further than it is meant to, not even between two instructions.
            middle = _free(a) if d == SP and low and (low < 0) != (value < 0) else d
            yield insn(f"addis {middle}, {a}, {number(high)}", (a,), (middle,))
            if low:
                yield insn(f"addi {d}, {middle}, {number(low)}", (middle,), (d,))
        else:
            yield from self._with_constant("add", d, a, value)

    def _and(self, d: Register, a: Register, mask: int) -> Code:
        run = _run(mask)
        if mask == 0:
            yield from self.constant(d, 0)
        elif mask == WHOLE:
            yield from self.move(d, a)
        elif self.linkage == "go" and mask in (0xFF, 0xFFFF, 0xFFFFFFFF):
            yield from self.extend(d, a, mask.bit_length(), signed=False)
        elif run is not None and run[1] == 63:
            yield insn(f"clrldi {d}, {a}, {number(run[0])}", (a,), (d,))
        elif run is not None and run[0] == 0:
            yield insn(f"clrrdi {d}, {a}, {number(63 - run[1])}", (a,), (d,))
        elif run is not None and run[0] >= 32 and self.linkage != "go":
            # Go 1.19's assembler makes of a rotation by 0 one by r0.
            first, last = run[0] - 32, run[1] - 32
            yield insn(f"rlwinm {d}, {a}, 0x0, {number(first)}, {number(last)}", (a,), (d,))
        elif mask <= 0xFFFF:
            yield insn(f"andi. {d}, {a}, {number(mask)}", (a,), (d, CR[0]))
        elif mask <= 0xFFFFFFFF and mask & 0xFFFF == 0:
            yield insn(f"andis. {d}, {a}, {number(mask >> 16)}", (a,), (d, CR[0]))
        elif run is not None and run[0] >= 32:
            yield insn(f"clrrdi {d}, {a}, {number(63 - run[1])}", (a,), (d,))
            yield insn(f"clrldi {d}, {d}, {number(run[0])}", (d,), (d,))
        else:
            yield from self._with_constant("and", d, a, signed(mask, 64))

    def _or(self, op: Literal["or", "xor"], d: Register, a: Register, value: int) -> Code:
        if value == 0:
            yield from self.move(d, a)
        elif value == WHOLE:
            yield from self.constant(d, -1) if op == "or" else iter((insn(f"not {d}, {a}", (a,), (d,)),))
        elif value <= 0xFFFFFFFF:
            source = a
            for name, part in ((f"{op}is", value >> 16), (f"{op}i", value & 0xFFFF)):
                if part:
                    yield insn(f"{name} {d}, {source}, {number(part)}", (source,), (d,))
                    source = d
        else:
            yield from self._with_constant(op, d, a, signed(value, 64))

    def _multiply(self, d: Register, a: Register, value: int) -> Code:
        if value == 0:
            yield from self.constant(d, 0)
        elif value > 0 and value.bit_count() == 1:
            yield from self._shift("shl", d, a, value.bit_length() - 1)
        elif fits(value, 16):
            yield insn(f"mulli {d}, {a}, {number(value)}", (a,), (d,))
        else:
            yield from self._with_constant("mul", d, a, value)

    def _shift(self, op: BinaryOp, d: Register, a: Register, amount: int) -> Code:
        if amount % 64 == 0:
            yield from self.move(d, a)
        else:
            writes = (d, XER) if op == "sar" else (d,)
            yield insn(f"{IMMEDIATE_SHIFTS[op]} {d}, {a}, {number(amount % 64)}", (a,), writes)

    def _with_constant(self, op: BinaryOp, d: Register, a: Register, value: int) -> Code:
        temporary = _free(a, d) if d == a else d
        yield from self.constant(temporary, value)
        yield from self.binary(op, d, a, temporary)

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits == 64:
            yield from self.move(d, s)
        elif signed:
            yield insn(f"exts{ {8: 'b', 16: 'h', 32: 'w'}[bits] } {d}, {s}", (s,), (d,))
        elif self.linkage == "go" and bits == 32:  # as Go's assembler does it (asm9.go, asmout, case 13)
            yield insn(f"rldic {d}, {s}, 0x0, 0x20", (s,), (d,))
        elif self.linkage == "go":
            yield insn(f"rlwinm {d}, {s}, 0x0, {number(32 - bits)}, 0x1f", (s,), (d,))
        else:
            yield insn(f"clrldi {d}, {s}, {number(64 - bits)}", (s,), (d,))

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        if b == 0 and self.linkage == "go":
            # Go 1.19's assembler compares with r0 where it is told to compare with 0.
            if condition == "uge":
                yield from self.jump(label)
            elif condition != "ult":
                other, value = _BESIDE_ZERO[condition]
                yield from self.compare_branch(other, a, value, label)
            return
        logical = "l" if condition in ("ult", "ule", "ugt", "uge") else ""
        if isinstance(b, int):
            value = b & WHOLE if logical else signed(b, 64)
            if condition in ("eq", "ne") and 0x8000 <= value <= 0xFFFF:
                logical = "l"
            if (0 <= value <= 0xFFFF) if logical else fits(value, 16):
                yield insn(f"cmp{logical}di {a}, {number(value)}", (a,), (CR[0],))
            else:
                temporary = _free(a)
                yield from self.constant(temporary, value)
                yield insn(f"cmp{logical}d {a}, {temporary}", (a, temporary), (CR[0],))
        else:
            yield insn(f"cmp{logical}d {a}, {b}", (a, b), (CR[0],))
        yield Insn(f"{BRANCHES[condition]} {label}", reads=frozenset((CR[0],)), transfer="branch", target=label)

    def control(self, code: bytes, text: str, address: int) -> Control:
        """Power ISA, Book I, 2.4 "Branch Instructions", 2.7 "System Call Instructions", 3.3.11 "Trap Instructions"."""
        word = int.from_bytes(code, self.order)
        operation, extended, link = word >> 26, word >> 1 & 0x3FF, bool(word & 1)
        from_here = 0 if word & 2 else address  # unless AA is set
        conditional = word >> 21 & 0b10100 != 0b10100
        if operation == 18:
            return Control("call" if link else "jump", from_here + 4 * signed_field(word, 2, 24))
        if operation == 16:
            target = from_here + 4 * signed_field(word, 2, 14)
            return Control("call" if link else "branch" if conditional else "jump", target)
        if operation == 19 and extended in (16, 528, 560):
            if link:
                return Control("call")
            return Control("return" if extended == 16 else "branch" if conditional else "jump", conditional=conditional)
        if operation == 17:
            return Control("system")
        always = word >> 21 & 31 == 31
        if always and (operation in (2, 3) or (operation == 31 and extended in (4, 68))):
            return Control("trap")
        return Control("trap") if word == 0 else STRAIGHT_ON  # a word of zeros is illegal, and stays so

    def jump(self, label: str) -> Code:
        yield Insn(f"b {label}", transfer="jump", target=label)

    def call(self, symbol: str, callee: Convention) -> Code:
        if self.linkage == "pic" and callee.toc_slot is None:
            raise ValueError(f"what lies in another module changes r2, and {callee.name} has no place to keep it in")
        yield Insn(
            f"bl {spelled(symbol)}",
            writes=frozenset((LR,)),
            transfer="call",
            relocation=Relocation("R_PPC64_REL24", symbol),
            keystone="bl 0x0",
        )
        if callee.toc_slot is not None and self.linkage != "go":
            # The linker makes a load of r2 of it when it has sent the call through a stub (ELFv1 3.5.11).
            yield insn("nop")

    def call_register(self, address: Register, callee: Convention) -> Code:
        if callee.toc_slot is None:
            yield from self._through_ctr(address, callee, "bctrl")
            return
        yield from self.store(TOC, SP, callee.toc_slot, 64)
        yield from self._through_ctr(address, callee, "bctrl")
        yield from self.load(TOC, SP, callee.toc_slot, 64, signed=False)

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        """For functions of the same module: nothing is left behind that could restore r2, and ld says so."""
        if self.linkage == "pic":
            raise ValueError("a jump to another module would leave its r2 to the caller: call and return instead")
        yield Insn(
            f"b {spelled(symbol)}",
            transfer="jump",
            relocation=Relocation("R_PPC64_REL24", symbol),
            keystone="b 0x0",
        )

    def jump_register(self, address: Register, callee: Convention) -> Code:
        """For functions of the same module: nothing is left behind that could restore r2."""
        yield from self._through_ctr(address, callee, "bctr")

    def _through_ctr(self, address: Register, callee: Convention, branch: str) -> Code:
        """To the function that `address` points to, which is a descriptor where the convention has them."""
        if callee.descriptors:
            # ELFv1 3.5.11: entry, TOC, environment. r0 may come back changed from a C function anyway.
            yield from self.load(R0, address, 0, 64, signed=False)
            yield insn(f"mtctr {R0}", (R0,), (CTR,))
            yield from self.load(TOC, address, 8, 64, signed=False)
            yield from self.load(R11, address, 16, 64, signed=False)
            needed = frozenset((CTR, TOC, R11))
        else:
            yield from self.move(R12, address)
            yield insn(f"mtctr {R12}", (R12,), (CTR,))
            needed = frozenset((CTR, R12))
        if branch == "bctrl":
            yield Insn(branch, reads=needed, writes=frozenset((LR,)), transfer="call")
        else:
            yield Insn(branch, reads=needed, transfer="jump")

    def trap(self) -> Code:
        """Power ISA, "Trap Word": `tw 31,r0,r0` traps whatever is compared."""
        yield Insn("trap", memory="both", transfer="trap")

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(R0, number)
        yield self.kernel_entry("sc")
        if label:
            yield Insn(f"bns {label}", reads=frozenset((CR[0],)), transfer="branch", target=label)
            yield insn(f"neg {R[3]}, {R[3]}", (R[3],), (R[3],))
            yield Insn("", label=label)

    # -- tables of entries

    def why_no_table(self, convention: Convention) -> str:
        return "a function that is entered through a pointer is told its own address, or its table of contents"

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        """The body leaves the word at r1 free: the back chain is there, or Go's return address."""
        convention = request.convention
        reasons = dict.fromkeys(
            (register for register, _ in request.saves), f"{convention.name} keeps it for its caller"
        )
        fields = [register for register in reasons if register in CR]
        if request.link:
            reasons[LR] = "the body calls, and a call overwrites it"
        places: dict[Register, int] = {}  # above the CFA
        for register in (*fields[:1], *([LR] if LR in reasons else [])):
            if register in convention.save_area:
                places[register] = convention.save_area[register]
        at_bottom = LR in reasons and LR not in places and convention.return_slot == "bottom"

        slots: list[Slot] = []
        inside = [r for r in reasons if r not in places and r not in fields[1:] and not (at_bottom and r == LR)]
        top = request.body
        if at_bottom:
            top = max(top, WORD)
            slots.append(Slot(0, WORD, _owner(LR, fields), "Go's traceback looks for it at 0(r1)", LR))
        elif convention.back_chain and (top or inside or LR in reasons):
            # Whoever is called writes into the linkage area; a leaf needs the back chain alone.
            top = max(top, LINKAGE if request.link else WORD)
            slots.append(Slot(0, WORD, "back chain", f"{convention.name} has every frame point to its caller's"))
        for register in sorted(inside, key=lambda r: (-_slot_size(r), _RANK[r.bank], r.number)):
            top = aligned(top, _slot_size(register))
            slots.append(Slot(top, _slot_size(register), _owner(register, fields), reasons[register], register))
            top += _slot_size(register)
        size = aligned(top, max(request.alignment, convention.alignment))
        for register, place in places.items():
            slot_size = _slot_size(register)
            slots.append(Slot(size + place, slot_size, _owner(register, fields), reasons[register], register))
        return Frame(size, tuple(sorted(slots, key=lambda slot: slot.offset)), request)

    def prologue(self, frame: Frame) -> Code:
        yield from in_part("prologue", self._enter(_Plan(frame)))

    def global_entry(self, name: str, convention: Convention) -> Code:
        """ELFv2, "The Global Entry Point": entered with its address in r12 and another module's r2."""
        if convention.call_through is None:
            return
        field = 2 if self.order == "big" else 0
        yield replace(
            insn(f"addis {TOC}, {R12}, {TOC_SYMBOL}-{spelled(name)}@ha", (R12,), (TOC,)),
            keystone=f"addis {TOC}, {R12}, 0x0",
            relocation=Relocation("R_PPC64_REL16_HA", TOC_SYMBOL, field, field),
        )
        yield replace(
            insn(f"addi {TOC}, {TOC}, {TOC_SYMBOL}-{spelled(name)}@l", (TOC,), (TOC,)),
            keystone=f"addi {TOC}, {TOC}, 0x0",
            relocation=Relocation("R_PPC64_REL16_LO", TOC_SYMBOL, 4 + field, field),
        )
        yield Insn(f".localentry {spelled(name)}, .-{spelled(name)}", label=LOCAL_ENTRY)

    def epilogue(self, frame: Frame) -> Code:
        yield from in_part("epilogue", self._exit(_Plan(frame)))

    def leave(self, frame: Frame, pop: int) -> Code:
        if pop:
            raise ValueError("no convention of ppc64 has the callee pop arguments")
        yield Insn("blr", reads=frozenset((LR,)), transfer="return", part="epilogue")

    def _enter(self, plan: _Plan) -> Code:
        size = plan.frame.size
        if LR in plan.above:
            yield insn(f"mflr {plan.link}", (LR,), (plan.link,))
            yield from self.store(plan.link, SP, plan.above[LR], 64)
        if plan.fields and plan.fields[0] in plan.above:
            yield insn(f"mfcr {R12}", CR, (R12,))
            yield from self.store(R12, SP, plan.above[plan.fields[0]], 32)
        if size:
            yield from self._open(plan)
        for register, offset in plan.integers:
            yield from self.store(register, plan.base, offset, 64)
        for register, offset in plan.floats:
            yield from self.float_store(register, plan.base, offset, 64)
        for register, offset in plan.controls:
            yield from self._save_control(plan, register, offset)
        yield from self._vectors("store", plan, plan.vectors)
        if plan.vscr is not None:
            yield insn(f"mfvscr {V[0]}", (VSCR,), (V[0],))
            yield from self._vectors("store", plan, [(V[0], plan.vscr)])

    def _open(self, plan: _Plan) -> Code:
        """Lower r1 and store the word at it in one instruction: a signal sees both or neither."""
        size = plan.frame.size
        stored = None
        if plan.back_chain:
            stored = SP
        elif plan.link_at_bottom:
            stored = plan.link
            yield insn(f"mflr {stored}", (LR,), (stored,))
        if not plan.far:
            if stored is None:
                yield from self._add(SP, SP, -size)
            else:
                text = f"stdu {stored}, {number(-size)}({SP})"
                yield insn(text, (SP, stored), (SP,), memory="write")
            return
        yield from self.move(plan.base, SP)
        yield from self.constant(R11, -size)
        if stored is None:
            yield insn(f"add {SP}, {SP}, {R11}", (SP, R11), (SP,))
        else:
            yield insn(f"stdux {stored}, {SP}, {R11}", (SP, R11, stored), (SP,), memory="write")

    def _exit(self, plan: _Plan) -> Code:
        size = plan.frame.size
        if plan.far and plan.back_chain:
            yield from self.load(plan.base, SP, 0, 64, signed=False)
        elif plan.far:
            yield from self.constant(plan.base, size)
            yield insn(f"add {plan.base}, {plan.base}, {SP}", (plan.base, SP), (plan.base,))
        if plan.vscr is not None:
            yield from self._vectors("load", plan, [(V[0], plan.vscr)])
            yield insn(f"mtvscr {V[0]}", (V[0],), (VSCR,))
        yield from self._vectors("load", plan, plan.vectors)
        for register, offset in plan.controls:
            yield from self._restore_control(plan, register, offset)
        for register, offset in plan.floats:
            yield from self.float_load(register, plan.base, offset, 64)
        for register, offset in plan.integers:
            yield from self.load(register, plan.base, offset, 64, signed=False)
        if plan.link_at_bottom:
            yield from self.load(plan.link, SP, 0, 64, signed=False)
        if plan.far:
            yield from self.move(SP, plan.base)
        else:
            yield from self._add(SP, SP, size)
        if LR in plan.above:
            yield from self.load(plan.link, SP, plan.above[LR], 64, signed=False)
        if plan.fields and plan.fields[0] in plan.above:
            yield from self.load(R12, SP, plan.above[plan.fields[0]], 32, signed=False)
            yield self._put_fields(plan, R12)
        if LR in plan.above or plan.link_at_bottom:
            yield insn(f"mtlr {plan.link}", (plan.link,), (LR,))

    @staticmethod
    def _put_fields(plan: _Plan, source: Register) -> Insn:
        mask = sum(0x80 >> field.number for field in plan.fields)
        # With one field GNU as takes `mtcrf` for the faster instruction: said outright, both assemblers agree.
        name = "mtocrf" if len(plan.fields) == 1 else "mtcrf"
        return insn(f"{name} {number(mask)}, {source}", (source,), plan.fields)

    def _save_control(self, plan: _Plan, register: Register, offset: int) -> Code:
        temporary = plan.temporary
        if register == FPSCR:
            # f0 carries no argument and no result, and the floating point registers are saved already.
            yield insn(f"mffs {F[0]}", (FPSCR,), (F[0],))
            yield from self.float_store(F[0], plan.base, offset, 64)
            return
        if register in CR:
            yield insn(f"mfcr {temporary}", CR, (temporary,))
        else:
            yield insn(f"mfspr {temporary}, {number(register.number)}", (register,), (temporary,))
        yield from self.store(temporary, plan.base, offset, 8 * _slot_size(register))

    def _restore_control(self, plan: _Plan, register: Register, offset: int) -> Code:
        temporary = plan.temporary
        if register == FPSCR:
            yield from self.float_load(F[0], plan.base, offset, 64)
            # The 1 means all 64 bits (Power ISA 2.07, I 4.6.9): DRN is in the upper half.
            yield insn(f"mtfsf 0xff, {F[0]}, 0x1, 0x0", (F[0],), (FPSCR,))
            return
        yield from self.load(temporary, plan.base, offset, 8 * _slot_size(register), signed=False)
        if register in CR:
            yield self._put_fields(plan, temporary)
        else:
            yield insn(f"mtspr {number(register.number)}, {temporary}", (temporary,), (register,))

    def _vectors(self, kind: Literal["load", "store"], plan: _Plan, vectors: Sequence[tuple[Register, int]]) -> Code:
        """Vectors at consecutive places: a pointer that moves on, and registers with small multiples of 16 to add.

        Twelve of them take six instructions more than twelve, however many registers there are to spare beyond three.
        """
        if not vectors:
            return
        pointer, *indices = plan.pointers
        group = min(range(1, len(indices) + 2), key=lambda n: n - 1 + -(-len(vectors) // n))
        for position, index in enumerate(indices[: group - 1], 1):
            yield from self.constant(index, 16 * position)
        for position, (register, offset) in enumerate(vectors):
            step = position % group
            if step == 0:
                yield from self._add(pointer, plan.base, offset)
            address = f"{pointer}, {indices[step - 1]}" if step else f"0, {pointer}"
            reads = (pointer, indices[step - 1]) if step else (pointer,)
            if kind == "load":
                yield insn(f"lvx {register}, {address}", reads, (register,), memory="read")
            else:
                yield insn(f"stvx {register}, {address}", (*reads, register), (), memory="write")

    # -- fixed values, the thread, the passes at the end

    def establish(self, fixed: Fixed) -> Code:
        yield from self.constant(fixed.register, fixed.value)

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        yield from self.load(d, _thread_pointer(slot), slot.offset, 64, signed=False)

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        yield from self.store(s, _thread_pointer(slot), slot.offset, 64)

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Without moves of a register to itself, and without keeping the return address where it is in the frame.
        There is nothing to merge: each access is one instruction."""
        code = [item for item in code if item[0].text not in _IDLE or item[0].user_text]
        if not any(insn.text == HERE for insn, _ in code):
            return code
        saved = any(insn.part == "prologue" and LR in insn.reads for insn, _ in code)
        restored = all(
            any(LR in before.writes and before.part == "epilogue" for before, _ in code[max(index - 4, 0) : index])
            for index, (insn, _) in enumerate(code)
            if insn.transfer == "return" or (insn.transfer == "jump" and insn.target is None)
        )
        return _without_keeping_link(code) if saved and restored else code

    def function_header(self, name: str, convention: Convention) -> Iterable[str]:
        """ELFv1 gives the name to a descriptor in `.opd`; the code's own label is local, as gcc has it.

        ELFv2 has two entries to a function that uses its TOC pointer: `global_entry` makes the first. The others have
        one, and are entered with whatever r2 there is and leave it alone, which is what `.localentry name, 0` says,
        the default (ELFv2, "Symbol Values"; 1 would say that r2 comes back changed, and cost callers a reload).
        Go's functions know no descriptors: their names are their code.
        """
        if not convention.descriptors:
            yield from super().function_header(name, convention)
            return
        code = spelled(f".L.{name}")
        yield '.section .opd, "aw"'
        yield ".balign 8"
        yield f".globl {spelled(name)}"
        yield f".type {spelled(name)}, %function"
        yield f"{spelled(name)}:"
        yield f".quad {code}, .TOC.@tocbase, 0"
        yield ".text"
        yield f".balign {self.function_alignment}"
        yield f"{code}:"

    def function_footer(self, name: str, convention: Convention) -> Iterable[str]:
        if not convention.descriptors:
            yield from super().function_footer(name, convention)
        else:
            yield f".size {spelled(name)}, .-{spelled(f'.L.{name}')}"


class _Plan:
    """A frame sorted out: what is kept where, and from which register it is reached."""

    def __init__(self, frame: Frame) -> None:
        convention = frame.request.convention
        self.frame = frame
        self.far = frame.size > NEAR_FRAME
        # In a large frame everything is measured from the CFA, which r12 then holds.
        self.base = R12 if self.far else SP
        self.fields = sorted((register for register, _ in frame.request.saves if register in CR), key=_number)
        self.temporary = R0 if R0 in convention.scratch else convention.scratch[0]
        # Better one that no convention keeps: what comes back in it was loaded, and did not just stay there.
        near = next((r for r in (R0, R11) if r in convention.scratch), self.temporary)
        self.link = self.temporary if self.far else near
        self.back_chain = any(slot.owner == "back chain" for slot in frame.slots)
        # r0 may be an index, but as a pointer it would count as zero.
        free = [register for register in convention.scratch if register != self.base]
        self.pointers = sorted(free, key=lambda register: register == R0)
        self.above: dict[Register, int] = {}  # offsets from the CFA
        self.link_at_bottom = False
        self.vscr: int | None = None
        self.integers: list[tuple[Register, int]] = []
        self.floats: list[tuple[Register, int]] = []
        self.vectors: list[tuple[Register, int]] = []
        self.controls: list[tuple[Register, int]] = []
        for slot in frame.slots:
            register = slot.register
            if register is None:
                continue
            offset = slot.offset - frame.size if self.far else slot.offset
            if slot.offset >= frame.size:
                self.above[register] = slot.offset - frame.size
            elif register == LR and slot.offset == 0:
                self.link_at_bottom = True
            elif register == VSCR:
                self.vscr = offset
            else:
                kinds = {Bank.INTEGER: self.integers, Bank.FLOAT: self.floats, Bank.VECTOR: self.vectors}
                kinds.get(register.bank, self.controls).append((register, offset))


_RANK = {Bank.VECTOR: 0, Bank.INTEGER: 1, Bank.FLOAT: 2, Bank.CONTROL: 3}


def _slot_size(register: Register) -> int:
    """Bytes. The condition register is stored whole, as a word, and VSCR out of a vector register."""
    if register == VSCR:
        return 16
    return 4 if register in CR else register.bits // 8


def _owner(register: Register, fields: Sequence[Register]) -> str:
    if register == LR:
        return "return address"
    return " ".join(field.name for field in fields) if register in CR else register.name


def _number(register: Register) -> int:
    return register.number


def _thread_pointer(slot: ThreadSlot) -> Register:
    if slot.segment != "r13":
        raise ValueError(f"ppc64 has no thread pointer {slot.segment!r}: it is r13")
    return THREAD_POINTER


def _free(*taken: Register) -> Register:
    """A scratch register of every convention that is not among those in use."""
    for register in (R12, R11):
        if register not in taken:
            return register
    raise ValueError("r11 and r12 are both operands, and one is needed for a constant")


_IDLE = frozenset([f"mr {r}, {r}" for r in R] + [f"fmr {r}, {r}" for r in F])  # moves of a register to itself


def _without_keeping_link(code: Sequence[Placed]) -> list[Placed]:
    """`bcl` sets lr. Where the return address comes back from the frame, nothing need be done about that."""
    aside, back = f"mflr {R12}", f"mtlr {R12}"
    kept = list(code)
    for index in range(len(code) - 6, -1, -1):
        first, branch, last = code[index][0], code[index + 1][0], code[index + 5][0]
        if branch.text == HERE and (first.text, last.text) == (aside, back) and not branch.user_text:
            del kept[index + 5], kept[index]
    return kept


def _build(d: Register, value: int) -> Code:
    """The shortest sequence found for a signed 64-bit value, in `d` alone."""
    for name, operand, reads in _shortest(value):
        text = f"{name} {d}, {d}, {number(operand)}" if reads else f"{name} {d}, {number(operand)}"
        yield insn(text, (d,) if reads else (), (d,))


Step = tuple[str, int, bool]  # name, operand, whether the register is read


def _shortest(value: int) -> list[Step]:
    low, high = value & 0xFFFF, value >> 16
    if fits(value, 16):
        return [("li", value, False)]
    if fits(value, 32):
        return [("lis", high, False), *([("ori", low, True)] if low else [])]
    candidates: list[list[Step]] = []
    zeros = (value & -value).bit_length() - 1
    if zeros:
        candidates.append([*_shortest(value >> zeros), ("sldi", zeros, True)])
    leading = 64 - (value & WHOLE).bit_length()
    if leading:
        # With ones in front instead it may be shorter; they are cleared at the end.
        candidates.append([*_shortest(value - (1 << (64 - leading))), ("clrldi", leading, True)])
    upper = value >> 32
    start = _shortest(upper) if fits(upper, 16) else [("lis", upper >> 16, False), ("ori", upper & 0xFFFF, True)]
    halves: list[Step] = [("oris", high & 0xFFFF, True)] if high & 0xFFFF else []
    candidates.append([*start, ("sldi", 32, True), *halves, *([("ori", low, True)] if low else [])])
    return min(candidates, key=len)


def _run(mask: int) -> tuple[int, int] | None:
    """First and last bit, counted from the most significant, of a mask whose bits are one run."""
    low = (mask & -mask).bit_length() - 1
    if mask == 0 or (mask >> low) & ((mask >> low) + 1):
        return None
    return 64 - mask.bit_length(), 63 - low


PPC64 = Ppc64("ppc64", "big", 1)
PPC64_ELFV2 = Ppc64("ppc64", "big", 2)
PPC64LE = Ppc64("ppc64le", "little", 2)

TARGETS = (
    Target("linux/ppc64", "linux", PPC64, baseline="POWER8"),
    Target("linux/ppc64le", "linux", PPC64LE, baseline="POWER8"),
    Target("linux/ppc64-elfv2", "linux", PPC64_ELFV2, baseline="POWER8", variant="elfv2"),
)
