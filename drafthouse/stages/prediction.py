"""A predicted output: the text that the client expects, most of which comes as it stands there.

Promises: while the output agrees with the prediction, its next token is drafted. Where they part, as at an edit, the next tokens of all
places are drafted where the output may come back: behind as many tokens as came (one for another), at the same place (something put in),
and behind the places whose last tokens are those of the output. The longest agreement comes first, then the nearest place. Only tokens
since the two parted count: those before agreed at the place that was left as well, and in a text that repeats itself at many others, of
which those before the edit would meet it again.
The field is OpenAI's `prediction`, https://platform.openai.com/docs/guides/predicted-outputs.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from drafthouse.stages.match import children_of
from drafthouse.stages.stage import NOTHING, Children, SessionFacts, Stage

LONGEST = 32
"""An agreement longer than this says nothing more."""

PLACES = 16
"""Of one token in the prediction that are looked at: those nearest to where the output left it."""

BACK = 2
"""Tokens since the two parted that must agree at a place no later than the one that was left."""

AT_FIRST = 8
"""The output is taken to begin as the prediction does, as if so many tokens had agreed."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """`at`: the place in the prediction whose token is due, while `missed` is 0. Else the output has left it there `missed` tokens
    ago. `agreed` tokens before `at` were those of the output."""

    at: int = 0
    agreed: int = AT_FIRST
    missed: int = 0


class PredictionStage(Stage):
    def __init__(self, facts: SessionFacts):
        super().__init__(facts)
        self._predicted = facts.prediction
        self._places: defaultdict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(self._predicted):
            self._places[token].append(place)
        self._cursor = Cursor()
        self._output: list[int] | None = None  # none before the prompt

    def follow(self, tokens: Sequence[int]) -> None:
        if self._output is None:
            self._output = []
            return
        for token in tokens:
            self._cursor = self._after(self._cursor, self._output, token)
            self._output.append(token)
        del self._output[:-LONGEST]

    def children(self, path: Sequence[int], width: int) -> Children:
        cursor, output = self._cursor, list(self._output or ())
        for token in path:
            cursor = self._after(cursor, output, token)
            output.append(token)
        best: dict[int, int] = {}
        for place, length in self._due(cursor, output):
            best.setdefault(self._predicted[place], length)
        shares = [(token, length, 0.5**rank) for rank, (token, length) in enumerate(best.items())]  # of two alike the nearer leads
        return children_of(shares, width) if shares else NOTHING

    def _after(self, cursor: Cursor, output: Sequence[int], token: int) -> Cursor:
        """When `token` follows `output`."""
        for place, length in self._due(cursor, output):
            if self._predicted[place] == token:
                return Cursor(place + 1, min(length + 1, LONGEST))
        return replace(cursor, agreed=0, missed=cursor.missed + 1)

    def _due(self, cursor: Cursor, output: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Places whose token may come next, each with the tokens that agree before it; the likeliest first."""
        if cursor.missed == 0 and cursor.at < len(self._predicted):
            yield cursor.at, cursor.agreed
            return
        behind = cursor.at + cursor.missed
        near = [(place, 1) for place in (behind, cursor.at) if place < len(self._predicted)]
        found = [(place, self._evidence(cursor, output, place)) for place in self._met(output, behind)]
        yield from sorted([*near, *(due for due in found if due[1])], key=lambda due: (-due[1], abs(due[0] - behind), -due[0]))

    def _evidence(self, cursor: Cursor, output: Sequence[int], place: int) -> int:
        """Tokens that speak for a place. An output that is longer than the prediction has left none, and all that agree count."""
        length = self._agreement(output, place)
        if cursor.at >= len(self._predicted):
            return length
        since = min(length, cursor.missed)
        return since if place > cursor.at or since >= BACK else 0

    def _met(self, output: Sequence[int], behind: int) -> list[int]:
        """Places right behind the output's last token, the nearest ones."""
        places = self._places.get(output[-1], []) if output else []
        at = bisect_left(places, behind - 1)
        near = (place + 1 for place in places[max(0, at - PLACES - 1) : at + PLACES + 1])
        return sorted((p for p in near if p < len(self._predicted)), key=lambda p: abs(p - behind))[:PLACES]

    def _agreement(self, output: Sequence[int], place: int) -> int:
        """How many of the last tokens of `output` are those before `place`."""
        length, most = 0, min(len(output), place, LONGEST)
        while length < most and output[-1 - length] == self._predicted[place - 1 - length]:
            length += 1
        return length
