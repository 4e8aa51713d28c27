"""A running server's HTTP API, as `drafthouse generate`, `chat` and `status` call it.

Promises: an error is one line on standard error that says what to do, with exit status 1.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer

from deployments.cli.options import fail
from drafthouse.errors import ConfigError
from drafthouse.security.client_key import HINT, authorization

DEFAULT_URL = "http://127.0.0.1:8000"
Url = Annotated[str, typer.Option(help="Where the server's HTTP API is.", envvar="DRAFTHOUSE_URL")]
CONNECT_TIMEOUT_S = 10.0

TOKEN_TIMEOUT_S = 300.0
"""Between two pieces of text: a full server lets a request queue."""


@contextmanager
def server(url: str, read_timeout_s: float) -> Iterator[httpx.Client]:
    """A client of the server at `url`; ends the command where no server answers there."""
    try:
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=read_timeout_s)
        with httpx.Client(base_url=url, headers=authorization(), timeout=timeout) as client:
            yield client
    except ConfigError as error:
        fail(str(error))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        fail(f"no server answers at {url} ({error}); start one with `drafthouse serve`, or name another with --url")


def check(answer: httpx.Response) -> None:
    """Ends the command with the server's own message unless the status is 200; the answer must have been read."""
    if answer.status_code == 200:
        return
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:500]
    if answer.status_code == 401:
        message += f"; {HINT}"
    fail(f"{answer.status_code} from {answer.request.url}: {message}")


def only_model(client: httpx.Client) -> str:
    """The name of the server's one model."""
    answer = client.get("/v1/models")
    check(answer)
    return str(answer.json()["data"][0]["id"])


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The server-sent events of one streamed answer, up to [DONE]; ends the command with the server's message for an error."""
    with client.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            answer.read()
        check(answer)
        for line in answer.iter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                fail(str(event["error"].get("message", event["error"])))
            yield event
