"""Drafts that read the target's hidden states, made in memory, and what their tokens were run with.

Promises: what is added to embeddings is SCALE times the state, so that a test can tell which state it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.engine.state_inputs import StateInputs
from tests.engine.pairs import loaded, noisy_copy

SCALE = 0.02


def fuse(size: int, scale: float = SCALE) -> StateInputs:
    return StateInputs(scale * torch.eye(size), torch.full((size,), 2.0 * scale))


@dataclass
class Run:
    """Of one segment: whether it held drafted nodes, its tokens, their positions and the states that they were run with."""

    nodes: bool
    tokens: list[int]
    positions: list[int]
    states: torch.Tensor


@dataclass(eq=False)
class WatchedRunner(ModelRunner):
    """Keeps what it was given."""

    runner: ModelRunner
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.runner.forward, self.runner.cache)

    def run(self, segments: Sequence[Segment]) -> RunResult:
        for s in segments:
            assert s.inputs is not None
            self.runs.append(Run(s.lines is not None, [int(t) for t in s.tokens], [int(p) for p in s.positions], s.inputs / SCALE))
        return super().run(segments)


def reader(noise: float = 0.02, dtype: torch.dtype = torch.float64, kv_tokens: int = 4096, prefix_cache: str = "off") -> LoadedModel:
    """A noisy copy of the tiny target that has the states in its embeddings, too; its runner is a `WatchedRunner`."""
    model = loaded(noisy_copy("llama", 0, noise).to(dtype), kv_tokens, prefix_cache)
    return replace(model, runner=WatchedRunner(model.runner), state_inputs=fuse(model.state_size))


def runs_of(draft: LoadedModel) -> list[Run]:
    assert isinstance(draft.runner, WatchedRunner)
    return draft.runner.runs
