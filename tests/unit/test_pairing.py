"""Pairing: full in small pools, even, stable and fitting in large ones."""

from collections import Counter

import pytest

from controller.pairing import MAX_DRAFTERS_PER_VERIFIER, Peer, fits, pair


def peers(prefix: str, count: int) -> list[Peer]:
    return [Peer(f"{prefix}{i}") for i in range(count)]


def served(pairs: dict[str, tuple[str, ...]]) -> Counter[str]:
    return Counter(drafter for drafters in pairs.values() for drafter in drafters)


def test_small_pools_pair_fully():
    drafters = peers("d", MAX_DRAFTERS_PER_VERIFIER)
    for mine in pair(peers("v", 3), drafters).values():
        assert set(mine) == {drafter.replica for drafter in drafters}


def test_empty_pools():
    assert pair([], peers("d", 3)) == {}
    assert pair(peers("v", 2), []) == {"v0": (), "v1": ()}


@pytest.mark.parametrize(("verifiers", "drafters"), [(4, 12), (10, 80), (20, 30), (50, 50), (7, 9)])
def test_large_pools_are_bounded_and_even(verifiers, drafters):
    pairs = pair(peers("v", verifiers), peers("d", drafters))
    assert all(len(set(mine)) == len(mine) == MAX_DRAFTERS_PER_VERIFIER for mine in pairs.values())
    counts = served(pairs)
    assert len(counts) == drafters  # none idle where there is work for all
    assert max(counts.values()) <= -(-verifiers * MAX_DRAFTERS_PER_VERIFIER // drafters) + 1


def test_order_of_the_reports_does_not_matter():
    verifiers, drafters = peers("v", 12), peers("d", 20)
    assert pair(verifiers, drafters) == pair(verifiers[::-1], drafters[::-1])


def test_a_drafter_that_leaves_moves_few_other_pairs():
    verifiers, drafters = peers("v", 20), peers("d", 30)
    before, after = pair(verifiers, drafters), pair(verifiers, drafters[1:])
    moved = sum(len(set(before[v.replica]) - set(after[v.replica]) - {"d0"}) for v in verifiers)
    assert served(after)["d0"] == 0 < served(before)["d0"]
    assert moved <= 0.1 * 20 * MAX_DRAFTERS_PER_VERIFIER


def test_affinity_differs_between_verifiers():
    assert len({mine[0] for mine in pair(peers("v", 20), peers("d", 8)).values()}) > 3


def test_only_drafters_whose_vocabulary_fits():
    drafters = [Peer("same", "qwen"), Peer("other", "llama"), Peer("silent")]
    (mine,) = pair([Peer("v", "qwen")], drafters).values()
    assert set(mine) == {"same", "silent"}
    assert fits(Peer("v"), Peer("d", "llama"))
