"""Stages in the configuration: what fits together, what is refused, and what is named."""

import pathlib
import re

import numpy as np
import pytest
from pydantic import ValidationError

from drafthouse.config.serving import DrafterConfig, ModelConfig, ServingConfig, StageConfig
from drafthouse.errors import ConfigError
from drafthouse.policy.stage_worth import FIRST_REST_COMMITS, TRIAL_COMMITS, CommitRate, StageWorth
from drafthouse.stages.build import FIRST_OWN, SOURCE_OF, check_stages, inner_of, placed
from drafthouse.stages.trigram_table import counted, packed

OWN = "tests.engine.own_stages:"


def config(text: dict[str, object]) -> ServingConfig:
    return ServingConfig.model_validate(text)


def test_by_default_the_draft_model_drafts_and_the_verifier_looks_up() -> None:
    assert [(stage.kind, stage.placement) for stage in config({}).drafter.stages] == [("model", "drafter"), ("lookup", "verifier")]


@pytest.mark.parametrize(
    ("drafter", "stages", "replicas"),
    [
        ({}, ["lookup"], 0),
        ({"max_sessions": 3}, ["lookup"], 0),
        ({"stages": [{"kind": "suffix", "placement": "verifier"}]}, ["suffix"], 0),
        ({"stages": [{"kind": "suffix"}]}, ["suffix"], 1),
        ({"stages": [{"kind": "suffix"}], "replicas": 2}, ["suffix"], 2),
        ({"replicas": 0}, ["lookup"], 0),
    ],
)
def test_draft_null_is_enough(drafter: dict[str, object], stages: list[str], replicas: int) -> None:
    written = config({"draft": None, "drafter": drafter}).drafter
    assert ([stage.kind for stage in written.stages], written.replicas) == (stages, replicas)
    made = ServingConfig(draft=None, drafter=DrafterConfig.model_validate(drafter)).drafter if "stages" in drafter else written
    assert made == written


@pytest.mark.parametrize(
    ("drafter", "draft", "named"),
    [
        ({"stages": []}, {}, "drafter.stages"),
        ({"stages": [{"kind": "ngram"}]}, {"draft": None}, "drafter.stages.0.kind"),
        ({"stages": [{"kind": "model", "inner": {"kind": "model"}}]}, {}, "inner"),
        ({"stages": [{"kind": "lookup", "inner": {"kind": "suffix"}}]}, {"draft": None}, "inner"),
        ({"stages": [{"kind": "model", "inner": {"kind": "lookup", "placement": "verifier"}}]}, {}, "inner"),
        ({"stages": [{"kind": "model", "placement": "verifier"}]}, {}, "placement"),
        ({"stages": [{"kind": "lookup", "table": "x"}]}, {"draft": None}, "table"),
        ({"stages": [{"kind": "lookup", "traffic_tokens": 9}]}, {"draft": None}, "traffic_tokens"),
        ({"stages": [{"kind": "lookup"}, {"kind": "lookup"}]}, {"draft": None}, "two of them"),
        ({"stages": [{"kind": "lookup"}]}, {}, "go together"),
        ({"stages": [{"kind": "model"}]}, {"draft": None}, "go together"),
        ({"stages": [{"kind": "lookup", "placement": "verifier"}], "replicas": 1}, {"draft": None}, "drafter.replicas"),
        ({"stages": 7}, {"draft": None}, "drafter.stages"),
        ({"window": {"sinks": 4}}, {}, "drafter.window.recent"),
    ],
)
def test_what_does_not_fit_is_named(drafter: dict[str, object], draft: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named.replace(".", r"\.")):
        config({"drafter": drafter} | draft)


def test_no_drafter_is_needed_where_all_stages_are_in_the_verifier() -> None:
    got = config({"drafter": {"replicas": 0, "stages": [{"kind": "lookup", "placement": "verifier"}]}, "draft": None})
    assert [maker.name for maker in placed(got.drafter.stages, "verifier", None, 50)] == ["lookup"]
    assert placed(got.drafter.stages, "drafter", None, 50) == []


def test_the_numbers_of_kinds_stay_since_stored_calibrations_have_them() -> None:
    assert {kind: SOURCE_OF[kind] for kind in ("model", "trigram", "lookup", "suffix")} == {
        "model": 0,
        "trigram": 1,
        "lookup": 2,
        "suffix": 3,
    }


def test_sources_tell_stages_apart(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "t.npz"
    table.write_bytes(packed(counted(np.array([[1, 2, 3]]), 1)))
    stages = [
        StageConfig(kind=OWN + "Crashing"),
        StageConfig(kind="model", inner=StageConfig(kind=OWN + "Counting")),
        StageConfig(kind="trigram", table=table, nodes=5),
        StageConfig(kind="lookup", placement="verifier"),
    ]
    assert [(m.source, m.nodes) for m in placed(stages, "drafter", None, 50)] == [(FIRST_OWN, 16), (SOURCE_OF["trigram"], 5)]
    assert [m.source for m in placed(stages, "verifier", None, 50)] == [SOURCE_OF["lookup"]]
    inner = inner_of(stages, None, 50)
    assert inner is not None
    assert inner.source == FIRST_OWN + 1


@pytest.mark.parametrize(
    ("stage", "draft", "named"),
    [
        (StageConfig(kind="trigram"), None, r"drafter\.stages\.0\.table: there is no draft model"),
        (StageConfig(kind="trigram", table=pathlib.Path("nowhere.npz")), None, r"drafter\.stages\.0\.table: nowhere\.npz: no such file"),
        (StageConfig(kind="no.such.module:Stage"), None, r"drafter\.stages\.0\.kind: no\.such\.module:Stage"),
        (StageConfig(kind=OWN + "Absent"), None, r"drafter\.stages\.0\.kind: .*Absent"),
        (StageConfig(kind="pathlib:Path"), None, r"drafter\.stages\.0\.kind: pathlib:Path: not a subclass"),
        (
            StageConfig(kind="model", inner=StageConfig(kind="trigram", table=pathlib.Path("nowhere.npz"))),
            ModelConfig(path="demo:draft"),
            r"drafter\.stages\.0\.inner\.table",
        ),
    ],
)
def test_before_anything_is_deployed_files_and_classes_are_looked_for(stage: StageConfig, draft: ModelConfig | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_stages([stage], draft, 50)


@pytest.mark.parametrize("stage", ["trigram", "inner", "verifier"])
def test_a_table_of_another_models_vocabulary_is_named_before_anything_is_deployed(tmp_path: pathlib.Path, stage: str) -> None:
    (tmp_path / "t.npz").write_bytes(packed(counted(np.array([[1, 2, 70]]), 1)))
    table = StageConfig(kind="trigram", table=tmp_path / "t.npz", placement="verifier" if stage == "verifier" else "drafter")
    stages = [StageConfig(kind="lookup"), StageConfig(kind="model", inner=table) if stage == "inner" else table]
    key = "drafter.stages.1.inner.table" if stage == "inner" else "drafter.stages.1.table"
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: .*t\.npz: holds token 70, outside the vocabulary of 50"):
        check_stages(stages, ModelConfig(path="demo:draft"), 50)
    check_stages(stages, ModelConfig(path="demo:draft"), 71)


def commits(worth: StageWorth, count: int, gain: float, seconds: float) -> int:
    """How many of the commits it works for; 10 tokens a second."""
    worked = 0
    for _ in range(count):
        worked += worth.working
        worth.observe(gain, seconds, 10.0)
    return worked


def test_a_stage_that_pays_works_on() -> None:
    assert commits(StageWorth(), 500, gain=0.2, seconds=0.01) == 500


def test_a_stage_that_does_not_pay_rests_ever_longer_and_is_tried_again() -> None:
    worth = StageWorth()
    assert commits(worth, TRIAL_COMMITS + FIRST_REST_COMMITS, gain=0.2, seconds=0.1) == TRIAL_COMMITS
    assert commits(worth, TRIAL_COMMITS, gain=0.2, seconds=0.1) == TRIAL_COMMITS
    assert commits(worth, 2 * FIRST_REST_COMMITS, gain=0.2, seconds=0.1) == 0
    assert commits(worth, 300, gain=0.2, seconds=0.001) == 300, "it pays now"


def test_a_stage_that_brings_nothing_rests_though_it_costs_nothing() -> None:
    assert commits(StageWorth(), 40, gain=0.0, seconds=0.0) == TRIAL_COMMITS


def test_the_rate_is_of_late() -> None:
    rate = CommitRate()
    assert rate.tokens_per_second == 0.0
    rate.observe(3, 0.5)
    assert rate.tokens_per_second == pytest.approx(6.0)
    for _ in range(2000):
        rate.observe(2, 1.0)
    assert rate.tokens_per_second == pytest.approx(2.0)
