"""The demo pair in float64 on held-out prompts, zero tolerance: trained weights, trees that get accepted."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from drafthouse.checkpoints.model_path import DEMO_MODELS
from drafthouse.demo_models.prompts import read_prompts
from drafthouse.engine.loader import LoadedModel
from drafthouse.sampling import SamplingParams
from drafthouse.token_tree import TokenTree
from drafthouse.wire.session_messages import Grow, ToVerifierMessage
from tests.engine.oracle import greedy
from tests.engine.pairs import loaded, pair, request
from verifier.step_loop import run_step

COUNT, PROMPT_TOKENS, TOKENS = 50, 64, 32
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1)


def fresh(name: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(DEMO_MODELS / name, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return loaded(fresh("target"), kv_tokens=8192)


@pytest.fixture(scope="module")
def draft() -> LoadedModel:
    return loaded(fresh("draft"), kv_tokens=16384)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODELS / "target")
    return [tokenizer(p.text)["input_ids"][-PROMPT_TOKENS:] for p in read_prompts()[:COUNT]]


@pytest.fixture(scope="module")
def stock_greedy(prompts: list[list[int]]) -> list[list[int]]:
    model = fresh("target")
    return [greedy(model, prompt, TOKENS) for prompt in prompts]


def test_fifty_greedy_prompts_equal_generate(
    target: LoadedModel, draft: LoadedModel, prompts: list[list[int]], stock_greedy: list[list[int]]
) -> None:
    both = pair(target, [draft])
    got = both.generate(request(str(i), p, TOKENS) for i, p in enumerate(prompts))
    for i, wanted in enumerate(stock_greedy):
        assert got[str(i)] == wanted, f"prompt {i}"
    totals = both.verifier.totals
    assert totals.accepted > 0.5 * COUNT * TOKENS, f"a distilled draft is right more often: {totals}"


def test_fifty_sampled_prompts_are_the_same_with_speculation_off(target: LoadedModel, draft: LoadedModel, prompts: list[list[int]]) -> None:
    texts = [
        pair(target, [draft]).generate(request(str(i), p, TOKENS, SAMPLED, 1000 + i, mode) for i, p in enumerate(prompts))
        for mode in ("auto", "off")
    ]
    for i in range(COUNT):
        assert texts[0][str(i)] == texts[1][str(i)], f"prompt {i}"


class _RandomTrees:
    """Stands where a drafter does and sends trees of random shape: some nodes right, most of them noise."""

    def __init__(self, truth: dict[str, list[int]], seed: int):
        self.truth, self.rng = truth, random.Random(seed)

    def tree(self, name: str, done: int) -> TokenTree:
        tree, rng = TokenTree(), self.rng
        for _ in range(rng.randrange(24)):
            parent = rng.randrange(-1, len(tree))
            at = done + len(tree.path(parent))
            right = self.truth[name][at : at + 1]
            token = right[0] if right and rng.random() < 0.6 else rng.randrange(4096)
            tree.add(token, parent, rng.random() * 0.5, 0)
        return tree


def test_random_trees_from_a_random_draft_change_nothing(
    target: LoadedModel, draft: LoadedModel, prompts: list[list[int]], stock_greedy: list[list[int]]
) -> None:
    source = _RandomTrees({str(i): tokens for i, tokens in enumerate(stock_greedy)}, seed=4)
    both = pair(target, [draft])
    verifier = both.verifier
    outputs: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts[:20]):
        outputs[str(i)] = []
        verifier.submit(request(str(i), prompt, TOKENS))
    while verifier.sequences:
        verifier.draft_sessions.take_outbox()
        for name, sequence in verifier.sequences.items():
            if (link := sequence.draft_session) is not None:
                tree = source.tree(name, len(outputs[name]))
                message: ToVerifierMessage = Grow(name, link.epoch, len(sequence.tokens), 0, tree, 0, 0.0)
                verifier.receive(link.drafter, message)
        replies = run_step(verifier)
        assert isinstance(replies, list), "what was announced is there"
        for reply in replies:
            outputs[reply.request_id] += reply.tokens
    for i in range(20):
        assert outputs[str(i)] == stock_greedy[i], f"prompt {i}"
    assert verifier.totals.accepted > 50, f"some of the random nodes are right: {verifier.totals}"
