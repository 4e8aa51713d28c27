"""Token ids to text, incrementally: the bytes behind each token, and a decoder that emits whole characters only.

Promises: the pieces that `Detokenizer` returns join to what the tokenizer decodes from all tokens at
once, special tokens left out; no piece ends inside a UTF-8 character; the cost is linear in the
output, and at most three bytes are held back. Two families are known: byte-level BPE, and
SentencePiece with byte fallback, whose leading space is kept, since the text goes on from a prompt.
"""

import codecs
import json
from collections.abc import Collection, Iterable
from copy import copy
from typing import Any

from tokenizers import Tokenizer

from drafthouse.errors import ModelError

PROBE = "def f(x):\n\treturn 'naïve' + \"日本語 🙂\"  # 3.5 %"


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes: visible Latin-1 stands for itself, the rest follow from 256."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


class TokenBytes:
    """The UTF-8 bytes of each token id; empty for special and unknown ids. Raises ModelError for other families."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        kinds = _decoder_kinds(tokenizer)
        if "ByteLevel" not in kinds and not {"ByteFallback", "Metaspace"} & kinds:
            raise ModelError(f"tokenizer decoder {sorted(kinds)} is neither byte-level nor SentencePiece: its text cannot be streamed")
        self._alphabet = byte_level_alphabet() if "ByteLevel" in kinds else None
        added = tokenizer.get_added_tokens_decoder()
        self._known = {i: b"" if token.special else self._of_piece(token.content) for i, token in added.items()}
        self._check()

    def __getitem__(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._of_piece(self._tokenizer.id_to_token(token))
        return found

    def showing(self, contents: Collection[str]) -> "TokenBytes":
        """The same, but for special tokens that have their text."""
        shown = copy(self)
        added = self._tokenizer.get_added_tokens_decoder()
        shown._known = {**self._known, **{i: token.content.encode() for i, token in added.items() if token.content in contents}}
        return shown

    def label(self, token: int) -> bytes:
        """A token's bytes, and of a special token, which has none in a text, its name."""
        return self[token] or (self._tokenizer.id_to_token(token) or "").encode()

    def _of_piece(self, piece: str | None) -> bytes:
        if piece is None:
            return b""
        if self._alphabet is not None:
            if all(char in self._alphabet for char in piece):
                return bytes(self._alphabet[char] for char in piece)
            return piece.encode()
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def _check(self) -> None:
        ids = self._tokenizer.encode(PROBE, add_special_tokens=False).ids
        ours = b"".join(self[token] for token in ids).decode(errors="replace")
        theirs = self._tokenizer.decode(ids, skip_special_tokens=True)
        if ours.removeprefix(" ") != theirs.removeprefix(" "):
            raise ModelError(f"tokenizer cannot be streamed: its own text is {theirs!r}, byte by byte it is {ours!r}")


class Detokenizer:
    """The text of one sequence. Feed tokens in order; `flush` once, at the end."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, tokens: Iterable[int]) -> str:
        """The characters that these tokens complete."""
        return self._decoder.decode(b"".join(self._bytes[token] for token in tokens))

    def flush(self) -> str:
        """What is held back: a character that never became whole, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    if tokenizer.decoder is None:
        return set()
    return set(_types(json.loads(tokenizer.decoder.__getstate__())))


def _types(decoder: dict[str, Any]) -> list[str]:
    if decoder["type"] != "Sequence":
        return [decoder["type"]]
    return [kind for inner in decoder["decoders"] for kind in _types(inner)]
