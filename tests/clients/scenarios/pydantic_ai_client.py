import asyncio
from typing import Annotated

from features import KEY, MODEL, QUESTION, URL, check, feature
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

PROVIDER = OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY)
CHAT, RESPONSES = OpenAIChatModel(MODEL, provider=PROVIDER), OpenAIResponsesModel(MODEL, provider=PROVIDER)
SETTINGS = {"max_tokens": 256}


class City(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    people: Annotated[int, Field(ge=0, le=9999)]


def run(model: object) -> None:
    found = Agent(model, model_settings={"max_tokens": 16}, instructions="Be brief.").run_sync(QUESTION)
    check(found.output and found.usage().output_tokens, found)


def stream() -> None:
    async def text() -> str:
        async with Agent(CHAT, model_settings={"max_tokens": 16}).run_stream(QUESTION) as found:
            return "".join([piece async for piece in found.stream_text(delta=True)])

    check(asyncio.run(text()))


def tools(model: object) -> None:
    called = []
    agent = Agent(model, model_settings=SETTINGS)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "fine"

    check(agent.run_sync(QUESTION).output and called == ["Bern"], called)


def output() -> None:
    found = Agent(CHAT, output_type=City, model_settings=SETTINGS).run_sync(QUESTION).output
    check(isinstance(found, City), found)


feature("run", lambda: run(CHAT))
feature("run by responses", lambda: run(RESPONSES))
feature("stream", stream)
feature("tools", lambda: tools(CHAT), tools=True)
feature("tools by responses", lambda: tools(RESPONSES), tools=True)
feature("output_type", output, tools=True)
