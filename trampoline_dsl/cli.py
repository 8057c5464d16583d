"""The command `trampoline`. Everything heavy is imported when it is needed: `--help` has no use for a compiler."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from .diagnostics import Diagnostic, Source
    from .target import Target

_OK, _VIOLATED, _WRONG_INPUT, _BUG = 0, 1, 2, 3

_DESCRIPTION = """\
One source for the assembly that runtimes write by hand, for every machine, and a verdict by execution on each result:
does it keep the calling conventions on both of its sides?"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_WRONG_INPUT, f"trampoline: error[U001]: {message}\n  = {self.format_usage().strip()}\n")


def parser() -> argparse.ArgumentParser:
    """The command line, complete."""
    top = _Parser(prog="trampoline", description=_DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the version and leave")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    build = commands.add_parser("build", help="compile trampolines to assembly, bytes or JSON")
    build.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for stdin")
    _targets_option(build)
    _include_option(build)
    build.add_argument("--syntax", choices=["gnu"], default="gnu", help="assembly syntax (default: gnu)")
    build.add_argument("--emit", choices=["asm", "bin", "json"], default="asm", help="what to write (default: asm)")
    build.add_argument("-o", "--output", metavar="DIR", help="write a file for each target there, not to stdout")
    build.set_defaults(run=_build)

    verify = commands.add_parser("verify", help="execute trampolines and judge each obligation")
    verify.add_argument("files", nargs="+", metavar="FILE", help="a .tramp file, a folder of them, or - for stdin")
    _targets_option(verify)
    _include_option(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    verify.add_argument("--seed", type=_number, default=1, metavar="N", help="repeat a run (default: 1)")
    verify.add_argument("--runs", type=_runs, default=16, metavar="N", help="executions of each check (default: 16)")
    verify.add_argument("--jobs", type=_runs, default=0, metavar="N", help="processes (default: one a core)")
    verify.set_defaults(run=_verify)

    show = commands.add_parser("show", help="source, assembly, bytes and the frame as a picture")
    show.add_argument("file", metavar="FILE[:TRAMPOLINE]")
    _targets_option(show)
    _include_option(show)
    show.set_defaults(run=_show)

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
    top = parser()
    options = top.parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        print(f"trampoline {version('trampoline-dsl')}")
        return _OK
    if options.command is None:
        top.print_help()
        return _WRONG_INPUT
    run: Callable[[argparse.Namespace], int] = options.run
    return _guarded(run, options)


def _guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from .diagnostics import Diagnostic, InputError

    try:
        return run(options)
    except InputError as error:
        print_diagnostics(error.diagnostics)
        return _WRONG_INPUT
    except RecursionError:
        file = getattr(options, "file", None) or " ".join(getattr(options, "files", []))
        print_diagnostics([Diagnostic("S003", "this is nested too deeply", None, file=file)])
        return _WRONG_INPUT
    except BrokenPipeError:
        # The reader has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OK
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("TRAMPOLINE_DEBUG"):
            raise
        print(f"trampoline: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  = this is a bug in trampoline; TRAMPOLINE_DEBUG=1 shows where", file=sys.stderr)
        return _BUG


def print_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """All of them, on standard error; in colour on a terminal."""
    from .diagnostics import render

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
        print(f"\n{count} errors", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- inputs


def _chosen(options: argparse.Namespace) -> tuple[Target, ...]:
    from .targets import default_targets, find_target

    if not options.target:
        return default_targets()
    return tuple(dict.fromkeys(find_target(name) for name in options.target))


def _include(options: argparse.Namespace) -> tuple[Path, ...]:
    """The folders of -I. One that is not there is a slip of the hand."""
    from .diagnostics import Diagnostic, InputError

    folders = tuple(Path(name) for name in options.include)
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError([Diagnostic("U004", "there is no such folder", None, file=str(f)) for f in missing])
    return folders


def _sources(names: Sequence[str]) -> Iterator[Source]:
    """The files of a command line. Of a folder, those that declare a trampoline."""
    from .diagnostics import Diagnostic, InputError, decode_source, read_source

    for name in names:
        if name == "-":
            yield decode_source("<stdin>", sys.stdin.buffer.read((4 << 20) + 1))
        elif Path(name).is_dir():
            found = [read_source(path) for path in sorted(Path(name).glob("**/*.tramp"))]
            wanted = [source for source in found if declares_trampoline(source)]
            if not wanted:
                message = "there is no .tramp file with a trampoline in this folder"
                raise InputError([Diagnostic("F004", message, None, file=name)])
            yield from wanted
        else:
            yield read_source(name)


def declares_trampoline(source: Source) -> bool:
    """Whether a file has a trampoline of its own, or is only there to be imported."""
    import re

    return re.search(r"^\s*trampoline\b", source.text, re.MULTILINE) is not None


def _split(name: str) -> tuple[str, str | None]:
    """FILE[:TRAMPOLINE]."""
    if Path(name).exists() or name == "-":
        return name, None
    file, colon, trampoline = name.rpartition(":")
    return (file, trampoline) if colon else (name, None)


# ----------------------------------------------------------------------------------------------------------- commands


def _build(options: argparse.Namespace) -> int:
    from .outputs import build_outputs
    from .pipeline import compile_source

    targets = _chosen(options)
    results = []
    for source in _sources(options.files):
        compiled = compile_source(source, targets, _include(options))
        results += [compiled[target.name] for target in targets]
    outputs = build_outputs(results, options.emit)
    if options.output is None:
        data = b"\n".join(output.data for output in outputs) if options.emit == "asm" else _alone(outputs, options)
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return _OK
    from .outputs import write_all

    write_all(outputs, Path(options.output))
    for output in outputs:
        print(Path(options.output) / output.name)
    return _OK


def _alone(outputs: Sequence[object], options: argparse.Namespace) -> bytes:
    from .diagnostics import Diagnostic, InputError
    from .outputs import Output, joined_json

    made = [output for output in outputs if isinstance(output, Output)]
    if options.emit == "json":
        return joined_json(made)
    if len(made) != 1:
        message = f"{len(made)} pieces of machine code do not go to one standard output"
        raise InputError([Diagnostic("U002", message, None, notes=("name one --target, or use -o DIR",), file="--emit bin")])
    return made[0].data


def _verify(options: argparse.Namespace) -> int:
    from .campaign import run_campaign

    targets = _chosen(options)
    sources = list(_sources(options.files))
    report = run_campaign(sources, targets, options.seed, options.runs, options.jobs, quiet=options.json, include=_include(options))
    if options.json:
        import json

        print(json.dumps(report.as_json(), indent=2))
    else:
        from .render import print_report

        print_report(report, sys.stdout)
    return _OK if report.good else _VIOLATED


def _show(options: argparse.Namespace) -> int:
    from .diagnostics import Diagnostic, InputError, suggestion
    from .outputs import shown
    from .pipeline import compile_source

    name, trampoline = _split(options.file)
    (source, *_) = list(_sources([name]))
    targets = _chosen(options)
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

            (source, *_) = list(_sources([file]))
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
