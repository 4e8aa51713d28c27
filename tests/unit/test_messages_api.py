"""/v1/messages: Anthropic's form of the same chats, by Anthropic's own client too."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import pytest
from fastapi.responses import JSONResponse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.api.anthropic.chat_body import chat_request
from deployments.api.anthropic.message_form import MessageForm, input_of
from deployments.api.anthropic.schema import MessagesRequest
from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.responses import UsageCount
from drafthouse.config.security import ApiKeysConfig
from drafthouse.security.api_keys import generate_key, hash_of, load_api_keys
from tests.unit.byte_tokenizer import codec
from tests.unit.openai_gateway import JSON, request
from tests.unit.scripted_chats import END, options, saying, served
from tests.unit.scripted_deltas import deltas_of, hermes, split
from tests.unit.verifier_double import USAGE, Served, VerifierDouble

PATH = "/v1/messages"
USER = {"role": "user", "content": "What is the weather?"}
BODY = {"model": "demo", "max_tokens": 512, "messages": [USER]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "weather", "description": "The weather in a city", "input_schema": SCHEMA}, {"name": "time", "input_schema": {}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
CALLS = f"<think>\nTwo of them.\n</think>\n\nI look.\n{CALL}\n" + CALL.replace("weather", "time")
PIECES = [
    CALL,
    CALL.replace("weather", "time"),
    CALL[:50],
    CALL.replace('{"city": "Zürich"}', "[1]"),
    CALL.replace('"Zürich"', "1, b"),
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "text",
    "é🙂",
    "\n\n",
    "{",
]


def ask(body: dict[str, Any], text: str = "ok", step: int = 2, end: tuple[int, ...] = END, **api: Any) -> httpx.Response:
    return request(PATH, BODY | body, **options(saying(text, step, end), **api))


def message_of(body: dict[str, Any], text: str = "ok", step: int = 2, end: tuple[int, ...] = END) -> dict[str, Any]:
    answer = ask(body, text, step, end)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def prompt_of(body: dict[str, Any]) -> str:
    """What the verifier gets."""
    verifier = saying("ok")
    answer = request(PATH, BODY | body, **options(verifier))
    assert answer.status_code == 200, answer.text
    return codec()._backend.decode(list(verifier.seen[0].prompt), skip_special_tokens=False)


def events_of(text: str) -> list[dict[str, Any]]:
    *said, rest = text.split("\n\n")
    assert not rest
    events = []
    for lines in said:
        kind, data = lines.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events


def added_up(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events make, by Anthropic's rules: one block after another."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    open_block = None
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
                assert (message["content"], message["stop_reason"]) == ([], None)
            case "content_block_start":
                assert (open_block, event["index"]) == (None, len(message["content"]))
                open_block = event["index"]
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_block
                block, delta = message["content"][open_block], event["delta"]
                if delta["type"] == "input_json_delta":
                    inputs[open_block] = inputs.get(open_block, "") + delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    block[name] += delta[name]
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert events[-1]["type"] == "message_stop"
    return message | {"inputs": inputs}


def test_thinking_text_and_calls_come_as_blocks():
    message = message_of({"tools": TOOLS}, CALLS)
    thinking, text, *calls = message["content"]
    assert thinking == {"type": "thinking", "thinking": "Two of them.", "signature": ""}
    assert text == {"type": "text", "text": "I look."}
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool_use", "weather", {"city": "Zürich"}),
        ("tool_use", "time", {"city": "Zürich"}),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "demo")
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["id"].startswith("msg")


def test_usage_tells_what_was_read_from_the_cache_and_thought():
    usage = message_of({"tools": TOOLS}, CALLS)["usage"]
    count = request(PATH + "/count_tokens", {key: BODY[key] for key in ("model", "messages")} | {"tools": TOOLS}, **options()).json()
    assert usage["cache_read_input_tokens"] == USAGE.cached_tokens == 1
    assert usage["input_tokens"] + 1 == count["input_tokens"]
    assert usage["output_tokens"] == len(codec().encode(CALLS)) + 1
    assert usage["output_tokens_details"]["thinking_tokens"] == len(codec().encode(">\nTwo of them.\n</think>"))
    assert usage["speculation"]["accepted"] == USAGE.accepted


@pytest.mark.parametrize(
    ("body", "text", "end", "reason", "sequence"),
    [
        ({}, "done", END, "end_turn", None),
        ({}, "cut", (), "max_tokens", None),
        ({"stop_sequences": ["x", "\n\n"]}, "one\n\ntwo", END, "stop_sequence", "\n\n"),
        ({"tools": TOOLS}, CALL, END, "tool_use", None),
        ({"tools": TOOLS}, CALL[:-20], (), "max_tokens", None),
        ({"tools": TOOLS}, CALL[:-20], END, "end_turn", None),
        ({"tools": TOOLS, "stop_sequences": ["Zü"]}, CALL, END, "stop_sequence", "Zü"),
        ({"tools": TOOLS, "stop_sequences": ["Done"]}, CALL + "Done", END, "tool_use", "Done"),
    ],
)
def test_each_end_has_its_reason(body, text, end, reason, sequence):
    message = message_of(body, text, end=end)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_call_that_is_cut_off_has_what_came_of_its_input():
    cut = CALL[: CALL.index("}}")].replace('"city"', '"a": [1, 2], "city"')
    (block,) = message_of({"tools": TOOLS}, cut, end=())["content"]
    assert block["input"] == {"a": [1, 2], "city": "Zürich"}
    (block,) = message_of({"tools": TOOLS}, cut[:-4], end=())["content"]
    assert block["input"] == {"a": [1, 2]}, "half a string is none"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [("", {}), ('{"a": 1', {"a": 1}), ('"a"', {"unparsed": '"a"'}), ("{a", {"unparsed": "{a"}), ('{"a": "b', {})],
)
def test_an_input_that_is_no_object_is_not_lost(arguments, found):
    assert input_of(arguments, partial=True) == found


def test_a_call_that_something_else_than_the_limit_cuts_off_has_no_input_to_go_by():
    cut = CALL[: CALL.index("}}")]
    (block,) = message_of({"tools": TOOLS}, cut.replace('"city"', '"a": 1, "city"'))["content"]
    assert block["input"] == {"unparsed": '{"a": 1, "city": "Zürich"'}
    (block,) = message_of({"tools": TOOLS}, cut + "}")["content"]
    assert block["input"] == {"city": "Zürich"}, "its arguments are whole"


NUMBERS = ["NaN", "-Infinity", "1e999", "9" * 400 + ".5", "9" * 5000]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_that_no_json_holds_stand_with_the_arguments_as_written(number):
    arguments = f'{{"city": {number}}}'
    assert JSONResponse(input_of(arguments, partial=False)).body == JSONResponse({"unparsed": arguments}).body
    if len(number) < 100:
        (block,) = message_of({"tools": TOOLS}, CALL.replace('"Zürich"', number))["content"]
        assert block["input"] == {"unparsed": arguments}


def test_a_number_of_many_digits_stays_one():
    assert JSONResponse(input_of(f'{{"a":{"9" * 400}}}', partial=False)).body == b'{"a":' + b"9" * 400 + b"}"


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_stream_adds_up_to_the_whole(step):
    whole = ask({"tools": TOOLS}, CALLS, step).json()
    answer = ask({"tools": TOOLS, "stream": True}, CALLS, step)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert_same(added_up(events), whole)


def assert_same(streamed: dict[str, Any], whole: dict[str, Any]) -> None:
    inputs = streamed.pop("inputs")
    for message in (streamed, whole):
        message["id"] = None
        for block in message["content"]:
            block["id"] = None
    for index, text in inputs.items():
        streamed["content"][index]["input"] = json.loads(text)
    assert streamed == whole


class Plan:
    """What a form reads of a plan."""

    id = "msg-1"

    def call_id(self, choice: int, index: int) -> str:
        return f"call-{index}"


def form() -> MessageForm:
    return MessageForm(Plan(), "demo", UsageCount(5, 1, reasoning_tokens=0))


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join),
    st.lists(st.integers(0, 10_000), max_size=4),
    st.sampled_from(["stop", "length"]),
)
@example(CALL.replace('"Zürich"', "1, b"), [9], "stop")
def test_every_split_of_an_output_adds_up_to_the_whole(text, cuts, reason):
    whole = form()
    for delta in deltas_of(split(text, []), hermes(), reason):
        whole.add(0, delta)
    said = whole.whole()
    for pieces in (split(text, cuts), split(text, range(len(codec().encode(text))))):
        streamed = form()
        deltas = deltas_of(pieces, hermes(), reason)
        message = added_up(events_of("".join(streamed.events(0, delta) for delta in deltas) + streamed.closing()))
        inputs = message.pop("inputs")
        for index, text in inputs.items():
            message["content"][index]["input"] = json.loads(text)
        assert message == said


def test_what_was_said_and_called_before_stands_in_the_prompt_in_its_order():
    called = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Zürich"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "abc"}
    results = [
        {"type": "tool_result", "tool_use_id": "1", "content": "rain"},
        {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "noon"}], "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    prompt = prompt_of(
        {
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                USER,
                {"role": "assistant", "content": [thought, {"type": "text", "text": "I look."}, called]},
                {"role": "user", "content": results},
            ],
        }
    )
    assert prompt == (
        "# system: Be brief.\n# user: What is the weather?\n"
        '# assistant: I look. (hm)<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>\n'
        "# tool: rain\n# tool: noon\n# user: And now?\n# assistant:\n"
    )


def test_turns_of_one_role_are_joined():
    assert prompt_of({"messages": [USER, {"role": "user", "content": [{"type": "text", "text": " Now!"}]}]}) == (
        "# user: What is the weather? Now!\n# assistant:\n"
    )


def test_an_answer_goes_on_with_the_assistants_last_turn():
    prompt = prompt_of({"messages": [USER, {"role": "assistant", "content": "It is"}]})
    assert prompt == "# user: What is the weather?\n# assistant: It is"


def test_tools_go_to_the_template_unless_none_may_be_called():
    tools = [TOOLS[0] | {"type": "custom", "cache_control": {"type": "ephemeral"}}]
    prompt = prompt_of({"tools": tools, "tool_choice": {"type": "auto"}})
    assert '# tool: {"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters":' in prompt
    assert "# tool" not in prompt_of({"tools": TOOLS, "tool_choice": {"type": "none"}})


def test_without_parallel_calls_the_output_ends_with_the_first_one():
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(message_of({"tools": TOOLS, "tool_choice": choice}, CALL + CALL)["content"]) == 1


def test_sampling_fields_arrive():
    verifier = saying("ok")
    body = {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "max_tokens": 9, "metadata": {"user_id": "a"}, "service_tier": "auto"}
    request(PATH, BODY | body, **options(verifier))
    (seen,) = verifier.seen
    assert (seen.sampling.temperature, seen.sampling.top_k, seen.sampling.top_p, seen.max_tokens) == (0.5, 7, 0.25, 9)


def test_thinking_can_be_asked_for_and_switched_off():
    assert "<think></think>" in prompt_of({"thinking": {"type": "disabled"}})
    assert "<think></think>" not in prompt_of({"thinking": {"type": "adaptive"}})


def chat_of(body: dict[str, Any], *variables: str) -> ChatRequest:
    """`variables`: those of the template."""
    return chat_request(parse_body(MessagesRequest, BODY | body), variables.__contains__)[0]


def test_thinking_becomes_a_chats_budget_and_switch():
    body = {"thinking": {"type": "enabled", "budget_tokens": 99, "display": "summarized"}}
    chat = chat_of(body, "enable_thinking")
    assert (chat.thinking_token_budget, chat.chat_template_kwargs, chat.reasoning_effort) == (99, {"enable_thinking": True}, None)
    assert chat_of(body).chat_template_kwargs is None
    chat = chat_of({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "thinking")
    assert (chat.thinking_token_budget, chat.chat_template_kwargs, chat.reasoning_effort) == (None, {"thinking": True}, "xhigh")
    assert chat_of({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}).reasoning_effort == "none"


def test_choices_of_tools_become_those_of_chats():
    def choice(**said: Any) -> Any:
        return chat_of({"tools": TOOLS, "tool_choice": said})

    assert [choice(type=kind).tool_choice for kind in ("auto", "any", "none")] == ["auto", "required", "none"]
    assert choice(type="tool", name="time").tool_choice.function.name == "time"
    assert choice(type="any", disable_parallel_tool_use=True).parallel_tool_calls is False


def test_what_claude_code_sends_passes():
    control = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
    body = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": control}],
        "tools": [TOOLS[0] | {"input_examples": [{"city": "Bern"}], "cache_control": control}],
    }
    for edits in ([], [{"type": "clear_thinking_20251015", "keep": "all"}]):
        assert message_of(body | {"context_management": {"edits": edits}})["content"] == [{"type": "text", "text": "ok"}]


def test_thinking_that_is_omitted_leaves_empty_blocks():
    body = {"tools": TOOLS, "thinking": {"type": "adaptive", "display": "omitted"}}
    whole = message_of(body, CALLS)
    assert whole["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert whole["content"][1] == {"type": "text", "text": "I look."}
    assert_same(added_up(events_of(ask(body | {"stream": True}, CALLS).text)), whole)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0: blocks of type image"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0: blocks of type document"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}]}]},
         "messages.0.content.0.content.0: blocks of type image"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": ""}]}]}, "messages.0.content.0: a message of"),
        ({"messages": [USER, USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]},
         "messages.2: the last message must be text"),
        ({"system": [IMAGE]}, "system.0: blocks of type image"),
        ({"stop_sequences": ["a"] * 99}, "stop_sequences"),
        ({"stop_sequences": [""]}, "a stop_sequences string"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 7.0}, "top_p"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.name: 'weather' is there twice"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name: no tool"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens: its tags"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "no such type"}}}}, "output_config.format"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits.0.type"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}]}},
         "context_management.edits.0.keep"),
        ({"max_token": 1}, "max_token: no such field; did you mean max_tokens?"),
    ],
)  # fmt: skip
def test_each_bad_field_is_named_in_anthropics_form(body, field):
    answer = ask(body)
    assert answer.status_code == 400
    error = answer.json()
    assert (set(error), error["type"], set(error["error"]), error["error"]["type"]) == (
        {"type", "error"}, "error", {"type", "message"}, "invalid_request_error",
    )  # fmt: skip
    assert error["error"]["message"].startswith(field)


@pytest.mark.parametrize(
    ("asked", "status", "kind"),
    [
        ({"body": BODY | {"model": "other"}}, 404, "not_found_error"),
        ({"body": BODY, "headers": {}}, 415, "invalid_request_error"),
        ({"body": BODY | {"system": "a" * 1024}, "max_body_bytes": 1024}, 413, "request_too_large"),
        ({"body": BODY, "capacity": 0}, 429, "rate_limit_error"),
        ({"body": BODY, "routed": False}, 503, "overloaded_error"),
        ({"method": "GET"}, 405, "invalid_request_error"),
    ],
)
def test_each_error_has_anthropics_form(asked, status, kind):
    answer = request(PATH, **asked)
    assert answer.status_code == status
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)


def test_keys_come_as_x_api_key_or_bearer_on_these_routes_alone():
    key = generate_key()
    keys = load_api_keys(ApiKeysConfig(hashes=(hash_of(key),)))

    def status(path: str, body: object, **headers: str) -> int:
        answer = request(path, body, keys=keys, headers=JSON | headers, **options())
        if answer.status_code == 401 and path == PATH:
            assert answer.json()["error"]["type"] == "authentication_error"
        return answer.status_code

    assert status(PATH, BODY, **{"x-api-key": key, "anthropic-version": "2023-06-01"}) == 200
    assert status(PATH, BODY, Authorization=f"Bearer {key}") == 200
    assert status(PATH, BODY, **{"x-api-key": key[:-1]}) == 401
    assert status(PATH, BODY) == 401
    chat = {"model": "demo", "messages": [USER]}
    assert status("/v1/chat/completions", chat, **{"x-api-key": key}) == 401


def by_client(verifier: VerifierDouble, use: Callable[[anthropic.Anthropic], Any]) -> Any:
    async def run() -> Any:
        async with served(verifier) as url:
            with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=0) as client:
                return await asyncio.to_thread(use, client)

    return asyncio.run(run())


def test_anthropics_client_goes_round_the_loop_of_a_call():
    verifier = saying(CALLS)

    def use(client: anthropic.Anthropic) -> anthropic.types.Message:
        first = client.messages.create(model="demo", max_tokens=512, messages=[USER], tools=TOOLS)
        calls = [block for block in first.content if block.type == "tool_use"]
        assert [call.name for call in calls] == ["weather", "time"]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
        messages = [USER, first.to_param(), {"role": "user", "content": results}]
        return client.messages.create(model="demo", max_tokens=512, messages=messages, tools=TOOLS)

    assert by_client(verifier, use).stop_reason == "tool_use"
    prompt = codec()._backend.decode(list(verifier.seen[1].prompt))
    assert prompt.count("# tool: rain") == 2
    assert "(Two of them.)" in prompt, "thinking that the client sends back"


def test_anthropics_client_accumulates_a_stream():
    def use(client: anthropic.Anthropic) -> tuple[set[str], anthropic.types.Message]:
        with client.messages.stream(model="demo", max_tokens=512, messages=[USER], tools=TOOLS) as stream:
            return {event.type for event in stream}, stream.get_final_message()

    kinds, message = by_client(saying(CALLS, step=3), use)
    assert {"thinking", "text", "input_json"} <= kinds
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (message.content[0].thinking, message.content[1].text) == ("Two of them.", "I look.")
    assert message.content[2].input == {"city": "Zürich"}
    assert message.usage.output_tokens == len(codec().encode(CALLS)) + 1


@pytest.mark.parametrize("written", ["1, b", "1e999", '"a" "b"'])
def test_anthropics_client_accumulates_arguments_that_are_no_json(written):
    def use(client: anthropic.Anthropic) -> anthropic.types.Message:
        with client.messages.stream(model="demo", max_tokens=512, messages=[USER], tools=TOOLS) as stream:
            return stream.get_final_message()

    message = by_client(saying(CALL.replace('"Zürich"', written), step=1), use)
    assert message.content[0].input == {"unparsed": f'{{"city": {written}}}'}


def test_anthropics_client_counts_and_gets_its_own_errors():
    def use(client: anthropic.Anthropic) -> int:
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            client.messages.create(model="other", max_tokens=1, messages=[USER])
        with pytest.raises(anthropic.BadRequestError, match="messages.0.content.0: blocks of type image"):
            client.messages.create(model="demo", max_tokens=1, messages=[{"role": "user", "content": [IMAGE]}])
        return client.messages.count_tokens(model="demo", messages=[USER], system="Be brief.").input_tokens

    counted = by_client(saying("ok"), use)
    assert counted == len(codec().encode("# system: Be brief.\n# user: What is the weather?\n# assistant:\n"))


def test_anthropics_async_client_streams_text():
    async def run() -> str:
        async with (
            served(saying("hello, you", step=1)) as url,
            anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), auth_token="none") as client,
            client.messages.stream(model="demo", max_tokens=64, messages=[USER]) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(run()) == "hello, you"


def test_a_stream_that_fails_ends_with_an_error_event():
    async def cut(index: int, served: Served) -> None:
        if index == 4:
            await served.cut()

    verifier = VerifierDouble("a", tokens=lambda request: tuple(codec().encode("hello, you")), step=2, before=cut)
    answer = request(PATH, BODY | {"stream": True}, **(options(verifier) | {"patience_s": 0.05}))
    assert answer.status_code == 200
    last = events_of(answer.text)[-1]
    assert last["type"] == "error"
    assert last["error"]["message"]
