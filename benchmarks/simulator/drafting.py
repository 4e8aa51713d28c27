"""The simulated verifier's side of drafting: which sequence has a session where, and what is asked of it (`verifier/drafting.py`)."""

from collections import Counter, defaultdict
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

import simpy

from benchmarks.simulator.draft_tree import DraftTree
from benchmarks.simulator.options import Options
from benchmarks.simulator.sequence import Link, Sequence
from benchmarks.simulator.wire import Close, Commit, Grow, Open, ToDrafter, ToVerifier, after
from drafthouse.policy.batch_table import chain_length
from drafthouse.policy.honesty import Honesty
from verifier.drafting import NOT_WANTED, RETRY_S

if TYPE_CHECKING:
    from benchmarks.simulator.drafter import SimDrafter
    from benchmarks.simulator.verifier import SimVerifier


class SimDrafting:
    def __init__(self, verifier: "SimVerifier", env: simpy.Environment, options: Options):
        self._verifier, self._env, self._options = verifier, env, options
        self._speculation, self._half_trip_s = options.speculation, options.round_trip_s / 2
        self.drafters: Many[SimDrafter] = ()
        self.honesty: defaultdict[SimDrafter, Honesty] = defaultdict(Honesty)
        self.decoding = 1
        self.drafted = 0
        self._linked: dict[DraftTree, Sequence] = {}
        self._counts: Counter[SimDrafter] = Counter()
        self._outbox: defaultdict[SimDrafter, list[ToDrafter]] = defaultdict(list)

    def open(self, sequence: Sequence, price: float, now: float) -> None:
        """Pairs the sequence with the drafter that has fewest of our sessions, if there is one."""
        if not self.drafters or self._speculation.mode == "off" or sequence.retry_at > now:
            return
        drafter = min(self.drafters, key=lambda d: self._counts[d])
        text = sequence.request.text
        root = sequence.output - 1
        sequence.link = link = Link(drafter, DraftTree(text), root, now)
        self._linked[link.tree] = sequence
        self._counts[drafter] += 1
        nodes, depth, width = self._limits()
        tokens = text.prompt_tokens + sequence.output
        self._outbox[drafter].append(Open(link.tree, self._verifier, tokens, root, nodes, depth, width, self._asked(link, price)))

    def commit(self, sequence: Sequence, price: float, now: float) -> None:
        """Tells the drafter what the last step committed."""
        link = sequence.link
        assert link is not None
        link.commit(sequence.output - 1, now)
        self._outbox[link.drafter].append(Commit(link.tree, link.root, self._asked(link, price)))

    def close(self, sequence: Sequence) -> None:
        if sequence.link is not None:
            self._outbox[sequence.link.drafter].append(Close(sequence.link.tree))
            self._unlink(sequence)

    def receive(self, messages: list[ToVerifier], now: float) -> None:
        for message in messages:
            sequence = self._linked.get(message.tree)
            if sequence is None or sequence.link is None:
                continue
            if isinstance(message, Grow):
                self.drafted += sequence.link.graft(message, now)
            else:
                sequence.retry_at = now + RETRY_S
                self._unlink(sequence)

    def flush(self) -> None:
        """Sends what there is to say, one batch to each drafter."""
        for drafter, messages in self._outbox.items():
            after(self._env, self._half_trip_s, lambda drafter=drafter, messages=messages: drafter.receive(messages))
        self._outbox.clear()

    def believed(self, link: Link) -> float:
        return self.honesty[link.drafter].ratio

    @property
    def wanted(self) -> int:
        """Nodes of the tree that a policy of set size waits for and verifies."""
        s = self._speculation
        return chain_length(self._options.config.verifier.batch_table, self.decoding) if s.mode == "table" else s.nodes

    def _limits(self) -> tuple[int, int, int]:
        s, config = self._speculation, self._options.config
        if s.mode == "fixed":
            return s.nodes, s.depth, s.width or config.tree.width
        if s.mode == "table":
            longest = max(1, *(length for _, length in config.verifier.batch_table))
            return longest, longest, 1
        return config.tree.max_nodes, config.tree.max_depth, config.tree.width

    def _asked(self, link: Link, price: float) -> float:
        if self._speculation.waits:
            return 0.0 if self.wanted else NOT_WANTED
        return price / self.believed(link)

    def _unlink(self, sequence: Sequence) -> None:
        assert sequence.link is not None
        del self._linked[sequence.link.tree]
        self._counts[sequence.link.drafter] -= 1
        sequence.link = None
