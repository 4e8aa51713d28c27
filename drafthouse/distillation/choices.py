"""From logits to what a text goes on with, and to what is kept of the distribution.

Promises: a row's token depends on its logits, temperature and number alone. Noise for a whole vocabulary, which couples a draft with
its target (`drafthouse.choose`), would take longer than a step of a small target: a text needs only the right distribution.
"""

from dataclasses import dataclass

import numpy as np
import torch

from drafthouse.distillation.shards import TOP
from drafthouse.noise import position_keys

ALL = 1 - 1e-6
"""Of the probability, as float32 sums it: there is nothing beyond."""


@dataclass(frozen=True, slots=True)
class Choices:
    """`tokens` int64 `[N]`; the likeliest `ids` int32 and `logprobs` float16 `[N, TOP]`, at temperature 1."""

    tokens: np.ndarray
    ids: np.ndarray
    logprobs: np.ndarray


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each pair: uint64 `[N]` twice to float64 `[N]`."""
    numbers: np.ndarray = (position_keys(seeds, positions).view(np.uint64) >> np.uint64(11)) * 2.0**-53
    return numbers


def choices(logits: torch.Tensor, temperatures: np.ndarray, numbers: np.ndarray) -> Choices:
    """Of logits `[N, vocab]`. Temperature 0 takes the likeliest token; above it `numbers`, one in [0, 1) for each row, decide."""
    logits = logits.float()
    count = min(TOP, logits.shape[1])
    top = logits.topk(count)
    first = top.indices[:, :1]
    total = top.values[:, :1] - logits.softmax(-1).gather(1, first).log()  # of the exponentials, as a logarithm
    tokens = first[:, 0].clone()
    sampled = np.flatnonzero(temperatures > 0)
    if len(sampled):
        at = torch.from_numpy(sampled).to(logits.device)
        scale = torch.from_numpy(temperatures[sampled].astype(np.float32)).to(logits.device)
        wanted = torch.from_numpy(numbers[sampled].astype(np.float32)).to(logits.device)
        tokens[at] = _drawn((logits[at] / scale[:, None]).softmax(-1), top.indices[at], wanted)
    ids, logprobs = np.zeros((len(logits), TOP), dtype=np.int32), np.full((len(logits), TOP), -np.inf, dtype=np.float16)
    ids[:, :count] = top.indices.cpu().numpy()
    logprobs[:, :count] = (top.values - total).cpu().numpy()
    return Choices(tokens.cpu().numpy(), ids, logprobs)


def _drawn(probabilities: torch.Tensor, best: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulated probability exceeds `wanted` `[n]`, in the order: `best` `[n, TOP]`, then all others by id. Most
    rows end among the best, and only the others need a sum over the vocabulary."""
    cumulated = probabilities.gather(1, best).cumsum(-1)
    place = torch.searchsorted(cumulated, wanted[:, None], right=True).clamp_(max=best.shape[1] - 1)
    tokens = best.gather(1, place)[:, 0]
    beyond = ((wanted >= cumulated[:, -1]) & (cumulated[:, -1] < ALL)).nonzero()[:, 0]
    if len(beyond):
        others = probabilities[beyond].scatter_(1, best[beyond], 0.0).cumsum(-1)
        left = (wanted - cumulated[:, -1])[beyond, None] / (1 - cumulated[beyond, -1:]) * others[:, -1:]
        tokens[beyond] = torch.searchsorted(others, left, right=True)[:, 0].clamp_(max=probabilities.shape[1] - 1)
    return tokens
