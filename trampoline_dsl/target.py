"""What a machine, a convention and a target are: frozen facts, and the interface that an architecture implements.

Nothing here knows a particular machine. `arches/*` build these records; every pass reads them.

Words used throughout:

* *CFA* (canonical frame address): the stack pointer at the caller's call instruction, before the call pushed
  anything. Everything about a frame is measured from it or from the stack pointer in the body, `sp`; the frame's
  size is `CFA - sp`, a return address that the call pushed included.
* A *mask* says which bits of a register a convention speaks of; bit 0 is the least significant one.
"""

from __future__ import annotations

import copy
import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Literal, NamedTuple

from .records import dataclass, replace, unfilled

ByteOrder = Literal["little", "big"]
# "switch": what moves to the stack of an `on stack` block; "push": what does so for one that pushes a PC;
# "resume": what moves to the frame of another call of the same function.
FramePart = Literal["prologue", "body", "epilogue", "switch", "push", "resume"]
Transfer = Literal["none", "branch", "jump", "call", "return", "trap", "system"]  # "branch" is conditional


class Bank(enum.Enum):
    """The file that a register belongs to."""

    INTEGER = "integer"
    FLOAT = "floating point"
    VECTOR = "vector"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, eq=False)
class Register:
    """One whole register, compared by identity: each machine's are made once. `bits` is what the machine has, however
    little of it a convention keeps.

    `name` is what reports, diagnostics and the language use ("x19", "r14", "mxcsr"); `gnu` is the spelling in
    assembly text ("%r14", "$s0"); `number` is its number in the instruction encoding (and orders pairs and
    multiples). Two registers never overlap: `d8` on arm64 is the low half of `v8` and has no record of its own.
    """

    name: str
    bank: Bank
    bits: int
    gnu: str
    number: int
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.gnu


# ------------------------------------------------------------------------------------------------- values in places


class ValueType(NamedTuple):
    """A value as conventions see it: `kind` "int" (pointers too) or "float", 8 to 64 bits. A tuple, whose hash is
    made quickly: places are looked up by the types of what they are for."""

    kind: Literal["int", "float"]
    bits: int
    signed: bool = False


@dataclass(frozen=True, slots=True)
class InRegister:
    """A part of a value in a register. `left`: in the most significant `bits` of it: singles on s390x; on arm s1, which
    is the upper half of d0, while s0 is its lower half and not `left`."""

    register: Register
    left: bool = False


@dataclass(frozen=True, slots=True)
class OnStack:
    """A part of a value in memory, `offset` bytes above the CFA (that is, above `sp` before the call)."""

    offset: int


@dataclass(frozen=True, slots=True)
class Part:
    """Bits `low` to `low + bits - 1` of a value, and where they are.

    `extend_to`: the caller (for an argument) or the callee (for a result) has widened the part to that many bits
    and the other side may rely on it; 0 where nobody may. `extend_signed` says how; it can differ from the
    type's own sign (mips64 sign-extends a u32). For `OnStack`, `bits` bytes/8 are written at `offset`, or
    `extend_to` bits where that is not 0 (then `offset` is where the widened value starts). `as_double`: a 32-bit
    float that travels in the register as the double of the same value (ppc64).
    """

    place: InRegister | OnStack
    low: int
    bits: int
    extend_to: int = 0
    extend_signed: bool = False
    as_double: bool = False


Location = tuple[Part, ...]


def widened(place: InRegister | OnStack, value: ValueType, bits: int) -> Part:
    """A whole value at a place: a narrower integer is widened to so many bits by its type."""
    narrow = value.kind == "int" and value.bits < bits
    return Part(place, 0, value.bits, bits if narrow else 0, narrow and value.signed)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where the arguments and the result of one signature are. `stack_bytes`: what the arguments (and results that
    travel in memory, as in Go's stack convention) use above the CFA, counted from the CFA itself and so including
    the fixed area below them."""

    arguments: tuple[Location, ...]
    result: Location
    stack_bytes: int


# ------------------------------------------------------------------------------------------------------ conventions


@dataclass(frozen=True, slots=True)
class Fixed:
    """A register that has to hold a known value in the bits of `mask` at every call and at every return.

    The value is `value`, or, where `code_mask` is not 0, the address of the callee's code in the bits of
    `code_mask` (mips64: gp is the upper half of the program counter)."""

    register: Register
    mask: int
    value: int
    why: str
    code_mask: int = 0


@dataclass(frozen=True, slots=True)
class ThreadSlot:
    """A thread-local word: `segment` register's base plus `offset` bytes (signed).

    Where `symbol` is not empty, the variable of that name holds the offset, a word, and `offset` is 0: the operating
    system hands out the slots while the program runs. `indirect`: the word holds not g but the address of the word
    that holds g, or null on a thread that has none. `base_at_base`: the word at the segment's base is the base."""

    segment: str
    offset: int
    symbol: str = ""
    indirect: bool = False
    base_at_base: bool = False

    def __str__(self) -> str:
        place = f"{self.segment}:{self.symbol or self.offset}"
        return f"[{place}]" if self.indirect else place


@dataclass(frozen=True, slots=True, eq=False)
class Convention:
    """A calling convention of one target, as data; compared by identity.

    `kept` maps a register to the mask of the bits that a callee returns as they were. What is neither in `kept`
    nor `fixed` nor the stack pointer may come back changed; `notes` gives, by register name or topic, the reason
    and the source (document and section), for people.
    """

    name: str
    title: str
    source: str
    integer_arguments: tuple[Register, ...]
    float_arguments: tuple[Register, ...]
    integer_results: tuple[Register, ...]
    float_results: tuple[Register, ...]
    assign: Callable[[Convention, Sequence[ValueType], ValueType | None], Assignment]
    first_stack_argument: int  # bytes above the CFA
    slot: int  # bytes an argument in memory takes at least
    kept: Mapping[Register, int]
    fixed: tuple[Fixed, ...]
    reserved: Mapping[Register, str]  # registers that generated code may not use, and what they are for
    alignment: int  # of the CFA, in bytes
    red_zone: int  # bytes below sp that survive a signal
    area: int  # bytes above the CFA that belong to the callee whatever it is called with
    save_area: Mapping[Register, int]  # where in the caller's area a callee saves a register: bytes above the CFA
    back_chain: bool  # the word at sp points to the caller's sp, at every call
    callee_pops: bool
    return_address: Register | None  # None: pushed by the call
    return_slot: Literal["bottom", "top", "none"]
    # where a frame keeps the return address for those who walk the stack: the word at sp ("bottom"), the word
    # below the CFA ("top"), or nowhere that the convention fixes ("none")
    call_through: Register | None  # holds the callee's address when it is entered through a pointer
    descriptors: bool  # a function pointer points to entry, TOC, environment
    toc_slot: int | None  # bytes above the CFA where a caller keeps its TOC pointer across a call
    thread: Register | ThreadSlot | None  # where the runtime's `g` is
    scratch: tuple[Register, ...]  # free for the compiler's own short sequences, never allocated to a value
    linker_may_write: tuple[Register, ...]  # between the call and the callee's first instruction
    notes: Mapping[str, str] = field(default_factory=dict)
    environment: Register | None = None  # gets the third word of the descriptor that a callee is entered through
    thread_copy: Register | None = None  # holds what is in the `thread` slot too, at every call and every return
    go_abi: str = ""  # how Go tells it from ABI0: "ABIInternal"
    decoration: str = "{name}"  # C's symbol of a function, from its name and the `bytes` of its arguments
    frame_pointer: Register | None = None
    # at all times the caller's own, or points to a frame record: the caller's frame pointer, and the return address

    def __post_init__(self) -> None:
        for register, mask in self.kept.items():
            if mask <= 0 or mask >> register.bits:
                raise ValueError(f"{self.name}: kept mask {mask:#x} does not fit {register.name}")
            if register in self.scratch:
                raise ValueError(f"{self.name}: {register.name} is both kept and scratch")
        for name in ("integer_arguments", "float_arguments", "scratch"):
            registers = getattr(self, name)
            if len(set(registers)) != len(registers):
                raise ValueError(f"{self.name}: a register twice in {name}")

    def place(self, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
        """Where each argument and the result of such a signature travels."""
        return _placed(self, tuple(arguments), result)

    @property
    def decorates(self) -> bool:
        """Whether C's compilers call a function something else in assembly."""
        return self.decoration != "{name}"

    def symbol(self, name: str, arguments: Sequence[ValueType]) -> str:
        """What the platform's C compilers call a function of this name in assembly."""
        return self.decoration.format(name=name, bytes=sum(-(-value.bits // 32) * 4 for value in arguments))

    def words(self, below: bool) -> tuple[int, tuple[Register, ...]]:
        """Where a function that takes any number of words finds all of them side by side: bytes above the CFA of the
        first (below, if negative), and the registers that it stores from there on, in which the first ones arrive.
        `below`: its frame can have them directly below the CFA. Raises ValueError with the reason why there is no such
        place."""
        registers, word = self.integer_arguments, self.slot
        places = self.place([ValueType("int", 8 * word)] * (len(registers) + 1), None).arguments
        memory = places[-1][0].place
        assert isinstance(memory, OnStack)
        start = memory.offset - word * len(registers)
        if registers and start < 0:
            if self.return_address is None:
                raise ValueError("between the words in registers and those in memory is the return address")
            if memory.offset or not below:
                raise ValueError("the words in registers have no place below those in memory")
        elif registers and (memory.offset > self.area or any(at >= start for at in self.save_area.values())):
            raise ValueError("the caller leaves no room for the words in registers below those in memory")
        return start, registers

    def keeps(self, register: Register) -> int:
        return self.kept.get(register, 0)

    def leaves(self, order: Iterable[Register]) -> tuple[Register, ...]:
        """Those of some registers that are left to values: no sequence needs them, and nothing else is in them."""
        taken = {*self.reserved, *self.scratch, self.thread, self.frame_pointer}
        return tuple(register for register in order if register not in taken)

    def derive(self, **changes: object) -> Convention:
        return replace(self, **changes)  # names are checked by the language's resolver


@lru_cache(maxsize=4096)
def _placed(convention: Convention, arguments: tuple[ValueType, ...], result: ValueType | None) -> Assignment:
    return convention.assign(convention, arguments, result)


# ----------------------------------------------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True)
class Relocation:
    """A place in an instruction that the linker fills: `type` is the object format's name of it ("R_390_PLT32DBL",
    "IMAGE_REL_AMD64_REL32"), `offset` counts bytes from the instruction's start."""

    type: str
    symbol: str
    addend: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Fixup:
    """How a relocation type changes its field: `size` bytes in the target's byte order (4 for instructions); the
    value is S + A - P if `pc_relative` else S + A, plus `bias`, shifted right by `shift`, and stored in the bits of
    `mask`. `scatter` splits the value where the field is not one run of bits: (mask in the word, shift of value).
    `in_place`: the object format keeps the addend in the field (REL, not RELA). `base`: where the value is counted
    from, if not from 0."""

    size: int
    mask: int
    shift: int = 0
    pc_relative: bool = False
    bias: int = 0
    scatter: tuple[tuple[int, int], ...] = ()
    in_place: bool = False
    base: str = ""  # a symbol: ".TOC." on ppc64
    got: bool = False  # S is the address of the symbol's entry in the global offset table
    negated: bool = False  # the field has the negative of the value (R_MIPS_SUB behind another one)
    scaled: bool = False  # `shift` is in the two highest bits of the instruction, and the field so many bits shorter
    ahead: int = 0  # P is that many bytes behind the field's address (PE/COFF counts from the end of the field)


@dataclass(frozen=True, slots=True)
class Access:
    """The memory that a simple load or store touches, for passes that merge neighbours."""

    kind: Literal["load", "store"]
    register: Register
    base: Register
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Insn:
    """One instruction (or a label: then `label` is set, and `text` is empty or the directive that says what it is).

    `text` is the GNU spelling. `keystone` is what Keystone is given where it needs another one: a statement, or
    raw data as ".byte 0x.." that stands for the same bytes. `reads`, `writes`: registers, the condition flags
    (`arch.flags`) among them; memory is `memory`. `target` names a local label that it may jump to. `transfer`
    classes control flow. Fields after `comment` are for people and play no part in equality.
    """

    text: str
    reads: frozenset[Register] = frozenset()
    writes: frozenset[Register] = frozenset()
    memory: Literal["none", "read", "write", "both"] = "none"
    access: Access | None = None
    transfer: Transfer = "none"
    target: str | None = None
    label: str | None = None
    relocation: Relocation | None = None
    keystone: str | None = None
    user_text: bool = False  # written by a user in an `asm` block: it is not to be trusted
    delay_slot: bool = False  # the next instruction is executed before control leaves
    popped: int = 0  # bytes of arguments that what it calls takes off the stack
    comment: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)  # source line, 0 for none
    column: int = field(default=0, compare=False)
    part: FramePart = field(default="body", compare=False)

    def placed(self, line: int, column: int, part: FramePart) -> Insn:
        """The same at another place. Spelt out: with `replace` this would take a tenth of the time of a build."""
        copy = unfilled(Insn)
        copy.text = self.text
        copy.reads = self.reads
        copy.writes = self.writes
        copy.memory = self.memory
        copy.access = self.access
        copy.transfer = self.transfer
        copy.target = self.target
        copy.label = self.label
        copy.relocation = self.relocation
        copy.keystone = self.keystone
        copy.user_text = self.user_text
        copy.delay_slot = self.delay_slot
        copy.popped = self.popped
        copy.comment = self.comment
        copy.line, copy.column, copy.part = line, column, part
        copy.__class__ = Insn
        same: Insn = copy
        return same


@dataclass(frozen=True, slots=True)
class Control:
    """What an instruction of machine code does to the flow of control. `target`: the address that it goes to, where the
    instruction itself says. `conditional`: control may go on behind it too (which it does after any call, and after
    "none" and "system"). `delay_slot`: the next instruction is executed before control leaves."""

    transfer: Transfer = "none"
    target: int | None = None
    conditional: bool = False
    delay_slot: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether what stands behind it can be next, or where a call returns to."""
        return self.conditional or self.transfer in ("none", "branch", "call", "system")


STRAIGHT_ON = Control()


def signed(value: int, bits: int) -> int:
    """The number with a sign that the lowest `bits` bits of a value are."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def signed_field(word: int, low: int, bits: int) -> int:
    """The number with a sign in `bits` bits of a word from bit `low` on."""
    return signed(word >> low, bits)


def aligned(value: int, multiple: int) -> int:
    """The next multiple from a value on, upwards."""
    return -(-value // multiple) * multiple


Code = Iterator[Insn]

# An instruction, and the number of the place in the source that it is made for, where the instruction itself says none:
# so it can be one and the same in many places. 0 is none.
Placed = tuple[Insn, int]


_MOST_RUNS = 20_000


def kept_by_run(merge: Callable[[Sequence[Placed]], Iterable[Placed]]) -> Callable[[Sequence[Placed]], list[Placed]]:
    """A function of a run of instructions, whatever their places are, with what it has made kept. Runs are known by
    the identity of their instructions, which are held on to, so that no others get it."""
    kept: dict[tuple[int, ...], tuple[list[Insn], list[Placed]]] = {}

    def made(run: Sequence[Placed]) -> list[Placed]:
        key = tuple([id(insn) for insn, _ in run])
        found = kept.get(key)
        if found is None:
            if len(kept) >= _MOST_RUNS:
                kept.clear()
            insns = [insn for insn, _ in run]
            found = kept[key] = insns, list(merge([(insn, index) for index, insn in enumerate(insns)]))
        return [(insn, run[index][1]) for insn, index in found[1]]

    return made


def insn(
    text: str,
    reads: Iterable[Register] = (),
    writes: Iterable[Register] = (),
    memory: Literal["none", "read", "write", "both"] = "none",
    access: Access | None = None,
    keystone: str | None = None,
) -> Insn:
    """An instruction that goes on behind itself."""
    return Insn(text, frozenset(reads), frozenset(writes), memory, access, keystone=keystone)


def continues(run: Sequence[Placed], one: Insn) -> bool:
    """Whether an instruction goes on with a run of accesses that are independent of each other."""
    last, access = run[-1][0].access, one.access
    if last is None or access is None or (access.kind, access.base) != (last.kind, last.base):
        return False
    if access.kind == "store":
        return True
    loaded = {register for before, _ in run for register in before.writes}
    return access.base not in loaded and access.register not in loaded


def in_part(part: FramePart, code: Iterable[Insn]) -> Code:
    """The same as a part of what makes or takes down a frame."""
    for one in code:
        yield one.placed(one.line, one.column, part)


# What the code is linked into. "static": what stays where the linker put it. "pic": a shared library, or an executable
# that may be loaded anywhere; symbols are found through tables. "go": Go's linker, which makes of symbols what Go's
# assembler asks for: calls are direct, addresses are found without a table, and there is one entry point.
Linkage = Literal["static", "pic", "go"]

# How control came to an instruction that neither another one nor a return address names: by a call or a jump to where a
# register or memory says; "either" is a jump that stubs of calls make, which lands wherever a call or a jump may.
Arrival = Literal["call", "jump", "either"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of Go's assembler, for `instructions` of ours; `text` is empty for a label of ours, and None for
    what Go's assembler has no word for, so that its bytes have to be written. `step`: by how many bytes that assembler
    takes the stack to have grown behind it, for the table that tracebacks read."""

    text: str | None
    instructions: int = 1
    step: int = 0


class Plan9(ABC):
    """How a machine's instructions are spelt for Go's assembler. They were made with linkage "go"."""

    @abstractmethod
    def statements(self, code: Sequence[Insn], symbol: Callable[[str], str]) -> Iterator[Statement]:
        """All of `code`, in order. `symbol`: a symbol as Go writes it ("runtime·load_g(SB)"). Labels that are branched
        to are spelt by `plan9_label`."""

    @abstractmethod
    def data(self, code: bytes) -> Iterable[str]:
        """Directives for machine code as it is in memory."""

    @abstractmethod
    def lowered(self, size: int) -> str:
        """The instruction that lowers the stack pointer by that many bytes (raises it, if negative) and that Go's
        assembler knows by."""


@dataclass(frozen=True, slots=True)
class Motion:
    """What an instruction does with a word that those who walk the stack may look for; what it reads, it reads first.

    "set": `register` becomes `base` + `index` + `offset` (minus `index`, if `minus`); without a base it is a constant.
    "load" and "store" move the low `size` bytes of `register` from or to memory at that address. What `Insn.writes`
    names besides gets a value that is not known.
    """

    kind: Literal["set", "load", "store"]
    register: Register
    base: Register | None
    offset: int = 0  # bytes
    size: int = 0  # bytes
    index: Register | None = None
    minus: bool = False


class Unwinding(ABC):
    """What a machine's call frame information is made of: DWARF 5, 6.4, and the supplements of its ABI."""

    numbers: Mapping[Register, int]  # what DWARF calls registers; those that it has no number for are not described
    return_column: int  # the number that stands for the return address
    sp: int  # of the stack pointer
    bias: int = 0  # bytes from the stack pointer at the caller's call up to what DWARF takes for the CFA
    header: tuple[str, ...] = ()  # directives at the top of a file
    trailer: tuple[str, ...] = ()  # and at its end, in a section that is not loaded
    kept_with: Mapping[Register, Register] = {}  # registers that are saved in one word with another one
    # Other numbers that a register's caller value may be described by: of pieces of one size, the lowest bits first.
    also: Mapping[Register, tuple[int, ...]] = {}

    def saved_bytes(self, register: Register, mask: int) -> int:
        """How many bytes are in memory of a register whose bits `mask` are kept."""
        return max(-(-mask.bit_length() // 8), register.bits // 8 if register.bank is Bank.INTEGER else 0)

    def of_saved(self, register: Register, value: int) -> int:
        """A register's value, of what is in memory for it."""
        return value

    @abstractmethod
    def motions(self, insn: Insn) -> tuple[Motion, ...]:
        """Those of one instruction that our code is made of."""


class WindowsUnwinding(Unwinding):
    """What Windows' tables of functions are made of on a machine: Microsoft Learn, "x64 exception handling" and "ARM64
    exception handling". `numbers` are those that the tables have, as `pdata` says."""

    tables: Literal["x64", "arm64"]
    names: Mapping[str, int]  # `numbers` by what directives call registers
    no_code: str = ""  # the directive for an instruction that does nothing to be undone, where each one has a code

    @abstractmethod
    def directive(self, step: int, saves: Sequence[tuple[Register, int]]) -> str | None:
        """The directive for an instruction that lowers the stack pointer by `step` bytes and stores registers, each so
        many bytes above where the stack pointer then is; or that takes this back. None if there is no code for it."""

    @abstractmethod
    def leaving(self, insn: Insn) -> Literal["step", "pop", "leave"] | None:
        """What walks of the stack take an instruction for that they find in the code, and then expect behind it: a step
        of the stack pointer, pops, and what leaves the function. None: it is none of these."""


class IndexedUnwinding(Unwinding):
    """What unwinders of C++ read at run time where that is not call frame information: an index table by ranges of
    addresses. Exception Handling ABI for the Arm Architecture. What its words do is told as what takes them back does,
    to a stack pointer of its own."""

    registers: Mapping[int, Register]  # `numbers` by number
    brackets: tuple[str, str]  # the directives around a range
    cannot: str  # the directive for one of which the caller is not told
    followed: str  # the directive by which the word at the stack pointer becomes the stack pointer

    @abstractmethod
    def passed(self, size: int) -> str:
        """The directive by which the stack pointer is raised by `size` bytes (lowered, if negative), whole words."""

    @abstractmethod
    def popped(self, registers: Sequence[Register]) -> str:
        """The directive by which registers are popped, the first one from the lowest address."""

    @abstractmethod
    def taken_from(self, register: Register) -> str:
        """The directive by which what a register holds becomes the stack pointer."""

    @abstractmethod
    def together(self, below: Register, above: Register) -> bool:
        """Whether one directive pops both, where the second one is directly above the first."""


_LOCAL_LABEL = re.compile(r"\.?L(\d+_)?")


def plan9_label(label: str) -> str:
    """One of our labels as Go's assembler takes it: it is local to its function anyway."""
    return _LOCAL_LABEL.sub("", label, count=1)


# ------------------------------------------------------------------------------------------------------------ frames


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of a frame: `offset` bytes above `sp`, `size` bytes; `owner` is the value or register kept there and
    `reason` why it is."""

    offset: int
    size: int
    owner: str
    reason: str
    register: Register | None = None
    stack: str = ""  # "" for the stack that the trampoline was entered on, else which `on stack` block's


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """What a frame has to hold, before it is laid out.

    `body` bytes from `sp` up are already spoken for (outgoing areas and locals, laid out by the core). `saves`: the
    registers to keep, with the mask of the bits that matter. `link`: the return address must be kept because the
    body calls. `bottom_free`: nothing of the body uses the word at `sp` (all calls are by conventions whose word below
    the arguments is the caller's own), so the return address may live there whatever `convention.return_slot` says.
    `homed`: argument registers that the prologue stores directly below the CFA, the first one lowest. `area_taken`:
    others are in the caller's area already, where nothing can be saved. `table`: it is entered through a table.
    """

    convention: Convention
    body: int
    saves: tuple[tuple[Register, int], ...]
    link: bool
    alignment: int
    bottom_free: bool = False
    homed: tuple[Register, ...] = ()
    area_taken: bool = False
    table: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame laid out: `size` is CFA - sp; `slots` cover saves, link and what the architecture adds, `body_slots`
    what the core put into the body."""

    size: int
    slots: tuple[Slot, ...]
    request: FrameRequest
    body_slots: tuple[Slot, ...] = ()


# ----------------------------------------------------------------------------------------------------------- signals


@dataclass(frozen=True, slots=True)
class SignalFrame:
    """What Linux does to an interrupted thread so that it goes on in a signal handler, and how it takes that back.
    Offsets are in bytes from the start of the kernel's frame (struct rt_sigframe).

    `size`: bytes of the frame. `state`: bytes of floating point and vector state between it and the interrupted stack
    pointer; one of these, as the CPU has it. The frame starts `misalignment` bytes below a multiple of `alignment`;
    `untouched` bytes below the interrupted stack pointer are left as they are. `info` and `context`: where siginfo and
    ucontext are. The handler is entered with the stack pointer `entry` above the start, its own address in the
    registers of `entered_in`, and those of `values` as they say; the others are as they were. `chain`: where a word
    points to what was the stack pointer. `record`: registers that are stored in a frame record above the frame, which
    the first of them then points to. `number`: of the system call rt_sigreturn, made with the stack pointer `restored`
    above the start. `restorer`: whether the handler returns to where the program says ("needed": always; "taken": if
    it says so), or always to the kernel's own code ("none").
    """

    source: str
    size: int
    info: int
    context: int
    alignment: int
    number: int
    restorer: Literal["needed", "taken", "none"]
    misalignment: int = 0
    state: tuple[int, ...] = (0,)
    untouched: int = 0
    entry: int = 0
    restored: int = 0
    chain: int | None = None
    values: Mapping[Register, int] = field(default_factory=dict)
    entered_in: tuple[Register, ...] = ()
    record: tuple[Register, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SystemCalls:
    """How a program calls the kernel.

    `convention`: the first of its integer arguments is the number of the call; it `keeps` what the kernel gives back,
    and the caller's own memory is never the kernel's. `size`: bytes of the instruction. `failed`, where a failure is
    told beside the result: a register, its bits that tell, and what they hold then (0 if all went well); the result is
    the errno itself in that case. Elsewhere the result is -errno. `number_at`: a byte of the instruction that is the
    number itself, if it is not 0, whatever is in the register.
    """

    convention: Convention
    size: int
    failed: tuple[Register, int, int] | None = None
    number_at: int | None = None


MOST_SYSTEM_ARGUMENTS = 6
HIGHEST_ERRNO = 4095  # results from -4095 to -1 are failures (Linux, include/linux/err.h, MAX_ERRNO)


def assign_system_call(convention: Convention, arguments: Sequence[ValueType], result: ValueType | None) -> Assignment:
    """A word each, in registers and then in memory. A narrow value is widened by its type, as C does it."""
    places: list[Location] = []
    top = convention.first_stack_argument
    registers = convention.integer_arguments
    word = registers[0].bits
    for index, value in enumerate(arguments):
        place: InRegister | OnStack
        if index < len(registers):
            place = InRegister(registers[index])
        else:
            place, top = OnStack(top), top + word // 8
        places.append((Part(place, 0, value.bits, word if value.bits < word else 0, value.signed),))
    back: Location = (Part(InRegister(convention.integer_results[0]), 0, word),) if result is not None else ()
    return Assignment(tuple(places), back, top if top > convention.first_stack_argument else 0)


def system_calls(
    c: Convention,
    registers: Iterable[Register],
    passed: tuple[Register, ...],
    result: Register,
    lost: Iterable[Register],
    source: str,
    *,
    size: int = 4,
    first_in_memory: int = 0,
    failed: tuple[Register, int, int] | None = None,
    number_at: int | None = None,
) -> SystemCalls:
    """System calls of a machine whose C convention is `c`: `passed` are the registers of the number and the arguments,
    and all but `lost` and the result's come back as they were."""
    gone = {result, *lost, *((failed[0],) if failed else ())}
    convention = c.derive(
        name="syscall",
        title="a system call",
        source=source,
        integer_arguments=passed,
        float_arguments=(),
        integer_results=(result,),
        float_results=(),
        assign=assign_system_call,
        first_stack_argument=first_in_memory,
        slot=passed[0].bits // 8,
        kept={r: (1 << r.bits) - 1 for r in dict.fromkeys(registers) if r not in gone},
        alignment=1,
        area=0,
        save_area={},
        back_chain=False,
        callee_pops=False,
        return_address=None,
        return_slot="none",
        call_through=None,
        descriptors=False,
        toc_slot=None,
        thread=None,
        scratch=(),
        linker_may_write=(),
        notes={},
        environment=None,
    )
    return SystemCalls(convention, size, failed, number_at)


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """Windows' CONTEXT of one machine, which an exception's handler is given: where it has each register.

    `registers` maps a register to (offset, bytes): its low bytes, little-endian, so many bytes from the record's
    start. Some are there twice; `copies` has those second places. `pc`: where the program counter is. `flags`: where
    ContextFlags (32 bits) is, and `full` its value in a record that has all of `registers`. Sizes and offsets in bytes.
    """

    size: int
    alignment: int
    registers: Mapping[Register, tuple[int, int]]
    pc: int
    flags: int
    full: int
    source: str
    copies: tuple[tuple[Register, int, int], ...] = ()


# -------------------------------------------------------------------------------------------------------- interfaces

ObjectFormat = Literal["elf", "coff"]
Condition = Literal["eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge"]
BinaryOp = Literal["add", "sub", "and", "or", "xor", "shl", "shr", "sar", "mul"]


@dataclass(frozen=True, slots=True)
class Engines:
    """What the assembler and the emulator are told about a machine."""

    keystone_arch: str  # name in keystone's module: "KS_ARCH_X86"
    keystone_mode: tuple[str, ...]
    unicorn_arch: str
    unicorn_mode: tuple[str, ...]
    unicorn_cpu: str | None  # name in unicorn's constants of that architecture
    capstone_arch: str
    capstone_mode: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Extensions:
    """Which instructions are beyond a baseline, as far as a disassembler tells; compared by identity. The extension
    that they are of: by the disassembler's `groups` of instructions; by patterns that their text begins with, with a
    blank behind it; by bits of their word, (mask, value, extension). `within` and `within_words`: those, by such a
    pattern or such bits, that are not beyond it, whatever else is said. `codes`: those that the disassembler does not
    know, by patterns of their bytes in hexadecimal. `complete`: it knows all of the baseline, and so what it does not
    know is beyond it."""

    groups: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[tuple[str, str], ...] = ()
    words: tuple[tuple[int, int, str], ...] = ()
    within: str = ""
    within_words: tuple[tuple[int, int], ...] = ()
    codes: tuple[tuple[str, str], ...] = ()
    complete: bool = True


TOC_SYMBOL = ".TOC."  # the linker's name for where a table of contents is, or what stands for one in `got`
GOT_SYMBOL = "_GLOBAL_OFFSET_TABLE_"  # the linkers' name for where the global offset table is
IMAGE_BASE = "__ImageBase"  # Microsoft's linker's name for where a PE file is loaded
GP_SYMBOL = "_gp"  # the linker's name for what gp holds on MIPS
BASE_SYMBOL = ".SB"  # what `Architecture.symbol_base` has to hold
PLAIN_SYMBOL = re.compile(r"[A-Za-z_.][A-Za-z0-9_.]*")


@lru_cache(maxsize=4096)
def spelled(symbol: str) -> str:
    """A symbol as GNU as takes it: in quotes where it is more than letters, digits, dots and underscores."""
    if PLAIN_SYMBOL.fullmatch(symbol):
        return symbol
    escaped = symbol.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Architecture(ABC):
    """One machine in one mode (word size and byte order): its registers, its conventions, and its instructions.

    Methods that emit yield `Insn`s for *physical* registers and final offsets. Offsets and immediates of any size
    are accepted; the method uses the convention's `scratch` registers where the encoding is too narrow.
    """

    name: str  # "s390x", "mipsle"
    family: str  # the module in arches/
    word: int  # bytes
    order: ByteOrder
    engines: Engines
    registers: Mapping[str, Register]  # by name and alias
    sp: Register
    flags: Register | None  # condition flags, as one register; None where the machine has none
    conventions: Mapping[str, Convention]
    fixups: Mapping[str, Fixup]
    two_address: bool  # binary operations overwrite their first operand
    byte_registers: frozenset[Register] | None = None  # those whose low byte can be stored, if not all
    gnu_as: tuple[str, ...]  # GNU as and its options, for those who want to compare: ("s390x-linux-gnu-as", "-m64")
    clang: tuple[str, ...] = ()  # options with which clang assembles the same text; none where it cannot
    why_no_object: str = ""  # why no assembler writes an object of the text, if so
    header: tuple[str, ...]  # directives at the top of a file
    comment: str  # what starts a comment in GNU syntax
    toc: Register | None = None  # holds the table of contents, where there is one; symbols are found through it
    got: Register | None = None  # like `toc` for linkage "pic", but every function finds it itself, by `call_through`
    of_module: Register | None = None  # holds where something of the module is: each caller may have another value
    calls_through_got: bool = False  # with linkage "pic", what is called by its symbol is called through a pointer
    zero: Register | None = None  # what `store` takes to store zero, if that needs no register; nothing else takes it
    singles_left: bool = False  # a 32-bit float is in the upper half of its register, and not in the lower one
    signals: SignalFrame | None = None  # of Linux on this machine
    system_calls: SystemCalls | None = None  # where programs may make them
    function_alignment: int = 16  # bytes; what gcc gives a function on most of these machines
    # Banks whose registers are saved at multiples of more bytes than a word has, by instructions that take no others.
    save_alignment: Mapping[Bank, int] = {}
    object_format: ObjectFormat = "elf"  # of the files that the assembly text is for
    machines: Mapping[str, int] = {}  # what ELF, PE (COFF too) and Mach-O call it: by "elf", "pe", "macho"
    elf_flags: tuple[int, tuple[int, ...]] = (0, (0,))  # a mask for e_flags, and what may be left: the ABI
    local_prefix: str = ".L"  # of labels that the assembler keeps to itself
    hosts: tuple[str, ...] = ()  # what `uname -m` calls the machines that run its code, where code can be loaded
    context_record: ContextRecord | None = None  # what Windows saves a thread's registers in
    linkage: Linkage = "static"
    linkages: tuple[Linkage, ...] = ("static",)  # those that there is code for
    extensions: Extensions = Extensions()  # of the baseline
    protect: bool = False  # functions begin with landing pads, and files say so
    why_no_protection: str = "its instruction set has none"  # empty where it has

    def link_for(self, linkage: Linkage) -> None:
        """Emit for another linkage from now on."""
        self.linkage = linkage

    def protect_from_now(self) -> None:
        """Emit landing pads from now on."""
        self.protect = True

    def symbol_bits(self) -> int:
        """How many bits a symbol's address may take, counted from 0."""
        return 8 * self.word

    # -- protection of control flow

    def landing_pad(self) -> Code:
        """What an instruction that is called or jumped to by an address has to be, where the machine is told to see to
        it. Elsewhere it does nothing."""
        raise AssertionError(f"{self.name} has no landing pads")

    def arrival(self, insn: Insn) -> Arrival | None:
        """How an instruction enters what it leads to, if that has to be a landing pad. `insn` is ours, or was read from
        machine code."""
        return None

    def lands(self, code: bytes, arrival: Arrival) -> bool:
        """Whether machine code begins with a landing pad for that."""
        return True

    def property_note(self, paired: bool) -> Iterable[str]:
        """Lines that tell the linker of a file's landing pads. `paired`: every return in it is to where the last call
        left off that has not been returned from."""
        return ()

    def promises(self, properties: Mapping[int, int]) -> tuple[bool, bool]:
        """What the note of a file says, by types of properties: that what is entered by an address is a landing pad,
        and that returns are in pairs with calls."""
        return False, False

    # -- which registers values may live in, best first

    @abstractmethod
    def allocatable(self, convention: Convention) -> tuple[Register, ...]: ...

    @abstractmethod
    def float_allocatable(self, convention: Convention) -> tuple[Register, ...]: ...

    # -- moving words about

    @abstractmethod
    def move(self, d: Register, s: Register) -> Code: ...

    @abstractmethod
    def constant(self, d: Register, value: int) -> Code: ...

    @abstractmethod
    def symbol_address(self, d: Register, symbol: str) -> Code:
        """Where there is a table of contents, `toc` holds its address, unless that (TOC_SYMBOL) is what is wanted."""

    def symbol_base(self) -> Register | None:
        """A register that symbols' addresses are counted from, where Go's functions have it and others have not.
        `symbol_address` of BASE_SYMBOL sets it, with the comment "establish" and its name."""
        return None

    def load_symbol(self, d: Register, symbol: str, bits: int, signed: bool) -> Code:
        """What is at a symbol. Machines whose loads take the low bits of its address save an instruction here."""
        yield from self.symbol_address(d, symbol)
        yield from self.load(d, d, 0, bits, signed)

    @abstractmethod
    def load(self, d: Register, base: Register, offset: int, bits: int, signed: bool) -> Code: ...

    @abstractmethod
    def store(self, s: Register, base: Register, offset: int, bits: int) -> Code: ...

    @abstractmethod
    def float_move(self, d: Register, s: Register, bits: int) -> Code: ...

    @abstractmethod
    def float_load(self, d: Register, base: Register, offset: int, bits: int) -> Code: ...

    @abstractmethod
    def float_store(self, s: Register, base: Register, offset: int, bits: int) -> Code: ...

    # -- arithmetic on words

    @abstractmethod
    def binary(self, op: BinaryOp, d: Register, a: Register, b: Register | int) -> Code: ...

    @abstractmethod
    def extend(self, d: Register, s: Register, bits: int, signed: bool) -> Code: ...

    # -- control

    @abstractmethod
    def compare_branch(self, condition: Condition, a: Register, b: Register | int, label: str) -> Code: ...

    @abstractmethod
    def jump(self, label: str) -> Code: ...

    @abstractmethod
    def call(self, symbol: str, callee: Convention) -> Code: ...

    @abstractmethod
    def call_register(self, address: Register, callee: Convention) -> Code: ...

    @abstractmethod
    def tail_call(self, symbol: str, callee: Convention) -> Code: ...

    @abstractmethod
    def jump_register(self, address: Register, callee: Convention) -> Code: ...

    def tail_call_register(self, address: Register, callee: Convention) -> Code:
        """Go to a function by its address."""
        return self.jump_register(address, callee)

    def far_jump(self, symbol: str) -> Code:
        """Go to a symbol, however far it is, and change nothing but what a linker may: a stub for calls and jumps that
        do not reach."""
        raise AssertionError(f"{self.name} has no far jumps")

    @abstractmethod
    def trap(self) -> Code:
        """One instruction that its manual says never to be executed without an exception."""

    def system_call(self, number: int | None, label: str) -> Code:
        """Call the kernel. `number`, if it is known; else it is in its register already. `label`, if there is one: the
        result is -errno on failure, however the kernel tells; a place for a label of that name is made if need be."""
        raise ValueError("there are no system calls")

    def kernel_entry(self, text: str, keystone: str | None = None) -> Insn:
        """The instruction that enters the kernel: all is done when the next one is executed."""
        assert self.system_calls is not None
        convention = self.system_calls.convention
        lost = frozenset(r for r in self.registers.values() if not convention.keeps(r))
        return Insn(
            text, frozenset(convention.integer_arguments), lost, memory="both", transfer="system", keystone=keystone
        )

    # -- foreign machine code

    @abstractmethod
    def control(self, code: bytes, text: str, address: int) -> Control:
        """What one instruction does to the flow of control: its bytes as they lie in memory, Capstone's text, and where
        it is. A jump to the address that a call has left, in the register or from the stack, is a return; a conditional
        one too."""

    # -- any number of arguments

    homes_below: bool = False  # frames can have `homed` registers
    pop_register: Register | None = (
        None  # has the number of bytes that a return pops, where that is found out at run time
    )

    def leave_popping(self, frame: Frame, busy: frozenset[Register]) -> Code:
        """Return to the caller, and take as many bytes of arguments off the stack as `pop_register` says. `epilogue`
        has run; `busy` have the result."""
        raise AssertionError(f"{self.name} cannot pop")

    # -- Go's assembler

    def plan9(self) -> Plan9:
        """How it is spelt there. Raises ValueError if nobody has said."""
        raise ValueError(f"{self.name} has no spelling for Go's assembler")

    # -- unwind information

    def unwinding(self) -> Unwinding:
        """What `.cfi` directives are made of. Raises ValueError with the reason if there are none."""
        raise ValueError(f"{self.name} has no call frame information")

    # -- tables of entries

    table_pushes: bool = False  # an entry is a call: what is told is the address behind it, and not its index

    def table_register(self, convention: Convention) -> Register:
        """Where a trampoline that is entered through a table is told by which entry."""
        raise AssertionError(f"{self.name} has no tables")

    def table_entry(self, index: int, symbol: str, convention: Convention) -> Code:
        """Entry `index`, below 32,768, of a table that enters `symbol`. All entries have the same length."""
        raise AssertionError(f"{self.name} has no tables")

    def table(self, count: int, symbol: str, convention: Convention) -> tuple[list[tuple[Insn, ...]], tuple[Insn, ...]]:
        """The entries of a table that enters `symbol`, and what they need behind them."""
        if self.table_pushes:
            return [tuple(self.table_entry(0, symbol, convention))] * count, ()
        return [tuple(self.table_entry(index, symbol, convention)) for index in range(count)], ()

    def take_table_entry(self) -> Code:
        """First of all instructions of what a table enters: `table_register` gets what the entry tells."""
        return iter(())

    def why_no_table(self, convention: Convention) -> str:
        """Why the trampolines of a convention cannot be entered through a table, if so."""
        if self.linkage == "pic":
            return "what a table enters may be of another module in position-independent code"
        register = self.table_register(convention)
        passed = (*convention.integer_arguments, convention.thread, convention.return_address)
        if register in passed or convention.keeps(register) or register in convention.reserved:
            return f"the index would travel in {register.name}, which has its use in {convention.name}"
        return ""

    # -- frames

    @abstractmethod
    def layout(self, request: FrameRequest) -> Frame: ...

    @abstractmethod
    def prologue(self, frame: Frame) -> Code: ...

    def global_entry(self, name: str, convention: Convention) -> Code:
        """What stands in front of the prologue of a function that uses `toc`, where callers of the same module skip it:
        it finds the table of contents by `call_through`. Ends with a label that is the local entry."""
        return iter(())

    def find_got(self, name: str, convention: Convention) -> Code:
        """What stands behind the prologue of a function that uses `got`: its address, by `call_through`."""
        return iter(())

    @abstractmethod
    def epilogue(self, frame: Frame) -> Code:
        """Everything up to, and without, the instruction that leaves."""

    @abstractmethod
    def leave(self, frame: Frame, pop: int) -> Code:
        """Return to the caller. `epilogue` has run."""

    # -- fixed values, the thread, the passes at the end

    @abstractmethod
    def establish(self, fixed: Fixed) -> Code:
        """Make the register hold the value that a callee's convention demands."""

    @abstractmethod
    def thread_load(self, d: Register, slot: ThreadSlot) -> Code:
        """The word in the slot."""

    @abstractmethod
    def thread_store(self, s: Register, slot: ThreadSlot, offset: Register | None = None) -> Code:
        """Set the word in the slot. `offset` holds what the slot's symbol does, where it has one, or was made by
        `thread_base`, and is lost."""

    thread_store_by_base: bool = False  # `thread_store` takes a register that `thread_base` has made

    def thread_base(self, d: Register, slot: ThreadSlot) -> Code:
        """What `thread_store` counts from, as far as that takes an instruction of its own."""
        raise AssertionError(f"{self.name} needs no base")

    def improved(self, code: Sequence[Placed]) -> Sequence[Placed]:
        """Merge neighbours into pairs and multiples, fill delay slots. The default leaves the code as it is."""
        return code

    def improve(self, code: Sequence[Insn]) -> list[Insn]:
        """The same for instructions of which nobody asks what they are made for."""
        return [insn for insn, _ in self.improved([(insn, 0) for insn in code])]

    def function_header(self, name: str, convention: Convention) -> Iterable[str]:
        """Lines before the first instruction of a function that others may call.

        `%function` and not `@function`: `@` starts a comment on arm, and GNU as takes `%` on every machine.
        """
        symbol = spelled(name)
        yield ".text"
        yield f".globl {symbol}"
        yield f".balign {self.function_alignment}"
        if self.object_format == "elf":
            yield f".type {symbol}, %function"
        else:
            # Storage class 2: external; type 0x20: a function. PE Format, "COFF Symbol Table".
            yield f".def {symbol}; .scl 2; .type 32; .endef"
        yield f"{symbol}:"

    def function_footer(self, name: str, convention: Convention) -> Iterable[str]:
        """Lines after the last instruction of a function."""
        if self.object_format == "elf":
            yield f".size {spelled(name)}, .-{spelled(name)}"

    def trailer(self) -> Iterable[str]:
        """Lines after the last function: in ELF, the note that the stack need not be executable."""
        return ('.section .note.GNU-stack,"",%progbits',) if self.object_format == "elf" else ()


@lru_cache(maxsize=64)
def of_thread(architecture: Architecture) -> frozenset[Register]:
    """What belongs to the thread, or to the system: no convention lets anybody use it, and all callers on a thread have
    the same there. What each module has its own of, and callees keep, is not among them."""
    conventions = architecture.conventions.values()
    common = set.intersection(*(set(convention.reserved) for convention in conventions)) if conventions else set()
    module = architecture.of_module
    if module is not None and any(convention.keeps(module) for convention in conventions):
        common.discard(module)
    return frozenset(common - {architecture.sp})


@lru_cache(maxsize=1024)
def allocatable(architecture: Architecture, convention: Convention) -> tuple[Register, ...]:
    """The integer registers that values may live in, best first; kept for each convention."""
    return architecture.allocatable(convention)


@lru_cache(maxsize=1024)
def float_allocatable(architecture: Architecture, convention: Convention) -> tuple[Register, ...]:
    """The floating point registers that values may live in, best first; kept for each convention."""
    return architecture.float_allocatable(convention)


@dataclass(frozen=True, slots=True)
class Target:
    """An operating system on an architecture, and a variant of it: "linux/arm64", "linux/mips-soft"."""

    name: str
    os: str
    architecture: Architecture
    baseline: str  # the instruction set that may be relied on, for people: "POWER8"
    variant: str = ""

    @property
    def conventions(self) -> Mapping[str, Convention]:
        return self.architecture.conventions

    def linked(self, linkage: Linkage) -> Target:
        """The same, with code for another linkage. Raises ValueError if there is none."""
        return self if linkage == self.architecture.linkage else _linked(self, linkage)

    def protected(self) -> Target:
        """The same, with landing pads. Raises ValueError with the reason why there are none."""
        return self if self.architecture.protect else _protected(self)

    @property
    def why_not_protected(self) -> str:
        """Why there is no code with landing pads, if so."""
        if self.architecture.linkage == "go":
            return "Go's assembler makes no landing pads on request, and its linker no notes of them"
        return self.architecture.why_no_protection


@lru_cache(maxsize=128)
def _linked(target: Target, linkage: Linkage) -> Target:
    if linkage not in target.architecture.linkages:
        what = {"static": "code that stays in its place", "pic": "position-independent code", "go": "code for Go"}
        raise ValueError(f"there is no {what[linkage]} for {target.name} yet")
    architecture = copy.copy(target.architecture)
    architecture.link_for(linkage)
    return replace(target, architecture=architecture)


@lru_cache(maxsize=128)
def _protected(target: Target) -> Target:
    if target.why_not_protected:
        raise ValueError(f"{target.name} has no landing pads: {target.why_not_protected}")
    architecture = copy.copy(target.architecture)
    architecture.protect_from_now()
    return replace(target, architecture=architecture)


NOTE_OF_PROPERTIES = 5  # NT_GNU_PROPERTY_TYPE_0. Linux Extensions to gABI, "Program Property".


def property_note(kind: int, value: int, word: int) -> Iterable[str]:
    """An ELF note with one property, 32 bits of which linkers keep what all inputs have; `word`: bytes it is padded to.
    Linux Extensions to gABI, "Program Property"."""
    padding = word - 4
    yield '.section .note.gnu.property,"a",%note'
    yield f".balign {word}"
    yield f".long 4, {12 + padding}, {NOTE_OF_PROPERTIES}"
    yield '.asciz "GNU"'
    yield f".long {kind:#x}, 4, {value}" + (", 0" if padding else "")
