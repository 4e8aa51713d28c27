"""Errors of a chat request name the fields of the body that it was made from.

An API whose bodies become chat requests keeps the names that its own clients know.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from drafthouse.errors import RequestError


class FieldNames:
    """`names`: from dotted paths in the chat request to paths in the client's body; what lies within a path goes along."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def own(self, path: str) -> str:
        """The client's name of a path in the chat request."""
        parts = path.split(".")
        for count in range(len(parts), 0, -1):
            found = self._names.get(".".join(parts[:count]))
            if found is not None:
                return ".".join([found, *parts[count:]])
        return path

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is raised within is raised under the client's own names."""
        try:
            yield
        except RequestError as error:
            if error.param is None:
                raise
            raise RequestError(self.said(str(error), error.param), self.own(error.param), error.code, error.status) from error

    def said(self, message: str, *params: str) -> str:
        """`message` under the client's own names. Names of several words stand for fields wherever they stand; one word may be a word,
        unless it is one of `params`, the fields at fault."""
        known = {*params, *(name for name in self._names if "_" in name)}
        if not known:
            return message
        pattern = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.])(?:{pattern})(?!\w)", lambda found: self.own(found[0]), message)
