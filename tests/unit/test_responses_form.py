"""Responses and their events: equal to each other for every split of an output, and in the form of OpenAI's own types."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from deployments.api.responses.form import ResponsesForm
from deployments.api.responses.schema import ResponsesRequest
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from deployments.gateway.verifier_link import GenerationError
from drafthouse.errors import OverloadError
from tests.unit.byte_tokenizer import codec
from tests.unit.scripted_deltas import REQUEST, deltas_of, hermes, split

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
WHOLE = f"<think>hm</think>I look.\n{CALL}{CALL.replace('weather', 'time')} Then é🙂."
PIECES = [CALL, CALL.replace("weather", "time"), "<think>", "</think>", "<tool_call>", "text", "é🙂", " ", "\n\n", "{", "<", "\u2028"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
EVENTS = TypeAdapter(ResponseStreamEvent)
CLOCK = {"created_at", "completed_at"}


def form() -> ResponsesForm:
    body = ResponsesRequest(model="demo", input="hello", instructions="be short", temperature=0.5)
    return ResponsesForm(body, RequestPlan("resp-00ff", (REQUEST,), (), 0, 1, hermes()), "demo", codec().token_bytes)


def whole_of(deltas: list[TextDelta]) -> dict[str, Any]:
    one = form()
    for delta in deltas:
        one.add(0, delta)
    return one.whole()


def stream_of(deltas: list[TextDelta], error: Exception | None = None) -> list[dict[str, Any]]:
    one = form()
    text = one.opening() + "".join(one.events(0, delta) for delta in deltas) + (one.closing() if error is None else one.failure(error))
    return events_of(text)


def events_of(text: str) -> list[dict[str, Any]]:
    """Each event of a stream; its type stands in both of its lines."""
    *found, rest = text.split("\n\n")
    assert rest == ""
    events = []
    for lines in found:
        kind, data = lines.splitlines()
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events


def without_clock(response: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in response.items() if name not in CLOCK}


def built(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the deltas add up to; asserts on the way that all of an item's events agree."""
    output: list[dict[str, Any]] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(output)
                output.append(dict(event["item"]))
            case "content_part.added":
                assert output[-1]["content"] == []
                output[-1]["content"] = [dict(event["part"])]
            case "output_text.delta" | "reasoning_text.delta":
                assert_place(event, output)
                part = output[-1]["content"][0]
                part["text"] += event["delta"]
                if "logprobs" in event:
                    part["logprobs"] = part["logprobs"] + event["logprobs"]
            case "function_call_arguments.delta":
                assert_place(event, output)
                output[-1]["arguments"] += event["delta"]
            case "output_text.done":
                part = output[-1]["content"][0]
                assert (event["text"], event["logprobs"]) == (part["text"], part["logprobs"])
            case "reasoning_text.done":
                assert event["text"] == output[-1]["content"][0]["text"]
            case "function_call_arguments.done":
                assert event["arguments"] == output[-1]["arguments"]
            case "content_part.done":
                assert event["part"] == output[-1]["content"][0]
            case "output_item.done":
                assert event["item"] | {"status": "in_progress"} == output[-1]
                output[-1] = event["item"]
    return output


def assert_place(event: dict[str, Any], output: list[dict[str, Any]]) -> None:
    assert (event["output_index"], event["item_id"]) == (len(output) - 1, output[-1]["id"])


@settings(max_examples=100)
@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=4), st.sampled_from(["stop", "length"]), st.sampled_from([None, 2]))
def test_every_split_of_an_output_gives_the_response_of_the_whole(text, cuts, reason, top):
    whole = without_clock(whole_of(deltas_of(split(text, []), hermes(), reason, top)))
    for pieces in (split(text, cuts), split(text, range(len(codec().encode(text))))):
        deltas = deltas_of(pieces, hermes(), reason, top)
        events = stream_of(deltas)
        assert without_clock(events[-1]["response"]) == whole
        assert built(events) == whole["output"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert without_clock(whole_of(deltas)) == whole


def test_items_come_in_the_order_in_which_they_were_written():
    response = whole_of(deltas_of(split(WHOLE, []), hermes()))
    kinds = [(item["type"], item["id"], item["status"]) for item in response["output"]]
    assert kinds == [
        ("reasoning", "rs_00ff0000", "completed"), ("message", "msg_00ff0001", "completed"), ("function_call", "fc_00ff0002", "completed"),
        ("function_call", "fc_00ff0003", "completed"), ("message", "msg_00ff0004", "completed"),
    ]  # fmt: skip
    thought, said, weather, time, more = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert said["content"] == [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]
    assert more["content"][0]["text"] == " Then é🙂."
    assert (weather["name"], weather["arguments"]) == ("weather", '{"city": "Zürich"}')
    assert weather["call_id"] != time["call_id"]
    assert weather["call_id"].startswith("call_")


def test_the_response_says_what_was_asked_and_what_it_took():
    response = whole_of(deltas_of(split(WHOLE, []), hermes()))
    assert (response["id"], response["object"], response["status"]) == ("resp_00ff", "response", "completed")
    assert (response["instructions"], response["tool_choice"], response["tools"]) == ("be short", "auto", [])
    assert response["incomplete_details"] is response["error"] is None
    assert response["completed_at"] >= response["created_at"] > 1.7e9
    usage = response["usage"]
    assert usage["input_tokens"] == 1
    assert usage["output_tokens"] == len(codec().encode(WHOLE))
    assert usage["output_tokens_details"] == {"reasoning_tokens": len(codec().encode(">hm</think>"))}
    assert "notes" not in response


@pytest.mark.parametrize("text", ["", WHOLE, CALL[:-20], "<think>hm", "hello"])
def test_what_the_limit_cuts_off_is_incomplete(text):
    pieces = split(text, []) or [(0,)]
    response = whole_of(deltas_of(pieces, hermes(), "length"))
    *whole, last = response["output"] or [None]
    assert all(item["status"] == "completed" for item in whole)
    if text:
        assert response["status"] == last["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert stream_of(deltas_of(pieces, hermes(), "length"))[-1]["type"] == "response.incomplete"
    else:
        assert (response["status"], response["output"]) == ("completed", [])


def test_a_call_that_a_stop_cuts_off_is_incomplete():
    response = whole_of(deltas_of(split(WHOLE[: WHOLE.index("rich")], []), hermes(), "stop"))
    assert [item["status"] for item in response["output"]] == ["completed", "completed", "incomplete"]
    assert response["status"] == "completed"
    response = whole_of(deltas_of(split(WHOLE, []), hermes(), "stop"))
    assert {item["status"] for item in response["output"]} == {"completed"}


@pytest.mark.parametrize(
    ("error", "code"), [(GenerationError("broken"), "server_error"), (OverloadError("full", 1.0), "rate_limit_exceeded")]
)
def test_an_error_is_the_last_event_with_all_that_had_come(error, code):
    deltas = deltas_of(split(WHOLE, [20]), hermes())[:1]
    events = stream_of(deltas, error)
    last = events[-1]
    assert (last["type"], last["sequence_number"]) == ("response.failed", len(events) - 1)
    assert last["response"]["error"] == {"code": code, "message": str(error)}
    assert (last["response"]["status"], last["response"]["usage"]) == ("failed", None)
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]


def test_an_error_of_ours_says_nothing_of_its_inside():
    assert stream_of([], KeyError("secret"))[-1]["response"]["error"] == {"code": "server_error", "message": "internal error"}


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_openais_own_types_take_the_response_and_every_event(reason):
    deltas = deltas_of(split(WHOLE, [10, 30, 50]), hermes(), reason, top=1)
    Response.model_validate(whole_of(deltas), strict=False)
    kinds = {EVENTS.validate_python(event).type for event in stream_of(deltas)}
    assert kinds == {
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.reasoning_text.delta", "response.reasoning_text.done", "response.output_text.delta", "response.output_text.done",
        "response.function_call_arguments.delta", "response.function_call_arguments.done", "response.content_part.done",
        "response.output_item.done", "response.completed" if reason == "stop" else "response.incomplete",
    }  # fmt: skip


def test_logprobs_are_those_of_a_texts_own_tokens():
    text = WHOLE.replace("</think>", "</think>\n\n", 1)
    response = whole_of(deltas_of(split(text, []), hermes(), top=2))
    first, last = (item["content"][0] for item in response["output"] if item["type"] == "message")
    for part, text in ((first, "I look."), (last, " Then é🙂.")):
        assert b"".join(bytes(each["bytes"]) for each in part["logprobs"]).decode() == part["text"] == text
        assert all(len(each["top_logprobs"]) == 2 for each in part["logprobs"])


def test_what_comes_together_is_one_event():
    kinds = [event["type"] for event in stream_of(deltas_of(split(WHOLE, []), hermes()))]
    assert kinds.count("response.function_call_arguments.delta") == 2
    assert kinds.count("response.output_text.delta") == 2
