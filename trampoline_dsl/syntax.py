"""The syntax tree of the language: what was written, with positions, before any target is known.

Positions are no part of a node's meaning: `span` is left out of equality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import cached_property
from typing import overload

from .diagnostics import Source, Span
from .records import dataclass


@dataclass(frozen=True, slots=True)
class Name:
    """An identifier, or several joined by dots ("g.m.g0", "runtime.load_g")."""

    parts: tuple[str, ...]
    spans: tuple[Span, ...] = field(compare=False)
    span: Span = field(compare=False)

    def __str__(self) -> str:
        parts = self.parts
        return parts[0] if len(parts) == 1 else ".".join(parts)


# ------------------------------------------------------------------------------------------------------------- types


@dataclass(frozen=True, slots=True)
class TypeName:
    """`u32`, `ptr`, `ptr<g>`, a struct's name, or `u64[4]`."""

    name: str
    pointee: str | None
    count: Expression | None
    span: Span = field(compare=False)


# ------------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Integer:
    """`16`, `0x10`, `0b1_0000`."""

    value: int
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Null:
    """`null`."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Path:
    """A name and the fields reached from it; what the first part is, the resolver decides."""

    name: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """`-a`, `~a`."""

    operator: str  # "-" "~"
    operand: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """`a + b`."""

    operator: str  # + - * & | ^ << >>
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Compare:
    """`a == b`."""

    operator: str  # == != < <= > >=
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Logical:
    """`a and b`, `a or b`."""

    operator: str  # "and" "or"
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """`not a`."""

    operand: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Cast:
    """`a as u32`."""

    operand: Expression
    type: TypeName
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """`mem<u16>(address)`."""

    type: TypeName
    address: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class AddressOf:
    """`&name`: where a function is."""

    name: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SizeOf:
    """`sizeof(type)`."""

    type: TypeName
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class OffsetOf:
    """`offsetof(struct, field.field)`."""

    struct: str
    path: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Special:
    """`entry sp`, `pushed pc`, `caller pc`, `caller sp`, `g place`, `table index`, `argument words`, `argument
    count`."""

    what: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CallExpression:
    """`call f(a, b) using c -> i32 at sp`: the last two parts only where the form allows them. `syscall n(a, b)`: then
    there is a `number`."""

    callee: Name
    arguments: tuple[Expression, ...]
    convention: Name | None
    result: TypeName | None
    at: Expression | None
    span: Span = field(compare=False)
    number: Expression | None = None


Expression = (
    Integer
    | Null
    | Path
    | Unary
    | Binary
    | Compare
    | Logical
    | Not
    | Cast
    | Memory
    | AddressOf
    | SizeOf
    | OffsetOf
    | Special
    | CallExpression
)


# ------------------------------------------------------------------------------------------------ target conditions


@dataclass(frozen=True, slots=True)
class TargetName:
    """An architecture, an os/architecture, a variant, or `g in register`."""

    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class TargetSet:
    """A condition that a target meets if it is one of `names`, or, when `negated`, none of them."""

    negated: bool
    names: tuple[TargetName, ...]
    span: Span = field(compare=False)


# -------------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Save:
    """`save callee_saves`, `save callee_saves in a.b`."""

    what: Name
    place: Name | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Restore:
    """`restore callee_saves from a.b`."""

    what: Name
    place: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class FrameSlot:
    """A named place in the frame. `place`: None, "bottom", or the bytes above sp."""

    name: str
    type: TypeName
    place: Expression | str | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """`frame { ... }`."""

    slots: tuple[FrameSlot, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Let:
    """`let a: u32 = b`."""

    name: str
    type: TypeName | None
    value: Expression
    name_span: Span = field(compare=False)
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Assign:
    """`a.b = c`."""

    place: Path | Memory | Special
    value: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose result nobody takes."""

    call: CallExpression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Jump:
    """`jump f(a)`: a tail call."""

    call: CallExpression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Return:
    """`return a popping b`."""

    value: Expression | None
    popping: Expression | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Resume:
    """`resume sp, pc`."""

    sp: Expression
    pc: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Trap:
    """`trap`."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class If:
    """`if a { ... } else { ... }`."""

    condition: Expression
    then: Block
    otherwise: Block | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class While:
    """`while a { ... }`."""

    condition: Expression
    body: Block
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Break:
    """`break`."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Continue:
    """`continue`."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class OnStack:
    """`on stack a pushing pc b { ... }`."""

    stack: Expression
    pc: Expression | None
    body: Block
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class SwitchStack:
    """`switch stack a`."""

    stack: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class When:
    """`when arm, arm64 { ... } else { ... }`."""

    targets: TargetSet
    then: Block
    otherwise: Block | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class AsmOperand:
    """`in x0 = expression` or `out x0 = variable`."""

    register: str
    value: Expression | str
    register_span: Span = field(compare=False)
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class AsmLine:
    """One instruction of an `asm` block."""

    text: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Asm:
    """`asm arm64 { in x0 = a out x1 = b clobbers x2 "..." }`."""

    targets: TargetSet
    inputs: tuple[AsmOperand, ...]
    outputs: tuple[AsmOperand, ...]
    clobbers: tuple[Name, ...]
    lines: tuple[AsmLine, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Expect:
    """`expect a`, in checks."""

    condition: Expression
    span: Span = field(compare=False)


Statement = (
    Save
    | Restore
    | FrameBlock
    | Let
    | Assign
    | Call
    | Jump
    | Return
    | Resume
    | Trap
    | If
    | While
    | Break
    | Continue
    | OnStack
    | SwitchStack
    | When
    | Asm
    | Expect
)


@dataclass(frozen=True, slots=True)
class Block:
    """`{ ... }`."""

    statements: tuple[Statement, ...]
    span: Span = field(compare=False)


# ------------------------------------------------------------------------------------------------------ declarations


@dataclass(frozen=True, slots=True)
class Import:
    """`import "file.tramp"`."""

    path: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ConstantWhen:
    """`when target { value }`, of a constant."""

    targets: TargetSet
    value: Expression
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ByTarget:
    """`{ when target { value } else { value } }`: the first that is for the target."""

    cases: tuple[ConstantWhen, ...]
    otherwise: Expression | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Constant:
    """`const NAME = value`, `const NAME { when target { value } else { value } }`."""

    name: Name
    value: Expression | ByTarget
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Field:
    """`name: type @ offset`, in a struct."""

    name: str
    type: TypeName
    offset: Expression | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Struct:
    """`gap`: fields that are not named stand somewhere between those that are."""

    name: Name
    header: str | None
    fields: tuple[Field, ...]
    gap: bool
    header_span: Span | None = field(compare=False)
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name: type`."""

    name: str
    type: TypeName
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Clobbers:
    """`when target { registers }`, of an extern."""

    targets: TargetSet
    registers: tuple[Name, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Extern:
    """`extern f(a: u32) -> u32 using c`."""

    name: Name
    parameters: tuple[Parameter, ...]
    result: TypeName | None
    convention: Name
    clobbers: tuple[Clobbers, ...] | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ExternVariable:
    """`extern runtime.iscgo: u8`."""

    name: Name
    type: TypeName
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ConventionFact:
    """`keeps rbx, rbp`, `align 16`, `thread r14`, `pops callee`."""

    what: Name
    names: tuple[Name, ...]
    value: Expression | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ConventionWhen:
    """`when target { facts }`, of a convention."""

    targets: TargetSet
    facts: tuple[ConventionFact | ConventionWhen, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ConventionDeclaration:
    """`convention name like c { facts }`."""

    name: Name
    like: Name
    facts: tuple[ConventionFact | ConventionWhen, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Table:
    """`table f[2000] enters g`."""

    name: Name
    count: Expression
    trampoline: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Writes:
    """`writes a, b`: what a trampoline without a body may change."""

    names: tuple[Name, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Switches:
    """`switches`: a trampoline without a body may move to other stacks."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Suspends:
    """`suspends a`, `suspends a.b`: where what is needed to go on behind the call is kept."""

    place: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Resumes:
    """`resumes a of f giving b or 1`: which suspended call returns, and what."""

    context: Name
    of: Name | None
    giving: Name | None
    instead: Integer | None
    span: Span = field(compare=False)


Clause = Writes | Switches | Suspends | Resumes


@dataclass(frozen=True, slots=True)
class Trampoline:
    """`trampoline f(a: u32) -> u32 using c { ... }`. `variadic`: `f(...)`, of any number of words. Without a body it
    says what machine code from elsewhere is to keep to."""

    name: Name
    parameters: tuple[Parameter, ...]
    variadic: bool
    result: TypeName | None
    convention: Name
    clauses: tuple[Clause, ...]
    body: Block | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckNew:
    """Objects of struct types, filled with values that differ from run to run."""

    objects: tuple[Parameter, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckStack:
    """`stack name`."""

    name: Name
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckVariable:
    """`var name: type = value`."""

    name: Name
    type: TypeName | None
    value: Expression | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckGiven:
    """`given { ... }`."""

    body: Block
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckOn:
    """`on f(a) { ... }`: what a callee does."""

    callee: Name
    parameters: tuple[Name, ...]
    body: Block
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckFinally:
    """`finally { ... }`."""

    body: Block
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckWhen:
    """`when target { ... }`, in a check."""

    targets: TargetSet
    items: tuple[CheckItem, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class CheckSignals:
    """`signals f return through g at s`, in a check."""

    handler: Name
    restorer: Name | None
    stack: Name | None
    span: Span = field(compare=False)


CheckItem = CheckNew | CheckStack | CheckVariable | CheckGiven | CheckOn | CheckSignals | CheckFinally | CheckWhen


class Later(Sequence[CheckItem]):
    """The items of a check that has not changed, made when they are first asked for. Equal to a tuple of them."""

    def __init__(self, make: Callable[[], tuple[CheckItem, ...]]) -> None:
        self._make = make

    @cached_property
    def items(self) -> tuple[CheckItem, ...]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> CheckItem: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[CheckItem, ...]: ...

    def __getitem__(self, index: int | slice) -> CheckItem | tuple[CheckItem, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return self.items == (other.items if isinstance(other, Later) else other)

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return repr(self.items)

    def __reduce__(self) -> tuple[object, ...]:
        return tuple, (self.items,)


@dataclass(frozen=True, slots=True)
class Check:
    """`check f "title" { ... }`. `text`: the whole of it, as it is written."""

    trampoline: Name
    title: str
    items: Sequence[CheckItem]
    text: str = field(compare=False, repr=False)
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ItemsWhen:
    """`when windows { ... } else { ... }`: declarations for some targets only."""

    targets: TargetSet
    then: tuple[Declaration, ...]
    otherwise: tuple[Declaration, ...]
    span: Span = field(compare=False)


Named = Constant | Struct | Extern | ExternVariable | ConventionDeclaration | Table | Trampoline
Declaration = Named | Check | ItemsWhen
Item = Import | Declaration
Plain = Import | Named | Check


@dataclass(frozen=True, slots=True)
class File:
    """One source file, parsed."""

    source: Source = field(compare=False)
    items: tuple[Item, ...]
