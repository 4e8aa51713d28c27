"""`drafthouse simulate` from options to reports; sweeps, limits, and the check against a live bench."""

import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import build_cli
from deployments.cli.simulate import DEFAULT_REQUESTS
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.curve_files import load_curve
from drafthouse.errors import ConfigError
from simulator.check import Bench, check
from simulator.limits import limits
from simulator.options import Options, Overheads
from simulator.report import check_report
from simulator.sweep import planned, pool_sizes
from simulator.trace import write
from tests.unit.synthetic_traces import trace

TARGET, DRAFT = load_curve("llama-8b-1xh100"), load_curve("draft-0.5b")


def _invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_cli(), ["simulate", *arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def recorded(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "trace.jsonl"
    write(path, trace(requests=6, output_tokens=8))
    return str(path)


def test_simulate_writes_json_and_plot(tmp_path: pathlib.Path, recorded: str) -> None:
    report, plot = tmp_path / "out.json", tmp_path / "out.png"
    code, output = _invoke(
        "--trace", recorded, "--verifiers", "1,2", "--drafters", "0,1", "--rate-per-verifier", "5", "--requests", "5",
        "--json", str(report), "--plot", str(plot), "--limits",
    )  # fmt: skip
    assert code == 0, output
    points = json.loads(report.read_text(encoding="utf-8"))["points"]
    assert [(p["verifiers"], p["drafters"], p["rate"]) for p in points] == [(1, 0, 5.0), (1, 1, 5.0), (2, 0, 10.0), (2, 1, 10.0)]
    assert all(p["served"] == 5 and p["mean_latency_s"] > 0 for p in points)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "simulated" in output


def test_a_rate_is_enough(tmp_path: pathlib.Path, recorded: str) -> None:
    """The command of the README: how many requests arrive has a default."""
    report = tmp_path / "out.json"
    code, output = _invoke("--verifiers", "4", "--drafters", "2", "--rate", "400", "--trace", recorded, "--json", str(report))
    assert code == 0, output
    [point] = json.loads(report.read_text(encoding="utf-8"))["points"]
    assert point["served"] == DEFAULT_REQUESTS


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rate", "-3"], "--rate must be a positive"), (["--rate", "nan", "--seconds", "1"], "--rate must be a positive"),
        (["--verifiers", "two"], "--verifiers"), (["--verifiers", "0"], "--verifiers"), (["--drafters", "-1"], "--drafters"),
        (["--rate-per-verifier", "-3"], "--rate-per-verifier"), (["--rate", "1", "--rate-per-verifier", "1"], "only one"),
        (["--policy", "magic"], "--policy"), (["--policy", "auto,off"], "--policy"), (["--max-sequences", "0"], "--max-sequences"),
        (["--step-overhead-ms", "-1"], "--step-overhead-ms"), (["--target-curve", "none-such"], "none-such"),
        (["--trace", "/none/such.jsonl"], "/none/such.jsonl"), (["--rate", "5", "--no-drain", "--requests", "3"], "--no-drain"),
    ],
)  # fmt: skip
def test_errors_name_the_option(recorded: str, arguments: list[str], named: str) -> None:
    code, output = _invoke(*(["--trace", recorded] if "--trace" not in arguments else []), *arguments)
    assert code == 1
    assert named in output


def test_pool_sizes_and_rates_of_a_sweep() -> None:
    options = Options(verifiers=1, drafters=1, rate=4.0, target=TARGET, draft=DRAFT, seconds=1.0)
    assert [p.rate for p in planned(options, [1, 3], [2], True)] == [4.0, 12.0]
    assert [p.rate for p in planned(options, [1, 3], [2], False)] == [4.0, 4.0]
    with pytest.raises(ConfigError, match="--verifiers"):
        pool_sizes("--verifiers", "50,,100", 1)


def test_control_plane_costs_grow_with_the_pools() -> None:
    small, large = (limits(n, 2 * n, ServingConfig(), 0.001) for n in (10, 200))
    assert small.interval_s == 0.5  # everyone reports every heartbeat_s up to twenty replicas, and hardly slower just above
    assert large.interval_s > 2 * small.interval_s
    assert large.table_bytes > 10 * small.table_bytes
    assert large.streams_per_verifier == 8
    assert large.streams_per_drafter == 4.0
    assert 0 < small.controller_share < large.controller_share


def _bench_report(path: pathlib.Path, latencies: list[float] | None = None) -> pathlib.Path:
    points = [
        {"workload": "code", "load": load, "rate": rate, "policy": policy, "requests": 12, "mean_latency_s": 1.0}
        for load, rate in ((0.2, 2.0), (0.7, 7.0))
        for policy in ("auto", "off", "chain3")
    ]
    for point, latency in zip(points, latencies or [], strict=bool(latencies)):
        point["mean_latency_s"] = latency
    settings: dict[str, Any] = {
        "workloads": ["code"], "loads": [0.2, 0.7], "segments": 2, "tokens": [6, 12], "seed": 3, "prompts": 4, "step_tokens": 48,
        "sequences": 4, "time_scale": 2.0, "curves": {"target": vars(TARGET), "draft": vars(DRAFT)},
    }  # fmt: skip
    path.write_text(json.dumps({"points": points, "settings": settings}), encoding="utf-8")
    return path


def test_the_check_finds_overheads_again_and_forecasts_the_rest(tmp_path: pathlib.Path) -> None:
    options = Options(verifiers=1, drafters=1, rate=None, target=TARGET, draft=DRAFT, overheads=Overheads())
    path = tmp_path / "bench.json"
    truth = Bench(_bench_report(path), trace(), options)
    latencies = [truth.latency(point, 0.003, 0.002) for point in truth.points]
    checked = check(Bench(_bench_report(path, latencies), trace(), options))
    assert [c.fitted for c in checked] == [True, True, False, False, False, False]
    assert checked[0].policy == "off"
    assert check_report(checked)["worst_error"] < 0.05


def test_the_check_names_a_file_that_is_no_report(tmp_path: pathlib.Path) -> None:
    options = Options(verifiers=1, drafters=1, rate=None, target=TARGET, draft=DRAFT)
    path = tmp_path / "other.json"
    for text in ("{}", "no json", '{"points": [{"policy": "off", "rate": -1, "mean_latency_s": 1, "requests": 1}], "settings": {}}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"--check .*other\.json"):
            Bench(path, trace(), options)
