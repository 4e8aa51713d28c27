"""Weights in panels: the order in which the native decoder reads them.

A panel holds 64 output columns: `[panels, inner, 64]`, in bfloat16 `[panels, inner / 2, 64, 2]`, so that two inner indices share a
32-bit word with the even one low. The last panel is filled up with zeros. Gate and up share panels: 32 columns of each.
"""

from collections.abc import Sequence

import torch

PANEL = 64


def pack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Panels of a linear whose weight `[outer, inner]` is `parts`, one below the other."""
    weight = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return _panels(_filled(weight))


def pack_gate_up(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Panels of gate and up, each `[intermediate, inner]`: 32 columns of the one beside the same 32 of the other."""
    gate, up = parts if len(parts) == 2 else parts[0].chunk(2)
    half = PANEL // 2
    gate, up = (_filled(each, half).unflatten(0, (-1, half)) for each in (gate, up))
    return _panels(torch.cat([gate, up], 1).flatten(0, 1))


def gate_up_bias(bias: torch.Tensor) -> torch.Tensor:
    """The bias in the order of `pack_gate_up`'s columns."""
    gate, up = bias.chunk(2)
    half = PANEL // 2
    return torch.cat([_filled(each[:, None], half).view(-1, half) for each in (gate, up)], 1).flatten()


def padded_bias(bias: torch.Tensor) -> torch.Tensor:
    return _filled(bias[:, None]).flatten()


def _filled(weight: torch.Tensor, multiple: int = PANEL) -> torch.Tensor:
    """With rows of zeros up to a multiple."""
    return torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % multiple))


def _panels(weight: torch.Tensor) -> torch.Tensor:
    panels = weight.unflatten(0, (-1, PANEL))
    if weight.dtype == torch.bfloat16:
        return panels.unflatten(2, (-1, 2)).permute(0, 2, 1, 3).contiguous()
    return panels.transpose(1, 2).contiguous()
