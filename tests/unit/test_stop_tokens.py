"""The cut at a stop token."""

import pytest

from drafthouse.stop_tokens import cut_at_stop


@pytest.mark.parametrize(
    ("tokens", "kept", "stopped"),
    [((), (), False), ((1, 2), (1, 2), False), ((0,), (0,), True), ((1, 0, 2, 0), (1, 0), True), ((1, 9, 0), (1, 9), True)],
)
def test_the_first_stop_token_is_the_last_one_kept(tokens: tuple[int, ...], kept: tuple[int, ...], stopped: bool) -> None:
    assert cut_at_stop(tokens, (0, 9)) == (kept, stopped)
    assert cut_at_stop(list(tokens), frozenset((0, 9))) == (list(kept), stopped)
    assert cut_at_stop(tokens, ()) == (tokens, False)
