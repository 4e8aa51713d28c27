"""What a draft that reads hidden states adds to the embeddings of its tokens.

Promises: a token's row depends on its own state alone. On the native decoder a product runs on the caller's thread: its weights are some
hundred kilobytes, and to wake torch's threads for them, while the decoder's own still wait awake, takes longer than the product.
"""

from collections.abc import Callable, Sequence

import torch

from drafthouse.engine.native.library import load_library
from drafthouse.engine.native.packing import pack

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""`[rows, hidden]` to `[rows, hidden]`, in the dtype of the weights."""


class StateInputs:
    """From hidden states to what is added to embeddings: `fuse.state s`, and `fuse.no_state` where there is no `s`."""

    def __init__(self, state: torch.Tensor, no_state: torch.Tensor):
        """`[hidden, hidden]` and `[hidden]`."""
        self.state, self.no_state = state, no_state
        self.multiply: Multiply = lambda rows: rows @ state.T

    def on_native(self) -> "StateInputs":
        """The same where the native decoder runs the draft. Raises NoLibrary."""
        inputs = StateInputs(self.state, self.no_state)
        inputs.multiply = NativeProduct(self.state)
        return inputs

    def rows(self, states: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """`Segment.inputs` of tokens that were chosen from these states, each `[hidden]`, on the model's device: `[tokens, hidden]`."""
        known = [i for i, state in enumerate(states) if state is not None]
        if not known:
            return self.no_state.repeat(len(states), 1)
        products = self.multiply(torch.stack([state for state in states if state is not None]).to(self.state))
        if len(known) == len(states):
            return products
        inputs = self.no_state.repeat(len(states), 1)
        inputs[known] = products
        return inputs


class NativeProduct:
    """`x W^T` of float32 or float64 weights `[outer, inner]` on a CPU, by the decoder's kernels."""

    def __init__(self, weight: torch.Tensor):
        self._library, self._panels = load_library(), pack([weight], weight.dtype)
        self._outer, self._inner = weight.shape
        self._wide = int(weight.dtype == torch.float64)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        assert rows.dtype == self._panels.dtype
        assert rows.is_contiguous()
        out = rows.new_empty(len(rows), self._outer)
        self._library.drafthouse_multiply(
            self._panels.data_ptr(), self._inner, self._outer, self._wide, rows.data_ptr(), len(rows), out.data_ptr()
        )
        return out
