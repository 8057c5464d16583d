"""Operations on virtual registers: what the lowering makes and the allocator and the selector read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .diagnostics import Span
from .target import BinaryOp, Condition, Convention, Register


@dataclass(eq=False, slots=True)
class VirtualRegister:
    """A value in some register: an integer of a word, or a float of `bits` bits. `fixed` is a physical register that
    is never allocated (the stack pointer, the thread register): all of those have the number 0, and each other value of
    a body has one of its own. `given_name` tells people what it is, or where that is written. Compared by identity."""

    number: int
    given_name: str | Span
    floating: bool = False
    fixed: Register | None = None
    byte: bool = False  # its low byte is stored
    temporary: bool = False  # made by spilling; spilled again only if nothing else is left
    short: bool = False  # made for one operation; spilling it would not help
    bits: int = 64  # of a float

    @property
    def name(self) -> str:
        return name_of(self.given_name)


def name_of(given: str | Span) -> str:
    """The name that a person is told of a value: its text, where that is short."""
    if isinstance(given, str):
        return given
    text = given.text
    return text if len(text) <= 24 and "\n" not in text else "value"


@dataclass(eq=False, slots=True)
class Home:
    """A place in a frame for a value. `context` 0 is the stack that the trampoline was entered on, others are those
    of `on stack` blocks. `incoming`: bytes above the CFA if the value arrived in memory and stays there.

    Loads and stores of a home have its frame's stack pointer as their last operand, where that is not sp itself: in an
    `on stack` block, for a home on the stack that was left."""

    name: str
    size: int
    context: int
    reason: str
    pin: int | Literal["bottom"] | None = None
    incoming: int | None = None
    bits: int = 0  # of a load or a store there; 0: as many as the register has
    signed: bool = False
    offset: int = -1  # above sp, once laid out
    span: Span | None = None  # where it is declared, if it is
    alignment: int = 0  # in bytes; 0: as its size is


DECLARED = "declared in the frame"  # the reason of a home that the source names

THREAD = "g"  # the symbol of loads and stores of g itself, where a thread-local word holds its address

Kind = Literal[
    "enter",  # defs: parameters in their registers
    "move",
    "constant",
    "symbol",
    "symbol_load",
    "load",
    "store",
    "home_load",
    "home_store",
    "home_address",
    "outgoing",  # store at sp + value
    "out_load",  # load from sp + value
    "incoming_store",  # store at CFA + value
    "incoming_load",
    "binary",
    "extend",  # of the low `bits`; those below `value` are widened so already
    "thread_load",
    "thread_base",
    "thread_store",  # uses: the value; and what the slot's symbol holds, where it has one, or a `thread_base`
    "entry_sp",
    "words",  # the address at CFA + value
    "pushed_pc",
    "branch",
    "jump",
    "label",
    "call",
    "tail_call",
    "return",
    "resume",
    "trap",
    "enter_stack",
    "leave_stack",
    "frame_out",  # what the frame keeps for the caller, to uses[0] + value; defs: a register for each word on the way
    "frame_in",
    "switch_stack",  # uses: the other frame's stack pointer
    "asm",
]

REMOVABLE = frozenset(
    {
        "move",
        "constant",
        "symbol",
        "symbol_load",
        "load",
        "home_load",
        "home_address",
        "out_load",
        "incoming_load",
        "binary",
        "extend",
        "thread_load",
        "entry_sp",
        "words",
        "pushed_pc",
    }
)
STORES = frozenset({"store", "home_store", "outgoing", "incoming_store"})  # of their first operand
ENDS_BLOCK = frozenset({"branch", "jump", "tail_call", "return", "resume", "trap"})
NO_FALL_THROUGH = frozenset({"jump", "tail_call", "return", "resume", "trap"})


@dataclass(slots=True)
class Operation:
    """One operation. `value` is an offset or an immediate (`immediate` says that it is the second operand).

    `places` gives, for each of `uses` (calls, jumps, returns, asm), the register it has to be in, None for the
    callee's address; `results` does so for `defs`. `clobbers` are the registers that may come back changed. `narrow`:
    the low bits that matter of what goes to a place, where nothing is promised of the others.
    """

    kind: Kind
    defs: tuple[VirtualRegister, ...] = ()
    uses: tuple[VirtualRegister, ...] = ()
    context: int = 0
    span: Span | None = None
    value: int = 0
    immediate: bool = False
    bits: int = 0
    signed: bool = False
    operator: BinaryOp | None = None
    condition: Condition | None = None
    label: str = ""
    symbol: str = ""
    home: Home | None = None
    places: tuple[Register | None, ...] = ()
    results: tuple[Register, ...] = ()
    clobbers: frozenset[Register] = frozenset()
    convention: Convention | None = None
    text: tuple[str, ...] = ()
    narrow: Mapping[Register, int] | None = None
    pops: bool = False  # a return: the last operand is how many bytes

    def with_registers(self, defs: tuple[VirtualRegister, ...], uses: tuple[VirtualRegister, ...]) -> Operation:
        return Operation(
            self.kind,
            defs,
            uses,
            self.context,
            self.span,
            self.value,
            self.immediate,
            self.bits,
            self.signed,
            self.operator,
            self.condition,
            self.label,
            self.symbol,
            self.home,
            self.places,
            self.results,
            self.clobbers,
            self.convention,
            self.text,
            self.narrow,
            self.pops,
        )


@dataclass(slots=True)
class Context:
    """One stack that the body runs on. `outgoing`: bytes above sp that calls need there; those below
    `outgoing_start` are nobody's arguments."""

    number: int
    parent: int
    outgoing: int = 0
    outgoing_start: int = 1 << 16
    pushes: bool = False
    back_chain: bool = False  # a callee's convention wants the word at sp to point to the frame above
    saved_sp: Home | None = None
    exchange: Home | None = None  # for a float, where floats change places and all registers are taken


class Lost(dict[Register, int]):
    """The bits of registers that are lost. Never changed once made, and compared by identity: those that follow from
    the same are the same, and so what follows from them can be kept."""

    __slots__ = ()
    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__  # type: ignore[assignment]


@dataclass(slots=True)
class Body:
    """A trampoline before registers are chosen."""

    name: str
    operations: list[Operation]
    contexts: list[Context]
    homes: list[Home]
    lost: Lost  # the bits of registers that calls and asm change, anywhere
    alignment: int  # what every call in it needs of sp, in bytes
    convention: Convention
    calls: bool
    bottom_free: bool  # no call on the first stack uses the word at sp
    save: bool
    uses_toc: bool  # of what its caller gave it
    table: bool  # it is entered through a table
    words: tuple[int, tuple[Register, ...]] | None  # `Convention.words`, if it takes any number
    bare: bool  # it never goes back to its own caller: it needs no frame until it goes on in another call's
    count: int  # the highest number of a virtual register
    span: Span = field(repr=False)

    def new_register(self, name: str | Span, floating: bool, bits: int) -> VirtualRegister:
        self.count += 1
        return VirtualRegister(self.count, name, floating, bits=bits)
