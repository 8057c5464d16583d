"""No trampoline has more code than the one that Go has written by hand: benchmarks/sizes.py prints the table."""

from __future__ import annotations

import runpy
from pathlib import Path

SIZES = runpy.run_path(str(Path(__file__).resolve().parent.parent / "benchmarks" / "sizes.py"))


def test_code_is_smaller_than_go_s() -> None:
    compared = 0
    for comparison in SIZES["comparisons"]():
        by_bytes, by_count = comparison.ratio
        assert by_bytes < 1, comparison
        assert by_count < 1 or comparison.ours.target.name in SIZES["MORE_INSTRUCTIONS"], comparison
        compared += 1
    assert compared == sum(map(len, SIZES["GO"].values()))
