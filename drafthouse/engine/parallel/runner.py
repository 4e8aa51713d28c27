"""The model runner of a tensor-parallel replica: rank 0's tells the others what to run, theirs run the same.

Promises: one message a step carries everything that a rank needs to know, KV moves since the last step
included, so a follower keeps nothing but its share of weights and KV. Followers neither choose tokens nor
schedule: what rank 0 commits is what all commit. A step that fails on one rank fails the replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drafthouse.engine.kv_cache import KvCache, SlotList
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.parallel.followers import Followers
from drafthouse.engine.parallel.process_group import leave
from drafthouse.engine.segment import Segment
from drafthouse.errors import RankError

Move = tuple[Sequence[int], Sequence[int]]
"""KV entries copied from these slots to those."""


@dataclass(frozen=True, slots=True)
class Step:
    """Moves in order, then the segments of one run; pickled, since both ends are one program."""

    moves: tuple[Move, ...]
    segments: tuple[Segment, ...]

    def run(self, runner: ModelRunner) -> RunResult:
        """A follower's part of it."""
        for source, target in self.moves:
            runner.cache.move(source, target)
        return runner.run(list(self.segments))


class SharedKvCache(KvCache):
    """Rank 0's share, which remembers its moves until they are sent."""

    def __init__(self, cache: KvCache):
        """Takes `cache` over."""
        self.data, self.allocator = cache.data, cache.allocator
        self._moves: list[Move] = []

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        super().move(source, target)
        self._moves.append((source, target))

    def take_moves(self) -> tuple[Move, ...]:
        moves, self._moves = tuple(self._moves), []
        return moves


class ParallelRunner(ModelRunner):
    """Rank 0's."""

    def __init__(self, runner: ModelRunner, followers: Followers):
        """Takes `runner` over."""
        super().__init__(runner.model, cache := SharedKvCache(runner.cache))
        self.cache: SharedKvCache = cache
        self.followers = followers

    def run(self, segments: list[Segment]) -> RunResult:
        """Raises RankError when a rank is lost; the runner is of no more use then."""
        step = Step(self.cache.take_moves(), tuple(replace(s, kv=SlotList(s.kv)) for s in segments))
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
        self.followers.close()
        leave()
