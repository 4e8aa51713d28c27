"""What tells two models apart: replicas of one fingerprint must give the same text."""

import pathlib
from types import SimpleNamespace

import pytest
import torch
import transformers

from drafthouse.config.serving import ModelConfig
from drafthouse.engine import file_digests
from drafthouse.engine.fingerprint import fingerprint, kernels

CONFIG = ModelConfig(path="unused")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path_factory.mktemp("cache")))


def of(folder: pathlib.Path, **changes: object) -> str:
    forward = str(changes.pop("forward", "native"))
    return fingerprint(str(folder), CONFIG.model_copy(update=changes), CPU, forward)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.model", "tokenizer.json", "merges.txt", "t.jinja"])
def test_every_file_that_decides_the_text_counts(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"one")
    first = of(tmp_path)
    assert of(tmp_path) == first
    (tmp_path / name).write_bytes(b"two")
    assert of(tmp_path) != first


@pytest.mark.parametrize("size", [1, 3 << 20])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_every_byte_counts(tmp_path: pathlib.Path, size: int, where: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fine-tunes may differ in the middle of a file alone, and share head, tail, size and name."""
    monkeypatch.setattr(file_digests, "PIECE_BYTES", 1 << 20)
    folders = [tmp_path / "a", tmp_path / "b"]
    weights = bytearray(size)
    for folder in folders:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
        weights[int(where * (size - 1))] ^= 1
    assert of(folders[0]) != of(folders[1])


def test_where_a_folder_lies_and_when_it_was_written_does_not_count(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(b"{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "b" / "README.md").write_bytes(b"of no account")
    assert of(tmp_path / "a") == of(tmp_path / "b")


def test_what_is_in_a_file_is_not_taken_for_another_file(tmp_path: pathlib.Path) -> None:
    for name, files in (("a", {"a.json": b"1", "b.json": b"2"}), ("b", {"a.json": b"2", "b.json": b"1"}), ("c", {"a.json": b"12"})):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    assert len({of(tmp_path / name) for name in "abc"}) == 3


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"parallel": 2}, {"threads": 2}, {"forward": "x"}])
def test_what_decides_the_bits_of_a_sum_counts(tmp_path: pathlib.Path, change: dict[str, object]) -> None:
    assert of(tmp_path, **change) != of(tmp_path)


@pytest.mark.parametrize("what", ["instruction set", "features", "torch", "setting"])
def test_kernels_count_below_float64(tmp_path: pathlib.Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 rounding decides nothing, so replicas of different machines may replace each other."""
    before = [of(tmp_path), of(tmp_path, dtype="float64")]
    match what:
        case "instruction set":
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
        case "features":
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
        case "torch":
            monkeypatch.setattr(torch, "__version__", "99")
        case "setting":
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert of(tmp_path) != before[0]
    assert of(tmp_path, dtype="float64") == of(tmp_path, dtype="float64", forward="x") == before[1]


def test_the_kind_of_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for name in ("H100", "A100"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        said.append(kernels(CONFIG, torch.device("cuda", 0)))
    assert said[0] != said[1]


def test_of_a_hub_id_the_commit_at_hand_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have an older download than another."""
    found = []
    for commit in ("aaa", "bbb", "aaa"):
        known = SimpleNamespace(from_pretrained=lambda path, commit=commit: SimpleNamespace(_commit_hash=commit))
        monkeypatch.setattr(transformers, "AutoConfig", known)
        found.append(fingerprint("org/name", CONFIG, CPU, "native"))
    assert found[0] == found[2] != found[1]
