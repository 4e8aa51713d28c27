"""What a folder in the cache was converted from: a file beside the weights.

Promises: the record depends on the GGUF file alone, as all else in the folder does, so that replicas on two machines agree.
"""

import pathlib
from collections.abc import Mapping

import yaml

RECORD = "gguf.yaml"

FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of tensors that are not quantised."""


def write_record(folder: pathlib.Path, file: str, types: Mapping[str, int]) -> None:
    """`types` counts the file's tensors by their type."""
    (folder / RECORD).write_text(yaml.safe_dump({"file": file, "tensors": dict(types)}), encoding="utf-8")


def dequantised(folder: pathlib.Path) -> str | None:
    """What the weights in a converted folder were, in words; None where no GGUF file was converted into it."""
    try:
        types: dict[str, int] = yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))["tensors"]
    except FileNotFoundError:
        return None
    blocks = [f"{kind} ({count} tensors)" for kind, count in sorted(types.items(), key=lambda item: -item[1]) if kind not in FLOATS]
    return f"dequantised from {', '.join(blocks)} to float32" if blocks else f"{', '.join(sorted(types))} as float32"
