"""From logits to the token: the one place where sampling parameters meet noise.

Promises: a row's result depends on that row's logits, sampling parameters, seed, position and
token history alone, never on the rows beside it. Target and draft call the same functions, which
is what couples them (Gumbel-max list coupling, arXiv 2408.07978 and 2506.05632).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from drafthouse.filters import kept
from drafthouse.noise import gumbel, gumbel_of, position_key
from drafthouse.sampling import SamplingParams

SPARSE = 4
"""Noise is drawn for the tokens that filters leave, if they are less than one in this many: nodes of one depth share the noise of a
whole vocabulary, but not of some tokens."""


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
    filtered = [i for i, row in enumerate(rows) if row.sampling.filters]
    if len(filtered) == len(rows):
        return _filter(result, rows, noise)
    if filtered:
        result[filtered] = _filter(result[filtered], [rows[i] for i in filtered], noise)
    plain = [i for i, row in enumerate(rows) if not row.sampling.greedy and not row.sampling.filters]
    if not noise or not plain:
        return result
    drawn = _noise([rows[i] for i in plain], result.shape[1], device)
    if len(plain) == len(rows):
        return result.add_(drawn)
    result[plain] += drawn
    return result


def _filter(scaled: torch.Tensor, rows: Sequence[Row], noise: bool) -> torch.Tensor:
    """In place: what the filters drop is -inf, and with `noise` the rest has it."""
    at, tokens = kept(scaled, [row.sampling for row in rows])
    values = scaled[at, tokens]
    if noise and len(at) * SPARSE > scaled.numel():
        values += _noise(rows, scaled.shape[1], scaled.device)[at, tokens]
    elif noise:
        keys = _keys(((row.seed, row.position) for row in rows), scaled.device)
        values += gumbel_of(keys[at], tokens[:, None])[:, 0]
    scaled.fill_(float("-inf"))
    scaled[at, tokens] = values
    return scaled


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
