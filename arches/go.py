"""Go's register convention, ABIInternal, as far as it is the same on every machine that has one."""

from __future__ import annotations

from collections.abc import Sequence

from trampoline_dsl.target import Assignment, Convention, InRegister, Location, OnStack, Part, ValueType

REGISTERS = "Go's register convention, ABIInternal"
REGISTERS_SOURCE = 'Go: cmd/compile/abi-internal.md, "Function call argument and result passing", and internal/abi'
NO_REGISTERS = "Go's ABIInternal, which has no registers on this machine: as go0"


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
        top = _aligned(top, value.bits // 8)
        places.append((Part(OnStack(top), 0, value.bits),))
        top += value.bits // 8
    top = _aligned(top, word)
    for value in spilled:
        top = _aligned(top, value.bits // 8) + value.bits // 8
    back: Location = ()
    if result is not None:
        registers = convention.float_results if result.kind == "float" else convention.integer_results
        single = result.kind == "float" and result.bits == 32
        back = (Part(InRegister(registers[0], left and single), 0, result.bits, as_double=as_double and single),)
    return Assignment(tuple(places), back, _aligned(top, word))


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
