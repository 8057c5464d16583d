"""An ELF file by its tables: sections, symbols, relocations. Owns pyelftools' reader of ELF.

Sources: System V Application Binary Interface, "Object Files"; the processor supplements that are named below.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from elftools.elf import enums
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationTable

from .image import FIRST_ADDRESS, MOST_BYTES, ImageError, Section, Symbol, targets_for
from .link import explicit_addends, is_hint
from .records import dataclass
from .target import Relocation
from .targets import find_target

ALLOC, _WRITE, _EXECUTE, _TLS = 2, 1, 4, 0x400
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A symbol of a table: what it is, and its name in relocations."""

    symbol: Symbol
    label: str


class ElfFile:
    """`sections`: what is loaded; `places`: the addresses of these sections, by number; `common`: where the next
    variable without a section goes. Raises ImageError, or anything at all where the file is damaged."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.elf = elf = ELFFile(io.BytesIO(data))
        self.bits: int = elf.elfclass
        self.order: Literal["little", "big"] = "little" if elf.little_endian else "big"
        self.machine: str = elf["e_machine"]
        self.number = int.from_bytes(data[18:20], self.order)
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
        self.places: dict[int, int] = {}
        self.common = 0
        self.sections = tuple(self._sections())

    # -- sections

    def _sections(self) -> Iterator[Section]:
        place, total = FIRST_ADDRESS, 0
        for index, header in enumerate(self.headers):
            flags, size = header["sh_flags"], header["sh_size"]
            empty = header["sh_type"] == "SHT_NOBITS"
            if not flags & ALLOC or (flags & _TLS and empty and not self.relocatable):
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

    def is_dynamic(self, index: int) -> bool:
        return bool(self.headers[index]["sh_type"] == "SHT_DYNSYM")

    def symbols(self, header: Any) -> list[Entry]:
        """Those of a section."""
        entries = list(header.iter_symbols())
        start, step = header["sh_offset"], header["sh_entsize"]
        other = start + (13 if self.bits == 32 else 5)
        return self.entries(entries, [self.data[other + step * i] for i in range(len(entries))])

    def entries(self, raw: Sequence[Any], others: Sequence[int]) -> list[Entry]:
        """Symbols as pyelftools has them, each with its `st_other`."""
        symbols = [self._symbol(entry, other) for entry, other in zip(raw, others, strict=True)]
        count = Counter(symbol.name for symbol in symbols if symbol.address is not None)
        return [
            Entry(
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

    # -- relocations

    def relocations_of(self, header: Any, entries: Sequence[Entry]) -> list[Relocation]:
        """The relocations of one section of an object, with addresses for offsets."""
        target = self.headers[header["sh_info"]]
        if target["sh_type"] == "SHT_NOBITS":
            return []
        labels = [entry.label for entry in entries]
        raw = [self.relocation(r, labels) for r in header.iter_relocations()]
        if header["sh_type"] == "SHT_REL":
            architecture = find_target(self.targets[0]).architecture
            raw = list(explicit_addends(architecture, self._content(target), raw))
        place = self.places[header["sh_info"]]
        return [replace(r, offset=place + r.offset) for r in raw if not is_hint(r)]

    def relocation(self, raw: Any, labels: Sequence[str]) -> Relocation:
        """One as pyelftools has it; `labels`: of all symbols of its table."""
        number = raw["r_info_sym"]
        if number >= len(labels) and number:
            raise ImageError(f"a relocation of {self.name} is against symbol {number}, and there is none")
        kinds = [raw["r_info_type"]]
        if self.machine == "EM_MIPS" and self.bits == 64:
            # 64-bit ELF Object File Specification (MIPS), 2.9: up to three in a row, R_MIPS_NONE for none.
            kinds += [raw["r_type2"], raw["r_type3"]]
            while len(kinds) > 1 and kinds[-1] == 0:
                kinds.pop()
        kind = "/".join(self.relocation_type(kind) for kind in kinds)
        symbol = labels[number] if number else ""
        return Relocation(kind, symbol, raw["r_addend"] if raw.is_RELA() else 0, raw["r_offset"])

    def relocation_type(self, number: int) -> str:
        known = self.types.get(number) or _UNKNOWN_TO_THE_LIBRARY.get((self.machine, number))
        return known or f"{self.machine} relocation {number}"

    def word(self, address: int) -> int:
        """What the file has in a word of memory; 0 where it has none."""
        for section in self.sections:
            if section.address <= address < section.end:
                start = address - section.address
                return int.from_bytes(section.data[start : start + self.bits // 8], self.order)
        return 0

    def dynamic_segment(self) -> Any | None:
        return next((s for s in self.elf.iter_segments() if isinstance(s, DynamicSegment)), None)


def has_rows(table: Any) -> bool:
    """Whether a table has whole relocations, and not addresses alone (RELR)."""
    return isinstance(table, RelocationTable)
