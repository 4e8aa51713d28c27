"""The Dockerfile against the files it is built from; building it needs Docker and the network."""

import re
import tomllib

from tests.manifests.embed import ROOT, SHIPPED

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_cpu_build_takes_the_pinned_torch() -> None:
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert re.findall(r"\btorch==([\d.]+)", DOCKERFILE) == [pinned[1]]


def test_every_package_that_serves_reaches_the_build() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert let_through == packages - {"benchmarks"} | {"requirements.txt", "pyproject.toml"}


def test_the_image_runs_as_the_user_of_the_pods() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "1000:1000"
    assert DOCKERFILE.index("useradd --uid 1000") < DOCKERFILE.index("USER 1000:1000")
    service = (ROOT / "k8s" / "base" / "rayservice.yaml").read_text(encoding="utf-8")
    assert re.findall(r"runAsUser: (\d+)", service) == ["1000"]


def test_what_kuberays_probes_call_is_installed() -> None:
    assert re.search(r"apt-get install [^\n]*\bwget\b", DOCKERFILE)


def test_the_containers_configuration_differs_from_the_shipped_one_in_the_host_alone() -> None:
    expression = re.search(r"sed 's/(.+?)/(.+?)/' /mnt/source/deployments/serve_config.yaml", DOCKERFILE)
    assert expression is not None
    shipped = SHIPPED.read_text(encoding="utf-8").splitlines()
    changed = [re.sub(expression[1], expression[2], line) for line in shipped]
    assert [line for line, before in zip(changed, shipped, strict=True) if line != before] == ["        host: 0.0.0.0"]
