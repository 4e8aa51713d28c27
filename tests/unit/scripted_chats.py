"""Chats with a verifier that says what it is told to, through a template with tools and reasoning; also over a real port."""

from contextlib import asynccontextmanager
from typing import Any

from drafthouse.config.api import ApiConfig
from tests.unit.byte_tokenizer import codec
from tests.unit.openai_gateway import gateway
from tests.unit.real_port import on_a_port
from tests.unit.verifier_double import VerifierDouble

TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ '# tool: ' + tool | tojson + '\n' }}{% endfor %}<tool_call>{% endif %}"
    "{% for m in messages %}# {{ m.role }}: {{ m.content }}{% if m.reasoning_content %} ({{ m.reasoning_content }}){% endif %}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}# assistant:\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% if start_thinking %}<think>\n{% endif %}{% endif %}"
)
END = (0,)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "time"}},
]


def saying(text: str, step: int = 2, end: tuple[int, ...] = END) -> VerifierDouble:
    ids = (*codec().encode(text), *end)
    return VerifierDouble("a", tokens=lambda request: ids, step=step)


def options(verifier: VerifierDouble | None = None, **api: Any) -> dict[str, Any]:
    return {"verifier": verifier or saying("ok"), "template": TEMPLATE, "api": ApiConfig(**api), "context_tokens": 1024, "patience_s": 30.0}


@asynccontextmanager
async def served(verifier: VerifierDouble, template: str = TEMPLATE):
    """The base URL of a real server in this process."""
    async with gateway(**options(verifier) | {"template": template}) as (app, _), on_a_port(app) as url:
        yield f"{url}/v1"
