"""Run machine code: Unicorn, for every machine, behind one class.

This is the only module that knows Unicorn, and this is what it knows (version 2.1.4, measured):

* Code runs in user mode, as it would under Linux: privileged instructions trap. Unicorn resets most machines into
  kernel mode, where `hlt` on amd64 ends a run as if all were well.
* Unicorn does not see that memory which holds translated code was written from outside; `write` tells it. It does not
  see hooks that come after a translation either; those that it must see are there from the start or flush.
* One code hook is always there. It counts instructions, so that a budget is exact, and it knows the instruction that
  ran last, which Unicorn forgets on mips when an exception is raised.
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
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

from unicorn import arm64_const, arm_const, mips_const, ppc_const, s390x_const, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import HOOK_CODE_CFUNC, HOOK_MEM_ACCESS_CFUNC, Uc, UcError, uclib

from .target import Architecture, Bank, Register

_TRANSLATION_BUFFER = 16 << 20  # bytes; Unicorn's own choice reserves 1 GiB of address space for each machine
_PAGE = 0x1000
_BOOT = 0x10000  # where set-up code runs, before a machine is handed out; nothing stays mapped there

InstructionCallback = Callable[[int, int], None]  # address, bytes
WriteCallback = Callable[[int, int, int, int], None]  # address, bytes, value, address of the instruction
ReadCallback = Callable[[int, int, int], None]  # address, bytes, address of the instruction

_INVALID_ACCESS: Mapping[int, str] = {
    unicorn_const.UC_MEM_READ_UNMAPPED: "read of unmapped",
    unicorn_const.UC_MEM_WRITE_UNMAPPED: "write to unmapped",
    unicorn_const.UC_MEM_FETCH_UNMAPPED: "execution of unmapped",
    unicorn_const.UC_MEM_WRITE_PROT: "write to read-only",
}


class MachineError(Exception):
    """The emulator was asked for something that it cannot do; the text says what and why."""


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


# ------------------------------------------------------------------------------------------- where registers are


@dataclass(frozen=True, slots=True)
class _Place:
    """Where Unicorn has a register.

    `pieces`: its numbers for the register, the least significant 64 bits first (a number may stand for 128 bits).
    `shift`: the register is a field of the piece and starts at that bit; the rest of the piece is not its own.
    `image`: not a piece but `size` bytes that far into a saved CPU state, in the host's byte order, which is
    little-endian wherever Unicorn's wheels run.
    `x87`: the top of the x87 stack, as a double.
    """

    pieces: tuple[int, ...] = ()
    shift: int = 0
    image: int = 0
    size: int = 16
    x87: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is found once for an architecture: its registers' places and what can be written there."""

    places: Mapping[str, _Place]
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
            (number, self._base + 16 * slot + 8 * part)
            for slot, place in enumerate(places)
            for part, number in enumerate(place.pieces)
        ]
        self._read_count, self._read_numbers, self._read_pointers = _batch(pieces)
        whole = [
            (number, self._base + 16 * slot + 8 * part)
            for slot, place in enumerate(places)
            for part, number in enumerate(place.pieces)
            if not place.shift
        ]
        self._write_count, self._write_numbers, self._write_pointers = _batch(whole)
        self._images = list(_runs([(16 * slot, p.image, p.size) for slot, p in enumerate(places) if p.image]))
        self._fields = [(slot, place) for slot, place in enumerate(places) if place.shift]
        self._x87 = [slot for slot, place in enumerate(places) if place.x87]
        self._writable = [layout.writable[name] for name in names]
        self._rest = [layout.rest[name] for name in names]
        self._masks = [(1 << layout.bits[name]) - 1 for name in names]

    def read(self) -> list[int]:
        machine = self._machine
        _check(uclib.uc_reg_read_batch(machine.handle, self._read_numbers, self._read_pointers, self._read_count))
        if self._images:
            image = machine.image()
            for slot, offset, size in self._images:
                ctypes.memmove(self._base + slot, image + offset, size)
        raw = self._buffer.raw
        values = [int.from_bytes(raw[at : at + 16], "little") for at in range(0, 16 * self._count, 16)]
        for slot, place in self._fields:
            values[slot] >>= place.shift
        for slot in self._x87:
            values[slot] = machine.x87_top()
        return [value & mask for value, mask in zip(values, self._masks, strict=True)]

    def write(self, values: Iterable[int]) -> None:
        machine = self._machine
        whole = [value & mask | rest for value, mask, rest in zip(values, self._writable, self._rest, strict=True)]
        data = b"".join([value.to_bytes(16, "little") for value in whole])
        ctypes.memmove(self._base, data, len(data))
        _check(uclib.uc_reg_write_batch(machine.handle, self._write_numbers, self._write_pointers, self._write_count))
        for slot, place in self._fields:
            machine.put_field(place.pieces[0], place.shift, self._writable[slot], whole[slot])
        if self._images:
            image = machine.image()
            for slot, offset, size in self._images:
                ctypes.memmove(image + offset, self._base + slot, size)
            machine.set_image()
        for slot in self._x87:
            machine.set_x87_top(whole[slot])


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


# ------------------------------------------------------------------------------------------------------- families


class _Family:
    """How one family's machines are set up, and the names that Unicorn has for things."""

    constants: ModuleType
    prefix: str
    pc: str
    exceptions: ClassVar[Mapping[int, str]]
    boundary = 0  # bytes of an instruction after which Unicorn leaves pc behind when it stops at `until`; see mips
    never: ClassVar[Mapping[str, str]] = {}  # registers that Unicorn knows and does not let through

    def number(self, name: str) -> int:
        number: int = getattr(self.constants, self.prefix + name)
        return number

    def spelling(self, register: Register) -> str:
        """Unicorn's name for the register, without the prefix."""
        return register.name.upper()

    def place(self, machine: Machine, register: Register) -> _Place | str:
        """Where the register is, or why it is nowhere."""
        spelling = self.spelling(register)
        if spelling in self.never:
            return self.never[spelling]
        if not hasattr(self.constants, self.prefix + spelling):
            return "Unicorn gives no access to it"
        return _Place((self.number(spelling),))

    def writable(self, register: Register) -> int:
        """The bits that can hold any value while code runs."""
        return (1 << register.bits) - 1

    def prepare(self, machine: Machine) -> None:
        """Switch floating point on and go to user mode."""

    def survey(self, machine: Machine) -> None:
        """Learn, once for an architecture and before the first `place`, what only a running machine shows."""

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        raise NotImplementedError

    def set_segment_base(self, machine: Machine, name: str, value: int) -> None:
        raise MachineError(f"{machine.architecture.name} has no segments")


class _X86(_Family):
    constants, prefix = x86_const, "UC_X86_REG_"
    exceptions: ClassVar[Mapping[int, str]] = {
        0: "division by zero or overflow (#DE)",
        1: "debug trap (#DB)",
        3: "breakpoint (int3)",
        4: "overflow trap (#OF)",
        5: "bound exceeded (#BR)",
        6: "illegal instruction (#UD)",
        7: "x87 not available (#NM)",
        8: "double fault (#DF)",
        11: "segment not present (#NP)",
        12: "stack segment fault (#SS)",
        13: "privileged instruction or bad segment (#GP)",
        14: "page fault (#PF)",
        16: "x87 exception (#MF)",
        17: "misaligned access (#AC)",
        19: "SSE exception (#XM)",
    }

    def __init__(self, word: int) -> None:
        self._long = word == 8
        self.pc = "RIP" if self._long else "EIP"

    def place(self, machine: Machine, register: Register) -> _Place | str:
        if register.name == "st0" and register.bits == 64:
            return _Place(x87=True)
        return super().place(machine, register)

    def writable(self, register: Register) -> int:
        match register.name:
            case "eflags":
                return 0xCD5  # CF PF AF ZF SF DF OF. TF would trap, and user mode cannot change the others.
            case "mxcsr":
                return 0xFFFF  # SDM 10.2.3: loading a reserved bit traps
            case "fpcw":
                return 0x1F3F  # SDM 8.1.5: bit 6 reads as one, 7 and 13-15 as zero
            case _:
                return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        # `sysexit` loads flat user mode segments by itself (SDM volume 2B), so no descriptor table is needed. It takes
        # the selectors from a model-specific register, pc from edx and sp from ecx.
        machine.put("MSR", (0x174, 8))
        machine.put("EDX", _BOOT + 0x10)
        machine.boot(b"\x48\x0f\x35" if self._long else b"\x0f\x35", _BOOT + 0x10)
        for name in ("ECX", "EDX", self.pc):
            machine.put(name, 0)
        machine.put("EFLAGS", 0x202)
        machine.put("FPCW", 0x37F)  # what Linux starts a process with, as for MXCSR
        machine.put("MXCSR", 0x1F80)
        machine.put("FPTAG", 0xFFFF)
        # These four neither trap nor stop in Unicorn.
        for instruction, text in (
            (x86_const.UC_X86_INS_SYSCALL, "system call (syscall)"),
            (x86_const.UC_X86_INS_SYSENTER, "system call (sysenter)"),
            (x86_const.UC_X86_INS_IN, "privileged instruction (in)"),
            (x86_const.UC_X86_INS_OUT, "privileged instruction (out)"),
        ):
            machine.hook_instruction(instruction, text)

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        self.set_segment_base(machine, "fs" if self._long else "gs", value)

    def set_segment_base(self, machine: Machine, name: str, value: int) -> None:
        if name not in ("fs", "gs"):
            raise MachineError(f"{name} is not a segment register with a base: fs and gs are")
        if self._long:
            machine.put(f"{name.upper()}_BASE", value)
            return
        # A selector's base is read from a descriptor when the selector is loaded and kept inside the CPU: the table
        # can go at once. Flat 4 GiB, read and write, user mode (SDM volume 3A, 3.4.5).
        index = {"fs": 1, "gs": 2}[name]
        descriptor = 0xFFFF | (value & 0xFFFFFF) << 16 | 0xF3 << 40 | 0xCF << 48 | (value >> 24) << 56
        with machine.borrowed_page() as page:
            machine.write(page + 8 * index, descriptor.to_bytes(8, "little"))
            machine.put("GDTR", (0, page, 8 * index + 7, 0))
            machine.put(name.upper(), index << 3 | 3)


class _Arm(_Family):
    constants, prefix, pc = arm_const, "UC_ARM_REG_", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "illegal instruction",
        2: "system call (svc)",
        3: "prefetch abort",
        4: "data abort",
        7: "breakpoint (bkpt)",
        17: "coprocessor not available",
        18: "illegal processor state",
    }

    def place(self, machine: Machine, register: Register) -> _Place | str:
        if register.name in ("cpsr", "apsr", "nzcv", "flags"):
            return _Place((self.number("APSR"),), shift=28 if register.bits == 4 else 0)
        return super().place(machine, register)

    def writable(self, register: Register) -> int:
        match register.name:
            case "fpscr":
                # DDI 0406C B4.1.58: flags, AHP, DN, FZ, RMode and the cumulative bits. A length or stride other
                # than 0 makes vector operations of the old kind, which this machine refuses; trap enables read as 0.
                return 0xFFC0009F
            case "cpsr" | "apsr" | "nzcv" | "flags":
                # N Z C V Q; the rest is mode and state, or (GE) not in all machines
                return 0xF8000000 if register.bits == 32 else (1 << register.bits) - 1
            case _:
                return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        machine.put("FPEXC", 1 << 30)
        machine.put("CPSR", 0x10)  # user mode, ARM state; sp and lr are banked, so this comes before them

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        machine.put("C13_C0_3", value)  # TPIDRURO


class _Arm64(_Family):
    constants, prefix, pc = arm64_const, "UC_ARM64_REG_", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "illegal or privileged instruction",
        2: "system call (svc)",
        3: "prefetch abort",
        4: "data abort",
        7: "breakpoint (brk)",
    }

    def place(self, machine: Machine, register: Register) -> _Place | str:
        if register.name == "nzcv":
            return _Place((self.number("NZCV"),), shift=28 if register.bits == 4 else 0)
        return super().place(machine, register)

    def writable(self, register: Register) -> int:
        match register.name:
            case "fpcr":
                return 0x07C00000  # AHP, DN, FZ, RMode: DDI 0487 C5.2.8, without the extensions' bits
            case "fpsr":
                return 0x0800009F  # QC and the cumulative bits: DDI 0487 C5.2.10
            case "nzcv":
                return 0xF0000000 if register.bits >= 32 else (1 << register.bits) - 1
            case _:
                return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        machine.put("CPACR_EL1", 3 << 20)
        # Writing PSTATE leaves Unicorn with an idea of the old mode; an exception return does not.
        # msr spsr_el1, xzr; mov x0, #0x10000; add x0, x0, #0x40; msr elr_el1, x0; mov x0, #0; eret
        words = (0xD518401F, 0xD2A00020, 0x91010000, 0xD5184020, 0xD2800000, 0xD69F03E0)
        machine.boot(b"".join(word.to_bytes(4, "little") for word in words), _BOOT + 0x40)

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        machine.put("TPIDR_EL0", value)


class _Mips(_Family):
    constants, prefix, pc = mips_const, "UC_MIPS_REG_", "PC"
    boundary = 4
    exceptions: ClassVar[Mapping[int, str]] = {
        12: "misaligned load or execution, or an address that user mode cannot reach (AdEL)",
        13: "misaligned store, or an address that user mode cannot reach (AdES)",
        16: "breakpoint (sdbbp)",
        17: "system call (syscall)",
        18: "breakpoint (break)",
        19: "privileged instruction, or coprocessor not available (CpU)",
        20: "illegal instruction (RI)",
        21: "integer overflow (Ov)",
        22: "trap (Tr)",
        23: "floating point exception (FPE)",
    }
    never: ClassVar[Mapping[str, str]] = {"FIR": "Unicorn reads it as 0"}

    def __init__(self, word: int) -> None:
        self._long = word == 8

    def spelling(self, register: Register) -> str:
        # By number: Unicorn knows the names of o32 only, and those of n64 mean other registers.
        return str(register.number) if register.bank is Bank.INTEGER else super().spelling(register)

    def writable(self, register: Register) -> int:
        match register.name:
            case "zero":
                return 0
            case "fcsr":
                # Condition codes, FS, enables, flags, rounding mode (MD00086, FCSR). A cause bit with its enable
                # raises the exception on the spot.
                return 0xFF800FFF
            case _:
                return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        # `rdhwr $29` gives the thread pointer to user mode if HWREna bit 29 says so, which can be set only where
        # Config3.ULRI says that the register exists.
        machine.put("CP0_CONFIG3", machine.peek("CP0_CONFIG3") | 1 << 13)
        machine.put("V0", 1 << 29)
        order = machine.architecture.order
        machine.boot((0x40823800).to_bytes(4, order) + bytes(4), _BOOT + 8)  # mtc0 $v0, HWREna; nop
        machine.put("V0", 0)
        # User mode (KSU = 2, ERL = 0), CU1. 64-bit: FR, and 64-bit addresses in every mode (KX SX UX). 32-bit: FR as
        # wide as the registers are said to be.
        registers = machine.architecture.registers
        wide = self._long or ("f0" in registers and registers["f0"].bits == 64)
        machine.put("CP0_STATUS", 0x20000010 | (0xE0 if self._long else 0) | (0x04000000 if wide else 0))
        machine.put("PC", 0)

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        machine.put("CP0_USERLOCAL", value)


class _Ppc(_Family):
    constants, prefix, pc = ppc_const, "UC_PPC_REG_", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        2: "data storage interrupt",
        3: "instruction storage interrupt",
        5: "misaligned access",
        6: "privileged instruction or trap",
        7: "floating point not available",
        8: "system call (sc)",
        73: "AltiVec not available",
        94: "VSX not available",
        96: "illegal instruction",
    }
    never: ClassVar[Mapping[str, str]] = {"XER": "Unicorn writes it whole and reads it without SO, OV and CA"}

    def spelling(self, register: Register) -> str:
        name = register.name
        if re.fullmatch(r"r\d+", name):
            return name[1:]
        if re.fullmatch(r"f\d+", name):
            return "FPR" + name[1:]
        return name.upper()

    def place(self, machine: Machine, register: Register) -> _Place | str:
        if re.fullmatch(r"v\d+", register.name):
            return _Place(image=self._vectors + 16 * register.number, size=16)
        if register.name == "vrsave":
            return _Place(image=self._vrsave, size=8)
        if register.name == "vscr":
            return _Place(image=self._vscr, size=4)
        return super().place(machine, register)

    def survey(self, machine: Machine) -> None:
        """Find v0 (the others follow, 16 bytes each), VRSAVE and VSCR in a saved CPU state, by values put there."""
        markers = first, last, vrsave, vscr = 0x5EED_F100_0000_0001, 0x5EED_F100_0000_0031, 0x5EED_0256, 0x5EED_2560
        machine.put("FPR0", first)
        machine.put("FPR31", last)
        machine.put("3", vrsave)
        words = 0x7C6043A6, 0x38600000  # mtspr 256, r3; li r3, 0
        order = machine.architecture.order
        machine.boot(b"".join(word.to_bytes(4, order) for word in words), _BOOT + 8)
        image = ctypes.string_at(machine.image(), machine.image_bytes)
        # f0 is the left half of the first of 64 vector-scalar registers, and v0 is the 33rd. The host is
        # little-endian, so the left half comes second.
        self._vectors = image.find(first.to_bytes(8, "little")) - 8 + 32 * 16
        v0 = machine.image() + self._vectors
        ctypes.memmove(v0, vscr.to_bytes(16, "little"), 16)
        machine.set_image()
        words = 0x10000644, 0x100004C4  # mtvscr v0; vxor v0, v0, v0
        machine.boot(b"".join(word.to_bytes(4, order) for word in words), _BOOT + 8)
        image = ctypes.string_at(machine.image(), machine.image_bytes)
        self._vrsave = image.find(vrsave.to_bytes(8, "little"))
        self._vscr = image.find(vscr.to_bytes(4, "little"))
        if [image.count(marker.to_bytes(4 if marker == vscr else 8, "little")) for marker in markers] != [
            1,
            1,
            1,
            1,
        ] or image.find(last.to_bytes(8, "little")) - image.find(first.to_bytes(8, "little")) != 31 * 16:
            raise MachineError("this build of Unicorn keeps ppc64's registers in an order of its own")

    def writable(self, register: Register) -> int:
        if register.name == "fpscr":
            # FEX and VX are computed from other bits, FR and FI belong to the last operation, bit 11 is reserved
            # (Power ISA 2.07, I 4.2.2). The upper half, decimal rounding, is out of reach.
            return 0x9FF9F7FF
        if register.name == "vscr":
            return 0x10000  # NJ; SAT is elsewhere
        return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        little = machine.architecture.order == "little"
        # 64-bit, vector, VSX, user mode, floating point: SF, VEC, VSX, PR, FP; LE. Power ISA 2.07, III-S 3.2.1.
        machine.put("MSR", 1 << 63 | 1 << 25 | 1 << 23 | 1 << 14 | 1 << 13 | little)

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        machine.put("13", value)


class _S390x(_Family):
    constants, prefix, pc = s390x_const, "UC_S390X_REG_", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "external interruption",
        2: "system call (svc)",
        3: "program interruption: illegal or privileged operation, misaligned operand, or invalid data",
    }

    def place(self, machine: Machine, register: Register) -> _Place | str:
        # Bits 18-19 and 20-23 of the PSW, counted from the left.
        if register.name in ("cc", "pm"):
            return _Place((self.number("PSWM"),), shift={"cc": 44, "pm": 40}[register.name])
        if match := re.fullmatch(r"v(\d+)", register.name):
            # Unicorn calls the right half of a vector register "HI".
            return _Place((self.number(f"F{match[1]}_HI"), self.number(f"F{match[1]}")))
        return super().place(machine, register)

    def writable(self, register: Register) -> int:
        if register.name == "fpc":
            # Masks, flags, data exception code, decimal and binary rounding mode; loading a reserved bit or one of
            # the modes 4-6 is a specification exception. SA22-7832, "Floating-point-control register".
            return 0xFCFCFF73
        return super().writable(register)

    def prepare(self, machine: Machine) -> None:
        machine.put("CR0", 0x60000)  # all sixteen floating point registers, and vector registers
        machine.put("PSWM", 1 << 48 | 3 << 31)  # problem state, 64-bit addresses

    def set_thread_pointer(self, machine: Machine, value: int) -> None:
        machine.put("A0", value >> 32)
        machine.put("A1", value & 0xFFFFFFFF)


def _family(architecture: Architecture) -> _Family:
    match architecture.engines.unicorn_arch:
        case "UC_ARCH_X86":
            return _X86(architecture.word)
        case "UC_ARCH_ARM":
            return _Arm()
        case "UC_ARCH_ARM64":
            return _Arm64()
        case "UC_ARCH_MIPS":
            return _Mips(architecture.word)
        case "UC_ARCH_PPC":
            return _Ppc()
        case "UC_ARCH_S390X":
            return _S390x()
        case other:
            raise MachineError(f"{architecture.name}: no set-up is known for Unicorn's {other}")


# -------------------------------------------------------------------------------------------------------- machine

_LAYOUTS: dict[Architecture, _Layout] = {}


class Machine:
    """One CPU and its memory, which is empty at first.

    Registers are the architecture's records, known by their names. After a run that ended in a fault only `reset`
    and `restore` make the registers fit for another one: the CPU may be amid an exception.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        engines = architecture.engines
        self._family = _family(architecture)
        mode = 0
        for name in engines.unicorn_mode:
            mode |= getattr(unicorn_const, name)
        self._uc: Any = Uc(getattr(unicorn_const, engines.unicorn_arch), mode)
        if engines.unicorn_cpu is not None:
            self._uc.ctl_set_cpu_model(getattr(self._family.constants, engines.unicorn_cpu))
        self._uc.ctl_set_tlb_mode(unicorn_const.UC_TLB_VIRTUAL)
        self._uc.ctl_set_tcg_buffer_size(_TRANSLATION_BUFFER)
        self.handle: Any = self._uc._uch
        self._pc_number = self._family.number(self._family.pc)
        self._cell = ctypes.create_string_buffer(16)
        self._transfers: dict[tuple[str, ...], _Transfer] = {}
        self._everywhere: list[tuple[int, int, InstructionCallback]] = []
        self._at: dict[int, list[InstructionCallback]] = {}
        self._writes: list[WriteCallback] = []
        self._reads: list[ReadCallback] = []
        self._kept: list[Any] = []  # C callbacks have to outlive the hooks that hold them
        self._running = False
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

        self._family.prepare(self)
        self._image = self._uc.context_save()
        self.image_bytes: int = self._image.size
        self._initial = self._uc.context_save()
        self._layout = self._lay_out()
        self._hook(unicorn_const.UC_HOOK_CODE, HOOK_CODE_CFUNC(self._on_code))
        self._uc.hook_add(unicorn_const.UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(unicorn_const.UC_HOOK_MEM_INVALID, self._on_invalid_access)
        self._memory_hooks: dict[int, Any] = {}

    # -- memory

    def map(self, base: int, size: int, writable: bool = True) -> None:
        """Make `size` bytes of zeros at `base`; both are multiples of 4096. All memory can be executed: who must know
        where code runs has `on_instruction`."""
        rights = unicorn_const.UC_PROT_ALL if writable else unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_EXEC
        try:
            self._uc.mem_map(base, size, rights)
        except UcError as error:
            raise MachineError(f"cannot map {size:#x} bytes at {base:#x}: {error}") from None

    def unmap(self, base: int, size: int) -> None:
        try:
            self._uc.mem_unmap(base, size)
        except UcError as error:
            raise MachineError(f"cannot unmap {size:#x} bytes at {base:#x}: {error}") from None

    def read(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        if uclib.uc_mem_read(self.handle, address, data, size):
            raise MachineError(f"cannot read {size} bytes at {address:#x}: not all of them are mapped")
        return data.raw

    def write(self, address: int, data: bytes) -> None:
        """Store `data`, whatever the protection. Code that was there is forgotten."""
        if not data:
            return
        if uclib.uc_mem_write(self.handle, address, data, len(data)):
            raise MachineError(f"cannot write {len(data)} bytes at {address:#x}: not all of them are mapped")
        self._uc.ctl_remove_cache(address, address + len(data))

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
        return self._transfer((register.name,)).read()[0]

    def set(self, register: Register, value: int) -> None:
        self._transfer((register.name,)).write((value,))

    def get_many(self, registers: Iterable[Register]) -> dict[Register, int]:
        """Several registers at once, at little more than the cost of one."""
        wanted = tuple(registers)
        values = self._transfer(tuple([register.name for register in wanted])).read()
        return dict(zip(wanted, values, strict=True))

    def set_many(self, values: Mapping[Register, int]) -> None:
        self._transfer(tuple([register.name for register in values])).write(values.values())

    def read_registers(self, registers: Sequence[Register]) -> list[int]:
        """As `get_many`, in the order of `registers`: hashing a hundred of them takes longer than reading them."""
        return self._transfer(tuple([register.name for register in registers])).read()

    def write_registers(self, registers: Sequence[Register], values: Iterable[int]) -> None:
        self._transfer(tuple([register.name for register in registers])).write(values)

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
        return self.get(self.architecture.sp)

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
        self._running = True
        self._last = start
        self._budget = budget
        self._executed = 0
        self._outcome = None
        self._detail = ""
        self._fault_address = None
        self._error = None
        try:
            status = uclib.uc_emu_start(self.handle, start, until, 0, 0)
        finally:
            self._running = False
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
        a delay slot."""
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

            def forget() -> None:
                single.remove(callback)
                if not single and self._at.get(begin) is single:
                    del self._at[begin]

            return Hook(forget)
        entry = (begin, end, callback)
        # A list that is being walked must not change: it is replaced.
        self._everywhere = [*self._everywhere, entry]

        def drop() -> None:
            self._everywhere = [other for other in self._everywhere if other is not entry]

        return Hook(drop)

    def on_write(self, callback: WriteCallback) -> Hook:
        """Call `callback(address, bytes, value, pc)` before each store that Unicorn reports (some it does not: see the
        module's text). The value is an integer, unsigned."""
        self._watch(unicorn_const.UC_HOOK_MEM_WRITE, self._on_write)
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

    # -- for set-up, by this module only

    def put(self, name: str, value: Any) -> None:
        """Write what Unicorn calls `name`."""
        self._uc.reg_write(self._family.number(name), value)

    def peek(self, name: str) -> int:
        value: int = self._uc.reg_read(self._family.number(name))
        return value

    def put_field(self, number: int, shift: int, mask: int, value: int) -> None:
        whole = self._peek_number(number)
        self._put_number(number, whole & ~(mask << shift) | (value & mask) << shift)

    def boot(self, code: bytes, until: int) -> None:
        """Run set-up code at _BOOT before there are hooks and memory."""
        self._uc.mem_map(_BOOT, _PAGE)
        self._uc.mem_write(_BOOT, code)
        try:
            self._uc.emu_start(_BOOT, until, count=16)
        except UcError as error:
            raise MachineError(f"{self.architecture.name}: set-up failed: {error}") from None
        finally:
            self._uc.mem_unmap(_BOOT, _PAGE)

    def hook_instruction(self, instruction: int, detail: str) -> None:
        """Make an instruction that Unicorn lets do nothing a fault."""

        def fail(*_arguments: object) -> int:
            self.fail(detail)
            return 0

        self._uc.hook_add(unicorn_const.UC_HOOK_INSN, fail, aux1=instruction)

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
        value = self._peek_number(self._x87_number())
        return _to_double(value >> 79, value >> 64 & 0x7FFF, value & (1 << 64) - 1)

    def set_x87_top(self, double: int) -> None:
        """Make this the only value on the stack."""
        self.put("FPSW", self.peek("FPSW") & ~0x3800 | 7 << 11)
        self.put("FPTAG", 0x3FFF)
        sign, exponent, mantissa = _from_double(double)
        self._put_number(self._x87_number(), sign << 79 | exponent << 64 | mantissa)

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
        places: dict[str, _Place] = {}
        unknown: dict[str, str] = {}
        writable: dict[str, int] = {}
        bits: dict[str, int] = {}
        for register in self.architecture.registers.values():
            name = register.name
            place = family.place(self, register)
            if isinstance(place, str):
                unknown[name] = place
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

    def _transfer(self, names: tuple[str, ...]) -> _Transfer:
        transfer = self._transfers.get(names)
        if transfer is None:
            for name in names:
                self._require(name)
            transfer = self._transfers[names] = _Transfer(self, self._layout, names)
        return transfer

    def _peek_number(self, number: int) -> int:
        ctypes.memset(self._cell, 0, 16)
        _check(uclib.uc_reg_read(self.handle, number, self._cell))
        return int.from_bytes(self._cell.raw, "little")

    def _put_number(self, number: int, value: int) -> None:
        ctypes.memmove(self._cell, value.to_bytes(16, "little"), 16)
        _check(uclib.uc_reg_write(self.handle, number, self._cell))

    def _x87_number(self) -> int:
        return self._family.number("ST0")

    def _hook(self, kind: int, function: Any) -> None:
        hook = ctypes.c_size_t()
        everywhere = ctypes.c_uint64(1), ctypes.c_uint64(0)
        _check(
            uclib.uc_hook_add(
                self.handle, ctypes.byref(hook), kind, ctypes.cast(function, ctypes.c_void_p), None, *everywhere
            )
        )
        self._kept.append(function)

    def _watch(self, kind: int, function: Callable[..., None]) -> None:
        if kind in self._memory_hooks:
            return
        self._require_rest("the first callback for reads or writes cannot be added")
        self._memory_hooks[kind] = HOOK_MEM_ACCESS_CFUNC(function)
        self._hook(kind, self._memory_hooks[kind])
        self._uc.ctl_flush_tb()

    def _end(self, outcome: Literal["budget", "stopped", "fault"]) -> None:
        if not self._running:
            raise MachineError("nothing runs that could be stopped")
        if self._outcome != "fault":
            self._outcome = outcome
        uclib.uc_emu_stop(self.handle)

    def _caught(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        uclib.uc_emu_stop(self.handle)

    def _on_code(self, _engine: object, address: int, size: int, _key: object) -> None:
        try:
            if self._outcome is not None or self._error is not None:
                return
            if self._executed == self._budget:
                self._end("budget")
                return
            self._executed += 1
            self._last = address
            self._moved = False
            for begin, end, callback in self._everywhere:
                if begin <= address <= end:
                    callback(address, size)
                    if self._moved or self._outcome is not None:
                        return
            if address in self._at:
                for callback in tuple(self._at[address]):
                    callback(address, size)
                    if self._moved or self._outcome is not None:
                        return
        except BaseException as error:
            self._caught(error)

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
        other = f"system call (int {number:#x})" if isinstance(self._family, _X86) else f"exception {number}"
        self.fail(self._family.exceptions.get(number, other))

    def _on_invalid_access(self, _uc: object, kind: int, address: int, size: int, _value: int, _data: object) -> bool:
        if kind != unicorn_const.UC_MEM_FETCH_UNMAPPED:
            self.fail(f"{_INVALID_ACCESS[kind]} {address:#x} ({size} bytes)", address)
            return False
        self.fail(f"{_INVALID_ACCESS[kind]} {address:#x}", address)
        self._fault_pc = address
        # The run is over. If the fetch failed all the same, in the midst of a translation, Unicorn would crash at the
        # next translation on mips: so it succeeds, and what is found there is not executed.
        page = address & -_PAGE
        try:
            self._uc.mem_map(page, _PAGE)
        except UcError:
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
        return Stop("fault", pc, detail, self._executed, address)


# ------------------------------------------------------------------------------------------------ x87 and doubles


def _from_double(bits: int) -> tuple[int, int, int]:
    """Sign, biased exponent and mantissa of the extended number that equals a double. Exact. SDM 4.2.2."""
    sign, exponent, fraction = bits >> 63, bits >> 52 & 0x7FF, bits & (1 << 52) - 1
    if exponent == 0x7FF:
        return sign, 0x7FFF, 1 << 63 | fraction << 11
    if exponent:
        return sign, exponent - 1023 + 16383, 1 << 63 | fraction << 11
    if not fraction:
        return sign, 0, 0
    shift = 64 - fraction.bit_length()
    return sign, 16383 - 1074 + 63 - shift, fraction << shift


def _to_double(sign: int, exponent: int, mantissa: int) -> int:
    """The double nearest to an extended number, ties to even; a NaN keeps the upper bits of what it carries."""
    if exponent == 0x7FFF:
        fraction = mantissa >> 11 & (1 << 52) - 1
        if mantissa & (1 << 63) - 1 and not fraction:
            fraction = 1
        return sign << 63 | 0x7FF << 52 | fraction
    if not mantissa:
        return sign << 63
    power = exponent - 16383 - 63 + mantissa.bit_length() - 1  # of the leading bit
    lowest = max(power - 52, -1074)  # of the last bit that a double has
    drop = lowest - (exponent - 16383 - 63)
    if drop > 0:
        kept, lost = mantissa >> drop, mantissa & (1 << drop) - 1
        half = 1 << drop - 1
        kept += lost > half or (lost == half and kept & 1)
    else:
        kept = mantissa << -drop
    if kept < 1 << 52:
        return sign << 63 | kept  # subnormal
    # A carry out of the fraction runs into the exponent, as it should.
    biased = lowest + 1074
    value = (biased << 52) + kept
    return sign << 63 | min(value, 0x7FF << 52)
