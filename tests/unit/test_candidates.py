"""What a sequence has on offer: a drafter's nodes and its own stages' in one tree."""

from types import SimpleNamespace
from typing import Any

import pytest

from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import GrowthThreshold
from drafthouse.policy.latency import Curve
from drafthouse.policy.node_pricing import NodePricing
from drafthouse.speculation import Speculation
from drafthouse.stages.build import FORCED
from drafthouse.token_tree import ROOT, TokenTree
from verifier.node_selection import Candidates, candidates_of, choose_nodes

ANY = GrowthThreshold(0.0, ahead=False)


def link(tree: TokenTree, trust: float = 1.0) -> Any:
    return SimpleNamespace(tree=tree, confidences=tree.path_confidences(), depths=tree.depths(), trust=trust)


def local(*rankings: tuple[int, list[int], list[float]], source: int = 2) -> Any:
    growing = GrowingTree()
    for parent, tokens, edges in rankings:
        growing.add_children(parent, Ranking(source, tokens, [1.0] * len(tokens), edges), ANY, TreeLimits(99, 99))
    return SimpleNamespace(growing=growing)


def offered(link: Any, local: Any) -> Candidates:
    candidates = candidates_of(SimpleNamespace(draft_session=link, local=local))  # type: ignore[arg-type]
    assert candidates is not None
    return candidates


def trusted(candidates: Candidates) -> list[float]:
    return [confidence * candidates.trust for confidence in candidates.trusted]


TREE = TokenTree([5, 6, 7], [ROOT, ROOT, 0], [0.6, 0.2, 0.5], [0, 0, 0])


def test_nothing_is_on_offer_without_nodes() -> None:
    for pair in ((None, None), (link(TokenTree()), None), (None, local()), (link(TokenTree()), local())):
        assert candidates_of(SimpleNamespace(draft_session=pair[0], local=pair[1])) is None  # type: ignore[arg-type]


def test_a_drafters_tree_alone_counts_as_far_as_it_is_trusted() -> None:
    candidates = offered(link(TREE, 0.5), None)
    assert (candidates.tree, candidates.of_drafter) == (TREE, 3)
    assert candidates.promised == pytest.approx([0.6, 0.2, 0.3])
    assert trusted(candidates) == pytest.approx([0.3, 0.1, 0.15])


def test_stages_alone_promise_in_no_drafters_name() -> None:
    candidates = offered(None, local((ROOT, [5, 8], [0.5, 0.25]), (0, [9], [0.5])))
    assert candidates.of_drafter == 0
    assert candidates.promised == [0.0, 0.0, 0.0]
    assert trusted(candidates) == pytest.approx([0.5, 0.25, 0.25])


def test_both_are_one_tree_in_which_stages_get_what_the_drafter_leaves() -> None:
    tree = TokenTree(*(list(column) for column in (TREE.tokens, TREE.parents, TREE.edges, TREE.sources)))
    candidates = offered(link(tree), local((ROOT, [5, 8, 3], [0.5, 0.3, 0.1]), (0, [7, 9], [0.3, 0.6]), (1, [4], [0.5])))
    assert candidates.of_drafter == 3
    assert candidates.tree.tokens == [5, 6, 7, 8, 3, 9, 4]
    assert candidates.tree.parents == [ROOT, ROOT, 0, ROOT, ROOT, 0, 3]
    assert candidates.promised == pytest.approx([0.6, 0.2, 0.3, 0, 0, 0, 0])
    assert trusted(candidates) == pytest.approx([0.6, 0.2, 0.3, 0.2, 0.0, 0.3, 0.1])
    assert candidates.depths == [1, 1, 2, 1, 1, 2, 2]
    assert len(tree) == 3, "the drafter's own copy stays as it numbered it"
    assert tree.edges == [0.6, 0.2, 0.5]


def test_what_a_grammar_forces_is_certain_whatever_a_drafter_has_there() -> None:
    tree = TokenTree(*(list(column) for column in (TREE.tokens, TREE.parents, TREE.edges, TREE.sources)))
    known = offered(link(tree, 0.5), local((ROOT, [6], [1.0]), (0, [8], [1.0]), source=FORCED))
    assert known.tree.tokens == [5, 6, 7, 8]
    assert trusted(known) == pytest.approx([0.0, 1.0, 0.0, 1.0])
    below = offered(link(tree, 0.5), local((ROOT, [5], [1.0]), source=FORCED))
    assert trusted(below) == pytest.approx([1.0, 0.0, 0.15]), "what hangs below stays"


def test_nodes_compete_by_what_their_tokens_are_worth() -> None:
    def sequence(edge: float, worth: float) -> Any:
        request = SimpleNamespace(speculation=Speculation())
        own = link(TokenTree([5], [ROOT], [edge], [0]))
        return SimpleNamespace(draft_session=own, local=None, max_draft_depth=9, worth=worth, request=request)

    def verified(*worths: float) -> list[int]:
        plan: Any = SimpleNamespace(decoding=[sequence(0.6, worths[0]), sequence(0.4, worths[1])], prompt_tokens=0, kv_tokens=0)
        pricing = NodePricing(Curve("", "", 10.0, 1.0, 0.0))
        pricing.quote(2, 0, 0)
        pricing.weigh(worths)
        return choose_nodes(plan, pricing, lambda _: 0, 1).counts

    assert verified(1.0, 1.0) == [1, 0]
    assert verified(1.0, 3.0) == [0, 1]
    assert verified(5.0, 5.0) == [1, 0]
