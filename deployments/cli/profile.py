"""`drafthouse profile`: how long steps of the target and passes of the draft take on this machine.

Promises: what it measures is what replicas with the same configuration on the same device will
read at their start. A paced model has its curve given; nothing is measured for it.
"""

import pathlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.cli.options import Json, check_writable, errors, machine, write_json
from drafthouse.checkpoints.model_folder import check_model
from drafthouse.config.config_file import load_config
from drafthouse.config.serving import ModelConfig
from drafthouse.errors import ConfigError, Faults

if TYPE_CHECKING:
    from drafthouse.engine.latency_cache import LatencyCache, Profile, ProfileKey
    from drafthouse.engine.loader import LoadedModel


class Role(StrEnum):
    target = "target"
    draft = "draft"
    both = "both"


def profile(
    config: Annotated[pathlib.Path | None, typer.Option(help="The YAML file that will be served; by default the demo pair.")] = None,
    role: Annotated[Role, typer.Option(help="Which model to profile.")] = Role.both,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again, also where a profile is in the cache.")] = False,
    json_file: Json = None,
) -> None:
    """Measure the latency curves that goodput decisions rest on, and keep them for the replicas' start."""
    console, notes = Console(), Console(stderr=True)
    with errors():
        check_writable(json_file)
        serving = load_config(config)
        models = {Role.target: (serving.target, serving.verifier.step_tokens)}
        if serving.draft is not None:
            models[Role.draft] = serving.draft, serving.drafter.step_tokens
        elif role is Role.draft:
            raise ConfigError("draft: it is null, so there is no draft model to profile")
        wanted = [r for r in models if role in (r, Role.both)]
        faults = Faults()
        for r in wanted:
            if models[r][0].paced is None:
                with faults.gather(f"{r.value}.path: "):
                    check_model(models[r][0])
        faults.end()
        report = {"machine": machine(), "models": {r.value: _one(r, *models[r], fresh, console, notes) for r in wanted}}
        write_json(json_file, report)


def _one(role: Role, config: ModelConfig, largest: int, fresh: bool, console: Console, notes: Console) -> dict[str, Any]:
    """Prints one model's curve; returns its part of the report."""
    if config.paced is not None:
        return _given(role, config, console)
    import transformers

    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.engine.latency_cache import LatencyCache, key_of
    from drafthouse.engine.load_stages import LoadStages
    from drafthouse.engine.parallel.replica import load_replica

    transformers.utils.logging.disable_progress_bar()
    model_path(config.path)  # a GGUF file is converted here, under a progress bar of its own
    with notes.status(f"loading {config.path}") as status:
        model = load_replica(config, stages=LoadStages(lambda line: status.update(f"loading {config.path}: {line}")))
    cache, key = LatencyCache(), key_of(model, largest)
    found = None if fresh else cache.read(key)
    profile = found or _measure(role, model, key, cache, notes)
    model.runner.close()
    origin = "from the cache (--fresh measures again)" if found else "measured"
    _print(
        console,
        f"{role.value} {config.path} on {key.device}, {key.dtype}, {key.threads} threads, parallel {key.parallel}: {origin}",
        profile,
    )
    console.print(cache.path(key), highlight=False, soft_wrap=True)
    return {"path": config.path, "cached": found is not None, "file": str(cache.path(key)), "key": key.model_dump()} | {
        "knots": [{"tokens": n, "ms": 1e3 * seconds} for n, seconds in profile.knots],
        "us_per_kv_token": 1e6 * profile.per_kv_token,
        "fit_error": profile.fit_error._asdict(),
    }


def _given(role: Role, config: ModelConfig, console: Console) -> dict[str, Any]:
    from drafthouse.engine.curve_files import load_curve

    assert config.paced is not None
    curve, scale = load_curve(config.paced.curve), config.paced.time_scale
    console.print(
        f"{role.value} {config.path} is paced by {curve.name}: its curve is given, nothing to measure.\n"
        f"  {curve.base_ms:g} ms + {curve.per_token_ms:g} ms per token + {curve.per_kv_token_ms:g} ms per KV token, "
        f"times {scale:g} ({curve.source})",
        highlight=False,
        soft_wrap=True,
    )
    terms = {"base_ms": curve.base_ms, "per_token_ms": curve.per_token_ms, "per_kv_token_ms": curve.per_kv_token_ms}
    return {"path": config.path, "paced": curve.name, "time_scale": scale} | terms


def _measure(role: Role, model: "LoadedModel", key: "ProfileKey", cache: "LatencyCache", notes: Console) -> "Profile":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from drafthouse.engine.profiling import THOROUGH, measure

    with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=notes) as bar:
        task = bar.add_task(f"profiling the {role.value}", total=1.0)
        profile = measure(model, key.largest, THOROUGH, lambda share: bar.update(task, completed=share))
    cache.write(key, profile)
    return profile


def _print(console: Console, title: str, profile: "Profile") -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("tokens", "ms", "ms per token"):
        table.add_column(heading, justify="right")
    for tokens, seconds in profile.knots:
        table.add_row(str(tokens), f"{1e3 * seconds:.2f}", f"{1e3 * seconds / tokens:.3f}")
    console.print(table)
    console.print(
        f"{1e6 * profile.per_kv_token:.2f} us more per cached token; error at points held out: "
        f"median {profile.fit_error.median:.1%}, 90th percentile {profile.fit_error.p90:.1%}",
        highlight=False,
        soft_wrap=True,
    )
