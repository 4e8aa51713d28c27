"""What a replica says while it loads, and where `drafthouse serve` reads it."""

import pathlib
import re

import pytest

from deployments.cli.local_cluster import load_lines
from drafthouse.engine.load_stages import LoadStages, logged


def test_each_stage_is_told_as_it_begins_and_all_at_the_end() -> None:
    said: list[str] = []
    stages = LoadStages(said.append)
    for name in ("weights", "self-check"):
        with stages.stage(name):
            stages.tell(f"in {name}")
    stages.end()
    second = r"\d+\.\d s"
    for line, wanted in zip(
        said,
        [
            r"weights \.\.\.", "in weights", rf"self-check \.\.\. \(done: weights {second}\)", "in self-check",
            rf"ready in {second}: weights {second}, self-check {second}",
        ],
        strict=True,
    ):  # fmt: skip
        assert re.fullmatch(wanted, line), line


def test_the_last_line_of_each_replica_is_found_in_its_log(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    for role, names in {"verifier": ("weights", "self-check"), "drafter": ("weights",)}.items():
        stages = logged(role)
        for name in names:
            with stages.stage(name):
                pass
        text = f":actor_name:x\nsomething else\n{capfd.readouterr().err}more of it\n"
        (tmp_path / f"worker-{role}.err").write_text(text, encoding="utf-8")
    (tmp_path / "worker-gateway.err").write_text("nothing of ours\n", encoding="utf-8")
    assert load_lines(tmp_path) == ["drafter: weights ...", "verifier: self-check ... (done: weights 0.0 s)"]
