"""A small byte-level BPE tokenizer made in code, and doubles around it that several unit tests share."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deployments.gateway.model_metadata import ModelMetadata
from deployments.gateway.text_codec import TextCodec, make_codec
from drafthouse.sampling import SamplingParams

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
    "{{ '# ' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '# assistant:\n' }}{% endif %}"
)
END = "<|end|>"
OPENAI = SamplingParams()


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator(["def add(a, b):\n    return a + b\n", "the user says hello to the assistant"] * 4, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return tokenizer


@cache
def codec(chat_template: str | None = CHAT_TEMPLATE) -> TextCodec:
    return make_codec(PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), eos_token=END, chat_template=chat_template))


def metadata(context_tokens: int = 64, sampling_defaults: SamplingParams = OPENAI) -> ModelMetadata:
    return ModelMetadata(context_tokens, byte_level_tokenizer().get_vocab_size(), (0,), sampling_defaults)
