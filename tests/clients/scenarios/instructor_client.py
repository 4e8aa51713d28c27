from typing import Annotated

import instructor
import openai
from features import KEY, MODEL, QUESTION, URL, check, feature
from pydantic import BaseModel, Field

CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_retries": 0, "max_tokens": 256}


class City(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    people: Annotated[int, Field(ge=0, le=9999)]


def create(mode: instructor.Mode) -> None:
    found = instructor.from_openai(CLIENT, mode=mode).chat.completions.create(response_model=City, **ASKED)
    check(isinstance(found, City), found)


def partial() -> None:
    *_, last = instructor.from_openai(CLIENT, mode=instructor.Mode.TOOLS).chat.completions.create_partial(response_model=City, **ASKED)
    check(last.name and last.people is not None, last)


feature("response_model by a call", lambda: create(instructor.Mode.TOOLS), tools=True)
feature("response_model by a call, in parts", partial, tools=True)
feature("response_model by json_schema", lambda: create(instructor.Mode.JSON_SCHEMA))
