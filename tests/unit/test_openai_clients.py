"""OpenAI's own client against the real application: chats and responses; at once, in streams, with tools, with and without await."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from drafthouse.wire.dialect import OURS
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, codec
from tests.unit.scripted_chats import TEMPLATE, TOOLS, saying, served
from tests.unit.verifier_double import VerifierDouble

USER = {"role": "user", "content": "What is the weather?"}
FLAT = [{"type": "function", "strict": None} | tool["function"] for tool in TOOLS]
FLAT = [{"parameters": {"type": "object", "properties": {}}} | tool for tool in FLAT]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
THINKS = f"<think>hm, so</think>I look.\n{CALL}"
TEXT = "It is sunny, é🙂."


def by_client(verifier: VerifierDouble, use: Callable[[openai.OpenAI], Any], template: str = TEMPLATE) -> Any:
    async def run() -> Any:
        async with served(verifier, template) as url:
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                return await asyncio.to_thread(use, client)

    return asyncio.run(run())


def by_async_client(verifier: VerifierDouble, use: Callable[[openai.AsyncOpenAI], Any]) -> Any:
    async def run() -> Any:
        async with served(verifier) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await use(client)

    return asyncio.run(run())


def test_a_chat_whole_and_streamed():
    def use(client: openai.OpenAI) -> tuple[str, str]:
        whole = client.chat.completions.create(model="demo", messages=[USER])
        stream = client.chat.completions.create(model="demo", messages=[USER], stream=True)
        return whole.choices[0].message.content, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert by_client(saying(TEXT), use) == (TEXT, TEXT)


def test_a_chat_with_await():
    async def use(client: openai.AsyncOpenAI) -> str:
        return (await client.chat.completions.create(model="demo", messages=[USER])).choices[0].message.content

    assert by_async_client(saying(TEXT), use) == TEXT


def test_a_response_whole_and_streamed():
    def use(client: openai.OpenAI) -> tuple[Response, list[Any]]:
        whole = client.responses.create(model="demo", input="hello", instructions="be short", temperature=0.5)
        return whole, list(client.responses.create(model="demo", input="hello", stream=True))

    whole, events = by_client(saying(TEXT), use)
    assert (whole.output_text, whole.status, whole.instructions, whole.temperature) == (TEXT, "completed", "be short", 0.5)
    assert whole.usage.output_tokens == len(codec().encode(TEXT)) + 1
    assert [event.type for event in (*events[:2], events[-1])] == ["response.created", "response.in_progress", "response.completed"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].response.output_text == TEXT


@pytest.mark.parametrize("step", [1, 1000])
def test_the_clients_own_stream_of_a_response_adds_up(step):
    def use(client: openai.OpenAI) -> tuple[set[str], Response]:
        with client.responses.stream(model="demo", input="hello", tools=FLAT) as stream:
            return {event.type for event in stream}, stream.get_final_response()

    kinds, response = by_client(saying(THINKS, step), use)
    assert {"response.reasoning_text.delta", "response.output_text.done", "response.function_call_arguments.done"} <= kinds
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.output_text == "I look."
    assert json.loads(response.output[2].arguments) == {"city": "Zürich"}


def test_responses_go_round_the_loop_of_a_call():
    verifier = saying(THINKS)

    def use(client: openai.OpenAI) -> Response:
        items: list[Any] = [USER]
        first = client.responses.create(model="demo", input=items, tools=FLAT, store=False)
        items += first.output
        calls = [item for item in first.output if item.type == "function_call"]
        items += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
        return client.responses.create(model="demo", input=items, tools=FLAT)

    assert by_client(verifier, use).status == "completed"
    prompt = codec()._backend.decode(list(verifier.seen[1].prompt))
    assert '# assistant: I look. (hm, so)<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>' in prompt
    assert "# tool: rain\n# assistant:\n" in prompt


def test_a_streams_final_response_can_be_sent_back():
    def use(client: openai.OpenAI) -> Response:
        with client.responses.stream(model="demo", input="hello", tools=FLAT) as stream:
            final = stream.get_final_response()
        result = {"type": "function_call_output", "call_id": final.output[2].call_id, "output": "rain"}
        return client.responses.create(model="demo", input=[USER, *final.output, result], tools=FLAT)

    assert by_client(saying(THINKS), use).status == "completed"


def test_responses_with_await():
    async def use(client: openai.AsyncOpenAI) -> tuple[str, str]:
        whole = await client.responses.create(model="demo", input=[USER])
        stream = await client.responses.create(model="demo", input=[USER], stream=True)
        return whole.output_text, "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert by_async_client(saying(TEXT), use) == (TEXT, TEXT)


def test_a_response_that_is_cut_off_is_incomplete():
    def use(client: openai.OpenAI) -> tuple[Response, str]:
        whole = client.responses.create(model="demo", input="hello", max_output_tokens=5)
        *_, last = client.responses.create(model="demo", input="hello", max_output_tokens=5, stream=True)
        return whole, last.type

    whole, last = by_client(saying(TEXT[:6], end=()), use)
    assert (whole.status, whole.incomplete_details.reason, last) == ("incomplete", "max_output_tokens", "response.incomplete")


class Weather(pydantic.BaseModel):
    city: str
    warm: bool


def test_a_response_is_parsed_into_a_pydantic_class():
    said = Weather(city="Zürich", warm=True)
    verifier = saying(said.model_dump_json())
    verifier.says = OURS.metadata()

    def use(client: openai.OpenAI) -> tuple[Weather | None, Weather | None]:
        whole = client.responses.parse(model="demo", input="hello", text_format=Weather)
        with client.responses.stream(model="demo", input="hello", text_format=Weather) as stream:
            return whole.output_parsed, stream.get_final_response().output_parsed

    assert by_client(verifier, use, CHAT_TEMPLATE) == (said, said)
    for request in verifier.seen:
        assert json.loads(request.sampling.grammar.text)["required"] == ["city", "warm"]


def test_what_is_refused_is_an_error_of_the_clients_kind():
    def use(client: openai.OpenAI) -> openai.BadRequestError:
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model="demo", input="hello", previous_response_id="resp_1")
        return raised.value

    error = by_client(saying("ok"), use)
    assert error.param == "previous_response_id"
    assert "nothing is stored" in error.message
