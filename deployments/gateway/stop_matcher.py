"""Stop strings over text that arrives in chunks.

Promises: the output ends before the stop string that is complete first (of several complete at the
same character, the longest); it is the same for every chunking; what is held back is only the
longest suffix that could begin a stop string. Linear in the text: one Knuth-Morris-Pratt automaton
for each stop string.
"""

from collections.abc import Sequence


def prefix_function(pattern: str) -> list[int]:
    """`[i]`: length of the longest proper prefix of `pattern[: i + 1]` that is also its suffix."""
    borders = [0] * len(pattern)
    matched = 0
    for i in range(1, len(pattern)):
        while matched and pattern[i] != pattern[matched]:
            matched = borders[matched - 1]
        matched += pattern[i] == pattern[matched]
        borders[i] = matched
    return borders


class StopMatcher:
    """One text's search. Once `stopped`, by the stop string `found`, everything fed is past the end and ignored."""

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """`include`: the output ends with the stop string, not before it."""
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self.stopped, self.found, self._include = False, "", include
        self._patterns = [(stop, prefix_function(stop)) for stop in stops]
        self._matched = [0] * len(self._patterns)  # how much of each stop string the text's end has
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is certain to be output."""
        if self.stopped:
            return ""
        if not self._patterns:
            return text
        pending = self._held + text
        for i, char in enumerate(text, start=len(self._held)):
            complete = self._advance(char)
            if complete:
                self.stopped, self._held = True, ""
                self.found = pending[i + 1 - complete : i + 1]
                return pending[: i + 1 - (0 if self._include else complete)]
        certain = len(pending) - max(self._matched)
        self._held = pending[certain:]
        return pending[:certain]

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> int:
        """Length of the longest stop string that this character completes, 0 for none."""
        complete = 0
        for k, (stop, borders) in enumerate(self._patterns):
            matched = self._matched[k]
            while matched and stop[matched] != char:
                matched = borders[matched - 1]
            matched += stop[matched] == char
            self._matched[k] = matched
            if matched == len(stop):
                complete = max(complete, matched)
        return complete
