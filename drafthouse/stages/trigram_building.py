"""Builds a trigram table from what a draft says by itself, or from texts that a target has written.

Promises: the file is no larger than MAX_BYTES; what came seldom is left out first. The sampling is
seeded, so the same draft gives the same table.
"""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from drafthouse.checkpoints.draft_folder import is_draft
from drafthouse.checkpoints.model_path import model_path
from drafthouse.engine.model_limits import limits_of
from drafthouse.errors import ConfigError, ModelError
from drafthouse.stages.trigram_table import counted, packed

MAX_BYTES = 1_000_000
"""It ships with the draft and is read at every start."""

ROWS = 256
"""Texts sampled side by side."""

LENGTH = 256
"""Tokens of one text: enough to leave the opening behind."""

TEMPERATURES = (0.5, 1.0)
"""Texts are sampled in between: requests are mostly cooler than the draft's own distribution."""


def build(draft: str, output: pathlib.Path, tokens: int, progress: Callable[[int], None]) -> tuple[int, int]:
    """Samples about `tokens` and writes the table; returns how many were sampled and the file's bytes. `progress` gets the count so far.

    Raises ConfigError or ModelError.
    """
    folder = model_path(draft)
    if is_draft(pathlib.Path(folder)):
        raise ConfigError(f"--draft {draft}: a distilled draft, no model by itself; give --text instead, a folder of `drafthouse distill`")
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"--draft {draft}: cannot load the model: {error}") from error
    torch.manual_seed(0)
    texts: list[np.ndarray] = []
    while len(texts) * ROWS * LENGTH < tokens:
        texts.append(sample(model, ROWS, LENGTH))
        progress(len(texts) * ROWS * LENGTH)
    return len(texts) * ROWS * LENGTH, write(output, np.concatenate(texts))


def write(output: pathlib.Path, texts: Sequence[np.ndarray] | np.ndarray) -> int:
    """The table of these texts; returns the file's bytes. Raises ConfigError naming --output."""
    data = fitted(texts)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from error
    return len(data)


def fitted(texts: Sequence[np.ndarray] | np.ndarray) -> bytes:
    """The table of texts of token ids that fits into MAX_BYTES with as many pairs and triples as can be."""
    least = 1
    while len(data := packed(counted(texts, least))) > MAX_BYTES:
        least += 1
    return data


@torch.inference_mode()
def sample(model: PreTrainedModel, rows: int, length: int) -> np.ndarray:
    """Texts int64 `[rows, length]`, each after the token that begins a text, or after any token where there is none."""
    config, vocab_size = model.config.get_text_config(), limits_of(model.config).vocab_size
    first = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
    start = torch.randint(vocab_size, (rows, 1)) if first is None else torch.full((rows, 1), int(first))
    low, high = TEMPERATURES
    temperature = torch.rand(rows, 1) * (high - low) + low
    cache, x, out = DynamicCache(), start, []
    for _ in range(length):
        logits = model(input_ids=x, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        x = (logits / temperature).softmax(-1).multinomial(1)
        out.append(x)
    return torch.cat(out, 1).numpy()
