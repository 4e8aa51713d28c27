"""A model one precision above its own, with the same weights: what the rounding of its dtype is measured against.

Promises: inside `raised` every weight of the model's dtype has the same value in the dtype above, and
outside all is as it was. A layer's weights are widened only while it runs, so memory for one layer and for
what lies outside of the layers is enough.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

ABOVE = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}


class _Widened:
    """Parameters of some modules, swapped for wider ones and back. One that two modules share stays one."""

    def __init__(self, modules: Iterable[torch.nn.Module], own: torch.dtype, above: torch.dtype):
        self.above = above
        self.places = [(m, name, p) for m in modules for name, p in m.named_parameters(recurse=False) if p.dtype == own]

    def enter(self, *_: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():  # a rank's share cannot be taken out of an inference tensor
            wide = {id(p): torch.nn.Parameter(p.to(self.above), requires_grad=False) for _, _, p in self.places}
        for module, name, parameter in self.places:
            setattr(module, name, wide[id(parameter)])

    def leave(self, *_: Any) -> None:
        for module, name, parameter in self.places:
            setattr(module, name, parameter)


@contextlib.contextmanager
def raised(model: PreTrainedModel) -> Iterator[torch.dtype]:
    """Yields the dtype; float64 has none above it and stays."""
    own = model.dtype
    above = ABOVE.get(own)
    if above is None:
        yield own
        return
    with contextlib.ExitStack() as stack:
        if above == torch.float64:
            stack.enter_context(_eager_experts(model))
        in_layers: set[torch.nn.Module] = set()
        for layer in layers_of(model):
            in_layers.update(layer.modules())
            widened = _Widened(layer.modules(), own, above)
            stack.callback(widened.leave)
            stack.callback(layer.register_forward_pre_hook(widened.enter).remove)
            stack.callback(layer.register_forward_hook(widened.leave).remove)
        outside = _Widened([module for module in model.modules() if module not in in_layers], own, above)
        stack.callback(outside.leave)
        outside.enter()
        yield above


def layers_of(model: PreTrainedModel) -> Iterable[torch.nn.Module]:
    """The list of modules with most parameters."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=())


@contextlib.contextmanager
def _eager_experts(model: PreTrainedModel) -> Iterator[None]:
    """torch's grouped matrix product has no float64."""
    serving = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(serving)
