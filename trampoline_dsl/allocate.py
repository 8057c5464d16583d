"""Virtual registers to physical ones.

Trampolines are small and full of calls that change every register. So: what lives across such a call gets a home in a
frame, is stored where it is made and loaded where it is next used, once for each stretch between calls; the rest is
coloured greedily in program order, with each value drawn to the register that it comes from or has to go to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    Operation,
    VirtualRegister,
)
from .target import Architecture, Register, allocatable, float_allocatable


@dataclass(frozen=True, slots=True)
class Allocation:
    """The operations that are left, and the register of every virtual register in them."""

    operations: tuple[Operation, ...]
    registers: Mapping[VirtualRegister, Register]

    def __getitem__(self, value: VirtualRegister) -> Register:
        return value.fixed if value.fixed is not None else self.registers[value]


def allocate(body: Body, architecture: Architecture) -> Allocation:
    """Choose a register or a home for every value of a body. `body.homes` grows by what is spilled."""
    operations = _store_zeros(_share_thread_loads(body), architecture)
    operations = _hoist_outgoing(operations)
    operations, live = _remove_dead(operations)
    # What matters is asked of all operations; only where something is widened, or later spilled.
    everything, bits = operations, None
    if any(o.kind == "extend" for o in operations):
        bits = _bits_that_matter(everything, 8 * architecture.word)
        operations = _drop_widening(operations, bits)
    incoming = {
        o.defs[0]: o.home
        for o in operations
        if o.kind == "home_load" and o.home is not None and o.home.incoming is not None
    }
    crossing = _live_across_switches(operations, live)
    for value in crossing:
        value.temporary = value.short = True  # there is no place for it: the frame is another one then
        incoming.pop(value, None)
    if incoming:
        operations, live = _remove_dead(_spill(body, operations, incoming, architecture))
    while True:
        colouring = _Colouring(body, operations, architecture, live)
        victims = colouring.run()
        if not victims:
            kept = [o for o in operations if not (o.kind == "move" and _same(o, colouring.colours))]
            return Allocation(tuple(kept), colouring.colours)
        if bits is None:
            bits = _bits_that_matter(everything, 8 * architecture.word)
        # Every round leaves fewer values that can be spilled, so this ends.
        first = {v for v in victims if not v.temporary}
        for some in (first, set(victims) - first):
            if some:
                homes = {v: _home_of(v, body, operations, architecture, bits) for v in victims if v in some}
                operations, live = _remove_dead(_spill(body, operations, homes, architecture, share=some is first))
                break


def _live_across_switches(operations: Sequence[Operation], live: _Liveness) -> list[VirtualRegister]:
    """The values that are needed behind a switch to another frame."""
    total = 0
    for operation, after in zip(operations, live.after, strict=True):
        if operation.kind == "switch_stack":
            total |= after
    return [value for value in live.values if total >> live.index[value] & 1]


def _home_of(
    value: VirtualRegister,
    body: Body,
    operations: Sequence[Operation],
    architecture: Architecture,
    bits: Mapping[VirtualRegister, int],
) -> Home:
    """A new home, on the innermost stack from which all that is done with the value can be reached."""
    context = _innermost_common(body, {o.context for o in operations if value in o.defs or value in o.uses})
    size = value.bits // 8 if value.floating else architecture.word
    if not value.floating and 0 < bits.get(value, 64) <= 32:
        size = 4
    home = Home(value.name, size, context, "lives across a call")
    body.homes.append(home)
    return home


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
    if not any(o.kind in ("thread_load", "thread_store") for o in operations):
        return list(operations)
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


def _store_zeros(operations: Sequence[Operation], architecture: Architecture) -> list[Operation]:
    """Zeros that are stored take no register on machines that can do without."""
    if architecture.zero is None:
        return list(operations)
    zeros = {o.defs[0] for o in operations if o.kind == "constant" and o.value == 0}
    if not zeros:
        return list(operations)
    definitions = Counter(value for operation in operations for value in operation.defs)
    zeros = {value for value in zeros if definitions[value] == 1}
    zero = VirtualRegister(0, "zero", fixed=architecture.zero)
    return [
        o.with_registers(o.defs, (zero, *o.uses[1:])) if o.kind in STORES and o.uses[0] in zeros else o
        for o in operations
    ]


_LOW_BITS = frozenset({"add", "sub", "mul", "and", "or", "xor"})  # the low bits of these come from low bits alone


def _bits_that_matter(operations: Sequence[Operation], word: int) -> dict[VirtualRegister, int]:
    """How many of the low bits of each integer somebody looks at."""
    matter: dict[VirtualRegister, int] = {}

    def wanted(operation: Operation, index: int) -> int:
        kind = operation.kind
        if kind in STORES and index == 0:
            return operation.bits
        if kind == "extend":
            return max(operation.bits, operation.value)
        if kind in ("call", "tail_call", "return"):
            place = operation.places[index]
            return (operation.narrow or {}).get(place, word) if place is not None else word
        result = operation.defs[0] if operation.defs else None
        passes_on = kind == "move" or (kind == "binary" and operation.operator in _LOW_BITS)
        if passes_on and result is not None and result.fixed is None and not result.floating:
            return matter.get(result, 0)
        return word

    changed = True
    while changed:
        changed = False
        for operation in reversed(operations):
            for index, value in enumerate(operation.uses):
                bits = wanted(operation, index)
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
    for operation in operations:
        if operation.kind != "outgoing":
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


class _Liveness:
    """Which values are live behind each operation, as bit sets over `index`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        values: dict[VirtualRegister, int] = {}
        self.uses: list[int] = []
        self.defs: list[int] = []
        for operation in operations:
            for registers, sets in ((operation.defs, self.defs), (operation.uses, self.uses)):
                total = 0
                for value in registers:
                    if value.fixed is None:
                        index = values.get(value)
                        if index is None:
                            index = values[value] = len(values)
                        total |= 1 << index
                sets.append(total)
        self.index = values
        self.values = list(values)
        self.after: list[int] = [0] * len(operations)
        self._solve()

    def bits(self, values: Iterable[VirtualRegister]) -> int:
        total = 0
        for value in values:
            if value.fixed is None:
                total |= 1 << self.index[value]
        return total

    def _solve(self) -> None:
        operations, uses, defs, after = self.operations, self.uses, self.defs, self.after
        labels = {o.label: i for i, o in enumerate(operations) if o.kind == "label"}
        before = [0] * (len(operations) + 1)
        again = False
        changed = True
        while changed:
            changed = False
            for i in range(len(operations) - 1, -1, -1):
                kind = operations[i].kind
                out = 0 if kind in NO_FALL_THROUGH else before[i + 1]
                if kind == "branch" or kind == "jump":
                    goes = labels[operations[i].label]
                    out |= before[goes]
                    # What is live at its beginning is known only when all of a loop has been seen.
                    again |= goes <= i
                after[i] = out
                new = uses[i] | (out & ~defs[i])
                if new != before[i]:
                    before[i] = new
                    changed = again


def _remove_dead(operations: Sequence[Operation]) -> tuple[list[Operation], _Liveness]:
    """Without operations whose results nobody reads, and without what cannot be reached; what is live in the rest."""
    current = list(operations)
    while True:
        current = _reachable(current)
        live = _Liveness(current)
        stored = {o.home for o in current if o.kind == "home_load"}
        kept = []
        changed = False
        for operation, defs, after in zip(current, live.defs, live.after, strict=True):
            kind = operation.kind
            if kind in REMOVABLE:
                if not defs & after and all(d.fixed is None for d in operation.defs):
                    continue
            elif kind == "home_store" and operation.home not in stored and _private(operation.home):
                continue
            elif kind == "enter" and any(d.fixed is None and not live.bits((d,)) & after for d in operation.defs):
                operation = _without_unread(operation, live, after)
                changed = True
            kept.append(operation)
        if len(kept) == len(current) and not changed:
            return current, live
        current = kept


def _without_unread(enter: Operation, live: _Liveness, after: int) -> Operation:
    """Parameters that nobody reads need no register of their own."""
    both = zip(enter.defs, enter.results, strict=True)
    read = [(d, r) for d, r in both if d.fixed is not None or live.bits((d,)) & after]
    made = enter.with_registers(tuple(d for d, _ in read), ())
    made.results = tuple(r for _, r in read)
    return made


def _private(home: Home | None) -> bool:
    """A spill's home is nobody's business; a slot that the source declares may be read by others, by its place."""
    return home is not None and home.pin is None and home.reason != DECLARED


def _reachable(operations: Sequence[Operation]) -> list[Operation]:
    """What control reaches from the beginning, without labels and jumps that say nothing."""
    labels = {operation.label: index for index, operation in enumerate(operations) if operation.kind == "label"}
    if not labels:
        end = next((i for i, o in enumerate(operations, 1) if o.kind in NO_FALL_THROUGH), len(operations))
        return list(operations[:end])
    reached = bytearray(len(operations))
    beginnings = [0]
    while beginnings:
        index = beginnings.pop()
        while index < len(operations) and not reached[index]:
            reached[index] = True
            kind = operations[index].kind
            if kind == "branch" or kind == "jump":
                beginnings.append(labels[operations[index].label])
            if kind in NO_FALL_THROUGH:
                break
            index += 1
    operations = [operation for operation, one in zip(operations, reached, strict=True) if one]
    targets = {o.label for o in operations if o.kind in ("branch", "jump")}
    result: list[Operation] = []
    for index, operation in enumerate(operations):
        kind = operation.kind
        if kind == "label" and operation.label not in targets:
            continue
        if kind == "jump" or kind == "branch":
            # A branch to what comes next anyway says nothing.
            following = index + 1
            while following < len(operations) and operations[following].kind == "label":
                if operations[following].label == operation.label:
                    break
                following += 1
            else:
                following = -1
            if following > 0 and operations[following].label == operation.label:
                continue
        result.append(operation)
    return result


# -------------------------------------------------------------------------------------------------------------- spills


def _spill(
    body: Body,
    operations: Sequence[Operation],
    homes: Mapping[VirtualRegister, Home],
    architecture: Architecture,
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
    backward = _backward_labels(operations)
    falls = True
    for operation in operations:
        if operation.kind == "label":
            arriving = at_label.get(operation.label)
            if operation.label in backward:
                cache = {}
            elif arriving is not None:
                cache = _agree(cache, arriving) if falls else dict(arriving)
            falls = True
        original = operation
        kind = operation.kind
        is_incoming_load = (
            kind == "home_load"
            and operation.defs[0] in homes
            and operation.home is homes[operation.defs[0]]
            and operation.home is not None
            and operation.home.incoming is not None
        )
        if is_incoming_load:
            # The value stays where it is until somebody wants it.
            continue
        touched = not homes.keys().isdisjoint((*operation.defs, *operation.uses))
        uses = []
        for value in operation.uses if touched else ():
            if value in homes:
                if value not in cache:
                    fresh = cache[value] = _renewed(body, value, share)
                    base = _reach(body, homes[value], operation, result)
                    result.append(_home_load(fresh, homes[value], base, operation, architecture))
                uses.append(cache[value])
            else:
                uses.append(value)
        defs = []
        stores: list[Operation] = []
        for value in operation.defs if touched else ():
            if value in homes:
                fresh = _renewed(body, value, share)
                base = _reach(body, homes[value], operation, stores)
                stores.append(_home_store(fresh, homes[value], base, operation, architecture))
                defs.append(fresh)
            else:
                defs.append(value)
        result.append(operation.with_registers(tuple(defs), tuple(uses)) if touched else operation)
        if operation.kind == "call" or operation.kind == "asm":
            cache = {v: r for v, r in cache.items() if not _all_lost(architecture, operation.clobbers, r, body)}
        for value, fresh in zip(original.defs, defs, strict=touched):
            if value in homes:
                cache[value] = fresh
        result += stores
        if not share:
            cache = {}
        if operation.kind in ("branch", "jump"):
            known = at_label.get(operation.label)
            at_label[operation.label] = dict(cache) if known is None else _agree(known, cache)
        if operation.kind in NO_FALL_THROUGH:
            falls = False
            cache = {}
    return result


def _agree(
    one: Mapping[VirtualRegister, VirtualRegister], two: Mapping[VirtualRegister, VirtualRegister]
) -> dict[VirtualRegister, VirtualRegister]:
    return {value: register for value, register in one.items() if two.get(value) is register}


def _all_lost(architecture: Architecture, clobbers: frozenset[Register], value: VirtualRegister, body: Body) -> bool:
    """Whether no register survives that could have the value and costs nothing: to save one and restore it is more than
    to load the value again."""
    usable = (float_allocatable if value.floating else allocatable)(architecture, body.convention)
    kept, lost = body.convention.kept, body.lost
    return all(r in clobbers or kept.get(r, 0) & ~lost.get(r, 0) for r in usable)


def _renewed(body: Body, value: VirtualRegister, share: bool) -> VirtualRegister:
    """What stands for a spilled value between a load or a definition of it and the next call."""
    fresh = body.new_register(value.name, value.floating, value.bits)
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


_TIES = frozenset(
    {"call", "asm", "enter", "tail_call", "resume", "switch_stack"}
)  # operations that tie values to registers


class _Colouring:
    """One attempt to give every value a register. `run` returns the values to spill if that fails."""

    def __init__(
        self, body: Body, operations: Sequence[Operation], architecture: Architecture, live: _Liveness
    ) -> None:
        self.body = body
        self.operations = operations
        self.architecture = architecture
        self.convention = body.convention
        self.live = live
        self.colours: dict[VirtualRegister, Register] = {}
        count = len(self.live.values)
        self.given: dict[int, Register] = {}  # by index, of those in `coloured`
        self.coloured = 0
        self.neighbours = [0] * count
        self.forbidden: list[set[Register]] = [set() for _ in range(count)]
        self.preferred: list[list[Register]] = [[] for _ in range(count)]
        self.partners: list[list[VirtualRegister]] = [[] for _ in range(count)]
        self.crossing = frozenset(_live_across_switches(operations, live))

    def run(self) -> list[VirtualRegister]:
        self._constraints()
        victims: list[VirtualRegister] = []
        tied = self._tied()
        integer = tuple(r for r in allocatable(self.architecture, self.convention) if r not in tied)
        floating = float_allocatable(self.architecture, self.convention)
        lost = self.body.lost
        costs = {r for r, mask in self.convention.kept.items() if mask & ~lost.get(r, 0)}
        used: set[Register] = set()
        for index, value in enumerate(self.live.values):
            candidates = floating if value.floating else integer
            if value.byte and self.architecture.byte_registers is not None:
                candidates = tuple(r for r in candidates if r in self.architecture.byte_registers)
            if value in victims:
                continue
            free = self._free(index, candidates)
            if not free:
                victim = self._victim(index, candidates, victims)
                victims.append(victim)
                if self.colours.pop(victim, None) is not None:
                    self.coloured ^= 1 << self.live.index[victim]
                free = self._free(index, candidates)
                if victim is value or not free:
                    continue
            wanted = self._wanted(index)
            # A register that the caller wants back costs a save and a restore, unless it is paid for already.
            cheap = [r for r in free if r not in costs or r in used] or free
            drawn = [r for r in cheap if r in wanted] if wanted else None
            best = max(drawn, key=wanted.__getitem__) if drawn else cheap[0]
            self.colours[value] = self.given[index] = best
            self.coloured |= 1 << index
            used.add(best)
        return victims

    def _free(self, index: int, candidates: Sequence[Register]) -> list[Register]:
        """Candidates that no neighbour has, and that the value may have."""
        forbidden = self.forbidden[index]
        remaining, given = self.neighbours[index] & self.coloured, self.given
        taken = set()
        while remaining:
            low = remaining & -remaining
            taken.add(given[low.bit_length() - 1])
            remaining ^= low
        return [r for r in candidates if r not in taken and r not in forbidden]

    def _tied(self) -> set[Register]:
        """Registers with a meaning of their own in this body: the thread's, where the body or a callee needs it."""
        tied = {v.fixed for o in self.operations for v in (*o.defs, *o.uses) if v.fixed is not None}
        threads = {o.convention.thread for o in self.operations if o.convention is not None}
        return tied | {thread for thread in threads if isinstance(thread, Register)}

    def _constraints(self) -> None:
        for operation, defined, after in zip(self.operations, self.live.defs, self.live.after, strict=True):
            # Others set nothing, and take what they read from wherever it is.
            if operation.defs or operation.places or operation.kind in ("call", "asm", "switch_stack"):
                self._interfere(operation, defined, after)
                self._attract(operation)

    def _interfere(self, operation: Operation, defined: int, after: int) -> None:
        live = self.live
        busy = after | defined
        kind = operation.kind
        if kind in ("enter_stack", "frame_out", "frame_in"):  # results are written before all operands are read
            busy |= live.bits(operation.uses)
        elif kind == "binary" and self.architecture.two_address and len(operation.uses) == 2:
            a, b = operation.uses
            # The result is first a copy of the left operand; the right one has to survive that.
            if b is not a:
                busy |= live.bits((b,))
        for value in operation.defs:
            if value.fixed is not None:
                continue
            index = live.index[value]
            others = busy & ~(1 << index)
            if kind == "move" and operation.uses[0].fixed is None:
                others &= ~(1 << live.index[operation.uses[0]])
            self._connect(index, others)
        if kind not in _TIES:
            return
        if operation.kind in ("call", "asm", "switch_stack"):
            lost = set(operation.clobbers)
            lost |= {r for r in operation.places if r is not None} | set(operation.results)
            through = after & ~defined
            while through:
                low = through & -through
                self.forbidden[low.bit_length() - 1] |= lost
                through ^= low
        if operation.kind == "enter":
            # Parameters that change places would need a register to step aside into; floats may leave none free.
            for value, register in zip(operation.defs, operation.results, strict=True):
                if value.floating:
                    self.forbidden[live.index[value]] |= set(operation.results) - {register}
        if operation.kind in ("call", "tail_call"):
            # The callee's address is still needed when the arguments are in place.
            places = {r for r in operation.places if r is not None}
            for value, place in zip(operation.uses, operation.places, strict=True):
                if place is None and value.fixed is None:
                    self.forbidden[live.index[value]] |= places
        if operation.kind in ("tail_call", "resume") and operation.uses:
            # The frame is given up before control leaves: what is needed then cannot be in a register being restored.
            restored = set(self.convention.kept)
            for value, place in zip(operation.uses, operation.places or (None,) * len(operation.uses), strict=True):
                if value.fixed is None and place is None and operation.kind == "tail_call":
                    self.forbidden[live.index[value]] |= restored

    def _connect(self, index: int, others: int) -> None:
        neighbours, bit = self.neighbours, 1 << index
        remaining = others & ~neighbours[index]  # those that are not known to be
        neighbours[index] |= others
        while remaining:
            low = remaining & -remaining
            neighbours[low.bit_length() - 1] |= bit
            remaining ^= low

    def _attract(self, operation: Operation) -> None:
        live = self.live
        if operation.places:
            for value, register in zip(operation.uses, operation.places, strict=False):
                if value.fixed is None and register is not None:
                    self.preferred[live.index[value]].append(register)
        if operation.results:
            for value, register in zip(operation.defs, operation.results, strict=False):
                if value.fixed is None:
                    self.preferred[live.index[value]].append(register)
        if operation.kind in ("move", "binary", "extend") and operation.uses:
            d, s = operation.defs[0], operation.uses[0]
            if d.fixed is None and s.fixed is None:
                self.partners[live.index[d]].append(s)
                self.partners[live.index[s]].append(d)

    def _wanted(self, index: int) -> dict[Register, int]:
        wanted: dict[Register, int] = {}
        for register in self.preferred[index]:
            wanted[register] = wanted.get(register, 0) + 2
        for partner in self.partners[index]:
            if partner in self.colours:
                colour = self.colours[partner]
                wanted[colour] = wanted.get(colour, 0) + 2
            else:
                for register in self.preferred[self.live.index[partner]]:
                    wanted[register] = wanted.get(register, 0) + 1
        return wanted

    def _victim(
        self, index: int, candidates: Sequence[Register], victims: Sequence[VirtualRegister]
    ) -> VirtualRegister:
        """What to put in memory so that `index` finds a register: itself if it lives long, or such a neighbour."""
        value = self.live.values[index]
        if not value.short and all(r in self.forbidden[index] for r in candidates):
            return value
        near = [value]
        useful = {r for r in candidates if r not in self.forbidden[index]}
        remaining = self.neighbours[index]
        while remaining:
            low = remaining & -remaining
            other = self.live.values[low.bit_length() - 1]
            if other not in victims and self.colours.get(other) in useful:
                near.append(other)
            remaining ^= low
        choices = [v for v in near if not v.temporary] or [v for v in near if not v.short]
        if not choices and victims:
            return victims[-1]  # they go first; what is left then is seen in the next round
        if not choices:
            message = f"there are not enough registers for `{value.name}`"
            notes = ("an `asm` block or a convention ties too many of them",)
            if value in self.crossing:
                notes = ("behind `switch stack` only registers that the convention does not keep are the same",)
            span = next((o.span for o in self.operations if value in o.defs or value in o.uses), self.body.span)
            raise InputError([Diagnostic("L001", message, span, notes=notes)])
        index_of = self.live.index
        return max(choices, key=lambda v: (self._length(index_of[v]), -index_of[v]))

    def _length(self, index: int) -> int:
        """Behind how many operations a value is live."""
        return sum(after >> index & 1 for after in self.live.after)
