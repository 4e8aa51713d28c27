"""From the configuration to the Ray Serve application: four deployments, bound leaves first.

Promises: nothing is deployed with models that are missing or do not fit together. Serve reads the
type of `build_app`'s one parameter when the module runs, so annotations must not be postponed here.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import BackpressureConfig

from controller.replica import ControllerReplica
from deployments.api.openai.errors import RETRY_AFTER_S
from deployments.gateway.replica import Gateway
from deployments.placement import actor_options, label_selector, pool_options, unplaceable
from deployments.preflight import check_models, check_synthetic
from deployments.rank_actors import RankActors
from drafter.replica import DrafterReplica
from drafter.server import DRAIN_S
from drafthouse.config.autoscaling import GatewayBounds, PoolBounds
from drafthouse.config.config_file import CONTROLLER
from drafthouse.config.serving import ModelConfig, PoolConfig, ServingConfig
from drafthouse.telemetry.log_lines import SERVE_LOGGING
from verifier.replica import VerifierReplica

logger = logging.getLogger("ray.serve")

CONTROL_REQUESTS = 1024
"""Ongoing calls of a replica that only answers heartbeats and status, from pools of any size."""

REFUSALS = 1024
"""Calls of a gateway beside those that it serves: it refuses the rest itself, with a time to come again, within milliseconds.
Beyond these Serve refuses, in its own words; so many may queue in front of it."""

CONSTRUCTOR_RETRIES = 3
"""A model that cannot be loaded will not load the tenth time; a port taken in a race will be free soon."""

WAIT_LOOP_S = 0.1
"""Serve waits so long for requests of its own, of which verifiers and drafters have none, before a replica may drain."""

SCALED_DRAIN_S = 600.0
"""Where load scales gateways, they go after each peak, and no other one can take their clients' streams: those get this long at least."""

GATEWAY_WAIT_LOOP_S = 2.0
"""Proxies that have not heard yet that a gateway goes may send it requests for so long."""

SURGE_PERCENT = 25
"""Of a pool's replicas, rounded up: as many new ones may stand beside the old ones while a change replaces them. An old one goes only when
a new one runs; without room for one more the change waits. Not for the controller: each of two would hear half of the heartbeats, and
take the other half of the replicas for gone."""

ANSWER_S = 5.0
"""A controller that takes longer to say how large the pools are is as good as gone."""

STOP_S = 5.0
"""From the end of draining to the end of the process; then Serve kills it."""


def build_app(args: ServingConfig) -> serve.Application:
    """The application for `serve deploy` and `drafthouse serve`. Raises ConfigError or ModelError.

    With `drafter.replicas: 0` there is no drafter pool, the gateway gets None for it, and all that drafts
    are stages in the verifier, if there are any. Pools start with `replicas`; with bounds under `autoscaling` the controller sets their
    sizes afterwards, through Serve's external scaler interface, which the application must be deployed with. Where the application runs
    already such a pool starts with the size that it has, within the bounds.

    What may change while running (`drafthouse.config.live`) the controller takes from its `user_config`, which is empty here: an entry of
    Serve's configuration beside `args` says it, and when that is taken out `args` holds again.
    """
    check_synthetic(args, os.environ)
    check_models(args)
    for line in unplaceable(args, ray.nodes()) if ray.is_initialized() else ():
        logger.warning("%s; replicas wait for a node that has", line)  # an autoscaler may bring one
    present = _present_sizes() if ray.is_initialized() else {}

    def sized(deployment: Any, replicas: int, options: dict[str, Any], drain_s: float, **more: Any) -> Any:
        return deployment.options(
            num_replicas=replicas,
            max_constructor_retry_count=CONSTRUCTOR_RETRIES,
            graceful_shutdown_timeout_s=drain_s + STOP_S,
            logging_config=SERVE_LOGGING,
            max_surge_percent=0 if deployment is ControllerReplica else SURGE_PERCENT,
            **{"max_ongoing_requests": CONTROL_REQUESTS, "graceful_shutdown_wait_loop_s": WAIT_LOOP_S, **options, **more},
        )

    def pool(deployment: Any, role: str, pool: PoolConfig, model: ModelConfig | None, drain_s: float) -> Any:
        ranks = RankActors(actor_options(pool.num_cpus, pool.num_gpus, model.threads if model is not None else 1))
        replicas = first_size(args, role, present)
        return sized(deployment, replicas, pool_options(role, pool, model), drain_s).bind(args, controller, ranks)

    pools: dict[str, Any] = {"gateway": Gateway, "verifier": VerifierReplica, "drafter": DrafterReplica}
    names = {role: deployment.name for role, deployment in pools.items()}
    gateway, drafter = args.gateway, args.drafter
    controls = _without_model("controller", args.controller.num_cpus)
    controller = sized(ControllerReplica, 1, controls, 0, user_config={}).bind(args, names)
    verifiers = pool(VerifierReplica, "verifier", args.verifier, args.target, args.verifier.drain_s)
    drafters = pool(DrafterReplica, "drafter", drafter, args.draft, DRAIN_S) if drafter.replicas else None
    front = _without_model("gateway", gateway.num_cpus)
    requests = {
        "max_ongoing_requests": gateway.max_ongoing_requests + REFUSALS,
        "max_queued_requests": REFUSALS,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        "graceful_shutdown_wait_loop_s": GATEWAY_WAIT_LOOP_S,
    }
    replicas = first_size(args, "gateway", present)
    drain_s = gateway.drain_s if args.autoscaling.gateway is None else max(gateway.drain_s, SCALED_DRAIN_S)
    return sized(Gateway, replicas, front, drain_s, **requests).bind(args, controller, verifiers, drafters)


def first_size(args: ServingConfig, role: str, present: Mapping[str, tuple[int, bool]]) -> int:
    """Replicas that a pool starts with. `present`: how many pools that load scales have already, and whether their bounds are said over
    `args` and so unknown here. Serve refuses none."""
    bounds: GatewayBounds | PoolBounds | None = getattr(args.autoscaling, role)
    replicas: int = getattr(args, role).replicas
    size, bounds_elsewhere = present.get(role, (replicas, False))
    if bounds is not None and not bounds_elsewhere:
        return min(max(size, bounds.min, 1), bounds.max)
    return max(size, 1) if bounds_elsewhere else replicas


def _present_sizes() -> dict[str, tuple[int, bool]]:
    """Asked of the controller of the application that runs, if one does: Serve tells nothing of one that is being built again."""
    try:
        known = ray.get(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE).list_deployment_ids.remote(), timeout=ANSWER_S)
        apps = [deployment.app_name for deployment in known if deployment.name == CONTROLLER]
        if len(apps) != 1:
            return {}
        sizes: dict[str, tuple[int, bool]] = serve.get_deployment_handle(CONTROLLER, apps[0]).sizes.remote().result(timeout_s=ANSWER_S)
        return sizes
    except Exception as error:  # fault boundary: Ray raises many kinds, and without an answer pools start with `replicas`
        logger.info("pools start with their replicas: %s", type(error).__name__)
        return {}


def _without_model(role: str, num_cpus: float) -> dict[str, Any]:
    return {"ray_actor_options": actor_options(num_cpus, 0, threads=1) | {"label_selector": label_selector(role)}}
