"""Loads a distilled draft's folder (`drafthouse.checkpoints.draft_folder`) as a plain model of its family with a head of few rows.

Promises: the model holds its embeddings once: for one that reads hidden states those are `fuse.embedding` times the embeddings, so that
what is left to add for each token comes from `StateInputs` alone.
"""

import copy
import hashlib
import pathlib
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafthouse.checkpoints.draft_folder import (
    EMBEDDINGS,
    FUSE_EMBEDDING,
    FUSE_STATE,
    HEAD,
    HEAD_IDS,
    NO_STATE,
    WEIGHTS,
    DraftFolder,
    embeddings_place,
    target_folder,
)
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.attention import stock_models as attention
from drafthouse.engine.loaded_weights import check_weights
from drafthouse.engine.model_limits import read_config
from drafthouse.engine.state_inputs import StateInputs
from drafthouse.engine.vocabulary import tokenizer_text, vocabulary_digest
from drafthouse.errors import ConfigError, ModelError
from drafthouse.grammars.compiler import GrammarError
from drafthouse.policy.vocabularies import agree

AT_ONCE = 4096
"""Rows of the embeddings that are multiplied at a time: a float32 copy of all would be as large as the model."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """The plain model, the tokens of its head, ascending int64, and what it makes of hidden states, if it reads any."""

    model: PreTrainedModel
    head_ids: torch.Tensor
    state_inputs: StateInputs | None


def load_distilled(folder: pathlib.Path, record: DraftFolder, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Distilled:
    """Raises ConfigError without the target's folder where that is needed, and ModelError for a target of another vocabulary."""
    tensors = load_file(folder / WEIGHTS)
    if record.embeddings == "target":
        check_vocabulary(record, config)
        file, name = embeddings_place(target_folder(record, config.embeddings))
        with safe_open(file, framework="pt") as target:
            embeddings = target.get_tensor(name)
    else:
        embeddings = tensors.pop(EMBEDDINGS)
    wide = torch.promote_types(dtype, torch.float32)
    state_inputs = None
    if record.hidden:
        embeddings = _product(embeddings, tensors.pop(FUSE_EMBEDDING).to(wide), dtype)
        state_inputs = StateInputs(*(tensors.pop(name).to(device, wide) for name in (FUSE_STATE, NO_STATE)))
    head_ids = tensors.pop(HEAD_IDS).long().to(device)
    return Distilled(_plain(folder, tensors, embeddings.to(dtype), dtype).to(device), head_ids, state_inputs)


def check_vocabulary(record: DraftFolder, config: ModelConfig) -> None:
    """Raises ModelError where the folder that embeddings come from has another tokenizer than the draft was distilled with."""
    target = target_folder(record, config.embeddings)
    if not agree(record.vocabulary, vocabulary_digest(str(target), config.trust_remote_code)):
        raise ModelError(
            f"embeddings: {target} has another vocabulary than the model that this draft was distilled for ({record.target}); "
            "write `embeddings: FOLDER` in this section, the folder of that model"
        )


def targets_tokenizer(record: DraftFolder, config: ModelConfig) -> str:
    """As `tokenizer_text`."""
    try:
        return tokenizer_text(str(target_folder(record, config.embeddings)), config.trust_remote_code)
    except ConfigError as error:
        raise GrammarError(str(error)) from error


def embeddings_digest(record: DraftFolder, config: ModelConfig) -> str:
    """Of the target's embeddings; empty for a draft with its own."""
    if record.embeddings == "own":
        return ""
    file, name = embeddings_place(target_folder(record, config.embeddings))
    with safe_open(file, framework="pt") as target:
        return hashlib.sha256(target.get_tensor(name).contiguous().view(torch.uint8).numpy()).hexdigest()


def _product(embeddings: torch.Tensor, fuse: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`fuse e` for each row, in `dtype`."""
    product = torch.empty(embeddings.shape, dtype=dtype)
    for first in range(0, len(embeddings), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        product[some] = embeddings[some].to(fuse.dtype) @ fuse.T
    return product


def _plain(folder: pathlib.Path, tensors: dict[str, torch.Tensor], embeddings: torch.Tensor, dtype: torch.dtype) -> PreTrainedModel:
    """Built as if the vocabulary were the head's; then it gets its embeddings."""
    whole = read_config(str(folder))
    cut = copy.deepcopy(whole)
    cut.vocab_size, cut.pad_token_id, cut.tie_word_embeddings = len(tensors[HEAD]), None, False
    kind = AutoModelForCausalLM._model_mapping[type(cut)]
    model: PreTrainedModel
    model, loading = kind.from_pretrained(
        None, config=cut, state_dict=tensors | {EMBEDDINGS: torch.empty_like(tensors[HEAD])}, dtype=dtype,
        attn_implementation=attention.IMPLEMENTATION, output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    check_weights(loading)
    model.get_input_embeddings().weight = torch.nn.Parameter(embeddings, requires_grad=False)
    model.config.vocab_size = whole.vocab_size
    return model
