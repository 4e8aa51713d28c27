"""Where a step's time goes, at given moments, and how far into the trees the target agreed, as metrics have them."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from drafthouse.engine.tree_rows import tree_rows
from drafthouse.stages.build import FIRST_OWN, MODEL, SOURCE_OF
from drafthouse.telemetry.metrics import DEPTHS
from drafthouse.token_tree import ROOT, TokenTree
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import Batch, Step, Walked, Walks
from verifier.step_metering import Acceptance, StepFacts, StepMeter


class Watch:
    """A meter, and the clock that it looks at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meter = StepMeter(lambda: self.now)
        self.totals = self.meter.totals

    def wait(self, now: float) -> None:
        self.now = now
        self.meter.start()
        self.meter.wait()

    def step(self, started: float, ready: float, chosen: float, run_s: float = 0.0, plan: StepPlan | None = None) -> StepFacts:
        step = Step(plan or StepPlan(), Selected(), Batch([], tree_rows([], [], []), []), expected_s=0.0)
        self.now = started
        self.meter.start()
        self.now = ready
        self.meter.ready(step)
        self.now = chosen
        self.meter.chose()
        return self.meter.finish(step, Walks([]), 0, run_s)


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_waiting_for_drafts_counts_from_the_first_look_to_the_start(watch: Watch) -> None:
    watch.wait(1.0)
    watch.wait(1.25)
    watch.step(started=1.5, ready=1.625, chosen=2.0, run_s=0.25)
    totals = watch.totals
    assert (totals.gather_seconds, totals.select_seconds, totals.choose_seconds) == (0.5, 0.125, 0.125)
    watch.step(started=3.0, ready=3.0, chosen=3.0)
    assert totals.gather_seconds == 0.5, "the second step did not wait"


def test_a_wait_that_ends_with_nothing_to_do_is_none(watch: Watch) -> None:
    watch.wait(1.0)
    watch.meter.idle()
    watch.step(started=9.0, ready=9.0, chosen=9.0)
    assert watch.totals.gather_seconds == 0.0


def test_busy_time_is_since_the_last_step_unless_there_was_nothing_to_do(watch: Watch) -> None:
    assert watch.step(started=1.0, ready=1.0, chosen=2.0).busy_s == 1.0
    facts = watch.step(started=2.5, ready=2.5, chosen=3.0)
    assert (facts.step_s, facts.busy_s, watch.totals.wait_seconds) == (0.5, 1.0, 0.5)
    watch.meter.idle()
    assert watch.step(started=9.0, ready=9.0, chosen=9.5).busy_s == 0.5
    assert (watch.totals.steps, watch.totals.step_seconds, watch.totals.wait_seconds) == (3, 2.0, 0.5)


def test_a_request_has_queued_until_its_first_step(watch: Watch) -> None:
    first: Any = SimpleNamespace(arrived=1.0)
    second: Any = SimpleNamespace(arrived=1.5)
    for started, plan in [(2.0, StepPlan(prefilling=[(first, 8)])), (3.0, StepPlan(decoding=[first], prefilling=[(second, 4)])),
                          (4.0, StepPlan(decoding=[first, second]))]:  # fmt: skip
        watch.step(started, started, started, plan=plan)
    assert list(watch.meter.queue_seconds) == [1.0, 1.5]


def _walks(*walked: tuple[TokenTree, Sequence[int]]) -> Walks:
    """Of trees, along these paths."""
    sequence: Any = None
    ends = [(path[-1] if path else ROOT) in tree.parents for tree, path in walked]
    each = [Walked(sequence, [], len(tree), len(path), more=more) for (tree, path), more in zip(walked, ends, strict=True)]
    accepted = Counter(tree.sources[node] for tree, path in walked for node in path)
    return Walks(each, Counter(source for tree, _ in walked for source in tree.sources), accepted)


def _chain(length: int) -> TokenTree:
    return TokenTree(list(range(length)), list(range(-1, length - 1)), [0.5] * length, [MODEL] * length)


def _nonzero(acceptance: Acceptance, key: str) -> dict[str, float]:
    return {name.removeprefix(key + "."): n for name, n in acceptance.totals().items() if name.startswith(key + ".") and n}


def test_depths_are_conditional_on_the_parent() -> None:
    """Two children of the root, one grandchild. One walk stops at the first child, above the grandchild; one takes the second child."""
    tree = TokenTree([5, 6, 7], [-1, -1, 0], [0.5, 0.3, 0.5], [MODEL, SOURCE_OF["lookup"], FIRST_OWN + 3])
    acceptance = Acceptance()
    acceptance.observe(_walks((tree, [0]), (tree, [1]), (tree, [0, 2]), (tree, []), (TokenTree(), [])))
    assert _nonzero(acceptance, "reached_depth") == {"1": 4, "2": 2}, "the second child has none below it"
    assert _nonzero(acceptance, "accepted_depth") == {"1": 3, "2": 1}
    assert _nonzero(acceptance, "verified_source") == {"model": 4, "lookup": 4, "own": 4}
    assert _nonzero(acceptance, "accepted_source") == {"model": 2, "lookup": 1, "own": 1}


def test_what_lies_deep_counts_together() -> None:
    acceptance = Acceptance()
    acceptance.observe(_walks((_chain(20), range(18))))
    reached, accepted = _nonzero(acceptance, "reached_depth"), _nonzero(acceptance, "accepted_depth")
    assert list(reached) == list(DEPTHS)
    assert (reached["15"], accepted["15"]) == (1, 1)
    assert (reached["16+"], accepted["16+"]) == (4, 3), "16 to 18 were accepted, and 19 was there"


def test_steps_without_trees_say_nothing() -> None:
    acceptance = Acceptance()
    acceptance.observe(_walks((TokenTree(), [])))
    assert not any(acceptance.totals().values())
