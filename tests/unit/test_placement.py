"""Placement: each role keeps off the nodes of the others, and takes its own and those without a label."""

import re

import pytest
from ray._private.label_utils import validate_label_selector

from deployments.app import build_app
from deployments.placement import HEAD, ROLE_LABEL, ROLES, label_selector
from drafthouse.config import ServingConfig


def _takes(selector: str, label: str | None) -> bool:
    found = re.fullmatch(r"!in\((.*)\)", selector)
    assert found is not None
    return label not in found[1].split(",")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_takes_its_own_nodes_and_those_without_a_label(role: str) -> None:
    selector = label_selector(role)
    assert validate_label_selector(selector) is None
    taken = {label for label in (None, HEAD, *ROLES) if _takes(selector[ROLE_LABEL], label)}
    assert taken == {None, role}


def test_every_deployment_of_the_application_asks_for_its_role() -> None:
    ingress = build_app(ServingConfig())._bound_deployment
    found = {ingress.name: ingress}
    for argument in ingress.init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    selectors = {name: deployment.ray_actor_options["label_selector"] for name, deployment in found.items()}
    assert selectors == {
        "Gateway": label_selector("gateway"),
        "VerifierReplica": label_selector("verifier"),
        "DrafterReplica": label_selector("drafter"),
        "ControllerReplica": label_selector("controller"),
    }
