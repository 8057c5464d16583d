"""Go's assembler and `go vet` over the examples, and the judge over what is in Go's objects. Each function raises
AssertionError with what is wrong, and says what it found otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import go_tools

from trampoline_dsl import plan9
from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.disassemble import Disassembled, disassemble
from trampoline_dsl.judge import Execute
from trampoline_dsl.machine_code import Code
from trampoline_dsl.pipeline import Artifact, Compiled, compile_module
from trampoline_dsl.resolve import load_module, own_trampolines
from trampoline_dsl.target import Insn, Relocation, Target, ThreadSlot
from trampoline_dsl.targets import all_targets
from trampoline_dsl.verify import Session
from trampoline_dsl.watchers import Watcher

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*/*.tramp"))
TARGETS = [
    target.linked("go")
    for target in all_targets().values()
    if "go" in target.architecture.linkages and not target.variant
]


@cache
def compiled(path: Path, target: Target) -> Compiled:
    return compile_module(load_module(read_source(path)), target)


def having(target: Target) -> list[Path]:
    """The examples that have a trampoline for a target."""
    return [path for path in EXAMPLES if own_trampolines(load_module(read_source(path)), target)]


def written(path: Path, target: Target, folder: Path) -> Path:
    """The text of an example in a file."""
    file = folder / f"{path.stem}_{target.os}_{target.architecture.name}.s"
    file.write_text(compiled(path, target).plan9_text)
    return file


def assembled(target: Target, go: go_tools.Go, folder: Path) -> int:
    """How many examples Go's assembler takes: all of them."""
    for path in having(target):
        go_tools.assemble(go, written(path, target, folder), target, "runtime")
    return len(having(target))


def vetted(target: Target, go: go_tools.Go, folder: Path, sources: Sequence[Path] = ()) -> int:
    """How many functions `go vet` has nothing to say of. Each file is a package of its own, with the declarations that
    were made for it."""
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text("module example\n\ngo 1.19\n")
    functions = 0
    for path in sources or having(target):
        package = folder / path.stem
        package.mkdir()
        text = compiled(path, target).plan9_text
        declared = compiled(path, target).go_declarations()
        for name, declarations in declared.items():
            # The declarations are checked in the package that has them.
            (package / f"{name}_decl.go").write_text(re.sub(r"(?m)^package .*", "package p", declarations))
            text = text.replace(f"TEXT {name}·", "TEXT ·")
        if not declared:
            (package / "p.go").write_text("package p\n")
        functions += text.count("TEXT ·")
        (package / f"{path.stem}_{target.os}_{target.architecture.name}.s").write_text(text)
    done = go.run("vet", "-asmdecl", "-framepointer", "./...", target=target, cwd=folder)
    assert done.returncode == 0, done.stderr
    return functions


def judged(target: Target, go: go_tools.Go, folder: Path) -> int:
    """How many trampolines keep their obligations in the code of Go's objects: all of them."""
    count = 0
    for path in having(target):
        program = compiled(path, target)
        text = written(path, target, folder)
        symbols = go_tools.read_object(go_tools.assemble(go, text, target, "runtime"), target)
        lines = text.read_text().split("\n")
        codes = {a.name: code_in_object(a, program, symbols[a.name], lines) for a in program.own}
        session = Session(program, codes)
        for artifact in program.own:
            verdict = session.judge(artifact, 1, 4)
            assert verdict.good, f"{verdict}\n{verdict.violations}\n{verdict.obligations}"
            count += 1
            check_depths(session, artifact, symbols[artifact.name])
    return count


def with_slots(symbol: go_tools.GoSymbol, target: Target) -> bytes:
    """The code with the place of g in thread-local storage, which Go's linker fills in, and which our code says."""
    code = bytearray(symbol.code)
    thread = target.conventions["go0"].thread
    for relocation in symbol.relocations:
        if relocation.size and not relocation.symbol and isinstance(thread, ThreadSlot):
            where = slice(relocation.offset, relocation.offset + relocation.size)
            code[where] = thread.offset.to_bytes(relocation.size, "little", signed=True)
    return bytes(code)


def code_in_object(artifact: Artifact, program: Compiled, symbol: go_tools.GoSymbol, lines: Sequence[str]) -> Code:
    """What the judge is given of a function in Go's object. Go's instructions are tied to ours by the lines that they
    come from; what the linker fills is as in our code."""
    architecture = artifact.target.architecture
    decoded = disassemble(architecture, symbol.code[: end(symbol, artifact.target)], 0)
    by_line: dict[int, list[Disassembled]] = {}
    for one in decoded:
        by_line.setdefault(symbol.line(one.address), []).append(one)
    code = bytearray(with_slots(symbol, artifact.target))
    listing: dict[int, Insn] = {one.address: Insn(one.text) for one in decoded}
    for number, line in enumerate(lines, 1):
        if "// not reached" in line:
            listing |= {one.address: Insn(f".skip {one.size}") for one in by_line.get(number, ())}
    relocations: dict[int, Relocation] = {}
    spelling = architecture.plan9()
    name_of = program.go_symbol
    at = lines.index(next(line for line in lines if line.startswith(f"TEXT {name_of(artifact.name)}"))) + 1
    index = 0
    for statement in spelling.statements(artifact.instructions, name_of):
        start = index
        covered = artifact.instructions[start : start + statement.instructions]
        index += statement.instructions
        if covered[0].label is not None:
            continue
        made: list[Disassembled] = []
        for _ in range(len(covered) if statement.text is None else statement.text.count("\n") + 1):
            while not is_statement(lines[at]):
                at += 1
            made += by_line.get(at + 1, [])
            at += 1
        tie(artifact, start, covered, made, listing)
        relocations |= {one.offset: one for one in filled(artifact, start, covered, made, symbol, code)}
    assert {one.symbol for one in relocations.values()} == {one.symbol for one in artifact.relocations}
    offsets = sorted(listing)
    insns = tuple(listing[offset] for offset in offsets)
    frame, file = artifact.frame.size, Path(artifact.source.name).name
    return Code(artifact.name, bytes(code), tuple(relocations.values()), insns, tuple(offsets), frame, file)


def is_statement(line: str) -> bool:
    return line.startswith("\t") and not re.match(r"\t(//|GO_ARGS|NO_LOCAL_POINTERS)|.*// not reached", line)


R_ADDR = 1  # cmd/internal/objabi: a whole address


def end(symbol: go_tools.GoSymbol, target: Target) -> int:
    """Where the instructions end. On arm, words with addresses are behind them, and in front of those a branch to
    itself."""
    words = [one.offset for one in symbol.relocations if one.type == R_ADDR and target.architecture.name == "arm"]
    return min(words) - 4 if words else len(symbol.code)


def is_loaded(covered: Sequence[Insn], made: Sequence[Disassembled]) -> bool:
    """Whether Go's assembler loads an address from such a word, which we put together of halves."""
    halves = len(covered) == 2 and all(one.relocation is not None for one in covered)
    return halves and len(made) == 1 and re.match(r"ldr .*\[pc", made[0].text) is not None


def tie(
    artifact: Artifact, start: int, covered: Sequence[Insn], made: list[Disassembled], listing: dict[int, Insn]
) -> None:
    """Say which of our instructions each of Go's is."""
    while len(made) > len(covered) and made[-1].text in PADDING:
        del listing[made.pop().address]
    if len(made) == len(covered):
        for one, insn in zip(made, covered, strict=True):
            listing[one.address] = insn
        return
    if is_loaded(covered, made):
        listing[made[0].address] = replace(covered[1], text=made[0].text, reads=frozenset(), memory="read")
        return
    # What Go's assembler makes several of is nothing that could go anywhere.
    assert made, f"{[i.text for i in covered]} became nothing"
    assert len(covered) == 1, f"{[i.text for i in covered]} became {[one.text for one in made]}"
    assert covered[0].transfer == "none", f"{covered[0].text} became {[one.text for one in made]}"
    for one in made:
        listing[one.address] = replace(covered[0], text=one.text, access=None)


PADDING = ("nop", "udf #0", ".byte 0x00, 0x00")  # zeros, which functions of some machines are padded with


def filled(
    artifact: Artifact,
    start: int,
    covered: Sequence[Insn],
    made: Sequence[Disassembled],
    symbol: go_tools.GoSymbol,
    code: bytearray,
) -> Iterator[Relocation]:
    """Our relocations, where they are in Go's code. A field is filled with what ours has there (an addend, in some
    formats), and everything beside it stays as Go's assembler made it."""
    architecture = artifact.target.architecture
    if is_loaded(covered, made):
        # The program counter reads as 8 bytes ahead.
        word = made[0].address + 8 + (int.from_bytes(symbol.code[made[0].address :][:2], "little") & 0xFFF)
        [theirs_] = [one for one in symbol.relocations if one.offset == word]
        yield Relocation("R_ARM_ABS32", theirs_.symbol, offset=word)
        return
    for position, insn in enumerate(covered):
        if insn.relocation is None:
            continue
        one = made[position]
        fixup = architecture.fixups[insn.relocation.type]
        here = artifact.offsets[start + position]
        inside = [r for r in artifact.relocations if here <= r.offset < here + max(one.size, 1)]
        ours_ = inside[0]
        offset = one.address + (ours_.offset - here)
        theirs = [r for r in symbol.relocations if r.size and one.address - 16 <= r.offset <= offset]
        assert theirs, f"Go's linker is told nothing of {insn.text}"
        assert theirs[-1].symbol in (ours_.symbol, ""), f"{insn.text}: {theirs[-1].symbol}"
        if artifact.target.architecture.name in ("386", "amd64"):
            offset = theirs[-1].offset
        where = slice(offset, offset + fixup.size)
        source = slice(ours_.offset, ours_.offset + fixup.size)
        mask = fixup.mask
        for part, _ in fixup.scatter:
            mask |= part
        word = int.from_bytes(code[where], architecture.order) & ~mask
        word |= int.from_bytes(artifact.code[source], architecture.order) & mask
        code[where] = word.to_bytes(fixup.size, architecture.order)
        yield replace(ours_, offset=offset)


class Depths(Watcher):
    """Compares Go's table of depths with the stack pointer at every instruction. On another stack (or so far down this
    one that it is not in the trampoline's first frame) it is as deep as the frame of an `on stack` block, which is as
    large as the first one."""

    def __init__(self, run: Execute, artifact: Artifact, symbol: go_tools.GoSymbol, base: int) -> None:
        self.run, self.artifact, self.symbol, self.base = run, artifact, symbol, base
        self.pushed = run.word if artifact.function.convention.return_address is None else 0
        self.checked = 0
        self.wrong: list[str] = []
        self.followed = not silent_steps(artifact)

    def instruction(self, address: int) -> None:
        offset = address - self.base
        if not 0 <= offset < len(self.symbol.code) or not self.run.activations:
            return
        activation = self.run.activations[-1]
        if activation.function is not self.artifact.function:
            return
        code, index = self.run.bench.listing[address]
        true = activation.cfa - self.run.machine.sp - self.pushed
        size = self.artifact.frame.size - self.pushed
        told = self.symbol.depth(offset)
        if told != true and told == size and not 0 <= true <= size:
            true = size
        self.checked += 1
        if self.followed and told != true:
            text = code.instructions[index].text
            self.wrong.append(f"+{offset:#x} {text}: {true}, and the table says {told}")


def silent_steps(artifact: Artifact) -> bool:
    """Whether the prologue makes room that Go's assembler is not told of: `step_by` of arches/x86.py."""
    architecture = artifact.target.architecture
    index = 0
    for statement in architecture.plan9().statements(artifact.instructions, plan9.spelled):
        covered = artifact.instructions[index : index + statement.instructions]
        index += statement.instructions
        if statement.step == 0 and covered[-1].part == "prologue" and architecture.sp in covered[-1].writes:
            return True
    return False


def check_depths(session: Session, artifact: Artifact, symbol: go_tools.GoSymbol) -> None:
    function = artifact.function
    if plan9.unfollowed(function.convention, artifact.frame, artifact.instructions):
        return
    scenarios = [s for s in session.compiled.program.scenarios if s.trampoline == function.name] or [None]
    base = session.build.symbols[artifact.name]
    wrong: dict[str, None] = {}
    for scenario in scenarios:
        world, trace = session.expected(function, scenario, 1)
        run = Execute(session.bench, world, trace, function, scenario, session.anonymous, 0, False)
        run.watcher = depths = Depths(run, artifact, symbol, base)
        run.run()
        assert depths.checked
        wrong |= dict.fromkeys(depths.wrong)
    allowed = LEAVING_AT_ONCE.get(artifact.target.architecture.family)
    left = [text for text in wrong if allowed is None or not re.search(allowed, text)]
    assert not left, f"{artifact}: " + "\n".join(left)


# On 386 a return that pops as many arguments as is found out at run time leaves the return address alone above sp; and
# behind a call whose callee has popped its arguments, which Go's assembler knows nothing of, one instruction lowers sp.
LEAVING_AT_ONCE: dict[str, str] = {
    "x86": r" push edx: -\d+, and the table says -4$| ret: -\d+, and the table says 0$"
    r"| lea esp, \[esp-(0x)?[0-9a-f]+\]: \d+, and the table says \d+$",
}
