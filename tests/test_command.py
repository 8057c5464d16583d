"""The command as a person sits before it: terminals that are narrow, files between options, Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_diagnostics import ROOT, run

import trampoline_dsl
from trampoline_dsl.cli import main

GOOD = "trampoline good(a: uptr) using c {\n    return\n}\n"
BAD = 'trampoline bad() using c {\n    asm 386 { "xor ebx, ebx" }\n    return\n}\n'
PATIENCE = 60  # seconds


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def on_terminal(columns: int, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with contextlib.chdir(folder), contextlib.redirect_stdout(terminal):
        main(arguments)
    return [line.rstrip() for line in re.sub(r"\033\[[0-9;]*m", "", terminal.getvalue()).splitlines()]


# --------------------------------------------------------------------------------------------------------------- tables


def test_no_name_is_cut_short_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.tramp").write_text(BAD)
    command = ["verify", "bad.tramp", "--target", "linux/386", "--target", "linux/mips64le"]
    wide = on_terminal(160, command, tmp_path, monkeypatch)
    assert wide[0].split()[:4] == ["trampoline", "target", "preserve", "sp"]
    assert on_terminal(80, command, tmp_path, monkeypatch)[:3] == [
        "trampoline  target          obligations         paths  runs",
        "bad         linux/386       9 held  ✗ preserve    1/1     8",
        "            linux/mips64le  10 held               1/1    16",
    ]
    narrowest = on_terminal(20, command, tmp_path, monkeypatch)
    assert narrowest[0].split() == ["trampoline", "target", "obligations", "paths", "runs"]
    assert "linux/mips64le" in " ".join(narrowest)


def test_the_same_of_mutants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    command = ["mutate", "good.tramp", "--target", "linux/386", "--worlds", "1"]
    wide = on_terminal(160, command, tmp_path, monkeypatch)[0].split()
    assert wide[:3] == ["trampoline", "target", "mutants"]
    assert wide[-2:] == ["equivalent", "survive"]
    narrow = on_terminal(40, command, tmp_path, monkeypatch)[0].split()
    assert narrow == ["trampoline", "target", "mutants", "killed", "equivalent", "survive"]


def test_a_long_name_is_printed_whole_where_there_is_no_terminal(tmp_path: Path) -> None:
    name = "a_name_" + "x" * 200
    (tmp_path / "long.tramp").write_text(GOOD.replace("good", name))
    _, out, _ = run(["verify", "long.tramp", "--target", "linux/386"], tmp_path)
    assert out.splitlines()[1].split()[:2] == [name, "linux/386"]


def test_trampolines_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.tramp").write_text(GOOD)
    (tmp_path / "other.tramp").write_text(GOOD.replace("good", "other"))
    for command in (["verify"], ["mutate", "--worlds", "1"]):
        _, out, _ = run([*command, "one/good.tramp", "two", "other.tramp", "--target", "linux/386"], tmp_path)
        lines = out.splitlines()
        assert [line[:10].rstrip() for line in lines[1:4]] == ["good [1]", "good [2]", "other"]
        assert [line for line in lines if line.startswith("[")] == ["[1] one/good.tramp", "[2] two/good.tramp"]


# --------------------------------------------------------------------------------------------------- the interpreter


def test_the_package_offers_its_names_and_no_others() -> None:
    assert dir(trampoline_dsl) == sorted(trampoline_dsl.__all__)


# ------------------------------------------------------------------------------------------------------------- options


def test_files_stand_before_behind_and_between_options(tmp_path: Path) -> None:
    (tmp_path / "good.tramp").write_text(GOOD)
    (tmp_path / "other.tramp").write_text(GOOD.replace("good", "other"))
    status, out, _ = run(["build", "good.tramp", "--target", "linux/386", "other.tramp", "-o", "out"], tmp_path)
    assert status == 0
    assert out.splitlines() == ["out/good_linux_386.s", "out/other_linux_386.s"]
    status, _, err = run(["show", "good.tramp", "--target", "linux/386", "other.tramp"], tmp_path)
    assert status == 2
    assert "unrecognized arguments: other.tramp\n  = usage: trampoline show " in err


# -------------------------------------------------------------------------------------------------------------- Ctrl-C


def alive(group: int) -> bool:
    """Whether any process of a group is there that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                return True
    return False


@pytest.mark.parametrize(
    ("number", "whom", "status"),
    [(signal.SIGINT, os.killpg, 130), (signal.SIGINT, os.kill, 130), (signal.SIGKILL, os.kill, -9)],
    ids=["Ctrl-C", "interrupted", "killed"],
)
def test_a_long_run_ends_when_it_is_told_to(number: int, whom: object, status: int) -> None:
    command = [sys.executable, "-m", "trampoline_dsl", "mutate", str(ROOT / "examples" / "go"), "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    begun = time.monotonic()
    while len(children.read_text().split()) < 2:
        assert time.monotonic() < begun + PATIENCE
        time.sleep(0.05)
    time.sleep(0.5)  # into the midst of it
    told = time.monotonic()
    assert callable(whom)
    whom(process.pid, number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert err == b""
    while alive(process.pid):
        assert time.monotonic() < told + 10  # the whole takes two minutes
        time.sleep(0.05)
