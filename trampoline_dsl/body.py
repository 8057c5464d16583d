"""Statements and expressions of one body, resolved: names become variables, paths become loads, literals get types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never

from . import ir
from . import syntax as s
from .diagnostics import Report, Span, listed, suggestion
from .layout import MAXIMUM_DEPTH, pointer_to, scalar
from .target import (
    MOST_SYSTEM_ARGUMENTS,
    Bank,
    Convention,
    InRegister,
    Register,
    ThreadSlot,
    allocatable,
    float_allocatable,
)

if TYPE_CHECKING:
    from .resolve import Environment

_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor", "<<": "shl", ">>": "shr"}
_SIGNED = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_UNSIGNED = {"==": "eq", "!=": "ne", "<": "ult", "<=": "ule", ">": "ugt", ">=": "uge"}
_SPECIAL_NAMES = ("g", "sp")
MAXIMUM_CONSTANT_DEPTH = 300  # operators and names, one in another


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


class BodyResolver:
    """Resolves one trampoline or one check. `signature` is None outside a trampoline."""

    def __init__(self, environment: Environment, scope: Scope, signature: ir.Signature | None) -> None:
        self.environment = environment
        self.report = environment.report
        self.word_type = environment.word_type
        self.scope = scope
        self.signature = signature
        self.slots: list[ir.Variable] = []
        self.save = True
        self.suspends = self.switches = False  # whether it suspends its caller, and resumes another
        self.switched: s.SwitchStack | None = None
        self.handler_result: ir.Type | None = None
        self.trampoline = signature.name if signature is not None else ""  # which it is, or is checked
        self.result_is_known = True  # there is none, or it has a type
        self.depth_of: dict[ir.Variable, int] = {}
        self.untyped: set[ir.Variable] = set()  # their declarations have mistakes, which must not show at every use

    # ----------------------------------------------------------------------------------------------------- constants

    def _scalar(self, name: str) -> ir.Type:
        type_ = scalar(name, self.environment.target)
        assert type_ is not None
        return type_

    def constant(self, node: s.Expression) -> int | None:
        """The value of a constant expression; None after a diagnostic."""
        environment = self.environment
        if environment.depth > MAXIMUM_CONSTANT_DEPTH:
            self.report.error("S003", "this constant is made of too many others", node.span)
            return None
        environment.depth += 1
        value = self._constant(node)
        environment.depth -= 1
        return value

    def _constant(self, node: s.Expression) -> int | None:
        match node:
            case s.Integer(value=value):
                return value
            case s.Null():
                return 0
            case s.Unary(operator=operator, operand=operand):
                inner = self.constant(operand)
                return None if inner is None else (-inner if operator == "-" else ~inner)
            case s.Binary(operator=operator, left=left, right=right):
                a, b = self.constant(left), self.constant(right)
                return None if a is None or b is None else self._compute(operator, a, b, node.span)
            case s.SizeOf():
                return self._size_of(node)
            case s.OffsetOf():
                return self._offset_of(node)
            case s.Path(name=name) if str(name) in self.environment.constant_nodes:
                return self.constant_named(str(name), node.span)
            case _:
                notes = []
                if isinstance(node, s.Path):
                    notes = suggestion(str(node.name), self.environment.constant_nodes)
                self.report.error("R030", "this is not a constant", node.span, notes=notes)
                return None

    def constant_value(self, node: s.Constant) -> s.Expression | None:
        """What a constant is said to be on this target; None if that is not said."""
        if not isinstance(node.value, s.ByTarget):
            return node.value
        for case in node.value.cases:
            if self.environment.holds(case.targets):
                return case.value
        return node.value.otherwise

    def constant_named(self, name: str, span: Span) -> int | None:
        constants, active = self.environment.constants, self.environment.constants_active
        if name in active:
            cycle = " by ".join([*active[active.index(name) :], name])
            self.report.error("R031", f"the constant {name} is defined by itself", span, notes=[cycle])
            return None
        if name not in constants:
            if len(active) >= MAXIMUM_DEPTH:
                message = f"this constant is made of others more than {MAXIMUM_DEPTH} deep"
                self.report.error("S003", message, span, notes=["declare those first that others are made of"])
                return None
            value = self.constant_value(self.environment.constant_nodes[name])
            if value is None:
                message = f"the constant {name} has no value on {self.environment.target.name}"
                notes = ["give it one, there or for the others: `else { ... }`"]
                declared = self.environment.where(name, s.Constant)
                self.report.error("R071", message, span, notes=notes, related=[(declared, "declared here")])
                return None
            active.append(name)
            constants[name] = self.constant(value)
            active.pop()
        return constants[name]

    def _compute(self, operator: str, a: int, b: int, span: Span) -> int | None:
        if operator in ("<<", ">>") and not 0 <= b < 64:
            self.report.error("R032", f"cannot shift by {b}", span, notes=["a shift is from 0 to 63"])
            return None
        value = self._computed(operator, a, b)
        if not -(1 << 64) < value < 1 << 64:
            # Unbounded, it would grow without end from one constant to the next.
            self.report.error("R037", "this constant does not fit 64 bits", span)
            return None
        return value

    def _computed(self, operator: str, a: int, b: int) -> int:
        match operator:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "&":
                return a & b
            case "|":
                return a | b
            case "^":
                return a ^ b
            case "<<":
                return a << b
            case ">>":
                return a >> b
        raise AssertionError(operator)

    def _size_of(self, node: s.SizeOf) -> int | None:
        if node.type.name in self.environment.layouts.declarations and node.type.pointee is None:
            layout = self.environment.layouts.struct(node.type.name, node.type.span)
            return layout.size if layout else None
        type_ = self.environment.layouts.type(node.type)
        return type_.bytes if type_ else None

    def _offset_of(self, node: s.OffsetOf) -> int | None:
        found = self.fields(node.struct, node.path.parts, node.path.spans, node.span)
        return found[1] if found else None

    # --------------------------------------------------------------------------------------------------- expressions

    def fields(
        self, struct: str, parts: Sequence[str], spans: Sequence[Span], span: Span
    ) -> tuple[ir.StructField, int] | None:
        """The last field of a chain of nested (not pointed to) structs, and its offset from the first one's start."""
        layouts = self.environment.layouts
        offset = 0
        found: ir.StructField | None = None
        for part, part_span in zip(parts, spans, strict=False):
            if struct not in layouts.declarations:
                self.report.error("R010", f"there is no struct `{struct}`", span)
                return None
            layout = layouts.struct(struct, part_span)
            if layout is None:
                return None
            if part not in layout.fields:
                notes = [*suggestion(part, layout.fields), f"{struct} has {listed(layout.fields)}"]
                self.report.error("R033", f"struct {struct} has no field `{part}`", part_span, notes=notes)
                return None
            found = layout.fields[part]
            offset += found.offset
            struct = found.type if isinstance(found.type, str) else ""
        assert found is not None
        return found, offset

    def expression(self, node: s.Expression, expected: ir.Type | None = None) -> ir.Expression | None:
        """An expression with a type; a literal takes the type that is expected of it."""
        match node:
            case s.Path():
                return self._path(node, expected)
            case s.Integer(value=value, span=span):
                return self._literal(value, expected or self.word_type, span)
            case s.Null(span=span):
                pointer = expected if expected is not None and expected.kind == "pointer" else self._scalar("ptr")
                return ir.Constant(0, pointer, span)
            case s.Unary(operator="-", operand=s.Integer(value=value), span=span):
                return self._literal(-value, expected or self._scalar("iptr"), span)
            case s.Unary(operator=operator, operand=operand, span=span):
                inner = self.expression(operand, expected)
                if inner is None or not self._is_integer(inner, operand.span):
                    return None
                if operator == "-":
                    return self._operation("sub", ir.Constant(0, inner.type, span), inner, inner.type, span)
                minus_one = ir.Constant(-1 if inner.type.signed else (1 << inner.type.bits) - 1, inner.type, span)
                return self._operation("xor", inner, minus_one, inner.type, span)
            case s.Binary():
                return self._binary(node, expected)
            case s.Cast(operand=operand, type=type_name, span=span):
                type_ = self.environment.layouts.type(type_name)
                value_ = self.expression(operand, type_ if _is_literal(operand) else None)
                if type_ is None or value_ is None:
                    return None
                if (type_.kind == "float") != (value_.type.kind == "float"):
                    message = f"{value_.type} is not converted to {type_}: floats are moved here, never computed with"
                    self.report.error("R034", message, span)
                    return None
                return self._convert(value_, type_, span)
            case s.Memory(type=type_name, address=address, span=span):
                type_ = self.environment.layouts.type(type_name)
                where = self._address(address)
                if type_ is None or where is None:
                    return None
                return ir.Load(where[0], where[1], type_, span)
            case s.AddressOf(name=name, span=span) if name.parts[0] in self.scope.variables:
                return self._address_of_slot(name, span)
            case s.AddressOf(name=name, span=span):
                if str(name) in self.environment.misdeclared:
                    return None
                if str(name) in self.environment.tables:
                    return ir.SymbolAddress(str(name), self._scalar("ptr"), span)
                if str(name) in self.environment.entered:
                    self._not_through_the_table(str(name), name.span)
                    return None
                if str(name) in self.environment.variables:
                    variable_ = self.environment.variables[str(name)]
                    return None if variable_ is None else self._address_of_variable(variable_, span)
                if str(name) not in self.environment.signatures:
                    environment = self.environment
                    known = [*environment.signatures, *environment.variables, *environment.tables]
                    notes = suggestion(str(name), known)
                    self.report.error("R022", f"there is no extern or trampoline `{name}`", name.span, notes=notes)
                    return None
                return ir.SymbolAddress(str(name), self._scalar("ptr"), span)
            case s.SizeOf() | s.OffsetOf():
                number = self.constant(node)
                return None if number is None else self._literal(number, expected or self.word_type, node.span)
            case s.Special(what=what, span=span):
                return self._special(what, span)
            case s.CallExpression(span=span):
                message = "a call stands alone: `let x = call f()`"
                self.report.error("R035", message, span)
                return None
            case s.Compare() | s.Logical() | s.Not():
                message = "this is a condition, and a value is needed here"
                self.report.error("R036", message, node.span, notes=["use `if`"])
                return None
            case _:
                assert_never(node)

    def _literal(self, value: int, type_: ir.Type, span: Span) -> ir.Expression | None:
        if type_.kind == "float":
            notes = ["values are moved, not made"]
            self.report.error("R034", "there are no floating point literals", span, notes=notes)
            return None
        low, high = -(1 << (type_.bits - 1)), (1 << type_.bits) - 1
        if not low <= value <= high:
            message = f"{value} does not fit {type_} ({type_.bits} bits)"
            self.report.error("R037", message, span, notes=[f"from {low} to {high:#x}"])
            return None
        value &= high
        if type_.signed and value >> (type_.bits - 1):
            value -= 1 << type_.bits
        return ir.Constant(value, type_, span)

    def _special(self, what: str, span: Span) -> ir.Expression | None:
        if what == "entry sp":
            if not self.scope.stack:
                self.report.error("R038", "`entry sp` means something inside `on stack` only", span)
                return None
            return ir.Special("entry sp", self.word_type, span)
        if what == "pushed pc":
            if not self.scope.pushed:
                message = "`pushed pc` means something inside `on stack ... pushing pc` only"
                self.report.error("R038", message, span)
                return None
            return ir.Special("pushed pc", self.word_type, span)
        if what == "g place":
            return ir.ThreadPlace(self.word_type, span) if self._has_place(span) else None
        if what == "table index":
            return self._table_index(span)
        if what in ("argument words", "argument count"):
            return self._argument_words(what, span)
        if not self.scope.handler:
            self.report.error("R038", f"`{what}` means something in a check's `on` only", span)
            return None
        return ir.Special("caller pc" if what == "caller pc" else "caller sp", self.word_type, span)

    def _table_index(self, span: Span) -> ir.Expression | None:
        """Which entry of its table a trampoline has been entered through; in a check, the one that is checked."""
        name = self.trampoline
        if name in self.environment.entered:
            table = self.environment.entered[name]
            return None if table is None else ir.Special("table index", self.word_type, span)
        notes = [f"`table NAME[COUNT] enters {name}`"] if name else []
        self.report.error("R038", "`table index` means something in what a table enters only", span, notes=notes)
        return None

    def _argument_words(self, what: str, span: Span) -> ir.Expression | None:
        """Where the words are that a trampoline takes any number of; in a check, how many they are as well."""
        if self.trampoline not in self.environment.variadic:
            notes = [f"`trampoline {self.trampoline or 'NAME'}(...)`"]
            self.report.error("R038", f"`{what}` means something in a trampoline of any words only", span, notes=notes)
            return None
        if what == "argument count":
            if self.scope.check:
                return ir.Special("argument count", self.word_type, span)
            notes = ["who calls it knows, and says so in one of the words, or elsewhere"]
            self.report.error("R038", "`argument count` means something in a check only", span, notes=notes)
            return None
        if self.scope.stack:
            notes = ["take it before the block: `let words = argument words`"]
            message = "`argument words` is in the frame on the stack that this block has left"
            self.report.error("R043", message, span, notes=notes)
            return None
        return ir.Special("argument words", self._scalar("ptr"), span)

    def _takes_any_words(self, signature: ir.Signature, span: Span) -> None:
        convention, target = signature.convention, self.environment.target
        try:
            convention.words(target.architecture.homes_below)
        except ValueError as error:
            message = f"{convention.name} cannot take any number of words on {target.name}: {error}"
            self.report.error("R084", message, span)
            return
        result = convention.place([], signature.result.value_type if signature.result else None).result
        if any(not isinstance(part.place, InRegister) for part in result):
            message = f"{convention.name} returns a value behind the arguments, whose number nobody knows here"
            self.report.error("R084", message, span, notes=["return nothing"])

    def _popping(self, node: s.Return) -> ir.Expression | None:
        """The bytes of arguments that a return takes off the stack, where it says so itself."""
        popping = node.popping
        variadic = self.signature is not None and self.trampoline in self.environment.variadic
        architecture = self.environment.target.architecture
        if popping is None:
            if variadic and self.signature is not None and self.signature.convention.callee_pops:
                self._does_not_pop(node.span)
            return None
        if self.scope.check:
            self.report.error("R050", "`popping` belongs in a trampoline", popping.span)
            return None
        bytes_ = self.value(popping, self.word_type, "a number of bytes")
        if architecture.pop_register is None:
            message = f"on {self.environment.target.name} nobody pops the caller's arguments"
            notes = ["`when 386 { return x popping n } else { return x }`"]
            self.report.error("R085", message, popping.span, notes=notes)
        elif not variadic:
            notes = ["how many bytes a call passes is known here, and a convention with `pops callee` takes them off"]
            self.report.error("R085", "`popping` is for a trampoline of any words", popping.span, notes=notes)
        return bytes_

    def _does_not_pop(self, span: Span) -> None:
        convention = self.signature.convention.name if self.signature is not None else ""
        message = f"{convention} pops the arguments, and nothing says how many bytes there are"
        self.report.error("R085", message, span, notes=["`return x popping BYTES`"])

    def _not_through_the_table(self, name: str, span: Span) -> None:
        table = self.environment.entered[name]
        if table is not None:
            message = f"`{name}` is entered through a table: without it, it has no `table index`"
            notes = [f"`&{table.name}` is the address of the first entry"]
            self.report.error("R083", message, span, notes=notes, related=[(table.span, "the table")])

    def _address_of_slot(self, name: s.Name, span: Span) -> ir.Expression | None:
        """Of what a body declares, a struct in the frame has an address, and nothing else."""
        variable = self.scope.variables[name.parts[0]]
        if variable in self.untyped:
            return None
        if variable.kind != "struct":
            notes = ["a slot of a struct type has one: `frame { place: STRUCT }`, and `&place`"]
            self.report.error("R080", f"`{variable.name}` is a value, which has no address", name.span, notes=notes)
            return None
        if len(name.parts) > 1:
            field_ = ".".join(name.parts[1:])
            notes = [f"`&{variable.name} + offsetof({variable.type.struct}, {field_})`"]
            self.report.error("R080", "`&` is for a whole struct", name.span, notes=notes)
            return None
        return ir.SlotAddress(variable, span) if self._may_use(variable, name.span) else None

    def _address_of_variable(self, variable: ir.ExternVariable, span: Span) -> ir.Expression:
        struct = variable.type if isinstance(variable.type, str) else None
        return ir.SymbolAddress(variable.name, pointer_to(struct, 8 * self.environment.word), span)

    def _extern_variable(self, name: s.Name) -> s.Name | None:
        """The name of an extern variable, if a path begins with it, as its first part."""
        if name.parts[0] in self.scope.variables or not self.environment.variables:
            return None
        for end in range(len(name.parts), 0, -1):
            if ".".join(name.parts[:end]) in self.environment.variables:
                whole = ".".join(name.parts[:end])
                span = Span(name.span.source, name.spans[0].start, name.spans[end - 1].end)
                return s.Name((whole, *name.parts[end:]), (span, *name.spans[end:]), name.span)
        return None

    def _variable_place(self, name: s.Name) -> tuple[ir.Expression, int, ir.Type | str, bool] | None:
        """What a path from an extern variable leads to: address, offset, type, and whether it is an array."""
        variable = self.environment.variables[name.parts[0]]
        if variable is None:
            return None
        address = self._address_of_variable(variable, name.spans[0])
        if len(name.parts) == 1:
            return address, 0, variable.type, variable.count is not None
        if isinstance(variable.type, ir.Type) and variable.count is None:
            address = ir.Load(address, 0, variable.type, name.spans[0])
        elif variable.count is not None:
            address = ir.Convert(address, self._scalar("ptr"), name.spans[0])
        reached = self._reach(address, name.parts, name.spans)
        if reached is None:
            return None
        return reached[0], reached[2], reached[1].type, reached[1].count is not None

    def thread_type(self) -> ir.Type:
        """`g` points to the struct called g, if there is one."""
        word = 8 * self.environment.word
        struct = "g" if "g" in self.environment.layouts.declarations else None
        return pointer_to(struct, word)

    def _path(self, node: s.Path, expected: ir.Type | None) -> ir.Expression | None:
        parts, spans = node.name.parts, node.name.spans
        first = parts[0]
        value: ir.Expression | None
        variable = self.scope.variables.get(first)
        if variable is not None:
            if len(parts) == 1 and variable.kind in ("parameter", "local") and variable not in self.untyped:
                return ir.Read(variable, spans[0])
            if variable.kind == "stack":
                if parts[1:] != ("top",):
                    message = f"{first} is a stack: write `{first}.top`, its highest address"
                    self.report.error("R039", message, node.span)
                    return None
                return ir.StackPlace(first, self.word_type, node.span)
            if variable in self.untyped or not self._may_use(variable, spans[0]):
                return None
            if variable.kind == "struct" and len(parts) == 1:
                notes = [f"`&{first}` is its address", f"its fields are values: `{first}.FIELD`"]
                self.report.error("R040", f"`{first}` is a struct, not a value", node.span, notes=notes)
                return None
            value = self._base_of(variable, spans[0])
        elif str(node.name) in self.environment.constant_nodes:
            number = self.constant_named(str(node.name), node.span)
            return None if number is None else self._literal(number, expected or self.word_type, node.span)
        elif (name := self._extern_variable(node.name)) is not None:
            place = self._variable_place(name)
            return None if place is None else self._loaded(node, *place)
        elif first == "g":
            value = self._thread(spans[0]) if len(parts) == 1 else self._thread_base(spans[0])
        elif first == "sp" and len(parts) == 1:
            return ir.Special("sp", self.word_type, node.span)
        elif first == "any" and len(parts) == 1 and self.scope.check:
            return ir.Special("any", expected or self.word_type, node.span)
        else:
            self._unknown_name(node.name)
            return None
        if value is None or len(parts) == 1:
            return value
        reached = self._reach(value, parts, spans)
        if reached is None:
            return None
        address, field_, offset = reached
        return self._loaded(node, address, offset, field_.type, field_.count is not None)

    def _base_of(self, variable: ir.Variable, span: Span) -> ir.Expression:
        """What the fields of a variable are reached from."""
        return ir.SlotAddress(variable, span) if variable.kind == "struct" else ir.Read(variable, span)

    def _loaded(
        self, node: s.Path, address: ir.Expression, offset: int, type_: ir.Type | str, array: bool
    ) -> ir.Expression | None:
        if isinstance(type_, str) or array:
            what = "a struct" if isinstance(type_, str) else "an array"
            message = f"`{node.name}` is {what}, not a value"
            self.report.error("R040", message, node.span, notes=["name a field of it, or use `offsetof`"])
            return None
        return ir.Load(address, offset, type_, node.span)

    def _unknown_name(self, name: s.Name) -> None:
        first = name.parts[0]
        known = [*self.scope.variables, *self.environment.constant_nodes, *_SPECIAL_NAMES]
        text = str(name)
        if text in self.environment.signatures:
            message = f"`{text}` is a function: `call {text}(...)` calls it and `&{text}` is its address"
            self.report.error("R041", message, name.span)
            return
        notes = suggestion(text, self.environment.variables) or suggestion(first, known)
        self.report.error("R041", f"there is nothing called `{first}` here", name.spans[0], notes=notes)

    def _thread(self, span: Span) -> ir.Expression | None:
        if self._thread_convention() is None:
            conventions = self.environment.conventions
            having = sorted(n for n, c in conventions.items() if c.thread is not None)
            message = "nothing here says where `g` is kept"
            notes = [f"conventions with a thread's `g` on {self.environment.target.name}: {' '.join(having) or 'none'}"]
            self.report.error("R042", message, span, notes=notes)
            return None
        return ir.Thread(self.thread_type(), span)

    def _indirect(self) -> bool:
        """Whether `g` is in a word whose address is in the thread-local one."""
        convention = self._thread_convention()
        return convention is not None and isinstance(convention.thread, ThreadSlot) and convention.thread.indirect

    def _has_place(self, span: Span) -> bool:
        if not self._indirect():
            name = self.environment.target.name
            notes = [
                "it is the thread-local word that points to where `g` is: `when windows/386, windows/amd64 { ... }`"
            ]
            self.report.error("R095", f"`g` has no place of its own on {name}", span, notes=notes)
            return False
        return True

    def _thread_base(self, span: Span) -> ir.Expression | None:
        """`g` before a field: where it is, for whoever reaches through it takes it for not null."""
        thread = self._thread(span)
        if thread is None or not self._indirect():
            return thread
        return ir.Load(ir.ThreadPlace(self.word_type, span), 0, self.thread_type(), span)

    def _thread_convention(self) -> Convention | None:
        """Whose `g` a body means: its own convention's, or else that of the one convention that has a thread."""
        if self.signature is not None and self.signature.convention.thread is not None:
            return self.signature.convention
        having = [c for c in self.environment.conventions.values() if c.thread is not None]
        return having[0] if having else None

    def _may_use(self, variable: ir.Variable, span: Span, *, write: bool = False) -> bool:
        if variable.kind not in ("slot", "struct"):
            return True
        if self.scope.stack:
            message = f"`{variable.name}` is in the frame on the stack that this block has left"
            notes = [f"copy it before the block: `let x = {variable.name}`"]
            if variable.kind == "struct":
                notes = [f"take its address before the block: `let x = &{variable.name}`"]
            self.report.error("R043", message, span, notes=notes)
            return False
        if not write and variable.kind == "slot" and variable not in self.scope.set_slots:
            message = f"`{variable.name}` is read before it is set (on some way to here)"
            self.report.error("R044", message, span, related=[(variable.span, "the slot")])
            return False
        return True

    def _reach(
        self, value: ir.Expression, parts: Sequence[str], spans: Sequence[Span]
    ) -> tuple[ir.Expression, ir.StructField, int] | None:
        """Follow `a.b.c`: pointers are loaded, nested structs add their offset. The last field is left unloaded."""
        layouts = self.environment.layouts
        struct = value.type.struct
        offset = 0
        found: ir.StructField | None = None
        for index in range(1, len(parts)):
            if found is not None:
                if isinstance(found.type, str) and found.count is None:
                    struct = found.type
                elif isinstance(found.type, ir.Type) and found.count is None:
                    value = ir.Load(value, offset, found.type, spans[index - 1])
                    struct, offset = found.type.struct, 0
                else:
                    struct = None
            if struct is None:
                before = ".".join(parts[:index])
                kind = value.type if found is None or isinstance(found.type, ir.Type) else found.type
                message = f"`{before}` is a {kind}, which has no fields"
                notes = ["give it a type that has: `as ptr<...>`"]
                self.report.error("R045", message, spans[index], notes=notes)
                return None
            layout = layouts.struct(struct, spans[index])
            if layout is None:
                return None  # where it is named or declared, a mistake has been reported
            if parts[index] not in layout.fields:
                notes = [*suggestion(parts[index], layout.fields), f"{struct} has {listed(layout.fields)}"]
                self.report.error("R033", f"struct {struct} has no field `{parts[index]}`", spans[index], notes=notes)
                return None
            found = layout.fields[parts[index]]
            offset += found.offset
        assert found is not None
        return value, found, offset

    def _address(self, node: s.Expression) -> tuple[ir.Expression, int] | None:
        """A word that is an address, with a constant part taken out of it."""
        value = self.expression(node, self.word_type)
        if value is None:
            return None
        if value.type.kind == "float" or value.type.bits != 8 * self.environment.word:
            self.report.error("R046", f"an address is a word, and this is {value.type}", node.span)
            return None
        if isinstance(value, ir.Operation) and isinstance(value.right, ir.Constant):
            limit = 1 << 11
            if value.operator == "add" and -limit <= value.right.value < limit:
                return value.left, value.right.value
            if value.operator == "sub" and -limit < value.right.value <= limit:
                return value.left, -value.right.value
        return value, 0

    def _is_integer(self, value: ir.Expression, span: Span) -> bool:
        if value.type.kind == "float":
            message = f"{value.type} is moved about here, and never computed with"
            self.report.error("R034", message, span)
            return False
        return True

    def _binary(self, node: s.Binary, expected: ir.Type | None) -> ir.Expression | None:
        shift = node.operator in ("<<", ">>")
        pair = self._pair(node.left, node.right, expected, same=not shift)
        if pair is None:
            return None
        left, right = pair
        if not self._is_integer(left, node.left.span) or not self._is_integer(right, node.right.span):
            return None
        operator = _OPERATORS[node.operator]
        if shift and isinstance(right, ir.Constant) and not 0 <= right.value < left.type.bits:
            message = f"cannot shift {left.type} by {right.value}"
            self.report.error("R032", message, node.right.span, notes=[f"from 0 to {left.type.bits - 1}"])
            return None
        if operator == "shr" and left.type.signed:
            operator = "sar"
        word = 8 * self.environment.word
        if left.type.bits > word and operator in ("mul", "shl", "shr", "sar"):
            message = f"`{node.operator}` is not there for {left.type} on a machine of {word}-bit words"
            self.report.error("R047", message, node.span)
            return None
        type_ = left.type
        if type_.kind != "pointer" and right.type.kind == "pointer":
            type_ = right.type
        return self._operation(operator, left, right, type_, node.span)

    def _operation(
        self, operator: str, left: ir.Expression, right: ir.Expression, type_: ir.Type, span: Span
    ) -> ir.Expression:
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            mask = (1 << type_.bits) - 1
            symbol = {v: k for k, v in _OPERATORS.items()}.get(operator, ">>")
            # Of a type, and so cut to it, however large it is in between; a shift has been looked at.
            folded = self._computed(symbol, left.value, right.value) & mask
            if type_.signed and folded >> (type_.bits - 1):
                folded -= 1 << type_.bits
            return ir.Constant(folded, type_, span)
        return ir.Operation(operator, left, right, type_, span)  # type: ignore[arg-type]  # one of _OPERATORS or sar

    def _pair(
        self, left_node: s.Expression, right_node: s.Expression, expected: ir.Type | None, *, same: bool
    ) -> tuple[ir.Expression, ir.Expression] | None:
        """Both operands, a literal taking the type of the other one."""
        if not same:
            left = self.expression(left_node, expected)
            right = self.expression(right_node, left.type if left and left.type.kind == "int" else None)
        elif self._takes_type(left_node) and not self._takes_type(right_node):
            right = self.expression(right_node, expected)
            left = self.expression(left_node, right.type if right else expected)
        else:
            left = self.expression(left_node, expected)
            right = self.expression(right_node, left.type if left else expected)
        if left is None or right is None:
            return None
        if same and left.type.bits != right.type.bits and left.type.kind != "float" and right.type.kind != "float":
            message = f"{left.type} and {right.type} differ in width"
            notes = [f"say which is meant: `... as {left.type}` or `... as {right.type}`"]
            self.report.error("R048", message, right_node.span, notes=notes)
            return None
        return left, right

    def _takes_type(self, node: s.Expression) -> bool:
        """Whether it has the type that is expected of it."""
        if isinstance(node, s.Path):
            return str(node.name) in self.environment.constant_nodes
        if isinstance(node, s.Unary):
            return self._takes_type(node.operand)
        return isinstance(node, (s.Integer, s.Null, s.SizeOf, s.OffsetOf))

    def _convert(self, value: ir.Expression, type_: ir.Type, span: Span) -> ir.Expression:
        if isinstance(value, ir.Constant):
            masked = value.value & ((1 << type_.bits) - 1)
            if type_.signed and masked >> (type_.bits - 1):
                masked -= 1 << type_.bits
            return ir.Constant(masked, type_, span)
        return ir.Convert(value, type_, span)

    def value(self, node: s.Expression, type_: ir.Type, what: str) -> ir.Expression | None:
        """An expression that is assigned to something of a type."""
        value = self.expression(node, type_)
        if value is None or value.type is type_ or self._fits(value, type_, node.span, what):
            return value
        return None

    def _fits(self, value: ir.Expression, type_: ir.Type, span: Span, what: str) -> bool:
        found = value.type
        if (found.kind == "float") != (type_.kind == "float") or found.bits != type_.bits:
            notes = [] if "float" in (found.kind, type_.kind) else [f"convert it: `... as {type_}`"]
            self.report.error("R049", f"{what} is {type_}, and this is {found}", span, notes=notes)
            return False
        if found.struct and type_.struct and found.struct != type_.struct:
            notes = [f"if that is meant: `... as {type_}`"]
            self.report.error("R049", f"{what} is {type_}, and this is {found}", span, notes=notes)
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- conditions

    def condition(self, node: s.Expression) -> ir.Condition | None:
        match node:
            case s.Compare(operator=operator, left=left, right=right, span=span):
                pair = self._pair(left, right, None, same=True)
                if pair is None:
                    return None
                a, b = pair
                if not self._is_integer(a, left.span) or not self._is_integer(b, right.span):
                    return None
                table = _SIGNED if a.type.signed else _UNSIGNED
                if a.type.signed != b.type.signed and operator not in ("==", "!="):
                    message = f"{a.type} and {b.type} differ in sign, so `{operator}` has no one meaning"
                    self.report.error("R048", message, span, notes=[f"say which is meant: `... as {a.type}`"])
                    return None
                if a.type.signed != b.type.signed:
                    b = self._convert(b, a.type, b.span)
                return ir.Comparison(table[operator], a, b, span)  # type: ignore[arg-type]  # values of the tables
            case s.Logical(operator=operator, left=left, right=right, span=span):
                one, two = self.condition(left), self.condition(right)
                if one is None or two is None:
                    return None
                return ir.Both(one, two, span) if operator == "and" else ir.Either(one, two, span)
            case s.Not(operand=operand, span=span):
                inner = self.condition(operand)
                return ir.Negated(inner, span) if inner is not None else None
            case _:
                if self.expression(node) is not None:
                    message = "this is a value, and a condition is needed here"
                    self.report.error("R036", message, node.span, notes=["compare it: `... != 0`"])
                return None

    # ---------------------------------------------------------------------------------------------------- statements

    def block(self, node: s.Block) -> tuple[ir.Statement, ...]:
        """The statements of a block in a scope of their own."""
        outer = self.scope
        self.scope = outer.inner()
        statements = tuple(self._statements(node.statements))
        inner = self.scope
        self.scope = outer
        self.last_set = inner.set_slots
        return statements

    def _statements(self, nodes: Sequence[s.Statement]) -> Sequence[ir.Statement]:
        made: list[ir.Statement] = []
        for node in nodes:
            made += _STATEMENTS[node.__class__](self, node)
        return made

    def _call_statement(self, node: s.Call) -> Sequence[ir.Statement]:
        made = self._call(node.call, None)
        return [made] if made is not None else []

    def _save_statement(self, node: s.Save) -> Sequence[ir.Statement]:
        if node.place is not None:
            return self._save_frame(node)
        self._save(node)
        return []

    def _resume(self, node: s.Resume) -> Sequence[ir.Statement]:
        stack = self.value(node.sp, self.word_type, "the stack pointer")
        address = self.value(node.pc, self.word_type, "the program counter")
        if self.scope.check:
            self.report.error("R050", "`resume` belongs in a trampoline", node.span)
        return [ir.Resume(stack, address, node.span)] if stack is not None and address is not None else []

    def _trap(self, node: s.Trap) -> Sequence[ir.Statement]:
        if self.scope.check:
            notes = ["a check fails by `expect`"]
            self.report.error("R050", "`trap` belongs in a trampoline", node.span, notes=notes)
        return [ir.Trap(node.span)]

    def _when(self, node: s.When) -> Sequence[ir.Statement]:
        """A `when` is no scope of its own: what it declares is there for the statements behind it."""
        chosen = node.then if self.environment.holds(node.targets) else node.otherwise
        return self._statements(chosen.statements) if chosen is not None else []

    def _expect(self, node: s.Expect) -> Sequence[ir.Statement]:
        if not self.scope.check:
            self.report.error("R050", "`expect` belongs in a check", node.span, notes=["`check NAME { ... }`"])
        condition = self.condition(node.condition)
        return [ir.Expect(condition, node.span)] if condition is not None else []

    def _save(self, node: s.Save) -> None:
        what = str(node.what)
        if what == "callee_saves":
            self.save = True
        elif what == "none":
            self.save = False
        else:
            notes = [*suggestion(what, ["callee_saves", "none"]), "`save callee_saves` or `save none`"]
            self.report.error("R051", f"`{what}` is no set of registers", node.what.span, notes=notes)
        if self.scope.check:
            self.report.error("R050", "`save` belongs in a trampoline", node.span)

    def _save_frame(self, node: s.Save | s.Restore) -> Sequence[ir.Statement]:
        """`save callee_saves in a.b`, `restore callee_saves from a.b`: the field has to have room for them."""
        if str(node.what) != "callee_saves":
            self.report.error("R051", f"`{node.what}` is nothing that can be kept elsewhere", node.what.span)
            return []
        restores = isinstance(node, s.Restore)
        what = "`restore callee_saves`" if restores else "`save callee_saves in`"
        place = node.place
        assert place is not None
        variable = self.scope.variables.get(place.parts[0])
        if self.scope.check or self.scope.stack:
            self.report.error("R099", f"{what} belongs in the body of a trampoline", node.span)
        elif restores and self.switched is None:
            notes = ["behind `switch stack`, which goes to where they belong"]
            self.report.error(
                "R099", f"{what} would overwrite the frame that its own caller needs", node.span, notes=notes
            )
        elif not restores and not self.suspends:
            notes = ["behind the signature: `suspends PARAMETER`"]
            self.report.error("R099", f"{what}: nothing says that this call is suspended", node.span, notes=notes)
        elif variable is None or len(place.parts) < 2:
            notes = [
                "`restore callee_saves from POINTER.FIELD`" if restores else "`save callee_saves in POINTER.FIELD`"
            ]
            self.report.error("R099", f"`{place}` is no field of a struct", place.span, notes=notes)
        else:
            found = self._reach(self._base_of(variable, place.span), place.parts, place.spans)
            if found is not None:
                address, field_, offset = found
                return [ir.SaveFrame(address, offset, field_.size, restores, node.span)]
        return []

    def _frame(self, node: s.FrameBlock) -> Sequence[ir.Statement]:
        if self.scope.check or self.scope.stack:
            self.report.error("R050", "`frame` belongs at the top of a trampoline", node.span)
            return []
        for slot in node.slots:
            layout = self._struct_named(slot.type)
            type_: ir.Type | None
            if layout is not None:
                type_ = pointer_to(layout.name, 8 * self.environment.word)
            else:
                type_ = self.environment.layouts.type(slot.type, place="slot")
            pin: int | None = None
            if slot.place is not None and not isinstance(slot.place, str):
                pin = self.constant(slot.place)
                if pin is not None and not 0 <= pin < 1 << 16:
                    self.report.error("R052", f"a slot is at 0 to 65535 bytes above sp, not at {pin}", slot.place.span)
            place = "bottom" if slot.place == "bottom" else pin
            known = type_ or self.word_type
            kind: Literal["slot", "struct"] = "slot" if layout is None else "struct"
            size, alignment = (layout.size, layout.alignment) if layout is not None else (0, 0)
            variable = ir.Variable(slot.name, known, kind, slot.span, place, size, alignment)  # type: ignore[arg-type]  # "bottom" or int
            self._declare(variable)
            if type_ is None:
                self.untyped.add(variable)
            self.slots.append(variable)
        return []

    def _struct_named(self, type_: s.TypeName) -> ir.StructLayout | None:
        """The struct that a slot's type is, with a size and no mistake; None where it is another type."""
        layouts = self.environment.layouts
        if type_.pointee is not None or type_.count is not None or type_.name not in layouts.declarations:
            return None
        layout = layouts.struct(type_.name, type_.span)
        return layout if layout is not None and layout.size else None

    def _declare(self, variable: ir.Variable) -> None:
        known = self.scope.variables.get(variable.name)
        if known is not None:
            message = f"`{variable.name}` is declared twice"
            self.report.error("R002", message, variable.span, related=[(known.span, "first here")])
        elif variable.name == "g" and variable.kind != "parameter":
            self.report.error("R002", "`g` is the runtime's thread", variable.span, notes=["take another name"])
        self.scope.variables[variable.name] = variable
        self.depth_of[variable] = self.scope.stack

    def _let(self, node: s.Let) -> Sequence[ir.Statement]:
        type_ = self.environment.layouts.type(node.type) if node.type else None
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, type_, wanted=True)
            if made is None or made.result is None:
                self._declare_untyped(node, type_)
                return []
            variable = ir.Variable(node.name, type_ or made.result, "local", node.name_span)
            self._declare(variable)
            return [_with_variable(made, variable)]
        value = self.value(node.value, type_, f"`{node.name}`") if type_ else self.expression(node.value)
        if value is None or (node.type is not None and type_ is None):
            self._declare_untyped(node, type_)
            return []
        variable = ir.Variable(node.name, type_ or value.type, "local", node.name_span)
        self._declare(variable)
        return [ir.Assign(variable, value, node.span)]

    def _declare_untyped(self, node: s.Let, type_: ir.Type | None) -> None:
        """Declared in spite of its mistake, so that its uses are not reported as well."""
        variable = ir.Variable(node.name, type_ or self.word_type, "local", node.name_span)
        self._declare(variable)
        if type_ is None:
            self.untyped.add(variable)

    def _assign(self, node: s.Assign) -> Sequence[ir.Statement]:
        if isinstance(node.place, s.Memory):
            type_ = self.environment.layouts.type(node.place.type)
            where = self._address(node.place.address)
            value = self._right_side(node.value, type_, "this memory") if type_ else None
            if type_ is not None and where is not None and value is not None:
                return [ir.Store(where[0], where[1], value, type_, node.span)]
            return []
        if isinstance(node.place, s.Special):
            value = self._right_side(node.value, self.word_type, "`g place`")
            if self._has_place(node.place.span) and value is not None:
                return [ir.SetThreadPlace(value, node.span)]
            return []
        parts, spans = node.place.name.parts, node.place.name.spans
        first = parts[0]
        variable = self.scope.variables.get(first)
        base: ir.Expression | None
        if variable is not None and variable.kind == "stack":
            self.report.error("R039", f"{first} is a stack and cannot be set", node.span)
            return []
        if variable is not None and variable in self.untyped:
            self.scope.set_slots.add(variable)
            if not isinstance(node.value, s.CallExpression):
                self.expression(node.value)
            return []
        if variable is not None:
            if len(parts) == 1:
                return self._assign_variable(variable, node)
            if not self._may_use(variable, spans[0]):
                return []
            base = self._base_of(variable, spans[0])
        elif (name := self._extern_variable(node.place.name)) is not None:
            place = self._variable_place(name)
            if place is not None:
                return self._store(node, *place)
            return []
        elif first == "g":
            if len(parts) == 1:
                thread = self._thread(spans[0])
                value = self._right_side(node.value, self.thread_type(), "`g`")
                if thread is not None and value is not None:
                    if self._indirect():
                        local = ir.ThreadPlace(self.word_type, spans[0])
                        return [ir.Store(local, 0, value, self.thread_type(), node.span)]
                    return [ir.SetThread(value, node.span)]
                return []
            base = self._thread_base(spans[0])
        elif first == "sp" and len(parts) == 1:
            notes = ["`on stack` switches for a while, `resume` for good"]
            self.report.error("R053", "`sp` is not set directly", node.span, notes=notes)
            return []
        else:
            self._unknown_name(node.place.name)
            return []
        if base is None:
            return []
        reached = self._reach(base, parts, spans)
        if reached is None:
            return []
        address, field_, offset = reached
        return self._store(node, address, offset, field_.type, field_.count is not None)

    def _store(
        self, node: s.Assign, address: ir.Expression, offset: int, type_: ir.Type | str, array: bool
    ) -> Sequence[ir.Statement]:
        assert isinstance(node.place, s.Path)
        if isinstance(type_, str) or array:
            self.report.error("R040", f"`{node.place.name}` is not a value that can be set", node.place.span)
            return []
        value = self._right_side(node.value, type_, f"`{node.place.name}`")
        if value is not None:
            return [ir.Store(address, offset, value, type_, node.span)]
        return []

    def _right_side(self, node: s.Expression, type_: ir.Type, what: str) -> ir.Expression | None:
        if isinstance(node, s.CallExpression):
            notes = ["`let x = call f()`, then use x"]
            self.report.error("R035", "a call's result is first given a name", node.span, notes=notes)
            return None
        return self.value(node, type_, what)

    def _assign_variable(self, variable: ir.Variable, node: s.Assign) -> Sequence[ir.Statement]:
        if not self._may_use(variable, node.place.span, write=True):
            return []
        if variable.kind in ("object", "struct"):
            what = "an object" if variable.kind == "object" else "a struct"
            self.report.error("R053", f"`{variable.name}` is {what}; set its fields", node.span)
            return []
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, variable.type, wanted=True)
            if made is not None:
                self.scope.set_slots.add(variable)
                return [_with_variable(made, variable)]
            return []
        value = self.value(node.value, variable.type, f"`{variable.name}`")
        if value is not None:
            self.scope.set_slots.add(variable)
            return [ir.Assign(variable, value, node.span)]
        return []

    def _if(self, node: s.If) -> Sequence[ir.Statement]:
        condition = self.condition(node.condition)
        then = self.block(node.then)
        after_then = self.last_set if not ends(then) else None
        otherwise: tuple[ir.Statement, ...] = ()
        after_else: set[ir.Variable] | None = set(self.scope.set_slots)
        if node.otherwise is not None:
            otherwise = self.block(node.otherwise)
            after_else = self.last_set if not ends(otherwise) else None
        ways = [way for way in (after_then, after_else) if way is not None]
        if ways:
            self.scope.set_slots = set.intersection(*ways)
        if condition is not None:
            return [ir.If(condition, then, otherwise, node.span)]
        return []

    def _while(self, node: s.While) -> Sequence[ir.Statement]:
        condition = self.condition(node.condition)
        saved = self.scope.in_loop, self.scope.loop
        self.scope.in_loop, self.scope.loop = True, self.scope.stack
        body = self.block(node.body)
        self.scope.in_loop, self.scope.loop = saved
        if condition is not None:
            return [ir.While(condition, body, node.span)]
        return []

    def _leave_loop(self, node: s.Break | s.Continue) -> Sequence[ir.Statement]:
        span = node.span
        word = "break" if isinstance(node, s.Break) else "continue"
        if not self.scope.in_loop:
            self.report.error("R054", f"`{word}` outside a loop", span)
        elif self.scope.loop != self.scope.stack:
            self.report.error("R054", f"`{word}` would jump out of `on stack`", span, notes=["let the block end first"])
        else:
            return [ir.Break(span) if word == "break" else ir.Continue(span)]
        return []

    def _on_stack(self, node: s.OnStack) -> Sequence[ir.Statement]:
        if self.scope.check:
            self.report.error("R050", "`on stack` belongs in a trampoline", node.span, notes=["use `call f() at sp`"])
        stack = self.value(node.stack, self.word_type, "a stack pointer")
        pc = self.value(node.pc, self.word_type, "a program counter") if node.pc is not None else None
        convention = self.signature.convention if self.signature else None
        if node.pc is not None and convention is not None and convention.return_slot == "none":
            message = f"{convention.name} fixes no place in a frame for a return address, so none can be pushed"
            notes = [f"a {convention.name} trampoline can switch stacks without `pushing pc`"]
            self.report.error("R055", message, node.pc.span, notes=notes)
            pc = None
        outer = self.scope
        self.scope = outer.inner()
        self.scope.stack += 1
        self.scope.pushed = node.pc is not None
        body = tuple(self._statements(node.body.statements))
        self.scope = outer
        if stack is not None and (node.pc is None or pc is not None):
            return [ir.OnStack(stack, pc, body, node.span)]
        return []

    def _switch_stack(self, node: s.SwitchStack) -> Sequence[ir.Statement]:
        stack = self.value(node.stack, self.word_type, "the stack pointer")
        if self.scope.check:
            self.report.error("R099", "`switch stack` belongs in a trampoline", node.span)
        elif self.scope.stack:
            message = "`switch stack` inside `on stack`: no other frame has got so far"
            self.report.error("R099", message, node.span, notes=["end the block before"])
        elif self.slots:
            message = "behind `switch stack` the slots of `frame` are those of another call"
            notes = ["keep what both sides need in what the context points to"]
            self.report.error("R099", message, node.span, notes=notes, related=[(self.slots[0].span, "the first slot")])
        elif self.switches is False:
            message = "`switch stack` goes on in another call, and nothing says in which"
            notes = ["behind the signature: `suspends PARAMETER resumes PARAMETER`"]
            self.report.error("R099", message, node.span, notes=notes)
        self.switched = node
        if stack is not None:
            return [ir.SwitchStack(stack, node.span)]
        return []

    def _return(self, node: s.Return) -> Sequence[ir.Statement]:
        wanted = self.handler_result if self.scope.check else (self.signature.result if self.signature else None)
        if self.scope.stack:
            message = "`return` inside `on stack`: the block ends first, and restores the stack"
            self.report.error("R056", message, node.span)
            return []
        popping = self._popping(node)
        if node.value is None:
            if wanted is not None and not self.scope.check and self.result_is_known:
                self.report.error("R057", f"this trampoline returns {wanted}, and here nothing", node.span)
                return []
            return [ir.Return(None, node.span, popping)]
        if wanted is None:
            notes = ["give it a result: `trampoline f() -> uptr using ...`"]
            self.report.error("R057", "there is no result to return a value as", node.span, notes=notes)
            return []
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, wanted, wanted=True)
            if made is not None:
                variable = ir.Variable("result", wanted, "local", node.span)
                back = ir.Return(ir.Read(variable, node.span), node.span, popping)
                return [_with_variable(made, variable), back]
            return []
        if not self.result_is_known:
            self.expression(node.value)  # for what is wrong in itself
            return []
        value = self.value(node.value, wanted, "the result")
        if value is not None:
            return [ir.Return(value, node.span, popping)]
        return []

    # --------------------------------------------------------------------------------------------------------- calls

    def _callee(
        self, call: s.CallExpression
    ) -> tuple[str | ir.Expression, ir.Signature | None, Convention | None] | None:
        name = str(call.callee)
        signatures = self.environment.signatures
        if name in self.environment.variadic:
            message = f"`{name}` takes any number of words, and is called from elsewhere only"
            notes = [f"`&{name}` is its address"]
            self.report.error("R084", message, call.callee.span, notes=notes)
            return None
        if name in self.environment.entered and not self.scope.check:
            self._not_through_the_table(name, call.callee.span)
            return None
        if name in signatures:
            if call.convention is not None:
                message = f"`{name}` has been declared: using {signatures[name].convention.name}"
                self.report.error("R058", message, call.convention.span)
            return name, signatures[name], signatures[name].convention
        known = call.callee.parts[0] in self.scope.variables or call.callee.parts[0] == "g"
        if known or self._extern_variable(call.callee) is not None:
            address = self._path(s.Path(call.callee, call.callee.span), None)
            if address is None:
                return None
            if address.type.bits != 8 * self.environment.word or address.type.kind == "float":
                message = f"`{name}` is {address.type}, and what is called is an address"
                self.report.error("R046", message, call.callee.span)
                return None
            if call.convention is None:
                message = f"`{name}` is called through a pointer: say by which convention"
                self.report.error("R058", message, call.callee.span, notes=[f"`call {name}(...) using c`"])
                return None
            convention = self.environment.convention(call.convention)
            return None if convention is None else (address, None, convention)
        if name in self.environment.misdeclared:
            return None
        notes = suggestion(name, [*signatures, *self.scope.variables])
        message = f"there is no extern, trampoline or variable `{name}` to call"
        self.report.error("R022", message, call.callee.span, notes=notes)
        return None

    def _arguments(self, call: s.CallExpression, signature: ir.Signature | None) -> tuple[ir.Expression, ...] | None:
        if signature is None:
            values = [self.expression(argument) for argument in call.arguments]
        else:
            if len(call.arguments) != len(signature.parameters):
                count = len(signature.parameters)
                plural = "s" * (count != 1)
                message = f"`{signature.name}` takes {count} argument{plural}, and here are {len(call.arguments)}"
                related = [(self.environment.where(signature.name, s.Extern, s.Trampoline), "declared here")]
                self.report.error("R059", message, call.span, related=related)
                for argument in call.arguments:
                    self.expression(argument)
                return None
            values = [
                self.value(argument, type_, f"parameter `{name}`")
                for argument, (name, type_) in zip(call.arguments, signature.parameters, strict=True)
            ]
        made = tuple(value for value in values if value is not None)
        return made if len(made) == len(values) else None

    def _call(self, call: s.CallExpression, expected: ir.Type | None, *, wanted: bool = False) -> ir.Call | None:
        if call.number is not None:
            return self._system_call(call, call.number, expected, wanted=wanted)
        if call.at is not None and not self.scope.check:
            self.report.error("R050", "`at` belongs in a check", call.at.span, notes=["use `on stack`"])
        found = self._callee(call)
        if found is None:
            for argument in call.arguments:
                self.expression(argument)
            return None
        callee, signature, convention = found
        assert convention is not None
        arguments = self._arguments(call, signature)
        result = signature.result if signature else None
        if call.result is not None:
            if signature is not None:
                self.report.error("R058", f"the result of `{signature.name}` has been declared", call.result.span)
            result = self.environment.layouts.type(call.result)
        if wanted and result is None:
            if signature is None and call.result is None:
                notes = [f"`call {call.callee}(...) using {convention.name} -> uptr`"]
                self.report.error("R057", "this call's result has no type", call.span, notes=notes)
            elif signature is not None:
                related = [(self.environment.where(signature.name, s.Extern, s.Trampoline), "declared here")]
                self.report.error("R057", f"`{signature.name}` returns nothing", call.span, related=related)
            return None
        if wanted and expected is not None and result is not None:
            alike = result.bits == expected.bits and (result.kind == "float") == (expected.kind == "float")
            if not alike or (result.struct and expected.struct and result.struct != expected.struct):
                message = f"{expected} is wanted, and the call returns {result}"
                notes = [f"`let x = call {call.callee}(...)`, then `x as {expected}`"]
                floating = "float" in (result.kind, expected.kind)
                self.report.error("R049", message, call.span, notes=[] if floating else notes)
                return None
        at = self.value(call.at, self.word_type, "a stack pointer") if call.at is not None else None
        if self.scope.check and call.at is None:
            notes = [f"`call {call.callee}(...) at sp`"]
            self.report.error("R058", "a check says on which stack it calls", call.span, notes=notes)
        if arguments is None:
            return None
        if signature is None and not self.environment.places(
            convention, [a.type for a in arguments], result, call.span
        ):
            return None
        if not self.scope.check and signature is not None and not self._aligned(convention, call):
            return None
        clobbers = signature.clobbers if signature else None
        return ir.Call(callee, arguments, convention, result, None, clobbers, call.span, at)

    def _system_call(
        self, call: s.CallExpression, number_node: s.Expression, expected: ir.Type | None, *, wanted: bool
    ) -> ir.Call | None:
        target = self.environment.target
        kernel = target.architecture.system_calls
        number = self.value(number_node, self.word_type, "the number of a system call")
        values = [self.expression(argument) for argument in call.arguments]
        before = len(self.report.diagnostics)
        if self.scope.check:
            notes = ["`on syscall(number, ...) { }` answers it"]
            self.report.error("R050", "`syscall` belongs in a trampoline", call.span, notes=notes)
        if kernel is None:
            notes = ["call a function of the system's libraries", "`when linux { }` keeps it to where it works"]
            self.report.error("R072", f"{target.name} has no system calls that stay the same", call.span, notes=notes)
        if len(call.arguments) > MOST_SYSTEM_ARGUMENTS:
            message = (
                f"a system call takes {MOST_SYSTEM_ARGUMENTS} arguments at most, and here are {len(call.arguments)}"
            )
            self.report.error("R073", message, call.span)
        for argument, value in zip(call.arguments, values, strict=True):
            if value is not None and (value.type.kind == "float" or value.type.bits > 8 * self.environment.word):
                message = f"a system call takes words, and this is {value.type}"
                notes = [] if value.type.kind == "float" else ["pass its halves, in the order that the kernel wants"]
                self.report.error("R073", message, argument.span, notes=notes)
        if (
            wanted
            and expected is not None
            and (expected.bits != self.word_type.bits or expected.kind == "float" or expected.struct)
        ):
            message = f"{expected} is wanted, and a system call returns {self.word_type}"
            notes = ["`let x = syscall ...`, then `x as ...`"]
            self.report.error("R049", message, call.span, notes=[] if expected.kind == "float" else notes)
        arguments = tuple(value for value in (number, *values) if value is not None)
        if kernel is None or len(arguments) <= len(values) or len(self.report.diagnostics) > before:
            return None
        return ir.Call(ir.SYSTEM_CALL, arguments, kernel.convention, self.word_type, None, None, call.span)

    def _aligned(self, callee: Convention, call: s.CallExpression) -> bool:
        """Inside `on stack` the block's stack pointer is the programmer's; elsewhere the entry's alignment must do."""
        own = self.signature.convention if self.signature else None
        if own is None or self.scope.stack or callee.alignment <= own.alignment:
            return True
        message = (
            f"{callee.name} wants the stack aligned to {callee.alignment}, and a {own.name} function on"
            f" {self.environment.target.name} is entered with {own.alignment}"
        )
        notes = [f"align it around the call: `on stack sp & -{callee.alignment} {{ ... }}`"]
        self.report.error("R060", message, call.span, notes=notes)
        return False

    def _jump(self, node: s.Jump) -> Sequence[ir.Statement]:
        if self.scope.check or self.scope.stack:
            message = "`jump` belongs in a trampoline, outside `on stack`"
            self.report.error("R050", message, node.span)
            return []
        found = self._callee(node.call)
        if found is None:
            return []
        callee, signature, convention = found
        arguments = self._arguments(node.call, signature)
        if arguments is None or convention is None or self.signature is None:
            return []
        own = self.signature.convention
        if own.return_address is not convention.return_address or own.callee_pops != convention.callee_pops:
            message = f"{convention.name} does not return the way {own.name} does, so this must be a call"
            self.report.error("R061", message, node.span)
            return []
        toc = self.environment.target.architecture.toc
        if toc is not None and convention.keeps(toc) and not isinstance(callee, str):
            message = f"what a pointer leads to may be of another module, and leave its table of contents in {toc.name}"
            self.report.error("R061", message, node.span, notes=["call and return instead"])
            return []
        own_types = [v.type.value_type for v in self.signature_parameters()]
        available = own.place(own_types, None).stack_bytes
        needed = convention.place([a.type.value_type for a in arguments], None).stack_bytes
        if needed > max(available, convention.first_stack_argument):
            message = f"a jump has the caller's {available} bytes of arguments in memory, and this needs {needed}"
            self.report.error("R061", message, node.span, notes=["call and return instead"])
            return []
        lost = [
            r.name
            for r, mask in own.kept.items()
            if mask & ~convention.keeps(r) and r is not self.environment.target.architecture.sp
        ]
        if lost and convention is not own:
            message = f"{own.name} keeps registers that {convention.name} does not, and nobody is left to restore them"
            notes = ["lost: " + listed(lost), "call and return instead"]
            self.report.error("R061", message, node.span, notes=notes)
            return []
        return [ir.TailCall(callee, arguments, convention, node.span)]

    def signature_parameters(self) -> Sequence[ir.Variable]:
        return [v for v in self.scope.variables.values() if v.kind == "parameter"]

    # ----------------------------------------------------------------------------------------------------------- asm

    def _asm(self, node: s.Asm) -> Sequence[ir.Statement]:
        if self.scope.check:
            self.report.error("R050", "`asm` belongs in a trampoline", node.span)
            return []
        if not self.environment.holds(node.targets):
            return []
        before = len(self.report.diagnostics)
        inputs = []
        for operand in node.inputs:
            assert not isinstance(operand.value, str)
            register = self._asm_register(operand.register, operand.register_span)
            value = self.expression(operand.value, self.word_type)
            if register is not None and value is not None and self._asm_holds(register, value.type, operand.span):
                inputs.append((register, value))
        outputs = []
        for operand in node.outputs:
            register = self._asm_register(operand.register, operand.register_span)
            variable = self._asm_variable(str(operand.value), register, operand.span)
            if register is None or variable is None:
                continue
            if self._asm_holds(register, variable.type, operand.span):
                outputs.append((register, variable))
        named = (self._asm_register(str(c), c.span, clobber=True) for c in node.clobbers)
        clobbers = {register for register in named if register is not None}
        for what, registers in (("in", [r for r, _ in inputs]), ("out", [r for r, _ in outputs])):
            if len(set(registers)) != len(registers):
                self.report.error("R062", f"a register is named twice in `{what}`", node.span)
        if not node.lines:
            self.report.error("R062", "this `asm` has no instruction", node.span, notes=['write it as a text: "nop"'])
        if len(self.report.diagnostics) == before:
            lines = tuple((line.text, line.span) for line in node.lines)
            return [ir.Asm(tuple(inputs), tuple(outputs), frozenset(clobbers), lines, node.span)]
        return []

    def _asm_register(self, name: str, span: Span, *, clobber: bool = False) -> Register | None:
        architecture = self.environment.target.architecture
        register = self.environment.register(s.Name((name,), (span,), span))
        if register is None:
            return None
        if register is architecture.sp:
            message = f"{register.name} is the stack pointer, which `asm` may not change"
            self.report.error("R063", message, span)
            return None
        convention = self.signature.convention if self.signature else None
        if convention is not None and register in convention.reserved:
            message = f"{register.name} is reserved: {convention.reserved[register]}"
            self.report.error("R063", message, span)
            return None
        if not clobber and convention is not None:
            usable = (*allocatable(architecture, convention), *float_allocatable(architecture, convention))
            if register not in usable:
                message = f"{register.name} cannot hold a value in {convention.name} code"
                notes = ["usable here: " + listed((r.name for r in usable), 40)]
                self.report.error("R063", message, span, notes=notes)
                return None
        return register

    def _asm_holds(self, register: Register, type_: ir.Type, span: Span) -> bool:
        """Whether a value of the type fits the register: reported if not."""
        floating = register.bank is not Bank.INTEGER
        if (type_.kind == "float") == floating and (floating or type_.bits <= 8 * self.environment.word):
            return True
        what = "a floating point value" if floating else f"an integer of {8 * self.environment.word} bits or less"
        self.report.error("R065", f"{register.name} holds {what}, and this is {type_}", span)
        return False

    def _asm_variable(self, name: str, register: Register | None, span: Span) -> ir.Variable | None:
        known = self.scope.variables.get(name)
        if known is not None:
            if known.kind in ("slot", "struct"):
                self.report.error("R064", f"`{name}` is in memory; take the output in a variable first", span)
                return None
            return known
        floating = register is not None and register.bank is not Bank.INTEGER
        variable = ir.Variable(name, self._scalar("f64") if floating else self.word_type, "local", span)
        self._declare(variable)
        return variable

    # ------------------------------------------------------------------------------------------- functions and checks

    def function(
        self,
        item: s.Trampoline,
        signature: ir.Signature,
        untyped: frozenset[str],
        resumed: ir.Signature | None = None,
    ) -> ir.Function:
        """A trampoline. `untyped`: what of its signature has another type there, for want of a known one. `resumed`: of
        the calls that it returns from, if they are another's."""
        parameters = []
        for (name, type_), node in zip(signature.parameters, item.parameters, strict=True):
            variable = ir.Variable(name, type_, "parameter", node.span)
            self.scope.variables[name] = variable
            if name in untyped:
                self.untyped.add(variable)
            parameters.append(variable)
        self.result_is_known = "->" not in untyped
        before = len(self.report.diagnostics)
        clauses = {type(clause) for clause in item.clauses}
        self.suspends, self.switches = s.Suspends in clauses, s.Resumes in clauses
        if resumed is not None:
            self.signature = replace(signature, result=resumed.result)
        if item.variadic:
            self._takes_any_words(signature, item.name.span)
        assert item.body is not None
        for clause in item.clauses:
            if isinstance(clause, (s.Writes, s.Switches)):
                message = "a body says itself what it does"
                self.report.error("R097", message, clause.span, notes=["leave one of them out"])
        body = tuple(self._statements(item.body.statements))
        if self.switched is not None and not self.save:
            message = "`switch stack` gives back what another call has saved, and `save none` saves nothing"
            self.report.error("R099", message, self.switched.span, notes=["leave `save none` out"])
        # A statement with a mistake is not in the body: it may be the very `return`, of a constant with a mistake.
        right = len(self.report.diagnostics) == before and None not in self.environment.constants.values()
        right = right and self.result_is_known and self.environment.entered.get(signature.name, ...) is not None
        if signature.result is not None and not ends(body) and right:
            message = f"`{signature.name}` returns {signature.result}, and its end is reached without a `return`"
            self.report.error("R057", message, item.name.span)
        if item.variadic and signature.convention.callee_pops and signature.result is None and not ends(body):
            self._does_not_pop(item.name.span)
        return ir.Function(
            signature.name,
            tuple(parameters),
            signature.result,
            signature.convention,
            body,
            tuple(self.slots),
            self.save,
            item.span,
            self.environment.entered.get(signature.name),
            item.variadic,
        )

    def contract(self, item: s.Trampoline, signature: ir.Signature) -> ir.Function:
        """A trampoline without a body."""
        parameters = tuple(
            ir.Variable(name, type_, "parameter", node.span)
            for (name, type_), node in zip(signature.parameters, item.parameters, strict=True)
        )
        if item.variadic:
            message = f"`{signature.name}` takes any number of words, and only a body says what becomes of them"
            self.report.error("R097", message, item.name.span, notes=["declare the parameters that it has"])
        changed: dict[str, ir.Variable] = {}
        variables: dict[str, None] = {}
        switches = False
        for clause in item.clauses:
            match clause:
                case s.Switches():
                    if switches:
                        self.report.error("R097", "`switches` is said twice", clause.span)
                    switches = True
                case s.Writes(names=names):
                    for name in names:
                        self._written(name, parameters, changed, variables)
                case s.Suspends() | s.Resumes():
                    pass  # not for bodiless trampolines alone
                case _:
                    assert_never(clause)
        contract = ir.Contract(tuple(changed.values()), tuple(variables), switches)
        return ir.Function(
            signature.name,
            parameters,
            signature.result,
            signature.convention,
            (),
            (),
            True,
            item.span,
            contract=contract,
        )

    def _written(
        self,
        name: s.Name,
        parameters: Sequence[ir.Variable],
        changed: dict[str, ir.Variable],
        variables: dict[str, None],
    ) -> None:
        """One name behind `writes`."""
        text = str(name)
        parameter = next((p for p in parameters if p.name == text), None)
        if text in changed or text in variables:
            self.report.error("R097", f"`{text}` is named twice", name.span)
        elif parameter is not None and parameter.type.struct:
            changed[text] = parameter
        elif parameter is not None:
            message = f"how much `{text}` points to is not known: it is no pointer to a struct"
            self.report.error("R097", message, name.span, notes=[f"`{text}: ptr<STRUCT>`"])
        elif text in self.environment.variables:
            variables[text] = None
        else:
            notes = suggestion(text, [*(p.name for p in parameters), *self.environment.variables])
            message = f"`{text}` is neither a parameter nor an extern variable"
            self.report.error("R097", message, name.span, notes=notes)

    def scenario(self, item: s.Check, function: ir.Function, functions: Mapping[str, ir.Function]) -> ir.Scenario:
        """A check. Its objects, stacks and variables come first, whatever their order among the other items."""
        self.scope.check = True
        self.signature = None
        self.trampoline = function.name
        items = list(self._check_items(item.items))
        arguments = tuple(ir.Variable(v.name, v.type, "parameter", v.span) for v in function.parameters)
        for variable in arguments:
            self._declare(variable)
        if function.name in self.environment.misdeclared:
            self.untyped.update(arguments)
        objects, stacks = self._check_world(items)
        variables: list[tuple[ir.Variable, ir.Expression | None]] = []
        for node in items:
            if isinstance(node, s.CheckVariable):
                type_ = self.environment.layouts.type(node.type) if node.type else self.word_type
                value = self.value(node.value, type_, f"`{node.name}`") if node.value and type_ else None
                variable = ir.Variable(str(node.name), type_ or self.word_type, "local", node.name.span)
                self._declare(variable)
                variables.append((variable, value))
        given: list[ir.Statement] = []
        finally_: list[ir.Statement] = []
        handlers: dict[str, ir.Handler] = {}
        signals: list[ir.Signals] = []
        for node in items:
            match node:
                case s.CheckGiven(body=body):
                    given += self._statements(body.statements)
                case s.CheckFinally(body=body):
                    finally_ += self.block(body)
                case s.CheckOn():
                    handler = self._handler(node)
                    if handler is not None and handler.callee in handlers:
                        self.report.error("R002", f"`on {node.callee}` stands here twice", node.callee.span)
                    elif handler is not None:
                        handlers[handler.callee] = handler
                case s.CheckSignals() if function.suspension is not None:
                    message = "signals are not delivered while contexts are suspended and resumed"
                    self.report.error("R098", message, node.span)
                case s.CheckSignals():
                    found = self._signals(node, functions, stacks)
                    if found is not None and found in signals:
                        self.report.error("R002", "these signals stand here twice", node.span)
                    elif found is not None:
                        signals.append(found)
        return ir.Scenario(
            function.name,
            item.title,
            arguments,
            tuple(objects),
            tuple(stacks),
            tuple(variables),
            tuple(given),
            handlers,
            tuple(finally_),
            item.trampoline.span,
            tuple(signals),
        )

    def _signals(
        self, node: s.CheckSignals, functions: Mapping[str, ir.Function], stacks: Sequence[ir.Variable]
    ) -> ir.Signals | None:
        """`signals f return through g at s`, if the target's system does that."""
        target = self.environment.target
        kernel = target.architecture.signals
        handler = self._entered_by_system(node.handler, functions)
        restorer = None if node.restorer is None else self._entered_by_system(node.restorer, functions)
        if handler is None or (restorer is None and node.restorer is not None):
            return None
        if target.os == "windows":
            return self._exceptions(node, handler)
        if kernel is None:
            self.report.error("R092", f"how {target.name} delivers signals is not known here", node.span)
            return None
        if not self._takes_signals(handler, node.handler):
            return None
        if restorer is not None and (restorer.parameters or restorer.result is not None):
            message = f"`{restorer.name}` is returned to, not called: it has no parameters and no result"
            self.report.error("R091", message, node.handler.span, related=[(restorer.span, "declared here")])
            return None
        if kernel.restorer == "none":
            restorer = None  # this kernel does not look at it
        if node.restorer is None and kernel.restorer == "needed":
            message = f"{target.name} has no code of its own to return from a handler"
            notes = [f"name what makes the system call: `signals {handler.name} return through ...`"]
            self.report.error("R092", message, node.handler.span, notes=notes)
            return None
        stack = next((v for v in stacks if v.name == str(node.stack)), None)
        if stack is None and node.stack is not None:
            notes = suggestion(str(node.stack), [v.name for v in stacks]) or [f"declare it: `stack {node.stack}`"]
            self.report.error("R093", f"this check has no stack `{node.stack}`", node.stack.span, notes=notes)
            return None
        return ir.Signals(handler.name, restorer.name if restorer is not None else None, stack, node.span)

    def _entered_by_system(self, name: s.Name, functions: Mapping[str, ir.Function]) -> ir.Function | None:
        text = str(name)
        if text in functions:
            return functions[text]
        if text in self.environment.signatures:
            message = f"`{text}` is an extern, and what the system enters here is a trampoline"
            self.report.error("R090", message, name.span, notes=["import the file that has it"])
        elif text not in self.environment.misdeclared:
            notes = suggestion(text, functions)
            self.report.error("R090", f"there is no trampoline `{text}`", name.span, notes=notes)
        return None

    def _exceptions(self, node: s.CheckSignals, handler: ir.Function) -> ir.Signals | None:
        """Windows: a vectored handler, `LONG CALLBACK f(EXCEPTION_POINTERS *)`."""
        for name in (node.restorer, node.stack):
            if name is not None:
                message = (
                    "Windows handles exceptions on the interrupted stack, and takes the handler's word for the rest"
                )
                notes = [f"write `signals {handler.name}`"]
                self.report.error("R092", message, name.span, notes=notes)
                return None
        types = [v.type for v in handler.parameters]
        result = handler.result
        shape = [(t.bits, t.kind == "float") for t in (*types, *((result,) if result is not None else ()))]
        if shape == [(self.environment.word * 8, False), (32, False)] and len(types) == 1 and result is not None:
            system, own = self.environment.target.conventions["stdcall"], handler.convention
            values = [t.value_type for t in types]
            placed = own.place(values, result.value_type) == system.place(values, result.value_type)
            if placed and own.callee_pops == system.callee_pops:
                return ir.Signals(handler.name, None, None, node.span)
        message = f"a handler of exceptions takes (pointers: ptr) -> i32 using stdcall; `{handler.name}` does not"
        self.report.error("R091", message, node.handler.span, related=[(handler.span, "declared here")])
        return None

    def _takes_signals(self, handler: ir.Function, name: s.Name) -> bool:
        """Whether a handler finds its arguments where Linux puts them: sigaction(2), SA_SIGINFO."""
        types = [v.type for v in handler.parameters]
        word = self.environment.word * 8
        right = [t.bits for t in types] == [32, word, word] and all(t.kind != "float" for t in types)
        system = self.environment.target.conventions["c"]
        values = [t.value_type for t in types]
        if right and handler.result is None and handler.convention.place(values, None) == system.place(values, None):
            return True
        message = (
            f"a handler of signals takes (signal: u32, info: ptr, context: ptr) using c; `{handler.name}` does not"
        )
        self.report.error("R091", message, name.span, related=[(handler.span, "declared here")])
        return False

    def _check_items(self, items: Sequence[s.CheckItem]) -> Iterator[s.CheckItem]:
        for item in items:
            if not isinstance(item, s.CheckWhen):
                yield item
            elif self.environment.holds(item.targets):
                yield from self._check_items(item.items)

    def _check_world(self, items: Sequence[s.CheckItem]) -> tuple[list[ir.Variable], list[ir.Variable]]:
        objects: list[ir.Variable] = []
        stacks: list[ir.Variable] = []
        layouts = self.environment.layouts
        word = 8 * self.environment.word
        for item in items:
            if isinstance(item, s.CheckNew):
                for node in item.objects:
                    if node.type.name not in layouts.declarations or node.type.count or node.type.pointee:
                        notes = suggestion(node.type.name, layouts.declarations)
                        self.report.error("R010", f"`{node.type.name}` is no struct", node.type.span, notes=notes)
                        unknown = ir.Variable(node.name, self.word_type, "object", node.span)
                        self._declare(unknown)
                        self.untyped.add(unknown)
                        continue
                    type_ = pointer_to(node.type.name, word)
                    variable = ir.Variable(node.name, type_, "object", node.span)
                    self._declare(variable)
                    objects.append(variable)
            elif isinstance(item, s.CheckStack):
                variable = ir.Variable(str(item.name), self.word_type, "stack", item.name.span)
                self._declare(variable)
                stacks.append(variable)
        return objects, stacks

    def _handler(self, node: s.CheckOn) -> ir.Handler | None:
        name = str(node.callee)
        signature = self.environment.signatures.get(name)
        if signature is None and name in self.environment.misdeclared:
            return None
        if signature is None and name == "syscall":
            return self._kernel_handler(node)
        if signature is None:
            notes = suggestion(name, self.environment.signatures)
            self.report.error("R022", f"there is no extern or trampoline `{name}`", node.callee.span, notes=notes)
            return None
        if len(node.parameters) != len(signature.parameters):
            count = len(signature.parameters)
            message = f"`{name}` takes {count} argument{'s' * (count != 1)}, and here are {len(node.parameters)}"
            related = [(self.environment.where(name, s.Extern, s.Trampoline), "declared here")]
            self.report.error("R059", message, node.callee.span, related=related)
            return None
        types = [type_ for _, type_ in signature.parameters]
        return self._handler_of(name, node, types, signature.result)

    def _kernel_handler(self, node: s.CheckOn) -> ir.Handler | None:
        if not 1 <= len(node.parameters) <= 1 + MOST_SYSTEM_ARGUMENTS:
            message = f"a system call has a number and up to {MOST_SYSTEM_ARGUMENTS} arguments"
            self.report.error("R073", message, node.callee.span, notes=["`on syscall(number, a, b) { }`"])
            return None
        return self._handler_of(ir.SYSTEM_CALL, node, [self.word_type] * len(node.parameters), self.word_type)

    def _handler_of(
        self, name: str, node: s.CheckOn, types: Sequence[ir.Type], result: ir.Type | None
    ) -> ir.Handler | None:
        outer = self.scope
        self.scope = outer.inner()
        self.scope.handler = True
        self.handler_result = result
        parameters = []
        for parameter, type_ in zip(node.parameters, types, strict=True):
            variable = ir.Variable(str(parameter), type_, "local", parameter.span)
            shadowed = self.scope.variables.get(variable.name)
            if shadowed is not None and shadowed.kind == "parameter":
                # The callee's parameters come before those of the trampoline that is checked.
                del self.scope.variables[variable.name]
            self._declare(variable)
            parameters.append(variable)
        body = tuple(self._statements(node.body.statements))
        self.scope = outer
        self.handler_result = None
        return ir.Handler(name, tuple(parameters), body, node.callee.span)


_STATEMENTS: Mapping[type, Callable[[BodyResolver, Any], Sequence[ir.Statement]]] = {
    s.Let: BodyResolver._let,
    s.Assign: BodyResolver._assign,
    s.Call: BodyResolver._call_statement,
    s.Save: BodyResolver._save_statement,
    s.Restore: BodyResolver._save_frame,
    s.FrameBlock: BodyResolver._frame,
    s.Jump: BodyResolver._jump,
    s.Return: BodyResolver._return,
    s.Resume: BodyResolver._resume,
    s.Trap: BodyResolver._trap,
    s.If: BodyResolver._if,
    s.While: BodyResolver._while,
    s.Break: BodyResolver._leave_loop,
    s.Continue: BodyResolver._leave_loop,
    s.OnStack: BodyResolver._on_stack,
    s.SwitchStack: BodyResolver._switch_stack,
    s.When: BodyResolver._when,
    s.Asm: BodyResolver._asm,
    s.Expect: BodyResolver._expect,
}


def _with_variable(call: ir.Call, variable: ir.Variable) -> ir.Call:
    return ir.Call(
        call.callee, call.arguments, call.convention, call.result, variable, call.clobbers, call.span, call.at
    )


def _is_literal(node: s.Expression) -> bool:
    """Whether a number stands there as it is, or with a sign before it."""
    if isinstance(node, s.Unary):
        return _is_literal(node.operand)
    return isinstance(node, (s.Integer, s.Null))


def ends(body: Sequence[ir.Statement]) -> bool:
    """Whether the end of a list of statements is never reached."""
    for statement in body:
        if statement.__class__ in _ENDING:
            return True
        if isinstance(statement, ir.If):
            if statement.otherwise and ends(statement.then) and ends(statement.otherwise):
                return True
        elif isinstance(statement, ir.OnStack) and ends(statement.body):
            return True
    return False


_ENDING = frozenset({ir.Return, ir.TailCall, ir.Resume, ir.Trap, ir.Break, ir.Continue})
