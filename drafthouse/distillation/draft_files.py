"""Writes a draft in training as the folder that `drafthouse.checkpoints.draft_folder` describes.

Promises: `model.safetensors` is there whole or not at all, also where a folder is written again.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file

from drafthouse.checkpoints.draft_folder import FUSE_EMBEDDING, FUSE_STATE, HEAD, HEAD_IDS, NO_STATE, WEIGHTS, DraftFolder
from drafthouse.distillation.network import DraftNetwork
from drafthouse.errors import ConfigError


def draft_tensors(network: DraftNetwork) -> dict[str, torch.Tensor]:
    """By their names in the folder, bfloat16, and the head's ids in int32."""
    tensors = {f"model.{name}": value for name, value in network.base.state_dict().items() if not name.startswith("embed_tokens")}
    tensors[HEAD] = network.head
    if network.hidden:
        tensors |= {FUSE_EMBEDDING: network.fuse_embedding, FUSE_STATE: network.fuse_state, NO_STATE: network.no_state}
    return {name: value.detach().cpu().to(torch.bfloat16).contiguous() for name, value in tensors.items()} | {
        HEAD_IDS: network.head_ids.cpu().to(torch.int32)
    }


def write_draft(network: DraftNetwork, folder: pathlib.Path, target: str, vocabulary: str, trained: Mapping[str, Any]) -> None:
    """Raises ConfigError where it cannot be written."""
    unfinished = folder / f"{WEIGHTS}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(draft_tensors(network), unfinished, {"format": "pt"})
        unfinished.replace(folder / WEIGHTS)
        network.config.dtype = torch.bfloat16
        network.config.save_pretrained(folder)
        DraftFolder(target, vocabulary, "target", network.hidden, dict(trained)).write(folder)
    except Exception as error:  # fault boundary: safetensors has errors of its own for a full disk
        unfinished.unlink(missing_ok=True)
        raise ConfigError(f"{folder}: the draft cannot be written: {error}; make room and run the same command again") from error
