"""Constant expressions, sizes and offsets: what a number is, on one target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import ir
from . import syntax as s
from .diagnostics import Span, listed, suggestion
from .layout import MAXIMUM_DEPTH, scalar

if TYPE_CHECKING:
    from .resolve import Environment

MAXIMUM_CONSTANT_DEPTH = 300  # operators and names, one in another


class ConstantResolver:
    """Computes constants in an environment, each of them once."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.report = environment.report

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
