"""Judges machine code from elsewhere by what a source says of it: a trampoline's body, or its declaration alone.

Without a body nothing says what the code should do. Its convention says where arguments and results are, what it has to
keep and what may be written; what it calls is what the source declares. With a body, what it does is compared as well;
nothing of a frame's layout is demanded but what the body pins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath

from . import ir
from .decode import code_of_function
from .deliver import Players
from .foreign import ForeignBench
from .free import Depths, Free, Observer
from .image import Image, ImageError, Symbol, on_the_stack
from .interpret import Trouble
from .judge import Execute
from .machine_code import Code
from .oracle import Oracle, Trace, return_place
from .pipeline import Compiled
from .placed import Placed, place
from .run_asm import AsmMachine
from .unwind import Table
from .verify import DEFAULT_RUNS, NOT_UNWOUND, Session, Subject, Verdict, baseline_violations, code_of
from .violation import Violation
from .world import Bytes, World, anonymous_callees, make_world


def audit(
    image: Image,
    symbols: Mapping[str, Symbol],
    compiled: Compiled,
    *,
    seed: int = 1,
    runs: int = DEFAULT_RUNS,
    codes: Mapping[str, Code] | None = None,
) -> tuple[Verdict, ...]:
    """The verdicts on the code of an image. `symbols`: where each trampoline of the source is, by its name; `codes`:
    their instructions, where those are known. Raises ImageError if code cannot be decoded."""
    session = ForeignSession(image, symbols, compiled, codes or {})
    return tuple(session.verdict(name, seed, runs) for name in symbols)


class ForeignSession(Session):
    """An image loaded once, with the declarations of a source around it."""

    bench: ForeignBench

    def __init__(
        self, image: Image, symbols: Mapping[str, Symbol], compiled: Compiled, codes: Mapping[str, Code]
    ) -> None:
        self.compiled = compiled
        for name, symbol in symbols.items():
            function = compiled.program.functions.get(name) or compiled.program.contracts[name]
            if not function.convention.go_abi:
                symbols = {**symbols, name: on_the_stack(image, symbol)}
        program = around(compiled.program, symbols)
        own = {name: code_of(compiled.artifacts[name]) for name in program.functions if name not in symbols}
        self.anonymous = anonymous_callees(program)
        self.placed = placed = place(image, program, symbols, own, self.anonymous)
        for table in program.tables.values():
            if table.name not in placed.defined:
                raise ImageError(f"`{table.trampoline}` is entered through `{table.name}`, which {image.name} has not")
        self.build = placed.build
        target = program.target
        self.foreign = {
            name: _listed(codes.get(name) or code_of_function(image, symbol, target), name, symbol, placed)
            for name, symbol in symbols.items()
        }
        self.codes = {**self.foreign, **own}
        self.tables = {}
        self.bench = ForeignBench(placed, self.foreign, own)
        self.frames = {name: code.frame for name, code in self.codes.items()}
        self.sizes: dict[str, int] = {}  # of frames, as they have been seen
        has_asm = any(isinstance(n, ir.Asm) for f in program.functions.values() for n in ir.walk(f.body))
        self.asm = AsmMachine(self.build) if has_asm else None
        self.players = Players(self.frames, self.anonymous, self.asm)

    def verdict(self, name: str, seed: int, runs: int) -> Verdict:
        """The verdict on one trampoline."""
        self.bench.helpers.clear()
        program = self.build.program
        function, code = program.functions[name], self.foreign[name]
        target, file = program.target, self.placed.image.name
        why = "" if code.unwinding is not None else NOT_UNWOUND
        calls = any(insn.transfer == "call" for insn in code.instructions)
        if isinstance(code.unwinding, Table) and code.unwinding.at_calls and not calls:
            why = "what is said of it holds at calls, and it makes none"
        subject = Subject(function, file, target.name, 0, code.instructions, target.architecture, why)
        verdict = self.judge_subject(subject, program.scenarios, seed, runs)
        frame = self.sizes.get(name, 0)
        words = function.contract is not None and function.suspension is None
        found = (_worded(v) if words else v for v in verdict.violations)
        return replace(verdict, frame=frame, violations=tuple(_advised(v, function) for v in found))

    @property
    def helpers(self) -> tuple[str, ...]:
        return tuple(self.bench.helpers)

    @property
    def unprotected(self) -> str:
        return "" if self.bench.protection is not None else "the file does not say that it has landing pads"

    def elsewhere(self, visited: Iterable[int]) -> Iterable[Violation]:
        """Other code of the image keeps to the baseline too."""
        for address in sorted(set(visited) - self.bench.judged):
            code, index = self.bench.listing[address]
            if code.name not in self.bench.helpers:
                continue
            offset = code.offsets[index]
            for found in baseline_violations(self.build.program.target, replace(code, offsets=(0,))):
                yield replace(found, address=offset, source=code.sources.get(offset) or found.source)

    def problem(self, visited: Iterable[int]) -> str:
        return self.bench.unfilled(visited)

    def expected(self, function: ir.Function, scenario: ir.Scenario | None, world_seed: int) -> tuple[World, Trace]:
        world = make_world(self.build, function, scenario, world_seed)
        if function.suspension is not None:
            return world, Trace(memory=Bytes(world.images))
        if function.contract is not None:
            return world, Free(self.build, world, scenario, function.contract)
        seen = Observer(self.build, world, scenario)
        look = Execute(self.bench, world, seen, function, scenario, self.anonymous, 0, False)
        look.watcher = Depths(look, seen)
        look.run()
        frames = self.frames | {name: seen.frame(name) for name in self.foreign}
        slots = {name: seen.slots(self.build.program.functions[name]) for name in self.foreign}
        self.sizes |= {name: frames[name] for name in self.foreign}
        trace = self._meant(world, function, scenario, frames, slots, {})
        other = {name: seen.switched_frame(name, trace.entered) for name in self.foreign}
        there = {name: size for name, size in other.items() if size is not None and size != frames[name]}
        return world, self._meant(world, function, scenario, frames, slots, there) if there else trace

    def _meant(
        self,
        world: World,
        function: ir.Function,
        scenario: ir.Scenario | None,
        frames: Mapping[str, int],
        slots: Mapping[str, Mapping[str, int]],
        switched: Mapping[str, int],
    ) -> Trace:
        """What the source does in a world, with frames as they have been seen. Raises Trouble."""
        build = replace(self.build, slots=slots)
        oracle = Oracle(build, world, frames, scenario, self.anonymous, self.asm, switched, self.foreign)
        try:
            return oracle.run(function, return_place(self.build, 0))
        except KeyError as error:
            message = f"where `{error.args[0]}` is in the frame cannot be seen: its address is passed to no callee"
            raise Trouble(message, function.span) from None

    def observed(self, run: Execute) -> None:
        """A right run without a source is what others are compared with, and shows how large frames are."""
        trace, name = run.trace, run.function.name
        if isinstance(trace, Free) and run.finished and not run.violations and not run.scramble and not run.spare:
            trace.recorded = True
            self.sizes[name] = max(self.sizes.get(name, 0), trace.frame(name))


def around(program: ir.Program, audited: Iterable[str]) -> ir.Program:
    """The program as the code of an image has it around itself: the trampolines that are audited, and those that their
    checks call, that signals enter, and that a handler may go on in; everything else is somebody else's."""
    functions = {name: program.functions.get(name) or program.contracts[name] for name in audited}
    scenarios = [s for s in program.scenarios if s.trampoline in functions]
    called = {name for s in scenarios for signals in s.signals for name in (signals.handler, signals.restorer) if name}
    for scenario in scenarios:
        for node in (node for handler in scenario.handlers.values() for node in ir.walk(handler.body)):
            if isinstance(node, ir.Call) and isinstance(node.callee, str):
                called.add(node.callee)
            elif isinstance(node, ir.SymbolAddress) and scenario.signals:
                called.add(node.symbol)
    rest = sorted(called - set(functions))
    while rest:
        name = rest.pop()
        if name in program.functions and name not in functions:
            function = functions[name] = program.functions[name]
            rest += [
                node.callee
                for node in ir.walk(function.body)
                if isinstance(node, (ir.Call, ir.TailCall)) and isinstance(node.callee, str)
            ]
    externs = {name: signature for name, signature in program.externs.items() if name not in functions}
    externs |= {name: f.signature for name, f in program.functions.items() if name not in functions}
    entered = {f.table.name for f in functions.values() if f.table is not None}
    tables = {name: table for name, table in program.tables.items() if name in entered}
    return replace(program, functions=functions, externs=externs, scenarios=tuple(scenarios), tables=tables)


def _listed(code: Code, name: str, symbol: Symbol, placed: Placed) -> Code:
    """The code under the name that the source has for it, with the lines that it comes from."""
    start = placed.build.symbols[name]
    lines = {offset: placed.source(start + offset) for offset in code.offsets}
    sources = {offset: line for offset, line in lines.items() if line}
    return replace(code, name=name, file=PurePath(placed.image.name).name, sources=sources)


_WITHOUT_A_BODY = (
    ("where the source writes nothing", "where its declaration lets it write nothing"),
    ("and the source does not write there", "and its declaration does not let it write there"),
    ("is not what the source says", "is not what it was in another run of the same"),
    ("the source", "another run of the same"),
)


def _worded(violation: Violation) -> Violation:
    """Without a body, what a run is compared with is another run."""
    message = violation.message
    for with_body, without in _WITHOUT_A_BODY:
        message = message.replace(with_body, without)
    return replace(violation, message=message)


def _advised(violation: Violation, function: ir.Function) -> Violation:
    """What to write instead, where that is clear."""
    expected, found, message = violation.expected, violation.found, violation.message
    register = violation.register or ""
    advice = ""
    match violation.obligation:
        case "preserve" if "last written by" in message and "keeps it for the caller" in message:
            advice = f"save {register} before this, and give it back before every return"
        case "align" if expected is not None and found is not None:
            more, step = found - expected, _alignment(message)
            advice = f"lower the stack pointer by {more} bytes more, or by {step - more} fewer"
        case "area" if "bytes of frame above" in message and expected is not None and found is not None:
            advice = f"lower the stack pointer by {expected - found} bytes more before the call"
        case "area" if "back chain" in message:
            advice = "store the caller's stack pointer at the new one, best by the instruction that lowers it"
        case "args" if "not extended" in message:
            advice = "widen it to the whole register before this"
        case "below":
            advice = "lower the stack pointer before anything is stored there"
        case "sp" if message.startswith(("returns to", "returns with")):
            advice = "raise the stack pointer by as many bytes as it was lowered, and pop what was pushed"
        case "bounds" if function.contract is not None and not function.contract.switches:
            advice = "if it is to move to a stack of its check, say so: `switches` behind its declaration"
        case "writes" if "its declaration" in message:
            advice = f"if that is meant, say so: `writes NAME` behind the declaration of {function.name}"
    return replace(violation, advice=advice) if advice else violation


def _alignment(message: str) -> int:
    """The number at the end of what is said of a misaligned call."""
    return int(message.rpartition(" ")[2])


__all__ = ["ForeignSession", "audit"]
