"""x86: what 386 and amd64 share, in Intel syntax.

Unlike the others, the call itself pushes the return address, binary operations overwrite their first operand, an
instruction is as long as its operands make it (so there is a shortest spelling to choose), and the conventions leave
no register to the compiler's own short sequences: what is written here borrows one and gives it back.

                 CFA -> | stack arguments               |  the caller's
                        | return address                |  pushed by the call
                        | saved integer registers       |  pushed: ebp or rbp first, then by number, flags last
                        | padding, so that sp is aligned|
                        | saved xmm, mxcsr, fpcw        |
    body bytes above sp | outgoing arguments and locals |
                  sp -> +-------------------------------+

Documents: *i386 psABI* is the System V ABI, Intel386 Architecture Processor Supplement, 1.1; *x86-64 psABI* its AMD64
counterpart, 1.0; *SDM* is Intel's Software Developer's Manual, volume 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from trampoline_dsl.target import (
    STRAIGHT_ON,
    Access,
    Architecture,
    Arrival,
    Bank,
    BinaryOp,
    Code,
    Condition,
    Control,
    Convention,
    Fixed,
    Frame,
    FrameRequest,
    Insn,
    Linkage,
    Location,
    OnStack,
    Part,
    Placed,
    Register,
    Relocation,
    Slot,
    ValueType,
    aligned,
    property_note,
    spelled,
)

# --------------------------------------------------------------------------------------------------------- registers


def integers(prefix: str) -> tuple[Register, ...]:
    """The eight old registers in the order of their numbers, named in full width: eax... or rax..."""
    roots = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
    bits = 64 if prefix == "r" else 32
    return tuple(Register(prefix + root, Bank.INTEGER, bits, prefix + root, n) for n, root in enumerate(roots))


def vectors(count: int) -> tuple[Register, ...]:
    return tuple(Register(f"xmm{n}", Bank.FLOAT, 128, f"xmm{n}", n) for n in range(count))


def by_name(registers: Iterable[Register]) -> Mapping[str, Register]:
    return MappingProxyType({name: register for register in registers for name in (register.name, *register.aliases)})


# Both machines have these three; what they control is the same bit for bit.
eflags = Register("eflags", Bank.CONTROL, 32, "eflags", 0)
mxcsr = Register("mxcsr", Bank.CONTROL, 32, "mxcsr", 1)
fpcw = Register("fpcw", Bank.CONTROL, 16, "fpcw", 2)

DIRECTION = 0x400  # DF. SDM 3.4.3.2.
# Denormals-are-zero, the six exception masks, rounding, flush-to-zero. Bits 0-5 are status, 16-31 reserved: loading
# ones there traps. SDM 10.2.3.
MXCSR_CONTROL = 0xFFC0
# The six exception masks, precision, rounding, and the infinity bit, which only a 287 heeds but all store. SDM 8.1.5.
FPCW_CONTROL = 0x1F3F


def low(register: Register, bits: int) -> str:
    """What assembly calls the low `bits` of an integer register."""
    root = register.name[1:]
    if root.isdigit():
        return f"r{root}" + {8: "b", 16: "w", 32: "d", 64: ""}[bits]
    if bits == 8:
        return (root[0] if root.endswith("x") else root) + "l"
    return {16: "", 32: "e", 64: "r"}[bits] + root


# ------------------------------------------------------------------------------------------------------- conventions


def stacked(offset: int, kind: ValueType, word: int, extend_to: int = 0) -> Location:
    """A value in memory: an integer in parts of a word at most, a floating point value in one."""
    step = word * 8 if kind.kind == "int" else kind.bits
    return tuple(
        Part(OnStack(offset + low // 8), low, min(step, kind.bits - low), extend_to, kind.signed and extend_to > 0)
        for low in range(0, kind.bits, step)
    )


OperatingSystem = Literal["linux", "windows"]
FORWARD = Fixed(eflags, DIRECTION, 0, "string instructions count upwards (DF = 0)")
CONTROL_BITS = {mxcsr: MXCSR_CONTROL, fpcw: FPCW_CONTROL}


def whole(*registers: Register) -> dict[Register, int]:
    return {register: (1 << register.bits) - 1 for register in registers}


# ------------------------------------------------------------------------------------------------------ instructions

_CONDITIONS: dict[Condition, str] = {
    "eq": "je",
    "ne": "jne",
    "lt": "jl",
    "le": "jle",
    "gt": "jg",
    "ge": "jge",
    "ult": "jb",
    "ule": "jbe",
    "ugt": "ja",
    "uge": "jae",
}
_BELOW: dict[Condition, Condition] = {"lt": "le", "ge": "gt", "ult": "ule", "uge": "ugt"}  # x < n is x <= n - 1
_MNEMONICS: dict[BinaryOp, str] = {"mul": "imul"}
_SIZES = {8: "byte", 16: "word", 32: "dword", 64: "qword", 128: "xmmword"}
_LETTERS = {32: "s", 64: "d"}

# Words of Intel syntax, and registers. GNU as reads a symbol of such a name as the operator or register: `call mod` is
# an error, `call byte` a call to address 1 without a word.
_TAKEN = re.compile(
    r"and|not|or|xor|mod|shl|shr|eq|ne|lt|le|gt|ge|offset|ptr|short|near|far|flat|"
    r"byte|[dfqot]?byte|[dfqo]?word|[xyz]?mmword|"
    r"[re]?[abcd]x|[abcd][lh]|[re]?(si|di|bp|sp)|(si|di|bp|sp)l|[re]i[pz]|r[0-9]+[bwd]?|"
    r"[cdefgs]s|st|[xyzt]?mm[0-9]+|[cdt][br][0-9]+|k[0-7]|bnd[0-3]",
    re.IGNORECASE,
)


def number(value: int) -> str:
    """Keystone may read a bare 16 as 0x16, so only single digits are decimal."""
    return f"{value:d}" if abs(value) < 10 else f"{value:#x}"


def raw(code: bytes) -> str:
    return ".byte " + ", ".join(f"{byte:#x}" for byte in code)


_FEATURES = 0xC0000002  # GNU_PROPERTY_X86_FEATURE_1_AND
# SDM volume 2A, "ENDBR64", "ENDBR32".
_PADS = {64: bytes.fromhex("f30f1efa"), 32: bytes.fromhex("f30f1efb")}
# A call or a jump through a register or memory, as it is written here and by disassemblers: `call rax`,
# `jmp qword ptr [rip]`.
_INDIRECT = re.compile(
    r"(bnd )?(call|jmp) (([re]?[abcd]x|[re]?([sd]i|[bs]p)|r\d+[dw]?)$|([a-z]*word ptr |[c-g]s:)?\[|[a-z]*word ptr )"
)
_PREFIXES = re.compile(r"^((bnd|notrack|repz|repnz|rep|repne|data16|lock) )+")
_TRAPS = ("ud0", "ud1", "ud2", "ud2b", "int", "int1", "int3", "into", "hlt")


class X86(Architecture):
    """What the two machines share. `word` is what differs most."""

    family = "x86"
    order = "little"
    flags = eflags
    two_address = True
    header: tuple[str, ...] = (".intel_syntax noprefix",)
    comment = "#"
    branch_relocation: str  # of calls and jumps to symbols
    absolute_relocation: str  # of the address of a symbol, a word
    branch_addend: int  # PE/COFF counts from the end of the field, ELF from its start
    integers: tuple[Register, ...]  # by number
    accumulator: Register
    counter: Register
    frame_pointer: Register

    def link_for(self, linkage: Linkage) -> None:
        super().link_for(linkage)
        self.thread_store_by_base = linkage == "go"

    # -- protection of control flow. SDM volume 1, chapter 17, "Control-flow Enforcement Technology".

    why_no_protection = ""

    def protect_from_now(self) -> None:
        super().protect_from_now()
        self.header = (*self.header, ".arch .ibt")  # GNU as, where it is told the baseline, has no ENDBR otherwise

    def landing_pad(self) -> Code:
        yield Insn(f"endbr{self.bits}", keystone=raw(_PADS[self.bits]))

    def arrival(self, insn: Insn) -> Arrival | None:
        """SDM volume 1, 17.3.1: near indirect calls and jumps without the prefix NOTRACK."""
        return "call" if _INDIRECT.match(insn.text) else None

    def lands(self, code: bytes, arrival: Arrival) -> bool:
        return code.startswith(_PADS[self.bits])

    def property_note(self, paired: bool) -> Iterable[str]:
        """x86-64 psABI, "Program Property": bit 0 is IBT and bit 1 is SHSTK."""
        return property_note(_FEATURES, 3 if paired else 1, self.word)

    def promises(self, properties: Mapping[int, int]) -> tuple[bool, bool]:
        value = properties.get(_FEATURES, 0)
        return bool(value & 1), bool(value & 2)

    # -- the pieces of an instruction

    @property
    def bits(self) -> int:
        return self.word * 8

    def signed(self, value: int) -> int:
        """A word, given as signed or unsigned, as the signed number of the same bits."""
        if not -(1 << self.bits - 1) <= value < 1 << self.bits:
            raise ValueError(f"{value:#x} is not a word of {self.bits} bits")
        return value - (1 << self.bits) if value >> self.bits - 1 == 1 else value

    def memory(self, base: Register, offset: int, bits: int) -> str:
        offset = self.signed(offset)
        if not fits(offset, 32):
            raise ValueError(f"offset {offset:#x} from {base} is out of an instruction's reach of 31 bits")
        sign = "-" if offset < 0 else "+"
        return f"{_SIZES[bits]} ptr [{base}{sign + number(abs(offset)) if offset else ''}]"

    def load_insn(self, mnemonic: str, text: str, d: Register, base: Register, offset: int, bits: int) -> Insn:
        return Insn(
            f"{mnemonic} {text}, {self.memory(base, offset, bits)}",
            reads=frozenset({base}),
            writes=frozenset({d}),
            memory="read",
            access=Access("load", d, base, offset, bits // 8),
        )

    def store_insn(self, mnemonic: str, text: str, s: Register, base: Register, offset: int, bits: int) -> Insn:
        return Insn(
            f"{mnemonic} {self.memory(base, offset, bits)}, {text}",
            reads=frozenset({s, base}),
            memory="write",
            access=Access("store", s, base, offset, bits // 8),
        )

    def operate(self, mnemonic: str, d: Register, b: Register | int | None = None, bits: int = 0) -> Insn:
        """`d = d op b` on the low `bits` of them (0: all); 32-bit results are zero-extended by the machine."""
        bits = bits or self.bits
        operands = [low(d, bits)]
        reads = {d}
        if isinstance(b, Register):
            operands.append(low(b, bits))
            reads.add(b)
        elif b is not None:
            operands.append(number(b))
        return Insn(f"{mnemonic} {', '.join(operands)}", frozenset(reads), frozenset({d, eflags}))

    def lea(self, d: Register, address: str, *reads: Register) -> Insn:
        return Insn(f"lea {d}, [{address}]", frozenset(reads), frozenset({d}))

    def push(self, s: Register) -> Insn:
        text = f"push {s}" if s is not eflags else f"pushf{'q' if self.word == 8 else 'd'}"
        return Insn(text, frozenset({s, self.sp}), frozenset({self.sp}), "write")

    def pop(self, d: Register) -> Insn:
        text = f"pop {d}" if d is not eflags else f"popf{'q' if self.word == 8 else 'd'}"
        return Insn(text, frozenset({self.sp}), frozenset({d, self.sp}), "read")

    def with_lent(self, value: int, lent: Register, use: Iterable[Insn]) -> Code:
        """`use` with a constant that no instruction takes in `lent`, which is then as it was. The flags are `use`'s."""
        yield self.push(lent)
        yield from self.constant(lent, value)
        yield from use
        yield self.pop(lent)

    def lent(self, busy: Register) -> Register:
        if busy == self.sp:
            raise ValueError(f"{self.sp} takes no constant of 64 bits: the push around it would move it")
        return self.counter if busy != self.counter else self.accumulator

    # -- moving words about

    def move(self, d: Register, s: Register) -> Code:
        if d != s:
            yield Insn(f"mov {d}, {s}", frozenset({s}), frozenset({d}))

    def constant(self, d: Register, value: int) -> Code:
        value = self.signed(value)
        short = low(d, 32)
        if value == 0:
            yield Insn(f"xor {short}, {short}", frozenset(), frozenset({d, eflags}))
        elif value == -1:
            yield Insn(f"or {d}, -1", frozenset(), frozenset({d, eflags}))
        elif 0 < value < 1 << 32:
            yield Insn(f"mov {short}, {number(value)}", frozenset(), frozenset({d}))
        elif fits(value, 32):
            yield Insn(f"mov {d}, {number(value)}", frozenset(), frozenset({d}))
        else:
            yield Insn(f"movabs {d}, {number(value)}", frozenset(), frozenset({d}))

    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code:
        if bits == self.bits:
            yield self.load_insn("mov", f"{d}", d, base, offset, bits)
        elif bits == 32:
            yield self.load_insn(*(("movsxd", f"{d}") if signed else ("mov", low(d, 32))), d, base, offset, bits)
        else:
            yield self.load_insn(*(("movsx", f"{d}") if signed else ("movzx", low(d, 32))), d, base, offset, bits)

    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        if bits == 8 and self.byte_registers is not None and s not in self.byte_registers:
            # esi, edi, ebp and esp have no byte of their own on 386.
            lent = next(r for r in self.integers if r in self.byte_registers and r != base)
            yield self.exchange(lent, s)
            yield self.store_insn("mov", low(lent, 8), lent, lent if base == s else base, offset, 8)
            yield self.exchange(lent, s)
            return
        yield self.store_insn("mov", low(s, bits), s, base, offset, bits)

    def exchange(self, a: Register, b: Register) -> Insn:
        if self.sp in (a, b):
            raise ValueError(f"{self.sp} cannot leave the stack, not even for an instruction")
        return Insn(f"xchg {a}, {b}", frozenset({a, b}), frozenset({a, b}))

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if d != s:
            # A whole move: movss and movsd merge into the old value, and depend on it.
            yield Insn(f"movaps {d}, {s}", frozenset({s}), frozenset({d}))

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        yield self.load_insn(f"movs{_LETTERS[bits]}", f"{d}", d, base, offset, bits)

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        yield self.store_insn(f"movs{_LETTERS[bits]}", f"{s}", s, base, offset, bits)

    # -- arithmetic on words

    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code:
        if isinstance(b, int):
            yield from self.with_constant(op, d, a, b)
            return
        if d == b and d != a:
            if op not in ("add", "and", "or", "xor", "mul"):
                raise ValueError(f"{op} would overwrite its second operand, {b}, with the first")
            a, b = b, a
        if op in ("shl", "shr", "sar"):
            yield from self.move(d, a)
            yield from self.shift(op, d, b)
        elif op == "add" and d != a:
            # rsp cannot be an index; rbp and r13 as a base need a displacement byte.
            base, index = (b, a) if b == self.sp or (a.number & 7 == 5 and a != self.sp) else (a, b)
            yield self.lea(d, f"{base}+{index}", base, index)
        else:
            yield from self.move(d, a)
            yield self.operate(_MNEMONICS.get(op, op), d, b)

    def shift(self, op: BinaryOp, d: Register, count: Register) -> Code:
        """Shifts count in cl and nowhere else."""
        cl = self.counter
        swapped = {cl: count, count: cl}.get(d, d) if count != cl else d
        swap = [self.exchange(cl, count)] if count != cl else []
        yield from swap
        yield Insn(f"{op} {swapped}, cl", frozenset({swapped, cl}), frozenset({swapped, eflags}))
        yield from swap

    def with_constant(self, op: BinaryOp, d: Register, a: Register, value: int) -> Code:
        if op in ("shl", "shr", "sar"):
            if not 0 <= value < self.bits:
                raise ValueError(f"a shift by {value} in a word of {self.bits} bits")
            if op == "shl" and value == 1 and d != a:
                yield from self.binary("add", d, a, a)
                return
            yield from self.move(d, a)
            if value:
                yield self.operate(op, d, value)
            return
        value = self.signed(value)
        if op == "sub":
            op, value = "add", self.signed(-value & (1 << self.bits) - 1)
        match op, value:
            case ("add" | "or" | "xor", 0) | ("and", -1) | ("mul", 1):
                yield from self.move(d, a)
            case ("and" | "mul", 0):
                yield from self.constant(d, 0)
            case ("or", -1):
                yield from self.constant(d, -1)
            case ("xor", -1) if self.complements(d):
                yield from self.move(d, a)
                yield Insn(f"not {d}", frozenset({d}), frozenset({d}))
            case ("and", 0xFF | 0xFFFF | 0xFFFFFFFF):
                yield from self.extend(d, a, value.bit_length(), signed=False)
            case ("mul", -1) if self.complements(d):
                yield from self.move(d, a)
                yield self.operate("neg", d)
            case ("mul", 3 | 5 | 9) if a.number & 7 != 5 and a != self.sp:
                yield self.lea(d, f"{a}+{a}*{value - 1}", a)
            case ("mul", _) if value & (value - 1) == 0:
                yield from self.with_constant("shl", d, a, value.bit_length() - 1)
            case ("and", _) if 0 < value < 1 << 32:
                # The upper half of the result is zero, as that of every 32-bit operation: no prefix is needed.
                if d != a:
                    yield Insn(f"mov {low(d, 32)}, {low(a, 32)}", frozenset({a}), frozenset({d}))
                yield self.operate("and", d, value, 32)
            case _ if not fits(value, 32):
                yield from self.with_wide_constant(op, d, a, value)
            case ("add", _) if d == a and not (self.linkage == "go" and d == self.sp):
                yield self.adjust(d, value)
            case ("add", _):
                # Go's assembler takes what adds to sp for a step within the frame. Those are made by `adjust`.
                sign = "-" if value < 0 else "+"
                yield self.lea(d, f"{a}{sign}{number(abs(value))}", a)
            case ("mul", _):
                yield Insn(f"imul {d}, {a}, {number(value)}", frozenset({a}), frozenset({d, eflags}))
            case _:
                yield from self.move(d, a)
                yield self.operate(op, d, value)

    def complements(self, d: Register) -> bool:
        """Whether NOT and NEG take the register. Go's assembler has these two exchange one that has no byte of its own
        for another before and after: cmd/internal/obj/x86/asm6.go, ANOTL."""
        return self.linkage != "go" or self.byte_registers is None or d in self.byte_registers

    def with_wide_constant(self, op: BinaryOp, d: Register, a: Register, value: int) -> Code:
        mnemonic = _MNEMONICS.get(op, op)  # all of add, and, or, xor, mul may have their operands exchanged
        if d != a:
            yield from self.constant(d, value)
            yield self.operate(mnemonic, d, a)
        else:
            lent = self.lent(d)
            yield from self.with_lent(value, lent, [self.operate(mnemonic, d, lent)])

    def adjust(self, d: Register, by: int) -> Insn:
        """Add a constant of at most 32 bits, in the fewest bytes: -128 fits a byte where 128 does not."""
        if not -(1 << 31) <= by <= 1 << 31:
            raise ValueError(f"{d} cannot be changed by {by:#x} in one instruction")
        if by in (1, -1):
            return self.operate("inc" if by == 1 else "dec", d)
        if by in (0x80, 1 << 31) or (by < 0 and by not in (-0x80, -(1 << 31))):
            return self.operate("sub", d, -by)
        return self.operate("add", d, by)

    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code:
        if bits == self.bits:
            yield from self.move(d, s)
        elif bits == 8 and self.byte_registers is not None and s not in self.byte_registers:
            yield from self.move(d, s)
            if d in self.byte_registers:
                yield from self.extend(d, d, 8, signed)
            elif signed:
                yield self.operate("shl", d, 24)
                yield self.operate("sar", d, 24)
            else:
                yield self.operate("and", d, 0xFF)
        elif signed and d == s == self.accumulator and bits * 2 == self.bits:
            yield Insn("cdqe" if bits == 32 else "cwde", frozenset({s}), frozenset({d}))
        elif signed:
            mnemonic = "movsxd" if bits == 32 else "movsx"
            yield Insn(f"{mnemonic} {d}, {low(s, bits)}", frozenset({s}), frozenset({d}))
        else:
            mnemonic = "mov" if bits == 32 else "movzx"
            yield Insn(f"{mnemonic} {low(d, 32)}, {low(s, bits)}", frozenset({s}), frozenset({d}))

    # -- control

    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code:
        if isinstance(b, int):
            b = self.signed(b)
            if condition in _BELOW and b in (1, 0x80):
                condition, b = _BELOW[condition], b - 1
        yield from self.compare(a, b)
        yield Insn(f"{_CONDITIONS[condition]} {label}", frozenset({eflags}), transfer="branch", target=label)

    def compare(self, a: Register, b: Register | int) -> Code:
        if isinstance(b, Register):
            yield Insn(f"cmp {a}, {b}", frozenset({a, b}), frozenset({eflags}))
        elif b == 0:
            yield Insn(f"test {a}, {a}", frozenset({a}), frozenset({eflags}))
        elif fits(b, 32):
            yield Insn(f"cmp {a}, {number(b)}", frozenset({a}), frozenset({eflags}))
        else:
            yield from self.with_lent(b, self.lent(a), self.compare(a, self.lent(a)))

    def control(self, code: bytes, text: str, address: int) -> Control:
        """Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 7.3.8, "Control Transfer
        Instructions"."""
        mnemonic, _, operand = _PREFIXES.sub("", text).partition(" ")
        target = int(operand, 16) if operand.startswith("0x") else None
        if mnemonic in ("jmp", "ljmp"):
            return Control("jump", target)
        if mnemonic in ("call", "lcall"):
            return Control("call", target)
        if mnemonic.startswith(("ret", "iret")):
            return Control("return")
        if mnemonic.startswith(("j", "loop")) or mnemonic == "xbegin":
            return Control("branch", target)
        if mnemonic in ("syscall", "sysenter") or text == "int 0x80":
            return Control("system")
        return Control("trap") if mnemonic in _TRAPS else STRAIGHT_ON

    def jump(self, label: str) -> Code:
        yield Insn(f"jmp {label}", transfer="jump", target=label)

    def relative(self, mnemonic: str, opcode: int, symbol: str, transfer: Literal["jump", "call"]) -> Insn:
        text = f"{mnemonic} {spelled(symbol)}"
        return Insn(
            guarded(text, text, symbol),
            frozenset({self.sp}),
            memory="both" if transfer == "call" else "none",
            transfer=transfer,
            relocation=Relocation(self.branch_relocation, symbol, self.branch_addend, 1),
            # Keystone would choose the short jump for a near placeholder.
            keystone=raw(bytes((opcode, 0, 0, 0, 0))),
        )

    def call(self, symbol: str, callee: Convention) -> Code:
        call = self.relative("call", 0xE8, symbol, "call")
        yield replace(call, reads=call.reads | self.taken(callee))

    def tail_call(self, symbol: str, callee: Convention) -> Code:
        yield self.relative("jmp", 0xE9, symbol, "jump")

    def call_register(self, address: Register, callee: Convention) -> Code:
        reads = frozenset({address, self.sp}) | self.taken(callee)
        yield Insn(f"call {address}", reads, memory="both", transfer="call")

    def taken(self, callee: Convention) -> frozenset[Register]:
        """The registers that a callee may find arguments in, on 386, where loads before a call may be left out."""
        return frozenset(callee.integer_arguments) if self.word == 4 else frozenset()

    def jump_register(self, address: Register, callee: Convention) -> Code:
        yield Insn(f"jmp {address}", frozenset({address}), transfer="jump")

    def trap(self) -> Code:
        """SDM volume 2B, "UD": an invalid opcode exception, and nothing else."""
        yield Insn("ud2", memory="both", transfer="trap")

    # -- tables of entries

    table_pushes = True

    def table_register(self, convention: Convention) -> Register:
        # Which holds no argument by any of the conventions, and takes the shortest code.
        return self.accumulator

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        yield from self.call(symbol, convention)

    def why_no_table(self, convention: Convention) -> str:
        if self.protect:
            return f"entries are 5 bytes apart, and with a landing pad each would take {5 + len(_PADS[self.bits])}"
        return super().why_no_table(convention)

    def take_table_entry(self) -> Code:
        if self.linkage == "go":
            # Go's assembler counts pops. This one takes away nothing that is in the frame.
            yield from self.load(self.accumulator, self.sp, 0, self.bits, False)
            yield self.lea(self.sp, f"{self.sp}+{self.word}", self.sp)
            return
        yield self.pop(self.accumulator)

    # -- frames

    def layout(self, request: FrameRequest) -> Frame:
        """`link` says nothing here: the return address is in memory before the frame begins. `alignment` is met as far
        as the CFA's own allows."""
        pushed = self.pushed(request)
        keeps = f"{request.convention.name} keeps it for its caller"
        slots: list[Slot] = []
        end = request.body
        for register, size in stored(request):
            end = aligned(end, size)
            slots.append(Slot(end, size, register.name, keeps, register))
            end += size
        used = aligned(end, self.word)
        size = aligned(used + self.word * (len(pushed) + 1), max(self.word, request.alignment))
        top = size - self.word
        if padding := top - self.word * len(pushed) - used:
            slots.append(Slot(used, padding, "padding", f"sp is a multiple of {request.alignment} at calls"))
        for n, register in reversed(list(enumerate(pushed, start=1))):
            slots.append(Slot(top - n * self.word, self.word, register.name, keeps, register))
        slots.append(Slot(top, self.word, "return address", "the caller's call instruction pushed it"))
        return Frame(size, tuple(slots), request)

    def pushed(self, request: FrameRequest) -> list[Register]:
        """The saved registers that a push can take, in the order of the pushes. The frame pointer is next to the return
        address, where those who walk a chain of frame pointers look for it."""
        registers = [r for r, _ in request.saves if r.bank is Bank.INTEGER or r == eflags]
        return sorted(registers, key=lambda r: (r == eflags, r != self.frame_pointer, r.number))

    def prologue(self, frame: Frame) -> Code:
        for insn in self.enter(frame):
            yield insn.placed(insn.line, insn.column, "prologue")

    def enter(self, frame: Frame) -> Code:
        pushed = self.pushed(frame.request)
        for register in pushed:
            yield replace(self.push(register), comment=f"{frame.request.convention.name} keeps it")
        rest = frame.size - self.word * (len(pushed) + 1)
        if rest in (self.word, self.word * 2):
            # A push of anything is the shortest way to lower sp by a word.
            yield from [replace(self.push(self.accumulator), comment="room")] * (rest // self.word)
        elif rest:
            yield self.step_by(frame, -rest)
        for slot in frame.slots:
            if slot.register is not None and slot.register not in pushed:
                yield self.keep(slot.register, slot.offset, slot.size)

    def epilogue(self, frame: Frame) -> Code:
        for insn in self.exit(frame):
            yield insn.placed(insn.line, insn.column, "epilogue")

    def exit(self, frame: Frame) -> Code:
        pushed = self.pushed(frame.request)
        for slot in frame.slots:
            if slot.register is not None and slot.register not in pushed:
                yield self.restore(slot.register, slot.offset, slot.size)
        rest = frame.size - self.word * (len(pushed) + 1)
        # Room is dropped into a register that is about to be restored: no other is free, results are in some and a
        # tail call's arguments in others.
        dropped = next((r for r in reversed(pushed) if r != eflags), None)
        if rest in (self.word, self.word * 2) and dropped is not None:
            yield from [replace(self.pop(dropped), comment="room")] * (rest // self.word)
        elif rest:
            yield self.step_by(frame, rest)
        for register in reversed(pushed):
            yield self.pop(register)

    def step_by(self, frame: Frame, by: int) -> Insn:
        """A step of the stack pointer. Go's linker adds up those that Go's assembler follows, along all ways through
        functions that never ask for more stack, and refuses more than 792 bytes (cmd/link/internal/ld/stackcheck.go).
        It cannot know that what C calls begins on C's stack and goes on on a goroutine's. So the room of such
        functions, where it is much, is made without its assembler's knowledge, as in Go's own callbackasm1."""
        entered_from_c = frame.request.table or (frame.request.convention.thread is None and frame.size > 240)
        if self.linkage == "go" and entered_from_c:
            return self.lea(self.sp, f"{self.sp}{'+' if by > 0 else '-'}{number(abs(by))}", self.sp)
        return self.adjust(self.sp, by)

    def keep(self, register: Register, offset: int, size: int) -> Insn:
        if register == fpcw:
            return self.control_insn("fnstcw", register, offset, size, "write")
        if register == mxcsr:
            return self.control_insn("stmxcsr", register, offset, size, "write")
        return self.store_insn(_MOVES[size], f"{register}", register, self.sp, offset, size * 8)

    def restore(self, register: Register, offset: int, size: int) -> Insn:
        if register == fpcw:
            return self.control_insn("fldcw", register, offset, size, "read")
        if register == mxcsr:
            return self.control_insn("ldmxcsr", register, offset, size, "read")
        return self.load_insn(_MOVES[size], f"{register}", register, self.sp, offset, size * 8)

    def control_insn(
        self, mnemonic: str, register: Register, offset: int, size: int, memory: Literal["read", "write"]
    ) -> Insn:
        text = f"{mnemonic} {self.memory(self.sp, offset, size * 8)}"
        if memory == "write":
            return Insn(text, frozenset({self.sp, register}), memory=memory)
        return Insn(text, frozenset({self.sp}), frozenset({register}), memory)

    def leave(self, frame: Frame, pop: int) -> Code:
        if not 0 <= pop < 1 << 16:
            raise ValueError(f"a return cannot pop {pop} bytes")
        text = f"ret {number(pop)}" if pop else "ret"
        yield Insn(text, frozenset({self.sp}), frozenset({self.sp}), "read", transfer="return", part="epilogue")

    # -- fixed values, the thread, the passes at the end

    def establish(self, fixed: Fixed) -> Code:
        register = fixed.register
        if register == eflags and fixed.mask == DIRECTION:
            # cld reads the other flags only to leave them as they are.
            yield Insn("std" if fixed.value else "cld", writes=frozenset({eflags}))
        elif register in self.integers and fixed.mask == (1 << self.bits) - 1 and not fixed.code_mask:
            yield from self.constant(register, fixed.value)
        elif register.bank is Bank.FLOAT and fixed.value == 0:
            yield Insn(f"xorps {register}, {register}", frozenset(), frozenset({register}))
        else:
            raise ValueError(f"no instruction sets the bits {fixed.mask:#x} of {register.name} to {fixed.value:#x}")

    def function_footer(self, name: str, convention: Convention) -> Iterable[str]:
        for line in super().function_footer(name, convention):
            yield guarded(line, line, name)

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Push arguments instead of making room and storing them; drop moves of a register to itself, and jumps to
        what follows."""
        code = self.without_second_zeros(self.push_arguments(code))
        if not any(insn.transfer == "jump" or insn.text in self.idle for insn, _ in code):
            return code
        kept: list[Placed] = []
        labels: set[str] = set()  # between here and the next instruction
        for item in reversed(code):
            insn = item[0]
            if insn.label is not None:
                labels.add(insn.label)
            elif insn.user_text:
                labels.clear()
            elif (insn.transfer == "jump" and insn.target in labels) or insn.text in self.idle:
                continue
            else:
                labels.clear()
            kept.append(item)
        return kept[::-1]

    @cached_property
    def idle(self) -> frozenset[str]:
        """Moves of a register to itself. `mov eax, eax` on amd64 is none: it clears the upper half, and names no whole
        register."""
        return frozenset(f"{name} {r}, {r}" for r in self.registers.values() for name in ("mov", "movaps"))

    def without_second_zeros(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """A register that holds zero already is not cleared again. (Nobody reads the flags of that: `constant` is made
        wherever a value is wanted.)"""
        if sum([insn.text.startswith("xor ") for insn, _ in code]) < 2:
            return code
        result: list[Placed] = []
        zeros: set[Register] = set()
        for item in code:
            insn = item[0]
            clears = None
            if insn.text.startswith("xor "):
                clears = next((r for r in insn.writes if insn.text == f"xor {low(r, 32)}, {low(r, 32)}"), None)
            if insn.label is not None or insn.user_text or insn.transfer == "call":
                zeros.clear()
            elif clears is not None and clears.bank is Bank.INTEGER and clears in zeros:
                continue
            else:
                zeros -= insn.writes
                if clears is not None:
                    zeros.add(clears)
            result.append(item)
        return result

    def push_arguments(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Where the prologue's last step makes room and the words at sp are stored right behind it, from registers or
        (386) copied from the caller's frame, pushes do both in a fraction of the bytes."""
        for start, (insn, _) in enumerate(code):
            if insn.part != "prologue":
                break
            room = self.room(insn)
            if room is None or start + 1 == len(code) or code[start + 1][0].part == "prologue":
                continue
            stores, end, loaded = self.arguments_stored(code, start + 1)
            count = 0
            while count * self.word in stores:
                count += 1
            called = end < len(code) and code[end][0].transfer == "call" and not _may_be_read(loaded, code[end:])
            if count < 2 or count != len(stores) or count * self.word > room or not called:
                break
            rest = room - count * self.word
            pushes: list[Placed] = [(replace(self.adjust(self.sp, -rest), part="prologue"), 0)] if rest else []
            for index in range(count):
                (store, place), source = stores[(count - 1 - index) * self.word]
                if source is None:
                    assert store.access is not None
                    push = self.push(store.access.register)
                else:
                    push = self.push_memory(source.offset - room + rest + index * self.word)
                pushes.append((replace(push, comment=store.comment), place))
            return [*code[:start], *pushes, *code[end:]]
        return code

    def room(self, insn: Insn) -> int | None:
        """The bytes by which an instruction of the prologue lowers sp, if it does nothing else."""
        if not insn.text.startswith("sub "):
            return None
        found = re.fullmatch(rf"sub {self.sp}, (0x[0-9a-f]+|[0-9])", insn.text)
        return int(found[1], 0) if found else None

    def arguments_stored(
        self, code: Sequence[Placed], start: int
    ) -> tuple[dict[int, tuple[Placed, Access | None]], int, frozenset[Register]]:
        """Stores of whole words above sp from `start` on, by offset, with the place that each value was loaded from on
        the way; the index of the first instruction that is something else; and the registers that were loaded."""
        stores: dict[int, tuple[Placed, Access | None]] = {}
        loaded: dict[Register, Access] = {}
        index = start
        while index < len(code):
            insn = code[index][0]
            access = insn.access
            if access is None or access.base is not self.sp or access.bytes != self.word:
                break
            if access.register.bank is not Bank.INTEGER or access.register is self.sp:
                break
            if insn.part != "body" or insn.user_text:
                break
            if access.kind == "load":
                if self.word != 4 or access.offset in stores:
                    break
                loaded[access.register] = access
            elif access.offset in stores:
                break
            else:
                stores[access.offset] = (code[index], loaded.get(access.register))
            index += 1
        return stores, index, frozenset(loaded)

    def push_memory(self, offset: int) -> Insn:
        """Push the word at sp + `offset`, as sp is before the push."""
        text = f"push {self.memory(self.sp, offset, self.bits)}"
        return Insn(text, frozenset({self.sp}), frozenset({self.sp}), memory="both")


def _may_be_read(registers: frozenset[Register], code: Sequence[Placed]) -> bool:
    """Whether what is in one of the registers may matter to this code."""
    live = registers
    straight = True
    for insn, _ in code:
        if insn.reads & live:
            return True
        straight = straight and insn.label is None and insn.transfer in ("none", "call")
        if straight:
            live -= insn.writes
    return False


def fits(value: int, bits: int) -> bool:
    return -(1 << bits - 1) <= value < 1 << bits - 1


def guarded(text: str, att: str, symbol: str) -> str:
    """`text`, unless Intel syntax has another meaning for the symbol's name; AT&T syntax marks what is a register."""
    if _TAKEN.fullmatch(symbol) is None:
        return text
    return f".att_syntax prefix; {att}; .intel_syntax noprefix"


_MOVES = {4: "movss", 8: "movsd", 16: "movups"}  # movups: no frame has to be aligned for the saves' sake


def stored(request: FrameRequest) -> list[tuple[Register, int]]:
    """The saved registers that no push takes, with the bytes of each that matter, largest first."""
    sizes: list[tuple[Register, int]] = []
    for register, mask in request.saves:
        if register in (mxcsr, fpcw):
            sizes.append((register, register.bits // 8))
        elif register.bank is Bank.FLOAT and register.name.startswith("xmm"):
            sizes.append((register, next(size for size in _MOVES if not mask >> size * 8)))
        elif register.bank is not Bank.INTEGER and register != eflags:
            raise ValueError(f"{register.name} cannot be kept across a body")
    return sorted(sizes, key=lambda pair: (-pair[1], pair[0].bank.value, pair[0].number))
