"""Who is told of a run, who comes between its instructions, and who says what it should do where no source does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import ir
from .activations import Activation, Arrival
from .oracle import Event, Trace

if TYPE_CHECKING:
    from .judge import Execute
    from .run_state import RunState


class Watcher:
    """Is told of a run as it goes on, and changes nothing in it. `trampoline trace` is one."""

    def settled(self) -> None:
        """The instruction executed last has had its effect; the judge has done nothing yet."""

    def instruction(self, address: int) -> None:
        """An instruction is about to be executed."""

    def wrote(self, address: int, size: int) -> None:
        """The code stores."""

    def entered(self, activation: Activation) -> None:
        """A trampoline is about to begin: registers and memory are as its caller leaves them."""

    def arrived(self, arrival: Arrival) -> None:
        """A callee that the judge plays has been entered, and its script is about to run."""

    def answered(self, arrival: Arrival, result: int | None) -> None:
        """A callee's script has ended, and all that its convention gives it is about to be overwritten."""

    def left(self, activation: Activation, result: int | None) -> None:
        """A trampoline has returned."""


class Interruptions(ABC):
    """What comes between two instructions of a run, and leaves everything as it was. `deliver` has those there are."""

    @abstractmethod
    def due(self, run: Execute, address: int) -> bool:
        """Whether to interrupt the run before the instruction at `address`, which is no delay slot's."""

    @abstractmethod
    def happen(self, run: Execute, address: int) -> None:
        """The machine is at rest before that instruction. Violations go to the run."""


class Witness(Trace, ABC):
    """A trace that is made as the code runs, where no source says what it does: what the code calls is taken for what
    it should. `recorded`: it has been made, by a run of the same world, and others are compared with that one."""

    recorded: bool = False

    @abstractmethod
    def start(self, run: Execute) -> None:
        """A run begins."""

    @abstractmethod
    def begins(self, function: ir.Function, arguments: Sequence[int]) -> None:
        """A trampoline is entered with these arguments."""

    @abstractmethod
    def event(self, run: RunState, kinds: tuple[str, ...], signature: ir.Signature | None) -> Event | None:
        """What the code does at this moment, one of `kinds`: a call by a signature, of the kernel if there is none, or
        a return. None where it cannot be."""

    @abstractmethod
    def answered(self, run: RunState) -> None:
        """A callee that the judge plays is about to return; registers are as it leaves them."""

    @abstractmethod
    def permits(self, address: int, size: int) -> bool:
        """Whether the code may store there, besides its stack."""
