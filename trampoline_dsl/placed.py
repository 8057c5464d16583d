"""Where an image is in a world: at its own addresses, or anywhere if it may be moved, with what a source declares and
the image does not define."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import ir
from .image import Image, Section, Symbol, definitions
from .machine_code import Code
from .relocate import Linker, through_table
from .target import TOC_SYMBOL, Architecture, Relocation
from .world import Build, Room, prepare

_PAGE = 0x1000
_TOGETHER = 0x1_0000  # bytes between sections that are mapped in one piece all the same


@dataclass(frozen=True)
class Placed:
    """An image in a world. `distance`: what is added to the image's addresses; `sections`: as they are in memory;
    `missing`: addresses of what the image refers to, and nobody declares, by address; `unlinked`: fields that could not
    be filled, and why."""

    image: Image
    build: Build
    distance: int
    sections: tuple[Section, ...]
    defined: Mapping[str, Symbol]
    missing: Mapping[int, str]
    unlinked: Mapping[int, str]

    def source(self, address: int) -> str:
        """The line of the source that an address of the world comes from; empty where nobody says."""
        line = self.image.line(address - self.distance)
        return f"{line[0]}:{line[1]}" if line is not None else ""

    def section(self, address: int) -> Section | None:
        """What is at an address of the world."""
        return next((s for s in self.sections if s.address <= address < s.end), None)


def pages_of(image: Image, architecture: Architecture) -> Room:
    """The pages that an image takes."""
    spans: list[tuple[int, int]] = []
    for section in sorted(image.sections, key=lambda s: s.address):
        start = section.address // _PAGE * _PAGE
        end = -(-section.end // _PAGE) * _PAGE
        if spans and start <= sum(spans[-1]) + _TOGETHER:
            spans[-1] = (spans[-1][0], max(end, sum(spans[-1])) - spans[-1][0])
        elif end > start:
            spans.append((start, end - start))
    return Room(tuple(spans), image.relocatable or image.movable, _needs_low(image, architecture))


def _needs_low(image: Image, architecture: Architecture) -> bool:
    """Whether an object of a 64-bit machine has addresses in fields of 32 bits."""
    if not image.relocatable or architecture.word == 4:
        return False
    kinds = {relocation.type for relocation in image.relocations}
    short = (architecture.fixups.get(kind) for kind in kinds)
    return any(f is not None and f.mask == 0xFFFFFFFF and not (f.pc_relative or f.base) for f in short)


def place(
    image: Image,
    program: ir.Program,
    audited: Mapping[str, Symbol],
    own: Mapping[str, Code],
    anonymous: Mapping[str, ir.Signature],
) -> Placed:
    """Put an image into a world of its own, with the declarations of a program around it. `audited`: where the
    trampolines are that are judged; `own`: trampolines that are compiled here, for checks to call."""
    architecture = program.target.architecture
    room = pages_of(image, architecture)
    offsets: dict[str, int] = {}
    end = 0x100
    for name, code in own.items():
        offsets[name] = end
        end = (end + len(code.code) + 0x3F) // 0x40 * 0x40
    deepest = max((code.frame for code in own.values()), default=0)
    wanted = [name for name in (*program.externs, *program.variables) if name not in own]
    thread = _thread_symbol(architecture)
    internal = {name for name, signature in program.externs.items() if signature.convention.go_abi}
    defined = definitions(image, [*wanted, *program.tables, *([thread] if thread else [])], internal) | dict(audited)
    entries = len(through_table(image, architecture)) + 0x20
    build = prepare(
        replace(program, functions={n: f for n, f in program.functions.items() if n not in audited}),
        offsets,
        end,
        deepest,
        anonymous,
        {},
        room,
        entries,
    )
    distance = build.plan.image[0].base - room.spans[0][0] if room.spans else 0
    symbols, pointers = dict(build.symbols), dict(build.pointers)
    for name, symbol in defined.items():
        assert symbol.address is not None
        symbols[name] = (symbol.address if symbol.code is None else symbol.code) + distance
        pointers[name] = symbol.address + distance
    symbols[TOC_SYMBOL] = _table_of_contents(image, distance, architecture, audited, symbols[TOC_SYMBOL])
    build = replace(build, program=program, symbols=symbols, pointers=pointers)
    linker = Linker(image, build, distance, architecture)
    by_section: dict[int, list[Relocation]] = {}
    ordered = sorted(image.sections, key=lambda s: s.address)
    for relocation in image.relocations:
        section = image.section(relocation.offset)
        if section is not None:
            by_section.setdefault(section.address, []).append(relocation)
    sections = []
    for section in ordered:
        relocations = by_section.get(section.address, [])
        fill = linker.linked if image.relocatable else linker.loaded
        data = fill(section, relocations) if relocations and section.data else section.data
        sections.append(replace(section, address=section.address + distance, data=data))
    changing = {s.address: s.data for s in sections if s.data and (s.writable or _holds_variable(s, program, symbols))}
    build = replace(build, images=changing, words=linker.words, copies=linker.copies)
    missing = {address: name for name, address in linker.missing.items()}
    return Placed(image, build, distance, tuple(sections), defined, missing, linker.unlinked)


def _thread_symbol(architecture: Architecture) -> str:
    for convention in architecture.conventions.values():
        symbol = getattr(convention.thread, "symbol", "")
        if symbol:
            return str(symbol)
    return ""


def _holds_variable(section: Section, program: ir.Program, symbols: Mapping[str, int]) -> bool:
    return any(section.address <= symbols[name] < section.end for name in program.variables)


def _table_of_contents(
    image: Image, distance: int, architecture: Architecture, audited: Mapping[str, Symbol], otherwise: int
) -> int:
    """64-Bit ELF V2 ABI, 3.3: 0x8000 bytes into the global offset table, where a file is linked. In ELFv1 descriptors
    have it in their second word."""
    if image.relocatable:
        return otherwise
    if TOC_SYMBOL in image.addresses:
        return image.addresses[TOC_SYMBOL] + distance
    for symbol in audited.values():
        if symbol.address is not None and symbol.code not in (None, symbol.address):
            return int.from_bytes(image.bytes_at(symbol.address + 8, 8), architecture.order) + distance
    table = next((section for section in image.sections if section.name == ".got"), None)
    return table.address + 0x8000 + distance if table is not None else otherwise
