"""docs/json.md has every field of every document, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_diagnostics import ROOT, run

DOCUMENT = (ROOT / "docs" / "json.md").read_text("utf-8")
# A fault that mutants survive, a signal, a callee with a script, a jump, a branch, a table and two stacks.
SOURCE = """\
extern f(x: u32) -> u32 using c
trampoline t(x: u32) -> u32 using c {
    asm amd64 { "xor ebx, ebx" }
    if x == 0 { jump f(x) }
    return call f(x)
}
check t "any" { on f(x) { return 3 } }
trampoline moved(top: uptr) using c { on stack top { let x = call f(1) } }
trampoline entered() using c {
    let x = call f(table index as u32)
    return
}
table entries[4] enters entered
"""
COMMANDS = {
    "build --emit json": [["build", "t.tramp", "--emit", "json", "-o", "out"]],
    "mutate --json": [["mutate", "t.tramp", "--json", "--worlds", "1"]],
    "trace --json": [["trace", "t.tramp:t", "--json"], ["trace", "t.tramp:moved", "--json"]],
    "targets --json": [["targets", "--json"]],
}
OPEN = re.compile(r"(killed|equivalent)\..*")  # objects by names that are none of the format
VIOLATIONS = re.compile(r"violations\[\]\..*")  # docs/judging.md's
PLACES = r"steps\[\]\.(?:arguments\[\]|changes\[\]|result)\."


def section(command: str) -> str:
    return DOCUMENT.split(f"## `{command}`\n")[1].split("\n## ")[0]


def documented(command: str) -> set[str]:
    rows = re.findall(r"^\| (`.*?`) \| .*\|$", section(command), re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`([^`]+)`", row)}


def fields(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}".lstrip(".")
            yield from fields(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")


def told(field: str) -> str:
    """A field as the document names it."""
    return VIOLATIONS.sub("violations", OPEN.sub(r"\1", re.sub(PLACES, "P.", field)))


@pytest.mark.parametrize("command", COMMANDS)
def test_all_fields_are_documented_and_no_others(command: str, tmp_path: Path) -> None:
    (tmp_path / "t.tramp").write_text(SOURCE)
    found: set[str] = set()
    for arguments in COMMANDS[command]:
        target = [] if arguments[0] == "targets" else ["--target", "linux/amd64"]
        _, out, err = run([*arguments, *target], tmp_path)
        assert err == ""
        made = json.loads((tmp_path / out.strip()).read_text() if "-o" in arguments else out)
        assert made["format"] == 1
        found |= set(map(told, fields(made)))
    # Of what holds other documented fields alone, only those are documented.
    leaves = {f for f in found if not any(o.startswith((f + "[]", f + ".")) for o in found) or f in documented(command)}
    assert leaves == documented(command)
