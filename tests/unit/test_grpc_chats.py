"""Chats over gRPC: the same plans as over HTTP, and answers with reasoning and calls, whole and in pieces."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from deployments.api.grpc.inference import InferenceApi
from deployments.api.grpc.requests import make_plan
from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.api import ApiConfig
from drafthouse.errors import RequestError
from drafthouse.sampling import Grammar
from drafthouse.wire.generation_messages import SpeculationUsage
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, codec, metadata
from tests.unit.grpc_gateway import grpc_gateway
from tests.unit.scripted_chats import TEMPLATE, TOOLS, saying
from tests.unit.test_chat_api import CALL, CALLS, ask
from tests.unit.verifier_double import VerifierDouble, serving

SCHEMA = json.dumps(TOOLS[0]["function"]["parameters"])
WEATHER = pb.Tool(function=pb.FunctionDefinition(name="weather", description="The weather in a city", parameters=SCHEMA))
TIME = pb.Tool(function=pb.FunctionDefinition(name="time"))
USER = pb.ChatMessage(role="user", content="What is the weather?")


def planner(template: str = TEMPLATE, **api: Any) -> RequestPlanner:
    return RequestPlanner("demo", codec(template), metadata(1024), ApiConfig(**api))


def chat(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"model": "demo", "messages": [USER], "seed": 1} | fields)


def data(**fields: Any) -> bytes:
    return chat(**fields).SerializeToString()


CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
CALLED_MESSAGE = pb.ToolCall(id="c1", function=pb.CalledFunction(name="weather", arguments='{"city": "Bonn"}'))
INTEGER = '{"type": "integer"}'
THINKS = TEMPLATE + "{{ reasoning_effort }}"

SAME: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (TEMPLATE, {}, {}),
    (
        TEMPLATE,
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "name": "ann", "content": "hello"}]},
        {"messages": [pb.ChatMessage(role="developer", content="Be brief."), pb.ChatMessage(role="user", name="ann", content="hello")]},
    ),
    (
        TEMPLATE,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"messages": [pb.ChatMessage(role="user", parts=[pb.TextPart(text="a"), pb.TextPart(text="b")])]},
    ),
    (
        TEMPLATE,
        {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": None, "tool_calls": [CALLED], "reasoning_content": "Hm."},
                {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            ],
            "tools": TOOLS,
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
        {
            "messages": [
                pb.ChatMessage(role="user", content="hello"),
                pb.ChatMessage(role="assistant", tool_calls=[CALLED_MESSAGE], reasoning_content="Hm."),
                pb.ChatMessage(role="tool", tool_call_id="c1", content="rain"),
            ],
            "tools": [WEATHER, TIME],
            "tool_choice": pb.ToolChoice(mode="auto"),
            "parallel_tool_calls": False,
        },
    ),
    (TEMPLATE, {"tools": TOOLS, "tool_choice": "none"}, {"tools": [WEATHER, TIME], "tool_choice": pb.ToolChoice(mode="none")}),
    (
        TEMPLATE,
        {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": False},
        {"chat_template_kwargs": '{"enable_thinking": false}', "add_generation_prompt": False},
    ),
    (
        TEMPLATE,
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "continue_final_message": True},
        {
            "messages": [pb.ChatMessage(role="user", content="a"), pb.ChatMessage(role="assistant", content="b")],
            "continue_final_message": True,
        },
    ),
    (THINKS, {"reasoning_effort": "low", "verbosity": "high"}, {"reasoning_effort": "low", "verbosity": "high"}),
    (
        CHAT_TEMPLATE,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}, "strict": True}}},
        {"response_format": pb.ResponseFormat(type="json_schema", json_schema=pb.JsonSchema(name="a", schema=INTEGER, strict=True))},
    ),
    (CHAT_TEMPLATE, {"structured_outputs": {"json": {"type": "integer"}}}, {"structured_outputs": pb.StructuredOutputs(json=INTEGER)}),
    (CHAT_TEMPLATE, {"structured_outputs": {"choice": ["a", "b"]}}, {"structured_outputs": pb.StructuredOutputs(choice=["a", "b"])}),
    (TEMPLATE, {"prediction": {"type": "content", "content": "I think"}}, {"prediction": pb.Prediction(content="I think")}),
    (TEMPLATE, {"logprobs": True, "top_logprobs": 2, "max_tokens": -1}, {"logprobs": 2, "max_tokens": -1}),
    (
        TEMPLATE,
        {"temperature": 0.5, "stop": ["x"], "logit_bias": {"7": 1.0}, "min_tokens": 2, "bad_words": ["no"], "max_completion_tokens": 9},
        {"temperature": 0.5, "stop": ["x"], "logit_bias": {7: 1.0}, "min_tokens": 2, "bad_words": ["no"], "max_tokens": 9},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("template", "http", "grpc"), SAME)
def test_a_chat_has_the_plan_that_it_has_over_http(template, http, grpc):
    served = planner(template)
    body = {"model": "demo", "messages": [{"role": "user", "content": USER.content}], "seed": 1} | http
    wanted, made = served.chat(parse_body(ChatRequest, body)), make_plan(served, data(**grpc))
    (ours,), (theirs,) = made.requests, wanted.requests
    assert ours == replace(theirs, request_id=ours.request_id)
    assert (made.stop_rule, made.notes, made.seed) == (wanted.stop_rule, wanted.notes, wanted.seed)
    assert replace(made.format, token_bytes=wanted.format.token_bytes) == wanted.format


def test_a_thinking_budget_reaches_the_reader_of_chats():
    """Which refuses it here: each tag is several tokens of this tokenizer."""
    with pytest.raises(RequestError, match="thinking_token_budget: its tags are several tokens") as caught:
        make_plan(planner(), data(thinking_token_budget=3))
    assert caught.value.param == "thinking_token_budget"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": [pb.ChatMessage(role="king", content="a")]}, "messages.0.role", "developer"),
        ({"messages": [pb.ChatMessage(role="tool", content="a")]}, "messages.0.tool_call_id", "which call"),
        ({"messages": [pb.ChatMessage(role="user", content="a", parts=[pb.TextPart()])]}, "messages.0.parts", "either content or parts"),
        ({"tools": [pb.Tool()]}, "tools.0.function", "required"),
        ({"tools": [TIME, TIME]}, "tools.1.function.name", "twice"),
        ({"tools": [pb.Tool(function=pb.FunctionDefinition(name="a", parameters="{"))]}, "tools.0.function.parameters", "not JSON"),
        ({"tools": [pb.Tool(function=pb.FunctionDefinition(name="a", parameters="[]"))]}, "tools.0.function.parameters", "dictionary"),
        ({"tools": [TIME], "tool_choice": pb.ToolChoice(function=pb.NamedFunction(name="x"))}, "tool_choice.function.name", "no tool"),
        ({"tool_choice": pb.ToolChoice(mode="maybe")}, "tool_choice", "none"),
        ({"chat_template_kwargs": '"\\ud800"'}, "chat_template_kwargs", "Unicode"),
        ({"chat_template_kwargs": "[" * 5000}, "chat_template_kwargs", "not JSON"),
        ({"chat_template_kwargs": '{"x": 1}'}, "chat_template_kwargs.x", "no such variable"),
        ({"reasoning_effort": "some"}, "reasoning_effort", "minimal"),
        ({"logprobs": 21}, "logprobs", "between 0 and 20"),
        ({"prompt": "hello"}, "prompt", "either messages or prompt"),
        ({"structured_outputs": pb.StructuredOutputs()}, "structured_outputs", "exactly one"),
        (
            {"response_format": pb.ResponseFormat(type="json_schema", json_schema=pb.JsonSchema(schema="{"))},
            "response_format.json_schema.schema",
            "not JSON",
        ),
        ({"echo": True}, "echo", "no such field"),
    ],
)
def test_faults_name_the_field(fields, param, words):
    with pytest.raises(RequestError, match=words) as caught:
        make_plan(planner(), data(**fields))
    assert caught.value.param == param


def test_prompts_have_a_grammar_too():
    sent = pb.GenerateRequest(model="demo", prompt="a", structured_outputs=pb.StructuredOutputs(regex="[ab]{3}"))
    (made,) = make_plan(planner(), sent.SerializeToString()).requests
    assert made.sampling.grammar == Grammar("regex", "[ab]{3}")


def test_what_only_chats_have_is_refused_with_a_prompt():
    with pytest.raises(RequestError, match="tools: no such field"):
        make_plan(planner(), pb.GenerateRequest(model="demo", prompt="a", tools=[TIME]).SerializeToString())


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [pb.ChatMessage()] * 70_000},
        {"messages": [pb.ChatMessage(role="user", parts=[pb.TextPart()] * 70_000)]},
        {"tools": [pb.Tool()] * 70_000},
        {"stop": [""] * 70_000},
        {"structured_outputs": pb.StructuredOutputs(choice=[""] * 70_000)},
        {"chat_template_kwargs": "[" + "0," * 70_000 + "0]"},
    ],
    ids=["messages", "parts", "tools", "stop", "choices", "values"],
)
def test_many_small_things_are_refused_before_they_are_looked_at(fields):
    with pytest.raises(RequestError, match="has more than 65536") as caught:
        make_plan(planner(), data(**fields))
    assert caught.value.status == 413


@pytest.mark.parametrize("newer", [b"", b"\x0a\x04\xc2\x3e\x01a"], ids=["here", "in a message"])
def test_a_field_of_a_later_version_is_refused_unless_unknown_ones_are_ignored(newer):
    """Number 1000; in a message of the chat, too."""
    inner = pb.ChatMessage.FromString(USER.SerializeToString() + b"\xc2\x3e\x01a")
    sent = data(messages=[inner]) if newer else data() + b"\xc2\x3e\x01a"
    with pytest.raises(RequestError, match="field of number 1000"):
        make_plan(planner(), sent)
    assert make_plan(planner(unknown_fields="ignore"), sent).requests


def asked(sent: pb.GenerateRequest, verifier: VerifierDouble) -> tuple[pb.GenerateResponse, list[pb.GenerateChunk]]:
    """The whole answer, and the same in chunks, over a connection."""

    async def run():
        async with serving(verifier) as routes:
            link = VerifierLink(30.0)
            link.update(routes)
            try:
                async with grpc_gateway(InferenceApi(InferenceService(planner(), link, 16))) as channel:
                    stub = rpc.InferenceStub(channel)
                    return await stub.Generate(sent), [chunk async for chunk in stub.GenerateStream(sent)]
            finally:
                await link.close()

    return asyncio.run(run())


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_reasoning_and_calls_are_those_of_http_whole_and_in_pieces(step):
    wanted = ask({"tools": TOOLS}, CALLS).json()
    message = wanted["choices"][0]["message"]
    whole, chunks = asked(chat(tools=[WEATHER, TIME]), saying(CALLS, step))
    assert (whole.text, whole.reasoning_content, whole.finish_reason) == (message["content"], message["reasoning_content"], "tool_calls")
    functions = [{"name": call.function.name, "arguments": call.function.arguments} for call in whole.tool_calls]
    assert functions == [call["function"] for call in message["tool_calls"]]
    assert len({call.id for call in whole.tool_calls}) == 2
    assert whole.usage.reasoning_tokens == wanted["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert not whole.usage.HasField("accepted_prediction_tokens")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert "".join(chunk.reasoning_content for chunk in chunks) == whole.reasoning_content
    calls: dict[int, list[str]] = {}
    for piece in (call for chunk in chunks for call in chunk.tool_calls):
        assert bool(piece.id) == (piece.index not in calls), "the first piece of each call has its id"
        calls.setdefault(piece.index, []).append(piece.function.name + piece.function.arguments)
    assert ["".join(pieces) for pieces in calls.values()] == [each["name"] + each["arguments"] for each in functions]
    assert chunks[-1].usage == whole.usage


def test_predictions_are_counted():
    verifier = saying("I think")
    verifier.usage = SpeculationUsage(drafted=9, verified=8, accepted=5, steps=3, predicted=6, predicted_accepted=4)
    whole, _ = asked(chat(prediction=pb.Prediction(content="I think")), verifier)
    assert (whole.usage.accepted_prediction_tokens, whole.usage.rejected_prediction_tokens) == (4, 2)
    assert verifier.seen[0].prediction == tuple(codec().encode("I think", special=False))


def test_a_limit_beyond_the_context_is_cut_with_a_note_as_over_http():
    whole, chunks = asked(chat(max_tokens=5000), saying("ok"))
    (note,) = whole.notes
    assert "instead of 5000" in note
    assert [list(chunk.notes) for chunk in chunks] == [[note]] + [[] for _ in chunks[1:]]


def test_without_parallel_calls_the_output_ends_with_the_first_one():
    whole, _ = asked(chat(tools=[WEATHER], parallel_tool_calls=False), saying(CALL + CALL))
    assert len(whole.tool_calls) == 1
