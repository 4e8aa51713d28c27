"""The hidden states that a session's draft reads: the target's where tokens are committed, its own where they are drafted.

Promises: each token is run with the state that chose it. Of a committed token that is the target's, which came with its commit; one
whose state did not come is run without. Of a drafted one it is the draft's own at the parent, so a node is run only after its parent,
in a later pass. What was drafted with own states is run again once it is committed. The leading `alone` tokens are run without states,
so their KV tells of tokens alone and may be shared. While states of a prompt's end are to come, only these are run.
"""

from collections.abc import Sequence

import torch

from drafthouse.engine.hidden_states import from_bytes
from drafthouse.errors import WireError
from drafthouse.wire.states import PROMPT_ROWS

LEAST_ALONE = 16
"""Fewer leading tokens are not worth a pass before the states of the others have come."""


class SessionStates:
    def __init__(self, size: int, tokens: int, to_come: int, device: torch.device):
        """Of `tokens` committed ones, the states of the last `to_come` should come with the first commit."""
        self._size, self._device = size, device
        self._waits = to_come > 0
        self.alone = tokens - to_come if tokens - to_come >= LEAST_ALONE or not to_come else 0
        self._targets: dict[int, torch.Tensor] = {}  # by the position of the token that it chose, of tokens that are still to be run
        self._own: dict[int, torch.Tensor] = {}  # of a node that the draft has run on, or of the root; all are `[size]`

    def runnable(self, tokens: int) -> int:
        """How many of the committed `tokens` the draft may run on by now."""
        return self.alone if self._waits else tokens

    def commit(self, data: bytes, tokens: int, cached: int) -> None:
        """There are `tokens` committed ones by now, of which the first `cached` were run. `data` are the states that chose the last ones.

        Raises WireError where it is no such thing.
        """
        try:
            rows = from_bytes(data, self._size)
        except ValueError as error:
            raise WireError(f"commit.states: {error}") from None
        if len(rows) >= tokens:
            raise WireError(f"commit.states: {len(rows)} states, and {tokens} tokens are committed, the first of which none chose")
        rows, first, to_run = rows.to(self._device), tokens - len(rows), max(cached, self.alone)
        self._targets.update((position, row) for position, row in enumerate(rows, first) if position >= to_run)
        for position in list(self._targets)[:-PROMPT_ROWS]:
            del self._targets[position]
        self._waits, self._own = False, {}

    def of_tokens(self, first: int, count: int) -> list[torch.Tensor | None]:
        """What committed tokens are run with."""
        return [self._targets.get(position) for position in range(first, first + count)]

    def of_nodes(self, parents: Sequence[int]) -> list[torch.Tensor | None]:
        """What the children of these nodes are run with."""
        return [self._own[parent] for parent in parents]

    def were_run(self, nodes: Sequence[int], states: torch.Tensor, cached: int) -> None:
        """The draft's own states `[nodes, size]` after a pass; the first `cached` committed tokens have been run by now."""
        self._own.update(zip(nodes, states, strict=True))
        for position in [position for position in self._targets if position < cached]:
            del self._targets[position]

    def forget_own(self) -> None:
        self._own = {}
