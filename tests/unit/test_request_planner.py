"""Requests as verifiers take them: checked against the model, and seeded before dispatch."""

from dataclasses import replace

import pytest

from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.schema import CompletionRequest
from deployments.gateway.request_planner import DEFAULT_MAX_TOKENS, MAX_TOTAL_CHOICES, RequestPlanner, Settings
from deployments.gateway.text_codec import make_codec
from deployments.gateway.text_stream import StopRule
from drafthouse.config.api import ApiConfig
from drafthouse.errors import RequestError
from drafthouse.noise import derive_seed
from drafthouse.sampling import MAX_SEED, SamplingParams, ThinkingBudget
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import LogprobsWish
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.chat_tokenizers import THINK, THINKING, UNTHINK, byte_level

CONTEXT = 64
PLANNER = RequestPlanner("demo", codec(), metadata(CONTEXT))


def completion(planner=PLANNER, **fields):
    return planner.completion(parse_body(CompletionRequest, {"model": "demo", "prompt": "def add"} | fields))


def chat(planner=PLANNER, **fields):
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]} | fields
    return planner.chat(parse_body(ChatRequest, body))


def refused(call, *planner, **fields) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*planner, **fields)
    return caught.value


def test_a_completion_becomes_one_request():
    plan = completion(prompt="def add", temperature=0.5, top_k=3, seed=7, stop="x", max_tokens=9, speculation={"mode": "off"})
    (request,) = plan.requests
    assert request.prompt == tuple(codec().encode("def add"))
    assert (request.sampling, request.speculation) == (SamplingParams(0.5, 3), Speculation("off"))
    assert (request.seed, request.max_tokens, request.stop_tokens, request.attempt, request.delivered) == (7, 9, (0,), 1, ())
    assert (plan.seed, plan.stops, plan.prompt_tokens) == (7, ("x",), len(request.prompt))
    assert request.request_id.startswith(plan.id)
    assert plan.id.startswith("cmpl-")


@pytest.mark.parametrize("call", [completion, chat])
@pytest.mark.parametrize(("ignored", "stop_tokens"), [(None, (0,)), (False, (0,)), (True, ())])
def test_the_models_own_end_of_text_can_be_ignored(call, ignored, stop_tokens):
    assert call(ignore_eos=ignored).requests[0].stop_tokens == stop_tokens


def test_what_ends_a_text_is_the_models_and_the_requests_own():
    assert completion(stop_token_ids=[7, 0, 7]).requests[0].stop_tokens == (0, 7)
    assert completion(stop_token_ids=[7], ignore_eos=True).requests[0].stop_tokens == (7,)
    plan = completion(include_stop_str_in_output=True, stop="x", min_tokens=3)
    assert plan.stop_rule == StopRule(("x",), True, 3)


def test_bad_words_are_tokens_with_and_without_a_space_before_them():
    (request,) = completion(bad_words=["hello", " hello", "add"]).requests
    ends = {"".join(codec().token_bytes[token].decode() for token in word) for word in request.sampling.bad_words}
    assert ends == {"hello", " hello", "add", " add"}
    assert len(request.sampling.bad_words) == 4


def test_logprobs_and_echo_reach_the_plan():
    plan = completion(prompt=["def", "add"], echo=True, logprobs=2, n=2, logprobs_mode="processed_logprobs")
    assert {request.logprobs for request in plan.requests} == {LogprobsWish(2, 2, "processed_logprobs")}
    assert plan.echoes == ("def", "add")
    assert completion(prompt=[5, 6], echo=True).echoes == (codec().text_of([5, 6]),)
    assert plan.prompt_top is None
    assert chat(logprobs=True, top_logprobs=3, prompt_logprobs=1).requests[0].logprobs == LogprobsWish(3, 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"500": 1}}, "logit_bias"),
        ({"allowed_token_ids": [1, 500]}, "allowed_token_ids"),
        ({"stop_token_ids": [500]}, "stop_token_ids"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ],
)
def test_what_does_not_fit_the_model_names_the_field(fields, param):
    assert refused(completion, **fields).param == param


def test_token_ids_pass_unchanged():
    assert completion(prompt=[5, 6, 7]).requests[0].prompt == (5, 6, 7)
    assert [r.prompt for r in completion(prompt=[[5, 6], [7]]).requests] == [(5, 6), (7,)]


def test_default_max_tokens_are_openais():
    assert completion().requests[0].max_tokens == DEFAULT_MAX_TOKENS == 16
    (request,) = chat().requests
    assert request.max_tokens == CONTEXT - len(request.prompt)


def test_what_is_left_open_is_sampled_as_the_model_advises():
    advised = SamplingParams(temperature=0.6, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.1)
    planner = RequestPlanner("demo", codec(), metadata(sampling_defaults=advised))
    assert chat(planner).requests[0].sampling == advised
    assert chat(planner, temperature=0, top_k=None).requests[0].sampling == replace(advised, temperature=0)


def test_a_seed_is_drawn_when_none_is_given():
    seeds = {completion().seed for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    plan = completion()
    assert plan.requests[0].seed == plan.seed


def test_seeds_of_several_choices_and_prompts_are_derived_by_index():
    plan = completion(prompt=["a", "b"], n=2, seed=5)
    assert [request.seed for request in plan.requests] == [derive_seed(5, i) for i in range(4)]
    assert plan.requests[0].prompt == plan.requests[1].prompt != plan.requests[2].prompt
    assert len({request.request_id for request in plan.requests}) == 4
    assert plan.prompt_tokens == 2  # a prompt counts once for all its choices


def test_chat_runs_the_template():
    (request,) = chat(messages=[{"role": "user", "content": "hello"}]).requests
    assert codec()._backend.decode(list(request.prompt)) == "# user: hello\n# assistant:\n"


def test_unknown_model():
    for error in (refused(completion, model="gpt"), refused(chat, model="gpt")):
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert "'gpt'" in str(error)


def test_the_context_is_filled_but_not_passed():
    assert completion(prompt=[5] * 60, max_tokens=4).requests[0].max_tokens == 4
    strict = RequestPlanner("demo", codec(), metadata(CONTEXT), ApiConfig(strict=True))
    error = refused(completion, strict, prompt=[5] * 60, max_tokens=5)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "max_tokens")
    assert "60 in the prompt and 5 to generate" in str(error)
    assert refused(completion, prompt=[5] * 64, max_tokens=1).param == "prompt"
    plan = completion(prompt=[[5] * 60, [5] * 50], max_tokens=5)
    assert [request.max_tokens for request in plan.requests] == [4, 5]
    assert plan.notes == ("max_tokens: 4 instead of 5, which is all that the context has left",)
    error = refused(chat, messages=[{"role": "user", "content": "zqj " * 40}])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", ""]])
def test_an_empty_prompt_is_refused(prompt):
    error = refused(completion, prompt=prompt)
    assert (error.status, error.param) == (400, "prompt")
    assert "empty" in str(error)


@pytest.mark.parametrize("token", [-1, metadata().vocab_size, 1 << 40])
def test_token_ids_outside_the_vocabulary_are_refused(token):
    error = refused(completion, prompt=[1, token, 2])
    assert error.param == "prompt"
    assert str(token) in str(error)
    assert completion(prompt=[0, metadata().vocab_size - 1])


def test_choices_are_bounded_in_all():
    assert "choices" in str(refused(completion, prompt=["a"] * (MAX_TOTAL_CHOICES // 16 + 1), n=16))


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": -1}, "temperature"), ({"speculation": {"nodes": 0}}, "speculation.nodes"), ({"stop": ""}, "stop")],
)
def test_ranges_are_checked(fields, param):
    assert refused(completion, **fields).param == param
    assert refused(chat, **fields).param == param


def test_a_model_without_a_chat_template_says_so():
    error = refused(chat, planner=RequestPlanner("demo", codec(None), metadata()))
    assert (error.code, error.param) == ("no_chat_template", "messages")


def test_what_the_template_refuses_is_the_clients_fault():
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    error = refused(chat, messages=messages)
    assert (error.status, error.param) == (400, "messages")
    assert "system comes first" in str(error)


def test_text_that_is_not_unicode_is_refused():
    assert refused(completion, prompt="a\ud800").param == "prompt"
    assert refused(chat, messages=[{"role": "user", "content": "\udfff"}]).param == "messages.0.content"


def test_a_budget_of_thought_goes_to_the_verifier_by_the_tokens_of_its_tags():
    tokenizer = byte_level(THINKING)
    large = replace(metadata(1024), vocab_size=len(tokenizer))
    planner = RequestPlanner("demo", make_codec(tokenizer), large)
    opening, closing = tokenizer.convert_tokens_to_ids([THINK, UNTHINK])
    (request,) = chat(planner, thinking_token_budget=5).requests
    assert request.sampling.thinking == ThinkingBudget(5, opening, closing, inside=True), "the template has opened it"
    ended = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}]
    (request,) = chat(planner, thinking_token_budget=5, messages=ended, continue_final_message=True).requests
    assert request.sampling.thinking == ThinkingBudget(5, opening, closing, inside=False)
    assert chat(planner).requests[0].sampling.thinking is None
    none = RequestPlanner("demo", make_codec(tokenizer), large, ApiConfig(reasoning_parser="none"))
    assert refused(chat, none, thinking_token_budget=5).param == "thinking_token_budget"


def planned(sampling=SamplingParams(), **settings):  # noqa: B008
    """With a context of 64 tokens."""
    return RequestPlanner("demo", codec(), metadata()).plan("cmpl", ["hello"], Settings("demo", sampling, Speculation(), **settings))


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"bad_words": tuple(f"{i} " + "q" * 1000 for i in range(60))}, "bad_words"),
        ({"bad_words": ("q" * 1000,)}, "bad_words"),
        ({"stop_token_ids": tuple(range(257))}, "stop_token_ids"),
        ({"sampling": SamplingParams(allowed_token_ids=tuple(range(250)) * 600), "choices": 16}, "n"),
    ],
)
def test_lists_are_bounded_before_a_verifier_gets_them(settings, param):
    with pytest.raises(RequestError) as caught:
        planned(**settings)
    assert caught.value.param == param


def test_logprobs_of_prompts_are_bounded_over_all_choices():
    wish = LogprobsWish(prompt_top=20)
    assert planned(logprobs=wish, prompt_top=20, choices=2)
    planner = RequestPlanner("demo", codec(), metadata(1 << 15))
    with pytest.raises(RequestError, match="prompt_logprobs") as caught:
        planner.plan("cmpl", [[1] * 30_000], Settings("demo", SamplingParams(), Speculation(), logprobs=wish, prompt_top=20))
    assert caught.value.param == "prompt_logprobs"
