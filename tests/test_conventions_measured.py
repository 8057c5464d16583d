"""Every `c` table, derived anew from Debian's cross compilers.

One C text per target has all the functions; the emulator runs them (`measure`). What a compiler cannot show (control
registers, which compiled code never writes, and what linkers and kernels do) is named in `NOT_MEASURED` and the like,
with the reason beside it. Elsewhere the tables say what the document says and nothing is skipped.

Arguments are measured from both sides. A compiled caller calls the stub: each argument is looked for where `place` says
it is. A compiled callee gets noise everywhere but in those places, and above what `extend_to` promises: if it reads
anything else it stores a wrong value. Results likewise.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
from measure import CFA, DESCRIPTOR, NOISE, RETURN, STUB, Arrival, Laboratory, build, targets

from trampoline_dsl.target import Architecture, Assignment, Bank, InRegister, OnStack, Part, Register, ValueType
from trampoline_dsl.targets import find_target

# ---------------------------------------------------------------------------------------------------------- signatures

TYPES: Mapping[str, ValueType] = {
    f"{sign}{bits}": ValueType("int", bits, sign == "i") for bits in (8, 16, 32, 64) for sign in "iu"
} | {"f32": ValueType("float", 32), "f64": ValueType("float", 64)}
NARROW = ("i8", "u8", "i16", "u16", "i32", "u32")


@dataclass(frozen=True)
class Signature:
    arguments: tuple[str, ...]
    result: str | None

    def __str__(self) -> str:
        return f"({', '.join(self.arguments)}) -> {self.result or 'nothing'}"


def _written(text: str) -> Signature:
    arguments, _, result = text.partition("->")
    return Signature(tuple(arguments.split()), result.strip() or None)


WRITTEN = (
    *(f"{name} -> {name}" for name in TYPES),
    # more of one kind than any machine has registers for, and each narrow type in memory
    " ".join(["i64"] * 16),
    " ".join(["i32"] * 16) + " -> u64",
    " ".join(["f64"] * 18) + " -> f32",
    " ".join(["f32"] * 18) + " -> f64",
    *(" ".join(["i64"] * 9 + [name, name]) for name in NARROW),
    " ".join(["f64"] * 14 + ["f32", "i8", "f32", "u16"]),
    # i64 and doubles on 32-bit machines: alignment, skipped registers, halves in memory
    "i32 i64 -> i64",
    "i64 i32 i64",
    "i32 i32 i32 i64 i32",
    "i32 i64 i32 i32",
    "i32 i32 i64 i32 i64",
    "u8 i64 u16 i64 i8",
    "i32 i32 i32 i32 i32 i64 i32 i64",
    # o32: floats after an integer, two floats and then others; back-filling of arm's singles
    "f32 i32",
    "f64 i32",
    "i32 f64",
    "i32 f32 f64",
    "f32 f32 f32 f32",
    "f64 f64 f64 i32",
    "f32 f64 f32 f64 f32",
    "f32 f64 f64 f64 f64 f64 f64 f64 f32 f32 f32 f64",
    "f32 f64 f64 f64 f64 f64 f64 f64 f64 f32 f32",
    "f64 f32 i64 f32",
    # shared positions and independent sequences
    "i32 f64 i32 f64",
    "f64 i64 f32 i64 f64 i8 f32 u8",
    "i8 f32 u16 f64 i64 f32 i32 f64 u8 f32 i16 f64",
    "u32 u32 u32 u32 u32 u32 u32 u32 u32 u32 -> u32",
    "i16 u16 i8 u8 i32 u32 i16 u16 i8 u8 i32 u32 -> i16",
)


def _drawn(count: int) -> Iterator[Signature]:
    draw = random.Random(20)
    for _ in range(count):
        names = tuple(draw.choices(list(TYPES), k=draw.choice((2, 3, 4, 5, 6, 8, 11, 14, 18))))
        yield Signature(names, draw.choice([None, *TYPES]))


SIGNATURES = (*map(_written, WRITTEN), *_drawn(40))
RESULT = 31  # the element of the arrays that results go through

# ------------------------------------------------------------------------------------------------ what is not measured

# Compiled code neither writes these nor can be told that an `asm` does: their rows rest on the documents alone.
NOT_MEASURED: Mapping[str, str] = {
    "eflags": "gcc takes flags to be lost at every call",
    "apsr": "gcc takes flags to be lost at every call",
    "nzcv": "gcc takes flags to be lost at every call",
    "cc": "gcc takes flags to be lost at every call",
    "xer": "gcc knows its carry only, and takes it to be lost at every call",
    "mxcsr": "control and status: gcc never writes it",
    "fpcw": "control: gcc writes it only inside conversions, and puts it back there",
    "fpscr": "control and status: gcc never writes it",
    "fpcr": "control: gcc never writes it",
    "fpsr": "status: gcc never writes it",
    "fcsr": "control and status: gcc never writes it",
    "fpc": "control and status: gcc never writes it",
    "pm": "control: gcc never writes it",
    "vscr": "control and status: gcc never writes it",
    "vrsave": "gcc does not save it on Linux, where nothing reads it",
    "tpidr_el0": "the thread pointer",
    "a0": "the thread pointer's upper half",
    "a1": "the thread pointer's lower half",
}

# What gcc is not asked to save by an `asm`, and where that is measured instead.
OTHERWISE_MEASURED: Mapping[tuple[str, str], str] = {
    ("arm64", "x29"): "gcc ignores it as a clobber under -fomit-frame-pointer: `frame_pointer` makes it change",
    ("mips64", "gp"): "gcc refuses it as a clobber: every position-independent function changes it",
    ("mips64le", "gp"): "gcc refuses it as a clobber: every position-independent function changes it",
    ("ppc64", "r2"): "gcc refuses it as a clobber: the stub changes it, and callers put it back",
    ("ppc64le", "r2"): "gcc refuses it as a clobber: the stub changes it, and callers put it back",
}

# Registers that nobody may write, so that they are as they were although no function saves them. gcc takes x18 for a
# temporary, as AAPCS64 lets it on a platform that gives it no role.
UNTOUCHED = {"x18", "r13", "k0", "k1"}


def _why_no_clobber(architecture: Architecture, register: Register) -> str | None:
    convention = architecture.conventions["c"]
    if register == architecture.sp:
        return "every function brings it back"
    if register == convention.return_address:
        return "the callee needs it to return"
    if register in convention.reserved:
        return f"reserved: {convention.reserved[register]}"
    otherwise = OTHERWISE_MEASURED.get((architecture.name, register.name))
    return otherwise or (NOT_MEASURED.get(register.name) if register.bank is Bank.CONTROL else None)


def _gcc_name(architecture: Architecture, register: Register) -> str:
    if architecture.family == "mips" and register.bank is Bank.INTEGER:
        return f"${register.number}"
    if architecture.family == "mips" and register.bank is Bank.FLOAT:
        return f"$f{register.number}"
    if architecture.family == "ppc64" and register.bank is Bank.FLOAT:
        return f"fr{register.number}"
    return {"st0": "st"}.get(register.name, register.name)


def _registers(architecture: Architecture) -> list[Register]:
    return sorted(set(architecture.registers.values()), key=lambda r: (r.bank.value, r.number, r.name))


def _clobbered(architecture: Architecture) -> list[Register]:
    return [register for register in _registers(architecture) if _why_no_clobber(architecture, register) is None]


# ---------------------------------------------------------------------------------------------------------- the C text

LEAVES = range(8, 353, 8)  # bytes of locals of functions that call nothing
LOCALS = (4, 8, 16, 24, 40, 64, 100)  # bytes of locals of functions that call the stub

PREAMBLE = """
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16;
typedef int i32; typedef unsigned u32; typedef long long i64; typedef unsigned long long u64;
typedef float f32; typedef double f64;
volatile u64 in[32]; volatile i64 out[32];
volatile f32 fin[32], fout[32]; volatile f64 din[32], dout[32];
void *volatile target;
"""


def _array(kind: str, direction: str) -> str:
    return {"f32": "f", "f64": "d"}.get(kind, "") + direction


def _signature_text(index: int, signature: Signature, attribute: str = "") -> Iterator[str]:
    result = signature.result or "void"
    parameters = ", ".join(f"{kind} a{n}" for n, kind in enumerate(signature.arguments)) or "void"
    stores = " ".join(f"{_array(kind, 'out')}[{n}] = a{n};" for n, kind in enumerate(signature.arguments))
    back = f"return ({result}) {_array(result, 'in')}[{RESULT}];" if signature.result else ""
    yield f"{result} {attribute} callee_{index}({parameters}) {{ {stores} {back} }}"
    # The cast of a 64-bit value leaves what is above the type to the compiler: it is clean only if it has to be.
    values = ", ".join(f"({kind}) {_array(kind, 'in')}[{n}]" for n, kind in enumerate(signature.arguments))
    store = f"{_array(result, 'out')}[{RESULT}] = " if signature.result else ""
    call = f"(({result} ({attribute} *)({', '.join(signature.arguments) or 'void'})) target)({values})"
    yield f"void caller_{index}(void) {{ {store}{call}; }}"


def _text(architecture: Architecture) -> str:
    convention = architecture.conventions["c"]
    lines = [PREAMBLE]
    for index, signature in enumerate(SIGNATURES):
        lines += _signature_text(index, signature)
    clobbered = _clobbered(architecture)
    for register in clobbered:
        asm = f'asm volatile("here_{register.name}: nop" ::: "{_gcc_name(architecture, register)}");'
        lines.append(f"void clobber_{register.name}(void) {{ {asm} }}")
    every = ", ".join(f'"{_gcc_name(architecture, register)}"' for register in clobbered)
    asm = f'asm volatile("here_all: nop" ::: {every});'
    lines.append(f"void clobber_all(void) {{ ((void (*)(void)) target)(); {asm} }}")
    lines.append(
        "void frame_pointer(void) { char *room = __builtin_alloca(in[0]);"
        ' asm volatile("here_frame_pointer: nop" :: "r" (room) : "memory"); }'
    )
    for size in LEAVES:
        lines.append(f"i32 leaf_{size}(void) {{ volatile u8 a[{size}]; a[0] = 0x5A; a[{size - 1}] = 0x5A; return 0; }}")
    for size in LOCALS:
        check = f"u64 sum = 0; for (int n = 0; n < {size}; n++) sum += a[n] == (u8) (n + 1); out[0] = sum;"
        lines.append(
            f"void locals_{size}(void) {{ volatile u8 a[{size}]; for (int n = 0; n < {size}; n++) a[n] = n + 1;"
            f' asm volatile("" :: "r" (a) : "memory"); ((void (*)(void)) target)(); {check} }}'
        )
    lines.append(
        "void variadic(long n, ...) { __builtin_va_list v; __builtin_va_start(v, n);"
        " while (n--) { out[0] = __builtin_va_arg(v, long); dout[0] = __builtin_va_arg(v, double); } }"
    )
    integers, floats = len(convention.integer_results), len(convention.float_results)
    if integers == 2 and architecture.word == 8:
        lines.append("struct two { i64 a, b; } two_words(void) { return (struct two) {in[0], in[1]}; }")
    if floats == 2:
        lines.append("_Complex double floats(void) { return __builtin_complex(din[0], din[1]); }")
    if floats == 4:
        lines.append("struct four { f64 a, b, c, d; };")
        lines.append("struct four floats(void) { return (struct four) {din[0], din[1], din[2], din[3]}; }")
    return "\n".join([*lines, ""])


@cache
def laboratory(name: str) -> Laboratory:
    target = find_target(name)
    return Laboratory(target, build(target, _text(target.architecture)))


@pytest.fixture(params=targets())
def lab(request: pytest.FixtureRequest) -> Laboratory:
    return laboratory(request.param)


def report(found: Sequence[str]) -> None:
    """Fail with all that was found."""
    assert not found, f"{len(found)} differ\n" + "\n".join(found[:40])


# ---------------------------------------------------------------------------------------------------- values in places


def _low(value: int, bits: int) -> int:
    return value & (1 << bits) - 1


def _widened(value: int, bits: int, to: int, signed: bool) -> int:
    negative = signed and value >> (bits - 1) & 1
    return _low(value | -1 << bits if negative else value, to)


def _as_double(single: int) -> int:
    [value] = struct.unpack(">f", single.to_bytes(4, "big"))
    return int.from_bytes(struct.pack(">d", value), "big")


def _draw(draw: random.Random, kind: ValueType) -> int:
    """The bits of a value: all kinds of integers, normal numbers as floats."""
    if kind.kind == "int":
        return draw.getrandbits(64)  # the caller's source is wider than the type: what is above it is dirt
    number = draw.uniform(-1e9, 1e9)
    return int.from_bytes(struct.pack(">f" if kind.bits == 32 else ">d", number), "big")


def _wanted(part: Part, value: int) -> tuple[int, int]:
    """What the place of a part holds for such a value, and how many bits of it that is."""
    piece = _low(value >> part.low, part.bits)
    if part.as_double:
        return _as_double(piece), 64
    if part.extend_to:
        return _widened(piece, part.bits, part.extend_to, part.extend_signed), part.extend_to
    return piece, part.bits


def _found(lab: Laboratory, part: Part, registers: Mapping[Register, int], cfa: int) -> int:
    """What is in the place of a part, bits above it included where it is a register."""
    match part.place:
        case InRegister(register, left):
            return registers[register] >> (register.bits - part.bits if left else 0)
        case OnStack(offset):
            return lab.number(cfa + offset, (part.extend_to or part.bits) // 8)


def _deliver(lab: Laboratory, parts: Sequence[Part], value: int, cfa: int, draw: random.Random) -> dict[Register, int]:
    """Put the parts of a value into their places, with noise in the rest of each register."""
    registers: dict[Register, int] = {}
    for part in parts:
        wanted, bits = _wanted(part, value)
        match part.place:
            case InRegister(register, left):
                noise = registers.get(register, draw.getrandbits(register.bits))
                shift = register.bits - bits if left else 0
                registers[register] = noise & ~(((1 << bits) - 1) << shift) | wanted << shift
            case OnStack(offset):
                lab.put(cfa + offset, wanted, bits // 8)
    return registers


def _element_bytes(kind: ValueType) -> int:
    return kind.bits // 8 if kind.kind == "float" else 8


def _put_in(lab: Laboratory, name: str, index: int, value: int) -> None:
    lab.put_element(_array(name, "in"), index, value, _element_bytes(TYPES[name]))


def _came_out(lab: Laboratory, name: str, index: int, value: int) -> str | None:
    """Whether C read the value as its type has it: it stores integers as 64 bits."""
    kind = TYPES[name]
    found = lab.element(_array(name, "out"), index, _element_bytes(kind))
    wanted = value if kind.kind == "float" else _widened(_low(value, kind.bits), kind.bits, 64, kind.signed)
    return None if found == wanted else f"{name} {found:#x} instead of {wanted:#x}"


def _places(lab: Laboratory, signature: Signature) -> Assignment:
    kinds = [TYPES[name] for name in signature.arguments]
    return lab.convention.place(kinds, TYPES[signature.result] if signature.result else None)


# -------------------------------------------------------------------------------------------------- arguments, results


def _run_caller(lab: Laboratory, index: int, values: Sequence[int]) -> Arrival:
    start = lab.enter(f"caller_{index}")
    for n, (name, value) in enumerate(zip(SIGNATURES[index].arguments, values, strict=True)):
        _put_in(lab, name, n, value)
    lab.run_prepared(start, STUB, {})
    return lab.arrival()


def test_callers_put_arguments_where_the_table_says_and_find_results_there(lab: Laboratory) -> None:
    measure_callers(lab)


def measure_callers(lab: Laboratory, leave_out: Callable[[Signature], bool] = lambda _: False) -> None:
    draw = random.Random(1)
    found = []
    for index, signature in enumerate(SIGNATURES):
        if leave_out(signature):
            continue
        assignment = _places(lab, signature)
        values = [_draw(draw, TYPES[name]) for name in signature.arguments]
        arrival = _run_caller(lab, index, values)
        for n, (location, value) in enumerate(zip(assignment.arguments, values, strict=True)):
            for part in location:
                wanted, bits = _wanted(part, value)
                there = _found(lab, part, arrival.registers, arrival.cfa)
                if _low(there, bits) != wanted:
                    found.append(f"{signature}: argument {n}: {part}: {there:#x} instead of {wanted:#x}")
        result = _draw(draw, TYPES[signature.result]) if signature.result else 0
        lab.answer(arrival, assignment.stack_bytes, _deliver(lab, assignment.result, result, arrival.cfa, draw))
        if signature.result and (wrong := _came_out(lab, signature.result, RESULT, result)):
            found.append(f"{signature}: the result was read as {wrong}")
        found += [f"{signature}: caller: {broken}" for broken in lab.broken_promises()]
    report(found)


def test_callees_take_arguments_from_there_and_leave_results_there(lab: Laboratory) -> None:
    measure_callees(lab)


def measure_callees(lab: Laboratory, leave_out: Callable[[Signature], bool] = lambda _: False) -> None:
    draw = random.Random(2)
    found = []
    for index, signature in enumerate(SIGNATURES):
        if leave_out(signature):
            continue
        assignment = _places(lab, signature)
        values = [_draw(draw, TYPES[name]) for name in signature.arguments]
        start = lab.enter(f"callee_{index}")
        registers: dict[Register, int] = {}
        for location, value in zip(assignment.arguments, values, strict=True):
            for register, whole in _deliver(lab, location, value, CFA, draw).items():
                registers[register] = _joined(location, register, registers.get(register), whole)
        result = _draw(draw, TYPES[signature.result]) if signature.result else 0
        if signature.result:
            _put_in(lab, signature.result, RESULT, result)
        lab.run_prepared(start, RETURN, registers)
        for n, (name, value) in enumerate(zip(signature.arguments, values, strict=True)):
            if wrong := _came_out(lab, name, n, value):
                found.append(f"{signature}: argument {n}, at {assignment.arguments[n]}: read as {wrong}")
        after = lab.machine.get_many(lab.machine.observable)
        for part in assignment.result:
            wanted, bits = _wanted(part, result)
            there = _found(lab, part, after, CFA)
            if _low(there, bits) != wanted:
                found.append(f"{signature}: result: {part}: {there:#x} instead of {wanted:#x}")
        in_memory = assignment.stack_bytes - lab.convention.first_stack_argument
        popped = in_memory if lab.convention.callee_pops else 0
        found += [f"{signature}: callee: {broken}" for broken in lab.broken_promises(popped)]
        outside = [
            offset
            for offset in lab.written_above()
            if offset >= lab.convention.area
            and not lab.convention.first_stack_argument <= offset < assignment.stack_bytes
        ]
        if outside:
            found.append(f"{signature}: callee writes {outside} bytes above the CFA")
    report(found)


def _joined(location: Sequence[Part], register: Register, before: int | None, new: int) -> int:
    """Two singles can share a register (arm): keep the half that an earlier argument has."""
    if before is None:
        return new
    half = register.bits // 2
    left = any(isinstance(part.place, InRegister) and part.place.left for part in location)
    high, low = (new, before) if left else (before, new)
    return high >> half << half | _low(low, half)


def test_signatures_reach_every_register_and_stack_arguments(lab: Laboratory) -> None:
    """Otherwise the two tests above would say nothing about some of the tables' entries."""
    assignments = [_places(lab, signature) for signature in SIGNATURES]
    parts = [part for a in assignments for location in a.arguments for part in location]
    used = {part.place.register for part in parts if isinstance(part.place, InRegister)}
    offsets = [part.place.offset for part in parts if isinstance(part.place, OnStack)]
    convention = lab.convention
    assert {*convention.integer_arguments, *convention.float_arguments} <= used
    # ELFv1 and ELFv2: where integers begin, the ninth doubleword; floats beyond the thirteenth come later still
    assert convention.first_stack_argument == min(offsets)


def test_results_of_several_words_use_the_registers_in_this_order(lab: Laboratory) -> None:
    """Values of the language are scalars, so only what is hidden in structs and complex numbers shows the others."""
    draw = random.Random(3)
    cases = [("two_words", lab.convention.integer_results, "i64"), ("floats", lab.convention.float_results, "f64")]
    for function, registers, name in cases:
        if function not in lab.image.symbols:
            continue
        values = [_draw(draw, TYPES[name]) for _ in registers]
        start = lab.enter(function)
        for n, value in enumerate(values):
            _put_in(lab, name, n, value)
        lab.run_prepared(start, RETURN, {})
        for register, value in zip(registers, values, strict=True):
            assert _low(lab.machine.get(register), register.bits) == _low(value, register.bits), (function, register)


# ------------------------------------------------------------------------------------------------------- narrow values


@pytest.mark.parametrize("name", NARROW)
def test_narrow_arguments_are_widened_as_far_as_callees_rely_on_it(lab: Laboratory, name: str) -> None:
    """Between what callers do and what callees need there may be room (gcc widens i8 on amd64, and trusts nobody):
    `extend_to` has to be in it."""
    kind = TYPES[name]
    index = next(n for n, signature in enumerate(SIGNATURES) if signature == Signature((name,), name))
    [[part]] = _places(lab, SIGNATURES[index]).arguments
    size = part.place.register.bits if isinstance(part.place, InRegister) else 8 * lab.convention.slot
    promised = part.extend_to or part.bits
    draw = random.Random(4)
    widths = [width for width in (8, 16, 32, 64) if kind.bits <= width <= size]
    done = relied = size
    for width in reversed(widths):
        values = [draw.getrandbits(64) for _ in range(8)]
        if not all(_caller_widens(lab, index, part, width, value) for value in values):
            done = max(narrower for narrower in widths if narrower < width)
        if all(_callee_content(lab, index, part, width, value, size) for value in values):
            relied = width
    assert relied <= promised <= done, (
        f"callees rely on {relied} bits, {promised} are promised, callers widen to {done}"
    )


def _extension_sign(part: Part, kind: ValueType) -> bool:
    return part.extend_signed if part.extend_to else kind.signed


def _caller_widens(lab: Laboratory, index: int, part: Part, width: int, value: int) -> bool:
    kind = TYPES[SIGNATURES[index].arguments[0]]
    arrival = _run_caller(lab, index, [value])
    match part.place:
        case InRegister(register):
            there = arrival.registers[register]
        case OnStack(offset):
            there = lab.number(arrival.cfa + offset, lab.convention.slot)
    wanted = _widened(_low(value, kind.bits), kind.bits, width, _extension_sign(part, kind))
    return _low(there, width) == wanted


def _callee_content(lab: Laboratory, index: int, part: Part, width: int, value: int, size: int) -> bool:
    """Whether a callee reads the value right when it is widened to `width` bits, with their inverse above them."""
    name = SIGNATURES[index].arguments[0]
    kind = TYPES[name]
    signed = _extension_sign(part, kind)
    whole = _widened(_low(value, kind.bits), kind.bits, size, signed)
    dirty = _low(whole, width) | ~whole & (1 << size) - 1 & -(1 << width)
    start = lab.enter(f"callee_{index}")
    registers = {}
    match part.place:
        case InRegister(register):
            registers[register] = dirty
        case OnStack(offset):
            lab.put(CFA + offset, dirty, lab.convention.slot)
    lab.run_prepared(start, RETURN, registers)
    return _came_out(lab, name, 0, value) is None


# ------------------------------------------------------------------------------------------------------ kept registers


def test_kept_registers_are_those_that_functions_bring_back_bit_by_bit(lab: Laboratory) -> None:
    """Each register has a function with an `asm` that is said to change it. All its bits are inverted there. They
    start as zeros and as ones, for what is not kept may be a constant afterwards: `ldr d8` clears v8's upper half."""
    found = []
    for register in _clobbered(lab.architecture):
        function, here = f"clobber_{register.name}", lab.image.symbols[f"here_{register.name}"]
        every = (1 << register.bits) - 1
        changed = 0
        for start in (0, every):
            lab.call(function, here, {} if register.name == "st0" else {register: start})
            _invert(lab, [register])
            lab.run(here, RETURN)
            changed |= lab.changes([register])[register]
            found += [f"{function}: {broken}" for broken in lab.broken_promises()]
        # The x87 registers are a stack, which is empty at a return: what was its top is gone.
        kept = ~changed & every if register.name != "st0" else 0
        if kept != lab.convention.keeps(register):
            found.append(f"{register.name}: {kept:#x} kept, {lab.convention.keeps(register):#x} in the table")
    report(found)


def _invert(lab: Laboratory, registers: Sequence[Register]) -> None:
    values = lab.machine.get_many(registers)
    lab.machine.set_many({register: ~value & (1 << register.bits) - 1 for register, value in values.items()})


def test_registers_without_such_a_function_are_the_known_ones(lab: Laboratory) -> None:
    """A row that nothing measures has to have its reason in this file."""
    architecture, convention = lab.architecture, lab.convention
    measured = set(_clobbered(architecture))
    assert convention.return_address not in convention.kept
    special = {architecture.sp, convention.return_address, *convention.reserved}
    for register in set(architecture.registers.values()) - measured - special:
        control = register.bank is Bank.CONTROL and register.name in NOT_MEASURED
        assert control or (architecture.name, register.name) in OTHERWISE_MEASURED, register
    for register in convention.reserved:
        if convention.keeps(register) and register != architecture.sp:
            known = register.name in UNTOUCHED | NOT_MEASURED.keys()
            assert known or (architecture.name, register.name) in OTHERWISE_MEASURED, register


def test_all_registers_at_once_are_saved_where_the_convention_has_places_for_them(lab: Laboratory) -> None:
    clobbered = _clobbered(lab.architecture)
    here = lab.image.symbols["here_all"]
    lab.call("clobber_all", STUB)
    start = lab.initial
    arrival = lab.arrival()
    saved = lab.convention.save_area
    for register, offset in saved.items():
        if lab.convention.keeps(register) or register in (lab.convention.return_address, lab.architecture.sp):
            assert _in_save_area(lab, register, offset) == start[register], register
    lab.machine.on_instruction(lambda _address, _size: _invert(lab, clobbered), here, here)
    lab.answer(arrival, 0, {})
    report(lab.broken_promises())


def _in_save_area(lab: Laboratory, register: Register, offset: int) -> int:
    if register.bank is Bank.CONTROL and register.bits == 4:
        # A field of CR, which is saved as a whole in a word: field 0 is the most significant one.
        return lab.number(CFA + offset, 4) >> 4 * (7 - register.number) & 0xF
    return lab.number(CFA + offset, register.bits // 8)


def test_registers_that_callers_use_otherwise_come_back(lab: Laboratory) -> None:
    """gp and arm64's x29: over many runs every bit has been changed inside, and those that are kept none at the end."""
    cases = {"x29": ("frame_pointer", "here_frame_pointer"), "gp": ("caller_0", "")}
    for name, (function, label) in cases.items():
        register = lab.architecture.registers.get(name)
        if register is None:
            continue
        inside = afterwards = 0
        for _ in range(40):
            start = lab.enter(function)
            lab.put_element("in", 0, 64, 8)
            lab.run_prepared(start, lab.image.symbols[label] if label else STUB, {})
            inside |= lab.changes([register])[register]
            if label:
                lab.run(lab.image.symbols[label], RETURN)
            else:
                lab.answer(lab.arrival(), 0, {})
            afterwards |= lab.changes([register])[register]
        assert inside == (1 << register.bits) - 1
        assert lab.convention.keeps(register) == inside & ~afterwards


# ----------------------------------------------------------------------------------------------------- stack and areas


def _calling_functions(lab: Laboratory) -> list[str]:
    return [f"caller_{n}" for n in range(len(SIGNATURES))] + [f"locals_{size}" for size in LOCALS] + ["clobber_all"]


def test_frames_keep_the_alignment_and_no_more(lab: Laboratory) -> None:
    """The greatest common divisor of what callers move sp by is what they keep sp aligned to."""
    distances = []
    for function in _calling_functions(lab):
        lab.call(function, STUB)
        distances.append(CFA - lab.arrival().cfa)
    assert math.gcd(*distances) == lab.convention.alignment


def test_calls_through_pointers_bring_what_the_convention_says(lab: Laboratory) -> None:
    convention = lab.convention
    code = [(address, address + len(data)) for address, data, _ in lab.image.segments]
    for function in _calling_functions(lab):
        lab.call(function, STUB)
        arrival = lab.arrival()
        assert any(start < arrival.return_address < end for start, end in code), function
        if convention.call_through is not None:
            assert arrival.registers[convention.call_through] == STUB, function
        chain = lab.number(arrival.cfa, lab.word) == CFA
        assert chain == convention.back_chain, function
        toc = lab.architecture.toc
        if toc is not None and convention.toc_slot is not None:
            assert lab.number(arrival.cfa + convention.toc_slot, lab.word) == lab.toc, function
            if convention.descriptors:
                assert arrival.registers[toc] == lab.stub_toc, function
                assert arrival.registers[lab.architecture.registers["r11"]] == lab.environment, function
            lab.answer(arrival, 0, {})
            assert lab.machine.get(toc) == lab.toc, function
            assert convention.keeps(toc) == (1 << toc.bits) - 1
    pointer = lab.element("target", 0, lab.word)
    assert pointer == (DESCRIPTOR if convention.descriptors else STUB)


def test_callers_leave_the_area_to_callees_and_own_what_is_above_it(lab: Laboratory) -> None:
    """Noise in the area does no harm; and right above it is the first byte that a caller needs afterwards."""
    spared = {lab.convention.toc_slot}
    needed: list[int] = []
    for size in LOCALS:
        lab.call(f"locals_{size}", STUB)
        arrival = lab.arrival()
        reads: list[int] = []
        hook = lab.machine.on_read(_noting(reads))
        lab.answer(arrival, 0, {})
        hook.remove()
        needed += [address - arrival.cfa for address in reads]
        assert lab.element("out", 0, 8) == size, f"locals of {size} bytes did not survive"
        report(lab.broken_promises())
    assert min(offset for offset in needed if 0 <= offset < NOISE and offset not in spared) == lab.convention.area


def _noting(addresses: list[int]) -> Callable[[int, int, int], None]:
    return lambda address, _size, _pc: addresses.append(address)


def test_callees_use_the_area_to_its_end(lab: Laboratory) -> None:
    """A variadic function stores what its register arguments may be. Where its caller has an area they go there, up to
    the first argument in memory; ELFv2 makes the area longer for such functions only, so `area` is without it."""
    convention = lab.convention
    start = lab.enter("variadic")
    [count] = convention.place([ValueType("int", 8 * lab.word)], None).arguments
    registers = _deliver(lab, count, 0, CFA, random.Random(5))
    lab.run_prepared(start, RETURN, registers)
    written = lab.written_above()
    report(lab.broken_promises())
    if convention.area == 0:
        assert not written
    else:
        assert max(written) + 1 == convention.first_stack_argument
        assert convention.area in (convention.first_stack_argument, convention.first_stack_argument - 64)
    for register, offset in convention.save_area.items():
        arguments = {*convention.integer_arguments, *convention.float_arguments}
        if register in arguments - registers.keys() and not convention.keeps(register):
            assert _in_save_area(lab, register, offset) == lab.initial[register], register


def test_leaf_functions_use_the_red_zone_and_no_byte_below_it(lab: Laboratory) -> None:
    machine = lab.machine
    below = []

    def watch(address: int, size: int, _value: int, _pc: int) -> None:
        if size == 1:
            below.append(machine.sp - address)

    for size in LEAVES:
        start = lab.enter(f"leaf_{size}")
        hook = machine.on_write(watch)
        lab.run_prepared(start, RETURN, {})
        hook.remove()
    deepest = max(0, *below)
    # Locals are below what the compiler keeps for itself, so the deepest store may be a few bytes short of the end.
    assert -(-deepest // 16) * 16 == lab.convention.red_zone
