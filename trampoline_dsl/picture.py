"""A frame drawn as a person would on a whiteboard: addresses grow upwards; place, size, owner and reason."""

from __future__ import annotations

from collections.abc import Iterator

from .target import Frame


def draw(frame: Frame, stack_pointer: str) -> list[str]:
    """Lines of a picture of every stack's frame, the highest address on top."""
    lines = list(_one("", frame, stack_pointer))
    for stack in sorted({slot.stack for slot in frame.body_slots if slot.stack}):
        lines.append("")
        lines.append(f"{stack}: a frame of the same size")
        lines += _one(stack, frame, stack_pointer)
    return lines


def _one(stack: str, frame: Frame, stack_pointer: str) -> Iterator[str]:
    slots = sorted([s for s in (*frame.slots, *frame.body_slots) if s.stack == stack], key=lambda s: -s.offset)
    width = max([12, *(len(s.owner) for s in slots)])
    yield f"  {'CFA':>10} -> +{'-' * (width + 2)}+  sp + {frame.size}"
    upper = frame.size
    reason: str | None = None  # of the slot above
    for slot in slots:
        if slot.offset < frame.size:
            if slot.offset + slot.size < upper:
                yield _row("", "", width, f"{upper - slot.offset - slot.size} bytes unused")
            place = f"sp + {slot.offset}"
            upper = slot.offset
        else:
            place = f"CFA + {slot.offset - frame.size}"
        said = '"' if slot.reason == reason else slot.reason
        yield _row(place, slot.owner, width, f"{str(slot.size).rjust(3)} {said}")
        reason = slot.reason
    if upper > 0 and frame.size:
        yield _row("", "", width, f"{upper} bytes unused")
    yield f"  {stack_pointer:>10} -> +{'-' * (width + 2)}+"


def _row(place: str, owner: str, width: int, text: str) -> str:
    return f"  {place.rjust(10)}    | {owner.ljust(width)} |  {text}"
