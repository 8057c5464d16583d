"""Trampoline: one source for hand-written calling-convention glue, and a verdict by execution on each result."""

from __future__ import annotations

from pathlib import Path

# `arches` and `grammars` lie beside this package in a checkout and inside it once installed (pyproject.toml maps
# them). From a checkout without an install, look for them where they are.
_here = Path(__file__).resolve().parent
if not (_here / "arches").is_dir():
    __path__.append(str(_here.parent))
