"""Writes what is made of other files: `python -m tests.manifests.embed` after changing deployments/serve_config.yaml,
drafthouse/telemetry/metrics.py, or panels.yaml and alerts.yaml in k8s/monitoring. A test compares."""

import pathlib

from tests.manifests import monitoring

ROOT = pathlib.Path(__file__).parents[2]

SHIPPED = ROOT / "deployments" / "serve_config.yaml"

OVERLAY = ROOT / "k8s" / "overlays" / "cpu-demo" / "serve-config.yaml"

MONITORING = ROOT / "k8s" / "monitoring"

METRICS_PAGE = ROOT / "docs" / "metrics.md"

KEY = "  serveConfigV2: |\n"


def embedded(overlay: str, shipped: str) -> str:
    """The overlay's text with the shipped file's as its serveConfigV2."""
    head = overlay[: overlay.index(KEY) + len(KEY)]
    return head + "".join(f"    {line}" if line.strip() else line for line in shipped.splitlines(keepends=True))


def made() -> dict[pathlib.Path, str]:
    """Every file that is made of others, with the text that it should have."""
    read = lambda path: path.read_text(encoding="utf-8")  # noqa: E731
    panels, alerts = read(MONITORING / "panels.yaml"), read(MONITORING / "alerts.yaml")
    dashboard = monitoring.dashboard(panels)
    return {
        OVERLAY: embedded(read(OVERLAY), read(SHIPPED)),
        MONITORING / "dashboard.json": dashboard,
        MONITORING / "dashboard-config-map.yaml": monitoring.config_map(dashboard),
        MONITORING / "prometheus-rule.yaml": monitoring.prometheus_rule(alerts),
        METRICS_PAGE: monitoring.with_table(read(METRICS_PAGE), panels, alerts),
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
