"""`drafthouse bench heartbeats` without Ray: the pool, the registry's rate, what it carries, and the table."""

import json
from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.heartbeats.bench import LONGEST_INTERVAL_S, carried, pool, pool_sizes, print_heartbeats, report_of, run_registry
from controller.pairing import MAX_DRAFTERS_PER_VERIFIER
from drafthouse.config.serving import ControllerConfig
from drafthouse.errors import ConfigError


def test_a_pool_has_all_roles_and_as_many_as_asked():
    for size in (3, 10, 100, 601):
        roles = Counter(report.role for report in pool(size))
        assert roles.total() == size
        assert len({(report.role, report.replica.name) for report in pool(size)}) == size
        assert min(roles["gateway"], roles["verifier"], roles["drafter"]) >= 1
    assert roles["drafter"] == pytest.approx(2 * roles["verifier"], abs=2)
    verifier = next(report for report in pool(100) if report.role == "verifier")
    assert len(verifier.drafters) == MAX_DRAFTERS_PER_VERIFIER


@pytest.mark.parametrize("text", ["", "0", "2", "ten", "5,-1", "1000000"])
def test_impossible_pools_are_named(text):
    with pytest.raises(ConfigError, match="--replicas"):
        pool_sizes(text)
    assert pool_sizes("10, 600") == [10, 600]


def test_what_is_carried():
    assert carried(1000.0, 200.0) == 200 * LONGEST_INTERVAL_S
    assert carried(100.0, 200.0) == 100 * LONGEST_INTERVAL_S


def test_rows_and_tables():
    row = run_registry(150, 0.05, ControllerConfig())
    assert (row["interval_s"], row["due_per_s"]) == (0.75, 200.0)
    assert set(row["microseconds_by_role"]) == {"gateway", "verifier", "drafter"}
    assert row["sustained_per_s"] > 0
    served = {"replicas": 150, "interval_s": 0.75, "due_per_s": 200.0, "sustained_per_s": 640.0}
    served |= {"median_ms": 50.0, "p99_ms": 90.0, "cpu_ms": 1.5, "cpu_share": 0.96}
    report = json.loads(json.dumps(report_of([row], [served], ControllerConfig(), 200.0)))
    assert (report["carried_replicas"], report["could_carry_replicas"]) == (1000, 3200)
    console = Console(file=StringIO(), width=200)
    print_heartbeats(console, report)
    assert "at 1000 replicas; all that was sustained would carry 3200" in console.file.getvalue()
    assert report_of([row], [], ControllerConfig(), 200.0)["carried_replicas"] is None
