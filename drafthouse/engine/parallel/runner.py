"""The model runner of a tensor-parallel replica: rank 0's tells the others what to run, theirs run the same.

Promises: one message a step carries everything that a rank needs to know, so a follower keeps nothing but its share of weights and
KV. Followers neither choose tokens nor schedule: what rank 0 commits is what all commit. A step that fails on one rank fails the
replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drafthouse.engine.kv_cache import SlotTable
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.parallel.followers import Followers
from drafthouse.engine.parallel.process_group import leave
from drafthouse.engine.segment import Segment
from drafthouse.errors import RankError


@dataclass(frozen=True, slots=True)
class Step:
    """The segments of one run; pickled, since both ends are one program."""

    segments: tuple[Segment, ...]

    def run(self, runner: ModelRunner) -> RunResult:
        """A follower's part of it."""
        return runner.run(list(self.segments))


class ParallelRunner(ModelRunner):
    """Rank 0's."""

    def __init__(self, runner: ModelRunner, followers: Followers):
        """Takes `runner` over."""
        super().__init__(runner.forward, runner.cache)
        self.followers = followers

    def run(self, segments: Sequence[Segment]) -> RunResult:
        """Raises RankError when a rank is lost; the runner is of no more use then. No segment has `inputs`: drafts that read states run
        in one process."""
        step = Step(tuple(replace(s, kv=SlotTable(s.kv.slots)) for s in segments))
        assert all(s.inputs is None for s in step.segments)
        try:
            self.followers.send(step)
            return super().run(segments)
        except Exception as error:  # whatever it was, the ranks no longer stand at the same place
            self.followers.lose(f"rank 0: {type(error).__name__}: {error}")
            raise RankError(f"the replica's ranks cannot go on: {self.followers.reason}") from error

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(pid for _, pid in sorted(self.followers.pids.items()))

    def close(self) -> None:
        """Lets the other ranks end and takes the process group apart, so that this process may load another model."""
        super().close()
        self.followers.close()
        leave()
