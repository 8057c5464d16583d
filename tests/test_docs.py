"""The documentation is executed: what it shows is what happens. `python tests/test_docs.py --update` renews it.

How a fenced block says what it is:

* `console`: lines that begin with `$ ` are run, the rest is their output. A line `...` stands for any lines.
  `trampoline` is run from a folder with `examples` and the named files in it, `make demo` as its recipe says,
  `python benchmarks/NAME.py` and GNU as as they are, and `echo $?` prints the last status.
* `tramp`: a whole file, compiled for every target. `tramp NAME.tramp` is also there for `console` blocks.
  `tramp fragment` is completed by the comment `<!-- complete ... -->` before it, in which `@@` stands for the fragment.
  `tramp wrong` does not compile; a `diagnostic` block behind it has what is said.
* `asm NAME.s`: a file that is there for `console` blocks.
* `python`: executed, one document's blocks after each other; with `>>>`, as a doctest.
* `text`, `sh`, `json`: shown only.
"""

from __future__ import annotations

import atexit
import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tools import need

from trampoline_dsl.diagnostics import InputError, Source
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import default_targets

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {"console", "tramp", "asm", "diagnostic", "python", "text", "sh", "json"}
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMPLETE = re.compile(r"<!-- complete\n(?P<text>(?:(?!-->).)*)-->\s*\Z", re.DOTALL)
EXAMPLE = "example.tramp"


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    words: tuple[str, ...]  # of the info string
    text: str
    before: str  # everything in the document before it
    start: int
    end: int  # of the text, in the document

    @property
    def kind(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def file(self) -> str | None:
        return next((word for word in self.words if word.endswith((".tramp", ".s"))), None)

    @property
    def source(self) -> str:
        """A fragment with what is left out around it."""
        if "fragment" not in self.words:
            return self.text
        around = COMPLETE.search(self.before)
        assert around is not None, f"{self}: no <!-- complete --> before this fragment"
        return around["text"].replace("@@", self.text)

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    return [
        Block(
            document,
            text.count("\n", 0, match.start()) + 1,
            tuple(match["info"].split()),
            match["text"],
            text[: match.start()].rstrip() + "\n",
            match.start("text"),
            match.end("text"),
        )
        for match in FENCE.finditer(text)
    ]


ALL = [block for document in DOCUMENTS for block in blocks(document)]


def of_kind(kind: str) -> list[Block]:
    return [block for block in ALL if block.kind == kind]


# ------------------------------------------------------------------------------------------------------ what happens


@cache
def folder(document: Path) -> Path:
    """Where a document's commands run: with the examples, and the files that the document names."""
    made = Path(tempfile.mkdtemp(prefix="trampoline-docs-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    (made / "examples").symlink_to(ROOT / "examples")
    for block in blocks(document):
        if block.file:
            (made / block.file).write_text(block.source, "utf-8")
    return made


def _recipe(target: str) -> str:
    """What `make TARGET` runs, with its own programs' folder left out."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found is not None, f"the Makefile has no target {target}"
    return found[1].strip().replace("$(BIN)/", "")


def run_commands(block: Block) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each command of a console block, its output as shown, and as it is."""
    status = 0
    for piece in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE):
        if not piece.strip():
            continue
        command, _, shown = piece.partition("\n")
        line = command.removeprefix("$ ").strip()
        if line == "echo $?":
            found = f"{status}\n"
        else:
            words = shlex.split(_recipe(line.removeprefix("make ")) if line.startswith("make ") else line)
            if words[0] == "trampoline":
                program = [sys.executable, "-m", "trampoline_dsl"]
            elif words[0].endswith("-linux-gnu-as"):
                program = [need(words[0])]
            else:
                assert words[0] == "python", f"{block}: {line}"
                assert words[1].startswith("benchmarks/"), f"{block}: {line}"
                program = [sys.executable, str(ROOT / words.pop(1))]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
            done = subprocess.run(
                [*program, *words[1:]],
                cwd=folder(block.document),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=120,
            )
            status, found = done.returncode, done.stdout.decode()
        yield command, _lines(shown), _lines(found)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def agrees(shown: Sequence[str], found: Sequence[str]) -> bool:
    """Whether the lines are the same where no `...` stands for some of them."""
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found)) is not None


def renewed(shown: Sequence[str], found: Sequence[str]) -> list[str]:
    """The output as it is, abridged as it was: as many lines before the first `...` and behind the last one; between
    two of them, as many from the line that began there."""
    if agrees(shown, found):
        return list(shown)
    marks = [index for index, line in enumerate(shown) if line.strip() == "..."]
    if not marks:
        return list(found)
    result = list(found[: marks[0]])
    for mark, following in zip(marks, [*marks[1:], len(shown)], strict=True):
        result.append(shown[mark])
        count = following - mark - 1
        if following == len(shown):
            result += found[len(found) - count :] if count else []
        elif count:
            start = found.index(shown[mark + 1]) if shown[mark + 1] in found else None
            assert start is not None, f"abridge this by hand, it has changed: {shown[mark + 1]}"
            result += found[start : start + count]
    return result


def diagnosed(source: str, name: str = EXAMPLE) -> str:
    """What is said of a file that is wrong."""
    here = Path.cwd()
    try:
        compiled = compile_source(Source(name, source), default_targets())
        for result in compiled.values():
            _ = [artifact.code for artifact in result.own]
    except InputError as error:
        return str(error) + "\n"
    finally:
        os.chdir(here)
    return ""


@dataclass
class Session:
    """The Python of one document: its blocks share their names."""

    names: dict[str, Any]

    def run(self, block: Block) -> list[tuple[doctest.Example, str]]:
        """The examples of a doctest block with what they print; of other code nothing."""
        if ">>>" not in block.text:
            exec(compile(block.text, str(block), "exec"), self.names)
            return []
        printed = []
        for example in doctest.DocTestParser().get_examples(block.text, str(block)):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                try:
                    exec(compile(example.source, str(block), "single"), self.names)
                except Exception as error:
                    print(f"Traceback (most recent call last):\n    ...\n{_named(error)}")
            printed.append((example, output.getvalue().expandtabs()))
        return printed


def _named(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}".removeprefix("builtins.")


def python_sessions() -> Iterator[tuple[Block, list[tuple[doctest.Example, str]]]]:
    here = Path.cwd()
    for document in DOCUMENTS:
        session = Session({"__name__": "documentation"})
        os.chdir(folder(document))
        try:
            for block in blocks(document):
                if block.kind == "python":
                    yield block, session.run(block)
        finally:
            os.chdir(here)


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.kind in KINDS


@pytest.mark.parametrize("block", of_kind("console"), ids=str)
def test_commands_print_what_is_shown(block: Block) -> None:
    for command, shown, found in run_commands(block):
        if not agrees(shown, found):
            assert shown == found, f"{block}: {command}"


@pytest.mark.parametrize("block", [b for b in of_kind("tramp") if "wrong" not in b.words], ids=str)
def test_programs_compile_for_every_target(block: Block) -> None:
    assert diagnosed(block.source, str(folder(block.document) / EXAMPLE)) == ""


@pytest.mark.parametrize("block", of_kind("diagnostic"), ids=str)
def test_wrong_programs_are_told_so(block: Block) -> None:
    [wrong] = [b for b in blocks(block.document) if b.end < block.start][-1:]
    assert "wrong" in wrong.words
    assert diagnosed(wrong.source) == block.text


@pytest.mark.parametrize("block", [b for b in of_kind("tramp") if "wrong" in b.words], ids=str)
def test_programs_called_wrong_are_wrong(block: Block) -> None:
    assert diagnosed(block.source)


def test_python_does_what_is_shown() -> None:
    checker = doctest.OutputChecker()
    for block, printed in python_sessions():
        for example, found in printed:
            want = (
                example.want
                if example.exc_msg is None
                else f"Traceback (most recent call last):\n    ...\n{example.exc_msg}"
            )
            assert checker.check_output(want, found, doctest.ELLIPSIS), f"{block}: {example.source}{found}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in link:
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_language_reference_has_every_word_of_the_grammar() -> None:
    grammar = (ROOT / "grammars" / "trampoline.lark").read_text("utf-8")
    words = set(re.findall(r'"([a-z]+)"', re.sub(r"//[^\n]*", "", grammar)))
    reference = (ROOT / "docs" / "language.md").read_text("utf-8")
    code = " ".join(match["text"] for match in FENCE.finditer(reference))
    missing = sorted(word for word in words if not re.search(rf"\b{word}\b", code))
    assert not missing


# -------------------------------------------------------------------------------------------------------------- update


def _console_text(block: Block) -> str:
    lines = []
    for command, shown, found in run_commands(block):
        lines += [command, *renewed(shown, found)]
    return "\n".join(lines) + "\n"


def _python_text(block: Block, printed: Sequence[tuple[doctest.Example, str]]) -> str:
    """A doctest block with its outputs renewed; abridged ones are left alone as long as they agree."""
    checker = doctest.OutputChecker()
    text = block.text
    for example, found in printed:
        if example.exc_msg is None and not checker.check_output(example.want, found, doctest.ELLIPSIS):
            source = "".join(
                f"{'>>> ' if i == 0 else '... '}{line}\n" for i, line in enumerate(example.source.splitlines())
            )
            text = text.replace(source + example.want, source + found, 1)
    return text


def update() -> None:
    """Write what happens into the documents."""
    sessions = dict(python_sessions())
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        found = blocks(document)
        for index, block in reversed(list(enumerate(found))):
            new = block.text
            if block.kind == "console":
                new = _console_text(block)
            elif block.kind == "diagnostic":
                new = diagnosed(found[index - 1].source)
            elif block.kind == "python":
                new = _python_text(block, sessions[block])
            if new != block.text:
                print(f"{block}: renewed")
            text = text[: block.start] + new + text[block.end :]
        document.write_text(text, "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: python tests/test_docs.py --update")
    update()
