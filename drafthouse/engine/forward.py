"""The seam between a runner and a model: segments in, logits and last hidden states out.

Promises: a forward writes the KV of all new tokens and returns the logits and states asked for, rows in the order of segments and outputs.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from drafthouse.engine.attention.backend import AttentionBackend
from drafthouse.engine.attention.layout import layout_of
from drafthouse.engine.attention.reference import ReferenceAttention
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.model_limits import limits_of
from drafthouse.engine.native.share import whole
from drafthouse.engine.packed_step import PackedStep, packed
from drafthouse.engine.raised_precision import layers_of
from drafthouse.engine.segment import Segment


class Forward(Protocol):
    """`row_invariant`: a row's bits depend on that row and what it sees alone. `attention_calls`: layers of the last run that had
    our attention; a model that never calls it cannot be served. `vocab_size` counts the tokens that it takes;
    logits are of as many, but for a draft whose head is cut. `hidden_size` is that of states. `kernels` names what decides the
    bits of its sums beyond device and libraries."""

    name: str
    kernels: str
    row_invariant: bool
    vocab_size: int
    hidden_size: int
    parameters: int
    weight_bytes: int
    attention_calls: int

    def run(self, segments: Sequence[Segment], cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[sum of outputs, vocab]`, and what the head reads: states after the final norm, `[sum of states, hidden]`, float32
        (float64 for float64 weights). Logits have the same bits whether states are asked for or not."""
        ...

    def close(self) -> None: ...


class StockForward:
    """transformers' own modules with our attention."""

    name = kernels = "transformers"
    row_invariant = False

    def __init__(self, model: PreTrainedModel):
        self.model = model
        limits = limits_of(model.config)
        self.vocab_size, self.hidden_size = limits.vocab_size, limits.hidden_size
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.weight_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        self.attention: AttentionBackend = ReferenceAttention()
        self.attention_calls = 0

    def run(self, segments: Sequence[Segment], cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        device = cache.data.device
        step = self.attention.begin(cache, layout_of(segments))
        buffer = packed(segments)
        with self._added(buffer), self._last_states(buffer) as last:
            logits: torch.Tensor = self.model(
                input_ids=_on(buffer.tokens, device)[None], position_ids=_on(buffer.positions, device)[None], use_cache=False,
                past_key_values=None, logits_to_keep=_on(buffer.outputs, device), drafthouse_step=step,
            ).logits[0]  # fmt: skip
        self.attention_calls = step.calls
        states = whole(last[0])[0, _on(buffer.states, device)] if last else logits.new_empty(0, self.hidden_size)
        assert states.shape[1] == self.hidden_size or not len(states), "the model's base is not what its head reads"
        return logits, states.to(torch.promote_types(states.dtype, torch.float32))

    @contextlib.contextmanager
    def _added(self, step: PackedStep) -> Iterator[None]:
        """Inside, the first layer takes the embeddings with the step's inputs added: behind the scales that families have."""
        if step.inputs is None:
            yield
            return
        rows, inputs = _on(step.input_rows, self.model.device), step.inputs

        def add(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = args[0].clone()
            x[0, rows] += inputs.to(x)
            return (x, *args[1:])

        with self._first_layer.register_forward_pre_hook(add):
            yield

    @cached_property
    def _first_layer(self) -> torch.nn.Module:
        return next(iter(layers_of(self.model)))

    @contextlib.contextmanager
    def _last_states(self, step: PackedStep) -> Iterator[list[torch.Tensor]]:
        """Gets `[1, tokens, hidden]`, what the model gives its head to read, where the step asks for any."""
        found: list[torch.Tensor] = []
        if not len(step.states):
            yield found
            return

        def keep(module: Any, args: Any, out: Any) -> None:
            found.append(out[0])

        with self.model.base_model.register_forward_hook(keep):
            yield found

    def close(self) -> None:
        """Holds nothing beyond the model."""


def _on(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """int64."""
    return torch.from_numpy(numbers.astype(np.int64)).to(device)
