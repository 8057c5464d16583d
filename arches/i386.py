"""386: the System V i386 ABI and Go's stack convention. What it shares with amd64 is in `x86`.

Unlike amd64 there are seven registers for values, only four of them with a byte of their own, and no argument travels
in any. A C function returns floating point values on top of the x87 stack. That is the register `st0` here, seen as the
double that it holds: loading or moving into it pushes (fld), storing or moving out of it pops (fstp). A caller has to
take such a result out even if nobody wants it, or the x87 stack overflows after eight calls. Values live in the xmm
registers everywhere else.

The frame is the one that `x86` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from trampoline_dsl.target import (
    Access,
    Assignment,
    Bank,
    Code,
    Convention,
    Engines,
    Fixup,
    InRegister,
    Insn,
    Location,
    Part,
    Register,
    Relocation,
    SignalFrame,
    Target,
    ThreadSlot,
    ValueType,
    spelled,
    system_calls,
)

from .go import NO_REGISTERS
from .x86 import (
    CONTROL_BITS,
    FORWARD,
    X86,
    assign_go0,
    by_name,
    eflags,
    fpcw,
    free,
    guarded,
    integers,
    mxcsr,
    number,
    stacked,
    up,
    vectors,
    whole,
)

eax, ecx, edx, ebx, esp, ebp, esi, edi = integers("e")
_xmm32 = vectors(8)
st0 = Register("st0", Bank.FLOAT, 64, "st", 0, aliases=("st",))


def assign_cdecl(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """i386 psABI, section 2.2, "Parameter Passing": all on the stack, in slots of four bytes and aligned no further.

    Nobody may rely on what is above a narrow value: gcc and clang widen as callers and do not trust as callees. Where a
    convention of a user's has registers, the first words travel there, as in fastcall and regparm."""
    places: list[Location] = []
    registers = iter(convention.integer_arguments)
    offset = convention.first_stack_argument
    for kind in arguments:
        register = next(registers, None) if kind.kind == "int" and kind.bits <= 32 else None
        if register is not None:
            places.append((Part(InRegister(register), 0, kind.bits),))
            continue
        places.append(stacked(offset, kind, convention.slot))
        offset += up(kind.bits // 8, convention.slot)
    back: Location = ()
    if result is not None and result.kind == "float":
        # Extended precision holds every float and double exactly: the number that st0 holds is the value itself.
        back = (Part(InRegister(convention.float_results[0]), 0, result.bits, as_double=result.bits == 32),)
    elif result is not None:
        back = tuple(
            Part(InRegister(convention.integer_results[low // 32]), low, min(32, result.bits - low))
            for low in range(0, result.bits, 32)
        )
    return Assignment(tuple(places), back, offset)


C = Convention(
    name="c",
    title="System V i386, cdecl",
    source="System V ABI, Intel386 Architecture Processor Supplement, version 1.1, section 2.2",
    integer_arguments=(),
    float_arguments=(),
    integer_results=(eax, edx),
    float_results=(st0,),
    assign=assign_cdecl,
    first_stack_argument=0,
    slot=4,
    kept=whole(ebx, ebp, esi, edi) | CONTROL_BITS,
    fixed=(FORWARD,),
    reserved={},
    alignment=16,
    red_zone=0,
    area=0,
    save_area={},
    back_chain=False,
    callee_pops=False,
    return_address=None,
    return_slot="top",
    call_through=None,
    descriptors=False,
    toc_slot=None,
    thread=None,
    scratch=(),
    linker_may_write=(),
    notes={
        "kept": "ebx, ebp, esi, edi: i386 psABI 2.2",
        "mxcsr": "control bits are kept, status bits 0-5 are not: i386 psABI 2.2",
        "fpcw": "the x87 control word is kept, the status word is not: i386 psABI 2.2",
        "eflags": "DF is clear at entry and at return: i386 psABI 2.2",
        "st0": "a float or double result; the x87 stack is empty at entry, and but for st0 at return: i386 psABI 2.2",
        "ebx": "holds the GOT's address where the call goes through a PLT of position-independent code: i386 psABI 2.2",
        "alignment": "esp is a multiple of 16 at a call: i386 psABI 2.2; code from before gcc 3 kept 4",
        "narrow": "nothing above a narrow argument or result is defined: measured with gcc 12 and clang 20",
        "hidden pointer": "a callee pops the pointer to a struct result, four bytes: i386 psABI 2.2",
        "red zone": "none: a signal's frame starts at esp",
    },
)

GO0 = C.derive(
    name="go0",
    title="Go's stack convention (ABI0)",
    source="Go: cmd/compile/abi-internal.md and doc/asm; internal/goarch for the sizes",
    integer_results=(),
    float_results=(),
    assign=assign_go0,
    kept=CONTROL_BITS,
    alignment=4,
    thread=ThreadSlot("gs", -4),
    notes={
        "kept": "no register: Go's compiler takes all of them for clobbered by a call",
        "mxcsr": "Go never changes floating point modes",
        "fpcw": "Go never changes floating point modes",
        "eflags": "DF is clear: Go's runtime copies memory with string instructions",
        "thread": "g is the thread-local word at gs:-4",
        "alignment": "a word: runtime stacks on 386 are aligned no further",
    },
)

GOREGS = GO0.derive(name="goregs", title=NO_REGISTERS)


# arch/x86/kernel/signal_32.c: struct rt_sigframe_ia32 is the return address, three words of arguments, siginfo (128
# bytes), ucontext (116) and eight bytes of code; what fnsave (112) and xsave store is above it, as on amd64.
SIGNALS = SignalFrame(
    "arch/x86/kernel/signal_32.c, ia32_setup_rt_frame and rt_sigreturn",
    size=16 + 128 + 116 + 8,
    info=16,
    context=16 + 128,
    alignment=16,
    misalignment=4,
    state=(112 + 512, 112 + 836, 112 + 2700),
    number=173,
    restored=4,
    restorer="taken",
    values={mxcsr: 0x1F80, fpcw: 0x37F, **dict.fromkeys(_xmm32, 0)},
)


class I386(X86):
    name = "386"
    word = 4
    engines = Engines(
        keystone_arch="KS_ARCH_X86",
        keystone_mode=("KS_MODE_32",),
        unicorn_arch="UC_ARCH_X86",
        unicorn_mode=("UC_MODE_32",),
        unicorn_cpu=None,
        capstone_arch="CS_ARCH_X86",
        capstone_mode=("CS_MODE_32",),
    )
    integers = (eax, ecx, edx, ebx, esp, ebp, esi, edi)
    accumulator, counter, frame_pointer, sp = eax, ecx, ebp, esp
    registers = by_name((*integers, *_xmm32, st0, eflags, mxcsr, fpcw))
    conventions = MappingProxyType({"c": C, "go0": GO0, "goregs": GOREGS})
    signals = SIGNALS
    system_calls = system_calls(
        C,
        registers.values(),
        (eax, ebx, ecx, edx, esi, edi, ebp),
        eax,
        (),
        "Linux, arch/x86/entry/entry_32.S, entry_INT80_32; syscall(2)",
        size=2,
    )
    # The addend is in the field, unlike on amd64. i386 psABI, chapter 4, "Relocation".
    fixups = MappingProxyType(
        {
            "R_386_32": Fixup(4, 0xFFFFFFFF, in_place=True),
            "R_386_PC32": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True),
            "R_386_PLT32": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True),
        }
    )
    branch_relocation = "R_386_PC32"
    byte_registers = frozenset({eax, ecx, edx, ebx})
    gnu_as = ("i686-linux-gnu-as", "--32", "-march=pentium4")

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        return free((eax, ecx, edx, ebx, esi, edi, ebp), convention)

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        return free(_xmm32, convention)

    def float_move(self, d: Register, s: Register, bits: int) -> Code:
        if d == s or st0 not in (d, s):
            yield from super().float_move(d, s, bits)
            return
        # Nothing moves between the two files but through memory.
        yield self.adjust(esp, -8)
        yield from self.float_store(s, esp, 0, bits)
        yield from self.float_load(d, esp, 0, bits)
        yield self.adjust(esp, 8)

    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code:
        if d != st0:
            yield from super().float_load(d, base, offset, bits)
            return
        yield Insn(
            f"fld {self.memory(base, offset, bits)}",
            frozenset({base}),
            frozenset({st0}),
            "read",
            Access("load", st0, base, offset, bits // 8),
        )

    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code:
        if s != st0:
            yield from super().float_store(s, base, offset, bits)
            return
        yield Insn(
            f"fstp {self.memory(base, offset, bits)}",
            frozenset({st0, base}),
            frozenset({st0}),
            "write",
            Access("store", st0, base, offset, bits // 8),
        )

    def symbol_address(self, d: Register, symbol: str) -> Code:
        yield Insn(
            guarded(f"mov {d}, offset {spelled(symbol)}", f"movl ${symbol}, %{d}", symbol),
            writes=frozenset({d}),
            relocation=Relocation("R_386_32", symbol, 0, 1),
            keystone=f"mov {d}, 0x0",
        )

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(eax, number)
        yield self.kernel_entry("int 0x80")

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        yield Insn(
            f"mov {d}, dword ptr {slot.segment}:[{number(self.signed(slot.offset))}]",
            writes=frozenset({d}),
            memory="read",
        )

    def thread_store(self, s: Register, slot: ThreadSlot) -> Code:
        yield Insn(
            f"mov dword ptr {slot.segment}:[{number(self.signed(slot.offset))}], {s}", frozenset({s}), memory="write"
        )


TARGETS: tuple[Target, ...] = (Target("linux/386", "linux", I386(), "SSE2 (Pentium 4; GO386=sse2)"),)
