"""The ablation's data, prompts, figures, schedule and table, from samples of known rates."""

import io
import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.ablation import schedule as schedules
from benchmarks.ablation.configurations import (
    CONFIGURATIONS,
    CONTROL,
    PLAIN,
    QUICK,
    TREE,
    by_default,
    chosen,
    groups,
    laid_over,
    pool_of,
    pools,
)
from benchmarks.ablation.display import plot_ablation, print_ablation
from benchmarks.ablation.figures import Generation, Work, ablation_report
from benchmarks.ablation.schedule import Schedule
from benchmarks.ablation.workloads import edited, headers, prompts
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.samples import Sample
from drafthouse.errors import ConfigError

SILENT = Console(file=io.StringIO())


def test_every_configuration_is_one_that_can_be_served() -> None:
    for name in pools(CONFIGURATIONS):
        config = laid_over({"drafter": {"prefill_tokens": 32}}, name)
        assert config.drafter.prefill_tokens == 32, "what a configuration does not name stays"
        assert config.tree.grow_during_verification == (CONFIGURATIONS[name].overlaps or name == "merged")
        kinds = [stage.kind for stage in config.drafter.stages]
        assert kinds == {"merged": ["model", "lookup", "suffix"], "lookup": ["lookup"], "suffix": ["suffix"]}.get(name, ["model"])
        assert all(stage.placement == "drafter" for stage in config.drafter.stages)
        assert ([stage.inner is not None for stage in config.drafter.stages] == [True]) == name.startswith("staged")


def test_what_shares_pools_shares_those_of_a_configuration_with_its_own() -> None:
    for name in CONFIGURATIONS:
        assert pool_of(name) in pools(CONFIGURATIONS)
    assert pool_of(CONTROL) == pool_of(PLAIN) == TREE


def test_plain_tree_and_control_are_always_among_those_chosen() -> None:
    assert chosen([" lookup", "suffix "], overlap=True) == (PLAIN, TREE, "lookup", CONTROL, "suffix")


def test_what_cannot_be_chosen_names_the_option() -> None:
    with pytest.raises(ConfigError, match="--configurations: no 'lookupp'"):
        chosen(["lookupp"], overlap=True)
    with pytest.raises(ConfigError, match="--configurations: staged-ahead .*--device cpu"):
        chosen(["staged-ahead"], overlap=False)


def test_defaults_by_setting() -> None:
    assert by_default(overlap=True, long=False, quick=True) == tuple(n for n in CONFIGURATIONS if n in QUICK)
    assert not {"tree-ahead", "staged-ahead", "window-64"} & set(by_default(overlap=False, long=False, quick=False))
    assert by_default(overlap=True, long=True, quick=False) == (PLAIN, TREE, CONTROL, "window-64", "window-256")


@pytest.mark.parametrize("others", [1, 2, 3, 9])
def test_groups_hold_each_configuration_once_and_what_all_are_compared_with(others: int) -> None:
    names = by_default(overlap=True, long=False, quick=False)
    found = groups(names, others)
    for group in found:
        assert {PLAIN, TREE, CONTROL} <= set(group)
        assert len(pools(group)) <= others + 1
    rest = [name for group in found for name in group if pool_of(name) != TREE]
    assert sorted(rest) == sorted(set(names) - {PLAIN, TREE, CONTROL})
    assert groups([PLAIN, TREE, CONTROL], others) == [[PLAIN, TREE, CONTROL]]


def test_pools_of_their_own_stand_between_requests_to_shared_ones() -> None:
    [group] = groups(chosen(["chain", "staged", "lookup"], overlap=True), 3)
    assert [pool_of(name) == TREE for name in group] == [True, False] * 3


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def test_an_edited_file_comes_whole_and_begins_again() -> None:
    [header] = headers(["x" * 10 + "y" * 64], encode)
    assert header == encode("y" * 64)
    file = list(range(200, 300))
    assert edited(header, file, encode) == header + file + encode("\n\n") + file[:64]


def test_long_prompts_end_with_their_own_text() -> None:
    ids = prompts("long", ["aaa", "bbb", "ccc"], encode, prompt_tokens=1, long_tokens=12)
    last = ["".join(map(chr, each)) for each in ids]
    assert last == ["\n\nccc\n\naaa\n\n", "\n\naaa\n\nbbb\n\n", "\n\nbbb\n\nccc\n\n"]
    with pytest.raises(ConfigError, match="--workload long: .* 15 tokens together, 16 are needed"):
        prompts("long", ["aaa", "bbb", "ccc"], encode, prompt_tokens=None, long_tokens=16)


def test_prompts_of_code_are_cut_to_their_end() -> None:
    assert prompts("code", ["abc"], encode, prompt_tokens=2, long_tokens=0) == [encode("bc")]
    assert prompts("code", ["abc"], encode, prompt_tokens=None, long_tokens=0) == [encode("abc")]


SPEEDS = {PLAIN: 10.0, TREE: 20.0, CONTROL: 22.0, "lookup": 15.0}


def generations() -> list[Generation]:
    """Sampling keeps nine tenths of each speed but plain's; the drafter works 1 s of each text, of which the verifier waits 0.25."""
    found = []
    for prompt in range(3):
        for sampling in SAMPLINGS:
            for name, speed in SPEEDS.items():
                rate = speed if sampling == "greedy" or name == PLAIN else 0.9 * speed
                work = Work(
                    committed=41.0, steps=20.0, verified=80.0, wait_seconds=0.25, passes=30.0, pass_seconds=1.0, judged=40.0, first=24.0
                )
                idle = Work(committed=41.0, steps=40.0)
                sample = Sample(name, sampling, prompt, 40, 40 / rate, 16)
                found.append(Generation(sample, 40 / rate + 1.0, idle if name == PLAIN else work))
    return found


def test_figures_of_each_configuration() -> None:
    report = ablation_report([generations()], list(SPEEDS))
    figures = report["figures"]
    assert set(figures) == set(SPEEDS), "configurations alone"
    tree = figures[TREE]["greedy"]
    assert tree["tokens_per_second"] == pytest.approx(20.0)
    assert tree["ratio_to_plain"] == pytest.approx({"value": 2.0, "low": 2.0, "high": 2.0, "median_of_prompts": 2.0})
    assert tree["tokens_per_step"] == pytest.approx(40 / 16)
    assert tree["nodes_per_step"] == pytest.approx(4.0)
    assert tree["draft_share_of_time"] == pytest.approx(1.0 / 3.0)
    assert tree["wait_share_of_time"] == pytest.approx(0.25 / 3.0)
    assert tree["draft_time_hidden"] == pytest.approx(0.75)
    assert tree["draft_passes_per_token"] == pytest.approx(30 / 41)
    assert tree["first_choice_right"] == pytest.approx(0.6)
    assert figures[PLAIN]["greedy"]["first_choice_right"] is None
    assert tree["ms_per_draft_pass"] == pytest.approx(1e3 / 30)
    assert figures[PLAIN]["greedy"]["draft_time_hidden"] is None
    assert report["control"]["sampled"]["value"] == pytest.approx(1.1)
    assert figures[TREE]["sampled"]["kept"] == pytest.approx(0.9)


def test_a_configuration_is_compared_with_plain_of_its_own_group() -> None:
    slow = [Generation(replace(g.sample, seconds=2 * g.sample.seconds), g.seconds, g.work) for g in generations()]
    fast_group = [g for g in generations() if g.sample.contestant != "lookup"]
    figures = ablation_report([fast_group, [g for g in slow if g.sample.contestant in (PLAIN, "lookup")]], list(SPEEDS))["figures"]
    assert figures["lookup"]["greedy"]["ratio_to_plain"]["value"] == pytest.approx(1.5)
    assert figures[TREE]["greedy"]["ratio_to_plain"]["value"] == pytest.approx(2.0)
    assert figures[PLAIN]["greedy"]["tokens_per_second"] == pytest.approx(2 / (1 / 10 + 1 / 5)), "of both groups together"


def test_a_text_that_ended_at_once_has_no_rate() -> None:
    empty = [Generation(Sample(name, s, 7, 0, 0.0, 0), 0.1, Work()) for name in SPEEDS for s in SAMPLINGS]
    with_it, without = (ablation_report([each], list(SPEEDS))["figures"] for each in (generations() + empty, generations()))
    assert with_it[TREE]["greedy"]["ratio_to_plain"] == without[TREE]["greedy"]["ratio_to_plain"]
    json.dumps(with_it, allow_nan=False)


def test_a_deadline_stops_between_prompts_but_not_before_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(schedules.time, "monotonic", lambda: now)
    schedule = Schedule(["a", "b"], prompts=9, rounds=1, deadline=18.0)
    seen = []
    for turn in schedule.turns(SILENT):
        seen.append(turn)
        now += 1.0  # four turns a prompt: the fifth would end at 20
    assert schedule.prompts_run == 4
    assert [t.prompt for t in seen] == [p for p in range(4) for _ in range(4)]
    late = Schedule(["a", "b"], prompts=9, rounds=1, deadline=0.0)
    assert len({t.prompt for t in late.turns(SILENT)}) == schedules.LEAST


def test_without_a_deadline_all_is_run() -> None:
    schedule = Schedule(["a", "b"], prompts=3, rounds=2)
    assert len(list(schedule.turns(SILENT))) == 3 * 2 * 2 * len(SAMPLINGS)
    assert schedule.prompts_run == 6


def report(void: bool = False) -> dict[str, Any]:
    found = ablation_report([generations()], list(SPEEDS))
    settings = {"paced": True, "target_curve": "big", "draft_curve": "small", "time_scale": 3.0, "workload": "code"}
    settings |= {"prompts_run": 3, "tokens": 40}
    return {**found, "overruns": {"verifier": 0.02, "drafter": 0.0}, "void": void, "settings": settings}


def test_long_prompts_show_what_the_draft_loses_and_costs() -> None:
    found, out = report(), io.StringIO()
    print_ablation(Console(file=out, width=80), found)
    assert "a pass" not in out.getvalue()
    found["settings"]["workload"] = "long"
    for sampling in SAMPLINGS:
        found["figures"]["lookup"][sampling] |= {"first_choice_right": 0.57}
    print_ablation(Console(file=out, width=80), found)
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["lookup", "0.570", "0.95", "33.33", "0.570", "0.95", "33.33"] in rows
    assert ["tree", "0.600", "1.00", "33.33", "0.600", "1.00", "33.33"] in rows
    assert not any(row[:1] == [PLAIN] and len(row) == 7 for row in rows), "without a draft there is nothing to say"


@pytest.mark.parametrize("void", [True, False])
def test_table_and_plot(tmp_path: pathlib.Path, void: bool) -> None:
    out = io.StringIO()
    print_ablation(Console(file=out, width=80), report(void))
    text = out.getvalue()
    assert "lookup" in text
    assert "1.80" in text  # tree, sampled
    assert "verifier 2.00%" in text
    assert ("void" in text) == void
    assert "…" not in text, "80 columns hold the table"
    assert plot_ablation(report(), tmp_path).read_bytes().startswith(b"\x89PNG")
