"""How each family's instructions are spelt for Go's assembler.

What is in here reads the GNU text of an `Insn` as its architecture wrote it with linkage "go": operands are split at
the commas, and a table gives the other spelling for each mnemonic. Text that no table knows (a user's `asm` blocks,
mostly) becomes data: its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from trampoline_dsl.target import Insn, Plan9, Statement, plan9_label

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


class Spelling(Plan9):
    """Goes through code instruction by instruction. A family says how one of them is spelt (`plain`), what becomes of
    those with a symbol, which may be several at once (`with_symbol`), and how far Go's assembler takes an instruction
    to move the stack pointer (`step`)."""

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
        raise NotImplementedError

    def with_symbol(self, code: Sequence[Insn], symbol: Symbol) -> tuple[str | None, int]:
        """What `code` begins with, and how many instructions that covers."""
        raise NotImplementedError

    def step(self, one: Insn, text: str) -> int:
        """Bytes by which Go's assembler takes the stack to grow."""
        raise NotImplementedError

    @staticmethod
    def label(one: Insn) -> str:
        assert one.target is not None
        return plan9_label(one.target)
