"""The two files of `drafthouse batch`, in OpenAI's batch format: requests to read, answers to append.

Promises: an answer is one line, written in one call, so that a kill leaves whole lines and at most one torn end, which the next run
cuts off. The output is locked while a run writes it. A line that has an answer is never asked again.
The format: https://platform.openai.com/docs/guides/batch.
"""

import fcntl
import json
import os
import pathlib
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self

from drafthouse.errors import ConfigError

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions")
BEGINNING = b'{"id": "batch_req_'
"""Of every line of an output."""

KEYS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True)
class BatchLine:
    """One request. `url` is one of ENDPOINTS; `body` is what is posted, without `stream`."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_lines(path: pathlib.Path) -> Iterator[BatchLine]:
    """The requests in their order; empty lines are left out.

    Raises ConfigError that names the file and the line, and OSError.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                try:
                    yield _parsed(raw)
                except ValueError as error:
                    raise ConfigError(f"--input {path}, line {number}: {error}") from None


def check_input(path: pathlib.Path) -> list[str]:
    """The `custom_id` of every line, when all lines are sound and no two share one.

    Raises ConfigError and OSError like `read_lines`.
    """
    ids: dict[str, None] = {}
    for line in read_lines(path):
        if line.custom_id in ids:
            raise ConfigError(f"--input {path}: custom_id {line.custom_id!r} stands in two lines; give each line its own")
        ids[line.custom_id] = None
    if not ids:
        raise ConfigError(f"--input {path}: it holds no requests")
    return list(ids)


def _parsed(raw: bytes) -> BatchLine:
    """Raises ValueError that says what is wrong with the line."""
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(line, dict):
        raise ValueError(f"it must be an object with {', '.join(KEYS)}")
    if unknown := sorted(set(line) - set(KEYS)):
        raise ValueError(f"unknown key {unknown[0]!r}; a line has {', '.join(KEYS)}")
    custom_id, body = line.get("custom_id"), line.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a text that is not empty")
    if line.get("method", "POST") != "POST":
        raise ValueError(f"method {line['method']!r}: only POST is known")
    if line.get("url") not in ENDPOINTS:
        raise ValueError(f"url {line.get('url')!r} is none of {', '.join(ENDPOINTS)}")
    if not isinstance(body, dict):
        raise ValueError("body must be an object, the request itself")
    if body.get("stream"):
        raise ValueError("body.stream must not be set: an answer is one line")
    json.dumps(line, ensure_ascii=False, allow_nan=False).encode()  # raises ValueError for what cannot be sent
    return BatchLine(custom_id, line["url"], {key: value for key, value in body.items() if key not in ("stream", "stream_options")})


class BatchOutput:
    """The file of answers, open and locked. Close it.

    Raises ConfigError where another run holds it or where it is not the output of such an input.
    """

    def __init__(self, path: pathlib.Path, ids: Collection[str]):
        self.done: set[str] = set()
        self.failed = 0
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_up(set(ids))
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(f"--output {path}: another run is writing it") from None
        except ConfigError:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def write(self, line: BatchLine, status: int, request_id: str, body: Any) -> None:
        """Appends the answer to `line`. `body` is the server's JSON, an error object where `status` is not 200.

        Raises OSError, of a full disk for one; a part that was written is taken back.
        """
        answer = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": line.custom_id,
            "response": {"status_code": status, "request_id": request_id, "body": body},
            "error": None,
        }
        raw = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, raw)
        except OSError:
            written = 0
            raise
        finally:
            if written != len(raw):
                os.ftruncate(self._file, end)
        if written != len(raw):
            raise OSError(f"--output {self._path}: the disk is full")
        self._count(line.custom_id, status)

    def _count(self, custom_id: str, status: int) -> None:
        self.done.add(custom_id)
        self.failed += status != 200

    def _take_up(self, ids: set[str]) -> None:
        """Counts the answers that stand in the file, and cuts off a torn last line."""
        end = 0
        with open(self._path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    if raw[: len(BEGINNING)] != BEGINNING[: len(raw)]:
                        raise ConfigError(f"--output {self._path}, line {number}: it is no answer of a batch; name another file")
                    break
                custom_id, status = self._answered(raw, number)
                if custom_id not in ids:
                    raise ConfigError(f"--output {self._path}, line {number}: the input has no custom_id {custom_id!r}; name another file")
                if custom_id in self.done:
                    raise ConfigError(f"--output {self._path}, line {number}: custom_id {custom_id!r} is answered twice")
                self._count(custom_id, status)
                end += len(raw)
        os.ftruncate(self._file, end)

    def _answered(self, raw: bytes, number: int) -> tuple[str, int]:
        try:
            line = json.loads(raw)
            return str(line["custom_id"]), int(line["response"]["status_code"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"--output {self._path}, line {number}: it is no answer of a batch; name another file") from None
