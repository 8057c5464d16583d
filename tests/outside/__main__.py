"""`python -m tests.outside [PART] ...`: what programs that nobody here wrote say of the project's output.

Without a part all of them are run, and the matrix is printed. The exit status is 1 if something failed.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from tests.outside.records import Cell, matrix

# Each is a module beside this one, with `options(parser)` for its options and `cells(options)` for what it finds.
PARTS = {
    "assembler": "Go's assembler and go vet over what we write for them, and the judge over Go's objects",
    "c": "into C: linked in each way by the cross gcc, between hostile assembly, from objects of GNU as and of clang",
    "go": "into Go itself: its own tests, and others, with functions of its runtime replaced",
    "windows": "Go's own Windows tests under wine, with callbacks and exception handlers replaced",
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.outside", description=__doc__)
    commands = parser.add_subparsers(dest="part", metavar="PART")
    modules = {name: importlib.import_module(f"tests.outside.{name}") for name in PARTS}
    for name, title in PARTS.items():
        modules[name].options(commands.add_parser(name, help=title, description=title))
    chosen = parser.parse_args(arguments)
    found: list[Cell] = []
    for name in [chosen.part] if chosen.part else PARTS:
        given = chosen if chosen.part else parser.parse_args([name])
        for cell in modules[name].cells(given):
            print(cell, flush=True)
            found.append(cell)
    print(f"\n{matrix(found)}")
    return 1 if any(cell.state == "failed" for cell in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
