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

from deployments.placement import ROLES, label_selector
from tests.manifests.kustomize import render
from tests.manifests.roles import embedded
from tests.manifests.rules import of_kind
from tests.manifests.test_overlays import OVERLAYS


def _launched(cluster: dict[str, Any], resources: dict[str, float], selector: dict[str, str], count: int) -> dict[str, int]:
    """Pods that the autoscaler would add to each group for `count` replicas where there is none yet."""
    for group in cluster["workerGroupSpecs"]:
        group["minReplicas"] = 0
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "drafthouse", "namespace": "default"}, "spec": cluster})
    config = AutoscalingConfig(derived, skip_content_hash=True)
    constraints = []
    for key, value in selector.items():
        found = re.fullmatch(r"!in\((.+)\)", value)
        assert found is not None
        constraints.append((key, LabelSelectorOperator.LABEL_OPERATOR_NOT_IN, found[1].split(",")))
    request = ResourceRequestUtil.make(resources, label_selectors=[constraints])
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([request] * count),
        )
    )
    assert not reply.infeasible_resource_requests
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
