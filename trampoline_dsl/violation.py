"""What a verdict is about: the obligations, and one way in which code breaks one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OBLIGATIONS = (
    "preserve",
    "sp",
    "align",
    "area",
    "args",
    "below",
    "bounds",
    "writes",
    "reads",
    "flow",
    "effect",
    "unwind",
    "landing",
)


@dataclass(frozen=True)
class Violation:
    """One way in which code breaks an obligation. `register` or `memory` says where it shows; values are whole."""

    obligation: str
    message: str
    register: str | None = None
    memory: int | None = None
    expected: int | None = None
    found: int | None = None
    address: int | None = None  # of the instruction, from the start of its function
    instruction: str | None = None
    source: str | None = None
    function: str = ""
    seed: int = 0
    check: str = ""
    advice: str = ""  # what to write instead, where that is clear

    def as_json(self) -> dict[str, Any]:
        def number(value: int | None) -> str | None:
            return None if value is None else f"{value:#x}"

        return {
            "obligation": self.obligation,
            "register": self.register,
            "memory": number(self.memory),
            "expected": number(self.expected),
            "found": number(self.found),
            "address": number(self.address),
            "instruction": self.instruction,
            "source": self.source,
            "function": self.function,
            "seed": self.seed,
            "check": self.check,
            "message": self.message,
            **({"advice": self.advice} if self.advice else {}),
        }
