"""Verifies many files on many targets, on all cores, with progress. The verdicts do not depend on how it is divided."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .diagnostics import Diagnostic, InputError, Source, merged
from .pipeline import compile_module
from .resolve import Module, check_module, load_module
from .target import Target
from .targets import find_target
from .verify import Report, Verdict, verify


@dataclass(frozen=True, slots=True)
class _Outcome:
    verdicts: tuple[Verdict, ...]
    diagnostics: tuple[Diagnostic, ...]


_include: list[Path] = []  # as the parsed modules had it
_modules: dict[Source, Module] = {}  # parsed before the processes are forked, so that each finds them


def _module(source: Source) -> Module:
    if source not in _modules:
        _modules[source] = load_module(source, _include)
    return _modules[source]


def _one(source: Source, target_name: str, seed: int, runs: int, include: tuple[Path, ...]) -> _Outcome:
    _use(include)
    try:
        compiled = compile_module(_module(source), find_target(target_name))
        compiled.assemble()
        return _Outcome(verify(compiled, seed=seed, runs=runs), ())
    except InputError as error:
        return _Outcome((), error.diagnostics)


def _use(include: Sequence[Path]) -> None:
    if list(include) != _include:
        _modules.clear()
        _include[:] = include


def run_campaign(
    sources: Sequence[Source],
    targets: Sequence[Target],
    seed: int,
    runs: int,
    jobs: int,
    *,
    quiet: bool = False,
    include: Sequence[Path] = (),
) -> Report:
    """Every trampoline of every source on every target. Raises InputError with all that is wrong in any of them."""
    _use(include)
    errors: list[Diagnostic] = []
    for source in sources:
        try:
            check_module(_module(source))
        except InputError as error:
            errors += error.diagnostics
    if errors:
        raise InputError(errors)
    tasks = [(source, target.name, seed, runs, tuple(include)) for source in sources for target in targets]
    outcomes = dict(_outcomes(tasks, jobs or os.cpu_count() or 1, quiet))
    found: dict[str, list[Diagnostic]] = {target.name: [] for target in targets}
    for index, (_, target_name, *_) in enumerate(tasks):
        found[target_name] += outcomes[index].diagnostics
    if any(found.values()):
        raise merged(found)
    return Report(seed, tuple(_in_order([outcomes[index].verdicts for index in range(len(tasks))], len(targets))))


def _in_order(found: Sequence[tuple[Verdict, ...]], targets: int) -> Iterator[Verdict]:
    """Trampoline by trampoline, as a file declares them, and each on all targets: outcomes come file by file."""
    for start in range(0, len(found), targets):
        for same in zip(*found[start : start + targets], strict=True):
            yield from same


def _outcomes(
    tasks: Sequence[tuple[Source, str, int, int, tuple[Path, ...]]], jobs: int, quiet: bool
) -> Iterator[tuple[int, _Outcome]]:
    if jobs == 1 or len(tasks) == 1:
        for index, task in enumerate(tasks):
            yield index, _one(*task)
        return
    from .render import progress

    # fork shares what is loaded already; where there is none, each process loads for itself.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
        futures: dict[Future[_Outcome], int] = {pool.submit(_one, *task): i for i, task in enumerate(tasks)}
        with progress(len(tasks)) as bar:
            line = bar.add_task("verifying", total=len(tasks), visible=not quiet)
            for future in as_completed(futures):
                index = futures[future]
                bar.update(line, advance=1, description=f"verifying {tasks[index][1]}")
                yield index, future.result()
