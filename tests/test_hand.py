"""Assembly that people write, audited on every target: what is right holds, and each mistake is found for what it is.

The functions are in hand/right.py, the mistakes in hand/wrong.py, what they have to keep to in hand/contracts.tramp."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hand.ready import READY
from hand.right import RIGHT, text_of
from hand.wrong import MISTAKES, Mistake, lines_of
from switches import SWITCHES
from tools import need

from trampoline_dsl import compile_text
from trampoline_dsl.audit import audit
from trampoline_dsl.binary import read_image
from trampoline_dsl.diagnostics import Source, read_source
from trampoline_dsl.image import Image, find_symbol
from trampoline_dsl.pipeline import Compiled, compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.targets import find_target
from trampoline_dsl.verify import Verdict

HAND = Path(__file__).parent / "hand"
CONTRACTS = Path(__file__).parent.parent / "examples" / "contracts"


@cache
def contracts(target: str, file: str, checked: bool = True) -> Compiled:
    """A file's declarations for a target, with its checks or without."""
    text = (HAND / file).read_text("utf-8")
    source = Source(file, text if checked else text[: text.index("\ncheck ")])
    return compile_module(load_module(source), find_target(target))


def assembled(target: str, functions: dict[str, str]) -> Image:
    command = find_target(target).architecture.gnu_as
    need(command[0])
    with tempfile.TemporaryDirectory(prefix="hand-") as folder:
        made = Path(folder, "hand.o")
        written = text_of(target, functions).encode()
        done = subprocess.run([*command, "-o", str(made), "-"], input=written, capture_output=True, timeout=60)
        assert not done.returncode, done.stderr.decode()
        return read_image(made.read_bytes(), made.name)


@cache
def right(target: str) -> Image:
    return assembled(target, RIGHT[target])


@cache
def wrong(target: str) -> Image:
    """All mistakes of a target in one object, each in a function of its own."""
    return assembled(target, {name: "\n".join(lines) for name, lines in mistaken(target).items()})


def mistaken(target: str) -> dict[str, list[str]]:
    return {
        f"{mistake.function}_{number}": mistake.edit(lines_of(RIGHT[target][mistake.function]))
        for number, mistake in enumerate(MISTAKES[target])
    }


def judged(target: str, image: Image, function: str, symbol: str, program: Compiled) -> Verdict:
    [verdict] = audit(image, {function: find_symbol(image, symbol)}, program, runs=4)
    return verdict


def states(verdict: Verdict) -> dict[str, str]:
    return {name: f"{finding.state}: {finding.reason}" for name, finding in verdict.obligations.items()}


@pytest.mark.parametrize("file", ["contracts.tramp", "bodies.tramp"])
@pytest.mark.parametrize("target", RIGHT)
def test_right_ones_hold(target: str, file: str) -> None:
    for function in RIGHT[target]:
        verdict = judged(target, right(target), function, function, contracts(target, file))
        assert not verdict.violations
        applies = {name for name, finding in verdict.obligations.items() if finding.state != "not applicable"}
        assert all(verdict.obligations[name].state == "held" for name in applies), states(verdict)
        assert {"preserve", "sp", "args", "below", "bounds", "writes", "reads", "flow"} <= applies
        assert ("effect" in applies) == (file == "bodies.tramp")


@pytest.mark.parametrize(
    ("target", "number", "mistake"),
    [
        pytest.param(target, number, mistake, id=f"{target}-{mistake.function}: {mistake.kind}")
        for target, mistakes in MISTAKES.items()
        for number, mistake in enumerate(mistakes)
    ],
)
def test_each_mistake_is_found(target: str, number: int, mistake: Mistake) -> None:
    program = contracts(target, "contracts.tramp", mistake.checked)
    verdict = judged(target, wrong(target), mistake.function, f"{mistake.function}_{number}", program)
    found = [(v.obligation, v.register, v.message) for v in verdict.violations]
    if mistake.obligation:
        assert any(o == mistake.obligation and mistake.register in (r, "") for o, r, _ in found), found
    else:
        assert not found
        assert not any(finding.state == "not run" for finding in verdict.obligations.values()), states(verdict)


@cache
def ready_contracts(target: str, file: str) -> Compiled:
    source = read_source(CONTRACTS / f"{file}.tramp")
    return compile_module(load_module(source), find_target(target))


@cache
def ready_image(target: str) -> Image:
    """What is written for the ready contracts, and each mistake in it, in one object."""
    functions = {}
    for number, ready in enumerate(READY):
        if ready.target == target:
            functions[f"ready_{number}"] = ready.text
            for mistake, (edit, _, _) in enumerate(ready.mistakes):
                functions[f"ready_{number}_{mistake}"] = "\n".join(edit(lines_of(ready.text)))
    return assembled(target, functions)


def judged_by_contract(number: int, symbol: str) -> Verdict:
    ready = READY[number]
    file, _, trampoline = ready.contract.partition(":")
    return judged(ready.target, ready_image(ready.target), trampoline, symbol, ready_contracts(ready.target, file))


@pytest.mark.parametrize("number", range(len(READY)), ids=[f"{r.target}-{r.contract}" for r in READY])
def test_ready_contracts_hold_and_find(number: int) -> None:
    verdict = judged_by_contract(number, f"ready_{number}")
    assert not verdict.violations
    assert not any(finding.state == "not run" for finding in verdict.obligations.values()), states(verdict)
    for mistake, (_, obligation, register) in enumerate(READY[number].mistakes):
        found = judged_by_contract(number, f"ready_{number}_{mistake}").violations
        told = [(v.obligation, v.register, v.message) for v in found]
        assert any(o == obligation and register in (r, "") for o, r, _ in told), (mistake, told)


LEAVES = """
extern go_enter() using go0
extern pops(a: uptr) using stdcall
trampoline bridge() using c
trampoline thunk(a: uptr) using c
"""


def test_what_is_jumped_to_has_to_keep_as_much() -> None:
    """It returns to the caller, who relies on what the trampoline's convention says."""
    image = assembled("linux/386", {"bridge": "jmp go_enter", "thunk": "jmp pops"})
    program = compile_text(LEAVES, "linux/386")
    lost = judged("linux/386", image, "bridge", "bridge", program).violations
    assert {v.register for v in lost if v.obligation == "preserve"} >= {"ebx", "ebp", "esi", "edi"}
    popped = judged("linux/386", image, "thunk", "thunk", program).violations
    assert [v.obligation for v in popped] == ["sp"]


NAMES = {"swap": "swap_context", "jump": "jump_fcontext", "set": "set_jump", "long": "long_jump"}
RETURNS = {"arm": "bx lr", "arm64": "ret", "mips": "jr $ra", "ppc64": "blr", "s390x": "br %r14"}


@cache
def switches(target: str) -> Image:
    """The context switches of switches.py as an object, under the names of the ready contracts."""
    back = RETURNS.get(find_target(target).architecture.family, "ret")
    functions = {}
    for name, text in SWITCHES[target].items():
        lines = [line.removeprefix("SLOT ") for line in lines_of(text)]
        functions[NAMES[name]] = "\n".join(line.removeprefix("RETURN").strip() or back for line in lines)
    return assembled(target, functions)


@pytest.mark.parametrize("target", SWITCHES)
def test_context_switches_hold_by_the_ready_contracts(target: str) -> None:
    symbols = {NAMES[one]: find_symbol(switches(target), NAMES[one]) for one in SWITCHES[target]}
    for verdict in audit(switches(target), symbols, ready_contracts(target, "switches"), runs=4):
        assert not verdict.violations
        assert not any(finding.state == "not run" for finding in verdict.obligations.values()), states(verdict)


def test_what_the_body_jumps_to_may_be_called() -> None:
    called = "stp x29, x30, [sp, #-16]!; sub x0, x0, #16; bl method; ldp x29, x30, [sp], #16; ret"
    image = assembled("linux/arm64", {"thunk": called, "thunk_1": called.replace("; ldp", "; mov x0, #1; ldp")})
    program = contracts("linux/arm64", "bodies.tramp")
    assert not judged("linux/arm64", image, "thunk", "thunk", program).violations
    lost = judged("linux/arm64", image, "thunk", "thunk_1", program).violations
    assert [(v.obligation, v.register) for v in lost] == [("args", "x0")]
