"""The seam between a model and its attention: one object for each step, one call for each layer.

Promises: a backend writes the step's keys and values and lets each new token see exactly what the layout says, within the
layer's sliding window. Rotary embedding has been applied before.
"""

from typing import Protocol

import torch

from drafthouse.engine.attention.layout import StepLayout
from drafthouse.engine.kv_cache import KvCache


class AttentionStep(Protocol):
    """One step's attention. `calls` counts layers; a model that never calls has no attention to serve."""

    calls: int

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:  # fmt: skip
        """query `[heads, T, D]`, key and value `[kv_heads, T, D]` to output `[T, heads, D]`.

        T is the layout's tokens. `scaling` None stands for `D ** -0.5`; `softcap` c maps scores s to `c * tanh(s / c)`; `window` w
        shows positions above `own - w`.
        """
        ...


class AttentionBackend(Protocol):
    """`row_invariant`: a row's bits depend on that row and on the keys and values it sees, and on nothing else (docs/design.md 9)."""

    name: str
    row_invariant: bool

    def begin(self, cache: KvCache, layout: StepLayout) -> AttentionStep: ...
