"""Cluster-wide goodput: rates from counters, figures of the pools, and what one more replica adds."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster_goodput import measure
from controller.marginal_goodput import (
    first_drafter,
    one_drafter_fewer,
    one_more_drafter,
    one_more_verifier,
    one_verifier_fewer,
)  # fmt: skip
from controller.pool_rates import Member
from controller.replica_rates import WINDOW_S, Rates, ReplicaRates
from drafthouse.wire.reports import DrafterReport, VerifierReport
from tests.unit.reports import drafter_report, drafter_totals, verifier_report, verifier_totals


def rates_of(*samples: tuple[float, float]) -> ReplicaRates[VerifierReport]:
    """(time, committed tokens) of each report."""
    rates = ReplicaRates[VerifierReport]()
    for now, committed in samples:
        rates.observe(verifier_report(totals=verifier_totals(committed=committed)), now)
    return rates


def committed(rates: Rates[VerifierReport] | None) -> float | None:
    return None if rates is None else rates.per_s(lambda r: r.totals.verify.committed)


def test_one_report_has_no_rate():
    assert rates_of((0.0, 5.0)).over_window() is None


def test_rates_over_the_window_and_between_the_last_two_reports():
    rates = rates_of((0.0, 0.0), (1.0, 10.0), (2.0, 40.0))
    assert committed(rates.over_window()) == 20.0
    assert committed(rates.latest()) == 30.0


def test_what_lies_before_the_window_is_forgotten():
    rates = rates_of(*((float(i), 100.0 if i else 0.0) for i in range(int(2 * WINDOW_S))))
    assert committed(rates.over_window()) == 0.0
    assert len(rates._samples) == WINDOW_S + 1


def test_reports_rarer_than_the_window_still_have_a_rate():
    rates = rates_of((0.0, 0.0), (50.0, 100.0), (100.0, 300.0))
    assert committed(rates.over_window()) == 4.0


def test_a_counter_that_goes_back_starts_anew():
    rates = rates_of((0.0, 90.0), (1.0, 100.0), (2.0, 3.0))
    assert rates.over_window() is None
    rates.observe(verifier_report(totals=verifier_totals(committed=8.0)), 3.0)
    assert committed(rates.over_window()) == 5.0


def test_a_second_report_of_the_same_moment_replaces_the_first():
    rates = rates_of((0.0, 1.0), (1.0, 2.0), (1.0, 5.0))
    assert committed(rates.over_window()) == 4.0


VERIFIER_RATES = {
    "committed": 300.0, "accepted": 200.0, "verified": 400.0, "predicted_tokens": 250.0, "predicted_seconds": 0.5, "run_seconds": 0.6,
    "step_seconds": 0.8, "wait_seconds": 0.2, "steps": 50.0,
}  # fmt: skip
VERIFIER_GAUGES = {
    "price": 0.2, "waiting": 3, "running": 2, "decoding": 2, "step_seconds_base": 0.012, "step_seconds_least": 0.01,
    "seconds_per_node": 0.0005, "max_sequences": 2, "load": 5,
}  # fmt: skip


def verifier(name: str = "v0", rates: dict[str, float] | None = None, **gauges: float) -> Member[VerifierReport]:
    """Two reports a second apart; `rates` are those that differ from VERIFIER_RATES."""
    before = verifier_report(name, **VERIFIER_GAUGES | gauges)
    after = replace(before, totals=verifier_totals(**VERIFIER_RATES | (rates or {})))
    return Member(after, Rates(before, after, 1.0))


def drafter(name: str = "d0", load: int = 2, **rates: float) -> Member[DrafterReport]:
    before = drafter_report(name, load=load)
    after = replace(before, totals=drafter_totals(**{"drafted": 500.0, "busy_seconds": 0.5, "refused": 0.0} | rates))
    return Member(after, Rates(before, after, 1.0))


def test_figures_of_the_pools():
    found = measure([verifier(), verifier("v1", price=0.6)], [drafter()], 0.1)
    assert (found.committed_per_s, found.accepted_per_s, found.verified_per_s) == (600.0, 400.0, 800.0)
    assert (found.drafted_per_s, found.wasted_per_s, found.rejected_per_s) == (500.0, 100.0, 400.0)
    assert (found.tokens_over_predicted, found.seconds_over_predicted) == (1.2, 1.2)
    assert (found.price_median, found.price_lowest, found.price_highest, found.price_floor) == (0.4, 0.2, 0.6, 0.1)
    assert (found.verifier_utilisation, found.between_steps_share, found.drafter_utilisation) == (0.8, 0.2, 0.5)
    assert found.queue == 6
    assert found.committed_per_s_by_verifier == {"v0": 300.0, "v1": 300.0}


def test_what_is_not_known_is_none():
    found = measure([], [], 0.0)
    assert (found.price_median, found.drafter_utilisation, found.one_more_verifier_per_s, found.tokens_over_predicted) == (None,) * 4
    fresh = measure([Member(verifier_report(price=0.1), None)], [Member(drafter_report(), None)], 0.0)
    assert (fresh.verifier_utilisation, fresh.one_more_drafter_per_s, fresh.price_median) == (None, None, 0.1)


def test_a_price_without_bound_is_left_out():
    assert measure([Member(verifier_report(price=math.inf), None)], [], 0.0).price_median is None


def test_json_and_log_line():
    found = measure([verifier()], [drafter()], 0.1)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["committed_per_s"] == 300.0
    line = found.log_line()
    assert line.startswith("goodput committed_per_s=300 ")
    assert "\n" not in line
    assert "None" not in measure([], [], 0.0).log_line()


def test_one_more_verifier_in_the_pool_s_own_figures():
    # 2 sequences a step, of 20 ms; one costs 2 ms (base beyond the least) and 4 nodes at 0.5 ms. Three wait: two of them get places.
    found = measure([verifier()], [], 0.0)
    assert found.one_more_verifier_per_s == pytest.approx(one_more_verifier(300.0, 1, 2.0, 3, 0.02, 0.002 + 4 * 0.0005))
    assert found.one_more_verifier_per_s == pytest.approx(300.0)  # as much as the one that is there


def test_spreading_sequences_saves_their_share_of_the_step():
    # 32 sequences, 0.1 ms each, of a 10 ms step: 16 on each of two verifiers step in 8.4 ms.
    assert one_more_verifier(1000.0, 1, 32.0, 0, 0.010, 0.0001) == pytest.approx(1000.0 * (10 / 8.4 - 1))


def test_one_sequence_cannot_be_spread():
    assert one_more_verifier(100.0, 1, 1.0, 0, 0.01, 0.005) == 0.0
    assert one_more_verifier(100.0, 4, 1.0, 0, 0.01, 0.005) == 0.0


def test_a_full_cluster_with_a_queue_gains_an_equal_share():
    assert one_more_verifier(1000.0, 4, 32.0, 500, 0.01, 0.0001) == pytest.approx(250.0)


@given(
    verifiers=st.integers(1, 50), batch=st.floats(0.5, 256), waiting=st.integers(0, 500), step_s=st.floats(1e-3, 1.0),
    share=st.floats(0.0, 2.0),
)  # fmt: skip
def test_one_more_verifier_adds_no_more_than_in_proportion(verifiers, batch, waiting, step_s, share):
    gain = one_more_verifier(1000.0, verifiers, batch, waiting, step_s, share * step_s / batch)
    assert 0.0 <= gain <= 1000.0 / verifiers * (1 + 1e-9)


def test_one_more_drafter_is_worth_nothing_where_drafters_keep_up():
    assert one_more_drafter(1000.0, 4, 0.75, 0.3, 0.05, 0.0, 50.0) == 0.0


def test_one_more_drafter_drafts_what_the_floor_refuses():
    # 250 more nodes a second, worth between 0.3 and 0.24, at a price of 0.05.
    assert one_more_drafter(1000.0, 4, 1.0, 0.3, 0.05, 0.0, 0.0) == pytest.approx(250 * (0.27 - 0.05))
    assert one_more_drafter(1000.0, 4, 0.9, 0.3, 0.05, 0.0, 0.0) == pytest.approx(125 * (0.27 - 0.05))
    assert one_more_drafter(1000.0, 4, 1.0, 0.05, 0.05, 0.0, 0.0) == 0.0  # no floor: whoever lacks nodes lacks no price


def test_one_more_drafter_takes_sessions_that_are_refused():
    # 2 verifiers with 10 running each, 16 sessions on 2 drafters; 400 tokens/s accepted: 25 a session; room for 8, 4 lack one.
    verifiers = [verifier(running=10), verifier("v1", running=10)]
    full = [drafter(load=8, busy_seconds=1.0, refused=1.0), drafter("d1", 8, busy_seconds=1.0)]
    assert measure(verifiers, full, 0.0).one_more_drafter_per_s == pytest.approx(100.0)
    content = [drafter(load=8, busy_seconds=1.0), drafter("d1", 8, busy_seconds=1.0)]
    content_verifiers = [verifier(name, {"wait_seconds": 0.0}, running=10) for name in ("v0", "v1")]
    assert measure(content_verifiers, content, 0.0).one_more_drafter_per_s == 0.0


def test_one_more_drafter_takes_refused_sessions_however_little_the_others_draft():
    assert one_more_drafter(1000.0, 4, 0.1, 0.05, 0.05, 30.0, 0.0) == 30.0


def test_one_more_drafter_shortens_waits_for_drafts_that_are_shared():
    # Half of the verifier's time waits for one drafter with four sessions: of its 300 tokens/s, 0.5 x 3/4 / 2 come with another.
    waits = verifier(rates={"step_seconds": 0.5, "wait_seconds": 0.5})
    assert measure([waits], [drafter(load=4, busy_seconds=1.0)], 0.0).one_more_drafter_per_s == pytest.approx(300 * 0.5 * 0.75 / 2)
    assert measure([waits], [drafter(load=1, busy_seconds=1.0)], 0.0).one_more_drafter_per_s == 0.0


def test_the_last_verifier_is_worth_all_and_one_with_a_queue_its_share():
    assert one_verifier_fewer(300.0, 1, 0.1, 0, 0.0, 0.02, 0.001) == 300.0
    assert one_verifier_fewer(300.0, 3, 9.0, 1, 0.5, 0.02, 0.001) == 100.0


def test_one_verifier_fewer_makes_steps_longer_or_places_scarce():
    # Eight in flight, 4 on each of two: 8 on one, whose step of 20 ms takes 4 ms longer.
    assert one_verifier_fewer(300.0, 2, 8.0, 0, 0.3, 0.02, 0.001) == pytest.approx(300 * (1 - 20 / 24))
    assert one_verifier_fewer(300.0, 2, 8.0, 0, 0.5, 0.02, 0.001) == 150.0  # the other would be full
    assert one_verifier_fewer(300.0, 2, 0.9, 0, 0.1, 0.02, 0.001) == 0.0  # one sequence at a time needs one verifier


@given(verifiers=st.integers(1, 20), batch=st.floats(1.0, 64.0), step_s=st.floats(1e-3, 0.1), share=st.floats(0.0, 0.9))
def test_what_one_more_adds_is_what_one_fewer_loses_after_it(verifiers, batch, step_s, share):
    """Of sequences that all have places, so that a pool which grew does not shrink for it."""
    sequence_s = share * step_s / batch
    gain = one_more_verifier(1000.0, verifiers, batch, 0, step_s, sequence_s)
    later = max(1.0, batch * verifiers / (verifiers + 1))
    later_s = step_s - sequence_s * (batch - later)
    loss = one_verifier_fewer(1000.0 + gain, verifiers + 1, later * (verifiers + 1), 0, 0.0, later_s, sequence_s)
    assert loss >= gain - 1e-6 or loss == pytest.approx((1000.0 + gain) / (verifiers + 1))


def test_the_first_drafter_by_bid_and_price():
    assert first_drafter(100.0, 0.9, 0.2) == pytest.approx(70.0)
    assert first_drafter(100.0, 0.5, 0.7) == 0.0  # drafts cost more than they bring
    assert measure([verifier(best_edge=0.9)], [], 0.0).one_more_drafter_per_s == pytest.approx(70.0)  # 100 sequences stepped
    assert measure([verifier(best_edge=0.9)], [drafter()], 0.0).first_drafter_per_s == pytest.approx(70.0)


def test_one_drafter_fewer():
    assert one_drafter_fewer(200.0, 1, 0.1, 0.0) == 200.0  # all that drafts bring
    assert one_drafter_fewer(200.0, 2, 0.6, 0.0) == 100.0  # its sessions find no place
    assert one_drafter_fewer(200.0, 3, 0.2, 50.0) == 25.0  # waits grow by a half
    assert one_drafter_fewer(0.0, 2, 0.2, 50.0) == 0.0


def test_drafts_of_stages_in_the_verifier_are_not_the_drafters():
    local = verifier(rates={"stage_nodes": 1500.0})
    assert measure([local], [drafter()], 0.0).one_fewer_drafter_per_s == pytest.approx(200.0 * 500 / 2000)


def test_fill_is_of_places_or_of_kv_slots():
    found = measure([verifier(max_sequences=8, kv_slots=100, kv_slots_used=60), verifier("v1", max_sequences=4)], [drafter()], 0.0)
    assert found.verifier_fill == pytest.approx((0.6 + 0.5) / 2)
    assert found.drafter_fill == pytest.approx(2 / 8)
    assert measure([], [], 0.0).drafter_fill is None


def test_only_those_queue_whom_the_next_step_cannot_admit():
    def queue(**gauges: float) -> int:
        return measure([verifier(**gauges)], [], 0.0).queue

    assert queue(max_sequences=8, running=4, waiting=3) == 0
    assert queue(max_sequences=8, running=7, waiting=3) == 2
    assert queue(max_sequences=8, running=4, waiting=3, kv_slots=100, kv_slots_used=90) == 3
