"""Section `autoscaling`: what it refuses, and what follows from it for a machine and its ports."""

import pytest
from pydantic import ValidationError

from deployments.cli.machine_checks import check_ports
from deployments.placement import needed_cpus
from drafthouse.config.faults import describe
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

BOTH = {"verifier": {"min": 1, "max": 3}, "drafter": {"min": 0, "max": 5}}


def config(autoscaling: dict, **sections: dict) -> ServingConfig:
    return ServingConfig.model_validate({"autoscaling": autoscaling, **sections})


def test_off_by_default():
    plain = ServingConfig()
    assert plain.autoscaling.most("verifier", 7) == 7
    assert needed_cpus(plain) == pytest.approx(0.1 + 0.5 + 0.5 + 0.1)


def test_a_machine_must_hold_the_largest_pools():
    assert needed_cpus(config(BOTH)) == pytest.approx(0.1 + 3 * 0.5 + 5 * 0.5 + 0.1)
    assert needed_cpus(config({**BOTH, "gateway": {"max": 4}})) == pytest.approx(4 * 0.1 + 3 * 0.5 + 5 * 0.5 + 0.1)


@pytest.mark.parametrize(
    ("autoscaling", "sections", "named"),
    [
        ({"verifier": {"min": 0, "max": 2}}, {}, "autoscaling.verifier.min"),
        ({"verifier": {"min": 3, "max": 2}}, {}, "min 3 is more than max 2"),
        ({"verifier": {"max": 2, "minimum": 1}}, {}, "autoscaling.verifier.minimum"),
        ({"gateway": {"max": 2, "min": 0}}, {}, "autoscaling.gateway.min"),
        ({"gateway": {"max": 2, "min_gain_share": 0.1}}, {}, "autoscaling.gateway.min_gain_share"),
        ({"gateway": {"max": 2}}, {"gateway": {"replicas": 3}}, "gateway.replicas: 3 at the start is not between 1"),
        ({"controller": {"max": 2}}, {}, "autoscaling.controller"),
        ({"drafter": {"max": 2, "min_gain_share": 0}}, {}, "autoscaling.drafter.min_gain_share"),
        ({"drafter": {"max": 2}}, {"drafter": {"replicas": 3}}, "drafter.replicas: 3 at the start"),
        ({"drafter": {"min": 0, "max": 2}}, {"drafter": {"replicas": 0}}, "drafter.replicas: 0 at the start is not between 1"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(autoscaling, sections, named):
    with pytest.raises(ValidationError) as caught:
        config(autoscaling, **sections)
    assert any(named in line for line in describe(caught.value)), describe(caught.value)


def test_replicas_that_may_come_cannot_share_a_port():
    with pytest.raises(ConfigError, match=r"verifier\.port: 3 replicas"):
        check_ports(config(BOTH, verifier={"port": 7100}))
