"""What `pip install` gives people is what lies in the checkout: built from a copy, installed and run elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "trampoline_dsl": "trampoline_dsl",
    "arches": "trampoline_dsl/arches",
    "arches/plan9": "trampoline_dsl/arches/plan9",
    "arches/baselines": "trampoline_dsl/arches/baselines",
    "arches/unwinding": "trampoline_dsl/arches/unwinding",
    "grammars": "trampoline_dsl/grammars",
}
PROGRAM = "extern f(x: u32) using go0\ntrampoline t(x: u32) using c { call f(x) return }\n"


def run(*command: str, cwd: Path, text: str = "", **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, input=text, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves its own files in the folder that it builds."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        if not (copy / name).exists():  # a folder inside of another one
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(copy), cwd=folder)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    folder = wheel.parent / "installed"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=wheel.parent)
    return folder


def test_the_wheel_has_every_module_and_the_grammar(wheel: Path) -> None:
    expected = {
        f"{inside}/{path.name}"
        for outside, inside in SOURCES.items()
        for path in (ROOT / outside).iterdir()
        if path.suffix in (".py", ".lark", ".typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_has_the_command_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "trampoline = trampoline_dsl.cli:main" in texts["entry_points.txt"]
    assert "LICENSE" in texts


def test_it_runs_where_it_is_installed(installed: Path) -> None:
    root = Path(installed.anchor)
    script = (
        "import trampoline_dsl, trampoline_dsl.targets as targets\n"
        "print(trampoline_dsl.__file__)\n"
        "print(*targets.all_targets())\n"
    )
    where, names = run(sys.executable, "-c", script, cwd=root, PYTHONPATH=str(installed)).splitlines()
    assert Path(where).is_relative_to(installed)
    assert "linux/s390x" in names.split()


def test_the_installed_compiler_compiles(installed: Path) -> None:
    command = (sys.executable, "-m", "trampoline_dsl", "build", "-", "--target", "linux/mips")
    text = run(*command, cwd=Path(installed.anchor), text=PROGRAM, PYTHONPATH=str(installed))
    assert ".size t, .-t" in text
