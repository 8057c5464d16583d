"""A frame drawn as a person would on a whiteboard: addresses grow upwards; place, size, owner and reason."""

from __future__ import annotations

from operator import attrgetter

from .target import Frame

_offset = attrgetter("offset")


def draw(frame: Frame, stack_pointer: str) -> list[str]:
    """Lines of a picture of every stack's frame, the highest address on top."""
    lines = _one("", frame, stack_pointer)
    for stack in sorted({slot.stack for slot in frame.body_slots if slot.stack}):
        lines.append("")
        lines.append(f"{stack}: a frame of the same size")
        lines += _one(stack, frame, stack_pointer)
    return lines


def _one(stack: str, frame: Frame, stack_pointer: str) -> list[str]:
    slots = [slot for slot in (*frame.slots, *frame.body_slots) if slot.stack == stack]
    slots.sort(key=_offset, reverse=True)
    width = max([12, *[len(slot.owner) for slot in slots]])
    edge = "-" * (width + 2)
    whole = upper = frame.size
    lines = [f"         CFA -> +{edge}+  sp + {whole}"]
    reason: str | None = None  # of the slot above
    for slot in slots:
        offset, size = slot.offset, slot.size
        if offset < whole:
            if offset + size < upper:
                lines.append(_unused(width, upper - offset - size))
            place = f"sp + {offset}"
            upper = offset
        else:
            place = f"CFA + {offset - whole}"
        said = '"' if slot.reason == reason else slot.reason
        lines.append(f"  {place:>10}    | {slot.owner.ljust(width)} |  {size:>3} {said}")
        reason = slot.reason
    if upper > 0 and whole:
        lines.append(_unused(width, upper))
    lines.append(f"  {stack_pointer:>10} -> +{edge}+")
    return lines


def _unused(width: int, size: int) -> str:
    return f"                | {' ' * width} |  {size} bytes unused"
