"""A model without a network: logits are a hash of the token path that a position sees through its KV slots.

Promises: each KV slot holds the token and the position written there, and nothing else is known
to `run`. So a text equals `truth` only if slots, moves, masks and positions are all right. A state is a hash of what its row sees, too,
and a model that reads states keeps in the slot which one each token was run with. Cheap
enough for thousands of interleavings, where a real model is not.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace

import torch

from drafthouse.choose import Rows, choose, rank
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.engine.state_inputs import StateInputs
from drafthouse.noise import mix64
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import SamplingParams

VOCAB_SIZE = 16
CONTEXT = 64
RECENT = 8
STATE_SIZE = 4
NO_STATE = (-1,) * STATE_SIZE
Path = tuple[int, ...]
Logits = Callable[[Path], list[float]]


def hashed(path: Path, salt: int) -> list[float]:
    """`VOCAB_SIZE` numbers between 0 and 1 that any change of the path changes."""
    key = salt
    for token in path:
        key = mix64(key * 31 + token + 1)
    return [(mix64(key + (v << 32)) >> 40) / 2.0**24 for v in range(VOCAB_SIZE)]


@lru_cache(maxsize=100_000)
def target_logits(path: Path) -> list[float]:
    return [4.0 * x for x in hashed(path, 1)]


@lru_cache(maxsize=100_000)
def draft_logits(path: Path) -> list[float]:
    """The target's with something else mixed in: agrees now and then."""
    return [a + 1.5 * b for a, b in zip(target_logits(path), hashed(path, 2), strict=True)]


@lru_cache(maxsize=100_000)
def recent_logits(path: Path) -> list[float]:
    """Of the last tokens alone, as few as any window of the draft's KV keeps: what it ranks is the same wherever the window stands."""
    return [2.0 * x for x in hashed(path[-RECENT:], 3)]


def state_of(path: Path, salt: int) -> Path:
    """`STATE_SIZE` numbers that bfloat16 holds, of the last tokens alone."""
    key = salt
    for token in path[-RECENT:]:
        key = mix64(key * 31 + token + 1)
    return tuple((key >> 8 * i) & 255 for i in range(STATE_SIZE))


class Fed(StateInputs):
    """The states themselves."""

    def __init__(self) -> None:
        super().__init__(torch.empty(0), torch.empty(0))

    def rows(self, states: Sequence[torch.Tensor | None]) -> torch.Tensor:
        return torch.stack([torch.tensor(NO_STATE, dtype=torch.float32) if state is None else state for state in states])


class ScriptedRunner:
    """Stands where `ModelRunner` does; `tick` is called once a run, since a step takes time. `salt` is of its states."""

    def __init__(self, logits: Logits, slots: int, tick: Callable[[], None], salt: int = 1):
        self.logits, self.tick, self.salt = logits, tick, salt
        self.cache = KvCache(1, 1, 1 + STATE_SIZE, slots, torch.int64, torch.device("cpu"))
        self.vocab_size, self.attention_calls, self.forward = VOCAB_SIZE, 1, SimpleNamespace(hidden_size=STATE_SIZE)

    def run(self, segments: list[Segment]) -> RunResult:
        self.tick()
        for segment in segments:
            slots = segment.kv.slots[len(segment.kv) - len(segment) :]
            prefixes = self.cache.allocator.prefixes
            assert prefixes is None or not set(slots) & set(prefixes.slots()), "a shared slot is written"
            self.cache.data[0, 0, 0, slots, 0] = torch.tensor(list(segment.tokens), dtype=torch.int64)
            self.cache.data[0, 1, 0, slots, 0] = torch.tensor(list(segment.positions), dtype=torch.int64)
            if segment.inputs is not None:
                self.cache.data[0, 0, 0, slots, 1:] = segment.inputs.long()
        rows = [self.logits(path) for segment in segments for path in seen_paths(segment, segment.outputs)]
        states = [state_of(path, self.salt) for segment in segments for path in seen_paths(segment, segment.states)]
        logits = torch.tensor(rows, dtype=torch.float64).view(-1, VOCAB_SIZE)
        return RunResult(logits, 0.005, torch.tensor(states, dtype=torch.float32).view(-1, STATE_SIZE))

    def as_loaded(self, reads_states: bool = False) -> LoadedModel:
        return LoadedModel(self, CONTEXT, "scripted", state_inputs=Fed() if reads_states else None)  # type: ignore[arg-type]


def stored(kv: KvSequence) -> tuple[list[int], list[int]]:
    """Tokens and positions that the sequence's slots hold."""
    held = kv.cache.data[0, :, 0, kv.slots, 0].tolist()
    return held[0], held[1]


def stored_states(kv: KvSequence) -> list[Path]:
    """The states that the tokens in the sequence's slots were run with."""
    return [tuple(state) for state in kv.cache.data[0, 0, 0, kv.slots, 1:].tolist()]


def seen_paths(segment: Segment, rows: Iterable[int]) -> list[Path]:
    """The tokens that each of these rows of the segment sees. Raises AssertionError unless they stand at positions 0, 1, 2 ...,
    but for those that a window has skipped."""
    tokens, positions = stored(segment.kv)
    paths = []
    for row in rows:
        entries = [*range(segment.prefix[row]), *(segment.lines[row] if segment.lines is not None else ())]
        wanted = [i if i < segment.sinks else i + segment.skipped for i in range(len(entries))]
        assert [positions[i] for i in entries] == wanted, "a position is missing, doubled or out of order"
        paths.append(tuple(tokens[i] for i in entries))
    return paths


def _row(path: Path, sampling: SamplingParams, seed: int) -> Rows:
    return Rows(sampling, seed, [len(path)], (), processors_of(sampling, path, (), (), VOCAB_SIZE))


@lru_cache(maxsize=1000)
def truth(prompt: Path, sampling: SamplingParams, seed: int, n: int) -> Path:
    """The `n` tokens after the prompt, one full look at the path for each."""
    path = prompt
    for _ in range(n):
        path += tuple(choose(torch.tensor([target_logits(path)], dtype=torch.float64), [_row(path, sampling, seed)]))
    return path[len(prompt) :]


@lru_cache(maxsize=100_000)
def draftable(path: Path, sampling: SamplingParams, seed: int, width: int, logits: Logits = draft_logits) -> frozenset[int]:
    """The tokens that a draft with these logits may put below `path`."""
    ranked, _ = rank(torch.tensor([logits(path)], dtype=torch.float64), [_row(path, sampling, seed)], width)
    return frozenset(ranked[0])
