"""The bound on what one gateway has in progress, and what the HTTP API says beyond it."""

import asyncio

import httpx
import pytest

from deployments.gateway.inference_service import Capacity
from drafthouse.errors import OverloadError
from drafthouse.wire.generation_messages import RefusalKind
from tests.unit.openai_gateway import COMPLETION, IDS, TEXT, error_of, gateway, request
from tests.unit.verifier_double import VerifierDouble, refusing


def test_more_choices_than_all_verifiers_take_are_refused_for_good():
    answer = request("/v1/completions", {**COMPLETION, "n": 9}, capacity=16)  # the double takes 8
    assert error_of(answer)[:3] == (400, "invalid_request_error", "n")


def test_plans_in_the_making_and_choices_in_progress_share_the_places():
    places = Capacity(3)
    places.take(1)
    with places.planning():
        with pytest.raises(OverloadError, match="2 requests in progress, and serves 3 at once"):
            places.take(2)
        places.take(1)
        with pytest.raises(OverloadError), places.planning():
            pass
    places.take(1)
    with pytest.raises(OverloadError), places.planning():
        pass
    places.release(1)
    with places.planning():
        pass
    assert places.taken == 2


def test_a_plan_that_fails_gives_its_place_back():
    places = Capacity(1)
    with pytest.raises(ValueError, match="no model"), places.planning():
        raise ValueError("no model")
    places.take(1)


def test_those_who_are_refused_together_get_different_turns():
    places = Capacity(1)
    places.take(1)
    turns = []
    for _ in range(5):
        with pytest.raises(OverloadError) as caught:
            places.take(1)
        turns.append(caught.value.retry_after_s)
    assert turns == sorted(set(turns))


def test_a_full_gateway_refuses_and_those_in_progress_go_on():
    async def run():
        held = asyncio.Event()
        verifier = VerifierDouble("a", tokens=lambda request: IDS, before=lambda index, context: held.wait())
        async with gateway(verifier, capacity=2) as (app, service):
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
            first = asyncio.create_task(client.post("/v1/completions", json=COMPLETION | {"n": 2}))
            while len(verifier.seen) < 2:
                await asyncio.sleep(0.005)
            for more in ({}, {"n": 2}, {"stream": True}):
                refused = await client.post("/v1/completions", json=COMPLETION | more)
                assert error_of(refused) == (429, "overloaded_error", None, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
            held.set()
            assert [choice["text"] for choice in (await first).json()["choices"]] == [TEXT, TEXT]
            assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200
            totals = service.totals()
            assert (totals.outcome["refused"], totals.outcome["served"], totals.requests, service.running) == (3, 3, 6, 0)

    asyncio.run(run())


@pytest.mark.parametrize("when", ["before the first token", "mid-stream"])
def test_one_error_gives_all_places_of_the_request_back(when):
    async def run():
        breaks = refusing(RefusalKind.WRONG, index=0 if when == "before the first token" else 4)
        failing = VerifierDouble("a", tokens=lambda request: IDS, before=breaks)
        async with gateway(failing, capacity=4) as (app, service):
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
            await client.post("/v1/completions", json=COMPLETION | {"n": 3, "stream": True})
            assert service.running == 0

    asyncio.run(run())
