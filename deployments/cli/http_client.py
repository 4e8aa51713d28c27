"""A running server's HTTP API, as `drafthouse generate` and `drafthouse status` call it.

Promises: an error is one line on standard error that says what to do, with exit status 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import httpx
import typer

from deployments.cli.options import fail
from drafthouse.errors import ConfigError
from drafthouse.security.client_key import HINT, authorization

DEFAULT_URL = "http://127.0.0.1:8000"
Url = Annotated[str, typer.Option(help="Where the server's HTTP API is.", envvar="DRAFTHOUSE_URL")]
CONNECT_TIMEOUT_S = 10.0


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
