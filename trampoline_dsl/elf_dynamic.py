"""What the loader of an ELF file fills: by the relocations of the dynamic segment, and entries of global offset tables
that have none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .elf_file import ALLOC, ElfFile, Entry, has_rows
from .image import ImageError
from .target import Relocation

# Relocations of a loader whose field keeps an addend where the format has none (REL): the others overwrite it.
_ADDEND_IN_FIELD = re.compile(r"R_(386|ARM|MIPS)_(\w*RELATIVE|32|ABS32|PC32|REL32|TLS_TPOFF|TLS_TPOFF32|TPREL\w*)")


def filled_by_loader(file: ElfFile) -> tuple[list[Entry], list[Relocation]]:
    """The dynamic symbols of a linked file, and what its loader fills."""
    segment = file.dynamic_segment()
    if segment is None:
        return [], _irelative(file)
    tables = segment.get_relocation_tables()
    raw = {kind: list(table.iter_relocations()) for kind, table in tables.items() if has_rows(table)}
    entries = _symbols(file, segment, [row["r_info_sym"] for rows in raw.values() for row in rows])
    labels = [entry.label for entry in entries]
    found: dict[tuple[int, str], Relocation] = {}
    for kind, table in tables.items():
        if kind in raw:
            rows = [_with_addend(file, file.relocation(r, labels), r.is_RELA()) for r in raw[kind]]
        else:
            rows = _relative(file, table)
        for relocation in rows:
            if not relocation.type.endswith("_NONE"):
                found[relocation.offset, relocation.type] = relocation
    rows = list(found.values())
    if file.machine == "EM_MIPS":
        rows += _mips_got(file, segment, labels)
    return entries, rows


def _symbols(file: ElfFile, segment: Any, used: Sequence[int]) -> list[Entry]:
    """By the section that has them, or, without sections, as many as relocations name and hash tables count."""
    for header in file.headers:
        if header["sh_type"] == "SHT_DYNSYM":
            return file.symbols(header)
    if not any(True for _ in segment.iter_tags("DT_SYMTAB")):
        return []
    count = max(segment.num_symbols(), max(used, default=0) + 1)
    if count > len(file.data):
        raise ImageError(f"a relocation of {file.name} is against symbol {count - 1}, and there is none")
    return file.entries([segment.get_symbol(index) for index in range(count)], [0] * count)


def _irelative(file: ElfFile) -> list[Relocation]:
    """What a static executable relocates itself: its IRELATIVE relocations."""
    rows: list[Relocation] = []
    for header in file.headers:
        if header["sh_type"] in ("SHT_REL", "SHT_RELA") and header["sh_flags"] & ALLOC:
            for raw in header.iter_relocations():
                if not raw["r_info_sym"]:
                    rows.append(_with_addend(file, file.relocation(raw, [""]), raw.is_RELA()))
    return rows


def _relative(file: ElfFile, table: Any) -> list[Relocation]:
    """System V ABI, "Relative Relocation Table": fields that keep their addends."""
    kind = next((k for k in file.types.values() if k.endswith("_RELATIVE") and "IREL" not in k), "RELATIVE")
    rows = (Relocation(kind, "", 0, entry["r_offset"]) for entry in table.iter_relocations())
    return [replace(row, addend=file.word(row.offset)) for row in rows]


def _with_addend(file: ElfFile, relocation: Relocation, explicit: bool) -> Relocation:
    if explicit or not _ADDEND_IN_FIELD.fullmatch(relocation.type.partition("/")[0]):
        return relocation
    return replace(relocation, addend=file.word(relocation.offset))


def _mips_got(file: ElfFile, segment: Any, labels: Sequence[str]) -> Iterator[Relocation]:
    """MIPS psABI, 5-9: the local entries of the global offset table, which have addresses as the file gives them,
    without the first two; and behind them those of the last symbols, in order. None has a relocation."""
    tags = {tag.entry.d_tag: tag.entry.d_val for tag in segment.iter_tags()}
    if not {"DT_PLTGOT", "DT_MIPS_LOCAL_GOTNO", "DT_MIPS_GOTSYM"} <= set(tags):
        return
    word = file.bits // 8
    for place in range(tags["DT_PLTGOT"] + 2 * word, tags["DT_PLTGOT"] + word * tags["DT_MIPS_LOCAL_GOTNO"], word):
        yield Relocation("R_MIPS_REL32", "", file.word(place), place)
    start = tags["DT_PLTGOT"] + word * tags["DT_MIPS_LOCAL_GOTNO"]
    for position, label in enumerate(labels[tags["DT_MIPS_GOTSYM"] :]):
        yield Relocation("R_MIPS_GLOB_DAT", label, 0, start + word * position)
