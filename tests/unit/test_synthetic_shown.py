"""Synthetic acceptance is shown by every way out."""

from dataclasses import replace

import pytest

from deployments.api.grpc.inference import InferenceApi
from tests.unit.grpc_gateway import Context
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, request
from tests.unit.reports import verifier_report
from tests.unit.test_grpc_api import data, serve
from tests.unit.test_status import registry, status, url
from tests.unit.verifier_double import USAGE, VerifierDouble

__all__ = ["registry", "url"]  # fixtures


def verifier(synthetic: bool) -> VerifierDouble:
    return VerifierDouble("a", tokens=lambda request: IDS, usage=replace(USAGE, synthetic=synthetic))


@pytest.mark.parametrize("synthetic", [True, False])
@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
def test_over_http(path, body, synthetic):
    whole = request(path, body, verifier=verifier(synthetic)).json()
    assert whole["usage"]["speculation"].get("synthetic", False) is synthetic
    streamed = request(path, {**body, "stream": True}, verifier=verifier(synthetic))
    assert streamed.headers.get("x-drafthouse-synthetic") == ("1" if synthetic else None)


@pytest.mark.parametrize("synthetic", [True, False])
def test_over_grpc(synthetic):
    async def call(service):
        whole = await InferenceApi(service).generate(data(), Context())
        chunks = [chunk async for chunk in InferenceApi(service).stream(data(), Context())]
        return whole, chunks

    whole, chunks = serve(call, verifier(synthetic))
    assert whole.usage.synthetic == chunks[-1].usage.synthetic == synthetic


@pytest.mark.parametrize("rate", [0.7, None])
def test_in_the_status(registry, url, rate):
    registry.observe(verifier_report(synthetic_acceptance=rate), 0.0)
    assert ("SYNTHETIC ACCEPTANCE at rate 0.7" in status(url)) == (rate is not None)
