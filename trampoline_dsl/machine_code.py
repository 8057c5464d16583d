"""Machine code to be judged, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .pdata import Entries
from .target import Insn
from .unwind import Table


@dataclass(frozen=True)
class Code:
    """Machine code to be judged: one trampoline's bytes, its listing, and the size of its frame; or a table's, and the
    bytes from an entry to the next."""

    name: str
    code: bytes
    relocations: tuple[Any, ...]
    instructions: tuple[Insn, ...]
    offsets: tuple[int, ...]
    frame: int
    file: str
    stride: int = 0
    # Directives, each with the offset that it stands at, or what a file has.
    unwinding: tuple[tuple[int, str], ...] | Table | Entries | None = None
    index: tuple[tuple[int, str], ...] | None = None  # directives of another table, which is read at run time
    sources: Mapping[int, str] = field(default_factory=dict, compare=False)  # by offset: where else a line is from

    def source(self, index: int) -> str:
        """The line that an instruction comes from."""
        insn = self.instructions[index]
        if insn.line:
            return f"{self.file}:{insn.line}:{insn.column}"
        return self.sources.get(self.offsets[index], self.file)

    @property
    def local_entry(self) -> int:
        """Where callers of the same module enter: bytes from the start, behind what sets the table of contents up."""
        for insn, offset in zip(self.instructions, self.offsets, strict=True):
            if insn.label is not None and insn.text:
                return offset
        return 0
