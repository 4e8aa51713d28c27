"""What a gateway does not ask for a while has a line of its log, and stands in the cluster's state, with the reason."""

import asyncio
import logging

import pytest

from controller.registry import Registry
from deployments.gateway.request_progress import DRAINS
from deployments.gateway.set_aside_events import SetAsideEvents
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.serving import ControllerConfig
from drafthouse.policy.set_aside import Aside
from drafthouse.wire.reports import GatewayReport
from drafthouse.wire.totals import GatewayTotals
from tests.unit.linked import collect, linked
from tests.unit.reports import replica
from tests.unit.verifier_double import VerifierDouble, cut_at

POOL = {"a", "b"}


@pytest.fixture
def told(caplog):
    """(level, event, verifier, reason) of each line."""
    caplog.set_level(logging.INFO, "deployments.gateway.set_aside_events")
    return lambda: [
        (record.levelname, record.fields["event"], record.fields["verifier"], record.fields.get("reason"))
        for record in caplog.records
        if getattr(record, "fields", {}).get("event") in ("set aside", "serves again")
    ]


def test_a_verifier_that_breaks_has_a_line_with_the_reason_and_one_when_it_serves_again(told):
    """Over real streams: the first request breaks at a and goes on at b, the trial at a is served."""

    async def run():
        broken, sound = VerifierDouble("a", before=cut_at(0)), VerifierDouble("b", load=7)
        events = SetAsideEvents()

        def tell(link: VerifierLink) -> dict[str, str]:
            return events.tell(link.routes.set_aside(), link.routes.replicas())

        async with linked(broken, sound) as link:
            assert tell(link) == {}
            await collect(link)
            reasons = tell(link)
            assert tell(link) == reasons, "as long as it lasts"
            link.routes.served("a", "r2", began=float("inf"), now=float("inf"))
            assert tell(link) == {}
        return reasons

    assert asyncio.run(run()) == {"a": "its stream broke (UNAVAILABLE); for 10 s"}
    assert told() == [("WARNING", "set aside", "a", "its stream broke (UNAVAILABLE)"), ("INFO", "serves again", "a", None)]


def test_each_trial_that_fails_has_a_line(told):
    events = SetAsideEvents()
    for times in (1, 1, 2, 2, 3):
        events.tell({"a": Aside(times, "it gave the request up", 10.0 * times)}, POOL)
    assert told() == [("WARNING", "set aside", "a", "it gave the request up")] * 3


def test_who_drains_or_is_gone_is_the_controllers_to_tell(told):
    events = SetAsideEvents()
    assert events.tell({"a": Aside(1, DRAINS, 10.0)}, POOL) == {}
    events.tell({"b": Aside(1, "it cannot be reached", 10.0)}, POOL)
    assert events.tell({}, {"a"}) == {}
    assert told() == [("WARNING", "set aside", "b", "it cannot be reached")]


def test_it_stands_in_the_state_of_the_cluster():
    registry = Registry(ControllerConfig())
    reasons = {"v": "it gave the request up; for 10 s"}
    registry.observe(
        GatewayReport(replica=replica("g", ""), load=0, capacity=8, totals=GatewayTotals(), set_aside=reasons), now=0.0
    )  # fmt: skip
    [gateway] = registry.snapshot(now=0.0)["pools"]["gateway"]
    assert gateway["set_aside"] == reasons
