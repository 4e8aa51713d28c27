"""What cannot be served exactly is refused at load time, with a reason."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from drafthouse.engine.self_check import reference_of, self_check
from drafthouse.errors import ModelError
from drafthouse.token_tree import TokenTree
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


def test_a_tree_whose_nodes_see_those_before_them_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenTree, "lines", lambda tree: [list(range(i + 1)) for i in range(len(tree))])
    with pytest.raises(ModelError, match="logits of packed steps with token trees differ"):
        loaded(tiny("llama"))


@pytest.mark.parametrize(("share", "refused"), [(1e-7, False), (1e-3, True)])
def test_a_logit_that_is_off_by_a_thousandth_of_the_spread_is_refused(share: float, refused: bool) -> None:
    served = loaded(tiny("llama"))
    right = reference_of(served.runner.model)

    def off(tokens: list[int]) -> torch.Tensor:
        logits = right(tokens).clone()
        logits[0] += share * logits.std()
        return logits

    if refused:
        with pytest.raises(ModelError, match="differ from the stock model's by 0.001 of their spread"):
            self_check(served.runner, off, served.context)
    else:
        assert self_check(served.runner, off, served.context) == pytest.approx(share, rel=0.1)
