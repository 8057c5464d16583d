"""The instruction set that a target declares: what code uses beyond it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from .disassemble import disassemble_one, grouped
from .target import Architecture, ByteOrder, Engines, Extensions, Insn, Target


@dataclass(frozen=True, slots=True)
class Beyond:
    """An instruction beyond a baseline: bytes from the code's start, its text, and the extension that it is of; "" if
    the disassembler knows no such instruction at all."""

    offset: int
    instruction: str
    feature: str
    baseline: str

    def __str__(self) -> str:
        what = f"is of {self.feature}" if self.feature else "is no instruction that is known"
        return f"`{self.instruction}` {what}, beyond the baseline {self.baseline}"


class Listed(Protocol):
    """Machine code with its listing: `offsets` of the `instructions` in bytes from its start."""

    @property
    def code(self) -> bytes: ...

    @property
    def instructions(self) -> tuple[Insn, ...]: ...

    @property
    def offsets(self) -> tuple[int, ...]: ...


def beyond_baseline(target: Target, code: Listed, *, user_text: bool = False) -> tuple[Beyond, ...]:
    """What code uses that its target's baseline does not have, whether it has ever run or not; of `user_text` alone,
    if so. Data are none of it: what follows an instruction that control does not pass, and is not known."""
    return tuple(_beyond(target, code, user_text))


def _beyond(target: Target, code: Listed, user_text: bool) -> Iterator[Beyond]:
    passes = True  # whether control goes on here from the instruction before
    slot = False
    for insn, start, end in zip(code.instructions, code.offsets, (*code.offsets[1:], len(code.code)), strict=True):
        if insn.label is not None:
            passes = True
            continue
        is_data = insn.text.startswith(".") and (insn.relocation is not None or not passes)
        if not slot and not is_data:  # what is in a delay slot is executed before control leaves
            passes = insn.transfer in ("none", "branch", "call", "system")
        slot = insn.delay_slot
        if is_data or end == start or (user_text and not insn.user_text):
            continue
        piece = code.code[start:end]
        if not insn.text.startswith("."):
            # Where another way in is behind its prefix, the next one in the listing begins before this one ends.
            piece = code.code[start : start + disassemble_one(target.architecture, code.code[start:], 0).size]
        text, feature = feature_beyond(target.architecture, piece)
        if feature is not None and insn.transfer != "trap":
            yield Beyond(start, insn.text if insn.user_text else text, feature, target.baseline)


def feature_beyond(architecture: Architecture, code: bytes) -> tuple[str, str | None]:
    """The text of an instruction, and the extension of the baseline that it is of; "" where it is not known at all,
    and None where the baseline has it."""
    return _feature(architecture.engines, architecture.order, architecture.extensions, code)


@lru_cache(maxsize=4096)
def _feature(engines: Engines, order: ByteOrder, extensions: Extensions, code: bytes) -> tuple[str, str | None]:
    found = grouped(engines, code)
    word = int.from_bytes(code, order)
    if found is not None:
        text, groups = found
        return text, _extension(extensions, text, groups, word)
    feature = _by_word(extensions, word)
    if feature is None:
        feature = next((name for pattern, name in extensions.codes if re.match(pattern, code.hex())), None)
    return code.hex(" "), "" if feature is None and extensions.complete else feature


def _extension(extensions: Extensions, text: str, groups: tuple[str, ...], word: int) -> str | None:
    spaced = f"{text} "  # so that a name is known by the blank behind it
    if extensions.within and re.match(extensions.within, text):
        return None
    if any(word & mask == value for mask, value in extensions.within_words):
        return None
    if feature := _by_word(extensions, word):
        return feature
    for group in groups:
        if feature := extensions.groups.get(group, ""):
            return feature
    return next((feature for pattern, feature in extensions.texts if re.match(pattern, spaced)), None)


def _by_word(extensions: Extensions, word: int) -> str | None:
    return next((feature for mask, value, feature in extensions.words if word & mask == value), None)
