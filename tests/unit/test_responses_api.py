"""/v1/responses over HTTP with a scripted verifier: what a body means, what is refused, and how a stream goes wrong."""

import asyncio
from functools import cache
from typing import Any

import pytest

from deployments.api.openai.body import parse_body
from deployments.api.responses.chat_request import chat_request
from deployments.api.responses.routes import plan_of
from deployments.api.responses.schema import ResponsesRequest
from deployments.gateway.request_planner import RequestPlan, RequestPlanner
from drafthouse.config.api import ApiConfig
from drafthouse.errors import RequestError
from drafthouse.wire.dialect import OURS
from drafthouse.wire.generation_messages import RefusalKind
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.openai_gateway import CHAT, IDS, error_of, gateway, request
from tests.unit.scoring_double import Scoring
from tests.unit.scripted_chats import TEMPLATE, TOOLS, options, saying
from tests.unit.test_chat_api import CALL, CALLS
from tests.unit.test_openai_routes import asgi_post
from tests.unit.test_responses_form import events_of
from tests.unit.verifier_double import VerifierDouble, cut_at, forever, refusing

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "demo", "input": "hello"}
FLAT = [{"type": "function"} | tool["function"] for tool in TOOLS]
LOGPROBS = "message.output_text.logprobs"


def ask(body: dict[str, Any], text: str = "ok", **api: Any):
    return request(PATH, BODY | body, **options(saying(text), **api))


@cache
def planner(**api: Any) -> RequestPlanner:
    return RequestPlanner("demo", codec(TEMPLATE), metadata(1024), ApiConfig(**api))


def planned(body: dict[str, Any], **api: Any) -> RequestPlan:
    """What the route makes of a body."""
    ignore = api.get("unknown_fields") == "ignore"
    return plan_of(planner(**api), parse_body(ResponsesRequest, BODY | body, "demo", ignore))


def prompt_of(body: dict[str, Any], **api: Any) -> str:
    return codec()._backend.decode(list(planned(body, **api).requests[0].prompt), skip_special_tokens=False)


def fault(body: dict[str, Any], **api: Any) -> tuple[str | None, str]:
    with pytest.raises(RequestError) as raised:
        planned(body, **api)
    return raised.value.param, str(raised.value)


def parts(kind: str, *texts: str) -> list[dict[str, str]]:
    return [{"type": kind, "text": text} for text in texts]


def test_a_string_is_a_users_message_and_instructions_come_first():
    assert prompt_of({}) == "# user: hello\n# assistant:\n"
    assert prompt_of({"instructions": "be short"}) == "# system: be short\n# user: hello\n# assistant:\n"
    items = [{"role": "developer", "content": "in French"}, {"role": "user", "content": parts("input_text", "a", "b")}]
    assert prompt_of({"instructions": "be short", "input": items}) == "# system: be short\n\nin French\n# user: ab\n# assistant:\n"
    assert prompt_of({"input": items}) == "# system: in French\n# user: ab\n# assistant:\n"


def test_what_an_answer_had_is_sent_back_as_one_message_of_the_assistant():
    answer = ask({"tools": FLAT}, CALLS).json()
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": output}
        for item, output in zip(answer["output"][2:], ["rain", parts("input_text", "noon")], strict=True)
    ]
    prompt = prompt_of({"tools": FLAT, "input": [{"role": "user", "content": "Weather?"}, *answer["output"], *results]})
    city = '"arguments": {"city": "Zürich"}'
    calls = "".join(f'<tool_call>{{"name": "{name}", {city}}}</tool_call>' for name in ("weather", "time"))
    assert prompt.endswith(f"# user: Weather?\n# assistant: I look. (Two of them.){calls}\n# tool: rain\n# tool: noon\n# assistant:\n")


def test_turns_of_the_assistant_stay_apart():
    said = [{"role": "assistant", "content": "a"}, {"type": "message", "role": "assistant", "content": parts("output_text", "b", "c")}]
    assert prompt_of({"input": said}) == "# assistant: a\n# assistant: bc\n# assistant:\n"
    thought = {"type": "reasoning", "id": "rs_1", "summary": parts("summary_text", "hm"), "encrypted_content": None}
    assert prompt_of({"input": [said[0], thought, said[1]]}) == "# assistant: a\n# assistant: bc (hm)\n# assistant:\n"


def test_what_is_said_behind_a_call_is_a_message_of_its_own():
    items = [
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "1", "name": "time", "arguments": "{}"},
        {"role": "assistant", "content": "Then."},
        {"type": "function_call_output", "call_id": "1", "output": "noon"},
    ]
    call = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    prompt = f"# assistant: I look.{call}\n# assistant: Then.\n# tool: noon\n# assistant:\n"
    assert prompt_of({"input": items}) == prompt


def test_thoughts_of_one_turn_are_joined():
    items = [{"type": "reasoning", "summary": parts("summary_text", *said)} for said in ((), ("a", "b"), ("c",))]
    assert prompt_of({"input": [*items, {"role": "assistant", "content": "d"}]}) == "# assistant: d (a\nb\nc)\n# assistant:\n"


def test_tools_choices_and_efforts_reach_the_template():
    assert '# tool: {"type": "function", "function": {"name": "time"}}' in prompt_of({"tools": FLAT})
    assert "# tool" not in prompt_of({"tools": FLAT, "tool_choice": "none"})
    assert prompt_of({"reasoning": {"effort": "none", "summary": "auto"}}).endswith("<think></think>")
    assert prompt_of({"chat_template_kwargs": {"enable_thinking": False}}).endswith("<think></think>")


def test_text_formats_are_those_of_chats():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    body, names = chat_request(ResponsesRequest.model_validate(BODY | {"text": {"format": form}}))
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert names.own("response_format.json_schema.schema") == "text.format.schema"
    for kind in ("text", "json_object"):
        body, _ = chat_request(ResponsesRequest.model_validate(BODY | {"text": {"format": {"type": kind}}}))
        assert body["response_format"] == {"type": kind}


def test_sampling_and_limits_reach_the_verifier():
    wishes = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 11, "max_output_tokens": 5, "presence_penalty": 1.0}
    more = {"speculation": {"mode": "off"}, "stop_token_ids": [9], "structured_outputs": {"json": {"type": "object"}}}
    (got,) = planned(wishes | more, reasoning_parser="none").requests
    assert got.sampling.grammar is not None
    assert got.sampling.grammar.kind == "json_schema"
    sampling = got.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.presence_penalty) == (0.5, 0.9, 7, 1.0)
    assert (got.seed, got.max_tokens, got.speculation.mode) == (11, 5, "off")
    assert 9 in got.stop_tokens


def test_the_answer_repeats_the_request():
    body = {
        "instructions": "be short", "metadata": {"a": "b"}, "tools": FLAT, "tool_choice": "auto", "parallel_tool_calls": False,
        "reasoning": {"effort": "low"}, "max_output_tokens": 99, "user": "u", "prompt_cache_key": "k", "safety_identifier": "s",
        "temperature": 0.25, "text": {"format": {"type": "text"}, "verbosity": "low"}, "store": True, "truncation": "disabled",
    }  # fmt: skip
    answer = ask(body).json()
    for name in ("instructions", "metadata", "max_output_tokens", "user", "prompt_cache_key", "safety_identifier", "temperature", "text"):
        assert answer[name] == body[name]
    assert [tool["name"] for tool in answer["tools"]] == ["weather", "time"]
    assert (answer["reasoning"], answer["parallel_tool_calls"], answer["store"]) == ({"effort": "low", "summary": None}, False, False)


def test_without_parallel_calls_the_output_ends_with_the_first_one():
    output = ask({"tools": FLAT, "parallel_tool_calls": False}, CALL + CALL + " and more").json()["output"]
    assert [item["type"] for item in output] == ["function_call"]


def test_a_limit_beyond_the_context_is_cut_with_a_note_in_the_bodys_own_words():
    answer = ask({"max_output_tokens": 4096})
    (note,) = answer.json()["notes"]
    assert note.startswith("max_output_tokens: ")
    assert answer.headers["x-drafthouse-note"] == note


def turn(number: int, size: int) -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": str(number), "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": str(number), "output": "rain"}
    return [{"role": "user", "content": f"turn {number} " + "é" * size}, call, result, {"role": "assistant", "content": "It rains."}]


def long_input(count: int, size: int = 40) -> list[dict[str, Any]]:
    items = [{"role": "developer", "content": "be short"}, *(item for number in range(count) for item in turn(number, size))]
    return [*items, {"role": "user", "content": "and now?"}]


def without_turns(gone: int, count: int) -> list[dict[str, Any]]:
    system, *items = long_input(count)
    return [system, *items[4 * gone :]]


def room(body: dict[str, Any]) -> int:
    """Tokens that may be generated."""
    try:
        return planned(body).max_tokens
    except RequestError:
        return 0


@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("wanted", [None, 300])
def test_an_input_that_is_too_long_loses_its_oldest_turns_where_that_is_asked_for(count, wanted):
    body = {"input": long_input(count), "max_output_tokens": wanted}
    auto = planned(body | {"truncation": "auto"})
    prompt = codec()._backend.decode(list(auto.requests[0].prompt))
    assert prompt.startswith("# system: be short\n# user: ")
    assert prompt.endswith("# user: and now?\n# assistant:\n")
    assert auto.max_tokens >= (wanted or 1)
    gone = count - prompt.count("# user: turn")
    assert (gone > 0) is (room(body) < (wanted or 1))
    assert prompt == prompt_of(body | {"input": without_turns(gone, count)})
    if not gone:
        assert auto.notes == ()
        return
    assert auto.notes == (f"input: the first {4 * gone} items were left out, so that the rest fits the context",)
    assert room(body | {"input": without_turns(gone - 1, count)}) < (wanted or 1), "no more than needed"


def test_what_does_not_fit_is_refused_where_nothing_can_be_left_out():
    for body in ({"input": long_input(30)}, {"input": long_input(1, 4000)[:2], "truncation": "auto"}, {"input": "é" * 4000}):
        with pytest.raises(RequestError) as raised:
            planned({"truncation": "disabled"} | body)
        assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "input")
    last = [*long_input(2), {"role": "user", "content": "é" * 4000}]
    with pytest.raises(RequestError) as raised:
        planned({"truncation": "auto", "input": last})
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize("top", [0, 2])
def test_logprobs_of_the_text(top):
    verifier = Scoring("a", tokens=lambda request: IDS, says=OURS.metadata())
    body = BODY | {"include": [LOGPROBS], "top_logprobs": top}
    (item,) = request(PATH, body, verifier=verifier).json()["output"]
    (part,) = item["content"]
    assert [each["logprob"] for each in part["logprobs"]] == [-token - 0.5 for token in IDS]
    assert all(len(each["top_logprobs"]) == top for each in part["logprobs"])
    streamed = events_of(request(PATH, body | {"stream": True}, verifier=verifier).text)
    grown = [event for event in streamed if event["type"] == "response.output_text.delta"]
    assert [each for event in grown for each in event["logprobs"]] == part["logprobs"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": "a", "contents": 1}]}, "input.0.contents"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "input.0"),
        ({"input": [{"type": "function_call", "call_id": "1", "arguments": "{}"}]}, "input.0.name"),
        ({"input": [{"type": "reasoning", "id": "1", "summary": [], "encrypted_content": "x"}]}, "input.0.encrypted_content"),
        ({"input": [{"type": "function_call_output", "call_id": "", "output": "x"}]}, "input.0.call_id"),
        ({"input": [{"role": "user", "content": "x" * 100_000}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "name": "a", "format": {}}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
        ({"tools": [FLAT[0], FLAT[0]]}, "tools.1.name"),
        ({"tool_choice": {"type": "function", "name": "else"}, "tools": FLAT}, "tool_choice.name"),
        ({"tool_choice": {"type": "web_search"}, "tools": FLAT}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"text": {"verbosity": "chatty"}}, "text.verbosity"),
        ({"text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),  # this tokenizer has several tokens for a tag of reasoning
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": [LOGPROBS], "top_logprobs": 21}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"temperature": 101.0}, "temperature"),
        ({"stop_token_ids": [1 << 20]}, "stop_token_ids"),
        ({"chat_template_kwargs": {"colour": "x"}}, "chat_template_kwargs.colour"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "some"}, "truncation"),
        ({"n": 2}, "n"),
    ],
)  # fmt: skip
def test_each_bad_field_is_named(body, param):
    found, message = fault(body)
    assert found is not None
    assert found == param or found.startswith(param + ".")
    assert message.startswith(param) or param.rpartition(".")[0] in ("", "input.0", "tools.1"), message


def test_what_needs_a_memory_says_that_there_is_none():
    for body in ({"previous_response_id": "resp_1"}, {"conversation": "c"}, {"input": [{"type": "item_reference", "id": "msg_1"}]}):
        assert "nothing is stored" in fault(body)[1]
    assert "web_search" in fault({"tools": [{"type": "web_search"}]})[1]


def test_an_unknown_field_is_refused_with_the_nearest_name_or_ignored():
    param, message = fault({"max_output_token": 5})
    assert (param, "did you mean max_output_tokens?" in message) == ("max_output_token", True)
    for name, own in {"max_tokens": "max_output_tokens", "messages": "input", "response_format": "text: {format}"}.items():
        assert fault({name: 5}) == (name, f"{name}: not supported; send {own}")
    param, message = fault({"input": [{"role": "user", "content": "a", "contents": 1}]})
    assert (param, "did you mean content?" in message) == ("input.0.contents", True)
    own = {"colour": 1, "input": [{"role": "user", "content": "a", "own": 1}], "text": {"own": 1}}
    assert planned(own, unknown_fields="ignore")


def test_what_real_clients_send_by_default_passes():
    body = {
        "store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": None, "summary": "auto"}, "truncation": None,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "service_tier": "auto", "prompt_cache_retention": "24h",
        "previous_response_id": None, "background": False, "metadata": None, "top_logprobs": 0, "text": {"format": {"type": "text"}},
    }  # fmt: skip
    assert planned(body)


def test_an_error_before_the_first_token_has_its_own_status():
    assert error_of(request(PATH, BODY | {"stream": True}, routed=False))[0] == 503
    assert error_of(request(PATH, BODY | {"model": "other"}))[3] == "model_not_found"
    assert error_of(request(PATH, BODY, capacity=0))[0] == 429


def test_what_a_verifier_finds_wrong_names_the_bodys_own_fields():
    verifier = VerifierDouble("a", before=refusing(RefusalKind.WRONG, "max_tokens is beyond the context"))
    answer = request(PATH, BODY, verifier=verifier)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "max_output_tokens is beyond the context")


def test_an_error_after_it_is_the_streams_last_event():
    broken = VerifierDouble("a", tokens=lambda request: IDS, before=cut_at(8))
    events = events_of(request(PATH, BODY | {"stream": True}, verifier=broken).text)
    assert [event["type"] for event in events].count("response.failed") == 1
    last = events[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert last["response"]["output"][0]["content"][0]["text"] == codec().text_of(IDS[:8])


def test_the_stream_begins_before_the_first_token_where_that_takes_long():
    async def run():
        stalling = VerifierDouble("a", before=forever)
        async with gateway(stalling, keep_alive_s=0.05) as (app, service):
            sent: asyncio.Queue = asyncio.Queue()
            task = asyncio.create_task(asgi_post(app, PATH, BODY | {"stream": True}, sent))
            assert (await asyncio.wait_for(sent.get(), 5.0))["status"] == 200
            first = (await asyncio.wait_for(sent.get(), 5.0))["body"]
            assert first.startswith(b"event: response.created\n")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(stalling.cancelled.wait(), 5.0)
            assert (service.running, service.totals().outcome["cancelled"]) == (0, 1)

    asyncio.run(run())


def test_it_counts_as_all_generation_does(caplog):
    caplog.set_level("INFO", "deployments")
    answer = request(PATH, BODY, limits={"requests_per_minute": 5})
    assert answer.headers["x-ratelimit-remaining-requests"] == "4"
    assert "x-drafthouse-seed" in answer.headers
    (line,) = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("event") == "request"]
    assert line["id"] == f"{answer.json()['id'].replace('_', '-')}-0"
    assert (line["outcome"], line["completion_tokens"]) == ("served", len(IDS))
    assert error_of(ask({"max_output_tokens": 0}))[2] == "max_output_tokens"
    assert "max_output_tokens" in caplog.records[-1].getMessage()


def test_it_says_what_a_chat_says():
    chat = request("/v1/chat/completions", CHAT | {"seed": 1}).json()
    response = request(PATH, BODY | {"seed": 1}).json()
    assert response["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert response["usage"]["speculation"] == chat["usage"]["speculation"]
    assert response["metrics"] == chat["metrics"]
    assert response["usage"]["total_tokens"] == chat["usage"]["total_tokens"]
