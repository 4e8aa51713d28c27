"""What a drafter learns from commits, and what it leaves in the acceptance trace."""

import json
import pathlib
from typing import Any

import pytest

from drafter.calibration_store import CalibrationStore
from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, TreeConfig
from drafthouse.errors import ConfigError
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.calibration import ANY_MARGIN
from drafthouse.sampling import SamplingParams
from drafthouse.wire.session_messages import Close, Commit, Open
from simulator.trace import RecordedRequest, read, write_joined
from tests.engine.pairs import FAST, GREEDY, loaded, noisy_copy, pair, prompts, request
from tests.engine.scripted import VOCAB_SIZE, ScriptedRunner, draft_logits
from tests.engine.tiny_models import tiny

TREE = TreeConfig(max_nodes=60, max_depth=3, width=3)


def scripted(trace: pathlib.Path | None = None, calibrations: CalibrationStore | None = None, tree: TreeConfig = TREE) -> DrafterEngine:
    model = ScriptedRunner(draft_logits, 1000, lambda: None).as_loaded()
    return DrafterEngine(model, FAST, DrafterConfig(trace=trace), tree, calibrations=calibrations)


def open_and_grow(engine: DrafterEngine, min_confidence: float = 0.0, passes: int = 99) -> list[list[int]]:
    """Returns the tokens ranked below the root, below the first child, and below the first child of that."""
    engine.handle("v", Open("s", 1, (1, 2, 3), GREEDY, 5, NOISE_VERSION, "target", 60, 3, min_confidence, VOCAB_SIZE))
    for _ in range(passes):
        engine.run_pass()
    growing = engine.sessions["v", "s"].growing
    ranked, node = [], -1
    while node in growing.rankings:
        ranked.append(list(growing.rankings[node][0].tokens))
        node = growing.tree.children(node)[0] if growing.tree.children(node) else -2
    return ranked


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    (path,) = folder.iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


def outsider(tokens: list[int]) -> int:
    return next(token for token in range(VOCAB_SIZE) if token not in tokens)


def test_each_committed_token_below_which_the_draft_ran_is_a_label(tmp_path: pathlib.Path) -> None:
    """The first child of the root, the second of that, then one that was not ranked, then one where nothing was."""
    engine = scripted(tmp_path)
    root, first, *_ = open_and_grow(engine)
    tree = engine.sessions["v", "s"].growing
    second = next(i for i in tree.tree.children(0) if tree.tree.tokens[i] == first[1])
    below = list(tree.rankings[second][0].tokens)
    edges = [list(tree.rankings[node][0].edges) for node in (-1, 0, second)]
    engine.handle("v", Commit("s", 1, 3, (root[0], first[1], outsider(below), 4), 0.0))
    assert engine.calibrations.of("target").labels == 3
    counts = {key[:2]: (labels, hits) for key, labels, hits in engine.calibrations.of("target").cells() if key[2] == ANY_MARGIN}
    assert counts[0, 0] == pytest.approx((3, 1), abs=0.01)
    assert counts[0, 1] == pytest.approx((2, 1), abs=0.01), "one of the three was the first: nothing is known of its siblings"
    assert counts[0, 2] == pytest.approx((1, 0), abs=0.01)
    engine.handle("v", Close("s", 1))
    assert [(each["session"], each["position"], each["hit"]) for each in lines(tmp_path)] == [("s", 3, 0), ("s", 4, 1), ("s", 5, -1)]
    assert [each["edges"] for each in lines(tmp_path)] == [pytest.approx(e, abs=1e-6) for e in edges]
    assert {(each["temperature"], each["source"]) for each in lines(tmp_path)} == {(0.0, 0)}


def test_a_child_too_poor_for_the_tree_still_counts_by_its_rank(tmp_path: pathlib.Path) -> None:
    engine = scripted(tmp_path)
    (root,) = open_and_grow(engine, min_confidence=2.0)
    assert not len(engine.sessions["v", "s"].tree)
    engine.handle("v", Commit("s", 1, 3, (root[2],), 2.0))
    engine.handle("v", Close("s", 1))
    assert [each["hit"] for each in lines(tmp_path)] == [2]


def test_no_label_where_the_draft_had_not_run(tmp_path: pathlib.Path) -> None:
    engine = scripted(tmp_path)
    open_and_grow(engine, passes=0)
    engine.handle("v", Commit("s", 1, 3, (7, 8), 0.0))
    engine.run_pass()
    tree = engine.sessions["v", "s"].tree
    engine.handle("v", Commit("s", 1, 5, (tree.tokens[0],), 0.0))
    assert engine.calibrations.of("target").labels == 1, "of the root, once its KV had caught up"
    engine.handle("v", Commit("s", 1, 6, (9,), 0.0))
    assert engine.calibrations.of("target").labels == 1, "the new root was drafted, but the draft had not run on it"


def test_the_next_root_is_labelled_by_what_was_ranked_before_it_became_one(tmp_path: pathlib.Path) -> None:
    engine = scripted(tmp_path)
    root, first, *_ = open_and_grow(engine)
    engine.handle("v", Commit("s", 1, 3, (root[0],), 0.0))
    engine.handle("v", Commit("s", 1, 4, (first[2],), 0.0))
    engine.handle("v", Close("s", 1))
    assert [(each["position"], each["hit"]) for each in lines(tmp_path)] == [(3, 0), (4, 2)]


def test_a_commit_that_cannot_be_followed_teaches_nothing() -> None:
    engine = scripted()
    open_and_grow(engine)
    engine.handle("v", Commit("s", 1, 3, (1, VOCAB_SIZE), 0.0))
    assert engine.calibrations.of("target").labels == 0


def test_what_was_learned_moves_the_edges_of_the_next_trees(tmp_path: pathlib.Path) -> None:
    engine = scripted(calibrations=CalibrationStore("scripted", tmp_path))
    calibration = engine.calibrations.of("target")
    for _ in range(300):
        for margin in (0.1, 0.4, 0.9, 1.6, 2.4, 3.9, 6.0, 9.0):
            calibration.observe(0, [margin, 0.1, 0.1], 0.0, -1)
    open_and_grow(engine)
    assert engine.sessions["v", "s"].tree.edges[0] < 0.05
    engine.close()
    restarted = scripted(calibrations=CalibrationStore("scripted", tmp_path))
    open_and_grow(restarted)
    assert restarted.sessions["v", "s"].tree == engine.sessions["v", "s"].tree


def test_a_served_request_leaves_a_trace_that_the_simulator_reads(tmp_path: pathlib.Path) -> None:
    """Through both engines: a position, counted from the first output token, for every token but the last ones."""
    folder = tmp_path / "traces"
    draft = loaded(noisy_copy("llama", 0, 0.05))
    both = pair(loaded(tiny("llama")), [draft], drafter=DrafterConfig(trace=folder), tree=TreeConfig(max_nodes=20, width=3))
    prompt = prompts(1)[0]
    outputs = both.generate([request("r-0", prompt, 40, SamplingParams(1.0), seed=3), request("other-0", prompt, 40, GREEDY)])
    assert len(outputs["r-0"]) == 40
    for drafter in both.drafters.values():
        assert drafter.calibrations.labels > 50
        drafter.close()
    served = RecordedRequest("r", "code", 1.0, 0.0, len(prompt), 40, 1.0)
    assert write_joined(tmp_path / "trace.jsonl", [served], folder) == 1
    (joined,) = read(tmp_path / "trace.jsonl")
    drafted = [position for position in joined.positions if position is not None]
    assert len(drafted) > 25
    assert all(len(edges) == 3 for edges, _ in drafted)
    assert sum(hit >= 0 for _, hit in drafted) > 0


def test_a_trace_folder_that_cannot_be_written_is_an_error_that_names_the_key(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"drafter\.trace: .*file"):
        scripted(tmp_path / "file" / "below")


def test_a_disk_that_fails_ends_the_trace_and_nothing_else(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = scripted(tmp_path)
    assert engine.learning.trace is not None
    engine.learning.trace._file.close()
    engine.learning.trace._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    for _ in range(2):
        root, *_ = open_and_grow(engine)
        assert engine.handle("v", Commit("s", 1, 3, (root[0],), 0.0))
        engine.handle("v", Close("s", 1))
    (record,) = caplog.records
    assert str(engine.learning.trace.path) in record.getMessage()
    assert engine.calibrations.of("target").labels == 2
