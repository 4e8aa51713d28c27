"""The routing table: what is kept between reports is what a new table would say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import routing_table
from controller.routing_table import RoutingTable
from tests.unit.reports import report

ROLES, CHANGES = ("verifier", "drafter", "gateway"), ("put", "drain", "remove")
events = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 3), st.sampled_from(CHANGES), st.integers(0, 9)), max_size=30)


@given(events)
def test_it_equals_a_table_made_anew(history):
    table, alive = RoutingTable(), {}
    for role, number, event, load in history:
        name = f"{role}{number}"
        if event == "remove":
            if alive.pop((role, name), None) is not None:
                table.remove(role, name)
        else:
            alive[role, name] = one = report(role, name, load=load, draining=event == "drain")
            table.put(one)
        fresh = RoutingTable()
        for one in alive.values():
            fresh.put(one)
        assert table.verifiers() == fresh.verifiers()
        assert [route.replica for route in table.verifiers()] == sorted(
            one.replica.name for one in alive.values() if one.role == "verifier" and not one.draining
        )
        for one in alive.values():
            assert table.drafters_of(one.replica.name, 0.0, 0.0) == fresh.drafters_of(one.replica.name, 0.0, 0.0)


@pytest.fixture
def pairings(monkeypatch) -> list[int]:
    """Grows by one with each pairing."""
    calls: list[int] = []
    pair = routing_table.pair

    def counted(verifiers, drafters):
        calls.append(len(drafters))
        return pair(verifiers, drafters)

    monkeypatch.setattr(routing_table, "pair", counted)
    return calls


def test_pairs_are_renewed_only_when_somebody_came_or_went(pairings):
    table = RoutingTable()
    table.put(report("verifier", "v"))
    table.put(report("drafter", "d"))
    for load in range(5):
        table.put(report("drafter", "d", load=load))
        assert table.drafters_of("v", float(load), 0.0)[0].load == load
    assert pairings == [1]


def test_a_large_pool_that_starts_is_paired_once_an_interval(pairings):
    table = RoutingTable()
    table.put(report("verifier", "v"))
    for i in range(100):
        table.put(report("drafter", f"d{i:03d}"))
        table.drafters_of("v", 0.01 * i, 0.5)
    assert pairings == [1, 51]
    table.remove("drafter", "d000")
    assert "d000" not in [route.replica for route in table.drafters_of("v", 1.0, 100.0)]  # gone at once, though not yet replaced
