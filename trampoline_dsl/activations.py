"""Calls that have not returned: of trampolines that run, of callees that the judge plays, and of scripts that wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import ir
from .interpret import Execution, Request, Run
from .oracle import Event
from .target import Register


@dataclass(slots=True)
class Activation:
    """A trampoline that is running. `sp`: at its first instruction; `cfa`: of its caller's call."""

    function: ir.Function
    cfa: int
    sp: int
    return_address: int
    registers: dict[Register, int]
    outside: dict[int, bytes]  # the caller's words that nobody may touch, by address
    stack_bytes: int  # above the CFA: what its arguments and its result take there, and what lies below them
    number: int = 0  # how many have begun before it
    resume: Waiting | None = None  # what goes on when it returns


@dataclass(slots=True)
class Waiting:
    """A callee's script that has called a trampoline and waits for it."""

    script: Run
    execution: Execution
    handler: ir.Handler | None
    before: dict[ir.Variable, int | None]
    call: Arrival
    registers: Mapping[Register, int]
    request: Request
    thread: int | None


@dataclass(slots=True)
class Arrival:
    """A call that has reached a callee which the judge plays."""

    name: str
    signature: ir.Signature
    event: Event
    cfa: int
    return_address: int
    number: int
    jumped: bool
    left: bool = (
        False  # the trampoline's frame is gone: it has jumped, or code from elsewhere does so where its source calls
    )
