"""What a committed token is worth to a request: its priority, and more while it is behind its latency objective (docs/pools.md).

Promises: pure; worth lies between the priority and URGENT times the priority. A request that plain decoding brings home in time is
worth no more than one without an objective, and neither is one that no drafts can bring home any more: it would only take from
those that still can be in time (AdaServe, arXiv 2501.12162). No request is starved: every sequence of a step gets its plain token, whatever
others are worth.
"""

from dataclasses import dataclass

URGENT = 2.5
"""A token that decides whether an objective is kept is worth this many others. With 4, `drafthouse simulate-pools` keeps fewer objectives:
trees of the urgent take nodes that bring them little."""

EASY, HOPELESS = 0.85, 4.0
"""Tokens a step that a request must commit to be in time: below EASY plain decoding does it, even if steps become somewhat longer; beyond
HOPELESS no drafts do. From 0.6 on, requests that would be in time anyway displace others."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Seconds from arrival to the first token, and from one token to the next on average."""

    first_token_s: float
    per_token_s: float

    def kept(self, first_token_s: float, last_token_s: float, tokens: int) -> bool:
        """Whether it was kept, where the first and the last token came this long after the request."""
        return first_token_s <= self.first_token_s and last_token_s - first_token_s <= self.per_token_s * (tokens - 1)


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that a request has got and may still get, and seconds since the first of them, 0 before it."""

    done: int
    left: int
    since_first_s: float


def needed_per_step(objective: Objective, progress: Progress, step_s: float) -> float:
    """Tokens that each step must commit for the last of them to be in time; infinite where it is late already."""
    whole_s = objective.per_token_s * (progress.done + progress.left - 1)
    left_s = whole_s - progress.since_first_s
    if left_s <= 0.0:
        return float("inf") if progress.left else 0.0
    return progress.left * step_s / left_s


def worth(priority: float, objective: Objective | None, progress: Progress, step_s: float) -> float:
    """Of the request's next tokens, in tokens of one of priority 1 without an objective; a step takes `step_s`."""
    if objective is None:
        return priority
    needed = needed_per_step(objective, progress, step_s)
    if needed > HOPELESS:
        return priority
    behind = min(1.0, max(0.0, (needed - EASY) / (1.0 - EASY)))
    return priority * (1.0 + (URGENT - 1.0) * behind)
