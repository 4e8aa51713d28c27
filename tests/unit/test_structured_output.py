"""What clients ask of the form of an output, over HTTP, by OpenAI's own client too: what a verifier is asked for, and what is refused."""

import asyncio
import json
from typing import Any, Literal

import openai
import pydantic
import pytest

from drafthouse.sampling import Grammar
from drafthouse.wire.dialect import OURS
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, codec
from tests.unit.openai_gateway import CHAT, COMPLETION, error_of, request
from tests.unit.scripted_chats import TEMPLATE, TOOLS, options, served
from tests.unit.verifier_double import VerifierDouble

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}


def answering(text: str) -> VerifierDouble:
    return VerifierDouble("a", tokens=lambda request: codec().encode(text) + [0], says=OURS.metadata())


def asked(body: dict[str, Any], path: str = CHATS) -> Grammar | None:
    """What the verifier gets."""
    verifier = answering("{}")
    answer = request(path, (CHAT if path == CHATS else COMPLETION) | {"max_tokens": 2} | body, verifier=verifier, patience_s=30.0)
    assert answer.status_code == 200, answer.text
    return verifier.seen[0].sampling.grammar


@pytest.mark.parametrize("path", [CHATS, COMPLETIONS])
@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_schema", '{"type": "object"}')),
        ({"response_format": JSON_SCHEMA}, Grammar("json_schema", json.dumps(SCHEMA))),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", json.dumps(SCHEMA))),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, Grammar("json_schema", json.dumps(SCHEMA))),
        ({"structured_outputs": {"regex": "[ab]{3}"}}, Grammar("regex", "[ab]{3}")),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, Grammar("lark", 'start: "a" | "b"')),
        ({"structured_outputs": {"choice": ['say "hé"', "no\n"]}}, Grammar("lark", 'start: "say \\"hé\\"" | "no\\n"')),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_schema", '{"type": "object"}')),
    ],
)  # fmt: skip
def test_what_is_asked_for_reaches_the_verifier(path: str, body: dict[str, Any], grammar: Grammar | None) -> None:
    assert asked(body, path) == grammar


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "text"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "missing"),
        ({"response_format": {"type": "json_object", "json_schema": {"schema": {}}}}, "response_format.json_schema", "only allowed"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}},
            "response_format.json_schema.schema", "uniqueItems",
        ),
        ({"structured_outputs": {"regex": "(a|b"}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {"grammar": "begin: x"}}, "structured_outputs.grammar", "start"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "JSON"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice", "empty"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a" * 140_000}}, "structured_outputs.regex", "bytes"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs", "exclude"),
        ({"structured_outputs": {"regex": "a"}, "allowed_token_ids": [1]}, "allowed_token_ids", "exclude"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_its_field(body: dict[str, Any], field: str, said: str) -> None:
    answer = request(CHATS, CHAT | body)
    assert error_of(answer)[0] == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert said in error["message"]


def test_reasoning_whose_tags_are_several_tokens_is_refused() -> None:
    answer = request(CHATS, CHAT | {"response_format": JSON_SCHEMA}, template=TEMPLATE)
    assert error_of(answer)[0] == 400
    assert "several tokens" in answer.json()["error"]["message"]


def test_usage_counts_forced_tokens() -> None:
    body = CHAT | {"response_format": JSON_SCHEMA}
    assert request(CHATS, body, verifier=answering("{}")).json()["usage"]["completion_tokens_details"]["forced_tokens"] == 0
    assert "completion_tokens_details" not in request(CHATS, CHAT).json()["usage"]


PLAIN = TEMPLATE[: TEMPLATE.index("{% if add_generation_prompt")]
"""A template with tools and without reasoning."""
NAMED = {"type": "function", "function": {"name": "time"}}
CALLED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zug"}}\n</tool_call>'


def with_tools(body: dict[str, Any], template: str = PLAIN, said: str = CALLED, **api: Any) -> tuple[Any, VerifierDouble]:
    verifier = answering(said)
    body = CHAT | {"tools": TOOLS, "max_tokens": 200} | body
    return request(CHATS, body, **options(verifier, **api) | {"template": template}), verifier


@pytest.mark.parametrize(
    ("body", "rules", "not_in"),
    [
        ({"tool_choice": "required"}, ['"weather"', '"time"', "call)*"], "answer"),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ['"weather"', '"time"'], "call)*"),
        ({"tool_choice": NAMED}, ['"time"'], "weather"),
        ({"response_format": JSON_SCHEMA}, ["answer: %json", '"warm"', "call)*"], "nothing"),
        ({"response_format": JSON_SCHEMA, "tool_choice": "required"}, ["call)*"], "answer"),
    ],
)
def test_calls_are_required_by_a_grammar(body: dict[str, Any], rules: list[str], not_in: str) -> None:
    answer, verifier = with_tools(body)
    assert answer.status_code == 200, answer.text
    grammar = verifier.seen[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind == "lark"
    assert all(rule in grammar.text for rule in rules)
    assert not_in not in grammar.text
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Zug"}'}


def test_without_a_required_call_tools_bring_no_grammar() -> None:
    for body in ({}, {"tool_choice": "auto"}, {"tool_choice": "none", "response_format": {"type": "text"}}):
        _, verifier = with_tools(body)
        assert verifier.seen[0].sampling.grammar is None


@pytest.mark.parametrize(
    ("body", "api", "field", "said"),
    [
        ({"tool_choice": "required"}, {"tool_parser": "deployments.parsers.hermes:HermesParser"}, "tool_choice", "no grammar of calls"),
        ({"structured_outputs": {"regex": "a"}}, {}, "structured_outputs", "tool_choice: none"),
        ({"structured_outputs": {"json": SCHEMA}, "tool_choice": "required"}, {}, "structured_outputs", "tool_choice: none"),
        (
            {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
            {}, "tool_choice", "not",
        ),
    ],
)  # fmt: skip
def test_calls_that_no_grammar_can_require_are_refused(body: dict[str, Any], api: dict[str, Any], field: str, said: str) -> None:
    answer, _ = with_tools(body, **api)
    assert error_of(answer)[0] == 400
    assert answer.json()["error"]["param"] == field
    assert said in answer.json()["error"]["message"]


class Weather(pydantic.BaseModel):
    city: str
    warm: bool
    wind: Literal["none", "weak", "strong"]
    hours: list[int]


def test_openais_client_parses_into_a_pydantic_class() -> None:
    said = Weather(city="Zürich", warm=True, wind="weak", hours=[1, 2])
    verifier = answering(said.model_dump_json())

    async def use() -> Weather | None:
        messages = [{"role": "user", "content": "The weather?"}]
        async with served(verifier, CHAT_TEMPLATE) as url, openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            completion = await client.chat.completions.parse(model="demo", messages=messages, response_format=Weather)  # type: ignore[arg-type]
        return completion.choices[0].message.parsed

    assert asyncio.run(use()) == said
    grammar = verifier.seen[0].sampling.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["properties"].keys() == Weather.model_fields.keys()
