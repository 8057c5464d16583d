"""Which names are in sight at a place in a body, and that each is declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import ir
from .diagnostics import Report, Span


def define(names: dict[str, Span], name: str, span: Span, report: Report) -> None:
    """Note a declaration; a second one of the same name is reported."""
    if name in names:
        report.error("R002", f"`{name}` is declared twice", span, related=[(names[name], "first here")])
    else:
        names[name] = span


@dataclass(slots=True)
class Scope:
    """Names in sight, innermost last. `stack`: how many `on stack` blocks are around; `pushed`: one pushes a PC."""

    variables: dict[str, ir.Variable] = field(default_factory=dict)
    set_slots: set[ir.Variable] = field(default_factory=set)
    stack: int = 0
    pushed: bool = False
    loop: int = 0  # the `stack` depth of the innermost loop, -1 outside
    in_loop: bool = False
    check: bool = False
    handler: bool = False

    def inner(self) -> Scope:
        return Scope(
            dict(self.variables),
            set(self.set_slots),
            self.stack,
            self.pushed,
            self.loop,
            self.in_loop,
            self.check,
            self.handler,
        )
