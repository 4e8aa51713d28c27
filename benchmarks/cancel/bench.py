"""`drafthouse bench cancel`: many short requests, a share of them cut at random points, and what is left in the server afterwards.

Promises: a refused request is sent again when it was told to come; so each request ends as finished, cancelled, failed or
without a reply. As many as were asked for are really cancelled: a cut that came too late is made on another request. What the
server holds at the end is read from reports that its replicas made after the last of them had ended.
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.cancel.clients import Clients, Outcome, cut_after
from benchmarks.cancel.traffic import WAYS, Call, Waiting, prompt_of, traffic
from benchmarks.harness.http_stream import BenchError, connect, only_model
from benchmarks.harness.paced_server import Totals, difference, sums
from benchmarks.harness.prompts import load_texts
from benchmarks.harness.report import Report
from benchmarks.load.client import connect_async, gathered
from deployments.cli.options import machine
from drafthouse.security.client_key import authorization

PROMPTS = 32
REPLY_TIMEOUT_S = 600.0
"""A request without an end by then has none."""

FIRST_GUESS_S = 0.5
GUESS_WEIGHT = 0.1
"""What requests usually take, before one has finished, and the weight of the latest in the moving average."""

MOST_STEPS = 1
"""From a cut to the release of what its request held: the step that runs when the word comes is finished first."""

UNTOLD_S = 1.0
FREE_TIMEOUT_S = 60.0
REPORTED_HEARTBEATS = 2.2
"""By then every replica has reported twice, the second time of a moment after the first."""


@dataclass(frozen=True)
class CancelOptions:
    requests: int
    share: float
    in_flight: int
    tokens: tuple[int, int]
    seed: int
    per_second: float = math.inf
    modes: tuple[str, ...] = ("auto",)


@dataclass
class Tally:
    """By way: how the calls ended; of all: refusals, and those without a time; what calls usually take."""

    endings: dict[str, Counter[str]] = field(default_factory=lambda: {way: Counter() for way in WAYS})
    refusals: int = 0
    refusals_without_time: int = 0
    cut_too_late: int = 0
    usual_s: float = FIRST_GUESS_S
    words: list[str] = field(default_factory=list)

    def add(self, call: Call, outcome: Outcome, seconds: float) -> bool:
        """Whether it was meant to be cut, and had ended before."""
        self.endings[call.way][outcome.ending] += 1
        late = outcome.ending == "finished" and call.cut_at is not None
        if outcome.ending == "finished":
            self.usual_s += GUESS_WEIGHT * (seconds - self.usual_s)
            self.cut_too_late += late
        elif outcome.ending != "cancelled":
            self.words.append(f"{call.way}: {outcome.words}")
        return late

    def all(self, ending: str) -> int:
        return sum(counts[ending] for counts in self.endings.values())

    @property
    def ended(self) -> int:
        """Requests in all, however they ended."""
        return sum(sum(counts.values()) for counts in self.endings.values())


def run_cancel(
    options: CancelOptions, url: str, grpc_address: str, console: Console, keys: Sequence[str] = (), tally: Tally | None = None
) -> Report:
    """`keys`: of the clients among whom calls are shared out, the first an operator's; by default the environment's. `tally` may be
    read meanwhile. Raises ConfigError or BenchError when no server answers."""
    state, tally = machine(), tally or Tally()
    headers = [{"Authorization": f"Bearer {key}"} for key in keys] or [authorization()]
    with connect(url) as client:
        client.headers.update(headers[0])
        model = only_model(client)
        longest = int(client.get(f"/v1/models/{model}").json()["max_model_len"]) - options.tokens[1]
    report = asyncio.run(_measure(options, url, grpc_address, headers, (model, longest), tally, console))
    return {**report, "settings": {**asdict(options), "url": url, "grpc": grpc_address, "model": model, "machine": state}}


async def _measure(
    options: CancelOptions, url: str, address: str, headers: list[dict[str, str]], served: tuple[str, int], tally: Tally, console: Console
) -> Report:
    """`served`: the model's name, and the characters that a prompt may have."""
    (model, longest), texts = served, load_texts(None, PROMPTS)
    calls = traffic(options.requests, options.share, len(texts), options.tokens, options.seed, len(headers), options.modes)
    async with connect_async(url) as http, grpc.aio.insecure_channel(address) as channel:
        http.headers.update(headers[0])
        before = await reported_cluster(http)
        clients = Clients(http, channel, model, headers)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("requests", total=len(calls))

            async def send(call: Call) -> bool:
                late = await _to_its_end(clients, call, prompt_of(call, texts, longest), tally)
                progress.advance(task)
                return late

            await send_all(Waiting(calls), send, options.in_flight, options.per_second)
        seconds, after = await until_free(http)
    return cancel_report(tally, round(options.share * options.requests), before, after, seconds)


async def send_all(waiting: Waiting, send: Callable[[Call], Awaitable[bool]], in_flight: int, per_second: float = math.inf) -> None:
    """At most `in_flight` at a time and `per_second` a second. `send` returns at the call's end and says whether its cut was too late."""
    started, begun = time.monotonic(), itertools.count()

    async def worker() -> None:
        while waiting:
            call = waiting.take()
            await asyncio.sleep(started + next(begun) / per_second - time.monotonic())
            if await send(call):
                waiting.hand_on(call)

    await gathered([worker() for _ in range(in_flight)])


async def _to_its_end(clients: Clients, call: Call, prompt: str, tally: Tally) -> bool:
    """Whether it was meant to be cut, and had ended before."""
    while True:
        started = time.perf_counter()
        cut_s = None if call.cut_at is None else call.cut_at * tally.usual_s
        by_deadline = cut_s is not None and call.cut == "deadline" and call.way.startswith("grpc")
        sending = asyncio.create_task(clients.send(call, prompt, cut_s if by_deadline else None))
        limit_s = cut_s if cut_s is not None and not by_deadline else REPLY_TIMEOUT_S
        outcome = await cut_after(sending, limit_s)
        if outcome.ending == "cancelled" and call.cut_at is None:
            outcome = Outcome("no reply", words=f"nothing after {REPLY_TIMEOUT_S:.0f} s")
        if outcome.ending != "refused":
            return tally.add(call, outcome, time.perf_counter() - started)
        tally.refusals += 1
        tally.refusals_without_time += outcome.retry_after_s is None
        await asyncio.sleep(UNTOLD_S if outcome.retry_after_s is None else outcome.retry_after_s)


async def reported_cluster(http: httpx.AsyncClient) -> dict[str, Any]:
    """`/v1/cluster`, as every replica has reported it since. Raises BenchError."""
    try:
        interval_s = (await http.get("/v1/cluster")).json()["interval_s"]
        await asyncio.sleep(REPORTED_HEARTBEATS * interval_s)
        state: dict[str, Any] = (await http.get("/v1/cluster")).raise_for_status().json()
        return state
    except (httpx.HTTPError, LookupError, ValueError) as error:
        raise BenchError(f"{http.base_url}v1/cluster: {type(error).__name__}: {error}") from error


def in_use(state: Mapping[str, Any]) -> dict[str, float]:
    """What replicas say they hold; zeros when nobody is served."""

    def gauge(role: str, name: str) -> float:
        return float(sum(replica["gauges"].get(name, 0.0) for replica in state["pools"].get(role, [])))

    return {
        "verifier_kv_slots": gauge("verifier", "kv_slots_used"),
        "drafter_kv_slots": gauge("drafter", "kv_slots_used"),
        "drafter_sessions": float(state["sessions"]),
        "queue": gauge("verifier", "waiting"),
        "running": gauge("verifier", "running"),
        "gateway_requests": float(sum(replica["load"] for replica in state["pools"].get("gateway", []))),
    }


async def until_free(http: httpx.AsyncClient) -> tuple[float, dict[str, Any]]:
    """Seconds until the replicas report that nothing is in use, or as long as that is waited for; the state then."""
    started = time.monotonic()
    while True:
        state = await reported_cluster(http)
        seconds = time.monotonic() - started
        if not any(in_use(state).values()) or seconds > FREE_TIMEOUT_S:
            return seconds, state


def cancel_report(tally: Tally, due: int, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> Report:
    """`held` is the verdict: every request had its end, none failed, at least `due` were cancelled, what they held was free within
    MOST_STEPS, and nothing is left."""
    verifier = difference(sums(after, "verifier"), sums(before, "verifier"))
    ended = sum(verifier.get(name, 0.0) for name in ("finished", "cancelled", "superseded", "returned", "failed"))
    steps = [replica["gauges"].get("most_steps_to_free", 0.0) for replica in after["pools"].get("verifier", [])]
    at_end = in_use(after)
    report: Report = {
        "finished": tally.all("finished"),
        "cancelled": tally.all("cancelled"),
        "meant_to_be_cancelled": due,
        "refused": tally.refusals,
        "failed": tally.all("failed"),
        "without_terminal_reply": tally.all("no reply"),
        "refused_without_time": tally.refusals_without_time,
        "cut_too_late": tally.cut_too_late,
        "by_way": {way: dict(counts) for way, counts in tally.endings.items()},
        "cancelled_in_verifier": _phases(verifier),
        "admitted_without_end_in_verifier": verifier.get("admitted", 0.0) - ended,
        "at_end": at_end,
        "seconds_until_reported_free": seconds,
        "most_steps_from_cancel_to_free": max(steps, default=0.0),
        "words": tally.words[:20],
    }
    wrong = ("failed", "without_terminal_reply", "refused_without_time", "admitted_without_end_in_verifier")
    free = report["most_steps_from_cancel_to_free"] <= MOST_STEPS and not any(at_end.values())
    report["held"] = free and report["cancelled"] >= due and not any(report[name] for name in wrong)
    return report


def _phases(verifier: Totals) -> dict[str, float]:
    """Where the cut met those that had reached the verifier; others had not, or the gateway turned them away."""
    cancelled, waiting, prefill = (verifier.get(name, 0.0) for name in ("cancelled", "cancelled_waiting", "cancelled_in_prefill"))
    return {"waiting": waiting, "in_prefill": prefill, "decoding": cancelled - waiting - prefill}


def lines(report: Report) -> Sequence[str]:
    phases = report["cancelled_in_verifier"]
    return (
        f"{report['finished']} finished, {report['cancelled']} cancelled of {report['meant_to_be_cancelled']} that were to be, "
        f"{report['failed']} failed, "
        f"{report['without_terminal_reply']} without terminal reply; {report['refused']} refusals, all but "
        f"{report['refused_without_time']} with a time to come again",
        f"cancelled in the verifier: {phases['waiting']:g} waiting, {phases['in_prefill']:g} in prefill, {phases['decoding']:g} decoding; "
        f"freed after {report['most_steps_from_cancel_to_free']:g} steps at most",
        f"in use at the end: {', '.join(f'{name} {value:g}' for name, value in report['at_end'].items())}; "
        f"reported after {report['seconds_until_reported_free']:.1f} s",
        *report["words"],
    )
