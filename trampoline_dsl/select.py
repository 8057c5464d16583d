"""Operations with registers to machine instructions: the last pass before text. Parallel moves become sequences."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from .allocate import Allocation
from .diagnostics import Diagnostic, InputError, Span
from .instructions import instructions_of
from .lir import Body, Home, Operation, VirtualRegister
from .records import replace
from .target import (
    Architecture,
    Bank,
    Convention,
    Frame,
    FramePart,
    Insn,
    Placed,
    Register,
    ThreadSlot,
    allocatable,
    float_allocatable,
    in_part,
)

Move = tuple[Register, Register, int]  # destination, source, bits of a float


@dataclass(frozen=True, slots=True)
class Selected:
    """Instructions, which other trampolines may have too, and the numbers of the places in the source that they are
    made for: indices of `spans`, of which the first is None."""

    instructions: tuple[Insn, ...]
    places: tuple[int, ...]
    spans: Sequence[Span | None] = field(compare=False)

    def lines(self) -> list[int]:
        """The line of each of `spans`; 0 for none."""
        return [0 if span is None else bisect_right(span.source.starts, span.start) for span in self.spans]

    def placed(self) -> tuple[Insn, ...]:
        """Instructions that say themselves what they are made for."""
        positions = [(0, 0) if span is None else span.source.position(span.start) for span in self.spans]
        pairs = zip(self.instructions, self.places, strict=True)
        return tuple(insn.placed(*positions[place], insn.part) for insn, place in pairs)


class NoRegisterFree(Exception):
    """Floats change places, and no register is free to do it through: the frame of that `context` needs an
    `exchange`."""

    def __init__(self, context: int) -> None:
        super().__init__(context)
        self.context = context


def select(
    body: Body,
    allocation: Allocation,
    frame: Frame,
    architecture: Architecture,
    parameters: int,
    prefix: str,
) -> Selected:
    """The instructions of a trampoline. `parameters`: bytes of arguments in memory, which a callee that pops removes;
    `prefix` starts the names of its local labels. Raises NoRegisterFree."""
    return _Selection(body, allocation, frame, architecture, parameters, prefix).run()


class _Selection:
    def __init__(
        self,
        body: Body,
        allocation: Allocation,
        frame: Frame,
        architecture: Architecture,
        parameters: int,
        prefix: str,
    ) -> None:
        self.body = body
        self.allocation = allocation
        self.frame = frame
        self.architecture = architecture
        self.make = instructions_of(architecture)
        self.around = self.make.around(frame.request)
        self.parameters = parameters
        self.prefix = prefix
        self.convention = body.convention
        self.sp = architecture.sp
        self.registers = _Registers(allocation.registers)
        self.bare = body.bare and not frame.body_slots  # there is no frame of its own
        self.code: list[Insn] = []
        self.spans: list[Span | None] = [None]  # what is made is for the last of these
        self.starts = [0]  # of what is made for each of them
        self.context = 0  # of the operation at hand
        self.establishes = architecture.symbol_base() is not None  # whether some of it may be needless for that

    def run(self) -> Selected:
        try:
            self._go_to(self.body.span)
            self._enter()
        except ValueError as error:
            raise self._impossible(error, self.body.span) from error
        for operation in self.allocation.operations:
            self.operation(operation)
        code = self.architecture.improved(self._without_needless_establishing(self._with_places()))
        instructions, places = zip(*code, strict=True)
        return Selected(instructions, places, self.spans)

    def _with_places(self) -> list[Placed]:
        places: list[int] = []
        for number, (start, end) in enumerate(pairwise((*self.starts, len(self.code)))):
            places += [number] * (end - start)
        return list(zip(self.code, places, strict=True))

    def _enter(self) -> None:
        architecture = self.architecture
        if architecture.protect:
            self.code += in_part("prologue", architecture.landing_pad())
        if self.body.uses_toc:
            self.code += in_part("prologue", architecture.global_entry(self.body.name, self.convention))
        if self.body.table:
            self._enter_by_table()
        if self.body.words is not None and self.body.words[0] >= 0:
            self._home_words()
        if not self.bare:
            self.code += self.around.prologue
        if self.body.uses_toc and architecture.got is not None:
            self.code += in_part("prologue", architecture.find_got(self.body.name, self.convention))

    def _home_words(self) -> None:
        """Words that arrive in registers go where the caller left room for them. (Below the CFA a prologue does it.)"""
        assert self.body.words is not None
        start, registers = self.body.words
        word = self.architecture.word
        pushed = word if self.convention.return_address is None else 0
        for index, register in enumerate(registers):
            self.code += self.make.store_at_entry(register, self.sp, pushed + start + index * word, 8 * word)

    def _enter_by_table(self) -> None:
        architecture = self.architecture
        self.code += in_part("prologue", architecture.take_table_entry())
        told = architecture.table_register(self.convention)
        if any(told in insn.writes for insn in self.around.prologue):
            message = f"to make its frame takes {told.name}, in which the table's index arrives"
            notes = ("save less of the caller's here, or call a trampoline that does the rest",)
            raise InputError([Diagnostic("L015", message, self.body.span, notes=notes)])

    # ---------------------------------------------------------------------------------------------------- small helps

    def _impossible(self, error: ValueError, span: Span | None) -> InputError:
        """What to say where the machine has no instructions for something."""
        message = f"{self.architecture.name} cannot do this: {error}"
        return InputError([Diagnostic("L006", message, span or self.body.span)])

    def _go_to(self, span: Span | None) -> None:
        """What follows is made for this place in the source."""
        self.spans.append(span)
        self.starts.append(len(self.code))

    def label(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def _above_sp(self, home: Home) -> int:
        """Bytes above sp."""
        if home.incoming is None:
            return home.offset
        if self.bare:
            return home.incoming + (self.architecture.word if self.convention.return_address is None else 0)
        return self.frame.size + home.incoming

    # ------------------------------------------------------------------------------------------------------ operations

    def operation(self, operation: Operation) -> None:
        if operation.kind == "label":
            self.code += self.make.label(self.label(operation.label))
            return
        self.context = operation.context
        register = self.registers.__getitem__
        defs = [*map(register, operation.defs)]
        uses = [*map(register, operation.uses)]
        try:
            if operation.span is not self.spans[-1]:
                self._go_to(operation.span)
            self.code += self._body(operation, defs, uses)
        except ValueError as error:
            raise self._impossible(error, operation.span) from error

    def _body(self, operation: Operation, defs: list[Register], uses: list[Register]) -> Iterable[Insn]:
        """The last instructions of an operation; those before them are emitted already."""
        make, sp = self.make, self.sp
        match operation.kind:  # the most frequent ones first
            case "load":
                return self._load(defs[0], uses[0], operation.value, operation)
            case "home_load":
                assert operation.home is not None
                base = uses[0] if uses else sp
                return self._load(defs[0], base, self._above_sp(operation.home) + operation.value, operation)
            case "call":
                return self._call(operation, defs, uses)
            case "home_store":
                assert operation.home is not None
                base = uses[1] if len(uses) > 1 else sp
                return self._store(uses[0], base, self._above_sp(operation.home) + operation.value, operation)
            case "constant":
                return make.constant(defs[0], operation.value)
            case "enter":
                return self._parallel(self._results(operation, defs), self._volatile())
            case "return" | "tail_call":
                return self._leave(operation, uses)
            case "outgoing":
                return self._store(uses[0], sp, operation.value, operation)
            case "store":
                return self._store(uses[0], uses[1], operation.value, operation)
            case "move":
                return self._move(defs[0], uses[0], operation.defs[0].bits)
            case "symbol":
                return make.symbol_address(defs[0], operation.symbol)
            case "symbol_load":
                return make.load_symbol(defs[0], operation.symbol, operation.bits, operation.signed)
            case "home_address":
                assert operation.home is not None
                return make.binary("add", defs[0], sp, self._above_sp(operation.home))
            case "out_load":
                return self._load(defs[0], sp, operation.value, operation)
            case "incoming_store":
                return self._store(uses[0], sp, self.frame.size + operation.value, operation)
            case "incoming_load":
                return self._load(defs[0], sp, self.frame.size + operation.value, operation)
            case "binary":
                assert operation.operator is not None
                b: Register | int = operation.value if operation.immediate else uses[1]
                return make.binary(operation.operator, defs[0], uses[0], b)
            case "extend":
                return make.extend(defs[0], uses[0], operation.bits, operation.signed)
            case "thread_load":
                return make.thread_load(defs[0], self._thread_slot())
            case "thread_base":
                return make.thread_base(defs[0], self._thread_slot())
            case "thread_store":
                return make.thread_store(uses[0], self._thread_slot(), uses[1] if len(uses) > 1 else None)
            case "words":
                return make.binary("add", defs[0], sp, self.frame.size + operation.value)
            case "entry_sp":
                return make.binary("add", defs[0], sp, self.frame.size)
            case "pushed_pc":
                return make.load(defs[0], sp, self._pushed_place(), 8 * self.architecture.word, False)
            case "branch":
                assert operation.condition is not None
                right: Register | int = operation.value if operation.immediate else uses[1]
                return make.compare_branch(operation.condition, uses[0], right, self.label(operation.label))
            case "jump":
                return make.jump(self.label(operation.label))
            case "resume":
                return self._resume(uses)
            case "trap":
                return make.trap()
            case "enter_stack":
                return self._enter_stack(operation, defs, uses)
            case "frame_out" | "frame_in":
                return self._copy_frame(operation, defs[0], uses[0])
            case "switch_stack":
                moves = make.move(sp, uses[0])
                part: FramePart = "body" if self.bare else "resume"  # of which the one frame says what is in the other
                return (replace(insn, part=part) if sp in insn.writes else insn for insn in moves)
            case "leave_stack":
                home = self.body.contexts[operation.context].saved_sp
                assert home is not None
                return make.load(sp, sp, home.offset, 8 * self.architecture.word, False)
            case "asm":
                return self._asm(operation, defs, uses)
            case _:
                raise AssertionError(operation.kind)

    def _load(self, d: Register, base: Register, offset: int, operation: Operation) -> Iterable[Insn]:
        if operation.defs[0].floating:
            return self.make.float_load(d, base, offset, operation.bits)
        else:
            return self.make.load(d, base, offset, operation.bits, operation.signed)

    def _store(self, s: Register, base: Register, offset: int, operation: Operation) -> Iterable[Insn]:
        if operation.uses[0].floating:
            return self.make.float_store(s, base, offset, operation.bits)
        else:
            return self.make.store(s, base, offset, operation.bits)

    def _thread_slot(self) -> ThreadSlot:
        for convention in (self.convention, *self.architecture.conventions.values()):
            if isinstance(convention.thread, ThreadSlot):
                return convention.thread
        raise AssertionError("no convention has a thread slot")

    def _pushed_place(self) -> int:
        return 0 if self.convention.return_slot == "bottom" else self.frame.size - self.architecture.word

    # ---------------------------------------------------------------------------------------------------------- stacks

    def _enter_stack(self, operation: Operation, defs: list[Register], uses: list[Register]) -> Iterator[Insn]:
        """The stack pointer moves first and whole: nothing is ever stored below it."""
        make, word = self.make, self.architecture.word
        home = self.body.contexts[operation.value].saved_sp
        assert home is not None
        yield from make.move(defs[0], self.sp)
        part: FramePart = "push" if len(uses) > 1 else "switch"
        for insn in make.binary("add", self.sp, uses[0], -self.frame.size & ((1 << 8 * word) - 1)):
            yield replace(insn, part=part) if self.sp in insn.writes else insn
        yield from make.store(defs[0], self.sp, home.offset, 8 * word)
        if len(uses) > 1:
            yield from make.store(uses[1], self.sp, self._pushed_place(), 8 * word)

    def _resume(self, uses: list[Register]) -> Iterable[Insn]:
        self._establish(self.make.established(self.convention))
        self.code += self.make.move(self.sp, uses[0])
        # A program counter is the address of code, where a function pointer may point to something else.
        return self.make.jump_register(uses[1], _without_descriptors(self.convention))

    def _copy_frame(self, operation: Operation, word: Register, base: Register) -> Iterator[Insn]:
        """All in the frame that somebody else wants back, and what is saved in the caller's area."""
        pieces, size = self.around.kept_pieces
        if 8 * size > operation.bits:
            message = f"what {self.convention.name} keeps takes {size} bytes here, and there are {operation.bits // 8}"
            words = -(-size // self.architecture.word)
            raise InputError([Diagnostic("L016", message, operation.span, notes=(f"`uptr[{words}]` is enough",))])
        for place, there, bytes_ in pieces:
            there += operation.value
            if operation.kind == "frame_out":
                yield from self.make.load(word, self.sp, place, 8 * bytes_, False)
                yield from self.make.store(word, base, there, 8 * bytes_)
            else:
                yield from self.make.load(word, base, there, 8 * bytes_, False)
                # The same as was there when it was saved, to those who walk the stack.
                yield from self.make.store_resumed(word, self.sp, place, 8 * bytes_)

    # ----------------------------------------------------------------------------------------------------------- calls

    def _call(self, operation: Operation, defs: list[Register], uses: list[Register]) -> Iterable[Insn]:
        make, convention = self.make, operation.convention
        assert convention is not None
        if convention is self._kernel_convention():
            return self._system_call(operation, defs, uses)
        address = self._marshal(operation, uses, convention, operation.clobbers)
        self._establish(make.established(convention))
        if address is None:
            call: Iterable[Insn] = make.call(operation.symbol, convention)
        else:
            call = make.call_register(address, self._seen_through(convention))
        popped = operation.value - convention.first_stack_argument if convention.callee_pops else 0
        if popped > 0:
            call = [replace(insn, popped=popped) if insn.transfer == "call" else insn for insn in call]
        self.code += call
        if popped > 0:
            self.code += make.binary("sub", self.sp, self.sp, popped)
        return self._parallel(self._results(operation, defs), operation.clobbers, operation.results)

    def _seen_through(self, callee: Convention) -> Convention:
        """A caller that has no table of contents has none to bring back."""
        toc = self.architecture.toc
        return callee if toc is None or self.convention.keeps(toc) else _without_toc(callee)

    def _kernel_convention(self) -> Convention | None:
        kernel = self.architecture.system_calls
        return kernel.convention if kernel is not None else None

    def _system_call(self, operation: Operation, defs: list[Register], uses: list[Register]) -> Iterable[Insn]:
        self.code += self._parallel(self._operands(operation, uses), operation.clobbers)
        number = operation.value if operation.immediate else None
        label = self.label(operation.label) if operation.label else ""
        self.code += self.make.system_call(number, label)
        return self._parallel(self._results(operation, defs), operation.clobbers, operation.results)

    def _results(self, operation: Operation, defs: list[Register]) -> list[Move]:
        """The moves that take an operation's results from where they arrive."""
        if not defs:
            return []
        return [(d, r, v.bits) for d, r, v in zip(defs, operation.results, operation.defs, strict=True)]

    def _operands(self, operation: Operation, uses: list[Register]) -> list[Move]:
        """The moves that take an operation's operands to where they are wanted."""
        if not uses:
            return []
        moves = zip(operation.places, uses, operation.uses, strict=True)
        return [(place, s, v.bits) for place, s, v in moves if place is not None]

    def _marshal(
        self, operation: Operation, uses: list[Register], convention: Convention, free: frozenset[Register]
    ) -> Register | None:
        """Bring arguments to their places, and say which register has the callee's address. `free` may be overwritten
        on the way."""
        moves, places = self._operands(operation, uses), operation.places
        if None not in places:
            self.code += self._parallel(moves, free)
            return None
        address = uses[places.index(None)]
        wanted = convention.call_through
        if wanted is None and address in places:
            usable = allocatable(self.architecture, self.convention)
            choices = [*convention.scratch, *(r for r in usable if r in free)]
            wanted = next(r for r in choices if r not in places and r not in uses and r.bank is Bank.INTEGER)
        if wanted is not None:
            moves.append((wanted, address, 0))
            address = wanted
        self.code += self._parallel(moves, free, (address,))
        return address

    def _parallel(
        self, moves: Sequence[Move], free: frozenset[Register], but: Collection[Register] = ()
    ) -> Iterable[Insn]:
        """All moves as if at once. `free`, without those in `but`, may be overwritten besides the destinations."""
        pending = {d: (s, bits) for d, s, bits in moves if d is not s}
        if pending.keys().isdisjoint([s for s, _ in pending.values()]):
            for d, (s, bits) in pending.items():
                self.code += self._move(d, s, bits)
            return ()
        return self._entangled(pending, {d for d, _, _ in moves}, free, but)

    def _entangled(
        self,
        pending: dict[Register, tuple[Register, int]],
        destinations: set[Register],  # one whose move is done is no longer pending, and not free either
        free: frozenset[Register],
        but: Collection[Register],
    ) -> Iterator[Insn]:
        """Moves of which some overwrite what others still need."""
        in_memory: tuple[Register, int] | None = None  # what the value in `exchange` is for, and its bits
        while pending or in_memory is not None:
            sources = {s for s, _ in pending.values()}
            ready = [d for d in pending if d not in sources]
            if ready:
                d = ready[0]
                yield from self._move(d, *pending.pop(d))
                continue
            if in_memory is not None:
                d, bits = in_memory
                yield from self.make.float_load(d, self.sp, self.exchange.offset, bits)
                in_memory = None
                continue
            # Only cycles are left. One value steps aside.
            d, (s, bits) = next(iter(pending.items()))
            aside = self._aside(s, destinations | sources, free, but)
            if aside is not None:
                yield from self._move(aside, s, bits)
                pending[d] = (aside, bits)
            elif s.bank is Bank.INTEGER:
                for one, other in ((d, s), (s, d), (d, s)):
                    yield from self.make.binary("xor", one, one, other)
                del pending[d]
                pending = {d2: (s if s2 is d else s2, b) for d2, (s2, b) in pending.items()}
                pending = {d2: (s2, b) for d2, (s2, b) in pending.items() if d2 is not s2}
            else:
                yield from self.make.float_store(s, self.sp, self.exchange.offset, bits)
                del pending[d]
                in_memory = (d, bits)

    @property
    def exchange(self) -> Home:
        """A place on the stack that the code is on, for one float of a cycle."""
        home = self.body.contexts[self.context].exchange
        if home is None:
            raise NoRegisterFree(self.context)
        return home

    def _volatile(self) -> frozenset[Register]:
        """What may be overwritten at entry and on the way out: nobody wants it back."""
        return _volatile(self.architecture, self.convention)

    def _aside(
        self, like: Register, busy: set[Register], free: frozenset[Register], but: Collection[Register]
    ) -> Register | None:
        arch = self.architecture
        integer = like.bank is Bank.INTEGER
        usable = allocatable(arch, self.convention) if integer else float_allocatable(arch, self.convention)
        scratch = [r for r in self.convention.scratch if (r.bank is Bank.INTEGER) == integer]
        candidates = [*scratch, *(r for r in usable if r in free and r not in but)]
        return next((register for register in candidates if register not in busy), None)

    def _move(self, d: Register, s: Register, bits: int) -> Iterable[Insn]:
        if d.bank is Bank.INTEGER:
            return self.make.move(d, s)
        else:
            return self.make.float_move(d, s, bits)

    # --------------------------------------------------------------------------------------------------------- leaving

    def _leave(self, operation: Operation, uses: list[Register]) -> Iterable[Insn]:
        make = self.make
        address: Register | None = None
        if operation.kind == "tail_call":
            assert operation.convention is not None
            restored = {register for register, _ in self.frame.request.saves}
            lost = [p for p in operation.places if p is not None and p in restored]
            if lost:
                message = f"an argument travels in {lost[0].name}, which is given back to the caller before the jump"
                raise InputError([Diagnostic("L004", message, operation.span, notes=("call and return instead",))])
            address = self._marshal(operation, uses, operation.convention, self._volatile())
        else:
            self.code += self._parallel(self._operands(operation, uses), self._volatile())
        self._establish(make.established_at_end(self.convention))
        self.code += self.around.epilogue
        if operation.kind == "return" and operation.pops:
            busy = frozenset(place for place in operation.places[:-1] if place is not None)
            self.code += in_part("epilogue", self.architecture.leave_popping(self.frame, busy))
        elif operation.kind == "return":
            self.code += self.around.leave(self.parameters if self.convention.callee_pops else 0)
        elif address is not None:
            assert operation.convention is not None
            self.code += make.tail_call_register(address, operation.convention)
        else:
            assert operation.convention is not None
            self.code += make.tail_call(operation.symbol, operation.convention)
        return ()

    def _establish(self, code: tuple[Insn, ...]) -> None:
        self.code += code
        self.establishes = self.establishes or bool(code)

    def _without_needless_establishing(self, code: list[Placed]) -> list[Placed]:
        """A register that already holds what a convention demands is not set again."""
        if not self.establishes:
            return code
        own: set[Register] = set(_fixed(self.convention))
        everywhere = set().union(*map(_fixed, self._conventions()))
        base = self.architecture.symbol_base()
        if base is not None:
            everywhere.add(base)
        marks = {f"establish {register.name}": register for register in everywhere}
        lost = self._lost_by_calls(everywhere)
        kept, given = everywhere - lost, self._given_by_calls()
        targets = {insn.target for insn in self.code if insn.target is not None}
        known = own
        lasting: set[Register] | None = None  # what is known wherever a branch comes from
        result: list[Placed] = []
        for index, item in enumerate(code):
            insn, _ = item
            if insn.label is not None and insn.label in targets:
                if lasting is None:
                    others = [one for one in self.code if one.comment not in marks]
                    lasting = (own - lost).difference(*[self._written(one) for one in others])
                known = lasting
            register = marks.get(insn.comment) if insn.comment else None
            if register is not None:
                if register in known:
                    continue
                result.append(item)
                following = self.code[index + 1] if index + 1 < len(self.code) else None
                if following is None or marks.get(following.comment) is not register:
                    known = known | {register}
                continue
            if not known.isdisjoint(insn.writes):
                known = known - self._written(insn)
            if insn.transfer == "call":
                known = known & kept | given
            result.append(item)
        return result

    def _written(self, insn: Insn) -> frozenset[Register]:
        """Whole registers that an instruction writes. Ordinary ones write only condition bits of the flags, and what
        conventions fix there (the direction flag) is none of those."""
        if self.architecture.flags is None or insn.user_text:
            return insn.writes
        return insn.writes - {self.architecture.flags}

    def _conventions(self) -> list[Convention]:
        """Of this body, and of all that it calls and jumps to."""
        named = {id(o.convention): o.convention for o in self.allocation.operations if o.convention is not None}
        return [self.convention, *named.values()]

    def _lost_by_calls(self, registers: set[Register]) -> set[Register]:
        """Those that some call in this body does not leave in place."""
        lost: set[Register] = set()
        for operation in self.allocation.operations:
            if operation.kind in ("call", "asm"):
                given = _fixed(operation.convention) if operation.convention is not None else frozenset()
                lost |= (registers & operation.clobbers) - given
        return lost

    def _given_by_calls(self) -> set[Register]:
        """What every convention called here leaves in place."""
        operations = self.allocation.operations
        sets = [_fixed(o.convention) for o in operations if o.kind == "call" and o.convention is not None]
        return set(sets[0].intersection(*sets)) if sets else set()

    # ------------------------------------------------------------------------------------------------------------- asm

    def _asm(self, operation: Operation, defs: list[Register], uses: list[Register]) -> Iterable[Insn]:
        self.code += self._parallel(self._operands(operation, uses), operation.clobbers)
        reads = frozenset(r for r in operation.places if r is not None)
        writes = operation.clobbers.union(operation.results)
        self.code += [Insn(text, reads, writes, memory="both", user_text=True) for text in operation.text]
        return self._parallel(self._results(operation, defs), operation.clobbers, operation.results)


@lru_cache(maxsize=1024)
def _volatile(architecture: Architecture, convention: Convention) -> frozenset[Register]:
    usable = (*allocatable(architecture, convention), *float_allocatable(architecture, convention))
    return frozenset((*convention.scratch, *(r for r in usable if not convention.keeps(r))))


@lru_cache(maxsize=1024)
def _fixed(convention: Convention) -> frozenset[Register]:
    return frozenset(fixed.register for fixed in convention.fixed)


@lru_cache(maxsize=64)
def _without_descriptors(convention: Convention) -> Convention:
    return convention.derive(descriptors=False)


@lru_cache(maxsize=64)
def _without_toc(convention: Convention) -> Convention:
    return convention.derive(toc_slot=None)


class _Registers(dict[VirtualRegister, Register]):
    """The registers of values, fixed ones among them."""

    def __missing__(self, value: VirtualRegister) -> Register:
        assert value.fixed is not None
        return value.fixed
