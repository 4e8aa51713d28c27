"""What does not fit is said before weights are read, with the field and the arithmetic."""

import json
import pathlib

import pytest
from safetensors.torch import save_file
from transformers import LlamaConfig, MixtralConfig

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.fit import check_heads, memory_need
from drafthouse.engine.loader import check_fit
from drafthouse.engine.model_limits import limits_of
from drafthouse.errors import ConfigError

SMALL = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, head_dim=8,
    tie_word_embeddings=False,
)  # fmt: skip


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_sizes_that_divide_attention_and_kv_heads_pass(parallel: int) -> None:
    check_heads(limits_of(SMALL), parallel)


@pytest.mark.parametrize("parallel", [3, 8])
def test_a_size_that_does_not_divide_the_heads_is_refused(parallel: int) -> None:
    with pytest.raises(ConfigError, match=f"^parallel: {parallel} does not divide 8 attention heads and 4 KV heads; it can be 1, 2, 4$"):
        check_heads(limits_of(SMALL), parallel)


def test_memory_of_a_rank() -> None:
    attention, mlp, norms = 64 * 64 + 2 * 64 * 32 + 64 * 64, 3 * 64 * 96, 2 * 64
    linears = 3 * (attention + mlp) + 64 * 1000
    embedding, whole_norms = 1000 * 64, 3 * norms + 64
    one = memory_need(ModelConfig(path="x", kv_tokens=100), SMALL)
    assert (one.weights, one.packed) == (4 * (embedding + linears + whole_norms), 0)
    assert one.kv == 4 * 100 * 3 * 2 * 4 * 8
    tied = LlamaConfig.from_dict(SMALL.to_dict() | {"tie_word_embeddings": True})
    assert memory_need(ModelConfig(path="x", kv_tokens=100), tied).weights == one.weights - 4 * embedding, "a tied head is held once"
    int8 = memory_need(ModelConfig(path="x", kv_tokens=100, dtype="int8"), SMALL)
    assert (int8.weights, int8.packed, int8.kv) == (4 * whole_norms, (linears + embedding) * 34 // 32, one.kv // 2)
    two = memory_need(ModelConfig(path="x", kv_tokens=100, dtype="bfloat16", parallel=2), SMALL)
    assert two.weights == 2 * ((linears + embedding) // 2 + whole_norms)
    assert two.kv == 2 * 100 * 3 * 2 * 2 * 8
    assert two.packed == 0


def test_memory_of_what_the_native_decoder_does_not_run() -> None:
    """transformers' modules: a tied head is packed, and the embedding beside it is read by rows."""
    experts = MixtralConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=4,
        head_dim=8, num_local_experts=2, tie_word_embeddings=True,
    )  # fmt: skip
    found = memory_need(ModelConfig(path="x", kv_tokens=100), experts)
    attention, head = 64 * 64 + 2 * 64 * 32 + 64 * 64, 1000 * 64
    assert found.packed == 4 * (attention + head)
    assert found.weights >= 4 * (head + 2 * 3 * 64 * 96)


def test_too_little_memory_is_refused_with_the_arithmetic(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError) as refused:
        check_fit(ModelConfig(path=str(tmp_path), dtype="float64", kv_tokens=10**12, parallel=2))
    text = str(refused.value)
    assert text.startswith(f"{tmp_path}: kv_tokens, parallel: not enough memory: weights 0.00")
    assert "KV cache 7.68e+05 GB (1000000000000 kv_tokens of 0.768 kB) = 7.68e+05 GB for each of 2 ranks, 1.54e+06 GB together" in text
    assert text.endswith("GB free; lower kv_tokens, or split the model over more devices")
