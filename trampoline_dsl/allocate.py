"""Virtual registers to physical ones.

Trampolines are small and full of calls that change every register. So: what lives across such a call gets a home in a
frame, is stored where it is made and loaded where it is next used, once for each stretch between calls; the rest is
coloured greedily in program order, with each value drawn to the register that it comes from or has to go to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal

from .diagnostics import Diagnostic, InputError
from .lir import (
    DECLARED,
    ENDS_BLOCK,
    NO_FALL_THROUGH,
    REMOVABLE,
    STORES,
    THREAD,
    Body,
    Home,
    Lost,
    Operation,
    VirtualRegister,
)
from .records import dataclass
from .target import Architecture, Convention, Register, allocatable, float_allocatable


@dataclass(frozen=True, slots=True)
class Allocation:
    """The operations that are left, and the register of every virtual register in them."""

    operations: tuple[Operation, ...]
    registers: Mapping[VirtualRegister, Register]

    def __getitem__(self, value: VirtualRegister) -> Register:
        return value.fixed if value.fixed is not None else self.registers[value]


def allocate(body: Body, architecture: Architecture) -> Allocation:
    """Choose a register or a home for every value of a body. `body.homes` grows by what is spilled."""
    kinds = {o.kind for o in body.operations}
    operations: Sequence[Operation] = body.operations
    if "thread_load" in kinds or "thread_store" in kinds:
        operations = _share_thread_loads(body)
    if "constant" in kinds and architecture.zero is not None:
        operations = _store_zeros(operations, architecture.zero)
    if "outgoing" in kinds and "call" in kinds:
        operations = _hoist_outgoing(operations)
    operations, live, loops = _remove_dead(operations)
    # What matters is asked of all operations; only where something is widened, or later spilled.
    everything, bits = operations, None
    if "extend" in kinds:
        bits = _bits_that_matter(everything, 8 * architecture.word)
        operations = _drop_widening(operations, bits)
    crossing = _live_across_switches(operations, live) if "switch_stack" in kinds else 0
    for value in _values(operations) if crossing else ():
        if crossing >> value.number & 1:
            value.temporary = value.short = True  # there is no place for it: the frame is another one then
    incoming = _incoming(operations, crossing) if "home_load" in kinds else None
    if incoming:
        operations = _spill(body, operations, incoming, architecture, loops)
        operations, live, loops = _remove_dead(operations)
    costly = _register_file(architecture, body.convention).costly(body.lost)  # unless it is paid for already
    while True:
        colouring = _Colouring(body, operations, architecture, live, crossing, costly)
        victims = colouring.run()
        if not victims:
            colours = colouring.colours()
            kept = [o for o in operations if o.kind != "move" or not _same(o, colours)]
            return Allocation(tuple(kept), colours)
        if bits is None:
            bits = _bits_that_matter(everything, 8 * architecture.word)
        # Every round leaves fewer values that can be spilled, so this ends.
        some = [v for v in victims if not v.temporary]
        share = bool(some)
        homes = _homes_of(some or victims, body, operations, architecture, bits)
        operations = _spill(body, operations, homes, architecture, loops, share=share)
        operations, live, loops = _remove_dead(operations)


def _values(operations: Iterable[Operation]) -> Iterator[VirtualRegister]:
    for operation in operations:
        yield from operation.defs
        yield from operation.uses


def _live_across_switches(operations: Sequence[Operation], live: Sequence[int]) -> int:
    """The values that are needed behind a switch to another frame."""
    total = 0
    for operation, after in zip(operations, live, strict=True):
        if operation.kind == "switch_stack":
            total |= after
    return total & ~_FIXED


def _incoming(operations: Sequence[Operation], crossing: int) -> dict[VirtualRegister, Home]:
    """The homes of values that arrived in memory, but for those that cannot stay there."""
    found = {}
    for operation in operations:
        home = operation.home
        if home is not None and home.incoming is not None and operation.kind == "home_load":
            [value] = operation.defs
            if not crossing >> value.number & 1:
                found[value] = home
    return found


def _homes_of(
    victims: Sequence[VirtualRegister],
    body: Body,
    operations: Sequence[Operation],
    architecture: Architecture,
    bits: Mapping[VirtualRegister, int],
) -> dict[VirtualRegister, Home]:
    """New homes, each on the innermost stack from which all that is done with the value can be reached."""
    contexts: dict[VirtualRegister, set[int]] = {value: set() for value in victims}
    for operation in operations:
        for value in (*operation.defs, *operation.uses):
            if value in contexts:
                contexts[value].add(operation.context)
    homes = {}
    for value in contexts:
        size = value.bits // 8 if value.floating else architecture.word
        if not value.floating and 0 < bits.get(value, 64) <= 32:
            size = 4
        home = Home(value.name, size, _innermost_common(body, contexts[value]), "lives across a call")
        body.homes.append(home)
        homes[value] = home
    return homes


def _innermost_common(body: Body, contexts: set[int]) -> int:
    """A block's stack has a higher number than the one around it."""
    while len(contexts) > 1:
        highest = max(contexts)
        contexts = contexts - {highest} | {body.contexts[highest].parent}
    return contexts.pop()


def _same(operation: Operation, colours: Mapping[VirtualRegister, Register]) -> bool:
    d, s = operation.defs[0], operation.uses[0]
    return (d.fixed or colours.get(d)) is (s.fixed or colours.get(s))


# -------------------------------------------------------------------------------------------------------- preparation


def _share_thread_loads(body: Body) -> list[Operation]:
    """One register has the thread's slot from a load or a store of it until the next call; it is loaded anew only
    where some way to here has not got it. Where the slot leads to g, another one has g: until something is stored, if
    the body knows where that is."""
    operations = body.operations
    shared = (body.new_register("place", False, 0), body.new_register("g", False, 0))
    known_place = any(o.kind == "thread_load" and o.symbol != THREAD for o in operations)
    backward = _backward_labels(operations)
    at_label: dict[str, tuple[bool, bool]] = {}
    has, falls = [False, False], True  # the slot; what it leads to
    result: list[Operation] = []
    for operation in operations:
        kind = operation.kind
        if kind == "label":
            arriving = at_label.get(operation.label, (True, True))
            forward = operation.label not in backward
            has = [came and (had or not falls) and forward for came, had in zip(arriving, has, strict=True)]
            falls = True
        if kind in ("call", "asm", "thread_store"):
            has = [False, False]
        which = int(operation.symbol == THREAD and kind != "thread_load")
        if kind == "thread_load" or (kind == "load" and which):
            if not has[which]:
                result.append(operation.with_registers((shared[which],), operation.uses))
            has[which] = True
            operation = _move(operation.defs, shared[which], operation)
        elif kind == "thread_store" or (kind == "store" and which):
            result.append(_move((shared[which],), operation.uses[0], operation))
            operation = operation.with_registers((), (shared[which], *operation.uses[1:]))
            has[which] = True
        elif kind == "store" and known_place:
            has[1] = False
        result.append(operation)
        if kind in ("branch", "jump"):
            known = at_label.get(operation.label, (True, True))
            at_label[operation.label] = (known[0] and has[0], known[1] and has[1])
        if kind in NO_FALL_THROUGH:
            falls = False
    return result


def _move(defs: tuple[VirtualRegister, ...], source: VirtualRegister, near: Operation) -> Operation:
    return Operation("move", defs, (source,), span=near.span, context=near.context)


def _store_zeros(operations: Sequence[Operation], zero: Register) -> Sequence[Operation]:
    """Zeros that are stored take no register on machines that can do without."""
    zeros = {o.defs[0] for o in operations if o.kind == "constant" and o.value == 0}
    if not zeros:
        return operations
    definitions = [value for operation in operations for value in operation.defs if value in zeros]
    zeros = {value for value in zeros if definitions.count(value) == 1}
    stored = VirtualRegister(0, "zero", fixed=zero)
    return [
        o.with_registers(o.defs, (stored, *o.uses[1:])) if o.kind in STORES and o.uses[0] in zeros else o
        for o in operations
    ]


_LOW_BITS = frozenset({"add", "sub", "mul", "and", "or", "xor"})  # the low bits of these come from low bits alone


def _bits_that_matter(operations: Sequence[Operation], word: int) -> dict[VirtualRegister, int]:
    """How many of the low bits of each integer somebody looks at."""
    matter: dict[VirtualRegister, int] = {}
    passed_on: list[tuple[VirtualRegister, VirtualRegister]] = []  # what the first gets of the second's bits matters
    for operation in reversed(operations):
        kind, result = operation.kind, operation.defs[0] if operation.defs else None
        passes_on = kind == "move" or (kind == "binary" and operation.operator in _LOW_BITS)
        follows = passes_on and result is not None and result.fixed is None and not result.floating
        for index, value in enumerate(operation.uses):
            bits = word
            if follows:
                assert result is not None
                passed_on.append((result, value))
                bits = matter.get(result, 0)
            elif kind in STORES and index == 0:
                bits = operation.bits
            elif kind == "extend":
                bits = max(operation.bits, operation.value)
            elif kind in ("call", "tail_call", "return"):
                place = operation.places[index]
                bits = (operation.narrow or {}).get(place, word) if place is not None else word
            if bits > matter.get(value, 0):
                matter[value] = bits
    changed = True
    while changed:
        changed = False
        for result, value in passed_on:
            bits = matter.get(result, 0)
            if bits > matter.get(value, 0):
                matter[value] = bits
                changed = True
    return matter


def _drop_widening(operations: Sequence[Operation], bits: Mapping[VirtualRegister, int]) -> list[Operation]:
    """Values are held widened by their types. Where nobody looks at the upper bits, they may be anything.
    Nor is done again what a convention has done as far as somebody looks."""
    return [
        Operation("move", o.defs, o.uses, context=o.context, span=o.span)
        if o.kind == "extend" and 0 < bits.get(o.defs[0], 0) <= max(o.bits, o.value) and o.defs[0].fixed is None
        else o
        for o in operations
    ]


def _backward_labels(operations: Sequence[Operation]) -> set[str]:
    """Labels that are jumped to from behind them: at those, what is known before the loop may not hold."""
    seen: set[str] = set()
    backward = set()
    for operation in operations:
        if operation.kind == "label":
            seen.add(operation.label)
        elif operation.kind in ("branch", "jump") and operation.label in seen:
            backward.add(operation.label)
    return backward


def _hoist_outgoing(operations: Sequence[Operation]) -> list[Operation]:
    """An argument that travels in memory is stored before the calls that would change its register, where they leave
    the place alone: then it need not be kept anywhere else meanwhile."""
    result: list[Operation] = []
    called = False
    for operation in operations:
        if operation.kind == "call":
            called = True
        if operation.kind != "outgoing" or not called:
            result.append(operation)
            continue
        source, place = operation.uses[0], operation.value
        target = len(result)
        crossed = 0
        for index in range(len(result) - 1, -1, -1):
            other = result[index]
            if other.kind in ("label", "enter_stack", "leave_stack", "enter", "asm") or other.kind in ENDS_BLOCK:
                break
            if source in other.defs or source.fixed is not None:
                break
            if other.kind in ("outgoing", "out_load"):
                end = other.value + other.bits // 8
                if other.value < place + operation.bits // 8 and place < end:
                    break
            if other.kind == "call":
                convention = other.convention
                assert convention is not None
                if max(other.value, convention.area) > place:
                    break
                crossed += 1
                target = index
        result.insert(target if crossed else len(result), operation)
    return result


# ------------------------------------------------------------------------------------------------------------ liveness


_FIXED = 1 << 0  # stands for all fixed registers in sets of values; those are always live


def _remove_dead(operations: Sequence[Operation]) -> tuple[Sequence[Operation], list[int], set[str]]:
    """Without operations whose results nobody reads, and without what cannot be reached; the values that are live
    behind each of the rest, as a set of bits by their numbers; and the labels that are jumped to from behind."""
    current, loops = _reachable(operations)
    while True:
        at_label = _at_loops(current) if loops else {}
        now_at_label = dict(at_label)
        kept, live, dropped = _sweep(current, now_at_label, "all")
        if not dropped:
            return kept, live, loops
        if not now_at_label or len(_reachable(kept)[0]) == len(kept):
            # A load that went may have been the last one of its home.
            if not loops and "home_load" not in dropped:
                return kept, live, loops
            current = kept
        else:
            # Jumps came to say nothing. Which other ones and which labels are left is a matter of order: it is that of
            # rounds, each of which removes what is dead at its beginning.
            kept, _, _ = _sweep(current, at_label, "these")
            current, loops = _reachable(kept)


def _at_loops(operations: Sequence[Operation]) -> dict[str, int]:
    """What is live at labels. At the beginning of a loop that is known only when all of it has been seen."""
    at_label: dict[str, int] = {}
    known = None
    while known != at_label:
        known = dict(at_label)
        _sweep(operations, at_label, "none")
    return at_label


def _sweep(
    operations: Sequence[Operation], at_label: dict[str, int], remove: Literal["none", "these", "all"]
) -> tuple[list[Operation], list[int], set[str]]:
    """Backwards through all operations: those that are left, what is live behind each of them, and the kinds of those
    that went, as dead: "these", or "all" that are when these have gone. `at_label` is what is live at labels: it is
    filled, and has to know those that are jumped to from behind."""
    kept: list[Operation] = []
    live: list[int] = []
    dropped: set[str] = set()
    loaded: set[Home | None] | None = None
    now = _FIXED
    for operation in reversed(operations):
        kind = operation.kind
        defined = 0
        for value in operation.defs:
            defined |= 1 << value.number
        dead = False
        if kind in REMOVABLE:
            dead = not defined & now
        elif kind == "label":
            at_label[operation.label] = now
        elif kind in ENDS_BLOCK:
            then = at_label.get(operation.label, _FIXED)
            now = now | then if kind == "branch" else then
        elif kind == "home_store":
            if _private(operation.home):
                if loaded is None:
                    loaded = {o.home for o in operations if o.kind == "home_load"}
                dead = operation.home not in loaded
        elif kind == "enter" and defined & ~now and remove != "none":
            operation = _without_unread(operation, now)
            dropped.add(kind)
        if dead and remove != "none":
            dropped.add(kind)
            if remove == "all":
                continue
        else:
            kept.append(operation)
            live.append(now)
        if defined:
            now = now & ~defined | _FIXED
        for value in operation.uses:
            now |= 1 << value.number
    kept.reverse()
    live.reverse()
    return kept, live, dropped


def _without_unread(enter: Operation, live: int) -> Operation:
    """Parameters that nobody reads need no register of their own."""
    read = [(d, r) for d, r in zip(enter.defs, enter.results, strict=True) if live >> d.number & 1]
    made = enter.with_registers(tuple(d for d, _ in read), ())
    made.results = tuple(r for _, r in read)
    return made


_CONTROL = ENDS_BLOCK | {"label"}


def _private(home: Home | None) -> bool:
    """A spill's home is nobody's business; a slot that the source declares may be read by others, by its place."""
    return home is not None and home.pin is None and home.reason != DECLARED


def _reachable(operations: Sequence[Operation]) -> tuple[Sequence[Operation], set[str]]:
    """What control reaches from the beginning, without labels and jumps that say nothing; and the labels that are
    jumped to from behind. Those are reached from above first: there are no other loops than structured ones."""
    loops: set[str] = set()
    if [o for o in operations if o.kind in _CONTROL] == [operations[-1]]:
        return operations, loops
    reached: list[Operation] = []
    labels: set[str] = set()
    targets: set[str] = set()
    falls, needless, before = True, False, ""
    for operation in operations:
        kind = operation.kind
        if kind == "label":
            labels.add(operation.label)
            falls = falls or operation.label in targets
            needless = needless or operation.label == before
            if falls:
                reached.append(operation)
            continue
        before = ""
        if falls:
            reached.append(operation)
            if kind in ENDS_BLOCK:
                if kind == "branch" or kind == "jump":
                    before = operation.label
                    targets.add(before)
                    if before in labels:
                        loops.add(before)
                falls = kind == "branch"
    if not needless and labels <= targets:
        return reached, loops
    result: list[Operation] = []
    following: set[str] = set()  # labels that come next
    for operation in reversed(reached):
        kind = operation.kind
        if kind == "label":
            following.add(operation.label)
            if operation.label not in targets:
                continue
        else:
            # A branch to what comes next anyway says nothing.
            needless = (kind == "jump" or kind == "branch") and operation.label in following
            following.clear()
            if needless:
                continue
        result.append(operation)
    result.reverse()
    return result, loops


# ----------------------------------------------------------------------------------------------------- register files


class _RegisterFile:
    """The registers that values may live in, as sets of bits: of two, the better one has the lower bit."""

    def __init__(self, architecture: Architecture, convention: Convention) -> None:
        integer = allocatable(architecture, convention)
        floating = float_allocatable(architecture, convention)
        self.bits = {register: 1 << place for place, register in enumerate((*integer, *floating))}
        self.registers = {bit: register for register, bit in self.bits.items()}
        self.integer = self.set(integer)
        self.floating = self.set(floating)
        self.bytes = self.set(architecture.byte_registers or self.bits)
        self.kept = [
            (register, mask, self.bits[register]) for register, mask in convention.kept.items() if register in self.bits
        ]
        self.all_kept = self.set(convention.kept)
        self.together = lru_cache(maxsize=256)(self.set)  # `set`, where the same ones are asked for again
        self.costly = lru_cache(maxsize=256)(self._costly)

    def set(self, registers: Iterable[Register | None]) -> int:
        total = 0
        for register in registers:
            total |= self.bits.get(register, 0)  # type: ignore[arg-type]
        return total

    def _costly(self, lost: Lost) -> int:
        """Those that the caller wants back, and that have to be saved for that alone."""
        return sum([bit for register, mask, bit in self.kept if register not in lost or mask & ~lost[register]])


@lru_cache(maxsize=1024)
def _register_file(architecture: Architecture, convention: Convention) -> _RegisterFile:
    return _RegisterFile(architecture, convention)


# -------------------------------------------------------------------------------------------------------------- spills


def _spill(
    body: Body,
    operations: Sequence[Operation],
    homes: Mapping[VirtualRegister, Home],
    architecture: Architecture,
    loops: set[str],
    *,
    share: bool = True,
) -> list[Operation]:
    """Give values homes: stored behind every definition, loaded before a use unless a register still has the value
    (or, without `share`, before every use).

    A value that arrived in memory has its home there and is not stored until it is set anew.
    """
    if not homes:
        return list(operations)
    result: list[Operation] = []
    cache: dict[VirtualRegister, VirtualRegister] = {}
    at_label: dict[str, dict[VirtualRegister, VirtualRegister]] = {}
    file = _register_file(architecture, body.convention)
    cheap = ~file.costly(body.lost)
    spilled = homes.keys()
    falls = True
    made: dict[VirtualRegister, VirtualRegister] | None
    stores: list[Operation] = []
    for operation in operations:
        kind = operation.kind
        if kind == "label":
            arriving = at_label.get(operation.label)
            if operation.label in loops:
                cache = {}
            elif arriving is not None:
                cache = _agree(cache, arriving) if falls else dict(arriving)
            falls = True
        uses, defs = operation.uses, operation.defs
        if not spilled.isdisjoint(uses):
            for value in uses:
                if value in homes and value not in cache:
                    fresh = cache[value] = _renewed(body, value, share)
                    base = _reach(body, homes[value], operation, result)
                    result.append(_home_load(fresh, homes[value], base, operation, architecture))
            uses = tuple([cache[value] if value in homes else value for value in uses])
            operation = operation.with_registers(defs, uses)
        made = None
        if not spilled.isdisjoint(defs):
            home = operation.home
            if kind == "home_load" and home is homes[defs[0]] and home is not None and home.incoming is not None:
                # The value stays where it is until somebody wants it.
                continue
            made, stores = {}, []
            for value in defs:
                if value in homes:
                    fresh = made[value] = _renewed(body, value, share)
                    base = _reach(body, homes[value], operation, stores)
                    stores.append(_home_store(fresh, homes[value], base, operation, architecture))
            operation = operation.with_registers(tuple([made.get(value, value) for value in defs]), uses)
        result.append(operation)
        if kind == "call" or kind == "asm":
            # To save a register that the caller wants back, and restore it, is more than to load the value again.
            left = cheap & ~file.together(operation.clobbers)
            cache = {v: r for v, r in cache.items() if left & (file.floating if r.floating else file.integer)}
        if made:
            cache |= made
            result += stores
        if not share:
            cache = {}
        if kind in ENDS_BLOCK:
            if kind == "branch" or kind == "jump":
                known = at_label.get(operation.label)
                at_label[operation.label] = dict(cache) if known is None else _agree(known, cache)
            if kind != "branch":
                falls = False
                cache = {}
    return result


def _agree(
    one: Mapping[VirtualRegister, VirtualRegister], two: Mapping[VirtualRegister, VirtualRegister]
) -> dict[VirtualRegister, VirtualRegister]:
    return {value: register for value, register in one.items() if two.get(value) is register}


def _renewed(body: Body, value: VirtualRegister, share: bool) -> VirtualRegister:
    """What stands for a spilled value between a load or a definition of it and the next call."""
    fresh = body.new_register(value.given_name, value.floating, value.bits)
    fresh.temporary = True
    fresh.short = not share
    fresh.byte = value.byte
    return fresh


def _reach(body: Body, home: Home, near: Operation, result: list[Operation]) -> tuple[VirtualRegister, ...]:
    """The stack pointer of a home's frame, loaded by operations appended to `result`; nothing where it is sp."""
    base: tuple[VirtualRegister, ...] = ()
    context = near.context
    while context != home.context:
        saved = body.contexts[context].saved_sp
        assert saved is not None
        outer = body.new_register("old sp", False, 0)
        outer.temporary = outer.short = True
        result.append(
            Operation(
                "home_load", (outer,), base, bits=8 * saved.size, home=saved, context=near.context, span=near.span
            )
        )
        base = (outer,)
        context = body.contexts[context].parent
    return base


def _home_load(
    value: VirtualRegister,
    home: Home,
    base: tuple[VirtualRegister, ...],
    near: Operation,
    architecture: Architecture,
) -> Operation:
    bits = home.bits or min(8 * home.size, 64 if value.floating else 8 * architecture.word)
    return Operation(
        "home_load", (value,), base, bits=bits, signed=home.signed, home=home, context=near.context, span=near.span
    )


def _home_store(
    value: VirtualRegister,
    home: Home,
    base: tuple[VirtualRegister, ...],
    near: Operation,
    architecture: Architecture,
) -> Operation:
    bits = home.bits or min(8 * home.size, 64 if value.floating else 8 * architecture.word)
    return Operation("home_store", (), (value, *base), bits=bits, home=home, context=near.context, span=near.span)


# ----------------------------------------------------------------------------------------------------------- colouring


# Operations that tie values to registers.
_TIES = frozenset({"call", "asm", "enter", "tail_call", "return", "switch_stack"})
_ALIKE = frozenset({"move", "binary", "extend"})  # whose result had better be where the first operand is
_READING_LATE = frozenset({"enter_stack", "frame_out", "frame_in"})  # which have results before all operands are read


class _Colouring:
    """One attempt to give every value a register. `run` returns the values to spill if that fails.

    Values are known by their numbers, and registers by their bits. What is live behind an operation interferes with
    what it sets: that is noted for what is set alone, and so two values have to be asked for each other. Values are
    coloured in the order in which they appear."""

    def __init__(
        self,
        body: Body,
        operations: Sequence[Operation],
        architecture: Architecture,
        live: Sequence[int],
        crossing: int,
        costly: int,
    ) -> None:
        self.body = body
        self.operations = operations
        self.two_address = architecture.two_address
        self.live = live
        self.crossing = crossing
        self.file = _register_file(architecture, body.convention)
        self.values: list[VirtualRegister] = []  # in the order of their appearance
        self.given: dict[int, int] = {}
        self.costly = costly  # the registers that have to be saved for what is put into them
        self.holders: dict[int, int] = {}  # by register: the values that it was given to
        self.barred: dict[int, int] = {}  # by register: the values that those interfere with
        numbers = body.count + 1
        self.neighbours = [0] * numbers  # what is live where a value is set, itself too
        self.forbidden = [0] * numbers
        self.preferred: list[tuple[int, ...]] = [()] * numbers
        self.partners: list[tuple[int, ...]] = [()] * numbers
        self.tied = 0  # registers with a meaning of their own in this body
        self.lost: dict[int, int] = {}  # by registers that are lost at once: the values that are live meanwhile
        self.order: dict[int, int] = {}  # by number, the place in `values`; this and the next only where one is spilled
        self.lengths: list[int] = []  # by number, behind how many operations a value is live

    def colours(self) -> dict[VirtualRegister, Register]:
        registers, given = self.file.registers, self.given
        return {value: registers[given[value.number]] for value in self.values}

    def run(self) -> list[VirtualRegister]:
        self._constraints()
        victims: list[VirtualRegister] = []
        file, given = self.file, self.given
        holders, barred, neighbours = self.holders, self.barred, self.neighbours
        integer = file.integer & ~self.tied
        for value in self.values:
            number = value.number
            allowed = (file.floating if value.floating else integer) & ~self.forbidden[number]
            if value.byte:
                allowed &= file.bytes
            best = self._best(number, allowed)
            if not best:
                victim = self._victim(value, allowed, victims)
                victims.append(victim)
                if victim.number in given:
                    self._take_back(victim.number)
                if victim is not value:
                    best = self._best(number, allowed)
                if not best:
                    continue
            given[number] = best
            if best in holders:
                holders[best] |= 1 << number
                barred[best] |= neighbours[number]
            else:
                holders[best] = 1 << number
                barred[best] = neighbours[number]
                self.costly &= ~best
        return victims

    def _take_back(self, number: int) -> None:
        """A value is to have no register after all."""
        bit = self.given.pop(number)
        self.holders[bit] ^= 1 << number
        self.barred[bit] = 0
        for other, given in self.given.items():
            if given == bit:
                self.barred[bit] |= self.neighbours[other]

    def _best(self, number: int, allowed: int) -> int:
        """The register that a value is drawn to most, or the first one, of those that none of its neighbours has: one
        that costs nothing, if there is any. 0 if there is none."""
        near, barred = self.neighbours[number], self.barred
        for bit, held in self.holders.items():
            if bit & allowed and (near & held or barred[bit] >> number & 1):
                allowed ^= bit
        some = allowed & ~self.costly or allowed
        preferred, partners = self.preferred[number], self.partners[number]
        if not partners and len(preferred) <= 1:
            return sum(preferred) & some or some & -some
        best = most = 0
        for bit, count in self._wanted(preferred, partners).items():
            if bit & some and (count > most or (count == most and bit < best)):
                best, most = bit, count
        return best or some & -some

    def _constraints(self) -> None:
        """What every operation demands of the values that it sets, reads, and leaves alone."""
        neighbours, partners, two_address = self.neighbours, self.partners, self.two_address
        appearing: list[VirtualRegister] = []
        for operation, after in zip(self.operations, self.live, strict=True):
            kind, defs, uses = operation.kind, operation.defs, operation.uses
            appearing += defs
            appearing += uses
            if defs:
                busy = after
                for value in defs:
                    busy |= 1 << value.number
                if kind in _ALIKE:
                    one, two = defs[0].number, uses[0].number
                    if one and two:
                        partners[one] += (two,)
                        partners[two] += (one,)
                    if kind == "move":
                        busy &= ~(1 << two)  # which may be in the same register
                    # The result is first a copy of the left operand; the right one has to survive that.
                    elif two_address and len(uses) == 2 and uses[1] is not uses[0]:
                        busy |= 1 << uses[1].number
                elif kind in _READING_LATE:
                    for value in uses:
                        busy |= 1 << value.number
                for value in defs:
                    neighbours[value.number] |= busy
            if kind in _TIES:
                self._tie_values(operation, after)
        for value in dict.fromkeys(appearing):
            if value.fixed is None:
                self.values.append(value)
            else:
                self.tied |= self.file.bits.get(value.fixed, 0)
        for lost, through in self.lost.items():
            while through:
                low = through & -through
                self.forbidden[low.bit_length() - 1] |= lost
                through ^= low

    def _tie_values(self, operation: Operation, after: int) -> None:
        """What an operation demands that has its operands or results in certain registers."""
        kind, bits, forbidden, preferred = operation.kind, self.file.bits, self.forbidden, self.preferred
        lost = address = 0
        for value, place in zip(operation.uses, operation.places, strict=False):
            if place in bits:
                bit = bits[place]
                preferred[value.number] += (bit,)
                lost |= bit
            elif place is None:
                address = value.number
        if kind == "return":
            return
        if address:
            # The callee's address is still needed when the arguments are in place.
            forbidden[address] |= lost
            if kind == "tail_call":
                # The frame is given up before control leaves: what is needed then is in no register being restored.
                forbidden[address] |= self.file.all_kept
        through = after & ~_FIXED
        for value, register in zip(operation.defs, operation.results, strict=False):
            through &= ~(1 << value.number)
            if register in bits:
                bit = bits[register]
                preferred[value.number] += (bit,)
                lost |= bit
        if kind == "enter":
            # Parameters that change places would need a register to step aside into; floats may leave none free.
            for value, register in zip(operation.defs, operation.results, strict=True):
                if value.floating:
                    forbidden[value.number] |= lost & ~bits.get(register, 0)
            return
        if operation.convention is not None and isinstance(operation.convention.thread, Register):
            self.tied |= bits.get(operation.convention.thread, 0)
        if kind != "tail_call":
            lost |= self.file.together(operation.clobbers)
            self.lost[lost] = self.lost.get(lost, 0) | through

    def _wanted(self, preferred: tuple[int, ...], partners: tuple[int, ...]) -> dict[int, int]:
        """The registers that a value is drawn to, and how much."""
        wanted = dict.fromkeys(preferred, 2)
        if len(wanted) < len(preferred):
            wanted = {bit: 2 * preferred.count(bit) for bit in wanted}
        for partner in partners:
            given = self.given.get(partner)
            if given is not None:
                wanted[given] = wanted.get(given, 0) + 2
            else:
                for bit in self.preferred[partner]:
                    wanted[bit] = wanted.get(bit, 0) + 1
        return wanted

    def _victim(self, value: VirtualRegister, allowed: int, victims: Sequence[VirtualRegister]) -> VirtualRegister:
        """What to put in memory so that a value finds a register: itself if it lives long, or such a neighbour."""
        if not value.short and not allowed:
            return value
        if not self.order:
            self.order = {one.number: place for place, one in enumerate(self.values)}
            self.lengths = self._lengths()
        around = {value.number}
        for number, bit in self.given.items():
            met = self.neighbours[value.number] >> number | self.neighbours[number] >> value.number
            if bit & allowed and met & 1:
                around.add(number)
        near = [self.values[self.order[number]] for number in sorted(around)]
        choices = [v for v in near if not v.temporary] or [v for v in near if not v.short]
        if not choices and victims:
            return victims[-1]  # they go first; what is left then is seen in the next round
        if not choices:
            message = f"there are not enough registers for `{value.name}`"
            notes = ("an `asm` block or a convention ties too many of them",)
            if self.crossing >> value.number & 1:
                notes = ("behind `switch stack` only registers that the convention does not keep are the same",)
            span = next((o.span for o in self.operations if value in o.defs or value in o.uses), self.body.span)
            raise InputError([Diagnostic("L001", message, span, notes=notes)])
        return max(choices, key=lambda v: (self.lengths[v.number], -self.order[v.number]))

    def _lengths(self) -> list[int]:
        lengths = [0] * (self.body.count + 1)
        before = 0
        for place, after in enumerate((*self.live, 0)):
            changed = before ^ after
            while changed:
                low = changed & -changed
                lengths[low.bit_length() - 1] += place if before & low else -place
                changed ^= low
            before = after
        return lengths
