"""The oracle excuses near-ties and nothing else."""

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.harness.divergence import BOUNDS, explain, first_impossible, float64_twin
from drafthouse.noise import gumbel, position_key
from drafthouse.sampling import SamplingParams
from tests.engine.oracle import next_logits, sampled
from tests.engine.pairs import GREEDY
from tests.engine.tiny_models import tiny

PROMPT = [3, 1, 4, 1, 5, 9]
TEMPERATURE_1 = SamplingParams(temperature=1.0)
FILTERED = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1)
SEED = 5


def scores(model: PreTrainedModel, tokens: list[int], sampling: SamplingParams) -> torch.Tensor:
    """float64 `[vocab]`: logits after `tokens`, with the noise of the next position where `sampling` has any."""
    logits = next_logits(model, tokens)[0].double()
    if not sampling.greedy:
        logits = logits + gumbel(torch.tensor([position_key(SEED, len(tokens))]), len(logits))[0].double()
    return logits


def with_gap(gap: float, tokens: list[int], sampling: SamplingParams) -> tuple[PreTrainedModel, int, int]:
    """A float32 model whose two best scores after `tokens` lie `gap` spreads apart, and these two.

    The second's row of the output head moves along the last hidden state until its logit is right.
    """
    model = tiny("llama", dtype=torch.float32)
    spread = float(next_logits(model, tokens).double().std())
    value = scores(model, tokens, sampling)
    best, second = value.topk(2).indices.tolist()
    with torch.inference_mode():
        hidden = model.model(torch.tensor([tokens])).last_hidden_state[0, -1].double()
    wanted = float(value[best] - value[second]) - gap * spread
    head = model.lm_head.weight.data
    head[second] = (head[second].double() + wanted * hidden / hidden.square().sum()).float()
    return model, best, second


@pytest.mark.parametrize("sampling", [GREEDY, TEMPERATURE_1])
@pytest.mark.parametrize(("gap", "explained"), [(0.2, True), (20.0, False)])
def test_gap_decides(sampling: SamplingParams, gap: float, explained: bool) -> None:
    """The same two texts part at a gap of a fifth of the bound, and of twenty times the bound."""
    common = [7, 8]
    model, best, second = with_gap(gap * BOUNDS[torch.float32], PROMPT + common, sampling)
    found = explain(model, float64_twin(model), PROMPT, sampling, SEED, [*common, best, 1], [*common, second, 2])
    assert found is not None
    assert (found.index, found.tokens) == (2, (best, second))
    assert found.gap == pytest.approx(gap * BOUNDS[torch.float32], rel=0.2)
    assert found.explained is explained
    assert found.rounding < BOUNDS[torch.float32] / 5


@pytest.mark.parametrize("sampling", [GREEDY, TEMPERATURE_1, FILTERED])
def test_a_flipped_token_is_unexplained(sampling: SamplingParams) -> None:
    """A bug that replaces one token of a good text, anywhere, by another: the oracle excuses none of 60."""
    model = tiny("llama", dtype=torch.float32)
    twin = float64_twin(model)
    text = sampled(model, PROMPT, sampling, SEED, 20)
    for at in range(20):
        for other in (1, 100, 200):
            wrong = [*text[:at], (text[at] + other) % 256, *text[at + 1 :]]
            found = explain(model, twin, PROMPT, sampling, SEED, text, wrong)
            assert found is not None
            assert found.index == at
            assert not found.explained, f"token {at} replaced by one {found.gap:.3g} spreads below"


@pytest.mark.parametrize("sampling", [GREEDY, TEMPERATURE_1, FILTERED])
def test_the_rest_of_a_text_is_judged_by_its_own_beginning(sampling: SamplingParams) -> None:
    """A text that goes on well behind a foreign token, and the same with one wrong token: the first after `start` is found."""
    model = tiny("llama", dtype=torch.float32)
    twin = float64_twin(model)
    foreign = [(sampled(model, PROMPT, sampling, SEED, 1)[0] + 100) % 256]
    text = foreign + sampled(model, PROMPT + foreign, sampling, SEED, 15)
    assert first_impossible(model, twin, PROMPT, sampling, SEED, text, 0) == 0
    assert first_impossible(model, twin, PROMPT, sampling, SEED, text, 1) is None
    for at in (1, 8, 15):
        wrong = [*text[:at], (text[at] + 100) % 256, *text[at + 1 :]]
        assert first_impossible(model, twin, PROMPT, sampling, SEED, wrong, 1) == at
        assert first_impossible(model, twin, PROMPT, sampling, SEED, wrong[:at], 1) is None


@pytest.mark.parametrize("sampling", [GREEDY, TEMPERATURE_1, FILTERED])
def test_a_bug_beside_a_near_tie_is_unexplained(sampling: SamplingParams) -> None:
    """Two best scores that nearly tie excuse a third token not at all."""
    model, best, second = with_gap(0.1 * BOUNDS[torch.float32], PROMPT, GREEDY)
    third = next(token for token in range(256) if token not in (best, second))
    found = explain(model, float64_twin(model), PROMPT, sampling, SEED, [best], [third])
    assert found is not None
    assert not found.explained


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_distance_to_a_filters_boundary_counts(name: str, near: bool) -> None:
    """The token that noise makes best is the last one inside a filter, or the first one outside.

    Texts that differ because of it are explained when the boundary lies between the two by a hair.
    """
    model = tiny("llama", dtype=torch.float32)
    twin = float64_twin(model)
    logits = next_logits(twin, PROMPT)[0]
    seed, favourite, rank = _favourite_in_the_middle(logits)
    probabilities = logits.softmax(-1)
    ordered = probabilities.sort(descending=True).values
    off = 1e-6 if near else 0.1  # relative distance of the boundary
    if name == "top_k":
        sampling = SamplingParams(1.0, top_k=rank)  # first outside, and no other token is near: never explained
    elif name == "top_p":
        sampling = SamplingParams(1.0, top_p=float(ordered[:rank].sum()) * (1 - off))
    else:
        sampling = SamplingParams(1.0, min_p=float(probabilities[favourite] / ordered[0]) * (1 + off))
    without = sampled(twin, PROMPT, sampling, seed, 1)[0]
    assert without != favourite, "the filter drops the favourite"
    found = explain(model, twin, PROMPT, sampling, seed, [favourite], [without])
    assert found is not None
    assert found.explained is (near and name != "top_k")


def _favourite_in_the_middle(logits: torch.Tensor) -> tuple[int, int, int]:
    """A seed, the token that its noise makes best, and how many tokens have a larger logit: a few."""
    order = logits.argsort(descending=True).tolist()
    for seed in range(1000):
        noise = gumbel(torch.tensor([position_key(seed, len(PROMPT))]), len(logits))[0].double()
        favourite = int((logits + noise).argmax())
        if 2 <= order.index(favourite) <= 10:
            return seed, favourite, order.index(favourite)
    raise AssertionError("no seed will do")


def test_equal_and_shorter_texts() -> None:
    model = tiny("llama", dtype=torch.float32)
    twin = float64_twin(model)
    assert explain(model, twin, PROMPT, GREEDY, 0, [1, 2], [1, 2]) is None
    found = explain(model, twin, PROMPT, GREEDY, 0, [1, 2], [1])
    assert found is not None
    assert (found.index, found.explained) == (1, False)


def test_a_model_that_errs_more_has_a_wider_bound() -> None:
    """In float16 the tiny Llama errs by more than a quarter of the dtype's bound. What could not be chosen within four times
    its error is unexplained there too."""
    model = tiny("llama", dtype=torch.float16)
    twin = float64_twin(model)
    verdicts = set()
    for last in range(16):
        prompt = [*PROMPT, last]
        logits = next_logits(twin, prompt)[0]
        best, second = logits.topk(2).indices.tolist()
        gap = float((logits[best] - logits[second]) / logits.std())
        found = explain(model, twin, prompt, GREEDY, SEED, [best], [second])
        assert found is not None
        assert found.bound == max(BOUNDS[torch.float16], 4 * found.rounding)
        assert found.gap == pytest.approx(gap)
        assert found.explained is (gap <= 2 * found.bound + 1e-5)
        verdicts.add((found.explained, gap > 2 * BOUNDS[torch.float16]))
    assert (True, True) in verdicts, "the dtype's bound alone would not do"
    assert (False, True) in verdicts
