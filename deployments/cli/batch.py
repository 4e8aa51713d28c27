"""`drafthouse batch`: the requests of a file, many at a time, their answers into another file.

Promises: every line of the input gets one line in the output, also over kills and restarts; the same command goes on where a run ended.
What will pass by itself (a full queue, a limit, a server that restarts) is waited for and never written as an answer.
"""

import asyncio
import contextlib
import pathlib
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.batch_files import BatchLine, BatchOutput, check_input, read_lines
from deployments.cli.http_client import CONNECT_TIMEOUT_S, DEFAULT_URL, Url, only_model, server
from deployments.cli.options import errors, fail
from drafthouse.errors import DrafthouseError
from drafthouse.security.client_key import HINT, authorization

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that a later try may change. The run waits while the server gives them, but for 500 and 504: the one of TRIES is written."""
TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
AWAY_S = 120.0
"""After this long without a connection the run ends; the same command goes on later."""


class ServerAwayError(DrafthouseError):
    """The server cannot be reached any more, or lets this client in no more."""


def batch(
    input_file: Annotated[pathlib.Path, typer.Option("--input", help="Requests, one JSON object a line, in OpenAI's batch format.")],
    output_file: Annotated[pathlib.Path, typer.Option("--output", help="Answers are appended here; what it holds is not asked again.")],
    url: Url = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model of lines that name none; by default the server's one model.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at the same time.", min=1, max=1024)] = 32,
    timeout_s: Annotated[float, typer.Option(help="Seconds that one answer may take.", min=1)] = 3600.0,
) -> None:
    """Answer a file of requests. Stop it at any time: the same command goes on where it ended."""
    with errors():
        try:
            ids = check_input(input_file)
            with BatchOutput(output_file, ids) as output:
                _run(_Batch(output, url, concurrency, timeout_s), input_file, len(ids), model)
        except OSError as error:
            fail(str(error))
    _end(len(ids), output)


def _run(work: "_Batch", input_file: pathlib.Path, total: int, model: str | None) -> None:
    left = total - len(work.output.done)
    if not left:
        return
    with server(work.url, CONNECT_TIMEOUT_S) as client:
        name = model or only_model(client)
    lines = (line for line in read_lines(input_file) if line.custom_id not in work.output.done)
    with _progress() as bar:
        work.show = bar
        work.task = bar.add_task("requests", total=total, completed=total - left, numbers="")
        try:
            asyncio.run(work.run(lines, name))
        except KeyboardInterrupt:
            bar.stop()
            done = len(work.output.done)
            Console(stderr=True).print(f"stopped with {done:,} of {total:,} answered; the same command goes on from there")
            raise typer.Exit(130) from None


def _end(total: int, output: BatchOutput) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{total:,} requests answered, {output.failed:,} of them with an error")
    if output.failed:
        raise typer.Exit(1)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    return Progress(*columns, console=Console(stderr=True))


class _Batch:
    """One run. `show` and `task` are the bar and its line."""

    show: Progress
    task: Any

    def __init__(self, output: BatchOutput, url: str, concurrency: int, timeout_s: float):
        self.output, self.url = output, url
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._began = time.monotonic()
        self._away_since: float | None = None
        self._tokens = self._verified = self._accepted = 0

    async def run(self, lines: Iterator[BatchLine], model: str) -> None:
        """Raises ServerAwayError, OSError when the output cannot be written, ConfigError when the input has changed meanwhile."""
        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self._concurrency):
                        workers.create_task(self._work(client, lines, model))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=self._timeout_s, pool=None)
        async with httpx.AsyncClient(base_url=self.url, headers=authorization(), timeout=timeout, limits=limits) as client:
            yield client

    async def _work(self, client: httpx.AsyncClient, lines: Iterator[BatchLine], model: str) -> None:
        for line in lines:
            answer = await self._answer(client, line, {"model": model} | line.body)
            try:
                body = answer.json()
            except ValueError:
                body = {"error": {"message": answer.text[:500], "code": None, "type": "server_error", "param": None}}
            self.output.write(line, answer.status_code, answer.headers.get("x-request-id", ""), body)
            self._count(body.get("usage") if isinstance(body, dict) else None)

    async def _answer(self, client: httpx.AsyncClient, line: BatchLine, body: dict[str, Any]) -> httpx.Response:
        """The answer that counts: 200, a refusal, or a server error that came TRIES times."""
        wait_s, failures = FIRST_WAIT_S, 0
        while True:
            asked_s = wait_s
            try:
                answer = await client.post(line.url, json=body)
            except httpx.TransportError as error:
                self._away_since = self._away_since or time.monotonic()
                if time.monotonic() - self._away_since > AWAY_S:
                    raise ServerAwayError(
                        f"no answer from {self.url} for {AWAY_S:.0f} s ({error!r}); the same command goes on later"
                    ) from None
            else:
                self._away_since = None
                if answer.status_code in (401, 403):
                    raise ServerAwayError(f"{answer.status_code} from {self.url}: {HINT}; the same command goes on from here")
                failures += answer.status_code in (500, 504)
                if answer.status_code not in AGAIN or failures >= TRIES:
                    return answer
                asked_s = _retry_after(answer.headers, wait_s)
            await asyncio.sleep(asked_s * random.uniform(0.75, 1.25))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        usage = usage or {}
        speculation = usage.get("speculation") or {}
        self._tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))
        self._verified += speculation.get("verified", 0)
        self._accepted += speculation.get("accepted", 0)
        numbers = f"{self._tokens / max(time.monotonic() - self._began, 1e-3):.0f} tokens/s"
        numbers += f", accepted {self._accepted / self._verified:.0%} of verified" if self._verified else ""
        numbers += f", {self.output.failed} failed" if self.output.failed else ""
        self.show.update(self.task, completed=len(self.output.done), numbers=numbers)


def _retry_after(headers: Mapping[str, str], otherwise_s: float) -> float:
    try:
        return min(max(float(headers["retry-after"]), 0.0), 10 * LONGEST_WAIT_S)
    except (KeyError, ValueError):
        return otherwise_s
