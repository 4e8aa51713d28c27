"""Hidden states as bytes, and back: rows of bfloat16, little-endian. Half the bytes of float32, and a draft reads them no worse."""

import numpy as np
import torch

EXPONENT = np.uint16(0x7F80)
"""Of a bfloat16; all its bits are set in those that are not finite."""


def to_bytes(states: torch.Tensor) -> bytes:
    """Of `[rows, size]`, on any device: rounded there, then copied once."""
    numbers: np.ndarray = states.to(torch.bfloat16).view(torch.int16).cpu().numpy()
    return numbers.astype("<i2", copy=False).tobytes()


def from_bytes(data: bytes, size: int) -> torch.Tensor:
    """Float32 `[rows, size]` on the CPU. Raises ValueError where the bytes are not rows of `size` finite numbers."""
    if len(data) % (2 * size):
        raise ValueError(f"{len(data)} bytes, not rows of {size} bfloat16 numbers")
    halves = np.frombuffer(data, dtype="<u2")
    if ((halves & EXPONENT) == EXPONENT).any():
        raise ValueError("numbers that are not finite")
    return torch.from_numpy((halves.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(-1, size))
