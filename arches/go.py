"""Go's conventions as far as they are the same on all machines: ABI0, and on those that have it ABIInternal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trampoline_dsl.target import Assignment, Convention, InRegister, Location, OnStack, Part, ValueType, aligned

REGISTERS = "Go's register convention, ABIInternal"
REGISTERS_SOURCE = 'Go: cmd/compile/abi-internal.md, "Function call argument and result passing", and internal/abi'
NO_REGISTERS = "Go's ABIInternal, which has no registers on this machine: as go0"


def whole(offset: int, value: ValueType) -> Location:
    """A value in memory, in one part."""
    return (Part(OnStack(offset), 0, value.bits),)


def assign_go0(
    convention: Convention,
    arguments: Sequence[ValueType],
    result: ValueType | None,
    *,
    word: int,
    stored: Callable[[int, ValueType], Location] = whole,
) -> Assignment:
    """Go's stack convention, ABI0: cmd/compile/abi-internal.md, "Stack layout", and doc/asm: arguments, then results
    from the next word on, in memory like the fields of one struct; nothing is widened. No type is aligned to more than
    a word (cmd/compile/internal/types/size.go, CalcSize): on machines of 32 bits int64 and float64 are to four bytes.

    `word` in bytes; `stored`: the parts of a value that is so many bytes above the CFA.
    """
    places: list[Location] = []
    top = convention.first_stack_argument
    for value in arguments:
        top = aligned(top, min(value.bits // 8, word))
        places.append(stored(top, value))
        top += value.bits // 8
    top = aligned(top, word)
    if result is None:
        return Assignment(tuple(places), (), top)
    return Assignment(tuple(places), stored(top, result), aligned(top + result.bits // 8, word))


def assign_goregs(
    convention: Convention,
    arguments: Sequence[ValueType],
    result: ValueType | None,
    *,
    left: bool = False,
    as_double: bool = False,
) -> Assignment:
    """abi-internal.md, "Function call argument and result passing": two independent sequences of registers; what finds
    none is in memory like the fields of a struct, results behind arguments; above all of it the caller has room for
    the callee to spill the arguments that came in registers. Nothing is widened.

    `left`: a single is in the upper half of its register. `as_double`: it is held as the double of the same value.
    """
    word = max(register.bits for register in convention.integer_arguments) // 8
    integers, floats = iter(convention.integer_arguments), iter(convention.float_arguments)
    places: list[Location] = []
    spilled: list[ValueType] = []
    top = convention.first_stack_argument
    for value in arguments:
        register = next(floats if value.kind == "float" else integers, None)
        if register is not None:
            single = value.kind == "float" and value.bits == 32
            place = InRegister(register, left and single)
            places.append((Part(place, 0, value.bits, as_double=as_double and single),))
            spilled.append(value)
            continue
        top = aligned(top, value.bits // 8)
        places.append((Part(OnStack(top), 0, value.bits),))
        top += value.bits // 8
    top = aligned(top, word)
    for value in spilled:
        top = aligned(top, value.bits // 8) + value.bits // 8
    back: Location = ()
    if result is not None:
        registers = convention.float_results if result.kind == "float" else convention.integer_results
        single = result.kind == "float" and result.bits == 32
        back = (Part(InRegister(registers[0], left and single), 0, result.bits, as_double=as_double and single),)
    return Assignment(tuple(places), back, aligned(top, word))
