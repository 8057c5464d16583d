"""How each family's instructions are spelt for Go's assembler.

What is in here reads the GNU text of an `Insn` as its architecture wrote it with linkage "go": operands are split at
the commas, and a table gives the other spelling for each mnemonic. Text that no table knows (a user's `asm` blocks,
mostly) becomes data: its bytes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from trampoline_dsl.target import ByteOrder, Insn, Plan9, Statement, plan9_label

Operands = Sequence[str]
Symbol = Callable[[str], str]

_COMMA = re.compile(r",\s*(?![^\[({]*[\])}])")


def operands(text: str) -> tuple[str, list[str]]:
    """A mnemonic and its operands: "str x0, [sp, #8]" has two."""
    mnemonic, _, rest = text.partition(" ")
    return mnemonic, _COMMA.split(rest.strip()) if rest.strip() else []


def offset(value: int) -> str:
    """The displacement in front of a base register; none if it is 0."""
    return str(value) if value else ""


def words(code: bytes, order: ByteOrder) -> Iterator[str]:
    """Machine code as directives of 32 bits."""
    for at in range(0, len(code), 4):
        yield f"WORD ${int.from_bytes(code[at : at + 4], order):#010x}"


def added(text: str, sp: str) -> int:
    """By how many bytes the stack grows, where the text adds a constant to the stack pointer or subtracts one."""
    match = re.fullmatch(rf"(ADD|SUB) \$(\d+), {sp}", text)
    if match is None:
        return 0
    return int(match[2]) if match[1] == "SUB" else -int(match[2])


class Spelling(Plan9):
    """Goes through code instruction by instruction. A family says how one of them is spelt (`instruction`; `branch`, if
    it goes to a label of ours), and how far Go's assembler takes an instruction to move the stack pointer (`step`).

    `addresses`: the mnemonic that begins the making of a symbol's address, Go's word for all of it, and how many
    instructions that is."""

    addresses: Mapping[str, tuple[str, int]] = {}

    def statements(self, code: Sequence[Insn], symbol: Symbol) -> Iterator[Statement]:
        index = 0
        while index < len(code):
            one = code[index]
            count = 1
            if one.label is not None:
                yield Statement("")
            elif one.user_text:
                yield Statement(None)
            else:
                if one.relocation is not None:
                    text, count = self.with_symbol(code[index:], symbol)
                else:
                    text = self.plain(one)
                yield Statement(text, count, self.step(one, text) if text is not None else 0)
            index += count

    def plain(self, one: Insn) -> str | None:
        """One instruction without a relocation; None if there is no word for it."""
        mnemonic, rest = operands(one.text)
        try:
            return self.branch(one, mnemonic, rest) if one.target is not None else self.instruction(one, mnemonic, rest)
        except (KeyError, ValueError, IndexError):
            return None  # a form that the family's tables do not have

    def with_symbol(self, code: Sequence[Insn], symbol: Symbol) -> tuple[str | None, int]:
        """What `code` begins with, and how many instructions that covers."""
        one = code[0]
        assert one.relocation is not None
        name = symbol(one.relocation.symbol)
        if one.transfer in ("call", "jump"):
            return f"{'CALL' if one.transfer == 'call' else 'JMP'} {name}", 1
        mnemonic, rest = operands(one.text)
        if mnemonic not in self.addresses:
            return None, 1
        word, count = self.addresses[mnemonic]
        return f"{word} ${name}, {self.register(rest[0])}", count

    @abstractmethod
    def instruction(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        """An instruction. Raises KeyError, ValueError or IndexError, or gives None, if there is no word for it."""

    @abstractmethod
    def branch(self, one: Insn, mnemonic: str, rest: Operands) -> str | None:
        """One that goes to a label; likewise."""

    @abstractmethod
    def register(self, name: str) -> str:
        """A register, from its GNU spelling."""

    @abstractmethod
    def step(self, one: Insn, text: str) -> int:
        """Bytes by which Go's assembler takes the stack to grow."""

    @staticmethod
    def label(one: Insn) -> str:
        assert one.target is not None
        return plan9_label(one.target)
