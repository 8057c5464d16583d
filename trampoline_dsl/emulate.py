"""Run machine code: Unicorn, for every machine, behind one class.

This is the only module that knows Unicorn, and this is what it knows (version 2.1.4, measured):

* Code runs in user mode, as it would under Linux: privileged instructions trap. Unicorn resets most machines into
  kernel mode, where `hlt` on amd64 ends a run as if all were well.
* Unicorn does not see that memory which holds translated code was written from outside; `write` tells it. Hooks that
  come after a translation, and another `until`, it does not see either.
* On mips a jump to a misaligned address leaves a translator that crashes the process at the next translation. The
  machine then goes on in a new engine.
* One code hook is always there. It counts instructions, so that a budget is exact, and it knows the instruction that
  ran last, which Unicorn forgets on mips when an exception is raised.
* On mips, Unicorn's own TLB makes loads and stores in delay slots run twice or spoil the next branch; there the CPU's
  is used (see cpus). Its hooks for loads and stores do the same; there the code is decoded instead.
* A hook for stores has a range, which is looked at when code stores: it may be replaced while code runs, by a callback.
* Write hooks miss some stores: `dcbz` and `stmw` on ppc64; `mvc`, `xc` and their like on s390x. Sixteen bytes arrive
  as two events of eight. Who must know all that was written compares memory before and after as well.
* Alignment of data is enforced on mips only, and that of sp nowhere.
* An exception that leaves a callback would be lost when Unicorn itself fails too; `run` raises it in any case.
* ppc64's vector registers, VRSAVE and VSCR can be had only from the saved CPU state, s390x's condition code from the
  PSW. A VSCR that is set shows in the register and does not change how vector arithmetic treats denormals.
* A FCSR on mips with an exception enabled, and flagged as a cause, raises that exception when written.
* `ctl_set_cpu_model` picks a wrong, 32-bit model on ppc64; the default runs everything up to POWER9.

Integers are whole registers; bit 0 is the least significant one, whatever the byte order of the machine.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple

from unicorn import arm64_const, arm_const, mips_const, ppc_const, s390x_const, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from .cpus import BOOT, Access, MachineError, Place, family_of
from .extended import from_double, to_double
from .target import Architecture, Register

__all__ = ["Hook", "Machine", "MachineError", "Snapshot", "Stop"]

_TRANSLATION_BUFFER = 16 << 20  # bytes; Unicorn's own choice reserves 1 GiB of address space for each machine
_PAGE = 0x1000
_MOST_ADDRESSES = 1 << 16  # of which is remembered who is called there
_mem_read, _mem_write = uclib.uc_mem_read, uclib.uc_mem_write
# Its functions, without types of their arguments; they take so little time that no other thread is given any.
_UNDECLARED = ctypes.PyDLL(uclib._name)
_emu_start = _UNDECLARED.uc_emu_start
_emu_start.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t)
# Callbacks for that. What the interpreter does for others between two instructions it does in them.
_CODE_CALLBACK = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_MEMORY_CALLBACK = ctypes.PYFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
_FORGET_TRANSLATION = unicorn_const.UC_CTL_IO_WRITE << 30 | 2 << 26 | unicorn_const.UC_CTL_TB_REMOVE_CACHE

InstructionCallback = Callable[[int, int], None]  # address, bytes
WriteCallback = Callable[[int, int, int, int], None]  # address, bytes, value, address of the instruction
ReadCallback = Callable[[int, int, int], None]  # address, bytes, address of the instruction

_INVALID_ACCESS: Mapping[int, str] = {
    unicorn_const.UC_MEM_READ_UNMAPPED: "read of unmapped",
    unicorn_const.UC_MEM_WRITE_UNMAPPED: "write to unmapped",
    unicorn_const.UC_MEM_FETCH_UNMAPPED: "execution of unmapped",
    unicorn_const.UC_MEM_WRITE_PROT: "write to read-only",
}


_CONSTANTS: Mapping[str, ModuleType] = {
    "ARM": arm_const,
    "ARM64": arm64_const,
    "MIPS": mips_const,
    "PPC": ppc_const,
    "S390X": s390x_const,
    "X86": x86_const,
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended.

    `reached`: the program counter is `until`. `budget`: that many instructions ran. `stopped`: a callback said so.
    `fault`: an access that failed, an illegal instruction, a system call or any other exception; `detail` says which
    and `address` is the memory address at fault, if there is one. `pc` is the next instruction to run, or the one
    that failed (the place that was jumped to, if execution itself is the failure). `executed` counts instructions,
    the one that failed included.
    """

    reason: Literal["reached", "budget", "stopped", "fault"]
    pc: int
    detail: str
    executed: int
    address: int | None = None
    trapped: bool = False  # of a fault: an instruction has raised it whose purpose that is, or one that is illegal


class Hook:
    """A callback at work, until `remove`."""

    __slots__ = ("_remove",)

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove: Callable[[], None] | None = remove

    def remove(self) -> None:
        """Call no more. May be called from a callback, and twice."""
        if self._remove is not None:
            self._remove()
            self._remove = None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All registers of one machine at one moment; memory is not part of it."""

    _machine: Machine
    _context: Any


class _Mapped(NamedTuple):
    """Memory of a machine, from `base` up to `end`. It is ours, and Unicorn is told where it is: to read or write it
    there takes a third of the time that it takes by Unicorn. `first` holds it in place."""

    base: int
    end: int
    data: mmap.mmap
    first: ctypes.c_char


# ------------------------------------------------------------------------------------------- where registers are


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is found once for an architecture: its registers' places and what can be written there."""

    places: Mapping[str, Place]
    unknown: Mapping[str, str]  # register name: why it is not observable
    writable: Mapping[str, int]
    rest: Mapping[str, int]  # the bits that cannot be written, as they are after a reset
    bits: Mapping[str, int]


class _Transfer:
    """Some registers of a machine, in a fixed order, ready to be read or written at once."""

    def __init__(self, machine: Machine, layout: _Layout, names: tuple[str, ...]) -> None:
        self._machine = machine
        self._count = len(names)
        self._buffer = ctypes.create_string_buffer(16 * len(names))
        self._base = ctypes.addressof(self._buffer)
        places = [layout.places[name] for name in names]
        pieces = [
            (machine.number(piece), self._base + 16 * slot + 8 * part, not place.shift)
            for slot, place in enumerate(places)
            for part, piece in enumerate(place.pieces)
        ]
        self._read_count, self._read_numbers, self._read_pointers = _batch([piece[:2] for piece in pieces])
        whole = [(number, address) for number, address, is_whole in pieces if is_whole]
        self._write_count, self._write_numbers, self._write_pointers = _batch(whole)
        self._images = list(_runs([(16 * slot, p.image, p.size) for slot, p in enumerate(places) if p.image]))
        self._fields = [
            (slot, machine.number(place.pieces[0]), place.shift) for slot, place in enumerate(places) if place.shift
        ]
        self._x87 = [slot for slot, place in enumerate(places) if place.x87]
        bits = [layout.bits[name] for name in names]
        # Whatever has more than one piece, or is cut out of something wider, takes all of its 16 bytes.
        self._wide = [
            slot
            for slot, place in enumerate(places)
            if place.shift or place.x87 or place.image or len(place.pieces) != 1 or bits[slot] > 64
        ]
        forms = [_FORMS.get(count, "Q8x") for count in bits]
        for slot in self._wide:
            forms[slot] = "16s"
        self._format = struct.Struct("<" + "".join(forms))
        self._read_last: tuple[bytes, list[int]] = b"", []  # the pieces, and the values that they are
        self._writable = [layout.writable[name] for name in names]
        self._rest = [layout.rest[name] for name in names]
        masks = [(1 << count) - 1 for count in bits]
        # What is as wide as its form is right as it is read.
        cut = {slot for slot, count in enumerate(bits) if count != _BITS[forms[slot]]}
        self._cut = [(slot, masks[slot]) for slot in sorted(cut)]
        self._partly = [
            (slot, writable, rest)
            for slot, (writable, rest) in enumerate(zip(self._writable, self._rest, strict=True))
            if slot in cut or (writable, rest) != (masks[slot], 0)
        ]

    def read(self) -> Sequence[int]:
        """The values; the same object as the last time, if they are the same."""
        machine = self._machine
        _check(uclib.uc_reg_read_batch(machine.handle, self._read_numbers, self._read_pointers, self._read_count))
        if self._images:
            image = machine.image()
            for slot, offset, size in self._images:
                ctypes.memmove(self._base + slot, image + offset, size)
        pieces = self._buffer.raw
        if pieces == self._read_last[0] and not self._x87:
            return self._read_last[1]
        values: list[int] = list(self._format.unpack_from(self._buffer))
        for slot in self._wide:
            values[slot] = int.from_bytes(values[slot], "little")  # type: ignore[arg-type]  # bytes, so far
        for slot, _number, shift in self._fields:
            values[slot] >>= shift
        for slot in self._x87:
            values[slot] = machine.x87_top()
        for slot, mask in self._cut:
            values[slot] &= mask
        self._read_last = pieces, values
        return values

    def write(self, values: Iterable[int]) -> None:
        machine = self._machine
        whole = list(values)
        try:
            self._pack(whole)
        except (struct.error, OverflowError):  # a number that is negative, or has more bits than its register
            whole = [value & mask for value, mask in zip(whole, self._writable, strict=True)]
            self._pack(whole)
        _check(uclib.uc_reg_write_batch(machine.handle, self._write_numbers, self._write_pointers, self._write_count))
        for slot, number, shift in self._fields:
            machine.put_field(number, shift, self._writable[slot], whole[slot])
        if self._images:
            image = machine.image()
            for slot, offset, size in self._images:
                ctypes.memmove(image + offset, self._base + slot, size)
            machine.set_image()
        for slot in self._x87:
            machine.set_x87_top(whole[slot])

    def _pack(self, whole: list[int]) -> None:
        for slot, writable, rest in self._partly:
            whole[slot] = whole[slot] & writable | rest
        if not self._wide:
            self._format.pack_into(self._buffer, 0, *whole)
            return
        parts: list[Any] = whole.copy()
        for slot in self._wide:
            parts[slot] = whole[slot].to_bytes(16, "little")
        self._format.pack_into(self._buffer, 0, *parts)


_FORMS: Mapping[int, str] = {8: "B15x", 16: "H14x", 32: "I12x", 64: "Q8x", 128: "16s"}
_BITS: Mapping[str, int] = {form: bits for bits, form in _FORMS.items()}


def _batch(pieces: Sequence[tuple[int, int]]) -> tuple[int, Any, Any]:
    count = len(pieces)
    numbers = (ctypes.c_int * count)(*(number for number, _ in pieces))
    return count, numbers, (ctypes.c_void_p * count)(*(address for _, address in pieces))


def _check(status: int) -> None:
    if status != unicorn_const.UC_ERR_OK:
        raise MachineError(_status(status))


def _status(status: int) -> str:
    text: bytes = uclib.uc_strerror(status)
    return text.decode("ascii")


def _runs(moves: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Join copies (from, to, bytes) that follow each other on both sides."""
    waiting: tuple[int, int, int] | None = None
    for source, destination, size in moves:
        if waiting and waiting[0] + waiting[2] == source and waiting[1] + waiting[2] == destination:
            waiting = (waiting[0], waiting[1], waiting[2] + size)
            continue
        if waiting:
            yield waiting
        waiting = (source, destination, size)
    if waiting:
        yield waiting


# -------------------------------------------------------------------------------------------------------- machine

_LAYOUTS: dict[Architecture, _Layout] = {}


class Machine:
    """One CPU and its memory, which is empty at first.

    Registers are the architecture's records, known by their names. After a run that ended in a fault only `reset`
    and `restore` make the registers fit for another one: the CPU may be amid an exception.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._family = family_of(architecture)
        self._constants: ModuleType = _CONSTANTS[self._family.prefix]
        self._numbers: dict[str, int] = {}
        self._pc_number = self.number(self._family.pc)
        self._cell = (ctypes.c_uint64 * 2)()
        self._peeks: dict[int, Callable[[], int]] = {}
        self._transfers: dict[tuple[Register, ...], _Transfer] = {}
        self._everywhere: list[tuple[int, int, InstructionCallback]] = []
        self._ranges: dict[int, tuple[InstructionCallback, ...]] = {}  # by address, those of `_everywhere` and `_at`
        self._translated: set[int] = set()  # numbers of pages that may have been, and the ends of their range
        self._lowest, self._highest = 1 << 64, -1
        self._touching: dict[int, Access | None] = {}  # by address, where instructions are decoded
        self._memory: list[_Mapped] = []  # by address
        self._bases: list[int] = []
        self._at: dict[int, list[InstructionCallback]] = {}
        self._writes: list[WriteCallback] = []
        self._reads: list[ReadCallback] = []
        self._ignored = 0, 0
        self._store_hooks: list[Any] = []
        self._system_call: Callable[[int], None] | None = None
        # Callbacks of C have to outlive the hooks that hold them.
        self._hooks: dict[int, Any] = {unicorn_const.UC_HOOK_CODE: _CODE_CALLBACK(self._on_code)}
        self._running = False
        self._over = True  # no code runs that anybody is to hear of: none at all, for set-up, or what has been stopped
        self._decodes = self._family.decodes
        self._spoiled = False
        self._until = 0
        self._last = 0
        self._budget = 0
        self._executed = 0
        self._outcome: Literal["budget", "stopped", "fault"] | None = None
        self._moved = False
        self._detail = ""
        self._fault_address: int | None = None
        self._fault_pc = 0
        self._error: BaseException | None = None
        self._lent: list[int] = []  # pages that exist only so that a failed fetch ends well

        self._uc: Any = self._open()
        self.handle: Any = self._uc._uch
        self._family.prepare(self)
        self._image = self._uc.context_save()
        self.image_bytes: int = self._image.size
        self._initial = self._uc.context_save()
        self._layout = self._lay_out()
        [sp_piece] = self._layout.places[self.architecture.sp.name].pieces
        self._sp_number = self.number(sp_piece)
        self._sp_mask = (1 << self.architecture.sp.bits) - 1
        self._sp_cell = ctypes.c_uint64()  # of its own: what is not read of it stays zero
        self._read_sp = self._reader(self._sp_number, self._sp_cell)
        self._add_hooks()

    # -- memory

    def map(self, base: int, size: int, writable: bool = True) -> None:
        """Make `size` bytes of zeros at `base`; both are multiples of 4096. All memory can be executed: who must know
        where code runs has `on_instruction`."""
        rights = unicorn_const.UC_PROT_ALL if writable else unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_EXEC
        if size <= 0:
            raise MachineError(f"cannot map {size:#x} bytes at {base:#x}")
        data = mmap.mmap(-1, size)
        mapped = _Mapped(base, base + size, data, ctypes.c_char.from_buffer(data))
        try:
            self._uc.mem_map_ptr(base, size, rights, ctypes.addressof(mapped.first))
        except UcError as error:
            raise MachineError(f"cannot map {size:#x} bytes at {base:#x}: {error}") from None
        self._remember([*self._memory, mapped])
        if not self._family.virtual_tlb:
            state = self._uc.context_save()
            self._family.reach(self, base, size)
            self._uc.context_restore(state)

    def unmap(self, base: int, size: int) -> None:
        """What was mapped in one piece goes in one piece."""
        left = [mapped for mapped in self._memory if (mapped.base, mapped.end) != (base, base + size)]
        if len(left) == len(self._memory):
            raise MachineError(f"cannot unmap {size:#x} bytes at {base:#x}: they were not mapped in one piece")
        self._uc.mem_unmap(base, size)
        self._remember(left)
        self._touching = {}

    def _remember(self, memory: list[_Mapped]) -> None:
        self._memory = sorted(memory, key=lambda mapped: mapped.base)
        self._bases = [mapped.base for mapped in self._memory]

    def read(self, address: int, size: int) -> bytes:
        index = bisect_right(self._bases, address)
        if index:
            base, end, data, _ = self._memory[index - 1]
            if address + size <= end:
                return data[address - base : address - base + size]
        buffer = ctypes.create_string_buffer(size)
        if _mem_read(self.handle, address, buffer, size):
            raise MachineError(f"cannot read {size} bytes at {address:#x}: not all of them are mapped")
        return buffer.raw

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Store `data`, whatever the protection. Code that was there is forgotten, but a callback that changes the
        basic block which is running changes only what runs after it."""
        size = len(data)
        if not size:
            return
        index = bisect_right(self._bases, address)
        if index and address + size <= self._memory[index - 1].end:
            base, _, memory, _ = self._memory[index - 1]
            memory[address - base : address - base + size] = data
        elif _mem_write(self.handle, address, bytes(data), size):
            raise MachineError(f"cannot write {size} bytes at {address:#x}: not all of them are mapped")
        first, last = address // _PAGE, (address + size - 1) // _PAGE
        if last < self._lowest or first > self._highest or self._translated.isdisjoint(range(first, last + 1)):
            return
        self._touching = {}
        begin, end = ctypes.c_uint64(address), ctypes.c_uint64(address + size)
        # What `ctl_remove_cache` does, in half the time.
        _check(uclib.uc_ctl(self.handle, _FORGET_TRANSLATION, begin, end))

    # -- registers

    @property
    def observable(self) -> frozenset[Register]:
        """The architecture's registers that can be read and written here."""
        places = self._layout.places
        return frozenset(r for r in self.architecture.registers.values() if r.name in places)

    def why_not_observable(self, register: Register) -> str:
        """Why a register is not in `observable`."""
        if register.name in self._layout.unknown:
            return f"{register.name}: {self._layout.unknown[register.name]}"
        if register.name in self._layout.places:
            raise ValueError(f"{register.name} is observable")
        return f"{register.name}: {self.architecture.name} has no such register"

    def writable_mask(self, register: Register) -> int:
        """The bits that can hold any value. `set` leaves the others as they are after a reset, but for those that a
        machine makes from them (FEX and VX on ppc64)."""
        self._require(register.name)
        return self._layout.writable[register.name]

    def get(self, register: Register) -> int:
        return self._transfer((register,)).read()[0]

    def set(self, register: Register, value: int) -> None:
        self._transfer((register,)).write((value,))

    def get_many(self, registers: Iterable[Register]) -> dict[Register, int]:
        """Several registers at once, at little more than the cost of one. The same registers should come in the same
        order, that of `architecture.registers` for choice: each order is prepared once and kept."""
        wanted = tuple(registers)
        return dict(zip(wanted, self._transfer(wanted).read(), strict=True))

    def set_many(self, values: Mapping[Register, int]) -> None:
        self._transfer(tuple(values)).write(values.values())

    def read_registers(self, registers: Sequence[Register]) -> Sequence[int]:
        """As `get_many`, in the order of `registers`. The same object as the last time, if they are the same."""
        return self._transfer(tuple(registers)).read()

    def write_registers(self, registers: Sequence[Register], values: Iterable[int]) -> None:
        self._transfer(tuple(registers)).write(values)

    @property
    def pc(self) -> int:
        return self._peek_number(self._pc_number)

    @pc.setter
    def pc(self, address: int) -> None:
        if self._running:
            raise MachineError("while code runs, `go` from an instruction's callback moves the program counter")
        self._put_number(self._pc_number, address)

    @property
    def sp(self) -> int:
        if self._read_sp():
            raise MachineError("sp cannot be read")
        value: int = self._sp_cell.value
        return value & self._sp_mask

    @sp.setter
    def sp(self, address: int) -> None:
        self.set(self.architecture.sp, address)

    def set_segment_base(self, name: str, value: int) -> None:
        """x86: where "fs" or "gs" starts."""
        self._family.set_segment_base(self, name, value)

    def set_thread_pointer(self, value: int) -> None:
        """What the C library uses: fs (amd64), gs (386), TPIDRURO (arm), TPIDR_EL0 (arm64), what `rdhwr $29` reads
        (mips), r13 (ppc64), a0 and a1 (s390x)."""
        self._family.set_thread_pointer(self, value)

    @property
    def stacks(self) -> frozenset[Register]:
        """The registers that are the top of a stack of registers: x87's st0."""
        places = self._layout.places
        return frozenset(r for r in self.observable if places[r.name].x87)

    def empty_x87(self) -> None:
        """x86: leave nothing on the x87 stack."""
        self.put("FPTAG", 0xFFFF)

    @property
    def x87_depth(self) -> int:
        """x86: how many values are on the x87 stack."""
        tags = self.peek("FPTAG")
        return sum(tags >> 2 * n & 3 != 3 for n in range(8))

    def save(self) -> Snapshot:
        return Snapshot(self, self._uc.context_save())

    def restore(self, snapshot: Snapshot) -> None:
        if snapshot._machine is not self:
            raise MachineError("a snapshot fits only the machine that it was taken from")
        self._require_rest("registers cannot be restored")
        self._uc.context_restore(snapshot._context)

    def reset(self) -> None:
        """All registers as in a new machine; memory and hooks stay."""
        self._require_rest("a machine cannot be reset")
        self._uc.context_restore(self._initial)

    # -- running

    def run(self, start: int, budget: int, until: int) -> Stop:
        """Execute from `start` until the instruction at `until` (which has to be mapped) is next, for at most
        `budget` instructions (an iteration of an x86 string instruction counts as one, and so does a redirection by
        `go`). Raises what a callback raises."""
        if budget < 1:
            raise ValueError(f"a budget of {budget} instructions")
        self._require_rest("a run cannot start")
        if self._spoiled:
            self._renew()
        if until != self._until:
            # Translations know where a run ends.
            for address in (self._until, until):
                self._uc.ctl_remove_cache(address, address + 1)
            self._until = until
        self._running = True
        self._last = start
        self._budget = budget
        self._executed = 0
        self._outcome = None
        self._detail = ""
        self._fault_address = None
        self._error = None
        self._over = False
        try:
            status = _emu_start(self.handle, start, until, 0, 0)
        finally:
            self._running = False
            self._over = True
            while self._lent:
                self._uc.mem_unmap(self._lent.pop(), _PAGE)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._stop(status, until)

    def stop(self) -> None:
        """From a callback: end the run. In an instruction's callback that instruction is not executed."""
        self._end("stopped")

    def go(self, address: int) -> None:
        """From an instruction's callback: execute the instruction at `address` instead of this one. Not for one in
        a delay slot. From a system call's: go on there."""
        if not self._running:
            raise MachineError("nothing runs that could go elsewhere")
        self._moved = True
        self._put_number(self._pc_number, address)

    # -- callbacks

    def on_instruction(self, callback: InstructionCallback, begin: int = 0, end: int = (1 << 64) - 1) -> Hook:
        """Call `callback(address, bytes)` before each instruction from `begin` to `end`, both included.

        Those for a range are called before those for one address; otherwise the first to come is the first to be
        called. After `go` or `stop` the others are not called for this instruction."""
        if begin == end:
            single = self._at.setdefault(begin, [])
            single.append(callback)
            self._ranges.pop(begin, None)

            def forget() -> None:
                single.remove(callback)
                if not single and self._at.get(begin) is single:
                    del self._at[begin]
                self._ranges.pop(begin, None)

            return Hook(forget)
        entry = (begin, end, callback)
        # A list that is being walked must not change: it is replaced.
        self._everywhere = [*self._everywhere, entry]
        self._ranges = {}

        def drop() -> None:
            self._everywhere = [other for other in self._everywhere if other is not entry]
            self._ranges = {}

        return Hook(drop)

    def on_write(self, callback: WriteCallback) -> Hook:
        """Call `callback(address, bytes, value, pc)` before each store that Unicorn reports (some it does not: see the
        module's text). The value is an integer, unsigned."""
        self._watch(unicorn_const.UC_HOOK_MEM_WRITE, self._on_write)
        self.ignore_stores(0, 0)
        self._writes = [*self._writes, callback]

        def drop() -> None:
            self._writes = [other for other in self._writes if other is not callback]

        return Hook(drop)

    def on_read(self, callback: ReadCallback) -> Hook:
        """Call `callback(address, bytes, pc)` before each load."""
        self._watch(unicorn_const.UC_HOOK_MEM_READ, self._on_read)
        self._reads = [*self._reads, callback]

        def drop() -> None:
            self._reads = [other for other in self._reads if other is not callback]

        return Hook(drop)

    def ignore_stores(self, begin: int, end: int) -> None:
        """Call nobody for stores that begin from `begin` on and before `end`, until the next call of this or of
        `on_write`. Most stores of most code are to its own frame."""
        if self._ignored == (begin, end):
            return
        self._ignored = begin, end
        if unicorn_const.UC_HOOK_MEM_WRITE in self._hooks:
            while self._store_hooks:
                _check(uclib.uc_hook_del(self.handle, self._store_hooks.pop()))
            self._hook_stores()

    def on_system_call(self, callback: Callable[[int], None]) -> None:
        """Call `callback(address)` when the instruction at an address calls the kernel by the system's ABI for this
        machine; without it that is a fault. The callback does what the kernel does, and says by `go` where the code
        goes on."""
        self._system_call = callback

    # -- for set-up, by this module only

    def number(self, name: str) -> int:
        """Unicorn's number for the register that it calls `name`."""
        if name not in self._numbers:
            self._numbers[name] = getattr(self._constants, f"UC_{self._family.prefix}_REG_{name}")
        return self._numbers[name]

    def put(self, name: str, value: Any) -> None:
        """Write what Unicorn calls `name`."""
        self._uc.reg_write(self.number(name), value)

    def peek(self, name: str) -> int:
        return self._peek_number(self.number(name))

    def put_field(self, number: int, shift: int, mask: int, value: int) -> None:
        whole = self._peek_number(number)
        self._put_number(number, whole & ~(mask << shift) | (value & mask) << shift)

    def boot(self, code: bytes, until: int) -> None:
        """Run set-up code, of which callbacks hear nothing, as if at BOOT, up to `until`; in the next page that is
        free if that one is taken, so it has to be position independent."""
        page = BOOT
        taken = list(self._uc.mem_regions())
        while any(low <= page <= high for low, high, _ in taken):
            page += _PAGE
        self._uc.mem_map(page, _PAGE)
        self._uc.mem_write(page, code)
        try:
            self._uc.emu_start(page, page + until - BOOT, count=16)
        except UcError as error:
            raise MachineError(f"{self.architecture.name}: set-up failed: {error}") from None
        finally:
            self._uc.mem_unmap(page, _PAGE)

    def forbid(self, instruction: str, detail: str) -> None:
        """Make an instruction that Unicorn lets do nothing a fault."""

        def fail(*_arguments: object) -> int:
            if not self._calls_kernel(detail):
                self.fail(detail)
            elif self._moved:
                # The instruction's two bytes are added when the hook is done.
                self._put_number(self._pc_number, self._peek_number(self._pc_number) - 2)
            return 0

        number = getattr(self._constants, f"UC_{self._family.prefix}_INS_{instruction}")
        self._uc.hook_add(unicorn_const.UC_HOOK_INSN, fail, aux1=number)

    @contextmanager
    def borrowed_page(self) -> Iterator[int]:
        """A page of 32-bit address space that nothing else uses."""
        taken = list(self._uc.mem_regions())
        page = next(p for p in range(0xFFFFF000, 0, -_PAGE) if not any(low <= p <= high for low, high, _ in taken))
        self.map(page, _PAGE)
        try:
            yield page
        finally:
            self.unmap(page, _PAGE)

    def image(self) -> int:
        """The address (in this process) of a fresh copy of the CPU state."""
        self._uc.context_update(self._image)
        address: int = self._image.context.value
        return address

    def set_image(self) -> None:
        """Make the copy, as it has been changed, the CPU state."""
        self._uc.context_restore(self._image)

    def x87_top(self) -> int:
        if not self.x87_depth:
            return 0
        value = self._peek_number(self.number("ST0"))
        return to_double(value >> 79, value >> 64 & 0x7FFF, value & (1 << 64) - 1)

    def set_x87_top(self, double: int) -> None:
        """Make this the only value on the stack."""
        self.put("FPSW", self.peek("FPSW") & ~0x3800 | 7 << 11)
        self.put("FPTAG", 0x3FFF)
        sign, exponent, mantissa = from_double(double)
        self._put_number(self.number("ST0"), sign << 79 | exponent << 64 | mantissa)

    def fail(self, detail: str, address: int | None = None) -> None:
        """End the run with a fault at the current instruction."""
        if self._outcome is None or self._outcome == "budget":
            self._detail = detail
            self._fault_address = address
            self._fault_pc = self._last
        self._end("fault")

    # -- inside

    def _lay_out(self) -> _Layout:
        known = _LAYOUTS.get(self.architecture)
        if known is not None:
            return known
        family = self._family
        family.survey(self)
        self._uc.context_restore(self._initial)
        places: dict[str, Place] = {}
        unknown: dict[str, str] = {}
        writable: dict[str, int] = {}
        bits: dict[str, int] = {}
        for register in self.architecture.registers.values():
            name = register.name
            place = family.place(self, register)
            if isinstance(place, str):
                unknown[name] = place
                continue
            if not all(hasattr(self._constants, f"UC_{family.prefix}_REG_{piece}") for piece in place.pieces):
                unknown[name] = "Unicorn gives no access to it"
                continue
            places[name] = place
            bits[name] = register.bits
            writable[name] = family.writable(register) & (1 << register.bits) - 1
        everything = _Layout(places, unknown, writable, dict.fromkeys(places, 0), bits)
        names = tuple(places)
        values = _Transfer(self, everything, names).read()
        rest = {name: value & ~writable[name] for name, value in zip(names, values, strict=True)}
        layout = _Layout(places, unknown, writable, rest, bits)
        _LAYOUTS[self.architecture] = layout
        return layout

    def _require(self, name: str) -> None:
        if name not in self._layout.places:
            why = self._layout.unknown.get(name, f"{self.architecture.name} has no such register")
            raise MachineError(f"{name} cannot be read or written: {why}")

    def _require_rest(self, what: str) -> None:
        if self._running:
            raise MachineError(f"{what} while code runs")

    def _transfer(self, registers: tuple[Register, ...]) -> _Transfer:
        transfer = self._transfers.get(registers)
        if transfer is None:
            names = tuple(register.name for register in registers)
            for name in names:
                self._require(name)
            transfer = self._transfers[registers] = _Transfer(self, self._layout, names)
        return transfer

    def _peek_number(self, number: int) -> int:
        cell = self._cell
        cell[0] = cell[1] = 0
        peek = self._peeks.get(number)
        if peek is None:
            peek = self._peeks[number] = self._reader(number, cell)
        _check(peek())
        value: int = cell[1] << 64 | cell[0]
        return value

    def _reader(self, number: int, cell: Any) -> Callable[[], int]:
        """Puts a register into a cell. The arguments are made once, and not looked at by ctypes in each call."""
        handle = ctypes.cast(self.handle, ctypes.c_void_p)
        return partial(_UNDECLARED.uc_reg_read, handle, ctypes.c_int(number), ctypes.byref(cell))

    def _put_number(self, number: int, value: int) -> None:
        ctypes.memmove(self._cell, value.to_bytes(16, "little"), 16)
        _check(uclib.uc_reg_write(self.handle, number, self._cell))

    def _open(self) -> Any:
        engines = self.architecture.engines
        mode = 0
        for name in engines.unicorn_mode:
            mode |= getattr(unicorn_const, name)
        engine: Any = Uc(getattr(unicorn_const, engines.unicorn_arch), mode)
        if engines.unicorn_cpu is not None:
            engine.ctl_set_cpu_model(getattr(self._constants, engines.unicorn_cpu))
        if self._family.virtual_tlb:
            engine.ctl_set_tlb_mode(unicorn_const.UC_TLB_VIRTUAL)
        engine.ctl_set_tcg_buffer_size(_TRANSLATION_BUFFER)
        return engine

    def _renew(self) -> None:
        """Go on in a new engine: same registers, memory and hooks. Snapshots fit it too, they hold no addresses."""
        old, state = self._uc, self._uc.context_save()
        self._uc = self._open()
        self.handle = self._uc._uch
        self._peeks = {}
        self._family.prepare(self)
        ours = {mapped.base: mapped for mapped in self._memory}
        for low, high, rights in old.mem_regions():
            if low in ours and ours[low].end == high + 1:
                self._uc.mem_map_ptr(low, high - low + 1, rights, ctypes.addressof(ours[low].first))
                continue
            self._uc.mem_map(low, high - low + 1, rights)
            self._uc.mem_write(low, bytes(old.mem_read(low, high - low + 1)))
        self._uc.context_restore(state)
        self._read_sp = self._reader(self._sp_number, self._sp_cell)
        self._add_hooks()
        self._spoiled = False

    def _add_hooks(self) -> None:
        for kind, function in self._hooks.items():
            if kind == unicorn_const.UC_HOOK_MEM_WRITE:
                self._hook_stores()
            else:
                self._hook(kind, function)
        self._uc.hook_add(unicorn_const.UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(unicorn_const.UC_HOOK_MEM_INVALID, self._on_invalid_access)

    def _hook(self, kind: int, function: Any, begin: int = 1, end: int = 0) -> Any:
        """For addresses from `begin` to `end`, both included; for all where nothing is between them."""
        hook = ctypes.c_size_t()
        callback = ctypes.cast(function, ctypes.c_void_p)
        where = ctypes.c_uint64(begin), ctypes.c_uint64(end)
        _check(uclib.uc_hook_add(self.handle, ctypes.byref(hook), kind, callback, None, *where))
        return hook

    def _hook_stores(self) -> None:
        begin, end = self._ignored
        ranges = [(0, begin - 1), (end, (1 << 64) - 1)] if begin < end else [(1, 0)]
        kind = unicorn_const.UC_HOOK_MEM_WRITE
        self._store_hooks = [self._hook(kind, self._hooks[kind], *where) for where in ranges if where != (0, -1)]

    def _watch(self, kind: int, function: Callable[..., None]) -> None:
        if kind in self._hooks:
            return
        self._require_rest("the first callback for reads or writes cannot be added")
        if self._family.decodes:
            return
        self._hooks[kind] = _MEMORY_CALLBACK(function)
        if kind == unicorn_const.UC_HOOK_MEM_WRITE:
            self._hook_stores()
        else:
            self._hook(kind, self._hooks[kind])
        self._uc.ctl_flush_tb()

    def _end(self, outcome: Literal["budget", "stopped", "fault"]) -> None:
        if not self._running:
            raise MachineError("nothing runs that could be stopped")
        if self._outcome != "fault":
            self._outcome = outcome
        self._over = True
        uclib.uc_emu_stop(self.handle)

    def _caught(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._over = True
        uclib.uc_emu_stop(self.handle)

    def _on_code(self, _engine: object, address: int, size: int, _key: object) -> None:
        try:
            callbacks = self._ranges.get(address)
            if callbacks is None:
                callbacks = self._begin_at(address)
            if self._over:
                return
            executed = self._executed
            if executed == self._budget:
                self._end("budget")
                return
            self._executed = executed + 1
            self._last = address
            self._moved = False
            for callback in callbacks:
                callback(address, size)
                if self._moved or self._over:
                    return
            if self._decodes and (self._writes or self._reads):
                self._tell(address)
        except BaseException as error:
            self._caught(error)

    def _begin_at(self, address: int) -> tuple[InstructionCallback, ...]:
        """Who is called for an address, which is executed for the first time: a translation from there on goes no
        further than into the next page."""
        page = address // _PAGE
        self._translated |= {page - 1, page, page + 1}
        self._lowest, self._highest = min(self._lowest, page - 1), max(self._highest, page + 1)
        if len(self._ranges) >= _MOST_ADDRESSES:
            self._ranges, self._touching = {}, {}
        found = [c for begin, end, c in self._everywhere if begin <= address <= end]
        callbacks = self._ranges[address] = (*found, *self._at.get(address, ()))
        return callbacks

    def _tell(self, address: int) -> None:
        """Call those who watch memory, for the instruction that comes next."""
        if address not in self._touching:
            self._touching[address] = self._family.access(self, address)
        access = self._touching[address]
        if access is None or not (self._writes if access.kind == "write" else self._reads):
            return
        kind, place, size, value = self._family.touch(self, access)
        if kind == "write":
            if not self._ignored[0] <= place < self._ignored[1]:
                for write_callback in self._writes:
                    write_callback(place, size, value, address)
            if place // _PAGE in self._translated:
                self._touching = {}  # the code may change itself
        else:
            for read_callback in self._reads:
                read_callback(place, size, address)

    def _on_write(self, _engine: object, _kind: int, address: int, size: int, value: int, _key: object) -> None:
        try:
            if self._error is None:
                for callback in self._writes:
                    callback(address, size, value & (1 << 8 * size) - 1, self._last)
        except BaseException as error:
            self._caught(error)

    def _on_read(self, _engine: object, _kind: int, address: int, size: int, _value: int, _key: object) -> None:
        try:
            if self._error is None:
                for callback in self._reads:
                    callback(address, size, self._last)
        except BaseException as error:
            self._caught(error)

    def _on_exception(self, _uc: object, number: int, _data: object) -> None:
        if self._calls_kernel(self._family.exceptions.get(number, "")):
            return
        self._spoiled |= number in self._family.spoiling
        self.fail(self._family.exceptions.get(number, f"exception or interrupt {number:#x}"))

    def _calls_kernel(self, detail: str) -> bool:
        """Whether the current instruction is a system call that somebody answers."""
        if detail != self._family.system_call or self._system_call is None:
            return False
        try:
            if self._error is None and self._outcome is None:
                self._moved = False
                self._system_call(self._last)
                if not self._moved and self._outcome is None:
                    raise MachineError("a system call was answered, and not said where to go on")
        except BaseException as error:
            self._caught(error)
        return True

    def _on_invalid_access(self, _uc: object, kind: int, address: int, size: int, _value: int, _data: object) -> bool:
        if kind != unicorn_const.UC_MEM_FETCH_UNMAPPED:
            self.fail(f"{_INVALID_ACCESS[kind]} {address:#x} ({size} bytes)", address)
            return False
        first = self._outcome != "fault"
        self.fail(f"{_INVALID_ACCESS[kind]} {address:#x}", address)
        if first:  # what is translated from there may reach into the next page
            self._fault_pc = address
        # The run is over. If the fetch failed all the same, in the midst of a translation, Unicorn's translator could
        # be spoiled: so it succeeds, and what is found there is not executed.
        page = address & -_PAGE
        if page + _PAGE >> 8 * self.architecture.word:
            self._spoiled = True  # behind the last page of all Unicorn loses its way, and the process with it
            return False
        try:
            self._uc.mem_map(page, _PAGE)
        except UcError:
            self._spoiled = bool(self._family.spoiling)
            return False
        self._lent.append(page)
        return True

    def _stop(self, status: int, until: int) -> Stop:
        if self._outcome == "fault":
            return self._fault(self._fault_pc, self._detail, self._fault_address)
        if status:
            illegal = status == unicorn_const.UC_ERR_INSN_INVALID
            return self._fault(self._last, "illegal instruction" if illegal else _status(status))
        pc = self.pc
        if self._outcome is None:
            if pc != until and self._family.boundary and self._last + self._family.boundary == until:
                pc = self.pc = until
            if pc == until:
                return Stop("reached", pc, f"reached {until:#x}", self._executed)
            return self._fault(self._last, "the machine stopped by itself, as an instruction that waits makes it do")
        if self._outcome == "budget":
            return Stop("budget", pc, f"{self._executed} instructions and not at {until:#x}", self._executed)
        return Stop("stopped", pc, "stopped by a callback", self._executed)

    def _fault(self, pc: int, detail: str, address: int | None = None) -> Stop:
        self.pc = pc
        return Stop("fault", pc, detail, self._executed, address, detail in self._family.trap)
