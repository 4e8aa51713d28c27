"""Dashboard and alerts: made of their sources, over metrics that exist, and explained."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deployments.app import STOP_S
from drafter.server import DRAIN_S
from drafthouse.config.config_file import load_config
from drafthouse.telemetry.metrics import METRICS
from tests.manifests import embed, monitoring, promql
from tests.manifests.kustomize import render
from tests.manifests.rules import of_kind

FOLDER = embed.MONITORING
GAUGE_STAYS_S = 20
"""Ray exports a gauge for so long after its replica's last report."""

SEVERITIES = {"critical", "warning", "info"}


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _shown() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def _drawn() -> Iterator[dict[str, Any]]:
    return (panel for panel in _shown()["panels"] if panel["type"] != "row")


def _dashboard_expressions() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in _drawn() for target in panel["targets"]]


def _alert_expressions() -> list[tuple[str, str]]:
    return [(rule["alert"], rule["expr"]) for rule in _alerts()]


@pytest.mark.parametrize("path", embed.made(), ids=lambda path: path.name)
def test_what_is_made_of_other_files_is_up_to_date(path) -> None:
    assert path.read_text(encoding="utf-8") == embed.made()[path], "run python -m tests.manifests.embed"


@pytest.mark.parametrize(("where", "expression"), _dashboard_expressions() + _alert_expressions())
def test_every_expression_is_over_declared_metrics(where: str, expression: str) -> None:
    assert promql.faults(expression) == []
    assert promql.names(expression)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("sum(rate(ray_drafthouse_verifier_steps[5m]))", "ray_drafthouse_verifier_steps: no such metric"),
        ("sum(rate(drafthouse_verifier_steps_total[5m]))", "drafthouse_verifier_steps_total: no such metric"),
        ("avg(ray_drafthouse_verifier_prise)", "ray_drafthouse_verifier_prise: no such metric"),
        ("rate(ray_drafthouse_verifier_price[5m])", "a gauge under rate"),
        ("sum(ray_drafthouse_verifier_steps_total)", "a counter under no function"),
        ("max_over_time(ray_drafthouse_verifier_steps_total[5m])", "a counter under max_over_time"),
        ("rate(ray_drafthouse_gateway_first_token_seconds_sum[5m])", "no such metric"),
        ('rate(ray_drafthouse_gateway_requests_total{outcome="refuse"}[5m])', "outcome is never refuse"),
        ('rate(ray_drafthouse_gateway_requests_total{outcome=~"failed|lost"}[5m])', "outcome is never lost"),
        ('rate(ray_drafthouse_gateway_requests_total{result="failed"}[5m])', "has no label result"),
        ("sum by (dept) (rate(ray_drafthouse_verifier_accepted_depth_total[5m]))", "dept: no label"),
        ("sum by (depth) (rate(ray_drafthouse_verifier_steps_total[5m]))", "depth: no label"),
        ("avg(ray_drafthouse_verifier_price", "no PromQL"),
        ("1 - (2 * avg(ray_drafthouse_verifier_prise))", "ray_drafthouse_verifier_prise"),
    ],
)
def test_a_wrong_expression_is_found_and_named(expression: str, named: str) -> None:
    found = promql.faults(expression)
    assert len(found) == 1
    assert named in found[0]


def test_the_table_of_metrics_says_who_reads_each() -> None:
    page = embed.METRICS_PAGE.read_text(encoding="utf-8")
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| `ray_")}
    assert rows.keys() == {metric.exported for metric in METRICS}
    read: dict[str, set[str]] = {}
    for where, expression in _dashboard_expressions() + _alert_expressions():
        for name in promql.names(expression):
            read.setdefault(name.removesuffix("_bucket"), set()).add(where)
    for name, cells in rows.items():
        assert set(cells[-2].split(", ")) - {""} == read.get(name, set()), name
    assert sum(not cells[-2] for cells in rows.values()) < len(rows) / 4, "what hardly anybody looks at need not be counted"


def test_panels_say_what_to_do_in_which_unit_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _shown()["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= monitoring.COLUMNS
        taken |= cells
    for panel in _drawn():
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends)
        assert all(isinstance(legend, str) for legend in legends), "YAML takes some words for truth values"
    titles = [panel["title"] for panel in _drawn()]
    assert len(set(titles)) == len(titles)


def _through_grafanas_schema(shown: dict[str, Any]) -> Any:
    """As Grafana's own models write what they have read: without what they do not know."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(shown)))


def _lost(before: Any, after: Any, where: str = "") -> list[str]:
    """What of `before` is not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        here = [f"{where}.{name}" for name in before if name not in after]
        return here + [lost for name in before if name in after for lost in _lost(before[name], after[name], f"{where}.{name}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [lost for i, pair in enumerate(zip(before, after, strict=True)) for lost in _lost(*pair, f"{where}[{i}]")]
    return [] if before == after else [where]


def test_grafanas_schema_knows_all_of_the_dashboard() -> None:
    assert _lost(_shown(), _through_grafanas_schema(_shown())) == []


@pytest.mark.parametrize("place", ["panel", "options", "target", "custom", "variable"])
def test_a_field_that_grafana_does_not_know_is_found(place: str) -> None:
    shown = _shown()
    panel = next(panel for panel in shown["panels"] if panel["type"] == "timeseries")
    places = {
        "panel": panel, "options": panel["options"], "target": panel["targets"][0],
        "custom": panel["fieldConfig"]["defaults"]["custom"], "variable": shown["templating"]["list"][0],
    }  # fmt: skip
    places[place]["lineWidht"] = 1
    [lost] = _lost(shown, _through_grafanas_schema(shown))
    assert lost.endswith(".lineWidht")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="apt-get install prometheus")
def test_prometheus_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", FOLDER / "alerts.yaml"], check=True, stdout=subprocess.DEVNULL)


def test_variables_are_used_by_every_panel_and_there() -> None:
    assert [variable["name"] for variable in _shown()["templating"]["list"]] == ["datasource", "Cluster", "SessionName"]
    for _, expression in _dashboard_expressions():
        assert expression.count("$SessionName") == expression.count("$Cluster") == expression.count("ray_drafthouse_")


@pytest.mark.parametrize("rule", _alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_has_what_it_needs_and_a_runbook(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["alert"].startswith("Drafthouse")
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"]["summary"].endswith(".")
    page = embed.METRICS_PAGE.read_text(encoding="utf-8")
    assert f"### {rule['alert']}\n" in page


def test_an_alert_on_replicas_that_take_nothing_fires_for_broken_ones_and_for_no_drain() -> None:
    """Serve ends a drain, whatever becomes of it, after the longest time below; gateways do not say that they drain."""
    (rule,) = [rule for rule in _alerts() if any(name.endswith("_draining") for name in promql.names(rule["expr"]))]
    assert promql.names(rule["expr"]) == {metric.exported for metric in METRICS if metric.key == "draining"}
    assert {metric.owner for metric in METRICS if metric.key == "draining"} == {"verifier", "drafter"}
    config = load_config(embed.SHIPPED)
    longest_drain_s = max(config.verifier.drain_s, DRAIN_S) + STOP_S
    minutes = int(rule["for"].removesuffix("m"))
    assert longest_drain_s + GAUGE_STAYS_S < 60 * minutes <= 600


def test_every_runbook_has_its_alert() -> None:
    page = embed.METRICS_PAGE.read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### Drafthouse")]
    assert sorted(headings) == sorted(rule["alert"] for rule in _alerts())


def test_on_kubernetes_the_same_rules_and_dashboard_are_applied() -> None:
    objects = render(FOLDER)
    rule, config = (of_kind(objects, kind)[0] for kind in ("PrometheusRule", "ConfigMap"))
    assert rule["spec"] == yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    assert json.loads(config["data"]["drafthouse.json"]) == _shown()
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_prometheus_scrapes_the_port_on_which_ray_exports() -> None:
    """The port that every Ray node exports on is the container port which the PodMonitor names."""
    monitor = of_kind(render(FOLDER), "PodMonitor")[0]
    assert "metrics" in [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    cluster = of_kind(render(embed.ROOT / "k8s" / "overlays" / "gpu"), "RayService")[0]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 5
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        (port,) = [port["containerPort"] for port in container["ports"] if port["name"] == "metrics"]
        assert group["rayStartParams"]["metrics-export-port"] == str(port)
