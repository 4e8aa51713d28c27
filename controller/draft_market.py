"""Shares of the drafters' time: how many sessions each verifier may have on which drafter, and what a second is worth (docs/pools.md).

Promises: pure, and a function of the facts alone, so a restarted controller decides the same once it has heard from all. Sessions are
placed one after the other where they add most weighted tokens per second, what they take from those already there included; what would
take more than it adds is not placed. A drafter's second has a price only where a session was not placed: what that one would have got
for it.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from drafthouse.policy.draft_gain import gain_per_step
from drafthouse.policy.draft_seats import SeatOffer

NODES_A_PASS = 1.5
"""Nodes of one session that a pass takes: the best, and every other time one beside it."""

MOST_SLOWNESS = 8.0
"""Times that passes may take what they should: beyond, a measurement is of something else."""

MOST_CATCHING_UP = 0.8
"""Share of a drafter's time that prompts may be expected to take."""

PARTS = 6
"""Parts in which a verifier's sessions are placed: one by one a round of hundreds of replicas would take too long."""

SPARE_WORTH = 0.25
"""Of sessions that may come before the next round: they get seats where they take next to nothing from those that are there."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One verifier's: seconds of a step, the probability that one of the children of an accepted node is accepted, the worth of each of
    its sequences' tokens, for how many more it has places, tokens of a prompt and of an output on average."""

    verifier: str
    step_s: float
    acceptance: float
    worths: tuple[float, ...]
    spare: int
    prompt_tokens: float
    output_tokens: float
    round_trips: Mapping[str, float] = field(default_factory=dict)

    def catch_up_share(self, token_s: float) -> float:
        """Of the time of a drafter, what the prompt of one session takes while that session lives, at one token a step."""
        return self.prompt_tokens * token_s / max(self.step_s, self.output_tokens * self.step_s)


@dataclass(frozen=True, slots=True)
class Supply:
    """One drafter's: seconds of a pass over one node, of one more node and of a prompt token, and sessions that it takes.

    `held` sessions are there, and its passes took `measured_s` on average lately (0: not known): what the curve cannot know, how many
    nodes a session brings and how often prompts come between, shows there.
    """

    drafter: str
    pass_s: float
    node_s: float
    token_s: float
    sessions: int
    held: int = 0
    measured_s: float = 0.0


class _Desk:
    """One drafter and the sessions placed on it so far."""

    def __init__(self, supply: Supply):
        self.supply, self.sessions, self.caught_up, self.version = supply, 0, 0.0, 0
        expected_s = self._over(supply.held)
        self._slowness = min(MOST_SLOWNESS, max(1.0, supply.measured_s / expected_s)) if supply.held else 1.0
        self.placed: dict[str, tuple[Demand, int, float]] = {}  # by verifier: sessions, and the sum of their worths
        self.value = 0.0

    def period_s(self, more: int = 0, share: float = 0.0) -> float:
        """From one pass over all sessions to the next, prompts between them."""
        busy = min(MOST_CATCHING_UP, self.caught_up + share)
        return max(self._slowness * self._over(self.sessions + more), self._over(self.sessions + more) / (1.0 - busy))

    def _over(self, sessions: int) -> float:
        """Seconds of a pass over the nodes of this many sessions."""
        return self.supply.pass_s + self.supply.node_s * max(0.0, NODES_A_PASS * sessions - 1.0)

    def gain(self, demand: Demand, period_s: float) -> float:
        return gain_per_step(demand.acceptance, demand.step_s, period_s, demand.round_trips.get(self.supply.drafter, 0.0))

    def adds(self, demand: Demand, count: int, worth: float) -> float:
        """Weighted tokens per second of `count` more sessions, less what the others lose by them."""
        if self.sessions + count > self.supply.sessions:
            return 0.0
        period_s = self.period_s(count, count * demand.catch_up_share(self.supply.token_s))
        return self._worth_at(period_s) + worth * self.gain(demand, period_s) / demand.step_s - self.value

    def _worth_at(self, period_s: float) -> float:
        return sum(worths * self.gain(d, period_s) / d.step_s for d, _, worths in self.placed.values())

    def place(self, demand: Demand, count: int, worth: float) -> None:
        _, sessions, worths = self.placed.get(demand.verifier, (demand, 0, 0.0))
        self.placed[demand.verifier] = demand, sessions + count, worths + worth
        self.sessions += count
        self.caught_up += count * demand.catch_up_share(self.supply.token_s)
        self.version += 1
        self.value = self._worth_at(self.period_s())

    def bid(self, demand: Demand, worth: float) -> float:
        """Weighted tokens that a session in another's place would get for a second of this drafter."""
        period_s = self.period_s()
        seconds = NODES_A_PASS * self.supply.node_s / period_s + demand.catch_up_share(self.supply.token_s)
        return worth * self.gain(demand, period_s) / demand.step_s / seconds if seconds > 0.0 else 0.0


def clear(demands: Sequence[Demand], supplies: Iterable[Supply], pairs: Mapping[str, Sequence[str]]) -> dict[str, list[SeatOffer]]:
    """Each verifier's offers; `pairs` names the drafters that each verifier may use."""
    desks = {supply.drafter: _Desk(supply) for supply in supplies}
    mine = {d.verifier: [desks[name] for name in pairs.get(d.verifier, ()) if name in desks] for d in demands}
    unplaced = _place_all([(d, _parts(d)) for d in demands], mine)
    prices: dict[str, float] = {}
    for demand, parts in unplaced:
        for desk in mine[demand.verifier]:
            name = desk.supply.drafter
            prices[name] = max(prices.get(name, 0.0), desk.bid(demand, parts[0][1] / parts[0][0]))
    _place_all([(d, _spare_parts(d)) for d in demands], mine)
    return {d.verifier: [_offer(d, desk, prices.get(desk.supply.drafter, 0.0)) for desk in mine[d.verifier]] for d in demands}


Parts = list[tuple[int, float]]
"""Sessions and the sum of their worths."""


def _parts(demand: Demand) -> Parts:
    """The most worth first."""
    worths = sorted(demand.worths, reverse=True)
    size = max(1, -(-len(worths) // PARTS))
    return [(len(part), sum(part)) for first in range(0, len(worths), size) if (part := worths[first : first + size])]


def _spare_parts(demand: Demand) -> Parts:
    size = max(1, -(-demand.spare // PARTS))
    return [(count, SPARE_WORTH * count) for first in range(0, demand.spare, size) if (count := min(size, demand.spare - first))]


def _place_all(wanted: Sequence[tuple[Demand, Parts]], mine: Mapping[str, Sequence[_Desk]]) -> list[tuple[Demand, Parts]]:
    """Where they add most first; what is left. A place on the heap may be out of date: then it is weighed again."""
    heap: list[tuple[float, int, int, tuple[int, int]]] = []

    def offer(index: int, place: int) -> None:
        demand, parts = wanted[index]
        desk = mine[demand.verifier][place]
        if (adds := desk.adds(demand, *parts[0])) > 0.0:
            heapq.heappush(heap, (-adds, index, place, (desk.version, len(parts))))

    for index, (demand, parts) in enumerate(wanted):
        for place in range(len(mine[demand.verifier])) if parts else ():
            offer(index, place)
    left = [list(parts) for _, parts in wanted]
    wanted = [(demand, left[index]) for index, (demand, _) in enumerate(wanted)]
    while heap:
        _, index, place, version = heapq.heappop(heap)
        demand, parts = wanted[index]
        desk = mine[demand.verifier][place]
        if not parts:
            continue
        if version != (desk.version, len(parts)):
            offer(index, place)
            continue
        desk.place(demand, *parts.pop(0))
        if parts:
            offer(index, place)
    return [(demand, parts) for demand, parts in wanted if parts]


def _offer(demand: Demand, desk: _Desk, price: float) -> SeatOffer:
    seats = desk.placed.get(demand.verifier, (demand, 0, 0.0))[1]
    gain = desk.gain(demand, desk.period_s())
    return SeatOffer(desk.supply.drafter, seats, gain, price, desk.supply.node_s, desk.supply.token_s)
