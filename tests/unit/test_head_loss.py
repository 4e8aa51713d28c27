"""The loss on what is kept of a target's distribution: value and gradients against plain formulas."""

import torch

from drafthouse.distillation.head_loss import Targets, head_loss

ROWS, SIZE, TOKENS, KEPT = 7, 5, 40, 6


def targets(outside: int) -> Targets:
    """Of each row's kept tokens the first `outside` are not in the head."""
    random = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(TOKENS, generator=random)[:KEPT] for _ in range(ROWS)])
    probabilities = torch.rand(ROWS, KEPT, generator=random)
    probabilities = 0.9 * probabilities / probabilities.sum(1, keepdim=True)
    probabilities[:, :outside] = 0.0
    ids[:, :outside] = 0
    return Targets(ids, probabilities, torch.full((ROWS,), 0.1))


def plain(states: torch.Tensor, head: torch.Tensor, of: Targets) -> torch.Tensor:
    """Row by row, as the formula says."""
    total = torch.zeros(())
    for row in range(ROWS):
        p = (states[row] @ head.T).softmax(-1)
        kept = [(int(i), q) for i, q in zip(of.ids[row], of.probabilities[row], strict=True) if q > 0]
        others = 1.0 - sum(p[i] for i, _ in kept)
        total = total + sum(q * (q.log() - p[i].log()) for i, q in kept) + of.rest[row] * (of.rest[row].log() - others.log())
    return total / ROWS


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    for outside in (0, 2):
        random = torch.Generator().manual_seed(2)
        states = torch.randn(ROWS, SIZE, generator=random, requires_grad=True)
        head = torch.randn(TOKENS, SIZE, generator=random, requires_grad=True)
        loss, expected = head_loss(states, head, targets(outside), chunk=3), plain(states, head, targets(outside))
        torch.testing.assert_close(loss, expected)
        got = torch.autograd.grad(2.0 * loss, [states, head])
        wanted = torch.autograd.grad(2.0 * expected, [states, head])
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_row_whose_tokens_the_head_lacks_has_no_say() -> None:
    of = Targets(torch.zeros(ROWS, KEPT, dtype=torch.int64), torch.zeros(ROWS, KEPT), torch.zeros(ROWS))
    states = torch.randn(ROWS, SIZE, requires_grad=True)
    head = torch.randn(TOKENS, SIZE)
    loss = head_loss(states, head, of)
    assert loss == 0.0
    assert not torch.autograd.grad(loss, states)[0].any()


def test_a_draft_that_has_the_targets_distribution_loses_nothing() -> None:
    of = targets(0)
    p = torch.full((ROWS, TOKENS), 0.1 / (TOKENS - KEPT)).scatter(1, of.ids, of.probabilities)
    torch.testing.assert_close(head_loss(p.log(), torch.eye(TOKENS), of), torch.zeros(()), atol=1e-5, rtol=0)
