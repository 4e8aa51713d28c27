"""What a running cluster exports, found as Prometheus finds it: Ray's service discovery, then every target's /metrics."""

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.serving import Serving

OURS = "ray_drafthouse_"


class Scrape:
    """Families of our own metrics by the name that Prometheus has; samples of all nodes together."""

    def __init__(self, families: dict[str, Metric]):
        self.families = families

    def value(self, name: str, **labels: str) -> float:
        """The sum over all series with these labels."""
        return sum(number for found, number in self.series(name).items() if labels.items() <= dict(found).items())

    def series(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Numbers by labels; a histogram's under NAME_count, NAME_bucket."""
        samples = (sample for family in self.families.values() for sample in family.samples if sample.name == name)
        return {tuple(sorted(sample.labels.items())): sample.value for sample in samples}


def targets(serving: Serving) -> list[str]:
    """host:port of every exporter; none before Ray has written them down."""
    found = httpx.get(f"{serving.dashboard_url}/api/prometheus/sd", timeout=30, trust_env=False).json()
    return [target for group in found for target in group["targets"]]


def scrape(serving: Serving) -> Scrape:
    """Nothing when a target is late: whoever waits for numbers asks again, as Prometheus does."""
    try:
        texts = [httpx.get(f"http://{target}/metrics", timeout=30, trust_env=False).text for target in targets(serving)]
    except httpx.TimeoutException:
        return Scrape({})
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.startswith(OURS):
                name = family.name + ("_total" if family.type == "counter" else "")
                families.setdefault(name, Metric(family.name, family.documentation, family.type)).samples += family.samples
    return Scrape(families)
