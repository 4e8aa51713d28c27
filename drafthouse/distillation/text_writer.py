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
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.prefix_cache import common_length
from drafthouse.engine.segment import Segment, chunk

MAX_NEW_TOKENS = 256
MAX_TURN_TOKENS = 160
LEAST_NEW_TOKENS = 16
"""Room that a prompt must leave in the context."""

LONGEST_PROMPT = MAX_TEXT_TOKENS - MAX_NEW_TOKENS
"""Of a user's prompts; longer ones are left out."""

PREFILL_TOKENS = 256
"""Of prompts in one step, beside a token of each text."""

LOOP_TOKENS, LONGEST_PERIOD = 64, 20
"""A text whose last LOOP_TOKENS repeat with a period of at most LONGEST_PERIOD ends there: more of it would teach nothing."""


class _Place:
    """Room for one text in the making. `tokens` are known, `kv` holds those that were run; what comes after `given` was written. A new
    prompt keeps the entries of its beginning, where that is the last text's, too: most templates begin all prompts alike."""

    __slots__ = ("attempt", "given", "index", "kv", "limit", "seed", "stops", "task", "temperature", "tokens", "turn")

    def __init__(self, index: int, kv: KvSequence):
        self.index, self.kv = index, kv
        self.tokens: list[int] = []

    def begin(self, tokens: list[int], turn: bool, seed: int, limit: int, stops: frozenset[int]) -> None:
        """From here on the target writes. `turn`: in the user's place."""
        self.kv.truncate(min(common_length(self.tokens[: len(self.kv)], tokens), len(tokens) - 1))
        self.tokens, self.given, self.turn, self.seed, self.stops = tokens, len(tokens), turn, seed, stops
        self.temperature = OWN_TEMPERATURE if turn else self.task.temperature
        self.limit = min(limit, len(tokens) + (MAX_TURN_TOKENS if turn else MAX_NEW_TOKENS))

    def set_task(self, task: Task, attempt: int) -> None:
        self.task, self.attempt = task, attempt

    def segment(self, most: int, hidden: bool) -> Segment:
        """The tokens that were not run, at most `most` of them; with logits if these are all, `hidden` with the states of each."""
        start, end = len(self.kv), min(len(self.tokens), len(self.kv) + most)
        segment = chunk(self.kv, self.tokens[start:end], start, end == len(self.tokens))
        segment.states = range(end - start) if hidden else ()
        return segment

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
    """`sequences` texts at a time, from text `number` on; `hidden`: with the target's last hidden states. The runner's cache has
    `MAX_TEXT_TOKENS` slots for each, and shares no prefixes."""

    def __init__(self, model: LoadedModel, encoder: PromptEncoder, prompts: Prompts, sequences: int, number: int, hidden: bool):
        self._runner, self._encoder, self._prompts, self._hidden = model.runner, encoder, prompts, hidden
        self._limit = min(MAX_TEXT_TOKENS, model.context)
        self._free = [_Place(index, KvSequence(model.runner.cache)) for index in range(sequences)]
        self._places: list[_Place] = []
        self.number = number
        self.written_tokens = 0
        self._top_ids = np.zeros((sequences, self._limit, TOP), dtype=np.int32)
        self._top_logprobs = np.zeros((sequences, self._limit, TOP), dtype=np.float16)
        self._states = torch.zeros(sequences, self._limit, model.runner.forward.hidden_size if hidden else 0, dtype=torch.bfloat16)

    def step(self) -> Iterator[tuple[int, Text | None]]:
        """One step of all texts; the numbers of those that ended, and what they are. None: nothing could be written for it."""
        yield from self._refill()
        running, segments = self._segments()
        if not segments:
            return
        result = self._runner.run(segments)
        if self._hidden:
            self._keep_states(running, segments, result.states)
        waiting = [place for place in running if len(place.kv) == len(place.tokens)]
        if not waiting:
            return
        found = self._choose(result.logits, waiting)
        del result  # the logits' memory serves the next step
        indices, rows = np.array([p.index for p in waiting]), np.array([len(p.tokens) - 1 for p in waiting])
        self._top_ids[indices, rows], self._top_logprobs[indices, rows] = found.ids, found.logprobs
        self.written_tokens += len(waiting)
        for place, token in zip(waiting, found.tokens.tolist(), strict=True):
            place.tokens.append(token)
            if place.ended:
                yield from self._end(place)

    def close(self) -> None:
        """Gives up the texts in the making."""
        for place in [*self._places, *self._free]:
            place.kv.release()
        self._places, self._free = [], []

    def _refill(self) -> Iterator[tuple[int, Text | None]]:
        while self._free:
            place = self._free.pop()
            place.set_task(self._prompts.task(self.number), 0)
            self.number += 1
            self._places.append(place)
            yield from self._start(place)

    def _keep_states(self, running: Sequence[_Place], segments: Sequence[Segment], states: torch.Tensor) -> None:
        counts = [len(segment) for segment in segments]
        indices = np.repeat([place.index for place in running], counts)
        rows = np.concatenate([np.asarray(segment.positions) for segment in segments])
        self._states[torch.from_numpy(indices), torch.from_numpy(rows)] = states.to("cpu", torch.bfloat16)

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
        place.set_task(self._prompts.task(place.task.number, place.attempt + 1), place.attempt + 1)

    def _segments(self) -> tuple[list[_Place], list[Segment]]:
        """What the step runs, and whose it is."""
        running, segments, room = [], [], PREFILL_TOKENS
        for place in self._places:
            pending = len(place.tokens) - len(place.kv)
            most = pending if pending == 1 else min(pending, room)
            if most > 0:
                room -= most if pending > 1 else 0
                running.append(place)
                segments.append(place.segment(most, self._hidden))
        return running, segments

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
                place.begin(tokens, False, place.task.seed ^ 1, self._limit, self._encoder.stop_tokens)
                return
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
        place.begin(tokens, False, task.seed ^ 2, self._limit, self._encoder.stop_tokens)
        return True

    def _text(self, place: _Place) -> Text:
        rows, tokens = slice(0, len(place.tokens)), np.array(place.tokens, dtype=np.int32)
        ids, logprobs = self._top_ids[place.index, rows].copy(), self._top_logprobs[place.index, rows].copy()
        for known in (slice(0, place.given - 1), slice(len(tokens) - 1, None)):  # what earlier texts left there
            ids[known], logprobs[known] = 0, 0
        states = None
        if self._hidden:
            states = self._states[place.index, rows].clone()
            states[-1] = 0
        task, bits = place.task, None if states is None else states.view(torch.int16).numpy()
        return Text(task.number, task.kind, task.temperature, place.given, tokens, ids, logprobs, bits)

    def _leave(self, place: _Place, text: Text | None) -> Iterable[tuple[int, Text | None]]:
        self._places.remove(place)
        self._free.append(place)
        return [(place.task.number, text)]
