"""s390x: the caller leaves 160 bytes at its stack pointer, and they belong to the callee.

Sources: "s390x ELF ABI" (IBM, "zSeries ELF Application Binary Interface Supplement"), section "Function calling
sequence"; instructions and the FPC register: "z/Architecture Principles of Operation" (SA22-7832).

How this machine differs from the others:

* A C function saves r6 to r15 into its caller's frame with one instruction, before it has a frame of its own, and one
  instruction brings them back, the stack pointer and the return address among them. f8 to f15 go there too: the
  ABI's home slots of r2 to r5 and f0, f2, f4, f6 lie in the same 160 bytes and nobody else writes them.
* r6 is the fifth argument and is kept all the same.
* As a base or an index, r0 means "none".
* An FPR is the left half of a vector register, and a single lies in the left half of its FPR.
* Go wants r0 to be 0, has g in r13 and keeps the return address at 0(r15).

    C                                           Go (go0)

    |  arguments from the sixth on     | +160    |  arguments, results              |   +8
    |  f8 to f11                       | +128    |  the caller's return address     |   +0
    |  r6 to r15                       |  +48    +----------------------------------+ CFA = the caller's r15
    |  f12 to f15                      |  +16    |  control registers               |
    |  back chain, not used            |   +0    |  body                            |
    +----------------------------------+ CFA     |  return address                  |   +0
    |  control registers               |         +----------------------------------+ r15
    |  body                            |
    +----------------------------------+ r15
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    Control,
    Convention,
    Engines,
    Fixed,
    Fixup,
    Frame,
    FrameRequest,
    InRegister,
    Insn,
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
    spelled,
    system_calls,
    widened,
)

from .baselines.s390x import Z13
from .go import REGISTERS, REGISTERS_SOURCE, assign_go0, assign_goregs

WORD = 8
WHOLE = (1 << 64) - 1

# ----------------------------------------------------------------------------------------------------------- registers

R = tuple(Register(f"r{n}", Bank.INTEGER, 64, f"%r{n}", n, {14: ("lr",), 15: ("sp",)}.get(n, ())) for n in range(16))
F = tuple(Register(f"f{n}", Bank.FLOAT, 64, f"%f{n}", n) for n in range(16))
# v0 to v15 contain f0 to f15; what is left of them is nobody's, so they have no record.
V = {n: Register(f"v{n}", Bank.VECTOR, 128, f"%v{n}", n) for n in range(16, 32)}
A0, A1 = (Register(f"a{n}", Bank.CONTROL, 32, f"%a{n}", n) for n in range(2))
CC = Register("cc", Bank.CONTROL, 2, "cc", 0)
PROGRAM_MASK = Register("pm", Bank.CONTROL, 4, "pm", 0)
FPC = Register("fpc", Bank.CONTROL, 32, "fpc", 0)

_REGISTERS: Mapping[str, Register] = {
    name: register
    for register in (*R, *F, *V.values(), A0, A1, CC, PROGRAM_MASK, FPC)
    for name in (register.name, *register.aliases)
}
R0, R1, G, LINK, SP = R[0], R[1], R[13], R[14], R[15]
ZERO = Register("zero", Bank.INTEGER, 64, "0x0", 0)  # stands for the instructions that store a zero without a register

# Principles of Operation, chapter 9, "Floating-Point-Control (FPC) Register": byte 0 has the masks (bits 0 to 5),
# byte 3 the decimal rounding mode (25 to 27) and the binary one (29 to 31); flags and DXC are results.
FPC_CONTROL = 0xFC000077

# ---------------------------------------------------------------------------------------------------------- conventions


def assign_c(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """s390x ELF ABI, "Parameter passing": two independent sequences, then doublewords above the register save area.

    Integers are widened to 64 bits by their type. A single is in the left half of its FPR, and in the right half of
    its doubleword in memory.
    """
    integers = iter(convention.integer_arguments)
    floats = iter(convention.float_arguments)
    top = convention.first_stack_argument
    places: list[Location] = []
    for value in arguments:
        register = next(floats if value.kind == "float" else integers, None)
        if register is not None:
            places.append(_in_register(register, value))
            continue
        pad = convention.slot - value.bits // 8 if value.kind == "float" else 0
        places.append((widened(OnStack(top + pad), value, 8 * WORD),))
        top += convention.slot
    registers = convention.float_results if result and result.kind == "float" else convention.integer_results
    return Assignment(tuple(places), _in_register(registers[0], result) if result else (), top)


def _in_register(register: Register, value: ValueType) -> Location:
    left = value.kind == "float" and value.bits < register.bits
    return (widened(InRegister(register, left), value, 8 * WORD),)


_NEVER_CHANGED = {FPC: FPC_CONTROL, PROGRAM_MASK: 0xF, A0: 0xFFFFFFFF, A1: 0xFFFFFFFF}
_THREAD_POINTER = "half of the thread pointer"

C = Convention(
    name="c",
    title="zSeries ELF ABI",
    source='s390x ELF ABI, "Function calling sequence"',
    integer_arguments=R[2:7],
    float_arguments=(F[0], F[2], F[4], F[6]),
    integer_results=(R[2],),
    float_results=(F[0],),
    assign=assign_c,
    first_stack_argument=160,
    slot=WORD,
    kept=dict.fromkeys((*R[6:14], *F[8:16]), WHOLE) | _NEVER_CHANGED,
    fixed=(),
    reserved={SP: "the stack pointer", A0: _THREAD_POINTER, A1: _THREAD_POINTER},
    alignment=8,
    red_zone=0,
    area=160,
    save_area={R[n]: 8 * n for n in range(2, 16)} | {F[n]: 128 + 4 * n for n in (0, 2, 4, 6)},
    back_chain=False,
    callee_pops=False,
    return_address=LINK,
    return_slot="none",
    call_through=None,
    descriptors=False,
    toc_slot=None,
    thread=None,
    scratch=(R1, R0),
    linker_may_write=(R0, R1),
    notes={
        "r6": 'the fifth argument, kept nevertheless (s390x ELF ABI, "Registers")',
        "f8": '64 bits; the right halves of v8 to v15 and v16 to v31 are scratch (s390x ELF ABI, "Registers")',
        "fpc": "the document leaves it open; rounding modes and masks are the thread's, flags and DXC are results",
        "pm": 'the program mask is zero at entry and at return (s390x ELF ABI, "Registers")',
        "a0": 'a0 and a1 hold the thread pointer and never change (s390x ELF ABI, "Registers")',
        "area": "0 back chain, 16 to 127 r2 to r15, 128 to 159 f0 f2 f4 f6: the callee's to write, all of it; a lazy "
        'PLT writes 48 to 63 (s390x ELF ABI, "The stack frame")',
        "back chain": "optional, written only under -mbackchain",
    },
)

GO0 = Convention(
    name="go0",
    title="Go's stack convention, ABI0",
    source="cmd/internal/obj/s390x/a.out.go; cmd/compile/abi-internal.md, section on s390x",
    integer_arguments=(),
    float_arguments=(),
    integer_results=(),
    float_results=(),
    assign=partial(assign_go0, word=WORD),
    first_stack_argument=8,
    slot=1,
    kept=_NEVER_CHANGED,
    fixed=(Fixed(R0, WHOLE, 0, "Go's compiler and assembler use r0 as the number zero"),),
    reserved={
        R0: "holds zero",
        SP: "the stack pointer",
        A0: _THREAD_POINTER,
        A1: _THREAD_POINTER,
    },
    alignment=8,
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
    thread=G,
    # r10 and r11 are the temporaries of Go's assembler: text for it cannot have values there.
    scratch=(R[10], R[11], R1),
    linker_may_write=(),
    notes={
        "return address": "a function that calls keeps it at 0(r15), where Go's traceback looks",
        "kept": "nothing but the control registers, which Go never changes",
    },
)

GOREGS = GO0.derive(
    name="goregs",
    go_abi="ABIInternal",
    title=f"{REGISTERS}, since Go 1.26",
    source=REGISTERS_SOURCE,
    integer_arguments=R[2:10],
    float_arguments=F,
    integer_results=R[2:10],
    float_results=F,
    assign=partial(assign_goregs, left=True),
    notes=dict(GO0.notes)
    | {"since": "up to Go 1.25 it is go0 under another name", "r12": "the closure's context, in calls of closures"},
)

_CONVENTIONS: Mapping[str, Convention] = {"c": C, "go0": GO0, "goregs": GOREGS}

# --------------------------------------------------------------------------------------------------- instruction pieces

# s390x ELF ABI, "Relocation": the field counts halfwords from the start of the instruction, 2 bytes before it, which
# is why the addend is 2.
_FIXUPS: Mapping[str, Fixup] = {
    "R_390_PC32DBL": Fixup(4, 0xFFFFFFFF, shift=1, pc_relative=True),
    "R_390_PLT32DBL": Fixup(4, 0xFFFFFFFF, shift=1, pc_relative=True),
    "R_390_GOTENT": Fixup(4, 0xFFFFFFFF, shift=1, pc_relative=True, got=True),
    # What is not of our own making.
    "R_390_GOTPLTENT": Fixup(4, 0xFFFFFFFF, shift=1, pc_relative=True, got=True),
    "R_390_GOTPCDBL": Fixup(4, 0xFFFFFFFF, shift=1, pc_relative=True),
    "R_390_PC16DBL": Fixup(2, 0xFFFF, shift=1, pc_relative=True),
    "R_390_PLT16DBL": Fixup(2, 0xFFFF, shift=1, pc_relative=True),
    "R_390_PC32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
    "R_390_PC64": Fixup(8, 0xFFFFFFFFFFFFFFFF, pc_relative=True),
    "R_390_32": Fixup(4, 0xFFFFFFFF),
    "R_390_64": Fixup(8, 0xFFFFFFFFFFFFFFFF),
    "R_390_GOTOFF64": Fixup(8, 0xFFFFFFFFFFFFFFFF, base=GOT_SYMBOL),
    "R_390_GOT12": Fixup(2, 0x0FFF, base=GOT_SYMBOL, got=True),
    "R_390_GOT20": Fixup(4, 0x0FFFFF00, base=GOT_SYMBOL, got=True, scatter=((0x0FFF0000, 0), (0x0000FF00, 12))),
}


def number(value: int) -> str:
    """Hexadecimal, which Keystone cannot misread."""
    return f"{value:#x}"


def raw(*parts: tuple[int, int]) -> str:
    """Bytes for Keystone, most significant first, from (bits, value) pairs."""
    code, length = 0, 0
    for bits, value in parts:
        code, length = code << bits | value, length + bits
    return ".byte " + ", ".join(f"{byte:#04x}" for byte in code.to_bytes(length // 8, "big"))


def three(name: str, opcode: int, d: Register, a: Register, b: Register) -> Insn:
    """An RRF-a instruction of the distinct-operands facility, which Keystone does not know: op, r3 0, r1 r2."""
    keystone = raw((16, opcode), (4, b.number), (4, 0), (4, d.number), (4, a.number))
    return insn(f"{name} {d}, {a}, {b}", (a, b), (d, CC), keystone=keystone)


# Short (12-bit unsigned displacement, 4 bytes) and long (20-bit signed, 6 bytes) names of a storage instruction.
LOADS = {(64, False): "lg", (64, True): "lg", (32, False): "llgf", (32, True): "lgf", (16, False): "llgh",
         (16, True): "lgh", (8, False): "llgc", (8, True): "lgb"}  # fmt: skip
STORES = {64: (None, "stg"), 32: ("st", "sty"), 16: ("sth", "sthy"), 8: ("stc", "stcy")}
ZERO_STORES = {64: "mvghi", 32: "mvhi", 16: "mvhhi", 8: "mvi"}  # immediate to memory
FLOAT_LOADS = {64: ("ld", "ldy"), 32: ("le", "ley")}
FLOAT_STORES = {64: ("std", "stdy"), 32: ("ste", "stey")}

LONG_REACH = 0x80000  # displacements of 20 bits, with sign
SHORT_REACH = 0x1000  # displacements of 12 bits, without
GO_REACH = 0x7FF8  # of LAY for Go's assembler: cmd/internal/obj/s390x/a.out.go, BIG

SUFFIXES: dict[Condition, str] = {
    "eq": "e", "ne": "ne", "lt": "l", "le": "le", "gt": "h", "ge": "he", "ult": "l", "ule": "le", "ugt": "h",
    "uge": "he",
}  # fmt: skip
UNSIGNED = ("ult", "ule", "ugt", "uge")

# The home slots that no kept integer register uses, in the order in which they are given away.
SPARE_HOMES = (128, 136, 144, 152, 16, 24, 32, 40)

CONTROL_SLOT = 4  # bytes: the FPC register, the program mask, an access register
LARGEST_FRAME = LONG_REACH - 160  # so that one displacement reaches the caller's save area from r15


# arch/s390/kernel/signal.c: struct rt_sigframe is a register save area (160 bytes), two bytes of code, siginfo (128)
# and ucontext (1024 with the vector registers).
SIGNALS = SignalFrame(
    "arch/s390/kernel/signal.c, setup_rt_frame and rt_sigreturn",
    size=168 + 128 + 1024,
    info=168,
    context=168 + 128,
    alignment=8,
    number=173,
    restorer="taken",
    chain=0,
)


class S390x(Architecture):
    """z/Architecture, 64-bit mode."""

    name = "s390x"
    extensions = Z13
    family = "s390x"
    machines: Mapping[str, int] = {"elf": 22}
    linkages = ("static", "pic", "go")
    word = WORD
    order = "big"
    engines = Engines(
        "KS_ARCH_SYSTEMZ",
        ("KS_MODE_BIG_ENDIAN",),
        "UC_ARCH_S390X",
        ("UC_MODE_BIG_ENDIAN",),
        None,
        "CS_ARCH_SYSZ",
        ("CS_MODE_BIG_ENDIAN",),
    )
    registers = _REGISTERS
    sp = SP
    zero = ZERO
    flags = CC
    conventions = _CONVENTIONS
    signals = SIGNALS
    system_calls = system_calls(
        C,
        _REGISTERS.values(),
        (R1, *R[2:8]),
        R[2],
        (),
        "Linux, arch/s390/kernel/entry.S, system_call; syscall(2)",
        size=2,
        number_at=1,
    )
    fixups = _FIXUPS
    two_address = False
    singles_left = True
    gnu_as = ("s390x-linux-gnu-as", "-m64", "-march=z13")
    clang = ("--target=s390x-linux-gnu", "-march=z13")
    header = ('.machine "z13"',)
    comment = "#"

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        # Downwards from r13: the fewer registers between the lowest one and r15, the less one stmg stores.
        order = (*R[2:6], *R[13:5:-1], *R[1:2])
        return convention.leaves(order)

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        order = (F[1], F[3], F[5], F[7], F[0], F[2], F[4], F[6], *F[8:])
        return convention.leaves(order)

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        if d != s:
            yield insn(f"lgr {d}, {s}", (s,), (d,))

    def constant(self, d: Register, value: int) -> Code:
        value &= WHOLE
        high, low = value >> 32, value & 0xFFFFFFFF
        if -0x8000 <= signed(value, 64) < 0x8000:
            yield insn(f"lghi {d}, {number(signed(value, 64))}", (), (d,))
        elif (halfword := _single_halfword(value)) is not None and (self.linkage != "go" or halfword[0] != "ll"):
            yield insn(f"lli{halfword[0]} {d}, {number(halfword[1])}", (), (d,))
        elif -0x80000000 <= signed(value, 64) < 0x80000000:
            yield insn(f"lgfi {d}, {number(signed(value, 64))}", (), (d,))
        elif high == 0:
            yield insn(f"llilf {d}, {number(low)}", (), (d,))
        elif low == 0:
            yield insn(f"llihf {d}, {number(high)}", (), (d,))
        elif self.linkage == "go":  # whose assembler cannot insert into the left half
            yield from self.constant(d, high << 32)
            yield from self._immediates("oi", d, low, low)
        else:
            yield from self.constant(d, signed(low, 32))
            name, part = _insertion(high, signed(low, 32) < 0)
            yield insn(f"{name} {d}, {number(part)}", (d,), (d,))

    def symbol_address(self, d: Register, symbol: str) -> Code:
        if self.linkage == "pic":
            text, code = f"lgrl {d}, {spelled(symbol)}@GOT", 0xC408_0000_0000 | d.number << 36
            yield replace(
                insn(text, (), (d,), memory="read", keystone=".byte " + ", ".join(map(hex, code.to_bytes(6, "big")))),
                relocation=Relocation("R_390_GOTENT", symbol, addend=2, offset=2),
            )
            return
        yield replace(
            insn(f"larl {d}, {spelled(symbol)}", (), (d,), keystone=f"larl {d}, 0x0"),
            relocation=Relocation("R_390_PC32DBL", symbol, addend=2, offset=2),
        )

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        yield from self._storage("load", (None, LOADS[bits, signed]), d, base, offset, bits // 8)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        if s is ZERO:
            if not 0 <= offset < SHORT_REACH:
                yield from self.binary("add", R1, base, offset & WHOLE)
                base, offset = R1, 0
            yield insn(f"{ZERO_STORES[bits]} {number(offset)}({base}), 0x0", (base,), (), memory="write")
            return
        yield from self._storage("store", STORES[bits], s, base, offset, bits // 8)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        # Both halves, for a single too: `ler` would have to wait for the old right half of its target.
        if d != s:
            yield insn(f"ldr {d}, {s}", (s,), (d,))

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._storage("load", FLOAT_LOADS[bits], d, base, offset, bits // 8)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        yield from self._storage("store", FLOAT_STORES[bits], s, base, offset, bits // 8)

    def _storage(
        self,
        kind: Literal["load", "store"],
        names: tuple[str | None, str],
        register: Register,
        base: Register,
        offset: int,
        size: int,
    ) -> Code:
        if base == R0:
            raise ValueError("r0 cannot be a base: it would be taken for no base at all")
        short, long = names
        index = ""
        reads = [base]
        access: Access | None = Access(kind, register, base, offset, size)
        if not -LONG_REACH <= offset < LONG_REACH:
            # A load's own target can hold the offset until it is overwritten.
            own = kind == "load" and register.bank is Bank.INTEGER and register not in (R0, base)
            temporary = register if own else R1
            if temporary in (base, register) and not own:
                raise ValueError(f"{temporary.name} is needed to reach {offset:#x}({base.name})")
            yield from self.constant(temporary, offset)
            index, offset, access = f"{temporary},", 0, None
            reads.append(temporary)
        # Loads of less than a doubleword into an FPR leave its right half.
        if kind == "store" or (register.bank is Bank.FLOAT and size < WORD):
            reads.append(register)
        name = short if short and 0 <= offset < SHORT_REACH else long
        text = f"{name} {register}, {number(offset)}({index}{base})"
        writes = (register,) if kind == "load" else ()
        yield insn(text, reads, writes, memory="read" if kind == "load" else "write", access=access)

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        match op:
            case "add":
                yield from self._add(d, a, b)
            case "sub":
                yield from self._subtract(d, a, b)
            case "and":
                yield from self._and(d, a, b)
            case "or":
                yield from self._or(d, a, b)
            case "xor":
                yield from self._xor(d, a, b)
            case "mul":
                yield from self._multiply(d, a, b)
            case "shl" | "shr" | "sar":
                yield from self._shift({"shl": "sllg", "shr": "srlg", "sar": "srag"}[op], d, a, b)

    def _add(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            if d in (a, b):
                other = b if d == a else a
                # Go's assembler makes one of three operands of every addition of registers.
                go = self.linkage == "go"
                yield three("agrk", 0xB9E8, d, d, other) if go else insn(f"agr {d}, {other}", (d, other), (d, CC))
            elif R0 in (a, b):
                yield three("agrk", 0xB9E8, d, a, b)
            else:
                yield insn(f"la {d}, 0x0({a},{b})", (a, b), (d,))
            return
        value = signed(b, 64)
        if value == 0:
            yield from self.move(d, a)
        elif d != a and a != R0 and self._reaches(value):
            name = "la" if 0 <= value < SHORT_REACH else "lay"
            yield insn(f"{name} {d}, {number(value)}({a})", (a,), (d,))
        elif self.linkage == "go" and d == SP != a:
            # Go's assembler takes any addition to the stack pointer for a step of it, whatever it is added to.
            yield from self._add(R1, a, value)
            yield from self.move(SP, R1)
        elif -0x80000000 <= value < 0x80000000:
            yield from self.move(d, a)
            name = "aghi" if -0x8000 <= value < 0x8000 else "agfi"
            yield insn(f"{name} {d}, {number(value)}", (d,), (d, CC))
        else:
            temporary = _temporary(d, a)
            yield from self.constant(temporary, value)
            yield from self._add(d, a, temporary)

    def _reaches(self, offset: int) -> bool:
        """Whether an address can be `offset` away from its base."""
        reach = GO_REACH if self.linkage == "go" else LONG_REACH
        return -reach <= offset < reach

    def _subtract(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, int):
            yield from self._add(d, a, -b)
        elif d == a:
            yield insn(f"sgr {d}, {b}", (d, b), (d, CC))
        else:
            yield three("sgrk", 0xB9E9, d, a, b)

    def _and(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield self._logical("n", 0xB9E4, d, a, b)
            return
        mask = b & WHOLE
        if mask == 0:
            yield from self.constant(d, 0)
            return
        changed = _halfwords(mask ^ WHOLE)
        run = _run(mask)
        if mask in (0xFF, 0xFFFF, 0xFFFFFFFF):
            yield from self.extend(d, a, mask.bit_length(), signed=False)
        elif d == a and len(changed) == 1 and not self._has_no_immediate(mask ^ WHOLE):
            yield from self._immediates("ni", d, mask, mask ^ WHOLE)
        elif run is not None:
            first, last = run
            # The flag 0x80 clears the bits outside of the run; bits count from the most significant one.
            yield insn(f"risbg {d}, {a}, {number(first)}, {number(0x80 | last)}, 0x0", (a,), (d, CC))
        elif self._has_no_immediate(mask ^ WHOLE):
            yield from self._by_register("n", 0xB9E4, d, a, mask)
        else:
            yield from self.move(d, a)
            yield from self._immediates("ni", d, mask, mask ^ WHOLE)

    def _or(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield self._logical("o", 0xB9E6, d, a, b)
        elif self._has_no_immediate(b & WHOLE):
            yield from self._by_register("o", 0xB9E6, d, a, b)
        else:
            yield from self.move(d, a)
            yield from self._immediates("oi", d, b & WHOLE, b & WHOLE)

    def _xor(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield self._logical("x", 0xB9E7, d, a, b)
            return
        if self._has_no_immediate(b & WHOLE):
            yield from self._by_register("x", 0xB9E7, d, a, b)
            return
        yield from self.move(d, a)
        for name, part in (("xihf", b >> 32 & 0xFFFFFFFF), ("xilf", b & 0xFFFFFFFF)):
            if part:
                yield insn(f"{name} {d}, {number(part)}", (d,), (d, CC))

    def _has_no_immediate(self, changed: int) -> bool:
        """Whether the bits in which an operand changes another are out of its reach: Go's assembler has immediates for
        the right half alone."""
        return self.linkage == "go" and changed >> 32 != 0

    def _by_register(self, letter: str, opcode: int, d: Register, a: Register, value: int) -> Code:
        temporary = _temporary(d, a)
        yield from self.constant(temporary, value)
        yield self._logical(letter, opcode, d, a, temporary)

    @staticmethod
    def _logical(letter: str, opcode: int, d: Register, a: Register, b: Register) -> Insn:
        if d in (a, b):
            other = b if d == a else a
            return insn(f"{letter}gr {d}, {other}", (d, other), (d, CC))
        return three(f"{letter}grk", opcode, d, a, b)

    @staticmethod
    def _immediates(stem: str, d: Register, value: int, changed: int) -> Code:
        """`ni` or `oi` on the halves of `d` in which `changed` has bits: halfwords where that is shorter."""
        for half, shift in (("h", 32), ("l", 0)):
            word, touched = value >> shift & 0xFFFFFFFF, changed >> shift & 0xFFFFFFFF
            if touched >> 16 and touched & 0xFFFF:
                yield insn(f"{stem}{half}f {d}, {number(word)}", (d,), (d, CC))
            elif touched >> 16:
                yield insn(f"{stem}{half}h {d}, {number(word >> 16)}", (d,), (d, CC))
            elif touched:
                yield insn(f"{stem}{half}l {d}, {number(word & 0xFFFF)}", (d,), (d, CC))

    def _multiply(self, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            if d == b:
                a, b = b, a
            yield from self.move(d, a)
            yield insn(f"msgr {d}, {b}", (d, b), (d,))
            return
        value = signed(b, 64)
        if value == 0:
            yield from self.constant(d, 0)
        elif value > 0 and value.bit_count() == 1:
            yield from self._shift("sllg", d, a, value.bit_length() - 1)
        elif -0x80000000 <= value < 0x80000000:
            yield from self.move(d, a)
            name = "mghi" if -0x8000 <= value < 0x8000 else "msgfi"
            yield insn(f"{name} {d}, {number(value)}", (d,), (d,))
        else:
            temporary = _temporary(d, a)
            yield from self.constant(temporary, value)
            yield from self._multiply(d, a, temporary)

    def _shift(self, name: str, d: Register, a: Register, b: Register | int) -> Code:
        writes = (d, CC) if name == "srag" else (d,)
        if isinstance(b, Register):
            if b == R0:
                raise ValueError("r0 cannot hold a shift amount: it would be taken for none")
            yield insn(f"{name} {d}, {a}, 0x0({b})", (a, b), writes)
        elif amount := b % 64:
            yield insn(f"{name} {d}, {a}, {number(amount)}", (a,), writes)
        else:
            yield from self.move(d, a)

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits == 64:
            yield from self.move(d, s)
            return
        name = ("lg" if signed else "llg") + {8: "b" if signed else "c", 16: "h", 32: "f"}[bits] + "r"
        yield insn(f"{name} {d}, {s}", (s,), (d,))

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        suffix = SUFFIXES[condition]
        logical = condition in UNSIGNED
        if isinstance(b, Register):
            yield self._compare_and_branch("clgrj" if logical else "cgrj", condition, a, f"{b}", (a, b), label)
            return
        value = b & WHOLE if logical else signed(b, 64)
        equality = condition in ("eq", "ne")
        if not logical and -0x80 <= value < 0x80:
            yield self._compare_and_branch("cgij", condition, a, number(value), (a,), label)
        elif (logical or equality) and 0 <= value < 0x100:
            yield self._compare_and_branch("clgij", condition, a, number(value), (a,), label)
        elif not logical and -0x8000 <= value < 0x8000:
            yield insn(f"cghi {a}, {number(value)}", (a,), (CC,))
            yield _branch(f"j{suffix} {label}", (CC,), label)
        elif not logical and -0x80000000 <= value < 0x80000000:
            yield insn(f"cgfi {a}, {number(value)}", (a,), (CC,))
            yield _branch(f"j{suffix} {label}", (CC,), label)
        elif (logical or equality) and 0 <= value < 0x100000000:
            yield insn(f"clgfi {a}, {number(value)}", (a,), (CC,))
            yield _branch(f"j{suffix} {label}", (CC,), label)
        else:
            if a == R1:
                raise ValueError(f"r1 is needed to compare with {value:#x}")
            yield from self.constant(R1, value)
            yield from self.compare_branch(condition, a, R1, label)

    def _compare_and_branch(
        self, name: str, condition: Condition, a: Register, b: str, reads: Iterable[Register], label: str
    ) -> Insn:
        if self.linkage == "go" and condition == "ne":
            # In its CMPBNE is also the bit that nothing compared ever has.
            return _branch(f"{name} {a}, {b}, 7, {label}", reads, label)
        return _branch(f"{name}{SUFFIXES[condition]} {a}, {b}, {label}", reads, label)

    def control(self, code: bytes, text: str, address: int) -> Control:
        """z/Architecture Principles of Operation, chapter 7, "Branch ..."; appendix B, operation codes."""
        first, mask, second = code[0], code[1] >> 4, code[1] & 15
        if first == 0x07:  # bcr; without a register it only waits for others
            if not mask or not second:
                return STRAIGHT_ON
            return Control("return" if second == LINK.number else "jump" if mask == 15 else "branch", None, mask != 15)
        if first in (0x05, 0x0C, 0x0D):  # balr, bassm, basr
            return Control("call") if second else STRAIGHT_ON
        if first in (0x06, 0x0B):  # bctr, bsm
            return Control("branch" if first == 0x06 else "jump") if second else STRAIGHT_ON
        if first == 0x0A:
            return Control("system")
        if first == 0:
            return Control("trap")  # 00 is no operation, 01 with 01 and others is for the operating system
        near = address + 2 * int.from_bytes(code[2:4], "big", signed=True)
        if first in (0x45, 0x4D):  # bal, bas
            return Control("call")
        if first in (0x46, 0x86, 0x87):  # bct, bxh, bxle
            return Control("branch")
        if first == 0x47:  # bc
            return Control("jump" if mask == 15 else "branch") if mask else STRAIGHT_ON
        if first in (0x84, 0x85):  # brxh, brxle
            return Control("branch", near)
        if first == 0xA7:
            if second == 4:
                return Control("jump" if mask == 15 else "branch", near) if mask else STRAIGHT_ON
            return Control("call" if second == 5 else "branch", near) if second in (5, 6, 7) else STRAIGHT_ON
        if len(code) < 6:
            return STRAIGHT_ON
        far = address + 2 * int.from_bytes(code[2:6], "big", signed=True)
        if first == 0xC0 and second == 4:
            return Control("jump" if mask == 15 else "branch", far) if mask else STRAIGHT_ON
        if first == 0xC0 and second == 5:
            return Control("call", far)
        if first == 0xCC and second == 6:
            return Control("branch", far)
        if (first, code[5]) in _COMPARE_AND_BRANCH:
            return Control("branch", near)
        if (first, code[5]) in _COMPARE_AND_LEAVE:
            return Control("return" if code[2] >> 4 == LINK.number else "branch", conditional=True)
        if (first, code[5]) == (0xE3, 0x47):  # bic
            return Control("jump" if mask == 15 else "branch") if mask else STRAIGHT_ON
        return Control("branch") if (first, code[5]) in _BY_ADDRESS else STRAIGHT_ON

    def jump(self, label: str) -> Code:
        yield Insn(f"j {label}", transfer="jump", target=label)

    def call(self, symbol: str, callee: Convention) -> Code:
        text, relocation = self._reference(symbol, callee)
        yield Insn(
            f"brasl {LINK}, {text}",
            writes=frozenset((LINK,)),
            transfer="call",
            relocation=relocation,
            keystone=f"brasl {LINK}, 0x0",
        )

    def call_register(self, address: Register, callee: Convention) -> Code:
        if address == R0:
            raise ValueError("r0 cannot hold a branch address: the branch would not be taken")
        yield Insn(f"basr {LINK}, {address}", reads=frozenset((address,)), writes=frozenset((LINK,)), transfer="call")

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        text, relocation = self._reference(symbol, callee)
        yield Insn(f"jg {text}", transfer="jump", relocation=relocation, keystone="jg 0x0")

    def jump_register(self, address: Register, callee: Convention) -> Code:
        if address == R0:
            raise ValueError("r0 cannot hold a branch address: the branch would not be taken")
        yield Insn(f"br {address}", reads=frozenset((address,)), transfer="jump")

    def _reference(self, symbol: str, callee: Convention) -> tuple[str, Relocation]:
        """A call's operand. Go's linker makes no PLT entries, and its symbols want none."""
        if self.linkage == "go" or (callee.return_slot == "bottom" and self.linkage == "static"):
            return spelled(symbol), Relocation("R_390_PC32DBL", symbol, addend=2, offset=2)
        return f"{spelled(symbol)}@PLT", Relocation("R_390_PLT32DBL", symbol, addend=2, offset=2)

    def trap(self) -> Code:
        """Principles of Operation, "Operation Exception": operation code 00 is no instruction, nor will it be."""
        if self.linkage == "go":  # UNDEF of its assembler
            yield Insn(".long 0x0", memory="both", transfer="trap")
            return
        yield Insn(".insn e, 0x0000", memory="both", transfer="trap", keystone=".byte 0x00, 0x00")

    def system_call(self, number: int | None, label: str) -> Code:
        """A number of eight bits is in the instruction itself (arch/s390/kernel/syscall.c); for 0 the kernel looks in
        r1."""
        if number is not None and 0 < number < 256:
            yield self.kernel_entry(f"svc {number:#x}", f".byte 0x0a, {number:#04x}")
            return
        if number is not None:
            yield from self.constant(R1, number)
        yield self.kernel_entry("svc 0x0", ".byte 0x0a, 0x00")

    # -- tables of entries

    def table_register(self, convention: Convention) -> Register:
        # A PLT may change r1, and between a table and what it enters, in one module, there need not be any.
        return R1 if R0 in convention.reserved else R0

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        # Spelt out, for to assemble thousands of them one by one takes longer than all the rest of a build.
        # Principles of Operation, "LOAD HALFWORD IMMEDIATE" (RI-a): opcode a7, 9.
        register = self.table_register(convention)
        code = 0xA7090000 | register.number << 20 | index
        lghi = insn(f"lghi {register}, {number(index)}", (), (register,))
        yield replace(lghi, keystone=f".long {code:#x}")
        yield from self.tail_call(symbol, convention)

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        convention = request.convention
        why = f"{convention.name} keeps it for its caller"
        reasons = dict.fromkeys((register for register, _ in request.saves), why)
        at_bottom = request.link and convention.return_slot == "bottom"
        if request.link and not at_bottom:
            reasons[LINK] = "the return address: the body calls, and a call overwrites it"
        above = {r: convention.save_area[r] for r in reasons if r.bank is Bank.INTEGER and r in convention.save_area}
        spare = [offset for offset in SPARE_HOMES if offset + WORD <= convention.area]
        if above:
            # One stmg stores everything from the lowest register up to r15.
            spare = [offset for offset in spare if not min(above.values()) <= offset <= convention.save_area[SP]]
        floats = sorted((r for r in reasons if r.bank is Bank.FLOAT), key=_number)
        homes = dict(zip(floats, spare, strict=False))

        slots: list[Slot] = []
        top = max(request.body, WORD if at_bottom else 0)
        if at_bottom:
            slots.append(Slot(0, WORD, "return address", "Go's traceback looks for it at 0(r15)", LINK))
        # The largest first, and all alignment is natural.
        own = [r for r in reasons if r not in above and r not in homes]
        for register in sorted(own, key=lambda r: (-_slot_size(r), r.bank.value, r.number)):
            size = _slot_size(register)
            top = aligned(top, min(size, WORD))
            slots.append(Slot(top, size, _owner(register), reasons[register], register))
            top += size
        size = aligned(top, max(request.alignment, convention.alignment))
        if size > LARGEST_FRAME:
            raise ValueError(f"a frame of {size} bytes: s390x reaches no more than {LARGEST_FRAME}")

        if above:
            lowest = min(above, key=_number)
            # Go's assembler does not follow the stack pointer through lmg.
            raised_last = size and not _raised_first(size, homes.values()) and self.linkage != "go"
            highest = SP if raised_last else max(above, key=_number)
            for register in R[lowest.number : highest.number + 1]:
                reason = reasons.get(register, "lies between others that one stmg stores")
                if register == SP:
                    reason = "lmg raises the stack with the others"
                slots.append(Slot(size + convention.save_area[register], WORD, _owner(register), reason, register))
        slots.extend(Slot(size + offset, WORD, register.name, why, register) for register, offset in homes.items())
        return Frame(size, tuple(sorted(slots, key=lambda slot: slot.offset)), request)

    def prologue(self, frame: Frame) -> Code:
        yield from in_part("prologue", self._enter(frame))

    def epilogue(self, frame: Frame) -> Code:
        yield from in_part("epilogue", self._exit(frame))

    def leave(self, frame: Frame, pop: int) -> Code:
        if pop:
            raise ValueError("no convention of s390x has the callee pop arguments")
        yield Insn(f"br {LINK}", reads=frozenset((LINK,)), transfer="return", part="epilogue")

    def _enter(self, frame: Frame) -> Code:
        integers, homes, own = _grouped(frame)
        if integers:
            yield self._multiple("store", integers, SP, integers[0][1] - frame.size)
        for register, offset in homes:
            yield from self.float_store(register, SP, offset - frame.size, 64)
        yield from self._add(SP, SP, -frame.size)
        for register, offset in own:
            yield from self._save(register, offset)

    def _exit(self, frame: Frame) -> Code:
        integers, homes, own = _grouped(frame)
        for register, offset in own:
            yield from self._restore(register, offset)
        raised = 0
        if not any(register == SP for register, _ in integers):
            yield from self._add(SP, SP, frame.size)
            raised = frame.size
        for register, offset in homes:
            yield from self.float_load(register, SP, offset - raised, 64)
        if integers:
            yield self._multiple("load", integers, SP, integers[0][1] - raised)

    @staticmethod
    def _multiple(
        kind: Literal["load", "store"], registers: Sequence[tuple[Register, int]], base: Register, offset: int
    ) -> Insn:
        """Consecutive integer registers from `offset` on, in one instruction."""
        members = [register for register, _ in registers]
        name = "lmg" if kind == "load" else "stmg"
        text = f"{name} {members[0]}, {members[-1]}, {number(offset)}({base})"
        access = None
        if len(members) == 1:
            text = f"{'lg' if kind == 'load' else 'stg'} {members[0]}, {number(offset)}({base})"
            access = Access(kind, members[0], base, offset, WORD)
        if kind == "load":
            return insn(text, (base,), members, memory="read", access=access)
        return insn(text, (base, *members), (), memory="write", access=access)

    def _save(self, register: Register, offset: int) -> Code:
        match register.bank:
            case Bank.INTEGER:
                yield from self.store(register, SP, offset, 64)
            case Bank.FLOAT:
                yield from self.float_store(register, SP, offset, 64)
            case Bank.VECTOR:
                yield from self._vector("vst", 0x0E, register, offset)
            case Bank.CONTROL if register == PROGRAM_MASK:
                yield insn(f"ipm {R1}", (PROGRAM_MASK, CC, R1), (R1,))
                yield from self.store(R1, SP, offset, 32)
            case Bank.CONTROL:
                yield from self._control("write", register, offset)

    def _restore(self, register: Register, offset: int) -> Code:
        match register.bank:
            case Bank.INTEGER:
                yield from self.load(register, SP, offset, 64, signed=False)
            case Bank.FLOAT:
                yield from self.float_load(register, SP, offset, 64)
            case Bank.VECTOR:
                yield from self._vector("vl", 0x06, register, offset)
            case Bank.CONTROL if register == PROGRAM_MASK:
                yield from self.load(R1, SP, offset, 32, signed=False)
                yield insn(f"spm {R1}", (R1,), (PROGRAM_MASK, CC), keystone=raw((8, 0x04), (4, 1), (4, 0)))
            case Bank.CONTROL:
                yield from self._control("read", register, offset)

    def _short(self, offset: int) -> Iterator[Insn | tuple[Register, int]]:
        """A base and an offset below 4096 for `offset` from the stack pointer, behind what it takes to have them."""
        if offset < SHORT_REACH:
            yield SP, offset
        else:
            yield from self._add(R1, SP, offset)
            yield R1, 0

    def _vector(self, name: str, opcode: int, register: Register, offset: int) -> Code:
        for step in self._short(offset):
            if isinstance(step, Insn):
                yield step
                continue
            base, displacement = step
            # VRX: e7, v1 and index, base and displacement, m3, the high bit of v1 (all of v16 to v31 have it), opcode.
            keystone = raw((8, 0xE7), (4, register.number - 16), (4, 0), (4, base.number), (12, displacement), (4, 0),
                           (4, 8), (8, opcode))  # fmt: skip
            text = f"{name} {register}, {number(displacement)}({base})"
            if name == "vst":
                yield insn(text, (register, base), (), memory="write", keystone=keystone)
            else:
                yield insn(text, (base,), (register,), memory="read", keystone=keystone)

    def _control(self, direction: Literal["read", "write"], register: Register, offset: int) -> Code:
        """The FPC register or an access register, from or to memory. Keystone knows none of these instructions."""
        for step in self._short(offset):
            if isinstance(step, Insn):
                yield step
                continue
            base, displacement = step
            place = f"{number(displacement)}({base})"
            storage = ((4, base.number), (12, displacement))
            if register == FPC:
                text = f"{'lfpc' if direction == 'read' else 'stfpc'} {place}"
                keystone = raw((16, 0xB29D if direction == "read" else 0xB29C), *storage)
            else:
                text = f"{'lam' if direction == 'read' else 'stam'} {register}, {register}, {place}"
                numbers = ((4, register.number), (4, register.number))
                keystone = raw((8, 0x9A if direction == "read" else 0x9B), *numbers, *storage)
            if direction == "read":
                yield insn(text, (base,), (register,), memory="read", keystone=keystone)
            else:
                yield insn(text, (base, register), (), memory="write", keystone=keystone)

    # -- fixed values, the thread, the passes at the end

    def establish(self, fixed: Fixed) -> Code:
        yield from self.constant(fixed.register, fixed.value)

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        yield from self._thread_pointer(slot)
        yield from self.load(d, R1, slot.offset, 64, signed=False)

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        if s == R1:
            raise ValueError("r1 is needed to reach thread-local storage")
        yield from self._thread_pointer(slot)
        yield from self.store(s, R1, slot.offset, 64)

    def _thread_pointer(self, slot: ThreadSlot) -> Code:
        if slot.segment != "a0":
            raise ValueError(f"s390x has no thread pointer {slot.segment!r}; it is in a0 and a1: name it `a0`")
        # `ear` changes the right half only: each half of the pointer passes through there.
        yield insn(f"ear {R1}, {A0}", (A0, R1), (R1,))
        yield from self._shift("sllg", R1, R1, 32)
        yield insn(f"ear {R1}, {A1}", (A1, R1), (R1,))

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Neighbouring loads or stores of doublewords become lmg and stmg; moves to self go."""
        result: list[Placed] = []
        block: list[Placed] = []
        for item in code:
            insn = item[0]
            joins = insn.access is not None and _joins(insn, block)
            if block and not joins:
                result.extend(self._merged(block))
                block = []
                joins = insn.access is not None and _joins(insn, block)
            if joins:
                block.append(item)
            elif not _moves_nothing(insn):
                result.append(item)
        result.extend(self._merged(block))
        return result

    def unwinding(self) -> Unwinding:
        from .unwinding.s390x import S390xUnwinding

        return S390xUnwinding(self.registers)

    def plan9(self) -> Plan9:
        from .plan9.s390x import S390xSpelling

        return S390xSpelling()

    def _merged(self, block: Sequence[Placed]) -> Iterator[Placed]:
        """The block with runs of consecutive registers at consecutive doublewords as one instruction each."""
        pending = list(block)
        while pending:
            first, place = pending[0]
            run = _longest_run(first, pending) if len(pending) > 1 else pending
            if len(run) == 1:
                yield pending.pop(0)
                continue
            pending = [item for item in pending if not any(item is one for one in run)]
            accesses = [(access.register, access.offset) for insn, _ in run if (access := insn.access)]
            assert first.access is not None  # what is in a block has one
            merged = self._multiple(first.access.kind, accesses, first.access.base, accesses[0][1])
            comments = dict.fromkeys(insn.comment for insn, _ in run if insn.comment)
            yield replace(merged, comment="; ".join(comments), part=first.part), place


def _joins(insn: Insn, block: Sequence[Placed]) -> bool:
    """Whether a doubleword load or store may go with those of `block`, in whatever order they are then executed."""
    access = insn.access
    if access is None or access.bytes != WORD or access.register.bank is not Bank.INTEGER or insn.user_text:
        return False
    if access.kind == "load" and access.register == access.base:
        return False
    for other, _ in block:
        before = other.access
        assert before is not None
        if (before.kind, before.base, other.part) != (access.kind, access.base, insn.part):
            return False
        if abs(before.offset - access.offset) < WORD or (access.kind == "load" and before.register == access.register):
            return False
    return True


def _longest_run(first: Insn, items: Sequence[Placed]) -> list[Placed]:
    """Of `items`, those whose registers and offsets follow each other and include those of `first`, in order."""
    by_place = {(access.register.number, access.offset): item for item in items if (access := item[0].access)}
    assert first.access is not None
    number_, offset = first.access.register.number, first.access.offset
    while (number_ - 1, offset - WORD) in by_place:
        number_, offset = number_ - 1, offset - WORD
    run: list[Placed] = []
    while (number_, offset) in by_place:
        run.append(by_place[number_, offset])
        number_, offset = number_ + 1, offset + WORD
    return run


def _moves_nothing(item: Insn) -> bool:
    if not item.text.startswith(("lgr ", "ldr ")):
        return False
    name, _, operands = item.text.partition(" ")
    d, _, s = operands.partition(", ")
    return name in ("lgr", "ldr") and d == s and not item.user_text


def _grouped(
    frame: Frame,
) -> tuple[list[tuple[Register, int]], list[tuple[Register, int]], list[tuple[Register, int]]]:
    """The saves of a frame with their offsets from r15: integers in the caller's save area, floats there, and what is
    in the frame itself."""
    integers: list[tuple[Register, int]] = []
    homes: list[tuple[Register, int]] = []
    own: list[tuple[Register, int]] = []
    for slot in frame.slots:
        if slot.register is None:
            continue
        place = slot.register, slot.offset
        if slot.offset < frame.size:
            own.append(place)
        elif slot.register.bank is Bank.INTEGER:
            integers.append(place)
        else:
            homes.append(place)
    return sorted(integers, key=lambda i: i[1]), sorted(homes, key=lambda h: h[0].number), own


def _raised_first(size: int, homes: Iterable[int]) -> bool:
    """Whether r15 goes up before the caller's save area is read, so that short displacements reach it."""
    return any(size + offset >= SHORT_REACH for offset in homes)


def _slot_size(register: Register) -> int:
    return CONTROL_SLOT if register.bank is Bank.CONTROL else register.bits // 8


def _owner(register: Register) -> str:
    return "return address" if register == LINK else register.name


def _number(register: Register) -> int:
    return register.number


# The first and the last byte of the operation codes of RIE, RIS, RRS and others.
_COMPARE_AND_BRANCH = {(0xEC, last) for last in (0x44, 0x45, 0x64, 0x65, 0x76, 0x77, 0x7C, 0x7D, 0x7E, 0x7F)}
_COMPARE_AND_LEAVE = {(0xEC, last) for last in (0xE4, 0xE5, 0xF6, 0xF7, 0xFC, 0xFD, 0xFE, 0xFF)}
_BY_ADDRESS = {(0xEB, 0x44), (0xEB, 0x45), (0xE3, 0x46)}  # bxhg, bxleg, bctg


def _branch(text: str, reads: Iterable[Register], label: str) -> Insn:
    return Insn(text, reads=frozenset(reads), transfer="branch", target=label)


def _temporary(d: Register, a: Register) -> Register:
    """A register for a constant: the target, unless it is the other operand or r0, which is no index."""
    if d not in (a, R0):
        return d
    if a == R1:
        raise ValueError("r1 is needed for a constant of more than 32 bits")
    return R1


def _halfwords(value: int) -> list[int]:
    """The positions, from the least significant, of the halfwords that are not zero."""
    return [n for n in range(4) if value >> 16 * n & 0xFFFF]


def _single_halfword(value: int) -> tuple[str, int] | None:
    """The suffix and the value of the only halfword that is not zero, if there is only one."""
    positions = _halfwords(value)
    if len(positions) != 1:
        return None
    return ("ll", "lh", "hl", "hh")[positions[0]], value >> 16 * positions[0] & 0xFFFF


def _insertion(high: int, ones: bool) -> tuple[str, int]:
    """What gives a register its left word when that is all zeros, or all ones: a halfword if one differs."""
    present = 0xFFFFFFFF if ones else 0
    if high >> 16 == present >> 16:
        return "iihl", high & 0xFFFF
    if high & 0xFFFF == present & 0xFFFF:
        return "iihh", high >> 16
    return "iihf", high


def _run(mask: int) -> tuple[int, int] | None:
    """First and last bit, counted from the most significant, of a mask whose bits are one run."""
    low = (mask & -mask).bit_length() - 1
    if (mask >> low) & ((mask >> low) + 1):
        return None
    return 64 - mask.bit_length(), 63 - low


TARGETS = (Target("linux/s390x", "linux", S390x(), baseline="z13"),)
