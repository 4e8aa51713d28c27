"""Judges a text that differs from the fault-free one, as docs/design.md 1 says: an accident of rounding, or a fault.

Promises: a divergence is explained only if both texts parted at a near-tie, and the text under judgement goes on from there as
the target would: otherwise a near-tie early in a text would excuse whatever comes after it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel

from benchmarks.harness.contestants import load_stock
from benchmarks.harness.divergence import Divergence, explain, first_impossible, float64_twin
from tests.chaos.work import Work


@dataclass(frozen=True, slots=True)
class Judgement:
    """`astray`: the first output token after the divergence that the target could not have chosen there."""

    divergence: Divergence
    astray: int | None

    @property
    def explained(self) -> bool:
        return self.divergence.explained and self.astray is None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.divergence), "astray": self.astray, "explained": self.explained}


class Oracle:
    """Loads the target, in float32 and float64, when it is first asked."""

    def __init__(self, target: str):
        self._target = target

    @cached_property
    def _models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        model = load_stock(self._target, "float32")
        return model, float64_twin(model)

    def __call__(self, work: Work, expected: Sequence[int], found: Sequence[int]) -> Judgement:
        """Raises ModelError where the target cannot be loaded."""
        model, twin = self._models
        divergence = explain(model, twin, work.prompt, work.sampling, work.seed, expected, found)
        assert divergence is not None, "asked only about texts that differ"
        astray = None
        if divergence.explained:
            astray = first_impossible(model, twin, work.prompt, work.sampling, work.seed, found, divergence.index + 1)
        return Judgement(divergence, astray)
