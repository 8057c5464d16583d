"""Call frame information: what finds the caller from before each instruction of a function, as directives for GNU as.

The code is followed with values of the form "symbol plus offset": where the caller's stack pointer, the return address
and the registers to be kept are before an instruction is what its row says. Nothing is taken from the frame's layout,
so that code which several passes have changed is described as it is.

After DWARF 5, 6.4; the directives are those of GNU as and LLVM. `.cfi_escape` carries what they have no words for.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from .target import Architecture, Convention, Insn, Register, Unwinding, of_thread

# DWARF 5, 7.10.. (operations of expressions) and 7.24 (call frame instructions).
_DEREF, _CONSTANT, _MINUS, _PLUS, _PLUS_CONSTANT, _BASE_REGISTER, _BASE_REGISTER_WIDE = (
    0x06,
    0x11,
    0x1C,
    0x22,
    0x23,
    0x70,
    0x92,
)
_DEFINE_CFA_EXPRESSION, _EXPRESSION, _VALUE_EXPRESSION = 0x0F, 0x10, 0x16

_DEEPEST = 4  # stacks that a way back leads over


# A symbol, a distance in bytes, and another symbol to be added if that is not None. A symbol is what some register held
# when the function was entered (the register itself), the CFA, the return address, or what was made at a place.
Value = tuple[Hashable, int, Hashable]
# What was made of a register at a place, and is known by the place alone until somebody reads it: the index of an
# instruction, or the complement of a label's, where ways with different values join.
Made = int


BRACKETS = (".cfi_startproc", ".cfi_endproc")  # what stands around the code of a function with such directives

CFA = "CFA"
RETURN_ADDRESS = "return address"
CONSTANT = "constant"


class Caller(NamedTuple):
    """Whom a walk finds from a stack: the caller's stack pointer and where it goes on; and whether the registers that a
    convention keeps are that caller's."""

    cfa: Value
    pc: Value
    keeps: bool


_FAR = 1 << 128  # bytes


class Cells(dict[int, tuple[Value, int]]):
    """What is known of one stack, or wherever a symbol points to: by offset the value, and how many bytes of it."""

    __slots__ = ("above", "below")

    below: int  # nothing is known below this offset
    above: int  # nor from this one on

    def __init__(self) -> None:
        self.below, self.above = _FAR, -_FAR

    def copy(self) -> Cells:
        copied = Cells()
        copied.update(self)
        copied.below, copied.above = self.below, self.above
        return copied

    def put(self, offset: int, value: Value, size: int) -> None:
        if offset < self.below:
            self.below = offset
        if offset + size > self.above:
            self.above = offset + size
        self[offset] = value, size

    def has(self, offset: int, value: Value, size: int) -> bool:
        """Whether at an offset there are so many bytes of a value."""
        cell = self.get(offset)
        return cell is not None and cell[1] >= size and cell[0] == value

    def touched(self, start: int, end: int) -> list[int]:
        """The offsets of what has bytes from one offset up to another."""
        return [at for at, cell in self.items() if at < end and start < at + cell[1]]


@dataclass(slots=True)
class State:
    """What is known before an instruction. Registers that are not named have what they were entered with, or what the
    last call (`called`) has left in them; those that last are named."""

    registers: dict[Register, Value | Made]
    holding: dict[Register, Hashable]  # those whose symbol is wanted, and the symbol
    memory: dict[Hashable, Cells]  # by symbol
    # Where a symbol that is wanted has been stored: symbols and offsets, in the order of time. Whether it is still
    # there, `memory` says.
    stored: dict[Hashable, tuple[tuple[Hashable, int], ...]]
    callers: dict[Hashable, Caller]  # by the symbol that the stack pointer is counted from
    called: Made | None
    row: Row | None  # that of an earlier state, from which the next one follows; None: there is none
    changed: list[Hashable]  # the symbols that have since changed their places

    def known(self, register: Register) -> Value | Made:
        """What a register has."""
        value = self.registers.get(register, self.called)
        return (register, 0, None) if value is None else value

    def get(self, register: Register) -> Value:
        value = self.known(register)
        return ((value, register), 0, None) if isinstance(value, int) else value

    def symbol(self, register: Register) -> Hashable:
        """That of what a register has."""
        value = self.known(register)
        return (value, register) if isinstance(value, int) else value[0]

    def copy(self) -> State:
        memory = {symbol: cells.copy() for symbol, cells in self.memory.items()}
        return State(
            self.registers.copy(),
            self.holding.copy(),
            memory,
            self.stored.copy(),
            self.callers.copy(),
            self.called,
            self.row,
            self.changed.copy(),
        )


class Expression(NamedTuple):
    """A DWARF expression, and what people would write for it."""

    code: bytes = b""
    words: str = ""

    def plus(self, distance: int) -> Expression:
        if distance == 0:
            return self
        words = f"{self.words} {'+' if distance > 0 else '-'} {abs(distance)}"
        if distance > 0:
            return Expression(self.code + bytes((_PLUS_CONSTANT, *_unsigned(distance))), words)
        return Expression(self.code + bytes((_CONSTANT, *_signed(distance), _PLUS)), words)

    def loaded(self) -> Expression:
        return Expression(self.code + bytes((_DEREF,)), f"*({self.words})")

    def minus(self, other: Expression) -> Expression:
        return Expression(self.code + other.code + bytes((_MINUS,)), f"{self.words} - {other.words}")


NO_EXPRESSION = Expression()


class Rule(NamedTuple):
    """Where a register of the caller is: at the CFA plus `offset`; that sum itself; in another register; at the address
    that an expression gives; as it is; or nowhere."""

    kind: Literal["offset", "value", "register", "expression", "same", "undefined"]
    offset: int = 0
    register: int = 0
    expression: Expression = NO_EXPRESSION


class Row(NamedTuple):
    """The CFA is `offset` above a register, or what `expression` gives; `rules` by DWARF's numbers, without those that
    are as they were at the function's entry."""

    register: int
    offset: int
    expression: Expression
    rules: Mapping[int, Rule]


class KeptRow(Row):
    """A row that many functions have, and the same one each time; so what leads from it to others is kept with it."""

    differences: dict[KeptRow, tuple[str, ...]]  # the directives that make others of it

    # Two that are equal are one, as far as those go that are kept at the same time.
    __hash__ = object.__hash__


def kept_row(row: Row) -> KeptRow:
    """A row to be kept."""
    kept = KeptRow(*row)
    kept.differences = {}
    return kept


@dataclass(frozen=True)
class Described:
    """A function as far as its directives need it. `frame`: bytes; `entered_by_call`: a table's entry has called it."""

    code: Sequence[Insn]
    convention: Convention
    frame: int
    entered_by_call: bool = False


@lru_cache(maxsize=64)
def made_of(architecture: Architecture) -> Unwinding:
    """What a machine's unwind information is made of; kept."""
    return architecture.unwinding()


def directives(
    function: Described, architecture: Architecture, rows: Sequence[Row | None]
) -> tuple[tuple[str, ...], ...]:
    """For each of a function's instructions the directives before it. `rows`: what holds before each of them."""
    code = function.code
    notes = _notes(architecture)
    made: list[tuple[str, ...]] = [()] * len(code)
    before: Row | None = _at_start(architecture, function.convention.return_address is None)
    remembered: list[int] = []
    for index, row in enumerate(rows):
        if row is None or row is before:
            continue
        if before is not None and row != before:
            joins = index > 0 and code[index - 1].label is not None
            start = _epilogue_before(code, rows, index) if joins else None
            if start is not None:
                remembered.append(start)
                made[index] = (".cfi_restore_state",)
            else:
                made[index] = _difference(before, row, notes, architecture.comment)
        before = row
    for start in remembered:
        made[start] = (".cfi_remember_state", *made[start])
    return tuple(made)


@lru_cache(maxsize=128)
def _at_start(architecture: Architecture, pushed: bool) -> KeptRow:
    """What assemblers take for granted where a function begins. `pushed`: the return address is on the stack."""
    described = made_of(architecture)
    return kept_row(Row(described.sp, (architecture.word if pushed else 0) + described.bias, NO_EXPRESSION, NO_RULES))


def _epilogue_before(code: Sequence[Insn], rows: Sequence[Row | None], index: int) -> int | None:
    """Where a stretch begins that ends, directly before this place, with leaving the function, and before which all was
    as it is here."""
    end = _previous(code, index)
    if end > 0:
        branch = _previous(code, end)
        if branch >= 0 and code[branch].delay_slot:
            end = branch
    if end < 0 or code[end].transfer not in ("return", "jump", "trap"):
        return None
    row = rows[index]
    start, earlier = end, _previous(code, end)
    while earlier >= 0:
        if rows[earlier] == row:
            return start
        if code[earlier].transfer not in ("none", "call"):
            return None
        start, earlier = earlier, _previous(code, earlier)
    return None


def _previous(code: Sequence[Insn], index: int) -> int:
    """The index of the instruction before this one; below 0 if there is none."""
    index -= 1
    while index >= 0 and code[index].label is not None:
        index -= 1
    return index


_MOST_DIFFERENCES = 200  # from one row


def _difference(before: Row, after: Row, notes: Mapping[int, str], mark: str) -> tuple[str, ...]:
    """The directives that make one row of another."""
    if not isinstance(before, KeptRow) or not isinstance(after, KeptRow):
        return tuple(_changes(before, after, notes, mark))
    made = before.differences.get(after)
    if made is None:
        if len(before.differences) >= _MOST_DIFFERENCES:
            before.differences.clear()
        made = before.differences[after] = tuple(_changes(before, after, notes, mark))
    return made


def _changes(before: Row, after: Row, notes: Mapping[int, str], mark: str) -> Iterator[str]:
    if after.expression.code:
        if after.expression != before.expression:
            code = after.expression.code
            data = (_DEFINE_CFA_EXPRESSION, *_unsigned(len(code)), *code)
            yield f".cfi_escape {_bytes(data)} {mark} CFA = {after.expression.words}"
    elif before.expression.code or (before.register != after.register and before.offset != after.offset):
        yield f".cfi_def_cfa {after.register}, {after.offset}"
    elif before.register != after.register:
        yield f".cfi_def_cfa_register {after.register}"
    elif before.offset != after.offset:
        yield f".cfi_def_cfa_offset {after.offset}"
    old, new = before.rules, after.rules
    if old is new:
        return
    changed = [number for number, rule in new.items() if old.get(number) != rule]
    changed += [number for number in old if number not in new]
    for number in sorted(changed):
        rule, note = new.get(number), notes.get(number, "")
        if rule is None:
            yield f".cfi_restore {number}{note}"
        elif rule.kind == "offset":
            yield f".cfi_offset {number}, {rule.offset}{note}"
        elif rule.kind == "value":
            # LLVM has no word for it before 18.
            way = Expression(words="CFA").plus(rule.offset)
            data = (_VALUE_EXPRESSION, *_unsigned(number), *_unsigned(len(way.code)), *way.code)
            yield f".cfi_escape {_bytes(data)}{note or f' {mark}'} = {way.words}"
        elif rule.kind == "register":
            yield f".cfi_register {number}, {rule.register}{note}"
        elif rule.kind == "expression":
            code = rule.expression.code
            data = (_EXPRESSION, *_unsigned(number), *_unsigned(len(code)), *code)
            yield f".cfi_escape {_bytes(data)}{note or f' {mark}'} at {rule.expression.words}"
        elif rule.kind == "same":
            yield f".cfi_same_value {number}{note}"
        else:
            yield f".cfi_undefined {number}{note}"


def _bytes(data: Sequence[int]) -> str:
    return ", ".join(f"{byte:#x}" for byte in data)


def _unsigned(value: int) -> list[int]:
    """ULEB128. DWARF 5, 7.6."""
    made = []
    while True:
        value, low = value >> 7, value & 0x7F
        made.append(low | (0x80 if value else 0))
        if not value:
            return made


def _signed(value: int) -> list[int]:
    """SLEB128. DWARF 5, 7.6."""
    made = []
    while True:
        low = value & 0x7F
        value >>= 7
        done = value == (-1 if low & 0x40 else 0)
        made.append(low if done else low | 0x80)
        if done:
            return made


class Kept(NamedTuple):
    """What belongs to the caller: DWARF's number of it, the register that it is in when there is no need for a rule
    (None: it was in memory), what is looked for, how many bytes of that, and where it was at the function's entry."""

    number: int
    home: Register | None
    value: Value
    size: int
    at_entry: Rule

    def unmoved(self, state: State) -> bool:
        """Whether it certainly is where it was at the function's entry."""
        home, symbol = self.home, self.value[0]
        return home is not None and symbol not in state.stored and state.registers.get(home) is self.value


class _Way(NamedTuple):
    """A pointer into a stack, `value`: in a register, or in memory, `at` on the stack that another way leads to."""

    value: Value
    cells: Cells
    register: Register | None
    by: _Way | None = None
    at: int = 0


class _Watched(NamedTuple):
    """What is worth knowing where it is, from the entry of a function on."""

    kept: tuple[Kept, ...]  # registers of which there is something to be said
    pc: Kept
    sp: Kept  # if the stack pointer is not what the CFA says
    all: tuple[Kept, ...]  # the registers, and the program counter
    by_symbol: Mapping[Hashable, Sequence[Kept]]  # those
    symbols: frozenset[Hashable]
    lasting: frozenset[Register]  # that have at calls what they were entered with
    registers: Mapping[Register, Value]  # those and the return address, at the entry
    order: Mapping[Register, int]  # in which registers are looked into
    caller: Caller
    nobody: Row  # on a stack whose caller nobody knows a walk ends


@lru_cache(maxsize=256)
def _watched(architecture: Architecture, convention: Convention) -> _Watched:
    described = made_of(architecture)
    link, word = convention.return_address, architecture.word
    if link is None:
        pc = Kept(described.return_column, None, (RETURN_ADDRESS, 0, None), word, _offset(-word - described.bias))
    else:
        pc = Kept(described.return_column, link, (link, 0, None), word, _SAME)
    kept: list[Kept] = []
    for register, number in described.numbers.items():
        if register in convention.kept and register not in (architecture.sp, link, architecture.toc):
            leader = described.kept_with.get(register, register)
            size = -(-convention.kept[register].bit_length() // 8)
            kept.append(Kept(number, leader, (leader, 0, None), size, _SAME))
    by_symbol: dict[Hashable, list[Kept]] = {}
    for one in (pc, *kept):
        by_symbol.setdefault(one.value[0], []).append(one)
    return _Watched(
        kept=tuple(kept),
        pc=pc,
        sp=Kept(described.sp, architecture.sp, (CFA, 0, None), word, _SAME),
        all=(pc, *kept),
        by_symbol=by_symbol,
        symbols=frozenset({CFA, *by_symbol}),
        lasting=frozenset(one.home for one in kept if one.home is not None),
        registers={one.home: one.value for one in (pc, *kept) if one.home is not None},
        order={register: place for place, register in enumerate(described.numbers)},
        caller=Caller((CFA, 0, None), pc.value, True),
        nobody=Row(described.sp, 0, NO_EXPRESSION, {described.return_column: _UNDEFINED}),
    )


@lru_cache(maxsize=64)
def _notes(architecture: Architecture) -> Mapping[int, str]:
    """Comments that name the registers of directives, by the numbers that do not."""
    numbers = made_of(architecture).numbers
    return {n: f" {architecture.comment} {r.name}" for r, n in numbers.items() if r.name != str(n)}


# Those of a Motion, in their order.
Fields = tuple[str, Register, Register | None, int, int, Register | None, bool]


class Effect:
    """What an instruction does with the words that are followed. Two of a machine that are equal are one."""

    __slots__ = ("in_order", "motions", "registers", "unknown")

    def __init__(self, motions: tuple[Fields, ...], in_order: bool, unknown: frozenset[Register]) -> None:
        self.motions = motions
        self.in_order = in_order  # each motion reads what no earlier one has written
        self.unknown = unknown  # get values that are not known
        named = {one for _, register, base, _, _, index, _ in motions for one in (register, base, index)}
        self.registers = unknown.union(one for one in named if one is not None)  # all that it has to do with


_MOST_KEPT = 20_000


class _Effects:
    """The effects of a machine's instructions, kept by text and by what they write; None where there is none."""

    def __init__(self, described: Unwinding) -> None:
        self.described = described
        self.kept: dict[tuple[str, frozenset[Register], bool], Effect | None] = {}
        self.last: dict[str, tuple[frozenset[Register], bool, Effect | None]] = {}  # most texts write the same always
        self.different: dict[tuple[tuple[Fields, ...], frozenset[Register]], Effect] = {}

    def of(self, code: Sequence[Insn]) -> list[Effect | None]:
        """Those of some instructions."""
        last, found = self.last, list[Effect | None]()
        for insn in code:
            one, writes = last.get(insn.text), insn.writes
            if one is not None and (one[0] is writes or one[0] == writes) and one[1] is insn.user_text:
                found.append(one[2])
            else:
                found.append(self._found(insn))
        return found

    def _found(self, insn: Insn) -> Effect | None:
        key = insn.text, insn.writes, insn.user_text
        if key not in self.kept:
            if len(self.kept) >= _MOST_KEPT:
                self.kept.clear()
                self.last.clear()
                self.different.clear()
            self.kept[key] = self._made(insn)
        effect = self.kept[key]
        self.last[insn.text] = insn.writes, insn.user_text, effect
        return effect

    def _made(self, insn: Insn) -> Effect | None:
        motions = self.described.motions(insn) if insn.label is None else ()
        if not motions and not insn.writes:
            return None
        written: set[Register] = set()
        in_order, stored = True, False
        for motion in motions:
            reads = {motion.base, motion.index, motion.register if motion.kind == "store" else None}
            in_order = in_order and written.isdisjoint(reads) and not (stored and motion.kind == "load")
            if motion.kind == "store":
                stored = True
            else:
                written.add(motion.register)
        fields = tuple((m.kind, m.register, m.base, m.offset, m.size, m.index, m.minus) for m in motions)
        unknown = insn.writes - written
        return self.different.setdefault((fields, unknown), Effect(fields, in_order, unknown))


@lru_cache(maxsize=64)
def effects_of(described: Unwinding) -> _Effects:
    """The effects of a machine's instructions; kept."""
    return _Effects(described)


# What a prologue is known by: whether a table's entry has called, and the identities of its instructions' effects.
Beginning = tuple[bool, tuple[int, ...]]


class _Followed(NamedTuple):
    """The beginning of functions, followed."""

    effects: Sequence[Effect | None]
    rows: Sequence[Row | None]
    stepped: bytes
    read: frozenset[Hashable]
    state: State  # behind it


_MOST_BEGINNINGS = 500


@lru_cache(maxsize=256)
def _beginnings(architecture: Architecture, convention: Convention) -> dict[Beginning, _Followed]:
    """Prologues that have been followed, by whether a table's entry has called, and by the identities of their
    instructions' effects, which are kept with them. Many functions have the same one."""
    return {}


def loaded_by(effects: Sequence[Effect | None]) -> set[Register]:
    """What instructions load from memory."""
    motions = (motion for effect in effects if effect is not None for motion in effect.motions)
    return {register for kind, register, *_ in motions if kind == "load"}


def label_places(code: Sequence[Insn]) -> Mapping[str | None, int]:
    """Where labels are, by index."""
    return {insn.label: index for index, insn in enumerate(code) if insn.label is not None}


class Follower:
    """Follows one function. `effects`: what each of its instructions does."""

    def __init__(
        self,
        function: Described,
        architecture: Architecture,
        described: Unwinding,
        effects: Sequence[Effect | None],
    ) -> None:
        self.function = function
        self.described = described
        self.code = function.code
        self.sp = architecture.sp
        self.word = architecture.word
        self.bias = described.bias
        self.of_thread = of_thread(architecture)
        self.link = function.convention.return_address
        # How far below the top of a block's stack its pushed program counter is.
        self.above_pc = function.frame if function.convention.return_slot == "bottom" else self.word
        self.watched = _watched(architecture, function.convention)
        self.effects = effects
        self.beginnings = _beginnings(architecture, function.convention)
        # What is worth knowing where it is. Whose callers are found on which stack adds to it.
        self.wanted: set[Hashable] = set(self.watched.symbols)
        self.read: set[Hashable] = set()  # the symbols of what instructions have made that somebody has read
        self.stepped = bytearray(len(self.code))  # whether an instruction has been followed
        self.caller = self.watched.caller
        self.found: list[Row | None] = [None] * len(self.code)
        self.states: dict[int, State] = {}  # by the indices of labels
        self.waiting: set[int] = set()  # labels behind which it is to be found anew what holds

    def rows(self) -> list[Row | None]:
        """The row of each instruction; None where none comes by, and for labels."""
        if self.code and self.code[0].label is None:
            self._follow(*self._begun())
        elif self.code:
            self._reach(0, self.entry())
        while self.waiting:
            # In the order of the code, so that most ways to a label have been gone before it is followed.
            label = min(self.waiting)
            self.waiting.remove(label)
            self._follow(label + 1, self.states[label].copy())
        return self.found

    @cached_property
    def labels(self) -> Mapping[str | None, int]:
        """Where the function's labels are, by index."""
        return label_places(self.code)

    def entry(self) -> State:
        watched = self.watched
        pushed = self.word if self.link is None else 0
        memory: dict[Hashable, Cells] = {}
        stored: dict[Hashable, tuple[tuple[Hashable, int], ...]] = {}
        if self.link is None:
            memory[CFA] = cells = Cells()
            cells.put(-self.word, watched.pc.value, self.word)
            stored[RETURN_ADDRESS] = ((CFA, -self.word),)
        if self.function.entered_by_call:
            pushed += self.word
        registers: dict[Register, Value | Made] = {**watched.registers, self.sp: (CFA, -pushed, None)}
        holding: dict[Register, Hashable] = {register: register for register in watched.registers}
        row = Row(self.described.sp, pushed + self.described.bias, NO_EXPRESSION, NO_RULES)
        return State(registers, holding | {self.sp: CFA}, memory, stored, {CFA: watched.caller}, None, row, [])

    # ----------------------------------------------------------------------------------------------- following the code

    @cached_property
    def beginning(self) -> tuple[int, Beginning]:
        """Where the prologue ends, and what it is known by."""
        end = 0
        for insn in self.code:
            if insn.part != "prologue" or insn.transfer != "none" or insn.delay_slot or insn.label is not None:
                break
            end += 1
        return end, (self.function.entered_by_call, tuple(map(id, self.effects[:end])))

    def _begun(self) -> tuple[int, State]:
        """Where the prologue ends, and what is known there."""
        end, key = self.beginning
        effects = self.effects[:end]
        begun = self.beginnings.get(key)
        if begun is None:
            state = self.entry()
            self._follow(0, state, end)
            kept = {id(row): kept_row(row) for row in (*self.found[:end], state.row) if row is not None}
            rows = [kept.get(id(row)) for row in self.found[:end]]
            state.row = kept.get(id(state.row))
            begun = _Followed(effects, rows, bytes(self.stepped[:end]), frozenset(self.read), state)
            if len(self.beginnings) >= _MOST_BEGINNINGS:
                self.beginnings.clear()
            self.beginnings[key] = begun
        self.found[:end], self.stepped[:end] = begun.rows, begun.stepped
        self.read.update(begun.read)
        return end, begun.state.copy()

    def _follow(self, index: int, state: State, end: int | None = None) -> None:
        """Go on from a place to where the code leaves or joins others; note which labels are reached with what. `end`:
        a place beyond which not to go."""
        code, found, effects = self.code, self.found, self.effects
        row: Row | None = None
        end = len(code) if end is None else end
        while index < end:
            insn = code[index]
            if insn.label is not None:
                self._reach(index, state)
                return
            if row is None or state.changed:
                row = self.row(state)
            found[index] = row
            following = index + 1
            if insn.delay_slot and following < len(code):
                found[following] = row  # it is executed before control has gone anywhere
                effect = effects[following]
                if effect is not None:
                    self.step(following, state, effect)
                if insn.transfer == "call" and state.changed:
                    # Walks from the callee look there: where it returns to is behind it.
                    row = found[following] = self.row(state)
                following += 1
            transfer = insn.transfer
            if transfer in ("return", "trap"):
                return
            effect = effects[index]
            if effect is not None:
                self.step(index, state, effect)
            if transfer != "none":
                if transfer == "call":
                    self.called(index, state)
                elif transfer in ("branch", "jump"):
                    if insn.target in self.labels:
                        self._reach(self.labels[insn.target], state, transfer == "jump")
                    if transfer == "jump":
                        return
            index = following

    def step(self, index: int, state: State, effect: Effect) -> None:
        """What is known behind an instruction."""
        lost = effect.unknown
        before = state if effect.in_order else state.copy()
        registers, holding, changed, wanted = before.registers, state.holding, state.changed, self.wanted
        again, sp = self.stepped[index], registers[self.sp]
        for kind, register, base, offset, size, other, minus in effect.motions:
            # The sum, or the place; None: it is not known, and so nothing is known to be there.
            symbol: Hashable
            plus: Hashable
            value: Value | None
            if base is None:
                symbol, at, plus = CONSTANT, offset, None
            else:
                known = registers.get(base, before.called)
                if known is None:
                    symbol, at, plus = base, offset, None
                elif known.__class__ is tuple:
                    symbol, at, plus = known
                    at += offset
                elif kind == "set" or other is not None or register in holding:
                    symbol, at, plus = self._whole(before, base)
                    at += offset
                else:
                    symbol, at, plus = _NOWHERE  # since nobody has read that register
            if other is not None:
                symbol, at, plus = self._sum(before, (symbol, at, plus), other, minus) or _NOWHERE
            if kind == "set":
                value = (symbol, at, plus) if symbol is not None else None
            else:
                if plus is not None:
                    symbol = symbol, plus
                cells = before.memory.get(symbol)
                if kind == "store":
                    if register in before.holding:
                        self._store(index, state, symbol, at, size, self._whole(before, register))
                    elif cells is not None and at < cells.above and at + size > cells.below:
                        self._store(index, state, symbol, at, size, None)
                    continue
                cell = cells.get(at) if cells is not None else None
                value = cell[0] if cell is not None and cell[1] == size else None
            old = holding.get(register)
            if value is None:
                if again or old is not None:
                    self._lose(index, state, (register,))
                else:
                    state.registers[register] = index
                continue
            symbol = value[0]
            state.registers[register] = value
            if symbol in wanted:
                changed.append(symbol)
                if old is not symbol:
                    if old is not None:
                        changed.append(old)
                    holding[register] = symbol
            elif old is not None:
                changed.append(old)
                del holding[register]
        if lost:
            if again or not holding.keys().isdisjoint(lost):
                self._lose(index, state, lost)
            else:
                registers = state.registers
                for register in lost:
                    registers[register] = index
        self.stepped[index] = True
        now = state.registers[self.sp]
        if now is not sp:
            self._moved(index, state, sp)

    def _lose(self, index: int, state: State, lost: Collection[Register]) -> None:
        """Registers get values that are not known."""
        again = self.stepped[index]
        for register in lost:
            if again and (index, register) in self.read:
                self._forget(state, (index, register))
            if register in state.holding:
                state.changed.append(state.holding.pop(register))
            state.registers[register] = index
            if again and (index, register) in self.wanted:
                self._hold(state, register, (index, register))

    def _hold(self, state: State, register: Register, symbol: Hashable) -> None:
        state.holding[register] = symbol
        state.changed.append(symbol)

    def _whole(self, state: State, register: Register) -> Value:
        """What a register has; if that was known by where it was made alone, it is read now."""
        value = state.known(register)
        if isinstance(value, int):
            self.read.add((value, register))
            made = state.registers[register] = (value, register), 0, None
            return made
        return value

    def _sum(self, state: State, value: Value, index: Register, minus: bool) -> Value | None:
        other = self._whole(state, index)
        if other[0] == CONSTANT:
            return value[0], value[1] + (-other[1] if minus else other[1]), value[2]
        if minus:
            return None
        if value[0] == CONSTANT:
            return other[0], other[1] + value[1], other[2]
        if value[2] is None and other[2] is None:
            if other[0] in state.callers:  # the stack pointer, and how far from it
                value, other = other, value
            return value[0], value[1] + other[1], other[0]
        return None

    def _store(self, index: int, state: State, symbol: Hashable, start: int, size: int, value: Value | None) -> None:
        """Some bytes are stored, of `value` if that is wanted."""
        if symbol is None or self.code[index].part == "resume":  # which puts back what was there
            return
        cells = state.memory.get(symbol)
        if cells is None:
            cells = state.memory[symbol] = Cells()
            if len(state.callers) > 1:
                state.row = None
        elif start < cells.above and start + size > cells.below:
            for offset in cells.touched(start, start + size):
                state.changed.append(cells.pop(offset)[0][0])
            caller = state.callers.get(symbol)
            if caller is not None and not caller.keeps and value != caller.pc:
                at = caller.cfa[1] - self.above_pc
                if _start(caller.cfa) == symbol and start < at + self.word and at < start + size:
                    start, size, value = at, self.word, self._pushed_again(index, state, caller)
        if value is not None:
            kept = value[0]
            cells.put(start, value, size)
            state.changed.append(kept)
            places, place = state.stored.get(kept), (symbol, start)
            state.stored[kept] = (place,) if places is None else (*[at for at in places if at != place], place)

    def _pushed_again(self, index: int, state: State, caller: Caller) -> Value:
        """The program counter of a caller, where what was pushed of it is overwritten: whatever is there now. Nowhere
        else is that known."""
        pc, callers = caller.pc, state.callers
        elsewhere = any(other.pc[0] == pc[0] and other != caller for other in callers.values())
        if elsewhere or pc[0] in self.watched.symbols or pc[0] in callers:
            pc = ("pushed", index), 0, None
            for symbol in [symbol for symbol, other in callers.items() if other == caller]:
                callers[symbol] = caller._replace(pc=pc)
            self._want(state, pc[0])
        else:
            self._forget(state, pc[0])
        return pc

    def called(self, index: int, state: State) -> None:
        """A callee may overwrite what is in registers, but for what its caller's caller wants back there. What is not
        wanted may be so later."""
        sp, registers, holding = self.sp, state.registers, state.holding
        left = state.registers = {sp: registers[sp]}
        state.holding = {}
        for register in self.watched.lasting:
            value = registers[register]
            left[register] = value if value.__class__ is tuple and value[0] is register else index
        for register, symbol in holding.items():
            if register is sp or (symbol is register and register in left):
                state.holding[register] = symbol
            else:
                state.changed.append(symbol)
        state.called = index
        self._hold_made(state, index)
        popped = self.code[index].popped
        if popped:
            before = symbol, offset, plus = self._whole(state, self.sp)
            state.registers[self.sp] = symbol, offset + popped, plus
            self._moved(index, state, before)

    def _forget(self, state: State, symbol: Hashable) -> None:
        """An instruction that runs again makes another value than the last time."""
        for register, value in state.registers.items():
            if not isinstance(value, int) and symbol in (value[0], value[2]):
                state.registers[register] = ("gone", register), 0, None
                state.holding.pop(register, None)
        state.memory.pop(symbol, None)
        for cells in state.memory.values():
            for offset in [offset for offset, (value, _) in cells.items() if value[0] == symbol]:
                del cells[offset]
        state.row = None
        state.changed.append(symbol)

    def _moved(self, index: int, state: State, before: Value | Made) -> None:
        """The stack pointer has been set: what is below it is gone."""
        now, part = self._whole(state, self.sp), self.code[index].part
        assert not isinstance(before, int), "it is always read"
        if now == before:
            return
        state.changed.append(now[0])
        if part == "push" and now[0] == before[0] and self._enters(index):
            # At a known distance from where it was, and another stack all the same: it has a caller of its own.
            now = state.registers[self.sp] = ("stack", index), 0, None
            state.holding[self.sp] = now[0]
            state.memory.pop(now[0], None)
        if part == "resume":
            state.row = None
            self._resumed(index, state, before)
        elif now[0] == before[0]:
            if now[2] != before[2]:
                state.row = None
                state.memory.pop(_start(before), None)
            cells = state.memory.get(_start(now))
            if cells is not None and cells.below < now[1]:
                for offset in [offset for offset in cells if offset < now[1]]:
                    state.changed.append(cells.pop(offset)[0][0])
                cells.below = now[1]
        elif part in ("switch", "push"):
            state.row = None
            around = state.callers.get(before[0])
            if part == "push":
                pc = self._pushed(index, state)
                around = Caller((now[0], now[1] + self.function.frame + self._still_to_come(index), now[2]), pc, False)
                self._want(state, pc[0])
            if around is not None:
                state.callers[now[0]] = around
                self._want(state, now[0])
        else:
            state.row = None
            state.memory.pop(before[0], None)

    def _want(self, state: State, symbol: Hashable) -> None:
        if symbol not in self.wanted:
            self.wanted.add(symbol)
            for one in (state, *self.states.values()):
                for register in one.registers:
                    if one.symbol(register) == symbol:
                        one.holding[register] = symbol
                named = symbol[1] if isinstance(symbol, tuple) else symbol
                if isinstance(named, Register) and one.symbol(named) == symbol:
                    one.holding[named] = symbol

    def _hold_made(self, state: State, place: Made) -> None:
        """Registers that are not named have what was made of them at a place: note what of that is wanted."""
        for symbol in self.wanted.difference(self.watched.symbols):
            if isinstance(symbol, tuple) and symbol[0] == place and state.symbol(symbol[1]) == symbol:
                self._hold(state, symbol[1], symbol)

    def _resumed(self, index: int, state: State, sp: Value) -> None:
        """The frame is that of another call, which has got as far: the same is at the same places in it. What registers
        hold is of the call that was left."""
        registers = state.registers
        homes = {one.home for one in self.watched.kept if one.home is not None}
        for register in {*registers, *homes} - self.of_thread:
            registers[register] = index
        if self.link is not None:
            registers[self.link] = index
        registers[self.sp] = sp
        symbols = {register: state.symbol(register) for register in {*registers, *state.holding}}
        state.holding = {register: symbol for register, symbol in symbols.items() if symbol in self.wanted}
        for symbol in [symbol for symbol in state.memory if symbol != sp[0]]:
            del state.memory[symbol]

    def _enters(self, index: int) -> bool:
        """Whether this is the instruction that leads to the stack of a block, and no further one that lowers it."""
        effect = self.effects[index]
        motions = effect.motions if effect is not None else ()
        return any(kind == "set" and register is self.sp is not base for kind, register, base, *_ in motions)

    def _still_to_come(self, index: int) -> int:
        """How far the instructions behind one of a push move the stack pointer, which one alone cannot move so far."""
        distance = 0
        for following in range(index + 1, len(self.code)):
            effect = self.effects[following]
            motions = effect.motions if effect is not None else ()
            moves = [m for m in motions if m[0] == "set" and m[1] is m[2] is self.sp]
            if self.code[following].part != "push" or not moves or any(m[5] is not None for m in moves):
                break
            distance += sum(m[3] for m in moves)
        return distance

    def _pushed(self, index: int, state: State) -> Value:
        """The program counter that the next instructions store where a walk looks for it, under a name of its own: when
        they run again it may be another one."""
        place = self.function.frame - self.above_pc
        changed: set[Register] = set()
        pushed: Value = ("pushed", index), 0, None
        for following in range(index + 1, len(self.code)):
            effect, insn = self.effects[following], self.code[following]
            for kind, register, base, offset, *_ in effect.motions if effect is not None else ():
                if kind == "store" and base is self.sp and offset == place and register not in changed:
                    value = self._whole(state, register)
                    if value[0] not in self.wanted:
                        value = state.registers[register] = pushed
                        self._hold(state, register, pushed[0])
                    return value
            changed |= insn.writes
            leaves = insn.transfer != "none" and not insn.delay_slot  # whose slot may have the store
            if leaves or self.code[following - 1].delay_slot or (self.sp in insn.writes and insn.part != "push"):
                break
        return pushed

    def _reach(self, label: int, state: State, last: bool = True) -> None:
        """Note that a label is reached with what is known. `last`: nobody goes on with that otherwise."""
        known = self.states.get(label)
        if known is None:
            self.states[label] = state if last else state.copy()
            self.waiting.add(label)
        elif self._join(label, known, state):
            self.waiting.add(label)

    def _join(self, label: int, known: State, state: State) -> bool:
        """Take from what is known at a label what does not hold on another way to it; whether that was anything."""
        mine, theirs = known.registers, state.registers
        differing = [register for register, value in theirs.items() if mine.get(register) != value]
        differing += [register for register in mine if register not in theirs]
        news = False
        if known.called not in (state.called, ~label):
            for register in [register for register in known.holding if register not in mine]:
                known.changed.append(known.holding.pop(register))
            known.called = ~label
            self._hold_made(known, ~label)
            news = True
        for register in differing:
            value = known.get(register)
            joined = (~label, register), 0, None
            if value != joined and value != state.get(register):
                if register in known.holding:
                    known.changed.append(known.holding.pop(register))
                mine[register] = ~label
                if joined[0] in self.wanted:
                    self._hold(known, register, joined[0])
                if register is self.sp:
                    self._whole(known, register)
                    known.row = None
                news = True
        for symbol, cells in known.memory.items():
            others = state.memory.get(symbol)
            if cells != others:
                for offset in [at for at, cell in cells.items() if others is None or others.get(at) != cell]:
                    known.changed.append(cells.pop(offset)[0][0])
                    news = True
        for symbol, caller in list(known.callers.items()):
            if state.callers.get(symbol) not in (caller, None):
                del known.callers[symbol]
                known.row = None
                news = True
        return news

    # ----------------------------------------------------------------------------------------------- what it amounts to

    def row(self, state: State) -> Row:
        """The row for what is known."""
        last, changed = state.row, state.changed
        if last is None:
            changed.clear()
            return self._row_anew(state)
        # The function's own frame, and all on one stack: what has not changed its place has the same rule.
        bias, by_symbol, rules = self.bias, self.watched.by_symbol, last.rules
        for symbol in changed:
            if symbol in by_symbol:
                for one in by_symbol[symbol]:
                    old = rules.get(one.number, one.at_entry)
                    rule = self._in_memory(state, one, CFA, -bias, None) or self._in_register(state, one)
                    if rule is not old:
                        rules = _with(rules, one, rule)
        changed.clear()
        sp = self._whole(state, self.sp)
        if bias:
            rules = _with(rules, self.watched.sp, self._rule_of_sp(state, self.watched.sp, CFA, -bias, None))
        offset = bias - sp[1]
        if rules is not last.rules or offset != last.offset:
            last = state.row = Row(last.register, offset, NO_EXPRESSION, rules)
        return last

    def _row_anew(self, state: State) -> Row:
        sp = self._whole(state, self.sp)
        caller = state.callers.get(sp[0])
        if caller is None:
            return self.watched.nobody
        several = len(state.callers) > 1 and len(state.memory) > 1
        if several or caller is not self.caller or sp[0] != CFA or sp[2] is not None:
            return self._row_anywhere(state, sp, caller)
        bias, rules = self.bias, dict[int, Rule]()
        for one in self.watched.all:
            if not one.unmoved(state):
                rule = self._rule(state, one, CFA, -bias, None)
                if rule != one.at_entry:
                    rules[one.number] = rule
        if bias:
            rule = self._rule_of_sp(state, self.watched.sp, CFA, -bias, None)
            if rule != self.watched.sp.at_entry:
                rules[self.watched.sp.number] = rule
        state.row = Row(self.described.sp, bias - sp[1], NO_EXPRESSION, rules)
        return state.row

    def _row_anywhere(self, state: State, sp: Value, caller: Caller) -> Row:
        """The row for what is known, whatever stack the stack pointer is on and whosever frame that is."""
        described, watched = self.described, self.watched
        all_ways = _Ways(state, sp, self.sp, watched.order)
        found = self._way_to(state, caller.cfa, sp, all_ways)
        if found is None and sp[2] is None:
            return self.watched.nobody
        cfa, bias = caller.cfa, described.bias
        if found is None:
            # Arguments have been taken off the stack, and how many is not known any more: as the caller finds it.
            cfa = sp[0], sp[1] + (self.word if self.link is None else 0), sp[2]
            found = described.sp, cfa[1] - sp[1], NO_EXPRESSION
        register, offset, expression = found
        # If there is one stack alone, all ways lead to the same places.
        ways = all_ways if len(state.memory) > 1 or cfa[0] != sp[0] else None
        start, shift = _start(cfa), -cfa[1] - bias
        rules: dict[int, Rule] = {}
        pc, whole = watched.pc, watched.sp
        if caller.pc != pc.value:
            pc = Kept(pc.number, pc.home, caller.pc, pc.size, pc.at_entry)
        rule = self._rule(state, pc, start, shift, ways)
        if rule != pc.at_entry:
            rules[pc.number] = rule
        for one in watched.kept:
            if one.unmoved(state):
                continue  # as it was
            if caller.keeps:
                rule = self._rule(state, one, start, shift, ways)
            else:
                there = one.home is not None and state.get(one.home) == one.value
                rule = _SAME if there and not self._is_stored(state, one.value) else _UNDEFINED
            if rule is not _SAME:
                rules[one.number] = rule
        if bias:
            if cfa != whole.value:
                whole = Kept(whole.number, whole.home, cfa, whole.size, whole.at_entry)
            rule = self._rule_of_sp(state, whole, start, shift, ways)
            if rule != whole.at_entry:
                rules[whole.number] = rule
        return Row(register, 0 if expression.code else offset + bias, expression, rules)

    def _in_memory(self, state: State, wanted: Kept, start: Hashable, shift: int, ways: _Ways | None) -> Rule | None:
        _, _, value, size, _ = wanted
        places = state.stored.get(value[0])
        if places is None:
            return None
        for symbol, offset in places:
            if symbol == start and symbol in state.memory:
                cell = state.memory[symbol].get(offset)
                if cell is not None and cell[1] >= size and cell[0] == value:
                    return _offset(offset + shift)
        for way in ways.found() if ways is not None else ():
            for symbol, offset in places:
                if symbol == way.value[0] and way.cells.has(offset, value, size):
                    return Rule("expression", expression=self._address(way, offset))
        return None

    def _is_stored(self, state: State, value: Value) -> bool:
        """Whether something is in memory anywhere."""
        places = state.stored.get(value[0], ())
        return any(state.memory.get(symbol, _NO_CELLS).has(offset, value, 0) for symbol, offset in places)

    def _rule(self, state: State, wanted: Kept, start: Hashable, shift: int, ways: _Ways | None) -> Rule:
        """Where something is. `start`: the stack that the CFA is on; `shift`: what is to be added to an offset there.

        In memory first, since what is in a register may not outlive the next call."""
        return self._in_memory(state, wanted, start, shift, ways) or self._in_register(state, wanted)

    def _in_register(self, state: State, wanted: Kept) -> Rule:
        value, home = wanted.value, wanted.home
        if home is not None and state.get(home) == value:
            return _SAME
        order = self.watched.order
        registers = [r for r in state.holding if r in order and state.get(r) == value]
        if registers:
            return Rule("register", register=self.described.numbers[min(registers, key=order.__getitem__)])
        return _UNDEFINED

    def _rule_of_sp(self, state: State, wanted: Kept, start: Hashable, shift: int, ways: _Ways | None) -> Rule:
        """Where the caller's stack pointer is, if it is not the CFA."""
        rule = self._in_memory(state, wanted, start, shift, ways)
        if rule is None and state.get(self.sp) == wanted.value:
            return _SAME
        if rule is None or rule.kind == "expression":
            return Rule("value", -self.described.bias)
        return rule

    def _way_to(self, state: State, wanted: Value, sp: Value, ways: _Ways) -> tuple[int, int, Expression] | None:
        """A value as register and offset, or as an expression; None if it is not to be found."""
        described = self.described
        symbol, offset, plus = wanted
        if sp[0] == symbol and sp[2] == plus:
            return described.sp, offset - sp[1], NO_EXPRESSION
        if sp[0] == symbol and plus is None:
            for register, number in described.numbers.items():
                value = state.get(register)
                if value[0] == sp[2] and value[2] is None:
                    distance = offset - sp[1] + value[1] + described.bias
                    return 0, 0, _based(self.sp, described.sp, distance).minus(_based(register, number, 0))
        for way in ways.found():
            for at, (value, size) in way.cells.items():
                if value[0] == symbol and value[2] is None and size >= self.word:
                    return 0, 0, self._address(way, at).loaded().plus(offset - value[1] + described.bias)
        for register, number in described.numbers.items():
            value = state.get(register)
            if value[0] == symbol and value[2] is None:
                return number, offset - value[1], NO_EXPRESSION
        return None

    def _address(self, way: _Way, offset: int) -> Expression:
        """That of a place on the stack that a way leads to."""
        distance = offset - way.value[1]
        if way.register is not None:
            return _based(way.register, self.described.numbers[way.register], distance)
        assert way.by is not None
        return self._address(way.by, way.at).loaded().plus(distance)


class _Ways:
    """How one comes to what is kept on this stack, on those that words on it lead to, and then on those that registers
    point into, which a callee may change; looked for when it is asked for."""

    def __init__(self, state: State, sp: Value, register: Register, order: Mapping[Register, int]) -> None:
        self.state, self.sp, self.register, self.order = state, sp, register, order
        self.ways: list[_Way] = []

    def found(self) -> Sequence[_Way]:
        if self.ways:
            return self.ways
        state, order = self.state, self.order
        self._follow(self._way(self.sp, self.register))
        registers = [register for register in state.holding if register in order]
        for register in sorted(registers, key=order.__getitem__):
            value = state.get(register)
            if value[0] in state.callers and value[2] is None:
                self._follow(self._way(value, register))
        return self.ways

    def _follow(self, start: _Way) -> None:
        """Add a way, and those that go on from there."""
        callers, known = self.state.callers, {way.value[0] for way in self.ways}
        if start.value[0] in known:
            return
        ways = [start]
        known.add(start.value[0])
        for way in ways:
            for offset, (value, _) in way.cells.items():
                if value[0] in callers and value[0] not in known and len(ways) < _DEEPEST:
                    known.add(value[0])
                    ways.append(self._way(value, None, way, offset))
        self.ways += ways

    def _way(self, value: Value, register: Register | None, by: _Way | None = None, at: int = 0) -> _Way:
        cells = self.state.memory.get(value[0], _NO_CELLS) if value[2] is None else _NO_CELLS
        return _Way(value, cells, register, by, at)


def _start(value: Value) -> Hashable:
    """What places at a known distance from this one have in common."""
    return value[0] if value[2] is None else (value[0], value[2])


@lru_cache(maxsize=4096)
def _based(register: Register, number: int, offset: int) -> Expression:
    words = f"{register.name} {'-' if offset < 0 else '+'} {abs(offset)}" if offset else register.name
    if number < 32:
        return Expression(bytes((_BASE_REGISTER + number, *_signed(offset))), words)
    return Expression(bytes((_BASE_REGISTER_WIDE, *_unsigned(number), *_signed(offset))), words)


def _with(rules: Mapping[int, Rule], wanted: Kept, rule: Rule) -> Mapping[int, Rule]:
    """Rules with that of one thing; the same ones if it is among them."""
    number = wanted.number
    if rules.get(number, wanted.at_entry) == rule:
        return rules
    changed = dict(rules)
    if rule == wanted.at_entry:
        del changed[number]
    else:
        changed[number] = rule
    return changed


@lru_cache(maxsize=4096)
def _offset(offset: int) -> Rule:
    return Rule("offset", offset)


_SAME, _UNDEFINED = Rule("same"), Rule("undefined")
NO_RULES: Mapping[int, Rule] = {}
_NO_CELLS = Cells()
_NOWHERE: Value = (None, 0, None)


__all__ = ["BRACKETS", "Described", "Follower", "Row", "directives", "made_of"]
