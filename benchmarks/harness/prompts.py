"""Which prompts a benchmark runs: the package's held-out ones, or those of a file.

Promises: a fault in the file or in a count is a ConfigError that names the option.
"""

import json
import pathlib
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from deployments.gateway.text_codec import make_codec
from drafthouse.demo_models.prompts import read_prompts
from drafthouse.errors import ConfigError, RequestError


def load_texts(path: pathlib.Path | None, count: int) -> list[str]:
    """`count` prompts, evenly spread over the file so that a few show its whole range. None: the package's held-out prompts.

    A file is a JSON list, or an object with the list under `prompts`; each item a string or an object with `text`.
    """
    texts = [prompt.text for prompt in read_prompts()] if path is None else _read(path)
    if not 1 <= count <= len(texts):
        raise ConfigError(f"--prompts {count}: there are {len(texts)} prompts in {path or 'the package'}")
    return [texts[i * len(texts) // count] for i in range(count)]


def _read(path: pathlib.Path) -> list[str]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--prompts-file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"--prompts-file {path}: not JSON: {error}") from error
    items = content.get("prompts") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ConfigError(f"--prompts-file {path}: neither a list nor an object with a list under 'prompts'")
    return [_text(path, i, item) for i, item in enumerate(items)]


def _text(path: pathlib.Path, index: int, item: Any) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str) or not text:
        raise ConfigError(f"--prompts-file {path}: prompt {index} is neither a text nor an object with 'text'")
    return text


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--target {folder}: no tokenizer could be read: {error}") from error
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], longest: int | None = None) -> list[list[int]]:
    """Token ids as the server encodes a prompt, the last `longest` of each."""
    ids: list[list[int]] = [list(tokenizer(text).input_ids) for text in texts]
    return [each if longest is None else each[-longest:] for each in ids]


def encode_chats(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of chats in which a user has said the text, as the server encodes them, none of them cut. Raises ConfigError where the
    target has no chat template."""
    codec = make_codec(tokenizer)
    try:
        return [codec.encode_chat([{"role": "user", "content": text}]) for text in texts]
    except RequestError as error:
        raise ConfigError(f"--chats: {error}") from error
