"""What a client sends is bounded before it costs anything: bytes, time, values, characters; and it holds up no one else."""

import asyncio
import json
import logging

import pytest

from deployments.api.openai.body import MIN_VALUES, check_unicode, parse_json
from deployments.gateway.request_planner import RequestPlanner, Settings
from drafthouse.errors import RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.openai_gateway import CHAT, COMPLETION, JSON, error_of, gateway, request

BAD = "invalid_request_error"


async def post(receive, headers: dict[str, str], **config) -> tuple[int, dict]:
    """(status, body) of one request on the ASGI interface itself."""
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async with gateway(**config) as (app, _):
        pairs = [(name.encode(), value.encode()) for name, value in (JSON | headers).items()]
        path = "/v1/completions"
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b"", "headers": pairs}
        await asyncio.wait_for(app(scope, receive, send), 30.0)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(body) if body else {}


def test_a_body_that_says_it_is_too_long_is_not_read():
    async def receive():
        raise AssertionError("the body was read")

    status, body = asyncio.run(post(receive, {"content-length": "1025"}, max_body_bytes=1024))
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert "1024" in body["error"]["message"]


def test_a_body_without_a_length_is_read_up_to_the_limit():
    read = 0

    async def receive():
        nonlocal read
        read += 400
        return {"type": "http.request", "body": b" " * 400, "more_body": True}

    status, body = asyncio.run(post(receive, {}, max_body_bytes=1024))
    assert (status, body["error"]["code"], read) == (413, "request_too_large", 1200)


def test_a_body_that_does_not_come_is_not_waited_for():
    async def receive():
        await asyncio.sleep(60)

    status, body = asyncio.run(post(receive, {}, body_timeout_s=0.01))
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_a_client_that_goes_away_while_its_body_is_read_is_no_error_of_ours(caplog):
    async def receive():
        return {"type": "http.disconnect"}

    with caplog.at_level(logging.INFO):
        assert asyncio.run(post(receive, {}))[0] == 499
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("prompt", ["1," * 70_000 + "1", "[]," * 70_000 + "[]", '"",' * 140_000 + '""', '"\\",",' * 70_000 + '""'])
def test_a_body_of_many_small_values_is_not_parsed(prompt):
    assert prompt.count(",") > MIN_VALUES
    content = f'{{"model": "demo", "prompt": [{prompt}]}}'.encode()
    assert error_of(request("/v1/completions", content=content)) == (413, BAD, None, "request_too_large")


def test_a_string_without_an_end_is_read_once():
    """A million escaped quotes: hours, if each of them were tried as the end of the string."""
    content = b'{"model": "demo", "prompt": [' + b"," * (MIN_VALUES + 1) + b'"' + b'\\"' * 1_000_000
    assert error_of(request("/v1/completions", content=content)) == (413, BAD, None, "request_too_large")


def test_commas_in_a_text_are_no_values():
    found = error_of(request("/v1/completions", COMPLETION | {"prompt": ",[{" * MIN_VALUES}))
    assert found == (400, BAD, "prompt", "context_length_exceeded")


def test_the_models_name_is_checked_before_anything_else_of_the_body():
    assert error_of(request("/v1/completions", {"model": "other", "prompt": [[]], "n": "x"}))[2:] == ("model", "model_not_found")


def test_a_name_of_a_megabyte_is_not_sent_back():
    for body in (COMPLETION | {"model": "x" * 1_000_000}, COMPLETION | {"x" * 1_000_000: 1}):
        assert len(request("/v1/completions", body).content) < 5000


class Untouched:
    """A codec that must not be asked."""

    longest_token = 10
    chat_template, token_bytes = codec().chat_template, codec().token_bytes

    def encode(self, text):
        raise AssertionError("the prompt was tokenized")

    encode_chat = encode

    def tokenizer_text(self):
        raise AssertionError("no grammar was asked for")

    def encode_words(self, words):
        assert not words
        return ()


def planned(prompts: list[str]) -> None:
    """With a context of 64 tokens of 10 characters."""
    settings = Settings("demo", SamplingParams(), Speculation())
    RequestPlanner("demo", Untouched(), metadata(64)).plan("cmpl", prompts, settings)


def test_a_prompt_that_no_tokens_of_the_context_can_hold_is_not_tokenized():
    with pytest.raises(RequestError, match="641 characters") as caught:
        planned(["a" * 641])
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(AssertionError, match="was tokenized"):
        planned(["a" * 640])


def test_a_chat_that_no_tokens_of_the_context_can_hold_is_not_rendered():
    most = 64 * codec().longest_token
    half = {"role": "user", "content": "a" * (most // 2)}
    messages = [half, half, {"role": "user", "content": [{"type": "text", "text": "ab"}]}]
    found = error_of(request("/v1/chat/completions", CHAT | {"messages": messages}))
    assert found == (400, BAD, "messages", "context_length_exceeded")


def test_no_token_is_longer_than_the_longest():
    text = "the user says hello to the assistant def add(a, b)" * 3
    ids = codec().encode(text)
    assert max(len(codec()._backend.decode([token])) for token in ids) <= codec().longest_token < len(text)


@pytest.mark.parametrize(("path", "chars"), [("/v1/completions", 4_000_000), ("/v1/chat/completions", 1_000_000)])
def test_the_event_loop_goes_on_while_megabytes_are_tokenized(path, chars):
    """4 MB of spaces take seconds. With the interpreter lock held, the clock of this loop would stop until the end."""
    spaces = " " * chars
    body = COMPLETION | {"prompt": spaces} if "chat" not in path else CHAT | {"messages": [{"role": "user", "content": spaces}]}
    context = len(spaces) // codec().longest_token + 100  # so that it is not refused for its length alone

    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        async def receive():
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        clock = asyncio.create_task(tick())
        try:
            async with gateway(context_tokens=context) as (app, _):
                sent: list[dict] = []

                async def send(message):
                    sent.append(message)

                scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b""}
                await app(scope | {"headers": [(b"content-type", b"application/json")]}, receive, send)
            return sent[0]["status"], sent[1]["body"], ticks
        finally:
            clock.cancel()

    status, answer, ticks = asyncio.run(run())
    assert (status, json.loads(answer)["error"]["code"]) == (400, "context_length_exceeded")
    assert b"tokens" in answer
    assert ticks > 40


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_only_utf_8_is_read_since_values_are_counted_in_its_bytes(encoding):
    with pytest.raises(RequestError, match="not JSON"):
        parse_json('["\u0122",[],[],[]]'.encode(encoding), 100)
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', 100) == {"a": 1}


def test_what_is_nested_too_deep_is_refused_with_the_fields_name():
    deep: object = "a"
    for _ in range(300):
        deep = [deep]
    with pytest.raises(RequestError, match="nested deeper") as caught:
        check_unicode({"model": "demo", "x": deep})
    assert caught.value.param == "x"
