"""What is in a file of machine code, whatever its format: sections at addresses, symbols, and the fields that a linker
or a loader fills. `binary` reads files to it.

Addresses are those that the file gives. In a relocatable object the sections have none: the reader lays those that are
loaded out one after the other, aligned, from FIRST_ADDRESS on.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field
from functools import lru_cache
from typing import Literal, Protocol

from .pdata import Entries
from .records import dataclass
from .target import Relocation, Target
from .targets import all_targets
from .unwind import Table

Format = Literal["elf", "coff", "pe", "macho", "raw"]
SymbolKind = Literal["function", "object", "other"]

FIRST_ADDRESS = 0x1000  # of the first section of a relocatable object
MOST_BYTES = 1 << 28  # of all sections of an image, those without bytes in the file included


class ImageError(Exception):
    """A file that cannot be read, or that has not what is looked for: what is wrong with it, in words, and notes."""

    def __init__(self, message: str, *notes: str) -> None:
        super().__init__(message)
        self.notes = notes


@dataclass(frozen=True, slots=True)
class Section:
    """Bytes that are loaded. `data` is all of them: zeros where the file has none."""

    name: str
    address: int
    data: bytes
    executable: bool
    writable: bool

    @property
    def end(self) -> int:
        return self.address + len(self.data)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for an address. `address` is what a relocation against it means: None where it is defined elsewhere.

    `size` in bytes, 0 where nobody says. `code`: where a function's instructions begin; not at `address` where that is
    a descriptor (64-bit PowerPC ELF ABI Supplement, 3.2.4). `local_entry`: where callers of the same module enter,
    bytes from `code` (64-Bit ELF V2 ABI, 3.4.1). `mode`: the instruction set, where it is not the machine's own:
    "Thumb", "MIPS16", "microMIPS"."""

    name: str
    address: int | None
    size: int = 0
    kind: SymbolKind = "other"
    local: bool = False
    code: int | None = None
    local_entry: int = 0
    mode: str = ""


class Lines(Protocol):
    """The line table of an image."""

    def at(self, address: int) -> tuple[str, int] | None: ...


class Unwindings(Protocol):
    """The unwind information of an image."""

    def of(self, start: int, end: int) -> Table | Entries | None:
        """What it says of the code from `start` to `end`; None if it says nothing. Raises UnwindError."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A file of machine code. `targets`: the names of those that it can be for, the most common first; none where the
    file does not tell. `relocatable`: an object that has not been linked. `movable`: a linked file that may be loaded
    anywhere.

    `relocations` have whole addends, and `offset` is the address of the field. They are all of those that a relocatable
    object has in what is loaded, but for hints to linkers; of a linked file, those that the loader fills. `addresses`
    has what they name, unless that is elsewhere; "" is the address 0 (of a relocation without a symbol: the addend is
    the value). Local symbols that share their name with others are told apart there by `NAME@ADDRESS`. `properties`:
    numbers of 32 bits that the file says of itself for linkers and loaders, by their types (ELF: the note
    NT_GNU_PROPERTY_TYPE_0)."""

    name: str
    format: Format
    targets: tuple[str, ...]
    relocatable: bool
    movable: bool
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]
    addresses: Mapping[str, int]
    lines: Lines | None = field(default=None)
    properties: Mapping[int, int] = field(default_factory=dict)
    unwindings: Unwindings | None = field(default=None)

    def line(self, address: int) -> tuple[str, int] | None:
        """The source file and the line that the instruction at an address comes from, by the debug information."""
        return self.lines.at(address) if self.lines is not None else None

    def section(self, address: int) -> Section | None:
        """The section that an address is in."""
        for section in self.sections:
            if section.address <= address < section.end:
                return section
        return None

    def bytes_at(self, address: int, count: int) -> bytes:
        """Bytes of one section. Raises ImageError where there are not so many."""
        section = self.section(address)
        if section is None or address + count > section.end:
            raise ImageError(f"{self.name} has no {count} bytes at {address:#x}")
        return section.data[address - section.address : address - section.address + count]

    def function_at(self, address: int) -> Symbol | None:
        """The function that an address is in."""
        starts, functions = _functions(self)
        index = bisect_right(starts, address) - 1
        if index < 0 or not starts[index] <= address < self.end(functions[index]):
            return None
        return functions[index]

    def end(self, symbol: Symbol) -> int:
        """Where a function's code ends: where the symbol's size says, or else where the next function or the section
        does. Raises ImageError for a symbol that is not in any section."""
        start = symbol.code if symbol.code is not None else symbol.address
        section = self.section(start) if start is not None else None
        if start is None or section is None:
            raise ImageError(f"{self.name} does not define `{symbol.name}`")
        if symbol.size:
            return min(start + symbol.size, section.end)
        starts, _ = _functions(self)
        index = bisect_right(starts, start)
        following = starts[index] if index < len(starts) else section.end
        return min(following, section.end)


@lru_cache(maxsize=16)
def _functions(image: Image) -> tuple[list[int], list[Symbol]]:
    """Where functions begin, in order, and which ones; of several at one place, that with a size."""
    by_start: dict[int, Symbol] = {}
    for symbol in image.symbols:
        if symbol.kind == "function" and symbol.code is not None:
            known = by_start.get(symbol.code)
            if known is None or symbol.size > known.size:
                by_start[symbol.code] = symbol
    starts = sorted(by_start)
    return starts, [by_start[start] for start in starts]


def targets_for(format: str, machine: int, flags: int, bits: int = 0, order: str = "") -> tuple[str, ...]:
    """The targets whose object files have that machine number and those flags; `bits` and `order` where the format
    tells them apart."""
    return tuple(
        target.name for target in all_targets().values() if _is_for(target, format, machine, flags, bits, order)
    )


def _is_for(target: Target, format: str, machine: int, flags: int, bits: int, order: str) -> bool:
    architecture = target.architecture
    if architecture.machines.get(format) != machine:
        return False
    if bits not in (0, 8 * architecture.word) or order not in ("", architecture.order):
        return False
    mask, values = architecture.elf_flags
    return format != "elf" or flags & mask in values


# ------------------------------------------------------------------------------------------------------------- symbols


def find_symbol(image: Image, name: str) -> Symbol:
    """The defined symbol that a user means: by its exact name; as the platform's C compilers decorate it; as Go does;
    or by an address in the code ("0x401000"). Raises ImageError with the nearest names, or all of several."""
    if name[:2] in ("0x", "0X"):
        return _symbol_at(image, name)
    defined = [symbol for symbol in image.symbols if symbol.address is not None and symbol.name]
    for spelling in (_exact, _underscored, _decorated, _of_go, _without_underscore):
        found = [symbol for symbol in defined if spelling(symbol.name, name)]
        if found:
            return _only(image, name, found)
    if any(symbol.name == name for symbol in image.symbols):
        raise ImageError(f"`{name}` is not defined in {image.name}: it is used there, and is elsewhere")
    functions = sorted({symbol.name for symbol in defined if symbol.kind == "function"})
    close = difflib.get_close_matches(name, functions, n=3) or [f for f in functions if name.lower() in f.lower()][:3]
    notes: tuple[str, ...]
    if close:
        notes = (f"there is {_listed(close)}",)
    elif functions:
        shown = functions[:8]
        more = f", and {len(functions) - len(shown)} others" if len(functions) > len(shown) else ""
        notes = (f"its functions: {', '.join(shown)}{more}",)
    else:
        notes = ("it has no symbols of functions; an address can be given: `--symbol 0x...`",)
    raise ImageError(f"there is no symbol `{name}` in {image.name}", *notes)


def on_the_stack(image: Image, symbol: Symbol) -> Symbol:
    """Where Go enters a function by its stack convention: the linker puts ABI0 behind that name where there are both
    (cmd/link/internal/ld, `mangleABI`). The symbol itself elsewhere."""
    return next((one for one in image.symbols if one.name == f"{symbol.name}.abi0" and one.address is not None), symbol)


def names_of(symbol: str) -> tuple[str, ...]:
    """What a symbol may be called in a source: itself, and as C and Go name it, without decoration."""
    plain = [symbol]
    if symbol.startswith(("_", "@")):
        plain.append(symbol[1:])
    plain += [name.rpartition("@")[0] for name in plain if name.rpartition("@")[2].isdigit()]
    plain += [_go_name(name) for name in plain]
    return tuple(dict.fromkeys(name for name in plain if name))


def definitions(image: Image, wanted: Iterable[str], internal: Collection[str] = ()) -> dict[str, Symbol]:
    """What the image defines of some names, as C and Go spell them: a public symbol before a local one; of Go's two
    entries of a function the one for ABI0, but for those that are called by the `internal` one; a plain name before a
    decorated one. What is local to a file of Go assembly (`name<>`) has no package, and comes last."""
    names: dict[str, set[str]] = {}
    for name in wanted:
        names.setdefault(name, set()).add(name)
        names.setdefault(name.rpartition(".")[2], set()).add(name)
    found: dict[str, tuple[tuple[bool, bool, bool, bool], Symbol]] = {}
    for symbol in image.symbols:
        if symbol.address is None or not symbol.name:
            continue
        for spelling in names_of(symbol.name):
            for name in names.get(spelling, ()):
                other_entry = symbol.name.endswith(".abi0") == (name in internal)
                rank = spelling != name, symbol.local, other_entry, symbol.name != name
                better = name not in found or rank < found[name][0]
                if (not rank[0] or symbol.local) and better and image.section(symbol.address) is not None:
                    found[name] = rank, symbol
    return {name: symbol for name, (_, symbol) in found.items()}


def _exact(symbol: str, name: str) -> bool:
    return symbol == name


def _underscored(symbol: str, name: str) -> bool:
    # Mach-O and PE on 386: C's names have an underscore before them.
    return symbol == f"_{name}"


def _decorated(symbol: str, name: str) -> bool:
    # stdcall, fastcall: _name@bytes, @name@bytes.
    stem, at, count = symbol.rpartition("@")
    return at == "@" and count.isdigit() and stem in (name, f"_{name}", f"@{name}")


def _without_underscore(symbol: str, name: str) -> bool:
    # As tools show C's names in Mach-O; images have them as in C.
    return name == f"_{symbol}"


def _of_go(symbol: str, name: str) -> bool:
    return _go_name(symbol.removeprefix("_")) == _go_name(name) or _go_name(symbol) == _go_name(name)


def _go_name(name: str) -> str:
    """Go's assembler writes `·` for the dot; its linker puts the ABI behind it (cmd/link/internal/ld, `mangleABI`)."""
    return name.replace("·", ".").removesuffix(".abi0").removesuffix(".abiinternal")


def _only(image: Image, name: str, found: list[Symbol]) -> Symbol:
    """Several symbols may be names of one place; several places are refused."""
    functions = [symbol for symbol in found if symbol.kind == "function"] or found
    public = [symbol for symbol in functions if not symbol.local] or functions
    places = {symbol.address for symbol in public}
    if len(places) == 1:
        return max(public, key=lambda symbol: symbol.size)
    where = sorted({f"{symbol.name} at {symbol.address:#x}" for symbol in public})
    raise ImageError(
        f"`{name}` is several symbols in {image.name}",
        *where,
        "name one of them by its address: `--symbol 0x...`",
    )


def _symbol_at(image: Image, name: str) -> Symbol:
    try:
        address = int(name, 16)
    except ValueError:
        raise ImageError(f"`{name}` is no address") from None
    for symbol in image.symbols:
        if symbol.code == address and symbol.kind == "function":
            return symbol
    section = image.section(address)
    if section is None:
        spans = (f"{s.address:#x} to {s.end:#x} {s.name}" for s in image.sections if s.executable)
        raise ImageError(f"nothing of {image.name} is at {address:#x}", "its code: " + "; ".join(spans))
    return Symbol(name, address, 0, "function", True, address)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def function_symbols(image: Image) -> Iterator[Symbol]:
    """Every function that the image defines."""
    return (symbol for symbol in image.symbols if symbol.kind == "function" and symbol.code is not None)
