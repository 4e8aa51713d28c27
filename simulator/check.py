"""The simulator against a live paced cluster: `drafthouse bench load --json` measured, the same load simulated.

The bench's arrivals are a function of its settings, so each point's are made again here. Two constants
are free: the overhead of a verification step and of a draft pass. They are fitted on one point of
`off` and one of `auto`, at the lowest rate of the first workload; all other points are forecasts.
"""

import json
import pathlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve
from drafthouse.speculation import Speculation
from simulator.acceptance import Acceptance
from simulator.arrivals import poisson
from simulator.cluster import Cluster
from simulator.options import Options
from simulator.policies import POLICIES
from simulator.request import Request
from simulator.trace import TraceRequest

REPLICATIONS = 3
"""Simulations of each point with other texts: their mean is the forecast."""

FIT_STEPS, FIT_MOST_S = 8, 0.02
"""Bisections of an overhead, and the seconds that it may be at most: halved eight times, that is a tenth of a millisecond."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """One point: mean latency live and simulated. `error` is (simulated - live) / live; a `fitted` point is no forecast."""

    workload: str
    rate: float
    policy: str
    live_s: float
    simulated_s: float
    fitted: bool

    @property
    def error(self) -> float:
        return self.simulated_s / self.live_s - 1.0


class Bench:
    """A report of `bench load`, whose points can be simulated again."""

    def __init__(self, path: pathlib.Path, trace: Sequence[TraceRequest], options: Options):
        """Raises ConfigError naming the file and the key that is missing or wrong."""
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            self.points: list[Json] = [p for p in report["points"] if p["policy"] in POLICIES]
            self._settings: Json = report["settings"]
            for point in self.points:
                if not (point["rate"] > 0 and point["mean_latency_s"] > 0 and point["requests"] >= 1):
                    raise ConfigError(f"--check {path}: a point's rate, requests and mean_latency_s must be positive, not {point}")
            s = self._settings
            self._config = ServingConfig.model_validate(
                {
                    "verifier": {"step_tokens": s["step_tokens"], "max_sequences": s["sequences"], "max_queue": 4096},
                    "drafter": {"prefill_tokens": s["step_tokens"], "max_sessions": 4096},
                }
            )
            self._options = replace(
                options, verifiers=1, drafters=1, target=Curve(**s["curves"]["target"]), draft=Curve(**s["curves"]["draft"]),
                time_scale=s["time_scale"], config=self._config, drain=True, rate=None,
            )  # fmt: skip
            self._places = [(w, load) for w in s["workloads"] for load in s["loads"]]
        except OSError as error:
            raise ConfigError(f"--check {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--check {path}: not a report of `bench load` on a paced server: {type(error).__name__}: {error}") from error
        if not self.points:
            raise ConfigError(f"--check {path}: it has no points")
        self._trace = trace

    def latency(self, point: Json, step_s: float, pass_s: float) -> float:
        """Simulated mean latency of the point's requests, in seconds. Segments are simulated one by one, as the bench measured them;
        `step_s` and `pass_s` are the overheads of a step and of a pass."""
        overheads = replace(self._options.overheads, step_s=step_s, pass_s=pass_s)
        s, total, count = self._settings, 0.0, 0
        place = self._places.index((point["workload"], point["load"]))
        for replication in range(REPLICATIONS):
            rng = random.Random(replication)
            acceptance = Acceptance(self._trace, point["workload"], rng)
            for segment in range(s["segments"]):
                due = poisson(
                    point["rate"], round(point["requests"] / s["segments"]), s["prompts"], tuple(s["tokens"]), (s["seed"], place, segment)
                )
                arrivals = [Request(f"{i}", acceptance.text_of(a.tokens), a.at_s) for i, a in enumerate(due)]
                options = replace(
                    self._options, overheads=overheads, speculation=Speculation(**POLICIES[point["policy"]]), seed=replication
                )
                outcome = Cluster(options, arrivals, rng).run()
                total += outcome.mean_latency_s * outcome.served
                count += outcome.served
        return total / count


def check(bench: Bench, advance: Callable[[str], None] = lambda _: None) -> list[Checked]:
    """All points, the two fitted ones first. `advance` hears what comes next. Raises ConfigError if a policy has no point."""
    off = _lowest(bench.points, "off")
    auto = _lowest(bench.points, "auto")
    advance("fitting the overhead of a step")
    step_s = _bisect(lambda x: bench.latency(off, x, 0.0) - off["mean_latency_s"])
    advance("fitting the overhead of a pass")
    pass_s = _bisect(lambda x: bench.latency(auto, step_s, x) - auto["mean_latency_s"])
    checked = []
    for point in [off, auto, *(p for p in bench.points if p is not off and p is not auto)]:
        advance(f"{point['workload']} at {point['rate']:.3g}/s: {point['policy']}")
        simulated = bench.latency(point, step_s, pass_s)
        fitted = point is off or point is auto
        checked.append(Checked(point["workload"], point["rate"], point["policy"], point["mean_latency_s"], simulated, fitted))
    return checked


def _lowest(points: Sequence[Json], policy: str) -> Json:
    """The policy's point of the lowest rate, of the first workload. Raises ConfigError."""
    mine = [p for p in points if p["policy"] == policy]
    if not mine:
        raise ConfigError(f"--check: the report has no point of policy {policy!r}, which an overhead is fitted on")
    return min((p for p in mine if p["workload"] == mine[0]["workload"]), key=lambda p: p["rate"])


def _bisect(excess: Callable[[float], float]) -> float:
    """The overhead in seconds at which simulated latency comes nearest to the live one; `excess` is the first minus the second."""
    low, high = 0.0, FIT_MOST_S
    for _ in range(FIT_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return (low + high) / 2
