"""The verifier's side of drafting: which sequence has a session on which drafter, and what arrived of it.

Promises: `epoch` rises with every pairing of a request, and messages of an older epoch are ignored,
so an old drafter that wakes up does no harm. A message that breaks the protocol ends its own
session; the sequence goes on without drafts and is paired again later.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from drafthouse.config import TreeConfig, VerifierConfig
from drafthouse.errors import WireError
from drafthouse.messages import Close, Commit, Dropped, Grow, Open, Opened, Refused, ToDrafterMessage, ToVerifierMessage
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.batch_table import chain_length
from drafthouse.policy.honesty import Honesty
from drafthouse.speculation import Speculation
from verifier.sequence import DraftLink, Sequence

NOT_WANTED = 1.0
"""A price that no node is worth: the drafter only keeps its KV in step."""

RETRY_S = 1.0
"""A sequence whose session was refused or dropped waits so long before it is paired again."""


class Drafting:
    def __init__(self, config: VerifierConfig, tree: TreeConfig, vocab_size: int, fingerprint: str):
        self.batch_table, self.tree = config.batch_table, tree
        self.vocab_size, self.fingerprint = vocab_size, fingerprint
        self.decoding = 1  # sequences that decode in the current step
        self.drafters: list[str] = []
        self.counts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._epoch = 0  # one for all requests and never forgotten: an id that is used again must not meet its old messages
        self.honesty: defaultdict[str, Honesty] = defaultdict(Honesty)
        self._retry_at: dict[str, float] = {}
        self._outbox: defaultdict[str, list[ToDrafterMessage]] = defaultdict(list)

    def set_drafters(self, drafters: Iterable[str]) -> None:
        self.drafters = list(drafters)

    def add_drafter(self, drafter: str) -> None:
        if drafter not in self.drafters:
            self.drafters.append(drafter)

    def take_outbox(self) -> dict[str, list[ToDrafterMessage]]:
        out, self._outbox = dict(self._outbox), defaultdict(list)
        return out

    def open(self, sequence: Sequence, price: float, now: float) -> None:
        """Pairs the sequence with the drafter that has fewest of our sessions, if there is one."""
        if not self.drafters or not sequence.speculates or self._retry_at.get(sequence.id, 0.0) > now:
            return
        drafter = min(self.drafters, key=lambda d: self.counts[d])
        self._epoch += 1
        link = DraftLink(drafter, self._epoch, base_len=len(sequence.tokens), committed_at=now)
        sequence.link = link
        self.counts[drafter] += 1
        self.events["opened"] += 1
        r = sequence.request
        max_nodes, max_depth, width = self._limits(r.speculation)
        self._outbox[drafter].append(
            Open(
                session=sequence.id, epoch=link.epoch, tokens=tuple(sequence.tokens), sampling=r.sampling, seed=r.seed,
                noise_version=NOISE_VERSION, target_fingerprint=self.fingerprint,
                max_nodes=max_nodes, max_depth=max_depth, price=self._asked(sequence, price), vocab_size=self.vocab_size, width=width,
            )
        )  # fmt: skip

    def commit(self, sequence: Sequence, tokens: list[int], price: float, now: float) -> None:
        """Tells the drafter what the last step committed; `sequence.tokens` holds them already."""
        link = sequence.link
        if link is None:
            return
        base_len = link.base_len
        link.commit(tokens, now)
        message = Commit(sequence.id, link.epoch, base_len, tuple(tokens), self._asked(sequence, price))
        self._outbox[link.drafter].append(message)

    def _limits(self, speculation: Speculation) -> tuple[int, int, int]:
        """Nodes, depth and width of a session's tree."""
        match speculation.mode:
            case "fixed":
                return speculation.nodes, speculation.depth, speculation.width
            case "table":
                longest = max(1, *(length for _, length in self.batch_table))
                return longest, longest, 1
        return self.tree.max_nodes, self.tree.max_depth, 0

    def wanted(self, speculation: Speculation) -> int:
        """Nodes of the tree that a request of set size waits for and verifies."""
        return chain_length(self.batch_table, self.decoding) if speculation.mode == "table" else speculation.nodes

    def _asked(self, sequence: Sequence, price: float) -> float:
        """The price in the drafter's own currency: what it must promise for `price` tokens to come of it."""
        assert sequence.link is not None
        if sequence.request.speculation.waits:
            return 0.0 if self.wanted(sequence.request.speculation) else NOT_WANTED
        return price / self.honesty[sequence.link.drafter].ratio

    def believed(self, sequence: Sequence) -> float:
        """Share of what the sequence's drafter promises that usually comes true."""
        return self.honesty[sequence.link.drafter].ratio if sequence.link is not None else 1.0

    def close(self, sequence: Sequence) -> None:
        """The request is over: ends its session."""
        if sequence.link is not None:
            self._outbox[sequence.link.drafter].append(Close(sequence.id, sequence.link.epoch))
            self._unlink(sequence)
        self._retry_at.pop(sequence.id, None)

    def _unlink(self, sequence: Sequence) -> None:
        assert sequence.link is not None
        self.counts[sequence.link.drafter] -= 1
        sequence.link = None

    def receive(self, drafter: str, sequence: Sequence | None, message: ToVerifierMessage, now: float) -> None:
        link = sequence.link if sequence is not None else None
        if sequence is None or link is None or link.drafter != drafter or link.epoch != message.epoch:
            self.events["stale"] += 1
            return
        match message:
            case Opened():
                pass  # nothing hangs on it: the first Grow says the same and more
            case Refused() | Dropped():
                self.events["refused" if isinstance(message, Refused) else "dropped"] += 1
                self._retry_at[sequence.id] = now + RETRY_S
                self._unlink(sequence)
            case Grow():
                self._grow(sequence, link, message, now)

    def _grow(self, sequence: Sequence, link: DraftLink, message: Grow, now: float) -> None:
        limit = max(4 * self.tree.max_nodes, sequence.request.speculation.nodes)
        try:
            if message.first_index == 0:
                message.nodes.check(self.vocab_size, limit)
            new = link.graft(message, sequence.tokens, now)
            if message.first_index:
                link.tree.check(self.vocab_size, limit)
        except (ValueError, WireError) as error:
            self.fail(sequence, str(error), now)
            return
        sequence.count(drafted=new)
        self.events["drafted"] += new

    def fail(self, sequence: Sequence, reason: str, now: float) -> None:
        """A malformed message: its session ends, the sequence goes on."""
        link = sequence.link
        if link is not None:
            self.events["malformed"] += 1
            self._outbox[link.drafter].append(Close(sequence.id, link.epoch))
            self._retry_at[sequence.id] = now + RETRY_S
            self._unlink(sequence)

    def lost(self, drafter: str, sequences: Iterable[Sequence]) -> None:
        """The drafter's stream is gone: its sequences go on at N = 0 and are paired anew."""
        self._outbox.pop(drafter, None)
        if drafter in self.drafters:
            self.drafters.remove(drafter)
        for sequence in sequences:
            if sequence.link is not None and sequence.link.drafter == drafter:
                self._unlink(sequence)
                self.events["lost"] += 1
