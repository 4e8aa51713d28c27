"""Which requests a cancellation bench sends, by which way, and which of them it cuts short, and where.

Promises: pure; a traffic is a function of its arguments; exactly the given share is cut, and a cut that came after its request's
end is made again on another one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

WAYS = ("http", "http stream", "grpc", "grpc stream")

CUTS = ("cancel", "deadline")
"""How gRPC calls are cut; over HTTP a client goes away."""

LATEST_CUT = 0.9
"""Of the time that a request usually takes: one that is cut later has often ended by then."""


@dataclass(frozen=True, slots=True)
class Call:
    """`cut_at` is the point where it is cut, as a share of the time that requests usually take; None: never. `prompt_share` is
    the length of its prompt as a share of the longest, on a logarithmic scale."""

    way: str
    prompt: int
    prompt_share: float
    tokens: int
    seed: int
    cut_at: float | None
    cut: str
    client: int = 0
    speculation: str = "auto"


def traffic(
    count: int, share: float, prompts: int, tokens: tuple[int, int], seed: int, clients: int = 1, modes: Sequence[str] = ("auto",)
) -> list[Call]:
    """`count` calls, `share` of them cut; output lengths evenly within `tokens`, both ends included; `clients` and `modes` as often as
    each other."""
    rng = np.random.default_rng(seed)
    cut = set(rng.permutation(count)[: round(share * count)].tolist())
    return [
        Call(
            way=WAYS[int(rng.integers(len(WAYS)))],
            prompt=int(rng.integers(prompts)),
            prompt_share=float(rng.random()),
            tokens=int(rng.integers(tokens[0], tokens[1] + 1)),
            seed=int(rng.integers(1 << 31)),
            cut_at=LATEST_CUT * point if i in cut else None,
            cut=CUTS[kind],
            client=int(rng.integers(clients)),
            speculation=modes[int(rng.integers(len(modes)))],
        )
        for i, (point, kind) in enumerate(zip(rng.random(count).tolist(), rng.integers(len(CUTS), size=count).tolist(), strict=True))
    ]


class Waiting:
    """Calls that have not been sent yet, in order."""

    def __init__(self, calls: Sequence[Call]):
        self._calls = deque(calls)

    def __len__(self) -> int:
        return len(self._calls)

    def take(self) -> Call:
        return self._calls.popleft()

    def hand_on(self, late: Call) -> None:
        """The cut of a call that had ended before it goes to the next one that has none, at half the time; where all have one, the
        call is sent once more."""
        assert late.cut_at is not None
        cut_at = late.cut_at / 2
        for i, call in enumerate(self._calls):
            if call.cut_at is None:
                self._calls[i] = replace(call, cut_at=cut_at, cut=late.cut)
                return
        self._calls.append(replace(late, cut_at=cut_at))


def prompt_of(call: Call, texts: list[str], longest: int) -> str:
    """Its last so many characters: no more tokens than characters, so it fits whatever the tokenizer."""
    length = round(np.exp(call.prompt_share * np.log(longest)))
    text = texts[call.prompt]
    return (text * (1 + length // len(text)))[-length:]
