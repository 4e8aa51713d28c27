"""Which verifier takes the next request: the routing table and what this gateway has sent since.

Promises: picks the lowest share of capacity in use, but prefers a verifier whose cache should hold the text's beginning, by at
most LEAD_SHARE of the requests that run at once there, or one, and not where it would wait while another verifier has a free place.
Between equals, texts that begin alike go to one verifier, whichever gateway sends them; short ones go at random, so that gateways do
not herd. A route's load is what it reported or what this gateway itself has running there, whichever is more, plus what this gateway
has started since the report. A replica that is set aside (`set_aside`) comes last, and one that refused lately next to last.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Container, Sequence

from drafthouse.policy.moves import Seats
from drafthouse.policy.sent_prefixes import BLOCK_TOKENS, Place, SentPrefixes
from drafthouse.policy.set_aside import Aside, SetAside
from drafthouse.wire.membership import Route

TOKENS_OF_A_REQUEST = 256
"""This many tokens that a verifier need not prefill are worth one request less there: a request brings about as many to its steps."""

LEAD_SHARE = 1 / 16
"""No prefix, however long, is worth more of a verifier's places in a step than this: behind too many others it would come late anyway."""


class VerifierRoutes:
    """Replaced as a whole with each directive. `now` is in seconds, on any clock that is always the same."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """`draw` gives independent numbers that decide between equals."""
        self._draw = draw
        self._routes: tuple[Route, ...] = ()
        self._running: Counter[str] = Counter()  # by replica: this gateway's own
        self._since_report: Counter[str] = Counter()
        self._aside = SetAside()
        self._sent = SentPrefixes()

    def __len__(self) -> int:
        return len(self._routes)

    def replace(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        self._since_report.clear()
        names = {route.replica for route in routes}
        self._aside.keep(names)
        self._sent.keep({_place(route) for route in routes})

    @property
    def capacity(self) -> int:
        """Requests that all replicas together take, those that wait included; 0 where none is known."""
        return sum(route.capacity for route in self._routes)

    def replicas(self) -> set[str]:
        return {route.replica for route in self._routes}

    def addresses(self) -> set[str]:
        return {route.address for route in self._routes}

    def started(self, route: Route, now: float, blocks: Sequence[int] = ()) -> int:
        """A text of these blocks (`sent_prefixes.blocks_of`) is sent there. How many of them had been sent there before."""
        self._aside.began(route.replica, now)
        known = self._sent.tokens(_place(route), blocks) // BLOCK_TOKENS
        self._remember(route, blocks)
        self._running[route.replica] += 1
        self._since_report[route.replica] += 1
        return known

    def refused(self, route: Route, blocks: Sequence[int]) -> None:
        """It ended, and was not taken. `blocks`: those of the text that had not been sent there before."""
        self._sent.take_back(_place(route), blocks)
        self.ended(route)

    def ended(self, route: Route, blocks: Sequence[int] = ()) -> None:
        """`blocks`: of the text as it has grown there."""
        self._remember(route, blocks)
        self._running[route.replica] -= 1
        self._since_report[route.replica] -= 1
        if not self._running[route.replica]:
            del self._running[route.replica]

    def _remember(self, route: Route, blocks: Sequence[int]) -> None:
        if route.caches_prefixes:
            self._sent.remember(_place(route), blocks)

    def gone(self, replica: str, now: float, why: str = "") -> None:
        """It cannot be reached, takes no requests, or drains. What it was sent is forgotten: it may restart."""
        self._aside.gone(replica, now, why)
        self._sent.forget(replica)

    def failed(self, replica: str, request: str, now: float, why: str = "") -> None:
        """An attempt at this request broke off there, or was answered with an error, and its cache may be gone."""
        self._aside.failed(replica, request, now, why)
        self._sent.forget(replica)

    def full(self, replica: str, now: float) -> None:
        """It refused a request for want of room."""
        self._aside.refused(replica, now)

    def served(self, replica: str, request: str, began: float, now: float) -> None:
        """An attempt at this request, which began then, has got its first tokens there."""
        self._aside.served(replica, request, began, now)

    def set_aside(self) -> dict[str, Aside]:
        """By replica, of those that are routed."""
        return self._aside.all()

    def forget(self, request: str) -> None:
        """It has ended."""
        self._aside.ended(request)

    def pick(self, fingerprint: str | None, avoid: Container[str], now: float, blocks: Sequence[int] = ()) -> Route | None:
        """Where a text of these blocks goes: a route of this fingerprint (None: any) whose replica is not to be avoided."""
        fitting = self._fitting(fingerprint, avoid)
        free = any(self._has_place(route) and not self._aside.failing(route.replica, now) for route in fitting)
        worths = {route.replica: self._worth(route, blocks) if self._has_place(route) or not free else 0.0 for route in fitting}
        best = max(worths.values(), default=0.0)

        def cost(route: Route) -> tuple[bool, bool, float, float, float]:
            worth, failing, full = worths[route.replica], self._aside.failing(route.replica, now), self._aside.full(route.replica, now)
            return failing, full, self._share(route, best - worth), -worth, self._turn(route, blocks)

        return min(fitting, key=cost, default=None)

    def _worth(self, route: Route, blocks: Sequence[int]) -> float:
        """Of the beginning that its cache should hold, in requests. At least one, since loads are known only as of the last heartbeat."""
        tokens = self._sent.tokens(_place(route), blocks)
        return max(1.0, tokens / TOKENS_OF_A_REQUEST) if tokens else 0.0

    def _turn(self, route: Route, blocks: Sequence[int]) -> float:
        """Decides between equals: all gateways draw the same for a text's first block and a verifier, and without a block at random."""
        return hash((blocks[0], zlib.crc32(route.replica.encode()))) if blocks and route.caches_prefixes else self._draw()

    def another(self, fingerprint: str | None, than: Container[str], now: float) -> bool:
        """Whether a replica that nothing speaks against could take over from these."""
        return any(not self._aside.failing(route.replica, now) for route in self._fitting(fingerprint, than))

    def seats(self, now: float) -> list[Seats]:
        """Each verifier's load and room. One that has failed gets a single request, to try it."""
        return [Seats(route, self._load(route), self._room(route, now)) for route in self._routes]

    def _room(self, route: Route, now: float) -> int:
        if self._aside.failing(route.replica, now) or self._aside.full(route.replica, now) or not self._has_place(route):
            return 0
        return 1 if self._aside.on_record(route.replica) else route.max_sequences - self._load(route)

    def fitting(self, fingerprint: str | None) -> int:
        return len(self._fitting(fingerprint, ()))

    def _fitting(self, fingerprint: str | None, avoid: Container[str]) -> list[Route]:
        return [r for r in self._routes if r.replica not in avoid and fingerprint in (None, r.fingerprint)]

    def _load(self, route: Route) -> int:
        return max(route.load + self._since_report[route.replica], self._running[route.replica], 0)

    def _has_place(self, route: Route) -> bool:
        """Whether a request would run at once."""
        return self._load(route) < route.max_sequences and not route.held_up

    def _share(self, route: Route, lack: float) -> float:
        """Of its capacity in use, with what the route lacks to the best one, in requests, up to the bound."""
        load = self._load(route) + min(lack, max(1.0, LEAD_SHARE * route.max_sequences))
        return load / max(route.capacity, 1)


def _place(route: Route) -> Place:
    return route.replica, route.address
