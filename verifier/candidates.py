"""What is on offer for one sequence: its drafter's nodes, then those of its own stages.

Promises: a token that both have under one parent is one node. Trusted confidence never rises along a path,
and of siblings it adds up to at most their parent's: stages get what the drafter leaves.
"""

from dataclasses import dataclass

import numpy as np

from drafthouse.token_tree import ROOT, TokenTree
from verifier.draft_session import DraftSession
from verifier.local_draft import LocalDraft
from verifier.sequence import Sequence


@dataclass(slots=True)
class Candidates:
    """By node: path confidence as the drafter promises it (0: not its node), as it is trusted, and depth. The drafter's
    nodes are the first `of_drafter`."""

    tree: TokenTree
    promised: np.ndarray
    trusted: np.ndarray
    depths: np.ndarray
    of_drafter: int


def candidates_of(sequence: Sequence) -> Candidates | None:
    link, local = sequence.draft_session, sequence.local
    if local is not None and len(local.growing):
        return _merged(link, local)
    if link is None or not len(link.tree):
        return None
    return Candidates(link.tree, link.confidences, link.confidences * link.trust, link.depths, len(link.tree))


def _merged(link: DraftSession | None, local: LocalDraft) -> Candidates:
    own = local.growing.tree
    if link is None:
        confidences = np.array(local.growing.confidences)
        return Candidates(own, np.zeros(len(own)), confidences, np.array(local.growing.depths), 0)
    first = len(link.tree)
    tree = link.tree.subtree(range(first))
    trusted = (link.confidences * link.trust).tolist()
    left = {ROOT: 1.0} | dict(enumerate(trusted))  # of each node's confidence, what its children do not take
    for parent, confidence in zip(tree.parents, trusted, strict=True):
        left[parent] -= confidence
    index = {ROOT: ROOT}
    for node, (token, parent) in enumerate(zip(own.tokens, own.parents, strict=True)):
        above = index[parent]
        index[node] = i = tree.add(token, above, own.edges[node], own.sources[node])
        if i == len(trusted):
            confidence = max(0.0, min(left[above], own.edges[node] * (1.0 if above == ROOT else trusted[above])))
            trusted.append(confidence)
            left[above] -= confidence
            left[i] = confidence
    promised = np.concatenate([link.confidences, np.zeros(len(tree) - first)])
    return Candidates(tree, promised, np.array(trusted), np.array(tree.depths()), first)
