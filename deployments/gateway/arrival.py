"""One request of one client, over HTTP or gRPC alike: counted, planned, charged, streamed.

Promises: what was counted as running ends with the arrival, however that ends. Each request that goes no further is counted and has
its line in the log (`InferenceService.turned_away`).
"""

import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.request_span import RequestSpan
from deployments.gateway.text_stream import TextDelta
from drafthouse.telemetry.spans import Header

Deltas = AsyncGenerator[tuple[int, TextDelta], None]


class Arrival:
    """`async with` it from before the body is read. `cache_key` is the hash of the client's API key, and names whose traffic it is; without
    one, the limits are those of its `address`. `header` finds what the client said of its own span."""

    def __init__(self, service: InferenceService, cache_key: str, address: str, header: Header) -> None:
        self.cache_key = cache_key
        self._service, self._arrived = service, time.monotonic()
        self._counted = service.limits.begin(cache_key or address)
        self._header = header
        self._span: RequestSpan | None = None  # where it is sampled

    async def __aenter__(self) -> Self:
        """Raises LimitError where the client has no request left."""
        await self._service.enter(self._counted, self.cache_key)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._counted.end()
        if self._span is not None:
            self._span.end()

    async def begin(self, make: Callable[[], RequestPlan], size: int) -> tuple[RequestPlan, Deltas]:
        """The plan that `make` makes of `size` bytes, in a thread, and its stream, of which nothing runs before it is read.

        Raises OverloadError, LimitError, and RequestError for what could never be served.
        """
        spans = self._service.spans
        if spans is not None and (span := spans.request("request", self._header, self._arrived)) is not None:
            self._span = RequestSpan(span, self._service.planner.model, self._arrived)
        try:
            plan = await self._service.plan(make, size, self.cache_key, self._arrived)
            await self._service.charge(self._counted, plan)
        except Exception as error:
            if self._span is not None:
                self._span.failed(error)
            raise
        if self._span is None:
            return plan, self._service.stream(plan, self._counted)
        plan = self._span.planned(plan, self._service.log.request_id())
        return plan, self._span.watched(self._service.stream(plan, self._counted))

    def headers(self) -> dict[str, str]:
        """What the client has left, as OpenAI names it."""
        return self._counted.headers()
