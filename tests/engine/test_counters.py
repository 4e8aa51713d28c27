"""What engines count for metrics, against what was seen of the requests."""

from dataclasses import asdict

import pytest

from drafthouse.config.serving import DrafterConfig
from drafthouse.stages.build import SOURCE_OF
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.session_messages import Commit
from simulator.one_process import OneProcess
from tests.engine.pairs import GREEDY, loaded, noisy_copy, pair, prompts, request
from tests.engine.scripted import VOCAB_SIZE
from tests.engine.test_drafter_engine import opening, scripted
from tests.engine.tiny_models import tiny

REQUESTS, OUTPUT = 4, 40


@pytest.fixture(scope="module")
def served() -> tuple[OneProcess, int]:
    """A pair that has served, its draft model beside a lookup stage; and the number of output tokens."""
    drafter = DrafterConfig.model_validate({"stages": [{"kind": "model"}, {"kind": "lookup"}]})
    both = pair(loaded(tiny("llama")), [loaded(noisy_copy("llama", 0, 0.02))], drafter=drafter)
    outputs = both.generate(request(str(i), p * 3, OUTPUT) for i, p in enumerate(prompts(REQUESTS, longest=12)))
    return both, sum(map(len, outputs.values()))


def test_acceptance_by_depth_and_by_source_adds_up(served: tuple[OneProcess, int]) -> None:
    both, tokens = served
    totals, found = both.verifier.totals, both.verifier.meter.acceptance.totals()

    def of(key: str) -> list[float]:
        return [number for name, number in found.items() if name.startswith(key + ".")]

    assert totals.committed == tokens
    assert sum(of("accepted_depth")) == sum(of("accepted_source")) == totals.accepted > 10
    assert sum(of("verified_source")) == totals.verified >= totals.accepted
    reached, accepted = of("reached_depth"), of("accepted_depth")
    assert all(a <= r for a, r in zip(accepted, reached, strict=True))
    assert all(r <= a for a, r in zip(accepted[:14], reached[1:15], strict=True)), "a depth is reached through an accepted node above it"
    assert found["accepted_source.model"] > 0


def test_a_steps_time_is_select_run_and_choose(served: tuple[OneProcess, int]) -> None:
    totals = asdict(served[0].verifier.totals)
    parts = [totals[f"{part}_seconds"] for part in ("select", "run", "choose")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(totals["step_seconds"])
    assert 0 <= totals["gather_seconds"] <= totals["wait_seconds"]


def test_each_request_queues_once(served: tuple[OneProcess, int]) -> None:
    seconds = served[0].verifier.meter.queue_seconds
    assert len(seconds) == REQUESTS
    assert min(seconds) > 0


def test_the_drafter_counts_commits_and_sources(served: tuple[OneProcess, int]) -> None:
    both, _ = served
    (drafter,) = both.drafters.values()
    assert 0 < drafter.totals.commits <= both.verifier.totals.steps * REQUESTS
    assert set(drafter.stage_totals.by_source) == {SOURCE_OF["lookup"]}
    assert drafter.stage_totals.by_source[SOURCE_OF["lookup"]] == drafter.stage_totals.stage_nodes
    assert drafter.totals.drafted > 0


def test_a_commit_that_leaves_a_part_of_the_tree_was_drafted_ahead() -> None:
    engine = scripted()
    tokens = [1, 2, 3]
    engine.handle("v", opening("s", tokens, GREEDY))
    session = engine.sessions["v", "s"]
    while not any(parent != ROOT for parent in session.tree.parents):
        engine.run_pass()
    parent = next(parent for parent in session.tree.parents if parent != ROOT)
    engine.handle("v", Commit("s", 1, len(session.tokens), tuple(session.tree.path(parent)), 0.0))
    assert (engine.totals.commits, engine.totals.predrafted) == (1, 1)
    engine.handle("v", Commit("s", 1, len(session.tokens), (_unknown(session.tree),), 0.0))
    assert (engine.totals.commits, engine.totals.predrafted) == (2, 1)


def _unknown(tree: TokenTree) -> int:
    """A token that is no child of the root."""
    return next(token for token in range(VOCAB_SIZE) if token not in [tree.tokens[i] for i in tree.children(ROOT)])
