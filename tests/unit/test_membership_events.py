"""Each change of the pools is one line."""

import logging

import pytest

from controller.live_pool import LivePool
from controller.membership_events import MembershipEvents
from tests.unit.reports import verifier_report


def _pools(*reports):
    pool = LivePool()
    for report in reports:
        pool.observe(report, now=0.0, expires=10.0)
    return {"verifier": pool}


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "controller")
    return lambda: [(record.levelname, record.fields["event"], record.fields["peer"]) for record in caplog.records]


def test_joined_then_lost(told):
    events = MembershipEvents()
    for pools in (_pools(verifier_report("v")), _pools(verifier_report("v")), _pools()):
        events.tell(pools)
    assert told() == [("INFO", "joined", "v"), ("WARNING", "lost", "v")]


def test_who_drains_has_left_and_is_not_lost(told):
    events = MembershipEvents()
    for pools in (_pools(verifier_report("v")), _pools(verifier_report("v", draining=True)), _pools()):
        events.tell(pools)
    assert told() == [("INFO", "joined", "v"), ("INFO", "drain", "v"), ("INFO", "left", "v")]
