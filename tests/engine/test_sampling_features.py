"""Each sampling feature at every node of a tree: speculation on equals off and the oracle; logprobs have the same bits either way."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drafthouse.checkpoints.model_path import DEMO_MODELS
from drafthouse.config.serving import DrafterConfig, ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.sampling import SamplingParams, ThinkingBudget
from drafthouse.token_logprobs import PROCESSED, RAW, LogprobsWish, TokenLogprob
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from tests.engine.oracle import next_logits, sampled
from tests.engine.pairs import GREEDY, loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import VOCAB_SIZE, tiny
from verifier.scheduler import SCORED_ROWS

N = 16
TEXTS = prompts(2, longest=20)
IDS = st.integers(0, VOCAB_SIZE - 1)
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([0.0, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 1.5]),
    frequency_penalty=st.sampled_from([-0.3, 0.0, 0.8]),
    min_tokens=st.integers(0, N),
    logit_bias=st.dictionaries(IDS, st.floats(-8, 8, width=32), max_size=5).map(lambda bias: tuple(bias.items())),
    allowed_token_ids=st.one_of(st.just(()), st.sets(IDS, min_size=3, max_size=40).map(tuple)),
    bad_words=st.lists(st.lists(IDS, min_size=1, max_size=2).map(tuple), max_size=5).map(tuple),
    thinking=st.none() | st.builds(ThinkingBudget, tokens=st.integers(0, N), opening=IDS, closing=IDS, inside=st.booleans()),
).map(lambda sampling: replace(sampling, thinking=None) if sampling.allowed_token_ids else sampling)


@dataclass
class Outcome:
    text: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0
    accepted: int = 0


@cache
def models(dtype: torch.dtype = torch.float64) -> tuple[LoadedModel, LoadedModel]:
    """A target and a draft that agrees now and then."""
    draft = noisy_copy("llama", 0, 0.02)
    return loaded(tiny("llama", dtype=dtype), prefix_cache="auto"), loaded(draft.to(dtype))


def outcomes(process: OneProcess, requests: Iterable[GenerateRequest]) -> dict[str, Outcome]:
    """Together; checks that replies are in order and as long as they must be."""
    found: dict[str, Outcome] = {}
    for r in requests:
        found[r.request_id] = Outcome(list(r.delivered))
        process.verifier.submit(r)
    left = set(found)
    while left:
        for reply in process.turn():
            one = found[reply.request_id]
            assert reply.first_token_index == len(one.text)
            if reply.prompt_logprobs:
                assert (reply.first_prompt_index, reply.tokens) == (1 + len(one.prompt), ())
            one.text += reply.tokens
            one.logprobs += reply.logprobs
            one.prompt += reply.prompt_logprobs
            one.cached_tokens, one.accepted = reply.usage.cached_tokens, reply.usage.accepted
            if reply.finish_reason:
                left.remove(reply.request_id)
    return found


def both_ways(requests: Sequence[GenerateRequest], dtype: torch.dtype = torch.float64) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    target, draft = models(dtype)
    on = outcomes(pair(target, [draft]), [replace(r, speculation=replace(r.speculation, mode="fixed")) for r in requests])
    off = outcomes(pair(target, [draft]), [replace(r, speculation=replace(r.speculation, mode="off")) for r in requests])
    return on, off


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SAMPLINGS, st.sets(IDS, max_size=30).map(tuple), st.integers(0, 1000), st.sampled_from([RAW, PROCESSED]))
def test_speculation_on_equals_off(sampling: SamplingParams, stops: tuple[int, ...], seed: int, mode: str) -> None:
    """Texts, stops and logprobs, in float64 with zero tolerance; and the oracle's text."""
    wish = LogprobsWish(4, 2, mode)
    asked = [replace(request(str(i), p, N, sampling, seed + i, stop_tokens=stops), logprobs=wish) for i, p in enumerate(TEXTS)]
    on, off = both_ways(asked)
    for i, prompt in enumerate(TEXTS):
        ours, plain = on[str(i)], off[str(i)]
        assert (ours.text, ours.logprobs, ours.prompt) == (plain.text, plain.logprobs, plain.prompt)
        assert len(ours.logprobs) == len(ours.text)
        assert len(ours.prompt) == len(prompt) - 1
        whole = sampled(tiny("llama"), prompt, sampling, seed + i, N, stops)
        assert plain.text == whole[: next((at + 1 for at, token in enumerate(whole) if token in stops), N)]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(0.0, presence_penalty=1.0, frequency_penalty=0.5),
        SamplingParams(0.0, logit_bias=((7, 6.0),), bad_words=((7, 7),)),
        SamplingParams(1.0, allowed_token_ids=tuple(range(40))),
        SamplingParams(1.0, min_tokens=40, repetition_penalty=1.2),
    ],
)
def test_drafts_know_the_processing(sampling: SamplingParams) -> None:
    """A perfect draft that ranks with the same processors misses nothing."""
    target = loaded(tiny("llama"))
    both = pair(target, [loaded(tiny("llama"))])
    stops = range(128) if sampling.min_tokens else ()
    found = outcomes(both, [request("a", TEXTS[0], 40, sampling, 3, "fixed", nodes=4, depth=4, width=1, stop_tokens=stops)])["a"]
    assert len(found.text) == 40
    assert found.accepted >= 30, "four of five, and a bonus token"


def test_logprobs_are_those_of_the_stock_model() -> None:
    sampling = SamplingParams(0.7, top_k=9, frequency_penalty=1.0)
    prompt, stock = TEXTS[0], tiny("llama")
    both, texts = {}, {}
    for mode in (RAW, PROCESSED):
        on, _ = both_ways([replace(request("a", prompt, N, sampling, 5), logprobs=LogprobsWish(5, None, mode))])
        both[mode], texts[mode] = on["a"].logprobs, on["a"].text
    assert texts[RAW] == texts[PROCESSED]
    for at, token in enumerate(texts[RAW]):
        output = texts[RAW][:at]
        logits = next_logits(stock, [*prompt, *output])[0].float()
        counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=VOCAB_SIZE)
        scaled = (logits - counts) / 0.7
        kept = scaled.masked_fill(scaled < scaled.topk(9).values[-1], -torch.inf)
        for mode, rows in ((RAW, logits), (PROCESSED, kept)):
            right, ours = rows.log_softmax(-1), both[mode][at]
            assert ours.logprob == pytest.approx(float(right[token]), abs=1e-5)
            assert ours.rank == 1 + int((right > right[token]).sum())
            best = right.topk(5)
            assert (list(ours.top_ids), list(ours.top_logprobs)) == (best.indices.tolist(), pytest.approx(best.values.tolist(), abs=1e-5))


def test_prompt_logprobs_whatever_the_prefix_cache_holds() -> None:
    """A prompt of several chunks, asked for after it was cached, beside others, with sequences preempted in the middle of it."""
    prompt = random.Random(1).choices(range(VOCAB_SIZE), k=SCORED_ROWS + 90)
    target = loaded(tiny("llama"), kv_tokens=440, prefix_cache="auto")
    first = outcomes(pair(target, []), [request("a", prompt, 5, mode="off")])["a"]
    process = pair(target, [], VerifierConfig(step_tokens=16))
    scored = replace(request("b", prompt, 5, mode="off"), logprobs=LogprobsWish(None, 3))
    others = [request(str(i), prompt[:60] + [i], 120, mode="off") for i in range(4)]
    found = outcomes(process, [*others, scored])["b"]
    assert (found.text, found.cached_tokens) == (first.text, 0)
    assert process.verifier.scheduler.preemptions > 0
    with torch.inference_mode():
        right = tiny("llama")(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    assert [one.logprob for one in found.prompt] == pytest.approx(right[range(len(prompt) - 1), prompt[1:]].tolist(), abs=1e-5)
    assert [one.top_ids for one in found.prompt] == [tuple(row.topk(3).indices.tolist()) for row in right[:-1]]


def test_at_most_so_many_rows_of_logits_at_once() -> None:
    prompts_ = [random.Random(i).choices(range(VOCAB_SIZE), k=300) for i in range(3)]
    process = pair(loaded(tiny("llama")), [], VerifierConfig(step_tokens=4096))
    runner, most = process.verifier.runner, 0
    run = runner.run

    def watched(segments):
        nonlocal most
        result = run(segments)
        most = max(most, len(result.logits))
        return result

    runner.run = watched
    wish = LogprobsWish(None, 0)
    found = outcomes(process, [replace(request(str(i), p, 2, mode="off"), logprobs=wish) for i, p in enumerate(prompts_)])
    assert SCORED_ROWS <= most <= SCORED_ROWS + len(prompts_)
    assert all(len(one.prompt) == 299 for one in found.values())


@pytest.mark.parametrize("cut", [0, 1, 9])
def test_a_text_that_goes_on_elsewhere_counts_from_its_true_beginning(cut: int) -> None:
    """What earlier attempts delivered is output, for penalties, min tokens and logprobs; prompt logprobs go on where they were."""
    sampling = SamplingParams(0.9, presence_penalty=1.0, frequency_penalty=0.6, repetition_penalty=1.1, min_tokens=12)
    whole = replace(request("a", TEXTS[0], N, sampling, 7, stop_tokens=range(60)), logprobs=LogprobsWish(2, 1))
    target, draft = models()
    first = outcomes(pair(target, [draft]), [whole])["a"]
    assert len(first.text) >= 12
    done = len(whole.prompt) if cut else 5
    resumed = replace(whole, delivered=tuple(first.text[:cut]), scored=done)
    found = Outcome(first.text[:cut], prompt=first.prompt[: done - 1])
    process = pair(target, [draft])
    process.verifier.submit(resumed)
    while process.verifier.sequences:
        for reply in process.turn():
            assert reply.first_prompt_index in (0, 1 + len(found.prompt))
            found.text += reply.tokens
            found.logprobs += reply.logprobs
            found.prompt += reply.prompt_logprobs
    assert (found.text, found.logprobs, found.prompt) == (first.text, first.logprobs[cut:], first.prompt)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_row_invariant_engine_every_bit_is_equal(dtype: str) -> None:
    """The demo pair on the native decoder: texts and logprobs, with trees, beside other sequences and alone."""
    target, draft = (
        load(ModelConfig(path=str(DEMO_MODELS / name), dtype=dtype, kv_tokens=4096, prefix_cache="off")) for name in ("target", "draft")
    )
    assert target.runner.forward.row_invariant
    rng = random.Random(3)
    samplings = [
        SamplingParams(0.0, frequency_penalty=0.7, presence_penalty=0.4),
        SamplingParams(0.8, top_p=0.9, logit_bias=((5, 2.0), (90, -3.0)), min_tokens=20),
        replace(GREEDY, bad_words=((7,), (12, 30)), repetition_penalty=1.1),
    ]
    asked = [
        replace(request(str(i), rng.choices(range(1000), k=30), 24, s, i), logprobs=LogprobsWish(5, 2, PROCESSED if i % 2 else RAW))
        for i, s in enumerate(samplings)
    ]
    process = pair(target, [draft], VerifierConfig(), DrafterConfig(), TreeConfig())
    on = outcomes(process, [replace(r, speculation=replace(r.speculation, mode="fixed")) for r in asked])
    off: dict[str, Outcome] = {}
    for r in asked:
        off |= outcomes(pair(target, []), [replace(r, speculation=replace(r.speculation, mode="off"))])
    for r in asked:
        ours, plain = on[r.request_id], off[r.request_id]
        assert (ours.text, ours.logprobs, ours.prompt) == (plain.text, plain.logprobs, plain.prompt)
    assert process.verifier.totals.accepted > 10
    for model in (target, draft):
        model.runner.close()
