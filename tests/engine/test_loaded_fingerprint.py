"""The fingerprint of a model as it is loaded holds which kernels it runs on."""

import pathlib

import pytest

from drafthouse.config.serving import ModelConfig
from drafthouse.engine import loader
from drafthouse.engine.native.library import NoLibrary
from tests.engine.tiny_models import tiny


@pytest.mark.parametrize(("dtype", "differ"), [("float32", True), ("float64", False)])
def test_replicas_on_different_kernels_do_not_go_on_with_each_others_texts(
    dtype: str, differ: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But in float64, where the order of sums decides nothing."""

    def missing(*_: object) -> None:
        raise NoLibrary("no compiler")

    tiny("llama").save_pretrained(tmp_path)
    config = ModelConfig.model_validate({"path": str(tmp_path), "dtype": dtype, "kv_tokens": 256})
    native = loader.load(config)
    assert loader.load(config).fingerprint == native.fingerprint
    monkeypatch.setattr(loader, "load_library", missing)
    stock = loader.load(config)
    assert (native.forward, native.row_invariant) == ("native", True)
    assert (stock.forward, stock.row_invariant) == ("transformers", False)
    assert (native.threads, stock.threads) == ("1 thread", "1 thread")
    assert (native.fingerprint != stock.fingerprint) is differ
