"""Options that several parts have, and what they choose."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.outside.toolchain import Go, installed


def add_targets(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    parser.add_argument(
        "--target",
        metavar="T",
        action="append",
        choices=list(names),
        help="linux/arm64, ...; may be repeated (default: all)",
    )


def add_go(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--go", metavar="DIR", action="append", type=Path, help="a Go distribution (default: those installed)"
    )
    parser.add_argument(
        "--work", metavar="DIR", type=Path, help="where Go's cache and what is built are kept (default: nowhere)"
    )


@contextlib.contextmanager
def with_go(chosen: argparse.Namespace) -> Iterator[tuple[list[Go], Path]]:
    """The distributions that were chosen, and a folder to work in. Raises Missing."""
    distributions = [Go.at(folder.resolve()) for folder in chosen.go] if chosen.go else installed()
    with contextlib.ExitStack() as stack:
        work = chosen.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outside-")))
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        yield distributions, work
