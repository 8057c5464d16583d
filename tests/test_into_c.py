"""The programs of tests/outside/c.py find what they are there to find. `python -m tests.outside c` runs all of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cross import need_machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.outside.c import SHARED, SOURCE, WAYS, Failure, Way, compiled_text, run

# Of what an epilogue gives back, and of gp and the table of contents behind a call.
RESTORES = {
    "linux/amd64": r"\tpop r\w+",
    "linux/mips": r"\t(lw \$s\d.*|move \$gp, .*|lw \$gp, .*)",
    "linux/ppc64le": r"\tld %r(1[4-9]|2\d|3[01]|2),.*",
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("target", ["linux/amd64", "linux/mips"])
def test_registers_and_memory_are_what_they_have_to_be(target: str, way: Way, tmp_path: Path) -> None:
    need_machine(target)
    run(target, way, tmp_path)


@pytest.mark.parametrize("target", ["linux/386", "linux/arm", "linux/mips", "linux/s390x"])
def test_code_for_a_fixed_place_is_no_part_of_a_shared_library(target: str, tmp_path: Path) -> None:
    need_machine(target)
    with pytest.raises(Failure, match=r"shared library: \S+gcc: "):
        run(target, SHARED, tmp_path, text=compiled_text(SOURCE, target, "static"))


def broken(target: str, text: str) -> Iterator[tuple[str, str]]:
    """The text without one restore each in the first two functions, and what that was. In others the callee may be of
    the same module, and leave what is its module's."""
    lines = text.splitlines(keepends=True)
    end = next(index for index, line in enumerate(lines) if line.startswith(".size through"))
    for index, line in enumerate(lines[:end]):
        if re.fullmatch(RESTORES[target], line.rstrip("\n")):
            yield line.strip(), "".join([*lines[:index], *lines[index + 1 :]])


@pytest.mark.parametrize("target", RESTORES)
def test_a_register_that_is_not_given_back_is_found(target: str, tmp_path: Path) -> None:
    need_machine(target)
    found = list(broken(target, compiled_text(SOURCE, target, SHARED.linkage)))
    unseen = []
    for restore, text in found:
        try:
            run(target, SHARED, tmp_path, text=text)
        except Failure:
            continue
        unseen.append(restore)
    assert found
    assert not unseen
