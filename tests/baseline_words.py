"""Machine code of all kinds for tests of baselines: random words, and what surrounds each operation code."""

from __future__ import annotations

import random
from collections.abc import Iterator


def words(family: str, seed: int, count: int) -> Iterator[bytes]:
    """`count` pieces, or a few more, each as long as an instruction or longer."""
    draw = random.Random(seed)
    maker = {"x86": _x86, "sysz": _z, "arm": _arm, "arm64": _any_little, "ppc": _power, "mips": _mips}[family]
    made = maker(draw)
    for _ in range(count):
        yield next(made)


def _x86(draw: random.Random) -> Iterator[bytes]:
    prefixes = (b"", b"", b"\x66", b"\xf2", b"\xf3", b"\x48", b"\x66\x48", b"\xf3\x48", b"\xf2\x48")
    maps = (b"", b"\x0f", b"\x0f", b"\x0f", b"\x0f\x38", b"\x0f\x38", b"\x0f\x3a")
    while True:
        modrm = draw.choice((0x04 | draw.getrandbits(3) << 3, 0xC0 | draw.getrandbits(6)))
        head = draw.choice(prefixes) + draw.choice(maps) + bytes((draw.getrandbits(8), modrm))
        if draw.random() < 0.1:  # VEX with three bytes; what follows is an operation code of its maps
            head = bytes((0xC4, 0xE0 | draw.randint(1, 3), draw.getrandbits(8), draw.getrandbits(8), modrm))
        yield head + draw.choice((b"\x24\x10\0\0\0\0\0\0", b"\x10\0\0\0\0\0\0\0"))


def _z(draw: random.Random) -> Iterator[bytes]:
    while True:
        code = bytearray(draw.randbytes(6))
        code[0] = draw.choice((draw.getrandbits(8), 0xB2, 0xB3, 0xB9, 0xE3, 0xE5, 0xE7, 0xE7, 0xE7, 0xEB, 0xEC, 0xED))
        if code[0] == 0xE7:
            code[2] &= 0xF0
            code[3] = draw.randrange(6)
            code[4] = draw.randrange(0, 0x50, 0x10)
        elif code[0] in (0xB3, 0xB9) and draw.random() < 0.5:
            code[2] = 0
        yield bytes(code)


def _arm(draw: random.Random) -> Iterator[bytes]:
    while True:
        yield (draw.choice((0xE, 0xE, 0xF, draw.getrandbits(4))) << 28 | draw.getrandbits(28)).to_bytes(4, "little")


def _any_little(draw: random.Random) -> Iterator[bytes]:
    while True:
        yield draw.randbytes(4)


def _power(draw: random.Random) -> Iterator[bytes]:
    while True:
        primary = draw.choice((draw.getrandbits(6), 31, 31, 60, 63, 4, 59, 19))
        yield (primary << 26 | draw.getrandbits(26)).to_bytes(4, "big")


def _mips(draw: random.Random) -> Iterator[bytes]:
    while True:
        major = draw.choice((draw.getrandbits(6), 0, 17, 19, 28, 31, 16, 1))
        word = major << 26 | draw.getrandbits(26)
        if draw.random() < 0.5:  # most fields of register formats are zero
            word &= 0xFFFFF83F
        yield word.to_bytes(4, "big")
