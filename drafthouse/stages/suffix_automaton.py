"""A suffix automaton that grows token by token (Blumer et al., 1985), with how often each of its strings occurred.

Promises: every string of the text is a path from the start; appending is constant amortised time but
for the counts, which are exact up to COUNTED suffixes of a token. Texts are kept apart by `end_text`.
"""

from collections.abc import Iterator

START = 0
NO_LINK = -1

COUNTED = 64
"""Suffixes of a position that are counted, longest first; in text there are a handful, in a run of one token as many as the run is long."""


class SuffixAutomaton:
    """Arrays by state: transitions, suffix link, longest string, occurrences."""

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link = [NO_LINK]
        self._longest = [0]
        self._count = [0]
        self._last = START
        self.tokens = 0

    @property
    def text_end(self) -> tuple[int, int]:
        """(state, length) of the longest suffix of the text so far that occurred earlier, too."""
        state = self._link[self._last]
        return (START, 0) if state == NO_LINK else (state, self._longest[state])

    def end_text(self) -> None:
        """What comes next begins another text."""
        self._last = START

    def append(self, token: int) -> None:
        self.tokens += 1
        known = self._next[self._last].get(token)
        if known is not None:  # only after `end_text`: a string of an earlier text
            self._last = known if self._fits(self._last, known) else self._split(self._last, token, known)
        else:
            self._last = self._extend(token)
        state = self._last
        for _ in range(COUNTED):
            if state == START:
                break
            self._count[state] += 1
            state = self._link[state]

    def _fits(self, state: int, after: int) -> bool:
        """Whether the longest string of `after` is that of `state` and one token."""
        return self._longest[after] == self._longest[state] + 1

    def _state(self, after: dict[int, int], link: int, longest: int, count: int) -> int:
        self._next.append(after)
        self._link.append(link)
        self._longest.append(longest)
        self._count.append(count)
        return len(self._next) - 1

    def _extend(self, token: int) -> int:
        new, state = self._state({}, START, self._longest[self._last] + 1, 0), self._last
        while state != NO_LINK and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        if state != NO_LINK:
            after = self._next[state][token]
            self._link[new] = after if self._fits(state, after) else self._split(state, token, after)
        return new

    def _split(self, state: int, token: int, after: int) -> int:
        """A state of its own for the strings of `after` that are no longer than those of `state` and the token."""
        short = self._state(dict(self._next[after]), self._link[after], self._longest[state] + 1, self._count[after])
        self._link[after] = short
        while state != NO_LINK and self._next[state].get(token) == after:
            self._next[state][token] = short
            state = self._link[state]
        return short

    def step(self, state: int, length: int, token: int) -> tuple[int, int]:
        """(state, length) of the longest known suffix when `token` follows one of `length` in `state`."""
        while state != NO_LINK and token not in self._next[state]:
            state = self._link[state]
            length = self._longest[state] if state != NO_LINK else 0
        return (START, 0) if state == NO_LINK else (self._next[state][token], length + 1)

    def followers(self, state: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(token, length of the longest suffix that it followed, how often there), longest suffix first, each token once."""
        seen: set[int] = set()
        while state != NO_LINK and state != START:
            for token, after in self._next[state].items():
                if token not in seen:
                    seen.add(token)
                    yield token, length, self._count[after]
            state = self._link[state]
            length = self._longest[state]
