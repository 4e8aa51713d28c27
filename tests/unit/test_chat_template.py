"""Templates get messages in the form they take, and no text of a client is lost without a word."""

import pytest

from deployments.gateway.chat_template import ContentForms, load_chat_template
from deployments.gateway.text_codec import make_codec
from drafthouse.errors import RequestError
from tests.unit.chat_tokenizers import CHATML, INSTRUCT, PARTS, byte_level

BOTH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text + '\n' if not loop.last else part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)
FIRST_PART = "{% for m in messages %}{{ m.role + ': ' + m.content[0]['text'] + '\n' }}{% endfor %}"
SYSTEM_AS_STRING = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}\n{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% for part in m.content %}{{ part.text }}\n{% endfor %}{% endfor %}"
)
"""As Llama 3.2's with images: a list would be printed as Python writes it."""

NAMES = "{% for m in messages %}{{ m.role }}{{ ' name=' + m.name if m.name is defined else '' }}: {{ m.content }}\n{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
FORGETS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
FIRST_SYSTEM_ONLY = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.role + ': ' + m.content|upper + '\n' }}{% endif %}{% endfor %}"
)
PRINTS = "{% for m in messages %}{{ m.role }}: {{ m.content if m.content is string else m.content | tojson }}\n{% endfor %}"
DEAF = "{% for m in messages %}{{ m.role }}: {{ m.text }}\n{% endfor %}"
WRONG = "{% for m in messages %}{{ m.content }}{% endfo %}"
CRASHES = "{% for m in messages %}{{ m.content }}{{ 1 // (messages | length - 1) }}{% endfor %}"

USER, ANSWER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
HELLO = {"role": "user", "content": "hello"}
TWO_PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def prompt_of(template: str, *messages: dict) -> str:
    tokenizer = byte_level(template)
    return tokenizer.decode(make_codec(tokenizer).encode_chat(messages))


def refusal_of(template: str, *messages: dict) -> RequestError:
    with pytest.raises(RequestError) as caught:
        prompt_of(template, *messages)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("template", "forms"),
    [
        (CHATML, ContentForms(string=True)),
        (PARTS, ContentForms(one_part=True, several_parts=True)),
        (BOTH, ContentForms(string=True, one_part=True, several_parts=True)),
        (FIRST_PART, ContentForms(one_part=True)),
        (INSTRUCT, ContentForms(string=True)),
        (NAMES, ContentForms(string=True)),  # it prints a list as Python writes it
        (PRINTS, ContentForms(string=True)),
    ],
)
def test_the_form_is_found_out(template, forms):
    assert load_chat_template(byte_level(template))._forms["user"] == forms


@pytest.mark.parametrize(
    ("template", "of_string", "of_parts"),
    [
        (
            CHATML,
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nonetwo<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            PARTS,
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nonetwo<|im_end|>\n<|im_start|>assistant\n",
        ),
        (BOTH, "<|im_start|>user\nhello<|im_end|>\n", "<|im_start|>user\none\ntwo<|im_end|>\n"),
        (FIRST_PART, "user: hello\n", "user: onetwo\n"),
        (NAMES, "user: hello\n", "user: onetwo\n"),
        (PRINTS, "user: hello\n", "user: onetwo\n"),
    ],
)
def test_both_forms_reach_every_template(template, of_string, of_parts):
    assert prompt_of(template, HELLO) == of_string
    assert prompt_of(template, {"role": "user", "content": TWO_PARTS}) == of_parts


def test_each_role_has_a_form_of_its_own():
    assert prompt_of(SYSTEM_AS_STRING, {"role": "system", "content": "rules"}, HELLO) == "rules\nhello\n"
    assert prompt_of(SYSTEM_AS_STRING, {"role": "system", "content": TWO_PARTS}, HELLO) == "onetwo\nhello\n"


def test_the_name_arrives():
    assert prompt_of(NAMES, HELLO | {"name": "eve"}, HELLO) == "user name=eve: hello\nuser: hello\n"
    assert "user eve\nhello" in prompt_of(PARTS, HELLO | {"name": "eve"})


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (NO_SYSTEM, [{"role": "system", "content": "a"}, HELLO], "System role not supported"),
        (INSTRUCT, [HELLO, HELLO], "roles must alternate user/assistant"),
        (CRASHES, [HELLO], "division"),
    ],
)
def test_what_a_template_raises_is_told(template, messages, words):
    error = refusal_of(template, *messages)
    assert error.param == "messages"
    assert words in str(error)


def test_a_template_that_takes_no_text_is_refused_at_load_and_prompts_still_work():
    codec = make_codec(byte_level(DEAF))
    with pytest.raises(RequestError, match="leaves out the text of user messages") as caught:
        codec.encode_chat([HELLO])
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "messages", "no_chat_template")
    assert "/v1/completions" in str(caught.value)
    assert codec.encode("hello")


def test_a_template_that_is_wrong_is_refused_at_load_and_prompts_still_work(caplog):
    codec = make_codec(byte_level(WRONG))
    assert "endfo" in caplog.text
    with pytest.raises(RequestError, match="line 1.*endfo"):
        codec.encode_chat([HELLO])
    assert codec.encode("hello")


def test_several_templates_and_no_default():
    tokenizer = byte_level(None)
    tokenizer.chat_template = {"a": CHATML, "b": CHATML}
    try:
        assert "default" in load_chat_template(tokenizer).refusal
        tokenizer.chat_template = {"default": CHATML, "b": WRONG}
        assert not load_chat_template(tokenizer).refusal
    finally:
        tokenizer.chat_template = None


def test_a_role_whose_text_is_lost_is_refused():
    error = refusal_of(FORGETS_SYSTEM, {"role": "system", "content": "a"}, HELLO)
    assert error.param == "messages.0.role"
    assert "leaves out the text of system messages" in str(error)
    assert prompt_of(FORGETS_SYSTEM, HELLO) == "hello"


def test_a_message_that_is_lost_where_it_stands_is_refused():
    system = {"role": "system", "content": "rules"}
    assert prompt_of(FIRST_SYSTEM_ONLY, system, HELLO) == "system: RULES\nuser: HELLO\n"
    assert refusal_of(FIRST_SYSTEM_ONLY, HELLO, system).param == "messages.1"


def test_a_text_may_be_empty_and_may_be_repeated():
    assert prompt_of(NAMES, {"role": "user", "content": " "}, HELLO, {"role": "user", "content": ""}) == "user:  \nuser: hello\nuser: \n"
    assert prompt_of(NAMES, HELLO, HELLO) == "user: hello\nuser: hello\n"


def test_the_templates_own_system_prompt_stays():
    template = "{% if messages[0].role != 'system' %}system: You help.\n{% endif %}" + NAMES
    assert prompt_of(template, HELLO) == "system: You help.\nuser: hello\n"
