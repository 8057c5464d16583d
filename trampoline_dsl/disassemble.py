"""Bytes to text: the only module that imports Capstone.

Capstone stops at the first bytes that it does not know; here they become data directives, so that the result always
covers the code.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from .target import Architecture, ByteOrder, Engines

if TYPE_CHECKING:
    import capstone


class Disassembled(NamedTuple):
    """One instruction. `text` starts with "." where Capstone knows none."""

    address: int
    size: int
    text: str


# Decoders are kept because opening one costs more than a function's worth of decoding, and apart by thread because a
# decoder has a state of its own.
_local = threading.local()


def instruction_unit(engines: Engines) -> int:
    """What the size of every instruction is a multiple of, in bytes."""
    return {"CS_ARCH_X86": 1, "CS_ARCH_SYSZ": 2}.get(engines.capstone_arch, 4)


def disassemble(architecture: Architecture, code: bytes, address: int) -> list[Disassembled]:
    return disassemble_for(architecture.engines, architecture.order, code, address)


def disassemble_for(engines: Engines, order: ByteOrder, code: bytes, address: int) -> list[Disassembled]:
    decoder = _decoder(engines)
    result: list[Disassembled] = []
    position = 0
    while position < len(code):
        for at, size, mnemonic, operands in decoder.disasm_lite(code[position:], address + position):
            result.append(Disassembled(at, size, f"{mnemonic} {operands}".rstrip()))
            position += size
        if position < len(code):
            size = min(_unknown_size(engines, code[position]), len(code) - position)
            result.append(Disassembled(address + position, size, data_text(code[position : position + size], order)))
            position += size
    return result


def disassemble_one(architecture: Architecture, code: bytes, address: int) -> Disassembled:
    """The instruction that the code begins with."""
    engines = architecture.engines
    for at, size, mnemonic, operands in _decoder(engines).disasm_lite(code, address, 1):
        return Disassembled(at, size, f"{mnemonic} {operands}".rstrip())
    size = min(_unknown_size(engines, code[0]), len(code))
    return Disassembled(address, size, data_text(code[:size], architecture.order))


def grouped(engines: Engines, code: bytes) -> tuple[str, tuple[str, ...]] | None:
    """The text of one instruction and Capstone's names of the groups that it is in; None where it knows none of just so
    many bytes."""
    decoder = _decoder(engines)
    decoder.detail = True
    try:
        found = next(decoder.disasm(code, 0, 1), None)
        if found is None or found.size != len(code):
            return None
        return f"{found.mnemonic} {found.op_str}".rstrip(), tuple(found.group_name(group) for group in found.groups)
    finally:
        decoder.detail = False


def _decoder(engines: Engines) -> capstone.Cs:
    decoders: dict[Engines, capstone.Cs] = _local.__dict__.setdefault("decoders", {})
    if engines not in decoders:
        import capstone  # by the first bytes to be decoded

        mode = 0
        for name in engines.capstone_mode:
            mode |= getattr(capstone, name)
        decoders[engines] = capstone.Cs(getattr(capstone, engines.capstone_arch), mode)
    return decoders[engines]


def _unknown_size(engines: Engines, first: int) -> int:
    if engines.capstone_arch == "CS_ARCH_SYSZ":
        return s390x_length(first)
    return instruction_unit(engines)


def s390x_length(first: int) -> int:
    """Of the instruction that starts with this byte (z/Architecture Principles of Operation, "Instruction formats")."""
    return (2, 4, 4, 6)[first >> 6]


def data_text(data: bytes, order: ByteOrder) -> str:
    """The directive that puts a word or bytes there."""
    if len(data) == 4:
        return f".long {int.from_bytes(data, order):#010x}"
    return ".byte " + ", ".join(f"{byte:#04x}" for byte in data)
