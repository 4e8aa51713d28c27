"""docs/design.md 1: sampled text has the target's distribution, even with a deliberately bad draft.

20,000 fixed seeds go through the whole engine with trees on. The first token comes from prefill,
the second and the third from a verified tree of depth 2, so both pairs are tested: (first, second)
and (second, third). The same test must reject a mutant that mixes shared noise with the p/q rule.
Seeds are fixed, so a p-value above the bound stays above it.
"""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.noise import derive_seed, gumbel, mix64, position_key
from drafthouse.sampling import SamplingParams
from tests.engine.pairs import loaded, pair, request

VOCAB_SIZE = 24
PROMPT = [3, 7]
SEEDS = 20_000
BATCH = 64
"""Requests side by side: more of them take longer each, since the schedulers look at all."""
SIGNIFICANCE = 1e-3
MIN_EXPECTED = 5.0
"""Cells with a smaller expectation are merged into one: below it chi-square is a bad approximation."""


def model(seed: int) -> PreTrainedModel:
    """A one-layer Llama in float64; two seeds give two unrelated distributions."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, max_position_embeddings=64, initializer_range=0.6, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).double().eval()


def next_log_probabilities(stock: PreTrainedModel, depth: int) -> np.ndarray:
    """log p(next | PROMPT, path) for all paths of `depth` tokens, `[VOCAB_SIZE] * (depth + 1)`, by the model without our engine."""
    paths = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * depth).view(-1, depth) if depth else torch.zeros(1, 0, dtype=torch.int64)
    rows = torch.cat([torch.tensor([PROMPT]).expand(len(paths), -1), paths], 1)
    with torch.inference_mode():
        logits = stock(rows, use_cache=False).logits[:, -1]
    return logits.log_softmax(-1).view([VOCAB_SIZE] * (depth + 1)).numpy()


def chi_square(samples: np.ndarray, exact: np.ndarray) -> tuple[float, int]:
    """p-value and degrees of freedom of samples `[N, 2]` against exact probabilities `[VOCAB_SIZE, VOCAB_SIZE]`."""
    assert exact.sum() == pytest.approx(1.0)
    counts = np.bincount(samples[:, 0] * VOCAB_SIZE + samples[:, 1], minlength=VOCAB_SIZE**2)
    expected = exact.ravel() * len(samples)
    order = np.argsort(expected)
    merged = max(int(np.sum(expected < MIN_EXPECTED)), int(np.searchsorted(np.cumsum(expected[order]), MIN_EXPECTED)) + 1)
    rest, small = order[merged:], order[:merged]
    observed = np.append(counts[rest], counts[small].sum())
    wanted = np.append(expected[rest], expected[small].sum())
    dof = len(observed) - 1
    return float(chi2.sf(np.sum((observed - wanted) ** 2 / wanted), dof)), dof


def assert_distribution(samples: np.ndarray, exact: np.ndarray) -> None:
    p, dof = chi_square(samples, exact)
    assert dof > 100, f"{dof} degrees of freedom: too few cells to tell distributions apart"
    assert p > SIGNIFICANCE, f"chi-square over {len(samples)} seeds with {dof} degrees of freedom: p = {p:.2g}"


def exact_pairs(stock: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of (first, second) and of (second, third), each the product of its steps summed over what is left out."""
    first, second, third = (np.exp(next_log_probabilities(stock, depth)) for depth in range(3))
    triple = first[:, None, None] * second[:, :, None] * third
    return triple.sum(2), triple.sum(0)


@pytest.mark.timeout(900)  # half a minute of one core, which a busy machine may stretch
def test_text_through_trees_of_a_bad_draft_has_the_targets_distribution() -> None:
    target, draft = loaded(model(1)), loaded(model(2))
    sampling = SamplingParams(temperature=1.0)
    engines = pair(
        target, [draft], VerifierConfig(max_sequences=BATCH, step_tokens=4096),
        DrafterConfig(max_sessions=BATCH, prefill_tokens=4096), TreeConfig(max_nodes=6, max_depth=2, width=3),
    )  # fmt: skip
    samples = np.zeros((SEEDS, 3), dtype=np.int64)
    for first in range(0, SEEDS, BATCH):
        seeds = range(first, min(first + BATCH, SEEDS))
        outputs = engines.generate(request(str(s), PROMPT, 4, sampling, s, mode="fixed", nodes=4, depth=2) for s in seeds)
        for s in seeds:
            samples[s] = outputs[str(s)][:3]
    first_pair, second_pair = exact_pairs(model(1))
    assert_distribution(samples[:, :2], first_pair)
    assert_distribution(samples[:, 1:], second_pair)
    totals = engines.verifier.totals
    assert totals.verified > 2 * SEEDS, "trees were not on"
    assert 0.02 * totals.verified < totals.accepted < 0.2 * totals.verified, "a bad draft: both acceptance and rejection are common"


def rejection_sampled(shared_noise: bool) -> np.ndarray:
    """Two tokens for each seed by the p/q rule (Leviathan et al., arXiv 2211.17192): samples `[SEEDS, 2]`.

    The draft's token is accepted with probability min(1, p/q) by an independent uniform, else the
    token is drawn from max(0, p - q). That is lossless if the second draw has noise of its own.
    The mutant uses the noise that chose the draft's token (vllm-project/vllm#54282).
    """
    target, draft = model(1), model(2)
    samples = np.zeros((SEEDS, 2), dtype=np.int64)
    prefix: tuple[np.ndarray, ...] = ()
    for step in range(2):
        p = np.broadcast_to(next_log_probabilities(target, step)[prefix], (SEEDS, VOCAB_SIZE))
        q = np.broadcast_to(next_log_probabilities(draft, step)[prefix], (SEEDS, VOCAB_SIZE))
        position = len(PROMPT) + step
        noise = noise_of(range(SEEDS), position)
        again = noise if shared_noise else noise_of([derive_seed(s, 1) for s in range(SEEDS)], position)
        uniform = np.array([mix64(mix64(s + (1 << 40)) + position) / 2.0**64 for s in range(SEEDS)])
        drafted = (q + noise).argmax(1)
        rows = np.arange(SEEDS)
        accepted = uniform < np.exp(p[rows, drafted] - q[rows, drafted])
        with np.errstate(divide="ignore"):
            residual = np.log(np.maximum(np.exp(p) - np.exp(q), 0.0))
        samples[:, step] = np.where(accepted, drafted, (residual + again).argmax(1))
        prefix = (*prefix, samples[:, step])
    return samples


def noise_of(seeds: Iterable[int], position: int) -> np.ndarray:
    keys = torch.tensor([position_key(seed, position) for seed in seeds], dtype=torch.int64)
    return gumbel(keys, VOCAB_SIZE).numpy()


def test_the_test_rejects_shared_noise_under_the_pq_rule() -> None:
    exact, _ = exact_pairs(model(1))
    assert_distribution(rejection_sampled(shared_noise=False), exact)  # the rule itself is fine: it is the noise that is judged
    with pytest.raises(AssertionError, match="chi-square"):
        assert_distribution(rejection_sampled(shared_noise=True), exact)
    p, _ = chi_square(rejection_sampled(shared_noise=True), exact)
    assert p < 1e-12, "the mutant is caught by a wide margin, not by luck of the seeds"
