"""The rows of functions that stay on the stack that they were entered on, found without following each of them.

Of such a function little matters to its rows: which registers and places on the stack have what the caller wants back,
and how far the stack pointer is from the CFA. A `Known` is that much, and which one an instruction makes of it follows
from what the instruction does with words alone (its `Effect`): where, in which function and behind what it stands says
nothing. So each of these steps is taken once, by the follower of all functions, and kept; where a function does more
(it switches stacks, or puts what is to be kept elsewhere in memory), that follower is asked for all of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

from .cfi import (
    CFA,
    Beginning,
    Caller,
    Cells,
    Described,
    Effect,
    Follower,
    KeptRow,
    Row,
    State,
    Value,
    effects_of,
    kept_row,
    label_places,
    made_of,
)
from .target import Architecture, Convention, Insn, Register, Unwinding

_MOST_KEPT = 20_000  # steps of functions of one convention
_FIRST = 5  # functions with a prologue: to take their steps costs as much as to follow so many functions
_LEAVES = frozenset(("jump", "return", "trap"))
_ANOTHER_STACK = frozenset(("push", "switch", "resume"))  # the parts of functions that lead to one
_BEFORE = -1  # where was made what is in registers that nobody asks for

# What may come next: what an instruction does, or a callee that takes so many bytes of arguments off the stack.
Step = Effect | int
Held = frozenset[tuple[Register, Value]]
Stored = tuple[tuple[int, Value, int], ...]


class Known(dict[Step, "Known | None"]):
    """What is known before an instruction, and by each step what is known behind it; None where that is more than can
    be said here."""

    __slots__ = ("elsewhere", "held", "row", "stored", "table")

    def __init__(self, table: Table, held: Held, stored: Stored, elsewhere: bool, row: KeptRow) -> None:
        self.table = table
        self.held = held  # registers that have what is wanted, or that and a distance
        self.stored = stored  # the same in memory: bytes from the CFA, what, and its size in bytes; by their ages
        self.elsewhere = elsewhere  # whether it has been stored where the stack pointer does not lead to
        self.row = row

    def __missing__(self, step: Step) -> Known | None:
        table = self.table
        if not table.learns:
            table.missed = True
            return None
        made = self[step] = table.behind(self, step)
        return made


class Table:
    """What may be known in functions of one convention."""

    def __init__(self, architecture: Architecture, convention: Convention, described: Unwinding) -> None:
        self.architecture, self.convention, self.described = architecture, convention, described
        self.follower = self._follower(Insn(""))  # makes rows
        self.unknown = dict.fromkeys(self.follower.watched.registers, _BEFORE)
        self.known: dict[tuple[Held, Stored, bool], Known] = {}
        self.rows: dict[tuple[int, int, frozenset[object]], KeptRow] = {}
        self.entries: dict[bool, Known] = {}
        self.steps = 0
        self.learns = False  # whether new steps are taken
        self.missed = False  # whether one would have had to be
        self.begun: dict[Beginning, int] = {}  # how many functions with a prologue have been followed

    def at_entry(self, called: bool) -> Known:
        """`called`: by a table's entry."""
        if self.steps >= _MOST_KEPT:
            self.known.clear()
            self.rows.clear()
            self.entries.clear()
            self.steps = 0
        if called not in self.entries:
            follower = self._follower(Insn(""), called)
            self.entries[called] = self._of(follower, follower.entry(), False)
        return self.entries[called]

    def has_seen(self, beginning: Beginning) -> bool:
        """Whether a function with this prologue is one of many."""
        if len(self.begun) >= _MOST_KEPT:
            self.begun.clear()
        seen = self.begun[beginning] = self.begun.get(beginning, 0) + 1
        return seen > _FIRST

    def behind(self, known: Known, step: Step) -> Known | None:
        """What a step makes of what is known."""
        self.steps += 1
        if isinstance(step, int):
            follower, state = self._follower(Insn("", popped=step)), self._state(known)
            follower.called(0, state)
        else:
            loads = known.elsewhere and any(kind == "load" for kind, *_ in step.motions)
            if not loads and dict(known.held).keys().isdisjoint(step.registers):
                return known
            state = self._state(known)
            on_stack = {register for register, symbol in state.holding.items() if symbol == CFA}
            for kind, register, base, _, _, index, _ in step.motions:
                # What a sum comes to is a question of what else has been put into registers; so is what is loaded.
                if index is not None and (len(step.motions) > 1 or {register, base, index} & state.holding.keys()):
                    return None
                if kind == "load" and known.elsewhere and base not in on_stack:
                    return None
            follower = self._follower(Insn(""))
            follower.step(0, state, step)
        value, memory = state.registers[follower.sp], state.memory
        if not isinstance(value, tuple) or value[0] != CFA or value[2] is not None:
            return None
        elsewhere = known.elsewhere or any(cells for symbol, cells in memory.items() if symbol != CFA)
        return self._of(follower, state, elsewhere)

    def joined(self, one: Known, other: Known) -> Known | None:
        """What holds on two ways to a place. `one`: on the first of them."""
        if one is other:
            return one
        state, sp = self._state(one), self.architecture.sp
        for register, _ in one.held - other.held:
            if register is sp:
                return None
            state.registers[register] = _BEFORE
            state.changed.append(state.holding.pop(register))
        for offset, value, _ in set(one.stored) - set(other.stored):
            del state.memory[CFA][offset]
            state.changed.append(value[0])
        return self._of(self.follower, state, one.elsewhere or other.elsewhere)

    def _follower(self, insn: Insn, called: bool = False) -> Follower:
        described = Described((insn,), self.convention, 0, called)
        return Follower(described, self.architecture, self.described, (None,))

    def _state(self, known: Known) -> State:
        """The same as the follower of all functions has it."""
        registers, cells = self.unknown | dict(known.held), Cells()
        holding = {register: value[0] for register, value in known.held}
        stored: dict[Hashable, tuple[tuple[Hashable, int], ...]] = {}
        for offset, value, size in known.stored:
            cells[offset] = value, size
            stored[value[0]] = (*stored.get(value[0], ()), (CFA, offset))
        if cells:
            cells.below, cells.above = min(cells), max(offset + size for offset, _, size in known.stored)
        callers: dict[Hashable, Caller] = {CFA: self.follower.watched.caller}
        return State(registers, holding, {CFA: cells}, stored, callers, _BEFORE, known.row, [])

    def _of(self, follower: Follower, state: State, elsewhere: bool) -> Known:
        """What is known in a state."""
        registers = state.registers
        held = frozenset([(one, value) for one in state.holding if not isinstance(value := registers[one], int)])
        stored = tuple([(offset, *cell) for offset, cell in state.memory.get(CFA, _NO_CELLS).items()])
        known = self.known.get((held, stored, elsewhere))
        if known is None:
            row = follower.row(state)
            if not isinstance(row, KeptRow):
                key = row.register, row.offset, frozenset(row.rules.items())
                row = self.rows.get(key) or self.rows.setdefault(key, kept_row(row))
            known = self.known[held, stored, elsewhere] = Known(self, held, stored, elsewhere, row)
        return known

    def rows_of(self, function: Described, effects: Sequence[Effect | None]) -> list[Row | None] | None:
        """The row before each instruction; None if the function does more than can be said here."""
        code, known, index = function.code, self.at_entry(function.entered_by_call), 0
        end = len(code)
        found: list[Row | None] = [None] * end
        at_labels: dict[int, Known] = {}  # by index
        waiting: set[int] = set()  # labels behind which it is to be found anew what holds
        labels: Mapping[str | None, int] | None = None
        while True:
            while index < end:
                insn = code[index]
                reached = -1
                if insn.label is not None:
                    reached, goes_on = index, False
                else:
                    found[index] = known.row
                    following, transfer = index + 1, insn.transfer
                    goes_on = transfer not in _LEAVES
                    if insn.delay_slot and following < end:
                        found[following] = known.row  # it is executed before control has gone anywhere
                        effect = effects[following]
                        if effect is not None:
                            behind = known[effect]
                            if behind is not known:
                                if behind is None or code[following].part in _ANOTHER_STACK:
                                    return None
                                known = behind
                                if transfer == "call":
                                    # Walks from the callee look there: where it returns to is behind it.
                                    found[following] = known.row
                        following += 1
                    effect = effects[index]
                    if effect is not None and (goes_on or transfer == "jump"):
                        behind = known[effect]
                        if behind is not known:
                            if behind is None or insn.part in _ANOTHER_STACK:
                                return None
                            known = behind
                    if transfer == "call":
                        behind = known[insn.popped]
                        if behind is None:
                            return None
                        known = behind
                    elif transfer != "none" and insn.target is not None and transfer in ("branch", "jump"):
                        if labels is None:
                            labels = label_places(code)
                        reached = labels.get(insn.target, -1)
                if reached >= 0:
                    last = at_labels.get(reached)
                    joined = known if last is None else self.joined(last, known)
                    if joined is None:
                        return None
                    if joined is not last:
                        at_labels[reached] = joined
                        waiting.add(reached)
                if not goes_on:
                    break
                index = following
            if not waiting:
                return found
            # In the order of the code, so that most ways to a label have been gone before it is followed.
            index = min(waiting)
            waiting.remove(index)
            known = at_labels[index]
            index += 1


@lru_cache(maxsize=256)
def _table(architecture: Architecture, convention: Convention) -> Table:
    return Table(architecture, convention, made_of(architecture))


def followed(function: Described, architecture: Architecture) -> list[Row | None]:
    """The row before each of a function's instructions; None where control does not come by, and for labels."""
    table = _table(architecture, function.convention)
    effects = effects_of(table.described).of(function.code)
    table.learns = table.missed = False
    rows = table.rows_of(function, effects)
    if rows is not None:
        return rows
    follower = Follower(function, architecture, table.described, effects)
    if table.missed and table.has_seen(follower.beginning[1]):
        table.learns = True
        rows = table.rows_of(function, effects)
    return follower.rows() if rows is None else rows


_NO_CELLS = Cells()


__all__ = ["followed"]
