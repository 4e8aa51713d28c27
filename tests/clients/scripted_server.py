"""The HTTP API in this process, in front of a verifier that calls the first tool it is offered, writes JSON where a schema wants it, and
says a sentence otherwise.

What the model would have to be able to do for tools, the script does; all else is as in a gateway.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from drafthouse.config.api import ApiConfig
from drafthouse.wire.dialect import OURS
from drafthouse.wire.generation_messages import GenerateRequest
from tests.unit.byte_tokenizer import codec
from tests.unit.openai_gateway import gateway
from tests.unit.real_port import in_a_thread, on_a_port
from tests.unit.scripted_chats import END, TEMPLATE
from tests.unit.verifier_double import VerifierDouble

SENTENCE = "It is a fine day in Bern."
VALUES: dict[str, Any] = {"string": "Bern", "integer": 7, "number": 7.5, "boolean": True, "array": [], "object": {}}
CONTEXT_TOKENS = 16384


def said(request: GenerateRequest) -> tuple[int, ...]:
    """What the verifier says to a request: a call where it is offered a tool and has no result yet."""
    prompt = codec().decode(request.prompt)
    lines = [line.removeprefix("# tool: ") for line in prompt.split("\n") if line.startswith("# tool: ")]
    tools = [json.loads(line)["function"] for line in lines if line.startswith('{"type": "function"')]
    answered = len(lines) > len(tools)
    grammar, text = request.sampling.grammar, SENTENCE
    if tools and not answered:
        text = call_of(tools[0])
    elif grammar is not None and grammar.kind == "json_schema":
        text = json.dumps(object_of(json.loads(grammar.text)))
    return (*codec().encode(text), *END)


def call_of(function: dict[str, Any]) -> str:
    call = {"name": function["name"], "arguments": object_of(function.get("parameters", {}))}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def object_of(schema: dict[str, Any]) -> dict[str, Any]:
    """A value for each of its properties."""
    return {name: VALUES[inner.get("type", "string")] for name, inner in schema.get("properties", {}).items()}


def scripted_server() -> AbstractContextManager[str]:
    """Its URL, while it runs."""
    return in_a_thread(_served)


@asynccontextmanager
async def _served() -> AsyncIterator[str]:
    verifier = VerifierDouble("scripted", tokens=said, says=OURS.metadata())
    options = {"template": TEMPLATE, "api": ApiConfig(reasoning_parser="none"), "context_tokens": CONTEXT_TOKENS, "patience_s": 30.0}
    async with gateway(verifier, **options) as (app, _), on_a_port(app) as url:
        yield url
