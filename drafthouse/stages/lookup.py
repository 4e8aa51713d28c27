"""Prompt lookup: what followed the last tokens where they stood before in the session's own text.

Promises: of all places where the last token stood (at most PLACES, the latest), those count whose
tokens before agree longest; what followed there is proposed, several continuations as siblings. A text
that edits, quotes or repeats its prompt is drafted without a model (Saxena, 2023, "Prompt lookup decoding").
"""

from collections import defaultdict, deque
from collections.abc import Sequence

from drafthouse.stages.match import children_of
from drafthouse.stages.stage import NOTHING, Children, SessionFacts, Stage

PLACES = 32
"""Occurrences of one token that are looked at: the latest are the likeliest."""

LONGEST = 32
"""A match longer than this says nothing more."""


class LookupStage(Stage):
    def __init__(self, facts: SessionFacts):
        super().__init__(facts)
        self._tokens: list[int] = []
        self._after: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=PLACES))  # places behind each token

    def follow(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._tokens.append(token)
            self._after[token].append(len(self._tokens))

    def children(self, path: Sequence[int], width: int) -> Children:
        text, known = [*self._tokens[-LONGEST:], *path], self._tokens
        found: dict[int, tuple[int, int]] = {}
        for place in self._after.get(text[-1], ()) if text else ():
            if place < len(known):
                length = self._agreement(text, place)
                longest, count = found.get(known[place], (0, 0))
                found[known[place]] = max(longest, length), count + 1
        return children_of([(token, length, count) for token, (length, count) in found.items()], width) if found else NOTHING

    def _agreement(self, text: Sequence[int], place: int) -> int:
        """How many of the last tokens of `text` are those before `place`."""
        length, most = 0, min(len(text), place, LONGEST)
        while length < most and text[-1 - length] == self._tokens[place - 1 - length]:
            length += 1
        return length
