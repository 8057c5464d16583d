"""Whether a walk from before each instruction of a run finds the caller: the obligation `unwind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from . import exidx, pdata, unwind
from .activations import Activation
from .emulate import MachineError
from .judge import Execute
from .machine_code import Code
from .stays import Stays
from .target import Architecture, ByteOrder, Convention, Register, Unwinding, WindowsUnwinding
from .violation import Violation
from .watchers import Watcher

MOST_FOUND = 4  # in one run; more of them say nothing new
_MOST_AT_ONCE = 0x1000  # bytes of a stack that are read at once
_ABOVE = 4  # words above the CFA, where some conventions have places for a callee's registers


@lru_cache(maxsize=64)
def described(architecture: Architecture) -> Unwinding:
    return architecture.unwinding()


def at_entry(architecture: Architecture, convention: Convention) -> unwind.Frame:
    """What assemblers take for granted where a function begins."""
    numbers = described(architecture)
    if convention.return_address is not None:
        return unwind.Frame(numbers.sp, numbers.bias)
    pc = unwind.Place("offset", -architecture.word)
    return unwind.Frame(numbers.sp, architecture.word, places={numbers.return_column: pc})


@lru_cache(maxsize=64)
def _read_directives(
    directives: tuple[tuple[int, str], ...], architecture: Architecture, convention: Convention
) -> unwind.Table:
    return unwind.read_directives(directives, at_entry(architecture, convention))


class Found(NamedTuple):
    """The caller that a walk finds: its stack pointer, where it goes on, and what a register of which the bits of a
    mask are kept held in it; None where nobody knows. `sp_told`: what the stack pointer's own rule says, where it has
    one. `told_else`: what a register held by rules for other numbers than its own, which has none. `frame`: the
    rules and the CFA, of call frame information."""

    sp: int
    pc: int | None
    register: Callable[[Register, int], int | None]
    sp_told: Callable[[], int | None] | None = None
    told_else: Callable[[Register, int], int | None] = lambda *_: None
    frame: tuple[unwind.Frame, int] | None = None


class _Wanted(NamedTuple):
    """A register that a caller wants back: its bits that are kept, what they are, its number, bytes of it in memory,
    and the numbers that it may be described by instead. `image`: its image in memory, if all of that matters."""

    register: Register
    mask: int
    right: int
    number: int
    size: int
    also: tuple[int, ...]
    image: bytes


class _AtHand:
    """The registers that one caller wants back, and which of them are right at once. From one walk to the next little
    changes: where a register is found is looked up again when its rule is another one, and registers are compared again
    when some hold other values."""

    def __init__(self, wanted: tuple[_Wanted, ...], numbers: Unwinding, order: ByteOrder) -> None:
        self.all = wanted
        self.registers = tuple(one.register for one in wanted)
        self.of_saved, self.order = numbers.of_saved, order
        self.rights = [one.right for one in wanted]
        self.by_number = {one.number: one for one in wanted}
        self.in_pieces = [one for one in wanted if one.also]
        # Of the last walk: the rules; by number, where a register is whole in memory, from the CFA; those for which
        # there are other rules. And, if no register was wrong there: the stack, and what registers held.
        self.places: Mapping[int, unwind.Place] = {}
        self.saved: dict[int, tuple[int, bytes]] = {}
        self.elsewhere: dict[int, _Wanted] = {}
        self.stack = 0, b""
        self.unchanged: Sequence[int] | None = None

    def others(
        self, places: Mapping[int, unwind.Place], distance: int, values: Sequence[int], stack: bytes
    ) -> Sequence[_Wanted]:
        """Those that are not seen to be right: by `places`, by what the registers hold, and by the stack from the stack
        pointer on, which is `distance` bytes below the CFA."""
        if places is not self.places:
            self._follow(places)
        is_at, room = stack.startswith, len(stack)
        doubtful = set[int]()
        if (distance, stack) != self.stack:
            for number, (offset, image) in self.saved.items():
                if offset + distance < 0 or not is_at(image, offset + distance):
                    doubtful.add(number)
            for number, one in self.elsewhere.items():
                place = places[number]
                start = distance + place.number
                if place.kind == "offset" and 0 <= start <= room - one.size:
                    held = self.of_saved(one.register, int.from_bytes(stack[start : start + one.size], self.order))
                    if not (held ^ one.right) & one.mask:
                        continue
                doubtful.add(number)
            self.stack = (0, b"") if doubtful else (distance, stack)
        if values is not self.unchanged:
            wrong = () if values == self.rights else self._changed(places, values)
            doubtful.update(wrong)
            self.unchanged = None if wrong else values
        for one in self.in_pieces:
            if one.number not in places:
                rules = [places.get(number) for number in one.also]
                if any(rules) and not all(_is_in(rule, distance, room - one.size) for rule in rules):
                    doubtful.add(one.number)
        return [one for one in self.all if one.number in doubtful] if doubtful else ()

    def _changed(self, places: Mapping[int, unwind.Place], values: Sequence[int]) -> list[int]:
        """The numbers of those without a rule that hold something else."""
        return [
            one.number
            for one, right, value in zip(self.all, self.rights, values, strict=True)
            if value != right and (value ^ right) & one.mask and one.number not in places
        ]

    def _follow(self, places: Mapping[int, unwind.Place]) -> None:
        """Other rules hold, most of which are the same."""
        before = self.places
        changed = [number for number, place in places.items() if before.get(number) is not place]
        changed += before.keys() - places.keys()
        for number in changed:
            self.saved.pop(number, None)
            self.elsewhere.pop(number, None)
            one, rule = self.by_number.get(number), places.get(number)
            if one is None or rule is None:
                continue
            if one.image and rule.kind == "offset":
                self.saved[number] = rule.number, one.image
            else:
                self.elsewhere[number] = one
        self.places, self.stack, self.unchanged = places, (0, b""), None


def _is_in(rule: unwind.Place | None, distance: int, room: int) -> bool:
    """Whether a register is in memory from `distance` bytes below the CFA on, and begins at most `room` bytes above."""
    return rule is not None and rule.kind == "offset" and 0 <= distance + rule.number <= room


class Walker(Watcher):
    """Walks from before every instruction of a run to the caller of what runs, by the code's own unwind information;
    and as from the midst of what it calls. By an index table only from there, from system calls and from what a user
    wrote: elsewhere it need not hold."""

    def __init__(self, run: Execute, stays: Stays | None = None) -> None:
        self.run = run
        self.stays = stays or Stays(run)
        self.found: list[Violation] = []
        self.walked = 0
        architecture = run.architecture
        self.tables: dict[str, unwind.Table] = {}
        self.indexes: dict[str, unwind.Table] = {}
        self.functions: dict[str, tuple[pdata.Function, ...]] = {}
        self.numbers = described(architecture)
        self.windows = self.numbers if isinstance(self.numbers, WindowsUnwinding) else None
        self.sp = 0  # at the instruction that is walked from
        self.registers = {number: register for register, number in self.numbers.numbers.items()}
        self.machine = unwind.Machine(self._register, self._read, architecture.word, architecture.order)
        self.live = True  # whether what is below the stack pointer counts as gone
        # By what the caller's registers are.
        self.wanted: tuple[Mapping[Register, int], _AtHand] | None = None
        # By who runs: where it goes on after a call, with which stack pointer.
        self.of_callee = False  # the walk is as from the midst of a callee
        self.table = ""  # which one says it, where there are two
        self.called: dict[int, tuple[Activation, int, int]] = {}

    def _register(self, number: int) -> int:
        if number == self.numbers.sp:
            return self.sp
        register = self.registers.get(number)
        if register is None:
            raise unwind.UnwindError(f"there is no register {number}")
        return self.run.machine.get(register)

    def _read(self, address: int, size: int) -> bytes:
        sp = self.sp
        if self.live and address < sp and any(address in region and sp in region for region in self.run.stack_of):
            raise unwind.UnwindError(f"it reads {sp - address} bytes below the stack pointer, where nothing is safe")
        return self.run.machine.read(address, size)

    def instruction(self, address: int) -> None:
        place = self.run.bench.listing.get(address)
        activation = self.run.innermost()
        if place is None or activation is None or len(self.found) >= MOST_FOUND:
            return
        self.stays.follow(activation)
        self.sp = self.run.machine.sp
        code, index = place
        if code.unwinding is None or self.run.in_delay_slot():
            return
        try:
            if self.windows is None:
                self._walk_from_callee(code, index, activation)
            if not (isinstance(code.unwinding, unwind.Table) and code.unwinding.at_calls):
                self._walk(code, code.offsets[index], activation)
            insn = code.instructions[index]
            if code.index is not None and (insn.transfer == "system" or insn.user_text):
                self._walk(code, code.offsets[index], activation, by_index=True)
        except (unwind.UnwindError, MachineError) as error:
            self._violate(address, f"the walk to the caller fails: {error}")
            self.of_callee = False

    def _walk_from_callee(self, code: Code, index: int, activation: Activation) -> None:
        """Behind a call: by what is said of the call itself, when the callee has changed what it may. If it has taken
        arguments off the stack, that cannot be seen any more."""
        sp, offset = self.sp, code.offsets[index]
        # As long as it is kept, no other activation has its number.
        if self.called.pop(id(activation), None) == (activation, offset, sp):
            self.of_callee = True
            self._walk(code, offset - 1, activation)
            if code.index is not None:
                self._walk(code, offset - 1, activation, by_index=True)
            self.of_callee = False
        insn = code.instructions[index]
        if insn.transfer == "call":
            last = index + insn.delay_slot
            behind = next((other for other in code.offsets[last + 1 :] if other > code.offsets[last]), offset)
            self.called[id(activation)] = activation, behind, sp

    def _table(self, code: Code, convention: Convention) -> unwind.Table:
        if code.name not in self.tables:
            said = code.unwinding
            assert said is not None
            if not isinstance(said, unwind.Table):
                assert isinstance(said, tuple)
                said = _read_directives(said, self.run.architecture, convention)
            self.tables[code.name] = said
        return self.tables[code.name]

    def _index(self, code: Code) -> unwind.Table:
        if code.name not in self.indexes:
            names = {register.gnu: number for number, register in self.registers.items()}
            self.indexes[code.name] = exidx.read_directives(code.index or (), names)
        return self.indexes[code.name]

    def _by_frames(self, frame: unwind.Frame) -> Found:
        """By call frame information, or what says the same."""
        numbers, machine = self.numbers, self.machine
        top = unwind.cfa(frame, machine)
        pc = unwind.recovered(frame, numbers.return_column, top, machine.word, machine)

        def saved(register: Register, number: int, size: int) -> int | None:
            value = unwind.recovered(frame, number, top, size, machine)
            if value is not None and frame.place(number).kind in ("offset", "expression"):
                value = numbers.of_saved(register, value)
            return value

        def held(register: Register, mask: int) -> int | None:
            return saved(register, numbers.numbers[register], numbers.saved_bytes(register, mask))

        def told_else(register: Register, mask: int) -> int | None:
            also = numbers.also.get(register, ())
            if numbers.numbers[register] in frame.places or not also or any(n not in frame.places for n in also):
                return None
            step = numbers.saved_bytes(register, mask) // len(also)
            pieces = [saved(register, number, step) for number in also]
            whole = sum((piece or 0) << 8 * step * place for place, piece in enumerate(pieces))
            return None if None in pieces else whole

        def sp_told() -> int | None:
            return unwind.recovered(frame, numbers.sp, top, machine.word, machine)

        # Where the CFA is not the caller's stack pointer, that one has a rule of its own.
        sp = top - numbers.bias & machine.mask
        return Found(sp, pc, held, sp_told if numbers.bias else None, told_else, (frame, top))

    def _by_tables(self, code: Code, offset: int, numbers: WindowsUnwinding) -> Found:
        """By Windows' tables of functions. Without an entry, a function has no frame."""
        if code.name not in self.functions:
            said = code.unwinding
            if isinstance(said, unwind.Table):
                raise unwind.UnwindError(said.unsaid)
            if not isinstance(said, pdata.Entries):
                assert said is not None
                size = len(code.code)
                said = pdata.read_directives(said, size, numbers.tables, numbers.names) if said else pdata.Entries(())
            start = self.run.executed[-1] - offset
            self.functions[code.name] = tuple(pdata.moved(entry, start) for entry in said.functions)
        self.live = not isinstance(code.unwinding, pdata.Entries)
        pc = self.run.executed[-1]
        context = pdata.Context(pc, self._register, self._read)
        caller = pdata.unwound(pdata.find(self.functions[code.name], pc), context, numbers.tables)
        return Found(caller.get(numbers.sp), caller.pc, lambda register, _: caller.get(numbers.numbers[register]))

    def _walk(self, code: Code, offset: int, activation: Activation, *, by_index: bool = False) -> None:
        run = self.run
        address = run.executed[-1]
        self.walked += 1
        if code.index is not None:
            self.table = "by .ARM.exidx, " if by_index else "by call frame information, "
        if self.windows is not None:
            caller = self._by_tables(code, offset, self.windows)
        else:
            # Compilers leave it at the places of saved registers when these have been restored already.
            self.live = not isinstance(code.unwinding, unwind.Table)
            table = self._index(code) if by_index else self._table(code, activation.function.convention)
            caller = self._by_frames(table.at(offset))
        pc = caller.pc
        if run.leaves_for_good():
            if pc is not None:
                self._violate(address, "the walk goes on from a stack that nobody was called on", found=pc)
            return
        callers = self.stays.callers(activation)
        found = (caller.sp, pc)
        if found not in [(sp, place) for sp, place, _ in callers]:
            sp, place, _ = next((one for one in callers if one[0] == found[0]), callers[0])
            if found[0] != sp:
                name = run.architecture.sp.name
                message = "the walk finds the caller's stack pointer at another place"
                self._violate(address, message, register=name, expected=sp, found=found[0])
            else:
                message = "the walk finds another return address"
                if pc is None:
                    message = "the walk ends here"
                self._violate(address, message, expected=place, found=pc)
            return
        if not any(keeps for sp, place, keeps in callers if (sp, place) == found):
            return
        self._check_chain(activation, address)
        if caller.sp_told is not None:
            self._check_sp(caller.sp_told(), caller.sp, address)
        for register, mask, right, *_ in self._not_at_hand(activation, caller.frame):
            value = caller.register(register, mask)
            found_in = (value, caller.told_else(register, mask))
            if all(one is None or (one ^ right) & mask for one in found_in):
                self._violate(
                    address,
                    f"the walk finds another {register.name} than the caller's",
                    register=register.name,
                    expected=right & mask,
                    found=None if value is None else value & mask,
                )

    def _wanted(self, activation: Activation) -> _AtHand:
        """The registers that a walk has to find. Whoever walks finds the table of contents by what is at the return
        address. ELFv2 ABI, 2.3."""
        rights = activation.registers
        if self.wanted is None or self.wanted[0] is not rights:
            numbers, architecture = self.numbers, self.run.architecture
            wanted = tuple(
                self._wanted_one(register, mask, rights[register])
                for register, mask in activation.function.convention.kept.items()
                if register in numbers.numbers and register in rights
                if register not in (architecture.sp, architecture.toc)
            )
            self.wanted = rights, _AtHand(wanted, numbers, self.run.order)
        return self.wanted[1]

    def _wanted_one(self, register: Register, mask: int, right: int) -> _Wanted:
        numbers = self.numbers
        size = numbers.saved_bytes(register, mask)
        kept = right & mask
        whole = mask == (1 << 8 * size) - 1 and numbers.of_saved(register, kept) & mask == kept
        image = kept.to_bytes(size, self.run.order) if whole else b""
        return _Wanted(register, mask, right, numbers.numbers[register], size, numbers.also.get(register, ()), image)

    def _not_at_hand(self, activation: Activation, said: tuple[unwind.Frame, int] | None) -> Sequence[_Wanted]:
        """Those of the registers that are not seen to be right at once: unchanged, or in memory that is read in one
        piece. There are dozens, and for most of them that is all."""
        wanted = self._wanted(activation)
        if said is None:
            return wanted.all
        frame, top = said
        values = self.run.machine.read_registers(wanted.registers)
        stack = self._stack(self.sp, top + _ABOVE * self.run.word)
        return wanted.others(frame.places, top - self.sp, values, stack)

    def _stack(self, sp: int, end: int) -> bytes:
        """What is on the stack up to an address, as far as it is mapped; nothing where that would be much."""
        region = next((region for region in self.run.stack_of if sp in region), None)
        if region is None or not sp < end <= sp + _MOST_AT_ONCE:
            return b""
        return self.run.machine.read(sp, min(end, region.end) - sp)

    def _check_chain(self, activation: Activation, address: int) -> None:
        """Whoever walks by frame records comes to the caller's too. In the midst of a switch of contexts the records
        are still those of the one that was left."""
        function, word = activation.function, self.run.word
        pointer = function.convention.frame_pointer
        if pointer is None or pointer not in activation.registers or function.suspension is not None:
            return
        if not self._kept_by_all(pointer):
            return  # a callee has lost it, by its right
        value, right = self.run.machine.get(pointer), activation.registers[pointer]
        if value == right:
            return
        try:
            record = [int.from_bytes(self._read(value + offset, word), self.run.order) for offset in (0, word)]
        except (unwind.UnwindError, MachineError):
            record = []
        if record != [right, activation.return_address]:
            message = f"{pointer.name} neither is the caller's nor points to a frame record that leads there"
            self._violate(address, message, register=pointer.name, expected=right, found=value)

    def _kept_by_all(self, register: Register) -> bool:
        program = self.run.build.program
        signatures = (*program.externs.values(), *self.run.anonymous.values())
        conventions = {s.convention for s in signatures} | {f.convention for f in program.functions.values()}
        return all(convention.keeps(register) for convention in conventions)

    def _check_sp(self, value: int | None, sp: int, address: int) -> None:
        if value != sp:
            name = self.run.architecture.sp.name
            message = f"the walk finds another {name} than the caller's"
            self._violate(address, message, register=name, expected=sp, found=value)

    def _violate(
        self,
        address: int,
        message: str,
        *,
        register: str | None = None,
        expected: int | None = None,
        found: int | None = None,
    ) -> None:
        message = self.table + message
        made = self.run.violation("unwind", message, pc=address, register=register, expected=expected, found=found)
        if self.of_callee:
            made = replace(made, message=f"from what it calls, {message}")
        if all(other.register != register or other.message not in (message, made.message) for other in self.found):
            self.found.append(made)
