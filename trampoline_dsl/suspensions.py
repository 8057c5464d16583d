"""`suspends` and `resumes`, resolved: where contexts are, whose they are, and what a resumed call returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import ir
from . import syntax as s
from .constants import ConstantResolver
from .diagnostics import Report, suggestion

if TYPE_CHECKING:
    from .resolve import Environment


def suspension(
    item: s.Trampoline, parameters: Sequence[ir.Variable], signature: ir.Signature, environment: Environment
) -> ir.Suspension | None:
    """What the clauses of a trampoline say of contexts; None where they say nothing, or something wrong."""
    report = environment.report
    suspends = [clause for clause in item.clauses if isinstance(clause, s.Suspends)]
    resumes = [clause for clause in item.clauses if isinstance(clause, s.Resumes)]
    for clauses in (suspends, resumes):
        for clause in clauses[1:]:
            message = f"`{clause.span.text.split()[0]}` is said twice"
            report.error("R098", message, clause.span, related=[(clauses[0].span, "first here")])
    if not suspends and not resumes:
        return None
    before = len(report.diagnostics)
    if item.variadic:
        report.error("R098", "contexts are parameters, and this takes any number of words", item.name.span)
    named = {parameter.name: parameter for parameter in parameters}
    own = _place(suspends[0], named, environment) if suspends else None
    context = _parameter(resumes[0].context, named, report) if resumes else None
    giving = None
    if resumes and resumes[0].giving is not None:
        giving = _parameter(resumes[0].giving, named, report)
    if len(report.diagnostics) > before:
        return None
    if not resumes:
        assert own is not None
        _returns_number(item, signature, report)
        variable, struct, word = own
        made = ir.Suspension(variable, struct, word, None, "", None, None, None, suspends[0].span)
        return made if len(report.diagnostics) == before else None
    clause = resumes[0]
    assert context is not None
    resumed = (item, signature) if suspends else _suspender(clause, environment)
    if resumed is None:
        return None
    if suspends and clause.of is not None:
        report.error("R098", "what suspends resumes its own calls", clause.of.span, notes=["leave `of` out"])
    whose, theirs = resumed
    place = own or _place_of(whose, theirs, environment)
    if place is None:
        return None  # which has been told where it is declared
    _, struct, word = place
    if own is not None and own[0] is context:
        report.error("R098", f"`{context.name}` cannot be suspended and resumed in one call", clause.context.span)
    elif context.type.kind == "float" or context.type.bits != 8 * environment.word:
        message = f"a context is known by a word, and `{context.name}` is {context.type}"
        report.error("R098", message, clause.context.span)
    elif word is None and context.type.struct != struct:
        message = f"`{whose.name}` suspends a {struct}, and `{context.name}` is {context.type}"
        report.error("R098", message, clause.context.span, notes=[f"`{context.name}: ptr<{struct}>`"])
    if theirs.convention is not signature.convention:
        message = f"`{whose.name}` is called using {theirs.convention.name}, and this using {signature.convention.name}"
        report.error("R098", message, clause.span)
    if not suspends and signature.result is not None:
        report.error("R098", f"`{item.name}` never returns, and has a result", item.name.span)
    instead = _given(clause, giving, whose, theirs, environment)
    if len(report.diagnostics) > before:
        return None
    of = theirs.name
    other = theirs if own is None else None
    return ir.Suspension(own[0] if own else None, struct, word, context, of, giving, instead, other, clause.span)


def resumed_by(item: s.Trampoline, environment: Environment) -> ir.Signature | None:
    """The signature of the calls that a trampoline resumes, if those are another one's and it is known."""
    names = [str(clause.of) for clause in item.clauses if isinstance(clause, s.Resumes) and clause.of is not None]
    return environment.signatures.get(names[0]) if names and names[0] in environment.suspending else None


def _parameter(name: s.Name, named: Mapping[str, ir.Variable], report: Report) -> ir.Variable | None:
    parameter = named.get(name.parts[0])
    if parameter is None:
        notes = suggestion(name.parts[0], named)
        report.error("R098", f"there is no parameter `{name.parts[0]}`", name.span, notes=notes)
    return parameter


def _place(
    clause: s.Suspends, named: Mapping[str, ir.Variable], environment: Environment
) -> tuple[ir.Variable, str, int | None] | None:
    """The parameter that leads to what is suspended into, the struct there, and where in that a word is the context."""
    name, report = clause.place, environment.report
    parameter = _parameter(name, named, report)
    if parameter is None:
        return None
    struct = parameter.type.struct
    if struct is None:
        message = f"what `{parameter.name}` points to is not known: it is no pointer to a struct"
        report.error("R098", message, name.span, notes=[f"`{parameter.name}: ptr<STRUCT>`"])
        return None
    if len(name.parts) == 1:
        return parameter, struct, None
    resolver = ConstantResolver(environment)
    found = resolver.fields(struct, name.parts[1:], name.spans[1:], name.span)
    if found is None:
        return None
    field, offset = found
    if isinstance(field.type, str) or field.count is not None or field.size != environment.word:
        report.error("R098", f"`{name}` is no word, and a context is known by one", name.span)
        return None
    return parameter, struct, offset


def _suspender(clause: s.Resumes, environment: Environment) -> tuple[s.Trampoline, ir.Signature] | None:
    """The trampoline whose calls are resumed."""
    report = environment.report
    if clause.of is None:
        message = "nothing says whose calls are resumed"
        notes = [f"`resumes {clause.context} of TRAMPOLINE`, or `suspends` beside it"]
        report.error("R098", message, clause.span, notes=notes)
        return None
    name = str(clause.of)
    found = environment.suspending.get(name)
    signature = environment.signatures.get(name)
    if found is not None and signature is not None:
        return found, signature
    if name not in environment.misdeclared:
        notes = suggestion(name, environment.suspending) or ["it says so behind its signature: `suspends PARAMETER`"]
        report.error("R098", f"no trampoline `{name}` suspends anything", clause.of.span, notes=notes)
    return None


def _place_of(
    item: s.Trampoline, signature: ir.Signature, environment: Environment
) -> tuple[ir.Variable, str, int | None] | None:
    parameters = {name: ir.Variable(name, type_, "parameter", item.span) for name, type_ in signature.parameters}
    clause = next(clause for clause in item.clauses if isinstance(clause, s.Suspends))
    parameter = parameters.get(clause.place.parts[0])
    if parameter is None or parameter.type.struct is None:
        return None
    return _place(clause, parameters, environment)


def _returns_number(item: s.Trampoline, signature: ir.Signature, report: Report) -> None:
    if signature.result is not None and signature.result.kind == "float":
        message = f"`{item.name}` returns 0 when it suspends, and its result is {signature.result}"
        report.error("R098", message, item.name.span)


def _given(
    clause: s.Resumes,
    giving: ir.Variable | None,
    item: s.Trampoline,
    signature: ir.Signature,
    environment: Environment,
) -> int | None:
    """What is returned instead of 0, if that is said; and whether what is given fits what is returned."""
    report = environment.report
    result = signature.result
    if clause.giving is None or giving is None:
        if result is not None:
            message = f"`{item.name}` returns {result}, and nothing says what it returns when it is resumed"
            report.error("R098", message, clause.span, notes=["`giving PARAMETER`"])
        return None
    if result is None:
        report.error("R098", f"`{item.name}` returns nothing that could be given", clause.giving.span)
    elif (result.kind == "float") != (giving.type.kind == "float") or result.bits != giving.type.bits:
        message = f"`{item.name}` returns {result}, and `{giving.name}` is {giving.type}"
        report.error("R098", message, clause.giving.span)
    if clause.instead is None:
        return None
    value = clause.instead.value
    if giving.type.kind == "float" or value >= 1 << giving.type.bits:
        report.error("R098", f"{value} is no {giving.type}", clause.instead.span)
    return value


__all__ = ["resumed_by", "suspension"]
