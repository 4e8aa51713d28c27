"""One client at one gateway: what it has used, what it asks for, and what its share still holds. No clock.

Promises: what is let through in any minute is at most the share. A request is charged with its prompt and all tokens that it may
generate; what it has not generated is given back at its end. `now` (seconds, monotonic) comes in and does not fall.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from drafthouse.wire.client_shares import MINUTE_S, Amounts, ClientShare, ClientUse

Resource = Literal["requests", "tokens", "streams"]

SLOT_S = 1.0
"""What is charged within one slot leaves the minute together, with its last: at most 61 slots a client."""

WANT_MEMORY_S = 5.0
"""A demand counts for about this long: shares follow within seconds, and do not jump with each request."""

MOVES_S = 1.0
"""Shares have followed the demand after about two heartbeats."""

FREE_S = 1.0
"""When a stream may end: no one knows."""


@dataclass(slots=True)
class _Slot:
    """What was let through between two moments."""

    began: float
    last: float
    requests: float = 0.0
    tokens: float = 0.0


class ClientMeter:
    def __init__(self, limits: Amounts) -> None:
        self.limits = limits
        self.streams = 0
        self._slots: deque[_Slot] = deque()
        self._requests = self._tokens = 0.0
        self._wanted, self._largest, self._seen = Amounts(), 0.0, 0.0

    def used(self, now: float) -> Amounts:
        while self._slots and self._slots[0].last <= now - MINUTE_S:
            slot = self._slots.popleft()
            self._requests -= slot.requests
            self._tokens -= slot.tokens
        return Amounts(self._requests, self._tokens, self.streams)

    def charge(self, now: float, requests: float = 0.0, tokens: float = 0.0) -> float:
        """Counts what is let through; returns the time under which it may be given back."""
        self.used(now)
        if not self._slots or self._slots[-1].began <= now - SLOT_S:
            self._slots.append(_Slot(now, now))
        slot = self._slots[-1]
        slot.last = now
        self._add(slot, requests, tokens)
        return slot.began

    def give_back(self, charged: float, now: float, requests: float = 0.0, tokens: float = 0.0) -> None:
        """`charged` is what `charge` returned; what has left the minute is no longer counted anyway."""
        self.used(now)
        for slot in self._slots:
            if slot.began == charged:
                self._add(slot, -requests, -tokens)

    def _add(self, slot: _Slot, requests: float, tokens: float) -> None:
        slot.requests += requests
        slot.tokens += tokens
        self._requests += requests
        self._tokens += tokens

    def want(self, now: float, requests: float = 0.0, tokens: float = 0.0) -> None:
        wanted = self._decay(now)
        self._wanted = wanted.plus(Amounts(requests, tokens, requests))
        self._largest = max(self._largest, tokens)

    def _decay(self, now: float) -> Amounts:
        kept = math.exp(-(now - self._seen) / WANT_MEMORY_S) if self._seen else 0.0
        self._seen = now
        wanted = Amounts(self._wanted.requests * kept, self._wanted.tokens * kept, self._wanted.streams * kept)
        self._wanted = wanted
        if wanted.requests < 0.01:
            self._largest = 0.0
        return wanted

    def report(self, now: float) -> ClientUse | None:
        """None where there is nothing to tell: the client may be forgotten."""
        used, wanted = self.used(now), self._decay(now)
        if not self._slots and not self.streams and wanted.requests < 0.01:
            return None
        return ClientUse(self.limits, used, wanted, self._largest)

    def lacks(self, share: ClientShare, asked: Amounts, now: float) -> tuple[Resource, float] | None:
        """(What the share has too little of, seconds after which to ask again); None if there is room for `asked`."""
        used = self.used(now)
        for name, has, held in _by_resource(used, share.share):
            more = getattr(asked, name)
            if more and has + more > held:
                return name, self._wait(name, more, share, now)
        return None

    def _wait(self, name: Resource, more: float, share: ClientShare, now: float) -> float:
        if name == "streams":
            return FREE_S
        limit, own, others = (getattr(amounts, name) for amounts in (self.limits, self.used(now), share.others))
        if own + others + more <= limit:
            return MOVES_S  # it is another gateway's share
        for slot in self._slots:
            own -= getattr(slot, name)
            if own + others + more <= limit:
                return max(MOVES_S, slot.last + MINUTE_S - now)
        return MINUTE_S if self._slots else MINUTE_S / 6

    def resets_in(self, now: float) -> float:
        """Seconds until nothing of this gateway's counts any more."""
        self.used(now)
        return self._slots[-1].last + MINUTE_S - now if self._slots else 0.0


def _by_resource(used: Amounts, share: Amounts) -> Iterator[tuple[Resource, float, float]]:
    yield "requests", used.requests, share.requests
    yield "tokens", used.tokens, share.tokens
    yield "streams", used.streams, share.streams
