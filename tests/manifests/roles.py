"""The embedded Serve configuration against the cluster that is to run it.

Promises: what the configuration asks for can be placed and reached: its keys are those of
`drafthouse.config.serving`, each role has a group, its replicas fit into it, and ports agree with containers and
NetworkPolicies. Pure functions of the rendered objects; one line for each fault.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Any

import ray
import yaml
from pydantic import ValidationError
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema, gRPCOptionsSchema

from deployments.placement import ACCELERATOR_LABEL, HEAD, ROLE_LABEL, ROLES
from drafthouse.config.autoscaling import AutoscalingConfig
from drafthouse.config.config_file import CONTROLLER, settings_of
from drafthouse.config.faults import describe
from drafthouse.config.live import over
from drafthouse.config.serving import PoolConfig, ServingConfig
from drafthouse.errors import ConfigError
from tests.manifests import pods
from tests.manifests.network import FREE_PORTS, allowed, sends_outside
from tests.manifests.rules import groups, of_kind

Object = dict[str, Any]

IMPORT_PATH = "deployments.app:build_app"

STRANGER = {"app": "stranger"}
"""A pod of the same namespace that no policy here selects, so that only ours can stop it."""


def faults(objects: list[Object]) -> list[str]:
    service = of_kind(objects, "RayService")[0]
    found = [*_label_faults(service), *_selector_faults(objects), *_ray_faults(service)]
    config, wrong = embedded(service)
    found += wrong
    if config is None:
        return found
    pools = list(_pool_faults(service, config))
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    found += [*pools, *pods.faults(objects, config), *_front_faults(objects, service, serve), *_data_plane_faults(objects, config)]
    return [*found, *_ray_port_faults(objects, service), *_outside_faults(objects)]


def embedded(service: Object) -> tuple[ServingConfig | None, list[str]]:
    """The arguments of serveConfigV2 as our configuration, or None and the faults."""
    where = "serveConfigV2"
    text = service["spec"].get("serveConfigV2")
    if not text:
        return None, [f"{where} is missing"]
    try:
        data = yaml.safe_load(text)
        ServeDeploySchema.model_validate(data)
    except yaml.YAMLError as error:
        return None, [f"{where}: not YAML: {error}"]
    except ValidationError as error:
        return None, [f"{where}: {line}" for line in describe(error)]
    if unknown := list(_unknown_serve_keys(data)):
        return None, [f"{where}: {line}" for line in unknown]
    applications = data["applications"]
    if len(applications) != 1 or applications[0]["import_path"] != IMPORT_PATH:
        return None, [f"{where}: there must be one application, with import_path {IMPORT_PATH}"]
    try:
        config = ServingConfig.model_validate(applications[0].get("args") or {})
    except ValidationError as error:
        return None, [f"{where}: args.{line}" for line in describe(error, ServingConfig)]
    try:
        config = over(config, settings_of(applications[0]))
    except ConfigError as error:
        return None, [f"{where}: user_config of {CONTROLLER}: {line}" for line in str(error).splitlines()]
    if config.autoscaling != AutoscalingConfig() and not applications[0].get("external_scaler_enabled"):
        return config, [f"{where}: args.autoscaling needs external_scaler_enabled: true beside args, or Serve refuses its sizes"]
    return config, []


def _unknown_serve_keys(data: Object) -> Iterator[str]:
    """Ray passes over keys that it does not know."""
    models = {"": (ServeDeploySchema, [data]), "applications.": (ServeApplicationSchema, data["applications"])}
    models["http_options."] = (HTTPOptionsSchema, [data.get("http_options", {})])
    models["grpc_options."] = (gRPCOptionsSchema, [data.get("grpc_options", {})])
    for prefix, (model, sections) in models.items():
        for section in sections:
            for key in section.keys() - model.model_fields.keys():
                yield f"{prefix}{key}: Ray Serve has no such key"


def _label_faults(service: Object) -> Iterator[str]:
    for name, group in groups(service):
        role = group.get("labels", {}).get(ROLE_LABEL)
        known = (HEAD,) if name == "head" else ROLES
        if role not in known:
            yield f"{name}: {ROLE_LABEL}: {role} is no role; there are {', '.join(known)}"
        pod = group["template"].get("metadata", {}).get("labels", {}).get(ROLE_LABEL)
        if pod != role:
            yield f"{name}: its pods have {ROLE_LABEL}: {pod}, and its Ray nodes {role}"


def _selector_faults(objects: list[Object]) -> Iterator[str]:
    """Selectors that ask for a role which does not exist select nothing, in silence."""
    for item in objects:
        for selector in _selectors(item["spec"]) if item["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor") else ():
            asked = [selector.get("matchLabels", {}).get(ROLE_LABEL, HEAD)]
            asked += [
                value for rule in selector.get("matchExpressions", []) if rule["key"] == ROLE_LABEL for value in rule.get("values", [])
            ]
            for role in asked:
                if role not in (HEAD, *ROLES):
                    name = f"{item['kind']} {item['metadata']['name']}"
                    yield f"{name}: {ROLE_LABEL}: {role} is no role; there are {', '.join((HEAD, *ROLES))}"


def _selectors(node: Any) -> Iterator[Object]:
    if isinstance(node, dict):
        if "matchLabels" in node or "matchExpressions" in node:
            yield node
        for value in node.values():
            yield from _selectors(value)
    elif isinstance(node, list):
        for value in node:
            yield from _selectors(value)


def _ray_faults(service: Object) -> Iterator[str]:
    version = service["spec"]["rayClusterConfig"].get("rayVersion")
    if version != ray.__version__:
        yield f"rayVersion is {version}, and requirements.txt installs {ray.__version__}"


def _pool_faults(service: Object, config: ServingConfig) -> Iterator[str]:
    workers = [group for name, group in groups(service) if name != "head"]
    for group in workers:
        yield from _size_faults(group)
    for role in ROLES:
        pool = getattr(config, role)
        replicas = getattr(pool, "replicas", 1)
        if role in AutoscalingConfig.model_fields:
            replicas = config.autoscaling.most(role, replicas)
        mine = [group for group in workers if group.get("labels", {}).get(ROLE_LABEL) == role]
        if replicas and not mine:
            yield f"{role}: the configuration asks for {replicas}, and no worker group has {ROLE_LABEL}: {role}"
            continue
        if accelerator := getattr(pool, "accelerator", None):
            # Ray labels the nodes that are there; of those that it could add, the autoscaler knows the groups' labels alone.
            mine = [group for group in mine if group["labels"].get(ACCELERATOR_LABEL) == accelerator]
            if replicas and not mine:
                yield f"{role}.accelerator: no worker group of the role has the label {ACCELERATOR_LABEL}: {accelerator}; none would grow"
                continue
        ranks = _ranks(config, role)
        fits = [(group, _replicas_per_pod(group, ranks * pool.num_cpus, ranks * getattr(pool, "num_gpus", 0))) for group in mine]
        room = sum(group["maxReplicas"] * per_pod for group, per_pod in fits)
        if replicas > room:
            each = f"{ranks} x {pool.num_cpus:g} CPUs and {ranks} x {getattr(pool, 'num_gpus', 0):g} GPUs"
            yield f"{role}: {replicas} replicas of {each} do not fit; its groups hold {room}"
        if isinstance(pool, PoolConfig) and pool.port:
            for group, per_pod in fits:
                if per_pod > 1:
                    yield f"{role}.port: {per_pod} replicas fit into one pod of group {group['groupName']}, and all want port {pool.port}"


def _ranks(config: ServingConfig, role: str) -> int:
    """Devices of one replica, which go into one pod."""
    model = {"verifier": config.target, "drafter": config.draft}.get(role)
    return model.parallel if model is not None else 1


def _size_faults(group: Object) -> Iterator[str]:
    name, low, high = group["groupName"], group["minReplicas"], group["maxReplicas"]
    if not low <= group.get("replicas", low) <= high:
        yield f"worker group {name}: replicas {group.get('replicas')} lies outside {low} to {high}"
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for ray_name, pod_name in (("CPU", "cpu"), ("GPU", "nvidia.com/gpu")):
        declared, limit = (float(value.get(key, 0)) for value, key in ((group.get("resources", {}), ray_name), (limits, pod_name)))
        if declared != limit:
            yield f"worker group {name}: resources.{ray_name} is {declared:g}, and the container's limit {pod_name} is {limit:g}"


def _replicas_per_pod(group: Object, num_cpus: float, num_gpus: float) -> int:
    resources = group.get("resources", {})
    bounds = [
        int(float(resources.get(key, 0)) / need + 1e-9)  # a tenth of a CPU is not exact in binary
        for key, need in (("CPU", num_cpus), ("GPU", num_gpus))
        if need
    ]
    return min(bounds, default=1)


def _front_faults(objects: list[Object], service: Object, serve: Object) -> Iterator[str]:
    """Clients reach HTTP and gRPC on every node."""
    http, grpc = serve.get("http_options", {}), serve.get("grpc_options", {})
    if http.get("host") != "0.0.0.0":
        yield f"serveConfigV2: http_options.host is {http.get('host')}; clients outside the pod need 0.0.0.0"
    if serve.get("proxy_location") != "EveryNode":
        yield "serveConfigV2: proxy_location must be EveryNode: KubeRay's readiness probe asks a proxy on each worker"
    for name, port in (("serve", http.get("port", 8000)), ("serve-grpc", grpc.get("port", 9000))):
        for group_name, group in groups(service):
            ports = {entry["name"]: entry["containerPort"] for entry in group["template"]["spec"]["containers"][0].get("ports", [])}
            if ports.get(name) != port:
                yield f"{group_name}: the container's port {name} is {ports.get(name)}, and serveConfigV2 says {port}"
        for role in (HEAD, *ROLES):
            if stopped := allowed(objects, None, {ROLE_LABEL: role}, (port, port)):
                yield f"port {port} from clients: {stopped}"
    for function in grpc.get("grpc_servicer_functions", []):
        module, _, attribute = function.rpartition(".")
        if not hasattr(importlib.import_module(module), attribute):
            yield f"serveConfigV2: grpc_options.grpc_servicer_functions: there is no {function}"


def _data_plane_faults(objects: list[Object], config: ServingConfig) -> Iterator[str]:
    for caller, role, pool in (("gateway", "verifier", config.verifier), ("verifier", "drafter", config.drafter)):
        ports = (pool.port, pool.port) if pool.port else FREE_PORTS
        if stopped := allowed(objects, {ROLE_LABEL: caller}, {ROLE_LABEL: role}, ports):
            yield f"{role}.port: data plane from {caller}, port {ports[0]} to {ports[1]}: {stopped}"
        if not allowed(objects, STRANGER, {ROLE_LABEL: role}, ports):
            yield f"{role}.port: the data plane takes connections from pods that are not ours"


def _ray_port_faults(objects: list[Object], service: Object) -> Iterator[str]:
    """Ray's ports are pinned in rayStartParams, and open between all pods."""
    for name, group in groups(service):
        parameters = group.get("rayStartParams", {})
        role = {ROLE_LABEL: group.get("labels", {}).get(ROLE_LABEL, "")}
        wanted = {key: (int(value), int(value)) for key, value in parameters.items() if re.fullmatch(r"(?!m..-worker).*-port", key)}
        wanted["worker-port range"] = (int(parameters.get("min-worker-port", 10002)), int(parameters.get("max-worker-port", 19999)))
        for missing in {"node-manager-port", "object-manager-port", "metrics-export-port"} - wanted.keys():
            yield f"{name}: rayStartParams.{missing} must be set, since NetworkPolicies name it"
        for key, ports in wanted.items():
            if stopped := allowed(objects, {ROLE_LABEL: HEAD}, role, ports):
                yield f"{name}: {key} {ports[0]} to {ports[1]}: {stopped}"
            if not allowed(objects, STRANGER, role, ports):
                yield f"{name}: {key} takes connections from pods that are not ours"


def _outside_faults(objects: list[Object]) -> Iterator[str]:
    for role in (HEAD, *ROLES):
        if not sends_outside(objects, {ROLE_LABEL: role}, "UDP", 53):
            yield f"no NetworkPolicy lets the {role} ask for names (UDP 53)"
    if not sends_outside(objects, {ROLE_LABEL: HEAD}, "TCP", 443):
        yield "no NetworkPolicy lets the head reach the Kubernetes API, which its autoscaler needs (TCP 443)"
    for item in of_kind(objects, "StatefulSet"):
        labels = item["spec"]["template"]["metadata"]["labels"]
        if stopped := allowed(objects, {ROLE_LABEL: HEAD}, labels, (6379, 6379)):
            yield f"from the head to Redis: {stopped}"
        if not allowed(objects, STRANGER, labels, (6379, 6379)):
            yield "Redis takes connections from pods that are not ours"
