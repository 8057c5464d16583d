"""Values in the places that a convention gives them, put there and looked for there: the obligation `args`."""

from __future__ import annotations

from . import ir
from .effects import Effects
from .target import Convention, InRegister, Location, OnStack, Part, Register


class Passing(Effects):
    """Arguments, results, and registers of known values."""

    def _put(self, part: Part, value: int, type_: ir.Type, cfa: int, values: dict[Register, int]) -> None:
        """Place a part of an argument, with garbage wherever the convention promises nothing."""
        piece = (value >> part.low) & ((1 << part.bits) - 1)
        piece = self._represent(part, piece)
        match part.place:
            case InRegister(register, left):
                if part.extend_to:
                    piece = _extended(piece, part)
                    width = part.extend_to
                else:
                    width = 64 if part.as_double else part.bits
                garbage = values.get(register, self.random.getrandbits(register.bits))
                shift = self._left_shift(register, left, width)
                mask = ((1 << width) - 1) << shift
                values[register] = garbage & ~mask | (piece << shift) & mask
            case OnStack(offset):
                width = part.extend_to or part.bits
                if part.extend_to:
                    piece = _extended(piece, part)
                data = (piece & ((1 << width) - 1)).to_bytes(width // 8, self.order)
                self.machine.write(cfa + offset, data)

    def _check_value(self, what: str, value: int, type_: ir.Type, location: Location, cfa: int) -> None:
        for part in location:
            piece = self._represent(part, (value >> part.low) & ((1 << part.bits) - 1))
            if part.extend_to:
                piece = _extended(piece, part)
            width = part.extend_to or (64 if part.as_double else part.bits)
            register = memory = None
            match part.place:
                case InRegister(place, left):
                    register = place.name
                    found = self.machine.get(place) >> self._left_shift(place, left, width)
                case OnStack(offset):
                    memory = cfa + offset
                    found = int.from_bytes(self.machine.read(memory, width // 8), self.order)
            found &= (1 << width) - 1
            piece &= (1 << width) - 1
            if found != piece:
                where = register or f"memory at sp + {memory - cfa if memory is not None else 0}"
                recording = self.witness is not None and not self.witness.recorded
                wrong = "not extended as its convention wants it" if recording else "not what the source says"
                self._violate(
                    "args",
                    f"{what} ({type_}) in {where} is {wrong}",
                    register=register,
                    memory=memory,
                    expected=piece,
                    found=found,
                )

    def _check_stacks(self, what: str, convention: Convention, results: Location) -> None:
        """x86: nothing is on the x87 stack at calls and returns but a result."""
        if not self.bench.stacks:
            return
        wanted = sum(isinstance(p.place, InRegister) and p.place.register in self.bench.stacks for p in results)
        found = self.machine.x87_depth
        if found != wanted:
            message = f"{what} with {found} values on the x87 stack, where {convention.name} has {wanted}"
            self._violate("args" if found < wanted else "preserve", message, expected=wanted, found=found)

    def _fix(self, values: dict[Register, int], convention: Convention, code: int) -> None:
        for fixed in convention.fixed:
            value = code & fixed.code_mask if fixed.code_mask else fixed.value
            values[fixed.register] = values.get(fixed.register, 0) & ~fixed.mask | value & fixed.mask

    def _check_fixed(self, obligation: str, what: str, convention: Convention, entry: int) -> None:
        """What a convention fixes, where something is entered or left. `entry`: the address of the function's code."""
        for fixed in convention.fixed:
            if fixed.register not in self.bench.masks:
                continue
            want = entry & fixed.code_mask if fixed.code_mask else fixed.value
            found = self.machine.get(fixed.register)
            if (found ^ want) & fixed.mask:
                self._violate(
                    obligation,
                    f"{what} with {fixed.register.name} not as {convention.name} wants it: {fixed.why}",
                    register=fixed.register.name,
                    expected=want & fixed.mask,
                    found=found & fixed.mask,
                )


def _extended(piece: int, part: Part) -> int:
    if part.extend_signed and piece >> (part.bits - 1):
        piece -= 1 << part.bits
    return piece & ((1 << part.extend_to) - 1)
