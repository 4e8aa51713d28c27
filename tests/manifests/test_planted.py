"""Wrong values planted in each overlay: every one is found, and named."""

import pathlib
import shutil

import pytest

from tests.manifests import embed
from tests.manifests.check import faults
from tests.manifests.kustomize import RenderError, render

SERVICE = "base/rayservice.yaml"
CONFIG = "overlays/{}/serve-config.yaml"
POLICY = "base/network-policy.yaml"
BUDGET = "base/disruption-budget.yaml"
FRONT = "base/gateway-service.yaml"
ENVIRONMENT = "base/ray-environment.yaml"

PLANTS = {
    "role that does not exist": (SERVICE, "drafthouse/role: drafter\n        resources", "drafthouse/role: drafters\n        resources",
        "drafters is no role"),
    "group without a role": (SERVICE, "labels:\n          drafthouse/role: verifier\n        res", "labels: {}\n        res",
        "None is no role"),
    "pods of another role": (SERVICE, "            labels:\n              drafthouse/role: gateway",
        "            labels:\n              drafthouse/role: verifier", "its pods have"),
    "role typed wrongly in the configuration": (CONFIG, "verifier: ", "verifer: ", "args.verifer: no such key; did you mean verifier"),
    "unknown key": (CONFIG, "kv_tokens:", "kv_token:", "kv_token: no such key; did you mean kv_tokens"),
    "wrong type": (CONFIG, "replicas: ", "replicas: many ", "replicas: must be a valid integer"),
    "value out of range": (CONFIG, "dtype: ", "dtype: int4 #", "dtype: must be one of"),
    "another application": (CONFIG, "deployments.app:build_app", "deployments.app:build", "import_path deployments.app:build_app"),
    "unknown Serve key": (CONFIG, "route_prefix:", "route_prefx:", "route_prefx"),
    "Serve on loopback": (CONFIG, "host: 0.0.0.0", "host: 127.0.0.1", "need 0.0.0.0"),
    "no proxy on workers": (CONFIG, "EveryNode", "HeadOnly", "proxy_location"),
    "HTTP port of the configuration": (CONFIG, "port: 8000\n\n", "port: 8001\n\n", "serve is 8000, and serveConfigV2 says 8001"),
    "gRPC port of the configuration": (CONFIG, "port: 9000\n      grpc", "port: 9001\n      grpc",
        "serve-grpc is 9000, and serveConfigV2 says 9001"),
    "servicer that does not exist": (CONFIG, "add_inference_to_server", "add_InferServicer", "there is no deployments.api.grpc"),
    "more replicas than fit": (SERVICE, "maxReplicas: 8", "maxReplicas: 0", "do not fit"),
    "resources in both places": (SERVICE, "rayStartParams: &workerParams\n", 'rayStartParams: &workerParams\n          num-cpus: "1"\n',
        "both rayStartParams and resources"),
    "labels in rayStartParams": (SERVICE, "rayStartParams: &workerParams\n", "rayStartParams: &workerParams\n          labels: a=b\n",
        "rayStartParams.labels"),
    "no rayVersion": (SERVICE, '    rayVersion: "2.60.0"\n', "", "rayVersion must be set"),
    "rayVersion of another Ray": (SERVICE, "2.60.0", "2.59.0", "requirements.txt installs"),
    "rayVersion without tokens": (SERVICE, "2.60.0", "2.51.0", "came with Ray 2.52.0"),
    "pods that restart": (SERVICE, "restartPolicy: Never", "restartPolicy: Always", "restartPolicy must be Never"),
    "work on the head": (SERVICE, '        num-cpus: "0"\n', "", "num-cpus must be"),
    "autoscaler v1": (SERVICE, "version: v2", "version: v1", "autoscalerOptions.version"),
    "no autoscaler": (SERVICE, "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "enableInTreeAutoscaling is off"),
    "deletion before streams end": (SERVICE, "DelaySeconds: 1800", "DelaySeconds: 60", "at least 600 s"),
    "upgrade in place": (SERVICE, "type: NewCluster", "type: None", "only NewCluster"),
    "bounds the wrong way round": (SERVICE, "minReplicas: 0", "minReplicas: 90", "lies outside 90 to"),
    "bounds of a wrong type": (SERVICE, "minReplicas: 0", "minReplicas: none", "is not of type 'integer'"),
    "field that KubeRay does not know": (SERVICE, "upscalingMode:", "upscaleMode:", "upscaleMode"),
    "field that Kubernetes does not know": (SERVICE, "runAsNonRoot:", "runAsNoRoot:", "runAsNoRoot"),
    "root": (SERVICE, "runAsNonRoot: true", "runAsNonRoot: false", "other than root"),
    "resources that the pod has not": (SERVICE, 'CPU: "1"', 'CPU: "16"', "resources.CPU is 16"),
    "no time to drain": (SERVICE, "terminationGracePeriodSeconds: 120", "terminationGracePeriodSeconds: 30",
        "worker group gateway: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is 110, and terminationGracePeriodSeconds 30"),
    "Ray's own time to drain": (ENVIRONMENT, '  RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: "110"\n', "",
        "worker group gateway: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is not set, so Ray takes 30, and a gateway drains for 60 s"),
    "less time than a gateway drains": (ENVIRONMENT, '"110"', '"64"', "DRAIN_TIMEOUT_S is 64, and a gateway drains for 60 s"),
    "as much time as the pod has": (ENVIRONMENT, '"110"', '"120"', "head: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is 120, and termination"),
    "time to drain that is no number": (ENVIRONMENT, '"110"', "110s", "is '110s', and Ray wants a number of seconds"),
    "time to drain of one group": (SERVICE, "- name: ray-worker\n",
        '- name: ray-worker\n                env: [{name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: "5"}]\n',
        "worker group drafter: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is 5, and a drafter drains for 2 s"),
    "container port": (SERVICE, "containerPort: 9000", "containerPort: 9009", "serve-grpc is 9009"),
    "keys not mounted": (SERVICE, "secretName: drafthouse-api-keys", "secretName: drafthouse-keys", "drafthouse-api-keys is not mounted"),
    "mount without a volume": (SERVICE, "{name: tls, mountPath", "{name: tlss, mountPath", "mounts tlss, which is no volume"),
    "Redis elsewhere": (SERVICE, "drafthouse-redis:6379", "drafthouse-redis:6380", "no Service here"),
    "Redis without a password": (SERVICE,
        "        valueFrom:\n          secretKeyRef:\n            name: drafthouse-redis\n            key: password\n",
        "        value: secret\n", "must come from a secret"),
    "Redis with another password": (SERVICE, "            key: password\n", "            key: pass\n", "Redis takes its password"),
    "kind that Kubernetes does not know": (POLICY, "kind: NetworkPolicy\n", "kind: NetPolicy\n", "has no networking.k8s.io/v1 NetPolicy"),
    "no names": (POLICY, "protocol: UDP, port: 53", "protocol: UDP, port: 54", "ask for names"),
    "no API for the autoscaler": (POLICY, "port: 443}", "port: 442}", "reach the Kubernetes API"),
    "Redis out of reach": (POLICY, "port: 6379}\n    - ports", "port: 6378}\n    - ports", "from the head to Redis"),
    "Redis open to all": (POLICY,
        "ingress:\n    - from:\n        - podSelector:\n            matchLabels:\n              drafthouse/role: head",
        "ingress:\n    - from:\n        - podSelector: {}", "Redis takes connections from pods that"),
    "clients' port closed": (POLICY, "port: 9000}", "port: 9009}", "port 9000 from clients"),
    "Ray's port closed": (POLICY, "port: 6380, endPort: 6383", "port: 6381, endPort: 6383", "node-manager-port 6380"),
    "ports between pods open to all": (POLICY,
        "    - from:\n        - podSelector:\n            matchExpressions:\n              - {key: drafthouse/role, operator: Exists}",
        "    - from:\n        - podSelector: {}", "worker-port range takes connections from pods that are not ours"),
    "workers' ports moved": (SERVICE, 'max-worker-port: "19999"', 'max-worker-port: "29999"', "worker-port range 10002 to 29999"),
    "policy for a role that does not exist": (POLICY, "drafthouse/role: head\n      ports", "drafthouse/role: heads\n      ports",
        "heads is no role"),
    "budget for a role that does not exist": ("base/disruption-budget.yaml", "role: verifier", "role: verifers", "verifers is no role"),
    "budget that cannot be computed": ("base/disruption-budget.yaml", "minAvailable: 1", "maxUnavailable: 1", "minAvailable as a number"),
    "gateways without a budget": (BUDGET, "drafthouse/role: gateway", "drafthouse/role: drafter", "no PodDisruptionBudget keeps gateways"),
    "Redis without a budget": (BUDGET, "app.kubernetes.io/name: drafthouse-redis", "app.kubernetes.io/name: redis",
        "no PodDisruptionBudget keeps Redis"),
    "clients on drafters": (FRONT, "role: gateway", "role: drafter", "Service drafthouse-gateway: selects drafter pods"),
    "clients on every pod": (FRONT, "drafthouse/role: gateway", "app.kubernetes.io/part-of: drafthouse", "no Service of gateways alone"),
    "clients' port that no pod has": (FRONT, "targetPort: serve-grpc", "targetPort: grpc", "no port of the gateways' pods is named grpc"),
    "clients on the head": (SERVICE, "excludeHeadPodFromServeSvc: true", "excludeHeadPodFromServeSvc: false", "streams through the head"),
    "pool on one node": (SERVICE, "topologyKey: kubernetes.io/hostname\n                whenUnsatisfiable: ScheduleAnyway\n"
        "                labelSelector:\n                  matchLabels: {drafthouse/role: verifier}",
        "topologyKey: kubernetes.io/hostname\n                whenUnsatisfiable: ScheduleAnyway\n"
        "                labelSelector:\n                  matchLabels: {drafthouse/role: drafter}",
        "worker group verifier: topologySpreadConstraints of kubernetes.io/hostname count other pods"),
    "image without a tag": ("overlays/{}/kustomization.yaml", "name: drafthouse,", "name: drafthouses,", "has no tag"),
    "secret in a file": (POLICY, "# Nothing", "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\n---\n# Nothing", "never kept in files"),
    "patch of something else": (CONFIG, "name: drafthouse\nspec", "name: draft-house\nspec", "no RayService draft-house to patch"),
}  # fmt: skip

GPU_PLANTS = {
    "larger pools than fit": (CONFIG, "max: 8", "max: 9", "verifier: 9 replicas of"),
    "more gateways than fit": (CONFIG, "# within the bounds of the groups", "#\n            gateway: {max: 99}", "gateway: 99 replicas of"),
    "sizes that Serve would refuse": (CONFIG, "external_scaler_enabled: true", "external_scaler_enabled: false",
        "needs external_scaler_enabled"),
    "start out of bounds": (CONFIG, "min: 2", "min: 3", "verifier.replicas: 2 at the start is not between 3"),
    "data plane open to all": ("overlays/gpu/network-policy.yaml",
        "    - from:\n        - podSelector:\n            matchLabels:\n              drafthouse/role: verifier",
        "    - from:\n        - podSelector: {}", "drafter.port: the data plane takes connections from pods"),
    "data-plane port closed": ("overlays/gpu/network-policy.yaml", "7200", "7201", "drafter.port: data plane from verifier"),
    "data-plane port moved": (CONFIG, "port: 7100", "port: 7101", "verifier.port: data plane from gateway"),
    "two replicas on one port": (CONFIG, "num_cpus: 6\n            num_gpus: 1", "num_cpus: 4\n            num_gpus: 0",
        "2 replicas fit into one pod"),
    "GPU that the pod has not": ("overlays/gpu/pools.yaml", 'limits: {cpu: "8", memory: 48Gi, nvidia.com/gpu: "1"}',
        'limits: {cpu: "8", memory: 48Gi}', "resources.GPU is 1"),
    "more ranks than a pod has devices": (CONFIG, "device: cuda", "device: cuda\n            parallel: 2",
        "verifier: 8 replicas of 2 x 6 CPUs"),
    "accelerator that no group has": (CONFIG, "port: 7100", "port: 7100\n            accelerator: H100",
        "verifier.accelerator: no worker group of the role has the label ray.io/accelerator-type: H100"),
    "patch of the wrong group": ("overlays/gpu/pools.yaml", "value: drafter}", "value: draft}", "it is 'drafter'"),
    "secret's file elsewhere": (CONFIG, "/etc/drafthouse/tls/ca.crt", "/etc/tls/ca.crt",
        "authority: /etc/tls/ca.crt: no secret is mounted"),
    "needed secret that is optional": ("overlays/gpu/pools.yaml",
        "0/template/spec/volumes/0/secret/optional, value: false", "0/template/spec/volumes/0/secret/optional, value: true",
        "gateway: security.api_keys.file: /etc/drafthouse/api-keys/keys: the secret drafthouse-api-keys is optional"),
    "monitor of a port that is not there": ("monitoring/pod-monitor.yaml", "port: as-metrics", "port: autoscaler",
        "no container has a port named autoscaler"),
}  # fmt: skip


def _found(tmp_path: pathlib.Path, overlay: str, plant: tuple[str, str, str, str]) -> list[str]:
    file, old, new, _ = plant
    tree = tmp_path / "k8s"
    shutil.copytree(embed.ROOT / "k8s", tree)
    path = tree / file.format(overlay)
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} no longer has {old!r}: plant something else"
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        return faults(render(tree / "overlays" / overlay))
    except RenderError as error:
        return [str(error)]


@pytest.mark.parametrize("overlay", ["cpu-demo", "gpu"])
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_planted_fault_is_named(tmp_path: pathlib.Path, overlay: str, plant: tuple[str, str, str, str]) -> None:
    found = _found(tmp_path, overlay, plant)
    assert any(plant[-1] in line for line in found), found


@pytest.mark.parametrize("plant", GPU_PLANTS.values(), ids=GPU_PLANTS.keys())
def test_a_fault_planted_in_what_only_gpu_has_is_named(tmp_path: pathlib.Path, plant: tuple[str, str, str, str]) -> None:
    found = _found(tmp_path, "gpu", plant)
    assert any(plant[-1] in line for line in found), found
