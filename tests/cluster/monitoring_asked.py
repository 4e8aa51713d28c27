"""What our dashboard and our alerts ask Prometheus, and what it says of a server under load."""

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.cluster.prometheus import ALERTS, MONITORING, Prometheus, Series

RIGHTLY_EMPTY = {
    ("Replicas", "{{role}} draining"): "none drains",
    ("Faults", "steps {{replica}}"): "no step raised",
    ("Faults", "passes {{replica}}"): "no pass raised",
    ("Faults", "messages {{replica}}"): "all could be read",
    ("Faults", "stages of drafter {{replica}}"): "no stage raised",
    ("Faults", "stages of verifier {{replica}}"): "no stage raised",
    ("Not the real thing", "late steps"): "no paced device",
    ("Not the real thing", "late passes"): "no paced device",
}
"""Of the dashboard's expressions, by panel and legend: why a server without faults has no data there."""

MATTERS_OF_LOAD = {
    "DrafthouseFirstTokenSlow", "DrafthouseStreamsPause", "DrafthouseQueueStands", "DrafthouseDraftersShort", "DrafthouseVerifiersShort",
    "DrafthouseSpeculationCosts", "DrafthousePredictionOff", "DrafthouseNetworkSlow", "DrafthouseKvFull", "DrafthouseStaleMessages",
}  # fmt: skip
"""Alerts that a busy machine may give cause for."""

RATE_INTERVAL = "1m"
"""What Grafana puts for $__rate_interval with its default interval between scrapes."""

COMPARISON = re.compile(r" (==|!=|>=|<=|>|<) ")
"""Not those within braces, which have no spaces."""


@dataclass(frozen=True)
class Asked:
    """One expression, of a panel or an alert; `name` is the panel's legend, `most` what its axis ends at."""

    where: str
    name: str
    expression: str
    most: float = math.inf
    is_alert: bool = False

    @property
    def named_labels(self) -> set[str]:
        """Those that the legend fills in."""
        return set(re.findall(r"{{(\w+)}}", self.name))

    @property
    def unfiltered(self) -> str:
        """With a difference for each comparison: has data exactly if what is compared is there, and its labels match."""
        return COMPARISON.sub(" - ", self.expression)


def panels(session: str) -> list[Asked]:
    """What the dashboard asks, once its variables are chosen: one session, all clusters."""
    shown = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    chosen = {"$__rate_interval": RATE_INTERVAL, "$SessionName": session, "$Cluster": ".*"}
    found = []
    for panel in shown["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in chosen.items():
                expression = expression.replace(variable, value)
            most = panel["fieldConfig"]["defaults"].get("max", math.inf)
            found.append(Asked(panel["title"], target["legendFormat"], expression, most))
    return found


def alerts() -> list[Asked]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [Asked(rule["alert"], "", rule["expr"], is_alert=True) for group in groups for rule in group["rules"]]


def says_something(found: Sequence[Series]) -> bool:
    return any(math.isfinite(series.value) for series in found)


@dataclass
class Evaluated:
    """What Prometheus said under load: the series of each expression, and the rules."""

    sessions: list[str] = field(default_factory=list)
    found: dict[Asked, list[Series]] = field(default_factory=dict)
    unfiltered: dict[Asked, list[Series]] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, server: Prometheus, seconds: float) -> None:
        """Until each panel has data, or is rightly empty, and each alert has what it compares; or for that long."""
        deadline = time.monotonic() + seconds
        while not self.sessions:
            self.sessions = server.label_values("SessionName", "ray_drafthouse_gateway_verifiers")
            assert time.monotonic() < deadline, "Prometheus has found nothing of ours"
        left = [*panels(self.sessions[0]), *alerts()]
        while left and time.monotonic() < deadline:
            for asked in left:
                self.found[asked], self.unfiltered[asked] = server.query(asked.expression), server.query(asked.unfiltered)
            left = [asked for asked in left if not self._is_answered(asked)]
            time.sleep(1.0)
        self.rules = list(server.rules())

    def _is_answered(self, asked: Asked) -> bool:
        may_be_empty = asked.is_alert or (asked.where, asked.name) in RIGHTLY_EMPTY
        return bool(self.unfiltered[asked]) and (may_be_empty or says_something(self.found[asked]))
