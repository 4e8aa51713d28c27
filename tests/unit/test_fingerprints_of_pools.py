"""What the controller says of a pool whose replicas cannot all replace each other."""

import pytest

from controller.fingerprints import groups_of, said_of
from tests.unit.reports import verifier_report


def test_groups_are_by_fingerprint_in_order_of_name() -> None:
    groups = groups_of([verifier_report(name, fingerprint=fingerprint) for name, fingerprint in (("b", "x"), ("a", "x"), ("c", "w"))])
    assert list(groups.items()) == [("w", ["c"]), ("x", ["a", "b"])]


@pytest.mark.parametrize(
    ("verifiers", "said"),
    [
        ({}, ""),
        ({"x": ["a", "b"]}, "verifier pool: all 2 of fingerprint x"),
        (
            {"w": ["c"], "x": ["a", "b", "d", "e", "f"]},
            "verifier pool: 2 fingerprints (w: c; x: a, b, d and 2 more): a text that one began cannot go on at one of another. "
            "Weights, dtype, device or versions differ",
        ),
    ],
)
def test_the_line(verifiers: dict[str, list[str]], said: str) -> None:
    assert said_of(verifiers) == said
