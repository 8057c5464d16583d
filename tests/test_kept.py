"""Files kept from one process to the next save time, and decide nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trampoline_dsl.kept import kept_file

PROGRAM = """
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.parse import parse
print(parse(Source("a", "trampoline nothing() using c { return }")))
"""


def parsed_by_a_new_process(cache: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return run.stdout


def test_the_parser_is_the_same_whatever_is_kept(tmp_path: Path) -> None:
    first = parsed_by_a_new_process(tmp_path)
    [kept] = (tmp_path / "trampoline").iterdir()
    assert parsed_by_a_new_process(tmp_path) == first
    half = kept.read_bytes()[: kept.stat().st_size // 2]
    kept.write_bytes(half)
    assert parsed_by_a_new_process(tmp_path) == first
    assert len(kept.read_bytes()) > len(half), "what was spoilt is made anew"


def test_another_grammar_is_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_file("grammar", "one") == kept_file("grammar", "one") != kept_file("grammar", "two")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="file modes are Unix's")
def test_nothing_is_kept_where_others_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "trampoline"
    folder.mkdir()
    folder.chmod(0o777)
    assert kept_file("grammar", "one") is None
    folder.chmod(0o700)
    assert kept_file("grammar", "one") is not None
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert kept_file("grammar", "one") is None


def test_nothing_is_kept_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_file("grammar", "one") is None
