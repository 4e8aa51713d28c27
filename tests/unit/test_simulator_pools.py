"""Several targets and kinds of drafters in the simulator: the mix holds, policies meet the same requests, and what the directives bring."""

import json
import pathlib
import random
from dataclasses import replace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from deployments.cli.main import build_cli
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from drafthouse.objective import Objective
from drafthouse.policy.latency import Curve
from simulator.acceptance import Acceptance
from simulator.cluster import Cluster, Outcome, arrivals, follow_seconds, simulate
from simulator.mix import DIRECTIVES, EQUAL, LOCAL, SERVED, SPLIT, DrafterKind, Mix, RequestKind
from simulator.options import Options, Overheads
from simulator.pools import PoolPoint, compare
from simulator.request import SimSequence
from simulator.trace import write
from tests.unit.synthetic_traces import trace

QUICK, SLOW = Curve("quick", "", 8.0, 0.02, 0.0), Curve("slow", "", 20.0, 0.06, 0.0)
FAST_DRAFT, SLOW_DRAFT = Curve("fast", "", 2.5, 0.05, 0.0), Curve("poor", "", 6.0, 0.6, 0.0)
URGENT = RequestKind(0.5, Objective(2.0, 0.016), -1)
MIX = Mix(
    targets=(QUICK, SLOW), drafters=(DrafterKind(FAST_DRAFT), DrafterKind(SLOW_DRAFT)), requests=(RequestKind(0.5), URGENT),
    first_share=(0.3,),
)  # fmt: skip
TRACE = trace(requests=20, output_tokens=48, prompt_tokens=32)


def _options(policy: str, **changes: Any) -> Options:
    made = Options(
        verifiers=2, drafters=2, rate=20.0, target=QUICK, draft=FAST_DRAFT, seconds=2.0, drain=False, overheads=Overheads(gateway_s=0.0),
        config=ServingConfig.model_validate({"verifier": {"max_sequences": 16}}), mix=replace(MIX, policy=policy),
    )  # fmt: skip
    return replace(made, **changes)


def _cluster(options: Options) -> Cluster:
    rng = random.Random(options.seed)
    return Cluster(options, arrivals(options, Acceptance(TRACE, None, rng)), rng)


def test_requests_go_to_verifiers_of_their_target_and_nodes_to_drafters_of_both_kinds() -> None:
    cluster = _cluster(_options(LOCAL))
    cluster.run()
    assert [v.target for v in cluster.verifiers] == [0, 1]
    for verifier in cluster.verifiers:
        assert verifier.engine.sequences
        assert all(cast(SimSequence, s).sim.target == verifier.target for s in verifier.engine.sequences.values())
    assert all(d.totals.passes for d in cluster.drafters)
    assert cluster.drafters[0].latency.seconds(1, 0) < cluster.drafters[1].latency.seconds(1, 0)


def test_every_policy_meets_the_same_requests() -> None:
    made = [
        [(r.arrival_s, r.target, r.kind, r.text.output_tokens) for r in _cluster(_options(policy)).arrivals]
        for policy in (DIRECTIVES, EQUAL, LOCAL, SPLIT, SERVED)
    ]
    assert all(each == made[0] for each in made[1:])
    assert 0.1 < sum(target == 0 for _, target, _, _ in made[0]) / len(made[0]) < 0.5


def test_the_load_moves_between_targets() -> None:
    options = _options(LOCAL, rate=200.0, mix=replace(MIX, first_share=(1.0, 0.0)))
    early, late = ([r for r in _cluster(options).arrivals if (r.arrival_s < 1.0) == half] for half in (True, False))
    assert {r.target for r in early} == {0}
    assert {r.target for r in late} == {1}


def test_a_fixed_split_gives_each_target_its_own_drafters() -> None:
    cluster = _cluster(_options(SPLIT, drafters=4))
    cluster.run()
    mine = [set(v.engine.draft_sessions.drafters) for v in cluster.verifiers]
    assert mine == [{"drafter-000", "drafter-001"}, {"drafter-002", "drafter-003"}]


def test_directives_keep_more_objectives_than_equal_worths_and_bring_more_than_local_choice() -> None:
    kept = {policy: simulate(_options(policy, verifiers=4, rate=48.0, seconds=5.0), TRACE) for policy in (DIRECTIVES, EQUAL, LOCAL)}
    assert kept[DIRECTIVES].kept_share > kept[EQUAL].kept_share
    assert kept[DIRECTIVES].kept_share >= kept[LOCAL].kept_share
    assert kept[DIRECTIVES].weighted_goodput_per_s > max(kept[EQUAL].weighted_goodput_per_s, kept[LOCAL].weighted_goodput_per_s)


def test_a_far_drafter_gets_no_sessions_beside_a_near_one() -> None:
    kinds = (DrafterKind(FAST_DRAFT, 0.0003), DrafterKind(FAST_DRAFT, 0.5))
    cluster = _cluster(_options(DIRECTIVES, mix=replace(MIX, drafters=kinds, policy=DIRECTIVES)))
    cluster.run()
    near, far = (d.totals.drafted for d in cluster.drafters)
    assert near > 20 * far


def test_following_is_timed_from_the_shift_to_nine_tenths_of_the_change() -> None:
    shares = [(0.1 * i, 0.8 if i <= 10 else max(0.2, 0.8 - 0.1 * (i - 10))) for i in range(1, 31)]
    assert follow_seconds(shares, 1.0) == pytest.approx(0.6)
    assert follow_seconds(shares, 0.0) == 0.0
    assert follow_seconds([], 1.0) == 0.0


def test_the_ratio_is_to_the_best_other_policy_at_the_same_sizes() -> None:
    outcome = simulate(_options(LOCAL), TRACE)

    def point(policy: str, weighted: float, kept: float) -> PoolPoint:
        made: Outcome = replace(outcome, weighted_goodput_per_s=weighted, kept_share=kept)
        return PoolPoint(policy, 2, 2, (made, made))

    [found] = compare([point(DIRECTIVES, 120.0, 0.9), point(EQUAL, 100.0, 0.6), point(LOCAL, 80.0, 0.8)])
    assert (found.best_other, found.ratio) == (EQUAL, pytest.approx(1.2))
    assert found.kept_points == pytest.approx(30.0)
    assert compare([point(DIRECTIVES, 1.0, 1.0)]) == []


def test_a_mix_that_cannot_be_is_refused() -> None:
    for mix, named in (
        (Mix(first_share=(0.5,)), "--first-share"),
        (replace(MIX, requests=(RequestKind(0.3),)), "--urgent-share"),
    ):
        with pytest.raises(ConfigError, match=named):
            mix.check()
    with pytest.raises(ConfigError, match="--verifiers"):
        _options(LOCAL, verifiers=1).check()


def test_the_command_compares_policies(tmp_path: pathlib.Path) -> None:
    recorded, report = tmp_path / "trace.jsonl", tmp_path / "out.json"
    write(recorded, TRACE)
    arguments = ["simulate-pools", "--trace", str(recorded), "--verifiers", "2", "--drafters", "2", "--seconds", "1", "--json", str(report)]
    result = CliRunner().invoke(build_cli(), [*arguments, "--policies", "directives,local"])
    assert result.exit_code == 0, result.output
    said = json.loads(report.read_text(encoding="utf-8"))
    assert [p["policy"] for p in said["points"]] == ["directives", "local"]
    assert said["compared"][0]["best_other"] == "local"
    assert "directives bring" in result.output
    refused = CliRunner().invoke(build_cli(), [*arguments, "--policies", "luck"])
    assert refused.exit_code == 1
    assert "--policies" in refused.output
