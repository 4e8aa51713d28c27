"""A draft as a plain folder of its family, with the whole vocabulary and a tokenizer, for other engines.

Promises: weights are in the target's own dtype. Logits of tokens that the draft's head knows are the draft's. Rows of the head for all
other tokens are the target's: their logits were never trained beside these, so another engine may now and then propose one of them,
which costs a little speed and no text.
"""

import pathlib

from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from drafthouse.checkpoints.draft_folder import HEAD, HEAD_IDS, WEIGHTS
from drafthouse.checkpoints.model_path import model_path
from drafthouse.distillation.network import target_modules
from drafthouse.errors import ConfigError

CARD = """# {target}: a draft, for other engines

Made by `drafthouse distill --target {target} --export-llama`: a decoder of {layers} layers for speculative decoding of {target}, with its
tokenizer and its whole vocabulary. {known:,} rows of its head were trained; the other {others:,} are the target's. It is made of the
target's weights and the target's text, so the target's licence holds for it. It is good for drafting only.
"""


def export_llama(draft: pathlib.Path, destination: pathlib.Path, target: str, trust_remote_code: bool = False) -> None:
    """Of a draft that reads tokens alone. Raises ConfigError where it cannot be written, ModelError for the target."""
    tensors = load_file(draft / WEIGHTS)
    head_ids, rows = tensors.pop(HEAD_IDS).long(), tensors.pop(HEAD)
    whole = target_modules(target, trust_remote_code)
    head = whole.lm_head.weight.detach().clone()
    head[head_ids] = rows.float()
    embeddings = whole.model.embed_tokens.weight.detach()
    config = AutoConfig.from_pretrained(draft)
    own = AutoConfig.from_pretrained(model_path(target), trust_remote_code=trust_remote_code).dtype
    model = AutoModelForCausalLM.from_config(config, dtype=own or rows.dtype)
    model.load_state_dict(tensors | {HEAD: head, "model.embed_tokens.weight": embeddings})
    card = CARD.format(target=target, layers=config.num_hidden_layers, known=len(head_ids), others=len(head) - len(head_ids))
    try:
        model.save_pretrained(destination)
        AutoTokenizer.from_pretrained(model_path(target), trust_remote_code=trust_remote_code).save_pretrained(destination)
        (destination / "README.md").write_text(card, encoding="utf-8")
    except Exception as error:  # fault boundary: safetensors and tokenizers have errors of their own for a full disk
        raise ConfigError(f"--export-llama {destination}: cannot be written: {error}") from error
