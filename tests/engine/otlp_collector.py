"""An OpenTelemetry collector for tests: OTLP over a real HTTP or gRPC server, and what it was sent."""

import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

HTTP, GRPC = "http/protobuf", "grpc"
SAFETY_S = 30.0


@dataclass(frozen=True)
class Seen:
    """One span; ids are hexadecimal, an empty `parent` is none."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    failed: bool
    message: str


class Collector:
    def __init__(self) -> None:
        self.spans: list[Seen] = []

    def take(self, request: pb.ExportTraceServiceRequest) -> None:
        for of_process in request.resource_spans:
            resource = {a.key: _plain(a.value) for a in of_process.resource.attributes}
            for scope in of_process.scope_spans:
                for s in scope.spans:
                    attributes = {a.key: _plain(a.value) for a in s.attributes}
                    ids = s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex()
                    failed = s.status.code == Status.STATUS_CODE_ERROR
                    times = s.start_time_unix_nano, s.end_time_unix_nano
                    self.spans.append(Seen(resource["service.name"], s.name, *ids, *times, attributes, failed, s.status.message))

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, *names: str) -> None:
        """Until there is one of each; a span is sent when it has ended."""
        deadline = time.monotonic() + SAFETY_S
        while missing := [name for name in names if not self.named(name)]:
            assert time.monotonic() < deadline, f"no {missing} among {[span.name for span in self.spans]}"
            time.sleep(0.01)


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind or "string_value")


@contextmanager
def collecting(protocol: str) -> Iterator[tuple[Collector, str]]:
    """The collector, and the endpoint to be set in the environment."""
    collector = Collector()
    with (_http if protocol == HTTP else _grpc)(collector) as endpoint:
        yield collector, endpoint


@contextmanager
def _http(collector: Collector) -> Iterator[str]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            collector.take(pb.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: test output is for tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _grpc(collector: Collector) -> Iterator[str]:
    class Receiver(rpc.TraceServiceServicer):
        def Export(self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext) -> pb.ExportTraceServiceResponse:
            collector.take(request)
            return pb.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    rpc.add_TraceServiceServicer_to_server(Receiver(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)
