"""mips for Go's assembler: cmd/internal/obj/mips (a.out.go, asm0.go, obj0.go) and runtime/asm_mips*x.s.

Sources come first, destinations last; of two operands that are subtracted, compared or shifted the second comes first.
r30 is g, and r28 of the 64-bit machines RSB. A word is moved by MOVW on 32-bit machines and by MOVV on 64-bit ones,
where MOVW is 32 bits, sign-extended. A double in memory is one MOVD, which becomes two instructions on 32-bit machines.
The assembler puts a nop behind every branch.

It has no word for `rdhwr` (but in loads and stores of thread-local variables, whose offset the linker fills).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from trampoline_dsl.target import ByteOrder, Insn, Statement

from . import Operands, Spelling, Symbol, offset, operands, words

_NAMES = {
    4: "zero at v0 v1 a0 a1 a2 a3 t0 t1 t2 t3 t4 t5 t6 t7 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra",
    8: "zero at v0 v1 a0 a1 a2 a3 a4 a5 a6 a7 t0 t1 t2 t3 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp fp ra",
}
_REGISTERS = {word: {f"${name}": f"R{n}" for n, name in enumerate(names.split())} for word, names in _NAMES.items()}
_REGISTERS[8]["$gp"] = "RSB"
for _names in _REGISTERS.values():
    _names["$fp"] = "g"
    _names |= {f"$f{n}": f"F{n}" for n in range(32)}

_LOADS = {
    "lb": "MOVB",
    "lbu": "MOVBU",
    "lh": "MOVH",
    "lhu": "MOVHU",
    "lw": "MOVW",
    "lwu": "MOVWU",
    "ld": "MOVV",
    "lwc1": "MOVF",
    "ldc1": "MOVD",
}
_STORES = {"sb": "MOVB", "sh": "MOVH", "sw": "MOVW", "sd": "MOVV", "swc1": "MOVF", "sdc1": "MOVD"}
_THREE = {
    "addu": "ADDU",
    "daddu": "ADDVU",
    "subu": "SUBU",
    "dsubu": "SUBVU",
    "and": "AND",
    "xor": "XOR",
    "mul": "MUL",
    "sllv": "SLL",
    "srlv": "SRL",
    "srav": "SRA",
    "dsllv": "SLLV",
    "dsrlv": "SRLV",
    "dsrav": "SRAV",
}
_IMMEDIATE = {
    "addiu": "ADDU",
    "daddiu": "ADDVU",
    "andi": "AND",
    "ori": "OR",
    "xori": "XOR",
    "sll": "SLL",
    "srl": "SRL",
    "sra": "SRA",
    "dsll": "SLLV",
    "dsrl": "SRLV",
    "dsra": "SRAV",
}
_FAR_SHIFTS = {"dsll32": "SLLV", "dsrl32": "SRLV", "dsra32": "SRAV"}
_COMPARES = {"slt": "SGT", "sltu": "SGTU", "slti": "SGT", "sltiu": "SGTU"}
_BRANCHES = {
    "beq": "BEQ",
    "bne": "BNE",
    "beqz": "BEQ",
    "bnez": "BNE",
    "bltz": "BLTZ",
    "blez": "BLEZ",
    "bgtz": "BGTZ",
    "bgez": "BGEZ",
}
_ACCESS = re.compile(r"(-?\w+)\((\$\w+)\)")
_STEP = re.compile(r"ADDV?U \$(-?\d+), R29")


class MipsSpelling(Spelling):
    def __init__(self, word: int, order: ByteOrder) -> None:
        self.order = order
        self.names = _REGISTERS[word]
        self.move = "MOVW" if word == 4 else "MOVV"
        self.addresses = {"lui": (self.move, 2 if word == 4 else 3)}
        self.doubles_by_halves = word == 4

    def statements(self, code: Sequence[Insn], symbol: Symbol) -> Iterator[Statement]:
        """A nop in a delay slot is the assembler's, and so are the two halves of what it splits."""
        index = 0
        statements = super().statements(code, symbol)
        for statement in statements:
            one = code[index]
            text, count = statement.text, statement.instructions
            if text is not None and not one.user_text:
                pair = self._pair(code[index : index + 2])
                if pair is not None:
                    next(statements)
                    text, count = pair, 2
                elif one.delay_slot:
                    slot = code[index + 1] if index + 1 < len(code) else None
                    if slot is not None and slot.text == "nop":
                        next(statements)
                        count = 2
            yield Statement(text, count, statement.step)
            index += count

    def _pair(self, pair: Sequence[Insn]) -> str | None:
        """Two instructions that are one for Go's assembler."""
        if len(pair) < 2 or any(one.user_text or one.label is not None or one.relocation for one in pair):
            return None
        (first, a), (second, b) = (operands(one.text) for one in pair)
        if (first, second) == ("lui", "ori") and a[0] == b[0] == b[1]:
            value = int(a[1], 0) << 16 | int(b[2], 0)
            return f"{self.move} ${_signed(value)}, {self.names[a[0]]}"
        if first == second and first in ("lwc1", "swc1") and self.doubles_by_halves:
            return self._double(first == "lwc1", a, b)
        return None

    def _double(self, load: bool, a: Sequence[str], b: Sequence[str]) -> str | None:
        (even, odd), (one, other) = (a[0], b[0]), (_ACCESS.fullmatch(a[1]), _ACCESS.fullmatch(b[1]))
        if one is None or other is None or one[2] != other[2]:
            return None
        number, low, high = int(even[2:]), int(one[1], 0), int(other[1], 0)
        if number % 2 or odd != f"$f{number + 1}" or high - low != (4 if self.order == "little" else -4):
            return None
        place = f"{offset(min(low, high))}({self.names[one[2]]})"
        return f"MOVD {place}, F{number}" if load else f"MOVD F{number}, {place}"

    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        return self._plain(mnemonic, rest)

    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str:
        if mnemonic == "b":
            return f"JMP {self.label(one)}"
        registers = ", ".join(self.names[name] for name in rest[:-1])
        return f"{_BRANCHES[mnemonic]} {registers}, {self.label(one)}"

    def _plain(self, mnemonic: str, rest: Operands) -> str | None:
        names = self.names
        if mnemonic in _LOADS:
            return f"{_LOADS[mnemonic]} {self._memory(rest[1])}, {names[rest[0]]}"
        if mnemonic in _STORES:
            return f"{_STORES[mnemonic]} {names[rest[0]]}, {self._memory(rest[1])}"
        if mnemonic in _COMPARES:
            value = f"${int(rest[2], 0)}" if "i" in mnemonic else names[rest[2]]
            return f"{_COMPARES[mnemonic]} {value}, {names[rest[1]]}, {names[rest[0]]}"
        spell = _SPELL.get(mnemonic)
        if spell is not None:
            return spell(self, rest)
        if mnemonic in _THREE or mnemonic == "or":
            return self._three(_THREE.get(mnemonic, "OR"), rest)
        if mnemonic in _IMMEDIATE:
            return self._immediate(_IMMEDIATE[mnemonic], rest, int(rest[2], 0))
        if mnemonic in _FAR_SHIFTS:
            return self._immediate(_FAR_SHIFTS[mnemonic], rest, int(rest[2], 0) + 32)
        return None

    def _memory(self, text: str) -> str:
        match = _ACCESS.fullmatch(text)
        if match is None:
            raise KeyError(text)
        return f"{offset(int(match[1], 0))}({self.names[match[2]]})"

    def _three(self, word: str, rest: Operands) -> str:
        d, a, b = (self.names[name] for name in rest)
        if word == "OR" and a == "R0":
            return f"{self.move} {'$0' if b == 'R0' else b}, {d}"
        if word == "SLL" and b == "R0":
            return f"MOVW {a}, {d}"
        # A product of two operands goes to HI and LO.
        return f"{word} {b}, {d}" if a == d and word != "MUL" else f"{word} {b}, {a}, {d}"

    def _immediate(self, word: str, rest: Operands, value: int) -> str:
        d, a = self.names[rest[0]], self.names[rest[1]]
        if a == "R0" and word in ("OR", "ADDU", "ADDVU"):
            return f"{self.move} ${value}, {d}"
        return f"{word} ${value}, {d}" if a == d else f"{word} ${value}, {a}, {d}"

    def register(self, name: str) -> str:
        return self.names[name]

    def step(self, one: Insn, text: str) -> int:
        # cmd/internal/obj/mips/obj0.go, preprocess: ADD, ADDU, ADDV and ADDVU of a constant to R29.
        match = _STEP.fullmatch(text)
        return -int(match[1]) if match is not None else 0

    def data(self, code: bytes) -> Iterable[str]:
        return words(code, self.order)

    def lowered(self, size: int) -> str:
        return f"ADD{'V' if self.move == 'MOVV' else ''}U ${-size}, R29"


def _signed(value: int) -> int:
    """32 bits as a signed number: the assembler of 64-bit machines keeps others in memory."""
    return value - (1 << 32) if value >> 31 else value


def _upper(self: MipsSpelling, rest: Operands) -> str:
    return f"{self.move} ${_signed(int(rest[1], 0) << 16)}, {self.names[rest[0]]}"


def _multiply(self: MipsSpelling, rest: Operands) -> str:
    return f"MULVU {self.names[rest[1]]}, {self.names[rest[0]]}"


def _float_move(word: str) -> Callable[[MipsSpelling, Operands], str]:
    return lambda self, rest: f"{word} {self.names[rest[1]]}, {self.names[rest[0]]}"


def _from(control: str) -> Callable[[MipsSpelling, Operands], str]:
    return lambda self, rest: f"{self.move if control != 'FCR31' else 'MOVW'} {control}, {self.names[rest[0]]}"


def _to(control: str) -> Callable[[MipsSpelling, Operands], str]:
    return lambda self, rest: f"{self.move if control != 'FCR31' else 'MOVW'} {self.names[rest[0]]}, {control}"


def _jump(self: MipsSpelling, rest: Operands) -> str:
    return "RET" if rest[0] == "$ra" else f"JMP ({self.names[rest[0]]})"


def _rdhwr(_: MipsSpelling, rest: Operands) -> str:
    word = int(rest[0], 0)
    return f"WORD ${word:#x} // RDHWR $29, R{word >> 16 & 31}"


_SPELL: dict[str, Callable[[MipsSpelling, Operands], str]] = {
    "lui": _upper,
    "dmultu": _multiply,
    "mov.s": _float_move("MOVF"),
    "mov.d": _float_move("MOVD"),
    "cfc1": _from("FCR31"),
    "mfhi": _from("HI"),
    "mflo": _from("LO"),
    "ctc1": _to("FCR31"),
    "mthi": _to("HI"),
    "mtlo": _to("LO"),
    "jr": _jump,
    "jalr": lambda self, rest: f"CALL ({self.names[rest[0]]})",
    "bal": lambda self, rest: "BGEZAL R0, 1(PC)",
    "break": lambda self, rest: "BREAK",
    "syscall": lambda self, rest: "SYSCALL",
    "nop": lambda self, rest: "NOOP",
    ".word": _rdhwr,
}
