"""docs/exactness.md: one text has the same bits in all its logits whatever runs beside it. `drafthouse bench bits` has the full matrix."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.bits import PROMPTS, SETTINGS, Comparison, Outcome, make_texts
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.native.forward import NativeForward
from drafthouse.engine.packed_step import packed
from drafthouse.engine.segment import Segment

TARGET, TEXTS, TOKENS = "demo:target", 6, 10


class BackwardsForward(NativeForward):
    """Sums the keys of tree nodes in another order than those of plain tokens."""

    def run(self, segments: Sequence[Segment], cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        step = packed(segments)
        lines = np.split(step.entries, np.cumsum(step.lengths)[:-1])
        return super().run(replace(step, entries=np.concatenate([line[::-1] for line in lines])), cache)


def loaded(dtype: str) -> LoadedModel:
    return load(ModelConfig(path=TARGET, dtype=dtype, threads=2, kv_tokens=480, prefix_cache="off"))


def outcomes(model: LoadedModel, names: Sequence[str] = ()) -> tuple[Outcome, list[Outcome]]:
    """The plain one, and those of the other settings, or of `names` alone."""
    prompts = encode(load_tokenizer(model_path(TARGET)), load_texts(None, PROMPTS))
    comparison = Comparison(model, make_texts(prompts, TEXTS, 60), TOKENS)
    plain, *others = SETTINGS
    return comparison.run(plain), [comparison.run(setting) for setting in others if not names or setting.name in names]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_all_bits_of_all_logits_are_the_same_in_every_setting(dtype: str) -> None:
    model = loaded(dtype)
    plain, others = outcomes(model)
    model.runner.close()
    for found in others:
        assert found.outputs == plain.outputs, found.setting
        assert found.rows_compared > 0, found.setting
        assert found.rows_different == 0, found.setting
    assert sum(f.verified - f.accepted for f in others) > 0.3 * sum(f.verified for f in others) > 100, (
        "most nodes were meant to be rejected"
    )
    assert max(f.preemptions for f in others) > 0, "the KV cache was meant to be too small"
    assert max(f.cached_tokens for f in others) > 50, "prompts were meant to be cached"


def test_a_kernel_that_sums_tree_nodes_in_another_order_is_found() -> None:
    model = loaded("float32")
    forward = model.runner.forward
    assert isinstance(forward, NativeForward)
    model.runner.forward = BackwardsForward(forward.decoder)
    _, [found] = outcomes(model, ["on, 16 together"])
    model.runner.close()
    assert found.rows_different > 0
