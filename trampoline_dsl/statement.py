"""One statement of assembly text, before an engine sees it: its numbers, and raw data.

Numbers become hexadecimal because Keystone may read a bare 16 as 0x16: its radix is never initialised. Data is
encoded here because Keystone counts a lone directive on ppc64 as no statement and then gives nothing.
"""

from __future__ import annotations

import re

from .engine import Refused
from .target import Architecture, Bank

# A word keeps the digits in it ("%r31", "v0.16b", "$16"); what starts with a digit is a number.
_TOKEN = re.compile(r"[A-Za-z_.$%][\w.$]*|\d[\w.]*")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_NUMBERED_REGISTER = re.compile(r"\$([1-9][0-9]+)")

_DATA = re.compile(r"\.(byte|2byte|short|hword|4byte|long|8byte|quad|word)\b\s*(.*)", re.DOTALL)
_ITEM = re.compile(r"\s*(-?)\s*(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)\s*")
_SIZES = {"byte": 1, "2byte": 2, "short": 2, "hword": 2, "4byte": 4, "long": 4, "8byte": 8, "quad": 8}
# GNU as's `.word` follows the machine (its manual, "Machine Dependencies"; and measured).
_WORD_OF_TWO = frozenset({"KS_ARCH_X86", "KS_ARCH_SYSTEMZ", "KS_ARCH_PPC"})


def hexadecimal(statement: str, architecture: Architecture) -> str:
    """The statement with every number that is not a single digit in hexadecimal."""
    # Their last operand has a number only. Read as hexadecimal, none of those that exist would be another of them.
    control = statement.startswith(("cfc1", "ctc1"))

    def rewrite(match: re.Match[str]) -> str:
        token = match[0]
        if numbered := _NUMBERED_REGISTER.fullmatch(token):
            if control and match.start() > statement.rfind(","):
                return token
            return _register_name(int(numbered[1]), architecture)
        if not token[0].isdigit() or _HEXADECIMAL.fullmatch(token):
            return token
        if not _DECIMAL.fullmatch(token):
            raise Refused(f"{token} is no number: write decimal without leading zeros, or 0x and hexadecimal digits")
        return token if len(token) == 1 else hex(int(token))

    return _TOKEN.sub(rewrite, statement)


def data(statement: str, architecture: Architecture) -> bytes | None:
    """The bytes of a data directive with literal numbers; None if the statement is none."""
    match = _DATA.fullmatch(statement.strip())
    if not match:
        return None
    directive, items = match.groups()
    size = _SIZES.get(directive) or (2 if architecture.engines.keystone_arch in _WORD_OF_TWO else 4)
    result = bytearray()
    for item in items.split(","):
        number = _ITEM.fullmatch(item)
        if not number:
            raise Refused(f".{directive} takes numbers, not {item.strip()[:20]!r}")
        value = int(number[2], 0) * (-1 if number[1] else 1)
        if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size):
            raise Refused(f"{value:#x} does not fit .{directive}, which is {size} bytes here")
        result += (value % (1 << (8 * size))).to_bytes(size, architecture.order)
    return bytes(result)


def _register_name(number: int, architecture: Architecture) -> str:
    for register in architecture.registers.values():
        if register.bank is Bank.INTEGER and register.number == number and register.gnu.startswith("$"):
            return register.gnu
    raise Refused(f"${number} is no integer register of {architecture.name}")
