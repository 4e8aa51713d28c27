"""Logits of 16-bit weights: float32, unrounded, without a second copy of the weights."""

import pytest
import torch

from drafthouse.engine import float32_head
from drafthouse.engine.float32_head import Float32Head, float32_product
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.segment import chunk
from tests.engine.pairs import loaded, stock_model
from tests.engine.tiny_models import ATTENTION_MODELS, tiny

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("rows", "out", "width"), [(1, 1, 8), (3, 257, 64), (17, 1000, 576)])
@pytest.mark.parametrize("block_bytes", [1, 1 << 14, 1 << 20])
def test_products_are_those_of_float32(
    dtype: torch.dtype, rows: int, out: int, width: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the blocks are: smaller than a row, not dividing the rows, or all at once."""
    monkeypatch.setattr(float32_head, "BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, width, generator=generator).to(dtype) for n in (rows, out))
    got, right = float32_product(x, weight), x.double() @ weight.double().t()
    assert got.dtype == torch.float32
    assert float((got.double() - right).abs().max()) < 1e-6 * width
    if width > 8:
        assert bool((got != got.to(dtype).float()).any())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_served_logits_are_float32_and_not_rounded(name: str, dtype: torch.dtype) -> None:
    runner = loaded(tiny(name, dtype=dtype)).runner
    kv = KvSequence(runner.cache)
    logits = runner.run([chunk(kv, [1, 2, 3], 0, want_logits=True)]).logits
    assert logits.dtype == torch.float32
    rounded = (logits == logits.to(dtype).float()).float().mean()
    assert rounded < 0.2, f"{rounded:.0%} of the logits are numbers of {dtype}"


def test_a_tied_embedding_stays_one_tensor() -> None:
    model = tiny("mixtral", dtype=torch.bfloat16)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    served = stock_model(loaded(model))
    head = served.get_output_embeddings()
    assert isinstance(head, Float32Head)
    assert head.weight is served.get_input_embeddings().weight
    assert head.weight.dtype == torch.bfloat16


def test_a_bias_is_added() -> None:
    linear = torch.nn.Linear(8, 5).bfloat16()
    x = torch.randn(2, 3, 8).bfloat16()
    right = (x.double() @ linear.weight.double().t() + linear.bias.double()).detach()
    got = Float32Head(linear)(x).detach()
    assert got.shape == (2, 3, 5)
    assert float((got.double() - right).abs().max()) < 1e-6


def test_float32_models_keep_their_layer() -> None:
    assert not isinstance(stock_model(loaded(tiny("mixtral", dtype=torch.float32))).get_output_embeddings(), Float32Head)
