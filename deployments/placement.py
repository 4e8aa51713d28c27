"""Which nodes of a Ray cluster a role may use.

Promises: a node labelled `drafthouse/role: ROLE` takes replicas of that role alone, and a node
without the label takes any. So one configuration serves a laptop, where no node is labelled, and a
cluster with a group of nodes per role. The ranks of a tensor-parallel replica go on one node together.
"""

from typing import Any

from drafthouse.config.serving import ModelConfig, PoolConfig

ROLE_LABEL = "drafthouse/role"

ROLES = ("gateway", "verifier", "drafter", "controller")

HEAD = "head"
"""The value of the label on a node that takes no replicas."""


ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Ray gives it to each node that has GPUs."""


def label_selector(role: str, accelerator: str | None = None) -> dict[str, str]:
    """Ray's label selector for replicas and their bundles. A negation, since Ray's `!in` holds where the label is missing."""
    others = [other for other in (HEAD, *ROLES) if other != role]
    return {ROLE_LABEL: f"!in({','.join(others)})"} | ({ACCELERATOR_LABEL: accelerator} if accelerator else {})


def actor_options(num_cpus: float, num_gpus: float, threads: int) -> dict[str, Any]:
    """Ray's options for one replica or rank, but for where it goes.

    Idle OpenMP threads sleep, so that pools which share a machine do not slow each other.
    """
    threading = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**threading, "TOKENIZERS_PARALLELISM": "false"}
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": environment}}


def pool_options(role: str, pool: PoolConfig, model: ModelConfig | None) -> dict[str, Any]:
    """Serve's options for the replicas of a pool: the actor's, and with several ranks a bundle for each, all on one node."""
    actor = actor_options(pool.num_cpus, pool.num_gpus, model.threads if model is not None else 1)
    selector = label_selector(role, pool.accelerator)
    if model is None or model.parallel == 1:
        return {"ray_actor_options": actor | {"label_selector": selector}}
    bundle = {name: amount for name, amount in (("CPU", pool.num_cpus), ("GPU", pool.num_gpus)) if amount}
    return {
        "ray_actor_options": actor,
        "placement_group_bundles": [bundle] * model.parallel,
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [selector] * model.parallel,
    }
