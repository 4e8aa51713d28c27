"""One reader of a model's sizes: families that name or leave out their fields differently, and faults named by file and field."""

import json
import pathlib
from typing import Any

import pytest

from deployments.gateway.model_metadata import load_metadata
from drafter.without_model import without_model
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.model_limits import FALLBACK_CONTEXT_TOKENS, ModelLimits, limits_of, read_config, read_limits
from drafthouse.errors import ConfigError, ModelError

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 512,
}  # fmt: skip
GEMMA3_TEXT = LLAMA | {"model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 32}

FAMILIES: dict[str, tuple[dict[str, Any], ModelLimits]] = {
    "heads-of-the-hidden-size": (LLAMA, ModelLimits(512, 100, 3, 4, 4, 16, 64)),
    "grouped-heads": (LLAMA | {"num_key_value_heads": 2, "head_dim": 24}, ModelLimits(512, 100, 3, 4, 2, 24, 64)),
    "qwen3": (LLAMA | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32}, ModelLimits(512, 100, 3, 4, 2, 32, 64)),
    "phi3": (LLAMA | {"model_type": "phi3", "vocab_size": 40000}, ModelLimits(512, 40000, 3, 4, 4, 16, 64)),
    "text-part-of-several": ({"model_type": "gemma3", "text_config": GEMMA3_TEXT}, ModelLimits(512, 100, 3, 4, 1, 32, 64)),
    "gpt2-names": (
        {"model_type": "gpt2", "vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 128},
        ModelLimits(128, 99, 2, 3, 3, 16, 48),
    ),
    "mpt-names": (
        {"model_type": "mpt", "vocab_size": 99, "d_model": 48, "n_layers": 2, "n_heads": 3, "max_seq_len": 640},
        ModelLimits(640, 99, 2, 3, 3, 16, 48),
    ),
    "no-context-length": (
        {"model_type": "bloom", "vocab_size": 99, "hidden_size": 48, "n_layer": 2, "n_head": 3},
        ModelLimits(FALLBACK_CONTEXT_TOKENS, 99, 2, 3, 3, 16, 48),
    ),
    "recurrent": (
        {"model_type": "mamba", "vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2},
        ModelLimits(FALLBACK_CONTEXT_TOKENS, 99, 2, 0, 0, 0, 48),
    ),
}


def _folder(folder: pathlib.Path, config: str | dict[str, Any]) -> str:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_limits_of_a_family(tmp_path: pathlib.Path, family: str) -> None:
    config, limits = FAMILIES[family]
    assert read_limits(_folder(tmp_path, config)) == limits


@pytest.mark.parametrize("family", FAMILIES)
def test_gateway_and_drafter_read_the_same_limits_as_the_verifier(tmp_path: pathlib.Path, family: str) -> None:
    path = _folder(tmp_path, FAMILIES[family][0])
    verifier = limits_of(read_config(path))
    gateway = load_metadata(ModelConfig(path=path, kv_tokens=100_000), None)
    assert (gateway.context_tokens, gateway.vocab_size) == (verifier.context_tokens, verifier.vocab_size)
    drafter = without_model(ModelConfig(path=path), ())
    assert (drafter.context, drafter.vocab_size) == (verifier.context_tokens, verifier.vocab_size)


def test_a_request_must_also_fit_into_the_kv_slots(tmp_path: pathlib.Path) -> None:
    assert load_metadata(ModelConfig(path=_folder(tmp_path, LLAMA), kv_tokens=100), None).context_tokens == 100


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (LLAMA | {"vocab_size": "many"}, "vocab_size"),
        (LLAMA | {"vocab_size": 0}, "vocab_size is 0, not a whole number above 0"),
        (LLAMA | {"num_hidden_layers": None}, "num_hidden_layers"),
        (LLAMA | {"max_position_embeddings": -1}, "max_position_embeddings is -1, not a whole number above 0"),
        (LLAMA | {"hidden_size": 65}, r"hidden size \(65\) is not a multiple"),
        (LLAMA | {"model_type": "never-heard-of"}, "model type `never-heard-of`"),
        ("{", "not a valid JSON"),
        ("null", "NoneType"),
    ],
)
def test_a_fault_names_the_file_and_the_field(tmp_path: pathlib.Path, config: str | dict[str, Any], field: str) -> None:
    path = _folder(tmp_path, config)
    with pytest.raises(ModelError, match=rf"^{path}: config\.json: .*{field}"):
        read_limits(path)
    with pytest.raises(ModelError, match=rf"^target\.path: {path}: config\.json: .*{field}"):
        without_model(ModelConfig(path=path), ())
    with pytest.raises(ModelError, match=rf"^{path}: config\.json: .*{field}"):
        load_metadata(ModelConfig(path=path), None)


def test_a_missing_folder_is_the_configs_fault() -> None:
    with pytest.raises(ConfigError, match="/nowhere/model"):
        read_limits("/nowhere/model")
