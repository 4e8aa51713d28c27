"""Last hidden states out of a step, and inputs into it: against transformers, and bit for bit whatever stands beside them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from drafthouse.engine.attention import stock_models
from drafthouse.engine.forward import Forward, StockForward
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.model_limits import limits_of
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.native.decoder import NativeDecoder
from drafthouse.engine.native.description import describe
from drafthouse.engine.native.forward import NativeForward
from drafthouse.engine.packed_step import packed, tree_step, tree_steps
from drafthouse.engine.segment import Segment, chunk
from drafthouse.engine.tree_rows import tree_rows
from drafthouse.token_tree import ROOT, TokenTree
from tests.engine.tiny_models import tiny

CONTEXT, SLOTS, HIDDEN = 256, 256, 64
TOKENS = torch.randint(0, 256, (30,), generator=torch.Generator().manual_seed(3)).tolist()
INPUTS = 0.3 * torch.randn(30, HIDDEN, generator=torch.Generator().manual_seed(4))
NATIVE, STOCK = ("llama", "gemma2", "granite", "olmo2"), ("llama", "gemma2", "granite", "gpt_neox", "mixtral")


def native(model: PreTrainedModel, int8: bool = False, threads: int = 2) -> ModelRunner:
    description = describe(model, CONTEXT)
    dtype = torch.bfloat16 if int8 else model.dtype
    cache = KvCache(len(description.layers), description.kv_heads, description.head_dim, SLOTS, dtype, torch.device("cpu"))
    return ModelRunner(NativeForward(NativeDecoder(description, cache, torch.int8 if int8 else dtype, threads)), cache)


def stock(model: PreTrainedModel) -> ModelRunner:
    stock_models.register()
    model.set_attn_implementation(stock_models.IMPLEMENTATION)
    limits = limits_of(model.config)
    forward: Forward = StockForward(model)
    return ModelRunner(forward, KvCache(limits.layers, limits.kv_heads, limits.head_dim, SLOTS, model.dtype, torch.device("cpu")))


def tree() -> TokenTree:
    made = TokenTree()
    a, b = made.add(5, ROOT, 0.5, 0), made.add(6, ROOT, 0.5, 0)
    made.add(7, a, 0.5, 0)
    made.add(9, b, 0.5, 0)
    return made


def last_states(model: PreTrainedModel, tokens: list[int], inputs: torch.Tensor | None = None) -> torch.Tensor:
    """By transformers alone. With `inputs` the first layer takes them beside the embeddings."""
    hooks = []
    if inputs is not None:
        first = model.base_model.layers[0]
        hooks = [first.register_forward_pre_hook(lambda module, args: (args[0] + inputs.to(args[0]), *args[1:]))]
    try:
        with torch.inference_mode():
            result: torch.Tensor = model.base_model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
        return result
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("make", "name"), [*((native, name) for name in NATIVE), *((stock, name) for name in STOCK)])
def test_states_are_those_that_the_head_reads(make: Callable[[PreTrainedModel], ModelRunner], name: str) -> None:
    """Of a prompt's chunk beside a tree, float64: rows of the tree in any number, and the tail of the prompt without its logits."""
    model, runner = tiny(name), make(tiny(name))
    first, second = KvSequence(runner.cache), KvSequence(runner.cache)
    runner.run([chunk(second, TOKENS[:9], 0, False)])
    tail = chunk(first, TOKENS[:20], 0, False)
    tail.states = [16, 17, 19]
    below = tree_step(second, TOKENS[9], tree())
    below.states = [0, 3]
    result = runner.run([tail, below])
    node = last_states(model, TOKENS[:10] + tree().path(2))
    right = torch.cat([last_states(model, TOKENS[:20])[[16, 17, 19]], node[[9, -1]]])
    assert result.states.shape == (5, HIDDEN)
    torch.testing.assert_close(result.states, right, rtol=1e-6, atol=2e-5)  # stock norms are float32
    first.release()
    second.release()


@pytest.mark.parametrize(("make", "name"), [*((native, name) for name in NATIVE), *((stock, name) for name in STOCK[:3])])
def test_inputs_are_added_to_what_the_first_layer_takes(make: Callable[[PreTrainedModel], ModelRunner], name: str) -> None:
    """Beside a sequence that has none, in two chunks, float64."""
    model, runner = tiny(name), make(tiny(name))
    plain, fed = KvSequence(runner.cache), KvSequence(runner.cache)
    before = chunk(fed, TOKENS[:11], 0, False)
    before.inputs = INPUTS[:11]
    runner.run([before])
    without, after = chunk(plain, TOKENS[:5], 0, False), chunk(fed, TOKENS[11:20], 11, False)
    without.states, after.states, after.inputs = [4], [0, 8], INPUTS[11:20]
    result = runner.run([without, after])
    right = torch.cat([last_states(model, TOKENS[:5])[4:], last_states(model, TOKENS[:20], INPUTS[:20])[[11, 19]]])
    torch.testing.assert_close(result.states, right, rtol=1e-6, atol=2e-5)
    assert float((result.states[2] - last_states(model, TOKENS[:20])[19]).abs().max()) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_states_bits_are_its_own(name: str, dtype: torch.dtype) -> None:
    """Alone or beside others, in a tree or one by one, with inputs or beside them, on one thread: equal bits; logits too, with states
    asked for or not."""
    int8 = dtype == torch.int8
    model = tiny(name).float() if int8 else tiny(name).to(dtype)
    runner, single = native(model, int8), native(model, int8, threads=1)
    alone = one_by_one(runner, TOKENS[:12] + tree().path(2))
    assert torch.equal(alone, one_by_one(single, TOKENS[:12] + tree().path(2)))
    kv, beside = KvSequence(runner.cache), KvSequence(runner.cache)
    runner.run([chunk(kv, TOKENS[:11], 0, False)])
    asking = tree_steps([kv], tree_rows([TOKENS[11]], [tree()], [0]), np.array([0, 1, 3], dtype=np.int32))
    other = chunk(beside, TOKENS[:7], 0, True)
    other.inputs, other.states = INPUTS[:7], range(7)
    found = runner.run([*asking, other])
    assert torch.equal(found.states[:3], alone[[11, 12, 13]])
    kv.truncate(11)
    without = runner.run(tree_steps([kv], tree_rows([TOKENS[11]], [tree()], [0])))
    assert without.states.shape == (0, HIDDEN)
    assert torch.equal(without.logits, found.logits[:5])
    kv.release()
    beside.release()
    assert torch.equal(found.states[3:], one_by_one(runner, TOKENS[:7], INPUTS[:7]))


def one_by_one(runner: ModelRunner, tokens: list[int], inputs: torch.Tensor | None = None) -> torch.Tensor:
    kv, rows = KvSequence(runner.cache), []
    for position, token in enumerate(tokens):
        step = chunk(kv, [token], position, False)
        step.states, step.inputs = [0], None if inputs is None else inputs[position : position + 1]
        rows.append(runner.run([step]).states[0])
    kv.release()
    return torch.stack(rows)


def test_asking_the_stock_model_for_states_changes_no_logit() -> None:
    runner = stock(tiny("gemma2").float())
    kv = KvSequence(runner.cache)
    plain = runner.run([chunk(kv, TOKENS, 0, True)]).logits
    kv.truncate(0)
    asking = chunk(kv, TOKENS, 0, True)
    asking.states = range(len(TOKENS))
    assert torch.equal(runner.run([asking]).logits, plain)


def test_a_packed_step_is_the_sequence_of_its_segments() -> None:
    """Of states and inputs too: a packed step packs again into itself."""
    runner = native(tiny("llama"))
    first, second, third = (KvSequence(runner.cache) for _ in range(3))
    segments = [chunk(first, TOKENS[:4], 0, True), chunk(second, TOKENS[:3], 0, False), chunk(third, TOKENS[:2], 0, True)]
    segments[0].states = [1, 3]
    segments[1].inputs = INPUTS[:3]
    segments[2].states, segments[2].inputs = [0], INPUTS[3:5]
    again = packed(list[Segment](packed(segments)))
    assert again.states.tolist() == [1, 3, 7]
    assert again.input_rows.tolist() == [4, 5, 6, 7, 8]
    assert again.inputs is not None
    assert torch.equal(again.inputs, INPUTS[:5])
    assert packed([segments[0]]).inputs is None
