"""Weights in panels: the order in which the native decoder reads them.

A panel holds 64 output columns: `[panels, inner, 64]`, in bfloat16 `[panels, inner / 2, 64, 2]`, so that two inner indices share a
32-bit word with the even one low. In int8 a panel is bytes, `[panels, groups, 128 + 2048]`: 64 scales in bfloat16, then the numbers of
32 inner indices with 128 added, `[8, 64, 4]`. The last panel is filled up with zeros. Gate and up share panels: 32 columns of each.
"""

from collections.abc import Sequence

import torch

from drafthouse.engine.native.int8 import rounded_weight

PANEL = 64
AT_ONCE = 64
"""Panels that are rounded to int8 at once: a head's float32 copy would be larger than the model."""


def pack(parts: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Panels in `dtype` of a linear whose weight `[outer, inner]` is `parts`, one below the other."""
    weight = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return _panels(_filled(weight), dtype)


def pack_gate_up(parts: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Panels of gate and up, each `[intermediate, inner]`: 32 columns of the one beside the same 32 of the other."""
    gate, up = parts if len(parts) == 2 else parts[0].chunk(2)
    half = PANEL // 2
    gate, up = (_filled(each, half).unflatten(0, (-1, half)) for each in (gate, up))
    return _panels(torch.cat([gate, up], 1).flatten(0, 1), dtype)


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


def _panels(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.cat([_int8_panels(some) for some in weight.split(AT_ONCE * PANEL)])
    panels = weight.to(dtype).unflatten(0, (-1, PANEL))
    if dtype == torch.bfloat16:
        return panels.unflatten(2, (-1, 2)).permute(0, 2, 1, 3).contiguous()
    return panels.transpose(1, 2).contiguous()


def _int8_panels(weight: torch.Tensor) -> torch.Tensor:
    numbers, scales = rounded_weight(weight)
    bytes_of_scales = scales.unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous().view(torch.uint8)
    fours = (numbers + 128.0).to(torch.uint8).unflatten(0, (-1, PANEL)).unflatten(3, (-1, 4))
    return torch.cat([bytes_of_scales, fours.permute(0, 2, 3, 1, 4).flatten(2)], 2)
