"""The world that a trampoline is run in: stacks, objects, addresses of callees, and the values that a seed gives them.

The reference interpreter and the machine code start from the same world; each has its own copy of what changes.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from . import ir
from .interpret import Execution, Trouble
from .link import got_entry
from .target import GOT_SYMBOL, GP_SYMBOL, TOC_SYMBOL, Architecture, ByteOrder, ThreadSlot, aligned

STACK_ROOM = 0x8000  # bytes of a stack, beside what the frames themselves need
OUTSIDE = 0x800  # bytes above the entry's stack pointer that belong to callers
RETURN_SPACING = 16  # bytes between the return addresses that the judge hands out
STUB_SPACING = 64
MOST_WORDS = 12  # that are passed to what takes any number
SEED_STEP = 1_000_003  # between the worlds of one seed and those of the next
_CONTEXTS = 5  # objects to suspend into
_TURNS = 3  # the first so many objects of a world come to lie at the edges, one after the other


GARBAGE = ("random", "zeros", "mixed")  # in turn: what is random is never null by chance


def garbage(random_: random.Random, size: int, word: int, kind: str) -> memoryview:
    """What undefined memory may hold: nothing but what is random, zeros, or words of both and of ones. What is drawn is
    where it begins in noise that is always the same: to make so much of it in each run takes a fifth of the time."""
    if kind == "zeros":
        return memoryview(bytes(size))
    noise = _noise(word, kind)
    start = word * random_.randrange(_NOISE // word)
    if size <= _NOISE:
        return memoryview(noise)[start : start + size]
    return memoryview(noise[start : start + _NOISE] * (size // _NOISE + 1))[:size]


def _garbage_for(regions: Sequence[Region], random_: random.Random, word: int, kind: str) -> Iterator[bytes]:
    """The same for several regions, one after the other."""
    ends = list(accumulate(region.size for region in regions))
    undefined = garbage(random_, ends[-1], word, kind)
    for region, end in zip(regions, ends, strict=True):
        yield bytes(undefined[end - region.size : end])


_NOISE = 1 << 18  # bytes: more than the memory of a world has, unless frames are large
_THIRD = bytes(turn % 3 for turn in range(256))


@lru_cache(maxsize=4)
def _noise(word: int, kind: str) -> bytes:
    """Twice the same bytes, to begin anywhere in the first half."""
    random_ = random.Random(f"noise {kind}")
    noise = random_.randbytes(_NOISE)
    if kind == "mixed":
        # A word of each third turn: zeros, ones, noise.
        turns = random_.randbytes(_NOISE // word).translate(_THIRD)
        zeros, ones = bytes(word), b"\xff" * word
        ored = b"".join(map((zeros, ones, zeros).__getitem__, turns))
        mask = b"".join(map((zeros, zeros, ones).__getitem__, turns))
        words = int.from_bytes(noise, "big") & int.from_bytes(mask, "big") | int.from_bytes(ored, "big")
        noise = words.to_bytes(_NOISE, "big")
    return noise + noise


@dataclass(frozen=True, slots=True)
class Region:
    name: str
    base: int
    size: int
    executable: bool = False

    @property
    def end(self) -> int:
        return self.base + self.size

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.end


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything is, on one architecture, whatever the seed. On 64-bit machines code, callers and data have
    different upper halves, so that an address cut to 32 bits cannot pass for whole. `edges`: where addresses have
    halves of zeros, so that half an address cannot pass for one that is not null."""

    code: Region
    stubs: Region
    returns: Region
    toc: Region
    descriptors: Region
    data: Region
    thread: Region
    stacks: tuple[Region, ...]
    edges: tuple[Region, Region]
    variables: Region  # that somebody else defines
    image: tuple[Region, ...] = ()  # of code that was not made here

    @property
    def regions(self) -> tuple[Region, ...]:
        return (
            self.code,
            self.stubs,
            self.returns,
            self.toc,
            self.descriptors,
            self.data,
            self.thread,
            *self.stacks,
            *self.edges,
            self.variables,
            *self.image,
        )


@dataclass(frozen=True, slots=True)
class Room:
    """What code from elsewhere takes: pages, as (address, bytes) from low to high. `movable`: it need not be at these
    addresses, as long as it stays together. `low`: addresses of it, and of what it refers to, have to fit 31 bits."""

    spans: tuple[tuple[int, int], ...] = ()
    movable: bool = False
    low: bool = False

    def shifted(self, distance: int) -> tuple[Region, ...]:
        return tuple(Region("the image", start + distance, size, True) for start, size in self.spans)

    def takes(self, regions: Sequence[Region]) -> bool:
        """Whether it leaves no place for them."""
        return any(r.base < start + size and start < r.end for r in regions for start, size in self.spans)


def plan(
    architecture: Architecture,
    code_size: int,
    deepest_frame: int,
    variables: int = 0,
    got: int = 0,
    room: Room = Room(),
) -> Plan:
    """Where everything is. What is movable comes to lie behind the code; where the rest is, everything moves around it,
    and code comes to lie behind it, so that each can call the other."""
    wide = architecture.word == 8
    code_high = 1 << 32 if architecture.symbol_bits() > 32 and not room.low else 0
    data_high = 5 << 32 if wide else 0
    stack_size = (STACK_ROOM + 8 * deepest_frame + 0xFFF) // 0x1000 * 0x1000
    gap = (stack_size + 0x1F_FFFF) // 0x10_0000 * 0x10_0000

    first = code_high + 0x1000_0000
    if room.spans and not room.movable:
        first = -(-sum(room.spans[-1]) // 0x10_0000) * 0x10_0000

    def near(step: int) -> list[Region]:
        code = first + step * 0x100_0000
        callers = code + (2 << 32) if wide else code + 0x30_0000
        return [
            Region("code", code, (code_size + 0x1FFF) // 0x1000 * 0x1000, True),
            Region("callees", code + 0x20_0000, 0x8000, True),
            Region("callers", callers, 0x1000, True),
            Region("TOC", code + 0x40_0000, max(0x1000, (got + 0xFFF) // 0x1000 * 0x1000)),
            Region("descriptors", code + 0x50_0000, 0x2000),
            # As near to the code as a linker puts them.
            Region("extern variables", code + 0x60_8000, (variables + 0x1FFF) // 0x1000 * 0x1000),
        ]

    def far(step: int) -> list[Region]:
        data = data_high + 0x2000_0000 + step * 0x100_0000
        names = ["stack", *(f"stack {index}" for index in range(1, 5))]
        return [
            Region("data", data, 0x8000),
            Region("thread-local storage", data + 0x100_0000, 0x1000),
            *(Region(name, data + 0x200_0000 + i * gap, stack_size) for i, name in enumerate(names)),
        ]

    def round_(step: int) -> list[Region]:
        base = 7 + step
        return [Region("data at a round address", base << 32 if wide else base << 16, 0x1000)]

    def low(step: int) -> list[Region]:
        base = 6 + step
        return [Region("data far down", base << 16 if wide else base << 12, 0x1000)]

    image: tuple[Region, ...] = ()
    if room.movable and room.spans:
        start = near(0)[0].base + 0x80_0000
        image = room.shifted(start - room.spans[0][0] // 0x1_0000 * 0x1_0000)
    elif room.spans:
        image = room.shifted(0)
    taken = Room(tuple((region.base, region.size) for region in image))

    def clear(group: Callable[[int], list[Region]]) -> list[Region]:
        return next(regions for regions in map(group, range(1 << 12)) if not taken.takes(regions))

    code, stubs, returns, toc, descriptors, extern_variables = clear(near)
    data, thread, *stacks = clear(far)
    edges = (*clear(round_), *clear(low))
    return Plan(
        code,
        stubs,
        returns,
        toc,
        descriptors,
        data,
        thread,
        tuple(stacks),
        (edges[0], edges[1]),
        extern_variables,
        image,
    )


class Bytes:
    """Plain memory: the regions of a plan, each copied when something is stored there first. Raises LookupError outside
    of them."""

    def __init__(self, images: Mapping[int, bytes]) -> None:
        self.images: dict[int, bytes | bytearray] = {base: bytes(image) for base, image in images.items()}
        self._bases = sorted(self.images)

    def _base(self, address: int, size: int) -> int:
        index = bisect_right(self._bases, address)
        base = self._bases[index - 1] if index else address
        if not index or address + size > base + len(self.images[base]):
            raise LookupError(address)
        return base

    def load(self, address: int, size: int) -> bytes:
        base = self._base(address, size)
        return bytes(self.images[base][address - base : address - base + size])

    def store(self, address: int, data: bytes) -> None:
        base = self._base(address, len(data))
        image = self.images[base]
        if not isinstance(image, bytearray):
            image = self.images[base] = bytearray(image)
        image[address - base : address - base + len(data)] = data


@dataclass(slots=True)
class World:
    """One starting state. `thread`: g at the start; `variables`: arguments, objects and script variables of a check.

    `symbols` has the address of the code of every callee and trampoline; `pointers` what a function pointer to it is
    (a descriptor, where the convention has them)."""

    architecture: Architecture
    plan: Plan
    images: dict[int, bytes]
    symbols: Mapping[str, int]
    pointers: Mapping[str, int]
    stack_tops: dict[str, int]
    arguments: list[int]
    variables: dict[ir.Variable, int]
    thread: int
    thread_slot: int | None  # the address of the slot, if that is where g is, or the address of g's place
    thread_indirect: bool  # whether the slot has the address of the place where g is
    sp: int  # the CFA of the outermost call
    seed: int
    own_thread: bool = True  # whether g means anything when the trampoline is entered
    names: dict[int, str] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)  # `table index`, ..., of the outermost call
    words: tuple[int, ...] = ()  # what it is called with, if that is any number of words
    contexts: tuple[int, ...] = ()  # objects to suspend into


def thread_place(world: World, load: Callable[[int, int], bytes]) -> int:
    """The address of the word in memory that holds g, or 0 if there is none at the moment."""
    assert world.thread_slot is not None
    if not world.thread_indirect:
        return world.thread_slot
    return int.from_bytes(load(world.thread_slot, world.architecture.word), world.architecture.order)


def thread_in_memory(world: World, load: Callable[[int, int], bytes]) -> int:
    """g, which is in memory: null where it has no place."""
    place = thread_place(world, load)
    return int.from_bytes(load(place, world.architecture.word), world.architecture.order) if place else 0


class GivenHost:
    """What a check's `given` sees."""

    def __init__(self, world: World, memory: Bytes, random_: random.Random) -> None:
        self.world = world
        self.memory = memory
        self.random = random_
        self.order: ByteOrder = world.architecture.order
        self.word = world.architecture.word

    def load(self, address: int, size: int) -> bytes:
        return self.memory.load(address, size)

    def store(self, address: int, data: bytes) -> None:
        try:
            self.memory.store(address, data)
        except LookupError:
            raise Trouble(f"the check writes to {address:#x}, where there is no memory", None) from None

    def get_thread(self) -> int:
        if self.world.thread_slot is not None:
            return thread_in_memory(self.world, self.load)
        return self.world.thread

    def set_thread(self, value: int) -> None:
        if self.world.thread_slot is not None:
            self.store(thread_place(self.world, self.load), value.to_bytes(self.word, self.order))
        self.world.thread = value

    def thread_slot(self) -> int:
        assert self.world.thread_slot is not None
        return self.world.thread_slot

    def symbol(self, name: str) -> int:
        return self.world.pointers[name]

    def stack_top(self, name: str) -> int:
        return self.world.stack_tops[name]

    def any(self, bits: int) -> int:
        return self.random.getrandbits(bits)


@dataclass(frozen=True, slots=True)
class Build:
    """What does not depend on the seed: the layout of one program's world."""

    program: ir.Program
    plan: Plan
    symbols: Mapping[str, int]
    pointers: Mapping[str, int]
    got: Mapping[str, int]  # for linkage "pic": where a symbol's entry in the global offset table is, by its name
    images: Mapping[int, bytes] = field(default_factory=dict)  # what is in writable memory of code from elsewhere
    copies: Mapping[int, int] = field(default_factory=dict)  # of descriptors, that its loader makes, and from where
    words: Mapping[int, int] = field(default_factory=dict)  # of tables that its linker makes, by address
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    # where the structs in a trampoline's frame are: bytes above sp, by the trampoline's name and the slot's

    @property
    def architecture(self) -> Architecture:
        return self.program.target.architecture

    @property
    def for_linker(self) -> Mapping[str, int]:
        """What relocations refer to besides symbols. The global offset table is where the table of contents is, as on
        ppc64; GP is 0x7ff0 bytes into it, as GNU ld puts it (MIPS psABI, 5-8)."""
        base = self.plan.toc.base
        entries = {got_entry(name): address for name, address in self.got.items()}
        return {GOT_SYMBOL: base, GP_SYMBOL: base + 0x7FF0, **entries}


def prepare(
    program: ir.Program,
    code: Mapping[str, int],
    code_size: int,
    deepest_frame: int,
    anonymous: Mapping[str, ir.Signature],
    slots: Mapping[str, Mapping[str, int]],
    room: Room = Room(),
    entries: int = 0,
) -> Build:
    """Give every callee an address. `code`: offsets of the compiled trampolines; `anonymous`: callees that are reached
    through pointers only; `slots` is kept for `Build`. `room`: what is taken already; `entries`: how many words of
    the global offset table are wanted besides."""
    architecture = program.target.architecture
    places, variables_size = _variable_places(program)
    slot = _thread_slot(architecture)
    if slot is not None and slot.symbol and slot.symbol not in places:
        places[slot.symbol] = variables_size = aligned(variables_size, architecture.word)
        variables_size += architecture.word
    entries += len(code) + len(program.externs) + len(anonymous) + len(places) + 8
    layout = plan(architecture, code_size, deepest_frame, variables_size, entries * architecture.word, room)
    symbols: dict[str, int] = {".TOC.": layout.toc.base + 0x800}
    symbols |= {name: layout.variables.base + place for name, place in places.items()}
    for name, offset in code.items():
        symbols[name] = layout.code.base + offset
    for index, name in enumerate([n for n in program.externs if n not in symbols] + list(anonymous)):
        symbols[name] = layout.stubs.base + index * STUB_SPACING
    pointers = dict(symbols)
    index = 0
    for name in symbols:
        signature = program.functions.get(name) or program.externs.get(name) or anonymous.get(name)
        if signature is not None and signature.convention.descriptors:
            pointers[name] = layout.descriptors.base + 24 * index
            index += 1
    # The first entries are the linker's.
    got = {n: layout.toc.base + (2 + i) * architecture.word for i, n in enumerate(symbols) if n != TOC_SYMBOL}
    return Build(program, layout, symbols, pointers, got if architecture.linkage == "pic" else {}, slots=slots)


def entry_of(table: ir.Table, seed: int, number: int) -> int:
    """By which entry the judge's n-th call goes into a table, 0 for the outermost: the first one, the second, the last
    one and others in turn."""
    turn = {0: 0, 1: 1, 2: table.count - 1}.get(seed % SEED_STEP) if number == 0 else None
    if turn is None:
        turn = random.Random(f"{seed} entry {number}").randrange(table.count)
    return min(turn, table.count - 1)


def _variable_places(program: ir.Program) -> tuple[dict[str, int], int]:
    """Where the extern variables are, in bytes from the start of their region; and where the last one ends. What lies
    between them belongs to nobody."""
    places: dict[str, int] = {}
    end = 0
    for variable in program.variables.values():
        # On s390x symbols are even, for addresses are made by halfwords (ELF ABI s390x, "Fundamental types").
        alignment = max(variable.alignment, 2)
        start = (end + 24 + alignment - 1) // alignment * alignment
        if start % (2 * alignment) == 0:
            start += alignment  # aligned to no more than it has to be
        places[variable.name] = start
        end = start + variable.size
    return places, end


def name_of_variable(program: ir.Program, symbols: Mapping[str, int], address: int) -> str:
    """The extern variable that a byte belongs to, and how many bytes from its start; "" if to none."""
    for variable in program.variables.values():
        offset = address - symbols[variable.name]
        if 0 <= offset < variable.size:
            return f"{variable.name}+{offset}" if offset else variable.name
    return ""


def make_world(build: Build, function: ir.Function, scenario: ir.Scenario | None, seed: int) -> World:
    """The world of one run. Raises Trouble if the check's own set-up goes wrong."""
    architecture, layout = build.architecture, build.plan
    # A string seed is hashed the same way by every Python, unlike a tuple.
    random_ = random.Random(f"{seed} {build.program.target.name} {function.name} {scenario.title if scenario else ''}")
    order, word = architecture.order, architecture.word
    kind = GARBAGE[seed % SEED_STEP % len(GARBAGE)]
    regions = [layout.toc, layout.descriptors, layout.data, layout.thread, *layout.stacks, *layout.edges]
    if any(symbol in layout.variables for symbol in build.symbols.values()):
        regions.append(layout.variables)
    pieces = _garbage_for(regions, random_, word, kind)
    images = {region.base: piece for region, piece in zip(regions, pieces, strict=True)}
    memory = Bytes({**images, **build.images})
    for name, pointer in build.pointers.items():
        if pointer != build.symbols[name]:
            # Foreign code is of another module, with a table of contents of its own.
            own = name in build.program.functions
            toc = build.symbols[".TOC."] if own else random_.getrandbits(48) & ~7
            record = (build.symbols[name], toc, random_.getrandbits(64))
            memory.store(pointer, b"".join(v.to_bytes(8, order) for v in record))
    for name, place in build.got.items():
        memory.store(place, build.pointers[name].to_bytes(word, order))
    for place, pointer in build.copies.items():
        memory.store(place, memory.load(pointer, 24))
    for place, value in build.words.items():
        memory.store(place, value.to_bytes(word, order))
    alignment = max(function.convention.alignment, 1)
    top = layout.stacks[0].end - OUTSIDE
    sp = (top - alignment * random_.randrange(64)) // alignment * alignment
    if alignment < 64 and sp % (2 * alignment) == 0:
        sp -= alignment  # aligned to what the convention says, and to no more
    slot, indirect = _set_up_thread_slot(build, memory, random_)
    world = World(
        architecture,
        layout,
        {},
        build.symbols,
        build.pointers,
        {},
        [],
        {},
        random_.getrandbits(8 * word),
        slot,
        indirect,
        sp,
        seed,
        names={address: name for name, address in build.symbols.items()},
    )
    if function.table is not None:
        world.given["table index"] = entry_of(function.table, seed, 0)
    host = GivenHost(world, memory, random_)
    objects = _Objects(build, memory, random_, world)
    if function.variadic:
        type_ = ir.Type("uptr", "int", 8 * word)
        world.words = tuple(objects.value(type_) for _ in range(random_.randrange(MOST_WORDS + 1)))
        world.given["argument count"] = len(world.words)
        world.given["argument words"] = sp + function.convention.words(architecture.homes_below)[0]
    if function.suspension is not None:
        world.contexts = tuple(objects.new(function.suspension.struct) for _ in range(_CONTEXTS))
    if scenario is not None:
        _set_up(scenario, function, world, host, objects)
    else:
        world.arguments = [objects.argument(p, function) for p in function.parameters]
        objects.fill_variables()
        if _uses_thread(function):
            host.set_thread(objects.pointer_to(_thread_struct(build)))
    world.images = {base: bytes(image) for base, image in memory.images.items()}
    return world


def _thread_slot(architecture: Architecture) -> ThreadSlot | None:
    threads = (convention.thread for convention in architecture.conventions.values())
    return next((thread for thread in threads if isinstance(thread, ThreadSlot)), None)


def _set_up_thread_slot(build: Build, memory: Bytes, random_: random.Random) -> tuple[int | None, bool]:
    """The address of the slot, and whether that has the address of g's place. Where a variable of the runtime says
    which slot it is, it is another one in each world."""
    slot, word = _thread_slot(build.architecture), build.architecture.word
    if slot is None:
        return None, False
    offset = slot.offset
    if slot.symbol:
        offset = word * random_.randrange(1, 0x700 // word)
        memory.store(build.symbols[slot.symbol], offset.to_bytes(word, build.architecture.order))
    address = thread_base(build.plan) + offset
    if slot.base_at_base:
        memory.store(address - offset, (address - offset).to_bytes(word, build.architecture.order))
    if slot.indirect:
        place = thread_base(build.plan) - 8 * random_.randrange(1, 0x40)
        memory.store(address, place.to_bytes(word, build.architecture.order))
    return address, slot.indirect


def thread_base(layout: Plan) -> int:
    """The base of the thread's segment, in the middle of its memory."""
    return layout.thread.base + layout.thread.size // 2


def _uses_thread(function: ir.Function) -> bool:
    kinds = (ir.Thread, ir.SetThread, ir.ThreadPlace, ir.SetThreadPlace)
    return any(isinstance(node, kinds) for node in ir.walk(function.body))


def _thread_struct(build: Build) -> str | None:
    return "g" if "g" in build.program.structs else None


def _set_up(scenario: ir.Scenario, function: ir.Function, world: World, host: GivenHost, objects: _Objects) -> None:
    for variable in scenario.objects:
        world.variables[variable] = objects.new(variable.type.struct)
    alignment = max((c.alignment for c in world.architecture.conventions.values()), default=16)
    for index, variable in enumerate(scenario.stacks):
        region = world.plan.stacks[1 + index]
        top = region.end - OUTSIDE
        world.stack_tops[variable.name] = (top - alignment * host.random.randrange(16)) // alignment * alignment
    for argument, parameter in zip(scenario.arguments, function.parameters, strict=True):
        world.variables[argument] = objects.argument(parameter, function)
    objects.fill_variables()
    execution = Execution(host, world.variables, given=world.given)
    for variable, value in scenario.variables:
        world.variables[variable] = execution.value(value) if value is not None else host.any(variable.type.bits)
    for _ in execution.run(scenario.given):
        raise Trouble("`given` calls nothing: calls belong into `on`", scenario.span)
    world.arguments = [world.variables[argument] for argument in scenario.arguments]


class _Objects:
    """Hands out objects of struct types in the data region, with gaps between them."""

    def __init__(self, build: Build, memory: Bytes, random_: random.Random, world: World) -> None:
        self.build = build
        self.memory = memory
        self.random = random_
        self.world = world
        self.next = build.plan.data.base + 0x100
        self.count = 0
        self.turn = world.seed % SEED_STEP  # a campaign's worlds take turns

    def new(self, struct: str | None) -> int:
        layout = self.build.program.structs.get(struct or "")
        size = layout.size if layout is not None else 64
        index, self.count = self.count, self.count + 1
        edge = {(self.turn - 1) % _TURNS: 0, self.turn % _TURNS: 1}.get(index) if self.turn else None
        if edge is not None and size <= self.build.plan.edges[edge].size:
            return self.build.plan.edges[edge].base
        self.next += 16 * self.random.randrange(1, 8)
        address = (self.next + 15) // 16 * 16
        self.next = address + size + 32
        if self.next > self.build.plan.data.end:
            raise Trouble(f"the objects of this check need more than {self.build.plan.data.size} bytes", None)
        return address

    def pointer_to(self, struct: str | None, depth: int = 3) -> int:
        """An object whose pointers lead to further objects, `depth` levels down."""
        address = self.new(struct)
        layout = self.build.program.structs.get(struct or "")
        if layout is not None and depth:
            self._fill(layout, address, depth)
        return address

    def _fill(self, layout: ir.StructLayout, address: int, depth: int) -> None:
        order, word = self.build.architecture.order, self.build.architecture.word
        for field_ in layout.fields.values():
            if isinstance(field_.type, str):
                self._fill(self.build.program.structs[field_.type], address + field_.offset, depth)
            elif field_.type.struct and field_.count is None and depth > 1:
                target = self.pointer_to(field_.type.struct, depth - 1)
                self.memory.store(address + field_.offset, target.to_bytes(word, order))

    def argument(self, parameter: ir.Variable, function: ir.Function) -> int:
        """A value of the parameter's type: of those where mistakes show, or any."""
        type_ = parameter.type
        place = self._place_to_resume(parameter, function)
        if place is not None:
            return place
        if type_.kind == "pointer":
            used = anonymous_callee(parameter, function)
            if used is not None:
                return self.world.pointers[used]
        return self.value(type_)

    def fill_variables(self) -> None:
        """Give the extern variables values of their types."""
        order = self.build.architecture.order
        for variable in self.build.program.variables.values():
            address = self.build.symbols[variable.name]
            if isinstance(variable.type, str):
                if variable.count is None and variable.type in self.build.program.structs:
                    self._fill(self.build.program.structs[variable.type], address, 3)
            elif variable.count is None:
                callees = [n for n in self.world.pointers if n.startswith(f"*{variable.name}:")]
                value = self.world.pointers[callees[0]] if callees else self.value(variable.type)
                value &= (1 << variable.type.bits) - 1
                self.memory.store(address, value.to_bytes(variable.size, order))

    def value(self, type_: ir.Type) -> int:
        """A value of a type: of those where mistakes show, or any."""
        if type_.kind == "pointer":
            return self.pointer_to(type_.struct) if type_.struct or self.random.randrange(4) else 0
        low = -(1 << (type_.bits - 1)) if type_.signed else 0
        high = (1 << (type_.bits - 1)) - 1 if type_.signed else (1 << type_.bits) - 1
        special = [0, 1, low, high, high // 2 + 1]
        if self.random.randrange(3) == 0:
            return self.random.choice(special)
        return self.random.randint(low, high)

    def _place_to_resume(self, parameter: ir.Variable, function: ir.Function) -> int | None:
        """A program counter where the judge waits, or a stack pointer, for a parameter that `resume` takes as one."""
        layout = self.build.plan
        for node in ir.walk(function.body):
            if not isinstance(node, ir.Resume):
                continue
            if any(isinstance(part, ir.Read) and part.variable is parameter for part in ir.walk(node.pc)):
                return layout.returns.base + layout.returns.size // 2
            if any(isinstance(part, ir.Read) and part.variable is parameter for part in ir.walk(node.sp)):
                return layout.stacks[-1].end - OUTSIDE - 16 * self.random.randrange(16)
        return None


def anonymous_callee(parameter: ir.Variable, function: ir.Function) -> str | None:
    """The name of the callee that stands behind a parameter which the trampoline calls through."""
    for node in ir.walk(function.body):
        if not isinstance(node, (ir.Call, ir.TailCall)) or not isinstance(node.callee, ir.Read):
            continue
        if node.callee.variable is parameter:
            return f"*{function.name}.{parameter.name}:{node.convention.name}"
    return None


def _behind_variable(node: ir.Call | ir.TailCall) -> str | None:
    """The name of the callee that stands behind an extern variable which is called through."""
    match node.callee:
        case ir.Load(address=ir.SymbolAddress(symbol=symbol), offset=0):
            return f"*{symbol}:{node.convention.name}"
    return None


def anonymous_callees(program: ir.Program) -> dict[str, ir.Signature]:
    """Signatures of the callees behind pointer parameters and extern variables, from how they are called."""
    found: dict[str, ir.Signature] = {}
    for function in program.functions.values():
        for node in ir.walk(function.body):
            if isinstance(node, (ir.Call, ir.TailCall)) and isinstance(node.callee, (ir.Read, ir.Load)):
                parameter = node.callee.variable if isinstance(node.callee, ir.Read) else None
                if parameter is None:
                    name = _behind_variable(node)
                else:
                    name = anonymous_callee(parameter, function) if parameter.kind == "parameter" else None
                if name is not None:
                    parameters = tuple((f"argument {i}", a.type) for i, a in enumerate(node.arguments))
                    result = node.result if isinstance(node, ir.Call) else function.result
                    found[name] = ir.Signature(name, parameters, result, node.convention, None)
    return found
