"""What Debian's cross compilers do, by running what they make: one program per target, in the emulator.

`build` has gcc compile and link a C text; `Laboratory` loads it and calls its functions. A call starts from noise:
every register and all of the stack around sp are random, so that nothing is right by chance. Nothing here asks a
convention where an argument is; it is asked only for what a function has to be given at any entry: where the return
address goes, the register with the callee's address (t9, r12), whether a function pointer is a descriptor. Code that is
given the wrong things there does not come back.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cross import compiler
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from tools import need

from trampoline_dsl.emulate import Machine
from trampoline_dsl.target import Architecture, Bank, Convention, Register, Target

STACK, STACK_SIZE = 0x2000_0000, 0x2_0000
STUB = 0x3000_0000  # the callee of compiled callers: nothing is there, a run ends when it is reached
RETURN = 0x3000_1000  # where compiled functions return to
DESCRIPTOR = 0x3000_2000
CFA = STACK + STACK_SIZE // 2
NOISE = 0x1000  # bytes of noise on either side of the CFA

# -fPIC on mips: only position-independent code shows what becomes of gp, and that it is made from t9.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "linux/386": ("-march=pentium4", "-fno-pie", "-no-pie", "-fcf-protection=none"),
    "linux/amd64": ("-fno-pie", "-no-pie", "-fcf-protection=none"),
    "linux/arm": ("-marm", "-march=armv7-a", "-mfpu=vfpv3", "-mfloat-abi=hard", "-fno-pie", "-no-pie"),
    "linux/arm-softfp": ("-marm", "-march=armv7-a", "-mfpu=vfpv3", "-mfloat-abi=softfp", "-fno-pie", "-no-pie"),
    "linux/arm-soft": ("-marm", "-march=armv5te", "-mfloat-abi=soft", "-fno-pie", "-no-pie"),
    "linux/arm64": ("-fno-pie", "-no-pie"),
    "linux/mips": ("-march=mips32", "-mabi=32", "-fPIC", "-no-pie"),
    "linux/mips-soft": ("-march=mips32", "-mabi=32", "-msoft-float", "-fPIC", "-no-pie"),
    "linux/mipsle": ("-march=mips32", "-mabi=32", "-fPIC", "-no-pie"),
    "linux/mipsle-soft": ("-march=mips32", "-mabi=32", "-msoft-float", "-fPIC", "-no-pie"),
    "linux/mips64": ("-march=mips3", "-mabi=64", "-fPIC", "-no-pie"),
    "linux/mips64-soft": ("-march=mips3", "-mabi=64", "-msoft-float", "-fPIC", "-no-pie"),
    "linux/mips64le": ("-march=mips3", "-mabi=64", "-fPIC", "-no-pie"),
    "linux/mips64le-soft": ("-march=mips3", "-mabi=64", "-msoft-float", "-fPIC", "-no-pie"),
    "linux/ppc64": ("-mcpu=power8", "-mabi=elfv1", "-fno-pie", "-no-pie"),
    "linux/ppc64-elfv2": ("-mcpu=power8", "-mabi=elfv2", "-fno-pie", "-no-pie"),
    "linux/ppc64le": ("-mcpu=power8", "-mabi=elfv2", "-fno-pie", "-no-pie"),
    "linux/s390x": ("-march=z13", "-fno-pie", "-no-pie"),
}
# A call in tail position would become a jump, and what follows it is what shows the result.
_COMMON = (
    "-O2",
    "-std=gnu11",
    "-w",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-optimize-sibling-calls",
    "-fno-asynchronous-unwind-tables",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-e,0",
)


def targets() -> tuple[str, ...]:
    """The targets that a compiler is known for."""
    return tuple(_OPTIONS)


@dataclass(frozen=True)
class Image:
    """A linked program: what is loaded where (address, contents, bytes in memory), and the addresses of its symbols."""

    segments: tuple[tuple[int, bytes, int], ...]
    symbols: Mapping[str, int]


# What r2 holds in the functions of a module (R_PPC64_TOC).
_TOC = """asm(".data; .balign 8; toc_base: .quad .TOC.@tocbase; .text");\n"""


def build(target: Target, source: str) -> Image:
    if target.architecture.toc is not None:
        source += _TOC
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "out")
        command = [need(compiler(target.name)), *_COMMON, *_OPTIONS[target.name], "-o", str(result), "-x", "c", "-"]
        done = subprocess.run(command, input=source, text=True, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[:4000]
        with result.open("rb") as stream:
            elf = ELFFile(stream)
            segments = tuple(
                (segment["p_vaddr"], segment.data(), segment["p_memsz"])
                for segment in elf.iter_segments()
                if segment["p_type"] == "PT_LOAD"
            )
            table = elf.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols() if symbol.name}
    return Image(segments, symbols)


@dataclass
class Arrival:
    """The moment at which compiled code has called the stub: nothing of the callee has run."""

    registers: dict[Register, int]
    cfa: int
    return_address: int


class Laboratory:
    """The functions of one image, ready to be called, on a machine whose state is noise."""

    def __init__(self, target: Target, image: Image, convention: str = "c") -> None:
        self.target = target
        self.architecture: Architecture = target.architecture
        self.convention: Convention = target.conventions[convention]
        self.image = image
        self.random = random.Random(7)
        self.machine = Machine(self.architecture)
        self.word = self.architecture.word
        pages = {
            page for address, _, size in image.segments for page in range(address & -0x1000, address + size, 0x1000)
        }
        for page in sorted(pages):
            self.machine.map(page, 0x1000)
        for address, data, _ in image.segments:
            self.machine.write(address, data)
        self.toc = self.number(image.symbols["toc_base"], 8) if self.architecture.toc is not None else 0
        self.machine.map(STACK, STACK_SIZE)
        self.machine.map(STUB, 0x4000)
        # x87 registers are a stack, empty at entry (i386 psABI 1.1, 2.2): noise there would be a violation of ours.
        self.general = tuple(
            register
            for register in sorted(self.machine.observable, key=lambda r: (r.bank.value, r.number, r.name))
            if (register.bank is not Bank.CONTROL or register.name.startswith("cr"))
            and register not in (self.architecture.sp, self.architecture.registers.get("st0"))
        )
        self.initial: dict[Register, int] = {}
        self.stack: bytes = b""
        self.stub_toc = 0
        self.environment = 0

    # -- memory of the program

    def number(self, address: int, size: int) -> int:
        return int.from_bytes(self.machine.read(address, size), self.architecture.order)

    def put(self, address: int, value: int, size: int) -> None:
        self.machine.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, self.architecture.order))

    def element(self, array: str, index: int, size: int) -> int:
        return self.number(self.image.symbols[array] + index * size, size)

    def put_element(self, array: str, index: int, value: int, size: int) -> None:
        self.put(self.image.symbols[array] + index * size, value, size)

    # -- calls

    def entry(self, function: str) -> int:
        """The address of a function's first instruction."""
        address = self.image.symbols[function]
        return self.number(address, 8) if self.convention.descriptors else address

    def enter(self, function: str, cfa: int = CFA) -> int:
        """Make the state that a function is entered in, all noise; what else it needs is set after this. Returns the
        address to run from."""
        machine, convention, noise = self.machine, self.convention, self.random.getrandbits
        machine.reset()
        machine.write(cfa - NOISE, self.random.randbytes(2 * NOISE))
        machine.set_many({register: noise(register.bits) for register in self.general})
        entry = self.entry(function)
        machine.sp = cfa
        if convention.return_address is None:
            machine.sp = cfa - self.word
            self.put(cfa - self.word, RETURN, self.word)
        else:
            machine.set(convention.return_address, RETURN)
        if convention.call_through is not None:
            machine.set(convention.call_through, entry)
        if self.architecture.toc is not None:
            machine.set(self.architecture.toc, self.toc)
        self.stub_toc, self.environment = noise(40) & ~7, noise(40) & ~7
        pointer = STUB
        if convention.descriptors:
            pointer = DESCRIPTOR
            for index, value in enumerate((STUB, self.stub_toc, self.environment)):
                self.put(DESCRIPTOR + 8 * index, value, 8)
        self.put_element("target", 0, pointer, self.word)
        return entry

    def run(self, start: int, until: int, budget: int = 5000) -> None:
        stop = self.machine.run(start, budget, until)
        assert stop.reason == "reached", (self.target.name, stop)

    def call(self, function: str, until: int, registers: Mapping[Register, int] | None = None) -> None:
        """Enter a function and run it up to `until`. The registers and the stack that it started from are kept for
        `changes`."""
        start = self.enter(function)
        self.run_prepared(start, until, registers or {})

    def run_prepared(self, start: int, until: int, registers: Mapping[Register, int]) -> None:
        self.machine.set_many(registers)
        self.initial = self.machine.get_many(self.machine.observable)
        self.stack = self.machine.read(CFA, NOISE)
        self.run(start, until)

    def arrival(self) -> Arrival:
        """What the stub sees when it has been called."""
        registers = self.machine.get_many(self.machine.observable)
        sp = self.machine.sp
        link = self.convention.return_address
        if link is not None:
            return Arrival(registers, sp, registers[link])
        return Arrival(registers, sp + self.word, self.number(sp, self.word))

    def answer(self, arrival: Arrival, owned: int, result: Mapping[Register, int]) -> None:
        """Return from the stub as the worst callee that the convention allows: everything that it does not keep is
        noise, below sp as well as in its area and its arguments, which reach `owned` bytes above the CFA."""
        machine, convention, cfa = self.machine, self.convention, arrival.cfa
        values = {}
        for register in self.general:
            kept = convention.keeps(register)
            if register == self.architecture.toc and convention.toc_slot is not None:
                kept = 0  # a callee of another module returns with its own
            values[register] = arrival.registers[register] & kept | self.random.getrandbits(register.bits) & ~kept
        spared = {}
        if convention.back_chain:
            spared[cfa] = machine.read(cfa, self.word)
        if convention.toc_slot is not None:
            spared[cfa + convention.toc_slot] = machine.read(cfa + convention.toc_slot, self.word)
        machine.write(cfa - NOISE, self.random.randbytes(NOISE))
        areas = [(0, convention.area), (convention.first_stack_argument, owned)]
        for start, end in areas:
            if end > start:
                machine.write(cfa + start, self.random.randbytes(end - start))
        for address, data in spared.items():
            machine.write(address, data)
        machine.set_many(values)
        for register, value in result.items():
            machine.set(register, value)
        popped = max(0, owned - convention.first_stack_argument) if convention.callee_pops else 0
        machine.sp = cfa + popped
        self.run(arrival.return_address, RETURN)

    # -- afterwards

    def changes(self, registers: Iterable[Register]) -> dict[Register, int]:
        """The bits of registers that are not as they were when the function was entered."""
        now = self.machine.get_many(list(registers))
        return {register: value ^ self.initial[register] for register, value in now.items()}

    def broken_promises(self, popped: int = 0) -> list[str]:
        """What is not as the convention says after a return: kept registers, and sp, which is `popped` bytes above
        the CFA."""
        found = [
            f"{register.name} changed in {bits & self.convention.keeps(register):#x}"
            for register, bits in self.changes(self.machine.observable & self.convention.kept.keys()).items()
            if bits & self.convention.keeps(register)
        ]
        if self.machine.sp != CFA + popped:
            found.append(f"sp is {self.machine.sp - CFA:+d} from the CFA")
        return found

    def written_above(self) -> list[int]:
        """Bytes above the CFA (as distances from it) that the function has changed."""
        now = self.machine.read(CFA, NOISE)
        return [offset for offset, (a, b) in enumerate(zip(self.stack, now, strict=True)) if a != b]
