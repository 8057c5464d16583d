"""Building against GNU as: a warm build against one process of it on the same text, and the cold command against all.

A warm build is everything from source text to bytes and assembly text, in a process that has built before: modules are
loaded and encodings are known, the file's text is new. Before each build its trampolines are edited: each gets another
slot in its frame and stores another number there, so that every pass has something new to do. (Those that switch
stacks have no slots, and get a variable.) One source is built for
all targets, and its parsing is shared among them. A file with two trampolines counts as two builds: half of the time
that it takes is set against GNU as on the text of one of them, with that of the tables that enter it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from pathlib import Path

from timing import BEGINNING, EXAMPLES, ROOT, assembler, examples, run, seconds, trampoline, verdict

from trampoline_dsl import assemble
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.emit import file_text
from trampoline_dsl.pipeline import Compiled, compile_source
from trampoline_dsl.target import Engines, Target
from trampoline_dsl.targets import default_targets

_edits = itertools.count()


class KeystoneClock:
    """Counts the time that goes by inside Keystone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._encode = assemble.KEYSTONE.encode

    def __enter__(self) -> KeystoneClock:
        assemble.KEYSTONE.encode = self._timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        assemble.KEYSTONE.encode = self._encode  # type: ignore[method-assign]

    def _timed(self, engines: Engines, statement: str, address: int) -> bytes:
        start = time.process_time()
        try:
            return self._encode(engines, statement, address)
        finally:
            self.seconds += time.process_time() - start


NUMBERS = 8  # that are stored in turn: Keystone has seen each of them, as it has most of what a person writes


def edited(source: Source) -> Source:
    """The source with an edit that no other one has, in each of its trampolines."""
    number = next(_edits)
    statements = f"\n    frame {{ edit{number}: uptr }}\n    edit{number} = {number % NUMBERS}"
    if "switch stack" in source.text:  # where a frame becomes another call's, it has no slots
        statements = f"\n    let edit{number}: uptr = {number % NUMBERS}"
    return Source(source.name, BEGINNING.sub(lambda match: match[0] + statements, source.text))


def build(source: Source, targets: list[Target]) -> dict[str, Compiled]:
    """A source that has just been edited, compiled by target: bytes and text are made too."""
    compiled = compile_source(edited(source), targets)
    for module in compiled.values():
        for artifact in module.own:
            len(artifact.code)
        len(module.text)
    return compiled


def forget() -> None:
    """Make the next build ask Keystone for every instruction again."""
    assemble._encoders.clear()


def warm(folder: Path, targets: list[Target]) -> float:
    """Prints a line for each example; returns what the texts of all cost GNU as, in seconds."""
    print("warm: one trampoline for one target, against one GNU as process (milliseconds)")
    print(f"{'':32} {'build':>7} {'as':>7} {'ratio':>6} {'Keystone':>9} {'unkept':>7} {'Keystone':>9}")
    total_build = total_as = all_as = 0.0

    def gnu_as(target: Target, text: str) -> float:
        file = folder / "in.s"
        file.write_text(text)
        command = [*target.architecture.gnu_as, "-o", folder / "out.o", file]
        return seconds(lambda: run(command), 4)

    for source in examples():
        for _ in range(NUMBERS):
            compiled = build(source, targets)
        share = sum(len(module.own) for module in compiled.values())
        with KeystoneClock() as clock:
            ours = seconds(lambda source=source: build(source, targets), 6) / share  # type: ignore[misc]
        kept = clock.seconds
        with KeystoneClock() as clock:
            forget()
            first = seconds(lambda source=source: build(source, targets), 1) / share  # type: ignore[misc]
        theirs = 0.0
        for target in targets:
            module = compiled[target.name]
            if not module.own:
                continue  # it is for other targets
            own = []
            for one in module.own:
                tables = [table.text for table in module.own_tables if table.function is one.function]
                own.append(gnu_as(target, file_text([one.text, *tables], target, source.name, {})))
            theirs += sum(own)
            all_as += own[0] if len(own) == 1 else gnu_as(target, module.text)
        theirs /= share
        total_build += ours
        total_as += theirs
        name = str(Path(source.name).relative_to(ROOT))
        print(
            f"{name:32} {ours * 1e3:7.2f} {theirs * 1e3:7.2f} {ours / theirs:6.2f} {kept / (6 * share * ours):8.0%} "
            f"{first * 1e3:7.2f} {clock.seconds / (share * first):8.0%}"
        )
    print("(unkept: as the first build in a process, when Keystone encodes every instruction)")
    verdict("warm build / GNU as", total_build / total_as, 0.25)
    return all_as


def cold(folder: Path, all_as: float) -> None:
    """The command builds for all targets, GNU as or not."""
    command = [*trampoline("build", *EXAMPLES, "-o", folder / "out")]
    run(command)
    ours = seconds(lambda: run(command), 4)
    print(f"\ncold: examples/c and examples/go, all targets: {ours:.2f} s; GNU as on its files: {all_as:.2f} s")
    verdict("cold command / GNU as", ours / all_as, 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = [t for t in default_targets() if assembler(t) is not None]
        if not targets:
            return
        all_as = warm(folder, targets)
        if all(shutil.which(t.architecture.gnu_as[0]) for t in default_targets()):
            cold(folder, all_as)


if __name__ == "__main__":
    main()
