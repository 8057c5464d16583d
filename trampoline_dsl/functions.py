"""Trampolines, with a body and without one, resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from . import ir
from . import syntax as s
from .body import BodyResolver, ends
from .diagnostics import Span, suggestion
from .target import InRegister


class FunctionResolver(BodyResolver):
    """Resolves one trampoline."""

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
