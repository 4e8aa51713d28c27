"""What the head of a draft that reads tokens alone begins with: the target's rows over the best linear guess of the target's state.

The target's head reads the target's states, and the cut-down decoder makes other ones. With the matrix A that takes the draft's states
nearest to the target's, the row `w A` gives the logits that the target's row `w` would give of the guess. Text that was written with
states is needed; without them the head begins with the target's rows as they are.
"""

from collections.abc import Sequence

import torch

from drafthouse.distillation.batches import Packing, read_states
from drafthouse.distillation.fuse_start import RIDGE, ROWS, ROWS_SIZE
from drafthouse.distillation.network import DraftNetwork
from drafthouse.distillation.shards import Text

TEXTS = 8
"""Texts that the draft runs on together."""


@torch.no_grad()
def begin_head(network: DraftNetwork, packing: Packing, texts: Sequence[Text]) -> None:
    """Over the beginnings of `texts`, all of which have states."""
    size, device = network.config.hidden_size, network.head.device
    products, results = torch.zeros(size, size), torch.zeros(size, size)
    rows = 0
    for first in range(0, len(texts), TEXTS):
        if rows >= ROWS * ROWS_SIZE / max(ROWS_SIZE, size):
            break
        part = texts[first : first + TEXTS]
        batch = packing.batch(part)
        states, _ = next(network(batch.to(device), 0))
        own, targets = states.cpu(), torch.cat([read_states(text) for text in part])[batch.rows]
        products += own.T @ own
        results += own.T @ targets
        rows += len(own)
    ridge = RIDGE * products.diagonal().mean() * torch.eye(size)
    guess = torch.linalg.solve(products + ridge, results)
    network.head.copy_(network.head @ guess.T.to(device))
