"""Spans for OpenTelemetry collectors: where one request's time went, over all the processes that worked on it (docs/tracing.md).

Promises: where the environment names no collector, `spans_from_environment` loads nothing of OpenTelemetry and returns None. A request that
its client or the sampler leaves out has no span in any process. From any thread. No prompt and no text is in any span.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from drafthouse import __version__
from drafthouse.errors import ConfigError
from drafthouse.wire.membership import Role

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

Attribute = str | bool | int | float | list[str]
Header = Callable[[str], str | None]
"""A header of a request by its name, in lower case."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set holds."""

CLOSE_S = 2.0
"""For the spans that wait, when a replica ends; a collector that is away does not hold it up for longer."""

FIRST_STEPS = 8
ERROR_CHARS = 300


def is_sampled(step: int) -> bool:
    """Which steps of a request have a span: the first ones, then those whose number is a power of two. A few dozen, however long it is."""
    return step < FIRST_STEPS or step & (step - 1) == 0


def spans_from_environment(role: Role, replica: str, clock: Callable[[], float]) -> "Spans | None":
    """By OpenTelemetry's own variables. `clock` is that of the times that spans are given. Raises ConfigError naming a variable."""
    if _said("OTEL_SDK_DISABLED").lower() == "true" or not any(map(_said, ENDPOINTS)):
        return None
    exporter = _said("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter == "none":
        return None
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {exporter!r}; here it may be otlp or none")
    return Spans(_provider(role, replica), clock)


def _said(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _provider(role: Role, replica: str) -> "TracerProvider":
    """The sampler and its argument are read from the environment by OpenTelemetry, as are batches and limits."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.instance.id": replica, "service.version": __version__, "drafthouse.role": role})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": f"drafthouse-{role}"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider


def _exporter() -> "SpanExporter":
    protocol = next(filter(None, map(_said, PROTOCOLS)), "http/protobuf")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; here it may be http/protobuf or grpc")


class Spans:
    """Begins the spans of one replica."""

    def __init__(self, provider: "TracerProvider", clock: Callable[[], float]) -> None:
        self._provider, self._clock = provider, clock
        self._tracer = provider.get_tracer("drafthouse", __version__)

    def request(self, name: str, header: Header, began: float) -> "OpenSpan | None":
        """Of a client's request: below the client's own span where it names one, else the root of a trace. None: it is not sampled."""
        return self._begin(name, _context(header("traceparent") or "", header("tracestate") or ""), began)

    def below(self, name: str, traceparent: str, began: float) -> "OpenSpan | None":
        """Below a span of another process; None where that is none, or empty."""
        if not traceparent:
            return None
        from opentelemetry.trace import get_current_span

        context = _context(traceparent)
        return self._begin(name, context, began) if get_current_span(context).get_span_context().is_valid else None

    def _begin(self, name: str, context: "Context", began: float) -> "OpenSpan | None":
        from opentelemetry.trace import SpanKind

        offset_ns = time.time_ns() - int(self._clock() * 1e9)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, start_time=int(began * 1e9) + offset_ns)
        return OpenSpan(self._tracer, span, offset_ns) if span.is_recording() else None

    def close(self) -> None:
        """Sends what waits."""
        closing = threading.Thread(target=self._provider.shutdown, name="spans-close", daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _context(traceparent: str, tracestate: str = "") -> "Context":
    """Empty where they cannot be read."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent, "tracestate": tracestate}, Context())


class OpenSpan:
    """A span that has begun. Times are on the clock of its `Spans`."""

    def __init__(self, tracer: "Tracer", span: "Span", offset_ns: int) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span, self._offset_ns = tracer, span, offset_ns
        self._context = set_span_in_context(span)
        own = span.get_span_context()
        self.traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        self._span.set_attributes(attributes)

    def child(self, name: str, began: float, ended: float, attributes: Mapping[str, Attribute] | None = None) -> None:
        """A part that is over."""
        part = self._tracer.start_span(name, self._context, attributes=attributes, start_time=self._unix_ns(began))
        part.end(self._unix_ns(ended))

    def failed(self, kind: str, message: str) -> None:
        """Marks it: `kind` is one of few, `message` says what happened."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, message[:ERROR_CHARS]))

    def end(self, at: float) -> None:
        """The first end holds."""
        if self._span.is_recording():
            self._span.end(self._unix_ns(at))

    def _unix_ns(self, at: float) -> int:
        return int(at * 1e9) + self._offset_ns
