"""What a gateway remembers of the texts that it sent, against a table without a bound."""

import json
import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.sent_prefixes import BLOCK_TOKENS, MOST_BLOCKS_OF_A_TEXT, SentPrefixes, blocks_of

A, B = ("a", "a:1"), ("b", "b:1")

texts = st.lists(st.integers(0, 1), max_size=6)
"""A token for each block, so that texts begin alike."""


def blocks(text: list[int], key: str = "") -> list[int]:
    return blocks_of(key, [token for token in text for _ in range(BLOCK_TOKENS)], ())


def test_a_block_stands_for_all_up_to_its_end() -> None:
    text = list(range(3 * BLOCK_TOKENS + 5))
    assert blocks_of("", text, ()) == blocks_of("", text[:40], text[40:]) == blocks_of("", text[:-5], ())
    assert len(set(blocks_of("", text, ()))) == 3
    changed = [7, *text[1:]]
    assert not set(blocks_of("", changed, ())) & set(blocks_of("", text, ())), "the first token changes all"
    changed = [*text[:-6], 7, *text[-5:]]
    assert blocks_of("", changed, ())[:2] == blocks_of("", text, ())[:2]
    assert blocks_of("", changed, ())[2] != blocks_of("", text, ())[2]
    assert blocks_of("", text[: BLOCK_TOKENS - 1], ()) == []


def test_of_a_long_text_only_the_beginning_counts() -> None:
    text = [5] * (BLOCK_TOKENS * MOST_BLOCKS_OF_A_TEXT)
    assert blocks_of("", [*text, *text], text) == blocks_of("", text, ())
    assert len(blocks_of("", text, text)) == MOST_BLOCKS_OF_A_TEXT


def test_keys_share_nothing() -> None:
    assert not set(blocks([0, 0, 1], "mine")) & set(blocks([0, 0, 1], "yours"))


def test_the_longest_beginning_is_found_for_each_verifier() -> None:
    sent = SentPrefixes()
    sent.remember(A, blocks([0, 1, 0]))
    sent.remember(B, blocks([0, 0]))
    assert [sent.tokens(place, blocks([0, 1, 1])) for place in (A, B)] == [2 * BLOCK_TOKENS, BLOCK_TOKENS]
    assert sent.tokens(A, blocks([0, 1, 0, 1])) == 3 * BLOCK_TOKENS
    assert sent.tokens(A, blocks([1])) == sent.tokens(A, []) == sent.tokens(("a", "a:2"), blocks([0])) == 0


def test_who_was_forgotten_begins_again() -> None:
    sent = SentPrefixes()
    for place in (A, B):
        sent.remember(place, blocks([0, 1]))
    sent.forget("a")
    assert (sent.tokens(A, blocks([0])), sent.tokens(B, blocks([0]))) == (0, BLOCK_TOKENS)
    sent.remember(A, blocks([1]))
    assert (sent.tokens(A, blocks([0])), sent.tokens(A, blocks([1]))) == (0, BLOCK_TOKENS)
    sent.keep({A, ("b", "b:2")})
    assert (sent.tokens(A, blocks([1])), sent.tokens(B, blocks([0]))) == (BLOCK_TOKENS, 0)


@given(st.lists(st.tuples(st.sampled_from([A, B]), texts), max_size=12), texts)
def test_without_a_bound_nothing_is_lost(texts_sent: list[tuple[tuple[str, str], list[int]]], asked: list[int]) -> None:
    sent = SentPrefixes()
    for place, text in texts_sent:
        sent.remember(place, blocks(text))
    for place in (A, B):
        known = [n for n in range(len(asked) + 1) if any(each == place and text[:n] == asked[:n] for each, text in texts_sent)]
        assert sent.tokens(place, blocks(asked)) == max(known, default=0) * BLOCK_TOKENS


@given(st.integers(1, 9), st.lists(st.tuples(st.sampled_from([A, B]), texts), min_size=1, max_size=12))
def test_memory_is_bounded_and_holds_whole_beginnings(most: int, texts_sent: list[tuple[tuple[str, str], list[int]]]) -> None:
    """A hole would hide what lies behind it; the last text is there as far as it has room."""
    sent = SentPrefixes(most)
    for place, text in texts_sent:
        sent.remember(place, blocks(text))
        assert len(sent) <= most
        assert sent.tokens(place, blocks(text)) == min(most, len(text)) * BLOCK_TOKENS
    for place, text in texts_sent:
        found = sent.tokens(place, blocks(text)) // BLOCK_TOKENS
        era = sent._eras[place]
        assert [(block, era) in sent._sent for block in blocks(text)] == [True] * found + [False] * (len(text) - found)


def test_gateways_agree_on_blocks() -> None:
    """Python's hashes of strings differ from process to process."""
    program = "from drafthouse.policy.sent_prefixes import blocks_of; print(blocks_of('key', [7] * 64, ()))"
    told = {subprocess.check_output([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}) for seed in "12"}
    assert [json.loads(each) for each in told] == [blocks_of("key", [7] * 64, ())]
