"""How many layers a draft gets: a few sizes learn for a while each, and the one that promises most is made.

More layers agree more often and cost more time a pass. What counts is the predicted speed-up; a draft may run on the target's cores or on
its own, so a size is judged by the geometric mean of both.
"""

import json
import math
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from drafthouse.distillation.agreement import Agreement
from drafthouse.distillation.predicted_gain import Pace, predicted_gain
from drafthouse.distillation.shards import write_whole
from drafthouse.policy.latency import LatencyModel

SIZES = (1, 2, 4)
"""Layers that are tried, as far as the target has more."""

SHARE = 0.06
"""Of the time to learn, for each size."""

LEAST_S = 600.0
"""With less time to learn one layer is made untried: trials that short tell nothing."""

FILE = "sizes.json"


@dataclass(frozen=True, slots=True)
class Size:
    """A size that was tried: agreement (greedy, first choice), seconds of a pass of one token, and the predicted speed-ups."""

    layers: int
    first: float
    pass_s: float
    shared_cores: float
    own_cores: float

    @staticmethod
    def judged(layers: int, agreement: Agreement, target: LatencyModel, draft: LatencyModel, hidden: bool) -> "Size":
        levels = [level.greedy for level in agreement.levels]
        shared, own = (predicted_gain(levels, Pace(target, draft, each, hidden)).speed_up for each in (True, False))
        return Size(layers, agreement.first, draft.seconds(1, 0), shared, own)

    @property
    def promise(self) -> float:
        return math.sqrt(self.shared_cores * self.own_cores)


def best_size(tried: Sequence[Size]) -> Size:
    """The most promising; of equal ones the smallest."""
    return max(tried, key=lambda size: (size.promise, -size.layers))


def sizes_to_try(layers_of_target: int, seconds: float) -> list[int]:
    """None where there is no time or no choice."""
    sizes = [size for size in SIZES if size < layers_of_target]
    return sizes if seconds >= LEAST_S and len(sizes) > 1 else []


def try_sizes(sizes: Sequence[int], folder: pathlib.Path, judge: Callable[[int], Size]) -> list[Size]:
    """Those that `folder` has a record of are not tried again: a run that was killed goes on with the next."""
    path = folder / FILE
    tried = [Size(**each) for each in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    for layers in sizes:
        if all(size.layers != layers for size in tried):
            tried.append(judge(layers))
            write_whole(path, json.dumps([asdict(size) for size in tried], indent=1).encode() + b"\n")
    return tried
