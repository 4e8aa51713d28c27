"""From the configuration to the Ray Serve application: four deployments, bound leaves first.

Promises: nothing is deployed with models that are missing or do not fit together. Serve reads the
type of `build_app`'s one parameter when the module runs, so annotations must not be postponed here.
"""

from typing import Any

from ray import serve

from controller.replica import ControllerReplica
from deployments.gateway import Gateway
from deployments.preflight import check_models
from drafter.replica import DrafterReplica
from drafthouse.config import PoolConfig, ServingConfig
from verifier.replica import VerifierReplica

CONTROL_REQUESTS = 1024
"""Ongoing calls of a replica that only answers heartbeats and status, from pools of any size."""

CONSTRUCTOR_RETRIES = 3
"""A model that cannot be loaded will not load the tenth time; a port taken in a race will be free soon."""


def build_app(args: ServingConfig) -> serve.Application:
    """The application for `serve deploy` and `drafthouse serve`. Raises ConfigError or ModelError.

    With `drafter.replicas: 0` there is no drafter pool, the gateway gets None for it, and every step
    is plain decoding.
    """
    check_models(args)
    controller = ControllerReplica.options(
        num_replicas=1,
        ray_actor_options=_actor(args.controller.num_cpus, 0, threads=1),
        max_ongoing_requests=CONTROL_REQUESTS,
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
    ).bind(args)
    verifiers = _pool(VerifierReplica, args.verifier, args.target.threads).bind(args, controller)
    drafters = None
    if args.drafter.replicas:
        drafters = _pool(DrafterReplica, args.drafter, args.draft.threads).bind(args, controller)
    return Gateway.options(
        num_replicas=args.gateway.replicas,
        ray_actor_options=_actor(args.gateway.num_cpus, 0, threads=1),
        max_ongoing_requests=args.gateway.max_ongoing_requests,
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
    ).bind(args, controller, verifiers, drafters)


def _pool(deployment: serve.Deployment, pool: PoolConfig, threads: int) -> serve.Deployment:
    return deployment.options(
        num_replicas=pool.replicas,
        ray_actor_options=_actor(pool.num_cpus, pool.num_gpus, threads),
        max_ongoing_requests=CONTROL_REQUESTS,
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
    )


def _actor(num_cpus: float, num_gpus: float, threads: int) -> dict[str, Any]:
    """Ray's options for one replica; idle OpenMP threads sleep, so that pools which share a machine do not slow each other."""
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "runtime_env": {
            "env_vars": {
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
                "TOKENIZERS_PARALLELISM": "false",
            }
        },
    }
