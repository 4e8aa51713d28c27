"""Distilled drafts without hidden states in the drafter: the text is the target's, and what their heads know is accepted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from drafthouse.config.serving import DrafterConfig, ModelConfig
from drafthouse.engine.forward import Forward
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.sampling import Grammar, SamplingParams
from drafthouse.wire.session_messages import Open
from tests.engine.draft_folders import IDS, draft_folder
from tests.engine.grammars import END, text_of, tokenizer
from tests.engine.oracle import sampled
from tests.engine.pairs import GREEDY, loaded, pair, prompts, request
from tests.engine.tiny_models import tiny

RULED = SamplingParams(
    0.8, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2, min_tokens=4, logit_bias=((4, 6.0), (9, 3.0), (12, -8.0)),
    bad_words=((11,), (40, 41)),
)  # fmt: skip
KINDS = [
    GREEDY,
    SamplingParams(1.0),
    SamplingParams(1.3, top_k=20, min_p=0.02),
    RULED,
    SamplingParams(0.7, allowed_token_ids=IDS[:30] + (4, 6)),
]
STAGED = {"kind": "model", "inner": {"kind": "tests.engine.own_stages:Counting"}}
PLAIN = {"kind": "model"}


class ForbiddingRunner(ModelRunner):
    """Logits of all tokens but `known` are -inf."""

    def __init__(self, forward: Forward, cache: KvCache, known: torch.Tensor):
        super().__init__(forward, cache)
        self.known = known

    def run(self, segments: Sequence[Segment]) -> RunResult:
        result = super().run(segments)
        logits = torch.full_like(result.logits, -torch.inf).index_copy_(1, self.known, result.logits[:, self.known])
        return replace(result, logits=logits)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """All layers of the target, and half of its head: where it may choose it chooses what the target does, or the target's token is none
    of its own."""
    base = tmp_path_factory.mktemp("distilled")
    folder = draft_folder(base / "draft", tiny("llama"), base / "target")
    return replace(load(ModelConfig(path=str(folder), dtype="float64", kv_tokens=4096, prefix_cache="off")), tokenizer=tokenizer)


@pytest.mark.parametrize("stage", [PLAIN, STAGED], ids=["alone", "staged"])
@pytest.mark.parametrize("sampling", KINDS)
def test_speculation_on_equals_off(draft: LoadedModel, sampling: SamplingParams, stage: dict[str, Any]) -> None:
    target, oracle = loaded(tiny("llama")), tiny("llama")
    both = pair(target, [draft], drafter=DrafterConfig.model_validate({"stages": [stage]}))
    texts = prompts(3)
    on = both.generate(request(str(i), prompt, 24, sampling, seed=i) for i, prompt in enumerate(texts))
    for i, prompt in enumerate(texts):
        assert on[str(i)] == sampled(oracle, prompt, sampling, i, 24), f"prompt {i}"
    assert both.verifier.totals.accepted > 10
    assert both.verifier.draft_sessions.events.malformed == 0


def test_with_a_grammar(draft: LoadedModel) -> None:
    """Most of what it allows is none of the head's; where it forces such a token, the model drafts nothing."""
    sampling = SamplingParams(1.0, top_p=0.9, grammar=Grammar("regex", "(yes|no|name){3,9}!"))
    target = replace(loaded(tiny("llama")), tokenizer=tokenizer)
    on, off = (
        pair(target, [draft]).generate([request("a", prompts(1)[0], 30, sampling, 5, mode, stop_tokens=(END,))])["a"]
        for mode in ("auto", "off")
    )
    assert on == off
    assert text_of(on).startswith(("yes", "no", "name"))


@pytest.mark.parametrize("sampling", [GREEDY, RULED])
def test_only_the_heads_tokens_are_drafted(draft: LoadedModel, sampling: SamplingParams) -> None:
    """Of them only those that the session's target has; a session with processors and one without share each pass."""
    both = pair(loaded(tiny("llama")), [draft])
    drafter = both.drafters["drafter-0"]
    for name, size, ruled in (("small", 128, sampling), ("large", 256, sampling), ("plain", 256, GREEDY)):
        prompt = tuple(token % size for token in prompts(1)[0])
        drafter.handle("v", Open(name, 1, prompt, ruled, 0, 1, "f", 100, 6, 0.0, size))
    for _ in range(12):
        drafter.run_pass()
    drafted = {name: set(drafter.sessions["v", name].tree.tokens) for name in ("small", "large", "plain")}
    assert all(tokens and tokens <= set(IDS) for tokens in drafted.values())
    assert max(drafted["small"]) < 128 <= max(drafted["large"])


def test_it_agrees_as_the_whole_head_does(draft: LoadedModel) -> None:
    """What the draft ranks below each node is what the target itself would, of the head's tokens: the same noise for the same ids."""
    sampling, prompt = SamplingParams(1.0), prompts(1)[0]
    trees = []
    for model in (draft, _whole_head(draft)):
        drafter = pair(loaded(tiny("llama")), [model]).drafters["drafter-0"]
        drafter.handle("v", Open("s", 1, tuple(prompt), sampling, 3, 1, "f", 60, 6, 0.0, 256))
        for _ in range(8):
            drafter.run_pass()
        trees.append(drafter.sessions["v", "s"].tree)
    assert len(trees[0]) > 20
    assert (trees[0].tokens, trees[0].parents) == (trees[1].tokens, trees[1].parents)


def _whole_head(draft: LoadedModel) -> LoadedModel:
    """The target itself, whose runner's logits of all tokens that the draft does not know are -inf."""
    model = loaded(tiny("llama"))
    assert draft.head_ids is not None
    return replace(model, runner=ForbiddingRunner(model.runner.forward, model.runner.cache, draft.head_ids))
