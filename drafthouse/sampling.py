"""What a request asks of sampling. Pure data: `drafthouse.choose` applies it to logits."""

from dataclasses import dataclass

from drafthouse.errors import RequestError

MAX_SEED = (1 << 63) - 1
GREEDY_BELOW = 1e-5
"""Temperatures below it would overflow float32 logits, and no sampled token could differ but at a near-tie."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Applied in this order: repetition penalty, temperature, top-k, top-p, min-p, noise.

    temperature 0, or below GREEDY_BELOW, is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 switch a step off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def check(self) -> None:
        """Raises RequestError naming the first field out of range."""
        limits = {
            "temperature": (0.0 <= self.temperature <= 100.0, "between 0 and 100"),
            "top_k": (0 <= self.top_k < 1 << 31, "0 (off) or a positive integer"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "between 0 and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100.0, "between 0.01 and 100"),
        }
        for name, (good, wanted) in limits.items():
            if not good:  # a NaN fails every comparison
                raise RequestError(f"{name} must be {wanted}, not {getattr(self, name)}", name)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def filters(self) -> bool:
        return not self.greedy and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1.0
