"""What is derived from k8s/monitoring/panels.yaml, k8s/monitoring/alerts.yaml and the declaration of metrics.

Promises: pure, from text to text; the same input gives the same output. `tests.manifests.embed` writes it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

from drafthouse.telemetry.metrics import METRICS

FILTER = 'SessionName=~"$SessionName", ray_io_cluster=~"$Cluster"'
"""What `@` stands for in a selector. Without KubeRay there is no ray_io_cluster, which `.*` matches too."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ROW_HEIGHT, STAT_HEIGHT, HEIGHT, COLUMNS = 1, 4, 8, 24
QUANTILES = {"50 %": 0.5, "95 %": 0.95, "99 %": 0.99}

TABLE_BEGIN, TABLE_END = "<!-- metrics: python -m tests.manifests.embed -->\n", "<!-- end of metrics -->\n"

Object = dict[str, Any]


def expressions(panel: Object) -> dict[str, str]:
    """By legend."""
    if "quantiles" in panel:
        bucket = f"{panel['quantiles']}_bucket{{@}}"
        return {name: f"histogram_quantile({q}, sum by (le) (rate({bucket}[$__rate_interval])))" for name, q in QUANTILES.items()}
    shown: dict[str, str] = panel["show"]
    return shown


def panels(source: Object) -> Iterator[Object]:
    for row in source["rows"]:
        yield from row["panels"]


def dashboard(text: str) -> str:
    """The dashboard's JSON from the text of panels.yaml."""
    source = yaml.safe_load(text)
    return json.dumps(
        {
            "uid": "drafthouse",
            "title": source["title"],
            "tags": ["drafthouse"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [{"type": "link", "title": "Ray Serve", "url": "/d/rayServeDashboard", "keepTime": True}],
            "templating": {"list": _variables()},
            "panels": list(_laid_out(source["rows"])),
        },
        indent=1,
    ) + "\n"  # fmt: skip


def _variables() -> list[Object]:
    def query(name: str, label: str, selector: str) -> Object:
        return {
            "name": name, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 2, "multi": True,
            "query": f"label_values(ray_drafthouse_gateway_verifiers{selector}, {label})",
            "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
        }  # fmt: skip

    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    cluster = query("Cluster", "ray_io_cluster", "")
    return [source, cluster, query("SessionName", "SessionName", '{ray_io_cluster=~"$Cluster"}')]


def _laid_out(rows: list[Object]) -> Iterator[Object]:
    """Rows below each other, a row's panels from left to right."""
    y = number = 0
    for row in rows:
        yield {"type": "row", "title": row["title"], "id": (number := number + 1), "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": ROW_HEIGHT}}  # fmt: skip
        y, x = y + ROW_HEIGHT, 0
        for panel in row["panels"]:
            width, height = panel.get("width", 8), STAT_HEIGHT if panel.get("kind") == "stat" else HEIGHT
            if x + width > COLUMNS:
                x, y = 0, y + height
            yield {"id": (number := number + 1), "gridPos": {"x": x, "y": y, "w": width, "h": height}, **_panel(panel)}
            x += width
        y += height


def _panel(panel: Object) -> Object:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression.replace("@", FILTER), "legendFormat": legend, "range": True}
        for i, (legend, expression) in enumerate(expressions(panel).items())
    ]
    limits = {"min": 0} | ({"max": panel["max"]} if "max" in panel else {})
    stat = panel.get("kind") == "stat"
    drawing = {"lineWidth": 1, "fillOpacity": 30 if panel.get("stack") else 8, "showPoints": "never",
               "stacking": {"mode": "normal" if panel.get("stack") else "none", "group": "A"}}  # fmt: skip
    options: Object = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "none"}
        if stat
        else {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}, "tooltip": {"mode": "multi"}}
    )
    return {
        "type": "stat" if stat else "timeseries",
        "title": panel["title"],
        "description": panel["say"],
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel["unit"], **limits, "custom": {} if stat else drawing}, "overrides": []},
        "options": options,
        "targets": targets,
    }


def prometheus_rule(alerts: str) -> str:
    """The same rules as the Prometheus operator wants them."""
    groups = alerts[alerts.index("groups:") :]
    head = (
        "# Made of alerts.yaml: python -m tests.manifests.embed\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
        "metadata:\n  name: drafthouse\n  labels:\n    app.kubernetes.io/part-of: drafthouse\nspec:\n"
    )
    return head + _indented(groups, 2)


def config_map(dashboard_json: str) -> str:
    """The dashboard for Grafana's sidecar, which looks for the label."""
    head = (
        "# Made of panels.yaml: python -m tests.manifests.embed\n"
        "apiVersion: v1\nkind: ConfigMap\n"
        'metadata:\n  name: drafthouse-dashboard\n  labels:\n    app.kubernetes.io/part-of: drafthouse\n    grafana_dashboard: "1"\n'
        "data:\n  drafthouse.json: |\n"
    )
    return head + _indented(dashboard_json, 4)


def _indented(text: str, by: int) -> str:
    return "".join(" " * by + line if line.strip() else line for line in text.splitlines(keepends=True))


def with_table(page: str, panel_text: str, alerts: str) -> str:
    """docs/metrics.md with the table of all metrics between its marks: what each is, and which panels and alerts read it."""
    before, _, rest = page.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    readers = _readers(panel_text, alerts)
    lines = ["| metric | kind | labels | unit | what | seen in |", "|---|---|---|---|---|---|"]
    for metric in METRICS:
        seen = ", ".join(title for title, names in readers if {metric.exported, f"{metric.exported}_bucket"} & names)
        lines.append(f"| `{metric.exported}` | {metric.kind} | {', '.join(metric.labels[1:])} | {metric.unit} | {metric.help} | {seen} |")
    return before + TABLE_BEGIN + "\n" + _counted() + "\n\n" + "\n".join(lines) + "\n\n" + TABLE_END + after


def _readers(panel_text: str, alerts: str) -> list[tuple[str, set[str]]]:
    """Titles of panels and names of alerts, each with the series that it reads."""
    shown = [(panel["title"], " ".join(expressions(panel).values())) for panel in panels(yaml.safe_load(panel_text))]
    rules = [(rule["alert"], rule["expr"]) for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    return [(title, set(re.findall(r"ray_drafthouse_\w+", text))) for title, text in shown + rules]


def _counted() -> str:
    """How many series a replica of each role has."""
    counts: Counter[str] = Counter()
    for metric in METRICS:
        counts[metric.owner] += len(metric.buckets) + 3 if metric.kind == "histogram" else len(metric.values) or not metric.label
    by_pair = sum(bool(metric.label and not metric.values) for metric in METRICS)
    return (
        f"Series of a replica: gateway {counts['gateway']}, verifier {counts['verifier']} and {by_pair} for each drafter "
        f"that it is paired with, drafter {counts['drafter']}, controller {counts['controller']}."
    )
