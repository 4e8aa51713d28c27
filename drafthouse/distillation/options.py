"""What `drafthouse distill` was asked for, checked once, as both its stages read it."""

import pathlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from drafthouse.config.serving import ModelConfig

MAX_TEXT_TOKENS = 1024
"""Of one text, prompt and output together."""


class DistillOptions(BaseModel):
    """The command's options. `target` is a path as in a configuration; `output` is the draft's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    target: str = Field(min_length=1)
    output: pathlib.Path
    minutes: float = Field(60.0, gt=0, le=100_000)
    hidden: bool = False
    prompts: pathlib.Path | None = None
    dtype: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1, le=512)
    seed: int = Field(0, ge=0, lt=1 << 63)
    text_share: float = Field(0.4, gt=0, le=1)
    sequences: int = Field(64, ge=1, le=1024, description="texts that the target writes side by side")
    export_llama: pathlib.Path | None = None
    layers: int | None = Field(None, ge=1, le=16, description="of the draft; by default what promises most")
    head_tokens: int = Field(8192, ge=16, description="tokens that the draft's head knows, at most")
    trust_remote_code: bool = False

    @property
    def text_seconds(self) -> float:
        """For writing text."""
        return 60 * self.minutes * self.text_share

    @property
    def training_seconds(self) -> float:
        """For all that comes after it."""
        return 60 * self.minutes * (1 - self.text_share)

    def target_config(self, kv_tokens: int) -> ModelConfig:
        """The target, loaded as these options say."""
        return ModelConfig(
            path=self.target, dtype=self.dtype, device=self.device, threads=self.threads, kv_tokens=kv_tokens,
            trust_remote_code=self.trust_remote_code, prefix_cache="off",
        )  # fmt: skip
