"""Shards of text on disk, and the folder that holds one target's."""

import pathlib
import resource

import numpy as np
import pytest
from safetensors.torch import load_file

from drafthouse.distillation.shards import TOP, Shard, ShardRecord, Text, write_shard
from drafthouse.distillation.text_folder import HELD_OUT, TextFolder, is_held_out, shard_path
from drafthouse.distillation.text_stage import FolderRecord, needs_states, taken
from drafthouse.errors import ConfigError

RECORD = FolderRecord(target="mine", checkpoint="abc", vocabulary="def")


def _text(number: int, length: int = 9, hidden: int = 0) -> Text:
    draw = np.random.default_rng(number)
    return Text(
        number, "chat", 0.5, 4, draw.integers(0, 99, length).astype(np.int32), draw.integers(0, 99, (length, TOP)).astype(np.int32),
        -draw.random((length, TOP)).astype(np.float16), draw.integers(0, 99, (length, hidden)).astype(np.int16) if hidden else None,
    )  # fmt: skip


def _write(folder: pathlib.Path, index: int, texts: list[Text], seconds: float = 1.0) -> pathlib.Path:
    (folder / "text").mkdir(exist_ok=True)
    path = shard_path(folder, index)
    write_shard(path, texts, ShardRecord(7, texts[-1].number + 1, seconds))
    return path


def _same(a: Text, b: Text) -> bool:
    fields = ("tokens", "top_ids", "top_logprobs", "states")
    return (a.number, a.kind, a.temperature, a.prompt_len) == (b.number, b.kind, b.temperature, b.prompt_len) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in fields if getattr(b, name) is not None
    )


def test_a_folder_gives_back_the_texts_of_all_its_shards(tmp_path: pathlib.Path) -> None:
    texts = [_text(0, 9, 5), _text(1, 20, 5), _text(5, 6, 5)]
    _write(tmp_path, 0, texts[:2])
    _write(tmp_path, 1, texts[2:], seconds=2.5)
    folder = TextFolder(tmp_path)
    assert len(folder) == 3
    assert all(_same(found, text) for found, text in zip(folder, texts, strict=True))
    assert (folder.tokens, folder.next_number, folder.seconds, folder.hidden) == (35, 6, 2.5, True)
    assert folder[1].rows == slice(3, 19)


def test_shards_are_as_other_programs_read_them(tmp_path: pathlib.Path) -> None:
    found = load_file(_write(tmp_path, 0, [_text(0, 9, 5), _text(1, 20, 5)]))
    shapes = {name: (str(each.dtype).removeprefix("torch."), tuple(each.shape)) for name, each in found.items()}
    assert shapes == {
        "tokens": ("int32", (29,)), "starts": ("int64", (3,)), "numbers": ("int64", (2,)), "prompt_lens": ("int32", (2,)),
        "temperatures": ("float32", (2,)), "top_ids": ("int32", (29, TOP)), "top_logprobs": ("float16", (29, TOP)),
        "states": ("bfloat16", (29, 5)),
    }  # fmt: skip
    assert found["starts"].tolist() == [0, 9, 29]


def test_one_text_in_twenty_is_held_out_in_every_run() -> None:
    held_out = [number for number in range(20_000) if is_held_out(number)]
    assert abs(len(held_out) - 20_000 / HELD_OUT) < 100
    assert held_out[:3] == [n for n in range(200) if is_held_out(n)][:3]


def test_training_and_held_out_texts_are_all_texts(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, 0, [_text(number) for number in range(100)])
    folder = TextFolder(tmp_path)
    held_out, training = [t.number for t in folder.held_out()], [t.number for t in folder.training()]
    assert held_out
    assert sorted(held_out + training) == list(range(100))
    assert all(map(is_held_out, held_out))


def test_a_new_shard_is_taken_up(tmp_path: pathlib.Path) -> None:
    folder = TextFolder(tmp_path)
    assert (len(folder), folder.next_number, folder.seconds) == (0, 0, 0.0)
    _write(tmp_path, 0, [_text(0)])
    folder.refresh()
    assert len(folder) == 1


def test_a_torn_shard_is_named(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, 0, [_text(0)])
    data = path.read_bytes()
    for torn in (b"", data[:4], data[:40], data[:-100], b"\xff" * 100):
        path.write_bytes(torn)
        with pytest.raises(ConfigError, match="shard-00000.safetensors: it is no shard"):
            Shard(path)


def test_a_full_disk_leaves_no_half_of_a_shard(tmp_path: pathlib.Path) -> None:
    """A limit on the size of files fails writes as a full disk does."""
    (tmp_path / "text").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ConfigError, match=r"shard-00000.safetensors: cannot be written: .*; it takes 0.2 MB, .*goes on from here"):
            _write(tmp_path, 0, [_text(0, 1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "text").iterdir()) == []


def test_a_shard_that_cannot_be_written_leaves_the_one_in_its_place(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, 0, [_text(0)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ConfigError, match="cannot be written"):
            _write(tmp_path, 0, [_text(1, 1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _same(Shard(path).text(0), _text(0))


def test_a_folder_holds_the_text_of_one_target(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new" / "draft"
    for _ in range(2):
        with taken(folder, RECORD):
            pass
    with taken(folder, RECORD.model_copy(update={"target": "the same by another name"})):
        pass
    for change in ({"checkpoint": "abd"}, {"vocabulary": ""}):
        with (
            pytest.raises(ConfigError, match=r"holds text of another target \(mine, .*name another folder"),
            taken(folder, RECORD.model_copy(update=change)),
        ):
            pass
    (folder / "distill.json").write_text("{}")
    with pytest.raises(ConfigError, match="distill.json: it is not what distill writes"), taken(folder, RECORD):
        pass


def test_two_runs_do_not_write_into_one_folder(tmp_path: pathlib.Path) -> None:
    with taken(tmp_path, RECORD), pytest.raises(ConfigError, match="another run is writing into it"), taken(tmp_path, RECORD):
        pass
    with taken(tmp_path, RECORD):
        pass


def test_an_output_that_is_no_folder(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "below"):
        with pytest.raises(ConfigError, match="it is a file, or lies below one"), taken(output, RECORD):
            pass


def test_states_are_there_for_all_texts_or_for_none(tmp_path: pathlib.Path) -> None:
    empty = TextFolder(tmp_path)
    assert not needs_states(empty, False)
    assert needs_states(empty, True)
    _write(tmp_path, 0, [_text(0, 9, 5)])
    assert needs_states(TextFolder(tmp_path), False), "so that a draft that reads them can still be made of this text"
    _write(tmp_path, 0, [_text(0)])
    assert not needs_states(TextFolder(tmp_path), False)
    with pytest.raises(ConfigError, match="written without hidden states"):
        needs_states(TextFolder(tmp_path), True)
