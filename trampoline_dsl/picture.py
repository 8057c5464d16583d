"""A frame drawn as a person would on a whiteboard: addresses grow upwards; place, size, owner and reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from .target import Frame, Slot


def draw(frame: Frame, stack_pointer: str) -> list[str]:
    """Lines of a picture of every stack's frame, the highest address on top."""
    lines = list(_one("", frame, stack_pointer))
    for stack in sorted({slot.stack for slot in frame.body_slots if slot.stack}):
        lines.append("")
        lines.append(f"{stack}: a frame of the same size")
        lines += _one(stack, frame, stack_pointer)
    return lines


def _one(stack: str, frame: Frame, stack_pointer: str) -> Iterator[str]:
    slots = sorted((s for s in (*frame.slots, *frame.body_slots) if s.stack == stack), key=lambda s: -s.offset)
    width = max([len(_owner(s)) for s in slots] + [12])
    runs = [list(group) for _, group in groupby(slots, key=_reason_of)]
    yield f"  {'CFA':>10} -> +{'-' * (width + 2)}+  sp + {frame.size}"
    upper = frame.size
    for run in runs:
        for index, slot in enumerate(run):
            end = slot.offset + slot.size
            if end < upper and slot.offset < frame.size:
                yield _row("", "", width, f"{upper - end} bytes unused")
            above = slot.offset >= frame.size
            reason = slot.reason if index == 0 else '"'
            place = f"sp + {slot.offset}" if not above else f"CFA + {slot.offset - frame.size}"
            yield _row(place, _owner(slot), width, f"{slot.size:>3} {reason}")
            if not above:
                upper = slot.offset
    if upper > 0 and frame.size:
        yield _row("", "", width, f"{upper} bytes unused")
    yield f"  {stack_pointer:>10} -> +{'-' * (width + 2)}+"


def _reason_of(slot: Slot) -> str:
    return slot.reason


def _owner(slot: Slot) -> str:
    return slot.owner


def _row(place: str, owner: str, width: int, text: str) -> str:
    return f"  {place:>10}    | {owner:<{width}} |  {text}"
