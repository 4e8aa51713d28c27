"""A predicted output is drafted and changes nothing: the text is the one without it, in fewer steps."""

import random
from dataclasses import replace

import pytest

from benchmarks.prediction import Comparison, PredictionOptions
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateReply
from tests.engine.pairs import GREEDY, loaded, pair, prompts, request
from tests.engine.tiny_models import tiny

TOKENS = 60
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_text_is_the_same_and_takes_fewer_steps(sampling: SamplingParams) -> None:
    served, (prompt,) = loaded(tiny("llama")), prompts(1)
    plain = request("plain", prompt, TOKENS, sampling, seed=5, mode="off")
    (text,) = pair(served, []).generate([plain]).values()
    draw = random.Random(1)
    edited = [draw.randrange(256) if draw.random() < 0.1 else token for token in text]
    asked = replace(plain, request_id="predicted", speculation=replace(plain.speculation, mode="auto"), prediction=tuple(edited))
    both = pair(served, [])
    both.verifier.submit(asked)
    replies: list[GenerateReply] = []
    while not (replies and replies[-1].finish_reason):
        replies += both.turn()
    assert [token for reply in replies for token in reply.tokens] == list(text)
    totals, found = both.verifier.totals, both.verifier.meter.acceptance.totals()
    assert found["accepted_source.prediction"] == totals.accepted >= 30
    assert totals.steps <= TOKENS - totals.accepted + 1
    usage = replies[-1].usage
    assert (usage.predicted, usage.predicted_accepted) == (totals.verified, totals.accepted)


def test_a_resumed_request_goes_on_in_its_prediction() -> None:
    served, (prompt,) = loaded(tiny("llama")), prompts(1)
    (text,) = pair(served, []).generate([request("plain", prompt, TOKENS, mode="off")]).values()
    resumed = replace(request("resumed", prompt, TOKENS, delivered=text[:20]), prediction=tuple(text))
    both = pair(served, [])
    assert both.generate([resumed])["resumed"] == text
    assert both.verifier.totals.accepted >= 30


def test_off_and_fixed_draft_nothing_of_it() -> None:
    served, (prompt,) = loaded(tiny("llama")), prompts(1)
    both = pair(served, [])
    both.generate([replace(request("off", prompt, 10, mode="off"), prediction=(1, 2, 3))])
    assert both.verifier.totals.verified == 0


def test_the_benchmark_finds_its_texts_equal_and_its_steps_fewer() -> None:
    comparison = Comparison(loaded(tiny("llama")), PredictionOptions("tiny", "float32", 1, 2, 40, 1))
    for number, prompt in enumerate(prompts(2)):
        comparison.run(number, prompt)
    report = comparison.report()
    assert (report["texts"], report["texts_different"]) == (6, 0)
    steps = report["tokens_per_step"]
    assert steps["off"] == steps["off again"] == 1.0
    assert steps["with prediction"] > 2.0
    assert report["prediction_tokens"]["accepted"] >= 30
