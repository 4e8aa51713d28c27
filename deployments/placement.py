"""Which nodes of a Ray cluster a role may use.

Promises: a node labelled `drafthouse/role: ROLE` takes replicas of that role alone, and a node
without the label takes any. So one configuration serves a laptop, where no node is labelled, and a
cluster with a group of nodes per role. The ranks of a tensor-parallel replica go on one node together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drafthouse.config.serving import ModelConfig, PoolConfig, ServingConfig

ROLE_LABEL = "drafthouse/role"

ROLES = ("gateway", "verifier", "drafter", "controller")

SPINS = 20_000
"""About 0.3 ms: a quarter less time for a step than asleep. GNU OpenMP's own 300,000 gain little more, and make steps five times as long as
asleep where another process wants the cores after all (docs/models.md)."""

HEAD = "head"
"""The value of the label on a node that takes no replicas."""


ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Ray gives it to each node that has GPUs."""


def label_selector(role: str, accelerator: str | None = None) -> dict[str, str]:
    """Ray's label selector for replicas and their bundles. A negation, since Ray's `!in` holds where the label is missing."""
    others = [other for other in (HEAD, *ROLES) if other != role]
    return {ROLE_LABEL: f"!in({','.join(others)})"} | ({ACCELERATOR_LABEL: accelerator} if accelerator else {})


def actor_options(num_cpus: float, num_gpus: float, threads: int) -> dict[str, Any]:
    """Ray's options for one replica or rank, but for where it goes. Idle threads sleep where its CPUs are fewer than its threads, so that
    pools which share a machine do not slow each other."""
    threading = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **_waiting(num_cpus, threads)}
    environment = {**threading, "TOKENIZERS_PARALLELISM": "false"}
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": environment}}


def _waiting(num_cpus: float, threads: int) -> dict[str, str]:
    """How idle OpenMP threads wait. On CPUs of their own they look for work for a while, since transformers' modules share out each
    operation. With no end (ACTIVE) they would take the cores from the native decoder's threads."""
    return {"GOMP_SPINCOUNT": str(SPINS)} if num_cpus >= threads else {"OMP_WAIT_POLICY": "PASSIVE"}


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


def needed_cpus(config: ServingConfig) -> float:
    """CPUs that all replicas reserve together, in the largest pools that there may be."""
    gateway = config.gateway
    pools = sum(replicas * ranks * pool.num_cpus for _, pool, replicas, ranks in _pools(config))
    return config.autoscaling.most("gateway", gateway.replicas) * gateway.num_cpus + pools + config.controller.num_cpus


def needed_gpus(config: ServingConfig) -> float:
    """Likewise."""
    return sum(replicas * ranks * pool.num_gpus for _, pool, replicas, ranks in _pools(config))


def unplaceable(config: ServingConfig, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pools of which one replica fits on no node, with what the nodes have. `nodes` are as `ray.nodes()` gives them."""
    alive = [node for node in nodes if node["Alive"] and node.get("Labels", {}).get(ROLE_LABEL) != HEAD]
    return [line for role, pool, replicas, ranks in _pools(config) if replicas for line in _lacking(role, pool, ranks, alive)]


def _lacking(role: str, pool: PoolConfig, ranks: int, nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    mine = [node for node in nodes if node.get("Labels", {}).get(ROLE_LABEL) in (None, role)]
    if pool.accelerator is not None:
        mine = [node for node in mine if node.get("Labels", {}).get(ACCELERATOR_LABEL) == pool.accelerator]
    where = f"no node of accelerator {pool.accelerator}" if pool.accelerator is not None else "no node"
    for key, name, amount in (("num_cpus", "CPU", pool.num_cpus), ("num_gpus", "GPU", pool.num_gpus)):
        if all(node["Resources"].get(name, 0.0) < ranks * amount for node in mine):
            has = ", ".join(f"{node['NodeManagerHostname']}: {node['Resources'].get(name, 0.0):g}" for node in mine) or "there is none"
            yield f"{role}.{key}: a replica needs {ranks * amount:g} {name}s on one node, and {where} for {role}s has as many ({has})"


def _pools(config: ServingConfig) -> Iterator[tuple[str, PoolConfig, int, int]]:
    """Pools with models: role, section, the replicas that each may come to have, and the ranks of a replica."""
    for role, pool, model in (("verifier", config.verifier, config.target), ("drafter", config.drafter, config.draft)):
        yield role, pool, config.autoscaling.most(role, pool.replicas), model.parallel if model is not None else 1
