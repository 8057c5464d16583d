"""The program as one target sees it: names resolved, offsets known, types checked. Still structured, no registers.

Both the lowering and the reference interpreter start from here. A value of an integer type is always held widened to
at least a machine word according to its type; 64-bit values on 32-bit machines are held whole, and the lowering splits
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cache, lru_cache
from typing import Literal

from .diagnostics import Span
from .records import dataclass
from .target import Convention, Register, Target, ValueType

_value_type = lru_cache(maxsize=64)(ValueType)


@dataclass(frozen=True, slots=True)
class Type:
    """A scalar type: `bits` of an integer, a pointer or a float. `struct` names what a pointer points to."""

    name: str
    kind: Literal["int", "pointer", "float"]
    bits: int
    signed: bool = False
    struct: str | None = None

    @property
    def value_type(self) -> ValueType:
        return _value_type("float" if self.kind == "float" else "int", self.bits, self.signed)

    @property
    def bytes(self) -> int:
        return self.bits // 8

    def __str__(self) -> str:
        return f"ptr<{self.struct}>" if self.struct else self.name


@dataclass(frozen=True, slots=True)
class StructField:
    """`type` is a scalar, or the name of a nested struct; `count` elements if it is an array."""

    name: str
    type: Type | str
    offset: int
    size: int
    count: int | None = None


@dataclass(frozen=True, slots=True)
class StructLayout:
    """`size` and `alignment` in bytes; a struct whose end is unknown has the size of what is known of it."""

    name: str
    fields: Mapping[str, StructField]
    size: int
    alignment: int


@dataclass(frozen=True, eq=False, slots=True)
class Variable:
    """A parameter, a `let`, or a frame slot; "struct" is a slot of a struct type, which `type` is a pointer to, of
    `size` bytes. Compared by identity."""

    name: str
    type: Type
    kind: Literal["parameter", "local", "slot", "struct", "object", "stack"]
    span: Span
    pin: int | Literal["bottom"] | None = None  # of a slot: bytes above sp
    size: int = 0  # of a struct in the frame, in bytes
    alignment: int = 0  # of a struct in the frame, in bytes


# ------------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Constant:
    """A number."""

    value: int  # in the range of `type`, as Python sees it: negative if the type is signed and it is
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Read:
    """The value of a variable."""

    variable: Variable
    span: Span = field(compare=False)

    @property
    def type(self) -> Type:
        return self.variable.type


@dataclass(frozen=True, slots=True)
class Load:
    """What is in memory at `address + offset`."""

    address: Expression
    offset: int
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """Two words make one."""

    operator: Literal["add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul"]
    left: Expression
    right: Expression
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Convert:
    """The value of `operand` as `type`: cut off or widened as the types say."""

    operand: Expression
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Thread:
    """The runtime's `g`."""

    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ThreadPlace:
    """The thread-local word that holds the address of the word that holds `g`, or null."""

    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SymbolAddress:
    """Where a function or an extern variable is."""

    symbol: str
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SlotAddress:
    """Where a struct in the frame is."""

    variable: Variable
    span: Span = field(compare=False)

    @property
    def type(self) -> Type:
        return self.variable.type


@dataclass(frozen=True, slots=True)
class Special:
    """`sp`; inside `on stack`: `entry sp` (the stack pointer that the block was entered with, wherever that stack is
    by now) and `pushed pc` (the word where the PC was pushed); in a check: `caller pc` and `caller sp`."""

    what: Literal[
        "sp",
        "entry sp",
        "pushed pc",
        "caller pc",
        "caller sp",
        "table index",
        "argument words",
        "argument count",
        "any",
    ]
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class StackPlace:
    """In a check: the highest address of a further stack."""

    name: str
    type: Type
    span: Span = field(compare=False)


Expression = (
    Constant
    | Read
    | Load
    | Operation
    | Convert
    | Thread
    | ThreadPlace
    | SymbolAddress
    | SlotAddress
    | Special
    | StackPlace
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Integers of the same type; `condition` already tells signed from unsigned."""

    condition: Literal["eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge"]
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Both:
    """Both conditions hold; the second is looked at only if the first does."""

    left: Condition
    right: Condition
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Either:
    """One of the conditions holds; the second is looked at only if the first does not."""

    left: Condition
    right: Condition
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Negated:
    """The condition does not hold."""

    operand: Condition
    span: Span = field(compare=False)


Condition = Comparison | Both | Either | Negated

# -------------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Assign:
    """A variable gets a value."""

    variable: Variable
    value: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Store:
    """Memory at `address + offset` gets a value."""

    address: Expression
    offset: int
    value: Expression
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SetThread:
    """The thread's `g` gets a value."""

    value: Expression
    span: Span = field(compare=False)


SYSTEM_CALL = "system call"  # the callee's name where that is the kernel: no function's


@dataclass(frozen=True, slots=True)
class SetThreadPlace:
    """The word that `ThreadPlace` reads gets a value."""

    value: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """`callee` is a symbol or an address. `clobbers`: None for all that the convention lets the callee change. A system
    call's first argument is its number."""

    callee: str | Expression
    arguments: tuple[Expression, ...]
    convention: Convention
    result: Type | None
    variable: Variable | None
    clobbers: frozenset[Register] | None
    span: Span = field(compare=False)
    at: Expression | None = None  # in a check: the stack pointer to call on


@dataclass(frozen=True, slots=True)
class TailCall:
    """The frame is given up, and the callee returns to the caller."""

    callee: str | Expression
    arguments: tuple[Expression, ...]
    convention: Convention
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the caller, who finds so many bytes of arguments taken off the stack (None: as the convention has it)."""

    value: Expression | None
    span: Span = field(compare=False)
    popping: Expression | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on at another place, on another stack; nothing is returned to."""

    sp: Expression
    pc: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Trap:
    """The end: an instruction that the machine refuses to go on behind."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class If:
    """One block or the other."""

    condition: Condition
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class While:
    """A block as often as the condition holds."""

    condition: Condition
    body: tuple[Statement, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Break:
    """Leave the innermost loop."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Continue:
    """Begin the innermost loop anew."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class OnStack:
    """A block on another stack."""

    stack: Expression
    pc: Expression | None
    body: tuple[Statement, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SwitchStack:
    """The stack pointer changes to that of another frame of the same trampoline, which waits. What is done behind it is
    done there."""

    stack: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SaveFrame:
    """What the frame keeps for the caller is written, or (`restores`) read, at `address + offset`, `size` bytes."""

    address: Expression
    offset: int
    size: int
    restores: bool
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Asm:
    """Machine text of the user's. Registers are of this target."""

    inputs: tuple[tuple[Register, Expression], ...]
    outputs: tuple[tuple[Register, Variable], ...]
    clobbers: frozenset[Register]
    lines: tuple[tuple[str, Span], ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Expect:
    """What a check demands."""

    condition: Condition
    span: Span = field(compare=False)


Statement = (
    Assign
    | Store
    | SetThread
    | SetThreadPlace
    | Call
    | TailCall
    | Return
    | Resume
    | Trap
    | If
    | While
    | Break
    | Continue
    | OnStack
    | SwitchStack
    | SaveFrame
    | Asm
    | Expect
)

# ---------------------------------------------------------------------------------------------------------- programs


@dataclass(frozen=True, slots=True)
class Signature:
    """What a callee takes and gives. `clobbers`: None for all that the convention allows."""

    name: str
    parameters: tuple[tuple[str, Type], ...]
    result: Type | None
    convention: Convention
    clobbers: frozenset[Register] | None


def kernel_signature(call: Call | TailCall) -> Signature:
    """What one system call passes to the kernel, the number first."""
    names = ("number", *(f"argument {index}" for index in range(1, len(call.arguments))))
    parameters = tuple(zip(names, (argument.type for argument in call.arguments), strict=True))
    result = call.result if isinstance(call, Call) else None
    return Signature(SYSTEM_CALL, parameters, result, call.convention, None)


@dataclass(frozen=True, slots=True)
class ExternVariable:
    """A variable that somebody else defines. `type` is a scalar, or the name of a struct; `count` elements if it is an
    array. `size` and `alignment` in bytes."""

    name: str
    type: Type | str
    count: int | None
    size: int
    alignment: int


@dataclass(frozen=True, slots=True)
class Table:
    """`count` entries, from each of which control reaches a trampoline that is told which one it was."""

    name: str
    count: int
    trampoline: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Contract:
    """What a trampoline without a body may do, besides keeping to its convention: change whole objects, those that
    parameters point to and extern variables; move to the stacks of its check."""

    parameters: tuple[Variable, ...] = ()
    variables: tuple[str, ...] = ()
    switches: bool = False


@dataclass(frozen=True, slots=True)
class Suspension:
    """What a trampoline does with contexts. All that is needed to go on where its call returns goes into the object of
    struct `struct` that `suspends` points to; where there is a `word`, only into the word so many bytes into that.
    It goes on in the context `resumes`, where a call of `of` returns that has suspended it, and gives back `giving`, or
    `instead` of 0. A context is known by the address of the object, or by the word."""

    suspends: Variable | None
    struct: str
    word: int | None
    resumes: Variable | None
    of: str
    giving: Variable | None
    instead: int | None
    resumed: Signature | None  # of the calls that it resumes, if those are another trampoline's
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Function:
    """One trampoline. `table`: through which it is entered, if it is entered through one. `variadic`: it takes any
    number of words, which no parameter names. `contract`: it has no body, and this instead.
    `suspension`: it returns to others than its caller, or in its caller more than once."""

    name: str
    parameters: tuple[Variable, ...]
    result: Type | None
    convention: Convention
    body: tuple[Statement, ...]
    slots: tuple[Variable, ...]
    save: bool
    span: Span = field(compare=False)
    table: Table | None = None
    variadic: bool = False
    contract: Contract | None = None
    suspension: Suspension | None = None

    @property
    def returning(self) -> Signature:
        """Of the calls that its `return` returns from."""
        if self.suspension is not None and self.suspension.resumed is not None:
            return self.suspension.resumed
        return self.signature

    @property
    def signature(self) -> Signature:
        parameters = tuple([(v.name, v.type) for v in self.parameters])
        return Signature(self.name, parameters, self.result, self.convention, None)


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """What a callee does in a check, before it returns. Compared by identity."""

    callee: str
    parameters: tuple[Variable, ...]
    body: tuple[Statement, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Signals:
    """Signals (on Windows: exceptions) come before every instruction. `handler` and `restorer` are trampolines; `stack`
    is the alternate stack; None where the kernel returns by code of its own, and where the handler runs on the
    interrupted stack."""

    handler: str
    restorer: str | None
    stack: Variable | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A check of one trampoline: the world it runs in, what its callees do, what holds at the end. Compared by
    identity."""

    trampoline: str
    title: str
    arguments: tuple[Variable, ...]
    objects: tuple[Variable, ...]
    stacks: tuple[Variable, ...]
    variables: tuple[tuple[Variable, Expression | None], ...]
    given: tuple[Statement, ...]
    handlers: Mapping[str, Handler]
    finally_: tuple[Statement, ...]
    span: Span = field(compare=False)
    signals: tuple[Signals, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """Everything in a file (and the files that it imports) for one target. `functions` are in the order of the
    source; `own` and `own_tables` name what the file itself declares. `contracts` are the trampolines without a body:
    others call them as `externs`, which they are too."""

    target: Target
    structs: Mapping[str, StructLayout]
    externs: Mapping[str, Signature]
    functions: Mapping[str, Function]
    scenarios: Sequence[Scenario]
    own: tuple[str, ...]
    file: str
    variables: Mapping[str, ExternVariable] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    own_tables: tuple[str, ...] = ()
    # Texts that have been found right before, and the imported functions that are known by them.
    right: set[str] = field(default_factory=set, compare=False, repr=False)
    later: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    contracts: Mapping[str, Function] = field(default_factory=dict)
    own_contracts: tuple[str, ...] = ()  # those that the file itself declares


class _Same:
    """Something known by its identity, and held on to."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it


def walk(node: object) -> Sequence[object]:
    """Every statement, condition, expression and variable of a body, depth first."""
    return _walked(_Same(node))


@lru_cache(maxsize=256)
def _walked(node: _Same) -> Sequence[object]:
    found: list[object] = []
    rest = [node.it]
    while rest:
        item = rest.pop()
        if isinstance(item, tuple):
            rest += item[::-1]
        else:
            kind: type = item.__class__
            parts = _parts(kind)
            if parts is not None:
                found.append(item)
                rest += [getattr(item, name) for name in parts]
    return tuple(found)


@cache
def _parts(kind: type) -> tuple[str, ...] | None:
    """The fields of a class of nodes that further nodes may be in, last first; None if it is no class of nodes."""
    if kind.__module__ != __name__ or not hasattr(kind, "__dataclass_fields__"):
        return None
    fields = reversed(kind.__dataclass_fields__.values())
    return tuple(field.name for field in fields if _HOLDING_NODES.search(field.type))


_HOLDING_NODES = re.compile(r"\b(Expression|Condition|Statement|Variable)\b")
