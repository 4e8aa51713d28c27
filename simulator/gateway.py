"""Arrivals, and the gateways that send each to a verifier by the routing table of their last directive."""

import itertools
import random
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import simpy

from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.wire.membership import Route
from simulator.options import Options
from simulator.request import Request
from simulator.verifier import SimVerifier
from simulator.wire import after


def fingerprint(target: int) -> str:
    """Of the verifiers of a target."""
    return f"target-{target}"


Arrivals = Sequence[Request]
"""By arrival."""


class Gateways:
    """`running` counts requests that have arrived and are not over."""

    def __init__(self, env: simpy.Environment, options: Options, arrivals: Arrivals):
        self.env, self.options, self.arrivals = env, options, arrivals
        self.verifiers: dict[str, SimVerifier] = {}
        draw = random.Random(options.seed).random
        self.routes = [VerifierRoutes(draw) for _ in range(options.config.gateway.replicas)]
        self.over = env.event()
        self._left = len(arrivals)
        self._via: dict[int, tuple[VerifierRoutes, Route]] = {}

    def start(self, verifiers: Sequence[SimVerifier]) -> None:
        self.verifiers = {v.name: v for v in verifiers}
        self.env.process(self._arrive())

    def finished(self, request: Request) -> None:
        routes, route = self._via.pop(id(request))
        routes.ended(route)
        self._left -= 1
        if not self._left:
            self.over.succeed()

    def _arrive(self) -> Generator[simpy.Event, Any, None]:
        for request, routes in zip(self.arrivals, itertools.cycle(self.routes), strict=False):
            if (gap := request.arrival_s - self.env.now) > 0:
                yield self.env.timeout(gap)
            route = routes.pick(fingerprint(request.target), (), self.env.now)
            assert route is not None  # gateways have their first directive before the first arrival
            routes.started(route, self.env.now)
            self._via[id(request)] = routes, route
            delay = self.options.overheads.gateway_s + self.options.round_trip_s / 2
            verifier = self.verifiers[route.replica]
            after(self.env, delay, partial(verifier.submit, request))
