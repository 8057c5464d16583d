"""What the commands write: files of assembly, bytes and JSON; the page that `show` prints; the list of targets."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from .diagnostics import Diagnostic, InputError, merged
from .objects import has_objects, make_library, make_object
from .picture import draw
from .pipeline import Artifact, Compiled, TableArtifact
from .target import Register, Target
from .targets import all_targets

_ONE_EACH = "a static library has one definition of each symbol: a linker would take the first that it finds"


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written: its name in the output folder, and its bytes."""

    name: str
    data: bytes


def build_outputs(results: Sequence[Compiled], emit: str, syntax: str = "gnu") -> list[Output]:
    """Everything, made before anything is written. Raises InputError."""
    _assemble_all(results)
    if emit == "obj":
        return _objects(results)
    outputs = []
    for compiled in results:
        stem, suffix = _stem(compiled), compiled.target.name.replace("/", "_")
        match emit:
            case "asm" if syntax == "plan9":
                outputs.append(Output(f"{stem}_{suffix}.s", compiled.plan9_text.encode()))
                declared = compiled.go_declarations()
                for package, text in declared.items():
                    of = f"_{package}" if len(declared) > 1 else ""
                    outputs.append(Output(f"{stem}{of}_{suffix}_decl.go", text.encode()))
            case "asm":
                outputs.append(Output(f"{stem}_{suffix}.s", compiled.text.encode()))
            case "json":
                items = [*(artifact_json(a) for a in compiled.own), *(table_json(t) for t in compiled.own_tables)]
                if syntax == "plan9":
                    ours: list[Artifact | TableArtifact] = [*compiled.own, *compiled.own_tables]
                    for item, one in zip(items, ours, strict=True):
                        item["text"] = one.plan9_text(compiled.go_symbol)
                outputs.append(Output(f"{stem}_{suffix}.json", _artifacts(items)))
            case _:
                codes = {a.name: a.code for a in compiled.own} | {t.name: t.code for t in compiled.own_tables}
                outputs += [Output(f"{name}_{suffix}.bin", code) for name, code in codes.items()]
    return outputs


def _assemble_all(results: Sequence[Compiled]) -> None:
    errors: dict[str, list[Diagnostic]] = {compiled.target.name: [] for compiled in results}
    for compiled in results:
        try:
            compiled.assemble()  # text that does not assemble is not handed out
        except InputError as error:
            errors[compiled.target.name] += error.diagnostics
    if any(errors.values()):
        raise merged(errors)


def _stem(compiled: Compiled) -> str:
    return PurePath(compiled.program.file).stem.strip("<>")


def _objects(results: Sequence[Compiled]) -> list[Output]:
    """An object of each. Raises InputError with all that stands in the way."""
    outputs: list[Output] = []
    errors: list[Diagnostic] = []
    for compiled in results:
        try:
            data = make_object(compiled.target, compiled.text)
        except InputError as error:
            errors += error.diagnostics
        else:
            outputs.append(Output(f"{_stem(compiled)}_{compiled.target.name.replace('/', '_')}.o", data))
    if errors:
        raise InputError(errors)
    return outputs


def library(results: Sequence[Compiled], path: Path) -> Output:
    """A static library of all of them, which are for one target. Raises InputError if they are not."""
    targets = {compiled.target.name: compiled.target for compiled in results}
    if len(targets) != 1:
        message = f"a static library is of one target, not of {len(targets)}"
        notes = ("name one --target: " + " ".join(targets),)
        raise InputError([Diagnostic("U007", message, None, notes=notes, file=str(path))])
    _refuse_symbols_twice(results, path)
    _assemble_all(results)
    outputs = _objects(results)
    _refuse_twice([output.name for output in outputs], path)
    [target] = targets.values()
    return Output(path.name, make_library(target, {output.name: output.data for output in outputs}))


def joined_json(outputs: Sequence[Output]) -> bytes:
    """The documents of several targets as one."""
    return _artifacts([item for output in outputs for item in json.loads(output.data)["artifacts"]])


def _artifacts(items: Sequence[dict[str, Any]]) -> bytes:
    return (json.dumps({"format": 1, "artifacts": items}, indent=2) + "\n").encode()


def write_all(outputs: Sequence[Output], folder: Path) -> None:
    """Write every file whole or not at all. Raises InputError if the folder cannot be written to."""
    _refuse_twice([output.name for output in outputs], folder)
    written: list[tuple[str, Path]] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, and no folder")
        folder.mkdir(parents=True, exist_ok=True)
        for output in outputs:
            if (folder / output.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{output.name} is a folder there")
        for output in outputs:
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=".trampoline-")
            written.append((temporary, folder / output.name))
            with os.fdopen(handle, "wb") as file:
                file.write(output.data)
            os.chmod(temporary, 0o644)
        for temporary, final in written:
            os.replace(temporary, final)
    except OSError as error:
        for temporary, _ in written:
            Path(temporary).unlink(missing_ok=True)
        message = f"cannot write there: {error.strerror or error}"
        raise InputError([Diagnostic("F005", message, None, file=str(folder))]) from None


def _refuse_twice(names: Sequence[str], where: Path) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        message = f"two inputs would be written to {sorted(twice)[0]}"
        raise InputError([Diagnostic("U003", message, None, file=str(where), notes=("build them one by one",))])


def _refuse_symbols_twice(results: Sequence[Compiled], path: Path) -> None:
    """Of two members that define a symbol, a linker would take one and be silent."""
    files: dict[str, list[str]] = {}
    for compiled in results:
        for name in (*(a.name for a in compiled.own), *(t.name for t in compiled.own_tables)):
            files.setdefault(name, []).append(compiled.program.file)
    errors = [
        Diagnostic("U010", f"`{name}` is defined by {' and '.join(of)}", None, notes=(_ONE_EACH,), file=str(path))
        for name, of in files.items()
        if len(of) > 1
    ]
    if errors:
        raise InputError(errors)


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """An artifact as data: bytes in hexadecimal, offsets from the function's start."""
    return {
        "trampoline": artifact.name,
        "file": artifact.source.name,
        "target": artifact.target.name,
        "convention": artifact.function.convention.name,
        "code": artifact.code.hex(),
        "relocations": [
            {"offset": r.offset, "type": r.type, "symbol": r.symbol, "addend": r.addend} for r in artifact.relocations
        ],
        "frame": {
            "size": artifact.frame.size,
            "slots": [
                {
                    "offset": s.offset,
                    "size": s.size,
                    "owner": s.owner,
                    "reason": s.reason,
                    "register": s.register.name if s.register else None,
                    "stack": s.stack,
                }
                for s in (*artifact.frame.slots, *artifact.frame.body_slots)
            ],
        },
        "source_map": [
            {"offset": m.offset, "size": m.size, "line": m.line, "column": m.column, "instruction": m.instruction}
            for m in artifact.source_map
        ],
        "text": artifact.text,
    }


def table_json(table: TableArtifact) -> dict[str, Any]:
    """A table of entries as data, like an artifact; `stride` is bytes from an entry to the next."""
    return {
        "table": table.name,
        "file": table.source.name,
        "target": table.target.name,
        "enters": table.table.trampoline,
        "count": table.table.count,
        "stride": table.stride,
        "code": table.code.hex(),
        "relocations": [
            {"offset": r.offset, "type": r.type, "symbol": r.symbol, "addend": r.addend} for r in table.relocations
        ],
        "text": table.text,
    }


def shown(artifact: Artifact) -> str:
    """Source, frame, and every instruction with its bytes, on one page."""
    lines = [str(artifact), f"  {artifact.function.convention.title}", ""]
    span = artifact.function.span
    first = span.line
    source_lines = span.text.splitlines()
    last = first + len(source_lines) - 1
    width = len(str(last))
    lines += [f"  {first + i:>{width}} | {text}".rstrip() for i, text in enumerate(source_lines)]
    lines += ["", "frame", ""]
    lines += draw(artifact.frame, artifact.target.architecture.sp.name)
    lines += ["", "code", ""]
    before = (0, "")
    by_offset = {r.offset: r for r in artifact.relocations}
    longest = max((len(line.instruction) for line in artifact.source_map), default=0)
    ends = [*artifact.offsets[1:], len(artifact.code)]
    for insn, start, end in zip(artifact.instructions, artifact.offsets, ends, strict=True):
        if insn.label is not None:
            lines.append(f"{insn.label}:")
            continue
        what = {"prologue": "entry", "epilogue": "return"}.get(insn.part, "")
        here = (insn.line, what)
        if here != before and insn.line:
            lines.append(f"        ; {insn.line}: {what or artifact.source.statement(insn.line)}")
            before = here
        code = artifact.code[start:end].hex(" ") if end - start <= 8 else artifact.code[start:end].hex()
        where = [r for offset, r in by_offset.items() if start <= offset < end]
        note = f"  {where[0].type} {where[0].symbol}" if where else ""
        lines.append(f"  {start:>5x}  {code:<24} {insn.text:<{longest if note else 0}}{note}".rstrip())
    return "\n".join([*lines, ""])


# ------------------------------------------------------------------------------------------------------------ targets


def _thread(target: Target) -> str:
    for convention in target.conventions.values():
        if convention.thread is not None:
            place = convention.thread
            return place.name if isinstance(place, Register) else str(place)
    return "-"


def _emits(target: Target) -> list[str]:
    plan9 = ["plan9"] if "go" in target.architecture.linkages else []
    return ["gnu", *plan9, "bytes", "json", *(["obj"] if has_objects(target) else [])]


def _protection(target: Target) -> str:
    """Which landing pads `--protect` makes, if any."""
    if target.why_not_protected:
        return ""
    [pad] = target.architecture.landing_pad()
    return pad.text


def targets_json() -> str:
    return json.dumps(
        {
            "format": 1,
            "targets": [
                {
                    "name": t.name,
                    "variant": t.variant or None,
                    "word": t.architecture.word,
                    "byte_order": t.architecture.order,
                    "baseline": t.baseline,
                    "conventions": sorted(t.conventions),
                    "emits": _emits(t),
                    "protection": _protection(t) or None,
                    "runs": True,
                }
                for t in all_targets().values()
            ],
        },
        indent=2,
    )


def targets_text() -> str:
    rows = [("target", "word", "order", "baseline", "conventions", "g", "emits", "--protect", "runs in")]
    for target in all_targets().values():
        architecture = target.architecture
        rows.append(
            (
                target.name,
                str(8 * architecture.word),
                architecture.order,
                target.baseline,
                " ".join(sorted(target.conventions)),
                _thread(target),
                ", ".join(_emits(target)),
                _protection(target) or "-",
                "Unicorn",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
