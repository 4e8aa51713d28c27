"""Hidden states on the wire: what a drafter asks for, the bytes, and which of them go with a commit."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drafthouse.engine.hidden_states import from_bytes, to_bytes
from drafthouse.errors import WireError
from drafthouse.wire.dialect import OURS
from drafthouse.wire.session_messages import Close, Commit, ToDrafterMessage
from drafthouse.wire.states import MAX_STATES_BYTES, STATES_METADATA, StatesWish, wish_in
from tests.unit.test_verification import Setting, setting
from verifier.drafter_client import within
from verifier.step import Step, Walked
from verifier.unsent_states import UnsentStates
from verifier.verification import Verification

WISH = StatesWish(2, 4)


def test_what_a_drafter_asks_for_is_read_again() -> None:
    assert wish_in((*OURS.metadata(), *StatesWish(576, 256).metadata())) == StatesWish(576, 256)
    assert wish_in(OURS.metadata()) is None


@pytest.mark.parametrize("said", ["", "576", "0 256", "576 0", "-1 4", "576 256 x", "65536 256", "9" * 99])
def test_a_wish_that_cannot_be_read_or_is_too_large_is_refused(said: str) -> None:
    with pytest.raises(WireError, match=f"{STATES_METADATA}: it must be SIZE ROWS"):
        wish_in([(STATES_METADATA, said)])


def test_states_are_bfloat16_little_endian_on_the_wire() -> None:
    states = torch.tensor([[1.0, -2.0, 0.1], [3e38, 0.0, 1 / 3]])
    data = to_bytes(states)
    assert data[:4] == b"\x80\x3f\x00\xc0"
    assert torch.equal(from_bytes(data, 3), states.bfloat16().float())
    assert to_bytes(torch.empty(0, 3)) == b""


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\0" * 4, "4 bytes, not rows of 3"), (b"\xc0\x7f" * 3, "not finite"), (b"\x80\x7f" * 3, "finite")]
)
def test_what_is_no_row_of_finite_numbers_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_bytes(data, 3)


def rows(*positions: int) -> list[bytes]:
    return [bytes([position] * 4) for position in positions]


def test_a_prompts_last_rows_wait_for_its_end_and_later_commits_have_their_own() -> None:
    unsent = UnsentStates(WISH)
    assert unsent.first_wanted(0, 9) == 5, "of 9 tokens and one more the last four, each chosen at the position before it"
    unsent.add(5, rows(5, 6))
    assert unsent.first_wanted(7, 9) == 7
    unsent.add(7, rows(7, 8))
    assert unsent.take(10, 1) == b"".join(rows(5, 6, 7, 8))
    unsent.add(9, rows(9, 10))
    assert unsent.take(12, 2) == b"".join(rows(9, 10))
    assert unsent.take(12, 2) == b"", "each goes once"


def test_behind_a_gap_and_for_another_length_nothing_old_is_sent() -> None:
    unsent = UnsentStates(WISH)
    unsent.add(3, rows(3))
    unsent.add(5, rows(5))
    assert unsent.take(7, 1) == rows(5)[0]
    unsent.add(6, rows(6))
    assert unsent.take(9, 2) == b"", "they end before the last of these tokens"


def test_more_new_tokens_than_rows_of_a_prompt_are_all_told() -> None:
    unsent = UnsentStates(WISH)
    unsent.add(5, rows(*range(5, 12)))
    assert len(unsent.take(13, 7)) == 7 * 4
    unsent.add(12, rows(*range(12, 19)))
    assert len(unsent.take(20, 1)) == 4 * 4


def asking(it: Setting, rng: random.Random) -> list[Any]:
    """Some of its sequences have sessions whose drafters ask for states; a step before this one has told them all so far."""
    them = [s for s in (*it.plan.decoding, *(s for s, _ in it.plan.prefilling)) if rng.random() < 0.7]
    for s in them:
        s.draft_session = SimpleNamespace(unsent_states=UnsentStates(WISH), tree=())
    return them


def device_states(segments: Any) -> torch.Tensor:
    """(token, position) of each row that is asked for: small numbers, which bfloat16 holds."""
    found = [(segment.tokens[i], segment.positions[i]) for segment in segments for i in segment.states]
    return torch.tensor(np.array(found, dtype=np.float32)).view(-1, 2)


@pytest.mark.parametrize("seed", range(40))
def test_what_goes_with_a_commit_chose_its_tokens(seed: int) -> None:
    """Each state is told apart by its token and position: those of the walked path, and of the end of a chunk."""
    it, rng, verification = setting(seed), random.Random(seed), Verification(None)
    them = asking(it, rng)
    batch = verification.prepare(it.plan, it.selected)
    logits = 2 * torch.randn(sum(len(segment.outputs) for segment in batch.segments), 40, generator=torch.Generator().manual_seed(seed))
    logits[:, :4] += 3
    step = Step(it.plan, it.selected, batch, 0.0)
    states = device_states(batch.segments)
    assert len(states) == batch.states.count
    walks = verification.walk(step, verification.choose(step, logits))
    if batch.states.count:
        batch.states.keep(walks.walked, states)
    ended = {id(w.sequence): w for w in walks.walked}
    for s, count in [*((s, 1) for s in it.plan.decoding), *it.plan.prefilling]:
        if s not in them:
            assert s.draft_session is None
            continue
        w: Walked | None = ended.get(id(s))
        if w is None:  # the chunk is not the prompt's last
            assert s.draft_session.unsent_states.end in (0, len(s.kv))
            continue
        text, new = [*s.tokens, *w.tokens], len(w.tokens)
        sent = from_bytes(s.draft_session.unsent_states.take(len(text), new), 2)
        chosen = range(len(text) - len(sent), len(text))
        assert [row.tolist() for row in sent] == [[float(text[i - 1]), float(i - 1)] for i in chosen]
        assert len(sent) == min(max(WISH.rows, new), new + count - 1)


def test_steps_whose_drafters_ask_for_nothing_ask_the_device_for_nothing() -> None:
    it = setting(3)
    batch = Verification(None).prepare(it.plan, it.selected)
    assert batch.states.count == 0
    assert not any(len(segment.states) for segment in batch.segments)


def test_states_of_many_prompts_go_out_in_several_messages() -> None:
    full = Commit("s", 1, 2, (3,), 0.5, bytes(MAX_STATES_BYTES))
    messages: list[ToDrafterMessage] = [Close("a", 1), full, Close("b", 1), full, Close("c", 1)]
    sent = []
    while messages:
        now, messages = within(messages)
        sent.append([message.session_id for message in now])
    assert sent == [["a", "s", "b"], ["s", "c"]]
