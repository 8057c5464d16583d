"""A file of many trampolines: time for each of them must not grow with their number, and memory must stay bounded."""

from __future__ import annotations

import resource
import subprocess
import sys

from timing import processor_seconds

from trampoline_dsl.diagnostics import Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import find_target

SIZES = (500, 1000, 2000, 5000)
TARGET = "linux/arm64"
MOST_MEMORY = 1024  # MiB
MOST_GROWTH = 1.5  # of the time for one trampoline, from the smallest file to the largest

ONE = """
extern callee{n}(a: ptr, b: u32, c: uptr) -> i32 using go0
trampoline t{n}(a: ptr, b: u32, c: uptr) -> i32 using c {{
    save callee_saves
    if a == null {{ return -{n} }}
    let x = mem<uptr>(a + {n}) + c
    let r = call callee{n}(a, b, x)
    mem<u32>(a + 4) = b
    return r
}}
"""


def measure(count: int) -> tuple[float, float]:
    """Seconds to build a file of `count` trampolines, and the process's peak in MiB."""
    source = Source("many.tramp", "".join(ONE.format(n=n) for n in range(count)))
    start = processor_seconds()
    compiled = compile_source(source, [find_target(TARGET)])[TARGET]
    size = sum(len(artifact.code) for artifact in compiled.own)
    assert 0 < size < len(compiled.text)
    took = processor_seconds() - start
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    each = {}
    peak = 0.0
    print(f"{'trampolines':>11} {'seconds':>8} {'ms each':>8} {'peak MiB':>9}")
    for count in SIZES:
        # Each size in a process of its own: memory is measured by its peak.
        command = [sys.executable, __file__, str(count)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        took, peak = map(float, text.split())
        each[count] = took / count
        print(f"{count:11} {took:8.2f} {each[count] * 1e3:8.2f} {peak:9.0f}")
    growth = each[SIZES[-1]] / each[SIZES[0]]
    word = _word(growth, MOST_GROWTH)
    print(f"one of {SIZES[-1]} takes {growth:.2f} times as long as one of {SIZES[0]} ({word} {MOST_GROWTH})")
    print(f"peak memory: {peak:.0f} MiB ({_word(peak, MOST_MEMORY)} {MOST_MEMORY} MiB)")


def _word(value: float, most: float) -> str:
    return "within" if value <= most else "ABOVE"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*measure(int(sys.argv[1])))
    else:
        main()
