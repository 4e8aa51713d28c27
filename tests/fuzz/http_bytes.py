"""HTTP bodies that were JSON once, with odd headers and paths: what no schema describes.

Promises: the same seed and number make the same request.
"""

import json
import random

import httpx

from tests.fuzz.findings import Outcome
from tests.fuzz.http_exchange import exchange
from tests.fuzz.messages import with_faults
from tests.fuzz.seeds import IDS, MOST_TOKENS, PROMPT

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
ODD_PATHS = (
    "/v1/completions/",
    "//v1/completions",
    "/v1/models/%00",
    "/v1/models/%ff",
    "/V1/chat/completions",
    "/openapi.json",
    "/v1/cluster",
)
ODD_HEADERS = (
    ("content-type", "application/json; charset=utf-16"), ("content-type", "text/plain"), ("content-encoding", "gzip"),
    ("x-request-id", "\x7fé" * 40), ("authorization", "Bearer \xff"), ("accept", "text/html;q=0"), ("x-forwarded-for", "1.2.3.4, é"),
    ("origin", "null"), ("expect", "100-continue"), ("x-request-timeout-seconds", "-1"), ("x-request-disconnect-disabled", "1"),
)  # fmt: skip
WRONG_JSON = (b"[]", b"null", b'"a"', b"{", b"{}", b"[" * 5000, b'{"a":' * 5000, b"\xef\xbb\xbf{}", b"1e999999", b'{"model":"\\ud800"}')


class HttpBytes:
    name = "http, bytes"

    def __init__(self, client: httpx.AsyncClient, model: str, seed: int) -> None:
        self._client, self._seed = client, seed
        common = {"model": model, "max_tokens": MOST_TOKENS, "seed": 3, "temperature": 0.5}
        options = {"speculation": {"mode": "fixed", "nodes": 4, "depth": 2, "width": 1}, "stop": ["\n", "é"], "n": 2}
        messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": [{"type": "text", "text": "hé🙂"}]}]
        response = {"model": model, "max_output_tokens": MOST_TOKENS, "seed": 3, "truncation": "auto"}
        items = [{"type": "reasoning", "summary": []}, {"role": "user", "content": [{"type": "input_text", "text": "hé🙂"}]}]
        self._bodies = {
            PATHS[0]: [common | {"prompt": PROMPT} | options, common | {"prompt": [list(IDS), list(IDS)], "stream": True}],
            PATHS[1]: [common | {"messages": messages}, common | {"messages": messages, "stream": True} | options],
            PATHS[2]: [response | {"input": "hé🙂"}, response | {"input": messages[:1] + items, "stream": True, "instructions": "a"}],
        }

    async def send(self, number: int) -> tuple[Outcome, str]:
        rng = random.Random(f"{self._seed}/{self.name}/{number}")
        path = rng.choice(PATHS)
        body = json.dumps(rng.choice(self._bodies[path]), ensure_ascii=rng.random() < 0.5).encode()
        body = rng.choice(WRONG_JSON) if rng.random() < 0.1 else with_faults(body, rng)
        headers = [("content-type", "application/json")]
        if rng.random() < 0.2:
            name, value = rng.choice(ODD_HEADERS)
            headers = [(known, said) for known, said in headers if known != name] + [(name, value)]
        if rng.random() < 0.05:
            path = rng.choice(ODD_PATHS)
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        request = self._client.build_request("POST", path, headers=encoded, content=body)
        return await exchange(self._client, request, _has_openais_shape), f"{path} {headers} {body!r}"


def _has_openais_shape(answer: httpx.Response) -> str:
    """Empty where the answer is one that clients know: a text, a redirection, or an error."""
    if answer.status_code < 400:
        return ""
    try:
        keys = set(answer.json()["error"])
    except (ValueError, LookupError, TypeError):
        return f"status {answer.status_code}, and no error of OpenAI's shape: {answer.text[:200]}"
    return "" if keys == {"message", "type", "param", "code"} else f"an error with {sorted(keys)}"
