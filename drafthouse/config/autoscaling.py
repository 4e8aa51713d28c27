"""Section `autoscaling` of the configuration: how far each pool may grow and shrink, and how readily.

Promises: a pool without a section here keeps its `replicas`. Docs: docs/autoscaling.md.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Bounds(_Section):
    """Delays and cool-down are in seconds."""

    min: int = Field(1, ge=0, le=10000)
    max: int = Field(ge=1, le=10000)
    up_delay_s: float = Field(5.0, ge=1, le=3600)
    down_delay_s: float = Field(60.0, ge=1, le=86400)
    cool_down_s: float = Field(
        15.0, ge=0, le=3600, description="after a change, beside the start of replicas, before the next is considered"
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class PoolBounds(_Bounds):
    """What a replica adds is averaged over the delay before the pool changes."""

    min_gain_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="one more must add this share of an average verifier's tokens/s; one that adds less than half of it goes",
    )


class VerifierBounds(PoolBounds):
    min: int = Field(1, ge=1, le=10000)


class GatewayBounds(_Bounds):
    """Streams and time of the event loop are averaged over the delay before one more comes; before one goes, all of it counts."""

    min: int = Field(1, ge=1, le=1000)
    max: int = Field(ge=1, le=1000)
    streams: int = Field(128, ge=1, description="requests that run at one gateway; one more comes when there are more on average")
    cpu_share: float = Field(0.6, gt=0, le=1, description="part of a core that a gateway's event loop uses; likewise")
    loop_lag_s: float = Field(0.05, gt=0, le=10, description="one more comes when one in a hundred sleeps of each loop is later than this")


class AutoscalingConfig(_Section):
    gateway: GatewayBounds | None = Field(None, description="by streams, time and lag of event loops; one that goes finishes its streams")
    verifier: VerifierBounds | None = None
    drafter: PoolBounds | None = Field(None, description="min 0: no drafters, and so plain decoding, while drafts do not pay")

    def faults_at_start(self, replicas: Mapping[str, int]) -> dict[str, bool]:
        """`replicas`: what pools start with. Messages naming the key, and whether that is out of bounds, or none, which Serve refuses."""
        faults = {}
        for pool, count in replicas.items():
            bounds: _Bounds | None = getattr(self, pool)
            if bounds is not None:
                least = max(1, bounds.min)
                message = f"{pool}.replicas: {count} at the start is not between {least} and autoscaling.{pool}.max {bounds.max}"
                faults[message] = not least <= count <= bounds.max
        return faults

    def most(self, pool: str, replicas: int) -> int:
        """Replicas that `pool` may come to have; `replicas` where its size is fixed."""
        bounds: _Bounds | None = getattr(self, pool)
        return bounds.max if bounds is not None else replicas
