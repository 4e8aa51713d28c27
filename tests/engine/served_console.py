"""A gateway with its console over HTTP, with real engines and the controller's registry in one process: for browsers, without Ray."""

import asyncio
import os
import pathlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.types import ASGIApp

from controller.pool_sizes import PoolSizes
from controller.registry import Registry
from deployments.api.openai.routes import build_http_app
from deployments.gateway.client_limits import ClientLimits
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.model_metadata import load_metadata
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.text_codec import load_codec
from deployments.gateway.verifier_link import VerifierLink
from drafter.engine import DrafterEngine
from drafter.report import report_of as drafter_report
from drafter.server import DrafterServer
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.engine.loader import load
from drafthouse.engine.profiling import latency_of
from drafthouse.policy.latency import Curve
from drafthouse.security.api_keys import ApiKeys
from drafthouse.stages.build import placed
from drafthouse.wire.reports import GatewayReport, Replica, Report
from tests.engine.servers import HOST
from tests.unit.openai_gateway import metrics_page, no_lifespan
from tests.unit.real_port import in_a_thread, on_a_port
from verifier.engine import VerifierEngine
from verifier.report import report_of as verifier_report
from verifier.server import VerifierServer

TARGET_CURVE = Curve("console", "a test: nodes cost something, so that trees and prices are seen", 5.0, 0.1, 0.0)
DRAFT_CURVE = Curve("console", "a test: passes are cheap", 0.5, 0.01, 0.0)

CHROMIUM = pathlib.Path("/usr/bin/chromium")
"""Debian's."""

CHROMIUM_ARGS = ["--no-sandbox"]  # the tests may run as root


class ConsoleCluster:
    """One gateway, one verifier, one drafter, and what the controller knows of them."""

    def __init__(self, config: ServingConfig, keys: ApiKeys | None, measured: bool) -> None:
        self.config, self.keys, self.measured = config, keys, measured
        self.registry = Registry(config.controller)
        self._sizes = PoolSizes(config.autoscaling, {"gateway": 1, "verifier": 1, "drafter": 1})

    async def start(self) -> ASGIApp:
        config = self.config
        target = load(config.target)
        stages = placed(config.drafter.stages, "verifier", config.draft, target.runner.vocab_size)
        engine = VerifierEngine(
            target,
            latency_of(target, config.verifier.step_tokens) if self.measured else TARGET_CURVE,
            config.verifier,
            config.tree,
            stages=stages,
        )
        engine.grammars.prepare()
        self.verifier = VerifierServer(engine, "verifier-1")
        self._verifier = _replica("verifier-1", f"{HOST}:{await self.verifier.start(HOST, 0)}", target.fingerprint, target.forward)
        assert config.draft is not None
        draft = load(config.draft)
        drafting = DrafterEngine(
            draft,
            latency_of(draft, config.drafter.step_tokens) if self.measured else DRAFT_CURVE,
            config.drafter,
            config.tree,
            draft=config.draft,
        )
        self.drafter = DrafterServer(drafting, "drafter-1")
        self._drafter = _replica("drafter-1", f"{HOST}:{await self.drafter.start(HOST, 0)}", draft.fingerprint, draft.forward)
        self._gateway = _replica("gateway-1", HOST, "", "")
        codec = load_codec(config.target)
        planner = RequestPlanner(config.model, codec, load_metadata(config.target, codec.stop_token), config.api)
        self.link = VerifierLink(config.gateway.patience_s)
        limits = ClientLimits(lambda client: config.gateway.limits)
        self.service = InferenceService(planner, self.link, config.gateway.max_ongoing_requests, limits=limits)
        await self._beat()
        self._beating = asyncio.create_task(self._beat_on())
        return build_http_app(self.service, self._snapshot, no_lifespan, self.keys, config.gateway, metrics_page, KeyRefusals())

    async def stop(self) -> None:
        self._beating.cancel()
        await self.link.close()
        await self.verifier.stop()
        await self.drafter.stop()

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self.registry.interval_s)
            await self._beat()

    async def _beat(self) -> None:
        """Each replica reports, and follows what it is told."""
        engine, now = self.verifier.loop.engine, time.monotonic()
        round_trips = {name: client.round_trip_s for name, client in self.verifier.clients.items()}
        service = self.service
        reports: list[Report] = [
            GatewayReport(replica=self._gateway, load=service.running, capacity=service.places.count, totals=service.totals()),
            drafter_report(self.drafter, self._drafter),
            verifier_report(engine, self._verifier, False, self.verifier.loop.faults, round_trips),
        ]  # fmt: skip
        for report in reports:
            self.registry.observe(report, now)
        self.link.update(self.registry.directive_for(reports[0], now).verifiers)
        self.verifier.set_drafters(self.registry.directive_for(reports[2], now).drafters)

    async def _snapshot(self) -> dict[str, Any]:
        state = self.registry.snapshot(time.monotonic())
        return {**state, "sizes": self._sizes.as_json(self.registry.sizes()), "settings": {"digest": "", "keys": [], "fault": ""}}


def _replica(name: str, address: str, fingerprint: str, forward: str) -> Replica:
    return Replica(name, address, os.getpid(), HOST, fingerprint, forward=forward, row_invariant=forward == "native")


def console_config(model: str = "demo", **gateway: object) -> ServingConfig:
    """Of the demo pair, or of a packaged model with the draft that ships for it."""
    target, draft = ("demo:target", "demo:draft") if model == "demo" else (model, f"{model}:draft")
    models = {"target": ModelConfig(path=target, kv_tokens=8192), "draft": ModelConfig(path=draft, kv_tokens=8192)}
    return ServingConfig.model_validate({"model": model, **models, "gateway": gateway})


@contextmanager
def served_console(config: ServingConfig, keys: ApiKeys | None = None, measured: bool = False) -> Iterator[tuple[str, ConsoleCluster]]:
    """The server's URL, while it runs in a thread of its own. `measured`: on latencies of this machine, which takes seconds."""
    cluster = ConsoleCluster(config, keys, measured)

    @asynccontextmanager
    async def running() -> AsyncIterator[str]:
        async with on_a_port(await cluster.start()) as url:
            yield url
        await cluster.stop()

    with in_a_thread(running) as url:
        yield url, cluster
