"""Audits as people ask for them: an object, a symbol in it and a source, on the command line or in a manifest.

A manifest is TOML: a list of tables `[[audit]]`, with the keys of `_KEYS`. Paths count from the manifest's folder.
"""

from __future__ import annotations

import glob
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from . import ir
from .audit import audit
from .binary import Image, ImageError, Symbol, find_symbol, read_bytes, read_file, read_raw
from .campaign import in_processes
from .decode import code_of_function
from .diagnostics import Diagnostic, InputError, Source, Span, read_source, suggestion
from .image import definitions, names_of
from .pipeline import Compiled, compile_module
from .records import dataclass
from .resolve import load_module
from .target import Target
from .targets import find_target
from .verify import Report, Verdict

_MANY = 200  # objects that one pattern of a manifest may name
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Request:
    """One object and what of it is to be judged. `symbols` by the names that people use; none for bytes alone, which
    are one function. `trampoline`: the one of the source that all of them are to keep to, or "": each that of its own
    name. `base`: the file is bytes alone, and lies there. `place`: where it is asked for, if in a manifest."""

    object: Path
    symbols: tuple[str, ...]
    source: Path
    trampoline: str = ""
    target: str = ""
    member: str = ""
    base: int | None = None
    include: tuple[Path, ...] = ()
    protect: bool = False
    place: Span | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    request: Request
    symbol: str
    seed: int
    runs: int


def run_audits(requests: Sequence[Request], *, seed: int, runs: int, jobs: int = 1, quiet: bool = True) -> Report:
    """The verdicts on all of them, in their order. Raises InputError with all that is wrong with any of them."""
    tasks = [_Task(request, symbol, seed, runs) for request in requests for symbol in request.symbols or ("",)]
    outcomes = dict(in_processes(_one, tasks, lambda task: f"auditing {task.request.object.name}", jobs, quiet))
    wrong = [one for index in range(len(tasks)) for one in outcomes[index][1]]
    if wrong:
        raise InputError(wrong)
    return Report(seed, tuple(one for index in range(len(tasks)) for one in outcomes[index][0]))


def _one(task: _Task) -> tuple[tuple[Verdict, ...], tuple[Diagnostic, ...]]:
    try:
        return (_audited(task),), ()
    except InputError as error:
        return (), error.diagnostics


def _audited(task: _Task) -> Verdict:
    request = task.request
    image = _image(request)
    target = _target(request, image)
    symbol = _told(request, "O002", lambda: find_symbol(image, task.symbol or f"{request.base or 0:#x}"))
    compiled = _compiled(request, target)
    name = _trampoline(request, compiled, symbol, image)
    code = _told(request, "O002", lambda: code_of_function(image, symbol, target))
    found = _told(
        request,
        "O002",
        lambda: audit(image, {name: symbol}, compiled, seed=task.seed, runs=task.runs, codes={name: code}),
    )
    listing = tuple(
        (offset, insn.text) for insn, offset in zip(code.instructions, code.offsets, strict=True) if insn.label is None
    )
    return replace(found[0], file=str(request.source), object=image.name, symbol=symbol.name, listing=listing)


def _told(request: Request, code: str, do: Callable[[], _T]) -> _T:
    """What it gives; what is wrong with an image as a diagnostic."""
    try:
        return do()
    except ImageError as error:
        raise _wrong(request, code, str(error), *error.notes) from None


def _wrong(request: Request, code: str, message: str, *notes: str) -> InputError:
    return InputError([Diagnostic(code, message, request.place, notes=notes, file=str(request.object))])


# --------------------------------------------------------------------------------------------------- what is asked for


def _image(request: Request) -> Image:
    if request.base is None:
        return _told(request, "O001", lambda: _file(request.object, request.member, _state(request.object)))
    if not request.target:
        raise _wrong(request, "O003", "bytes alone do not say what machine they are for", "name it: `--target`")
    if request.member:
        raise _wrong(request, "O001", f"bytes alone have no member `{request.member}`")
    target, base = _named_target(request), request.base
    data = _told(request, "O001", lambda: read_bytes(request.object))
    return _told(request, "O001", lambda: read_raw(data, str(request.object), target, base))


@lru_cache(maxsize=4)
def _file(path: Path, member: str, state: tuple[int, ...]) -> Image:
    """Kept for those who want several symbols of it, as long as its `state` is the same."""
    return read_file(path, member)


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _named_target(request: Request) -> Target:
    try:
        return find_target(request.target)
    except InputError as error:
        raise InputError([replace(d, span=request.place) for d in error.diagnostics]) from None


def _target(request: Request, image: Image) -> Target:
    """The one that was named, if the image can be for it; or the first that it can be for, and the source is."""
    if not request.target:
        if image.format == "macho":
            raise _wrong(
                request,
                "O003",
                f"{image.name} is for Darwin, which is no target",
                f"say by which target's conventions it is to be judged: `--target {image.targets[0]}`",
            )
        declared = [t for t in map(find_target, image.targets) if _declared(request, t)]
        found = declared[0] if declared else find_target(image.targets[0])
    else:
        found = _named_target(request)
        same = {find_target(name).architecture.name for name in image.targets}
        fits = found.architecture.name in same if image.format == "macho" else found.name in image.targets
        if not fits:
            there = " ".join(image.targets)
            raise _wrong(request, "O003", f"{image.name} is not for {found.name}", f"it is for {there}")
    if request.protect and found.why_not_protected:
        raise _wrong(request, "T003", f"{found.name} has no landing pads: {found.why_not_protected}")
    return found.protected() if request.protect else found


def _compiled(request: Request, target: Target) -> Compiled:
    return compile_module(load_module(read_source(request.source), request.include), target)


def _declared(request: Request, target: Target) -> bool:
    program = _compiled(request, target).program
    return bool(_own(program))


def _own(program: ir.Program) -> list[str]:
    return [*program.own, *program.own_contracts]


def _trampoline(request: Request, compiled: Compiled, symbol: Symbol, image: Image) -> str:
    """The trampoline that the symbol is to keep to: the one named, that of the same name, or the only one."""
    name = _named(request, compiled, symbol)
    function = compiled.program.functions.get(name)
    table = function.table.name if function is not None and function.table is not None else ""
    if table and table not in definitions(image, [table]):
        message = f"`{name}` is entered through the table `{table}`, which {image.name} does not define"
        raise _wrong(request, "O004", message)
    return name


def _named(request: Request, compiled: Compiled, symbol: Symbol) -> str:
    own, target = _own(compiled.program), compiled.program.target.name
    if not own:
        raise _wrong(request, "O004", f"{request.source} declares no trampoline for {target}")
    there = "there are: " + " ".join(own)
    if request.trampoline:
        if request.trampoline not in own:
            notes = (*suggestion(request.trampoline, own), there)
            raise _wrong(request, "O004", f"{request.source} has no trampoline `{request.trampoline}`", *notes)
        return request.trampoline
    by_name = [name for name in names_of(symbol.name) if name in own]
    if by_name:
        return by_name[0]
    if len(own) == 1:
        return own[0]
    message = f"{request.source} has no trampoline called `{symbol.name}`"
    raise _wrong(request, "O004", message, there, f"say which one: `--source {request.source}:NAME`")


# ------------------------------------------------------------------------------------------------------------ manifests

# What a table may have: the kinds of values, and what they are for, for people.
_KEYS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "object": ((str, list), "a file, several, or patterns with `*`"),
    "directory": ((str,), "the folder that `object` counts from"),
    "symbol": ((str, list), "a symbol or several"),
    "source": ((str,), "FILE or FILE:TRAMPOLINE"),
    "trampoline": ((str,), "the one of the source"),
    "target": ((str,), "linux/amd64, ..."),
    "member": ((str,), "of an archive"),
    "base": ((int,), "an address"),
    "include": ((str, list), "folders of headers"),
    "protect": ((bool,), "whether landing pads are wanted"),
}


def split_source(text: str, folder: Path) -> tuple[Path, str]:
    """FILE[:TRAMPOLINE]; the file counts from a folder."""
    if (folder / text).exists():
        return folder / text, ""
    file, colon, trampoline = text.rpartition(":")
    return (folder / file, trampoline) if colon else (folder / text, "")


def read_manifest(path: Path) -> tuple[Request, ...]:
    """What a manifest asks for, in its order. Raises InputError with all that is wrong with it."""
    return _Manifest(read_source(path), path.parent).requests()


class _Manifest:
    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.wrong: list[Diagnostic] = []
        self.headers = [m.start() for m in re.finditer(r"^[ \t]*\[\[[ \t]*audit[ \t]*\]\]", source.text, re.MULTILINE)]

    def requests(self) -> tuple[Request, ...]:
        try:
            document = tomllib.loads(self.source.text)
        except tomllib.TOMLDecodeError as error:
            raise InputError([self._syntax(str(error))]) from None
        except RecursionError:
            raise InputError([Diagnostic("O005", "this is nested too deeply", None, file=self.source.name)]) from None
        for key in document.keys() - {"audit"}:
            notes = (*suggestion(key, ["audit"]), "a manifest is a list of tables `[[audit]]`")
            found = re.search(rf"^[ \t]*\[{{0,2}}[ \t]*({re.escape(key)})\b", self.source.text, re.MULTILINE)
            place = Span(self.source, found.start(1), found.end(1)) if found else None
            self._error(f"there is no key `{key}`", place, *notes)
        tables = document.get("audit")
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            self._error("there is nothing to audit", None, "a manifest is a list of tables `[[audit]]`")
            tables = []
        requests = [request for index, table in enumerate(tables) for request in self._requests(index, table)]
        if self.wrong:
            raise InputError(self.wrong)
        return tuple(requests)

    def _syntax(self, message: str) -> Diagnostic:
        found = re.search(r" ?\(at line (\d+), column (\d+)\)", message)
        if found is None:
            return Diagnostic("O005", f"this is not TOML: {message}", None, file=self.source.name)
        start = min(self.source.starts[int(found[1]) - 1] + int(found[2]) - 1, len(self.source.text))
        text = message.replace(found[0], "")
        return Diagnostic("O005", f"this is not TOML: {text}", Span(self.source, start, start + 1))

    def _error(self, message: str, span: Span | None, *notes: str) -> None:
        self.wrong.append(Diagnostic("O005", message, span, notes=notes, file=self.source.name))

    def _table(self, index: int) -> Span | None:
        if index >= len(self.headers):
            return None
        start = self.headers[index]
        line = self.source.text[start:].partition("\n")[0]
        return Span(self.source, start + len(line) - len(line.lstrip()), start + len(line.rstrip()))

    def _key(self, key: str, index: int) -> Span | None:
        """Where a key is, in the table of a number, as far as that can be told from the text."""
        start = self.headers[index] if index < len(self.headers) else 0
        end = self.headers[index + 1] if index + 1 < len(self.headers) else len(self.source.text)
        quoted = rf"""^[ \t]*["']?({re.escape(key)})["']?[ \t]*="""
        found = re.compile(quoted, re.MULTILINE).search(self.source.text, start, end)
        return Span(self.source, found.start(1), found.end(1)) if found else self._table(index)

    def _requests(self, index: int, table: Mapping[str, Any]) -> Iterator[Request]:
        before = len(self.wrong)
        for key, value in table.items():
            if key not in _KEYS:
                known = "there are: " + " ".join(_KEYS)
                self._error(f"there is no key `{key}`", self._key(key, index), *suggestion(key, _KEYS), known)
            elif not _is_of(value, _KEYS[key][0]):
                self._error(f"`{key}` is {_KEYS[key][1]}", self._key(key, index))
        for key in ("object", "source"):
            if key not in table:
                self._error(f"`{key}` is missing: {_KEYS[key][1]}", self._table(index))
        if "symbol" not in table and "base" not in table:
            self._error(f"`symbol` is missing: {_KEYS['symbol'][1]}", self._table(index))
        if len(self.wrong) > before:
            return
        source, trampoline = split_source(table["source"], self.folder)
        if trampoline and "trampoline" in table:
            self._error("the trampoline is named twice", self._key("trampoline", index))
            return
        for path in self._objects(index, table):
            yield Request(
                path,
                tuple(_several(table.get("symbol", ()))),
                source,
                table.get("trampoline", trampoline),
                table.get("target", ""),
                table.get("member", ""),
                table.get("base"),
                tuple(self.folder / one for one in _several(table.get("include", ()))),
                table.get("protect", False),
                self._table(index),
            )

    def _objects(self, index: int, table: Mapping[str, Any]) -> Iterator[Path]:
        folder = self.folder / table.get("directory", "")
        for pattern in _several(table["object"]):
            if not glob.has_magic(pattern) or (folder / pattern).exists():
                yield folder / pattern
                continue
            found = sorted(folder / one for one in glob.glob(pattern, root_dir=folder, recursive=True))
            found = [path for path in found if path.is_file()]
            if not found:
                self._error(f"no file is called `{pattern}` in {folder}", self._key("object", index))
            if len(found) > _MANY:
                self._error(f"`{pattern}` names {len(found)} files, {_MANY} at most", self._key("object", index))
                continue
            yield from found


def _is_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, list):
        return list in kinds and bool(value) and all(isinstance(one, str) and one for one in value)
    return isinstance(value, kinds) and value != ""


def _several(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)
