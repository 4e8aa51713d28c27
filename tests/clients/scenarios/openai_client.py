from typing import Annotated

import openai
from features import KEY, MODEL, QUESTION, URL, check, feature
from pydantic import BaseModel, Field

CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
USER = {"role": "user", "content": QUESTION}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


class City(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    people: Annotated[int, Field(ge=0, le=9999)]


def chat() -> None:
    found = CLIENT.chat.completions.create(model=MODEL, max_tokens=16, messages=[USER])
    check(found.choices[0].message.content and found.usage.completion_tokens, found)


def completion() -> None:
    check(CLIENT.completions.create(model=MODEL, max_tokens=16, prompt="def add(a, b):").choices[0].text)


def stream() -> None:
    options = {"include_usage": True}
    chunks = list(CLIENT.chat.completions.create(model=MODEL, max_tokens=16, messages=[USER], stream=True, stream_options=options))
    check(chunks[-1].usage.completion_tokens, chunks[-1])


def tools() -> None:
    first = CLIENT.chat.completions.create(model=MODEL, messages=[USER], tools=TOOLS).choices[0]
    check(first.message.tool_calls[0].function.name == "weather", first)


def responses() -> None:
    check(CLIENT.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16).output_text)


def parse() -> None:
    found = CLIENT.chat.completions.parse(model=MODEL, max_tokens=256, messages=[USER], response_format=City)
    check(isinstance(found.choices[0].message.parsed, City), found)


def models() -> None:
    check([model.id for model in CLIENT.models.list()] == [MODEL])


feature("parse", parse)
for name, work in (("chat", chat), ("completion", completion), ("stream with usage", stream), ("responses", responses), ("models", models)):
    feature(name, work)
feature("tools", tools, tools=True)
