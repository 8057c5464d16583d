"""Instructions to bytes, equal to what GNU as makes of the same text: the only module that imports Keystone.

Keystone is asked for one statement at a time and each answer is kept: an instruction without `target` has the same
bytes wherever it lies (its relocated field is cleared), and a branch depends on nothing but its distance. So a
function that resembles an earlier one costs a few look-ups, every instruction's offset is known, and an error names
its instruction. What Keystone does silently wrong, and what stands against each:

* It reads a bare 16 as 0x16 at times, and always after `ks_option`: numbers go to it in hexadecimal, no option is set,
  each statement gets a fresh handle (one shared by threads corrupts the heap).
* It returns no bytes and no error; it expands macros; it drops what it does not understand: no code is an error, and
  so is anything but one instruction.
* It wraps branches that do not reach, and mistakes labels on s390x: branches get numbers, and are read back.
* It spins, crashes or exits on some text, and reads files: see `user_text` and `confined`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from .confined import Confined
from .disassemble import disassemble, s390x_length
from .engine import Engine, Refused
from .kept import kept_file, read_table, write_table
from .link import in_place_value, write_field
from .statement import data, hexadecimal
from .target import Architecture, Engines, Insn, Relocation
from .user_text import admit, why_wrong


class AssemblyError(Exception):
    """An instruction that cannot be assembled: the one at `index` of the sequence, its text, and why."""

    def __init__(self, index: int, text: str, reason: str) -> None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"instruction {index}, {shown!r}: {reason}")
        self.index = index
        self.text = text
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Assembled:
    """`offsets`: where each `Insn` starts (labels have the offset of what follows), in bytes; `relocations` count
    from the start of the code."""

    code: bytes
    offsets: tuple[int, ...]
    relocations: tuple[Relocation, ...]


class Keystone:
    """The engine, in this process: for text that the compiler made."""

    name = "keystone"

    def encode(self, engines: Engines, statement: str, address: int) -> bytes:
        import keystone  # by the first statement that is not known already

        mode = 0
        for name in engines.keystone_mode:
            mode |= getattr(keystone, name)
        # Without it a nop follows every branch, and the setting does not outlive a call.
        prefix = ".set noreorder\n" if engines.keystone_arch == "KS_ARCH_MIPS" else ""
        try:
            handle = keystone.Ks(getattr(keystone, engines.keystone_arch), mode)
            code, _ = handle.asm(prefix + statement, address, as_bytes=True)
        except keystone.KsError as error:
            raise Refused(f"Keystone: {error}") from None
        if not code:
            raise Refused("Keystone gives no code for it")
        return bytes(code)


# A trampoline has some dozens of different instructions; a fuzzer's would pile up for ever.
_MOST_KEPT = 200_000

Outcome = bytes | Refused
_Question = str | tuple[object, ...]  # all that an outcome follows from


class _Encoder:
    """Encodings of one architecture by one engine, kept."""

    def __init__(self, architecture: Architecture, engine: Engine, confined: Engine) -> None:
        self.architecture = architecture
        self.engine = engine
        self.confined = confined
        self.kept: dict[_Question, Outcome] = {}
        self.machine = repr(architecture.engines)

    def alone(self, insn: Insn) -> bytes:
        """What does not depend on where it lies."""
        statement = insn.keystone or insn.text
        # Most are no more than that, and a string knows its hash.
        plain = insn.relocation is None and not insn.user_text
        key = statement if plain else (statement, insn.user_text, insn.relocation)
        outcome = self.kept.get(key)
        if outcome is None:
            make = self._user if insn.user_text else self._trusted
            outcome = self._keep(key, lambda: make(insn))
        return _bytes(outcome)

    def branch(self, insn: Insn, label: str, distance: int) -> bytes:
        key = (insn.keystone or insn.text, label, distance)
        outcome = self.kept.get(key)
        if outcome is None:
            outcome = self._keep(key, lambda: self._branch(insn, label, distance))
        return _bytes(outcome)

    def _keep(self, key: _Question, make: Callable[[], bytes]) -> Outcome:
        outcome: Outcome
        try:
            outcome = make()
        except Refused as refused:
            outcome = refused
        if len(self.kept) >= _MOST_KEPT:
            self.kept.clear()
        self.kept[key] = outcome
        return outcome

    def _trusted(self, insn: Insn) -> bytes:
        architecture = self.architecture
        statement = insn.keystone or insn.text
        code = data(statement, architecture)
        if code is None:
            code = self._ask(_checked(statement, architecture), 0, lambda code: _why_not_one(architecture, code))
        return code if insn.relocation is None else _with_field(architecture, code, insn.relocation)

    def _user(self, insn: Insn) -> bytes:
        architecture = self.architecture
        if insn.target or insn.relocation or insn.keystone:
            raise Refused("text of a user has neither branch target nor relocation nor second spelling")
        statement = admit(insn.text, architecture)
        code = data(statement, architecture)
        if code is None:
            code = self.confined.encode(architecture.engines, statement, 0)
            if reason := _why_not_one(architecture, code) or why_wrong(statement, code, architecture):
                raise Refused(reason)
        return code

    def _branch(self, insn: Insn, label: str, distance: int) -> bytes:
        architecture = self.architecture
        base = _branch_base(architecture)
        destination = base + distance
        if destination < 0 < base:
            raise Refused(f"{label} is {distance:#x} bytes away")
        text = insn.keystone or insn.text
        places = [match for match in _WORD.finditer(text) if match.group() == label]
        if len(places) != 1:
            raise Refused(f"names its target {label} {len(places)} times")
        statement = text[: places[0].start()] + hex(destination) + text[places[0].end() :]
        return self._ask(
            _checked(statement, architecture), base, lambda code: self._why_not_there(code, base, destination, label)
        )

    def _why_not_there(self, code: bytes, base: int, destination: int, label: str) -> str | None:
        """Why this is not one branch from `base` to `destination`, if so."""
        architecture = self.architecture
        if reason := _why_not_one(architecture, code):
            return reason
        [instruction] = disassemble(architecture, code, base)
        reached = _destination(instruction.text, base)
        if (reached - destination) % (1 << 8 * architecture.word) == 0:
            return None
        distance = destination - base
        return f"does not reach {label}, {distance:#x} bytes away: Keystone makes {instruction.text!r} of it"

    def _ask(self, statement: str, address: int, why_wrong: Callable[[bytes], str | None]) -> bytes:
        """The engine's answer, if it is right; that of an earlier process, if it is kept."""
        key = (self.machine, statement, address)
        kept = _answers if self.engine is KEYSTONE else None
        code = kept.get(key) if kept is not None else None
        if code is None:
            code = self.engine.encode(self.architecture.engines, statement, address)
            if reason := why_wrong(code):
                raise Refused(reason)
            if kept is not None:
                kept[key] = code
        return code


_Answers = dict[tuple[str, str, int], bytes]  # by the engine's settings, the statement and its address
_answers: _Answers | None = None  # of Keystone, those that have been checked; None while none are kept
_MOST_ANSWERS = 50_000  # in a file: the examples have some thousands


@contextmanager
def answers_kept() -> Iterator[None]:
    """Meanwhile Keystone is not asked again what it was asked by another process; what is new is kept for the next."""
    global _answers
    file = kept_file("encodings", _engine_content())
    if file is None:
        yield
        return
    before = _answers
    _answers = read_table(file)
    known = len(_answers)
    try:
        yield
    finally:
        made, _answers = _answers, before
        if len(made) > known:
            # Too many are those of many sources: what is kept begins anew with those of this one.
            new = dict(list(made.items())[known:]) if len(made) > _MOST_ANSWERS else made
            write_table(file, new if len(new) <= _MOST_ANSWERS else {})


def _engine_content() -> str:
    """What answers follow from, besides the question: this code, and the engines as they are installed. Those are known
    by their files' sizes and times: to import them takes longer than to use what is kept."""
    here = Path(__file__).parent
    parts = [here.joinpath(f"{name}.py").read_text("utf-8") for name in ("assemble", "disassemble", "statement")]
    for engine in ("keystone", "capstone"):
        spec = find_spec(engine)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            for path in sorted(path for path in Path(folder).rglob("*") if "__pycache__" not in path.parts):
                status = path.stat()
                parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(parts)


def assemble(architecture: Architecture, code: Sequence[Insn], engine: Engine | None = None) -> Assembled:
    """The bytes of a function. Raises `AssemblyError`."""
    encoder = _encoder(architecture, engine or KEYSTONE)
    labels: dict[str, int] = {}
    branches: list[tuple[int, Insn, str]] = []
    pieces: list[bytes] = []
    fields: list[tuple[int, Relocation]] = []
    shortest = bytes(2 if architecture.engines.keystone_arch == "KS_ARCH_X86" else 4)
    kept = encoder.kept
    for index, insn in enumerate(code):
        if insn.label is not None:
            if insn.label in labels:
                raise AssemblyError(index, insn.label, "the label is defined twice")
            labels[insn.label] = index
            pieces.append(b"")
            continue
        if insn.relocation is None and not insn.user_text:
            if insn.target is not None:
                branches.append((index, insn, insn.target))
                pieces.append(shortest)
                continue
            known = kept.get(insn.keystone or insn.text)
            if known.__class__ is bytes:
                pieces.append(known)
                continue
        try:
            pieces.append(encoder.alone(insn))
        except Refused as refused:
            raise AssemblyError(index, insn.text, str(refused)) from None
        if insn.relocation is not None:
            fields.append((index, insn.relocation))
    for index, insn, label in branches:
        if label not in labels:
            raise AssemblyError(index, insn.text, f"nothing is labelled {label}")
    offsets = _settle(encoder, pieces, branches, labels)
    relocations = tuple(
        Relocation(field.type, field.symbol, field.addend, offsets[index] + field.offset) for index, field in fields
    )
    return Assembled(b"".join(pieces), tuple(offsets), relocations)


def _settle(
    encoder: _Encoder,
    pieces: list[bytes],
    branches: Sequence[tuple[int, Insn, str]],
    labels: dict[str, int],
) -> list[int]:
    """Fill in the branches and return the offsets of all pieces.

    Every branch starts at its shortest and grows when its target does not come near enough, as in GNU as, until
    nothing grows: distances only become longer, so this ends, and with the same choice.
    """
    while True:
        offsets = _offsets(pieces)
        settled = True
        for index, insn, label in branches:
            try:
                piece = encoder.branch(insn, label, offsets[labels[label]] - offsets[index])
            except Refused as refused:
                raise AssemblyError(index, insn.text, str(refused)) from None
            settled &= len(piece) == len(pieces[index])
            pieces[index] = piece
        if settled:
            return offsets


def _offsets(pieces: Sequence[bytes]) -> list[int]:
    return [0, *accumulate(map(len, pieces))][: len(pieces)]


def _checked(statement: str, architecture: Architecture) -> str:
    if not statement[:1].isalpha():
        # Keystone never ends on a statement that begins with most other characters, and `.text` crashes it.
        raise Refused("does not start with the name of an instruction, nor is it data")
    if "\n" in statement or ";" in statement:
        raise Refused("is more than one statement")
    return hexadecimal(statement, architecture)


def _why_not_one(architecture: Architecture, code: bytes) -> str | None:
    """Why these bytes are not exactly one instruction, if so."""
    match architecture.engines.keystone_arch:
        case "KS_ARCH_X86":
            found = disassemble(architecture, code, 0)
            one = len(found) == 1 and not found[0].text.startswith(".")
        case "KS_ARCH_SYSTEMZ":
            one = len(code) == s390x_length(code[0])
        case _:
            one = len(code) == 4
    return None if one else f"is not one instruction: Keystone gives {code.hex()}"


def _with_field(architecture: Architecture, code: bytes, relocation: Relocation) -> bytes:
    """The instruction as an object file has it: the field is clear, or holds the addend where the format is REL."""
    fixup = architecture.fixups.get(relocation.type)
    if fixup is None:
        raise Refused(f"{architecture.name} has no relocation type {relocation.type}")
    if not 0 <= relocation.offset <= len(code) - fixup.size:
        raise Refused(f"the field of {relocation.type} at +{relocation.offset} lies outside of {len(code)} bytes")
    result = bytearray(code)
    write_field(result, relocation.offset, fixup, architecture.order, in_place_value(relocation, fixup))
    return bytes(result)


def _branch_base(architecture: Architecture) -> int:
    """The address at which Keystone encodes numeric targets right, on both sides of it.

    mips and s390x take the target for the distance; ppc64 reads `bne -0x20` as `bne- 0x20`, and arm knows no
    negative target at all.
    """
    return 0 if architecture.engines.keystone_arch in ("KS_ARCH_MIPS", "KS_ARCH_SYSTEMZ") else 0x10000000


_WORD = re.compile(r"[\w.$]+")
_NUMBER = re.compile(r"(-?)(?<![\w.$%])(0x[0-9a-f]+|[0-9]+)$")


def _destination(text: str, base: int) -> int:
    match = _NUMBER.search(text)
    # Capstone leaves the operand out where a ppc64 branch goes to itself.
    return int(match[2], 0) * (-1 if match[1] else 1) if match else base


def _bytes(outcome: Outcome) -> bytes:
    if isinstance(outcome, bytes):
        return outcome
    raise Refused(*outcome.args)


KEYSTONE = Keystone()
_CONFINED = Confined()
# By identity: variants of a machine share its name but neither fixups nor registers. An encoder holds on to both of
# its keys, so that no other object gets their identity.
_encoders: dict[tuple[int, int], _Encoder] = {}


def _encoder(architecture: Architecture, engine: Engine) -> _Encoder:
    key = (id(architecture), id(engine))
    if key not in _encoders:
        _encoders[key] = _Encoder(architecture, engine, _CONFINED)
    return _encoders[key]
