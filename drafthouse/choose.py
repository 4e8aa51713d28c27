"""From logits to the token: the one place where sampling parameters meet noise.

Promises: a row's result depends on that row's logits, sampling parameters, seed, position and
token history alone, never on the rows beside it. Target and draft call the same functions, which
is what couples them (Gumbel-max list coupling, arXiv 2408.07978 and 2506.05632).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from drafthouse.noise import gumbel, position_key
from drafthouse.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Row:
    """One token to choose: `position` is its absolute position, `path` the draft tokens between
    the committed tokens and it, `seen` (bool `[vocab]`, only for a repetition penalty) the committed ones."""

    sampling: SamplingParams
    seed: int
    position: int
    path: Sequence[int] = ()
    seen: torch.Tensor | None = None


def scores(logits: torch.Tensor, rows: Sequence[Row], noise: bool = True) -> torch.Tensor:
    """Perturbed scores, float32 `[N, vocab]`, of logits `[N, vocab]`; tokens filtered out are -inf. Without `noise` unperturbed.

    The token of a row is the argmax of its perturbed scores, ties to the lowest id.
    """
    result = logits.float()
    if any(row.sampling.penalises for row in rows):
        result = _penalise(result, rows)
    if all(row.sampling.greedy for row in rows):
        return result
    device = result.device
    temperature = torch.tensor([row.sampling.temperature or 1.0 for row in rows], device=device)
    result = result / temperature[:, None]
    filtered = [i for i, row in enumerate(rows) if row.sampling.filters]
    if filtered:
        result[filtered] = _filter(result[filtered], [rows[i].sampling for i in filtered])
    if not noise:
        return result
    noisy = [i for i, row in enumerate(rows) if not row.sampling.greedy]
    drawn = _noise([rows[i] for i in noisy], result.shape[1], device)
    if len(noisy) == len(rows):
        return result.add_(drawn)
    result[noisy] += drawn
    return result


def _noise(rows: Sequence[Row], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Noise float32 `[N, vocab]`, drawn once for each position: the nodes of one depth of a tree share theirs."""
    drawn: dict[tuple[int, int], int] = {}
    index = [drawn.setdefault((row.seed, row.position), len(drawn)) for row in rows]
    keys = torch.tensor([position_key(*each) for each in drawn], dtype=torch.int64, device=device)
    noise = gumbel(keys, vocab_size)
    return noise if len(drawn) == len(rows) else noise[index]


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """The token of each row of logits `[N, vocab]`."""
    return scores(logits, rows).argmax(-1).tolist()


def rank(logits: torch.Tensor, rows: Sequence[Row], width: int, noise: bool = True) -> tuple[list[list[int]], list[list[float]]]:
    """The best `width` tokens of each row and their margins: the lead of each over the next one, infinite if there is none.

    Tokens filtered out are left out. Without `noise` ranks are those of unperturbed scores.
    """
    top = scores(logits, rows, noise).topk(min(width + 1, logits.shape[1]), sorted=True)
    tokens, values = top.indices.tolist(), top.values.tolist()
    ranked, margins = [], []
    for ids, row in zip(tokens, values, strict=True):
        count = sum(value > float("-inf") for value in row)
        leads = [upper - lower for upper, lower in pairwise(row[:count])] + [float("inf")]
        count = min(count, width)
        ranked.append(ids[:count])
        margins.append(leads[:count])
    return ranked, margins


def _penalise(result: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Divides positive and multiplies negative scores of tokens already seen (CTRL, arXiv 1909.05858, section 4.1)."""
    result = result.clone()
    for i, row in enumerate(rows):
        if not row.sampling.penalises:
            continue
        assert row.seen is not None
        seen = row.seen
        if row.path:
            seen = seen.clone()
            seen[list(row.path)] = True
        penalty = row.sampling.repetition_penalty
        result[i] = torch.where(seen, torch.where(result[i] > 0, result[i] / penalty, result[i] * penalty), result[i])
    return result


def _filter(scaled: torch.Tensor, sampling: Sequence[SamplingParams]) -> torch.Tensor:
    """Top-k, then top-p of what is left, then min-p, each row by its own parameters; the best token always stays."""
    device = scaled.device
    top_k = torch.tensor([s.top_k or scaled.shape[1] for s in sampling], device=device)[:, None]
    top_p = torch.tensor([s.top_p for s in sampling], device=device)[:, None]
    min_p = torch.tensor([s.min_p for s in sampling], device=device)[:, None]
    ordered, index = scaled.sort(dim=-1, descending=True, stable=True)
    keep = torch.arange(scaled.shape[1], device=device)[None, :] < top_k
    probabilities = ordered.masked_fill(~keep, float("-inf")).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    keep &= (before < top_p) | (top_p >= 1.0)
    keep &= probabilities >= min_p * probabilities[:, :1]
    keep[:, 0] = True
    return torch.full_like(scaled, float("-inf")).scatter(1, index, ordered.masked_fill(~keep, float("-inf")))
