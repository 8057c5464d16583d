"""COFF objects, PE files and Mach-O files: the only module that imports LIEF.

Sources: Microsoft, "PE Format"; Apple, mach-o/loader.h, mach-o/nlist.h, mach-o/reloc.h, mach-o/x86_64/reloc.h,
mach-o/arm64/reloc.h. LIEF 1.0 mixes up the sections of Mach-O relocations: those are read here.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lief

from .dwarf import CallFrames, DebugLines
from .image import FIRST_ADDRESS, MOST_BYTES, Image, ImageError, Section, Symbol, targets_for
from .link import explicit_addends, is_hint, link
from .pdata import Tables
from .target import IMAGE_BASE, Relocation
from .targets import find_target

lief.logging.disable()  # it writes about damaged files to standard error

_CODE, _NO_BYTES = 0x20, 0x80
_INFORMATION, _REMOVED, _DISCARDABLE = 0x200, 0x800, 0x02000000
_EXECUTE, _WRITE = 0x20000000, 0x80000000
_EXTERNAL, _STATIC, _LABEL, _WEAK = 2, 3, 6, 105  # storage classes
_THUMB_MACHINE = 0x1C4


def read_coff(data: bytes, name: str) -> Image:
    """An object of Windows's tools. Raises ImageError, or anything at all where the file is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Coff(data, name).image()


def read_pe(data: bytes, name: str) -> Image:
    """An executable or a library of Windows. Raises ImageError, or anything at all where the file is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Pe(data, name).image()


def read_macho(data: bytes, name: str, member: str) -> Image:
    """An object, an executable or a library of Darwin; of a file for several machines that which `member` names.
    Raises ImageError, or anything at all where the file is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _MachO(_slice(data, name, member), name).image()


def _targets(name: str, format: str, machine: int) -> tuple[str, ...]:
    found = targets_for(format, machine, 0)
    if not found:
        what = {"pe": "COFF or PE", "macho": "Mach-O"}[format]
        raise ImageError(f"{name} is {what} for a machine that is no target: {machine:#x}")
    return found


def _labels(symbols: Sequence[Symbol]) -> list[str]:
    """Names for relocations, with the address where several local symbols share one."""
    count = Counter(s.name for s in symbols if s.address is not None)
    return [
        f"{s.name}@{s.address:#x}" if s.local and s.address is not None and count[s.name] > 1 else s.name
        for s in symbols
    ]


def _debug_lines(word: int, sections: Mapping[str, bytes]) -> DebugLines | None:
    if "debug_line" not in sections:
        return None
    return DebugLines(word, True, partial(dict, sections))


def _debug_name(name: str) -> str:
    """Of a section of debug information, as ELF calls it but for the dot."""
    return re.sub(r"^(\.|__)z?debug", "debug", name)[:16] if re.match(r"(\.|__)z?debug_", name) else ""


def _decompressed(data: bytes) -> bytes:
    return zlib.decompress(data[12:]) if data[:4] == b"ZLIB" else data


class _Windows:
    """What COFF and PE have in common: sections and the symbol table."""

    format: Any = "coff"

    def __init__(self, data: bytes, name: str, parsed: Any) -> None:
        if parsed is None:
            raise ImageError(f"{name} is damaged: its headers cannot be read")
        self.data, self.name, self.file = data, name, parsed
        self.machine = int(parsed.header.machine)
        self.targets = _targets(name, "pe", self.machine)
        self.architecture = find_target(self.targets[0]).architecture
        self.headers: list[Any] = list(parsed.sections)
        self.names = [str(section.coff_string or "") or str(section.name) for section in self.headers]
        self.places: dict[int, int] = {}  # addresses of sections, by number
        self.common = 0
        self.mode = ""

    def header_at(self) -> int:
        """Where the COFF header is in the file."""
        return 0

    def flags(self, index: int) -> int:
        return int(self.headers[index].characteristics)

    def content(self, index: int, size: int) -> bytes:
        content = bytes(self.headers[index].content)
        return (content + bytes(max(0, size - len(content))))[:size]

    def checked(self, total: int) -> None:
        if total > MOST_BYTES:
            raise ImageError(f"{self.name} takes more than {MOST_BYTES >> 20} MiB of memory")

    def debug_sections(self) -> dict[str, bytes]:
        found = {}
        for index, name in enumerate(self.names):
            if short := _debug_name(name):
                size = int(self.headers[index].virtual_size) or int(self.headers[index].size)
                self.checked(size)
                found[short] = _decompressed(self.content(index, size))
        return found

    def unwindings(self, base: int, sections: Sequence[Section]) -> Tables | CallFrames | None:
        """Windows' tables of functions, of the machines that have them in a form that is known; of others call frame
        information, which is gcc's and clang's for MinGW."""
        tables: dict[int, Literal["x64", "arm64"]] = {0x8664: "x64", 0xAA64: "arm64"}
        if self.machine not in tables:
            # PE Format, "Section Table": there are eight bytes for a name, and longer ones not in every image.
            frames = [(s.address, s.data) for s in sections if s.name in (".eh_frame", ".eh_fram")]
            return CallFrames(self.architecture.word, True, partial(dict, eh_frame=frames[0])) if frames else None
        pdata = [section.data for section in sections if section.name.startswith(".pdata")]
        loaded = {section.address: section.data for section in sections if not section.executable}
        return Tables(tables[self.machine], base, pdata, loaded)

    def symbols(self) -> dict[int, Symbol]:
        """By their number in the file's table, in which some entries are parts of others. LIEF 1.0 does not find names
        that are the end of longer ones."""
        start, count = struct.unpack_from("<II", self.data, self.header_at() + 8)
        strings, found, number = start + 18 * count, {}, 0
        for raw in self.file.symbols:
            entry = self.data[start + 18 * number : start + 18 * number + 18]
            if len(entry) < 18:
                raise ImageError(f"the symbol table of {self.name} lies outside of the file: it is cut off")
            name = str(raw.name)
            if not name and not int.from_bytes(entry[:4], "little"):
                name_at = strings + int.from_bytes(entry[4:8], "little")
                name = self.data[name_at : self.data.find(b"\0", name_at)].decode("utf-8", "replace")
            symbol = self.symbol(raw, name)
            if symbol is not None:
                found[number] = symbol
            number += 1 + entry[17]
        return found

    def symbol(self, raw: Any, name: str) -> Symbol | None:
        storage, index, value = int(raw.storage_class), int(raw.section_idx), int(raw.value)
        local = storage not in (_EXTERNAL, _WEAK)
        if storage not in (_EXTERNAL, _STATIC, _LABEL, _WEAK) or index < -1:
            return None
        if index == 0:
            if value and storage == _EXTERNAL and self.format == "coff":
                self.common = address = -(-self.common // 16) * 16
                self.common += value
                self.checked(self.common)
                return Symbol(name, address, value, "object", local)
            return Symbol(name, None)
        if index == -1:
            return Symbol(name, value, 0, "other", local)
        if index - 1 not in self.places:
            return None
        address = self.places[index - 1] + value
        executable = bool(self.flags(index - 1) & _EXECUTE)
        is_section = storage == _STATIC and not value and name == self.names[index - 1]
        typed = int(raw.complex_type) == 2  # IMAGE_SYM_DTYPE_FUNCTION
        if executable and not is_section and (typed or not local):
            return Symbol(name, address, 0, "function", local, address, 0, self.mode)
        code = address if executable and not is_section else None
        return Symbol(name, address, 0, "other", local, code, 0, self.mode if code else "")


class _Coff(_Windows):
    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name, lief.COFF.parse(data))
        # PE Format, "Machine Types": ARMNT is Thumb-2 code.
        self.mode = "Thumb" if self.machine == _THUMB_MACHINE else ""

    def image(self) -> Image:
        sections = tuple(self.sections())
        numbered = self.symbols()
        if self.common > (start := max((s.end for s in sections), default=FIRST_ADDRESS)):
            sections += (Section("COMMON", start, bytes(self.common - start), False, True),)
        symbols = list(numbered.values())
        labels = _labels(symbols)
        by_number = dict(zip(numbered, labels, strict=True))
        relocations = []
        for index, place in self.places.items():
            content = self.content(index, len(bytes(self.headers[index].content)))
            rows = [self.relocation(one, index, by_number) for one in self.headers[index].relocations]
            found = [_numbered(relocation) for relocation in rows if not is_hint(relocation)]
            if any(not 0 <= relocation.offset <= len(content) - 4 for relocation, _ in found):
                raise ImageError(f"a relocation of {self.name} lies outside of {self.names[index]}")
            told = explicit_addends(self.architecture, content, [relocation for relocation, _ in found])
            for one, (_, less) in zip(told, found, strict=True):
                relocations.append(replace(one, addend=one.addend - less, offset=place + one.offset))
        defined = {label: s.address for label, s in zip(labels, symbols, strict=True) if s.address is not None}
        return Image(
            name=self.name,
            format="coff",
            targets=self.targets,
            relocatable=True,
            movable=False,
            sections=sections,
            symbols=tuple(dict.fromkeys(s for s in symbols if s.name)),
            relocations=tuple(relocations),
            addresses={"": 0, **defined},
            lines=self.lines(defined, by_number),
            unwindings=self.unwindings(0, self.with_addresses(sections, relocations, defined)),
        )

    def with_addresses(
        self, sections: Sequence[Section], relocations: Sequence[Relocation], defined: Mapping[str, int]
    ) -> list[Section]:
        """Those of unwind information, with their fields filled in. PE Format, "Type Indicators": ADDR32NB counts from
        where the image begins, here 0."""
        symbols, known = {IMAGE_BASE: 0, **defined}, self.architecture.fixups
        found = []
        for section in sections:
            if section.name.startswith((".pdata", ".xdata", ".eh_frame")):
                fields = [
                    replace(one, offset=one.offset - section.address)
                    for one in relocations
                    if section.address <= one.offset <= section.end - 4 and one.type in known and one.symbol in defined
                ]
                data = link(self.architecture, section.data, fields, section.address, symbols)
                found.append(replace(section, data=data))
        return found

    def sections(self) -> Iterator[Section]:
        place = FIRST_ADDRESS
        for index, (header, name) in enumerate(zip(self.headers, self.names, strict=True)):
            flags, size = self.flags(index), int(header.sizeof_raw_data)
            if flags & (_INFORMATION | _REMOVED | _DISCARDABLE):
                continue
            alignment = 1 << max(0, (flags >> 20 & 15) - 1)
            place = -(-place // alignment) * alignment
            self.places[index] = place
            self.checked(place + size)
            data = bytes(size) if flags & _NO_BYTES else self.content(index, size)
            yield Section(name, place, data, bool(flags & _EXECUTE), bool(flags & _WRITE))
            place += size
        self.common = place

    def relocation(self, raw: Any, index: int, labels: Mapping[int, str]) -> Relocation:
        kind, number = f"IMAGE_REL_{str(raw.type).rpartition('.')[2]}", int(raw.symbol_idx)
        if number not in labels:
            raise ImageError(f"a relocation of {self.name} is against symbol {number}, and there is none")
        return Relocation(kind, labels[number], 0, int(raw.address) - int(self.headers[index].virtual_address))

    def lines(self, defined: Mapping[str, int], labels: Mapping[int, str]) -> DebugLines | None:
        sections = {}
        for index, name in enumerate(self.names):
            if not (short := _debug_name(name)):
                continue
            content = bytearray(self.content(index, int(self.headers[index].size)))
            for raw in self.headers[index].relocations:
                if int(raw.symbol_idx) not in labels:
                    continue  # a section that is not loaded
                relocation = self.relocation(raw, index, labels)
                found = re.fullmatch(r"IMAGE_REL_\w+_(ADDR|DIR)(32|64)", relocation.type)
                if found is None or relocation.symbol not in defined:
                    continue
                start, size = relocation.offset, int(found[2]) // 8
                value = int.from_bytes(content[start : start + size], "little") + defined[relocation.symbol]
                content[start : start + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
            sections[short] = bytes(content)
        return _debug_lines(self.architecture.word, sections)


def _numbered(relocation: Relocation) -> tuple[Relocation, int]:
    """PE Format, "Type Indicators", x64 Processors: REL32_1 to REL32_5 count from so many bytes behind the field."""
    found = re.fullmatch(r"(IMAGE_REL_AMD64_REL32)_([1-5])", relocation.type)
    return (replace(relocation, type=found[1]), int(found[2])) if found else (relocation, 0)


class _Pe(_Windows):
    format = "pe"

    def header_at(self) -> int:
        return int.from_bytes(self.data[0x3C:0x40], "little") + 4

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name, lief.PE.parse(data))
        self.base = int(self.file.imagebase)
        if self.machine == _THUMB_MACHINE:
            # Go's code for windows/arm is in the machine's first instruction set, and entered so; all other is Thumb.
            entry = int(self.file.optional_header.addressof_entrypoint)
            self.mode = "" if entry and not entry & 1 else "Thumb"

    def image(self) -> Image:
        sections = tuple(self.sections())
        symbols = [one for one in self.symbols().values() if one.name]
        known = {symbol.name for symbol in symbols if symbol.address is not None}
        symbols += [one for one in self.exported(sections) if one.name not in known]
        labels = _labels(symbols)
        relocations = tuple(self.relocations(sections))
        defined = {label: s.address for label, s in zip(labels, symbols, strict=True) if s.address is not None}
        undefined = [Symbol(r.symbol, None) for r in relocations if r.symbol and r.symbol not in defined]
        return Image(
            name=self.name,
            format="pe",
            targets=self.targets,
            relocatable=False,
            movable=any(r.type.startswith("IMAGE_REL_BASED") for r in relocations),
            sections=sections,
            symbols=tuple(dict.fromkeys([*symbols, *undefined])),
            relocations=relocations,
            addresses={"": 0, **defined},
            lines=_debug_lines(self.architecture.word, self.debug_sections()),
            unwindings=self.unwindings(self.base, sections),
        )

    def sections(self) -> Iterator[Section]:
        total = 0
        for index, (header, name) in enumerate(zip(self.headers, self.names, strict=True)):
            flags, address = self.flags(index), self.base + int(header.virtual_address)
            self.places[index] = address
            if _debug_name(name) or name == ".symtab":
                continue
            size = int(header.virtual_size) or int(header.size)
            total += size
            self.checked(total)
            if not flags & _NO_BYTES and int(header.offset) + min(size, int(header.size)) > len(self.data):
                raise ImageError(f"section {name} of {self.name} lies outside of the file: it is cut off")
            yield Section(name, address, self.content(index, size), bool(flags & _EXECUTE), bool(flags & _WRITE))

    def exported(self, sections: Sequence[Section]) -> Iterator[Symbol]:
        if not self.file.has_exports:
            return
        for entry in self.file.get_export().entries:
            address = self.base + int(entry.address)
            mode = self.mode
            if mode:
                address &= ~1
            executable = any(s.executable and s.address <= address < s.end for s in sections)
            if entry.name and not entry.is_forwarded:
                yield Symbol(
                    str(entry.name), address, 0, "function" if executable else "object", False,
                    address if executable else None, 0, mode if executable else "",
                )  # fmt: skip

    def relocations(self, sections: Sequence[Section]) -> Iterator[Relocation]:
        for library in self.file.imports:
            for entry in library.entries:
                name = f"{library.name}.{entry.ordinal}" if entry.is_ordinal else str(entry.name)
                yield Relocation("IAT", name, 0, self.base + int(entry.iat_address))
        for block in self.file.relocations:
            for entry in block.entries:
                kind = str(entry.type).rpartition(".")[2]
                if kind not in ("HIGHLOW", "DIR64"):
                    continue
                address, size = self.base + int(entry.address), 8 if kind == "DIR64" else 4
                for section in sections:
                    if section.address <= address <= section.end - size:
                        start = address - section.address
                        value = int.from_bytes(section.data[start : start + size], "little")
                        yield Relocation(f"IMAGE_REL_BASED_{kind}", "", value, address)


# --------------------------------------------------------------------------------------------------------------- Mach-O

_FAT = (0xCAFEBABE, 0xCAFEBABF)
_OBJECT, _EXECUTABLE, _LIBRARY, _BUNDLE = 1, 2, 6, 8
_INSTRUCTIONS = 0x80000400  # S_ATTR_PURE_INSTRUCTIONS, S_ATTR_SOME_INSTRUCTIONS
_ZEROS = (1, 0xC, 0x12)  # section types without bytes: S_ZEROFILL, S_GB_ZEROFILL, S_THREAD_LOCAL_ZEROFILL
_EXTERN, _TYPE, _SECTION, _ABSOLUTE, _DEBUGGER = 1, 0x0E, 0x0E, 2, 0xE0  # of n_type


def _slice(data: bytes, name: str, member: str) -> bytes:
    """The part of a file for several machines (mach-o/fat.h) that is asked for."""
    if int.from_bytes(data[:4], "big") not in _FAT:
        if member:
            raise ImageError(f"{name} is for one machine: it has no member `{member}`")
        return data
    wide = data[3] == 0xBF
    form = ">IIQQII" if wide else ">IIIII"
    parts: dict[str, bytes] = {}
    for index in range(int.from_bytes(data[4:8], "big")):
        machine, _, start, size, *_ = struct.unpack_from(form, data, 8 + index * struct.calcsize(form))
        targets = targets_for("macho", machine, 0)
        if start + size > len(data):
            raise ImageError(f"{name} is cut off: a part of it lies outside of the file")
        parts[targets[0].partition("/")[2] if targets else f"{machine:#x}"] = data[start : start + size]
    if member in parts:
        return parts[member]
    said = f"has no member `{member}`" if member else "is for several machines: say which by `--member`"
    raise ImageError(f"{name} {said}", f"it has {', '.join(parts)}")


class _MachO:
    def __init__(self, data: bytes, name: str) -> None:
        parsed: Any = lief.MachO.parse(data)
        if parsed is None or not len(parsed):
            raise ImageError(f"{name} is damaged: its headers cannot be read")
        self.data, self.name = data, name
        self.file: Any = parsed[0]
        self.machine = int(self.file.header.cpu_type)
        self.targets = _targets(name, "macho", self.machine)
        self.architecture = find_target(self.targets[0]).architecture
        self.kind = int(self.file.header.file_type)
        if self.kind not in (_OBJECT, _EXECUTABLE, _LIBRARY, _BUNDLE):
            raise ImageError(
                f"{name} is neither an object nor an executable nor a library: {self.file.header.file_type}"
            )
        self.relocatable = self.kind == _OBJECT
        self.shift = FIRST_ADDRESS if self.relocatable else 0
        self.headers: list[Any] = list(self.file.sections)

    def image(self) -> Image:
        sections = tuple(self.sections())
        symbols = [self.symbol(raw) for raw in self.file.symbols]
        labels = _labels(symbols)
        relocations = tuple(self.in_sections(labels) if self.relocatable else self.loaded(sections))
        defined = {label: s.address for label, s in zip(labels, symbols, strict=True) if s.address is not None}
        defined |= {_section_label(header): self.address(header) for header in self.headers}
        undefined = [Symbol(r.symbol, None) for r in relocations if r.symbol and r.symbol not in defined]
        return Image(
            name=self.name,
            format="macho",
            targets=self.targets,
            relocatable=self.relocatable,
            movable=not self.relocatable and bool(self.file.is_pie or self.kind != _EXECUTABLE),
            sections=sections,
            symbols=tuple(dict.fromkeys(s for s in [*symbols, *undefined] if s.name)),
            relocations=relocations,
            addresses={"": 0, **defined},
            lines=_debug_lines(self.architecture.word, self.debug_sections()),
        )

    def address(self, header: Any) -> int:
        return int(header.virtual_address) + self.shift

    def sections(self) -> Iterator[Section]:
        total = 0
        for header in self.headers:
            if str(header.segment_name) == "__DWARF":
                continue
            size = int(header.size)
            total += size
            if total > MOST_BYTES:
                raise ImageError(f"{self.name} takes more than {MOST_BYTES >> 20} MiB of memory")
            if int(header.type) in _ZEROS:
                data = bytes(size)
            else:
                if int(header.offset) + size > len(self.data):
                    raise ImageError(f"section {header.name} of {self.name} lies outside of the file: it is cut off")
                data = self.data[int(header.offset) : int(header.offset) + size]
            executable = bool(int(header.flags) & _INSTRUCTIONS)
            writable = str(header.segment_name).startswith("__DATA")
            yield Section(_section_label(header), self.address(header), data, executable, writable)

    def symbol(self, raw: Any) -> Symbol:
        """C's compilers write an underscore before names; here they are as in C."""
        kind, value, name = int(raw.raw_type), int(raw.value), str(raw.name)
        name = name.removeprefix("_")
        if kind & _DEBUGGER:
            return Symbol("", None)
        if kind & _TYPE == _ABSOLUTE:
            return Symbol(name, value, 0, "other", not kind & _EXTERN)
        number = int(raw.numberof_sections)
        if kind & _TYPE != _SECTION or not 0 < number <= len(self.headers):
            return Symbol(name, None)
        address, local = value + self.shift, not kind & _EXTERN
        if not int(self.headers[number - 1].flags) & _INSTRUCTIONS:
            return Symbol(name, address, 0, "object", local)
        inner = local and re.match(r"ltmp\d|[lL]", str(raw.name)) is not None  # the assembler's own
        return Symbol(name, address, 0, "other" if inner else "function", local, address)

    def in_sections(self, labels: Sequence[str]) -> Iterator[Relocation]:
        for header in self.headers:
            if str(header.segment_name) == "__DWARF":
                continue
            addend = 0
            for offset, kind, symbol, extern, relative in self.entries(header):
                if self.machine & 0xFF == 12 and kind == 10:  # ARM64_RELOC_ADDEND, for the next one
                    addend = symbol - (1 << 24) if symbol >> 23 else symbol
                    continue
                yield self.relocation(header, offset, kind, symbol, extern, relative, addend, labels)
                addend = 0

    def entries(self, header: Any) -> Iterator[tuple[int, int, int, bool, bool]]:
        """Offset in the section, type, number of the symbol or the section, whether it is a symbol, whether relative
        to the program counter."""
        for index in range(int(header.numberof_relocations)):
            offset, packed = struct.unpack_from("<II", self.data, int(header.relocation_offset) + 8 * index)
            yield offset, packed >> 28, packed & 0xFFFFFF, bool(packed >> 27 & 1), bool(packed >> 24 & 1)

    def relocation(
        self,
        header: Any,
        offset: int,
        kind: int,
        symbol: int,
        extern: bool,
        relative: bool,
        addend: int,
        labels: Sequence[str],
    ) -> Relocation:
        """By the name of ELF's relocation that does the same, where there is one."""
        start = int(header.offset) + offset
        word = int.from_bytes(self.data[start : start + 4], "little")
        amd64 = self.machine & 0xFF == 7
        names = _AMD64 if amd64 else _ARM64
        name = names.get(kind) or f"Mach-O relocation {kind}"
        if not amd64 and name == "PAGEOFF12":
            name = _page_offset(word)
        elif not amd64 and name == "R_AARCH64_CALL26" and not word >> 31:
            name = "R_AARCH64_JUMP26"
        if amd64 or kind == 0:
            size = 8 if kind == 0 else 4
            addend = int.from_bytes(self.data[start : start + size], "little", signed=True)
        if extern:
            if symbol >= len(labels):
                raise ImageError(f"a relocation of {self.name} is against symbol {symbol}, and there is none")
            label = labels[symbol]
            addend -= 4 if relative and amd64 else 0
        else:
            if not 0 < symbol <= len(self.headers):
                raise ImageError(f"a relocation of {self.name} is against section {symbol}, and there is none")
            target = self.headers[symbol - 1]
            label = _section_label(target)
            # The field has the address, or the distance to it, that the object itself would have.
            addend -= int(target.virtual_address)
            addend += int(header.virtual_address) + offset if relative and amd64 else 0
        return Relocation(name, label, addend, self.address(header) + offset)

    def loaded(self, sections: Sequence[Section]) -> Iterator[Relocation]:
        """What dyld fills: pointers to what other files have, and its own, where it is moved."""
        for binding in self.file.bindings:
            section = next((s for s in sections if s.address <= int(binding.address) < s.end), None)
            if binding.has_symbol and section is not None and not section.executable:
                yield Relocation("bind", str(binding.symbol.name).removeprefix("_"), 0, int(binding.address))
        for one in self.file.relocations:
            address = int(one.address)
            for section in sections:
                if section.address <= address <= section.end - 8:
                    start = address - section.address
                    value = int.from_bytes(section.data[start : start + 8], "little")
                    yield Relocation("rebase", "", value, address)

    def debug_sections(self) -> dict[str, bytes]:
        found = {}
        for header in self.headers:
            if str(header.segment_name) != "__DWARF" or not (short := _debug_name(str(header.name))):
                continue
            start, size = int(header.offset), int(header.size)
            content = bytearray(_decompressed(self.data[start : start + size]))
            if self.relocatable:
                for offset, kind, symbol, extern, relative in self.entries(header):
                    if kind == 0 and not extern and not relative and 0 < symbol <= len(self.headers):
                        value = int.from_bytes(content[offset : offset + 8], "little") + self.shift
                        content[offset : offset + 8] = (value % (1 << 64)).to_bytes(8, "little")
            found[short] = bytes(content)
        return found


_AMD64 = {
    0: "R_X86_64_64",
    1: "R_X86_64_PC32",
    2: "R_X86_64_PLT32",
    3: "R_X86_64_REX_GOTPCRELX",
    4: "R_X86_64_GOTPCREL",
    6: "R_X86_64_PC32",
    7: "R_X86_64_PC32",
    8: "R_X86_64_PC32",
}
_ARM64 = {
    0: "R_AARCH64_ABS64",
    2: "R_AARCH64_CALL26",
    3: "R_AARCH64_ADR_PREL_PG_HI21",
    4: "PAGEOFF12",
    5: "R_AARCH64_ADR_GOT_PAGE",
    6: "R_AARCH64_LD64_GOT_LO12_NC",
}


def _page_offset(word: int) -> str:
    """The field of an addition, or of a load or a store, whose size counts (mach-o/arm64/reloc.h, PAGEOFF12)."""
    if word & 0x3B000000 != 0x39000000:
        return "R_AARCH64_ADD_ABS_LO12_NC"
    shift = word >> 30 | (word >> 26 & 1 and word >> 23 & 1) << 2
    return f"R_AARCH64_LDST{8 << shift}_ABS_LO12_NC"


def _section_label(header: Any) -> str:
    return f"{header.segment_name},{header.name}"
