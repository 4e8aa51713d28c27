"""Trains one draft for as long as its budget of time lasts.

Promises: the clock alone ends it. What is learned from a batch is a function of the batch, the weights and the share of time spent, so
a run that goes on after a kill has the schedule of one that was not killed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from drafthouse.distillation.agreement import Agreement, measure_agreement
from drafthouse.distillation.batches import Batch, Order, Packing
from drafthouse.distillation.checkpoint import Checkpoint, Shape
from drafthouse.distillation.network import DraftNetwork
from drafthouse.distillation.schedule import Budget, rate, unrolled_steps
from drafthouse.distillation.shards import Text

RATE, RATE_SIZE = 5e-4, 576
"""The full learning rate at this hidden size; wider models take less, in proportion."""

FUSE_RATE = 30.0
"""Of what fuses embeddings and states, in units of the others' rate: its numbers are that much larger (`fuse_start.py`)."""

WEIGHT_DECAY = 0.01
ROWS_PER_STEP = 512
"""Rows that an optimiser step learns from, at least. In equal time more and smaller steps agree more, down to about this many."""

STEP_WEIGHTS = (1.0, 0.8, 0.6)
"""Of the losses of step 0 and of those on own states."""

STATE_WEIGHT = 0.1
"""Of the squared distance of own states to the target's, in units of the target's own spread."""

SMOOTHING = 0.02
"""Weight of the latest step in the loss that is shown."""

WATCHED_TEXTS = 24
"""Held-out texts on which agreement is watched while training runs."""

SAVE_S, SAVES = 90.0, 8
"""Seconds from one checkpoint to the next; a short training has at least SAVES of them."""


@dataclass(frozen=True, slots=True)
class Training:
    """So far: budget, rows learned, in all and in a second of this run, loss in nats (decayed mean), and the last agreement measured on
    held-out text, if any was."""

    budget: Budget
    rows: int
    rows_per_s: float
    loss: float
    agreement: Agreement | None


class Trainer:
    """A network, its optimiser, and its texts by their places in `texts`."""

    def __init__(self, network: DraftNetwork, packing: Packing, texts: Sequence[Text], held_out: Sequence[Text], seed: int):
        self.network, self.packing, self.texts = network, packing, texts
        self.held_out = held_out
        self.device = network.head.device
        self.optimiser = _optimiser(network)
        self.order = Order([text.rows.stop - text.rows.start for text in texts], ROWS_PER_STEP, seed)
        self.seed, self.rows, self.loss = seed, 0, float("nan")
        self.agreement: Agreement | None = None
        self.history: list[tuple[float, int, float, float]] = []

    def run(
        self,
        budget: Budget,
        progress: Callable[[Training], None],
        save: Callable[[Budget], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> Budget:
        """Until the budget is spent; `save` is called now and then, and at the end. Returns the budget with all that was spent."""
        began, before = clock(), budget.spent
        every = min(SAVE_S, budget.seconds / SAVES)
        next_save = budget.spent + every
        batches, rows_before = self._batches(), self.rows
        self.network.train()
        while budget.left > 0:
            self._learn(next(batches), budget.share)
            budget = Budget(budget.seconds, before + clock() - began)
            rows_per_s = (self.rows - rows_before) / max(budget.spent - before, 1e-3)
            progress(Training(budget, self.rows, rows_per_s, self.loss, self.agreement))
            if budget.spent >= next_save and budget.left > 0:
                self.agreement = self.measure(self.held_out[:WATCHED_TEXTS])
                self.history.append((budget.spent / 60, self.rows, self.loss, self.agreement.first))
                save(budget)
                next_save = budget.spent + every
        save(budget)
        return budget

    def measure(self, texts: Sequence[Text]) -> Agreement:
        """On texts that are not learned from."""
        levels = len(STEP_WEIGHTS) if self.network.hidden else 1
        return measure_agreement(self.network, self.packing, texts, levels)

    def _batches(self) -> Iterator[Batch]:
        for places in self.order:
            random = np.random.default_rng([self.seed, *self.order.position])
            yield self.packing.batch([self.texts[place] for place in places], random).to(self.device)

    def _learn(self, batch: Batch, share: float) -> None:
        """One step of the optimiser."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["full"] * rate(share)
        steps = unrolled_steps(share) if self.network.hidden else 0
        total = torch.zeros((), device=self.device)
        for step, (states, wanted) in enumerate(self.network(batch, steps)):
            loss = self.network.loss(states, batch.targets.at(wanted))
            if step == 0:
                self._show(float(loss.detach()))
            if batch.states is not None:
                loss = loss + STATE_WEIGHT * state_distance(states, batch.states[batch.rows[wanted] + 1])
            total = total + STEP_WEIGHTS[step] * loss
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.learned().values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.rows += len(batch.rows)

    def _show(self, loss: float) -> None:
        self.loss = loss if np.isnan(self.loss) else self.loss + SMOOTHING * (loss - self.loss)

    def checkpoint(self, shape: Shape, spent_s: float) -> Checkpoint:
        weights = {name: value.detach().cpu() for name, value in self.network.learned().items()}
        return Checkpoint(
            shape, weights, self.network.head_ids.cpu(), self.optimiser.state_dict(), spent_s, self.rows, self.order.position, self.history
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        with torch.no_grad():
            for name, value in self.network.learned().items():
                value.copy_(checkpoint.weights[name])
        self.optimiser.load_state_dict(checkpoint.optimiser)
        self.rows, self.order.position = checkpoint.learned_rows, checkpoint.position
        self.history = list(checkpoint.history)
        if self.history:
            self.loss = self.history[-1][2]


def state_distance(own: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared distance `[n, H]` to `[n, H]`, over the mean square of the target's."""
    distance: torch.Tensor = (own - targets).pow(2).mean() / targets.pow(2).mean()
    return distance


def _optimiser(network: DraftNetwork) -> torch.optim.Optimizer:
    """AdamW; matrices alone decay, and of those not what fuses."""
    learned = network.learned()
    fuse = [value for name, value in learned.items() if name in ("fuse_embedding", "fuse_state", "no_state")]
    matrices = [value for name, value in learned.items() if value.ndim == 2 and not name.startswith("fuse")]
    others = [value for name, value in learned.items() if value.ndim != 2 and name != "no_state"]
    full = RATE * min(1.0, RATE_SIZE / network.config.hidden_size)
    groups = [(matrices, full, WEIGHT_DECAY), (others, full, 0.0), (fuse, full * FUSE_RATE, 0.0)]
    return torch.optim.AdamW(
        [{"params": values, "full": of_group, "weight_decay": decay} for values, of_group, decay in groups if values],
        lr=full, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
