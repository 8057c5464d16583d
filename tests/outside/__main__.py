"""`python -m tests.outside [PART] ...`: what programs that nobody here wrote say of the project's output.

Without a part all of them are run; `--update` puts their tables into the README. The exit status is 1 if something
failed, or is not what the README says of it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.outside.records import Cell, in_matrix, matrix, shown

# Each is a module beside this one, with `options(parser)` for its options and `cells(options)` for what it finds.
PARTS = {
    "assembler": "Go's assembler and go vet over what we write for them, and the judge over Go's objects",
    "c": "into C: linked in each way by the cross gcc, between hostile assembly, from objects of GNU as and of clang",
    "unwind": "libgcc's unwinder finds its way through frames of trampolines, and across a switch of stacks",
    "go": "into Go itself: its own tests, and others, with functions of its runtime replaced",
    "windows": "Go's own Windows tests under wine, with callbacks and exception handlers replaced",
    "audit": "the judge over functions of an unchanged Go's runtime, in what its linker made",
}


# What is shown in one table.
TABLES = (("assembler", "c", "unwind"), ("go",), ("windows",), ("audit",))

README = Path(__file__).resolve().parents[2] / "README.md"
PLACE = re.compile(r"(?<=<!-- make outside -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.outside", description=__doc__)
    commands = parser.add_subparsers(dest="part", metavar="PART")
    modules = {name: importlib.import_module(f"tests.outside.{name}") for name in PARTS}
    for name, title in PARTS.items():
        modules[name].options(commands.add_parser(name, help=title, description=title))
    parser.add_argument("--update", action="store_true", help="put the tables of all parts into the README")
    chosen = parser.parse_args(arguments)
    found: dict[str, list[Cell]] = {}
    for name in [chosen.part] if chosen.part else PARTS:
        given = chosen if chosen.part else parser.parse_args([name])
        found[name] = []
        for cell in modules[name].cells(given):
            print(cell, flush=True)
            found[name].append(cell)
    tables = [matrix([cell for name in names for cell in found.get(name, ())]) for names in TABLES]
    text = "\n" + "\n\n".join(table for table in tables if table) + "\n\n"
    print(text)
    if chosen.update and not chosen.part:
        README.write_text(PLACE.sub(lambda _: text, README.read_text("utf-8")), "utf-8")
    cells = [cell for some in found.values() for cell in some]
    other = _other_than_the_readme(cells, all_=not chosen.part)
    if other:
        print("The README says something else of " + ", ".join(other) + "; --update renews it.")
    return 1 if other or any(cell.state == "failed" for cell in cells) else 0


def _other_than_the_readme(cells: Sequence[Cell], *, all_: bool) -> list[str]:
    """The cells of which the README's tables say something else, but for counts and for what was run a second time."""
    readme = PLACE.search(README.read_text("utf-8"))
    said = in_matrix(readme[0]) if readme is not None else {}
    passing = re.compile(r" \(second run: [^)]*\)|\d+")
    return [
        f"{cell.target} {cell.column}"
        for cell in cells
        if ((cell.target, cell.column) in said or all_)
        and passing.sub("", said.get((cell.target, cell.column), "")) != passing.sub("", shown(cell))
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
