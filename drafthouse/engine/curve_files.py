"""Latency curves in JSON files: those of the package, in `curves/`, and the user's own."""

import json
import pathlib

from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve

CURVES = pathlib.Path(__file__).parent / "curves"


def load_curve(name: str) -> Curve:
    """A curve by its name in the package, or from a JSON file. Raises ConfigError naming it."""
    path = CURVES / f"{name}.json" if "/" not in name and not name.endswith(".json") else pathlib.Path(name)
    try:
        curve = Curve(**json.loads(path.read_text(encoding="utf-8")))
        good = curve.base_ms > 0 and curve.per_token_ms >= 0 and curve.per_kv_token_ms >= 0
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in CURVES.glob("*.json")))
        raise ConfigError(f"paced.curve: no curve {name!r}; the package has {known}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"paced.curve: {path} is not a curve: {error}") from error
    if not good:
        raise ConfigError(f"paced.curve: {path} has a negative time")
    return curve
