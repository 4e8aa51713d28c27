"""Reads a configuration file.

Promises: whatever is wrong with it is a ConfigError that names the file and every key at fault. A file that says nothing is refused,
since it would serve the demo pair in place of what its author meant.
"""

import pathlib
from typing import Any

import yaml
from pydantic import ValidationError

from drafthouse.config.faults import describe
from drafthouse.config.live import over
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

CONTROLLER = "ControllerReplica"
"""The deployment whose entry holds what may change while running."""

SHAPE = "a mapping of keys, such as `target: {path: FOLDER}`"


def load_config(path: pathlib.Path | None) -> ServingConfig:
    """Reads a YAML file (None: all defaults). Raises ConfigError naming the file and each key at fault.

    A Ray Serve config file is accepted too: the arguments of its one application are taken, with what its entry for the controller says
    over them (`drafthouse.config.live`).
    """
    if path is None:
        return ServingConfig()
    data, prefix, settings = _read(path), "", {}
    if data is None:
        raise ConfigError(f"{path}: the file is empty; it must be {SHAPE}. The demo pair is served without --config")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the top level is {_kind(data)}; it must be {SHAPE}")
    if "applications" in data:
        application = _application(path, data["applications"])
        data, prefix, settings = _arguments(path, application), "applications.0.args.", settings_of(application)
    try:
        config = ServingConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {prefix}{line}" for line in describe(error, ServingConfig))) from error
    try:
        return over(config, settings)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: user_config of {CONTROLLER}: {line}" for line in str(error).splitlines())) from error


def _read(path: pathlib.Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ConfigError(f"{path}: not YAML: {place}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error


def _application(path: pathlib.Path, applications: Any) -> dict[Any, Any]:
    if not (isinstance(applications, list) and len(applications) == 1 and isinstance(applications[0], dict)):
        raise ConfigError(f"{path}: applications must be a list of one application")
    return applications[0]


def settings_of(application: dict[Any, Any]) -> Any:
    """What the controller's entry says; without one, nothing."""
    entries = application.get("deployments") or []
    mine = [entry for entry in entries if isinstance(entry, dict) and entry.get("name") == CONTROLLER]
    return mine[0].get("user_config") or {} if mine else {}


def _arguments(path: pathlib.Path, application: dict[Any, Any]) -> dict[Any, Any]:
    """Of a Ray Serve config's one application; none at all are the defaults."""
    arguments = application.get("args")
    if not isinstance(arguments, dict | None):
        raise ConfigError(f"{path}: applications.0.args is {_kind(arguments)}; it must be {SHAPE}")
    return arguments or {}


def _kind(data: Any) -> str:
    return "a list" if isinstance(data, list) else "a single value"


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)
