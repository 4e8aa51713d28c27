"""Tokenizers with chat templates of each family that matters to encoding chats, small and made in code."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from drafthouse.checkpoints.model_path import DEMO_MODELS

START, END, THINK, UNTHINK = "<|im_start|>", "<|im_end|>", "<think>", "</think>"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As SmolLM2's, without its system prompt."""

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}{{ '\n' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Takes lists of parts only: a string has characters in place of parts, and all of them are left out."""

INSTRUCT = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system or '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""As Llama 2's: trims, and the bos and eos tokens are the markers."""

THINKING = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content and not loop.last %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""As Qwen 3's: leaves out what the assistant thought before."""

TEXTS = ["the user says hello to the assistant, and the assistant answers", "def add(a, b):\n    return a + b\n", "system user assistant"]


def special(*contents: str) -> list[AddedToken]:
    return [AddedToken(content, special=True, normalized=False) for content in contents]


@cache
def lowering(template: str = CHATML) -> PreTrainedTokenizerFast:
    """Makes all text small, and finds its control tokens in it only then."""
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=True) for content in (START, END)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, chat_template=template)


@cache
def byte_level(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """As SmolLM2's and Qwen's: the thinking tokens are added ones that are not special, and so are two spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special("<|endoftext|>", START, END), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.add_tokens([AddedToken(content, special=False, normalized=False) for content in (THINK, UNTHINK, "  ")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, chat_template=template)


@cache
def sentence_piece(template: str = INSTRUCT, normalized: bool = False) -> PreTrainedTokenizerFast:
    """As Llama 2's: one leading space for the whole text, bytes for what it does not know. `normalized`: as its first files had it."""
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("l", "l"), ("he", "ll"), ("▁", "▁"), ("▁", "hell"), ("<", "/")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(ord("!"), 127))]
    vocab = {piece: i for i, piece in enumerate([*pieces, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalized:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(fallback)
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=normalized) for content in pieces[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template)


@cache
def unigram(template: str = INSTRUCT) -> PreTrainedTokenizerFast:
    """As T5's and some Japanese models': the vocabulary itself has the control tokens, as the likeliest pieces of all."""
    letters = sorted({char for text in TEXTS for char in text.replace(" ", "▁")} | set("<|/>[]INST"))
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((letter, -5.0) for letter in letters), ("▁the", -3.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template)


@cache
def demo() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(DEMO_MODELS / "target")
