"""Verifies many files on many targets, on all cores, with progress. The verdicts do not depend on how it is divided."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from .diagnostics import Diagnostic, InputError, Source, merged
from .mutate import Mutation, MutationReport, mutate
from .pipeline import Compiled, compile_module
from .resolve import Module, check_module, load_module, refuse_bodiless
from .target import Linkage, Target
from .targets import find_target
from .verify import Report, Verdict, verify

Found = TypeVar("Found", Verdict, Mutation)
_Asked = TypeVar("_Asked")
_Made = TypeVar("_Made")
# What is done with each file on each target: with a seed and a number of runs, one result for each trampoline.
Work = Callable[[Compiled, int, int], tuple[Found, ...]]


@dataclass(frozen=True, slots=True)
class _Task(Generic[Found]):
    """One file on one target."""

    work: Work[Found]
    source: Source
    target: str
    linkage: Linkage
    protect: bool
    seed: int
    runs: int
    include: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Found]):
    """What came of a task: results, or what is wrong with the input."""

    found: tuple[Found, ...]
    diagnostics: tuple[Diagnostic, ...]


_include: list[Path] = []  # as the parsed modules had it
_modules: dict[Source, Module] = {}  # parsed before the processes are forked, so that each finds them


def _module(source: Source) -> Module:
    if source not in _modules:
        _modules[source] = load_module(source, _include)
    return _modules[source]


def _one(task: _Task[Found]) -> _Outcome[Found]:
    _use(task.include)
    try:
        target = find_target(task.target).linked(task.linkage)
        compiled = compile_module(_module(task.source), target.protected() if task.protect else target)
        compiled.assemble()
        return _Outcome(task.work(compiled, task.seed, task.runs), ())
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
    verdicts = _everywhere(_verified, "verifying", sources, targets, seed, runs, jobs, quiet, include)
    return Report(seed, verdicts)


def run_mutations(
    sources: Sequence[Source],
    targets: Sequence[Target],
    seed: int,
    worlds: int,
    jobs: int,
    *,
    quiet: bool = False,
    include: Sequence[Path] = (),
) -> MutationReport:
    """The mutants of every trampoline of every source on every target. Raises InputError as `run_campaign` does."""
    mutations = _everywhere(_mutated, "mutating", sources, targets, seed, worlds, jobs, quiet, include)
    return MutationReport(seed, mutations)


def _verified(compiled: Compiled, seed: int, runs: int) -> tuple[Verdict, ...]:
    return verify(compiled, seed=seed, runs=runs)


def _mutated(compiled: Compiled, seed: int, worlds: int) -> tuple[Mutation, ...]:
    return mutate(compiled, seed=seed, worlds=worlds)


def _everywhere(
    work: Work[Found],
    verb: str,
    sources: Sequence[Source],
    targets: Sequence[Target],
    seed: int,
    runs: int,
    jobs: int,
    quiet: bool,
    include: Sequence[Path],
) -> tuple[Found, ...]:
    _use(include)
    errors: list[Diagnostic] = []
    for source in sources:
        try:
            check_module(_module(source))
        except InputError as error:
            errors += error.diagnostics
    if errors:
        raise InputError(errors)
    refuse_bodiless([_module(source) for source in sources], targets)
    tasks = [
        _Task(work, source, target.name, a.linkage, a.protect, seed, runs, tuple(include))
        for source in sources
        for target in targets
        for a in (target.architecture,)
    ]
    outcomes = dict(in_processes(_one, tasks, lambda task: f"{verb} {task.target}", jobs, quiet))
    wrong: dict[str, list[Diagnostic]] = {target.name: [] for target in targets}
    for index, task in enumerate(tasks):
        wrong[task.target] += outcomes[index].diagnostics
    if any(wrong.values()):
        raise merged(wrong)
    return tuple(_in_order([outcomes[index].found for index in range(len(tasks))], len(targets)))


def _in_order(found: Sequence[tuple[Found, ...]], targets: int) -> Iterator[Found]:
    """Trampoline by trampoline, as a file declares them, and each on all targets: outcomes come file by file."""
    for start in range(0, len(found), targets):
        of_file = [one for of_target in found[start : start + targets] for one in of_target]
        for name in dict.fromkeys(one.trampoline for one in of_file):
            yield from (one for one in of_file if one.trampoline == name)


def in_processes(
    one: Callable[[_Asked], _Made], tasks: Sequence[_Asked], told: Callable[[_Asked], str], jobs: int, quiet: bool
) -> Iterator[tuple[int, _Made]]:
    """What comes of each task, with its number, as they are done: in so many processes, 0 for one a core. `told`: what
    is said of a task while it is worked on."""
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1 or len(tasks) <= 1:
        for index, task in enumerate(tasks):
            yield index, one(task)
        return
    from .render import progress

    # fork shares what is loaded already; where there is none, each process loads for itself.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    before = multiprocessing.active_children()
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin) as pool:
        futures: dict[Future[_Made], int] = {pool.submit(one, task): i for i, task in enumerate(tasks)}
        try:
            with progress(len(tasks)) as bar:
                line = bar.add_task("", total=len(tasks), visible=not quiet)
                for future in as_completed(futures):
                    index = futures[future]
                    bar.update(line, advance=1, description=told(tasks[index]))
                    yield index, future.result()
        except BaseException:
            # Whoever wants no more, by Ctrl-C or after an error, does not wait for what is still worked on.
            for process in multiprocessing.active_children():
                if process not in before:
                    process.terminate()
            raise


def _begin() -> None:
    """In a process of the pool, before its first task: it ends when its parent says so, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for all of them, and the parent's to answer
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
