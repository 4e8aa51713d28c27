"""Under `torch.compile`: the same text, padded steps, trees on. Needs a C++ compiler; two token counts keep it short."""

import pytest
import torch

from drafthouse.config.serving import ModelConfig
from drafthouse.engine import compiled
from drafthouse.engine.loader import prepare
from tests.engine.oracle import greedy
from tests.engine.pairs import loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import tiny


@pytest.mark.timeout(600)
def test_compiled_steps_give_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "TOKEN_COUNTS", (1, 16))
    config = ModelConfig(path="in memory", dtype="float64", compile=True, kv_tokens=1024)
    target = prepare(tiny("llama", layers=1), config, "test")
    model = noisy_copy("llama", 0, 0.02)
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    both = pair(target, [loaded(model.to(torch.float64))])
    texts = prompts(2, longest=12)
    got = both.generate(request(str(i), p, 16, mode="fixed", nodes=6, depth=3) for i, p in enumerate(texts))
    oracle = tiny("llama", layers=1)
    for i, prompt in enumerate(texts):
        assert got[str(i)] == greedy(oracle, prompt, 16), f"prompt {i}"
    assert target.runner.forward.name == "transformers, compiled"
    assert both.verifier.totals.verified > 10, "trees were meant to be on"


def test_steps_longer_than_the_largest_graph_are_not_for_it() -> None:
    largest = compiled.TOKEN_COUNTS[-1]
    assert [compiled.CompiledModel.fits(tokens) for tokens in (1, largest, largest + 1)] == [True, True, False]
