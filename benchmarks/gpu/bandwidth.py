"""How fast the device's memory is, by copying a large block: the roof under which plain decoding stands."""

import time

import torch

COPIES = 10


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes per second, read and written ones together; the best of several copies of `size` bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        _wait(device)
        started = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
