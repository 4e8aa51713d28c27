"""The seam between a runner and a model: segments in, logits out.

Promises: a forward writes the KV of all new tokens and returns the logits asked for, rows in the order of segments and outputs.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from drafthouse.engine.attention.backend import AttentionBackend
from drafthouse.engine.attention.layout import layout_of
from drafthouse.engine.attention.reference import ReferenceAttention
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.model_limits import limits_of
from drafthouse.engine.packed_step import packed
from drafthouse.engine.segment import Segment


class Forward(Protocol):
    """`row_invariant`: a row's bits depend on that row and what it sees alone. `attention_calls`: layers of the last run that had
    our attention; a model that never calls it cannot be served. `kernels` names what decides the
    bits of its sums beyond device and libraries."""

    name: str
    kernels: str
    row_invariant: bool
    vocab_size: int
    parameters: int
    weight_bytes: int
    attention_calls: int

    def logits(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """`[sum of outputs, vocab]`."""
        ...

    def close(self) -> None: ...


class StockForward:
    """transformers' own modules with our attention."""

    name = kernels = "transformers"
    row_invariant = False

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.vocab_size = limits_of(model.config).vocab_size
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.weight_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        self.attention: AttentionBackend = ReferenceAttention()
        self.attention_calls = 0

    def logits(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        device = cache.data.device
        step = self.attention.begin(cache, layout_of(segments))
        buffer = packed(segments)
        logits: torch.Tensor = self.model(
            input_ids=_on(buffer.tokens, device)[None], position_ids=_on(buffer.positions, device)[None], use_cache=False,
            past_key_values=None, logits_to_keep=_on(buffer.outputs, device), drafthouse_step=step,
        ).logits[0]  # fmt: skip
        self.attention_calls = step.calls
        return logits

    def close(self) -> None:
        """Holds nothing beyond the model."""


def _on(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """int64."""
    return torch.from_numpy(numbers.astype(np.int64)).to(device)
