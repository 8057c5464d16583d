"""Positions in source files, and diagnostics as values: what a person is told about wrong input."""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from .records import dataclass as record


@dataclass(frozen=True)
class Source:
    """A text with a name. Offsets count characters from 0; lines and columns count from 1."""

    name: str
    text: str

    @cached_property
    def starts(self) -> list[int]:
        starts = list(accumulate((len(line) + 1 for line in self.text.split("\n")), initial=0))
        return starts[:-1]

    def position(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        start = self.starts[number - 1]
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[start:end].rstrip("\r")

    @cached_property
    def _statements(self) -> dict[int, str]:
        return {}

    def statement(self, number: int) -> str:
        """What a line says: without its comment, its words one blank apart."""
        said = self._statements.get(number)
        if said is None:
            said = self._statements[number] = " ".join(self.line(number).split("#")[0].split())
        return said


@record(frozen=True, slots=True)
class Span:
    """Characters `start` up to, not including, `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        return bisect.bisect_right(self.source.starts, self.start)

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def __repr__(self) -> str:
        return f"<{self}>"


@dataclass(frozen=True)
class Diagnostic:
    """One thing that is wrong: a stable `code`, where, what was found and expected (`message`), ways out (`notes`)."""

    code: str
    message: str
    span: Span | None
    label: str = ""
    notes: tuple[str, ...] = ()
    file: str = ""
    related: tuple[tuple[Span, str], ...] = field(default=())

    @property
    def where(self) -> str:
        return str(self.span) if self.span else self.file

    def as_json(self) -> dict[str, Any]:
        nowhere = {"file": self.file, "line": 0, "column": 0, "end_line": 0, "end_column": 0}
        return {
            "code": self.code,
            "message": self.message,
            **(_place(self.span) if self.span else nowhere),
            "label": self.label,
            "notes": list(self.notes),
            "related": [{"message": text, **_place(span)} for span, text in self.related],
        }


def _place(span: Span) -> dict[str, Any]:
    """Where a span is, as data: lines and columns count from 1, and the end is the first character behind it."""
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


class InputError(Exception):
    """The input is wrong. Carries every diagnostic that was found, in the order of the source."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        unique = dict.fromkeys(diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(
            sorted(unique, key=lambda d: (d.span.source.name, d.span.start) if d.span else (d.file, -1))
        )
        super().__init__("\n\n".join(render(d) for d in self.diagnostics))


MAXIMUM_DIAGNOSTICS = 500  # of one pass over one file; a person mends the first of them first


class Report:
    """Collects diagnostics while a pass goes on; `finish` raises if there were any."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []

    def error(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        label: str = "",
        notes: Sequence[str] = (),
        related: Sequence[tuple[Span, str]] = (),
        file: str = "",
    ) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, tuple(notes), file, tuple(related)))
        if len(self.diagnostics) >= MAXIMUM_DIAGNOSTICS:
            self.finish()

    def finish(self) -> None:
        if self.diagnostics:
            raise InputError(self.diagnostics)


def _underlined(span: Span, label: str) -> list[str]:
    line, column = span.source.position(span.start)
    text = span.source.line(line)
    width = max(1, min(span.end - span.start, len(text) - column + 1))
    # A very long line is shown around the place, so that the mark stays visible.
    shown, offset = text, 0
    if len(text) > 160:
        offset = max(0, column - 60)
        shown = text[offset : offset + 160]
        width = max(1, min(width, 160 - (column - 1 - offset)))
    shown = "".join(c if c.isprintable() else ("\t" if c == "\t" else "\N{REPLACEMENT CHARACTER}") for c in shown)
    indent = "".join("\t" if c == "\t" else " " for c in shown[: column - 1 - offset])
    number = str(line)
    mark = "^" * width + (f" {label}" if label else "")
    return [f"  {number} | {shown}", f"  {' ' * len(number)} | {indent}{mark}"]


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as the command prints it, without colour."""
    lines = [f"{diagnostic.where}: error[{diagnostic.code}]: {diagnostic.message}"]
    if diagnostic.span:
        lines += _underlined(diagnostic.span, diagnostic.label)
    for span, text in diagnostic.related:
        lines.append(f"  = {text}: {span}")
        lines += _underlined(span, "")
    lines += [f"  = {note}" for note in diagnostic.notes]
    return "\n".join(lines)


def merged(found: Mapping[str, Sequence[Diagnostic]]) -> InputError:
    """What is wrong on several targets (by name), as one error: the same mistake is told once, and where it is one on
    some of the targets only, it says on which."""
    first: dict[tuple[str, str], Diagnostic] = {}
    where: dict[tuple[str, str], list[str]] = {}
    others: dict[tuple[str, str], dict[str, str]] = {}
    for target, diagnostics in found.items():
        for diagnostic in diagnostics:
            key = (diagnostic.code, diagnostic.where)
            first.setdefault(key, diagnostic)
            if target not in where.setdefault(key, []):
                where[key].append(target)
            # In other words, but for the target's name.
            general = diagnostic.message.replace(target, "").replace(target.partition("/")[2], "")
            others.setdefault(key, {}).setdefault(general, f"{target}: {diagnostic.message}")
    told = []
    for key, diagnostic in first.items():
        targets = where[key]
        also = list(others[key].values())[1:4]
        diagnostic = replace(diagnostic, notes=(*diagnostic.notes, *also))
        said = len(targets) == 1 and targets[0] in diagnostic.message
        if len(targets) < len(found) and not said:
            diagnostic = replace(diagnostic, notes=(*diagnostic.notes, "on " + listed(targets)))
        told.append(diagnostic)
    return InputError(told)


def listed(words: Iterable[str], most: int = 12) -> str:
    """Words with spaces between them, the first of them where there are many."""
    words = list(words)
    return " ".join(words) if len(words) <= most else " ".join([*words[:most], "..."])


LONGEST_WORD = 64  # of what is compared with other words
MOST_WORDS = 20  # that a word is compared with thoroughly


def suggestion(word: str, known: Iterable[str]) -> list[str]:
    """A note that offers the nearest known word, if one is near."""
    if len(word) > LONGEST_WORD:
        return []
    # Comparing takes long: only with those that begin and end most like it.
    slack = max(2, len(word) // 2)
    near = [other for other in set(known) if abs(len(other) - len(word)) <= slack]
    if len(near) > MOST_WORDS:
        near = sorted(near, key=lambda other: (-_alike(word, other), other))[:MOST_WORDS]
    matches = difflib.get_close_matches(word, sorted(near), n=1, cutoff=0.6)
    return [f"did you mean `{matches[0]}`?"] if matches else []


MAXIMUM_SIZE = 4 << 20  # bytes of a file


def _alike(word: str, other: str) -> int:
    """Characters that two words have in common at their beginnings and at their ends."""
    beginning = takewhile(bool, map(str.__eq__, word, other))
    ending = takewhile(bool, map(str.__eq__, reversed(word), reversed(other)))
    return sum(beginning) + sum(ending)


def read_source(path: str | Path, *, limit: int = MAXIMUM_SIZE) -> Source:
    """Read a file of at most `limit` bytes as UTF-8. Raises InputError with a reason that a person understands."""
    name = str(path)

    def fail(code: str, message: str, *notes: str) -> InputError:
        return InputError([Diagnostic(code, message, None, notes=notes, file=name)])

    try:
        with open(path, "rb") as file:
            data = file.read(1 << 16)
            if len(data) == 1 << 16:  # room for the limit itself is costly
                data += file.read(limit + 1 - len(data))
    except OSError as error:
        raise fail("F001", f"cannot read this file: {error.strerror or error}") from None
    except ValueError as error:
        raise fail("F001", f"cannot read this file: {error}") from None
    return decode_source(name, data, limit=limit)


def decode_source(name: str, data: bytes, *, limit: int = MAXIMUM_SIZE) -> Source:
    """The text of `data`, at most `limit` bytes of UTF-8. Raises InputError."""
    if len(data) > limit:
        message = f"this file is larger than {limit >> 20} MiB, the most that is read"
        raise InputError([Diagnostic("F002", message, None, file=name, notes=("is it a .tramp file?",))])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"this file is not UTF-8 text (byte {error.start:#x} is {data[error.start]:#04x})"
        raise InputError([Diagnostic("F003", message, None, file=name)]) from None
    if "\0" in text:
        message = f"this file has a zero byte at offset {text.index(chr(0)):#x}: it is not text"
        raise InputError([Diagnostic("F003", message, None, file=name)])
    return Source(name, text)
