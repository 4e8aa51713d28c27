import asyncio

import litellm
from features import KEY, MODEL, QUESTION, URL, check, feature

litellm.suppress_debug_info = True
ASKED = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64, "api_key": KEY, "num_retries": 0}
OPENAI = ASKED | {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1"}
HOSTED = ASKED | {"model": f"hosted_vllm/{MODEL}", "api_base": f"{URL}/v1"}
ANTHROPIC = ASKED | {"model": f"anthropic/{MODEL}", "api_base": URL}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def completion(options: dict) -> None:
    found = litellm.completion(**options)
    check(found.choices[0].message.content and found.usage.completion_tokens, found)


def stream(options: dict) -> None:
    chunks = list(litellm.completion(**options, stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks)
    check(whole.choices[0].message.content and whole.usage.completion_tokens, whole)


def asynchronous() -> None:
    check(asyncio.run(litellm.acompletion(**OPENAI)).choices[0].message.content)


def text() -> None:
    options = {"model": f"text-completion-openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY}
    check(litellm.text_completion(prompt="def add(a, b):", max_tokens=16, **options).choices[0].text)


def responses() -> None:
    found = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, max_output_tokens=16, api_base=f"{URL}/v1", api_key=KEY)
    check(found.output)


def tools(options: dict) -> None:
    found = litellm.completion(**options | {"max_tokens": 256}, tools=TOOLS)
    check(found.choices[0].message.tool_calls[0].function.name == "weather", found)


for name, options in (("openai/", OPENAI), ("hosted_vllm/", HOSTED), ("anthropic/", ANTHROPIC)):
    feature(f"{name} completion", lambda options=options: completion(options))
    feature(f"{name} stream", lambda options=options: stream(options))
    feature(f"{name} tools", lambda options=options: tools(options), tools=True)
feature("async", asynchronous)
feature("text_completion", text)
feature("responses", responses)
