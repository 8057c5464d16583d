"""The passes in order: source text to an artifact for one target. The table of contents of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from . import cfi, ehabi, ir, plan9, seh, transitions
from .allocate import allocate
from .assemble import Assembled, AssemblyError, assemble
from .diagnostics import Diagnostic, InputError, Source, Span, merged
from .emit import entries_text, file_text, function_text, table_text
from .frame import lay_out
from .landing import marks_pairs, unpaired
from .lir import DECLARED, Home
from .lower import lower
from .records import cached_property
from .resolve import Module, check_module, conventions_in, load_module, resolve
from .select import NoRegisterFree, Selected, select
from .target import (
    Architecture,
    Convention,
    Frame,
    IndexedUnwinding,
    Insn,
    Register,
    Relocation,
    Target,
    Unwinding,
    WindowsUnwinding,
)

if TYPE_CHECKING:
    from .load import Extern, Loaded, LoadedFile


@dataclass(frozen=True)
class Line:
    """Which source line a piece of code comes from: `offset` and `size` in bytes from the function's start."""

    offset: int
    size: int
    instruction: str
    line: int
    column: int


@dataclass(frozen=True)
class Artifact:
    """One trampoline compiled for one target.

    `code` are its bytes before linking, `relocations` the places that a linker fills (offsets from its start). `frame`
    says where everything is, `instructions` and `source_map` tie code to source; `selected` are the same instructions
    and their places beside them, which is what a build needs.
    """

    function: ir.Function
    target: Target
    frame: Frame
    selected: Selected
    source: Source = field(repr=False)
    program: ir.Program = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.function.name

    @cached_property
    def instructions(self) -> tuple[Insn, ...]:
        """Each with the line and the column that it is made for."""
        return self.selected.placed()

    @cached_property
    def _assembled(self) -> Assembled:
        try:
            return assemble(self.target.architecture, self.selected.instructions)
        except AssemblyError as error:
            raise self._wrong(error) from None

    def _wrong(self, error: AssemblyError) -> InputError:
        """All that cannot be assembled, of which this is the first."""
        instructions = list(self.instructions)
        errors: list[Diagnostic] = []
        while True:
            errors += self._explain(error, instructions[error.index]).diagnostics
            # Without it the next one shows.
            del instructions[error.index]
            try:
                assemble(self.target.architecture, instructions)
            except AssemblyError as another:
                error = another
            else:
                return InputError(errors)

    def _explain(self, error: AssemblyError, insn: Insn) -> InputError:
        """An instruction that a user wrote is the user's to mend; any other one that this machine lacks (a branch over
        more code than it can reach) comes of the statement that it was made for."""
        start = self.source.starts[max(insn.line, 1) - 1] + max(insn.column, 1) - 1
        if not insn.user_text:
            message = f"{self.target.name} has no instruction for this: {error.text}: {error.reason}"
            return InputError([Diagnostic("A002", message, Span(self.source, start, start + 1))])
        found = self.source.text.find(f'"{error.text}"', start)
        start, end = (found, found + len(error.text) + 2) if found >= 0 else (start, start + 1)
        span = Span(self.source, start, end)
        reason = error.reason
        if re.match(r"(is|has|holds|does|names|was|gives|means) ", reason):
            reason = "it " + reason
        message = f"this is no instruction for {self.target.name}: {reason}"
        return InputError([Diagnostic("A001", message, span)])

    @property
    def code(self) -> bytes:
        return self._assembled.code

    @property
    def relocations(self) -> tuple[Relocation, ...]:
        return self._assembled.relocations

    @property
    def slots(self) -> dict[str, int]:
        """Where the structs of the frame are, by name: bytes above sp."""
        structs = {slot.name for slot in self.function.slots if slot.kind == "struct"}
        declared = [s for s in self.frame.body_slots if s.reason == DECLARED and s.owner in structs]
        return {slot.owner: slot.offset for slot in declared}

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each of `instructions` starts."""
        return self._assembled.offsets

    @cached_property
    def source_map(self) -> tuple[Line, ...]:
        ends = (*self.offsets[1:], len(self.code))
        return tuple(
            Line(start, end - start, insn.text, insn.line, insn.column)
            for insn, start, end in zip(self.instructions, self.offsets, ends, strict=True)
            if insn.label is None
        )

    @cached_property
    def text(self) -> str:
        """The function in GNU syntax."""
        title = f"{self.name}, {_file_name(self.source.name)}:{self.function.span.line}"
        convention = self.function.convention
        symbol = c_symbol(self.function.signature)
        said, index = self.unwinding, self.index
        if said is not None and index is not None:
            said = tuple((*one, *other) for one, other in zip(said, index, strict=True))
        return function_text(
            self.name,
            convention,
            self.selected,
            self.frame,
            self.target,
            self.source,
            title,
            symbol,
            said,
            _brackets(cfi.made_of(self.target.architecture), self.name),
        )

    @property
    def unwinding(self) -> tuple[tuple[str, ...], ...] | None:
        """The directives of unwind information that stand before each of `instructions`; None if there is none."""
        return None if isinstance(self._unwinding, str) else self._unwinding

    @property
    def why_no_unwinding(self) -> str:
        """Why there is no unwind information, if so."""
        return self._unwinding if isinstance(self._unwinding, str) else ""

    @cached_property
    def _described(self) -> cfi.Described:
        pushed = self.function.table is not None and self.target.architecture.table_pushes
        return cfi.Described(self.selected.instructions, self.function.convention, self.frame.size, pushed)

    @cached_property
    def _rows(self) -> Sequence[cfi.Row | None]:
        return transitions.followed(self._described, self.target.architecture)

    @cached_property
    def _unwinding(self) -> tuple[tuple[str, ...], ...] | str:
        architecture = self.target.architecture
        try:
            tables = cfi.made_of(architecture)
            if isinstance(tables, WindowsUnwinding):
                return seh.directives(self._described, architecture, tables, self.name, lambda: self.offsets)
            # Rows are many objects, which are kept only where another table is made of them too.
            again = isinstance(tables, IndexedUnwinding)
            rows = self._rows if again else transitions.followed(self._described, architecture)
            return cfi.directives(self._described, architecture, rows)
        except seh.NotDescribed as error:
            return str(error)

    @cached_property
    def index(self) -> tuple[tuple[str, ...], ...] | None:
        """The directives of the index table that is read at run time, where that is another one, before each of
        `instructions`; None if there is none."""
        architecture = self.target.architecture
        tables = cfi.made_of(architecture)
        if not isinstance(tables, IndexedUnwinding):
            return None
        return ehabi.directives(self.selected.instructions, self._rows, tables, architecture.comment)

    def plan9_text(self, symbol: Callable[[str], str]) -> str:
        """The function as Go's assembler takes it; `symbol`: a symbol as Go writes it. The target is linked for Go."""
        title = f"{self.name}, {_file_name(self.source.name)}:{self.function.span.line}"
        ends = (*self.offsets[1:], len(self.code))
        code = [self.code[start:end] for start, end in zip(self.offsets, ends, strict=True)]
        function = plan9.Function(self.function.signature, self.instructions, code, self.frame, self.source, title)
        return plan9.function_text(function, self.target, symbol)

    @property
    def instruction_count(self) -> int:
        return sum(1 for insn in self.selected.instructions if insn.label is None)

    def load(self, externs: Mapping[str, Extern] | None = None) -> Loaded:
        """Map the code into this process, if that runs code for the target. `externs` gives what it refers to, by name:
        addresses, Python callables, ctypes functions, other loaded trampolines; for variables addresses or ctypes
        objects. Raises LoadError."""
        from .load import load_artifact

        return load_artifact(self, externs)

    def __repr__(self) -> str:
        return f"<Artifact {self.name} for {self.target.name}>"  # what it is made of fills pages

    def __str__(self) -> str:
        size = f"{len(self.code)} bytes, {self.instruction_count} instructions, frame {self.frame.size}"
        return f"{self.name} for {self.target.name}: {size}"


@dataclass(frozen=True)
class TableArtifact:
    """One table of entries for one target, and the trampoline that it enters."""

    table: ir.Table
    function: ir.Function
    target: Target

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def _kept(self) -> _Entries:
        return _entries(self.target.architecture, self.table.count, self.function.name, self.function.convention)

    @property
    def entries(self) -> Sequence[tuple[Insn, ...]]:
        return self._kept.entries

    @property
    def behind(self) -> tuple[Insn, ...]:
        """What stands behind the entries, an equal part for each: where an entry is too short for all that it does."""
        return self._kept.behind

    @property
    def instructions(self) -> tuple[Insn, ...]:
        return self._kept.instructions

    @property
    def _assembled(self) -> Assembled:
        return self._kept.assembled

    @property
    def code(self) -> bytes:
        return self._assembled.code

    @property
    def relocations(self) -> tuple[Relocation, ...]:
        return self._assembled.relocations

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each of `instructions` starts."""
        return self._assembled.offsets

    @property
    def stride(self) -> int:
        """Bytes from an entry to the next."""
        size = self.offsets[-len(self.behind)] if self.behind else len(self.code)
        return size // self.table.count

    @property
    def source(self) -> Source:
        return self.table.span.source

    @cached_property
    def text(self) -> str:
        """The table in GNU syntax."""
        where = f"{_file_name(self.source.name)}:{self.table.span.line}"
        title = f"{self.name}, {where}: {self.table.count} entries of {self.stride} bytes"
        # On Windows what is in no table has no frame: Microsoft Learn, "x64 exception handling", "Unwind procedure".
        tables = cfi.made_of(self.target.architecture)
        brackets = ((), ()) if isinstance(tables, WindowsUnwinding) else _brackets(tables, self.name)
        return table_text(self.name, self.function.convention, self._kept.text, self.target, title, brackets)

    def plan9_text(self, symbol: Callable[[str], str]) -> str:
        """The table as Go's assembler takes it."""
        where = f"{_file_name(self.source.name)}:{self.table.span.line}"
        title = f"{self.name}, {where}: {self.table.count} entries of {self.stride} bytes"
        return plan9.table_text(self.name, self.entries, self.target, title, symbol)

    def __repr__(self) -> str:
        return f"<TableArtifact {self.name} for {self.target.name}>"

    def __str__(self) -> str:
        return f"{self.name} for {self.target.name}: {self.table.count} entries of {self.stride} bytes"


class _Entries:
    """The entries of a table: they follow from what it enters and how many there are."""

    def __init__(self, architecture: Architecture, count: int, symbol: str, convention: Convention) -> None:
        self.entries, self.behind = architecture.table(count, symbol, convention)
        self.architecture = architecture
        self.instructions = (*(insn for entry in self.entries for insn in entry), *self.behind)

    @cached_property
    def assembled(self) -> Assembled:
        return assemble(self.architecture, self.instructions)

    @cached_property
    def text(self) -> str:
        return "\n".join([entries_text(self.entries), *(f"\t{insn.text}" for insn in self.behind)])


@lru_cache(maxsize=16)
def _entries(architecture: Architecture, count: int, symbol: str, convention: Convention) -> _Entries:
    """A table that enters the same trampoline as before is not made again, whatever the trampoline does."""
    return _Entries(architecture, count, symbol, convention)


class Artifacts(Mapping[str, Artifact]):
    """The trampolines of a program by name. One that is imported, and has been compiled among the same declarations
    before, is compiled again only when it is asked for."""

    def __init__(self, program: ir.Program) -> None:
        self.program = program
        self._ordinals = {name: ordinal for ordinal, name in enumerate(program.functions)}
        self._made: dict[str, Artifact] = {}

    def __getitem__(self, name: str) -> Artifact:
        made = self._made.get(name)
        if made is None:
            function = self.program.functions[name]
            made = self._made[name] = compile_function(function, self, self._ordinals[name])
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.program.functions)

    def __len__(self) -> int:
        return len(self.program.functions)


@dataclass(frozen=True)
class Compiled:
    """Every trampoline of a file (and of what it imports), for one target."""

    program: ir.Program
    artifacts: Mapping[str, Artifact]

    def __repr__(self) -> str:
        return f"<Compiled {self.program.file} for {self.target.name}>"

    @cached_property
    def tables(self) -> dict[str, TableArtifact]:
        """The tables of entries, by name."""
        program = self.program
        return {
            table.name: TableArtifact(table, program.functions[table.trampoline], program.target)
            for table in program.tables.values()
        }

    @property
    def own_tables(self) -> tuple[TableArtifact, ...]:
        """Those that the file itself declares, in its order."""
        return tuple(self.tables[name] for name in self.program.own_tables)

    @property
    def target(self) -> Target:
        return self.program.target

    @cached_property
    def own(self) -> tuple[Artifact, ...]:
        """Those that the file itself declares, in its order."""
        return tuple(self.artifacts[name] for name in self.program.own)

    @property
    def text(self) -> str:
        """The file's trampolines and tables as GNU as takes them."""
        texts = [a.text for a in self.own] + [t.text for t in self.own_tables]
        tables = cfi.made_of(self.target.architecture)
        unwinding = tables.header, tables.trailer
        file = _file_name(self.program.file)
        return file_text(texts, self.target, file, self._c_symbols(), self._property_note(), unwinding)

    def _property_note(self) -> list[str]:
        """What the file tells linkers of its landing pads; and of its returns, where all of them are in pairs with
        calls. Nothing in it can tell them that some are not: then why not is said in words."""
        architecture = self.target.architecture
        if not architecture.protect:
            return []
        own = (self.program.functions[name] for name in self.program.own)
        reason = next(filter(None, (unpaired(function, architecture) for function in own)), "")
        lines = list(architecture.property_note(not reason))
        if reason and marks_pairs(architecture):
            lines.insert(0, f"{architecture.comment} Not for shadow stacks: {reason}.")
        return lines

    @property
    def plan9_text(self) -> str:
        """The file's trampolines and tables as Go's assembler takes them."""
        ours: tuple[Artifact | TableArtifact, ...] = (*self.own, *self.own_tables)
        texts = [one.plan9_text(self.go_symbol) for one in ours]
        return plan9.file_text(texts, self.target, _file_name(self.program.file))

    def go_symbol(self, name: str) -> str:
        """A symbol as Go's assembler takes it, with the ABI of what is called so."""
        function = self.program.functions.get(name)
        signature = function.signature if function is not None else self.program.externs.get(name)
        return plan9.spelled(name, signature.convention.go_abi if signature is not None else "")

    def go_declarations(self) -> dict[str, str]:
        """Go files that declare the trampolines, by package; without those that Go has no name for."""
        by_package: dict[str, list[ir.Signature]] = {}
        for artifact in self.own:
            by_package.setdefault(plan9.package(artifact.name), []).append(artifact.function.signature)
        return {
            package: plan9.declarations_text(signatures, self.target, self.program.file)
            for package, signatures in by_package.items()
            if package
        }

    def _c_symbols(self) -> dict[str, str]:
        """Of the functions that the file's code refers to and that are not in it, those that C calls something else."""
        program = self.program
        if not any(convention.decorates for convention in self.target.conventions.values()):
            return {}  # nor do those that a file derives from them
        fields = [
            one
            for artifact in self.own
            for insn in artifact.selected.instructions
            if (one := insn.relocation) is not None
        ]
        found: dict[str, str] = {}
        for name in dict.fromkeys(one.symbol for one in fields):
            function = program.functions.get(name)
            signature = function.signature if function is not None else program.externs.get(name)
            if signature is not None and name not in program.own and (symbol := c_symbol(signature)) != name:
                found[name] = symbol
        return found

    def assemble(self) -> None:
        """Make the machine code of all of them, which is otherwise made when it is asked for. Raises InputError with
        every instruction of an `asm` block that is none."""
        errors: list[Diagnostic] = []
        for artifact in self.artifacts.values():
            try:
                _ = artifact.code
            except InputError as error:
                errors += error.diagnostics
        if errors:
            raise InputError(errors)

    def load(self, externs: Mapping[str, Extern] | None = None) -> LoadedFile:
        """Map all trampolines and tables of the file, and what they use of imported ones, into this process; they call
        each other. `externs` as for `Artifact.load`. Raises LoadError."""
        from .load import load_file

        return load_file(self, externs)

    def __getitem__(self, name: str) -> Artifact:
        return self.artifacts[name]


def _brackets(tables: Unwinding, name: str) -> tuple[Sequence[str], Sequence[str]]:
    """What stands around the code of a function with unwind information."""
    if isinstance(tables, WindowsUnwinding):
        before, after = seh.brackets(name)
        return (before,), (after,)
    before, after = cfi.BRACKETS
    if isinstance(tables, IndexedUnwinding):
        return (before, tables.brackets[0]), (tables.brackets[1], after)
    return (before,), (after,)


@lru_cache(maxsize=64)
def _file_name(path: str) -> str:
    """A file's name without its folder."""
    return PurePath(path).name


def c_symbol(signature: ir.Signature) -> str:
    """What C's compilers call a function in assembly."""
    convention = signature.convention
    if not convention.decorates:
        return signature.name
    return convention.symbol(signature.name, [type_.value_type for _, type_ in signature.parameters])


def compile_function(function: ir.Function, others: Artifacts, ordinal: int) -> Artifact:
    """One trampoline, from IR to instructions."""
    program = others.program
    target = program.target
    architecture = target.architecture
    body = lower(function, architecture)
    allocation = allocate(body, architecture)
    popped = _bytes_in_memory(function) if function.convention.callee_pops else 0
    while True:
        try:
            frame = lay_out(body, allocation, architecture)
        except ValueError as error:  # a frame too big, or a register that nothing can save
            message = f"{architecture.name} cannot do this: {error}"
            raise InputError([Diagnostic("L006", message, function.span)]) from error
        try:
            code = select(body, allocation, frame, architecture, popped, f".L{ordinal}_")
        except NoRegisterFree as need:
            home = Home("exchange", 8, need.context, "for floats that change places")
            body.contexts[need.context].exchange = home
            body.homes.append(home)
            continue
        _check_same_frame(function, frame, others)
        return Artifact(function, target, frame, code, function.span.source, program)


def _bytes_in_memory(function: ir.Function) -> int:
    """Of the arguments of calls that `return` returns from."""
    returning = function.returning
    types = [type_.value_type for _, type_ in returning.parameters]
    result = returning.result.value_type if returning.result else None
    return function.convention.place(types, result).stack_bytes - function.convention.first_stack_argument


def _check_same_frame(function: ir.Function, frame: Frame, others: Artifacts) -> None:
    """What switches to frames of another trampoline has one of its own that is laid out alike. Raises InputError."""
    if function.suspension is None or function.suspension.resumed is None:
        return
    node = next((node for node in ir.walk(function.body) if isinstance(node, ir.SwitchStack)), None)
    if node is None:
        return
    of = function.suspension.of
    if of not in others.program.functions:
        message = f"`{of}` has no body, and nothing is known of its frames"
        raise InputError([Diagnostic("L017", message, node.span, notes=("give it one in this file",))])
    other = others[of].frame
    if (other.size, _kept_in(other)) != (frame.size, _kept_in(frame)):
        message = f"`{of}` has a frame of {other.size} bytes, and this one of {frame.size}, in another layout"
        notes = (f"they are alike where neither calls anything, and `{of}` says `save callee_saves in`",)
        raise InputError([Diagnostic("L017", message, node.span, notes=notes)])


def _kept_in(frame: Frame) -> list[tuple[int, int, Register | None]]:
    return [(slot.offset, slot.size, slot.register) for slot in frame.slots]


def compile_module(module: Module, target: Target) -> Compiled:
    """Everything in a module, for one target. Raises InputError."""
    program = resolve(module, target)
    artifacts = Artifacts(program)
    errors: list[Diagnostic] = []
    own = set(program.own)
    for name in program.functions:
        if name in program.later:
            continue
        try:
            made = artifacts[name]
            if name not in own:
                program.right.add(made.function.span.text)
        except InputError as error:
            errors += error.diagnostics
    if errors:
        raise InputError(errors)
    return Compiled(program, artifacts)


def compile_source(source: Source, targets: Iterable[Target], include: Sequence[Path] = ()) -> dict[str, Compiled]:
    """A source text for several targets, by target name. `include`: folders with headers that come before those
    beside the source. Raises InputError with what is wrong on any of them."""
    module = load_module(source, include)
    check_module(module)
    results = {}
    errors: dict[str, tuple[Diagnostic, ...]] = {}
    for target in targets:
        try:
            results[target.name] = compile_module(module, target)
            errors[target.name] = ()
        except InputError as error:
            errors[target.name] = error.diagnostics
    if any(errors.values()):
        raise merged(errors)
    return results


def declared_conventions(source: Source, target: Target) -> dict[str, Convention]:
    """The conventions known in a file: the target's, and those that the file declares. Raises InputError."""
    return conventions_in(load_module(source), target)
