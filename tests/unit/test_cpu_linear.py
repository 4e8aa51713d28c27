"""Packed linears: stock values for any number of rows, and no second copy of a weight."""

import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from drafthouse.engine.cpu_linear import PackedLinear, pack_linears


@pytest.mark.parametrize("rows", [1, 2, 16, 64, 65, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_values_are_the_stock_linears_up_to_rounding(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    linear = torch.nn.Linear(96, 48, bias=bias).requires_grad_(False)
    x = torch.randn(1, rows, 96)
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_the_mapped_file_of_the_weights_is_let_go(tmp_path: pathlib.Path) -> None:
    """While one weight is still a view of it, all its pages stay in memory."""
    file = tmp_path / "weights.safetensors"
    save_file({"0.weight": torch.randn(1000, 64), "1.weight": torch.randn(64, 64)}, file)

    def mapped() -> bool:
        return str(file) in pathlib.Path("/proc/self/maps").read_text()

    model = torch.nn.Sequential(torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 64, bias=False)).requires_grad_(False)
    model.load_state_dict(load_file(file), assign=True)
    model.requires_grad_(False)
    wanted = model(torch.tensor([3, 999]))
    assert mapped()
    assert pack_linears(model) == 1
    assert not mapped()
    torch.testing.assert_close(model(torch.tensor([3, 999])), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_alone(dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8)).to(dtype)
    weight = model[0].weight
    assert pack_linears(model) == 0
    assert model[0].weight is weight
