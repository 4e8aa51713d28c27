"""One session's tree as both its ends see it: every node ever drafted, in the order in which it was.

A node keeps the output position that it proposes a token for, and how far its path follows the
committed text (`branch`). Since the trace knows the whole text beforehand, re-rooting needs no
walk: below the root at output position q lie exactly the nodes with position > q and branch >= q.
The verifier's copy is the drafter's list up to the last node that it has received.

Promises: nodes are appended and never change; log confidences are of paths from the session's
first root on, so differences are right below every later root.
"""

import math
import random
from collections.abc import Iterable

from drafthouse.policy.growth import worth_a_place
from drafthouse.token_tree import ROOT
from simulator.acceptance import Children, Text


class DraftTree:
    __slots__ = ("branches", "expanded", "log_confidences", "parents", "path_logs", "positions", "text")

    def __init__(self, text: Text) -> None:
        self.text = text
        self.positions: list[int] = []
        self.parents: list[int] = []
        self.branches: list[int] = []
        self.log_confidences: list[float] = []
        self.expanded: list[bool] = []
        self.path_logs: dict[int, float] = {}  # of the committed text's own nodes, by position

    def __len__(self) -> int:
        return len(self.positions)

    def root_log(self, root: int) -> float:
        """Log confidence of the node at the root's position, 0 where the root was never drafted."""
        return self.path_logs.get(root, 0.0)

    def below(self, nodes: list[int], root: int) -> list[int]:
        """Of `nodes`, those that lie below the committed token at output position `root`."""
        positions, branches = self.positions, self.branches
        return [i for i in nodes if branches[i] >= root and positions[i] > root]

    def confidences(self, nodes: list[int], root: int) -> list[float]:
        log, base, exp = self.log_confidences, self.root_log(root), math.exp
        return [exp(log[i] - base) for i in nodes]

    def on_path(self, node: int) -> bool:
        return self.branches[node] == self.positions[node]

    def accepted(self, nodes: Iterable[int]) -> int:
        """How many of a set that is closed under parents the target accepts: those on the committed text's path."""
        branches, positions = self.branches, self.positions
        return sum([branches[i] == positions[i] for i in nodes])

    def children(self, node: int, root: int, rng: random.Random) -> Children:
        """What a pass over `node` (ROOT: the root) drafts below it."""
        position = (root if node == ROOT else self.positions[node]) + 1
        if (node == ROOT or self.branches[node] == position - 1) and position < self.text.output_tokens:
            return self.text.positions[position]
        pool = self.text.off_path
        return pool[int(rng.random() * len(pool))]

    def expand(self, node: int, root: int, confidence: float, width: int, least: float, max_children: int, rng: random.Random) -> int:
        """Appends those children of `node` (ROOT: the root), of path confidence `confidence`, that are worth a place; returns how many."""
        edges, logs, hit = self.children(node, root, rng)
        if node == ROOT:
            position, branch, base = root + 1, root, self.root_log(root)
        else:
            self.expanded[node] = True
            position, branch, base = self.positions[node] + 1, self.branches[node], self.log_confidences[node]
        before = len(self.positions)
        for rank in worth_a_place(confidence, edges[:width], least, max_children):
            log = base + logs[rank]
            if rank == hit:
                self.path_logs[position] = log
            self.positions.append(position)
            self.parents.append(node)
            self.branches.append(position if rank == hit else branch)
            self.log_confidences.append(log)
            self.expanded.append(False)
        return len(self.positions) - before
