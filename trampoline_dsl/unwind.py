"""Unwind information read and followed: from a place in code, the registers and the memory to the caller.

It reads what was emitted, the directives in the text or the call frame instructions in an object, and has nothing of
how they were made. DWARF 5, 6.4.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from .target import ByteOrder

Kind = Literal["same", "undefined", "offset", "value offset", "register", "expression", "value expression"]


class UnwindError(Exception):
    """Unwind information that means nothing; the text says why."""


class Place(NamedTuple):
    """Where a register of the caller is found. `number`: bytes from the CFA, or another register."""

    kind: Kind
    number: int = 0
    expression: bytes = b""


_SAME = Place("same")


@dataclass(frozen=True)
class Frame:
    """What holds from one place in the code on. The CFA is `offset` bytes above register `register`, or what
    `expression` gives. A register that is not in `places` is as it was."""

    register: int
    offset: int
    expression: bytes = b""
    places: Mapping[int, Place] = field(default_factory=dict)

    def place(self, number: int) -> Place:
        return self.places.get(number, _SAME)


@dataclass(frozen=True)
class Table:
    """The frames of one function, by the offset in bytes from which on each holds; None where nothing is said, for the
    reason `unsaid`. `at_calls`: they have to hold at calls only."""

    starts: tuple[int, ...]
    frames: tuple[Frame | None, ...]
    unsaid: str = "there is no unwind information for this instruction"
    at_calls: bool = False

    @property
    def unread(self) -> str:
        """Why there is not one frame."""
        return self.unsaid if not any(self.frames) else ""

    def at(self, offset: int) -> Frame:
        """What holds at an offset. Raises UnwindError where nothing is said."""
        index = bisect_right(self.starts, offset) - 1
        frame = self.frames[index] if index >= 0 else None
        if frame is None:
            raise UnwindError(self.unsaid)
        return frame


class Instruction(NamedTuple):
    """One call frame instruction: its name in DWARF 5, 7.24, without `DW_CFA_`, and its operands: numbers as they are
    in the file, not yet multiplied by any factor, or the bytes of an expression."""

    name: str
    operands: tuple[int | bytes, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """What a file says of the code from `start` to `end` (addresses): a frame description entry and its common
    information entry. DWARF 5, 6.4.1; LSB, "Exception Frames"."""

    start: int
    end: int
    initial: tuple[Instruction, ...]
    instructions: tuple[Instruction, ...]
    code_factor: int
    data_factor: int

    def table(self) -> Table:
        """The rows; they count from `start`. Raises UnwindError."""
        frame = Frame(0, 0)
        for instruction in self.initial:
            frame = _applied(*self._scaled(instruction), frame, frame, [])
        entry, remembered = frame, list[Frame]()
        at, starts, frames = 0, [0], [frame]
        for instruction in self.instructions:
            name, operands = self._scaled(instruction)
            if name == "set_loc":
                at = _whole(operands[0]) - self.start
            elif name.startswith("advance_loc"):
                at += _whole(operands[0]) * self.code_factor
            else:
                frame = _applied(name, operands, frame, entry, remembered)
            if at == starts[-1]:
                frames[-1] = frame
            else:
                starts.append(at)
                frames.append(frame)
        return Table(tuple(starts), tuple(frames))

    def _scaled(self, instruction: Instruction) -> tuple[str, tuple[int | bytes, ...]]:
        """An instruction with distances in bytes, by the name of those that mean the same."""
        name, operands = instruction
        if name in ("offset", "offset_extended", "offset_extended_sf", "val_offset", "val_offset_sf"):
            register, distance = operands
            plain = "val_offset" if name.startswith("val") else "offset"
            return plain, (register, _whole(distance) * self.data_factor)
        if name == "GNU_negative_offset_extended":
            register, distance = operands
            return "offset", (register, -_whole(distance) * self.data_factor)
        if name in ("def_cfa_sf", "def_cfa_offset_sf"):
            return name.removesuffix("_sf"), (*operands[:-1], _whole(operands[-1]) * self.data_factor)
        return name.removesuffix("_extended"), operands


def table_of(descriptions: Iterable[Description], start: int, end: int) -> Table | None:
    """What is said of the code from `start` to `end` (addresses), by offsets from `start`; None if nothing is. Raises
    UnwindError."""
    rows: dict[int, Frame | None] = {}
    for description in sorted(descriptions, key=lambda d: d.start):
        if description.end <= start or end <= description.start:
            continue
        table = description.table()
        for offset, frame in zip(table.starts, table.frames, strict=True):
            place = description.start + offset
            if place < min(end, description.end):
                rows[max(place, start) - start] = frame
        if description.end < end:
            rows[description.end - start] = None
    if not rows:
        return None
    rows = {0: None, **rows}
    return Table(tuple(sorted(rows)), tuple(rows[place] for place in sorted(rows)))


@dataclass(frozen=True)
class Machine:
    """What a walk knows of the machine at rest: the value of a register by its number, and its memory."""

    register: Callable[[int], int]
    read: Callable[[int, int], bytes]
    word: int
    order: ByteOrder

    def load(self, address: int, size: int) -> int:
        return int.from_bytes(self.read(address, size), self.order)

    @cached_property
    def mask(self) -> int:
        """All bits of an address."""
        return (1 << 8 * self.word) - 1


def cfa(frame: Frame, machine: Machine) -> int:
    """The canonical frame address. Raises UnwindError."""
    if frame.expression:
        return evaluate(frame.expression, machine, None)
    return machine.register(frame.register) + frame.offset & machine.mask


def recovered(frame: Frame, number: int, top: int, size: int, machine: Machine) -> int | None:
    """What a register held in the caller, of which `size` bytes are kept; None if nobody knows. `top` is the CFA.
    Raises UnwindError."""
    place = frame.place(number)
    match place.kind:
        case "same":
            return machine.register(number)
        case "undefined":
            return None
        case "offset":
            return machine.load(top + place.number & machine.mask, size)
        case "value offset":
            return top + place.number & machine.mask
        case "register":
            return machine.register(place.number)
        case "expression":
            return machine.load(evaluate(place.expression, machine, top), size)
        case "value expression":
            return evaluate(place.expression, machine, top)


# ------------------------------------------------------------------------------------------------------- directives

_DIRECTIVE = re.compile(r"\.cfi_(\w+)\s*(.*)")


def read_directives(directives: Iterable[tuple[int, str]], start: Frame) -> Table:
    """The directives of one function, each with the offset of the instruction that it stands before. `start` is what
    the assembler takes for granted. Raises UnwindError."""
    frame = start
    starts, frames = [0], [start]
    remembered: list[Frame] = []
    for offset, text in directives:
        frame = _directed(text, frame, start, remembered)
        if offset == starts[-1]:
            frames[-1] = frame
        else:
            starts.append(offset)
            frames.append(frame)
    return Table(tuple(starts), tuple(frames))


def _directed(text: str, frame: Frame, start: Frame, remembered: list[Frame]) -> Frame:
    match = _DIRECTIVE.match(text.strip())
    if match is None:
        raise UnwindError(f"`{text}` is no directive of call frame information")
    what, operands = match[1], _operands(match[2])
    match what, operands:
        case "adjust_cfa_offset", [step]:
            return replace(frame, offset=frame.offset + step)
        case "rel_offset", [register, offset]:
            return _applied("offset", (register, offset - frame.offset), frame, start, remembered)
        case (("restore" | "undefined" | "same_value"), [_, *_]):
            for register in operands:
                frame = _applied(what, (register,), frame, start, remembered)
            return frame
        case "escape", [*data] if data:
            return _escaped(bytes(data), frame)
        case (("expression" | "val_expression" | "def_cfa_expression"), _):
            raise UnwindError(f"`{text}` is not understood")  # no assembler's
        case _:
            return _applied(what, tuple(operands), frame, start, remembered)


def _applied(name: str, operands: Sequence[int | bytes], frame: Frame, start: Frame, remembered: list[Frame]) -> Frame:
    """What a call frame instruction makes of what held before it. DWARF 5, 6.4.2; distances are in bytes. `start` is
    what the common information entry says."""
    places = dict(frame.places)
    match name, operands:
        case "def_cfa", [int(register), int(offset)]:
            return replace(frame, register=register, offset=offset, expression=b"")
        case "def_cfa_register", [int(register)]:
            return replace(frame, register=register, expression=b"")
        case "def_cfa_offset", [int(offset)]:
            return replace(frame, offset=offset)
        case "def_cfa_expression", [bytes(expression)]:
            return replace(frame, expression=expression)
        case "offset", [int(register), int(offset)]:
            places[register] = Place("offset", offset)
        case "val_offset", [int(register), int(offset)]:
            places[register] = Place("value offset", offset)
        case "register", [int(register), int(other)]:
            places[register] = Place("register", other)
        case "expression", [int(register), bytes(expression)]:
            places[register] = Place("expression", 0, expression)
        case "val_expression", [int(register), bytes(expression)]:
            places[register] = Place("value expression", 0, expression)
        case "restore", [int(register)]:
            places.pop(register, None)
            if register in start.places:
                places[register] = start.places[register]
        case "undefined", [int(register)]:
            places[register] = Place("undefined")
        case "same_value", [int(register)]:
            places[register] = Place("same")
        case "remember_state", []:
            remembered.append(frame)
        case "restore_state", [] if remembered:
            return remembered.pop()
        case (("nop" | "GNU_args_size" | "AARCH64_negate_ra_state" | "AARCH64_negate_ra_state_with_pc"), _):
            # What a callee may take off the stack in C++'s landing pads; and whether the return address is signed,
            # which it is nowhere here: no machine signs unless its system has switched that on.
            return frame
        case _:
            shown = ", ".join(o.hex(" ") if isinstance(o, bytes) else str(o) for o in operands)
            raise UnwindError(f"the call frame instruction `{f'{name} {shown}'.strip()}` is not understood")
    return replace(frame, places=places)


def _whole(operand: int | bytes) -> int:
    if isinstance(operand, bytes):
        raise UnwindError("an expression stands where a number is expected")
    return operand


def _operands(text: str) -> list[int]:
    text = re.split(r"[#@;]|//|/\*", text)[0].strip()
    try:
        return [int(part, 0) for part in text.split(",")] if text else []
    except ValueError:
        raise UnwindError(f"`{text}` are no numbers") from None


def _escaped(data: bytes, frame: Frame) -> Frame:
    """One call frame instruction as bytes: DWARF 5, 7.24."""
    if data[0] == 0x0F:
        return _applied("def_cfa_expression", (_block(data, 1),), frame, frame, [])
    if data[0] in (0x10, 0x16):
        register, at = _unsigned(data, 1)
        name = "expression" if data[0] == 0x10 else "val_expression"
        return _applied(name, (register, _block(data, at)), frame, frame, [])
    raise UnwindError(f"call frame instruction {data[0]:#x} is not understood")


def _block(data: bytes, at: int) -> bytes:
    size, at = _unsigned(data, at)
    if at + size != len(data):
        raise UnwindError(f"an expression of {size} bytes is told, and {len(data) - at} are there")
    return data[at:]


# ------------------------------------------------------------------------------------------------------ expressions

_SIMPLE: Mapping[int, Callable[[int, int], int]] = {  # DWARF 5, 2.5.1.4: the operands as they lie, the top one second
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b,
    0x25: lambda a, b: a >> b,
    0x27: lambda a, b: a ^ b,
}
_COMPARED: Mapping[int, Callable[[int, int], bool]] = {
    0x29: lambda a, b: a == b,
    0x2A: lambda a, b: a >= b,
    0x2B: lambda a, b: a > b,
    0x2C: lambda a, b: a <= b,
    0x2D: lambda a, b: a < b,
    0x2E: lambda a, b: a != b,
}


def evaluate(expression: bytes, machine: Machine, initial: int | None) -> int:
    """What a DWARF expression leaves on its stack, which begins with `initial`, if there is one. DWARF 5, 2.5.
    Raises UnwindError."""
    stack: list[int] = [] if initial is None else [initial]
    at = 0
    try:
        while at < len(expression):
            at = _operate(expression, at, stack, machine)
        return stack[-1]
    except IndexError:
        raise UnwindError(f"the expression {expression.hex(' ')} takes more than there is") from None


def _operate(code: bytes, at: int, stack: list[int], machine: Machine) -> int:
    operation, at = code[at], at + 1
    mask = machine.mask
    if operation in _SIMPLE:
        b, a = stack.pop(), stack.pop()
        stack.append(_SIMPLE[operation](a, b) & mask)
    elif operation in _COMPARED:
        b, a = _number(stack.pop(), machine), _number(stack.pop(), machine)
        stack.append(int(_COMPARED[operation](a, b)))
    elif 0x30 <= operation <= 0x4F:
        stack.append(operation - 0x30)
    elif 0x70 <= operation <= 0x8F:
        offset, at = _signed(code, at)
        stack.append(machine.register(operation - 0x70) + offset & mask)
    elif operation == 0x92:
        register, at = _unsigned(code, at)
        offset, at = _signed(code, at)
        stack.append(machine.register(register) + offset & mask)
    elif operation == 0x06:
        stack.append(machine.load(stack.pop(), machine.word))
    elif operation == 0x94:
        size, at = code[at], at + 1
        stack.append(machine.load(stack.pop(), size))
    elif 0x08 <= operation <= 0x0F:
        size = 1 << (operation - 0x08) // 2
        value = int.from_bytes(code[at : at + size], machine.order, signed=bool(operation & 1))
        stack.append(value & mask)
        at += size
    elif operation == 0x10:
        value, at = _unsigned(code, at)
        stack.append(value)
    elif operation == 0x11:
        value, at = _signed(code, at)
        stack.append(value & mask)
    elif operation == 0x12:
        stack.append(stack[-1])
    elif operation == 0x13:
        stack.pop()
    elif operation == 0x16:
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif operation == 0x1F:
        stack.append(-stack.pop() & mask)
    elif operation == 0x20:
        stack.append(~stack.pop() & mask)
    elif operation == 0x23:
        value, at = _unsigned(code, at)
        stack.append(stack.pop() + value & mask)
    elif operation == 0x28:
        distance = int.from_bytes(code[at : at + 2], machine.order, signed=True)
        at += 2
        if stack.pop():
            at += distance
    elif operation != 0x96:  # DW_OP_nop
        raise UnwindError(f"operation {operation:#x} of an expression is not understood")
    return at


def _number(value: int, machine: Machine) -> int:
    return value - (1 << 8 * machine.word) if value >> (8 * machine.word - 1) else value


def _unsigned(data: Sequence[int], at: int) -> tuple[int, int]:
    """ULEB128, and where it ends. DWARF 5, 7.6."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise UnwindError("a number has no end")
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _signed(data: Sequence[int], at: int) -> tuple[int, int]:
    """SLEB128, and where it ends. DWARF 5, 7.6."""
    start = at
    value, at = _unsigned(data, at)
    bits = 7 * (at - start)
    return (value - (1 << bits) if value >> (bits - 1) & 1 else value), at


__all__ = [
    "Description",
    "Frame",
    "Instruction",
    "Machine",
    "Place",
    "Table",
    "UnwindError",
    "cfa",
    "evaluate",
    "read_directives",
    "recovered",
    "table_of",
]
