"""Digests of files: of every byte, read once, and read again when anything about the file has changed."""

import os
import pathlib

import pytest

from drafthouse.config.cache_files import cache_folder
from drafthouse.engine import file_digests
from drafthouse.engine.file_digests import digests_of


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[pathlib.Path]:
    """Which pieces were read, in an empty cache."""
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
    pieces: list[pathlib.Path] = []
    piece = file_digests._piece

    def noted(place: tuple[pathlib.Path, int]) -> bytes:
        pieces.append(place[0])
        return piece(place)

    monkeypatch.setattr(file_digests, "_piece", noted)
    return pieces


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "weights").write_bytes(b"some weights")
    return tmp_path / "weights"


def test_a_file_is_read_once(file: pathlib.Path, read: list[pathlib.Path]) -> None:
    first = digests_of([file])
    assert digests_of([file]) == first
    assert len(read) == 1


def test_pieces_are_put_together_in_order(tmp_path: pathlib.Path, read: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files of several pieces, the last of them shorter, and an empty file."""
    monkeypatch.setattr(file_digests, "PIECE_BYTES", 5)
    monkeypatch.setattr(file_digests, "READ_BYTES", 2)
    contents = [b"", b"abcde", b"abcdefgh", b"fghabcde", b"abcdefgh" + bytes(3), b"abcdefghij"]
    files = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    digests = digests_of(files)
    assert len(set(digests)) == len(contents)
    assert digests_of(files[::-1]) == digests[::-1]
    assert len(read) == sum(max(1, -(-len(content) // 5)) for content in contents)
    (tmp_path / "again").write_bytes(contents[2])
    assert digests_of([tmp_path / "again"]) == [digests[2]]


@pytest.mark.parametrize("what", ["content", "times kept", "replaced"])
def test_a_file_that_changed_is_read_again(what: str, file: pathlib.Path, read: list[pathlib.Path]) -> None:
    """Even if it has its size and the time of its last modification back."""
    first, before = digests_of([file]), file.stat()
    if what == "replaced":
        file.with_suffix(".new").write_bytes(b"more weights")
        file.with_suffix(".new").rename(file)
    else:
        file.write_bytes(b"more weights")
    if what != "content":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests_of([file]) != first
    assert len(read) == 2


def test_a_file_that_changes_meanwhile_is_not_remembered(
    file: pathlib.Path, read: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = file_digests._piece

    def changing(place: tuple[pathlib.Path, int]) -> bytes:
        digest = piece(place)
        file.write_bytes(b"other weights")
        return digest

    monkeypatch.setattr(file_digests, "_piece", changing)
    first = digests_of([file])
    monkeypatch.setattr(file_digests, "_piece", piece)
    assert digests_of([file]) != first


@pytest.mark.parametrize("content", [b"", b"no JSON", b"{}", b'{"path": "elsewhere"}'])
def test_a_cache_that_cannot_be_read_costs_a_reading(content: bytes, file: pathlib.Path, read: list[pathlib.Path]) -> None:
    first = digests_of([file])
    (entry,) = cache_folder("digests").iterdir()
    entry.write_bytes(content)
    assert digests_of([file]) == first
    assert len(read) == 2


def test_a_cache_that_cannot_be_written_costs_a_warning(
    file: pathlib.Path, read: list[pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path / "in the way"))
    assert digests_of([file]) == digests_of([file])
    assert "is not kept" in caplog.text


def test_a_long_reading_tells_how_far_it_is(file: pathlib.Path, read: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "TELL_S", 0.0)
    monkeypatch.setattr(file_digests, "PIECE_BYTES", 3)
    told: list[str] = []
    digests_of([file], told.append)
    assert told == [f"hashing the model's files: {share} % of 0.0 GB" for share in (25, 50, 75)]


def test_a_missing_file_is_an_error(tmp_path: pathlib.Path, read: list[pathlib.Path]) -> None:
    with pytest.raises(FileNotFoundError):
        digests_of([tmp_path / "nothing"])
