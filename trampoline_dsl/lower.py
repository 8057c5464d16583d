"""IR to operations on virtual registers: control flow is flattened, arguments get their places, 64-bit values on
32-bit machines are split. Which register and which byte of the frame is decided later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, assert_never

from . import ir
from .diagnostics import Diagnostic, InputError, Span
from .lir import DECLARED, THREAD, Body, Context, Home, Kind, Lost, Operation, VirtualRegister, name_of
from .records import dataclass
from .target import (
    BASE_SYMBOL,
    TOC_SYMBOL,
    Architecture,
    Bank,
    BinaryOp,
    Condition,
    Convention,
    InRegister,
    Location,
    OnStack,
    Part,
    Register,
    ThreadSlot,
    ValueType,
    float_allocatable,
    of_thread,
)

_NEGATED: dict[Condition, Condition] = {
    "eq": "ne",
    "ne": "eq",
    "lt": "ge",
    "ge": "lt",
    "le": "gt",
    "gt": "le",
    "ult": "uge",
    "uge": "ult",
    "ule": "ugt",
    "ugt": "ule",
}
_SWAPPED: dict[Condition, Condition] = {
    "eq": "eq",
    "ne": "ne",
    "lt": "gt",
    "gt": "lt",
    "le": "ge",
    "ge": "le",
    "ult": "ugt",
    "ugt": "ult",
    "ule": "uge",
    "uge": "ule",
}

_CALL = 5  # bytes of an entry that is a call

Values = tuple[VirtualRegister, ...]  # one register, or the low and the high word of a value of two


def lower(function: ir.Function, architecture: Architecture) -> Body:
    """The body of one trampoline. Raises InputError for what this machine cannot do."""
    return _Lowering(function, architecture).run()


@lru_cache(maxsize=1024)
def lost_bits(convention: Convention, architecture: Architecture, only: frozenset[Register] | None) -> Lost:
    """The bits of each register that may be changed after a call by `convention`; `only` restricts the registers to
    those that an extern names, and what every call may change."""
    always = set(convention.linker_may_write)
    if convention.return_address is not None:
        always.add(convention.return_address)
    if architecture.flags is not None:
        always.add(architecture.flags)
    if isinstance(convention.thread, Register):
        always.add(convention.thread)  # the callee may be the one that changes the thread's g
    if only is not None:
        return Lost({r: (1 << r.bits) - 1 for r in (only | always)})
    fixed = {f.register: f.mask for f in convention.fixed}
    # What one convention reserves its functions may change, unless all of them leave it to somebody else.
    nobodys = set.intersection(*(set(c.reserved) for c in architecture.conventions.values()))
    nobodys -= {architecture.got}
    lost = Lost()
    for register in dict.fromkeys(architecture.registers.values()):
        if register is architecture.sp or register in nobodys:
            continue
        mask = ((1 << register.bits) - 1) & ~convention.keeps(register) & ~fixed.get(register, 0)
        if mask or register in always:
            lost[register] = mask or (1 << register.bits) - 1
    return lost


def clobbers_of(lost: Mapping[Register, int]) -> frozenset[Register]:
    """Where a value would not survive: values have at most 64 bits, so the upper half of a vector does not matter."""
    return frozenset(r for r, mask in lost.items() if mask & ((1 << 64) - 1))


@lru_cache(maxsize=1024)
def _lost_by_call(
    convention: Convention,
    architecture: Architecture,
    only: frozenset[Register] | None,
    results: tuple[Register, ...],
    caller: Convention,
) -> tuple[Lost, frozenset[Register]]:
    """`lost_bits`, all of the registers with the result, and what the callee wants to hold a known value, which holds
    none of the caller's, unless its callers want the same of it; and `clobbers_of` that."""
    lost = Lost(lost_bits(convention, architecture, only))
    lost.update((register, (1 << register.bits) - 1) for register in results)
    if convention is not caller:
        own = {f.register: f for f in caller.fixed}
        for fixed in convention.fixed:
            if own.get(fixed.register) != fixed:
                lost[fixed.register] = lost.get(fixed.register, 0) | fixed.mask
    return lost, clobbers_of(lost)


@lru_cache(maxsize=1024)
def _wholly_lost(registers: frozenset[Register]) -> Lost:
    return Lost({register: (1 << register.bits) - 1 for register in registers})


@lru_cache(maxsize=256)
def _kept_by_frame(convention: Convention, architecture: Architecture) -> tuple[Lost, frozenset[Register]]:
    """All that the convention keeps, and the return address, as lost; and `clobbers_of` that."""
    spared = set(of_thread(architecture))
    if convention.descriptors and architecture.toc is not None:
        spared.add(architecture.toc)  # whoever calls brings the callee's own: it is the same for all
    kept = Lost({r: mask for r, mask in convention.kept.items() if r not in spared})
    if convention.return_address is not None:
        kept[convention.return_address] = (1 << convention.return_address.bits) - 1
    return kept, clobbers_of(kept)


@lru_cache(maxsize=4096)
def _lost_together(one: Lost, two: Lost) -> Lost:
    if all(mask & ~one.get(register, 0) == 0 for register, mask in two.items()):
        return one
    lost = Lost(one)
    for register, mask in two.items():
        lost[register] = lost.get(register, 0) | mask
    return lost


_NOTHING = Lost()


@dataclass(frozen=True, slots=True, eq=False)
class _Passing:
    """What follows from the types of a call's arguments and result, its convention and that of the caller.

    `delivered` and `received`: the register in which an argument travels just as it is held, as its caller and as its
    callee sees it; None where there is more to do. `back` and `taken`: the same of a result, as the callee and as the
    caller sees it. `narrow`: the bits that matter in the registers of integers above which nothing is promised;
    `narrow_result` is that for the result, which has `results` in registers."""

    arguments: tuple[Location, ...]
    result: Location
    stack_bytes: int
    delivered: tuple[Register | None, ...]
    received: tuple[Register | None, ...]
    back: Register | None
    taken: Register | None
    results: tuple[Register, ...]
    has_to_be_taken: bool  # it arrives where no value can stay: it is moved away even if nobody wants it (x87)
    narrow: Mapping[Register, int]
    narrow_result: Mapping[Register, int]


_Kind = Literal["int", "pointer", "float"]


@lru_cache(maxsize=4096)
def _passing(
    architecture: Architecture,
    caller: Convention,
    convention: Convention,
    arguments: tuple[tuple[_Kind, int, bool], ...],
    result: tuple[_Kind, int, bool] | None,
) -> _Passing:
    word, floats = 8 * architecture.word, float_allocatable(architecture, caller)
    types = [ValueType("float" if kind == "float" else "int", bits, signed) for kind, bits, signed in arguments]
    back = ValueType("float" if result[0] == "float" else "int", *result[1:]) if result is not None else None
    assignment = convention.place(types, back)

    def as_it_is(type_: ValueType, location: Location, received: bool) -> Register | None:
        part = location[0]
        if len(location) > 1 or not isinstance(part.place, InRegister):
            return None
        if type_.kind == "float" and floats:
            odd = part.place.left and not architecture.singles_left
            return None if part.place.register.bank is Bank.INTEGER or odd else part.place.register
        if type_.bits > word:
            return None
        widened = part.extend_to >= word and part.extend_signed == type_.signed
        if received:
            known = type_.bits >= word or type_.kind == "float" or widened
        else:
            known = part.extend_to <= type_.bits or (part.extend_signed == type_.signed and type_.kind != "float")
        return part.place.register if known else None

    def narrow(locations: Iterable[Location]) -> Mapping[Register, int]:
        return MappingProxyType(
            {
                part.place.register: max(part.bits, part.extend_to)
                for location in locations
                for part in location
                if isinstance(part.place, InRegister) and max(part.bits, part.extend_to) < word
            }
        )

    pairs = list(zip(types, assignment.arguments, strict=True))
    results = tuple([part.place.register for part in assignment.result if isinstance(part.place, InRegister)])
    return _Passing(
        assignment.arguments,
        assignment.result,
        assignment.stack_bytes,
        tuple([as_it_is(type_, location, False) for type_, location in pairs]),
        tuple([as_it_is(type_, location, True) for type_, location in pairs]),
        as_it_is(back, assignment.result, False) if back is not None else None,
        as_it_is(back, assignment.result, True) if back is not None else None,
        results,
        any(register.bank is Bank.FLOAT and register not in floats for register in results),
        narrow(assignment.arguments),
        narrow((assignment.result,)),
    )


class _Lowering:
    def __init__(self, function: ir.Function, architecture: Architecture) -> None:
        self.function = function
        self.architecture = architecture
        self.convention = function.convention
        self.word = architecture.word
        self.word_bits = 8 * architecture.word
        self.operations: list[Operation] = []
        self.count = 0
        self.labels = 0
        self.targets: set[str] = set()  # the labels that are jumped to
        self.variables: dict[ir.Variable, Values] = {}
        self.homes: dict[ir.Variable, Home] = {}
        self.all_homes: list[Home] = []
        self.contexts = [Context(0, -1)]
        self.context = 0
        self.sp = VirtualRegister(0, "sp", fixed=architecture.sp)
        self.thread_place = self._thread_place()
        self.thread = (
            VirtualRegister(0, "g", fixed=self.thread_place) if isinstance(self.thread_place, Register) else None
        )
        self.words = self.convention.words(architecture.homes_below) if function.variadic else None
        self.span: Span | None = function.span
        self.lost = _NOTHING
        self.alignment = 1
        self.calls = False
        self.bottom_free = True
        self.loops: list[tuple[str, str]] = []
        self.usable_floats = float_allocatable(architecture, self.convention)
        self.floats = bool(self.usable_floats)

    def _thread_place(self) -> Register | ThreadSlot | None:
        if self.convention.thread is not None:
            return self.convention.thread
        for convention in self.architecture.conventions.values():
            if convention.thread is not None:
                return convention.thread
        return None

    # ------------------------------------------------------------------------------------------------------- helpers

    def new(self, name: str | Span, floating: bool = False, bits: int = 64) -> VirtualRegister:
        self.count += 1
        return VirtualRegister(self.count, name, floating, None, False, False, False, bits)

    def add(
        self,
        kind: Kind,
        defs: Values = (),
        uses: Values = (),
        value: int = 0,
        immediate: bool = False,
        bits: int = 0,
        signed: bool = False,
        operator: BinaryOp | None = None,
        condition: Condition | None = None,
        label: str = "",
        symbol: str = "",
        home: Home | None = None,
    ) -> Operation:
        """An operation of the statement at hand, on the stack at hand."""
        operation = Operation(
            kind,
            defs,
            uses,
            self.context,
            self.span,
            value,
            immediate,
            bits,
            signed,
            operator,
            condition,
            label,
            symbol,
            home,
        )
        self.operations.append(operation)
        return operation

    def add_tied(
        self,
        kind: Kind,
        uses: Iterable[VirtualRegister],
        places: Iterable[Register | None],
        convention: Convention | None = None,
        narrow: Mapping[Register, int] | None = None,
        clobbers: frozenset[Register] = frozenset(),
    ) -> Operation:
        """One that has its operands in certain registers."""
        operation = Operation(kind, (), tuple(uses), self.context, self.span)
        operation.places, operation.convention = tuple(places), convention
        operation.narrow, operation.clobbers = narrow, clobbers
        self.operations.append(operation)
        return operation

    def move(self, target: VirtualRegister, source: VirtualRegister) -> None:
        self.operations.append(Operation("move", (target,), (source,), self.context, self.span))

    def label(self, hint: str) -> str:
        self.labels += 1
        return f"{hint}{self.labels}"

    def jump(self, label: str) -> None:
        self.targets.add(label)
        self.add("jump", label=label)

    def branch(self, condition: Condition, a: VirtualRegister, b: VirtualRegister | int, label: str) -> None:
        self.targets.add(label)
        if isinstance(b, int):
            self.add("branch", (), (a,), b, True, condition=condition, label=label)
        else:
            self.add("branch", (), (a, b), condition=condition, label=label)

    def place_label(self, label: str) -> None:
        """Behind all that goes there."""
        if label in self.targets:
            self.add("label", label=label)

    def home(self, name: str, size: int, reason: str, **rest: object) -> Home:
        home = Home(name, size, self.context, reason, **rest)  # type: ignore[arg-type]
        self.all_homes.append(home)
        return home

    def is_float(self, type_: ir.Type) -> bool:
        return type_.kind == "float" and self.floats

    def is_wide(self, type_: ir.Type) -> bool:
        return type_.bits > self.word_bits and not self.is_float(type_)

    def fresh(self, name: str | Span, type_: ir.Type) -> Values:
        floating = self.floats and type_.kind == "float"
        if type_.bits > self.word_bits and not floating:
            text = name_of(name)
            return (self.new(f"{text}.low"), self.new(f"{text}.high"))
        self.count += 1
        return (VirtualRegister(self.count, name, floating, None, False, False, False, type_.bits),)

    def low_first(self, offset: int) -> tuple[int, int]:
        """Where the low and the high word of a two-word value at `offset` are."""
        if self.architecture.order == "little":
            return offset, offset + self.word
        return offset + self.word, offset

    def fail(self, code: str, message: str, span: Span | None, *notes: str) -> InputError:
        return InputError([Diagnostic(code, message, span, notes=notes)])

    def _lose(self, *registers: Register) -> None:
        self.lost = _lost_together(self.lost, _wholly_lost(frozenset(registers)))

    # ---------------------------------------------------------------------------------------------------- the whole

    def run(self) -> Body:
        for slot in self.function.slots:
            size = slot.size or slot.type.bytes
            self.homes[slot] = self.home(
                slot.name, size, DECLARED, pin=slot.pin, span=slot.span, alignment=slot.alignment
            )
        self._enter()
        self.block(self.function.body)
        if not self.operations or self.operations[-1].kind not in ("return", "tail_call", "resume", "trap"):
            self.span = Span(self.function.span.source, self.function.span.end - 1, self.function.span.end)
            self._return(ir.Return(None, self.span))
        uses_toc = self._provide_toc()
        self._provide_base()
        return Body(
            self.function.name,
            self.operations,
            self.contexts,
            self.all_homes,
            self.lost,
            self.alignment,
            self.convention,
            self.calls,
            self.bottom_free,
            self.function.save,
            uses_toc,
            self.function.table is not None,
            self.words,
            self._is_bare(uses_toc),
            self.count,
            self.function.span,
        )

    def _is_bare(self, uses_toc: bool) -> bool:
        suspension = self.function.suspension
        if suspension is None or suspension.suspends is not None or uses_toc:
            return False
        if any(isinstance(node, ir.Special) for node in ir.walk(self.function.body)):
            return False  # where `sp` is that of a frame
        switch = next((i for i, node in enumerate(self.function.body) if isinstance(node, ir.SwitchStack)), None)
        return switch is not None and not any(
            isinstance(node, ir.Return) for before in self.function.body[:switch] for node in ir.walk(before)
        )

    def _provide_toc(self) -> bool:
        """The table of contents is where the machine's code finds symbols, and where functions that keep it expect it.
        It is brought back where calls may have changed it, and found anew in a function that was not given it, but for
        calls through pointers: what is called finds its own. Whether what the caller gave is used."""
        register, found = self.architecture.toc, False
        if register is None:
            # With linkage "pic": as if given, where the function can find it by its own address.
            register, found = self.architecture.got, self.convention.call_through is not None
        if register is None:
            return False
        given = found if register is self.architecture.got else self.convention.keeps(register) != 0
        wanting = {
            id(o)
            for o in self.operations
            if o.kind in ("symbol", "symbol_load")
            or (o.symbol and o.convention is not None and o.convention.keeps(register))
        }
        lost = register in self.lost
        if wanting and found:
            self._lose(register)
        if not wanting or (given and not lost):
            return bool(wanting) and given
        place = VirtualRegister(0, register.name, fixed=register)
        value = self.new(register.name)
        operations: list[Operation] = []
        there = found  # as long as nothing that may have changed it can have run
        for operation in self.operations:
            if operation.kind in ("call", "asm", "label", "branch"):
                there = False
            if id(operation) in wanting and not there:
                there = found
                made = Operation("symbol", (place,), (), symbol=TOC_SYMBOL)
                if given:
                    made = Operation("move", (place,), (value,))
                made.context, made.span = operation.context, operation.span
                operations.append(made)
                if not given:
                    self._lose(register)
            operations.append(operation)
        if given and len(operations) > len(self.operations):
            enter = operations[0]
            operations[0] = enter.with_registers((*enter.defs, value), enter.uses)
            operations[0].results = (*enter.results, register)
        self.operations = operations
        return given

    def _provide_base(self) -> None:
        """What symbols' addresses are counted from is found before each of them; what is needless goes later."""
        register = self.architecture.symbol_base()
        if register is None or all(o.kind not in ("symbol", "symbol_load") for o in self.operations):
            return
        operations: list[Operation] = []
        for operation in self.operations:
            if operation.kind in ("symbol", "symbol_load"):
                place = VirtualRegister(0, register.name, fixed=register)
                made = Operation("symbol", (place,), (), symbol=BASE_SYMBOL)
                made.context, made.span = operation.context, operation.span
                operations.append(made)
            operations.append(operation)
        self.operations = operations
        if all(fixed.register is not register for fixed in self.convention.fixed):
            self._lose(register)

    def _passing(self, convention: Convention, types: Iterable[ir.Type], result: ir.Type | None) -> _Passing:
        arguments = tuple([(type_.kind, type_.bits, type_.signed) for type_ in types])
        back = None if result is None else (result.kind, result.bits, result.signed)
        return _passing(self.architecture, self.convention, convention, arguments, back)

    def _enter(self) -> None:
        parameters = self.function.parameters
        self.passing = self._passing(self.convention, [p.type for p in parameters], self.function.result)
        defs: list[VirtualRegister] = []
        registers: list[Register] = []
        enter = self.add("enter")
        for variable, location, register in zip(parameters, self.passing.arguments, self.passing.received, strict=True):
            values = self.variables[variable] = self.fresh(variable.name, variable.type)
            if register is not None:
                defs.append(values[0])
                registers.append(register)
            else:
                self._receive(values, variable.type, location, defs, registers, variable.name, incoming=True)
        if self.function.table is not None:
            self.table_index = self.new("table index")
            self._table_index(self.function.table, defs, registers)
        enter.defs, enter.results = tuple(defs), tuple(registers)

    def _table_index(self, table: ir.Table, defs: list[VirtualRegister], registers: list[Register]) -> None:
        """Make the index of what an entry tells; appends to `defs` and `registers`. An address is a whole number of
        entries away from the table, so that a multiplication by the inverse of their length divides exactly."""
        registers.append(self.architecture.table_register(self.convention))
        if not self.architecture.table_pushes:
            defs.append(self.table_index)
            return
        told, base = self.new("behind the entry"), self.new(table.name)
        away, number = self.new("bytes"), self.new("entries")
        defs.append(told)
        self.add("symbol", (base,), (), symbol=table.name)
        self.add("binary", (away,), (told, base), operator="sub")
        inverse = pow(_CALL, -1, 1 << 32)
        inverse -= 1 << 32 if inverse >> 31 else 0  # of which a machine of 64 bits uses the lower half
        value = inverse & ((1 << self.word_bits) - 1)
        self.add("binary", (number,), (away,), operator="mul", value=value, immediate=True)
        if self.word_bits == 32:
            self.add("binary", (self.table_index,), (number,), operator="sub", value=1, immediate=True)
        else:
            low = self.new("low half")
            self.add("binary", (low,), (number,), operator="sub", value=1, immediate=True)
            self.add("extend", (self.table_index,), (low,), bits=32, signed=False)

    def _receive(
        self,
        values: Values,
        type_: ir.Type,
        location: Location,
        defs: list[VirtualRegister],
        registers: list[Register],
        name: str,
        *,
        incoming: bool,
    ) -> None:
        """A value that arrives by a convention: a parameter, or a call's result. Appends to `defs` and `registers`
        what arrives in registers, and to the operations what has to be done after that."""
        if not self.is_float(type_):
            self._receive_parts(values, type_, location, defs, registers, name, incoming=incoming)
            return
        places = [part.place for part in location]
        if all(isinstance(p, InRegister) and p.register.bank is not Bank.INTEGER for p in places):
            first = location[0].place
            assert isinstance(first, InRegister)
            if self._odd_single(location[0]):
                self._from_odd_single(values[0], first.register, defs, registers, name)
                return
            defs.append(values[0])
            registers.append(first.register)
            return
        # The bits arrive in core registers or in memory: through memory into a float register.
        if all(isinstance(p, OnStack) for p in places):
            offset = min(p.offset for p in places if isinstance(p, OnStack))
            self._load_from(values[0], offset, type_.bits, False, name, type_.bytes, incoming=incoming)
            return
        pieces = tuple(self.new(name) for _ in location)
        self._receive_parts(pieces, type_, location, defs, registers, name, incoming=incoming)
        self._words_to_float(pieces, location, values[0], type_)

    def _receive_parts(
        self,
        values: Values,
        type_: ir.Type,
        location: Location,
        defs: list[VirtualRegister],
        registers: list[Register],
        name: str,
        *,
        incoming: bool,
    ) -> None:
        for part, value in self._parts(values, location):
            match part.place:
                case InRegister(register):
                    enough = part.extend_to >= self.word_bits and part.extend_signed == type_.signed
                    if type_.bits >= self.word_bits or type_.kind == "float" or enough:
                        defs.append(value)
                        registers.append(register)
                    else:
                        raw = self.new(name)
                        defs.append(raw)
                        registers.append(register)
                        so_far = part.extend_to if part.extend_signed == type_.signed else 0
                        self.add("extend", (value,), (raw,), value=so_far, bits=type_.bits, signed=type_.signed)
                case OnStack(offset):
                    bits = min(part.bits, self.word_bits)
                    if part.extend_to and self.architecture.order == "big":
                        offset += (part.extend_to - part.bits) // 8
                    self._load_from(value, offset, bits, type_.signed, name, bits // 8, incoming=incoming)

    def _parts(self, values: Values, location: Location) -> list[tuple[Part, VirtualRegister]]:
        if len(location) == len(values):
            if len(values) == 1:
                return [(location[0], values[0])]
            return [(part, value) for part, value in zip(sorted(location, key=lambda p: p.low), values, strict=True)]
        assert len(location) == 1  # one run of memory for two words
        part = location[0]
        assert isinstance(part.place, OnStack)
        low, high = self.low_first(part.place.offset)
        half = self.word_bits
        return [(Part(OnStack(low), 0, half), values[0]), (Part(OnStack(high), half, half), values[1])]

    def _load_from(
        self, value: VirtualRegister, offset: int, bits: int, signed: bool, name: str, size: int, *, incoming: bool
    ) -> None:
        if incoming:
            reason = "argument in the caller's frame"
            home = Home(name, size, 0, reason, incoming=offset, bits=bits, signed=signed)
            self.add("home_load", (value,), (), home=home, bits=bits, signed=signed)
        else:
            self.add("out_load", (value,), (), value=offset, bits=bits, signed=signed)

    def _odd_single(self, part: Part) -> bool:
        """A single in the upper half of a register whose singles live in the lower half."""
        return isinstance(part.place, InRegister) and part.place.left and not self.architecture.singles_left

    def _from_odd_single(
        self,
        value: VirtualRegister,
        register: Register,
        defs: list[VirtualRegister],
        registers: list[Register],
        name: str,
    ) -> None:
        known = [d for d, r in zip(defs, registers, strict=True) if r is register]
        pair = known[0] if known else self.new(name, True)
        pair.bits = 64  # though the value that is known is the lower half only
        if not known:
            defs.append(pair)
            registers.append(register)
        # Through memory: both halves are stored, and the upper one is loaded.
        home = self.home(f"{name} (both halves)", 8, "to take a single out of the upper half of its register")
        self.add("home_store", (), (pair,), home=home, bits=64)
        self.add("home_load", (value,), (), home=home, bits=32, value=4 if self.architecture.order == "little" else 0)

    def _words_to_float(self, pieces: Values, location: Location, value: VirtualRegister, type_: ir.Type) -> None:
        home = self.home(f"{value.name} (bits)", 8, "to move bits between core and float registers")
        for piece, part in zip(pieces, sorted(location, key=lambda p: p.low), strict=True):
            self.add("home_store", (), (piece,), home=home, bits=part.bits, value=self._byte_of(part, type_))
        self.add("home_load", (value,), (), home=home, bits=type_.bits)

    def _float_to_words(self, value: VirtualRegister, location: Location, type_: ir.Type) -> Values:
        home = self.home(f"{value.name} (bits)", 8, "to move bits between core and float registers")
        self.add("home_store", (), (value,), home=home, bits=type_.bits)
        pieces = []
        for part in sorted(location, key=lambda p: p.low):
            piece = self.new(value.given_name)
            self.add("home_load", (piece,), (), home=home, bits=part.bits, value=self._byte_of(part, type_))
            pieces.append(piece)
        return tuple(pieces)

    def _byte_of(self, part: Part, type_: ir.Type) -> int:
        """Where a part of a value is, in bytes from the value's start in memory."""
        if self.architecture.order == "little":
            return part.low // 8
        return (type_.bits - part.low - part.bits) // 8

    # ---------------------------------------------------------------------------------------------------- statements

    def block(self, body: Sequence[ir.Statement]) -> None:
        for node in body:
            self.span = node.span
            _STATEMENTS[node.__class__](self, node)

    def _set_memory(self, node: ir.Store) -> None:
        address, offset, type_ = node.address, node.offset, node.type
        values = self.evaluate(node.value)
        if isinstance(address, ir.SlotAddress):
            self._home_store(values, self.homes[address.variable], type_, offset)
            return
        base = self.evaluate(address)[0]
        through = isinstance(address, ir.ThreadPlace) and not offset
        if through:
            self.operations[-1].symbol = THREAD
        self._store(values, base, offset, type_)
        if through:
            self.operations[-1].symbol = THREAD

    def _resume(self, node: ir.Resume) -> None:
        self.add("resume", (), (self.evaluate(node.sp)[0], self.evaluate(node.pc)[0]))

    def _trap(self, _: ir.Trap) -> None:
        self.add("trap")

    def _break(self, _: ir.Break) -> None:
        self.jump(self.loops[-1][1])

    def _continue(self, _: ir.Continue) -> None:
        self.jump(self.loops[-1][0])

    def _assign(self, node: ir.Assign) -> None:
        variable = node.variable
        if variable in self.homes:
            values = self.evaluate(node.value)
            self._home_store(values, self.homes[variable], variable.type)
        else:
            self.evaluate(node.value, self._variable(variable))

    def _variable(self, variable: ir.Variable) -> Values:
        values = self.variables.get(variable)
        if values is None:
            values = self.variables[variable] = self.fresh(variable.name, variable.type)
        return values

    def _home_store(self, values: Values, home: Home, type_: ir.Type, offset: int = 0) -> None:
        if len(values) == 2:
            low, high = self.low_first(offset)
            self.add("home_store", (), (values[0],), home=home, bits=self.word_bits, value=low)
            self.add("home_store", (), (values[1],), home=home, bits=self.word_bits, value=high)
        else:
            if values[0].fixed is not None and type_.bits == 8:
                values = (self._copy(values[0]),)
            self._mark_byte(values[0], type_.bits)
            self.add("home_store", (), values, home=home, bits=type_.bits, value=offset)

    def _mark_byte(self, value: VirtualRegister, bits: int) -> None:
        if bits == 8 and self.architecture.byte_registers is not None:
            value.byte = True

    def _store(self, values: Values, base: VirtualRegister, offset: int, type_: ir.Type) -> None:
        if len(values) == 2:
            low, high = self.low_first(offset)
            self.add("store", (), (values[0], base), value=low, bits=self.word_bits)
            self.add("store", (), (values[1], base), value=high, bits=self.word_bits)
            return
        value = values[0]
        if type_.bits == 8 and self.architecture.byte_registers is not None:
            if value.fixed is not None:
                value = self._copy(value)
            value.byte = True
        self.add("store", (), (value, base), value=offset, bits=type_.bits)

    def _copy(self, value: VirtualRegister) -> VirtualRegister:
        self.count += 1
        copy = VirtualRegister(self.count, value.given_name, value.floating, None, False, False, False, value.bits)
        self.operations.append(Operation("move", (copy,), (value,), self.context, self.span))
        return copy

    def _set_thread(self, node: ir.SetThread) -> None:
        value = node.value
        if self.thread is not None:
            if self.thread.fixed is not None:
                self._lose(self.thread.fixed)
            self.evaluate(value, (self.thread,))
            return
        source = self.evaluate(value)
        assert isinstance(self.thread_place, ThreadSlot)
        if self.architecture.thread_store_by_base and not self.thread_place.symbol:
            base = self.new("base")
            self.add("thread_base", (base,))
            source = (*source, base)
        self.add("thread_store", (), source)

    def _set_thread_place(self, node: ir.SetThreadPlace) -> None:
        assert isinstance(self.thread_place, ThreadSlot)
        [source] = self.evaluate(node.value)
        if not self.thread_place.symbol:
            self.add("thread_store", (), (source,))
            return
        offset = self.new("slot")
        self.add("symbol_load", (offset,), symbol=self.thread_place.symbol, bits=self.word_bits)
        self.add("thread_store", (), (source, offset))

    @property
    def indirect(self) -> bool:
        """Whether `g` is where a thread-local word points to, if to anywhere."""
        return isinstance(self.thread_place, ThreadSlot) and self.thread_place.indirect

    def _if(self, node: ir.If) -> None:
        then, otherwise, end = self.label("then"), self.label("else"), self.label("end")
        self._branch(node.condition, then, otherwise if node.otherwise else end, then)
        self.place_label(then)
        self.block(node.then)
        if node.otherwise:
            self.span = node.span
            self.jump(end)
            self.place_label(otherwise)
            self.block(node.otherwise)
        self.place_label(end)

    def _while(self, node: ir.While) -> None:
        top, body, end = self.label("while"), self.label("do"), self.label("done")
        self.targets.add(top)
        self.place_label(top)
        self._branch(node.condition, body, end, body)
        self.place_label(body)
        self.loops.append((top, end))
        self.block(node.body)
        self.loops.pop()
        self.jump(top)
        self.place_label(end)

    # ---------------------------------------------------------------------------------------------------- conditions

    def _branch(self, condition: ir.Condition, yes: str, no: str, following: str) -> None:
        """Go to `yes` or to `no`, of which `following` comes next in the code."""
        match condition:
            case ir.Negated(operand=operand):
                self._branch(operand, no, yes, following)
            case ir.Both(left=left, right=right):
                middle = self.label("and")
                self._branch(left, middle, no, middle)
                self.place_label(middle)
                self._branch(right, yes, no, following)
            case ir.Either(left=left, right=right):
                middle = self.label("or")
                self._branch(left, yes, middle, middle)
                self.place_label(middle)
                self._branch(right, yes, no, following)
            case ir.Comparison():
                self._compare(condition, yes, no, following)
            case _:
                assert_never(condition)

    def _compare(self, node: ir.Comparison, yes: str, no: str, following: str) -> None:
        left, right, condition = node.left, node.right, node.condition
        if isinstance(left, ir.Constant) and not isinstance(right, ir.Constant):
            left, right, condition = right, left, _SWAPPED[condition]
        if self.is_wide(left.type):
            self._compare_wide(left, right, condition, yes, no, following)
            return
        if isinstance(left, ir.Thread) and self.indirect and isinstance(right, ir.Constant) and right.value == 0:
            # Where there is no place for it, g is null: that is known without loading it.
            place, there = self.new("place of g"), self.label("place")
            self.add("thread_load", (place,), symbol=THREAD)
            self._compare_words("eq", place, 0, yes if condition in ("eq", "ule", "uge") else no, there, there)
            self.place_label(there)
            a = self.new("g")
            self.add("load", (a,), (place,), bits=self.word_bits, symbol=THREAD)
        else:
            a = self.evaluate(left)[0]
        if isinstance(right, ir.Constant):
            b: VirtualRegister | int = right.value & ((1 << self.word_bits) - 1)
        else:
            b = self.evaluate(right)[0]
        self._compare_words(condition, a, b, yes, no, following)

    def _compare_words(
        self, condition: Condition, a: VirtualRegister, b: VirtualRegister | int, yes: str, no: str, following: str
    ) -> None:
        target = yes
        if following == yes:
            condition, target = _NEGATED[condition], no
        if a.fixed is self.architecture.sp:
            a = self._copy(a)
        self.branch(condition, a, b, target)
        if following not in (yes, no):
            self.jump(no)

    def _compare_wide(
        self, left: ir.Expression, right: ir.Expression, condition: Condition, yes: str, no: str, following: str
    ) -> None:
        a, b = self.evaluate(left), self.evaluate(right)
        if condition in ("eq", "ne"):
            low, high, both = self.new("low"), self.new("high"), self.new("differ")
            self.add("binary", (low,), (a[0], b[0]), operator="xor")
            self.add("binary", (high,), (a[1], b[1]), operator="xor")
            self.add("binary", (both,), (low, high), operator="or")
            self._compare_words(condition, both, 0, yes, no, following)
            return
        strict: Condition = {"lt": "lt", "le": "lt", "gt": "gt", "ge": "gt"}.get(condition, condition)  # type: ignore[assignment]
        strict = {"ult": "ult", "ule": "ult", "ugt": "ugt", "uge": "ugt"}.get(strict, strict)  # type: ignore[assignment]
        unsigned: Condition = {"lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}.get(condition, condition)  # type: ignore[assignment]
        equal, low_words = self.label("high"), self.label("low")
        self._compare_words(strict, a[1], b[1], yes, equal, equal)
        self.place_label(equal)
        self._compare_words("eq", a[1], b[1], low_words, no, low_words)
        self.place_label(low_words)
        self._compare_words(unsigned, a[0], b[0], yes, no, following)

    # --------------------------------------------------------------------------------------------------- expressions

    def _base(self, address: ir.Expression, offset: int) -> tuple[VirtualRegister, int]:
        return self.evaluate(address)[0], offset

    def evaluate(self, node: ir.Expression, into: Values | None = None) -> Values:
        """The registers that hold a value; `into` asks for those."""
        there: Values | None = None  # where the value is already
        if isinstance(node, ir.Read):
            if node.variable not in self.homes:
                there = self._variable(node.variable)
        elif isinstance(node, ir.Special):
            if node.what == "sp":
                there = (self.sp,)
            elif node.what == "table index":
                there = (self.table_index,)
        elif isinstance(node, ir.Thread) and self.thread is not None:
            there = (self.thread,)
        if there is not None:
            if into is None:
                return there
            for d, source in zip(into, there, strict=True):
                self.move(d, source)
            return into
        if into is None:
            into = self.fresh(node.span, node.type)
        _EXPRESSIONS[node.__class__](self, node, into)
        return into

    def _constant(self, node: ir.Constant, into: Values) -> None:
        for index, d in enumerate(into):
            word = (node.value >> (index * self.word_bits)) & ((1 << self.word_bits) - 1)
            self.add("constant", (d,), (), word)

    def _read_home(self, node: ir.Read, into: Values) -> None:
        self._home_load(into, self.homes[node.variable], node.type, 0)

    def _slot_address(self, node: ir.SlotAddress, into: Values) -> None:
        self.add("home_address", into, (), home=self.homes[node.variable])

    def _thread_word(self, _: ir.ThreadPlace, into: Values) -> None:
        self.add("thread_load", into)

    def _thread_in_memory(self, _: ir.Thread, into: Values) -> None:
        if not self.indirect:
            self.add("thread_load", into)
            return
        place, end = self.new("place of g"), self.label("none")
        self.add("thread_load", (place,), symbol=THREAD)
        self.add("constant", into, (), value=0)
        self.branch("eq", place, 0, end)
        self.add("load", into, (place,), bits=self.word_bits, symbol=THREAD)
        self.place_label(end)

    def _symbol_address(self, node: ir.SymbolAddress, into: Values) -> None:
        self.add("symbol", into, (), symbol=node.symbol)

    def _special(self, node: ir.Special, into: Values) -> None:
        match node.what:
            case "argument words":
                assert self.words is not None
                self.add("words", into, value=self.words[0])
            case "entry sp":
                self.add("entry_sp", into)
            case "pushed pc":
                self.add("pushed_pc", into)
            case _:
                raise AssertionError(f"{node} is part of a check")

    def _load(self, node: ir.Load, into: Values) -> None:
        address, offset, type_ = node.address, node.offset, node.type
        if isinstance(address, ir.SlotAddress):
            self._home_load(into, self.homes[address.variable], type_, offset)
            return
        if isinstance(address, ir.SymbolAddress) and not offset and len(into) == 1 and not into[0].floating:
            self.add("symbol_load", into, (), symbol=address.symbol, bits=type_.bits, signed=type_.signed)
            return
        base = self.evaluate(address)[0]
        symbol = THREAD if isinstance(address, ir.ThreadPlace) and not offset else ""
        if symbol:
            self.operations[-1].symbol = symbol
        if len(into) == 2:
            self._load_wide(into, base, offset)
        else:
            self.add("load", into, (base,), value=offset, bits=type_.bits, signed=type_.signed, symbol=symbol)

    def _home_load(self, into: Values, home: Home, type_: ir.Type, offset: int) -> None:
        if len(into) == 2:
            low, high = self.low_first(offset)
            self.add("home_load", (into[0],), (), home=home, bits=self.word_bits, value=low)
            self.add("home_load", (into[1],), (), home=home, bits=self.word_bits, value=high)
        else:
            self.add("home_load", into, (), home=home, bits=type_.bits, signed=type_.signed, value=offset)

    def _load_wide(self, into: Values, base: VirtualRegister, offset: int) -> None:
        low, high = self.low_first(offset)
        first = self.new("low")  # the base may be the very register that the first half is wanted in
        self.add("load", (first,), (base,), value=low, bits=self.word_bits)
        self.add("load", (into[1],), (base,), value=high, bits=self.word_bits)
        self.move(into[0], first)

    def _operation(self, node: ir.Operation, into: Values) -> None:
        left, right, operator = node.left, node.right, node.operator
        if isinstance(left, ir.Constant) and operator in ("add", "and", "or", "xor", "mul"):
            left, right = right, left
        if len(into) == 2:
            self._wide_operation(operator, left, right, into)
            return
        a = self.evaluate(left)[0]
        if a.fixed is self.architecture.sp and operator != "add":
            a = self._copy(a)
        narrow = node.type.bits < self.word_bits and node.type.kind == "int"
        widen = narrow and operator in ("add", "sub", "shl", "mul")
        result = self.new(node.span) if widen else into[0]
        if isinstance(right, ir.Constant):
            value = right.value & ((1 << self.word_bits) - 1)
            if operator == "mul" and value and value & (value - 1) == 0:
                operator, value = "shl", value.bit_length() - 1
            self.add("binary", (result,), (a,), operator=operator, value=value, immediate=True)
        else:
            b = self.evaluate(right)[0]
            if b is result and a is not b and self.architecture.two_address:
                # The left operand goes where the result will be before the right one is read.
                result = self.new(node.span)
            self.add("binary", (result,), (a, b), operator=operator)
        if widen:
            self.add("extend", into, (result,), bits=node.type.bits, signed=node.type.signed)
        elif result is not into[0]:
            self.move(into[0], result)

    def _wide_operation(self, operator: BinaryOp, left: ir.Expression, right: ir.Expression, into: Values) -> None:
        a, b = self.evaluate(left), self.evaluate(right)
        if operator in ("and", "or", "xor"):
            low = self.new("low")
            self.add("binary", (low,), (a[0], b[0]), operator=operator)
            self.add("binary", (into[1],), (a[1], b[1]), operator=operator)
            self.move(into[0], low)
            return
        assert operator in ("add", "sub")
        # The carry is a comparison of the low words: there is no carry flag on every machine.
        low, high, done = self.new("low"), self.new("high"), self.label("carry")
        self.add("binary", (low,), (a[0], b[0]), operator=operator)
        self.add("binary", (high,), (a[1], b[1]), operator=operator)
        if operator == "add":
            self.branch("uge", low, a[0], done)
        else:
            self.branch("uge", a[0], b[0], done)
        self.add("binary", (high,), (high,), operator=operator, value=1, immediate=True)
        self.place_label(done)
        self.move(into[0], low)
        self.move(into[1], high)

    def _convert(self, node: ir.Convert, into: Values) -> None:
        source_type, type_ = node.operand.type, node.type
        values = self.evaluate(node.operand)
        if len(into) == 2 and len(values) == 2:
            for d, value in zip(into, values, strict=True):
                self.move(d, value)
        elif len(into) == 2:
            low = self._copy(values[0])
            if source_type.signed:
                shift = self.word_bits - 1
                self.add("binary", (into[1],), (low,), operator="sar", value=shift, immediate=True)
            else:
                self.add("constant", (into[1],), (), value=0)
            self.move(into[0], low)
        elif type_.bits < self.word_bits and (type_.bits < source_type.bits or type_.signed != source_type.signed):
            self.add("extend", into, (values[0],), bits=type_.bits, signed=type_.signed)
        else:
            # Widening costs nothing: values are held widened by their own type, and so is the result by C's rules.
            self.move(into[0], values[0])
            if (
                type_.bits < self.word_bits
                and type_.bits > source_type.bits
                and source_type.signed
                and not type_.signed
            ):
                self.operations.pop()
                self.add("extend", into, (values[0],), bits=type_.bits, signed=False)

    # --------------------------------------------------------------------------------------------------------- calls

    def _deliver(
        self,
        values: Values,
        type_: ir.Type,
        location: Location,
        uses: list[VirtualRegister],
        places: list[Register | None],
        kind: Kind,
    ) -> None:
        """Put a value where a convention wants it. Memory is written by operations of `kind`; what travels in
        registers is appended to `uses` and `places`."""
        floating = self.is_float(type_)
        if floating and all(
            isinstance(p.place, InRegister) and p.place.register.bank is not Bank.INTEGER for p in location
        ):
            first = location[0].place
            assert isinstance(first, InRegister)
            if self._odd_single(location[0]):
                self._to_odd_single(values[0], first.register, uses, places)
                return
            uses.append(values[0])
            places.append(first.register)
            return
        if floating and all(isinstance(p.place, OnStack) for p in location):
            offset = min(p.place.offset for p in location if isinstance(p.place, OnStack))
            self.add(kind, (), values, value=offset, bits=type_.bits)
            return
        if floating:
            values = self._float_to_words(values[0], location, type_)
        for part, value in self._parts(values, location):
            # A float in core registers is held as it came: nothing is known of the bits above it.
            if part.extend_to > type_.bits and (part.extend_signed != type_.signed or type_.kind == "float"):
                widened = self.new(value.given_name)
                self.add("extend", (widened,), (value,), bits=type_.bits, signed=part.extend_signed)
                value = widened
            match part.place:
                case InRegister(register):
                    uses.append(value)
                    places.append(register)
                case OnStack(offset):
                    bits = max(part.extend_to, min(part.bits, self.word_bits))
                    if value.fixed is not None and bits == 8:
                        value = self._copy(value)
                    self._mark_byte(value, bits)
                    self.add(kind, (), (value,), value=offset, bits=bits)

    def _to_odd_single(
        self, value: VirtualRegister, register: Register, uses: list[VirtualRegister], places: list[Register | None]
    ) -> None:
        """Both singles of a register are put together in memory: the other half is what goes there already."""
        home = self.home(f"{value.name} (both halves)", 8, "to put a single into the upper half of its register")
        if register in places:
            index = places.index(register)
            self.add("home_store", (), (uses[index],), home=home, bits=32, value=0)
            del uses[index], places[index]
        upper = 4 if self.architecture.order == "little" else 0
        self.add("home_store", (), (value,), home=home, bits=32, value=upper)
        pair = self.new(value.given_name, True)
        self.add("home_load", (pair,), (), home=home, bits=64)
        uses.append(pair)
        places.append(register)

    def _deliver_all(
        self,
        arguments: Sequence[Values],
        nodes: Sequence[ir.Expression],
        passing: _Passing,
        uses: list[VirtualRegister],
        places: list[Register | None],
        kind: Kind,
    ) -> None:
        for values, register, node, location in zip(
            arguments, passing.delivered, nodes, passing.arguments, strict=True
        ):
            if register is not None:
                uses.append(values[0])
                places.append(register)
            else:
                self._deliver(values, node.type, location, uses, places, kind)

    def _call(self, node: ir.Call) -> None:
        if node.callee == ir.SYSTEM_CALL:
            self._system_call(node)
            return
        convention = node.convention
        passing = self._passing(convention, [a.type for a in node.arguments], node.result)
        arguments = [self.evaluate(argument) for argument in node.arguments]
        symbol, callee = self._callee(node.callee)
        uses: list[VirtualRegister] = []
        places: list[Register | None] = []
        self._deliver_all(arguments, node.arguments, passing, uses, places, "outgoing")
        if callee is not None:
            uses.append(callee)
            places.append(None)
        self._copy_thread(convention, uses, places)
        context = self.contexts[self.context]
        if self.convention.return_slot == "bottom" and (self.context == 0 or context.pushes):
            self._leave_bottom_alone(convention, passing.stack_bytes, node.span)
        needed = max(passing.stack_bytes, convention.area or convention.first_stack_argument)
        context.outgoing = max(context.outgoing, needed)
        start = 0 if convention.area else convention.first_stack_argument
        context.outgoing_start = min(context.outgoing_start, start)
        context.back_chain |= convention.back_chain
        self.alignment = max(self.alignment, convention.alignment)
        self.calls = True
        if self.context == 0:
            self.bottom_free &= convention.area == 0 and convention.first_stack_argument >= self.word
        # A result is there whether it is wanted or not, and whether it is said to be clobbered or not.
        lost, clobbers = _lost_by_call(convention, self.architecture, node.clobbers, passing.results, self.convention)
        self.lost = _lost_together(self.lost, lost)
        call = self.add_tied("call", uses, places, convention, passing.narrow, clobbers)
        call.symbol, call.value = symbol, passing.stack_bytes
        if node.result is not None and (node.variable is not None or passing.has_to_be_taken):
            name = node.variable.name if node.variable is not None else "result"
            values = self.fresh(name, node.result)
            if passing.taken is not None:
                call.defs, call.results = values, (passing.taken,)
            else:
                defs: list[VirtualRegister] = []
                results: list[Register] = []
                self._receive(values, node.result, passing.result, defs, results, name, incoming=False)
                call.defs, call.results = tuple(defs), tuple(results)
            self._take_result(node, values)

    def _callee(self, callee: str | ir.Expression) -> tuple[str, VirtualRegister | None]:
        """The symbol to call, or its address."""
        if not isinstance(callee, str):
            return "", self.evaluate(callee)[0]
        if self.architecture.linkage != "pic" or not self.architecture.calls_through_got:
            return callee, None
        address = self.new(callee)
        self.add("symbol", (address,), (), symbol=callee)
        return "", address

    def _take_result(self, node: ir.Call, values: Values) -> None:
        if node.variable is not None and node.result is not None:
            type_ = node.variable.type
            if type_.bits < self.word_bits and type_.kind == "int" and type_.signed != node.result.signed:
                widened = self.new(node.variable.name)
                self.add("extend", (widened,), values, bits=type_.bits, signed=type_.signed)
                values = (widened,)
            if node.variable in self.homes:
                self._home_store(values, self.homes[node.variable], node.variable.type)
            else:
                for d, value in zip(self._variable(node.variable), values, strict=True):
                    self.move(d, value)

    def _system_call(self, node: ir.Call) -> None:
        """The kernel takes nothing of the frame but arguments in memory, and is given no return address."""
        convention, kernel = node.convention, self.architecture.system_calls
        assert kernel is not None
        assert node.result is not None
        assignment = self._passing(convention, [a.type for a in node.arguments], node.result)
        known = isinstance(node.arguments[0], ir.Constant)  # then it is put into its register at the last moment
        passed = list(zip(node.arguments, assignment.arguments, strict=True))[known:]
        values = [self.evaluate(argument) for argument, _ in passed]
        uses: list[VirtualRegister] = []
        places: list[Register | None] = []
        for given, (argument, location) in zip(values, passed, strict=True):
            self._deliver(given, argument.type, location, uses, places, "outgoing")
        if assignment.stack_bytes:
            context = self.contexts[self.context]
            context.outgoing = max(context.outgoing, assignment.stack_bytes)
            context.outgoing_start = min(context.outgoing_start, convention.first_stack_argument)
        number, result = convention.integer_arguments[0], convention.integer_results[0]
        lost, clobbers = _lost_by_call(convention, self.architecture, None, (number, result), convention)
        self.lost = _lost_together(self.lost, lost)
        wanted = node.variable is not None
        back = self.fresh(node.variable.name if node.variable is not None else "result", node.result)
        first = node.arguments[0]
        call = self.add_tied("call", uses, places, convention, None, clobbers)
        call.value, call.immediate = first.value if isinstance(first, ir.Constant) else 0, known
        if wanted:
            call.defs, call.results, call.label = back, (result,), self.label("answered")
        self._take_result(node, back)

    def _copy_thread(self, convention: Convention, uses: list[VirtualRegister], places: list[Register | None]) -> None:
        """Where a convention wants g in a register beside its slot, it travels like an argument."""
        if convention.thread_copy is not None:
            type_ = ir.Type("uptr", "int", self.word_bits)
            uses += self.evaluate(ir.Thread(type_, self.span or self.function.span))
            places.append(convention.thread_copy)

    def _leave_bottom_alone(self, callee: Convention, stack_bytes: int, span: Span) -> None:
        """The word at sp is the return address here: nobody's argument, nor in an area that a callee is given."""
        given = callee.area
        if stack_bytes > callee.first_stack_argument:
            given = max(given, self.word - callee.first_stack_argument)
        if given > 0:
            message = (
                f"{callee.name} gives a callee the {given} bytes at the stack pointer, and there"
                f" {self.convention.name} keeps the return address"
            )
            raise self.fail("L005", message, span, "make room below: `on stack sp & -16 { ... }`")

    def _tail_call(self, node: ir.TailCall) -> None:
        convention = node.convention
        assignment = self._passing(convention, [a.type for a in node.arguments], None)
        there = self._where_they_are_wanted(node, assignment)
        arguments = []
        for argument in node.arguments:
            values = self.evaluate(argument) if id(argument) not in there else ()
            # Copies: an argument in memory may lie where another one is about to be written.
            arguments.append(tuple([self._copy(v) for v in values]))
        symbol, callee = self._callee(node.callee)
        if callee is not None:
            callee = self._copy(callee)
        uses: list[VirtualRegister] = []
        places: list[Register | None] = []
        for values, argument, location in zip(arguments, node.arguments, assignment.arguments, strict=True):
            if id(argument) not in there:
                self._deliver(values, argument.type, location, uses, places, "incoming_store")
        if callee is not None:
            uses.append(callee)
            places.append(None)
        self._copy_thread(convention, uses, places)
        self.add_tied("tail_call", uses, places, convention, assignment.narrow).symbol = symbol

    def _where_they_are_wanted(self, node: ir.TailCall, passing: _Passing) -> set[int]:
        """The arguments (by identity) that are parameters which are never set, and arrived in the memory where the
        callee wants them."""
        if not passing.stack_bytes:
            return set()
        came = dict(zip(self.function.parameters, self.passing.arguments, strict=True))
        there = [
            argument
            for argument, location in zip(node.arguments, passing.arguments, strict=True)
            if isinstance(argument, ir.Read)
            and all(isinstance(part.place, OnStack) for part in location)
            and came.get(argument.variable) == location
        ]
        assigned = _variables(self.function.body)[1] if there else set()
        return {id(argument) for argument in there if argument.variable not in assigned}

    def _return(self, node: ir.Return) -> None:
        uses: list[VirtualRegister] = []
        places: list[Register | None] = []
        narrow: Mapping[Register, int] = {}
        passing, result = self._returning()
        if node.value is not None and result is not None:
            values = self.evaluate(node.value)
            if passing.back is not None:
                uses.append(values[0])
                places.append(passing.back)
            else:
                self._deliver(values, result, passing.result, uses, places, "incoming_store")
            narrow = passing.narrow_result
        self._copy_thread(self.convention, uses, places)
        if node.popping is not None:
            uses.append(self.evaluate(node.popping)[0])
            places.append(self.architecture.pop_register)
        self.add_tied("return", uses, places, None, narrow).pops = node.popping is not None

    def _returning(self) -> tuple[_Passing, ir.Type | None]:
        """Of the calls that this function's `return` returns from."""
        suspension = self.function.suspension
        if suspension is None or suspension.resumed is None:
            return self.passing, self.function.result
        returning = suspension.resumed
        types = [type_ for _, type_ in returning.parameters]
        return self._passing(self.convention, types, returning.result), returning.result

    # ------------------------------------------------------------------------------------------------- stacks and asm

    def _on_stack(self, node: ir.OnStack) -> None:
        stack = self.evaluate(node.stack)[0]
        pc = self.evaluate(node.pc)[0] if node.pc is not None else None
        if stack.fixed is not None:
            stack = self._copy(stack)
        if pc is not None and pc.fixed is not None:
            pc = self._copy(pc)
        used, assigned = _variables(node.body)
        outside = {v for v in self.variables if v in used or v in assigned}
        outer = dict(self.variables)
        order = sorted(outside, key=lambda v: (v.span.start, v.name))
        # Loaded here, used there: a value is kept on the stack that it is used on, if it is kept in memory at all.
        for variable in order:
            self.variables[variable] = tuple([self._copy(v) for v in self.variables[variable]])
        number = len(self.contexts)
        parent = self.context
        context = Context(number, parent, pushes=pc is not None)
        self.contexts.append(context)
        self.context = number
        context.saved_sp = self.home("the other stack's sp", self.word, "to come back to")
        old = self.new("old sp")
        old.short = True
        entry = self.add("enter_stack", (old,), (stack,) if pc is None else (stack, pc), value=number)
        entry.context = parent  # that is where its operands are
        for variable in order:
            self.variables[variable] = tuple([self._copy(v) for v in self.variables[variable]])
        self.block(node.body)
        self.span = node.span
        results = {v: tuple(self._copy(value) for value in self.variables[v]) for v in order if v in assigned}
        self.add("leave_stack")
        self.context = parent
        self.variables = {**self.variables, **outer}
        for variable, values in results.items():
            for d, value in zip(outer[variable], values, strict=True):
                self.move(d, value)

    def _switch_stack(self, node: ir.SwitchStack) -> None:
        """Another caller wants its registers back, all that the convention keeps: this frame has those of its own."""
        value = self.evaluate(node.stack)[0]
        self.add("switch_stack", (), (value,)).clobbers = self._keep_all()

    def _keep_all(self) -> frozenset[Register]:
        """The frame saves all that the convention keeps, and the return address, whatever the body changes."""
        kept, clobbers = _kept_by_frame(self.convention, self.architecture)
        self.lost = _lost_together(self.lost, kept)
        return clobbers

    def _save_frame(self, node: ir.SaveFrame) -> None:
        self._keep_all()
        base, offset = self._base(node.address, node.offset)
        word = self.new("word")
        word.short = True
        kind: Kind = "frame_in" if node.restores else "frame_out"
        self.add(kind, (word,), (base,), value=offset, bits=8 * node.size)

    def _asm(self, node: ir.Asm) -> None:
        uses = []
        for _, expression in node.inputs:
            [value] = self.evaluate(expression)
            uses.append(self._copy(value) if value.fixed is not None else value)
        defs = []
        narrow: list[tuple[VirtualRegister, VirtualRegister, ir.Type]] = []
        for _, variable in node.outputs:
            [value] = self._variable(variable)
            if variable.type.kind != "float" and variable.type.bits < self.word_bits:
                raw = self.new(variable.name)  # as the block leaves it, which need not be widened
                narrow.append((value, raw, variable.type))
                value = raw
            defs.append(value)
        clobbers = set(node.clobbers) | self._halves(node.clobbers)
        if self.architecture.flags is not None:
            clobbers.add(self.architecture.flags)
        touched = clobbers | {r for r, _ in node.outputs} | {r for r, _ in node.inputs}
        self._lose(*touched)
        asm = self.add_tied("asm", uses, [r for r, _ in node.inputs], clobbers=frozenset(clobbers))
        asm.defs, asm.results = tuple(defs), tuple([r for r, _ in node.outputs])
        asm.text = tuple([text for text, _ in node.lines])
        for value, raw, type_ in narrow:
            self.add("extend", (value,), (raw,), bits=type_.bits, signed=type_.signed)

    def _halves(self, registers: Iterable[Register]) -> set[Register]:
        """Registers whose values extend into one of these: a double in two registers goes by the first one's name."""
        usable = float_allocatable(self.architecture, self.convention)
        odd = {r.number - 1 for r in registers if r.bank is Bank.FLOAT and r.bits < 64 and r not in usable}
        return {r for r in usable if r.number in odd}


_STATEMENTS: Mapping[type[ir.Statement], Callable[[_Lowering, Any], None]] = {  # expectations are parts of checks
    ir.Assign: _Lowering._assign,
    ir.Store: _Lowering._set_memory,
    ir.SetThread: _Lowering._set_thread,
    ir.SetThreadPlace: _Lowering._set_thread_place,
    ir.Call: _Lowering._call,
    ir.TailCall: _Lowering._tail_call,
    ir.Return: _Lowering._return,
    ir.Resume: _Lowering._resume,
    ir.Trap: _Lowering._trap,
    ir.If: _Lowering._if,
    ir.While: _Lowering._while,
    ir.Break: _Lowering._break,
    ir.Continue: _Lowering._continue,
    ir.OnStack: _Lowering._on_stack,
    ir.SwitchStack: _Lowering._switch_stack,
    ir.SaveFrame: _Lowering._save_frame,
    ir.Asm: _Lowering._asm,
}

_EXPRESSIONS: Mapping[type[ir.Expression], Callable[[_Lowering, Any, Values], None]] = {  # so are places on stacks
    ir.Constant: _Lowering._constant,
    ir.Read: _Lowering._read_home,
    ir.Load: _Lowering._load,
    ir.Operation: _Lowering._operation,
    ir.Convert: _Lowering._convert,
    ir.Thread: _Lowering._thread_in_memory,
    ir.ThreadPlace: _Lowering._thread_word,
    ir.SymbolAddress: _Lowering._symbol_address,
    ir.SlotAddress: _Lowering._slot_address,
    ir.Special: _Lowering._special,
}


def _variables(body: tuple[ir.Statement, ...]) -> tuple[set[ir.Variable], set[ir.Variable]]:
    """The variables that a list of statements reads, and those that it sets."""
    used: set[ir.Variable] = set()
    assigned: set[ir.Variable] = set()
    for node in ir.walk(body):
        if isinstance(node, ir.Read):
            used.add(node.variable)
        elif isinstance(node, (ir.Assign, ir.Call)):
            if node.variable is not None:
                assigned.add(node.variable)
        elif isinstance(node, ir.Asm):
            assigned.update(variable for _, variable in node.outputs)
    return used, assigned
