"""Prompts of each workload, as token ids.

- `code`: held-out prompts as they are, the last `prompt_tokens` of each.
- `edit`: a file is given and then written once more, as an editor does that changes little of it. The prompt holds the whole
  text, a blank line and the text's beginning; most of what the target goes on with is already there.
- `long`: texts one after another up to `long_tokens`, the last of them the prompt proper.

Promises: pure; the same options give the same prompts. What does not fit is a ConfigError that names --workload.
"""

from collections.abc import Callable, Sequence

from drafthouse.errors import ConfigError

WORKLOADS = ("code", "edit", "long")

WRITTEN_AGAIN = 0.2
"""Share of an edited text that the prompt writes again, in lines: enough to recognise the place."""

SEPARATOR = "\n\n"

Encode = Callable[[str], list[int]]


def edited(text: str) -> str:
    """The whole text, and its beginning again, in whole lines."""
    lines = text.splitlines(keepends=True)
    again = lines[: max(1, round(WRITTEN_AGAIN * len(lines)))]
    return text + SEPARATOR + "".join(again)


def prompts(workload: str, texts: Sequence[str], encode: Encode, prompt_tokens: int | None, long_tokens: int) -> list[list[int]]:
    """Token ids of each prompt. `prompt_tokens` cuts those of `code`."""
    if workload == "edit":
        return [encode(edited(text)) for text in texts]
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
