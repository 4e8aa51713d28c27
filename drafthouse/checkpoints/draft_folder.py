"""The folder of a draft that `drafthouse distill` made: a plain model folder with few layers, and `draft.json`, which marks it.

Promises: imports no torch. What is wrong with `draft.json` is a ModelError that names the field.

`config.json` is a plain configuration of the target's family with few layers, the target's hidden size and whole vocabulary.
`model.safetensors` (bfloat16) holds `model.layers.*`, `model.norm.weight`, `lm_head.weight` `[N, H]` and `head_ids` int32 `[N]`,
ascending: the tokens that the head's rows stand for. With embeddings of its own also `model.embed_tokens.weight`; otherwise they are
the target's.

A draft that reads hidden states has three more. Position `i` takes `fuse.embedding.weight E[token_i]`, scaled as its family scales
embeddings, plus `fuse.state.weight s`, which is not scaled: `s` is the state, after the final norm, that chose token `i`: the
target's for committed tokens, for drafted ones the draft's own at the parent. Where there is none it takes `fuse.no_state`, in
place of `fuse.state.weight s`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from drafthouse.checkpoints.hub_models import cached_folder
from drafthouse.checkpoints.model_path import model_path
from drafthouse.checkpoints.weight_files import read_json, tensor_place, tensor_shapes
from drafthouse.errors import ConfigError, ModelError

RECORD = "draft.json"

WEIGHTS = "model.safetensors"

FORMAT = 1

TARGET_EMBEDDINGS = "embed_tokens.weight"
"""The end of their name in a target of a dense family."""

HEAD_IDS, HEAD, EMBEDDINGS = "head_ids", "lm_head.weight", "model.embed_tokens.weight"

FUSE_EMBEDDING, FUSE_STATE, NO_STATE = "fuse.embedding.weight", "fuse.state.weight", "fuse.no_state"
"""`[H, H]`, `[H, H]`, `[H]`: tensors that a draft has exactly if it is `hidden`."""


@dataclass(frozen=True, slots=True)
class DraftFolder:
    """`draft.json`. `target` is the path as it was given to `distill`, `vocabulary` the digest of its tokenizer (empty: it had none),
    `embeddings` whose they are, `hidden` whether the draft reads hidden states, `trained` free facts about how it was made."""

    target: str
    vocabulary: str
    embeddings: Literal["target", "own"]
    hidden: bool
    trained: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @staticmethod
    def read(folder: pathlib.Path) -> "DraftFolder | None":
        """None where the folder is no draft's. Raises ModelError, naming file and field."""
        if not is_draft(folder):
            return None
        found = read_json(folder / RECORD)
        if found.get("format") != FORMAT:
            raise ModelError(f"{RECORD}: format is {found.get('format')!r}, and this version reads {FORMAT}; distill the draft again")
        for name, (right, form) in FORMS.items():
            if name not in found:
                raise ModelError(f"{RECORD}: {name} is missing; it must be {form}")
            if not right(found[name]):
                raise ModelError(f"{RECORD}: {name} is {found[name]!r}; it must be {form}")
        if unknown := sorted(found.keys() - FORMS.keys() - {"format"}):
            raise ModelError(f"{RECORD}: {unknown[0]} is no field of it; there are format, {', '.join(FORMS)}")
        return DraftFolder(**found)

    def write(self, folder: pathlib.Path) -> None:
        (folder / RECORD).write_text(json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "target": (lambda value: isinstance(value, str) and value != "", "the path of the model that it was distilled for"),
    "vocabulary": (lambda value: isinstance(value, str), "the digest of the target's tokenizer, a string"),
    "embeddings": (lambda value: value in ("target", "own"), '"target" or "own"'),
    "hidden": (lambda value: isinstance(value, bool), "true or false"),
    "trained": (lambda value: isinstance(value, dict), "an object"),
}
"""What each field must be, and how an error says it."""


def is_draft(folder: pathlib.Path) -> bool:
    return (folder / RECORD).exists()


def head_rows(folder: pathlib.Path) -> int | None:
    """Tokens that a draft's head knows; None for a folder of another kind. Raises ModelError."""
    if not is_draft(folder):
        return None
    [rows] = tensor_shapes(folder / WEIGHTS)[HEAD_IDS]
    return rows


def target_folder(record: DraftFolder, embeddings: str | None) -> pathlib.Path:
    """The folder of the model that the draft was distilled for: `embeddings` if it is given. Raises ConfigError, saying what to write."""
    path = embeddings or record.target
    try:
        folder = pathlib.Path(model_path(path))
        found = folder if folder.is_dir() else cached_folder(str(folder))
        reason = f"{path}: not in the hub's local cache"
    except (ConfigError, ModelError) as error:
        found, reason = None, str(error)
    if found is None:
        asked = "" if embeddings else f"this draft was distilled for {record.target}, and takes embeddings and tokenizer from it: "
        raise ConfigError(f"embeddings: {asked}{reason}; write `embeddings: FOLDER` in this section, the folder of that model")
    return found


def embeddings_place(folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """The file in a target's folder that holds its embeddings, and their name. Raises ConfigError."""
    place = tensor_place(folder, TARGET_EMBEDDINGS)
    if place is None:
        raise ConfigError(
            f"embeddings: {folder} has not exactly one tensor *{TARGET_EMBEDDINGS} in safetensors files; give the folder of the model that "
            "the draft was distilled for, as `save_pretrained` writes it"
        )
    return place
