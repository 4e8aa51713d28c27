"""Which verifier is picked."""

import random

from drafthouse.policy.verifier_routes import SHUN_S, VerifierRoutes
from drafthouse.wire.membership import Route


def route(replica: str, load: int, capacity: int = 8) -> Route:
    return Route(replica, f"{replica}:1", "f", load, capacity)


def test_the_least_loaded_share_is_picked():
    routes = VerifierRoutes(random.random)
    routes.replace((route("a", 4), route("b", 3), route("c", 5, capacity=16)))
    assert routes.pick(None, (), 0.0).replica == "c"
    assert routes.pick(None, {"c"}, 0.0).replica == "b"
    assert routes.pick("other", (), 0.0) is None


def test_what_was_started_since_the_report_counts():
    routes = VerifierRoutes(random.random)
    a, b = route("a", 0), route("b", 1)
    routes.replace((a, b))
    picked = []
    for _ in range(5):
        picked.append(routes.pick(None, (), 0.0))
        routes.started(picked[-1])
    assert [one.replica for one in picked].count("a") == 3
    routes.replace((a, b))  # a report from before the dispatch does not hide what runs there
    routes.ended(b)
    routes.ended(b)
    assert routes.pick(None, (), 0.0).replica == "b"


def test_ties_are_broken_at_random():
    routes = VerifierRoutes(random.Random(1).random)
    routes.replace((route("a", 2), route("b", 2)))
    assert {routes.pick(None, (), 0.0).replica for _ in range(40)} == {"a", "b"}


def test_a_shunned_replica_comes_last_for_a_while():
    routes = VerifierRoutes(random.random)
    routes.replace((route("a", 0), route("b", 5)))
    routes.shun("a", 100.0)
    assert routes.pick(None, (), 100.1).replica == "b"
    assert routes.pick(None, {"b"}, 100.1).replica == "a"
    assert not routes.another(None, "b", 100.1)
    assert routes.another(None, "b", 100.1 + SHUN_S)
    assert routes.pick(None, (), 100.1 + SHUN_S).replica == "a"
    routes.shun("a", 200.0)
    routes.replace((route("b", 5),))
    routes.replace((route("a", 0), route("b", 5)))  # routed anew: the controller has heard from it
    assert routes.pick(None, (), 200.1).replica == "a"
