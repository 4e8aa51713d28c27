"""`drafthouse bench kinds`: its prompts, what is compared, and what is made of texts of known times."""

import json

import pytest
from rich.console import Console

from benchmarks.ablation.figures import Work
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.kinds.bench import print_kinds
from benchmarks.kinds.configurations import CONTROL, DRAFT, HIDDEN, LOOKUP, MERGED, PLAIN, Contest, engines_of, mode_of
from benchmarks.kinds.figures import ALL, Written, kinds_report
from benchmarks.kinds.prompts import PROMPTS, places
from benchmarks.kinds.served import serving_configs

KINDS = ("chat", "code", "summary", "edit", "translation", "JSON")


def contest(draft: str = "d", hidden: str = "h", merged: str = "") -> Contest:
    return Contest("t", "bfloat16", 2, draft, hidden, merged)


def test_there_are_four_prompts_of_each_kind_in_turn() -> None:
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))
    assert [prompt["kind"] for prompt in prompts] == [*KINDS] * 4
    assert len({prompt["text"] for prompt in prompts}) == 24
    assert places(["a", "b", "a"]) == {"a": [0, 2], "b": [1]}


@pytest.mark.parametrize(
    ("paths", "names", "merged"),
    [
        (("d", "h", ""), (PLAIN, DRAFT, LOOKUP, HIDDEN, CONTROL, MERGED), "h"),
        (("d", "h", "d"), (PLAIN, DRAFT, LOOKUP, HIDDEN, CONTROL, MERGED), "d"),
        (("d", "", ""), (PLAIN, DRAFT, LOOKUP, CONTROL, MERGED), "d"),
        (("", "", ""), (PLAIN, LOOKUP, CONTROL), None),
    ],
)
def test_what_is_compared_follows_from_the_drafts_there_are(paths: tuple[str, str, str], names: tuple[str, ...], merged: str) -> None:
    asked = contest(*paths)
    assert asked.names == names
    assert asked.drafts.get(MERGED) == merged
    assert {engines_of(name) for name in names} == set(asked.engines)
    assert [name for name in names if mode_of(name) == "off"] == [PLAIN, CONTROL]


def test_each_way_of_drafting_is_a_configuration_that_can_be_served() -> None:
    configs = serving_configs(contest())
    stages = {name: [(s.kind, s.placement) for s in config.drafter.stages] for name, config in configs.items()}
    model, lookup = ("model", "drafter"), ("lookup", "verifier")
    assert stages == {LOOKUP: [lookup], DRAFT: [model], HIDDEN: [model], MERGED: [model, lookup]}
    assert configs[LOOKUP].drafter.replicas == 0
    assert {config.target.path for config in configs.values()} == {"t"}
    assert len({config.server for config in configs.values()}) == 1, "all answer at one port"


def written(name: str, sampling: str, prompt: int, seconds: float, text: tuple[int, ...] | str = (1, 2, 3, 4)) -> Written:
    work = Work(steps=2, run_seconds=0.5 * seconds, wait_seconds=0.25 * seconds, passes=4, pass_seconds=0.125 * seconds, judged=4, first=3)
    return Written(Turn(name, sampling, prompt, 0, prompt), text, 4, 0.1, seconds, work)


def texts(different: str = "") -> list[Written]:
    """Two prompts, of kinds `a` and `b`; lookup takes half as long as plain on the first, and as long on the second."""
    seconds = {PLAIN: (1.0, 1.0), LOOKUP: (0.5, 1.0), CONTROL: (1.0, 1.0)}
    return [
        written(name, sampling, prompt, times[prompt], (9,) if name == different else (1, 2, 3, 4))
        for name, times in seconds.items()
        for sampling in SAMPLINGS
        for prompt in (0, 1)
    ]


def test_figures_stand_by_kind_and_in_all() -> None:
    report = kinds_report(texts(), (PLAIN, LOOKUP, CONTROL), ("a", "b", "c"), overlaps=False)
    assert list(report["kinds"]) == [ALL, "a", "b"], "of a kind that no time was left for there is nothing"
    ratios = {kind: of_kind[LOOKUP]["greedy"]["ratio_to_plain"]["value"] for kind, of_kind in report["kinds"].items()}
    assert ratios == pytest.approx({ALL: 2 / 1.5, "a": 2.0, "b": 1.0})
    lookup = report["kinds"]["a"][LOOKUP]["greedy"]
    assert (lookup["tokens_per_second"], lookup["tokens_per_step"], lookup["agreement"]) == (8.0, 2.0, 0.75)
    assert lookup["decoding_ratio_to_plain"]["value"] == pytest.approx(0.9 / 0.4)
    assert report["kept_when_sampled"] == {LOOKUP: 1.0}
    assert report["kinds"]["a"][CONTROL]["sampled"]["ratio_to_plain"]["value"] == 1.0


@pytest.mark.parametrize(("overlaps", "python", "waiting"), [(False, 0.375, 0.0), (True, 0.25, 0.25)])
def test_shares_of_time(overlaps: bool, python: float, waiting: float) -> None:
    """In one process a draft's passes lie between the verifier's steps, and are no waiting."""
    report = kinds_report(texts(), (PLAIN, LOOKUP, CONTROL), ("a", "b"), overlaps)
    assert report["kinds"][ALL][LOOKUP]["greedy"]["share_of_time"] == pytest.approx(
        {"target": 0.5, "draft": 0.125, "python": python, "waiting": waiting}
    )


def test_plain_is_not_held_against_itself_but_its_control_is() -> None:
    turns = [written(name, s, 0, {PLAIN: 1.2, LOOKUP: 1.0, CONTROL: 1.4}[name]) for name in (PLAIN, LOOKUP, CONTROL) for s in SAMPLINGS]
    found = kinds_report(turns, (PLAIN, LOOKUP, CONTROL), ("a",), overlaps=False)["below_plain"]
    assert {each["configuration"] for each in found} == {CONTROL}


def test_plain_that_was_disturbed_is_not_named() -> None:
    turns = [written(name, s, 0, {PLAIN: 1.4, LOOKUP: 1.0, CONTROL: 1.2}[name]) for name in (PLAIN, LOOKUP, CONTROL) for s in SAMPLINGS]
    assert kinds_report(turns, (PLAIN, LOOKUP, CONTROL), ("a",), overlaps=False)["below_plain"] == []


def test_what_is_slower_than_plain_on_a_kind_is_named() -> None:
    slow = [*texts(), *(written(DRAFT, sampling, prompt, 1.02 + prompt) for sampling in SAMPLINGS for prompt in (0, 1))]
    found = kinds_report(slow, (PLAIN, DRAFT, LOOKUP, CONTROL), ("a", "b"), overlaps=False)["below_plain"]
    assert {(each["configuration"], each["kind"]) for each in found} == {(DRAFT, "b")}, "0.98 of plain's speed is not below 0.97"


@pytest.mark.parametrize(("different", "said"), [("", "all 8 texts equal plain's"), (LOOKUP, "texts that differ from plain's: lookup 4")])
def test_texts_are_compared_with_plains(different: str, said: str) -> None:
    report = kinds_report(texts(different), (PLAIN, LOOKUP, CONTROL), ("a", "b"), overlaps=False)
    assert report["texts"]["all_equal"] == (not different)
    contest_settings = {"target": "t", "dtype": "float32", "threads": 1}
    report["settings"] = {"contest": contest_settings, "http": False, "prompts_run": 2, "tokens": 4}
    console = Console(record=True, width=100)
    print_kinds(console, report)
    shown = console.export_text()
    assert said in shown
