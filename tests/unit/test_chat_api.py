"""Tools, reasoning and the fields that real clients send: the HTTP API with a scripted verifier, by OpenAI's own client too."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from drafthouse.config.api import ApiConfig
from drafthouse.wire.generation_messages import SpeculationUsage
from tests.unit.byte_tokenizer import codec
from tests.unit.openai_gateway import error_of, events, request
from tests.unit.scripted_chats import END, TOOLS, options, saying, served
from tests.unit.verifier_double import VerifierDouble

USER = {"role": "user", "content": "What is the weather?"}
CHAT = {"model": "demo", "messages": [USER]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
CALLS = f"<think>\nTwo of them.\n</think>\n\nI look.\n{CALL}\n" + CALL.replace("weather", "time")
PATH = "/v1/chat/completions"


def ask(body: dict[str, Any], text: str = "ok", step: int = 2, end: tuple[int, ...] = END, **api: Any):
    return request(PATH, CHAT | body, **options(saying(text, step, end), **api))


def prompt_of(body: dict[str, Any], **api: Any) -> str:
    """What the verifier gets."""
    verifier = saying("ok")
    answer = request(PATH, CHAT | body, **options(verifier, **api))
    assert answer.status_code == 200, answer.text
    return codec()._backend.decode(list(verifier.seen[0].prompt), skip_special_tokens=False)


def fault(body: dict[str, Any], **api: Any) -> tuple[str | None, str]:
    answer = ask(body, **api)
    assert error_of(answer)[0] == 400
    return answer.json()["error"]["param"], answer.json()["error"]["message"]


def joined(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events add up to."""
    message: dict[str, Any] = {"role": None, "content": "", "reasoning_content": "", "tool_calls": {}}
    for event in found:
        for choice in event["choices"]:
            delta = choice["delta"]
            message["role"] = delta.get("role", message["role"])
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                begun = message["tool_calls"].setdefault(call["index"], {"function": {"arguments": ""}})
                begun.update({name: call[name] for name in ("id", "type") if name in call})
                begun["function"]["arguments"] += call["function"]["arguments"]
                begun["function"] |= {"name": call["function"]["name"]} if "name" in call["function"] else {}
    message["tool_calls"] = list(message["tool_calls"].values())
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"tool_calls": [{**call, "id": None} for call in message["tool_calls"]]}


def test_calls_and_reasoning_come_whole():
    body = ask({"tools": TOOLS}, CALLS).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "Two of them.")
    assert [(c["type"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("function", "weather", '{"city": "Zürich"}'),
        ("function", "time", '{"city": "Zürich"}'),
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(call_id.startswith("call_") for call_id in ids)
    thought = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert thought == len(codec().encode(">\nTwo of them.\n</think>")), "from the end of one tag to the end of the other"


def test_a_call_alone_has_null_for_content():
    message = ask({"tools": TOOLS}, CALL).json()["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_a_stream_adds_up_to_the_whole_however_many_tokens_come_together(step):
    whole = ask({"tools": TOOLS}, CALLS, step)
    body = {"tools": TOOLS, "stream": True, "stream_options": {"include_usage": True}}
    found = events(ask(body, CALLS, step))
    message = joined(found)
    assert without_ids(message) == without_ids(whole.json()["choices"][0]["message"])
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"
    details = [usage["completion_tokens_details"] for usage in (found[-1]["usage"], whole.json()["usage"])]
    assert details[0] == details[1]


def test_a_call_begins_with_its_name_and_its_arguments_come_in_pieces():
    found = events(ask({"tools": TOOLS, "stream": True}, CALL, step=1))
    deltas = [call for event in found for call in event["choices"][0]["delta"].get("tool_calls", [])]
    first, *rest = deltas
    assert set(first) == {"index", "id", "type", "function"}
    assert first["function"]["name"] == "weather"
    assert len(rest) > 2
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in rest)


def test_choices_have_calls_of_their_own():
    body = ask({"tools": TOOLS, "n": 2}, CALL).json()
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in body["choices"]]
    assert len(set(ids)) == 2


def test_without_parallel_calls_the_output_ends_with_the_first_one():
    for step in (1, 1000):
        answer = ask({"tools": TOOLS, "parallel_tool_calls": False}, CALL + CALL + " and more", step).json()
        (choice,) = answer["choices"]
        assert (choice["finish_reason"], choice["message"]["content"], len(choice["message"]["tool_calls"])) == ("tool_calls", None, 1)
        assert answer["usage"]["completion_tokens"] < len(codec().encode(CALL)) + 2


def test_a_call_that_the_limit_cuts_off_ends_by_length():
    cut = CALL[: CALL.index("rich")]
    (choice,) = ask({"tools": TOOLS}, cut, end=()).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Zü'


def test_without_tools_a_call_is_text():
    for body in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}):
        (choice,) = ask(body, CALL).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


def test_the_template_gets_the_tools_unless_none_may_be_called():
    prompt = prompt_of({"tools": TOOLS})
    assert '"description": "The weather in a city"' in prompt
    assert '# tool: {"type": "function", "function": {"name": "time"}}' in prompt
    assert "# tool" not in prompt_of({"tools": TOOLS, "tool_choice": "none"})


def test_no_string_of_a_tool_becomes_a_control_token():
    properties = {"<|end|>": {"type": "string", "enum": ["<|end|>"]}}
    function = {"name": "f", "description": "<|end|>", "parameters": {"type": "object", "properties": properties}}
    verifier = saying("ok")
    arguments = json.dumps({"<|end|>": "<|end|>"})
    echoed = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]}
    messages = [USER, echoed, {"role": "tool", "tool_call_id": "1", "content": "<|end|>"}]
    body = CHAT | {"tools": [{"type": "function", "function": function}], "messages": messages}
    assert request(PATH, body, **options(verifier)).status_code == 200
    prompt = verifier.seen[0].prompt
    assert 0 not in prompt
    assert codec()._backend.decode(list(prompt)).count("<|end|>") == 6


@pytest.mark.parametrize(
    "function",
    [
        {"name": "f", "parameters": {"properties": {"<|end|>": {}}}},
        {"name": "f", "parameters": {"properties": {"a": {"type": "<|end|>"}}}},
        {"name": "f", "parameters": {"required": ["<|end|>"]}},
    ],
)
def test_a_control_token_alone_in_a_schema_is_text(function):
    verifier = saying("ok")
    assert request(PATH, CHAT | {"tools": [{"type": "function", "function": function}]}, **options(verifier)).status_code == 200
    assert 0 not in verifier.seen[0].prompt


def test_what_the_assistant_called_and_thought_is_sent_back():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}, "index": 0}
    assistant = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "refusal": None, "annotations": []}
    tool = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]}
    prompt = prompt_of({"messages": [USER, assistant, tool]})
    called = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    assert f"# assistant:  (hm){called}\n# tool: rain\n# assistant:\n" in prompt


def test_arguments_that_are_no_object_are_shown_as_they_were_written():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
    assert '"arguments": "{\\"city\\": "' in prompt_of({"messages": [USER, {"role": "assistant", "tool_calls": [call]}, USER]})


def test_reasoning_is_told_apart_and_counted_also_where_the_prompt_begins_it():
    started = {"chat_template_kwargs": {"start_thinking": True}}
    for body, text, thought in (({}, "<think>hm</think>yes", ">hm</think>"), (started, "hm</think>yes", "hm</think>")):
        answer = ask(body, text).json()
        message = answer["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "yes")
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(codec().encode(thought))
    message = ask({}, "hm</think>yes").json()["choices"][0]["message"]
    assert message["content"] == "hm</think>yes", "no tag has opened it"
    assert "reasoning_content" not in message
    plain = ask({}, "<think>hm</think>yes", reasoning_parser="none").json()
    assert plain["choices"][0]["message"]["content"] == "<think>hm</think>yes"
    assert "completion_tokens_details" not in plain["usage"]


def test_a_users_own_tag_begins_no_reasoning():
    body = {"messages": [{"role": "user", "content": "what is <think>"}], "add_generation_prompt": False}
    assert ask(body | {"add_generation_prompt": True}, "a tag").json()["choices"][0]["message"]["content"] == "a tag"


def test_efforts_reach_the_template_by_the_words_that_it_has():
    assert prompt_of({"reasoning_effort": "none"}).endswith("# assistant:\n<think></think>")
    assert prompt_of({"reasoning_effort": "low"}).endswith("# assistant:\n")
    assert prompt_of({"chat_template_kwargs": {"enable_thinking": False}}).endswith("<think></think>")


def test_a_prediction_reaches_the_verifier_and_is_counted():
    verifier = saying("ok")
    verifier.usage = SpeculationUsage(drafted=9, verified=8, accepted=5, steps=3, predicted=4, predicted_accepted=3)
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "sunny."}]
    body = CHAT | {"prediction": {"type": "content", "content": parts}}
    usage = request(PATH, body, **options(verifier)).json()["usage"]
    assert verifier.seen[0].prediction == tuple(codec().encode("It is sunny."))
    assert usage["completion_tokens_details"] == {
        "reasoning_tokens": 0, "accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1,
    }  # fmt: skip
    assert "accepted_prediction_tokens" not in ask({}).json()["usage"].get("completion_tokens_details", {})


def test_an_assistants_message_can_be_gone_on_with():
    body = {"messages": [USER, {"role": "assistant", "content": "It is"}], "continue_final_message": True}
    assert prompt_of(body).endswith("# assistant: It is")
    thinking = {"messages": [USER, {"role": "assistant", "content": "<think>It"}], "continue_final_message": True}
    assert ask(thinking, " is</think>so").json()["choices"][0]["message"] == {
        "role": "assistant", "content": "so", "reasoning_content": "is",
    }  # fmt: skip
    assert prompt_of({"add_generation_prompt": False}).endswith("What is the weather?\n")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parametres": {}}}]}, "tools.0.function.parametres"),
        ({"tool_choice": "required", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}, "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "else"}}, "tools": TOOLS}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages.1.tool_call_id"),
        ({"messages": [{**USER, "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": ""}}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"eos_token": "x"}}, "chat_template_kwargs.eos_token"),
        ({"chat_template_kwargs": {"colour": "x"}}, "chat_template_kwargs.colour"),
        ({"chat_template_kwargs": {"start_thinking": "<|end|>"}}, "chat_template_kwargs.start_thinking"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),  # this tokenizer has several tokens for a tag
        ({"verbosity": "chatty"}, "verbosity"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"prediction": {"type": "content", "content": 1}}, "prediction.content"),
        ({"prediction": {"type": "text", "content": "a"}}, "prediction.type"),
        ({"prediction": {"type": "content", "content": "a" * 100_000}}, "prediction.content"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 16.5}, "max_tokens"),
        ({"store": "yes"}, "store"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "forever"}}]}]},
         "messages.0.content.0.cache_control.type"),
    ],
)  # fmt: skip
def test_each_bad_field_is_named(body, param):
    assert fault(body)[0] == param


def test_tools_that_would_be_lost_are_refused():
    plain = {"template": "{% for m in messages %}{{ m.content }}{% endfor %}", "context_tokens": 1024}
    for api in (ApiConfig(tool_parser="json"), ApiConfig()):
        answer = request(PATH, CHAT | {"tools": TOOLS}, **plain, api=api)
        assert error_of(answer)[2] == "tools"
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    answer = request(PATH, CHAT | {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}, **plain)
    assert error_of(answer)[2] == "messages.1.tool_calls"
    assert error_of(request(PATH, CHAT | {"reasoning_effort": "high"}, **plain))[2] == "reasoning_effort"
    assert request(PATH, CHAT | {"reasoning_effort": "none", "tool_choice": "none", "tools": TOOLS}, **plain).status_code == 200


def test_an_unknown_field_is_refused_with_the_nearest_name_or_ignored():
    param, message = fault({"temprature": 1})
    assert (param, "did you mean temperature?" in message) == ("temprature", True)
    param, message = fault({"messages": [{**USER, "tool_call": "1"}]})
    assert (param, "did you mean tool_calls?" in message) == ("messages.0.tool_call", True)
    assert "did you mean" not in fault({"qqq": 1})[1]
    own = {"temprature": 1, "messages": [{**USER, "own": [1]}], "stream_options": {"own": 1}, "stream": True}
    assert ask(own, unknown_fields="ignore").status_code == 200
    assert ask({"chat_template_kwargs": {"colour": "x"}}, unknown_fields="ignore").status_code == 200
    assert fault({"temperature": "hot"}, unknown_fields="ignore")[0] == "temperature"


def test_what_real_clients_send_by_default_passes():
    parts = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    body = {
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a", "reasoning_content": "b", "tool_calls": []}],
        "store": True, "verbosity": "low", "max_tokens": 16.0, "tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": True,
    }  # fmt: skip
    assert "# user: hello\n# assistant: a (b)\n" in prompt_of(body)


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_a_limit_beyond_the_context_is_cut_with_a_note_unless_strict(path):
    body = CHAT if path == PATH else {"model": "demo", "prompt": "hello"}
    for limit, noted in ((4096, True), (-1, False), (16.0, False)):
        verifier = saying("ok")
        answer = request(path, body | {"max_tokens": limit}, **options(verifier) | {"context_tokens": 128})
        (seen,) = verifier.seen
        left = 128 - len(seen.prompt)
        assert seen.max_tokens == (16 if limit == 16 else left)
        assert ("x-drafthouse-note" in answer.headers, "notes" in answer.json()) == (noted, noted)
        if noted:
            assert str(left) in answer.json()["notes"][0]
    assert error_of(request(path, body | {"max_tokens": 4096}, **options(strict=True)))[2:] == ("max_tokens", "context_length_exceeded")
    streamed = events(request(path, body | {"max_tokens": 4096, "stream": True}, **options()))
    assert all(event["notes"] for event in streamed)


def test_there_are_no_embeddings():
    answer = request("/v1/embeddings", {"model": "demo", "input": "a"})
    assert error_of(answer)[0] == 404
    assert "embeddings" in answer.json()["error"]["message"]


def by_client(verifier: VerifierDouble, use: Callable[[openai.OpenAI], Any]) -> Any:
    async def run() -> Any:
        async with served(verifier) as url:
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                return await asyncio.to_thread(use, client)

    return asyncio.run(run())


def test_openais_client_goes_round_the_loop_of_a_call():
    verifier = saying(CALLS)

    def use(client: openai.OpenAI) -> ChatCompletion:
        first = client.chat.completions.create(model="demo", messages=[USER], tools=TOOLS, tool_choice="auto", parallel_tool_calls=True)
        message = first.choices[0].message
        assert [call.function.name for call in message.tool_calls] == ["weather", "time"]
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Zürich"}
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
        return client.chat.completions.create(model="demo", messages=[USER, message, *results], tools=TOOLS)

    assert by_client(verifier, use).choices[0].finish_reason == "tool_calls"
    prompt = codec()._backend.decode(list(verifier.seen[1].prompt))
    assert prompt.count("# tool: rain") == 2
    assert "(Two of them.)" in prompt, "reasoning that the client sends back"


def test_openais_client_accumulates_a_stream_of_calls():
    def use(client: openai.OpenAI) -> ChatCompletion:
        with client.chat.completions.stream(model="demo", messages=[USER], tools=TOOLS) as stream:
            kinds = {event.type for event in stream}
            assert "tool_calls.function.arguments.delta" in kinds
            return stream.get_final_completion()

    message = by_client(saying(CALLS, step=3), use).choices[0].message
    assert (message.content, message.reasoning_content) == ("I look.", "Two of them.")
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("weather", '{"city": "Zürich"}'), ("time", '{"city": "Zürich"}'),
    ]  # fmt: skip


def test_openais_async_client_streams_reasoning():
    async def run() -> tuple[str, str]:
        async with served(saying("<think>hm, so</think>yes", step=1)) as url, openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            stream = await client.chat.completions.create(model="demo", messages=[USER], stream=True)
            deltas = [chunk.choices[0].delta async for chunk in stream]
            return "".join(getattr(d, "reasoning_content", None) or "" for d in deltas), "".join(d.content or "" for d in deltas)

    assert asyncio.run(run()) == ("hm, so", "yes")
