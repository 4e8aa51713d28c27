"""`drafthouse bench lm-eval`: the tasks' files, what is read of lm_eval's, and two runs side by side."""

import json
import pathlib

import pytest
import yaml
from rich.console import Console

from benchmarks.harness.http_stream import BenchError
from benchmarks.lm_eval.bench import FOLDER, TASKS, print_lm_eval, report_of
from benchmarks.lm_eval.results import compare, read_results

CHOICES = [[["-1.25", "True"], ["-3.5", "False"]], [["-2.0", "False"], ["-7.0", "False"]]]


def write(folder: pathlib.Path, score: float, choices: list, text: str) -> pathlib.Path:
    """What lm_eval writes: a file of results, and the samples of each task, in the folder of a model."""
    model = folder / "model"
    model.mkdir(parents=True)
    scores = {"a": {"alias": "a", "acc,none": score, "acc_stderr,none": 0.1}, "b": {"alias": "b", "exact_match,stripped": 0.5}}
    (model / "results_2026.json").write_text(json.dumps({"results": scores}))
    lines = [json.dumps({"doc_id": i, "resps": [[choice] for choice in item]}) for i, item in enumerate(choices)]
    (model / "samples_a_2026.jsonl").write_text("\n".join(lines))
    (model / "samples_b_2026.jsonl").write_text(json.dumps({"doc_id": 0, "resps": [[text]]}))
    return folder


def test_two_runs_are_compared_item_by_item(tmp_path: pathlib.Path) -> None:
    theirs = read_results(write(tmp_path / "theirs", 0.75, CHOICES, " Paris"))
    changed = [[["-1.25", "True"], ["-3.5", "False"]], [["-2.0", "True"], ["-7.5", "False"]]]
    ours = read_results(write(tmp_path / "ours", 0.75001, changed, "Rome"))
    assert compare(theirs, theirs).worst[0] == 0.0
    found = compare(theirs, ours)
    assert found.scores == {("a", "acc,none"): (0.75, 0.75001), ("b", "exact_match,stripped"): (0.5, 0.5)}
    assert found.equal
    assert (found.choices, found.worst, found.greedy_flags_different) == (4, (0.5, ("a", 1)), 1)
    assert (found.texts, found.texts_different) == (1, [("b", 0)])
    other = read_results(write(tmp_path / "other", 0.7, CHOICES, "Paris\n"))
    assert not compare(theirs, other).equal
    assert compare(theirs, other).texts_different == []


def test_runs_of_other_items_and_missing_files_are_told(tmp_path: pathlib.Path) -> None:
    theirs = read_results(write(tmp_path / "theirs", 0.75, CHOICES, "Paris"))
    with pytest.raises(BenchError, match="the same loglikelihoods"):
        compare(theirs, read_results(write(tmp_path / "ours", 0.75, CHOICES[:1], "Paris")))
    with pytest.raises(BenchError, match=r"0 files results_\*.json"):
        read_results(tmp_path / "nowhere")


def test_scores_stand_side_by_side(tmp_path: pathlib.Path) -> None:
    theirs = read_results(write(tmp_path / "theirs", 0.75, CHOICES, "Paris"))
    ours = read_results(write(tmp_path / "ours", 0.7, CHOICES, "Rome"))
    report = {"settings": {"target": "t", "dtype": "float32"}, "accepted": 9} | report_of(theirs, ours)
    assert not report["equal"]
    console = Console(record=True, width=140)
    print_lm_eval(console, report)
    shown = console.export_text()
    assert all(word in shown for word in ("0.7500", "0.7000", "1 texts generated: 1 differ; 9 of", "scores differ"))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_tasks_have_their_data(file: pathlib.Path) -> None:
    task = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert task["task"] in TASKS
    lines = (FOLDER / task["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    assert len(items) == len({json.dumps(item) for item in items}) == 40
    for item in items:
        assert all("{{" + key + "}}" in json.dumps(task) for key in item)
        assert "choices" not in item or 0 <= item["answer"] < len(set(item["choices"])) == 4
