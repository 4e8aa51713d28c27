"""What is simulated: pools, load, times. Promises: what cannot be simulated is a ConfigError that names the option."""

import math
from dataclasses import dataclass, field

from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve
from drafthouse.speculation import Speculation
from simulator.mix import DrafterKind, Mix

MAX_ARRIVALS = 2_000_000
"""Of one simulation: more would take hours."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that no curve holds, on this machine's own axis: no time scale stretches them.

    `step_s` for each verification step and `sequence_s` for each sequence in it, `pass_s` for each
    draft pass, `gateway_s` for each request, `heartbeat_s` of the controller's time for each report.
    """

    step_s: float = 0.0005
    sequence_s: float = 0.0
    pass_s: float = 0.0005
    gateway_s: float = 0.003
    heartbeat_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Options:
    """`rate` is in requests per second for the whole cluster; None: the trace's own arrivals, each once.

    Arrivals go on for `seconds`, or for `requests` of them; with `drain` the simulation then goes on
    until the last one is served. `round_trip_s` is the network's, between any two replicas.
    """

    verifiers: int
    drafters: int
    rate: float | None
    target: Curve
    draft: Curve
    seconds: float | None = None
    requests: int | None = None
    time_scale: float = 1.0
    speculation: Speculation = Speculation()
    round_trip_s: float = 0.0003
    overheads: Overheads = field(default_factory=Overheads)
    config: ServingConfig = field(default_factory=ServingConfig)
    workload: str | None = None
    seed: int = 0
    drain: bool = True
    mix: Mix = Mix()

    def target_of(self, verifier: int) -> int:
        """Which of the targets this verifier serves."""
        return verifier % max(1, len(self.mix.targets))

    def target_curve(self, target: int) -> Curve:
        return self.mix.targets[target] if self.mix.targets else self.target

    def drafter_kind(self, drafter: int) -> DrafterKind:
        kinds = self.mix.drafters
        return kinds[drafter % len(kinds)] if kinds else DrafterKind(self.draft)

    @property
    def shift_s(self) -> float:
        """When the load moves between targets for the first time; 0: never."""
        parts = len(self.mix.first_share)
        return self.seconds / parts if self.seconds is not None and parts > 1 else 0.0

    def check(self) -> None:
        """Raises ConfigError."""
        self.mix.check()
        _whole("--verifiers", self.verifiers, max(1, len(self.mix.targets)))
        _whole("--drafters", self.drafters, 0)
        _whole("--seed", self.seed, 0)
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise ConfigError(f"--rate must be a positive number of requests per second, not {self.rate}")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"--seconds must be a positive number, not {self.seconds}")
        if self.requests is not None:
            _whole("--requests", self.requests, 1)
        if not (math.isfinite(self.time_scale) and self.time_scale > 0):
            raise ConfigError(f"--time-scale must be a positive number, not {self.time_scale}")
        if not 0 <= self.round_trip_s < 60:
            raise ConfigError(f"--round-trip-ms must be between 0 and 60000, not {1e3 * self.round_trip_s:g}")
        for name in ("step_s", "sequence_s", "pass_s", "gateway_s", "heartbeat_s"):
            value = getattr(self.overheads, name)
            if not 0 <= value < 60:
                raise ConfigError(f"--{name.removesuffix('_s')}-overhead-ms must be between 0 and 60000, not {1e3 * value:g}")
        if not self.drain and self.seconds is None:
            raise ConfigError("--no-drain: --seconds must say when the simulation ends")
        self._check_arrivals()

    def _check_arrivals(self) -> None:
        if self.rate is None:
            return
        if self.seconds is None and self.requests is None:
            raise ConfigError("--seconds or --requests: one of them must say how long requests arrive")
        expected = self.rate * self.seconds if self.seconds is not None else 0.0
        if self.requests is not None:
            expected = min(expected, self.requests) if self.seconds is not None else self.requests
        if self.requests is None and expected < 1:
            raise ConfigError(f"--rate, --seconds: {self.rate:g} requests per second for {self.seconds:g} s are none at all")
        if expected > MAX_ARRIVALS:
            raise ConfigError(f"--rate, --seconds: {expected:.3g} requests are more than {MAX_ARRIVALS}")


def _whole(option: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{option} must be a whole number of at least {least}, not {value}")
