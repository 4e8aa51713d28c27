"""How long a step takes: `T(tokens, kv_tokens)` in seconds, from a published curve or from measurements.

`T*(n) = min over m >= n of T(m)`: a step may be padded where the curve dips, so the cost of n
tokens never exceeds that of more (DESIGN 5).
"""

import json
import pathlib
from dataclasses import dataclass
from typing import Protocol

from drafthouse.errors import ConfigError

CURVES = pathlib.Path(__file__).parent.parent / "engine" / "curves"


class LatencyModel(Protocol):
    def seconds(self, tokens: int, kv_tokens: int) -> float:
        """Expected seconds of a step of `tokens` new tokens over `kv_tokens` cached ones in all."""
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

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """A curve is given, not learned."""


@dataclass(frozen=True)
class ScaledCurve:
    """A curve on a stretched time axis, as the paced device runs it."""

    curve: Curve
    scale: float

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        return self.curve.seconds(tokens, kv_tokens) * self.scale

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """A curve is given, not learned."""


def load_curve(name: str) -> Curve:
    """A curve by its name in the package, or from a JSON file. Raises ConfigError naming it."""
    path = CURVES / f"{name}.json" if "/" not in name and not name.endswith(".json") else pathlib.Path(name)
    try:
        curve = Curve(**json.loads(path.read_text(encoding="utf-8")))
        good = curve.base_ms > 0 and curve.per_token_ms >= 0 and curve.per_kv_token_ms >= 0
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in CURVES.glob("*.json")))
        raise ConfigError(f"paced.curve: no curve {name!r}; the package has {known}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"paced.curve: {path} is not a curve: {error}") from error
    if not good:
        raise ConfigError(f"paced.curve: {path} has a negative time")
    return curve


class MeasuredLatency:
    """Medians at profiled token counts, linear in between, corrected online.

    Each knot keeps its time at no cached tokens; `per_kv_token` is one slope for all. An
    observation moves the nearest knots by `RATE`, clipped to `CLIP` times, so that one preempted
    step does not spoil the curve.
    """

    RATE, CLIP = 0.05, 3.0

    def __init__(self, knots: dict[int, float], per_kv_token: float = 0.0):
        if not knots:
            raise ValueError("a measured latency needs at least one point")
        self.tokens = sorted(knots)
        self.times = [knots[n] for n in self.tokens]
        self.per_kv_token = per_kv_token

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        return self._base(tokens) + self.per_kv_token * kv_tokens

    def _base(self, tokens: int) -> float:
        low, high, share = self._around(tokens)
        between = self.times[low] * (1 - share) + self.times[high] * share
        return between if share <= 1.0 else max(between, self.times[high])  # a dip at the end must not go on below zero

    def _around(self, tokens: int) -> tuple[int, int, float]:
        """Knots below and above and where `tokens` lies between; above the last it extends its slope."""
        last = len(self.tokens) - 1
        high = next((i for i, n in enumerate(self.tokens) if n >= tokens), last)
        low = max(0, high - 1)
        if high == low or tokens <= self.tokens[0]:
            return high, high, 0.0
        return low, high, (tokens - self.tokens[low]) / (self.tokens[high] - self.tokens[low])

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        low, high, share = self._around(tokens)
        expected = self.seconds(tokens, kv_tokens)
        error = min(max(seconds, expected / self.CLIP), expected * self.CLIP) - expected
        self.times[low] = max(1e-6, self.times[low] + self.RATE * error * (1 - min(share, 1.0)))
        self.times[high] = max(1e-6, self.times[high] + self.RATE * error * min(share, 1.0) if high != low else self.times[high])
