"""Windows' tables of functions, read and followed: from a place in code, the registers and the memory to the caller.

They are read from the directives in a text, or from the bytes of `.pdata` and `.xdata`, and nothing is known of how
they were made. Microsoft Learn, "x64 exception handling", "x64 prolog and epilog", "ARM64 exception handling".

Registers have numbers: on amd64 those of instructions, and 16 to 31 for xmm0 to xmm15; on arm64 0 to 30, 31 for the
stack pointer, and 64 to 95 for the lower halves of v0 to v31.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from .unwind import UnwindError

Machine = Literal["x64", "arm64"]
_STACK_POINTER: Mapping[Machine, int] = {"x64": 4, "arm64": 31}
_LINK, _FRAME = 30, 29  # of arm64
_VECTORS = 16  # where xmm0 to xmm15 begin, of amd64
_DEEPEST = 32  # entries that others are chained to


class Code(NamedTuple):
    """What one instruction has done, and how it is undone. "saves": it lowered the stack pointer by `step` bytes, and
    stored `saves`: registers, each so many bytes above where the stack pointer then was. "frame": it set register
    `number` to the stack pointer plus `step`. "machine frame": the processor has pushed one, with an error code if
    `number` is 1. "next": the pair behind the next code's. `at`, on amd64: how many bytes behind the function's start
    the instruction ends."""

    at: int = 0
    kind: Literal["saves", "frame", "machine frame", "next"] = "saves"
    step: int = 0
    saves: tuple[tuple[int, int], ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Function:
    """One entry: code from the address `begin` up to `end`. `codes`: of the prologue, the last one first. `prologue`:
    bytes of it, on amd64. `epilogues`, on arm64: where each begins, and the codes of its instructions in order; the one
    behind them leaves. `frame`: on amd64 the register that the frame is found by, and how many bytes above the stack
    pointer it points. `primary`: what this is a part of."""

    machine: Machine
    begin: int
    end: int
    codes: tuple[Code, ...] = ()
    prologue: int = 0
    frame: tuple[int, int] | None = None
    epilogues: tuple[tuple[int, tuple[Code, ...]], ...] = ()
    primary: Function | None = None


@dataclass
class Context:
    """The registers of a thread at a place, of which those that are not in `known` are asked for.
    `read(address, size)`: its memory, code included."""

    pc: int
    register: Callable[[int], int]
    read: Callable[[int, int], bytes]
    known: dict[int, int] = field(default_factory=dict)

    def get(self, number: int) -> int:
        return self.known[number] if number in self.known else self.register(number)

    def load(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.read(address & _WORD, size), "little")


_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Entries:
    """What a table has of one function; addresses count from where its code begins. None of them: it has no frame."""

    functions: tuple[Function, ...]


def moved(function: Function, by: int) -> Function:
    """The same, so many bytes further up."""
    epilogues = tuple((start + by, codes) for start, codes in function.epilogues)
    return replace(function, begin=function.begin + by, end=function.end + by, epilogues=epilogues)


def find(functions: Iterable[Function], pc: int) -> Function | None:
    return next((one for one in functions if one.begin <= pc < one.end), None)


def unwound(function: Function | None, context: Context, machine: Machine) -> Context:
    """Where the caller goes on, from a place in a function, or in one that is in no table. Raises UnwindError."""
    made = replace(context, known=dict(context.known))
    sp = _STACK_POINTER[machine]
    if machine == "arm64":
        for code in () if function is None else _left_on_arm64(function, made.pc):
            _undo(code, made, made.get(sp), sp, 8)
        made.pc = made.get(_LINK)
        return made
    if function is None or not _leave_x64(function, made):
        machine_frame = False
        for depth, part in enumerate(_chain(function)):
            machine_frame |= _undo_x64(part, made, whole=depth > 0)
        if machine_frame:
            return made
        _return(made)
    return made


def _chain(function: Function | None) -> Iterator[Function]:
    for _ in range(_DEEPEST):
        if function is None:
            return
        yield function
        function = function.primary
    raise UnwindError(f"more than {_DEEPEST} entries are chained to each other")


def _undo(code: Code, context: Context, base: int, sp: int, size: int) -> None:
    for register, offset in code.saves:
        bytes_ = 16 if sp == _STACK_POINTER["x64"] and register >= _VECTORS else size
        context.known[register] = context.load(base + offset, bytes_)
    if code.kind == "frame":
        context.known[sp] = context.get(code.number) - code.step & _WORD
    elif code.kind == "saves":
        context.known[sp] = context.get(sp) + code.step & _WORD


# ------------------------------------------------------------------------------------------------------------ amd64


def _return(context: Context, popped: int = 0) -> None:
    sp = context.get(4)
    context.pc = context.load(sp)
    context.known[4] = sp + 8 + popped & _WORD


def _undo_x64(function: Function, context: Context, *, whole: bool) -> bool:
    """Undo a prologue as far as it has been executed; whether a frame of the processor was on the stack."""
    done = function.end if whole else context.pc - function.begin
    codes = [code for code in function.codes if code.at <= done]
    base = context.get(4)
    if function.frame is not None and (any(code.kind == "frame" for code in codes) or done >= function.prologue):
        register, above = function.frame
        base = context.get(register) - above & _WORD
    for code in codes:
        if code.kind == "machine frame":
            sp = context.get(4) + 8 * code.number
            context.pc, context.known[4] = context.load(sp), context.load(sp + 24)
            return True
        if code.saves and code.step:
            base = context.get(4)
        _undo(code, context, base, 4, 8)
    return False


def _leave_x64(function: Function, context: Context) -> bool:
    """Whether what is executed next is an epilogue, which is then executed. "x64 prolog and epilog": a step of the
    stack pointer, or its being set from the frame register; pops; and a return or a jump. Jumps by a distance lead out
    of the function; others go where memory says, or a register, and have the prefix REX.W."""
    code = context.read(context.pc, 1)
    at = context.pc
    sp = context.get(4)

    def byte(offset: int) -> int:
        return context.read(at + offset, 1)[0]

    def signed(offset: int, size: int) -> int:
        return int.from_bytes(context.read(at + offset, size), "little", signed=True)

    if code == b"\x48" and byte(1) in (0x81, 0x83) and byte(2) == 0xC4:  # add rsp, constant
        size = 4 if byte(1) == 0x81 else 1
        sp, at = sp + signed(3, size), at + 3 + size
    elif code[0] in (0x48, 0x49) and byte(1) == 0x8D and byte(2) >> 3 & 7 == 4 and function.frame is not None:
        register, mode = byte(2) & 7 | (8 if code[0] & 1 else 0), byte(2) >> 6
        if register != function.frame[0] or mode not in (1, 2) or register & 7 == 4:
            return False
        size = 1 if mode == 1 else 4
        sp, at = context.get(register) + signed(3, size), at + 3 + size
    popped: dict[int, int] = {}
    while True:
        extended = byte(0) & 0xF0 == 0x40
        if byte(extended) & 0xF8 != 0x58:
            break
        popped[byte(extended) & 7 | (8 if extended and byte(0) & 1 else 0)] = context.load(sp)
        sp, at = sp + 8, at + 1 + extended
    bytes_ = 0
    match byte(0), byte(1):
        case (0xC3, _) | (0xF3, 0xC3):
            pass
        case 0xC2, _:
            bytes_ = int.from_bytes(context.read(at + 1, 2), "little")
        case (0xE9 | 0xEB) as operation, _:
            size = 4 if operation == 0xE9 else 1
            target = at + 1 + size + signed(1, size)
            if function.begin <= target < function.end:
                return False
        case 0xFF, 0x25:
            pass
        case prefix, 0xFF if prefix & 0xF8 == 0x48 and byte(2) >> 3 & 7 == 4:
            pass
        case _:
            return False
    context.known |= popped
    context.known[4] = sp & _WORD
    _return(context, bytes_)
    return True


# ------------------------------------------------------------------------------------------------------------ arm64


def _left_on_arm64(function: Function, pc: int) -> Sequence[Code]:
    """The codes of what has been done and not yet undone at a place."""
    executed = (pc - function.begin) // 4
    if executed < len(function.codes):
        return function.codes[len(function.codes) - executed :]
    for start, codes in function.epilogues:
        if start <= pc <= start + 4 * len(codes):
            return codes[(pc - start) // 4 :]
    return function.codes


# ------------------------------------------------------------------------------------------------------- directives

_DIRECTIVE = re.compile(r"\.seh_(\w+)\s*(.*)")
_NAMED: Mapping[str, tuple[int, ...]] = {"fplr": (29, 30), "r19r20": (19, 20)}


def read_directives(
    directives: Iterable[tuple[int, str]], end: int, machine: Machine, numbers: Mapping[str, int]
) -> Entries:
    """The entries that the directives of one function's text make, each with the offset of the instruction that it
    stands before; addresses are offsets. `.seh_proc` and `.seh_endproc` around the whole are not among them. `numbers`:
    of registers, by their names. Raises UnwindError."""
    made: list[Function] = []
    reading = _Reading(machine, 0, numbers)
    for offset, text in directives:
        match = _DIRECTIVE.match(re.split(r"#|//", text)[0].strip())
        if match is None:
            raise UnwindError(f"`{text}` is no directive of Windows' tables")
        if match[1] == "endproc":
            made.append(reading.function(offset))
        elif match[1] == "proc":
            reading = _Reading(machine, offset, numbers)
        else:
            reading.read(offset, match[1], [part.strip() for part in match[2].split(",") if part.strip()], text)
    return Entries((*made, reading.function(end)))


class _Reading:
    def __init__(self, machine: Machine, begin: int, numbers: Mapping[str, int]) -> None:
        self.machine, self.begin, self.numbers = machine, begin, numbers
        self.codes: list[Code] = []
        self.prologue = 0
        self.ended = False
        self.frame: tuple[int, int] | None = None
        self.epilogues: list[tuple[int, list[Code]]] = []
        self.open = False

    def function(self, end: int) -> Function:
        if not self.ended or self.open:
            raise UnwindError("a prologue or an epilogue has no end")
        codes = _with_next(self.codes[::-1])
        epilogues = tuple((start, _with_next(undone)) for start, undone in self.epilogues)
        return Function(self.machine, self.begin, end, codes, self.prologue, self.frame, epilogues)

    def read(self, offset: int, what: str, operands: list[str], text: str) -> None:
        match what, operands:
            case "endprologue", [] if not self.ended:
                self.ended = True
                self.prologue = offset - self.begin if self.machine == "x64" else 0
            case "startepilogue", [] if self.ended and not self.open:
                self.epilogues.append((offset, []))
                self.open = True
            case "endepilogue", [] if self.open:
                self.open = False
            case _:
                if self.ended and not self.open:
                    raise UnwindError(f"`{text}` is in no prologue and in no epilogue")
                at = offset - self.begin if self.machine == "x64" else 0
                code = self._code(what, operands, text)._replace(at=at)
                (self.epilogues[-1][1] if self.open else self.codes).append(code)

    def _number(self, text: str) -> int:
        name = text.lstrip("%")
        if name not in self.numbers:
            raise UnwindError(f"there is no register `{text}` in Windows' tables")
        return self.numbers[name]

    def _code(self, what: str, operands: list[str], text: str) -> Code:
        try:
            match what, operands:
                case "stackalloc", [size]:
                    return Code(step=int(size, 0))
                case "pushreg", [register]:
                    return Code(step=8, saves=((self._number(register), 0),))
                case (("savereg" | "savexmm" | "save_reg" | "save_freg"), [register, offset]):
                    return Code(saves=((self._number(register), int(offset, 0)),))
                case (("save_reg_x" | "save_freg_x"), [register, step]):
                    return Code(step=int(step, 0), saves=((self._number(register), 0),))
                case (("save_regp" | "save_fregp"), [register, offset]):
                    return _pair(self._number(register), int(offset, 0))
                case (("save_regp_x" | "save_fregp_x"), [register, step]):
                    return _pair(self._number(register), 0, int(step, 0))
                case "save_lrpair", [register, offset]:
                    return _pair(self._number(register), int(offset, 0), second=_LINK)
                case "save_fplr", [offset]:
                    return _pair(_FRAME, int(offset, 0))
                case "save_fplr_x", [step]:
                    return _pair(_FRAME, 0, int(step, 0))
                case "save_r19r20_x", [step]:
                    return _pair(19, 0, int(step, 0))
                case "setframe", [register, offset]:
                    self.frame = (self._number(register), int(offset, 0))
                    return Code(kind="frame", number=self.frame[0], step=self.frame[1])
                case "set_fp", []:
                    return Code(kind="frame", number=_FRAME)
                case "add_fp", [offset]:
                    return Code(kind="frame", number=_FRAME, step=int(offset, 0))
                case "pushframe", [*rest]:
                    return Code(kind="machine frame", number=len(rest))
                case "save_next", []:
                    return Code(kind="next")
                case "nop", []:
                    return Code()
                case _:
                    raise UnwindError(f"`{text}` is not understood")
        except ValueError:
            raise UnwindError(f"`{text}` has operands that are no numbers") from None


def _pair(first: int, offset: int, step: int = 0, second: int | None = None) -> Code:
    return Code(step=step, saves=((first, offset), (first + 1 if second is None else second, offset + 8)))


def _with_next(codes: Sequence[Code]) -> tuple[Code, ...]:
    """What `save_next` means: the registers and the words behind those of the code that is undone after it."""
    made = list(codes)
    for index in range(len(made) - 1, -1, -1):
        if made[index].kind == "next":
            if index + 1 == len(made) or len(made[index + 1].saves) != 2:
                raise UnwindError("`save_next` is before no pair")
            (_, _), (last, offset) = made[index + 1].saves
            made[index] = _pair(last + 1, offset + 8)
    return tuple(made)


# ---------------------------------------------------------------------------------------------------- .pdata, .xdata


def read_functions(pdata: bytes, machine: Machine, read: Callable[[int, int], bytes]) -> tuple[Function, ...]:
    """The entries of a `.pdata`. Addresses are those that its words have: relative to where the image begins.
    `read(address, size)`: bytes there. Raises UnwindError."""
    size = 12 if machine == "x64" else 8
    made = []
    for at in range(0, len(pdata) - size + 1, size):
        entry = pdata[at : at + size]
        if any(entry):
            made.append(_read_x64(entry, read, 0) if machine == "x64" else _read_arm64(entry, read))
    return tuple(made)


class Tables:
    """The tables of an image that is at `base`. `pdata`: the contents of sections of that name; `loaded`: those that
    they lead to, by their addresses. They are read when they are asked for first."""

    def __init__(self, machine: Machine, base: int, pdata: Sequence[bytes], loaded: Mapping[int, bytes]) -> None:
        self.machine, self.base, self.pdata, self.loaded = machine, base, pdata, loaded
        self._functions: list[Function] | None = None

    def of(self, start: int, end: int) -> Entries | None:
        """The entries of the code from `start` to `end`; None if there are none. Raises UnwindError."""
        if self._functions is None:
            tables = (read_functions(data, self.machine, self._read) for data in self.pdata)
            self._functions = [moved(one, self.base) for table in tables for one in table]
        found = tuple(moved(one, -start) for one in self._functions if one.begin < end and start < one.end)
        return Entries(found) if found else None

    def _read(self, address: int, size: int) -> bytes:
        address += self.base
        for start, data in self.loaded.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise UnwindError(f"unwind information at {address:#x} lies outside of the file")


def _read_x64(entry: bytes, read: Callable[[int, int], bytes], depth: int) -> Function:
    """ "struct RUNTIME_FUNCTION", "struct UNWIND_INFO", "struct UNWIND_CODE"."""
    begin, end, where = struct.unpack("<3I", entry)
    head, prologue, count, frame = read(where, 4)
    if head & 7 not in (1, 2):
        raise UnwindError(f"version {head & 7} of unwind information is not known")
    words = struct.unpack(f"<{count}H", read(where + 4, 2 * count))
    codes: list[Code] = []
    index = 0
    register, above = frame & 15, 16 * (frame >> 4)
    while index < count:
        at, operation, info = words[index] & 255, words[index] >> 8 & 15, words[index] >> 12
        operands = words[index + 1 : index + 3]
        size = {1: 3 if info else 2, 4: 2, 5: 3, 8: 2, 9: 3, 6: 1 if head & 7 == 2 else 2, 7: 3}.get(operation, 1)
        if index + size > count:
            raise UnwindError("an unwind code is cut off")
        near = operands[0] if operands else 0
        far = near | (operands[1] << 16 if len(operands) > 1 else 0)
        match operation:
            case 0:
                codes.append(Code(at, step=8, saves=((info, 0),)))
            case 1:
                codes.append(Code(at, step=far if info else 8 * near))
            case 2:
                codes.append(Code(at, step=8 * info + 8))
            case 3:
                codes.append(Code(at, "frame", above, number=register))
            case 4 | 5:
                codes.append(Code(at, saves=((info, 8 * near if operation == 4 else far),)))
            case 8 | 9:
                codes.append(Code(at, saves=((_VECTORS + info, 16 * near if operation == 8 else far),)))
            case 10:
                codes.append(Code(at, "machine frame", number=info))
            case 6 | 7:
                pass  # version 2 says where epilogues are; they have the form that is recognised all the same
            case _:
                raise UnwindError(f"unwind operation {operation} is not known")
        index += size
    primary = None
    if head >> 3 & 4:  # UNW_FLAG_CHAININFO
        if depth >= _DEEPEST:
            raise UnwindError(f"more than {_DEEPEST} entries are chained to each other")
        primary = _read_x64(read(where + 4 + 2 * (count + count % 2), 12), read, depth + 1)
    return Function("x64", begin, end, tuple(codes), prologue, (register, above) if register else None, (), primary)


def _read_arm64(entry: bytes, read: Callable[[int, int], bytes]) -> Function:
    """ ".pdata records", ".xdata records"."""
    begin, word = struct.unpack("<2I", entry)
    if word & 3:
        return _packed(begin, word)
    where = word & ~3
    (head,) = struct.unpack("<I", read(where, 4))
    where += 4
    end = begin + 4 * (head & 0x3FFFF)
    epilogues, words = head >> 22 & 31, head >> 27
    single = head >> 21 & 1
    if epilogues == words == 0:
        (extended,) = struct.unpack("<I", read(where, 4))
        epilogues, words, where = extended & 0xFFFF, extended >> 16 & 255, where + 4
    scopes = [] if single else list(struct.unpack(f"<{epilogues}I", read(where, 4 * epilogues)))
    data = read(where + 4 * len(scopes), 4 * words)
    codes = _codes(data, 0)
    if single:
        undone = _codes(data, epilogues)
        return Function("arm64", begin, end, codes, epilogues=((end - 4 * (len(undone) + 1), undone),))
    told = tuple((begin + 4 * (scope & 0x3FFFF), _codes(data, scope >> 22)) for scope in scopes)
    return Function("arm64", begin, end, codes, epilogues=told)


def _codes(data: bytes, at: int) -> tuple[Code, ...]:
    """ "Unwind codes", up to `end`."""
    codes: list[Code] = []
    try:
        while True:
            first = data[at]
            size = 1 if first < 0xC0 or first == 0xE1 or first in range(0xE3, 0xE8) or first >= 0xE8 else 2
            size = 4 if first == 0xE0 else size
            value = int.from_bytes(data[at : at + size], "big")
            if len(data) < at + size:
                raise IndexError
            at += size
            if first in (0xE4, 0xE5):  # end; end_c, behind which are those of the function's main part
                return _with_next(codes)
            codes.append(_code(first, value))
    except IndexError:
        raise UnwindError("unwind codes have no end") from None


def _code(first: int, value: int) -> Code:
    low, x4 = value & 63, value >> 6 & 15
    x3 = value >> 6 & 7
    if first < 0x20:
        return Code(step=16 * (value & 31))
    if first < 0x40:
        return _pair(19, 0, 8 * (value & 31))
    if first < 0x80:
        return _pair(_FRAME, 8 * low)
    if first < 0xC0:
        return _pair(_FRAME, 0, 8 * low + 8)
    if first < 0xC8:
        return Code(step=16 * (value & 0x7FF))
    if first < 0xCC:
        return _pair(19 + x4, 8 * low)
    if first < 0xD0:
        return _pair(19 + x4, 0, 8 * low + 8)
    if first < 0xD4:
        return Code(saves=((19 + x4, 8 * low),))
    if first < 0xD6:
        return Code(step=8 * (value & 31) + 8, saves=((19 + (value >> 5 & 15), 0),))
    if first < 0xD8:
        return _pair(19 + 2 * x3, 8 * low, second=_LINK)
    if first < 0xDA:
        return _pair(72 + x3, 8 * low)
    if first < 0xDC:
        return _pair(72 + x3, 0, 8 * low + 8)
    if first < 0xDE:
        return Code(saves=((72 + x3, 8 * low),))
    if first == 0xDE:
        return Code(step=8 * (value & 31) + 8, saves=((72 + (value >> 5 & 7), 0),))
    if first == 0xE0:
        return Code(step=16 * (value & 0xFFFFFF))
    if first == 0xE1:
        return Code(kind="frame", number=_FRAME)
    if first == 0xE2:
        return Code(kind="frame", number=_FRAME, step=8 * (value & 255))
    if first == 0xE3:
        return Code()
    if first == 0xE6:
        return Code(kind="next")
    raise UnwindError(f"unwind code {first:#x} is not known")


def _packed(begin: int, word: int) -> Function:
    """ "Packed unwind data": the prologue that the fields stand for, and the epilogue that mirrors it at the function's
    end."""
    end = begin + 4 * (word >> 2 & 0x7FF)
    floats, integers, homes = word >> 13 & 7, word >> 16 & 15, word >> 20 & 1
    chained, size = word >> 21 & 3, 16 * (word >> 23)
    floats += floats > 0
    if chained == 2:
        raise UnwindError("packed unwind data with signed return addresses is not understood")
    saved = [19 + n for n in range(integers)] + ([_LINK] if chained == 1 else [])
    area = -(-(8 * (len(saved) + floats) + 64 * homes) // 16) * 16
    codes: list[Code] = []
    at, left = 0, area
    for group in (saved, [72 + n for n in range(floats)]):
        for index in range(0, len(group), 2):
            pair = group[index : index + 2]
            if left and pair[-1] == _LINK and len(pair) == 2:
                codes.append(Code(step=left))
                left = 0
            codes.append(Code(step=left, saves=tuple((register, at + 8 * n) for n, register in enumerate(pair))))
            at, left = at + 8 * len(pair), 0
    undone = list(codes)
    if homes:
        stores = [Code(step=left if n == 0 else 0) for n in range(4)]
        codes += stores
        undone += stores[:1] if left else []
    locals_ = size - area
    tail: list[Code] = []
    if chained == 3:
        tail = [_pair(_FRAME, 0, locals_)] if locals_ <= 512 else [*_lowered(locals_), _pair(_FRAME, 0)]
        codes += [*tail, Code(kind="frame", number=_FRAME)]
    elif locals_:
        tail = _lowered(locals_)
        codes += tail
    undone += tail
    if word & 3 == 2:  # a part without a prologue
        return Function("arm64", begin, end, ())
    back = tuple(undone[::-1])
    return Function("arm64", begin, end, tuple(codes[::-1]), epilogues=((end - 4 * (len(back) + 1), back),))


def _lowered(size: int) -> list[Code]:
    return [Code(step=size)] if size <= 4080 else [Code(step=4080), Code(step=size - 4080)]


__all__ = [
    "Code",
    "Context",
    "Entries",
    "Function",
    "Tables",
    "find",
    "moved",
    "read_directives",
    "read_functions",
    "unwound",
]
