"""What the draft model is charged for beside a stage that costs nothing: time that another session wanted. Scripted model and clock."""

import pytest

from drafter.engine import DrafterEngine
from drafter.session import Session
from drafthouse.config.serving import DrafterConfig
from drafthouse.policy.stage_worth import TRIAL_COMMITS
from drafthouse.stages.build import MODEL
from drafthouse.wire.session_messages import Commit
from tests.engine.pairs import FAST
from tests.engine.scripted import VOCAB_SIZE, ScriptedRunner, draft_logits
from tests.engine.test_drafter_engine import WIDE, opening, run

STEP_S, PASS_S = 0.1, 0.3
BESIDE = [{"kind": "tests.engine.own_stages:Counting"}, {"kind": "model"}]


def next_token(session: Session, count: int, model_right: bool) -> int:
    """Three in four, or all, are the other stage's, which counts up; the rest are the model's alone."""
    counted = (session.tokens[-1] + 1) % VOCAB_SIZE
    if not model_right or count % 4:
        return counted
    return next(t for t in session.growing.rankings_along((0,), [])[0][MODEL].tokens if t != counted)


def after_commits(names: list[str], model_right: bool, commits: int = TRIAL_COMMITS) -> list[bool]:
    """Whether the model still works for each session."""
    now = [0.0]
    model = ScriptedRunner(draft_logits, 1000, lambda: now.__setitem__(0, now[0] + PASS_S)).as_loaded()
    engine = DrafterEngine(model, FAST, DrafterConfig.model_validate({"stages": BESIDE}), WIDE, clock=lambda: now[0])
    for name in names:
        engine.handle("v", opening(name, [1, 2, 3]))
    for count in range(commits):
        run(engine)
        now[0] += STEP_S
        for name in names:
            session = engine.sessions["v", name]
            engine.handle("v", Commit(name, 1, len(session.tokens), (next_token(session, count, model_right),), 0.0))
    return [engine.sessions["v", name].drafts for name in names]


def test_alone_it_goes_on_whatever_its_passes_take() -> None:
    assert after_commits(["a"], model_right=True) == [True]


def test_beside_another_session_it_rests_where_its_passes_cost_more_than_they_bring() -> None:
    assert after_commits(["a", "b"], model_right=True) == [False, False]


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_what_brings_nothing_rests(names: list[str]) -> None:
    assert after_commits(names, model_right=False, commits=TRIAL_COMMITS - 1) == [True] * len(names)
    assert after_commits(names, model_right=False) == [False] * len(names)
