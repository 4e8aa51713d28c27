"""From the configuration to stages: what is built once for a process, and makes one stage for each session.

Promises: whatever is wrong is a ConfigError that names the key.
"""

import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import FIRST_OWN, OWN, SOURCE_KINDS, ModelConfig, StageConfig
from drafthouse.errors import ConfigError
from drafthouse.policy.stage_breaker import StageBreaker
from drafthouse.stages import trigram_table
from drafthouse.stages.forced import Chain, ForcedStage
from drafthouse.stages.lookup import LookupStage
from drafthouse.stages.prediction import PredictionStage
from drafthouse.stages.stage import SessionFacts, Stage
from drafthouse.stages.stage_sandbox import SandboxedStage, Worker
from drafthouse.stages.suffix import SuffixStage, Traffic
from drafthouse.stages.trigram import TrigramStage

SOURCE_OF = {kind: number for number, kind in enumerate(SOURCE_KINDS)}
"""The number of each built-in source of nodes: nodes are calibrated by it."""

MODEL, PREDICTION, FORCED = SOURCE_OF["model"], SOURCE_OF["prediction"], SOURCE_OF["forced"]

PREDICTION_NODES = 32
"""That a predicted output adds at once: it is long where it is right at all."""

FORCED_NODES = 64
"""That a grammar adds at once: they are all accepted, but each takes its row of a step."""

TABLE_FILE = "trigram.npz"
"""In the draft's folder."""


def by_name(counts: Mapping[int, int]) -> dict[str, float]:
    """Numbers of nodes by the names of their sources; own stages are all `own`."""
    names = {number: name for name, number in SOURCE_OF.items()}
    named: dict[str, float] = {}
    for source, count in list(counts.items()):
        name = names.get(source, OWN)
        named[name] = named.get(name, 0.0) + count
    return named


@dataclass(frozen=True, slots=True)
class StageMaker:
    """One stage without a model; `nodes` is the most that it adds at once. Calls of own stages run on `worker`;
    `breaker` says which sessions have the stage. `certain`: its tokens are never refused."""

    name: str
    source: int
    nodes: int
    make: Callable[[SessionFacts], Stage]
    worker: Worker | None = None
    breaker: StageBreaker = field(default_factory=StageBreaker)
    certain: bool = False


def prediction_maker() -> StageMaker:
    """Of the stage of a request that brings a prediction."""
    return StageMaker("prediction", PREDICTION, PREDICTION_NODES, PredictionStage)


def forced_maker(chain: Chain) -> StageMaker:
    """Of the stage of a request that brings a grammar."""
    return StageMaker("forced", FORCED, FORCED_NODES, lambda facts: ForcedStage(facts, chain), certain=True)


def placed(
    stages: Sequence[StageConfig], placement: str, draft: ModelConfig | None, vocab_size: int, shared_noise: bool = True
) -> list[StageMaker]:
    """Makers of the stages without a model that run at this placement, in order; `vocab_size` is the target's. Raises ConfigError."""
    numbered = [(f"drafter.stages.{i}", config) for i, config in enumerate(stages)]
    return [
        _maker(key, config, source_of(stages, config), draft, vocab_size, shared_noise)
        for key, config in numbered
        if config.kind != "model" and config.placement == placement
    ]


def inner_of(stages: Sequence[StageConfig], draft: ModelConfig | None, vocab_size: int, shared_noise: bool = True) -> StageMaker | None:
    """The stage inside the model stage, if there is one. Raises ConfigError."""
    for i, config in enumerate(stages):
        if config.inner is not None:
            return _maker(f"drafter.stages.{i}.inner", config.inner, source_of(stages, config.inner), draft, vocab_size, shared_noise)
    return None


def source_of(stages: Sequence[StageConfig], config: StageConfig) -> int:
    """Own stages are numbered as they first come in the configuration, inner ones included."""
    own = [each.kind for stage in stages for each in (stage, stage.inner) if each is not None and each.kind not in SOURCE_OF]
    return SOURCE_OF[config.kind] if config.kind in SOURCE_OF else FIRST_OWN + list(dict.fromkeys(own)).index(config.kind)


def _maker(key: str, config: StageConfig, source: int, draft: ModelConfig | None, vocab_size: int, shared_noise: bool) -> StageMaker:
    if config.kind in SOURCE_OF:
        return StageMaker(config.kind, source, config.nodes, _built_in(key, config, draft, vocab_size, shared_noise))
    own, worker = _own(key, config.kind), Worker()
    return StageMaker(config.kind, source, config.nodes, lambda facts: SandboxedStage(facts, own, worker), worker)


def _built_in(
    key: str, config: StageConfig, draft: ModelConfig | None, vocab_size: int, shared_noise: bool
) -> Callable[[SessionFacts], Stage]:
    match config.kind:
        case "lookup":
            return LookupStage
        case "suffix":
            traffic = Traffic(config.traffic_tokens)
            return lambda facts: SuffixStage(facts, traffic)
        case "trigram":
            table = _table(key, config.table, draft, vocab_size)
            return lambda facts: TrigramStage(facts, table, shared_noise)
    raise AssertionError(f"{config.kind} is a known kind, but nothing here makes it")


def table_path(key: str, table: pathlib.Path | None, draft: ModelConfig | None) -> pathlib.Path:
    """Raises ConfigError when there is no such file."""
    if table is None and draft is None:
        raise ConfigError(f"{key}.table: there is no draft model in whose folder to look for {TABLE_FILE}, so name the file")
    assert table is not None or draft is not None
    path = table if table is not None else pathlib.Path(model_path(draft.path)) / TABLE_FILE  # type: ignore[union-attr]
    if not path.is_file():
        raise ConfigError(f"{key}.table: {path}: no such file; `drafthouse build-trigram` makes it")
    return path


def _table(key: str, table: pathlib.Path | None, draft: ModelConfig | None, vocab_size: int) -> trigram_table.TrigramTable:
    try:
        return trigram_table.load(table_path(key, table, draft), vocab_size)
    except ConfigError as error:
        raise error if str(error).startswith(key) else ConfigError(f"{key}.table: {error}") from error


def _own(key: str, kind: str) -> type[Stage]:
    """The class behind `module:Class`."""
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}.kind: {kind}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(f"{key}.kind: {kind}: not a subclass of drafthouse.stages.stage.Stage")
    return found


def check_stages(stages: Sequence[StageConfig], draft: ModelConfig | None, vocab_size: int) -> None:
    """What can be known before anything is deployed: files, what they hold, and import paths. Raises ConfigError."""
    for placement in ("drafter", "verifier"):
        placed(stages, placement, draft, vocab_size)
    inner_of(stages, draft, vocab_size)
