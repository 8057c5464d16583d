"""Fill relocated fields, as a linker would, for code that is to run at a known address.

`Relocation.addend` is always the whole addend: what the format keeps in the field (REL: 386, arm and mips o32) is
written over. For relocations of an object file that keeps its addends there, `explicit_addends` reads them first.
S, A and P are the symbol's value, the addend and the address of the field, as in the psABIs; PE/COFF counts P from the
end of the field on x86 (PE Format, "COFF Relocations").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .target import GP_SYMBOL, Architecture, ByteOrder, Fixup, Relocation, signed


class LinkError(Exception):
    """A relocation that cannot be applied: `reason` says why."""

    def __init__(self, relocation: Relocation, reason: str) -> None:
        super().__init__(f"{relocation.type} against {relocation.symbol!r} at +{relocation.offset:#x}: {reason}")
        self.relocation = relocation
        self.reason = reason


# What only tells the linker how code may be made shorter, or which instruction set a machine may lack.
_HINT = re.compile(
    r"R_MIPS_JALR|R_ARM_V4BX|R_PPC64_(ENTRY|TOCSAVE|PLTSEQ\w*)|R_\w+_NONE|R_390_RELAX\w*|IMAGE_REL_\w+_ABSOLUTE"
)


def is_hint(relocation: Relocation) -> bool:
    """Whether a relocation may be left out."""
    return _HINT.fullmatch(relocation.type) is not None


# Fields that hold one slice of an address, and so ignore the bits above and below it. Where only one of several such
# fields is short (ELF for the Arm 64-bit Architecture, 5.7.6: the `_NC` ones), the linker checks nothing either.
_SLICE = re.compile(
    r"R_AARCH64_.*_NC|R_ARM_MOV[WT]_.*|R_MIPS_(HI16|LO16|HIGHER|HIGHEST|PCHI16|PCLO16)|R_390_.*12"
    r"|R_MIPS_GPREL16/R_MIPS_SUB/R_MIPS_(HI|LO)16|R_PPC64_.*_LO(_DS)?|R_PPC64_(ADDR16|REL16)_(HI|HA|HIGH\w*)|IMAGE_REL_ARM64_PAGEOFFSET_12\w"
)
# The high half of an offset that has to fit 32 bits: the bits below are another field's, those above must be sign.
_HIGH_HALF = re.compile(r"R_PPC64_(TOC|GOT)16_(HI|HA)")
# ELF for the Arm 64-bit Architecture, 5.7.6: Page(S + A) - Page(P), where Page clears the low 12 bits.
_PAGE = re.compile(r"R_AARCH64_(ADR_PREL_PG_HI21(_NC)?|ADR_GOT_PAGE)|IMAGE_REL_ARM64_PAGEBASE_REL21")
# MIPS psABI, table 4-11: against this symbol, HI16 and LO16 are halves of the distance to GP from the instruction with
# HI16, and that with LO16 is the next one.
_GP_DISTANCE = "_gp_disp"
# MIPS psABI, table 4-11: the field replaces the low 28 bits of the address of the delay slot.
_REGION = re.compile(r"R_MIPS_26")
# ELF for the Arm Architecture, 4.6.1.1: MOVW and MOVT alike keep the low 16 bits of the addend, as they are. PE Format,
# "Type Indicators", ARM64 Processors: so does the instruction that makes a page's address, with 21 bits.
_UNSHIFTED_IN_PLACE = re.compile(r"R_ARM_MOVT_\w+|IMAGE_REL_ARM64_PAGEBASE_REL21")


def got_entry(symbol: str) -> str:
    """What `link` is told the address of a symbol's entry in the global offset table as."""
    return f"{symbol}@GOT"


def link(
    architecture: Architecture,
    assembled_code: bytes,
    relocations: Iterable[Relocation],
    base: int,
    symbols: Mapping[str, int],
) -> bytes:
    """The code as it runs at `base`, with every relocated field filled. `symbols`: addresses by name, those of
    `Fixup.base` among them."""
    code = bytearray(assembled_code)
    for relocation in relocations:
        if relocation.type.endswith("_NONE"):
            continue
        fixup = _scaled(_fixup(architecture, relocation), assembled_code, relocation.offset, architecture.order)
        if not 0 <= relocation.offset <= len(code) - fixup.size:
            raise LinkError(relocation, f"lies outside of the code, which has {len(code):#x} bytes")
        value = _value(architecture, fixup, relocation, base + relocation.offset + fixup.ahead, symbols)
        write_field(code, relocation.offset, fixup, architecture.order, value >> fixup.shift)
    return bytes(code)


def explicit_addends(
    architecture: Architecture, code: bytes, relocations: Sequence[Relocation]
) -> tuple[Relocation, ...]:
    """The same relocations with the addends that a REL object keeps in its fields."""
    result: list[Relocation] = []
    for index, relocation in enumerate(relocations):
        fixup = architecture.fixups.get(relocation.type)
        if fixup is None or not fixup.in_place:
            result.append(relocation)
            continue
        fixup = _scaled(fixup, code, relocation.offset, architecture.order)
        addend = _addend_in_place(relocation, fixup, code, architecture.order)
        if relocation.type == "R_MIPS_HI16":
            addend += _low_partner(architecture, code, relocation, relocations[index + 1 :])
        result.append(replace(relocation, addend=addend))
    return tuple(result)


def in_place_value(relocation: Relocation, fixup: Fixup) -> int:
    """What a REL object keeps in the field; 0 where the format has addends of its own."""
    if not fixup.in_place:
        return 0
    if _UNSHIFTED_IN_PLACE.fullmatch(relocation.type):
        return relocation.addend
    return (relocation.addend + fixup.bias) >> fixup.shift


def write_field(code: bytearray, offset: int, fixup: Fixup, order: ByteOrder, value: int) -> None:
    """Put `value`, already shifted, into the fixup's bits; the other bits stay."""
    word = int.from_bytes(code[offset : offset + fixup.size], order)
    for mask, shift in _pieces(fixup):
        low = mask & -mask
        word = word & ~mask | (value >> shift) * low & mask
    code[offset : offset + fixup.size] = word.to_bytes(fixup.size, order)


def read_field(code: bytes, offset: int, fixup: Fixup, order: ByteOrder) -> int:
    """The field's value, signed, before any shift to the left."""
    word = int.from_bytes(code[offset : offset + fixup.size], order)
    value = 0
    for mask, shift in _pieces(fixup):
        value |= (word & mask) // (mask & -mask) << shift
    return signed(value, _field_bits(fixup))


def _pieces(fixup: Fixup) -> tuple[tuple[int, int], ...]:
    return fixup.scatter or ((fixup.mask, 0),)


def _field_bits(fixup: Fixup) -> int:
    return max(shift + mask.bit_count() for mask, shift in _pieces(fixup))


def _fixup(architecture: Architecture, relocation: Relocation) -> Fixup:
    try:
        return architecture.fixups[relocation.type]
    except KeyError:
        known = " ".join(sorted(architecture.fixups))
        raise LinkError(relocation, f"{architecture.name} has no such relocation type; it has {known}") from None


def _scaled(fixup: Fixup, code: bytes, offset: int, order: ByteOrder) -> Fixup:
    """The fixup for the very instruction that it is in."""
    if not fixup.scaled:
        return fixup
    shift = int.from_bytes(code[offset : offset + fixup.size], order) >> 8 * fixup.size - 2
    low = fixup.mask & -fixup.mask
    return replace(fixup, shift=shift, mask=(fixup.mask // low >> shift) * low)


def _value(
    architecture: Architecture, fixup: Fixup, relocation: Relocation, place: int, symbols: Mapping[str, int]
) -> int:
    """S + A or S + A - P with the bias, checked against the field, not shifted yet."""
    kind = relocation.type
    name = relocation.symbol
    if name == _GP_DISTANCE:
        start = place - 4 if kind == "R_MIPS_LO16" else place
        return _symbol(relocation, GP_SYMBOL, symbols) + relocation.addend - start + fixup.bias
    target = _symbol(relocation, got_entry(name) if fixup.got else name, symbols) + relocation.addend
    if fixup.base:
        target -= _symbol(relocation, fixup.base, symbols)
    if _PAGE.fullmatch(kind):
        target, place = target & ~0xFFF, place & ~0xFFF
    bits = _field_bits(fixup) + fixup.shift
    word_bits = 8 * architecture.word
    distance = signed(target - place if fixup.pc_relative else target, word_bits)
    value = (-distance if fixup.negated else distance) + fixup.bias
    if _SLICE.fullmatch(kind):
        return value
    if value & ((1 << fixup.shift) - 1) and not _HIGH_HALF.fullmatch(kind):
        raise LinkError(relocation, f"{value:#x} is not a multiple of {1 << fixup.shift}")
    if _REGION.fullmatch(kind):
        if (target ^ place + 4) % (1 << word_bits) >> bits:
            raise LinkError(relocation, f"{target:#x} and {place + 4:#x} differ above bit {bits - 1}")
        return value
    # An absolute field may be meant signed or not (-1 and 0xffffffff are both 32 bits); a distance is signed.
    with_sign = fixup.pc_relative or fixup.base != ""
    highest = 1 << (bits - 1 if with_sign else bits)
    unsigned = distance % (1 << word_bits) + fixup.bias
    if not (-(1 << (bits - 1)) <= value < highest or (not with_sign and unsigned < highest)):
        raise LinkError(relocation, f"{value:#x} does not fit {bits} bits{' with sign' if with_sign else ''}")
    return value


def _symbol(relocation: Relocation, name: str, symbols: Mapping[str, int]) -> int:
    try:
        return symbols[name]
    except KeyError:
        raise LinkError(relocation, f"nothing says where {name!r} is") from None


def _addend_in_place(relocation: Relocation, fixup: Fixup, code: bytes, order: ByteOrder) -> int:
    value = read_field(code, relocation.offset, fixup, order)
    return value if _UNSHIFTED_IN_PLACE.fullmatch(relocation.type) else value << fixup.shift


def _low_partner(architecture: Architecture, code: bytes, high: Relocation, rest: Sequence[Relocation]) -> int:
    """MIPS psABI, 4-19: the addend of a HI16 is (AHI << 16) + (short)ALO, with ALO of the LO16 that follows."""
    for relocation in rest:
        if relocation.type == "R_MIPS_LO16" and relocation.symbol == high.symbol:
            return _addend_in_place(relocation, _fixup(architecture, relocation), code, architecture.order)
    raise LinkError(high, "no R_MIPS_LO16 against the same symbol follows it")
