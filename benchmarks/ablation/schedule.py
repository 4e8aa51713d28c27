"""Which turns of the plan are run, prompt by prompt, within a time limit.

Promises: turns are those of `benchmarks.harness.interleave`; it stops between prompts only, so that all
contestants have met the same ones; the first `LEAST` prompts are run whatever the time.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.interleave import Turn, turns

LEAST = 2


@dataclass
class Schedule:
    """`deadline`: on `time.monotonic`, when all turns should have ended; `prompts_run` counts those that were."""

    contestants: Sequence[str]
    prompts: int
    rounds: int
    deadline: float | None = None
    prompts_run: int = field(default=0, init=False)

    def turns(self, console: Console) -> Iterator[Turn]:
        """With a progress bar. The caller runs each turn before it asks for the next."""
        plan = list(turns(self.contestants, self.prompts, self.rounds))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        longest = 0.0
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=len(plan))
            for _, group in groupby(plan, key=lambda turn: (turn.round, turn.prompt)):
                started = time.monotonic()
                if self.deadline is not None and self.prompts_run >= LEAST and started + longest > self.deadline:
                    return
                for turn in group:
                    progress.update(task, description=f"{turn.contestant}, {turn.sampling}")
                    yield turn
                    progress.advance(task)
                longest = max(longest, time.monotonic() - started)
                self.prompts_run += 1
