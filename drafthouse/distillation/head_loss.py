"""How far a draft's distribution is from what is kept of the target's, with the head's product inside.

With target probabilities q of the kept tokens that the head knows, `r` of all that were not kept, and the draft's p, where p_rest is
the sum over the head's other tokens:

    loss = sum q log(q / p) + r log(r / p_rest)

which is the Kullback-Leibler divergence of the two, times the mass q + r that the head can serve: what the target gives to tokens that
the head does not know has no say. Gradients come with the loss, chunk by chunk, so that logits of all rows never are in memory at once:
with Q = sum q + r, d loss / d z_j is p_j Q - q_j for a kept token and p_j (Q - r / p_rest) for another.
"""

from dataclasses import dataclass
from typing import Any

import torch

CHUNK = 1024
"""Rows whose logits are in memory together."""

LEAST = 1e-6
"""Of a probability inside a logarithm."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Of each row: rows of the head `ids` int64 `[R, K]`, the target's probabilities of them `[R, K]` (0 where the head lacks the token,
    whose id is then 0), and `rest` `[R]`."""

    ids: torch.Tensor
    probabilities: torch.Tensor
    rest: torch.Tensor

    def at(self, rows: torch.Tensor) -> "Targets":
        return Targets(self.ids[rows], self.probabilities[rows], self.rest[rows])


class HeadLoss(torch.autograd.Function):
    """Mean loss over rows, of states `[R, H]` and head `[N, H]`; logits of `rows` are in memory together."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        head: torch.Tensor,
        ids: torch.Tensor,
        probabilities: torch.Tensor,
        rest: torch.Tensor,
        rows: int,
    ) -> torch.Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        by_state, by_head = torch.empty_like(states, dtype=torch.float32), torch.zeros_like(head, dtype=torch.float32)
        for first in range(0, len(states), rows):
            chunk = slice(first, first + rows)
            loss, by_logit = _chunk(states[chunk] @ head.T, ids[chunk], probabilities[chunk], rest[chunk])
            total += loss
            by_logit /= len(states)
            torch.mm(by_logit, head, out=by_state[chunk])
            by_head.addmm_(by_logit.T, states[chunk])
        ctx.save_for_backward(by_state, by_head)
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_state, by_head = ctx.saved_tensors
        return by_state * gradients[0], by_head * gradients[0], None, None, None, None


def head_loss(states: torch.Tensor, head: torch.Tensor, targets: Targets, chunk: int = CHUNK) -> torch.Tensor:
    loss: torch.Tensor = HeadLoss.apply(states, head, targets.ids, targets.probabilities, targets.rest, chunk)
    return loss


def _chunk(logits: torch.Tensor, ids: torch.Tensor, probabilities: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses of some rows, and its gradient by their logits, which takes their place."""
    known = probabilities > 0
    p = torch.softmax(logits, -1, out=logits)
    kept = p.gather(1, ids) * known
    others = (1.0 - kept.sum(1)).clamp_min(LEAST)
    terms = torch.xlogy(probabilities, probabilities) - probabilities * kept.clamp_min(LEAST * LEAST).log()
    loss = terms.sum() + (torch.xlogy(rest, rest) - rest * others.log()).sum()
    pull = rest / others
    by_logit = p.mul_((probabilities.sum(1) + rest - pull)[:, None])
    by_logit.scatter_add_(1, ids, kept * pull[:, None] - probabilities)
    return loss, by_logit
