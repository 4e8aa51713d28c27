"""A dense decoder on the CPU: packed weights, and one call into the compiled library for each step.

Promises: logits are float32 (float64 for float64 weights) and a row's bits depend on that row and what it sees alone. Weights are
held once, packed; a tied head is the embedding, too.
"""

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.native.description import DecoderDescription, LinearWeights
from drafthouse.engine.native.library import load_library
from drafthouse.engine.native.memory import LogitsMemory, WeightMemory
from drafthouse.engine.native.packing import gate_up_bias, pack, pack_gate_up, padded_bias
from drafthouse.engine.native.rank_link import GATHER, RankLink
from drafthouse.engine.packed_step import PackedStep, packed
from drafthouse.engine.segment import Segment

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2, torch.int8: 3, torch.float16: 4}
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


class _Linear(ctypes.Structure):
    _fields_ = [("panels", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("inner", ctypes.c_int32), ("outer", ctypes.c_int32)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attn_in", "attn_out", "mlp_in", "mlp_out", "q_norm", "k_norm", "cos", "sin")),
        ("window", ctypes.c_int64),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "rotary",
                "kind", "activation", "tied", "norm_over_all_heads",
            )
        ),
        *(
            (name, ctypes.c_double)
            for name in ("eps", "scaling", "attention_softcap", "final_softcap", "embedding_scale", "residual_scale", "logit_scale")
        ),
        ("layer", ctypes.POINTER(_Layer)),
        ("embedding", ctypes.c_void_p),
        ("head", _Linear),
        ("final_norm", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("slots", ctypes.c_int64),
        ("rank", ctypes.c_int32),
        ("ranks", ctypes.c_int32),
        ("gather", GATHER),
    ]  # fmt: skip


_ROWS = ("token", "position", "write_slot", "table", "prefix", "sinks", "skipped", "line_start", "line", "output", "state", "input_of")


class _Step(ctypes.Structure):
    _fields_ = [
        ("tokens", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("states", ctypes.c_int32),
        *((n, ctypes.c_void_p) for n in _ROWS),
        *((n, ctypes.c_void_p) for n in ("inputs", "logits", "last_states")),
    ]


@dataclass(frozen=True, slots=True)
class StepArrays:
    """A step as `decoder.cpp` reads it: `numbers` int32 hold one array after another, each from `address[name]` on, and `table` int64 the
    address of each row's slot table, which `step` keeps alive."""

    step: PackedStep
    numbers: np.ndarray
    table: np.ndarray
    address: Mapping[str, int]


def step_arrays(segments: Sequence[Segment]) -> StepArrays:
    """`line_start[row]` is where the row's line begins in `line`, `input_of[row]` which of the step's inputs is the row's, or -1."""
    step = packed(segments)
    counts = np.diff(step.first)
    line_start = np.zeros(len(step.tokens) + 1, dtype=np.int32)
    np.cumsum(step.lengths, out=line_start[1:])
    input_of = np.full(len(step.tokens), -1, dtype=np.int32)
    if len(step.input_rows):
        input_of[step.input_rows] = np.arange(len(step.input_rows))
    arrays = {
        "token": step.tokens, "position": step.positions, "prefix": step.prefix, "line_start": line_start, "line": step.entries,
        "output": step.outputs, "sinks": step.sinks.repeat(counts), "skipped": step.skipped.repeat(counts),
        "write_slot": step.slots, "state": step.states, "input_of": input_of,
    }  # fmt: skip
    numbers = np.concatenate([*arrays.values()], dtype=np.int32, casting="same_kind")
    table = np.array([kv.slots.buffer_info()[0] for kv in step.tables], dtype=np.int64).repeat(counts)
    address, at = {"table": table.ctypes.data}, numbers.ctypes.data
    for name, array in arrays.items():
        address[name] = at
        at += numbers.itemsize * len(array)
    return StepArrays(step, numbers, table, address)


class NativeDecoder:
    """Owns the packed weights, of several ranks its share, rounded to `dtype`. Keys and values go into `cache`, for int8 in bfloat16."""

    def __init__(self, description: DecoderDescription, cache: KvCache, dtype: torch.dtype, threads: int):
        self._library = load_library()
        self._compute = torch.float64 if dtype == torch.float64 else torch.float32
        self._held: list[torch.Tensor] = []  # what the library points to
        self._memory = WeightMemory()
        self._logits = LogitsMemory(description.vocab, self._compute)
        self._dtype, self.layers = dtype, len(description.layers)
        self.vocab_size, self.hidden_size = description.tokens, description.hidden
        d, self._link = description, RankLink(description.share.rank, description.share.ranks)
        layers = (_Layer * len(d.layers))()
        rotary = {kind: (self._number(cos), self._number(sin)) for kind, (cos, sin) in d.rotary.items()}
        for target, layer in zip(layers, d.layers, strict=True):
            target.qkv, target.out, target.down = self._linear(layer.qkv), self._linear(layer.out), self._linear(layer.down)
            target.gate_up = self._gate_up(layer.gate_up)
            for name in ("attn_in", "attn_out", "mlp_in", "mlp_out", "q_norm", "k_norm"):
                setattr(target, name, self._number(getattr(layer, name)))
            target.cos, target.sin = rotary[layer.rotary]
            target.window = layer.window
        head = self._linear(LinearWeights([d.head.detach()], None))
        model = _Model(
            layers=len(d.layers), hidden=d.hidden, heads=d.heads, kv_heads=d.kv_heads, head_dim=d.head_dim,
            intermediate=d.intermediate, vocab=d.vocab, rotary=2 * next(iter(d.rotary.values()))[0].shape[1],
            kind=KINDS[dtype], activation=ACTIVATIONS[d.activation], tied=d.tied, norm_over_all_heads=d.norm_over_all_heads,
            eps=d.eps, scaling=d.scaling, attention_softcap=d.attention_softcap, final_softcap=d.final_softcap,
            embedding_scale=d.embedding_scale, residual_scale=d.residual_scale, logit_scale=d.logit_scale,
            layer=layers, embedding=None if d.tied else self._embedding(d.embedding), head=head,
            final_norm=self._number(d.final_norm), cache=cache.data.data_ptr(), slots=cache.data.shape[3],
            rank=d.share.rank, ranks=d.share.ranks, gather=self._link.gather,
        )  # fmt: skip
        self.parameters = description.parameters
        self.weight_bytes = sum(tensor.nbytes for tensor in self._held)
        self.cache, self._pointed_to = cache, (model, layers)
        self._handle = ctypes.c_void_p(self._library.drafthouse_decoder_new(ctypes.byref(model), threads))
        self._free = weakref.finalize(self, self._library.drafthouse_decoder_free, self._handle)
        self._free.atexit = False  # a step may still run then, on a thread that the interpreter does not wait for

    def run(self, step: StepArrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[outputs, vocab]` and last hidden states `[states, hidden]`; writes keys and values of all tokens. All ranks run the same
        steps."""
        assert self._free.alive, "the decoder is closed"
        rows, count = step.step, len(step.step.states)
        logits, states = self._logits.rows(len(rows.outputs)), torch.empty(count, self.hidden_size, dtype=self._compute)
        inputs = self._inputs_of(rows)
        c_step = _Step(
            tokens=len(rows.tokens), outputs=len(rows.outputs), states=count, logits=logits.data_ptr(), last_states=states.data_ptr(),
            inputs=None if inputs is None else inputs.data_ptr(), **step.address,
        )  # fmt: skip
        self._library.drafthouse_decoder_run(self._handle, ctypes.byref(c_step))
        self._link.check()
        return logits, states

    def _inputs_of(self, step: PackedStep) -> torch.Tensor | None:
        """As the library reads them. Of several ranks none takes any: each would add them."""
        if step.inputs is None:
            return None
        assert self._link.ranks == 1
        assert step.inputs.shape == (len(step.input_rows), self.hidden_size)
        return step.inputs.to(self._compute).contiguous()

    def close(self) -> None:
        """Ends the library's threads."""
        self._free()

    def _hold(self, tensor: torch.Tensor) -> int:
        """Of a copy: weights as loaded are views of a mapped file, all of whose pages would stay with one of them."""
        held = self._memory.copy(tensor)
        self._held.append(held)
        return held.data_ptr()

    def _number(self, tensor: torch.Tensor | None) -> int | None:
        return None if tensor is None else self._hold(tensor.detach().to(self._compute))

    def _embedding(self, weight: torch.Tensor) -> int:
        return self._hold(pack([weight.detach()], self._dtype) if self._dtype == torch.int8 else weight.detach().to(self._dtype))

    def _linear(self, weights: LinearWeights) -> _Linear:
        outer = sum(part.shape[0] for part in weights.parts)
        bias = None if weights.bias is None else self._number(padded_bias(weights.bias))
        return _Linear(self._hold(pack(weights.parts, self._dtype)), bias, weights.parts[0].shape[1], outer)

    def _gate_up(self, weights: LinearWeights) -> _Linear:
        outer = sum(part.shape[0] for part in weights.parts)
        bias = None if weights.bias is None else self._number(gate_up_bias(weights.bias))
        return _Linear(self._hold(pack_gate_up(weights.parts, self._dtype)), bias, weights.parts[0].shape[1], outer)
