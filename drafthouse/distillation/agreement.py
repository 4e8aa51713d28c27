"""How often a draft's choices are the target's, on text that it did not learn from.

Promises: teacher-forced at every row after which the target wrote. Level `n` is the `n`th token after the last one that the target
chose: a draft that reads states has its own from level 2 on. At temperature 1 both choose with the same noise, drawn as
`drafthouse.choose` draws it; the target among the tokens of it that were kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from drafthouse.distillation.batches import Packing
from drafthouse.distillation.network import DraftNetwork
from drafthouse.distillation.shards import Text
from drafthouse.noise import gumbel_of, position_keys

RANKS = 4
"""How many of the draft's choices are looked at."""

CHUNK, TEXTS = 256, 8
"""Rows whose logits and noise, and texts whose states, are in memory together."""

SEED = 20


@dataclass(frozen=True, slots=True)
class LevelAgreement:
    """By rank, shares of rows in which the target's choice is the draft's first, second ...; `rows` of them were counted."""

    greedy: tuple[float, ...]
    sampled: tuple[float, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """By level, the first first; `loss` is that of level 1, in nats."""

    levels: tuple[LevelAgreement, ...]
    loss: float

    @property
    def first(self) -> float:
        """Greedy, first choice, level 1."""
        return self.levels[0].greedy[0]


class _Counts:
    """Hits by rank, greedy and sampled, of `rows` rows."""

    def __init__(self) -> None:
        self.greedy, self.sampled, self.rows = np.zeros(RANKS), np.zeros(RANKS), 0

    def add(self, logits: torch.Tensor, head_ids: torch.Tensor, rows: "_Rows") -> None:
        """Logits `[n, N]` of some rows."""
        self.rows += len(logits)
        self.greedy += _hits(logits, head_ids, rows.ids[:, 0])
        perturbed = rows.logprobs + gumbel_of(rows.keys, rows.ids)
        sampled = rows.ids.gather(1, perturbed.argmax(1, keepdim=True))[:, 0]
        self.sampled += _hits(logits + gumbel_of(rows.keys, head_ids.expand(len(logits), -1)), head_ids, sampled)

    def shares(self) -> LevelAgreement:
        greedy, sampled = (tuple((hits / max(1, self.rows)).tolist()) for hits in (self.greedy, self.sampled))
        return LevelAgreement(greedy, sampled, self.rows)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The target's kept tokens `[R, K]`, the best first, with their log probabilities, and the keys of the noise `[R]`."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    keys: torch.Tensor

    @staticmethod
    def of(texts: Sequence[Text]) -> "_Rows":
        ids = np.concatenate([text.top_ids[text.rows] for text in texts]).astype(np.int64)
        logprobs = np.concatenate([text.top_logprobs[text.rows] for text in texts]).astype(np.float32)
        positions = np.concatenate([np.arange(text.rows.start + 1, text.rows.stop + 1) for text in texts]).astype(np.uint64)
        seeds = np.concatenate([np.full(text.rows.stop - text.rows.start, SEED + text.number) for text in texts]).astype(np.uint64)
        return _Rows(torch.from_numpy(ids), torch.from_numpy(logprobs), torch.from_numpy(position_keys(seeds, positions)))

    def at(self, rows: torch.Tensor) -> "_Rows":
        return _Rows(self.ids[rows], self.logprobs[rows], self.keys[rows])


def _hits(logits: torch.Tensor, head_ids: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    """By rank, in how many rows the target's token is the draft's choice."""
    ranked = head_ids[logits.topk(min(RANKS, logits.shape[1])).indices]
    hits: np.ndarray = (ranked == tokens[:, None]).sum(0).numpy()
    return np.pad(hits, (0, RANKS - len(hits)))


@torch.no_grad()
def measure_agreement(network: DraftNetwork, packing: Packing, texts: Sequence[Text], levels: int) -> Agreement:
    """Over all rows of some texts, at levels 1 to `levels`."""
    counts = [_Counts() for _ in range(levels)]
    loss = 0.0
    for first in range(0, len(texts), TEXTS):
        part = texts[first : first + TEXTS]
        batch, rows = packing.batch(part), _Rows.of(part)
        on_device = batch.to(network.head.device)
        for level, (states, wanted) in enumerate(network(on_device, levels - 1)):
            if level == 0:
                loss += float(network.loss(states, on_device.targets)) * len(states)
            for chunk, at in zip(states.split(CHUNK), wanted.split(CHUNK), strict=True):
                counts[level].add(network.logits(chunk).float().cpu(), network.head_ids.cpu(), rows.at(at.cpu()))
    return Agreement(tuple(each.shares() for each in counts), loss / max(1, counts[0].rows))
