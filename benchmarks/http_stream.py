"""One streamed completion over HTTP, timed as a client sees it.

Promises: whatever the server refuses, and whatever breaks on the way, becomes a ConfigError or
BenchError that says what was asked of which URL.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from drafthouse.errors import ConfigError, DrafthouseError


class BenchError(DrafthouseError):
    """A run that cannot give numbers: the server failed, or went away."""


@dataclass(frozen=True, slots=True)
class Completion:
    """`first_text_s` from the request to the first text, `seconds` to the end of the stream; counts are the server's."""

    text: str
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
    return httpx.Client(base_url=url, timeout=httpx.Timeout(10.0, read=600.0), trust_env=trust_env)


def only_model(client: httpx.Client) -> str:
    """The name of the server's one model. Raises ConfigError when no server answers."""
    try:
        answer = client.get("/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError) as error:
        raise ConfigError(f"--url {client.base_url}: no Drafthouse server answers there: {error}") from error


def request_body(model: str, prompt: str | Sequence[int], tokens: int, sampling: str, seed: int, mode: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": prompt if isinstance(prompt, str) else list(prompt), "max_tokens": tokens,
        "temperature": 0.0 if sampling == "greedy" else 1.0, "seed": seed, "speculation": {"mode": mode},
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def complete(client: httpx.Client, body: dict[str, Any]) -> Completion:
    """Raises BenchError naming the server's answer."""
    parts: list[str] = []
    usage: dict[str, Any] | None = None
    first: float | None = None
    started = time.perf_counter()
    try:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise BenchError(f"{client.base_url}: status {answer.status_code}: {answer.read().decode(errors='replace')[:500]}")
            for event in _events(answer.iter_lines()):
                if "error" in event:
                    raise BenchError(f"{client.base_url}: {event['error'].get('message', event['error'])}")
                for choice in event.get("choices", []):
                    if first is None and choice.get("text"):
                        first = time.perf_counter()
                    parts.append(choice.get("text") or "")
                usage = event.get("usage") or usage
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise BenchError(f"{client.base_url}: {type(error).__name__}: {error}") from error
    ended = time.perf_counter()
    if usage is None or "speculation" not in usage:
        raise BenchError(f"{client.base_url}: the stream ended without usage.speculation; is this a Drafthouse server?")
    counts = {name: int(usage["speculation"][name]) for name in ("drafted", "verified", "accepted", "steps")}
    return Completion("".join(parts), int(usage["completion_tokens"]), (first or ended) - started, ended - started, **counts)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)
