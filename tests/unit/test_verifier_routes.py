"""Which verifier is picked."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.sent_prefixes import blocks_of
from drafthouse.policy.set_aside import FIRST_S
from drafthouse.policy.verifier_routes import LEAD_SHARE, VerifierRoutes
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
        routes.started(picked[-1], 0.0)
    assert [one.replica for one in picked].count("a") == 3
    routes.replace((a, b))  # a report from before the dispatch does not hide what runs there
    routes.ended(b)
    routes.ended(b)
    assert routes.pick(None, (), 0.0).replica == "b"


def test_ties_are_broken_at_random():
    routes = VerifierRoutes(random.Random(1).random)
    routes.replace((route("a", 2), route("b", 2)))
    assert {routes.pick(None, (), 0.0).replica for _ in range(40)} == {"a", "b"}


def test_a_replica_set_aside_comes_last_for_a_while():
    routes = VerifierRoutes(random.random)
    routes.replace((route("a", 0), route("b", 5)))
    routes.gone("a", 100.0)
    assert routes.pick(None, (), 100.1).replica == "b"
    assert routes.pick(None, {"b"}, 100.1).replica == "a"
    assert not routes.another(None, {"b"}, 100.1)
    assert routes.another(None, {"b"}, 100.1 + FIRST_S)
    assert routes.pick(None, (), 100.1 + FIRST_S).replica == "a"
    routes.gone("a", 200.0)
    routes.replace((route("b", 5),))
    routes.replace((route("a", 0), route("b", 5)))  # routed anew: the controller has heard from it
    assert routes.pick(None, (), 200.1).replica == "a"


TEXT = blocks_of("", range(1000), ())


def caching(replica: str, load: int, capacity: int = 8) -> Route:
    """Of whose capacity all run at once."""
    return replace(route(replica, load, capacity), caches_prefixes=True, max_sequences=capacity)


def sent(routes: VerifierRoutes, one: Route, blocks: Sequence[int]) -> None:
    """A text that was served there and is over."""
    routes.started(one, 0.0)
    routes.ended(one, blocks)


def test_a_text_goes_where_its_longest_beginning_went():
    routes = VerifierRoutes(random.random)
    a, b, c = (caching(name, 2, capacity=64) for name in "abc")
    routes.replace((a, b, c))
    sent(routes, a, TEXT[:5])
    sent(routes, c, TEXT[:20])
    routes.started(b, 0.0, blocks_of("", range(1, 1000), ()))
    assert routes.pick(None, (), 0.0, TEXT).replica == "c"
    assert routes.pick(None, {"c"}, 0.0, TEXT).replica == "a"
    assert routes.pick("other", (), 0.0, TEXT) is None


def test_a_text_goes_elsewhere_once_its_beginning_is_not_worth_the_load():
    """640 tokens are worth two and a half requests, however short the text one, and however long a sixteenth of the capacity."""
    for (blocks, most), (had, other) in itertools.product(((20, 2), (1, 1), (256, 4)), ("ab", "ba")):
        routes = VerifierRoutes(random.random)
        text = blocks_of("", range(32 * blocks), ())
        for load in range(8):
            one = caching(had, load, 64)
            routes.replace((one, caching(other, 0, 64)))
            sent(routes, one, text)
            assert routes.pick(None, (), 0.0, text).replica == (had if load <= most else other), (blocks, load)


def test_a_burst_that_begins_alike_stays_together_within_the_bound():
    routes = VerifierRoutes(random.random)
    a, b = caching("a", 0, 64), caching("b", 0, 64)
    routes.replace((a, b))
    picked = []
    for _ in range(8):
        picked.append(routes.pick(None, (), 0.0, TEXT[:20]))
        routes.started(picked[-1], 0.0, TEXT[:20])
    first = picked[0].replica
    assert [one.replica for one in picked].index("b" if first == "a" else "a") == 3, "two and a half requests ahead"
    assert [one.replica for one in picked].count(first) in (4, 5), "then both have it"


def test_a_prefix_is_worth_a_share_of_what_runs_at_once_and_not_of_the_queue():
    routes = VerifierRoutes(random.random)
    for load in range(6):
        had, other = (replace(caching(name, n, 288), max_sequences=32) for name, n in (("a", load), ("b", 0)))
        routes.replace((had, other))
        sent(routes, had, TEXT)
        assert routes.pick(None, (), 0.0, TEXT).replica == ("a" if load <= 2 else "b"), load


def test_no_text_waits_for_its_beginning_while_another_verifier_has_a_free_place():
    routes = VerifierRoutes(random.random)

    def picked(loads: tuple[int, int, int]) -> str:
        a, b, c = (replace(caching(name, load, 64), max_sequences=8) for name, load in zip("abc", loads, strict=True))
        routes.replace((a, b, c))
        sent(routes, a, TEXT)
        return routes.pick(None, (), 0.0, TEXT).replica

    assert picked((7, 7, 7)) == "a"
    assert picked((8, 8, 7)) == "c"
    assert picked((8, 8, 8)) == "a", "it waits everywhere"
    routes.gone("c", 0.0)
    assert picked((8, 8, 7)) == "a", "a place at one that failed is none"


def test_what_a_verifier_was_sent_is_forgotten_with_it():
    routes = VerifierRoutes(random.random)
    a, b = caching("a", 1), caching("b", 0)
    routes.replace((a, b))
    sent(routes, a, TEXT)
    assert routes.pick(None, (), 0.0, TEXT).replica == "a"
    routes.replace((b,))
    routes.replace((a, b))
    assert routes.pick(None, (), 0.0, TEXT).replica == "b", "it was gone"
    sent(routes, a, TEXT)
    routes.replace((replace(a, address="a:2"), b))
    assert routes.pick(None, (), 0.0, TEXT).replica == "b", "it has restarted"
    routes.replace((a, b))
    sent(routes, a, TEXT)
    routes.gone("a", 0.0)
    assert routes.pick(None, (), FIRST_S, TEXT).replica == "b", "it failed"


def test_a_verifier_without_a_cache_remembers_nothing():
    routes = VerifierRoutes(random.random)
    a, b = route("a", 1), caching("b", 0)
    routes.replace((a, b))
    sent(routes, a, TEXT)
    assert routes.pick(None, (), 0.0, TEXT).replica == "b"


def test_gateways_that_know_nothing_of_each_other_send_a_beginning_to_one_verifier():
    names = [f"v{i}" for i in range(5)]
    chosen = []
    for seed in range(2):
        routes = VerifierRoutes(random.Random(seed).random)
        routes.replace(tuple(caching(name, 3) for name in names))
        chosen.append([routes.pick(None, (), 0.0, blocks_of("", [i] * 40, ())).replica for i in range(40)])
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == set(names), "and others to others"


loads = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 8, 64, 288])), min_size=1, max_size=5)
told = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 31)), max_size=6)
"""Verifier, and how many blocks of the text it was sent."""


@given(loads, told, st.integers(0, 31), st.integers(0, 99))
def test_no_verifier_is_picked_while_another_is_much_emptier(loads, told, length, seed):
    def picked() -> Route:
        routes = VerifierRoutes(random.Random(seed).random)
        table = [caching(str(i), load, capacity) for i, (load, capacity) in enumerate(loads)]
        routes.replace(tuple(table))
        for i, blocks in told:
            sent(routes, table[i % len(table)], TEXT[:blocks])
        return routes.pick(None, (), 0.0, TEXT[:length])

    chosen = picked()
    for load, capacity in loads:
        assert chosen.load / chosen.capacity <= load / capacity + max(1 / capacity, LEAD_SHARE) + 1e-9
    assert picked() == chosen, "the same facts and draws, the same verifier"
