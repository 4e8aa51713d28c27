"""The shipped overlays: rendered, held to schemas and rules, and equal to what the repository ships elsewhere."""

import json
import pathlib
from typing import Any

import pytest
import yaml
from ray._private import ray_constants

from deployments.placement import ACCELERATOR_LABEL
from drafthouse.config.config_file import load_config
from drafthouse.config.serving import ServingConfig
from tests.manifests import embed, schemas
from tests.manifests.check import faults, main
from tests.manifests.kustomize import RenderError, real_command, render, render_with_tool
from tests.manifests.pods import DRAIN_LIMIT, RAY_DRAIN_LIMIT_S
from tests.manifests.roles import embedded
from tests.manifests.rules import of_kind

K8S = embed.ROOT / "k8s"
OVERLAYS = [K8S / "overlays" / "cpu-demo", K8S / "overlays" / "gpu"]
FULL_SCHEMA = embed.ROOT.parent / "shared" / "schemas" / "ray.io_rayservices.yaml"

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


def _by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


@each_overlay
def test_an_overlay_has_no_faults(overlay: pathlib.Path) -> None:
    assert faults(render(overlay)) == []


@each_overlay
@pytest.mark.skipif(real_command() is None, reason="neither kubectl nor kustomize is installed")
def test_our_renderer_agrees_with_kustomize(overlay: pathlib.Path) -> None:
    command = real_command()
    assert command is not None
    objects = render(overlay)
    assert len(_by_name(objects)) == len(objects)
    assert _by_name(objects) == _by_name(render_with_tool(overlay, command))


@each_overlay
def test_an_overlay_has_one_group_per_role_and_what_a_cluster_needs(overlay: pathlib.Path) -> None:
    objects = render(overlay)
    cluster = of_kind(objects, "RayService")[0]["spec"]["rayClusterConfig"]
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["gateway", "verifier", "drafter", "controller"]
    assert {"NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Service", "ConfigMap"} <= {item["kind"] for item in objects}


def test_ray_reads_the_limit_that_the_pods_set() -> None:
    assert getattr(ray_constants, DRAIN_LIMIT) == RAY_DRAIN_LIMIT_S


def test_the_gpu_overlay_is_monitored() -> None:
    assert len(of_kind(render(OVERLAYS[1]), "PodMonitor")) == 1


def test_the_demo_runs_the_shipped_configuration() -> None:
    service = of_kind(render(OVERLAYS[0]), "RayService")[0]
    shipped = yaml.safe_load(embed.SHIPPED.read_text(encoding="utf-8"))
    hint = "run python -m tests.manifests.embed"
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == shipped, hint
    assert embedded(service) == (load_config(embed.SHIPPED), [])


def test_embedding_keeps_the_text_as_it_is() -> None:
    text = embed.embedded("kind: RayService\nspec:\n  serveConfigV2: |\n    old: 1\n", "a: 1\n\nb: 'x  # y'\n")
    assert yaml.safe_load(text)["spec"]["serveConfigV2"] == "a: 1\n\nb: 'x  # y'\n"


def test_the_gpu_overlay_serves_from_gpus() -> None:
    config, wrong = embedded(of_kind(render(OVERLAYS[1]), "RayService")[0])
    assert wrong == []
    assert isinstance(config, ServingConfig)
    assert (config.target.device, config.draft.device, config.verifier.num_gpus) == ("cuda", "cuda", 1)


def test_an_accelerator_is_right_where_its_group_has_the_label() -> None:
    objects = render(OVERLAYS[1])
    spec = of_kind(objects, "RayService")[0]["spec"]
    spec["serveConfigV2"] = spec["serveConfigV2"].replace("port: 7100", "port: 7100\n        accelerator: H100")
    assert len(faults(objects)) == 1
    spec["rayClusterConfig"]["workerGroupSpecs"][1]["labels"][ACCELERATOR_LABEL] = "H100"
    assert faults(objects) == []


@pytest.mark.skipif(not FULL_SCHEMA.is_file(), reason="KubeRay's resource definition is not beside the repository")
def test_the_kept_schema_is_kuberays() -> None:
    definition = yaml.load(FULL_SCHEMA.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    full = next(version for version in definition["spec"]["versions"] if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    assert schemas.pruned(full) == json.loads(schemas.KUBERAY_SCHEMA.read_text(encoding="utf-8"))


@each_overlay
@pytest.mark.skipif(not FULL_SCHEMA.is_file(), reason="KubeRay's resource definition is not beside the repository")
def test_an_overlay_fits_the_whole_schema_too(overlay: pathlib.Path) -> None:
    definition = yaml.load(FULL_SCHEMA.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    full = next(version for version in definition["spec"]["versions"] if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    service = of_kind(render(overlay), "RayService")[0]
    assert schemas.against(full, service) == []


def test_the_command_prints_and_counts(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    assert main([str(OVERLAYS[0])]) == 0
    assert "cpu-demo: ok" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kustomization", "patch", "named"),
    [
        ("resources: [a.yaml]\nnamePrefix: x-", "", "namePrefix"),
        ("resources: [a.yaml]\npatches: [{path: p.yaml}]", "kind: ConfigMap\nmetadata: {name: b}", "no ConfigMap b"),
        ("resources: [a.yaml]\npatches: [{path: p.yaml}]", "kind: ConfigMap\nmetadata: {name: a}\ndata: {x: y}", "JSON patch"),
        (
            "resources: [a.yaml]\npatches: [{path: p.yaml, target: {kind: ConfigMap, name: a}}]",
            "[{op: test, path: /data/k, value: w}]",
            "it is 'v', not 'w'",
        ),
        (
            "resources: [a.yaml]\npatches: [{path: p.yaml, target: {kind: ConfigMap, name: a}}]",
            "[{op: replace, path: /data/z, value: w}]",
            "/data/z",
        ),
        ("resources: [a.yaml, a.yaml]", "", "ConfigMap a is there twice"),
        ("resources: [missing.yaml]", "", "missing.yaml"),
    ],
)
def test_the_renderer_names_what_it_cannot_do(tmp_path: pathlib.Path, kustomization: str, patch: str, named: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(kustomization)
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n")
    (tmp_path / "p.yaml").write_text(patch)
    with pytest.raises(RenderError, match=named):
        render(tmp_path)
