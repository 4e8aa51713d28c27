"""Texts in batches: which of them come together, and what a training step reads of them.

Promises: texts lie one after another without padding. The order of an epoch depends on the seed and its number alone, so a run that
was stopped goes on with the batch that it would have had.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from drafthouse.distillation.attention import Span
from drafthouse.distillation.head_loss import Targets
from drafthouse.distillation.shards import Text

NO_STATES_SHARE = 0.1
"""Of texts that are learned without any state: a drafter may get none."""

LATE_STATES_SHARE = 0.2
"""Of texts whose states begin somewhere: those of tokens before a session are not sent."""

PROMPT_TAIL = 256
"""Rows of a prompt whose states a drafter asks for."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: `tokens` and `positions` int64 `[T]`, the `spans` of the texts, `rows` int64 `[R]` of those after which the target
    wrote, and its distributions there. `states` float32 `[T, H]` chose each token; rows that have none are not `known`."""

    tokens: torch.Tensor
    positions: torch.Tensor
    spans: Sequence[Span]
    rows: torch.Tensor
    targets: Targets
    states: torch.Tensor | None = None
    known: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        targets = Targets(*(each.to(device) for each in (self.targets.ids, self.targets.probabilities, self.targets.rest)))
        states = None if self.states is None else self.states.to(device)
        known = None if self.known is None else self.known.to(device)
        return Batch(self.tokens.to(device), self.positions.to(device), self.spans, self.rows.to(device), targets, states, known)


class Order:
    """Batches of texts by their places, epoch after epoch, from `position` (epoch, batch) on. Texts without a row to learn are left out."""

    def __init__(self, rows: Sequence[int], per_batch: int, seed: int, position: tuple[int, int] = (0, 0)):
        self.rows, self.per_batch, self.seed, self.position = rows, per_batch, seed, position

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            epoch, first = self.position
            batches = self.epoch(epoch)
            for number in range(first, len(batches)):
                self.position = (epoch, number + 1)
                yield batches[number]
            self.position = (epoch + 1, 0)

    def epoch(self, number: int) -> list[list[int]]:
        """Each at least `per_batch` rows, but the last."""
        batches: list[list[int]] = [[]]
        count = 0
        for place in np.random.default_rng([self.seed, number]).permutation(len(self.rows)).tolist():
            if not self.rows[place]:
                continue
            if count >= self.per_batch:
                batches.append([])
                count = 0
            batches[-1].append(place)
            count += self.rows[place]
        return batches


class Packing:
    """Makes batches of texts for a head of `head_ids`, ascending; with `hidden` they hold states."""

    def __init__(self, head_ids: np.ndarray, vocab_size: int, hidden: bool):
        self.hidden = hidden
        self.places = np.full(vocab_size, -1, dtype=np.int64)
        self.places[head_ids] = np.arange(len(head_ids))

    def batch(self, texts: Sequence[Text], random: np.random.Generator | None = None) -> Batch:
        """With `random` states are left out now and then, as in training; without it only those of a prompt's far beginning."""
        starts = np.cumsum([0, *map(len, texts)])
        rows = [np.arange(text.rows.start, text.rows.stop) + start for text, start in zip(texts, starts, strict=False)]
        parts = [torch.from_numpy(np.concatenate(each)) for each in zip(*map(self._targets, texts), strict=True)]
        return Batch(
            tokens=torch.from_numpy(np.concatenate([text.tokens for text in texts]).astype(np.int64)),
            positions=torch.from_numpy(np.concatenate([np.arange(len(text)) for text in texts])),
            spans=[Span(len(text), text.rows.start) for text in texts],
            rows=torch.from_numpy(np.concatenate(rows)),
            targets=Targets(*parts),
            states=torch.cat([_states_before(text) for text in texts]) if self.hidden else None,
            known=torch.from_numpy(np.concatenate([_known(text, random) for text in texts])) if self.hidden else None,
        )

    def _targets(self, text: Text) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = text.rows
        probabilities = np.exp(text.top_logprobs[rows].astype(np.float32))
        places = self.places[text.top_ids[rows]]
        rest = np.maximum(0.0, 1.0 - probabilities.sum(1))
        return np.maximum(places, 0), np.where(places >= 0, probabilities, 0.0).astype(np.float32), rest.astype(np.float32)


def read_states(text: Text) -> torch.Tensor:
    """float32 `[n, H]`, of a text that was written with them."""
    assert text.states is not None
    return torch.from_numpy(np.array(text.states)).view(torch.bfloat16).float()


def _states_before(text: Text) -> torch.Tensor:
    """float32 `[n, H]`: the state that chose each token; of the first, zeros."""
    states = read_states(text)[:-1]
    return torch.cat([states.new_zeros(1, states.shape[1]), states])


def _known(text: Text, random: np.random.Generator | None) -> np.ndarray:
    first = max(1, text.prompt_len - PROMPT_TAIL)
    if random is not None:
        draw = random.random()
        if draw < NO_STATES_SHARE:
            first = len(text)
        elif draw < NO_STATES_SHARE + LATE_STATES_SHARE:
            first = max(first, int(random.integers(len(text))))
    return np.arange(len(text)) >= first
