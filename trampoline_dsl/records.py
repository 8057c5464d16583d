"""Frozen records that are made quickly, and whose classes are.

The standard library's `dataclass` fills a frozen record through `object.__setattr__`, which makes records a large part
of what a build costs. Here each record has a twin that is not frozen and has the same slots: a new object is filled as
a twin, and then given the record's class. And the library writes and compiles five functions for each class, which for
a hundred classes takes longer than to build a trampoline for all machines: here they share what they can, and
`__new__` is written when the first record is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Generic, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)
_Record = TypeVar("_Record")
_Value = TypeVar("_Value")
_MISSING = dataclasses.MISSING


@dataclass_transform(field_specifiers=(dataclasses.field,))
def dataclass(
    *, frozen: bool = False, slots: bool = False, eq: bool = True, repr: bool = True
) -> Callable[[_Class], _Class]:
    """As the standard library's; quicker where a record is frozen and has slots. Such a record inherits no fields."""

    def make(cls: _Class) -> _Class:
        if frozen and slots:
            made: _Class = _record(cls, eq)
            return made
        decorate: Callable[[_Class], _Class] = dataclasses.dataclass(  # type: ignore[assignment]
            frozen=frozen, slots=slots, eq=eq, repr=repr
        )
        return decorate(cls)

    return make


def replace(record: _Record, **changes: object) -> _Record:
    """As the standard library's; quicker, and for frozen records with slots alone."""
    cls: Any = type(record)
    values = attrgetter(*cls.__slots__)(record)
    made: _Record = cls(**dict(zip(cls.__slots__, values, strict=True)) | changes)
    return made


class cached_property(Generic[_Value]):
    """As the standard library's from Python 3.12 on: before, it takes a lock for each value that it makes."""

    def __init__(self, make: Callable[[Any], _Value]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[_Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...

    def __get__(self, instance: Any, owner: type) -> cached_property[_Value] | _Value:
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.make(instance)
        return value


def unfilled(cls: type[Any]) -> Any:
    """For what copies records by the thousand: an object that has the fields of such a frozen record, and no values
    yet. Filled, it is given the class as its `__class__`. (A record of that class has been made before.)"""
    return object.__new__(cls.twin)


def _record(cls: Any, eq: bool) -> Any:
    contents = dict(cls.__dict__)
    fields: dict[str, Any] = {}
    for name, kind in contents.get("__annotations__", {}).items():
        given = contents.pop(name, _MISSING)
        field: Any = given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given)
        # What `fields` and `replace` of the standard library look at.
        field.name, field.type, field.kw_only = name, kind, False
        field._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
        fields[name] = field
    for name in ("__dict__", "__weakref__"):
        contents.pop(name, None)
    names = tuple(fields)
    contents |= {"__slots__": names, "__match_args__": names, "__dataclass_fields__": fields}
    contents |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete, "__reduce__": _reduce}
    contents.setdefault("__repr__", _repr)
    if eq:
        contents["__eq__"], contents["__hash__"] = _comparing([f.name for f in fields.values() if f.compare])
    contents["__new__"] = _first_new
    return type(cls)(cls.__name__, cls.__bases__, contents)


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), tuple(getattr(self, name) for name in self.__slots__)


def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in self.__dataclass_fields__.values() if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _comparing(names: list[str]) -> tuple[Callable[[Any, object], Any], Callable[[Any], int]]:
    values: Callable[[Any], object] = attrgetter(*names) if names else type

    def equal(self: Any, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    return equal, hashed


def _first_new(cls: Any, *values: object, **named: object) -> Any:
    """Makes the first record of a class, and what makes the others."""
    fields = cls.__dataclass_fields__.values()
    cls.twin = type(cls.__name__, (), {"__slots__": cls.__slots__})
    known: dict[str, object] = {"_new": object.__new__, "_Twin": cls.twin}
    parameters, lines = [], []
    for field in fields:
        parameter = value = field.name
        if field.default is not _MISSING:
            known[f"_{field.name}"] = field.default
            parameter = f"{field.name}=_{field.name}"
        elif field.default_factory is not _MISSING:
            known[f"_{field.name}"] = field.default_factory
            parameter = f"{field.name}=_new"
            value = f"_{field.name}() if {field.name} is _new else {field.name}"
        parameters.append(parameter)
        lines.append(f"    self.{field.name} = {value}")
    lines.append("    self.__class__ = cls")
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__post_init__()")
    body = "\n".join(lines)
    exec(f"def __new__(cls, {', '.join(parameters)}):\n    self = _new(_Twin)\n{body}\n    return self", known)
    cls.__new__ = known["__new__"]
    return cls.__new__(cls, *values, **named)
