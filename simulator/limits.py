"""What the control plane costs as pools grow, beyond the sizes that are worth simulating request by request.

Promises: the registry, its pairing and the gateways' routing table are the ones that serve, timed in
this process (CPU seconds); a report's way through Ray and the interpreter is `heartbeat_s`, which
`drafthouse bench heartbeats` measures.
"""

import pickle
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.pairing import MAX_DRAFTERS_PER_VERIFIER
from controller.registry import Registry
from drafthouse.config.serving import ServingConfig
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.wire.reports import Report
from simulator.options import Options
from simulator.typical_reports import typical_report

GROWTH = (1, 2, 5, 10)

SAMPLES = 20
"""Calls that a cost is averaged over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """At `verifiers` and `drafters`: `interval_s` between a replica's reports, `controller_share` of its one thread for them,
    `silent_s` until a dead replica is taken out, `pairing_s` that everything waits when a replica comes or goes, bytes of a
    gateway's routing table, seconds to pick from it, streams that a verifier and a drafter keep open."""

    verifiers: int
    drafters: int
    interval_s: float
    heartbeat_s: float
    controller_share: float
    silent_s: float
    pairing_s: float
    table_bytes: int
    pick_s: float
    streams_per_verifier: int
    streams_per_drafter: float


def limits(verifiers: int, drafters: int, config: ServingConfig, transport_s: float) -> Limits:
    """`transport_s`: the controller's time for a report beside the registry's."""
    registry = Registry(config.controller)
    reports = [typical_report("verifier", i) for i in range(verifiers)] + [typical_report("drafter", i) for i in range(drafters)]
    gateways = [typical_report("gateway", i) for i in range(config.gateway.replicas)]
    for report in reports + gateways:
        registry.observe(report, 0.0)
    pairing_s = _cpu_seconds(lambda: registry.directive_for(reports[0], 0.0), 1)
    sample = [*reports[:: max(1, len(reports) // SAMPLES)], *gateways]
    per_report = _cpu_seconds(lambda: _round(registry, sample), 1) / len(sample)
    directive = registry.directive_for(gateways[0], 0.0)
    routes = VerifierRoutes(random.random)
    routes.replace(directive.verifiers)
    heartbeat_s, interval_s = transport_s + per_report, registry.interval_s
    streams = min(drafters, MAX_DRAFTERS_PER_VERIFIER)
    return Limits(
        verifiers=verifiers, drafters=drafters, interval_s=interval_s, heartbeat_s=heartbeat_s,
        controller_share=heartbeat_s * (len(reports) + len(gateways)) / interval_s,
        silent_s=interval_s * config.controller.expire_heartbeats,
        pairing_s=max(0.0, pairing_s - per_report), table_bytes=len(pickle.dumps(directive)),
        pick_s=_cpu_seconds(lambda: routes.pick(None, (), 0.0), SAMPLES), streams_per_verifier=streams,
        streams_per_drafter=streams * verifiers / drafters if drafters else 0.0,
    )  # fmt: skip


def beyond(options: Options) -> list[Limits]:
    """At the sizes of `options` and at multiples of both pools, until one of them is past use."""
    found = []
    for factor in GROWTH:
        found.append(limits(options.verifiers * factor, options.drafters * factor, options.config, options.overheads.heartbeat_s))
        if found[-1].controller_share > 1 or found[-1].pairing_s > found[-1].silent_s:
            break
    return found


def _round(registry: Registry, reports: Sequence[Report]) -> None:
    for report in reports:
        registry.observe(report, 0.0)
        registry.directive_for(report, 0.0)


def _cpu_seconds(work: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times
