"""Mode `auto` in virtual time: never much worse than plain decoding or the best fixed policy, and nothing paid where it cannot pay."""

from collections.abc import Callable

import pytest

from drafthouse.policy.latency import Curve, LatencyModel
from drafthouse.policy.speculation_gate import FIRST_BEST_EDGE, FORGET_S, HOLD_S, PROBE_SHARE, PROBE_STEPS
from drafthouse.token_tree import TokenTree
from drafthouse.wire.generation_messages import GenerateRequest, SpeculationUsage
from simulator.virtual_pair import DRAFTER
from tests.engine.pairs import request
from tests.engine.told_pair import ToldPair

GPU = Curve("gpu", "an 8B target on one H100", 6.9, 0.018, 0.0)
CPU = Curve("cpu", "dear tokens", 20.0, 5.0, 0.0)
STEEP = Curve("steep", "a token costs nearly what a step does", 3.0, 1.0, 0.0)
SLOW = Curve("slow", "a second for a step", 1000.0, 10.0, 0.0)
CHAINS = (1, 2, 4, 8)


def requests(count: int, tokens: int, mode: str, nodes: int = 1) -> list[GenerateRequest]:
    return [request(str(i), [1] * 8, tokens, seed=i, mode=mode, nodes=nodes, depth=nodes, width=1) for i in range(count)]


@pytest.mark.parametrize(
    ("curve", "count", "tokens", "rate", "claim"),
    [
        pytest.param(GPU, 1, 400, 0.8, 0.8, id="one sequence, good drafts"),
        pytest.param(GPU, 1, 400, 0.5, 0.5, id="one sequence, fair drafts"),
        pytest.param(CPU, 4, 300, 0.8, 0.8, id="four sequences, dear tokens"),
        pytest.param(STEEP, 32, 150, 0.8, 0.8, id="32 sequences, steep curve"),
        pytest.param(GPU, 1, 400, 0.0, 0.05, id="never accepted, and says so"),
        pytest.param(GPU, 1, 400, 0.0, 0.7, id="never accepted, claims otherwise"),
        pytest.param(STEEP, 8, 300, 0.0, 0.7, id="never accepted, claims otherwise, steep curve"),
    ],
)
def test_auto_is_no_worse_than_off_or_the_best_fixed_policy(
    curve: LatencyModel, count: int, tokens: int, rate: float, claim: float
) -> None:
    def seconds(mode: str, nodes: int = 1) -> float:
        return ToldPair(curve, rate, lambda _: claim).seconds(requests(count, tokens, mode, nodes))

    auto, off = seconds("auto"), seconds("off")
    best = min([off, *(seconds("fixed", nodes) for nodes in CHAINS)])
    assert auto <= 1.015 * off
    assert auto <= 1.04 * best


def test_good_drafts_are_used_and_waited_for() -> None:
    plain = ToldPair(GPU, 0.8, lambda _: 0.8).seconds(requests(1, 400, "off"))
    assert ToldPair(GPU, 0.8, lambda _: 0.8).seconds(requests(1, 400, "auto")) < 0.7 * plain


def test_of_two_texts_only_the_one_that_pays_keeps_its_session() -> None:
    pair = ToldPair(CPU, 0.8, lambda session: 0.8 if session == "0" else 0.02)
    linked = {"0": 0, "1": 0}

    seen = [0]

    def look() -> None:
        if pair.verifier.totals.steps > seen[0]:
            seen[0] = pair.verifier.totals.steps
            for name, s in pair.verifier.sequences.items():
                linked[name] += s.draft_session is not None

    run(pair, requests(2, 600, "auto"), look)
    assert linked["0"] > 200, "to its end"
    assert linked["1"] < 200, "of 600 steps: a trial, one more when the other has ended, and probes"


def run(pair: ToldPair, wanted: list[GenerateRequest], look: Callable[[], None]) -> None:
    for r in wanted:
        pair.verifier.submit(r)
    while pair.verifier.sequences:
        pair.turn()
        look()


def test_a_crowd_closes_the_gate_and_its_end_opens_it_without_swinging() -> None:
    """64 sequences make a node dear, all but one end; messages stop but for probes, and come back."""
    pair = ToldPair(STEEP, 0.8, lambda _: 0.8)
    engine, crowd = pair.verifier, requests(64, 90, "auto")
    crowd[0] = request("0", [1] * 8, 600, seed=0)
    turns: list[tuple[float, bool, int]] = []

    def look() -> None:
        turns.append((pair.world.now, engine.session_policy.gate.open, len(engine.scheduler.running)))

    run(pair, crowd, look)
    changes = [now for (_, before, _), (now, after, _) in zip(turns, turns[1:], strict=False) if before != after]
    end = max(now for now, _, running in turns if running > 1)
    assert len(changes) == 2, "closes once, opens once"
    assert HOLD_S < changes[0] < 2.0
    assert end <= changes[1] < end + 0.5


def test_a_closed_gate_sends_nothing_but_probes() -> None:
    pair = ToldPair(STEEP, 0.8, lambda _: 0.8)
    engine = pair.verifier
    for r in requests(64, 1500, "auto"):
        engine.submit(r)
    while engine.session_policy.gate.open:
        pair.turn()
    for _ in range(20):
        pair.turn()
    steps, probing, epoch = engine.totals.steps, 0, engine.draft_sessions.events.opened
    while engine.totals.steps < steps + 1000:
        pair.turn()
        linked = [s for s in engine.sequences.values() if s.draft_session is not None]
        assert len(linked) <= 1
        probing += len(linked)
    assert engine.draft_sessions.events.opened > epoch, "a probe was made"
    assert probing <= PROBE_SHARE * 1000 + PROBE_STEPS
    assert not engine.session_policy.gate.open


def turns_until(pair: ToldPair, wanted: Callable[[], bool], steps: int) -> None:
    last = pair.verifier.totals.steps + steps
    while not wanted():
        assert pair.verifier.totals.steps < last
        pair.turn()


def test_a_probe_finds_that_the_text_of_a_parked_session_can_be_drafted_now() -> None:
    claim = [0.02]
    pair = ToldPair(GPU, 0.02, lambda _: claim[0])
    engine = pair.verifier
    engine.submit(request("0", [1] * 8, 20000))
    [s] = engine.sequences.values()
    turns_until(pair, lambda: s.parked_rate is not None and s.draft_session is None, 200)
    claim[0] = engine.verification.synthetic_rate = 0.8
    turns_until(pair, lambda: s.draft_session is not None and not s.draft_session.probe, 1000)
    accepted = engine.totals.accepted
    turns_until(pair, lambda: engine.totals.accepted > accepted + 200, 400)
    assert s.draft_session is not None, "kept"


def test_a_probe_opens_the_gate_that_poor_drafts_have_closed() -> None:
    """Poor drafts sink the best edge, a small crowd makes nodes dearer than that; good drafts would still pay."""
    claim = [0.2]
    pair = ToldPair(Curve("slow", "nodes are cheap alone, dear in a crowd", 500.0, 25.0, 0.0), 0.2, lambda _: claim[0])
    engine, gate = pair.verifier, pair.verifier.session_policy.gate
    engine.submit(request("0", [1] * 8, 20000))
    turns_until(pair, lambda: gate.best_edge < 0.25, 1000)
    for i in range(1, 8):
        engine.submit(request(str(i), [1] * 8, 20000, seed=i))
    turns_until(pair, lambda: not gate.open, 1000)
    assert all(s.draft_session is None or s.draft_session.probe for s in engine.sequences.values())
    sunk = gate.best_edge
    claim[0] = engine.verification.synthetic_rate = 0.8
    turns_until(pair, lambda: gate.open, 1000)
    assert engine.pricing.quoted_price > sunk, "not for the price: nodes are as dear as before"
    turns_until(pair, lambda: any(s.draft_session is not None and not s.draft_session.probe for s in engine.sequences.values()), 10)
    accepted = engine.totals.accepted
    turns_until(pair, lambda: engine.totals.accepted > accepted + 200, 400)
    assert gate.open


def test_a_verifier_whose_drafters_went_asks_for_one_again_in_time() -> None:
    """Controllers count on `best_edge`: nothing is offered where there is no drafter, so it has to be forgotten."""
    pair = ToldPair(SLOW, 0.2, lambda _: 0.2)
    engine = pair.verifier
    pair.seconds(requests(1, 200, "auto"))
    sunk = engine.session_policy.gate.best_edge
    assert sunk < 0.3
    engine.lose_drafter(DRAFTER)
    engine.submit(request("later", [1] * 8, 2000))
    gone = pair.world.now
    while pair.world.now < gone + FORGET_S - 2.0:
        pair.turn()
    assert engine.session_policy.gate.best_edge == sunk
    while pair.world.now < gone + FORGET_S + 2.0:
        pair.turn()
    assert engine.session_policy.gate.best_edge == FIRST_BEST_EDGE


def test_a_drafter_that_lies_for_long_loses_its_sessions() -> None:
    pair = ToldPair(GPU, 0.0, lambda _: 0.9)
    engine = pair.verifier
    run(pair, requests(8, 1500, "fixed", 4), lambda: None)
    assert engine.draft_sessions.events.banned >= 1
    assert engine.draft_sessions.records[DRAFTER].standing.banned(pair.world.now)
    assert engine.totals.steps > engine.totals.verified / 32 + 500, "without its drafter it went on plain"


def test_off_sends_nothing_and_makes_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ToldPair(GPU, 0.8, lambda _: 0.8)
    made = [0]
    init = TokenTree.__init__

    def counting(self: TokenTree, *args: object, **named: object) -> None:
        made[0] += 1
        init(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenTree, "__init__", counting)
    pair.seconds(requests(4, 50, "off"))
    totals = pair.verifier.totals
    assert totals.steps >= 50
    assert (totals.draft_messages, totals.trees, made[0]) == (0, 0, 0)
    pair.seconds([request("x", [1] * 8, 50)])
    assert totals.draft_messages > 0
    assert 0 < totals.trees <= made[0], "every tree that is counted was made"


def test_predictions_come_true_where_drafters_do_not_lie() -> None:
    pair = ToldPair(GPU, 0.8, lambda _: 0.8)
    pair.seconds(requests(2, 600, "auto"))
    totals = pair.verifier.totals
    assert totals.predicted_tokens == pytest.approx(totals.committed, rel=0.06)
    assert totals.predicted_seconds == pytest.approx(totals.run_seconds, rel=1e-6)
    assert totals.offered >= totals.verified > 0


def test_a_price_floor_is_asked_of_drafters_and_keeps_the_verifiers_own_price() -> None:
    asked: list[float] = []
    for floor in (0.0, 0.5):
        pair = ToldPair(GPU, 0.8, lambda _: 0.8)
        pair.verifier.pricing.set_price_floor(floor)
        pair.seconds(requests(1, 100, "auto"))
        asked.append(pair.verifier.totals.drafted / pair.verifier.totals.steps)
        assert pair.verifier.pricing.price < 0.1
    assert asked[1] < 0.5 * asked[0], "a higher floor, fewer nodes drafted"


def test_synthetic_usage_says_so() -> None:
    pair = ToldPair(GPU, 0.5, lambda _: 0.5)
    seen: list[SpeculationUsage] = []
    pair.verifier.submit(request("a", [1] * 8, 40))
    while pair.verifier.sequences:
        seen += [reply.usage for reply in pair.turn()]
    assert len(seen) > 10
    assert all(usage.synthetic for usage in seen)
