"""A convention for people: what is kept, by whom, where values travel, and why something is not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .target import Bank, Convention, Register, Target, ThreadSlot


def explain(convention: Convention, target: Target) -> str:
    """A page on one convention of one target."""
    return "\n".join(_lines(convention, target))


def _lines(convention: Convention, target: Target) -> Iterator[str]:
    yield f"{convention.name} on {target.name}: {convention.title}"
    yield f"  source: {convention.source}"
    yield ""
    yield from _row("integer arguments", _names(convention.integer_arguments) or "none in registers")
    yield from _row("floating point arguments", _names(convention.float_arguments) or "none in registers")
    yield from _row("integer results", _names(convention.integer_results) or "in memory")
    yield from _row("floating point results", _names(convention.float_results) or "none in registers")
    yield from _row(
        "arguments in memory",
        f"from {convention.first_stack_argument} above the caller's sp, {_bytes(convention.slot)} each at least",
    )
    yield from _row("the callee is given", _area(convention))
    yield from _row("sp at a call", f"a multiple of {convention.alignment}")
    yield from _row("red zone", f"{convention.red_zone} bytes below sp" if convention.red_zone else "none")
    yield from _row("who pops arguments", "the callee" if convention.callee_pops else "the caller")
    link = convention.return_address
    yield from _row("return address", f"in {link.name}" if link else "on the stack, pushed by the call")
    if convention.return_slot != "none":
        place = "the word at sp" if convention.return_slot == "bottom" else "the word below the caller's sp"
        yield from _row("a frame keeps it", place)
    if convention.back_chain:
        yield from _row("back chain", "the word at sp points to the caller's sp")
    if convention.frame_pointer is not None:
        said = "the caller's, or points to its value there and the return address, at all times"
        yield from _row("frame pointer", f"{convention.frame_pointer.name}: {said}")
    if convention.call_through is not None:
        yield from _row("called through a pointer", f"the callee's address in {convention.call_through.name}")
    if convention.descriptors:
        yield from _row("function pointers", "descriptors: entry, TOC, environment")
    thread = convention.thread
    if thread is not None:
        where = str(thread) if isinstance(thread, ThreadSlot) else thread.name
        copy = f", and in {convention.thread_copy.name}" if convention.thread_copy is not None else ""
        yield from _row("g, the runtime's thread", where + copy)
    yield ""
    yield "kept by the callee, for its caller"
    for bank in Bank:
        registers = [(r, mask) for r, mask in convention.kept.items() if r.bank is bank]
        if registers:
            yield from _row(f"  {bank.value}", _kept(registers))
    for fixed in convention.fixed:
        value = "the code's address & " + hex(fixed.code_mask) if fixed.code_mask else f"{fixed.value:#x}"
        yield from _row(
            f"  {fixed.register.name}", f"is {value} (bits {fixed.mask:#x}) at calls and returns: {fixed.why}"
        )
    yield ""
    yield "not kept"
    lost = [
        r
        for r in dict.fromkeys(target.architecture.registers.values())
        if not convention.keeps(r) and r not in convention.reserved and r is not target.architecture.sp
    ]
    for bank in Bank:
        registers_lost = [r for r in lost if r.bank is bank]
        if registers_lost:
            yield from _row(f"  {bank.value}", _names(registers_lost))
    if convention.reserved:
        yield ""
        yield "reserved: generated code leaves them alone"
        for register, why in convention.reserved.items():
            yield from _row(f"  {register.name}", why)
    if convention.scratch:
        yield from _row("compiler's own scratch", _names(convention.scratch))
    if convention.linker_may_write:
        yield from _row("a linker's veneer may write", _names(convention.linker_may_write))
    if convention.notes:
        yield ""
        yield "why"
        for topic, text in convention.notes.items():
            yield from _row(f"  {topic}", text)


def _bytes(count: int) -> str:
    return f"{count} byte{'s' * (count != 1)}"


def _area(convention: Convention) -> str:
    if not convention.area:
        return "nothing beside its arguments in memory"
    text = f"the {convention.area} bytes above the caller's sp"
    if convention.save_area:
        text += "; saves go to " + ", ".join(f"{r.name} +{o}" for r, o in convention.save_area.items())
    return text


def _kept(registers: Sequence[tuple[Register, int]]) -> str:
    groups: dict[str, list[Register]] = {}
    for register, mask in registers:
        if mask == (1 << register.bits) - 1:
            how = ""
        elif mask & (mask + 1) == 0:
            how = f" (low {mask.bit_length()} bits)"
        else:
            how = f" (bits {mask:#x})"
        groups.setdefault(how, []).append(register)
    return "; ".join(_names(members) + how for how, members in groups.items())


def _names(registers: Iterable[Register]) -> str:
    return " ".join(r.name for r in registers)


def _row(what: str, text: str) -> Iterator[str]:
    """A heading and its text, wrapped behind it."""
    width, room = 28, 92
    words = text.split()
    line = ""
    first = True
    for word in words:
        if line and len(line) + 1 + len(word) > room:
            yield f"  {what if first else '':<{width}}{line}"
            first, line = False, word
        else:
            line = f"{line} {word}" if line else word
    yield f"  {what if first else '':<{width}}{line}"
