"""From source files to token rows: trains the demo tokenizer and cuts the corpus into rows.

Promises: the order of rows is fixed by the corpus and a seed. Library code comes first and the
standard library last, where the learning rate decays: what is seen last is remembered best.
"""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from drafthouse.demo_models.corpus import Corpus, SourceFile

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
CONTEXT = 1024

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '# ' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '# assistant:\n' }}{% endif %}"
)
"""The demo pair has seen only Python, so a conversation is shown to it as comments."""

PACKAGE_CHARACTERS = 8_000_000
"""At most so much of one package, so that no single style of code fills the corpus."""


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sample = [file.text for file in corpus.train if file.name.startswith("python/")] + [file.text for file in corpus.train[::8]]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, files: list[SourceFile]) -> np.ndarray:
    """All files as one stream of ids (uint16), each begun by the end-of-text token."""
    encoded = tokenizer.backend_tokenizer.encode_batch([file.text for file in files])
    return np.array([i for e in encoded for i in [tokenizer.eos_token_id, *e.ids]], dtype=np.uint16)


def training_rows(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, seed: int = 0) -> np.ndarray:
    """Rows `[N, CONTEXT + 1]` in training order: libraries mixed with the standard library, then the standard library again."""
    budget: dict[str, int] = {}
    mixed, library = [], []
    for file in corpus.train:
        package = file.name.split("/")[0]
        budget[package] = budget.get(package, 0) + len(file.text)
        if package == "python":
            library.append(file)
        if budget[package] <= PACKAGE_CHARACTERS:
            mixed.append(file)
    rng = np.random.default_rng(seed)
    parts = []
    for files in (mixed, library):
        rows = cut(encode(tokenizer, files))
        parts.append(rows[rng.permutation(len(rows))])
    return np.concatenate(parts)


def cut(stream: np.ndarray) -> np.ndarray:
    """Rows `[N, CONTEXT + 1]`; a row's last token is the next row's first, so that every token is predicted once."""
    count = (len(stream) - 1) // CONTEXT
    return np.stack([stream[i * CONTEXT : i * CONTEXT + CONTEXT + 1] for i in range(count)])


def held_out_prompts(tokenizer: PreTrainedTokenizerFast, files: list[SourceFile], count: int, length: int, seed: int = 1) -> np.ndarray:
    """Prompts `[count, length]` of ids, each from one place in one held-out file."""
    rng = np.random.default_rng(seed)
    streams = [encode(tokenizer, [file]) for file in files]
    streams = [stream for stream in streams if len(stream) > length]
    picked = rng.permutation(len(streams))[:count]
    starts = [int(rng.integers(0, len(streams[i]) - length)) for i in picked]
    return np.stack([streams[i][s : s + length] for i, s in zip(picked, starts, strict=True)])
