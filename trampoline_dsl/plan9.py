"""Instructions to text that Go's assembler takes, and the Go declarations that go with it.

Functions have no frame as far as Go's assembler is concerned (NOFRAME, $0): the instructions that make one are there
to be read, and it follows the stack pointer through them. Sources: Go, "A Quick Guide to Go's Assembler";
runtime/HACKING.md; cmd/internal/obj, Prog.Spadj; runtime/textflag.h and funcdata.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath

from . import ir
from .diagnostics import Source
from .picture import draw
from .records import dataclass
from .target import Convention, Frame, Insn, OnStack, Plan9, Statement, Target, plan9_label

_PARTS = {"prologue": "entry", "epilogue": "return"}
_LEAVES = frozenset({"jump", "return", "trap"})  # nothing goes on behind these
_GO_WORDS = frozenset(
    {
        "break",
        "case",
        "chan",
        "const",
        "continue",
        "default",
        "defer",
        "else",
        "fallthrough",
        "for",
        "func",
        "go",
        "goto",
        "if",
        "import",
        "interface",
        "map",
        "package",
        "range",
        "return",
        "select",
        "struct",
        "switch",
        "type",
        "var",
    }
)


class NoSpelling(Exception):
    """An instruction that no table spells, and whose bytes the linker would have to fill: a gap in `arches/plan9`."""

    def __init__(self, insn: Insn) -> None:
        super().__init__(insn.text)
        self.insn = insn


def spelled(name: str, abi: str = "") -> str:
    """A symbol as Go's assembler takes it: "runtime.load_g" is `runtime·load_g(SB)`; `abi` is what tells it from
    ABI0."""
    return name.replace(".", "·") + (f"<{abi}>" if abi else "") + "(SB)"


def go_convention(convention: Convention) -> bool:
    """Whether it is Go's: there is a goroutine, whose stack may have to be walked."""
    return convention.thread is not None


def argument_bytes(signature: ir.Signature, target: Target) -> int:
    """Bytes of arguments and results above the return address, as a TEXT line has them: as if all of them were in
    memory, whether they are or not. Nothing of a convention that is not Go's is known to Go."""
    if not go_convention(signature.convention):
        return 0
    convention = target.conventions["go0"]
    types = [type_.value_type for _, type_ in signature.parameters]
    result = signature.result.value_type if signature.result else None
    placed = convention.place(types, result)
    ends = [
        part.place.offset + part.bits // 8
        for location in (*placed.arguments, placed.result)
        for part in location
        if isinstance(part.place, OnStack)
    ]
    return max(ends) - convention.first_stack_argument if ends else 0


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """What is printed: `code` with the `bytes` of each of its instructions, for those that have no word."""

    signature: ir.Signature
    code: Sequence[Insn]
    bytes: Sequence[bytes]
    frame: Frame
    source: Source
    title: str


def function_text(function: Function, target: Target, symbol: Callable[[str], str]) -> str:
    """One function: comments, the TEXT line, instructions. Raises NoSpelling."""
    signature, convention = function.signature, function.signature.convention
    architecture = target.architecture
    lines = [*_comments([function.title, f"{convention.name}: {convention.title}", ""])]
    lines += _comments(draw(function.frame, architecture.sp.name))
    go = go_convention(convention)
    flags = "NOSPLIT|NOFRAME" if go else "NOSPLIT|NOFRAME|TOPFRAME"
    lines.append(f"TEXT {spelled(signature.name, convention.go_abi)}, {flags}, $0-{argument_bytes(signature, target)}")
    if go and any(one.transfer == "call" for one in function.code):
        # The declaration says where pointers are in the arguments. Go's assembler finds it by itself for names without
        # a package; before Go 1.22 for no others.
        if argument_bytes(signature, target):
            lines.append("\tGO_ARGS")
        lines.append("\tNO_LOCAL_POINTERS")
    lines += _body(function, architecture.plan9(), symbol)
    return "\n".join(lines) + "\n"


def table_text(
    name: str, entries: Sequence[Sequence[Insn]], target: Target, title: str, symbol: Callable[[str], str]
) -> str:
    """A table of entries, which are entered one by one and have no frame. Raises NoSpelling."""
    plan9 = target.architecture.plan9()
    lines = [*_comments([title]), f"TEXT {spelled(name)}, NOSPLIT|NOFRAME|TOPFRAME, $0-0"]
    known: dict[tuple[Insn, ...], list[str]] = {}
    for entry in entries:
        texts = known.get(tuple(entry))
        if texts is None:
            statements = list(plan9.statements(entry, symbol))
            texts = known[tuple(entry)] = [f"\t{one.text}" for one in statements]
            if any(one.text is None for one in statements):
                raise NoSpelling(entry[0])
        lines += texts
    return "\n".join(lines) + "\n"


def _comments(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield f"// {text}".rstrip()


def unfollowed(convention: Convention, frame: Frame, code: Sequence[Insn]) -> bool:
    """Whether Go's assembler is not told of the room that a function makes. Go's linker adds up the steps of the stack
    pointer along all ways through functions that never ask for more stack, and refuses more than 792 bytes
    (cmd/link/internal/ld/stackcheck.go). It cannot know that a function that C calls begins on C's stack, where there
    is enough, and on ppc64 most of that is what such a function saves. No traceback goes through it (TOPFRAME). Nor
    does that assembler know of a frame that a function has not made, and comes to by moving to another stack."""
    if go_convention(convention):
        return False
    comes_to_one = any(insn.part == "resume" for insn in code) and not any(insn.part == "prologue" for insn in code)
    return frame.size > 400 or comes_to_one


def _statements(function: Function, plan9: Plan9, symbol: Callable[[str], str]) -> Iterator[Statement]:
    """What is printed one by one. A step that nobody is told of is data."""
    silent = unfollowed(function.signature.convention, function.frame, function.code)
    for statement in plan9.statements(function.code, symbol):
        yield Statement(None, statement.instructions) if silent and statement.step else statement


def _body(function: Function, plan9: Plan9, symbol: Callable[[str], str]) -> Iterator[str]:
    """Instructions, with the source above them. Go's assembler takes the stack to be as deep at a label as it was in
    the line above, even where the line above leaves; where it is not, an instruction that is never reached says so."""
    code, source = function.code, function.source
    depth = 0
    at_label: dict[str, int] = {}
    deepest = next((size for size in _depths(function, plan9, symbol)), 0)
    place = (0, "")
    index = 0
    left = False  # the line above leaves
    for statement in _statements(function, plan9, symbol):
        covered = code[index : index + statement.instructions]
        first = covered[0]
        if first.label is not None:
            if left:
                wanted = at_label.get(first.label, deepest)
                if wanted != depth:
                    yield f"\t{plan9.lowered(wanted - depth)} // not reached: so deep is the stack below"
                    depth = wanted
            left = False
            yield f"{plan9_label(first.label)}:"
            index += 1
            continue
        what = _PARTS.get(first.part, "")
        here = (first.line, what)
        if first.line and here != place:
            yield f"\t// {first.line}: {what or source.statement(first.line)}".rstrip()
            place = here
        if statement.text is None:
            if any(one.relocation is not None or one.target is not None for one in covered):
                raise NoSpelling(first)
            for at in range(index, index + statement.instructions):
                directives = "; ".join(plan9.data(function.bytes[at]))
                yield f"\t{directives} // {code[at].text}"
        else:
            yield from (f"\t{line}" for line in statement.text.split("\n"))
        depth += statement.step
        for one in covered:
            if one.target is not None:
                at_label.setdefault(one.target, depth)
        left = any(one.transfer in _LEAVES for one in covered)  # a delay slot comes behind it
        index += statement.instructions


def _depths(function: Function, plan9: Plan9, symbol: Callable[[str], str]) -> Iterator[int]:
    """How deep the stack is where the body begins, if it begins anywhere."""
    depth = index = 0
    for statement in _statements(function, plan9, symbol):
        if function.code[index].part != "prologue":
            yield depth
            return
        depth += statement.step
        index += statement.instructions


def file_text(functions: Sequence[str], target: Target, file: str) -> str:
    """A whole file for Go's assembler."""
    head = [
        f"// Code generated by trampoline from {file} for {target.name}; DO NOT EDIT.",
        "",
        f"//go:build {target.os} && {target.architecture.name}",
        "",
        '#include "textflag.h"',
        '#include "funcdata.h"',
    ]
    return "\n".join(head) + "\n\n" + "\n".join(functions)


def package(name: str) -> str:
    """The Go package of a symbol: of "runtime.load_g" it is "runtime"; "" for one that Go has no name for."""
    return name.rpartition(".")[0].rpartition(".")[2]


def declarations_text(signatures: Sequence[ir.Signature], target: Target, file: str) -> str:
    """The Go file that declares the functions, all of one package."""
    lines = [
        f"// Code generated by trampoline from {PurePath(file).name} for {target.name}; DO NOT EDIT.",
        "",
        f"//go:build {target.os} && {target.architecture.name}",
        "",
        f"package {package(signatures[0].name)}",
    ]
    texts = [text for signature in signatures for text in ("", *_declaration(signature))]
    if any("unsafe.Pointer" in text for text in texts):
        lines += ["", 'import "unsafe"']
    return "\n".join([*lines, *texts]) + "\n"


def _declaration(signature: ir.Signature) -> Iterator[str]:
    convention = signature.convention
    name = signature.name.rpartition(".")[2]
    if not go_convention(convention):
        yield f"// {name} has the convention {convention.name}, and is not for Go to call."
        yield f"func {name}()"
        return
    parameters = ", ".join(
        f"{spelling + '_' if spelling in _GO_WORDS else spelling} {_go_type(type_)}"
        for spelling, type_ in signature.parameters
    )
    result = f" (result {_go_type(signature.result)})" if signature.result is not None else ""
    yield f"func {name}({parameters}){result}"


def _go_type(type_: ir.Type) -> str:
    value = type_.value_type
    if type_.kind == "float":
        return f"float{type_.bits}"
    if type_.kind == "pointer":
        return "unsafe.Pointer"
    if type_.name == "uptr":
        return "uintptr"
    return f"{'int' if value.signed else 'uint'}{value.bits}"
