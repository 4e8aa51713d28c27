"""What top-p, top-k and min-p keep is the same whichever way it is found: bit for bit, ties and flat rows included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafthouse import filters
from drafthouse.filters import HEAD, MASS_BITS, kept
from drafthouse.sampling import SamplingParams

VOCAB = 1200

SHAPES = st.sampled_from(["normal", "peaked", "flat", "all equal", "rounded", "two levels", "long tail", "masked"])
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.just(1.0),
    top_k=st.sampled_from([0, 0, 0, 1, 3, 40, 257, 1000, 1199, 1200, 5000]),
    top_p=st.sampled_from([1e-60, 0.01, 0.3, 0.5, 0.9, 0.95, 0.999999, 1.0 - 2.0**-53, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0]),
).filter(lambda s: s.filters)


def scores_of(shape: str, seed: int, vocab: int = VOCAB) -> torch.Tensor:
    x = torch.randn(vocab, generator=torch.Generator().manual_seed(seed))
    match shape:
        case "peaked":
            return 8 * x
        case "flat":
            return 0.01 * x
        case "all equal":
            return torch.full((vocab,), 1.25)
        case "rounded":
            return (2 * x).round()
        case "two levels":
            return (x > 1.0).float() * 3
        case "long tail":
            return torch.cat([x[:5] + 9, (x[5:] * 4).round() / 4])
        case "masked":
            return torch.where(x > 0.5, 2 * x, -math.inf)
    return 3 * x


def one_by_one(scores: torch.Tensor, s: SamplingParams) -> set[int]:
    """The definition, token by token."""
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    if 0 < s.top_k < len(order):
        order = order[: s.top_k]
        probabilities = scores[order].softmax(-1)
    else:
        probabilities = scores.softmax(-1)[order]
    result, before = set[int](), 0
    floor = scores[order[0]] + torch.tensor(math.log(s.min_p) if s.min_p else -math.inf)
    for place, (token, p) in enumerate(zip(order, probabilities.tolist(), strict=True)):
        inside = s.top_p >= 1.0 or before < s.top_p * 2.0**MASS_BITS
        if place == 0 or (inside and bool(scores[token] >= floor)):
            result.add(token)
        before += int(p * 2.0**MASS_BITS)
    return result


def sets_of(scaled: torch.Tensor, sampling: list[SamplingParams], head: int = HEAD) -> list[set[int]]:
    rows, tokens = kept(scaled, sampling, head)
    pairs = list(zip(rows.tolist(), tokens.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs), "no token is there twice"
    return [{token for row, token in pairs if row == i} for i in range(len(scaled))]


@settings(max_examples=300, deadline=None)
@given(SHAPES, st.integers(0, 10_000), SAMPLINGS, st.sampled_from([1, 2, 7, 64, 256, VOCAB]))
def test_a_head_and_buckets_keep_what_the_definition_does(shape: str, seed: int, sampling: SamplingParams, head: int) -> None:
    scores = scores_of(shape, seed)
    assert sets_of(scores[None], [sampling], head) == [one_by_one(scores, sampling)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SHAPES, SAMPLINGS), min_size=2, max_size=9), st.integers(0, 10_000), st.sampled_from([1, 64, 256]))
def test_a_row_keeps_the_same_beside_any_others(rows: list[tuple[str, SamplingParams]], seed: int, head: int) -> None:
    scaled = torch.stack([scores_of(shape, seed + i) for i, (shape, _) in enumerate(rows)])
    sampling = [each for _, each in rows]
    together = sets_of(scaled, sampling, head)
    assert together == [sets_of(scaled[i : i + 1], [each], head)[0] for i, each in enumerate(sampling)]


@pytest.mark.parametrize("shape", ["normal", "flat", "rounded", "long tail"])
@pytest.mark.parametrize(
    "sampling", [SamplingParams(1.0, top_p=0.95), SamplingParams(1.0, top_p=0.9, min_p=0.01), SamplingParams(1.0, min_p=0.05)]
)
def test_large_vocabularies(shape: str, sampling: SamplingParams) -> None:
    scaled = torch.stack([scores_of(shape, seed, 49_152) for seed in range(3)])
    quick, sorted_whole = sets_of(scaled, [sampling] * 3), sets_of(scaled, [sampling] * 3, head=49_152)
    assert quick == sorted_whole
    assert quick[0] == one_by_one(scaled[0], sampling)


def test_a_peaked_row_is_not_sorted_and_a_flat_one_is_put_into_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what makes it fast: only rows whose head does not hold all take the longer way."""
    counts, bucketed = [], []
    in_order, by_buckets = filters._in_order, filters._by_buckets

    def watched(scaled: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        counts.append(count)
        return in_order(scaled, count)

    def noted(scaled: torch.Tensor, mass: torch.Tensor, sampling: list[SamplingParams]) -> filters.Kept:
        bucketed.append(len(scaled))
        return by_buckets(scaled, mass, sampling)

    monkeypatch.setattr(filters, "_in_order", watched)
    monkeypatch.setattr(filters, "_by_buckets", noted)
    scaled = torch.stack([scores_of("peaked", 1, 49_152), scores_of("flat", 2, 49_152), scores_of("peaked", 3, 49_152)])
    kept(scaled, [SamplingParams(1.0, top_p=0.9)] * 3)
    assert (counts, bucketed) == ([HEAD], [1])
    kept(scaled, [SamplingParams(1.0, min_p=0.1)] * 3)
    assert (counts, bucketed) == ([HEAD], [1])


def test_ties_at_the_cut_go_to_the_lowest_ids() -> None:
    """Four equal tokens of a quarter each: top-p keeps two, wherever they are and whatever the head."""
    scores = torch.full((VOCAB,), -200.0)
    scores[[7, 300, 700, 1100]] = 1.0
    for head in (1, 2, 3, 4, 5, VOCAB):
        assert sets_of(scores[None], [SamplingParams(1.0, top_p=0.5)], head) == [{7, 300}]
    assert sets_of(scores[None], [SamplingParams(1.0, top_k=3)]) == [{7, 300, 700}]
