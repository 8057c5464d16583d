"""Contracts without a body, and machine code from elsewhere that is to keep to them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from trampoline_dsl import compile_text, ir, verify_text
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import Image, read_image
from trampoline_dsl.diagnostics import InputError, Source, read_source
from trampoline_dsl.fmt import layout
from trampoline_dsl.image import FIRST_ADDRESS, Section, Symbol, definitions
from trampoline_dsl.machine_code import Code
from trampoline_dsl.objects import has_objects, make_object
from trampoline_dsl.pipeline import Artifact, Compiled, TableArtifact, compile_module
from trampoline_dsl.resolve import load_module, own_trampolines
from trampoline_dsl.target import Target
from trampoline_dsl.targets import default_targets
from trampoline_dsl.verify import Verdict, code_of, code_of_table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*/*.tramp"))

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


# ------------------------------------------------------------------------------------------- our own code as anybody's


@cache
def compiled(path: Path, target: Target) -> Compiled:
    return compile_module(load_module(read_source(path)), target)


def examples(target: Target) -> list[Path]:
    return [path for path in EXAMPLES if own_trampolines(load_module(read_source(path)), target)]


@cache
def image_of(path: Path, target: Target) -> Image:
    return read_image(make_object(target, compiled(path, target).text), f"{path.stem}.o")


def audited(program: Compiled, image: Image, runs: int = 2) -> tuple[Verdict, ...]:
    own = [*program.program.own, *program.program.own_contracts]
    symbols = definitions(image, own)
    assert set(symbols) == set(own)
    return audit(image, symbols, program, runs=runs)


def wrong(verdict: Verdict) -> list[str]:
    """What does not hold, but for ways that no check takes in so few runs."""
    return [f"{verdict.trampoline}: {v.obligation}: {v.message} ({v.instruction})" for v in verdict.violations] + [
        f"{verdict.trampoline}: {name}: {finding.reason}"
        for name, finding in verdict.obligations.items()
        if finding.state == "not run" and "never ran" not in finding.reason
    ]


WITH_OBJECTS = [t for t in default_targets() if has_objects(t)]
ELF = [t for t in WITH_OBJECTS if t.architecture.object_format == "elf"]


def by_name(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", WITH_OBJECTS, ids=by_name)
def test_our_own_objects_hold_with_a_body(target: Target) -> None:
    for path in examples(target):
        for verdict in audited(compiled(path, target), image_of(path, target)):
            assert not wrong(verdict)


# Without a body nobody knows that these never return, or write where pointers in memory lead; or they call what a
# parameter without a check points to.
NEED_A_BODY = {"sigreturn", "cgocallback", "cgocallback_go1.21", "my_write", "write_barrier", "runtime.sigfwd"}
NEED_A_BODY |= {"callbackasm", "runtime.sigresume", "runtime.firstcontinuetramp", "__restore_rt"}


def bodiless(program: Compiled) -> Compiled:
    """The same with the declarations alone: every struct that a parameter points to may be changed."""
    old = program.program
    contracts = {}
    for name in old.own:
        function = old.functions[name]
        contract = ir.Contract(tuple(p for p in function.parameters if p.type.struct), tuple(old.variables), True)
        contracts[name] = replace(function, body=(), slots=(), contract=contract)
    functions = {name: function for name, function in old.functions.items() if name not in contracts}
    externs = {**old.externs, **{name: contract.signature for name, contract in contracts.items()}}
    return replace(
        program,
        program=replace(
            old, functions=functions, externs=externs, contracts=contracts, own=(), own_contracts=tuple(contracts)
        ),
    )


@pytest.mark.parametrize("target", WITH_OBJECTS, ids=by_name)
def test_our_own_objects_hold_without_a_body(target: Target) -> None:
    judged = 0
    for path in examples(target):
        if path.stem in NEED_A_BODY:
            continue
        for verdict in audited(bodiless(compiled(path, target)), image_of(path, target)):
            if verdict.trampoline not in NEED_A_BODY:
                assert not wrong(verdict)
                # Of a switch it is the value that travels along.
                switches = compiled(path, target)[verdict.trampoline].function.suspension is not None
                assert verdict.obligations["effect"].state == ("held" if switches else "not applicable")
                judged += 1
    assert judged > 5


def image_of_bytes(program: Compiled) -> Image:
    """The bytes of each trampoline and table as a section of its own, without an assembler."""
    sections, symbols, relocations = [], [], []
    at = FIRST_ADDRESS
    for made in (*program.own, *program.own_tables):
        sections.append(Section(f".text.{made.name}", at, made.code, True, False))
        symbols.append(Symbol(made.name, at, len(made.code), "function", False, at, code_of_any(made).local_entry))
        relocations += [replace(r, offset=at + r.offset) for r in made.relocations]
        at = -(-(at + len(made.code)) // 64) * 64
    addresses = {symbol.name: symbol.address for symbol in symbols if symbol.address is not None}
    target = (program.target.name,)
    return Image("bytes", "raw", target, True, False, tuple(sections), tuple(symbols), tuple(relocations), addresses)


def code_of_any(made: Artifact | TableArtifact) -> Code:
    return code_of(made) if isinstance(made, Artifact) else code_of_table(made)


# One that has objects too, and those that no assembler writes any for.
BYTES = [t for t in default_targets() if t.name == "linux/mips64" or not has_objects(t)]


@pytest.mark.parametrize("target", BYTES, ids=by_name)
def test_our_own_bytes_hold(target: Target) -> None:
    for path in examples(target):
        program = compiled(path, target)
        for verdict in audited(program, image_of_bytes(program)):
            assert not wrong(verdict)
