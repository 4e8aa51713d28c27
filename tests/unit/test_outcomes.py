"""How requests end, as the gateway counts them."""

import asyncio

import pytest

from deployments.gateway.inference_service import outcome_of
from deployments.gateway.verifier_link import GenerationError, NoVerifierError
from drafthouse.errors import OverloadError, RequestError
from drafthouse.telemetry.metrics import METRICS
from drafthouse.telemetry.report_numbers import totals_of
from drafthouse.wire.totals import MOVE_REASONS, OUTCOMES
from tests.unit.openai_gateway import gateway
from tests.unit.reports import gateway_report


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


def test_a_service_that_has_done_nothing_says_so_for_every_outcome() -> None:
    """Zeros are told, too: a rate needs a first value."""

    async def totals() -> dict[str, float]:
        async with gateway() as (_, service):
            return totals_of(gateway_report(totals=service.totals()))

    assert asyncio.run(totals()) == {
        **dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "failovers"), 0),
        **{f"moves.{reason}": 0 for reason in MOVE_REASONS},
        **{f"outcome.{outcome}": 0 for outcome in OUTCOMES},
    }
