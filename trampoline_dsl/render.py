"""What people see of a verdict: a table, the violations, and progress. The only module that knows rich."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TextIO

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .mutate import Mutation, MutationReport
from .verify import Finding, Report, Verdict
from .violation import OBLIGATIONS, Violation

_MARKS = {
    "held": ("✓", "green"),
    "violated": ("✗", "bold red"),
    "not run": ("?", "bold yellow"),
    "not applicable": ("–", "dim"),
}
_ASCII = {"✓": "+", "✗": "X", "?": "?", "–": "-"}
_CONTEXT = 3  # instructions shown before and behind one
_PLAIN_WIDTH = 144  # of text that is wrapped, where there is no terminal
_UNBOUNDED = 1 << 16  # columns; no table has as many


class _Console(Console):
    """A reader that leaves is the command's to answer."""

    def on_broken_pipe(self) -> None:
        raise  # what is being handled: a BrokenPipeError


def console(stream: TextIO, width: int | None = None) -> Console:
    """A console that colours on a terminal only, and heeds NO_COLOR. `width`: in columns, if not the terminal's."""
    if stream.isatty():
        return _Console(file=stream, width=width, highlight=False)
    width = width or _PLAIN_WIDTH
    return _Console(file=stream, width=width, color_system=None, highlight=False, legacy_windows=False)


def _print_table(stream: TextIO, wide: Table, narrow: Callable[[], Table]) -> None:
    """With no name cut short: the narrow table where a terminal is too narrow for the wide one."""
    out = console(stream)
    unbounded = out.options.update(width=_UNBOUNDED)
    width = out.measure(wide, options=unbounded).maximum
    if out.is_terminal and width > out.width:
        wide = narrow()
        width = max(out.width, out.measure(wide, options=unbounded).minimum)
    console(stream, width).print(wide)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def progress(total: int) -> Progress:
    """A bar on standard error, if that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def print_report(report: Report, stream: TextIO) -> None:
    """The table, what it cannot say in a mark, and every violation."""
    audited = any(v.object for v in report.verdicts)
    out = console(stream)
    shown = [name for name in OBLIGATIONS if any(_state(v, name) != "not applicable" for v in report.verdicts)]
    delivered = any(v.deliveries for v in report.verdicts)
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    ascii_only = "utf" not in encoding
    numbers = _numbered((v.trampoline, v.target, v.file) for v in report.verdicts)

    def table(columns: Sequence[str], cells: Callable[[Verdict], Sequence[Text]], justify: JustifyMethod) -> Table:
        made = _table(*(("object", "symbol") if audited else ("trampoline",)), "target")
        for name in columns:
            made.add_column(name, justify=justify, no_wrap=columns is shown)
        for name in ("paths", "runs", *(["deliveries"] if delivered else [])):
            made.add_column(name, justify="right", no_wrap=True)
        before = ""
        for verdict in report.verdicts:
            of = PurePath(verdict.object).name if audited else _named(verdict.trampoline, verdict.file, numbers)
            first = [of if of != before else "", *([verdict.symbol] if audited else [])]
            before = of
            counts = [f"{verdict.paths_run}/{verdict.paths_total}", str(verdict.runs)]
            if delivered:
                counts.append(str(verdict.deliveries))
            made.add_row(*map(Text, first), verdict.target, *cells(verdict), *counts)
        return made

    def marks(verdict: Verdict) -> list[Text]:
        return [_mark(_state(verdict, name), ascii_only) for name in shown]

    _print_table(
        stream,
        table(shown, marks, "center"),
        lambda: table(["obligations"], lambda verdict: [_in_words(verdict, shown, ascii_only)], "left"),
    )
    out.print()
    for line in _files(numbers):
        out.print(Text(line), soft_wrap=True)
    for line in _legend(report, shown, ascii_only):
        out.print(Text(line))
    for verdict in report.verdicts:
        if verdict.helpers:
            out.print(Text(f"{_called(verdict)} ran with it: {', '.join(verdict.helpers)}"), soft_wrap=True)
    for verdict in report.verdicts:
        for violation in verdict.violations:
            out.print()
            for line in violation_lines(violation, verdict):
                out.print(Text(line), soft_wrap=True)


def _numbered(judged: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], int]:
    """Of trampolines, each given with its target and its file, those that are in several files for one target, with
    numbers for the files."""
    files: dict[tuple[str, str], dict[str, None]] = {}
    for trampoline, target, file in judged:
        files.setdefault((trampoline, target), {})[file] = None
    same = dict.fromkeys((name, file) for (name, _), of in files.items() if len(of) > 1 for file in of)
    numbers = {file: number for number, file in enumerate(dict.fromkeys(file for _, file in same), 1)}
    return {(name, file): numbers[file] for name, file in same}


def _named(trampoline: str, file: str, numbers: Mapping[tuple[str, str], int]) -> str:
    number = numbers.get((trampoline, file))
    return trampoline if number is None else f"{trampoline} [{number}]"


def _files(numbers: Mapping[tuple[str, str], int]) -> Iterable[str]:
    for file, number in {file: number for (_, file), number in numbers.items()}.items():
        yield f"[{number}] {file}"


def _mark(state: str, ascii_only: bool) -> Text:
    mark, style = _MARKS[state]
    return Text(_ASCII[mark] if ascii_only else mark, style=style)


def _in_words(verdict: Verdict, shown: Sequence[str], ascii_only: bool) -> Text:
    """The obligations as one cell: how many held, and the names of the others."""
    by_state = {state: [name for name in shown if _state(verdict, name) == state] for state in _MARKS}
    held = len(by_state.pop("held"))
    told = [Text(f"{held} held", style=_MARKS["held"][1])] if held else []
    for state, names in by_state.items():
        if names:
            told.append(_mark(state, ascii_only).append(" " + ", ".join(names)))
    return Text("  ").join(told)


def _state(verdict: Verdict, name: str) -> str:
    return verdict.obligations[name].state


def _legend(report: Report, shown: Sequence[str], ascii_only: bool) -> Iterable[str]:
    states = {finding.state for v in report.verdicts for n, finding in v.obligations.items() if n in shown}
    marks = ((state, _MARKS[state][0]) for state in _MARKS if state in states)
    yield "   ".join(f"{_ASCII[mark] if ascii_only else mark} {state}" for state, mark in marks)
    hidden = [name for name in OBLIGATIONS if name not in shown]
    for name in hidden:
        why = {v.obligations[name].reason for v in report.verdicts}
        yield f"{name}: not applicable ({'; '.join(sorted(why))})"
    reasons: dict[str, list[str]] = {}
    for verdict in report.verdicts:
        for finding in verdict.obligations.values():
            if finding.state == "not run":
                reasons.setdefault(finding.reason, []).append(_called(verdict))
    for reason, places in reasons.items():
        yield f"not run: {reason}"
        yield "    " + ", ".join(dict.fromkeys(places))
    yield ""
    yield summary(report)


def summary(report: Report) -> str:
    """One line: how many verdicts, and the seed that repeats them."""
    good = sum(v.good for v in report.verdicts)
    runs = sum(v.runs for v in report.verdicts)
    deliveries = sum(v.deliveries for v in report.verdicts)
    counted = f"{runs} runs, {deliveries} deliveries" if deliveries else f"{runs} runs"
    trampolines = len({(v.object or v.file, v.symbol or v.trampoline) for v in report.verdicts})
    what = "function" if any(v.object for v in report.verdicts) else "trampoline"
    targets = len({v.target for v in report.verdicts})
    return (
        f"{good} of {len(report.verdicts)} hold: {trampolines} {what}{'s' * (trampolines != 1)} on {targets}"
        f" target{'s' * (targets != 1)}, {counted}, seed {report.seed}"
    )


def violation_lines(violation: Violation, verdict: Verdict) -> Iterable[str]:
    """A violation as the command and the pytest plugin show it."""
    where = violation.source or verdict.object or verdict.file
    yield f"{where}: violated[{violation.obligation}]: {_called(verdict)}: {violation.message}"
    place = violation.register or (f"memory {violation.memory:#x}" if violation.memory is not None else "")
    values = []
    if violation.expected is not None:
        values.append(f"expected {violation.expected:#x}")
    if violation.found is not None:
        values.append(f"found {violation.found:#x}")
    if place or values:
        yield f"  = {place}{': ' if place and values else ''}{', '.join(values)}"
    if violation.instruction is not None and violation.address is not None:
        yield f"  = at {violation.function}+{violation.address:#x}: {violation.instruction}"
        if violation.function == verdict.trampoline:
            yield from _around(verdict, violation.address)
    if violation.advice:
        yield f"  = {violation.advice}"
    if violation.check:
        yield f'  = in the check "{violation.check}"'


def _called(verdict: Verdict) -> str:
    name = verdict.symbol or verdict.trampoline
    return f"{name} on {verdict.target}"


def _around(verdict: Verdict, address: int) -> Iterable[str]:
    """The disassembly around an instruction of code that was not made here."""
    index = next((i for i, (offset, _) in enumerate(verdict.listing) if offset == address), None)
    if index is None:
        return
    first = max(0, index - _CONTEXT)
    for offset, text in verdict.listing[first : index + _CONTEXT + 1]:
        yield f"  {'>' if offset == address else ' '} {offset:#6x}  {text}"


def print_mutations(report: MutationReport, stream: TextIO) -> None:
    """How many mutants there were and what killed them, why some are none, and every survivor."""
    out = console(stream)
    killers = [name for name in OBLIGATIONS if any(name in m.killed for m in report.mutations)]
    numbers = _numbered((m.trampoline, m.target, m.file) for m in report.mutations)

    def table(columns: Sequence[str], cells: Callable[[Mutation], Sequence[str]]) -> Table:
        made = _table("trampoline", "target")
        for name in ("mutants", *columns, "equivalent", "survive"):
            made.add_column(name, justify="right", no_wrap=True)
        before = ""
        for mutation in report.mutations:
            of = _named(mutation.trampoline, mutation.file, numbers)
            first, before = of if of != before else "", of
            equivalent = str(sum(mutation.equivalent.values()) or "")
            surviving = Text(str(len(mutation.survivors)), style="" if mutation.good else "bold red")
            made.add_row(Text(first), mutation.target, str(mutation.total), *cells(mutation), equivalent, surviving)
        return made

    _print_table(
        stream,
        table(killers, lambda mutation: [str(mutation.killed.get(name, "")) for name in killers]),
        lambda: table(["killed"], lambda mutation: [str(sum(mutation.killed.values()) or "")]),
    )
    for line in _files(numbers):
        out.print(Text(line), soft_wrap=True)
    for mutation in report.mutations:
        for line in _survivors(mutation):
            out.print(Text(line), soft_wrap=True)
    out.print()
    reasons: Counter[str] = Counter()
    for mutation in report.mutations:
        reasons.update(mutation.equivalent)
    for reason, count in reasons.most_common():
        out.print(Text(f"{count} equivalent: {reason}"), soft_wrap=True)
    found = sum(sum(m.killed.values()) for m in report.mutations)
    left = sum(len(m.survivors) for m in report.mutations)
    total = sum(m.total for m in report.mutations)
    same = total - found - left
    out.print(f"{found} of {total} mutants killed, {same} equivalent, {left} survive, seed {report.seed}")


def _survivors(mutation: Mutation) -> Iterable[str]:
    where = f"{mutation.trampoline} on {mutation.target}"
    if mutation.problem:
        yield ""
        yield f"{mutation.file}: not run: {where}: {mutation.problem}"
    for survivor in mutation.survivors:
        yield ""
        yield f"{survivor.source}: survives[{survivor.operator}]: {where}: {survivor.change}"
        yield f"  = at {mutation.trampoline}+{survivor.address:#x}: {survivor.instruction}"


def finding_line(name: str, finding: Finding) -> str:
    """One obligation in words."""
    return f"{name}: {finding.state}" + (f" ({finding.reason})" if finding.reason else "")
