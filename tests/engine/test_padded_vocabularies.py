"""Models of one tokenizer whose output layers are padded to different sizes: they pair, they draft, and the text stays the target's."""

import pytest
import torch
from transformers import PreTrainedModel

from drafthouse.sampling import SamplingParams
from drafthouse.wire.session_messages import Open
from tests.engine.oracle import sampled
from tests.engine.pairs import GREEDY, loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import VOCAB_SIZE, tiny

PADDING = 24
KINDS = [GREEDY, SamplingParams(1.0, min_p=0.02), SamplingParams(0.8, top_p=0.95, repetition_penalty=1.1)]


def padded(model: PreTrainedModel, loudness: float) -> PreTrainedModel:
    """With ids beyond the vocabulary, whose logits are that many times those of some others."""
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight = torch.nn.Parameter(torch.cat([layer.weight.data, loudness * layer.weight.data[:PADDING]]))
    model.get_input_embeddings().num_embeddings = model.get_output_embeddings().out_features = VOCAB_SIZE + PADDING
    model.config.vocab_size = VOCAB_SIZE + PADDING
    return model


@pytest.mark.parametrize("sampling", KINDS)
def test_ids_that_the_target_has_not_are_never_drafted(sampling: SamplingParams) -> None:
    """The draft likes them best."""
    both = pair(loaded(tiny("llama")), [loaded(padded(noisy_copy("llama", 0, 0.02), 3.0))])
    texts = prompts(3)
    got = both.generate(request(str(i), p, 24, sampling, seed=i) for i, p in enumerate(texts))
    oracle = tiny("llama")
    for i, prompt in enumerate(texts):
        assert got[str(i)] == sampled(oracle, prompt, sampling, i, 24)
    assert both.verifier.draft_sessions.events.malformed == 0
    assert both.verifier.draft_sessions.events.refused == 0
    assert both.verifier.totals.accepted > 20


def test_a_draft_drafts_for_targets_of_both_sizes_in_one_pass() -> None:
    """A row is cut where its own session's target ends."""
    draft = loaded(padded(noisy_copy("llama", 0, 0.02), 1.5))
    both = pair(loaded(padded(tiny("llama"), 1.5)), [draft])
    drafter = both.drafters["drafter-0"]
    for name, size in (("small", VOCAB_SIZE), ("large", VOCAB_SIZE + PADDING)):
        opened = Open(name, 1, tuple(prompts(1)[0]), GREEDY, 0, 1, "f", 200, 6, 0.0, size)
        drafter.handle("v", opened)
    for _ in range(12):
        drafter.run_pass()
    drafted = {name: drafter.sessions["v", name].tree.tokens for name in ("small", "large")}
    assert max(drafted["small"]) < VOCAB_SIZE
    assert max(drafted["large"]) >= VOCAB_SIZE


@pytest.mark.parametrize("sampling", KINDS)
def test_a_target_with_more_ids_is_drafted_for(sampling: SamplingParams) -> None:
    target = padded(tiny("llama"), 1e-3)
    both = pair(loaded(target), [loaded(noisy_copy("llama", 0, 0.02))])
    texts = prompts(3)
    got = both.generate(request(str(i), p, 24, sampling, seed=i) for i, p in enumerate(texts))
    oracle = padded(tiny("llama"), 1e-3)
    for i, prompt in enumerate(texts):
        assert got[str(i)] == sampled(oracle, prompt, sampling, i, 24)
    assert both.verifier.draft_sessions.events.refused == 0
    assert both.verifier.totals.accepted > 20


@pytest.mark.parametrize("where", ["prompt", "text"])
def test_a_token_that_the_draft_does_not_know_ends_drafting_for_that_sequence(where: str) -> None:
    """Once, with no further try, and for no other sequence."""
    loudness = 1.2 if where == "text" else 1e-3
    both = pair(loaded(padded(tiny("llama"), loudness)), [loaded(noisy_copy("llama", 0, 0.02))])
    sessions = both.verifier.draft_sessions
    sent: list[str] = []
    take = sessions.take_outbox

    def watched() -> object:
        out = take()
        sent.extend(m.session_id for messages in out.values() for m in messages if isinstance(m, Open))
        return out

    sessions.take_outbox = watched  # type: ignore[method-assign,assignment]
    clock = iter(range(100_000))
    both.verifier.clock = lambda: float(next(clock))  # a second each time: what is tried again, is tried soon
    prompt = [*prompts(1)[0], VOCAB_SIZE + 3] if where == "prompt" else prompts(1)[0]
    got = both.generate([request("a", prompt, 60)])["a"]
    assert got == sampled(padded(tiny("llama"), loudness), prompt, GREEDY, 0, 60)
    assert any(token >= VOCAB_SIZE for token in [*prompt, *got[:-10]])
    assert sent.count("a") == 1
    assert sessions.events.unfit == 1
    assert sessions.events.refused == sessions.events.dropped == 0
    other = prompts(2)[1]
    both.generate([request("b", other, 3)])
    assert "b" in sent
