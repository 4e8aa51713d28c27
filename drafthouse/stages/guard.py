"""Keeps an own stage from harming the thread that drafts: calls run on a thread of their own, with a time limit.

Promises: a call returns within its limit or raises StageFault, and so does one that raises or returns
nonsense. What a call that never ends holds is one daemon thread.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from drafthouse.stages.stage import Children, SessionFacts, Stage

CALL_S = 0.1
"""A stage that takes longer than a step of a large target helps nobody."""

CALL_S_PER_TOKEN = 0.0005
"""On top of it for committed tokens to take in: prompts are long."""

R = TypeVar("R")


class StageFault(Exception):
    """A stage raised, took too long or returned what is not `Children`; the message says which."""


class Worker:
    """One daemon thread that runs calls in turn; after a call that took too long there is a new one."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="own-stage", daemon=True).start()

    def call(self, function: Callable[[], R], limit_s: float) -> R:
        """Raises StageFault after `limit_s`, or when `function` raised."""
        answer: queue.SimpleQueue[tuple[R | None, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((function(), None))
            except Exception as error:
                answer.put((None, error))

        self._calls.put(run)
        try:
            result, error = answer.get(timeout=limit_s)
        except queue.Empty:
            self._calls.put(None)  # the late thread ends when its call does
            self._start()
            raise StageFault(f"took longer than {limit_s:.3g} s") from None
        if error is not None:
            raise StageFault(f"raised {type(error).__name__}: {error}") from error
        return result  # type: ignore[return-value]


def _serve(calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()


class GuardedStage(Stage):
    """An own stage behind its guard. All methods raise StageFault."""

    def __init__(self, facts: SessionFacts, make: Callable[[SessionFacts], Stage], worker: Worker):
        super().__init__(facts)
        self._worker = worker
        self._stage = worker.call(lambda: make(facts), CALL_S)

    def follow(self, tokens: Sequence[int]) -> None:
        told = list(tokens)
        self._worker.call(lambda: self._stage.follow(told), CALL_S + CALL_S_PER_TOKEN * len(told))

    def children(self, path: Sequence[int], width: int) -> Children:
        return checked(self._worker.call(lambda: self._stage.children(list(path), width), CALL_S), width, self.facts.vocab_size)

    def close(self) -> None:
        self._worker.call(self._stage.close, CALL_S)


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
