"""Checks before anything is deployed: of model folders, vocabularies, stages.

Promises: checks that do not depend on each other are told together, a line for each fault, which names the config key or
the file. What needs neither torch nor transformers comes first. Nothing here starts a process, or loads weights but those of a
GGUF file that is not converted yet.
"""

import pathlib
from collections.abc import Mapping

from drafthouse.checkpoints.draft_folder import DraftFolder
from drafthouse.checkpoints.model_folder import check_model
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig, PoolConfig, ServingConfig
from drafthouse.engine.model_limits import ModelLimits, read_limits
from drafthouse.engine.vocabulary import vocabulary_digest
from drafthouse.errors import ConfigError, Faults, ModelError
from drafthouse.policy.vocabularies import agree

ALLOW_SYNTHETIC = "DRAFTHOUSE_ALLOW_SYNTHETIC_ACCEPTANCE"
"""The explicit flag without which nothing starts that draws acceptance instead of comparing it: a config alone never does."""


def check_models(config: ServingConfig) -> None:
    """All that can be known of models and stages before they are loaded. Raises ConfigError or ModelError."""
    check_folders(config)
    check_contents(config)


def check_contents(config: ServingConfig) -> None:
    """Models in folders that passed `check_folders` can be served and share one vocabulary, and the stages can be built.

    Raises ConfigError or ModelError. Imports torch and transformers.
    """
    faults, limits = Faults(), {}
    for role, model, pool in _models(config):
        with faults.gather(f"{role}.path: "):
            limits[role] = read_limits(model.path, model.trust_remote_code)
        if role in limits:
            with faults.gather():
                check_parallel(role, model, limits[role], pool)
    faults.end()
    from deployments.gateway.model_metadata import load_metadata
    from deployments.gateway.text_codec import load_codec
    from drafthouse.stages.build import check_stages

    with faults.gather("target.path: "):
        load_metadata(config.target, load_codec(config.target).stop_token, config.gateway.sampling_defaults)
    with faults.gather():
        check_stages(config.drafter.stages, config.draft, limits["target"].vocab_size)
    with faults.gather():
        check_vocabularies(config)
    with faults.gather():
        _check_states(config, limits)
    faults.end()


def check_folders(config: ServingConfig) -> None:
    """What the models' files tell without being loaded, and that a model on a GPU is given one. Raises ConfigError or ModelError."""
    faults = Faults()
    for role, model, pool in _models(config):
        with faults.gather(f"{role}.path: "):
            check_model(model, tokenizer=role == "target" or not _one_folder(config), target=role == "target")
        if model.device == "cuda" and not pool.num_gpus:
            with faults.gather():
                raise ConfigError(
                    f"{_pool_of(role)}.num_gpus: 0; {role}.device is cuda, so it must be above 0, or Ray gives replicas no GPU"
                )
    faults.end()
    _check_tokenizer_files(config)


def _check_tokenizer_files(config: ServingConfig) -> None:
    """No token id that both tokenizer.json files have stands for two tokens; what one lacks, its other files may add. Raises ModelError."""
    if config.draft is None or _one_folder(config):
        return
    files = [pathlib.Path(model_path(model.path)) / "tokenizer.json" for model in (config.target, config.draft)]
    if not all(file.is_file() for file in files):
        return
    from tokenizers import Tokenizer

    by_id = [{i: token for token, i in Tokenizer.from_file(str(file)).get_vocab().items()} for file in files]
    shared = by_id[0].keys() & by_id[1].keys()
    _refuse_difference(config, *({tokens[i]: i for i in shared} for tokens in by_id))


def check_vocabularies(config: ServingConfig) -> None:
    """Target and draft read every token id alike. Their output layers may be padded differently. Raises ConfigError or ModelError."""
    if (record := _distilled(config)) is not None:
        _check_distilled(config, record)
    elif config.draft is not None and not _one_folder(config):
        _refuse_difference(config, _vocabulary("target", config.target), _vocabulary("draft", config.draft))


def _distilled(config: ServingConfig) -> DraftFolder | None:
    """None where the draft is of another kind, or there is none."""
    return DraftFolder.read(pathlib.Path(model_path(config.draft.path))) if config.draft is not None else None


def _check_distilled(config: ServingConfig, draft: DraftFolder) -> None:
    """It has no tokenizer of its own, only the digest of the one that it was distilled with."""
    target = config.target
    if not agree(draft.vocabulary, vocabulary_digest(model_path(target.path), target.trust_remote_code)):
        raise ModelError(
            f"draft.path and target.path have different vocabularies, so no draft token could be trusted: the draft was distilled for "
            f"{draft.target}, and the target is {target.path}"
        )


def _check_states(config: ServingConfig, limits: Mapping[str, ModelLimits]) -> None:
    """A draft that reads hidden states reads this target's. Raises ModelError."""
    record = _distilled(config)
    sizes = {role: each.hidden_size for role, each in limits.items()}
    if record is not None and record.hidden and sizes["draft"] != sizes["target"]:
        raise ModelError(
            f"draft.path: this draft reads hidden states of {sizes['draft']} numbers, and target.path has {sizes['target']} (hidden_size): "
            f"it was distilled for {record.target}; distill one for this target"
        )


def _refuse_difference(config: ServingConfig, target: Mapping[str, int], draft: Mapping[str, int]) -> None:
    if (difference := first_difference(target, draft)) and config.draft is not None:
        raise ModelError(
            f"draft.path and target.path have different vocabularies, so no draft token could be trusted: {difference} "
            f"(target: {config.target.path}, draft: {config.draft.path})"
        )


def _models(config: ServingConfig) -> list[tuple[str, ModelConfig, PoolConfig]]:
    """The models that replicas load, with their sections' names and their pools."""
    draft = [("draft", config.draft, config.drafter)] if config.draft is not None else []
    return [("target", config.target, config.verifier), *draft]


def _pool_of(role: str) -> str:
    return "verifier" if role == "target" else "drafter"


def _one_folder(config: ServingConfig) -> bool:
    return config.draft is not None and config.target.path == config.draft.path


def check_parallel(role: str, model: ModelConfig, limits: ModelLimits, pool: PoolConfig) -> None:
    """The ranks share the heads evenly, and on GPUs each has a whole one. Raises ConfigError."""
    if model.parallel == 1:
        return
    from drafthouse.engine.fit import check_heads

    try:
        check_heads(limits, model.parallel)
    except ConfigError as error:
        raise ConfigError(f"{role}.{error}") from error
    if model.device == "cuda" and pool.num_gpus != 1:
        raise ConfigError(
            f"{_pool_of(role)}.num_gpus: {pool.num_gpus:g}; with {role}.parallel {model.parallel} it is each rank's and must be 1"
        )


def _vocabulary(role: str, model: ModelConfig) -> Mapping[str, int]:
    from deployments.gateway.text_codec import load_tokenizer

    try:
        vocabulary: Mapping[str, int] = load_tokenizer(model).get_vocab()
    except ModelError as error:
        raise ModelError(f"{role}.path: {error}") from error
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


def check_synthetic(config: ServingConfig, environment: Mapping[str, str]) -> None:
    """Raises ConfigError where the config asks for synthetic acceptance and the environment does not allow it."""
    if config.verifier.synthetic_acceptance is not None and environment.get(ALLOW_SYNTHETIC) != "1":
        raise ConfigError(
            "verifier.synthetic_acceptance: texts would not be the target's; this is for tests of policy only, and starts only with "
            f"`drafthouse serve --allow-synthetic-acceptance`, or with {ALLOW_SYNTHETIC}=1 in the environment of `serve deploy`"
        )
