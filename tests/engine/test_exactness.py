"""docs/design.md 1 in float64, zero tolerance: the text is a function of target, prompt, sampling and seed."""

from dataclasses import replace

import pytest

from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.objective import Objective
from drafthouse.sampling import SamplingParams
from tests.engine.oracle import greedy, sampled
from tests.engine.pairs import GREEDY, STEEP, loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import ATTENTION_MODELS, tiny

OBJECTIVES = (None, Objective(per_token_s=0.004), Objective(first_token_s=0.2, per_token_s=1e-4))
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1)


@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_architectures_equal_generate_with_trees_on(name: str) -> None:
    target, draft = loaded(tiny(name)), loaded(noisy_copy(name, 0, 0.02))
    oracle = tiny(name)
    texts = prompts(4, longest=30)
    both = pair(target, [draft])
    got = both.generate(request(str(i), p, 24) for i, p in enumerate(texts))
    for i, prompt in enumerate(texts):
        assert got[str(i)] == greedy(oracle, prompt, 24), f"{name}, prompt {i}"
    assert both.verifier.totals.accepted > 10, "the draft must get something accepted, or trees were not on"


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, SamplingParams(1.0, top_k=20, min_p=0.02)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 5.0])
def test_speculation_on_equals_off_and_the_oracle(sampling: SamplingParams, noise: float) -> None:
    target, draft = loaded(tiny("llama")), loaded(noisy_copy("llama", 0, noise))
    texts = prompts(3)
    on = pair(target, [draft]).generate(request(str(i), p, 20, sampling, seed=i) for i, p in enumerate(texts))
    off = pair(target, [draft]).generate(request(str(i), p, 20, sampling, seed=i, mode="off") for i, p in enumerate(texts))
    oracle = tiny("llama")
    for i, prompt in enumerate(texts):
        wanted = sampled(oracle, prompt, sampling, i, 20)
        assert on[str(i)] == wanted, f"on, prompt {i}"
        assert off[str(i)] == wanted, f"off, prompt {i}"


def test_any_mix_of_requests_gives_each_its_own_text() -> None:
    """Greedy, sampled, off, fixed and auto together, tokens of every worth, one long prompt in chunks, KV for only some of them, two
    drafters."""
    target = loaded(tiny("llama"), kv_tokens=300)
    drafts = [loaded(noisy_copy("llama", 0, noise)) for noise in (0.01, 0.05)]
    texts = [*prompts(9), *prompts(1, shortest=150, longest=150, seed=5)]
    kinds = [(GREEDY, "auto"), (SAMPLED, "fixed"), (SAMPLED, "off"), (SamplingParams(1.3, top_k=9), "auto")]
    requests = [request(str(i), p, 40, kinds[i % 4][0], i, kinds[i % 4][1]) for i, p in enumerate(texts)]
    requests = [replace(r, priority=i % 5 - 2, objective=OBJECTIVES[i % 3]) for i, r in enumerate(requests)]
    verifier = VerifierConfig(step_tokens=48, max_sequences=8)
    both = pair(target, drafts, verifier, DrafterConfig(prefill_tokens=16), TreeConfig(max_nodes=20), STEEP)
    got = both.generate(requests)
    oracle = tiny("llama")
    for r in requests:
        assert got[r.request_id] == sampled(oracle, r.prompt, r.sampling, r.seed, 40), f"request {r.request_id}"
    assert both.verifier.scheduler.preemptions > 0, "the KV cache was meant to be too small"
    assert both.verifier.runner.cache.allocator.free_count == 300, "all KV slots come back"
    for drafter in both.drafters.values():
        assert not drafter.sessions
        assert drafter.cache.allocator.free_count == drafter.cache.allocator.count


def test_emitted_tokens_resume_the_same_text() -> None:
    target, draft = loaded(tiny("llama")), loaded(noisy_copy("llama", 0, 0.02))
    prompt = prompts(1)[0]
    whole = pair(target, [draft]).generate([request("a", prompt, 30, SAMPLED, 7)])["a"]
    for cut in (1, 13, 29):
        resumed = pair(target, [draft]).generate([request("a", prompt, 30, SAMPLED, 7, delivered=whole[:cut])])["a"]
        assert resumed == whole, f"resumed after {cut} tokens"


def test_stop_tokens_and_max_tokens_end_inside_an_accepted_path() -> None:
    target, draft = loaded(tiny("llama")), loaded(tiny("llama"))  # a perfect draft: long accepted paths
    prompt = prompts(1)[0]
    whole = pair(target, [draft]).generate([request("a", prompt, 40)])["a"]
    for n in range(1, 12):
        assert pair(target, [draft]).generate([request("a", prompt, n)])["a"] == whole[:n]
    for stop in whole[2:12]:
        got = pair(target, [draft]).generate([request("a", prompt, 40, stop_tokens=[stop])])["a"]
        assert got == whole[: whole.index(stop) + 1]
