"""All text that a target has written for a draft: the shards in one folder, as one sequence of texts.

Promises: nothing is read before it is asked for, and no more than the rows asked for. Which texts are held out depends on their
numbers alone: it is the same in every run.
"""

import pathlib
from collections.abc import Iterator, Sequence

from drafthouse.distillation.shards import Shard, Text
from drafthouse.noise import mix64

HELD_OUT = 20
"""One text in this many is kept from training, to measure agreement."""

SHARDS = "text"
"""The folder of shards in a draft's folder."""


def is_held_out(number: int) -> bool:
    return mix64(number) % HELD_OUT == 0


def shard_path(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / SHARDS / f"shard-{index:05d}.safetensors"


class TextFolder(Sequence[Text]):
    """The texts of `folder / "text"`, in the order they were written. Raises ConfigError for a shard that cannot be read."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.shards: list[Shard] = []
        self._places: list[tuple[Shard, int]] = []
        self.refresh()

    def refresh(self) -> None:
        """Takes up shards that came since."""
        while (path := shard_path(self.folder, len(self.shards))).exists():
            shard = Shard(path)
            self.shards.append(shard)
            self._places += [(shard, at) for at in range(len(shard))]

    @property
    def tokens(self) -> int:
        """Of all texts, prompts included."""
        return sum(len(shard.tokens) for shard in self.shards)

    @property
    def hidden(self) -> bool:
        """Whether all texts have states; of an empty folder true."""
        return all(shard.states is not None for shard in self.shards)

    @property
    def next_number(self) -> int:
        """Of the text to be written next."""
        return self.shards[-1].record.next_number if self.shards else 0

    @property
    def seconds(self) -> float:
        """That writing took."""
        return self.shards[-1].record.seconds if self.shards else 0.0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: int) -> Text:  # type: ignore[override]
        shard, place = self._places[at]
        return shard.text(place)

    def training(self) -> Iterator[Text]:
        return (text for text in self if not is_held_out(text.number))

    def held_out(self) -> Iterator[Text]:
        return (text for text in self if is_held_out(text.number))
