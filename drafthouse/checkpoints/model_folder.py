"""What keeps a model from being loaded, found in its files' names and headers before anything heavy starts.

Promises: takes well under a second, imports neither torch nor transformers for a sound folder, and runs no code of the model's. (A GGUF
file is converted first, where it has not been yet.)
All faults of a folder are found together; each begins with the model's path, names the file and says what to do.
"""

import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from drafthouse.checkpoints.draft_faults import draft_faults
from drafthouse.checkpoints.draft_folder import RECORD, is_draft
from drafthouse.checkpoints.hub_models import cached_folder, hub_fault, is_offline
from drafthouse.checkpoints.model_path import model_path
from drafthouse.checkpoints.weight_files import listing, read_json, weight_faults
from drafthouse.config.serving import ModelConfig
from drafthouse.errors import ConfigError, ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""One of them is enough: transformers makes the first from the others."""

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings",
)  # fmt: skip

QUANTISED_PACKAGES = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("accelerate", "gptqmodel"),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "hqq": ("hqq",),
}
"""Modules that transformers needs for the commonest kinds of quantised weights."""

WIDENED = {"fp8", "mxfp4"}
"""Quantised weights that transformers turns into bfloat16 where there is no GPU."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder, its config.json, how the model is to be run, whether its tokenizer is needed, and whether it is to be a target."""

    folder: pathlib.Path
    config: dict[str, Any]
    model: ModelConfig
    tokenizer: bool
    target: bool


def check_model(model: ModelConfig, tokenizer: bool = False, target: bool = False) -> None:
    """Raises ConfigError with a line for each fault of `model_faults`."""
    if faults := model_faults(model, tokenizer, target):
        raise ConfigError("\n".join(faults))


def model_faults(model: ModelConfig, tokenizer: bool = False, target: bool = False) -> list[str]:
    """What keeps this model from being loaded. `tokenizer`: it is needed, too; `target`: it is to verify, which no distilled draft can."""
    try:
        path = model_path(model.path)
    except (ConfigError, ModelError) as error:
        return [str(error)]
    folder = pathlib.Path(path)
    faults = _folder_faults(folder, model, tokenizer, target, CHECKS) if folder.exists() else _hub_faults(path, model, tokenizer, target)
    return [f"{model.path}: {fault}" for fault in faults]


def _hub_faults(hub_id: str, model: ModelConfig, tokenizer: bool, target: bool) -> list[str]:
    folder = cached_folder(hub_id)
    # Files that the cache lacks are fetched, unless the hub is not to be asked.
    checks = CHECKS if is_offline() else CONTENT_CHECKS
    found = _folder_faults(folder, model, tokenizer, target, checks) if folder is not None else []
    fault = hub_fault(hub_id, cached=folder is not None)
    return [*found, *([fault] if fault is not None else [])]


Check = Callable[[ModelFolder], Iterator[str]]


def _folder_faults(folder: pathlib.Path, model: ModelConfig, tokenizer: bool, target: bool, checks: tuple[Check, ...]) -> list[str]:
    if not folder.is_dir():
        return ["a file; a model is a folder with config.json, model.safetensors and tokenizer.json"]
    if (folder / "adapter_config.json").exists():
        return [_adapter(folder)]
    if not (folder / "config.json").exists():
        return [_no_config(folder)]
    try:
        config = read_json(folder / "config.json")
    except ModelError as error:
        return [str(error)]
    found = ModelFolder(folder, config, model, tokenizer, target)
    return [fault for check in checks for fault in check(found)]


def _adapter(folder: pathlib.Path) -> str:
    try:
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    except ModelError:
        base = None
    return (
        f"adapter_config.json: a LoRA adapter, not a model; give its base{f' ({base})' if base else ''}, "
        "or merge both (peft: `model.merge_and_unload().save_pretrained(FOLDER)`) and give the result"
    )


def _no_config(folder: pathlib.Path) -> str:
    inside = sorted(file.parent for pattern in ("*/config.json", "snapshots/*/config.json") for file in folder.glob(pattern))
    hint = f"; did you mean {inside[0]}?" if inside else ""
    return f"no config.json here, so it is no model folder ({listing(folder)}){hint}"


def _kind(found: ModelFolder) -> Iterator[str]:
    """A decoder-only model of a type that transformers knows, or code that may run."""
    kind, code = found.config.get("model_type"), found.config.get("auto_map")
    if found.config.get("is_encoder_decoder") is True:
        yield f"config.json: {kind} is an encoder-decoder model; only decoder-only language models are served"
    if isinstance(kind, str) and _knows(kind):
        return
    if code and not found.model.trust_remote_code:
        yield (
            f"config.json: auto_map: transformers does not know model_type {kind}, and the model brings Python code for it; "
            "trust_remote_code: true in this section runs that code, which may do anything: read it first"
        )
    elif not code:
        version = importlib.metadata.version("transformers")
        yield f"config.json: model_type is {kind!r}, which transformers {version} does not know; a later version may"


def _knows(kind: str) -> bool:
    """Whether transformers itself has this model type. Its package is imported (a second) only for a type without a folder of that name."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    if (pathlib.Path(spec.submodule_search_locations[0]) / "models" / kind.replace("-", "_") / "__init__.py").exists():
        return True
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def _draft(found: ModelFolder) -> Iterator[str]:
    """A distilled draft is whole, is none where a target is asked for, and alone takes embeddings from elsewhere."""
    if not is_draft(found.folder):
        if found.model.embeddings is not None:
            yield f"embeddings: only a distilled draft, which has a {RECORD}, takes those of another model; leave it out"
    elif found.target:
        yield f"a draft, not a target ({RECORD}): it drafts for another model, and alone writes no text; give that model here"
    else:
        yield from draft_faults(found.folder, found.config, found.model)


def _sizes(found: ModelFolder) -> Iterator[str]:
    """Sizes are whole numbers, where they are one for all layers."""
    inner = found.config.get("text_config")
    for prefix, part in (("", found.config), ("text_config.", inner if isinstance(inner, dict) else {})):
        for field in SIZES:
            value = part.get(field)
            if not isinstance(value, list | dict | None) and (type(value) is not int or value < 1):
                yield f"config.json: {prefix}{field} is {value!r}, not a whole number above 0"


def _quantised(found: ModelFolder) -> Iterator[str]:
    text = found.config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    quantised = found.config.get("quantization_config") or nested
    if not isinstance(quantised, dict):
        return
    method = str(quantised.get("quant_method", "an unnamed method"))
    where = f"config.json: quantization_config: weights quantised with {method}"
    if found.model.device != "cuda":
        if method not in WIDENED:
            yield f"{where} need device: cuda, and this section has {found.model.device}; give the model it was made from, unquantised"
    elif missing := [name for name in QUANTISED_PACKAGES.get(method, ()) if importlib.util.find_spec(name) is None]:
        yield f"{where} need what is not installed here: pip install {' '.join(missing)}"


def _weights(found: ModelFolder) -> Iterator[str]:
    if "transformers_weights" not in found.config:  # names a file of its own
        yield from weight_faults(found.folder)


def _tokenizer(found: ModelFolder) -> Iterator[str]:
    if not found.tokenizer or is_draft(found.folder):  # a distilled draft has its target's
        return
    file = found.folder / TOKENIZER_FILES[0]
    if file.exists():
        yield from _unreadable(file)
    elif not any((found.folder / name).exists() for name in TOKENIZER_FILES):
        yield f"no tokenizer here ({TOKENIZER_FILES[0]}); copy the tokenizer files of the model that these weights come from"


def _unreadable(file: pathlib.Path) -> Iterator[str]:
    from tokenizers import Tokenizer

    try:
        read_json(file)
        Tokenizer.from_file(str(file))
    except ModelError as error:
        yield str(error)
    except Exception as error:  # fault boundary: tokenizers raises the bare class
        yield f"{file.name}: no tokenizer that this version of tokenizers reads: {error}"


CONTENT_CHECKS: tuple[Check, ...] = (_kind, _sizes, _quantised)
"""Of what is there."""

CHECKS: tuple[Check, ...] = (*CONTENT_CHECKS, _weights, _draft, _tokenizer)
