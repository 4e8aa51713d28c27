"""Folders of distilled drafts, cut by hand out of tiny targets: their first layers, and some rows of their heads.

Promises: nothing is trained, so what such a draft computes is known: `right_logits` is the oracle, by transformers alone.
"""

import copy
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from drafthouse.checkpoints.draft_folder import (
    EMBEDDINGS,
    FUSE_EMBEDDING,
    FUSE_STATE,
    HEAD,
    HEAD_IDS,
    NO_STATE,
    WEIGHTS,
    DraftFolder,
)
from drafthouse.engine.vocabulary import vocabulary_digest
from tests.engine.model_folders import byte_tokenizer

IDS = tuple(range(3, 256, 2))
"""Tokens of a cut head: the odd ones."""


def draft_folder(
    folder: pathlib.Path, target: PreTrainedModel, target_folder: pathlib.Path, ids: Sequence[int] = IDS, hidden: bool = False,
    own: bool = False, layers: int | None = None, changes: dict[str, torch.Tensor | None] | None = None,
) -> pathlib.Path:  # fmt: skip
    """`target_folder` gets the target and a tokenizer if it is not there. `changes` to the tensors; None takes one out. All in float64."""
    if not target_folder.exists():
        target.save_pretrained(target_folder)
        byte_tokenizer().save_pretrained(target_folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = layers or config.num_hidden_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.save_pretrained(folder)
    weights = target.state_dict()
    dropped = tuple(f"model.layers.{i}." for i in range(config.num_hidden_layers, target.config.num_hidden_layers))
    tensors: dict[str, Any] = {name: each.clone() for name, each in weights.items() if not name.startswith(dropped)}
    tensors |= {HEAD_IDS: torch.tensor(ids, dtype=torch.int32), HEAD: tensors[HEAD][list(ids)].clone()}
    if hidden:
        tensors |= fuse_tensors(config.hidden_size)
    if not own:
        del tensors[EMBEDDINGS]
    tensors |= changes or {}
    save_file({name: each for name, each in tensors.items() if each is not None}, folder / WEIGHTS)
    DraftFolder(str(target_folder), vocabulary_digest(str(target_folder)), "own" if own else "target", hidden).write(folder)
    return folder


def fuse_tensors(hidden_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    near_one = torch.eye(hidden_size) + 0.05 * torch.randn(hidden_size, hidden_size, generator=generator)
    state = 0.05 * torch.randn(hidden_size, hidden_size, generator=generator)
    no_state = 0.1 * torch.randn(hidden_size, generator=generator)
    return {FUSE_EMBEDDING: near_one.double(), FUSE_STATE: state.double(), NO_STATE: no_state.double()}


def right_logits(
    target: PreTrainedModel, tokens: Sequence[int], ids: Sequence[int] = IDS, states: Sequence[torch.Tensor | None] | None = None
) -> torch.Tensor:
    """`[tokens, ids]`, of a draft of all the target's layers. With `states` that of a draft that reads them."""
    model, hooks = copy.deepcopy(target), []
    if states is not None:
        fuse = {name: each.to(target.dtype) for name, each in fuse_tensors(target.config.hidden_size).items()}
        embedding = model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(embedding.weight @ fuse[FUSE_EMBEDDING].T, requires_grad=False)
        added = torch.stack([fuse[NO_STATE] if s is None else fuse[FUSE_STATE] @ s.to(target.dtype) for s in states])
        hooks.append(model.model.layers[0].register_forward_pre_hook(lambda module, args: (args[0] + added, *args[1:])))
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits[:, list(ids)]
