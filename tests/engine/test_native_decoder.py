"""The native decoder against the stock models of every dense family, and each row's bits whatever stands beside it."""

import itertools

import pytest
import torch
from transformers import PreTrainedModel

from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.native.decoder import NativeDecoder, step_arrays
from drafthouse.engine.native.description import NotDense, describe
from drafthouse.engine.native.share import Share
from drafthouse.engine.packed_step import tree_step
from drafthouse.engine.segment import Lines, Segment, chunk
from drafthouse.token_tree import ROOT, TokenTree
from tests.engine.tiny_models import tiny

FAMILIES = ("llama", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "olmo2")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CONTEXT, SLOTS = 512, 320
TOKENS = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1)).tolist()
LONG = torch.randint(0, 256, (150,), generator=torch.Generator().manual_seed(2)).tolist()


def tree() -> TokenTree:
    """Siblings between ancestors, so that a node's place in the tree says nothing of its depth."""
    made = TokenTree()
    a, b = made.add(5, ROOT, 0.5, 0), made.add(6, ROOT, 0.5, 0)
    made.add(7, a, 0.5, 0)
    c = made.add(9, b, 0.5, 0)
    made.add(8, a, 0.5, 0)
    made.add(11, c, 0.5, 0)
    return made


class Decoder:
    """A native decoder of one tiny model, or of a rank's share of it, and its cache."""

    def __init__(self, model: PreTrainedModel, threads: int = 2, share: Share = Share(), int8: bool = False):  # noqa: B008 (frozen)
        description = describe(model, CONTEXT, share)
        shape = (len(description.layers), description.kv_heads, description.head_dim)
        self.cache = KvCache(*shape, SLOTS, torch.bfloat16 if int8 else model.dtype, torch.device("cpu"))
        self.native = NativeDecoder(description, self.cache, torch.int8 if int8 else model.dtype, threads)

    def run(self, *segments: Segment) -> torch.Tensor:
        return self.native.run(step_arrays(segments))[0]

    def one_by_one(self, tokens: list[int]) -> torch.Tensor:
        kv = KvSequence(self.cache)
        rows = [self.run(chunk(kv, [token], position, True))[0] for position, token in enumerate(tokens)]
        kv.release()
        return torch.stack(rows)


def packed(decoder: Decoder, cuts: tuple[int, ...], others: int = 0) -> torch.Tensor:
    """Logits of the root and the tree after TOKENS, whose prompt was run in chunks, beside other sequences."""
    kv, tail = KvSequence(decoder.cache), TOKENS[:-1]
    beside = [KvSequence(decoder.cache) for _ in range(others)]
    edges = [0, *cuts, len(tail)]
    for first, end in zip(edges, edges[1:], strict=False):
        decoder.run(chunk(kv, tail[first:end], first, False), *(chunk(b, TOKENS[i : i + 3], len(b), True) for i, b in enumerate(beside)))
    step = tree_step(kv, TOKENS[-1], tree())
    logits = decoder.run(step, *(chunk(b, TOKENS[:2], len(b), True) for b in beside))[: len(step)]
    for sequence in (kv, *beside):
        sequence.release()
    return logits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_err_no_more_than_the_stock_models(name: str, dtype: torch.dtype) -> None:
    """Both are held against the stock model in float64. The float64 bound allows for its norms, which are float32."""
    exact, model = tiny(name), tiny(name).to(dtype)
    paths = [[], *(tree().path(node) for node in range(len(tree())))]

    def stock(of: PreTrainedModel) -> torch.Tensor:
        with torch.inference_mode():
            return torch.stack([of(input_ids=torch.tensor([TOKENS + path]), use_cache=False).logits[0, -1] for path in paths])

    right = stock(exact)
    spread = right.std()
    ours = float((packed(Decoder(model), (17,)).double() - right).abs().max() / spread)
    theirs = float((stock(model).double() - right).abs().max() / spread)
    assert ours <= max(2.0 * theirs, 1e-5), f"ours {ours:.2e}, the stock model's {theirs:.2e}"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_rows_bits_do_not_depend_on_what_stands_beside_it(name: str, dtype: torch.dtype) -> None:
    """Alone, in a tree, after other chunks of the prompt, beside other sequences, on one thread: equal bits."""
    int8 = dtype == torch.int8
    model = tiny(name).float() if int8 else tiny(name).to(dtype)
    decoder = Decoder(model, int8=int8)
    found = packed(decoder, (17,))
    for other in (
        packed(decoder, ()),
        packed(decoder, (1, 8, 13)),
        packed(decoder, (17,), others=5),
        packed(Decoder(model, 1, int8=int8), ()),
    ):
        assert torch.equal(found, other)
    assert torch.equal(found[0], decoder.one_by_one(TOKENS)[-1])
    for node in range(len(tree())):
        assert torch.equal(found[1 + node], decoder.one_by_one(TOKENS + tree().path(node))[-1]), f"node {node}"


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in FAMILIES), *(("gemma2", dtype) for dtype in DTYPES)], ids=str
)
def test_a_rows_bits_do_not_depend_on_the_number_of_rows(name: str, dtype: torch.dtype) -> None:
    """Chunks of all sizes around those in which rows are multiplied and attend together, each row held against itself alone."""
    decoders = [Decoder(tiny(name).to(dtype), threads) for threads in (1, 2)]
    alone = decoders[0].one_by_one(LONG)
    sizes = (*((0, size) for size in range(1, 21)), (0, 64), (0, 65), (0, 150), (1, 149), (13, 137), (100, 17), (17, 1))
    for decoder, (before, size) in itertools.product(decoders, sizes):
        kv = KvSequence(decoder.cache)
        if before:
            decoder.run(chunk(kv, LONG[:before], 0, False))
        rows = chunk(kv, LONG[before : before + size], before, False)
        rows.outputs = range(size)
        assert torch.equal(decoder.run(rows), alone[before : before + size]), f"{size} rows after {before}"
        kv.release()


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "phi3"])
def test_a_path_of_drafts_may_be_longer_than_the_window(name: str) -> None:
    """Rows at the end of a chain of 40 see none of the 31 tokens before the tree."""
    decoder, chain = Decoder(tiny(name).float()), TokenTree()
    for token in LONG[31:71]:
        chain.add(token, len(chain) - 1, 0.5, 0)
    kv = KvSequence(decoder.cache)
    decoder.run(chunk(kv, LONG[:30], 0, False))
    found = decoder.run(tree_step(kv, LONG[30], chain))
    assert torch.equal(found, decoder.one_by_one(LONG[:71])[30:])


def test_where_entries_lie_changes_no_bit() -> None:
    """Slots in any order: taken from a cache whose free list is a shuffle."""
    decoder = Decoder(tiny("llama").float())
    found = packed(decoder, (17,))
    holes = [KvSequence(decoder.cache) for _ in range(40)]
    for kv in holes:
        kv.extend(3)
    for kv in holes[::2]:
        kv.release()
    assert torch.equal(packed(decoder, (17,)), found)


def test_a_sum_in_another_order_has_other_bits() -> None:
    """So the tests above would notice a kernel that takes a tree's nodes in the order in which they lie."""
    decoder = Decoder(tiny("llama").float())
    right, kv = packed(decoder, ()), KvSequence(decoder.cache)
    decoder.run(chunk(kv, TOKENS[:-1], 0, False))
    step = tree_step(kv, TOKENS[-1], tree())
    assert step.lines is not None
    step.lines = Lines.of([line[::-1] for line in step.lines])
    found = decoder.run(step)
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found, right)


@pytest.mark.parametrize("name", ["gpt_neox", "mixtral", "mamba"])
def test_other_architectures_are_not_taken(name: str) -> None:
    with pytest.raises(NotDense):
        describe(tiny(name), CONTEXT)
