"""`drafthouse distill` before it loads a model: its help, and faults that it names."""

import pathlib

import pytest
from typer.testing import CliRunner

from deployments.cli.main import build_cli
from drafthouse.distillation.text_stage import FolderRecord, taken


def _distill(*arguments: str) -> tuple[int, str]:
    """Exit status and everything printed, without breaks of lines and words."""
    result = CliRunner().invoke(build_cli(), ["distill", *arguments])
    return result.exit_code, " ".join(result.output.split())


def test_help_tells_what_it_needs() -> None:
    code, output = _distill("--help")
    assert code == 0
    for option in ("--target", "--output", "--minutes", "--prompts", "--hidden", "--text-share", "--threads"):
        assert option in output
    assert "the same command goes on" in output


def test_a_target_that_is_not_there(tmp_path: pathlib.Path) -> None:
    code, output = _distill("--target", str(tmp_path / "none"), "--output", str(tmp_path / "draft"))
    assert code == 1
    assert f"{tmp_path}/none: no such folder" in output.replace(" /", "/").replace("/ ", "/")
    assert not (tmp_path / "draft").exists()


def test_a_target_that_is_no_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    code, output = _distill("--target", str(tmp_path / "empty"), "--output", str(tmp_path / "draft"))
    assert code == 1
    assert "config.json" in output


def test_an_output_that_is_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "draft").touch()
    code, output = _distill("--target", "demo:target", "--output", str(tmp_path / "draft"))
    assert code == 1
    assert "it is a file; name a folder" in output


def test_an_output_with_text_of_another_target(tmp_path: pathlib.Path) -> None:
    with taken(tmp_path, FolderRecord(target="other", checkpoint="1", vocabulary="2")):
        pass
    code, output = _distill("--target", "demo:target", "--output", str(tmp_path))
    assert code == 1
    assert "it holds text of another target (other" in output


@pytest.mark.parametrize("content", ["", "{}", '{"prompt": 1}', "no json"])
def test_prompts_in_another_form(tmp_path: pathlib.Path, content: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content, encoding="utf-8")
    code, output = _distill("--target", "demo:target", "--output", str(tmp_path / "draft"), "--prompts", str(path))
    assert code == 1
    assert "--prompts" in output
    assert "p.jsonl" in output
    assert not (tmp_path / "draft").exists()
