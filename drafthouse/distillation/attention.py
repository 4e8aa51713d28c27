"""Attention over packed texts in training, for any of transformers' dense decoders.

Promises: texts that lie side by side in one row do not see each other. In step 0 a row sees the rows of its text up to itself. In the
unrolled step `s` row `i` sees the rows of step 0 up to `i - s`, then its own path: row `i - s + m` as step `m` made it, for `m` from 1
to `s` (HASS, arXiv 2408.15766). This is what a drafter computes: committed tokens with the target's states, drafted ones with its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

IMPLEMENTATION = "drafthouse_training"


@dataclass(frozen=True, slots=True)
class Span:
    """Of one text: tokens, and the first of the rows that are unrolled. Step `s` of it has the rows from `first + s` up to, and
    without, the text's last."""

    length: int
    first: int

    def learned(self, step: int) -> int:
        """Rows of a step that are learned from: the target wrote what comes after them."""
        return max(0, self.length - 1 - self.first - step)

    def rows(self, step: int) -> int:
        return self.length if step == 0 else self.learned(step)


@dataclass(slots=True)
class Unrolling:
    """The texts of a batch, the step at hand, and keys and values of all steps up to it, by layer."""

    spans: Sequence[Span]
    step: int = 0
    keys: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    values: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def remember(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        del self.keys.setdefault(layer, [])[self.step :], self.values.setdefault(layer, [])[self.step :]
        self.keys[layer].append(key)
        self.values[layer].append(value)


def register() -> None:
    """Makes the implementation known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    unrolling: Unrolling | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, heads, T, D]`, key and value `[1, kv_heads, T, D]` to output `[1, T, heads, D]`."""
    assert unrolling is not None
    layer: int = module.layer_idx
    groups = query.shape[1] // key.shape[1]
    unrolling.remember(layer, key[0].repeat_interleave(groups, 0), value[0].repeat_interleave(groups, 0))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = max((span.length for span in unrolling.spans), default=0) if sliding_window is None else sliding_window
    outputs, starts = [], [0] * (unrolling.step + 1)
    for span in unrolling.spans:
        rows = [span.rows(step) for step in range(unrolling.step + 1)]
        parts = [slice(start, start + count) for start, count in zip(starts, rows, strict=True)]
        if rows[-1]:
            keys = [each[:, part] for each, part in zip(unrolling.keys[layer], parts, strict=True)]
            values = [each[:, part] for each, part in zip(unrolling.values[layer], parts, strict=True)]
            start = 0 if unrolling.step == 0 else span.first + unrolling.step
            if unrolling.step == 0 and softcap is None and span.length <= window:
                outputs.append(_first(query[0, :, parts[0]], keys[0], values[0], scale))
            else:
                outputs.append(_unrolled(query[0, :, parts[-1]], keys, values, start, scale, softcap, window))
        starts = [part.stop for part in parts]
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


def _first(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    return scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True, scale=scale)[0]


def _unrolled(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    start: int,
    scale: float,
    softcap: float | None,
    window: int,
) -> torch.Tensor:
    """Queries `[heads, n, D]` of rows `start` on. Row `r` of step `m` is the `m`th on the path of row `r` of this step."""
    step, count, length = len(keys) - 1, query.shape[1], keys[0].shape[1]
    scores = [query @ keys[0].transpose(1, 2)]
    scores += [(query * key[:, :count]).sum(-1, keepdim=True) for key in keys[1:]]
    joined = torch.cat(scores, -1) * scale
    if softcap is not None:
        joined = torch.tanh(joined / softcap) * softcap
    before = torch.arange(start, start + count, device=query.device)[:, None] - torch.arange(length, device=query.device)
    unseen = (before < step) | (before >= window)
    weights = joined.masked_fill(torch.nn.functional.pad(unseen, (0, step)), float("-inf")).softmax(-1)
    output = weights[..., :length] @ values[0]
    for m, value in enumerate(values[1:]):
        output = output + weights[..., length + m, None] * value[:, :count]
    return output
