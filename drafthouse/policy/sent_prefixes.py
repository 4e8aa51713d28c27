"""Which verifier was sent which beginnings of texts: what a gateway knows of their prefix caches.

Promises: pure, and the same calls give the same answers. At most `most` blocks are remembered, all verifiers together; the least
recently sent go first, from the ends of texts. Texts of different keys have no block in common.
"""

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, islice

BLOCK_TOKENS = 32
"""A beginning counts in whole blocks of this many tokens."""

MOST_BLOCKS_OF_A_TEXT = 256
"""8,192 tokens. What texts have in common beyond that does not decide where they go."""

MOST_BLOCKS = 65536
"""Two million tokens, in some 16 MB of memory."""

Place = tuple[str, str]
"""A verifier by name and address: one that restarts has another address, and an empty cache."""


def blocks_of(key: str, prompt: Sequence[int], output: Sequence[int]) -> list[int]:
    """A hash for each whole block of the text, of all tokens up to its end. Gateways agree on them: nothing in it is drawn per process."""
    tokens = tuple(islice(chain(prompt, output), BLOCK_TOKENS * MOST_BLOCKS_OF_A_TEXT))
    blocks, state = [], zlib.crc32(key.encode())
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        state = hash((state, tokens[end - BLOCK_TOKENS : end]))
        blocks.append(state)
    return blocks


class SentPrefixes:
    """`len` is the number of blocks remembered."""

    def __init__(self, most: int = MOST_BLOCKS):
        self._most = most
        # By (block, era), least recently sent first. Blocks of a text come in from its end on, so what is left of it is a beginning.
        self._sent: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._eras: dict[Place, int] = {}  # a number of its own for each verifier; another one once it was forgotten
        self._last_era = 0

    def __len__(self) -> int:
        return len(self._sent)

    def remember(self, place: Place, blocks: Sequence[int]) -> None:
        """The verifier has, or is about to have, the text of these blocks in its cache."""
        if place not in self._eras:
            self._last_era += 1
            self._eras[place] = self._last_era
        era = self._eras[place]
        for block in reversed(blocks):
            self._sent[block, era] = None
            self._sent.move_to_end((block, era))
        while len(self._sent) > self._most:
            self._sent.popitem(last=False)

    def tokens(self, place: Place, blocks: Sequence[int]) -> int:
        """How many first tokens of the text of these blocks the verifier was sent."""
        era = self._eras.get(place)
        if era is None:
            return 0
        low, high = 0, len(blocks)
        while low < high:  # a block that is there was sent with all before it; those from `high` on are not there
            middle = (low + high) // 2
            low, high = (middle + 1, high) if (blocks[middle], era) in self._sent else (low, middle)
        return low * BLOCK_TOKENS

    def take_back(self, place: Place, blocks: Sequence[int]) -> None:
        """The verifier did not take what was remembered so."""
        for block in blocks:
            self._sent.pop((block, self._eras.get(place, 0)), None)

    def forget(self, name: str) -> None:
        """The verifier of this name may have lost its cache."""
        self._eras = {place: era for place, era in self._eras.items() if place[0] != name}

    def keep(self, places: set[Place]) -> None:
        """Forgets all other verifiers."""
        self._eras = {place: era for place, era in self._eras.items() if place in places}
