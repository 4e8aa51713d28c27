"""The controller's registry: who is routed to whom, who has expired, and sums that never go back."""

import json
from dataclasses import replace

import pytest

from controller.live_pool import MAX_DEPARTED
from controller.registry import FAST_REPLICAS, Registry
from drafthouse.config.serving import ControllerConfig
from drafthouse.wire.membership import Route
from drafthouse.wire.reports import Report
from drafthouse.wire.totals import GatewayTotals
from tests.unit.reports import drafter_report, drafter_totals, gateway_report, verifier_report, verifier_totals

CONFIG = ControllerConfig(heartbeat_s=0.5, expire_heartbeats=5)
EXPIRY_S = 0.5 * 5


@pytest.fixture
def registry() -> Registry:
    return Registry(CONFIG)


def observe(registry: Registry, now: float, *reports: Report) -> None:
    for one in reports:
        registry.observe(one, now)


def totals(registry: Registry, now: float, role: str = "verifier") -> dict[str, float]:
    """Of `/v1/cluster`, those that are not 0."""
    return {name: number for name, number in registry.snapshot(now)["totals"][role].items() if number}


GATEWAY = gateway_report()


def test_gateways_get_verifiers_and_verifiers_get_drafters(registry):
    verifier, drafter = verifier_report(load=3, capacity=9), drafter_report("d0", load=2)
    observe(registry, 0.0, GATEWAY, verifier, drafter)
    assert registry.directive_for(GATEWAY, 0.0).verifiers == (Route("v0", "v0:1", "f", 3, 9, max_sequences=8),)
    assert registry.directive_for(GATEWAY, 0.0).drafters == ()
    assert registry.directive_for(verifier, 0.0).drafters == (Route("d0", "d0:1", "f", 2, 8),)
    assert registry.directive_for(drafter, 0.0) == registry.directive_for(drafter_report("d9", load=2), 0.0)


def test_a_directive_carries_the_latest_load(registry):
    verifier, drafter = verifier_report(), drafter_report("d0", load=2)
    observe(registry, 0.0, verifier, drafter, replace(drafter, load=5))
    assert registry.directive_for(verifier, 0.0).drafters[0].load == 5


def test_draining_replicas_get_nothing_new(registry):
    verifier, drafter = verifier_report(), drafter_report("d0")
    observe(registry, 0.0, verifier, drafter)
    assert registry.directive_for(verifier, 0.0).drafters
    observe(registry, 0.1, replace(verifier, draining=True), replace(drafter, draining=True))
    assert registry.directive_for(GATEWAY, 0.1).verifiers == ()
    assert registry.directive_for(verifier, 0.1).drafters == ()
    assert registry.snapshot(0.1)["pools"]["verifier"][0]["draining"] is True


def test_silence_takes_a_replica_out_after_the_missed_heartbeats(registry):
    observe(registry, 0.0, verifier_report())
    assert registry.directive_for(GATEWAY, EXPIRY_S).verifiers
    assert not registry.directive_for(GATEWAY, EXPIRY_S + 0.01).verifiers
    observe(registry, 10.0, verifier_report())
    assert registry.directive_for(GATEWAY, 10.0).verifiers


def test_a_replica_restarted_under_its_name_replaces_its_former_self(registry):
    former = verifier_report(pid=1, address="old:1", totals=verifier_totals(steps=5))
    observe(registry, 0.0, former, verifier_report(pid=2, address="new:1", totals=verifier_totals(steps=1)))
    assert [route.address for route in registry.directive_for(GATEWAY, 0.0).verifiers] == ["new:1"]
    assert totals(registry, 0.0) == {"steps": 6}


def test_totals_never_go_back(registry):
    other = verifier_report("v1", totals=verifier_totals(steps=7, trees=1))
    observe(registry, 0.0, verifier_report(totals=verifier_totals(steps=5)), other)
    assert totals(registry, 0.0) == {"steps": 12, "trees": 1}
    for i in range(1, 9):
        observe(registry, 0.5 * i, verifier_report("v1", totals=verifier_totals(steps=8, trees=1)))
    after_expiry = registry.snapshot(5.0)
    assert [one["replica"] for one in after_expiry["pools"]["verifier"]] == ["v1"]
    assert totals(registry, 5.0) == {"steps": 13, "trees": 1}
    observe(registry, 5.0, verifier_report(totals=verifier_totals(steps=6)))  # it was only slow: not counted twice
    assert totals(registry, 5.0)["steps"] == 14


def test_totals_of_many_departed_replicas_are_kept_as_a_sum():
    registry = Registry(ControllerConfig(heartbeat_s=0.5, expire_heartbeats=2))
    for i in range(MAX_DEPARTED + 50):
        registry.observe(verifier_report(f"v{i}", totals=verifier_totals(steps=1)), i * 2.0)
    now = (MAX_DEPARTED + 100) * 2.0
    assert totals(registry, now) == {"steps": MAX_DEPARTED + 50}
    assert len(registry._verifiers._departed) == MAX_DEPARTED


def test_roles_have_totals_of_their_own(registry):
    verifier = verifier_report(totals=verifier_totals(prompt_tokens=2))
    observe(registry, 0.0, verifier, gateway_report(totals=GatewayTotals(prompt_tokens=3)))
    assert totals(registry, 0.0, "gateway") == {"prompt_tokens": 3}
    assert totals(registry, 0.0, "verifier") == {"prompt_tokens": 2}
    assert registry.snapshot(0.0)["totals"]["drafter"] == {}


@pytest.mark.parametrize(("replicas", "interval_s"), [(1, 0.5), (FAST_REPLICAS, 0.5), (100, 0.5), (400, 2.0)])
def test_the_interval_grows_with_the_pool(registry, replicas, interval_s):
    observe(registry, 0.0, *(verifier_report(f"v{i}") for i in range(replicas)))
    assert registry.directive_for(GATEWAY, 0.0).interval_s == pytest.approx(interval_s)


def test_expiry_grows_with_the_interval(registry):
    observe(registry, 0.0, *(verifier_report(f"v{i}") for i in range(400)), verifier_report("v0"))
    assert registry.directive_for(GATEWAY, 2.0 * 5 - 0.1).verifiers  # v0 was told 2 s, not 0.5 s


def test_snapshot_is_json_and_complete(registry):
    verifier = verifier_report(load=2, goodput=5.0, price=float("inf"), totals=verifier_totals(steps=1))
    replica = replace(verifier.replica, forward="native", row_invariant=True, started=7.0)
    verifier = replace(verifier, replica=replica, incompatible={"d9": "old"})
    observe(registry, 1.0, GATEWAY, verifier, drafter_report("d0", load=4), drafter_report("d1", load=1))
    snapshot = json.loads(json.dumps(registry.snapshot(1.5), allow_nan=False))
    (described,) = snapshot["pools"]["verifier"]
    counted, gauges = described.pop("totals"), described.pop("gauges")
    assert described == {
        "role": "verifier", "replica": "v0", "address": "v0:1", "pid": 1, "node": "n", "fingerprint": "f", "load": 2, "capacity": 8,
        "draining": False, "ranks": [], "vocabulary": "", "forward": "native", "row_invariant": True, "threads": "", "age_s": 0.5,
        "started": 7.0,
        "incompatible": {"d9": "old"},
        "settings": "",
    }  # fmt: skip
    assert (counted["steps"], gauges["goodput"]) == (1, 5)
    assert "price" not in gauges, "JSON has no infinity"
    assert [len(snapshot["pools"][role]) for role in ("gateway", "verifier", "drafter")] == [1, 1, 2]
    assert snapshot["sessions"] == 5
    assert snapshot["fingerprints"] == {"verifier": {"f": ["v0"]}, "drafter": {"f": ["d0", "d1"]}}
    assert snapshot["pairs"][0]["verifier"] == "v0"
    assert set(snapshot["pairs"][0]["drafters"]) == {"d0", "d1"}


def test_a_drafter_of_another_vocabulary_is_not_paired(registry):
    verifier = verifier_report(vocabulary="qwen")
    observe(registry, 0.0, verifier, drafter_report("d0", vocabulary="llama"), drafter_report("d1", vocabulary="qwen"))
    assert [route.replica for route in registry.directive_for(verifier, 0.0).drafters] == ["d1"]


def test_one_round_of_heartbeats_rebuilds_the_state(registry):
    reports = [GATEWAY, *(verifier_report(f"v{i}") for i in range(3)), *(drafter_report(f"d{i}") for i in range(12))]
    observe(registry, 0.0, *reports)
    other = Registry(CONFIG)
    observe(other, 0.0, *reports[::-1])
    for one in reports:
        assert registry.directive_for(one, 0.0) == other.directive_for(one, 0.0)


def drive_short_of_drafts(registry: Registry, seconds: float) -> None:
    """A verifier that waits a quarter of its time for one busy drafter with three sessions, reporting every 0.5 s."""
    for i in range(1, int(seconds / 0.5) + 1):
        now = 0.5 * i
        totals = verifier_totals(step_seconds=0.6 * now, wait_seconds=0.2 * now, committed=100 * now, accepted=50 * now)
        totals_of_drafter = drafter_totals(busy_seconds=now, drafted=400 * now)
        drafter = drafter_report("d0", load=3, totals=totals_of_drafter, seconds_per_node=0.005)
        observe(registry, now, verifier_report(totals=totals), drafter)


def test_verifiers_are_told_the_floor_and_nobody_else(registry):
    drive_short_of_drafts(registry, 10.0)
    floor = registry.directive_for(verifier_report(), 10.0).price_floor
    assert floor > 0.1
    assert registry.directive_for(drafter_report("d0"), 10.0).price_floor == 0.0
    assert registry.directive_for(GATEWAY, 10.0).price_floor == 0.0
    assert registry.snapshot(10.0)["goodput"]["price_floor"] == floor


def test_a_new_controller_takes_the_floor_from_the_first_verifier(registry):
    observe(registry, 0.0, verifier_report(price_floor=0.3), verifier_report("v1"))
    assert registry.directive_for(verifier_report(), 0.0).price_floor == 0.3


def test_goodput_counts_who_is_there(registry):
    drive_short_of_drafts(registry, 5.0)
    goodput = registry.snapshot(5.0)["goodput"]
    assert goodput["committed_per_s"] == pytest.approx(100.0)
    assert goodput["drafted_per_s"] == pytest.approx(400.0)
    assert goodput["between_steps_share"] == pytest.approx(0.25)
    assert registry.snapshot(5.0 + EXPIRY_S + 0.1)["goodput"]["committed_per_s"] == 0.0


def test_a_replica_that_reports_again_before_it_expires_stays(registry):
    for i in range(40):
        observe(registry, 0.4 * i, verifier_report(), drafter_report("d0"))
    for i in range(1, 7):
        observe(registry, 15.6 + 0.4 * i, verifier_report())
    assert registry.directive_for(verifier_report(), 15.5 + EXPIRY_S).drafters
    assert registry.directive_for(verifier_report(), 15.7 + EXPIRY_S).drafters == ()
    assert registry.directive_for(GATEWAY, 15.7 + EXPIRY_S).verifiers


def test_a_controller_that_was_stopped_itself_takes_nobody_out(registry):
    """When it wakes, reports of before come in one by one; whoever was dead already is still noticed in its time."""
    for i in range(20):
        observe(registry, 0.5 * i, GATEWAY, verifier_report(), *([drafter_report("d0")] if i < 18 else []))
    woken = 9.5 + 60.0
    for one in (GATEWAY, verifier_report()):
        observe(registry, woken, one)
        assert registry.directive_for(GATEWAY, woken).verifiers
        assert registry.directive_for(verifier_report(), woken).drafters
    for i in range(1, 4):
        observe(registry, woken + 0.5 * i, GATEWAY, verifier_report())
    assert registry.directive_for(verifier_report(), woken + 1.51).drafters == ()


def test_one_who_reports_alone_does_not_keep_the_others_in(registry):
    observe(registry, 0.0, verifier_report(), verifier_report("v1"))
    for i in range(1, 6):
        observe(registry, 0.52 * i, verifier_report())
    assert [route.replica for route in registry.directive_for(GATEWAY, 2.6).verifiers] == ["v0"]


def test_a_new_registry_says_that_it_does_not_know_of_all(registry):
    observe(registry, 7.0, GATEWAY, verifier_report())
    for one in (GATEWAY, verifier_report()):
        assert not registry.directive_for(one, 7.0 + EXPIRY_S).complete
        assert registry.directive_for(one, 7.01 + EXPIRY_S).complete


def test_a_report_that_cannot_be_read_leaves_nothing(registry):
    unread = replace(verifier_totals(), verify=None)
    with pytest.raises(TypeError):
        registry.observe(verifier_report(totals=unread), 0.0)
    assert registry.snapshot(0.0)["pools"]["verifier"] == []
    observe(registry, 0.0, verifier_report())
    with pytest.raises(TypeError):
        registry.observe(verifier_report(pid=2, totals=unread), 0.1)
    assert [each["pid"] for each in registry.snapshot(0.1)["pools"]["verifier"]] == [1]
