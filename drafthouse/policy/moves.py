"""Which of a gateway's requests go to another verifier though nothing is wrong where they are. No clock; chance comes in.

Promises: a request that waits for want of room goes only where it would run at once. Streams go only from verifiers above the mean share of
places in use to verifiers far below it, and in sum not past the mean, so a pool under a fixed load comes to rest. A stream goes only if the
time that it should gain is WORTH times the pause that it costs. Gateways know nothing of each other: each moves its part of what
one with all the requests would, rounded by chance, so that they move as much together.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import TypeVar

from drafthouse.wire.membership import Route

FAR = 0.75
"""A verifier is far emptier than the rest below this share of their mean. Above it, requests that come and go make as much difference."""

WORTH = 2.0
"""What a move should gain, in pauses that it costs: how much text a request has left is a guess, and drafts begin again from nothing."""

STEPS = 2
"""Of a pause, beyond the prefill: the step in progress at the new verifier, and the stream's first one there."""

LONGEST_PAUSE_S = 0.5
"""No move is meant to hold a stream up for longer. So it bounds what an empty verifier has to prefill for the moves of one time."""

KV_SHARE = 0.5
"""Of the free KV slots of a verifier, texts that move there take at most this much: they grow."""

LEAST_LEFT = 64
"""Output tokens. How long texts get varies by orders of magnitude, so one is expected to get as long again as it is, and this at least."""

PACE_TOKENS = 16
"""A stream's pace is known after this many tokens; before that it stays. So one that has moved stays at least for these."""

MOST_SPREADS = 4
"""A stream is moved from a fuller verifier to an emptier one this often, at most."""

EPSILON = 1e-9

Key = TypeVar("Key", bound=Hashable)
Draw = Callable[[], float]
"""Independent numbers from [0, 1)."""


@dataclass(frozen=True, slots=True)
class Seats:
    """A verifier as a gateway knows it: `load` has what it sent there since the report; `room` is for requests that would run at once, 0
    where anything speaks against them."""

    route: Route
    load: int
    room: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One request of a gateway at a verifier. `waits`: no token has come, or none for a while. `text_tokens` are those of prompt and
    output, `left_tokens` those still allowed. In `pace_seconds` it has got `pace_tokens` from this verifier."""

    verifier: str
    waits: bool
    text_tokens: int
    output_tokens: int
    left_tokens: int
    pace_tokens: int = 0
    pace_seconds: float = 0.0
    spreads: int = 0

    @property
    def expected_seconds(self) -> float:
        """That the rest of the text takes at its pace."""
        return min(self.left_tokens, max(self.output_tokens, LEAST_LEFT)) * self.pace_seconds / self.pace_tokens

    @property
    def settled(self) -> bool:
        return not self.waits and self.pace_tokens >= PACE_TOKENS and self.spreads < MOST_SPREADS


@dataclass(frozen=True, slots=True)
class Level:
    """Verifiers of one fingerprint, `empty` ones among them. `mean`: requests for each place; `surplus`: requests above it, by fuller
    verifier; `lack`: what the empty ones have below it."""

    mean: float
    empty: Sequence[Seats]
    fuller: Sequence[Seats]
    surplus: Mapping[str, int]
    lack: int

    def gain(self, here: Seats) -> float:
        """The part of its time that a stream saves by a move from here, when all have the mean. A step grows by as much with each request
        as it does here."""
        route = here.route
        if not route.step_seconds:
            return 0.0
        slope = max(0.0, route.step_seconds - route.step_seconds_least) / max(1, route.load - 1)
        there = max(to.route.step_seconds_least + slope * max(0.0, self.mean * to.route.max_sequences - 1.0) for to in self.empty)
        return 1.0 - there / route.step_seconds

    @property
    def prompt_token_seconds(self) -> float:
        """Of a prefill that is spread over the empty ones."""
        return max(to.route.prompt_token_seconds for to in self.empty) / len(self.empty)

    @property
    def kv_slots(self) -> float:
        return KV_SHARE * sum(to.route.kv_slots_free for to in self.empty)


def uneven(seats: Sequence[Seats]) -> bool:
    """Whether there may be anything to move."""
    return _may_begin_elsewhere(seats) or bool(_levels(seats))


def waiting_moves(seats: Sequence[Seats], streams: Iterable[Stream], draw: Draw) -> dict[str, int]:
    """How many of this gateway's requests each verifier should give back of those that wait there."""
    waiting = [stream for stream in streams if stream.waits]
    if not waiting or not _may_begin_elsewhere(seats):
        return {}
    mine, tokens = Counter(stream.verifier for stream in waiting), max(1, sum(s.text_tokens for s in waiting) // len(waiting))
    room = sum(min(one.room, one.route.kv_slots_free // tokens) for one in seats)
    served = min(1.0, room / sum(one.route.held_up for one in seats))
    parts = {one.route.replica: served * min(one.route.held_up, mine[one.route.replica]) for one in seats}
    return {name: count for name, part in parts.items() if (count := _rounded(part, draw))}


def one_text(here: Seats, seats: Iterable[Seats]) -> bool:
    """Whether all verifiers with room would go on with a text that was begun here."""
    return all(to.route.fingerprint == here.route.fingerprint for to in seats if to.room)


def stream_moves(seats: Sequence[Seats], streams: Mapping[Key, Stream], draw: Draw) -> list[Key]:
    """Which of this gateway's running streams leave their verifiers for emptier ones."""
    moves: list[Key] = []
    for level in _levels(seats):
        total, names = sum(level.surplus.values()), level.surplus.keys()
        here = {key: stream for key, stream in streams.items() if stream.verifier in names}
        mine = Counter(stream.verifier for stream in here.values())
        served = min(1.0, level.lack / total)
        parts = {one.route.replica: served * level.surplus[one.route.replica] * _part(mine, one) for one in level.fuller}
        moves += _worthwhile(level, here, {name: _rounded(part, draw) for name, part in parts.items()})
    return moves


def _worthwhile(level: Level, here: Mapping[Key, Stream], counts: dict[str, int]) -> list[Key]:
    """Of each verifier's streams up to `counts`, the shortest texts first. What others move meanwhile is prefilled before them, too."""
    fuller = {one.route.replica: one for one in level.fuller}
    gains = {name: level.gain(one) for name, one in fuller.items()}
    part = len(here) / max(1, len(here), sum(one.load for one in level.fuller))
    chosen: list[Key] = []
    tokens = 0.0  # of all gateways' moves
    for key, stream in sorted(here.items(), key=lambda item: item[1].text_tokens):
        if not stream.settled or not counts[stream.verifier]:
            continue
        with_it = tokens + stream.text_tokens / part
        pause_s = with_it * level.prompt_token_seconds + STEPS * fuller[stream.verifier].route.step_seconds
        if pause_s > LONGEST_PAUSE_S or with_it > level.kv_slots:
            break
        if gains[stream.verifier] * stream.expected_seconds > WORTH * pause_s:
            chosen.append(key)
            counts[stream.verifier] -= 1
            tokens = with_it
    return chosen


def _levels(seats: Sequence[Seats]) -> list[Level]:
    """By fingerprint. Where any request waits for room, that comes first."""
    levels = []
    for fingerprint in sorted({one.route.fingerprint for one in seats}):
        group = [one for one in seats if one.route.fingerprint == fingerprint and one.route.max_sequences]
        if group and not any(one.route.held_up for one in group) and (level := _level(group)) is not None:
            levels.append(level)
    return levels


def _level(group: Collection[Seats]) -> Level | None:
    mean = sum(one.load for one in group) / sum(one.route.max_sequences for one in group)
    empty = [one for one in group if one.room and one.load < FAR * mean * one.route.max_sequences]
    fuller = [one for one in group if one.load - mean * one.route.max_sequences >= 1.0]
    surplus = {one.route.replica: floor(one.load - mean * one.route.max_sequences) for one in fuller}
    lack = sum(floor(min(one.room, mean * one.route.max_sequences - one.load)) for one in empty)
    return Level(mean, empty, fuller, surplus, lack) if surplus and lack else None


def _may_begin_elsewhere(seats: Sequence[Seats]) -> bool:
    return any(one.route.held_up for one in seats) and any(one.room for one in seats)


def _part(mine: Mapping[str, int], one: Seats) -> float:
    """Of a verifier's requests, this gateway's."""
    return mine[one.route.replica] / max(one.load, mine[one.route.replica], 1)


def _rounded(part: float, draw: Draw) -> int:
    """Up or down by chance, such that the mean is `part`. What is whole but for the last bits stays."""
    whole = floor(part + EPSILON)
    return whole + (draw() + EPSILON < part - whole)
