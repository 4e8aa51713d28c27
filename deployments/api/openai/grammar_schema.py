"""What a client may ask of the form of its output: OpenAI's `response_format`, and vLLM's `structured_outputs` under its own names.

Promises: those of `schema`. What is asked for becomes one grammar, and the name of the field that asked.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.api.openai.sampling_schema import Body
from drafthouse.errors import RequestError
from drafthouse.sampling import Grammar

ANY_OBJECT = {"type": "object"}
MAX_CHOICES = 1024


@dataclass(frozen=True, slots=True)
class GrammarWish:
    """A grammar and the field that errors name."""

    grammar: Grammar
    field: str


class JsonSchema(Body):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None  # the schema holds either way


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def wish(self) -> GrammarWish | None:
        """Raises RequestError for a schema that is missing, or there without need."""
        if self.type == "json_schema":
            if self.json_schema is None or self.json_schema.schema_ is None:
                field = "response_format.json_schema.schema"
                raise RequestError(f"{field}: missing; type json_schema needs it", field)
            return json_wish(self.json_schema.schema_, "response_format.json_schema.schema")
        if self.json_schema is not None:
            field = "response_format.json_schema"
            raise RequestError(f"{field}: only allowed with type: json_schema", field)
        return json_wish(ANY_OBJECT, "response_format") if self.type == "json_object" else None


class StructuredOutputs(Body):
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: str | None = None  # Lark, as llguidance reads it
    json_object: bool | None = None

    @model_validator(mode="after")
    def _asks_for_one(self) -> Self:
        given = [self.json_, self.regex, self.choice, self.grammar, self.json_object or None]
        if sum(each is not None for each in given) != 1:
            raise RequestError("structured_outputs: send exactly one of json, regex, choice, grammar and json_object", "structured_outputs")
        return self

    def wish(self) -> GrammarWish:
        """Raises RequestError for a choice that is empty."""
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return GrammarWish(Grammar("json_schema", text), "structured_outputs.json")
        if self.regex is not None:
            return GrammarWish(Grammar("regex", self.regex), "structured_outputs.regex")
        if self.grammar is not None:
            return GrammarWish(Grammar("lark", self.grammar), "structured_outputs.grammar")
        if self.choice is None:
            return json_wish(ANY_OBJECT, "structured_outputs.json_object")
        if not all(self.choice):
            raise RequestError("structured_outputs.choice: a choice is empty; leave it out", "structured_outputs.choice")
        texts = " | ".join(json.dumps(each, ensure_ascii=False) for each in dict.fromkeys(self.choice))
        return GrammarWish(Grammar("lark", f"start: {texts}"), "structured_outputs.choice")


def json_wish(schema: dict[str, Any], field: str) -> GrammarWish:
    return GrammarWish(Grammar("json_schema", json.dumps(schema, ensure_ascii=False)), field)
