"""Placement: each role keeps off the nodes of the others, and takes its own and those without a label."""

import re
from typing import Any

import pytest
from ray._private.label_utils import validate_label_selector

from deployments.app import SURGE_PERCENT, build_app
from deployments.placement import ACCELERATOR_LABEL, HEAD, ROLE_LABEL, ROLES, label_selector, unplaceable
from deployments.rank_actors import RankActors
from drafthouse.checkpoints.model_path import DEMO_MODELS
from drafthouse.config.serving import ServingConfig


def _takes(selector: str, label: str | None) -> bool:
    found = re.fullmatch(r"!in\((.*)\)", selector)
    assert found is not None
    return label not in found[1].split(",")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_takes_its_own_nodes_and_those_without_a_label(role: str) -> None:
    selector = label_selector(role)
    assert validate_label_selector(selector) is None
    taken = {label for label in (None, HEAD, *ROLES) if _takes(selector[ROLE_LABEL], label)}
    assert taken == {None, role}


def _deployments(config: ServingConfig) -> dict[str, Any]:
    ingress = build_app(config)._bound_deployment
    found = {ingress.name: ingress}
    for argument in ingress.init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    return found


def test_every_deployment_of_the_application_asks_for_its_role() -> None:
    found = _deployments(ServingConfig())
    selectors = {name: deployment.ray_actor_options["label_selector"] for name, deployment in found.items()}
    assert selectors == {
        "Gateway": label_selector("gateway"),
        "VerifierReplica": label_selector("verifier"),
        "DrafterReplica": label_selector("drafter"),
        "ControllerReplica": label_selector("controller"),
    }


def test_new_replicas_stand_before_old_ones_go_but_for_the_controller() -> None:
    """Two controllers would each take the replicas that report to the other for gone."""
    surges = {name: deployment._deployment_config.max_surge_percent for name, deployment in _deployments(ServingConfig()).items()}
    assert surges == {"Gateway": SURGE_PERCENT, "VerifierReplica": SURGE_PERCENT, "DrafterReplica": SURGE_PERCENT, "ControllerReplica": 0}


def test_each_rank_has_a_bundle_on_one_node_of_its_role_and_accelerator() -> None:
    config = ServingConfig.model_validate(
        {
            "target": {"path": str(DEMO_MODELS / "target"), "device": "cuda", "parallel": 2},
            "verifier": {"num_cpus": 3, "num_gpus": 1, "accelerator": "H100"},
        }
    )
    found = _deployments(config)
    replica = found["VerifierReplica"]._replica_config
    assert replica.placement_group_bundles == [{"CPU": 3.0, "GPU": 1.0}] * 2
    assert replica.placement_group_strategy == "STRICT_PACK"
    selector = label_selector("verifier") | {"ray.io/accelerator-type": "H100"}
    assert replica.placement_group_bundle_label_selector == [selector] * 2
    assert validate_label_selector(selector) is None
    assert "label_selector" not in replica.ray_actor_options, "Serve takes one or the other"
    ranks = next(argument for argument in found["VerifierReplica"].init_args if isinstance(argument, RankActors))
    assert (ranks.actor["num_cpus"], ranks.actor["num_gpus"]) == (3, 1)
    assert found["DrafterReplica"]._replica_config.placement_group_bundles is None, "a drafter has its own parallel size"


def _node(name: str, cpus: float, gpus: float = 0, alive: bool = True, **labels: str) -> dict[str, object]:
    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return {"NodeManagerHostname": name, "Alive": alive, "Resources": resources, "Labels": labels}


def test_a_pool_whose_replica_fits_on_no_node_is_named_with_what_the_nodes_have() -> None:
    sections = {
        "target": {"path": "demo:target", "device": "cuda", "parallel": 4},
        "verifier": {"num_cpus": 1, "num_gpus": 1, "accelerator": "H100"},
        "drafter": {"num_cpus": 3},
    }
    config = ServingConfig.model_validate(sections)
    h100, head = {ACCELERATOR_LABEL: "H100"}, {ROLE_LABEL: HEAD}
    large = _node("d", 8, 4, **h100)
    assert unplaceable(config, [large]) == []
    nodes = [_node("a", 64, 8, **head), _node("b", 4, 2, **h100), _node("c", 2, 8), large | {"Alive": False}]
    assert unplaceable(config, nodes) == [
        "verifier.num_gpus: a replica needs 4 GPUs on one node, and no node of accelerator H100 for verifiers has as many (b: 2)",
    ]
    assert unplaceable(config, [_node("c", 2, 8, **{ROLE_LABEL: "drafter"}), large | {"Labels": h100 | {ROLE_LABEL: "verifier"}}]) == [
        "drafter.num_cpus: a replica needs 3 CPUs on one node, and no node for drafters has as many (c: 2)",
    ]
    assert "there is none" in unplaceable(config, [_node("c", 2, 8)])[0]


def test_a_pool_without_replicas_needs_no_node() -> None:
    config = ServingConfig.model_validate({"drafter": {"replicas": 0, "num_cpus": 99}})
    assert unplaceable(config, [_node("a", 1)]) == []
