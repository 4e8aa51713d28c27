"""Section `gateway.urgency` of the configuration: priority and objective of requests that say nothing of it (docs/pools.md)."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drafthouse.errors import RequestError
from drafthouse.objective import FIRST_PRIORITY, LAST_PRIORITY, LEAST_MS, MOST_MS, UrgencyWish


class UrgencyConfig(BaseModel):
    """Of the model that is served; an API key may have its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    priority: int = Field(0, ge=FIRST_PRIORITY, le=LAST_PRIORITY, description="the lower one goes first; each step halves a token's worth")
    highest_priority: int = Field(FIRST_PRIORITY, ge=FIRST_PRIORITY, le=LAST_PRIORITY, description="the most urgent that may be asked for")
    first_token_ms: float | None = Field(None, ge=LEAST_MS, le=MOST_MS, description="from the request on; null: no objective")
    per_token_ms: float | None = Field(None, ge=LEAST_MS, le=MOST_MS, description="of later tokens, on average; null: no objective")

    @model_validator(mode="after")
    def _the_default_may_be_asked_for(self) -> Self:
        if self.priority < self.highest_priority:
            raise ValueError("priority is more urgent than highest_priority lets requests ask for: raise the one or lower the other")
        return self

    def settle(self, asked: UrgencyWish, key: UrgencyWish) -> UrgencyWish:
        """Of a request that asks so, with a key that has this of its own. A key's own priority is the most urgent that it may ask for.
        Raises RequestError."""
        most = self.highest_priority if key.priority is None else key.priority
        if asked.priority is not None and asked.priority < most:
            whose = "requests here" if key.priority is None else "this API key"
            raise RequestError(f"priority {asked.priority} is more urgent than {whose} may ask for, which is {most}", "priority")
        return asked.over(key).over(UrgencyWish(self.priority, self.first_token_ms, self.per_token_ms))
