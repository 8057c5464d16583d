"""The index table of the Exception Handling ABI for the Arm Architecture, read from `.ARM.exidx` and `.ARM.extab`, or
from directives: what it says of each range of addresses, as the frame that call frame information would have for it.

It has nothing of how tables are made. The names of sections and terms are those of the ABI, "Index table entries",
"The Arm-defined compact model", "The generic model", and "Frame unwinding instructions".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .unwind import Frame, Place, Table, UnwindError

_SP, _LR, _PC = 13, 14, 15
_DOUBLE = 256  # the first of 32 registers of 64 bits: DWARF for the Arm Architecture (AADWARF32), 4.1
_CANNOT = 1  # EXIDX_CANTUNWIND
_WORD = 4  # bytes
_NOBODY = Frame(_SP, 0, places={_LR: Place("undefined")})

Piece = tuple[int, bytes]  # of memory: its address, and what is in it


class Sections(NamedTuple):
    """What is loaded of a file: its index tables, its handling tables, and where code is (start and end), each part of
    it described by one index table or none."""

    indexes: Sequence[Piece]
    tables: Sequence[Piece]
    code: Sequence[tuple[int, int]]


class IndexTable:
    """The index table of a file, whose sections `load` gives, linked. They are read when they are asked for first."""

    def __init__(self, load: Callable[[], Sections]) -> None:
        self.load = load
        self._entries: list[tuple[int, int, Frame | None, str]] | None = None

    def __getstate__(self) -> Callable[[], Sections]:
        return self.load

    def __setstate__(self, load: Callable[[], Sections]) -> None:
        self.__init__(load)  # type: ignore[misc]

    def of(self, start: int, end: int) -> Table | None:
        """What is said of the code from `start` to `end` (addresses), by offsets from `start`; None if nothing is.
        Raises UnwindError."""
        if self._entries is None:
            self._entries = list(_read(self.load()))
        rows: dict[int, Frame | None] = {}
        unsaid = []
        for first, behind, frame, trouble in self._entries:
            if behind <= start or end <= first:
                continue
            rows[max(first, start) - start] = frame
            if behind < end:
                rows[behind - start] = None
            unsaid += [trouble] if trouble else []
        if not rows:
            return None
        rows = {0: None, **rows}
        places = tuple(sorted(rows))
        why = unsaid[0] if unsaid else "the index table says nothing of this instruction"
        return Table(places, tuple(rows[place] for place in places), why, at_calls=True)


def _read(sections: Sections) -> Iterator[tuple[int, int, Frame | None, str]]:
    """Each range with its frame, or why there is none, in the order of the addresses."""
    found = sorted(
        (_there(address + at, _number(index, at)), address + at, _number(index, at + _WORD))
        for address, index in sections.indexes
        for at in range(0, len(index) - 2 * _WORD + 1, 2 * _WORD)
    )
    starts = [start for start, _, _ in found]
    for position, (start, place, word) in enumerate(found):
        behind = bisect_right(starts, start, position)
        end = starts[behind] if behind < len(starts) else None
        here = next((end for first, end in sections.code if first <= start < end), start)
        try:
            yield start, here if end is None else min(here, end), _frame(place + _WORD, word, sections.tables), ""
        except UnwindError as error:
            yield start, here if end is None else min(here, end), None, str(error)


def _frame(place: int, word: int, tables: Sequence[Piece]) -> Frame:
    """What the second word of an entry, at the address `place`, leads to. Raises UnwindError."""
    if word == _CANNOT:
        return _NOBODY
    return unwound(_inline(word) if word >> 31 else _handled(_there(place, word), tables))


def _inline(word: int) -> bytes:
    """The instructions in a word of the compact model, most significant byte first."""
    index = word >> 24 & 0xF
    if index:
        raise UnwindError(f"an entry of the index table is for personality routine {index}, which wants a table")
    return word.to_bytes(_WORD, "big")[1:]


def _handled(place: int, tables: Sequence[Piece]) -> bytes:
    """The instructions in a table, by its address."""
    word = _load(place, tables)
    if not word >> 31:  # a personality routine of its own, and then as gcc and clang lay it out
        word, place = _load(place + _WORD, tables), place + _WORD
        count, first = word >> 24, word.to_bytes(_WORD, "big")[1:]
    elif word >> 24 & 0xF == 0:
        return _inline(word)
    elif word >> 24 & 0xF < 3:
        count, first = word >> 16 & 0xFF, word.to_bytes(_WORD, "big")[2:]
    else:
        raise UnwindError(f"personality routine {word >> 24 & 0xF} is not known")
    more = (_load(place + _WORD * n, tables) for n in range(1, count + 1))
    return first + b"".join(one.to_bytes(_WORD, "big") for one in more)


def _load(place: int, tables: Sequence[Piece]) -> int:
    for address, table in tables:
        if address <= place <= address + len(table) - _WORD:
            return _number(table, place - address)
    raise UnwindError(f"the index table leads to {place:#x}, where nothing is")


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + _WORD], "little")


def _there(place: int, word: int) -> int:
    """Where a word at `place` leads by the distance in its lower 31 bits ("prel31")."""
    distance = word & 0x7FFFFFFF
    return place + distance - (distance >> 30 << 31) & 0xFFFFFFFF


# ----------------------------------------------------------------------------------------------------------- directives


def read_directives(directives: Iterable[tuple[int, str]], names: Mapping[str, int]) -> Table:
    """What the directives of one function say, each with the offset of the instruction that it stands before, without
    `.fnstart` before the function and `.fnend` behind it. `names`: registers of operands by their names, as DWARF's
    numbers. Raises UnwindError."""
    starts, ranges = [0], [list[str]()]
    for offset, text in directives:
        match text.split():
            case [".fnend"]:
                pass
            case [".fnstart"] if offset > starts[-1]:
                starts.append(offset)
                ranges.append([])
            case _:
                ranges[-1].append(text)
    return Table(tuple(starts), tuple(_directed(texts, names) for texts in ranges), at_calls=True)


_DIRECTIVE = re.compile(r"\s*\.(\w+)\s*([^@]*?)\s*(@.*)?")


def _directed(directives: Sequence[str], names: Mapping[str, int]) -> Frame:
    """The frame of one range. Directives say what a prologue does, and the last one is taken back first."""
    walk = _Walk(b"")
    for text in reversed(directives):
        match = _DIRECTIVE.fullmatch(text)
        try:
            if match is None:
                raise ValueError(text)
            if not walk.take_back(match[1], match[2], names):
                return _NOBODY
        except (ValueError, KeyError):
            raise UnwindError(f"`{text}` is no directive of the index table") from None
    return walk.frame()


def _listed(text: str, names: Mapping[str, int]) -> list[int]:
    """The registers in braces, by number. Raises KeyError."""
    found: list[int] = []
    for piece in text.strip("{}").split(","):
        first, _, last = piece.strip().partition("-")
        found += range(names[first], names[last or first] + 1)
    return found


# --------------------------------------------------------------------------------------------------------- instructions


class _Address(NamedTuple):
    """A register by its number, and so many bytes on; with more steps, what is there, and so many bytes on."""

    register: int
    steps: tuple[int, ...] = (0,)

    def moved(self, distance: int) -> _Address:
        return _Address(self.register, (*self.steps[:-1], self.steps[-1] + distance))

    def loaded(self) -> _Address:
        return _Address(self.register, (*self.steps, 0))

    def expression(self) -> bytes:
        """DWARF 5, 2.5.1."""
        made = bytearray((0x70 + self.register, *_signed(self.steps[0])))
        for step in self.steps[1:]:
            made.append(0x06)
            if step > 0:
                made += bytes((0x23, *_unsigned(step)))
            elif step:
                made += bytes((0x11, *_signed(step), 0x22))
        return bytes(made)


def unwound(code: bytes) -> Frame:
    """The frame that frame unwinding instructions are about. Raises UnwindError."""
    walk = _Walk(code)
    while walk.at < len(code):
        if walk.step():
            break
    return walk.frame()


class _Walk:
    """The instructions, followed with addresses of the form "where a register points to, or a word in memory"."""

    def __init__(self, code: bytes) -> None:
        self.code, self.at = code, 0
        self.pointer = _Address(_SP)
        self.saved: dict[int, _Address] = {}  # by DWARF's numbers: where they were popped from

    def take_back(self, directive: str, operands: str, names: Mapping[str, int]) -> bool:
        """What a directive of an assembler does, by its name without the dot; whether there is a way to the caller.
        Raises KeyError and ValueError."""
        match directive:
            case "save":
                self._pop_core(sum(1 << number for number in set(_listed(operands, names))))
            case "vsave":
                numbers = _listed(operands, names)
                self._pop_double(numbers[0] - _DOUBLE, len(numbers))
            case "pad":
                self.pointer = self.pointer.moved(int(operands.removeprefix("#"), 0))
            case "unwind_raw":
                self.code, self.at = bytes(int(byte, 0) for byte in operands.split(",")[1:]), 0
                while self.at < len(self.code):
                    self.step()
            case "cantunwind":
                return False
            case _:
                raise ValueError(directive)
        return True

    def _next(self) -> int:
        if self.at == len(self.code):
            raise UnwindError(f"the frame unwinding instructions {self.code.hex(' ')} end in the midst of one")
        self.at += 1
        return self.code[self.at - 1]

    def step(self) -> bool:
        """One instruction; whether it is the last one."""
        byte = self._next()
        low = byte & 0xF
        if byte < 0x40:
            self.pointer = self.pointer.moved((byte << 2) + 4)
        elif byte < 0x80:
            self.pointer = self.pointer.moved(-((byte & 0x3F) << 2) - 4)
        elif byte < 0x90:
            mask = low << 8 | self._next()
            if not mask:
                raise UnwindError("the index table refuses to unwind here")
            self._pop_core(mask << 4)
        elif byte < 0xA0 and low not in (_SP, _PC):
            self.pointer = self.saved[low].loaded() if low in self.saved else _Address(low)
        elif byte < 0xB0 and byte >= 0xA0:
            self._pop_core(((1 << (byte & 7) + 1) - 1) << 4 | (byte & 8) >> 3 << _LR)
        elif byte == 0xB0:
            return True
        elif byte == 0xB1 and 0 < (mask := self._next()) < 0x10:
            self._pop_core(mask)
        elif byte == 0xB2:
            self.pointer = self.pointer.moved(0x204 + (self._number() << 2))
        elif byte == 0xB3:
            self._pop_double(*self._range(), 4)
        elif 0xB8 <= byte < 0xC0:
            self._pop_double(8, (byte & 7) + 1, 4)
        elif byte == 0xC8:
            first, count = self._range()
            self._pop_double(16 + first, count)
        elif byte == 0xC9:
            self._pop_double(*self._range())
        elif 0xD0 <= byte < 0xD8:
            self._pop_double(8, (byte & 7) + 1)
        else:
            raise UnwindError(f"the frame unwinding instruction {byte:#x} is not understood")
        return False

    def _range(self) -> tuple[int, int]:
        byte = self._next()
        return byte >> 4, (byte & 0xF) + 1

    def _number(self) -> int:
        """ULEB128."""
        value = shift = 0
        while True:
            byte = self._next()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def _pop_core(self, mask: int) -> None:
        for number in range(16):
            if mask >> number & 1:
                self.saved[number] = self.pointer
                self.pointer = self.pointer.moved(_WORD)
        if mask >> _SP & 1:
            self.pointer = self.saved.pop(_SP).loaded()

    def _pop_double(self, first: int, count: int, format_word: int = 0) -> None:
        """`format_word`: bytes that FSTMX stores behind them."""
        for number in range(first, first + count):
            self.saved[_DOUBLE + number] = self.pointer
            self.pointer = self.pointer.moved(2 * _WORD)
        self.pointer = self.pointer.moved(format_word)

    def frame(self) -> Frame:
        top, saved = self.pointer, dict(self.saved)
        if _PC in saved:
            saved[_LR] = saved.pop(_PC)  # where the walk goes on; what lr was nobody asks for
        places = {}
        for number, address in saved.items():
            if (address.register, address.steps[:-1]) == (top.register, top.steps[:-1]):
                places[number] = Place("offset", address.steps[-1] - top.steps[-1])
            else:
                places[number] = Place("expression", 0, address.expression())
        if len(top.steps) == 1:
            return Frame(top.register, top.steps[0], places=places)
        return Frame(_SP, 0, top.expression(), places)


def _unsigned(value: int) -> list[int]:
    """ULEB128. DWARF 5, 7.6."""
    made = []
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return [*made, value]


def _signed(value: int) -> list[int]:
    """SLEB128. DWARF 5, 7.6."""
    made = []
    while not -0x40 <= value < 0x40:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return [*made, value & 0x7F]


__all__ = ["IndexTable", "Sections", "read_directives", "unwound"]
