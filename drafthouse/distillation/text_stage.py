"""The first stage of a distillation: the target writes shards of text for its share of the time.

Promises: a run that was killed goes on after its last whole shard, with the texts that it would have written. A folder holds the text
of one target: another is refused. Two runs never write into one folder.
"""

import fcntl
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from drafthouse.distillation.shards import ShardRecord, Text, write_shard, write_whole
from drafthouse.distillation.text_folder import SHARDS, TextFolder, shard_path
from drafthouse.distillation.text_writer import TextWriter
from drafthouse.errors import ConfigError

SHARD_TEXTS = 256
"""About 12 MB, and on two cores two minutes of a small target's work, which a kill costs at most."""

RECORD = "distill.json"


class FolderRecord(BaseModel):
    """Whose text a folder holds: `checkpoint` is a digest of the target's files, `vocabulary` of its tokenizer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    target: str
    checkpoint: str
    vocabulary: str


@dataclass(frozen=True, slots=True)
class Written:
    """So far: texts and tokens of whole shards and of this run, and the seconds that all of them took."""

    texts: int
    tokens: int
    seconds: float


def needs_states(folder: TextFolder, hidden: bool) -> bool:
    """Whether texts are written with states: all of a folder are, or none. Raises ConfigError for `hidden` where texts have none."""
    if hidden and not folder.hidden:
        raise ConfigError(f"--output {folder.folder}: its text was written without hidden states; name another folder for --hidden")
    return hidden or (len(folder) > 0 and folder.hidden)


@contextmanager
def taken(folder: pathlib.Path, record: FolderRecord) -> Iterator[None]:
    """The folder, made where it is missing, and no other run's meanwhile. Raises ConfigError."""
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / SHARDS / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--output {folder}: it is a file, or lies below one; name a folder") from None
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--output {folder}: another run is writing into it") from None
        _check_record(folder, record)
        yield
    finally:
        os.close(lock)


def _check_record(folder: pathlib.Path, record: FolderRecord) -> None:
    """Writes the record into a folder that has none. Raises ConfigError where it holds another target's text."""
    path = folder / RECORD
    try:
        if not path.exists():
            write_whole(path, record.model_dump_json(indent=2).encode() + b"\n")
            return
        found = FolderRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: it is not what distill writes; name another folder for --output") from error
    if (found.checkpoint, found.vocabulary) != (record.checkpoint, record.vocabulary):
        raise ConfigError(
            f"--output {folder}: it holds text of another target ({found.target}, checkpoint {found.checkpoint[:16]}, and "
            f"{record.target} is {record.checkpoint[:16]}); name another folder"
        )


class TextStage:
    """Puts what a writer gives into shards. The texts of a shard are those of `shard_texts` numbers that follow one another, whatever order
    they end in: so which texts a shard has does not depend on when a run began."""

    def __init__(self, folder: pathlib.Path, writer: TextWriter, seed: int, shard_texts: int = SHARD_TEXTS):
        self._writer, self._seed, self._shard_texts = writer, seed, shard_texts
        self.folder = TextFolder(folder)
        self._began, self._before_s = time.monotonic(), self.folder.seconds
        self._first = writer.number
        self._ended: dict[int, Text | None] = {}
        self._path = folder

    @property
    def seconds(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def run(self, until_s: float, progress: Callable[[Written], None]) -> None:
        """Until `until_s` seconds went into the folder's text, those of earlier runs included, or until a KeyboardInterrupt, which keeps
        what is there and is raised again. Raises ConfigError for a shard that cannot be written."""
        try:
            while self.seconds < until_s:
                for number, text in self._writer.step():
                    self._ended[number] = text
                self._write_whole()
                progress(self.written)
        except KeyboardInterrupt:
            self._write_rest()
            raise
        finally:
            self._writer.close()
        self._write_rest()

    @property
    def written(self) -> Written:
        loose = [text for text in self._ended.values() if text is not None]
        return Written(len(self.folder) + len(loose), self.folder.tokens + sum(map(len, loose)), self.seconds)

    def _write_whole(self) -> None:
        numbers = range(self._first, self._first + self._shard_texts)
        if len(self._ended) >= self._shard_texts and all(number in self._ended for number in numbers):
            self._write(numbers.stop)

    def _write_rest(self) -> None:
        """Texts that have ended, at the end of the run; those in the making are lost, and their numbers are not used again."""
        if any(text is not None for text in self._ended.values()):
            self._write(self._writer.number)

    def _write(self, until: int) -> None:
        """All texts that ended with numbers below `until`."""
        texts = [text for number, text in sorted(self._ended.items()) if number < until and text is not None]
        write_shard(shard_path(self._path, len(self.folder.shards)), texts, ShardRecord(self._seed, until, self.seconds))
        self.folder.refresh()
        self._ended = {number: text for number, text in self._ended.items() if number >= until}
        self._first = until
