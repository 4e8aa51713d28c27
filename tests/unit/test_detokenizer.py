"""Incremental text equals the tokenizer's own, in whole characters, at linear cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from deployments.gateway.detokenizer import Detokenizer, TokenBytes, byte_level_alphabet
from drafthouse.errors import ModelError
from tests.unit.byte_tokenizer import END, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
TOKEN_BYTES = TokenBytes(TOKENIZER)


def ids_of_bytes(data: bytes) -> list[int]:
    """One token for each byte."""
    chars = {byte: char for char, byte in byte_level_alphabet().items()}
    ids = [TOKENIZER.token_to_id(chars[byte]) for byte in data]
    assert None not in ids
    return ids


@given(st.text(max_size=60), st.randoms(use_true_random=False))
def test_pieces_join_to_the_text_for_any_grouping(text, random):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    detokenizer, pieces = Detokenizer(TOKEN_BYTES), []
    while ids:
        size = random.randint(1, 4)
        pieces.append(detokenizer.add(ids[:size]))
        ids = ids[size:]
    assert detokenizer.flush() == ""
    assert "".join(pieces) == text


@given(st.lists(st.integers(0, 255), max_size=40).map(bytes))
def test_any_bytes_decode_as_the_tokenizer_does(data):
    ids = ids_of_bytes(data)
    detokenizer = Detokenizer(TOKEN_BYTES)
    text = "".join(detokenizer.add([token]) for token in ids) + detokenizer.flush()
    assert text == TOKENIZER.decode(ids)


def test_a_character_waits_for_its_last_byte_and_no_longer():
    detokenizer = Detokenizer(TOKEN_BYTES)
    assert [detokenizer.add([token]) for token in ids_of_bytes("a🙂b".encode())] == ["a", "", "", "", "🙂", "b"]


def test_a_character_that_never_ends_comes_out_at_the_flush():
    detokenizer = Detokenizer(TOKEN_BYTES)
    assert detokenizer.add(ids_of_bytes("🙂".encode()[:2])) == ""
    assert detokenizer.flush() == "\ufffd"


def test_invalid_bytes_are_not_held_back_for_ever():
    detokenizer = Detokenizer(TOKEN_BYTES)
    assert detokenizer.add(ids_of_bytes(b"\x80" * 5)) == "\ufffd" * 5


def test_special_tokens_have_no_text_and_other_added_tokens_do():
    end, tool = TOKENIZER.token_to_id(END), TOKENIZER.token_to_id("<tool>")
    assert Detokenizer(TOKEN_BYTES).add([end, tool, end]) == "<tool>"


def test_ids_outside_the_vocabulary_have_no_text():
    assert TOKEN_BYTES[10**6] == b""


def sentencepiece_tokenizer(**decoder_options: object) -> Tokenizer:
    pieces = ["▁", "▁naïve", "x", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, fuse_unk=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def test_sentencepiece_bytes_join_and_the_leading_space_stays():
    tokenizer = sentencepiece_tokenizer()
    ids = [1, 0, *(tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode()), 2]
    detokenizer = Detokenizer(TokenBytes(tokenizer))
    assert [detokenizer.add([token]) for token in ids] == [" naïve", " ", "", "é", "x"]


def test_added_tokens_are_spelled_as_other_pieces_are():
    """Gemma's runs of spaces are added tokens."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.add_tokens([AddedToken("▁▁", special=False, normalized=False)])
    ids = [2, tokenizer.token_to_id("▁▁"), 2]
    assert Detokenizer(TokenBytes(tokenizer)).add(ids) == tokenizer.decode(ids) == "x  x"


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece()])
def test_other_families_are_refused(decoder):
    tokenizer = byte_level_tokenizer()
    tokenizer.decoder = decoder
    with pytest.raises(ModelError, match="cannot be streamed"):
        TokenBytes(tokenizer)


def test_a_decoder_that_changes_the_text_is_refused():
    tokenizer = byte_level_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("r", "R")])
    with pytest.raises(ModelError, match="byte by byte"):
        TokenBytes(tokenizer)


def test_special_tokens_have_text_only_where_they_are_to_be_shown():
    plain = TOKEN_BYTES
    shown = plain.showing({END})
    assert (plain[0], shown[0], plain.showing(())[0]) == (b"", END.encode(), b"")
    ids = TOKENIZER.encode("a é").ids
    assert [shown[token] for token in ids] == [plain[token] for token in ids]
