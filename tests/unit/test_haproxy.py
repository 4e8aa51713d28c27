"""The proxy that is started is HAProxy without splice(), on a machine as in the image."""

import os
import pathlib
import subprocess
import sys
import tomllib

import pytest
import yaml

from deployments.cli import haproxy
from deployments.cli.haproxy import BINARY
from deployments.cli.ray_environment import local_environment
from tests.manifests.embed import ROOT


def test_the_proxy_of_a_local_cluster_is_haproxy(tmp_path: pathlib.Path) -> None:
    environment = local_environment(tmp_path)
    said = subprocess.run([environment[BINARY], "-v"], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("HAProxy version"), said


def test_it_does_not_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append((path, arguments)))
    monkeypatch.setattr(sys, "argv", ["drafthouse-haproxy", "-f", "haproxy.cfg"])
    monkeypatch.setenv(BINARY, "/this/very/command")
    haproxy.main()
    [(path, arguments)] = started
    assert arguments == [path, "-dS", "-f", "haproxy.cfg"]
    assert pathlib.Path(path).name == "haproxy"


def test_the_pods_start_it_too() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    environment = yaml.safe_load((ROOT / "k8s" / "base" / "ray-environment.yaml").read_text(encoding="utf-8"))["data"]
    assert pathlib.Path(environment[BINARY]).name in scripts
    assert pathlib.Path(environment[BINARY]).parent == pathlib.Path("/usr/local/bin"), "where the image has its commands"
