"""What clients connect to, and what must stay when nodes go: Services, spread, disruption budgets.

Promises: pure functions of the rendered objects; one line for each fault, which names the object and the field.
"""

from collections.abc import Iterator
from typing import Any

from deployments.placement import ROLE_LABEL
from tests.manifests.network import matches
from tests.manifests.rules import groups, of_kind
from tests.manifests.schemas import pod_templates

Object = dict[str, Any]

SPREAD_ROLES = ("gateway", "verifier", "drafter")

KEPT = {"gateways": {ROLE_LABEL: "gateway"}, "verifiers": {ROLE_LABEL: "verifier"}, "Redis": {"app.kubernetes.io/name": "drafthouse-redis"}}
"""Pods that a drain must not take all at once."""


def faults(objects: list[Object]) -> list[str]:
    service = of_kind(objects, "RayService")[0]
    return [*_service_faults(objects, service), *_spread_faults(service), *_budget_faults(objects)]


def _service_faults(objects: list[Object], service: Object) -> Iterator[str]:
    if not service["spec"].get("excludeHeadPodFromServeSvc"):
        yield "excludeHeadPodFromServeSvc must be true: streams through the head end with it"
    roles = {template["metadata"]["labels"].get(ROLE_LABEL): template for _, template in pod_templates(service)}
    fronts = [item for item in of_kind(objects, "Service") if ROLE_LABEL in item["spec"].get("selector", {})]
    if not fronts:
        yield "there is no Service of gateways alone"
    for item in fronts:
        name, selector = f"Service {item['metadata']['name']}", item["spec"]["selector"]
        if selector[ROLE_LABEL] != "gateway" or "gateway" not in roles:
            yield f"{name}: selects {selector[ROLE_LABEL]} pods, and clients belong on gateways"
            continue
        named = {port["name"] for port in roles["gateway"]["spec"]["containers"][0]["ports"]}
        for port in item["spec"]["ports"]:
            if port.get("targetPort") not in named:
                yield f"{name}: no port of the gateways' pods is named {port.get('targetPort')}"


def _spread_faults(service: Object) -> Iterator[str]:
    for name, group in groups(service):
        role = group.get("labels", {}).get(ROLE_LABEL)
        spread = group["template"]["spec"].get("topologySpreadConstraints", [])
        if role in SPREAD_ROLES and not spread:
            yield f"{name}: topologySpreadConstraints are missing, so that one node may have the whole pool"
        for constraint in spread:
            if not matches(constraint.get("labelSelector", {}), group["template"]["metadata"]["labels"]):
                yield f"{name}: topologySpreadConstraints of {constraint['topologyKey']} count other pods than the group's own"


def _budget_faults(objects: list[Object]) -> Iterator[str]:
    selectors = [item["spec"]["selector"] for item in of_kind(objects, "PodDisruptionBudget")]
    for said, labels in KEPT.items():
        if of_kind(objects, "StatefulSet") == [] and said == "Redis":
            continue  # others run it
        if not any(matches(selector, labels) for selector in selectors):
            yield f"no PodDisruptionBudget keeps {said}"
