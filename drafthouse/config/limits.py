"""Section `gateway.limits` of the configuration: what one client may ask for. Off by default."""

from pydantic import BaseModel, ConfigDict, Field


class RateLimits(BaseModel):
    """Of one API key or, without keys, of one address; for all gateways together."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    requests_per_minute: int | None = Field(None, ge=1, description="null: no limit")
    tokens_per_minute: int | None = Field(None, ge=1, description="of prompts and outputs, as asked for; null: no limit")
    streams: int | None = Field(None, ge=1, description="choices in progress at once; null: no limit")


class LimitsConfig(RateLimits):
    proxy_hops: int = Field(0, ge=0, le=8, description="proxies in front that add to x-forwarded-for; 0: the connection's address counts")
