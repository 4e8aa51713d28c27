"""Errors of a chat request name the fields of the body that it was made from.

An API whose bodies become chat requests keeps the names that its own clients know.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager

from drafthouse.errors import RequestError

MAX_PARTS = 32
"""Of a path that are looked up: more than any field of ours has, and few for a message that repeats what a client sent."""

PATH = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*")


class FieldNames:
    """`names`: from dotted paths in the chat request to paths in the client's body; what lies within a path goes along."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def own(self, path: str) -> str:
        """The client's name of a path in the chat request."""
        return self._replaced(path, beginnings(path))

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is raised within is raised under the client's own names."""
        try:
            yield
        except RequestError as error:
            params = [] if error.param is None else [error.param]
            own = next(map(self.own, params), None)
            raise RequestError(self.said(str(error), *params), own, error.code, error.status) from error

    def said(self, message: str, *params: str) -> str:
        """`message` under the client's own names. Names of several words stand for fields wherever they stand; one word may be a word,
        unless it is one of `params`, the fields at fault."""
        faults = {found[0] for param in params if (found := PATH.match(param))}
        return PATH.sub(lambda found: self._said(found[0], faults), message)

    def _said(self, path: str, faults: Set[str]) -> str:
        begins = beginnings(path)
        if faults.isdisjoint(begins):
            begins = [begin for begin in begins if "_" in begin]
        return self._replaced(path, begins)

    def _replaced(self, path: str, begins: Iterable[str]) -> str:
        """With the first of its beginnings that has a name of the client's own under that name."""
        found = next((begin for begin in begins if begin in self._names), None)
        return path if found is None else self._names[found] + path[len(found) :]


def beginnings(path: str) -> list[str]:
    """The longest first."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(min(len(parts), MAX_PARTS), 0, -1)]
