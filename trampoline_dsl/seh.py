"""Unwind information for Windows: what finds the caller from before each instruction of a function, as directives that
GNU as and LLVM make `.pdata` and `.xdata` of.

The code is followed as for call frame information, and nothing is taken from the frame's layout. What such tables can
say is less: from a prologue's end to where the function is left, the stack pointer stays where it is. What they cannot
describe is not described at all.

On amd64 the way out is recognised by its instructions, if it has a certain form. Where it has another one, or where the
stack pointer moves otherwise, another entry of the table begins, which describes the frame as it is from there on. On
arm64 each instruction of a prologue and of a way out has a code of its own. Microsoft Learn, "x64 exception handling",
"x64 prolog and epilog", "ARM64 exception handling".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from .cfi import Described, effects_of, label_places, loaded_by, made_of
from .target import Architecture, Convention, Register, WindowsUnwinding, spelled
from .transitions import followed

_LONGEST_PROLOGUE = 255  # bytes on amd64: "Size of prolog" is a byte
_LONGEST_INSTRUCTION = 15  # bytes on amd64: SDM volume 2, 2.3.11


class NotDescribed(Exception):
    """A frame that Windows' tables cannot describe: why not."""


MOVES = "its stack pointer moves in its body, and Windows' tables have no words for that"
CROSSES = "a jump in it would be taken for the way out: what Windows' tables say of it has several parts"


def directives(
    function: Described,
    architecture: Architecture,
    described: WindowsUnwinding,
    name: str,
    offsets: Callable[[], Sequence[int]],
) -> tuple[tuple[str, ...], ...]:
    """For each of a function's instructions the directives before it, between `.seh_proc` and `.seh_endproc`. `name`:
    its symbol; `offsets`: where its instructions begin, in bytes. Raises NotDescribed with the reason why the tables
    cannot describe it."""
    made = _Function(function, architecture, described, name, offsets)
    if described.no_code:
        made.describe_each()
    else:
        made.describe_parts()
    return tuple(map(tuple, made.made))


def brackets(name: str) -> tuple[str, str]:
    """What stands around the code of a function with such directives."""
    return f".seh_proc {spelled(name)}", ".seh_endproc"


@dataclass
class _Claim:
    """A frame: so many bytes from the stack pointer up to the CFA, and registers in memory, by bytes from the CFA; the
    others are as they were at the function's entry."""

    depth: int
    saved: dict[Register, int] = field(default_factory=dict)


Saves = list[tuple[Register, int]]
Step = tuple[int, Saves]  # by how much the stack pointer moves, and the registers, in bytes above where it is lowest


@lru_cache(maxsize=256)
def _wanted_back(architecture: Architecture, convention: Convention) -> Sequence[tuple[Register, int, bool]]:
    """The registers that callers want back, with the numbers that the tables have for them; and whether there is a
    place for all that is kept of them."""
    described, found = made_of(architecture), list[tuple[Register, int, bool]]()
    for register, number in sorted(described.numbers.items(), key=lambda item: item[1]):
        kept = convention.kept.get(register, 0)
        if register is not architecture.sp and (register == convention.return_address or kept):
            fits = -(-kept.bit_length() // 8) <= described.saved_bytes(register, kept)
            found.append((register, number, fits))
    return found


class _Function:
    def __init__(
        self,
        function: Described,
        architecture: Architecture,
        described: WindowsUnwinding,
        name: str,
        offsets: Callable[[], Sequence[int]],
    ) -> None:
        self.described, self.name, self.offsets = described, name, offsets
        self.code = function.code
        self.made: list[list[str]] = [[] for _ in function.code]
        self.rows = followed(function, architecture)
        self.labels = label_places(self.code)
        convention = function.convention
        self.start = _Claim(architecture.word if convention.return_address is None else 0)
        self.places = [i for i, insn in enumerate(self.code) if insn.label is None]
        self.targets = {insn.target for insn in self.code if insn.target is not None}
        self.depths = list(self._depths())
        self.saved: dict[int, dict[Register, int] | None] = {}  # by the identities of rules
        # What a callee changes is not known; what is in memory when there is a call is taken for kept there.
        written = frozenset[Register]().union(*(insn.writes for insn in self.code))
        loaded = loaded_by(effects_of(described).of(self.code))
        calls = [row.rules for insn, row in zip(self.code, self.rows, strict=True) if row and insn.transfer == "call"]
        in_memory = {number for rules in calls for number, rule in rules.items() if rule.kind == "offset"}
        self.changed: list[Register] = []
        for register, number, fits in _wanted_back(architecture, convention):
            if register in written or register in loaded or number in in_memory:
                self.changed.append(register)
                if not fits:
                    raise NotDescribed(f"Windows' tables have no place for all of {register.name}")

    # -------------------------------------------------------------------------------------------- what holds at a place

    def _depths(self) -> Iterator[int]:
        """Before each instruction, the bytes from the stack pointer up to the CFA. Raises NotDescribed."""
        before, depth = None, 0
        for row in self.rows:
            if row is not None and row is not before:
                pc = row.rules.get(self.described.return_column)
                # Where a call pushes the return address, a walk finds it next to the CFA and nowhere else.
                elsewhere = pc is not None and (pc.kind != "offset" or self.start.depth > 0)
                if row.register != self.described.sp or row.expression.code or elsewhere:
                    raise NotDescribed(MOVES)
                before, depth = row, row.offset
            yield depth

    def _cell(self, index: int, register: Register) -> int | None:
        """Where in memory a register's value at entry is: bytes from the CFA. None: it is in the register. Raises
        NotDescribed where it is elsewhere."""
        row = self.rows[index]
        assert row is not None, "no control comes by"
        rule = row.rules.get(self.described.numbers[register])
        if rule is None:
            return None
        if rule.kind != "offset":
            raise NotDescribed(f"what {register.name} was is in no place that Windows' tables can name")
        return rule.offset

    def _cells(self, index: int) -> Mapping[Register, int] | None:
        """Where in memory registers are, and no others; None if one is elsewhere, which `_cell` raises."""
        row = self.rows[index]
        assert row is not None, "no control comes by"
        key = id(row.rules)
        if key not in self.saved:
            numbers, rules = self.described.numbers, row.rules
            found = {register: rules[numbers[register]] for register in self.changed if numbers[register] in rules}
            plain = all(rule.kind == "offset" for rule in found.values())
            self.saved[key] = {register: rule.offset for register, rule in found.items()} if plain else None
        return self.saved[key]

    def _holds(self, claim: _Claim, index: int) -> bool:
        """Whether a frame is what there is before an instruction; so it is where none comes by."""
        if self.rows[index] is None:
            return True
        if self.depths[index] != claim.depth:
            return False
        cells = self._cells(index)
        if cells is not None:
            return cells == claim.saved
        return all(self._cell(index, register) == claim.saved.get(register) for register in self.changed)

    def _found(self, index: int) -> _Claim:
        """The frame before an instruction."""
        cells = {register: self._cell(index, register) for register in self.changed}
        return _Claim(self.depths[index], {register: cell for register, cell in cells.items() if cell is not None})

    # --------------------------------------------------------------------------------------------------------- prologue

    def _joined(self, position: int) -> bool:
        """Whether control may come to an instruction from elsewhere."""
        index = self.places[position] - 1
        while index >= 0 and self.code[index].label is not None:
            if self.code[index].label in self.targets:
                return True
            index -= 1
        return False

    def _grown(self, position: int, claim: _Claim) -> Step | None:
        """By how much an instruction lowers the stack pointer, and what it stores of what is to be kept. None if it
        cannot belong to a prologue."""
        if position + 1 == len(self.places) or self._joined(position + 1):
            return None
        index, following = self.places[position], self.places[position + 1]
        if self.code[index].transfer != "none" or self.rows[following] is None:
            return None
        depth = self.depths[following]
        if depth < claim.depth:
            return None
        saves: Saves = []
        if self._cells(following) == claim.saved:
            return depth - claim.depth, saves
        for register in self.changed:
            cell = self._cell(following, register)
            if cell != claim.saved.get(register):
                if cell is None or register in claim.saved:
                    return None
                saves.append((register, cell + depth))
        return depth - claim.depth, saves

    def _prologue(self, start: int, claim: _Claim) -> list[Step]:
        """What the instructions from `start` on do, up to the last one that makes a part of the frame. `claim` is
        changed to the frame that they make."""
        steps: list[Step] = []
        end = position = start
        while (grown := self._grown(position, claim)) is not None:
            steps.append(grown)
            position += 1
            step, saves = grown
            claim.depth += step
            claim.saved |= {register: offset - claim.depth for register, offset in saves}
            if step or saves:
                end = position
        return steps[: end - start]

    def _directive(self, position: int, step: int, saves: Saves) -> str:
        made = self.described.directive(step, saves)
        if made is None:
            raise NotDescribed(f"no code of Windows' tables stands for `{self.code[self.places[position]].text}`")
        return made

    def _say(self, position: int, *lines: str) -> None:
        self.made[self.places[position]] += lines

    # ------------------------------------------------------------------------------- parts, with ways out by their form

    def describe_parts(self) -> None:
        start, parts = 0, []
        while start < len(self.places):
            parts.append(start)
            start = self._describe_part(start)
        inside = {index: bisect_right(parts, position) for position, index in enumerate(self.places)}
        for index in self.places:
            insn = self.code[index]
            if insn.transfer == "jump" and insn.target in self.labels:
                target = next((place for place in self.places if place > self.labels[insn.target]), None)
                if target is None or inside[target] != inside[index]:
                    raise NotDescribed(CROSSES)

    def _describe_part(self, start: int) -> int:
        """One entry of the table, which begins at the position `start`; where it ends."""
        first = self.places[start]
        claim = self._found(first) if self.rows[first] is not None else _Claim(self.start.depth)
        if start:
            self._say(start, *reversed(brackets(self.name)))
        if claim.depth != self.start.depth:
            if claim.depth < self.start.depth:
                raise NotDescribed("the return address is off the stack already")
            self._say(start, self._directive(start, claim.depth - self.start.depth, []))
        for register, offset in claim.saved.items():
            self._say(start, self._directive(start, 0, [(register, offset + claim.depth)]))
        steps = self._as_far_as_told(start, self._prologue(start, claim), claim)
        for position, (step, saves) in enumerate(steps, start):
            if step or saves:
                self._say(position + 1, self._directive(position, step, saves))
        end = start + len(steps)
        self._say(end, ".seh_endprologue")
        position = end
        while position < len(self.places):
            leaving = self._way_out(position)
            if leaving is not None:
                position = leaving
            elif self._holds(claim, self.places[position]):
                position += 1
            elif position == start:
                raise NotDescribed("Windows' tables have no words for its frame")
            else:
                return position
        return position

    def _as_far_as_told(self, start: int, steps: list[Step], claim: _Claim) -> list[Step]:
        """A prologue, as far as one entry can say; `claim` is changed to what it makes. Where registers are is counted
        from the stack pointer at its end, so that no step follows a store; and its length is a number below 256."""
        most = len(steps)
        stored = len(claim.saved) > sum(len(saves) for _, saves in steps)  # before the first of them
        for position, (step, saves) in enumerate(steps):
            if step and stored:
                most = position
                break
            stored |= bool(saves) and not step
        if most * _LONGEST_INSTRUCTION > _LONGEST_PROLOGUE:
            offsets = self.offsets()
            ends = [offsets[index] - offsets[self.places[start]] for index in self.places[start : start + most + 1]]
            most = bisect_right(ends, _LONGEST_PROLOGUE) - 1
        for step, saves in steps[most:]:
            claim.depth -= step
            for register, _ in saves:
                del claim.saved[register]
        return steps[:most]

    def _way_out(self, position: int) -> int | None:
        """The position behind a way out that begins here and is recognised by its form."""
        expected, first = {"step", "pop", "leave"}, position
        while position < len(self.places):
            insn = self.code[self.places[position]]
            # A jump to where the function begins stays in it, as far as the tables go.
            again = insn.relocation is not None and insn.relocation.symbol == self.name
            what = self.described.leaving(insn)
            if what not in expected or again or (position > first and self._joined(position)):
                return None
            if what == "leave":
                return position + 1
            expected = {"pop", "leave"}
            position += 1
        return None

    # ------------------------------------------------------------------------------------- a code for each instruction

    def describe_each(self) -> None:
        claim = _Claim(self.start.depth)
        steps = self._prologue(0, claim)
        end = len(steps)
        for position, (step, saves) in enumerate(steps):
            self._say(position + 1, self._directive(position, step, saves) if step or saves else self.described.no_code)
        self._say(end, ".seh_endprologue")
        position = end
        while position < len(self.places):
            if self._holds(claim, self.places[position]):
                position += 1
                continue
            position = self._describe_way_out(max(position - 1, end))

    def _describe_way_out(self, start: int) -> int:
        """The instructions from where the stack pointer is raised to the one that leaves; the position behind that."""
        self._say(start, ".seh_startepilogue")
        position = start
        while True:
            index = self.places[position]
            insn = self.code[index]
            if self.rows[index] is None or (position > start and self._joined(position)):
                break
            if self.described.leaving(insn) == "leave" and insn.target not in self.labels:
                if not self._holds(self.start, index):
                    break
                self._say(position, ".seh_endepilogue")
                return position + 1
            if insn.transfer != "none" or position + 1 == len(self.places):
                break
            undone = self._undone(index, self.places[position + 1])
            self._say(position + 1, self._directive(position, *undone) if any(undone) else self.described.no_code)
            position += 1
        raise NotDescribed(MOVES)

    def _undone(self, index: int, following: int) -> Step:
        """By how much an instruction raises the stack pointer, and the registers that it loads back."""
        depth = self.depths[index]
        loads: Saves = []
        for register in self.changed:
            cell = self._cell(index, register)
            if cell is not None and register in self.code[index].writes:
                loads.append((register, cell + depth))
        return depth - self.depths[following], loads


__all__ = ["NotDescribed", "brackets", "directives"]
