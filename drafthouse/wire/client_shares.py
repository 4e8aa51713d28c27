"""What gateways and the controller tell each other about clients with limits: use goes up, shares come down.

A client is an API key's hash or, without keys, an address. Requests and tokens are those of the last minute, streams those of now.
"""

from dataclasses import dataclass

from drafthouse.wire.named_fields import NamedFields

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Amounts(NamedFields):
    """Requests, tokens and streams; as a limit, infinite where there is none."""

    requests: float = 0.0
    tokens: float = 0.0
    streams: float = 0.0

    def plus(self, other: "Amounts") -> "Amounts":
        return Amounts(self.requests + other.requests, self.tokens + other.tokens, self.streams + other.streams)


@dataclass(frozen=True, slots=True)
class ClientUse(NamedFields):
    """One client at one gateway. `wanted`: what it asked for lately, refused or not, smoothed; `largest`: tokens of the largest
    request among those."""

    limits: Amounts
    used: Amounts
    wanted: Amounts
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class ClientShare(NamedFields):
    """`share` is what one gateway may let through, its use included; `others` is what the other gateways have let through."""

    share: Amounts
    others: Amounts = Amounts()
