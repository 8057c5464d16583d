"""Syntax tree to IR: names, types, offsets and conventions for one target. All that is wrong is reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import assert_never, overload
from weakref import ref

from . import ir
from . import syntax as s
from .checks import CheckResolver
from .constants import ConstantResolver
from .diagnostics import Diagnostic, InputError, Report, Source, Span, read_source, suggestion
from .functions import FunctionResolver
from .layout import Headers, Layouts, word_type
from .parse import EMPTY, parse
from .scope import Scope, define
from .suspensions import resumed_by, suspension
from .target import Bank, Convention, InRegister, Register, Target
from .targets import all_targets

MAXIMUM_IMPORTS = 40  # files deep
MOST_ENTRIES = 1 << 15  # of a table: the index of each is a constant of one instruction on most machines


@dataclass(frozen=True, slots=True)
class Module:
    """A file and what it imports, parsed. `files` is in import order, the file itself last. The headers that it needs
    are read when they are first needed, and are those of the module from then on."""

    file: s.File
    files: tuple[s.File, ...]
    include: tuple[Path, ...] = ()  # folders where headers are looked for before those of the files
    declarations: tuple[str, ...] = ()  # the texts of all that a body or a check of it can depend on, bodies left out
    imports: Imports | None = None  # all files but the file itself
    headers: Headers = field(default_factory=Headers, compare=False, repr=False)
    before: dict[Target, Declared] = field(default_factory=dict, compare=False, repr=False)  # by these `declarations`

    @property
    def name(self) -> str:
        return self.file.source.name


class Imports:
    """Imported files in import order, and what they declare; held on to as long as they are imported unchanged."""

    def __init__(self, files: tuple[s.File, ...], include: tuple[Path, ...]) -> None:
        self.files = files
        self.texts = (*map(str, include), *_declarations(files))  # as in `Module.declarations`
        self.declared: dict[Target, Declared] = {}  # to be copied, and not to be changed
        self.targets_right = False  # once all targets that they name have been found to be some


@lru_cache(maxsize=64)
def _imports(sources: tuple[Source, ...], include: tuple[Path, ...]) -> Imports:
    return Imports(tuple(map(parse, sources)), include)


def _declarations(files: Iterable[s.File]) -> Iterable[str]:
    for file in files:
        yield file.source.name  # headers are looked for beside it
        yield from _declaration_texts(file.items, file.source.text)


def _declaration_texts(items: Iterable[s.Item], text: str) -> Iterable[str]:
    for item in items:
        match item:
            case s.Check() | s.Import():
                pass
            case s.Trampoline(span=span, body=body) if body is not None:
                yield text[span.start : body.span.start + 1]
            case s.ItemsWhen(targets=targets, then=then, otherwise=otherwise):
                names = ", ".join(name.name for name in targets.names)
                yield f"when not {names} {{" if targets.negated else f"when {names} {{"
                yield from _declaration_texts(then, text)
                yield "} else {"
                yield from _declaration_texts(otherwise, text)
                yield "}"
            case _:
                yield text[item.span.start : item.span.end]


@lru_cache(maxsize=512)
def found_right(target: Target, declarations: tuple[str, ...], headers: tuple[str | None, ...]) -> set[str]:
    """The texts of checks and trampolines that have been found right among such declarations, to be added to: what is
    not wanted of them need not be looked at again before it is. `headers` are the texts of those that were read."""
    return set()


class Functions(Mapping[str, ir.Function]):
    """The trampolines of a program, in the order of the source. Those in `later` have been found right before, and are
    resolved when they are asked for."""

    def __init__(self) -> None:
        self.made: dict[str, ir.Function] = {}
        self.later: dict[str, Callable[[], ir.Function]] = {}
        self._names: list[str] = []

    def add(self, name: str, make: Callable[[], ir.Function], *, later: bool) -> None:
        if name not in self:
            self._names.append(name)
        if later:
            self.later[name] = make
        else:
            self.made[name] = make()

    def __getitem__(self, name: str) -> ir.Function:
        if name not in self.made and name in self.later:
            self.made[name] = self.later.pop(name)()
        return self.made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.made or name in self.later

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Scenarios(Sequence[ir.Scenario]):
    """The checks of a program, resolved when they are first asked for: all have been found right before."""

    def __init__(self, make: Callable[[], tuple[ir.Scenario, ...]]) -> None:
        self._make: Callable[[], tuple[ir.Scenario, ...]] | None = make
        self._made: tuple[ir.Scenario, ...] = ()

    def _all(self) -> tuple[ir.Scenario, ...]:
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made

    @overload
    def __getitem__(self, index: int) -> ir.Scenario: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ir.Scenario]: ...

    def __getitem__(self, index: int | slice) -> ir.Scenario | Sequence[ir.Scenario]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def load_module(source: Source, include: Sequence[Path] = ()) -> Module:
    """Parse a source and everything that it imports. Raises InputError."""
    report = Report()
    files: dict[object, s.File] = {}
    root = _load(source, _identity(Path(source.name)), 0, files, set(), report)
    report.finish()
    assert root is not None  # a file that does not parse has been reported
    *imported, _ = (file.source for file in files.values())
    imports = _imports(tuple(imported), tuple(include))
    declarations = (*imports.texts, *_declarations([root]))
    before = _declared_before(imports, declarations)
    return Module(root, (*imports.files, root), tuple(include), declarations, imports, Headers(include), before)


def _load(
    current: Source, key: object, depth: int, files: dict[object, s.File], seen: set[object], report: Report
) -> s.File | None:
    """Parse a file and what it imports into `files`, by what is in `seen`. None where it is wrong."""
    seen.add(key)
    try:
        parsed = parse(current)
    except InputError as error:
        report.diagnostics.extend(error.diagnostics)
        return None
    if not parsed.items:
        report.error("S002", "this file declares nothing", None, file=current.name, notes=[EMPTY])
    for item in parsed.items:
        if isinstance(item, s.Import):
            path = _folder(current.name) / item.path
            imported = _identity(path)
            if imported in seen:
                continue
            if depth >= MAXIMUM_IMPORTS:
                message = f"files import one another more than {MAXIMUM_IMPORTS} deep"
                report.error("S003", message, item.span, notes=["import some of them from the first file"])
                continue
            try:
                content = read_source(path)
            except InputError as error:
                reason = error.diagnostics[0].message.removeprefix("cannot read this file: ")
                report.error("F001", f"cannot import {path}: {reason}", item.span)
                continue
            _load(content, imported, depth + 1, files, seen, report)
    files[key] = parsed
    return parsed


@lru_cache(maxsize=1024)
def _folder(file: str) -> Path:
    return Path(file).parent


def _identity(path: Path) -> object:
    """By what a file is known, whatever it is called; its name where there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # or a name too long, a zero byte
        return str(path)
    return found.st_dev, found.st_ino


@dataclass(slots=True, weakref_slot=True)
class Environment:
    """What declarations make known, for one target."""

    target: Target
    report: Report
    layouts: Layouts
    conventions: dict[str, Convention]
    constants: dict[str, int | None] = field(default_factory=dict)
    constant_nodes: dict[str, s.Constant] = field(default_factory=dict)
    constants_active: list[str] = field(default_factory=list)
    depth: int = 0  # of the constant expression that is being computed
    signatures: dict[str, ir.Signature] = field(default_factory=dict)
    variables: dict[str, ir.ExternVariable | None] = field(default_factory=dict)  # None where a mistake has been told
    misdeclared: set[str] = field(default_factory=set)  # functions whose signature has mistakes of its own
    files: tuple[s.File, ...] = ()  # whose declarations they are
    items: tuple[Sequence[s.Plain], ...] = ()  # the declarations themselves, those of the target
    declared_conventions: dict[str, Span] = field(default_factory=dict)
    variadic: set[str] = field(default_factory=set)  # trampolines that take any number of words
    tables: dict[str, ir.Table] = field(default_factory=dict)
    entered: dict[str, ir.Table | None] = field(default_factory=dict)
    # trampolines that are entered through a table, and which one; None where a mistake has been told
    suspending: dict[str, s.Trampoline] = field(default_factory=dict)  # those that say `suspends`
    word: int = field(init=False)  # bytes
    word_type: ir.Type = field(init=False)
    words: frozenset[str] = field(init=False)  # by which `when` can mean the target

    def __post_init__(self) -> None:
        self.words = target_words(self.target)
        self.word = self.target.architecture.word
        self.word_type = word_type(self.target)

    def where(self, name: str, *kinds: type[s.Named]) -> Span:
        """Where something of some kinds is declared: where it has a body, or else first."""
        found = [i for items in self.items for i in items if isinstance(i, kinds) and str(i.name) == name]
        bodies = (i for i in found if isinstance(i, s.Trampoline) and i.body is not None)
        return next(bodies, found[0]).name.span

    def take(self, known: Environment, *, copied: bool = False) -> None:
        """Know all that is known there, of the same target and without a mistake: to be added to if it is copied."""
        self.items, self.words, self.conventions = known.items, known.words, known.conventions
        self.declared_conventions, self.signatures = known.declared_conventions, known.signatures
        self.constants, self.constant_nodes, self.variables = known.constants, known.constant_nodes, known.variables
        self.variadic, self.suspending = known.variadic, known.suspending
        self.tables, self.entered = known.tables, known.entered
        layouts = self.layouts
        layouts.declarations, layouts.done = known.layouts.declarations, known.layouts.done
        layouts.read = known.layouts.read
        if copied:
            self.conventions, self.declared_conventions = dict(self.conventions), dict(self.declared_conventions)
            self.signatures, self.variables = dict(self.signatures), dict(self.variables)
            self.constants, self.constant_nodes = dict(self.constants), dict(self.constant_nodes)
            self.variadic, self.suspending = set(self.variadic), dict(self.suspending)
            self.tables, self.entered = dict(self.tables), dict(self.entered)
            layouts.declarations, layouts.done = dict(layouts.declarations), dict(layouts.done)
            layouts.read = dict(layouts.read)

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
        if text in self.declared_conventions:
            return None  # with mistakes, which have been reported
        notes = [*suggestion(text, self.conventions), "known here: " + " ".join(sorted(self.conventions))]
        self.report.error("R021", f"{self.target.name} has no convention `{text}`", name.span, notes=notes)
        return None

    def places(self, convention: Convention, arguments: Sequence[ir.Type], result: ir.Type | None, span: Span) -> bool:
        """Whether a convention has places for such arguments and such a result: a user's own may have too few."""
        try:
            assignment = convention.place([t.value_type for t in arguments], result.value_type if result else None)
            if not assignment.result:
                return True
        except IndexError:
            message = f"{convention.name} has no place for this result on {self.target.name}: {result}"
            self.report.error("R026", message, span, notes=["name more registers as `results` or `float_results`"])
            return False
        places = [part.place for part in assignment.result]
        kept = [p.register.name for p in places if isinstance(p, InRegister) and p.register in convention.kept]
        if kept:
            message = f"{convention.name} keeps {' '.join(kept)} on {self.target.name}, where this result would travel"
            self.report.error("R026", message, span, notes=["return nothing, or name other registers as `results`"])
        return not kept

    def holds(self, targets: s.TargetSet) -> bool:
        """Whether this target is meant. Names that no target has are reported when the file is checked."""
        return _means(targets, self.words)


_G_IN_REGISTER = "g in register"


def _meant(items: Sequence[s.Item], words: frozenset[str]) -> Sequence[s.Plain]:
    """The declarations that are there for a target, which has these words."""
    found: list[s.Plain] = []
    for item in items:
        if isinstance(item, s.ItemsWhen):
            found += _meant(item.then if _means(item.targets, words) else item.otherwise, words)
        else:
            found.append(item)
    return found


def _means(targets: s.TargetSet, words: frozenset[str]) -> bool:
    """Whether targets are meant that have these words."""
    for name in targets.names:
        if name.name in words:
            return not targets.negated
    return targets.negated


@cache
def target_words(target: Target) -> frozenset[str]:
    """The names by which `when` can mean a target."""
    architecture = target.architecture
    names = {target.name, target.os, architecture.name, f"{target.os}/{architecture.name}"}
    if any(isinstance(convention.thread, Register) for convention in target.conventions.values()):
        names.add(_G_IN_REGISTER)
    if architecture.family not in {t.architecture.name for t in all_targets().values()}:
        names.add(architecture.family)  # `mips` and `ppc64` are one machine each, and not also those like it
    if target.variant:
        names.add(target.variant)
        names.add(target.name.partition("/")[2])
    return frozenset(names)


def _check_target_names(module: Module, report: Report) -> None:
    known = _target_names()
    imports = module.imports
    files = module.files if imports is None or not imports.targets_right else module.files[-1:]
    for file in files:
        for item in _without_whens(file.items):
            text = item.span.text
            if "when" not in text and "asm" not in text and not isinstance(item, s.TargetSet):
                continue  # there are no targets behind other words
            right = _targets_right(text)
            if right:
                continue
            right.append(True)
            for targets in _target_sets(item):
                for name in targets.names:
                    if name.name not in known:
                        notes = suggestion(name.name, known)
                        report.error("T001", f"no target is called `{name.name}`", name.span, notes=notes)
                        right.clear()
    if imports is not None and not report.diagnostics:
        imports.targets_right = True


def _without_whens(items: Iterable[s.Item]) -> Iterator[s.Plain | s.TargetSet]:
    """The declarations in a file, and the targets of each `when` around some of them, in the order of the source."""
    for item in items:
        if isinstance(item, s.ItemsWhen):
            yield item.targets
            yield from _without_whens((*item.then, *item.otherwise))
        else:
            yield item


@cache
def _target_names() -> frozenset[str]:
    """All names by which `when` can mean a target."""
    return frozenset({_G_IN_REGISTER, *(word for target in all_targets().values() for word in target_words(target))})


@lru_cache(maxsize=512)
def _targets_right(text: str) -> list[bool]:
    """Not empty once all targets that such a declaration names have been found to be some, to be filled."""
    return []


def _target_sets(node: object) -> Iterator[s.TargetSet]:
    """Those in a node, in the order of the source."""
    rest = [node]
    while rest:
        node = rest.pop()
        if isinstance(node, s.TargetSet):
            yield node
        elif isinstance(node, (tuple, s.Later)):
            rest += reversed(node)
        else:
            kind: type = node.__class__
            rest += [getattr(node, name) for name in _parts(kind)]


@cache
def _parts(kind: type) -> tuple[str, ...]:
    """The fields of a class of nodes that nodes may be in, last first."""
    if kind in (Span, Source, s.Name):
        return ()
    names = getattr(kind, "__dataclass_fields__", ())
    return tuple(name for name in reversed(list(names)) if name not in ("span", "spans"))


def check_module(module: Module) -> None:
    """What can be said of a module without a target. Raises InputError."""
    report = Report()
    _check_target_names(module, report)
    report.finish()


def conventions_in(module: Module, target: Target) -> dict[str, Convention]:
    """What conventions there are for the functions of a module. Raises InputError."""
    report = Report()
    environment = _environment(target, report, module.headers)
    items = [item for file in module.files for item in _meant(file.items, environment.words)]
    _declare_conventions([item for item in items if isinstance(item, s.ConventionDeclaration)], environment)
    report.finish()
    return environment.conventions


def _environment(target: Target, report: Report, headers: Headers) -> Environment:
    def constant(node: s.Expression) -> int | None:
        known = reference()
        assert known is not None
        return ConstantResolver(known).constant(node)

    environment = Environment(target, report, Layouts(target, report, constant, headers), dict(target.conventions))
    reference = ref(environment)  # or it would be in a cycle, and all that it knows would wait for the collector
    return environment


@dataclass(slots=True)
class Declared:
    """What the declarations of files have made known for a target, and what there is to be resolved among them."""

    environment: Environment
    names: dict[str, Span] = field(default_factory=dict)
    defined: dict[str, Span] = field(default_factory=dict)
    contracted: dict[str, Span] = field(default_factory=dict)
    bodies: list[tuple[s.Trampoline, ir.Signature, frozenset[str]]] = field(default_factory=list)
    bodiless: list[tuple[s.Trampoline, ir.Signature]] = field(default_factory=list)
    checks: list[s.Check] = field(default_factory=list)
    imported: Declared | None = None  # what it is a copy of, if it is one
    outline: Outline | None = None  # once it has been asked for

    def add(self, items: Sequence[tuple[s.Plain, Path]]) -> None:
        """Declare what some files have for the target, each item with the folder of its file: of one kind after the
        other, so that it does not matter where something is declared."""
        environment, names = self.environment, self.names
        layouts, report = environment.layouts, environment.report
        environment.items = (*environment.items, [item for item, _ in items])
        known = set(environment.constant_nodes)
        conventions = []
        for item, folder in items:
            match item:
                case s.Extern() | s.Check() | s.Trampoline() | s.ExternVariable() | s.Table() | s.Import():
                    pass
                case s.Constant():
                    define(names, str(item.name), item.name.span, report)
                    environment.constant_nodes[str(item.name)] = item
                case s.Struct():
                    layouts.declare(item, folder)
                case s.ConventionDeclaration():
                    conventions.append(item)
                case _:
                    assert_never(item)
        _declare_conventions(conventions, environment)
        resolver = ConstantResolver(environment)
        for name, node in environment.constant_nodes.items():
            if name not in known and resolver.constant_value(node) is not None:
                resolver.constant_named(name, node.name.span)
        for name in layouts.declarations:
            layouts.struct(name)
        for item, _ in items:
            if isinstance(item, s.ExternVariable):
                _declare_variable(item, environment, names)
            elif isinstance(item, (s.Extern, s.Trampoline)):
                self._add_function(item)
        for item, _ in items:
            if isinstance(item, s.Table):
                _declare_table(item, environment, self.defined, names)
        self.checks += [item for item, _ in items if isinstance(item, s.Check)]

    def _add_function(self, item: s.Extern | s.Trampoline) -> None:
        environment, report = self.environment, self.environment.report
        signature, untyped = _signature(item, environment)
        if isinstance(item, s.Trampoline) and item.variadic:
            environment.variadic.add(str(item.name))
        if isinstance(item, s.Trampoline) and any(isinstance(clause, s.Suspends) for clause in item.clauses):
            environment.suspending[str(item.name)] = item
        if signature is None:
            environment.misdeclared.add(str(item.name))
            return
        defines = isinstance(item, s.Trampoline) and item.body is not None
        if untyped:
            environment.misdeclared.add(signature.name)
            define(self.defined if defines else {}, signature.name, item.name.span, report)
        else:
            _declare_function(signature, item.name.span, defines, environment, self.defined, self.names)
        if isinstance(item, s.Trampoline) and item.body is not None:
            self.bodies.append((item, signature, untyped))
        elif isinstance(item, s.Trampoline):
            define(self.contracted, signature.name, item.name.span, report)
            self.bodiless.append((item, signature))

    def copy(self, environment: Environment) -> Declared:
        """The same in a new environment, to be added to. There were no mistakes."""
        environment.take(self.environment, copied=True)
        return Declared(
            environment,
            dict(self.names),
            dict(self.defined),
            dict(self.contracted),
            list(self.bodies),
            list(self.bodiless),
            list(self.checks),
            self,
        )

    def moved(self, module: Module, report: Report) -> Declared | None:
        """The same for a module that differs from the one that was declared in bodies and checks alone, and in where it
        has its declarations. There were no mistakes. What says where nothing is, is shared, and not to be changed. None
        where a convention is somewhere else: it says where."""
        known, imported = self.environment, self.imported
        environment = _environment(known.target, report, module.headers)
        own = _meant(module.file.items, environment.words)
        environment.take(known)
        environment.files = module.files
        environment.items = (*known.items[:-1], own)
        bodies = list(imported.bodies) if imported is not None else []
        bodiless = list(imported.bodiless) if imported is not None else []
        checks = list(imported.checks) if imported is not None else []
        own_bodies, own_bodiless = iter(self.bodies[len(bodies) :]), iter(self.bodiless[len(bodiless) :])
        for item in own:
            if isinstance(item, s.Check):
                checks.append(item)
            elif isinstance(item, s.Trampoline):
                if item.body is not None:
                    _, signature, untyped = next(own_bodies)
                    bodies.append((item, signature, untyped))
                else:
                    _, signature = next(own_bodiless)
                    bodiless.append((item, signature))
                if any(isinstance(clause, s.Suspends) for clause in item.clauses):
                    environment.suspending = environment.suspending | {signature.name: item}
            elif isinstance(item, s.Table):
                table = replace(environment.tables[str(item.name)], span=item.name.span)
                environment.tables = environment.tables | {table.name: table}
                environment.entered = environment.entered | {table.trampoline: table}
            elif isinstance(item, s.ConventionDeclaration) and known.conventions[str(item.name)].source != str(
                item.span
            ):
                return None
        outline = self.outlined(module)
        return Declared(
            environment, self.names, self.defined, self.contracted, bodies, bodiless, checks, imported, outline
        )

    def collides(self, items: Iterable[tuple[s.Plain, Path]]) -> bool:
        """Whether some items have names that would not be declared behind these if all were declared at once."""
        known = self.environment
        others = (self.names, known.layouts.declarations, known.declared_conventions)
        for item, _ in items:
            if isinstance(item, (s.Check, s.Import)):
                continue
            name = str(item.name)
            if any(name in some for some in others):
                function = isinstance(item, (s.Extern, s.Trampoline, s.ExternVariable))
                if not function or (name not in known.signatures and name not in known.variables):
                    return True
        return False

    def unchanged(self, headers: Headers) -> bool:
        """Whether the headers that were read still say the same."""
        return all(headers.text(path) == text for path, text in self.environment.layouts.read.items())

    def outlined(self, module: Module) -> Outline:
        """What a program has of it."""
        if self.outline is None:
            self.outline = self._outline(module)
        return self.outline

    def _outline(self, module: Module) -> Outline:
        environment = self.environment
        layouts, target = environment.layouts, environment.target
        own = _meant(module.file.items, target_words(target))
        trampolines = [item for item in own if isinstance(item, s.Trampoline)]
        defined = {signature.name for _, signature, _ in self.bodies}
        return Outline(
            {name: layout for name, layout in layouts.done.items() if layout is not None},
            {name: signature for name, signature in environment.signatures.items() if name not in defined},
            {name: variable for name, variable in environment.variables.items() if variable is not None},
            tuple(str(item.name) for item in trampolines if item.body is not None),
            tuple(str(item.name) for item in trampolines if item.body is None),
            tuple(str(item.name) for item in own if isinstance(item, s.Table)),
            found_right(target, module.declarations, tuple(layouts.read.values())),
        )


@dataclass(frozen=True, slots=True)
class Outline:
    """What a program has of its declarations, wherever in the files they are; as in `ir.Program`."""

    structs: Mapping[str, ir.StructLayout]
    externs: Mapping[str, ir.Signature]
    variables: Mapping[str, ir.ExternVariable]
    own: tuple[str, ...]
    own_contracts: tuple[str, ...]
    own_tables: tuple[str, ...]
    right: set[str]


@lru_cache(maxsize=32)
def _declared_before(imports: Imports, declarations: tuple[str, ...]) -> dict[Target, Declared]:
    """What a file with such declarations has declared for a target, if that was right, to be filled. It is not to be
    changed."""
    return {}


def _items(files: Iterable[s.File], target: Target) -> list[tuple[s.Plain, Path]]:
    """What files declare for a target, each with the folder of its file."""
    found: list[tuple[s.Plain, Path]] = []
    for file in files:
        folder = _folder(file.source.name)
        found += [(item, folder) for item in _meant(file.items, target_words(target))]
    return found


def _declared(module: Module, target: Target, report: Report) -> Declared:
    """All declarations of a module. They are made once, as long as they have not changed; those of the imported files,
    if they can be made without the others, even where its own have changed."""
    before = module.before.get(target) if module.imports is not None else None
    if before is not None and before.unchanged(module.headers):
        moved = before.moved(module, report)
        if moved is not None:
            return moved
    environment = _environment(target, report, module.headers)
    environment.files = module.files
    own = _items([module.file], target)
    imported = _declared_by_imports(module, target)
    others: list[tuple[s.Plain, Path]] = []
    if imported is None or imported.collides(own):
        others = _items(module.files[:-1], target)
        declared = Declared(environment)
    else:
        declared = imported.copy(environment)
    declared.add([*others, *own])
    if not others and not report.diagnostics and module.imports is not None:
        module.before[target] = declared
    return declared


def _declared_by_imports(module: Module, target: Target) -> Declared | None:
    """What the imported files declare; None if there are none, or if something is missing in them or wrong."""
    imports = module.imports
    if imports is None or not imports.files:
        return None
    declared = imports.declared.get(target)
    if declared is not None and declared.unchanged(module.headers):
        return declared
    report = Report()
    declared = Declared(_environment(target, report, module.headers))
    try:
        declared.add(_items(imports.files, target))
        report.finish()
    except InputError:
        return None  # told of the module, if it is wrong there
    imports.declared[target] = declared
    return declared


def resolve(module: Module, target: Target) -> ir.Program:
    """The program for one target. Raises InputError with everything that is wrong with it there."""
    report = Report()
    declared = _declared(module, target, report)
    environment = declared.environment
    outline = declared.outlined(module)
    own, right = outline.own, outline.right

    # Functions and checks with mistakes go no further than `report.finish`.
    functions = Functions()
    for trampoline, signature, untyped in declared.bodies:
        imported = signature.name not in own
        later = imported and not report.diagnostics and trampoline.span.text in right
        functions.add(signature.name, partial(_function, trampoline, signature, untyped, environment), later=later)
    contracts = {
        signature.name: _contract(trampoline, signature, environment)
        for trampoline, signature in declared.bodiless
        if signature.name not in functions
    }
    checks = declared.checks
    scenarios: Sequence[ir.Scenario]
    if not report.diagnostics and all(check.text in right for check in checks):
        scenarios = Scenarios(lambda: _scenarios(checks, environment, functions, contracts)) if checks else ()
    else:
        scenarios = _scenarios(checks, environment, functions, contracts)
        if not report.diagnostics:
            right.update(check.text for check in checks)
    missing = not own and not outline.own_contracts
    if missing and not report.diagnostics and not _trampolines(module.file.items):
        report.error("R001", "this file declares no trampoline", None, file=module.name, notes=[EMPTY])
    report.finish()
    return ir.Program(
        target,
        outline.structs,
        outline.externs,
        functions,
        scenarios,
        own,
        module.name,
        outline.variables,
        environment.tables,
        outline.own_tables,
        right,
        frozenset(functions.later),
        contracts,
        outline.own_contracts,
    )


def _declare_variable(item: s.ExternVariable, environment: Environment, names: dict[str, Span]) -> None:
    """Several files may declare the same variable, if all say the same of it."""
    name = str(item.name)
    variable = environment.layouts.extern_variable(item)
    before = environment.variables.get(name)
    if item.name.parts[0] in ("g", "sp"):
        what = "the runtime's thread" if item.name.parts[0] == "g" else "the stack pointer"
        environment.report.error("R002", f"`{item.name.parts[0]}` is {what}", item.name.span)
    elif name not in environment.variables:
        define(names, name, item.name.span, environment.report)
    elif before is not None and variable is not None and before != variable:
        message = f"`{name}` is declared twice, and not alike"
        related = [(environment.where(name, s.ExternVariable), "first here")]
        environment.report.error("R002", message, item.name.span, related=related)
    environment.variables.setdefault(name, variable)


def _contract(item: s.Trampoline, signature: ir.Signature, environment: Environment) -> ir.Function:
    function = FunctionResolver(environment, Scope(), signature).contract(item, signature)
    return _suspending(function, item, signature, environment)


def _function(
    item: s.Trampoline, signature: ir.Signature, untyped: frozenset[str], environment: Environment
) -> ir.Function:
    resumed = resumed_by(item, environment) if item.clauses else None
    function = FunctionResolver(environment, Scope(), signature).function(item, signature, untyped, resumed)
    return _suspending(function, item, signature, environment)


def _suspending(
    function: ir.Function, item: s.Trampoline, signature: ir.Signature, environment: Environment
) -> ir.Function:
    """The same, with what its clauses say of contexts."""
    if not item.clauses:
        return function
    found = suspension(item, function.parameters, signature, environment)
    return replace(function, suspension=found) if found is not None else function


def _declare_table(
    item: s.Table, environment: Environment, defined: Mapping[str, Span], names: dict[str, Span]
) -> None:
    """A table enters one trampoline, and that is entered through it alone."""
    report, target = environment.report, environment.target
    name, entered = str(item.name), str(item.trampoline)
    define(names, name, item.name.span, report)
    count = ConstantResolver(environment).constant(item.count)
    if count is not None and not 1 <= count <= MOST_ENTRIES:
        message = f"a table has 1 to {MOST_ENTRIES} entries, not {count}"
        report.error("R081", message, item.count.span)
        count = None
    if entered not in defined:
        if entered in environment.signatures:
            message = f"`{entered}` is an extern, and what a table enters is a trampoline"
            report.error("R022", message, item.trampoline.span, notes=["declare a trampoline that jumps there"])
        elif entered not in environment.misdeclared:
            notes = suggestion(entered, defined)
            report.error("R022", f"there is no trampoline `{entered}` to enter", item.trampoline.span, notes=notes)
        return
    before = environment.entered.get(entered)
    if before is not None:
        message = f"`{entered}` is entered through `{before.name}` already"
        notes = ["a trampoline for each table, which may call a third one"]
        report.error("R081", message, item.trampoline.span, notes=notes, related=[(before.span, "first here")])
        return
    environment.entered[entered] = None
    if entered in environment.misdeclared or count is None:
        return
    convention = environment.signatures[entered].convention
    reason = target.architecture.why_no_table(convention)
    if reason:
        report.error("R082", f"no table can enter `{entered}` on {target.name}: {reason}", item.span)
        return
    table = ir.Table(name, count, entered, item.name.span)
    environment.tables.setdefault(name, table)
    environment.entered[entered] = table


def _declare_function(
    signature: ir.Signature,
    span: Span,
    defines: bool,
    environment: Environment,
    defined: dict[str, Span],
    names: dict[str, Span],
) -> None:
    """An extern may announce a trampoline that this or another file defines, if both say the same of it."""
    before = environment.signatures.get(signature.name)
    if before is None:
        define(names, signature.name, span, environment.report)
    if defines and signature.name in defined:
        define(defined, signature.name, span, environment.report)
        return
    if before is not None:
        same = (
            [t for _, t in before.parameters] == [t for _, t in signature.parameters]
            and before.result == signature.result
            and before.convention is signature.convention
        )
        if not same:
            message = f"`{signature.name}` is declared twice, and not alike"
            related = [(environment.where(signature.name, s.Extern, s.Trampoline), "first here")]
            environment.report.error("R002", message, span, related=related)
            return
    if defines:
        defined[signature.name] = span
    if defines or before is None:
        environment.signatures[signature.name] = signature


def _signature(item: s.Extern | s.Trampoline, environment: Environment) -> tuple[ir.Signature | None, frozenset[str]]:
    """A function's signature, and the names of the parameters (and `->` for the result) whose types are not known:
    those have another type in it. None where its convention is not known."""
    convention = environment.convention(item.convention)
    word = environment.word_type
    result = environment.layouts.type(item.result) if item.result else None
    untyped = {"->"} if item.result is not None and result is None else set()
    parameters = []
    seen: dict[str, Span] = {}
    for parameter in item.parameters:
        type_ = environment.layouts.type(parameter.type)
        define(seen, parameter.name, parameter.span, environment.report)
        if type_ is None:
            untyped.add(parameter.name)
        parameters.append((parameter.name, type_ or word))
    clobbers: set[Register] | None = None
    if isinstance(item, s.Extern) and item.clobbers is not None:
        for clause in item.clobbers:
            if environment.holds(clause.targets):
                clobbers = clobbers if clobbers is not None else set()
                clobbers |= {r for r in map(environment.register, clause.registers) if r is not None}
    if convention is None:
        return None, frozenset(untyped)
    if not environment.places(convention, [t for _, t in parameters], result, item.name.span):
        return None, frozenset(untyped)
    signature = ir.Signature(
        str(item.name),
        tuple(parameters),
        result or (word if item.result is not None else None),
        convention,
        frozenset(clobbers) if clobbers is not None else None,
    )
    return signature, frozenset(untyped)


def own_trampolines(module: Module, target: Target) -> tuple[str, ...]:
    """The trampolines with a body that the module's first file declares for a target."""
    return tuple(str(item.name) for item in _own(module, target) if item.body is not None)


def _own(module: Module, target: Target) -> Iterator[s.Trampoline]:
    for item in _meant(module.file.items, target_words(target)):
        if isinstance(item, s.Trampoline):
            yield item


def refuse_bodiless(modules: Iterable[Module], targets: Sequence[Target], name: str | None = None) -> None:
    """Raises InputError where files have nothing to build for any of these targets but trampolines without a body; or
    where the one of that `name` has none."""
    found = [item for module in modules for target in targets for item in _own(module, target)]
    wanted = [item for item in found if name is None or str(item.name) == name]
    if wanted and all(item.body is None for item in wanted):
        raise InputError([_bodiless(item) for item in {str(item.name): item for item in wanted}.values()])


def _bodiless(item: s.Trampoline) -> Diagnostic:
    message = f"`{item.name}` has no body, and there is nothing to build or to run"
    note = f"`trampoline audit OBJECT --symbol {item.name} --source FILE` judges machine code that is to keep to it"
    return Diagnostic("R096", message, item.name.span, notes=(note,))


def _trampolines(items: Iterable[s.Item]) -> set[str]:
    """The names of the trampolines that there are for any target."""
    found: set[str] = set()
    for item in items:
        if isinstance(item, s.ItemsWhen):
            found |= _trampolines((*item.then, *item.otherwise))
        elif isinstance(item, s.Trampoline):
            found.add(str(item.name))
    return found


def _scenarios(
    checks: Iterable[s.Check],
    environment: Environment,
    functions: Mapping[str, ir.Function],
    contracts: Mapping[str, ir.Function],
) -> tuple[ir.Scenario, ...]:
    found = [_scenario(check, environment, functions, contracts) for check in checks]
    return tuple(scenario for scenario in found if scenario is not None)


def _scenario(
    item: s.Check,
    environment: Environment,
    functions: Mapping[str, ir.Function],
    contracts: Mapping[str, ir.Function],
) -> ir.Scenario | None:
    name = str(item.trampoline)
    if name in contracts:
        return CheckResolver(environment, Scope(), None).scenario(item, contracts[name], functions)
    if name in functions:
        return CheckResolver(environment, Scope(), None).scenario(item, functions[name], functions)
    if name in environment.signatures:
        message = f"`{name}` is an extern, and what is checked is a trampoline"
        notes = ["say what it does in the check of a trampoline that calls it: `on " + name + "(...) { }`"]
        environment.report.error("R022", message, item.trampoline.span, notes=notes)
    elif name not in environment.misdeclared and not any(name in _trampolines(f.items) for f in environment.files):
        notes = suggestion(name, functions)
        environment.report.error("R022", f"there is no trampoline `{name}` to check", item.trampoline.span, notes=notes)
    return None


# ------------------------------------------------------------------------------------------------- user's conventions


def _declare_conventions(items: Sequence[s.ConventionDeclaration], environment: Environment) -> None:
    """Each behind the one that it is like, wherever that is declared."""
    by_name = {str(item.name): item for item in reversed(items)}
    declared = environment.declared_conventions
    done: set[str] = set()
    for item in items:
        if by_name[str(item.name)] is item and str(item.name) in done:
            continue  # another one is like it
        path = {str(item.name): item}
        while True:
            last = path[next(reversed(path))]
            base = _base_name(last, environment)
            following = by_name.get(str(base))
            if following is None or str(base) in declared or str(base) in environment.target.conventions:
                break
            if str(base) in path:
                circle = [*path][[*path].index(str(base)) :]
                notes = [" like ".join([*circle, str(base)])] if len(circle) > 1 else []
                message = f"convention `{last.name}` is like itself"
                environment.report.error(
                    "R027",
                    message,
                    base.span,
                    notes=[*notes, "in the end a convention is like one that the target has: `like c`"],
                )
                declared[str(last.name)] = last.name.span
                done.add(str(last.name))
                del path[str(last.name)]
                break
            path[str(base)] = following
        for one in reversed(path.values()):
            _declare_convention(one, environment)
            done.add(str(one.name))


def _base_name(item: s.ConventionDeclaration, environment: Environment) -> s.Name:
    named = (fact.names for fact in _facts(item.facts, environment) if str(fact.what) == "like")
    return next((names[0] for names in named if names), item.like)


def _declare_convention(item: s.ConventionDeclaration, environment: Environment) -> None:
    name = str(item.name)
    if name in environment.target.conventions:
        message = f"{environment.target.name} has a convention `{name}` already"
        environment.report.error("R002", message, item.name.span, notes=["take another name"])
        return
    if name in environment.declared_conventions:
        related = [(environment.declared_conventions[name], "first here")]
        environment.report.error("R002", f"convention `{name}` is declared twice", item.name.span, related=related)
        return
    environment.declared_conventions[name] = item.name.span
    facts = tuple(_facts(item.facts, environment))
    bases = [fact for fact in facts if str(fact.what) == "like"]
    if any(len(fact.names) != 1 for fact in bases):
        environment.report.error("R024", "`like` names one convention", bases[0].span, notes=["`like c`"])
        return
    if len(bases) > 1:
        related = [(bases[0].span, "first here")]
        environment.report.error("R024", "`like` is said twice for one target", bases[1].span, related=related)
        return
    base = environment.convention(bases[0].names[0] if bases else item.like)
    if base is None:
        return
    changes: dict[str, object] = {"name": name, "title": f"{name}, like {base.name}", "source": str(item.span)}
    kept = dict(base.kept)
    reserved = dict(base.reserved)
    for fact in facts:
        _apply_fact(fact, base, changes, kept, reserved, environment)
    conflicts = list(_conflicts(base, changes, kept, reserved, environment.target))
    for message in conflicts:
        environment.report.error("R023", message, item.name.span)
    if not conflicts:
        facts_of_it = tuple(changes.items()), tuple(kept.items()), tuple(reserved.items())
        environment.conventions[name] = made = _derived(base, *facts_of_it)
        if isinstance(made.thread, Register):
            environment.words |= {_G_IN_REGISTER}


@lru_cache(maxsize=256)
def _derived(
    base: Convention,
    changes: tuple[tuple[str, object], ...],
    kept: tuple[tuple[Register, int], ...],
    reserved: tuple[tuple[Register, str], ...],
) -> Convention:
    """The same convention for the same facts, so that what is kept of a convention is found again."""
    return base.derive(**dict(changes), kept=dict(kept), reserved=dict(reserved))


def _conflicts(
    base: Convention,
    changes: Mapping[str, object],
    kept: Mapping[Register, int],
    reserved: Mapping[Register, str],
    target: Target,
) -> Iterable[str]:
    """Registers that cannot be two things at once."""
    architecture = target.architecture

    def names(registers: Iterable[Register]) -> str:
        return " ".join(dict.fromkeys(register.name for register in registers))

    def of(fact: str) -> tuple[Register, ...]:
        registers = changes.get(_REGISTER_FACTS[fact], getattr(base, _REGISTER_FACTS[fact]))
        assert isinstance(registers, tuple)
        return registers

    scratch = of("scratch")
    if missing := [r for r in base.scratch if r not in scratch]:
        yield f"the compiler's own sequences need {names(missing)} as scratch on {target.name}"
    if clash := [r for r in scratch if r in kept]:
        yield f"what is kept is no scratch: {names(clash)} (scratch of {base.name}: {names(base.scratch)})"
    thread = changes.get("thread", base.thread)
    passing = {r for fact in _REGISTER_FACTS if fact != "scratch" for r in of(fact)}
    own = {r for r in (base.return_address, base.call_through, architecture.flags, *base.linker_may_write) if r}
    if clash := [r for r in passing if r in scratch or r in reserved or r is thread]:
        yield f"arguments and results do not travel in what is scratch or reserved: {names(sorted(clash, key=str))}"
    if clash := [r for r in kept if r not in base.kept and r in own]:
        yield f"a call itself changes {names(clash)}, which cannot be kept"
    if clash := [r for r in reserved if r not in base.reserved and (r in own or r in scratch)]:
        yield f"calls and the compiler's own sequences use {names(clash)}, which cannot be reserved"
    alignment = changes.get("alignment", base.alignment)
    assert isinstance(alignment, int)
    if unaligned := [r for r in kept if architecture.save_alignment.get(r.bank, 1) > alignment]:
        more = max(architecture.save_alignment[r.bank] for r in unaligned)
        yield f"{names(unaligned)} can be kept with `align {more}` only, and the stack is aligned to {alignment}"
    if isinstance(thread, Register) and (thread in own or thread in scratch):
        yield f"calls and the compiler's own sequences use {thread.name}, which cannot hold the thread's g"


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
_FACTS = (*_REGISTER_FACTS, *_NUMBER_FACTS, "keeps", "loses", "reserves", "thread", "pops", "like")


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
    if what == "like":
        return  # says what all the others are changes of
    if what not in _FACTS:
        notes = [*suggestion(what, _FACTS), "there are " + " ".join(_FACTS)]
        if what in environment.target.architecture.registers:
            notes = ["between registers stands a comma: `keeps a, b`"]
        report.error("R024", f"a convention has no fact `{what}`", fact.what.span, notes=notes)
        return
    if what in _NUMBER_FACTS:
        _apply_number(fact, what, base, changes, environment)
        return
    if fact.value is not None:
        report.error("R024", f"`{what}` is no number", fact.value.span)
        return
    if what == "pops":
        _apply_pops(fact, base, changes, environment)
        return
    none = [str(n) for n in fact.names] == ["none"]
    registers = () if none else tuple(r for r in map(environment.register, fact.names) if r is not None)
    if len(registers) != len(fact.names) and not none:
        return
    before = len(report.diagnostics)
    banks = _banks(what, base)
    for register, name in zip(registers, fact.names, strict=False):
        if not banks:
            message = f"{base.name} has no registers for `{what}` on {environment.target.name}"
            report.error("R025", message, fact.what.span, notes=["declare it like another convention"])
            return
        if register.bank not in banks:
            kinds = " or ".join(sorted(bank.value for bank in banks))
            report.error("R025", f"{register.name} is no {kinds} register", name.span)
        if register is environment.target.architecture.sp:
            report.error("R025", f"{register.name} is the stack pointer, which has a part of its own", name.span)
    if len(set(registers)) != len(registers) or (what == "thread" and len(registers) > 1):
        report.error("R025", f"a register too many in `{what}`", fact.span)
    if len(report.diagnostics) > before:
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


def _banks(what: str, base: Convention) -> set[Bank]:
    """The kinds of registers that a fact names."""
    if what in ("arguments", "results", "thread"):
        return {Bank.INTEGER}
    if what in ("float_arguments", "float_results"):
        return {register.bank for register in getattr(base, _REGISTER_FACTS[what])}
    return set(Bank)


def _apply_number(
    fact: s.ConventionFact, what: str, base: Convention, changes: dict[str, object], environment: Environment
) -> None:
    report, word = environment.report, environment.word
    if not isinstance(fact.value, s.Integer):
        report.error("R024", f"`{what}` is a number of bytes", fact.span, notes=[f"`{what} 16`"])
        return
    value = fact.value.value
    least = {
        "align": min(c.alignment for c in environment.target.conventions.values()),
        "area": base.area,
        "first_stack_argument": base.first_stack_argument,
    }.get(what, 0)
    if what == "align" and (value < 1 or value & (value - 1) or value > 4096):
        report.error("R024", f"an alignment is a power of two up to 4096, not {value}", fact.value.span)
    elif value > 4096 or (value % word and what != "align"):
        report.error("R024", f"{what} is a multiple of {word} up to 4096, not {value}", fact.value.span)
    elif value < least:
        message = f"{what} is at least {least} on {environment.target.name}, not {value}"
        report.error("R024", message, fact.value.span, notes=[f"as for {base.name}"] if what != "align" else [])
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
