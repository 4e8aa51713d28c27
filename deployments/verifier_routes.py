"""Which verifier takes the next request: the routing table and what this gateway has sent since.

Promises: picks the lowest share of capacity in use, ties at random so that gateways do not herd;
a route's load is what it reported or what this gateway itself has running there, whichever is more,
plus what this gateway has started since the report.
"""

import random
from collections import Counter
from collections.abc import Container

from drafthouse.membership import Route


class VerifierRoutes:
    """Replaced as a whole with each directive."""

    def __init__(self) -> None:
        self._routes: tuple[Route, ...] = ()
        self._running: Counter[str] = Counter()  # by replica: this gateway's own
        self._since_report: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._routes)

    def __contains__(self, replica: object) -> bool:
        return any(route.replica == replica for route in self._routes)

    def replace(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        self._since_report.clear()

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

    def pick(self, fingerprint: str | None, avoid: Container[str]) -> Route | None:
        """The least loaded route of this fingerprint (None: any) whose replica is not to be avoided."""
        fitting = [r for r in self._routes if r.replica not in avoid and fingerprint in (None, r.fingerprint)]
        return min(fitting, key=lambda route: (self._share(route), random.random()), default=None)

    def _share(self, route: Route) -> float:
        reported = route.load + self._since_report[route.replica]
        return max(reported, self._running[route.replica], 0) / max(route.capacity, 1)
