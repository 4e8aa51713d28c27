"""Prompts of each workload, as token ids.

- `code`: held-out prompts as they are, the last `prompt_tokens` of each.
- `edit`: a file is given and then written once more, as an editor does that changes little of it. A small target does not copy what
  it is given; it repeats what it would say anyway. So the file is what the target itself says after a held-out prompt, and the prompt
  holds that, a blank line and its beginning once more.
- `long`: texts one after another up to `long_tokens`, the last of them the prompt proper.

Promises: the same options and target give the same prompts; the model is gone afterwards. What does not fit is a
ConfigError that names --workload.
"""

from collections.abc import Callable, Sequence

from drafthouse.config.serving import ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import load
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

WORKLOADS = ("code", "edit", "long")

FILE_TOKENS, WRITTEN_AGAIN = 256, 64
"""Tokens of an edited file, and how many of them the prompt writes again: enough to recognise the place."""

HEADER_TOKENS = 64
"""Of the held-out prompt that the target goes on from."""

SEPARATOR = "\n\n"

ANY_CURVE = Curve("any", "nothing is drafted, so nothing hangs on it", 1.0, 0.0, 0.0)

SELF_CHECK_TOKENS = 256
"""More than a model's check at its loading takes."""

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


def own_texts(target: ModelConfig, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The `tokens` that the target itself says after each prompt, greedily, all prompts side by side. Raises ModelError."""
    room = sum(len(prompt) + tokens for prompt in prompts)
    model = load(target.model_copy(update={"kv_tokens": max(room, SELF_CHECK_TOKENS)}))
    process = OneProcess(VerifierEngine(model, ANY_CURVE, VerifierConfig(), TreeConfig()), [])
    greedy, plain = SamplingParams(temperature=0.0), Speculation("off")
    outputs = process.generate(
        GenerateRequest(str(i), 1, tuple(prompt), (), greedy, 0, tokens, (), plain) for i, prompt in enumerate(prompts)
    )
    return [outputs[str(i)] for i in range(len(prompts))]
