"""Machine code from elsewhere as the judge takes it: bytes to instructions, with what they do to the flow of control.

What control can reach from the entry is code. What it cannot is data, or padding: it need not run. Where an instruction
goes to an address that it does not say (a jump table), what is not marked as data and does not look like padding is
code too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .disassemble import data_text, disassemble_one, instruction_unit
from .image import Image, ImageError, Symbol
from .link import LinkError, link
from .machine_code import Code
from .pdata import Entries
from .target import Control, Insn, Target
from .unwind import Table, UnwindError

_MOST_BYTES = 1 << 16  # of one function
_LONGEST = 16  # bytes of an instruction
_LONG_GAP = 64  # bytes of data that are not listed one by one
# ELF for the Arm Architecture and for the Arm 64-bit Architecture, "Mapping symbols".
_MAPPING = re.compile(r"\$([adtx])(\..*)?")
_PADDING = re.compile(r"(data16 )*(nop|int3|xchg ax, ax|lea (\w+), \[\3( \+ 0)?\]|bcr 0, %r0|nopr).*")


def code_of_function(image: Image, symbol: Symbol, target: Target) -> Code:
    """A function of an image as the judge takes it: its bytes as they are in the file, its instructions, and the
    relocations in it, whose offsets count from its start. Nothing is known of its frame: 0. Raises ImageError with
    the reason why it cannot be decoded."""
    return _Function(image, symbol, target).code()


class _Function:
    def __init__(self, image: Image, symbol: Symbol, target: Target) -> None:
        if symbol.mode:
            raise ImageError(
                f"`{symbol.name}` in {image.name} is {symbol.mode} code, which is not supported",
                f"{target.name} is judged in the machine's first instruction set alone",
            )
        if symbol.code is None:
            raise ImageError(f"`{symbol.name}` in {image.name} is no code")
        self.image, self.symbol = image, symbol
        self.architecture = target.architecture
        self.start = symbol.code
        self.end = image.end(symbol)
        section = image.section(self.start)
        if section is None or not section.executable:
            raise ImageError(f"`{symbol.name}` in {image.name} is in no section of code")
        if self.end - self.start > _MOST_BYTES:
            raise ImageError(
                f"`{symbol.name}` in {image.name} has {self.end - self.start} bytes; "
                f"what is judged has {_MOST_BYTES} at most"
            )
        unit = instruction_unit(self.architecture.engines)
        if self.start % unit:
            raise ImageError(f"{self.start:#x} is not a multiple of {unit}, as an instruction's address has to be")
        self.bytes = image.bytes_at(self.start, self.end - self.start)
        self.relocations = {
            r.offset: replace(r, offset=r.offset - self.start)
            for r in image.relocations
            if self.start <= r.offset < self.end
        }
        self.marks = _marks(image, self.start, self.end)
        self.filled: set[int] = set()  # relocations by offset
        self.linked = self._linked()
        self.unknown = False  # whether it goes to an address that the instruction does not say
        self.insns: dict[int, Insn] = {}  # by address
        self.sizes: dict[int, int] = {}
        self.controls: dict[int, Control] = {}  # of what has been followed

    def code(self) -> Code:
        self._follow([self.start, self.start + self.symbol.local_entry])
        if self.unknown:
            self._follow(self._addresses_taken())
            self._sweep()
        items = self.insns | dict(self._data())
        labels = {insn.target for insn in self.insns.values()}
        local_entry = self.start + self.symbol.local_entry
        instructions: list[Insn] = []
        offsets: list[int] = []
        for address in sorted(items):
            made = [items[address]]
            if (name := _label(address - self.start)) in labels:
                made.insert(0, Insn("", label=name))
            if address == local_entry != self.start:
                made.insert(0, Insn(".localentry", label=f"{_label(address - self.start)}.entry"))
            instructions += made
            offsets += [address - self.start] * len(made)
        relocations = tuple(self.relocations[offset] for offset in sorted(self.relocations))
        return Code(
            self.symbol.name,
            self.bytes,
            relocations,
            tuple(instructions),
            tuple(offsets),
            0,
            self.image.name,
            unwinding=self._unwinding(),
        )

    def _unwinding(self) -> Table | Entries | None:
        if self.image.unwindings is None:
            return None
        try:
            return self.image.unwindings.of(self.start, self.end)
        except UnwindError as error:
            return Table((0,), (None,), str(error))

    def _linked(self) -> bytes:
        """The code with what the image itself can fill in; the rest stays as it is."""
        code, addresses = self.bytes, self.image.addresses
        # Where function pointers point to descriptors, so does a function's symbol; a branch to it leads to the code.
        branches = {**addresses, **{s.name: s.code for s in self.image.symbols if s.code not in (None, s.address)}}
        for relocation in self.relocations.values():
            if relocation.symbol in addresses:
                fixup = self.architecture.fixups.get(relocation.type)
                places = branches if fixup is not None and fixup.pc_relative else addresses
                try:
                    code = link(self.architecture, code, [relocation], self.start, places)
                except LinkError:
                    continue  # it needs a table that a linker makes
                self.filled.add(relocation.offset)
        return code

    def _follow(self, entries: Iterable[int]) -> None:
        """Decode what control can reach from these addresses."""
        waiting = list(entries)
        while waiting:
            address = waiting.pop()
            if address in self.controls or not self._is_inside(address):
                continue
            control = self.controls[address] = self._decode(address)
            following = address + self.sizes[address]
            if control.delay_slot and self._is_inside(following):
                self._decode(following)
                following += self.sizes[following]
            if control.goes_on:
                waiting.append(following)
            if control.target is not None:
                waiting.append(control.target)

    def _decode(self, address: int) -> Control:
        found = disassemble_one(self.architecture, self.linked[address - self.start :][:_LONGEST], address)
        text, size = found.text, found.size
        code = self.linked[address - self.start :][:size]
        control = self.architecture.control(code, text, address)
        if control.target is None and control.transfer in ("jump", "branch"):
            self.unknown = True
        offset = address - self.start
        inside = [r for r in self.relocations.values() if offset <= r.offset < offset + size]
        relocation = replace(inside[0], offset=inside[0].offset - offset) if inside else None
        if control.target is not None and inside and inside[0].offset not in self.filled:
            # The field says nothing yet.
            control = replace(control, target=None)
            text = f"{text.split()[0]} {inside[0].symbol}"
        following = address + size * (2 if control.delay_slot else 1)
        if control.transfer == "call" and control.target == following:
            control = replace(control, transfer="none", target=None)  # how the program counter is found out
        elif control.target is not None and not self._is_inside(control.target):
            callee = self.image.function_at(control.target)
            if callee is not None and callee.code == control.target:
                text = f"{text} <{callee.name}>"
        self.sizes[address] = size
        target = control.target
        self.insns[address] = Insn(
            text,
            transfer=control.transfer,
            target=_label(target - self.start) if target is not None and self._is_inside(target) else None,
            relocation=relocation,
            delay_slot=control.delay_slot,
        )
        return control

    def _addresses_taken(self) -> set[int]:
        """Places inside the function whose addresses are in the image: entries of jump tables."""
        fixups, addresses = self.architecture.fixups, self.image.addresses
        words = {t for t, fixup in fixups.items() if fixup.size == self.architecture.word and not fixup.pc_relative}
        relocations = [r for r in self.image.relocations if r.type in words and r.symbol in addresses]
        return {addresses[r.symbol] + r.addend for r in relocations}

    def _sweep(self) -> None:
        """Decode what is left, but for data and padding."""
        address = self.start
        while address < self.end:
            if address in self.sizes:
                address += self.sizes[address]
                continue
            found = disassemble_one(self.architecture, self.linked[address - self.start :][:_LONGEST], address)
            padding = _PADDING.fullmatch(found.text) or not any(self.linked[address - self.start :][: found.size])
            if not (found.text.startswith(".") or padding) and self._is_inside(address):
                self._follow([address])
            address += found.size

    def _data(self) -> Iterator[tuple[int, Insn]]:
        """What is not code, in directives."""
        starts = sorted(self.insns)
        ends = [self.start, *(start + self.sizes[start] for start in starts)]
        unit = max(4, instruction_unit(self.architecture.engines))
        for at, until in zip(ends, [*starts, self.end], strict=True):
            if until - at > _LONG_GAP:
                yield at, Insn(f".skip {until - at}")
                continue
            while at < until:
                size = min(unit - at % unit, until - at)
                part = self.linked[at - self.start : at - self.start + size]
                yield at, Insn(data_text(part, self.architecture.order))
                at += size

    def _is_inside(self, address: int) -> bool:
        """Whether it can be an instruction of the function."""
        return self.start <= address < self.end and self._is_aligned(address) and not self._is_marked(address)

    def _is_aligned(self, address: int) -> bool:
        return not address % instruction_unit(self.architecture.engines)

    def _is_marked(self, address: int) -> bool:
        index = bisect_right(self.marks, address, key=lambda mark: mark[0]) - 1
        return index >= 0 and self.marks[index][1]


def _marks(image: Image, start: int, end: int) -> list[tuple[int, bool]]:
    """From where on data (or else code) is marked as such, in order."""
    found: dict[int, bool] = {}
    for symbol in image.symbols:
        if symbol.address is not None and start <= symbol.address < end and (kind := _MAPPING.fullmatch(symbol.name)):
            found[symbol.address] = kind[1] == "d"
    return sorted(found.items())


def _label(offset: int) -> str:
    return f".L{offset:x}"
