"""Small GGUF files as llama.cpp writes them, made in code."""

import pathlib
from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers.convert_slow_tokenizer import bytes_to_unicode

HIDDEN, LAYERS, HEADS, KV_HEADS, MLP, CONTEXT = 64, 2, 4, 2, 96, 128
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), "ĠĠ"]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """By llama.cpp's names, float32."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    kv = KV_HEADS * HIDDEN // HEADS
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN),
                "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (MLP, HIDDEN), "ffn_up": (MLP, HIDDEN), "ffn_down": (HIDDEN, MLP),
            }.items()
        }  # fmt: skip
    return {name: (0.1 * rng.standard_normal(shape) + (len(shape) == 1)).astype(np.float32) for name, shape in shapes.items()}


def quantised(weights: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The numbers that are left of the weights in a file."""
    return dequantize(quantize(weights, kind), kind)


def write_gguf(
    path: pathlib.Path,
    architecture: str = "llama",
    pre_tokenizer: str = "smollm",
    kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    weights: dict[str, np.ndarray] | None = None,
    more: Callable[[GGUFWriter], None] = lambda writer: None,
) -> pathlib.Path:
    """Matrices are quantised to `kind`, vectors stay float32; `more` adds metadata."""
    writer = GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    _write_tokenizer(writer, pre_tokenizer)
    more(writer)
    for name, values in (tensors() if weights is None else weights).items():
        matrix = values.ndim > 1
        writer.add_tensor(name, quantize(values, kind) if matrix else values, raw_dtype=kind if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: GGUFWriter, pre_tokenizer: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
