"""Which drafters each verifier may open sessions on.

Promises: small pools pair fully. In larger ones every verifier gets MAX_DRAFTERS_PER_VERIFIER
drafters that fit it, no drafter serves more than an equal share of verifiers, rounded up, as long as
another fits, and a replica that comes or goes leaves most other pairs as they are (rendezvous
hashing: Thaler and Ravishankar, 1998). The outcome depends on the replicas alone, so a restarted
controller decides the same.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.policy.vocabularies import agree

MAX_DRAFTERS_PER_VERIFIER = 8
"""A verifier keeps a stream to each; more add connections, but hardly any choice."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A replica to pair; `vocabulary` empty: not known, so it fits all and has the last word when a session opens."""

    replica: str
    vocabulary: str = ""


def fits(verifier: Peer, drafter: Peer) -> bool:
    """Models of one tokenizer do, however far each pads its output layer."""
    return agree(verifier.vocabulary, drafter.vocabulary)


def pair(verifiers: Sequence[Peer], drafters: Sequence[Peer], limit: int = MAX_DRAFTERS_PER_VERIFIER) -> dict[str, tuple[str, ...]]:
    """Drafters' replica ids for each verifier's, best affinity first.

    Costs a hash for each verifier and drafter that fit: call it when the replicas change.
    """
    ranked = {v.replica: _by_affinity(v, drafters) for v in verifiers}
    chosen = {verifier: [name for _, name in fitting] for verifier, fitting in ranked.items() if len(fitting) <= limit}
    crowded = {verifier: fitting for verifier, fitting in ranked.items() if verifier not in chosen}
    chosen |= _spread(crowded, limit)
    return {v.replica: tuple(chosen[v.replica]) for v in verifiers}


def affinity(verifier: str, drafter: str) -> int:
    digest = hashlib.blake2b(f"{verifier}\0{drafter}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


Ranked = list[tuple[int, str]]
"""(affinity, drafter), strongest first."""


def _by_affinity(verifier: Peer, drafters: Sequence[Peer]) -> Ranked:
    return sorted(((affinity(verifier.replica, d.replica), d.replica) for d in drafters if fits(verifier, d)), reverse=True)


def _spread(ranked: dict[str, Ranked], limit: int) -> dict[str, list[str]]:
    """The strongest affinities first, no drafter beyond an equal share; then what is missing, to whoever serves fewest."""
    share = -(-limit * len(ranked) // max(len({drafter for fitting in ranked.values() for _, drafter in fitting}), 1))
    strongest = sorted(((strength, v, d) for v, fitting in ranked.items() for strength, d in fitting), reverse=True)
    chosen: dict[str, list[str]] = {verifier: [] for verifier in ranked}
    served: Counter[str] = Counter()
    for _, verifier, drafter in strongest:
        if len(chosen[verifier]) < limit and served[drafter] < share:
            chosen[verifier].append(drafter)
            served[drafter] += 1
    for verifier, mine in chosen.items():
        left = [drafter for _, drafter in ranked[verifier] if drafter not in mine] if len(mine) < limit else []
        for drafter in sorted(left, key=lambda name: served[name])[: limit - len(mine)]:
            mine.append(drafter)
            served[drafter] += 1
    return chosen
