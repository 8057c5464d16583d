"""Types and where their bytes are: C layout for a target, pinned fields, and offsets read from a header of #defines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from . import ir
from . import syntax as s
from .diagnostics import InputError, Report, Span, listed, read_source, suggestion
from .target import Target

_INTEGERS = {f"{sign}{bits}": (bits, sign == "i") for sign in "iu" for bits in (8, 16, 32, 64)}


def scalar(name: str, target: Target) -> ir.Type | None:
    """The scalar type called `name` on this target."""
    return _scalar(name, 8 * target.architecture.word)


def word_type(target: Target) -> ir.Type:
    """The type of an unsigned word of this target."""
    found = scalar("uptr", target)
    assert found is not None
    return found


@lru_cache(maxsize=1024)
def pointer_to(struct: str | None, bits: int) -> ir.Type:
    """The type of a pointer of so many bits, to a struct if one is named."""
    return ir.Type("ptr", "pointer", bits, False, struct)


@lru_cache(maxsize=1024)
def _scalar(name: str, word: int) -> ir.Type | None:
    if name in _INTEGERS:
        bits, signed = _INTEGERS[name]
        return ir.Type(name, "int", bits, signed)
    if name in ("uptr", "iptr"):
        return ir.Type(name, "int", word, name == "iptr")
    if name == "ptr":
        return ir.Type(name, "pointer", word)
    if name in ("f32", "f64"):
        return ir.Type(name, "float", int(name[1:]))
    return None


LARGEST_STRUCT = 1 << 28  # bytes; every machine reaches that far from a base, if in several instructions
LARGEST_VARIABLE = 1 << 16  # bytes of an extern variable: the judge fills all of them
MAXIMUM_DEPTH = 40  # of structs in structs, and of constants that others are made of

# What other languages have, by the type of the same width where there is one of the same width on all machines.
_FOREIGN = {
    **{f"int{bits}": f"`i{bits}`" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"`u{bits}`" for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("size", "usize", "uintptr"), "`uptr`"),
    **dict.fromkeys(("ssize", "isize", "intptr", "ptrdiff"), "`iptr`"),
    **dict.fromkeys(("pointer", "address", "addr"), "`ptr`"),
    **dict.fromkeys(("float", "float32"), "`f32`"),
    **dict.fromkeys(("double", "float64"), "`f64`"),
    **dict.fromkeys(("bool", "byte", "uchar"), "`u8`"),
    "rune": "`i32`",
    "char": "`i8` or `u8`",
    "short": "`i16`",
    "ushort": "`u16`",
    "int": "`i32` (C's `int`), `i64` or `iptr`",
    "uint": "`u32` (C's `unsigned`), `u64` or `uptr`",
    "unsigned": "`u32`",
    "long": "`iptr` (C's `long` but on 64-bit Windows), `i32` or `i64`",
    "ulong": "`uptr` (C's `unsigned long` but on 64-bit Windows), `u32` or `u64`",
}
SCALARS = (*_INTEGERS, "uptr", "iptr", "ptr", "f32", "f64")


def alignment_of(size: int, kind: str, target: Target) -> int:
    """C's alignment of a scalar of `size` bytes: its size, but i386 aligns 8-byte scalars to 4 (SysV i386 psABI 1.1,
    table 2.1), other than Windows (MSVC, "x86: Alignment" of `__alignof`)."""
    if size == 8 and target.architecture.name == "386" and target.os != "windows":
        return 4
    return size


class Headers:
    """The headers that one build reads, each of them once. One in a folder of `include` comes before that of the same
    name where a source says: such a folder stands for another version of what the headers describe."""

    def __init__(self, include: Sequence[Path] = ()) -> None:
        self._include = include
        self._texts: dict[str, str | None] = {}  # by where a source says they are
        self._reasons: dict[str, str] = {}

    def text(self, path: str) -> str | None:
        """The text of a header; None where it cannot be read."""
        if path not in self._texts:
            others = (other / Path(path).name for other in self._include)
            found = next(filter(Path.is_file, others), path)
            try:
                self._texts[path] = read_source(found).text
            except InputError as error:
                self._texts[path] = None
                reason = error.diagnostics[0].message.removeprefix("cannot read this file: ")
                self._reasons[path] = f"cannot read the header {found}: {reason}"
        return self._texts[path]

    def why_not(self, path: str) -> str:
        """Why one cannot be read."""
        return self._reasons[path]


@lru_cache(maxsize=64)
def defines(header: str) -> Mapping[str, int]:
    """The `#define name number` lines of a header. Other lines are passed over."""
    found = {}
    for match in _DEFINE.finditer(header):
        found[match[1]] = int(match[2], 0) if match[2][:2] in ("0x", "0X") else int(match[2])
    return MappingProxyType(found)


# A number of more digits fits no machine word, and is passed over as other lines are.
_DEFINE = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w{1,200})[ \t]+\(?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\)?(?![\w.])", re.MULTILINE
)


class Layouts:
    """Lays structs out on demand, so that they may be declared in any order."""

    def __init__(
        self,
        target: Target,
        report: Report,
        constant: Callable[[s.Expression], int | None],
        headers: Headers,
    ) -> None:
        self.headers = headers
        self.target = target
        self.report = report
        self.constant = constant
        self.declarations: dict[str, tuple[s.Struct, Path]] = {}
        self.done: dict[str, ir.StructLayout | None] = {}
        self.active: list[str] = []
        self.read: dict[str, str | None] = {}  # the texts of the headers that have been read

    def declare(self, struct: s.Struct, folder: Path) -> None:
        name = str(struct.name)
        if name in self.declarations:
            before = self.declarations[name][0]
            self.report.error(
                "R002", f"struct {name} is declared twice", struct.name.span, related=[(before.name.span, "first here")]
            )
            return
        if name in SCALARS:
            self.report.error("R002", f"{name} is a built-in type", struct.name.span)
            return
        self.declarations[name] = (struct, folder)

    def type(self, node: s.TypeName, place: Literal["value", "slot"] = "value") -> ir.Type | None:
        """A scalar type, as a variable can have."""
        if node.count is not None:
            note = "take a pointer to it: `ptr`"
            if place == "slot":
                note = (
                    f"put it into a struct: `struct Buffer {{ bytes: {node.span.text} }}`, and a slot of type `Buffer`"
                )
            self.report.error("R011", "an array is no value", node.span, notes=[note])
            return None
        plain = scalar(node.name, self.target)
        if plain is not None:
            if node.pointee is None:
                return plain
            if node.name != "ptr":
                self.report.error("R011", f"{node.name} points to nothing", node.span, notes=["write `ptr<...>`"])
                return None
            if scalar(node.pointee, self.target) is not None:
                notes = [f"`ptr`, and `mem<{node.pointee}>(...)` is what it points to"]
                self.report.error(
                    "R011", f"a `ptr<...>` points to a struct, not to {node.pointee}", node.span, notes=notes
                )
            elif node.pointee not in self.declarations:
                self.unknown(node.pointee, node)
            return pointer_to(node.pointee, plain.bits)
        if node.name in self.declarations:
            message = f"{node.name} is a struct, and a value is a word or less"
            self.report.error("R011", message, node.span, notes=[f"write `ptr<{node.name}>`"])
            return None
        self.unknown(node.name, node)
        return None

    def unknown(self, name: str, node: s.TypeName) -> None:
        foreign = _FOREIGN.get(name.removesuffix("_t"))
        notes = [f"did you mean {foreign}?"] if foreign else suggestion(name, [*SCALARS, *self.declarations])
        if name == "void":
            notes = ["what returns nothing has no `->`, and a pointer to anything is `ptr`"]
        elif not notes:
            notes = [f"there are {listed(SCALARS, len(SCALARS))} and `ptr<STRUCT>`"]
        self.report.error("R010", f"there is no type `{name}`", node.span, notes=notes)

    def struct(self, name: str, span: Span | None = None) -> ir.StructLayout | None:
        """The layout of a declared struct; None after a diagnostic."""
        if name in self.done:
            return self.done[name]
        if name not in self.declarations:
            return None
        declaration, folder = self.declarations[name]
        if len(self.active) >= MAXIMUM_DEPTH:
            message = f"structs stand in one another more than {MAXIMUM_DEPTH} deep"
            notes = ["point to some of them: `ptr<...>`"]
            self.report.error("S003", message, span or declaration.name.span, notes=notes)
            return None
        if name in self.active:
            cycle = " in ".join([name, *reversed(self.active[self.active.index(name) :])])
            message = f"struct {name} contains itself"
            notes = [cycle, "did you mean a `ptr<...>`?"]
            self.report.error("R012", message, span or declaration.name.span, notes=notes)
            self.done[name] = None
            return None
        self.active.append(name)
        layout = self._lay_out(declaration, folder)
        self.active.pop()
        return self.done.setdefault(name, layout)

    def _header(self, declaration: s.Struct, folder: Path) -> Mapping[str, int] | None:
        if declaration.header is None or declaration.header_span is None:
            return None
        text = declaration.header.replace("{arch}", self.target.architecture.name).replace("{os}", self.target.os)
        path = str(folder / text)
        header = self.headers.text(path)
        if header is None and path not in self.read:
            self.report.error("H001", self.headers.why_not(path), declaration.header_span)
        self.read[path] = header
        return None if header is None else defines(header)

    def _lay_out(self, declaration: s.Struct, folder: Path) -> ir.StructLayout | None:
        name = str(declaration.name)
        header = self._header(declaration, folder)
        readable = declaration.header is None or header is not None
        fields: dict[str, ir.StructField] = {}
        end = 0
        alignment = 1
        good = True
        floating = False  # a gap was passed: the next field has to say where it is
        for node in declaration.fields:
            element = self._element(node)
            if element is None:
                good = False
                continue
            kind, size, align = element
            count = None
            if node.type.count is not None:
                count = self.constant(node.type.count)
                if count is None or not 1 <= count <= LARGEST_STRUCT:
                    if count is not None:
                        message = f"an array has 1 to {LARGEST_STRUCT} elements, not {count}"
                        self.report.error("R013", message, node.type.count.span)
                    good = False
                    continue
                size *= count
            if node.name in fields:
                self.report.error("R002", f"{name} has two fields called {node.name}", node.span)
                good = False
                continue
            offset = (end + align - 1) // align * align
            floating = declaration.gap
            if node.offset is not None:
                value = self.constant(node.offset)
                if value is None or not 0 <= value < LARGEST_STRUCT:
                    if value is not None:
                        message = f"a field is at 0 to {LARGEST_STRUCT - 1} bytes from the start, not at {value}"
                        self.report.error("R013", message, node.offset.span)
                    good = False
                    continue
                offset, floating = value, False
            elif header is not None:
                key = f"{name}_{node.name}"
                if key in header:
                    offset, floating = header[key], False
                else:
                    notes = suggestion(key, header)
                    message = f"the header has no `#define {key}` with a number"
                    self.report.error("H002", message, node.span, notes=[*notes, f"in {declaration.header}"])
                    good = False
                    continue
            elif not readable:
                good = False
                continue
            if floating:
                message = f"the place of {node.name} is not known: {name} has fields that are not named (`...`)"
                self.report.error("R014", message, node.span, notes=["pin it (`@ 48`), or read it from a header"])
                good = False
                continue
            fields[node.name] = ir.StructField(node.name, kind, offset, size, count)
            end = max(end, offset + size)
            if end > LARGEST_STRUCT:
                message = f"struct {name} would be larger than {LARGEST_STRUCT >> 20} MiB"
                self.report.error("R016", message, node.span, label="ends beyond that")
                return None
            alignment = max(alignment, align)
        if not good:
            return None
        self._refuse_overlap(name, declaration, fields)
        size = (end + alignment - 1) // alignment * alignment
        if header is not None:
            size = header.get(f"{name}__size", size)
        return ir.StructLayout(name, fields, size, alignment)

    def extern_variable(self, node: s.ExternVariable) -> ir.ExternVariable | None:
        """A variable that somebody else defines; None after a diagnostic."""
        element = self._element(s.Field(str(node.name), node.type, None, node.type.span))
        if element is None:
            return None
        type_, size, alignment = element
        count = None
        if node.type.count is not None:
            count = self.constant(node.type.count)
            if count is None:
                return None
            size *= count
        if not 1 <= size <= LARGEST_VARIABLE:
            message = f"a variable has 1 to {LARGEST_VARIABLE} bytes, and `{node.name}` would have {size}"
            notes = ["declare a part of it: what is used by name, or whose address is taken"]
            self.report.error("R070", message, node.type.span, notes=notes)
            return None
        return ir.ExternVariable(str(node.name), type_, count, size, alignment)

    def _element(self, node: s.Field) -> tuple[ir.Type | str, int, int] | None:
        """The type of one element of a field, its size and its alignment."""
        plain = scalar(node.type.name, self.target)
        if plain is None and node.type.name in self.declarations:
            nested = self.struct(node.type.name, node.type.span)
            return (node.type.name, nested.size, nested.alignment) if nested else None
        type_ = self.type(s.TypeName(node.type.name, node.type.pointee, None, node.type.span))
        if type_ is None:
            return None
        return type_, type_.bytes, alignment_of(type_.bytes, type_.kind, self.target)

    def _refuse_overlap(self, name: str, declaration: s.Struct, fields: Mapping[str, ir.StructField]) -> None:
        spans = {node.name: node.span for node in declaration.fields}
        ordered = sorted(fields.values(), key=lambda f: f.offset)
        for before, after in pairwise(ordered):
            end = before.offset + before.size
            if end > after.offset:
                message = f"{after.name} at {after.offset} overlaps {before.name}, which ends at {end}"
                self.report.error("R015", message, spans[after.name], related=[(spans[before.name], "the other field")])
