"""The OpenAI bodies: what passes, what is refused, and which field the refusal names."""

import json
import sys
from dataclasses import replace

import pytest

from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.schema import CompletionRequest
from drafthouse.errors import RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import PROCESSED, LogprobsWish

COMPLETION = {"model": "demo", "prompt": "def f"}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}


def completion(**fields):
    return parse_body(CompletionRequest, COMPLETION | fields)


def chat(**fields):
    return parse_body(ChatRequest, CHAT | fields)


def fault(kind, body) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_body(kind, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("prompt", ["text", ["one", "two"], [1, 2], [[1, 2], [3]]])
def test_prompt_in_all_four_forms(prompt):
    assert completion(prompt=prompt).prompt == prompt


@pytest.mark.parametrize("prompt", [None, 7, {"a": 1}, ["one", 2], [[1], "two"], [[1, "two"]], [True], [1.5]])
def test_prompt_in_other_forms_has_one_clear_message(prompt):
    error = fault(CompletionRequest, COMPLETION | {"prompt": prompt})
    assert error.param == "prompt"
    assert "a string, a list of strings, a list of token ids" in str(error)


@pytest.mark.parametrize(
    ("kind", "change", "param"),
    [
        (CompletionRequest, {"temprature": 1}, "temprature"),
        (CompletionRequest, {"max_tokens": 0}, "max_tokens"),
        (CompletionRequest, {"max_tokens": "16"}, "max_tokens"),
        (CompletionRequest, {"max_tokens": True}, "max_tokens"),
        (CompletionRequest, {"n": 17}, "n"),
        (CompletionRequest, {"seed": -2}, "seed"),
        (CompletionRequest, {"logprobs": True}, "logprobs"),
        (CompletionRequest, {"logit_bias": {"5": "x"}}, "logit_bias.5"),
        (CompletionRequest, {"logit_bias": [5]}, "logit_bias"),
        (CompletionRequest, {"allowed_token_ids": []}, "allowed_token_ids"),
        (CompletionRequest, {"allowed_token_ids": [-1]}, "allowed_token_ids.0"),
        (CompletionRequest, {"stop_token_ids": ["5"]}, "stop_token_ids.0"),
        (CompletionRequest, {"min_tokens": -1}, "min_tokens"),
        (CompletionRequest, {"bad_words": "word"}, "bad_words"),
        (CompletionRequest, {"logprobs_mode": "raw_logits"}, "logprobs_mode"),
        (ChatRequest, {"logprobs": 1}, "logprobs"),
        (ChatRequest, {"top_logprobs": False}, "top_logprobs"),
        (ChatRequest, {"echo": True}, "echo"),
        (CompletionRequest, {"seed": 1 << 63}, "seed"),
        (CompletionRequest, {"stop": ["a"] * 17}, "stop"),
        (CompletionRequest, {"stop": [1]}, "stop"),
        (CompletionRequest, {"speculation": {"mode": "always"}}, "speculation.mode"),
        (CompletionRequest, {"speculation": {"node": 3}}, "speculation.node"),
        (CompletionRequest, {"stream_options": {"include_usage": True}}, "stream_options"),
        (ChatRequest, {"messages": []}, "messages"),
        (ChatRequest, {"messages": [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]}, "messages.1.role"),
        (ChatRequest, {"messages": [{"content": "a"}]}, "messages.0.role"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]}, "messages.0.content.0.type"),
        (ChatRequest, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (ChatRequest, {"prompt": "text"}, "prompt"),
    ],
)
def test_a_refusal_names_the_field(kind, change, param):
    base = COMPLETION if kind is CompletionRequest else CHAT
    assert fault(kind, base | change).param == param


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_no_object_is_refused(body):
    assert fault(CompletionRequest, body).param is None


def test_a_missing_field_is_named():
    assert fault(CompletionRequest, {"prompt": "x"}).param == "model"


@pytest.mark.parametrize(
    ("field", "neutral", "other"),
    [
        ("best_of", 1, 2),
        ("suffix", "", "end"),
    ],
)
def test_unsupported_completion_fields_pass_only_when_they_ask_for_nothing(field, neutral, other):
    completion(**{field: neutral})
    completion(**{field: None})
    error = fault(CompletionRequest, COMPLETION | {field: other})
    assert (error.param, error.code) == (field, "unsupported_value")


@pytest.mark.parametrize(
    ("field", "neutral", "other"),
    [
        ("functions", [], [{"name": "f"}]),
        ("modalities", ["text"], ["audio"]),
    ],
)
def test_unsupported_chat_fields_pass_only_when_they_ask_for_nothing(field, neutral, other):
    chat(**{field: neutral})
    assert fault(ChatRequest, CHAT | {field: other}).param == field


def test_best_of_as_many_as_are_returned_asks_for_nothing():
    assert completion(n=3, best_of=3).choices == 3
    for n, best_of in ((None, 2), (3, 1), (3, 4)):
        error = fault(CompletionRequest, COMPLETION | {"n": n, "best_of": best_of})
        assert (error.param, error.code) == ("best_of", "unsupported_value")


LONE = "a\ud83d"


@pytest.mark.parametrize(
    ("kind", "change", "param"),
    [
        (CompletionRequest, {"prompt": LONE}, "prompt"),
        (CompletionRequest, {"prompt": ["a", LONE]}, "prompt"),
        (CompletionRequest, {"stop": LONE}, "stop"),
        (CompletionRequest, {"stop": ["a", LONE]}, "stop"),
        (CompletionRequest, {"model": LONE}, "model"),
        (CompletionRequest, {"user": LONE}, "user"),
        (CompletionRequest, {"metadata": {"a": LONE}}, "metadata.a"),
        (CompletionRequest, {"metadata": {LONE: "a"}}, "metadata"),
        (CompletionRequest, {"suffix": LONE}, "suffix"),
        (ChatRequest, {"stop": [LONE]}, "stop"),
        (ChatRequest, {"messages": [{"role": "user", "content": LONE}]}, "messages.0.content"),
        (ChatRequest, {"messages": [{"role": "user", "content": "a", "name": LONE}]}, "messages.0.name"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": LONE}]}]}, "messages.0.content.0.text"),
        (ChatRequest, {"safety_identifier": LONE}, "safety_identifier"),
        (ChatRequest, {"prompt_cache_key": LONE}, "prompt_cache_key"),
        (ChatRequest, {"service_tier": LONE}, "service_tier"),
        (ChatRequest, {LONE: 1}, None),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(kind, change, param):
    error = fault(kind, (COMPLETION if kind is CompletionRequest else CHAT) | change)
    assert error.param == param
    assert "Unicode" in str(error)


def test_whole_surrogate_pairs_are_characters():
    assert completion(stop=json.loads('"\\ud83d\\ude42"')).stops() == ("🙂",)


def test_a_body_may_be_nested_deeper_than_python_recurses():
    body: list = []
    for _ in range(sys.getrecursionlimit() * 2):
        body = [body]
    with pytest.raises(RequestError, match="prompt"):
        completion(prompt=body)


def test_defaults_are_openais():
    body = completion()
    assert body.sampling(SamplingParams()) == SamplingParams(temperature=1.0)
    assert body.speculation_wish() == Speculation("auto")
    assert (body.choices, body.stops(), body.seed, body.stream) == (1, (), None, None)


def test_null_is_the_default():
    fields = dict.fromkeys(["temperature", "top_p", "top_k", "min_p", "seed", "n", "stop", "stream", "speculation", "max_tokens", "user"])
    body = completion(**fields)
    assert body.sampling(SamplingParams()) == SamplingParams()
    assert body.choices == 1


def test_sampling_takes_every_field():
    given = {"temperature": 0, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2}
    assert completion(**given).sampling(SamplingParams()) == SamplingParams(**given)
    more = {"presence_penalty": -1, "frequency_penalty": 0.5, "min_tokens": 3}
    body = chat(**more, logit_bias={"7": 1, "3": -100}, allowed_token_ids=[9, 7, 7], top_p=0)
    assert body.sampling(SamplingParams()) == SamplingParams(
        top_p=0.0, **more, logit_bias=((3, -100.0), (7, 1.0)), allowed_token_ids=(7, 9)
    )


def test_editors_send_ten_stop_strings():
    stops = [f"<{i}>" for i in range(10)]
    assert completion(stop=stops).stops() == tuple(stops)


def test_a_seed_of_minus_one_is_none():
    assert [completion(seed=seed).drawn_seed for seed in (-1, None, 0, 5)] == [None, None, 0, 5]


@pytest.mark.parametrize(
    ("make", "fields", "wish"),
    [
        (completion, {}, LogprobsWish()),
        (completion, {"logprobs": False}, LogprobsWish()),
        (completion, {"logprobs": 0}, LogprobsWish(0)),
        (completion, {"logprobs": 3, "echo": True, "prompt_logprobs": 1}, LogprobsWish(3, 3)),
        (completion, {"logprobs": 3, "prompt_logprobs": 5, "logprobs_mode": PROCESSED}, LogprobsWish(3, 5, PROCESSED)),
        (completion, {"echo": True}, LogprobsWish()),
        (chat, {"logprobs": False, "top_logprobs": 0}, LogprobsWish()),
        (chat, {"logprobs": True}, LogprobsWish(0)),
        (chat, {"logprobs": True, "top_logprobs": 20, "prompt_logprobs": 0}, LogprobsWish(20, 0)),
    ],
)
def test_logprobs_as_both_endpoints_ask_for_them(make, fields, wish):
    assert make(**fields).logprobs_wish() == wish


@pytest.mark.parametrize(
    ("make", "fields", "param"),
    [
        (completion, {"logprobs": 21}, "logprobs"),
        (completion, {"logprobs": -1}, "logprobs"),
        (completion, {"prompt_logprobs": 21}, "prompt_logprobs"),
        (completion, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_logprobs_out_of_range_name_the_field(make, fields, param):
    with pytest.raises(RequestError) as caught:
        make(**fields).logprobs_wish()
    assert caught.value.param == param


@pytest.mark.parametrize("word", ["", " ", "x" * 1025])
def test_bad_words_have_a_sensible_length(word):
    assert completion(bad_words=["a"]).words() == ("a",)
    with pytest.raises(RequestError) as caught:
        completion(bad_words=["a", word]).words()
    assert caught.value.param == "bad_words"


def test_what_is_left_open_is_the_models():
    defaults = SamplingParams(temperature=0.6, top_k=20, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    assert completion().sampling(defaults) == defaults
    assert completion(temperature=None, top_k=0).sampling(defaults) == replace(defaults, top_k=0)
    given = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    assert completion(**given).sampling(defaults) == SamplingParams(temperature=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("top_k", -2),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"\u0663": 1}),
    ],
)
def test_sampling_out_of_range_names_the_field(field, value):
    with pytest.raises(RequestError) as caught:
        completion(**{field: value}).sampling(SamplingParams())
    assert caught.value.param == field


def test_speculation_out_of_range_names_the_field():
    body = completion(speculation={"mode": "fixed", "nodes": 8, "depth": 0})
    with pytest.raises(RequestError) as caught:
        body.speculation_wish()
    assert caught.value.param == "speculation.depth"


def test_stops_as_string_and_list():
    assert completion(stop="a").stops() == ("a",)
    assert completion(stop=["a", "b"]).stops() == ("a", "b")


@pytest.mark.parametrize("stop", ["", ["a", ""], "x" * 1025])
def test_stop_strings_have_a_sensible_length(stop):
    with pytest.raises(RequestError) as caught:
        completion(stop=stop).stops()
    assert caught.value.param == "stop"


def test_both_names_of_the_token_limit():
    assert chat().token_limit is None
    assert chat(max_tokens=3).token_limit == 3
    assert chat(max_completion_tokens=4).token_limit == 4
    assert chat(max_tokens=5, max_completion_tokens=5).token_limit == 5
    with pytest.raises(RequestError, match="differ"):
        _ = chat(max_tokens=3, max_completion_tokens=4).token_limit


def test_messages_as_templates_take_them():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": parts, "name": "eve"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
    ]
    assert [message.plain() for message in chat(messages=messages).messages] == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": parts, "name": "eve"},
        {"role": "assistant", "content": ""},
    ]


def test_usage_in_streams_is_asked_for():
    assert completion(stream=True, stream_options={"include_usage": True}).include_usage
    assert not completion(stream=True, stream_options={}).include_usage
    assert not completion(stream=True).include_usage
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert completion(stream=True, stream_options=options).continuous_usage
    assert not completion(stream=True, stream_options=options | {"include_usage": False}).continuous_usage
