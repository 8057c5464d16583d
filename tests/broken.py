"""Machine code that is wrong on purpose: a compiled trampoline's instructions, edited, assembled anew and judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from trampoline_dsl.assemble import assemble
from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.machine_code import Code
from trampoline_dsl.pipeline import Artifact, Compiled, compile_module
from trampoline_dsl.resolve import load_module
from trampoline_dsl.target import Insn, Register
from trampoline_dsl.targets import find_target
from trampoline_dsl.verify import Session, Verdict
from trampoline_dsl.violation import Violation

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "cases" / "judge.tramp"

Edit = Callable[[Sequence[Insn]], Iterable[Insn]]


@cache
def compiled(target: str, file: Path = CASES) -> Compiled:
    return compile_module(load_module(read_source(file)), find_target(target))


def code_from(artifact: Artifact, instructions: Iterable[Insn], frame: int | None = None) -> Code:
    """Machine code made of other instructions than the compiler's, with its frame size or another."""
    insns = tuple(instructions)
    made = assemble(artifact.target.architecture, insns)
    size = artifact.frame.size if frame is None else frame
    return Code(artifact.name, made.code, made.relocations, insns, made.offsets, size, "broken")


def judge(
    program: Compiled, name: str, instructions: Iterable[Insn], *, frame: int | None = None, runs: int = 2
) -> Verdict:
    artifact = program[name]
    session = Session(program, {name: code_from(artifact, instructions, frame)})
    return session.judge(artifact, 1, runs)


def found(verdict: Verdict, obligation: str, place: str | None = None) -> Violation:
    """The violation of an obligation, in that register if one is named."""
    for violation in verdict.violations:
        if violation.obligation == obligation and place in (None, violation.register):
            return violation
    told = [(v.obligation, v.register, v.message) for v in verdict.violations]
    raise AssertionError(f"no violation of {obligation} in {place}: {told}")


# ------------------------------------------------------------------------------------------------------------- edits


def first(instructions: Sequence[Insn], wanted: Callable[[Insn], bool]) -> int:
    return next(index for index, insn in enumerate(instructions) if wanted(insn))


def leaving(insn: Insn) -> bool:
    return insn.transfer == "return"


def calling(insn: Insn) -> bool:
    return insn.transfer == "call"


def before(instructions: Sequence[Insn], index: int, more: Iterable[Insn]) -> list[Insn]:
    return [*instructions[:index], *more, *instructions[index:]]


def around_call(instructions: Sequence[Insn], down: Iterable[Insn], up: Iterable[Insn]) -> list[Insn]:
    """Something before the first call, and something behind it (and its delay slot)."""
    index = first(instructions, calling)
    end = index + (2 if instructions[index].delay_slot else 1)
    return [*instructions[:index], *down, *instructions[index:end], *up, *instructions[end:]]


def matching(instructions: Sequence[Insn], pattern: str) -> list[int]:
    """The instructions whose text the pattern finds. There must be one."""
    indices = [i for i, insn in enumerate(instructions) if insn.label is None and re.search(pattern, insn.text)]
    assert indices, f"{pattern} is in none of {[i.text for i in instructions]}"
    return indices


def without(instructions: Sequence[Insn], pattern: str) -> list[Insn]:
    indices = matching(instructions, pattern)
    return [insn for index, insn in enumerate(instructions) if index not in indices]


def replaced(instructions: Sequence[Insn], pattern: str, by: str | Callable[[re.Match[str]], str]) -> list[Insn]:
    """Text for text, as `re.sub` does, in every instruction that matches."""
    indices = matching(instructions, pattern)
    return [
        Insn(re.sub(pattern, by, insn.text), transfer=insn.transfer, delay_slot=insn.delay_slot)
        if index in indices
        else insn
        for index, insn in enumerate(instructions)
    ]


Change = Callable[[list[Insn]], list[Insn]]


def drop(pattern: str) -> Change:
    return lambda code: without(code, pattern)


def change(pattern: str, by: str | Callable[[re.Match[str]], str]) -> Change:
    return lambda code: replaced(code, pattern, by)


def both(*changes: Change) -> Change:
    def apply(code: list[Insn]) -> list[Insn]:
        for each in changes:
            code = each(code)
        return code

    return apply


def insert(pattern: str, *texts: str) -> Change:
    """New instructions before the first one that matches."""
    return lambda code: before(code, matching(code, pattern)[0], [Insn(text) for text in texts])


def move_up(pattern: str, above: str, by: str) -> Change:
    """What matches, rewritten, goes above something."""

    def apply(code: list[Insn]) -> list[Insn]:
        text = code[matching(code, pattern)[0]].text
        return insert(above, re.sub(pattern, by, text))(without(code, pattern))

    return apply


def written(artifact: Artifact, text: str) -> list[Insn]:
    """A function written by hand. `CALL` and `RETURN` alone stand for the compiler's own; `RETURN x` is the instruction
    x, which returns, and `SLOT` before an instruction says that the next one is in its delay slot."""
    own = artifact.instructions
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    result: list[Insn] = []
    for line in filter(None, lines):
        if line in ("CALL", "RETURN"):
            result.append(own[first(own, calling if line == "CALL" else leaving)])
        elif line.startswith("RETURN "):
            result.append(Insn(line.removeprefix("RETURN "), transfer="return"))
        elif line.startswith("SLOT "):
            result.append(Insn(line.removeprefix("SLOT "), delay_slot=True))
        else:
            result.append(Insn(line))
    return result


def volatile(program: Compiled, name: str) -> Register:
    """An integer register that means nothing to anybody at this function's ends, and never does before a call."""
    architecture, convention = program.target.architecture, program[name].function.convention
    taken = {*convention.kept, *convention.integer_arguments, *convention.integer_results, *convention.scratch}
    taken |= {f.register for f in convention.fixed} | {convention.call_through, convention.return_address}
    free = [r for r in architecture.allocatable(convention) if r not in taken]
    return free[0] if free else architecture.allocatable(convention)[-1]
