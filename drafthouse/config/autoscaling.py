"""Section `autoscaling` of the configuration: how far each pool may grow and shrink, and how readily.

Promises: a pool without a section here keeps its `replicas`. Docs: docs/autoscaling.md.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolBounds(_Section):
    """Delays and cool-down are in seconds; what a replica adds is averaged over the delay before the pool changes."""

    min: int = Field(1, ge=0, le=10000)
    max: int = Field(ge=1, le=10000)
    min_gain_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="one more must add this share of an average verifier's tokens/s; one that adds less than half of it goes",
    )
    up_delay_s: float = Field(5.0, ge=1, le=3600)
    down_delay_s: float = Field(60.0, ge=1, le=86400)
    cool_down_s: float = Field(
        15.0, ge=0, le=3600, description="after a change, beside the start of replicas, before the next is considered"
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "PoolBounds":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class VerifierBounds(PoolBounds):
    min: int = Field(1, ge=1, le=10000)


class AutoscalingConfig(_Section):
    verifier: VerifierBounds | None = None
    drafter: PoolBounds | None = Field(None, description="min 0: no drafters, and so plain decoding, while drafts do not pay")

    def faults_at_start(self, replicas: Mapping[str, int]) -> dict[str, bool]:
        """`replicas`: what pools start with. Messages naming the key, and whether that is out of bounds, or none, which Serve refuses."""
        faults = {}
        for pool, count in replicas.items():
            bounds: PoolBounds | None = getattr(self, pool)
            if bounds is not None:
                least = max(1, bounds.min)
                message = f"{pool}.replicas: {count} at the start is not between {least} and autoscaling.{pool}.max {bounds.max}"
                faults[message] = not least <= count <= bounds.max
        return faults

    def most(self, pool: str, replicas: int) -> int:
        """Replicas that `pool` (verifier or drafter) may come to have; `replicas` where its size is fixed."""
        bounds: PoolBounds | None = getattr(self, pool)
        return bounds.max if bounds is not None else replicas
