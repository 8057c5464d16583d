"""What an outside program said of one target: a cell of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# "found": what the judge says of code that is not ours; the README says the same.
State = Literal["held", "found", "failed", "not applicable"]


@dataclass(frozen=True)
class Cell:
    target: str
    column: str  # "Go 1.24: own tests"
    state: State
    text: str  # "15 passed, 3 skipped", or the reason

    def __str__(self) -> str:
        return f"{self.target:14} {self.column:26} {self.state:14} {self.text}"


def matrix(cells: Sequence[Cell]) -> str:
    """A table in Markdown: a row for each target, a column for each thing that was asked; nothing if nothing was."""
    if not cells:
        return ""
    targets = sorted({cell.target for cell in cells})
    columns = list(dict.fromkeys(cell.column for cell in cells))
    said = {(cell.target, cell.column): cell for cell in cells}
    lines = [f"| target | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for target in targets:
        texts = [shown(said[target, column]) if (target, column) in said else "" for column in columns]
        lines.append(f"| {target} | {' | '.join(texts)} |")
    return "\n".join(lines)


def shown(cell: Cell) -> str:
    """What is in the table for a cell."""
    first = cell.text.splitlines()[0] if cell.text else ""
    return {"held": first or "held", "found": first, "failed": f"**failed**: {first}"}.get(cell.state, "–")


def in_matrix(text: str) -> dict[tuple[str, str], str]:
    """What tables in Markdown say, by target and column."""
    said: dict[tuple[str, str], str] = {}
    columns: list[str] = []
    for line in text.splitlines():
        target, *texts = [part.strip() for part in line.strip("|").split("|")]
        if target == "target":
            columns = texts
        elif columns and texts and not target.startswith("-"):
            said |= {(target, column): one for column, one in zip(columns, texts, strict=True)}
    return said
