"""The changes that processors make to the rows of a step: gathered from all sequences, then applied to all rows at once.

Promises: a row's result depends on that row and its own edits alone, with the same bits whatever rows stand beside it. The order is
fixed, whatever order they were gathered in: what only may be chosen, bias, what must not be chosen, penalties. Rows without edits
keep their bits. Where what must not be chosen would leave a row nothing, that part does not count there. Nothing is done in Python
for single entries, and on the device nothing for tokens that no edit names, but for one copy and for masked rows.
"""

from collections.abc import Sequence

import numpy as np
import torch

WORD_BITS = 32


class Edits:
    """Rows are numbered from the step's first row on; all arrays of one call have one length. A (row, token) may be penalised once."""

    def __init__(self) -> None:
        self._masks: list[tuple[np.ndarray, np.ndarray]] = []
        self._only: list[tuple[np.ndarray, np.ndarray]] = []
        self._added: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._dropped: list[tuple[np.ndarray, np.ndarray]] = []
        self._penalised: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def mask(self, rows: np.ndarray, words: np.ndarray) -> None:
        """Only tokens whose bit is set may be chosen: words uint32 `[rows, ceil(vocab / 32)]`, bit `t % 32` of word `t // 32` for
        token `t`. At least one bit of each row is set."""
        self._masks.append((rows, words))

    def keep_only(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """In each of `rows` only `tokens` may be chosen; the two lengths differ, and no row comes twice. The sparse form of `mask`."""
        self._only.append((np.repeat(rows, len(tokens)), np.tile(tokens, len(rows))))

    def add(self, rows: np.ndarray, tokens: np.ndarray, values: np.ndarray) -> None:
        """Adds float32 values; each (row, token) once."""
        self._added.append((rows, tokens, values))

    def drop(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """These tokens must not be chosen."""
        self._dropped.append((rows, tokens))

    def penalise(self, rows: np.ndarray, tokens: np.ndarray, factors: np.ndarray, less: np.ndarray) -> None:
        """Divides positive and multiplies negative scores by float32 `factors` (CTRL, arXiv 1909.05858, section 4.1), then takes
        float32 `less` away."""
        self._penalised.append((rows, tokens, factors, less))

    def applied(self, logits: torch.Tensor) -> torch.Tensor:
        """A changed copy of float32 `[N, vocab]`."""
        result = logits.clone()
        if self._masks:
            self._apply_masks(result)
        if self._only:
            self._apply_only(result)
        if self._added:
            at, values = _flat(self._added, result), _joined([each[2] for each in self._added], result)
            result.view(-1)[at] += values
        if self._dropped:
            self._apply_dropped(result)
        if self._penalised:
            at = _flat(self._penalised, result)
            factors, less = (_joined([each[i] for each in self._penalised], result) for i in (2, 3))
            scores = result.view(-1)[at]
            result.view(-1)[at] = torch.where(scores > 0, scores / factors, scores * factors) - less
        return result

    def _apply_masks(self, result: torch.Tensor) -> None:
        rows, words = (np.concatenate(each) for each in zip(*self._masks, strict=True))
        bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u4").view(np.uint8), axis=1, bitorder="little")[:, : result.shape[1]]
        allowed = torch.from_numpy(bits.astype(bool)).to(result.device)
        at = torch.from_numpy(rows.astype(np.int64)).to(result.device)
        result[at] = result[at].masked_fill(~allowed, float("-inf"))

    def _apply_only(self, result: torch.Tensor) -> None:
        at = _flat(self._only, result)
        kept = result.view(-1)[at]
        rows = np.unique(np.concatenate([rows for rows, _ in self._only])).astype(np.int64)
        result[torch.from_numpy(rows).to(result.device)] = float("-inf")
        result.view(-1)[at] = kept

    def _apply_dropped(self, result: torch.Tensor) -> None:
        at = _flat(self._dropped, result)
        before = result.view(-1)[at]
        result.view(-1)[at] = float("-inf")
        if not (self._masks or self._only or len(at) >= result.shape[1]):
            return  # too few to leave a row nothing
        rows = torch.div(at, result.shape[1], rounding_mode="floor")
        touched, places = rows.unique(return_inverse=True)
        nothing = result[touched].amax(-1) == float("-inf")
        if bool(nothing.any()):
            back = nothing[places]
            result.view(-1)[at[back]] = before[back]


def _joined(arrays: list[np.ndarray], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(like.device)


def _flat(each: Sequence[tuple[np.ndarray, ...]], result: torch.Tensor) -> torch.Tensor:
    """Where the (row, token) pairs lie in the flat tensor, int64."""
    rows, tokens = (np.concatenate([one[i] for one in each]).astype(np.int64) for i in (0, 1))
    return torch.from_numpy(rows * result.shape[1] + tokens).to(result.device)
