"""Sizes of pools: bounds, hysteresis, delays, and the loop closed over a cluster whose queue and speed follow the sizes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster_goodput import measure
from controller.gateway_size import GatewayLoad
from controller.marginal_goodput import one_more_verifier, one_verifier_fewer
from controller.pool_sizes import GROWN, KEEP_SHARE, RETRY_S, PoolSize, PoolSizes, Worth, worths
from drafthouse.config.autoscaling import AutoscalingConfig, PoolBounds, VerifierBounds
from tests.unit.test_cluster_goodput import VERIFIER_RATES, drafter, verifier

BOUNDS = PoolBounds(min=1, max=8, min_gain_share=0.3, up_delay_s=3.0, down_delay_s=10.0, cool_down_s=5.0)
BUSY, IDLE, CONTENT = Worth(0.9, 0.9), Worth(0.0, 0.0), Worth(0.2, 0.2)


class Pool:
    """Serve, which brings and takes replicas `start_s` after it was told."""

    def __init__(self, bounds: PoolBounds = BOUNDS, replicas: int = 1, start_s: float = 4.0):
        self.size, self.start_s = PoolSize(bounds), start_s
        self.ordered = self.live = replicas
        self.now = 0.0
        self.history: list[int] = []
        self._due = 0.0

    def second(self, worth: Worth) -> int:
        self.now += 1.0
        if self.now >= self._due:
            self.live = self.ordered
        told = self.size.decide(self.ordered, self.live, worth, self.now)
        if told != self.ordered:
            self.ordered, self._due = told, self.now + self.start_s
        self.history.append(self.ordered)
        return self.ordered

    def seconds(self, worth: Worth, count: int) -> int:
        for _ in range(count):
            self.second(worth)
        return self.ordered

    def changes(self) -> int:
        return sum(a != b for a, b in zip(self.history, self.history[1:], strict=False))


def test_grows_only_after_cool_down_and_delay():
    pool = Pool()
    assert pool.seconds(BUSY, 5) == 1
    assert pool.size.reason == "cools down after a change"
    assert pool.seconds(BUSY, 3) == 1
    assert pool.seconds(BUSY, 1) == 2
    assert pool.size.reason == "one more would add 0.90 of a verifier's goodput, 0.30 is asked"


def test_waits_for_what_it_ordered():
    pool = Pool(start_s=60.0)
    assert pool.seconds(BUSY, 60) == 2
    assert "1 ordered before have yet to come" in pool.size.reason
    assert pool.seconds(BUSY, 60) == 3


def test_what_was_seen_before_replicas_came_is_forgotten():
    pool = Pool(start_s=60.0)
    pool.seconds(BUSY, 9)
    assert pool.seconds(BUSY, 60) == 2
    assert pool.live == 2
    assert pool.seconds(BUSY, 7) == 2, "cool-down and delay begin anew"
    assert pool.seconds(BUSY, 1) == 3


def test_what_cannot_be_placed_is_given_up_when_the_load_falls():
    pool = Pool(replicas=2, start_s=1e9)
    assert pool.seconds(BUSY, 20) == 3
    assert pool.seconds(IDLE, 40) == 1


def test_shrinks_later_than_it_grows_and_never_below_the_least():
    pool = Pool(replicas=3)
    assert pool.seconds(IDLE, 14) == 3
    assert pool.seconds(IDLE, 3) == 2
    assert pool.seconds(IDLE, 100) == 1
    assert pool.size.reason.endswith("1 is the least")


def test_rests_between_the_thresholds():
    pool = Pool(replicas=3)
    assert pool.seconds(CONTENT, 500) == 3
    assert pool.changes() == 0


def test_what_is_not_known_changes_nothing():
    assert Pool(replicas=3).seconds(Worth(None, None), 100) == 3


def test_a_large_pool_moves_by_a_share():
    bounds = replace_bounds(max=400)
    assert Pool(bounds, replicas=100).seconds(BUSY, 10) == 125
    assert Pool(bounds, replicas=100).seconds(IDLE, 17) == 90


def test_a_size_set_by_hand_outside_the_bounds_is_put_back():
    assert Pool(replicas=20).second(CONTENT) == 8
    assert Pool(replicas=0).second(CONTENT) == 1


def replace_bounds(**fields: float) -> PoolBounds:
    return BOUNDS.model_copy(update=fields)


ZERO = replace_bounds(min=0)


def test_no_drafters_while_drafts_do_not_pay_and_back_when_they_would():
    pool = Pool(ZERO)
    assert pool.seconds(Worth(0.0, 0.0, 0.0), 20) == 0  # the price is above the best edge: nothing is drafted
    assert pool.seconds(Worth(0.0, None, 0.0), 100) == 0
    assert pool.seconds(Worth(0.9, None, 0.9), 10) == 1


def test_drafts_that_disappointed_are_not_tried_again_at_once():
    pool = Pool(ZERO)
    assert pool.seconds(Worth(0.0, 0.05, 0.9), 20) == 0
    assert pool.seconds(Worth(0.9, None, 0.9), int(RETRY_S) - 20) == 0
    assert pool.seconds(Worth(0.9, None, 0.9), 24) == 1


def test_pauses_do_not_make_drafts_that_disappointed_look_new():
    """Requests with speculation off, ten seconds in fifteen; an idle look says nothing of drafts."""
    pool = Pool(ZERO)

    def traffic(seconds: int) -> None:
        for second in range(seconds):
            busy = Worth(0.0, 0.0, 0.9) if pool.live else Worth(0.9, None, 0.9)
            pool.second(IDLE if second % 15 >= 10 else busy)

    traffic(int(RETRY_S))
    assert pool.ordered == 0
    assert pool.changes() == 1
    traffic(60)
    assert pool.changes() > 1, "in the end it is tried again"


def test_pauses_alone_say_nothing_against_drafts():
    pool = Pool(ZERO)
    assert pool.seconds(IDLE, 20) == 0
    assert pool.seconds(Worth(0.9, None, 0.9), 10) == 1


def test_load_that_has_just_come_does_not_find_the_drafter_gone():
    pool = Pool(ZERO)
    pool.seconds(IDLE, 14)
    assert pool.seconds(Worth(0.0, 0.29, 0.6), 1) == 1, "the mean is nearly that of idleness"
    assert pool.seconds(IDLE, 20) == 0
    assert pool.seconds(Worth(0.6, None, 0.6), 10) == 1, "nothing was said against drafts"


@given(
    replicas=st.integers(0, 12), low=st.integers(0, 6), more=st.integers(1, 6), start_s=st.floats(0.0, 30.0),
    values=st.lists(st.one_of(st.none(), st.floats(0.0, 5.0)), min_size=1, max_size=150),
)  # fmt: skip
def test_never_outside_the_bounds_nor_by_leaps(replicas, low, more, start_s, values):
    pool = Pool(replace_bounds(min=low, max=low + more), replicas, start_s)
    for value in values:
        before = pool.ordered
        told = pool.second(Worth(value, value, value or 0.0))
        assert low <= told <= low + more
        assert abs(told - before) <= max(1, before // GROWN) or not low <= before <= low + more


@given(level=st.floats(KEEP_SHARE * 0.3 + 0.01, 0.29), seed=st.integers(0, 1000))
def test_noise_between_the_thresholds_averages_out(level, seed):
    """Noise of the whole gap's width, independent each second; the delays average it."""
    noise, pool = random.Random(seed), Pool(replace_bounds(up_delay_s=20.0, down_delay_s=20.0), 4)
    middle = (0.3 + KEEP_SHARE * 0.3) / 2
    for _ in range(300):
        drawn = max(0.0, level / 4 + middle * 3 / 4 + noise.uniform(-0.075, 0.075))
        pool.second(Worth(drawn, drawn))
    assert pool.changes() == 0


PLACES, STEP_S, SEQUENCE_S = 8, 0.020, 0.001


def cluster_worth(verifiers: int, in_flight: float, noise: float = 1.0) -> Worth:
    """A closed loop of clients over verifiers whose step takes longer by the sequence, with a queue beyond their places."""
    running = min(in_flight * noise, verifiers * PLACES)
    batch = max(1.0, running / verifiers)
    step_s = STEP_S + SEQUENCE_S * batch
    committed = running / step_s
    waiting = int(max(0.0, in_flight * noise - running))
    unit = committed / verifiers
    more = one_more_verifier(committed, verifiers, batch, waiting, step_s, SEQUENCE_S)
    fewer = one_verifier_fewer(committed, verifiers, running, waiting, running / verifiers / PLACES, step_s, SEQUENCE_S)
    return Worth(more / unit, fewer / unit)


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_converges_after_a_step_of_load_up_and_down(noise):
    random_noise, pool = random.Random(1), Pool(replace_bounds(max=20))

    def load(in_flight: float, seconds: int) -> set[int]:
        """Sizes in the last third."""
        for _ in range(seconds):
            pool.second(cluster_worth(max(1, pool.live), in_flight, random_noise.uniform(1 - noise, 1 + noise)))
        return set(pool.history[-seconds // 3 :])

    low, high, again = load(2.0, 120), load(70.0, 400), load(2.0, 500)
    assert low == again == {1}
    assert len(high) == 1, "it came to rest"
    assert 9 <= high.pop() <= 13, "70 sequences want 9 verifiers, and some room"
    assert pool.changes() <= 2 * 13, "straight up and straight down"


def test_worth_is_in_shares_of_a_verifier():
    found = measure([verifier(), verifier("v1")], [drafter()], 0.1)
    unit = found.committed_per_s / 2
    assert worths(found)["verifier"].more == pytest.approx(found.one_more_verifier_per_s / unit)
    assert worths(found)["drafter"].fewer == pytest.approx(found.accepted_per_s / unit)
    silent = verifier(rates=dict.fromkeys(VERIFIER_RATES, 0.0))
    assert worths(measure([silent], [], 0.0))["verifier"] == Worth(0.0, 0.0)
    assert worths(measure([silent], [drafter()], 0.0))["drafter"] == Worth(0.0, 0.0)
    assert worths(measure([], [], 0.0))["verifier"] == Worth(None, None)


def test_pools_are_scaled_apart_and_a_fixed_one_never():
    sizes = PoolSizes(AutoscalingConfig(drafter=ZERO), {"gateway": 1, "verifier": 2, "drafter": 1})
    busy = measure([verifier(best_edge=0.95, price=0.0)], [], 0.0)
    told = [
        sizes.decide({"verifier": 2, "drafter": 0}, {"verifier": 2, "drafter": 0}, busy, GatewayLoad(), float(now)) for now in range(12)
    ]
    assert told[-1] == {"drafter": 1}
    shown = sizes.as_json({"gateway": 1, "verifier": 2, "drafter": 0})
    assert shown["verifier"] == {"actual": 2, "desired": 2, "reason": "fixed by the configuration", "least": None, "most": None}
    assert (shown["drafter"]["actual"], shown["drafter"]["desired"], shown["drafter"]["least"], shown["drafter"]["most"]) == (0, 1, 0, 8)
    assert "one more would add" in shown["drafter"]["reason"]


def test_bounds_change_while_pools_run_and_what_is_known_of_them_stays() -> None:
    sizes = PoolSizes(AutoscalingConfig(verifier=VerifierBounds(max=4)), {"gateway": 1, "verifier": 1, "drafter": 1})
    idle = measure([], [], 0.0)
    sizes.decide({"verifier": 3}, {"verifier": 3}, idle, GatewayLoad(), 0.0)
    known = sizes.scaled["verifier"]
    sizes.reconfigure(AutoscalingConfig(verifier=VerifierBounds(max=2), drafter=PoolBounds(min=0, max=3)))
    assert sizes.scaled["verifier"] is known
    assert sizes.decide({"verifier": 3, "drafter": 5}, {"verifier": 3, "drafter": 5}, idle, GatewayLoad(), 1.0) == {
        "verifier": 2,
        "drafter": 3,
    }
    sizes.reconfigure(AutoscalingConfig())
    assert sizes.decide({}, {"verifier": 9, "drafter": 9}, idle, GatewayLoad(), 2.0) == {}
    assert sizes.as_json({"gateway": 1, "verifier": 2, "drafter": 3})["verifier"]["reason"] == "fixed by the configuration"
