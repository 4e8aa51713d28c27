"""How dataclasses that travel as arguments and answers of actor calls are pickled: by the names of their fields.

During a rolling upgrade two versions of a class meet. By position, as pickle takes a dataclass with slots, one field more or less would
shift all that follow.

- A field is added with a default: it stands for what an older version does not send.
- A field may go if it had a default, which older versions then take.
- A class keeps its name and its module, and this module keeps `restored`: pickles name them.

Promises: a field that this version does not know is left aside, also where its value is of a class that is not known here. One that is
missing and has no default, or whose value is of such a class, raises WireError naming the class and the field.
"""

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from drafthouse.errors import WireError

Form = tuple[str, str, tuple[str, ...]]
"""Module, class and fields of an instance, in the order of its values. One object for each class, so that a pickle holds it once."""


class NamedFields:
    """Base of the dataclasses that travel so, with slots or without."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        kind: Any = type(self)
        form = _form_of(kind)
        return restored, (form, tuple([getattr(self, name) for name in form[2]]))


@dataclass(frozen=True, slots=True)
class UnknownClass:
    """Stands for an instance of a class that only the sender has."""

    name: str


def restored(form: Form, values: tuple[Any, ...]) -> Any:
    """The instance of this version's class, or an UnknownClass. Raises WireError."""
    module, name, sent = form
    kind = _kind(module, name)
    if kind is None:
        return UnknownClass(f"{module}.{name}")
    known, needed = _known(kind)
    given = {field: value for field, value in zip(sent, values, strict=True) if field in known}
    for field, value in given.items():
        if (unknown := _unknown_in(value)) is not None:
            raise WireError(f"{name}.{field} is a {unknown.name}, which this version does not have: upgrade this side first")
    missing = needed - given.keys()
    if missing:
        raise WireError(f"{name}.{min(missing)} is missing, and has no default: the other side is of a version without it")
    return kind(**given)


def _unknown_in(value: object) -> UnknownClass | None:
    """The first one in a value and in its containers."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, tuple | list | set | frozenset):
        return next((found for each in value if (found := _unknown_in(each)) is not None), None)
    return value if isinstance(value, UnknownClass) else None


@cache
def _form_of(kind: type[Any]) -> Form:
    return kind.__module__, kind.__qualname__, tuple(field.name for field in fields(kind))


def _kind(module: str, name: str) -> Any:
    """The class, or None where there is none here."""
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return kind if isinstance(kind, type) and issubclass(kind, NamedFields) else None


@cache
def _known(kind: type[Any]) -> tuple[frozenset[str], frozenset[str]]:
    """The fields of a class, and those without a default."""
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    return frozenset(field.name for field in fields(kind)), frozenset(needed)
