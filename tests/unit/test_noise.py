"""The noise is the same everywhere for ever, and it is Gumbel noise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from drafthouse.noise import NOISE_VERSION, derive_seed, gumbel, gumbel_of, mix64, position_key
from drafthouse.sampling import MAX_SEED

GOLDEN_V1 = [  # seed, position, token, noise
    (0, 0, 0, 1.9016413688659668),
    (0, 0, 1, -1.2652519941329956),
    (0, 1, 0, 1.5938371419906616),
    (1, 0, 0, -0.1676960587501526),
    (42, 1000, 4095, -0.16969086229801178),
    (MAX_SEED, (1 << 22) - 1, 262207, -1.6850215196609497),
]
SEEDS = st.integers(0, MAX_SEED)
POSITIONS = st.integers(0, (1 << 22) - 1)


def noise(seed: int, position: int, vocab_size: int) -> np.ndarray:
    return gumbel(torch.tensor([position_key(seed, position)]), vocab_size)[0].numpy()


def numpy_noise(seed: int, position: int, vocab_size: int) -> np.ndarray:
    """Version 1 on numpy's unsigned words, with no code in common."""
    golden = np.array([0x9E3779B97F4A7C15], np.uint64)

    def mix(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    key = mix(mix(np.array([seed], np.uint64) + golden) + np.array([position + 1], np.uint64) * golden)
    words = mix(key + np.arange(1, vocab_size + 1, dtype=np.uint64) * golden)
    v = ((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52
    return (-np.log(-np.log1p(-v))).astype(np.float32)


@pytest.mark.parametrize(("seed", "position", "token", "expected"), GOLDEN_V1)
def test_golden_vectors(seed: int, position: int, token: int, expected: float) -> None:
    assert NOISE_VERSION == 1
    assert float(noise(seed, position, token + 1)[token]) == expected


@given(SEEDS, POSITIONS)
def test_equals_numpy(seed: int, position: int) -> None:
    # libm's logarithms may differ in the last bit of float64, which seldom moves the float32
    np.testing.assert_allclose(noise(seed, position, 300), numpy_noise(seed, position, 300), rtol=3e-7, atol=1e-12)


def test_depends_on_its_own_key_alone() -> None:
    keys = torch.tensor([position_key(7, p) for p in range(5)])
    together = gumbel(keys, 100)
    for i in range(5):
        assert torch.equal(gumbel(keys[i : i + 1], 60)[0], together[i, :60])


def test_of_some_tokens_alone() -> None:
    keys, tokens = torch.tensor([position_key(7, p) for p in range(3)]), torch.tensor([[5, 0, 99], [99, 98, 1], [7, 7, 64]])
    assert torch.equal(gumbel_of(keys, tokens), gumbel(keys, 100).gather(1, tokens))


def test_moments_and_distribution() -> None:
    sample = np.concatenate([noise(seed, 17, 50_000) for seed in range(4)]).astype(np.float64)
    n = len(sample)
    assert sample.mean() == pytest.approx(np.euler_gamma, abs=4 * math.sqrt(math.pi**2 / 6 / n))
    assert sample.var() == pytest.approx(math.pi**2 / 6, rel=0.02)
    uniform = np.exp(-np.exp(-sample))
    assert stats.kstest(uniform, "uniform").pvalue > 0.001


@pytest.mark.parametrize("axis", ["token", "position", "seed"])
def test_neighbours_are_independent(axis: str) -> None:
    n = 20_000
    if axis == "token":
        sample = noise(3, 5, n)
    else:
        keys = [position_key(3, i) if axis == "position" else position_key(i, 5) for i in range(n)]
        sample = gumbel(torch.tensor(keys), 1)[:, 0].numpy()
    uniform = np.exp(-np.exp(-sample.astype(np.float64)))
    assert stats.kstest(uniform, "uniform").pvalue > 0.001
    for lag in (1, 2, 256):
        assert abs(np.corrcoef(uniform[:-lag], uniform[lag:])[0, 1]) < 4 / math.sqrt(n)


def test_axes_do_not_alias() -> None:
    """No diagonal of (seed, position, token) repeats another's noise, as a key of plain sums would."""
    values = [float(noise(seed, position, 8)[token]) for seed in range(8) for position in range(8) for token in range(8)]
    assert len(set(values)) == 512


def _unmix64(y: int) -> int:
    """The word that `mix64` sends to `y`."""
    mask = (1 << 64) - 1

    def unshift(y: int, bits: int) -> int:
        x = y
        for _ in range(64 // bits):
            x = y ^ (x >> bits)
        return x

    y = unshift(y, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & mask
    return unshift(unshift(y, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & mask, 30)


@pytest.mark.parametrize(("word", "expected"), [(0, 53 * math.log(2)), ((1 << 64) - 1, -math.log(53 * math.log(2)))])
def test_finite_at_extremes(word: int, expected: float) -> None:
    assert mix64(_unmix64(word)) == word
    key = (_unmix64(word) - 0x9E3779B97F4A7C15) % (1 << 64)
    value = gumbel(torch.tensor([key - (1 << 64) if key >> 63 else key]), 1).item()
    assert value == pytest.approx(expected, rel=1e-6)


def test_shape_and_dtype() -> None:
    values = gumbel(torch.tensor([1, -1, 2]), 9)
    assert values.shape == (3, 9)
    assert values.dtype == torch.float32
    assert gumbel(torch.tensor([], dtype=torch.int64), 9).shape == (0, 9)


@pytest.mark.parametrize(
    ("seed", "index", "expected"),
    [(0, 0, 2598789274482403935), (42, 1, 7578571318714313631), (MAX_SEED, 3, 6970207901809754460)],
)
def test_derive_seed_golden(seed: int, index: int, expected: int) -> None:
    assert derive_seed(seed, index) == expected


@given(SEEDS, st.integers(0, 1 << 20))
def test_derive_seed_range(seed: int, index: int) -> None:
    assert 0 <= derive_seed(seed, index) <= MAX_SEED


def test_derive_seed_distinct() -> None:
    seeds = [derive_seed(seed, index) for seed in range(100) for index in range(100)]
    assert len(set(seeds) | set(range(100))) == 10_100
