"""GNU as and ld as oracles: bytes and relocations of a text, and linked bytes, for one architecture. For COFF on arm64,
where GNU as has none, it is LLVM's.

`.text` is padded to its alignment by some assemblers, so its end is marked by a symbol and the padding cut off.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf import enums
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection
from tools import need

from trampoline_dsl.target import Architecture
from trampoline_dsl.targets import find_target

# Offset in `.text`, ELF name, symbol, and addend: None where the format keeps it in the field (REL).
GnuRelocation = tuple[int, str, str, int | None]

_TYPES: dict[str, Mapping[str, Any]] = {
    "EM_386": {**enums.ENUM_RELOC_TYPE_i386, "R_386_GOT32X": 43},  # i386 psABI, table 4.9
    "EM_X86_64": enums.ENUM_RELOC_TYPE_x64,
    "EM_ARM": enums.ENUM_RELOC_TYPE_ARM,
    "EM_AARCH64": enums.ENUM_RELOC_TYPE_AARCH64,
    "EM_MIPS": enums.ENUM_RELOC_TYPE_MIPS,
    "EM_PPC64": enums.ENUM_RELOC_TYPE_PPC64,
    "EM_S390": enums.ENUM_RELOC_TYPE_S390X,
}


class GnuError(Exception):
    """GNU as or ld says no; the text is its own."""


@dataclass(frozen=True)
class Snippet:
    code: bytes
    relocations: tuple[GnuRelocation, ...]


def assemble(architecture: Architecture, text: str) -> tuple[bytes, list[GnuRelocation]]:
    """The bytes of `.text` and its relocations. The architecture's header goes before the text."""
    [snippet] = assemble_each(architecture, [text])
    return snippet.code, list(snippet.relocations)


def assemble_each(architecture: Architecture, texts: Sequence[str]) -> list[Snippet]:
    """Many texts in one process, each with offsets of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "out.o")
        _run([*architecture.gnu_as, "-o", str(result), "-"], "\n".join(_lines(architecture, texts)))
        if architecture.object_format == "coff":
            return _coff_snippets(result.read_bytes(), len(texts))
        with result.open("rb") as stream:
            return _snippets(ELFFile(stream), len(texts))


@dataclass(frozen=True)
class Object:
    """`.text` of a relocatable object: its bytes, offsets of the functions in it, and relocations."""

    code: bytes
    functions: Mapping[str, int]
    relocations: tuple[GnuRelocation, ...]


def read_object(image: bytes) -> Object:
    """An ELF or a COFF object."""
    if image[:4] == b"\x7fELF":
        elf = ELFFile(io.BytesIO(image))
        section, symbols = elf.get_section_by_name(".text"), elf.get_section_by_name(".symtab")
        assert section is not None
        assert isinstance(symbols, SymbolTableSection)
        found = {s.name: s["st_value"] for s in symbols.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"}
        descriptors = elf.get_section_by_name(".rela.opd")
        if isinstance(descriptors, RelocationSection):  # 64-bit PowerPC ELF ABI, 3.2.5: a symbol is a descriptor's
            entries = {r.entry["r_offset"]: r.entry["r_addend"] for r in descriptors.iter_relocations()}
            found = {name: entries[value] for name, value in found.items()}
        return Object(section.data(), found, tuple(sorted(_relocations(elf, symbols), key=lambda r: r[0])))
    code, values, relocations = _coff_text(image)
    known = {name for name, _, section, kind, _ in coff_symbols(image) if section > 0 and kind == 0x20}
    return Object(code, {name: value for name, value in values.items() if name in known}, tuple(relocations))


def assemble_accepted(architecture: Architecture, statements: Sequence[str]) -> dict[str, Snippet]:
    """Those of many single statements that GNU as takes."""
    try:
        return dict(zip(statements, assemble_each(architecture, statements), strict=True))
    except GnuError as error:
        first = len(_lines(architecture, [])) - 1  # the first statement's line, which counts from 1, less one label
        wrong = {(int(line) - first) // 2 for line in re.findall(r":(\d+): Error", str(error))}
    kept = [statement for index, statement in enumerate(statements) if index not in wrong]
    return dict(zip(kept, assemble_each(architecture, kept), strict=True))


def _lines(architecture: Architecture, texts: Sequence[str]) -> list[str]:
    lines = [*architecture.header, ".text"]
    for index, text in enumerate(texts):
        lines += [f"snippet_{index}:", text]
    return [*lines, f"snippet_{len(texts)}:", ""]


def link(architecture: Architecture, text: str, base: int, symbols: Mapping[str, int], *options: str) -> bytes:
    """The bytes of `.text` when GNU ld puts it at `base` with these symbols."""
    if architecture.object_format == "coff" and architecture.family == "arm64":
        # No linker in reach puts COFF of this machine at a given address; the text is that for ELF.
        architecture = find_target("linux/arm64").architecture
    lines = [*architecture.header, ".text", ".globl snippet_0", "snippet_0:", text, "snippet_1:", ""]
    with tempfile.TemporaryDirectory() as folder:
        objects, result = Path(folder, "in.o"), Path(folder, "out")
        _run([*architecture.gnu_as, "-o", str(objects), "-"], "\n".join(lines))
        defined = [f"--defsym={name}={value:#x}" for name, value in symbols.items()]
        linker = architecture.gnu_as[0].removesuffix("as") + "ld"
        command = [linker, "-o", str(result), f"-Ttext={base:#x}", "-e", "snippet_0", *options, *defined, str(objects)]
        if architecture.object_format == "coff":
            command.insert(1, "--image-base=0")
        _run(command, "")
        if architecture.object_format == "coff":
            return _coff_snippets(_of_executable(result.read_bytes()), 1)[0].code
        with result.open("rb") as stream:
            return _snippets(ELFFile(stream), 1)[0].code


def _run(command: Sequence[str], text: str) -> None:
    need(command[0])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise GnuError(done.stderr)


def _snippets(elf: ELFFile, count: int) -> list[Snippet]:
    section = elf.get_section_by_name(".text")
    assert section is not None
    code = section.data()
    symbols = elf.get_section_by_name(".symtab")
    assert isinstance(symbols, SymbolTableSection)
    values = {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols()}
    starts = [values[f"snippet_{index}"] - section["sh_addr"] for index in range(count + 1)]
    relocations = sorted(_relocations(elf, symbols), key=lambda relocation: relocation[0])
    result = []
    for start, end in itertools.pairwise(starts):
        own = [(r[0] - start, *r[1:]) for r in relocations if start <= r[0] < end]
        result.append(Snippet(code[start:end], tuple(own)))
    return result


# PE Format, "Type Indicators": by machine, then by number.
COFF_TYPES = {
    0x14C: {6: "IMAGE_REL_I386_DIR32", 20: "IMAGE_REL_I386_REL32"},
    0x8664: {1: "IMAGE_REL_AMD64_ADDR64", 4: "IMAGE_REL_AMD64_REL32"},
    0xAA64: {
        3: "IMAGE_REL_ARM64_BRANCH26",
        4: "IMAGE_REL_ARM64_PAGEBASE_REL21",
        6: "IMAGE_REL_ARM64_PAGEOFFSET_12A",
        7: "IMAGE_REL_ARM64_PAGEOFFSET_12L",
        14: "IMAGE_REL_ARM64_ADDR64",
    },
}


def coff_symbols(image: bytes) -> list[tuple[str, int, int, int, int]]:
    """PE Format, "COFF Symbol Table": name, value, section (from 1 on; 0: elsewhere), type and storage class of each.
    Places of auxiliary records are filled, for relocations count them."""
    at, count = struct.unpack_from("<II", image, 8)
    strings = at + 18 * count
    found: list[tuple[str, int, int, int, int]] = []
    while len(found) < count:
        raw, value, section, kind, storage, extra = struct.unpack_from("<8sIhHBB", image, at + 18 * len(found))
        if raw[:4] == bytes(4):
            start = strings + int.from_bytes(raw[4:], "little")
            raw = image[start : image.index(0, start)]
        name = raw.rstrip(b"\0").decode()
        found += [(name, value, section, kind, storage)] + [("", 0, 0, 0, 0)] * extra
    return found


def _of_executable(image: bytes) -> bytes:
    """The COFF part of a PE file, whose offsets count from the start of the file all the same."""
    start = struct.unpack_from("<I", image, 0x3C)[0] + 4
    header = bytearray(image[start:])
    for place in (8, *(20 + struct.unpack_from("<H", header, 16)[0] + 40 * n + 20 for n in range(header[2]))):
        struct.pack_into("<I", header, place, struct.unpack_from("<I", header, place)[0] - start)
    return bytes(header)


def _coff_snippets(image: bytes, count: int) -> list[Snippet]:
    code, values, relocations = _coff_text(image)
    starts = [values[f"snippet_{index}"] for index in range(count + 1)]
    return [
        Snippet(code[start:end], tuple((r[0] - start, *r[1:]) for r in relocations if start <= r[0] < end))
        for start, end in itertools.pairwise(starts)
    ]


def _coff_text(image: bytes) -> tuple[bytes, dict[str, int], list[GnuRelocation]]:
    """The bytes of `.text`, its symbols, and its relocations in the order of their offsets."""
    machine, sections, _, _, _, optional, _ = struct.unpack_from("<HHIIIHH", image, 0)
    symbols = coff_symbols(image)
    for number in range(sections):
        header = struct.unpack_from("<8sIIIIIIHHI", image, 20 + optional + 40 * number)
        name, size, data, table, entries = header[0].rstrip(b"\0"), header[3], header[4], header[5], header[7]
        if name != b".text":
            continue
        code = image[data : data + size]
        values = {name: value for name, value, section, _, _ in symbols if section == number + 1}
        relocations: list[GnuRelocation] = []
        for entry in range(entries):
            offset, symbol, kind = struct.unpack_from("<IIH", image, table + 10 * entry)
            relocations.append((offset, COFF_TYPES[machine].get(kind, f"type {kind}"), symbols[symbol][0], None))
        return code, values, sorted(relocations)
    raise AssertionError("no .text")


def coff_section(image: bytes, wanted: str) -> tuple[int, bytes]:
    """Where a section of an object of 386 is, and its bytes, linked against a `.text` at the same place, 0."""
    _, sections, _, _, _, optional, _ = struct.unpack_from("<HHIIIHH", image, 0)
    for number in range(sections):
        header = struct.unpack_from("<8sIIIIIIHHI", image, 20 + optional + 40 * number)
        name, size, data, table, entries = header[0].rstrip(b"\0"), header[3], header[4], header[5], header[7]
        if name[:1] == b"/":  # PE Format, "Section Table": where the name is among the strings
            symbols, count = struct.unpack_from("<II", image, 8)
            start = symbols + 18 * count + int(name[1:])
            name = image[start : image.index(0, start)]
        if name != wanted.encode():
            continue
        content = bytearray(image[data : data + size])
        for entry in range(entries):
            offset, _, kind = struct.unpack_from("<IIH", image, table + 10 * entry)
            if COFF_TYPES[0x14C][kind] == "IMAGE_REL_I386_REL32":  # it counts from behind the field
                (kept,) = struct.unpack_from("<i", content, offset)
                struct.pack_into("<i", content, offset, kept - offset - 4)
        return 0, bytes(content)
    raise AssertionError(f"no {wanted}")


def _relocations(elf: ELFFile, symbols: SymbolTableSection) -> list[GnuRelocation]:
    machine = elf["e_machine"]
    names = {number: name for name, number in _TYPES[machine].items() if isinstance(number, int)}
    result: list[GnuRelocation] = []
    for name in (".rel.text", ".rela.text"):
        section = elf.get_section_by_name(name)
        if not isinstance(section, RelocationSection):
            continue
        for relocation in section.iter_relocations():
            entry = relocation.entry
            kind = names.get(entry["r_info_type"], f"type {entry['r_info_type']}")
            # n64 composes up to three operations; none of ours needs more than one.
            extra = [entry[key] for key in ("r_type2", "r_type3") if entry.get(key)]
            if extra:
                kind += "".join(f"/{names.get(number, number)}" for number in extra)
            symbol = symbols.get_symbol(entry["r_info_sym"])
            result.append((entry["r_offset"], kind, symbol.name, entry.get("r_addend")))
    return result
