"""The reference interpreter of the language: what a trampoline's source means, without a machine.

It runs the same IR that is compiled, over a plain memory, and never sees instructions, registers or frame layouts. Of
the machine code it is told one thing only: the size of each frame, because `sp` is a value that a source may store.
Statements run as generators that stop at each call, so that a check's script can be run the same way both here and
while the machine code waits at a stub.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import field
from typing import Protocol, assert_never

from . import ir
from .records import dataclass
from .target import ByteOrder, Register


class Host(Protocol):
    """The world that a body runs in: memory, the thread, and what names mean. Addresses and words are unsigned."""

    order: ByteOrder
    word: int

    def load(self, address: int, size: int) -> bytes: ...

    def store(self, address: int, data: bytes) -> None: ...

    def get_thread(self) -> int: ...

    def set_thread(self, value: int) -> None: ...

    def thread_slot(self) -> int:
        """The address of the thread-local word that `g` is in, or that points to where it is."""
        ...

    def symbol(self, name: str) -> int: ...

    def stack_top(self, name: str) -> int: ...

    def any(self, bits: int) -> int: ...


class Trouble(Exception):
    """The source itself goes wrong here: it reads memory that is not there, or never ends."""

    def __init__(self, message: str, span: object) -> None:
        super().__init__(message)
        self.message = message
        self.span = span


class Unset(LookupError):
    """There is memory, and nobody has set it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A body wants something called. The answer is the result, or None."""

    callee: str | int
    arguments: tuple[int, ...]
    node: ir.Call | ir.TailCall
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """A body left for good, by `resume`."""

    sp: int
    pc: int


Run = Generator[Request, int | None, None]
AsmRunner = Callable[[ir.Asm, Mapping[Register, int]], Mapping[Register, int]]


@dataclass(slots=True)
class StackSwitch:
    """One `on stack` in force: where it was entered, and the address of the pushed PC."""

    entry: int
    pushed: int | None


class _Return(Exception):
    def __init__(self, value: int | None, popped: int | None) -> None:
        self.value = value
        self.popped = popped


class _Left(Exception):
    """By `resume`, by a jump, or by a trap."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


@dataclass(slots=True)
class Execution:
    """One activation of a trampoline, or one run of a check's script.

    `cfa` and `frame` (bytes) give `sp`; a script has its `sp` directly. `specials` answers `caller pc` and
    `caller sp`. `slots` says where the structs of its frame are, in bytes above `sp`, by name: that is the compiler's
    choice, and any choice is right.
    """

    host: Host
    variables: dict[ir.Variable, int] = field(default_factory=dict)
    cfa: int = 0
    frame: int = 0
    push_at_bottom: bool = False
    specials: Callable[[str], int] | None = None
    failed: Callable[[ir.Expect], None] | None = None
    asm: AsmRunner | None = None
    on_push: Callable[[int, bool], None] | None = None
    result: int | None = None
    resumed: Resumed | None = None
    trapped: ir.Trap | None = None
    budget: int = 100_000
    switches: list[StackSwitch] = field(default_factory=list)
    slots: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)  # `table index`, ...
    popped: int | None = None  # bytes of arguments, by the return
    switched_frame: int | None = None  # the frame on other stacks, if it has another size there

    def run(self, body: Sequence[ir.Statement]) -> Run:
        """Run to the end; `result`, `resumed` or `trapped` tell how it ended."""
        try:
            yield from self.block(body)
        except _Return as done:
            self.result, self.popped = done.value, done.popped
        except _Left:
            pass

    # ---------------------------------------------------------------------------------------------------- statements

    def block(self, body: Sequence[ir.Statement]) -> Run:
        for statement in body:
            yield from self.statement(statement)

    def statement(self, node: ir.Statement) -> Run:
        self.budget -= 1
        if self.budget < 0:
            raise Trouble("the source does not end", node.span)
        match node:
            case ir.Assign(variable=variable, value=value):
                self.variables[variable] = self.value(value)
            case ir.Store(address=address, offset=offset, value=value, type=type_):
                data = self.bytes_of(self.value(value), type_)
                self.host.store(self.word_of(self.value(address) + offset), data)
            case ir.SetThread(value=value):
                self.host.set_thread(self.value(value))
            case ir.SetThreadPlace(value=value):
                place = self.value(value) & ((1 << 8 * self.host.word) - 1)
                self.host.store(self.host.thread_slot(), place.to_bytes(self.host.word, self.host.order))
            case ir.Call():
                yield from self.call(node)
            case ir.TailCall():
                arguments = tuple(self.value(a) for a in node.arguments)
                yield Request(self.callee(node.callee), arguments, node)
                raise _Left
            case ir.Return(value=value, popping=popping):
                result = None if value is None else self.value(value)
                raise _Return(result, None if popping is None else self.value(popping))
            case ir.Resume(sp=sp, pc=pc):
                self.resumed = Resumed(self.value(sp), self.value(pc))
                raise _Left
            case ir.Trap():
                self.trapped = node
                raise _Left
            case ir.If(condition=condition, then=then, otherwise=otherwise):
                yield from self.block(then if self.holds(condition) else otherwise)
            case ir.While():
                yield from self.loop(node)
            case ir.Break():
                raise _Break
            case ir.Continue():
                raise _Continue
            case ir.OnStack():
                yield from self.on_stack(node)
            case ir.SwitchStack(span=span) | ir.SaveFrame(span=span):
                raise Trouble("what goes on behind `switch stack` is another call's affair", span)
            case ir.Asm():
                self.run_asm(node)
            case ir.Expect(condition=condition):
                if not self.holds(condition) and self.failed is not None:
                    self.failed(node)
            case _:
                assert_never(node)

    def call(self, node: ir.Call) -> Run:
        arguments = tuple(self.value(a) for a in node.arguments)
        at = None if node.at is None else self.value(node.at)
        result = yield Request(self.callee(node.callee), arguments, node, at)
        if node.variable is not None and node.result is not None:
            self.variables[node.variable] = self.normal(result or 0, node.variable.type)

    def callee(self, callee: str | ir.Expression) -> str | int:
        return callee if isinstance(callee, str) else self.value(callee)

    def loop(self, node: ir.While) -> Run:
        while self.holds(node.condition):
            self.budget -= 1
            if self.budget < 0:
                raise Trouble("the source does not end", node.span)
            try:
                yield from self.block(node.body)
            except _Break:
                break
            except _Continue:
                continue

    def on_stack(self, node: ir.OnStack) -> Run:
        stack = self.value(node.stack)
        pushed = None
        if node.pc is not None:
            pc = self.value(node.pc)
            pushed = stack - self._frame_there if self.push_at_bottom else stack - self.host.word
            self.host.store(pushed, pc.to_bytes(self.host.word, self.host.order))
        self.switches.append(StackSwitch(stack, pushed))
        if self.on_push is not None:
            self.on_push(stack, True)
        yield from self.block(node.body)
        switch = self.switches.pop()
        if self.on_push is not None:
            self.on_push(switch.pushed or 0, False)

    def run_asm(self, node: ir.Asm) -> None:
        if self.asm is None:
            raise Trouble("machine text cannot run here", node.span)
        inputs = {register: self.value(value) for register, value in node.inputs}
        outputs = self.asm(node, inputs)
        for register, variable in node.outputs:
            self.variables[variable] = self.normal(outputs[register], variable.type)

    # --------------------------------------------------------------------------------------------------- expressions

    def word_of(self, value: int) -> int:
        return value & ((1 << 8 * self.host.word) - 1)

    def normal(self, value: int, type_: ir.Type) -> int:
        """The value as a type holds it: cut to its bits, negative if it is signed and the top bit is set."""
        value &= (1 << type_.bits) - 1
        if type_.signed and value >> (type_.bits - 1):
            value -= 1 << type_.bits
        return value

    def bytes_of(self, value: int, type_: ir.Type) -> bytes:
        return (value & ((1 << type_.bits) - 1)).to_bytes(type_.bytes, self.host.order)

    @property
    def sp(self) -> int:
        return self.switches[-1].entry - self._frame_there if self.switches else self.cfa - self.frame

    @property
    def _frame_there(self) -> int:
        return self.frame if self.switched_frame is None else self.switched_frame

    def value(self, node: ir.Expression) -> int:
        match node:
            case ir.Constant(value=value, type=type_):
                return self.normal(value, type_)
            case ir.Read(variable=variable):
                if variable not in self.variables:
                    raise Trouble(f"`{variable.name}` has no value here", node.span)
                return self.variables[variable]
            case ir.Load(address=address, offset=offset, type=type_):
                where = self.word_of(self.value(address) + offset)
                try:
                    data = self.host.load(where, type_.bytes)
                except Unset:
                    raise Trouble(f"`{node.span.text}` is read, and nobody has set it", node.span) from None
                except LookupError:
                    raise Trouble(f"the source reads {where:#x}, where there is no memory", node.span) from None
                return self.normal(int.from_bytes(data, self.host.order), type_)
            case ir.Operation():
                return self.operation(node)
            case ir.Convert(operand=operand, type=type_):
                return self.normal(self.value(operand), type_)
            case ir.Thread():
                return self.host.get_thread()
            case ir.ThreadPlace():
                return int.from_bytes(self.host.load(self.host.thread_slot(), self.host.word), self.host.order)
            case ir.SymbolAddress(symbol=symbol):
                return self.host.symbol(symbol)
            case ir.SlotAddress(variable=variable):
                return self.cfa - self.frame + self.slots[variable.name]
            case ir.StackPlace(name=name):
                return self.host.stack_top(name)
            case ir.Special():
                return self.special(node)
            case _:
                assert_never(node)

    def special(self, node: ir.Special) -> int:
        match node.what:
            case "sp":
                return self.sp
            case "entry sp":
                return self.switches[-1].entry
            case "pushed pc":
                place = self.switches[-1].pushed
                assert place is not None
                return int.from_bytes(self.host.load(place, self.host.word), self.host.order)
            case "any":
                return self.normal(self.host.any(node.type.bits), node.type)
            case "caller pc" | "caller sp":
                assert self.specials is not None
                return self.specials(node.what)
            case "table index" | "argument words" | "argument count":
                return self.given[node.what]
            case _:
                assert_never(node.what)

    def operation(self, node: ir.Operation) -> int:
        a, b = self.value(node.left), self.value(node.right)
        bits = node.type.bits
        match node.operator:
            case "add":
                value = a + b
            case "sub":
                value = a - b
            case "mul":
                value = a * b
            case "and":
                value = a & b
            case "or":
                value = a | b
            case "xor":
                value = a ^ b
            case "shl":
                value = a << self.shift(b, node)
            case "shr":
                value = (a & ((1 << bits) - 1)) >> self.shift(b, node)
            case "sar":
                value = a >> self.shift(b, node)
            case _:
                assert_never(node.operator)
        return self.normal(value, node.type)

    def shift(self, count: int, node: ir.Operation) -> int:
        if not 0 <= count < node.type.bits:
            raise Trouble(f"a shift of {node.type} by {count}: machines differ there", node.span)
        return count

    def holds(self, node: ir.Condition) -> bool:
        match node:
            case ir.Negated(operand=operand):
                return not self.holds(operand)
            case ir.Both(left=left, right=right):
                return self.holds(left) and self.holds(right)
            case ir.Either(left=left, right=right):
                return self.holds(left) or self.holds(right)
            case ir.Comparison(condition=condition, left=left, right=right):
                a, b = self.value(left), self.value(right)
                if condition.startswith("u"):
                    mask = (1 << left.type.bits) - 1
                    a, b = a & mask, b & mask
                match condition.removeprefix("u"):
                    case "eq":
                        return (a - b) & ((1 << left.type.bits) - 1) == 0
                    case "ne":
                        return (a - b) & ((1 << left.type.bits) - 1) != 0
                    case "lt":
                        return a < b
                    case "le":
                        return a <= b
                    case "gt":
                        return a > b
                    case _:
                        return a >= b
            case _:
                assert_never(node)
