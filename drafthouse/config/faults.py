"""What is wrong with a file that a person wrote, one line for each key, with what to write instead.

Promises: a line begins with the key's path. No line repeats a value, since a key of the API may stand in the wrong
place; the one exception are values of a closed list.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Section = type[BaseModel]


def describe(error: ValidationError, file: Section | None = None) -> list[str]:
    """One line for each fault. `file` is the model of the whole file: with it, unknown keys are answered with known ones."""
    faults = error.errors(include_url=False)
    lines: list[str] = []
    for fault in faults:
        if fault["type"] == "too_short" and any(_inside(other["loc"], fault["loc"]) for other in faults):
            continue  # the list is too short only because the entry that another line is about does not count
        key = ".".join(str(part) for part in fault["loc"])
        lines += [f"{key}: {line}" if key else line for line in _said(fault, file).splitlines()]
    return lines


def refuse(faults: Mapping[str, bool]) -> None:
    """For validators: raises ValueError with every message whose condition holds, a line each."""
    if lines := [message for message, holds in faults.items() if holds]:
        raise ValueError("\n".join(lines))


def _inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _said(fault: Any, file: Section | None) -> str:
    place, message = fault["loc"], str(fault["msg"])
    match fault["type"]:
        case "extra_forbidden":
            return _unknown(place, file)
        case "value_error":
            return message.removeprefix("Value error, ")
        case "literal_error":
            message = f"must be one of {fault['ctx']['expected']}, not {fault['input']!r}"
        case "model_type" | "model_attributes_type" | "dict_type" if (section := _section_at(file, place)) is not None:
            message = f"must be a section of keys: {', '.join(section.model_fields)}"
        case "tuple_type" | "list_type":
            message = "must be a list"
        case "missing":
            message = "is missing"
    meaning = _field_at(file, place)
    said = re.sub(r"^(Input|String|Tuple|List|Value) should ", "must ", message)
    return said + (f" ({meaning.description})" if meaning is not None and meaning.description else "")


def _unknown(place: tuple[int | str, ...], file: Section | None) -> str:
    section, key = _section_at(file, place[:-1]), str(place[-1])
    if file is None or section is None:
        return "no such key"
    if near := difflib.get_close_matches(key, section.model_fields):
        return f"no such key; did you mean {' or '.join(near)}?"
    if homes := [path for path, home in _sections(file, "") if key in home.model_fields]:
        return f"no such key here; it is a key of {', '.join(homes)}"
    return f"no such key; there are {', '.join(section.model_fields)}"


def _section_at(file: Section | None, place: tuple[int | str, ...]) -> Section | None:
    """The section that holds what stands at `place`; None where there is none. Places in a list are those of its entries' section."""
    section = file
    for part in place:
        if section is not None and isinstance(part, str):
            field = section.model_fields.get(part)
            section = _section_of(field.annotation) if field is not None else None
    return section


def _field_at(file: Section | None, place: tuple[int | str, ...]) -> FieldInfo | None:
    """The key at `place`, or whose list has an entry there."""
    names = [i for i, part in enumerate(place) if isinstance(part, str)]
    section = _section_at(file, place[: names[-1]]) if names else None
    return section.model_fields.get(str(place[names[-1]])) if section is not None else None


def _section_of(annotation: Any) -> Section | None:
    """The section in an annotation such as `tuple[Section, ...]` or `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part)) is not None), None)


def _sections(section: Section, path: str) -> Iterator[tuple[str, Section]]:
    """All sections below `section` with their paths, each kind once on a path: a stage may have one inside."""
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None and inner is not section:
            yield f"{path}{name}", inner
            yield from _sections(inner, f"{path}{name}.")
