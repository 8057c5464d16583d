"""The library: what the command does, as functions with typed results that print well.

    >>> from trampoline_dsl import compile_file, verify_file
    >>> crosscall2 = compile_file("examples/go/crosscall2.tramp", "linux/s390x")["crosscall2"]
    >>> crosscall2.frame.size
    32

Wrong input raises `InputError`, whose text is what the command prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .audits import Request, read_manifest, run_audits, split_source
from .campaign import run_campaign
from .diagnostics import Source, read_source
from .pipeline import Compiled, compile_source
from .target import Target
from .targets import default_targets, find_target
from .verify import DEFAULT_RUNS, Report

Targets = str | Target | Iterable[str | Target] | None


def _targets(targets: Targets) -> tuple[Target, ...]:
    if targets is None:
        return default_targets()
    if isinstance(targets, (str, Target)):
        targets = (targets,)
    return tuple(t if isinstance(t, Target) else find_target(t) for t in targets)


def compile_text(text: str, target: str | Target, *, name: str = "<text>") -> Compiled:
    """Compile a source text for one target. Raises InputError."""
    (chosen,) = _targets(target)
    return compile_source(Source(name, text), [chosen])[chosen.name]


def compile_file(path: str | Path, target: str | Target) -> Compiled:
    """Compile a file for one target. Raises InputError."""
    (chosen,) = _targets(target)
    return compile_source(read_source(path), [chosen])[chosen.name]


def verify_text(
    text: str, targets: Targets = None, *, seed: int = 1, runs: int = DEFAULT_RUNS, name: str = "<text>"
) -> Report:
    """Judge every trampoline of a source text, on all targets if none is named. Raises InputError."""
    return run_campaign([Source(name, text)], _targets(targets), seed, runs, 1, quiet=True)


def verify_file(
    path: str | Path, targets: Targets = None, *, seed: int = 1, runs: int = DEFAULT_RUNS, jobs: int = 1
) -> Report:
    """Judge every trampoline of a file, on all targets if none is named, in `jobs` processes. Raises InputError."""
    return run_campaign([read_source(path)], _targets(targets), seed, runs, jobs, quiet=True)


def audit_file(
    object: str | Path,
    symbols: str | Iterable[str],
    source: str | Path,
    target: str = "",
    *,
    member: str = "",
    base: int | None = None,
    seed: int = 1,
    runs: int = DEFAULT_RUNS,
    jobs: int = 1,
) -> Report:
    """Judge functions of an object, executable, library or archive by what a source says: FILE, or FILE:TRAMPOLINE.
    `target`: by default what the object is for. `member`: of an archive. `base`: the file is bytes alone, which lie at
    this address. Raises InputError."""
    path, trampoline = split_source(str(source), Path())
    names = (symbols,) if isinstance(symbols, str) else tuple(symbols)
    request = Request(Path(object), names, path, trampoline, target, member, base)
    return run_audits([request], seed=seed, runs=runs, jobs=jobs)


def audit_manifest(path: str | Path, *, seed: int = 1, runs: int = DEFAULT_RUNS, jobs: int = 1) -> Report:
    """Judge everything that a manifest lists. Raises InputError."""
    return run_audits(read_manifest(Path(path)), seed=seed, runs=runs, jobs=jobs)
