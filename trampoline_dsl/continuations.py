"""Contexts that are suspended and resumed, judged: callers on several stacks, of whom one runs and the others wait.

The judge plays the callers. Nobody tells it what a context looks like; it makes contexts by having calls suspended, and
knows when one is resumed by where control arrives. While a caller waits, others run with other registers, and what is
below its stack pointer is overwritten. When it goes on, all is as its own call left it, as its convention promises.

A switch needs something to resume before anything is suspended: it gets a place where every word, wherever a context
may lead, is the address of that place, and where no instruction is ever executed. When control arrives there, the
caller is suspended. What the switch does on the way there is not judged; it does the same in every later call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import ir
from .activations import Activation, Arrival
from .bench import Bench
from .emulate import Stop
from .judge import Execute
from .oracle import Trace
from .target import Register, of_thread
from .world import OUTSIDE, Region, World

STACKS = 3  # on which callers are
TURNS = 6  # calls that resume something, in a run
BAND = 0xC00  # bytes of each stack for the frame of one call: no two lie in the same place
PIT = Region("what is resumed first", 0x2000, 0x4000)
BOTTOM = 0x4000  # the word there: an address, and the value of a control register that raises no exception


@dataclass(slots=True, eq=False)
class Context:
    """A suspended call. `place`: the object that it was suspended into; `floor`: the lowest byte of its stack that
    matters. `handle` is how those who resume it know it."""

    region: Region
    place: int = 0
    activation: Activation | None = None
    floor: int = 0
    handle: int = 0
    again: bool = False  # it may be resumed any number of times, and the caller has gone on meanwhile


@dataclass(frozen=True, slots=True)
class Step:
    """One call, on the stack `region`. `resumes` is where it returns: nowhere yet, if None."""

    function: ir.Function
    region: Region
    suspends: Context | None
    resumes: Context | None
    arguments: Mapping[ir.Variable, int] = field(default_factory=dict)
    result: int | None = None


def declared(program: ir.Program, name: str) -> ir.Function:
    """A trampoline, with a body or without."""
    return program.functions[name] if name in program.functions else program.contracts[name]


def place_of_contexts(program: ir.Program, function: ir.Function) -> ir.Suspension:
    """What says where the contexts are that a trampoline suspends or resumes."""
    assert function.suspension is not None
    if function.suspension.suspends is not None:
        return function.suspension
    of = declared(program, function.suspension.of).suspension
    assert of is not None
    return of


def pair(program: ir.Program, function: ir.Function) -> tuple[ir.Function, ir.Function | None]:
    """A trampoline that suspends, and one that resumes its calls, if there is one: both may be the same."""
    suspension = function.suspension
    assert suspension is not None
    if suspension.suspends is None:
        return declared(program, suspension.of), function
    if suspension.resumes is not None:
        return function, function
    every = (*program.functions.values(), *program.contracts.values())
    found = (f for f in every if f.suspension is not None and f.suspension.of == function.name)
    return function, next(found, None)


def kind_of_run(function: ir.Function) -> type[Execute]:
    """How a trampoline is run: as its source says, or by callers that resume each other."""
    return Execute if function.suspension is None else Continue


class Continue(Execute):
    """One run of callers that suspend and resume each other."""

    def __init__(
        self, bench: Bench, world: World, trace: Trace, function: ir.Function, *rest: Any, **more: Any
    ) -> None:
        super().__init__(bench, world, trace, function, *rest, **more)
        program = self.build.program
        self.suspender, self.resumer = pair(program, function)
        where = place_of_contexts(program, function)
        self.word_at = where.word
        self.size = program.structs[where.struct].size
        self.free = list(world.contexts)
        self.bottom = self.free.pop()  # an object that leads to the pit
        self.regions = world.plan.stacks[:STACKS]
        self.contexts: list[Context] = []
        self.steps: Iterator[Step] = iter(())
        self.current: Step | None = None
        self.left = 0  # the stack pointer when the caller's stack was left
        self.before: dict[int, bytes] = {}
        self.again: int | None = None  # where to go on after a fault that was one of the pit's
        self.constant: dict[Register, int] = {}
        self._permit(function)

    def _permit(self, function: ir.Function) -> None:
        if function.contract is None:
            return
        for parameter in function.contract.parameters:
            start = self.world.arguments[function.parameters.index(parameter)]
            size = self.build.program.structs[parameter.type.struct or ""].size
            self.trace.permitted.update(range(start, start + size))
        for name in function.contract.variables:
            start = self.build.symbols[name]
            self.trace.permitted.update(range(start, start + self.build.program.variables[name].size))

    # ------------------------------------------------------------------------------------------------------- the plan

    def _plan(self) -> Iterator[Step]:
        resumer, suspender = self.resumer, self.suspender
        if resumer is suspender:
            yield from self._switches(suspender)
        else:
            yield from self._returns_again(suspender, resumer)

    def _switches(self, function: ir.Function) -> Iterator[Step]:
        """Every caller is suspended once, and then one resumes another: in a circle, and then in any order."""
        waiting = []
        for region in self.regions[1:]:
            waiting.append(self._context(region))
            yield self._step(function, region, waiting[-1], None)
        running = self.regions[0]
        for turn in range(TURNS):
            chosen = waiting.pop(0 if turn < len(self.regions) else self.random.randrange(len(waiting)))
            own = self._context(running)
            waiting.append(own)
            yield self._step(function, running, own, chosen)
            self._release(chosen)
            running = chosen.region

    def _returns_again(self, suspender: ir.Function, resumer: ir.Function | None) -> Iterator[Step]:
        """Calls return once as they are suspended, and again as often as they are resumed: from further down on their
        own stack, and from others."""
        known = []
        for region in self.regions[:2]:
            known.append(self._context(region))
            known[-1].again = True
            yield self._step(suspender, region, known[-1], known[-1])
        if resumer is None:
            return
        for turn in range(TURNS):
            chosen = known[turn % 2] if turn < 2 else self.random.choice(known)
            region = chosen.region if turn < 2 else self.random.choice(self.regions)
            yield self._step(resumer, region, None, chosen)

    def _context(self, region: Region) -> Context:
        place = self.free.pop(self.random.randrange(len(self.free)))
        context = Context(region, place)
        self.contexts.append(context)
        return context

    def _release(self, context: Context) -> None:
        self.contexts.remove(context)
        self.free.append(context.place)

    def _step(self, function: ir.Function, region: Region, own: Context | None, resumed: Context | None) -> Step:
        suspension = function.suspension
        assert suspension is not None
        arguments: dict[ir.Variable, int] = {}
        result: int | None = None
        if suspension.suspends is not None and own is not None:
            arguments[suspension.suspends] = own.place
        if suspension.resumes is not None:
            pit = self.bottom if self.word_at is None else BOTTOM
            arguments[suspension.resumes] = resumed.handle if resumed is not None else pit
        if suspension.giving is not None:
            bits = suspension.giving.type.bits
            value = self.random.choice((0, 0, 1, (1 << bits) - 1, self.random.getrandbits(bits)))
            arguments[suspension.giving] = value
            result = value or suspension.instead or 0
        elif suspension.resumes is None and function.result is not None:
            result = 0
        return Step(function, region, own, resumed, arguments, result)

    # -------------------------------------------------------------------------------------------------------- running

    def run(self) -> None:
        machine, bench = self.machine, self.bench
        machine.restore(bench.initial)
        for base, image in self.world.images.items():
            machine.write(base, image)
        thread, masks = of_thread(self.architecture), bench.masks
        self.constant = {r: self.random.getrandbits(r.bits) & masks[r] for r in bench.reserved & thread if r in masks}
        self.steps = self._plan()
        with bench.lent(PIT, self._in_pit):
            pit = BOTTOM.to_bytes(self.word, self.order)
            machine.write(PIT.base, pit * (PIT.size // self.word))
            machine.write(self.bottom, (pit * (self.size // self.word + 1))[: self.size])
            self._go_through(self._next_step())
        if self.finished and self.scenario is not None and not self.violations:
            execution = self._script(self.world.sp)
            for _ in execution.run(self.scenario.finally_):
                break

    def _go_through(self, entry: int) -> None:
        self.again = entry
        while self.again is not None:
            entry, self.again = self.again, None
            super()._go_through(entry)

    def _stopped(self, stop: Stop) -> None:
        """In the pit: a context may hold an address in another form than as it is, and then control goes nowhere."""
        step = self.current
        if step is not None and step.resumes is None and stop.reason == "fault" and self.machine.sp not in step.region:
            self.again = self._suspended_in_pit(step)
            return
        super()._stopped(stop)

    def _next_step(self) -> int:
        """Make the next call, and return where it begins. The run ends where there is none."""
        step = next(self.steps, None)
        if step is None:
            self.finished = True
            self._end()
            raise AssertionError("the run has ended")
        self.current = step
        function, convention = step.function, step.function.convention
        values = dict(zip(function.parameters, self.world.arguments, strict=False)) if function is self.function else {}
        values |= step.arguments
        for parameter in function.parameters:
            values.setdefault(parameter, self.random.getrandbits(parameter.type.bits))
        self._registers_at_entry(convention, self.constant)
        self.activations.clear()
        has_thread = isinstance(convention.thread, Register)
        arguments = tuple(values[parameter] for parameter in function.parameters)
        entry = self._begin(function, arguments, self._cfa(step), self.world.thread if has_thread else None, None)
        activation = self.activations[-1]
        self._bring_toc(activation, entry)
        if step.suspends is not None:
            step.suspends.activation = activation
        self.left = activation.sp
        self.last_values.clear()
        self.entering = bool(self.executed)
        self.out_of_bounds = False
        self.before = {r.base: self.machine.read(r.base, r.size) for r in self.build.plan.regions if not r.executable}
        return entry

    def _cfa(self, step: Step) -> int:
        """A stack pointer for a call: below all calls before it, aligned to no more than it has to."""
        alignment = max(step.function.convention.alignment, 1)
        top = step.region.end - OUTSIDE - self.started * BAND
        cfa = (top - self.random.randrange(BAND // 4)) // alignment * alignment
        return cfa - alignment if alignment < 64 and cfa % (2 * alignment) == 0 else cfa

    def _bring_toc(self, activation: Activation, entry: int) -> None:
        """A function with one entry has no table of contents of its own: callers bring any, and want it back
        (64-Bit ELF V2 ABI, 3.4.1, "Symbol values": local entry 0)."""
        toc, convention = self.architecture.toc, activation.function.convention
        code = self.bench.codes[activation.function.name]
        if toc is None or not convention.keeps(toc) or convention.descriptors or code.local_entry:
            return
        value = self.random.getrandbits(toc.bits) & self.bench.masks[toc]
        self.machine.set(toc, value)
        activation.registers[toc] = value

    # ------------------------------------------------------------------------------------------------------- arriving

    def _in_pit(self, address: int) -> None:
        if self.watcher is not None:
            self.watcher.settled()
        step = self.current
        if step is None or step.resumes is not None:
            message = f"goes on at {address:#x}, which is of a context that was resumed before"
            self._violate("effect", message, memory=address)
            self._end()
            return
        self._go(self._suspended_in_pit(step))

    def _suspended_in_pit(self, step: Step) -> int:
        assert step.suspends is not None
        self._suspend(step.suspends)
        return self._next_step()

    def _suspend(self, context: Context) -> None:
        """The caller waits, and nobody looks after what is below its stack pointer."""
        activation = context.activation
        assert activation is not None
        if context.again:
            context.floor = activation.cfa
        else:
            context.floor = self.left - activation.function.convention.red_zone
        if self.word_at is None:
            context.handle = context.place
        else:
            data = self.machine.read(context.place + self.word_at, self.word)
            context.handle = int.from_bytes(data, self.order)
        self._leave_below(context.region, context.floor)

    def _check_chain_of(self, suspended: Activation) -> None:
        """Where frames are chained, the word at the stack pointer that was left leads to the caller's frame."""
        if not suspended.function.convention.back_chain or self.left == suspended.cfa:
            return
        chain = int.from_bytes(self.machine.read(self.left, self.word), self.order)
        for _ in range(16):
            if chain == suspended.cfa:
                return
            if not any(chain in region for region in self.stack_of):
                break
            chain = int.from_bytes(self.machine.read(chain, self.word), self.order)
        message = "leaves a stack whose back chain does not lead to the caller's frame"
        self._violate("area", message, memory=self.left, expected=suspended.cfa, found=chain)

    def _leave_below(self, region: Region, floor: int) -> None:
        if self.spare != "below":
            self.machine.write(region.base, self._garbage(floor - region.base))

    def returned(self, address: int) -> None:
        if self.watcher is not None:
            self.watcher.settled()
        step, running = self.current, self.activations[-1]
        assert step is not None
        resumed = step.resumes.activation if step.resumes is not None else None
        if resumed is None or (address == running.return_address and resumed is not running):
            message = "returns to its caller, and does not go on in the context that it was given"
            self._violate("effect", message, expected=resumed.return_address if resumed else None, found=address)
            self._end()
            return
        if address != resumed.return_address:
            message = "goes on behind another call than the one that was suspended"
            self._violate("sp", message, expected=resumed.return_address, found=address)
            self._end()
            return
        again = resumed.function.suspension
        if again is not None and again.resumes is not None:
            # Compilers put landing pads behind calls of setjmp and its like alone, which only suspend.
            self._land(address)
        assert step.resumes is not None
        self._check_resumed(step, resumed)
        if step.suspends is not None:
            self._check_chain_of(running)
        if self.violations:
            self._end()
            return
        if step.suspends is not None:
            self._suspend(step.suspends)
        # The caller goes on: what was below its stack pointer, and what its call was given, is gone.
        self._leave_below(step.resumes.region, resumed.cfa)
        if self.watcher is not None:
            self.watcher.left(resumed, step.result)
        self._take_back(resumed)
        self._go(self._next_step())

    def _take_back(self, activation: Activation) -> None:
        """The memory above its stack pointer that a call was given is the caller's again."""
        if self.spare == "area":
            return
        start = activation.cfa
        end = start + max(activation.function.convention.area, activation.stack_bytes)
        for address in range(start, end):
            if self._given(address, activation):
                self.machine.write(address, self._garbage(1))

    def _check_resumed(self, step: Step, resumed: Activation) -> None:
        """Everything that a caller may rely on whose call returns."""
        function, convention = resumed.function, resumed.function.convention
        want = resumed.cfa + self._popped(resumed)
        sp = self.machine.sp
        if sp != want:
            away = f"{abs(sp - want)} bytes {'above' if sp > want else 'below'}"
            message = f"goes on with the stack pointer {away} where the caller's is when its call returns"
            self._violate("sp", message, register=self.architecture.sp.name, expected=want, found=sp)
        self._check_preserved(resumed)
        types = [p.type.value_type for p in function.parameters]
        result = function.result
        location = convention.place(types, result.value_type).result if result is not None else ()
        self._check_stacks("goes on", convention, location)
        if result is not None and step.result is not None:
            known = len(self.violations)
            self._check_value("the result", step.result, result, location, resumed.cfa)
            for index, violation in enumerate(self.violations[known:], known):
                message = violation.message.replace("what the source says", "what it was given")
                self.violations[index] = replace(violation, obligation="effect", message=message)
        if isinstance(convention.thread, Register):
            found = self.machine.get(convention.thread)
            if found != self.world.thread:
                message = f"goes on with another g in {convention.thread.name}: the thread is the same"
                name = convention.thread.name
                self._violate("preserve", message, register=name, expected=self.world.thread, found=found)
        self._check_thread_copy("goes on", convention)
        self._check_memory(step, resumed)

    def _check_memory(self, step: Step, resumed: Activation) -> None:
        """All memory, byte by byte, is as before the call, but for the frames of both calls and the contexts."""
        running = self.activations[-1]
        floors = {context.region.base: context.floor for context in self.contexts}
        assert step.resumes is not None
        floors[step.region.base] = running.cfa
        floors[step.resumes.region.base] = resumed.cfa  # on one stack, all below it are given up
        own = {id(running): running, id(resumed): resumed}.values()
        for region in self.build.plan.regions:
            before = self.before.get(region.base)
            if before is None:
                continue
            start = max(floors.get(region.base, region.base), region.base)
            now = self.machine.read(start, region.end - start)
            if now == before[start - region.base :]:
                continue
            for offset, (old, new) in enumerate(zip(before[start - region.base :], now, strict=True)):
                address = start + offset
                if old == new or self._of_context(address) or any(self._belongs(address, one) for one in own):
                    continue
                if address in self.trace.permitted:
                    continue
                word = max(address // self.word * self.word, start)
                self._violate(
                    "writes",
                    f"memory at {word:#x} ({self._name(word)}) has changed: it is of no frame, and not of the context",
                    memory=word,
                    expected=int.from_bytes(before[word - region.base :][: self.word], self.order),
                    found=int.from_bytes(now[word - start :][: self.word], self.order),
                )
                break

    def _belongs(self, address: int, activation: Activation) -> bool:
        """Whether a byte is of an area that a call was given, or a word whose own rule says what becomes of it."""
        if any(place <= address < place + self.word for place in activation.outside):
            return activation is self.activations[-1]
        return self._given(address, activation)

    def _of_context(self, address: int) -> bool:
        """Whether a byte is where the code keeps what it needs of the contexts that are at hand."""
        step = self.current
        assert step is not None
        if step.suspends is not None:
            place = step.suspends.place
            if self.word_at is None:
                if place <= address < place + self.size:
                    return True
            elif place + self.word_at <= address < place + self.word_at + self.word:
                return True
        if self.word_at is not None:
            return False
        place = step.resumes.place if step.resumes is not None else self.bottom
        return place <= address < place + self.size

    # ------------------------------------------------------------------------------------------------------ each step

    def _stack_at(self, sp: int, activation: Activation) -> Region | None:
        step = self.current
        assert step is not None
        own = step.region
        if own.base <= sp <= own.end and sp <= activation.cfa + self._popped(activation):
            self.left = sp
            return own
        if step.resumes is None:
            return PIT if sp in PIT else None
        region, resumed = step.resumes.region, step.resumes.activation
        assert resumed is not None
        if region.base <= sp <= region.end and sp <= resumed.cfa + self._popped(resumed):
            return region
        return None

    def innermost(self) -> Activation | None:
        step, sp = self.current, self.machine.sp
        running = super().innermost()
        if step is None or running is None:
            return None
        if sp in step.region and sp <= running.cfa:
            return running
        if step.resumes is None or step.resumes.again or sp not in step.resumes.region:
            return None  # what was in a frame that is gone is not all back yet
        return step.resumes.activation

    def _scramble_below(self, region: Region, floor: int) -> None:
        if region is not PIT:
            super()._scramble_below(region, floor)

    def _own_stack(self) -> tuple[int, int]:
        return 0, 0  # it is another one for each call

    def _may_write(self, address: int, size: int) -> bool:
        step, running = self.current, self.activations[-1]
        assert step is not None
        if address in step.region and address + size <= running.cfa:
            return True
        if address in PIT:
            return step.resumes is None
        owners = [running]
        if step.resumes is not None and step.resumes.activation is not None:
            owners.append(step.resumes.activation)
            if address in step.resumes.region and address + size <= owners[-1].cfa:
                return True
        return all(
            self._of_context(place)
            or place in self.trace.permitted
            or any(self._given(place, owner) for owner in owners)
            for place in range(address, address + size)
        )

    def _describe(self, address: int) -> str:
        running = self.activations[-1]
        for region in self.build.plan.regions:
            if address in region:
                if running.cfa in region and address >= running.cfa:
                    return f"{address - running.cfa} bytes above the caller's stack pointer: not its own"
                return f"in {region.name}: of no frame, and not of the context"
        return "outside of all memory"

    def _check_call(self, name: str, signature: ir.Signature, kinds: tuple[str, ...]) -> Arrival:
        self._violate("flow", f"calls {name}: what suspends or resumes calls nothing")
        self._end()
        raise AssertionError("the run has ended")


__all__ = ["Continue", "kind_of_run"]
