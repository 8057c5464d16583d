"""The instructions that an architecture makes, kept: what is made of the same operands is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from .records import cached_property, replace
from .target import Architecture, Code, Convention, Frame, FramePart, FrameRequest, Insn, in_part

_MOST_KEPT = 20_000  # of one method of one architecture


class Instructions:
    """What makes instructions in an architecture's interface, by the same names."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture  # held on to, so that no other one gets its identity
        self.move = _kept(architecture.move)
        self.constant = _kept(architecture.constant)
        self.symbol_address = _kept(architecture.symbol_address)
        self.load_symbol = _kept(architecture.load_symbol)
        self.load = _kept(architecture.load)
        self.store = _kept(architecture.store)
        self.float_move = _kept(architecture.float_move)
        self.float_load = _kept(architecture.float_load)
        self.float_store = _kept(architecture.float_store)
        self.binary = _kept(architecture.binary)
        self.extend = _kept(architecture.extend)
        self.compare_branch = _kept(architecture.compare_branch)
        self.jump = _kept(architecture.jump)
        self.label = _kept(lambda name: iter((Insn("", label=name),)))
        self.call = _kept(architecture.call)
        self.call_register = _kept(architecture.call_register)
        self.tail_call = _kept(architecture.tail_call, "epilogue")
        self.jump_register = _kept(architecture.jump_register)
        self.tail_call_register = _kept(architecture.tail_call_register, "epilogue")
        self.established = _kept(self._established)
        self.established_at_end = _kept(self._established, "epilogue")
        self.store_at_entry = _kept(architecture.store, "prologue")
        self.store_resumed = _kept(architecture.store, "resume")
        self.system_call = _kept(architecture.system_call)
        self.trap = _kept(architecture.trap)
        self.thread_base = _kept(architecture.thread_base)
        self.thread_load = _kept(architecture.thread_load)
        self.thread_store = _kept(architecture.thread_store)
        self._around: dict[FrameRequest, Around] = {}

    def _established(self, convention: Convention) -> Iterator[Insn]:
        """All that a convention fixes."""
        for fixed in convention.fixed:
            for insn in self.architecture.establish(fixed):
                yield replace(insn, comment=f"establish {fixed.register.name}")

    def around(self, request: FrameRequest) -> Around:
        """What an architecture lays out, and how a frame is entered and left, follows from what is requested of it; the
        body's own slots are none of its business. Raises ValueError where it cannot be done."""
        made = self._around.get(request)
        if made is None:
            if len(self._around) >= _MOST_KEPT:
                self._around.clear()
            made = self._around[request] = Around(self.architecture, self.architecture.layout(request))
        return made


class Around:
    """A frame without the body's own slots, and how it is entered and left."""

    def __init__(self, architecture: Architecture, frame: Frame) -> None:
        self.architecture = architecture
        self.frame = frame
        self.leave = _kept(lambda pop: architecture.leave(frame, pop), "epilogue")

    @cached_property
    def prologue(self) -> tuple[Insn, ...]:
        return tuple(in_part("prologue", self.architecture.prologue(self.frame)))

    @cached_property
    def epilogue(self) -> tuple[Insn, ...]:
        return tuple(in_part("epilogue", self.architecture.epilogue(self.frame)))

    @cached_property
    def kept_pieces(self) -> tuple[list[tuple[int, int, int]], int]:
        """What was saved for the caller in the frame, and above it, in pieces of a word at most: bytes above sp, bytes
        from the start of a copy, bytes of each; and the bytes of the copy."""
        word = self.architecture.word
        sizes: dict[int, int] = {}
        for slot in self.frame.slots:
            if slot.register is not None or slot.owner in ("return address", "back chain"):
                for place in range(slot.offset, slot.offset + slot.size, word):
                    sizes[place] = max(sizes.get(place, 0), min(word, slot.offset + slot.size - place))
        pieces: list[tuple[int, int, int]] = []
        end = 0
        for place, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
            pieces.append((place, end, size))
            end += size
        return pieces, end


def _kept(make: Callable[..., Code], part: FramePart | None = None) -> Callable[..., tuple[Insn, ...]]:
    """`part`: of what makes or takes down a frame all of it is, if it is not the part that it says itself."""
    if part is None:
        return lru_cache(maxsize=_MOST_KEPT)(lambda *operands: tuple(make(*operands)))
    return lru_cache(maxsize=_MOST_KEPT)(lambda *operands: tuple(in_part(part, make(*operands))))


@lru_cache(maxsize=64)
def instructions_of(architecture: Architecture) -> Instructions:
    return Instructions(architecture)
