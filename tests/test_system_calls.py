"""`syscall`: what reaches the kernel, what comes back, and that a kernel which overwrites all it may finds no fault.

tests/test_real_compilers.py has the real kernels' word for it.
"""

from __future__ import annotations

import broken
import pytest
from broken import found, judge

from trampoline_dsl.mutate import mutate
from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.target import Insn
from trampoline_dsl.targets import all_targets, default_targets
from trampoline_dsl.verify import verify

CASES = broken.ROOT / "tests" / "cases" / "system_calls.tramp"
SIGRETURN = broken.ROOT / "examples" / "go" / "sigreturn.tramp"
WRITE = broken.ROOT / "examples" / "c" / "system_call.tramp"
TARGETS = [target.name for target in default_targets() if target.architecture.system_calls is not None]

# The number, the system call, the trap: nothing else, and in no more bytes than these.
SIGRETURN_BYTES = {"386": 9, "amd64": 9, "s390x": 4}


def entering(insn: Insn) -> bool:
    return insn.transfer == "system"


@pytest.mark.parametrize("target", [n for n, t in all_targets().items() if t.architecture.system_calls is not None])
def test_the_kernel_gets_and_gives_what_the_source_says(target: str) -> None:
    verdicts = verify(broken.compiled(target, CASES))
    assert [(v.trampoline, v.violations) for v in verdicts if not v.good] == []
    assert len(verdicts) == 2


@pytest.mark.parametrize("target", TARGETS)
def test_sigreturn_is_what_one_would_write_by_hand(target: str) -> None:
    artifact = broken.compiled(target, SIGRETURN)["runtime.sigreturn"]
    architecture = artifact.target.architecture
    size = SIGRETURN_BYTES.get(architecture.name, 12)
    assert len(artifact.code) == size
    assert artifact.instruction_count == (2 if architecture.name == "s390x" else 3)
    assert architecture.sp not in {r for i in artifact.instructions for r in i.writes}


@pytest.mark.parametrize("target", TARGETS)
def test_no_small_mistake_at_a_system_call_goes_unseen(target: str) -> None:
    for file in (SIGRETURN, WRITE):
        [mutation] = mutate(broken.compiled(target, file), worlds=4)
        assert mutation.survivors == ()
        assert sum(mutation.killed.values()) >= 2


def before_kernel(target: str, code: list[Insn]) -> list[Insn]:
    instructions = broken.compiled(target, SIGRETURN)["runtime.sigreturn"].instructions
    return broken.before(instructions, broken.first(instructions, entering), code)


def program(target: str) -> Compiled:
    return broken.compiled(target, SIGRETURN)


@pytest.mark.parametrize("target", TARGETS)
def test_a_stack_pointer_that_is_not_that_of_entry_is_seen(target: str) -> None:
    architecture = program(target).target.architecture
    lower = list(architecture.binary("sub", architecture.sp, architecture.sp, 16))
    verdict = judge(program(target), "runtime.sigreturn", before_kernel(target, lower))
    assert "16 bytes below" in found(verdict, "sp", architecture.sp.name).message


@pytest.mark.parametrize("target", TARGETS)
def test_another_number_is_seen(target: str) -> None:
    architecture = program(target).target.architecture
    wrong = [*architecture.system_call(0x77, ""), *architecture.trap()]
    assert "number" in found(judge(program(target), "runtime.sigreturn", wrong), "args").message


@pytest.mark.parametrize("target", TARGETS)
def test_a_system_call_that_the_source_does_not_make_is_seen(target: str) -> None:
    compiled = broken.compiled(target)
    architecture = compiled.target.architecture
    code = compiled["leaf"].instructions
    call = list(architecture.system_call(1, ""))
    early = broken.before(code, broken.first(code, broken.leaving), call)
    assert "makes a system call" in found(judge(compiled, "leaf", early), "effect").message


def test_the_other_way_into_the_kernel_of_amd64_is_none() -> None:
    """`int 0x80` is the system call of 386, with other numbers and registers."""
    wrong = [Insn("mov eax, 0xf"), Insn("int 0x80"), *program("linux/amd64").target.architecture.trap()]
    assert "int 0x80" in found(judge(program("linux/amd64"), "runtime.sigreturn", wrong), "flow").message


@pytest.mark.parametrize("target", ["linux/mips", "linux/mips64le", "linux/ppc64", "linux/ppc64le"])
def test_a_failure_that_is_told_beside_the_result_is_looked_at(target: str) -> None:
    compiled = broken.compiled(target, WRITE)
    code = list(compiled["my_write"].instructions)
    start = broken.first(code, entering) + 1
    end = broken.first(code, lambda insn: "answered" in (insn.label or ""))
    blind = [*code[:start], *code[end:]]
    verdict = judge(compiled, "my_write", blind, runs=8)
    assert found(verdict, "effect")
