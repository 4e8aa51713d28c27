"""How the target's hidden states travel: a drafter asks for them once on each stream, and commits carry them as bytes.

A drafter whose draft reads them sends `drafthouse-states: SIZE ROWS` in the metadata with which it takes a stream: the numbers in a
state of its draft, and how many states of a prompt's last tokens it can use. A verifier whose target's states have this size sends
them with its commits; any other sends none, and the drafter drafts from tokens. `drafthouse.wire.dialect` has the feature.

Promises: what a peer says is bounded. A row is SIZE bfloat16 numbers, little-endian.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from drafthouse.errors import WireError

STATES_METADATA = "drafthouse-states"

PROMPT_ROWS = 256
"""Of a prompt's last tokens: what a draft of one layer makes of a state that lies further back does not change what it drafts."""

NUMBER_BYTES = 2

MAX_STATES_BYTES = 16 << 20
"""Of one commit: 256 states of 32,768 numbers. A coalesced message holds this much in all."""


@dataclass(frozen=True, slots=True)
class StatesWish:
    """What a drafter asks for: states of `size` numbers, and those of the last `rows` tokens of a prompt."""

    size: int
    rows: int = PROMPT_ROWS

    @property
    def row_bytes(self) -> int:
        return NUMBER_BYTES * self.size

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((STATES_METADATA, f"{self.size} {self.rows}"),)


def wish_in(metadata: Iterable[tuple[str, str | bytes]]) -> StatesWish | None:
    """What the drafter that sent this metadata asks for; None where it asks for nothing. Raises WireError where that cannot be read."""
    said = next((value for name, value in metadata if name == STATES_METADATA), None)
    if said is None:
        return None
    words = re.fullmatch(r"(\d{1,9}) (\d{1,9})", str(said)[:64])
    wish = StatesWish(int(words[1]), int(words[2])) if words is not None else StatesWish(0, 0)
    if not 0 < wish.rows * wish.row_bytes <= MAX_STATES_BYTES:
        raise WireError(f"{STATES_METADATA}: it must be SIZE ROWS, both at least 1, for states of {MAX_STATES_BYTES} bytes at most")
    return wish


def states_field(name: str, value: bytes) -> bytes:
    if len(value) > MAX_STATES_BYTES or len(value) % NUMBER_BYTES:
        raise WireError(f"{name} has {len(value)} bytes; it must be bfloat16 numbers, of {MAX_STATES_BYTES} bytes at most")
    return value
