"""A machine with machine code in it that was not made here: a whole image, linked and loaded.

Functions that the source declares, and that the image defines, are played by the judge at their own addresses; those
that it does not define get an address from the judge, in the tables that a loader would fill. All other code of the
image runs as a part of the trampoline that enters it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .bench import Bench
from .disassemble import disassemble_one
from .image import Section
from .landing import promised
from .machine_code import Code
from .placed import Placed
from .target import Control, Insn
from .world import STUB_SPACING

_LONGEST = 16  # bytes of an instruction


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
