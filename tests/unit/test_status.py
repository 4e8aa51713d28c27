"""`drafthouse status`: what it prints of a registry's own snapshot."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from controller.registry import Registry
from deployments.cli.main import build_cli
from drafthouse.config.serving import ControllerConfig
from tests.unit.registry_api import RegistryApi
from tests.unit.reports import drafter_report, drafter_totals, gateway_report, verifier_report, verifier_totals


@pytest.fixture
def registry() -> Registry:
    return Registry(ControllerConfig())


@pytest.fixture
def url(registry: Registry) -> Iterator[str]:
    api = RegistryApi(registry)
    yield api.url
    api.stop()


def status(url: str) -> str:
    result = CliRunner().invoke(build_cli(), ["status", "--url", url], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_goodput_of_pools_at_work(registry, url):
    for now in (0.0, 1.0):
        steps = {"step_seconds": 0.6 * now, "wait_seconds": 0.2 * now, "steps": 100 * now}
        totals = verifier_totals(committed=1200 * now, accepted=700 * now, **steps)
        registry.observe(verifier_report(totals=totals, load=3, price=0.25, running=8, waiting=2), now)
        registry.observe(drafter_report(totals=drafter_totals(drafted=900 * now, busy_seconds=0.5 * now), load=3), now)
    output = status(url)
    assert "goodput: 1,200.0 tokens/s" in output
    assert "900.0 drafted" in output
    assert "200.0 wasted" in output
    assert "0.250 tokens (0.250 to 0.250), floor 0.000" in output
    assert "verifiers 60% (between steps 25%), drafters 50%; 2 requests queue" in output


def test_what_is_not_known_is_a_dash(url):
    output = status(url)
    assert "one more verifier would add -, one more drafter -" in output
    assert "drafters -; 0 requests queue" in output


def test_sizes_of_pools_and_why(registry, url):
    registry.observe(verifier_report(), 0.0)
    output = status(url)
    assert "verifier pool: 1 of 2 desired; fixed by the configuration" in output
    assert "drafter pool: 0 of 1 desired, between 0 and 4; nothing is known yet" in output


def test_verifiers_that_cannot_replace_each_other_are_told(registry, url):
    for name, fingerprint in (("v0", "aaa"), ("v1", "bbb"), ("v2", "aaa")):
        registry.observe(verifier_report(name, fingerprint=fingerprint), 0.0)
    assert "verifier pool: 2 fingerprints (aaa: v0, v2; bbb: v1): a text that one began" in status(url)
    registry.observe(verifier_report("v1", pid=2, fingerprint="aaa"), 0.0)
    assert "verifier pool: all 3 of fingerprint aaa" in status(url)


def test_the_model_how_long_replicas_run_and_what_their_kv_holds(registry, url):
    plain = verifier_report("v0", kv_slots=4096, kv_slots_used=1024, kv_slots_cached=512)
    registry.observe(replace(plain, replica=replace(plain.replica, started=time.time() - 90_061)), 0.0)
    said = status(url)
    assert "model: smol" in said
    assert re.search(r"v0 .*1 day, 1:01:0\d .*1,024 of 4,096, 512 cached", said)


def test_which_forward_runs_is_told_where_there_is_a_model(registry, url):
    plain = verifier_report("v0")
    served = replace(plain.replica, forward="native", row_invariant=True, threads="2 threads do 1.9 times the work of one")
    registry.observe(replace(plain, replica=served), 0.0)
    registry.observe(drafter_report("d0"), 0.0)
    said = status(url)
    assert "verifier pool runs on: native, each row with bits of its own" in said
    assert "verifier threads: 2 threads do 1.9 times the work of one" in said
    assert "drafter pool runs on" not in said, "it has no model"
    assert "drafter threads" not in said


def test_verifiers_that_a_gateway_has_set_aside_are_told(registry, url):
    registry.observe(replace(gateway_report("g0"), set_aside={"v0": "it gave the request up; for 10 s"}), 0.0)
    assert "g0 has set aside v0: it gave the request up; for 10 s" in status(url)


def test_settings_and_peers_that_do_not_fit(registry, url):
    old = "the drafter speaks versions 5 to 6"
    registry.observe(replace(verifier_report("v0"), settings="abc", incompatible={"d7": old}), 0.0)
    registry.observe(verifier_report("v1"), 0.0)
    output = status(url)
    assert "settings said over args: tree.width" in output
    assert "SETTINGS THAT CANNOT BE USED: tree.widht: no such key" in output
    assert "v1 has other settings" in output
    assert "v0 has other settings" not in output
    assert f"v0 does not use d7: {old}" in output
