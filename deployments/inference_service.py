"""What HTTP and gRPC share: plans are made off the event loop, outputs are streamed and counted.

Promises: `running`, and the totals that the gateway reports, cover every choice of every request
from its dispatch to its end, however it ends, and requests that were wrong from the start.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from deployments.fan_in import fan_in
from deployments.generation import TextDelta, generate_text
from deployments.latencies import Latencies, Stopwatch
from deployments.request_factory import Plan, RequestFactory
from deployments.verifier_link import NoVerifierError, VerifierLink
from drafthouse.errors import OverloadError, RequestError
from drafthouse.generation_messages import GenerateRequest

Body = TypeVar("Body")

OUTCOMES = ("served", "cancelled", "refused", "unavailable", "rejected", "failed")
"""How a request may end, as `drafthouse/metrics.py` explains."""


class InferenceService:
    def __init__(self, factory: RequestFactory, link: VerifierLink) -> None:
        self.factory, self.link = factory, link
        self.running = 0
        self.latencies = Latencies()
        self._totals: Counter[str] = Counter(requests=0, prompt_tokens=0, completion_tokens=0)
        self._totals |= {f"outcome.{outcome}": 0 for outcome in OUTCOMES}

    def totals(self) -> dict[str, float]:
        """Only ever grow. `requests` counts choices, each of which a verifier serves by itself."""
        return {**self._totals, "failovers": float(self.link.failovers), "moves": float(self.link.moves)}

    async def plan(self, make: Callable[[Body], Plan], body: Body, cache_key: str) -> Plan:
        """Runs `make` in a thread: tokenizing a long prompt takes long, and streams must go on meanwhile. `cache_key` names whose
        traffic the requests are; empty: nobody's."""
        try:
            plan = await asyncio.to_thread(make, body)
        except RequestError:
            self._ended("rejected")
            raise
        return replace(plan, requests=tuple(replace(request, cache_key=cache_key) for request in plan.requests))

    def stream(self, plan: Plan) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """(choice, delta) of all choices as they come. Closing it cancels all of them; one error ends all."""
        return fan_in([self._choice(request, plan.stops) for request in plan.requests])

    async def _choice(self, request: GenerateRequest, stops: tuple[str, ...]) -> AsyncGenerator[TextDelta, None]:
        self.running += 1
        outcome, stopwatch = "cancelled", Stopwatch(self.latencies, time.monotonic())
        try:
            async with aclosing(generate_text(self.link, self.factory.codec.token_bytes, request, stops)) as deltas:
                async for delta in deltas:
                    self._totals["completion_tokens"] += len(delta.tokens)
                    stopwatch.tokens(len(delta.tokens), time.monotonic())
                    if delta.finish_reason:
                        outcome = "served"
                        stopwatch.served()
                    yield delta
        except Exception as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.running -= 1
            self._totals["prompt_tokens"] += len(request.prompt)
            self._ended(outcome)

    def _ended(self, outcome: str) -> None:
        self._totals["requests"] += 1
        self._totals[f"outcome.{outcome}"] += 1


def outcome_of(error: Exception) -> str:
    """One of OUTCOMES."""
    kinds = ((OverloadError, "refused"), (NoVerifierError, "unavailable"), (RequestError, "rejected"))
    return next((outcome for kind, outcome in kinds if isinstance(error, kind)), "failed")
