"""The native decoder as a runner's forward."""

from collections.abc import Sequence

import torch

from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.native.decoder import NativeDecoder, step_arrays
from drafthouse.engine.native.library import library_digest
from drafthouse.engine.segment import Segment


class NativeForward:
    """Runs on the cache that the decoder was made with."""

    name = "native"
    row_invariant = True

    def __init__(self, decoder: NativeDecoder):
        self.decoder, self.kernels = decoder, f"native {library_digest()}"
        self.parameters, self.weight_bytes = decoder.parameters, decoder.weight_bytes
        self.vocab_size, self.hidden_size, self.attention_calls = decoder.vocab_size, decoder.hidden_size, decoder.layers

    def run(self, segments: Sequence[Segment], cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[sum of outputs, vocab]` and states `[sum of states, hidden]`, float32 or float64."""
        assert cache is self.decoder.cache
        return self.decoder.run(step_arrays(segments))

    def close(self) -> None:
        """Ends the decoder's threads."""
        self.decoder.close()
