"""Attention over KV slots: the one function that every model calls, registered with transformers.

Promises: each new token sees its sequence's committed entries and its own ancestors in the tail,
within the layer's sliding window, and nothing of any other sequence. Rotary embedding has been
applied before. Masks are built once per step and window, not per layer.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.segment import Segment

IMPLEMENTATION = "drafthouse"


@dataclass(slots=True)
class _Part:
    """One segment of the flattened row: queries `[first, end)` over `keys` (a slice or slot indices)."""

    first: int
    end: int
    keys: slice | torch.Tensor
    visible: torch.Tensor | None  # bool [queries, entries]; None: all
    segment: Segment
    biases: dict[tuple[int | None, int], torch.Tensor | None] = field(default_factory=dict)


class StepContext:
    """All that attention needs to know of one step. Built by the model runner, read by `attend`."""

    def __init__(self, cache: KvCache, segments: list[Segment]):
        self.cache = cache
        self.calls = 0
        device = cache.data.device
        slots = [slot for s in segments for slot in s.kv.slots[len(s.kv) - len(s) :]]
        contiguous = slots[-1] - slots[0] == len(slots) - 1 and all(b - a == 1 for a, b in zip(slots, slots[1:], strict=False))
        self.write = slice(slots[0], slots[-1] + 1) if contiguous else torch.tensor(slots, device=device)
        self.tokens = len(slots)
        self.parts, first = [], 0
        for segment in segments:
            self.parts.append(_part(segment, first, device))
            first += len(segment)

    def store(self, layer: int, which: int, rows: torch.Tensor) -> None:
        """Writes rows `[kv_heads, tokens, head_dim]` of keys (0) or values (1)."""
        target = self.cache.data[layer, which]
        if isinstance(self.write, slice):
            target[:, self.write] = rows
        else:
            target.index_copy_(1, self.write, rows)


def _part(segment: Segment, first: int, device: torch.device) -> _Part:
    kv, count, total = segment.kv, len(segment), len(segment.kv)
    keys = slice(kv.slots[0], kv.slots[0] + total) if kv.contiguous else torch.tensor(kv.slots, device=device)
    tail = count if segment.mask is None else len(segment.mask[0])
    visible = None
    if count > 1 or tail > 1:
        if segment.mask is not None:
            inside = torch.as_tensor(segment.mask, dtype=torch.bool, device=device)
        else:
            inside = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        visible = torch.cat([torch.ones(count, total - tail, dtype=torch.bool, device=device), inside], 1)
    return _Part(first, first + count, keys, visible, segment)


def _near(segment: Segment, window: int, device: torch.device) -> torch.Tensor:
    """Bool `[queries, entries]`: a sliding window of w shows positions above `query - w` (transformers' `sliding_window_overlay`)."""
    queries = torch.tensor(segment.positions, device=device)
    if segment.mask is None:
        tail = queries
    else:
        assert segment.tail_positions is not None
        tail = torch.tensor(segment.tail_positions, device=device)
    committed = torch.arange(len(segment.kv) - len(tail), device=device)
    if segment.skipped:
        committed[segment.sinks :] += segment.skipped
    return torch.cat([committed, tail])[None, :] > queries[:, None] - window


def _bias(part: _Part, window: int | None, groups: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Additive mask `[groups * queries, entries]`, 0 or -inf; None when all is visible."""
    key = (window, groups)
    if key not in part.biases:
        visible = part.visible
        if window is not None and max(part.segment.positions) >= window:
            near = _near(part.segment, window, device)
            visible = near if visible is None else visible & near
        bias = None
        if visible is not None:
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
            bias = bias.expand(groups, *bias.shape).reshape(-1, bias.shape[1])
        part.biases[key] = bias
    return part.biases[key]


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
    drafthouse_step: StepContext | None = None,
    drafthouse_model: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, heads, T, D]`, key and value `[1, kv_heads, T, D]` to output `[1, T, heads, D]`.

    The step is given itself, or inside a compiled graph as the number of its model.
    """
    layer: int = module.layer_idx
    if drafthouse_model is not None:
        from drafthouse.engine.compiled import attend_in_graph

        return attend_in_graph(drafthouse_model, layer, query, key, value, scaling, sliding_window, softcap), None
    if drafthouse_step is None:
        raise ValueError("a model with drafthouse attention was called without a step")
    return attend_parts(drafthouse_step, layer, query, key, value, scaling, sliding_window, softcap), None


def attend_parts(
    step: StepContext, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None,
    window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """Stores the step's keys and values, then attends segment by segment; tokens beyond the step's are padding."""
    step.calls += 1
    step.store(layer, 0, key[0, :, : step.tokens])
    step.store(layer, 1, value[0, :, : step.tokens])
    _, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    stored = step.cache.data[layer]
    outputs = []
    for part in step.parts:
        q = query[0, :, part.first : part.end].reshape(kv_heads, groups * (part.end - part.first), dim)
        pair = stored[:, :, part.keys] if isinstance(part.keys, slice) else stored.index_select(2, part.keys)
        bias = _bias(part, window, groups, q.dtype, q.device)
        out = _attention(q, pair[0], pair[1], bias, scaling, softcap)
        outputs.append(out.view(heads, part.end - part.first, dim))
    if tokens > step.tokens:
        outputs.append(query.new_zeros(heads, tokens - step.tokens, dim))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return joined.transpose(0, 1)[None]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scaling: float | None, softcap: float | None
) -> torch.Tensor:
    """softmax(cap(q k' * scaling) + bias) v for `[kv_heads, queries, D]`; heads of one group are stacked as queries."""
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias, scale=scaling)[0]
    weights = q @ k.transpose(1, 2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    weights = torch.tanh(weights / softcap) * softcap
    if bias is not None:
        weights = weights + bias
    return weights.softmax(-1, dtype=torch.promote_types(torch.float32, q.dtype)).to(q.dtype) @ v


def register() -> None:
    """Makes the implementation known to transformers; registering twice is the same as once."""
    AttentionInterface.register(IMPLEMENTATION, attend)
