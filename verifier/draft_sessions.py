"""The verifier's side of drafting: which sequence has a session on which drafter, and what arrived of it.

Promises: `epoch` rises with every pairing of a request, and messages of an older epoch are ignored,
so an old drafter that wakes up does no harm. A message that breaks the protocol ends its own
session; the sequence goes on without drafts and is paired again later. Without sessions nothing is sent,
and what a drafter refuses for good it is not asked for again.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import WireError
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.batch_table import chain_length
from drafthouse.speculation import Speculation
from drafthouse.telemetry.log_lines import log_event
from drafthouse.token_tree import TokenTree
from drafthouse.wire.fields import shown
from drafthouse.wire.session_messages import (
    Close,
    Commit,
    Dropped,
    Grow,
    Hold,
    Open,
    Opened,
    Refused,
    Scope,
    ToDrafterMessage,
    ToVerifierMessage,
)
from drafthouse.wire.states import StatesWish
from drafthouse.wire.totals import SessionEvents, VerifyTotals
from verifier.draft_session import DrafterRecord, DraftSession
from verifier.sequence import Sequence

logger = logging.getLogger(__name__)

NOT_WANTED = 1.0
"""A `min_confidence` that no node is worth: the drafter only keeps its KV in step."""

RETRY_S = 1.0
"""A drafter that refused or dropped a sequence's session is not asked again for this long; others are, at once."""

REMEMBERED = 64
"""Records kept of drafters without a stream, which may come back. A replica's name is never used twice, so in a pool that scales
records would gather for ever."""


class DraftSessions:
    def __init__(self, config: VerifierConfig, tree: TreeConfig, target: LoadedModel, totals: VerifyTotals):
        self.batch_table, self.tree = config.batch_table, tree
        self.vocab_size, self.fingerprint, self.vocabulary = target.runner.vocab_size, target.fingerprint, target.vocabulary
        self._target, self._totals = target, totals
        self.drafters: list[str] = []
        self.records: defaultdict[str, DrafterRecord] = defaultdict(DrafterRecord)
        self.events = SessionEvents()
        self.decoding = 1  # sequences that decode in the current step
        self._epoch = 0  # one for all requests and never forgotten: an id that is used again must not meet its old messages
        self._retry_at: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by sequence, by drafter
        self._outbox: defaultdict[str, list[ToDrafterMessage]] = defaultdict(list)

    @property
    def able(self) -> int:
        """Drafters that may draft here, now or later."""
        return sum(not self.records[drafter].unfit for drafter in self.drafters)

    def set_drafters(self, drafters: Iterable[str]) -> None:
        self.drafters = list(drafters)

    def add_drafter(self, drafter: str, wish: StatesWish | None = None) -> None:
        """It has a stream here, on which it asks for these states. Where they are of another size than the target's, it gets none."""
        if drafter not in self.drafters:
            self.drafters.append(drafter)
        if wish is not None and wish.size != (size := self._target.state_size):
            said = "drafter %s reads hidden states of %d numbers, the target's have %d: it is sent none, and drafts from tokens"
            logger.warning(said, drafter, wish.size, size)
            wish = None
        self.records[drafter].wish = wish

    def take_outbox(self) -> dict[str, list[ToDrafterMessage]]:
        out, self._outbox = dict(self._outbox), defaultdict(list)
        return out

    def _send(self, drafter: str, message: ToDrafterMessage) -> None:
        self._outbox[drafter].append(message)
        self._totals.draft_messages += 1

    def open(self, sequence: Sequence, price: float, now: float, probe: bool = False) -> bool:
        """Pairs the sequence with a drafter, as `drafter_for` says. Returns False when none may be asked now."""
        retry_at = self._retry_at[sequence.id]
        trusted = [d for d in self.drafters if retry_at.get(d, now) <= now and self.records[d].usable(now)]
        drafter = self.drafter_for(sequence, trusted)
        if drafter is None:
            return False
        self._epoch += 1
        sequence.draft_session = session = self.session(sequence, drafter, self._epoch, price, probe)
        self.records[drafter].sessions += 1
        self.events.opened += 1
        self._totals.trees += 1
        self._send(drafter, self.opening(sequence, session, price))
        return True

    def drafter_for(self, sequence: Sequence, usable: list[str]) -> str | None:
        """Where a new session goes, if anywhere: to the drafter that has fewest of ours."""
        return min(usable, key=lambda d: self.records[d].sessions, default=None)

    def node_price(self, sequence: Sequence) -> float:
        """What its drafter's time for one more node is worth to others, in tokens."""
        return 0.0

    def session(self, sequence: Sequence, drafter: str, epoch: int, price: float, probe: bool) -> DraftSession:
        """A new session, of which nothing has been heard yet."""
        return DraftSession(drafter, epoch, len(sequence.tokens), TokenTree(), self.records[drafter], price, probe)

    def opening(self, sequence: Sequence, session: DraftSession, price: float) -> Open:
        """The message that opens the session at its drafter."""
        r = sequence.request
        max_nodes, max_depth, width = self._limits(r.speculation)
        session.max_nodes = max_nodes
        wish, prefills = self.records[session.drafter].wish, sequence.pending > 1
        return Open(
            session_id=sequence.id, epoch=session.epoch, tokens=tuple(sequence.tokens), sampling=r.sampling, seed=r.seed,
            noise_version=NOISE_VERSION, target_fingerprint=self.fingerprint, max_nodes=max_nodes, max_depth=max_depth,
            min_confidence=self._min_confidence(sequence, price), vocab_size=self.vocab_size, width=width,
            cache_key=r.cache_key, vocabulary=self.vocabulary, prompt_len=sequence.prompt_len, stop_tokens=r.stop_tokens,
            states_to_come=min(wish.rows, len(sequence.tokens)) - 1 if wish is not None and prefills else 0,
            traceparent=sequence.span.traceparent if sequence.span is not None else "", worth=sequence.worth,
        )  # fmt: skip

    def commit(self, sequence: Sequence, tokens: list[int], price: float, now: float) -> None:
        """Tells the drafter what the last step committed; `sequence.tokens` holds them already."""
        session = sequence.draft_session
        if session is None:
            return
        base_len = session.base_len
        session.commit(tokens, price, now)
        self._totals.trees += 1
        session.record.responsiveness.sent()
        self._send(session.drafter, self.commitment(sequence, session, base_len, tokens, price))

    def commitment(self, sequence: Sequence, session: DraftSession, base_len: int, tokens: list[int], price: float) -> Commit:
        """The message that tells the session's drafter."""
        states = session.unsent_states.take(len(sequence.tokens), len(tokens)) if session.unsent_states is not None else b""
        self._totals.state_bytes += len(states)
        least = self._min_confidence(sequence, price)
        return Commit(sequence.id, session.epoch, base_len, tuple(tokens), least, states, sequence.worth)

    def hold(self, sequences: Iterable[Sequence]) -> None:
        """A step with these sequences begins: tells their drafters, if trees are not to grow during verification."""
        for sequence in sequences if not self.tree.grow_during_verification else ():
            if sequence.draft_session is not None:
                self._send(sequence.draft_session.drafter, Hold(sequence.id, sequence.draft_session.epoch))

    def _limits(self, speculation: Speculation) -> tuple[int, int, int]:
        """Nodes, depth and width of a session's tree."""
        match speculation.mode:
            case "fixed":
                return speculation.nodes, speculation.depth, speculation.width
            case "table":
                longest = max([1, *(length for _, length in self.batch_table)])
                return longest, longest, 1
        return self.tree.max_nodes, self.tree.max_depth, 0

    def wanted(self, speculation: Speculation) -> int:
        """Nodes of the tree that a request of set size waits for and verifies."""
        return chain_length(self.batch_table, self.decoding) if speculation.mode == "table" else speculation.nodes

    def _min_confidence(self, sequence: Sequence, price: float) -> float:
        """What the drafter must promise, by its own edges, for `price` tokens to come of it."""
        assert sequence.draft_session is not None
        if sequence.waits:
            return 0.0 if self.wanted(sequence.request.speculation) else NOT_WANTED
        return price / sequence.draft_session.trust

    def park(self, sequence: Sequence, finished: bool = False) -> None:
        """Ends the session, if there is one; the sequence goes on at N = 0, unless it is `finished`."""
        if sequence.draft_session is not None:
            self._send(sequence.draft_session.drafter, Close(sequence.id, sequence.draft_session.epoch, finished))
            self._unlink(sequence)

    def close(self, sequence: Sequence, finished: bool) -> None:
        """The request is over, and `finished` if it came to its own end: ends its session."""
        self.park(sequence, finished)
        self._retry_at.pop(sequence.id, None)

    def _unlink(self, sequence: Sequence) -> None:
        assert sequence.draft_session is not None
        self.records[sequence.draft_session.drafter].sessions -= 1
        sequence.draft_session = None

    def receive(self, drafter: str, sequence: Sequence | None, message: ToVerifierMessage, now: float) -> None:
        self.records[drafter].responsiveness.heard()
        session = sequence.draft_session if sequence is not None else None
        if sequence is None or session is None or session.drafter != drafter or session.epoch != message.epoch:
            # A drafter that has ended a session answers a commit still on its way with `Dropped`: that one is no surprise.
            self.events.stale += not isinstance(message, Dropped)
            return
        match message:
            case Opened():
                pass  # nothing hangs on it: the first Grow says the same and more
            case Refused() | Dropped():
                self._turned_away(drafter, sequence, message, now)
            case Grow():
                self._grow(sequence, session, message, now)

    def _turned_away(self, drafter: str, sequence: Sequence, message: Refused | Dropped, now: float) -> None:
        """The session is over: for a while, or for good with this sequence or this drafter."""
        momentary = message.scope == Scope.MOMENT
        self.events.unfit += not momentary
        self.events.refused += momentary and isinstance(message, Refused)
        self.events.dropped += momentary and isinstance(message, Dropped)
        self._retry_at[sequence.id][drafter] = now + RETRY_S if momentary else math.inf
        record = self.records[drafter]
        if message.scope == Scope.PAIR and not record.unfit:
            record.unfit = message.reason
            logger.warning("drafter %s can never draft for this verifier and is not asked again: %s", drafter, shown(message.reason))
        self._unlink(sequence)

    def _grow(self, sequence: Sequence, session: DraftSession, message: Grow, now: float) -> None:
        limit = max(4 * max(session.max_nodes, self.tree.max_nodes), sequence.request.speculation.nodes)
        self._totals.trees += 1
        try:
            new = session.graft(message, sequence.tokens, self.vocab_size, limit, now)
        except (ValueError, WireError) as error:
            self.fail(sequence, str(error), now)
            return
        sequence.count(drafted=new)
        self._totals.drafted += new

    def fail(self, sequence: Sequence, reason: str, now: float) -> None:
        """A malformed message: its session ends, the sequence goes on."""
        if sequence.draft_session is not None:
            self.events.malformed += 1
            self._retry_at[sequence.id][sequence.draft_session.drafter] = now + RETRY_S
            self.park(sequence)

    def end_step(self, sequences: Iterable[Sequence], now: float) -> None:
        """Fades evidence that nothing was added to; takes the sessions from drafters that have lied for long or hang."""
        banned = {drafter for drafter, record in self.records.items() if record.standing.end_step(now)}
        hung = {drafter for drafter, record in self.records.items() if record.responsiveness.end_step(now)}
        self.events.banned += len(banned)
        for drafter in sorted(banned):
            log_event(logger, logging.WARNING, "set aside", f"drafter {drafter} promised more than it kept: no sessions", drafter=drafter)
        for drafter in sorted(hung):
            log_event(logger, logging.WARNING, "set aside", f"drafter {drafter} answers too slowly: it rests", drafter=drafter)
        for sequence in sequences if banned or hung else ():
            if sequence.draft_session is not None and sequence.draft_session.drafter in banned | hung:
                self.events.lost += sequence.draft_session.drafter in hung
                self.park(sequence)

    def lost(self, drafter: str, sequences: Iterable[Sequence]) -> None:
        """The drafter's stream is gone: its sequences go on at N = 0 and are paired again."""
        self._outbox.pop(drafter, None)
        if drafter in self.drafters:
            self.drafters.remove(drafter)
        for sequence in sequences:
            if sequence.draft_session is not None and sequence.draft_session.drafter == drafter:
                self._unlink(sequence)
                self.events.lost += 1
        for gone in [name for name in self.records if name not in self.drafters][:-REMEMBERED]:
            del self.records[gone]
