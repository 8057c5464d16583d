"""Text that a user wrote in an `asm` block: what may go to an engine, and whether what came back is what it says.

Keystone runs for ever, crashes or exits the process on some statements, reads files for others, and drops or
truncates without a word. So there are three fences: `admit` lets only the shape of one machine instruction or a short
data directive through; the engine runs in a process of its own (`confined`); `why_wrong` reads the bytes back with
Capstone. The last one sees: no code, more or less than one instruction, code whose meaning depends on where it lies,
and a number that is not in the instruction as it is in the text (numbers below 64 only on x86 and mips), on x86
another address, on mips another floating point register. It compares no other registers nor mnemonics, whose aliases
differ too much: an engine that takes another register, or another instruction with the same numbers, is not seen.
"""

from __future__ import annotations

import re

from .disassemble import disassemble, instruction_unit
from .engine import Refused
from .statement import data, hexadecimal
from .target import Architecture

LONGEST = 200  # characters of a statement
MOST_DATA = 64  # bytes of a data directive

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_. \t,()[]+-")
_OF_MACHINE = {
    "KS_ARCH_X86": frozenset("*:{}"),
    "KS_ARCH_ARM": frozenset("#!{}"),
    "KS_ARCH_ARM64": frozenset("#!{}"),
    "KS_ARCH_MIPS": frozenset("$"),
    "KS_ARCH_PPC": frozenset("%"),
    "KS_ARCH_SYSTEMZ": frozenset("%"),
}

_MNEMONIC = re.compile(r"[A-Za-z][A-Za-z0-9_.]*(?= |$)")
_HERE = re.compile(r"(?<!\w)\.")
_PADDED_NAME = re.compile(r"(?<![\w.])[$%]?[A-Za-z]+0[0-9]+\b")
_NUMBER = re.compile(r"(- *)?(?<![\w.$%])(0[xX][0-9a-fA-F]+|[0-9]+)(?![\w.])")
_BRACKETS = {")": "(", "]": "[", "}": "{"}

# x86
_SEGMENT = re.compile(r"(?<![\w.])[c-gs]s:", re.IGNORECASE)
_SEGMENT_ON_STACK = re.compile(r"(push|pop) +[c-gs]s", re.IGNORECASE)
_MEMORY = re.compile(r"\[([^\[\]]*)\]")
_ABSOLUTE = re.compile(r"\[ *([-+]?) *(0[xX][0-9a-fA-F]+|[0-9]) *\]")
_NAME = re.compile(r"(?<![\w.])[a-z][a-z0-9]*")
_BEFORE_NAME = re.compile(r"[-+] *[A-Za-z]")
_POINTER = re.compile(r"\b[re]?ip\b", re.IGNORECASE)

# The others. Names in operands are marked on some machines; ppc64 has a few without a mark (`cr7`, `eq`).
_HASH = re.compile(r"#(?! *[-+]? *[0-9])")
_LONE_SIGN = re.compile(r"[-+](?! *[0-9])")
_SUM = re.compile(r"[\w)\]}] *[-+]")
_BRACES = re.compile(r"\{[^{}]*\}")
_MARKED = re.compile(r"[$%]\w*")
_MISPLACED_MARK = re.compile(r"[^ ,(][$%]")
_BARE_NAME = re.compile(r"(?<![\w.$%])[A-Za-z_.][\w.]*")
_REGISTER = {
    "KS_ARCH_PPC": re.compile(r"%(r|f|v|vs|cr)[0-9]+"),
    "KS_ARCH_SYSTEMZ": re.compile(r"%[rfacv][0-9]+"),
    "KS_ARCH_MIPS": re.compile(r"\$\w+"),
}
_FLOAT = re.compile(r"\$f[0-9]+")
_ALWAYS_MARKED = frozenset({"KS_ARCH_MIPS", "KS_ARCH_SYSTEMZ"})

# Machines whose short forms (`clrrdi`, `lsl`, `movz`) stand for others with other small numbers, and whose engine
# refuses a number of this size that does not fit.
_SHORT_FORMS = frozenset({"KS_ARCH_ARM", "KS_ARCH_ARM64", "KS_ARCH_PPC", "KS_ARCH_SYSTEMZ"})
_SMALL = 64


def admit(text: str, architecture: Architecture) -> str:
    """The statement for the engine, its numbers in hexadecimal. Raises `Refused`."""
    machine = architecture.engines.keystone_arch
    if len(text) > LONGEST:
        raise Refused(f"has {len(text)} characters; a statement may have {LONGEST}")
    allowed = _PLAIN | _OF_MACHINE.get(machine, frozenset())
    for character in text:
        if character not in allowed:
            raise Refused(f"{character!r} has no place in a statement of {architecture.name}")
    statement = text.replace("\t", " ").strip()
    if not statement:
        raise Refused("is empty")
    if statement.startswith("."):
        return _admit_data(statement, architecture)
    why_odd = _why_odd_x86 if machine == "KS_ARCH_X86" else _why_odd_elsewhere
    if reason := _why_misshapen(statement) or why_odd(statement, machine):
        raise Refused(reason)
    rewritten = hexadecimal(statement, architecture)
    for value in _numbers(rewritten):
        if not -(1 << 63) <= value < 1 << 64:
            raise Refused(f"{value:#x} does not fit 64 bits")
    if "KS_MODE_64" in architecture.engines.keystone_mode:
        # In 64-bit code Keystone makes an address relative to rip of `fs:[0x28]`, or an instruction with a 64-bit
        # address; with "no index" spelt out it makes what GNU as does.
        return _ABSOLUTE.sub(lambda match: f"[riz*1 {match[1] or '+'} {match[2]}]", rewritten)
    return rewritten


def _why_misshapen(statement: str) -> str | None:
    if not _MNEMONIC.match(statement):
        return "does not start with the name of an instruction"
    if padded := _PADDED_NAME.search(statement):
        return f"{padded[0]!r} has a zero that GNU as and Keystone read differently"
    if _HERE.search(statement):
        return "holds a name that starts with a dot, or the place itself"
    return _why_unbalanced(statement)


def _why_odd_x86(statement: str, machine: str) -> str | None:
    plain = _MEMORY.sub("", statement)
    if ":" in _SEGMENT.sub("", statement):
        return "':' is only for a segment register: labels have no place here"
    if _SEGMENT_ON_STACK.fullmatch(statement):
        return "is two bytes wide as Keystone assembles it: write it as data"
    if _BEFORE_NAME.search(plain):
        return "holds a sum outside of brackets"
    if _POINTER.search(plain):
        return "names the instruction pointer where Keystone takes it for another register"
    return None


def _why_odd_elsewhere(statement: str, machine: str) -> str | None:
    if _HASH.search(statement):
        return "# is followed by no number"
    # No operand is a sum, and some engines take an unknown name in one for 0.
    plain = _BRACES.sub("", statement)
    if _SUM.search(plain) or _LONE_SIGN.search(plain):
        return "holds a sum: write its value"
    register = _REGISTER.get(machine)
    # Keystone takes %q9 for r9, and looks for ever for what `8%r1` is the remainder of.
    if register and (odd := [word for word in _MARKED.findall(statement) if not register.fullmatch(word)]):
        return f"{odd[0]!r} is no register"
    if misplaced := _MISPLACED_MARK.search(statement):
        return f"{misplaced[0]!r} is an operation, or lacks a comma"
    if machine in _ALWAYS_MARKED and (name := _BARE_NAME.search(statement.partition(" ")[2])):
        return f"{name[0]!r} is no register, and a symbol has no place here"
    return None


def why_wrong(statement: str, code: bytes, architecture: Architecture) -> str | None:
    """Why these bytes cannot be what an admitted statement says, if so."""
    if statement.startswith("."):
        return None
    here, there = (disassemble(architecture, code, address) for address in (0, 0x10000))
    if len(here) != 1:
        texts = "; ".join(instruction.text for instruction in here[:4])
        return f"is not one instruction but {len(here)}: {texts}"
    if here[0].text.startswith("."):
        return f"gives bytes that Capstone does not know ({code.hex()}): if they are meant, write them as data"
    if here[0].text != there[0].text:
        return "means something else wherever it lies: an address has no place in a statement"
    machine = architecture.engines.keystone_arch
    if machine == "KS_ARCH_X86" and _address_registers(statement) not in (None, _address_registers(here[0].text)):
        # Keystone takes any register for a base, and rip where there is none.
        return f"was assembled with another address, as {here[0].text!r}"
    if machine == "KS_ARCH_MIPS" and set(_FLOAT.findall(here[0].text)) != set(_FLOAT.findall(statement)):
        # Keystone takes the even register below an odd one for a double of o32.
        return f"was assembled with another register, as {here[0].text!r}"
    word = 8 * architecture.word if machine == "KS_ARCH_X86" else None
    small = _SMALL if machine in _SHORT_FORMS else 2
    found = _numbers(here[0].text.partition(" ")[2])
    for value in _numbers(statement.partition(" ")[2]):
        # Displacements of 0, factors and shifts of 1 are often left out by Capstone.
        if not 0 <= value < small and not any(_same(value, other, word) for other in found):
            return f"{value:#x} is not in what was assembled, which Capstone reads as {here[0].text!r}"
    return None


def _admit_data(statement: str, architecture: Architecture) -> str:
    code = data(statement, architecture)
    if code is None:
        raise Refused("is a directive; only .byte .short .long .word .quad and .2byte .4byte .8byte may be used")
    if architecture.engines.keystone_arch == "KS_ARCH_MIPS" and statement.startswith(".quad"):
        raise Refused("is padded by GNU as where it is not aligned on mips: use .8byte")
    if len(code) > MOST_DATA:
        raise Refused(f"is {len(code)} bytes of data; a statement may have {MOST_DATA}")
    unit = instruction_unit(architecture.engines)
    if len(code) % unit:
        raise Refused(f"is {len(code)} bytes of data, among instructions whose size is a multiple of {unit}")
    return statement


def _why_unbalanced(statement: str) -> str | None:
    # Keystone assembles `mov rax, [rsp` as another instruction.
    expected: list[str] = []
    for character in statement:
        if character in _BRACKETS.values():
            expected.append(character)
        elif character in _BRACKETS and (not expected or expected.pop() != _BRACKETS[character]):
            return f"{character!r} closes nothing"
    return f"{expected[-1]!r} is not closed" if expected else None


def _address_registers(text: str) -> set[str] | None:
    """The names in the brackets of x86 text; None where there are none."""
    memory = _MEMORY.findall(text.lower())
    return {name for part in memory for name in _NAME.findall(part)} - {"riz"} if memory else None


def _numbers(operands: str) -> list[int]:
    return [int(digits, 0) * (-1 if sign else 1) for sign, digits in _NUMBER.findall(operands)]


def _same(written: int, read: int, word: int | None) -> bool:
    """Whether both spell one bit pattern of 8, 16, 32 or 64 bits, with a sign or without.

    With `word`, what was written without a sign may be read with one only if it has that many bits: a displacement or
    immediate of 32 bits, widened with its sign, is another number.
    """
    return written == read or any(
        (written - read) % (1 << bits) == 0
        and all(-(1 << (bits - 1)) <= value < 1 << bits for value in (written, read))
        and (word in (None, bits) or written < 0)
        for bits in (8, 16, 32, 64)
    )
