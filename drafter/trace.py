"""The acceptance trace of one drafter: what was drafted for each committed token, for the simulator.

Promises: one JSON line for each committed position below which the draft had run; lines lie in
memory until the file's buffer is full or a session ends. A disk that fails ends the trace with one
warning, and nothing else.
"""

import json
import logging
import os
import pathlib
import uuid
from collections.abc import Sequence

from drafter.stage_credit import Label
from drafthouse.errors import ConfigError

logger = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 20


class TraceWriter:
    """Appends to a file of its own in the folder: replicas on one disk do not meet."""

    def __init__(self, folder: pathlib.Path):
        """Raises ConfigError naming `drafter.trace`."""
        self.path = folder / f"drafter-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8", buffering=BUFFER_BYTES)
        except OSError as error:
            raise ConfigError(f"drafter.trace: {folder}: {error.strerror or error}") from error
        self._failed = False

    def write(self, session: str, temperature: float, labels: Sequence[Label]) -> None:
        lines = [
            json.dumps(
                {
                    "session": session, "position": label.position, "temperature": temperature, "source": label.ranking.source,
                    "edges": [round(edge, 6) for edge in label.ranking.edges], "hit": label.hit,
                },
                separators=(",", ":"),
            ) + "\n"
            for label in labels
        ]  # fmt: skip
        if lines and not self._failed:
            try:
                self._file.writelines(lines)
            except OSError as error:
                self._fail(error)

    def flush(self) -> None:
        if not self._failed:
            try:
                self._file.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._failed = True
        logger.warning("%s: the acceptance trace ends here: %s", self.path, error.strerror or error)
