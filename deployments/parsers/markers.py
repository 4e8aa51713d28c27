"""Literal markers in a text that comes in pieces: how much of it is certainly none."""

from collections.abc import Sequence


def begun_at_end(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` with which one of `markers` begins; a whole marker does not count."""
    most = min(len(text), max(map(len, markers), default=1) - 1)
    return next((size for size in range(most, 0, -1) if any(len(m) > size and m.startswith(text[-size:]) for m in markers)), 0)


class MarkedText:
    """Text up to a marker. White space that may stand before one is held back with what may become one."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._space = list[str]()  # in pieces: a model may write nothing else for a whole text
        self._begun = ""

    def feed(self, text: str) -> tuple[str, str, str]:
        """(text that is certain, white space and marker, what follows); no marker: the rest is held."""
        text, self._begun = self._begun + text, ""
        at, marker = min(((at, marker) for marker in self._markers if (at := text.find(marker)) >= 0), default=(-1, ""))
        end = at if marker else len(text) - begun_at_end(text, self._markers)
        certain = text[:end].rstrip()
        space = text[len(certain) : end]
        if certain:
            certain = "".join(self._space) + certain
            self._space = []
        self._space.append(space)
        if marker:
            lead, self._space = "".join(self._space) + marker, []
            return certain, lead, text[at + len(marker) :]
        self._begun = text[end:]
        return certain, "", ""

    def flush(self) -> str:
        held, self._space, self._begun = "".join(self._space) + self._begun, [], ""
        return held


class Expected:
    """The beginning of a text where, after white space, one of `markers` may stand."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._space = list[str]()  # in pieces, as above
        self._begun = ""

    def feed(self, text: str) -> tuple[str, str, str] | None:
        """(white space, marker, what follows); ("", "", all of it) without a marker. None: it is not certain yet."""
        bare = self._begun + text if self._begun else text.lstrip()
        self._space.append("" if self._begun else text[: len(text) - len(bare)])
        found = next((marker for marker in self._markers if bare.startswith(marker)), "")
        if not found and (not bare or any(marker.startswith(bare) for marker in self._markers)):
            self._begun = bare
            return None
        space, self._space, self._begun = "".join(self._space), [], ""
        return (space, found, bare[len(found) :]) if found else ("", "", space + bare)

    def flush(self) -> str:
        held, self._space, self._begun = "".join(self._space) + self._begun, [], ""
        return held
