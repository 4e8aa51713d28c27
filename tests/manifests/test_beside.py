"""What is applied beside an overlay: the jobs that fill the models' volume, and the example of an Ingress."""

import pathlib
import shutil
from typing import Any

import pytest

from drafthouse.config.serving import MAX_BODY_BYTES
from tests.manifests import embed, schemas
from tests.manifests.kustomize import render
from tests.manifests.network import matches, sends_outside
from tests.manifests.rules import of_kind

K8S = embed.ROOT / "k8s"
SOURCES = ("hub", "s3")
BUFFERING, BODY, PATIENCE = (f"nginx.ingress.kubernetes.io/{name}" for name in ("proxy-buffering", "proxy-body-size", "proxy-read-timeout"))


def job_faults(objects: list[dict[str, Any]], overlay: list[dict[str, Any]]) -> list[str]:
    """Of a job that fills the volume which the overlay's pods read."""
    found = schemas.faults(objects)
    (job,) = of_kind(objects, "Job")
    template = job["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    if claims != [item["metadata"]["name"] for item in of_kind(overlay, "PersistentVolumeClaim")]:
        found.append(f"fills {claims}, which no pod reads")
    if any(mount.get("readOnly") for mount in pod["containers"][0]["volumeMounts"]):
        found.append("cannot write to its volume")
    if not pod["securityContext"].get("runAsNonRoot"):
        found.append("runs as root")
    policies = [item["spec"] for item in of_kind(objects, "NetworkPolicy") if matches(item["spec"]["podSelector"], labels)]
    if not any({"Ingress", "Egress"} <= set(spec["policyTypes"]) for spec in policies):
        found.append("no NetworkPolicy bounds it")
    for protocol, port in (("UDP", 53), ("TCP", 443)):
        if not sends_outside(objects, labels, protocol, port):
            found.append(f"cannot reach port {port}")
    if any("value" in entry for entry in pod["containers"][0]["env"] if "TOKEN" in entry["name"] or "KEY" in entry["name"]):
        found.append("has a secret in a file")
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_the_volume_can_be_filled(source: str) -> None:
    assert job_faults(render(K8S / "fill-models" / source), render(K8S / "overlays" / "gpu")) == []


PLANTS = {
    "another volume": ("hub/job.yaml", "claimName: drafthouse-models", "claimName: models", "which no pod reads"),
    "a volume that it may only read": ("s3/job.yaml", "mountPath: /models}", "mountPath: /models, readOnly: true}", "cannot write"),
    "root": ("hub/job.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runs as root"),
    "no way out": ("policy/network-policy.yaml", "port: 443", "port: 80", "cannot reach port 443"),
    "a policy for other pods": ("policy/network-policy.yaml", "app.kubernetes.io/name: drafthouse-fill", "app: fill", "no NetworkPolicy"),
    "a secret": ("hub/job.yaml", "{name: TARGET, value: Qwen/Qwen3-8B}", "{name: HF_TOKEN, value: hf_1}", "secret in a file"),
    "a field that Kubernetes does not know": ("s3/job.yaml", "backoffLimit", "backofLimit", "backofLimit"),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_fault_planted_in_a_job_is_named(tmp_path: pathlib.Path, plant: tuple[str, str, str, str]) -> None:
    file, old, new, said = plant
    shutil.copytree(K8S / "fill-models", tmp_path / "fill-models")
    path = tmp_path / "fill-models" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    folder = tmp_path / "fill-models" / ("s3" if "s3" in file else "hub")
    found = job_faults(render(folder), render(K8S / "overlays" / "gpu"))
    assert any(said in line for line in found), found


def ingress_faults(objects: list[dict[str, Any]], overlay: list[dict[str, Any]]) -> list[str]:
    """Each backend is a port of the overlay's Services; streams are neither held back nor cut while they wait; bodies may be as long as
    gateways take."""
    found = schemas.faults(objects)
    ports = {item["metadata"]["name"]: {port["name"] for port in item["spec"]["ports"]} for item in of_kind(overlay, "Service")}
    for item in of_kind(objects, "Ingress"):
        name, annotations = item["metadata"]["name"], item["metadata"]["annotations"]
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if backend["port"]["name"] not in ports.get(backend["name"], ()):
                    found.append(f"{name}: {backend} is no port of a Service")
                if backend["port"]["name"] == "http" and annotations.get(BUFFERING) != "off":
                    found.append(f"{name}: {BUFFERING} must be off")
        if annotations.get(BODY) != f"{MAX_BODY_BYTES >> 20}m":
            found.append(f"{name}: {BODY} is not gateway.max_body_bytes")
        if int(annotations.get(PATIENCE, "60")) < 600:
            found.append(f"{name}: {PATIENCE} cuts requests that wait")
    return found


def test_the_example_of_an_ingress_fits() -> None:
    assert ingress_faults(render(K8S / "ingress"), render(K8S / "overlays" / "cpu-demo")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("drafthouse-gateway", "drafthouse-serve-svc", "is no port of a Service"),
        ('proxy-buffering: "off"', 'proxy-buffering: "on"', "must be off"),
        ("proxy-body-size: 4m", "proxy-body-size: 1m", "max_body_bytes"),
        ('proxy-read-timeout: "600"', 'proxy-read-timeout: "60"', "cuts requests"),
        ("pathType: Prefix", "pathTipe: Prefix", "'pathType' is a required property"),
    ],
)
def test_a_fault_planted_in_the_ingress_is_named(tmp_path: pathlib.Path, old: str, new: str, said: str) -> None:
    shutil.copytree(K8S / "ingress", tmp_path / "ingress")
    path = tmp_path / "ingress" / "ingress.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    found = ingress_faults(render(tmp_path / "ingress"), render(K8S / "overlays" / "cpu-demo"))
    assert any(said in line for line in found), found
