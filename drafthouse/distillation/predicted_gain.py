"""How much faster a draft will make its target, from how often it agrees and how long both take.

A node of the tree is accepted if its parent is and the target's choice there is this one of the draft's: the product of the shares of
its level and rank along its path. A step with the N likeliest nodes brings

    1 + p1 + ... + pN

tokens. Where draft and target share their cores it takes the target's time for 1 + N tokens and then the draft's for one pass a level;
where drafts have cores of their own, the longer of the two: they draft what comes next while the target verifies. N is the best one.
Time on the wire, prompts and lookups have no part in it.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.policy.latency import LatencyModel

MOST_NODES = 32
CONTEXT = 512
"""Cached tokens of the sequence that is looked at."""


@dataclass(frozen=True, slots=True)
class PredictedGain:
    """The target's rate with drafts over that without, and what the best step looks like."""

    speed_up: float
    nodes: int
    depth: int
    tokens_per_step: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step of the target and a pass of the draft take, whether on the same cores, and whether the draft runs committed
    tokens again, because it reads the target's states."""

    target: LatencyModel
    draft: LatencyModel
    shared_cores: bool
    runs_again: bool


def predicted_gain(agreement: Sequence[Sequence[float]], pace: Pace) -> PredictedGain:
    """`agreement` by level and rank; below the last level it is that level's."""
    plain_s = pace.target.seconds(1, CONTEXT)
    best, tokens = PredictedGain(1.0, 0, 0, 1.0), 1.0
    expanded: list[set[int]] = []
    for count, (confidence, level, parent) in enumerate(_likeliest(agreement), start=1):
        tokens += confidence
        while len(expanded) < level:
            expanded.append(set())
        expanded[level - 1].add(parent)
        gain = tokens * plain_s / _seconds(pace, count, tokens, [len(nodes) for nodes in expanded])
        if gain > best.speed_up:
            best = PredictedGain(gain, count, len(expanded), tokens)
    return best


def _likeliest(agreement: Sequence[Sequence[float]]) -> list[tuple[float, int, int]]:
    """(confidence, level from 1, number of the parent; the root is 0) of the likeliest nodes, the best first."""
    heap = [(-share, 1, 0) for share in agreement[0]]
    heapq.heapify(heap)
    found: list[tuple[float, int, int]] = []
    while heap and len(found) < MOST_NODES:
        negative, level, parent = heapq.heappop(heap)
        if negative == 0.0:
            break
        found.append((-negative, level, parent))
        for share in agreement[min(level, len(agreement) - 1)]:
            heapq.heappush(heap, (negative * share, level + 1, len(found)))
    return found


def _seconds(pace: Pace, nodes: int, tokens: float, expanded: Sequence[int]) -> float:
    """Of a step of the target and the passes before it, one for each level; the first also runs what was committed last."""
    committed = round(tokens) if pace.runs_again else 1
    passes_s = pace.draft.seconds(committed, CONTEXT) + sum(pace.draft.seconds(count, CONTEXT) for count in expanded[1:])
    verify_s = pace.target.seconds(1 + nodes, CONTEXT)
    return verify_s + passes_s if pace.shared_cores else max(verify_s, passes_s)
