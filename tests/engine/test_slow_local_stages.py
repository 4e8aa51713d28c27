"""Stages in the verifier that take their time: a step waits for few of them."""

from collections import Counter
from collections.abc import Sequence

from drafthouse.config.serving import TreeConfig
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import Children
from tests.engine.driven_verifier import Setting
from tests.engine.own_stages import Counting
from tests.engine.pairs import request
from tests.engine.scripted import VOCAB_SIZE
from verifier.local_draft import STEP_S, LocalDrafts

CALL_S = 0.4 * STEP_S


def test_a_step_waits_no_longer_than_for_one_sequence_over_its_limit() -> None:
    it, asked = Setting(), Counter[int]()

    class Slow(Counting):
        def children(self, path: Sequence[int], width: int) -> Children:
            asked[self.facts.seed] += 1
            it.now += CALL_S
            return super().children(path, width)

    it.engine.local = LocalDrafts([StageMaker("slow", 16, 1, Slow)], TreeConfig(), VOCAB_SIZE, lambda: it.now)
    for i in range(4):
        it.submit(request(f"{i}", [1, 2, 3], 8, seed=i))
    it.step()  # the prompts
    assert not asked
    before = it.now
    it.step()
    assert sum(asked.values()) == 3, "the third has begun within the limit"
    assert it.now - before < STEP_S + CALL_S + 0.01
    assert len(it.finish()) == 4
