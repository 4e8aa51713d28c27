"""Chats become the ids that transformers makes of them, on fifty chats of every kind."""

import pytest
from transformers import AutoTokenizer

from deployments.gateway.text_codec import make_codec
from drafthouse.checkpoints.model_path import model_path
from tests.engine.chat_prompts import chat_prompts, expected_ids
from tests.unit.chat_tokenizers import CHATML, byte_level, sentence_piece

CHATS = chat_prompts()
TOKENIZERS = {
    "demo": lambda: AutoTokenizer.from_pretrained(model_path("demo:target")),
    "byte-level": byte_level,
    "sentence-piece": lambda: sentence_piece(CHATML),
}


def test_the_chats_are_of_every_kind():
    assert len(CHATS) == len({chat.name for chat in CHATS}) == 50
    kinds = {chat.name.split("-")[0] for chat in CHATS}
    assert kinds == {"chat", "code", "chinese", "japanese", "arabic", "emoji", "json", "other", "document"}
    assert sum(len(chat.messages) > 2 for chat in CHATS) >= 12
    assert not any("{document}" in message["content"] for chat in CHATS for message in chat.messages)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_chats_are_encoded_as_transformers_does(family):
    tokenizer = TOKENIZERS[family]()
    codec = make_codec(tokenizer)
    for chat in CHATS:
        assert codec.encode_chat(chat.messages) == expected_ids(tokenizer, chat), chat.name
