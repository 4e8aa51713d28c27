"""Each alert fires for what it is about: Prometheus' own evaluation of the rules over series that are made up, an hour of them."""

import pathlib
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.manifests.embed import MONITORING

INTERVAL_S, SAMPLES = 60, 60

ALERTS = MONITORING / "alerts.yaml"
WHERE = 'ray_io_cluster="c", SessionName="s", replica="r"'

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install prometheus")


def gauge(value: float) -> str:
    return f"{value}+0x{SAMPLES}"


def counter(step: float) -> str:
    """It grows by this much in each interval."""
    return f"0+{step}x{SAMPLES}"


SLOW = {'_bucket{le="5.0"}': counter(0), '_bucket{le="20.0"}': counter(5), '_bucket{le="+Inf"}': counter(5)}
DRAFTERS = {
    "controller_drafter_utilisation": gauge(0.99), "controller_one_more_drafter_per_s": gauge(9), "controller_committed_per_s": gauge(100)
}  # fmt: skip
VERIFIERS = {
    "controller_verifier_utilisation": gauge(1), "controller_one_more_verifier_per_s": gauge(30), "controller_committed_per_s": gauge(100)
}  # fmt: skip
REQUESTS = {'gateway_requests_total{outcome="served"}': counter(10)}

FAULTS: list[tuple[str, dict[str, str]]] = [
    ("DrafthouseNoVerifier", {"gateway_verifiers": gauge(0)}),
    ("DrafthouseRequestsFail", REQUESTS | {'gateway_requests_total{outcome="failed"}': counter(1)}),
    ("DrafthouseRequestsFail", REQUESTS | {'gateway_requests_total{outcome="unavailable"}': counter(1)}),
    ("DrafthouseRequestsRefused", REQUESTS | {'gateway_requests_total{outcome="refused"}': counter(1)}),
    ("DrafthouseFirstTokenSlow", {f"gateway_first_token_seconds{name}": values for name, values in SLOW.items()}),
    ("DrafthouseStreamsPause", {f"gateway_longest_pause_seconds{name}": values for name, values in SLOW.items()}),
    ("DrafthouseQueueStands", {"verifier_waiting": gauge(9), "verifier_running": gauge(3)}),
    (
        "DrafthouseReplicasMissing",
        {'controller_replicas{role="drafter"}': gauge(1), 'controller_replicas_desired{role="drafter"}': gauge(2)},
    ),
    *(("DrafthouseControllerSilent", {f"{role}_controller_answers": gauge(0)}) for role in ("gateway", "verifier", "drafter")),
    ("DrafthouseFailovers", {"gateway_failovers_total": counter(2)}),
    ("DrafthouseFaults", {"verifier_step_faults_total": counter(1)}),
    ("DrafthouseFaults", {"drafter_pass_faults_total": counter(1)}),
    ("DrafthouseMalformedMessages", {'verifier_session_events_total{event="malformed"}': counter(1)}),
    ("DrafthouseMalformedMessages", {"drafter_malformed_messages_total": counter(1)}),
    ("DrafthouseTakesNothing", {"verifier_draining": gauge(1)}),
    ("DrafthouseTakesNothing", {"drafter_draining": gauge(1)}),
    ("DrafthouseKvFull", {"verifier_preemptions_total": counter(2)}),
    ("DrafthouseDraftersShort", DRAFTERS),
    ("DrafthouseVerifiersShort", VERIFIERS),
    ("DrafthouseSpeculationCosts", {"verifier_gain": gauge(0.8), "verifier_verified_tokens_total": counter(10)}),
    ("DrafthouseDrafterBanned", {'verifier_banned{drafter="d"}': gauge(1)}),
    ("DrafthousePredictionOff", {"verifier_run_seconds_total": counter(2), "verifier_predicted_seconds_total": counter(1)}),
    (
        "DrafthouseNetworkSlow",
        {
            'verifier_round_trip_seconds{drafter="d"}': gauge(0.5),
            "verifier_run_seconds_total": counter(1),
            "verifier_steps_total": counter(10),
        },
    ),
    (
        "DrafthouseStaleMessages",
        {'verifier_session_events_total{event="stale"}': counter(5), "verifier_draft_messages_total": counter(10)},
    ),
    ("DrafthouseStageFails", {"drafter_stage_faults_total": counter(1)}),
    ("DrafthouseStageFails", {"verifier_stage_faults_total": counter(1)}),
    ("DrafthouseSyntheticAcceptance", {"verifier_synthetic_acceptance": gauge(1)}),
    ("DrafthousePacedRunVoid", {"verifier_paced_overruns_total": counter(1), "verifier_paced_steps_total": counter(10)}),
    ("DrafthousePacedRunVoid", {"drafter_paced_overruns_total": counter(1), "drafter_paced_passes_total": counter(10)}),
]


def _series(name: str, values: str) -> dict[str, str]:
    metric, _, labels = name.partition("{")
    return {"series": f"ray_drafthouse_{metric}{{{WHERE}{', ' + labels.rstrip('}') if labels else ''}}}", "values": values}


def _test(alert: str, series: dict[str, str], firing: bool) -> dict[str, Any]:
    """At the end of the hour one alert of this name fires, or none does."""
    asked = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    return {
        "name": alert,
        "interval": f"{INTERVAL_S}s",
        "input_series": [_series(name, values) for name, values in series.items()],
        "promql_expr_test": [
            {"expr": asked, "eval_time": f"{INTERVAL_S * SAMPLES}s", "exp_samples": [{"labels": "{}", "value": int(firing)}]}
        ],
    }


def _outcome(tests: list[dict[str, Any]], folder: pathlib.Path) -> str:
    """What `promtool` has against them; empty: nothing."""
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": f"{INTERVAL_S}s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_each_alert_fires_for_its_fault(tmp_path: pathlib.Path) -> None:
    assert _outcome([_test(alert, series, True) for alert, series in FAULTS], tmp_path) == ""
    rules = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    assert {alert for alert, _ in FAULTS} == set(rules)


def test_none_fires_where_the_same_numbers_are_as_they_should_be(tmp_path: pathlib.Path) -> None:
    well = {
        "gateway_verifiers": gauge(1), 'gateway_requests_total{outcome="served"}': counter(10),
        'gateway_requests_total{outcome="failed"}': counter(0), 'gateway_requests_total{outcome="refused"}': counter(0),
        'gateway_first_token_seconds_bucket{le="5.0"}': counter(5), 'gateway_first_token_seconds_bucket{le="+Inf"}': counter(5),
        'gateway_longest_pause_seconds_bucket{le="5.0"}': counter(5), 'gateway_longest_pause_seconds_bucket{le="+Inf"}': counter(5),
        "verifier_waiting": gauge(0), "verifier_running": gauge(3), 'controller_replicas{role="drafter"}': gauge(2),
        'controller_replicas_desired{role="drafter"}': gauge(2), "gateway_controller_answers": gauge(1),
        "gateway_failovers_total": counter(0), "verifier_step_faults_total": counter(0), "drafter_malformed_messages_total": counter(0),
        "verifier_draining": gauge(0), "verifier_preemptions_total": counter(0), "controller_drafter_utilisation": gauge(0.99),
        "controller_verifier_utilisation": gauge(0.99), "controller_one_more_drafter_per_s": gauge(1),
        "controller_one_more_verifier_per_s": gauge(1), "controller_committed_per_s": gauge(100), "verifier_gain": gauge(1.5),
        "verifier_verified_tokens_total": counter(10), 'verifier_banned{drafter="d"}': gauge(0), "verifier_run_seconds_total": counter(1),
        "verifier_predicted_seconds_total": counter(1), 'verifier_round_trip_seconds{drafter="d"}': gauge(0.001),
        "verifier_steps_total": counter(10), 'verifier_session_events_total{event="stale"}': counter(0),
        "verifier_draft_messages_total": counter(10), "drafter_stage_faults_total": counter(0), "verifier_synthetic_acceptance": gauge(0),
        "verifier_paced_overruns_total": counter(0), "verifier_paced_steps_total": counter(10),
    }  # fmt: skip
    assert _outcome([_test(alert, well, False) for alert in dict(FAULTS)], tmp_path) == ""
