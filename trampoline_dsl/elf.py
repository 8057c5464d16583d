"""ELF files as images: objects, executables and shared libraries, with what their debug information says of lines and
frames."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from . import exidx
from .descriptors import branches_to_functions, through_descriptors
from .dwarf import CallFrames, DebugLines
from .elf_dynamic import filled_by_loader
from .elf_file import ElfFile, Entry
from .image import FIRST_ADDRESS, Image, Section, Symbol, Unwindings
from .notes import properties
from .pdata import Entries
from .target import Relocation
from .unwind import Table

# That fill a whole word with S + A, or with S + A - P; or all bits of it but the highest one.
_WORDS = re.compile(r"R_[A-Z0-9]+(?:_64)?_(ABS|ADDR|PC|PREL|REL)?(31|32|64)")
_FROM_HERE = ("PC", "PREL", "REL")
_INDEX, _HANDLING = ".ARM.exidx", ".ARM.extab"  # ELF for the Arm Architecture, "Special sections"


def read_elf(data: bytes, name: str) -> Image:
    """A relocatable object, an executable or a shared library. Raises ImageError, or anything at all where the file is
    damaged."""
    return _image(ElfFile(data, name))


def _image(file: ElfFile) -> Image:
    sections = file.sections
    tables: dict[int, list[Entry]] = {}
    for index, header in enumerate(file.headers):
        if header["sh_type"] in ("SHT_SYMTAB", "SHT_DYNSYM"):
            tables[index] = file.symbols(header)
    if file.relocatable and file.common > (start := _end(sections)):
        sections += (Section("COMMON", start, bytes(file.common - start), False, True),)
    entries = [entry for index in sorted(tables, key=file.is_dynamic) for entry in tables[index]]
    relocations: list[Relocation] = []
    if file.relocatable:
        for header in file.headers:
            if header["sh_type"] in ("SHT_REL", "SHT_RELA") and header["sh_info"] in file.places:
                relocations += file.relocations_of(header, tables.get(header["sh_link"], []))
    else:
        dynamic, relocations = filled_by_loader(file)
        known = {entry.label for entry in entries}
        entries += [entry for entry in dynamic if entry.label not in known]
    addresses = {entry.label: entry.symbol.address for entry in entries if entry.symbol.address is not None}
    symbols = _once(entry.symbol for entry in entries)
    if file.machine == "EM_PPC64":
        symbols = list(through_descriptors(file, symbols, relocations, addresses))
        relocations = branches_to_functions(relocations, entries, symbols, addresses)
    return Image(
        name=file.name,
        format="elf",
        targets=file.targets,
        relocatable=file.relocatable,
        movable=file.type == "ET_DYN",
        sections=sections,
        symbols=tuple(symbols),
        relocations=tuple(relocations),
        addresses={"": 0, **addresses},
        lines=_lines(file),
        properties=_properties(file),
        unwindings=_unwindings(file),
    )


def _properties(file: ElfFile) -> dict[int, int]:
    notes = [h for h in file.headers if h["sh_type"] == "SHT_NOTE" and h.name == ".note.gnu.property"]
    notes += [s for s in file.elf.iter_segments() if s["p_type"] == "PT_NOTE"]  # without a table of sections
    found = (properties(note.data(), file.order, file.bits // 8) for note in notes)
    return next(filter(None, found), {})


def _lines(file: ElfFile) -> DebugLines | None:
    if not any(header.name in (".debug_line", ".zdebug_line") for header in file.headers):
        return None
    little = bool(file.elf.little_endian)
    return DebugLines(file.bits // 8, little, partial(_line_sections, file.data, file.name))


def _debug_sections(file: ElfFile, *names: str) -> dict[str, tuple[int, bytes]]:
    """The sections of debug information, or those whose names begin so, with their addresses, linked as those that
    are loaded."""
    found = _linked(file, names or (".debug_", ".zdebug_"))
    return {name.removeprefix(".").replace("zdebug", "debug", 1): piece for name, piece in found}


def _linked(file: ElfFile, names: tuple[str, ...]) -> Iterator[tuple[str, exidx.Piece]]:
    """The sections whose names begin so, linked."""
    tables: dict[int, list[Entry]] = {}
    for index, header in enumerate(file.headers):
        if header.name.startswith(names) and header["sh_type"] != "SHT_NOBITS":
            content = bytearray(_decompressed(header))
            if file.relocatable:
                _link_debug(file, index, content, tables)
            yield header.name, (file.places.get(index, header["sh_addr"]), bytes(content))


class Several:
    """Unwind information of several kinds, of which the first one counts that says anything of a function."""

    def __init__(self, kinds: Sequence[Unwindings]) -> None:
        self.kinds = kinds

    def of(self, start: int, end: int) -> Table | Entries | None:
        return next((found for kind in self.kinds if (found := kind.of(start, end)) is not None), None)


def _unwindings(file: ElfFile) -> Unwindings | None:
    names = {header.name for header in file.headers if header["sh_type"] != "SHT_NOBITS"}
    found: list[Unwindings] = []
    if names & {".eh_frame", ".debug_frame", ".zdebug_frame"}:
        little = bool(file.elf.little_endian)
        found.append(CallFrames(file.bits // 8, little, partial(_frame_sections, file.data, file.name)))
    if file.machine == "EM_ARM" and any(name.startswith(_INDEX) for name in names):
        found.append(exidx.IndexTable(partial(_index_sections, file.data, file.name)))
    return Several(found) if len(found) > 1 else next(iter(found), None)


def _link_debug(file: ElfFile, index: int, content: bytearray, tables: dict[int, list[Entry]]) -> None:
    """Fill the words of a section that a linker would."""
    for header in file.headers:
        if header["sh_type"] not in ("SHT_REL", "SHT_RELA") or header["sh_info"] != index:
            continue
        link = header["sh_link"]
        if link not in tables:
            tables[link] = file.symbols(file.headers[link])
        for raw in header.iter_relocations():
            kind = file.relocation_type(raw["r_info_type"])
            found = _WORDS.fullmatch(kind)
            if found is None:
                continue
            start, bits = raw["r_offset"], int(found[2])
            size = -(-bits // 8)
            kept = int.from_bytes(content[start : start + size], file.order)
            addend = raw["r_addend"] if raw.is_RELA() else kept
            value = (tables[link][raw["r_info_sym"]].symbol.address or 0) + addend
            if found[1] in _FROM_HERE:
                value -= file.places.get(index, 0) + start
            value = kept >> bits << bits | value % (1 << bits)
            content[start : start + size] = value.to_bytes(size, file.order)


def _line_sections(data: bytes, name: str) -> dict[str, bytes]:
    return {name: content for name, (_, content) in _debug_sections(ElfFile(data, name)).items()}


def _frame_sections(data: bytes, name: str) -> dict[str, tuple[int, bytes]]:
    return _debug_sections(ElfFile(data, name), ".eh_frame", ".debug_frame", ".zdebug_frame")


def _index_sections(data: bytes, name: str) -> exidx.Sections:
    file = ElfFile(data, name)
    code = [(section.address, section.end) for section in file.sections if section.executable]
    index = [piece for _, piece in _linked(file, (_INDEX,))]
    if file.relocatable:
        return exidx.Sections(index, [piece for _, piece in _linked(file, (_HANDLING,))], code)
    # Linkers put handling tables together with other data that is only read.
    return exidx.Sections(index, [(section.address, section.data) for section in file.sections], code)


def _end(sections: Sequence[Section]) -> int:
    return max((section.end for section in sections), default=FIRST_ADDRESS)


def _once(symbols: Iterator[Symbol]) -> list[Symbol]:
    return list(dict.fromkeys(symbol for symbol in symbols if symbol.name))


def _decompressed(header: Any) -> bytes:
    data: bytes = header.data()
    if data[:4] == b"ZLIB":  # gold's and Go's own: the size follows, in 8 bytes
        return zlib.decompress(data[12:])
    return data
