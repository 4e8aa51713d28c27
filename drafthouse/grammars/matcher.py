"""Where a text stands in its grammar, and what may come next. A thin shell around llguidance's matcher.

Promises: a token that does not fit is taken note of and taken back like any other, and nothing raises for it. After it nothing may
come. What is said depends on the tokens alone, in whatever pieces and detours they came.

The library's errors stay: a matcher that has passed a limit says nothing more, wherever it is taken back to. So a second one goes along
with the committed tokens alone. Where the first fails, a copy of the second goes to the same place and tries again.
A place where this fails, too, is lost: with all below it, until it is taken back. At the committed place this is the text's end.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher
from llguidance import numpy as llguidance_numpy

T = TypeVar("T")

MOST_FORCED = 4096
"""Tokens that a grammar may force in a row: all of them are computed at once, some 2 us each."""


class Place:
    """What is known of one place: the tokens that are forced from it on, and the mask."""

    __slots__ = ("forced", "index", "mask")

    def __init__(self, forced: list[int] | None = None, index: int = 0):
        """`forced[index:]` come next; None: not asked yet."""
        self.forced, self.index = forced, index
        self.mask: np.ndarray | None = None


class GrammarMatcher:
    def __init__(self, library: LLMatcher, vocab_size: int, ends: frozenset[int]):
        """`library` stands at the beginning. `vocab_size` is the tokenizer's; `ends` are the tokens that it takes for the end of a text."""
        self._committed, self._library, self._ends, self._vocab_size = library, library.deep_copy(), ends, vocab_size
        self._words = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)
        self._path: list[int] = []  # tokens behind the committed place that fit
        self._places = [Place()]  # the committed one, and one behind each token of the path
        self._unfit = 0  # tokens since the one that did not fit, or that came behind a lost place, itself included
        self._fresh = False  # the library is a new copy of the committed one, gone along the path and not asked anything yet
        self._lost: tuple[int, str] | None = None  # how many tokens behind the committed place, and why
        self._spoilt = False  # a token that does not fit has been committed

    def copy(self) -> "GrammarMatcher":
        """At the committed place, where this one must stand."""
        assert not self._path
        assert not self._unfit
        return GrammarMatcher(self._committed.deep_copy(), self._vocab_size, self._ends)

    def advance(self, token: int) -> None:
        if not self.fits or token in self._ends or not 0 <= token < self._vocab_size:
            self._unfit += 1
            return
        self.forced()  # at each place, so that what is forced depends on the tokens alone
        here = self._places[-1]
        if not self._try(lambda: self._library.try_consume_tokens([token]), behind=1):
            self._unfit += 1
            return
        self._path.append(token)
        along = here.forced is not None and here.index + 1 < len(here.forced) and here.forced[here.index] == token
        self._places.append(Place(here.forced, here.index + 1) if along else Place())

    def rollback(self, count: int) -> None:
        """Takes tokens back that are not committed."""
        unfit = min(count, self._unfit)
        self._unfit -= unfit
        if count := count - unfit:
            del self._path[-count:], self._places[-count:]
        if self._lost is None:
            if count:
                self._library.rollback(count)
        elif self._lost[0] > len(self._path) + self._unfit:
            self._lost = None
            self._renew()

    def commit(self) -> None:
        """What has been advanced stays."""
        fitting = not self._spoilt and self._committed.try_consume_tokens(self._path) == len(self._path)
        self._spoilt, past = self._spoilt or self._unfit > 0 or not fitting, self._unfit > 0
        self._path, self._places, self._unfit = [], [self._places[-1]], 0
        if self._committed.is_error():
            self._lost = (0, first_line(self._committed.get_error()))
        elif self._lost is not None and past:
            self._lost = (0, self._lost[1])
        elif self._lost is not None:
            self._lost, self._places = None, [Place()]
            self._renew()

    def _renew(self) -> None:
        """Takes a library that has been nowhere else than along the path: whether it fails depends on the tokens alone."""
        self._library, self._fresh = self._committed.deep_copy(), True
        if self._library.try_consume_tokens(self._path) < len(self._path):
            self._lose(first_line(self._library.get_error()) or "it does not take the same tokens twice")

    def _lose(self, why: str, behind: int = 0) -> None:
        self._lost = (len(self._path) + behind, why)

    def _try(self, ask: Callable[[], T], behind: int = 0) -> T | None:
        """What the library says; None where it fails: this place is lost then, or the one a token `behind` it."""
        if self._lost is not None:
            return None
        answer = ask()
        if self._library.is_error() and not self._fresh:
            self._renew()
            answer = ask()
        self._fresh = False
        if self._lost is None and self._library.is_error():
            self._lose(first_line(self._library.get_error()), behind)
        return None if self._lost is not None else answer

    @property
    def fits(self) -> bool:
        """All tokens so far do."""
        return not self._unfit and not self._spoilt

    @property
    def lost(self) -> bool:
        """The grammar is too large for the library's limits at this place, or was above it."""
        return self._lost is not None

    @property
    def error(self) -> str:
        """Why the committed text cannot be followed any further, in one line: it is too large for limits. Empty: it can."""
        return self._lost[1] if self._lost is not None and self._lost[0] == 0 else ""

    @property
    def complete(self) -> bool:
        """The text may end here."""
        return self.fits and bool(self._try(lambda: self._library.is_accepting()))

    @property
    def ended(self) -> bool:
        """The text is complete, and nothing may follow."""
        if not self.complete:
            return False
        return bool(self._try(lambda: self._library.is_stopped())) or not (self.allowed().any() or self.lost)  # it may see it late

    def forced(self) -> int | None:
        """The one token that comes next: where the grammar leaves one text, that is what the tokenizer makes of it.

        What the library says once holds for the whole of that text: it reads all of it each time it is asked.
        """
        if not self.fits:
            return None
        here = self._places[-1]
        if here.forced is None:
            if (tokens := self._try(lambda: self._library.compute_ff_tokens())) is None:
                return None
            if len(tokens) > MOST_FORCED:
                self._lose(f"it leaves one text of {len(tokens):,} tokens in a row, and at most {MOST_FORCED:,} may be")
                return None
            here.forced = tokens
        return here.forced[here.index] if here.index < len(here.forced) and self._lost is None else None

    def takes(self, token: int) -> bool:
        """Whether this token may come next, without the others; none that ends a text does."""
        if not self.fits or token in self._ends or not 0 <= token < self._vocab_size:
            return False
        return self._try(lambda: self._library.validate_tokens([token])) == 1

    def allowed(self) -> np.ndarray:
        """Bits of the tokens that may come next, as `Edits.mask` has them; those that end a text are not among them. None where lost."""
        here = self._places[-1]
        if here.mask is None or not self.fits:
            self._try(lambda: llguidance_numpy.fill_next_token_bitmask(self._library, self._words))
            words: np.ndarray = self._words[0].view(np.uint32).copy()
            if self._lost is not None or not self.fits:
                return np.zeros_like(words)
            for end in self._ends:
                words[end // 32] &= ~np.uint32(1 << (end % 32))
            here.mask = words
        return here.mask


def first_line(message: str) -> str:
    """What the library says, without the state and the grammar that it adds."""
    return " ".join(message.split("<state>")[0].split())[:500]
