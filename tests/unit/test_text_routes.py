"""/tokenize, /detokenize, /version."""

import asyncio

import pytest

from drafthouse import __version__
from tests.unit.byte_tokenizer import codec
from tests.unit.openai_gateway import CHAT, error_of, gateway, request
from tests.unit.test_client_limit_http import client_of

TEXT = "def add(a, b):\n    return 'é🙂'<|end|>\n"


def test_tokens_are_those_of_the_generation_routes() -> None:
    body = request("/tokenize", {"model": "demo", "prompt": TEXT, "return_token_strs": True}).json()
    ids = codec().encode(TEXT)
    assert body == {"count": len(ids), "max_model_len": 64, "tokens": ids, "token_strs": codec().token_strings(ids)}
    assert 0 in ids, "control tokens of a prompt are tokens"


def test_messages_go_through_the_chat_template() -> None:
    body = request("/tokenize", {"messages": CHAT["messages"]}).json()
    assert body["tokens"] == codec().encode_chat([{"role": "user", "content": "hello"}])
    assert body["token_strs"] is None


def test_detokenize_gives_the_text_back() -> None:
    assert request("/detokenize", {"model": "demo", "tokens": codec().encode(TEXT)}).json() == {"prompt": TEXT}
    assert request("/detokenize", {"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": CHAT["messages"]}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"prompt": "a" * 100_000}, "prompt"),
        ("/tokenize", {"prompt": "a", "temperature": 0}, "temperature"),
        ("/detokenize", {"tokens": [1, 99999]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_bad_input_names_its_field(path: str, body: dict, param: str) -> None:
    status, _, found, _ = error_of(request(path, body))
    assert (status, found) == (400, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a" * 100_000}),
        ("/detokenize", {"tokens": [1, 99999]}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": [{"role": "user", "content": "a" * 100_000}]}),
    ],
)
@pytest.mark.parametrize(("capacity", "outcome", "status"), [(16, "rejected", 400), (0, "refused", 429)])
def test_what_is_turned_away_is_counted(path: str, body: dict, capacity: int, outcome: str, status: int) -> None:
    async def run() -> None:
        async with gateway(capacity=capacity) as (app, service), client_of(app) as client:
            assert (await client.post(path, json=body)).status_code == status
            totals = service.totals()
            assert (totals.requests, totals.outcome[outcome]) == (1, 1)

    asyncio.run(run())


def test_another_model_is_not_found() -> None:
    assert request("/tokenize", {"model": "other", "prompt": "a"}).status_code == 404
    assert request("/detokenize", {"model": "other", "tokens": []}).status_code == 404


def test_version() -> None:
    assert request("/version", method="GET").json() == {"version": __version__}
