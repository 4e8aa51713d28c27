"""Choice of tokens: against transformers' own processors, exact probabilities, and the rows beside it."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from drafthouse.choose import Rows, choose, rank, scores
from drafthouse.noise import gumbel, position_key
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import SamplingParams

VOCAB = 50
SEEN = (3, 7, 7, 20)

SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 5, 49, 50, 1000]),
    top_p=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.5]),
)


def random_logits(seed: int, rows: int = 1) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def make_row(sampling: SamplingParams, seed: int = 5, position: int = 11, path: tuple[int, ...] = (), seen: tuple[int, ...] = SEEN) -> Rows:
    return Rows(sampling, seed, [position], [path], processors_of(sampling, seen, (), (), VOCAB))


def by_transformers(logits: torch.Tensor, sampling: SamplingParams, seen: tuple[int, ...]) -> torch.Tensor:
    """What `generate` would sample from, in its order."""
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    if sampling.temperature > 0:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            steps.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            steps.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0:
            steps.append(MinPLogitsWarper(sampling.min_p))
    return steps(torch.tensor([seen]), logits.clone())


@settings(max_examples=200, deadline=None)
@given(SAMPLINGS, st.integers(0, 10_000))
def test_equals_transformers_plus_noise(sampling: SamplingParams, seed: int) -> None:
    logits = random_logits(seed)
    row = make_row(sampling, seed=seed)
    expected = by_transformers(logits, sampling, SEEN)
    if sampling.temperature > 0:
        expected = expected + gumbel(torch.tensor([position_key(row.seed, row.positions[0])]), VOCAB)
    ours = scores(logits, [row])
    assert torch.equal(ours.isfinite(), expected.isfinite())
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert choose(logits, [row]) == expected.argmax(-1).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLINGS, min_size=1, max_size=6), st.integers(0, 10_000))
def test_row_does_not_depend_on_its_neighbours(samplings: list[SamplingParams], seed: int) -> None:
    logits = random_logits(seed, len(samplings))
    rows = [make_row(sampling, seed + i, 2 * i, path=(i,)) for i, sampling in enumerate(samplings)]
    together = scores(logits, rows)
    order = list(reversed(range(len(rows))))
    turned = scores(logits[order], [rows[i] for i in order])
    for i, row in enumerate(rows):
        alone = scores(logits[i : i + 1], [row])[0]
        assert torch.equal(together[i], turned[order.index(i)])
        assert together[i].argmax() == alone.argmax()
        if not row.sampling.greedy:
            assert torch.equal(together[i], alone)


def test_leaves_its_arguments_alone() -> None:
    logits = random_logits(1)
    before = logits.clone()
    for sampling in (SamplingParams(0.0, repetition_penalty=2.0), SamplingParams(0.5, top_k=3, repetition_penalty=2.0)):
        row = make_row(sampling, path=(1, 2))
        found = scores(logits, [row])
        assert torch.equal(scores(logits, [row]), found), "the row's processors are as they were"
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_penalty_counts_the_path(temperature: float) -> None:
    sampling = SamplingParams(temperature, repetition_penalty=3.0)
    logits = random_logits(2)
    split = scores(logits, [make_row(sampling, path=(30, 31), seen=(3,))])
    assert torch.equal(split, scores(logits, [make_row(sampling, seen=(3, 30, 31))]))
    assert not torch.equal(split, scores(logits, [make_row(sampling, seen=(3,))]))


def test_siblings_of_different_paths_differ() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 4], logits[:, 9] = 2.0, 1.9
    sampling = SamplingParams(0.0, repetition_penalty=2.0)
    assert choose(logits, [make_row(sampling, path=(4,), seen=()), make_row(sampling, path=(9,), seen=())]) == [9, 4]


@pytest.mark.parametrize("sampling", [SamplingParams(1.0, top_k=1), SamplingParams(1.0, top_p=1e-60), SamplingParams(1.0, min_p=1.0)])
def test_the_best_token_always_stays(sampling: SamplingParams) -> None:
    logits = random_logits(7)  # a top_p of 1e-60 is 0 in float32
    assert choose(logits, [make_row(sampling, seen=())]) == logits.argmax(-1).tolist()


def test_temperature_zero_has_no_noise() -> None:
    logits = random_logits(3, 8)
    sampling = SamplingParams(0.0, top_k=2, top_p=0.5, min_p=0.9)
    rows = [make_row(sampling, seed=i, position=i) for i in range(8)]
    assert choose(logits, rows) == logits.argmax(-1).tolist()
    with_others = [make_row(SamplingParams(1.0)) if i % 2 else row for i, row in enumerate(rows)]
    assert choose(logits, with_others)[::2] == logits.argmax(-1).tolist()[::2]


@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-38, 9e-6])
def test_a_temperature_that_float32_cannot_divide_by_is_greedy(temperature: float) -> None:
    logits = random_logits(4, 8)
    assert choose(logits, [make_row(SamplingParams(temperature), seed=i) for i in range(8)]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ties_go_to_the_lowest_id(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, VOCAB, dtype=dtype)
    logits[:, [11, 12, 40]] = 2.5
    top_one = make_row(SamplingParams(1.0, top_k=1))
    assert choose(logits, [make_row(SamplingParams(0.0)), top_one]) == [11, 11]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(1.0),
        SamplingParams(0.6, top_k=6),
        SamplingParams(1.3, top_p=0.8),
        SamplingParams(1.0, min_p=0.1, repetition_penalty=1.4),
        SamplingParams(0.9, top_k=9, top_p=0.9, min_p=0.02),
    ],
)
@pytest.mark.parametrize("axis", ["seed", "position"])
def test_distribution(sampling: SamplingParams, axis: str) -> None:
    """Chi-square of the chosen tokens against the exact probabilities, pooled where few are expected."""
    n, logits = 6000, random_logits(4)
    rows = [make_row(sampling, seed=i, position=9) if axis == "seed" else make_row(sampling, seed=1, position=i) for i in range(n)]
    counts = np.bincount(choose(logits.expand(n, -1), rows), minlength=VOCAB)
    exact = by_transformers(logits, sampling, SEEN)[0].double().softmax(-1).numpy()
    assert not counts[exact == 0].any()
    many = exact * n >= 5
    observed, expected = [*counts[many]], [*(exact[many] * n)]
    if exact[~many].sum() > 0:
        observed.append(counts[~many].sum())
        expected.append(exact[~many].sum() * n)
    assert stats.chisquare(observed, np.array(expected) * sum(observed) / sum(expected)).pvalue > 0.001


@settings(max_examples=100, deadline=None)
@given(SAMPLINGS, st.integers(0, 10_000), st.integers(1, VOCAB + 3))
def test_rank(sampling: SamplingParams, seed: int, width: int) -> None:
    logits, rows = random_logits(seed), [make_row(sampling, seed)]
    (tokens,), (margins,) = rank(logits, rows, width)
    values = scores(logits, rows)[0]
    order = [i for i in values.argsort(descending=True).tolist() if values[i] > -math.inf]
    assert tokens == order[:width]
    assert tokens[0] == choose(logits, rows)[0]
    leads = [float(values[above] - values[below]) for above, below in pairwise(order)] + [math.inf]
    assert margins == pytest.approx(leads[:width], abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(SAMPLINGS, st.integers(0, 10_000))
def test_rank_without_noise_is_by_processed_logits(sampling: SamplingParams, seed: int) -> None:
    logits, row = random_logits(seed), make_row(sampling, seed)
    (tokens,), (margins,) = rank(logits, [row], VOCAB, noise=False)
    expected = by_transformers(logits, sampling, SEEN)[0]
    order = [i for i in expected.argsort(descending=True, stable=True).tolist() if expected[i] > -math.inf]
    assert tokens == order
    leads = [float(expected[above] - expected[below]) for above, below in pairwise(order)] + [math.inf]
    assert margins == pytest.approx(leads, abs=1e-5)


def test_rank_rows_of_different_length() -> None:
    rows = [make_row(SamplingParams(1.0, top_k=1)), make_row(SamplingParams(1.0, top_k=3)), make_row(SamplingParams(0.0))]
    tokens, margins = rank(random_logits(6, 3), rows, 4)
    assert [len(ids) for ids in tokens] == [len(m) for m in margins] == [1, 3, 4]
    assert margins[0] == [math.inf], "nothing is left below it"
    assert margins[1][2] == math.inf
    assert margins[2][3] < math.inf


@pytest.mark.parametrize("sampling", [SamplingParams(0.7, top_k=5), SamplingParams(1.2, top_k=12, top_p=0.8, min_p=0.02)])
@pytest.mark.parametrize("tied", [False, True])
def test_few_candidates_are_chosen_as_from_the_whole_vocabulary(sampling: SamplingParams, tied: bool) -> None:
    """A small top-k takes another way, with noise for what it leaves alone; its scores are the same."""
    logits, rows = random_logits(9, 6), [make_row(sampling, seed) for seed in range(6)]
    if tied:
        logits = logits.round()
    expected = by_transformers(logits, sampling, SEEN)
    if tied:  # transformers keeps all that tie with the last of the top-k
        ids = logits.div(sampling.temperature).sort(descending=True, stable=True).indices[:, : sampling.top_k]
        expected = torch.full_like(expected, -math.inf).scatter(1, ids, expected.gather(1, ids))
    ours = scores(logits, rows)
    noise = gumbel(torch.tensor([position_key(row.seed, row.positions[0]) for row in rows]), VOCAB)
    if not (tied and sampling.top_p < 1):
        torch.testing.assert_close(ours, expected + noise)
    kept = ours.isfinite()
    torch.testing.assert_close(ours[kept], (logits / sampling.temperature + noise)[kept])
    assert choose(logits, rows) == ours.argmax(-1).tolist()


CUT = torch.tensor([1, 3, 4, 7, 8, 20, 21, 30, 31, 45])
"""Tokens that a draft's head knows."""


def cut_and_spread(seed: int, rows: int, tied: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of `CUT` alone, and the same as a whole vocabulary sees them."""
    whole = random_logits(seed, rows)
    cut = (whole.round() if tied else whole)[:, CUT]
    return cut, torch.full_like(whole, -math.inf).index_copy_(1, CUT, cut)


@settings(max_examples=200, deadline=None)
@given(st.lists(SAMPLINGS, min_size=1, max_size=3), st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.booleans())
def test_ranks_of_some_ids_are_those_of_a_vocabulary_that_knows_no_others(
    samplings: list[SamplingParams], seed: int, width: int, noise: bool, tied: bool
) -> None:
    """With equal noise, ties and all: parts with processors, whose penalties name tokens that the head has not, beside parts without."""
    cut, whole = cut_and_spread(seed, len(samplings), tied)
    parts = [make_row(sampling, seed + i) for i, sampling in enumerate(samplings)]
    tokens, margins = rank(cut, parts, width, noise, CUT, VOCAB)
    expected, leads = rank(whole, parts, width, noise)
    assert tokens == expected
    for mine, right in zip(margins, leads, strict=True):
        assert mine == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    "sampling", [SamplingParams(0.0), SamplingParams(1.0), SamplingParams(0.9, top_p=0.9), SamplingParams(0.9, top_k=5)]
)
@pytest.mark.parametrize("allowed", [(5, 9, 20, 21, 49), (5, 9)])
def test_what_processors_leave_a_cut_head(sampling: SamplingParams, allowed: tuple[int, ...]) -> None:
    """The tokens that both know; where there is none, none, and the row beside it keeps its own."""
    ruled = replace(sampling, allowed_token_ids=allowed)
    cut, _ = cut_and_spread(3, 2, False)
    (mine, beside), (leads, _) = rank(cut, [make_row(ruled), make_row(sampling)], 4, True, CUT, VOCAB)
    assert set(mine) == set(allowed) & set(CUT.tolist())
    assert len(leads) == len(mine)
    assert beside == rank(cut[1:], [make_row(sampling)], 4, True, CUT)[0][0] != []


def test_a_row_of_which_nothing_is_left_goes_through_no_filter() -> None:
    """Of a head large enough for buckets of scores."""
    ids, sampling = torch.arange(0, 1000, 2), SamplingParams(1.0, top_p=0.9)
    ruled = replace(sampling, allowed_token_ids=(1, 3))
    parts = [Rows(each, 0, [5], [()], processors_of(each, (), (), (), 1000)) for each in (ruled, sampling)]
    tokens, margins = rank(torch.zeros(2, len(ids)), parts, 3, True, ids, 1000)
    assert (tokens[0], margins[0]) == ([], [])
    assert len(tokens[1]) == 3


def test_equal_scores_are_ranked_by_id() -> None:
    """Those that just miss the width, too."""
    logits = torch.zeros(1, VOCAB)
    logits[0, [9, 30, 41]] = 1.0
    row = make_row(SamplingParams(0.0))
    assert rank(logits, [row], 5)[0] == [[9, 30, 41, 0, 1]]
    assert rank(logits[:, CUT], [row], 3, ids=CUT, vocab_size=VOCAB)[0] == [[30, 1, 3]]
