"""How requests end, as the gateway counts them."""

import pytest

from deployments.generation import GenerationError
from deployments.inference_service import OUTCOMES, outcome_of
from deployments.verifier_link import NoVerifierError
from drafthouse.errors import OverloadError, RequestError
from drafthouse.metrics import METRICS


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadError("full", 1.0), "refused"),
        (NoVerifierError("none"), "unavailable"),
        (RequestError("wrong", "prompt"), "rejected"),
        (GenerationError("broke"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_an_error_is_an_outcome(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_the_metric_declares_these_outcomes() -> None:
    (metric,) = (metric for metric in METRICS if (metric.owner, metric.key) == ("gateway", "outcome"))
    assert metric.values == OUTCOMES
