"""The gateway's Ray shell: one deployment for HTTP and gRPC in front of the verifiers.

Promises: nothing but wiring. Settings that change hold for requests that come; those that run end as they began. The
constructor reads the tokenizer and the model's metadata; the heartbeat starts and stops with the ASGI application, which
has started once there is a routing table. Serve reads annotations here, so they must not be postponed. Without direct
ingress (which HAProxy needs) Serve's proxies look at the context of a gRPC stream only when a chunk comes, so that a
refusal has its hint in the details alone, and Serve logs it as a failure.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import ray
from fastapi import FastAPI
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from ray import serve
from ray.serve._private.constants import RAY_SERVE_ENABLE_DIRECT_INGRESS
from ray.serve.context import _get_serve_request_context
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from ray.util import metrics as ray_metrics
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from deployments.api.grpc.inference import InferenceApi
from deployments.api.openai.routes import build_http_app
from deployments.gateway.client_limits import ClientLimits
from deployments.gateway.cluster_metrics import ClusterMetrics
from deployments.gateway.first_table import FirstTable
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.model_metadata import load_metadata
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.set_aside_events import SetAsideEvents
from deployments.gateway.text_codec import load_codec
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.limits import RateLimits
from drafthouse.config.live import LiveSettings, names
from drafthouse.config.serving import ServingConfig
from drafthouse.objective import NO_WISH, UrgencyWish
from drafthouse.security.api_keys import load_api_keys
from drafthouse.telemetry.log_lines import set_up_logs
from drafthouse.telemetry.loop_lag import LoopLag
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.telemetry.spans import spans_from_environment
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive
from drafthouse.wire.reports import GatewayReport, Replica
from drafthouse.wire.transport import load_transport
from protos import inference_pb2


class CurrentApp:
    """The HTTP application as the settings have it now. An answer that has begun ends in the one that it began in.

    Below a route prefix of Serve's it answers as at the root of a server: what looks at a request's path need not know the prefix.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    @property
    def routes(self) -> list[BaseRoute]:
        """Serve labels its metrics by them."""
        return self.app.routes

    @property
    def router(self) -> Router:
        """Serve asks whether it redirects what ends in a slash."""
        return self.app.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = scope.get("root_path", "")
        if prefix and scope["path"].startswith(f"{prefix}/"):
            scope = {**scope, "root_path": "", "path": scope["path"].removeprefix(prefix)}
        await self.app(scope, receive, send)


@serve.deployment
@serve.ingress()
class Gateway:
    """`verifiers` and `drafters` are bound only so that Serve deploys these pools; their requests go over the data plane."""

    def __init__(
        self,
        config: ServingConfig,
        controller: DeploymentHandle,
        verifiers: DeploymentHandle | None = None,
        drafters: DeploymentHandle | None = None,
    ) -> None:
        set_up_logs()
        codec = load_codec(config.target)
        metadata = load_metadata(config.target, codec.stop_token, config.gateway.sampling_defaults)
        planner = RequestPlanner(config.model, codec, metadata, config.api)
        self._controller, self._config = controller, config.gateway
        self._settings = LiveSettings(config, self._apply)
        self._keys = load_api_keys(config.security.api_keys)
        self._link = VerifierLink(config.gateway.patience_s, load_transport(config.security.data_plane))
        self._limits, self._lag = ClientLimits(self._limits_of), LoopLag()
        places, max_bytes = config.gateway.max_ongoing_requests, config.gateway.max_body_bytes
        name, node = serve.get_replica_context().replica_id.unique_id, ray.get_runtime_context().get_node_id()
        self._spans = spans_from_environment("gateway", name, time.monotonic)
        self._service = InferenceService(planner, self._link, places, max_bytes, self._limits, _request_id, self._spans, self._urgency_of)
        self._refusals, self._set_aside = KeyRefusals(_request_id), SetAsideEvents()
        self._grpc = self._grpc_api()
        self._replica = Replica(name, ray.util.get_node_ip_address(), os.getpid(), node, "")
        self._cluster_metrics = ClusterMetrics(_exporters, planner.model)
        self._app = CurrentApp(self._http_app())
        metrics = MetricsExporter("gateway", name, ray_metrics)
        reporting = metrics.exporting(self._report, self._details)
        self._heartbeat = Heartbeat(controller, reporting, config.controller.heartbeat_s, self._directed)
        self._first_table = FirstTable(self._heartbeat, self._ask_peer)

    def __serve_build_asgi_app__(self) -> CurrentApp:
        """Called by Serve after the constructor."""
        return self._app

    def _http_app(self) -> FastAPI:
        page = self._cluster_metrics.page
        return build_http_app(self._service, self._snapshot, self._lifespan, self._keys, self._config, page, self._refusals)

    def _grpc_api(self) -> InferenceApi:
        hops, write_timeout_s = self._config.limits.proxy_hops, self._config.write_timeout_s
        return InferenceApi(self._service, self._keys, self._refusals, hops, write_timeout_s, RAY_SERVE_ENABLE_DIRECT_INGRESS)

    def _apply(self, config: ServingConfig) -> None:
        """Raises ConfigError where the file of keys cannot be read here."""
        if config.security.api_keys != self._settings.config.security.api_keys:
            self._keys = load_api_keys(config.security.api_keys)
        self._config = config.gateway
        self._link.patience_s, self._service.max_bytes = self._config.patience_s, self._config.max_body_bytes
        self._app.app, self._grpc = self._http_app(), self._grpc_api()

    async def Generate(  # the proto's name; Serve fills in `grpc_context`
        self, request: bytes | inference_pb2.GenerateRequest, grpc_context: RayServegRPCContext
    ) -> inference_pb2.GenerateResponse:
        return await self._grpc.generate(_unparsed(request), grpc_context)

    async def GenerateStream(
        self, request: bytes | inference_pb2.GenerateRequest, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[inference_pb2.GenerateChunk, None]:
        async with aclosing(self._grpc.stream(_unparsed(request), grpc_context)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Tokenize(
        self, request: bytes | inference_pb2.TokenizeRequest, grpc_context: RayServegRPCContext
    ) -> inference_pb2.TokenizeResponse:
        return await self._grpc.tokenize(_unparsed(request), grpc_context)

    async def Detokenize(
        self, request: bytes | inference_pb2.DetokenizeRequest, grpc_context: RayServegRPCContext
    ) -> inference_pb2.DetokenizeResponse:
        return await self._grpc.detokenize(_unparsed(request), grpc_context)

    async def ListModels(
        self, request: bytes | inference_pb2.ListModelsRequest, grpc_context: RayServegRPCContext
    ) -> inference_pb2.ListModelsResponse:
        return await self._grpc.list_models(grpc_context)

    async def Check(  # of grpc.health.v1.Health
        self, request: bytes | health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        return await self._grpc.check(_unparsed(request), grpc_context)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._heartbeat.start()
        self._lag.start()
        try:
            await self._first_table.wait()
            yield
        finally:
            await self._heartbeat.stop()
            await self._lag.stop()
            await self._link.close()
            self._service.planner.close()
            if self._spans is not None:
                self._spans.close()

    async def _snapshot(self) -> dict[str, object]:
        snapshot: dict[str, object] = await self._controller.snapshot.remote()
        return snapshot

    def _directed(self, directive: Directive) -> None:
        self._settings.follow(directive.settings)
        self._link.update(directive.verifiers, directive.interval_s)
        if directive.stopping:
            self._link.end_all()
        self._limits.directed(directive)
        if not self._lacks_keys(directive):
            self._first_table.directed(directive)

    def _lacks_keys(self, directive: Directive) -> bool:
        """Whether this gateway has none of the API keys that it is told of: it must not become ready and let all in."""
        return self._keys is None and bool(self._settings.fault) and "security.api_keys" in names(directive.settings)

    def _limits_of(self, client: str) -> RateLimits:
        own = self._keys.limits_of(client) if self._keys is not None else {}
        return self._config.limits.model_copy(update=own) if own else self._config.limits

    def _urgency_of(self, client: str, asked: UrgencyWish) -> UrgencyWish:
        """Raises RequestError."""
        own = self._keys.urgency_of(client) if self._keys is not None else NO_WISH
        return self._config.urgency.settle(asked, own)

    def directive(self) -> Directive:
        """The last one, for a gateway that starts while the controller is away."""
        return self._heartbeat.directive

    async def _ask_peer(self) -> Directive:
        """Serve chooses a gateway that runs; this one does not yet."""
        mine = serve.get_replica_context()
        peers = serve.get_deployment_handle(mine.deployment, mine.app_name)
        directive: Directive = await peers.directive.remote()
        return directive

    def _details(self) -> Numbers:
        """What metrics have beyond the report."""
        gauges = {"verifiers": float(len(self._link.routes)), "controller_answers": float(self._heartbeat.answered is True)}
        log = self._service.log
        samples = {**self._service.latencies.samples, **log.samples, "loop_lag_seconds": self._lag.samples}
        return Numbers(log.totals(), gauges, samples)

    def _report(self) -> GatewayReport:
        return GatewayReport(
            replica=self._replica, load=self._service.running, capacity=self._service.places.count, totals=self._service.totals(),
            clients=self._limits.uses(), incompatible=self._link.incompatible,
            set_aside=self._set_aside.tell(self._link.routes.set_aside(), self._link.routes.replicas()),
            loop_lag_s=self._lag.late_s(), loop_cpu_share=self._lag.cpu_share(),
            settings=self._settings.digest,
        )  # fmt: skip


async def _exporters() -> list[str]:
    """host:port of the exporter on each node that is alive."""
    nodes = await asyncio.to_thread(ray.nodes)
    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes if node["Alive"]]


def _unparsed(request: bytes | Message) -> bytes:
    """Serve parses requests where its gRPC options, which no running cluster can change, name the generated servicer and not ours."""
    return request if isinstance(request, bytes) else request.SerializeToString()


def _request_id() -> str:
    """Of the request that this task serves: what the client gets in `x-request-id`, over gRPC in the metadata `request_id`."""
    return str(_get_serve_request_context().request_id)
