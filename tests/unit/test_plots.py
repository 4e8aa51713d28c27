"""Plots of load benches from reports as the benches make them."""

import json
import pathlib

import pytest
from rich.console import Console

from benchmarks.harness.plots import check_folder, plot_latency, plot_steps
from benchmarks.load.response import Phase, Sample
from benchmarks.load.steps import print_steps, sampled, steps_report
from drafthouse.errors import ConfigError

PNG = b"\x89PNG"


def point(workload: str, rate: float, policy: str) -> dict[str, object]:
    return {"workload": workload, "rate": rate, "policy": policy, "mean_latency_s": rate, "p99_latency_s": 2 * rate,
            "intervals": {"mean_latency_s": [0.9 * rate, 1.1 * rate]}}  # fmt: skip


def test_latency_against_rate(tmp_path: pathlib.Path) -> None:
    points = [point(w, r, p) for w in ("code", "varied") for r in (1.0, 3.0) for p in ("auto", "off")]
    assert plot_latency({"points": points, "paced": True}, tmp_path).read_bytes().startswith(PNG)


def test_steps_of_load_from_samples_to_plot(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The price steps from 0.1 to 0.3 half a second after the load; nothing is decoded at first, so there is no depth yet."""
    samples = [
        Sample(0.2 * i, running=1, price=0.1 if i < 28 else 0.3, verified=4.0 * max(0, i - 3), accepted=0.0, committed=2.0 * max(0, i - 3))
        for i in range(60)
    ]
    report = steps_report(samples, [Phase(1, 0.0, 5.0), Phase(8, 5.0, 12.0)])
    json.dumps(report, allow_nan=False)
    assert report["series"][0]["depth"] is None
    assert report["series"][-1]["depth"] == pytest.approx(2.0)
    [price] = report["changes"]["price"]
    assert price == pytest.approx({"at_s": 5.0, "before": 0.1, "after": 0.3, "settle_s": 0.4, "returns": 0}, abs=0.21)
    report |= {"paced": True, "settings": {"workload": "code"}}
    assert plot_steps(report, tmp_path).read_bytes().startswith(PNG)
    print_steps(Console(width=80), report)
    assert "price" in capsys.readouterr().out


def test_a_sample_sums_over_verifiers() -> None:
    verifiers = [
        {"totals": {"verified": 5.0, "accepted": 2.0, "committed": 9.0}, "gauges": {"running": 3.0, "price": 0.2}},
        {"totals": {"verified": 7.0, "accepted": 1.0, "committed": 4.0}, "gauges": {"running": 1.0, "price": 0.4}},
    ]
    found = sampled(1.5, {"pools": {"verifier": verifiers}})
    assert found == Sample(1.5, running=4.0, price=pytest.approx(0.3), verified=12.0, accepted=3.0, committed=13.0)


def test_a_folder_that_cannot_be_names_the_option(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="--plots"):
        check_folder(tmp_path / "file" / "plots")
    check_folder(tmp_path / "new" / "plots")
    assert (tmp_path / "new" / "plots").is_dir()
