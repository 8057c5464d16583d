"""Relocations of an image as a linker and a loader apply them, in a world: every name has an address there.

What the image refers to and nobody declares gets one that is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .image import Image, Section, names_of
from .link import LinkError, got_entry, link
from .target import IMAGE_BASE, TOC_SYMBOL, Architecture, Relocation
from .world import STUB_SPACING, Build

# What a loader writes into a whole word: the address of a symbol, or where a part of the image itself is.
_ADDRESS = re.compile(
    r"R_\w+_(JUMP_SLOT|JMP_SLOT|GLOB_DAT|ADDR64|ABS64|ABS32|64|32)|R_MIPS_REL32(/R_MIPS_64)?|IAT|bind"
)
_OWN_ADDRESS = re.compile(r"R_\w+_RELATIVE(64)?|IMAGE_REL_BASED_\w+|rebase")


def through_table(image: Image, architecture: Architecture) -> set[str]:
    """What an object refers to by entries of the global offset table, which a linker makes."""
    if not image.relocatable:
        return set()
    fixups = architecture.fixups
    return {r.symbol for r in image.relocations if (fixup := fixups.get(r.type)) is not None and fixup.got}


@dataclass
class Linker:
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
