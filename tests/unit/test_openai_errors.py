"""The HTTP API's errors: OpenAI's shape and statuses, for what clients, verifiers and we ourselves do wrong."""

import json

import pytest

from drafthouse.wire.generation_messages import RefusalKind
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, error_of, events, request
from tests.unit.verifier_double import VerifierDouble, refusing

BAD = "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/completions", {"model": "demo"}, (400, BAD, "prompt", "invalid_value")),
        ("/v1/completions", COMPLETION | {"suffix": "a"}, (400, BAD, "suffix", "unsupported_value")),
        ("/v1/completions", COMPLETION | {"metadata": {"a\ud800": 1}}, (400, BAD, "metadata", "invalid_value")),
        ("/v1/completions", COMPLETION | {"temperature": -1}, (400, BAD, "temperature", "invalid_value")),
        ("/v1/completions", COMPLETION | {"prompt": "zqj " * 30}, (400, BAD, "prompt", "context_length_exceeded")),
        ("/v1/completions", COMPLETION | {"model": "x", "stream": True}, (404, BAD, "model", "model_not_found")),
        ("/v1/chat/completions", CHAT | {"messages": [{"role": "x"}]}, (400, BAD, "messages.0.role", "invalid_value")),
        ("/v1/nothing", {}, (404, BAD, None, "not_found")),
        ("/v1/models", {}, (405, BAD, None, "method_not_allowed")),
    ],
)
def test_errors_have_openais_shape(path, body, expected):
    assert error_of(request(path, content=json.dumps(body).encode())) == expected


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 50_000])
def test_malformed_json(content):
    assert error_of(request("/v1/completions", content=content)) == (400, BAD, None, "invalid_json")


@pytest.mark.parametrize("stream", [False, True])
def test_overload_has_its_own_status_even_for_streams(stream):
    full = VerifierDouble("a", before=refusing(RefusalKind.FULL, retry_after_s=7.2))
    response = request("/v1/completions", COMPLETION | {"stream": stream}, verifier=full)
    assert error_of(response) == (429, "overloaded_error", None, "overloaded")
    assert response.headers["retry-after"] == "8", "what the verifier said, rounded up to whole seconds"


def test_more_choices_than_a_gateway_serves_at_once_are_refused_for_good():
    assert error_of(request("/v1/completions", COMPLETION | {"n": 3}, capacity=2)) == (400, BAD, "n", "invalid_value")


def test_no_verifier():
    response = request("/v1/completions", COMPLETION, routed=False)
    assert error_of(response) == (503, "unavailable_error", None, "no_verifier")
    assert response.headers["retry-after"] == "1"


def test_an_error_after_the_first_token_is_an_event():
    breaking = VerifierDouble("a", tokens=lambda request: IDS, before=refusing(RefusalKind.WRONG, "no more", index=2))
    *chunks, error = events(request("/v1/completions", COMPLETION | {"stream": True}, verifier=breaking))
    assert chunks[0]["choices"][0]["text"]
    assert "no more" in error["error"]["message"]


def test_an_unforeseen_error_tells_nothing():
    async def broken():
        raise RuntimeError("secret path")

    assert error_of(request("/v1/cluster", cluster=broken)) == (503, "unavailable_error", None, "no_controller")
    odd = VerifierDouble("a", tokens=lambda request: 1 / 0)
    assert "division" not in request("/v1/nothing", verifier=odd).text
