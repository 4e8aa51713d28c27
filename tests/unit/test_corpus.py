"""The demo corpus on a small tree: its split, its filters, and no near-duplicates in training."""

import pathlib
import types

import pytest

from drafthouse.demo_models import corpus
from drafthouse.demo_models.corpus import SourceFile, load_corpus


def _text(name: str, lines: int = 40) -> str:
    return "\n".join(f"{name}_value_{i} = compute_{name}({i})" for i in range(lines)) + "\n"


@pytest.fixture
def tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A standard library of 200 different files; no packages."""
    monkeypatch.setattr(corpus, "sysconfig", types.SimpleNamespace(get_path=lambda name: str(tmp_path)))
    monkeypatch.setattr(corpus, "PACKAGES", {})
    for i in range(200):
        (tmp_path / f"module{i}.py").write_text(_text(f"module{i}"), encoding="utf-8")
    return tmp_path


def test_split_depends_on_the_path_alone(tree: pathlib.Path) -> None:
    before = {file.name for file in load_corpus().held_out}
    assert 2 <= len(before) <= 25
    assert all(SourceFile(name, "other text").held_out for name in before)
    (tree / "module_new.py").write_text(_text("new"), encoding="utf-8")
    assert before == {file.name for file in load_corpus().held_out} - {"python/module_new.py"}


def test_no_file_is_in_both_halves(tree: pathlib.Path) -> None:
    loaded = load_corpus()
    assert not {file.name for file in loaded.train} & {file.name for file in loaded.held_out}
    assert len(loaded.train) + len(loaded.held_out) == 200


def test_copies_of_training_and_of_held_out_files_are_dropped(tree: pathlib.Path) -> None:
    loaded = load_corpus()
    for i, original in enumerate([loaded.train[0], loaded.held_out[0]]):
        name = next(n for n in (f"copy{i}_{k}.py" for k in range(100)) if not SourceFile(f"python/{n}", "").held_out)
        (tree / name).write_text(original.text + "# one line more\n", encoding="utf-8")
    again = load_corpus()
    assert again.dropped_as_duplicates == 2
    assert {file.text for file in again.train}.isdisjoint({file.text for file in again.held_out})


def test_order_is_the_same_each_time(tree: pathlib.Path) -> None:
    assert [file.name for file in load_corpus().train] == [file.name for file in load_corpus().train]


def test_tests_tables_and_fragments_are_left_out(tree: pathlib.Path) -> None:
    (tree / "test").mkdir()
    (tree / "test" / "inside.py").write_text(_text("inside"), encoding="utf-8")
    (tree / "test_beside.py").write_text(_text("beside"), encoding="utf-8")
    (tree / "short.py").write_text("x = 1\n", encoding="utf-8")
    (tree / "long.py").write_text(_text("long", 10_000), encoding="utf-8")
    (tree / "accents.py").write_text(_text("accents") + "# caf\u00e9\n", encoding="utf-8")
    loaded = load_corpus()
    assert len(loaded.train) + len(loaded.held_out) == 200
