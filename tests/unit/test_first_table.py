"""A gateway that starts: with or without a controller, with or without other gateways. Its HTTP over real ASGI, its verifier real gRPC."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from deployments.api.openai.routes import build_http_app
from deployments.gateway import first_table
from deployments.gateway.first_table import FirstTable
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.serving import GatewayConfig
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive, Route
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.openai_gateway import COMPLETION, IDS, TEXT, metrics_page, snapshot
from tests.unit.reports import gateway_report
from tests.unit.test_heartbeat import Controller
from tests.unit.verifier_double import VerifierDouble, serving

ROUTE = Route("v", "v:1", "f", 0, 8)


class Starting:
    """A gateway's heartbeat, link and first table. `peer` is the answer of another gateway: None never comes, an exception is raised."""

    def __init__(self, controller: list[object], peer: object) -> None:
        self.asked = 0
        self.link = VerifierLink(patience_s=0.05)
        self.heartbeat = Heartbeat(Controller(controller), gateway_report, 0.01, self._directed)
        self.table = FirstTable(self.heartbeat, self._ask)
        self._peer = peer

    def _directed(self, directive: Directive) -> None:
        self.link.update(directive.verifiers)
        self.table.directed(directive)

    async def _ask(self) -> object:
        self.asked += 1
        if self._peer is None:
            await asyncio.Event().wait()
        if isinstance(self._peer, Exception):
            raise self._peer
        return self._peer

    @asynccontextmanager
    async def lifespan(self, app: object):
        self.heartbeat.start()
        try:
            await self.table.wait()
            yield
        finally:
            await self.heartbeat.stop()
            await self.link.close()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(first_table, "ALONE_S", 0.05)
    monkeypatch.setattr(first_table, "ASK_S", 0.05)


def started(controller: list[object], peer: object, limit_s: float) -> Starting | None:
    """None where the start has not ended by then."""

    async def run() -> Starting | None:
        starting = Starting(controller, peer)
        try:
            async with asyncio.timeout(limit_s), starting.lifespan(None):
                return starting
        except TimeoutError:
            return None

    return asyncio.run(run())


AWAY = RuntimeError("no controller")


def test_a_gateway_that_starts_without_a_controller_serves_by_anothers_table():
    async def run():
        async with serving(VerifierDouble("a", tokens=lambda request: IDS)) as routes:
            starting = Starting([AWAY], Directive(0.01, routes))
            service = InferenceService(RequestPlanner("demo", codec(), metadata()), starting.link, 16)
            app = build_http_app(service, snapshot, starting.lifespan, None, GatewayConfig(), metrics_page, KeyRefusals())
            async with app.router.lifespan_context(app):
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                    assert (await client.get("/health/ready")).status_code == 200
                    answer = await client.post("/v1/completions", json=COMPLETION)
                assert answer.json()["choices"][0]["text"] == TEXT

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("peer", [None, RuntimeError("no replica"), Directive(0.01), "nonsense"])
@pytest.mark.parametrize("controller", [AWAY, None, Directive(0.01, complete=False)])
def test_without_controller_and_peer_it_does_not_start(controller, peer):
    """A controller that is new does not know yet whether there are verifiers."""
    assert started([controller], peer, 0.2) is None


def test_the_settings_of_another_gateway_hold_before_the_first_request():
    """They may have keys in them that args did not."""
    starting = started([AWAY], Directive(0.01, (ROUTE,), settings='{"tree": {"width": 2}}'), 30)
    assert starting is not None
    assert starting.heartbeat.directive.settings == '{"tree": {"width": 2}}'


def test_a_controller_that_comes_back_ends_the_wait():
    starting = started([AWAY] * 30 + [Directive(0.01, (ROUTE,))], None, 30)
    assert starting is not None
    assert starting.link.routes.addresses() == {"v:1"}


@pytest.mark.parametrize("directive", [Directive(0.01), Directive(0.01, (ROUTE,), complete=False)])
def test_where_the_controller_answers_no_one_else_is_asked(directive, monkeypatch):
    """A pool of verifiers that all load their models yet is a table, too: an empty one."""
    monkeypatch.setattr(first_table, "ALONE_S", 30)
    starting = started([directive], None, 20)
    assert starting is not None
    assert starting.asked == 0


def test_an_incomplete_directive_adds_to_anothers_table():
    other = Route("w", "w:1", "f", 0, 8)

    async def run():
        starting = Starting([AWAY] * 10 + [Directive(0.01, (other,), complete=False)], Directive(0.01, (ROUTE,)))
        starting.heartbeat.adopt(Directive(0.01, (ROUTE,)))
        async with starting.lifespan(None):
            while len(starting.link.routes) < 2:
                await asyncio.sleep(0.01)
        assert starting.link.routes.addresses() == {"v:1", "w:1"}

    asyncio.run(asyncio.wait_for(run(), 20))
