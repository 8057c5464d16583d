"""How each family's CPU is set up in Unicorn, and where its registers are, in Unicorn's words.

Unicorn itself is not touched here: `emulate` does what these classes say. All go to user mode, where Unicorn starts
most machines in kernel mode, and switch floating point and vectors on.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from .target import Architecture, Bank, Register

BOOT = 0x10000  # where set-up code runs, before a machine is handed out; nothing stays mapped there


class MachineError(Exception):
    """The emulator was asked for something that it cannot do; the text says what and why."""


class Bare(Protocol):
    """A machine as its set-up sees it."""

    architecture: Architecture
    image_bytes: int

    def put(self, name: str, value: Any) -> None:
        """Write the register that Unicorn calls `name`."""

    def peek(self, name: str) -> int: ...

    def boot(self, code: bytes, until: int) -> None:
        """Run code at BOOT."""

    def forbid(self, instruction: str, detail: str) -> None:
        """Make an instruction, by Unicorn's name, a fault."""

    def image(self) -> int:
        """The address of a copy of the CPU state."""

    def set_image(self) -> None:
        """Make the copy the CPU state."""

    def borrowed_page(self) -> AbstractContextManager[int]:
        """A page of 32-bit address space that nothing else uses."""

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where Unicorn has a register.

    `pieces`: its names for the register, the least significant 64 bits first (a name may stand for 128 bits).
    `shift`: the register is a field of the piece and starts at that bit; the rest of the piece is not its own.
    `image`: not a piece but `size` bytes that far into a saved CPU state, in the host's byte order, which is
    little-endian wherever Unicorn's wheels run.
    `x87`: the top of the x87 stack, as a double.
    """

    pieces: tuple[str, ...] = ()
    shift: int = 0
    image: int = 0
    size: int = 16
    x87: bool = False


class Touch(NamedTuple):
    """One load or store that is about to happen: its address, its bytes, and for a store the value, unsigned."""

    kind: Literal["read", "write"]
    address: int
    size: int
    value: int = 0


class Access(NamedTuple):
    """An instruction that loads or stores `size` bytes at a register, by Unicorn's name, plus an offset. `part`: which
    part of an unaligned value. `register`: what is stored, by its number; `floating`: one for floating point."""

    kind: Literal["read", "write"]
    base: str
    offset: int
    size: int
    part: str
    register: int
    floating: bool


class Family:
    """How one family's machines are set up, and the names that Unicorn has for things."""

    prefix: str  # of Unicorn's constants: "X86"
    pc: str
    exceptions: ClassVar[Mapping[int, str]]
    system_call: str  # what an exception is called that calls the kernel by its ABI for this machine
    trap: ClassVar[frozenset[str]]  # what exceptions are called that an instruction raises whose purpose it is
    boundary = 0  # bytes of an instruction, if Unicorn leaves pc behind when it gets to `until` without a jump
    never: ClassVar[Mapping[str, str]] = {}  # registers that Unicorn knows and does not let through
    spoiling: ClassVar[frozenset[int]] = frozenset()  # exceptions after which Unicorn's translator crashes
    decodes = False  # loads and stores are found in the code, for Unicorn's own hooks for them do harm
    virtual_tlb = True  # Unicorn's own translation of addresses, each to itself, in place of the CPU's

    def spelling(self, register: Register) -> str:
        """Unicorn's name for the register, without the prefix."""
        return register.name.upper()

    def place(self, machine: Bare, register: Register) -> Place | str:
        """Where the register is, or why it is nowhere."""
        spelling = self.spelling(register)
        if spelling in self.never:
            return self.never[spelling]
        return Place((spelling,))

    def writable(self, register: Register) -> int:
        """The bits that can hold any value while code runs."""
        return (1 << register.bits) - 1

    def prepare(self, machine: Bare) -> None:
        """Switch floating point on and go to user mode."""

    def reach(self, machine: Bare, base: int, size: int) -> None:
        """Make addresses usable, where the CPU has to be told. May change registers."""

    def survey(self, machine: Bare) -> None:
        """Learn, once for an architecture and before the first `place`, what only a running machine shows."""

    def access(self, machine: Bare, address: int) -> Access | None:
        """What the instruction at `address` loads or stores, if it does. Asked only if `decodes`."""
        raise MachineError(f"loads and stores of {machine.architecture.name} are found by Unicorn, and not decoded")

    def touch(self, machine: Bare, access: Access) -> Touch:
        """What such an instruction, which is next, loads or stores now. Asked only if `decodes`."""
        raise MachineError(f"loads and stores of {machine.architecture.name} are found by Unicorn, and not decoded")

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        raise MachineError(f"{machine.architecture.name} has no thread pointer")

    def set_segment_base(self, machine: Bare, name: str, value: int) -> None:
        raise MachineError(f"{machine.architecture.name} has no segments")


class _X86(Family):
    prefix = "X86"
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
        0x80: "system call (int 0x80)",
    }
    trap = frozenset({exceptions[3], "illegal instruction"})  # for which Unicorn raises no exception

    def __init__(self, word: int) -> None:
        self._long = word == 8
        self.pc = "RIP" if self._long else "EIP"
        self.system_call = "system call (syscall)" if self._long else self.exceptions[0x80]

    def place(self, machine: Bare, register: Register) -> Place | str:
        if register.name == "st0" and register.bits == 64:
            return Place(x87=True)
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

    def prepare(self, machine: Bare) -> None:
        # `sysexit` loads flat user mode segments by itself (SDM volume 2B), so no descriptor table is needed. It takes
        # the selectors from a model-specific register, pc from edx and sp from ecx.
        machine.put("MSR", (0x174, 8))
        machine.put("EDX", BOOT + 0x10)
        machine.boot(b"\x48\x0f\x35" if self._long else b"\x0f\x35", BOOT + 0x10)
        for name in ("ECX", "EDX", self.pc):
            machine.put(name, 0)
        machine.put("EFLAGS", 0x202)
        machine.put("FPCW", 0x37F)  # what Linux starts a process with, as for MXCSR
        machine.put("MXCSR", 0x1F80)
        machine.put("FPTAG", 0xFFFF)
        # These four neither trap nor stop in Unicorn.
        for instruction, text in (
            ("SYSCALL", "system call (syscall)"),
            ("SYSENTER", "system call (sysenter)"),
            ("IN", "privileged instruction (in)"),
            ("OUT", "privileged instruction (out)"),
        ):
            machine.forbid(instruction, text)

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        self.set_segment_base(machine, "fs" if self._long else "gs", value)

    def set_segment_base(self, machine: Bare, name: str, value: int) -> None:
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


class _Arm(Family):
    prefix, pc = "ARM", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "illegal instruction",
        2: "system call (svc)",
        3: "prefetch abort",
        4: "data abort",
        7: "breakpoint (bkpt)",
        17: "coprocessor not available",
        18: "illegal processor state",
    }
    system_call = exceptions[2]
    trap = frozenset({exceptions[1], exceptions[7]})

    def place(self, machine: Bare, register: Register) -> Place | str:
        if register.name in ("cpsr", "apsr", "nzcv", "flags"):
            return Place(("APSR",), shift=28 if register.bits == 4 else 0)
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

    def prepare(self, machine: Bare) -> None:
        machine.put("FPEXC", 1 << 30)
        machine.put("CPSR", 0x10)  # user mode, ARM state; sp and lr are banked, so this comes before them

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        machine.put("C13_C0_3", value)  # TPIDRURO


class _Arm64(Family):
    prefix, pc = "ARM64", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "illegal or privileged instruction",
        2: "system call (svc)",
        3: "prefetch abort",
        4: "data abort",
        7: "breakpoint (brk)",
    }
    system_call = exceptions[2]
    trap = frozenset({exceptions[1], exceptions[7]})

    def place(self, machine: Bare, register: Register) -> Place | str:
        if register.name == "nzcv":
            return Place(("NZCV",), shift=28 if register.bits == 4 else 0)
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

    def prepare(self, machine: Bare) -> None:
        machine.put("CPACR_EL1", 3 << 20)
        # Writing PSTATE leaves Unicorn with an idea of the old mode; an exception return does not.
        # msr spsr_el1, xzr; mov x0, #0x10000; add x0, x0, #0x40; msr elr_el1, x0; mov x0, #0; eret
        words = (0xD518401F, 0xD2A00020, 0x91010000, 0xD5184020, 0xD2800000, 0xD69F03E0)
        machine.boot(b"".join(word.to_bytes(4, "little") for word in words), BOOT + 0x40)

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        machine.put("TPIDR_EL0", value)


class _Mips(Family):
    prefix, pc = "MIPS", "PC"
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
    system_call = exceptions[17]
    trap = frozenset({exceptions[18], exceptions[22]})
    never: ClassVar[Mapping[str, str]] = {"FIR": "Unicorn reads it as 0"}
    # A jump to a misaligned address fails in the midst of a translation, as do the others if they come from a fetch.
    # The translator then keeps a pointer (to the flag for a delay slot) into what it has thrown away.
    spoiling: ClassVar[frozenset[int]] = frozenset({12, 14, 15, 26})

    # With Unicorn's own TLB, a load or store in the slot of a taken branch runs twice, or spoils the next branch,
    # whenever it makes the TLB fetch an entry. With the CPU's TLB filled beforehand that does not happen.
    virtual_tlb = False

    # Where Unicorn watches memory, a load or store in the slot of a taken branch leaves the CPU in the belief that the
    # next instruction stands in a slot too: it runs twice, or is refused if it is a branch.
    decodes = True

    def __init__(self, word: int) -> None:
        self._long = word == 8
        self._mask = (1 << (64 if self._long else 32)) - 1
        self._reached: list[int] = []  # blocks of 512 MiB, in the order of their TLB entries

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

    def prepare(self, machine: Bare) -> None:
        # `rdhwr $29` gives the thread pointer to user mode if HWREna bit 29 says so, which can be set only where
        # Config3.ULRI says that the register exists.
        machine.put("CP0_CONFIG3", machine.peek("CP0_CONFIG3") | 1 << 13)
        machine.put("V0", 1 << 29)
        order = machine.architecture.order
        machine.boot((0x40823800).to_bytes(4, order) + bytes(4), BOOT + 8)  # mtc0 $v0, HWREna; nop
        machine.put("V0", 0)
        reached, self._reached = self._reached, []
        for block in reached or range(0, 1 << 31, 1 << 29):  # what user mode has on 32-bit machines
            self._enter(machine, block)
        # User mode (KSU = 2, ERL = 0), CU1. 64-bit: FR, and 64-bit addresses in every mode (KX SX UX). 32-bit: FR as
        # wide as the registers are said to be.
        registers = machine.architecture.registers
        wide = self._long or ("f0" in registers and registers["f0"].bits == 64)
        machine.put("CP0_STATUS", 0x20000010 | (0xE0 if self._long else 0) | (0x04000000 if wide else 0))
        machine.put("PC", 0)

    def reach(self, machine: Bare, base: int, size: int) -> None:
        for block in range(base >> 29 << 29, base + size, 1 << 29):
            if block not in self._reached:
                self._enter(machine, block)

    def _enter(self, machine: Bare, block: int) -> None:
        """A TLB entry for two pages of 256 MiB, each at its own address (MD00091: EntryHi, EntryLo, PageMask)."""
        if block >> 36:
            raise MachineError(f"{machine.architecture.name}: no memory above 64 GiB, and {block:#x} is")
        order = machine.architecture.order
        cached_dirty_valid_global = 3 << 3 | 7
        machine.put("CP0_STATUS", 0x20400004 | (0xE0 if self._long else 0))
        values = {
            "2": len(self._reached),  # Index
            "4": block,  # EntryHi
            "5": block >> 12 << 6 | cached_dirty_valid_global,
            "6": block + (1 << 28) >> 12 << 6 | cached_dirty_valid_global,
            "7": 0x1FFFE000,  # PageMask: 256 MiB
        }
        for register, value in values.items():
            machine.put(register, value)
        move = 0x40A00000 if self._long else 0x40800000  # dmtc0, mtc0
        moves = [
            0x40800000 | 2 << 16 | 0 << 11,
            move | 4 << 16 | 10 << 11,
            move | 5 << 16 | 2 << 11,
            move | 6 << 16 | 3 << 11,
            0x40800000 | 7 << 16 | 5 << 11,
            0x42000002,  # tlbwi
        ]
        code = b"".join(insn.to_bytes(4, order) for insn in moves)
        machine.boot(code + bytes(8), BOOT + len(code))
        for register in values:
            machine.put(register, 0)
        self._reached.append(block)

    def access(self, machine: Bare, address: int) -> Access | None:
        """MIPS64 Architecture, volume II: loads and stores have base, register and a signed offset in one place, and
        an opcode that says the rest. Those with an index register (COP1X) are not among them."""
        word = int.from_bytes(machine.read(address, 4), machine.architecture.order)
        opcode, base, register = word >> 26, str(word >> 21 & 31), word >> 16 & 31
        offset = (word & 0xFFFF ^ 0x8000) - 0x8000
        if opcode in _MIPS_LOADS:
            return Access("read", base, offset, *_MIPS_LOADS[opcode], register, False)
        if opcode in _MIPS_STORES:
            return Access("write", base, offset, *_MIPS_STORES[opcode], register, opcode in (0x39, 0x3D))
        return None

    def touch(self, machine: Bare, access: Access) -> Touch:
        kind, base, offset, size, part, register, floating = access
        place = machine.peek(base) + offset & self._mask
        if kind == "read":
            return Touch("read", place & -size if part else place, size)
        value = self._float(machine, register, size) if floating else machine.peek(str(register))
        value &= (1 << 8 * size) - 1
        if not part:
            return Touch("write", place, size, value)
        # Left stores the upper bytes from the place to the word's least significant end, right the lower ones.
        upwards = (part == "left") == (machine.architecture.order == "big")
        count = size - place % size if upwards else place % size + 1
        value = value >> 8 * (size - count) if part == "left" else value & (1 << 8 * count) - 1
        return Touch("write", place if upwards else place & -size, count, value)

    def _float(self, machine: Bare, number: int, size: int) -> int:
        wide = machine.peek("CP0_STATUS") & 0x04000000
        if size == 4 or wide:
            return machine.peek(f"F{number}")
        even, odd = number & -2, number | 1
        return machine.peek(f"F{even}") & 0xFFFFFFFF | (machine.peek(f"F{odd}") & 0xFFFFFFFF) << 32

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        machine.put("CP0_USERLOCAL", value)


# By opcode: the bytes, and which part of an unaligned value. ll, sc, lwc1, ldc1, swc1 and sdc1 are among them.
_MIPS_LOADS: Mapping[int, tuple[int, str]] = {
    0x20: (1, ""),
    0x24: (1, ""),
    0x21: (2, ""),
    0x25: (2, ""),
    0x23: (4, ""),
    0x27: (4, ""),
    0x30: (4, ""),
    0x31: (4, ""),
    0x34: (8, ""),
    0x35: (8, ""),
    0x37: (8, ""),
    0x22: (4, "left"),
    0x26: (4, "right"),
    0x1A: (8, "left"),
    0x1B: (8, "right"),
}
_MIPS_STORES: Mapping[int, tuple[int, str]] = {
    0x28: (1, ""),
    0x29: (2, ""),
    0x2B: (4, ""),
    0x38: (4, ""),
    0x39: (4, ""),
    0x3C: (8, ""),
    0x3D: (8, ""),
    0x3F: (8, ""),
    0x2A: (4, "left"),
    0x2E: (4, "right"),
    0x2C: (8, "left"),
    0x2D: (8, "right"),
}


class _Ppc(Family):
    prefix, pc = "PPC", "PC"
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
    system_call = exceptions[8]
    trap = frozenset({exceptions[6], exceptions[96]})
    never: ClassVar[Mapping[str, str]] = {"XER": "Unicorn writes it whole and reads it without SO, OV and CA"}

    def spelling(self, register: Register) -> str:
        name = register.name
        if re.fullmatch(r"r\d+", name):
            return name[1:]
        if re.fullmatch(r"f\d+", name):
            return "FPR" + name[1:]
        return name.upper()

    def place(self, machine: Bare, register: Register) -> Place | str:
        if re.fullmatch(r"v\d+", register.name):
            return Place(image=self._vectors + 16 * register.number, size=16)
        if register.name == "vrsave":
            return Place(image=self._vrsave, size=8)
        if register.name == "vscr":
            return Place(image=self._vscr, size=4)
        return super().place(machine, register)

    def survey(self, machine: Bare) -> None:
        """Find v0 (the others follow, 16 bytes each), VRSAVE and VSCR in a saved CPU state, by values put there."""
        markers = first, last, vrsave, vscr = 0x5EED_F100_0000_0001, 0x5EED_F100_0000_0031, 0x5EED_0256, 0x5EED_2560
        machine.put("FPR0", first)
        machine.put("FPR31", last)
        machine.put("3", vrsave)
        words = 0x7C6043A6, 0x38600000  # mtspr 256, r3; li r3, 0
        order = machine.architecture.order
        machine.boot(b"".join(word.to_bytes(4, order) for word in words), BOOT + 8)
        image = ctypes.string_at(machine.image(), machine.image_bytes)
        # f0 is the left half of the first of 64 vector-scalar registers, and v0 is the 33rd. The host is
        # little-endian, so the left half comes second.
        self._vectors = image.find(first.to_bytes(8, "little")) - 8 + 32 * 16
        v0 = machine.image() + self._vectors
        ctypes.memmove(v0, vscr.to_bytes(16, "little"), 16)
        machine.set_image()
        words = 0x10000644, 0x100004C4  # mtvscr v0; vxor v0, v0, v0
        machine.boot(b"".join(word.to_bytes(4, order) for word in words), BOOT + 8)
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

    def prepare(self, machine: Bare) -> None:
        little = machine.architecture.order == "little"
        # 64-bit, vector, VSX, user mode, floating point: SF, VEC, VSX, PR, FP; LE. Power ISA 2.07, III-S 3.2.1.
        machine.put("MSR", 1 << 63 | 1 << 25 | 1 << 23 | 1 << 14 | 1 << 13 | little)

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        machine.put("13", value)


class _S390x(Family):
    prefix, pc = "S390X", "PC"
    exceptions: ClassVar[Mapping[int, str]] = {
        1: "external interruption",
        2: "system call (svc)",
        3: "program interruption: illegal or privileged operation, misaligned operand, or invalid data",
    }
    system_call = exceptions[2]
    trap = frozenset({exceptions[3]})

    def place(self, machine: Bare, register: Register) -> Place | str:
        # Bits 18-19 and 20-23 of the PSW, counted from the left.
        if register.name in ("cc", "pm"):
            return Place(("PSWM",), shift={"cc": 44, "pm": 40}[register.name])
        if match := re.fullmatch(r"v(\d+)", register.name):
            # Unicorn calls the right half of a vector register "HI".
            return Place((f"F{match[1]}_HI", f"F{match[1]}"))
        return super().place(machine, register)

    def writable(self, register: Register) -> int:
        if register.name == "fpc":
            # Masks, flags, data exception code, decimal and binary rounding mode; loading a reserved bit or one of
            # the modes 4-6 is a specification exception. SA22-7832, "Floating-point-control register".
            return 0xFCFCFF73
        return super().writable(register)

    def prepare(self, machine: Bare) -> None:
        machine.put("CR0", 0x60000)  # all sixteen floating point registers, and vector registers
        machine.put("PSWM", 1 << 48 | 3 << 31)  # problem state, 64-bit addresses

    def set_thread_pointer(self, machine: Bare, value: int) -> None:
        machine.put("A0", value >> 32)
        machine.put("A1", value & 0xFFFFFFFF)


def family_of(architecture: Architecture) -> Family:
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
