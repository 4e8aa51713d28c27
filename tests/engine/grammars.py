"""Tokenizers and grammars for the engine's tests: a token for each byte, and some of several bytes."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deployments.gateway.detokenizer import byte_level_alphabet
from tests.engine.tiny_models import VOCAB_SIZE

MERGES = ("na", "me", "name", '":', ' "', "tr", "ue", "true", ", ")
END = VOCAB_SIZE - 1
"""The tokenizer's end of text; it stands in place of the byte 0xff, which no text has."""


@cache
def tokenizer() -> str:
    """As tokenizer.json has it: VOCAB_SIZE tokens, of which those of the last bytes of the alphabet make room for longer ones."""
    alphabet = {byte: char for char, byte in byte_level_alphabet().items()}
    named = ["".join(alphabet[byte] for byte in text.encode()) for text in MERGES]
    characters = [alphabet[byte] for byte in range(VOCAB_SIZE - 1 - len(named))]
    vocabulary = {piece: i for i, piece in enumerate([*characters, *named])}
    merges = [(piece[:at], piece[at:]) for piece in named for at in range(1, len(piece)) if {piece[:at], piece[at:]} <= set(vocabulary)]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    assert made.token_to_id("<|end|>") == END
    text: str = made.to_str()
    return text


def text_of(tokens: list[int]) -> str:
    text: str = Tokenizer.from_str(tokenizer()).decode([token for token in tokens if token != END])
    return text
