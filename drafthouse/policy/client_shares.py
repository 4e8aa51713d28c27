"""How a client's limits are shared among gateways: by what it asks of each. No clock, and no state but the last answers.

Promises: the shares of all gateways together never exceed the limit, once each has had an answer. A gateway's share falls when it is
answered, never below what it has used, and only then may another's rise. Before the first answer each holds an even part.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

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
    units = math.floor(left + 1e-9)
    quotas = [units * weight / sum(weights) for weight in weights]
    given = [math.floor(quota) for quota in quotas]
    for i in sorted(range(len(quotas)), key=lambda i: given[i] - quotas[i])[: units - sum(given)]:  # the largest remainders
        given[i] += 1
    return [part + more for part, more in zip(parts, given, strict=True)]


class ClientShares:
    """The controller's side: feed it each gateway's report, ask it for that gateway's answer.

    Who asks little keeps even parts. Targets are made once a round of answers, so that an answer costs little.
    """

    def __init__(self) -> None:
        self._uses: dict[str, Mapping[str, ClientUse]] = {}
        self._shared: dict[str, _Shared] = {}
        self._answered: set[str] = set()  # in this round

    def observe(self, gateway: str, uses: Mapping[str, ClientUse]) -> None:
        self._uses[gateway] = uses

    def remove(self, gateway: str) -> None:
        """Its share is free again."""
        if self._uses.pop(gateway, None) is not None:
            self._begin_round()

    def answer(self, gateway: str) -> dict[str, ClientShare]:
        """This gateway's shares of the clients that ask for much; it must have been observed."""
        if not self._answered or gateway in self._answered or any(gateway not in shared.granted for shared in self._shared.values()):
            self._begin_round()
        self._answered.add(gateway)
        uses, nothing = self._uses.get(gateway, {}), ClientUse(Amounts(), Amounts(), Amounts())
        return {client: shared.answer(gateway, uses.get(client, nothing).used) for client, shared in self._shared.items()}

    def _begin_round(self) -> None:
        self._answered.clear()
        names = sorted(self._uses)
        limits = {client: use.limits for name in names for client, use in self._uses[name].items() if self._is_much(use)}
        former, self._shared = self._shared, {}
        # Who asks little again holds even parts before it is left out: a gateway that is told nothing holds one.
        fading = {client: shared.limits for client, shared in former.items() if client not in limits and not shared.is_even()}
        for client, limit in (limits | fading).items():
            nothing = ClientUse(limit, Amounts(), Amounts())
            uses = {name: self._uses[name].get(client, nothing) for name in names}
            self._shared[client] = _Shared(limit, uses, former[client].granted if client in former else {}, client in fading)

    def _is_much(self, use: ClientUse) -> bool:
        """More than half of an even part, in use or in one request."""
        part = even_part(use.limits, len(self._uses))
        refused = use.wanted.requests if part.requests < 1 else 0.0  # of an even part that has room for none, nothing is used
        asked = (max(use.used.requests, refused), max(use.used.tokens, use.largest), max(use.used.streams, use.wanted.streams))
        return any(2 * amount > held for amount, held in zip(asked, (part.requests, part.tokens, part.streams), strict=True))


class _Shared:
    """One client's round: what each gateway should hold, and what each holds."""

    def __init__(self, limits: Amounts, uses: Mapping[str, ClientUse], granted: Mapping[str, Amounts], fading: bool) -> None:
        self.limits = limits
        self._used = {name: use.used for name, use in uses.items()}
        self._all_used = _sum(self._used.values())
        self._even = even_part(limits, len(uses))
        wanted = [self._even] * len(uses) if fading else targets(limits, list(uses.values()))
        self._targets = dict(zip(uses, wanted, strict=True))
        self.granted = {name: granted.get(name, self._even) for name in uses}
        self._held = _sum(self.granted.values())

    def is_even(self) -> bool:
        return all(held == self._even for held in self.granted.values())

    def answer(self, gateway: str, used_by_now: Amounts) -> ClientShare:
        """`used_by_now` may be more than what the round's targets knew of."""
        own, target = self.granted[gateway], self._targets[gateway]
        amounts = (target, self.limits, self._held, own, used_by_now)
        share = Amounts(*(_at_most(*(getattr(each, name) for each in amounts)) for name in FIELDS))
        self.granted[gateway] = share
        self._held = Amounts(*(getattr(self._held, name) + getattr(share, name) - getattr(own, name) for name in FIELDS))
        used = self._used[gateway]
        return ClientShare(share, Amounts(*(getattr(self._all_used, name) - getattr(used, name) for name in FIELDS)))


FIELDS = ("requests", "tokens", "streams")


def _at_most(target: float, limit: float, held: float, own: float, used: float) -> float:
    """`target`, but not what others hold: `held` by all, `own` included. What is `used` of `own` is no one else's, whatever the target.
    Nothing is subtracted from infinity."""
    return target if math.isinf(limit) else max(0.0, min(target, limit - held + own), min(used, own))


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    total = Amounts()
    for each in amounts:
        total = total.plus(each)
    return total
