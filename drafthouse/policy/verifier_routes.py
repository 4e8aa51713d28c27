"""Which verifier takes the next request: the routing table and what this gateway has sent since.

Promises: picks the lowest share of capacity in use, ties at random so that gateways do not herd;
a route's load is what it reported or what this gateway itself has running there, whichever is more,
plus what this gateway has started since the report. A replica that failed or drains comes last for SHUN_S, since the
controller may need as long to take it out.
"""

from collections import Counter
from collections.abc import Callable, Container

from drafthouse.wire.membership import Route

SHUN_S = 10.0


class VerifierRoutes:
    """Replaced as a whole with each directive. `now` is in seconds, on any clock that is always the same."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """`draw` gives independent numbers that decide between equals."""
        self._draw = draw
        self._routes: tuple[Route, ...] = ()
        self._running: Counter[str] = Counter()  # by replica: this gateway's own
        self._since_report: Counter[str] = Counter()
        self._shunned: dict[str, float] = {}  # until when

    def __len__(self) -> int:
        return len(self._routes)

    def replace(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        self._since_report.clear()
        names = {route.replica for route in routes}
        self._shunned = {replica: until for replica, until in self._shunned.items() if replica in names}

    @property
    def capacity(self) -> int:
        """Requests that all replicas together take, those that wait included; 0 where none is known."""
        return sum(route.capacity for route in self._routes)

    def addresses(self) -> set[str]:
        return {route.address for route in self._routes}

    def started(self, route: Route) -> None:
        self._running[route.replica] += 1
        self._since_report[route.replica] += 1

    def ended(self, route: Route) -> None:
        self._running[route.replica] -= 1
        self._since_report[route.replica] -= 1
        if not self._running[route.replica]:
            del self._running[route.replica]

    def shun(self, replica: str, now: float) -> None:
        self._shunned[replica] = now + SHUN_S

    def pick(self, fingerprint: str | None, avoid: Container[str], now: float) -> Route | None:
        """The least loaded route of this fingerprint (None: any) whose replica is not to be avoided."""
        fitting = self._fitting(fingerprint, avoid)
        return min(fitting, key=lambda route: (self._is_shunned(route, now), self._share(route), self._draw()), default=None)

    def another(self, fingerprint: str | None, than: str, now: float) -> bool:
        """Whether a replica that nothing speaks against could take over from this one."""
        return any(not self._is_shunned(route, now) for route in self._fitting(fingerprint, {than}))

    def fitting(self, fingerprint: str | None) -> int:
        return len(self._fitting(fingerprint, ()))

    def _fitting(self, fingerprint: str | None, avoid: Container[str]) -> list[Route]:
        return [r for r in self._routes if r.replica not in avoid and fingerprint in (None, r.fingerprint)]

    def _is_shunned(self, route: Route, now: float) -> bool:
        return self._shunned.get(route.replica, now) > now

    def _share(self, route: Route) -> float:
        reported = route.load + self._since_report[route.replica]
        return max(reported, self._running[route.replica], 0) / max(route.capacity, 1)
