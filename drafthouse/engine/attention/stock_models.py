"""Attention of transformers' own modules: the one function that every such model calls, handed on to the step's backend.

Promises: a model that is called without a step raises, and registering twice is the same as once.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from drafthouse.engine.attention.backend import AttentionStep

IMPLEMENTATION = "drafthouse"


def register() -> None:
    """Makes the implementation known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    drafthouse_step: AttentionStep | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, heads, T, D]`, key and value `[1, kv_heads, T, D]` to output `[1, T, heads, D]`."""
    layer: int = module.layer_idx
    if drafthouse_step is None:
        raise ValueError("a model with drafthouse attention was called without a step")
    return drafthouse_step.attend(layer, query[0], key[0], value[0], scaling, sliding_window, softcap)[None], None
