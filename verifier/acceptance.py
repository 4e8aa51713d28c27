"""Where in the trees the target agreed with the drafts, and with whose: for metrics.

Promises: a few list and counter updates for each sequence that brought a tree to the step, nothing for the others. Depth 1 lies
below the root. `totals` may be called from any thread.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from drafthouse.stages.build import by_name
from drafthouse.telemetry.metrics import DEPTHS
from drafthouse.token_tree import ROOT, TokenTree
from verifier.step import Walked

LAST = len(DEPTHS)
"""This depth and what lies deeper count together."""


class Acceptance:
    def __init__(self) -> None:
        self._ended: Counter[tuple[int, bool]] = Counter()  # accepted nodes of a walk, and whether it ended above further nodes
        self._verified: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()

    def observe(self, walked: Sequence[Walked], trees: Mapping[str, TokenTree]) -> None:
        """One step; `trees` are those that were verified, by request."""
        for w in walked if trees else ():
            tree = trees.get(w.sequence.id)
            if tree is not None:
                end = w.path[-1] if w.path else ROOT
                self._ended[len(w.path), end in tree.parents] += 1
                self._verified.update(tree.sources)
                self._accepted.update([tree.sources[node] for node in w.path])

    def totals(self) -> dict[str, float]:
        """By metric key. A depth is reached where a node of it was verified whose parent was accepted."""
        reached, accepted = dict.fromkeys(DEPTHS, 0.0), dict.fromkeys(DEPTHS, 0.0)
        for (depth, more), count in list(self._ended.items()):
            for each in range(1, depth + 1 + more):
                name = DEPTHS[min(each, LAST) - 1]
                reached[name] += count
                accepted[name] += count * (each <= depth)
        named = {"reached_depth": reached, "accepted_depth": accepted}
        named |= {"verified_source": by_name(self._verified), "accepted_source": by_name(self._accepted)}
        return {f"{key}.{value}": number for key, numbers in named.items() for value, number in numbers.items()}
