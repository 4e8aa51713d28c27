"""Stop strings: the same cut for every chunking, and nothing held back without need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.stop_matcher import StopMatcher, prefix_function

FEW_LETTERS = st.text("ab", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def cut(text: str, stops: list[str]) -> tuple[str, bool, str]:
    """By definition: the first end at which a stop string is complete, without the longest one there, and that one."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True, text[end - max(lengths) : end]
    return text, False, ""


def needs_holding(text: str, stops: list[str]) -> int:
    """Length of the longest suffix that begins a stop string."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


@given(FEW_LETTERS, STOPS, st.lists(st.integers(0, 5), max_size=30))
def test_any_chunking_cuts_where_the_whole_text_does(text, stops, sizes):
    matcher, out, rest = StopMatcher(stops), "", text
    for size in sizes:
        out, rest = out + matcher.feed(rest[:size]), rest[size:]
    out += matcher.feed(rest) + matcher.flush()
    assert (out, matcher.stopped, matcher.found) == cut(text, stops)


@given(FEW_LETTERS, STOPS)
def test_only_the_longest_possible_beginning_is_held_back(text, stops):
    matcher, out = StopMatcher(stops), ""
    for end in range(1, len(text) + 1):
        out += matcher.feed(text[end - 1])
        if matcher.stopped:
            return
        assert out == text[: end - needs_holding(text[:end], stops)]


def test_nothing_comes_after_the_stop():
    matcher = StopMatcher(["\n\n"])
    assert [matcher.feed("one\n"), matcher.feed("\ntwo"), matcher.feed("three"), matcher.flush()] == ["one", "", "", ""]


def test_prefix_function():
    assert prefix_function("aabaaab") == [0, 1, 0, 1, 2, 2, 3]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])
