"""What machine code does where no source says what it should: a trace that is made while the code runs.

Conventions say where arguments and results are; what is there is taken for what is meant. A run of the same world with
other garbage has to do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ir
from .activations import Activation
from .extended import single_of_double
from .judge import Execute
from .oracle import Event
from .run_state import RunState
from .target import Convention, InRegister, Location, OnStack, Register
from .watchers import Watcher, Witness
from .world import Build, Bytes, World


@dataclass(frozen=True, slots=True)
class Seen:
    """A call that a function has made. `cfa`: of the function."""

    function: str
    cfa: int
    event: Event


class Free(Witness):
    """The trace of a trampoline without a body."""

    def __init__(self, build: Build, world: World, scenario: ir.Scenario | None, contract: ir.Contract) -> None:
        super().__init__()
        self.build = build
        self.world = world
        self.scenario = scenario
        self.contract = contract
        self.events = []
        self.calls: list[Seen] = []
        self.thread: int | None = None
        self.owned: list[tuple[int, int]] = []
        self.stops = [stack for name, stack in world.stack_tops.items() if name]
        self.entered = list(self.stops) if contract.switches else []

    # -- what the judge asks

    def start(self, run: Execute) -> None:
        self.memory = Bytes(self.world.images)
        self.thread = None
        self.owned = [
            (self.world.symbols[name], self.build.program.variables[name].size) for name in self.contract.variables
        ]
        if not self.recorded:
            self.events.clear()
            self.calls.clear()

    def begins(self, function: ir.Function, arguments: Sequence[int]) -> None:
        self._may_write(function, arguments)
        if isinstance(function.convention.thread, Register) and not self.contract.switches:
            self.thread = self.world.thread

    def _may_write(self, function: ir.Function, arguments: Sequence[int]) -> None:
        contract = function.contract
        if contract is None:
            return
        for parameter, value in zip(function.parameters, arguments, strict=True):
            if parameter in contract.parameters and parameter.type.struct and value:
                self.owned.append((value, self.build.program.structs[parameter.type.struct].size))

    def permits(self, address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + bytes_ for start, bytes_ in self.owned)

    def answered(self, run: RunState) -> None:
        if run.thread_register is not None and not self.contract.switches:
            self.thread = run.machine.get(run.thread_register)

    def event(self, run: RunState, kinds: tuple[str, ...], signature: ir.Signature | None) -> Event | None:
        if not run.activations or not {"call", "return"} & set(kinds):
            return None
        made: Event | None
        if "return" in kinds:
            made = self._returns(run, run.activations[-1])
        elif signature is None:
            made = self._calls_kernel(run)
        else:
            made = self._calls(run, signature)
            function = self.build.program.functions.get(signature.name)
            if function is not None and made is not None:
                self._may_write(function, made.arguments)
        if made is not None:
            self.events.append(made)
            activation = run.activations[-1]
            if made.kind == "call" and run.machine.sp != activation.sp:
                self.calls.append(Seen(activation.function.name, activation.cfa, made))
        return made

    def frame(self, function: str) -> int:
        """The size of a function's frame, from its CFA to the stack pointer at its first call."""
        for call in self.calls:
            if call.function == function and call.event.caller_sp is not None:
                return call.cfa - call.event.sp
        return 0

    # -- what there is

    def _calls(self, run: RunState, signature: ir.Signature) -> Event:
        convention, activation = signature.convention, run.activations[-1]
        span = activation.function.span
        sp = run.machine.sp
        cfa = sp + (run.word if convention.return_address is None else 0)
        assignment = convention.place(
            [type_.value_type for _, type_ in signature.parameters],
            signature.result.value_type if signature.result else None,
        )
        arguments = tuple(
            value_in(run, location, type_, cfa)
            for (_, type_), location in zip(signature.parameters, assignment.arguments, strict=True)
        )
        callee: str | ir.Expression = signature.name
        if run.bench.enters_through_pointer(run.executed):
            callee = ir.Constant(run.build.pointers[signature.name], _word(run), span)
        found = run._return_address(convention, sp)
        left = run._leads_home(found, activation)
        # What a callee that the judge plays is entered by makes no difference: it returns, and then the trampoline has.
        jumped = left and signature.name in self.build.program.functions
        node: ir.Call | ir.TailCall
        if jumped:
            node = ir.TailCall(callee, (), convention, span)
        else:
            node = ir.Call(callee, (), convention, None, None, None, span)
        top, here = self._top(run, activation, cfa)
        return Event(
            "jump" if jumped else "call",
            activation.function.name,
            signature.name,
            arguments,
            node,
            cfa,
            {},
            self._expected_thread(convention),
            None,
            activation.cfa if here else None,
            chain=_word_at(run, cfa),
            top=top,
        )

    def _calls_kernel(self, run: RunState) -> Event | None:
        """The number, and as many arguments as the check's handler takes, or as travel in registers."""
        kernel, activation = run.architecture.system_calls, run.activations[-1]
        if kernel is None:
            return None
        handler = self.scenario.handlers.get(ir.SYSTEM_CALL) if self.scenario else None
        registers = len(kernel.convention.integer_arguments)
        count = len(handler.parameters) if handler is not None else registers
        word = _word(run)
        locations = kernel.convention.place([word.value_type] * max(count, 1), None).arguments
        sp = run.machine.sp
        arguments = tuple(value_in(run, location, word, sp) for location in locations)
        if kernel.number_at is not None and run.executed:
            told = run.machine.read(run.executed[-1] + kernel.number_at, 1)[0]
            arguments = (told or arguments[0], *arguments[1:])
        span = activation.function.span
        named = tuple(ir.Constant(value, word, span) for value in arguments)
        node = ir.Call(ir.SYSTEM_CALL, named, kernel.convention, word, None, None, span)
        top, _ = self._top(run, activation, sp)
        name = activation.function.name
        return Event("call", name, ir.SYSTEM_CALL, arguments, node, sp, {}, None, None, None, top=top)

    def _returns(self, run: RunState, activation: Activation) -> Event:
        function = activation.function
        types = [p.type.value_type for p in function.parameters]
        result = None
        if function.result is not None:
            location = function.convention.place(types, function.result.value_type).result
            result = value_in(run, location, function.result, activation.cfa)
        thread = self._expected_thread(function.convention)
        return Event("return", function.name, "", (), None, activation.cfa, {}, thread, None, None, result)

    def _expected_thread(self, convention: Convention) -> int | None:
        return self.thread if isinstance(convention.thread, Register) else None

    def _top(self, run: RunState, activation: Activation, cfa: int) -> tuple[int, bool]:
        """Where the stack of a call ends, and whether it is the one that the trampoline was entered on."""
        for region in run.stack_of:
            if cfa in region:
                if activation.cfa in region:
                    return activation.cfa, True
                return max((top for top in self.entered if top in region), default=region.end), False
        return activation.cfa, True


class Observer(Free):
    """Looks how a trampoline lays out its frame, and judges nothing: the source says later what is right."""

    def __init__(self, build: Build, world: World, scenario: ir.Scenario | None) -> None:
        super().__init__(build, world, scenario, ir.Contract(switches=True))
        self.entered = [region.end - 1 for region in build.plan.stacks]
        self.left_at: dict[str, int] = {}  # how deep a function's stack was when it left it for another one

    def permits(self, address: int, size: int) -> bool:
        return True

    def frame(self, function: str) -> int:
        """The size of a function's frame: at its first call that is not in an `on stack` block, or where it leaves its
        stack for such a block."""
        inside = _called_in_blocks(self.build.program.functions[function])
        for call in self.calls:
            if call.function == function and call.event.caller_sp is not None and call.event.callee not in inside:
                return call.cfa - call.event.sp
        return self.left_at.get(function, super().frame(function))

    def switched_frame(self, function: str, tops: Sequence[int]) -> int | None:
        """The size of its frame on another stack, of those that its blocks have entered at `tops`."""
        for call in self.calls:
            region = next((r for r in self.build.plan.stacks if call.event.sp in r), None)
            if call.function == function and call.event.caller_sp is None and region is not None:
                above = [top for top in tops if top in region and top >= call.event.sp]
                if above:
                    return min(above) - call.event.sp
        return None

    def slots(self, function: ir.Function) -> dict[str, int]:
        """Where the structs of a function's frame are, as far as their addresses have been passed to callees: bytes
        above the stack pointer."""
        found: dict[str, int] = {}
        frame = self.frame(function.name)
        for node in ir.walk(function.body):
            if not isinstance(node, (ir.Call, ir.TailCall)):
                continue
            for index, argument in enumerate(node.arguments):
                if not isinstance(argument, ir.SlotAddress) or argument.variable.name in found:
                    continue
                call = next((c for c in self.calls if c.function == function.name and self._is(c, node)), None)
                if call is not None:
                    found[argument.variable.name] = call.event.arguments[index] - (call.cfa - frame)
        return found

    def _is(self, call: Seen, node: ir.Call | ir.TailCall) -> bool:
        if isinstance(node.callee, str):
            return call.event.callee == node.callee
        return call.event.callee.startswith("*") and len(call.event.arguments) == len(node.arguments)


class Depths(Watcher):
    """Tells an observer how deep a stack is when it is left for another one."""

    def __init__(self, run: Execute, observer: Observer) -> None:
        self.run = run
        self.observer = observer
        self.last: dict[str, int] = {}

    def instruction(self, address: int) -> None:
        if not self.run.activations:
            return
        activation, sp = self.run.activations[-1], self.run.machine.sp
        name = activation.function.name
        if any(activation.cfa in region and sp in region for region in self.run.stack_of):
            self.last[name] = activation.cfa - sp
        elif name in self.last:
            self.observer.left_at.setdefault(name, self.last[name])


def _called_in_blocks(function: ir.Function) -> set[str]:
    """The callees of `on stack` blocks; those that are called through pointers by the beginning of their names."""
    blocks = [node for node in ir.walk(function.body) if isinstance(node, ir.OnStack)]
    calls = [node for block in blocks for node in ir.walk(block.body) if isinstance(node, ir.Call)]
    return {node.callee for node in calls if isinstance(node.callee, str)}


def value_in(run: RunState, location: Location, type_: ir.Type, cfa: int) -> int:
    """The value of a type that is in a location now, as the interpreter has values."""
    value = 0
    for part in location:
        value |= _piece(run, part.place, part.bits, part.extend_to, part.as_double, cfa) << part.low
    if type_.signed and value >> (type_.bits - 1):
        value -= 1 << type_.bits
    return value


def _piece(run: RunState, place: InRegister | OnStack, bits: int, extend_to: int, as_double: bool, cfa: int) -> int:
    width = extend_to or (64 if as_double else bits)
    match place:
        case InRegister(register, left):
            found = run.machine.get(register) >> run._left_shift(register, left, width)
        case OnStack(offset):
            found = int.from_bytes(run.machine.read(cfa + offset, width // 8), run.order)
    if as_double:
        found = single_of_double(found & ((1 << 64) - 1))
    return found & ((1 << bits) - 1)


def _word(run: RunState) -> ir.Type:
    return ir.Type("uptr", "int", 8 * run.word)


def _word_at(run: RunState, address: int) -> int:
    """What is there; 0 outside of all memory."""
    if not any(address in region for region in run.build.plan.regions):
        return 0
    return int.from_bytes(run.machine.read(address, run.word), run.order)
