"""Files of text that a target wrote: `text/shard-NNNNN.safetensors` in the draft's folder.

Promises: a shard is there whole or not at all. Its tensors: `tokens` int32 `[n]`, all texts one after another; `starts` int64
`[m + 1]`; `numbers` int64 `[m]`, each text's own; `prompt_lens` int32 `[m]`; `temperatures` float32 `[m]`; `top_ids` int32 `[n, 32]`
and `top_logprobs` float16 `[n, 32]`: the likeliest tokens after each token, the best first, with their log probabilities at
temperature 1. These are known for a text's rows from its prompt's last token to its last token but one; the other rows are zeros.
With hidden states also `states` bfloat16 `[n, hidden size]`: the target's last one at each token, after its final norm, what its head
reads; zeros at a text's last token.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save

from drafthouse.errors import ConfigError

TOP = 32
"""Tokens kept of each distribution; of a smaller vocabulary all, and then id 0 with a log probability of minus infinity."""

FORMAT = "1"

DTYPES = {"I32": np.int32, "I64": np.int64, "F32": np.float32, "F16": np.float16, "BF16": np.int16}
"""By their names in the header of a safetensors file; numpy has no bfloat16, so its bits stand for it."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text: `tokens` `[n]`, of which the first `prompt_len` were given; `top_ids` and `top_logprobs` `[n, TOP]`; `states` int16
    `[n, hidden size]`, the bits of bfloat16, where they were kept."""

    number: int
    kind: str
    temperature: float
    prompt_len: int
    tokens: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    states: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def rows(self) -> slice:
        """Of the tokens after which the target's distribution is known."""
        return slice(self.prompt_len - 1, len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What a shard says beside its texts: the seed they were drawn with, the number of the text that comes next, and how many seconds
    all shards up to this one took to write."""

    seed: int
    next_number: int
    seconds: float


class Shard:
    """A shard on disk; its large tensors are mapped, not read. Raises ConfigError for a file that is no shard."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            metadata, arrays = _mapped(path)
            self.record = ShardRecord(int(metadata["seed"]), int(metadata["next_number"]), float(metadata["seconds"]))
            self.kinds: list[str] = json.loads(metadata["kinds"])
            self.tokens, self.top_ids, self.top_logprobs = arrays["tokens"], arrays["top_ids"], arrays["top_logprobs"]
            self.states = arrays.get("states")
            self.starts, self.numbers = np.array(arrays["starts"]), np.array(arrays["numbers"])
            self.prompt_lens, self.temperatures = np.array(arrays["prompt_lens"]), np.array(arrays["temperatures"])
            known = metadata["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: it is no shard of a text: {error}; take it away, and its text is written again") from error
        if not known:
            raise ConfigError(f"{path}: format {metadata['format']}, and this version reads {FORMAT}; name another folder")

    def __len__(self) -> int:
        return len(self.numbers)

    def text(self, at: int) -> Text:
        rows = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return Text(
            int(self.numbers[at]), self.kinds[at], float(self.temperatures[at]), int(self.prompt_lens[at]),
            self.tokens[rows], self.top_ids[rows], self.top_logprobs[rows], None if self.states is None else self.states[rows],
        )  # fmt: skip


def _mapped(path: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("its header does not end")
        header = json.loads(file.read(size))
    metadata = header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        dtype, shape, (first, end) = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        arrays[name] = np.memmap(path, dtype, "r", 8 + size + first, shape) if end > first else np.zeros(shape, dtype)
    return metadata, arrays


def write_shard(path: pathlib.Path, texts: Sequence[Text], record: ShardRecord) -> None:
    """At least one text; either all of them have states or none. All of the file or nothing. Raises ConfigError naming the file."""
    arrays: dict[str, np.ndarray] = {
        "tokens": np.concatenate([text.tokens for text in texts], dtype=np.int32),
        "starts": np.cumsum([0, *map(len, texts)], dtype=np.int64),
        "numbers": np.array([text.number for text in texts], dtype=np.int64),
        "prompt_lens": np.array([text.prompt_len for text in texts], dtype=np.int32),
        "temperatures": np.array([text.temperature for text in texts], dtype=np.float32),
        "top_ids": np.concatenate([text.top_ids for text in texts], dtype=np.int32),
        "top_logprobs": np.concatenate([text.top_logprobs for text in texts], dtype=np.float16),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if (states := [text.states for text in texts if text.states is not None]) and len(states) == len(texts):
        tensors["states"] = torch.from_numpy(np.concatenate(states)).view(torch.bfloat16)
    metadata = {
        "format": FORMAT, "seed": str(record.seed), "next_number": str(record.next_number), "seconds": f"{record.seconds:.3f}",
        "kinds": json.dumps([text.kind for text in texts]),
    }  # fmt: skip
    write_whole(path, save(tensors, metadata), "as do the shards after it; ")


def write_whole(path: pathlib.Path, data: bytes, more: str = "") -> None:
    """Under another name first, so that a kill or a full disk leaves no half of it. Raises ConfigError that names the file and says how
    much room it takes; `more` stands after that."""
    unfinished = path.with_suffix(".unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror or error}; it takes {len(data) / 1e6:.1f} MB, {more}"
            "make room and run the same command again: it goes on from here"
        ) from error
