"""Stages in the verifier while nodes are dear: nothing is made, and the text is known when they are cheap again."""

import pytest

from drafthouse.config.serving import StageConfig, TreeConfig
from drafthouse.stages.build import placed
from drafthouse.token_tree import TokenTree
from drafthouse.wire.generation_messages import GenerateRequest
from tests.engine.pairs import request
from verifier.local_draft import LocalDraft, LocalDrafts

DEAR, CHEAP = 0.99, 0.05
TEXT = [5, 6, 7, 8]


def draft(wanted: GenerateRequest) -> LocalDraft:
    makers = placed([StageConfig(kind="lookup", placement="verifier")], "verifier", None, 512)
    made = LocalDrafts(makers, TreeConfig(), 512, lambda: 0.0).open(wanted)
    assert made is not None
    return made


def test_where_nodes_are_dear_no_tree_is_made_and_the_text_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    local, made, init = draft(request("a", [1, 2], 50)), [0], TokenTree.__init__

    def counting(self: TokenTree, *args: object, **named: object) -> None:
        made[0] += 1
        init(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenTree, "__init__", counting)
    for i, token in enumerate([*TEXT, *TEXT, *TEXT]):
        assert local.grow(DEAR, 40) == 0
        local.commit([token], 0.005 * i)
    assert made == [0]
    assert local.grow(CHEAP, 40) > 0
    assert local.growing.tree.tokens[0] == TEXT[0], "what came next both times before"
    local.commit(TEXT[:1], 0.1)
    assert made == [1]
