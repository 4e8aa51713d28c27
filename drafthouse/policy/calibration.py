"""Edges that keep their word: a child's chance of acceptance, learned from what the target committed.

What is learned is the hazard of each rank: the probability that a child is accepted given that its
parent was and no sibling above it. Two reasons for this parametrisation: siblings' edges sum to at
most 1 whatever the counts are, and the likelihood of a committed token falls apart into one
independent coin for each rank down to the hit, so counting hits and misses is maximum likelihood.

Promises: before any label the edges are the prior's; a hazard is strictly between 0 and 1; what is
learned fades with further labels of its own kind only, so that what is seldom met is not forgotten
meanwhile. Only speed depends on any of it, never text.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drafthouse.policy.edges import edges_of, prior_hazard, typical_hazard

MARGINS = (0.2, 0.5, 1.0, 1.7, 2.5, 4.0, 7.0)
"""Upper bounds of the margin buckets, each with about an eighth of the demo pair's margins; the last bucket is open."""

TEMPERATURES = (0.0, 0.5, 0.9, 1.1)
"""Upper bounds of the temperature buckets: greedy, cool, and around 1, where most requests are; the last is open."""

PRIOR_WEIGHT = 50.0
"""Labels of one cell that the prior is worth. With less, chance decides the first thousands of tokens; with more, a wrong prior lasts."""

HALF_LIFE = 2000.0
"""Labels of one cell after which one counts half: a share is known to about 1 in 100 then, and new texts show within minutes."""

FADE = 0.5 ** (1.0 / HALF_LIFE)

ANY_MARGIN = -1
"""In place of a margin bucket: all of them together."""

Key = tuple[int, int, int, int]
"""(source, rank, margin bucket, temperature bucket)."""


@dataclass(slots=True)
class Counts:
    """Faded numbers of labels and of hits among them."""

    labels: float = 0.0
    hits: float = 0.0

    def add(self, hit: bool) -> None:
        self.labels = self.labels * FADE + 1.0
        self.hits = self.hits * FADE + hit


class Score:
    """Faded Brier scores, summed over the siblings of a position, of the edges as learned and of the prior's."""

    def __init__(self) -> None:
        self.labels = self.learned = self.prior = 0.0

    def add(self, learned: Sequence[float], prior: Sequence[float], hit: int) -> None:
        self.labels = self.labels * FADE + 1.0
        self.learned = self.learned * FADE + brier(learned, hit)
        self.prior = self.prior * FADE + brier(prior, hit)


def brier(edges: Sequence[float], hit: int) -> float:
    """Sum of squared errors over siblings in rank order; `hit` is the rank that was accepted, or -1."""
    return sum((edge - (rank == hit)) ** 2 for rank, edge in enumerate(edges))


class Calibration:
    """For one pair of draft and target. Margins are those of `drafthouse.choose.rank`: leads over the next token."""

    def __init__(self, cells: Iterable[tuple[Key, float, float]] = ()):
        """`cells`: as `Calibration.cells` gave them."""
        self._cells = {key: Counts(labels, hits) for key, labels, hits in cells}
        self.labels = 0
        self.score = Score()

    def cells(self) -> list[tuple[Key, float, float]]:
        """All that was learned: (key, faded labels, faded hits)."""
        return [(key, counts.labels, counts.hits) for key, counts in sorted(self._cells.items())]

    def edges(self, source: int, margins: Sequence[float], temperature: float) -> list[float]:
        """Edges of siblings in rank order."""
        kind = bisect_left(TEMPERATURES, temperature)
        return edges_of(
            [
                self._hazard((source, rank, bisect_left(MARGINS, margin), kind), prior_hazard(rank, margin, temperature))
                for rank, margin in enumerate(margins)
            ]
        )

    def expected_children(self, source: int, width: int, temperature: float) -> float:
        """Probability that one of the best `width` children of an accepted node is accepted too, whatever their margins."""
        kind, none = bisect_left(TEMPERATURES, temperature), 1.0
        for rank in range(width):
            none *= 1.0 - self._hazard((source, rank, ANY_MARGIN, kind), typical_hazard(rank))
        return 1.0 - none

    def observe(self, source: int, margins: Sequence[float], temperature: float, hit: int) -> None:
        """A committed token below a node with these children: the rank of the one that it was, or -1 for none of them."""
        prior = edges_of([prior_hazard(rank, margin, temperature) for rank, margin in enumerate(margins)])
        self.score.add(self.edges(source, margins, temperature), prior, hit)
        self.labels += 1
        kind = bisect_left(TEMPERATURES, temperature)
        for rank, margin in enumerate(margins if hit < 0 else margins[: hit + 1]):
            for bucket in (bisect_left(MARGINS, margin), ANY_MARGIN):
                self._cells.setdefault((source, rank, bucket, kind), Counts()).add(rank == hit)

    def _hazard(self, key: Key, prior: float) -> float:
        counts = self._cells.get(key)
        if counts is None:
            return prior
        return (counts.hits + PRIOR_WEIGHT * prior) / (counts.labels + PRIOR_WEIGHT)
