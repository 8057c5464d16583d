"""The names of Go's functions in a binary without a symbol table: the table that Go's own tracebacks read.

Source: runtime/symtab.go, `pcHeader`, `functab`, `_func`; internal/abi/symtab.go. As Go has written it since 1.18.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from .image import Section, Symbol
from .target import ByteOrder

_MAGIC = (0xFFFFFFF0, 0xFFFFFFF1)  # Go 1.18; Go 1.20
_MOST_FUNCTIONS = 1 << 20
_LONGEST_NAME = 1 << 12


def functions(sections: Iterable[Section], word: int, order: ByteOrder) -> tuple[Symbol, ...]:
    """A symbol for each function in the table, if there is one. `word`: bytes of an address."""
    sections = tuple(sections)
    code = [section for section in sections if section.executable]
    for section in sections:
        for start in _tables(section.data, word, order):
            try:
                found = tuple(_functions(section.data[start:], word, order, code))
            except (IndexError, ValueError):
                continue  # it only looked like one
            if found:
                return found
    return ()


def _tables(data: bytes, word: int, order: ByteOrder) -> Iterator[int]:
    """Where a table may begin: its header ends with the least distance of instructions and the size of a word."""
    for magic in _MAGIC:
        head = magic.to_bytes(4, order) + b"\0\0"
        start = data.find(head)
        while start >= 0:
            if data[start + 6 : start + 7] in (b"\1", b"\2", b"\4") and data[start + 7 : start + 8] == bytes([word]):
                yield start
            start = data.find(head, start + 1)


def _functions(table: bytes, word: int, order: ByteOrder, code: list[Section]) -> Iterator[Symbol]:
    def number(at: int, size: int) -> int:
        if not 0 <= at <= len(table) - size:
            raise IndexError(at)
        return int.from_bytes(table[at : at + size], order)

    count, _, text, names, _, _, _, entries = (number(8 + word * i, word) for i in range(8))
    if not 0 < count <= _MOST_FUNCTIONS or not code:
        raise ValueError(count)
    text = text or min(section.address for section in code)  # a movable file leaves it to the loader
    starts = [number(entries + 8 * index, 4) for index in range(count + 1)]
    for index, (start, end) in enumerate(pairwise(starts)):
        name_at = names + number(entries + number(entries + 8 * index + 4, 4) + 4, 4)
        name_end = table.find(b"\0", name_at, name_at + _LONGEST_NAME)
        if end < start or name_end < 0:
            raise ValueError(start)
        address, name = text + start, table[name_at:name_end].decode("utf-8")
        if name and any(section.address <= address < section.end for section in code):
            yield Symbol(name, address, end - start, "function", True, address)
