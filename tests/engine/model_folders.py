"""Model folders as users bring them: tiny random models of real families with a tokenizer, and what goes wrong with a folder.

Promises: `save` writes what transformers' `save_pretrained` writes; `OWN_CODE` computes what Llama does, in classes of the folder's own.
"""

import json
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.engine.tiny_models import VOCAB_SIZE, tiny

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "smollm3", "granite", "olmo2", "phi3", "gemma2", "gemma3")
"""Those that the design names."""

OWN_CONFIG = """
import pathlib
from transformers import LlamaConfig
pathlib.Path(__file__).with_name("has_run").touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
"""
OWN_MODEL = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


def save(family: str, folder: pathlib.Path, dtype: torch.dtype = torch.float64, **options: Any) -> pathlib.Path:
    """The tiny model of the family and a tokenizer of one token for each byte; `options` are `save_pretrained`'s."""
    tiny(family, dtype=dtype).save_pretrained(folder, **options)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer(swapped: int | None = None) -> PreTrainedTokenizerFast:
    """Tokens are bytes, in the order of their characters; id `swapped` and the next one change places."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(alphabet) == VOCAB_SIZE
    if swapped is not None:
        alphabet[swapped : swapped + 2] = alphabet[swapped : swapped + 2][::-1]
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def change_config(folder: pathlib.Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def bring_code(folder: pathlib.Path) -> None:
    """Makes a Llama folder one whose architecture only its own code knows."""
    change_config(folder, model_type="own", architectures=["OwnModel"], auto_map=AUTO_MAP)
    (folder / "configuration_own.py").write_text(OWN_CONFIG, encoding="utf-8")
    (folder / "modeling_own.py").write_text(OWN_MODEL, encoding="utf-8")


def cut_short(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_tensor(folder: pathlib.Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
