import json

import anthropic
from features import KEY, MODEL, QUESTION, URL, check, feature

CLIENT = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
USER = {"role": "user", "content": QUESTION}
TOOLS = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def message() -> None:
    found = CLIENT.messages.create(model=MODEL, max_tokens=16, messages=[USER], system="Be brief.")
    check(found.content[0].text and found.usage.output_tokens, found)


def stream() -> None:
    with CLIENT.messages.stream(model=MODEL, max_tokens=16, messages=[USER]) as events:
        text = "".join(events.text_stream)
        check(text == events.get_final_message().content[0].text, text)


def tools() -> None:
    first = CLIENT.messages.create(model=MODEL, max_tokens=256, messages=[USER], tools=TOOLS)
    call = first.content[-1]
    check(first.stop_reason == "tool_use" and call.input == {"city": "Bern"}, first)
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "fine"}]}
    second = CLIENT.messages.create(model=MODEL, max_tokens=256, messages=[USER, first.to_param(), result], tools=TOOLS)
    check(second.content[0].text, second)


def structured() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    found = CLIENT.messages.create(model=MODEL, max_tokens=64, messages=[USER], output_config=config)
    check(set(json.loads(found.content[0].text)) == {"city"}, found)


def count() -> None:
    check(CLIENT.messages.count_tokens(model=MODEL, messages=[USER]).input_tokens > 0)


def errors() -> None:
    try:
        CLIENT.messages.create(model="no such model", max_tokens=16, messages=[USER])
    except anthropic.NotFoundError:
        return
    check(False, "no NotFoundError")


feature("message", message)
feature("stream", stream)
feature("tools", tools, tools=True)
feature("output_config.format", structured)
feature("count_tokens", count)
feature("typed errors", errors)
