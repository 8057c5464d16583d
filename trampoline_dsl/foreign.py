"""A world with machine code in it that was not made here: a whole image, where it is, or anywhere if it may be moved.

Relocations are applied as a linker and a loader would. Functions that the source declares, and that the image defines,
are played by the judge at their own addresses; those that it does not define get an address from the judge, in the
tables that a loader would fill. All other code of the image runs as a part of the trampoline that enters it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import ir
from .disassemble import disassemble_one
from .image import Image, Section, Symbol, names_of
from .judge import Bench, Code
from .landing import promised
from .link import LinkError, got_entry, link
from .target import IMAGE_BASE, TOC_SYMBOL, Architecture, Control, Insn, Relocation
from .world import STUB_SPACING, Build, Room, prepare

_PAGE = 0x1000
_LONGEST = 16  # bytes of an instruction
_TOGETHER = 0x1_0000  # bytes between sections that are mapped in one piece all the same
# What a loader writes into a whole word: the address of a symbol, or where a part of the image itself is.
_ADDRESS = re.compile(
    r"R_\w+_(JUMP_SLOT|JMP_SLOT|GLOB_DAT|ADDR64|ABS64|ABS32|64|32)|R_MIPS_REL32(/R_MIPS_64)?|IAT|bind"
)
_OWN_ADDRESS = re.compile(r"R_\w+_RELATIVE(64)?|IMAGE_REL_BASED_\w+|rebase")
# What only tells the linker how code may be made shorter, or which instruction set a machine may lack.
_HINT = re.compile(
    r"R_MIPS_JALR|R_ARM_V4BX|R_PPC64_(ENTRY|TOCSAVE|PLTSEQ\w*)|R_\w+_NONE|R_390_RELAX\w*|IMAGE_REL_\w+_ABSOLUTE"
)


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


def definitions(image: Image, wanted: Iterable[str], internal: Collection[str] = ()) -> dict[str, Symbol]:
    """What the image defines of some names, as C and Go spell them: a public symbol before a local one; of Go's two
    entries of a function the one for ABI0, but for those that are called by the `internal` one; a plain name before a
    decorated one. What is local to a file of Go assembly (`name<>`) has no package, and comes last."""
    names: dict[str, set[str]] = {}
    for name in wanted:
        names.setdefault(name, set()).add(name)
        names.setdefault(name.rpartition(".")[2], set()).add(name)
    found: dict[str, tuple[tuple[bool, bool, bool, bool], Symbol]] = {}
    for symbol in image.symbols:
        if symbol.address is None or not symbol.name:
            continue
        for spelling in names_of(symbol.name):
            for name in names.get(spelling, ()):
                other_entry = symbol.name.endswith(".abi0") == (name in internal)
                rank = spelling != name, symbol.local, other_entry, symbol.name != name
                better = name not in found or rank < found[name][0]
                if (not rank[0] or symbol.local) and better and image.section(symbol.address) is not None:
                    found[name] = rank, symbol
    return {name: symbol for name, (_, symbol) in found.items()}


@dataclass
class _Linker:
    """Addresses for everything that relocations name."""

    image: Image
    build: Build
    distance: int
    architecture: Architecture
    missing: dict[str, int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)  # of the global offset table
    words: dict[int, int] = field(default_factory=dict)  # what is in them
    copies: dict[int, int] = field(default_factory=dict)  # of descriptors: where they go, and where they are from
    unlinked: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.codes = {s.name: s.code + s.local_entry for s in self.image.symbols if s.code is not None}
        self.behind = {  # descriptors, and the code that they lead to
            s.address: s.code for s in self.image.symbols if s.address is not None and s.code not in (None, s.address)
        }
        self.places: dict[str, tuple[int, int]] = {}
        self.pages: dict[str, tuple[int, int]] = {}
        public = {s.name for s in self.image.symbols if not s.local}
        self.local = {s.name for s in self.image.symbols if s.local} - public
        self.next_entry = self.build.plan.toc.base + 0x10 * self.architecture.word

    def place(self, name: str) -> tuple[int, int]:
        """Where a call from the same module enters a symbol, and what a pointer to it is."""
        found = self.places.get(name)
        if found is None:
            found = self.places[name] = self._place(name)
        return found

    def _place(self, name: str) -> tuple[int, int]:
        if name == "":
            return 0, 0
        address = self.image.addresses.get(name)
        if address is not None:
            if self.image.section(address) is None and not any(s.end == address for s in self.image.sections):
                return address, address  # it is absolute
            code = self.codes.get(name)
            return (address if code is None else code) + self.distance, address + self.distance
        own = self.tables().get(name)
        if own is not None:
            return own, own
        declared = next((one for one in names_of(name) if one in self.build.symbols), None)
        if declared is not None:
            return self.build.symbols[declared], self.build.pointers[declared]
        plan = self.build.plan
        place = self.missing.setdefault(name, plan.variables.end + 0x10_0000 + STUB_SPACING * len(self.missing))
        return place, place

    def tables(self) -> dict[str, int]:
        """Where what linkers define is."""
        base = {IMAGE_BASE: self.build.plan.image[0].base} if self.build.plan.image else {}
        return {**self.build.for_linker, TOC_SYMBOL: self.build.symbols[TOC_SYMBOL], **base}

    def entry(self, name: str) -> int:
        """The address of a symbol's entry in the global offset table."""
        if name not in self.entries:
            self.entries[name] = self.next_entry
            self.words[self.next_entry] = self.place(name)[1]
            self.next_entry += self.architecture.word
        return self.entries[name]

    def page(self, relocation: Relocation, rest: Sequence[Relocation]) -> str:
        """MIPS psABI, table 4-11, for local symbols: the entry has the upper half of an address, to which the signed
        lower half is added; in o32 that is in the instruction with LO16 that follows."""
        value = self.place(relocation.symbol)[1]
        if relocation.type == "R_MIPS_GOT16":
            low = next((r for r in rest if r.type == "R_MIPS_LO16" and r.symbol == relocation.symbol), None)
            value += (relocation.addend << 16) + (low.addend if low is not None else 0)
        else:
            value += relocation.addend
        page = value + 0x8000 & ~0xFFFF
        name = f"the page at {page:#x}"
        self.places[name] = self.pages[name] = page, page
        return name

    def _to_code(self, relocation: Relocation) -> Relocation:
        """A branch to a descriptor, which may be known as a place in a section, as one to the code behind it."""
        address = self.image.addresses.get(relocation.symbol)
        code = None if address is None else self.behind.get(address + relocation.addend)
        if code is None:
            return relocation
        name = f"the code at {code:#x}"
        self.places[name] = code + self.distance, code + self.distance
        return replace(relocation, symbol=name, addend=0)

    def linked(self, section: Section, relocations: Sequence[Relocation]) -> bytes:
        """The bytes of an object's section with its relocated fields filled."""
        fixups = self.architecture.fixups
        base = section.address + self.distance
        symbols = self.tables()
        branches: list[Relocation] = []
        others: list[Relocation] = []
        for index, relocation in enumerate(relocations):
            here = replace(relocation, offset=relocation.offset - section.address)
            if relocation.type == "R_MIPS_GOT_PAGE" or (
                relocation.type == "R_MIPS_GOT16" and relocation.symbol in self.local
            ):
                here = replace(here, symbol=self.page(relocation, relocations[index + 1 :]), addend=0)
                relocation = here
            elif relocation.type == "R_MIPS_GOT_OFST":
                here = replace(here, type="R_MIPS_LO16")  # what lies beyond the page is the low half
            if relocation.type == "R_PPC64_TOC":  # 64-bit PowerPC ELF ABI Supplement, 4.5.1: it names no symbol
                here = replace(here, symbol=TOC_SYMBOL)
            fixup = fixups.get(relocation.type)
            if fixup is not None and fixup.got:
                symbols[got_entry(relocation.symbol)] = self.entry(relocation.symbol)
            # A branch to a function goes to its code, whatever a pointer to it is.
            branch = fixup is not None and fixup.pc_relative and fixup.shift == 2
            if branch:
                here = self._to_code(here)
            (branches if branch else others).append(here)
        names = {r.symbol for r in (*branches, *others)} - set(self.pages)
        to_code = symbols | {name: self.place(name)[0] for name in names if name not in symbols}
        to_data = symbols | {name: self.place(name)[1] for name in names if name not in symbols}
        data = self._filled(section.data, branches, base, to_code)
        return self._filled(data, others, base, to_data)

    def _filled(self, data: bytes, relocations: Sequence[Relocation], base: int, symbols: Mapping[str, int]) -> bytes:
        rest = list(relocations)
        while True:
            try:
                return link(self.architecture, data, rest, base, symbols)
            except LinkError as error:
                self.unlinked[base + error.relocation.offset] = str(error)
                rest.remove(error.relocation)

    def loaded(self, section: Section, relocations: Sequence[Relocation]) -> bytes:
        """The bytes of a linked file's section as a loader leaves them."""
        data = bytearray(section.data)
        word, order = self.architecture.word, self.architecture.order
        for relocation in relocations:
            start = relocation.offset - section.address
            if _OWN_ADDRESS.fullmatch(relocation.type) or (
                not relocation.symbol and _ADDRESS.fullmatch(relocation.type)
            ):
                value = relocation.addend + self.distance
            elif _ADDRESS.fullmatch(relocation.type):
                code, pointer = self.place(relocation.symbol)
                if relocation.type == "R_PPC64_JMP_SLOT" and code != pointer:
                    # 64-bit PowerPC ELF ABI Supplement, "R_PPC64_JMP_SLOT": the loader copies the descriptor.
                    self.copies[relocation.offset + self.distance] = pointer
                    continue
                value = pointer + relocation.addend
            elif relocation.type.endswith("_NONE"):
                continue
            else:
                where = f"{relocation.type} against {relocation.symbol!r} at {relocation.offset:#x}"
                self.unlinked[relocation.offset + self.distance] = f"{where}: no loader fills it here"
                continue
            data[start : start + word] = (value % (1 << 8 * word)).to_bytes(word, order)
        return bytes(data)


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
    through_table = (
        {r.symbol for r in image.relocations if _is_got(architecture, r.type)} if image.relocatable else set()
    )
    deepest = max((code.frame for code in own.values()), default=0)
    wanted = [name for name in (*program.externs, *program.variables) if name not in own]
    thread = _thread_symbol(architecture)
    internal = {name for name, signature in program.externs.items() if signature.convention.go_abi}
    defined = definitions(image, [*wanted, *program.tables, *([thread] if thread else [])], internal) | dict(audited)
    entries = len(through_table) + 0x20
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
    linker = _Linker(image, build, distance, architecture)
    by_section: dict[int, list[Relocation]] = {}
    ordered = sorted(image.sections, key=lambda s: s.address)
    for relocation in image.relocations:
        section = image.section(relocation.offset)
        if section is not None and not _HINT.fullmatch(relocation.type):
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


def _is_got(architecture: Architecture, kind: str) -> bool:
    fixup = architecture.fixups.get(kind)
    return fixup is not None and fixup.got


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


class ForeignBench(Bench):
    """A machine with an image in it. `codes` has what is judged, at its addresses in the world, and what was compiled
    here besides."""

    foreign = True

    def __init__(self, placed: Placed, codes: Mapping[str, Code], own: Mapping[str, Code]) -> None:
        self.inside = placed
        self.image_codes = {name for name in codes if name not in own}
        self.helpers: dict[str, None] = {}  # other code of the image that has run
        self.unlinked_read: set[int] = set()  # fields that could not be filled
        self.called: set[int] = set()  # places behind calls that have been executed
        self.controls: dict[int, Control] = {}
        self.sizes: dict[int, int] = {}
        super().__init__(placed.build, {**codes, **own}, {})
        for name, table in placed.build.program.tables.items():
            if (symbol := placed.defined.get(name)) is not None and symbol.code is not None:
                stride = (placed.image.end(symbol) - symbol.code) // table.count
                self.strides[name] = self.strides[symbol.name] = stride
        self.protection = promised(self.architecture, placed.image.properties)
        for name in self.image_codes:
            symbol = placed.defined[name]
            local = placed.build.symbols[name] + symbol.local_entry
            self.locals[name] = local
            self.entries[local] = name
        self.judged = {
            placed.build.symbols[name] + offset for name in self.image_codes for offset in codes[name].offsets
        }
        for name, symbol in placed.defined.items():
            if name in placed.build.program.externs and symbol.code is not None:
                at = placed.build.symbols[name]
                self.stubs[at] = self.stubs[at + symbol.local_entry] = name
        # What a function finds its module's table by is not everybody's: its convention says whether it is kept.
        target = placed.build.program.target
        tables = {target.linked(linkage).architecture.got for linkage in target.architecture.linkages}
        self.reserved -= tables - {None}
        for section in placed.sections:
            self.machine.write(section.address, section.data)
        if placed.unlinked:
            self.machine.on_read(self._read)
        for region in placed.build.plan.image:
            self.machine.on_instruction(self._step_image, region.base, region.end - 1)
        self.clean = self._executable()

    def _place(self, code: Code) -> None:
        if code.name in self.image_codes:  # it is there already
            self._list(code, self.build.symbols[code.name])
        else:
            super()._place(code)

    def behind(self, address: int) -> int:
        return address + self.sizes[address] if address in self.sizes else super().behind(address)

    def is_code(self, address: int) -> bool:
        section = self.inside.section(address)
        return super().is_code(address) or (section is not None and section.executable)

    def goes_on(self, before: int, address: int) -> bool:
        return address in self.called or before + self.sizes.get(before, 0) == address

    def enters_through_pointer(self, executed: Sequence[int]) -> bool:
        for address in reversed(executed[-2:]):
            control = self.control(address)
            if control is not None and control.transfer in ("call", "jump", "branch"):
                return control.target is None
        return False

    def by_linker(self, executed: Sequence[int]) -> bool:
        return bool(executed) and executed[-1] not in self.judged and self.inside.section(executed[-1]) is not None

    def why(self, address: int | None) -> str:
        name = self.inside.missing.get(address - address % STUB_SPACING) if address is not None else None
        if name is None:
            return ""
        return f"reaches for `{name}`, which nobody declares: `extern {name}(...) using CONVENTION`, or `: TYPE`"

    def unfilled(self, executed: Iterable[int]) -> str:
        """A field that could not be filled, of code that has run or of data that it has read."""
        ran = set(executed)
        for place, reason in self.inside.unlinked.items():
            section = self.inside.section(place)
            in_code = section is not None and section.executable
            if place in self.unlinked_read or (in_code and any(place - back in ran for back in range(_LONGEST))):
                return f"a relocation of {self.inside.image.name} is not known here: {reason}"
        return ""

    def _read(self, address: int, size: int, pc: int) -> None:
        """The code loads: perhaps what could not be filled."""
        for place in range(address - 7, address + size):
            if place in self.inside.unlinked:
                self.unlinked_read.add(place)

    def control(self, address: int) -> Control | None:
        """What the instruction at an address of the image does to the flow of control."""
        if address not in self.controls and not self._decode(address):
            return None
        return self.controls[address]

    def _decode(self, address: int) -> bool:
        """False where there is no code of the image."""
        section = self.inside.section(address)
        if section is None or not section.executable:
            return False
        code = section.data[address - section.address :][:_LONGEST]
        found = disassemble_one(self.architecture, code, address)
        self.sizes[address] = found.size
        self.controls[address] = control = self.architecture.control(code[: found.size], found.text, address)
        if address not in self.listing:
            insn = Insn(found.text, transfer=control.transfer, delay_slot=control.delay_slot)
            name, offset = self._place_name(address, section)
            source = self.inside.source(address)
            sources = {offset: source} if source else {}
            file = self.inside.image.name
            listed = Code(name, code[: found.size], (), (insn,), (offset,), 0, file, sources=sources)
            self.listing[address] = listed, 0
            if control.transfer == "return":
                self.leaving.add(address + found.size if control.delay_slot else address)
        return True

    def _place_name(self, address: int, section: Section) -> tuple[str, int]:
        """The function that an address is in, or else the section, and how far in."""
        symbol = self.inside.image.function_at(address - self.inside.distance)
        if symbol is not None and symbol.code is not None:
            return symbol.name, address - self.inside.distance - symbol.code
        return section.name, address - section.address

    def _step_image(self, address: int, size: int) -> None:
        run = self.run
        if run is None:
            return
        if address in self.stubs and run.executed:
            run.stub(address)
            return
        control = self.control(address)
        if control is None:
            run.astray(address)
            return
        if not run.executed:
            self.called.clear()
        if address not in self.judged and self.listing[address][0].name not in self.strides:
            self.helpers[self.listing[address][0].name] = None
        run.step(address)
        if control.transfer == "call":
            behind = address + self.sizes[address]
            if control.delay_slot and self.control(behind) is not None:
                behind += self.sizes[behind]
            self.called.add(behind)
