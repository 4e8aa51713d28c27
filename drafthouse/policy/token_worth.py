"""What a committed token is worth to a request: its priority, and more while its latency objective is at risk (docs/pools.md).

Promises: pure; worth lies between the weight of the priority and URGENT times that. A request that plain decoding brings home in time is
worth no more than one without an objective, and neither is one that nothing can bring home any more: it would only take from
those that still can be in time (AdaServe, arXiv 2501.12162). No request is starved: every sequence of a step gets its plain token, whatever
others are worth, and of two requests that leave the queue one leaves it in turn (`fair_queue`).
"""

import math
from dataclasses import dataclass

from drafthouse.objective import Objective

URGENT = 2.5
"""A token that decides whether an objective is kept is worth this many others. With 4, `drafthouse simulate-pools` keeps fewer objectives:
trees of the urgent take nodes that bring them little."""

EASY, HOPELESS = 0.85, 4.0
"""Tokens a step that a request must commit to be in time: below EASY plain decoding does it, even if steps become somewhat longer; beyond
HOPELESS no drafts do. From 0.6 on, requests that would be in time anyway displace others."""

AT_EASE = 0.5
"""Of its time to the first token a request may have spent so much, its prefill counted, before it goes ahead of others."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that a request has got and may still get, and seconds since the first of them, 0 before it."""

    done: int
    left: int
    since_first_s: float


def weight(priority: int) -> float:
    """Of a token of this priority, beside one of priority 0."""
    return 2.0**-priority


def needed_per_step(objective: Objective, progress: Progress, step_s: float) -> float:
    """Tokens that each step must commit for the last of them to be in time; infinite where it is late already."""
    if math.isinf(objective.per_token_s):
        return 0.0
    whole_s = objective.per_token_s * (progress.done + progress.left - 1)
    left_s = whole_s - progress.since_first_s
    if left_s <= 0.0:
        return float("inf") if progress.left else 0.0
    return progress.left * step_s / left_s


def worth(priority: float, objective: Objective | None, progress: Progress, step_s: float) -> float:
    """Of the request's next tokens, in tokens of a request of weight 1 without an objective. `priority`: its weight; a step takes
    `step_s`."""
    if objective is None:
        return priority
    needed = needed_per_step(objective, progress, step_s)
    if needed > HOPELESS:
        return priority
    return priority * _urgency((needed - EASY) / (1.0 - EASY))


def worth_of_first(priority: float, objective: Objective | None, waited_s: float, prefill_s: float) -> float:
    """Likewise of a request that has no token yet: it came `waited_s` ago, and would have its first token `prefill_s` from now."""
    if objective is None or waited_s >= objective.first_token_s:
        return priority
    spent = (waited_s + prefill_s) / objective.first_token_s
    return priority * _urgency((spent - AT_EASE) / (1.0 - AT_EASE))


def out_of_reach(objective: Objective, step_s: float, prefill_s: float) -> bool:
    """Whether it cannot be met even by a request that has the verifier for itself: whose plain steps take `step_s`, its prefill
    `prefill_s`."""
    return step_s > HOPELESS * objective.per_token_s or prefill_s > objective.first_token_s


def _urgency(behind: float) -> float:
    return 1.0 + (URGENT - 1.0) * min(1.0, max(0.0, behind))
