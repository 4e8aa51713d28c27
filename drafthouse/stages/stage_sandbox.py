"""Keeps an own stage from harming the thread that drafts: calls run on a thread of their own, with a time limit.

Promises: the calls of one turn return within its limit together or raise StageFault, and so does one that raises
or returns nonsense. A stage that was made is closed in any case, if late by the thread that it kept, once it gives it back.
What a call that never ends holds is one daemon thread.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from drafthouse.stages.stage import Children, SessionFacts, Stage

TURN_S = 0.1
"""Of all calls of one turn, a growth by many nodes as well as the making of the stage: whoever drafts waits for it, in
the verifier a whole step, and a stage that takes longer than a step of a large target helps nobody."""

TURN_S_PER_TOKEN = 0.0005
"""On top of it for committed tokens to take in: prompts are long."""

logger = logging.getLogger(__name__)

R = TypeVar("R")


class StageFault(Exception):
    """A stage raised, took too long or returned what is not `Children`; the message says which."""


class StageHangs(StageFault):
    """A call has not returned in time; what runs it is no longer waited for."""


class Worker:
    """One daemon thread that runs calls in turn; after a call that took too long there is a new one."""

    def __init__(self) -> None:
        self._start()
        self.begin_turn()

    def _start(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="own-stage", daemon=True).start()

    def begin_turn(self) -> None:
        """The calls up to the next turn have TURN_S together."""
        self._count, self._limit_s, self._taken_s = 0, TURN_S, 0.0

    def call(self, function: Callable[[], R], more_s: float = 0.0, late: Callable[[], None] | None = None) -> R:
        """Raises StageFault when `function` raised, and StageHangs when the turn has taken its time, which the call makes `more_s`
        longer; `late` then runs on the same thread when `function` has ended, and nobody waits for it."""
        answer: queue.SimpleQueue[tuple[R | None, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((function(), None))
            except Exception as error:
                answer.put((None, error))

        self._count, self._limit_s, started = self._count + 1, self._limit_s + more_s, time.monotonic()
        self._calls.put(run)
        try:
            result, error = answer.get(timeout=max(0.0, self._limit_s - self._taken_s))
        except queue.Empty:
            if late is not None:
                self._calls.put(late)
            self._calls.put(None)  # the late thread ends when its call does
            self._start()
            raise StageHangs(f"took longer than {self._limit_s:.3g} s for {self._count} calls of one turn") from None
        self._taken_s += time.monotonic() - started
        if error is not None:
            raise StageFault(f"raised {type(error).__name__}: {error}") from error
        return result  # type: ignore[return-value]


def _serve(calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()


class SandboxedStage(Stage):
    """An own stage behind its guard. All methods raise StageFault; the turns of `worker` are begun by who calls them."""

    def __init__(self, facts: SessionFacts, make: Callable[[SessionFacts], Stage], worker: Worker):
        super().__init__(facts)
        self._worker, self._made, self._hangs = worker, list[Stage](), False
        self._call(lambda: self._made.append(make(facts)))

    def _call(self, function: Callable[[], R], more_s: float = 0.0) -> R:
        try:
            return self._worker.call(function, more_s, self._close_late)
        except StageHangs:
            self._hangs = True
            raise

    def _close_late(self) -> None:
        try:
            for stage in self._made:
                stage.close(False)
        except Exception:
            logger.exception("a stage that was late could not be closed")

    def follow(self, tokens: Sequence[int]) -> None:
        told = list(tokens)
        self._call(lambda: self._made[0].follow(told), TURN_S_PER_TOKEN * len(told))

    def children(self, path: Sequence[int], width: int) -> Children:
        return checked(self._call(lambda: self._made[0].children(list(path), width)), width, self.facts.vocab_size)

    def close(self, finished: bool) -> None:
        """Where a call has not returned yet it is left to that call's thread."""
        if not self._hangs:
            self._worker.call(lambda: self._made[0].close(finished))


def checked(children: Children, width: int, vocab_size: int) -> Children:
    """As plain numbers. Raises StageFault unless they are at most `width` different tokens of the vocabulary and as many margins."""
    try:
        tokens = [int(token) for token in children.tokens]
        margins = [float(margin) for margin in children.margins]
    except (AttributeError, TypeError, ValueError) as error:
        raise StageFault(f"returned no Children: {error}") from error
    if not len(tokens) == len(margins) == len(set(tokens)) <= width:
        raise StageFault(
            f"returned {len(tokens)} tokens, {len(set(tokens))} different ones, and {len(margins)} margins; the width is {width}"
        )
    if not all(0 <= token < vocab_size for token in tokens):
        raise StageFault(f"returned a token outside the vocabulary of {vocab_size}")
    if not all(margin >= 0.0 for margin in margins):
        raise StageFault("returned a margin that is not at least 0")
    return Children(tokens, margins)
