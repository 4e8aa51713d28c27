"""Which of a verifier's sequences have a draft session, and where: the seats that the controller has given it (docs/pools.md).

Promises: pure; no drafter gets more sessions than seats from here, beyond a slack that spares prefills while shares move a little; a
session is taken from one sequence for another only where the gain beats HYSTERESIS and the prefill; at most MOVES a call.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

HYSTERESIS = 1.5
"""A session must bring this many times as much elsewhere, the prefill paid, before it moves. Worths change while texts grow."""

MOVES = 2
"""Sessions that move at once: each costs a prefill, and the next step sees what came of them."""

SLACK_SHARE, SLACK_SEATS = 0.25, 1
"""So many sessions beyond its seats a drafter keeps when its share shrinks: they end by themselves soon."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class SeatOffer:
    """What one drafter is to one verifier until the next directive: `seats` for sessions, tokens that a session there adds to a step, what
    a second of the drafter's time is worth in tokens (0: it has time to spare), and how much of it a node and a prompt token take."""

    drafter: str
    seats: int
    gain: float
    second_price: float
    node_s: float
    token_s: float

    @property
    def node_price(self) -> float:
        """Tokens that one more node costs by the drafter's time alone."""
        return self.second_price * self.node_s


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Key]):
    """A sequence: what a token is worth to it, tokens it has and may still get, and the drafter of its session, if it has one."""

    key: Key
    worth: float
    tokens: int
    left: int
    drafter: str | None = None


@dataclass(slots=True)
class Changes(Generic[Key]):
    """Sessions to end, and who may open one where."""

    end: list[Key] = field(default_factory=list)
    open: dict[Key, str] = field(default_factory=dict)


class DraftSeats(Generic[Key]):
    """Replaced as a whole with each directive."""

    def __init__(self) -> None:
        self.offers: dict[str, SeatOffer] = {}

    def replace(self, offers: Iterable[SeatOffer]) -> None:
        self.offers = {offer.drafter: offer for offer in offers}

    def node_price(self, drafter: str) -> float:
        """What a node costs there beside the verifier's own price, in tokens."""
        offer = self.offers.get(drafter)
        return offer.node_price if offer is not None else 0.0

    def seat(self, c: Candidate[Key], usable: Collection[str], held: Counter[str]) -> str | None:
        """The free seat that brings this sequence most, if any pays for its prefill; `held` counts the sessions by drafter."""
        free = [o for name in usable if (o := self.offers.get(name)) is not None and held[name] < o.seats and _nets(c, o) > 0.0]
        best = max(free, key=lambda offer: (_nets(c, offer), offer.seats - held[offer.drafter]), default=None)
        return best.drafter if best is not None else None

    def arrange(self, candidates: Sequence[Candidate[Key]], usable: Collection[str]) -> Changes[Key]:
        """Who gives a session up and who may open one, with these drafters alone for new ones."""
        changes: Changes[Key] = Changes()
        held = Counter(c.drafter for c in candidates if c.drafter)
        seated = sorted((c for c in candidates if c.drafter is not None), key=self._brings)
        self._give_up(seated, held, changes)
        waiting = sorted((c for c in candidates if c.drafter is None), key=lambda c: -c.worth)
        left = [c for c in waiting if not self._seat(c, usable, held, changes)]
        for c in left[:MOVES]:
            self._displace(c, [s for s in seated if s.key not in changes.end], usable, changes)
        return changes

    def _brings(self, c: Candidate[Key]) -> float:
        """Tokens a step that its session adds, weighed."""
        offer = self.offers.get(c.drafter or "")
        return c.worth * offer.gain if offer is not None else 0.0

    def _give_up(self, seated: Sequence[Candidate[Key]], held: Counter[str], changes: Changes[Key]) -> None:
        """Those beyond a drafter's seats, least worth first."""
        for c in seated:
            offer = self.offers.get(c.drafter or "")
            seats = offer.seats if offer is not None else 0
            if held[c.drafter or ""] > seats + max(SLACK_SEATS, int(SLACK_SHARE * seats)):
                held[c.drafter or ""] -= 1
                changes.end.append(c.key)

    def _seat(self, c: Candidate[Key], usable: Collection[str], held: Counter[str], changes: Changes[Key]) -> bool:
        if (drafter := self.seat(c, usable, held)) is None:
            return False
        held[drafter] += 1
        changes.open[c.key] = drafter
        return True

    def _displace(self, c: Candidate[Key], seated: Sequence[Candidate[Key]], usable: Collection[str], changes: Changes[Key]) -> None:
        """Takes the seat of whichever session brings least, if that is worth it."""
        for s in seated:
            offer = self.offers.get(s.drafter or "")
            if offer is not None and s.drafter in usable and _nets(c, offer) > HYSTERESIS * self._brings(s):
                changes.end.append(s.key)
                changes.open[c.key] = offer.drafter
                return


def _nets(c: Candidate[Key], offer: SeatOffer) -> float:
    """Tokens a step that a new session there adds, weighed, less its prefill spread over the steps that the text still takes."""
    steps_left = max(1.0, c.left / (1.0 + offer.gain))
    return c.worth * offer.gain - offer.second_price * offer.token_s * c.tokens / steps_left
