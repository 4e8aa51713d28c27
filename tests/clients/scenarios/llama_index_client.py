import asyncio

from features import KEY, MODEL, QUESTION, URL, check, feature
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

OPTIONS = {"api_base": f"{URL}/v1", "api_key": KEY, "model": MODEL, "max_retries": 0, "context_window": 1024, "is_chat_model": True}
LLM = OpenAILike(**OPTIONS, max_tokens=16)
ASKED = [ChatMessage(role="user", content=QUESTION)]


def chat() -> None:
    check(LLM.chat(ASKED).message.content)


def complete() -> None:
    check(OpenAILike(**{**OPTIONS, "is_chat_model": False}, max_tokens=16).complete("def add(a, b):").text)


def stream() -> None:
    check("".join(chunk.delta or "" for chunk in LLM.stream_chat(ASKED)))


def asynchronous() -> None:
    check(asyncio.run(LLM.achat(ASKED)).message.content)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"fine in {city}"


def tools() -> None:
    llm = OpenAILike(**OPTIONS, max_tokens=256, is_function_calling_model=True)
    found = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=QUESTION)
    (call,) = llm.get_tool_calls_from_response(found)
    check(call.tool_kwargs == {"city": "Bern"}, call)


feature("chat", chat)
feature("complete", complete)
feature("stream_chat", stream)
feature("async", asynchronous)
feature("tools", tools, tools=True)
