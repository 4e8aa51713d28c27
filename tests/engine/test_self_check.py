"""What cannot be served exactly is refused at load time, with a reason."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from drafthouse.errors import ModelError
from tests.engine.pairs import loaded
from tests.engine.tiny_models import ATTENTION_MODELS, tiny


@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_attention_models_pass(name: str) -> None:
    assert loaded(tiny(name)).context == 512


def test_recurrent_models_are_refused() -> None:
    with pytest.raises(ModelError, match="self-check"):
        loaded(tiny("mamba"))


def test_rotary_scaling_that_looks_at_the_longest_position_is_refused() -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, rope_parameters=rope, initializer_range=0.3,
    )  # fmt: skip
    with pytest.raises(ModelError, match="self-check"):
        loaded(LlamaForCausalLM(config).double().eval())
