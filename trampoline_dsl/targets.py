"""Finds the targets: every module of `arches` offers some. Only here are architectures named, by their module."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from .diagnostics import Diagnostic, InputError, suggestion
from .target import Target

# The order in which people expect to read them.
FIRST_RANK = (
    "linux/386",
    "linux/amd64",
    "linux/arm",
    "linux/arm64",
    "linux/mips",
    "linux/mipsle",
    "linux/mips64",
    "linux/mips64le",
    "linux/ppc64",
    "linux/ppc64le",
    "linux/s390x",
    "windows/386",
    "windows/amd64",
    "windows/arm",
    "windows/arm64",
)


@lru_cache(maxsize=1)
def all_targets() -> dict[str, Target]:
    """Every target by name: the first rank in its order, then the variants."""
    package = importlib.import_module("trampoline_dsl.arches")
    found: dict[str, Target] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg):
        if module.startswith("_"):
            continue
        for target in getattr(importlib.import_module(f"trampoline_dsl.arches.{module}"), "TARGETS", ()):
            found[target.name] = target
    rank = {name: index for index, name in enumerate(FIRST_RANK)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def default_targets() -> tuple[Target, ...]:
    """What a command works on when no target is named: all but the variants."""
    return tuple(t for t in all_targets().values() if not t.variant)


def find_target(name: str) -> Target:
    """The target called `name`. Raises InputError with the nearest name."""
    targets = all_targets()
    if name in targets:
        return targets[name]
    alone = [t for t in targets.values() if t.name.partition("/")[2] == name]
    if alone:
        return alone[0]  # Linux, where there are several
    notes = (*suggestion(name, targets), "`trampoline targets` lists them")
    raise InputError([Diagnostic("T001", f"there is no target `{name}`", None, notes=notes, file="--target")])
