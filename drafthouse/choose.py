"""From logits to the token: the one place where sampling parameters meet noise.

Promises: a row's result depends on that row's logits, sampling parameters, seed, position and
token history alone, never on the rows beside it. Target and draft call the same functions, which
is what couples them (Gumbel-max list coupling, arXiv 2408.07978 and 2506.05632).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from drafthouse.noise import gumbel, gumbel_of, position_key
from drafthouse.sampling import SamplingParams

FEW = 4
"""Sorting all of a vocabulary costs about as much as finding so large a part of it."""


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
    temperature = torch.tensor([1.0 if row.sampling.greedy else row.sampling.temperature for row in rows], device=device)
    result = result / temperature[:, None]
    few = _with_few_candidates(rows, result.shape[1])
    for count, at in few.items():
        result[at] = _filter(result[at], [rows[i] for i in at], count, noise)
    done = {i for at in few.values() for i in at}
    whole = [i for i, row in enumerate(rows) if not row.sampling.greedy and i not in done]
    filtered = [i for i in whole if rows[i].sampling.filters]
    if filtered:
        result[filtered] = _filter(result[filtered], [rows[i] for i in filtered], result.shape[1], noise=False)
    if not noise or not whole:
        return result
    drawn = _noise([rows[i] for i in whole], result.shape[1], device)
    if len(whole) == len(rows):
        return result.add_(drawn)
    result[whole] += drawn
    return result


def _with_few_candidates(rows: Sequence[Row], vocab_size: int) -> dict[int, list[int]]:
    """Rows by their top-k, where it leaves a few of the vocabulary: neither order nor noise of the others is needed there. Rows with
    another top-k stand apart, since the shape of a sum must not depend on the rows beside it."""
    few: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.sampling.filters and 0 < row.sampling.top_k <= vocab_size // FEW:
            few.setdefault(row.sampling.top_k, []).append(i)
    return few


def _noise(rows: Sequence[Row], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Noise float32 `[N, vocab]`, drawn once for each position: the nodes of one depth of a tree share theirs."""
    drawn: dict[tuple[int, int], int] = {}
    index = [drawn.setdefault((row.seed, row.position), len(drawn)) for row in rows]
    noise = gumbel(_keys(drawn, device), vocab_size)
    return noise if len(drawn) == len(rows) else noise[index]


def _keys(places: Iterable[tuple[int, int]], device: torch.device) -> torch.Tensor:
    return torch.tensor([position_key(*each) for each in places], dtype=torch.int64, device=device)


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


def _filter(scaled: torch.Tensor, rows: Sequence[Row], count: int, noise: bool) -> torch.Tensor:
    """Top-k, then top-p of what is left, then min-p, each row by its own parameters; the best token always stays. No row keeps more
    than `count`. With `noise` those that are left have it."""
    device, sampling = scaled.device, [row.sampling for row in rows]
    top_k = torch.tensor([s.top_k or scaled.shape[1] for s in sampling], device=device)[:, None]
    top_p = torch.tensor([s.top_p for s in sampling], device=device)[:, None]
    min_p = torch.tensor([s.min_p for s in sampling], device=device)[:, None]
    ordered, index = _best(scaled, count)
    keep = torch.arange(count, device=device)[None, :] < top_k
    probabilities = ordered.masked_fill(~keep, float("-inf")).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    keep &= (before < top_p) | (top_p >= 1.0)
    keep &= probabilities >= min_p * probabilities[:, :1]
    keep[:, 0] = True
    if noise:
        ordered = ordered + gumbel_of(_keys(((row.seed, row.position) for row in rows), device), index)
    return torch.full_like(scaled, float("-inf")).scatter(1, index, ordered.masked_fill(~keep, float("-inf")))


def _best(scaled: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of each row and their ids, descending, ties to the lowest id."""
    if count < scaled.shape[1]:
        ordered, index = scaled.topk(count + 1)
        if bool((ordered[:, :-1] > ordered[:, 1:]).all()):  # without ties there is one order
            return ordered[:, :-1], index[:, :-1]
    ordered, index = scaled.sort(dim=-1, descending=True, stable=True)
    return ordered[:, :count], index[:, :count]
