"""`python -m tests.outside [PART] ...`: what programs that nobody here wrote say of the project's output.

Without a part all of them are run, and their tables compared with those of the README, where `--update` puts them. The
exit status is 1 if something failed, or is not what the README says.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

from tests.outside.records import Cell, matrix

# Each is a module beside this one, with `options(parser)` for its options and `cells(options)` for what it finds.
PARTS = {
    "assembler": "Go's assembler and go vet over what we write for them, and the judge over Go's objects",
    "c": "into C: linked in each way by the cross gcc, between hostile assembly, from objects of GNU as and of clang",
    "go": "into Go itself: its own tests, and others, with functions of its runtime replaced",
    "windows": "Go's own Windows tests under wine, with callbacks and exception handlers replaced",
}


# What is shown in one table.
TABLES = (("assembler", "c"), ("go",), ("windows",))

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
    failed = any(cell.state == "failed" for cells in found.values() for cell in cells)
    return 1 if failed or (not chosen.part and not _as_the_readme_says(text, update=chosen.update)) else 0


def _as_the_readme_says(text: str, *, update: bool) -> bool:
    """Whether the README has these tables, but for counts and for what was run a second time; or has them now."""
    readme = README.read_text("utf-8")
    if update:
        README.write_text(PLACE.sub(lambda _: text, readme), "utf-8")
        return True
    said = PLACE.search(readme)
    passing = re.compile(r" \(second run: [^)]*\)|\d+")
    if said is not None and passing.sub("", said[0]) == passing.sub("", text):
        return True
    print("The README says something else; --update renews it.")
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
