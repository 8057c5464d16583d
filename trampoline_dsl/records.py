"""Frozen records that are made quickly.

The standard library's `dataclass` fills a frozen record through `object.__setattr__`, which makes records a large part
of what a build costs. Here each record has a twin that is not frozen and has the same slots: a new object is filled as
a twin, and then given the record's class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(field_specifiers=(dataclasses.field,))
def dataclass(
    *, frozen: bool = False, slots: bool = False, eq: bool = True, repr: bool = True
) -> Callable[[_Class], _Class]:
    """As the standard library's; quicker where a record is frozen and has slots."""

    def make(cls: _Class) -> _Class:
        quick = frozen and slots
        decorate: Callable[[_Class], _Class] = dataclasses.dataclass(  # type: ignore[assignment]
            frozen=frozen, slots=slots, eq=eq, repr=repr, init=not quick
        )
        made = decorate(cls)
        if quick:
            _give_new(made)
        return made

    return make


def _give_new(cls: Any) -> None:
    """Give a record `__new__`, which does what `__init__` would."""
    fields = dataclasses.fields(cls)
    known: dict[str, object] = {
        "_new": object.__new__,
        "_Twin": type(cls.__name__, (), {"__slots__": tuple(field.name for field in fields)}),
    }
    parameters, lines = [], []
    for field in fields:
        parameter = value = field.name
        if field.default is not dataclasses.MISSING:
            known[f"_{field.name}"] = field.default
            parameter = f"{field.name}=_{field.name}"
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_{field.name}"] = field.default_factory
            parameter = f"{field.name}=_new"
            value = f"_{field.name}() if {field.name} is _new else {field.name}"
        parameters.append(parameter)
        lines.append(f"    self.{field.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__class__ = cls\n    self.__post_init__()")
    else:
        lines.append("    self.__class__ = cls")
    body = "\n".join(lines)
    exec(f"def __new__(cls, {', '.join(parameters)}):\n    self = _new(_Twin)\n{body}\n    return self", known)
    cls.__new__ = known["__new__"]
    # For copies and pickles, which would otherwise call `__new__` without the fields.
    cls.__getnewargs__ = lambda self: tuple(getattr(self, field.name) for field in fields)
