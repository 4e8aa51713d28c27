"""Calls that a grammar requires: whatever a model chooses within it, the format's own parser reads as calls that fit the tools."""

import json
import random
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from deployments.parsers import hermes, json_calls, llama3, mistral
from deployments.parsers.call_form import CallForm
from deployments.parsers.output_parser import OutputParser
from deployments.parsers.parsed import join_calls
from deployments.parsers.registry import TOOL_FORMATS, tool_format
from drafthouse.grammars.compiler import GrammarCompiler
from drafthouse.sampling import Grammar
from tests.engine.grammars import END, tokenizer

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[tuple[str, dict[str, Any] | None]] = [("weather", WEATHER), ("time.now", None)]
FORMS = {
    "hermes": (hermes.FORM, "hermes"),
    "llama3": (llama3.FORM, "llama3"),
    "json": (json_calls.FORM, "json"),
    "mistral": (mistral.LISTED, "mistral"),
    "mistral, newer": (mistral.NAMED, "mistral"),
}
CONTROL = mistral.CALLS
ENDINGS = frozenset(b'"}];\n')


@cache
def with_control_token() -> str:
    made = Tokenizer.from_str(tokenizer())
    made.add_special_tokens([CONTROL])
    text: str = made.to_str()
    return text


def tag(text: str) -> str:
    return f"<[{END + 1}]>" if text == CONTROL else json.dumps(text)


def said(grammar: str, seed: int) -> str:
    """A text of the grammar, as a model that likes what is short may choose it."""
    draw, matcher = random.Random(seed), GrammarCompiler(with_control_token).matcher(Grammar("lark", grammar))
    names, text = Tokenizer.from_str(with_control_token()), list[int]()
    while len(text) < 400 and not matcher.ended:
        if matcher.complete and draw.random() < 0.6:
            break
        token = matcher.forced()
        if token is None:
            fitting = np.flatnonzero(np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")).tolist()
            plain = [each for each in fitting if 32 <= each <= ord("{") or each == END + 1]
            token = draw.choice(plain + [each for each in fitting if each in ENDINGS] * 5 or fitting)
        matcher.advance(token)
        text.append(token)
    assert matcher.complete
    found: str = names.decode(text, skip_special_tokens=False)
    return found


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_every_text_of_the_grammar_is_calls_that_fit_the_tools(name: str, several: bool) -> None:
    form, parser = FORMS[name]
    counts = set()
    for seed in range(12):
        text = said(form.lark(TOOLS, several, tag, None), seed)
        reading = OutputParser(None, TOOL_FORMATS[parser].make(frozenset(each for each, _ in TOOLS)), one_call=False)
        parsed = reading.feed(text) + reading.flush()
        calls = join_calls(parsed.calls)
        assert not parsed.content.strip(), text
        assert calls, text
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), dict(TOOLS)[call.name] or {"type": "object", "maxProperties": 0})
        counts.add(len(calls))
    assert (max(counts) > 1) == several


def test_the_output_may_be_an_answer_instead() -> None:
    answer = {"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"], "additionalProperties": False}
    texts = {said(hermes.FORM.lark(TOOLS, True, tag, answer), seed)[:12] for seed in range(12)}
    assert texts == {'{"ok": true}', "<tool_call>\n"}


@pytest.mark.parametrize(
    ("name", "template", "form"),
    [
        ("auto", "<tool_call>", hermes.FORM),
        ("auto", "[TOOL_CALLS] {{ calls }}", mistral.LISTED),
        ("auto", "[TOOL_CALLS]{{ name }}[ARGS]", mistral.NAMED),
        ("mistral", "", mistral.LISTED),
        ("llama3", "", llama3.FORM),
        ("deployments.parsers.hermes:HermesParser", "", None),
    ],
)
def test_formats_know_their_forms(name: str, template: str, form: CallForm | None) -> None:
    found = tool_format(name, template)
    assert found is not None
    assert found.form == form
