"""Programs that some tests compare with: assemblers, compilers, linkers of the machines."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = "TRAMPOLINE_REQUIRE_TOOLS"  # set where everything is installed, so that nothing is left out unnoticed


def need(program: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where tools are required."""
    return shutil.which(program) or missing(program)


def missing(what: str) -> NoReturn:
    """Something is not installed: the test is skipped, or fails where tools are required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what} is not installed, and {REQUIRED} is set")
    pytest.skip(f"{what} is not installed")  # never in CI, which says that they are required


def need_host(where: str, why: str) -> NoReturn:
    """Some tests call machine code in this process. On another host than `where` they are skipped; where tools are
    required, which is such a host, that is a failure."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{why}: this is not {where}, and {REQUIRED} is set")
    pytest.skip(why)  # never in CI, as above
