"""amd64: the System V x86-64 ABI, Microsoft's x64 convention, and Go's. What it shares with 386 is in `x86`.

Unlike 386, arguments travel in registers, no instruction but one takes a constant of 64 bits, code finds data relative
to rip, and the bytes of most instructions depend on whether a register is one of the old eight.

The 128 bytes below rsp that a leaf function may use are left alone: every rule about what is below sp is then the same
on all machines.

The frame is the one that `x86` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from trampoline_dsl.target import (
    GOT_SYMBOL,
    IMAGE_BASE,
    Assignment,
    Bank,
    Code,
    ContextRecord,
    Convention,
    Engines,
    Fixed,
    Fixup,
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
    spelled,
    system_calls,
)

from .baselines.x86 import AMD64
from .go import REGISTERS, REGISTERS_SOURCE, assign_go0, assign_goregs
from .x86 import (
    CONTROL_BITS,
    DIRECTION,
    FORWARD,
    X86,
    OperatingSystem,
    by_name,
    eflags,
    fits,
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

rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi = integers("r")
r8, r9, r10, r11, r12, r13, r14, r15 = (Register(f"r{n}", Bank.INTEGER, 64, f"r{n}", n) for n in range(8, 16))
_xmm64 = vectors(16)


def assign_sysv(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """x86-64 psABI, section 3.2.3: two independent sequences of registers, and the rest in order on the stack.

    Integers below 32 bits are widened to 32 by their type: the document is silent, clang trusts it as a callee, and
    gcc and clang both do it as callers. What comes back is defined no further than its type."""
    places: list[Location] = []
    integers, floats = iter(convention.integer_arguments), iter(convention.float_arguments)
    offset = convention.first_stack_argument
    for kind in arguments:
        extend_to = 32 if kind.kind == "int" and kind.bits < 32 else 0
        register = next(integers if kind.kind == "int" else floats, None)
        if register is None:
            places.append(stacked(offset, kind, convention.slot, extend_to))
            offset += convention.slot
        else:
            places.append((Part(InRegister(register), 0, kind.bits, extend_to, kind.signed and extend_to > 0),))
    back: Location = ()
    if result is not None:
        results = convention.integer_results if result.kind == "int" else convention.float_results
        back = (Part(InRegister(results[0]), 0, result.bits),)
    return Assignment(tuple(places), back, offset)


def assign_microsoft(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """Microsoft Learn, "x64 calling convention", "Parameter passing": the n-th argument is in the n-th register of its
    kind, or else in memory. Nobody widens anything for others."""
    places: list[Location] = []
    offset = convention.first_stack_argument
    for position, kind in enumerate(arguments):
        registers = convention.integer_arguments if kind.kind == "int" else convention.float_arguments
        if position < len(registers):
            places.append((Part(InRegister(registers[position]), 0, kind.bits),))
        else:
            places.append(stacked(offset, kind, convention.slot))
            offset += convention.slot
    back: Location = ()
    if result is not None:
        results = convention.integer_results if result.kind == "int" else convention.float_results
        back = (Part(InRegister(results[0]), 0, result.bits),)
    return Assignment(tuple(places), back, offset)


C = Convention(
    name="c",
    title="System V x86-64",
    source="System V ABI, AMD64 Architecture Processor Supplement, version 1.0, section 3.2",
    integer_arguments=(rdi, rsi, rdx, rcx, r8, r9),
    float_arguments=_xmm64[:8],
    integer_results=(rax, rdx),
    float_results=_xmm64[:2],
    assign=assign_sysv,
    first_stack_argument=0,
    slot=8,
    kept=whole(rbx, rbp, r12, r13, r14, r15) | CONTROL_BITS,
    fixed=(FORWARD,),
    reserved={},
    alignment=16,
    red_zone=128,
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
    linker_may_write=(r11,),
    notes={
        "kept": "rbx, rbp, r12-r15: x86-64 psABI 3.2.1, figure 3.4",
        "mxcsr": "control bits are kept, status bits 0-5 are not: x86-64 psABI 3.2.1",
        "fpcw": "the x87 control word is kept, the status word is not: x86-64 psABI 3.2.1",
        "eflags": "DF is clear at entry and at return: x86-64 psABI 3.2.1",
        "rax": "al holds the number of vector registers used in a call of a variadic function: x86-64 psABI 3.2.3",
        "r10": "a nested function's static chain: x86-64 psABI 3.2.1, figure 3.4",
        "r11": "a PLT or a linker's stub may use it: x86-64 psABI 3.2.1, figure 3.4",
        "alignment": "rsp is a multiple of 16 at a call: x86-64 psABI 3.2.2",
        "red zone": "128 bytes below rsp: x86-64 psABI 3.2.2. Code from here never uses them",
        "narrow": "integers are widened to 32 bits by the caller: trusted by clang 20, not written in the psABI",
    },
)

GO0 = C.derive(
    name="go0",
    title="Go's stack convention (ABI0)",
    source="Go: cmd/compile/abi-internal.md and doc/asm; internal/goarch for the sizes",
    integer_arguments=(),
    float_arguments=(),
    integer_results=(),
    float_results=(),
    assign=partial(assign_go0, word=8, stored=partial(stacked, word=8)),
    kept=whole(rbp) | CONTROL_BITS,
    alignment=8,
    red_zone=0,
    thread=ThreadSlot("fs", -8),
    linker_may_write=(),
    frame_pointer=rbp,
    notes={
        "kept": "rbp only: Go keeps frame pointers, and takes every other register for clobbered by a call",
        "mxcsr": "Go never changes floating point modes",
        "fpcw": "Go never changes floating point modes",
        "eflags": "DF is clear: Go's runtime copies memory with string instructions",
        "thread": "g is the thread-local word at fs:-8; r14 holds it in the register convention only",
        "alignment": "a word: internal/goarch, StackAlign",
        "red zone": "none: Go's signal handlers know of none",
    },
)

GOREGS = GO0.derive(
    name="goregs",
    go_abi="ABIInternal",
    title=REGISTERS,
    source=REGISTERS_SOURCE,
    integer_arguments=(rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11),
    float_arguments=_xmm64[:15],
    integer_results=(rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11),
    float_results=_xmm64[:15],
    assign=assign_goregs,
    fixed=(FORWARD, Fixed(_xmm64[15], (1 << 128) - 1, 0, "Go's compiled code uses xmm15 as the number zero")),
    reserved={r14: "holds g, the runtime's thread", _xmm64[15]: "holds zero"},
    thread_copy=r14,
    notes=dict(GO0.notes)
    | {
        "thread": "g is in r14 and in the thread-local word at fs:-8, which go0 has it in",
        "xmm15": "zero at calls and returns: abi-internal.md, amd64",
        "rdx": "the closure's context, in calls of closures",
    },
)


# arch/x86/kernel/signal_64.c: struct rt_sigframe is the return address, ucontext (304 bytes) and siginfo (128). What
# xsave stores is above it: 512 bytes, or 836 with AVX, or 2700 with AVX-512. fpu__clear_user_states: a handler starts
# with the floating point state of a new process.
SIGNALS = SignalFrame(
    "arch/x86/kernel/signal_64.c, x64_setup_rt_frame and rt_sigreturn",
    size=8 + 304 + 128,
    info=8 + 304,
    context=8,
    alignment=16,
    misalignment=8,
    state=(512, 836, 2700),
    untouched=128,
    number=15,
    restored=8,
    restorer="needed",
    values={rax: 0, mxcsr: 0x1F80, fpcw: 0x37F, **dict.fromkeys(_xmm64, 0)},
)

WINDOWS_C = C.derive(
    title="Microsoft x64",
    source='Microsoft Learn, "x64 calling convention" and "x64 ABI conventions"',
    integer_arguments=(rcx, rdx, r8, r9),
    float_arguments=_xmm64[:4],
    integer_results=(rax,),
    float_results=_xmm64[:1],
    assign=assign_microsoft,
    first_stack_argument=32,
    kept=whole(rbx, rbp, rsi, rdi, r12, r13, r14, r15, *_xmm64[6:]) | CONTROL_BITS | {eflags: DIRECTION},
    fixed=(),
    red_zone=0,
    area=32,
    linker_may_write=(),
    notes={
        "kept": 'rbx, rbp, rdi, rsi, r12-r15, xmm6-xmm15: Microsoft Learn, "Caller/callee saved registers"',
        "xmm6": 'all 128 bits; the upper halves of ymm6-ymm15 are not kept: Microsoft Learn, "Caller/callee saved '
        'registers"',
        "mxcsr": 'control bits are kept, status bits 0-5 are not: Microsoft Learn, "MxCsr"',
        "fpcw": 'the x87 control word is kept, the status word is not: Microsoft Learn, "FPCSR"',
        "eflags": "DF comes back as it was. C compilers have it clear; a callback may be entered with DF set, "
        "so nothing is taken for granted at entry",
        "area": "home space: 32 bytes below the arguments in memory, at every call, whatever the callee takes: "
        'Microsoft Learn, "Stack allocation"',
        "positions": "argument n is in the n-th register of its kind, whatever the others are: Microsoft Learn, "
        '"Parameter passing"',
        "rax": "the thunk of a delay-loaded import writes it; other import thunks write no register",
        "alignment": 'rsp is a multiple of 16 at a call: Microsoft Learn, "Stack allocation"',
        "red zone": "none: an exception's frames start below rsp",
        "narrow": "nothing above a narrow argument or result is defined: measured with gcc 12",
    },
)


def _same(name: str) -> Convention:
    """What the compilers make of a 386 convention's name: they take it, and mean the one convention that there is."""
    return WINDOWS_C.derive(name=name, title=f"Microsoft x64, which {name} means here")


WINDOWS_GO0 = GO0.derive(
    thread=ThreadSlot("gs", 0, symbol="runtime.tls_g", indirect=True),
    notes={
        **GO0.notes,
        "thread": "gs:[runtime.tls_g] holds the address of the word that holds g, or null on a thread that Go has not "
        "set up: runtime/sys_windows_amd64.s, wintls. r14 holds g in the register convention only",
    },
)

WINDOWS_GOREGS = GOREGS.derive(
    thread=WINDOWS_GO0.thread,
    notes={**GOREGS.notes, "thread": "g is in r14, and where go0 has it"},
)

# winnt.h of the Windows SDK, struct _CONTEXT of AMD64. From 0x100 on: the state of `fxsave` (SDM, volume 1, 10.5.1).
CONTEXT = ContextRecord(
    size=1232,
    alignment=16,
    registers={
        mxcsr: (0x34, 4),
        eflags: (0x44, 4),
        **{
            register: (0x78 + 8 * n, 8)
            for n, register in enumerate((rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15))
        },
        fpcw: (0x100, 2),
        **{register: (0x1A0 + 16 * n, 16) for n, register in enumerate(_xmm64)},
    },
    pc=0xF8,
    flags=0x30,
    full=0x10000F,  # CONTEXT_AMD64: control, integer, segments, floating point
    source="winnt.h, struct _CONTEXT (_AMD64_)",
    copies=((mxcsr, 0x118, 4),),
)


class Amd64(X86):
    name = "amd64"
    extensions = AMD64
    machines: Mapping[str, int] = {"elf": 62, "macho": 0x01000007}
    linkages: tuple[Linkage, ...] = ("static", "pic", "go")
    word = 8
    engines = Engines(
        keystone_arch="KS_ARCH_X86",
        keystone_mode=("KS_MODE_64",),
        unicorn_arch="UC_ARCH_X86",
        unicorn_mode=("UC_MODE_64",),
        unicorn_cpu=None,
        capstone_arch="CS_ARCH_X86",
        capstone_mode=("CS_MODE_64",),
    )
    integers = (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15)
    accumulator, counter, frame_pointer, sp = rax, rcx, rbp, rsp
    registers = by_name((*integers, *_xmm64, eflags, mxcsr, fpcw))
    signals: SignalFrame | None = SIGNALS
    # x86-64 psABI, appendix A.2.1: the kernel destroys rcx and r11, for `syscall` itself writes them (SDM volume 2B).
    system_calls: SystemCalls | None = system_calls(
        C,
        registers.values(),
        (rax, rdi, rsi, rdx, r10, r8, r9),
        rax,
        (rcx, r11),
        'x86-64 psABI, appendix A.2.1 "Calling conventions"; syscall(2)',
        size=2,
    )
    # x86-64 psABI 4.4.1. A call through a PLT and one past it differ in the linker only.
    fixups = MappingProxyType(
        {
            "R_X86_64_64": Fixup(8, 0xFFFFFFFFFFFFFFFF),
            "R_X86_64_PC32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
            "R_X86_64_PLT32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
            "R_X86_64_REX_GOTPCRELX": Fixup(4, 0xFFFFFFFF, pc_relative=True, got=True),
            # What is not of our own making.
            "R_X86_64_32": Fixup(4, 0xFFFFFFFF),
            "R_X86_64_32S": Fixup(4, 0xFFFFFFFF),
            "R_X86_64_PC64": Fixup(8, 0xFFFFFFFFFFFFFFFF, pc_relative=True),
            "R_X86_64_GOTPCREL": Fixup(4, 0xFFFFFFFF, pc_relative=True, got=True),
            "R_X86_64_GOTPCRELX": Fixup(4, 0xFFFFFFFF, pc_relative=True, got=True),
            "R_X86_64_GOTPC32": Fixup(4, 0xFFFFFFFF, pc_relative=True),
            "R_X86_64_GOTPC64": Fixup(8, 0xFFFFFFFFFFFFFFFF, pc_relative=True),
            "R_X86_64_GOTOFF64": Fixup(8, 0xFFFFFFFFFFFFFFFF, base=GOT_SYMBOL),
        }
    )
    branch_relocation = "R_X86_64_PLT32"
    data_relocation = "R_X86_64_PC32"  # of a symbol that is found from rip
    absolute_relocation = "R_X86_64_64"
    branch_addend = -4
    hosts = ("x86_64",)
    gnu_as = ("x86_64-linux-gnu-as", "--64", "-march=generic64")
    clang = ("--target=x86_64-linux-gnu",)

    def __init__(self, system: OperatingSystem = "linux") -> None:
        if system == "linux":
            self.conventions = MappingProxyType({"c": C, "go0": GO0, "goregs": GOREGS})
            return
        windows = (WINDOWS_C, *map(_same, ("stdcall", "fastcall", "thiscall")), WINDOWS_GO0, WINDOWS_GOREGS)
        self.conventions = MappingProxyType({c.name: c for c in windows})
        # PE Format, "Type Indicators", x64 Processors. The addend is in the field.
        self.fixups = MappingProxyType(
            {
                "IMAGE_REL_AMD64_ADDR64": Fixup(8, 0xFFFFFFFFFFFFFFFF, in_place=True),
                "IMAGE_REL_AMD64_REL32": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True, ahead=4),
                "IMAGE_REL_AMD64_ADDR32": Fixup(4, 0xFFFFFFFF, in_place=True),
                "IMAGE_REL_AMD64_ADDR32NB": Fixup(4, 0xFFFFFFFF, in_place=True, base=IMAGE_BASE),
                **{
                    f"IMAGE_REL_AMD64_REL32_{n}": Fixup(4, 0xFFFFFFFF, pc_relative=True, in_place=True, ahead=4 + n)
                    for n in range(1, 6)
                },
            }
        )
        self.branch_relocation = self.data_relocation = "IMAGE_REL_AMD64_REL32"
        self.absolute_relocation = "IMAGE_REL_AMD64_ADDR64"
        self.branch_addend = 0
        self.object_format = "coff"
        self.machines = {"pe": 0x8664}
        self.linkages = ("static", "go")
        self.signals, self.system_calls, self.context_record = None, None, CONTEXT
        self.why_no_protection = "Windows knows where calls may lead by a table of functions, and not by landing pads"
        self.gnu_as = ("x86_64-w64-mingw32-as", "--64", "-march=generic64")
        self.clang = ("--target=x86_64-windows-gnu",)

    def unwinding(self) -> Unwinding:
        from .unwinding.x86 import X64Unwinding, X86Unwinding

        if self.object_format == "coff":
            return X64Unwinding(self.registers, self.sp)
        return X86Unwinding(self.registers, self.sp, 8)

    def plan9(self) -> Plan9:
        from .plan9.x86 import X86Spelling

        slot = GO0.thread if self.object_format == "elf" else None
        return X86Spelling(64, f"qword ptr {self.thread_address(slot)}" if isinstance(slot, ThreadSlot) else "")

    def allocatable(self, convention: Convention) -> tuple[Register, ...]:
        # The old eight need no prefix for themselves; r12 and r13 are longer as a base; rbp last, for those who walk
        # the chain of frame pointers.
        return convention.leaves((rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11, rbx, r14, r15, r12, r13, rbp))

    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]:
        return convention.leaves(_xmm64)

    def symbol_address(self, d: Register, symbol: str) -> Code:
        if self.linkage == "pic":
            name = spelled(symbol)
            text = f"mov {d}, qword ptr [rip+{name}@GOTPCREL]"
            yield Insn(
                guarded(text, f"movq {name}@GOTPCREL(%rip), %{d}", symbol),
                writes=frozenset({d}),
                memory="read",
                relocation=Relocation("R_X86_64_REX_GOTPCRELX", symbol, -4, 3),
                keystone=f"mov {d}, qword ptr [rip]",
            )
            return
        yield Insn(
            guarded(f"lea {d}, [rip+{spelled(symbol)}]", f"leaq {symbol}(%rip), %{d}", symbol),
            writes=frozenset({d}),
            relocation=Relocation(self.data_relocation, symbol, self.branch_addend, 3),
            keystone=f"lea {d}, [rip]",
        )

    def far_jump(self, symbol: str) -> Code:
        # Through the word behind it: no register is changed. SDM volume 2A, "JMP": FF /4.
        yield Insn("jmp qword ptr [rip]", memory="read", transfer="jump", keystone=raw(bytes.fromhex("ff2500000000")))
        address = Relocation(self.absolute_relocation, symbol)
        text = guarded(f".quad {spelled(symbol)}", f".quad {symbol}", symbol)
        yield Insn(text, relocation=address, keystone=".quad 0")

    def system_call(self, number: int | None, label: str) -> Code:
        if number is not None:
            yield from self.constant(rax, number)
        yield self.kernel_entry("syscall")

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        if bits < 64 or self.linkage == "pic":
            yield from super().load_symbol(d, symbol, bits, signed)
            return
        yield Insn(
            guarded(f"mov {d}, qword ptr [rip+{spelled(symbol)}]", f"movq {symbol}(%rip), %{d}", symbol),
            writes=frozenset({d}),
            memory="read",
            relocation=Relocation(self.data_relocation, symbol, self.branch_addend, 3),
            keystone=f"mov {d}, qword ptr [rip]",
        )

    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        if slot.symbol:
            yield from self.load_symbol(d, slot.symbol, 64, False)
            text = f"mov {d}, qword ptr {slot.segment}:[{d}]"
            yield Insn(text, frozenset({d}), frozenset({d}), "read")
            return
        text = f"mov {d}, qword ptr {self.thread_address(slot)}"
        yield Insn(text, writes=frozenset({d}), memory="read", keystone=self.absolute(0x8B, d, slot))

    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        if offset is not None and slot.symbol:
            text = f"mov qword ptr {slot.segment}:[{offset}], {s}"
            yield Insn(text, frozenset({s, offset}), memory="write")
            return
        text = f"mov qword ptr {self.thread_address(slot)}, {s}"
        lost = frozenset({offset}) if offset is not None else frozenset()
        yield Insn(text, frozenset({s}), lost, "write", keystone=self.absolute(0x89, s, slot))

    def thread_base(self, d: Register, slot: ThreadSlot) -> Code:
        # It takes an instruction only where Go's assembler is told -shared: cmd/internal/obj/x86/obj6.go, progedit.
        return iter(())

    def thread_address(self, slot: ThreadSlot) -> str:
        if not fits(slot.offset, 32):
            raise ValueError(f"thread slot {slot.offset:#x} is out of an instruction's reach of 31 bits")
        return f"{slot.segment}:[{number(slot.offset)}]"

    def absolute(self, opcode: int, register: Register, slot: ThreadSlot) -> str | None:
        """Keystone takes rax for the form with a 64-bit address, two bytes longer: the bytes of the other one."""
        if register != rax:
            return None
        segment = {"fs": 0x64, "gs": 0x65}[slot.segment]
        return raw(bytes((segment, 0x48, opcode, 0x04, 0x25)) + slot.offset.to_bytes(4, "little", signed=True))


TARGETS: tuple[Target, ...] = (
    Target("linux/amd64", "linux", Amd64(), "x86-64-v1 (GOAMD64=v1)"),
    Target("windows/amd64", "windows", Amd64("windows"), "x86-64-v1 (GOAMD64=v1)"),
)
