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
        self._held = ""

    def feed(self, text: str) -> tuple[str, str, str]:
        """(text that is certain, white space and marker, what follows); no marker: the rest is held."""
        text, self._held = self._held + text, ""
        at, marker = min(((at, marker) for marker in self._markers if (at := text.find(marker)) >= 0), default=(-1, ""))
        end = at if marker else len(text) - begun_at_end(text, self._markers)
        certain = text[:end].rstrip()
        if marker:
            return certain, text[len(certain) : at + len(marker)], text[at + len(marker) :]
        self._held = text[len(certain) :]
        return certain, "", ""

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


class Expected:
    """The beginning of a text where, after white space, one of `markers` may stand."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._held = ""

    def feed(self, text: str) -> tuple[str, str, str] | None:
        """(white space, marker, what follows); ("", "", all of it) without a marker. None: it is not certain yet."""
        text, self._held = self._held + text, ""
        bare = text.lstrip()
        found = next((marker for marker in self._markers if bare.startswith(marker)), "")
        if found:
            return text[: len(text) - len(bare)], found, bare[len(found) :]
        if not bare or any(marker.startswith(bare) for marker in self._markers):
            self._held = text
            return None
        return "", "", text

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held
