"""The passes of the draft model over the trees of all sessions.

Promises: a pass takes the best frontier nodes of all sessions, batched; what a commit pruned is never run. With
an inner stage it takes guesses along, and of them keeps what the draft itself drafts (`drafter.lookahead`). A draft that reads hidden
states gives its own back for the next level.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter

import torch

from drafter.lookahead import Lookahead
from drafter.pass_segments import NO_GUESSES, catch_up, tree_nodes
from drafter.session import Session
from drafthouse.choose import Rows, rank
from drafthouse.config.serving import DrafterConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.prefix_cache import LEAST_SHARED, common_length
from drafthouse.engine.segment import Segment
from drafthouse.errors import OutOfKvSlots
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growth import PassBudget
from drafthouse.policy.latency import LatencyModel
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import SessionFacts
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.totals import DraftTotals

STAGED_CHUNK = 32
"""A longer run of committed tokens takes no guesses along: the mask grows with the square, and prompts are no place to hurry."""

LEAST_GUESS = 0.02
"""A guess that comes true less often costs more in lists and masks than it saves."""


@dataclass(slots=True)
class Work:
    """One session's part of a pass: nodes to expand, ascending; none for a catch-up chunk. Guess `i` is node `len(tree) + i`."""

    session: Session
    nodes: list[int]
    guesses: TokenTree
    segment: Segment

    @property
    def chunk(self) -> int:
        """Committed tokens of a catch-up."""
        return 0 if self.nodes else len(self.segment) - len(self.guesses)

    @property
    def parents(self) -> list[int]:
        """Whose logits the pass gives, in order."""
        if not self.segment.outputs:
            return []
        first = len(self.session.tree)
        return (self.nodes or [ROOT]) + list(range(first, first + len(self.guesses)))

    @property
    def states(self) -> list[torch.Tensor | None]:
        """What each token is run with, where the draft reads states."""
        states, parents = self.session.states, self.session.tree.parents
        assert states is not None
        return states.of_nodes([parents[node] for node in self.nodes]) if self.nodes else states.of_tokens(self.session.cached, self.chunk)

    @property
    def rows(self) -> Rows:
        """How the children of each parent are ranked."""
        return self.session.rows(self.parents, self.guesses, [self.segment.positions[output] + 1 for output in self.segment.outputs])


class DraftModel:
    def __init__(
        self, model: LoadedModel, latency: LatencyModel, config: DrafterConfig, clock: Callable[[], float], inner: StageMaker | None
    ):
        self.runner, self.latency, self.clock, self.inner = model.runner, latency, clock, inner
        self.head_ids = model.head_ids
        self.state_inputs = model.state_inputs  # None: it reads no states
        self.budget, self.shared_noise = PassBudget(config.prefill_tokens, latency), config.shared_noise
        self._guess_calibration = Calibration()
        self.running: list[Session] = []  # in the pass that was begun last
        self.expected_s = 0.0  # of that pass, by the latency model

    def lookahead(self, facts: SessionFacts, width: int, totals: StageTotals) -> Lookahead | None:
        return Lookahead(self.inner, facts, self._guess_calibration, totals, width, self.clock) if self.inner is not None else None

    def announcement(self, session: Session) -> tuple[float, float]:
        """Seconds until the session's next nodes and accepted tokens that they promise; zeros when no pass is planned."""
        return self.budget.announcement(session)

    def run_pass(self, sessions: Iterable[Session], totals: DraftTotals) -> tuple[list[Session], list[tuple[Session, str]]]:
        """Sessions whose trees may have grown, and those for which there were no KV slots, with the reason.

        A session is charged for its nodes while another one waits or shares the pass. Otherwise its passes cost nobody anything: they
        run while the target verifies, and whether to wait for them is the verifier's own sum. A catch-up is spent already.
        """
        sessions = self._begin(sessions, totals)
        contended = sum(session.wants_pass_now for session in sessions) > 1
        works: list[Work] = []
        self.running = []
        failed: list[tuple[Session, str]] = []
        for session, candidates in self.budget.plan(sessions, attrgetter("worth")):
            self.running.append(session)
            try:
                works.append(self._work(session, [node for _, node in candidates]))
            except OutOfKvSlots as error:
                failed.append((session, str(error)))
        if not works:
            return [], failed
        tokens = sum(len(work.segment) for work in works)
        self.expected_s = self.latency.seconds(tokens, sum(work.session.kv_tokens for work in works))
        started = self.clock()
        self._feed(works)
        result = self.runner.run([work.segment for work in works])
        grown = self._grow(works, result, totals)
        seconds = self.clock() - started
        totals.passes += 1
        totals.pass_seconds += seconds
        if contended:
            for work in works:
                work.session.credit.model_seconds += seconds * len(work.nodes) / tokens
        self.latency.observe(tokens, sum(work.session.kv_tokens for work in works), seconds)
        return grown, failed

    def _begin(self, sessions: Iterable[Session], totals: DraftTotals) -> list[Session]:
        """Lets new sessions take over what is cached of their tokens. Returns those that may take part in the pass: not the new ones
        whose tokens an older one is about to cache."""
        ready: list[Session] = []
        catching_up: list[Session] = []
        for session in sessions:
            if session.missing and session.shares_kv and not session.kv:
                session.begin()
                if _is_run_by_another(session, catching_up):
                    session.forget_kv()
                    continue
                totals.cached_tokens += session.cached
            ready.append(session)
            if session.missing:
                catching_up.append(session)
        return ready

    def _work(self, session: Session, nodes: list[int]) -> Work:
        guesses = self._guesses(session, nodes)
        if nodes:
            return Work(session, nodes, guesses, tree_nodes(session, nodes, guesses))
        return Work(session, nodes, guesses, catch_up(session, self.budget.tokens, guesses))

    def _guesses(self, session: Session, nodes: list[int]) -> TokenTree:
        """What the inner stage expects below the nodes, or below the root after a short catch-up."""
        tokens = len(nodes) or session.missing
        if session.lookahead is None or self.inner is None or (not nodes and tokens > min(STAGED_CHUNK, self.budget.tokens)):
            return NO_GUESSES
        if self.runner.cache.allocator.free_count < tokens + self.inner.nodes:
            return NO_GUESSES
        # A guess that comes true spares a token's share of a later pass, at most a pass of its own.
        seconds, most = self.latency.seconds, self.inner.nodes
        cost = (seconds(tokens + most, session.kv_tokens) - seconds(tokens, session.kv_tokens)) / most
        least = max(LEAST_GUESS, cost / seconds(1, session.kv_tokens))
        return session.lookahead.guess(session.growing, nodes or [ROOT], least, session.limits.depth - 1)

    def _feed(self, works: list[Work]) -> None:
        """Gives a draft that reads states those of its tokens, and asks for its own where its children will take them."""
        if self.state_inputs is None:
            return
        inputs = self.state_inputs.rows([state for work in works for state in work.states])
        for work, mine in zip(works, inputs.split([len(work.segment) for work in works]), strict=True):
            work.segment.inputs, work.segment.states = mine, work.segment.outputs

    def _grow(self, works: list[Work], result: RunResult, totals: DraftTotals) -> list[Session]:
        """Adds the children that the pass drafted; returns the sessions whose tree may have grown."""
        logits, states = result.logits, result.states
        parts = [work.rows for work in works if work.parents]
        width = max(work.session.width for work in works)
        ranked = list[tuple[list[int], list[float]]]()
        if parts:
            known = _known_to_targets(logits, works, self.head_ids, self.runner.vocab_size)
            ranked = list(zip(*rank(known, parts, width, self.shared_noise, self.head_ids, self.runner.vocab_size), strict=True))
        grown = []
        for work in works:
            session, parents = work.session, work.parents
            mine, ranked = ranked[: len(parents)], ranked[len(parents) :]
            session.expanded.extend(work.nodes)
            came_true, drafted = _follow(work, parents, mine)
            if parents and session.lookahead is not None:
                session.lookahead.judge(len(came_true), self.latency.seconds(1, session.kv_tokens))
            totals.drafted += drafted
            totals.guessed += len(work.guesses)
            totals.came_true += len(came_true)
            session.was_run(work.chunk, came_true)
            if session.states is not None:
                session.states.were_run(parents, states[: len(parents)], session.cached)
                states = states[len(parents) :]
            if parents:
                session.grow_stages()
                grown.append(session)
        return grown


def _known_to_targets(logits: torch.Tensor, works: list[Work], head_ids: torch.Tensor | None, vocab_size: int) -> torch.Tensor:
    """Without the ids that a session's target has not: its output layer may have fewer rows than the draft's."""
    sizes = [work.session.vocab_size for work in works for _ in work.segment.outputs]
    if min(sizes) >= (vocab_size if head_ids is not None else logits.shape[1]):
        return logits
    ids = torch.arange(logits.shape[1], device=logits.device) if head_ids is None else head_ids
    return logits.masked_fill(ids[None, :] >= torch.tensor(sizes, device=logits.device)[:, None], float("-inf"))


def _is_run_by_another(session: Session, others: Iterable[Session]) -> bool:
    """Whether one of those that catch up runs what this one would, too. It shares each chunk, so the wait ends with the common part."""
    key, least = session.kv.key, session.cached + LEAST_SHARED
    return any(
        min(common_length(other.tokens, session.tokens), other.shareable, session.shareable) >= least
        for other in others
        if other.kv.key == key
    )


def _follow(work: Work, parents: list[int], ranked: list[tuple[list[int], list[float]]]) -> tuple[list[int], int]:
    """Adds what was ranked below the nodes, then below each guess that is a node by then, parents first.

    Returns which guesses came true and how many nodes were drafted.
    """
    session, first = work.session, len(work.session.tree)
    node_of: dict[int, int] = {}
    came_true, drafted = [], 0
    for parent, (tokens, margins) in zip(parents, ranked, strict=True):
        node = parent
        if session.lookahead is not None and tokens:
            session.lookahead.learn(parent, tokens[0])
        if parent >= first:
            guess = parent - first
            above = work.guesses.parents[guess]
            above = node_of.get(above, -2) if above >= first else above
            child = session.child(above, work.guesses.tokens[guess]) if above >= ROOT else None
            if child is None or not session.may_have_children(child):
                continue
            node = node_of[parent] = child
            session.expanded.append(node)
            came_true.append(guess)
        drafted += session.add_children(node, tokens, margins)
    return came_true, drafted
