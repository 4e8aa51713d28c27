"""Own stages as an operator may write them, named by import path in the tests' configurations: good, and bad in each way."""

import time
from collections.abc import Sequence

from drafthouse.stages.stage import Children, SessionFacts, Stage


class Counting(Stage):
    """Proposes the token after the last one."""

    def __init__(self, facts: SessionFacts):
        super().__init__(facts)
        self.last = 0

    def follow(self, tokens: Sequence[int]) -> None:
        self.last = tokens[-1]

    def children(self, path: Sequence[int], width: int) -> Children:
        return Children([((path[-1] if path else self.last) + 1) % self.facts.vocab_size], [1.0])


class Crashing(Counting):
    def children(self, path: Sequence[int], width: int) -> Children:
        raise RuntimeError("on purpose")


class CrashingLater(Counting):
    def follow(self, tokens: Sequence[int]) -> None:
        if self.last:
            raise RuntimeError("at the first commit")
        super().follow(tokens)


class Stillborn(Counting):
    def __init__(self, facts: SessionFacts):
        raise RuntimeError("never begins")


class Hanging(Counting):
    def children(self, path: Sequence[int], width: int) -> Children:
        time.sleep(1.0)
        return super().children(path, width)


class Slow(Counting):
    """Within the limit each time, but not as often as it is asked in one growth."""

    def children(self, path: Sequence[int], width: int) -> Children:
        time.sleep(0.04)
        return super().children(path, width)


class OutsideTheVocabulary(Counting):
    def children(self, path: Sequence[int], width: int) -> Children:
        return Children([self.facts.vocab_size], [1.0])


class Nonsense(Counting):
    def children(self, path: Sequence[int], width: int) -> Children:
        return None  # type: ignore[return-value]
