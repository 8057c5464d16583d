"""Contracts without a body, and machine code from elsewhere that is to keep to them."""

from __future__ import annotations

import pytest

from trampoline_dsl import compile_text, verify_text
from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.fmt import layout

MIXED = """\
struct context { sp: uptr }
extern total: u32
trampoline swap(from: ptr<context>, to: ptr<context>) using c writes from, total switches
trampoline twice(x: ptr<context>, y: ptr<context>) using c {
    call swap(x, y)
    call swap(y, x)
}
check swap { given { total = 1 } }
check twice { on swap(from, to) { from.sp = to.sp } }
"""


def test_a_contract_is_an_extern_to_others() -> None:
    program = compile_text(MIXED, "linux/amd64").program
    assert program.own == ("twice",)
    assert program.own_contracts == ("swap",)
    assert "swap" in program.externs
    assert "swap" not in program.functions
    contract = program.contracts["swap"].contract
    assert contract is not None
    assert [p.name for p in contract.parameters] == ["from"]
    assert contract.variables == ("total",)
    assert contract.switches
    assert {s.trampoline for s in program.scenarios} == {"swap", "twice"}


def test_what_has_a_body_is_judged_beside_it() -> None:
    report = verify_text(MIXED, "linux/amd64", runs=2)
    assert [v.trampoline for v in report.verdicts] == ["twice"]
    assert report.good


def test_a_contract_alone_is_not_verified() -> None:
    with pytest.raises(InputError) as caught:
        verify_text("trampoline f(x: uptr) using c", "linux/amd64")
    assert [d.code for d in caught.value.diagnostics] == ["R096"]


def test_the_layout_of_contracts() -> None:
    assert layout(Source("<text>", MIXED)) == MIXED
    text = "trampoline f( a:ptr<s> )using c\n writes a ,b.c\n   switches\nwhen arm{trampoline g()using c}\n"
    assert layout(Source("<text>", text)) == (
        "trampoline f(a: ptr<s>) using c\n    writes a, b.c\n    switches\nwhen arm {\n    trampoline g() using c\n}\n"
    )
