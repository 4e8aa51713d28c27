"""Memory of the native decoder that the C library's allocator would not serve well: weights in large pages, and logits whose pages stay.

Promises: what is still held is never overwritten.
"""

import contextlib
import math
import mmap
import weakref
from collections.abc import Callable

import numpy as np
import torch

from drafthouse.engine.heap import SERVING_MAPPED_BYTES


def _mapped(size: int) -> mmap.mmap:
    """Zeros, in pages of 2 MB where the system has them."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # of a kernel built without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


class WeightMemory:
    """Copies weights into large pages: a step reads all weights, page by page."""

    CHUNK, LINE = 1 << 26, 64

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Contiguous, from the beginning of a cache line on."""
        size = math.ceil(tensor.nbytes / self.LINE) * self.LINE
        if len(self._free) < size:
            self._free = torch.frombuffer(_mapped(max(size, self.CHUNK)), dtype=torch.uint8)
        taken, self._free = self._free[:size], self._free[size:]
        return taken[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


class LogitsMemory:
    """Room for the logits of one step after another. From `least_bytes` on the allocator would take new pages from the system for each step
    and the system would zero them, which takes three times as long as writing: such logits lie in pages that stay."""

    def __init__(self, vocab: int, dtype: torch.dtype, least_bytes: int = SERVING_MAPPED_BYTES):
        self._vocab, self._dtype, self._least_bytes = vocab, np.dtype(str(dtype).removeprefix("torch.")), least_bytes
        self._pages: mmap.mmap | None = None
        self._lent: Callable[[], np.ndarray | None] = lambda: None  # what was taken last, while any tensor of it lives

    def rows(self, count: int) -> torch.Tensor:
        """`[count, vocab]`, of undefined content."""
        size = count * self._vocab * self._dtype.itemsize
        if size < self._least_bytes:
            return torch.from_numpy(np.empty((count, self._vocab), dtype=self._dtype))
        if self._pages is None or len(self._pages) < size or self._lent() is not None:
            self._pages = None
            self._pages = _mapped(size)
        rows = np.frombuffer(self._pages, dtype=self._dtype, count=count * self._vocab).reshape(count, self._vocab)
        self._lent = weakref.ref(rows)
        return torch.from_numpy(rows)
