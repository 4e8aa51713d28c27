"""Text in a terminal, each token in the colour of what drafted it.

Promises: the text is written to the letter, whatever traces say or lack; without colours on standard output (a pipe, NO_COLOR) it is the
text alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

COLOURS = {
    "model": Style(color="green"), "lookup": Style(color="cyan"), "suffix": Style(color="blue"), "trigram": Style(color="magenta"),
    "prediction": Style(color="yellow"), "forced": Style(color="red"), "own": Style(color="bright_magenta"),
}  # fmt: skip
"""By source. What the target chose itself, and what no trace tells of, looks as all text does."""

NAMES = {"model": "draft model", "forced": "forced by a grammar", "own": "own stage"}
"""What the legend calls a source whose own name does not say it."""

PLAIN = Style()


class DraftColours:
    """Of one answer after another."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new answer."""
        self._known = ""  # text of traced tokens that has not been written
        self._sources: list[str] = []  # of each of its characters

    def learn(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Takes the traced steps of text that is still to be written."""
        for step in steps:
            for token in step["tokens"]:
                self._known += token["text"]
                self._sources += [token["source"]] * len(token["text"])

    def coloured(self, text: str) -> str:
        """The next text, with the terminal's signs for colours."""
        return "".join(painted(piece, style) for piece, style in self._pieces(text))

    def _pieces(self, text: str) -> Iterator[tuple[str, Style]]:
        """Runs of one colour. Tokens of tags, thoughts and calls are traced, too, and no part of what is written: they are passed over."""
        at = self._known.find(text)
        if at < 0:
            yield text, PLAIN
            return
        sources = self._sources[at : at + len(text)]
        self._known, self._sources = self._known[at + len(text) :], self._sources[at + len(text) :]
        first = 0
        for i in range(1, len(text) + 1):
            if i == len(text) or sources[i] != sources[first]:
                yield text[first:i], COLOURS.get(sources[first], PLAIN)
                first = i


def painted(text: str, style: Style) -> str:
    return style.render(text, color_system=ColorSystem.STANDARD)


def legend() -> str:
    return "drafted by " + ", ".join(painted(NAMES.get(source, source), style) for source, style in COLOURS.items()) + "; target"


def draft_colours() -> DraftColours | None:
    """None where standard output shows no colours."""
    console = Console()
    return DraftColours() if console.is_terminal and not console.no_color and console.color_system is not None else None
