"""A model runs one precision above its own and is afterwards as it was."""

import pytest
import torch

from drafthouse.engine.raised_precision import ABOVE, raised
from tests.engine.tiny_models import ATTENTION_MODELS, tiny

TOKENS = torch.arange(20)[None]


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return logits


@pytest.mark.parametrize("own", ABOVE, ids=str)
@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_logits_are_those_of_a_widened_copy(name: str, own: torch.dtype) -> None:
    above = ABOVE[own]
    model = tiny(name, dtype=own).requires_grad_(False)
    right = logits_of(tiny(name, dtype=own).to(above))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with raised(model) as dtype:
        got = logits_of(model)
    assert dtype == above == got.dtype
    assert torch.equal(got, right) or float((got - right).abs().max()) < 1e-3 * torch.finfo(own).eps
    assert {p.dtype for p in model.parameters()} == {own}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_only_one_layer_is_widened_at_a_time() -> None:
    model = tiny("llama", dtype=torch.bfloat16, layers=4).requires_grad_(False)
    wide: list[int] = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(
            lambda *_: wide.append(sum(each.mlp.up_proj.weight.dtype == torch.float32 for each in model.model.layers))
        )
    with raised(model):
        logits_of(model)
    assert wide == [1, 1, 1, 1]


def test_an_error_inside_a_layer_leaves_the_model_as_it_was() -> None:
    model = tiny("llama", dtype=torch.bfloat16).requires_grad_(False)

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    hook = model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no"), raised(model):
        logits_of(model)
    hook.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert logits_of(model).dtype == torch.bfloat16


def test_a_shared_weight_stays_one() -> None:
    model = tiny("llama", dtype=torch.bfloat16).requires_grad_(False)
    model.lm_head.weight = shared = model.model.embed_tokens.weight
    with raised(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight is shared


def test_float64_stays() -> None:
    with raised(tiny("llama")) as dtype:
        assert dtype == torch.float64
