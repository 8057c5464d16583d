"""What an assembler engine is: one statement in, its bytes out."""

from __future__ import annotations

from typing import Protocol

from .target import Engines


class Refused(Exception):
    """An engine gives no code for a statement; the text says why."""


class Engine(Protocol):
    name: str

    def encode(self, engines: Engines, statement: str, address: int) -> bytes:
        """The statement's bytes when it lies at `address`. Raises `Refused`; never returns nothing."""
        ...
