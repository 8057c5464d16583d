"""Expressions and conditions, resolved: names become variables, paths become loads, literals get types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from . import ir
from . import syntax as s
from .constants import ConstantResolver
from .diagnostics import Span, listed, suggestion
from .layout import pointer_to
from .scope import Scope
from .target import Convention, ThreadSlot

if TYPE_CHECKING:
    from .resolve import Environment

_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor", "<<": "shl", ">>": "shr"}
_SIGNED = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_UNSIGNED = {"==": "eq", "!=": "ne", "<": "ult", "<=": "ule", ">": "ugt", ">=": "uge"}
_SPECIAL_NAMES = ("g", "sp")


class ExpressionResolver(ConstantResolver):
    """Resolves expressions in a trampoline or a check. `signature` is None outside a trampoline."""

    def __init__(self, environment: Environment, scope: Scope, signature: ir.Signature | None) -> None:
        super().__init__(environment)
        self.word_type = environment.word_type
        self.scope = scope
        self.signature = signature
        self.trampoline = signature.name if signature is not None else ""  # which it is, or is checked
        self.untyped: set[ir.Variable] = set()  # their declarations have mistakes, which must not show at every use

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


def _is_literal(node: s.Expression) -> bool:
    """Whether a number stands there as it is, or with a sign before it."""
    if isinstance(node, s.Unary):
        return _is_literal(node.operand)
    return isinstance(node, (s.Integer, s.Null))
