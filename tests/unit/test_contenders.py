"""Tokens that may win: none is missing, and their perturbed scores have the bits of the noise of all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafthouse import contenders as module
from drafthouse.choose import Rows, choose, rank, scores
from drafthouse.contenders import contenders
from drafthouse.noise import gumbel, gumbel_of_words, hashes, token_terms
from drafthouse.sampling import SamplingParams

VOCAB = 3001
IDS = torch.arange(5, VOCAB, 7)


def keys_of(seed: int, rows: int) -> np.ndarray:
    """Two rows share each."""
    keys = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, size=rows)
    return keys[np.arange(rows) // 2]


def whole(scores: np.ndarray, keys: np.ndarray, ids: torch.Tensor | None = None) -> np.ndarray:
    noise = gumbel(torch.from_numpy(keys), VOCAB)
    return scores + (noise if ids is None else noise[:, ids]).numpy()


@pytest.mark.parametrize("ids", [None, IDS])
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 4), count=st.sampled_from([1, 2, 5, 40]),
    scale=st.sampled_from([0.0, 0.3, 3.0, 300.0, 3e6]), tied=st.booleans(),
)  # fmt: skip
def test_the_best_are_among_them_with_the_same_bits(
    seed: int, rows: int, count: int, scale: float, tied: bool, ids: torch.Tensor | None
) -> None:
    columns = VOCAB if ids is None else len(ids)
    drawn = (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)
    drawn, keys = drawn.round() if tied else drawn, keys_of(seed, rows)
    found = contenders(drawn, keys, count, None if ids is None else ids.numpy())
    assert found is not None
    for (places, values), row in zip(found, whole(drawn, keys, ids), strict=True):
        assert (np.diff(places) > 0).all()
        assert np.array_equal(values, row[places])
        assert set(np.flatnonzero(row >= np.sort(row)[-count])) <= set(places)


def test_few_are_left_where_a_row_is_peaked() -> None:
    drawn = 4 * np.random.default_rng(0).standard_normal((8, VOCAB)).astype(np.float32)
    found = contenders(drawn, keys_of(0, 8), 1, None)
    assert found is not None
    assert max(len(places) for places, _ in found) < VOCAB / 50


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_row_without_a_bound_has_none(odd: float) -> None:
    drawn = np.zeros((2, VOCAB), dtype=np.float32)
    drawn[1, 7] = odd
    assert contenders(drawn, keys_of(1, 2), 1, None) is None
    drawn[1, 1:] = -np.inf
    drawn[1, 0] = 1.0
    assert contenders(drawn, keys_of(1, 2), 2, None) is None
    assert contenders(drawn, keys_of(1, 2), 1, None) is not None


def test_noise_of_words_is_that_of_tokens() -> None:
    for key in (0, -1, 2**63 - 1, -(2**63), 1234567):
        words = hashes(key, token_terms(np.arange(VOCAB)))
        assert np.array_equal(gumbel_of_words(words), gumbel(torch.tensor([key]), VOCAB)[0].numpy())


def test_a_hash_with_more_noise_than_is_bounded_is_left_to_the_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, keys = np.zeros((1, VOCAB), dtype=np.float32), keys_of(3, 1)
    monkeypatch.setattr(module, "ROUNDED", float(gumbel(torch.from_numpy(keys), VOCAB).max()) - 0.1)
    assert contenders(drawn, keys, 1, None) is None


@pytest.mark.parametrize("ids", [None, IDS])
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 6), tied=st.booleans())
def test_choice_and_ranks_are_those_of_the_whole_rows(seed: int, width: int, tied: bool, ids: torch.Tensor | None) -> None:
    logits = 3 * torch.randn(3, VOCAB if ids is None else len(ids), generator=torch.Generator().manual_seed(seed))
    logits = logits.round() if tied else logits
    parts = [Rows(SamplingParams(0.7), seed, [4, 5]), Rows(SamplingParams(1.3), seed + 1, [9])]
    perturbed = scores(logits, parts, ids=ids)
    names = torch.arange(VOCAB) if ids is None else ids
    if ids is None:
        assert choose(logits, parts) == perturbed.argmax(-1).tolist()
    tokens, margins = rank(logits, parts, width, ids=ids, vocab_size=VOCAB)
    best = perturbed.sort(dim=-1, descending=True, stable=True)
    assert tokens == names[best.indices[:, :width]].tolist()
    values = best.values[:, : width + 1].double()
    assert torch.equal(torch.tensor(margins, dtype=torch.float64), values[:, :-1] - values[:, 1:])
