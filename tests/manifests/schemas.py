"""Objects against the schemas that the API server would hold them to.

Promises: a field that no schema has is a fault, as with `kubectl apply --validate=strict`. RayService is
held to the resource definition of KubeRay, its pod templates and everything else to Kubernetes' schemas.
"""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

Object = dict[str, Any]

KUBERNETES = "1.33"
"""What docs/kubernetes.md asks for at least."""

KUBERAY_SCHEMA = pathlib.Path(__file__).parent / "schemas" / "rayservice-v1.json"

EMBEDDED = ("template", "headService", "serveService")
"""Parts of a RayService that Kubernetes' own schemas describe."""

WITHOUT_SCHEMA = {"PodMonitor", "PrometheusRule"}
"""Custom resources that only the rules and tests/manifests/test_monitoring.py look at."""


def pruned(schema: Any) -> Any:
    """The definition's schema without status, without descriptions and without the embedded Kubernetes objects."""
    if not isinstance(schema, dict):
        return schema
    result = {key: value for key, value in schema.items() if key != "description"}
    if "properties" in schema:
        properties = {name: part for name, part in schema["properties"].items() if name != "status"}
        result["properties"] = {name: {"type": "object"} if name in EMBEDDED else pruned(part) for name, part in properties.items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = pruned(schema[key])
    return result


def strict(schema: Any) -> Any:
    """The same schema, which refuses properties it does not name."""
    if not isinstance(schema, dict):
        return schema
    result = {key: value if key == "enum" else strict(value) for key, value in schema.items()}
    if "properties" in schema:
        result["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if "additionalProperties" not in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            result["additionalProperties"] = False
    return result


@functools.cache
def _ray_service_schema() -> Any:
    return strict(json.loads(KUBERAY_SCHEMA.read_text(encoding="utf-8")))


def against(schema: Any, item: Object) -> list[str]:
    """The faults of one object, whose metadata is left to the API server."""
    bare = {**item, "metadata": {}}
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(bare), key=lambda error: list(map(str, error.path)))
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors]


def faults(objects: list[Object]) -> list[str]:
    """One line for each fault: the object, the path and what is wrong."""
    found: list[str] = []
    for item in objects:
        name = f"{item.get('kind')} {item.get('metadata', {}).get('name')}"
        if item.get("kind") == "RayService":
            found += [f"{name}: {line}" for line in against(_ray_service_schema(), item)]
            for group, template in pod_templates(item):
                pod = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "pod", **template.get("metadata", {})},
                    "spec": template["spec"],
                }
                found += [f"{name}: template of {group}: {line}" for line in _kubernetes_faults(pod)]
        elif item.get("kind") not in WITHOUT_SCHEMA:
            found += [f"{name}: {line}" for line in _kubernetes_faults(item)]
    return found


def pod_templates(service: Object) -> Iterator[tuple[str, Object]]:
    """Each group's name and pod template, the head's first."""
    cluster = service["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group.get("groupName", "?"), group["template"]


def _kubernetes_faults(item: Object) -> tuple[str, ...]:
    return _kubernetes_faults_of(json.dumps(item, sort_keys=True))


@functools.cache
def _kubernetes_faults_of(text: str) -> tuple[str, ...]:
    """Kept by content, since reading Kubernetes' schemas takes most of the time and many objects are checked again unchanged."""
    item = json.loads(text)
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.path))}: {error.message}",)
    except kubernetes_validate.SchemaNotFoundError:
        return (f"Kubernetes {KUBERNETES} has no {item.get('apiVersion')} {item.get('kind')}",)
    return ()
