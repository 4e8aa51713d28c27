"""What a load does for the native decoder alone, and what it leaves behind."""

import gc
import pathlib
import weakref

import pytest
import torch

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.loader import load
from drafthouse.engine.self_check import SelfCheck
from tests.engine.model_folders import save
from tests.engine.pairs import loaded
from tests.engine.tiny_models import tiny


def test_the_stock_model_is_let_go_where_the_native_decoder_runs() -> None:
    model = tiny("llama", dtype=torch.float32)
    stock = weakref.ref(model)
    served = loaded(model)
    del model
    gc.collect()
    assert served.runner.forward.name == "native"
    assert stock() is None


def test_the_file_of_the_weights_is_let_go(tmp_path: pathlib.Path) -> None:
    """While one view of it lives, all its pages stay in memory."""
    folder = save("llama", tmp_path / "llama", torch.float32)
    served = load(ModelConfig(path=str(folder), kv_tokens=256))
    gc.collect()
    assert served.runner.forward.name == "native"
    assert str(folder) not in pathlib.Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("name", "checked"), [("llama", 0), ("mixtral", 1)])
def test_only_modules_that_serve_are_tried_on_packed_steps(name: str, checked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SelfCheck] = []
    check_logic = SelfCheck.check_logic
    monkeypatch.setattr(SelfCheck, "check_logic", lambda self, shape: (seen.append(self), check_logic(self, shape)))
    loaded(tiny(name, dtype=torch.float32))
    assert len(seen) == checked
