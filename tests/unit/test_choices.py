"""What a text goes on with has the target's distribution, and the kept part of it is right."""

import numpy as np
import torch

from drafthouse.distillation.choices import choices, uniforms
from drafthouse.distillation.shards import TOP

VOCAB = 80


def _logits(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))


def test_the_kept_part_is_the_best_log_probabilities() -> None:
    logits = _logits()
    found = choices(logits, np.array([0.7]), np.array([0.5]))
    expected = logits.log_softmax(-1).topk(TOP)
    assert found.ids[0].tolist() == expected.indices[0].tolist()
    np.testing.assert_allclose(found.logprobs[0], expected.values[0].numpy(), atol=2e-3)


def test_temperature_0_takes_the_likeliest_token() -> None:
    logits = torch.cat([_logits(seed) for seed in range(8)])
    found = choices(logits, np.zeros(8), np.full(8, 0.999))
    assert found.tokens.tolist() == logits.argmax(-1).tolist()


def test_tokens_come_as_often_as_their_probability_says() -> None:
    """Evenly spread numbers give each token in just its share, those beyond the kept ones included."""
    rows = 20_000
    for temperature in (0.7, 1.0, 3.0):
        numbers = (np.arange(rows) + 0.5) / rows
        found = choices(_logits().expand(rows, VOCAB), np.full(rows, temperature), numbers)
        shares = np.bincount(found.tokens, minlength=VOCAB) / rows
        np.testing.assert_allclose(shares, (_logits()[0] / temperature).softmax(-1).numpy(), atol=2 / rows)


def test_rows_of_several_temperatures_do_not_touch_each_other() -> None:
    logits = torch.cat([_logits(seed) for seed in range(3)])
    temperatures, numbers = np.array([1.0, 0.0, 0.7]), np.array([0.9, 0.2, 0.6])
    alone = [choices(logits[i : i + 1], temperatures[i : i + 1], numbers[i : i + 1]).tokens[0] for i in range(3)]
    assert choices(logits, temperatures, numbers).tokens.tolist() == alone


def test_a_vocabulary_smaller_than_what_is_kept() -> None:
    found = choices(torch.tensor([[0.0, 1.0, -1.0]]), np.array([1.0]), np.array([1 - 2.0**-53]))
    assert found.tokens.tolist() == [2]
    assert found.ids[0, :3].tolist() == [1, 0, 2]
    assert np.isneginf(found.logprobs[0, 3:]).all()


def test_uniform_numbers_lie_in_their_interval_and_differ() -> None:
    numbers = uniforms(np.repeat(np.arange(100, dtype=np.uint64), 100), np.tile(np.arange(100, dtype=np.uint64), 100))
    assert len(set(numbers.tolist())) == 10_000
    assert 0 <= numbers.min() < 0.001 < 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
