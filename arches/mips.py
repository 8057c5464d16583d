"""MIPS: o32 on mips and mipsle (MIPS32 release 1), n64 on mips64 and mips64le (MIPS III).

What differs from other machines:

* The instruction after a branch, jump or call is executed before control leaves. Methods yield the transfer alone;
  `improve` moves an earlier instruction behind it where that changes nothing, or puts a nop there.
* A call leaves its return address in `$ra`; nothing is pushed. There are no condition flags.
* o32 has 32 floating point registers of 32 bits (FR=0). A double is an even register and the odd one after it, with
  the low word in the even one in both byte orders; the even one stands for the pair. n64 has 64 bits in each (FR=1).
* C code may be position independent, and then finds its data from its own address in `$t9`: C is called through it.
* n64 calls r8-r11 a4-a7 and r12-r15 t0-t3; o32 calls r8-r15 t0-t7.

The frame of a C function. Under o32 the caller leaves 16 bytes for a0-a3 whether they are used or not; they are the
callee's, so its saves reach up into them. n64 has no such area.

    o32                                           n64
    CFA+16 -> | fifth argument, ...        |      CFA -> | ninth argument, ...       |
    CFA    -> | our 16 bytes: saves        |             | saved f24-f31, fcsr       |
              | saved f20-f31 by pairs     |             | saved s0-s7 gp fp ra      |
              | saved s0-s7 fp ra, fcsr    |             | locals, outgoing arguments| <- sp
              | locals, outgoing arguments |
              | 16 bytes: our callee's     | <- sp

A Go function's frame has its return address at sp, where the traceback looks for it, and arguments above that word.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

from trampoline_dsl.target import (
    BASE_SYMBOL,
    GP_SYMBOL,
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
    FramePart,
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
    signed,
    signed_field,
    spelled,
    system_calls,
)

from .baselines.mips import MIPS3, MIPS3_SOFT, MIPS32, MIPS32_SOFT
from .go import NO_REGISTERS, assign_go0

# --------------------------------------------------------------------------------------------------------- registers

_NAMES = {
    4: "zero at v0 v1 a0 a1 a2 a3 t0 t1 t2 t3 t4 t5 t6 t7 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra",
    8: "zero at v0 v1 a0 a1 a2 a3 a4 a5 a6 a7 t0 t1 t2 t3 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra",
}


def _integer_registers(word: int) -> tuple[Register, ...]:
    return tuple(
        Register(name, Bank.INTEGER, 8 * word, f"${name}", n, (f"r{n}", "s8") if name == "fp" else (f"r{n}",))
        for n, name in enumerate(_NAMES[word].split())
    )


def _float_registers(bits: int) -> tuple[Register, ...]:
    return tuple(Register(f"f{n}", Bank.FLOAT, bits, f"$f{n}", n) for n in range(32))


_INTEGERS = {word: _integer_registers(word) for word in (4, 8)}
_FLOATS = {word: _float_registers(8 * word) for word in (4, 8)}
_HI = {word: Register("hi", Bank.CONTROL, 8 * word, "$hi", 0) for word in (4, 8)}
_LO = {word: Register("lo", Bank.CONTROL, 8 * word, "$lo", 1) for word in (4, 8)}
_FCSR = Register("fcsr", Bank.CONTROL, 32, "$31", 31, ("fcr31",))

# MIPS R4000 Microprocessor User's Manual, section 6.3, table 6-3: rounding mode (bits 1-0), enables (11-7), flush to
# zero (24). The rest reports what operations did: flags (6-2), causes (17-12), conditions (23, 31-25).
FCSR_CONTROL = 0x0100_0F83

# ------------------------------------------------------------------------------------------------------- conventions


def _words(order: ByteOrder, bits: int, word_bits: int) -> tuple[tuple[int, int], ...]:
    """(low bit, bits) of the words of a value, in the order of memory."""
    pieces = [(low, min(word_bits, bits - low)) for low in range(0, bits, word_bits)]
    return tuple(pieces if order == "little" else reversed(pieces))


def _o32(
    convention: Convention, arguments: Sequence[ValueType], result: ValueType | None, order: ByteOrder
) -> Assignment:
    """MIPS System V psABI, 3-17 to 3-20: an image of 4-byte slots, 8-byte values aligned, whose first slots travel in
    a0-a3. The first two arguments go to f12 and f14 if no integer comes before them; they use up their slots."""
    registers, floats = convention.integer_arguments, convention.float_arguments
    image = 4 * len(registers)
    locations: list[Location] = []
    offset = 0
    only_floats = True
    for position, argument in enumerate(arguments):
        size = max(4, argument.bits // 8)
        offset = aligned(offset, size)
        only_floats = only_floats and argument.kind == "float"
        if only_floats and position < len(floats):
            locations.append(_o32_float(floats[position], argument.bits))
        elif offset < image:
            locations.append(_o32_words(registers[offset // 4 :], argument, order))
        else:
            place = convention.first_stack_argument + offset - image
            locations.append(_on_stack_32(place, argument, order))
        offset += size
    used = convention.first_stack_argument + max(0, offset - image)
    return Assignment(tuple(locations), _o32_result(convention, result, order), max(used, convention.area))


def _o32_result(convention: Convention, result: ValueType | None, order: ByteOrder) -> Location:
    if result is None:
        return ()
    if result.kind == "float" and convention.float_results:
        return _o32_float(convention.float_results[0], result.bits)
    return _o32_words(convention.integer_results, result, order)


def _o32_float(register: Register, bits: int) -> Location:
    if bits == 32:
        return (Part(InRegister(register), 0, 32),)
    odd = _FLOATS[4][register.number + 1]
    return (Part(InRegister(register), 0, 32), Part(InRegister(odd), 32, 32))


def _o32_words(registers: Sequence[Register], value: ValueType, order: ByteOrder) -> Location:
    if value.bits < 32:
        return (Part(InRegister(registers[0]), 0, value.bits, 32, value.signed),)
    pieces = _words(order, value.bits, 32)
    return tuple(Part(InRegister(r), low, bits) for r, (low, bits) in zip(registers, pieces, strict=False))


def _on_stack_32(offset: int, value: ValueType, order: ByteOrder) -> Location:
    if value.bits < 32:
        return (Part(OnStack(offset), 0, value.bits, 32, value.signed),)
    if value.kind == "float":
        return (Part(OnStack(offset), 0, value.bits),)
    pieces = _words(order, value.bits, 32)
    return tuple(Part(OnStack(offset + 4 * n), low, bits) for n, (low, bits) in enumerate(pieces))


def _n64(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """MIPSpro N32/64 ABI handbook, "Calling convention implementations": eight positions that integers and floats
    share. Compilers put an integer on the stack as a widened doubleword, and a float at the lowest address of its
    slot, in both byte orders (measured)."""
    locations: list[Location] = []
    on_stack = 0
    for position, argument in enumerate(arguments):
        registers = convention.integer_arguments
        if argument.kind == "float" and convention.float_arguments:
            registers = convention.float_arguments
        if position < len(registers):
            locations.append((_n64_part(InRegister(registers[position]), argument),))
        else:
            # Counted for itself: a user's convention may have more registers of one kind than of the other.
            locations.append((_n64_part(OnStack(convention.first_stack_argument + 8 * on_stack), argument),))
            on_stack += 1
    back: Location = ()
    if result is not None:
        floating = result.kind == "float" and convention.float_results
        results = convention.float_results if floating else convention.integer_results
        back = (_n64_part(InRegister(results[0]), result),)
    used = convention.first_stack_argument + 8 * on_stack
    return Assignment(tuple(locations), back, max(used, convention.area))


def _n64_part(place: InRegister | OnStack, value: ValueType) -> Part:
    """32-bit values are sign-extended whatever their type, for 32-bit instructions demand it of their operands (MIPS64
    Architecture for Programmers, volume II, "ADDU": UNPREDICTABLE otherwise). That includes a soft float."""
    in_integer = isinstance(place, InRegister) and place.register.bank is Bank.INTEGER
    if value.bits == 64 or (value.kind == "float" and not in_integer):
        return Part(place, 0, value.bits)
    return Part(place, 0, value.bits, 64, value.signed or value.bits == 32)


def _in_words(offset: int, value: ValueType, order: ByteOrder, word: int) -> Location:
    """A value in memory, an integer in parts of a word at most."""
    if value.kind == "float":
        return (Part(OnStack(offset), 0, value.bits),)
    pieces = _words(order, value.bits, 8 * word)
    return tuple(Part(OnStack(offset + word * n), low, bits) for n, (low, bits) in enumerate(pieces))


def _all_bits(registers: Iterable[Register]) -> dict[Register, int]:
    return {register: (1 << register.bits) - 1 for register in registers}


_C_NOTES = {
    "at": "the assembler's: scratch at all times",
    "t9": "the callee's address at entry: position-independent code computes gp from it",
    "ra": "the return address",
    "hi": "scratch, and lo",
    "variadic": "a variadic function takes what is behind the ellipsis in integer registers and memory only",
    "alignment": "sp is a multiple of it at all times, not at calls only",
    "thread pointer": "rdhwr $3, $29; emulated by the kernel on machines that lack it",
}


def _c_o32(order: ByteOrder, soft: bool) -> Convention:
    r, f = _INTEGERS[4], _FLOATS[4]
    kept = _all_bits((*r[16:24], r[30]))
    if not soft:
        kept |= _all_bits(f[20:32]) | {_FCSR: FCSR_CONTROL}
    return Convention(
        name="c",
        title="C, o32" + (", soft float" if soft else ""),
        source="System V ABI, MIPS RISC Processor Supplement, 3rd edition, chapter 3; MIPS O32 ABI - FR0 and FR1 "
        "Interlinking",
        integer_arguments=r[4:8],
        float_arguments=() if soft else (f[12], f[14]),
        integer_results=r[2:4],
        float_results=() if soft else (f[0], f[2]),
        assign=partial(_o32, order=order),
        first_stack_argument=16,
        slot=4,
        kept=kept,
        fixed=(),
        reserved={r[26]: "kernel", r[27]: "kernel", r[28]: "gp, of position-independent code"},
        alignment=8,
        red_zone=0,
        area=16,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=r[31],
        return_slot="none",
        call_through=r[25],
        descriptors=False,
        toc_slot=None,
        thread=None,
        scratch=(r[1],),
        # Lazy-binding stubs (psABI, 5-10) and the linker's procedure linkage table (binutils, elfxx-mips.c).
        linker_may_write=(r[15], r[24], r[25], r[28]),
        notes=_C_NOTES
        | {
            "gp": "not kept: a caller that needs it reloads it after the call (psABI, 3-11)",
            "f20-f31": "kept as six doubles (psABI, 3-12); saved by sdc1 on the even register, which is right in both "
            "FR modes (FR0 and FR1 Interlinking, section 4.1)",
            "fcsr": "rounding mode, enables and flush to zero are kept (R4000 User's Manual, table 6-3, for the bits)",
            "area": "16 bytes for a0-a3, always (psABI, 3-16)",
            "narrow": "values under 32 bits are widened by type, arguments by the caller, results by the callee",
        },
    )


def _c_n64(soft: bool) -> Convention:
    r, f = _INTEGERS[8], _FLOATS[8]
    kept = _all_bits((*r[16:24], r[28], r[30]))
    if not soft:
        kept |= _all_bits(f[24:32]) | {_FCSR: FCSR_CONTROL}
    return Convention(
        name="c",
        title="C, n64" + (", soft float" if soft else ""),
        source="MIPSpro N32/64 ABI Handbook, chapter 2",
        integer_arguments=r[4:12],
        float_arguments=() if soft else f[12:20],
        integer_results=r[2:4],
        float_results=() if soft else (f[0], f[2]),
        assign=_n64,
        first_stack_argument=0,
        slot=8,
        kept=kept,
        fixed=(),
        reserved={r[26]: "kernel", r[27]: "kernel", r[28]: "gp, of position-independent code"},
        alignment=16,
        red_zone=0,
        area=0,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=r[31],
        return_slot="none",
        call_through=r[25],
        descriptors=False,
        toc_slot=None,
        thread=None,
        scratch=(r[1],),
        # Lazy-binding stubs, and r14 in the linker's procedure linkage table (binutils, elfxx-mips.c).
        linker_may_write=(r[14], r[15], r[24], r[25]),
        notes=_C_NOTES
        | {
            "gp": "kept, unlike o32 (Handbook, table 2-1)",
            "f24-f31": "kept, 64 bits each (Handbook, table 2-1); f20-f23 are scratch, unlike o32",
            "fcsr": "rounding mode, enables and flush to zero are kept (R4000 User's Manual, table 6-3, for the bits)",
            "narrow": "8 and 16 bits are widened by type, 32 bits by sign even if unsigned, to 64 bits, by the one who "
            "hands the value over",
        },
    )


def _convention_go0(word: int, order: ByteOrder, soft: bool) -> Convention:
    r = _INTEGERS[word]
    fixed: tuple[Fixed, ...] = ()
    if word == 8:
        upper = 0xFFFF_FFFF_0000_0000
        fixed = (Fixed(r[28], (1 << 64) - 1, 0, "Go addresses its data from the upper half of the pc", upper),)
    return Convention(
        name="go0",
        title="Go's stack convention, ABI0",
        source="Go, cmd/compile/abi-internal.md; cmd/internal/obj/mips/a.out.go; runtime/asm_mips*x.s",
        integer_arguments=(),
        float_arguments=(),
        integer_results=(),
        float_results=(),
        assign=partial(assign_go0, word=word, stored=partial(_in_words, order=order, word=word)),
        first_stack_argument=word,
        slot=word,
        kept={} if soft else {_FCSR: FCSR_CONTROL},
        fixed=fixed,
        reserved={r[26]: "kernel", r[27]: "kernel", r[28]: "gp, Go's SB"},
        alignment=word,
        red_zone=0,
        area=0,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=r[31],
        return_slot="bottom",
        call_through=None,
        descriptors=False,
        toc_slot=None,
        thread=r[30],
        scratch=(r[1], r[23]),
        linker_may_write=(),
        notes={
            "s7": "r23, the Go assembler's temporary (REGTMP)",
            "s6": "r22, the closure context",
            "fp": "r30 is g",
            "fcsr": "Go never changes the floating point modes",
            "at": "the assembler's: scratch at all times",
            "first word": "the word at sp is the frame's own saved return address; arguments start above it",
        },
    )


# ---------------------------------------------------------------------------------------------------------- the code


def _number(n: int) -> str:
    """Keystone may take a bare 16 for hexadecimal."""
    return str(n) if -10 < n < 10 else f"{n:#x}"


def _fits_signed(n: int) -> bool:
    return -0x8000 <= n < 0x8000


_REVERSED: Mapping[Condition, Condition] = {"gt": "lt", "le": "ge", "ugt": "ult", "ule": "uge"}
_AGAINST_ZERO: Mapping[Condition, str] = {
    "eq": "beqz",
    "ne": "bnez",
    "lt": "bltz",
    "le": "blez",
    "gt": "bgtz",
    "ge": "bgez",
}
_BITWISE: Mapping[BinaryOp, str] = {"and": "and", "or": "or", "xor": "xor"}
_SHIFTS: Mapping[BinaryOp, str] = {"shl": "sll", "shr": "srl", "sar": "sra"}
_LOADS = {
    (8, True): "lb",
    (8, False): "lbu",
    (16, True): "lh",
    (16, False): "lhu",
    (32, True): "lw",
    (32, False): "lwu",
}
_STORES = {8: "sb", 16: "sh", 32: "sw", 64: "sd"}


def _signals(word: int) -> SignalFrame:
    """arch/mips/kernel/signal.c: struct rt_sigframe is four words for the arguments' homes and two for alignment (of 32
    bits on n64 too), siginfo (128 bytes) and ucontext (632, or 656). The FPU emulator uses the 32 bytes above it."""
    return SignalFrame(
        "arch/mips/kernel/signal.c, setup_rt_frame and sys_rt_sigreturn",
        size=24 + 128 + (656 if word == 8 else 632),
        info=24,
        context=24 + 128,
        alignment=16 if word == 8 else 8,
        untouched=32,
        number=5211 if word == 8 else 4193,
        restorer="none",
        entered_in=(_INTEGERS[word][25],),
    )


class Mips(Architecture):
    """What o32 and n64 machines have in common."""

    family = "mips"
    machines: Mapping[str, int] = {"elf": 8}
    elf_flags = (0x20, (0,))  # EF_MIPS_ABI2 marks n32 (binutils, include/elf/mips.h)
    linkages = ("static", "pic", "go")
    flags = None
    two_address = False
    comment = "#"

    # Mnemonics for operations on a whole word.
    add: str
    add_immediate: str
    subtract: str
    load_word: str
    store_word: str

    def __init__(
        self,
        name: str,
        word: int,
        order: ByteOrder,
        soft: bool,
        conventions: Iterable[Convention],
        engines: Engines,
        gnu_as: tuple[str, ...],
        module: tuple[str, ...],
    ) -> None:
        self.name = name
        self.word = word
        self.order = order
        self.soft = soft
        self.extensions = {4: (MIPS32, MIPS32_SOFT), 8: (MIPS3, MIPS3_SOFT)}[word][soft]
        self.engines = engines
        self.gnu_as = gnu_as
        self.clang = (f"--target={gnu_as[0].removesuffix('-as')}", gnu_as[1], *(("-mfp32",) if word == 4 else ()))
        self.calls_through_got = True
        # As code of C's compilers that stays in its place is marked (binutils, gas, "MIPS Options", -call_nonpic);
        # linkers warn where some objects are and others are not.
        self.header = (".abicalls", ".option pic0", *module, ".set noreorder", ".set noat", ".set nomacro")
        self.conventions = {convention.name: convention for convention in conventions}
        self.integers, self.floats = _INTEGERS[word], _FLOATS[word]
        self.zero: Register = self.integers[0]
        self.at = self.integers[1]
        self.t9, self.gp, self.sp, self.ra = (self.integers[n] for n in (25, 28, 29, 31))
        self.of_module = self.gp
        self.hi, self.lo = _HI[word], _LO[word]
        self.signals = _signals(word)
        # zero is no place for a value, so it is not among the registers.
        known = (*self.integers[1:], self.hi, self.lo, *(() if soft else (*self.floats, _FCSR)))
        self.registers = {name: register for register in known for name in (register.name, *register.aliases)}
        self._by_text = {register.gnu: register for register in self.integers[1:]}
        moves = [("move", self.integers), ("mov.s", self.floats), ("mov.d", self.floats)]
        self._idle = frozenset(f"{name} {r}, {r}" for name, registers in moves for r in registers)
        r = self.integers
        self.system_calls = system_calls(
            self.conventions["c"],
            self.registers.values(),
            (r[2], *r[4 : 8 if word == 4 else 10]),
            r[2],
            (r[1], r[3], *r[8:16], r[24], r[25], self.hi, self.lo),
            "Linux, arch/mips/include/asm/stackframe.h (SAVE_SOME) and kernel/scall32-o32.S, scall64-n64.S; syscall(2)",
            first_in_memory=16 if word == 4 else 0,
            failed=(r[7], (1 << 8 * word) - 1, 1),
        )

    def link_for(self, linkage: Linkage) -> None:
        super().link_for(linkage)
        if linkage == "pic":
            self.got = self.gp
            self.header = tuple(line.replace("pic0", "pic2") for line in self.header)

    # -- single instructions

    def _set(self, operation: str, d: Register, *operands: Register | int, **fields: str) -> Insn:
        """An instruction that computes `d` from registers and immediates."""
        texts = (_number(x) if isinstance(x, int) else x.gnu for x in operands)
        return Insn(
            f"{operation} {', '.join((d.gnu, *texts))}",
            reads=frozenset(x for x in operands if isinstance(x, Register) and x != self.zero),
            writes=frozenset({d}),
            keystone=fields.get("keystone"),
        )

    def _access(
        self, kind: Literal["load", "store"], operation: str, register: Register, base: Register, offset: int, size: int
    ) -> Insn:
        moved = frozenset(self._halves(register, size)) - {self.zero}
        return Insn(
            f"{operation} {register}, {_number(offset)}({base})",
            reads=frozenset({base}) | (moved if kind == "store" else frozenset()),
            writes=moved if kind == "load" else frozenset(),
            memory="read" if kind == "load" else "write",
            access=Access(kind, register, base, offset, size),
        )

    def _halves(self, register: Register, size: int) -> tuple[Register, ...]:
        """The registers that `register` stands for when it holds `size` bytes."""
        if register.bank is Bank.FLOAT and 8 * size > register.bits:
            return (register, self.floats[register.number + 1])
        return (register,)

    def _transfer(
        self,
        text: str,
        kind: Literal["branch", "jump", "call", "return"],
        reads: Iterable[Register] = (),
        target: str | None = None,
        symbol: str | None = None,
    ) -> Insn:
        return Insn(
            text if symbol is None else f"{text} {spelled(symbol)}",
            reads=frozenset(reads),
            writes=frozenset({self.ra}) if kind == "call" else frozenset(),
            transfer=kind,
            target=target,
            relocation=None if symbol is None else Relocation("R_MIPS_26", symbol),
            keystone=None if symbol is None else f"{text} 0x0",
            delay_slot=True,
        )

    def control(self, code: bytes, text: str, address: int) -> Control:
        """MIPS Architecture for Programmers, Volume II-A (MD00086), "Instruction Bit Encodings"; before release 6."""
        word = int.from_bytes(code, self.order)
        operation, rs, rt = word >> 26, word >> 21 & 31, word >> 16 & 31
        near = address + 4 + 4 * signed_field(word, 0, 16)
        far = (address + 4 & ~0xFFFFFFF) | (word & 0x3FFFFFF) << 2
        if operation == 0:
            function, rd = word & 63, word >> 11 & 31
            if function == 8 or (function == 9 and rd == 0):
                return Control("return" if rs == self.ra.number else "jump", delay_slot=True)
            if function == 9:
                return Control("call", delay_slot=True)
            if function == 12:
                return Control("system")
            always = function == 0x34 and rs == rt  # teq of a register with itself
            return Control("trap") if function == 13 or always else STRAIGHT_ON
        if operation in (2, 3):
            return Control("call" if operation == 3 else "jump", far, delay_slot=True)
        if operation == 0x1D:  # jalx
            return Control("call", far, delay_slot=True)
        if operation == 1 and rt & 0b01100 == 0:
            if rt & 0b10000:
                return Control("call", near, conditional=True, delay_slot=True)
            return Control("jump" if rs == 0 and rt & 1 else "branch", near, delay_slot=True)
        if operation in (4, 5, 6, 7, 0x14, 0x15, 0x16, 0x17):
            always = operation in (4, 0x14) and rs == rt
            return Control("jump" if always else "branch", near, delay_slot=True)
        if operation in (0x11, 0x12) and rs == 8:  # of a coprocessor's condition
            return Control("branch", near, delay_slot=True)
        return STRAIGHT_ON

    def _slice(
        self, operation: str, d: Register, source: Register | None, part: str, relocation: str, symbol: str
    ) -> Insn:
        """An instruction whose immediate is 16 bits of a symbol's address."""
        start = f"{operation} {d}, " + (f"{source}, " if source else "")
        return Insn(
            f"{start}%{part}({spelled(symbol)})",
            reads=frozenset({source} if source else ()),
            writes=frozenset({d}),
            relocation=Relocation(relocation, symbol),
            keystone=f"{start}0x0",
        )

    def _load_low(self, d: Register, base: Register, symbol: str, bits: int, signed: bool) -> Insn:
        """A load whose offset is the low 16 bits of a symbol's address."""
        operation = self.load_word if bits == 8 * self.word else _LOADS[bits, signed]
        return Insn(
            f"{operation} {d}, %lo({spelled(symbol)})({base})",
            reads=frozenset({base}),
            writes=frozenset({d}),
            memory="read",
            relocation=Relocation("R_MIPS_LO16", symbol),
            keystone=f"{operation} {d}, 0x0({base})",
        )

    def _got_load(self, d: Register, part: str, relocation: str, symbol: str) -> Insn:
        """A load of a symbol's entry in the global offset table, at 16 bits from gp."""
        return Insn(
            f"{self.load_word} {d}, %{part}({spelled(symbol)})({self.gp})",
            reads=frozenset({self.gp}),
            writes=frozenset({d}),
            memory="read",
            relocation=Relocation(relocation, symbol),
            keystone=f"{self.load_word} {d}, 0x0({self.gp})",
        )

    def _free(self, *busy: Register) -> Register:
        if self.at in busy:
            raise ValueError("at is the only temporary, and it is an operand already")
        return self.at

    def _signed(self, value: int) -> int:
        """The word `value` as a signed number."""
        return signed(value, 8 * self.word)

    # -- which registers values may live in

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        r = self.integers
        # t9 stays free for calls of C; temporaries first, so that arguments and results stay where they are.
        preferred = (*r[8:16], r[24], r[3], r[2], *reversed(r[4:8]), *r[16:24], r[30])
        usable = [register for register in convention.leaves(preferred) if register != convention.call_through]
        return tuple(sorted(usable, key=lambda register: register in convention.kept))

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        if self.soft:
            return ()
        usable = convention.leaves(self.floats[:: 2 if self.word == 4 else 1])
        arguments = self.floats[12:20]  # last of the scratch ones, so that arguments stay where they are
        return tuple(sorted(usable, key=lambda register: (register in convention.kept, register in arguments)))

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        if d == s:
            return
        if self.linkage == "go":  # the operands in the order in which Go's assembler has them
            yield self._set("or", d, self.zero, s)
        else:
            yield self._set("move", d, s)

    def _tiny(self, d: Register, value: int) -> Insn:
        """A value of 16 bits, with or without a sign, in one instruction: with linkage "go" the one that Go's assembler
        takes (cmd/internal/obj/mips/asm0.go, asmout, cases 1 and 3)."""
        if self.linkage != "go":
            return self._set("li", d, value)
        if value == 0:
            return self._set("or", d, self.zero, self.zero)
        return self._set(self.add_immediate if _fits_signed(value) else "ori", d, self.zero, value)

    def _small(self, d: Register, value: int) -> Code:
        """A signed value of 32 bits, in one instruction or two."""
        if _fits_signed(value) or 0 <= value < 0x1_0000:
            yield self._tiny(d, value)
            return
        yield self._set("lui", d, value >> 16 & 0xFFFF)
        if value & 0xFFFF:
            yield self._set("ori", d, d, value & 0xFFFF)

    def constant(self, d: Register, value: int) -> Code:
        yield from self._small(d, self._signed(value))

    def _near(
        self, base: Register, offset: int, size: int, busy: tuple[Register, ...]
    ) -> Generator[Insn, None, tuple[Register, int]]:
        """A base and a 16-bit offset that reach `size` bytes at `base + offset`."""
        if self._reaches(offset, size):
            return base, offset
        temporary = self._free(base, *busy)
        low = (offset + 0x8000 & 0xFFFF) - 0x8000
        if not self._reaches(low, size):
            low = 0
        yield from self.constant(temporary, offset - low)
        yield self._set(self.add, temporary, temporary, base)
        return temporary, low

    def _reaches(self, offset: int, size: int) -> bool:
        """Go's assembler takes offsets from -32,766 to 32,765 for those of one instruction (a.out.go, BIG)."""
        margin = 2 if self.linkage == "go" else 0
        return -0x8000 + margin <= offset and offset + size <= 0x8000 - margin

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        operation = self.load_word if bits == 8 * self.word else _LOADS[bits, signed]
        base, offset = yield from self._near(base, offset, bits // 8, ())
        yield self._access("load", operation, d, base, offset, bits // 8)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        base, offset = yield from self._near(base, offset, bits // 8, (s,))
        yield self._access("store", _STORES[bits], s, base, offset, bits // 8)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if d != s:
            yield Insn(
                f"{'mov.s' if bits == 32 else 'mov.d'} {d}, {s}",
                reads=frozenset(self._halves(s, bits // 8)),
                writes=frozenset(self._halves(d, bits // 8)),
            )

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        base, offset = yield from self._near(base, offset, bits // 8, ())
        for register, at, size in self._float_pieces(d, bits):
            yield self._access("load", "lwc1" if size == 4 else "ldc1", register, base, offset + at, size)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        base, offset = yield from self._near(base, offset, bits // 8, ())
        for register, at, size in self._float_pieces(s, bits):
            yield self._access("store", "swc1" if size == 4 else "sdc1", register, base, offset + at, size)

    def _float_pieces(self, register: Register, bits: int) -> tuple[tuple[Register, int, int], ...]:
        """(register, offset, bytes) of the accesses that move a value whose alignment may be a word's only."""
        return ((register, 0, bits // 8),)

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield from self._binary_register(op, d, a, b)
            return
        value = self._signed(b)
        if op == "sub":
            op, value = "add", self._signed(-value)
        if op in _SHIFTS:
            yield from self._shift(op, d, a, value % (8 * self.word))
        elif op == "add" and value == 0:
            yield from self.move(d, a)
        elif op == "add" and self.linkage == "go" and d == self.sp:
            yield from self._set_stack(a, value)
        elif op in _BITWISE and value == 0 and self.linkage == "go":
            yield from self._binary_register(op, d, a, self.zero)
        elif op == "add" and _fits_signed(value):
            yield self._set(self.add_immediate, d, a, value)
        elif op in _BITWISE and 0 <= value < 0x1_0000:
            yield self._set(f"{op}i", d, a, value)
        elif op == "mul" and value > 0 and value & (value - 1) == 0:
            yield from self._shift("shl", d, a, value.bit_length() - 1)
        elif op == "and" and (ones := self._edge_of_ones(value)):
            directions: tuple[BinaryOp, BinaryOp] = ("shl", "shr") if ones > 0 else ("shr", "shl")
            for direction, source in zip(directions, (a, d), strict=True):
                yield from self._shift(direction, d, source, 8 * self.word - abs(ones))
        else:
            # The stack pointer is a stack pointer at all times: a signal may come.
            temporary = d if d not in (a, self.sp) else self._free(a)
            yield from self.constant(temporary, value)
            yield from self._binary_register(op, d, a, temporary)

    def _set_stack(self, a: Register, value: int) -> Code:
        """sp = a + value. Go's assembler takes any addition of a constant to the stack pointer for a step of it,
        whatever it is added to."""
        if a == self.sp:
            yield from self._adjust(value)
        else:
            yield from self.binary("add", self._free(a), a, value)
            yield from self.move(self.sp, self.at)

    def _edge_of_ones(self, value: int) -> int:
        """n if `value` is n low ones, -n if it is n high ones that no immediate gives, else 0."""
        if value > 0 and value & (value + 1) == 0:
            return value.bit_length()
        inverse = ~value
        if inverse >= 0x8000 and inverse & (inverse + 1) == 0:
            return inverse.bit_length() - 8 * self.word
        return 0

    def _binary_register(self, op: BinaryOp, d: Register, a: Register, b: Register) -> Code:
        if op == "mul":
            yield from self._multiply(d, a, b)
        elif op in _SHIFTS:
            yield self._set(self._shift_name(op) + "v", d, a, b)
        else:
            yield self._set({"add": self.add, "sub": self.subtract, **_BITWISE}[op], d, a, b)

    def _shift_name(self, op: BinaryOp) -> str:
        return _SHIFTS[op]

    def _shift(self, op: BinaryOp, d: Register, a: Register, by: int) -> Code:
        if by == 0:
            yield from self.move(d, a)
        else:
            yield self._set(self._shift_name(op), d, a, by)

    def _multiply(self, d: Register, a: Register, b: Register) -> Code:
        # MIPS32 Architecture for Programmers, volume II, "MUL": hi and lo are UNPREDICTABLE after it.
        insn = self._set("mul", d, a, b)
        yield replace(insn, writes=insn.writes | {self.hi, self.lo})

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits >= 8 * self.word:
            yield from self.move(d, s)
        elif not signed and bits <= 16:
            yield self._set("andi", d, s, (1 << bits) - 1)
        else:
            yield from self._shift("shl", d, s, 8 * self.word - bits)
            yield from self._shift("sar" if signed else "shr", d, d, 8 * self.word - bits)

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        if isinstance(b, Register):
            yield from self._branch_on_registers(condition, a, b, label)
            return
        value = self._signed(b)
        last = -1 if condition.startswith("u") else (1 << (8 * self.word - 1)) - 1  # as a signed number
        if condition in ("le", "gt", "ule", "ugt"):
            # a <= n is a < n + 1, unless n is the last number: then it is always so.
            if value == last:
                if condition in ("le", "ule"):
                    yield from self.jump(label)
                return
            less: Mapping[Condition, Condition] = {"le": "lt", "gt": "ge", "ule": "ult", "ugt": "uge"}
            condition, value = less[condition], self._signed(value + 1)
        if value == 1 and condition in ("lt", "ge"):
            condition, value = ("le" if condition == "lt" else "gt"), 0
        elif value == 1 and condition in ("ult", "uge"):
            condition, value = ("eq" if condition == "ult" else "ne"), 0
        if value == 0 and condition in _AGAINST_ZERO:
            yield self._transfer(f"{_AGAINST_ZERO[condition]} {a}, {label}", "branch", (a,), label)
        elif value == 0:
            if condition == "uge":
                yield from self.jump(label)
        elif condition in ("lt", "ge", "ult", "uge") and _fits_signed(value):
            # sltiu compares with the sign-extended immediate as an unsigned number.
            temporary = self.at
            yield self._set("sltiu" if condition.startswith("u") else "slti", temporary, a, value)
            yield self._on_less(condition, temporary, label)
        else:
            temporary = self._free(a)
            yield from self.constant(temporary, value)
            yield from self._branch_on_registers(condition, a, temporary, label)

    def _branch_on_registers(self, condition: Condition, a: Register, b: Register, label: str) -> Code:
        if condition in ("eq", "ne"):
            operation = "beq" if condition == "eq" else "bne"
            yield self._transfer(f"{operation} {a}, {b}, {label}", "branch", (a, b), label)
            return
        if condition in _REVERSED:
            a, b, condition = b, a, _REVERSED[condition]
        yield self._set("sltu" if condition.startswith("u") else "slt", self.at, a, b)
        yield self._on_less(condition, self.at, label)

    def _on_less(self, condition: Condition, is_less: Register, label: str) -> Insn:
        operation = "bnez" if condition in ("lt", "ult") else "beqz"
        return self._transfer(f"{operation} {is_less}, {label}", "branch", (is_less,), label)

    def jump(self, label: str) -> Code:
        yield self._transfer(f"b {label}", "jump", target=label)

    def call(self, symbol: str, callee: Convention) -> Code:
        if self.linkage == "pic":
            yield from self.symbol_address(callee.call_through or self.at, symbol)
            yield from self.call_register(callee.call_through or self.at, callee)
            return
        if callee.call_through is None or self.linkage == "go":
            yield self._transfer("jal", "call", symbol=symbol)
            return
        yield from self.symbol_address(callee.call_through, symbol)
        yield from self.call_register(callee.call_through, callee)

    def call_register(self, address: Register, callee: Convention) -> Code:
        through = callee.call_through or address
        yield from self.move(through, address)
        yield self._transfer(f"jalr {through}", "call", (through,))

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        if self.linkage == "pic":
            yield from self.symbol_address(callee.call_through or self.at, symbol)
            yield from self.jump_register(callee.call_through or self.at, callee)
            return
        if callee.call_through is None or self.linkage == "go":
            yield self._transfer("j", "jump", symbol=symbol)
            return
        yield from self.symbol_address(callee.call_through, symbol)
        yield from self.jump_register(callee.call_through, callee)

    def jump_register(self, address: Register, callee: Convention) -> Code:
        through = callee.call_through or address
        yield from self.move(through, address)
        yield self._transfer(f"jr {through}", "jump", (through,))

    def trap(self) -> Code:
        """MIPS R4000 User's Manual, appendix A, "BREAK": a breakpoint trap, immediately and unconditionally."""
        yield Insn("break", memory="both", transfer="trap")

    def system_call(self, number: int | None, label: str) -> Code:
        result, failed = self.integers[2], self.integers[7]
        if number is not None:
            yield from self.constant(result, number)
        yield self.kernel_entry("syscall")
        if label:
            yield from self.compare_branch("eq", failed, 0, label)
            yield self._set(self.subtract, result, self.integers[0], result)
            yield Insn("", label=label)

    # -- tables of entries

    def table_register(self, convention: Convention) -> Register:
        return self.registers["t8"]

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        """The index is in the delay slot, if that is filled. t9 does not hold the address of what is entered, which
        does not look."""
        register = self.table_register(convention)
        [li] = self.constant(register, index)
        # Spelt out, for to assemble thousands of them one by one takes longer than all the rest of a build.
        # MIPS32 Architecture, volume II, "ADDIU": opcode 9, from the register 0.
        if self.linkage != "go":
            li = replace(li, keystone=f".long {9 << 26 | register.number << 16 | index:#x}")
        yield from self.improve([li, self._transfer("j", "jump", symbol=symbol)])

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        """sp keeps the alignment of its own convention even where the calls need less: the psABI (3-15) and the
        Handbook (chapter 2) demand it of every frame."""
        convention = request.convention
        alignment = max(request.alignment, convention.alignment)
        at_bottom = self._link_at_bottom(request)
        offset = aligned(max(request.body, self.word if at_bottom else 0), self.word)
        slots: list[Slot] = []
        if at_bottom:
            where = f", at sp where {convention.name} has it" if convention.return_slot == "bottom" else ""
            reason = f"the return address, since the body calls{where}"
            slots.append(Slot(0, self.word, self.ra.name, reason, self.ra))
        pieces = self._saved_pieces(request, link=request.link and not at_bottom)
        # The smaller ones go where the body left a hole, or fill the top: sdc1 needs its 8 bytes aligned.
        for register, size in sorted(pieces, key=lambda piece: piece[1], reverse=self.word == 8):
            offset = aligned(offset, size)
            owner = ", ".join(half.name for half in self._halves(register, size))
            if register == self.ra:
                reason = "the return address, since the body calls"
            else:
                reason = f"{convention.name} keeps {'them' if ', ' in owner else 'it'} for its caller"
            slots.append(Slot(offset, size, owner, reason, register))
            offset += size
        # The area above the CFA is ours; bytes of it that a convention gives to registers are not for others.
        spare = 0 if convention.save_area or request.area_taken else convention.area
        size = aligned(max(request.body, offset - spare, self.word if at_bottom else 0), alignment)
        return Frame(size, tuple(slots), request)

    def _saved_pieces(self, request: FrameRequest, link: bool) -> list[tuple[Register, int]]:
        """What to save and in how many bytes: integers by number, control registers, floats."""
        masks = dict(request.saves)
        integers = {register for register in masks if register.bank is Bank.INTEGER}
        if link:
            integers.add(self.ra)
        elif request.link:
            integers.discard(self.ra)
        pieces = [(register, self.word) for register in sorted(integers, key=lambda register: register.number)]
        control = (register for register in masks if register.bank is Bank.CONTROL)
        pieces += [(register, register.bits // 8) for register in sorted(control, key=lambda r: r.number)]
        floats = sorted((r for r in masks if r.bank is Bank.FLOAT), key=lambda register: register.number)
        return pieces + self._saved_floats(request, floats, masks)

    def _saved_floats(
        self, request: FrameRequest, floats: Sequence[Register], masks: Mapping[Register, int]
    ) -> list[tuple[Register, int]]:
        return [(register, 4 if masks[register] >> 32 == 0 else 8) for register in floats]

    def _steps(self, frame: Frame) -> tuple[int, int]:
        """How far sp goes down before the registers are saved, and how far after that.

        One step unless an offset would not fit 16 bits; then the saves are made from near the CFA."""
        saves = self._saves(frame)
        furthest = max((slot.offset + slot.size for slot in saves), default=0)
        if frame.size <= 0x8000 and self._reaches(0, furthest):
            return frame.size, 0
        if not saves:
            return 0, frame.size
        alignment = max(frame.request.alignment, frame.request.convention.alignment)
        floor = min(frame.size, min(slot.offset for slot in saves) // alignment * alignment)
        return frame.size - floor, floor

    def _saves(self, frame: Frame) -> tuple[Slot, ...]:
        """The slots above the body: all but a return address at the bottom."""
        return frame.slots[1:] if self._link_at_bottom(frame.request) else frame.slots

    @staticmethod
    def _link_at_bottom(request: FrameRequest) -> bool:
        return request.link and (request.bottom_free or request.convention.return_slot == "bottom")

    def _adjust(self, distance: int) -> Code:
        """sp += distance, `at` in between if it is far."""
        if distance == 0:
            return
        if self.linkage == "go":  # in steps that Go's assembler follows
            while not _fits_signed(distance):
                step = 0x7FF0 if distance > 0 else -0x7FF0
                yield self._set(self.add_immediate, self.sp, self.sp, step)
                distance -= step
        if _fits_signed(distance):
            yield self._set(self.add_immediate, self.sp, self.sp, distance)
        else:
            yield from self.constant(self.at, abs(distance))
            yield self._set(self.add if distance > 0 else self.subtract, self.sp, self.sp, self.at)

    def prologue(self, frame: Frame) -> Code:
        for insn in self._prologue(frame):
            yield insn.placed(insn.line, insn.column, "prologue")

    def _prologue(self, frame: Frame) -> Code:
        first, rest = self._steps(frame)
        yield from self._adjust(-first)
        link = self._link_at_bottom(frame.request)
        if link and not rest:
            yield self._access("store", self.store_word, self.ra, self.sp, 0, self.word)
        for slot in self._saves(frame):
            yield from self._save(slot, slot.offset - rest)
        yield from self._adjust(-rest)
        if link and rest:
            yield self._access("store", self.store_word, self.ra, self.sp, 0, self.word)

    def epilogue(self, frame: Frame) -> Code:
        for insn in self._epilogue(frame):
            yield insn.placed(insn.line, insn.column, "epilogue")

    def _epilogue(self, frame: Frame) -> Code:
        first, rest = self._steps(frame)
        if self._link_at_bottom(frame.request):
            yield self._access("load", self.load_word, self.ra, self.sp, 0, self.word)
        yield from self._adjust(rest)
        # The return address first: the jump waits for it.
        for slot in sorted(self._saves(frame), key=lambda slot: slot.register != self.ra):
            yield from self._restore(slot, slot.offset - rest)
        yield from self._adjust(first)

    def _save(self, slot: Slot, offset: int) -> Code:
        register = slot.register
        if register is None:
            raise ValueError(f"the slot of {slot.owner} holds no register")
        match register.bank:
            case Bank.INTEGER:
                yield self._access("store", self.store_word, register, self.sp, offset, slot.size)
            case Bank.FLOAT if self.linkage == "go":
                yield from self.float_store(register, self.sp, offset, 8 * slot.size)
            case Bank.FLOAT:
                yield self._access("store", "sdc1" if slot.size == 8 else "swc1", register, self.sp, offset, slot.size)
            case _:
                yield self._read_control(register)
                yield self._access("store", _STORES[8 * slot.size], self.at, self.sp, offset, slot.size)

    def _restore(self, slot: Slot, offset: int) -> Code:
        register = slot.register
        if register is None:
            raise ValueError(f"the slot of {slot.owner} holds no register")
        match register.bank:
            case Bank.INTEGER:
                yield self._access("load", self.load_word, register, self.sp, offset, slot.size)
            case Bank.FLOAT if self.linkage == "go":
                yield from self.float_load(register, self.sp, offset, 8 * slot.size)
            case Bank.FLOAT:
                yield self._access("load", "ldc1" if slot.size == 8 else "lwc1", register, self.sp, offset, slot.size)
            case _:
                operation = "lw" if slot.size == 4 else "ld"
                yield self._access("load", operation, self.at, self.sp, offset, slot.size)
                yield self._write_control(register)

    def _read_control(self, register: Register) -> Insn:
        """Into `at`."""
        reads, writes = frozenset({register}), frozenset({self.at})
        if register == _FCSR:
            # Keystone may read $31 as hexadecimal.
            return Insn(f"cfc1 {self.at}, $31", reads, writes, keystone=".word 0x4441f800")
        return Insn(f"mf{register.name} {self.at}", reads, writes)

    def _write_control(self, register: Register) -> Insn:
        """From `at`."""
        reads, writes = frozenset({self.at}), frozenset({register})
        if register == _FCSR:
            # It would trap if a cause bit and its enable were both set, but a saved value never has that: the
            # operation that set the cause would have trapped (R4000 User's Manual, section 6.3).
            return Insn(f"ctc1 {self.at}, $31", reads, writes, keystone=".word 0x44c1f800")
        return Insn(f"mt{register.name} {self.at}", reads, writes)

    def leave(self, frame: Frame, pop: int) -> Code:
        for insn in (*self._adjust(pop), self._transfer(f"jr {self.ra}", "return", (self.ra,))):
            yield insn.placed(insn.line, insn.column, "epilogue")

    # -- fixed values, the thread

    def establish(self, fixed: Fixed) -> Code:
        if not fixed.code_mask:
            yield from self.constant(fixed.register, fixed.value)
            return
        if fixed.code_mask != (1 << 8 * self.word) - (1 << 32):
            raise ValueError(f"{self.name} has no sequence for the code bits {fixed.code_mask:#x}")
        yield from self._upper_half_of_code(fixed.register)

    def _upper_half_of_code(self, d: Register) -> Code:
        # The call goes to what follows its delay slot, for the sake of the address that it leaves in ra.
        yield Insn("bal .+8", writes=frozenset({self.ra}), keystone=".word 0x04110001", delay_slot=True)
        yield from self._shift("shr", d, self.ra, 32)
        yield from self._shift("shl", d, d, 32)

    def _thread_pointer(self, d: Register) -> Insn:
        # rdhwr d, $29. Assemblers take it from MIPS32 release 2 on; Linux emulates it on older machines.
        return Insn(f".word {0x7C00E83B | d.number << 16:#010x}", writes=frozenset({d}), comment=f"rdhwr {d}, $29")

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        self._refuse_segment(slot)
        yield self._thread_pointer(d)
        yield from self.load(d, d, slot.offset, 8 * self.word, signed=True)

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        self._refuse_segment(slot)
        if not _fits_signed(slot.offset):
            raise ValueError(f"a thread slot at {slot.offset} is out of reach on {self.name}")
        yield self._thread_pointer(self._free(s))
        yield from self.store(s, self.at, slot.offset, 8 * self.word)

    def _refuse_segment(self, slot: ThreadSlot) -> None:
        if slot.segment != "tp":
            raise ValueError(f"{self.name} has no segment {slot.segment}; its thread pointer is called tp")

    # -- the last pass

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Fill the delay slots, which Go's assembler fills with nops, then keep apart what the machine does not keep
        apart itself."""
        kept = [item for item in code if item[0].text not in self._idle or item[0].user_text]
        return self._separate(self._fill_slots(kept))

    def _fill_slots(self, code: Sequence[Placed]) -> list[Placed]:
        done: list[Placed] = []
        start = 0  # of what may still move: nothing from before a label or a transfer does
        for item in code:
            insn, place = item
            if not insn.delay_slot:
                done.append(item)
                # Nothing may move across.
                opaque = insn.user_text or insn.text.startswith(".")
                if opaque or insn.transfer != "none" or insn.label is not None:
                    # The text of a user may end in a branch, and then what follows is in its slot.
                    start = len(done) + insn.user_text
                continue
            found = self._find_filler(done, start, insn) if self.linkage != "go" else None
            filler = done.pop(found) if found is not None else (_nop(insn.part), place)
            done += (item, filler)
            start = len(done)
        return done

    def _find_filler(self, code: Sequence[Placed], start: int, transfer: Insn) -> int | None:
        """The index of the last instruction that has the same effect behind `transfer`."""
        # What the core adds to a call's reads and writes is the callee's doing, and comes after the slot.
        read = [self._by_text[name] for name in _NAME.findall(transfer.text) if name in self._by_text]
        # Of the transfer, and of what is between it and the candidate.
        writes = set(transfer.writes & {self.ra})
        touches = writes.union(read)
        accesses: list[Insn] = []
        leaves = transfer.transfer == "return" or (transfer.transfer == "jump" and transfer.target is None)
        for index in range(len(code) - 1, start - 1, -1):
            candidate = code[index][0]
            if (
                touches.isdisjoint(candidate.writes)
                and writes.isdisjoint(candidate.reads)
                # A frame that goes late lets others write below sp; one that goes in the slot of a call is seen
                # by unwinders as still there.
                and (self.sp not in candidate.writes or (leaves and not accesses))
                and (candidate.memory == "none" or all(self._may_swap(candidate, later) for later in accesses))
                and self._may_sit_in_slot(candidate)
            ):
                return index
            writes |= candidate.writes
            touches |= candidate.writes | candidate.reads
            if candidate.memory != "none":
                accesses.append(candidate)
        return None

    @staticmethod
    def _may_sit_in_slot(insn: Insn) -> bool:
        # Moves from and to hi, lo and fcsr have to keep their distance from others that a jump would hide.
        # The distance to gp is that from its first instruction, and the second one is behind that.
        return _NOT_IN_SLOT.match(insn.text) is None

    @staticmethod
    def _may_swap(a: Insn, b: Insn) -> bool:
        """Whether two accesses to memory may change places, as far as that goes."""
        if a.memory == b.memory == "read":
            return True
        if a.access is None or b.access is None or a.access.base != b.access.base:
            return False
        first, second = sorted((a.access, b.access), key=lambda access: access.offset)
        return first.offset + first.bytes <= second.offset

    def unwinding(self) -> Unwinding:
        from .unwinding.mips import MipsUnwinding

        return MipsUnwinding(self.registers, self.word, self.order)

    def plan9(self) -> Plan9:
        from .plan9.mips import MipsSpelling

        return MipsSpelling(self.word, self.order)

    def _separate(self, code: list[Placed]) -> list[Placed]:
        """MIPS32 interlocks everything that this module emits."""
        return code


@lru_cache(maxsize=8)
def _nop(part: FramePart) -> Insn:
    return Insn("nop", part=part)


_NAME = re.compile(r"\$\w+")
_NOT_IN_SLOT = re.compile(r"nop|d?(mult|div)|m[ft](hi|lo)|c[ft]c1|.*_gp_disp")
_MOVES_FLOAT = re.compile(r"c[ft]c1|d?m[ft]c1")
_MULTIPLIES = re.compile(r"d?(mult|div)|mt(hi|lo)")
# What others have to keep their distance from.
_SLOW = ("mfhi", "mflo", "cfc1", "ctc1", "mfc1", "mtc1", "dmfc1", "dmtc1")


class O32(Mips):
    """MIPS32 release 1, o32."""

    add, add_immediate, subtract, load_word, store_word = "addu", "addiu", "subu", "lw", "sw"

    fixups: Mapping[str, Fixup] = {
        "R_MIPS_26": Fixup(4, 0x03FF_FFFF, shift=2, in_place=True),
        "R_MIPS_HI16": Fixup(4, 0xFFFF, shift=16, bias=0x8000, in_place=True),
        "R_MIPS_LO16": Fixup(4, 0xFFFF, in_place=True),
        "R_MIPS_32": Fixup(4, 0xFFFF_FFFF, in_place=True),
        # MIPS psABI, table 4-11: G, the offset of the entry from gp, for a symbol that is not local.
        "R_MIPS_GOT16": Fixup(4, 0xFFFF, in_place=True, base=GP_SYMBOL, got=True),
        # What is not of our own making.
        "R_MIPS_CALL16": Fixup(4, 0xFFFF, in_place=True, base=GP_SYMBOL, got=True),
        "R_MIPS_PC16": Fixup(4, 0xFFFF, shift=2, pc_relative=True, in_place=True),
        "R_MIPS_GPREL16": Fixup(4, 0xFFFF, in_place=True, base=GP_SYMBOL),
        "R_MIPS_GPREL32": Fixup(4, 0xFFFF_FFFF, in_place=True, base=GP_SYMBOL),
    }

    def _gp_from(self, start: Register) -> Code:
        """MIPS psABI, 3-11: `start` is the address of the first of these instructions."""
        gp = self.gp
        yield self._slice("lui", gp, None, "hi", "R_MIPS_HI16", "_gp_disp")
        yield self._slice("addiu", gp, gp, "lo", "R_MIPS_LO16", "_gp_disp")
        yield self._set("addu", gp, gp, start)

    def global_entry(self, name: str, convention: Convention) -> Code:
        if self.linkage == "pic" and convention.call_through is not None:
            yield from self._gp_from(convention.call_through)

    def symbol_address(self, d: Register, symbol: str) -> Code:
        if self.linkage == "pic" and symbol == TOC_SYMBOL:
            # Of a function that is not entered through a register: by the address that a call leaves in ra.
            yield self._set("move", self.at, self.ra)
            yield Insn("bal .+8", writes=frozenset({self.ra}), keystone=".word 0x04110001", delay_slot=True)
            yield from self._gp_from(self.ra)
            yield self._set("move", self.ra, self.at)
            return
        if self.linkage == "pic":
            yield self._got_load(d, "got", "R_MIPS_GOT16", symbol)
            return
        yield self._slice("lui", d, None, "hi", "R_MIPS_HI16", symbol)
        yield self._slice("addiu", d, d, "lo", "R_MIPS_LO16", symbol)

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if self.linkage != "static":  # Go's assembler would make the address in r23
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        yield self._slice("lui", d, None, "hi", "R_MIPS_HI16", symbol)
        yield self._load_low(d, d, symbol, bits, signed)

    def _float_pieces(self, register: Register, bits: int) -> tuple[tuple[Register, int, int], ...]:
        # Go aligns doubles to 4 bytes only, where ldc1 traps. The low word is in the even register.
        if bits == 32:
            return ((register, 0, 4),)
        even, odd = self._halves(register, 8)
        if self.order == "little":
            return (even, 0, 4), (odd, 4, 4)
        if self.linkage == "go":  # the even register first, as Go's assembler has it
            return (even, 4, 4), (odd, 0, 4)
        return (odd, 0, 4), (even, 4, 4)

    def _saved_floats(
        self, request: FrameRequest, floats: Sequence[Register], masks: Mapping[Register, int]
    ) -> list[tuple[Register, int]]:
        """A pair in one sdc1 where both of it are kept and the stack is 8-aligned, else each by itself."""
        convention = request.convention
        pieces: list[tuple[Register, int]] = []
        for register in floats:
            even, odd = (self.floats[register.number & ~1 | n] for n in (0, 1))
            together = all(half in masks or convention.keeps(half) for half in (even, odd))
            if not together or convention.alignment < 8:
                pieces.append((register, 4))
            elif (even, 8) not in pieces:
                pieces.append((even, 8))
        return pieces


class N64(Mips):
    """MIPS III, n64."""

    add, add_immediate, subtract, load_word, store_word = "daddu", "daddiu", "dsubu", "ld", "sd"

    fixups: Mapping[str, Fixup] = {
        "R_MIPS_26": Fixup(4, 0x03FF_FFFF, shift=2),
        "R_MIPS_HI16": Fixup(4, 0xFFFF, shift=16, bias=0x8000),
        "R_MIPS_LO16": Fixup(4, 0xFFFF),
        "R_MIPS_HIGHER": Fixup(4, 0xFFFF, shift=32, bias=0x8000_8000),
        "R_MIPS_HIGHEST": Fixup(4, 0xFFFF, shift=48, bias=0x8000_8000_8000),
        "R_MIPS_32": Fixup(4, 0xFFFF_FFFF),
        "R_MIPS_64": Fixup(8, 0xFFFF_FFFF_FFFF_FFFF),
        # 64-bit ELF Object File Specification (MIPS), section 2.9: the entry's offset from gp; and what three
        # relocations of one place make together, (S + A - GP), its negative, and a half of that.
        "R_MIPS_GOT_DISP": Fixup(4, 0xFFFF, base=GP_SYMBOL, got=True),
        "R_MIPS_CALL16": Fixup(4, 0xFFFF, base=GP_SYMBOL, got=True),
        "R_MIPS_GOT_PAGE": Fixup(4, 0xFFFF, base=GP_SYMBOL, got=True),
        "R_MIPS_PC16": Fixup(4, 0xFFFF, shift=2, pc_relative=True),
        "R_MIPS_GPREL16": Fixup(4, 0xFFFF, base=GP_SYMBOL),
        "R_MIPS_GPREL32": Fixup(4, 0xFFFF_FFFF, base=GP_SYMBOL),
        "R_MIPS_GPREL32/R_MIPS_64": Fixup(8, 0xFFFF_FFFF_FFFF_FFFF, base=GP_SYMBOL),
        "R_MIPS_GPREL16/R_MIPS_SUB/R_MIPS_HI16": Fixup(4, 0xFFFF, shift=16, bias=0x8000, base=GP_SYMBOL, negated=True),
        "R_MIPS_GPREL16/R_MIPS_SUB/R_MIPS_LO16": Fixup(4, 0xFFFF, base=GP_SYMBOL, negated=True),
    }

    def find_got(self, name: str, convention: Convention) -> Code:
        """As compilers do; t9 is the function's address (MIPSpro N32/64 ABI Handbook, chapter 2)."""
        gp, through = self.gp, convention.call_through
        assert through is not None
        for operation, half in (("lui", "hi"), ("daddiu", "lo")):
            source = gp if operation == "daddiu" else None
            made = self._slice(operation, gp, source, half, "", name)
            distance = f"%{half}(%neg(%gp_rel({spelled(name)})))"
            yield replace(
                made,
                text=made.text.replace(f"%{half}({spelled(name)})", distance),
                relocation=Relocation(f"R_MIPS_GPREL16/R_MIPS_SUB/R_MIPS_{half.upper()}16", name),
            )
            if operation == "lui":
                yield self._set("daddu", gp, gp, through)

    def symbol_base(self) -> Register | None:
        return self.gp if self.linkage == "go" else None

    def symbol_address(self, d: Register, symbol: str) -> Code:
        if self.linkage == "pic" and symbol == TOC_SYMBOL:
            raise ValueError("a function that is not entered through a register finds no global offset table")
        if self.linkage == "pic":
            yield self._got_load(d, "got_disp", "R_MIPS_GOT_DISP", symbol)
            return
        if symbol == BASE_SYMBOL:
            mark = f"establish {d.name}"
            for insn in (
                *self.move(self._free(d), self.ra),
                *self._upper_half_of_code(d),
                *self.move(self.ra, self.at),
            ):
                yield replace(insn, comment=mark)
            return
        if self.linkage == "go":
            yield self._slice("lui", d, None, "hi", "R_MIPS_HI16", symbol)
            yield self._set("daddu", d, d, self.gp)
            yield self._slice("daddiu", d, d, "lo", "R_MIPS_LO16", symbol)
            return
        low = self._free(d)
        yield self._slice("lui", d, None, "highest", "R_MIPS_HIGHEST", symbol)
        yield self._slice("lui", low, None, "hi", "R_MIPS_HI16", symbol)
        yield self._slice("daddiu", d, d, "higher", "R_MIPS_HIGHER", symbol)
        yield self._slice("daddiu", low, low, "lo", "R_MIPS_LO16", symbol)
        yield self._set("dsll32", d, d, 0)
        yield self._set("daddu", d, d, low)

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if self.linkage != "static":  # Go's assembler would make the address in r23
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        middle = self._free(d)
        yield self._slice("lui", d, None, "highest", "R_MIPS_HIGHEST", symbol)
        yield self._slice("lui", middle, None, "hi", "R_MIPS_HI16", symbol)
        yield self._slice("daddiu", d, d, "higher", "R_MIPS_HIGHER", symbol)
        yield self._set("dsll32", d, d, 0)
        yield self._set("daddu", d, d, middle)
        yield self._load_low(d, d, symbol, bits, signed)

    def constant(self, d: Register, value: int) -> Code:
        value = self._signed(value)
        trailing = (value & -value).bit_length() - 1
        if -(1 << 31) <= value < 1 << 31:
            yield from self._small(d, value)
        elif value & (value + 1) == 0:
            yield self._tiny(d, -1)
            yield from self._shift("shr", d, d, 64 - value.bit_length())
        elif -0x8000 <= value >> trailing < 0x1_0000:
            yield self._tiny(d, value >> trailing)
            yield from self._shift("shl", d, d, trailing)
        else:
            yield from self._constant_by_parts(d, value)

    def _constant_by_parts(self, d: Register, value: int) -> Code:
        below = 16
        while value >> below & 0xFFFF == 0 and value & ((1 << below) - 1) == 0:
            below += 16
        shift = below if value & ((1 << below) - 1) == 0 else 16
        if shift == 16 and value & 0xFFFF_0000 == 0:
            shift = 32
        yield from self.constant(d, value >> shift)
        yield from self._shift("shl", d, d, shift)
        if value & 0xFFFF:
            yield self._set("ori", d, d, value & 0xFFFF)

    def _shift_name(self, op: BinaryOp) -> str:
        return "d" + _SHIFTS[op]

    def _shift(self, op: BinaryOp, d: Register, a: Register, by: int) -> Code:
        if by < 32:
            yield from super()._shift(op, d, a, by)
        else:
            yield self._set(self._shift_name(op) + "32", d, a, by - 32)

    def _multiply(self, d: Register, a: Register, b: Register) -> Code:
        yield Insn(f"dmultu {a}, {b}", frozenset({a, b}), frozenset({self.hi, self.lo}))
        yield Insn(f"mflo {d}", frozenset({self.lo}), frozenset({d}))

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits == 32 and signed and self.linkage == "go":
            yield self._set("sllv", d, s, self.zero)
        elif bits == 32 and signed:
            yield self._set("sll", d, s, 0)
        else:
            yield from super().extend(d, s, bits, signed)

    def _separate(self, code: list[Placed]) -> list[Placed]:
        """MIPS III, unlike MIPS IV, leaves two things to software (R4000 User's Manual, appendix A, "MFLO", and
        table 5-11; GNU as does the same in reorder mode): two instructions between a move from hi or lo and the next
        multiplication, and one between a move from or to the floating point unit and the use of what it moved."""
        if not any(insn.text.startswith(_SLOW) for insn, _ in code):
            return code
        done: list[Placed] = []
        for item in code:
            insn, place = item
            real = [previous for previous, _ in done[-4:] if previous.label is None]
            in_slot = bool(real) and real[-1].delay_slot
            if insn.label is None and not in_slot and (missing := self._distance(real, insn)):
                done += [(_nop(insn.part), place)] * missing
            done.append(item)
        return done

    @staticmethod
    def _distance(before: Sequence[Insn], insn: Insn) -> int:
        """How many instructions are missing between the last ones and this one."""
        if before and before[-1].writes & insn.reads and _MOVES_FLOAT.match(before[-1].text):
            return 1
        if _MULTIPLIES.match(insn.text):
            for distance, previous in enumerate(reversed(before[-2:])):
                if re.match(r"mf(hi|lo)", previous.text):
                    return 2 - distance
        return 0


# ----------------------------------------------------------------------------------------------------------- targets


def _engines(word: int, order: ByteOrder) -> Engines:
    width = 8 * word
    big = order == "big"
    return Engines(
        keystone_arch="KS_ARCH_MIPS",
        keystone_mode=(f"KS_MODE_MIPS{width}", *(("KS_MODE_BIG_ENDIAN",) if big else ())),
        unicorn_arch="UC_ARCH_MIPS",
        unicorn_mode=(f"UC_MODE_MIPS{width}", *(("UC_MODE_BIG_ENDIAN",) if big else ())),
        unicorn_cpu=None if word == 4 else "UC_CPU_MIPS64_MIPS64R2_GENERIC",
        capstone_arch="CS_ARCH_MIPS",
        capstone_mode=(f"CS_MODE_MIPS{width}", *(("CS_MODE_BIG_ENDIAN",) if big else ())),
    )


def _go_conventions(word: int, order: ByteOrder, soft: bool) -> tuple[Convention, Convention]:
    go0 = _convention_go0(word, order, soft)
    return go0, go0.derive(name="goregs", title=NO_REGISTERS)


def _o32_machine(name: str, order: ByteOrder, soft: bool) -> Architecture:
    tool = "mips-linux-gnu-as" if order == "big" else "mipsel-linux-gnu-as"
    return O32(
        name,
        4,
        order,
        soft,
        (_c_o32(order, soft), *_go_conventions(4, order, soft)),
        _engines(4, order),
        (tool, "-march=mips32", "-mabi=32", "-EB" if order == "big" else "-EL"),
        # Doubles in memory are moved by halves, through odd registers: the code is for FR=0. It links with FPXX code.
        (".module softfloat",) if soft else (".module fp=32",),
    )


def _n64_machine(name: str, order: ByteOrder, soft: bool) -> Architecture:
    tool = "mips64-linux-gnuabi64-as" if order == "big" else "mips64el-linux-gnuabi64-as"
    return N64(
        name,
        8,
        order,
        soft,
        (_c_n64(soft), *_go_conventions(8, order, soft)),
        _engines(8, order),
        (tool, "-march=mips3", "-mabi=64", "-EB" if order == "big" else "-EL"),
        (".module softfloat",) if soft else (),
    )


def _targets() -> Iterable[Target]:
    for name in ("mips", "mipsle", "mips64", "mips64le"):
        order: ByteOrder = "little" if name.endswith("le") else "big"
        machine, baseline = (_n64_machine, "MIPS III") if "64" in name else (_o32_machine, "MIPS32 release 1")
        yield Target(f"linux/{name}", "linux", machine(name, order, False), baseline)
        yield Target(f"linux/{name}-soft", "linux", machine(name, order, True), baseline, "soft")


TARGETS: tuple[Target, ...] = tuple(_targets())
