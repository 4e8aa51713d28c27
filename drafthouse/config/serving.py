"""The one configuration of a Drafthouse: the same model checks a laptop's file and a cluster's.

Promises: unknown keys and values out of range are refused with the path of the key; `draft: null` alone is a whole configuration
without a draft model. What a model's path may be stands in `drafthouse.checkpoints.model_path`.
"""

import difflib
import pathlib
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from drafthouse.config.api import ApiConfig
from drafthouse.config.autoscaling import AutoscalingConfig
from drafthouse.config.faults import refuse
from drafthouse.config.limits import LimitsConfig
from drafthouse.config.security import SecurityConfig
from drafthouse.config.urgency import UrgencyConfig


class _Section(BaseModel):
    # Ray prints these errors: an input, such as an API key in place of its hash, is not to be in them.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)


class PacedConfig(_Section):
    """Device `paced`: tokens from the real model, time from a curve in `drafthouse/engine/curves/`, or a path to one."""

    curve: str
    time_scale: float = Field(1.0, gt=0, le=1000, description="stretches the curve where this CPU is slower than it")


class ModelConfig(_Section):
    path: str = Field(min_length=1, description="folder, GGUF file, hub id, smollm2, smollm2:draft, demo:target or demo:draft")
    dtype: Literal["float64", "float32", "bfloat16", "float16", "int8"] = "float32"
    device: Literal["cpu", "cuda", "paced"] = "cpu"
    paced: PacedConfig | None = None
    threads: int = Field(1, ge=1, le=512, description="torch threads of one replica, CPU only")
    kv_tokens: int = Field(16384, ge=64, description="KV slots of one replica, in tokens")
    parallel: int = Field(1, ge=1, le=64, description="devices that one replica's model is split over (docs/parallel.md)")
    trust_remote_code: bool = Field(False, description="run the Python code that comes with a model whose config.json has auto_map")
    embeddings: str | None = Field(
        None,
        min_length=1,
        description="a distilled draft: the folder of its target, for embeddings; by default the one it was distilled for",
    )
    prefix_cache: Literal["auto", "on", "off"] = Field(
        "auto", description="share KV of common prefixes (docs/prefix-cache.md); auto: where it changes no bit of a text"
    )

    @field_validator("prefix_cache", mode="before")
    @classmethod
    def _yaml_reads_on_as_true(cls, value: object) -> object:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _paced_has_curve(self) -> "ModelConfig":
        refuse({
            "device: paced and the section paced: {curve: ...} go together": (self.device == "paced") != (self.paced is not None),
            "parallel: above 1 it does not go with device: paced, whose curve is a whole replica's":
                self.parallel > 1 and self.paced is not None,
            "dtype: int8 runs on CPUs, in one process; take bfloat16 otherwise":
                self.dtype == "int8" and (self.device == "cuda" or self.parallel > 1),
        })  # fmt: skip
        return self


class PoolConfig(_Section):
    replicas: int = Field(1, ge=0, le=10000)
    num_cpus: float = Field(0.5, ge=0, description="CPUs that Ray reserves for one replica; for each of its devices with `parallel`")
    num_gpus: float = Field(0, ge=0, description="likewise")
    accelerator: str | None = Field(None, pattern=r"^[\w.-]+$", description="GPU type by Ray's label ray.io/accelerator-type, such as H100")
    port: int = Field(0, ge=0, le=65535, description="data-plane port of a replica; 0 picks a free one")


class SyntheticAcceptance(_Section):
    """Acceptance drawn instead of compared, to test policy at any rate: the text is then not the target's."""

    rate: float = Field(ge=0, le=1, description="probability that the first child of an accepted node is accepted")


class VerifierConfig(PoolConfig):
    replicas: int = Field(1, ge=1, le=10000)
    max_sequences: int = Field(32, ge=1, le=4096, description="sequences in one step")
    max_queue: int = Field(256, ge=0, description="requests waiting for KV slots before new ones are refused")
    step_tokens: int = Field(512, ge=16, description="tokens of one step, prompt chunks included; trees may add a quarter to a full one")
    drain_s: float = Field(20, ge=0, le=3600, description="a replica that is to go finishes for so long what no other can take over")
    step_limit_s: float = Field(60, gt=0, description="a longer step hangs: its requests go elsewhere, Serve replaces the replica")
    batch_table: tuple[tuple[int, int], ...] = Field(
        ((4, 4), (8, 3), (16, 2), (32, 1)), description="mode table: [sequences in a step up to, chain length]; none beyond the last row"
    )
    synthetic_acceptance: SyntheticAcceptance | None = Field(None, description="for tests of policy; needs an explicit flag to start")

    @model_validator(mode="after")
    def _batch_table_rises(self) -> "VerifierConfig":
        sequences = [most for most, _ in self.batch_table]
        refuse({
            "batch_table: numbers of sequences must rise, from 1 on": sequences != sorted({*sequences}) or min(sequences, default=1) < 1,
            "batch_table: chain lengths lie between 0 and 256": not all(0 <= length <= 256 for _, length in self.batch_table),
        })  # fmt: skip
        return self


SOURCE_KINDS = ("model", "trigram", "lookup", "suffix", "prediction", "forced")
"""What drafts nodes. A kind's place in this list is its number on the wire and in stored calibrations, so new ones go to the end."""

OWN, FIRST_OWN = "own", 16
"""The name that all stages of the user's own share, and the first of their numbers."""

STAGE_KINDS = tuple(kind for kind in SOURCE_KINDS if kind not in ("prediction", "forced"))
"""The built-in stages that a configuration may name. Predictions and grammars come with a request."""


class StageConfig(_Section):
    """One source of drafted nodes; several are merged into one tree. `module:Class` is an own stage: a subclass of
    `drafthouse.stages.stage.Stage`."""

    kind: str = Field(description=f"{', '.join(STAGE_KINDS)}, or module:Class")
    inner: "StageConfig | None" = Field(None, description="kind model only: the stage whose tree the draft model runs on in one pass")
    placement: Literal["drafter", "verifier"] = Field("drafter", description="verifier: in its process, for a stage without a model")
    nodes: int = Field(16, ge=1, le=256, description="most nodes it adds at once")
    table: pathlib.Path | None = Field(None, description="kind trigram: what build-trigram wrote; by default trigram.npz beside the draft")
    traffic_tokens: int = Field(
        0, ge=0, le=10_000_000, description="kind suffix: tokens of finished requests to remember, by cache key, half a kB each"
    )

    @field_validator("kind")
    @classmethod
    def _kind_is_known(cls, kind: str) -> str:
        if kind in STAGE_KINDS or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", kind):
            return kind
        near = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(kind, STAGE_KINDS, n=1))
        raise ValueError(f"must be {', '.join(STAGE_KINDS)}, or module:Class{near}")

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> "StageConfig":
        inner = self.inner
        refuse({
            "inner: only a stage of kind model has one": self.kind != "model" and inner is not None,
            "inner: must be a stage without a model, beside the draft model":
                inner is not None and (inner.kind == "model" or inner.placement != "drafter"),
            "placement: the draft model runs in the drafter": self.kind == "model" and self.placement == "verifier",
            "table: only a stage of kind trigram has one": self.kind != "trigram" and self.table is not None,
            "traffic_tokens: only a stage of kind suffix has them": self.kind != "suffix" and self.traffic_tokens > 0,
        })  # fmt: skip
        return self


class WindowConfig(_Section):
    """What the draft sees of a long context: its first tokens and its latest."""

    sinks: int = Field(4, ge=0, le=4096)
    recent: int = Field(ge=8, le=1 << 20)


class DrafterConfig(PoolConfig):
    max_sessions: int = Field(64, ge=1)
    prefill_tokens: int = Field(256, ge=16, description="prompt tokens in one draft pass; nodes of all sessions: at most as many")
    pass_limit_s: float = Field(60, gt=0, description="a longer draft pass hangs: its sessions go elsewhere, Serve replaces the replica")
    shared_noise: bool = Field(True, description="rank with the noise that the target adds; without it sampled drafts are hit less often")
    stages: tuple[StageConfig, ...] = Field(
        (StageConfig(kind="model"), StageConfig(kind="lookup", placement="verifier")),
        min_length=1,
        description="what drafts; merged into one tree",
    )
    window: WindowConfig | None = Field(None, description="the draft's KV keeps only this of the committed tokens; by default all")
    trace: pathlib.Path | None = Field(None, description="folder for acceptance traces, one file for each replica; none by default")

    @model_validator(mode="after")
    def _stages_differ(self) -> "DrafterConfig":
        kinds = [stage.kind for stage in self.stages]
        if len(set(kinds)) < len(kinds):
            raise ValueError("stages: two of them are of one kind")
        return self

    @property
    def uses_model(self) -> bool:
        return any(stage.kind == "model" for stage in self.stages)

    @property
    def step_tokens(self) -> int:
        """Tokens of one pass at most: of prompts, as many nodes, and guesses."""
        inner = sum(stage.inner.nodes for stage in self.stages if stage.inner is not None)
        return 2 * self.prefill_tokens + inner


MAX_BODY_BYTES = 4 << 20
"""Of one request: the ids of half a million tokens."""


class GatewayConfig(_Section):
    replicas: int = Field(1, ge=1, le=1000)
    num_cpus: float = Field(0.1, ge=0)
    max_ongoing_requests: int = Field(256, ge=1, description="of one gateway, each choice counted; more are refused with 429")
    patience_s: float = Field(30, gt=0, le=3600, description="a request whose verifier is gone waits so long for another")
    sampling_defaults: Literal["generation_config", "none"] = Field(
        "generation_config", description="for what a request leaves open; none: temperature 1 and no filters (docs/chat.md)"
    )
    drain_s: float = Field(60, ge=0, le=3600, description="a replica that is to go finishes its requests for so long")
    max_body_bytes: int = Field(MAX_BODY_BYTES, ge=1024, le=1 << 30, description="of one request, HTTP or gRPC; more is refused with 413")
    body_timeout_s: float = Field(30, gt=0, le=3600, description="a request whose body takes longer to arrive is refused with 408")
    keep_alive_s: float = Field(15, gt=0, le=3600, description="a stream that is silent this long sends a comment")
    write_timeout_s: float = Field(60, gt=0, le=3600, description="a client that takes nothing this long loses its request")
    cors_origins: list[str] = Field([], description="pages of these may call the HTTP API from browsers, such as https://chat.example.com")
    console: bool = Field(True, description="the page /console, whose files need no API key (docs/console.md)")
    limits: LimitsConfig = Field(LimitsConfig(), description="of one API key or address, for all gateways together (docs/limits.md)")
    urgency: UrgencyConfig = Field(UrgencyConfig(), description="priority and latency objective of requests (docs/pools.md)")


class ControllerConfig(_Section):
    num_cpus: float = Field(0.1, ge=0)
    heartbeat_s: float = Field(0.5, gt=0, le=60)
    expire_heartbeats: int = Field(5, ge=2, description="heartbeats missed before a replica is taken out")


class TreeConfig(_Section):
    max_nodes: int = Field(256, ge=1, le=1024)
    max_depth: int = Field(16, ge=1, le=256)
    width: int = Field(8, ge=1, le=64, description="children drafted below one node")
    grow_during_verification: bool = Field(True, description="draft on while the target verifies, where the commit may land")


class ServerConfig(_Section):
    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=1, le=65535)
    grpc_port: int = Field(9000, ge=1, le=65535)
    dashboard_port: int = Field(8265, ge=1, le=65535)


class ServingConfig(_Section):
    """Everything `drafthouse serve --config FILE` and `deployments.app:build_app` take."""

    model: str = Field("demo", min_length=1, description="model name in the API")
    target: ModelConfig = ModelConfig(path="demo:target")
    draft: ModelConfig | None = Field(ModelConfig(path="demo:draft", kv_tokens=32768), description="null: stages without a model alone")
    api: ApiConfig = ApiConfig()
    gateway: GatewayConfig = GatewayConfig()
    verifier: VerifierConfig = VerifierConfig()
    drafter: DrafterConfig = DrafterConfig()
    controller: ControllerConfig = ControllerConfig()
    tree: TreeConfig = TreeConfig()
    server: ServerConfig = ServerConfig()
    security: SecurityConfig = SecurityConfig()
    autoscaling: AutoscalingConfig = AutoscalingConfig()

    @model_validator(mode="before")
    @classmethod
    def _draft_null_is_enough(cls, data: Any) -> Any:
        """Without a draft model, what `drafter` does not say becomes what fits: the default stages that need no model, and no
        drafters where all stages run in the verifier."""
        if not isinstance(data, dict) or "draft" not in data or data["draft"] is not None:
            return data
        drafter = data.get("drafter", {})
        said = drafter.model_dump(exclude_unset=True) if isinstance(drafter, DrafterConfig) else drafter
        if not isinstance(said, dict):
            return data
        stages = said.get("stages", [stage.model_dump() for stage in DrafterConfig().stages if stage.kind != "model"])
        in_verifier = isinstance(stages, list | tuple) and all(_placement(stage) == "verifier" for stage in stages)
        return data | {"drafter": {"stages": stages} | ({"replicas": 0} if in_verifier else {}) | said}

    @model_validator(mode="after")
    def _stages_fit_the_pools(self) -> "ServingConfig":
        drafter = self.drafter
        refuse({
            "draft and drafter.stages: a draft model and a stage of kind model go together; draft: null for neither":
                drafter.uses_model != (self.draft is not None),
            "drafter.replicas: every stage runs in the verifier, so it must be 0":
                drafter.replicas > 0 and not any(stage.placement == "drafter" for stage in drafter.stages),
            **self.autoscaling.faults_at_start({pool: getattr(self, pool).replicas for pool in AutoscalingConfig.model_fields}),
        })  # fmt: skip
        return self


def _placement(stage: Any) -> Any:
    """Of a stage as a user wrote it, right or wrong."""
    return stage.placement if isinstance(stage, StageConfig) else stage.get("placement") if isinstance(stage, dict) else None
