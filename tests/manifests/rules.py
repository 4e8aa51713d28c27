"""What KubeRay's webhook refuses beyond its schema, and what its objects need to work together.

Promises: pure functions of the rendered objects; one line for each fault, which names the object, the
group and the field. Source of the webhook's part: `ValidateRayServiceSpec` in KubeRay 1.7.0.
"""

import re
from collections.abc import Iterator
from typing import Any

from tests.manifests.schemas import pod_templates

Object = dict[str, Any]

RESOURCE_PARAMETERS = ("num-cpus", "num-gpus", "memory", "resources")

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")

LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

TOKEN_VERSION = (2, 52, 0)
"""The first Ray that knows token authentication."""


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def groups(service: Object) -> Iterator[tuple[str, Object]]:
    """The head's and each worker group's name and specification."""
    cluster = service["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield f"worker group {group['groupName']}", group


def faults(objects: list[Object]) -> list[str]:
    services = of_kind(objects, "RayService")
    if len(services) != 1:
        return [f"there must be one RayService, and there are {len(services)}"]
    service = services[0]
    found = [*_group_faults(service), *_cluster_faults(service), *_upgrade_faults(service), *_pod_faults(service)]
    return [
        *found,
        *_redis_faults(objects, service),
        *_budget_faults(objects),
        *_monitor_faults(objects, service),
        *_secret_faults(objects),
    ]


def _group_faults(service: Object) -> Iterator[str]:
    for name, group in groups(service):
        parameters = group.get("rayStartParams", {})
        if group.get("resources") and any(parameters.get(key) for key in RESOURCE_PARAMETERS):
            yield f"{name}: resources stand in both rayStartParams and resources; only one of them may have them"
        if "labels" in parameters:
            yield f"{name}: rayStartParams.labels is not supported; use the group's labels"
        for key, value in group.get("labels", {}).items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                yield f"{name}: {key}: {value!r} is no Kubernetes label"
        if not group["template"]["spec"].get("containers"):
            yield f"{name}: there must be at least one container"


def _cluster_faults(service: Object) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    version = str(cluster.get("rayVersion", ""))
    if cluster.get("authOptions", {}).get("mode") == "token":
        numbers = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", version)
        if numbers is None:
            yield f"rayVersion must be set for authOptions.mode: token, and is {version!r}"
        elif tuple(map(int, numbers.groups())) < TOKEN_VERSION:
            yield f"rayVersion: token authentication came with Ray 2.52.0, and this is {version}"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling is off, so that groups do not follow their pools"
    if cluster.get("autoscalerOptions", {}).get("version") != "v2":
        yield "autoscalerOptions.version must be v2, which knows label selectors"
    for name, group in groups(service):
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy must be Never with autoscaler v2"
        if group.get("suspend"):
            yield f"{name}: a group cannot be suspended while the autoscaler is on"
    head = cluster["headGroupSpec"]
    environment = {entry["name"] for entry in head["template"]["spec"]["containers"][0].get("env", [])}
    for forbidden in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"):
        if forbidden in environment:
            yield f"head: {forbidden} belongs into gcsFaultToleranceOptions or autoscalerOptions, not into env"
    if {"redis-password", "redis-username"} & head.get("rayStartParams", {}).keys():
        yield "head: Redis' user and password belong into gcsFaultToleranceOptions"
    if str(head.get("rayStartParams", {}).get("num-cpus")) != "0":
        yield 'head: rayStartParams.num-cpus must be "0", so that no replica runs beside the control plane'
    if head.get("headService", {}).get("metadata", {}).get("name"):
        yield "head: headService.metadata.name must not be set"


def _upgrade_faults(service: Object) -> Iterator[str]:
    if len(service["metadata"]["name"]) > 41:
        yield f"RayService {service['metadata']['name']}: KubeRay takes names of at most 41 characters"
    strategy = service["spec"].get("upgradeStrategy", {}).get("type")
    if strategy != "NewCluster":
        yield f"upgradeStrategy.type is {strategy}: only NewCluster moves both HTTP and gRPC"
    delay = service["spec"].get("rayClusterDeletionDelaySeconds", 60)
    if delay < 600:
        yield f"rayClusterDeletionDelaySeconds is {delay}: streams of the old cluster get at least 600 s"


def _pod_faults(service: Object) -> Iterator[str]:
    images = set()
    for name, template in pod_templates(service):
        spec = template["spec"]
        if not spec.get("securityContext", {}).get("runAsNonRoot"):
            yield f"{name}: the pod must run as a user other than root (securityContext.runAsNonRoot)"
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec.get("containers", []):
            images.add(container["image"])
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name}: {container['name']} mounts {mount['name']}, which is no volume of the pod"
        secrets = {volume["secret"]["secretName"] for volume in spec.get("volumes", []) if "secret" in volume}
        for secret in {"drafthouse-api-keys", "drafthouse-tls"} - secrets:
            yield f"{name}: the secret {secret} is not mounted"
    if len(images) > 1:
        yield f"one Ray cluster must run one image, and the groups name {', '.join(sorted(images))}"
    for image in images:
        if ":" not in image.rpartition("/")[2]:
            yield f"image {image}: it has no tag; set images.newTag in the overlay"


def _redis_faults(objects: list[Object], service: Object) -> Iterator[str]:
    options = service["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions")
    if not options:
        yield "gcsFaultToleranceOptions is missing: a restarted head would forget the cluster"
        return
    address = re.fullmatch(r"rediss?://([a-z0-9.-]+):(\d+)", options.get("redisAddress", ""))
    if address is None:
        yield f"gcsFaultToleranceOptions.redisAddress: {options.get('redisAddress')!r} is no redis://HOST:PORT"
        return
    password = options.get("redisPassword", {}).get("valueFrom", {}).get("secretKeyRef")
    if not password:
        yield "gcsFaultToleranceOptions.redisPassword must come from a secret"
    own = {item["metadata"]["name"]: item for item in of_kind(objects, "Service")}
    if "." in address[1] and address[1] not in own:
        return  # a Redis that others run
    if address[1] not in own or int(address[2]) not in {port["port"] for port in own[address[1]]["spec"]["ports"]}:
        yield f"gcsFaultToleranceOptions.redisAddress: no Service here is {address[1]}:{address[2]}"
        return
    for item in of_kind(objects, "StatefulSet"):
        known = [
            entry.get("valueFrom", {}).get("secretKeyRef") for entry in item["spec"]["template"]["spec"]["containers"][0].get("env", [])
        ]
        if password and password not in known:
            yield f"Redis takes its password from {known}, and Ray from {password}"


def _budget_faults(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "PodDisruptionBudget"):
        if not isinstance(item["spec"].get("minAvailable"), int):
            yield f"PodDisruptionBudget {item['metadata']['name']}: pods without a scale need minAvailable as a number"


def _monitor_faults(objects: list[Object], service: Object) -> Iterator[str]:
    ports = {
        port["name"]
        for _, template in pod_templates(service)
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for item in of_kind(objects, "PodMonitor"):
        for endpoint in item["spec"]["podMetricsEndpoints"]:
            if endpoint.get("port") not in ports:
                yield f"PodMonitor {item['metadata']['name']}: no container has a port named {endpoint.get('port')}"


def _secret_faults(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "Secret"):
        yield f"Secret {item['metadata']['name']}: secrets are made in the cluster, never kept in files"
