"""What of the configuration may change while the application runs, and the settings that hold now.

Serve starts all replicas again when anything under `args` changes, and sets a pool back to its first size when its own options do. So
what may change while running stands beside `args`, as `user_config` of the controller alone, in the shape of the configuration; the
controller says it to all with its directives (docs/live-settings.md).

Promises: a key said there replaces what `args` has under it, whole. What is wrong with it is a ConfigError that names the key, and then the
last settings hold on. Taken back, `args` holds again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from drafthouse.config.faults import describe
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

logger = logging.getLogger(__name__)

LIVE: Mapping[str, frozenset[str]] = {
    "gateway": frozenset(
        {
            "patience_s",
            "max_body_bytes",
            "body_timeout_s",
            "keep_alive_s",
            "write_timeout_s",
            "cors_origins",
            "console",
            "limits",
            "urgency",
        }
    ),
    "verifier": frozenset({"max_queue", "step_limit_s", "batch_table"}),
    "drafter": frozenset({"max_sessions", "pass_limit_s"}),
    "controller": frozenset({"heartbeat_s", "expire_heartbeats"}),
    "tree": frozenset({"max_nodes", "max_depth", "width"}),
    "security": frozenset({"api_keys"}),
    "autoscaling": frozenset({"gateway", "verifier", "drafter"}),
}
"""Keys by section. A key belongs here when every replica that reads it takes it from `LiveSettings`."""


def over(args: ServingConfig, said: object) -> ServingConfig:
    """`args` with what is said over it. Raises ConfigError with a line for each key at fault."""
    if not isinstance(said, Mapping) or not all(isinstance(keys, Mapping) for keys in said.values()):
        raise ConfigError("user_config: must be sections of keys, such as gateway: {keep_alive_s: 10}")
    if fixed := [path for path in _paths(said) if not _is_live(path)]:
        raise ConfigError("\n".join(f"{path}: {_why_fixed(path)}" for path in fixed))
    if not said:
        return args
    merged = args.model_dump(mode="json")
    for section, keys in said.items():
        merged[section] = {**merged[section], **keys}
    for pool, bounds in said.get("autoscaling", {}).items():
        merged[pool]["replicas"] = _first_size(merged[pool]["replicas"], bounds)
    try:
        return ServingConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(error, ServingConfig))) from error


def _first_size(replicas: int, bounds: object) -> int:
    """Inside the bounds that load has now: what the pool began with says no more how many there are. A pool of none cannot be scaled."""
    if not isinstance(bounds, Mapping) or not replicas:
        return replicas
    least, most = bounds.get("min", 1), bounds.get("max", replicas)
    return min(max(replicas, least), most) if isinstance(least, int) and isinstance(most, int) else replicas


def names(said: str) -> list[str]:
    """The keys that are said, without their values."""
    return sorted(_paths(json.loads(said or "{}")))


def _paths(said: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    return [f"{section}.{key}" for section, keys in said.items() for key in keys]


def _is_live(path: str) -> bool:
    section, _, key = path.partition(".")
    return key in LIVE.get(section, ())


def _why_fixed(path: str) -> str:
    section, _, key = path.partition(".")
    field = ServingConfig.model_fields.get(section)
    known = getattr(field.annotation, "model_fields", {}) if field is not None else {}
    if key in known:
        return "cannot change while running; write it under args, which starts the replicas again"
    there = ", ".join(f"{section}.{key}" for section in ([section] if section in LIVE else LIVE) for key in sorted(LIVE[section]))
    return f"no such key; while running these can change: {there}"


class LiveSettings:
    """One replica's: `config` holds now, `said` is what makes it differ from what the replica was started with."""

    def __init__(self, args: ServingConfig, apply: Callable[[ServingConfig], None]) -> None:
        """`apply` makes a configuration hold, or raises ConfigError and changes nothing."""
        self.config, self.said, self.fault = args, "", ""
        self._args, self._apply, self._heard = args, apply, ""

    @property
    def digest(self) -> str:
        """Of what is said; empty where nothing is. Values may be hashes of keys, which reports need not repeat."""
        return hashlib.sha256(self.said.encode()).hexdigest()[:8] if self.said else ""

    def reconfigure(self, said: object) -> None:
        """As Serve hands it over. Raises ConfigError; then the last settings hold on."""
        config = over(self._args, said)
        self._apply(config)
        self.config, self.said, self.fault = config, json.dumps(said, sort_keys=True) if said else "", ""

    def follow(self, said: str) -> None:
        """What the controller says, each time that it says something else, and again while it cannot be done: a file may come later.
        What cannot be done is logged once, and stands in `fault`."""
        if said == self._heard and not self.fault:
            return
        before, self._heard = (self._heard, self.fault), said
        try:
            self.reconfigure(json.loads(said or "{}"))
        except ConfigError as error:
            self.fault = str(error)
            if before != (said, self.fault):
                logger.error("these settings cannot be used here, the last ones hold on: %s", error)
        else:
            logger.info("settings that differ from args: %s", ", ".join(names(said)) or "none")
