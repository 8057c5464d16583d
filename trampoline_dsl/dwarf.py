"""DWARF: line tables and call frame information, in the linked sections of any file. Owns pyelftools' reader of it.

Sources: DWARF Debugging Information Format, version 5, sections 6.2 and 6.4; Linux Standard Base, "Exception Frames".
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from elftools.dwarf.callframe import FDE
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from .unwind import Description, Instruction, Table, UnwindError, table_of

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


# ---------------------------------------------------------------------------------------------------------------- lines


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
