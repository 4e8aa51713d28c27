"""How soon a request's tokens are wanted, and how urgent it is beside others. Pure data; `policy/token_worth.py` says what it is worth.

Priorities are as vLLM has them: an integer, 0 by default, and the lower one goes first. Here they are bounded, since each is a factor
of two in what the request's tokens are worth.
"""

import math
from dataclasses import dataclass

from drafthouse.errors import RequestError

FIRST_PRIORITY, LAST_PRIORITY = -2, 2
"""The most and the least urgent. A token of the first is worth sixteen of the last."""

LEAST_MS, MOST_MS = 0.01, 3_600_000.0

FIELDS = ("first_token_ms", "per_token_ms")


@dataclass(frozen=True, slots=True)
class Objective:
    """Seconds from arrival to the first token, and from one token to the next on average; infinite: no matter how long."""

    first_token_s: float = math.inf
    per_token_s: float = math.inf

    def first_kept(self, first_token_s: float) -> bool:
        """Where the first token came this long after the request."""
        return first_token_s <= self.first_token_s

    def pace_kept(self, later_s: float, tokens: int) -> bool:
        """Whether the others came in time: the last of all `tokens` this long after the first."""
        return tokens <= 1 or later_s <= self.per_token_s * (tokens - 1)

    def kept(self, first_token_s: float, last_token_s: float, tokens: int) -> bool:
        """Whether it was kept, where the first and the last token came this long after the request."""
        return self.first_kept(first_token_s) and self.pace_kept(last_token_s - first_token_s, tokens)

    @property
    def in_ms(self) -> tuple[float, float]:
        """By `FIELDS`; 0 where none is set."""
        return _in_ms(self.first_token_s), _in_ms(self.per_token_s)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in zip(FIELDS, self.in_ms, strict=True) if value)


@dataclass(frozen=True, slots=True)
class UrgencyWish:
    """What a request, an API key or the configuration says of it; None: nothing."""

    priority: int | None = None
    first_token_ms: float | None = None
    per_token_ms: float | None = None

    def check(self) -> None:
        """Raises RequestError naming the first field out of range."""
        check_priority(self.priority or 0)
        for name in FIELDS:
            value = getattr(self, name)
            if value is not None and not LEAST_MS <= value <= MOST_MS:
                field = f"speculation.objective.{name}"
                raise RequestError(f"{field} must be between {LEAST_MS:g} and {MOST_MS:.0f} milliseconds, not {value:g}", field)

    def over(self, default: "UrgencyWish") -> "UrgencyWish":
        """Field by field, with the default's where this says nothing."""
        return UrgencyWish(
            default.priority if self.priority is None else self.priority,
            default.first_token_ms if self.first_token_ms is None else self.first_token_ms,
            default.per_token_ms if self.per_token_ms is None else self.per_token_ms,
        )

    @property
    def objective(self) -> Objective | None:
        """None where nothing is said of any time."""
        if self.first_token_ms is None and self.per_token_ms is None:
            return None
        return objective_of(self.first_token_ms or 0.0, self.per_token_ms or 0.0)


NO_WISH = UrgencyWish()


def objective_of(first_token_ms: float, per_token_ms: float) -> Objective:
    """0: no matter how long."""
    return Objective(*(value / 1e3 if value else math.inf for value in (first_token_ms, per_token_ms)))


def check_priority(priority: int) -> None:
    """Raises RequestError."""
    if not FIRST_PRIORITY <= priority <= LAST_PRIORITY:
        said = f"priority must be between {FIRST_PRIORITY} and {LAST_PRIORITY} (the lower one goes first), not {priority}"
        raise RequestError(said, "priority")


def _in_ms(seconds: float) -> float:
    return 0.0 if math.isinf(seconds) else seconds * 1e3
