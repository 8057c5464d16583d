"""ELF files and DWARF line tables: the only module that imports pyelftools.

Sources: System V Application Binary Interface, "Object Files"; the processor supplements that are named below.
"""

from __future__ import annotations

import io
import re
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from elftools.dwarf.callframe import FDE
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
from elftools.elf import enums
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationTable

from .image import FIRST_ADDRESS, MOST_BYTES, Image, ImageError, Section, Symbol, targets_for
from .link import explicit_addends
from .records import dataclass
from .target import NOTE_OF_PROPERTIES, Relocation
from .targets import find_target
from .unwind import Description, Instruction, Table, UnwindError, table_of

_ALLOC, _WRITE, _EXECUTE, _TLS = 2, 1, 4, 0x400
_TYPES = {
    "EM_386": enums.ENUM_RELOC_TYPE_i386,
    "EM_X86_64": enums.ENUM_RELOC_TYPE_x64,
    "EM_ARM": enums.ENUM_RELOC_TYPE_ARM,
    "EM_AARCH64": enums.ENUM_RELOC_TYPE_AARCH64,
    "EM_MIPS": enums.ENUM_RELOC_TYPE_MIPS,
    "EM_PPC64": enums.ENUM_RELOC_TYPE_PPC64,
    "EM_S390": enums.ENUM_RELOC_TYPE_S390X,
}
_UNKNOWN_TO_THE_LIBRARY = {
    ("EM_386", 43): "R_386_GOT32X",
    ("EM_PPC64", 116): "R_PPC64_REL24_NOTOC",
    ("EM_MIPS", 248): "R_MIPS_PC32",
}
# ELF for the Arm Architecture and for the Arm 64-bit Architecture, "Mapping symbols".
_MAPPING = re.compile(r"\$[adtx](\..*)?")
# Relocations of a loader whose field keeps an addend where the format has none (REL): the others overwrite it.
_ADDEND_IN_FIELD = re.compile(r"R_(386|ARM|MIPS)_(\w*RELATIVE|32|ABS32|PC32|REL32|TLS_TPOFF|TLS_TPOFF32|TPREL\w*)")
# What a linker may make better, and need not.
_HINTS = ("R_MIPS_JALR", "R_ARM_V4BX", "R_PPC64_TOCSAVE", "R_PPC64_ENTRY")
# That fill a whole word with S + A, or with S + A - P.
_WORDS = re.compile(r"R_[A-Z0-9]+(?:_64)?_(ABS|ADDR|PC|PREL|REL)?(32|64)")
_FROM_HERE = ("PC", "PREL", "REL")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A symbol of a table: what it is, and its name in relocations."""

    symbol: Symbol
    label: str


def read_elf(data: bytes, name: str) -> Image:
    """A relocatable object, an executable or a shared library. Raises ImageError, or anything at all where the file is
    damaged."""
    return _Reader(data, name).image()


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.elf = elf = ELFFile(io.BytesIO(data))
        self.bits: int = elf.elfclass
        self.order = "little" if elf.little_endian else "big"
        self.machine: str = elf["e_machine"]
        self.number = int.from_bytes(data[18:20], self.order)  # type: ignore[arg-type]
        self.targets = targets_for("elf", self.number, elf["e_flags"], self.bits, self.order)
        if not self.targets:
            raise ImageError(
                f"{name} is ELF for a machine that is no target: {self.machine}, {self.bits} bits, "
                f"{self.order}-endian, flags {elf['e_flags']:#x}",
                "`trampoline targets` lists them",
            )
        self.type: str = elf["e_type"]
        if self.type not in ("ET_REL", "ET_EXEC", "ET_DYN"):
            raise ImageError(f"{name} is neither an object nor an executable nor a shared library: {self.type}")
        self.relocatable = self.type == "ET_REL"
        self.types = {number: kind for kind, number in _TYPES.get(self.machine, {}).items()}
        self.headers: list[Any] = list(elf.iter_sections())
        self.places: dict[int, int] = {}  # addresses of sections, by number
        self.common = 0  # where the next variable without a section goes

    def image(self) -> Image:
        sections = tuple(self._sections())
        tables: dict[int, list[_Entry]] = {}
        for index, header in enumerate(self.headers):
            if header["sh_type"] in ("SHT_SYMTAB", "SHT_DYNSYM"):
                tables[index] = list(self._table(header))
        if self.relocatable and self.common > (start := _end(sections)):
            sections += (Section("COMMON", start, bytes(self.common - start), False, True),)
        entries = [entry for index in sorted(tables, key=self._is_dynamic) for entry in tables[index]]
        relocations: list[Relocation] = []
        if self.relocatable:
            for header in self.headers:
                if header["sh_type"] in ("SHT_REL", "SHT_RELA") and header["sh_info"] in self.places:
                    relocations += self._of_section(header, tables.get(header["sh_link"], []))
        else:
            dynamic, loaded = self._dynamic(sections)
            relocations = loaded
            known = {entry.label for entry in entries}
            entries += [entry for entry in dynamic if entry.label not in known]
        addresses = {entry.label: entry.symbol.address for entry in entries if entry.symbol.address is not None}
        symbols = _once(entry.symbol for entry in entries)
        if self.machine == "EM_PPC64":
            symbols = list(self._through_descriptors(symbols, sections, relocations, addresses))
            relocations = _of_functions(relocations, entries, symbols, addresses)
        return Image(
            name=self.name,
            format="elf",
            targets=self.targets,
            relocatable=self.relocatable,
            movable=self.type == "ET_DYN",
            sections=sections,
            symbols=tuple(symbols),
            relocations=tuple(relocations),
            addresses={"": 0, **addresses},
            lines=self._lines(),
            properties=self._properties(),
            unwindings=self._unwindings(),
        )

    def _properties(self) -> dict[int, int]:
        """Linux Extensions to gABI, "Program Property": a note of the name GNU, whose properties have a type, a size
        and so many bytes, padded to a word of the file."""
        notes = [h for h in self.headers if h["sh_type"] == "SHT_NOTE" and h.name == ".note.gnu.property"]
        notes += [s for s in self.elf.iter_segments() if s["p_type"] == "PT_NOTE"]  # without a table of sections
        found = (_properties(note.data(), self.order, self.bits // 8) for note in notes)
        return next(filter(None, found), {})

    # -- sections

    def _sections(self) -> Iterator[Section]:
        place, total = FIRST_ADDRESS, 0
        for index, header in enumerate(self.headers):
            flags, size = header["sh_flags"], header["sh_size"]
            empty = header["sh_type"] == "SHT_NOBITS"
            if not flags & _ALLOC or (flags & _TLS and empty and not self.relocatable):
                continue  # .tbss takes no addresses
            total += size
            if total > MOST_BYTES:
                raise ImageError(f"{self.name} takes more than {MOST_BYTES >> 20} MiB of memory")
            address = header["sh_addr"]
            if self.relocatable:
                alignment = max(1, header["sh_addralign"])
                if alignment > MOST_BYTES:
                    raise ImageError(f"section {header.name} is to be aligned to {alignment:#x} bytes")
                place = address = -(-place // alignment) * alignment
                place += size
            self.places[index] = address
            data = bytes(size) if empty else self._content(header)
            yield Section(header.name, address, data, bool(flags & _EXECUTE), bool(flags & _WRITE))
        self.common = place
        if not self.headers:
            yield from self._segments()

    def _segments(self) -> Iterator[Section]:
        """What is loaded of a file without section headers."""
        for number, segment in enumerate(self.elf.iter_segments()):
            if segment["p_type"] != "PT_LOAD":
                continue
            start, size, filled = segment["p_offset"], segment["p_memsz"], segment["p_filesz"]
            if size > MOST_BYTES or start + filled > len(self.data) or filled > size:
                raise ImageError(f"segment {number} of {self.name} lies outside of the file")
            content = self.data[start : start + filled]
            flags = segment["p_flags"]
            data = content + bytes(size - filled)
            yield Section(f"segment {number}", segment["p_vaddr"], data, bool(flags & 1), bool(flags & 2))

    def _content(self, header: Any) -> bytes:
        start, size = header["sh_offset"], header["sh_size"]
        if start + size > len(self.data):
            raise ImageError(f"section {header.name} of {self.name} lies outside of the file: it is cut off")
        return self.data[start : start + size]

    # -- symbols

    def _is_dynamic(self, index: int) -> bool:
        return bool(self.headers[index]["sh_type"] == "SHT_DYNSYM")

    def _table(self, header: Any) -> Iterator[_Entry]:
        entries = list(header.iter_symbols())
        start, step = header["sh_offset"], header["sh_entsize"]
        other = start + (13 if self.bits == 32 else 5)
        yield from self._entries(entries, [self.data[other + step * i] for i in range(len(entries))])

    def _entries(self, raw: Sequence[Any], others: Sequence[int]) -> list[_Entry]:
        symbols = [self._symbol(entry, other) for entry, other in zip(raw, others, strict=True)]
        count = Counter(symbol.name for symbol in symbols if symbol.address is not None)
        return [
            _Entry(
                symbol, f"{symbol.name}@{symbol.address:#x}" if symbol.local and count[symbol.name] > 1 else symbol.name
            )
            for symbol in symbols
        ]

    def _symbol(self, raw: Any, other: int) -> Symbol:
        index, value, name = raw["st_shndx"], raw["st_value"], str(raw.name)
        kind, local = raw["st_info"]["type"], raw["st_info"]["bind"] == "STB_LOCAL"
        size = raw["st_size"]
        if index == "SHN_UNDEF":
            return Symbol(name.partition("@")[0], None)
        if index == "SHN_COMMON":
            # The value is the alignment.
            self.common = address = -(-self.common // max(1, value)) * max(1, value)
            self.common += size
            if self.common > MOST_BYTES:
                raise ImageError(f"{self.name} takes more than {MOST_BYTES >> 20} MiB of memory")
            return Symbol(name, address, size, "object", local)
        if index == "SHN_ABS":
            return Symbol(name, value, size, "other", local)
        address = value
        section = self.headers[index] if isinstance(index, int) and index < len(self.headers) else None
        if self.relocatable:
            address += self.places.get(index, 0)
        executable = section is not None and bool(section["sh_flags"] & _EXECUTE)
        if kind == "STT_SECTION":
            return Symbol(section.name if section is not None else "", address, 0, "other", True)
        if kind == "STT_OBJECT":
            return Symbol(name.partition("@")[0], address, size, "object", local)
        mode = ""
        labels = kind == "STT_NOTYPE" and executable and not local and not _MAPPING.fullmatch(name)
        if kind in ("STT_FUNC", "STT_LOOS") or labels:  # STT_LOOS is STT_GNU_IFUNC
            if self.machine == "EM_ARM" and address & 1:
                # ELF for the Arm Architecture, "Symbol Values".
                address, mode = address - 1, "Thumb"
            elif self.machine == "EM_MIPS" and other & 0xC0:
                # binutils, include/elf/mips.h: STO_MIPS_ISA, STO_MIPS16, STO_MICROMIPS.
                address, mode = address & ~1, "MIPS16" if other & 0x40 else "microMIPS"
            entry = 0
            if self.machine == "EM_PPC64":
                # 64-Bit ELF V2 ABI, 3.4.1: 2 to 6 are logarithms; 0 and 1 say that there is one entry.
                level = other >> 5
                entry = 1 << level if 2 <= level <= 6 else 0
            code = address if executable else None
            return Symbol(name.partition("@")[0], address, size, "function", local, code, entry, mode)
        labelled = executable and not _MAPPING.fullmatch(name)
        return Symbol(name, address, size, "other", local, address if labelled else None)

    def _through_descriptors(
        self,
        symbols: Sequence[Symbol],
        sections: Sequence[Section],
        relocations: Sequence[Relocation],
        addresses: Mapping[str, int],
    ) -> Iterator[Symbol]:
        """64-bit PowerPC ELF ABI Supplement, 3.2.4: a function's symbol is that of its descriptor, in .opd, whose first
        word is where the code is."""
        opd = next((section for section in sections if section.name == ".opd"), None)
        if opd is None:
            yield from (self._of_go(symbol, sections) for symbol in symbols)
            return
        filled = {
            r.offset: addresses[r.symbol] + r.addend
            for r in relocations
            if opd.address <= r.offset < opd.end and r.symbol in addresses
        }
        for symbol in symbols:
            at = symbol.address
            if at is None or not opd.address <= at <= opd.end - 8 or symbol.kind == "object" or symbol.name == ".opd":
                yield symbol
                continue
            word = opd.data[at - opd.address : at - opd.address + 8]
            code = filled.get(at, int.from_bytes(word, self.order))  # type: ignore[arg-type]
            yield replace(symbol, kind="function", code=code)

    def _of_go(self, symbol: Symbol, sections: Sequence[Section]) -> Symbol:
        """Go's linker makes no .opd: the descriptors of functions that C calls are among the code, and begin with the
        upper half of an address, which is no instruction."""
        conventions = find_target(self.targets[0]).conventions
        if symbol.kind != "function" or symbol.code is None or not conventions["c"].descriptors or self.relocatable:
            return symbol
        word = self._word(symbol.code, sections)
        if word >> 32 or not any(s.executable and s.address <= word < s.end for s in sections):
            return symbol
        return replace(symbol, address=word, code=word, size=0)  # nothing in the file refers to the descriptor

    # -- relocations

    def _of_section(self, header: Any, entries: Sequence[_Entry]) -> list[Relocation]:
        """The relocations of one section of an object, with addresses for offsets."""
        target = self.headers[header["sh_info"]]
        if target["sh_type"] == "SHT_NOBITS":
            return []
        labels = [entry.label for entry in entries]
        raw = [self._relocation(r, labels) for r in _rows(header)]
        if header["sh_type"] == "SHT_REL":
            architecture = find_target(self.targets[0]).architecture
            raw = list(explicit_addends(architecture, self._content(target), raw))
        place = self.places[header["sh_info"]]
        return [replace(r, offset=place + r.offset) for r in raw if r.type not in _HINTS]

    def _relocation(self, raw: Any, labels: Sequence[str]) -> Relocation:
        number = raw["r_info_sym"]
        if number >= len(labels) and number:
            raise ImageError(f"a relocation of {self.name} is against symbol {number}, and there is none")
        kinds = [raw["r_info_type"]]
        if self.machine == "EM_MIPS" and self.bits == 64:
            # 64-bit ELF Object File Specification (MIPS), 2.9: up to three in a row, R_MIPS_NONE for none.
            kinds += [raw["r_type2"], raw["r_type3"]]
            while len(kinds) > 1 and kinds[-1] == 0:
                kinds.pop()
        kind = "/".join(self._type(kind) for kind in kinds)
        symbol = labels[number] if number else ""
        return Relocation(kind, symbol, raw["r_addend"] if raw.is_RELA() else 0, raw["r_offset"])

    def _type(self, number: int) -> str:
        known = self.types.get(number) or _UNKNOWN_TO_THE_LIBRARY.get((self.machine, number))
        return known or f"{self.machine} relocation {number}"

    def _dynamic(self, sections: Sequence[Section]) -> tuple[list[_Entry], list[Relocation]]:
        """The dynamic symbols of a linked file, and what its loader fills."""
        segment = next((s for s in self.elf.iter_segments() if isinstance(s, DynamicSegment)), None)
        if segment is None:
            return [], self._irelative(sections)
        tables = segment.get_relocation_tables()
        raw = {kind: list(_rows(table)) for kind, table in tables.items() if isinstance(table, RelocationTable)}
        entries = self._dynamic_symbols(segment, [row["r_info_sym"] for rows in raw.values() for row in rows])
        labels = [entry.label for entry in entries]
        found: dict[tuple[int, str], Relocation] = {}
        for kind, table in tables.items():
            if kind in raw:
                rows = [self._with_addend(self._relocation(r, labels), r.is_RELA(), sections) for r in raw[kind]]
            else:
                rows = self._relative(table, sections)
            for relocation in rows:
                if not relocation.type.endswith("_NONE"):
                    found[relocation.offset, relocation.type] = relocation
        rows = list(found.values())
        if self.machine == "EM_MIPS":
            rows += self._mips_got(segment, labels, sections)
        return entries, rows

    def _dynamic_symbols(self, segment: Any, used: Sequence[int]) -> list[_Entry]:
        """By the section that has them, or, without sections, as many as relocations name and hash tables count."""
        for header in self.headers:
            if header["sh_type"] == "SHT_DYNSYM":
                return list(self._table(header))
        if not any(True for _ in segment.iter_tags("DT_SYMTAB")):
            return []
        count = max(segment.num_symbols(), max(used, default=0) + 1)
        if count > len(self.data):
            raise ImageError(f"a relocation of {self.name} is against symbol {count - 1}, and there is none")
        return self._entries([segment.get_symbol(index) for index in range(count)], [0] * count)

    def _irelative(self, sections: Sequence[Section]) -> list[Relocation]:
        """What a static executable relocates itself: its IRELATIVE relocations."""
        rows: list[Relocation] = []
        for header in self.headers:
            if header["sh_type"] in ("SHT_REL", "SHT_RELA") and header["sh_flags"] & _ALLOC:
                for raw in _rows(header):
                    if not raw["r_info_sym"]:
                        rows.append(self._with_addend(self._relocation(raw, [""]), raw.is_RELA(), sections))
        return rows

    def _relative(self, table: Any, sections: Sequence[Section]) -> list[Relocation]:
        """System V ABI, "Relative Relocation Table": fields that keep their addends."""
        kind = next((k for k in self.types.values() if k.endswith("_RELATIVE") and "IREL" not in k), "RELATIVE")
        rows = (Relocation(kind, "", 0, entry["r_offset"]) for entry in table.iter_relocations())
        return [replace(row, addend=self._word(row.offset, sections)) for row in rows]

    def _with_addend(self, relocation: Relocation, explicit: bool, sections: Sequence[Section]) -> Relocation:
        if explicit or not _ADDEND_IN_FIELD.fullmatch(relocation.type.partition("/")[0]):
            return relocation
        return replace(relocation, addend=self._word(relocation.offset, sections))

    def _word(self, address: int, sections: Sequence[Section]) -> int:
        for section in sections:
            if section.address <= address < section.end:
                start = address - section.address
                return int.from_bytes(section.data[start : start + self.bits // 8], self.order)  # type: ignore[arg-type]
        return 0

    def _mips_got(self, segment: Any, labels: Sequence[str], sections: Sequence[Section]) -> Iterator[Relocation]:
        """MIPS psABI, 5-9: the local entries of the global offset table, which have addresses as the file gives them,
        without the first two; and behind them those of the last symbols, in order. None has a relocation."""
        tags = {tag.entry.d_tag: tag.entry.d_val for tag in segment.iter_tags()}
        if not {"DT_PLTGOT", "DT_MIPS_LOCAL_GOTNO", "DT_MIPS_GOTSYM"} <= set(tags):
            return
        word = self.bits // 8
        for place in range(tags["DT_PLTGOT"] + 2 * word, tags["DT_PLTGOT"] + word * tags["DT_MIPS_LOCAL_GOTNO"], word):
            yield Relocation("R_MIPS_REL32", "", self._word(place, sections), place)
        start = tags["DT_PLTGOT"] + word * tags["DT_MIPS_LOCAL_GOTNO"]
        for position, label in enumerate(labels[tags["DT_MIPS_GOTSYM"] :]):
            yield Relocation("R_MIPS_GLOB_DAT", label, 0, start + word * position)

    # -- debug information

    def _lines(self) -> DebugLines | None:
        if not any(header.name in (".debug_line", ".zdebug_line") for header in self.headers):
            return None
        little = bool(self.elf.little_endian)
        return DebugLines(self.bits // 8, little, partial(_debug_sections, self.data, self.name))

    def debug_sections(self, *names: str) -> dict[str, tuple[int, bytes]]:
        """The sections of debug information, or those whose names begin so, with their addresses, linked as those that
        are loaded."""
        list(self._sections())  # gives the loaded ones their addresses
        found: dict[str, tuple[int, bytes]] = {}
        tables: dict[int, list[_Entry]] = {}
        for index, header in enumerate(self.headers):
            if header.name.startswith(names or (".debug_", ".zdebug_")) and header["sh_type"] != "SHT_NOBITS":
                content = bytearray(_decompressed(header))
                if self.relocatable:
                    self._link_debug(index, content, tables)
                name = header.name.removeprefix(".").replace("zdebug", "debug", 1)
                found[name] = self.places.get(index, header["sh_addr"]), bytes(content)
        return found

    def _unwindings(self) -> CallFrames | None:
        names = {header.name for header in self.headers if header["sh_type"] != "SHT_NOBITS"}
        if not names & {".eh_frame", ".debug_frame", ".zdebug_frame"}:
            return None
        return CallFrames(self.bits // 8, bool(self.elf.little_endian), partial(_frame_sections, self.data, self.name))

    def _link_debug(self, index: int, content: bytearray, tables: dict[int, list[_Entry]]) -> None:
        """Fill the words of a section that a linker would."""
        order: Any = self.order
        for header in self.headers:
            if header["sh_type"] not in ("SHT_REL", "SHT_RELA") or header["sh_info"] != index:
                continue
            link = header["sh_link"]
            if link not in tables:
                tables[link] = list(self._table(self.headers[link]))
            for raw in _rows(header):
                kind = self._type(raw["r_info_type"])
                found = _WORDS.fullmatch(kind)
                if found is None:
                    continue
                start, size = raw["r_offset"], int(found[2]) // 8
                kept = int.from_bytes(content[start : start + size], order)
                addend = raw["r_addend"] if raw.is_RELA() else kept
                value = (tables[link][raw["r_info_sym"]].symbol.address or 0) + addend
                if found[1] in _FROM_HERE:
                    value -= self.places.get(index, 0) + start
                content[start : start + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def _properties(data: bytes, order: Any, word: int) -> dict[int, int]:
    """Those of 4 bytes, by their types, of a section of notes."""

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


def _debug_sections(data: bytes, name: str) -> dict[str, bytes]:
    return {name: content for name, (_, content) in _Reader(data, name).debug_sections().items()}


def _frame_sections(data: bytes, name: str) -> dict[str, tuple[int, bytes]]:
    return _Reader(data, name).debug_sections(".eh_frame", ".debug_frame", ".zdebug_frame")


def _of_functions(
    relocations: Sequence[Relocation],
    entries: Sequence[_Entry],
    symbols: Sequence[Symbol],
    addresses: Mapping[str, int],
) -> list[Relocation]:
    """The same with branches to a place in .opd, the section of descriptors, as branches to the function that the
    descriptor there is of: so assemblers write calls of local functions."""
    labels = {entry.symbol.address: entry.label for entry in entries if entry.symbol.name != ".opd"}
    described = {s.address: labels[s.address] for s in symbols if s.code != s.address and s.kind == "function"}
    result = []
    for relocation in relocations:
        if relocation.type.startswith(("R_PPC64_REL24", "R_PPC64_REL14")) and relocation.symbol in addresses:
            place = addresses[relocation.symbol] + relocation.addend
            if place in described:
                relocation = replace(relocation, symbol=described[place], addend=0)
        result.append(relocation)
    return result


def _rows(table: Any) -> Iterator[Any]:
    return iter(table.iter_relocations())


def _end(sections: Sequence[Section]) -> int:
    return max((section.end for section in sections), default=FIRST_ADDRESS)


def _once(symbols: Iterator[Symbol]) -> list[Symbol]:
    return list(dict.fromkeys(symbol for symbol in symbols if symbol.name))


def _decompressed(header: Any) -> bytes:
    data: bytes = header.data()
    if data[:4] == b"ZLIB":  # gold's and Go's own: the size follows, in 8 bytes
        return zlib.decompress(data[12:])
    return data


# ---------------------------------------------------------------------------------------------------------------- lines

_SECTIONS = (  # in the order of DWARFInfo's parameters
    *("debug_info", "debug_aranges", "debug_abbrev", "debug_frame", "eh_frame", "debug_str", "debug_loc"),
    *("debug_ranges", "debug_line", "debug_pubtypes", "debug_pubnames", "debug_addr", "debug_str_offsets"),
    *("debug_line_str", "debug_loclists", "debug_rnglists", "debug_sup", "gnu_debugaltlink", "debug_types"),
)


def _information(sections: Mapping[str, tuple[int, bytes]], word: int, little: bool) -> DWARFInfo:
    """`sections`: addresses and bytes, by names without the dot; `word`: bytes of an address."""
    streams = []
    for name in _SECTIONS:
        address, content = sections.get(name, (0, b""))
        described = DebugSectionDescriptor(io.BytesIO(content), f".{name}", None, len(content), address)
        streams.append(described if name in sections else None)
    return DWARFInfo(DwarfConfig(little, "", word), *streams)


class DebugLines:
    """The line table of DWARF debug information. `word`: bytes of an address; `load` gives the linked sections by their
    names in ELF without the dot. They are read when the first line is asked for."""

    def __init__(self, word: int, little: bool, load: Callable[[], Mapping[str, bytes]]) -> None:
        self.word, self.little, self.load = word, little, load
        self._units: list[_Unit] | None = None

    def at(self, address: int) -> tuple[str, int] | None:
        """The file and line of an address; none where the information has none, or is damaged."""
        try:
            for unit in self._all_units():
                if unit.covers(address) and (found := unit.at(address)) is not None:
                    return found
        except Exception:  # whatever pyelftools raises on what it does not understand
            return None
        return None

    def __getstate__(self) -> tuple[int, bool, Callable[[], Mapping[str, bytes]]]:
        return self.word, self.little, self.load

    def __setstate__(self, state: tuple[int, bool, Callable[[], Mapping[str, bytes]]]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def _all_units(self) -> list[_Unit]:
        if self._units is None:
            sections = {name: (0, content) for name, content in self.load().items()}
            information = _information(sections, self.word, self.little)
            self._units = [_Unit(information, unit) for unit in information.iter_CUs()]
        return self._units


class _Unit:
    """A compilation unit: what addresses it has, and its lines once somebody asks for one."""

    def __init__(self, information: Any, unit: Any) -> None:
        self.information, self.unit = information, unit
        self.rows: list[tuple[int, int, str, int]] | None = None  # first address, end, file, line
        self.ranges = self._ranges()

    def covers(self, address: int) -> bool:
        return self.ranges is None or any(start <= address < end for start, end in self.ranges)

    def at(self, address: int) -> tuple[str, int] | None:
        if self.rows is None:
            self.rows = sorted(self._rows())
        index = bisect_right(self.rows, address, key=lambda row: row[0]) - 1
        if index < 0 or not self.rows[index][0] <= address < self.rows[index][1]:
            return None
        _, _, file, line = self.rows[index]
        return file, line

    def _ranges(self) -> list[tuple[int, int]] | None:
        """None where only the line table tells."""
        top = self.unit.get_top_DIE().attributes
        low, high = top.get("DW_AT_low_pc"), top.get("DW_AT_high_pc")
        if "DW_AT_ranges" in top or low is None or high is None:
            return None
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        return [(low.value, end)]

    def _rows(self) -> Iterator[tuple[int, int, str, int]]:
        program = self.information.line_program_for_CU(self.unit)
        if program is None:
            return
        before: Any = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if before is not None and state.address > before.address and before.line:
                yield before.address, state.address, _file(program, before.file), before.line
            before = None if state.end_sequence else state


def _file(program: Any, number: int) -> str:
    """The name of a file, with its directory where that is not the unit's own. Counted from 1 up to DWARF 4."""
    old = program["version"] < 5
    files, folders = program["file_entry"], program["include_directory"]
    index = number - 1 if old else number
    if not 0 <= index < len(files):
        return "?"
    name, folder = files[index].name.decode("utf-8", "replace"), files[index].dir_index
    at = folder - 1 if old else folder
    if folder == 0 or not 0 <= at < len(folders) or name.startswith("/"):
        return str(name)
    return f"{folders[at].decode('utf-8', 'replace')}/{name}"


# ------------------------------------------------------------------------------------------------------------ unwinding


class CallFrames:
    """The call frame information of .eh_frame and .debug_frame. `word`: bytes of an address; `load` gives the linked
    sections, with their addresses, by their names without the dot. They are read when they are asked for first."""

    def __init__(self, word: int, little: bool, load: Callable[[], Mapping[str, tuple[int, bytes]]]) -> None:
        self.word, self.little, self.load = word, little, load
        self._descriptions: list[Description] | None = None
        self._trouble = ""

    def of(self, start: int, end: int) -> Table | None:
        """What is said of the code from `start` to `end`; None if nothing is. Raises UnwindError."""
        if self._descriptions is None:
            self._descriptions = []
            try:
                for description in self._read():
                    self._descriptions.append(description)
            except Exception as error:  # whatever pyelftools raises on what it does not understand
                self._trouble = f"the unwind information cannot be read: {error}"
        found = table_of(self._descriptions, start, end)
        if found is None and self._trouble:  # it may be in what comes behind
            raise UnwindError(self._trouble)
        return found

    def __getstate__(self) -> tuple[int, bool, Callable[[], Mapping[str, tuple[int, bytes]]]]:
        return self.word, self.little, self.load

    def __setstate__(self, state: tuple[int, bool, Callable[[], Mapping[str, tuple[int, bytes]]]]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def _read(self) -> Iterator[Description]:
        """Those that unwinders use at run time come before those for debuggers."""
        information = _information(self.load(), self.word, self.little)
        known: set[int] = set()
        for has, entries in (
            (information.has_EH_CFI, information.EH_CFI_entries),
            (information.has_CFI, information.CFI_entries),
        ):
            for entry in entries() if has() else ():
                if not isinstance(entry, FDE) or not entry["address_range"] or entry.cie is None:
                    continue
                start = entry["initial_location"] % (1 << 8 * self.word)
                if start not in known:
                    known.add(start)
                    yield Description(
                        start,
                        start + entry["address_range"],
                        _instructions(entry.cie),
                        _instructions(entry),
                        entry.cie["code_alignment_factor"],
                        entry.cie["data_alignment_factor"],
                    )


def _instructions(entry: Any) -> tuple[Instruction, ...]:
    return tuple(
        Instruction(
            instruction.opcode.name,
            tuple(operand if isinstance(operand, int) else bytes(operand) for operand in instruction.args),
        )
        for instruction in entry.instructions
    )
