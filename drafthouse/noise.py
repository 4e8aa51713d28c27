"""Counter-based Gumbel noise shared by draft and target: `noise(seed, position, token)`.

Promises: the value depends on these three integers and on `NOISE_VERSION` alone, on every device
and in every batch. Version 1 hashes with the finaliser of SplitMix64 (Steele, Lea, Flood,
OOPSLA 2014, figure 17), keeps 52 bits, and takes `g = -log(-log1p(-v))` in float64, rounded to
float32. `v` lies strictly between 0 and 1, so `g` is finite: it spans about -3.6 to 36.7.
"""

import numpy as np
import torch

NOISE_VERSION = 1

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(x: int) -> int:
    """The two's-complement int64 of a 64-bit pattern, as torch holds it."""
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def mix64(x: int) -> int:
    """SplitMix64's finaliser on one 64-bit word."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def position_key(seed: int, position: int) -> int:
    """The 64-bit key of one position, as a signed int64 for `gumbel`."""
    return _signed(mix64(mix64(seed + _GOLDEN) + (position + 1) * _GOLDEN))


def position_keys(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """`position_key` of each pair: uint64 `[N]` twice to int64 `[N]`."""
    return _mix64_all(_mix64_all(seeds + np.uint64(_GOLDEN)) + (positions + np.uint64(1)) * np.uint64(_GOLDEN)).view(np.int64)


def _mix64_all(x: np.ndarray) -> np.ndarray:
    """`mix64` of each of uint64 `[N]`, in place."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(_MIX_1)
    x ^= np.right_shift(x, np.uint64(27), out=shifted)
    x *= np.uint64(_MIX_2)
    x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return x


def token_terms(tokens: np.ndarray) -> np.ndarray:
    """What each token id adds to a key: int64 `[K]` to uint64 `[K]`."""
    return (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)


def hashes(key: int, terms: np.ndarray) -> np.ndarray:
    """The 64-bit words that the noise of a key is drawn from, by token, uint64 `[K]`: the smaller the word, the larger the noise. A CPU's
    way, where not all of them are drawn."""
    return _mix64_all(terms + np.uint64(key & _MASK))


def derive_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request with `n` choices or several prompts; below 2**63."""
    return mix64(mix64(seed) ^ mix64(index + _GOLDEN)) >> 1


BLOCK = 1 << 18
"""Draws that a CPU makes at a time, in place: what one thread works on stays in its cache."""


def _xor_shift(x: torch.Tensor, bits: int) -> None:
    """`x ^= x >> bits` with a logical shift; torch's `>>` on int64 copies the sign bit."""
    x ^= (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def gumbel(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Noise for each key and token id: keys int64 `[N]` to float32 `[N, vocab_size]`, on the keys' device."""
    tokens = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=keys.device) * _signed(_GOLDEN)
    out = torch.empty(len(keys), vocab_size, dtype=torch.float32, device=keys.device)
    rows = max(1, BLOCK // vocab_size if keys.device.type == "cpu" else len(keys))
    for first in range(0, len(keys), rows):
        out[first : first + rows] = _drawn(keys[first : first + rows, None] + tokens)
    return out


def gumbel_of(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Noise of some token ids alone: keys int64 `[N]` and tokens int64 `[N, K]` to float32 `[N, K]`; equal to what `gumbel` has there."""
    return _drawn(keys[:, None] + (tokens + 1) * _signed(_GOLDEN)).float()


def _drawn(x: torch.Tensor) -> torch.Tensor:
    """float64 noise of keys plus token terms; `x` is overwritten."""
    _xor_shift(x, 30)
    x *= _signed(_MIX_1)
    _xor_shift(x, 27)
    x *= _signed(_MIX_2)
    _xor_shift(x, 31)
    # 52 bits and a half are exact in float64; one bit more would round up to 1.
    v = (x >> 12).bitwise_and_((1 << 52) - 1).double().add_(0.5).mul_(-(2.0**-52))
    return _of_fractions(v)


def _of_fractions(v: torch.Tensor) -> torch.Tensor:
    """float64, of `-v`, which is overwritten. The logarithms are torch's everywhere: others differ in a last bit."""
    return v.log1p_().neg_().log_().neg_()


def gumbel_of_words(words: np.ndarray) -> np.ndarray:
    """The noise of `hashes`, float32: equal to what `gumbel` has there."""
    fractions = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * -(2.0**-52)
    drawn: np.ndarray = _of_fractions(torch.from_numpy(fractions)).float().numpy()
    return drawn
