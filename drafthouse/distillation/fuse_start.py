"""What the fuse of a draft that reads states begins with: the best linear guess of the state that comes next.

The target's state after a token is nearly a linear function of that token's embedding and the state that chose it, so a draft that
begins from the least-squares solution agrees with its target from the first minute; from identities it takes many. The guess is put
into the residual stream before the final norm.
"""

from collections.abc import Sequence

import numpy as np
import torch

from drafthouse.distillation.batches import read_states
from drafthouse.distillation.network import DraftNetwork
from drafthouse.distillation.shards import Text

RIDGE = 1e-3
"""Of the mean square of each input: directions that text hardly shows stay small."""

ROWS, ROWS_SIZE = 100_000, 576
"""Tokens that the solution is found on, up to this hidden size; wider states get fewer, in proportion."""

SIZE = 100.0
"""Root mean square of the guess. It is some times that of the residual stream before the last layers of a trained decoder, so that what the
first layer adds, which was learned for another place, does not spoil the guess at the start."""

LEAST_GAIN = 0.1
"""Of the final norm, in units of its mean: where it is smaller, it is not divided by."""


@torch.no_grad()
def begin_fuse(network: DraftNetwork, texts: Sequence[Text]) -> None:
    """Solves `fuse_embedding E[token_i] + fuse_state s_(i-1) = SIZE s_i / norm` over the beginnings of `texts`."""
    size = network.config.hidden_size
    gain = network.base.norm(torch.ones(1, size, device=network.head.device))[0].cpu()
    gain = torch.where(gain.abs() < LEAST_GAIN * gain.abs().mean(), torch.inf, gain)
    products, results = torch.zeros(2 * size, 2 * size), torch.zeros(2 * size, size)
    rows = 0
    for text in texts:
        if rows >= ROWS * ROWS_SIZE / max(ROWS_SIZE, size):
            break
        states, tokens = read_states(text), torch.from_numpy(text.tokens[1:-1].astype(np.int64))
        inputs = torch.cat([network.embeddings(tokens.to(network.head.device)).cpu(), states[:-2]], 1)
        products += inputs.T @ inputs
        results += inputs.T @ (states[1:-1] / gain * SIZE)
        rows += len(inputs)
    squares = products.diagonal()
    ridge = RIDGE * torch.cat([squares[:size].mean().repeat(size), squares[size:].mean().repeat(size)])
    solution = torch.linalg.solve(products + torch.diag(ridge), results).T
    network.fuse_embedding.copy_(solution[:, :size] / network.input_scale)
    network.fuse_state.copy_(solution[:, size:])
