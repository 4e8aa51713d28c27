"""SmolLM2 in bfloat16 through the running server; `python -m tests.cluster.real_model` runs all fifty chats in every dtype."""

import pathlib

import pytest

from tests.cluster.real_model import compare, serving_of
from tests.engine.chat_prompts import chat_prompts

pytestmark = pytest.mark.cluster_long


def test_chats_are_encoded_and_answered_as_by_transformers(tmp_path: pathlib.Path) -> None:
    serving = serving_of(tmp_path, "bfloat16").wait_ready()
    try:
        found = compare(serving, "bfloat16", chat_prompts()[:40:4], 24)
    finally:
        serving.stop()
    assert found.wrong == []
    assert found.equal + found.explained == found.chats == 10
    assert found.accepted > 0, "prompt lookup was meant to find something"
