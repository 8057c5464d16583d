"""No trampoline has more code than the one that Go has written by hand: benchmarks/sizes.py prints the table."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from trampoline_dsl.pipeline import Artifact

SIZES = runpy.run_path(str(Path(__file__).resolve().parent.parent / "benchmarks" / "sizes.py"))


@pytest.mark.parametrize(
    "artifact", SIZES["artifacts"](), ids=lambda artifact: f"{artifact.name}-{artifact.target.name}"
)
def test_code_is_smaller_than_go_s(artifact: Artifact) -> None:
    by_bytes, by_count = SIZES["ratio"](artifact)
    assert by_bytes < 1
    assert by_count < 1
