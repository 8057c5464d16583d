"""A zero that is stored takes no register on machines that have another way, whatever its width and place."""

from __future__ import annotations

import pytest

from trampoline_dsl.diagnostics import Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import default_targets, find_target
from trampoline_dsl.verify import verify

PROGRAM = """
struct block {
    a: u8  b: u16  c: u32  d: uptr  e: u64  f: u8  g: uptr
    h: u8 @ 4095  i: uptr @ 4096  j: u32 @ 8200  k: uptr @ 12000  l: u16 @ 12010
}
extern take(a: ptr, b: u32, c: uptr) using go0

trampoline clear(p: ptr<block>) using c {
    save callee_saves
    frame { kept: uptr }
    kept = 0
    p.a = 0
    p.b = 0
    p.c = 0
    p.d = null
    p.e = 0
    p.f = 0
    p.g = 0
    p.h = 0
    p.i = 0
    p.j = 0
    p.k = 0
    p.l = 0
    call take(p, 0, 0)
    p.i = kept
    return
}
"""
WITHOUT_REGISTER = {
    "linux/arm64": "xzr",
    "linux/mips": "$zero",
    "linux/mipsle": "$zero",
    "linux/mips64": "$zero",
    "linux/mips64le": "$zero",
    "linux/s390x": "mvghi",
    "windows/arm64": "xzr",
}


@pytest.mark.parametrize("target", [target.name for target in default_targets()])
def test_zeros_of_every_width_arrive(target: str) -> None:
    compiled = compile_source(Source("zeros.tramp", PROGRAM), [find_target(target)])[target]
    (verdict,) = verify(compiled)
    assert verdict.good, str(verdict.obligations["effect"])
    assert target not in WITHOUT_REGISTER or WITHOUT_REGISTER[target] in compiled.text


def test_machines_without_another_way_use_a_register() -> None:
    without = {target.name for target in default_targets() if target.architecture.zero is not None}
    assert without == set(WITHOUT_REGISTER)
