"""Whether a folder's weight files are all there and whole, from their names, sizes and headers.

Promises: no weights are read, and neither torch nor transformers is imported. Each fault names the file at fault.
Headers: https://huggingface.co/docs/safetensors/index#format.
"""

import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

from drafthouse.errors import ModelError

SINGLE, SHARDED = ("model.safetensors", "pytorch_model.bin"), ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""What transformers loads, the first of both kinds that is there."""

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""

PICKLE_MARK = b"\x80"
"""Begins .bin files of old torch versions; later ones are zip archives."""

LFS_MARK = b"version https://git-lfs"

FETCH = "fetch it again"


def weight_faults(folder: pathlib.Path) -> Iterator[str]:
    for single, sharded in zip(SINGLE, SHARDED, strict=True):
        if (folder / single).exists():
            yield from _faults_of(folder / single, ())
            return
        if (folder / sharded).exists():
            yield from _shard_faults(folder, sharded)
            return
    yield f"no weights here: neither {SINGLE[0]} nor {SHARDED[0]} ({listing(folder)})"


def listing(folder: pathlib.Path, most: int = 8) -> str:
    """What a folder holds, for an error about what it lacks."""
    names = sorted(item.name + "/" * item.is_dir() for item in folder.iterdir())
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"it holds {shown}" if names else "it is empty"


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Raises ModelError, naming the file, for what is no JSON object."""
    try:
        data: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file.name}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{file.name}: {_lfs(file) or f'not JSON: {error}'}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{file.name}: not a JSON object")
    return data


def _shard_faults(folder: pathlib.Path, index: str) -> Iterator[str]:
    try:
        weight_map = read_json(folder / index).get("weight_map")
    except ModelError as error:
        yield str(error)
        return
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        yield f"{index}: no weight_map, which says in which shard each tensor is; {FETCH}"
        return
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        yield f"{', '.join(missing)}: missing, though {index} names it; fetch what is missing"
    for shard in shards:
        if shard not in missing:
            yield from _faults_of(folder / shard, [name for name, where in weight_map.items() if where == shard])


def _faults_of(file: pathlib.Path, expected: list[str] | tuple[()]) -> Iterator[str]:
    """`expected`: tensors that the file must hold, as far as its kind tells."""
    if file.suffix != ".safetensors":
        if not zipfile.is_zipfile(file) and _start(file, 1) != PICKLE_MARK:
            yield f"{file.name}: {_lfs(file) or f'cut short or damaged; {FETCH}'}"
        return
    try:
        names = tensor_names(file)
    except ModelError as error:
        yield str(error)
        return
    if absent := [name for name in expected if name not in names]:
        yield f"{file.name}: lacks {absent[0]}, which the index says it holds; index and shards are not of one model"


def tensor_place(folder: pathlib.Path, name_end: str) -> tuple[pathlib.Path, str] | None:
    """The safetensors file that holds the one tensor whose name ends so, and its name; None where no file here does. Raises ModelError for
    what cannot be read."""
    if (folder / SHARDED[0]).exists():
        weight_map = read_json(folder / SHARDED[0]).get("weight_map")
        places = {name: folder / str(shard) for name, shard in weight_map.items()} if isinstance(weight_map, dict) else {}
    elif (folder / SINGLE[0]).exists():
        places = dict.fromkeys(tensor_shapes(folder / SINGLE[0]), folder / SINGLE[0])
    else:
        places = {}
    found = [(file, name) for name, file in places.items() if name.endswith(name_end) and file.exists()]
    return found[0] if len(found) == 1 else None


def tensor_names(file: pathlib.Path) -> set[str]:
    """As `tensor_shapes`."""
    return set(tensor_shapes(file))


def tensor_shapes(file: pathlib.Path) -> dict[str, list[int]]:
    """The tensors of a safetensors file. Raises ModelError where header and length show that it is not whole."""
    size = file.stat().st_size
    if pointer := _lfs(file):
        raise ModelError(f"{file.name}: {pointer}")
    with file.open("rb") as data:
        length = int.from_bytes(data.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
            raise ModelError(f"{file.name}: {size:,} bytes, too short for its own header: cut short, or no safetensors file; {FETCH}")
        try:
            header = json.loads(data.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            shapes = {name: [int(size) for size in entry["shape"]] for name, entry in tensors.items()}
            end = LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ModelError(f"{file.name}: its header cannot be read: damaged, or no safetensors file; {FETCH}") from error
    if end != size:
        what = "cut short" if size < end else "damaged"
        raise ModelError(f"{file.name}: {size:,} bytes, and its header describes {end:,}: {what}; {FETCH}")
    return shapes


def _lfs(file: pathlib.Path) -> str | None:
    return "a Git LFS pointer, not the file itself; run `git lfs pull` in the folder" if _start(file, len(LFS_MARK)) == LFS_MARK else None


def _start(file: pathlib.Path, count: int) -> bytes:
    with file.open("rb") as data:
        return data.read(count)
