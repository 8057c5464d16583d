"""Syntax tree to IR: names, types, offsets and conventions for one target. All that is wrong is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from . import ir
from . import syntax as s
from .body import BodyResolver, Scope, define
from .diagnostics import InputError, Report, Source, Span, suggestion
from .layout import Layouts
from .parse import parse
from .target import Bank, Convention, Register, Target
from .targets import all_targets


@dataclass(frozen=True, slots=True)
class Module:
    """A file and what it imports, parsed. `files` is in import order, the file itself last."""

    file: s.File
    files: tuple[s.File, ...]
    include: tuple[Path, ...] = ()  # folders where headers are looked for before those of the files

    @property
    def name(self) -> str:
        return self.file.source.name


def load_module(source: Source, include: Sequence[Path] = ()) -> Module:
    """Parse a source and everything that it imports. Raises InputError."""
    report = Report()
    files: dict[str, s.File] = {}

    def visit(current: Source, key: str) -> s.File | None:
        try:
            parsed = parse(current)
        except InputError as error:
            report.diagnostics.extend(error.diagnostics)
            return None
        if not parsed.items:
            report.error("S002", "this file is empty", None, file=current.name, notes=["a file declares a trampoline"])
        seen.add(key)
        for item in parsed.items:
            if isinstance(item, s.Import):
                path = Path(current.name).parent / item.path
                imported = str(path.resolve())
                if imported in seen:
                    continue
                try:
                    text = path.read_bytes()
                    content = Source(str(path), text.decode("utf-8-sig"))
                except (OSError, UnicodeDecodeError, ValueError) as error:
                    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                    report.error("F001", f"cannot import this file: {reason}", item.span)
                    continue
                visit(content, imported)
        files[key] = parsed
        return parsed

    seen: set[str] = set()
    root = visit(source, str(Path(source.name).resolve()))
    report.finish()
    assert root is not None  # a file that does not parse has been reported
    return Module(root, tuple(files.values()), tuple(include))


@dataclass(slots=True)
class Environment:
    """What declarations make known, for one target."""

    target: Target
    report: Report
    layouts: Layouts
    conventions: dict[str, Convention]
    constants: dict[str, int | None] = field(default_factory=dict)
    constant_nodes: dict[str, s.Constant] = field(default_factory=dict)
    signatures: dict[str, ir.Signature] = field(default_factory=dict)

    @property
    def word(self) -> int:
        return self.target.architecture.word

    def register(self, name: s.Name) -> Register | None:
        registers = self.target.architecture.registers
        text = str(name)
        if text in registers:
            return registers[text]
        notes = suggestion(text, registers)
        self.report.error("R020", f"{self.target.name} has no register `{text}`", name.span, notes=notes)
        return None

    def convention(self, name: s.Name) -> Convention | None:
        text = str(name)
        if text in self.conventions:
            return self.conventions[text]
        notes = [*suggestion(text, self.conventions), "known here: " + " ".join(sorted(self.conventions))]
        self.report.error("R021", f"{self.target.name} has no convention `{text}`", name.span, notes=notes)
        return None

    def holds(self, targets: s.TargetSet) -> bool:
        """Whether this target is meant. Names that no target has are reported when the file is checked."""
        found = any(self._is(name.name) for name in targets.names)
        return found != targets.negated

    def _is(self, name: str) -> bool:
        if name == "g in register":
            return any(isinstance(c.thread, Register) for c in self.conventions.values())
        return name in target_words(self.target)


def target_words(target: Target) -> set[str]:
    """The names by which `when` can mean a target."""
    architecture = target.architecture
    names = {target.name, target.os, architecture.name, f"{target.os}/{architecture.name}", architecture.family}
    if target.variant:
        names.add(target.variant)
        names.add(target.name.partition("/")[2])
    return names


def _check_target_names(module: Module, report: Report) -> None:
    known = {"g in register"}
    for target in all_targets().values():
        known |= target_words(target)
    for file in module.files:
        for item in file.items:
            for targets in _target_sets(item):
                for name in targets.names:
                    if name.name not in known:
                        notes = suggestion(name.name, known)
                        report.error("T001", f"no target is called `{name.name}`", name.span, notes=notes)


def _target_sets(node: object) -> Iterable[s.TargetSet]:
    if isinstance(node, s.TargetSet):
        yield node
    elif isinstance(node, tuple):
        for child in node:
            yield from _target_sets(child)
    elif hasattr(node, "__dataclass_fields__") and not isinstance(node, (Span, Source, s.Name)):
        for name in node.__dataclass_fields__:
            yield from _target_sets(getattr(node, name))


def check_module(module: Module) -> None:
    """What can be said of a module without a target. Raises InputError."""
    report = Report()
    _check_target_names(module, report)
    report.finish()


def conventions_in(module: Module, target: Target) -> dict[str, Convention]:
    """What conventions there are for the functions of a module. Raises InputError."""
    report = Report()
    environment = _environment(target, report, module.include)
    for file in module.files:
        for item in file.items:
            if isinstance(item, s.ConventionDeclaration):
                _declare_convention(item, environment)
    report.finish()
    return environment.conventions


def _environment(target: Target, report: Report, include: Sequence[Path]) -> Environment:
    def constant(node: s.Expression) -> int | None:
        return BodyResolver(environment, Scope(), None).constant(node)

    environment = Environment(target, report, Layouts(target, report, constant, include), dict(target.conventions))
    return environment


def resolve(module: Module, target: Target) -> ir.Program:
    """The program for one target. Raises InputError with everything that is wrong with it there."""
    report = Report()
    environment = _environment(target, report, module.include)
    layouts = environment.layouts
    items = [(item, Path(file.source.name).parent) for file in module.files for item in file.items]

    names: dict[str, Span] = {}
    defined: dict[str, Span] = {}
    for item, folder in items:
        match item:
            case s.Constant():
                define(names, str(item.name), item.name.span, report)
                environment.constant_nodes[str(item.name)] = item
            case s.Struct():
                layouts.declare(item, folder)
            case s.ConventionDeclaration():
                _declare_convention(item, environment)
            case s.Extern() | s.Trampoline() | s.Import() | s.Check():
                pass
            case _:
                assert_never(item)
    for node in environment.constant_nodes.values():
        BodyResolver(environment, Scope(), None).constant_named(str(node.name), node.name.span)
    for name in layouts.declarations:
        layouts.struct(name)
    for item, _ in items:
        if isinstance(item, (s.Extern, s.Trampoline)):
            signature = _signature(item, environment)
            if signature is not None:
                _declare_function(signature, isinstance(item, s.Trampoline), environment, defined, names)

    functions: dict[str, ir.Function] = {}
    scenarios: list[ir.Scenario] = []
    for item, _ in items:
        if isinstance(item, s.Trampoline) and str(item.name) in environment.signatures:
            function = _function(item, environment)
            if function is not None:
                functions[function.name] = function
    for item, _ in items:
        if isinstance(item, s.Check):
            scenario = _scenario(item, environment, functions)
            if scenario is not None:
                scenarios.append(scenario)
    own = tuple(str(i.name) for i in module.file.items if isinstance(i, s.Trampoline))
    if not own and not report.diagnostics:
        report.error(
            "R001", "this file declares no trampoline", None, file=module.name, notes=["`trampoline name() using c { }`"]
        )
    report.finish()
    structs = {name: layout for name, layout in layouts.done.items() if layout is not None}
    externs = {name: sig for name, sig in environment.signatures.items() if name not in functions}
    return ir.Program(target, structs, externs, functions, tuple(scenarios), own, module.name)


def _declare_function(
    signature: ir.Signature,
    defines: bool,
    environment: Environment,
    defined: dict[str, Span],
    names: dict[str, Span],
) -> None:
    """An extern may announce a trampoline that this or another file defines, if both say the same of it."""
    before = environment.signatures.get(signature.name)
    if before is None:
        define(names, signature.name, signature.span, environment.report)
    if defines and signature.name in defined:
        define(defined, signature.name, signature.span, environment.report)
        return
    if before is not None:
        same = (
            [t for _, t in before.parameters] == [t for _, t in signature.parameters]
            and before.result == signature.result
            and before.convention is signature.convention
        )
        if not same:
            message = f"`{signature.name}` is declared twice, and not alike"
            related = [(before.span, "first here")]
            environment.report.error("R002", message, signature.span, related=related)
            return
    if defines:
        defined[signature.name] = signature.span
    if defines or before is None:
        environment.signatures[signature.name] = signature


def _signature(item: s.Extern | s.Trampoline, environment: Environment) -> ir.Signature | None:
    convention = environment.convention(item.convention)
    result = environment.layouts.type(item.result) if item.result else None
    parameters = []
    seen: dict[str, Span] = {}
    good = convention is not None and (item.result is None or result is not None)
    for parameter in item.parameters:
        type_ = environment.layouts.type(parameter.type)
        define(seen, parameter.name, parameter.span, environment.report)
        if type_ is None:
            good = False
            continue
        parameters.append((parameter.name, type_))
    clobbers: set[Register] | None = None
    if isinstance(item, s.Extern) and item.clobbers is not None:
        for clause in item.clobbers:
            if environment.holds(clause.targets):
                clobbers = clobbers if clobbers is not None else set()
                clobbers |= {r for r in map(environment.register, clause.registers) if r is not None}
    if not good or convention is None:
        return None
    return ir.Signature(
        str(item.name),
        tuple(parameters),
        result,
        convention,
        frozenset(clobbers) if clobbers is not None else None,
        item.name.span,
    )


def _function(item: s.Trampoline, environment: Environment) -> ir.Function | None:
    signature = environment.signatures[str(item.name)]
    before = len(environment.report.diagnostics)
    resolver = BodyResolver(environment, Scope(), signature)
    function = resolver.function(item, signature)
    return function if len(environment.report.diagnostics) == before else None


def _scenario(item: s.Check, environment: Environment, functions: Mapping[str, ir.Function]) -> ir.Scenario | None:
    name = str(item.trampoline)
    if name not in environment.signatures:
        notes = suggestion(name, functions)
        environment.report.error("R022", f"there is no trampoline `{name}` to check", item.trampoline.span, notes=notes)
        return None
    if name not in functions:
        return None  # its own mistakes have been reported, or it is an extern
    before = len(environment.report.diagnostics)
    scenario = BodyResolver(environment, Scope(), None).scenario(item, functions[name])
    return scenario if len(environment.report.diagnostics) == before else None


# ------------------------------------------------------------------------------------------------- user's conventions


def _declare_convention(item: s.ConventionDeclaration, environment: Environment) -> None:
    name = str(item.name)
    if name in environment.conventions:
        environment.report.error("R002", f"convention {name} is declared twice", item.name.span)
        return
    base = environment.convention(item.like)
    if base is None:
        return
    changes: dict[str, object] = {"name": name, "title": f"{name}, like {base.name}", "source": str(item.span)}
    kept = dict(base.kept)
    reserved = dict(base.reserved)
    for fact in _facts(item.facts, environment):
        _apply_fact(fact, base, changes, kept, reserved, environment)
    scratch = changes.get("scratch", base.scratch)
    assert isinstance(scratch, tuple)
    clash = [r.name for r in scratch if r in kept]
    if clash:
        message = f"{name} keeps a register that its compiler uses as scratch: {' '.join(clash)}"
        notes = [f"scratch of {base.name}: {' '.join(r.name for r in base.scratch)}", "say `scratch` with others"]
        environment.report.error("R023", message, item.name.span, notes=notes)
        return
    environment.conventions[name] = base.derive(**changes, kept=kept, reserved=reserved)


def _facts(
    facts: Sequence[s.ConventionFact | s.ConventionWhen], environment: Environment
) -> Iterable[s.ConventionFact]:
    for fact in facts:
        if isinstance(fact, s.ConventionFact):
            yield fact
        elif environment.holds(fact.targets):
            yield from _facts(fact.facts, environment)


_REGISTER_FACTS = {
    "arguments": "integer_arguments",
    "float_arguments": "float_arguments",
    "results": "integer_results",
    "float_results": "float_results",
    "scratch": "scratch",
}
_NUMBER_FACTS = {
    "align": "alignment",
    "red_zone": "red_zone",
    "area": "area",
    "first_stack_argument": "first_stack_argument",
}
_FACTS = (*_REGISTER_FACTS, *_NUMBER_FACTS, "keeps", "loses", "reserves", "thread", "pops")


def _apply_fact(
    fact: s.ConventionFact,
    base: Convention,
    changes: dict[str, object],
    kept: dict[Register, int],
    reserved: dict[Register, str],
    environment: Environment,
) -> None:
    report = environment.report
    what = str(fact.what)
    if what not in _FACTS:
        notes = [*suggestion(what, _FACTS), "there are " + " ".join(_FACTS)]
        report.error("R024", f"a convention has no fact `{what}`", fact.what.span, notes=notes)
        return
    if what in _NUMBER_FACTS:
        _apply_number(fact, what, changes, report)
        return
    if fact.value is not None:
        report.error("R024", f"`{what}` is no number", fact.value.span)
        return
    if what == "pops":
        _apply_pops(fact, base, changes, environment)
        return
    none = [str(n) for n in fact.names] == ["none"]
    registers = () if none else tuple(r for r in map(environment.register, fact.names) if r is not None)
    wrong_bank = {"arguments": Bank.INTEGER, "results": Bank.INTEGER}.get(what)
    for register, name in zip(registers, fact.names, strict=False):
        if wrong_bank and register.bank is not wrong_bank:
            report.error("R025", f"{register.name} is no {wrong_bank.value} register", name.span)
        if register is environment.target.architecture.sp:
            report.error("R025", f"{register.name} is the stack pointer, which has a part of its own", name.span)
    if len(set(registers)) != len(registers):
        report.error("R025", f"a register is named twice in `{what}`", fact.span)
        return
    match what:
        case "keeps":
            for register in registers:
                kept[register] = (1 << register.bits) - 1
        case "loses":
            for register in registers:
                kept.pop(register, None)
        case "reserves":
            for register in registers:
                reserved[register] = f"reserved by {changes['name']}"
        case "thread":
            if registers:
                changes["thread"] = registers[0]
        case _:
            changes[_REGISTER_FACTS[what]] = registers


def _apply_number(fact: s.ConventionFact, what: str, changes: dict[str, object], report: Report) -> None:
    if not isinstance(fact.value, s.Integer):
        report.error("R024", f"`{what}` is a number of bytes", fact.span, notes=[f"`{what} 16`"])
        return
    value = fact.value.value
    if what == "align" and (value < 1 or value & (value - 1) or value > 4096):
        report.error("R024", f"an alignment is a power of two up to 4096, not {value}", fact.value.span)
    elif value > 1 << 16:
        report.error("R024", f"{what} is a number of bytes up to 65536, not {value}", fact.value.span)
    else:
        changes[_NUMBER_FACTS[what]] = value


def _apply_pops(fact: s.ConventionFact, base: Convention, changes: dict[str, object], environment: Environment) -> None:
    who = str(fact.names[0])
    if who not in ("caller", "callee"):
        environment.report.error("R024", f"`pops` is `caller` or `callee`, not `{who}`", fact.names[0].span)
    elif who == "callee" and base.return_address is not None:
        # Only where the call pushes the return address below the arguments does one instruction do both.
        environment.report.error("R024", f"on {environment.target.name} no instruction pops for the caller", fact.span)
    changes["callee_pops"] = who == "callee"
