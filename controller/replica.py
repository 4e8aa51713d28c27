"""The controller's Ray shell: a clock around the registry.

Promises: nothing on the per-token path; with one replica, its state is the whole, and a restarted
one has it back after one round of heartbeats.
"""

import time
from typing import Any

from ray import serve

from controller.registry import Registry
from drafthouse.config import ServingConfig
from drafthouse.membership import Directive, Report


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class ControllerReplica:
    """Methods are coroutines without an await: they run one at a time, on the replica's loop."""

    def __init__(self, config: ServingConfig) -> None:
        self._registry = Registry(config.controller)

    async def heartbeat(self, report: Report) -> Directive:
        now = time.monotonic()
        self._registry.observe(report, now)
        return self._registry.directive_for(report, now)

    async def snapshot(self) -> dict[str, Any]:
        return self._registry.snapshot(time.monotonic())
