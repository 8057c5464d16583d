"""The index table of the Exception Handling ABI for the Arm Architecture, as directives for GNU as and LLVM: what
unwinders of C++ read there at run time, and not call frame information.

The table is by ranges of addresses, and what it says of one has to hold where unwinders look: at calls, which they
come back to by return addresses. So each range, between `.fnstart` and `.fnend`, is described by what the code has been
followed to at its calls; where that changes, as with the stack, another range begins. System calls and what a user
wrote count as calls, since a signal or a callee may ask there as well. Nothing is taken from the frame's layout.

A way to the caller begins at the stack pointer or another register, pops what lies there, and may go on where a word
leads that it finds ("Frame unwinding instructions", of the Arm-defined personality routines and their table entries).
What is in another register it cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .cfi import Expression, Row
from .target import IndexedUnwinding, Insn, Register

# DWARF 5, 7.7.1: operations of expressions.
_DEREF, _CONSTANT, _PLUS, _PLUS_CONSTANT = 0x06, 0x11, 0x22, 0x23
_BASE_REGISTER, _BASE_REGISTER_LAST = 0x70, 0x8F

ENDS = "nobody knows the caller"
MOVED = "a register of the caller is in another one"
APART = "no single way leads to all that is saved"
ODD = "the stack pointer is not at a whole word"
_WORD = 4  # bytes


class NotDescribed(Exception):
    """A caller whom the index table cannot tell: why not."""


class Path(NamedTuple):
    """How an address is found: from a register (by its number), so many bytes on; and where there are more steps, from
    the word there so many bytes on."""

    register: int
    steps: tuple[int, ...]

    def moved(self, distance: int) -> Path:
        return Path(self.register, (*self.steps[:-1], self.steps[-1] + distance))


def directives(
    code: Sequence[Insn], rows: Sequence[Row | None], described: IndexedUnwinding, mark: str
) -> tuple[tuple[str, ...], ...]:
    """For each of a function's instructions the directives before it, between `described.brackets`. `rows`: what holds
    before each of them; `mark`: what begins a comment."""
    made: list[tuple[str, ...]] = [() for _ in code]
    begin, end = described.brackets
    last, before, said = -1, None, None
    for place, row in _asked(code, rows):
        says = _said(row, described, mark)
        if said is None:
            made[0] = says
        elif says != said:
            between = range(last + 1, place)
            start = next((i for i in between if rows[i] is not None and rows[i] != before), place)
            made[start] = (end, begin, *says)
        last, before, said = place, row, says
    return tuple(made)


def _asked(code: Sequence[Insn], rows: Sequence[Row | None]) -> Iterator[tuple[int, Row]]:
    """The instructions at which unwinders look, and what holds then: while a callee runs, what does behind the call, as
    it may have changed registers. If there is none, one in the middle."""
    places = [index for index, row in enumerate(rows) if row is not None]
    following = [*places[1:], places[-1]]
    asked = False
    for index, behind in zip(places, following, strict=True):
        insn = code[index]
        row = rows[behind if insn.transfer == "call" else index]
        if row is not None and (insn.transfer in ("call", "system") or insn.user_text):
            asked = True
            yield index, row
    middle = places[len(places) // 2]
    row = rows[middle]
    if row is not None and not asked:
        yield middle, row


def _said(row: Row, described: IndexedUnwinding, mark: str) -> tuple[str, ...]:
    """The directives of a range: they say what a prologue would do, and unwinders take it back from the last one on."""
    try:
        return tuple(_way(row, described))[::-1]
    except NotDescribed as error:
        return (f"{described.cannot} {mark} {error}",)


def _way(row: Row, described: IndexedUnwinding) -> Iterator[str]:
    """The way to the caller, step by step. Raises NotDescribed."""
    cfa = _path(row.expression) if row.expression.code else Path(row.register, (row.offset,))
    saved = _saved(row, cfa, described)
    if cfa.register != described.sp:
        yield described.taken_from(described.registers[cfa.register])
    for depth, distance in enumerate(cfa.steps):
        if depth:
            yield described.followed
        at = 0
        for start, registers, size in _together(saved.pop((cfa.register, *cfa.steps[:depth]), []), described):
            yield from _passed(start - at, described)
            yield described.popped(registers)
            at = start + size
        yield from _passed(distance - at, described)
    if saved:
        raise NotDescribed(APART)


def _passed(size: int, described: IndexedUnwinding) -> Iterator[str]:
    if size % _WORD:
        raise NotDescribed(ODD)
    if size:
        yield described.passed(size)


def _saved(row: Row, cfa: Path, described: IndexedUnwinding) -> dict[tuple[int, ...], list[tuple[int, Register]]]:
    """Registers in memory, by the ways to the places that they are so many bytes above. Raises NotDescribed."""
    found: dict[tuple[int, ...], list[tuple[int, Register]]] = {}
    for number, rule in sorted(row.rules.items()):
        match rule.kind:
            case "offset":
                path = cfa.moved(rule.offset)
            case "expression":
                path = _path(rule.expression)
            case "same":
                continue
            case "undefined" if number != described.return_column:
                continue  # it is not the caller's that the walk finds, and whose it is does not ask for it
            case "undefined":
                raise NotDescribed(ENDS)
            case _:
                raise NotDescribed(MOVED)
        register = described.registers[number]
        found.setdefault((path.register, *path.steps[:-1]), []).append((path.steps[-1], register))
    return found


def _together(
    saved: list[tuple[int, Register]], described: IndexedUnwinding
) -> Iterator[tuple[int, list[Register], int]]:
    """Registers that one step pops, where they begin and how many bytes they are."""
    start, registers, size = 0, list[Register](), 0
    for offset, register in sorted(saved, key=lambda cell: cell[0]):
        if registers and (offset != start + size or not described.together(registers[-1], register)):
            yield start, registers, size
            registers = []
        if not registers:
            start, registers, size = offset, [], 0
        registers.append(register)
        size += register.bits // 8
    if registers:
        yield start, registers, size


def _path(expression: Expression) -> Path:
    """Raises NotDescribed if it is not in words that the table has."""
    code, at = expression.code, 1
    if not _BASE_REGISTER <= code[0] <= _BASE_REGISTER_LAST:
        raise NotDescribed(APART)
    register = code[0] - _BASE_REGISTER
    offset, at = _signed(code, at)
    steps = [offset]
    while at < len(code):
        operation, at = code[at], at + 1
        if operation == _DEREF:
            steps.append(0)
        elif operation in (_PLUS_CONSTANT, _CONSTANT):
            value, at = _signed(code, at) if operation == _CONSTANT else _unsigned(code, at)
            steps[-1] += value
            if operation == _CONSTANT:
                if code[at : at + 1] != bytes((_PLUS,)):
                    raise NotDescribed(APART)
                at += 1
        else:
            raise NotDescribed(APART)
    return Path(register, tuple(steps))


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """ULEB128, and where it ends. DWARF 5, 7.6."""
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _signed(data: bytes, at: int) -> tuple[int, int]:
    """SLEB128, and where it ends. DWARF 5, 7.6."""
    start = at
    value, at = _unsigned(data, at)
    bits = 7 * (at - start)
    return value - (1 << bits) if value >> bits - 1 else value, at


__all__ = ["directives"]
