"""What training needs to go on after a kill, in one file.

Promises: a file is there whole or not at all.
"""

import pathlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from drafthouse.errors import ConfigError

FILE = "training.pt"


@dataclass(frozen=True, slots=True)
class Shape:
    """What must not change within one training."""

    target: str
    layers: int
    hidden: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`weights` as `DraftNetwork.learned` names them, `head_ids`, the optimiser's state, seconds spent, where the order of texts
    stood, and a line for each checkpoint before: minutes, rows learned, loss, agreement."""

    shape: Shape
    weights: dict[str, torch.Tensor]
    head_ids: torch.Tensor
    optimiser: dict[str, Any]
    spent_s: float
    learned_rows: int
    position: tuple[int, int]
    history: list[tuple[float, int, float, float]]

    def write(self, folder: pathlib.Path) -> None:
        """Raises ConfigError where the disk is full."""
        path = folder / FILE
        unfinished = path.with_suffix(".unfinished")
        content = {each.name: getattr(self, each.name) for each in fields(self)} | {"shape": asdict(self.shape)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(content, unfinished)
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
            unfinished.unlink(missing_ok=True)
            raise ConfigError(f"{path}: cannot be written: {error}; make room and run the same command again") from error


def read_checkpoint(folder: pathlib.Path) -> Checkpoint | None:
    """None where there is none. Raises ConfigError for one that cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(**content | {"shape": Shape(**content["shape"]), "position": tuple(content["position"])})
    except Exception as error:  # fault boundary: torch and pickle raise many kinds
        raise ConfigError(f"{path}: no checkpoint that can be read: {error}; take it away, and training begins again") from error
