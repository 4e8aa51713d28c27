"""Who runs when: contestants take turns on each prompt, so that what the machine does besides falls on all alike.

Promises: pure. Over `2 * len(names)` turns every contestant has every place in the order equally often,
and comes after each neighbour as often as before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SAMPLINGS = ("greedy", "sampled")
"""Temperature 0, and temperature 1 over the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation to be timed. `seed` is the same for all contestants on one prompt of one round."""

    contestant: str
    sampling: str
    prompt: int
    round: int
    seed: int


def order(names: Sequence[str], turn: int) -> list[str]:
    """The names rotated by one place every second turn; in between the same backwards."""
    shift = turn // 2 % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if turn % 2 else rotated


def turns(contestants: Sequence[str], prompts: int, rounds: int) -> Iterator[Turn]:
    """All turns of a run: within a round prompt by prompt, on each prompt both samplings, in each all contestants."""
    turn = 0
    for round_ in range(rounds):
        for prompt in range(prompts):
            for sampling in SAMPLINGS:
                for name in order(contestants, turn):
                    yield Turn(name, sampling, prompt, round_, seed=round_ * prompts + prompt)
            turn += 1
