"""Cross-checks before anything is deployed: model folders, vocabularies, stages, ports.

Promises: each check passes silently or raises a typed error whose message names the config key,
the file or the port at fault. Nothing here starts a process, or loads weights but those of a GGUF file that is not converted yet.
"""

import socket
from collections.abc import Mapping

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig, PoolConfig, ServerConfig, ServingConfig
from drafthouse.engine.model_limits import ModelLimits, read_limits
from drafthouse.errors import ConfigError, DrafthouseError, ModelError
from drafthouse.stages.build import check_stages

ALLOW_SYNTHETIC = "DRAFTHOUSE_ALLOW_SYNTHETIC_ACCEPTANCE"
"""The explicit flag without which nothing starts that draws acceptance instead of comparing it: a config alone never does."""


def check_models(config: ServingConfig) -> None:
    """The models are there and share one vocabulary, and the stages can be built. Raises ConfigError or ModelError."""
    limits = {}
    for role, model in (("target", config.target), ("draft", config.draft)):
        if model is None:
            continue
        try:
            limits[role] = read_limits(model.path)
        except DrafthouseError as error:
            raise type(error)(f"{role}.path: {error}") from error
        if model.parallel > 1:
            check_parallel(role, model, limits[role], config.verifier if role == "target" else config.drafter)
    check_stages(config.drafter.stages, config.draft, limits["target"].vocab_size)
    if config.draft is None or model_path(config.target.path) == model_path(config.draft.path):
        return
    target, draft = _vocabulary("target", config.target), _vocabulary("draft", config.draft)
    if difference := first_difference(target, draft):
        raise ModelError(
            f"draft.path and target.path have different vocabularies, so no draft token could be trusted: {difference} "
            f"(target: {config.target.path}, draft: {config.draft.path})"
        )


def check_parallel(role: str, model: ModelConfig, limits: ModelLimits, pool: PoolConfig) -> None:
    """The ranks share the heads evenly, and on GPUs each has a whole one. Raises ConfigError."""
    from drafthouse.engine.fit import check_heads

    try:
        check_heads(limits, model.parallel)
    except ConfigError as error:
        raise ConfigError(f"{role}.{error}") from error
    if model.device == "cuda" and pool.num_gpus != 1:
        key = "verifier" if role == "target" else "drafter"
        raise ConfigError(f"{key}.num_gpus: {pool.num_gpus:g}; with {role}.parallel {model.parallel} it is each rank's and must be 1")


def _vocabulary(role: str, model: ModelConfig) -> Mapping[str, int]:
    from transformers import AutoTokenizer

    try:
        vocabulary: Mapping[str, int] = AutoTokenizer.from_pretrained(model_path(model.path)).get_vocab()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{role}.path: {model.path}: no tokenizer could be read: {str(error).splitlines()[0]}") from error
    return vocabulary


def first_difference(target: Mapping[str, int], draft: Mapping[str, int]) -> str | None:
    """The lowest id that the two vocabularies read differently, in words; None when they are equal."""
    if target == draft:
        return None
    by_id = [{i: token for token, i in vocabulary.items()} for vocabulary in (target, draft)]
    for i in sorted(by_id[0].keys() | by_id[1].keys()):
        of_target, of_draft = by_id[0].get(i), by_id[1].get(i)
        if of_target != of_draft:
            return f"id {i} is {_shown(of_target)} in the target and {_shown(of_draft)} in the draft"
    return f"the target names {len(target)} tokens and the draft {len(draft)}, with some ids under two names"


def _shown(token: str | None) -> str:
    return "missing" if token is None else repr(token)


def check_ports(config: ServingConfig) -> None:
    """All ports of a server on this machine are free and distinct. Raises ConfigError naming the key and the port."""
    server = config.server
    ports = {"server.http_port": server.http_port, "server.grpc_port": server.grpc_port, "server.dashboard_port": server.dashboard_port}
    for key, pool in (("verifier", config.verifier), ("drafter", config.drafter)):
        if pool.port:
            _check_pool_port(key, pool, config.autoscaling.most(key, pool.replicas))
            ports[f"{key}.port"] = pool.port
    taken: dict[int, str] = {}
    for key, port in ports.items():
        if port in taken:
            raise ConfigError(f"{key}: {taken[port]} has port {port} too")
        taken[port] = key
        _check_free(key, port, server)


def _check_pool_port(key: str, pool: PoolConfig, replicas: int) -> None:
    if replicas > 1:
        raise ConfigError(f"{key}.port: {replicas} replicas on one machine cannot share port {pool.port}; 0 gives each a free one")


def _check_free(key: str, port: int, server: ServerConfig) -> None:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: without it, connections that a former server closed would count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, port))
        except OSError as error:
            raise ConfigError(
                f"{key}: port {port} on {server.host} cannot be used: {error.strerror}. "
                "`drafthouse stop` ends a server started here; or choose another port in the config"
            ) from error


def check_synthetic(config: ServingConfig, environment: Mapping[str, str]) -> None:
    """Raises ConfigError where the config asks for synthetic acceptance and the environment does not allow it."""
    if config.verifier.synthetic_acceptance is not None and environment.get(ALLOW_SYNTHETIC) != "1":
        raise ConfigError(
            "verifier.synthetic_acceptance: texts would not be the target's; this is for tests of policy only, and starts only with "
            f"`drafthouse serve --allow-synthetic-acceptance`, or with {ALLOW_SYNTHETIC}=1 in the environment of `serve deploy`"
        )
