"""Writes a GGUF file's model as a folder that transformers loads: configuration, tokenizer, chat template, weights.

Promises: tensors are dequantised to float32 by transformers' and gguf's own readers; the values that the file holds are the
model. What those readers would drop or guess (rotary scaling, an unknown pre-tokenizer, missing tensors, one part of a split file)
is refused, since no later check could see it. Whatever is wrong with the file is a ModelError that names it.
"""

import contextlib
import io
import pathlib
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from drafthouse.checkpoints.gguf_record import write_record
from drafthouse.errors import ConfigError, ModelError

DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Values of `tokenizer.ggml.pre` for which each digit stands alone, and GPT-2's rule splits the rest."""

GPT2_RULE = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0", "mellum"}
"""Values for which GPT-2's rule is all. transformers takes it for values that it does not know, too."""

Tell = Callable[[str, float], None]
"""Gets the name of the part at work, and the share of the whole that is done."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of a file before its weights are read: `types` counts tensors, `elements` the numbers in all of them."""

    types: Mapping[str, int]
    elements: int
    tokenizer: str
    pre_tokenizer: str


def convert(file: pathlib.Path, folder: pathlib.Path, name: str, tell: Tell) -> None:
    """Fills `folder`, which is there and empty.

    Raises ConfigError or ModelError beginning with `name`, the file's path in the configuration.
    """
    with _readable(file, name):
        tell("header", 0.0)
        header = read_header(file)
        _check_disk(header, folder)
        tell("tokenizer", 0.15)
        _write_tokenizer(file, folder, header)
        tell("weights", 0.35)
        with contextlib.redirect_stderr(_Percentages(lambda share: tell("weights", 0.35 + 0.55 * share))):
            _write_weights(file, folder, lambda: tell("writing", 0.9))
    write_record(folder, file.name, header.types)


@contextlib.contextmanager
def _readable(file: pathlib.Path, name: str) -> Iterator[None]:
    """What two libraries raise for a file that is cut short, garbled, or of a kind they do not know becomes a ModelError."""
    where = name if name.endswith(file.name) else f"{name}: {file}"
    try:
        yield
    except (ConfigError, ModelError) as error:
        raise type(error)(f"{where}: {error}") from error
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the disk; transformers raises the bare class for files that it cannot read
            raise
        raise _unreadable(where, error) from error
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error, NotImplementedError, RuntimeError) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ModelError(
        f"{where}: not a GGUF file that can be read: cut short, damaged, or of a kind that transformers does not read from GGUF: {reason}"
    )


def read_header(file: pathlib.Path) -> Header:
    """Raises ModelError for what would be read wrong, and what the reader raises for what cannot be read."""
    reader = GGUFReader(file)

    def field(key: str) -> object:
        found = reader.get_field(key)
        return found.contents() if found is not None else None

    architecture = field("general.architecture")
    if (parts := field("split.count")) is not None and parts != 1:
        raise ModelError(f"one of {parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge`")
    scaling = field(f"{architecture}.rope.scaling.type")
    factors = sorted(tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_"))
    if scaling not in (None, "none") or factors:
        what = f"rope.scaling.type {scaling}" if scaling not in (None, "none") else f"tensor {factors[0]}"
        raise ModelError(f"the model scales its rotary positions ({what}), which transformers does not read from GGUF; use its own folder")
    return Header(
        dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        sum(int(tensor.n_elements) for tensor in reader.tensors),
        str(field("tokenizer.ggml.model")),
        str(field("tokenizer.ggml.pre") or ""),
    )


def _check_disk(header: Header, folder: pathlib.Path) -> None:
    needed, free = 4 * header.elements, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"in float32 it takes {needed / 1e9:.3g} GB, and {folder.parent} has {free / 1e9:.3g} GB free; "
            "DRAFTHOUSE_CACHE names another folder for caches"
        )


def _write_tokenizer(file: pathlib.Path, folder: pathlib.Path, header: Header) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if header.tokenizer == "gpt2":
        backend = tokenizer.backend_tokenizer
        if header.pre_tokenizer in DIGITS_APART:
            by_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_gpt2])
        elif isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and header.pre_tokenizer not in GPT2_RULE:
            raise ModelError(
                f"tokenizer.ggml.pre is {header.pre_tokenizer!r}, for which no rule to split text by is known here: "
                "text would get other tokens than the model learned; use the model's own folder"
            )
    tokenizer.save_pretrained(folder)


def _write_weights(file: pathlib.Path, folder: pathlib.Path, writing: Callable[[], None]) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True), output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"the file lacks tensors of this architecture: {', '.join(missing[:3])}{', ...' if missing[3:] else ''}")
    writing()
    model.save_pretrained(folder)


class _Percentages(io.TextIOBase):
    """Reads the bars that the libraries draw. They have no other sign of how far they are."""

    def __init__(self, tell: Callable[[float], None]):
        self._tell = tell

    def write(self, text: str) -> int:
        if found := re.findall(r"dequantizing.*?(\d+)%\|", text):
            self._tell(int(found[-1]) / 100)
        return len(text)
