"""Requests with a priority or an objective, in virtual time: who is behind gets more, others lose a bounded share, all is counted."""

import logging
from collections import Counter
from dataclasses import replace

import pytest

from drafthouse.config.serving import TreeConfig
from drafthouse.objective import Objective
from drafthouse.policy.latency import Curve
from drafthouse.wire.generation_messages import GenerateRequest
from tests.engine.pairs import request
from tests.engine.told_pair import ToldPair

DEAR = Curve("dear", "a node costs a twentieth of a plain step of eight", 12.0, 1.0, 0.0)
TOKENS = 240


class Served:
    """What became of requests, by id, on the clock of the world."""

    def __init__(self, requests: list[GenerateRequest], curve: Curve = DEAR, places: int = 64):
        self.pair = pair = ToldPair(curve, 0.75, lambda _: 0.75)
        engine = pair.verifier
        engine.reconfigure(engine.scheduler.config.model_copy(update={"max_sequences": places}), TreeConfig())
        self.first_at, self.ended_at = dict[str, float](), dict[str, float]()
        self.verified, self.accepted = Counter[str](), Counter[str]()
        for r in requests:
            engine.submit(r)
        while engine.sequences:
            for reply in pair.turn():
                if reply.tokens:
                    self.first_at.setdefault(reply.request_id, pair.world.now)
                if reply.finish_reason:
                    self.ended_at[reply.request_id] = pair.world.now
                    self.verified[reply.request_id] = reply.usage.verified

    def pace(self, name: str, tokens: int = TOKENS) -> float:
        """Seconds a token after the first."""
        return (self.ended_at[name] - self.first_at[name]) / (tokens - 1)


def crowd(count: int, mode: str = "auto", **first: object) -> list[GenerateRequest]:
    made = [request(str(i), [1] * 8, TOKENS, seed=i, mode=mode) for i in range(count)]
    return [replace(made[0], **first), *made[1:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({"objective": Objective(per_token_s=0.0155)}, id="behind its objective"),
        pytest.param({"priority": -2}, id="of high priority"),
    ],
)
def test_one_that_is_worth_more_gets_more_nodes_and_others_lose_little(first: dict[str, object]) -> None:
    even, off, uneven = Served(crowd(8)), Served(crowd(8, "off")), Served(crowd(8, **first))
    assert uneven.verified["0"] > 1.5 * even.verified["0"]
    assert uneven.pace("0") < 0.9 * even.pace("0")
    for i in range(1, 8):
        assert uneven.pace(str(i)) < min(1.15 * even.pace(str(i)), 1.02 * off.pace(str(i)))


def test_an_objective_that_nothing_brings_home_takes_nothing_from_others() -> None:
    even, uneven = Served(crowd(8)), Served(crowd(8, objective=Objective(per_token_s=0.001)))
    assert uneven.ended_at == even.ended_at


def test_equal_worths_are_as_none() -> None:
    """All of one priority: the same steps at the same times as without."""
    alike = [replace(r, priority=-1) for r in crowd(6)]
    assert Served(alike).ended_at == Served(crowd(6)).ended_at


def test_the_most_urgent_waits_for_little_and_each_of_the_others_for_one_more_at_most() -> None:
    late = replace(request("late", [1] * 8, 10, seed=99), objective=Objective(first_token_s=3.0))
    plain = [request(str(i), [1] * 8, 60, seed=i) for i in range(12)]
    even, uneven = (Served([*plain, last], places=1) for last in (replace(late, objective=None), late))
    assert uneven.first_at["late"] < 3.0 < even.first_at["late"]
    own = uneven.ended_at["late"] - uneven.first_at["late"]
    for i in range(12):
        assert uneven.first_at[str(i)] <= even.first_at[str(i)] + own + 0.1
    totals = uneven.pair.verifier.totals
    assert (totals.first_token_objectives, totals.first_token_kept) == (1, 1)
    assert (totals.per_token_objectives, totals.per_token_kept) == (0, 0)


def test_what_is_kept_and_what_is_not_is_counted() -> None:
    easy, hard = Objective(first_token_s=1.0, per_token_s=0.05), Objective(first_token_s=0.001, per_token_s=0.004)
    requests = crowd(4)
    totals = Served([replace(r, objective=(easy, hard)[i % 2]) for i, r in enumerate(requests)]).pair.verifier.totals
    assert (totals.first_token_objectives, totals.first_token_kept) == (4, 2)
    assert (totals.per_token_objectives, totals.per_token_kept) == (4, 2)


def test_the_time_that_passed_elsewhere_counts() -> None:
    """A request that another verifier left goes on with its clock: what is left of its objective is told here, and the first token is not
    counted again."""
    objective = Objective(first_token_s=1.0, per_token_s=0.02)
    moved = request("moved", [1] * 8, 100, delivered=[1] * 50)
    in_time = replace(moved, objective=objective, waited_s=1.5, since_first_s=0.9)
    late = replace(in_time, waited_s=9.0, since_first_s=8.0)
    kept, missed = (Served([each], Curve("quick", "", 5.0, 0.1, 0.0)).pair.verifier.totals for each in (in_time, late))
    assert (kept.per_token_objectives, kept.per_token_kept) == (1, 1)
    assert (missed.per_token_objectives, missed.per_token_kept) == (1, 0)
    assert kept.first_token_objectives == missed.first_token_objectives == 0
    fresh = replace(request("fresh", [1] * 8, 5), objective=objective, waited_s=0.999)
    assert Served([fresh]).pair.verifier.totals.first_token_kept == 0


def test_an_objective_out_of_reach_is_said_once_and_served(caplog: pytest.LogCaptureFixture) -> None:
    requests = [replace(r, objective=Objective(per_token_s=0.002 if i else 0.5)) for i, r in enumerate(crowd(3))]
    with caplog.at_level(logging.WARNING):
        served = Served(requests)
    [line] = [record.getMessage() for record in caplog.records if "objective" in record.getMessage()]
    assert "the objective per_token_ms 2 cannot be met here" in line
    assert len(served.ended_at) == 3
    assert served.pair.verifier.worths.even, "nothing is kept of requests that have ended"
