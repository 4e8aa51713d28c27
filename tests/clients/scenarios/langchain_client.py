import asyncio
from typing import Annotated

from features import KEY, MODEL, QUESTION, URL, check, feature
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

OPTIONS = {"base_url": f"{URL}/v1", "api_key": KEY, "model": MODEL, "max_retries": 0}
CHAT = ChatOpenAI(**OPTIONS, max_tokens=256, stream_usage=True)


class City(BaseModel):
    """A city."""

    name: Annotated[str, Field(max_length=8)]
    people: Annotated[int, Field(ge=0, le=9999)]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"fine in {city}"


def invoke() -> None:
    found = ChatOpenAI(**OPTIONS, max_tokens=16).invoke([("system", "Be brief."), ("user", QUESTION)])
    check(found.content and found.usage_metadata["output_tokens"], found)


def stream() -> None:
    whole = None
    for chunk in ChatOpenAI(**OPTIONS, max_tokens=16, stream_usage=True).stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    check(whole.content and whole.usage_metadata["output_tokens"], whole)


def asynchronous() -> None:
    check(asyncio.run(ChatOpenAI(**OPTIONS, max_tokens=16).ainvoke(QUESTION)).content)


def completion() -> None:
    check(OpenAI(**OPTIONS, max_tokens=16).invoke("def add(a, b):"))


def responses() -> None:
    check(ChatOpenAI(**OPTIONS, max_tokens=16, use_responses_api=True).invoke(QUESTION).text)


def tools() -> None:
    able, asked = CHAT.bind_tools([weather]), HumanMessage(QUESTION)
    first = able.invoke([asked])
    (call,) = first.tool_calls
    check(call["args"] == {"city": "Bern"}, first)
    check(able.invoke([asked, first, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]).content)


def structured(method: str) -> None:
    found = CHAT.with_structured_output(City, method=method).invoke(QUESTION)
    check(isinstance(found, City), found)


feature("invoke", invoke)
feature("stream with usage", stream)
feature("async", asynchronous)
feature("completion", completion)
feature("responses", responses)
feature("tools", tools, tools=True)
feature("with_structured_output by a call", lambda: structured("function_calling"), tools=True)
feature("with_structured_output by json_schema", lambda: structured("json_schema"))
