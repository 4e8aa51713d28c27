"""Hidden states between the target and a draft that reads them: as bytes, and as what tokens are run with.

As bytes they are rows of bfloat16, little-endian: half of float32, and a draft reads them no worse.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class StateInputs(Protocol):
    """What a draft makes of states."""

    def rows(self, states: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Float32 `[tokens, size]`, for `Segment.inputs`: of the state `[size]` that chose each token, or of none."""
        ...


def to_bytes(states: torch.Tensor) -> bytes:
    """Of `[rows, size]`, on any device: rounded there, then copied once."""
    numbers: np.ndarray = states.to(torch.bfloat16).view(torch.int16).cpu().numpy()
    return numbers.astype("<i2", copy=False).tobytes()


def from_bytes(data: bytes, size: int) -> torch.Tensor:
    """Float32 `[rows, size]` on the CPU. Raises ValueError where the bytes are not rows of `size` finite numbers."""
    if len(data) % (2 * size):
        raise ValueError(f"{len(data)} bytes, not rows of {size} bfloat16 numbers")
    states = torch.from_numpy(np.frombuffer(data, dtype="<i2").astype(np.int16)).view(torch.bfloat16).float().view(-1, size)
    if not states.isfinite().all():
        raise ValueError("numbers that are not finite")
    return states
