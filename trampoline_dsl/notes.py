"""Notes in ELF files: what a file says of the protection that its code is made for."""

from __future__ import annotations

from typing import Literal

from .target import NOTE_OF_PROPERTIES


def properties(data: bytes, order: Literal["little", "big"], word: int) -> dict[int, int]:
    """The properties of 4 bytes, by their types, of a section of notes, in a file whose words have `word` bytes.

    Linux Extensions to gABI, "Program Property": a note of the name GNU, whose properties have a type, a size and so
    many bytes, padded to a word of the file."""

    def number(place: int) -> int:
        return int.from_bytes(data[place : place + 4], order)

    found: dict[int, int] = {}
    note = 0
    while note + 16 <= len(data):
        name_size, size, kind = number(note), number(note + 4), number(note + 8)
        place = note + 12 + -(-name_size // 4) * 4
        end = min(place + size, len(data))
        note = place + -(-size // word) * word
        if kind != NOTE_OF_PROPERTIES or data[place - 4 : place] != b"GNU\0":
            continue
        while place + 8 <= end:
            if number(place + 4) == 4:
                found[number(place)] = number(place + 8)
            place += 8 + -(-number(place + 4) // word) * word
    return found
