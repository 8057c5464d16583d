"""Trampolines in this process: machine code is mapped, linked with what it calls, and called through ctypes.

The code is written while its pages can be written, and then they can be read and executed: they are never both at once.
An address that an instruction does not reach is jumped to by way of a stub behind the code, which the architecture
makes. Variables have no stubs: where there are any, the code is mapped near to them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ir
from .assemble import assemble
from .diagnostics import suggestion
from .link import LinkError, link
from .target import Relocation, Target, ValueType
from .targets import default_targets

if TYPE_CHECKING:
    from .pipeline import Artifact, Compiled, TableArtifact

Extern = Any  # int | a Python callable | a ctypes function or object | Loaded


class LoadError(Exception):
    """Code cannot be loaded into this process. The text says why, and what to do about it."""


class CallError(LoadError):
    """Loaded code cannot be called as it was, or a Python callable that it has called cannot answer as it did."""


def host_target() -> Target:
    """The target whose code this process runs. Raises LoadError where there is none."""
    for target in default_targets():
        if _runs_here(target):
            return target
    raise LoadError(f"no target's code runs in this process ({_host()})")


def load_artifact(artifact: Artifact, externs: Mapping[str, Extern] | None = None) -> Loaded:
    """One trampoline; what it calls, trampolines of its own file too, is among `externs`. Raises LoadError."""
    if artifact.function.table is not None:
        raise LoadError(_through_table(artifact.function) + "; load the file: compiled.load(...)")
    memory = _load(artifact.target, artifact.program, [artifact], [], externs or {})
    return Loaded(memory, artifact.function, memory.symbols[artifact.name])


def load_file(compiled: Compiled, externs: Mapping[str, Extern] | None = None) -> LoadedFile:
    """All trampolines and tables of a file, and what they use of imported ones. Raises LoadError."""
    wanted = [*compiled.program.own, *compiled.program.own_tables]
    artifacts: dict[str, Artifact] = {}
    tables: dict[str, TableArtifact] = {}
    while wanted:
        name = wanted.pop()
        piece: Artifact | TableArtifact
        if name in artifacts or name in tables:
            continue
        if name in compiled.artifacts:
            piece = artifacts[name] = compiled.artifacts[name]
        elif name in compiled.tables:
            piece = tables[name] = compiled.tables[name]
        else:
            continue
        wanted += [relocation.symbol for relocation in piece.relocations]
    memory = _load(compiled.target, compiled.program, [*artifacts.values()], [*tables.values()], externs or {})
    return LoadedFile(memory, artifacts, tables)


# ------------------------------------------------------------------------------------------------------------ handles


class Loaded:
    """A trampoline in this process. Calling it calls the machine code: integers and pointers are ints, from the lowest
    signed to the highest unsigned number of their width, and results have the sign of their type; floating point
    values are floats. `address` is where it begins.

    An exception that a Python callable raises meanwhile is raised by the call, once the machine code has returned; to
    that the callable's result is 0. Where there are several it is the first, with notes of the others.

    `close()`, or the end of a `with` block, gives the memory back, of everything that was loaded together. A call
    after that raises CallError; addresses that others have been given lead nowhere then.
    """

    def __init__(self, memory: _Memory, function: ir.Function, address: int) -> None:
        self.name = function.name
        self.address = address
        self._function = function
        self._memory = memory
        self._why_not = _why_not_callable(function.signature, memory.target)
        self._types = [type_ for _, type_ in function.signature.parameters]
        self._native: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self._why_not:
            raise CallError(f"{self._why_not}; `address` is {self.address:#x}")
        function = self._function
        types = self._types
        if function.variadic:
            word = ir.Type("uptr", "int", 8 * self._memory.target.architecture.word)
            types = [word] * len(arguments)
        elif len(arguments) != len(types):
            listed = ", ".join(f"{name}: {type_}" for name, type_ in function.signature.parameters)
            given = f"{len(arguments)} {'was' if len(arguments) == 1 else 'were'} given"
            raise CallError(f"`{self.name}` takes ({listed}), and {given}")
        names = [f"argument {index} of `{self.name}`" for index in range(1, len(types) + 1)]
        values = [_checked(*each) for each in zip(arguments, types, names, strict=True)]
        native = self._native
        if native is None or function.variadic:
            native = self._native = _prototype(types, function.result)(self.address)
        raised: list[BaseException] = []
        with self._memory:
            _calls.raised.append(raised)
            try:
                result = native(*values)
            finally:
                _calls.raised.pop()
        if raised:
            for later in raised[1:]:
                raised[0].add_note(f"later in the same call: {later!r}")
            raise raised[0]
        return result

    def close(self) -> None:
        """Raises LoadError while the code runs, or while other loaded code calls it."""
        self._memory.close()

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._memory.closed else f"at {self.address:#x}"
        return f"<{self.name} for {self._memory.target.name}, {state}>"


class LoadedTable(Sequence[Loaded]):
    """The entries of a table, each of which can be called. `address` is the first one's."""

    def __init__(self, memory: _Memory, table: TableArtifact, address: int) -> None:
        self.name = table.name
        self.address = address
        self._memory = memory
        self._table = table

    def __len__(self) -> int:
        return self._table.table.count

    def __getitem__(self, index: Any) -> Any:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return Loaded(self._memory, self._table.function, self.address + numbers * self._table.stride)


class LoadedFile(Mapping[str, Loaded | LoadedTable]):
    """The trampolines and tables of a file in this process, by name; closed all at once. A trampoline that a table
    enters is reached through the table."""

    def __init__(self, memory: _Memory, artifacts: Mapping[str, Artifact], tables: Mapping[str, TableArtifact]) -> None:
        self._memory = memory
        self._handles: dict[str, Loaded | LoadedTable] = {
            name: LoadedTable(memory, table, memory.symbols[name]) for name, table in tables.items()
        }
        self._entered = {name: a.function for name, a in artifacts.items() if a.function.table is not None}
        for name, artifact in artifacts.items():
            if name not in self._entered:
                self._handles[name] = Loaded(memory, artifact.function, memory.symbols[name])

    def __getitem__(self, name: str) -> Any:
        if name in self._entered:
            raise LoadError(_through_table(self._entered[name]))
        return self._handles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def close(self) -> None:
        """Raises LoadError while any of the code runs, or while other loaded code calls it."""
        self._memory.close()

    def __enter__(self) -> LoadedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Calls(threading.local):
    """What Python callables have raised in the calls of handles that this thread is in, the innermost call last."""

    def __init__(self) -> None:
        self.raised: list[list[BaseException]] = []


_calls = _Calls()


# ------------------------------------------------------------------------------------------------------------- memory


class _Memory:
    """Mapped code, entered as a context by every call. `kept`: what has to live as long as the code."""

    def __init__(self, target: Target, address: int, size: int, symbols: Mapping[str, int], kept: list[object]) -> None:
        self.target = target
        self.symbols = symbols
        self.closed = False
        self._kept = kept
        self._running = 0
        self._lock = threading.Lock()
        self._callers: weakref.WeakSet[_Memory] = weakref.WeakSet()
        self._unmap = weakref.finalize(self, _unmap, address, size)
        # What still runs when Python ends runs on.
        self._unmap.atexit = False
        for used in kept:
            if isinstance(used, _Memory):
                used._callers.add(self)

    def __enter__(self) -> None:
        with self._lock:
            if self.closed:
                raise CallError("this code is no longer loaded: it was closed; load it again")
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            if self._running:
                raise LoadError("this code is running: close it when its calls have returned")
            if any(not caller.closed for caller in self._callers):
                raise LoadError("other loaded code calls this: close that first")
            self.closed = True
        self._unmap()
        self._kept.clear()


def _unmap(address: int, size: int) -> None:
    _libc().munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc


def _map(hint: int, size: int) -> int:
    """Fresh pages that can be written, at `hint` if there is room: Linux takes an address as a wish."""
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _libc().mmap(hint or None, size, access, kind, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise LoadError(f"no memory for {size} bytes of code: {os.strerror(ctypes.get_errno())}")
    return int(address)


def _make_executable(address: int, size: int) -> None:
    libc = _libc()
    access = mmap.PROT_READ | mmap.PROT_EXEC
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), access):
        reason = os.strerror(ctypes.get_errno())
        raise LoadError(f"the system does not let memory become executable: {reason}; its policy (SELinux) forbids it")
    try:
        clear = ctypes.CDLL("libgcc_s.so.1").__clear_cache
    except (OSError, AttributeError):
        return  # Linux itself makes caches agree where fresh pages become executable (arch/arm64/mm/flush.c)
    clear(ctypes.c_void_p(address), ctypes.c_void_p(address + size))


MARGIN = 64 << 20  # bytes between code and its neighbours, where there is room: the heap and the stack want to grow


def _hints(size: int, near: int, maps: str) -> list[int]:
    """Free places for `size` bytes, the nearest to `near` first. `maps`: /proc/self/maps."""
    ends = [0x10000]
    starts = []
    for line in maps.splitlines():
        start, _, end = line.split(" ", 1)[0].partition("-")
        starts.append(int(start, 16))
        ends.append(int(end, 16))
    starts.append(1 << 47)  # the least of the hosts' address spaces
    page = mmap.PAGESIZE
    found = []
    for low, high in zip(ends, starts, strict=True):
        margin = min(MARGIN, (high - low - size) // 2 // page * page)
        if margin >= page:
            found.append(min(max(near // page * page, low + margin), (high - margin - size) // page * page))
    return sorted(found, key=lambda place: abs(place - near))


# ------------------------------------------------------------------------------------------------------------ linking


@dataclass(frozen=True)
class Image:
    """What is to be mapped: pieces of code and their offsets, and the offset of a stub for each extern function."""

    target: Target
    pieces: Mapping[str, tuple[int, Artifact | TableArtifact]]
    stubs: Mapping[str, int]
    size: int

    def link(self, base: int, externs: Mapping[str, int]) -> bytes:
        """The bytes of it all, at `base`. Raises LinkError for what cannot be reached, and has no stub."""
        architecture = self.target.architecture
        symbols = {**externs, **{name: base + offset for name, (offset, _) in self.pieces.items()}}
        image = bytearray(self.size)
        for name, offset in self.stubs.items():
            stub = assemble(architecture, list(architecture.far_jump(name)))
            image[offset : offset + len(stub.code)] = link(
                architecture, stub.code, stub.relocations, base + offset, externs
            )
        for offset, piece in self.pieces.values():
            branches = _branches(piece)
            code = piece.code
            for group in (branches, [r for r in piece.relocations if r not in branches]):
                near = dict(symbols)
                for relocation in group:
                    name = relocation.symbol
                    if name in self.stubs and not self._reached(piece, relocation, base + offset, externs):
                        near[name] = base + self.stubs[name]
                code = link(architecture, code, group, base + offset, near)
            image[offset : offset + len(code)] = code
        return bytes(image)

    def _reached(
        self, piece: Artifact | TableArtifact, relocation: Relocation, base: int, externs: Mapping[str, int]
    ) -> bool:
        try:
            link(self.target.architecture, piece.code, [relocation], base, externs)
        except LinkError:
            return False
        return True


def _branches(piece: Artifact | TableArtifact) -> list[Relocation]:
    """The relocations that only say where control goes: nobody sees those addresses."""
    starts = [offset for insn, offset in zip(piece.instructions, piece.offsets, strict=True) if insn.label is None]
    transfers = [insn.transfer != "none" for insn in piece.instructions if insn.label is None]
    return [r for r in piece.relocations if transfers[bisect_right(starts, r.offset) - 1]]


def image_of(target: Target, pieces: Sequence[Artifact | TableArtifact], functions: Sequence[str]) -> Image:
    """Places for pieces of code, and for a stub for each of the functions that they call and do not define."""
    architecture = target.architecture
    offset = 0
    placed: dict[str, tuple[int, Artifact | TableArtifact]] = {}
    stubs: dict[str, int] = {}
    for piece in pieces:
        placed[piece.name] = offset, piece
        offset += -(-len(piece.code) // architecture.function_alignment) * architecture.function_alignment
    for name in functions:
        stubs[name] = offset
        size = len(assemble(architecture, list(architecture.far_jump(name))).code)
        offset += -(-size // architecture.function_alignment) * architecture.function_alignment
    return Image(target, placed, stubs, offset)


@dataclass
class _Externs:
    """Externs with addresses, and what has to be kept alive for them."""

    functions: dict[str, int] = field(default_factory=dict)
    variables: dict[str, int] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)


def _load(
    target: Target,
    program: ir.Program,
    artifacts: Sequence[Artifact],
    tables: Sequence[TableArtifact],
    externs: Mapping[str, Extern],
) -> _Memory:
    if not _runs_here(target):
        raise LoadError(f"this is code for {target.name}, and this process runs {_host()}: compile for host_target()")
    if target.architecture.linkage == "pic":
        raise LoadError("there is no global offset table here for position-independent code: compile for host_target()")
    pieces: list[Artifact | TableArtifact] = [*artifacts, *tables]
    found = _resolved(program, target, pieces, externs)
    image = image_of(target, pieces, list(found.functions))
    addresses = {**found.functions, **found.variables}
    size = -(-image.size // mmap.PAGESIZE) * mmap.PAGESIZE
    address = _map(_near(image, size, found, addresses), size)
    try:
        code = image.link(address, addresses)
        ctypes.memmove(address, code, len(code))
        _make_executable(address, size)
    except LinkError as error:
        _unmap(address, size)
        name = error.relocation.symbol
        message = f"the variable `{name}` is at {addresses.get(name, 0):#x}, and no free place for code reaches it"
        way_out = "have the variables of one file near each other"
        raise LoadError(f"{message} ({error.reason}): {way_out}") from error
    except LoadError:
        _unmap(address, size)
        raise
    symbols = {name: address + offset for name, (offset, _) in image.pieces.items()}
    return _Memory(target, address, size, symbols, found.kept)


def _near(image: Image, size: int, found: _Externs, addresses: Mapping[str, int]) -> int:
    """A free place from which the code reaches all variables; 0 if any will do, or there is none."""
    if not found.variables:
        return 0
    lowest, highest = min(found.variables.values()), max(found.variables.values())
    for hint in _hints(size, (lowest + highest) // 2, Path("/proc/self/maps").read_text("ascii", "replace")):
        try:
            image.link(hint, addresses)
        except LinkError:
            continue
        return hint
    return 0


# ------------------------------------------------------------------------------------------------------------ externs


def _resolved(
    program: ir.Program,
    target: Target,
    pieces: Sequence[Artifact | TableArtifact],
    externs: Mapping[str, Extern],
) -> _Externs:
    """An address for everything that the pieces refer to and do not define."""
    defined = {piece.name for piece in pieces}
    declared = {*program.externs, *program.functions, *program.variables, *program.tables}
    for name in externs:
        if name not in declared:
            notes = suggestion(name, declared)
            raise LoadError("; ".join([f"`{name}` is given, and the file declares no such extern", *notes]))
        if name in defined:
            raise LoadError(f"`{name}` is given, and is among the trampolines that are loaded: leave it out")
    needed = dict.fromkeys(r.symbol for piece in pieces for r in piece.relocations if r.symbol not in defined)
    missing = [name for name in needed if name not in externs]
    if missing:
        own = [name for name in missing if name in program.functions or name in program.tables]
        listed = ", ".join(f"`{name}`" for name in missing)
        way_out = "give an address, a Python callable or a loaded trampoline for each function"
        if all(name in program.variables for name in missing):
            way_out = "give an address or a ctypes object for each variable"
        if own:
            way_out += f" (`{own[0]}` is a trampoline of the same program: compiled.load(...) loads all of them)"
        raise LoadError(f"nothing is given for {listed}: {way_out}")
    found = _Externs()
    for name in needed:
        if name in program.variables:
            found.variables[name] = _variable(program.variables[name], externs[name], found.kept)
            continue
        if name in program.tables:
            signature = program.functions[program.tables[name].trampoline].signature
        else:
            signature = program.externs[name] if name in program.externs else program.functions[name].signature
        found.functions[name] = _function(name, signature, externs[name], target, found.kept)
    return found


def _address(name: str, value: int) -> int:
    if not 0 < value < 1 << 64:
        raise LoadError(f"`{name}` is given as {value:#x}, which is no address")
    return value


def _variable(variable: ir.ExternVariable, value: Extern, kept: list[object]) -> int:
    name = variable.name
    if isinstance(value, int) and not isinstance(value, bool):
        return _address(name, value)
    try:
        address, size = ctypes.addressof(value), ctypes.sizeof(value)
    except TypeError:
        what = type(value).__name__
        raise LoadError(
            f"`{name}` is a variable, and a {what} is given: give its address, or a ctypes object"
        ) from None
    if size < variable.size:
        raise LoadError(f"`{name}` has {variable.size} bytes, and the ctypes object that is given has {size}")
    kept.append(value)
    return address


_NATIVE: Any = type(ctypes.CFUNCTYPE(None)(0)).__mro__[1]  # the class of ctypes' functions, which has no public name


def _function(name: str, signature: ir.Signature, value: Extern, target: Target, kept: list[object]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return _address(name, value)
    if isinstance(value, Loaded):
        if _shape(value._function.signature) != _shape(signature) or value._function.variadic:
            raise LoadError(f"`{name}` is declared as {_written(signature)}, and `{value.name}` is another function")
        if value._memory.closed:
            raise LoadError(f"`{name}` is given as `{value.name}`, which is closed: load it again")
        kept.append(value._memory)
        return value.address
    if isinstance(value, _NATIVE):
        return _address_of(name, value, kept)
    if not callable(value):
        what = type(value).__name__
        raise LoadError(f"`{name}` is given as a {what}: give an address, a callable or a loaded trampoline")
    if why := _why_not_callable(signature, target):
        raise LoadError(f"a Python callable is given, and {why}: give an address")
    types = [type_ for _, type_ in signature.parameters]
    return _address_of(name, _prototype(types, signature.result)(_entry(name, signature.result, value)), kept)


def _address_of(name: str, function: Any, kept: list[object]) -> int:
    kept.append(function)
    return _address(name, ctypes.cast(function, ctypes.c_void_p).value or 0)


def _entry(name: str, result: ir.Type | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """What machine code calls in place of a Python callable. ctypes drops what it raises."""

    def entry(*arguments: Any) -> Any:
        try:
            value = function(*arguments)
            return None if result is None else _checked(value, result, f"what the callable for `{name}` returned")
        except BaseException as error:
            if not _calls.raised:
                raise  # no handle was called that could raise it: ctypes has sys.unraisablehook report it
            _calls.raised[-1].append(error)
            return None if result is None else 0

    return entry


# ------------------------------------------------------------------------------------------------------------- values


_FLOATS: dict[int, Any] = {32: ctypes.c_float, 64: ctypes.c_double}
_SIGNED: dict[int, Any] = {8: ctypes.c_int8, 16: ctypes.c_int16, 32: ctypes.c_int32, 64: ctypes.c_int64}
_UNSIGNED: dict[int, Any] = {8: ctypes.c_uint8, 16: ctypes.c_uint16, 32: ctypes.c_uint32, 64: ctypes.c_uint64}


def _prototype(types: Sequence[ir.Type], result: ir.Type | None) -> Any:
    return ctypes.CFUNCTYPE(None if result is None else _ctype(result), *map(_ctype, types))


def _ctype(type_: ir.Type) -> Any:
    """Pointers are integers: ctypes would make None of a null pointer, and takes no pointer as a callable's result."""
    if type_.kind == "float":
        return _FLOATS[type_.bits]
    return (_SIGNED if type_.signed else _UNSIGNED)[type_.bits]


def _checked(value: Any, type_: ir.Type, what: str) -> int | float:
    """The value, if it is one of the type: ctypes itself drops bits without a word."""
    if type_.kind == "float":
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise CallError(f"{what} is a {type(value).__name__}, and {type_} is wanted: a float")
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        way_out = " (ctypes.addressof gives the address of a ctypes object)" if type_.kind == "pointer" else ""
        raise CallError(f"{what} is a {type(value).__name__}, and {type_} is wanted: an int{way_out}")
    number = int(value.__index__())
    if not -(1 << type_.bits - 1) <= number < 1 << type_.bits:
        raise CallError(f"{what} is {number:#x}, which does not fit {type_} ({type_.bits} bits)")
    return number


def _why_not_callable(signature: ir.Signature, target: Target) -> str:
    if signature.convention is target.conventions["c"]:
        return ""
    return f"`{signature.name}` uses {signature.convention.name}, and ctypes calls C's convention only"


Shape = tuple[object, tuple[ValueType, ...], ValueType | None]


def _shape(signature: ir.Signature) -> Shape:
    """What a caller and a callee have to agree on."""
    types = tuple(type_.value_type for _, type_ in signature.parameters)
    return signature.convention, types, signature.result.value_type if signature.result else None


def _written(signature: ir.Signature) -> str:
    parameters = ", ".join(f"{name}: {type_}" for name, type_ in signature.parameters)
    result = f" -> {signature.result}" if signature.result else ""
    return f"({parameters}){result} using {signature.convention.name}"


def _through_table(function: ir.Function) -> str:
    assert function.table is not None
    return f"`{function.name}` is entered through the table `{function.table.name}` alone"


# --------------------------------------------------------------------------------------------------------------- host


def _runs_here(target: Target) -> bool:
    architecture = target.architecture
    return (
        sys.platform == target.os
        and platform.machine() in architecture.hosts
        and struct.calcsize("P") == architecture.word
        and sys.byteorder == architecture.order
    )


def _host() -> str:
    return f"{sys.platform} on {platform.machine()} with pointers of {8 * struct.calcsize('P')} bits"
