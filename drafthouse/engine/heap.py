"""Memory that a load took for a while goes back to the system.

Promises: does nothing where the C library has no such settings (musl, macOS). glibc keeps freed blocks for the next ones: small ones
as a rule, large ones after the first was freed, and at the end of a thread's heap for ever. A load frees as much as a model.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of its settings, from malloc.h."""

MAPPED_BYTES = 1 << 20
"""Blocks from here on are mapped while a model loads."""

SERVING_MAPPED_BYTES, SERVING_TRIM_BYTES = 32 << 20, 64 << 20
"""Where glibc's own adjustment ends: a step takes and frees blocks of megabytes, whose pages it should find again."""


@contextlib.contextmanager
def large_blocks_mapped() -> Iterator[None]:
    """Inside, each large block is a mapping of its own, which goes back when it is freed, on every thread."""
    settings = getattr(ctypes.CDLL(None), "mallopt", None)
    if settings is None:
        yield
        return
    settings(MMAP_THRESHOLD, MAPPED_BYTES)
    try:
        yield
    finally:
        settings(MMAP_THRESHOLD, SERVING_MAPPED_BYTES)
        settings(TRIM_THRESHOLD, SERVING_TRIM_BYTES)


def give_back_freed() -> None:
    """What is free in the heaps of all threads, cycles included."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
