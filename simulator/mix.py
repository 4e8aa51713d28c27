"""What is mixed in one simulation: targets, kinds of drafters, kinds of requests, and how the load moves between the targets.

Promises: verifier i serves target i, and drafter i is of kind i, counted round and round; so pools of any size keep the mix.
"""

import math
from dataclasses import dataclass

from drafthouse.errors import ConfigError
from drafthouse.objective import Objective
from drafthouse.policy.latency import Curve

SERVED = "served"
"""What serves today: the registry's pairs and its price floor."""

DIRECTIVES, LOCAL, SPLIT, EQUAL = "directives", "local", "split", "equal"

POOL_POLICIES = {
    DIRECTIVES: "seats and prices by the controller, tokens worth what their requests say",
    EQUAL: "the same, every token worth the same",
    LOCAL: "no controller: each verifier opens sessions where it has fewest",
    SPLIT: "drafters divided between the targets once and for all",
}


@dataclass(frozen=True, slots=True)
class DrafterKind:
    """Hardware of some drafters and their distance from every verifier; None: as everyone's."""

    curve: Curve
    round_trip_s: float | None = None


@dataclass(frozen=True, slots=True)
class RequestKind:
    """A share of all requests, and what their tokens are worth."""

    share: float = 1.0
    objective: Objective | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Mix:
    """Empty `targets` and `drafters`: one of each, the options' own curves.

    `first_share` of the requests go to the first target, in equal parts of the time one after another; the others share the rest. Output
    lengths are drawn evenly within `output_tokens`; None: the trace's own.
    """

    targets: tuple[Curve, ...] = ()
    drafters: tuple[DrafterKind, ...] = ()
    requests: tuple[RequestKind, ...] = (RequestKind(),)
    first_share: tuple[float, ...] = ()
    output_tokens: tuple[int, int] | None = None
    policy: str = SERVED

    def check(self) -> None:
        """Raises ConfigError naming the option."""
        if len(self.targets) < 2 and self.first_share:
            raise ConfigError("--first-share: there is one target only; name two at least with --targets")
        if not math.isclose(sum(kind.share for kind in self.requests), 1.0):
            raise ConfigError("--urgent-share: the shares of all kinds of requests must add up to 1")

    def target_at(self, place: float, draw: float) -> int:
        """The target of a request that comes at this part of the time (0 to 1); `draw` is even between 0 and 1."""
        count = max(1, len(self.targets))
        if not self.first_share or count == 1:
            return int(draw * count)
        first = self.first_share[min(int(place * len(self.first_share)), len(self.first_share) - 1)]
        if draw < first:
            return 0
        return 1 + min(int((draw - first) / (1.0 - first) * (count - 1)), count - 2)

    def kind_at(self, draw: float) -> RequestKind:
        """The kind of a request; `draw` is even between 0 and 1."""
        for kind in self.requests:
            if draw < kind.share:
                return kind
            draw -= kind.share
        return self.requests[-1]
