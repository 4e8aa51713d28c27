"""The native decoder on two and four ranks, gloo between them: the model of one process, and each row's bits its own.

Each number of ranks is one group of processes, which runs all models and leaves its logits in files.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import multiprocessing
from transformers import PreTrainedModel

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.native.decoder import step_arrays
from drafthouse.engine.native.description import NotDense, describe
from drafthouse.engine.native.share import Share
from drafthouse.engine.parallel.process_group import join, leave, open_store, reach_store
from drafthouse.engine.segment import chunk
from drafthouse.token_tree import ROOT
from tests.engine.test_native_decoder import CONTEXT, DTYPES, TOKENS, Decoder, packed, tree
from tests.engine.tiny_models import tiny

RANKS = (2, 4)
WIDE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "vocab_size": 259},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {},
    "gemma3": {},
    "phi3": {},
    "olmo2": {},
    "granite": {},
}
"""With biases everywhere, and a vocabulary that no number of ranks divides; norms of each head and over all heads; merged linears."""

NARROW = ("llama", "phi3", "olmo2")
"""Those that run below float64, too."""

LAST = len(tree()) - 1
"""The node at the end of the longest path."""

CASES = [(name, dtype) for name in MODELS for dtype in DTYPES if dtype == torch.float64 or name in NARROW]

WAYS: dict[str, Callable[[Decoder], torch.Tensor]] = {
    "in two chunks": lambda d: packed(d, (17,)),
    "in odd chunks": lambda d: packed(d, (1, 8, 13)),
    "beside others": lambda d: packed(d, (17,), others=5),
}
"""To the logits of the root and of each node of a tree."""


def model_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    return tiny(name, dtype=dtype, **WIDE, **MODELS[name])


def one_by_one(decoder: Decoder) -> torch.Tensor:
    """Of the nodes of the longest path, root first, without a tree: the last tokens one by one."""
    kv = KvSequence(decoder.cache)
    decoder.run(chunk(kv, TOKENS[:-3], 0, False))
    rows = [decoder.run(chunk(kv, [token], len(kv), True))[0] for token in [*TOKENS[-3:], *tree().path(LAST)]]
    return torch.stack(rows[2:])


def last_states(decoder: Decoder) -> torch.Tensor:
    """Of a prompt's first, middle and last token."""
    kv = KvSequence(decoder.cache)
    asking = chunk(kv, TOKENS, 0, False)
    asking.states = [0, 20, len(TOKENS) - 1]
    states = decoder.native.run(step_arrays([asking]))[1]
    kv.release()
    return states


def rank(index: int, ranks: int, port: int, folder: pathlib.Path) -> None:
    """The process of one rank: logits of each model in each way, by (name, dtype, way)."""
    torch.set_num_threads(1)
    join(reach_store(port, ranks), index, ranks, torch.device("cpu"))
    found: dict[tuple[str, torch.dtype, str], torch.Tensor] = {}
    for name, dtype in CASES:
        decoder = Decoder(model_of(name, dtype), 1, Share(index, ranks))
        found |= {(name, dtype, way): run(decoder) for way, run in (WAYS | {"one by one": one_by_one, "states": last_states}).items()}
        decoder.native.close()
    decoder = Decoder(model_of("llama", torch.float32), 2, Share(index, ranks))
    found["llama", torch.float32, "on two threads"] = packed(decoder, (17,))
    torch.save(found, folder / f"{index}.pt")
    leave()


@pytest.fixture(scope="module", params=RANKS, ids=[f"{n} ranks" for n in RANKS])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, torch.Tensor]]:
    """What each rank found."""
    folder, store = tmp_path_factory.mktemp("ranks"), open_store(request.param)
    multiprocessing.spawn(rank, (request.param, store.port, folder), nprocs=request.param)
    return [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(request.param)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_ranks_together_are_the_model_of_one_process(name: str, dtype: torch.dtype, found: list[dict[Any, torch.Tensor]]) -> None:
    right = packed(Decoder(model_of(name, torch.float64)), (17,))
    ours = float((found[0][name, dtype, "in two chunks"].double() - right).abs().max() / right.std())
    if dtype == torch.float64:
        assert ours < 1e-9
    else:
        alone = packed(Decoder(model_of(name, dtype)), (17,)).double()
        assert ours < 2.0 * float((alone - right).abs().max() / right.std())


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_every_rank_has_the_states_of_the_model(name: str, dtype: torch.dtype, found: list[dict[Any, torch.Tensor]]) -> None:
    """The same bits on each."""
    states = [each[name, dtype, "states"] for each in found]
    assert all(torch.equal(each, states[0]) for each in states)
    right = last_states(Decoder(model_of(name, torch.float64)))
    ours = float((states[0].double() - right).abs().max() / right.std())
    if dtype == torch.float64:
        assert ours < 1e-9
    else:
        alone = last_states(Decoder(model_of(name, dtype))).double()
        assert ours < 2.0 * float((alone - right).abs().max() / right.std())


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_a_rows_bits_do_not_depend_on_what_stands_beside_it(name: str, dtype: torch.dtype, found: list[dict[Any, torch.Tensor]]) -> None:
    right = found[0][name, dtype, "in two chunks"]
    for way in WAYS:
        assert torch.equal(found[0][name, dtype, way], right), way
    path, node = list[int](), LAST
    while node != ROOT:
        path.append(1 + node)
        node = tree().parents[node]
    assert torch.equal(found[0][name, dtype, "one by one"], right[[0, *path[::-1]]])


def test_every_rank_has_all_logits_whatever_its_threads(found: list[dict[Any, torch.Tensor]]) -> None:
    for other in found[1:]:
        assert all(torch.equal(other[key], logits) for key, logits in found[0].items())
    two, one = (found[0]["llama", torch.float32, way] for way in ("on two threads", "in two chunks"))
    assert torch.equal(two, one)


def test_what_ranks_cannot_share_out_is_not_taken() -> None:
    with pytest.raises(NotDense, match="num_key_value_heads 2 is not a multiple of 4 ranks"):
        describe(tiny("llama"), CONTEXT, Share(0, 4))
    with pytest.raises(NotDense, match="intermediate_size 98 is not a multiple of 4 ranks"):
        describe(tiny("llama", **WIDE, intermediate_size=98), CONTEXT, Share(0, 4))
    with pytest.raises(NotDense, match="an inner size is odd"):
        describe(tiny("llama", **WIDE, intermediate_size=100), CONTEXT, Share(0, 4))
