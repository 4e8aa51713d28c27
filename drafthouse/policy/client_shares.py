"""How a client's limits are shared among gateways: by what it asks of each. No clock, and no state but the last answers.

Promises: the shares of all gateways together never exceed the limit, once each has had an answer. A gateway's share falls when it is
answered, and only then may another's rise. Before the first answer each holds an even part.
"""

import math
from collections.abc import Mapping, Sequence

from drafthouse.wire.client_shares import Amounts, ClientShare, ClientUse

IDLE_WEIGHT = 0.05
"""All gateways that a client does not use hold about this part of what is left: its first request there is let through."""


def even_part(limits: Amounts, gateways: int) -> Amounts:
    """What one of so many gateways holds of a client that the controller has said nothing of."""
    return Amounts(*(part if math.isinf(part) else math.floor(part) for part in _divided(limits, gateways)))


def _divided(limits: Amounts, gateways: int) -> tuple[float, float, float]:
    return limits.requests / gateways, limits.tokens / gateways, limits.streams / gateways


def targets(limits: Amounts, uses: Sequence[ClientUse]) -> list[Amounts]:
    """The share of each gateway: what it uses and its part of what is left. They add up to the limits, or to the use where that is more."""
    columns = []
    for name in ("requests", "tokens", "streams"):
        limit, used = getattr(limits, name), [getattr(use.used, name) for use in uses]
        if math.isinf(limit):
            columns.append([math.inf] * len(uses))
            continue
        left = max(0.0, limit - sum(used))
        largest = [use.largest if name == "tokens" else 0.0 for use in uses]
        parts = _parts(left, [getattr(use.wanted, name) for use in uses], largest)
        columns.append([has + part for has, part in zip(used, parts, strict=True)])
    return [Amounts(*row) for row in zip(*columns, strict=True)]


def _parts(left: float, wanted: Sequence[float], largest: Sequence[float]) -> list[float]:
    """Whole numbers by weight, `left` in all at most. First those asked for most get enough for their largest request."""
    parts = [0.0] * len(wanted)
    for i in sorted(range(len(wanted)), key=lambda i: -wanted[i]):
        if 0.0 < largest[i] <= left:
            parts[i] = largest[i]
            left -= largest[i]
    total = sum(wanted)
    weights = [want + IDLE_WEIGHT * total / len(wanted) for want in wanted] if total else [1.0] * len(wanted)
    whole, passed, given = sum(weights), 0.0, 0
    for i, weight in enumerate(weights):
        passed += weight
        upto = math.floor(left * min(1.0, passed / whole) + 1e-9)
        parts[i] += upto - given
        given = upto
    return parts


class ClientShares:
    """The controller's side: feed it each gateway's report, ask it for that gateway's answer."""

    def __init__(self) -> None:
        self._uses: dict[str, Mapping[str, ClientUse]] = {}
        self._granted: dict[str, dict[str, Amounts]] = {}  # by client, by gateway

    def observe(self, gateway: str, uses: Mapping[str, ClientUse]) -> None:
        self._uses[gateway] = uses

    def remove(self, gateway: str) -> None:
        """Its share is free again."""
        self._uses.pop(gateway, None)
        for granted in self._granted.values():
            granted.pop(gateway, None)

    def answer(self, gateway: str) -> dict[str, ClientShare]:
        """This gateway's shares of all clients that any gateway has something to tell of."""
        clients = {client: use.limits for uses in self._uses.values() for client, use in uses.items()}
        for client in self._granted.keys() - clients.keys():
            del self._granted[client]
        return {client: self._share(gateway, client, limits) for client, limits in clients.items()}

    def _share(self, gateway: str, client: str, limits: Amounts) -> ClientShare:
        names = sorted(self._uses)
        nothing = ClientUse(limits, Amounts(), Amounts())
        uses = [self._uses[name].get(client, nothing) for name in names]
        granted, unheard = self._granted.setdefault(client, {}), even_part(limits, len(names))
        held = [granted.get(name, unheard) for name in names if name != gateway]
        used = [use.used for name, use in zip(names, uses, strict=True) if name != gateway]
        target = targets(limits, uses)[names.index(gateway)]
        share = Amounts(*(_at_most(getattr(target, name), getattr(limits, name), [getattr(h, name) for h in held]) for name in FIELDS))
        granted[gateway] = share
        return ClientShare(share, _sum(used))


FIELDS = ("requests", "tokens", "streams")


def _at_most(target: float, limit: float, held: Sequence[float]) -> float:
    """`target`, but not what others hold. Nothing is subtracted from infinity."""
    return target if math.isinf(limit) else max(0.0, min(target, limit - sum(held)))


def _sum(amounts: Sequence[Amounts]) -> Amounts:
    total = Amounts()
    for each in amounts:
        total = total.plus(each)
    return total
