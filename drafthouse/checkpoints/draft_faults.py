"""What keeps a distilled draft's folder from being loaded, found in `draft.json`, in headers and in the list of its head's tokens.

Promises: imports neither torch nor transformers, and reads no weights. Each fault names the file, the field or the tensor.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from safetensors import safe_open

from drafthouse.checkpoints.draft_folder import (
    EMBEDDINGS,
    FUSE_EMBEDDING,
    FUSE_STATE,
    HEAD,
    HEAD_IDS,
    NO_STATE,
    RECORD,
    WEIGHTS,
    DraftFolder,
    embeddings_place,
    target_folder,
)
from drafthouse.checkpoints.weight_files import tensor_shapes
from drafthouse.config.serving import ModelConfig
from drafthouse.errors import ConfigError, ModelError


def draft_faults(folder: pathlib.Path, config: Mapping[str, Any], model: ModelConfig) -> Iterator[str]:
    """`config` is the folder's config.json."""
    try:
        record = DraftFolder.read(folder)
        assert record is not None
        if model.parallel > 1:
            yield f"parallel: {model.parallel}, and a distilled draft ({RECORD}) runs in one process"
        shapes = tensor_shapes(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
        yield from _tensor_faults(folder / WEIGHTS, shapes, config, record)
        if record.embeddings == "target":
            yield from _embedding_faults(target_folder(record, model.embeddings), config)
    except (ConfigError, ModelError) as error:
        yield str(error)


def _tensor_faults(file: pathlib.Path, shapes: Mapping[str, list[int]], config: Mapping[str, Any], record: DraftFolder) -> Iterator[str]:
    hidden, vocab, rows = config.get("hidden_size"), config.get("vocab_size"), *shapes.get(HEAD_IDS, [0])[:1]
    asked: dict[str, list[Any]] = {HEAD_IDS: [rows], HEAD: [rows, hidden]}
    asked |= {EMBEDDINGS: [vocab, hidden]} if record.embeddings == "own" else {}
    asked |= {FUSE_EMBEDDING: [hidden, hidden], FUSE_STATE: [hidden, hidden], NO_STATE: [hidden]} if record.hidden else {}
    for name, shape in asked.items():
        if name not in shapes:
            yield f"{file.name}: {name} is missing, which a draft of this {RECORD} has; distill it again"
        elif shapes[name] != shape:
            yield (
                f"{file.name}: {name} has shape {shapes[name]}, and it must have {shape} (config.json: hidden_size {hidden}, "
                f"vocab_size {vocab}); all files must be of one draft"
            )
    if rows and isinstance(vocab, int):
        yield from _head_faults(file, vocab)


def _head_faults(file: pathlib.Path, vocab: int) -> Iterator[str]:
    with safe_open(file, framework="numpy") as tensors:
        ids = tensors.get_tensor(HEAD_IDS)
    if ids.dtype.kind != "i" or ids.ndim != 1:
        yield f"{file.name}: {HEAD_IDS} are {ids.dtype} of shape {list(ids.shape)}, not one list of integers"
    elif (ids[1:] <= ids[:-1]).any():
        yield f"{file.name}: {HEAD_IDS} must rise, each token once"
    elif ids[0] < 0 or ids[-1] >= vocab:
        yield f"{file.name}: {HEAD_IDS} go from {ids[0]} to {ids[-1]}, and tokens lie between 0 and {vocab - 1} (config.json: vocab_size)"


def _embedding_faults(target: pathlib.Path, config: Mapping[str, Any]) -> Iterator[str]:
    file, name = embeddings_place(target)
    found, asked = tensor_shapes(file)[name], [config.get("vocab_size"), config.get("hidden_size")]
    if found != asked:
        yield (
            f"embeddings: those of {target} have shape {found}, and the draft's config.json asks for {asked} (vocab_size, hidden_size): "
            "it was distilled for another model"
        )
