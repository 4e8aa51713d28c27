"""One streamed completion over HTTP, timed as a client sees it: of a Drafthouse server, or of another with OpenAI's API.

Promises: whatever the server refuses, and whatever breaks on the way, becomes a ConfigError or
BenchError that says what was asked of which URL. The server gets the environment's API key, if any.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from drafthouse.errors import ConfigError, DrafthouseError
from drafthouse.security.client_key import HINT, authorization


class BenchError(DrafthouseError):
    """A run that cannot give numbers: the server failed, or went away."""


@dataclass(frozen=True, slots=True)
class Completion:
    """`first_text_s` from the request to the first text, `seconds` to the end of the stream; counts and `id` are the server's.

    Another server than ours counts no drafts: the last four are 0.
    """

    id: str
    text: str
    prompt_tokens: int
    tokens: int
    first_text_s: float
    seconds: float
    drafted: int
    verified: int
    accepted: int
    steps: int

    @property
    def decode_seconds(self) -> float:
        """Without the wait for the first text, which is the prompt's pass."""
        return self.seconds - self.first_text_s


def connect(url: str, trust_env: bool = True) -> httpx.Client:
    """Raises ConfigError for an API key that cannot be sent."""
    return httpx.Client(base_url=url, headers=authorization(), timeout=httpx.Timeout(10.0, read=600.0), trust_env=trust_env)


def only_model(client: httpx.Client) -> str:
    """The name of the server's one model. Raises ConfigError when no server answers."""
    try:
        answer = client.get("/v1/models")
        if answer.status_code == 401:
            raise ConfigError(f"--url {client.base_url}: {_message(answer.content)}; {HINT}")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError) as error:
        raise ConfigError(f"--url {client.base_url}: no Drafthouse server answers there: {error}") from error


def _message(answer: bytes) -> str:
    """The server's words for an error; the start of the body where they are not in OpenAI's shape."""
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.decode(errors="replace")[:500]


def request_body(model: str, prompt: str | Sequence[int], tokens: int, sampling: str, seed: int, mode: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": prompt if isinstance(prompt, str) else list(prompt), "max_tokens": tokens,
        "temperature": 0.0 if sampling == "greedy" else 1.0, "seed": seed, "speculation": {"mode": mode},
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def complete(client: httpx.Client, body: dict[str, Any]) -> Completion:
    """Raises BenchError naming the server's answer."""
    reading = _Reading(client.base_url)
    try:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise reading.refused(answer.status_code, answer.read())
            for line in answer.iter_lines():
                reading.take(line)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise reading.broken(error) from error
    return reading.completion()


async def complete_async(client: httpx.AsyncClient, body: dict[str, Any], ours: bool = True) -> Completion:
    """The same beside other requests, and with `ours` False of any server. Raises BenchError naming the server's answer."""
    reading = _Reading(client.base_url, ours)
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise reading.refused(answer.status_code, await answer.aread())
            async for line in answer.aiter_lines():
                reading.take(line)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise reading.broken(error) from error
    return reading.completion()


@dataclass(slots=True)
class _Reading:
    """What a stream has said so far, and when it was asked for."""

    url: httpx.URL
    ours: bool = True
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    id: str = ""
    parts: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None

    def take(self, line: str) -> None:
        """One line of server-sent events. Raises BenchError for an error event, ValueError for what is not JSON."""
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise BenchError(f"{self.url}: {_message(data.encode())}")
        for choice in event.get("choices", []):
            if self.first is None and choice.get("text"):
                self.first = time.perf_counter()
            self.parts.append(choice.get("text") or "")
        self.id = self.id or event.get("id", "")
        self.usage = event.get("usage") or self.usage

    def refused(self, status: int, answer: bytes) -> BenchError:
        return BenchError(f"{self.url}: status {status}: {_message(answer)}" + (f"; {HINT}" if status == 401 else ""))

    def broken(self, error: Exception) -> BenchError:
        return BenchError(f"{self.url}: {type(error).__name__}: {error}")

    def completion(self) -> Completion:
        """At the end of the stream. Raises BenchError where it ended early."""
        ended, usage = time.perf_counter(), self.usage
        if usage is None or (self.ours and "speculation" not in usage):
            what = "usage.speculation; is this a Drafthouse server?" if self.ours else "usage"
            raise BenchError(f"{self.url}: the stream ended without {what}")
        speculation = usage["speculation"] if self.ours else {}
        counts = {name: int(speculation.get(name, 0)) for name in ("drafted", "verified", "accepted", "steps")}
        return Completion(
            self.id, "".join(self.parts), int(usage["prompt_tokens"]), int(usage["completion_tokens"]),
            (self.first or ended) - self.started, ended - self.started, **counts,
        )  # fmt: skip
