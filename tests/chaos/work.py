"""What is asked of the system: requests of every kind whose text the target alone decides.

Promises: pure; equal arguments give equal work. Greedy, sampled, and filtered with a penalty take turns, and below them
speculation by goodput and trees that the verifier waits for, so that whatever dies is in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation

SAMPLINGS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1),
)
SPECULATIONS = (Speculation("auto"), Speculation("fixed", nodes=4, depth=4))


@dataclass(frozen=True, slots=True)
class Work:
    """One request. `max_tokens` may be cut short by the target's end-of-text token."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int
    speculation: Speculation

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(fields: Mapping[str, Any]) -> Work:
    """Of a `start` event."""
    sampling = SamplingParams(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields["sampling"].items()})
    speculation = Speculation(**fields["speculation"])
    return Work(tuple(fields["prompt"]), sampling, fields["seed"], fields["max_tokens"], speculation)


def make_works(prompts: Sequence[Sequence[int]], count: int, max_tokens: int, seed: int) -> list[Work]:
    """`count` requests that differ in their seeds, and in their prompts as far as there are so many."""
    kinds = len(SAMPLINGS)
    return [
        Work(
            tuple(prompts[i % len(prompts)]), SAMPLINGS[i % kinds], seed * count + i, max_tokens,
            SPECULATIONS[i // kinds % len(SPECULATIONS)],
        )
        for i in range(count)
    ]  # fmt: skip
