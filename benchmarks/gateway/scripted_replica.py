"""The scripted verifier as a Ray Serve deployment: in a process of its own, announced to the gateway by the controller."""

import os
from typing import Any

import ray
from ray import serve

from benchmarks.gateway.scripted_engine import ScriptedEngine
from benchmarks.harness.prompts import load_texts
from deployments.gateway.text_codec import load_codec
from drafthouse.config.serving import ServingConfig
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.reports import Replica, VerifierReport
from drafthouse.wire.transport import PLAINTEXT
from verifier.report import report_of
from verifier.server import VerifierServer


@serve.deployment
class ScriptedVerifier:
    """The verifier's own server around an engine that says a held-out prompt of the package."""

    async def __init__(self, config: ServingConfig, controller: Any, step_s: float):
        name = serve.get_replica_context().replica_id.unique_id
        script = load_codec(config.target).encode(load_texts(None, 1)[0])
        self.engine = ScriptedEngine(script, step_s, config.gateway.max_ongoing_requests)
        self.server = VerifierServer(self.engine, name, PLAINTEXT)
        port = await self.server.start("127.0.0.1", 0)
        node = ray.util.get_node_ip_address()
        self.replica = Replica(name, f"127.0.0.1:{port}", os.getpid(), node, "scripted")
        self.heartbeat = Heartbeat(controller, self.report, config.controller.heartbeat_s)
        self.heartbeat.start()

    def report(self) -> VerifierReport:
        return report_of(self.engine, self.replica, False, self.server.loop.faults, {})
