"""What HTTP and gRPC share: plans are made off the event loop, outputs are streamed and counted.

Promises: what finds no place is refused before its prompt is tokenized. `running`, and the totals that
the gateway reports, cover every choice of every request from its dispatch to its end, however it ends, and
requests that were refused or wrong from the start.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TypeVar

from deployments.gateway.client_limits import ClientLimits, ClientRequest
from deployments.gateway.fan_in import fan_in
from deployments.gateway.kept_traces import KeptTraces
from deployments.gateway.request_log import RequestLog, RequestRecord
from deployments.gateway.request_planner import RequestPlan, RequestPlanner
from deployments.gateway.text_stream import TextDelta, generate_text
from deployments.gateway.verifier_link import NoVerifierError, VerifierLink
from drafthouse.config.limits import RateLimits
from drafthouse.config.serving import MAX_BODY_BYTES
from drafthouse.errors import TOO_LARGE, LimitError, OverloadError, RequestError
from drafthouse.objective import UrgencyWish
from drafthouse.policy.retry_line import RetryLine
from drafthouse.telemetry.spans import Spans
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.totals import GatewayTotals, Outcome

Result = TypeVar("Result")

LONG_BYTES = 1 << 16
"""Of a request. Its text may take tens of milliseconds to tokenize, megabytes take seconds: such ones wait for each other alone."""

LONG_AT_ONCE = 2

KEPT_SAMPLES = 10_000
"""Latencies of one kind that wait for the exporter; where there is none, the oldest go."""


class Capacity:
    """Limits the choices that one gateway has in progress, and says when a client that finds no place may come again.

    Promises: never more than `count` places are taken. While a plan is made it holds one place, since it will need at least one.
    """

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        self._planning = 0
        self._released = 0
        self._line = RetryLine()

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Holds one place while a plan is made. Raises OverloadError."""
        self._check(1)
        self._planning += 1
        try:
            yield
        finally:
            self._planning -= 1

    def take(self, choices: int) -> None:
        """Raises OverloadError, taking nothing."""
        self._check(choices)
        self._observe()
        self.taken += choices

    def release(self, choices: int) -> None:
        self._released += choices
        self._observe()
        self.taken -= choices

    def _check(self, choices: int) -> None:
        used = self.taken + self._planning
        if used + choices > self.count:
            message = f"this gateway has {used} requests in progress, and serves {self.count} at once"
            raise OverloadError(message, self._line.refuse(time.monotonic(), self.taken))

    def _observe(self) -> None:
        self._line.observe(time.monotonic(), self.taken, self._released)


class Latencies:
    """How long clients waited for tokens: seconds of all requests, by metric key. The exporter takes them out."""

    def __init__(self) -> None:
        keys = ("first_token_seconds", "token_seconds", "longest_pause_seconds", "request_seconds")
        self.samples: dict[str, deque[float]] = {key: deque(maxlen=KEPT_SAMPLES) for key in keys}


class Stopwatch:
    """One request that arrived at `now` (seconds): at most four samples, however many tokens it has."""

    def __init__(self, latencies: Latencies, now: float):
        self._samples, self._began = latencies.samples, now
        self._first: float | None = None
        self._last, self._later, self._pause = now, 0, 0.0  # tokens that came after the first ones

    def tokens(self, count: int, now: float) -> None:
        """Records that `count` new tokens have come."""
        if not count:
            return
        if self._first is None:
            self._first = now
            self._samples["first_token_seconds"].append(now - self._began)
        else:
            self._pause = max(self._pause, now - self._last)
            self._later += count
        self._last = now

    def served(self) -> None:
        """The last token has come."""
        self._samples["request_seconds"].append(self._last - self._began)
        if self._first is not None and self._later:
            self._samples["longest_pause_seconds"].append(self._pause)
            self._samples["token_seconds"].append((self._last - self._first) / self._later)


class InferenceService:
    def __init__(
        self,
        planner: RequestPlanner,
        link: VerifierLink,
        places: int,
        max_bytes: int = MAX_BODY_BYTES,
        limits: ClientLimits | None = None,
        request_id: Callable[[], str] = str,
        spans: Spans | None = None,
        urgency: Callable[[str, UrgencyWish], UrgencyWish] = lambda client, asked: asked,
    ) -> None:
        """Without `limits` clients have none. `request_id` says what the client of the request being served got in `x-request-id`.
        `spans`: requests have spans; their clock is `time.monotonic`. `urgency` settles what a client asks for, or raises RequestError."""
        self.planner, self.link, self.max_bytes, self.spans = planner, link, max_bytes, spans
        self.limits = limits or ClientLimits(lambda client: RateLimits())
        self._urgency = urgency
        self.places = Capacity(places)
        self.latencies, self.traces = Latencies(), KeptTraces()
        self.log = RequestLog(planner.model, request_id)
        self._totals = GatewayTotals()
        self._long = ThreadPoolExecutor(LONG_AT_ONCE, "long-prompt")

    @property
    def running(self) -> int:
        """Choices in progress."""
        return self.places.taken

    def totals(self) -> GatewayTotals:
        """A copy."""
        return replace(self._totals, outcome=dict(self._totals.outcome), failovers=self.link.failovers, moves=dict(self.link.moves))

    async def plan(self, make: Callable[[], RequestPlan], size: int, cache_key: str, arrived: float) -> RequestPlan:
        """Runs `make` in a thread, where streams go on meanwhile; `size`: bytes of what it is made of. `cache_key` names whose
        traffic the requests are; empty: it is not known. `arrived` (seconds, monotonic): before the body was read. Raises
        OverloadError, and RequestError for what could never be served."""
        plan = await self.made(make, size, cache_key)
        try:
            with plan.named():
                self._check_choices(len(plan.requests))
                urgency = self._urgency(cache_key, plan.urgency)
        except RequestError as error:
            self.turned_away(error, cache_key)
            raise
        priority, objective = urgency.priority or 0, urgency.objective
        waited_s = 0.0 if objective is None else time.monotonic() - arrived
        requests = tuple(
            replace(request, cache_key=cache_key, priority=priority, objective=objective, waited_s=waited_s) for request in plan.requests
        )
        return replace(plan, requests=requests, arrived=arrived)

    async def made(self, make: Callable[[], Result], size: int, cache_key: str) -> Result:
        """What `make` makes of a request of `size` bytes, in a thread; it holds a place meanwhile. Raises OverloadError and RequestError,
        counted and logged."""
        try:
            if size > self.max_bytes:
                raise RequestError(f"the request has {size} bytes, and the limit is {self.max_bytes}", code=TOO_LARGE, status=413)
            with self.places.planning():
                return await self.in_thread(make, size)
        except RecursionError as deep:
            error = RequestError("something in the request is nested too deep")
            self.turned_away(error, cache_key)
            raise error from deep
        except (RequestError, OverloadError) as error:
            self.turned_away(error, cache_key)
            raise

    async def in_thread(self, work: Callable[[], Result], size: int) -> Result:
        """What `work` on `size` bytes returns or raises; streams go on, and the short do not wait for the long."""
        executor = self._long if size > LONG_BYTES else None
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def _check_choices(self, choices: int) -> None:
        """Raises RequestError for more choices than could run at once even if all were idle: the refusal of one would end the others."""
        if choices > self.places.count:
            raise RequestError(f"{choices} choices in all, but a gateway here serves {self.places.count} at once", "n")
        capacity = self.link.routes.capacity
        if 0 < capacity < choices:
            raise RequestError(f"{choices} choices in all, but the verifiers that run have places and queues for {capacity}", "n")

    async def enter(self, counted: ClientRequest, cache_key: str) -> None:
        """Counts a request before its body is read. Raises LimitError."""
        try:
            await counted.enter()
        except LimitError as error:
            self.turned_away(error, cache_key)
            raise

    async def charge(self, counted: ClientRequest, plan: RequestPlan) -> None:
        """Counts its tokens and streams. Raises LimitError and RequestError."""
        try:
            with plan.named():
                await counted.charge(plan.prompt_tokens, plan.max_tokens, len(plan.requests))
        except (LimitError, RequestError) as error:
            self.turned_away(error, plan.requests[0].cache_key, len(plan.requests))
            raise

    async def stream(self, plan: RequestPlan, counted: ClientRequest) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """(choice, delta) of all choices as they come. Closing it cancels all of them; one error ends all. `counted` is told of each token.
        Raises OverloadError."""
        left = len(plan.requests)
        try:
            self.places.take(left)
        except OverloadError as error:
            self.turned_away(error, plan.requests[0].cache_key, left)
            raise
        kept = self.traces.begin(plan.id, plan.requests[0].cache_key, left, plan.format.token_bytes) if plan.traced else None
        try:
            async with aclosing(fan_in([self._choice(request, plan) for request in plan.requests])) as deltas:
                async for index, delta in deltas:
                    counted.generated(len(delta.tokens))
                    if kept is not None:
                        self.traces.add(kept, index, delta)
                    if delta.finish_reason:
                        left -= 1
                        self.places.release(1)
                    yield index, delta
        finally:
            self.places.release(left)

    async def _choice(self, request: GenerateRequest, plan: RequestPlan) -> AsyncGenerator[TextDelta, None]:
        outcome: Outcome = "cancelled"
        record = RequestRecord(request, self.log.request_id(), time.monotonic() if plan.arrived is None else plan.arrived)
        stopwatch = Stopwatch(self.latencies, record.arrived)
        token_bytes, parser = plan.format.token_bytes, plan.format.parser()
        try:
            text = generate_text(self.link, token_bytes, request, plan.stop_rule, record.verifiers, parser)
            with plan.named():
                async with aclosing(text) as deltas:
                    async for delta in deltas:
                        self._totals.completion_tokens += len(delta.tokens)
                        now = time.monotonic()
                        stopwatch.tokens(len(delta.tokens), now)
                        record.tokens(len(delta.tokens), delta.attempt, delta.usage, now)
                        if delta.finish_reason:
                            outcome, record.finish_reason = "served", delta.finish_reason
                            stopwatch.served()
                        yield delta
        except Exception as error:
            outcome, record.error = outcome_of(error), error
            raise
        finally:
            self._totals.prompt_tokens += len(request.prompt)
            self._ended(outcome)
            self.log.ended(record, outcome)

    def turned_away(self, error: Exception, cache_key: str, choices: int = 1) -> None:
        """Counts a request of `choices` that no verifier is asked for, and logs why."""
        self._ended(outcome_of(error), choices)
        self.log.turned_away(outcome_of(error), cache_key, error)

    def _ended(self, outcome: Outcome, choices: int = 1) -> None:
        self._totals.requests += choices
        self._totals.outcome[outcome] += choices


def outcome_of(error: Exception) -> Outcome:
    match error:
        case OverloadError():
            return "refused"
        case NoVerifierError():
            return "unavailable"
        case RequestError():
            return "rejected"
    return "failed"
