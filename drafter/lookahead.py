"""The stage inside the model stage: it guesses what the draft will draft, so that one pass runs several levels of its tree.

Staged speculative decoding (arXiv 2308.04623) with the draft's own rule in place of sampling: a guess counts
exactly if the draft has ranked that token below that node and found it worth a place. Promises: the draft's
tree is what the draft alone would grow, or that and more; guesses that do not come true leave no trace.
"""

import heapq
from collections.abc import Callable, Sequence

from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import ConfigError
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree
from drafthouse.stages.build import StageMaker
from drafthouse.stages.running_stage import Ask, RunningStage
from drafthouse.stages.stage import Children, SessionFacts
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.token_tree import ROOT, TokenTree


class Lookahead:
    """For one session. `calibration` is of the inner stage against the draft's first choice, not against the target."""

    def __init__(
        self,
        maker: StageMaker,
        facts: SessionFacts,
        calibration: Calibration,
        totals: StageTotals,
        width: int,
        clock: Callable[[], float],
    ):
        self._maker, self._calibration, self._width = maker, calibration, width
        self._temperature = facts.sampling.temperature
        self._running = RunningStage(maker, facts, clock, totals)
        self._guessed: dict[int, Children] = {}  # of the last guess: what was guessed below each node

    def follow(self, tokens: Sequence[int]) -> None:
        self._running.follow(tokens)

    def close(self, finished: bool) -> None:
        self._running.close(finished)

    def guess(self, growing: GrowingTree, starts: Sequence[int], least: float, depth: int) -> TokenTree:
        """Guesses below the nodes `starts` that the draft is about to run on, at most `depth` deep in the tree; a guess
        comes true with at least the probability `least`, as far as is known. Guess `i` is node `len(growing) + i`.
        There are none while the stage rests, or when it fails."""
        self._guessed = {}
        return self._running.grow(lambda ask: self._guess(ask, growing, starts, least, depth)) or TokenTree()

    def _guess(self, ask: Ask, growing: GrowingTree, starts: Sequence[int], least: float, depth: int) -> TokenTree:
        guesses, first = TokenTree(), len(growing)
        paths = {node: growing.tree.path(node) for node in starts}
        heap = [(-1.0, order, node) for order, node in enumerate(starts)]
        while heap and len(guesses) < self._maker.nodes:
            negative, _, node = heapq.heappop(heap)
            if len(paths[node]) >= depth:
                continue
            children = self._guessed[node] = ask(paths[node], self._width)
            known = {growing.tree.tokens[i] for i in growing.tree.children(node)} if node < first else set()
            edges = self._calibration.edges(self._maker.source, children.margins, self._temperature)
            for token, edge in zip(children.tokens, edges, strict=True):
                if -negative * edge < least or token in known or len(guesses) == self._maker.nodes:
                    continue
                guess = first + guesses.add(token, node, edge, self._maker.source)
                paths[guess] = [*paths[node], token]
                heapq.heappush(heap, (negative * edge, guess + len(starts), guess))
        return guesses

    def judge(self, came_true: int, pass_s: float) -> None:
        """After a pass: a guess that came true has spared at most a pass over one token, of `pass_s` seconds. A stage that takes
        longer than that rests."""
        self._running.judge(came_true * pass_s, 1.0)

    def learn(self, node: int, first_choice: int) -> None:
        """What the draft ranked first below a node of the last pass."""
        children = self._guessed.get(node)
        if children is not None and children.tokens:
            hit = children.tokens.index(first_choice) if first_choice in children.tokens else -1
            self._calibration.observe(self._maker.source, children.margins, self._temperature, hit)


def path_to(growing: GrowingTree, guesses: TokenTree, node: int) -> list[int]:
    """Nodes and guesses from the root's child down to `node`, guesses numbered on from the tree's nodes."""
    path, first = [], len(growing)
    while node != ROOT:
        path.append(node)
        node = guesses.parents[node - first] if node >= first else growing.tree.parents[node]
    return path[::-1]


def check_states(model: LoadedModel, inner: StageMaker | None) -> None:
    """Raises ConfigError where guesses below a node would need its state, which only the pass itself gives."""
    if model.state_inputs is not None and inner is not None:
        raise ConfigError("drafter.stages: this draft reads hidden states, so no inner stage can guess for it; leave out `inner`")
