"""Call frame information: what finds the caller from before each instruction of a function, as directives for GNU as.

The code is followed with values of the form "symbol plus offset": where the caller's stack pointer, the return address
and the registers to be kept are before an instruction is what its row says. Nothing is taken from the frame's layout,
so that code which several passes have changed is described as it is.

After DWARF 5, 6.4; the directives are those of GNU as and LLVM. `.cfi_escape` carries what they have no words for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal, NamedTuple

from .target import Architecture, Convention, Insn, Motion, Register, Unwinding, of_thread

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


class Value(NamedTuple):
    """`symbol` + `offset`, and `plus` another symbol if that is not None. A symbol is what some register held when the
    function was entered, the CFA, the return address, or what one instruction made."""

    symbol: Hashable
    offset: int = 0
    plus: Hashable = None

    @property
    def start(self) -> Hashable:
        """What places at a known distance from this one have in common."""
        return self.symbol if self.plus is None else (self.symbol, self.plus)

    def moved(self, offset: int) -> Value:
        return Value(self.symbol, self.offset + offset, self.plus)


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


@dataclass(slots=True)
class State:
    """What is known before an instruction. Registers that are not named have what they were entered with, or, but for
    the `lasting` ones, what the last call (`called`) has left in them."""

    registers: dict[Register, Value]
    memory: dict[Hashable, dict[int, tuple[Value, int]]]  # by symbol and offset: the value, and how many bytes of it
    callers: dict[Hashable, Caller]  # by the symbol that the stack pointer is counted from
    lasting: Collection[Register]
    called: Hashable = None

    def get(self, register: Register) -> Value:
        value = self.registers.get(register)
        if value is not None:
            return value
        if self.called is None or register in self.lasting:
            return Value(register)
        return Value((self.called, register))

    def copy(self) -> State:
        memory = {symbol: dict(cells) for symbol, cells in self.memory.items()}
        return State(dict(self.registers), memory, dict(self.callers), self.lasting, self.called)


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


def followed(function: Described, architecture: Architecture) -> list[Row | None]:
    """The row before each of a function's instructions; None where control does not come by, and for labels."""
    return Follower(function, architecture, made_of(architecture)).rows()


def directives(
    function: Described, architecture: Architecture, rows: Sequence[Row | None]
) -> tuple[tuple[str, ...], ...]:
    """For each of a function's instructions the directives before it. `rows`: what holds before each of them."""
    names = _names(architecture)
    made: list[list[str]] = [[] for _ in function.code]
    places = [index for index, insn in enumerate(function.code) if insn.label is None]
    before: Row | None = _at_start(architecture, function.convention)
    remembered: list[int] = []
    for position, index in enumerate(places):
        row = rows[index]
        if before is not None and row is not None and row is not before and row != before:
            start = _epilogue_before(function.code, places, rows, position)
            if start is not None:
                remembered.append(start)
                made[index].append(".cfi_restore_state")
            else:
                made[index] += _difference(before, row, names, architecture.comment)
        if row is not None:
            before = row
    for start in remembered:
        made[start].insert(0, ".cfi_remember_state")
    return tuple(map(tuple, made))


def _at_start(architecture: Architecture, convention: Convention) -> Row:
    """What assemblers take for granted where a function begins."""
    described = made_of(architecture)
    pushed = architecture.word if convention.return_address is None else 0
    return Row(described.sp, pushed + described.bias, NO_EXPRESSION, {})


def _epilogue_before(
    code: Sequence[Insn], places: Sequence[int], rows: Sequence[Row | None], position: int
) -> int | None:
    """Where a stretch begins that ends, directly before this place, with leaving the function, and before which all was
    as it is here."""
    end = position - 1
    if end > 0 and code[places[end - 1]].delay_slot:
        end -= 1
    if end < 0 or code[places[end]].transfer not in ("return", "jump", "trap"):
        return None
    row = rows[places[position]]
    for earlier in range(end, 0, -1):
        if rows[places[earlier - 1]] == row:
            return places[earlier]
        if code[places[earlier - 1]].transfer not in ("none", "call"):
            return None
    return None


def _difference(before: Row, after: Row, names: Mapping[int, Register], mark: str) -> Iterator[str]:
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
    changed = [number for number, rule in new.items() if old.get(number) != rule]
    changed += [number for number in old if number not in new]
    for number in sorted(changed):
        rule = new.get(number)
        name = names.get(number)
        note = f" {mark} {name.name}" if name is not None and name.name != str(number) else ""
        match rule:
            case None:
                yield f".cfi_restore {number}{note}"
            case Rule(kind="offset"):
                yield f".cfi_offset {number}, {rule.offset}{note}"
            case Rule(kind="value"):
                # LLVM has no word for it before 18.
                way = Expression(words="CFA").plus(rule.offset)
                data = (_VALUE_EXPRESSION, *_unsigned(number), *_unsigned(len(way.code)), *way.code)
                yield f".cfi_escape {_bytes(data)}{note or f' {mark}'} = {way.words}"
            case Rule(kind="register"):
                yield f".cfi_register {number}, {rule.register}{note}"
            case Rule(kind="expression"):
                code = rule.expression.code
                data = (_EXPRESSION, *_unsigned(number), *_unsigned(len(code)), *code)
                yield f".cfi_escape {_bytes(data)}{note or f' {mark}'} at {rule.expression.words}"
            case Rule(kind="same"):
                yield f".cfi_same_value {number}{note}"
            case _:
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


# Number, register, what it was entered with, and how many bytes of that are kept.
Kept = tuple[int, Register, Value, int]


@lru_cache(maxsize=256)
def _kept(architecture: Architecture, convention: Convention) -> tuple[list[Kept], dict[Hashable, list[Kept]]]:
    """The registers to be kept of which there is something to be said, and the same by what they were entered with."""
    described = made_of(architecture)
    kept: list[Kept] = []
    by_symbol: dict[Hashable, list[Kept]] = {}
    for register, number in described.numbers.items():
        if register in convention.kept and register not in (
            architecture.sp,
            convention.return_address,
            architecture.toc,
        ):
            leader = described.kept_with.get(register, register)
            kept.append((number, leader, Value(leader), -(-convention.kept[register].bit_length() // 8)))
            by_symbol.setdefault(leader, []).append(kept[-1])
    return kept, by_symbol


@lru_cache(maxsize=64)
def _names(architecture: Architecture) -> Mapping[int, Register]:
    return {number: register for register, number in made_of(architecture).numbers.items()}


class Follower:
    """Follows one function."""

    def __init__(self, function: Described, architecture: Architecture, described: Unwinding) -> None:
        self.function = function
        self.described = described
        self.code = function.code
        self.sp = architecture.sp
        self.word = architecture.word
        self.of_thread = of_thread(architecture)
        motions = described.motions
        self.motions = [motions(insn) if insn.label is None else () for insn in self.code]
        self.labels = {insn.label: index for index, insn in enumerate(self.code) if insn.label is not None}
        self.link = function.convention.return_address
        self.kept, self.kept_as = _kept(architecture, function.convention)
        self.lasting = {register for _, register, _, _ in self.kept}  # which have at calls what they were entered with
        # What is worth knowing where it is. Whose callers are found on which stack adds to it.
        self.wanted: set[Hashable] = {CFA, RETURN_ADDRESS, self.link, *self.kept_as}
        self.made: set[Hashable] = set()  # the symbols of what instructions have made
        self.dirty = True  # something that is wanted has changed its place
        self.changed: set[Hashable] | None = None  # of what is wanted, what has since the last row; None: anything
        self.plain: Caller | None = None  # whose frame the last row is of, if all is on one stack there
        self.found: list[Row | None] = [None] * len(self.code)

    def rows(self) -> list[Row | None]:
        """The row of each instruction; None where none comes by, and for labels."""
        states = {0: self._entry()}
        waiting = [0]
        while waiting:
            index = waiting.pop()
            for following, after in self._follow(index, states[index].copy()):
                if self._reach(states, following, after):
                    waiting.append(following)
        return self.found

    def _entry(self) -> State:
        pushed = self.word if self.link is None else 0
        above = Value(CFA, -pushed)
        memory: dict[Hashable, dict[int, tuple[Value, int]]] = {}
        if self.link is None:
            memory[CFA] = {-self.word: (Value(RETURN_ADDRESS), self.word)}
        if self.function.entered_by_call:
            above = above.moved(-self.word)
        pc = Value(RETURN_ADDRESS) if self.link is None else Value(self.link)
        return State({self.sp: above}, memory, {CFA: Caller(Value(CFA), pc, True)}, self.lasting)

    # ----------------------------------------------------------------------------------------------- following the code

    def _follow(self, index: int, state: State) -> Iterator[tuple[int, State]]:
        """Go on from a place to where the code leaves or joins others, and say which labels are reached with what."""
        code, found = self.code, self.found
        row: Row | None = None
        self.dirty, self.changed = True, None
        if code[index].label is not None:
            index += 1
        while index < len(code):
            insn = code[index]
            if insn.label is not None:
                yield index, state
                return
            if self.dirty or row is None:
                row = self._row(state, row)
                self.dirty, self.changed = False, set()
            found[index] = row
            following = index + 1
            if insn.delay_slot and following < len(code):
                found[following] = row  # it is executed before control has gone anywhere
                self._step(following, state)
                following += 1
            self._step(index, state)
            if insn.transfer != "none":
                if insn.target is not None and insn.target in self.labels and insn.transfer in ("branch", "jump"):
                    yield self.labels[insn.target], state.copy()
                if insn.transfer in ("jump", "return", "trap"):
                    return
            index = following

    def _step(self, index: int, state: State) -> None:
        insn = self.code[index]
        motions = self.motions[index]
        if not motions and not insn.writes and not insn.popped and insn.transfer != "call":
            return
        registers = state.registers
        sp = registers[self.sp]
        values: dict[Register, Value] = {}
        stores: list[tuple[Value, Value, int]] = []
        for motion in motions:
            place = self._sum(state, motion)
            if place is None:
                continue
            if motion.kind == "set":
                values[motion.register] = place
            elif motion.kind == "store" and insn.part != "resume":  # which puts back what was there
                stores.append((place, state.get(motion.register), motion.size))
            elif motion.kind == "load":
                cell = state.memory.get(place.start, {}).get(place.offset)
                if cell is not None and cell[1] == motion.size:
                    values[motion.register] = cell[0]
        for register in insn.writes:
            if register not in values:
                symbol = (index, register)
                if symbol in self.made:
                    self._forget(state, symbol)
                self.made.add(symbol)
                values[register] = Value(symbol)
        wanted = self.wanted
        for register, value in values.items():
            before = state.get(register)
            if before.symbol in wanted or value.symbol in wanted:
                self._touch(before.symbol, value.symbol)
            registers[register] = value
        for place, value, size in stores:
            self._overwrite(state, place, size)
            if value.symbol in wanted:
                state.memory.setdefault(place.start, {})[place.offset] = (value, size)
                self._touch(value.symbol)
        if insn.transfer == "call":
            self._called(index, state)
        if insn.popped:
            registers[self.sp] = registers[self.sp].moved(insn.popped)
            self.dirty = True
        if registers[self.sp] != sp:
            self._moved(index, state, sp, registers[self.sp])

    def _touch(self, *symbols: Hashable) -> None:
        self.dirty = True
        if self.changed is not None:
            self.changed.update(symbols)

    def _called(self, index: int, state: State) -> None:
        """A callee may overwrite what is in registers, but for what its caller's caller wants back there. What is not
        wanted may be so later."""
        registers, lasting = state.registers, self.lasting
        for register, value in list(registers.items()):
            if register is self.sp or (value.symbol is register and register in lasting):
                continue
            if value.symbol in self.wanted:
                self._touch(value.symbol)
            if register in lasting:
                registers[register] = Value((index, register))
            else:
                del registers[register]
        state.called = index

    def _sum(self, state: State, motion: Motion) -> Value | None:
        if motion.base is None:
            value = Value(CONSTANT, motion.offset)
        else:
            value = state.get(motion.base)
            if motion.offset:
                value = value.moved(motion.offset)
        if motion.index is None:
            return value
        other = state.get(motion.index)
        if other.symbol == CONSTANT:
            return value.moved(-other.offset if motion.minus else other.offset)
        if motion.minus:
            return None
        if value.symbol == CONSTANT:
            return other.moved(value.offset)
        if value.plus is None and other.plus is None:
            if other.symbol in state.callers:  # the stack pointer, and how far from it
                value, other = other, value
            return Value(value.symbol, value.offset + other.offset, other.symbol)
        return None

    def _forget(self, state: State, symbol: Hashable) -> None:
        """An instruction that runs again makes another value than the last time."""
        for register, value in list(state.registers.items()):
            if symbol in (value.symbol, value.plus):
                state.registers[register] = Value(("gone", register))
        state.memory.pop(symbol, None)
        for cells in state.memory.values():
            for offset in [offset for offset, (value, _) in cells.items() if value.symbol == symbol]:
                del cells[offset]
        self.dirty, self.changed = True, None

    def _overwrite(self, state: State, place: Value, size: int) -> None:
        cells = state.memory.get(place.start)
        if cells:
            for offset in range(place.offset - _WIDEST + 1, place.offset + size):
                if offset in cells and place.offset < offset + cells[offset][1]:
                    self._touch(cells.pop(offset)[0].symbol)

    def _moved(self, index: int, state: State, before: Value, now: Value) -> None:
        """The stack pointer has moved: what is below it is gone."""
        self.dirty = True
        part = self.code[index].part
        if now.symbol != before.symbol or part == "resume":
            self.changed = None
        if part == "resume":
            self._resumed(index, state, before)
        elif now.symbol == before.symbol:
            if now.plus != before.plus:
                self.changed = None
                state.memory.pop(before.start, None)
            cells = state.memory.get(now.start, {})
            for offset in [offset for offset in cells if offset < now.offset]:
                self._touch(cells.pop(offset)[0].symbol)
        elif part in ("switch", "push"):
            around = state.callers.get(before.symbol)
            if part == "push":
                pc = self._pushed(index, state)
                around = Caller(now.moved(self.function.frame + self._still_to_come(index)), pc, False)
                self.wanted.add(pc.symbol)
            if around is not None:
                state.callers[now.symbol] = around
                self.wanted.add(now.symbol)
        else:
            state.memory.pop(before.symbol, None)

    def _resumed(self, index: int, state: State, sp: Value) -> None:
        """The frame is that of another call, which has got as far: the same is at the same places in it. What registers
        hold is of the call that was left."""
        for register in {*state.registers, *(r for _, r, _, _ in self.kept)} - self.of_thread:
            state.registers[register] = Value((index, register))
        if self.link is not None:
            state.registers[self.link] = Value((index, self.link))
        state.registers[self.sp] = sp
        for symbol in [symbol for symbol in state.memory if symbol != sp.symbol]:
            del state.memory[symbol]

    def _still_to_come(self, index: int) -> int:
        """How far the instructions behind one of a push move the stack pointer, which one alone cannot move so far."""
        distance = 0
        for following in range(index + 1, len(self.code)):
            moves = [m for m in self.motions[following] if m.kind == "set" and m.register is m.base is self.sp]
            if self.code[following].part != "push" or not moves or any(m.index is not None for m in moves):
                break
            distance += sum(m.offset for m in moves)
        return distance

    def _pushed(self, index: int, state: State) -> Value:
        """The program counter that the next instructions store where a walk looks for it."""
        convention = self.function.convention
        place = 0 if convention.return_slot == "bottom" else self.function.frame - self.word
        changed: set[Register] = set()
        for following in range(index + 1, len(self.code)):
            for motion in self.motions[following]:
                there = motion.kind == "store" and motion.base is self.sp and motion.offset == place
                if there and motion.register not in changed:
                    return state.get(motion.register)
            insn = self.code[following]
            changed |= insn.writes
            if insn.transfer != "none" or (self.sp in insn.writes and insn.part != "push"):
                break
        return Value(("pushed", index))

    def _reach(self, states: dict[int, State], label: int, state: State) -> bool:
        """Note that a label is reached with what is known; whether what holds behind it is to be found anew."""
        known = states.get(label)
        if known is None:
            states[label] = state
            return True
        news = False
        joined = ("joined", label)
        if known.called not in (state.called, joined):
            known.called = joined
            news = True
        for register in {*known.registers, *state.registers}:
            value = known.get(register)
            if value != state.get(register) and value != Value(("joined", label, register)):
                known.registers[register] = Value(("joined", label, register))
                news = True
        for symbol, cells in known.memory.items():
            others = state.memory.get(symbol, {})
            for offset in [offset for offset, cell in cells.items() if others.get(offset) != cell]:
                del cells[offset]
                news = True
        for symbol, caller in list(known.callers.items()):
            if state.callers.get(symbol) not in (caller, None):
                del known.callers[symbol]
                news = True
        return news

    # ----------------------------------------------------------------------------------------------- what it amounts to

    def _row(self, state: State, last: Row | None) -> Row:
        """The row for what is known. `last`: the one before it, of which all is true that has not changed."""
        described = self.described
        sp = state.registers[self.sp]
        caller = state.callers.get(sp.symbol)
        way = self._way_to(state, caller.cfa, sp) if caller is not None else None
        if caller is None or (way is None and sp.plus is None):
            # The stack is another one, whose caller nobody knows: a walk ends here.
            return Row(described.sp, 0, NO_EXPRESSION, {described.return_column: Rule("undefined")})
        cfa, bias = caller.cfa, described.bias
        if way is None:
            # Arguments have been taken off the stack, and how many is not known any more: as the caller finds it.
            cfa = sp.moved(self.word if self.link is None else 0)
            way = described.sp, cfa.offset - sp.offset, NO_EXPRESSION
        register, offset, expression = way
        places = _Places(state, cfa, sp, self)
        plain = caller if caller.keeps and not places.elsewhere else None
        changed = self.changed if last is not None and plain is not None and plain is self.plain else None
        self.plain = plain
        rules: dict[int, Rule] = {}
        entries: Sequence[Kept] = self.kept
        if last is not None and changed is not None:
            rules = dict(last.rules)
            entries = [one for symbol in changed for one in self.kept_as.get(symbol, ())]
            for number, _, _, _ in entries:
                rules.pop(number, None)
        if changed is None or caller.pc.symbol in changed:
            rules.pop(described.return_column, None)
            rule = places.rule(caller.pc, self.word, self.link)
            if rule != self._initial_pc():
                rules[described.return_column] = rule
        registers, stored = state.registers, {value for value, _ in places.cells.values()}
        for number, kept, value, size in entries:
            if kept not in registers and value not in stored and not places.elsewhere:
                continue  # as it was
            if caller.keeps:
                rule = places.rule(value, size, kept)
            else:
                rule = _SAME if state.get(kept) == value and value not in places.saved else Rule("undefined")
            if rule.kind != "same":
                rules[number] = rule
        if bias:
            rules.pop(described.sp, None)
            rule = places.rule(cfa, self.word, self.sp)
            if rule.kind not in ("offset", "same"):
                rule = Rule("value", -bias)
            if rule.kind != "same":
                rules[described.sp] = rule
        return Row(register, 0 if expression.code else offset + bias, expression, rules)

    def _initial_pc(self) -> Rule:
        if self.link is not None:
            return _SAME
        return _offset(-self.word - self.described.bias)

    def _way_to(self, state: State, wanted: Value, sp: Value) -> tuple[int, int, Expression] | None:
        """A value as register and offset, or as an expression; None if it is not to be found."""
        described = self.described
        if sp.symbol == wanted.symbol and sp.plus == wanted.plus:
            return described.sp, wanted.offset - sp.offset, NO_EXPRESSION
        if sp.symbol == wanted.symbol and wanted.plus is None:
            for register, number in described.numbers.items():
                value = state.get(register)
                if (value.symbol, value.plus) == (sp.plus, None):
                    offset = wanted.offset - sp.offset + value.offset + described.bias
                    way = self.based(self.sp, described.sp, offset).minus(self.based(register, number, 0))
                    return 0, 0, way
        for address, (value, size) in self.reachable(state, sp):
            if value.symbol == wanted.symbol and value.plus is None and size >= self.word:
                return 0, 0, address.loaded().plus(wanted.offset - value.offset + described.bias)
        for register, number in described.numbers.items():
            value = state.get(register)
            if value.symbol == wanted.symbol and value.plus is None:
                return number, wanted.offset - value.offset, NO_EXPRESSION
        return None

    def reachable(self, state: State, sp: Value) -> Iterator[tuple[Expression, tuple[Value, int]]]:
        """What is kept on this stack, on those that registers point into, and on those that words on them lead to: how
        its address is found, and what it is."""
        ways: list[tuple[Value, Callable[[int], Expression]]] = [(sp, partial(self.based, self.sp, self.described.sp))]
        seen = {sp.symbol}
        for register, number in self.described.numbers.items():
            value = state.get(register)
            if value.symbol in state.callers and value.symbol not in seen and value.plus is None:
                seen.add(value.symbol)
                ways.append((value, partial(self.based, register, number)))
        for base, way in ways:
            if base.plus is not None:
                continue
            for offset, cell in state.memory.get(base.symbol, {}).items():
                address = way(offset - base.offset)
                yield address, cell
                value = cell[0]
                if value.symbol in state.callers and value.symbol not in seen and len(ways) < _DEEPEST:
                    seen.add(value.symbol)
                    ways.append((value, address.loaded().plus))

    def based(self, register: Register, number: int, offset: int) -> Expression:
        words = f"{register.name} {'-' if offset < 0 else '+'} {abs(offset)}" if offset else register.name
        if number < 32:
            return Expression(bytes((_BASE_REGISTER + number, *_signed(offset))), words)
        return Expression(bytes((_BASE_REGISTER_WIDE, *_unsigned(number), *_signed(offset))), words)


class _Places:
    """Where values are, before one instruction."""

    def __init__(self, state: State, cfa: Value, sp: Value, rows: Follower) -> None:
        self.state, self.sp, self.rows = state, sp, rows
        self.cells = state.memory.get(cfa.start, {})  # on the stack that the CFA is of
        self.shift = -cfa.offset - rows.described.bias
        self.elsewhere = len(state.memory) > 1 or cfa.symbol != sp.symbol

    def here(self, value: Value) -> tuple[int, int] | None:
        """Where a value is on that stack, and how many bytes of it."""
        for offset, (kept, size) in self.cells.items():
            if kept == value:
                return offset, size
        return None

    @cached_property
    def reachable(self) -> list[tuple[Expression, tuple[Value, int]]]:
        return list(self.rows.reachable(self.state, self.sp))

    @cached_property
    def saved(self) -> set[Value]:
        """What is in memory anywhere."""
        return {value for cells in self.state.memory.values() for value, _ in cells.values()}

    def rule(self, value: Value, size: int, home: Register | None) -> Rule:
        """In memory first, since what is in a register may not outlive the next call."""
        place = self.here(value)
        if place is not None and place[1] >= size:
            return _offset(place[0] + self.shift)
        state, rows = self.state, self.rows
        if self.elsewhere:
            for address, (kept, bytes_) in self.reachable:
                if kept == value and bytes_ >= size:
                    return Rule("expression", expression=address)
        if home is not None and state.get(home) == value:
            return _SAME
        for register, number in rows.described.numbers.items():
            if state.get(register) == value:
                return Rule("register", register=number)
        return Rule("undefined")


@lru_cache(maxsize=4096)
def _offset(offset: int) -> Rule:
    return Rule("offset", offset)


_SAME = Rule("same")
_WIDEST = 16  # bytes that one instruction stores of one register


__all__ = ["BRACKETS", "Described", "Follower", "Row", "directives", "followed", "made_of"]
