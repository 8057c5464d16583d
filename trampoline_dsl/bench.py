"""A machine with the code of one program in it, used for many runs, and what conventions say of its registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .emulate import Machine
from .landing import Protection, marks_pairs, unpaired
from .link import link
from .machine_code import Code
from .oracle import thread_base
from .target import Bank, Convention, Register, ThreadSlot
from .world import RETURN_SPACING, STUB_SPACING, Build, Region

if TYPE_CHECKING:
    from .judge import Execute


class Bench:
    """A machine with one program's code and its tables loaded, used for many runs."""

    foreign = False  # the code was not made here, and its frames are as they are

    def __init__(self, build: Build, codes: Mapping[str, Code], tables: Mapping[str, Code]) -> None:
        self.build = build
        self.codes = codes
        self.strides = {name: code.stride for name, code in tables.items()}
        self.architecture = build.architecture
        self.machine = Machine(self.architecture)
        self.run: Execute | None = None
        # What the code's file says of its landing pads, if anything.
        self.protection = _protection(build) if self.architecture.protect else None
        plan = build.plan
        for region in plan.regions:
            self.machine.map(region.base, region.size)
        self.entries: dict[int, str] = {}
        self.listing: dict[int, tuple[Code, int]] = {}
        self.leaving: set[int] = set()  # what is executed behind these has been returned to
        self.placed: dict[str, Code] = {}
        self.locals = {name: build.symbols[name] + code.local_entry for name, code in codes.items()}
        for name, code in codes.items():
            self.entries[build.symbols[name]] = self.entries[self.locals[name]] = name
            self._place(code)
        for code in tables.values():
            self._place(code)
        self.stubs = {address: name for name, address in build.symbols.items() if address in plan.stubs}
        self._fill_with_moves(plan.stubs, STUB_SPACING)
        self._fill_with_moves(plan.returns, RETURN_SPACING)
        observable = self.machine.observable
        self.observable = tuple(r for r in dict.fromkeys(self.architecture.registers.values()) if r in observable)
        self.stacks = self.machine.stacks
        self.masks = {r: self._garbage_mask(r) for r in self.observable if r not in self.stacks}
        self._at_entry: dict[Convention, list[tuple[Register, int, int, int]]] = {}
        self._after_call: dict[
            tuple[Convention, frozenset[Register] | None], list[tuple[Register, int, int | None]]
        ] = {}
        # What no convention of the machine lets anybody use (the platform's, the kernel's) is nobody's to change.
        common = [set(c.reserved) for c in self.architecture.conventions.values()]
        self.reserved = (
            frozenset(set.intersection(*common) - {self.architecture.sp, self.architecture.got})
            if common
            else frozenset()
        )
        self.machine.on_instruction(self._step, plan.code.base, plan.code.end - 1)
        self.machine.on_instruction(self._stub, plan.stubs.base, plan.stubs.end - 1)
        self.machine.on_instruction(self._returned, plan.returns.base, plan.returns.end - 1)
        for region in plan.regions:
            if not region.executable:
                self.machine.on_instruction(self._astray, region.base, region.end - 1)
        self.machine.on_write(self._wrote)
        self.machine.on_system_call(self._called_kernel)
        self._set_segments()
        self._at_return: dict[Convention, tuple[tuple[Register, ...], tuple[int, ...]]] = {}
        self.initial = self.machine.save()
        self.clean = self._executable()

    def _set_segments(self) -> None:
        """Where threads have a segment of memory, it is the same one in each world."""
        for convention in self.architecture.conventions.values():
            if isinstance(convention.thread, ThreadSlot):
                self.machine.set_segment_base(convention.thread.segment, thread_base(self.build.plan))

    @contextmanager
    def lent(self, region: Region, entered: Callable[[int], None]) -> Iterator[None]:
        """Memory that is there for a while; `entered` is called before any instruction of it."""
        self.machine.map(region.base, region.size)
        hook = self.machine.on_instruction(lambda address, _: entered(address), region.base, region.end - 1)
        try:
            yield
        finally:
            hook.remove()
            self.machine.unmap(region.base, region.size)

    def behind(self, address: int) -> int:
        """Where the instruction at an address of the listing ends."""
        code, index = self.listing[address]
        return address + (*code.offsets, len(code.code))[index + 1] - code.offsets[index]

    def replace(self, code: Code) -> None:
        """Put other machine code in the place of a function's or a table's, and mend what a run of the old may have
        overwritten."""
        for base, image in self.clean.items():
            if self.machine.read(base, len(image)) != image:
                self.machine.write(base, image)
        old = self.placed[code.name]
        base = self.build.symbols[code.name]
        for offset in old.offsets:
            self.listing.pop(base + offset, None)
            self.leaving.discard(base + offset)
        self.machine.write(base, bytes(len(old.code)))
        self._place(code)
        self.clean = self._executable()

    def _executable(self) -> dict[int, bytes]:
        return {r.base: self.machine.read(r.base, r.size) for r in self.build.plan.regions if r.executable}

    def _place(self, code: Code) -> None:
        self.placed[code.name] = code
        base = self.build.symbols[code.name]
        # Where function pointers point to descriptors, so does a function's symbol; a branch to it leads to the code.
        self.locals[code.name] = base + code.local_entry
        branches = {
            offset + insn.relocation.offset
            for insn, offset in zip(code.instructions, code.offsets, strict=True)
            if insn.relocation is not None and insn.transfer != "none"
        }
        to_code = [r for r in code.relocations if r.offset in branches]
        to_data = [r for r in code.relocations if r.offset not in branches]
        linked = link(self.architecture, code.code, to_code, base, {**self.build.symbols, **self.locals})
        linked = link(self.architecture, linked, to_data, base, {**self.build.pointers, **self.build.for_linker})
        self.machine.write(base, linked)
        self._list(code, base)

    def _list(self, code: Code, base: int) -> None:
        for index, (insn, offset) in enumerate(zip(code.instructions, code.offsets, strict=True)):
            if insn.label is None:
                self.listing[base + offset] = (code, index)
                if insn.transfer == "return":
                    last = index + 1 if insn.delay_slot else index
                    self.leaving.add(base + code.offsets[min(last, len(code.offsets) - 1)])

    def is_code(self, address: int) -> bool:
        """Whether a call may return there."""
        return address in self.build.plan.code

    def by_linker(self, executed: Sequence[int]) -> bool:
        """Whether a stub of the linker's has entered what was entered just now: it leaves the environment out."""
        return False

    def why(self, address: int | None) -> str:
        """What is behind an access to this address that failed; empty where nothing is known."""
        return ""

    def enters_through_pointer(self, executed: Sequence[int]) -> bool:
        """Whether what was entered just now was entered through a pointer, by the instructions executed so far."""
        return False

    def goes_on(self, before: int, address: int) -> bool:
        """Whether what looked like a return has led to a place where the code goes on."""
        return False

    def _garbage_mask(self, register: Register) -> int:
        """The bits that may hold anything. Of a floating point mode register only the modes are varied: a pending
        exception in its status bits would be raised by the emulator as soon as it is set."""
        mask = self.machine.writable_mask(register)
        if register.bank is Bank.CONTROL and register is not self.architecture.flags:
            kept = [c.kept[register] for c in self.architecture.conventions.values() if register in c.kept]
            for some in kept:
                mask &= some
        return mask

    def at_entry(self, convention: Convention) -> list[tuple[Register, int, int, int]]:
        """The registers that a caller fills: their bits, those of them that may hold anything, those that are kept."""
        found = self._at_entry.get(convention)
        if found is None:
            masks = self.masks.items()
            found = [(r, r.bits, mask, convention.keeps(r)) for r, mask in masks if mask]
            self._at_entry[convention] = found
        return found

    def after_call(
        self, convention: Convention, clobbers: frozenset[Register] | None
    ) -> list[tuple[Register, int, int | None]]:
        """What a callee leaves in each register: its bits, and those of them that stay; None where all do."""
        found = self._after_call.get((convention, clobbers))
        if found is not None:
            return found
        always = set(convention.linker_may_write)
        if self.architecture.flags is not None:
            always.add(self.architecture.flags)
        if convention.return_address is not None:
            always.add(convention.return_address)
        found = []
        for register, mask in self.masks.items():
            if register is self.architecture.sp:
                continue
            spared = clobbers is not None and register not in clobbers and register not in always
            if register in self.reserved or spared:
                found.append((register, register.bits, None))
            else:
                keep = convention.keeps(register) if clobbers is None else 0
                found.append((register, register.bits, (keep | ~mask) & (1 << register.bits) - 1))
        self._after_call[convention, clobbers] = found
        return found

    def at_return(self, convention: Convention) -> tuple[tuple[Register, ...], tuple[int, ...]]:
        """The registers that a caller wants back, and which bits of each; nobody's to change are among them."""
        found = self._at_return.get(convention)
        if found is None:
            masks = dict(convention.kept)
            for register in self.reserved:
                masks.setdefault(register, (1 << register.bits) - 1)
            masks = {register: mask for register, mask in masks.items() if register in self.observable}
            found = self._at_return[convention] = tuple(masks), tuple(masks.values())
        return found

    def _fill_with_moves(self, region: Region, spacing: int) -> None:
        """Something decodable where the judge answers: it is never executed."""
        from .assemble import assemble

        usable = self.architecture.allocatable(next(iter(self.architecture.conventions.values())))
        code = assemble(self.architecture, list(self.architecture.move(usable[0], usable[1]))).code
        for address in range(region.base, region.end - spacing + 1, spacing):
            self.machine.write(address, code)

    def _step(self, address: int, _size: int) -> None:
        run = self.run
        if run is not None:
            run.step(address)

    def _stub(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.stub(address)

    def _returned(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.returned(address)

    def _astray(self, address: int, _size: int) -> None:
        if self.run is not None:
            self.run.astray(address)

    def _called_kernel(self, address: int) -> None:
        if self.run is not None:
            self.run.system_call(address)

    def _wrote(self, address: int, size: int, value: int, pc: int) -> None:
        if self.run is not None:
            self.run.wrote(address, size, value, pc)


def _protection(build: Build) -> Protection:
    """What is said of a file that we have compiled."""
    functions = (build.program.functions[name] for name in build.program.own)
    paired = marks_pairs(build.architecture) and not any(unpaired(f, build.architecture) for f in functions)
    return Protection(landing=True, paired=paired)
