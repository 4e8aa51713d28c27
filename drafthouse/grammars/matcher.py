"""Where a text stands in its grammar, and what may come next. A thin shell around llguidance's matcher.

Promises: a token that does not fit is taken note of and taken back like any other, and nothing raises for it. After it nothing may
come. What is said depends on the tokens alone, in whatever pieces and detours they came.
"""

import numpy as np
from llguidance import LLMatcher
from llguidance import numpy as llguidance_numpy


class GrammarMatcher:
    def __init__(self, library: LLMatcher, vocab_size: int, ends: frozenset[int]):
        """`vocab_size` is the tokenizer's; `ends` are the tokens that it takes for the end of a text."""
        self._library, self._ends = library, ends
        self._words = np.zeros((1, (vocab_size + 31) // 32), dtype=np.int32)
        self._unfit = 0  # tokens since the one that did not fit, itself included

    def copy(self) -> "GrammarMatcher":
        """At the same place."""
        other = object.__new__(GrammarMatcher)
        other._library, other._ends = self._library.deep_copy(), self._ends
        other._words, other._unfit = np.zeros_like(self._words), self._unfit
        return other

    def advance(self, token: int) -> None:
        if self._unfit or token in self._ends or not self._library.try_consume_tokens([token]):
            self._unfit += 1

    def rollback(self, count: int) -> None:
        unfit = min(count, self._unfit)
        self._unfit -= unfit
        if count > unfit:
            self._library.rollback(count - unfit)

    @property
    def fits(self) -> bool:
        """All tokens so far do."""
        return not self._unfit

    @property
    def error(self) -> str:
        """Why the grammar cannot be followed any further, in one line: it is too large for the library's limits. Empty: it can."""
        return first_line(self._library.get_error()) if self._library.is_error() else ""

    @property
    def complete(self) -> bool:
        """The text may end here."""
        return not self._unfit and self._library.is_accepting()

    @property
    def ended(self) -> bool:
        """The text is complete, and nothing may follow."""
        if not self.complete:
            return False
        return self._library.is_stopped() or not self.allowed().any()  # the library may see it late

    def forced(self) -> int | None:
        """The one token that comes next: where the grammar leaves one text, that is what the tokenizer makes of it."""
        tokens = [] if self._unfit else self._library.compute_ff_tokens()
        return tokens[0] if tokens else None

    def takes(self, token: int) -> bool:
        """Whether this token may come next, without the others; none that ends a text does."""
        return not self._unfit and token not in self._ends and self._library.validate_tokens([token]) == 1

    def allowed(self) -> np.ndarray:
        """Bits of the tokens that may come next, as `Edits.mask` has them; those that end a text are not among them."""
        llguidance_numpy.fill_next_token_bitmask(self._library, self._words)
        words = self._words[0].view(np.uint32).copy()
        for end in self._ends:
            words[end // 32] &= ~np.uint32(1 << (end % 32))
        return words


def first_line(message: str) -> str:
    """What the library says, without the state and the grammar that it adds."""
    return " ".join(message.split("<state>")[0].split())[:500]
