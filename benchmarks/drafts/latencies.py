"""How long the passes of target and drafts take: as measured on this machine, or by curves.

Promises: a curve is that of the first draft; another draft's takes as much more as it has more parameters, since a pass of a small batch
reads all weights and does little else. Faults are ConfigErrors that name the option.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.drafts.bench import Timed
from benchmarks.drafts.variants import LoadedDraft
from drafthouse.config.serving import DrafterConfig, VerifierConfig
from drafthouse.engine.curve_files import load_curve
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.profiling import AT_START, measure
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve, LatencyModel

MEASURED = "measured"


def check_curves(names: Sequence[str], draft_curve: str) -> None:
    """Raises ConfigError for a curve that cannot be read, or that stands there twice."""
    if len(set(names)) < len(names):
        raise ConfigError(f"--target-curve {','.join(names)}: one of them stands there twice")
    for name in names:
        if name != MEASURED:
            _curve("--target-curve", name)
    _curve("--draft-curve", draft_curve)


def timed_on(name: str, target: LoadedModel, drafts: Sequence[LoadedDraft], draft_curve: str) -> list[Timed]:
    """Each draft with the target, on the target curve `name` or, where it is `measured`, as both run here."""
    if name == MEASURED:
        on_target = _measured(target, VerifierConfig().step_tokens)
        return [Timed(d, _measured(d.model, DrafterConfig().step_tokens), on_target, name) for d in drafts]
    curve, base = load_curve(name), load_curve(draft_curve)
    return [Timed(d, scaled(base, d.parameters / drafts[0].parameters), curve, name) for d in drafts]


def _measured(model: LoadedModel, largest: int) -> LatencyModel:
    """Anew, all under the same conditions: a cached profile may be of an hour in which the machine had other work."""
    return measure(model, largest, AT_START).latency()


def scaled(curve: Curve, factor: float) -> Curve:
    """`factor` times the cost of everything."""
    return replace(
        curve, name=f"{curve.name} x {factor:.2f}", base_ms=curve.base_ms * factor, per_token_ms=curve.per_token_ms * factor,
        per_kv_token_ms=curve.per_kv_token_ms * factor,
    )  # fmt: skip


def _curve(option: str, name: str) -> None:
    try:
        load_curve(name)
    except ConfigError as error:
        raise ConfigError(f"{option} {name}: {error}") from error
