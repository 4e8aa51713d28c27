"""Ray's own autoscaler, given an overlay's cluster and a replica that waits, adds a pod to the group of the replica's role."""

import pathlib
import re
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator

from deployments.placement import ACCELERATOR_LABEL, ROLES, label_selector
from tests.manifests.kustomize import render
from tests.manifests.roles import embedded
from tests.manifests.rules import of_kind
from tests.manifests.test_overlays import OVERLAYS

INFEASIBLE: dict[str, int] = {}


def _launched(cluster: dict[str, Any], resources: dict[str, float], selector: dict[str, str], count: int) -> dict[str, int]:
    """Pods that the autoscaler would add to each group for `count` replicas where there is none yet; `INFEASIBLE` if it never could."""
    for group in cluster["workerGroupSpecs"]:
        group["minReplicas"] = 0
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "drafthouse", "namespace": "default"}, "spec": cluster})
    config = AutoscalingConfig(derived, skip_content_hash=True)
    constraints = []
    for key, value in selector.items():
        others = re.fullmatch(r"!in\((.+)\)", value)
        operator = LabelSelectorOperator.LABEL_OPERATOR_NOT_IN if others else LabelSelectorOperator.LABEL_OPERATOR_IN
        constraints.append((key, operator, others[1].split(",") if others else [value]))
    request = ResourceRequestUtil.make(resources, label_selectors=[constraints])
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([request] * count),
        )
    )
    if reply.infeasible_resource_requests:
        return INFEASIBLE
    return {launch.instance_type: launch.count for launch in reply.to_launch if launch.instance_type != "headgroup"}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.parametrize("role", ROLES)
def test_the_group_of_the_role_grows_and_no_other(overlay: pathlib.Path, role: str) -> None:
    service = of_kind(render(overlay), "RayService")[0]
    config, _ = embedded(service)
    pool = getattr(config, role)
    resources = {"CPU": pool.num_cpus, **({"GPU": pool.num_gpus} if getattr(pool, "num_gpus", 0) else {})}
    launched = _launched(service["spec"]["rayClusterConfig"], resources, label_selector(role), getattr(pool, "replicas", 1))
    assert set(launched) == {role}


def test_without_the_selector_another_group_would_be_taken() -> None:
    """So the labels do the work, not the sizes of the groups."""
    service = of_kind(render(OVERLAYS[0]), "RayService")[0]
    assert set(_launched(service["spec"]["rayClusterConfig"], {"CPU": 0.5}, {}, 1)) != {"verifier"}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_group_grows_for_an_accelerator_that_its_label_names(labelled: bool) -> None:
    """What the node will say of its GPU when it is there does not count."""
    cluster = of_kind(render(OVERLAYS[1]), "RayService")[0]["spec"]["rayClusterConfig"]
    if labelled:
        cluster["workerGroupSpecs"][1]["labels"][ACCELERATOR_LABEL] = "H100"
    launched = _launched(cluster, {"CPU": 6, "GPU": 1}, label_selector("verifier", "H100"), 1)
    assert launched == ({"verifier": 1} if labelled else INFEASIBLE)
