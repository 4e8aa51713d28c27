"""Calibrations of one draft, one for each target it drafts for, kept over restarts in JSON files.

Promises: a file is written whole or not at all. What cannot be used (no JSON, another version,
another pair, counts that cannot be) is as good as absent, with one warning that names the file. A
folder that cannot be written costs a warning only. Replicas of one draft share a file: each reads it
once for each target, and the last to write it wins, since all learn the same from like traffic.
"""

import hashlib
import logging
import pathlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drafthouse.config.cache_files import write_whole
from drafthouse.config.faults import describe
from drafthouse.policy.calibration import Calibration, Key

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the file and of what its buckets mean."""

SAVE_S = 60.0
"""Seconds between two writes while there is something new: what a crash may cost."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Cell(_Strict):
    key: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)], Annotated[int, Field(ge=0)]]
    labels: float = Field(ge=0)
    hits: float = Field(ge=0)

    @model_validator(mode="after")
    def _possible(self) -> "_Cell":
        if self.hits > self.labels * (1 + 1e-9):
            raise ValueError(f"{self.hits} hits among {self.labels} labels")
        return self


class _Entry(_Strict):
    format: int
    draft: str
    target: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class Brier:
    """Faded Brier scores of a position's children, of the edges as learned and of the prior's."""

    learned: float
    prior: float


class CalibrationStore:
    """`of` gives the calibration to learn into; `draft` is the draft's fingerprint."""

    def __init__(self, draft: str, folder: pathlib.Path | None):
        """None: nothing is kept."""
        self.draft, self.folder = draft, folder
        self.calibrations: dict[str, Calibration] = {}
        self._kept: dict[str, int] = {}  # labels of each target's calibration when it was last read or written
        self._saved_at: float | None = None

    def path(self, target: str) -> pathlib.Path:
        assert self.folder is not None
        digest = hashlib.sha256(f"{self.draft}\n{target}".encode()).hexdigest()
        return self.folder / f"{digest[:24]}.json"

    def of(self, target: str) -> Calibration:
        """For the target of this fingerprint; read from disk when first asked for."""
        if target not in self.calibrations:
            self.calibrations[target] = Calibration(self._read(target))
            self._kept[target] = 0
        return self.calibrations[target]

    def _read(self, target: str) -> list[tuple[Key, float, float]]:
        if self.folder is None:
            return []
        path = self.path(target)
        try:
            entry = _Entry.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return []
        except ValidationError as error:
            reason = "; ".join(describe(error)[:3])
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if (entry.format, entry.draft, entry.target) == (FORMAT, self.draft, target):
                return [(cell.key, cell.labels, cell.hits) for cell in entry.cells]
            reason = "it is of another version, draft or target"
        logger.warning("%s: not a calibration to use, so the prior is taken: %s", path, reason)
        return []

    def save_if_due(self, now: float) -> None:
        """Writes what is new, at most every SAVE_S seconds of `now`."""
        if self._saved_at is None:
            self._saved_at = now
        elif now - self._saved_at >= SAVE_S:
            self._saved_at = now
            self.save()

    def save(self) -> None:
        for target, calibration in self.calibrations.items():
            if self.folder is not None and calibration.labels > self._kept[target]:
                self._kept[target] = calibration.labels
                cells = tuple(_Cell(key=key, labels=labels, hits=hits) for key, labels, hits in calibration.cells())
                text = _Entry(format=FORMAT, draft=self.draft, target=target, cells=cells).model_dump_json() + "\n"
                try:
                    write_whole(self.path(target), text)
                except OSError as error:
                    logger.warning("%s: the calibration is not kept: %s", self.path(target), error.strerror or error)

    @property
    def labels(self) -> int:
        """Seen since the start."""
        return sum(c.labels for c in list(self.calibrations.values()))

    def brier(self) -> Brier | None:
        """None before any label. May be called from any thread."""
        scores = [c.score for c in list(self.calibrations.values())]
        weight = sum(score.labels for score in scores)
        return Brier(sum(s.learned for s in scores) / weight, sum(s.prior for s in scores) / weight) if weight else None
