"""The command `trampoline`. Everything heavy is imported when it is needed: `--help` has no use for a compiler."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from .audits import Request
    from .diagnostics import Diagnostic, Source
    from .target import Linkage, Target

_Name = TypeVar("_Name")
_Found = TypeVar("_Found")

_OK, _VIOLATED, _WRONG_INPUT, _BUG = 0, 1, 2, 3
_STANDARD_INPUT = "<stdin>"

_DESCRIPTION = """\
One source for the assembly that runtimes write by hand, for every machine, and a verdict by execution on each result:
does it keep the calling conventions on both of its sides?"""


# What others mean by such words.
_NOT_PROTECTED = (
    "return addresses are not signed (PAC): code that moves stacks and return addresses would have to sign them anew",
    "shadow stacks are not switched: a file where returns do not pair with calls is not marked for them",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        import re

        from .diagnostics import Diagnostic, InputError, suggestion

        notes = [" ".join(self.format_usage().split())]
        # In argparse's own words, which change from one Python to the next, this one is hard to read.
        choice = re.match(r"argument (.+?): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice:
            known = re.findall(r"[\w-]+", choice[3])
            message = f"argument {choice[1]}: there is no `{choice[2]}`"
            notes = [*suggestion(choice[2], known), "there are: " + " ".join(known), *notes]
        extra = re.match(r"argument --protect: ignored explicit argument '(.*)'", message)
        if extra:
            message = f"--protect makes landing pads, and no `{extra[1]}`"
            notes = [*_NOT_PROTECTED, *notes]
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            notes = [*suggestion(unknown[1], self._options()), *notes]
        raise InputError([Diagnostic("U001", message, None, notes=tuple(notes), file="trampoline")])

    def _options(self) -> Iterator[str]:
        """Its own options and those of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action.choices, dict):
                for command in action.choices.values():
                    yield from command._options()


class _Command(_Parser):
    """The parser of one command: files may stand before, behind and between its options."""

    _within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._within or "--" in (args or ()):  # behind `--` all are files, which argparse cannot tell of mixed ones
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            options, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False
        if unknown:
            self.error("unrecognized arguments: " + " ".join(unknown))
        return options, []


def parser() -> argparse.ArgumentParser:
    """The command line, complete."""
    top = _Parser(prog="trampoline", description=_DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the version and leave")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Command)

    build = commands.add_parser("build", help="compile trampolines to assembly, objects, bytes or JSON")
    build.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for stdin")
    _targets_option(build)
    _include_option(build)
    _pic_option(build)
    _protect_option(build)
    build.add_argument(
        "--syntax", choices=["gnu", "plan9"], default="gnu", help="gnu, or plan9: Go's assembler (default: gnu)"
    )
    build.add_argument(
        "--emit", choices=["asm", "bin", "json", "obj"], default="asm", help="what to write (default: asm)"
    )
    build.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="write a file for each target there, not to stdout; with --emit obj, LIBRARY.a for one static library",
    )
    build.set_defaults(run=_build)

    verify = commands.add_parser("verify", help="execute trampolines and judge each obligation")
    verify.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for stdin")
    _targets_option(verify)
    _include_option(verify)
    _pic_option(verify)
    _protect_option(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    verify.add_argument("--seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    verify.add_argument("--runs", type=_runs, default=16, metavar="N", help="executions of each check (default: 16)")
    verify.add_argument("--jobs", type=_runs, default=0, metavar="N", help="processes (default: one a core)")
    verify.set_defaults(run=_verify)

    audit = commands.add_parser(
        "audit", help="judge, by a trampoline's declaration, machine code that was made elsewhere"
    )
    audit.add_argument(
        "object", nargs="?", metavar="OBJECT", help="an object, executable, library or archive; or bytes"
    )
    audit.add_argument("--symbol", action="append", default=[], metavar="NAME", help="a function of it, or an address")
    audit.add_argument("--source", metavar="FILE[:TRAMPOLINE]", help="what says what the code is to keep to")
    audit.add_argument("--target", metavar="T", help="linux/s390x, ... (default: what the object is for)")
    audit.add_argument("--member", default="", metavar="M", help="of an archive, or the machine of a universal file")
    audit.add_argument("--base", type=_number, metavar="ADDRESS", help="OBJECT is bytes alone, which lie there")
    audit.add_argument("--manifest", metavar="FILE", help="a list of audits, in TOML")
    _include_option(audit)
    _protect_option(audit)
    audit.add_argument("--json", action="store_true", help="print one JSON document")
    audit.add_argument("--seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    audit.add_argument("--runs", type=_runs, default=16, metavar="N", help="executions of each check (default: 16)")
    audit.add_argument("--jobs", type=_runs, default=0, metavar="N", help="processes (default: one a core)")
    audit.set_defaults(run=_audit)

    mutate = commands.add_parser("mutate", help="make every small mistake in the code, and see that the judge finds it")
    mutate.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for stdin")
    _targets_option(mutate)
    _include_option(mutate)
    _pic_option(mutate)
    _protect_option(mutate)
    mutate.add_argument("--json", action="store_true", help="print one JSON document")
    mutate.add_argument("--seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    mutate.add_argument("--worlds", type=_runs, default=6, metavar="N", help="worlds for each check (default: 6)")
    mutate.add_argument("--jobs", type=_runs, default=0, metavar="N", help="processes (default: one a core)")
    mutate.set_defaults(run=_mutate)

    show = commands.add_parser("show", help="source, assembly, bytes and the frame as a picture")
    show.add_argument("file", metavar="FILE[:TRAMPOLINE]")
    _targets_option(show)
    _include_option(show)
    _pic_option(show)
    _protect_option(show)
    show.set_defaults(run=_show)

    trace = commands.add_parser("trace", help="a run, instruction by instruction")
    trace.add_argument("file", metavar="FILE[:TRAMPOLINE]")
    trace.add_argument("--target", action="append", metavar="T", help="the one to run on: linux/s390x, ...")
    _include_option(trace)
    _pic_option(trace)
    _protect_option(trace)
    trace.add_argument("--check", metavar="TITLE", help="the check to run, or a part of its title (default: any)")
    trace.add_argument("--seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    trace.add_argument("--runs", type=_runs, default=16, metavar="N", help="runs to look for a violation (default: 16)")
    trace.add_argument("--json", action="store_true", help="print one JSON document")
    trace.set_defaults(run=_trace)

    fmt = commands.add_parser("fmt", help="put files into the canonical layout")
    fmt.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for a filter")
    fmt.add_argument("--check", action="store_true", help="change nothing; list the files that would change")
    fmt.set_defaults(run=_fmt)

    targets = commands.add_parser("targets", help="what there is, and what each emits and runs")
    targets.add_argument("--json", action="store_true", help="print one JSON document")
    targets.set_defaults(run=_targets)

    convention = commands.add_parser("convention", help="what a convention keeps, where arguments go, and why")
    convention.add_argument("name", metavar="NAME", help="c, go0, or FILE:NAME for one that a file declares")
    _targets_option(convention)
    convention.set_defaults(run=_convention)
    return top


def _targets_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--target", action="append", metavar="T", help="linux/s390x, ...; may be repeated (default: all)"
    )


def _include_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-I", "--include", action="append", default=[], metavar="DIR", help="take headers of the same name from there"
    )


def _pic_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pic", action="store_true", help="position-independent code, for shared libraries and such executables"
    )


def _protect_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--protect", action="store_true", help="landing pads, where control may arrive by an address (BTI, IBT)"
    )


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _runs(text: str) -> int:
    value = _number(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000000")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 good, 1 an obligation does not hold, 2 wrong input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_standard_streams()
    as_json = "--json" in arguments or "--emit=json" in arguments or ("--emit", "json") in pairwise(arguments)
    outcome = _Outcome()
    try:
        _run(arguments, outcome)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_output()  # the reader has gone, and what it has not read does not change what was found
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _explained(error, as_json)
    finally:
        gc.enable()  # which a build turns off
    return outcome.status


@dataclass
class _Outcome:
    """What the command has found so far; written before it is printed."""

    status: int = _OK


def _run(arguments: Sequence[str], outcome: _Outcome) -> None:
    top = parser()
    options = top.parse_args(arguments)
    options.outcome = outcome
    if options.version:
        from importlib.metadata import version

        print(f"trampoline {version('trampoline-dsl')}")
    elif options.command is None:
        outcome.status = _WRONG_INPUT
        top.print_help()
    else:
        run: Callable[[argparse.Namespace], int] = options.run
        outcome.status = run(options)


def _explained(error: Exception, as_json: bool) -> int:
    """Tell what went wrong, and give the exit status for it."""
    from .diagnostics import Diagnostic, InputError

    if isinstance(error, OSError):
        # Files are read and written with diagnostics of their own: this is the standard output.
        _leave_output()
        message = f"cannot write there: {error.strerror or error}"
        error, as_json = InputError([Diagnostic("F005", message, None, file="standard output")]), False
    if isinstance(error, InputError):
        try:
            print_diagnostics(error.diagnostics, as_json=as_json)
            sys.stdout.flush()
        except OSError:
            _leave_output()
        return _WRONG_INPUT
    if os.environ.get("TRAMPOLINE_DEBUG"):
        raise error
    print(f"trampoline: internal error: {type(error).__name__}: {error}", file=sys.stderr)
    print("  = this is a bug in trampoline; TRAMPOLINE_DEBUG=1 shows where", file=sys.stderr)
    return _BUG


def _open_standard_streams() -> None:
    """Python has None for a stream that was closed before it began; and characters that a terminal lacks are shown by
    their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _leave_output() -> None:
    """Nothing more is written there, or Python would complain again when it flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def print_diagnostics(diagnostics: Sequence[Diagnostic], *, as_json: bool = False) -> None:
    """All of them: on standard error, in colour on a terminal; or as one JSON document on standard output."""
    from .diagnostics import MAXIMUM_DIAGNOSTICS, render

    if as_json:
        import json

        document = {"format": 1, "diagnostics": [diagnostic.as_json() for diagnostic in diagnostics]}
        print(json.dumps(document, indent=2))
        return
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    texts = []
    for diagnostic in diagnostics:
        text = render(diagnostic)
        if colour:
            text = text.replace(": error[", ": \033[1;31merror[", 1).replace("]: ", "]\033[0m: ", 1)
        texts.append(text)
    print("\n\n".join(texts), file=sys.stderr)
    count = len(diagnostics)
    if count > 1:
        more = ", and perhaps more" if count >= MAXIMUM_DIAGNOSTICS else ""
        print(f"\n{count} errors{more}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- inputs


def _chosen(options: argparse.Namespace) -> tuple[Target, ...]:
    """The targets that were named, or all that there is such code for; linked as the options say."""
    from .diagnostics import Diagnostic, InputError
    from .targets import default_targets, find_target

    linkage: Linkage = "static"
    if getattr(options, "syntax", "gnu") == "plan9":
        linkage = "go"
    if getattr(options, "pic", False):
        if linkage == "go":
            message = "position-independent code is in GNU syntax, not in plan9"
            raise InputError([Diagnostic("U008", message, None, file="--pic")])
        linkage = "pic"
    chosen = tuple(dict.fromkeys(_each(options.target, find_target))) if options.target else default_targets()
    without = [target.name for target in chosen if linkage not in target.architecture.linkages]
    if options.target and without:
        what = "position-independent code" if linkage == "pic" else "code for Go's assembler"
        raise InputError([Diagnostic("T003", f"{name} has no {what} yet", None, file="--target") for name in without])
    linked = [target.linked(linkage) for target in chosen if target.name not in without]
    return _protected(linked, options) if getattr(options, "protect", False) else tuple(linked)


def _protected(targets: Sequence[Target], options: argparse.Namespace) -> tuple[Target, ...]:
    """Those of the targets that have landing pads, with them. Raises InputError for one that was named and has none."""
    from .diagnostics import Diagnostic, InputError

    if getattr(options, "syntax", "gnu") == "plan9":
        message = f"landing pads are in GNU syntax: {targets[0].why_not_protected}"
        raise InputError([Diagnostic("U008", message, None, file="--protect")])
    without = [target for target in targets if target.why_not_protected]
    if options.target and without:
        messages = [f"{target.name} has no landing pads: {target.why_not_protected}" for target in without]
        raise InputError([Diagnostic("T003", message, None, file="--target") for message in messages])
    return tuple(target.protected() for target in targets if not target.why_not_protected)


def _meant(
    sources: Sequence[Source],
    targets: Sequence[Target],
    options: argparse.Namespace,
    trampoline: str | None = None,
) -> dict[Source, tuple[Target, ...]]:
    """Those of the targets that each file has trampolines for; all of them for a file that has none at all. Raises
    InputError where no file has one for a target that was asked for, or the one that is named has no body."""
    from .diagnostics import Diagnostic, InputError
    from .resolve import load_module, own_trampolines, refuse_bodiless
    from .targets import default_targets

    include = _include(options)
    modules = dict(zip(sources, _each(sources, lambda source: load_module(source, include)), strict=True))
    named = getattr(options, "files", None)
    for source, module in modules.items():
        if named is None or source.name in named:  # of a folder, what is only audited is passed over
            refuse_bodiless([module], targets, trampoline)
    refuse_bodiless(modules.values(), targets)
    meant = {one: tuple(t for t in targets if own_trampolines(module, t)) for one, module in modules.items()}
    without = [t for t in targets if not any(t in some for some in meant.values())]
    if without and (options.target or len(without) == len(targets)):
        there = " ".join(t.name for t in default_targets() if any(own_trampolines(m, t) for m in modules.values()))
        if there:
            one = len(sources) == 1
            message = f"{'this file has' if one else 'these files have'} no trampoline for"
            message += " " + " ".join(t.name for t in without)
            notes = (f"{'it has' if one else 'they have'} some for {there}",)
            raise InputError(
                [Diagnostic("T002", message, None, notes=notes, file=sources[0].name if one else "--target")]
            )
    return {source: some or (() if any(meant.values()) else tuple(targets)) for source, some in meant.items()}


def _each(names: Iterable[_Name], find: Callable[[_Name], _Found]) -> list[_Found]:
    """What each of them is. Raises InputError with all that is wrong with any of them."""
    from .diagnostics import InputError

    found = []
    errors: list[Diagnostic] = []
    for name in names:
        try:
            found.append(find(name))
        except InputError as error:
            errors += error.diagnostics
    if errors:
        raise InputError(errors)
    return found


def _include(options: argparse.Namespace) -> tuple[Path, ...]:
    """The folders of -I. One that is not there is a slip of the hand."""
    from .diagnostics import Diagnostic, InputError

    folders = tuple(Path(name) for name in options.include)
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError([Diagnostic("U004", "there is no such folder", None, file=str(f)) for f in missing])
    return folders


def _sources(names: Sequence[str], *, with_imported: bool = False) -> list[Source]:
    """The files of a command line, each once. Of a folder, those that declare a trampoline, or all of them."""
    known: dict[str, Source] = {}
    for sources in _each(dict.fromkeys(names), lambda name: _sources_of(name, with_imported)):
        for source in sources:
            known.setdefault(os.path.realpath(source.name), source)
    return list(known.values())


def _sources_of(name: str, with_imported: bool) -> list[Source]:
    from .diagnostics import MAXIMUM_SIZE, Diagnostic, InputError, decode_source, read_source

    if name == "-":
        try:
            data = sys.stdin.buffer.read(MAXIMUM_SIZE + 1)
        except OSError as error:
            message = f"cannot read this file: {error.strerror or error}"
            raise InputError([Diagnostic("F001", message, None, file=_STANDARD_INPUT)]) from None
        return [decode_source(_STANDARD_INPUT, data)]
    if not os.path.isdir(name):
        return [read_source(name)]
    paths = [path for path in sorted(Path(name).glob("**/*.tramp")) if path.is_file()]
    wanted = [source for source in _each(paths, read_source) if with_imported or declares_trampoline(source)]
    if not wanted:
        message = "there is no .tramp file" + ("" if with_imported else " with a trampoline") + " in this folder"
        raise InputError([Diagnostic("F004", message, None, file=name)])
    return wanted


def declares_trampoline(source: Source) -> bool:
    """Whether a file has a trampoline of its own, or is only there to be imported."""
    import re

    return re.search(r"^\s*trampoline\b", source.text, re.MULTILINE) is not None


def _one_source(name: str) -> Source:
    """The one file that is meant. Raises InputError for a folder of several."""
    from .diagnostics import Diagnostic, InputError

    sources = _sources([name])
    if len(sources) > 1:
        notes = ("there are: " + " ".join(source.name for source in sources),)
        raise InputError(
            [
                Diagnostic(
                    "U011", f"one file is wanted, and in this folder are {len(sources)}", None, notes=notes, file=name
                )
            ]
        )
    return sources[0]


def _split(name: str) -> tuple[str, str | None]:
    """FILE[:TRAMPOLINE]."""
    if os.path.exists(name) or name == "-":
        return name, None
    file, colon, trampoline = name.rpartition(":")
    return (file, trampoline) if colon else (name, None)


# ----------------------------------------------------------------------------------------------------------- commands


def _build(options: argparse.Namespace) -> int:
    from .assemble import answers_kept
    from .outputs import build_outputs
    from .pipeline import compile_source

    gc.disable()  # what a build makes lives to its end, and to look for garbage would take a third of it
    targets = _with_objects(_chosen(options), options) if options.emit == "obj" else _chosen(options)
    include = _include(options)
    meant = _meant(_sources(options.files), targets, options)
    compiled = _each(list(meant), lambda source: compile_source(source, meant[source], include))
    results = [one for by_target in compiled for one in by_target.values()]
    if options.emit == "obj" and options.output is not None and options.output.endswith(".a"):
        from .outputs import library, write_all

        path = Path(options.output)
        with answers_kept():
            made = library(results, path)
        write_all([made], path.parent)
        print(path)
        return _OK
    with answers_kept():
        outputs = build_outputs(results, options.emit, options.syntax)
    if options.output is None:
        texts = (output.data for output in outputs if not output.name.endswith(".go"))
        data = b"\n".join(texts) if options.emit == "asm" else _alone(outputs, options)
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return _OK
    from .outputs import write_all

    write_all(outputs, Path(options.output))
    for output in outputs:
        print(Path(options.output) / output.name)
    return _OK


def _with_objects(targets: tuple[Target, ...], options: argparse.Namespace) -> tuple[Target, ...]:
    """Those that objects can be made for, if none was named. Raises InputError for a syntax of another assembler."""
    from .diagnostics import Diagnostic, InputError
    from .objects import has_objects

    if options.syntax != "gnu":
        message = f"an object is made of GNU syntax, not of {options.syntax}"
        notes = ("Go's assembler writes its own objects of --emit asm",)
        raise InputError([Diagnostic("U008", message, None, notes=notes, file="--emit obj")])
    return targets if options.target else tuple(target for target in targets if has_objects(target))


def _alone(outputs: Sequence[object], options: argparse.Namespace) -> bytes:
    from .diagnostics import Diagnostic, InputError
    from .outputs import Output, joined_json

    made = [output for output in outputs if isinstance(output, Output)]
    if options.emit == "json":
        return joined_json(made)
    if len(made) != 1:
        pieces = "objects" if options.emit == "obj" else "pieces of machine code"
        message = f"{len(made)} {pieces} do not go to one standard output"
        notes = ("name one --target, or use -o DIR",)
        raise InputError([Diagnostic("U002", message, None, notes=notes, file=f"--emit {options.emit}")])
    return made[0].data


def _verify(options: argparse.Namespace) -> int:
    from .campaign import run_campaign

    def show(report: Any) -> None:
        from .render import print_report

        print_report(report, sys.stdout)

    return _reported(run_campaign, options.runs, show, options)


def _audit(options: argparse.Namespace) -> int:
    from .audits import run_audits

    requests = _requests(options)
    report = run_audits(requests, seed=options.seed, runs=options.runs, jobs=options.jobs, quiet=options.json)
    options.outcome.status = status = _OK if report.good else _VIOLATED
    if options.json:
        import json

        print(json.dumps(report.as_json(), indent=2))
    else:
        from .render import print_report

        print_report(report, sys.stdout)
    return status


def _requests(options: argparse.Namespace) -> Sequence[Request]:
    """What is to be audited. Raises InputError where the command line does not say."""
    from .audits import Request, read_manifest, split_source
    from .diagnostics import Diagnostic, InputError
    from .targets import find_target

    def wrong(message: str) -> InputError:
        usage = "trampoline audit OBJECT --symbol NAME --source FILE[:TRAMPOLINE], or audit --manifest FILE"
        return InputError([Diagnostic("U009", message, None, notes=(usage,), file="audit")])

    alone = ("object", "symbol", "source", "target", "member", "base", "include", "protect")
    if options.manifest is not None:
        said = [name for name in alone if getattr(options, name) not in (None, "", [], False)]
        if said:
            raise wrong(f"what a manifest says is not said beside it: {', '.join(said)}")
        return read_manifest(Path(options.manifest))
    if options.object is None:
        raise wrong("it is not said what to audit")
    if options.source is None:
        raise wrong("it is not said by what source: --source FILE[:TRAMPOLINE]")
    if not options.symbol and options.base is None:
        raise wrong(f"it is not said what of {options.object}: --symbol NAME")
    if options.target is not None:
        find_target(options.target)
    source, trampoline = split_source(options.source, Path())
    return [
        Request(
            Path(options.object),
            tuple(dict.fromkeys(options.symbol)),
            source,
            trampoline,
            options.target or "",
            options.member,
            options.base,
            _include(options),
            options.protect,
        )
    ]


def _mutate(options: argparse.Namespace) -> int:
    from .campaign import run_mutations

    def show(report: Any) -> None:
        from .render import print_mutations

        print_mutations(report, sys.stdout)

    return _reported(run_mutations, options.worlds, show, options)


def _reported(run: Callable[..., Any], times: int, show: Callable[[Any], None], options: argparse.Namespace) -> int:
    """Do something with every trampoline on every target, and tell what came of it."""
    targets = _chosen(options)
    sources = _sources(options.files)
    include = _include(options)
    _meant(sources, targets, options)
    report = run(sources, targets, options.seed, times, options.jobs, quiet=options.json, include=include)
    options.outcome.status = status = _OK if report.good else _VIOLATED
    if options.json:
        import json

        print(json.dumps(report.as_json(), indent=2))
    else:
        show(report)
    return status


def _show(options: argparse.Namespace) -> int:
    from .diagnostics import Diagnostic, InputError, suggestion
    from .outputs import shown
    from .pipeline import compile_source

    name, trampoline = _split(options.file)
    source = _one_source(name)
    targets = _meant([source], _chosen(options), options, trampoline)[source]
    compiled = compile_source(source, targets, _include(options))
    for target in targets:
        own = compiled[target.name].own
        chosen = [a for a in own if trampoline is None or a.name == trampoline]
        if not chosen:
            known = [a.name for a in own]
            notes = (*suggestion(trampoline or "", known), "there are: " + " ".join(known))
            message = f"there is no trampoline `{trampoline}` in this file"
            raise InputError([Diagnostic("R022", message, None, notes=notes, file=name)])
        for artifact in chosen:
            print(shown(artifact))
    return _OK


def _trace(options: argparse.Namespace) -> int:
    from .diagnostics import Diagnostic, InputError
    from .pipeline import compile_source
    from .targets import default_targets
    from .trace import trace

    name, trampoline = _split(options.file)
    chosen = _chosen(options)
    if not options.target or len(chosen) != 1:
        message = "a trace is of one target" + (f", not of {len(chosen)}" if options.target else "")
        notes = ("name one --target: " + " ".join(target.name for target in default_targets()),)
        raise InputError([Diagnostic("U006", message, None, notes=notes, file="trace")])
    source = _one_source(name)
    _meant([source], chosen, options, trampoline)
    compiled = compile_source(source, chosen, _include(options))[chosen[0].name]
    run = trace(compiled, trampoline, check=options.check, seed=options.seed, runs=options.runs)
    options.outcome.status = status = _OK if run.good else _VIOLATED
    if options.json:
        import json

        print(json.dumps(run.as_json(), indent=2))
    else:
        print(run)
    return status


def _fmt(options: argparse.Namespace) -> int:
    from .fmt import layout, rewrite

    sources = _sources(options.files, with_imported=True)
    texts = _each(sources, layout)  # nothing is written if one of them does not parse
    changed = [(source, text) for source, text in zip(sources, texts, strict=True) if text != source.text]
    options.outcome.status = status = _VIOLATED if options.check and changed else _OK
    for source, text in zip(sources, texts, strict=True):
        if source.name == _STANDARD_INPUT and not options.check:
            sys.stdout.write(text)
    for source, text in changed:
        if source.name == _STANDARD_INPUT and not options.check:
            continue
        if not options.check:
            rewrite(Path(source.name), text)
        print(source.name)
    return status


def _targets(options: argparse.Namespace) -> int:
    from .outputs import targets_json, targets_text

    print(targets_json() if options.json else targets_text())
    return _OK


def _convention(options: argparse.Namespace) -> int:
    from .diagnostics import Diagnostic, InputError, suggestion
    from .explain import explain

    file, name = (None, options.name)
    if ":" in options.name:
        file, _, name = options.name.rpartition(":")
    texts = []
    for target in _chosen(options):
        conventions = dict(target.conventions)
        if file is not None:
            from .pipeline import declared_conventions

            source = _one_source(file)
            conventions = declared_conventions(source, target)
        if name not in conventions:
            notes = (*suggestion(name, conventions), "there are: " + " ".join(conventions))
            message = f"{target.name} has no convention `{name}`"
            raise InputError([Diagnostic("R021", message, None, notes=notes, file="convention")])
        texts.append(explain(conventions[name], target))
    print("\n\n".join(texts))
    return _OK


if __name__ == "__main__":
    sys.exit(main())
