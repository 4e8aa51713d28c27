"""`draft.json`: what is written is read, and what is wrong is named."""

import json
import pathlib
from typing import Any

import pytest

from drafthouse.checkpoints.draft_folder import RECORD, DraftFolder, is_draft
from drafthouse.errors import ModelError

GOOD = DraftFolder("smollm2", "0123456789abcdef", "target", True, {"minutes": 60, "notes": ["größer"]})


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    assert not is_draft(tmp_path)
    assert DraftFolder.read(tmp_path) is None
    GOOD.write(tmp_path)
    assert is_draft(tmp_path)
    assert DraftFolder.read(tmp_path) == GOOD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2, and this version reads 1"),
        ({"target": ""}, "target is ''"),
        ({"vocabulary": None}, "vocabulary is None"),
        ({"embeddings": "both"}, 'embeddings is \'both\'; it must be "target" or "own"'),
        ({"hidden": 1}, "hidden is 1; it must be true or false"),
        ({"trained": []}, "trained is []"),
        ({"layers": 2}, "layers is no field of it"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: pathlib.Path, change: dict[str, Any], said: str) -> None:
    GOOD.write(tmp_path)
    record = tmp_path / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(ModelError) as error:
        DraftFolder.read(tmp_path)
    assert f"{RECORD}: {said}" in str(error.value)


@pytest.mark.parametrize("name", ["format", "target", "vocabulary", "embeddings", "hidden", "trained"])
def test_a_missing_field_is_named(tmp_path: pathlib.Path, name: str) -> None:
    GOOD.write(tmp_path)
    record = tmp_path / RECORD
    record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != name}))
    with pytest.raises(ModelError, match=name):
        DraftFolder.read(tmp_path)


def test_a_file_that_is_no_json_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ModelError, match=r"draft\.json: not JSON"):
        DraftFolder.read(tmp_path)
