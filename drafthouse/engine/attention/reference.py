"""The `reference` backend: plain torch, one SDPA call for each sequence and layer. It is the oracle of every other backend.

Promises: masks are built once per step and window, not per layer.
"""

from dataclasses import dataclass, field

import torch

from drafthouse.engine.attention.layout import SequenceRows, StepLayout
from drafthouse.engine.kv_cache import KvCache


class ReferenceAttention:
    """Sums in the order that torch's kernels choose for a shape, so the bits of a row depend on what stands beside it."""

    name = "reference"
    row_invariant = False

    def begin(self, cache: KvCache, layout: StepLayout) -> "ReferenceStep":
        return ReferenceStep(cache, layout)


@dataclass(slots=True)
class _Part:
    """One sequence's queries over the slots of its keys."""

    rows: SequenceRows
    keys: torch.Tensor
    visible: torch.Tensor | None  # bool [queries, entries]; None: all
    biases: dict[tuple[int | None, int], torch.Tensor | None] = field(default_factory=dict)


class ReferenceStep:
    def __init__(self, cache: KvCache, layout: StepLayout):
        self.cache = cache
        self.calls = 0
        device = cache.data.device
        self._write = torch.tensor(layout.write_slots, device=device)
        self._parts = [_part(rows, device) for rows in layout.sequences]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:  # fmt: skip
        """As `AttentionStep.attend`."""
        self.calls += 1
        self._store(layer, 0, key)
        self._store(layer, 1, value)
        heads, _, dim = query.shape
        kv_heads = key.shape[0]
        groups = heads // kv_heads
        stored = self.cache.data[layer]
        outputs = []
        for part in self._parts:
            count = part.rows.end - part.rows.first
            q = query[:, part.rows.first : part.rows.end].reshape(kv_heads, groups * count, dim)
            pair = stored.index_select(2, part.keys)
            bias = _bias(part, window, groups, q.dtype, q.device)
            outputs.append(_attention(q, pair[0], pair[1], bias, scaling, softcap).view(heads, count, dim))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        return joined.transpose(0, 1)

    def _store(self, layer: int, which: int, rows: torch.Tensor) -> None:
        """Writes rows `[kv_heads, tokens, head_dim]` of keys (0) or values (1)."""
        self.cache.data[layer, which].index_copy_(1, self._write, rows)


def _part(rows: SequenceRows, device: torch.device) -> _Part:
    slots = rows.slots
    keys = torch.tensor(slots, device=device)
    if rows.lines is None and min(rows.prefix) == len(slots):
        return _Part(rows, keys, None)
    visible = torch.arange(len(slots))[None, :] < torch.tensor(rows.prefix)[:, None]
    for row, line in enumerate(rows.lines or ()):
        visible[row, line] = True
    return _Part(rows, keys, visible.to(device))


def _near(rows: SequenceRows, window: int, device: torch.device) -> torch.Tensor:
    """Bool `[queries, entries]`: a sliding window of w shows positions above `query - w` (transformers' `sliding_window_overlay`).
    An entry on several lines stands at one depth of the tree, so at one position on all of them."""
    entries = torch.tensor([rows.entry_position(entry) for entry in range(len(rows.slots))])
    for row, position in enumerate(rows.positions):
        line = rows.lines[row] if rows.lines is not None else ()
        entries[line or rows.prefix[row] - 1] = torch.arange(position - max(len(line), 1) + 1, position + 1)
    return (entries[None, :] > torch.tensor(rows.positions)[:, None] - window).to(device)


def _bias(part: _Part, window: int | None, groups: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Additive mask `[groups * queries, entries]`, 0 or -inf; None when all is visible."""
    key = (window, groups)
    if key not in part.biases:
        visible = part.visible
        if window is not None and max(part.rows.positions) >= window:
            near = _near(part.rows, window, device)
            visible = near if visible is None else visible & near
        bias = None
        if visible is not None:
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
            bias = bias.expand(groups, *bias.shape).reshape(-1, bias.shape[1])
        part.biases[key] = bias
    return part.biases[key]


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
