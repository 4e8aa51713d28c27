"""int8 in the native decoder: what its numbers are, how far they err, and that every instruction set gives the same bits."""

import pathlib

import pytest
import torch
from transformers import PreTrainedModel

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import prepare
from drafthouse.engine.native import decoder as native_decoder
from drafthouse.engine.native.int8 import in_int8, rounded_row, rounded_weight, rounding
from drafthouse.engine.native.library import LEVELS, build, instruction_set, opened
from drafthouse.engine.segment import chunk
from drafthouse.errors import ModelError
from tests.engine.test_native_decoder import FAMILIES, TOKENS, Decoder, packed, tree
from tests.engine.tiny_models import tiny


def stock(model: PreTrainedModel) -> torch.Tensor:
    """Logits of the root and of the tree's nodes, in float64."""
    paths = [[], *(tree().path(node) for node in range(len(tree())))]
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([TOKENS + path]), use_cache=False).logits[0, -1] for path in paths]
    return torch.stack(rows).double()


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_err_no_more_than_the_stock_models_with_the_same_rounding(name: str) -> None:
    model = tiny(name)
    right = stock(model)
    with rounding(model):
        theirs = (stock(model) - right).abs().max() / right.std()
    ours = (packed(Decoder(model.float(), int8=True), (17,)).double() - right).abs().max() / right.std()
    assert ours <= 2.0 * theirs, f"ours {ours:.2e}, the stock model's {theirs:.2e}"


def test_rounding_leaves_the_model_as_it_was() -> None:
    model = tiny("llama")
    before, weights = stock(model), dict(model.named_parameters())
    with rounding(model):
        assert not torch.equal(stock(model), before)
    assert torch.equal(stock(model), before)
    assert all(parameter is weights[name] for name, parameter in model.named_parameters())


def test_the_output_layers_sums_are_those_of_the_definition() -> None:
    """A model whose last norm gives known numbers: its layers add nothing, and its embedding's numbers have one magnitude."""
    model = tiny("llama").float()
    generator = torch.Generator().manual_seed(2)
    magnitude = 127.0 / 128.0  # in int8 exactly itself
    signs = torch.randint(0, 2, model.model.embed_tokens.weight.shape, generator=generator) * 2 - 1
    model.model.embed_tokens.weight.data = signs * magnitude
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    model.config.rms_norm_eps = 0.0
    decoder = Decoder(model, int8=True)
    found = decoder.run(chunk(KvSequence(decoder.cache), TOKENS, 0, True))[-1]
    scale = torch.tensor(1.0) / torch.tensor(magnitude)
    row = model.model.embed_tokens.weight[TOKENS[-1]].detach() * scale * model.model.norm.weight.detach()
    assert torch.equal(found, multiplied(row, model.lm_head.weight.detach()))


def multiplied(row: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Group by group: the exact sum of products, times both scales, onto what is there, rounded once."""
    numbers, scales = rounded_row(row)
    weights, weight_scales = rounded_weight(weight)
    total = torch.zeros(weight.shape[0])
    for group in range(len(scales)):
        dot = weights[:, group].double() @ numbers[group].double()
        both = scales[group] * weight_scales[:, group].float()
        total = (total.double() + dot * both.double()).float()
    return total


def test_instruction_sets_give_the_same_bits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that this machine has and that multiply and add in one rounding."""
    names = [level for level, _ in LEVELS]
    here = instruction_set()
    if here not in names:
        pytest.skip(f"{here} has no vectors of its own")
    right = packed(Decoder(tiny("qwen3").float(), int8=True), (17,))
    for level in names[names.index(here) + 1 :]:
        build(tmp_path / f"{level}.so", level)
        library = opened(tmp_path / f"{level}.so")
        monkeypatch.setattr(native_decoder, "load_library", lambda library=library: library)
        assert torch.equal(packed(Decoder(tiny("qwen3").float(), int8=True), (17,)), right), level


@pytest.mark.parametrize("outlier", [0.0, 1e-35, 1.0, 1e4])
def test_numbers_lie_within_half_a_step(outlier: float) -> None:
    """Of the group's own scale: an outlier spoils no other group."""
    x = torch.randn(5, 80, generator=torch.Generator().manual_seed(3))
    x[:, 40] = outlier
    x[2, :32] = 0.0
    for numbers, scales in (rounded_row(x), rounded_weight(x)):
        assert numbers.abs().max() <= 127
        error = (in_int8(numbers, scales, 80) - x).abs()
        assert bool((error <= 0.5001 * scales.float().repeat_interleave(32, -1)[:, :80] + 1e-30).all())
    assert rounded_row(x)[1][0, 0] < 0.05


def test_a_number_that_is_none_is_not_rounded_away() -> None:
    model = tiny("llama").float()
    model.model.embed_tokens.weight.data[:, 3] = float("nan")
    decoder = Decoder(model, int8=True)
    assert not bool(decoder.run(chunk(KvSequence(decoder.cache), TOKENS, 0, True)).isfinite().any())


def int8_config() -> ModelConfig:
    return ModelConfig(path="in memory", dtype="int8", kv_tokens=256)


def test_a_model_in_int8_passes_the_self_check_and_holds_a_byte_for_each_weight() -> None:
    model = tiny("qwen3", dtype=torch.bfloat16)
    loaded = prepare(model, int8_config(), "test")
    assert loaded.runner.cache.data.dtype == torch.bfloat16
    assert loaded.errors is not None
    assert 0.0 < loaded.errors.packed.typical <= 2.0 * loaded.errors.stock.typical
    assert loaded.runner.forward.weight_bytes < 2.5 * sum(p.numel() for p in model.parameters())  # panels of 64 columns, angles
    loaded.runner.close()


def test_a_decoder_that_errs_clearly_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights rounded to six bits."""

    def coarse(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        numbers, scales = rounded_weight(weight)
        return (numbers / 4.0).round() * 4.0, scales

    monkeypatch.setattr("drafthouse.engine.native.packing.rounded_weight", coarse)
    with pytest.raises(ModelError, match=r"self-check: in int8 logits of packed steps err by .* where the stock model's err by"):
        prepare(tiny("qwen3").float(), int8_config(), "test")


@pytest.mark.parametrize("name", ["mixtral", "gpt_neox"])
def test_what_does_not_run_natively_cannot_have_it(name: str) -> None:
    with pytest.raises(ModelError, match="dtype: int8 runs on the native decoder alone .*docs/models.md.*take float32 or bfloat16"):
        prepare(tiny(name).float(), int8_config(), "test")
