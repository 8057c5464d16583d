"""386: the System V i386 ABI, Microsoft's conventions, and Go's. What it shares with amd64 is in `x86`.

Unlike amd64 there are seven registers for values, only four of them with a byte of their own, and no argument travels
in any. A C function returns floating point values on top of the x87 stack. That is the register `st0` here, seen as the
double that it holds: loading or moving into it pushes (fld), storing or moving out of it pops (fstp). A caller has to
take such a result out even if nobody wants it, or the x87 stack overflows after eight calls. Values live in the xmm
registers everywhere else.

The frame is the one that `x86` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from trampoline_dsl.target import (
    GOT_SYMBOL,
    IMAGE_BASE,
    Access,
    Assignment,
    Bank,
    Code,
    ContextRecord,
    Convention,
    Engines,
    Fixup,
    Frame,
    InRegister,
    Insn,
    Linkage,
    Location,
    Part,
    Plan9,
    Register,
    Relocation,
    SignalFrame,
    SystemCalls,
    Target,
    ThreadSlot,
    Unwinding,
    ValueType,
    aligned,
    spelled,
    system_calls,
)

from .baselines.x86 import SSE2
from .go import NO_REGISTERS, assign_go0
from .x86 import (
    CONTROL_BITS,
    DIRECTION,
    FORWARD,
    X86,
    OperatingSystem,
    by_name,
    eflags,
    fpcw,
    guarded,
    integers,
    mxcsr,
    number,
    raw,
    stacked,
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
        offset += aligned(kind.bits // 8, convention.slot)
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


def assign_gnu_registers(
    convention: Convention, arguments: Sequence[ValueType], result: ValueType | None
) -> Assignment:
    """gcc's fastcall and thiscall: as `assign_cdecl`, but no register is used behind an integer of 64 bits."""
    wide = next((n for n, kind in enumerate(arguments) if kind.kind == "int" and kind.bits > 32), len(arguments))
    before = assign_cdecl(convention, arguments[:wide], None)
    rest = convention.derive(integer_arguments=(), first_stack_argument=before.stack_bytes)
    behind = assign_cdecl(rest, arguments[wide:], result)
    return Assignment(before.arguments + behind.arguments, behind.result, behind.stack_bytes)


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
    assign=partial(assign_go0, word=4, stored=partial(stacked, word=4)),
    kept=CONTROL_BITS,
    alignment=4,
    thread=ThreadSlot("gs", -4, base_at_base=True),
    notes={
        "kept": "no register: Go's compiler takes all of them for clobbered by a call",
        "mxcsr": "Go never changes floating point modes",
        "fpcw": "Go never changes floating point modes",
        "eflags": "DF is clear: Go's runtime copies memory with string instructions",
        "thread": "g is the thread-local word at gs:-4, and gs:0 is the address of gs:0: ELF Handling For Thread-Local "
        "Storage, IA-32",
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

# The names of these three are GNU C's too: gcc's manual, "x86 Function Attributes".
STDCALL = C.derive(
    name="stdcall",
    title="System V i386, stdcall",
    source='gcc manual, "x86 Function Attributes": stdcall; System V i386 for the rest',
    callee_pops=True,
    notes={**C.notes, "who pops": "the callee, all its arguments: gcc manual, stdcall"},
)
_GNU_REGISTERS = (
    "once an integer of 64 bits has been passed in memory, gcc takes no further register, unlike Microsoft's compiler: "
    "measured with gcc 12"
)
FASTCALL = STDCALL.derive(
    name="fastcall",
    title="System V i386, fastcall",
    source='gcc manual, "x86 Function Attributes": fastcall; System V i386 for the rest',
    integer_arguments=(ecx, edx),
    assign=assign_gnu_registers,
    notes={**STDCALL.notes, "ecx": "the first two arguments of at most 32 bits", "wide": _GNU_REGISTERS},
)
THISCALL = FASTCALL.derive(
    name="thiscall",
    title="System V i386, thiscall",
    source='gcc manual, "x86 Function Attributes": thiscall; System V i386 for the rest',
    integer_arguments=(ecx,),
    notes={**STDCALL.notes, "ecx": "the first argument, if it has at most 32 bits", "wide": _GNU_REGISTERS},
)

_WINDOWS_NOTES = {
    "kept": 'ebx, ebp, esi, edi: Microsoft Learn, "Argument passing and naming conventions"',
    "mxcsr": "control bits are kept, status bits 0-5 are not",
    "fpcw": "the x87 control word is kept, the status word is not",
    "eflags": "DF comes back as it was. It is clear in code of a C compiler; a callback may be entered with DF set, so "
    "nothing is taken for granted at entry",
    "st0": "a float or double result; the x87 stack is empty at entry, and but for st0 at return",
    "alignment": "4. gcc assumes 16 in functions that align vectors, unless it is given -mstackrealign",
    "narrow": "nothing above a narrow argument or result is defined: measured with gcc 12",
    "red zone": "none: an exception's frames start below esp",
    "symbol": "the name that C's compilers give it: _name for cdecl, _name@bytes for stdcall, @name@bytes for fastcall "
    '(Microsoft Learn, "Decorated names")',
}
WINDOWS_C = C.derive(
    title="Microsoft cdecl",
    source='Microsoft Learn, "Argument passing and naming conventions", "__cdecl"',
    kept={**C.kept, eflags: DIRECTION},
    fixed=(),
    alignment=4,
    decoration="_{name}",
    notes=_WINDOWS_NOTES,
)
WINDOWS_STDCALL = WINDOWS_C.derive(
    name="stdcall",
    title="Microsoft stdcall",
    source='Microsoft Learn, "__stdcall"',
    callee_pops=True,
    decoration="_{name}@{bytes}",
    notes={**_WINDOWS_NOTES, "who pops": 'the callee, all its arguments: Microsoft Learn, "__stdcall"'},
)
WINDOWS_FASTCALL = WINDOWS_STDCALL.derive(
    name="fastcall",
    title="Microsoft fastcall",
    source='Microsoft Learn, "__fastcall"',
    integer_arguments=(ecx, edx),
    decoration="@{name}@{bytes}",
    notes={
        **WINDOWS_STDCALL.notes,
        "ecx": "the first two arguments of at most 32 bits, from left to right; wider ones are in memory and passed "
        'over: Microsoft Learn, "__fastcall"',
        "wide": "gcc takes no further register behind a wide argument: measured with gcc 12",
    },
)
WINDOWS_THISCALL = WINDOWS_STDCALL.derive(
    name="thiscall",
    title="Microsoft thiscall",
    source='Microsoft Learn, "__thiscall"',
    integer_arguments=(ecx,),
    decoration="_{name}",
    notes={
        **WINDOWS_STDCALL.notes,
        "ecx": "`this`, the first argument",
        "symbol": "C++ compilers make names of their own for methods; here it has cdecl's",
    },
)
WINDOWS_GO0 = GO0.derive(
    thread=ThreadSlot("fs", 0, symbol="runtime.tls_g", indirect=True),
    notes={
        **GO0.notes,
        "thread": "fs:[runtime.tls_g] holds the address of the word that holds g, or null on a thread that Go has not "
        "set up: runtime/sys_windows_386.s, wintls",
    },
)

WINDOWS_GOREGS = WINDOWS_GO0.derive(name="goregs", title=NO_REGISTERS)

# winnt.h of the Windows SDK, struct _CONTEXT of i386. The vector and x87 state is that of `fxsave` (SDM, volume 1,
# 10.5.1) from 0xcc on, and once more, as `fnsave` has it, from 0x1c on.
CONTEXT = ContextRecord(
    size=716,
    alignment=4,
    registers={
        edi: (0x9C, 4),
        esi: (0xA0, 4),
        ebx: (0xA4, 4),
        edx: (0xA8, 4),
        ecx: (0xAC, 4),
        eax: (0xB0, 4),
        ebp: (0xB4, 4),
        esp: (0xC4, 4),
        eflags: (0xC0, 4),
        fpcw: (0xCC, 2),
        mxcsr: (0xE4, 4),
        **{register: (0x16C + 16 * n, 16) for n, register in enumerate(_xmm32)},
    },
    pc=0xB8,
    flags=0,
    full=0x1003F,  # CONTEXT_ALL
    source="winnt.h, struct _CONTEXT (_X86_)",
    copies=((fpcw, 0x1C, 2),),
)


BASE = "dword ptr gs:[0]"  # a thread's words are counted from the address that is there


class I386(X86):
    name = "386"
    extensions = SSE2
    machines: Mapping[str, int] = {"elf": 3, "macho": 7}
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
    signals: SignalFrame | None = SIGNALS
    system_calls: SystemCalls | None = system_calls(
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
            "R_386_GOTPC": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True),
            "R_386_GOT32X": Fixup(4, 0xFFFFFFFF, in_place=True, base=GOT_SYMBOL, got=True),
            # What is not of our own making.
            "R_386_GOT32": Fixup(4, 0xFFFFFFFF, in_place=True, base=GOT_SYMBOL, got=True),
            "R_386_GOTOFF": Fixup(4, 0xFFFFFFFF, in_place=True, base=GOT_SYMBOL),
        }
    )
    branch_relocation = "R_386_PC32"
    absolute_relocation = "R_386_32"
    branch_addend = -4
    linkages: tuple[Linkage, ...] = ("static", "pic", "go")
    calls_through_got = True
    pop_register = ecx  # which has no part of a result and is not kept
    byte_registers = frozenset({eax, ecx, edx, ebx})
    gnu_as = ("i686-linux-gnu-as", "--32", "-march=pentium4")
    clang = ("--target=i686-linux-gnu",)

    def __init__(self, system: OperatingSystem = "linux") -> None:
        if system == "linux":
            self.conventions = MappingProxyType({c.name: c for c in (C, STDCALL, FASTCALL, THISCALL, GO0, GOREGS)})
            return
        windows = (WINDOWS_C, WINDOWS_STDCALL, WINDOWS_FASTCALL, WINDOWS_THISCALL, WINDOWS_GO0, WINDOWS_GOREGS)
        self.conventions = MappingProxyType({c.name: c for c in windows})
        # PE Format, "Type Indicators", Intel 386 Processors. The addend is in the field.
        self.fixups = MappingProxyType(
            {
                "IMAGE_REL_I386_DIR32": Fixup(4, 0xFFFFFFFF, in_place=True),
                "IMAGE_REL_I386_DIR32NB": Fixup(4, 0xFFFFFFFF, in_place=True, base=IMAGE_BASE),
                "IMAGE_REL_I386_REL32": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True, ahead=4),
            }
        )
        self.branch_relocation, self.absolute_relocation = "IMAGE_REL_I386_REL32", "IMAGE_REL_I386_DIR32"
        self.branch_addend = 0
        self.object_format = "coff"
        self.machines = {"pe": 0x14C}
        self.linkages = ("static", "go")
        self.local_prefix = "L"  # GNU as for PE on 386 takes .L for a symbol like others
        self.signals, self.system_calls, self.context_record = None, None, CONTEXT
        self.why_no_protection = "Windows knows where calls may lead by a table of functions, and not by landing pads"
        self.gnu_as = ("i686-w64-mingw32-as", "--32", "-march=pentium4")
        self.clang = ("--target=i686-windows-gnu",)

    def unwinding(self) -> Unwinding:
        from .unwinding.x86 import X86Unwinding

        return X86Unwinding(self.registers, self.sp, 4)

    def plan9(self) -> Plan9:
        from .plan9.x86 import X86Spelling

        return X86Spelling(32, BASE if self.object_format == "elf" else "")

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        return convention.leaves((eax, ecx, edx, ebx, esi, edi, ebp))

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        return convention.leaves(_xmm32)

    def leave_popping(self, frame: Frame, busy: frozenset[Register]) -> Code:
        """The return address goes up behind the arguments, so that calls and returns stay in pairs."""
        leave = Insn("ret", frozenset({esp}), frozenset({esp}), "read", transfer="return")
        if edx not in busy:
            yield self.pop(edx)
            yield self.operate("add", esp, ecx)
            yield self.push(edx)
        else:
            # ecx becomes the place of the return address; nothing is ever live below esp.
            yield self.operate("add", ecx, esp)
            yield self.push(ebx)
            yield self.load_insn("mov", "ebx", ebx, esp, 4, 32)
            yield self.store_insn("mov", "ebx", ebx, ecx, 0, 32)
            yield self.pop(ebx)
            yield from self.move(esp, ecx)
        yield leave

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
        if self.linkage == "pic":
            yield from self._through_got(d, symbol)
            return
        yield Insn(
            guarded(f"mov {d}, offset {spelled(symbol)}", f"movl ${symbol}, %{d}", symbol),
            writes=frozenset({d}),
            relocation=Relocation(self.absolute_relocation, symbol, 0, 1),
            keystone=f"mov {d}, 0x0",
        )

    def _through_got(self, d: Register, symbol: str) -> Code:
        """i386 psABI, 3.4.2 and table 4.9: the table by the address that a call pushes, then the symbol's entry in it.
        No register is kept for the table, so that nothing can be called through a PLT."""
        # Clang's Intel syntax has no place of its own.
        here = ".att_syntax prefix; call .+5; .intel_syntax noprefix"
        yield Insn(here, frozenset({esp}), memory="write", keystone=raw(bytes((0xE8, 0, 0, 0, 0))))
        yield self.pop(d)  # the address of this instruction, which is one byte long
        opcode = (5,) if d == eax else (0x81, 0xC0 | d.number)
        yield Insn(
            f"add {d}, offset {GOT_SYMBOL}+1",
            frozenset({d}),
            frozenset({d, eflags}),
            relocation=Relocation("R_386_GOTPC", GOT_SYMBOL, 1 + len(opcode), len(opcode)),
            keystone=raw(bytes((*opcode, 0, 0, 0, 0))),
        )
        name = spelled(symbol)
        text = f"mov {d}, dword ptr [{d}+{name}@GOT]"
        yield Insn(
            guarded(text, f"movl {name}@GOT(%{d}), %{d}", symbol),
            frozenset({d}),
            frozenset({d}),
            "read",
            relocation=Relocation("R_386_GOT32X", symbol, 0, 2),
            keystone=raw(bytes((0x8B, 0x80 | d.number * 9, 0, 0, 0, 0))),
        )

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(eax, number)
        yield self.kernel_entry("int 0x80")

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if bits < 32 or self.linkage == "pic":
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        # eax has a form of its own, a byte shorter, which Go's assembler does not use.
        opcode = (0xA1,) if d == eax and self.linkage != "go" else (0x8B, d.number << 3 | 5)
        yield Insn(
            guarded(f"mov {d}, dword ptr [{spelled(symbol)}]", f"movl {symbol}, %{d}", symbol),
            writes=frozenset({d}),
            memory="read",
            relocation=Relocation(self.absolute_relocation, symbol, 0, len(opcode)),
            keystone=raw(bytes((*opcode, 0, 0, 0, 0))),
        )

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        if slot.symbol:
            yield from self.load_symbol(d, slot.symbol, 32, False)
            yield Insn(f"mov {d}, dword ptr {slot.segment}:[{d}]", frozenset({d}), frozenset({d}), "read")
            return
        if self.linkage == "go":
            yield from self.thread_base(d, slot)
            yield replace(self.load_insn("mov", f"{d}", d, d, slot.offset, 32), access=None)
            return
        yield Insn(
            f"mov {d}, dword ptr {slot.segment}:[{number(self.signed(slot.offset))}]",
            writes=frozenset({d}),
            memory="read",
        )

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        if offset is not None and slot.symbol:
            text = f"mov dword ptr {slot.segment}:[{offset}], {s}"
            yield Insn(text, frozenset({s, offset}), memory="write")
            return
        if offset is not None:
            yield replace(self.store_insn("mov", f"{s}", s, offset, slot.offset, 32), access=None)
            return
        yield Insn(
            f"mov dword ptr {slot.segment}:[{number(self.signed(slot.offset))}], {s}", frozenset({s}), memory="write"
        )

    def thread_base(self, d: Register, slot: ThreadSlot) -> Code:
        """Go's linker, and C's for Go, put the offset of a thread's word into an instruction that adds it to the base,
        and into no other: cmd/internal/obj/x86/obj6.go, CanUse1InsnTLS."""
        yield Insn(f"mov {d}, {BASE}", writes=frozenset({d}), memory="read")


TARGETS: tuple[Target, ...] = (
    Target("linux/386", "linux", I386(), "SSE2 (Pentium 4; GO386=sse2)"),
    Target("windows/386", "windows", I386("windows"), "SSE2 (Pentium 4; GO386=sse2)"),
)
