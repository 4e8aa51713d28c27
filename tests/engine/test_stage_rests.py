"""Stages and a draft model that bring nothing rest and come back, and the text is the target's all the while: float64, zero tolerance."""

import pathlib
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from drafter.session import Session
from drafthouse.choose import Rows, rank
from drafthouse.config.serving import DrafterConfig, TreeConfig
from drafthouse.sampling import SamplingParams
from drafthouse.stages.build import MODEL
from drafthouse.stages.trigram_table import counted, packed
from drafthouse.token_tree import ROOT
from drafthouse.wire.generation_messages import GenerateReply
from tests.engine.oracle import next_logits, sampled
from tests.engine.overlapped import Overlapped
from tests.engine.pairs import FLAT, GREEDY, loaded, noisy_copy, prompts, request
from tests.engine.tiny_models import tiny

KINDS = {"greedy": GREEDY, "sampled": SamplingParams(temperature=0.8, top_k=50)}
OUTPUT = 300
"""Two drafted tokens and one of the target's own a commit: enough for a trial, a rest and a second trial of either stage."""
TREE = TreeConfig(max_nodes=24, max_depth=2, width=4)
CHUNK = 16
PROMPT = prompts(1, shortest=20, longest=20)[0]


class Diary(Overlapped):
    """`states` of each session after each turn: whether the model drafts, how many stages beside it do, and tokens that the model
    has missed; `ranked`, once it has caught up, the committed tokens and what it put below them."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.states: defaultdict[str, list[tuple[bool, int, int]]] = defaultdict(list)
        self.ranked: dict[str, tuple[list[int], list[int]]] = {}

    def turn(self) -> list[GenerateReply]:
        replies = super().turn()
        for session in self.drafter.sessions.values():
            self._note(session)
        return replies

    def _note(self, session: Session) -> None:
        states = self.states[session.id]
        states.append((session.drafts, len(session.stages.working), session.missing))
        assert session.cached == len(session.tokens) or ROOT not in session.growing.rankings or not self._of_model(session)
        if session.drafts and any(not drafts for drafts, _, _ in states) and (ranked := self._of_model(session)):
            self.ranked.setdefault(session.id, (list(session.tokens), ranked))

    @staticmethod
    def _of_model(session: Session) -> list[int]:
        ranking = session.growing.rankings.get(ROOT, {}).get(MODEL)
        return list(ranking.tokens) if ranking is not None else []


@pytest.fixture(scope="module")
def truths() -> dict[str, list[int]]:
    oracle = tiny("llama")
    return {name: sampled(oracle, PROMPT, sampling, 3, OUTPUT) for name, sampling in KINDS.items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, truths: dict[str, list[int]]) -> str:
    """Of the texts that are to come, prompt included: nobody else brings anything."""
    path: pathlib.Path = tmp_path_factory.mktemp("trigram") / "trigram.npz"
    path.write_bytes(packed(counted(np.array([[*PROMPT, *text] for text in truths.values()]), 1)))
    return str(path)


@pytest.mark.parametrize("window", [None, {"sinks": 2, "recent": 16}], ids=["whole", "window"])
def test_what_brings_nothing_rests_and_comes_back(truths: dict[str, list[int]], table: str, window: dict[str, int] | None) -> None:
    stages = [{"kind": "trigram", "table": table}, {"kind": "tests.engine.own_stages:Counting"}, {"kind": "model"}]
    config = DrafterConfig.model_validate({"stages": stages, "window": window, "prefill_tokens": CHUNK})
    pair = Diary(loaded(tiny("llama")), loaded(noisy_copy("llama", 0, 5.0)), config, TREE, FLAT)
    assert pair.generate(request(name, PROMPT, OUTPUT, sampling, 3) for name, sampling in KINDS.items()) == truths
    for name, sampling in KINDS.items():
        states = pair.states[name]
        drafts = [drafts for drafts, _, _ in states]
        rest = drafts.index(False)
        back = drafts.index(True, rest)
        missing = [missing for _, _, missing in states[back:]]
        assert missing[0] > 3 * CHUNK, "it has several chunks to catch up with"
        assert 0 in missing
        working = [working for _, working, _ in states]
        assert 2 in working[working.index(1) :], "the stage beside it came back too"
        tokens, ranked = pair.ranked[name]
        if window is None:
            [wanted], _ = rank(next_logits(noisy_copy("llama", 0, 5.0), tokens), [Rows(sampling, 3, [len(tokens)])], TREE.width)
            assert ranked == wanted
    assert pair.drafter.stage_totals.stage_rests >= len(KINDS)
    assert pair.drafter.cache.allocator.free_count == pair.drafter.cache.allocator.count
