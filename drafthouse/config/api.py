"""The section `api`: what the HTTP API makes of fields, limits and the model's own formats."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

TOOL_PARSERS = ("hermes", "llama3", "mistral", "json")
REASONING_PARSERS = ("think", "deepseek_r1", "mistral", "seed_oss")


class ApiConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    unknown_fields: Literal["refuse", "ignore"] = Field("refuse", description="fields that no one here knows, also within others")
    strict: bool = Field(False, description="refuse max_tokens that pass the end of the context, instead of cutting them")
    tool_parser: str = Field(
        "auto", description=f"{', '.join(TOOL_PARSERS)}, module:Class; auto: by the chat template; none (docs/chat.md)"
    )
    reasoning_parser: Literal["auto", "none", "think", "deepseek_r1", "mistral", "seed_oss"] = Field(
        "auto", description="what stands around the model's reasoning; auto: by the chat template; none: it is content (docs/chat.md)"
    )

    @field_validator("tool_parser")
    @classmethod
    def _parser_is_known(cls, name: str) -> str:
        if name in ("auto", "none", *TOOL_PARSERS) or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            return name
        raise ValueError(f"must be auto, none, {', '.join(TOOL_PARSERS)}, or module:Class")
