"""Prompts of each workload, as token ids.

- `code`: held-out prompts as they are, the last `prompt_tokens` of each.
- `edit`: a file is given and then written once more, as an editor does that changes little of it. A small target does not copy what
  it is given; it repeats what it would say anyway. So the file is what the target itself says after a held-out prompt, and the prompt
  holds that, a blank line and its beginning once more.
- `long`: texts one after another up to `long_tokens`, the last of them the prompt proper.

Promises: pure; the same options give the same prompts. What does not fit is a ConfigError that names --workload.
"""

from collections.abc import Callable, Sequence

from drafthouse.errors import ConfigError

WORKLOADS = ("code", "edit", "long")

FILE_TOKENS, WRITTEN_AGAIN = 256, 64
"""Tokens of an edited file, and how many of them the prompt writes again: enough to recognise the place."""

HEADER_TOKENS = 64
"""Of the held-out prompt that the target goes on from."""

SEPARATOR = "\n\n"

Encode = Callable[[str], list[int]]


def headers(texts: Sequence[str], encode: Encode) -> list[list[int]]:
    """Where the target's own files begin."""
    return [encode(text)[-HEADER_TOKENS:] for text in texts]


def edited(header: Sequence[int], file: Sequence[int], encode: Encode) -> list[int]:
    """The header, the file that the target wrote after it, and the file's beginning once more."""
    return [*header, *file, *encode(SEPARATOR), *file[:WRITTEN_AGAIN]]


def prompts(workload: str, texts: Sequence[str], encode: Encode, prompt_tokens: int | None, long_tokens: int) -> list[list[int]]:
    """Token ids of each prompt but of `edit`. `prompt_tokens` cuts those of `code`."""
    if workload == "long":
        return _long([encode(text + SEPARATOR) for text in texts], long_tokens)
    return [ids if prompt_tokens is None else ids[-prompt_tokens:] for ids in map(encode, texts)]


def _long(ids: Sequence[list[int]], length: int) -> list[list[int]]:
    """Each text after all those that come before it in a ring: its last `length` tokens."""
    total = sum(map(len, ids))
    if total < length:
        raise ConfigError(f"--workload long: the prompts have {total} tokens together, {length} are needed: give more --prompts")
    joined = []
    for last in range(len(ids)):
        ring = [*ids[last + 1 :], *ids[: last + 1]]
        joined.append([token for each in ring for token in each][-length:])
    return joined
