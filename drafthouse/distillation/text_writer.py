"""The target writes texts, many side by side: a text that ends makes room for the next one in the same step.

Promises: on a row-invariant forward a text depends on its task alone, not on the texts beside it. Each task that is begun ends as one
text or as none.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from drafthouse.distillation.choices import Choices, choices, uniforms
from drafthouse.distillation.options import MAX_TEXT_TOKENS
from drafthouse.distillation.prompt_encoder import PromptEncoder
from drafthouse.distillation.prompts import ATTEMPTS, OWN_TEMPERATURE, Prompts, Task
from drafthouse.distillation.shards import TOP, Text
from drafthouse.distillation.user_turns import is_usable
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.segment import Segment, chunk

MAX_NEW_TOKENS = 256
MAX_TURN_TOKENS = 160
LEAST_NEW_TOKENS = 16
"""Room that a prompt must leave."""

PREFILL_TOKENS = 256
"""Of prompts in one step, beside a token of each text."""

LOOP_TOKENS, LONGEST_PERIOD = 64, 20
"""A text whose last LOOP_TOKENS repeat with a period of at most LONGEST_PERIOD ends there: more of it would teach nothing."""


class _Place:
    """One of the texts in the making. `tokens` are known, `kv` holds those that were run; what comes after `given` was written."""

    __slots__ = ("attempt", "given", "index", "kv", "limit", "seed", "stops", "task", "temperature", "tokens", "turn")

    def __init__(self, index: int, task: Task, attempt: int, kv: KvSequence):
        self.index, self.task, self.attempt, self.kv = index, task, attempt, kv

    def begin(self, tokens: list[int], turn: bool, seed: int, limit: int, stops: frozenset[int]) -> None:
        """From here on the target writes. `turn`: in the user's place."""
        self.tokens, self.given, self.turn, self.seed, self.stops = tokens, len(tokens), turn, seed, stops
        self.temperature = OWN_TEMPERATURE if turn else self.task.temperature
        self.limit = min(limit, len(tokens) + (MAX_TURN_TOKENS if turn else MAX_NEW_TOKENS))
        self.kv.adopt(tokens)

    def segment(self, most: int) -> Segment:
        """The tokens that were not run, at most so many of them; with logits if these are all."""
        start, end = len(self.kv), min(len(self.tokens), len(self.kv) + most)
        return chunk(self.kv, self.tokens[start:end], start, end == len(self.tokens))

    @property
    def ended(self) -> bool:
        return self.tokens[-1] in self.stops or len(self.tokens) >= self.limit or self._loops()

    def _loops(self) -> bool:
        written = len(self.tokens) - self.given
        if written < LOOP_TOKENS or written % 16:
            return False
        tail = self.tokens[-LOOP_TOKENS:]
        return any(tail[period:] == tail[:-period] for period in range(1, LONGEST_PERIOD + 1))


class TextWriter:
    """`sequences` texts at a time, from text `number` on. The runner's cache has `MAX_TEXT_TOKENS` slots for each, and PREFILL_TOKENS."""

    def __init__(self, runner: ModelRunner, context: int, encoder: PromptEncoder, prompts: Prompts, sequences: int, number: int):
        self._runner, self._encoder, self._prompts = runner, encoder, prompts
        self._limit = min(MAX_TEXT_TOKENS, context)
        self._free = list(range(sequences - 1, -1, -1))
        self._places: list[_Place] = []
        self.number = number
        self.written_tokens = 0
        self._top_ids = np.zeros((sequences, self._limit, TOP), dtype=np.int32)
        self._top_logprobs = np.zeros((sequences, self._limit, TOP), dtype=np.float16)

    def step(self) -> Iterator[tuple[int, Text | None]]:
        """One step of all texts; the numbers of those that ended, and what they are. None: nothing could be written for it."""
        yield from self._refill()
        waiting, segments = self._segments()
        if not segments:
            return
        logits = self._runner.run(segments).logits
        found = self._choose(logits, waiting)
        del logits  # its memory serves the next step
        indices, rows = np.array([p.index for p in waiting]), np.array([len(p.tokens) - 1 for p in waiting])
        self._top_ids[indices, rows], self._top_logprobs[indices, rows] = found.ids, found.logprobs
        self.written_tokens += len(waiting)
        for place, token in zip(waiting, found.tokens.tolist(), strict=True):
            place.tokens.append(token)
            if place.ended:
                yield from self._end(place)

    def close(self) -> None:
        """Gives up the texts in the making."""
        for place in self._places:
            place.kv.release()
        self._places.clear()

    def _refill(self) -> Iterator[tuple[int, Text | None]]:
        while self._free:
            number = self.number
            self.number += 1
            place = _Place(self._free.pop(), self._prompts.task(number), 0, KvSequence(self._runner.cache))
            self._places.append(place)
            yield from self._start(place)

    def _start(self, place: _Place) -> Iterator[tuple[int, Text | None]]:
        """Begins the place's task, or a later attempt where its prompt is too long for the model."""
        while True:
            task, encoder = place.task, self._encoder
            if task.opening is not None:
                tokens, turn = encoder.turn(task.opening), True
            elif task.beginning is not None:
                tokens, turn = encoder.beginning(task.beginning), False
            else:
                tokens, turn = encoder.conversation(task.messages or ()), False
            if len(tokens) + LEAST_NEW_TOKENS <= self._limit:
                place.begin(tokens, turn, task.seed, self._limit, encoder.turn_stops if turn else encoder.stop_tokens)
                return
            if place.attempt >= ATTEMPTS:
                yield from self._leave(place, None)
                return
            self._try_again(place)

    def _try_again(self, place: _Place) -> None:
        place.attempt += 1
        place.task = self._prompts.task(place.task.number, place.attempt)

    def _segments(self) -> tuple[list[_Place], list[Segment]]:
        """What the step runs, and the places whose logits it gives, in their order."""
        waiting, segments, room = [], [], PREFILL_TOKENS
        for place in self._places:
            pending = len(place.tokens) - len(place.kv)
            most = pending if pending == 1 else min(pending, room)
            if most == 0:
                continue
            room -= most if pending > 1 else 0
            segments.append(place.segment(most))
            if most == pending:
                waiting.append(place)
        return waiting, segments

    def _choose(self, logits: torch.Tensor, waiting: Sequence[_Place]) -> Choices:
        seeds = np.array([place.seed for place in waiting], dtype=np.uint64)
        positions = np.array([len(place.tokens) for place in waiting], dtype=np.uint64)
        return choices(logits, np.array([place.temperature for place in waiting]), uniforms(seeds, positions))

    def _end(self, place: _Place) -> Iterator[tuple[int, Text | None]]:
        """A user's turn is answered, an answer may be followed up, all else is a text."""
        if place.turn:
            yield from self._answer(place)
        elif not self._followed_up(place):
            yield from self._leave(place, self._text(place))

    def _answer(self, place: _Place) -> Iterator[tuple[int, Text | None]]:
        """Gives the target the turn that it wrote as a user's message, or tries again."""
        turn = place.tokens[place.given :]
        written = self._encoder.written(turn) if turn[-1] in place.stops else None
        text = ((place.task.opening or "") + written).strip() if written is not None else ""
        if is_usable(text, turn):
            tokens = self._encoder.conversation([{"role": "user", "content": text}])
            if len(tokens) + LEAST_NEW_TOKENS <= self._limit:
                self._go_on(place, tokens, place.task.seed ^ 1)
                return
        place.kv.retire(place.tokens[: len(place.kv)])
        self._try_again(place)
        yield from self._start(place)

    def _followed_up(self, place: _Place) -> bool:
        """Begins the answer to the user's second message, if there is to be one."""
        task, asked = place.task, place.task.follow_up
        if not asked or task.messages is None or place.seed != task.seed or place.tokens[-1] not in place.stops:
            return False
        answer = self._encoder.written(place.tokens[place.given :])
        if answer is None or not answer.strip():
            return False
        tokens = self._encoder.conversation([*task.messages, {"role": "assistant", "content": answer}, {"role": "user", "content": asked}])
        if len(tokens) + LEAST_NEW_TOKENS > self._limit:
            return False
        self._go_on(place, tokens, task.seed ^ 2)
        return True

    def _go_on(self, place: _Place, tokens: list[int], seed: int) -> None:
        """With a prompt that has much of its beginning in common with what was written."""
        place.kv.retire(place.tokens[: len(place.kv)])
        place.begin(tokens, False, seed, self._limit, self._encoder.stop_tokens)

    def _text(self, place: _Place) -> Text:
        rows, tokens = slice(0, len(place.tokens)), np.array(place.tokens, dtype=np.int32)
        ids, logprobs = self._top_ids[place.index, rows].copy(), self._top_logprobs[place.index, rows].copy()
        for known in (slice(0, place.given - 1), slice(len(tokens) - 1, None)):  # what earlier texts left there
            ids[known], logprobs[known] = 0, 0
        task = place.task
        return Text(task.number, task.kind, task.temperature, place.given, tokens, ids, logprobs)

    def _leave(self, place: _Place, text: Text | None) -> Iterable[tuple[int, Text | None]]:
        place.kv.release()
        self._places.remove(place)
        self._free.append(place.index)
        return [(place.task.number, text)]
