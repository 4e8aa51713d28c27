"""A server that stops ends its streams with an error that clients can read, and takes no new ones."""

import asyncio
import json

import httpx
import pytest

from deployments.gateway.verifier_link import StoppingError
from tests.unit.openai_gateway import COMPLETION, IDS, JSON, gateway
from tests.unit.verifier_double import VerifierDouble


def _stopped_while_it_runs(body: dict, stalls_at: int) -> tuple[httpx.Response, httpx.Response]:
    """(the answer to a request during which the server stops, that to one that comes afterwards)."""

    async def run():
        reached = asyncio.Event()

        async def before(index, context):
            if index == stalls_at:
                reached.set()
                await asyncio.Event().wait()

        verifier = VerifierDouble("a", tokens=lambda request: IDS, before=before)
        async with gateway(verifier) as (app, service):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                task = asyncio.create_task(client.post("/v1/completions", json=body))
                await reached.wait()
                while body["stream"] and not service.totals().completion_tokens:
                    await asyncio.sleep(0.005)
                service.link.end_all()
                stopped = await asyncio.wait_for(task, 20)
                assert service.running == 0
                return stopped, await client.post("/v1/completions", json=COMPLETION, headers=JSON)

    return asyncio.run(run())


@pytest.mark.parametrize("choices", [1, 3])
def test_a_stream_ends_with_an_error_event_and_done(choices):
    stopped, later = _stopped_while_it_runs({**COMPLETION, "stream": True, "n": choices, "temperature": 1.0}, stalls_at=4)
    *_, error, done, rest = stopped.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == str(StoppingError())
    assert later.status_code == 503


def test_what_has_sent_nothing_yet_gets_a_status():
    stopped, _ = _stopped_while_it_runs({**COMPLETION, "stream": False}, stalls_at=4)
    assert stopped.status_code == 503
    assert stopped.headers["retry-after"]
    assert "stops" in stopped.json()["error"]["message"]
