"""Small mistakes made on purpose: what a slip of the pen makes of emitted code, instruction by instruction.

The operators know instructions as records (what is read, written, touched, and where control goes) and as text: a
number or a register in it is replaced by a neighbour. So they serve every machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .ir import Program
from .pipeline import Artifact, TableArtifact
from .target import Architecture, Bank, Insn, Register


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that one execution of an instruction touched: stores, and loads too if not `store`."""

    address: int
    size: int
    store: bool


# By index of the instruction, all that its executions touched, execution by execution.
Footprints = Mapping[int, Sequence[Sequence[Footprint]]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program with one mistake. `index`: of the instruction in the original; `change`: the mistake in words; `same`:
    why it is none, where that is known from the instructions alone."""

    operator: str
    index: int
    change: str
    instructions: tuple[Insn, ...]
    same: str = ""


def mutants(
    artifact: Artifact | TableArtifact, program: Program, footprints: Footprints, only: Container[int] | None = None
) -> Iterator[Mutant]:
    """All mutants of a trampoline, or those of `only` some instructions of a table. Some cannot be assembled, and some
    are no mistakes."""
    maker = _Maker(artifact, program, footprints)
    for index, insn in enumerate(artifact.instructions):
        if insn.label is None and (only is None or index in only):
            yield from maker.at(index, insn)


class _Maker:
    def __init__(self, artifact: Artifact | TableArtifact, program: Program, footprints: Footprints) -> None:
        self.code = artifact.instructions
        self.architecture: Architecture = artifact.target.architecture
        self.convention = artifact.function.convention
        self.signatures = dict(program.externs) | {name: f.signature for name, f in program.functions.items()}
        self.footprints = footprints
        self.banks = _numbered(self.architecture)

    def at(self, index: int, insn: Insn) -> Iterator[Mutant]:
        yield self._dropped(index, insn)
        if index + 1 < len(self.code) and self.code[index + 1].label is None and self.code[index + 1] != insn:
            yield self._swapped(index)
        if insn.user_text:
            return
        makers: tuple[Callable[[int, Insn], Iterator[Mutant]], ...] = (
            self._other_numbers,
            self._other_registers,
            self._narrowed,
            self._other_bank,
            self._repeated,
            self._other_ways,
            self._other_transfers,
            self._outside_of_the_frame,
        )
        for make in makers:
            for mutant in make(index, insn):
                if mutant.instructions != self.code:
                    yield mutant

    # ------------------------------------------------------------------------------------------------------- helpers

    def _with(self, operator: str, index: int, change: str, by: Iterable[Insn], same: str = "") -> Mutant:
        code = (*self.code[:index], *by, *self.code[index + 1 :])
        return Mutant(operator, index, change, code, same)

    def _is_pad(self, insn: Insn) -> bool:
        """Whether an instruction matters for its place alone."""
        return self.architecture.protect and insn in tuple(self.architecture.landing_pad())

    def _in_slot(self, index: int) -> bool:
        return index > 0 and self.code[index - 1].delay_slot

    # ----------------------------------------------------------------------------------------------------- operators

    def _dropped(self, index: int, insn: Insn) -> Mutant:
        idle = not (insn.reads or insn.writes) and insn.memory == "none" and insn.transfer == "none"
        idle = idle and not self._is_pad(insn)
        same = "it does nothing but take its place" if idle and not self._in_slot(index) and not insn.user_text else ""
        return self._with("drop", index, f"without `{insn.text}`", (), same)

    def _swapped(self, index: int) -> Mutant:
        one, other = self.code[index], self.code[index + 1]
        code = (*self.code[:index], other, one, *self.code[index + 2 :])
        same = ""
        if self._in_slot(index) or one.delay_slot:
            pass
        elif other.delay_slot:
            # `one` goes into the slot, and what was there runs when the callee has returned.
            slot = self.code[index + 2]
            if self._untouched_by_call(other, one) and self._untouched_by_call(other, slot):
                same = "the callee changes nothing of what the others use"
        elif self._independent(index):
            same = "the two do not depend on each other"
        elif self._untouched_by_call(one, other) or self._untouched_by_call(other, one):
            same = "the callee changes nothing of what the other uses"
        return Mutant("swap", index, f"`{other.text}` before `{one.text}`", code, same)

    def _independent(self, index: int) -> bool:
        one, other = self.code[index], self.code[index + 1]
        if one.transfer != "none" or other.transfer != "none" or one.user_text or other.user_text:
            return False
        if self._is_pad(one) or self._is_pad(other):
            return False
        if one.writes & (other.reads | other.writes) or other.writes & one.reads:
            return False
        touching = [i for i in (one, other) if i.memory != "none"]
        if not touching:
            return True
        if self.architecture.sp in one.writes | other.writes:
            return False  # what lies below the stack pointer may be overwritten
        if len(touching) < 2 or (one.memory == other.memory == "read"):
            return True
        if one.access is not None and other.access is not None and one.access.base is other.access.base:
            a, b = one.access, other.access
            return a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
        return self._apart(self.footprints.get(index, ()), self.footprints.get(index + 1, ()))

    def _untouched_by_call(self, call: Insn, other: Insn) -> bool:
        """Whether it is all the same to an instruction, and to the callee, which of them comes first."""
        if call.transfer != "call" or call.relocation is None or other.transfer != "none" or other.user_text:
            return False
        callee = self.signatures.get(call.relocation.symbol)
        if callee is None or self.architecture.sp in other.writes:
            return False
        convention = callee.convention
        thread = convention.thread if isinstance(convention.thread, Register) else None
        changed = {*call.reads, *call.writes, *convention.linker_may_write, *(f.register for f in convention.fixed)}
        changed |= {r for r in (convention.return_address, thread, self.architecture.flags) if r is not None}
        changed |= {*convention.integer_arguments, *convention.float_arguments} if callee.parameters else set()
        if callee.clobbers is not None:
            changed |= callee.clobbers
        else:
            changed |= {r for r in self.architecture.registers.values() if convention.keeps(r) != (1 << r.bits) - 1}
        changed -= {r for r in (self.architecture.sp, self.architecture.zero) if r is not None}
        if changed & (other.reads | other.writes):
            return False
        if other.memory == "none":
            return True
        # The callee is given what lies lowest above the stack pointer.
        types = [t.value_type for _, t in callee.parameters]
        result = callee.result.value_type if callee.result is not None else None
        given = max(convention.area, convention.place(types, result).stack_bytes)
        offsets = [other.access.offset] if other.access is not None else _values(other.text)[:1] or [0]
        return self.architecture.sp in other.reads and offsets[0] >= given

    def _apart(self, one: Sequence[Sequence[Footprint]], other: Sequence[Sequence[Footprint]]) -> bool:
        """Whether in no execution the one stored where the other was. An instruction that was never seen touching
        memory, although it does, may have done so unseen."""
        if not one or len(one) != len(other) or not all(one) or not all(other):
            return False
        return not any(
            (a.store or b.store) and a.address < b.address + b.size and b.address < a.address + a.size
            for here, there in zip(one, other, strict=True)
            for a in here
            for b in there
        )

    def _other_numbers(self, index: int, insn: Insn) -> Iterator[Mutant]:
        if insn.relocation is not None or insn.target is not None:
            return
        word = self.architecture.word
        steps = (word, -word, 16, -16) if self.architecture.sp in insn.writes else (word, -word)
        texts = [text for step in dict.fromkeys(steps) for text in _stepped(insn.text, step)]
        operator = "frame size" if self.architecture.sp in insn.writes else "number"
        for text in dict.fromkeys(texts):
            yield self._with(operator, index, f"`{text}` for `{insn.text}`", (_retold(insn, text),))
        if not texts and insn.access is not None:  # an offset of zero is not always written
            for step in (word, -word):
                yield from self._again(index, insn, step, 8 * insn.access.bytes, "number")

    def _again(self, index: int, insn: Insn, step: int, bits: int, operator: str) -> Iterator[Mutant]:
        """The same load or store at another offset, or of another width."""
        access, architecture = insn.access, self.architecture
        if access is None:
            return
        float_ = access.register.bank is not Bank.INTEGER
        offset = access.offset + step
        try:
            if access.kind == "load" and float_:
                made = list(architecture.float_load(access.register, access.base, offset, bits))
            elif access.kind == "load":
                made = list(architecture.load(access.register, access.base, offset, bits, False))
            elif float_:
                made = list(architecture.float_store(access.register, access.base, offset, bits))
            else:
                made = list(architecture.store(access.register, access.base, offset, bits))
        except (ValueError, KeyError):
            return  # there is no such instruction
        if len(made) == 1:
            yield self._with(operator, index, f"`{made[0].text}` for `{insn.text}`", made)

    def _other_registers(self, index: int, insn: Insn) -> Iterator[Mutant]:
        seen = set()
        for register in sorted(insn.reads | insn.writes, key=lambda r: (r.bank.value, r.number)):
            neighbour = self._neighbour(register)
            if neighbour is None:
                continue
            for text in _renamed(insn.text, register, neighbour):
                if text not in seen:
                    seen.add(text)
                    keystone = insn.keystone
                    if keystone is not None and not keystone.startswith("."):
                        again = list(_renamed(keystone, register, neighbour))
                        keystone = again[0] if len(again) == 1 else None
                    else:
                        keystone = None
                    if insn.relocation is None:
                        changed = replace(insn, text=text, keystone=keystone, access=None)
                        yield self._with("register", index, f"`{text}` for `{insn.text}`", (changed,))

    def _neighbour(self, register: Register) -> Register | None:
        bank = self.banks.get(register.bank, {})
        for number in (register.number + 1, register.number - 1):
            if number in bank and bank.get(register.number) is register:
                return bank[number]
        return None

    def _narrowed(self, index: int, insn: Insn) -> Iterator[Mutant]:
        if insn.access is not None and insn.access.bytes > 1 and insn.access.register.bank is not Bank.CONTROL:
            least = 4 if insn.access.register.bank is not Bank.INTEGER else 1
            if insn.access.bytes // 2 >= least:
                yield from self._again(index, insn, 0, 4 * insn.access.bytes, "narrow")

    def _other_bank(self, index: int, insn: Insn) -> Iterator[Mutant]:
        """A floating point save or restore that takes the integer register of the same number."""
        access = insn.access
        if access is None or access.register.bank is not Bank.FLOAT or access.bytes > self.architecture.word:
            return
        integer = self.banks.get(Bank.INTEGER, {}).get(access.register.number)
        if integer is None:
            return
        bits = 8 * access.bytes
        if access.kind == "load":
            made = list(self.architecture.load(integer, access.base, access.offset, bits, False))
        else:
            made = list(self.architecture.store(integer, access.base, access.offset, bits))
        if len(made) == 1:
            yield self._with("bank", index, f"`{made[0].text}` for `{insn.text}`", made)

    def _repeated(self, index: int, insn: Insn) -> Iterator[Mutant]:
        """Twice, where that is not the same as once."""
        if insn.transfer == "none" and insn.reads & insn.writes and not self._in_slot(index):
            yield self._with("repeat", index, f"`{insn.text}` twice", (insn, insn))
        if insn.transfer == "call" and not insn.delay_slot:
            yield self._with("repeat", index, f"`{insn.text}` twice", (insn, insn))

    def _other_ways(self, index: int, insn: Insn) -> Iterator[Mutant]:
        """A branch that goes the other way, or the same way always."""
        if insn.transfer != "branch" or insn.target is None:
            return
        [jump, *rest] = self.architecture.improve([*self.architecture.jump(insn.target)])
        always = replace(jump, delay_slot=insn.delay_slot)
        yield self._with("branch", index, f"`{jump.text}` for `{insn.text}`", (always,))
        skip = ".Lother_way"
        over = replace(
            insn,
            text=_retargeted(insn.text, insn.target, skip),
            keystone=None if insn.keystone is None else _retargeted(insn.keystone, insn.target, skip),
            target=skip,
        )
        slot = self.code[index + 1 : index + 2] if insn.delay_slot else ()
        end = index + 1 + len(slot)
        code = (*self.code[:index], over, *slot, jump, *rest, Insn("", label=skip), *self.code[end:])
        yield Mutant("branch", index, f"`{insn.text}` goes the other way", code)

    def _other_transfers(self, index: int, insn: Insn) -> Iterator[Mutant]:
        """A jump in the place of a call, and a call in the place of a jump."""
        if insn.relocation is None or insn.relocation.symbol not in self.signatures:
            return
        symbol = insn.relocation.symbol
        convention = self.signatures[symbol].convention
        if insn.transfer not in ("call", "jump"):
            return
        make = self.architecture.tail_call if insn.transfer == "call" else self.architecture.call
        try:
            made = list(make(symbol, convention))
        except ValueError:  # with this linkage the machine has none
            return
        yield self._with("transfer", index, f"`{made[-1].text}` for `{insn.text}`", made)

    def _outside_of_the_frame(self, index: int, insn: Insn) -> Iterator[Mutant]:
        """A save before the frame is there, or a restore after it is gone: at the same address, below sp."""
        sp = self.architecture.sp
        if sp not in insn.reads or sp in insn.writes or insn.memory == "none" or insn.transfer != "none":
            return
        if insn.part == "prologue":
            steps = [i for i in range(index) if self._moves_sp(i, "prologue")]
            step = steps[-1] if steps else None
        elif insn.part == "epilogue":
            steps = [i for i in range(index + 1, len(self.code)) if self._moves_sp(i, "epilogue")]
            step = steps[0] if steps else None
        else:
            return
        if step is None or self._in_slot(step) or self._in_slot(index):
            return
        size = max(abs(value) for value in _values(self.code[step].text))
        offsets = _values(insn.text)
        if insn.access is None and len(offsets) != 1:
            return
        offset = insn.access.offset if insn.access is not None else offsets[0]
        moved = list(_stepped(insn.text, -size))
        if len(moved) != 1:
            return
        outside = _retold(insn, moved[0])
        rest = [i for n, i in enumerate(self.code) if n != index]
        code = (*rest[:step], outside, *rest[step:])  # an epilogue's step is one earlier by now: this is behind it
        same = ""
        if offset - size >= 0:
            same = "its place is in the caller's area, above the stack pointer all the time"
        elif offset - size >= -self.convention.red_zone:
            same = "the convention's red zone reaches that far below the stack pointer"
        yield Mutant("outside of the frame", index, f"`{outside.text}` for `{insn.text}`", code, same)

    def _moves_sp(self, index: int, part: str) -> bool:
        insn, sp = self.code[index], self.architecture.sp
        if insn.label is not None or insn.part != part or sp not in insn.writes or insn.transfer != "none":
            return False
        return len(set(_values(insn.text))) == 1 and self._only_sp(insn)

    def _only_sp(self, insn: Insn) -> bool:
        others = insn.writes - {self.architecture.sp, self.architecture.flags}
        return not others and insn.memory == "none"


# ------------------------------------------------------------------------------------------------- texts and numbers

_NUMBER = re.compile(r"([+-]?)(?<![\w.%$@])(0x[0-9a-fA-F]+|[0-9]+)(?![\w.])")


def _values(text: str) -> list[int]:
    return [int(m[2], 0) * (-1 if m[1] == "-" else 1) for m in _NUMBER.finditer(text)]


def _stepped(text: str, step: int) -> Iterator[str]:
    """The text with one of its numbers changed by `step`, for each of them."""
    for match in _NUMBER.finditer(text):
        sign, value = match[1], int(match[2], 0)
        value = (-value if sign == "-" else value) + step
        before = text[: match.start()]
        added = bool(sign) and re.search(r"[\w\]).]\s*$", before) is not None  # `esp+4`, `.+8`, and not `#-4`
        shown = ("-" if value < 0 else "+" if added else "") + (hex(abs(value)) if abs(value) > 9 else str(abs(value)))
        yield before + shown + text[match.end() :]


def _renamed(text: str, register: Register, by: Register) -> Iterator[str]:
    """The text with one mention of a register replaced, for each of them. Parts of a register (d8 of v8) are known by
    their number."""
    spelled = re.escape(register.gnu)
    names = [rf"(?<![\w%$]){spelled}(?![\w])"]
    number = re.fullmatch(r"(\W?[a-z]+)(\d+)", register.gnu)
    if number is not None:
        names.append(rf"(?<![\w%$])(?:[a-z]){number[2]}(?![\w])")
    places: dict[int, tuple[int, str]] = {}
    for match in re.finditer(names[0], text):
        places[match.start()] = (match.end(), by.gnu)
    if len(names) > 1:
        other = re.fullmatch(r"(\W?[a-z]+)(\d+)", by.gnu)
        for match in re.finditer(names[1], text):
            if other is not None and match.start() not in places:
                places[match.start()] = (match.end(), match[0][0] + other[2])
    for start, (end, new) in places.items():
        yield text[:start] + new + text[end:]


def _retold(insn: Insn, text: str) -> Insn:
    """The same instruction with another text, and whatever Keystone makes of that."""
    return replace(insn, text=text, keystone=None, access=None)


def _retargeted(text: str, label: str, by: str) -> str:
    return re.sub(rf"(?<![\w.$]){re.escape(label)}(?![\w.$])", lambda _: by, text)


def _numbered(architecture: Architecture) -> dict[Bank, dict[int, Register]]:
    banks: dict[Bank, dict[int, Register]] = {}
    for register in architecture.registers.values():
        if register.bank is not Bank.CONTROL:
            banks.setdefault(register.bank, {}).setdefault(register.number, register)
    return banks
