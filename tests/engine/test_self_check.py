"""What cannot be served exactly is refused at load time, with a reason; what only rounds as the stock model does is served."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from drafthouse.engine.attention import stock_models as attention
from drafthouse.engine.fit import kv_shape
from drafthouse.engine.forward import StockForward
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.engine.self_check import RowErrors, SelfCheck, Verdict
from drafthouse.engine.tree_rows import TreeRows
from drafthouse.errors import ModelError
from tests.engine.pairs import loaded
from tests.engine.tiny_models import ATTENTION_MODELS, tiny

SHAPE = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


class Distorting(ModelRunner):
    """Changes logits as a kernel with a fault would."""

    def __init__(self, model: PreTrainedModel, cache: KvCache, distort: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__(StockForward(model), cache)
        self.distort = distort

    def run(self, segments: list[Segment]) -> RunResult:
        result = super().run(segments)
        return RunResult(self.distort(result.logits.clone()), result.seconds)


def runner_of(model: PreTrainedModel, distort: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits) -> ModelRunner:
    attention.register()
    model.set_attn_implementation(attention.IMPLEMENTATION)
    shape = kv_shape(model, 1)
    return Distorting(model, KvCache(shape.layers, shape.kv_heads, shape.head_dim, 128, model.dtype, model.device), distort)


def check(model: PreTrainedModel, distort: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits, context: int = 512) -> Verdict:
    """Only what is served is distorted."""
    runner, found = runner_of(model, distort), SelfCheck(model, context)
    found.learn()
    found.check_logic(kv_shape(model, 1))
    return found.judge(runner)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_attention_models_pass(name: str, dtype: torch.dtype) -> None:
    """In bfloat16 some err by as much as 0.4 of their spread: that is the dtype's doing."""
    served = loaded(tiny(name, dtype=dtype))
    assert served.context == 512
    assert served.errors is not None
    assert 0.0 <= served.errors.packed.worst <= 4.0 * max(served.errors.stock.worst, 1e-5)


def test_recurrent_models_are_refused() -> None:
    with pytest.raises(ModelError, match="self-check"):
        loaded(tiny("mamba"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_rotary_scaling_that_looks_at_the_longest_position_is_refused(kind: str, dtype: torch.dtype) -> None:
    """In bfloat16 the difference drowns in rounding; the precision above shows it."""
    model: PreTrainedModel
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LONGROPE))
    else:
        model = Phi3ForCausalLM(Phi3Config(**SHAPE, rope_parameters=LONGROPE, original_max_position_embeddings=64))
    with pytest.raises(ModelError, match="differ from the stock model's"):
        loaded(model.to(dtype).eval())


def test_dynamic_rotary_scaling_is_served_up_to_where_it_begins_to_scale() -> None:
    """Within the context of its configuration all positions have the frequencies of the start; a longer one is refused."""
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=DYNAMIC)).double().eval()
    assert loaded(model).context == 512
    assert check(model, context=512).packed.worst < 1e-5
    with pytest.raises(ModelError, match="differ from the stock model's"):
        check(model, context=513)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "said"),
    [("mixtral", "logits of packed steps with token trees differ"), ("llama", "packed steps err|a row's bits depend")],
)
def test_a_tree_whose_nodes_see_those_before_them_is_noticed(
    name: str, said: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On transformers' modules by their logic, on the native decoder by its errors or by the bits of its rows."""

    def those_before(rows: TreeRows) -> np.ndarray:
        return np.concatenate([np.arange(row - depth, row) + 1 for row, depth in enumerate(rows.depths)])

    monkeypatch.setattr(TreeRows, "ancestors", those_before)
    with pytest.raises(ModelError, match=said):
        loaded(tiny(name, dtype=dtype))


def test_errors_are_measured_against_the_precision_above() -> None:
    """A model that differs from the stock one by less than both err is served; the errors told are those of each alone."""
    verdict = check(tiny("llama", dtype=torch.bfloat16))
    assert 0.05 < verdict.stock.worst < 1.0
    assert verdict.packed.worst == pytest.approx(verdict.stock.worst, rel=0.5)
    assert verdict.stock.typical < verdict.stock.worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", ["one logit", "every row"])
def test_a_kernel_that_errs_clearly_more_than_the_stock_model_is_refused(dtype: torch.dtype, where: str) -> None:
    model = tiny("llama", dtype=dtype)
    stock = check(model).stock

    def distort(logits: torch.Tensor) -> torch.Tensor:
        if where == "one logit":
            logits[0, 7] += 6.0 * stock.worst * logits[0].float().std()
        else:
            logits[:, 7] += 4.0 * stock.typical * logits.float().std(-1)
        return logits

    with pytest.raises(ModelError, match=r"logits of packed steps err by .* where the stock model's err by"):
        check(model, distort)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_is_refused(value: float) -> None:
    def distort(logits: torch.Tensor) -> torch.Tensor:
        logits[-1, 3] = value
        return logits

    with pytest.raises(ModelError, match="logits are not all finite in float32"):
        check(tiny("llama", dtype=torch.float32), distort)


def test_a_model_whose_sums_overflow_the_dtype_is_refused_with_one_to_take() -> None:
    def large(dtype: torch.dtype) -> PreTrainedModel:
        model = tiny("llama", dtype=torch.float64)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.data *= 3e3
        return model.to(dtype)

    loaded(large(torch.bfloat16))
    with pytest.raises(ModelError, match="not all finite in float16; its range is too small for this model: take bfloat16 or float32"):
        loaded(large(torch.float16))


def test_damaged_weights_are_refused() -> None:
    model = tiny("llama", dtype=torch.bfloat16)
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = math.nan
    with pytest.raises(ModelError, match="the stock model's own logits are not all finite in float32: are weights damaged"):
        loaded(model)


@pytest.mark.parametrize("rows", [[0.5, math.nan], [math.nan, 0.5]])
def test_an_error_that_is_no_number_is_the_worst(rows: Sequence[float]) -> None:
    right = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert RowErrors.of(torch.tensor([[rows[0], 1.0], [rows[1], 1.0]]), right).worst == math.inf


def test_a_model_that_shares_its_configuration_is_left_alone() -> None:
    """Of a mixture of experts both precisions are tried; torch's grouped product has no float64."""
    first, second = tiny("mixtral", dtype=torch.float32), tiny("mixtral", dtype=torch.float32)
    for module in second.modules():
        if getattr(module, "config", None) is second.config:
            module.config = first.config
    first.config._experts_implementation = "grouped_mm"
    loaded(first)
    assert second.config._attn_implementation != "drafthouse"
    assert second.config._experts_implementation == "grouped_mm"
    assert all(module.config is not second.config for module in first.modules() if hasattr(module, "config"))
    assert first.config._experts_implementation == "grouped_mm"


def test_what_is_checked_is_what_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linears are packed and the head is widened before the verdict."""
    seen: list[set[str]] = []
    forwards: list[str] = []
    judge = SelfCheck.judge

    def watched(self: SelfCheck, runner: ModelRunner) -> Verdict:
        forwards.append(runner.forward.name)
        seen.append({type(module).__name__ for module in self.model.modules()})
        return judge(self, runner)

    monkeypatch.setattr(SelfCheck, "judge", watched)
    loaded(tiny("mixtral", dtype=torch.float32))
    loaded(tiny("mixtral", dtype=torch.bfloat16))
    loaded(tiny("llama", dtype=torch.bfloat16))
    assert "PackedLinear" in seen[0]
    assert "Float32Head" in seen[1]
    assert forwards == ["transformers", "transformers", "native"]
