"""Floating point numbers in other formats, as bits: the x87's extended ones (SDM 4.2.2), and singles as doubles."""

from __future__ import annotations


def from_double(bits: int) -> tuple[int, int, int]:
    """Sign, biased exponent and mantissa of the extended number that equals a double. Exact. SDM 4.2.2."""
    sign, exponent, fraction = bits >> 63, bits >> 52 & 0x7FF, bits & (1 << 52) - 1
    if exponent == 0x7FF:
        return sign, 0x7FFF, 1 << 63 | fraction << 11
    if exponent:
        return sign, exponent - 1023 + 16383, 1 << 63 | fraction << 11
    if not fraction:
        return sign, 0, 0
    shift = 64 - fraction.bit_length()
    return sign, 16383 - 1074 + 63 - shift, fraction << shift


def to_double(sign: int, exponent: int, mantissa: int) -> int:
    """The double nearest to an extended number, ties to even; a NaN keeps the upper bits of what it carries."""
    if exponent == 0x7FFF:
        fraction = mantissa >> 11 & (1 << 52) - 1
        if mantissa & (1 << 63) - 1 and not fraction:
            fraction = 1
        return sign << 63 | 0x7FF << 52 | fraction
    if not mantissa:
        return sign << 63
    power = exponent - 16383 - 63 + mantissa.bit_length() - 1  # of the leading bit
    lowest = max(power - 52, -1074)  # of the last bit that a double has
    drop = lowest - (exponent - 16383 - 63)
    if drop > 0:
        kept, lost = mantissa >> drop, mantissa & (1 << drop) - 1
        half = 1 << drop - 1
        kept += lost > half or (lost == half and kept & 1)
    else:
        kept = mantissa << -drop
    if kept < 1 << 52:
        return sign << 63 | kept  # subnormal
    # A carry out of the fraction runs into the exponent, as it should.
    biased = lowest + 1074
    value = (biased << 52) + kept
    return sign << 63 | min(value, 0x7FF << 52)


def double_of_single(bits: int) -> int:
    """The bits of the double with the value of a single; NaNs keep their payload (quietly, as lfs does)."""
    sign, exponent, fraction = bits >> 31, (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if exponent == 0xFF:
        return sign << 63 | 0x7FF << 52 | fraction << 29
    if exponent == 0:
        if fraction == 0:
            return sign << 63
        shift = 24 - fraction.bit_length()
        return sign << 63 | (1023 - 126 - shift) << 52 | ((fraction << shift) & 0x7FFFFF) << 29
    return sign << 63 | (exponent - 127 + 1023) << 52 | fraction << 29


def single_of_double(bits: int) -> int:
    """What stfs stores of a double (Power ISA 2.07, I 4.6.3): exact where it is the value of a single."""
    sign, exponent, fraction = bits >> 63, (bits >> 52) & 0x7FF, bits & ((1 << 52) - 1)
    if exponent > 896 or (exponent == 0 and fraction == 0):
        return (bits >> 62) << 30 | (bits >> 29) & 0x3FFFFFFF
    if exponent >= 874:
        return sign << 31 | (1 << 23 | fraction >> 29) >> (897 - exponent)
    return sign << 31
