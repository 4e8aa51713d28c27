"""What the embedded configuration expects of its pods beside room and ports: secrets in their place, and time to drain.

Promises: pure functions of the rendered objects; one line for each fault, which names the key, the group and the secret.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from deployments.app import STOP_S
from deployments.placement import ROLE_LABEL
from drafter.server import DRAIN_S
from drafthouse.config.serving import ServingConfig
from tests.manifests.rules import groups, of_kind

Object = dict[str, Any]

DRAIN_LIMIT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""How long `ray start --block`, told to end, lets replicas drain before it kills them."""

RAY_DRAIN_LIMIT_S = 30.0
"""Ray's own, where DRAIN_LIMIT is not set."""

GRACE_S = 30
"""Kubernetes' own, from telling a pod to end to killing it."""


def faults(objects: list[Object], config: ServingConfig) -> list[str]:
    service = of_kind(objects, "RayService")[0]
    return [*_secret_faults(service, config), *_drain_faults(objects, service, config)]


def _secret_faults(service: Object, config: ServingConfig) -> Iterator[str]:
    for role, files in _secret_files(config).items():
        for name, pod in _pods(service, role):
            for key, path in files.items():
                if fault := _unmounted(pod, path):
                    yield f"{name}: {key}: {path}: {fault}"


def _secret_files(config: ServingConfig) -> dict[str, dict[str, pathlib.Path]]:
    """The files that replicas of a role read, by the key that names them."""
    keys, plane = config.security.api_keys, config.security.data_plane
    own = {"security.api_keys.file": keys.file} if keys is not None and keys.file is not None else {}
    shared = {f"security.data_plane.{name}": path for name, path in plane} if plane is not None else {}
    return {"gateway": own | shared, "verifier": shared, "drafter": shared}


def _unmounted(pod: Object, path: pathlib.Path) -> str | None:
    """Why the file will not be there; None if it will."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for mount in pod["containers"][0].get("volumeMounts", []):
        secret = volumes.get(mount["name"], {}).get("secret")
        if secret is not None and path.parent == pathlib.Path(mount["mountPath"]):
            optional = secret.get("optional", False)
            return f"the secret {secret['secretName']} is optional, and replicas do not start without the file" if optional else None
    return "no secret is mounted there"


def _drain_faults(objects: list[Object], service: Object, config: ServingConfig) -> Iterator[str]:
    """Each limit on a pod's end leaves the one before it its time: a replica's draining and end, Ray's patience, Kubernetes' grace."""
    drain = {"gateway": config.gateway.drain_s, "verifier": config.verifier.drain_s, "drafter": DRAIN_S}
    for name, group in groups(service):
        pod, role = group["template"]["spec"], group.get("labels", {}).get(ROLE_LABEL)
        text, grace = _variable(objects, pod, DRAIN_LIMIT), pod.get("terminationGracePeriodSeconds", GRACE_S)
        try:
            limit = RAY_DRAIN_LIMIT_S if text is None else float(text)
        except ValueError:
            yield f"{name}: {DRAIN_LIMIT} is {text!r}, and Ray wants a number of seconds"
            continue
        ray = f"{name}: {DRAIN_LIMIT} is {'not set, so Ray takes ' if text is None else ''}{limit:g}"
        if role in drain and limit < drain[role] + STOP_S:
            yield f"{ray}, and a {role} drains for {drain[role]:g} s and stops within {STOP_S:g}"
        if limit >= grace:
            yield f"{ray}, and terminationGracePeriodSeconds {grace}: the pod is killed first"


def _variable(objects: list[Object], pod: Object, name: str) -> str | None:
    """An environment variable of the pod's first container: its own, or else of its ConfigMaps."""
    container = pod["containers"][0]
    maps = {item["metadata"]["name"]: item.get("data", {}) for item in of_kind(objects, "ConfigMap")}
    values = [maps.get(source["configMapRef"]["name"], {}).get(name) for source in container.get("envFrom", []) if "configMapRef" in source]
    values += [entry.get("value") for entry in container.get("env", []) if entry["name"] == name]
    return next((value for value in reversed(values) if value is not None), None)


def _pods(service: Object, role: str) -> Iterator[tuple[str, Object]]:
    for name, group in groups(service):
        if group.get("labels", {}).get(ROLE_LABEL) == role:
            yield name, group["template"]["spec"]
