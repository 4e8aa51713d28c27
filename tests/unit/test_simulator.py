"""The simulated cluster: against arithmetic where there is any, and against what must hold whatever the policy."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve
from drafthouse.speculation import Speculation
from simulator.acceptance import Acceptance
from simulator.cluster import Cluster, arrivals, simulate
from simulator.options import Options, Overheads
from simulator.trace import TraceRequest
from tests.unit.synthetic_traces import always, never, trace

TARGET = Curve("target", "", base_ms=10.0, per_token_ms=0.02, per_kv_token_ms=0.0)
DRAFT = Curve("draft", "", base_ms=1.0, per_token_ms=0.001, per_kv_token_ms=0.0)
OFF, AUTO, CHAIN = Speculation("off"), Speculation("auto"), Speculation("fixed", 3, 3, 1)


def _options(**changes: Any) -> Options:
    made = Options(
        verifiers=1, drafters=1, rate=None, target=TARGET, draft=DRAFT, overheads=Overheads(0.0, 0.0, 0.0, 0.0, 0.001), round_trip_s=0.0
    )
    return replace(made, **changes)


def test_one_plain_request_takes_its_steps() -> None:
    outcome = simulate(_options(speculation=OFF), trace(requests=1, output_tokens=10, prompt_tokens=16))
    prefill, step = 10.0 + 16 * 0.02, 10.0 + 0.02
    assert outcome.mean_latency_s == pytest.approx((prefill + 9 * step) / 1e3)
    assert outcome.ttft_s == pytest.approx(prefill / 1e3)


def test_prompts_pass_in_chunks_and_overheads_and_trips_count() -> None:
    overheads = Overheads(step_s=0.002, sequence_s=0.001, pass_s=0.0, gateway_s=0.5, heartbeat_s=0.001)
    config = ServingConfig.model_validate({"verifier": {"step_tokens": 16}})
    options = _options(speculation=OFF, overheads=overheads, round_trip_s=0.02, config=config)
    outcome = simulate(options, trace(requests=1, output_tokens=2, prompt_tokens=40))
    chunks = sum(10.0 + n * 0.02 + 2.0 for n in (16, 16, 8))
    decoding = 10.0 + 0.02 + 2.0 + 1.0
    assert outcome.mean_latency_s == pytest.approx((chunks + decoding) / 1e3 + 2 * 0.5 + 0.02)


def test_a_time_scale_stretches_both_curves() -> None:
    recorded = trace(requests=3, gap_s=10.0)
    plain, stretched = (simulate(_options(time_scale=s), recorded).mean_latency_s for s in (1.0, 3.0))
    assert stretched == pytest.approx(3 * plain, rel=0.1)


def test_a_draft_that_is_always_right_is_verified_deep_and_one_never_right_is_given_up() -> None:
    right = simulate(_options(speculation=AUTO), trace(requests=4, output_tokens=60, position=always))
    plain = simulate(_options(speculation=OFF), trace(requests=4, output_tokens=60))
    wrong = simulate(_options(speculation=AUTO), trace(requests=4, output_tokens=60, position=never))
    assert right.tokens_per_step > 4
    assert right.mean_latency_s < 0.4 * plain.mean_latency_s
    assert wrong.accepted_share == 0.0
    assert wrong.mean_latency_s < 1.1 * plain.mean_latency_s


def test_a_fixed_chain_accepts_no_more_than_it_holds() -> None:
    outcome = simulate(_options(speculation=CHAIN), trace(requests=4, output_tokens=61, position=always))
    assert outcome.nodes_per_step <= 3
    assert 3.5 < outcome.tokens_per_step <= 4.1  # the prefill's own token counts to no decode step
    assert outcome.between_steps_share > 0


@pytest.mark.parametrize("speculation", [OFF, AUTO, CHAIN, Speculation("table")])
def test_every_request_ends_once_and_frees_what_it_held(speculation: Speculation) -> None:
    recorded = trace(requests=40, gap_s=0.02)
    options = _options(verifiers=2, drafters=2, speculation=speculation, rate=60.0, requests=60)
    rng = random.Random(0)
    requests = arrivals(options, Acceptance(recorded, None, rng))
    cluster = Cluster(options, requests, rng)
    outcome = cluster.run()
    assert outcome.served == outcome.requests == 60
    assert outcome.goodput_tokens_per_s * outcome.span_s == pytest.approx(60 * 24)
    assert all(v.slots.free_count == v.slots.count and not v.engine.sequences for v in cluster.verifiers)
    cluster.env.run(until=cluster.env.now + 0.05)  # the last Close is under way
    assert not any(d.sessions for d in cluster.drafters)


def test_a_simulation_is_a_function_of_its_seed() -> None:
    options = _options(verifiers=3, drafters=2, rate=40.0, requests=40)
    assert simulate(options, trace()) == simulate(options, trace())
    assert simulate(options, trace()) != simulate(replace(options, seed=1), trace())


def test_pools_scale_on_their_own() -> None:
    config = ServingConfig.model_validate({"verifier": {"max_sequences": 4}})
    slow = replace(DRAFT, base_ms=5.0, per_token_ms=1.0)

    def goodput(verifiers: int, drafters: int) -> float:
        """Per verifier, with more requests than can be served."""
        options = _options(
            verifiers=verifiers, drafters=drafters, rate=40.0 * verifiers, seconds=2.0, drain=False, config=config, draft=slow
        )
        return simulate(options, trace()).goodput_per_verifier

    assert goodput(4, 4) == pytest.approx(goodput(2, 2), rel=0.08)
    assert goodput(2, 6) > 1.05 * goodput(2, 1)


def test_without_drafters_auto_is_off() -> None:
    recorded = trace(requests=10, gap_s=0.05)
    auto, off = (simulate(_options(drafters=0, speculation=s), recorded) for s in (AUTO, OFF))
    assert auto.mean_latency_s == off.mean_latency_s
    assert auto.drafter_utilisation == 0.0


def test_positions_that_were_not_drafted_are_drawn_from_the_same_request() -> None:
    positions = [((0.5,), 0), None, ((0.25,), -1), None]
    request = TraceRequest(
        workload="code", temperature=0.0, arrival_s=0.0, prompt_tokens=4, output_tokens=4, latency_s=0.1, positions=tuple(positions),
    )  # fmt: skip
    other = request.model_copy(update={"positions": (((0.75,), 0),) * 4})
    text = Acceptance([request, other], None, random.Random(0)).text(0)
    assert [p.edges for p in text.positions][::2] == [(0.5,), (0.25,)]
    assert {p.edges for p in text.positions} == {(0.5,), (0.25,)}
    assert all(p.hit == -1 for p in text.off_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verifiers": 0}, "--verifiers"), ({"drafters": -1}, "--drafters"), ({"rate": -2.0}, "--rate"), ({"rate": float("nan")}, "--rate"),
        ({"rate": float("inf")}, "--rate"), ({"rate": 0.0}, "--rate"), ({"seconds": -1.0}, "--seconds"), ({"requests": 0}, "--requests"),
        ({"rate": 1.0}, "--seconds or --requests"), ({"rate": 1e9, "seconds": 10.0}, "--rate, --seconds"),
        ({"rate": 0.01, "seconds": 1.0}, "none at all"), ({"time_scale": 0.0}, "--time-scale"), ({"round_trip_s": -1.0}, "--round-trip-ms"),
        ({"overheads": Overheads(step_s=-0.1)}, "--step-overhead-ms"), ({"workload": "poems"}, "--workload"), ({"seed": -1}, "--seed"),
        ({"drain": False}, "--seconds"),
        ({"target": replace(TARGET, base_ms=1e7), "rate": 9.0, "seconds": 1.0, "drain": False}, "--seconds: no request was served"),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        simulate(_options(**change), trace(requests=2))
    assert named in str(error.value)


def test_arrivals_are_poisson_at_the_rate() -> None:
    options = _options(rate=50.0, seconds=100.0)
    made = arrivals(options, Acceptance(trace(), None, random.Random(0)))
    gaps = np.diff([r.arrival_s for r in made])
    assert len(made) == pytest.approx(5000, rel=0.05)
    assert float(gaps.std() / gaps.mean()) == pytest.approx(1.0, abs=0.06)
