"""How long a step takes: `T(tokens, kv_tokens)` in seconds, from a published curve or from measurements (docs/design.md 5)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class LatencyModel(Protocol):
    def seconds(self, tokens: int, kv_tokens: int) -> float:
        """Expected seconds of a step of `tokens` new tokens over `kv_tokens` cached ones in all."""
        ...

    def times(self, first: int, last: int, kv_tokens: int) -> np.ndarray:
        """`seconds` of first, first + 1 ... last tokens, float64 `[last - first + 1]`."""
        ...

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None: ...


@dataclass(frozen=True)
class Curve:
    """A linear fit: `base + per_token * tokens + per_kv_token * kv_tokens`, in milliseconds."""

    name: str
    source: str
    base_ms: float
    per_token_ms: float
    per_kv_token_ms: float

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        return (self.base_ms + self.per_token_ms * tokens + self.per_kv_token_ms * kv_tokens) / 1e3

    def times(self, first: int, last: int, kv_tokens: int) -> np.ndarray:
        return (self.base_ms + self.per_kv_token_ms * kv_tokens + self.per_token_ms * np.arange(first, last + 1)) / 1e3

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """A curve is given, not learned."""


@dataclass(frozen=True)
class ScaledCurve:
    """A curve on a stretched time axis, as the paced device runs it."""

    curve: Curve
    scale: float

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        return self.curve.seconds(tokens, kv_tokens) * self.scale

    def times(self, first: int, last: int, kv_tokens: int) -> np.ndarray:
        return self.curve.times(first, last, kv_tokens) * self.scale

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """A curve is given, not learned."""


class FitError(NamedTuple):
    """Relative errors |predicted - measured| / measured over points that the model was not fitted on."""

    median: float
    p90: float


class MeasuredLatency:
    """A profile (medians at some token counts, linear in between) times what the steps since then say.

    `T(n, kv) = scale * (profile(n) * correction(n) + per_kv_token * kv)`. All learning is in the
    logarithm of observed over predicted, clipped to `CLIP`: a step that was stopped for a minute
    counts as much as one half as long again, so what is tracked is close to the median.
    - `scale` learns fast, from every step: a machine that is slower as a whole (load, clock, another
      one of its kind than the cache was written on) is slower at token counts not seen yet, too.
    - corrections learn slowly, knot by knot: the shape of the curve. An observation moves the knots
      within `REACH` octaves, the nearer the more, so neighbours never part by an artefact, while the
      profile's own steps and dips, which they multiply, stay. They are bounded by `MOST`: a curve of
      another shape than that wants a new profile, which `online_error` shows.
    The reason for two rates: one slow rate lags behind a change of load for hundreds of steps; one
    fast rate, knot by knot, lets noise write steps into the curve that selection then climbs or shuns.
    """

    SCALE_RATE, KNOT_RATE = 0.1, 0.01
    CLIP = math.log(1.5)
    REACH = 2.0
    MOST = math.log(2.0)
    SCALES = (0.01, 100.0)
    ERROR_RATE = 0.01

    def __init__(self, knots: Mapping[int, float], per_kv_token: float = 0.0, fit_error: FitError | None = None):
        """Seconds by token count, at no cached tokens; seconds for each cached token. Raises ValueError without knots."""
        if not knots:
            raise ValueError("a measured latency needs at least one point")
        self.tokens = np.array(sorted(knots))
        self.profile = np.array([knots[n] for n in sorted(knots)])
        self.per_kv_token = per_kv_token
        self.fit_error = fit_error
        self.scale = 1.0
        self.corrections = np.zeros(len(self.tokens))  # logarithms
        self.observations = 0
        self.online_error = 0.0
        """Decayed mean of |predicted - observed| / observed, each at most 1; 0 before any observation."""
        self._last = int(self.tokens[-1])
        self._counts = np.arange(self._last + 1)
        self._octaves = np.log2(np.maximum(self.tokens, 1))
        self._update()

    def _update(self) -> None:
        """`_dense[n]` = profile(n) * correction(n) up to the last knot; beyond it goes on with the last slope, never falling."""
        times = self.profile * np.exp(self.corrections)
        self._dense = np.interp(self._counts, self.tokens, times)
        self._slope = max(0.0, (times[-1] - times[-2]) / (self.tokens[-1] - self.tokens[-2])) if len(times) > 1 else 0.0

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        beyond = max(0, tokens - self._last)
        return float(self.scale * (self._dense[tokens - beyond] + self._slope * beyond + self.per_kv_token * kv_tokens))

    def times(self, first: int, last: int, kv_tokens: int) -> np.ndarray:
        beyond = np.arange(max(first - self._last, 1), last - self._last + 1)
        times = np.concatenate([self._dense[first : last + 1], self._dense[-1] + self._slope * beyond])
        return self.scale * (times + self.per_kv_token * kv_tokens)

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        predicted = self.seconds(tokens, kv_tokens)
        self.observations += 1
        error = min(1.0, abs(predicted - seconds) / max(seconds, 1e-9))
        self.online_error += max(self.ERROR_RATE, 1 / self.observations) * (error - self.online_error)
        moved = min(max(math.log(max(seconds, 1e-9) / predicted), -self.CLIP), self.CLIP)
        self.scale = min(max(self.scale * math.exp(self.SCALE_RATE * moved), self.SCALES[0]), self.SCALES[1])
        near = np.maximum(0.0, 1.0 - np.abs(self._octaves - math.log2(max(tokens, 1))) / self.REACH)
        self.corrections = np.clip(self.corrections + self.KNOT_RATE * moved * near, -self.MOST, self.MOST)
        self._update()


def fit_error(latency: LatencyModel, timings: Iterable[tuple[int, int, float]]) -> FitError:
    """Of (tokens, kv_tokens, seconds) held out from the fit, at least one."""
    errors = [abs(latency.seconds(tokens, kv) - seconds) / seconds for tokens, kv, seconds in timings]
    return FitError(float(np.median(errors)), float(np.quantile(errors, 0.9)))
