"""What a simulated verifier accepts of trees that go on growing while its device runs."""

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from drafthouse.token_tree import ROOT
from simulator.acceptance import Acceptance
from simulator.draft_session import TreeCopy
from simulator.draft_tree import DraftTree
from simulator.request import CountedKv, SlotCount
from simulator.verifier import TracedVerification
from tests.unit.synthetic_traces import always, trace
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import Step


def _grow(tree: DraftTree, nodes: int) -> None:
    """A chain along the committed text."""
    for _ in range(nodes):
        assert tree.expand(len(tree) - 1 if len(tree) else ROOT, -1, 1.0, 1, 0.0, 1, random.Random(0)) == 1


def _copy(nodes: int) -> TreeCopy:
    tree = DraftTree(Acceptance(trace(requests=1, position=always), None, random.Random(0)).text(0))
    _grow(tree, nodes)
    return TreeCopy(tree, -1, list(range(nodes)), nodes)


def test_nodes_that_arrive_during_the_run_shift_no_others() -> None:
    first, second, slots = _copy(2), _copy(3), SlotCount(100)
    decoding: list[Any] = [SimpleNamespace(kv=CountedKv(slots), draft_session=SimpleNamespace(tree=copy)) for copy in (first, second)]
    plan = StepPlan(decoding)
    selected = Selected(cast(Any, [first, second]), [0, 1], np.arange(4), [2, 2], nodes=4)
    verification = TracedVerification(None)
    step = Step(plan, selected, verification.prepare(plan, selected), 0.0)
    _grow(first.tree, 5)
    first.take(7)
    walked = verification.walk(step, np.zeros(0, dtype=np.int64)).walked
    assert [(w.verified, w.accepted, len(w.tokens)) for w in walked] == [(0, 2, 3), (0, 2, 3)]
    assert [len(s.kv) for s in decoding] == [3, 3]
