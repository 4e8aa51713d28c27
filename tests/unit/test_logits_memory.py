"""Room for logits: pages are found again, and what is still held stays as it is."""

import pytest
import torch

from drafthouse.engine.native.memory import LogitsMemory

VOCAB = 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_next_step_finds_the_pages_of_the_last_one(dtype: torch.dtype) -> None:
    memory = LogitsMemory(VOCAB, dtype, least_bytes=1)
    logits = memory.rows(8)
    assert (logits.shape, logits.dtype) == ((8, VOCAB), dtype)
    place = logits.data_ptr()
    del logits
    assert memory.rows(3).data_ptr() == place, "fewer rows"


def test_what_is_held_is_not_overwritten_not_even_through_a_view() -> None:
    memory = LogitsMemory(VOCAB, torch.float32, least_bytes=1)
    first = memory.rows(4)
    first.fill_(1.0)
    row = first[2]
    del first
    for value in (2.0, 3.0):
        memory.rows(6).fill_(value)
    assert (row == 1.0).all()


def test_more_rows_than_there_were() -> None:
    memory = LogitsMemory(VOCAB, torch.float32, least_bytes=1)
    memory.rows(2).fill_(1.0)
    memory.rows(700).fill_(2.0)
    assert (memory.rows(700) == 2.0).all(), "their pages, as they were left"


def test_few_rows_are_left_to_the_allocator() -> None:
    memory = LogitsMemory(VOCAB, torch.float32, least_bytes=VOCAB * 4 * 4)
    held = memory.rows(3)
    held.fill_(1.0)
    memory.rows(4).fill_(2.0)
    assert (held == 1.0).all()
    assert memory.rows(0).shape == (0, VOCAB)
