"""Repetition, frequency and presence penalties: how often each token stands in the text up to a row.

Promises: the repetition penalty counts a token that stands in prompt or output, once; the other two count output
tokens alone, those that earlier attempts delivered among them (OpenAI's and vLLM's rule). Drafted tokens on a row's path are output.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.processors.edits import Edits
from drafthouse.processors.processor import LogitsProcessor, Path
from drafthouse.sampling import SamplingParams


class Penalties(LogitsProcessor):
    """`_tokens[:n]` are different ids and `_counts[:n]` how often each stands in the output; `_place` says where an id is."""

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int]):
        self._repetition = np.float32(sampling.repetition_penalty)
        self._frequency, self._presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
        known = np.unique(np.array(prompt, dtype=np.int64)) if sampling.repetition_penalty != 1.0 else np.zeros(0, dtype=np.int64)
        self._tokens, self._counts = known, np.zeros(len(known), dtype=np.int32)
        self._place = {token: place for place, token in enumerate(known.tolist())}
        self.commit(output)

    @property
    def size(self) -> int:
        """Different tokens so far: what each row costs."""
        return len(self._place)

    def commit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            place = self._place.setdefault(token, len(self._place))
            if place == len(self._tokens):  # doubles, so that a token costs the same on average however long the text
                self._tokens = np.concatenate([self._tokens, np.zeros(max(16, place), dtype=np.int64)])
                self._counts = np.concatenate([self._counts, np.zeros(max(16, place), dtype=np.int32)])
            self._tokens[place] = token
            self._counts[place] += 1

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        rows, size = len(paths), self.size
        tokens, counts = np.tile(self._tokens[:size], rows), np.tile(self._counts[:size], rows)
        numbers = np.repeat(np.arange(first, first + rows), size)
        further: dict[tuple[int, int], int] = {}
        for row, path in enumerate(paths):
            for token in path:
                if (place := self._place.get(token)) is not None:
                    counts[row * size + place] += 1
                else:
                    further[first + row, token] = further.get((first + row, token), 0) + 1
        if further:
            numbers = np.concatenate([numbers, [row for row, _ in further]])
            tokens = np.concatenate([tokens, [token for _, token in further]])
            counts = np.concatenate([counts, np.fromiter(further.values(), np.int32, len(further))])
        less = self._frequency * counts.astype(np.float32) + self._presence * (counts > 0).astype(np.float32)
        edits.penalise(numbers, tokens, np.full(len(tokens), self._repetition), less)
