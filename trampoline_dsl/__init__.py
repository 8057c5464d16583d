"""Trampoline: one source for hand-written calling-convention glue, and a verdict by execution on each result.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import audit_file, audit_manifest, compile_file, compile_text, verify_file, verify_text
    from .diagnostics import Diagnostic, InputError
    from .load import CallError, Loaded, LoadedFile, LoadError, host_target
    from .pipeline import Artifact, Compiled
    from .target import Target
    from .targets import all_targets, default_targets, find_target
    from .verify import Report, Verdict
    from .violation import Violation

_HOMES = {
    "audit_file": "api",
    "audit_manifest": "api",
    "compile_file": "api",
    "compile_text": "api",
    "verify_file": "api",
    "verify_text": "api",
    "Diagnostic": "diagnostics",
    "InputError": "diagnostics",
    "Violation": "violation",
    "CallError": "load",
    "LoadError": "load",
    "Loaded": "load",
    "LoadedFile": "load",
    "host_target": "load",
    "Artifact": "pipeline",
    "Compiled": "pipeline",
    "Target": "target",
    "all_targets": "targets",
    "default_targets": "targets",
    "find_target": "targets",
    "Report": "verify",
    "Verdict": "verify",
}

__all__ = [
    "Artifact",
    "CallError",
    "Compiled",
    "Diagnostic",
    "InputError",
    "LoadError",
    "Loaded",
    "LoadedFile",
    "Report",
    "Target",
    "Verdict",
    "Violation",
    "all_targets",
    "audit_file",
    "audit_manifest",
    "compile_file",
    "compile_text",
    "default_targets",
    "find_target",
    "host_target",
    "verify_file",
    "verify_text",
]

# `arches` and `grammars` lie beside this package in a checkout and inside it once installed (pyproject.toml maps
# them). From a checkout without an install, look for them where they are.
_here = Path(__file__).resolve().parent
if not (_here / "arches").is_dir():
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
