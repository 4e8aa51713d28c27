"""What the embedded configuration expects of its pods beside room and ports: secrets in their place, and time to drain.

Promises: pure functions of the rendered objects; one line for each fault, which names the key, the group and the secret.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from deployments.app import STOP_S
from deployments.placement import ROLE_LABEL
from drafter.server import DRAIN_S
from drafthouse.config import ServingConfig
from tests.manifests.rules import groups

Object = dict[str, Any]


def faults(service: Object, config: ServingConfig) -> list[str]:
    return [*_secret_faults(service, config), *_drain_faults(service, config)]


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


def _drain_faults(service: Object, config: ServingConfig) -> Iterator[str]:
    drain = {"gateway": config.gateway.drain_s, "verifier": config.verifier.drain_s, "drafter": DRAIN_S}
    for role, seconds in drain.items():
        for name, pod in _pods(service, role):
            grace = pod.get("terminationGracePeriodSeconds", 30)
            if grace < seconds + STOP_S:
                yield f"{name}: terminationGracePeriodSeconds is {grace}, and a {role} drains for {seconds:g} s and stops within {STOP_S:g}"


def _pods(service: Object, role: str) -> Iterator[tuple[str, Object]]:
    for name, group in groups(service):
        if group.get("labels", {}).get(ROLE_LABEL) == role:
            yield name, group["template"]["spec"]
