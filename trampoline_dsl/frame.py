"""Where everything in a frame is: outgoing areas and locals here, saves and the link by the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter

from .allocate import Allocation
from .diagnostics import Diagnostic, InputError
from .instructions import instructions_of
from .lir import Body, Context, Home
from .records import replace
from .target import Architecture, Bank, Convention, Frame, FrameRequest, Register, Slot

_place = attrgetter("stack", "offset")


def lay_out(body: Body, allocation: Allocation, architecture: Architecture) -> Frame:
    """Fix the offset of every home and the frame's size. Sets `offset` of the homes that are in this frame."""
    used = {o.home for o in allocation.operations if o.home is not None}
    used |= {home for home in body.homes if home.pin is not None}
    used |= {home for c in body.contexts for home in (c.saved_sp, c.exchange) if home is not None}
    homes = [h for h in body.homes if h in used and h.incoming is None]
    bottom = 0
    slots: list[Slot] = []
    for context in body.contexts:
        end, made = _lay_out_context(
            body, context, [h for h in homes if h.context == context.number], architecture.word
        )
        bottom = max(bottom, end)
        slots += made
    saves = _saves(body, allocation) if body.save else ()
    alignment = body.alignment
    if body.convention.return_address is not None:
        # Machines without push keep their stack pointer aligned at all times.
        alignment = max(alignment, body.convention.alignment)
    link = body.convention.return_address in body.lost if body.convention.return_address is not None else False
    own = [h for h in homes if h.context == 0]
    free = body.calls and body.bottom_free and all(h.offset >= architecture.word for h in own)
    start, words = body.words or (0, ())
    homed = words if start < 0 else ()
    taken = bool(words) and start >= 0
    request = FrameRequest(body.convention, bottom, saves, link, alignment, free, homed, taken, body.table)
    frame = instructions_of(architecture).around(request).frame
    slots = [replace(s, offset=s.offset + frame.size) if s.offset < 0 else s for s in slots]
    slots.sort(key=_place)
    return Frame(frame.size, frame.slots, frame.request, tuple(slots))


def _saves(body: Body, allocation: Allocation) -> tuple[tuple[Register, int], ...]:
    """What the caller wants back and the body changes: bits that callees lose, and registers that values live in."""
    changed: set[Register | None] = set(allocation.registers.values())
    for operation in allocation.operations:
        if operation.kind in ("call", "tail_call"):
            # s390x passes an argument in r6, which is kept all the same. (Nobody could give it back after a jump.)
            changed.update(operation.places)
    savable, lost = _savable(body.convention), body.lost
    found = [savable[register] for register in savable.keys() & changed.union(lost)]
    found.sort()
    return tuple([(r, mask) for _, r, mask in found if r in changed or mask & lost[r]])


@lru_cache(maxsize=256)
def _savable(convention: Convention) -> Mapping[Register, tuple[int, Register, int]]:
    """What a convention keeps: which one of all it is in the order in which they are saved, and the mask."""
    fixed = {f.register for f in convention.fixed}
    banks = list(Bank)
    order = sorted(convention.kept, key=lambda register: (banks.index(register.bank), register.number))
    return {r: (index, r, convention.kept[r]) for index, r in enumerate(order) if r not in fixed}


def _lay_out_context(body: Body, context: Context, homes: list[Home], word: int) -> tuple[int, list[Slot]]:
    """Offsets of one stack's homes: pinned ones first, the others in the first gap above the outgoing area."""
    convention = body.convention
    stack = "" if context.number == 0 else f"on stack {context.number}"
    slots: list[Slot] = []
    base = context.outgoing
    if context.pushes and convention.return_slot == "top":
        slots.append(Slot(-word, word, "pushed PC", "where a walk looks for the return address", None, stack))
    chained = convention.back_chain and context.number == 0 and bool(homes or base)
    if chained or (context.number and (convention.back_chain or context.back_chain)):
        base = max(base, word)
    uses_bottom = convention.return_slot == "bottom" and (body.calls if context.number == 0 else context.pushes)
    if uses_bottom:
        base = max(base, convention.first_stack_argument)
        if context.number:
            slots.append(Slot(0, word, "pushed PC", "where a walk looks for the return address", None, stack))
    if context.outgoing > context.outgoing_start:
        size = context.outgoing - context.outgoing_start
        reason = "arguments in memory and areas that callees are given"
        slots.append(Slot(context.outgoing_start, size, "outgoing area", reason, None, stack))
    taken: list[tuple[int, int]] = [(0, base)]
    # A slot at the bottom lies where outgoing arguments do: that is right while no call on this stack has any.
    alignment = max(convention.alignment, 1)
    bottom = (convention.first_stack_argument + alignment - 1) // alignment * alignment
    end = base
    for home in sorted(homes, key=lambda h: h.pin is None):
        if home is context.saved_sp and (convention.back_chain or context.back_chain):
            home.offset = 0  # the back chain is the way back
            end = max(end, home.size)
            slots.append(Slot(0, home.size, "back chain", "the other stack's sp, and the way back to it", None, stack))
            continue
        if home.pin is not None:
            home.offset = bottom if home.pin == "bottom" else home.pin
            step = home.alignment or min(home.size, word)
            if home.offset % step:
                message = f"`{home.name}` at {home.offset} is not aligned: its place is a multiple of {step}"
                near = home.offset // step * step
                notes = (f"{near} and {near + step} are",)
                raise InputError([Diagnostic("L002", message, home.span or body.span, notes=notes)])
            if home.offset < context.outgoing and context.outgoing > convention.first_stack_argument:
                message = (
                    f"`{home.name}` at {home.offset} is where calls put their arguments ({context.outgoing} bytes)"
                )
                raise InputError([Diagnostic("L002", message, home.span or body.span, notes=("pin it higher",))])
            clash = [t for t in taken[1:] if t[0] < home.offset + home.size and home.offset < t[1]]
            if clash or (home.offset < bottom and uses_bottom):
                message = f"`{home.name}` at {home.offset} overlaps another slot"
                raise InputError([Diagnostic("L002", message, home.span or body.span, notes=("leave out a pin",))])
        else:
            home.offset = _first_gap(taken, home.size, base, home.alignment or min(home.size, 16) or 1)
        taken.append((home.offset, home.offset + home.size))
        taken.sort()
        end = max(end, home.offset + home.size)
        slots.append(Slot(home.offset, home.size, home.name, home.reason, None, stack))
    return end, slots


def _first_gap(taken: list[tuple[int, int]], size: int, base: int, align: int) -> int:
    offset = (base + align - 1) // align * align
    for start, end in sorted(taken):
        if end <= offset:
            continue
        if start >= offset + size:
            break
        offset = (max(offset, end) + align - 1) // align * align
    return offset
