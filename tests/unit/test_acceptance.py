"""Acceptance by depth and by source, as metrics have them."""

from types import SimpleNamespace

from drafthouse.stages.build import FIRST_OWN, LOOKUP, MODEL
from drafthouse.telemetry.metrics import DEPTHS
from drafthouse.token_tree import TokenTree
from verifier.acceptance import Acceptance
from verifier.step import Walked


def _walked(name: str, path: list[int]) -> Walked:
    return Walked(SimpleNamespace(id=name), [0] * (len(path) + 1), 0, path)


def _chain(length: int) -> TokenTree:
    return TokenTree(list(range(length)), list(range(-1, length - 1)), [0.5] * length, [MODEL] * length)


def _nonzero(acceptance: Acceptance, key: str) -> dict[str, float]:
    return {name.removeprefix(key + "."): n for name, n in acceptance.totals().items() if name.startswith(key + ".") and n}


def test_depths_are_conditional_on_the_parent():
    """Two children of the root, one grandchild. One walk stops at the first child, above the grandchild; one takes the second child."""
    tree = TokenTree([5, 6, 7], [-1, -1, 0], [0.5, 0.3, 0.5], [MODEL, LOOKUP, FIRST_OWN + 3])
    acceptance = Acceptance()
    acceptance.observe([_walked("a", [0]), _walked("b", [1]), _walked("c", [0, 2]), _walked("d", []), _walked("plain", [])],
                       dict.fromkeys("abcd", tree))  # fmt: skip
    assert _nonzero(acceptance, "reached_depth") == {"1": 4, "2": 2}, "the second child has none below it"
    assert _nonzero(acceptance, "accepted_depth") == {"1": 3, "2": 1}
    assert _nonzero(acceptance, "verified_source") == {"model": 4, "lookup": 4, "own": 4}
    assert _nonzero(acceptance, "accepted_source") == {"model": 2, "lookup": 1, "own": 1}


def test_what_lies_deep_counts_together():
    acceptance = Acceptance()
    acceptance.observe([_walked("a", list(range(18)))], {"a": _chain(20)})
    reached, accepted = _nonzero(acceptance, "reached_depth"), _nonzero(acceptance, "accepted_depth")
    assert list(reached) == list(DEPTHS)
    assert (reached["15"], accepted["15"]) == (1, 1)
    assert (reached["16+"], accepted["16+"]) == (4, 3), "16 to 18 were accepted, and 19 was there"


def test_steps_without_trees_cost_nothing_and_say_nothing():
    acceptance = Acceptance()
    acceptance.observe([_walked("a", [])], {})
    assert not any(acceptance.totals().values())
