"""What each client may still ask of this gateway: requests and tokens a minute, streams at once.

Promises: without limits nothing is kept. A request that is refused costs nothing. Shares come from the controller; until the first
word on a client this gateway holds an even part; without answers the last shares hold. What lacks room in this gateway's share alone
waits a moment for the share to follow before it is refused.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping

from drafthouse.config.limits import RateLimits
from drafthouse.errors import LimitError, RequestError
from drafthouse.policy.client_shares import even_part
from drafthouse.policy.client_use import MOVES_S, ClientMeter
from drafthouse.wire.client_shares import Amounts, ClientShare, ClientUse
from drafthouse.wire.membership import Directive

SAID = {"requests": "requests a minute", "tokens": "tokens a minute", "streams": "streams at once"}

PATIENCE_S = 1.5
"""Shares follow within three heartbeats: one tells of the demand, one takes from the others, one gives."""

LOOK_S = 0.1

OwnLimits = Callable[[str], RateLimits]


def limits_of(config: RateLimits) -> Amounts:
    def bound(limit: int | None) -> float:
        return math.inf if limit is None else float(limit)

    return Amounts(bound(config.requests_per_minute), bound(config.tokens_per_minute), bound(config.streams))


class ClientLimits:
    """`own` says what one client's limits are: an API key may have its own."""

    def __init__(self, own: OwnLimits, clock: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S) -> None:
        self._own, self._clock, self._patience_s = own, clock, patience_s
        self._meters: dict[str, ClientMeter] = {}
        self._shares: Mapping[str, ClientShare] = {}
        self._gateways = 1

    def directed(self, directive: Directive) -> None:
        self._shares, self._gateways = directive.shares, max(1, directive.gateways)

    def uses(self) -> dict[str, ClientUse]:
        """For the report. Forgets clients of which there is nothing to tell."""
        now = self._clock()
        uses = {client: meter.report(now) for client, meter in self._meters.items()}
        for client in [client for client, use in uses.items() if use is None]:
            del self._meters[client]
        return {client: use for client, use in uses.items() if use is not None}

    def begin(self, client: str) -> "ClientRequest":
        """A request of this client: `enter` it first, and `end` it in the end."""
        limits = limits_of(self._own(client))
        if limits == NO_LIMITS:
            return ClientRequest(self, None)
        meter = self._meters.get(client)
        if meter is None:
            meter = self._meters[client] = ClientMeter(limits)
        meter.limits = limits
        return ClientRequest(self, meter, client)

    async def room(self, client: str, meter: ClientMeter, asked: Amounts) -> None:
        """Raises LimitError where there is none. Another gateway's share is waited for, within bounds, and so is what is free at once."""
        deadline = self._clock() + self._patience_s
        while (lack := meter.lacks(self.share(client, meter), asked, self._clock())) is not None:
            name, retry_after_s = lack
            if name == "streams" or retry_after_s > MOVES_S or self._clock() >= deadline:
                limit = getattr(meter.limits, name)
                raise LimitError(f"{limit:.0f} {SAID[name]} are allowed, and this would be more", name, retry_after_s)
            await asyncio.sleep(LOOK_S)

    def share(self, client: str, meter: ClientMeter) -> ClientShare:
        return self._shares.get(client) or ClientShare(even_part(meter.limits, self._gateways))

    def now(self) -> float:
        return self._clock()


NO_LIMITS = Amounts(math.inf, math.inf, math.inf)


def check_fits(limits: Amounts, tokens: float) -> None:
    """Raises RequestError for what can never pass."""
    if tokens > limits.tokens:
        raise RequestError(
            f"{tokens:.0f} tokens are asked for, prompt included, and {limits.tokens:.0f} a minute are allowed",
            "max_tokens", "tokens_per_minute_exceeded",
        )  # fmt: skip


class ClientRequest:
    """One request of one client, from before its body is read to its end. Without a meter it has no limits."""

    def __init__(self, limits: ClientLimits, meter: ClientMeter | None, client: str = "") -> None:
        self._limits, self._meter, self._client = limits, meter, client
        self._entered = self._charged = 0.0
        self._streams = 0
        self._asked = 0.0
        self._left = 0

    async def enter(self) -> None:
        """Counts the request. Raises LimitError."""
        if (meter := self._meter) is None:
            return
        meter.want(self._limits.now(), requests=1.0)
        await self._limits.room(self._client, meter, Amounts(requests=1.0))
        self._entered = meter.charge(self._limits.now(), requests=1.0)

    async def charge(self, prompt_tokens: int, max_tokens: int, streams: int) -> None:
        """Counts the prompt and all tokens that may be generated, and the streams. Raises LimitError, and RequestError for more than the
        limit itself; the request is given back then."""
        if (meter := self._meter) is None:
            return
        tokens = float(prompt_tokens + max_tokens)
        try:
            check_fits(meter.limits, tokens)
            meter.want(self._limits.now(), tokens=tokens)
            await self._limits.room(self._client, meter, Amounts(0.0, tokens, float(streams)))
        except (LimitError, RequestError):
            meter.give_back(self._entered, self._limits.now(), requests=1.0)
            raise
        self._charged, self._left, self._streams = meter.charge(self._limits.now(), tokens=tokens), max_tokens, streams
        meter.streams += streams

    def generated(self, tokens: int) -> None:
        self._left -= tokens

    def end(self) -> None:
        """Gives back what was not generated. A second call does nothing."""
        if (meter := self._meter) is None or not self._streams:
            return
        meter.streams -= self._streams
        meter.give_back(self._charged, self._limits.now(), tokens=max(0, self._left))
        self._streams = 0

    def headers(self) -> dict[str, str]:
        """As OpenAI names them; what is left is the whole cluster's, as far as it is known here."""
        if (meter := self._meter) is None:
            return {}
        now = self._limits.now()
        used, others = meter.used(now), self._limits.share(self._client, meter).others
        headers = {}
        for name in ("requests", "tokens"):
            limit = getattr(meter.limits, name)
            if not math.isinf(limit):
                left = max(0.0, limit - getattr(used, name) - getattr(others, name))
                headers[f"x-ratelimit-limit-{name}"] = f"{limit:.0f}"
                headers[f"x-ratelimit-remaining-{name}"] = f"{left:.0f}"
                headers[f"x-ratelimit-reset-{name}"] = f"{math.ceil(meter.resets_in(now))}s"
        return headers
