"""The suffix stage: what followed the longest suffix that occurred before, in the session or in recent traffic.

Promises: matches are as long as they are (prompt lookup cuts them and counts only the latest), and
continuations are weighed by how often they came (SuffixDecoding, arXiv 2411.04975). Traffic is
remembered only where the operator set a size and the session has a cache key, for that key alone, and
never beyond the size: all keys together share it, and the oldest text goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence

from drafthouse.stages.match import children_of
from drafthouse.stages.stage import Children, SessionFacts, Stage
from drafthouse.stages.suffix_automaton import START, SuffixAutomaton

CANDIDATES = 16
"""Continuations that are weighed; the rest came after shorter suffixes still."""

Place = tuple[int, int]
"""(state, length) in an automaton."""


class _Generations:
    """The texts of one key: those since the last turn, and those before it."""

    def __init__(self) -> None:
        self.young, self.old = SuffixAutomaton(), SuffixAutomaton()

    @property
    def tokens(self) -> int:
        return self.young.tokens + self.old.tokens

    def add(self, tokens: Sequence[int], limit: int) -> None:
        """Keeps at most `limit` tokens: when the young are half of it, they become the old."""
        self.young.end_text()
        for token in tokens[-(limit // 2) :]:
            if self.young.tokens >= limit // 2:
                self.young, self.old = SuffixAutomaton(), self.young
            self.young.append(token)


class Traffic:
    """Finished texts by cache key, `limit` tokens in all; 0 remembers nothing."""

    def __init__(self, limit: int):
        self.limit = limit
        self._keys: OrderedDict[str, _Generations] = OrderedDict()  # least recently used first

    @property
    def tokens(self) -> int:
        return sum(texts.tokens for texts in self._keys.values())

    def remember(self, key: str, tokens: Sequence[int]) -> None:
        if not key or self.limit < 2:
            return
        self._keys.setdefault(key, _Generations()).add(tokens, self.limit)
        self._keys.move_to_end(key)
        while len(self._keys) > 1 and self.tokens > self.limit:
            self._keys.popitem(last=False)

    def of(self, key: str) -> tuple[SuffixAutomaton, ...]:
        """As they are now; a key that is forgotten meanwhile stays readable to who holds it."""
        texts = self._keys.get(key) if key else None
        return () if texts is None else (texts.young, texts.old)


class SuffixStage(Stage):
    def __init__(self, facts: SessionFacts, traffic: Traffic):
        super().__init__(facts)
        self._traffic, self._tokens = traffic, list[int]()
        self._own = SuffixAutomaton()
        self._others = traffic.of(facts.cache_key)
        self._ends: list[Place] = [(START, 0)] * len(self._others)
        self._places: dict[tuple[int, ...], list[Place]] = {(): [(START, 0), *self._ends]}

    def follow(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        for token in tokens:
            self._own.append(token)
            self._ends = [texts.step(*end, token) for texts, end in zip(self._others, self._ends, strict=True)]
        self._places = {(): [self._own.text_end, *self._ends]}

    def children(self, path: Sequence[int], width: int) -> Children:
        found: dict[int, tuple[int, float]] = {}
        for texts, place in zip((self._own, *self._others), self._at(tuple(path)), strict=True):
            for _, (token, length, count) in zip(range(CANDIDATES), texts.followers(*place), strict=False):
                longest, seen = found.get(token, (0, 0.0))
                found[token] = (length, count) if length > longest else (longest, seen + count * (length == longest))
        return children_of([(token, *what) for token, what in found.items()], width)

    def _at(self, path: tuple[int, ...]) -> list[Place]:
        """Where each automaton stands after `path`."""
        if path not in self._places:
            before = self._at(path[:-1])
            self._places[path] = [texts.step(*place, path[-1]) for texts, place in zip((self._own, *self._others), before, strict=True)]
        return self._places[path]

    def close(self, finished: bool) -> None:
        if finished:
            self._traffic.remember(self.facts.cache_key, self._tokens)
