"""A frame drawn as a person would on a whiteboard: addresses grow upwards; place, size, owner and reason."""

from __future__ import annotations

from operator import attrgetter

from .target import Frame, Slot

_offset = attrgetter("offset")


def draw(frame: Frame, stack_pointer: str) -> list[str]:
    """Lines of a picture of every stack's frame, the highest address on top."""
    by_stack = {"": [*frame.slots]}
    for slot in frame.body_slots:
        by_stack.setdefault(slot.stack, []).append(slot)
    lines = _one(by_stack.pop(""), frame.size, stack_pointer)
    for stack in sorted(by_stack):
        lines.append("")
        lines.append(f"{stack}: a frame of the same size")
        lines += _one(by_stack[stack], frame.size, stack_pointer)
    return lines


def _one(slots: list[Slot], whole: int, stack_pointer: str) -> list[str]:
    slots.sort(key=_offset, reverse=True)
    width = max([12, *[len(slot.owner) for slot in slots]])
    edge = "-" * (width + 2)
    upper = whole
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
        lines.append(f"  {place.rjust(10)}    | {slot.owner.ljust(width)} |  {str(size).rjust(3)} {said}")
        reason = slot.reason
    if upper > 0 and whole:
        lines.append(_unused(width, upper))
    lines.append(f"  {stack_pointer:>10} -> +{edge}+")
    return lines


def _unused(width: int, size: int) -> str:
    return f"                | {' ' * width} |  {size} bytes unused"
